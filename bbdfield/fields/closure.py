"""The closure residual: what averaging of rough weights leaves out of the field equation.

Averages ⟨·⟩ over a window obey the field equation only if

    C = ⟨𝒦[ŵ]σ(z)⟩ − 𝒦[⟨ŵ⟩]σ(⟨z⟩)

vanishes, because the bias enters linearly. It does where ŵ and z hardly change within a window; for rough weights it is
the mean effect of what was averaged away. Everything is taken on the network's own points: 𝒦[ŵ_m]σ(z_m) as layer m
computes it, with the network's own taps and activation, so that no field solver takes part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bbdfield.errors import InputError
from bbdfield.fields.coarse_graining import Window, along, window_matrix
from bbdfield.model.activations import get_activation
from bbdfield.model.run import Run
from solvers.interpolation import average_matrix
from solvers.width import KernelOperator


@dataclass(frozen=True)
class Closure:
    """The closure residual of one snapshot, in L2 over width, channels and probe samples.

    x : (n,) depths of the averages.   by_depth : (n,) ‖C‖ / ‖⟨𝒦[ŵ]σ(z)⟩‖ at each; 0 where nothing acts.
    total : the same over all depths.
    """

    x: np.ndarray
    by_depth: np.ndarray
    total: float


def closure_terms(
    run: Run, i: int, window: Window | None = None, cells: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """⟨𝒦[ŵ]σ(z)⟩ and 𝒦[⟨ŵ⟩]σ(⟨z⟩) of a lattice run at snapshot i, both (n, N, C, probe samples).

    Parameters
    ----------
    window : Gaussian window (default: none).
    cells : average over so many equal cells in depth after the window, as a solver with this many cells does (default:
        one average per layer).

    Raises
    ------
    InputError
        for a field run, which has no layers.
    """
    if run.kind != "lattice":
        raise InputError(f"{run.path}: a field has no layers to average over; give a lattice file")
    window, lattice, grid = window or Window(), run.lattice, run.grid
    w, z = run.fields(i).w, run.z(i)[:-1]  # layer m acts on z[m]
    taps = lattice.range.taps(lattice.a_y)
    if taps is not None:
        w = along(taps, w, -2)
    in_x = window_matrix(grid.x_links, window.x)
    if cells is not None:
        in_x = average_matrix(grid.n_x, cells) @ in_x
    in_y = window_matrix(grid.y, window.y)
    # the network's own taps, whatever its range: a kernel of as many cells
    operator = KernelOperator(
        np, grid, 0.5 * w.shape[-2] * grid.h_y, tied=lattice.range.tied, padding=lattice.padding, method="direct"
    )
    sigma = lattice.law.activation(get_activation(lattice.activation), lattice.a_x).f
    acting = np.stack([operator.apply(layer, sigma(state)) for layer, state in zip(w, z, strict=True)])
    w = along(in_x, w, 0)
    if not lattice.range.tied:
        w = along(in_y, w, 1)
    z = along(in_y, along(in_x, z, 0), 1)
    closed = np.stack([operator.apply(layer, sigma(state)) for layer, state in zip(w, z, strict=True)])
    return along(in_y, along(in_x, acting, 0), 1), closed


def closure_residual(run: Run, i: int, window: Window | None = None, cells: int | None = None) -> Closure:
    """How far averages are from obeying a closed equation; arguments and errors as in `closure_terms`."""
    acting, closed = closure_terms(run, i, window, cells)
    rows = (len(acting), -1)
    residual = np.linalg.norm((acting - closed).reshape(rows), axis=1)
    size = np.linalg.norm(acting.reshape(rows), axis=1)
    length = run.grid.length_x
    x = (np.arange(len(acting)) + 0.5) * length / len(acting)
    return Closure(x, _relative(residual, size), float(_relative(np.linalg.norm(residual), np.linalg.norm(size))))


def _relative(residual: np.ndarray | np.floating, size: np.ndarray | np.floating) -> np.ndarray:
    """residual / size, 0 where both vanish."""
    residual, size = np.asarray(residual), np.asarray(size)
    empty = np.where(residual > 0, np.inf, 0.0)
    return np.divide(residual, size, out=empty, where=size > 0)
