"""Marching in training time with error control: Dormand and Prince's embedded explicit Runge-Kutta pair, order 5(4).

    k_i = f(t + c_i τ, u + τ Σ_{j<i} a_ij k_j),   u' = u + τ Σ b_i k_i,   e = τ Σ (b_i − b̂_i) k_i,   i = 1..7

u' has order 5; û' = u' − e has order 4, so |e| ~ τ⁵ measures the error of the step (Dormand, Prince, "A family of
embedded Runge-Kutta formulae", J. Comput. Appl. Math. 6 (1980) 19). The last row of a is b: k_7 = f(t + τ, u') is the
next step's k_1. A step is accepted when

    ε = ‖e / (atol + rtol max(|u|, |u'|))‖ ≤ 1,     ‖·‖ = root mean square over all entries of all arrays,

and the next step is τ · min(5, max(1/5, 0.9 ε^{−1/5})), not longer than τ just after a rejection (Hairer, Nørsett,
Wanner, "Solving Ordinary Differential Equations I", section II.4). The controller remembers nothing but τ, so τ is all
that a resumed run needs to continue bitwise as if it had never stopped.

The error of the result is proportional to the tolerance for a smooth f. A kinked f (relu) still converges but takes
more steps, and its measured order drops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from solvers.errors import InputError, NumericsError
from solvers.steppers import Array, Rate, State

#: root mean square, maximum, ...: of the error divided by its tolerance, entry by entry
Norm = Callable[[State], float]

C = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
A: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
#: b − b̂
ESTIMATE = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
ORDER, EMBEDDED_ORDER = 5, 4

SAFETY, SHORTEST, LONGEST = 0.9, 0.2, 5.0
#: a remainder that is longer than the step by less than this is taken in one: no sliver is left over
STRETCH = 1.01
MAX_REJECTIONS = 30
MAX_STEPS = 10_000


@dataclass(frozen=True)
class Statistics:
    """What an interval cost: accepted and rejected steps, evaluations of f. They add up over intervals with +."""

    accepted: int = 0
    rejected: int = 0
    evaluations: int = 0

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            self.accepted + other.accepted, self.rejected + other.rejected, self.evaluations + other.evaluations
        )


def dopri5_step(f: Rate, t: float, u: State, dt: float) -> tuple[State, State]:
    """One step of the pair: (u' of order 5, the estimate e of its error), with seven evaluations of f."""
    new, error, _ = _step(f, t, t + dt, u, dt, f(t, u))
    return new, error


def adaptive_advance(
    f: Rate,
    t0: float,
    t1: float,
    u: State,
    dt: float,
    *,
    rtol: float,
    atol: float,
    norm: Norm | None = None,
    max_steps: int = MAX_STEPS,
) -> tuple[State, float, Statistics]:
    """u(t1) from u(t0), in as many steps as the tolerances need; the last one lands on t1 exactly.

    f is asked for times in [t0, t1] only, and nothing is kept from one call to the next but what is returned: f may
    jump from interval to interval (another minibatch).

    Parameters
    ----------
    dt : the step to try first: `initial_step` at the start of a run, then what the previous interval returned.
    rtol, atol : relative and absolute tolerance per step (rtol ≥ 0, atol > 0).
    norm : of the weighted error, a tuple of arrays shaped as u's; None: root mean square.
    max_steps : attempts, rejected ones included, before giving up.

    Returns
    -------
    u at t1, the step to try in the next interval, and what this one cost. A last step that was shortened to land on t1
    does not shorten the proposal.

    Raises
    ------
    InputError
        for t1 < t0, a step that is not positive, and tolerances out of range.
    NumericsError
        when f is not finite at t0, or when no step is accepted: too small for the floating-point time, too many
        rejections in a row, or too many steps. A trial step at which f overflows or raises an ArithmeticError is a
        rejection.
    """
    norm = _checked(rtol, atol, norm)
    if not t0 <= t1 < math.inf:
        raise InputError(f"time interval from {t0!r} to {t1!r}: needs a finite end that is not before the start")
    if not 0 < dt < math.inf:
        raise InputError(f"time step {dt!r}: needs a positive number")
    if t0 == t1:
        return u, dt, Statistics()

    t, slope = t0, f(t0, u)
    _check_rate(slope, t0)
    accepted = rejected = in_a_row = 0
    while t < t1:
        if accepted + rejected >= max_steps:
            raise NumericsError(
                f"adaptive steps: t = {t:.6g} reached after {max_steps} steps, with dt = {dt:.3g} on the way to"
                f" {t1:.6g}; loosen rtol = {rtol:g} and atol = {atol:g}, or lower the learning rates"
            )
        left = t1 - t
        step, end = (left, t1) if left <= STRETCH * dt else (dt, t + dt)
        cause: ArithmeticError | None = None
        try:
            with np.errstate(all="ignore"):
                new, error, final = _step(f, t, end, u, step, slope)
                size = norm(_ratio(error, _tolerance(u, new, rtol, atol)))
                if not (math.isfinite(size) and _finite(new)):
                    size = math.inf
        except ArithmeticError as failure:
            size, cause = math.inf, failure
        if size <= 1:
            longest = 1.0 if in_a_row else LONGEST
            factor = min(longest, _factor(size))
            # at its limit the factor only says "longer": it must not replace a longer step that was cut to land on t1
            dt = max(dt, step * factor) if factor == longest else step * factor
            t, u, slope = end, new, final
            accepted, in_a_row = accepted + 1, 0
            continue
        rejected, in_a_row = rejected + 1, in_a_row + 1
        dt = step * max(SHORTEST, _factor(size))
        if in_a_row >= MAX_REJECTIONS or dt < 4 * math.ulp(t):
            what = "the rate or the state is not finite"
            if math.isfinite(size):
                what = f"the error is {size:.3g} times its tolerance"
            raise NumericsError(
                f"adaptive steps: at t = {t:.6g} {what} with dt = {step:.3g}, after {in_a_row} rejected steps in a row;"
                " lower the learning rates or check the initial fields"
            ) from cause
    evaluations = 1 + (len(C) - 1) * (accepted + rejected)
    return u, dt, Statistics(accepted, rejected, evaluations)


def initial_step(
    f: Rate, t0: float, t1: float, u: State, *, rtol: float, atol: float, norm: Norm | None = None
) -> float:
    """A first step from the sizes of u, u̇ and ü, at most t1 − t0; two evaluations of f in [t0, t1].

    Hairer, Nørsett, Wanner, "Solving Ordinary Differential Equations I", section II.4, "Starting step size": an Euler
    step of 1 % of ‖u‖/‖u̇‖ estimates ‖ü‖, and τ^5 max(‖u̇‖, ‖ü‖) = 0.01 in units of the tolerance.

    Raises
    ------
    InputError
        for t1 ≤ t0 and tolerances out of range.
    NumericsError
        when f is not finite at t0.
    """
    norm = _checked(rtol, atol, norm)
    if not t0 < t1 < math.inf:
        raise InputError(f"time interval from {t0!r} to {t1!r}: needs a finite end after the start")
    slope = f(t0, u)
    _check_rate(slope, t0)
    scale = _tolerance(u, u, rtol, atol)
    size, speed = norm(_ratio(u, scale)), norm(_ratio(slope, scale))
    first = 1e-6 if size < 1e-5 or speed < 1e-5 else 0.01 * size / speed
    first = min(first, t1 - t0)
    try:
        with np.errstate(all="ignore"):
            ahead = _combine(u, first, (1.0,), (slope,))
            change = tuple(b - a for a, b in zip(slope, f(t0 + first, ahead), strict=True))
            bend = norm(_ratio(change, scale)) / first
    except ArithmeticError:
        return first
    if not math.isfinite(bend):
        return first
    steepest = max(speed, bend)
    second = max(1e-6, 1e-3 * first) if steepest <= 1e-15 else (0.01 / steepest) ** (1 / (EMBEDDED_ORDER + 1))
    return min(100 * first, second, t1 - t0)


def rms_norm(weighted: State) -> float:
    """The root mean square over all entries of all arrays."""
    total, entries = 0.0, 0
    for part in weighted:
        total += float(array_namespace(part).sum(part * part))
        entries += math.prod(part.shape)
    return math.sqrt(total / entries)


def _combine(u: State, dt: float, weights: Sequence[float], slopes: Sequence[State]) -> State:
    """u + τ Σ weight · slope."""
    return tuple(a + part for a, part in zip(u, _sum(dt, weights, slopes), strict=True))


def _sum(dt: float, weights: Sequence[float], slopes: Sequence[State]) -> State:
    terms = [(dt * weight, slope) for weight, slope in zip(weights, slopes, strict=True) if weight]
    totals = []
    for index in range(len(slopes[0])):
        total = terms[0][0] * terms[0][1][index]
        for weight, slope in terms[1:]:
            total += weight * slope[index]
        totals.append(total)
    return tuple(totals)


def _step(f: Rate, t: float, end: float, u: State, dt: float, slope: State) -> tuple[State, State, State]:
    """(u', e, f(end, u')) with k_1 = slope given; `end` is t + τ without its rounding."""
    slopes, new = [slope], u
    for c, row in zip(C[1:], A[1:], strict=True):
        new = _combine(u, dt, row, slopes)
        slopes.append(f(end if c == 1 else t + c * dt, new))
    return new, _sum(dt, ESTIMATE, slopes), slopes[-1]


def _factor(size: float) -> float:
    """How much longer a step may be for an error of `size` tolerances."""
    return math.inf if size == 0 else SAFETY * size ** (-1 / (EMBEDDED_ORDER + 1))


def _tolerance(u: State, new: State, rtol: float, atol: float) -> State:
    scales = []
    for a, b in zip(u, new, strict=True):
        xp = array_namespace(a)
        scales.append(atol + rtol * xp.maximum(xp.abs(a), xp.abs(b)))
    return tuple(scales)


def _ratio(parts: State, scale: State) -> State:
    return tuple(a / b for a, b in zip(parts, scale, strict=True))


def _finite(parts: State) -> bool:
    def every(part: Array) -> bool:
        xp = array_namespace(part)
        return bool(xp.all(xp.isfinite(part)))

    return all(every(part) for part in parts)


def _check_rate(slope: State, t: float) -> None:
    if not _finite(slope):
        raise NumericsError(f"adaptive steps: the rate is not finite at t = {t:.6g}, before the first step")


def _checked(rtol: float, atol: float, norm: Norm | None) -> Norm:
    if not (0 <= rtol < math.inf and 0 < atol < math.inf):
        raise InputError(f"tolerances rtol = {rtol!r}, atol = {atol!r}: need rtol >= 0 and atol > 0")
    return norm or rms_norm
