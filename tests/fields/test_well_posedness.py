"""Ill-posed equations and unstable marches are refused before the first step and as weights train; the rest runs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from bbdfield.errors import InputError, NumericsError
from bbdfield.fields.simulation import FieldSystem, simulate
from bbdfield.fields.well_posedness import (
    check_start,
    largest_input,
    unbounded,
    wave_growth,
)
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import FieldState
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.ranges import Derivative, Kernel, Taps
from bbdfield.model.regularisation import Regularised, cutoff, cutoff_matrix
from bbdfield.model.run import Run
from solvers.grids import Grid
from solvers.padding import PADDINGS
from solvers.sweeps import SCHEMES

RK4 = SCHEMES["rk4"]
LENGTH = 0.1
REFUSAL = math.log(1e3)  # the exponent from which short waves count as ill posed
TIES = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def lattice_of(problems, kind, **changes):
    law = {"scaling": changes.pop("scaling", "residual"), "kappa": changes.pop("kappa", None)}
    base = problems.lattice(**({"channels": 1, "padding": "circular"} | changes))
    return dataclasses.replace(base, range=kind, **law)


def start_of(lattice, grid, components):
    """ŵ the same everywhere: one number or one (C, C) matrix per component; b̂ = 0, R drawn."""
    drawn = InitialFields(lattice, seed=3).on(grid, lattice)
    matrices = [np.asarray(value) * np.ones((1, 1)) for value in components]
    w = np.broadcast_to(np.stack(matrices, axis=-2), drawn.w.shape).copy()
    return FieldState(lattice, grid, w, np.zeros(drawn.b.shape), drawn.r)


def analysed(start, order, scheme=RK4, stencil=4, width_order=None, q_max=None, largest=0.0):
    lattice, grid = start.lattice, start.grid
    operator = lattice.range.operator(np, grid, lattice.a_y, lattice.padding, width_order, stencil)
    equation = lattice.law.bulk(order, operator, get_activation(lattice.activation), lattice.a_x)
    return wave_growth(lattice, grid, equation, scheme, start.w, q_max, largest)


def boundary_of(signals, lattice, training):
    return Boundary.draw(signals, lattice, training)


def modified(q, h, stencil):
    """Wave numbers that ∂_y and ∂_y² have on a grid: q̃ and k² of centred differences of accuracy 2 or 4."""
    first = {2: (1.0,), 4: (4 / 3, -1 / 6)}[stencil]
    second = {2: (1.0,), 4: (4 / 3, -1 / 12)}[stencil]
    return (
        sum(c * np.sin(j * q * h) / h for j, c in enumerate(first, 1)),
        sum(c * 2 * (1 - np.cos(j * q * h)) / h**2 for j, c in enumerate(second, 1)),
    )


# the exponents


@TIES
@pytest.mark.parametrize("stencil", [2, 4])
@pytest.mark.parametrize("order", [0, 1])
def test_growth_is_that_of_the_symbol(problems, order, stencil, tied):
    """Reaction ŵ_0, transport ŵ_1 and diffusion ŵ_2 with σ = identity: Γ = L_x Re(A − [order 1] (a_x/2) A²)."""
    lattice = lattice_of(problems, Derivative(LENGTH, tied), activation="identity", length_x=2.0, depth=20)
    grid = Grid(64, 30, length_x=2.0)
    found = analysed(start_of(lattice, grid, (-0.7, 0.5, 1.2)), order, stencil=stencil)
    first, second = modified(found.q, grid.h_y, stencil)
    a = -0.7 + 0.5j * LENGTH * first - 1.2 * LENGTH**2 * second
    if order == 1:
        a = a - 2.0 / 20 / 2 * a**2
    assert found.q[0] == 0 and found.q[-1] == pytest.approx(np.pi * 30)
    np.testing.assert_allclose(found.equation, 2.0 * a.real, rtol=0, atol=1e-12 * np.abs(a).max())
    factor = 1 + (z := grid.h_x * a) + z**2 / 2 + z**3 / 6 + z**4 / 24
    np.testing.assert_allclose(found.march, 64 * np.log(np.abs(factor)), rtol=0, atol=1e-11 * np.abs(64 * z).max())
    assert found.rate == pytest.approx(np.abs(a).max(), rel=1e-12)


@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_order_1_turns_transport_into_anti_diffusion(problems, activation):
    """A = iŵ_1ℓq̃ is neutral; A − (a_x/2)A² grows as (a_x/2)(ŵ_1ℓq̃)², q̃ the stencil's own wave number."""
    lattice = lattice_of(problems, Derivative(LENGTH), activation=activation, depth=50)
    grid, speed = Grid(40, 60), 1.5
    start = start_of(lattice, grid, (0.0, speed, 0.0))
    neutral, grows = analysed(start, 0), analysed(start, 1)
    assert np.abs(neutral.equation).max() < 1e-12
    q, _ = modified(grows.q, grid.h_y, 4)
    np.testing.assert_allclose(grows.equation, 1 / 50 / 2 * (speed * LENGTH * q) ** 2, rtol=0, atol=1e-12)
    assert grows.worst == pytest.approx(grows.q[np.argmax(q)]) and 0 < grows.worst < grows.q[-1]

    # refused as soon as the fastest wave grows by more than a factor of 1000
    fastest = (LENGTH * np.max(q)) ** 2 / 100
    limit = np.sqrt(REFUSAL / fastest)
    check_start(start_of(lattice, Grid(400, 60), (0.0, 0.99 * limit, 0.0)), 1, RK4)
    with pytest.raises(NumericsError, match=r"ill posed at t = 0: waves of wave number .* grow by e\^7"):
        check_start(start_of(lattice, Grid(400, 60), (0.0, 1.01 * limit, 0.0)), 1, RK4)
    check_start(start_of(lattice, Grid(400, 60), (0.0, 1.01 * limit, 0.0)), 0, RK4)


