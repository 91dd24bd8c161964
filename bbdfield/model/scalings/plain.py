"""The plain scaling: s = 0, W = (…) ŵ, b = b̂, whatever the spacing. It has no limit a_x → 0.

Only where fields vary slowly from layer to layer is there a gradient expansion. With everything at the middle of a
layer

    (a_x/2) (1 + 𝒦[ŵ]σ'(ẑ)) ∂_x ẑ = 𝒦[ŵ]σ(ẑ) − ẑ + b̂                               order 1

whose errors are (a_x ∂_x)² of the fields. Away from criticality signals and gradients live in layers of thickness ~ a_x
next to the boundaries, where ∂_x ~ 1/a_x: the error does not fall with a_x. There is no order 0, since 𝒦σ(ẑ) − ẑ + b̂
= 0 cannot take a boundary value, and modes that change sign from layer to layer (eigenvalues of 𝒦σ' near −1) have no
field: 1 + 𝒦σ' is singular there.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from bbdfield.errors import NumericsError
from bbdfield.model.activations import Activation
from bbdfield.model.scalings.base import BulkEquation, Coefficients, Scaling, WidthOperator

Array = Any


class Plain(Scaling):
    """A feed-forward network whose weights do not know a_x."""

    name: ClassVar[str] = "plain"
    skip: ClassVar[float] = 0.0
    orders: ClassVar[tuple[int, ...]] = (1,)
    limit: ClassVar[bool] = False

    def unit(self, a_x: float) -> float:
        return 1.0

    def bulk(self, order: int, operator: WidthOperator, activation: Activation, a_x: float) -> BulkEquation:
        self.require_order(order)
        return GradientExpansion(operator, activation, a_x)


class GradientExpansion:
    """G = (2/a_x) S⁻¹(𝒦[ŵ]σ(ẑ) + b̂ − ẑ) with S = 1 + 𝒦[ŵ]σ'(ẑ), solved densely: (n_y C)³ operations a sample."""

    order = 1

    def __init__(self, operator: WidthOperator, activation: Activation, a_x: float) -> None:
        self.operator, self.activation, self.rate = operator, activation, 2.0 / a_x

    def _solve(self, matrix: Array, right: Array) -> Array:
        """Per sample: matrix (B, n, n), right (n_y, C, B)."""
        xp = self.operator.xp
        n_y, channels, samples = right.shape
        flat = xp.permute_dims(xp.reshape(right, (n_y * channels, samples)), (1, 0))[..., None]
        try:
            solution = xp.linalg.solve(matrix, flat)[..., 0]
        except np.linalg.LinAlgError as error:
            raise NumericsError(
                "1 + 𝒦[ŵ]σ'(ẑ) is singular: signals that change sign from layer to layer have no field; lower the"
                ' amplitudes, or use lattice.scaling = "residual" or "critical"'
            ) from error
        return xp.reshape(xp.permute_dims(solution, (1, 0)), right.shape)

    def _matrix(self, w: Array, slope: Array) -> Array:
        """S: (B, n, n)."""
        xp = self.operator.xp
        n_y, channels, samples = slope.shape
        n = n_y * channels
        one = xp.eye(n, dtype=slope.dtype, device=getattr(slope, "device", None))
        k = xp.reshape(self.operator.apply(w, xp.reshape(one, (n_y, channels, n))), (n, n))
        slopes = xp.permute_dims(xp.reshape(slope, (n, samples)), (1, 0))
        return one + k * slopes[:, None, :]

    def value(self, z: Array, c: Coefficients) -> tuple[Array, Any]:
        s, slope = self.activation.value_and_slope(z)
        matrix = self._matrix(c[0], slope)
        g = self._solve(matrix, self.rate * (self.operator.apply(c[0], s) + c[1][..., None] - z))
        return g, (z, s, slope, g)  # S is made again where it is needed: tapes of it would fill the memory

    def tangent(self, tape: Any, c: Coefficients, dz: Array, dc: Coefficients) -> Array:
        z, s, slope, g = tape
        apply, second = self.operator.apply, self.activation.d2f(z)
        right = self.rate * (apply(c[0], slope * dz) + apply(dc[0], s) + dc[1][..., None] - dz)
        right = right - apply(c[0], second * dz * g) - apply(dc[0], slope * g)
        return self._solve(self._matrix(c[0], slope), right)

    def adjoint(self, tape: Any, c: Coefficients, g: Array) -> tuple[Array, Coefficients]:
        z, s, slope, flow = tape
        operator, second, rate = self.operator, self.activation.d2f(z), self.rate
        p = self._solve(operator.xp.permute_dims(self._matrix(c[0], slope), (0, 2, 1)), g)
        pulled = operator.adjoint_state(c[0], p)
        z_bar = rate * (slope * pulled - p) - second * flow * pulled
        w_bar = rate * operator.adjoint_weights(s, p) - operator.adjoint_weights(slope * flow, p)
        return z_bar, (w_bar, rate * operator.xp.sum(p, axis=-1))

    def linearised(self, k: np.ndarray, slope: float) -> np.ndarray:
        """(2/a_x) (1 + A)⁻¹ (A − 1), A = 𝒦̂σ'."""
        a, one = slope * k, np.eye(k.shape[-1])
        return self.rate * np.linalg.solve(one + a, a - one)
