"""How waves grow: frozen-coefficient analysis of ∂_x z = A(q) z and of the schemes that march it."""

from __future__ import annotations

import math

import numpy as np

from solvers.errors import InputError
from solvers.sweeps import DepthScheme

#: short waves may grow this much more than long ones over the whole depth; beyond, an equation counts as ill posed
MOST_GROWTH = 1e3
#: matrices examined at most per analysis; larger problems are sampled evenly in x, y and q
MATRICES = 40_000
#: the same for one channel, where eigenvalues cost nothing
SCALARS = 4_000_000


def amplification(scheme: DepthScheme, z: np.ndarray) -> np.ndarray:
    """R(z), the factor by which one step of the scheme multiplies a mode with h·A = z: a polynomial."""
    stages: list[np.ndarray] = []
    for row in scheme.a:
        stages.append(1.0 + z * sum((a * k for a, k in zip(row, stages, strict=False)), np.zeros_like(z)))
    return 1.0 + z * sum(b * k for b, k in zip(scheme.b, stages, strict=True))


def sample(count: int, most: int) -> np.ndarray:
    """Up to `most` indices spread evenly over range(count), both ends included."""
    return np.unique(np.linspace(0, count - 1, max(1, min(count, most))).round().astype(int))


def excess(exponents: np.ndarray) -> float:
    """How much more the fastest wave grows than the longest one (exponents[0], or not at all): ln of a factor.

    Infinite when any exponent is not finite.
    """
    if not np.all(np.isfinite(exponents)):
        return math.inf
    return float(np.max(exponents) - max(exponents[0], 0.0))


def too_much(exponents: np.ndarray) -> bool:
    """Whether waves grow by more than MOST_GROWTH beyond the longest one; a non-finite exponent is too much."""
    return excess(exponents) > math.log(MOST_GROWTH)


def require_limit(h: float, rate: float, scheme: DepthScheme, length: float) -> None:
    """Refuse a depth step outside the scheme's stability interval.

    Raises
    ------
    InputError
        when h |∂G/∂ẑ| exceeds it; says how many depth cells would do, if any number does.
    """
    if not math.isfinite(rate):
        raise InputError(f"|∂G/∂ẑ| = {rate:g}: no depth step is small enough; lower the initial amplitudes")
    if h * rate > scheme.real_limit:
        needed = np.ceil(length * rate / scheme.real_limit)
        remedy = f"use n_x = {int(needed)} or more" if needed < 1e6 else "lower the initial amplitudes"
        raise InputError(
            f"field.n_x = {round(length / h)}: unstable depth step, h_x |∂G/∂ẑ| = {h * rate:.3g} exceeds"
            f" {scheme.real_limit:g} ({scheme.name}); {remedy}"
        )
