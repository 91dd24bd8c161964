"""The regimes study: do activation patterns settle about three times earlier than weights?

Pérez-Corral et al., arXiv 2602.08333, claim so for standard networks. Here dense ReLU networks of plain lists, all of
whose layers train, a convolutional residual lattice and its field theory are trained on the same data with several
seeds; w_t, w_t/η_t and a_t are followed at every step, distances from the end at snapshots, and the ratio of settling
times is taken for every definition of a grid. A definition by which one of the curves does not settle in one of the
runs gives no number: it is counted, with a bound of the ratio where the length of the run gives one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from bbdfield.errors import InputError, NumericsError
from bbdfield.fields.simulation import simulate
from bbdfield.fields.well_posedness import check_start, largest_input
from bbdfield.lattice.dense import DenseNetwork, descend, draw_dense
from bbdfield.lattice.sharpness import check_training_step, stability_limit
from bbdfield.lattice.training import LatticeSystem, train
from bbdfield.model.activations import get_activation, is_built_in
from bbdfield.model.boundary import Boundary
from bbdfield.model.losses import accuracy, get_loss, prepare_targets
from bbdfield.model.units import to_lattice
from bbdfield.observables.regimes import Curves, Definitions, Steps, follow_dense, follow_run, settled, smoothed, times
from bbdfield.storage.sidecar import finished_sidecar, write_sidecar
from bbdfield.studies.config import RegimesConfig
from bbdfield.studies.config.regimes import NETWORKS
from bbdfield.studies.describe import Description, Table, number, percent
from bbdfield.studies.describe import network as network_in_words
from bbdfield.studies.kinds import Session
from bbdfield.studies.machines import field_machine, in_words
from bbdfield.studies.pool import run_jobs
from solvers.sweeps import get_scheme

Array = npt.NDArray[np.float64]
Progress = Callable[[int, int, float], None]

#: random streams of a run's seed
STREAM_WEIGHTS, STREAM_BATCHES = 50, 51
#: "about three": the mean ratio is in this interval, and its standard error is at most this part of it
ABOUT_THREE, KNOWN_TO = (2.5, 4.5), 1 / 3
#: lattice and field agree where their ratios differ by at most so many standard errors
AGREE_TO = 2.0
#: definitions by levels and by sums of single steps, and by the distance from the end of the run: family -> kind
FAMILIES = {"rho": "rho", "q": "q", "distance": "end"}
#: dense networks' snapshots, as many as this over the run
SNAPSHOTS = 50
#: He's, for relu
GAIN = math.sqrt(2.0)
NAMES = {
    "dense": "dense, constant rate",
    "dense-decaying": "dense, rate falls to zero",
    "dense-full-batch": "dense, full batch",
    "dense-residual": "dense residual",
    "lattice": "convolutional residual lattice",
    "field": "its field theory",
}

CAPTIONS = {
    "regimes": "Ratio of the settling times of weights and of activation patterns, T^w/T^a, for every network: means"
    " over seeds with standard errors, with the middle window (of an even number, the longer of the two in the middle)."
    " Hollow with an arrow up: patterns settle in every run, weights do not in some, and in no run is the ratio smaller"
    " than where the arrow starts; with an arrow down: the other way round, and in no run is it larger. No mark: in"
    " some run neither settles, or bounds of different runs point in different directions, and nothing is known of all"
    " runs. Left: first time from which on w_t and a_t stay under ρ times their maximum. Middle: first time at which"
    " their sums reach the fraction q; pale where a curve does not settle by the largest ρ, so that its time is only"
    " the part q of the run."
    " Right: first snapshot from which on the distance from the end stays under ρ times its maximum. Above with w_t,"
    " below with w_t/η_t.",
    "regimes-curves": "Step of the weights w_t, w_t/η_t and fraction of flipping signs a_t, over their maximum, for the"
    " first seed of every network, averaged over the longest window. The title's correlations are those of all seeds,"
    " and from 0.7 on signs are said to flip as weights move.",
    "regimes-nodal": "The sign pattern of ẑ(x, y) of one channel and sample at several times, of the first seed: its"
    " nodal lines, coloured by their normal speed. Below: mean length of the nodal lines, and the fraction of units"
    " that a step flips beside the area that the lines sweep in it.",
}


@dataclass(frozen=True)
class Job:
    """One training run."""

    network: str
    index: int

    @property
    def label(self) -> str:
        return f"{self.network}-{self.index + 1}"


@dataclass(frozen=True)
class Followed:
    """What is kept of one run."""

    curves: Curves
    accuracy: float | None
    nodal: dict[str, Array] = field(default_factory=dict)
    chosen: dict[str, int] = field(default_factory=dict)


@dataclass
class Details:
    """runs : network -> its runs, by seed.   definitions : network -> the grid."""

    runs: dict[str, list[Followed]] = field(default_factory=dict)
    definitions: dict[str, Definitions] = field(default_factory=dict)


def check(config: RegimesConfig) -> str:
    """Refuse what the dense networks cannot learn from, and steps that could only diverge; returns the backends."""
    keys, dataset = config.regimes, config.dataset()
    if any(name.startswith("dense") for name in keys.networks):
        prepare_targets(config.lattice.loss, dataset.y, dataset.outputs)
    lattice, training = config.network(), config.training_plan()
    boundary = Boundary.draw(dataset, lattice, training)
    said = []
    machines: list[str] = []
    if {"lattice", "field"} & {*keys.networks}:
        start = to_lattice(config.initial_fields(lattice).on(lattice.grid, lattice))
        system = LatticeSystem(lattice, boundary, start, **config.training.machine())
        sharp = check_training_step(system)
        machines.append(system.backend.description)
        said.append(f"τ λ_max = {sharp:.3g} at the start (steps are stable up to {stability_limit(training):.3g})")
    fields = []
    if "field" in keys.networks:
        grid, order = config.field_grid(), config.field.order
        start_field, scheme = config.initial_fields(lattice).on(grid), get_scheme(config.field.depth_scheme)
        check_start(start_field, order, scheme, largest=largest_input(boundary, grid.n_y), **config.theory())
        fields.append(field_machine(config.field.machine(), lattice, grid, order, training, **config.theory()))
    if not machines:
        return "NumPy"
    return "; ".join([in_words(machines, fields), *said])


def compute(config: RegimesConfig, out: Path, session: Session) -> tuple[dict[str, Any], Details]:
    """Train and follow every network with every seed, then the ratios of settling times."""
    jobs = sorted(_jobs(config), key=lambda job: -_COST.index(job.network))
    workers = session.workers if is_built_in(config.lattice.activation) else 1
    session.say(f"{len(jobs)} runs in {min(workers, len(jobs))} processes")
    run_jobs(run_job, jobs, config, out, min(workers, len(jobs)), session.report, session.say)
    details = Details()
    for job in _jobs(config):  # by network, then by seed
        sidecar = finished_sidecar(_path(out, job))
        if sidecar is None:
            raise InputError(f"{_path(out, job)}: is gone; run the study again with --resume")
        details.runs.setdefault(job.network, []).append(
            _from_arrays({**sidecar.coordinates, **sidecar.arrays}, sidecar.config)
        )
    keys = config.regimes
    for name, runs in details.runs.items():
        details.definitions[name] = Definitions.of(len(runs[0].curves.a), keys.windows, keys.thresholds, keys.fractions)
    with threadpool_limits(1):
        found = {name: _of_network(name, runs, details.definitions[name]) for name, runs in details.runs.items()}
    scores: dict[str, Any] = {"networks": found, "factor_about_three": _about_three(found)}
    if {"lattice", "field"} <= found.keys():
        scores["lattice_and_field"] = _agreement(found["lattice"], found["field"])
    return {"kind": config.kind, "title": config.title, "regimes": scores}, details


#: from the cheapest to the dearest
_COST = ("dense", "dense-decaying", "dense-residual", "dense-full-batch", "lattice", "field")


def _jobs(config: RegimesConfig) -> list[Job]:
    chosen = [name for name in NETWORKS if name in config.regimes.networks]
    return [Job(name, index) for name in chosen for index in range(config.regimes.seeds)]


def _path(out: Path, job: Job) -> Path:
    return out / f"curves-{job.label}.h5"


# one run


def run_job(job: Job, config: RegimesConfig, out: Path, progress: Progress | None) -> None:
    """Train and follow one network with one seed; what is there already stays."""
    if finished_sidecar(_path(out, job)) is not None:
        return
    if job.network.startswith("dense"):
        followed = _dense(job.network, config, config.seed + job.index, progress)
    else:
        followed = _recorded(job, config, out, progress)
    about = {"network": job.network, "seed": config.seed + job.index, "accuracy": followed.accuracy, **followed.chosen}
    arrays, coordinates = _to_arrays(followed)
    write_sidecar(
        _path(out, job), kind=config.kind, config=about, arrays=arrays, coordinates=coordinates, overwrite=True
    )


def _recorded(job: Job, config: RegimesConfig, out: Path, progress: Progress | None) -> Followed:
    """The lattice, or the field, which is told nothing of the lattice's trajectory."""
    seeded = config.model_copy(update={"seed": config.seed + job.index})
    lattice, training, dataset = seeded.network(), seeded.training_plan(), seeded.dataset()
    start = seeded.initial_fields(lattice)
    settings: dict[str, Any] = {"resume": True, "compression": config.compression(), "progress": progress}
    path = out / f"{job.label}.h5"
    if job.network == "lattice":
        observers = [Steps(lattice, lattice.grid, training, "lattice")]
        settings |= {"observers": observers, **config.training.machine()}
        run = train(lattice, dataset, training, initial=start, out=path, **settings)
    else:
        grid = config.field_grid()
        settings |= {"observers": [Steps(lattice, grid, training, "field")], **config.field.machine()}
        run = simulate(
            start.on(grid),
            Boundary.draw(dataset, lattice, training),
            order=config.field.order,
            depth_scheme=config.field.depth_scheme,
            out=path,
            **config.theory(),
            **settings,
        )
    with run:
        curves, lines = follow_run(run)
        tested = _finite(float(run.evaluation["test_accuracy"][-1]))
        if lines is None:
            return Followed(curves, tested)
        at = np.minimum(run.steps, training.steps - 1)
        nodal = {
            "t": run.t,
            "length": lines.nodal.length.mean(axis=(1, 2)),
            "swept": lines.nodal.swept.mean(axis=(1, 2)) * training.step,
            "flipped": curves.a[at],
            "x": run.grid.x_sites / run.grid.length_x,
            "y": run.grid.y / run.grid.length_y,
            "shown_t": run.t[lines.shown],
            "shown_z": lines.z,
            "shown_rate": lines.rate,
        }
        return Followed(curves, tested, nodal, {"channel": lines.channel, "sample": lines.sample})


