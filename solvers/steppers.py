"""Marching in training time: explicit steps for du/dt = f(t, u), u a tuple of arrays.

Each stepper declares its order. Time is always computed from the step number (t_k = k τ), so it cannot drift.
"""

from __future__ import annotations

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
    return tuple(
        a + (dt / 6) * (p + 2 * q + 2 * r + s) for a, p, q, r, s in zip(u, k1, k2, k3, k4, strict=True)
    )


@dataclass(frozen=True)
class Stepper:
    name: str
    order: int
    step: Callable[[Rate, float, State, float], State]


STEPPERS = {s.name: s for s in (Stepper("euler", 1, euler_step), Stepper("rk4", 4, rk4_step))}


def get_stepper(name: str) -> Stepper:
    if name not in STEPPERS:
        raise InputError(f"time stepper '{name}' does not exist; use one of {', '.join(STEPPERS)}")
    return STEPPERS[name]
