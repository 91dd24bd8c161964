"""How far a network is from sets of parameters that no gradient leaves, along training and in recorded runs.

The sets are those of `bbdfield.observables.ties`: equal, opposite, zero and proportional neurons or channels (Zhao,
Luo, Zhang, arXiv 2510.09564). Neurons that come together along training, their condensation, move towards them.

Fields have one more: what does not depend on y. With circular padding, inputs without y, ŵ and b̂ without y, and of
the readout's modes only the first, ẑ and λ do not depend on y either, nor do the gradients (derived here).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from bbdfield.errors import InputError
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import FieldState, Lattice, Training
from bbdfield.model.run import Run, System
from bbdfield.model.units import LatticeState, to_field
from bbdfield.observables.observed import Observed
from bbdfield.observables.ties import KINDS, Parameters, holds_for, is_joint, of_lattice
from solvers.grids import Grid

Array = npt.NDArray[np.float64]


def neurons_of(w: Sequence[Array], b: Sequence[Array] | None, layer: int, parts: str = "full") -> Array:
    """The neurons of a hidden layer as rows: (w, b) for parts = "inputs", (a, w, b) for "full"."""
    columns = [w[layer]] + ([] if b is None else [b[layer][:, None]])
    if parts == "full":
        columns.insert(0, w[layer + 1].T)
    return np.concatenate(columns, axis=1)


# condensation


def cosines(neurons: Array) -> Array:
    """Cosines of the angles between rows, (n, n); 0 where one of them vanishes."""
    norms = np.linalg.norm(neurons, axis=1, keepdims=True)
    unit = np.divide(neurons, norms, out=np.zeros_like(neurons), where=norms > 0)
    return np.clip(unit @ unit.T, -1.0, 1.0)


def directions(neurons: Array) -> float:
    """How many lines n neurons point along: n²/Σ cos², from 1 (all parallel or antiparallel) to n (all orthogonal)."""
    found = cosines(neurons)
    total = float(np.sum(found**2))
    return len(found) ** 2 / total if total > 0 else 0.0


def pair_distances(neurons: Array, kind: str = "equal") -> Array:
    """Distance of every pair of rows to the manifold of a kind, divided by the pair's norm: (n, n), diagonal 0.

        equal, opposite   |v_i ∓ v_j| / √2
        proportional      the least over c > 0 of |v_i − c v_j| / √(1 + c²)

    all over √(|v_i|² + |v_j|²); 0 is on the manifold. Pairs of zeros are on all of them.
    """
    squares = np.sum(neurons**2, axis=1)
    sizes = squares[:, None] + squares[None, :]
    factors = np.full(sizes.shape, -1.0 if kind == "opposite" else 1.0)
    apart = np.zeros(sizes.shape, bool)
    if kind == "proportional":
        products = neurons @ neurons.T
        apart = products <= 0
        factors = _best_factor(squares[:, None], squares[None, :], np.where(apart, 1.0, products))
    found = np.empty(sizes.shape)
    for i, row in enumerate(factors):
        found[i] = np.sum((neurons[i] - row[:, None] * neurons) ** 2, axis=1) / (1 + row**2)
    found = np.where(apart, np.minimum(squares[:, None], squares[None, :]), found)
    found = np.sqrt(np.divide(found, sizes, out=np.zeros_like(found), where=sizes > 0))
    np.fill_diagonal(found, 0.0)
    return found


def _best_factor(aa: Any, bb: Any, ab: Any) -> Any:
    """c > 0 of the line (c, 1) nearest to two vectors with these products, ab > 0."""
    # from the larger eigenvector of [[aa, ab], [ab, bb]]
    half = 0.5 * (aa - bb)
    return (half + np.hypot(half, ab)) / ab


# lattices and fields


def _weighted(state: FieldState, lift: Array) -> dict[str, Any]:
    """Fields times the root of their cells, so that sums of squares are ∫|ŵ|² + ∫|b̂|² + |R|² + |E|² on any grid."""
    lattice, grid = state.lattice, state.grid
    cell = grid.h_x * lattice.range.cell(grid.h_y) * (1.0 if lattice.range.tied else grid.h_y)
    fields = {"w": np.sqrt(cell) * state.w, "b": np.sqrt(grid.h_x * grid.h_y) * state.b, "r": np.asarray(state.r)}
    return of_lattice(fields, lift)


def channel_distances(state: FieldState, lift: Array, kind: str, site: int | None = None) -> Array:
    """Distance of every pair of channels to the manifold of a kind, divided by the pair's norm: (C, C), diagonal 0.

    Norms are those of the fields, ∫|ŵ|² + ∫|b̂|² + |R|² + |E|², on any grid. site : of a plain lattice, 1 … M. For
    "zero": the share (C,) of every channel in the mean square of all, √(C |v_c|²/Σ|v|²), 0 for a zero channel.
    """
    parameters = _weighted(state, lift)
    if site is not None:
        neurons = _neurons_of_site(parameters, site)
        if kind == "zero":
            return _shares(np.sqrt(np.sum(neurons**2, axis=1)))
        return pair_distances(neurons, kind)
    count = state.lattice.channels
    rows = [_channel(parameters, c) for c in range(count)]
    squares = np.array([sum(float(np.vdot(part, part)) for part in parts) for parts in rows])
    if kind == "zero":
        return _shares(np.sqrt(squares))
    found = np.zeros((count, count))
    for i, j in combinations(range(count), 2):
        found[i, j] = found[j, i] = _joint_distance(parameters, rows, squares, i, j, kind)
    return found


def _shares(norms: Array) -> Array:
    mean = float(np.sqrt(np.mean(norms**2)))
    return norms / mean if mean > 0 else norms


def _neurons_of_site(parameters: Parameters, site: int) -> Array:
    """The channels of a plain lattice's site as rows (a, w, b)."""
    depth = len(parameters["w"])
    out = np.moveaxis(parameters["r"][0], 1, 0) if site == depth else np.moveaxis(parameters["w"][site], -1, 0)
    w, b = np.moveaxis(parameters["w"][site - 1], -3, 0), np.moveaxis(parameters["b"][site - 1], -1, 0)
    return np.concatenate([part.reshape(len(part), -1) for part in (out, w, b)], axis=1)


