"""Closed forms of the intrinsic dynamics against naive versions, trained parameters, and the residual field solver."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.integrate import quad_vec, solve_ivp
from scipy.interpolate import CubicSpline
from scipy.linalg import fractional_matrix_power, sqrtm

from bbdfield import Boundary, Dataset, Lattice, Taps, Training, simulate
from bbdfield.errors import InputError, NumericsError
from bbdfield.lattice.balanced import BalancedField, product, relaxed_balanced
from bbdfield.model.architecture import Rates
from bbdfield.observables.intrinsic import (
    LinearTask,
    boundary_task,
    deep_mean,
    depth_imbalance,
    distance,
    infinite_depth_mean,
    intrinsic_flow,
    movement,
    relaxed_mean,
    residual_start,
    speed,
    train_field,
    train_lattice,
    train_layers,
    two_layer_mean,
)
from solvers.grids import Grid

N = 4
TIMES = np.linspace(0, 1, 5)


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(3)
    return LinearTask(rng.standard_normal((N, 30)), rng.standard_normal((30, N)))


def some(seed=0, shape=(2, N, N)):
    return np.random.default_rng(seed).standard_normal(shape)


# closed forms


@pytest.mark.parametrize("relaxation", [0.0, 0.8, -0.8])
def test_two_layers_naively(relaxation):
    w = relaxed_balanced((N, N, N), relaxation, np.random.default_rng(5))
    (z, one), g = (product(w), np.eye(N)), some()[1]
    after = relaxation / 2 * one + sqrtm(z @ z.T + relaxation**2 / 4 * one)
    before = -relaxation / 2 * one + sqrtm(z.T @ z + relaxation**2 / 4 * one)
    # D = W_2ᵀW_2 − W_1W_1ᵀ = λ, so U = W_2 and V = W_1ᵀ
    np.testing.assert_allclose(w[1] @ w[1].T, after, atol=1e-12)
    np.testing.assert_allclose(w[0].T @ w[0], before, atol=1e-12)
    expected = -(w[1] @ w[1].T @ g + g @ w[0].T @ w[0])
    np.testing.assert_allclose(speed(z, g, two_layer_mean(relaxation)), expected, atol=1e-12)


@pytest.mark.parametrize(
    "widths, relaxation, holds",
    [((3, 2, 2), 0.6, True), ((2, 2, 3), -0.6, True), ((4, 2, 3), 0.0, True), ((2, 2, 3), 0.6, False)],
)
def test_two_layers_that_are_not_square(widths, relaxation, holds):
    w = relaxed_balanced(widths, relaxation, np.random.default_rng(5))
    g = some(1, (widths[-1], widths[0]))
    expected = -(w[1] @ w[1].T @ g + g @ w[0].T @ w[0])
    off = np.abs(speed(product(w), g, two_layer_mean(relaxation)) - expected).max()
    assert off < 1e-12 if holds else off > 0.01


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_deep_balanced_naively(layers):
    z, g = some()
    expected = np.zeros((N, N))
    for j in range(1, layers + 1):
        left = fractional_matrix_power(z @ z.T, (layers - j) / layers)
        expected -= left @ g @ fractional_matrix_power(z.T @ z, (j - 1) / layers)
    np.testing.assert_allclose(speed(z, g, deep_mean(layers)), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("widths", [(N, 3, 5, N), (3, 5, 4), (N,) * 6])
def test_deep_balanced_is_the_gradient_flow_of_the_layers(widths):
    """Ż of the layers themselves: Σ_j W_L⋯W_{j+1} Ẇ_j W_{j−1}⋯W_1 with Ẇ_j = −∂f/∂W_j."""
    w, g = relaxed_balanced(widths, 0.0, np.random.default_rng(5)), some(1, (widths[-1], widths[0]))
    expected = layered_speed(w, g)
    np.testing.assert_allclose(speed(product(w), g, deep_mean(len(w))), expected, atol=1e-11)


def layered_speed(w, g):
    total = np.zeros_like(g)
    for j in range(len(w)):
        after, before = np.eye(len(w[-1])), np.eye(w[0].shape[1])
        for part in reversed(w[j + 1 :]):
            after = after @ part
        for part in w[:j]:
            before = part @ before
        total -= after @ (after.T @ g @ before.T) @ before
    return total


@pytest.mark.parametrize("relaxation", [(0.6,), (0.8, -0.3, 0.2), (-0.8, 1.0), (0.0, 0.0), (0.5, 0.5, -1.0)])
def test_relaxed_balanced_is_the_gradient_flow_of_the_layers(relaxation):
    w, g = relaxed_balanced((N,) * (len(relaxation) + 2), relaxation, np.random.default_rng(5)), some()[1]
    np.testing.assert_allclose(speed(product(w), g, relaxed_mean(relaxation)), layered_speed(w, g), atol=1e-11)


def test_the_means_are_one_family():
    a, b = np.abs(some(2, (2, 50)))
    np.testing.assert_allclose(relaxed_mean((0.7,))(a, b), two_layer_mean(0.7)(a, b), rtol=1e-12)
    np.testing.assert_allclose(relaxed_mean((0.0,) * 4)(a, b), deep_mean(5)(a, b), rtol=1e-12)
    # a deep network with the rate 1/L becomes infinitely deep: a Riemann sum from the left, error of order 1/L
    errors = [np.abs(deep_mean(n)(a, b) / n - infinite_depth_mean()(a, b)).max() for n in (1000, 2000)]
    assert errors[0] < 0.02 and 1.9 < errors[0] / errors[1] < 2.1


def test_the_infinitely_deep_naively():
    z, g = some()

    def integrand(s):
        return fractional_matrix_power(z @ z.T, 1 - s) @ g @ fractional_matrix_power(z.T @ z, s)

    expected = -quad_vec(integrand, 0, 1, epsabs=1e-12, epsrel=1e-12)[0]
    np.testing.assert_allclose(speed(z, g, infinite_depth_mean()), expected, rtol=1e-9, atol=1e-10)


def test_the_logarithmic_mean_where_its_formula_is_not():
    mean = infinite_depth_mean()
    a = np.array([1.3, 1.3, 1.3, 0.0, 0.0, 1e-200])
    b = np.array([1.3, 1.3 * (1 + 1e-9), 1.3 * (1 - 1e-14), 1.0, 0.0, 1.0])
    found = mean(a, b)
    np.testing.assert_allclose(found[:3], 1.69, rtol=2e-9)
    np.testing.assert_array_equal(found[3:5], 0.0)
    np.testing.assert_array_equal(found, mean(b, a))
    assert np.all(relaxed_mean((0.5, -0.2))(a, a) >= 0)


# closed forms against training


@pytest.mark.parametrize("relaxation", [0.0, 0.8, -0.8])
def test_two_layers_train_as_the_closed_form_says(task, relaxation):
    w = relaxed_balanced((N, N, N), relaxation, np.random.default_rng(5))
    trained = train_layers(w, task, TIMES, 0.005)
    flow = intrinsic_flow(product(w), task.gradient, two_layer_mean(relaxation), TIMES)
    assert distance(trained, flow) < 1e-9
    assert movement(flow) > 0.3
    wrong = intrinsic_flow(product(w), task.gradient, two_layer_mean(relaxation + 0.4), TIMES)
    assert distance(trained, wrong) > 1e-3


@pytest.mark.parametrize("widths, relaxation", [((N, N, N, N), 0.0), ((N, 3, 5, N), 0.0), ((N,) * 4, (0.8, -0.3))])
def test_deep_networks_train_as_the_closed_form_says(task, widths, relaxation):
    w = relaxed_balanced(widths, relaxation, np.random.default_rng(5))
    trained = train_layers(w, task, TIMES, 0.0025)
    mean = relaxed_mean(relaxation) if np.any(relaxation) else deep_mean(len(w))
    flow = intrinsic_flow(product(w), task.gradient, mean, TIMES)
    assert distance(trained, flow) < 1e-8
    assert movement(flow) > 0.3


def test_without_balance_the_closed_form_fails(task):
    w = relaxed_balanced((N, N, N), 0.0, np.random.default_rng(5))
    turned = [np.diag([1.0, 2.0, 0.5, 1.5]) @ w[0], w[1] @ np.diag([1.0, 0.5, 2.0, 1 / 1.5])]
    np.testing.assert_allclose(product(turned), product(w), atol=1e-14)
    trained = train_layers(turned, task, TIMES, 0.01)
    flow = intrinsic_flow(product(w), task.gradient, two_layer_mean(), TIMES)
    assert distance(trained, flow) > 1e-2


def test_the_gradient_of_the_task_is_that_of_its_loss(task):
    z, h = some()[0], 1e-6
    for i in range(N):
        for j in range(N):
            move = np.zeros((N, N))
            move[i, j] = h
            slope = (task.loss(z + move) - task.loss(z - move)) / (2 * h)
            assert abs(slope - task.gradient(z)[i, j]) < 1e-8


def test_steps_that_are_too_long_are_named(task):
    w = relaxed_balanced((N, N, N), 0.0, np.random.default_rng(5), 10.0)
    with np.errstate(all="ignore"), pytest.raises(NumericsError, match="use a smaller step"):
        train_layers(w, task, [100.0], 10.0)


# infinite depth


def test_the_conserved_matrix_of_depth_by_differences():
    h = 1e-4
    found = depth_imbalance(BalancedField.draw(N, np.random.default_rng(0), 1.5).at(0.3 + h * np.arange(5)), h)
    assert found.shape == (3, N, N)
    assert np.abs(found - 1.5 * np.eye(N)).max() < 1e-6
    w = some(4, (3, N, N))
    naive = (w[2] + w[2].T - w[0] - w[0].T) / 0.2 + w[1].T @ w[1] - w[1] @ w[1].T
    np.testing.assert_allclose(depth_imbalance(w, 0.1)[0], naive, atol=1e-13)


def waving(n, rng):
    """W(s) and its derivative, of no balance at all."""
    parts = rng.standard_normal((3, n, n))

    def w(s):
        return parts[0] + np.sin(3 * s) * parts[1] + s**2 * parts[2]

    return w, lambda s: 3 * np.cos(3 * s) * parts[1] + 2 * s * parts[2]


def marched(w, ends, start):
    """P(s) at `ends` of P' = W P from `start` at the first of them."""
    found = solve_ivp(
        lambda s, p: (w(s) @ p.reshape(start.shape)).ravel(), (ends[0], ends[-1]), start.ravel(), "DOP853", ends,
        rtol=1e-13, atol=1e-14,
    )  # fmt: skip
    return found.y.T.reshape(-1, *start.shape)


