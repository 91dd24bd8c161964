"""Linearised lattices and fields: exact solutions, finite differences, and each other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.linalg import expm

from bbdfield.errors import InputError
from bbdfield.fields.simulation import simulate
from bbdfield.lattice.network import forward
from bbdfield.lattice.training import LatticeSystem, train
from bbdfield.model.activations import Activation, get_activation
from bbdfield.model.architecture import FieldState, Kernel, Lattice
from bbdfield.model.initial import InitialFields
from bbdfield.model.ranges import Derivative, Taps
from bbdfield.model.regularisation import Regularised, cutoff_matrix
from bbdfield.model.run import Run
from bbdfield.model.units import LatticeState
from bbdfield.propagation.linearised import linearised_field, linearised_network, linearised_run
from bbdfield.propagation.mean_field import MeanField
from bbdfield.propagation.transfer import growth, leading, lyapunov, random_directions
from solvers.grids import Grid
from solvers.padding import PADDINGS
from solvers.sweeps import SCHEMES, DepthMarch, get_scheme

RANGES = {
    "tied kernel": Kernel("1/4"),
    "untied kernel": Kernel("1/4", tied=False),
    "untied taps": Taps(3),
    "moments": Derivative(0.05),
}
LAWS = {
    "residual, order 0": ("residual", "tanh", 0),
    "residual, order 1": ("residual", "gelu", 1),
    "critical, order 0": ("critical", "tanh", 0),
    "critical, order 1": ("critical", "tanh", 1),
    "plain": ("plain", "tanh", 1),
}
# the gradient expansion of plain networks is singular for derivatives, where 𝒦σ' passes −1
THEORIES = [(law, width) for law in LAWS for width in RANGES if law != "plain" or "kernel" in width]


def uniform(lattice, kernel, bias, grid=None):
    """Fields that are the same everywhere: kernel (C, T, C), bias (C,)."""
    grid = grid or lattice.grid
    w = np.broadcast_to(kernel, (grid.n_x, *kernel.shape)).copy()
    b = np.broadcast_to(bias, (grid.n_x, grid.n_y, len(bias))).copy()
    return FieldState(lattice, grid, w, b, np.zeros((lattice.outputs, lattice.channels, lattice.readout_modes)))


# known solutions


@pytest.fixture
def resting():
    """One channel, circular, and a bias that keeps z = 0.7 everywhere: the rate of each wave is known."""
    lattice = Lattice(40, 20, 1, Kernel("1/8"), padding="circular")
    u = lattice.range.components(lattice.grid)
    kernel = (6.0 * np.cos(12.0 * u))[None, :, None]
    tanh, z = get_activation("tanh"), np.full((20, 1, 1), 0.7)
    total = lattice.a_y * kernel.sum()
    state = uniform(lattice, kernel, -total * tanh.f(np.full(1, 0.7)))
    q = 2 * np.pi * np.arange(11)
    symbol = lattice.a_y * (kernel[0, :, 0] * np.cos(np.outer(q, u))).sum(axis=1)
    return lattice, state, z, q, symbol * tanh.df(np.full(1, 0.7))


@pytest.mark.parametrize("mode", [0, 1, 3])
def test_waves_on_uniform_fields_grow_at_the_symbol_s_rate(resting, mode):
    lattice, state, z, q, rates = resting
    wave = np.cos(q[mode] * lattice.grid.y)[:, None, None]
    found = growth(linearised_field(state, z, order=0), wave)
    # RK4's own error per unit of x is h⁴ λ⁵/120
    np.testing.assert_allclose(found.local, rates[mode], atol=lattice.a_x**4 * abs(rates[mode]) ** 5 / 60 + 1e-12)
    assert found.rate[0, 0] == pytest.approx(rates[mode], abs=1e-5) and abs(rates[mode]) > 0.1
    w, layers = lattice.a_x * lattice.a_y * state.w, np.broadcast_to(z, (41, *z.shape))
    discrete = linearised_network(w, layers, padding="circular", x=lattice.grid.x_sites)
    exact = np.log(1 + lattice.a_x * rates[mode]) / lattice.a_x
    np.testing.assert_allclose(growth(discrete, wave).local, exact, rtol=1e-10)


def test_the_uniform_wave_s_rate_is_the_whole_kernel_times_the_slope(resting):
    """𝒦̂(0) σ'(z), also while z moves: Λ(x) = 𝒦̂(0) σ'(z(x))."""
    lattice, state, _, _, _ = resting
    moving = dataclasses.replace(state, b=np.full_like(state.b, 0.4))
    z0 = np.full((20, 1, 1), -0.6)
    found = growth(linearised_field(moving, z0, order=0), np.ones((20, 1, 1)))
    total, a_x = lattice.a_y * float(moving.w[0].sum()), lattice.a_x
    z, fine = -0.6, []
    for _ in range(40 * 50):  # z' = 𝒦̂(0) tanh z + b̂ by small midpoint steps
        middle = z + a_x / 100 * (total * np.tanh(z) + 0.4)
        z += a_x / 50 * (total * np.tanh(middle) + 0.4)
        fine.append(total * (1 - np.tanh(middle) ** 2))
    expected = np.reshape(fine, (40, 50)).mean(axis=1)
    np.testing.assert_allclose(found.local[:, 0, 0], expected, rtol=1e-5)
    assert np.ptp(expected) > 0.1 * np.abs(expected).max()


def test_singular_values_and_exponents_on_uniform_fields(resting):
    """A circulant operator is normal: singular values are e^{|Λ(q)|L}, exponents the Λ(q), cosine and sine each."""
    _, state, z, _, rates = resting
    transfer = linearised_field(state, z, order=0)
    every = np.sort(np.concatenate([rates, rates[1:-1]]))[::-1]
    assert leading(transfer, tolerance=1e-9).log[0] == pytest.approx(every[0], abs=1e-5)
    found = lyapunov(transfer, 20, seed=1).exponents[:, 0]
    assert found.sum() == pytest.approx(every.sum(), abs=1e-4)
    # 40 layers turn a random frame only so far
    assert found[0] == pytest.approx(every[0], abs=1.5)
    np.testing.assert_allclose(np.sort(np.linalg.svd(transfer.matrix()[0])[1]), np.exp(every[::-1]), rtol=1e-4)


@pytest.mark.parametrize("padding", PADDINGS)
def test_linear_fields_have_a_matrix_exponential(padding):
    rng = np.random.default_rng(3)
    lattice = Lattice(64, 10, 2, Kernel("1/4"), padding=padding, activation="identity")
    kernel = rng.standard_normal((2, 5, 2))
    state = uniform(lattice, kernel, rng.standard_normal(2))
    z0 = rng.standard_normal((10, 2, 3))
    transfer = linearised_field(state, z0, order=0)
    one_layer = linearised_network(lattice.a_x * lattice.a_y * state.w[:1], z0[None], "identity", padding=padding)
    generator = (one_layer.matrix()[0] - np.eye(20)) / lattice.a_x
    np.testing.assert_allclose(transfer.matrix(), np.broadcast_to(expm(generator), (3, 20, 20)), atol=1e-7)
    found = leading(transfer, tolerance=1e-10)
    np.testing.assert_allclose(found.log, np.log(np.linalg.norm(expm(generator), 2)), atol=1e-7)


def test_order_one_is_the_lattice_to_second_order(fitted_order):
    """Smooth fields, sampled: ln s₁ of lattice and field differ as a_x² at order 1, as a_x at order 0."""
    depths, differences = (8, 16, 32), {0: [], 1: []}
    for depth in depths:
        lattice = Lattice(depth, 20, 2, Kernel("1/8"))
        state = InitialFields(lattice, seed=2, weight=2.0, bias=0.5, correlation_x=1.0).on(lattice.grid, lattice)
        z0 = np.random.default_rng(1).standard_normal((20, 2, 2))
        w, b = lattice.a_x * lattice.a_y * state.w, lattice.a_x * state.b
        z = forward(z0, w, b, get_activation("tanh"), "zeros")
        exact = leading(linearised_network(w, z, x=lattice.grid.x_sites), tolerance=1e-9).log
        for order, found in differences.items():
            field = leading(linearised_field(state, z0, order=order, scheme="midpoint"), tolerance=1e-9).log
            found.append(float(np.abs(field - exact).max()))
    spacings = 1 / np.array(depths)
    assert fitted_order(spacings, differences[0]) == pytest.approx(1, abs=0.1)
    assert fitted_order(spacings, differences[1]) == pytest.approx(2, abs=0.15)


# tangents and transposes


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("tied", [True, False, None], ids=["tied", "untied", "dense"])
@pytest.mark.parametrize("skip", [0.0, 1.0])
def test_lattice_tangents(padding, tied, skip):
    rng = np.random.default_rng(8)
    shape = {True: (2, 3, 2), False: (7, 2, 3, 2), None: (14, 14)}[tied]
    w, z0 = rng.standard_normal((4, *shape)) / 2, rng.standard_normal((7, 2, 3))
    sigma = get_activation("gelu")

    def march(start):
        if tied is not None:
            return forward(start, w, np.zeros((4, 7, 2)), sigma, padding, skip)
        z = [start]
        for m in range(4):
            z.append(skip * z[-1] + (w[m] @ sigma.f(z[-1]).reshape(14, 3)).reshape(7, 2, 3))
        return np.array(z)

    transfer = linearised_network(w, march(z0), "gelu", skip=skip, padding=padding)
    dz, g = rng.standard_normal((2, 7, 2, 3))
    h = 1e-6
    np.testing.assert_allclose(transfer.apply(dz), (march(z0 + h * dz) - march(z0 - h * dz))[-1] / (2 * h), atol=1e-8)
    np.testing.assert_allclose(np.sum(g * transfer.apply(dz)), np.sum(dz * transfer.transpose(g)), rtol=1e-12)
    assert transfer.x.tolist() == [0, 1, 2, 3, 4]  # rates are per layer


@pytest.mark.parametrize("cutoff", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("law", "width"), THEORIES)
def test_field_tangents(law, width, scheme, cutoff):
    """Against differences of the same equation's solutions; replicas do not mix."""
    scaling, activation, order = LAWS[law]
    lattice = Lattice(3, 10, 2, RANGES[width], scaling=scaling, activation=activation)
    grid = Grid(15, 30 if cutoff else 10)
    state = InitialFields(lattice, seed=4, weight=0.3, bias=0.5).on(grid, lattice)
    rng = np.random.default_rng(6)
    z0, dz, g = rng.standard_normal((3, grid.n_y, 2, 2))
    settings = {"order": order, "scheme": scheme, "stencil": 2, "cutoff": cutoff}
    transfer = linearised_field(state, z0, **settings)
    h = 1e-5
    moved = [end_of(state, z0 + sign * h * dz, **settings) for sign in (1, -1)]
    response = transfer.apply(dz)
    scale = np.abs(response).max()
    np.testing.assert_allclose(response, (moved[0] - moved[1]) / (2 * h), atol=1e-6 * scale)
    left, right = np.sum(g * response), np.sum(dz * transfer.transpose(g))
    assert left == pytest.approx(right, abs=1e-11 * scale * np.abs(g).sum())
    alone = transfer.apply(dz * np.array([1.0, 0.0]))
    assert np.abs(alone[..., 1]).max() == 0
    np.testing.assert_allclose(alone[..., 0], response[..., 0], rtol=1e-12)