def test_the_worst_of_all_cells_counts(problems):
    """Untied weights: max over y at each link, integrated over x."""
    lattice = lattice_of(problems, Derivative(LENGTH, tied=False), activation="identity")
    grid = Grid(8, 10)
    start = start_of(lattice, grid, (0.0, 0.0, 1.0))
    start.w[3, 4, 0, 2, 0] = -2.0
    found = analysed(start, 0)
    _, second = modified(found.q, grid.h_y, 4)
    everywhere = LENGTH**2 * second * (-7 / 8 + 2 / 8)
    np.testing.assert_allclose(found.equation, everywhere, rtol=0, atol=1e-12 * np.abs(everywhere).max())


@pytest.mark.parametrize("activation", ["tanh", "gelu", "sigmoid"])
def test_growth_is_the_worst_over_the_slopes_that_the_activation_has(problems, activation):
    """Anti-diffusion grows with the largest σ', diffusion where σ' is negative or least (gelu has both signs)."""
    lattice = lattice_of(problems, Derivative(LENGTH), activation=activation)
    grid = Grid(64, 10)
    z = np.linspace(-8, 8, 100_001)
    slope = get_activation(activation).df(z)
    for sign, extreme in ((1.0, slope.min()), (-1.0, slope.max())):
        found = analysed(start_of(lattice, grid, (0.0, 0.0, sign)), 0)
        _, second = modified(found.q, grid.h_y, 4)
        expected = -sign * extreme * LENGTH**2 * second
        np.testing.assert_allclose(found.equation, expected, rtol=0, atol=2e-3 * LENGTH**2 * second.max())


# what is refused, and what is not


@TIES
def test_negative_diffusion_is_refused_before_anything_is_written(tmp_path, signals, problems, tied):
    lattice = lattice_of(problems, Derivative(LENGTH, tied))
    boundary = boundary_of(signals, lattice, problems.training(steps=2))
    grid, out = Grid(80, 20), tmp_path / "field.h5"
    for sign in (1.0, -1.0):
        start = start_of(lattice, grid, (0.0, 0.0, sign))
        if sign < 0:
            with pytest.raises(NumericsError, match=r"ill posed at t = 0: .*62\.83, the largest on the grid") as caught:
                simulate(start, boundary, order=0, backend="numpy", out=out)
            assert "\n" not in str(caught.value)
            assert "add diffusion (initial.mean)" in str(caught.value)
            assert not list(tmp_path.iterdir())
        else:
            with simulate(start, boundary, order=0, backend="numpy", out=out) as run:
                assert np.isfinite(run.loss).all() and len(run.t) == 2
            out.unlink()


def test_negative_diffusion_is_ill_posed_once_the_grid_resolves_it(problems):
    """Γ = |ŵ_2|ℓ²q²: harmless on a coarse grid, refused on a finer one; that is what ill posed means."""
    lattice = lattice_of(problems, Derivative(LENGTH), width=90)
    exponents = []
    for cells in (10, 30, 90):
        start = start_of(lattice, Grid(2000, cells), (0.0, 0.0, -0.4))
        exponents.append(analysed(start, 0).equation.max())
        if cells == 10:
            assert exponents[-1] < REFUSAL
            check_start(start, 0, RK4)
        else:
            assert exponents[-1] > REFUSAL
            with pytest.raises(NumericsError, match="ill posed"):
                check_start(start, 0, RK4)
    np.testing.assert_allclose(np.diff(np.log(exponents)) / np.log(3), 2, atol=1e-6)