@pytest.mark.parametrize("relaxed", [False, True])
def test_the_identity_from_which_the_dynamics_of_depth_follows(relaxed):
    """B'' − B'B⁻¹B' = PᵀDP for B = PᵀP, by differences of a march, for any W; with D = ℓ1 it is ℓB."""
    h, ends = 1e-3, 0.4 + 1e-3 * np.arange(-1, 2)
    if relaxed:
        field = BalancedField.draw(N, np.random.default_rng(0), 1.5)
        w = lambda s: field.at(np.array([s]))[0]  # noqa: E731
        slope = lambda s: (w(s + 1e-5) - w(s - 1e-5)) / 2e-5  # noqa: E731
    else:
        w, slope = waving(N, np.random.default_rng(0))
    p = marched(w, ends, marched(w, [0.0, ends[0]], np.eye(N))[-1])
    b = np.swapaxes(p, 1, 2) @ p
    first, second = (b[2] - b[0]) / (2 * h), (b[2] - 2 * b[1] + b[0]) / h**2
    here, change = w(0.4), slope(0.4)
    d = change + change.T + here.T @ here - here @ here.T
    expected = p[1].T @ d @ p[1]
    found = second - first @ np.linalg.solve(b[1], first)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(second).max()
    assert np.abs(expected).max() > 0.1 * np.abs(second).max()
    if relaxed:
        np.testing.assert_allclose(expected, 1.5 * b[1], atol=1e-6 * np.abs(b).max())