def end_of(state, z0, *, order, scheme, stencil, cutoff):
    """ẑ(L) by the solver's march, with no linearisation."""
    lattice = state.lattice
    operator = lattice.range.operator(np, state.grid, lattice.a_y, lattice.padding, None, stencil)
    equation = lattice.law.bulk(order, operator, get_activation(lattice.activation), lattice.a_x)
    if cutoff:
        equation = Regularised(equation, np, cutoff_matrix(state.grid, lattice.padding, lattice.a_y))
        z0 = equation.project(z0)
    march = DepthMarch(equation, state.grid, get_scheme(scheme))
    along = march.reconstruction.interpolation
    nodes = tuple(np.tensordot(along, part, axes=1) for part in (state.w, state.b))
    return march.forward(z0, nodes).z[-1]


# recorded runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory, signals, problems):
    """A lattice and its field, trained for a few steps."""
    folder = tmp_path_factory.mktemp("runs")
    lattice, training = problems.lattice(), problems.training()
    start = InitialFields(lattice, seed=5, weight=2.0, bias=0.5)
    with train(lattice, signals, training, initial=start, out=folder / "lattice.h5") as run:
        fields = start.on(Grid(12, 10), lattice)
        simulate(
            fields, run.boundary, order=1, depth_scheme="midpoint", backend="numpy", out=folder / "field.h5"
        ).close()
    return folder


