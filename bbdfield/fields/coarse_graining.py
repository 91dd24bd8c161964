"""Lattice arrays to fields and back.

Two maps, because two questions are asked:

- `restrict` evaluates a field *at a lattice's points* (sites, links, cells, taps) by sixth-order interpolation.
  Comparisons use it: the field goes to the lattice, never the reverse.
- `coarse_grain` turns the arrays of a trajectory into fields on any grid: averages over the grid's cells of what lives
  in cells (ŵ and b̂ on links and width cells, ŵ on tap cells), interpolation in x of what lives on sites (ẑ). Averages
  are taken through the primitive function, so integrals are conserved exactly, averaging to the same grid changes
  nothing, and averages of smooth functions are reproduced with order 5 in the spacing. Rough data can be smoothed
  first by a Gaussian window.

Cell averages differ from the point values that the solver works with by h²/24 ∂²ŵ of the target grid, an error of the
size of the second-order theory's own. A simulation therefore starts from point values (`CoarseGrained.at`), unless a
window was asked for, when the smoothed averages are the field that was meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bbdfield.errors import InputError
from bbdfield.model.architecture import FieldState, Lattice
from bbdfield.model.run import Run, write_fields
from solvers.grids import Grid
from solvers.interpolation import apply_along_first, average_matrix, interpolation_matrix

#: order in the spacing of point values, for smooth fields (cell averages: AVERAGE_ORDER)
POINT_ORDER = 6


def along(matrix: np.ndarray, values: np.ndarray, axis: int) -> np.ndarray:
    """matrix applied to one axis of an array."""
    return np.moveaxis(apply_along_first(matrix, np.moveaxis(values, axis, 0)), 0, axis)


def window_matrix(points: np.ndarray, length: float) -> np.ndarray:
    """Average under a Gaussian window of standard deviation `length`, renormalised at the ends."""
    if length == 0:
        return np.eye(points.size)
    weights = np.exp(-((points[:, None] - points) ** 2) / (2 * length**2))
    return weights / weights.sum(axis=1, keepdims=True)


def restrict(state: FieldState, grid: Grid) -> FieldState:
    """ŵ, b̂ at the links, cells and components of another grid (R as it is)."""
    in_x = interpolation_matrix(state.grid.x_links, grid.x_links, POINT_ORDER)
    in_y = interpolation_matrix(state.grid.y, grid.y, POINT_ORDER)
    w = along(state.lattice.range.onto(state.grid, grid), along(in_x, state.w, 0), -2)
    if not state.lattice.range.tied:
        w = along(in_y, w, 1)
    b = along(in_y, along(in_x, state.b, 0), 1)
    return FieldState(state.lattice, grid, w, b, np.array(state.r))


def restrict_sites(z: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """ẑ (n_x + 1, n_y, ...) at the sites and cells of another grid."""
    in_x = interpolation_matrix(source.x_sites, target.x_sites, POINT_ORDER)
    in_y = interpolation_matrix(source.y, target.y, POINT_ORDER)
    return along(in_y, along(in_x, z, 0), 1)


@dataclass(frozen=True)
class Window:
    """Standard deviations of the Gaussian window in x and y (in the units of x and y); 0 = none."""

    x: float = 0.0
    y: float = 0.0

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"window {name} = {value!r}: needs a length >= 0")


class CoarseGrained:
    """A run's fields on another grid, computed when asked for."""

    def __init__(self, run: Run, grid: Grid, window: Window | None = None) -> None:
        self.run, self.grid, self.window = run, grid, window or Window()
        source = run.grid
        if (grid.length_x, grid.length_y) != (source.length_x, source.length_y):
            raise InputError(f"coarse-graining {run.path}: the grid must have the run's lengths L_x and L_y")
        self._components = run.lattice.range.onto(source, grid, averaged=True)

    @cached_property
    def _links(self) -> np.ndarray:
        source = self.run.grid
        return average_matrix(source.n_x, self.grid.n_x) @ window_matrix(source.x_links, self.window.x)

    @cached_property
    def _cells(self) -> np.ndarray:
        source = self.run.grid
        return average_matrix(source.n_y, self.grid.n_y) @ window_matrix(source.y, self.window.y)

    @cached_property
    def _sites(self) -> np.ndarray:
        source = self.run.grid
        points = interpolation_matrix(source.x_sites, self.grid.x_sites, POINT_ORDER)
        return points @ window_matrix(source.x_sites, self.window.x)

    def fields(self, i: int) -> FieldState:
        """ŵ, b̂, R at snapshot i."""
        state = self.run.fields(i)
        lattice: Lattice = state.lattice
        w = along(self._components, along(self._links, state.w, 0), -2)
        if not lattice.range.tied:
            w = along(self._cells, w, 1)
        b = along(self._cells, along(self._links, state.b, 0), 1)
        return FieldState(lattice, self.grid, w, b, state.r)

    def z(self, i: int) -> np.ndarray:
        """ẑ (n_x + 1, n_y, C, probe samples) at snapshot i."""
        return along(self._cells, along(self._sites, self.run.z(i), 0), 1)

    def at(self, t: float) -> FieldState:
        """ŵ, b̂, R at the snapshot taken at time t, as the start of a simulation.

        Point values at the grid's links, cells and taps (`restrict`); with a window, the averages of `fields`.

        Raises
        ------
        InputError
            when there is no snapshot at t.
        """
        times = self.run.t
        hits = np.flatnonzero(np.isclose(times, t, rtol=1e-12, atol=1e-12))
        if not hits.size:
            raise InputError(
                f"{self.run.path}: no snapshot at t = {t:g}; there are {times.size} from {times[0]:g} to {times[-1]:g}"
            )
        i = int(hits[0])
        return restrict(self.run.fields(i), self.grid) if self.window == Window() else self.fields(i)


def coarse_grain(run: Run, grid: Grid, window: Window | None = None) -> CoarseGrained:
    """Fields of a lattice run on `grid`, e.g. ``coarse_grain(run, Grid(32, 40)).at(t=0)`` as the start of a simulation.

    Raises
    ------
    InputError
        when the kernel's radius is not on a cell edge of the grid, or the lengths differ.
    """
    return CoarseGrained(run, grid, window)


def write_coarse_grained(
    run: Run, grid: Grid, out: Path, *, window: Window | None = None, overwrite: bool = False
) -> Run:
    """Coarse-grain every snapshot into a field trajectory file."""
    coarse = coarse_grain(run, grid, window)
    description = {
        "n_x": grid.n_x,
        "n_y": grid.n_y,
        "coarse_grained": {"window_x": coarse.window.x, "window_y": coarse.window.y},
    }
    return write_fields(run, coarse, out, config={**run.config, "field": description}, overwrite=overwrite)