def _channel(parameters: Parameters, c: int) -> list[Array]:
    """All that belongs to a channel: rows and columns of every layer (the weight c, c once), b, R, E."""
    w, b = parameters["w"], parameters["b"]
    column = np.array(w[..., c])
    column[..., c, :] = 0.0
    return [w[..., c, :, :], column, b[..., c], parameters["r"][0][:, c], parameters["lift"][0][c]]


def _joint_distance(
    parameters: Parameters, rows: list[list[Array]], squares: Array, i: int, j: int, kind: str
) -> float:
    """Distance of two channels, tied through all depths, over the norm of all that belongs to them."""
    w = parameters["w"]
    between = float(np.sum(w[..., i, :, j] ** 2) + np.sum(w[..., j, :, i] ** 2))
    size = float(squares[i] + squares[j]) - between  # which belongs to both
    if size <= 0:
        return 0.0
    s = -1.0 if kind == "opposite" else 1.0
    if kind == "proportional":
        product = sum(float(np.vdot(x, y)) for x, y in zip(rows[i], rows[j], strict=True))
        if product <= 0:
            return float(np.sqrt(min(squares[i], squares[j]) / size))
        s = float(_best_factor(squares[i], squares[j], product))
    norm = 1 + s * s
    w_i, w_j = w[..., i, :, :], w[..., j, :, :]
    columns = w[..., i] - s * w[..., j]
    columns[..., [i, j], :] = 0.0  # which come after rows i and j are tied, to their common row
    common = (s * w_i + w_j) / norm
    across = [w_i - s * w_j, columns, parameters["b"][..., i] - s * parameters["b"][..., j]]
    for name, axis in (("r", 1), ("lift", 0)):
        first, other = (parameters[name][0].take(k, axis=axis) for k in (i, j))
        across.append(first - s * other)
    total = sum(float(np.vdot(part, part)) for part in across) / norm
    total += float(np.sum((common[..., i] - s * common[..., j]) ** 2))
    return float(np.sqrt(total / size))


# what does not depend on y


def translation_distance(state: Mapping[str, Array], tied: bool) -> float:
    """Distance of (w, b, r) from what does not depend on y, divided by their norm.

    Across stand b and, untied, w minus their means over y, and all modes of the readout but the first.
    """
    w, b, r = state["w"], state["b"], state["r"]
    across = float(np.sum((b - b.mean(axis=1, keepdims=True)) ** 2)) + float(np.sum(r[:, :, 1:] ** 2))
    if not tied:
        across += float(np.sum((w - w.mean(axis=1, keepdims=True)) ** 2))
    size = sum(float(np.sum(part * part)) for part in (w, b, r))
    return float(np.sqrt(across / size)) if size > 0 else 0.0