def test_channel_matrices_with_complex_eigenvalues_are_refused(problems):
    """∂_x z = M ∂_y z is hyperbolic for symmetric M, elliptic (so ill posed) where M has complex eigenvalues."""
    lattice = lattice_of(problems, Derivative(LENGTH), channels=2)
    grid = Grid(400, 60)
    symmetric, rotation = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [-1.0, 0.0]])
    zero = np.zeros((2, 2))
    assert np.abs(analysed(start_of(lattice, grid, (zero, symmetric, zero)), 0).equation).max() < 1e-10
    check_start(start_of(lattice, grid, (zero, symmetric, zero)), 0, RK4)

    start = start_of(lattice, grid, (zero, rotation, zero))
    found = analysed(start, 0)
    q, _ = modified(found.q, grid.h_y, 4)
    np.testing.assert_allclose(found.equation, LENGTH * np.abs(q), rtol=0, atol=1e-10)
    assert found.equation.max() > REFUSAL
    with pytest.raises(NumericsError, match="ill posed at t = 0"):
        check_start(start, 0, RK4)
    # enough diffusion makes it well posed again
    check_start(start_of(lattice, Grid(2000, 60), (zero, rotation, 0.1 * np.eye(2))), 0, RK4)


@pytest.mark.parametrize("scaling", ["residual", "critical"])
@pytest.mark.parametrize("order", [0, 1])
@TIES
def test_kernels_are_never_ill_posed(problems, order, scaling, tied):
    """Whatever their sign and size: only the depth step can be too large, and more cells help."""
    lattice = lattice_of(problems, Kernel("1/4", tied), scaling=scaling, channels=2)
    for seed, weight in ((1, 1.0), (2, 300.0)):
        grid = Grid(30, 10)
        start = InitialFields(lattice, seed=seed, weight=weight).on(grid, lattice)
        found = analysed(start, order)
        assert not found.equation.any() and not found.march.any()
        assert np.isfinite(found.rate) and found.rate > 0
        if weight == 1.0:
            check_start(start, order, RK4)
        else:
            with pytest.raises(InputError, match=r"unstable depth step, .* use n_x = \d+ or more"):
                check_start(start, order, RK4)
            needed = math.ceil(2 * found.rate)
            check_start(InitialFields(lattice, seed=seed, weight=weight).on(Grid(needed, 10), lattice), order, RK4)


def test_what_must_be_watched_as_weights_train(problems):
    def asks(kind, width_order=None, scaling="residual"):
        lattice = lattice_of(problems, kind, scaling=scaling)
        operator = kind.operator(np, lattice.grid, lattice.a_y, "circular", width_order, 4)
        return unbounded(lattice, lattice.law.bulk(1, operator, get_activation("tanh"), lattice.a_x))

    assert not asks(Kernel("1/4")) and not asks(Kernel("1/4"), scaling="critical")
    assert asks(Kernel("1/4"), scaling="plain")
    assert not asks(Taps(3), 0) and asks(Taps(3), 1) and asks(Taps(3), 2) and asks(Derivative())


def test_a_march_that_is_unstable_for_short_waves_is_refused_with_a_remedy(problems):
    """Transport on the imaginary axis: Euler amplifies it at any step, Runge-Kutta does not."""
    lattice = lattice_of(problems, Derivative(LENGTH))
    start = start_of(lattice, Grid(12, 40), (0.0, 4.0, 0.0))
    for name in ("euler", "midpoint"):
        with pytest.raises(InputError, match=rf"field\.n_x = 12: unstable depth step at t = 0, {name} amplifies waves"):
            check_start(start, 0, SCHEMES[name])
    check_start(start, 0, RK4)