def test_recorded_lattice(runs):
    """The transfer operator is the derivative of the network that the file holds."""
    with Run(runs / "lattice.h5") as run:
        lattice, w, b = run.lattice, *(run.trajectory.fields[name][2] for name in ("w", "b"))
        z = run.z(2)
        transfer = linearised_run(run, 2)
        chosen = linearised_run(run, 2, samples=[3, 1])
    sigma = get_activation(lattice.activation)
    dz = random_directions(z.shape[1:], 1, 0)[0]
    ends = [forward(z[0] + h * dz, w, b, sigma, lattice.padding)[-1] for h in (1e-6, -1e-6)]
    np.testing.assert_allclose(transfer.apply(dz), (ends[0] - ends[1]) / 2e-6, atol=1e-8)
    np.testing.assert_allclose(chosen.apply(dz[..., [3, 1]]), transfer.apply(dz)[..., [3, 1]], rtol=1e-13)
    assert transfer.length == 1.0 and len(transfer.layers) == 6


def test_recorded_field_describes_the_recorded_lattice(runs):
    """Their rates differ by the theory's error, which is small against the rates and their change in training."""
    with Run(runs / "lattice.h5") as lattice, Run(runs / "field.h5") as field:
        rates = {
            run.kind: np.array([leading(linearised_run(run, i), tolerance=1e-8).log for i in range(3)])
            for run in (lattice, field)
        }
    difference = np.abs(rates["field"] - rates["lattice"]).max()
    assert difference < 0.1 * rates["lattice"].min()
    assert difference < 0.1 * np.abs(rates["lattice"][2] - rates["lattice"][0]).max()