def invariant_start(state: Mapping[str, Array], tied: bool) -> dict[str, Array]:
    """The nearest (w, b, r) that does not depend on y."""
    w, b, r = (np.array(state[name], float) for name in ("w", "b", "r"))
    b[...] = b.mean(axis=1, keepdims=True)
    if not tied:
        w[...] = w.mean(axis=1, keepdims=True)
    r[:, :, 1:] = 0.0
    return {"w": w, "b": b, "r": r}


def variation_in_y(z: Array) -> float:
    """max |z − mean over y| / max |z| of sites z (M + 1, N, C, B)."""
    largest = float(np.max(np.abs(z)))
    return float(np.max(np.abs(z - z.mean(axis=1, keepdims=True)))) / largest if largest > 0 else 0.0


# recorded runs


def kinds_of(lattice: Lattice) -> list[str]:
    """The kinds that a lattice's hidden channels have."""
    sigma = lattice.law.activation(get_activation(lattice.activation), lattice.a_x)
    return [kind for kind in KINDS if holds_for(kind, sigma)]


def nearest_pairs(state: FieldState, lift: Array, kind: str, plain: bool) -> Array:
    """`channel_distances`; of a plain lattice's run, the least over its hidden sites."""
    if not plain:
        return channel_distances(state, lift, kind)
    depth = state.lattice.depth
    sites = range(1, depth) if depth > 1 else [depth]
    return np.asarray(np.min([channel_distances(state, lift, kind, site) for site in sites], axis=0))


class Steps:
    """Of every step: the least distance of two channels to one of their manifolds, and that from invariance in y.

    manifolds_distance : the least over all pairs and over "equal", "opposite" and "proportional", as far as the
        activation has them, each divided by the pair's norm (`channel_distances`).
    manifolds_translation : `translation_distance` of the fields.
    """

    names: ClassVar[tuple[str, ...]] = ("manifolds_distance", "manifolds_translation")

    def __init__(self, lattice: Lattice, grid: Grid, training: Training, kind: str) -> None:
        if lattice.channels < 2:
            raise InputError("the network has one channel, so it has no pairs; use lattice.channels >= 2")
        self.lattice, self.grid, self.kind = lattice, grid, kind
        self._plain = kind == "lattice" and not is_joint(lattice)
        self._kinds = [name for name in kinds_of(lattice) if name != "zero"]

    def step(self, k: int, system: System, before: Mapping[str, Array], after: Mapping[str, Array]) -> dict[str, float]:
        lift = cast(Any, system).boundary.lift
        state = self._fields(after)
        pairs = _least([nearest_pairs(state, lift, name, self._plain) for name in self._kinds])
        return {
            "manifolds_distance": pairs,
            "manifolds_translation": translation_distance(_plain_state(state), self.lattice.range.tied),
        }

    def _fields(self, state: Mapping[str, Array]) -> FieldState:
        if self.kind == "lattice":
            return to_field(self.lattice, LatticeState(state["w"], state["b"], state["r"]))
        return FieldState(self.lattice, self.grid, state["w"], state["b"], state["r"])


def _plain_state(state: FieldState) -> dict[str, Array]:
    """Fields weighted by their cells, as arrays with their layers first."""
    weighted = _weighted(state, np.zeros((1, 1)))
    return {"w": weighted["w"], "b": weighted["b"], "r": weighted["r"][0]}


def _least(matrices: Sequence[Array]) -> float:
    count = matrices[0].shape[0]
    upper = np.triu_indices(count, 1)
    return min(float(np.min(matrix[upper])) for matrix in matrices)


def observe(run: Run, progress: Callable[[int, int, float], None] | None = None) -> Observed:
    """How near the channels of a run come to their manifolds, and its fields to what does not depend on y.

    Arrays over snapshots: distances of all pairs for each kind that the activation has (`manifolds_equal` and so on;
    0 is on the manifold), of every channel to the zero channel, and the deviation from invariance in y of the fields
    and of ẑ on the probe set.

    The summary's `invariant_in_y` says whether padding, inputs and the first snapshot let a run stay invariant in y;
    if not, the last line of `told` says why.

    Raises
    ------
    InputError
        for a run with one channel and one cell, which has neither, or without snapshots.
    """
    lattice, tied = run.lattice, run.lattice.range.tied
    if not len(run.t):
        raise InputError(f"{run.path}: holds no snapshot yet; resume the run first")
    if lattice.channels < 2 and run.grid.n_y < 2:
        raise InputError(
            f"{run.path}: one channel on one cell has neither pairs of channels nor a width; use lattice.channels >= 2"
        )
    plain = run.kind == "lattice" and not is_joint(lattice)
    kinds = kinds_of(lattice) if lattice.channels > 1 else []
    distances: dict[str, list[Array]] = {kind: [] for kind in kinds}
    fields, sites = [], []
    for i in range(len(run.t)):
        state = run.fields(i)
        for kind in kinds:
            distances[kind].append(nearest_pairs(state, run.boundary.lift, kind, plain))
        fields.append(translation_distance(_plain_state(state), tied))
        sites.append(variation_in_y(run.z(i)))
        if progress is not None:
            progress(i + 1, len(run.t), float(run.loss[min(int(run.steps[i]), len(run.loss) - 1)]))
    arrays: dict[str, tuple[tuple[str, ...], Array]] = {
        "manifolds_translation": (("t",), np.array(fields)),
        "manifolds_translation_z": (("t",), np.array(sites)),
    }
    for kind, values in distances.items():
        dims = ("t", "manifolds_channel") if kind == "zero" else ("t", "manifolds_channel", "manifolds_other")
        arrays[f"manifolds_{kind}"] = (dims, np.array(values))
    channels = np.arange(lattice.channels)
    coordinates = {"manifolds_channel": channels, "manifolds_other": channels} if kinds else {}
    summary = _summary(run, arrays, kinds, plain)
    return Observed(arrays, coordinates, summary, _told(run, summary, kinds))


