"""Is the field equation well posed, and is the depth step small enough? Asked before a run and as weights train.

A derivative expansion that is cut off can be ill posed: negative diffusion, or a channel matrix ŵ_1 with complex
eigenvalues, lets short waves grow without bound as the grid is refined, and order 1 in a_x turns transport into
anti-diffusion (A_1 = A − (a_x/2)A²). With coefficients frozen at (x, y), the symbol A_n(q) of ∂G_n/∂ẑ on the solver's
own grid says how a wave e^{iqy} grows: by e^{Γ(q)} over the whole depth, Γ(q) = ∫ dx max_y Re eig A_n(q). Kernels are
bounded operators, so only their depth step is checked. What is no start of any theory is refused too: independent
values, signals too large for the expansion of the scaling, a cut-off where nothing is to be cut off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bbdfield.errors import InputError, NumericsError
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import FieldState, Lattice
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.regularisation import cutoff
from bbdfield.model.scalings import BulkEquation, WidthOperator
from solvers.grids import Grid
from solvers.stability import MATRICES, MOST_GROWTH, SCALARS, amplification, excess, require_limit, sample, too_much
from solvers.sweeps import DepthScheme

Array = Any

#: accuracy in h_y of the differences of local ranges
STENCIL = 4
#: what to do with an equation that is ill posed
REMEDIES = ("refuse", "cutoff")


@dataclass(frozen=True)
class WaveGrowth:
    """Growth of waves over the whole depth.

    q : wave numbers, from 0 to the largest on the grid (or the cut-off).   equation : Γ(q) of ∂_x ẑ = A_n ẑ.
    march : the same for the depth scheme's steps (both 0 for bounded operators, which need no watching).
    rate : largest |A_n|.
    """

    q: np.ndarray
    equation: np.ndarray
    march: np.ndarray
    rate: float

    @property
    def worst(self) -> float:
        """The wave number that grows fastest."""
        return float(self.q[int(np.argmax(self.equation))])


def wave_growth(
    lattice: Lattice,
    grid: Grid,
    equation: BulkEquation,
    scheme: DepthScheme,
    w: np.ndarray,
    q_max: float | None = None,
    largest: float = 0.0,
) -> WaveGrowth:
    """Analyse G_n linearised about the weights w (n_x, [n_y], C, P, C), for the worst local slope at |ẑ| <= `largest`.

    Growth and rate are infinite where there is no G_n: non-finite weights, or a plain network's 1 + 𝒦σ' singular.
    """
    operator, watched = equation.operator, unbounded(lattice, equation)
    slopes = np.unique(lattice.law.slopes(get_activation(lattice.activation), largest))
    untied = not lattice.range.tied
    wide = (MATRICES if lattice.channels > 1 else SCALARS) // len(slopes)
    q = np.linspace(0.0, min(q_max or np.inf, np.pi / grid.h_y), 33)
    in_x = sample(grid.n_x, max(8, wide // (33 * (8 if untied else 1))))
    in_y = sample(grid.n_y, max(4, wide // (33 * in_x.size))) if untied else None
    weight = grid.length_x / in_x.size
    exact, marched, rate = np.zeros(q.size), np.zeros(q.size), 0.0
    with np.errstate(all="ignore"):
        for link in in_x:
            k = operator.symbol(w[link] if in_y is None else w[link][in_y], q)
            real, step = np.full(q.size, -np.inf), np.full(q.size, -np.inf)
            for slope in slopes:
                try:
                    a = equation.linearised(k, float(slope))
                except np.linalg.LinAlgError:
                    a = np.full(k.shape, np.inf)
                if not np.all(np.isfinite(a)):
                    return WaveGrowth(q, np.full(q.size, np.inf), np.full(q.size, np.inf), np.inf)
                size = np.abs(a) if lattice.channels == 1 else np.linalg.norm(a, ord=2, axis=(-2, -1))
                rate = max(rate, float(size.max()))
                if not watched:
                    continue
                eigenvalues = (a if lattice.channels == 1 else np.linalg.eigvals(a)).reshape(q.size, -1)
                real = np.maximum(real, eigenvalues.real.max(axis=1))
                factor = np.abs(amplification(scheme, grid.h_x * eigenvalues)).max(axis=1)
                step = np.maximum(step, np.log(np.maximum(factor, 1e-300)))
            if watched:
                exact += weight * real
                marched += weight / grid.h_x * step
    return WaveGrowth(q, exact, marched, rate)


def check(
    lattice: Lattice,
    grid: Grid,
    equation: BulkEquation,
    scheme: DepthScheme,
    w: np.ndarray,
    q_max: float | None = None,
    t: float = 0.0,
    largest: float = 0.0,
) -> WaveGrowth:
    """Refuse what cannot be integrated.

    Raises
    ------
    NumericsError
        when the equation is ill posed: waves grow by more than `MOST_GROWTH` beyond the longest one; when G_n does not
        exist.
    InputError
        when the depth step is too large for the scheme; says how many cells would do.
    """
    found = wave_growth(lattice, grid, equation, scheme, w, q_max, largest)
    if not np.isfinite(found.rate):
        raise NumericsError(
            f"no field equation at t = {t:.6g}: |∂G/∂ẑ| is infinite (weights too large, or a plain network whose"
            " 1 + 𝒦[ŵ]σ' is singular); lower the initial amplitudes"
        )
    if unbounded(lattice, equation):
        operator_is_bounded = equation.operator.bounded
        if too_much(found.equation):
            grid_or_cut = f"{found.q[-1]:.4g}, the {'cut-off' if q_max else 'largest on the grid'}"
            if operator_is_bounded:  # plain
                remedy = "keep the eigenvalues of 𝒦[ŵ]σ' between −1 and 1: lower the initial amplitudes"
            elif q_max is None and lattice.range.width_orders:
                remedy = 'lower field.width_order, or set field.ill_posed = "cutoff" to keep waves up to π/a_y only'
            else:
                remedy = "lower the initial amplitudes, or add diffusion (initial.mean)"
            raise NumericsError(
                f"ill posed at t = {t:.6g}: waves of wave number {found.worst:.4g} (of at most {grid_or_cut}) grow by"
                f" e^{excess(found.equation):.3g} over the depth beyond the longest, more than {MOST_GROWTH:g};"
                f" {remedy}"
            )
        if too_much(found.march):
            raise (NumericsError if t > 0 else InputError)(
                f"field.n_x = {grid.n_x}: unstable depth step at t = {t:.6g}, {scheme.name} amplifies waves by"
                f' e^{excess(found.march):.3g} over the depth; use more cells, or depth_scheme = "rk4"'
            )
    if t == 0:
        require_limit(grid.h_x, found.rate, scheme, grid.length_x)
    return found


def unbounded(lattice: Lattice, equation: BulkEquation) -> bool:
    """Whether short waves can grow faster and faster as the grid is refined, so that weights must be watched."""
    return not (equation.operator.bounded and lattice.law.limit)


def largest_input(boundary: Boundary, n_y: int) -> float:
    """max |ẑ(0)| of the probe set and the first batch on n_y cells."""
    inputs = boundary.probe_input(n_y), boundary.input(boundary.batch(0), n_y)
    return max(float(np.max(np.abs(z))) for z in inputs)


def admit(start: FieldState, operator: WidthOperator, ill_posed: str, largest: float) -> float | None:
    """Refuse starts that no theory describes; returns the largest wave number to keep, None for all.

    Raises
    ------
    InputError
        for an unknown remedy, a cut-off of a bounded operator or one that would ring at the edges, independent initial
        values, signals up to |ẑ| = `largest` that the scaling's expansion does not reach.
    """
    lattice = start.lattice
    if ill_posed not in REMEDIES:
        raise InputError(f"field.ill_posed = {ill_posed!r}: use one of {', '.join(REMEDIES)}")
    if start.origin is not None:
        InitialFields(lattice, **start.origin).require_field()
    lattice.law.check_amplitude(largest, lattice.a_x)
    if ill_posed != "cutoff":
        return None
    given = f'field.ill_posed = "cutoff": lattice.range = "{lattice.range.name}"'
    if operator.bounded and lattice.range.width_orders:
        raise InputError(f"{given} at field.width_order = 0 has no derivatives to cut off; remove one or the other")
    if operator.bounded:
        raise InputError(f"{given} is a bounded operator, of which there is nothing to cut off; remove ill_posed")
    if lattice.padding == "zeros" and start.grid.n_y > lattice.width:
        raise InputError(
            'field.ill_posed = "cutoff": signals that do not vanish at the edges of lattice.padding = "zeros" would'
            f" ring there; use n_y = {lattice.width} as the lattice (and refine_y = 1), or padding circular or reflect"
        )
    return cutoff(lattice.a_y)


def check_start(
    start: FieldState,
    order: int,
    scheme: DepthScheme,
    *,
    width_order: int | None = None,
    stencil: int = STENCIL,
    ill_posed: str = "refuse",
    largest: float = 0.0,
) -> WaveGrowth:
    """`admit` and `check` the theory that `simulate` would integrate, before anything is allocated or written.

    largest : `largest_input` of its boundary; 0: signals are not looked at.
    """
    lattice, grid = start.lattice, start.grid
    operator = lattice.range.operator(np, grid, lattice.a_y, lattice.padding, width_order, stencil)
    equation = lattice.law.bulk(order, operator, get_activation(lattice.activation), lattice.a_x)
    q_max = admit(start, operator, ill_posed, largest)
    return check(lattice, grid, equation, scheme, np.asarray(start.w), q_max, largest=largest)