@pytest.mark.parametrize("changes", [{"range": Derivative(0.02)}, {"scaling": "critical"}, {"scaling": "plain"}])
def test_other_lattices(tmp_path, signals, problems, changes):
    """Taps made of moments, identity taps and rescaled activations: against the network of the lattice route."""
    lattice, training = dataclasses.replace(problems.lattice(), **changes), problems.training(steps=4)
    start = InitialFields(lattice, seed=5, weight=0.5, bias=0.3)
    with train(lattice, signals, training, initial=start, out=tmp_path / "run.h5") as run:
        transfer, z = linearised_run(run, 0), run.z(0)
        state = LatticeState(*(run.trajectory.fields[name][0] for name in ("w", "b", "r")))
        system = LatticeSystem(lattice, run.boundary, state)
    w, b, dz = system.weights(system.u[0]), system.u[1], random_directions(z.shape[1:], 1, 0)[0]
    ends = [system.network.forward(z[0] + h * dz, w, b)[-1] for h in (1e-6, -1e-6)]
    np.testing.assert_allclose(transfer.apply(dz), (ends[0] - ends[1]) / 2e-6, atol=1e-7)


def test_runs_that_do_not_say_their_scheme_are_refused(runs):
    with Run(runs / "field.h5") as run:
        del run.config["field"]["depth_scheme"]
        with pytest.raises(InputError, match=r"has no field\.depth_scheme; record the run again"):
            linearised_run(run, 0)


# random networks, from the bulk alone


@pytest.mark.parametrize("variances", [(1.3, 0.05), (2.5, 0.05)])
def test_random_networks_have_the_mean_field_s_rate(variances):
    """Plain, dense: |δz|² changes by χ₁ per layer, so ξ_c of the ordered phase is half the depth scale of |δz|."""
    weight, bias = variances
    ensemble, width, depth, copies = MeanField(weight, bias), 300, 30, 6
    point = ensemble.fixed_point()
    rates = []
    for copy in range(copies):
        rng = np.random.default_rng([5, copy])
        w = np.sqrt(weight / width) * rng.standard_normal((depth, width, width))
        z = [np.sqrt(point.q) * rng.standard_normal((width, 1, 1))]
        for m in range(depth):
            b = np.sqrt(bias) * rng.standard_normal((width, 1, 1))
            z.append((w[m] @ np.tanh(z[-1][:, 0]))[:, None] + b)
        transfer = linearised_network(w, z, skip=0.0)
        rates.append(growth(transfer, random_directions(transfer.shape, 4, copy)).rate.mean())
    error = np.std(rates, ddof=1) / np.sqrt(copies)
    assert error < 0.01
    assert abs(np.mean(rates) - 0.5 * np.log(point.chi)) < 4 * error + 1 / width
    if point.ordered:
        assert 0.5 / abs(np.mean(rates)) == pytest.approx(point.xi_c, rel=0.15)


# what is refused


def test_refused():
    w, z = np.zeros((2, 1, 3, 1)), np.zeros((3, 5, 1, 1))
    linearised_network(w, z[:2])  # the last site is not needed
    for wrong, message in (
        ({"z": z[:1]}, "2 layers need z at 2 or 3 sites, not 1"),
        ({"w": np.zeros((2, 1, 2, 1))}, r"W of shape \(1, 2, 1\) does not act on z of shape \(5, 1, 1\)"),
        ({"w": np.zeros((2, 4, 1, 3, 1))}, r"W of shape \(4, 1, 3, 1\) does not act on z"),
        ({"w": np.zeros((2, 4, 4))}, r"a dense layer on 5 x 1 units is not \(4, 4\)"),
        ({"activation": "tan"}, "unknown activation 'tan'"),
    ):
        with pytest.raises(InputError, match=message):
            linearised_network(**({"w": w, "z": z} | wrong))
    own = Activation("square", lambda u: u * u, lambda u: 2 * u, lambda u: 2 + 0 * u)
    assert linearised_network(w, z, own).apply(np.ones((5, 1, 1))).shape == (5, 1, 1)
