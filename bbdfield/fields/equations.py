"""The bulk field equation ∂_x ẑ = G_n[ẑ; ŵ, b̂] and its exact derivatives, order n in the lattice spacing a_x.

Residual scaling (W ∝ a_x, skip connection), after the field description of arXiv 2511.02003, eqs (8)-(10):

    F   = 𝒦[ŵ] σ(ẑ) + b̂                                      order 0
    G_1 = F − (a_x/2) (∂F/∂ẑ)·F = F − (a_x/2) 𝒦[ŵ](σ'(ẑ) F)    order 1

G_1 is the modified equation of the lattice: one layer is an Euler step of length a_x of ∂_x ẑ = F, and an exact flow
over a_x of G_1 agrees with it up to O(a_x³) when the coefficients are centred on links.

ẑ has shape (n_y, C, B). The classes below satisfy `solvers.sweeps.RightHandSide` with coefficients c = (ŵ(x), b̂(x)).
"""

from __future__ import annotations

from typing import Any

from bbdfield.errors import InputError
from bbdfield.model.activations import Activation
from solvers.width import KernelOperator

Array = Any
Coefficients = tuple[Array, ...]
ORDERS = (0, 1)


class ResidualOrder0:
    """G_0 = 𝒦[ŵ]σ(ẑ) + b̂."""

    order = 0

    def __init__(self, operator: KernelOperator, activation: Activation) -> None:
        self.operator, self.activation = operator, activation

    def value(self, z: Array, c: Coefficients) -> tuple[Array, Any]:
        w, b = c
        s, slope = self.activation.value_and_slope(z)
        return self.operator.apply(w, s) + b[..., None], (s, slope)

    def tangent(self, tape: Any, c: Coefficients, dz: Array, dc: Coefficients) -> Array:
        s, slope = tape
        return self.operator.apply(c[0], slope * dz) + self.operator.apply(dc[0], s) + dc[1][..., None]

    def adjoint(self, tape: Any, c: Coefficients, g: Array) -> tuple[Array, Coefficients]:
        s, slope = tape
        operator = self.operator
        z_bar = slope * operator.adjoint_state(c[0], g)
        return z_bar, (operator.adjoint_weights(s, g), operator.xp.sum(g, axis=-1))


class ResidualOrder1:
    """G_1 = F − (a_x/2) 𝒦[ŵ](σ'(ẑ) F)."""

    order = 1

    def __init__(self, operator: KernelOperator, activation: Activation, a_x: float) -> None:
        self.operator, self.activation, self.half = operator, activation, 0.5 * a_x

    def value(self, z: Array, c: Coefficients) -> tuple[Array, Any]:
        w, b = c
        s, slope = self.activation.value_and_slope(z)
        f = self.operator.apply(w, s) + b[..., None]
        p = slope * f
        return f - self.half * self.operator.apply(w, p), (z, s, slope, f, p)

    def tangent(self, tape: Any, c: Coefficients, dz: Array, dc: Coefficients) -> Array:
        z, s, slope, f, p = tape
        apply = self.operator.apply
        df = apply(c[0], slope * dz) + apply(dc[0], s) + dc[1][..., None]
        dp = self.activation.d2f(z) * dz * f + slope * df
        return df - self.half * (apply(c[0], dp) + apply(dc[0], p))

    def adjoint(self, tape: Any, c: Coefficients, g: Array) -> tuple[Array, Coefficients]:
        z, s, slope, f, p = tape
        operator, scaled = self.operator, (-self.half) * g
        p_bar = operator.adjoint_state(c[0], scaled)
        f_bar = g + slope * p_bar
        z_bar = self.activation.d2f(z) * f * p_bar + slope * operator.adjoint_state(c[0], f_bar)
        w_bar = operator.adjoint_weights(s, f_bar) + operator.adjoint_weights(p, scaled)
        return z_bar, (w_bar, operator.xp.sum(f_bar, axis=-1))


def bulk_equation(order: int, operator: KernelOperator, activation: Activation, a_x: float) -> Any:
    """The right-hand side G_order of the residual theory with spacing a_x."""
    if order not in ORDERS:
        raise InputError(f"field.orders: order {order!r} does not exist; use one of {', '.join(map(str, ORDERS))}")
    return ResidualOrder0(operator, activation) if order == 0 else ResidualOrder1(operator, activation, a_x)
