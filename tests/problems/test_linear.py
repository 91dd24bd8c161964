"""Linear problems: solution, adjoint and gradient in closed form against marching, and the lattice's own powers."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.problems import Linear
from bbdfield.problems.base import relative
from solvers.grids import Grid
from solvers.interpolation import apply_along_first
from solvers.sweeps import SCHEMES, DepthMarch

NAMES = ("kernel", "taps", "derivative")
PADDINGS = ("circular", "reflect")


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_network_multiplies_waves_as_stated(lattices, network, name, padding, tied):
    for scaling, variation in (("residual", 0.5), ("plain", 0.0)):
        problem = Linear(lattices(name, tied, padding=padding, scaling=scaling), variation=variation)
        sites = problem.sites()
        assert sites.shape == (5, 8, 2, 2)
        assert relative(network(problem), sites) < 1e-13


def test_one_wave_is_a_power_on_the_lattice_and_an_exponential_in_the_field(lattices):
    """One channel, uniform wave, b = 0: (1 + a_x K)^m against e^{Kx}."""
    lattice = lattices(channels=1, depth=10)
    problem = Linear(lattice, modes=0, variation=0.0, samples=1)
    k = float(problem.weights(np.zeros(1), np.zeros(1), lattice.range.components(lattice.grid)).sum()) * lattice.a_y
    b = float(problem.bias(np.zeros(1), np.zeros(1))[0, 0, 0])
    start = problem.start(lattice.grid)[0, 0, 0] + b / k
    powers = (1 + k / 10) ** np.arange(11) * start - b / k
    assert np.allclose(problem.sites()[:, 0, 0, 0], powers, rtol=1e-13, atol=1e-13)
    x = lattice.grid.x_sites
    on_cells = problem.on_cells(x, lattice.grid)[:, 0, 0, 0]
    assert np.allclose(on_cells, np.exp(k * x) * start - b / k, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("order", [0, 1])
def test_uniform_kernels_symbol_is_a_sine(lattices, order):
    """ŵ = K/2r gives K sin(qr)/(qr): the exact solution does not come from the operator that is measured."""
    lattice = lattices(channels=1)
    problem = Linear(lattice, variation=0.0, samples=1)
    object.__setattr__(problem.profile, "table", np.array([[[2.0]], [[0.0]], [[0.0]]]) / (2 * 3 / 16))
    qr = problem.q[1:] * 3 / 16
    k = 2.0 * np.concatenate([[1.0], np.sin(qr) / qr])
    rate = k - order * lattice.a_x / 2 * k**2
    z0, b = problem._amplitudes[0][:, 0, 0], problem._amplitudes[2][:, 0, 0]
    waves = np.exp(1j * np.multiply.outer(Grid(1, 16).y, problem.q))
    # (e^{x rate} − 1) b/k is the forced part at both orders: rate = K γ
    expected = (waves @ (np.exp(0.7 * rate) * z0 + np.expm1(0.7 * rate) / k * b)).real
    assert np.allclose(problem.exact(0.7, Grid(1, 16).y, order)[0, :, 0, 0], expected, rtol=1e-12, atol=1e-12)


def march_back(problem, grid, order):
    """(λ at the sites, functional gradients on the links) by the adjoint of an RK4 march."""
    depth = DepthMarch(problem.equation(grid, order), grid, SCHEMES["rk4"])
    state, r = problem.fields(grid), depth.reconstruction
    nodes = tuple(apply_along_first(r.interpolation, part) for part in (state.w, state.b))
    sweep = depth.forward(problem.start(grid), nodes)
    bars = tuple(np.zeros_like(part) for part in nodes)

    def add(node, cotangents):
        for bar, value in zip(bars, cotangents, strict=True):
            bar[node] += value

    lam = np.stack(depth.adjoint(sweep, nodes, grid.h_y * problem.end(grid), add)) / grid.h_y
    cell = problem.lattice.range.cell(grid.h_y) * (1.0 if problem.lattice.range.tied else grid.h_y)
    g_w, g_b = (apply_along_first(r.gradient_map, bar) for bar in bars)
    return lam, g_w / cell, g_b / grid.h_y


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_adjoint_and_gradient(lattices, fitted_order, name, padding, tied):
    """They converge to the formulas as h_y² (kernel) or h_y⁴ (differences), the gradient inside the depth.

    The gradient of a tied weight is a sum over the cells, the midpoint rule. Between reflecting edges λ ∂_yẑ is no even
    function, so that this rule is second order, whatever the stencil.
    """
    problem = Linear(lattices(name, tied, padding=padding))
    widths = (24, 40, 56) if name == "kernel" else (24, 32, 40) if tied else (16, 24, 32)
    errors = {"lambda": [], "w": [], "b": []}
    for n_y in widths:
        grid = Grid(96, n_y)
        lam, g_w, g_b = march_back(problem, grid, 0)
        exact_w, exact_b = problem.gradient(grid)
        assert g_w.shape == exact_w.shape == problem.fields(grid).w.shape
        errors["lambda"].append(relative(lam, problem.adjoint(grid.x_sites, grid.y)))
        middle = slice(24, 72)
        errors["w"].append(relative(g_w[middle], exact_w[middle]))
        errors["b"].append(relative(g_b[middle], exact_b[middle]))
    for key, values in errors.items():
        second = name == "kernel" or (key == "w" and tied and padding == "reflect")
        assert abs(fitted_order(1 / np.array(widths), values) - (2 if second else 4)) < 0.15, (key, errors)


@pytest.mark.parametrize(("scaling", "order"), [("residual", 1), ("plain", 1)])
def test_adjoint_at_order_1(lattices, scaling, order):
    problem = Linear(lattices(scaling=scaling), variation=0.5 if scaling == "residual" else 0.0)
    errors = []
    for n_y in (24, 40, 56):
        grid = Grid(32, n_y)
        errors.append(relative(march_back(problem, grid, order)[0], problem.adjoint(grid.x_sites, grid.y, order)))
    assert errors[-1] < 0.01
    assert errors[1] / errors[2] == pytest.approx((56 / 40) ** 2, rel=0.1)


def test_the_loss_changes_as_the_gradient_says(lattices):
    """δ∫p·ẑ(L) along the change ŵ → (1 + ε)ŵ, b̂ → (1 + ε)b̂ is a change of depth scale, known from the solution."""
    lattice = lattices()
    problem = Linear(lattice, variation=0.0)
    y, weight = np.polynomial.legendre.leggauss(60)
    y, weight = (y + 1) / 2, weight / 2
    end = problem._waves(problem._amplitudes[1], y)

    def loss(x):
        return float(np.einsum("y,ycs,ycs->", weight, end, problem.exact(x, y)[0]))

    stretched = (loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5
    grid = Grid(400, 56)
    g_w, g_b = problem.gradient(grid)
    state = problem.fields(grid)
    inner = (np.vdot(g_w, state.w) * grid.h_y + np.vdot(g_b, state.b)) * grid.h_x * grid.h_y
    assert inner == pytest.approx(stretched, rel=1e-3)


def test_refusals(lattices):
    with pytest.raises(InputError, match=r'lattice.activation = "tanh": its solution needs "identity"'):
        Linear(lattices(activation="tanh"))
    with pytest.raises(InputError, match=r'padding = "zeros": its solution needs "circular" or "reflect"'):
        Linear(lattices(padding="zeros"))
    with pytest.raises(InputError, match="variation = 0"):
        Linear(lattices(scaling="plain"))
    with pytest.raises(InputError, match="no solution of order 2 is known"):
        Linear(lattices()).exact(0.5, 0.5, 2)
    with pytest.raises(InputError, match="no gradient is known"):
        Linear(lattices(scaling="plain"), variation=0.0).gradient(Grid(2, 8))
