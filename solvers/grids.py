"""The grid of a sweep: sites and links in depth x, cells in width y.

Depth x in [0, L_x] has n_x cells: n_x + 1 *sites* x_m = m h_x, where ẑ lives, and n_x *links* x_{m+1/2} between them,
where the coefficients ŵ, b̂ live (this centring is what makes order 1 second-order accurate). Width y in [0, L_y] has
n_y cells with centres y_i = (i + 1/2) h_y. Kernel taps u_k = k h_y, |k| <= K, are the midpoints of cells that tile
[-r, r].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from solvers.errors import InputError


@dataclass(frozen=True)
class Grid:
    """n_x depth cells by n_y width cells on [0, length_x] x [0, length_y]."""

    n_x: int
    n_y: int
    length_x: float = 1.0
    length_y: float = 1.0

    def __post_init__(self) -> None:
        for name in ("n_x", "n_y"):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
                raise InputError(f"grid {name} = {value!r}: needs a positive whole number of cells")
        for name in ("length_x", "length_y"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"grid {name} = {value!r}: needs a positive length")

    @property
    def h_x(self) -> float:
        return self.length_x / self.n_x

    @property
    def h_y(self) -> float:
        return self.length_y / self.n_y

    @cached_property
    def x_sites(self) -> np.ndarray:
        return np.arange(self.n_x + 1) * self.length_x / self.n_x

    @cached_property
    def x_links(self) -> np.ndarray:
        return (np.arange(self.n_x) + 0.5) * self.length_x / self.n_x

    @cached_property
    def y(self) -> np.ndarray:
        return (np.arange(self.n_y) + 0.5) * self.length_y / self.n_y

    def half_width(self, radius: float) -> int:
        """K of the kernel with `radius` = (K + 1/2) h_y.

        Raises
        ------
        InputError
            when [-r, r] is not tiled by whole cells (the quadrature would drop to first order) or is wider than the
            grid.
        """
        exact = radius / self.h_y - 0.5
        nearest = round(exact)
        if radius <= 0 or nearest < 0 or abs(exact - nearest) > 1e-9 * max(1.0, abs(exact)):
            lower = max(0, int(np.floor(exact)))
            options = " or ".join(f"{(k + 0.5) * self.h_y:.6g}" for k in (lower, lower + 1))
            raise InputError(
                f"kernel radius {radius:.6g} is not on a cell edge of width {self.n_y} (radius/a_y - 1/2 = {exact:.4g}"
                f" is no whole number >= 0); use a radius such as {options}, or another width"
            )
        if 2 * nearest + 1 > self.n_y:
            raise InputError(
                f"kernel radius {radius:.6g}: its {2 * nearest + 1} taps are wider than the {self.n_y} cells of the"
                " width; use a smaller radius"
            )
        return nearest

    def taps(self, radius: float) -> np.ndarray:
        """u_k = k h_y, k = -K..K."""
        half = self.half_width(radius)
        return np.arange(-half, half + 1) * self.h_y
