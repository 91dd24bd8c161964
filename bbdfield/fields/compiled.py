"""The field's march in depth compiled for the CPU: the twin of `solvers.sweeps.DepthMarch`, which stays the reference.

A lane of samples goes through all cells and stages in one compiled call, forwards and back; lanes run in threads. The
tape keeps σ(ẑ) of every stage, F at order 1, and ẑ only where σ' does not follow from σ; with a checkpoint every k
cells it keeps ẑ there, and the tape of k cells, which is filled again segment by segment on the way back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bbdfield.model.activations import Activation
from bbdfield.model.regularisation import Regularised
from bbdfield.model.scalings.critical import CriticalOrder0, CriticalOrder1
from bbdfield.model.scalings.residual import ResidualOrder0, ResidualOrder1
from solvers.compiled import activations, jit
from solvers.compiled.width import (
    CIRCULAR,
    FLAT,
    PRODUCTS,
    REFLECT,
    ROWS,
    ZEROS,
    adjoint_state,
    adjoint_taps,
    apply,
    copy,
    ghosts,
    mirror,
    zero,
)
from solvers.grids import Grid
from solvers.sweeps import DepthScheme
from solvers.threads import run_lanes

RESIDUAL_0, RESIDUAL_1, CRITICAL_0, CRITICAL_1 = range(4)
_EQUATIONS: dict[type, int] = {
    ResidualOrder0: RESIDUAL_0,
    ResidualOrder1: RESIDUAL_1,
    CriticalOrder0: CRITICAL_0,
    CriticalOrder1: CRITICAL_1,
}
_PADDINGS = {"zeros": ZEROS, "circular": CIRCULAR, "reflect": REFLECT}

#: samples in a lane, and the most lanes (each has a gradient of its own): set by the problem, never by the threads
LANE, MOST_LANES = 16, 8
#: from this many channels on BLAS beats loops
PRODUCTS_FROM = 3


class Model(NamedTuple):
    """What is integrated: the equation, σ by its number, a_x/2, κ, and whether the tape keeps ẑ."""

    equation: int
    activation: int
    half: float
    kappa: float
    keeps_z: bool


class Geometry(NamedTuple):
    way: int
    reach: int
    padding: int


class Tableau(NamedTuple):
    """The depth scheme with its step, and for each stage the node of its coefficients in the cell."""

    a: Any
    b: Any
    node: Any
    per_cell: int
    h: float


class Work(NamedTuple):
    """What a lane needs besides its tape."""

    z: Any  # (n_y, C, L), and so the next three
    stage: Any
    total: Any
    one: Any
    k: Any  # (stages, n_y, C, L): slopes of the stages, or their cotangents
    p: Any  # (n_y + 2K, C, L), and so `full`
    full: Any
    padded_g: Any  # (n_y + 4K, C, L), zeros at either end: cotangents of G and of F
    padded_f: Any
    first: Any  # (n_y·C·L,): σ', σ''
    second: Any
    mirrored: Any  # (C, T·C): tied taps of the adjoint
    spread: Any  # (T·C, L)
    product: Any  # (C, T·C)
    g_rows: Any  # (C, n_y·L)
    padded_rows: Any  # (C, (n_y + 2K)·L)


class Tape(NamedTuple):
    """Per stage: σ(ẑ) padded, F, ẑ; of one entry where it is not needed."""

    s: Any
    f: Any
    z: Any


# ---- one stage: G and its adjoint, cell by cell (the flat way: all cells at once) so that values stay in the cache


@jit
def _add_bias(bias, out):  # type: ignore[no-untyped-def]
    """bias (C,) or, in the flat way, (n_y, 1)."""
    if out.shape[1] == 1:
        flat, own = out.reshape(out.size), bias.reshape(bias.size)
        for i in range(flat.size):
            flat[i] += own[i]
        return
    for c in range(out.shape[0]):
        value, row = bias[c, 0], out[c]
        for i in range(row.size):
            row[i] += value


@jit
def _add_sum(g, bias_bar):  # type: ignore[no-untyped-def]
    """bias_bar += Σ_samples g."""
    n, channels, samples = g.shape
    if channels == 1 and samples == 1:
        flat, own = g.reshape(g.size), bias_bar.reshape(bias_bar.size)
        for y in range(n):
            own[y] += flat[y]
        return
    for y in range(n):
        for c in range(channels):
            row, total = g[y, c], 0.0
            for i in range(samples):
                total += row[i]
            bias_bar[y, c] += total


@jit
def _slopes(kind, s, z, first, second):  # type: ignore[no-untyped-def]
    """σ', σ'' from σ where they follow from it, else from ẑ."""
    if kind == activations.TANH:
        for i in range(s.size):
            t = s[i]
            d = 1.0 - t * t
            first[i] = d
            second[i] = -2.0 * t * d
    elif activations.from_value(kind):  # relu, identity
        activations.slope_of_value(kind, 1.0, s, first)
        zero(second)
    else:
        activations.slopes(kind, 1.0, z, first, second)


