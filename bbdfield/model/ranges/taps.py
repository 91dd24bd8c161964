"""The taps range: a fixed number of nearest neighbours, W_k = (scaling) ŵ_k(x, [y]), k = −K..K (arXiv 2511.02003).

Its limit is local; to order p in a_y (Taylor expansion of σ(ẑ(y + k a_y)))

    𝒦[ŵ]σ = Σ_{n<=p} m_n ∂_y^n σ,    m_n = Σ_k ŵ_k (k a_y)^n / n!,    p = 0, 1, 2

At p = 0 only Σ_k ŵ_k acts, pointwise. Errors are a_y^{p+1}; at p >= 1 short waves may be ill posed. With zero padding
the last K cells keep an error of order 1, so order ½ in L2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from bbdfield.errors import InputError
from bbdfield.model.ranges.base import Range
from solvers.grids import Grid
from solvers.stencils import DifferenceOperator


@dataclass(frozen=True)
class Taps(Range):
    """`count` = 2K + 1 weights to the nearest neighbours, whatever the spacing: tied or not."""

    name: ClassVar[str] = "taps"
    dimension: ClassVar[str] = "tap"
    key: ClassVar[str] = "taps"
    needs: ClassVar[str] = "an odd number of taps from 1 to 1001, as many to the left as to the right"
    words: ClassVar[str] = "weights to the {} nearest cells"
    width_orders: ClassVar[tuple[int, ...]] = (0, 1, 2)

    count: int = 3
    tied: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or isinstance(self.count, bool) or self.count < 1 or self.count % 2 == 0:
            raise InputError(f"lattice.taps = {self.count!r}: needs an odd number of taps, such as 3")
        if not isinstance(self.tied, bool):
            raise InputError(f"lattice.weights = {self.tied!r}: Taps.tied needs True or False")

    @classmethod
    def read(cls, value: Any) -> int:
        count = cls(value).count
        if count > 1001:
            raise ValueError(value)
        return count

    def components(self, grid: Grid) -> np.ndarray:
        if self.count > grid.n_y:
            raise InputError(f"lattice.taps = {self.count}: wider than the {grid.n_y} cells of the width; use fewer")
        return np.arange(self.count) - self.count // 2

    def centre(self, grid: Grid) -> int:
        return self.count // 2

    def moments(self, a_y: float, order: int) -> np.ndarray:
        """(order + 1, T): m_n = Σ_k ŵ_k (k a_y)^n / n!."""
        k = np.arange(self.count) - self.count // 2
        return np.stack([(k * a_y) ** n / math.factorial(n) for n in range(order + 1)])

    def operator(self, xp: Any, grid: Grid, a_y: float, padding: str, width_order: int | None, stencil: int) -> Any:
        order = self.width_order(width_order) if self.count > 1 else 0  # one tap has no higher moments
        options: dict[str, Any] = {"tied": self.tied, "padding": padding, "accuracy": stencil}
        return DifferenceOperator(xp, grid, order=order, mixing=self.moments(a_y, order), **options)

    def spread(self, correlation: float, grid: Grid, relative: Sequence[float] | None) -> np.ndarray:
        if relative is not None:
            self._check_numbers("initial.spread", relative, self.count)
        factors = np.ones(self.count) if relative is None else np.asarray(relative, float)
        return factors / np.sqrt(self.count)
