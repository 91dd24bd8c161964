"""Sweeps of the network compiled as sums over taps, for few channels and short kernels: vectorised along the width.

What `bbdfield.lattice.network` does in NumPy, for one lane of samples and in place. y is innermost everywhere:

    θ (M, C, P, C, N), tied (M, C, P, C, 1);  b (M, C, N);  z, δ (C, B, N);  tape of σ(z) with ghosts (G, C, B, N+2K)

P counts taps, or the moments that taps are made of by a matrix (T, P); a layer's taps are then formed in scratch and
its gradient pulled back. The tape is a ring of G layers (layer m at m mod G): all of them, the interval between
checkpoints, or one where nothing is differentiated. It holds σ only where the slope follows from it. The adjoint sweep
adds a factor times the gradient to a target, which may be θ itself: then it is the update, and no gradient is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from solvers.compiled import jit
from solvers.compiled.activations import from_value, slope, slope_of_value, value

ZEROS, CIRCULAR, REFLECT = range(3)
#: whether kernels call BLAS, which must then keep to one thread
BLAS = False


# Rows


@jit
def _copy(source, out):  # type: ignore[no-untyped-def]
    """An assignment of arrays, without the seconds that numba takes to compile its refusals."""
    for i in range(out.size):
        out[i] = source[i]


@jit
def _fill_ghosts(padding, reach, row):  # type: ignore[no-untyped-def]
    """Set the K ghost cells at either end of a row (N + 2K)."""
    n = row.size - 2 * reach
    if padding == ZEROS:
        for i in range(reach):
            row[i] = 0.0
            row[reach + n + i] = 0.0
    elif padding == CIRCULAR:
        for i in range(reach):
            row[i] = row[n + i]
            row[reach + n + i] = row[reach + i]
    else:
        for i in range(reach):
            row[i] = row[2 * reach - 1 - i]
            row[reach + n + i] = row[reach + n - 1 - i]


@jit
def _fold(padding, reach, row):  # type: ignore[no-untyped-def]
    """Add every ghost to the cell that it was copied from."""
    n = row.size - 2 * reach
    if padding == CIRCULAR:
        for i in range(reach):
            row[n + i] += row[i]
        for i in range(reach):
            row[reach + i] += row[reach + n + i]
    elif padding == REFLECT:
        for i in range(reach):
            row[2 * reach - 1 - i] += row[i]
        for i in range(reach):
            row[reach + n - 1 - i] += row[reach + n + i]


@jit
def _gather(w, c, d, s, out):  # type: ignore[no-untyped-def]
    """out[y] += Σ_k w[c, k, d, y] s[y + k] with w (C, T, C, N) or (C, T, C, 1), three taps in one pass."""
    n, k, taps = out.size, 0, w.shape[1]
    if w.shape[3] == 1:
        while k + 3 <= taps:
            a0, a1, a2 = w[c, k, d, 0], w[c, k + 1, d, 0], w[c, k + 2, d, 0]
            t = s[k : k + n + 2]
            for i in range(n):
                out[i] += a0 * t[i] + a1 * t[i + 1] + a2 * t[i + 2]
            k += 3
        while k < taps:
            a0, t = w[c, k, d, 0], s[k : k + n]
            for i in range(n):
                out[i] += a0 * t[i]
            k += 1
    else:
        while k + 3 <= taps:
            w0, w1, w2 = w[c, k, d], w[c, k + 1, d], w[c, k + 2, d]
            t = s[k : k + n + 2]
            for i in range(n):
                out[i] += w0[i] * t[i] + w1[i] * t[i + 1] + w2[i] * t[i + 2]
            k += 3
        while k < taps:
            w0, t = w[c, k, d], s[k : k + n]
            for i in range(n):
                out[i] += w0[i] * t[i]
            k += 1


@jit
def _scatter(w, c, d, g, out):  # type: ignore[no-untyped-def]
    """out[y + k] += w[c, k, d, y] g[y], the adjoint of `_gather` in s."""
    n = g.size
    for k in range(w.shape[1]):
        o = out[k : k + n]
        if w.shape[3] == 1:
            a = w[c, k, d, 0]
            for i in range(n):
                o[i] += a * g[i]
        else:
            row = w[c, k, d]
            for i in range(n):
                o[i] += row[i] * g[i]


@jit
def _correlate(g, s, c, d, out):  # type: ignore[no-untyped-def]
    """out[c, k, d, y] += g[y] s[y + k], the adjoint of `_gather` in w; summed over y where out is (C, T, C, 1)."""
    n, k, taps = g.size, 0, out.shape[1]
    if out.shape[3] == 1:
        while k + 3 <= taps:
            a0, a1, a2 = out[c, k, d, 0], out[c, k + 1, d, 0], out[c, k + 2, d, 0]
            t = s[k : k + n + 2]
            for i in range(n):
                a0 += g[i] * t[i]
                a1 += g[i] * t[i + 1]
                a2 += g[i] * t[i + 2]
            out[c, k, d, 0], out[c, k + 1, d, 0], out[c, k + 2, d, 0] = a0, a1, a2
            k += 3
        while k < taps:
            a0, t = out[c, k, d, 0], s[k : k + n]
            for i in range(n):
                a0 += g[i] * t[i]
            out[c, k, d, 0] = a0
            k += 1
    else:
        while k < taps:
            row, t = out[c, k, d], s[k : k + n]
            for i in range(n):
                row[i] += g[i] * t[i]
            k += 1


# One layer


@jit
def _form(matrix, theta, w):  # type: ignore[no-untyped-def]
    """w_k = Σ_p matrix[k, p] θ_p: w (C, T, C, N), θ (C, P, C, N)."""
    for c in range(w.shape[0]):
        for k in range(w.shape[1]):
            for d in range(w.shape[2]):
                row = w[c, k, d]
                for i in range(row.size):
                    row[i] = 0.0
                for p in range(matrix.shape[1]):
                    a, source = matrix[k, p], theta[c, p, d]
                    if a != 0.0:
                        for i in range(row.size):
                            row[i] += a * source[i]


@jit
def _pull_back(matrix, gradient, factor, target):  # type: ignore[no-untyped-def]
    """target_p += factor Σ_k matrix[k, p] gradient_k; without a matrix, taps are the parameters."""
    if matrix.size == 0:
        flat, out = gradient.reshape(-1), target.reshape(-1)
        for i in range(out.size):
            out[i] += factor * flat[i]
        return
    for c in range(target.shape[0]):
        for p in range(target.shape[1]):
            for d in range(target.shape[2]):
                out = target[c, p, d]
                for k in range(matrix.shape[0]):
                    a, source = factor * matrix[k, p], gradient[c, k, d]
                    if a != 0.0:
                        for i in range(out.size):
                            out[i] += a * source[i]


@jit(inline=True)
def _advance_three(w, s, bias, skip, z):  # type: ignore[no-untyped-def]
    """z ← s z + b + Σ_k w_k s(y + k): one channel and three taps in one pass."""
    w0, w1, w2 = w[0, 0, 0], w[0, 1, 0], w[0, 2, 0]
    for i in range(z.size):
        z[i] = skip * z[i] + bias[i] + w0[i] * s[i] + w1[i] * s[i + 1] + w2[i] * s[i + 2]


@jit(inline=True)
def _pull_three(padding, skip, w, first, g, out):  # type: ignore[no-untyped-def]
    """δ ← s δ + σ' 𝒦†δ for one channel and three untied taps (N >= 2)."""
    n = g.size
    w0, w1, w2 = w[0, 0, 0], w[0, 1, 0], w[0, 2, 0]
    right, after = w0[2:], g[2:]
    here, middle, between, o = w1[1:], g[1:], first[1:], out[1:]
    for i in range(n - 2):
        o[i] = skip * middle[i] + between[i] * (w2[i] * g[i] + here[i] * middle[i] + right[i] * after[i])
    low = w1[0] * g[0] + w0[1] * g[1]
    high = w1[n - 1] * g[n - 1] + w2[n - 2] * g[n - 2]
    if padding == CIRCULAR:
        low += w2[n - 1] * g[n - 1]
        high += w0[0] * g[0]
    elif padding == REFLECT:
        low += w0[0] * g[0]
        high += w2[n - 1] * g[n - 1]
    out[0] = skip * g[0] + first[0] * low
    out[n - 1] = skip * g[n - 1] + first[n - 1] * high