def test_weights_without_a_field_equation_are_refused(problems):
    """Infinite ones, ones whose square overflows at order 1, and a plain network with 1 + 𝒦σ' singular."""
    kernel = lattice_of(problems, Kernel("1/4"))
    for value, order in ((np.inf, 0), (np.nan, 0), (1e200, 1)):
        state = start_of(kernel, kernel.grid, [value] * 5)
        with pytest.raises(NumericsError, match=r"no field equation at t = 0: \|∂G/∂ẑ\| is infinite") as caught:
            check_start(state, order, RK4)
        assert "\n" not in str(caught.value)
    plain = lattice_of(problems, Taps(1), scaling="plain", activation="identity")
    for value in (-1.0, 0.5):
        state = start_of(plain, Grid(60, 10), [value])
        if value == -1.0:
            with pytest.raises(NumericsError, match="no field equation"):
                check_start(state, 1, RK4)
        else:
            check_start(state, 1, RK4)


def test_a_plain_network_that_becomes_singular_on_the_way_says_so(problems):
    """1 + ŵσ'(ẑ) = 0 at the state itself."""
    lattice = lattice_of(problems, Taps(1), scaling="plain")
    operator = lattice.range.operator(np, lattice.grid, lattice.a_y, "circular", 0, 4)
    equation = lattice.law.bulk(1, operator, get_activation("tanh"), lattice.a_x)
    w, b = -np.ones((10, 1, 1, 1)), np.zeros((10, 1))
    with pytest.raises(NumericsError, match=r"is singular: signals that change sign from layer to layer"):
        equation.value(np.zeros((10, 1, 2)), (w, b))


@pytest.mark.parametrize("largest", [0.0, 2.0])
@pytest.mark.parametrize("order", [0, 1])
def test_critical_waves_are_judged_from_the_origin_to_the_largest_signal(problems, order, largest):
    """A = 𝒦̂ − 3κẑ²: the cubic term damps, so waves grow fastest at ẑ = 0; the rate is that of the largest |ẑ|."""
    lattice = lattice_of(problems, Derivative(LENGTH), scaling="critical", kappa=0.1)
    found = analysed(start_of(lattice, Grid(20, 10), (0.3, 0.0, 1.0)), order, largest=largest)
    _, second = modified(found.q, 0.1, 4)
    k, a_x = 0.3 - LENGTH**2 * second, lattice.a_x * order
    np.testing.assert_allclose(found.equation, k - a_x / 2 * k**2, rtol=0, atol=1e-12)
    cubic = 3 * 0.1 * largest**2
    rate = np.abs(k - cubic - a_x / 2 * (k - cubic) ** 2 - a_x * (cubic * k - 2 / 3 * cubic**2)).max()
    assert found.rate == pytest.approx(max(rate, np.abs(k - a_x / 2 * k**2).max()), rel=1e-12)


def test_large_signals_of_a_critical_network_need_short_depth_steps(problems):
    """h_x 3κẑ² beyond the scheme's interval, though at ẑ = 0 nothing moves."""
    lattice = lattice_of(problems, Kernel("1/4"), scaling="critical", depth=400)
    start = start_of(lattice, Grid(10, 10), (0.0,) * 5)
    check_start(start, 0, RK4)
    check_start(start, 0, RK4, largest=2.5)  # 3·2.5²/10 = 1.9
    with pytest.raises(InputError, match=r"unstable depth step, .* use n_x = \d+ or more"):
        check_start(start, 0, RK4, largest=5.0)
    check_start(start_of(lattice, Grid(50, 10), (0.0,) * 5), 0, RK4, largest=5.0)


def test_large_signals_never_narrow_the_slopes_of_other_scalings(problems):
    """tanh' reaches 0 inside the depth, whatever comes in: −ŵ_0 + diffusion is judged there too."""
    lattice = lattice_of(problems, Derivative(LENGTH))
    start = start_of(lattice, Grid(80, 10), (-0.5, 0.0, 0.0))
    whole, small = (analysed(start, 0, largest=largest) for largest in (0.0, 0.1))
    np.testing.assert_array_equal(whole.equation, small.equation)
    assert whole.equation.max() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("kind", [Kernel("1/4"), Taps(3), Derivative(LENGTH)])
