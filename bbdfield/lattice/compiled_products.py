"""Sweeps of the network compiled around matrix products, for channels times kernels: BLAS on contiguous windows.

What `bbdfield.lattice.network` does in NumPy, for one lane of samples and in place. Samples are innermost:

    θ (M, N, C, P, C), tied (M, 1, C, P, C);  b (M, N, C);  z (N, C, B);  tape of σ(z) with ghosts (G, N+2K, C, B)

so that the T·C inputs of a cell are one contiguous matrix (T·C, B): a layer is N products with (C, T·C), the tied
adjoint N of the same size with the flipped kernel, the untied one N transposed products that are scattered. The tied
kernel's gradient sums over all cells and samples: dot products of long rows, eight at a time. For moments, the ring of
layers on the tape, and the targets of the adjoint sweep see `compiled_taps`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from solvers.compiled import jit
from solvers.compiled.activations import from_value, slope, slope_of_value, value

ZEROS, CIRCULAR, REFLECT = range(3)
#: whether kernels call BLAS, which must then keep to one thread
BLAS = True


@jit
def _copy(source, out):  # type: ignore[no-untyped-def]
    """An assignment of arrays, without the seconds that numba takes to compile its refusals."""
    a, o = source.reshape(-1), out.reshape(-1)
    for i in range(o.size):
        o[i] = a[i]


@jit
def _fill_ghosts(padding, reach, padded):  # type: ignore[no-untyped-def]
    """Set the K ghost cells at either end of `padded` (N + 2K, C, B)."""
    n = padded.shape[0] - 2 * reach
    for i in range(reach):
        if padding == ZEROS:
            padded[i] = 0.0
            padded[reach + n + i] = 0.0
        elif padding == CIRCULAR:
            _copy(padded[n + i], padded[i])
            _copy(padded[reach + i], padded[reach + n + i])
        else:
            _copy(padded[2 * reach - 1 - i], padded[i])
            _copy(padded[reach + n - 1 - i], padded[reach + n + i])


@jit
def _add(source, out):  # type: ignore[no-untyped-def]
    a, o = source.reshape(-1), out.reshape(-1)
    for i in range(o.size):
        o[i] += a[i]


@jit
def _fold(padding, reach, padded):  # type: ignore[no-untyped-def]
    """Add every ghost to the cell that it was copied from."""
    n = padded.shape[0] - 2 * reach
    if padding == CIRCULAR:
        for i in range(reach):
            _add(padded[i], padded[n + i])
        for i in range(reach):
            _add(padded[reach + n + i], padded[reach + i])
    elif padding == REFLECT:
        for i in range(reach):
            _add(padded[i], padded[2 * reach - 1 - i])
        for i in range(reach):
            _add(padded[reach + n + i], padded[reach + n - 1 - i])


@jit
def _form(matrix, theta, w):  # type: ignore[no-untyped-def]
    """w_k = Σ_p matrix[k, p] θ_p: w (N or 1, C, T, C), θ (N or 1, C, P, C)."""
    w[:] = 0.0
    for y in range(w.shape[0]):
        for c in range(w.shape[1]):
            for k in range(w.shape[2]):
                for p in range(matrix.shape[1]):
                    for d in range(w.shape[3]):
                        w[y, c, k, d] += matrix[k, p] * theta[y, c, p, d]


@jit
def _pull_back(matrix, gradient, factor, target):  # type: ignore[no-untyped-def]
    """target_p += factor Σ_k matrix[k, p] gradient_k, gradient (C, T·C); without a matrix, taps are the parameters."""
    if matrix.size == 0:
        flat, out = gradient.reshape(-1), target.reshape(-1)
        for i in range(out.size):
            out[i] += factor * flat[i]
        return
    channels = target.shape[0]
    for c in range(channels):
        for p in range(target.shape[1]):
            for k in range(matrix.shape[0]):
                for d in range(channels):
                    target[c, p, d] += factor * matrix[k, p] * gradient[c, k * channels + d]


@jit
def _flip(w, out):  # type: ignore[no-untyped-def]
    """The adjoint kernel out[c', (v, c)] = w[c, 2K − v, c'] of a tied one."""
    channels, taps, _ = w.shape
    for d in range(channels):
        for v in range(taps):
            for c in range(channels):
                out[d, v * channels + c] = w[c, taps - 1 - v, d]


@jit
def _channel_rows(values, out):  # type: ignore[no-untyped-def]
    """(N, C, B) to (C, N·B)."""
    cells, channels, samples = values.shape
    for c in range(channels):
        row = out[c]
        for y in range(cells):
            source, o = values[y, c], row[y * samples : (y + 1) * samples]
            for i in range(samples):
                o[i] = source[i]


@jit
def _row_products(g, s, samples, out):  # type: ignore[no-untyped-def]
    """out[c, (k, c')] = Σ_i g[c, i] s[c', k B + i], two rows of g by four of s in registers."""
    channels, n = g.shape
    count = out.shape[1]
    for c in range(0, channels, 2):
        e = min(c + 1, channels - 1)
        g0, g1 = g[c], g[e]
        j = 0
        while j + 4 <= count:
            k0, k1, k2, k3 = j // channels, (j + 1) // channels, (j + 2) // channels, (j + 3) // channels
            s0 = s[j - k0 * channels, k0 * samples : k0 * samples + n]
            s1 = s[j + 1 - k1 * channels, k1 * samples : k1 * samples + n]
            s2 = s[j + 2 - k2 * channels, k2 * samples : k2 * samples + n]
            s3 = s[j + 3 - k3 * channels, k3 * samples : k3 * samples + n]
            zero = g.dtype.type(0)
            a0, a1, a2, a3, b0, b1, b2, b3 = zero, zero, zero, zero, zero, zero, zero, zero
            for i in range(n):
                x, y = g0[i], g1[i]
                v0, v1, v2, v3 = s0[i], s1[i], s2[i], s3[i]
                a0 += x * v0
                a1 += x * v1
                a2 += x * v2
                a3 += x * v3
                b0 += y * v0
                b1 += y * v1
                b2 += y * v2
                b3 += y * v3
            out[c, j], out[c, j + 1], out[c, j + 2], out[c, j + 3] = a0, a1, a2, a3
            out[e, j], out[e, j + 1], out[e, j + 2], out[e, j + 3] = b0, b1, b2, b3
            j += 4
        while j < count:
            k0 = j // channels
            s0 = s[j - k0 * channels, k0 * samples : k0 * samples + n]
            zero = g.dtype.type(0)
            a0, b0 = zero, zero
            for i in range(n):
                a0 += g0[i] * s0[i]
                b0 += g1[i] * s0[i]
            out[c, j], out[e, j] = a0, b0
            j += 1


# Sweeps


@jit
def forward(first, last, kind, scale, padding, skip, matrix, theta, bias, z, tape, slopes, kept, work_w, product):  # type: ignore[no-untyped-def]
    """Move z from layer `first` to `last`, leaving σ(z) on the tape and z at checkpoints in `kept`."""
    cells, channels, samples = z.shape
    ring, reach = tape.shape[0], (tape.shape[1] - cells) // 2
    taps = 2 * reach + 1
    wide = taps * channels
    for m in range(first, last):
        if kept.shape[0] > 0 and m % ring == 0:
            _copy(z, kept[m // ring])
        w = theta[m]
        if matrix.size > 0:
            _form(matrix, theta[m], work_w)
            w = work_w
        t = tape[m % ring]
        value(kind, scale, z.reshape(-1), t[reach : reach + cells].reshape(-1))
        _fill_ghosts(padding, reach, t)
        if slopes.shape[0] > 0:
            slope(kind, scale, z.reshape(-1), slopes[m % ring].reshape(-1))
        kernel = w[0].reshape(channels, wide)
        for y in range(cells):
            if w.shape[0] > 1:
                kernel = w[y].reshape(channels, wide)
            np.dot(kernel, t[y : y + taps].reshape(wide, samples), product)
            for c in range(channels):
                out, more, shift = z[y, c], product[c], bias[m, y, c]
                for i in range(samples):
                    out[i] = skip * out[i] + more[i] + shift


@jit
def adjoint(  # type: ignore[no-untyped-def]
    first, last, kind, scale, padding, skip, matrix, theta, bias, delta, tape, slopes, work_w, flipped, pulled, part,
    g_rows, s_rows, work_g, row, factor_w, factor_b, fresh, start, target_w, target_b,
):  # fmt: skip
    """Move δ from layer `last` back to `first`; add factors times the gradients, layer m's at m − start of the targets.

    delta (N + 4K, C, B) has 2K cells of zeros at either end.   fresh : whether the targets' layers are zeroed before.
    """
    ring, reach = tape.shape[0], (delta.shape[0] - tape.shape[1]) // 2
    taps, cells = 2 * reach + 1, tape.shape[1] - 2 * reach
    channels, samples = delta.shape[1:]
    wide, tied = taps * channels, theta.shape[1] == 1
    g = delta[2 * reach : 2 * reach + cells]
    for m in range(last - 1, first - 1, -1):
        w = theta[m]
        if matrix.size > 0:
            _form(matrix, theta[m], work_w)
            w = work_w
        t = tape[m % ring]
        if m > 0:  # nobody asks for the input's own
            if tied:
                _flip(w[0], flipped)
                low = reach if padding == ZEROS else 0  # what falls outside is lost with zeros
                for p in range(low, cells + 2 * reach - low):
                    np.dot(flipped, delta[p : p + taps].reshape(wide, samples), pulled[p])
            else:
                pulled[:] = 0.0
                for y in range(cells):
                    np.dot(w[y].reshape(channels, wide).T, g[y], part)
                    _add(part, pulled[y : y + taps])
            _fold(padding, reach, pulled)
        if fresh:
            target_w[m - start] = 0.0
            target_b[m - start] = 0.0
        if tied:
            _channel_rows(g, g_rows)
            _channel_rows(t, s_rows)
            _row_products(g_rows, s_rows, samples, work_g)
            _pull_back(matrix, work_g, factor_w, target_w[m - start, 0])
        else:
            for y in range(cells):
                np.dot(g[y], t[y : y + taps].reshape(wide, samples).T, work_g)
                _pull_back(matrix, work_g, factor_w, target_w[m - start, y])
        for y in range(cells):
            for c in range(channels):
                total, values = g[y, c, 0], g[y, c]
                for i in range(1, samples):
                    total += values[i]
                target_b[m - start, y, c] += factor_b * total
        if m > 0:
            for y in range(cells):
                steep = row
                if from_value(kind):
                    slope_of_value(kind, scale, t[reach + y].reshape(-1), row)
                else:
                    steep = slopes[m % ring, y].reshape(-1)
                values, more = g[y].reshape(-1), pulled[reach + y].reshape(-1)
                for i in range(values.size):
                    values[i] = skip * values[i] + steep[i] * more[i]


# Layouts


def native(w: np.ndarray, b: np.ndarray, dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
    """θ and b of the package's layouts in this module's, as copies."""
    return np.array(w[:, None] if w.ndim == 4 else w, dtype, order="C"), np.array(b, dtype, order="C")


def restored(w: np.ndarray, b: np.ndarray, tied: bool) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `native`, in float64, as copies."""
    return np.array(w[:, 0] if tied else w, np.float64, order="C"), np.array(b, np.float64, order="C")


class Lane:
    """The arrays of one lane of samples.

    samples : which of the part's.   ring : layers on the tape.   kept : checkpoints.   gradients : whether an adjoint
    sweep will follow.
    """

    def __init__(
        self, theta: np.ndarray, b: np.ndarray, matrix: np.ndarray, samples: slice, ring: int, kept: int,
        from_value: bool, gradients: bool,
    ) -> None:  # fmt: skip
        _, cells, channels = b.shape
        taps = len(matrix) if matrix.size else theta.shape[3]
        reach, wide = taps // 2, taps * channels
        count = samples.stop - samples.start
        shape, padded = (cells, channels, count), (cells + 2 * reach, channels, count)
        self.samples = samples
        self.reach = reach
        self.z = np.empty(shape, b.dtype)
        self.tape = np.empty((ring, *padded), b.dtype)
        self.slopes = np.empty((ring if gradients and not from_value else 0, *shape), b.dtype)
        self.kept = np.empty((kept, *shape), b.dtype)
        self.work_w = np.empty((theta.shape[1], channels, taps, channels) if matrix.size else (0,) * 4, b.dtype)
        self.product = np.empty((channels, count), b.dtype)
        self.forward_arrays = self.z, self.tape, self.slopes, self.kept, self.work_w, self.product
        if gradients:
            self.delta = np.zeros((cells + 4 * reach, channels, count), b.dtype)
            self.flipped = np.empty((channels, wide), b.dtype)
            self.pulled = np.zeros(padded, b.dtype)
            self.part = np.empty((wide, count), b.dtype)
            self.g_rows = np.empty((channels, cells * count), b.dtype)
            self.s_rows = np.empty((channels, (cells + 2 * reach) * count), b.dtype)
            self.work_g = np.empty((channels, wide), b.dtype)
            self.row = np.empty(channels * count, b.dtype)
            work = self.flipped, self.pulled, self.part, self.g_rows, self.s_rows, self.work_g, self.row
            self.adjoint_arrays = self.delta, self.tape, self.slopes, self.work_w, *work

    def put(self, z: np.ndarray) -> None:
        """Start from their z among z (N, C, B)."""
        self.z[...] = z[..., self.samples]

    def get(self, out: np.ndarray) -> None:
        """Write their z to `out` (N, C, B)."""
        out[..., self.samples] = self.z

    def put_delta(self, delta: np.ndarray, m: int) -> None:
        """Start from their δ[m] among δ[m] (N, C, B)."""
        self.delta[2 * self.reach : len(self.delta) - 2 * self.reach] = delta[..., self.samples]
