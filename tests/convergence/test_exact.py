"""Every depth scheme, range and scaling against a problem whose solution is known (`bbdfield.problems`).

Orders are fitted over three grids, on which the two local orders must agree. The tables of docs/exact-solutions.md
hold what is measured here.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from bbdfield.comparison.orders import Fit, fit_order
from bbdfield.lattice.network import forward
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import Lattice
from bbdfield.model.ranges import Derivative, Kernel, Taps
from bbdfield.model.units import to_lattice
from bbdfield.problems import (
    Advection,
    Burgers,
    CriticalCubic,
    Diffusion,
    Linear,
    Manufactured,
    PlainRelaxation,
    TanhGrowth,
    Uniform,
)
from bbdfield.problems.base import relative
from solvers.grids import Grid
from solvers.sweeps import SCHEMES

DOCUMENT = Path(__file__).parents[2] / "docs" / "exact-solutions.md"
TOLERANCE = 0.15
#: of sixth-order differences that are not yet on fine enough grids
TOLERANCE_SIXTH = 0.25

#: as the document calls them -> range, width order
RANGES = {
    "kernel": (Kernel("3/16"), None),
    "taps, p = 0": (Taps(3), 0),
    "taps, p = 1": (Taps(3), 1),
    "taps, p = 2": (Taps(3), 2),
    "derivative": (Derivative(0.1), None),
}
#: for plain, a second moment makes 1 + 𝒦σ' singular
PAIRS = [(s, r) for s in ("residual", "critical", "plain") for r in RANGES if (s, r) != ("plain", "taps, p = 2")]
SIZES = {"euler": (64, 128, 256), "midpoint": (32, 64, 128), "rk4": (24, 48, 96)}
STENCILS = (2, 4, 6)


def lattice(scaling: str = "residual", kind: str = "kernel", **changes) -> Lattice:
    settings = {"depth": 4, "width": 8, "channels": 2, "padding": "circular", "range": RANGES[kind][0]}
    return Lattice(scaling=scaling, **(settings | changes))


def order_of(spacings, errors, declared: float, tolerance: float = TOLERANCE) -> Fit:
    """The fitted order, which must be the declared one at every pair of grids."""
    fit = fit_order(spacings, errors)
    assert abs(fit.order - declared) < tolerance, (fit, errors)
    assert abs(fit.local[-1] - fit.local[-2]) < tolerance, (fit, errors)
    return fit


@cache
def documented(heading: str) -> dict[tuple[str, str], list[float]]:
    """Numbers of the document's table under a heading: (first cell, second cell) -> the others."""
    text = DOCUMENT.read_text(encoding="utf-8")
    lines = text[text.index(heading) :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    rows = {}
    for line in lines[first + 1 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[cells[0], cells[1]] = [float(cell) for cell in cells[2:] if cell]
    return rows


def as_documented(fit: Fit, heading: str, row: tuple[str, str], column: int) -> bool:
    return abs(documented(heading)[row][column] - fit.order) < 0.011


def test_the_document_names_these_tolerances():
    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    assert f"every slope within {TOLERANCE} of what is declared, and its two local orders within {TOLERANCE} of" in text
    assert f"sixth-order differences, whose grids are not fine enough for that, within {TOLERANCE_SIXTH} (" in text


# every scheme x range x scaling, nonlinear


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("scaling", "kind"), PAIRS)
def test_depth_order(scaling, kind, scheme):
    """With the width's own 𝒦 in the source, the march's error is that of its depth scheme."""
    problem = Manufactured(lattice(scaling, kind), width_order=RANGES[kind][1], on_cells=True, seed=2)
    errors = [problem.error(Grid(n, 8), scheme) for n in SIZES[scheme]]
    fit = order_of([1 / n for n in SIZES[scheme]], errors, SCHEMES[scheme].order)
    assert as_documented(fit, "### Depth", (scaling, kind), list(SCHEMES).index(scheme))


@pytest.mark.parametrize("stencil", STENCILS)
@pytest.mark.parametrize(("scaling", "kind"), [pair for pair in PAIRS if pair[1] not in ("kernel", "taps, p = 0")])
def test_order_of_differences_in_width(scaling, kind, stencil):
    """With the exact 𝒦 in the source and depth steps small enough, the error is that of ∂_y."""
    widths = (40, 52, 64) if stencil == 6 else (16, 24, 32)
    given = lattice(scaling, kind, width=16, depth=1 if scaling == "plain" else 4)  # plain: rates are 2/a_x
    problem = Manufactured(given, width_order=RANGES[kind][1], stencil=stencil, seed=2)
    errors = [problem.error(Grid(64 if scaling == "plain" else 128, n)) for n in widths]
    fit = order_of([1 / n for n in widths], errors, stencil, tolerance=TOLERANCE_SIXTH if stencil == 6 else TOLERANCE)
    assert as_documented(fit, "### Width", (scaling, kind), STENCILS.index(stencil))


@pytest.mark.parametrize("padding", ["circular", "reflect", "zeros"])
@pytest.mark.parametrize("scaling", ["residual", "critical", "plain"])
def test_order_of_the_kernel_in_width(scaling, padding):
    """2 with every padding: the radius ends on cell edges, and so does the width."""
    given = lattice(scaling, padding=padding, depth=1 if scaling == "plain" else 4)
    problem = Manufactured(given, modes=1, seed=2)
    errors = [problem.error(Grid(32, n)) for n in (24, 40, 56)]
    fit = order_of([1 / n for n in (24, 40, 56)], errors, 2)
    if padding == "circular":
        assert as_documented(fit, "### Width", (scaling, "kernel"), 0)


@pytest.mark.parametrize("scaling", ["residual", "critical", "plain"])
def test_taps_at_width_order_0_have_no_error_in_width(scaling):
    """𝒦 is pointwise: the same error, that of the depth, on every width."""
    problem = Manufactured(lattice(scaling, "taps, p = 0"), width_order=0, seed=2)
    fine, coarse = problem.march(Grid(32, 45)), problem.march(Grid(32, 3))
    assert relative(fine[:, 7::15], coarse) < 1e-13
    assert 0 < relative(coarse, problem.exact(Grid(32, 3).x_sites, Grid(32, 3).y)) < 1e-6


# closed forms, order 1 too


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("scaling", "kind", "order"),
    [
        (scaling, kind, order)
        for scaling, kind in PAIRS
        for order in (0, 1)
        if scaling == "residual" or (scaling == "plain" and order == 1)
    ],
)
def test_depth_order_of_linear_problems(scaling, kind, order, scheme):
    """Against matrix exponentials in depth."""
    given = lattice(scaling, kind, activation="identity")
    problem = Linear(given, width_order=RANGES[kind][1], variation=0.5 if given.law.limit else 0.0)
    sizes = {"euler": (64, 128, 256), "midpoint": (64, 128, 256), "rk4": (48, 96, 192)}[scheme]
    errors = []
    for n in sizes:
        grid = Grid(n, 8)
        errors.append(relative(problem.march(grid, scheme, order), problem.on_cells(grid.x_sites, grid, order)))
    order_of([1 / n for n in sizes], errors, SCHEMES[scheme].order)


