"""The kernel range: weights of finite radius, W_k = (scaling) a_y ŵ(x, [y], u_k), u_k = k a_y, |u| <= r = (K + ½) a_y.

    (𝒦[ŵ]σ)(y) = ∫_{−r}^{r} ŵ(x, y, u) σ(y + u) du

bounded, so always well posed; the lattice is its midpoint rule, second order in a_y. The default for real CNNs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from bbdfield.errors import InputError
from bbdfield.model.random_functions import cosine_amplitudes, cosine_basis
from bbdfield.model.ranges.base import Range
from solvers.grids import Grid
from solvers.interpolation import average_matrix, interpolation_matrix
from solvers.width import KernelOperator

_FRACTION = re.compile(r"\d{1,9}/\d{1,9}")


@dataclass(frozen=True)
class Kernel(Range):
    """Finite-radius weights ŵ(x, [y], u), |u| <= radius: a convolution when tied, locally connected when not.

    The radius is (K + 1/2) a_y, in the units of length_y; it may be given as a fraction such as "11/80".
    """

    name: ClassVar[str] = "kernel"
    dimension: ClassVar[str] = "u"
    key: ClassVar[str] = "radius"
    needs: ClassVar[str] = (
        'a number > 0, or a fraction such as "11/80", at most 0.5: a wider kernel does not fit into the lattice'
    )
    words: ClassVar[str] = "kernel weights of radius {}"

    radius: float
    tied: bool = True

    def __post_init__(self) -> None:
        given: Any = self.radius
        try:
            radius = float(Fraction(given)) if isinstance(given, str) else float(given)
        except (ValueError, ZeroDivisionError, TypeError, OverflowError) as error:
            raise InputError(f'lattice.radius = {given!r}: needs a number or a fraction such as "11/80"') from error
        if not 0 < radius < float("inf"):
            raise InputError(f"lattice.radius = {given!r}: needs a positive number")
        if not isinstance(self.tied, bool):
            raise InputError(f"lattice.weights = {self.tied!r}: Kernel.tied needs True or False")
        object.__setattr__(self, "radius", radius)

    @classmethod
    def read(cls, value: Any) -> float | str:
        text = isinstance(value, str) and _FRACTION.fullmatch(value)
        if not text and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(value)
        if not 1e-6 <= cls(value).radius <= 0.5:
            raise ValueError(value)
        return str(value) if text else float(value)

    def components(self, grid: Grid) -> np.ndarray:
        return grid.taps(self.radius)

    def centre(self, grid: Grid) -> int:
        return grid.half_width(self.radius)

    def unit(self, a_y: float) -> float:
        return a_y

    def cell(self, h_y: float) -> float:
        return h_y

    def operator(self, xp: Any, grid: Grid, a_y: float, padding: str, width_order: int | None, stencil: int) -> Any:
        self.width_order(width_order)
        return KernelOperator(xp, grid, self.radius, tied=self.tied, padding=padding)

    def onto(self, source: Grid, target: Grid, averaged: bool = False) -> np.ndarray:
        here, there = self.components(source), self.components(target)
        return average_matrix(here.size, there.size) if averaged else interpolation_matrix(here, there, 6)

    def spread(self, correlation: float, grid: Grid, relative: Sequence[float] | None) -> np.ndarray:
        if relative is not None:
            raise InputError('initial.spread: lattice.range = "kernel" has correlation_u instead; remove it')
        if correlation == 0:
            return np.ones(self.components(grid).size) / (2 * self.radius)
        return cosine_amplitudes(2 * self.radius, correlation) / (2 * self.radius)

    def basis(self, grid: Grid, count: int) -> np.ndarray:
        return cosine_basis(self.components(grid) + self.radius, 2 * self.radius, count)

    def mean(self, grid: Grid, mean: Sequence[float] | None) -> np.ndarray:
        if mean is None:
            return np.zeros(self.components(grid).size)
        self._check_numbers("initial.mean", mean, 1)
        return np.full(self.components(grid).size, mean[0] / (2 * self.radius))
