"""Marching in training time: explicit steps for tuples of arrays.

First-order dynamics du/dt = f(t, u): Euler, classical Runge-Kutta. Second-order dynamics with damping, u'' + γu' =
a(t, u): heavy ball and the conformal leapfrog, both of which contract the symplectic form by exactly e^{−γτ} per step
(França, Sulam, Robinson, Vidal, "Conformal symplectic and relativistic optimization", arXiv 1903.04100). Each stepper
declares its order. Time is always computed from the step number (t_k = k τ), so it cannot drift.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from solvers.errors import InputError

Array = Any
State = tuple[Array, ...]
Rate = Callable[[float, State], State]


def _plus(u: State, dt: float, du: State) -> State:
    return tuple(a + dt * b for a, b in zip(u, du, strict=True))


def euler_step(f: Rate, t: float, u: State, dt: float) -> State:
    """u + τ f(t, u), order 1. With f = −η̂ × the gradient on a minibatch this *is* SGD."""
    return _plus(u, dt, f(t, u))


def rk4_step(f: Rate, t: float, u: State, dt: float) -> State:
    """The classical Runge-Kutta step (Kutta 1901), order 4."""
    k1 = f(t, u)
    k2 = f(t + dt / 2, _plus(u, dt / 2, k1))
    k3 = f(t + dt / 2, _plus(u, dt / 2, k2))
    k4 = f(t + dt, _plus(u, dt, k3))
    return tuple(a + (dt / 6) * (p + 2 * q + 2 * r + s) for a, p, q, r, s in zip(u, k1, k2, k3, k4, strict=True))


def heavy_ball_step(a: Rate, t: float, u: State, v: State, dt: float, damping: float) -> tuple[State, State]:
    """v' = e^{−γτ} v + τ a(t, u),  u' = u + τ v', order 1: SGD with momentum e^{−γτ}."""
    decay = math.exp(-damping * dt)
    v = tuple(decay * p + dt * q for p, q in zip(v, a(t, u), strict=True))
    return _plus(u, dt, v), v


def leapfrog_step(a: Rate, t: float, u: State, v: State, dt: float, damping: float) -> tuple[State, State]:
    """The conformal leapfrog, order 2 (one evaluation of a, at the middle of the step):

    u½ = u + (τ/2) e^{−γτ/2} v,   v½ = e^{−γτ/2} v + τ a(t + τ/2, u½),   u' = u½ + (τ/2) v½,   v' = e^{−γτ/2} v½.
    """
    decay = math.exp(-damping * dt / 2)
    middle = _plus(u, decay * dt / 2, v)
    v = tuple(decay * p + dt * q for p, q in zip(v, a(t + dt / 2, middle), strict=True))
    return _plus(middle, dt / 2, v), tuple(decay * p for p in v)


@dataclass(frozen=True)
class Stepper:
    """step(f, t, u, dt) -> u."""

    name: str
    order: int
    step: Callable[[Rate, float, State, float], State]


@dataclass(frozen=True)
class DampedStepper:
    """step(a, t, u, v, dt, damping) -> (u, v)."""

    name: str
    order: int
    step: Callable[[Rate, float, State, State, float, float], tuple[State, State]]


STEPPERS = {s.name: s for s in (Stepper("euler", 1, euler_step), Stepper("rk4", 4, rk4_step))}
DAMPED_STEPPERS = {
    s.name: s for s in (DampedStepper("heavy-ball", 1, heavy_ball_step), DampedStepper("leapfrog", 2, leapfrog_step))
}


def get_stepper(name: str) -> Stepper:
    if name not in STEPPERS:
        raise InputError(f"time stepper '{name}' does not exist; use one of {', '.join(STEPPERS)}")
    return STEPPERS[name]


def get_damped_stepper(name: str) -> DampedStepper:
    if name not in DAMPED_STEPPERS:
        raise InputError(f"damped stepper '{name}' does not exist; use one of {', '.join(DAMPED_STEPPERS)}")
    return DAMPED_STEPPERS[name]
