"""The one place where fields (hatted) and lattice arrays are converted into each other.

Residual scaling, kernel range: W_k = a_x a_y ŵ(x, y, k a_y), b = a_x b̂, z and R unscaled. The learning rates for which
hatted fields move by −τ η̂ times the functional gradient follow from ∂ℓ/∂W = (δℓ/δŵ)(cell of ŵ)/(a_x a_y), and so on:

    W tied   lr = τ η̂ a_x a_y        W untied   lr = τ η̂ a_x        b   lr = τ η̂ a_x / a_y        R   lr = τ η̂
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bbdfield.errors import InputError
from bbdfield.model.architecture import FieldState, Lattice, Rates, Training


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


@dataclass(frozen=True)
class Inertia:
    """μ of each parameter group of the lattice in S = ∫ e^{γt}(½ Σ μ|θ̇|² − ℓ) dt; infinite for a fixed group."""

    w: float
    b: float
    r: float


def inertia(lattice: Lattice, training: Training) -> Inertia:
    """μ = 1/(ηγ) per group: W tied μ̂/(a_x a_y), W untied μ̂/a_x, b μ̂ a_y/a_x, R μ̂, with μ̂ = 1/(η̂γ)."""
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
    a_x, a_y = lattice.a_x, lattice.a_y
    w = step * rates.w * a_x * (a_y if lattice.range.tied else 1.0)
    return Rates(w=w, b=step * rates.b * a_x / a_y, r=step * rates.r)
