"""Growth of waves on the lattice: the network itself can be unstable when its range has derivatives.

One layer multiplies a wave e^{iqy} by s + W(q)σ', W(q) = Σ_k W_k e^{ikqa_y}; for a limit |eig| must stay below 1 +
O(a_x), so a_x <= a_y²/(2ŵ_2ℓ²σ') for diffusion and a_x <= 2ŵ_2/(ŵ_1²σ') for transport: refine with a_x ∝ a_y².
"""

from __future__ import annotations

import numpy as np

from bbdfield.errors import NumericsError
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import Lattice
from solvers.stability import MATRICES, MOST_GROWTH, excess, sample, too_much


def lattice_growth(lattice: Lattice, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(q, Γ(q)): wave numbers up to π/a_y, and Σ_m max_y ln |eig(s + W[m](q)σ')| of taps w (M, [N], C, T, C)."""
    law, taps = lattice.law, w.shape[-2]
    activation = law.activation(get_activation(lattice.activation), lattice.a_x)
    slope = activation.df(np.linspace(-8.0, 8.0, 801))
    slopes = np.unique(np.linspace(float(np.min(slope)), float(np.max(slope)), 3))
    q = np.linspace(0.0, np.pi / lattice.a_y, 33)
    phases = np.exp(1j * np.outer(q * lattice.a_y, np.arange(taps) - taps // 2))
    untied, wide = w.ndim == 5, MATRICES // (33 * len(slopes))
    layers = sample(len(w), max(8, wide // (8 if untied else 1)))
    cells = sample(lattice.width, max(4, wide // layers.size)) if untied else None
    exponents, skip = np.zeros(q.size), law.skip * np.eye(lattice.channels)
    with np.errstate(all="ignore"):
        for m in layers:
            symbol = np.tensordot(phases, w[m] if cells is None else w[m][cells], axes=(1, -2))
            if not np.all(np.isfinite(symbol)):
                return q, np.full(q.size, np.inf)
            worst = np.zeros(q.size)
            for value in slopes:
                sizes = np.abs(np.linalg.eigvals(skip + value * symbol)).reshape(q.size, -1)
                worst = np.maximum(worst, sizes.max(axis=1))
            exponents += len(w) / layers.size * np.log(np.maximum(worst, 1e-300))
    return q, exponents


def check_lattice_growth(lattice: Lattice, w: np.ndarray, t: float = 0.0) -> None:
    """Refuse a lattice whose shortest waves blow up.

    Raises
    ------
    NumericsError
        when waves grow by more than `MOST_GROWTH` beyond the longest one over the depth; says what to refine.
    """
    if lattice.range.lattice_bounded:
        return
    q, exponents = lattice_growth(lattice, w)
    if too_much(exponents):
        worst = q[int(np.argmax(exponents))]
        raise NumericsError(
            f"lattice of {lattice.depth} layers unstable at t = {t:.6g}: waves of wave number {worst:.4g} grow by"
            f" e^{excess(exponents):.3g} beyond the longest over the depth, more than {MOST_GROWTH:g}; use more layers"
            " (a_x <= a_y²/(2ŵ_2ℓ²) and a_x <= 2ŵ_2/ŵ_1²), fewer cells, or more diffusion (initial.mean)"
        )