@jit
def _second_argument(model, scale, z, s, f, first, second, p):  # type: ignore[no-untyped-def]
    """scale · what 𝒦 acts on in the second place at order 1: p = σ'F, or a_x κ ẑ³ + (a_x/2) F."""
    if model.equation == CRITICAL_1:
        cubic, linear = scale * 2.0 * model.half * model.kappa, scale * model.half
        for i in range(p.size):
            p[i] = cubic * z[i] * z[i] * z[i] + linear * f[i]
    elif model.activation == activations.TANH:
        for i in range(p.size):
            p[i] = scale * (1.0 - s[i] * s[i]) * f[i]
    else:
        _slopes(model.activation, s, z, first, second)
        for i in range(p.size):
            p[i] = scale * first[i] * f[i]


@jit
def _stage(model, geometry, taps, bias, z, s, f, work, out):  # type: ignore[no-untyped-def]
    """out = G(ẑ); writes s = σ(ẑ) padded and, at order 1, f = F."""
    n, channels, samples = z.shape
    way, reach, padding, kappa = geometry.way, geometry.reach, geometry.padding, model.kappa
    size = z.size
    blocks = 1 if way == FLAT else n
    step, rows = size // blocks, n // blocks
    flat_z, flat_out = z.reshape(size), out.reshape(size)
    flat_s = s[reach : reach + n].reshape(size)
    if model.equation >= CRITICAL_0:
        copy(flat_z, flat_s)
    else:
        activations.value(model.activation, 1.0, flat_z, flat_s)
    ghosts(s, reach, padding)
    first_order = model.equation == RESIDUAL_1 or model.equation == CRITICAL_1
    flat_f, flat_p = f.reshape(f.size), work.p[reach : reach + n].reshape(size)
    for y in range(blocks):
        here = slice(y * step, (y + 1) * step)
        block = flat_out[here].reshape(rows * channels, samples)
        apply(way, taps, s, y, block)
        _add_bias(bias[y * rows : (y + 1) * rows].reshape(rows * channels, 1), block)
        own_z, own = flat_z[here], flat_out[here]
        if model.equation >= CRITICAL_0:
            for i in range(step):
                own[i] -= kappa * own_z[i] * own_z[i] * own_z[i]
        if first_order:
            copy(own, flat_f[here])
            _second_argument(model, 1.0, own_z, flat_s[here], own, work.first[:step], work.second[:step], flat_p[here])
    if not first_order:
        return
    ghosts(work.p, reach, padding)
    flat_k = work.one.reshape(size)[:step]
    for y in range(blocks):
        here = slice(y * step, (y + 1) * step)
        apply(way, taps, work.p, y, flat_k.reshape(rows * channels, samples))
        own_z, own = flat_z[here], flat_out[here]
        if model.equation == RESIDUAL_1:
            half = model.half
            for i in range(step):
                own[i] -= half * flat_k[i]
        else:
            twice = 2.0 * model.half * kappa
            for i in range(step):
                square = own_z[i] * own_z[i]
                local = twice * square * (1.2 * kappa * square * own_z[i] + 1.5 * own[i])
                own[i] += local - flat_k[i]


