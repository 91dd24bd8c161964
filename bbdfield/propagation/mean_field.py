"""Mean field of random networks: how far signals and their differences travel in depth.

    z[m+1] = s z[m] + W σ(z[m]) + b,      W_ij ~ N(0, σ_w²/N),  b_i ~ N(0, σ_b²),  drawn anew in every layer

As N → ∞ the pre-activations of two inputs are Gaussian pairs of variance q and correlation c, which move by

    q[m+1]     = s² q + σ_w² E[σ(u₁)²] + σ_b²
    (qc)[m+1]  = s² q c + σ_w² E[σ(u₁) σ(u₂)] + σ_b²

Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli, arXiv 1606.05340 (s = 0; the maps); Schoenholz, Gilmer, Ganguli,
Sohl-Dickstein, arXiv 1611.01232 (depth scales, criticality). With s = 1, the residual network, W is independent of
z[m] and the cross terms vanish in the same way, cf. Yang, Schoenholz, arXiv 1712.08969; q then has no fixed point.

Perturbations: |δz|² of a small change grows by χ(q, 1) per layer, the product of two replicas' changes by χ(q, c),

    χ(q, c) = s² + σ_w² E[σ'(u₁) σ'(u₂)],      χ_q = s² + σ_w² E[σ'(u)² + σ(u) σ''(u)]

and at the fixed point deviations of q and c decay as e^{−m/ξ}: ξ_q = −1/ln χ_q, ξ_c = −1/ln χ(q*, c*). Correlation is
quadratic in the change, so that |δz| itself has the depth scale 2 ξ_c where c* = 1. Depth is counted in layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from bbdfield.errors import InputError
from bbdfield.model.activations import Activation, get_activation
from bbdfield.propagation.gaussian import NODES, average, pair_average

Array = npt.NDArray[np.float64]

#: variances are followed up to here; what still grows has no fixed point
_LARGEST = 1e8
#: critical points are sought up to here: for larger variances a tanh is a step, and the quadrature not exact
_LARGEST_CRITICAL = 1e3
#: below this a variance that still shrinks goes to zero
_SMALLEST = 1e-12


@dataclass(frozen=True)
class FixedPoint:
    """Where signals end up, and over how many layers they get there.

    q, c : variance and correlation that are stable; c = 1 by convention where all signals vanish (q = 0).
    chi : χ₁ = χ(q, 1); below 1 nearby signals converge (ordered), above they separate (chaotic).
    chi_q, chi_c : factors per layer of a deviation of q, and of c at its own fixed point.
    """

    q: float
    c: float
    chi: float
    chi_q: float
    chi_c: float

    @property
    def xi_q(self) -> float:
        """Depth scale of the variance, in layers."""
        return depth_scale(self.chi_q)

    @property
    def xi_c(self) -> float:
        """Depth scale of the correlation, in layers; infinite on the critical line."""
        return depth_scale(self.chi_c)

    @property
    def ordered(self) -> bool:
        return self.chi < 1


def depth_scale(factor: float) -> float:
    """ξ of a deviation that is multiplied by `factor` per layer: −1/ln|factor|, infinite for 1, 0 for 0.

    Negative where deviations grow.
    """
    if factor == 0:
        return 0.0
    rate = math.log(abs(factor))
    return -1.0 / rate if rate else math.inf


@dataclass(frozen=True)
class MeanField:
    """The ensemble of random networks with given variances.

    Parameters
    ----------
    weight, bias : float
        σ_w² and σ_b².
    activation : str or Activation
    skip : float
        s: 0 for plain networks, 1 for residual ones.
    nodes : int
        Of the quadrature, see `bbdfield.propagation.gaussian`.

    Raises
    ------
    InputError
        for a variance that is negative or not finite, a skip outside [0, 1], or an unknown activation.
    """

    weight: float
    bias: float
    activation: str | Activation = "tanh"
    skip: float = 0.0
    nodes: int = NODES

    def __post_init__(self) -> None:
        _variance("weight variance σ_w²", self.weight)
        _variance("bias variance σ_b²", self.bias)
        if not (_real(self.skip) and 0 <= self.skip <= 1):
            raise InputError(f"skip s = {self.skip!r}: needs a number from 0 (plain) to 1 (residual)")
        if not (isinstance(self.nodes, int) and self.nodes >= 2):
            raise InputError(f"nodes = {self.nodes!r}: needs a whole number >= 2")
        self._sigma()

    def _sigma(self) -> Activation:
        return self.activation if isinstance(self.activation, Activation) else get_activation(self.activation)

    # maps

    def next_variance(self, q: float) -> float:
        """q of the next layer."""
        f = self._sigma().f
        square = average(lambda u: f(u) ** 2, q, self.nodes)
        return self.skip**2 * q + self.weight * square + self.bias

    def next_correlation(self, q: float, c: float) -> float:
        """c of the next layer, of two signals that both have variance q > 0."""
        f = self._sigma().f
        product = self.skip**2 * q * c + self.weight * pair_average(f, f, q, c, self.nodes) + self.bias
        return product / self.next_variance(q)

    def layers(self, q: float, c: float, depth: int) -> tuple[Array, Array]:
        """q and c at the sites 0 … depth, (depth + 1,) each, of two signals that start with variance q > 0."""
        _variance("variance q", q)
        if not (_real(c) and abs(c) <= 1):
            raise InputError(f"correlation c = {c!r}: needs a number from -1 to 1")
        variances, correlations = [q], [c]
        for _ in range(depth):
            c = min(1.0, max(-1.0, self.next_correlation(q, c)))
            q = self.next_variance(q)
            variances.append(q)
            correlations.append(c)
        return np.array(variances), np.array(correlations)

    # perturbations

    def chi(self, q: float, c: float = 1.0) -> float:
        """χ(q, c) = s² + σ_w² E[σ'(u₁) σ'(u₂)]."""
        df = self._sigma().df
        return self.skip**2 + self.weight * pair_average(df, df, q, c, self.nodes)

    def chi_q(self, q: float) -> float:
        """χ_q = s² + σ_w² E[σ'² + σσ''], the derivative of the variance map."""
        sigma = self._sigma()
        slope = average(lambda u: sigma.df(u) ** 2 + sigma.f(u) * sigma.d2f(u), q, self.nodes)
        return self.skip**2 + self.weight * slope

    # fixed points

    def fixed_variance(self, start: float = 1.0) -> float:
        """q*, the first fixed point on the way that q takes from `start`.

        Raises
        ------
        InputError
            if the variance grows without bound.
        """
        _variance("starting variance", start)
        if start == 0 and self.next_variance(0.0) == 0:
            return 0.0

        def excess(q: float) -> float:
            return self.next_variance(q) / q - 1.0

        here = max(start, _SMALLEST)
        value = excess(here)
        if abs(value) <= 1e-14:
            return here
        # The map increases with q, so q moves one way only: to the first q at which the excess changes sign.
        factor = 1.25 if value > 0 else 0.8
        while True:
            there = here * factor
            if there < _SMALLEST:
                return 0.0
            if there > _LARGEST:
                raise InputError(
                    f"{self._name()}: no fixed point, the variance grows without bound; use a smaller weight variance"
                    + (" or no skip" if self.skip == 1 else "")
                )
            if excess(there) * value <= 0:
                return float(brentq(excess, *sorted((here, there)), xtol=1e-300, rtol=1e-15))
            here = there

    def fixed_correlation(self, q: float) -> float:
        """The stable fixed point c* >= 0 of the correlation of signals with the fixed variance q.

        c = 1 always is a fixed point. It is stable for χ₁ <= 1; beyond, the map, a power series in c with
        non-negative coefficients, has exactly one other in [0, 1).
        """
        chi = self.chi(q)
        if q == 0 or chi <= 1:
            return 1.0

        def excess(distance: float) -> float:
            return (self.next_correlation(q, 1.0 - distance) - 1.0) / distance + 1.0

        # 1 − c* is about χ₁ − 1, and rounding limits how small a distance can be told from none.
        nearest = 1e-7
        if excess(nearest) >= 0:
            return 1.0
        if excess(1.0) <= 1e-15:
            return 0.0
        return 1.0 - float(brentq(excess, nearest, 1.0, xtol=1e-16, rtol=1e-15))

    def fixed_point(self, start: float = 1.0) -> FixedPoint:
        """Fixed point and depth scales; see `FixedPoint`."""
        q = self.fixed_variance(start)
        c = self.fixed_correlation(q)
        return FixedPoint(q, c, self.chi(q), self.chi_q(q), self.chi(q, c))

    def _name(self) -> str:
        skip = f", s = {self.skip:g}" if self.skip else ""
        return f"{self._sigma().name}, σ_w² = {self.weight:g}, σ_b² = {self.bias:g}{skip}"


def critical_weight(bias: float, activation: str | Activation = "tanh", nodes: int = NODES) -> float:
    """σ_w² at which χ₁ = 1 for a given σ_b² (plain networks): order below, chaos above.

    On the line, q is free: σ_w²(q) = 1/E[σ'²] and σ_b²(q) = q − σ_w² E[σ²]; the first stable q with the given σ_b² is
    taken. (For gelu and small σ_b², for instance, none is: the variance grows beyond all bounds first.)

    Raises
    ------
    InputError
        for a bias variance that is negative or not finite, or where the activation has no critical point.
    """
    _variance("bias variance σ_b²", bias)
    sigma = activation if isinstance(activation, Activation) else get_activation(activation)

    def weight(q: float) -> float:
        return 1.0 / average(lambda u: sigma.df(u) ** 2, q, nodes)

    def excess(q: float) -> float:
        return q - weight(q) * average(lambda u: sigma.f(u) ** 2, q, nodes) - bias

    at_zero = float(np.asarray(sigma.f(np.zeros(1)))[0])
    if bias == 0 and at_zero == 0:  # χ₁ = 1 at q = 0; the slopes there, on either side of a kink
        found = weight(_SMALLEST)
        if MeanField(found, 0.0, sigma, nodes=nodes).next_variance(1e-3) <= 1e-3 * (1 + 1e-12):
            return found
    here = 1e-8
    value = excess(here)
    while (there := 1.25 * here) <= _LARGEST_CRITICAL:
        following = excess(there)
        if value * following <= 0 and abs(following) > 1e-12 * there:
            q = float(brentq(excess, here, there, xtol=1e-300, rtol=1e-15))
            if MeanField(weight(q), bias, sigma, nodes=nodes).chi_q(q) < 1:
                return weight(q)
        here, value = there, following
    raise InputError(
        f"{sigma.name} has no critical line at σ_b² = {bias:g}:"
        f" no stable variance up to {_LARGEST_CRITICAL:g} has χ₁ = 1"
    )


def _real(value: Any) -> bool:
    return isinstance(value, (int, float, np.floating)) and not isinstance(value, bool) and math.isfinite(value)


def _variance(name: str, value: Any) -> None:
    if not (_real(value) and value >= 0):
        raise InputError(f"{name} = {value!r}: needs a finite number >= 0")
