"""A spectral cut-off in front of any bulk equation: what regularises one that is ill posed."""

from __future__ import annotations

from typing import Any

import numpy as np

from bbdfield.model.scalings.base import BulkEquation
from solvers.grids import Grid
from solvers.projection import cutoff_projection

Array = Any


class Regularised:
    """G_n behind a spectral cut-off: ẑ keeps waves up to q_max only, ∂_x ẑ = P G_n[ẑ]; P is symmetric, so P† = P."""

    def __init__(self, equation: BulkEquation, xp: Any, projection: Array) -> None:
        self.inner, self.xp, self.projection = equation, xp, projection
        self.order: int = equation.order
        self.operator: Any = equation.operator

    def project(self, z: Array) -> Array:
        return self.xp.reshape(self.xp.matmul(self.projection, self.xp.reshape(z, (z.shape[0], -1))), z.shape)

    def value(self, z: Array, c: tuple[Array, ...]) -> tuple[Array, Any]:
        g, tape = self.inner.value(z, c)
        return self.project(g), tape

    def tangent(self, tape: Any, c: tuple[Array, ...], dz: Array, dc: tuple[Array, ...]) -> Array:
        return self.project(self.inner.tangent(tape, c, dz, dc))

    def adjoint(self, tape: Any, c: tuple[Array, ...], g: Array) -> tuple[Array, tuple[Array, ...]]:
        return self.inner.adjoint(tape, c, self.project(g))

    def linearised(self, k: np.ndarray, slope: float) -> np.ndarray:
        return self.inner.linearised(k, slope)


def cutoff(a_y: float) -> float:
    """π/a_y: the shortest wave that a lattice of spacing a_y itself has."""
    return float(np.pi / a_y)


def cutoff_matrix(grid: Grid, padding: str, a_y: float) -> np.ndarray:
    """The projection onto waves that such a lattice has, (n_y, n_y)."""
    return cutoff_projection(grid, padding, cutoff(a_y))
