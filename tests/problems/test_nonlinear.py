"""Uniform, transport, diffusion and manufactured problems: formulas against their defining properties."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.model.scalings import SCALINGS
from bbdfield.problems import (
    Advection,
    Burgers,
    CriticalCubic,
    Diffusion,
    Manufactured,
    PlainRelaxation,
    TanhGrowth,
    Uniform,
)
from bbdfield.problems.base import relative
from solvers.grids import Grid

RANGES = ("kernel", "taps", "derivative")


def slope_in_x(problem, x, y, order=None, h=1e-3):
    """∂_x of the exact solution by sixth-order differences."""
    z = problem.exact(x + h * np.arange(-3, 4), y, order)
    return np.tensordot([-1 / 60, 3 / 20, -3 / 4, 0, 3 / 4, -3 / 20, 1 / 60], z, 1) / h


# uniform


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("name", RANGES)
def test_every_range_has_the_same_uniform_fields(lattices, network, name, scaling):
    lattice = lattices(name, activation="tanh", scaling=scaling, depth=6)
    problem = Uniform(lattice, seed=1)
    assert relative(network(problem), problem.sites()) < 1e-12
    assert np.ptp(problem.march(Grid(8, 8)), axis=1).max() < 1e-11
    reference = Uniform(lattices("taps", activation="tanh", scaling=scaling, depth=6), seed=1)
    assert relative(problem.sites(), reference.sites()) == 0.0


def test_exact_solutions_by_formula_agree_with_the_integration(lattices):
    """The ordinary differential equation's integrator at order 0, which the formulas replace."""
    grow = TanhGrowth(lattices(channels=1, activation="tanh"))
    cubic = CriticalCubic(lattices(channels=1, activation="tanh", scaling="critical", kappa=0.7), w=0.8)
    relax = PlainRelaxation(lattices(channels=1, scaling="plain"))
    x = np.linspace(0, 1, 7)
    for problem in (grow, cubic, relax):
        formula = problem.exact(x, 0.0)[:, 0]
        assert np.max(np.abs(formula - problem._integrated(x, problem.orders[0]))) < 1e-11


def test_tanh_growth_is_exponential_in_sinh(lattices):
    problem = TanhGrowth(lattices(channels=1, activation="tanh"), w=1.3, variation=0.0)
    assert np.sinh(problem.exact(1.0, 0.0)).ravel() == pytest.approx(np.exp(1.3) * np.sinh([0.3, -0.8, 1.5]), rel=1e-13)


@pytest.mark.parametrize(("w", "end"), [(2.0, np.sqrt(2.0 / 0.5)), (-2.0, 0.0), (0.0, None)])
def test_critical_cubic_ends_where_it_must(lattices, w, end):
    """At √(w/κ) for w > 0, at 0 for w < 0; at w = 0 as ẑ_0/√(1 + 2κẑ_0²x)."""
    lattice = lattices(channels=1, activation="tanh", scaling="critical", kappa=0.5, length_x=20.0)
    z = CriticalCubic(lattice, w=w).exact(20.0, 0.0).ravel()
    start = np.array([0.3, -0.8, 1.5])
    expected = start / np.sqrt(1 + 20 * start**2) if end is None else np.sign(start) * end
    assert z == pytest.approx(expected, abs=1e-12)


def test_plain_field_and_lattice_decay_as_stated(lattices):
    """To z* = w tanh z* + b, at 2(1 − A)/(1 + A) and −ln A per layer."""
    problem = PlainRelaxation(lattices(channels=1, activation="tanh", scaling="plain", depth=40))
    z = problem.fixed_point
    assert z == pytest.approx(0.6 * np.tanh(z) + 0.3, abs=1e-14)
    a = problem.multiplier
    sites = problem.sites()[:, 0, 0, 0] - z
    assert sites[21] / sites[20] == pytest.approx(a, rel=1e-3)
    x = np.array([20, 21]) / 40
    field = problem.exact(x, 0.0)[:, 0, 0, 0] - z
    assert np.log(field[0] / field[1]) == pytest.approx(2 * (1 - a) / (1 + a), rel=1e-3)
    assert np.log(field[0] / field[1]) != pytest.approx(-np.log(a), rel=1e-2)


# transport


@pytest.mark.parametrize("kind", [Advection, Burgers])
def test_transport_solves_its_equation(lattices, kind):
    activation = "identity" if kind is Advection else "tanh"
    problem = kind(lattices("derivative", activation=activation))
    n = 256
    y = (np.arange(n) + 0.5) / n
    for x in (0.1, 0.6):
        z = problem.exact(x, y)[0]
        flux = z if kind is Advection else np.tanh(z)
        wave_numbers = 2j * np.pi * np.fft.rfftfreq(n, 1 / n)
        flux_y = np.fft.irfft(wave_numbers[:, None, None] * np.fft.rfft(flux, axis=0), n=n, axis=0)
        c = problem.speed * 0.1 * (1 + 0.5 * np.cos(np.pi * x))
        assert relative(slope_in_x(problem, x, y)[...], c * flux_y) < 1e-8