def test_signals_beyond_the_series_of_the_cubic_theory_are_refused(tmp_path, signals, problems, kind):
    """r tanh(z/r) has poles at |z/r| = π/2, so κ a_x ẑ² = π²/12; and the remedy that is named works."""
    lattice = lattice_of(problems, kind, scaling="critical", depth=8)
    training = problems.training(steps=1, rates=(0.0, 0.0, 0.0))
    largest = largest_input(boundary_of(signals, lattice, training), 10)
    probe, batch = (np.abs(x).max() for x in (boundary_of(signals, lattice, training).probe_input(10), signals.x))
    assert largest >= probe and batch > 0
    limit = np.pi**2 / 12 / (lattice.a_x * largest**2)

    def run(kappa, depth=8):
        network = dataclasses.replace(lattice, kappa=kappa, depth=depth)
        start = InitialFields(network, seed=3, weight=0.1, mean=None).on(Grid(60, 10), network)
        check_start(start, 1, RK4, largest=largest)
        out = tmp_path / "field.h5"
        simulate(start, boundary_of(signals, network, training), backend="numpy", out=out, overwrite=True).close()

    run(0.99 * limit)
    with pytest.raises(
        InputError, match=r"lattice\.kappa = .*: κ a_x ẑ² = 2\.06 .* or 3 times as many layers"
    ) as caught:
        run(2.5 * limit)
    assert "\n" not in str(caught.value)
    run(float(str(caught.value).split("use kappa = ")[1].split()[0]))
    run(2.5 * limit, depth=3 * 8)
    (tmp_path / "field.h5").unlink()
    network = dataclasses.replace(lattice, kappa=2.5 * limit)
    start = InitialFields(network, seed=3, weight=0.1).on(Grid(60, 10), network)
    with pytest.raises(InputError, match=r"κ a_x ẑ²"):
        simulate(start, boundary_of(signals, network, training), backend="numpy", out=tmp_path / "field.h5")
    assert not list(tmp_path.iterdir())


def test_later_waves_are_judged_up_to_the_largest_signal_of_the_probe_set(monkeypatch, signals, problems):
    """ẑ over all depths, once the weights have moved; at the start the inputs, the same when it is done again."""
    from bbdfield.fields import simulation

    seen = []
    original = simulation.check
    monkeypatch.setattr(simulation, "check", lambda *a: seen.append(a[-1]) or original(*a))
    lattice = lattice_of(problems, Derivative(LENGTH), scaling="critical", kappa=0.05, channels=2)
    boundary = boundary_of(signals, lattice, problems.training())
    start = start_of(lattice, Grid(20, 10), (2 * np.eye(2), np.zeros((2, 2)), np.eye(2)))
    field = FieldSystem(start, boundary, order=1, scheme="rk4", backend="numpy")
    inside = np.abs(field.probe()).max()
    field.watch(0.0)
    field.watch(1.0)
    field.load(field.state())  # as resuming does
    field.watch(1.0)
    inputs = largest_input(boundary, 10)
    assert inside > 1.2 * inputs
    assert seen == [inputs, inputs, inside, inside]


# rough starts are no fields


@pytest.mark.parametrize(
    ("tied", "kind", "options", "axis"),
    [
        (True, "kernel", {"correlation_x": 0.0}, "x"),
        (True, "kernel", {"correlation_u": 0.0}, "u"),
        (False, "kernel", {"correlation_y": 0.0}, "y"),
        (True, "kernel", {"correlation_y": 0.0, "bias": 0.1}, "y"),
        (True, "kernel", {"correlation_y": 0.0}, None),
        (True, "taps", {"correlation_u": 0.0}, None),
        (True, "taps", {"correlation_x": 0.0}, "x"),
    ],
)
def test_independent_values_are_no_start_of_a_field(tmp_path, signals, problems, tied, kind, options, axis):
    """Also on the lattice's own grid, where they can be sampled; where an axis does not matter its length is free."""
    lattice = lattice_of(problems, Kernel("1/4", tied) if kind == "kernel" else Taps(3, tied))
    boundary = boundary_of(signals, lattice, problems.training(steps=1))
    start = InitialFields(lattice, seed=3, weight=0.3, **options).on(lattice.grid)
    if axis is None:
        check_start(start, 0, RK4)
        simulate(start, boundary, backend="numpy", out=tmp_path / "field.h5").close()
        return
    message = rf"initial\.correlation_{axis} = 0: independent values are no field; coarse-grain them first"
    with pytest.raises(InputError, match=message) as caught:
        simulate(start, boundary, backend="numpy", out=tmp_path / "field.h5")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=message):
        check_start(start, 0, RK4)
    FieldSystem(dataclasses.replace(start, origin=None), boundary, order=0, scheme="rk4")  # averages come like this


# taps: an expansion that is cut off, and its remedy


def bad_taps(lattice, grid):
    """Σ_k k²ŵ_k < 0: at width order 2 the expansion has negative diffusion, though the taps themselves are harmless."""
    return start_of(lattice, grid, (-0.4, 0.6, -0.4))


