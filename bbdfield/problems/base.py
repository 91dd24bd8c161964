"""What a problem with a known solution is, and how a scheme is measured against it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bbdfield.errors import InputError
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import FieldState, Lattice, field_shapes
from bbdfield.model.scalings import BulkEquation
from solvers.grids import Grid
from solvers.interpolation import apply_along_first
from solvers.sweeps import DepthMarch, get_scheme


@dataclass(frozen=True)
class Problem(ABC):
    """∂_x ẑ = G_n[ẑ; ŵ, b̂] with ŵ, b̂ and ẑ(0, y) for which ẑ(x, y) is known.

    lattice : the network, which gives scaling, range, padding, activation and a_x, a_y.
    width_order : in a_y, of the theory (taps only; None: the highest).
    stencil : accuracy of the differences ∂_y on a grid.
    """

    lattice: Lattice
    width_order: int | None = field(default=None, kw_only=True)
    stencil: int = field(default=4, kw_only=True)

    @property
    def orders(self) -> tuple[int, ...]:
        """Depth orders n for which `exact` knows the solution, the lowest first."""
        return self.lattice.law.orders

    # what is given

    @abstractmethod
    def weights(self, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
        """ŵ of components p, (n_x, n_y or 1, C, P, C), at x (n_x,) and y (n_y,)."""

    def bias(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """b̂ (n_x, n_y, C)."""
        return np.zeros((x.size, y.size, self.lattice.channels))

    @abstractmethod
    def exact(self, x: Any, y: Any, order: int | None = None) -> np.ndarray:
        """ẑ (n_x, n_y, C, B) of the field equation of this order (None: the lowest) at x (n_x,) and y (n_y,)."""

    def start(self, grid: Grid) -> np.ndarray:
        """ẑ(0, y) on a grid, (n_y, C, B)."""
        return self.exact(0.0, grid.y)[0]

    def fields(self, grid: Grid) -> FieldState:
        """ŵ and b̂ on the links and cells of a grid; R is zero."""
        w = self.weights(grid.x_links, grid.y, self.lattice.range.components(grid))
        w = w[:, 0] if self.lattice.range.tied else np.broadcast_to(w, field_shapes(self.lattice, grid)["w"])
        r = np.zeros((self.lattice.outputs, self.lattice.channels, self.lattice.readout_modes))
        return FieldState(self.lattice, grid, np.ascontiguousarray(w), self._bias_on(grid, w), r)

    def _bias_on(self, grid: Grid, w: np.ndarray) -> np.ndarray:
        """b̂ on a grid with these weights."""
        return np.ascontiguousarray(self.bias(grid.x_links, grid.y))

    # what is measured

    def operator(self, grid: Grid) -> Any:
        """𝒦 as the field solver has it on a grid."""
        lattice = self.lattice
        return lattice.range.operator(np, grid, lattice.a_y, lattice.padding, self.width_order, self.stencil)

    def equation(self, grid: Grid, order: int | None = None) -> BulkEquation:
        """G_n as the field solver has it on a grid."""
        lattice = self.lattice
        activation = get_activation(lattice.activation)
        return lattice.law.bulk(self._order(order), self.operator(grid), activation, lattice.a_x)

    def march(self, grid: Grid, scheme: str = "rk4", order: int | None = None) -> np.ndarray:
        """ẑ at the sites of a grid, (n_x + 1, n_y, C, B), by a depth scheme."""
        depth = DepthMarch(self.equation(grid, order), grid, get_scheme(scheme))
        state = self.fields(grid)
        nodes = tuple(apply_along_first(depth.reconstruction.interpolation, part) for part in (state.w, state.b))
        return np.stack(depth.forward(self.start(grid), nodes, keep=False).z)

    def error(self, grid: Grid, scheme: str = "rk4", order: int | None = None) -> float:
        """Relative L2 error of `march` over all sites."""
        return relative(self.march(grid, scheme, order), self.exact(grid.x_sites, grid.y, order))

    def _order(self, order: int | None) -> int:
        if order is None:
            return self.orders[0]
        if order not in self.orders:
            raise InputError(
                f"{type(self).__name__}: no solution of order {order!r} is known; use one of {self.orders}"
            )
        return order

    def _require(self, **allowed: Sequence[str]) -> None:
        """Refuse a lattice for which the solution does not hold."""
        for key, values in allowed.items():
            value = self.lattice.range.name if key == "range" else getattr(self.lattice, key)
            if value not in values:
                known = " or ".join(f'"{name}"' for name in values)
                raise InputError(f'{type(self).__name__}: lattice.{key} = "{value}": its solution needs {known}')

    def _require_channels(self, channels: int) -> None:
        if self.lattice.channels != channels:
            raise InputError(f"{type(self).__name__}: lattice.channels = {self.lattice.channels}: needs {channels}")


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    """|found − exact| / |exact| in L2."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def points(x: Any) -> np.ndarray:
    """(n,) of a number or a list of them."""
    return np.atleast_1d(np.asarray(x, float))


def modulation(x: np.ndarray, length: float, variation: float) -> np.ndarray:
    """g(x) = 1 + v cos(πx/L_x): ends differ, so that it matters where in a cell coefficients are taken."""
    return 1.0 + variation * np.cos(np.pi * x / length)


def modulation_integrals(x: np.ndarray, length: float, variation: float) -> tuple[np.ndarray, np.ndarray]:
    """∫_0^x g and ∫_0^x g²."""
    k = np.pi / length
    sine = np.sin(k * x) / k
    first = x + variation * sine
    return first, x + 2 * variation * sine + variation**2 * (x / 2 + np.sin(2 * k * x) / (4 * k))
