"""Modes across the width, and the spectral cut-off that keeps only the long waves.

Each padding has the modes that its continuation of the field is made of, sampled at the cell centres
y_i = (i + ½) h_y and normalised, Σ_i φ_j(y_i) φ_k(y_i) = δ_jk (Strang, "The discrete cosine transform", SIAM Review 41
(1999) 135):

- circular: cos and sin of q (y − y_0), q = 2πj/L_y (Fourier), up to π/h_y;
- reflect: cos(q y), q = πj/L_y, j = 0..n_y−1 (DCT-II), even about both edges;
- zeros: sin(q y), q = πj/L_y, j = 1..n_y (DST-II), zero at both edges. A field that does not vanish at the edges is no
  sum of few sines: cutting it off makes it ring there (Gibbs).
"""

from __future__ import annotations

import numpy as np

from solvers.errors import InputError
from solvers.grids import Grid
from solvers.padding import PADDINGS


def width_modes(grid: Grid, padding: str) -> tuple[np.ndarray, np.ndarray]:
    """Wave numbers and orthonormal modes of a width.

    Returns
    -------
    q : (n_y,) wave numbers ≥ 0 per unit of y, ascending.
    modes : (n_y, n_y), one mode per column.

    Raises
    ------
    InputError
        for an unknown padding.
    """
    n = grid.n_y
    i, j = np.arange(n)[:, None], np.arange(n)
    if padding == "circular":
        numbers = (
            j + 1
        ) // 2  # 0, 1, 1, 2, 2, ...: cosine and sine in turn; the shortest wave of an even width is (−1)^i
        quarter_turns = (4 * numbers * i - n * (j % 2 == 0) * (j > 0)) % (4 * n)
        modes = np.cos(np.pi * quarter_turns / (2 * n))
        single = (numbers == 0) | (2 * numbers == n)
        q = 2 * np.pi * numbers / grid.length_y
    elif padding == "reflect":
        modes = np.cos(np.pi * ((2 * i + 1) * j % (4 * n)) / (2 * n))
        single = j == 0
        q = np.pi * j / grid.length_y
    elif padding == "zeros":
        modes = np.sin(np.pi * ((2 * i + 1) * (j + 1) % (4 * n)) / (2 * n))
        single = j + 1 == n
        q = np.pi * (j + 1) / grid.length_y
    else:
        raise InputError(f"padding '{padding}' does not exist; use one of {', '.join(PADDINGS)}")
    return q, modes * np.sqrt(np.where(single, 1.0, 2.0) / n)


def cutoff_projection(grid: Grid, padding: str, q_max: float) -> np.ndarray:
    """The orthogonal projection onto the modes with q ≤ q_max: (n_y, n_y), symmetric, P² = P.

    It is its own adjoint for the plain sum over cells; q_max ≥ π/h_y keeps everything.

    Raises
    ------
    InputError
        for an unknown padding and a q_max that is negative or no number.
    """
    if not q_max >= 0:
        raise InputError(f"cut-off wave number {q_max!r}: needs a number >= 0")
    q, modes = width_modes(grid, padding)
    kept = q <= q_max * (1 + 1e-9)  # a mode at the cut-off must not depend on rounding
    if kept.all():
        return np.eye(grid.n_y)
    projection = modes[:, kept] @ modes[:, kept].T
    return (projection + projection.T) / 2