def _summary(
    run: Run, arrays: Mapping[str, tuple[tuple[str, ...], Array]], kinds: Sequence[str], plain: bool
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "channels": run.lattice.channels,
        "tied": "in a hidden layer" if plain else "through all depths",
        "invariant_in_y": _why_not_invariant(run) is None,
        "translation": [float(arrays["manifolds_translation"][1][i]) for i in (0, -1)] if run.grid.n_y > 1 else [],
        "translation_largest": float(np.max(arrays["manifolds_translation"][1])),
        "translation_z_largest": float(np.max(arrays["manifolds_translation_z"][1])),
    }
    for kind in kinds:
        values = arrays[f"manifolds_{kind}"][1]
        if kind == "zero":
            least = int(values[-1].argmin())
            found[kind] = {"first": float(values[0].min()), "last": float(values[-1].min()), "channel": least}
            continue
        upper = np.triu_indices(values.shape[1], 1)
        best = int(values[-1][upper].argmin())
        pair = [int(upper[0][best]), int(upper[1][best])]
        found[kind] = {
            "first": float(values[0][upper].min()),
            "last": float(values[-1][upper].min()),
            "pair": pair,
            "pair_first": float(values[0][pair[0], pair[1]]),
        }
    return found


def _why_not_invariant(run: Run) -> str | None:
    """What keeps a run from staying invariant in y, or from being so at its first snapshot, if anything does."""
    x = run.boundary.dataset.x
    if run.lattice.padding != "circular":
        return f"{run.lattice.padding} padding has edges"
    if x.shape[-1] > 1 and float(np.max(np.ptp(x, axis=-1))) > 0:
        return "the inputs depend on y"
    state = run.fields(0)
    if _above_rounding(state.r[:, :, 1:], state.r):
        return "the readout starts with more modes than its first"
    if _above_rounding(np.ptp(state.b, axis=1), state.b):
        return "b depends on y at the first snapshot"
    if not run.lattice.range.tied and _above_rounding(np.ptp(state.w, axis=1), state.w):
        return "w depends on y at the first snapshot"
    return None


def _above_rounding(part: Array, whole: Array) -> bool:
    return bool(part.size) and float(np.max(np.abs(part))) > 1e-13 * float(np.max(np.abs(whole)))


def _told(run: Run, summary: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    lines = []
    for kind in kinds:
        found = summary[kind]
        if kind == "zero":
            lines.append(
                f"smallest channel: {found['channel']}, {found['last']:.3g} of the mean norm"
                f" (at the start the smallest had {found['first']:.3g})"
            )
        else:
            i, j = found["pair"]
            lines.append(
                f"nearest to {kind}: channels {i} and {j}, at {found['last']:.3g} of their norm"
                f" (at the start {found['pair_first']:.3g})"
            )
    if not kinds:
        lines.append("one channel: there are no pairs that could be equal")
    missing = [kind for kind in KINDS if kind not in kinds_of(run.lattice)]
    if missing and kinds:
        lines.append(f"{run.lattice.activation} has no {' or '.join(missing)} channels")
    if not summary["translation"]:
        return lines  # one cell has no y to depend on
    first, last = summary["translation"]
    why = _why_not_invariant(run)
    lines.append(
        f"deviation from invariance in y: {first:.3g} at the start, {last:.3g} at the end"
        + ("" if why is None else f"; nothing keeps it, since {why}")
    )
    return lines