def _dense(name: str, config: RegimesConfig, seed: int, progress: Progress | None) -> Followed:
    """A dense network of plain lists on the flattened signals."""
    keys, dataset = config.regimes, config.dataset()
    network = DenseNetwork(
        get_activation(config.lattice.activation), get_loss(config.lattice.loss), name == "dense-residual"
    )
    full = name == "dense-full-batch"
    steps, rate, batch = (
        (keys.full_steps, keys.full_rate, len(dataset.x)) if full else (keys.steps, keys.rate, keys.batch)
    )
    x, x_test = _flat(dataset.x), _flat(dataset.x if dataset.x_test is None else dataset.x_test)
    targets = prepare_targets(config.lattice.loss, dataset.y, dataset.outputs)
    rates = np.full(steps, rate)
    if name == "dense-decaying":
        rates = rate * (1 - np.arange(steps) / steps)
    rng = np.random.default_rng([seed, STREAM_WEIGHTS])
    if network.residual:
        # a linear layer to the first width, so that blocks can be added, cannot be told from a wider input: it is drawn
        # once and fixed, as the lattice's lift is
        lift = rng.standard_normal((keys.widths[0], len(x))) / math.sqrt(len(x))
        x, x_test = lift @ x, lift @ x_test
        sizes = [keys.widths[0]] * (2 * keys.blocks + 1)
    else:
        sizes = [len(x), *keys.widths]
    w, b = draw_dense([*sizes, dataset.outputs], rng, GAIN)

    def batches() -> Iterator[tuple[Array, Array]]:
        if full:
            for _ in range(steps):
                yield x, targets
            return
        order = np.random.default_rng([seed, STREAM_BATCHES])
        for k in range(steps):
            place = k % (x.shape[1] // batch)
            if place == 0:
                shuffled = order.permutation(x.shape[1])
            index = shuffled[place * batch : (place + 1) * batch]
            yield x[:, index], targets[index]

    def told() -> Iterator[Any]:
        for step in descend(network, w, b, batches(), rates.tolist()):
            if not math.isfinite(step.loss):
                key = "full_rate" if full else "rate"
                raise NumericsError(f"{NAMES[name]}: the loss is not finite at step {step.k}; lower regimes.{key}")
            if progress is not None:
                progress(step.k + 1, steps, step.loss)
            yield step

    probe = x_test[:, : config.training.probe]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what diverges is told in words
        curves, last = follow_dense(network, w, b, told(), rates.tolist(), probe, every=max(1, steps // SNAPSHOTS))
    tested = None
    if dataset.y_test is not None and dataset.has_labels:
        tested = float(accuracy(network.logits(last.w, last.b, x_test).T, dataset.y_test))
    return Followed(curves, tested)


def _flat(x: Array) -> Array:
    """Samples in columns: (n, D, width) -> (D · width, n)."""
    return np.ascontiguousarray(x.reshape(len(x), -1).T)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


_LINES = {
    "t": ("snapshot",),
    "length": ("snapshot",),
    "swept": ("snapshot",),
    "flipped": ("snapshot",),
    "shown_t": ("shown",),
    "shown_z": ("shown", "x", "y"),
    "shown_rate": ("shown", "x", "y"),
}


def _to_arrays(run: Followed) -> tuple[dict[str, tuple[tuple[str, ...], Array]], dict[str, Array]]:
    curves = run.curves
    arrays: dict[str, tuple[tuple[str, ...], Array]] = {
        "w": (("step",), curves.w),
        "w_rate": (("step",), curves.w_rate),
        "a": (("step",), curves.a),
        "at": (("snapshot",), curves.at),
        "distance_w": (("snapshot",), curves.distance_w),
        "distance_a": (("snapshot",), curves.distance_a),
    }
    arrays |= {name: (_LINES[name], values) for name, values in run.nodal.items() if name in _LINES}
    return arrays, {name: run.nodal[name] for name in ("x", "y") if name in run.nodal}


def _from_arrays(arrays: Mapping[str, Array], about: Mapping[str, Any]) -> Followed:
    of = ("w", "w_rate", "a", "at", "distance_w", "distance_a")
    curves = Curves(*(np.asarray(arrays[name], float) for name in of))
    nodal = {name: arrays[name] for name in (*_LINES, "x", "y") if name in arrays}
    return Followed(
        curves, about["accuracy"], nodal, {key: about[key] for key in ("channel", "sample") if key in about}
    )


# what the runs say together


def _of_network(name: str, runs: list[Followed], definitions: Definitions) -> dict[str, Any]:
    """Ratios of all definitions over the seeds."""
    found = [times(run.curves, definitions) for run in runs]
    does = [settled(one) for one in found]
    steps = len(runs[0].curves.a)
    moves = np.array([[run.curves.w.any(), run.curves.a.any()] for run in runs])
    entries = []
    for curve, kind, levels, place in _grid(name, definitions):
        for j, level in enumerate(levels):
            weights: tuple[int, ...]
            patterns: tuple[int, ...]
            window: int | None
            if kind == "end":
                weights, patterns, window = (0, j), (1, j), None
            else:
                weights, patterns, window = (*place, j), (2, place[1], j), definitions.windows[place[1]]
            pairs, settles = (
                np.array([[one[kind][weights], one[kind][patterns]] for one in of]) for of in (found, does)
            )
            entries.append(_definition(curve, kind, level, window, pairs, settles, moves, steps))
    accuracies = [run.accuracy for run in runs]
    given = [value for value in accuracies if value is not None]
    result: dict[str, Any] = {
        "name": NAMES[name],
        "steps": steps,
        "seeds": len(runs),
        "windows": list(definitions.windows),
        "accuracy": accuracies,
        "accuracy_mean": float(np.mean(given)) if given else None,
        "correlation": [_correlation(run.curves, max(definitions.windows)) for run in runs],
        "definitions": entries,
        **_counts(entries),
    }
    if runs[0].nodal:
        result["nodal"] = {
            "length": _over_seeds(runs, "length"),
            "flipped": float(np.mean([run.nodal["flipped"].mean() for run in runs])),
            "swept": _finite(float(np.mean([run.nodal["swept"].mean() for run in runs]))),
        }
    return result


def _correlation(curves: Curves, window: int) -> float | None:
    """Of a_t with w_t, both averaged over windows; None if one of them does not vary."""
    w, a = smoothed(curves.w, window), smoothed(curves.a, window)
    return float(np.corrcoef(w, a)[0, 1]) if np.ptp(w) > 0 and np.ptp(a) > 0 else None


def _over_seeds(runs: list[Followed], name: str) -> list[float]:
    """Mean over seeds at every snapshot."""
    return [float(value) for value in np.mean([run.nodal[name] for run in runs], axis=0)]


def _grid(name: str, definitions: Definitions) -> Iterator[tuple[str, str, tuple[float, ...], tuple[int, ...]]]:
    """(curve, kind, levels, indices before the level). With one rate for all, w_t/η_t settles as w_t does."""
    constant = name.startswith("dense") and name != "dense-decaying"
    for i, curve in enumerate(("w",) if constant else ("w", "w_rate")):
        for kind, levels in (("rho", definitions.thresholds), ("q", definitions.fractions)):
            for k in range(len(definitions.windows)):
                yield curve, kind, levels, (i, k)
    yield "distance", "end", definitions.thresholds, ()


def _definition(
    curve: str,
    kind: str,
    level: float,
    window: int | None,
    pairs: Array,
    settles: npt.NDArray[np.bool_],
    moves: npt.NDArray[np.bool_],
    steps: int,
) -> dict[str, Any]:
    """Ratio over the seeds by one definition; None for numbers unless both curves have a time in every run.

    pairs : (seeds, 2) T^w and T^a.   settles : whether they say that the curve settles.   moves : whether it moves.
    at_least, at_most : where patterns (weights) settle in every run, and weights (patterns) not in all, the ratio is in
        no run smaller (larger) than this. A curve that moves and does not settle by T_ρ could do so first with the
        window after the last one, at steps − n/2 + 1. Other times are NaN only where nothing moves.
    undetermined : mean or median are in the interval for "about three", but the mean's error is not small or not known.
    """
    weights, patterns = settles.T
    known, seeds = bool(np.isfinite(pairs).all()), len(pairs)
    values = pairs[:, 0] / pairs[:, 1]
    mean, median = (float(values.mean()), float(np.median(values))) if known else (None, None)
    error = float(values.std(ddof=1) / math.sqrt(seeds)) if known and seeds > 1 else None
    at_least = at_most = None
    if kind == "rho" and window is not None and (moves | settles).all():
        limited = np.where(settles, pairs, steps - window / 2 + 1)
        if patterns.all() and not weights.all():
            at_least = float((limited[:, 0] / limited[:, 1]).min())
        if weights.all() and not patterns.all():
            at_most = float((limited[:, 0] / limited[:, 1]).max())
    counted = known and bool(settles.all())
    sure = mean is not None and error is not None and error <= KNOWN_TO * mean
    about = counted and mean is not None and sure and _about(mean)
    return {
        "curve": curve,
        "kind": kind,
        "level": level,
        "window": window,
        "median": median,
        "mean": mean,
        "error": error,
        "spread": [float(values.min()), float(values.max())] if known else None,
        "seeds": seeds,
        "settles": counted,
        "settled": int((weights & patterns).sum()),
        "settled_weights": int(weights.sum()),
        "settled_patterns": int(patterns.sum()),
        "at_least": at_least,
        "at_most": at_most,
        "weights": float(np.mean(pairs[:, 0]) / steps) if np.isfinite(pairs[:, 0]).all() else None,
        "patterns": float(np.mean(pairs[:, 1]) / steps) if np.isfinite(pairs[:, 1]).all() else None,
        "about_three": about,
        "undetermined": counted and not sure and (_about(mean) or _about(median)),
    }


def _about(ratio: float | None) -> bool:
    return ratio is not None and ABOUT_THREE[0] <= ratio <= ABOUT_THREE[1]


def _counts(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many of these definitions say what.

    known : both curves settle in every run.   median, tenth, ninetieth, least, most : of the medians of these.
    patterns_first : the mean is larger than 1 by more than its standard error; None with one seed.
    unknown : the others, not counted T_q that are only a part of the run: at_least, at_most, those with a bound, and
        open, those whose bound does not exclude about three.   flat : such T_q.
    """
    known = [entry for entry in entries if entry["settles"]]
    medians = [entry["median"] for entry in known]
    flat = [entry for entry in entries if not entry["settles"] and entry["kind"] == "q"]
    unknown = [entry for entry in entries if not entry["settles"] and entry["kind"] != "q"]
    open_ = [
        entry
        for entry in unknown
        if (entry["at_least"] is None or entry["at_least"] <= ABOUT_THREE[1])
        and (entry["at_most"] is None or entry["at_most"] >= ABOUT_THREE[0])
    ]
    single = any(entry["seeds"] == 1 for entry in entries)
    return {
        "count": len(entries),
        "known": len(known),
        "flat": len(flat),
        "unknown": len(unknown),
        "at_least": sum(entry["at_least"] is not None for entry in unknown),
        "at_most": sum(entry["at_most"] is not None for entry in unknown),
        "open": len(open_),
        "median": float(np.median(medians)) if medians else None,
        "tenth": float(np.percentile(medians, 10)) if medians else None,
        "ninetieth": float(np.percentile(medians, 90)) if medians else None,
        "least": min(medians, default=None),
        "most": max(medians, default=None),
        "patterns_first": None if single else sum(entry["mean"] - entry["error"] > 1 for entry in known),
        "about_three": sum(entry["about_three"] for entry in known),
        "undetermined": sum(entry["undetermined"] for entry in known),
    }


def _about_three(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """By how many definitions, of how many, the ratio is about three."""
    entries = [entry for of in found.values() for entry in of["definitions"]]
    families = {
        family: _counts([entry for entry in entries if entry["kind"] == kind]) for family, kind in FAMILIES.items()
    }
    every = _counts(entries)
    return {
        "definition": f"the mean over seeds of T^w/T^a is in [{ABOUT_THREE[0]}, {ABOUT_THREE[1]}], its standard error"
        " is at most a third of it, and both curves settle in every run",
        "interval": list(ABOUT_THREE),
        "count": every["about_three"],
        "known": every["known"],
        "of": every["count"],
        "families": families,
        "where": _where(found, "about_three"),
        "undetermined": _where(found, "undetermined"),
    }


def _where(found: Mapping[str, Mapping[str, Any]], said: str) -> list[dict[str, Any]]:
    keys = ("curve", "kind", "level", "window", "median", "mean", "error", "spread")
    return [
        {"network": name, **{key: entry[key] for key in keys}}
        for name, of in found.items()
        for entry in of["definitions"]
        if entry[said]
    ]


def _agreement(lattice: Mapping[str, Any], theory: Mapping[str, Any]) -> dict[str, Any]:
    """By how many definitions lattice and field have the same ratio, in standard errors of the difference.

    both : known of both.   one : of one of them only.   agree : of both, those within two errors; None with one seed.
    apart : the largest difference in errors, and by which definition.
    """
    pairs = list(zip(lattice["definitions"], theory["definitions"], strict=True))
    both = [(a, b) for a, b in pairs if a["settles"] and b["settles"]]
    found: dict[str, Any] = {
        "of": len(pairs),
        "both": len(both),
        "one": sum(a["settles"] != b["settles"] for a, b in pairs),
        "within": AGREE_TO,
        "agree": None,
        "apart": None,
    }
    if both and lattice["seeds"] > 1:
        differ = np.array([abs(a["mean"] - b["mean"]) for a, b in both])
        errors = np.array([math.hypot(a["error"], b["error"]) for a, b in both])
        found["agree"] = int((differ <= AGREE_TO * errors).sum())
        parts = np.divide(differ, errors, out=np.zeros_like(differ), where=errors > 0)
        a, _ = both[int(np.argmax(parts))]
        found["apart"] = {"errors": float(parts.max()), **{key: a[key] for key in ("curve", "kind", "level", "window")}}
    return found


# what is shown


def draw(config: RegimesConfig, out: Path, scores: dict[str, Any], details: Details) -> None:
    """All figures of the study."""
    from bbdfield.plotting import regimes as plots
    from bbdfield.plotting.style import save

    found = scores["regimes"]
    middle = {name: of.windows[len(of.windows) // 2] for name, of in details.definitions.items()}
    figures = {"regimes": plots.figure_ratios(found, middle)}
    curves = {}
    for name, runs in details.runs.items():
        of = runs[0].curves
        window = max(details.definitions[name].windows)
        curves[name] = {curve: smoothed(getattr(of, curve), window) for curve in ("w", "w_rate", "a")}
    figures["regimes-curves"] = plots.figure_curves(
        curves,
        {name: len(runs[0].curves.a) for name, runs in details.runs.items()},
        NAMES,
        {name: of["correlation"] for name, of in found["networks"].items()},
    )
    system = "field" if "field" in details.runs else "lattice"
    if system in details.runs and details.runs[system][0].nodal:
        run = details.runs[system][0]
        figures["regimes-nodal"] = plots.figure_nodal(run.nodal, periodic=config.lattice.padding == "circular")
    for name, figure in figures.items():
        save(figure, out / "figures" / f"{name}.png")


def describe(config: Mapping[str, Any], scores: Mapping[str, Any]) -> Description:
    """What was measured, in words and tables."""
    found = scores["regimes"]
    three, networks = found["factor_about_three"], found["networks"]
    seeds = next(iter(networks.values()))["seeds"]
    head = ["both settle", "T^w/T^a: median\nleast – most", "patterns first", "about 3"]
    tables = [
        Table(
            "Settling times of weights over those of patterns",
            ["network", "test accuracy", *head],
            [[of["name"], percent(of["accuracy_mean"]), *_cells(of)] for of in networks.values()],
            f"By how many definitions of settling; medians over {seeds} seed{'s' if seeds > 1 else ''}. Both settle:"
            " weights and patterns, in every run; the time at which a sum reaches its part q counts only for curves"
            " that settle by the largest ρ, too. Patterns first: mean ratio larger than 1 by more than its standard"
            f" error. About 3: {three['definition']}",
        ),
        Table(
            "The same, by the kind of definition",
            ["definition", *head, "no number\n(> bound, < bound)", "may be about 3"],
            [
                [
                    _FAMILY_WORDS[family],
                    *_cells(of),
                    f"{of['count'] - of['known']}\n({of['at_least']}, {of['at_most']})",
                    str(of["open"] + of["undetermined"]),
                ]
                for family, of in three["families"].items()
            ],
            "A case is one definition and one network. No number: some curve does not settle in some run. May be about"
            " 3: no number and a bound, or none, that does not exclude it; or a number with a large error.",
        ),
    ]
    for title, hits in (
        ("Where the ratio is about 3", three["where"]),
        ("Where it may be, with a large error", three["undetermined"]),
    ):
        if hits:
            rows = [
                [
                    NAMES[hit["network"]],
                    in_words_of(hit),
                    f"{hit['mean']:.2f}" + ("" if hit["error"] is None else f" ± {hit['error']:.2f}"),
                    f"{hit['median']:.2f}",
                ]
                for hit in hits[:12]
            ]
            note = f"The first 12 of {len(hits)}" if len(hits) > 12 else ""
            tables.append(Table(title, ["network", "definition", "T^w/T^a: mean", "median"], rows, note))
    return Description(_summary(config, networks, seeds), tables, _message(found))


_FAMILY_WORDS = {
    "rho": "w_t and a_t stay under ρ × maximum",
    "q": "sums of w_t and a_t reach q × total",
    "distance": "distance from the end stays under ρ × maximum",
}


def _cells(of: Mapping[str, Any]) -> list[str]:
    first = "–" if of["patterns_first"] is None else f"{of['patterns_first']} of {of['known']}"
    return [f"{of['known']} of {of['count']}", _range_of(of), first, f"{of['about_three']} of {of['known']}"]


def _summary(config: Mapping[str, Any], networks: Mapping[str, Any], seeds: int) -> str:
    """What was done, of the networks that were chosen."""
    keys, count = config["regimes"], len(networks)
    words = [
        "Of every training step the relative change of the weights and the fraction of activation signs that flip were"
        f" followed, in {count} network{'s' if count > 1 else ''} with {seeds} seed{'s' if seeds > 1 else ''} each."
    ]
    if {"lattice", "field"} & networks.keys():
        words.append(network_in_words(config))
    if {"dense", "dense-decaying", "dense-full-batch"} & networks.keys():
        words.append(
            f"Dense networks have hidden layers of {' and '.join(map(str, keys['widths']))} units, and all their layers"
            " train."
        )
    if "dense-residual" in networks:
        words.append(
            f"The dense residual network has {keys['blocks']} block{'s' if keys['blocks'] > 1 else ''} of two layers,"
            f" {keys['widths'][0]} units wide, after a fixed linear layer."
        )
    return " ".join(words)


def in_words_of(entry: Mapping[str, Any]) -> str:
    """A definition: "w, ρ = 0.1, window 40"."""
    curve = {"w": "w_t", "w_rate": "w_t/η_t", "distance": "distance from the end"}[entry["curve"]]
    level = f"{'q' if entry['kind'] == 'q' else 'ρ'} = {entry['level']:g}"
    return f"{curve}, {level}" + ("" if entry["window"] is None else f", window {entry['window']}")


def _range_of(of: Mapping[str, Any]) -> str:
    if of["median"] is None:
        return "–"
    return f"{number(of['median'])}\n{number(of['least'])} – {number(of['most'])}"


def _message(found: Mapping[str, Any]) -> str:
    """What is seen, from the numbers."""
    three = found["factor_about_three"]
    if not three["known"]:
        return f"By none of {three['of']} definitions do both weights and patterns settle in every run."
    words = []
    for family, start in (
        ("rho", "By the level ρ of single steps, w_t or w_t/η_t against a_t,"),
        ("q", "By their sums"),
        ("distance", "By the distance from the end of the run"),
    ):
        of = three["families"][family]
        if not of["count"]:
            continue
        if not of["known"]:
            words.append(f"{start} nothing settles within every run.")
            continue
        words.append(
            f"{start} weights settle at {number(of['median'])} times the time of the patterns (median of {of['known']}"
            f" cases, definitions and networks; eight of ten lie from {number(of['tenth'])} to"
            f" {number(of['ninetieth'])}); a factor of about 3 appears in {of['about_three']} of them"
            + (f", and {of['undetermined']} more may be about 3." if of["undetermined"] else ".")
        )
    every = list(three["families"].values())
    unknown, at_least, at_most, open_, flat = (
        sum(of[key] for of in every) for key in ("unknown", "at_least", "at_most", "open", "flat")
    )
    if unknown:
        words.append(
            f"In {unknown} of {three['of']} cases a curve does not settle within every run, and there is no number:"
            f" {at_least} have a lower bound, {at_most} an upper one, and {open_} may be about 3."
        )
    if flat:
        words.append(f"In {flat} more the sum of a curve that does not settle reaches its part, which says nothing.")
    pair = found.get("lattice_and_field")
    if pair is not None and pair["agree"] is not None:
        words.append(
            f"Lattice and field agree within {pair['within']:g} standard errors in {pair['agree']} of the"
            f" {pair['both']} definitions by which both have a number; {pair['one']} of {pair['of']} have one of only"
            " one of them."
        )
    nodal = found["networks"].get("field", found["networks"].get("lattice", {})).get("nodal")
    if nodal is not None and nodal["swept"] is not None:
        words.append(
            f"A step flips {number(nodal['flipped'])} of the units on average, and nodal lines of ẑ sweep"
            f" {number(nodal['swept'])} of the area."
        )
    return " ".join(words)
