"""The one place where fields (hatted) and lattice arrays are converted into each other.

With θ the network's trainable weights (its taps, or moments for the derivative range), s the scaling's unit (a_x, or 1
for plain) and c the range's (a_y for kernels, else 1)

    θ = s c ŵ (+ 1 on the centre where the scaling has the identity),   b = s b̂,   z and R unscaled.

The learning rates for which hatted fields move by −τ η̂ times the functional gradient follow from
δℓ/δŵ = s c ∂ℓ/∂θ / (cell of ŵ), the cell being a_x times a_y if untied, times a_y if a kernel:

    W   lr = τ η̂ (s c)² / cell        b   lr = τ η̂ s² / (a_x a_y)        R   lr = τ η̂

For the residual and critical scalings: tied kernel τη̂ a_x a_y; untied kernel and tied taps or moments τη̂ a_x; untied
taps or moments, and b, τη̂ a_x/a_y. Inertias are their inverses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bbdfield.errors import InputError
from bbdfield.model.architecture import FieldState, Lattice, Rates, Training


@dataclass(frozen=True)
class LatticeState:
    """θ, b, R of the discrete network: w (M, [N], C, P, C), b (M, N, C), r (outputs, C, modes).

    w are the taps themselves (P = T) except for the derivative range, where they are its three moments.
    """

    w: np.ndarray
    b: np.ndarray
    r: np.ndarray


@dataclass(frozen=True)
class Units:
    """θ = w·ŵ (+ identity) and b = b·b̂."""

    w: float
    b: float


def units(lattice: Lattice) -> Units:
    unit = lattice.law.unit(lattice.a_x)
    return Units(w=unit * lattice.range.unit(lattice.a_y), b=unit)


def identity(lattice: Lattice) -> np.ndarray | float:
    """What the weights are at ŵ = 0, (C, P, C): 1 on the centre for scalings with the identity, else 0."""
    if not lattice.law.identity:
        return 0.0
    count = lattice.range.components(lattice.grid).size
    one = np.zeros((lattice.channels, count, lattice.channels))
    one[:, lattice.range.centre(lattice.grid), :] = np.eye(lattice.channels)
    return one


def to_lattice(state: FieldState) -> LatticeState:
    """Lattice arrays of a field state given on the lattice's own grid."""
    if state.grid != state.lattice.grid:
        raise ValueError("the field state must be on the lattice's own grid; restrict it first")
    unit = units(state.lattice)
    return LatticeState(identity(state.lattice) + unit.w * state.w, unit.b * state.b, np.array(state.r))


def to_field(lattice: Lattice, state: LatticeState) -> FieldState:
    """Fields on the lattice's own grid."""
    unit = units(lattice)
    w = (state.w - identity(lattice)) / unit.w
    return FieldState(lattice, lattice.grid, w, state.b / unit.b, np.array(state.r))


@dataclass(frozen=True)
class Inertia:
    """μ of each parameter group of the lattice in S = ∫ e^{γt}(½ Σ μ|θ̇|² − ℓ) dt; infinite for a fixed group."""

    w: float
    b: float
    r: float


def inertia(lattice: Lattice, training: Training) -> Inertia:
    """μ = 1/(ηγ) per group, with η the rates per unit of t: μ̂/(a_x a_y) for W of a tied kernel, and so on."""
    if training.damping is None:
        raise InputError(f"training.dynamics = {training.dynamics!r} has no inertia; use heavy-ball or leapfrog")
    eta = learning_rates(lattice, 1.0, training.rates)
    return Inertia(*(1.0 / (rate * training.damping) if rate else math.inf for rate in (eta.w, eta.b, eta.r)))


def heavy_ball_of(mu: float, damping: float, step: float) -> tuple[float, float]:
    """(learning rate, momentum) = (h²/μ, e^{−γh}) of the heavy ball that integrates inertia μ, damping γ in steps h.

    França, Sulam, Robinson, Vidal, arXiv 1903.04100.
    """
    return step**2 / mu, math.exp(-damping * step)


def inertia_of(learning_rate: float, momentum: float, step: float) -> tuple[float, float]:
    """(μ, γ) = (h²/lr, −ln β / h): what a heavy ball with this learning rate and momentum integrates in steps h.

    Raises
    ------
    InputError
        for a momentum outside (0, 1) (0 is the overdamped limit, without inertia), or a rate or step that is not > 0.
    """
    if not (0 < momentum < 1 and learning_rate > 0 and step > 0):
        given = f"learning rate {learning_rate!r}, momentum {momentum!r}, step {step!r}"
        raise InputError(f"{given}: need a learning rate > 0, 0 < momentum < 1 and a step > 0")
    return step**2 / learning_rate, -math.log(momentum) / step


def learning_rates(lattice: Lattice, step: float, rates: Rates) -> Rates:
    """Learning rates of W, b and R on the lattice for rates η̂ of the fields and a time step τ."""
    a_x, a_y, unit = lattice.a_x, lattice.a_y, units(lattice)
    cell = a_x * lattice.range.cell(a_y) * (1.0 if lattice.range.tied else a_y)
    return Rates(w=step * rates.w * unit.w**2 / cell, b=step * rates.b * unit.b**2 / (a_x * a_y), r=step * rates.r)