@jit
def _stage_adjoint(model, geometry, taps, s, f, z, work, out, taps_bar, bias_bar):  # type: ignore[no-untyped-def]
    """out = gᵀ∂G/∂ẑ for g in the middle of work.padded_g; adds gᵀ∂G/∂(t, b̂) to taps_bar and bias_bar.

    `z` is read where σ' does not follow from σ.
    """
    n, size = out.shape[0], out.size
    way, reach, padding = geometry.way, geometry.reach, geometry.padding
    kappa, half, equation = model.kappa, model.half, model.equation
    g, f_bar = work.padded_g[2 * reach : 2 * reach + n], work.padded_f[2 * reach : 2 * reach + n]
    flat_g, flat_out, one = g.reshape(size), out.reshape(size), work.one.reshape(size)
    flat_s, flat_z = s[reach : reach + n].reshape(size), z.reshape(z.size)
    first, second = work.first, work.second
    if way == PRODUCTS and len(taps) == 1:
        mirror(taps, work.mirrored)
    if equation == RESIDUAL_0 or equation == CRITICAL_0:
        adjoint_state(way, taps, work.mirrored, work.padded_g, work.full, work.spread, padding, out)
        if equation == CRITICAL_0:
            for i in range(size):
                flat_out[i] -= 3.0 * kappa * flat_s[i] * flat_s[i] * flat_g[i]
        elif model.activation == activations.TANH:
            for i in range(size):
                flat_out[i] *= 1.0 - flat_s[i] * flat_s[i]
        else:
            _slopes(model.activation, flat_s, flat_z, first, second)
            for i in range(size):
                flat_out[i] *= first[i]
        adjoint_taps(way, s, g, work.padded_rows, work.g_rows, work.product, taps_bar)
        _add_sum(g, bias_bar)
        return
    # 𝒦[ŵ] in the second place comes with the factor `scale`: ∂/∂p = scale · 𝒦†g
    scale = -half if equation == RESIDUAL_1 else -1.0
    flat_f, flat_f_bar = f.reshape(size), f_bar.reshape(size)
    adjoint_state(way, taps, work.mirrored, work.padded_g, work.full, work.spread, padding, work.one)
    if equation == CRITICAL_1:
        for i in range(size):
            one[i] *= scale
            flat_f_bar[i] = flat_g[i] + 3.0 * half * kappa * flat_s[i] * flat_s[i] * flat_g[i] + half * one[i]
    else:
        _slopes(model.activation, flat_s, flat_z, first, second)
        for i in range(size):
            one[i] *= scale
            flat_f_bar[i] = flat_g[i] + first[i] * one[i]
    adjoint_state(way, taps, work.mirrored, work.padded_f, work.full, work.spread, padding, out)
    if equation == CRITICAL_1:
        for i in range(size):
            u = flat_s[i]
            square = u * u
            linear = 6.0 * half * kappa * square * one[i] - 3.0 * kappa * square * flat_f_bar[i]
            flat_out[i] += linear + 6.0 * half * kappa * u * (2.0 * kappa * u * square + flat_f[i]) * flat_g[i]
    else:
        for i in range(size):
            flat_out[i] = first[i] * flat_out[i] + second[i] * flat_f[i] * one[i]
    adjoint_taps(way, s, f_bar, work.padded_rows, work.g_rows, work.product, taps_bar)
    _add_sum(f_bar, bias_bar)
    flat_p = work.p[reach : reach + n].reshape(size)
    own_z = flat_s if equation == CRITICAL_1 else flat_z
    _second_argument(model, scale, own_z, flat_s, flat_f, first, second, flat_p)
    ghosts(work.p, reach, padding)
    adjoint_taps(way, work.p, g, work.padded_rows, work.g_rows, work.product, taps_bar)


