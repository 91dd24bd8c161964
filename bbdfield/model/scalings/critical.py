"""The critical scaling: a plain network (s = 0) at criticality; its limit is a cubic field theory, and exact.

    W_k = δ_k0 δ_cc' + a_x (…) ŵ,   b = a_x b̂,   σ_a(z) = r tanh(z/r),   r = (3κ a_x)^{−1/2}

so that σ_a(z) = z − κ a_x z³ + (6/5) κ² a_x² z⁵ − … and one layer moves z by a_x:

    F   = 𝒦[ŵ] ẑ − κ ẑ³ + b̂                                                    order 0
    G_1 = F + a_x [ −κ 𝒦[ŵ] ẑ³ + (6/5) κ² ẑ⁵ ] − (a_x/2) (∂F/∂ẑ)·F               order 1
        = F + a_x [ (6/5) κ² ẑ⁵ + (3/2) κ ẑ² F ] − 𝒦[ŵ] p,    p = a_x κ ẑ³ + (a_x/2) F

(the field description of arXiv 2511.02003, eqs (8)-(10), for the paper's own plain network). The expansion needs
κ a_x ẑ² ≪ 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace

from bbdfield.errors import InputError
from bbdfield.model.activations import Activation
from bbdfield.model.scalings.base import BulkEquation, Coefficients, Scaling, WidthOperator

Array = Any

#: κ a_x ẑ² at which the series of the activation ceases to converge
SERIES = math.pi**2 / 12


@dataclass(frozen=True)
class Critical(Scaling):
    """A plain tanh network whose weights are the identity plus O(a_x), with cubic coupling `kappa`."""

    name: ClassVar[str] = "critical"
    skip: ClassVar[float] = 0.0
    identity: ClassVar[bool] = True

    kappa: float = 1.0

    def check(self, activation: str) -> None:
        if activation != "tanh":
            raise InputError(
                f'lattice.activation = "{activation}": lattice.scaling = "critical" is the cubic expansion of a'
                ' rescaled tanh; use activation = "tanh", or scaling = "residual"'
            )

    def check_amplitude(self, largest: float, a_x: float) -> None:
        """G_n is cut out of the series of r tanh(z/r), which converges for |z/r| < π/2: κ a_x ẑ² < π²/12."""
        small = self.kappa * a_x * largest**2
        if small > SERIES:
            raise InputError(
                f"lattice.kappa = {self.kappa:g}: κ a_x ẑ² = {small:.3g} for inputs up to |ẑ| = {largest:.3g}, but the"
                f" cubic theory is a series that diverges beyond {SERIES:.2f};"
                f" use kappa = {0.95 * self.kappa * SERIES / small:.2g} or less,"
                f" or {math.ceil(small / SERIES)} times as many layers"
            )

    def unit(self, a_x: float) -> float:
        return a_x

    def activation(self, activation: Activation, a_x: float) -> Activation:
        r = 1.0 / math.sqrt(3.0 * self.kappa * a_x)

        def f(z: Array) -> Array:
            return r * array_namespace(z).tanh(z / r)

        def both(z: Array) -> tuple[Array, Array]:
            t = array_namespace(z).tanh(z / r)
            return r * t, 1.0 - t * t

        def d2f(z: Array) -> Array:
            t = array_namespace(z).tanh(z / r)
            return (-2.0 / r) * t * (1.0 - t * t)

        return Activation(f"{r:.6g} tanh(z/{r:.6g})", f, lambda z: both(z)[1], d2f, both)

    def bulk(self, order: int, operator: WidthOperator, activation: Activation, a_x: float) -> BulkEquation:
        self.require_order(order)
        return CriticalOrder0(operator, self.kappa) if order == 0 else CriticalOrder1(operator, self.kappa, a_x)

    def slopes(self, activation: Activation, largest: float = 0.0) -> np.ndarray:
        """Values of 3κẑ² (0 is the worst at order 0: the cubic term damps)."""
        return np.linspace(0.0, 3.0 * self.kappa * largest**2, 5)


class CriticalOrder0:
    """F = 𝒦[ŵ]ẑ − κẑ³ + b̂."""

    order = 0

    def __init__(self, operator: WidthOperator, kappa: float) -> None:
        self.operator, self.kappa = operator, kappa

    def value(self, z: Array, c: Coefficients) -> tuple[Array, Any]:
        return self.operator.apply(c[0], z) - self.kappa * z**3 + c[1][..., None], z

    def tangent(self, tape: Any, c: Coefficients, dz: Array, dc: Coefficients) -> Array:
        z, apply = tape, self.operator.apply
        return apply(c[0], dz) + apply(dc[0], z) - (3 * self.kappa) * z**2 * dz + dc[1][..., None]

    def adjoint(self, tape: Any, c: Coefficients, g: Array) -> tuple[Array, Coefficients]:
        z, operator = tape, self.operator
        z_bar = operator.adjoint_state(c[0], g) - (3 * self.kappa) * z**2 * g
        return z_bar, (operator.adjoint_weights(z, g), operator.xp.sum(g, axis=-1))

    def linearised(self, k: np.ndarray, slope: float) -> np.ndarray:
        """A = 𝒦̂ − 3κẑ²."""
        return k - slope * np.eye(k.shape[-1])


class CriticalOrder1:
    """G_1 = F + a_x [(6/5)κ²ẑ⁵ + (3/2)κẑ²F] − 𝒦[ŵ]p."""

    order = 1

    def __init__(self, operator: WidthOperator, kappa: float, a_x: float) -> None:
        self.operator, self.kappa, self.a_x = operator, kappa, a_x

    def value(self, z: Array, c: Coefficients) -> tuple[Array, Any]:
        a, kappa, apply = self.a_x, self.kappa, self.operator.apply
        square = z * z
        cube = square * z
        f = apply(c[0], z) - kappa * cube + c[1][..., None]
        p = (a * kappa) * cube + (0.5 * a) * f
        local = (1.2 * a * kappa**2) * square * cube + (1.5 * a * kappa) * square * f
        return f + local - apply(c[0], p), (z, f, p)

    def tangent(self, tape: Any, c: Coefficients, dz: Array, dc: Coefficients) -> Array:
        z, f, p = tape
        a, kappa, apply = self.a_x, self.kappa, self.operator.apply
        df = apply(c[0], dz) + apply(dc[0], z) - (3 * kappa) * z**2 * dz + dc[1][..., None]
        dp = (3 * a * kappa) * z**2 * dz + (0.5 * a) * df
        local = (6 * a * kappa**2) * z**4 * dz + (3 * a * kappa) * z * f * dz + (1.5 * a * kappa) * z**2 * df
        return df + local - apply(c[0], dp) - apply(dc[0], p)

    def adjoint(self, tape: Any, c: Coefficients, g: Array) -> tuple[Array, Coefficients]:
        z, f, p = tape
        a, kappa, operator = self.a_x, self.kappa, self.operator
        square = z * z
        p_bar = -operator.adjoint_state(c[0], g)
        f_bar = g + (1.5 * a * kappa) * square * g + (0.5 * a) * p_bar
        z_bar = operator.adjoint_state(c[0], f_bar) - (3 * kappa) * square * f_bar
        z_bar = z_bar + (3 * a * kappa) * square * p_bar
        z_bar = z_bar + ((6 * a * kappa**2) * square * square + (3 * a * kappa) * z * f) * g
        w_bar = operator.adjoint_weights(z, f_bar) - operator.adjoint_weights(p, g)
        return z_bar, (w_bar, operator.xp.sum(f_bar, axis=-1))

    def linearised(self, k: np.ndarray, slope: float) -> np.ndarray:
        """∂G_1/∂ẑ without the terms that need F: A − (a_x/2)A² − a_x(3κẑ² 𝒦̂ − 6κ²ẑ⁴), A = 𝒦̂ − 3κẑ²."""
        a, one = self.a_x, np.eye(k.shape[-1])
        first = k - slope * one
        return first - 0.5 * a * (first @ first) - a * (slope * k - (2 / 3) * slope**2 * one)
