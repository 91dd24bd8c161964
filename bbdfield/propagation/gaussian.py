"""Averages over Gaussian pre-activations, to rounding also for activations with a kink at zero.

    E[f(√q g)],    E[f(u₁) h(u₂)],   u₁ = √q g₁,  u₂ = √q (c g₁ + √(1−c²) g₂)

Gauss–Hermite rules converge slowly for σ of a large argument (poles near the real axis) and fail at kinks. Here the
half lines on either side of u = 0 are Gauss–Legendre panels, and pairs are averaged in polar coordinates, in which
u₁ = √q ρ cos θ and u₂ = √q ρ cos(θ − arccos c): kinks are four angles, where panels end, and nothing degenerates as
c → 1. The radius ends at 10, where the density is 2e-22.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Function = Callable[[Any], Any]

#: nodes per panel; twice as many change no average of tanh by more than rounding up to q = 1e3
NODES = 160
#: the Gaussian is cut here; f may grow like any power
_RADIUS = 10.0


@functools.lru_cache
def _panel(nodes: int) -> tuple[Array, Array]:
    """Gauss–Legendre nodes and weights on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    return 0.5 * (x + 1.0), w / w.sum()


def average(f: Function, q: float, nodes: int = NODES) -> float:
    """E[f(√q g)] for a standard normal g; f(0) for q = 0."""
    if q == 0:
        return float(np.asarray(f(np.zeros(1)))[0])
    x, w = _panel(nodes)
    g = _RADIUS * x
    density = _RADIUS * w * np.exp(-0.5 * g * g) / math.sqrt(2.0 * math.pi)
    u = math.sqrt(q) * g
    return float(density @ (np.asarray(f(u)) + np.asarray(f(-u))))


def pair_average(f: Function, h: Function, q: float, c: float, nodes: int = NODES) -> float:
    """E[f(u₁) h(u₂)] for two pre-activations of variance q and correlation −1 <= c <= 1."""
    if q == 0:
        return average(f, 0.0) * average(h, 0.0)
    if abs(c) == 1:
        return average(lambda u: f(u) * h(c * u), q, nodes)
    x, w = _panel(nodes)
    apart = math.acos(c)
    # (θ, θ − arccos c) on the arcs between kinks: both factors positive, then second positive only, and mirrored.
    first = np.concatenate([-0.5 * math.pi + apart + (math.pi - apart) * x, 0.5 * math.pi + apart * x])
    arcs = np.concatenate([(math.pi - apart) * w, apart * w]) / (2.0 * math.pi)
    radius = _RADIUS * x
    along = _RADIUS * w * radius * np.exp(-0.5 * radius * radius)
    u1 = math.sqrt(q) * np.outer(radius, np.cos(first))
    u2 = math.sqrt(q) * np.outer(radius, np.cos(first - apart))
    values = np.asarray(f(u1)) * np.asarray(h(u2)) + np.asarray(f(-u1)) * np.asarray(h(-u2))
    return float(along @ values @ arcs)
