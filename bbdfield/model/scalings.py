"""The one place where fields (hatted) and lattice arrays are converted into each other.

Residual scaling, kernel range: W_k = a_x a_y ŵ(x, y, k a_y), b = a_x b̂, z and R unscaled. The learning rates for which
hatted fields move by −τ η̂ times the functional gradient follow from ∂ℓ/∂W = (δℓ/δŵ)(cell of ŵ)/(a_x a_y), and so on:

    W tied   lr = τ η̂ a_x a_y        W untied   lr = τ η̂ a_x        b   lr = τ η̂ a_x / a_y        R   lr = τ η̂
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bbdfield.model.architecture import FieldState, Lattice, Rates


@dataclass(frozen=True)
class LatticeState:
    """W, b, R of the discrete network: w (M, [N], C, T, C), b (M, N, C), r (outputs, C, modes)."""

    w: np.ndarray
    b: np.ndarray
    r: np.ndarray


@dataclass(frozen=True)
class Units:
    """W = w·ŵ and b = b·b̂."""

    w: float
    b: float


def units(lattice: Lattice) -> Units:
    return Units(w=lattice.a_x * lattice.a_y, b=lattice.a_x)


def to_lattice(state: FieldState) -> LatticeState:
    """Lattice arrays of a field state given on the lattice's own grid."""
    if state.grid != state.lattice.grid:
        raise ValueError("the field state must be on the lattice's own grid; restrict it first")
    unit = units(state.lattice)
    return LatticeState(unit.w * state.w, unit.b * state.b, np.array(state.r))


def to_field(lattice: Lattice, state: LatticeState) -> FieldState:
    """Fields on the lattice's own grid."""
    unit = units(lattice)
    return FieldState(lattice, lattice.grid, state.w / unit.w, state.b / unit.b, np.array(state.r))


def learning_rates(lattice: Lattice, step: float, rates: Rates) -> Rates:
    """Learning rates of W, b and R on the lattice for rates η̂ of the fields and a time step τ."""
    a_x, a_y = lattice.a_x, lattice.a_y
    w = step * rates.w * a_x * (a_y if lattice.range.tied else 1.0)
    return Rates(w=w, b=step * rates.b * a_x / a_y, r=step * rates.r)
