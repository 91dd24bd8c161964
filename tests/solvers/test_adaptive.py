"""The Dormand-Prince pair: orders, tolerances, landing, resuming and giving up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import RK45, solve_ivp

from solvers.adaptive import (
    EMBEDDED_ORDER,
    LONGEST,
    MAX_REJECTIONS,
    ORDER,
    Statistics,
    adaptive_advance,
    dopri5_step,
    initial_step,
    rms_norm,
)
from solvers.errors import InputError, NumericsError

TOLERANCES = {"rtol": 1e-6, "atol": 1e-8}


def pendulums(t, u):
    """Two damped pendulums, driven; angles and velocities as arrays of different shapes."""
    angles, velocities = u
    return velocities[:, 0], (-np.sin(angles) + 0.3 * np.cos(2 * t))[:, None] - 0.2 * velocities


START = (np.array([1.0, 2.0]), np.array([[0.5], [0.0]]))


def flat(u):
    return np.concatenate([part.ravel() for part in u])


def vector_field(t, y):
    return flat(pendulums(t, (y[:2], y[2:, None])))


def exact(t1, t0=0.0):
    return solve_ivp(vector_field, (t0, t1), flat(START), method="DOP853", rtol=1e-13, atol=1e-14).y[:, -1]


@pytest.mark.parametrize(("embedded", "declared"), [(False, ORDER), (True, EMBEDDED_ORDER)])
def test_measured_orders_of_the_pair_are_the_declared_ones(embedded, declared, fitted_order):
    counts, errors, reference = (80, 160, 320), [], exact(4.0)
    for n in counts:
        u = START
        for k in range(n):
            u, error = dopri5_step(pendulums, 4 * k / n, u, 4 / n)
            if embedded:
                u = tuple(a - e for a, e in zip(u, error, strict=True))
        errors.append(np.linalg.norm(flat(u) - reference))
    assert abs(fitted_order(1 / np.array(counts), errors) - declared) < 0.1


def test_one_step_is_scipys():
    y, dt, f = flat(START), 0.2, vector_field
    k = [f(0.3, y)]
    for c, row in zip(RK45.C[1:], RK45.A[1:], strict=True):
        k.append(f(0.3 + c * dt, y + dt * np.tensordot(row[: len(k)], k, axes=1)))
    new = y + dt * np.tensordot(RK45.B, k, axes=1)
    k.append(f(0.3 + dt, new))
    u, error = dopri5_step(pendulums, 0.3, START, dt)
    np.testing.assert_allclose(flat(u), new, rtol=1e-14)
    np.testing.assert_allclose(np.abs(flat(error)), np.abs(dt * np.tensordot(RK45.E, k, axes=1)), rtol=0, atol=1e-15)


def test_error_is_proportional_to_the_tolerance(fitted_order):
    tolerances, errors, steps, reference = 10.0 ** -np.arange(5, 12), [], [], exact(4.0)
    for tolerance in tolerances:
        u, _, cost = adaptive_advance(pendulums, 0.0, 4.0, START, 1e-2, rtol=tolerance, atol=tolerance)
        errors.append(np.abs(flat(u) - reference).max())
        steps.append(cost.accepted)
    assert abs(fitted_order(tolerances, errors) - 1) < 0.1
    assert abs(fitted_order(tolerances, steps) + 1 / 5) < 0.04
    assert errors[-1] < 30 * tolerances[-1]


def test_it_is_exact_for_polynomials_of_degree_five():
    def f(t, u):
        return (6 * t**5 - 5 * t**4 + 1 + 0 * u[0],)

    def g(t, u):
        return (5 * t**4 - 3 * t**2 + 0 * u[0],)

    (u,), _ = dopri5_step(g, 0.5, (np.array([0.5**5 - 0.5**3]),), 1.5)
    assert u[0] == pytest.approx(2**5 - 2**3, rel=1e-14)
    (u,), _ = dopri5_step(f, 0.5, (np.array([0.5**6 - 0.5**5 + 0.5]),), 1.5)
    assert abs(u[0] - (2**6 - 2**5 + 2)) > 1e-3


@pytest.mark.parametrize("dt", [1e-3, 0.07, 0.5, 5.0])
def test_it_lands_on_the_end_and_never_looks_beyond(dt):
    times = []

    def f(t, u):
        times.append(t)
        return pendulums(t, u)

    t0, t1 = 0.3, 0.9
    u, proposed, cost = adaptive_advance(f, t0, t1, START, dt, **TOLERANCES)
    assert min(times) == t0 and max(times) == t1 == times[-1]
    assert cost.evaluations == len(times) == 1 + 6 * (cost.accepted + cost.rejected)
    np.testing.assert_allclose(flat(u), exact(t1, t0), rtol=0, atol=1e-5)
    assert proposed > 0


def test_rounding_does_not_look_beyond_the_end():
    times, t0, t1 = [], 0.3, 0.9
    assert t0 + (t1 - t0) > t1

    def f(t, u):
        times.append(t)
        return (0 * u[0],)

    adaptive_advance(f, t0, t1, START[:1], 1.0, **TOLERANCES)
    assert len(times) == 7 and max(times) == t1


def test_the_tolerance_is_relative_to_the_larger_end_of_the_step():
    """u = t + t⁶ grows from zero: accepted as soon as rtol |u'| covers the estimate."""

    def f(t, u):
        return (1 + 6 * t**5 + 0 * u[0],)

    u = (np.zeros(2),)
    (new,), (error,) = dopri5_step(f, 0.0, u, 1.0)
    needed = abs(error[0] / new[0])
    for factor, rejections in ((1.001, 0), (0.999, 1)):
        _, _, cost = adaptive_advance(f, 0.0, 1.0, u, 1.0, rtol=factor * needed, atol=1e-30)
        assert cost.rejected == rejections


