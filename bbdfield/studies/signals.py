"""The signals study: how far do signals travel in depth, in random networks and in one that is being trained?

Random networks, from the mean-field maps alone: fixed points, depth scales and the critical line, with measurements on
networks of finite width beside them. A trained network, from its linearised bulk: a small change of the input signal
grows along depth at the rate Λ = ln(|δz(L)|/|δz(0)|)/L, over a depth scale ξ = 1/|Λ|; on the lattice and, from its own
equations, in the field theory, for

- the leading singular direction of the transfer operator δz(0) → δz(L), by sample,
- the difference of two inputs,
- random directions, white in y and over channels.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from bbdfield.errors import InputError
from bbdfield.fields.simulation import simulate
from bbdfield.fields.well_posedness import check_start, largest_input
from bbdfield.lattice.sharpness import check_training_step, stability_limit
from bbdfield.lattice.training import LatticeSystem, train
from bbdfield.model.activations import is_built_in
from bbdfield.model.boundary import Boundary
from bbdfield.model.run import Run
from bbdfield.model.units import to_lattice
from bbdfield.propagation.linearised import linearised_run
from bbdfield.propagation.mean_field import FixedPoint, MeanField, critical_weight, depth_scale
from bbdfield.propagation.random_networks import Measured, measure
from bbdfield.propagation.transfer import growth, leading, random_directions
from bbdfield.storage.sidecar import write_sidecar
from bbdfield.studies.config import SignalsConfig
from bbdfield.studies.describe import Description, Table, decimal, network, number, percent
from bbdfield.studies.kinds import Session
from bbdfield.studies.machines import field_machine, in_words
from bbdfield.studies.pool import run_jobs
from solvers.sweeps import get_scheme

Array = npt.NDArray[np.float64]

#: random streams of the study's seed
STREAM_NETWORKS, STREAM_DIRECTIONS, STREAM_LEADING = 20, 21, 22
DIRECTIONS = ("leading", "inputs", "random")
SYSTEMS = ("lattice", "field")
#: where pairs of signals start in random networks: variance, correlation
START = (1.0, 0.5)
#: rates below this are rounding: nothing grows or shrinks
STILL = 1e-12
#: the phase diagram's own grid and quadrature
MAP_WEIGHTS, MAP_BIASES, MAP_NODES = 48, 25, 48

CAPTIONS = {
    "signals-phases": "Left: depth scale ξ_c of the correlation of two signals in random networks, by the mean-field"
    " maps, over the variances of weights and biases. On the critical line it is infinite; dots are the ensembles of"
    " the table, with their ξ_c. Right: correlation of two signals in networks of finite width (dots, mean and standard"
    " error) and by the maps (lines); dashes are the fixed points.",
    "signals-rates": "Growth rate of small changes of the input over the whole depth, against training time: means over"
    " the probe samples, bands from their 16th to their 84th percentile. Lines are the network, dots the field theory,"
    " both linearised about their own states. Right: their depth scale, over which changes grow or shrink by a factor"
    " e.",
    "signals-local": "Local growth rate of the leading singular direction, over depth and training time, mean over the"
    " probe samples: of the network, of the field theory, and their difference, which has a scale of its own.",
}


@dataclass(frozen=True)
class Job:
    """One trajectory to compute."""

    kind: str

    @property
    def label(self) -> str:
        return self.kind


@dataclass
class Details:
    """Arrays for figures and sidecar.

    weights, biases, xi : the phase diagram, ξ_c (bias, weight).   line : (n, 2) σ_b² and critical σ_w².
    correlation, correlation_error, expected : c of random networks (ensemble, layer), and of the maps.
    t, x : times and the links of both systems.
    rate : system -> direction -> Λ of every sample (t, B).   local : the same, local rate on links, mean over samples.
    residual : of the leading singular triples, the worst.
    """

    weights: Array = field(default_factory=lambda: np.zeros(0))
    biases: Array = field(default_factory=lambda: np.zeros(0))
    xi: Array = field(default_factory=lambda: np.zeros((0, 0)))
    line: Array = field(default_factory=lambda: np.zeros((0, 2)))
    correlation: Array = field(default_factory=lambda: np.zeros((0, 0)))
    correlation_error: Array = field(default_factory=lambda: np.zeros((0, 0)))
    expected: Array = field(default_factory=lambda: np.zeros((0, 0)))
    t: Array = field(default_factory=lambda: np.zeros(0))
    x: dict[str, Array] = field(default_factory=dict)
    rate: dict[str, dict[str, Array]] = field(default_factory=dict)
    local: dict[str, dict[str, Array]] = field(default_factory=dict)
    residual: float = 0.0


def check(config: SignalsConfig) -> str:
    """Refuse ensembles without fixed point, and steps that could only diverge; returns backend and sharpness."""
    for variances in config.signals.variances:
        try:
            MeanField(*variances, config.signals.activation).fixed_point()
        except InputError as error:
            raise InputError(f"signals.variances: {error}") from None
    for bias in config.signals.biases:
        try:
            critical_weight(bias, config.signals.activation)
        except InputError as error:
            raise InputError(f"signals.biases: {error}") from None
    lattice, training = config.network(), config.training_plan()
    boundary = Boundary.draw(config.dataset(), lattice, training)
    if not _sizes(input_differences(boundary.probe_input(lattice.width))).all():
        raise InputError(
            f"training.probe: the {training.probe} probe samples are all alike, so that their signals have no"
            " differences; use more, or other data"
        )
    start = to_lattice(config.initial_fields(lattice).on(lattice.grid, lattice))
    system = LatticeSystem(lattice, boundary, start, **config.training.machine())
    sharp = check_training_step(system)
    fields = config.initial_fields(lattice).on(config.field_grid())
    scheme, largest = get_scheme(config.field.depth_scheme), largest_input(boundary, config.field_grid().n_y)
    check_start(fields, config.field.order, scheme, largest=largest, **config.theory())
    stable = f"τ λ_max = {sharp:.3g} at the start (steps are stable up to {stability_limit(training):.3g})"
    keys, grid = config.field, config.field_grid()
    field = field_machine(keys.machine(), lattice, grid, keys.order, training, **config.theory())
    return f"{in_words([system.backend.description], [field])}; {stable}"


def compute(config: SignalsConfig, out: Path, session: Session) -> tuple[dict[str, Any], Details]:
    """Lattice and field each by their own dynamics, random networks, then the linearised bulk at every snapshot."""
    details = Details()
    workers = min(session.workers, 2) if is_built_in(config.lattice.activation) else 1
    session.say(f"lattice and field in {workers} processes")
    run_jobs(run_job, [Job("field"), Job("lattice")], config, out, workers, session.report, session.say)
    with threadpool_limits(1):
        session.say("random networks")
        found = random_networks(config, details)
        session.say("the linearised bulk")
        found["trained"] = follow_training(config, out, details)
    _write(config, out, details)
    return {"kind": config.kind, "title": config.title, "signals": found}, details


def run_job(job: Job, config: SignalsConfig, out: Path, progress: Callable[[int, int, float], None] | None) -> None:
    """Compute, or continue, one trajectory; the field is told nothing of the lattice's."""
    lattice, training = config.network(), config.training_plan()
    settings: dict[str, Any] = {"resume": True, "compression": config.compression(), "progress": progress}
    start = config.initial_fields(lattice)
    if job.kind == "lattice":
        machine = config.training.machine()
        train(lattice, config.dataset(), training, initial=start, out=out / "lattice.h5", **machine, **settings).close()
        return
    simulate(
        start.on(config.field_grid()),
        Boundary.draw(config.dataset(), lattice, training),
        order=config.field.order,
        depth_scheme=config.field.depth_scheme,
        **config.field.machine(),
        out=out / "field.h5",
        **config.theory(),
        **settings,
    ).close()


