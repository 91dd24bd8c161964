"""The derivative range: trainable moments, a true partial differential equation in (x, y).

    𝒦[ŵ]σ = ŵ_0 σ + ŵ_1 ℓ ∂_yσ + ŵ_2 ℓ² ∂_y²σ:      reaction, transport and diffusion

with a length ℓ that makes the three moments comparable (and so their common learning rate sensible). On the lattice
W = θ_0 S_0 + θ_1 (ℓ/a_y) S_1 + θ_2 (ℓ/a_y)² S_2 with the centred stencils S_0 = (0, 1, 0), S_1 = (−½, 0, ½), S_2 =
(1, −2, 1); θ are trained (Ruthotto & Haber, arXiv 1804.04272). Second order in a_y where σ(ẑ) continues smoothly
beyond the edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from bbdfield.errors import InputError
from bbdfield.model.ranges.base import Range
from solvers.grids import Grid
from solvers.stencils import DifferenceOperator


@dataclass(frozen=True)
class Derivative(Range):
    """Moments ŵ_0, ŵ_1, ŵ_2 of `length` ℓ (in the units of length_y)."""

    name: ClassVar[str] = "derivative"
    dimension: ClassVar[str] = "moment"
    lattice_bounded: ClassVar[bool] = False
    key: ClassVar[str] = "length"
    needs: ClassVar[str] = "a length from 1e-6 to 1000"
    words: ClassVar[str] = "derivative weights (moments of length {})"

    length: float = 0.1
    tied: bool = False

    def __post_init__(self) -> None:
        number = isinstance(self.length, (int, float)) and not isinstance(self.length, bool)
        if not (number and 1e-6 <= self.length <= 1e3):
            raise InputError(f"lattice.length = {self.length!r}: needs {self.needs}")
        if not isinstance(self.tied, bool):
            raise InputError(f"lattice.weights = {self.tied!r}: Derivative.tied needs True or False")

    @classmethod
    def read(cls, value: Any) -> float:
        return float(cls(value).length)

    def components(self, grid: Grid) -> np.ndarray:
        if grid.n_y < 3:
            raise InputError(f'lattice.range = "derivative": its stencils need 3 cells of width, not {grid.n_y}')
        return np.arange(3)

    def centre(self, grid: Grid) -> int:
        return 0

    def taps(self, a_y: float) -> np.ndarray | None:
        stencils = np.array([[0.0, -0.5, 1.0], [1.0, 0.0, -2.0], [0.0, 0.5, 1.0]])
        return stencils * (self.length / a_y) ** np.arange(3)

    def operator(self, xp: Any, grid: Grid, a_y: float, padding: str, width_order: int | None, stencil: int) -> Any:
        self.width_order(width_order)
        lengths = np.diag(self.length ** np.arange(3.0))
        return DifferenceOperator(xp, grid, order=2, tied=self.tied, padding=padding, accuracy=stencil, mixing=lengths)

    def spread(self, correlation: float, grid: Grid, relative: Sequence[float] | None) -> np.ndarray:
        """By default ŵ_0 and ŵ_1 vary and ŵ_2 does not: where it turned negative the equation would be ill posed."""
        if relative is None:
            return np.array([1.0, 1.0, 0.0])
        self._check_numbers("initial.spread", relative, 3)
        return np.asarray(relative, float)

    def mean(self, grid: Grid, mean: Sequence[float] | None) -> np.ndarray:
        """By default a diffusion of ℓ²."""
        return np.array([0.0, 0.0, 1.0]) if mean is None else super().mean(grid, mean)