def uniform(scaling: str):
    return Uniform(lattice(scaling, depth=1 if scaling == "plain" else 4), seed=0)


def tanh_growth(scaling: str):
    return TanhGrowth(lattice(channels=1), w=1.5)


def cubic(scaling: str):
    return CriticalCubic(lattice(scaling, channels=1), w=1.5)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("make", "scaling", "order"),
    [
        (uniform, "residual", 0),
        (uniform, "residual", 1),
        (uniform, "critical", 0),
        (uniform, "critical", 1),
        (uniform, "plain", 1),
        (tanh_growth, "residual", 0),
        (tanh_growth, "residual", 1),
        (cubic, "critical", 0),
        (cubic, "critical", 1),
    ],
)
def test_depth_order_of_uniform_fields(make, scaling, order, scheme):
    sizes = {"euler": (64, 128, 256), "midpoint": (64, 128, 256), "rk4": (48, 96, 192)}[scheme]
    problem = make(scaling)
    errors = [problem.error(Grid(n, 8), scheme, order) for n in sizes]
    order_of([1 / n for n in sizes], errors, SCHEMES[scheme].order)


@pytest.mark.parametrize("stencil", STENCILS)
@pytest.mark.parametrize("kind", [Advection, Burgers])
def test_transport_in_width(kind, stencil):
    activation = "identity" if kind is Advection else "tanh"
    problem = kind(lattice("residual", "derivative", activation=activation), stencil=stencil)
    widths = (48, 64, 80) if stencil < 6 else (64, 80, 96)
    errors = [problem.error(Grid(96, n)) for n in widths]
    tolerance = TOLERANCE_SIXTH if kind is Burgers and stencil == 6 else TOLERANCE
    order_of([1 / n for n in widths], errors, stencil, tolerance)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_advection_in_depth(scheme):
    """With the sixth-order stencil on 128 cells. Euler and midpoint amplify every wave a little (by e^{h_x c²q²x/2} and
    e^{h_x³c⁴q⁴x/8}): they converge, with steps that shrink with the cells. RK4 is measured at four times the speed.
    """
    given = lattice("residual", "derivative", activation="identity")
    problem = Advection(given, speed=4.0 if scheme == "rk4" else 1.0, stencil=6)
    sizes = (48, 72, 96) if scheme == "rk4" else (64, 128, 256)
    errors = [problem.error(Grid(n, 128), scheme) for n in sizes]
    order_of([1 / n for n in sizes], errors, SCHEMES[scheme].order)