def test_taps_with_a_negative_second_moment_are_refused_below_the_lattices_spacing(signals, problems):
    """m_2 = −0.4 a_y²: e^{0.4 (qa_y)²} with q up to π/h_y, 4π/a_y on four times the cells."""
    lattice = lattice_of(problems, Taps(3))
    for cells in (10, 40):
        found = analysed(bad_taps(lattice, Grid(80, cells)), 0)
        _, second = modified(found.q, 1 / cells, 4)
        expected = np.maximum(0.0, -0.2 + 0.4 * 0.1**2 * second)  # σ' from 0 to 1
        np.testing.assert_allclose(found.equation, expected, rtol=0, atol=1e-3)
    check_start(bad_taps(lattice, Grid(80, 10)), 0, RK4)
    with pytest.raises(NumericsError, match=r'lower field\.width_order, or set field\.ill_posed = "cutoff"'):
        check_start(bad_taps(lattice, Grid(80, 40)), 0, RK4)
    for width_order in (0, 1):
        check_start(bad_taps(lattice, Grid(80, 40)), 0, RK4, width_order=width_order)
    check_start(bad_taps(lattice, Grid(80, 40)), 0, RK4, ill_posed="cutoff")
    # what not even the lattice's own waves allow is refused with the cut-off too
    with pytest.raises(NumericsError, match=r"31\.42, the cut-off\) grow by"):
        check_start(start_of(lattice, Grid(800, 40), (-4.0, 6.0, -4.0)), 0, RK4, ill_posed="cutoff")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Kernel("1/4"), {}, r'"kernel" is a bounded operator, of which there is nothing to cut off; remove ill_posed'),
        (
            Taps(3),
            {"width_order": 0},
            r'"taps" at field\.width_order = 0 has no derivatives .* remove one or the other',
        ),
        (Taps(3), {"width_order": 1}, None),
        (Derivative(LENGTH), {}, None),
    ],
    ids=["kernel", "taps, 0", "taps, 1", "derivative"],
)
def test_the_cut_off_is_for_unbounded_operators(signals, problems, kind, options, message):
    """A theory that is well posed as it is would only lose waves."""
    lattice = lattice_of(problems, kind)
    boundary, theory = boundary_of(signals, lattice, problems.training()), {"ill_posed": "cutoff", **options}
    for cells in (10, 30):
        start = InitialFields(lattice, seed=3, weight=0.1).on(Grid(80, cells), lattice)
        if message is None:
            check_start(start, 0, RK4, **theory)
            field = FieldSystem(start, boundary, order=0, scheme="rk4", **theory)
            assert field.q_max == pytest.approx(10 * np.pi)
            continue
        for begin in (
            lambda start=start: check_start(start, 0, RK4, **theory),
            lambda start=start: FieldSystem(start, boundary, order=0, scheme="rk4", **theory),
        ):
            with pytest.raises(InputError, match=r'field\.ill_posed = "cutoff": lattice\.range = ' + message) as caught:
                begin()
            assert "\n" not in str(caught.value)
        assert FieldSystem(start, boundary, order=0, scheme="rk4", **options).q_max is None


def test_the_cut_off_does_not_let_data_ring_at_zero_padding(tmp_path, signals, problems):
    """Sines vanish at the edges, data do not: refused on grids where any of them would be dropped."""
    lattice = lattice_of(problems, Derivative(LENGTH), padding="zeros")
    boundary = boundary_of(signals, lattice, problems.training(steps=1))
    p = cutoff_matrix(Grid(4, 40), "zeros", lattice.a_y)
    assert np.abs(p @ np.ones(40) - 1).max() > 0.2  # what would be done to a constant
    for cells, padding in (
        (5, "zeros"),
        (10, "zeros"),
        (11, "zeros"),
        (40, "zeros"),
        (40, "reflect"),
        (40, "circular"),
    ):
        network = dataclasses.replace(lattice, padding=padding)
        start = start_of(network, Grid(80, cells), (0.0, 0.0, 0.1))
        if padding == "zeros" and cells > 10:
            message = (
                r'"cutoff": signals that do not vanish .* use n_y = 10 as the lattice \(and refine_y = 1\), or padding'
            )
            with pytest.raises(InputError, match=message) as caught:
                simulate(start, boundary, ill_posed="cutoff", out=tmp_path / "field.h5")
            assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
        else:
            check_start(start, 0, RK4, ill_posed="cutoff")


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_cut_off_keeps_the_waves_of_the_lattice_and_no_others(problems, padding):
    lattice = lattice_of(problems, Taps(3), padding=padding)
    grid = Grid(4, 40)
    p = cutoff_matrix(grid, lattice.padding, lattice.a_y)
    assert cutoff(lattice.a_y) == pytest.approx(10 * np.pi)
    np.testing.assert_allclose(p, p.T, rtol=0, atol=1e-15)
    np.testing.assert_allclose(p @ p, p, rtol=0, atol=1e-13)
    wave = {"circular": np.cos, "reflect": np.cos, "zeros": np.sin}[padding]
    for number, kept in ((8, 1.0), (10, 1.0), (12, 0.0), (20, 0.0)):
        mode = wave(np.pi * number * grid.y)
        np.testing.assert_allclose(p @ mode, kept * mode, rtol=0, atol=1e-12, err_msg=str(number))


