"""How large a depth step may be."""

from __future__ import annotations

import numpy as np


def kernel_norm(w: np.ndarray, h_y: float) -> float:
    """max over x, y and wave number q of |Σ_k h_y ŵ_k e^{iqk}|₂, the local operator norm of 𝒦[ŵ].

    w: (..., C, T, C). Exact for tied kernels with circular padding, up to the spacing of the wave numbers tried (4 or
    more per tap); a bound for zero padding; with reflection the norm can be √2 times larger, as the edge is counted
    twice; and a frozen-coefficient estimate when ŵ depends on y.
    """
    taps = w.shape[-2]
    kernels = np.moveaxis(w, -2, 0).reshape(taps, -1, w.shape[-3], w.shape[-1])
    spectrum = np.fft.rfft(h_y * kernels, n=max(16, 4 * taps), axis=0)
    return float(np.linalg.norm(spectrum, ord=2, axis=(-2, -1)).max())