@jit(inline=True)
def _add_three(factor_w, factor_b, g, s, target, bias):  # type: ignore[no-untyped-def]
    """Gradients of one channel, one sample and three untied taps in one pass."""
    t0, t1, t2 = target[0, 0, 0], target[0, 1, 0], target[0, 2, 0]
    for i in range(g.size):
        q = factor_w * g[i]
        t0[i] += q * s[i]
        t1[i] += q * s[i + 1]
        t2[i] += q * s[i + 2]
        bias[i] += factor_b * g[i]


# Sweeps


@jit
def forward(first, last, kind, scale, padding, skip, matrix, theta, bias, z, tape, slopes, kept, work_w):  # type: ignore[no-untyped-def]
    """Move z from layer `first` to `last`, leaving σ(z) on the tape and z at checkpoints in `kept`."""
    channels, samples, cells = z.shape
    ring, reach = tape.shape[0], (tape.shape[3] - cells) // 2
    for m in range(first, last):
        if kept.shape[0] > 0 and m % ring == 0:
            _copy(z.reshape(-1), kept[m // ring].reshape(-1))
        w = theta[m]
        if matrix.size > 0:
            _form(matrix, theta[m], work_w)
            w = work_w
        t = tape[m % ring]
        for c in range(channels):
            for n in range(samples):
                value(kind, scale, z[c, n], t[c, n, reach : reach + cells])
                _fill_ghosts(padding, reach, t[c, n])
                if slopes.shape[0] > 0:
                    slope(kind, scale, z[c, n], slopes[m % ring, c, n])
        fused = channels == 1 and w.shape[1] == 3 and w.shape[3] > 1
        for n in range(samples):
            if fused:
                _advance_three(w, t[0, n], bias[m, 0], skip, z[0, n])
            else:
                for c in range(channels):
                    out, shift = z[c, n], bias[m, c]
                    for i in range(cells):
                        out[i] = skip * out[i] + shift[i]
                    for d in range(channels):
                        _gather(w, c, d, t[d, n], out)


@jit
def adjoint(  # type: ignore[no-untyped-def]
    first, last, kind, scale, padding, skip, matrix, theta, bias, delta, tape, slopes, work_w, work_g, pulled, row,
    factor_w, factor_b, fresh, start, target_w, target_b,
):  # fmt: skip
    """Move δ from layer `last` back to `first`; add factors times the gradients, layer m's at m − start of the targets.

    delta (2, C, B, N) holds δ[m] at m mod 2.   fresh : whether the targets' layers are zeroed before.
    """
    channels, samples, cells = delta.shape[1:]
    ring, reach = tape.shape[0], (tape.shape[3] - cells) // 2
    for m in range(last - 1, first - 1, -1):
        w = theta[m]
        if matrix.size > 0:
            _form(matrix, theta[m], work_w)
            w = work_w
        t, g, out = tape[m % ring], delta[(m + 1) % 2], delta[m % 2]
        fused = channels == 1 and w.shape[1] == 3 and w.shape[3] > 1
        if m > 0:  # nobody asks for the input's own
            for n in range(samples):
                if not fused:
                    pulled[:] = 0.0
                    for c in range(channels):
                        for d in range(channels):
                            _scatter(w, c, d, g[c, n], pulled[d])
                for c in range(channels):
                    steep = row
                    if from_value(kind):
                        slope_of_value(kind, scale, t[c, n, reach : reach + cells], row)
                    else:
                        steep = slopes[m % ring, c, n]
                    if fused:
                        _pull_three(padding, skip, w, steep, g[0, n], out[0, n])
                    else:
                        _fold(padding, reach, pulled[c])
                        inner, g_row, o = pulled[c, reach : reach + cells], g[c, n], out[c, n]
                        for i in range(cells):
                            o[i] = skip * g_row[i] + steep[i] * inner[i]
        if fresh:
            target_w[m - start] = 0.0
            target_b[m - start] = 0.0
        if samples == 1 and matrix.size == 0:
            if fused:
                _add_three(factor_w, factor_b, g[0, 0], t[0, 0], target_w[m - start], target_b[m - start, 0])
                continue
            for c in range(channels):
                g_row, shift = g[c, 0], target_b[m - start, c]
                for i in range(cells):
                    row[i] = factor_w * g_row[i]
                    shift[i] += factor_b * g_row[i]
                for d in range(channels):
                    _correlate(row, t[d, 0], c, d, target_w[m - start])
            continue
        work_g[:] = 0.0
        for c in range(channels):
            row[:] = 0.0
            for n in range(samples):
                g_row = g[c, n]
                for i in range(cells):
                    row[i] += g_row[i]
                for d in range(channels):
                    _correlate(g_row, t[d, n], c, d, work_g)
            shift = target_b[m - start, c]
            for i in range(cells):
                shift[i] += factor_b * row[i]
        _pull_back(matrix, work_g, factor_w, target_w[m - start])


# Layouts


def native(w: np.ndarray, b: np.ndarray, dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
    """θ and b of the package's layouts in this module's, as copies."""
    moved = w[..., None] if w.ndim == 4 else np.moveaxis(w, 1, -1)
    return np.array(moved, dtype, order="C"), np.array(b.transpose(0, 2, 1), dtype, order="C")


def restored(w: np.ndarray, b: np.ndarray, tied: bool) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `native`, in float64, as copies."""
    moved = w[..., 0] if tied else np.moveaxis(w, -1, 1)
    return np.array(moved, np.float64, order="C"), np.array(b.transpose(0, 2, 1), np.float64, order="C")


class Lane:
    """The arrays of one lane of samples.

    samples : which of the part's.   ring : layers on the tape.   kept : checkpoints.   gradients : whether an adjoint
    sweep will follow.
    """

    def __init__(
        self, theta: np.ndarray, b: np.ndarray, matrix: np.ndarray, samples: slice, ring: int, kept: int,
        from_value: bool, gradients: bool,
    ) -> None:  # fmt: skip
        _, channels, cells = b.shape
        taps = len(matrix) if matrix.size else theta.shape[2]
        count = samples.stop - samples.start
        shape = (channels, count, cells)
        self.samples = samples
        self.z = np.empty(shape, b.dtype)
        self.tape = np.empty((ring, channels, count, cells + 2 * (taps // 2)), b.dtype)
        self.slopes = np.empty((ring if gradients and not from_value else 0, *shape), b.dtype)
        self.kept = np.empty((kept, *shape), b.dtype)
        layer = (channels, taps, channels, theta.shape[-1])
        self.work_w = np.empty(layer if matrix.size else (0,) * 4, b.dtype)
        self.forward_arrays = self.z, self.tape, self.slopes, self.kept, self.work_w
        if gradients:
            self.delta = np.empty((2, *shape), b.dtype)
            self.work_g = np.empty(layer, b.dtype)
            self.pulled = np.empty((channels, cells + 2 * (taps // 2)), b.dtype)
            self.row = np.empty(cells, b.dtype)
            work = self.work_w, self.work_g, self.pulled, self.row
            self.adjoint_arrays = self.delta, self.tape, self.slopes, *work

    def put(self, z: np.ndarray) -> None:
        """Start from their z among z (N, C, B)."""
        self.z[...] = z[..., self.samples].transpose(1, 2, 0)

    def get(self, out: np.ndarray) -> None:
        """Write their z to `out` (N, C, B)."""
        out[..., self.samples] = self.z.transpose(2, 0, 1)

    def put_delta(self, delta: np.ndarray, m: int) -> None:
        """Start from their δ[m] among δ[m] (N, C, B)."""
        self.delta[m % 2] = delta[..., self.samples].transpose(1, 2, 0)