def test_the_regularised_equation_is_differentiated_with_its_projection(problems):
    lattice = lattice_of(problems, Taps(3), padding="reflect", channels=2)
    grid = Grid(1, 40)
    operator = lattice.range.operator(np, grid, lattice.a_y, "reflect", 2, 4)
    inner = lattice.law.bulk(1, operator, get_activation("tanh"), lattice.a_x)
    rhs = Regularised(inner, np, cutoff_matrix(grid, lattice.padding, lattice.a_y))
    assert rhs.order == 1 and rhs.operator is operator
    rng = np.random.default_rng(4)
    z, g = rng.standard_normal((2, 40, 2, 3))
    c = rng.standard_normal((40, 2, 3, 2)), rng.standard_normal((40, 2))
    value, tape = rhs.value(z, c)
    np.testing.assert_allclose(rhs.project(value), value, rtol=0, atol=1e-12 * np.abs(value).max())
    assert np.abs(value - inner.value(z, c)[0]).max() > 0.1 * np.abs(value).max()
    z_bar, c_bar = rhs.adjoint(tape, c, g)
    moves = rng.standard_normal(z.shape), *(rng.standard_normal(part.shape) for part in c)
    image = rhs.tangent(tape, c, moves[0], moves[1:])
    pairs = sum(np.vdot(bar, move) for bar, move in zip((z_bar, *c_bar), moves, strict=True))
    scale = np.linalg.norm(g) * np.linalg.norm(image)
    assert abs(np.vdot(g, image) - pairs) <= 1e-12 * scale
    step = 1e-6

    def moved(e):
        return rhs.value(z + e * moves[0], tuple(a + e * d for a, d in zip(c, moves[1:], strict=True)))[0]

    difference = (moved(step) - moved(-step)) / (2 * step)
    np.testing.assert_allclose(image, difference, rtol=0, atol=1e-7 * np.abs(image).max())


def test_with_the_cut_off_the_ill_posed_theory_runs_and_stays_close_to_the_lattices_resolution(
    tmp_path, signals, problems
):
    """Width order 2 on four times the lattice's cells, cut off at π/a_y, against width order 2 on its own cells."""
    lattice = lattice_of(problems, Taps(3, tied=True), width=30, padding="reflect", activation="tanh")
    training = problems.training(steps=6, snapshot_every=3, rates=(0.1, 0.05, 0.1))
    boundary = boundary_of(signals, lattice, training)
    runs = {}
    for cells, options in ((30, {}), (120, {"ill_posed": "cutoff"})):
        out = tmp_path / f"{cells}.h5"
        start = bad_taps(lattice, Grid(40, cells))
        with simulate(start, boundary, order=0, backend="numpy", stencil=6, out=out, **options) as run:
            assert run.trajectory.complete and run.config["field"]["ill_posed"] == options.get("ill_posed", "refuse")
            runs[cells] = [run.loss, run.fields(2).w, run.z(2)]
    loss, w, z = runs[120]
    assert all(np.isfinite(part).all() for part in (loss, w, z))
    coarse_loss, coarse_w, coarse_z = runs[30]
    np.testing.assert_allclose(loss, coarse_loss, rtol=2e-3)
    np.testing.assert_allclose(w, coarse_w, rtol=0, atol=5e-3 * np.abs(coarse_w).max())
    assert np.abs(w - bad_taps(lattice, Grid(40, 120)).w).max() > 0.02
    averaged = z.reshape(41, 30, 4, 1, -1).mean(axis=2)
    assert np.linalg.norm(averaged - coarse_z) < 2e-2 * np.linalg.norm(coarse_z)
    with pytest.raises(NumericsError, match="ill posed"):
        simulate(start, boundary, order=0, backend="numpy", out=tmp_path / "refused.h5")
    assert not (tmp_path / "refused.h5").exists()