def test_a_step_does_not_grow_just_after_a_rejection():
    times = []

    def f(t, u):
        times.append(t)
        return (np.full(2, np.nan if 2 <= len(times) <= 7 else 1.0),)

    _, _, cost = adaptive_advance(f, 0.0, 0.1, (np.zeros(2),), 0.1, **TOLERANCES)
    assert (cost.accepted, cost.rejected) == (3, 1)
    np.testing.assert_allclose(times[6::6], [0.1, 0.02, 0.04, 0.1], rtol=1e-12)


def test_nothing_happens_in_no_time():
    u, dt, cost = adaptive_advance(pendulums, 0.4, 0.4, START, 0.25, **TOLERANCES)
    assert u is START and dt == 0.25 and cost == Statistics(0, 0, 0)


def test_landing_does_not_shorten_the_proposed_step():
    """The step that fits the tolerance is about 0.1; intervals of 0.13 cut every other one to a sliver."""

    def f(t, u):
        return (-np.sin(u[0]) + np.cos(10 * t),)

    u, dt, taken = (np.array([1.0]),), 0.1, []
    _, natural, _ = adaptive_advance(f, 0.0, 3.0, u, dt, **TOLERANCES)
    for k in range(30):
        u, dt, _ = adaptive_advance(f, 0.13 * k, 0.13 * (k + 1), u, dt, **TOLERANCES)
        taken.append(dt)
    assert min(taken) > 0.3 * natural

    _, kept, cost = adaptive_advance(f, 0.0, 1e-4, u, dt, **TOLERANCES)
    assert (kept, cost.accepted, cost.rejected) == (dt, 1, 0)


def test_short_intervals_let_the_step_grow_to_their_length():
    u, dt = START, 1e-6
    for k in range(20):
        u, dt, cost = adaptive_advance(pendulums, k / 100, (k + 1) / 100, u, dt, **TOLERANCES)
    assert 0.01 <= dt <= LONGEST * 0.01 * 1.01 and cost.accepted == 1


def test_no_sliver_is_left_over():
    def f(t, u):
        return (0 * u[0] + 1.0,)

    _, _, cost = adaptive_advance(f, 0.0, 1.005, (np.zeros(2),), 1.0, **TOLERANCES)
    assert (cost.accepted, cost.rejected) == (1, 0)


def test_resumed_runs_continue_bitwise():
    def march(first, last, u, dt):
        total = Statistics()
        for k in range(first, last):
            u, dt, cost = adaptive_advance(pendulums, k / 7, (k + 1) / 7, u, dt, **TOLERANCES)
            total += cost
        return u, dt, total

    once = march(0, 20, START, 0.01)
    halfway = march(0, 9, START, 0.01)
    saved = tuple(part.copy() for part in halfway[0])
    resumed = march(9, 20, saved, float(repr(halfway[1])))
    np.testing.assert_array_equal(flat(resumed[0]), flat(once[0]))
    assert resumed[1] == once[1]
    assert halfway[2] + resumed[2] == once[2]


