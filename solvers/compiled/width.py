"""The width operator as taps, for compiled sweeps: (𝒦s)(y) = Σ_k t_k s(y + k), with its adjoints in s and in t.

One lane of samples at a time: padded values (n_y + 2K, C, L) and results (n_y, C, L), samples innermost, so that the
T·C inputs of a cell are one contiguous matrix. Three ways to take the same sums:

    PRODUCTS   (C × TC)(TC × L) by BLAS, cell by cell    taps (n_y or 1, C, T·C)
    ROWS       loops over the samples of the lane        taps (n_y or 1, C, T·C)
    FLAT       loops over y: one channel, one sample     taps (T, 1, n_y or 1)
"""

from __future__ import annotations

import numpy as np

from solvers.compiled import jit

PRODUCTS, ROWS, FLAT = range(3)
ZEROS, CIRCULAR, REFLECT = range(3)


@jit
def copy(source, out):  # type: ignore[no-untyped-def]
    """out = source, both contiguous; numba takes seconds to compile an assignment of arrays."""
    one, other = source.reshape(source.size), out.reshape(out.size)
    for i in range(one.size):
        other[i] = one[i]


@jit
def zero(out):  # type: ignore[no-untyped-def]
    """out = 0, contiguous."""
    flat = out.reshape(out.size)
    for i in range(flat.size):
        flat[i] = 0.0


@jit
def _add(source, out):  # type: ignore[no-untyped-def]
    one, other = source.reshape(source.size), out.reshape(out.size)
    for i in range(one.size):
        other[i] += one[i]


@jit
def ghosts(padded, reach, padding):  # type: ignore[no-untyped-def]
    """Set the K ghost rows at either end from the rows inside."""
    end = padded.shape[0] - reach
    for i in range(reach):
        if padding == ZEROS:
            zero(padded[i])
            zero(padded[end + i])
        elif padding == CIRCULAR:
            copy(padded[end - reach + i], padded[i])
            copy(padded[reach + i], padded[end + i])
        else:
            copy(padded[2 * reach - 1 - i], padded[i])
            copy(padded[end - 1 - i], padded[end + i])


@jit
def fold(full, reach, padding, out):  # type: ignore[no-untyped-def]
    """The adjoint of padding: every ghost row is added to the row that it was copied from."""
    n = out.shape[0]
    copy(full[reach : reach + n], out)
    for i in range(reach):
        if padding == CIRCULAR:
            _add(full[i], out[n - reach + i])
            _add(full[n + reach + i], out[i])
        elif padding == REFLECT:
            _add(full[i], out[reach - 1 - i])
            _add(full[n + reach + i], out[n - 1 - i])


@jit
def apply(way, taps, padded, y, out):  # type: ignore[no-untyped-def]
    """out = (𝒦s)(y) (C, L), or in the flat way at all y at once, out (n_y, 1)."""
    if way == FLAT:
        _apply_flat(taps, padded.reshape(padded.size), out.reshape(out.size))
        return
    channels, samples = out.shape
    count = taps.shape[2] // channels
    own = taps[y if taps.shape[0] > 1 else 0]
    if way == PRODUCTS:
        np.dot(own, padded[y : y + count].reshape(count * channels, samples), out)
        return
    for c in range(channels):
        row = out[c]
        zero(row)
        for k in range(count):
            for d in range(channels):
                weight, source = own[c, k * channels + d], padded[y + k, d]
                for i in range(samples):
                    row[i] += weight * source[i]


@jit
def mirror(taps, mirrored):  # type: ignore[no-untyped-def]
    """Tied taps of the adjoint as a product (C, T·C): A[d, v, c] = t[c, 2K−v, d]."""
    channels, width = mirrored.shape
    count = width // channels
    for v in range(count):
        at, source = v * channels, (count - 1 - v) * channels
        for c in range(channels):
            for d in range(channels):
                mirrored[d, at + c] = taps[0, c, source + d]


@jit
def adjoint_state(way, taps, mirrored, padded_g, full, spread, padding, out):  # type: ignore[no-untyped-def]
    """out = 𝒦† g, with g (n_y, C, L) in the middle of padded_g (n_y + 4K, C, L), between zeros that stay.

    mirrored : from `mirror` (PRODUCTS, tied).   full : room like padded values.   spread : room (T·C, L).
    """
    n, channels, samples = out.shape
    reach = (padded_g.shape[0] - n) // 4
    g = padded_g[2 * reach : 2 * reach + n]
    if way == FLAT:
        _spread_flat(taps, g.reshape(g.size), full.reshape(full.size))
        fold(full, reach, padding, out)
        return
    count = taps.shape[2] // channels
    tied = taps.shape[0] == 1
    if way == PRODUCTS:
        if tied and padding != REFLECT:  # no ghost row receives anything that is not known beforehand
            inner = padded_g[reach : 3 * reach + n]
            ghosts(inner, reach, padding)
            for y in range(n):
                np.dot(mirrored, inner[y : y + count].reshape(count * channels, samples), out[y])
            ghosts(inner, reach, ZEROS)
            return
        if tied:
            for p in range(n + 2 * reach):
                np.dot(mirrored, padded_g[p : p + count].reshape(count * channels, samples), full[p])
        else:
            zero(full)
            for y in range(n):
                np.dot(taps[y].T, g[y], spread)
                _add(spread, full[y : y + count])
    else:
        zero(full)
        for y in range(n):
            own = taps[0 if tied else y]
            for c in range(channels):
                source = g[y, c]
                for k in range(count):
                    for d in range(channels):
                        weight, row = own[c, k * channels + d], full[y + k, d]
                        for i in range(samples):
                            row[i] += weight * source[i]
    fold(full, reach, padding, out)


