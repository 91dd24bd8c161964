"""The noise of minibatches: the covariance of gradients over samples, and what sampling makes of it.

With g_s the gradient of sample s of n, ḡ their mean, and a minibatch of B different samples (in every epoch a
permutation is cut into minibatches, `bbdfield.model.boundary`),

    S = Σ_s (g_s − ḡ)(g_s − ḡ)ᵀ / (n − 1)
    Cov(G) = S (1/B − 1/n),        Cov(G, G') = −S/n for two minibatches of one epoch

exactly: a minibatch of all samples has no noise, and a full epoch of minibatches none in its sum (where B divides n).
The first is the usual C/B times (n − B)/(n − 1) if C = S (n − 1)/n is the covariance over the n samples. With
replacement Cov(G) = C/B, and different minibatches are independent.

The S of any m of the n samples, drawn without looking, is an unbiased estimate of it. Its trace and its eigenvalues
follow from the m × m Gram matrix of gradients, so that the number of parameters does not matter. tr S² of the m samples
is not unbiased; with averages over different samples i, j, k, l

    a = ⟨((g_i − g_j)·(g_k − g_l))²⟩,     b = ⟨((g_i − g_j)·(g_i − g_k))²⟩,     c = ⟨|g_i − g_j|⁴⟩
    tr S² = [(n−2)(n−3) a + 4 (n−2) b + 2 c] / (4 n (n−1))

for any number of samples, and the averages over m of n samples are unbiased for those over all n.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bbdfield.errors import InputError

Array = npt.NDArray[np.float64]


#: a trace of so little of the largest |g|² is rounding
_ROUNDING = 1e-14


@dataclass(frozen=True)
class GradientNoise:
    """What the Gram matrix of m samples' gradients says of S.

    trace : tr S, unbiased.   trace_of_square : tr S², unbiased.   parameters : how many, d.
    eigenvalues : of the covariance of these m samples, at most m − 1 of them, largest first. With fewer samples than
    directions the leading ones are too large and the others missing, while both traces are right on average.
    population : n, of which the m samples were drawn without replacement; None for independent samples.
    """

    trace: float
    trace_of_square: float
    eigenvalues: Array
    samples: int
    parameters: int
    population: int | None = None

    @property
    def effective_rank(self) -> float:
        """(tr S)²/tr S²: d for isotropic noise, 1 for noise in one direction; NaN without noise.

        At most d and n − 1, whatever the estimates of the traces say. Their ratio is not unbiased, but exact for m = n.
        """
        if not self.trace_of_square > 0:
            return float("nan")
        most = self.parameters if self.population is None else min(self.parameters, self.population - 1)
        return min(self.trace**2 / self.trace_of_square, float(most))


def sampling_factor(batch: int, count: int, *, replacement: bool = False) -> float:
    """Cov(G)/S of a minibatch of `batch` out of `count` samples: 1/B − 1/n, or (1 − 1/n)/B with replacement.

    Raises
    ------
    InputError
        for a minibatch without samples or, without replacement, of more than there are.
    """
    if batch < 1 or count < 1 or (batch > count and not replacement):
        raise InputError(f"batch = {batch}: needs a whole number from 1 to the {count} samples there are")
    return (1 - 1 / count) / batch if replacement else 1 / batch - 1 / count


def epoch_factor(count: int) -> float:
    """Cov(G, G')/S of two minibatches of one epoch: −1/n."""
    return -1 / count


def covariance(gradients: Array) -> Array:
    """S (P, P) of gradients (n, P), for networks small enough for it.

    Raises
    ------
    InputError
        for fewer than two samples.
    """
    _check_samples(len(gradients), 2)
    centred = gradients - gradients.mean(axis=0)
    result: Array = centred.T @ centred / (len(gradients) - 1)
    return result


def noise_of(gradients: Array, population: int | None = None) -> GradientNoise:
    """The noise of gradients (m, P) by their Gram matrix; see `noise_of_gram`."""
    return noise_of_gram(gradients @ gradients.T, gradients.shape[1], population)


def gram(parts: Iterable[tuple[str, Array]], rates: dict[str, float]) -> tuple[Array, int]:
    """Σ_g η_g g_s·g_s' over the parameters that have a rate, (m, m), and their number.

    These are the products of gradients in the coordinates u = θ/√η_g, in which all groups have one rate.

    Parameters
    ----------
    parts : (group, gradients (m, numbers)), any number of parts per group.
    rates : η of every group; groups of rate 0 do not move and do not count.
    """
    total: Any = 0.0
    parameters = 0
    for group, part in parts:
        if rates[group]:
            total = total + rates[group] * (part @ part.T)
            parameters += part.shape[1]
    return np.asarray(total), parameters


def noise_of_gram(products: Array, parameters: int, population: int | None = None) -> GradientNoise:
    """The noise behind m gradients, from their products g_s·g_s' (m, m), not centred.

    With K the centred products, q = Σ_s K_ss², the averages a, b, c of the module's formula for tr S² are

        m(m−1) c = 2m q + 2 (tr K)² + 4 |K|²,        m(m−1)(m−2) b = m² q + 3m |K|² − m(m−1) c

    and a such that the formula with m in the place of n gives tr S² of the m samples, |K|²/(m−1)². For n → ∞ the
    estimate is a/4, that of Himeno and Yamada, J. Multivariate Anal. 130 (2014) 27.

    Parameters
    ----------
    population : n, of which the m samples were drawn without replacement: tr S² is that of all n, exactly for m = n.
        None: independent samples, of a distribution with covariance S.

    Raises
    ------
    InputError
        for fewer than four samples, or more than the population.
    """
    m = len(products)
    _check_samples(m, 4)
    if population is not None and m > population:
        raise InputError(f"gradient noise: has {m} samples, more than the {population} they are drawn from")
    largest = float(np.max(np.diag(products), initial=0.0))
    row = products.mean(axis=0)
    centred = products - row - row[:, None] + row.mean()
    values = np.linalg.eigvalsh((centred + centred.T) / 2)[::-1][: m - 1] / (m - 1)
    trace = float(np.trace(centred)) / (m - 1)
    if trace <= _ROUNDING * largest:  # all gradients are equal
        return GradientNoise(0.0, 0.0, np.zeros(m - 1), m, parameters, population)
    square, fourth = float(np.sum(centred**2)), float(np.sum(np.diag(centred) ** 2))
    same = (2 * m * fourth + 2 * (trace * (m - 1)) ** 2 + 4 * square) / (m * (m - 1))
    shared = (m**2 * fourth + 3 * m * square - m * (m - 1) * same) / (m * (m - 1) * (m - 2))
    apart = (4 * m * square / (m - 1) - 4 * (m - 2) * shared - 2 * same) / ((m - 2) * (m - 3))
    n = population
    if n is None:
        unbiased = apart / 4
    elif n == m:
        unbiased = square / (m - 1) ** 2
    else:
        unbiased = ((n - 2) * (n - 3) * apart + 4 * (n - 2) * shared + 2 * same) / (4 * n * (n - 1))
    return GradientNoise(trace, unbiased, np.maximum(values, 0.0), m, parameters, population)


def _check_samples(count: int, least: int) -> None:
    if count < least:
        raise InputError(f"gradient noise: needs the gradients of at least {least} samples (got {count})")
