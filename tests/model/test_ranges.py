"""Ranges: components, the lattice's taps, and the operators on fields against naive sums over neighbours."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.model.architecture import Lattice
from bbdfield.model.ranges import RANGES, Derivative, Kernel, Taps
from solvers.grids import Grid
from solvers.padding import PADDINGS

NUMPY_MODE = {"zeros": "constant", "circular": "wrap", "reflect": "symmetric"}
TIES = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
EVERY_PADDING = pytest.mark.parametrize("padding", PADDINGS)
GRID = Grid(1, 9, length_y=1.8)  # h_y = 0.2
C, B = 2, 3


def neighbours(s, reach, padding):
    """s(y + k), k = -reach..reach, beyond the edges as the padding says: (T, n_y, C, B)."""
    padded = np.pad(s, ((reach, reach), (0, 0), (0, 0)), mode=NUMPY_MODE[padding])
    return np.stack([padded[k : k + len(s)] for k in range(2 * reach + 1)])


def contract(w, s):
    """sum over components p and channels b of w[(y), a, p, b] s[p, y, b, sample]."""
    return np.einsum("apb,pybs->yas" if w.ndim == 3 else "yapb,pybs->yas", w, s)


def draw(seed, count, tied, cells=GRID.n_y):
    rng = np.random.default_rng(seed)
    shape = (C, count, C)
    return rng.standard_normal(shape if tied else (cells, *shape)), rng.standard_normal((cells, C, B))


def close(found, expected, digits=1e-13):
    np.testing.assert_allclose(found, expected, rtol=0, atol=digits * np.abs(expected).max())


# what the components are


def test_every_range_is_registered_under_its_name():
    assert RANGES == {"kernel": Kernel, "taps": Taps, "derivative": Derivative}
    assert {name: kind.dimension for name, kind in RANGES.items()} == {
        "kernel": "u",
        "taps": "tap",
        "derivative": "moment",
    }
    assert [kind.lattice_bounded for kind in RANGES.values()] == [True, True, False]


def test_components_of_a_kernel_are_its_points():
    kernel = Kernel(0.5)  # 2.5 cells
    close(kernel.components(GRID), [-0.4, -0.2, 0.0, 0.2, 0.4])
    close(kernel.components(Grid(1, 27, length_y=1.8)), np.arange(-7, 8) / 15)
    assert kernel.centre(GRID) == 2 and kernel.centre(Grid(1, 27, length_y=1.8)) == 7
    assert (kernel.unit(0.2), kernel.cell(0.3)) == (0.2, 0.3)
    assert kernel.taps(0.2) is None
    assert Kernel("11/80").radius == 11 / 80


def test_components_of_taps_are_their_numbers():
    for grid in (GRID, Grid(1, 27)):
        np.testing.assert_array_equal(Taps(5).components(grid), [-2, -1, 0, 1, 2])
    assert (Taps(5).centre(GRID), Taps(5).unit(0.2), Taps(5).cell(0.3)) == (2, 1.0, 1.0)
    assert Taps(5).taps(0.2) is None


def test_components_of_the_derivative_are_its_moments():
    derivative = Derivative(0.3)
    np.testing.assert_array_equal(derivative.components(GRID), [0, 1, 2])
    assert (derivative.centre(GRID), derivative.unit(0.2), derivative.cell(0.3)) == (0, 1.0, 1.0)


@pytest.mark.parametrize("kind", [Kernel(0.5), Taps(3), Derivative(0.3)], ids=lambda kind: kind.name)
def test_the_centre_is_what_multiplies_the_neurons_own_activation(kind):
    """A lattice whose θ are one on the centre and zero elsewhere sees σ of its own cell, and nothing else."""
    theta = np.zeros(kind.components(GRID).size)
    theta[kind.centre(GRID)] = 1.0
    matrix = kind.taps(GRID.h_y)
    taps = theta if matrix is None else matrix @ theta
    expected = np.zeros(taps.size)
    expected[taps.size // 2] = 1.0
    np.testing.assert_array_equal(taps, expected)


@EVERY_PADDING
def test_the_derivatives_taps_are_its_stencils(padding):
    """Σ_k W_k s(y + k a_y) = ŵ_0 s + ŵ_1 ℓ (s₊ − s₋)/2a_y + ŵ_2 ℓ² (s₊ − 2s + s₋)/a_y²."""
    length, a_y = 0.3, GRID.h_y
    theta, s = draw(1, 3, tied=False)
    w = np.einsum("kp,yapb->yakb", Derivative(length).taps(a_y), theta)
    left, here, right = neighbours(s, 1, padding)
    stencils = np.stack([here, length * (right - left) / (2 * a_y), length**2 * (right - 2 * here + left) / a_y**2])
    close(contract(w, neighbours(s, 1, padding)), contract(theta, stencils))


# operators on fields


@EVERY_PADDING
@TIES
def test_operator_of_a_kernel_is_the_midpoint_rule(tied, padding):
    w, s = draw(2, 5, tied)
    operator = Kernel(0.5, tied).operator(np, GRID, 0.1, padding, None, 4)  # a_y of the lattice plays no part
    close(operator.apply(w, s), GRID.h_y * contract(w, neighbours(s, 2, padding)))
    assert operator.bounded


@EVERY_PADDING
@TIES
@pytest.mark.parametrize("stencil", [2, 4, 6])
@pytest.mark.parametrize("order", [0, 1, 2, None])
def test_operator_of_taps_is_their_taylor_expansion(order, stencil, tied, padding):
    """Σ_n Σ_k ŵ_k (k a_y)^n / n! D_n s with the lattice's a_y, not the grid's h_y."""
    a_y, taps = 0.37, Taps(5, tied)
    w, s = draw(3, 5, tied)
    found = taps.operator(np, GRID, a_y, padding, order, stencil).apply(w, s)
    k = np.arange(-2, 3)
    moments = [np.tensordot(w, (k * a_y) ** n / math.factorial(n), axes=(-2, 0)) for n in range(3)]
    terms = 3 if order is None else order + 1  # the highest by default
    close(found, contract(np.stack(moments[:terms], axis=-2), differences(s, stencil, padding)[:terms]))
    assert taps.operator(np, GRID, a_y, padding, order, stencil).bounded == (order == 0)


def differences(s, stencil, padding, h=GRID.h_y):
    """(D_0 s, D_1 s, D_2 s) of accuracy 2, 4 or 6, from textbook coefficients."""
    first = {2: [1 / 2], 4: [2 / 3, -1 / 12], 6: [3 / 4, -3 / 20, 1 / 60]}[stencil]
    second = {2: [-2, 1], 4: [-5 / 2, 4 / 3, -1 / 12], 6: [-49 / 18, 3 / 2, -3 / 20, 1 / 90]}[stencil]
    reach = stencil // 2
    beside = neighbours(s, reach, padding)
    d1 = sum(c * (beside[reach + j] - beside[reach - j]) for j, c in enumerate(first, 1)) / h
    d2 = second[0] * s + sum(c * (beside[reach + j] + beside[reach - j]) for j, c in enumerate(second[1:], 1))
    return np.stack([s, d1, d2 / h**2])


@EVERY_PADDING
@TIES
@pytest.mark.parametrize("stencil", [2, 4, 6])
def test_operator_of_the_derivative_is_the_differential_operator(stencil, tied, padding):
    length = 0.3
    w, s = draw(4, 3, tied)
    operator = Derivative(length, tied).operator(np, GRID, 0.1, padding, None, stencil)
    scales = np.array([1.0, length, length**2])[:, None, None, None]
    close(operator.apply(w, s), contract(w, scales * differences(s, stencil, padding)))
    assert not operator.bounded


@EVERY_PADDING
@TIES
@pytest.mark.parametrize("kind", [Kernel, Taps, Derivative])
def test_on_its_own_grid_the_lattice_and_the_field_act_alike(kind, tied, padding):
    """Second-order differences at h_y = a_y: derivatives and 3 taps to width order 2 are the lattice's own sums."""
    chosen = {Kernel: Kernel(0.5, tied), Taps: Taps(3, tied), Derivative: Derivative(0.3, tied)}[kind]
    a_y = GRID.h_y
    w, s = draw(5, chosen.components(GRID).size, tied)
    matrix = chosen.taps(a_y)
    theta = chosen.unit(a_y) * w
    taps = theta if matrix is None else np.einsum("kp,...apb->...akb", matrix, theta)
    lattice = contract(taps, neighbours(s, taps.shape[-2] // 2, padding))
    close(chosen.operator(np, GRID, a_y, padding, None, 2).apply(w, s), lattice)


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_width_order_p_leaves_an_error_of_order_p_plus_1(order, count, fitted_order):
    """Against the true sum Σ_k ŵ_k(y) s(y + k a_y) of smooth periodic functions, on a grid fine enough for ∂_y."""
    grid = Grid(1, 512)
    k = np.arange(count) - count // 2

    def s(y):
        return np.exp(np.sin(2 * np.pi * y + 0.4))

    w = np.sin(2 * np.pi * grid.y[:, None] + 1.3 * k) + 0.5 * k + 0.2 * k**2
    spacings, errors = 1 / np.array([32, 64, 128]), []
    for a_y in spacings:
        exact = sum(w[:, i] * s(grid.y + k[i] * a_y) for i in range(count))
        operator = Taps(count).operator(np, grid, a_y, "circular", order, 6)
        errors.append(np.abs(operator.apply(w[:, None, :, None], s(grid.y)[:, None, None])[:, 0, 0] - exact).max())
    assert fitted_order(spacings, errors) == pytest.approx(order + 1, abs=0.1)
    assert errors[-1] > 1e-8  # well above the error of the differences


def test_width_order_2_is_exact_for_parabolas():
    grid = Grid(1, 30)
    w = np.random.default_rng(6).standard_normal((1, 3, 1))
    y = grid.y
    s, a_y = (0.3 - y + 2 * y**2)[:, None, None], 0.07
    exact = sum(w[0, k + 1, 0] * (0.3 - (y + k * a_y) + 2 * (y + k * a_y) ** 2) for k in (-1, 0, 1))
    found = Taps(3, tied=True).operator(np, grid, a_y, "zeros", 2, 4).apply(w, s)[:, 0, 0]
    close(found[2:-2], exact[2:-2], 1e-12)


@TIES
@pytest.mark.parametrize("kind", [Kernel, Taps, Derivative])
def test_symbol_is_the_operator_on_waves(kind, tied):
    """On circular padding the operator multiplies e^{iqy} by its symbol wherever ŵ is the same."""
    chosen = {Kernel: Kernel(0.5, tied), Taps: Taps(3, tied), Derivative: Derivative(0.3, tied)}[kind]
    operator = chosen.operator(np, GRID, 0.1, "circular", None, 4)
    w = np.random.default_rng(7).standard_normal((C, chosen.components(GRID).size, C))
    q = 2 * np.pi / GRID.length_y * np.arange(5)
    symbol = operator.symbol(w, q)
    everywhere = w if tied else np.broadcast_to(w, (GRID.n_y, *w.shape))
    for number, at in zip(q, symbol, strict=True):
        wave = np.exp(1j * number * GRID.y)[:, None, None] * np.eye(C)
        close(operator.apply(everywhere, wave), np.exp(1j * number * GRID.y)[:, None, None] * at)


def test_components_on_another_grid():
    """Taps and moments are numbers, the same on every grid; a kernel is a function of u."""
    fine = Grid(1, 27, length_y=1.8)
    for kind in (Taps(3), Derivative(0.3)):
        for averaged in (False, True):
            np.testing.assert_array_equal(kind.onto(GRID, fine, averaged), np.eye(3))
    kernel = Kernel(0.5)
    here, there = kernel.components(GRID), kernel.components(fine)
    close(kernel.onto(GRID, fine) @ (1 - here + here**3), 1 - there + there**3)
    averages = [u**2 + h**2 / 12 for u, h in ((there, fine.h_y), (here, GRID.h_y))]  # of u² over cells
    close(kernel.onto(fine, GRID, averaged=True) @ averages[0], averages[1])


# random initial fields


def test_spread_and_mean_of_each_range():
    np.testing.assert_allclose(Taps(3).spread(0.1, GRID, None), np.ones(3) / np.sqrt(3))
    np.testing.assert_allclose(Taps(3).spread(0.1, GRID, (1, 2, 3)), np.array([1, 2, 3]) / np.sqrt(3))
    np.testing.assert_array_equal(Derivative().spread(0.1, GRID, None), [1, 1, 0])
    np.testing.assert_array_equal(Derivative().spread(0.1, GRID, (1, 2, 3)), [1, 2, 3])
    np.testing.assert_array_equal(Taps(3).mean(GRID, None), np.zeros(3))
    np.testing.assert_array_equal(Taps(3).mean(GRID, (1, 2, 3)), [1, 2, 3])
    np.testing.assert_array_equal(Derivative().mean(GRID, None), [0, 0, 1])
    np.testing.assert_array_equal(Derivative().mean(GRID, (1, 2, 3)), [1, 2, 3])
    np.testing.assert_array_equal(Kernel(0.5).mean(GRID, None), np.zeros(5))
    # the kernel whose row sum h_y Σ_k ŵ_k is the number
    assert GRID.h_y * Kernel(0.5).mean(GRID, (0.7,)).sum() == pytest.approx(0.7, rel=1e-14)


# what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Kernel("eleven"), r"lattice\.radius = 'eleven': needs a number or a fraction"),
        (lambda: Kernel("1/0"), r"lattice\.radius = '1/0': needs a number or a fraction"),
        (lambda: Kernel(0.0), r"lattice\.radius = 0\.0: needs a positive number"),
        (lambda: Kernel(0.1, "tied"), r"lattice\.weights = 'tied': Kernel\.tied needs True or False"),
        (lambda: Kernel(0.45).components(GRID), r"kernel radius 0\.45 is not on a cell edge"),
        (lambda: Taps(2), r"lattice\.taps = 2: needs an odd number of taps"),
        (lambda: Taps(-1), r"lattice\.taps = -1: needs an odd number of taps"),
        (lambda: Taps(3.0), r"lattice\.taps = 3\.0: needs an odd number of taps"),
        (lambda: Taps(True), r"lattice\.taps = True: needs an odd number of taps"),
        (lambda: Taps(3, 1), r"lattice\.weights = 1: Taps\.tied needs True or False"),
        (lambda: Taps(11).components(GRID), r"lattice\.taps = 11: wider than the 9 cells"),
        (lambda: Taps(11).spread(0.1, GRID, (1.0,)), r'initial\.spread = \[1\.0\]: .* "taps" needs 11 numbers'),
        (lambda: Taps(1).mean(GRID, (1.0, 2.0)), r'initial\.mean = .*: lattice\.range = "taps" needs 1 number$'),
        (lambda: Derivative(0.0), r"lattice\.length = 0\.0: needs a length from 1e-6 to 1000"),
        (lambda: Derivative(float("inf")), r"lattice\.length = inf: needs a length from 1e-6 to 1000"),
        (lambda: Derivative("short"), r"lattice\.length = 'short': needs a length from 1e-6 to 1000"),
        (lambda: Derivative(0.1, None), r"lattice\.weights = None: Derivative\.tied needs True or False"),
        (lambda: Derivative().components(Grid(1, 2)), r"its stencils need 3 cells of width, not 2"),
        (lambda: Derivative().spread(0.1, GRID, (1.0,)), r'initial\.spread = .* "derivative" needs 3 numbers'),
        (lambda: Derivative().mean(GRID, (1.0,)), r'initial\.mean = .* "derivative" needs 3 numbers'),
        (lambda: Kernel(0.5).spread(0.1, GRID, (1.0,)), r"initial\.spread: .* has correlation_u instead; remove it"),
        (lambda: Kernel(0.5).mean(GRID, (1.0, 2.0)), r'initial\.mean = .* "kernel" needs 1 number$'),
        (
            lambda: Taps(3).operator(np, GRID, 0.1, "zeros", 3, 4),
            r"width_order = 3: not defined .*; use one of 0, 1, 2",
        ),
        (lambda: Taps(3).operator(np, GRID, 0.1, "zeros", -1, 4), r"width_order = -1: not defined"),
        (lambda: Taps(3).operator(np, GRID, 0.1, "zeros", 1, 3), r"stencil accuracy 3 does not exist"),
        (lambda: Derivative().operator(np, GRID, 0.1, "mirror", None, 4), r"padding 'mirror' does not exist"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_lattice_refuses_a_range_that_does_not_fit_on_it():
    Lattice(2, 3, 1, Taps(3))
    with pytest.raises(InputError, match="wider than the 3 cells"):
        Lattice(2, 3, 1, Taps(5))
    with pytest.raises(InputError, match="not on a cell edge"):
        Lattice(2, 10, 1, Kernel(0.2))