@pytest.mark.parametrize("stencil", STENCILS)
@pytest.mark.parametrize("padding", ["circular", "reflect"])
def test_diffusion_in_width(padding, stencil):
    problem = Diffusion(lattice("residual", "derivative", activation="identity", padding=padding), stencil=stencil)
    errors = [problem.error(Grid(64, n)) for n in (16, 24, 32)]
    order_of([1 / n for n in (16, 24, 32)], errors, stencil)


@pytest.mark.parametrize("stencil", STENCILS)
def test_zero_padding_puts_the_walls_half_a_cell_outside(stencil):
    """Against walls at the edges: order 1 whatever the stencil."""
    given = lattice(activation="identity", padding="zeros", range=Derivative(0.4))
    problem = Diffusion(given, stencil=stencil, modes=1)
    errors = [problem.error(Grid(512, n)) for n in (16, 24, 32)]
    order_of([1 / n for n in (16, 24, 32)], errors, 1)


# lattice and field

DEPTHS = (32, 64, 128)


def against_lattice(problem_at, order: int, depths=DEPTHS) -> list[float]:
    """Relative L2 error of the field at the lattice's sites, both exact."""
    errors = []
    for depth in depths:
        problem = problem_at(depth)
        grid = problem.lattice.grid
        field = (
            problem.on_cells(grid.x_sites, grid, order)
            if isinstance(problem, Linear)
            else problem.exact(grid.x_sites, grid.y, order)
        )
        errors.append(relative(field, problem.sites()))
    return errors


#: problem of a lattice's depth, by the name that the document gives it; differences of accuracy 2 on the lattice's own
#: cells are the lattice's taps, so that only a_x is left
EXACT = {
    ("linear, kernel", "residual"): lambda m: Linear(lattice(activation="identity", depth=m)),
    ("linear, 3 taps", "residual"): lambda m: Linear(
        lattice("residual", "taps, p = 2", activation="identity", depth=m), stencil=2
    ),
    ("linear, derivative", "residual"): lambda m: Linear(
        lattice("residual", "derivative", activation="identity", depth=m), stencil=2
    ),
    ("uniform", "residual"): lambda m: Uniform(lattice(depth=m)),
    ("tanh growth", "residual"): lambda m: TanhGrowth(lattice(channels=1, depth=m), w=1.5),
    ("uniform", "critical"): lambda m: Uniform(lattice("critical", depth=m)),
    ("critical cubic", "critical"): lambda m: CriticalCubic(lattice("critical", channels=1, depth=m), w=1.5),
}


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(("name", "scaling"), EXACT)
def test_field_approaches_the_lattice_one_order_faster_than_the_theorys(name, scaling, order):
    fit = order_of([1 / m for m in DEPTHS], against_lattice(EXACT[name, scaling], order), order + 1)
    assert as_documented(fit, "### Lattice and field", (name, scaling), order)


