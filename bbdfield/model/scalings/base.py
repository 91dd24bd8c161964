"""What a scaling is: how weights depend on the spacing a_x, and the field equation that this has as its limit.

The lattice is z[m+1] = s z[m] + Σ_k W_k σ_a(z[m])_{y+k} + b, with W = 1·(identity) + unit·(range's unit)·ŵ and
b = unit·b̂. A file here states both sides: the rule that the lattice is built by, and the bulk equation
∂_x ẑ = G_n[ẑ; ŵ, b̂] of order n in a_x that the field solver integrates. They share no code: the lattice never sees G.

Bulk equations work on ẑ (n_y, C, B) and satisfy `solvers.sweeps.RightHandSide` with coefficients c = (ŵ(x), b̂(x)).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

import numpy as np

from bbdfield.errors import InputError
from bbdfield.model.activations import Activation

Array = Any
Coefficients = tuple[Array, ...]


class WidthOperator(Protocol):
    """𝒦[ŵ] on a grid, linear in ŵ and in what it acts on."""

    xp: Any
    bounded: bool

    def apply(self, w: Array, s: Array) -> Array: ...
    def adjoint_state(self, w: Array, g: Array) -> Array: ...
    def adjoint_weights(self, s: Array, g: Array) -> Array: ...
    def symbol(self, w: np.ndarray, q: np.ndarray) -> np.ndarray: ...


class BulkEquation(Protocol):
    """∂_x ẑ = G_n[ẑ; ŵ, b̂] with its derivatives."""

    order: int
    operator: Any

    def value(self, z: Array, c: Coefficients) -> tuple[Array, Any]: ...
    def tangent(self, tape: Any, c: Coefficients, dz: Array, dc: Coefficients) -> Array: ...
    def adjoint(self, tape: Any, c: Coefficients, g: Array) -> tuple[Array, Coefficients]: ...

    def linearised(self, k: np.ndarray, slope: float) -> np.ndarray:
        """Symbol of ∂G_n/∂ẑ for frozen coefficients: k (..., C, C) is the symbol of 𝒦[ŵ], `slope` as in `slopes`."""
        ...


class Scaling(ABC):
    """Base of the scalings.

    name : as configurations call it.   skip : s.   orders : depth orders n for which G_n exists.
    identity : whether W contains δ_k0 δ_cc'.   limit : whether G_n becomes exact as a_x → 0.
    """

    name: ClassVar[str]
    skip: ClassVar[float]
    orders: ClassVar[tuple[int, ...]] = (0, 1)
    identity: ClassVar[bool] = False
    limit: ClassVar[bool] = True

    @abstractmethod
    def unit(self, a_x: float) -> float:
        """b = unit · b̂, and the same factor in W."""

    def check(self, activation: str) -> None:  # noqa: B027 - most scalings take every activation
        """Refuse an activation for which this scaling has no meaning (InputError)."""

    def check_amplitude(self, largest: float, a_x: float) -> None:  # noqa: B027 - most need no small ẑ
        """Refuse signals up to |ẑ| = `largest` where G_n is an expansion in ẑ that they leave (InputError)."""

    def activation(self, activation: Activation, a_x: float) -> Activation:
        """σ_a, the lattice's activation at spacing a_x."""
        return activation

    @abstractmethod
    def bulk(self, order: int, operator: WidthOperator, activation: Activation, a_x: float) -> BulkEquation:
        """G_order.

        Raises
        ------
        InputError
            for an order that this scaling does not have.
        """

    def slopes(self, activation: Activation, largest: float = 0.0) -> np.ndarray:
        """Values that the local slope in `linearised` may take: σ' for any |ẑ| up to 8, and up to `largest`."""
        z = np.concatenate([np.linspace(-reach, reach, 801) for reach in (8.0, max(largest, 8.0))])
        slope = activation.df(z)
        return np.linspace(float(np.min(slope)), float(np.max(slope)), 5)

    def require_order(self, order: int) -> None:
        if order not in self.orders:
            known = ", ".join(map(str, self.orders))
            several = "one of " if len(self.orders) > 1 else ""
            raise InputError(
                f'field.orders: order {order!r} is not defined for lattice.scaling = "{self.name}"; use'
                f" {several}{known}"
            )
