"""Steps in training time: the declared orders, and SGD as Euler's step."""

from __future__ import annotations

import numpy as np
import pytest

from solvers.errors import InputError
from solvers.steppers import STEPPERS, get_stepper


@pytest.mark.parametrize("name", STEPPERS)
def test_measured_order_is_the_declared_one(name, fitted_order):
    """u̇ = cos(t) u − v, v̇ = 2t v: non-linear in t, v = e^{t²} and u = e^{sin t}(1 − ∫ e^{s² − sin s} ds)."""
    from scipy.integrate import quad

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
    with pytest.raises(InputError, match="'leapfrog' does not exist; use one of euler, rk4"):
        get_stepper("leapfrog")