@pytest.mark.parametrize("order", [0, 1])
def test_both_spacings_together(order):
    """Exact in x and in y against the lattice, N ∝ M: a_x + a_y² at order 0, a_x² + a_y² at order 1."""
    errors = []
    for n in (40, 120, 360):
        problem = Linear(lattice(activation="identity", depth=n, width=n))
        grid = problem.lattice.grid
        errors.append(relative(problem.exact(grid.x_sites, grid.y, order), problem.sites()))
    order_of([1 / 40, 1 / 120, 1 / 360], errors, order + 1)


def test_coefficients_away_from_the_links_cost_an_order():
    """A lattice that takes g(x) at the left end of each layer is first order from both theories: centring matters."""
    errors = {0: [], 1: []}
    for depth in DEPTHS:
        problem = EXACT["tanh growth", "residual"](depth)
        grid = problem.lattice.grid
        sites = [problem.initial()]
        for w in problem.coupling(grid.x_sites[:-1]):
            sites.append(sites[-1] + grid.h_x * w @ np.tanh(sites[-1]))
        for order, found in errors.items():
            found.append(relative(problem.exact(grid.x_sites, 0.0, order)[:, 0], np.stack(sites)))
    for found in errors.values():
        order_of([1 / m for m in DEPTHS], found, 1)


@pytest.mark.parametrize("padding", ["circular", "zeros"])
def test_zero_padded_taps_keep_an_error_in_the_last_cells(padding):
    """Width order 0 sees no edge. With zero padding the network does: the same error in the last cells however narrow
    they are, so order ½ in L2; with periodic padding it agrees to rounding.
    """
    widths, in_l2, largest = (16, 32, 64, 128), [], []
    for width in widths:
        given = lattice("residual", "taps, p = 0", depth=8, width=width, padding=padding)
        problem = Uniform(given, width_order=0)
        state = to_lattice(problem.fields(given.grid))
        activation = get_activation(given.activation)
        z = forward(problem.start(given.grid), state.w, state.b, activation, padding)
        in_l2.append(relative(problem.sites(), z))
        largest.append(np.abs(problem.sites() - z).max())
    if padding == "circular":
        assert max(largest) < 1e-13
    else:
        order_of([1 / n for n in widths], in_l2, 0.5, tolerance=0.05)
        assert largest[-1] == pytest.approx(largest[0], rel=1e-6) and largest[0] > 0.1


def test_plain_networks_have_a_plateau():
    """The error at a given layer does not know a_x; relative to the signal that is left, it grows with the layer."""
    at_layer_3 = []
    for depth in (8, 32, 128):
        problem = PlainRelaxation(lattice("plain", channels=1, depth=depth))
        field = problem.exact(problem.lattice.grid.x_sites, 0.0)[:, 0] - problem.fixed_point
        sites = problem.sites()[:, 0] - problem.fixed_point
        at_layer_3.append(relative(field[3], sites[3]))
    assert np.ptp(at_layer_3) < 1e-10
    assert 0.05 < at_layer_3[0] < 0.3


def test_plain_networks_near_criticality_have_a_limit():
    """w = 1 − αa_x, α = 2: the gradient expansion is second order in a_x."""
    errors = []
    for depth in DEPTHS:
        given = lattice("plain", channels=1, depth=depth, activation="identity")
        problem = PlainRelaxation(given, w=1 - 2 / depth, b=0.3 / depth)
        errors.append(relative(problem.exact(given.grid.x_sites, given.grid.y), problem.sites()))
    order_of([1 / m for m in DEPTHS], errors, 2)
