"""Pure transport: the derivative range with ŵ_1 alone, on a periodic width."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bbdfield.errors import InputError
from bbdfield.model.activations import get_activation
from bbdfield.model.ranges import Derivative
from bbdfield.problems.base import Problem, modulation, modulation_integrals, points

#: Newton steps at most
STEPS = 60


@dataclass(frozen=True)
class Transport(Problem):
    """∂_x ẑ = c(x) ∂_y σ(ẑ) with c(x) = ŵ_1 ℓ g(x), g = 1 + v cos(πx/L_x); every channel moves alone.

    ẑ(0, y) = (e^{cos 2π(y/L_y − φ)} − 1)/2, another φ per channel and sample.

    Order 1 in a_x has no solution: A_1 = A − (a_x/2)A² with A = icq adds +(a_x/2)c²q², diffusion backward in depth,
    under which waves grow as e^{a_x c² q² x/2} without bound in q. (The lattice with centred stencils does that too:
    |1 + i(c a_x/a_y) sin qa_y| > 1.)
    """

    speed: float = 1.0
    samples: int = 2
    variation: float = 0.5

    def __post_init__(self) -> None:
        self._require(range=("derivative",), scaling=("residual",), padding=("circular",))

    @property
    def orders(self) -> tuple[int, ...]:
        return (0,)

    def weights(self, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
        moments = np.zeros((self.lattice.channels, 3, self.lattice.channels))
        moments[:, 1, :] = self.speed * np.eye(self.lattice.channels)
        return np.multiply.outer(modulation(x, self.lattice.length_x, self.variation), moments)[:, None]

    @cached_property
    def _phases(self) -> np.ndarray:
        """φ (C, B)."""
        shape = (self.lattice.channels, self.samples)
        return (0.1 + 0.37 * np.arange(self.lattice.channels * self.samples).reshape(shape)) % 1.0

    def _profile(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ẑ(0, y) and its derivative, for y (..., C, B)."""
        turn = 2 * np.pi / self.lattice.length_y
        angle = turn * y - 2 * np.pi * self._phases
        bump = 0.5 * np.exp(np.cos(angle))
        return bump - 0.5, -turn * np.sin(angle) * bump

    def _travelled(self, x: np.ndarray) -> np.ndarray:
        """∫_0^x c."""
        assert isinstance(self.lattice.range, Derivative)
        length = self.lattice.range.length
        return self.speed * length * modulation_integrals(x, self.lattice.length_x, self.variation)[0]


@dataclass(frozen=True)
class Advection(Transport):
    """∂_x ẑ = c(x) ∂_y ẑ (identity activation):   ẑ(x, y) = ẑ(0, y + ∫_0^x c)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(activation=("identity",))

    def exact(self, x: Any, y: Any, order: int | None = None) -> np.ndarray:
        self._order(order)
        shifted = np.add.outer(self._travelled(points(x)), points(y))
        return self._profile(shifted[..., None, None])[0]


@dataclass(frozen=True)
class Burgers(Transport):
    """∂_x ẑ = c(x) σ'(ẑ) ∂_y ẑ, an inviscid Burgers equation: speeds depend on the value.

    ẑ is constant along y(x) = y_0 − σ'(ẑ_0(y_0)) ∫_0^x c (insert: d/dx ẑ(x, y(x)) = ∂_xẑ − cσ'∂_yẑ = 0), so

        ẑ(x, y) = ẑ_0(y_0),    y = y_0 − σ'(ẑ_0(y_0)) ∫_0^x c

    with y_0 by Newton's method, until characteristics cross: a shock, at |∫c| = 1 / max_y (± σ''(ẑ_0) ∂_yẑ_0), where ±
    is the sign of c.
    """

    speed: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = float(self._travelled(np.full(1, self.lattice.length_x))[0])
        if abs(whole) * self._steepest >= 1:
            raise InputError(
                f"Burgers: speed = {self.speed!r}: a shock forms where |∫c dx| = {1 / self._steepest:.4g}, inside the"
                f" depth, over all of which it is {abs(whole):.4g}; use a smaller speed"
            )

    @cached_property
    def _steepest(self) -> float:
        """max_y σ''(ẑ_0) ∂_yẑ_0, times the sign of c."""
        z, slope = self._profile(np.linspace(0, self.lattice.length_y, 4001)[:, None, None])
        return float(np.max(np.sign(self.speed) * get_activation(self.lattice.activation).d2f(z) * slope))

    def exact(self, x: Any, y: Any, order: int | None = None) -> np.ndarray:
        self._order(order)
        activation = get_activation(self.lattice.activation)
        far = self._travelled(points(x))[:, None, None, None]
        target = np.broadcast_to(points(y)[None, :, None, None], (far.size, np.size(y), *self._phases.shape))
        # the fastest and the slowest characteristic enclose y_0
        slopes = activation.df(self._profile(np.linspace(0, self.lattice.length_y, 401)[:, None, None])[0])
        reach = far * np.array([slopes.min(), slopes.max()])
        margin = 1e-3 * self.lattice.length_y
        low = target + reach.min(axis=-1, keepdims=True) - margin
        high = target + reach.max(axis=-1, keepdims=True) + margin
        y_0 = (low + high) / 2
        for _ in range(STEPS):
            z, dz = self._profile(y_0)
            miss = y_0 - activation.df(z) * far - target
            low, high = np.where(miss < 0, y_0, low), np.where(miss < 0, high, y_0)
            newton = y_0 - miss / (1 - activation.d2f(z) * dz * far)
            y_0 = np.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
            if np.max(np.abs(miss)) < 1e-15 * self.lattice.length_y:
                break
        return self._profile(y_0)[0]