@pytest.mark.parametrize("speed", [0.5, -0.5])
def test_burgers_keeps_its_values_along_characteristics(lattices, speed):
    problem = Burgers(lattices("derivative", activation="tanh", length_y=2.0), speed=speed, variation=0.0)
    y_0 = np.linspace(0, 2, 21)
    z_0 = problem.exact(0.0, y_0)[0, :, 0, 1]
    arrived = y_0 - speed * 0.1 * (1 - np.tanh(z_0) ** 2) * 0.8
    found = [problem.exact(0.8, y)[0, 0, 0, 1] for y in arrived]
    assert np.max(np.abs(found - z_0)) < 1e-13


def test_burgers_refuses_a_shock_inside_the_depth(lattices):
    lattice = lattices("derivative", activation="tanh")
    steepest = Burgers(lattice, speed=0.1)._steepest
    Burgers(lattice, speed=9.9 / steepest)
    with pytest.raises(InputError, match=f"a shock forms where .* = {1 / steepest:.4g}"):
        Burgers(lattice, speed=10.1 / steepest)


def test_advection_moves_to_the_left_by_the_integral_of_its_speed(lattices):
    problem = Advection(lattices("derivative"), speed=2.0, variation=0.0)
    y = np.linspace(0, 1, 9)
    assert np.allclose(problem.exact(1.0, y), problem.exact(0.0, y + 0.2), rtol=1e-13)


# diffusion


@pytest.mark.parametrize("padding", ["circular", "reflect", "zeros"])
def test_the_lattice_multiplies_diffusions_modes_as_stated(lattices, network, padding):
    problem = Diffusion(lattices("derivative", padding=padding, width=9), stencil=2, modes=3)
    sites = problem.sites()
    assert relative(network(problem, problem.start_on_cells(problem.lattice.grid)), sites) < 1e-13


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("padding", ["circular", "reflect", "zeros"])
def test_diffusions_modes_on_cells_are_those_of_the_operator(lattices, padding, order):
    """With the grid's own walls an RK4 march is exact but for its depth steps."""
    problem = Diffusion(lattices("derivative", padding=padding), stencil=2, modes=3)
    grid = Grid(128, 11)
    found = problem.march(grid, "rk4", order)
    from_cells = dataclasses.replace(problem)
    object.__setattr__(from_cells, "start", lambda g: problem.start_on_cells(g))
    assert relative(from_cells.march(grid, "rk4", order), problem.on_cells(grid.x_sites, grid, order)) < 1e-8
    assert (relative(found, problem.on_cells(grid.x_sites, grid, order)) > 1e-3) == (padding == "zeros")


def test_diffusion_refuses_the_backward_equation(lattices):
    with pytest.raises(InputError, match="ill posed"):
        Diffusion(lattices("derivative"), strength=-1.0)
    with pytest.raises(InputError, match="modes on cells are known for 2"):
        Diffusion(lattices("derivative")).on_cells(0.5, Grid(2, 8))


# manufactured


@pytest.mark.parametrize("padding", ["circular", "reflect"])
@pytest.mark.parametrize("name", RANGES)
def test_manufactured_fields_are_smooth_across_the_edge(lattices, name, padding):
    problem = Manufactured(lattices(name, padding=padding, activation="tanh"))
    edge, h = np.array([0.0]), 0.02
    outside, inside = problem.exact(0.3, edge - h)[0], problem.exact(0.3, edge + h)[0]
    wrapped = problem.exact(0.3, 1 - edge - h)[0]
    assert np.allclose(outside, inside if padding == "reflect" else wrapped, rtol=1e-13)
    assert not np.allclose(inside, wrapped)


def test_the_two_sources_differ_by_the_widths_error_only(lattices):
    exact = Manufactured(lattices(activation="tanh"))
    own = dataclasses.replace(exact, on_cells=True)
    differences = [np.abs(exact.fields(Grid(3, n)).b - own.fields(Grid(3, n)).b).max() for n in (24, 72)]
    assert differences[0] / differences[1] == pytest.approx(9, rel=0.1)


def test_manufactured_refusals(lattices):
    with pytest.raises(InputError, match="sees a jump at the edge"):
        Manufactured(lattices("taps", padding="zeros"))
    with pytest.raises(InputError, match="use 0 or 1"):
        Manufactured(lattices("taps", scaling="plain"))
    with pytest.raises(InputError, match="no solution of order 1 is known"):
        Manufactured(lattices()).exact(0.1, 0.1, 1)


@pytest.mark.parametrize("kind", [Advection, Diffusion])
def test_problems_of_one_range_refuse_others(lattices, kind):
    with pytest.raises(InputError, match=f'{kind.__name__}: lattice.range = "kernel"'):
        kind(lattices())
    with pytest.raises(InputError, match=r"TanhGrowth: lattice.channels = 2: needs 1"):
        TanhGrowth(lattices(activation="tanh"))