def draw(config: SignalsConfig, out: Path, scores: dict[str, Any], details: Details) -> None:
    """All figures of the study."""
    from bbdfield.plotting import signals as plots
    from bbdfield.plotting.style import save

    found = scores["signals"]
    figures = {
        "signals-phases": plots.figure_phases(
            details.weights,
            details.biases,
            details.xi,
            details.line,
            found["table"],
            found["width"],
            details.correlation,
            details.correlation_error,
            details.expected,
        ),
        "signals-rates": plots.figure_rates(details.t, details.rate),
        "signals-local": plots.figure_local(
            details.t, details.x, {name: local["leading"] for name, local in details.local.items()}
        ),
    }
    for name, figure in figures.items():
        save(figure, out / "figures" / f"{name}.png")


# random networks


def random_networks(config: SignalsConfig, details: Details) -> dict[str, Any]:
    """The table of fixed points with measurements beside it, the critical line, and the phase diagram."""
    keys = config.signals
    table, means, errors, expected = [], [], [], []
    for i, (weight, bias) in enumerate(keys.variances):
        ensemble = MeanField(weight, bias, keys.activation)
        point, (q, c) = ensemble.fixed_point(), START
        found = measure(
            ensemble,
            width=keys.width,
            depth=keys.settle + keys.layers,
            networks=keys.networks,
            q=q,
            c=c,
            seed=int(np.random.default_rng([config.seed, STREAM_NETWORKS, i]).integers(2**31)),
        )
        means.append(found.c.mean(axis=0))
        errors.append(_error(found.c))
        expected.append(ensemble.layers(q, c, keys.settle + keys.layers)[1])
        table.append({"weight": weight, "bias": bias, **_numbers(point), "measured": _measured(found, keys.settle)})
    details.correlation, details.correlation_error = np.array(means), np.array(errors)
    details.expected = np.array(expected)
    lines = [{"bias": bias, "weight": critical_weight(bias, keys.activation)} for bias in keys.biases]
    _map_phases(config, details)
    return {
        "activation": keys.activation,
        "width": keys.width,
        "networks": keys.networks,
        "settle": keys.settle,
        "layers": keys.layers,
        "table": table,
        "critical_line": lines,
    }