# ---- the march


@jit
def _project(projection, values, spare):  # type: ignore[no-untyped-def]
    """values ← P values; an empty P is none."""
    if projection.size:
        n = values.shape[0]
        np.dot(projection, values.reshape(n, values.size // n), spare.reshape(n, values.size // n))
        copy(spare, values)


@jit
def _forward(model, geometry, tableau, projection, taps, bias, tape, work, first, last, keep, sites):  # type: ignore[no-untyped-def]
    """March work.z from site `first` to `last`; `keep` fills the tape, `sites` (if not empty) takes ẑ at each site."""
    z, stage, k, h = work.z, work.stage, work.k, tableau.h
    flat_z, flat_stage, size = z.reshape(z.size), stage.reshape(z.size), z.size
    stages = tableau.b.size
    for cell in range(first, last):
        for i in range(stages):
            begun = False
            for j in range(i):
                weight, slope = h * tableau.a[i, j], k[j].reshape(size)
                if weight == 0.0:
                    continue
                if begun:
                    for x in range(size):
                        flat_stage[x] += weight * slope[x]
                else:
                    for x in range(size):
                        flat_stage[x] = flat_z[x] + weight * slope[x]
                begun = True
            at_stage = stage if begun else z
            at = (cell - first) * stages + i if keep else 0
            node = tableau.per_cell * cell + tableau.node[i]
            _stage(model, geometry, taps[node], bias[node], at_stage, tape.s[at], tape.f[at % len(tape.f)], work, k[i])
            if model.keeps_z:
                copy(at_stage, tape.z[at])
            _project(projection, k[i], work.one)
        for i in range(stages):
            weight, slope = h * tableau.b[i], k[i].reshape(size)
            if weight != 0.0:
                for x in range(size):
                    flat_z[x] += weight * slope[x]
        if sites.size:
            copy(z, sites[cell + 1])


@jit
def _adjoint(model, geometry, tableau, projection, taps, tape, work, lam, first, last, taps_bar, bias_bar):  # type: ignore[no-untyped-def]
    """λ from site `last` back to `first`, in place; adds the cotangents of taps and biases at their nodes."""
    h, cotangents, total = tableau.h, work.k, work.total
    size, stages = lam.size, tableau.b.size
    margin = (work.padded_g.shape[0] - lam.shape[0]) // 2
    g = work.padded_g[margin : margin + lam.shape[0]]
    flat_lam, flat_g, flat_total = lam.reshape(size), g.reshape(size), total.reshape(size)
    for cell in range(last - 1, first - 1, -1):
        copy(lam, total)
        for i in range(stages - 1, -1, -1):
            weight, used = h * tableau.b[i], tableau.b[i] != 0.0
            for j in range(i + 1, stages):
                other, cotangent = h * tableau.a[j, i], cotangents[j].reshape(size)
                if other != 0.0:
                    if used and weight == 0.0:
                        for x in range(size):
                            flat_g[x] += other * cotangent[x]
                    else:
                        for x in range(size):
                            flat_g[x] = weight * flat_lam[x] + other * cotangent[x]
                    weight, used = 0.0, True
            if weight != 0.0:
                for x in range(size):
                    flat_g[x] = weight * flat_lam[x]
            out = cotangents[i].reshape(size)
            if not used:
                zero(out)
                continue
            _project(projection, g, work.one)
            at = (cell - first) * stages + i
            node = tableau.per_cell * cell + tableau.node[i]
            _stage_adjoint(
                model,
                geometry,
                taps[node],
                tape.s[at],
                tape.f[at % len(tape.f)],
                tape.z[at % len(tape.z)],
                work,
                cotangents[i],
                taps_bar[node],
                bias_bar[node],
            )
            for x in range(size):
                flat_total[x] += out[x]
        copy(total, lam)


@jit
def _to_taps(w, stencil, way, taps):  # type: ignore[no-untyped-def]
    """t_k = Σ_p stencil[k, p] ŵ_p; w (nodes, n_y or 1, C, P, C)."""
    nodes, n, channels, components, _ = w.shape
    zero(taps)
    for node in range(nodes):
        for k in range(stencil.shape[0]):
            for p in range(components):
                weight = stencil[k, p]
                if weight == 0.0:
                    continue
                for y in range(n):
                    if way == FLAT:
                        taps[node, k, 0, y] += weight * w[node, y, 0, p, 0]
                        continue
                    for c in range(channels):
                        for d in range(channels):
                            taps[node, y, c, k * channels + d] += weight * w[node, y, c, p, d]


@jit
def _from_taps(taps_bar, stencil, way, w_bar):  # type: ignore[no-untyped-def]
    """w_bar_p += Σ_k stencil[k, p] t_bar_k."""
    nodes, n, channels, components, _ = w_bar.shape
    for node in range(nodes):
        for k in range(stencil.shape[0]):
            for p in range(components):
                weight = stencil[k, p]
                if weight == 0.0:
                    continue
                for y in range(n):
                    if way == FLAT:
                        w_bar[node, y, 0, p, 0] += weight * taps_bar[node, k, 0, y]
                        continue
                    for c in range(channels):
                        for d in range(channels):
                            w_bar[node, y, c, p, d] += weight * taps_bar[node, y, c, k * channels + d]


class _Lane:
    """One lane's arrays."""

    def __init__(self, march: CompiledMarch, channels: int, samples: int, nodes: tuple[int, ...]) -> None:
        n, reach, dtype = march.grid.n_y, march.reach, march.dtype
        taps = 2 * reach + 1
        shape, padded = (n, channels, samples), (n + 2 * reach, channels, samples)

        def room(*shape: int) -> np.ndarray:
            return np.zeros(shape, dtype)

        stages = len(march.scheme.b)
        entries = min(march.segment, march.grid.n_x) * stages
        arrays = {name: room(*shape) for name in ("z", "stage", "total", "one")}
        arrays |= {name: room(*padded) for name in ("p", "full")}
        arrays |= {name: room(n + 4 * reach, channels, samples) for name in ("padded_g", "padded_f")}
        arrays |= {name: room(n * channels * samples) for name in ("first", "second")}
        self.work = Work(
            **arrays,
            k=room(stages, *shape),
            mirrored=room(channels, taps * channels),
            spread=room(taps * channels, samples),
            product=room(channels, taps * channels),
            g_rows=room(channels, n * samples),
            padded_rows=room(channels, (n + 2 * reach) * samples),
        )
        self.tape = Tape(
            s=room(entries, *padded),
            f=room(entries if march.model.equation in (RESIDUAL_1, CRITICAL_1) else 1, *shape),
            z=room(entries if march.model.keeps_z else 1, *shape),
        )
        segments = -(-march.grid.n_x // march.segment)
        self.checkpoints = room(segments, *shape)
        self.lam = room(*shape)
        self.taps_bar, self.bias_bar = room(*nodes), room(nodes[0], n, channels)


class CompiledMarch:
    """One scheme on one grid for one bulk equation, with the methods of a march: forward, adjoint, sites.

    Parameters
    ----------
    equation : a bulk equation that has compiled code, see `unsupported`.
    stencil : (T, P), taps of the width operator per component of ŵ.
    checkpoint : cells between kept ẑ; 0 keeps the whole tape.
    """

    def __init__(
        self,
        equation: Any,
        grid: Grid,
        scheme: DepthScheme,
        stencil: np.ndarray,
        *,
        tied: bool,
        padding: str,
        precision: str = "float64",
        checkpoint: int = 0,
    ) -> None:
        self.dtype = np.dtype(precision)
        projection = np.zeros((0, 0))
        if isinstance(equation, Regularised):
            projection, equation = np.asarray(equation.projection), equation.inner
        self.projection = np.ascontiguousarray(projection, self.dtype)
        self.grid, self.scheme, self.tied = grid, scheme, tied
        self.stencil = np.asarray(stencil, self.dtype)
        self.reach = len(stencil) // 2
        # of kernels: a factor, and no change of layout
        self._multiple = np.array_equal(stencil, stencil[0, 0] * np.eye(*stencil.shape))
        self.padding = _PADDINGS[padding]
        self.segment = checkpoint or grid.n_x
        kind = _EQUATIONS[type(equation)]
        activation = getattr(equation, "activation", None)
        half = getattr(equation, "half", 0.5 * getattr(equation, "a_x", 0.0))
        name = "identity" if activation is None else activation.name
        keeps_z = kind < CRITICAL_0 and not activations.from_value(activations.KINDS[name])
        self.model = Model(kind, activations.KINDS[name], half, getattr(equation, "kappa", 0.0), keeps_z)
        stages = len(scheme.b)
        a = np.zeros((stages, stages))
        for i, row in enumerate(scheme.a):
            a[i, : len(row)] = row
        node = np.array(scheme.nodes) if scheme.nodal else np.zeros(stages, int)
        self.tableau = Tableau(a, np.array(scheme.b), node, 2 if scheme.nodal else 1, grid.h_x)
        self._lanes: dict[tuple[int, ...], list[_Lane]] = {}
        self._last: tuple[Any, ...] = ()
        self._buffer = np.empty((0, 0, 0, 0), self.dtype)
        self._w_bar = np.empty(0, self.dtype)

    def way(self, channels: int, samples: int) -> int:
        if channels == samples == 1:
            return FLAT
        return PRODUCTS if channels >= PRODUCTS_FROM else ROWS

    # coefficients

    def _taps(self, w: np.ndarray, way: int) -> np.ndarray:
        """ŵ at the nodes (nodes, [n_y,] C, P, C) -> taps (nodes, n_y or 1, C, T·C), or (nodes, T, 1, n_y or 1)."""
        channels, components = w.shape[-1], w.shape[-2]
        each = w.reshape(len(w), -1, channels, components, channels)
        count = len(self.stencil)
        shape = (len(w), each.shape[1], channels, count * channels)
        if way == FLAT:
            shape = (len(w), count, 1, each.shape[1])
        if self._buffer.shape != shape:
            self._buffer = np.empty(shape, self.dtype)
        if way != FLAT and self._multiple:
            np.multiply(w.reshape(shape), self.stencil[0, 0], out=self._buffer)
        else:
            _to_taps(each, self.stencil, way, self._buffer)
        return self._buffer

    def _weights(self, taps_bar: np.ndarray, like: np.ndarray, way: int) -> np.ndarray:
        """The adjoint of `_taps`."""
        if self._w_bar.shape != like.shape:
            self._w_bar = np.empty(like.shape, self.dtype)
        w_bar = self._w_bar
        if way != FLAT and self._multiple:
            return np.multiply(taps_bar.reshape(like.shape), self.stencil[0, 0], out=w_bar)
        w_bar[...] = 0.0
        each = w_bar.reshape(len(like), -1, *like.shape[-3:])
        _from_taps(taps_bar, self.stencil, way, each)
        return w_bar

    # the march

    def _prepare(self, z0: np.ndarray, nodes: tuple[np.ndarray, np.ndarray]) -> tuple[list[_Lane], int, np.ndarray]:
        channels, samples = z0.shape[1:]
        lanes = max(1, min(MOST_LANES, -(-samples // LANE)))
        way = self.way(channels, samples)
        taps = self._taps(nodes[0], way)
        key = (channels, samples)
        if key not in self._lanes:
            if len(self._lanes) == 2:  # a full batch's, and the last one's
                del self._lanes[next(iter(self._lanes))]
            cuts = [len(part) for part in np.array_split(np.arange(samples), lanes)]
            self._lanes[key] = [_Lane(self, channels, count, taps.shape) for count in cuts]
        return self._lanes[key], way, taps

    def _run(self, lanes: list[_Lane], call: Any) -> None:
        ends = np.cumsum([lane.lam.shape[-1] for lane in lanes])
        run_lanes(call, [(lane, slice(end - lane.lam.shape[-1], end)) for lane, end in zip(lanes, ends, strict=True)])

    def forward(self, z0: np.ndarray, nodes: tuple[np.ndarray, np.ndarray], keep: bool = True) -> np.ndarray:
        """ẑ(L_x), (n_y, C, B), from ẑ(0) and the coefficients at the nodes; `keep` prepares `adjoint`."""
        return self._march(z0, nodes, keep, np.zeros((0, *z0.shape), self.dtype))[0]

    def sites(self, z0: np.ndarray, nodes: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """ẑ at all sites (n_x + 1, n_y, C, B)."""
        return self._march(z0, nodes, False, np.empty((self.grid.n_x + 1, *z0.shape), self.dtype))[1]

    def _march(
        self, z0: np.ndarray, nodes: tuple[np.ndarray, np.ndarray], keep: bool, sites: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        lanes, way, taps = self._prepare(z0, nodes)
        geometry, bias, end = Geometry(way, self.reach, self.padding), nodes[1], np.empty(z0.shape, self.dtype)
        own = (self.model, geometry, self.tableau, self.projection, taps, np.ascontiguousarray(bias))
        n_x, segment = self.grid.n_x, self.segment

        def march(lane: _Lane, part: slice) -> None:
            z, here = lane.work.z, np.empty((len(sites), *lane.lam.shape), self.dtype)
            z[...] = z0[..., part]
            for index, first in enumerate(range(0, n_x, segment)):
                lane.checkpoints[index] = z
                last = min(first + segment, n_x)
                _forward(*own, lane.tape, lane.work, first, last, keep and last == n_x, here)
            end[..., part] = z
            if len(sites):
                here[0] = z0[..., part]
                sites[..., part] = here

        self._run(lanes, march)
        self._last = (lanes, own, nodes[0]) if keep else ()
        return end, sites

    def adjoint(self, lam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cotangents of ŵ and b̂ at the nodes, summed over samples, for λ on the last site of the last `forward`.

        They are valid until the next call.

        Raises
        ------
        ValueError
            without a `forward` of its own: the tape serves once.
        """
        if not self._last:
            raise ValueError("adjoint needs a forward march that kept its tape")
        lanes, own, w = self._last
        self._last = ()
        n_x, segment = self.grid.n_x, self.segment
        none = np.zeros((0, *lanes[0].lam.shape), self.dtype)

        def back(lane: _Lane, part: slice) -> None:
            lane.lam[...] = lam[..., part]
            lane.taps_bar[...] = 0.0
            lane.bias_bar[...] = 0.0
            for index, first in reversed(list(enumerate(range(0, n_x, segment)))):
                last = min(first + segment, n_x)
                if last < n_x:  # only the tape of the last segment is left from going forwards
                    lane.work.z[...] = lane.checkpoints[index]
                    _forward(*own, lane.tape, lane.work, first, last, True, none)
                _adjoint(*own[:5], lane.tape, lane.work, lane.lam, first, last, lane.taps_bar, lane.bias_bar)

        self._run(lanes, back)
        taps_bar, bias_bar = lanes[0].taps_bar, lanes[0].bias_bar
        for lane in lanes[1:]:
            taps_bar += lane.taps_bar
            bias_bar += lane.bias_bar
        return self._weights(taps_bar, w, own[1].way), bias_bar


def unsupported(equation: Any) -> str | None:
    """Why there is no compiled march for this equation; None if there is one."""
    inner = equation.inner if isinstance(equation, Regularised) else equation
    if type(inner) not in _EQUATIONS:
        return "no compiled march for this scaling"
    activation: Activation | None = getattr(inner, "activation", None)
    if activation is not None and not activations.known(activation.name):
        return f"no compiled code for the activation '{activation.name}'"
    return None
