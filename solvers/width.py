"""Operators acting across the width, each with its exact adjoints.

The finite-radius kernel operator is the midpoint rule for

    (𝒦[ŵ] s)_c(y) = Σ_c' ∫_{-r}^{r} ŵ_cc'(y, u) s_c'(y + u) du  ≈  h_y Σ_{k=-K}^{K} Σ_c' ŵ_cc'(y, u_k) s_c'(y + u_k),

second order in h_y because the taps tile [-r, r]. Arrays: s, g (n_y, C, B); ŵ tied (C, T, C), untied (n_y, C, T, C)
with T = 2K + 1, indices (c_out, tap, c_in). It is bounded, so it is well posed on every grid.

Two evaluations of the same sums: `direct` (matrix products over sliding windows) and `fft` (tied kernels, for many
taps). Both are array-API code; only the window view differs between namespaces.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from solvers.grids import Grid
from solvers.padding import fold, pad

Array = Any

#: from this many taps on the transform beats the direct sum, for 8 channels and 32 samples on one core: measured by
#: experiments/benchmarks/width_operator.py
FFT_FROM_TAPS = 32


def _windows(xp: Any, padded: Array, taps: int) -> Array:
    """Sliding windows (n_y, T*C, B) of a padded (n_y + T - 1, C, B); a view where the namespace has strides."""
    n_y = padded.shape[0] - taps + 1
    channels, samples = padded.shape[1:]
    strides = getattr(padded, "strides", None)
    if strides is not None and hasattr(xp, "lib") and padded.flags.c_contiguous:
        as_strided = xp.lib.stride_tricks.as_strided
        return as_strided(padded, (n_y, taps * channels, samples), strides)
    return xp.concat([padded[k : k + n_y, ...] for k in range(taps)], axis=1)


class KernelOperator:
    """𝒦[ŵ] on one grid, with adjoints in s and in ŵ for the plain sum over (y, c, sample).

    Parameters
    ----------
    grid, radius : the kernel's support [-r, r] must be tiled by the grid's cells (InputError otherwise).
    tied : ŵ does not depend on y (convolution).
    padding : "zeros", "circular" or "reflect".
    method : "direct", "fft" (tied only) or "auto".
    """

    def __init__(self, xp: Any, grid: Grid, radius: float, *, tied: bool, padding: str, method: str = "auto") -> None:
        self.xp = xp
        self.bounded = True  # whatever the grid
        self.half = grid.half_width(radius)
        self.taps = 2 * self.half + 1
        self.du = grid.h_y
        self.tied = tied
        self.padding = padding
        if method == "auto":
            method = "fft" if tied and self.taps >= FFT_FROM_TAPS else "direct"
        if method == "fft" and not tied:
            raise ValueError("the transform needs a kernel that does not depend on y")
        self.method = method
        self._length = _fast_length(grid.n_y + 2 * self.half)

    @property
    def stencil(self) -> np.ndarray:
        """(taps, taps): what one number of ŵ multiplies, tap by tap."""
        return self.du * np.eye(self.taps)

    def apply(self, w: Array, s: Array) -> Array:
        """𝒦[ŵ] s."""
        padded = pad(self.xp, s, self.half, self.padding)
        if self.method == "fft":
            xp, n = self.xp, self._length
            spectrum = xp.matmul(xp.conj(self._spectrum(w)), xp.fft.rfft(padded, n=n, axis=0))
            return self.du * xp.fft.irfft(spectrum, n=n, axis=0)[: s.shape[0], ...]
        return self.du * self.xp.matmul(self._matrix(w), _windows(self.xp, padded, self.taps))

    def adjoint_state(self, w: Array, g: Array) -> Array:
        """𝒦†[ŵ] g, so that Σ g·𝒦[ŵ]s = Σ s·𝒦†[ŵ]g."""
        xp, half, taps = self.xp, self.half, self.taps
        if self.method == "fft":
            n = self._length
            transposed = xp.permute_dims(self._spectrum(w), (0, 2, 1))
            full = xp.fft.irfft(xp.matmul(transposed, xp.fft.rfft(g, n=n, axis=0)), n=n, axis=0)
            return self.du * fold(xp, full[: g.shape[0] + 2 * half, ...], half, self.padding)
        if self.tied:  # correlation with the mirrored, transposed kernel
            mirrored = xp.permute_dims(xp.flip(w, axis=1), (2, 1, 0))
            padded = pad(xp, g, 2 * half, "zeros")
            full = xp.matmul(self._matrix(mirrored), _windows(xp, padded, taps))
        else:
            channels, samples = g.shape[1:]
            contributions = xp.matmul(xp.permute_dims(self._matrix(w), (0, 2, 1)), g)
            full = xp.zeros((g.shape[0] + 2 * half, channels, samples), dtype=g.dtype)
            for k in range(taps):
                full[k : k + g.shape[0], ...] += contributions[:, k * channels : (k + 1) * channels, :]
        return self.du * fold(xp, full, half, self.padding)

    def adjoint_weights(self, s: Array, g: Array) -> Array:
        """∂/∂ŵ of Σ g·𝒦[ŵ]s, in ŵ's shape."""
        xp = self.xp
        padded = pad(xp, s, self.half, self.padding)
        channels = s.shape[1]
        if self.method == "fft":
            n = self._length
            f = xp.permute_dims(xp.fft.rfft(padded, n=n, axis=0), (0, 2, 1))
            spectrum = xp.matmul(xp.conj(xp.fft.rfft(g, n=n, axis=0)), f)
            lags = xp.fft.irfft(spectrum, n=n, axis=0)[: self.taps, ...]
            return self.du * xp.permute_dims(lags, (1, 0, 2))
        windows = xp.permute_dims(_windows(xp, padded, self.taps), (0, 2, 1))
        products = xp.matmul(g, windows)
        if self.tied:
            products = xp.sum(products, axis=0)
        return self.du * xp.reshape(products, (*products.shape[:-1], self.taps, channels))

    def symbol(self, w: np.ndarray, q: np.ndarray) -> np.ndarray:
        """The operator on e^{iqy} with ŵ frozen, on an infinite grid: h_y Σ_k ŵ_k e^{iqu_k}.

        Parameters
        ----------
        w : (..., C, T, C), NumPy.
        q : (n_q,) wave numbers per unit of y.

        Returns
        -------
        (n_q, ..., C, C) complex.
        """
        offsets = self.du * np.arange(-self.half, self.half + 1)
        return np.tensordot(self.du * np.exp(1j * np.multiply.outer(np.asarray(q, float), offsets)), w, axes=(1, -2))

    def _matrix(self, w: Array) -> Array:
        return self.xp.reshape(w, (*w.shape[:-2], w.shape[-2] * w.shape[-1]))

    def _spectrum(self, w: Array) -> Array:
        return self.xp.fft.rfft(self.xp.permute_dims(w, (1, 0, 2)), n=self._length, axis=0)


def _fast_length(n: int) -> int:
    """The smallest 2^a 3^b 5^c >= n."""
    while True:
        m = n
        for p in (2, 3, 5):
            while m % p == 0:
                m //= p
        if m == 1:
            return n
        n += 1