def _numbers(point: FixedPoint) -> dict[str, Any]:
    finite = {name: _finite(getattr(point, name)) for name in ("q", "chi", "xi_q", "c", "xi_c")}
    return {**finite, "phase": "ordered" if point.chi < 1 else "chaotic" if point.chi > 1 else "critical"}


def _finite(value: float) -> float | None:
    """The value for scores.json, None where it is infinite."""
    return float(value) if math.isfinite(value) else None


def _error(values: Array) -> Array:
    """Standard error of the mean over networks (axis 0); 0 for one network."""
    error: Array = values.std(axis=0, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else np.zeros(values.shape[1])
    return error


def _measured(found: Measured, settle: int) -> dict[str, Any]:
    """Means over the layers after `settle`, with standard errors over networks; ξ by the measured factors."""

    def late(values: Array) -> tuple[float, float]:
        each = values[:, settle:].mean(axis=1, keepdims=True)
        return float(each.mean()), float(_error(each)[0])

    moments = {"q": found.q, "c": found.c, "chi": found.chi}
    result = {name: [_finite(value) for value in late(values)] for name, values in moments.items()}
    for name, values in (("xi_q", found.chi_q), ("xi_c", found.chi_c)):
        factor, error = late(values)
        xi = depth_scale(factor)
        # |dξ/dχ| = ξ²/χ
        result[name] = [_finite(xi), _finite(xi * xi * error / abs(factor)) if factor and math.isfinite(xi) else None]
    return result


def _map_phases(config: SignalsConfig, details: Details) -> None:
    """ξ_c over the variances of weights and biases, around the ensembles of the table; NaN without fixed point."""
    keys = config.signals
    weights, biases = (np.array(values) for values in zip(*keys.variances, strict=True))
    details.weights = np.linspace(0.4 * float(weights.min()), 1.15 * float(weights.max()), MAP_WEIGHTS)
    details.biases = np.linspace(0.0, 2.0 * max(float(biases.max()), *keys.biases, 1e-3), MAP_BIASES)
    details.xi = np.full((MAP_BIASES, MAP_WEIGHTS), np.nan)
    for i, bias in enumerate(details.biases):
        for j, weight in enumerate(details.weights):
            try:
                point = MeanField(float(weight), float(bias), keys.activation, nodes=MAP_NODES).fixed_point()
            except InputError:
                continue
            details.xi[i, j] = point.xi_c
    line = []
    for part in np.linspace(0.0, 1.0, MAP_WEIGHTS):
        bias = float(details.biases[-1]) * part**3  # denser where the line bends
        try:
            line.append((bias, critical_weight(bias, keys.activation)))
        except InputError:
            continue
    details.line = np.array(line).reshape(-1, 2)


# the trained network


def follow_training(config: SignalsConfig, out: Path, details: Details) -> dict[str, Any]:
    """Λ of all directions at every snapshot, of lattice and field, each linearised about its own state."""
    runs = {"lattice": Run(out / "lattice.h5"), "field": Run(out / "field.h5")}
    try:
        details.t = runs["lattice"].t
        for name, run in runs.items():
            rates: dict[str, list[Array]] = {direction: [] for direction in DIRECTIONS}
            local: dict[str, list[Array]] = {direction: [] for direction in DIRECTIONS}
            for i in range(len(run.t)):
                transfer = linearised_run(run, i)
                best = leading(transfer, seed=(config.seed, STREAM_LEADING))
                details.residual = max(details.residual, float(best.residual.max()))
                starts = {
                    "leading": best.direction[None],
                    "inputs": input_differences(run.z(i)[0])[None],
                    "random": random_directions(
                        transfer.shape, config.signals.directions, (config.seed, STREAM_DIRECTIONS)
                    ),
                }
                for direction, start in starts.items():
                    found = growth(transfer, start)
                    rates[direction].append(found.rate.mean(axis=0))
                    local[direction].append(found.local.mean(axis=(1, 2)))
            details.x[name] = run.grid.x_links
            details.rate[name] = {direction: np.array(values) for direction, values in rates.items()}
            details.local[name] = {direction: np.array(values) for direction, values in local.items()}
        accuracy = {name: run.evaluation["test_accuracy"] for name, run in runs.items()}
    finally:
        for run in runs.values():
            run.close()
    means = {
        name: {direction: values.mean(axis=1).tolist() for direction, values in of.items()}
        for name, of in details.rate.items()
    }
    return {
        "t": details.t.tolist(),
        # a change that dies out has the rate −∞, and the depth scale 0
        "rate": {name: {d: [_finite(v) for v in values] for d, values in of.items()} for name, of in means.items()},
        "depth_scale": {
            name: {d: [1 / abs(v) if abs(v) > STILL else None for v in values] for d, values in of.items()}
            for name, of in means.items()
        },
        "difference": {
            direction: _difference(details.rate["field"][direction], details.rate["lattice"][direction])
            for direction in DIRECTIONS
        },
        "steepest_x": {
            name: [float(details.x[name][np.argmax(row)]) for row in details.local[name]["leading"]] for name in SYSTEMS
        },
        "residual": details.residual,
        "directions": config.signals.directions,
        "samples": int(details.rate["lattice"]["leading"].shape[1]),
        "accuracy": {name: [_finite(v) for v in values.tolist()] for name, values in accuracy.items()},
    }


def input_differences(z0: Array) -> Array:
    """z0 of the next sample that differs, minus z0: (N, C, B) -> (N, C, B); zero if all samples are alike."""
    found = np.zeros_like(z0)
    for shift in range(1, z0.shape[-1]):
        alike = _sizes(found) == 0
        if not alike.any():
            break
        found[..., alike] = (np.roll(z0, shift, axis=-1) - z0)[..., alike]
    return found


def _sizes(dz: Array) -> Array:
    """|δz|² of every sample."""
    sizes: Array = np.sum(dz * dz, axis=(0, 1))
    return sizes


def _difference(field: Array, lattice: Array) -> float | None:
    """Largest |Λ_field − Λ_lattice|, where not both are −∞; None if one of them alone is."""
    both = np.isneginf(field) & np.isneginf(lattice)
    return _finite(float(np.max(np.abs(np.subtract(field, lattice, out=np.zeros_like(field), where=~both)))))


# what it amounts to


def describe(config: Mapping[str, Any], scores: Mapping[str, Any]) -> Description:
    """What was measured, in words and tables."""
    found = scores["signals"]
    trained = found["trained"]
    head = ["σ_w², σ_b²", "phase", "q*", "χ₁", "ξ_q", "c*", "ξ_c"]
    rows = [
        [
            f"{row['weight']:g}, {row['bias']:g}",
            row["phase"],
            *(f"{_digits(row[name])}\n{_with_error(row['measured'][name])}" for name in _TABLE),
        ]
        for row in found["table"]
    ]
    tables = [
        Table(
            "Random networks",
            head,
            rows,
            f"Mean field ({found['activation']}, N → ∞); below, {found['networks']} networks of width {found['width']},"
            f" mean over {found['layers']} layers after the first {found['settle']}, ± standard error. ξ in layers",
        ),
        Table(
            "The critical line",
            ["σ_b²", "σ_w²"],
            [[f"{row['bias']:g}", f"{row['weight']:.6f}"] for row in found["critical_line"]],
            "χ₁ = 1 at the fixed point: below, signals become alike; above, they separate",
        ),
        Table(
            "The trained network",
            ["direction of δz(0)", "Λ at t = 0", "Λ at the end", "ξ at the end", "field: Λ at the end", "difference"],
            [
                [
                    _WORDS[direction],
                    decimal(trained["rate"]["lattice"][direction][0]),
                    decimal(trained["rate"]["lattice"][direction][-1]),
                    decimal(trained["depth_scale"]["lattice"][direction][-1]),
                    decimal(trained["rate"]["field"][direction][-1]),
                    trained["difference"][direction],
                ]
                for direction in DIRECTIONS
            ],
            "Λ > 0: changes grow; ξ = 1/|Λ| in units of the whole depth; means over"
            f" {trained['samples']} probe samples. Difference: largest |Λ_field − Λ_lattice| over samples and times",
        ),
    ]
    summary = (
        f"The mean-field maps of random {found['activation']} networks were iterated to their fixed points, and"
        f" compared with random networks of width {found['width']}. {network(config)} The field theory was integrated"
        " from the same initial fields. At every stored time both were linearised about their own states, and small"
        " changes of the input signals were carried through the depth: along the leading singular direction of each"
        f" sample, along differences of inputs, and along {trained['directions']} random directions."
    )
    return Description(summary, tables, _message(trained))


_TABLE = ("q", "chi", "xi_q", "c", "xi_c")
_WORDS = {"leading": "leading singular", "inputs": "difference of two inputs", "random": "random"}


def _digits(value: float | None) -> str:
    return "∞" if value is None else f"{value:.4g}" if value >= 1000 else f"{value:.4f}"


def _with_error(value: list[float | None]) -> str:
    mean, error = value
    if mean is None or error is None:
        return number(mean)
    digits = max(0, min(7, 1 - math.floor(math.log10(error)))) if error > 0 else 4
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def _message(trained: Mapping[str, Any]) -> str:
    """What is seen, from the numbers."""
    rate, scale = trained["rate"]["lattice"], trained["depth_scale"]["lattice"]["leading"][-1]
    first, last = rate["leading"][0], rate["leading"][-1]
    if first is None or last is None:
        when = "before" if last is not None else "after" if first is not None else "before and after"
        return (
            "In the network, and for one probe sample at least, every change of the input dies out on its way through"
            f" the depth, {when} training."
        )
    how = f"{'rises' if last > first else 'falls'} from {decimal(first)} to {decimal(last)}"
    if abs(last - first) <= max(0.05 * abs(first), STILL):
        how = f"stays at {decimal(last)}"
    end = (
        "changes along it keep their size"
        if scale is None
        else (f"changes along it {_grow(last)} e-fold over {number(scale, 2)} of the depth")
    )
    return (
        f"While the network is trained, the growth rate of its leading direction {how} per depth: at the end {end}."
        f" Differences of inputs {_moves(rate['inputs'])}, random changes {_moves(rate['random'])}."
        f" {_agreement(trained['difference']['leading'], rate['leading'])}"
    )


def _agreement(worst: float | None, rates: list[float | None]) -> str:
    """How far the field theory's leading rates are those of the network."""
    if worst is None:
        return "In the network or in the field theory, but not in both, a leading direction dies out."
    largest = max(abs(value) for value in rates if value is not None)
    relative = f", {percent(worst / largest)} of the largest" if largest > STILL else ""
    return f"The field theory's leading rates agree with the network's to {number(worst, 2)}{relative}."


def _moves(rates: list[float | None]) -> str:
    """What changes do at the end, and at first."""
    first, last = ("−∞" if v is None else decimal(v if abs(v) > STILL else 0.0) for v in (rates[0], rates[-1]))
    return f"{_grow(rates[-1])} at {last} (at first {first})"


def _grow(rate: float | None) -> str:
    if rate is None:
        return "die out"
    return "keep their size" if abs(rate) <= STILL else "grow" if rate > 0 else "shrink"


def _write(config: SignalsConfig, out: Path, details: Details) -> None:
    """Every array to signals.h5."""
    arrays: dict[str, tuple[tuple[str, ...], Any]] = {
        "xi": (("bias", "weight"), details.xi),
        "critical": (("point", "axis"), details.line),
        "correlation": (("ensemble", "layer"), details.correlation),
        "correlation_error": (("ensemble", "layer"), details.correlation_error),
        "correlation_expected": (("ensemble", "layer"), details.expected),
    }
    coordinates: dict[str, Any] = {
        "bias": details.biases,
        "weight": details.weights,
        "layer": np.arange(details.expected.shape[1]),
        "t": details.t,
    }
    for name in SYSTEMS:
        coordinates[f"{name}_x_link"] = details.x[name]
        for direction in DIRECTIONS:
            arrays[f"{name}_{direction}_rate"] = (("t", "sample"), details.rate[name][direction])
            arrays[f"{name}_{direction}_local"] = (("t", f"{name}_x_link"), details.local[name][direction])
    write_sidecar(
        out / "signals.h5",
        kind=config.kind,
        config=tomllib.loads(config.to_toml()),
        arrays=arrays,
        coordinates=coordinates,
        overwrite=True,
    )
