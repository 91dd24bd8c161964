"""Balanced and relaxed balanced weights of linear networks, of finite depth and in the limit of infinite depth.

Of a list W_1 … W_L, Z = W_L ⋯ W_1, gradient flow keeps D_i = W_{i+1}ᵀ W_{i+1} − W_i W_iᵀ. Weights are balanced where
all D_i = 0 (Arora, Cohen, Hazan, arXiv 1802.06509), relaxed balanced where D_i = λ_i 1 (Marcotte, Gribonval, Peyré,
arXiv 2508.07370).

Which widths and λ admit such weights (derived here). Put Λ_1 = 0, Λ_{i+1} = Λ_i + λ_i. Neighbouring layers are diagonal
in one basis of the neurons between them, and λ_i shifts the squared singular values, so each singular value runs
through consecutive layers as a strand of constant level h:

    σ_i² = Λ_i − h    in the layers i where the strand lives.

A strand begins at the input or where Λ_i = h, ends at the output or where Λ_i = h, and every one of the n_i neurons
after layer i, 1 <= i < L, carries exactly one. The input carries at most n_0, the output at most n_L. Weights exist if
and only if the widths can be filled with strands: a covering by intervals, solved exactly as an integer programme.

In the limit of infinite depth the layers are 1 + W(s) ds. D becomes ∂_s(W + Wᵀ) + WᵀW − WWᵀ, and all W for which this
is ℓ 1 everywhere are (derived here), with a symmetric K and rotations O(s), O(0) = 1,

    W = ½ O (K + ℓs) Oᵀ + (∂_s O) Oᵀ,      propagator from 0 to s:  P(s) = O(s) exp(½ K s + ¼ ℓ s²).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from bbdfield.errors import InputError

Array = npt.NDArray[np.float64]

#: levels that differ by less are one level: λ given as decimals add up with rounding
_SAME = 1e-12


def imbalances(w: Sequence[Array]) -> list[Array]:
    """D_i = W_{i+1}ᵀ W_{i+1} − W_i W_iᵀ of every pair of layers, (n_i, n_i)."""
    return [after.T @ after - before @ before.T for before, after in pairwise(w)]


def product(w: Sequence[Array]) -> Array:
    """Z = W_L ⋯ W_1, (n_L, n_0)."""
    z = np.asarray(w[0], float)
    for part in w[1:]:
        z = part @ z
    return z


def relaxed_balanced(
    widths: Sequence[int], relaxation: float | Sequence[float], rng: np.random.Generator, size: float = 1.0
) -> list[Array]:
    """Random weights of a linear network with D_i = λ_i 1; λ = 0 gives balanced weights.

    Bases are uniformly random. Levels that the widths leave free are drawn, so that squared singular values of the
    layer where they are least lie between ½ size² and 3/2 size².

    Parameters
    ----------
    widths : n_0 … n_L.   relaxation : λ_1 … λ_{L−1}, or one number for all.

    Returns
    -------
    W_1 … W_L, (n_i, n_{i-1}).

    Raises
    ------
    InputError
        where no weights of these widths have this λ, or a number is not one.
    """
    widths = [_width(n) for n in widths]
    if len(widths) < 2:
        raise InputError(f"balanced weights: widths {widths} are no network; give two or more")
    layers = len(widths) - 1
    given = np.broadcast_to(np.asarray(relaxation, float), layers - 1) if np.ndim(relaxation) == 0 else relaxation
    lam = np.asarray(given, float)
    if lam.shape != (layers - 1,) or not np.isfinite(lam).all() or not (np.isfinite(size) and size > 0):
        raise InputError(
            f"balanced weights of widths {widths}: need {layers - 1} finite numbers λ, one for each hidden layer, and a"
            f" size > 0 (got λ = {np.asarray(relaxation).tolist()}, size = {size})"
        )
    levels = np.concatenate([[0.0], np.cumsum(lam)])
    counts = _fill(widths, levels, lam)

    bases = [np.linalg.qr(rng.standard_normal((n, n)))[0] for n in widths]
    free = [list(range(n)) for n in widths]  # columns of each basis that no strand has taken
    weights = [np.zeros((widths[i + 1], widths[i])) for i in range(layers)]
    for strand, count in counts:
        for _ in range(count):
            column = {j: free[j].pop(0) for j in strand.neurons()}
            level = strand.level
            if level is None:
                inside = levels[strand.first - 1 : strand.last + 1]
                level = float(inside.min()) - size**2 * rng.uniform(0.5, 1.5)
            for i in strand.layers():
                sigma = np.sqrt(levels[i - 1] - level)
                weights[i - 1] += sigma * np.outer(bases[i][:, column[i]], bases[i - 1][:, column[i - 1]])
    return weights


@dataclass(frozen=True)
class _Strand:
    """Occupies the neurons after the layers first … last; `level` None where it is free: it has both open ends."""

    first: int
    last: int
    from_input: bool
    to_output: bool
    level: float | None

    def neurons(self) -> range:
        return range(self.first - self.from_input, self.last + self.to_output + 1)

    def layers(self) -> range:
        """Those in which its singular value is not zero: between the neurons that it occupies."""
        return self.neurons()[1:]


def _strands(levels: Array) -> list[_Strand]:
    """Every kind of strand that these levels allow."""
    layers, found = len(levels), []
    if layers == 1:
        return [_Strand(1, 0, True, True, None)]
    for first in range(1, layers):
        for last in range(first, layers):
            before, after, inside = levels[first - 1], levels[last], levels[first:last]
            if np.all(inside > before + _SAME) and abs(before - after) <= _SAME:
                found.append(_Strand(first, last, False, False, before))
            if first == 1 and np.all(levels[:last] > after + _SAME):
                found.append(_Strand(first, last, True, False, after))
            if last == layers - 1 and np.all(levels[first:] > before + _SAME):
                found.append(_Strand(first, last, False, True, before))
    return [*found, _Strand(1, layers - 1, True, True, None)]


def _fill(widths: Sequence[int], levels: Array, lam: Array) -> list[tuple[_Strand, int]]:
    """How many strands of each kind fill the widths, with as many as possible from input to output."""
    from scipy import optimize  # slow to import, and needed here only

    layers, strands = len(widths) - 1, _strands(levels)
    through = np.zeros((layers + 1, len(strands)))
    for k, strand in enumerate(strands):
        through[list(strand.neurons()), k] = 1
    least = np.array([0, *widths[1:-1], 0], float)
    room = optimize.LinearConstraint(through, least, np.asarray(widths, float))
    gain = -np.array([float(strand.level is None) for strand in strands])
    answer = optimize.milp(gain, constraints=room, integrality=np.ones(len(strands)))
    if answer.x is None:
        raise InputError(
            f"balanced weights: widths {list(widths)} have no weights with D_i = λ_i 1 for λ = {lam.tolist()}; λ_i > 0"
            " needs a layer at least as wide after it, λ_i < 0 before it; λ = 0 always exists"
        )
    return [(strand, round(count)) for strand, count in zip(strands, answer.x, strict=True)]


def _width(n: object) -> int:
    if isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 1:
        return int(n)
    raise InputError(f"balanced weights: width {n!r} is no positive whole number")


@dataclass(frozen=True)
class BalancedField:
    """W(s) of an infinitely deep linear network, relaxed balanced with ℓ: ∂_s(W + Wᵀ) + WᵀW − WWᵀ = ℓ 1.

    O(s) = exp(s A₁) exp(s² A₂), so that W turns with s, and not uniformly.

    Parameters
    ----------
    stretch : K (n, n), symmetric.   relaxation : ℓ.   turn, twist : A₁ and A₂ (n, n), antisymmetric.

    Raises
    ------
    InputError
        for matrices that are not of this kind.
    """

    stretch: Array
    relaxation: float
    turn: Array
    twist: Array

    def __post_init__(self) -> None:
        shape = self.stretch.shape
        if len(shape) != 2 or shape[0] != shape[1] or {self.turn.shape, self.twist.shape} != {shape}:
            raise InputError("balanced field: K, A₁ and A₂ need to be square matrices of one size")
        if not (
            np.array_equal(self.stretch, self.stretch.T)
            and np.array_equal(self.turn, -self.turn.T)
            and np.array_equal(self.twist, -self.twist.T)
        ):
            raise InputError("balanced field: K needs to be symmetric, A₁ and A₂ antisymmetric")
        if not np.isfinite(self.relaxation):
            raise InputError(f"balanced field: ℓ = {self.relaxation!r} is no finite number")

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator, relaxation: float = 0.0, size: float = 1.0) -> BalancedField:
        """Gaussian K, A₁, A₂ with entries of variance size²/n."""
        k, turn, twist = size / np.sqrt(n) * rng.standard_normal((3, n, n))
        return cls(np.tril(k) + np.tril(k, -1).T, relaxation, _odd(turn), _odd(twist))

    def _rotations(self, s: float) -> tuple[Array, Array]:
        """O(s) and (∂_s O) Oᵀ."""
        from scipy.linalg import expm  # slow to import, and needed here only

        first = expm(s * self.turn)
        return first @ expm(s**2 * self.twist), self.turn + first @ (2 * s * self.twist) @ first.T

    def at(self, s: npt.ArrayLike) -> Array:
        """W at depths s (points,), as (points, n, n)."""
        one, weights = np.eye(len(self.stretch)), []
        for point in np.asarray(s, float):
            rotation, turning = self._rotations(float(point))
            half = 0.5 * (self.stretch + self.relaxation * point * one)
            weights.append(rotation @ half @ rotation.T + turning)
        return np.array(weights)

    def propagator(self, s: float = 1.0) -> Array:
        """P(s) = O(s) exp(½ K s + ¼ ℓ s²), what a signal at 0 becomes at s; Z = P(1)."""
        values, vectors = np.linalg.eigh(self.stretch)
        stretched = (vectors * np.exp(0.5 * values * s + 0.25 * self.relaxation * s**2)) @ vectors.T
        return self._rotations(s)[0] @ stretched


def _odd(a: Array) -> Array:
    return np.tril(a, -1) - np.tril(a, -1).T
