"""Pure diffusion: the derivative range with ŵ_2 > 0 alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bbdfield.errors import InputError
from bbdfield.model.ranges import Derivative
from bbdfield.problems.base import Problem, points
from solvers.grids import Grid


@dataclass(frozen=True)
class Diffusion(Problem):
    """∂_x ẑ = κ ∂_y²ẑ with κ = ŵ_2 ℓ² > 0 and identity activation: waves decay.

        order 0      e^{−κq²x}
        order 1      e^{−(κq² + a_xκ²q⁴/2)x}           (A − (a_x/2)A², A = −κq²: damps more, well posed)
        lattice      (1 − (4κa_x/a_y²) sin²(qa_y/2))^m    bounded only if a_x <= a_y²/2κ

    circular: e^{iqy}, q = 2πj/L_y. reflect: cos qy, q = πj/L_y, an even extension about the edges, ∂_yẑ = 0 there.
    zeros: the ghosts that vanish are cells, half a cell outside the edges. On n_y cells the second-order stencil has
    the eigenvectors sin(πj(i + 1)/(n_y + 1)): walls ẑ = 0 at y = −h_y/2 and L_y + h_y/2, q = πj/(L_y + h_y). As h_y → 0
    they move onto the edges, q = πj/L_y, so a field on another grid than the lattice's is off by O(h_y), whatever the
    stencil. `exact` has its walls at the edges, `on_cells` where the grid's are.
    """

    strength: float = 1.0
    modes: int = 2
    samples: int = 2

    def __post_init__(self) -> None:
        self._require(range=("derivative",), scaling=("residual",), activation=("identity",))
        if not self.strength > 0:
            raise InputError(f"Diffusion: strength = {self.strength!r}: needs ŵ_2 > 0; else it is ill posed")

    @property
    def kappa(self) -> float:
        """κ = ŵ_2 ℓ²."""
        assert isinstance(self.lattice.range, Derivative)
        return self.strength * self.lattice.range.length**2

    def weights(self, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
        moments = np.zeros((self.lattice.channels, 3, self.lattice.channels))
        moments[:, 2, :] = self.strength * np.eye(self.lattice.channels)
        return np.broadcast_to(moments, (x.size, 1, *moments.shape))

    @cached_property
    def _amplitudes(self) -> np.ndarray:
        """(modes, C, B)."""
        j = np.arange(self.modes * self.lattice.channels * self.samples)
        return np.cos(1.0 + 2.0 * j).reshape(self.modes, self.lattice.channels, self.samples)

    def _modes(self, y: np.ndarray, outside: float) -> tuple[np.ndarray, np.ndarray]:
        """(q (modes,), waves (n_y, modes)) with walls this far outside the edges."""
        length = self.lattice.length_y
        if self.lattice.padding == "circular":
            q = 2 * np.pi * np.arange(self.modes) / length
            return q, np.sin(np.multiply.outer(y, q) + 0.7)
        if self.lattice.padding == "reflect":
            q = np.pi * np.arange(self.modes) / length
            return q, np.cos(np.multiply.outer(y, q))
        q = np.pi * (1 + np.arange(self.modes)) / (length + 2 * outside)
        return q, np.sin(np.multiply.outer(y + outside, q))

    def _sum(self, waves: np.ndarray, decay: np.ndarray) -> np.ndarray:
        return np.einsum("yj,xj,jcs->xycs", waves, decay, self._amplitudes)

    def _decay(self, x: np.ndarray, rate: np.ndarray, order: int) -> np.ndarray:
        return np.exp(-np.multiply.outer(x, rate + order * 0.5 * self.lattice.a_x * rate**2))

    def exact(self, x: Any, y: Any, order: int | None = None) -> np.ndarray:
        q, waves = self._modes(points(y), 0.0)
        return self._sum(waves, self._decay(points(x), self.kappa * q**2, self._order(order)))

    def on_cells(self, x: Any, grid: Grid, order: int | None = None) -> np.ndarray:
        """The solution, exact in depth, with the second-order stencil on a grid and walls where that has them."""
        if self.stencil != 2:
            raise InputError(f"Diffusion: stencil = {self.stencil}: modes on cells are known for 2")
        rate, waves = self._cells(grid)
        return self._sum(waves, self._decay(points(x), rate, self._order(order)))

    def start_on_cells(self, grid: Grid) -> np.ndarray:
        """ẑ(0, y) of `on_cells`, (n_y, C, B)."""
        return self._sum(self._cells(grid)[1], np.ones((1, self.modes)))[0]

    def sites(self) -> np.ndarray:
        """z[m] of the lattice from `start_on_cells`, (M + 1, N, C, B)."""
        rate, waves = self._cells(self.lattice.grid)
        factor = 1 - self.lattice.a_x * rate
        return self._sum(waves, factor ** np.arange(self.lattice.depth + 1)[:, None])

    def _cells(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """κ times the stencil's eigenvalues, and its eigenvectors."""
        q, waves = self._modes(grid.y, grid.h_y / 2)
        return self.kappa * (2 * np.sin(q * grid.h_y / 2) / grid.h_y) ** 2, waves
