"""Scalings: every bulk equation with every range against its formula, its derivatives, and one layer of the lattice."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.model.activations import Activation, get_activation
from bbdfield.model.ranges import Derivative, Kernel, Taps
from bbdfield.model.scalings import SCALINGS, Critical, Plain, Residual
from solvers.grids import Grid
from solvers.padding import PADDINGS

NUMPY_MODE = {"zeros": "constant", "circular": "wrap", "reflect": "symmetric"}
N, C, B, A_X, KAPPA = 8, 2, 3, 0.2, 0.8
GRID = Grid(1, N)
TANH = get_activation("tanh")

#: (range, width order): 5 kernel points, 3 taps to each order, 3 moments
RANGES = {
    "kernel": (lambda tied: Kernel(2.5 / N, tied), None),
    "taps-0": (lambda tied: Taps(3, tied), 0),
    "taps-1": (lambda tied: Taps(3, tied), 1),
    "taps-2": (lambda tied: Taps(3, tied), 2),
    "derivative": (lambda tied: Derivative(0.1, tied), None),
}
LAWS = {"residual": Residual(), "critical": Critical(KAPPA), "plain": Plain()}
EQUATIONS = [("residual", 0), ("residual", 1), ("critical", 0), ("critical", 1), ("plain", 1)]
EVERY_EQUATION = pytest.mark.parametrize(("scaling", "order"), EQUATIONS)
EVERY_RANGE = pytest.mark.parametrize("reach", RANGES)
EVERY_PADDING = pytest.mark.parametrize("padding", PADDINGS)
TIES = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def operator_of(reach, tied, padding, *, xp=np, stencil=4):
    make, width_order = RANGES[reach]
    return make(tied).operator(xp, GRID, 1 / N, padding, width_order, stencil)


def matrix_of(operator, w, channels=C):
    """𝒦[ŵ] as a matrix (n, n), one column per cell and channel."""
    size = N * channels
    return operator.apply(w, np.eye(size).reshape(N, channels, size)).reshape(size, size)


def equation(scaling, order, operator, a_x=A_X, activation=TANH):
    return LAWS[scaling].bulk(order, operator, activation, a_x)


def components(reach):
    return RANGES[reach][0](True).components(GRID).size


def draw(seed, reach, tied, operator, size):
    """z of order one, ŵ for which |𝒦[ŵ]| = size, b̂."""
    rng = np.random.default_rng(seed)
    shape = (C, components(reach), C)
    w = rng.standard_normal(shape if tied else (N, *shape))
    w *= size / np.linalg.norm(matrix_of(operator, w), ord=2)
    return rng.standard_normal((N, C, B)), (w, rng.standard_normal((N, C)))


def setup(scaling, order, reach, tied, padding, seed=1):
    """(equation, z, (ŵ, b̂)); a plain network's 1 + 𝒦σ' stays well away from singular."""
    operator = operator_of(reach, tied, padding)
    return equation(scaling, order, operator), *draw(seed, reach, tied, operator, 0.7 if scaling == "plain" else 3.0)


def close(found, expected, digits=1e-13):
    np.testing.assert_allclose(found, expected, rtol=0, atol=digits * np.abs(expected).max())


# the formulas


@EVERY_PADDING
@TIES
@EVERY_RANGE
@EVERY_EQUATION
def test_value_is_the_formula(scaling, order, reach, tied, padding):
    """With 𝒦 as a matrix, and order 1 as G_1 = F + (what the expansion of σ_a adds) − (a_x/2)(∂F/∂ẑ)·F."""
    rhs, z, (w, b) = setup(scaling, order, reach, tied, padding)
    k = matrix_of(rhs.operator, w)
    flat, bias = z.reshape(N * C, B), b.reshape(N * C, 1)
    for sample in range(B):
        v = flat[:, [sample]]
        one, slope = np.eye(N * C), np.diag(1 - np.tanh(v[:, 0]) ** 2)
        if scaling == "residual":
            f, jacobian, extra = k @ np.tanh(v) + bias, k @ slope, 0.0
        elif scaling == "critical":
            f, jacobian = k @ v - KAPPA * v**3 + bias, k - np.diag(3 * KAPPA * v[:, 0] ** 2)
            extra = -KAPPA * k @ v**3 + 6 / 5 * KAPPA**2 * v**5
        else:
            f = 2 / A_X * np.linalg.inv(one + k @ slope) @ (k @ np.tanh(v) - v + bias)
        if order == 1 and scaling != "plain":
            f = f + A_X * extra - A_X / 2 * jacobian @ f
        close(rhs.value(z, (w, b))[0].reshape(N * C, B)[:, [sample]], f, 1e-12)


@EVERY_PADDING
@TIES
@EVERY_RANGE
@EVERY_EQUATION
def test_tangent_is_the_complex_step(scaling, order, reach, tied, padding):
    """dG = Im G(z + iεδz, c + iεδc)/ε, to rounding: no difference is taken."""
    rhs, z, c = setup(scaling, order, reach, tied, padding)
    rng = np.random.default_rng(2)
    dz, dc = rng.standard_normal(z.shape), tuple(rng.standard_normal(part.shape) for part in c)
    step = 1e-30j
    moved = rhs.value(z + step * dz, tuple(part + step * move for part, move in zip(c, dc, strict=True)))[0]
    close(rhs.tangent(rhs.value(z, c)[1], c, dz, dc), moved.imag / 1e-30)


@EVERY_PADDING
@TIES
@EVERY_RANGE
@EVERY_EQUATION
def test_adjoint_is_the_transpose_of_the_tangent(scaling, order, reach, tied, padding):
    rhs, z, c = setup(scaling, order, reach, tied, padding)
    rng = np.random.default_rng(3)
    _, tape = rhs.value(z, c)
    g = rng.standard_normal(z.shape)
    z_bar, c_bar = rhs.adjoint(tape, c, g)
    bars, shapes = (z_bar, *c_bar), (z.shape, *(part.shape for part in c))
    assert tuple(bar.shape for bar in bars) == shapes
    for group, bar in enumerate(bars):
        moves = [np.zeros(shape) for shape in shapes]
        moves[group] = rng.standard_normal(shapes[group])
        image = rhs.tangent(tape, c, moves[0], tuple(moves[1:]))
        scale = np.linalg.norm(g) * np.linalg.norm(image) + np.linalg.norm(bar) * np.linalg.norm(moves[group])
        assert np.linalg.norm(bar) > 0
        assert abs(np.vdot(g, image) - np.vdot(bar, moves[group])) <= 1e-13 * scale, group


@EVERY_RANGE
@EVERY_EQUATION
def test_every_backend_agrees_with_numpy(backends, scaling, order, reach):
    put, get = backends.to_device, backends.to_numpy
    for tied in (True, False):
        here, z, c = setup(scaling, order, reach, tied, "circular")
        there = equation(scaling, order, operator_of(reach, tied, "circular", xp=backends.xp))
        rng = np.random.default_rng(4)
        dz, dc = rng.standard_normal(z.shape), tuple(rng.standard_normal(part.shape) for part in c)
        value, tape = here.value(z, c)
        on_device = tuple(map(put, c))
        found, tape_there = there.value(put(z), on_device)
        back, bars = there.adjoint(tape_there, on_device, put(dz))
        expected_back, expected_bars = here.adjoint(tape, c, dz)
        close(get(found), value)
        close(get(there.tangent(tape_there, on_device, put(dz), tuple(map(put, dc)))), here.tangent(tape, c, dz, dc))
        close(get(back), expected_back)
        for bar, expected in zip(bars, expected_bars, strict=True):
            close(get(bar), expected)


# linearised: what well-posedness is judged by


@EVERY_RANGE
@EVERY_EQUATION
@TIES
def test_linearised_has_the_eigenvalues_of_the_jacobian(scaling, order, reach, tied):
    """One channel, ẑ the same at all y, circular padding: waves e^{iqy} are the Jacobian's eigenvectors.

    b̂ is such that F = 0 (for plain: a fixed point), where no term is left out.
    """
    operator = operator_of(reach, tied, "circular")
    rng = np.random.default_rng(5)
    w = rng.standard_normal((1, components(reach), 1))
    w = w if tied else np.broadcast_to(w, (N, *w.shape)).copy()
    w *= (0.6 if scaling == "plain" else 3.0) / np.linalg.norm(matrix_of(operator, w, 1), ord=2)
    level = 0.6
    z = np.full((N, 1, 1), level)
    unforced = equation("critical" if scaling == "critical" else "residual", 0, operator)
    b = -unforced.value(z, (w, np.zeros((N, 1))))[0][..., 0] + (z[..., 0] if scaling == "plain" else 0.0)
    rhs = equation(scaling, order, operator)
    _, tape = rhs.value(z, (w, b))
    units, still = np.eye(N)[..., None, None], (np.zeros_like(w), np.zeros_like(b))
    jacobian = np.column_stack([rhs.tangent(tape, (w, b), unit, still)[:, 0, 0] for unit in units])
    q = 2 * np.pi * np.arange(N // 2 + 1)
    symbol = operator.symbol(w if tied else w[0], q)
    slope = 3 * KAPPA * level**2 if scaling == "critical" else 1 - np.tanh(level) ** 2
    found = rhs.linearised(symbol, slope)[:, 0, 0]
    assert np.abs(found.imag).max() > 0.01 or reach == "taps-0"
    for number, eigenvalue in zip(q, found, strict=True):
        wave = np.exp(1j * number * GRID.y)
        np.testing.assert_allclose(jacobian @ wave, eigenvalue * wave, rtol=0, atol=1e-12 * np.abs(found).max())


def test_linearised_multiplies_channel_matrices():
    """Order 1 takes A² as a matrix product, plain the inverse matrix; the slope multiplies or is subtracted."""
    operator = operator_of("kernel", True, "zeros")
    k = np.random.default_rng(6).standard_normal((4, 2, 2)) + 0.5j
    found = {(name, order): equation(name, order, operator).linearised(k, 0.3) for name, order in EQUATIONS}
    one = np.eye(2)
    for index, matrix in enumerate(k):
        a, b = 0.3 * matrix, matrix - 0.3 * one
        expected = {
            ("residual", 0): a,
            ("residual", 1): a - A_X / 2 * a @ a,
            ("critical", 0): b,
            ("critical", 1): b - A_X / 2 * b @ b - A_X * (0.3 * matrix - 2 / 3 * 0.3**2 * one),
            ("plain", 1): 2 / A_X * np.linalg.inv(one + a) @ (a - one),
        }
        for case, symbol in expected.items():
            close(found[case][index], symbol, 1e-12)


# scalings as such


def test_every_scaling_is_registered_under_its_name():
    assert SCALINGS == {"residual": Residual, "critical": Critical, "plain": Plain}
    assert {name: (law.skip, law.identity, law.limit, law.orders) for name, law in LAWS.items()} == {
        "residual": (1.0, False, True, (0, 1)),
        "critical": (0.0, True, True, (0, 1)),
        "plain": (0.0, False, False, (1,)),
    }
    assert [law.unit(0.2) for law in LAWS.values()] == [0.2, 0.2, 1.0]


def test_slopes_are_what_the_local_slope_can_be():
    gelu = get_activation("gelu")
    slopes = Residual().slopes(gelu)
    z = np.linspace(-8, 8, 100_001)
    assert (slopes.min(), slopes.max()) == pytest.approx((gelu.df(z).min(), gelu.df(z).max()), abs=1e-3)
    np.testing.assert_array_equal(Plain().slopes(TANH, 0.5), Plain().slopes(TANH))  # ẑ grows in the depth: no fewer
    square = Activation("square", lambda z: z**2, lambda z: 2 * z, lambda z: 2 + 0 * z, lambda z: (z**2, 2 * z))
    np.testing.assert_allclose(Plain().slopes(square, 50.0), np.linspace(-100, 100, 5))
    np.testing.assert_array_equal(Critical(KAPPA).slopes(TANH), np.zeros(5))
    np.testing.assert_allclose(Critical(KAPPA).slopes(TANH, 2.0), np.linspace(0, 3 * KAPPA * 4, 5))


@pytest.mark.parametrize(
    ("scaling", "order", "known"), [("residual", 2, "one of 0, 1"), ("critical", 2, "one of 0, 1"), ("plain", 0, "1")]
)
def test_orders_that_do_not_exist_are_refused(scaling, order, known):
    message = rf'field\.orders: order {order} is not defined for lattice\.scaling = "{scaling}"; use {known}$'
    with pytest.raises(InputError, match=message):
        equation(scaling, order, operator_of("kernel", True, "zeros"))


def test_only_the_critical_scaling_insists_on_an_activation():
    for law in (Residual(), Plain()):
        law.check("gelu")
        assert law.activation(TANH, 0.1) is TANH
    Critical().check("tanh")
    with pytest.raises(InputError, match=r'lattice\.activation = "gelu": .* rescaled tanh; use activation = "tanh"'):
        Critical().check("gelu")


def test_only_the_critical_scaling_needs_small_signals():
    for law in (Residual(), Plain()):
        law.check_amplitude(1e6, 1.0)
    limit = np.sqrt(np.pi**2 / 12 / (KAPPA * 0.1))
    Critical(KAPPA).check_amplitude(0.999 * limit, 0.1)
    with pytest.raises(InputError, match=rf"lattice\.kappa = {KAPPA:g}: κ a_x ẑ² = 0\.824 .* 2 times as many layers"):
        Critical(KAPPA).check_amplitude(1.001 * limit, 0.1)


def test_critical_series_converges_up_to_its_limit_and_not_beyond():
    """The coefficients of tanh, 2^{2n}(2^{2n} − 1) B_{2n}/(2n)!, at z²/r² = 3κa_xẑ²."""
    from bbdfield.model.scalings.critical import SERIES

    t = [1.0]  # tanh' = 1 − tanh²: (2n + 1) t_n = −Σ t_i t_{n−1−i}
    for n in range(1, 200):
        t.append(-sum(t[i] * t[n - 1 - i] for i in range(n)) / (2 * n + 1))
    terms = [abs(t[199]) * (3 * factor * SERIES) ** 199 for factor in (0.9, 1.1)]
    assert terms[0] < 1e-8 and terms[1] > 1e7


def test_critical_activation_is_the_series_it_stands_for(fitted_order):
    """σ_a = z − κ a z³ + (6/5)κ²a²z⁵ − (51/35)κ³a³z⁷ + …: what is left falls as a³, with that coefficient."""
    z = np.linspace(-1.5, 1.5, 7)
    spacings, rest = 1 / np.array([400, 800, 1600]), []
    for a in spacings:
        sigma = Critical(KAPPA).activation(TANH, a)
        rest.append(sigma.f(z) - (z - KAPPA * a * z**3 + 6 / 5 * KAPPA**2 * a**2 * z**5))
    assert fitted_order(spacings, [np.abs(part).max() for part in rest]) == pytest.approx(3, abs=0.05)
    np.testing.assert_allclose(rest[-1], -51 / 35 * KAPPA**3 * spacings[-1] ** 3 * z**7, rtol=0.02, atol=1e-15)


def test_critical_activations_derivatives():
    sigma = Critical(KAPPA).activation(TANH, A_X)
    z = np.linspace(-4, 4, 41)
    value, slope = sigma.value_and_slope(z)
    close(value, np.tanh(z * np.sqrt(3 * KAPPA * A_X)) / np.sqrt(3 * KAPPA * A_X))
    close(sigma.f(z), value)
    close(slope, sigma.f(z + 1e-30j).imag / 1e-30)
    close(sigma.df(z), slope)
    close(sigma.d2f(z), sigma.df(z + 1e-30j).imag / 1e-30)
    assert "tanh" in sigma.name


# one layer of the lattice


def layer(scaling, kind, z, w, b, a_x, padding):
    """z[m+1] of theory §§1, 3, in plain NumPy: taps, then the sum over neighbours, then the skip connection."""
    a_y = 1 / N
    if kind.name == "kernel":
        taps = a_y * w
    elif kind.name == "taps":
        taps = w
    else:
        length = kind.length / a_y
        stencils = np.array([[0, 1, 0], [-length / 2, 0, length / 2], [length**2, -2 * length**2, length**2]])
        taps = np.einsum("nk,...anb->...akb", stencils, w)
    unit, skip, s = a_x, 1.0, np.tanh(z)
    if scaling == "plain":
        unit, skip = 1.0, 0.0
    reach = taps.shape[-2] // 2
    taps = unit * taps
    if scaling == "critical":
        skip, r = 0.0, (3 * KAPPA * a_x) ** -0.5
        s = r * np.tanh(z / r)
        taps[..., reach, :] += np.eye(C)
    padded = np.pad(s, ((reach, reach), (0, 0), (0, 0)), mode=NUMPY_MODE[padding])
    beside = np.stack([padded[k : k + N] for k in range(2 * reach + 1)])
    return (
        skip * z + np.einsum("akb,kybs->yas" if w.ndim == 3 else "yakb,kybs->yas", taps, beside) + unit * b[..., None]
    )


def flow(rhs, z, coefficients, length, steps):
    """∂_x ẑ = G over `length` by classical Runge-Kutta steps; coefficients(x) from 0 to length."""
    h = length / steps
    for i in range(steps):
        left, middle, right = (coefficients((i + part) * h) for part in (0.0, 0.5, 1.0))
        k1 = rhs.value(z, left)[0]
        k2 = rhs.value(z + h / 2 * k1, middle)[0]
        k3 = rhs.value(z + h / 2 * k2, middle)[0]
        k4 = rhs.value(z + h * k3, right)[0]
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return z


LOCAL = ("kernel", "taps-2", "derivative")  # the lattice itself, on its own grid and with its own differences


@EVERY_PADDING
@TIES
@pytest.mark.parametrize("reach", LOCAL)
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("scaling", ["residual", "critical"])
def test_one_layer_is_the_flow_of_order_n_to_order_n_plus_2(scaling, order, reach, tied, padding, fitted_order):
    """From the same ẑ, the exact flow of G_n over a_x and one layer differ by O(a_x^{n+2}): 2 and 3."""
    operator = operator_of(reach, tied, padding, stencil=2)
    z, (w, b) = draw(8, reach, tied, operator, 2.0)
    z *= 0.7
    spacings, errors = 0.01 / 2.0 ** np.arange(4), []
    for a_x in spacings:
        end = flow(equation(scaling, order, operator, a_x), z, lambda x: (w, b), a_x, 8)
        after = layer(scaling, RANGES[reach][0](tied), z, w, b, a_x, padding)
        errors.append(np.linalg.norm(end - after) / np.linalg.norm(z))
    assert fitted_order(spacings, errors) == pytest.approx(order + 2, abs=0.1), errors
    assert errors[-1] > 1e-11  # well above rounding


def slow(x):
    """b̂(x) that varies over the depth 1, not over a layer, at fixed position in (y, c)."""
    phases = np.random.default_rng(9).uniform(0, 2 * np.pi, (N, C))
    return 0.5 * np.sin(2 * x + phases), -4 * 0.5 * np.sin(2 * x + phases)  # b̂ and ∂_x² b̂


@EVERY_PADDING
@TIES
@pytest.mark.parametrize("reach", LOCAL)
def test_one_plain_layer_is_the_gradient_expansion_where_fields_vary_slowly(reach, tied, padding, fitted_order):
    """On a solution that follows b̂(x), the flow over a_x is a layer plus (a_x²/8) ∂_x² b̂ + O(a_x³)."""
    operator = operator_of(reach, tied, padding, stencil=2)
    _, (w, _) = draw(10, reach, tied, operator, 0.6)
    kind = RANGES[reach][0](tied)
    spacings, errors = 1 / np.array([16, 32, 64]), []
    for a_x in spacings:
        rhs = equation("plain", 1, operator, a_x)
        layers = 24  # until what is left of the start has died out

        def coefficients(x, first=-layers * a_x):
            return w, slow(first + x)[0]

        z = flow(rhs, slow(-layers * a_x)[0][..., None], coefficients, layers * a_x, 4 * layers)
        end = flow(rhs, z, lambda x: (w, slow(x)[0]), a_x, 8)
        after = layer("plain", kind, z, w, slow(a_x / 2)[0], a_x, padding)
        leading = a_x**2 / 8 * slow(a_x / 2)[1][..., None]
        assert np.linalg.norm(end - after - leading) < 4 * a_x * np.linalg.norm(leading)
        errors.append(np.linalg.norm(end - after) / np.linalg.norm(z))
    assert fitted_order(spacings, errors) == pytest.approx(2, abs=0.15), errors


def test_plain_fields_next_to_a_boundary_do_not_converge():
    """Off the fixed point ẑ(m a_x) depends on m only, not on a_x: the error against the lattice is a plateau."""
    operator = operator_of("kernel", True, "reflect")
    z, (w, b) = draw(11, "kernel", True, operator, 0.6)
    errors = []
    for a_x in (1 / 16, 1 / 256):
        rhs = equation("plain", 1, operator, a_x)
        field, network, worst = z, z, []
        for _ in range(4):
            field = flow(rhs, field, lambda x: (w, b), a_x, 16)
            network = layer("plain", Kernel(2.5 / N), network, w, b, a_x, "reflect")
            worst.append(np.linalg.norm(field - network) / np.linalg.norm(network))
        errors.append(worst)
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-12)
    assert max(errors[0]) > 0.05