@pytest.mark.parametrize("relaxation", [0.0, 1.5])
def test_both_factors_of_the_dynamics_of_depth(relaxation):
    """B(s) = (ZᵀZ)^s e^{−c}, ZB⁻¹Zᵀ = (ZZᵀ)^{1−s} e^{c}, c = ℓ s (1 − s)/2, of a march through W(s)."""
    field = BalancedField.draw(N, np.random.default_rng(1), relaxation)
    ends = np.linspace(0, 1, 4)
    p = marched(lambda s: field.at(np.array([s]))[0], ends, np.eye(N))
    z = p[-1]
    for s, now in zip(ends[1:3], p[1:3], strict=True):
        b, c = now.T @ now, relaxation * s * (1 - s) / 2
        np.testing.assert_allclose(b, fractional_matrix_power(z.T @ z, s) * np.exp(-c), rtol=0, atol=1e-9)
        after = fractional_matrix_power(z @ z.T, 1 - s) * np.exp(c)
        np.testing.assert_allclose(z @ np.linalg.solve(b, z.T), after, rtol=0, atol=1e-9)


def residual(depth, **change):
    given = {"outputs": N, "data_channels": 5, "activation": "identity", "loss": "mean-square", "readout_modes": 1}
    return Lattice(depth, 1, N, Taps(1, tied=True), **{**given, **change})


