"""Finite differences across the width, with exact adjoints: the operators of local theories.

    (𝒦[ŵ] s)_c(y) = Σ_{n=0}^{order} Σ_c' m_n,cc'(y) (D_n s)_c'(y),      m_n = Σ_p mixing[n, p] ŵ_p,

with D_0 = 1 and D_1, D_2 the centred differences for ∂_y and ∂_y² of accuracy 2, 4 or 6 in h_y (coefficients:
Fornberg, "Generation of finite difference formulas on arbitrarily spaced grids", Math. Comp. 51 (1988) 699), taken on
the padded field. Arrays as in solvers.width: s, g (n_y, C, B); ŵ tied (C, P, C), untied (n_y, C, P, C), indices
(c_out, component, c_in).

The differences are merged into taps first, Σ_n m_n D_n s = Σ_k t_k s(y + k h_y), a small product in ŵ alone, so that
the work along y is one matrix product over sliding windows.

Unlike the kernel operator this one is unbounded: |D_n| grows like h_y^{-n}, and whether marching with it is well posed
depends on ŵ. `symbol` is what to analyse.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from solvers.errors import InputError
from solvers.grids import Grid
from solvers.padding import PADDINGS, fold, pad
from solvers.width import _windows

Array = Any

#: accuracy -> c_1, c_2, ... of D_1 s = Σ_j c_j (s_{+j} − s_{−j}) / h
FIRST = {2: (1 / 2,), 4: (2 / 3, -1 / 12), 6: (3 / 4, -3 / 20, 1 / 60)}
#: accuracy -> d_0, d_1, ... of D_2 s = (d_0 s + Σ_j d_j (s_{+j} + s_{−j})) / h²
SECOND = {2: (-2.0, 1.0), 4: (-5 / 2, 4 / 3, -1 / 12), 6: (-49 / 18, 3 / 2, -3 / 20, 1 / 90)}
ORDERS = (0, 1, 2)


class DifferenceOperator:
    """Σ_n m_n D_n on one grid, with adjoints in s and in ŵ for the plain sum over (y, c, sample).

    Parameters
    ----------
    order : highest derivative: 0, 1 or 2.
    tied : ŵ does not depend on y.
    padding : "zeros", "circular" or "reflect"; where the padded field has a kink or a jump at the edge, the last
        accuracy/2 cells lose their accuracy.
    accuracy : order of the differences in h_y: 2, 4 or 6; they reach accuracy/2 cells to either side.
    mixing : (order + 1, P), from the P components of ŵ to the moments m_n; None: the components are the moments.

    Raises
    ------
    InputError
        for an unknown order, accuracy or padding, a mixing of another shape, and a width too narrow to be extended.
    """

    def __init__(
        self,
        xp: Any,
        grid: Grid,
        *,
        order: int,
        tied: bool,
        padding: str,
        accuracy: int = 4,
        mixing: np.ndarray | None = None,
    ) -> None:
        if order not in ORDERS:
            raise InputError(f"width order {order!r} does not exist; use one of {', '.join(map(str, ORDERS))}")
        if accuracy not in FIRST:
            raise InputError(f"stencil accuracy {accuracy!r} does not exist; use one of {', '.join(map(str, FIRST))}")
        if padding not in PADDINGS:
            raise InputError(f"padding '{padding}' does not exist; use one of {', '.join(PADDINGS)}")
        self.reach = accuracy // 2 if order else 0
        if padding != "zeros" and grid.n_y < self.reach:
            raise InputError(
                f"the stencil reaches {self.reach} cells and the width has {grid.n_y}, too few for {padding} padding;"
                " use more cells or a lower stencil accuracy"
            )
        self.xp = xp
        self.order, self.accuracy = order, accuracy
        self.bounded = order == 0  # else |𝒦| grows as the grid is refined
        self.tied, self.padding = tied, padding
        self.h_y = grid.h_y
        self._mixing = np.eye(order + 1) if mixing is None else np.array(mixing, dtype=float)
        if self._mixing.ndim != 2 or len(self._mixing) != order + 1:
            raise InputError(
                f"mixing of shape {self._mixing.shape}: needs ({order + 1}, components) for width order {order}"
            )
        self.components = self._mixing.shape[1]
        self.taps = 2 * self.reach + 1
        self.stencil = self._stencils() @ self._mixing  # (taps, components): what a component multiplies, tap by tap
        self._to_taps = xp.asarray(self.stencil)

    def _stencils(self) -> np.ndarray:
        """(taps, order + 1): what D_n takes from y + k h_y, k = −reach..reach."""
        stencils = np.zeros((self.taps, self.order + 1))
        stencils[self.reach, 0] = 1.0
        for j in range(1, self.reach + 1):
            stencils[[self.reach - j, self.reach + j], 1] = (
                np.array([-1.0, 1.0]) * FIRST[self.accuracy][j - 1] / self.h_y
            )
        if self.order == 2:
            for j in range(self.reach + 1):
                stencils[[self.reach - j, self.reach + j], 2] = SECOND[self.accuracy][j] / self.h_y**2
        return stencils

    def apply(self, w: Array, s: Array) -> Array:
        """𝒦[ŵ] s."""
        padded = pad(self.xp, s, self.reach, self.padding)
        return self.xp.matmul(_side_by_side(self.xp, self._taps(w)), _windows(self.xp, padded, self.taps))

    def adjoint_state(self, w: Array, g: Array) -> Array:
        """𝒦†[ŵ] g, so that Σ g·𝒦[ŵ]s = Σ s·𝒦†[ŵ]g."""
        xp, taps = self.xp, self._taps(w)
        if self.tied:  # correlation with the mirrored, transposed taps
            mirrored = xp.permute_dims(xp.flip(taps, axis=1), (2, 1, 0))
            full = xp.matmul(_side_by_side(xp, mirrored), _windows(xp, pad(xp, g, 2 * self.reach, "zeros"), self.taps))
        else:
            n_y, channels, samples = g.shape
            contributions = xp.matmul(xp.permute_dims(_side_by_side(xp, taps), (0, 2, 1)), g)
            full = xp.zeros((n_y + 2 * self.reach, channels, samples), dtype=g.dtype)
            for k in range(self.taps):
                full[k : k + n_y, ...] += contributions[:, k * channels : (k + 1) * channels, :]
        return fold(xp, full, self.reach, self.padding)

    def adjoint_weights(self, s: Array, g: Array) -> Array:
        """∂/∂ŵ of Σ g·𝒦[ŵ]s, in ŵ's shape."""
        xp = self.xp
        padded = pad(xp, s, self.reach, self.padding)
        products = xp.matmul(g, xp.permute_dims(_windows(xp, padded, self.taps), (0, 2, 1)))
        if self.tied:
            products = xp.sum(products, axis=0)
        products = xp.reshape(products, (*products.shape[:-1], self.taps, s.shape[1]))
        return xp.matmul(xp.permute_dims(xp.asarray(self._to_taps, dtype=s.dtype), (1, 0)), products)

    def symbol(self, w: np.ndarray, q: np.ndarray) -> np.ndarray:
        """The operator on e^{iqy} with ŵ frozen, on an infinite grid: Σ_n m_n κ_n(q), exact for these stencils.

        In place of the exact 1, iq, −q² stand the modified wave numbers

            κ_0 = 1,    κ_1 = 2i Σ_j c_j sin(jqh_y) / h_y,    κ_2 = (d_0 + 2 Σ_j d_j cos(jqh_y)) / h_y².

        Parameters
        ----------
        w : (..., C, P, C), NumPy.
        q : (n_q,) wave numbers per unit of y.

        Returns
        -------
        (n_q, ..., C, C) complex.
        """
        first, second = np.array(FIRST[self.accuracy]), np.array(SECOND[self.accuracy])
        angles = self.h_y * np.multiply.outer(np.asarray(q, float), 1 + np.arange(len(first)))
        differences = [
            np.ones(len(angles)),
            2j * (np.sin(angles) @ first) / self.h_y,
            (second[0] + 2 * np.cos(angles) @ second[1:]) / self.h_y**2,
        ]
        modified = np.stack(differences[: self.order + 1], axis=1).astype(complex)
        return np.tensordot(modified @ self._mixing, w, axes=(1, -2))

    def _taps(self, w: Array) -> Array:
        """(..., C, taps, C): the sum over taps that the differences amount to."""
        return self.xp.matmul(self.xp.asarray(self._to_taps, dtype=w.dtype), w)


def _side_by_side(xp: Any, taps: Array) -> Array:
    return xp.reshape(taps, (*taps.shape[:-2], taps.shape[-2] * taps.shape[-1]))