@jit
def adjoint_taps(way, padded, g, padded_rows, g_rows, product, taps_bar):  # type: ignore[no-untyped-def]
    """taps_bar += ∂/∂t of Σ g·𝒦s.

    padded_rows (C, (n_y + 2K)·L), g_rows (C, n_y·L), product (C, T·C) : room (PRODUCTS only).
    """
    if way == FLAT:
        _adjoint_taps_flat(padded.reshape(padded.size), g.reshape(g.size), taps_bar)
        return
    n, channels, samples = g.shape
    count = taps_bar.shape[2] // channels
    tied = taps_bar.shape[0] == 1
    if way == PRODUCTS and tied:
        _by_channel(g, g_rows)
        _by_channel(padded, padded_rows)
        _correlate(g_rows, padded_rows, samples, count, taps_bar[0])
        return
    for y in range(n):
        own = taps_bar[0 if tied else y]
        if way == PRODUCTS:
            np.dot(g[y], padded[y : y + count].reshape(count * channels, samples).T, product)
            for c in range(channels):
                for j in range(count * channels):
                    own[c, j] += product[c, j]
            continue
        for c in range(channels):
            row = g[y, c]
            for k in range(count):
                for d in range(channels):
                    source, total = padded[y + k, d], 0.0
                    for i in range(samples):
                        total += row[i] * source[i]
                    own[c, k * channels + d] += total


@jit
def _by_channel(values, rows):  # type: ignore[no-untyped-def]
    """(n, C, L) -> (C, n·L)."""
    n, channels, samples = values.shape
    for c in range(channels):
        row = rows[c]
        for y in range(n):
            source, part = values[y, c], row[y * samples : (y + 1) * samples]
            for i in range(samples):
                part[i] = source[i]


@jit
def _correlate(g, s, samples, count, out):  # type: ignore[no-untyped-def]
    """out[c, k·C + d] += Σ_i g[c, i] s[d, i + k·samples], two by four sums at a time, which stay in registers."""
    channels, length = g.shape
    most = channels - 1
    for k in range(count):
        first = k * samples
        last = first + length
        for c in range(0, channels, 2):
            two = c < most
            ga, gb = g[c], g[min(c + 1, most)]
            for d in range(0, channels, 4):
                s0, s1 = s[d, first:last], s[min(d + 1, most), first:last]
                s2, s3 = s[min(d + 2, most), first:last], s[min(d + 3, most), first:last]
                a0, a1, a2, a3, b0, b1, b2, b3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
                for i in range(length):
                    x, y = ga[i], gb[i]
                    p0, p1, p2, p3 = s0[i], s1[i], s2[i], s3[i]
                    a0 += x * p0
                    a1 += x * p1
                    a2 += x * p2
                    a3 += x * p3
                    b0 += y * p0
                    b1 += y * p1
                    b2 += y * p2
                    b3 += y * p3
                at = k * channels + d
                for j, (a, b) in enumerate(((a0, b0), (a1, b1), (a2, b2), (a3, b3))):
                    if d + j < channels:
                        out[c, at + j] += a
                        if two:
                            out[c + 1, at + j] += b


@jit
def _apply_flat(taps, s, out):  # type: ignore[no-untyped-def]
    count, n = taps.shape[0], out.size
    if taps.shape[2] == 1:
        zero(out)
        for k in range(count):
            weight, source = taps[k, 0, 0], s[k : k + n]
            for y in range(n):
                out[y] += weight * source[y]
    elif count == 3:  # one pass
        t0, t1, t2, s1, s2 = taps[0, 0], taps[1, 0], taps[2, 0], s[1 : n + 1], s[2 : n + 2]
        for y in range(n):
            out[y] = t0[y] * s[y] + t1[y] * s1[y] + t2[y] * s2[y]
    else:
        for k in range(count):
            own, source = taps[k, 0], s[k : k + n]
            for y in range(n):
                out[y] = own[y] * source[y] if k == 0 else out[y] + own[y] * source[y]


@jit
def _spread_flat(taps, g, full):  # type: ignore[no-untyped-def]
    """full = Σ_k t_k g at y + k, before folding."""
    count, n = taps.shape[0], g.size
    zero(full)
    for k in range(count):
        row = full[k : k + n]
        if taps.shape[2] == 1:
            weight = taps[k, 0, 0]
            for y in range(n):
                row[y] += weight * g[y]
        else:
            own = taps[k, 0]
            for y in range(n):
                row[y] += own[y] * g[y]


@jit
def _adjoint_taps_flat(s, g, taps_bar):  # type: ignore[no-untyped-def]
    n = g.size
    for k in range(taps_bar.shape[0]):
        source = s[k : k + n]
        if taps_bar.shape[2] == 1:
            total = 0.0
            for y in range(n):
                total += g[y] * source[y]
            taps_bar[k, 0, 0] += total
        else:
            row = taps_bar[k, 0]
            for y in range(n):
                row[y] += g[y] * source[y]