@pytest.fixture(scope="module")
def boundary():
    rng = np.random.default_rng(7)
    data = Dataset("random", rng.standard_normal((40, 5, 1)), rng.standard_normal((40, N)))
    flow = {"dynamics": "adaptive-flow", "tolerance": 1e-9, "probe": 1, "evaluate": 0, "seed": 1}
    return Boundary.draw(data, residual(8), Training(3, 30, Rates(1.0, 0.0, 0.0), step=0.5, **flow))


@pytest.fixture(scope="module")
def fields():
    return {ell: BalancedField.draw(N, np.random.default_rng(2), ell, 0.7) for ell in (0.0, 1.5)}


def closed(field, boundary):
    steps = np.arange(boundary.training.steps + 1) * boundary.training.step
    return intrinsic_flow(field.propagator(), boundary_task(boundary).gradient, infinite_depth_mean(), steps)


@pytest.mark.parametrize("relaxation", [0.0, 1.5])
def test_the_field_solver_is_at_the_closed_form_and_nearer_with_order_four(boundary, fields, relaxation):
    field = fields[relaxation]
    flow = closed(field, boundary)
    errors = [distance(train_field(field, residual(8), boundary, n_x), flow) for n_x in (8, 16)]
    assert errors[1] < 1e-5 and errors[0] / errors[1] > 12
    assert movement(flow) > 0.2


@pytest.mark.parametrize("relaxation", [0.0, 1.5])
def test_lattices_come_to_the_closed_form_as_one_over_depth(boundary, fields, relaxation):
    field = fields[relaxation]
    flow = closed(field, boundary)
    errors = [distance(train_lattice(field, residual(depth), boundary), flow) for depth in (8, 16, 32)]
    slope = np.polyfit(np.log([8, 16, 32]), np.log(errors), 1)[0]
    assert abs(slope + 1) < 0.1
    first = [
        distance(train_field(field, residual(depth), boundary, 16, 1), train_lattice(field, residual(depth), boundary))
        for depth in (16, 32)
    ]
    assert first[1] < 0.3 * errors[2] and 3.4 < first[0] / first[1] < 4.6


class Bumped(BalancedField):
    """W(s) with something added that is balanced no more, or with an ℓ that varies."""

    bump = np.eye(N)

    def at(self, s):
        return super().at(s) + np.sin(2 * np.pi * np.asarray(s, float))[:, None, None] * self.bump


class Sheared(Bumped):
    bump = np.diag([1.0, -1.0, 0.5, 0.0])


def test_the_relaxation_may_vary_with_depth_but_nothing_else(boundary, fields):
    field, gradient = fields[0.0], boundary_task(boundary).gradient
    for kind, holds in ((Bumped, True), (Sheared, False)):
        found = train_field(kind(field.stretch, 0.0, field.turn, field.twist), residual(8), boundary, 16)
        flow = intrinsic_flow(found[0], gradient, infinite_depth_mean(), 0.5 * np.arange(4))
        off = distance(found, flow)
        assert off < 1e-5 if holds else off > 1e-3


def test_a_recorded_simulation_has_the_same_map(boundary, fields, tmp_path):
    """Z of the ŵ in the file, by a spline through the links and a march of its own."""
    start = residual_start(fields[1.5], residual(8), Grid(16, 1))
    with simulate(start, boundary, order=0, width_order=0, out=tmp_path / "field.h5") as run:
        w = CubicSpline(run.grid.x_links, run.trajectory.fields["w"][-1][:, :, 0, :])
    marched = solve_ivp(lambda s, p: (w(s) @ p.reshape(N, N)).ravel(), (0, 1), np.eye(N).ravel(), rtol=1e-9, atol=1e-9)
    z = marched.y[:, -1].reshape(1, N, N)
    assert distance(z, train_field(fields[1.5], residual(8), boundary, 16)[-1:]) < 1e-4
    assert distance(z, closed(fields[1.5], boundary)[-1:]) < 1e-4


@pytest.mark.parametrize(
    "change, says",
    [
        ({"activation": "tanh"}, "activation"),
        ({"loss": "cross-entropy"}, "loss"),
        ({"readout_modes": 2}, "readout_modes"),
    ],
)
def test_networks_that_the_closed_form_is_not_of_are_refused(boundary, fields, change, says):
    with pytest.raises(InputError, match=f"lattice.{says} is") as caught:
        train_lattice(fields[0.0], residual(8, **change), boundary)
    assert "\n" not in str(caught.value)


def test_other_dynamics_are_refused(boundary, fields):
    plan = dataclasses.replace(boundary.training, rates=Rates(1.0, 0.1, 0.0))
    with pytest.raises(InputError, match="flow of W alone"):
        train_lattice(fields[0.0], residual(8), dataclasses.replace(boundary, training=plan))
