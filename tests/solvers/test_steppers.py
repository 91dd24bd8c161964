"""Steps in training time: the declared orders, and SGD as Euler's step."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from solvers.errors import InputError
from solvers.steppers import DAMPED_STEPPERS, STEPPERS, get_damped_stepper, get_stepper


@pytest.mark.parametrize("name", STEPPERS)
def test_measured_order_is_the_declared_one(name, fitted_order):
    """u̇ = cos(t) u − v, v̇ = 2t v: non-linear in t, v = e^{t²} and u = e^{sin t}(1 − ∫ e^{s² − sin s} ds)."""

    def f(t, state):
        u, v = state
        return np.cos(t) * u - v, 2 * t * v

    exact = np.exp(np.sin(1.0)) * (1 - quad(lambda s: np.exp(s * s - np.sin(s)), 0, 1, epsabs=1e-13)[0])
    stepper = get_stepper(name)
    counts = (32, 64, 128)
    errors = []
    for n in counts:
        state = (np.array([1.0]), np.array([1.0]))
        for k in range(n):
            state = stepper.step(f, k / n, state, 1 / n)
        errors.append(np.hypot(state[0][0] - exact, state[1][0] - np.e))
    assert abs(fitted_order(1 / np.array(counts), errors) - stepper.order) < 0.1


def test_euler_is_one_step_of_gradient_descent():
    theta, other = np.array([1.0, -2.0]), np.array([[3.0]])
    new = get_stepper("euler").step(lambda t, u: (-u[0], 0.5 * u[1]), 0.0, (theta, other), 0.25)
    np.testing.assert_array_equal(new[0], theta - 0.25 * theta)
    np.testing.assert_array_equal(new[1], [[3.375]])
    np.testing.assert_array_equal(theta, [1.0, -2.0])


def test_unknown_stepper_names_the_known_ones():
    with pytest.raises(InputError, match="time stepper 'leap' does not exist; use one of euler, rk4"):
        get_stepper("leap")


# second-order dynamics with damping


def forced_pendulum(t, u):
    return tuple(-np.sin(part) + 0.3 * np.cos(2 * t) for part in u)


@pytest.mark.parametrize("name", DAMPED_STEPPERS)
def test_measured_order_of_damped_steps_is_the_declared_one(name, fitted_order):
    """ü + γ u̇ = −sin u + 0.3 cos 2t, position and velocity, against an adaptive method of order 8."""
    damping, u0, v0 = 0.7, 1.0, 0.5

    def f(t, y):
        return [y[1], -damping * y[1] - np.sin(y[0]) + 0.3 * np.cos(2 * t)]

    exact = solve_ivp(f, (0, 2), [u0, v0], method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    stepper = get_damped_stepper(name)
    counts = (64, 128, 256)
    errors = []
    for n in counts:
        u, v = (np.array([u0]),), (np.array([v0]),)
        for k in range(n):
            u, v = stepper.step(forced_pendulum, 2 * k / n, u, v, 2 / n, damping)
        errors.append(np.hypot(u[0][0] - exact[0], v[0][0] - exact[1]))
    assert abs(fitted_order(1 / np.array(counts), errors) - stepper.order) < 0.1


@pytest.mark.parametrize("name", DAMPED_STEPPERS)
@pytest.mark.parametrize("damping", [0.0, 2.0])
def test_damped_steps_contract_areas_by_exactly_the_damping(name, damping):
    """det ∂(u', v')/∂(u, v) = e^{−γτ}, by central differences of one step."""
    stepper, dt, h = get_damped_stepper(name), 0.3, 1e-5

    def step(u, v):
        (u,), (v,) = stepper.step(forced_pendulum, 0.4, (np.array(u),), (np.array(v),), dt, damping)
        return np.array([u, v])

    by_u = (step(1.1 + h, -0.4) - step(1.1 - h, -0.4)) / (2 * h)
    by_v = (step(1.1, -0.4 + h) - step(1.1, -0.4 - h)) / (2 * h)
    assert np.linalg.det(np.stack([by_u, by_v], axis=1)) == pytest.approx(np.exp(-damping * dt), rel=1e-9)


def test_heavy_ball_is_sgd_with_momentum():
    """θ' = θ + m', m' = β m − lr ∇ℓ with β = e^{−γτ}, lr = τ² and m = τ v."""
    theta, momentum, dt, damping = 0.7, 0.2, 0.5, 0.8
    (u,), (v,) = get_damped_stepper("heavy-ball").step(
        lambda t, u: (-u[0],), 0.0, (np.array(theta),), (np.array(momentum / dt),), dt, damping
    )
    expected = np.exp(-damping * dt) * momentum - dt**2 * theta
    assert (float(dt * v), float(u)) == pytest.approx((expected, theta + expected), rel=1e-14)


def test_unknown_damped_stepper_names_the_known_ones():
    with pytest.raises(InputError, match="damped stepper 'nesterov' does not exist; use one of heavy-ball, leapfrog"):
        get_damped_stepper("nesterov")