def test_a_jump_of_the_rate_between_intervals_costs_no_accuracy():
    """Another minibatch from each interval to the next: u̇ = s u with s = ±1."""
    u, dt = (np.array([1.0, -2.0]),), 0.05
    for k in range(6):
        sign = 1.0 if k % 2 else -1.0
        u, dt, cost = adaptive_advance(
            lambda t, u, s=sign: (s * u[0],), k / 2, (k + 1) / 2, u, dt, rtol=1e-10, atol=1e-12
        )
        assert cost.rejected <= 1
    np.testing.assert_allclose(u[0], [1.0, -2.0], rtol=1e-9)


def test_arguments_are_left_alone():
    before = tuple(part.copy() for part in START)
    adaptive_advance(pendulums, 0.0, 1.0, START, 0.1, **TOLERANCES)
    initial_step(pendulums, 0.0, 1.0, START, **TOLERANCES)
    for a, b in zip(before, START, strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_backend_gives_the_same(backends):
    xp, put, get = backends.xp, backends.to_device, backends.to_numpy

    def f(t, u):
        return xp.cos(3 * t + u[1]), 0.5 * u[0] - u[1] * u[1]

    def reference(t, u):
        return np.cos(3 * t + u[1]), 0.5 * u[0] - u[1] * u[1]

    start = (np.array([0.2, -0.4]), np.array([1.0, 0.1]))
    dt = initial_step(f, 0.0, 2.0, tuple(map(put, start)), **TOLERANCES)
    assert dt == pytest.approx(initial_step(reference, 0.0, 2.0, start, **TOLERANCES), rel=1e-12)
    found, proposed, cost = adaptive_advance(f, 0.0, 2.0, tuple(map(put, start)), dt, **TOLERANCES)
    expected, same, steps = adaptive_advance(reference, 0.0, 2.0, start, dt, **TOLERANCES)
    np.testing.assert_allclose(flat(tuple(map(get, found))), flat(expected), rtol=1e-11)
    assert proposed == pytest.approx(same, rel=1e-6) and cost == steps


def test_norm_is_the_root_mean_square_over_all_arrays_together():
    assert rms_norm((np.array([3.0]), np.array([[4.0, 0.0]]))) == pytest.approx(5 / math.sqrt(3), rel=1e-15)


def test_another_norm_is_obeyed():
    """One entry of a thousand moves: the maximum sees it, the mean square dilutes it."""

    def f(t, u):
        return (np.where(np.arange(1000) == 7, 10 * np.cos(10 * t), 0.0),)

    def largest(weighted):
        return max(float(np.abs(part).max()) for part in weighted)

    u = (np.zeros(1000),)
    _, _, loose = adaptive_advance(f, 0.0, 2.0, u, 0.1, **TOLERANCES)
    _, _, strict = adaptive_advance(f, 0.0, 2.0, u, 0.1, norm=largest, **TOLERANCES)
    ratio = strict.accepted / loose.accepted
    assert 1.6 < ratio < 2.4  # √1000 in the error is 1000^{1/10} = 2.0 in the step


# the first step


@pytest.mark.parametrize("rtol", [1e-4, 1e-8])
def test_first_step_is_accepted_and_not_wasteful(rtol):
    dt = initial_step(pendulums, 0.0, 5.0, START, rtol=rtol, atol=rtol)
    _, settled, _ = adaptive_advance(pendulums, 0.0, 5.0, START, dt, rtol=rtol, atol=rtol)
    _, _, cost = adaptive_advance(pendulums, 0.0, dt, START, dt, rtol=rtol, atol=rtol)
    assert cost.rejected == 0 and 0.02 * settled < dt < 5 * settled


@pytest.mark.parametrize(("rate", "size"), [(0.5, 1.0), (30.0, 1.0), (2.0, 100.0)])
def test_first_step_is_the_books(rate, size):
    """u̇ = −λu: ‖u‖ = s, ‖u̇‖ = λs, ‖ü‖ = λ²s in units of the tolerance; h⁵ max(λs, λ²s) = 0.01, at most 1/λ."""
    u = (np.array([size, -size]), np.full((1, 3), size))
    found = initial_step(lambda t, u: tuple(-rate * part for part in u), 0.0, 100.0, u, **TOLERANCES)
    units = size / (TOLERANCES["atol"] + TOLERANCES["rtol"] * size)
    expected = (0.01 / max(rate * units, rate**2 * units)) ** (1 / 5)
    assert found == pytest.approx(min(expected, 1 / rate), rel=1e-9)


def test_first_step_stays_inside_the_interval_and_copes_with_nothing():
    times = []

    def f(t, u):
        times.append(t)
        return tuple(0 * part for part in u)

    zeros = (np.zeros(3),)
    assert initial_step(f, 0.0, 1e-7, zeros, **TOLERANCES) == 1e-7
    assert max(times) <= 1e-7 and len(times) == 2
    assert 0 < initial_step(f, 0.0, 1.0, zeros, **TOLERANCES) <= 1.0


def test_first_step_survives_a_rate_that_fails_ahead():
    def f(t, u):
        if t > 0:
            raise NumericsError("not finite at x = 0.5")
        return (u[0],)

    assert initial_step(f, 0.0, 1.0, (np.ones(2),), **TOLERANCES) == pytest.approx(0.01)


# giving up


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_blow_up_names_time_and_step():
    """u̇ = u², u(0) = 1 is infinite at t = 1."""
    with pytest.raises(NumericsError, match=r"at t = 1 .* with dt = .*rejected steps in a row") as caught:
        adaptive_advance(lambda t, u: (u[0] * u[0],), 0.0, 2.0, (np.ones(1),), 0.1, **TOLERANCES)
    one_line(caught)


def test_a_rate_that_stays_infinite_gives_up_with_its_cause():
    def f(t, u):
        if t > 0.5:
            raise NumericsError("ẑ is not finite at x = 0.25")
        return (1 + 0 * u[0],)

    with pytest.raises(NumericsError, match=r"at t = 0\.5 the rate or the state is not finite with dt") as caught:
        adaptive_advance(f, 0.0, 1.0, (np.zeros(1),), 0.1, **TOLERANCES)
    one_line(caught)
    assert "x = 0.25" in str(caught.value.__cause__)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_rejected(wrong):
    calls = []

    def f(t, u):
        calls.append(t)
        return (np.full(2, wrong if t > 0 else 1.0),)

    with pytest.raises(NumericsError, match=rf"at t = 0 .* after {MAX_REJECTIONS} rejected steps in a row"):
        adaptive_advance(f, 0.0, 1.0, (np.zeros(2),), 0.1, **TOLERANCES)
    assert len(calls) == 1 + 6 * MAX_REJECTIONS
    with pytest.raises(NumericsError, match="not finite at t = 0, before the first step"):
        adaptive_advance(lambda t, u: (np.array([1.0, wrong]),), 0.0, 1.0, (np.zeros(2),), 0.1, **TOLERANCES)
    with pytest.raises(NumericsError, match="not finite at t = 0, before the first step"):
        initial_step(lambda t, u: (np.array([1.0, wrong]),), 0.0, 1.0, (np.zeros(2),), **TOLERANCES)


def test_a_state_that_overflows_is_rejected():
    """u̇ = 10³⁰⁸ from 10³⁰⁸: the rate and the error stay finite, u' does not."""
    with pytest.raises(NumericsError, match=r"at t = 0\.79.* the rate or the state is not finite"):
        adaptive_advance(lambda t, u: (np.full(2, 1e308),), 0.0, 2.0, (np.full(2, 1e308),), 2.0, **TOLERANCES)


def test_a_first_step_far_too_long_recovers_from_overflow():
    """u̇ = −u³ from 1e3 with a step of 1e6: the trial overflows, shorter ones do not."""
    (u,), _, cost = adaptive_advance(lambda t, u: (-(u[0] ** 3),), 0.0, 1e6, (np.array([1e3]),), 1e6, **TOLERANCES)
    assert cost.rejected > 3
    assert u[0] == pytest.approx(1 / math.sqrt(2e6 + 1e-6), rel=1e-4)


def test_too_many_steps_name_time_and_step():
    with pytest.raises(NumericsError, match=r"reached after 7 steps, with dt = .* loosen rtol = 1e-06") as caught:
        adaptive_advance(
            lambda t, u: (np.cos(1e4 * t) + 0 * u[0],), 0.0, 1.0, START[:1], 0.1, max_steps=7, **TOLERANCES
        )
    one_line(caught)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t1": -1.0}, "time interval"),
        ({"t1": float("nan")}, "time interval"),
        ({"dt": 0.0}, "time step 0.0: needs a positive number"),
        ({"dt": float("nan")}, "time step nan: needs a positive number"),
        ({"rtol": -1e-3}, "need rtol >= 0 and atol > 0"),
        ({"atol": 0.0}, "need rtol >= 0 and atol > 0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(changes, message):
    settings = {"t0": 0.0, "t1": 1.0, "dt": 0.1} | TOLERANCES | changes
    with pytest.raises(InputError, match=message) as caught:
        adaptive_advance(pendulums, u=START, **settings)
    one_line(caught)
    settings.pop("dt")
    if "dt" not in changes:
        with pytest.raises(InputError, match=message):
            initial_step(pendulums, u=START, **settings)
