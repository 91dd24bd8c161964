"""Regime change: do activation patterns settle before weights do?

Pérez-Corral et al., arXiv 2602.08333, say that they do, about three times earlier. Of every training step, on a fixed
set of samples (the run's probe set):

    w_t = ‖θ_{t+1} − θ_t‖ / ‖θ_t‖,     a_t = fraction of (sample, unit) whose sign, z > 0, differs between t and t + 1

Settling can be defined in several ways, and the answer depends on the way; the paper's own is not among those that are
known here. Both curves are smoothed by the same window, a moving average c̄ over n steps that stands at the middle of
its steps, so that no time is under n/2, and then

    T_ρ = first time from which on c̄ stays under ρ max c̄: NaN if it does not within the run
    T_q = first time at which the sum of c̄ reaches the fraction q of its total: always within the run, so that a curve
          that does not settle at all has T_q = q times the run's length. It is taken to say something of a curve only
          if this settles by T_ρ, too, with the largest ρ of the grid and the same window

and, at the snapshots, without a window,

    T_e = first snapshot from which on the distance from the end of the run stays under ρ times its maximum:
          ‖θ(t) − θ(end)‖, and the fraction of signs that differ from those at the end. It always ends at 0, too.

Times are counted in training steps from the start. The answer is T^w/T^a for a grid of ρ, q and n.

Groups with rates of their own. The paper also divides by the learning rate, w_t/η_t. Where groups of parameters g have
different rates η̂_g this is taken as the speed in the metric of the rates,

    w_t/η_t = [Σ_g ‖Δθ̂_g‖²/η̂_g]^½ / (τ [Σ_g ‖θ̂_g‖²/η̂_g]^½),

τ being the step of training time: it is w_t/η for one group with the rate η = τη̂ (η̂ = 1), and it does not change if a
group is measured in other units (‖ΔW‖²/η_W = ‖Δŵ‖²/(τη̂)), so that it is the same for a lattice and, in the limit, for
its field. w_t itself is not: a lattice's is that of its own numbers W, b, R, a field's of the L2 norms of ŵ, b̂, R.
Groups that do not train are left out.

Which z. Those that σ acts on and that training moves: z[1] … z[M−1] of lattices and fields (z[0] is the input, z[M] is
read out linearly), and every layer but the last of dense networks (in residual ones, the first layer of each block).

The field's version. The pattern is the sign of ẑ(x, y, t), and a unit flips when a nodal line, ẑ = 0, passes over it.
In the unit square of x/L_x and y/L_y, for every sample and channel: the total length of these lines, their normal speed
|∂_t ẑ|/|∇ẑ| (mean over the lines), and the area that they sweep per unit of time, ∫|∂_t ẑ|/|∇ẑ| dl. A step of τ flips
the fraction τ ∫ speed dl of the square, for lines that move by less than their distance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bbdfield.errors import InputError
from bbdfield.lattice.dense import Biases, DenseNetwork, DenseStep, Weights
from bbdfield.model.architecture import GROUPS, Lattice, Training
from bbdfield.model.run import Progress, Run, System
from bbdfield.model.units import identity, units
from bbdfield.observables.observed import Observed
from bbdfield.observables.stepping import State, recorded, system_of
from solvers.grids import Grid
from solvers.level_sets import normal_speed, zero_set

Array = npt.NDArray[np.float64]
Signs = npt.NDArray[np.bool_]

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5)
FRACTIONS = (0.5, 0.7, 0.8, 0.9, 0.95)
#: parts of the run; the first is a single step
WINDOWS = (0.0, 0.01, 0.05)
#: fewer steps or snapshots than these say nothing of settling
LEAST_STEPS, LEAST_SNAPSHOTS = 40, 3
#: of the field that is drawn, at most so many snapshots
SHOWN = 4


# one step


def relative_step(before: Sequence[Array], after: Sequence[Array]) -> float:
    """‖θ' − θ‖/‖θ‖ of parameters in a list of arrays.

    Raises
    ------
    InputError
        if all parameters are zero, so that no step is small beside them.
    """
    size = math.sqrt(sum(float(np.vdot(part, part)) for part in before))
    if size == 0:
        raise InputError("all weights are zero, so w_t = ‖Δθ‖/‖θ‖ has no denominator; start from others")
    moved = sum(float(np.vdot(new - old, new - old)) for old, new in zip(before, after, strict=True))
    return math.sqrt(moved) / size


def signs(z: Sequence[Array] | Array) -> Signs:
    """Which units are active, z > 0: all of them in one flat array."""
    return np.concatenate([np.ravel(layer) for layer in z]) > 0


def flipped(before: Signs, after: Signs) -> float:
    """Fraction of the units whose sign differs."""
    return float(np.count_nonzero(before != after)) / before.size


# settling


_NOT_FINITE = "a curve of weights or patterns is not finite (NaN or infinity), so nothing settles; lower the rates"


def smoothed(curve: Array, window: int) -> Array:
    """Moving averages over `window` steps, (n − window + 1,).

    Raises
    ------
    InputError
        for a window that is longer than the curve, and for a curve with NaN or infinity in it.
    """
    if not np.isfinite(curve).all():
        raise InputError(_NOT_FINITE)
    if not 1 <= window <= len(curve):
        raise InputError(f"a window of {window} steps does not fit the run's {len(curve)}; use another")
    total = np.concatenate([[0.0], np.cumsum(curve)])
    means: Array = (total[window:] - total[:-window]) / window
    return means


def settles_below(curve: Array, rho: float, window: int = 1) -> float:
    """T_ρ in steps: the middle of the first window from which on all averages are under ρ times the largest; or NaN."""
    means = smoothed(curve, window)
    above = np.flatnonzero(means >= rho * means.max())
    last = int(above[-1])
    return math.nan if last == len(means) - 1 else last + 1 + window / 2


def settles_in_sum(curve: Array, q: float, window: int = 1) -> float:
    """T_q in steps: the middle of the first window with which the sum of averages reaches q of all; NaN for zeros."""
    total = np.cumsum(smoothed(curve, window))
    if total[-1] <= 0:
        return math.nan
    return int(np.argmax(total >= q * total[-1])) + window / 2


def settles_at_the_end(steps: Array, distance: Array, rho: float) -> float:
    """T_e in steps: the first snapshot from which on the distance is under ρ times the largest; NaN if all are 0."""
    if not np.isfinite(distance).all():
        raise InputError(_NOT_FINITE)
    largest = float(distance.max())
    above = np.flatnonzero(distance >= rho * largest)
    if largest == 0 or above[-1] == len(distance) - 1:
        return math.nan
    return float(steps[above[-1] + 1])


@dataclass(frozen=True)
class Definitions:
    """The grid of definitions of settling: levels ρ and q, and lengths of the window in steps."""

    thresholds: tuple[float, ...] = THRESHOLDS
    fractions: tuple[float, ...] = FRACTIONS
    windows: tuple[int, ...] = (1, 25, 100)

    @classmethod
    def of(
        cls,
        steps: int,
        windows: Sequence[float] = WINDOWS,
        thresholds: tuple[float, ...] = THRESHOLDS,
        fractions: tuple[float, ...] = FRACTIONS,
    ) -> Definitions:
        """For a run of so many steps, with windows as parts of it, at least one step each, and each length once."""
        lengths = dict.fromkeys(max(1, round(part * steps)) for part in windows)
        return cls(thresholds, fractions, tuple(lengths))


@dataclass(frozen=True)
class Curves:
    """What is followed of one training run.

    w, w_rate, a : of every step, (n,).
    at : step numbers of the snapshots, (s,).   distance_w, distance_a : from the end of the run, (s,).
    """

    w: Array
    w_rate: Array
    a: Array
    at: Array = field(default_factory=lambda: np.zeros(0))
    distance_w: Array = field(default_factory=lambda: np.zeros(0))
    distance_a: Array = field(default_factory=lambda: np.zeros(0))


def times(curves: Curves, definitions: Definitions) -> dict[str, Array]:
    """Settling times in steps, NaN where a curve does not settle.

    "rho" and "q" (3, windows, levels), of the curves w, w_rate, a;  "end" (2, levels), of distance_w and distance_a,
    where there are snapshots.
    """
    of = (curves.w, curves.w_rate, curves.a)
    found = {
        "rho": np.array(
            [[[settles_below(c, rho, n) for rho in definitions.thresholds] for n in definitions.windows] for c in of]
        ),
        "q": np.array(
            [[[settles_in_sum(c, q, n) for q in definitions.fractions] for n in definitions.windows] for c in of]
        ),
    }
    if len(curves.at):
        found["end"] = np.array(
            [
                [settles_at_the_end(curves.at, distance, rho) for rho in definitions.thresholds]
                for distance in (curves.distance_w, curves.distance_a)
            ]
        )
    return found


def ratios(found: Mapping[str, Array]) -> dict[str, Array]:
    """T^w/T^a, NaN where one of them does not settle: "rho" and "q" (2, windows, levels), for w and w_rate; "end"."""
    of = {kind: found[kind][:2] / found[kind][2] for kind in ("rho", "q")}
    if "end" in found:
        of["end"] = found["end"][0] / found["end"][1]
    return of


def settled(found: Mapping[str, Array]) -> dict[str, Signs]:
    """Which times say that their curve settles, in the shapes of `times`.

    T_ρ and T_e do if they are numbers; T_q where T_ρ with the largest ρ is one, for the same curve and window: else it
    is only q times the length of the run.
    """
    of = {kind: np.isfinite(times) for kind, times in found.items()}
    of["q"] = of["q"] & of["rho"][..., -1:]
    return of


# dense networks


def hidden_layers(network: DenseNetwork, layers: int) -> range:
    """Layers of a dense network whose z are activated.

    Raises
    ------
    InputError
        if there are none.
    """
    found = range(0, layers - 1, 2 if network.residual else 1)
    if not len(found):
        raise InputError("a network of one layer activates nothing; it needs two layers or more")
    return found


def follow_dense(
    network: DenseNetwork,
    w: Weights,
    b: Biases,
    steps: Iterable[DenseStep],
    rates: float | Sequence[float],
    probe: Array,
    every: int = 0,
) -> tuple[Curves, DenseStep]:
    """Curves of a dense network that is being trained, and where it ends.

    Parameters
    ----------
    w, b : what training starts from.
    steps : of `bbdfield.lattice.dense.descend`.
    rates : η, one number or one for every step: w_rate = w/η.
    probe : (n_in, B) samples on which patterns are looked at.
    every : steps between snapshots, at which distances from the end are measured; 0 for none.

    Raises
    ------
    InputError
        for a network without hidden layer, or whose weights are all zero, or no step at all.
    """
    hidden = hidden_layers(network, len(w))

    def active(w: Weights, b: Biases) -> Signs:
        z = network.forward(w, b, probe)
        return signs([z[layer] for layer in hidden])

    old = [*w, *(b or [])]
    pattern = active(w, b)
    moved, flips, at, kept = [], [], [0], [(old, pattern)]
    last: DenseStep | None = None
    for last in steps:
        new, now = [*last.w, *(last.b or [])], active(last.w, last.b)
        moved.append(relative_step(old, new))
        flips.append(flipped(pattern, now))
        old, pattern = new, now
        if every and (last.k + 1) % every == 0:
            at.append(last.k + 1)
            kept.append((old, pattern))
    if last is None:
        raise InputError("no training step was given; hand in the steps of descend")
    if every and at[-1] != last.k + 1:
        at.append(last.k + 1)
        kept.append((old, pattern))
    curve = np.array(moved)
    eta = np.broadcast_to(np.asarray(rates, float), curve.shape)
    snapshots: dict[str, Array] = {}
    if every:
        away = [math.sqrt(sum(float(np.vdot(p - e, p - e)) for p, e in zip(ps, old, strict=True))) for ps, _ in kept]
        differ = [flipped(signs_then, pattern) for _, signs_then in kept]
        snapshots = {"at": np.array(at, float), "distance_w": np.array(away), "distance_a": np.array(differ)}
    return Curves(curve, curve / eta, np.array(flips), **snapshots), last


# lattice and field


class Norms:
    """Norms of the parameters of a lattice or a field, of the groups that train.

    plain : of the lattice's own numbers, or L2 norms of the field's functions.
    metric : of the hatted fields in either case, every group's square divided by its rate η̂.
    """

    def __init__(self, lattice: Lattice, grid: Grid, training: Training, kind: str) -> None:
        self.groups = [name for name in GROUPS if getattr(training.rates, name) > 0]
        if not self.groups:
            raise InputError("all training.rates are zero, so no weights move; give one that is > 0")
        h_x, h_y = grid.h_x, grid.h_y
        cells = {"w": h_x * lattice.range.cell(h_y) * (1.0 if lattice.range.tied else h_y), "b": h_x * h_y, "r": 1.0}
        rates = {name: getattr(training.rates, name) for name in GROUPS}
        self._hats = {"w": 1.0, "b": 1.0, "r": 1.0}
        self._origin: dict[str, Any] = {"w": 0.0, "b": 0.0, "r": 0.0}
        self._plain = cells
        if kind == "lattice":
            unit = units(lattice)
            self._hats = {"w": unit.w, "b": unit.b, "r": 1.0}
            self._origin["w"] = identity(lattice)
            self._plain = dict.fromkeys(GROUPS, 1.0)
        self._metric = {name: cells[name] / (self._hats[name] ** 2 * rates[name]) for name in self.groups}

    def _size(self, parts: Mapping[str, Array], weights: Mapping[str, float]) -> float:
        return math.sqrt(sum(weights[name] * float(np.vdot(parts[name], parts[name])) for name in self.groups))

    def relative_steps(self, before: State, after: State) -> tuple[float, float]:
        """(‖Δθ‖/‖θ‖ plain, ‖Δθ̂‖/‖θ̂‖ in the metric of the rates)."""
        change = {name: after[name] - before[name] for name in self.groups}
        hatted = {name: before[name] - self._origin[name] for name in self.groups}
        sizes = self._size(before, self._plain), self._size(hatted, self._metric)
        if 0 in sizes:
            raise InputError(
                "all weights that train are zero, so w_t = ‖Δθ‖/‖θ‖ has no denominator; use larger [initial] amplitudes"
            )
        return self._size(change, self._plain) / sizes[0], self._size(change, self._metric) / sizes[1]

    def distance(self, a: State, b: State) -> float:
        """‖θ_a − θ_b‖, plain."""
        return self._size({name: a[name] - b[name] for name in self.groups}, self._plain)


def moving_sites(z: Array) -> Array:
    """z[1] … z[M−1]: what is activated and moves."""
    return z[1:-1]


class Steps:
    """w_t, w_t/η_t and a_t of every training step of a lattice or a field.

    Raises
    ------
    InputError
        for a single layer, whose activated z is the input, and for rates that are all zero.
    """

    names: ClassVar[tuple[str, ...]] = ("regimes_w", "regimes_w_rate", "regimes_a")

    def __init__(self, lattice: Lattice, grid: Grid, training: Training, kind: str) -> None:
        if grid.n_x < 2:
            raise InputError(
                "with a single layer only the input is activated, and its signs do not move; use lattice.depth >= 2"
            )
        self._norms = Norms(lattice, grid, training, kind)
        self._tau = training.step
        self._last: tuple[int, Signs] | None = None

    def step(self, k: int, system: System, before: State, after: State) -> dict[str, float]:
        plain, metric = self._norms.relative_steps(before, after)
        now = signs(moving_sites(system.probe()))
        if self._last is not None and self._last[0] == k - 1:
            then = self._last[1]
        else:
            system.load(before)
            then = signs(moving_sites(system.probe()))
            system.load(after)
        self._last = (k, now)
        return {"regimes_w": plain, "regimes_w_rate": metric / self._tau, "regimes_a": flipped(then, now)}


# nodal lines


@dataclass(frozen=True)
class Nodal:
    """Nodal lines of z(x, y), for every trailing axis of z, in the unit square of x/L_x, y/L_y.

    length : of all lines.   speed : mean normal speed along them, NaN where there are none.
    swept : ∫ speed dl, area per unit of time, of the lines in the part of the square where signs are counted (between
        the first and the last site that move), relative to the area of that part; NaN if only one site moves, since
        there is nothing between.
    """

    length: Array
    speed: Array
    swept: Array


def nodal_lines(before: Array, after: Array, step: float, grid: Grid, *, periodic: bool = False) -> Nodal:
    """Length of the nodal lines in the middle of a step, and their motion in it.

    Parameters
    ----------
    before, after : z (n_x + 1, n_y, ...) at t and t + step; the lines are those of the mean, ∂_t z the difference over
        `step`, so that both are of second order in it.
    periodic : whether y is.
    """
    x, y, period = unit_coordinates(grid, periodic)
    middle, change = 0.5 * (before + after), (after - before) / step
    lines = zero_set(middle, x, y, period=period)
    speed, _ = normal_speed(middle, change, x, y, lines, period=period)
    length, swept = lines.total(), lines.total(speed)
    mean = np.divide(swept, length, out=np.full_like(swept, np.nan), where=length > 0)
    counted = (lines.square[:, 0] >= 1) & (lines.square[:, 0] < grid.n_x - 1)
    area = (x[-2] - x[1]) * (1.0 if periodic else y[-1] - y[0])
    inside = lines.total(speed * counted) / area if grid.n_x > 2 else np.full_like(swept, np.nan)
    return Nodal(length, mean, inside)


def unit_coordinates(grid: Grid, periodic: bool) -> tuple[Array, Array, float | None]:
    """x/L_x of the sites, y/L_y of the cells, and the period of y/L_y."""
    return grid.x_sites / grid.length_x, grid.y / grid.length_y, 1.0 if periodic else None


# a recorded run


def observe(run: Run, progress: Progress | None = None) -> Observed:
    """Curves, settling times and nodal lines of a recorded run of lattice or field.

    Arrays: regimes_w, regimes_w_rate, regimes_a over "step"; regimes_distance_w, regimes_distance_a over "t";
    regimes_time_rho, regimes_time_q (curve, window, level) and regimes_time_end, in steps, and their ratios
    regimes_ratio_*; regimes_length, regimes_speed, regimes_swept (t, channel, sample); regimes_z and regimes_z_rate, ẑ
    and ∂_t ẑ of one channel and sample at some snapshots.

    Raises
    ------
    InputError
        for fewer than 40 steps or 3 snapshots, or where `Steps` raises it.
    """
    steps = int(run.steps[-1]) if len(run.steps) else 0
    if steps < LEAST_STEPS:
        raise InputError(
            f"{run.path}: has {steps} training steps, and settling needs {LEAST_STEPS} or more, of which windows are"
            " averaged; train longer"
        )
    if len(run.steps) < LEAST_SNAPSHOTS:
        raise InputError(
            f"{run.path}: has {len(run.steps)} snapshots, and settling needs {LEAST_SNAPSHOTS} or more; lower"
            " training.snapshot_every"
        )
    curves, lines = follow_run(run, progress)
    definitions = Definitions.of(steps)
    found = times(curves, definitions)
    arrays, coordinates = _settling_arrays(curves, found, definitions)
    if lines is not None:
        over = ("t", "regimes_channel", "regimes_sample")
        arrays |= {
            "regimes_length": (over, lines.nodal.length),
            "regimes_speed": (over, lines.nodal.speed),
            "regimes_swept": (over, lines.nodal.swept),
            "regimes_z": (("regimes_shown", "regimes_x", "regimes_y"), lines.z),
            "regimes_z_rate": (("regimes_shown", "regimes_x", "regimes_y"), lines.rate),
        }
        x, y, _ = unit_coordinates(run.grid, run.lattice.padding == "circular")
        coordinates |= {"regimes_x": x, "regimes_y": y, "regimes_shown": run.t[lines.shown]}
    summary = _summary(run, curves, found, definitions, lines)
    return Observed(arrays, coordinates, summary, _told(summary))


@dataclass(frozen=True)
class Lines:
    """Nodal lines at every snapshot of a run, and ẑ and ∂_t ẑ (n, n_x + 1, n_y) of one channel and sample at some.

    shown : these snapshots.
    """

    nodal: Nodal
    shown: npt.NDArray[np.int64]
    channel: int
    sample: int
    z: Array
    rate: Array


def follow_run(run: Run, progress: Progress | None = None) -> tuple[Curves, Lines | None]:
    """Curves of a recorded run, and its nodal lines: None for a single cell in the width, which has no lines.

    Raises
    ------
    InputError, NumericsError
        as `Steps` and `bbdfield.observables.stepping.recorded` do.
    """
    series = recorded(run, Steps, progress)
    norms = Norms(run.lattice, run.grid, run.training, run.kind)
    end_state, end_signs = _snapshot(run, -1), signs(moving_sites(run.z(-1)))
    away = [norms.distance(_snapshot(run, i), end_state) for i in range(len(run.steps))]
    differ = [flipped(signs(moving_sites(run.z(i))), end_signs) for i in range(len(run.steps))]
    curves = Curves(
        series["regimes_w"],
        series["regimes_w_rate"],
        series["regimes_a"],
        at=run.steps.astype(float),
        distance_w=np.array(away),
        distance_a=np.array(differ),
    )
    return curves, _nodal_lines(run) if run.grid.n_y > 1 else None


def _snapshot(run: Run, i: int) -> State:
    return {name: np.array(run.trajectory.fields[name][i]) for name in GROUPS}


def _nodal_lines(run: Run) -> Lines:
    """At every snapshot; what is shown is the channel and sample whose lines are longest at the end."""
    periodic = run.lattice.padding == "circular"
    x, y, period = unit_coordinates(run.grid, periodic)
    last = zero_set(run.z(-1), x, y, period=period).total()
    channel, sample = (int(i) for i in np.unravel_index(int(np.argmax(last)), last.shape))
    count = len(run.steps)
    chosen = np.unique(np.linspace(0, count - 1, min(SHOWN, count)).round().astype(np.int64))
    found, z, rate = [], [], []
    for i, (before, after) in enumerate(_steps_at_snapshots(run)):
        found.append(nodal_lines(before, after, run.training.step, run.grid, periodic=periodic))
        if i in chosen:
            one = (..., channel, sample)
            z.append(0.5 * (before[one] + after[one]))
            rate.append((after[one] - before[one]) / run.training.step)
    nodal = Nodal(*(np.array([getattr(one, name) for one in found]) for name in ("length", "speed", "swept")))
    return Lines(nodal, chosen, channel, sample, np.array(z), np.array(rate))


def _steps_at_snapshots(run: Run) -> Iterator[tuple[Array, Array]]:
    """z before and after the step that begins at each snapshot; at the end of the run, the step that ends there."""
    system, fields = system_of(run), run.trajectory.fields
    for i in range(len(run.steps) - 1):
        system.load({name: np.array(values[i]) for name, values in fields.items() if name != "z"})
        system.step(int(run.steps[i]))
        yield run.z(i), np.array(system.probe())
    for k in range(int(run.steps[-2]) + 1, int(run.steps[-1]) - 1):
        system.step(k)
    if run.steps[-1] - run.steps[-2] > 1:
        yield np.array(system.probe()), run.z(-1)
    else:
        yield run.z(-2), run.z(-1)


_CURVES = np.array(["w", "w_rate", "a"])


def _settling_arrays(
    curves: Curves, found: Mapping[str, Array], definitions: Definitions
) -> tuple[dict[str, tuple[tuple[str, ...], Any]], dict[str, Any]]:
    of = ratios(found)
    arrays: dict[str, tuple[tuple[str, ...], Any]] = {
        "regimes_w": (("step",), curves.w),
        "regimes_w_rate": (("step",), curves.w_rate),
        "regimes_a": (("step",), curves.a),
        "regimes_distance_w": (("t",), curves.distance_w),
        "regimes_distance_a": (("t",), curves.distance_a),
        "regimes_time_end": (("regimes_distance", "regimes_rho"), found["end"]),
        "regimes_ratio_end": (("regimes_rho",), of["end"]),
    }
    for kind in ("rho", "q"):
        arrays[f"regimes_time_{kind}"] = (("regimes_curve", "regimes_window", f"regimes_{kind}"), found[kind])
        arrays[f"regimes_ratio_{kind}"] = (("regimes_weights", "regimes_window", f"regimes_{kind}"), of[kind])
    coordinates = {
        "regimes_curve": _CURVES,
        "regimes_weights": _CURVES[:2],
        "regimes_distance": np.array(["weights", "patterns"]),
        "regimes_window": np.array(definitions.windows),
        "regimes_rho": np.array(definitions.thresholds),
        "regimes_q": np.array(definitions.fractions),
    }
    return arrays, coordinates


def _summary(
    run: Run, curves: Curves, found: Mapping[str, Array], definitions: Definitions, lines: Lines | None
) -> dict[str, Any]:
    """The ratios are those of definitions by which both curves settle."""
    of, does = ratios(found), settled(found)
    both = {kind: does[kind][:2] & does[kind][2] for kind in ("rho", "q")} | {"end": does["end"].all(axis=0)}
    known = np.concatenate([of[kind][both[kind]] for kind in ("rho", "q", "end")])
    summary: dict[str, Any] = {
        "steps": len(curves.w),
        "windows": list(definitions.windows),
        "definitions": sum(one.size for one in both.values()),
        "settled": int(known.size),
        "ratio_least": float(known.min()) if known.size else None,
        "ratio_median": float(np.median(known)) if known.size else None,
        "ratio_most": float(known.max()) if known.size else None,
    }
    if lines is not None:
        at = np.minimum(run.steps, int(run.steps[-1]) - 1)
        length, swept = lines.nodal.length.mean(axis=(1, 2)), float(lines.nodal.swept.mean())
        summary |= {
            "length_first": float(length[0]),
            "length_last": float(length[-1]),
            "length_mean": float(length.mean()),
            "flipped": float(curves.a[at].mean()),
            "swept": swept * run.training.step if math.isfinite(swept) else None,
            "channel": lines.channel,
            "sample": lines.sample,
            "periodic": run.lattice.padding == "circular",
        }
    return summary


def _told(summary: Mapping[str, Any]) -> list[str]:
    count, settled = summary["definitions"], summary["settled"]
    if not settled:
        first = f"by none of {count} definitions do both weights and patterns settle within {summary['steps']} steps"
    else:
        first = (
            f"weights settle {summary['ratio_median']:.2f} times as late as patterns (median; from"
            f" {summary['ratio_least']:.2f} to {summary['ratio_most']:.2f}) by {settled} of {count} definitions"
        )
        if settled < count:
            first += f"; by the other {count - settled} weights, patterns or both do not settle within the run"
    if "length_first" not in summary:
        return [first]
    second = (
        f"nodal lines of a channel and sample are {summary['length_first']:.2f} long at the start,"
        f" {summary['length_last']:.2f} at the end (the square's side is 1); a step flips {summary['flipped']:.2e} of"
        " the units"
    )
    if summary["swept"] is not None:
        second += f" and its lines sweep {summary['swept']:.2e} of the area"
    return [first, second]