def test_cut_off_fields_have_no_short_waves(signals, problems):
    lattice = lattice_of(problems, Taps(3), padding="circular", channels=2)
    boundary = boundary_of(signals, lattice, problems.training())
    start = InitialFields(lattice, seed=3, weight=0.5, bias=0.5).on(Grid(20, 40), lattice)
    field = FieldSystem(start, boundary, order=1, scheme="rk4", backend="numpy", ill_posed="cutoff")
    for k in range(2):
        field.step(k)
    spectrum = np.abs(np.fft.rfft(field.probe(), axis=1))
    assert spectrum[:, 6:].max() < 1e-12 * spectrum.max()
    assert spectrum[:, 5].max() > 1e-6 * spectrum.max()


def test_an_unknown_remedy_is_refused(signals, problems):
    lattice = lattice_of(problems, Taps(3))
    boundary = boundary_of(signals, lattice, problems.training())
    with pytest.raises(InputError, match=r"field\.ill_posed = 'ignore': use one of refuse, cutoff"):
        FieldSystem(bad_taps(lattice, lattice.grid), boundary, order=0, scheme="rk4", ill_posed="ignore")


# as weights train


@pytest.mark.parametrize("range_name", ["derivative", "taps"])
def test_weights_that_become_ill_posed_stop_the_run_and_keep_what_was_recorded(tmp_path, signals, problems, range_name):
    """A large rate drives ŵ_2 (or Σk²ŵ_k) negative within a few steps."""
    kind = Derivative(0.3, tied=True) if range_name == "derivative" else Taps(3, tied=True)
    lattice = lattice_of(problems, kind, padding="reflect")
    rate = 10.0 if range_name == "derivative" else 1.0
    training = problems.training(steps=40, snapshot_every=1, step=0.5, rates=(rate, 0.0, 0.0))
    boundary = boundary_of(signals, lattice, training)
    first = (0.0, 0.0, 0.01) if range_name == "derivative" else (0.01, 0.0, 0.01)
    start = start_of(lattice, Grid(60, 40), first)
    start = dataclasses.replace(start, r=InitialFields(lattice, seed=5).on(start.grid, lattice).r)
    out = tmp_path / "field.h5"
    with pytest.raises(NumericsError, match=r"ill posed at t = [0-9.]+: ") as caught:
        simulate(start, boundary, order=0, backend="numpy", out=out)
    assert "\n" not in str(caught.value)
    t = float(str(caught.value).split("t = ")[1].split(":")[0])
    with Run(out) as kept:
        assert not kept.trajectory.complete
        assert kept.t[-1] == t and len(kept.t) >= 2 and t == 0.5 * (len(kept.t) - 1)
        np.testing.assert_array_equal(kept.fields(0).w, start.w)
        assert np.isfinite(kept.z(len(kept.t) - 1)).all()
        moment = {"derivative": lambda w: w[..., 2, :], "taps": lambda w: w[..., 0, :] + w[..., 2, :]}[range_name]
        signs = [moment(kept.fields(i).w).min() for i in range(len(kept.t))]
        assert signs[0] > 0 > signs[-1]
    # and resuming does not step over it
    with pytest.raises(NumericsError, match=rf"ill posed at t = {t:g}: "):
        simulate(start, boundary, order=0, backend="numpy", out=out, resume=True)
    with Run(out) as kept:
        assert kept.t[-1] == t and not kept.trajectory.complete


def test_kernels_are_not_watched(tmp_path, monkeypatch, signals, problems):
    """After the first look nothing is analysed again: it would cost and never refuse."""
    from bbdfield.fields import simulation

    looks = []
    original = simulation.check
    monkeypatch.setattr(simulation, "check", lambda *a, **k: looks.append(a[6]) or original(*a, **k))
    training = problems.training(steps=4, snapshot_every=1)
    for kind, expected in ((Kernel("1/4"), [0.0]), (Derivative(LENGTH), [0.0, 0.0, 1.0, 2.0, 3.0, 4.0])):
        lattice = lattice_of(problems, kind)
        looks.clear()
        start = InitialFields(lattice, seed=3, weight=0.3).on(Grid(20, 10), lattice)
        options = {"order": 0, "backend": "numpy", "out": tmp_path / f"{kind.name}.h5"}
        simulate(start, boundary_of(signals, lattice, training), **options).close()
        assert sorted(set(looks)) == sorted(set(expected))
        assert len(looks) == (2 if kind.name == "kernel" else 6)
