"""The temperature study: does the gap between training and test loss depend on rate and batch through rate/batch alone?

Open question 1 of arXiv 2511.02003 asks what the noise of the boundary does, whose temperature is rate/batch to lowest
order. One lattice is trained over a grid of learning rates × minibatches × seeds, on the first samples of the training
set so that a gap is seen, all for the same training time t, in steps ∝ 1/rate.

At equal t a hot network has also learned less, and its loss passed over the data fewer times (passes ∝ batch/rate). The
gap is therefore also compared where training losses are equal, and by the partial rank correlation given the loss.

Beside it the closed forms of the one-dimensional theory against simulation, and the ratio of dissipation to fluctuation
along all runs, which is 1 where a run is stationary.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from bbdfield.datasets import Dataset
from bbdfield.errors import InputError
from bbdfield.lattice.sharpness import check_training_step, stability_limit
from bbdfield.lattice.training import LatticeSystem
from bbdfield.model.activations import is_built_in
from bbdfield.model.architecture import Lattice, Training
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.losses import accuracy, get_loss
from bbdfield.model.run import evaluate
from bbdfield.model.units import to_lattice
from bbdfield.observables import quadratic
from bbdfield.observables.noise import GradientNoise
from bbdfield.observables.temperature import Descent, chosen_samples, noise_of_lattice
from bbdfield.storage.sidecar import Sidecar, finished_sidecar, read_sidecar, write_sidecar
from bbdfield.studies.collapse import compare, plain, rank_correlation, slopes, statistics, student_interval
from bbdfield.studies.config import TemperatureConfig
from bbdfield.studies.describe import Description, Table, decimal, network, number
from bbdfield.studies.kinds import Session
from bbdfield.studies.machines import in_words
from bbdfield.studies.pool import run_jobs

Array = npt.NDArray[np.float64]
Progress = Callable[[int, int, float], None]

#: a network whose training loss exceeds this many times its start has diverged, even if slowly
DIVERGED = 10.0
#: random stream of the study's seed
STREAM_CHAINS = 40
#: the noise is measured at so many of the times
NOISE_TIMES = 6
#: the one-dimensional chains: momentum, ηh
FORMS = tuple((momentum, step) for momentum in (0.0, 0.5, 0.9) for step in (0.1, 0.5, 1.0, 1.8))
#: all deviations from the closed forms together are beyond their limit with at most this chance
JOINT = 0.01
#: what is compared over the grid, in the order of the tables
QUANTITIES = {
    "gap": "gap, test − training loss, at equal time",
    "gap_at_level": "gap at the training loss that all reach",
    "gap_at_deep_level": "gap at the training loss that half of them reach",
    "accuracy_gap": "training − test accuracy, at equal time",
    "accuracy_gap_at_level": "training − test accuracy at the loss that all reach",
    "train_loss": "training loss",
    "test_loss": "test loss",
    "test_accuracy": "test accuracy",
}
CURVES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")

CAPTIONS = {
    "temperature": "The gap between test and training loss of networks trained with different learning rates and"
    " minibatches (colours), against their ratio: after the same training time (left), and where all have the same"
    " training loss (right). Points are means over seeds, bars their standard errors; points above one another have"
    " equal rate/batch. Were it temperature alone that counts, they would coincide.",
    "temperature-curves": "Left: training loss along all runs, means over seeds, coloured by rate/batch. Right: the"
    " gap against the training loss that a run has at the same time: how far curves of different colours coincide says"
    " how far temperature does no more than slow learning down.",
    "temperature-balance": "Left: dissipation over fluctuation along the runs, means over seeds; 1 is a stationary"
    " state, below it the parameters' norm still grows. Right: the measured effective temperature against rate/batch,"
    " mean over the times after the start, with a guide of slope 1.",
    "temperature-forms": "Position variance of one-dimensional chains with noise (dots, with two standard errors)"
    " and its closed form (lines), for three momenta; right: their difference in standard errors, with that of the"
    " balance of dissipation and fluctuation.",
}


# the networks


@dataclass(frozen=True)
class Job:
    """One network: learning rate in units of training.step, minibatch, seed."""

    rate: float
    batch: int
    seed: int

    @property
    def label(self) -> str:
        return f"rate {_exact(self.rate)}, batch {self.batch}, seed {self.seed}"

    @property
    def file(self) -> str:
        return f"trained-rate{_exact(self.rate)}-batch{self.batch}-seed{self.seed}.h5"

    def told(self, config: TemperatureConfig) -> dict[str, Any]:
        """All that a job's numbers depend on, key by key, for its sidecar."""
        sections = tomllib.loads(config.to_toml())
        study = {
            f"{section}.{key}": value
            for section, table in sections.items()
            if isinstance(table, dict) and section not in ("output", "temperature")
            for key, value in table.items()
        }
        own = {"samples": config.temperature.samples, "evaluations": config.temperature.evaluations}
        return {"rate": self.rate, "batch": self.batch, "seed": self.seed, **own, **study}


def _exact(value: float) -> str:
    """The shortest text that only this number has."""
    return repr(float(value)).removesuffix(".0")


def jobs_of(config: TemperatureConfig) -> list[Job]:
    """All networks, the longest runs first."""
    keys = config.temperature
    seeds = [config.seed + k for k in range(keys.seeds)]
    return [Job(rate, batch, seed) for rate in keys.rates for batch in reversed(keys.batches) for seed in seeds]


@lru_cache(maxsize=1)
def _first(data: Dataset, samples: int) -> Dataset:
    return Dataset(
        data.name,
        data.x[:samples],
        data.y[:samples],
        data.x_test,
        data.y_test,
        outputs=data.outputs,
        source=data.source,
    )


def lattice_of(config: TemperatureConfig) -> Lattice:
    return config.lattice_at(*config.rungs()[0])


def training_of(config: TemperatureConfig, job: Job) -> Training:
    """The job's training: its own step, minibatch and seed, for the time that all have."""
    plan = config.training_plan()
    return dataclasses.replace(
        plan, step=plan.step * job.rate, steps=round(config.steps(job.rate)), batch=job.batch, seed=job.seed
    )


def system_of(config: TemperatureConfig, job: Job) -> LatticeSystem:
    """The job's network at its start; networks of one seed start alike."""
    lattice = lattice_of(config)
    boundary = Boundary.draw(_first(config.dataset(), config.temperature.samples), lattice, training_of(config, job))
    initial = InitialFields(lattice, job.seed, **config.initial.model_dump())
    return LatticeSystem(lattice, boundary, to_lattice(initial.on(lattice.grid, lattice)), **config.training.machine())


def check(config: TemperatureConfig) -> str:
    """Refuse a grid whose slowest rate could only diverge; returns backend and sharpness in words."""
    rates = config.temperature.rates
    slowest = system_of(config, Job(rates[0], config.training.batch, config.seed))
    sharp, limit = check_training_step(slowest) * rates[-1] / rates[0], stability_limit(slowest.boundary.training)
    stable = f"τ λ_max = {sharp:.3g} at the start at the fastest rate (steps are stable up to {limit:.3g})"
    backends = [
        system_of(config, Job(rates[0], batch, config.seed)).backend.description for batch in config.temperature.batches
    ]
    return f"{in_words(backends)}; {stable}"


def run_job(job: Job, config: TemperatureConfig, out: Path, progress: Progress | None) -> None:
    """Train one network and leave its curves in a sidecar, unless it is there.

    Raises
    ------
    InputError
        for a sidecar of another configuration.
    """
    path, told = out / job.file, job.told(config)
    finished = finished_sidecar(path)
    if finished is not None:
        differing = [key for key in sorted({*told, *finished.config}) if finished.config.get(key) != told.get(key)]
        if finished.kind != config.kind or differing:
            raise InputError(
                f"{path}: is of another configuration (differs in {', '.join(differing) or 'kind'}); remove it"
            )
        return
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        arrays = follow(config, job, progress)
    write_sidecar(path, kind=config.kind, config=told, arrays=arrays, coordinates={}, overwrite=True)


def follow(config: TemperatureConfig, job: Job, progress: Progress | None) -> dict[str, tuple[tuple[str, ...], Array]]:
    """Train, and measure at equal times: losses and accuracies, the noise at some of them, and between them the sums of
    dissipation and fluctuation. What follows a divergence is NaN.
    """
    system = system_of(config, job)
    boundary, lattice = system.boundary, system.lattice
    training, data = boundary.training, boundary.dataset
    descent = Descent.of(lattice, lattice.grid, training, "lattice")
    count = config.temperature.evaluations
    due = np.round(np.arange(count + 1) * training.steps / count).astype(int)
    noisy = set(np.unique(np.linspace(0, count, NOISE_TIMES).round().astype(int)).tolist())
    index = chosen_samples(lattice, len(data.x), config.seed)
    curves = {name: np.full(count + 1, np.nan) for name in (*CURVES, "temperature", "trace", "rank")}
    sums = np.full((count, 2), np.nan)
    diverged = math.nan
    loss = get_loss(lattice.loss)
    before = {name: np.array(value) for name, value in system.state().items()}
    for i in range(count + 1):
        logits = system.logits(data.x)
        value = loss.value(logits, boundary.targets)
        if not value <= DIVERGED * (curves["train_loss"][0] if i else math.inf):
            diverged = float(due[i] * training.step)
            break
        test = evaluate(system, boundary)
        now = (value, test["test_loss"], accuracy(logits, data.y), test["test_accuracy"])
        for name, measured in zip(CURVES, now, strict=True):
            curves[name][i] = measured
        if i in noisy:
            noise: GradientNoise = noise_of_lattice(lattice, boundary, before, index)
            curves["temperature"][i] = descent.temperature(noise, len(data.x))
            curves["trace"][i], curves["rank"][i] = noise.trace, noise.effective_rank
        if i == count:
            break
        total = np.zeros(2)
        for k in range(due[i], due[i + 1]):
            last = system.step(k)["loss"]
            if not math.isfinite(last):
                break
            after = {name: np.array(part) for name, part in system.state().items()}
            total += descent.balance(before, after)
            before = after
        else:
            sums[i] = total
            if progress is not None:
                progress(int(due[i + 1]), training.steps, last)
            continue
        diverged = float(k * training.step)
        break
    along = ("evaluation",)
    return {
        "t": (along, due * training.step),
        **{name: (along, values) for name, values in curves.items()},
        "dissipation": (("interval",), sums[:, 0]),
        "fluctuation": (("interval",), sums[:, 1]),
        "diverged": (("one",), np.array([diverged])),
    }


# all networks


@dataclass
class Details:
    """Arrays for figures and sidecar; axes are (rate, batch, seed), curves have time last. NaN is what diverged.

    tau : training steps.   ratio : τ/B (rate, batch).   level, deep_level : training losses that all points reached
    with all seeds, and that half of them did.
    """

    tau: Array
    batches: Array
    ratio: Array
    t: Array
    level: float
    deep_level: float = math.nan
    measured: dict[str, Array] = field(default_factory=dict)
    curves: dict[str, Array] = field(default_factory=dict)
    diverged: Array = field(default_factory=lambda: np.zeros(0))


def compute(config: TemperatureConfig, out: Path, session: Session) -> tuple[dict[str, Any], Details]:
    """Train all networks, compare them, and try the closed forms."""
    jobs = jobs_of(config)
    # another process would not know an activation that was registered in this one
    workers = min(session.workers, len(jobs)) if is_built_in(config.lattice.activation) else 1
    session.say(f"{len(jobs)} lattices in {workers} processes")
    run_jobs(run_job, jobs, config, out, workers, session.report, session.say)
    with threadpool_limits(1):
        session.say("comparing")
        details = gather(config, out)
        found = score(config, details)
        session.say("one-dimensional chains")
        found["forms"] = closed_forms(config)
        found["forms_agreement"] = agreement(found["forms"])
    _write(config, out, details)
    return {"kind": config.kind, "title": config.title, "temperature": found}, details


def gather(config: TemperatureConfig, out: Path) -> Details:
    """Read the sidecars of all jobs."""
    keys = config.temperature
    seeds = [config.seed + k for k in range(keys.seeds)]
    found = [[[read_sidecar(out / Job(rate, b, s).file) for s in seeds] for b in keys.batches] for rate in keys.rates]

    def stacked(of: Callable[[Sidecar], Any]) -> Array:
        return np.array([[[of(one) for one in row] for row in plane] for plane in found], float)

    names = (*CURVES, "temperature", "trace", "rank", "dissipation", "fluctuation")
    curves = {name: stacked(lambda one, name=name: one.arrays[name]) for name in names}  # type: ignore[misc]
    tau = np.array(keys.rates) * config.training.step
    batches = np.array(keys.batches, float)
    t = stacked(lambda one: one.arrays["t"])[0, 0, 0]
    details = Details(tau, batches, tau[:, None] / batches, t, math.nan, curves=curves)
    details.diverged = stacked(lambda one: one.arrays["diverged"][0])
    train, test = curves["train_loss"], curves["test_loss"]
    details.level, details.deep_level = (common_level(train, share) for share in (1.0, 0.5))
    at, deep = (
        {name: at_level(train, values, level) for name, values in curves.items() if name in CURVES}
        for level in (details.level, details.deep_level)
    )
    half = (len(t) - 1) // 2
    sums = [curves[name][..., half:].sum(axis=-1) for name in ("dissipation", "fluctuation")]
    details.measured = {
        "gap": test[..., -1] - train[..., -1],
        "gap_at_level": at["test_loss"] - at["train_loss"],
        "gap_at_deep_level": deep["test_loss"] - deep["train_loss"],
        "accuracy_gap": curves["train_accuracy"][..., -1] - curves["test_accuracy"][..., -1],
        "accuracy_gap_at_level": at["train_accuracy"] - at["test_accuracy"],
        "train_loss": train[..., -1],
        "test_loss": test[..., -1],
        "test_accuracy": curves["test_accuracy"][..., -1],
        # at the start all networks of a seed are one, whose T_eff is a matter of rate and batch by construction
        "temperature": _mean_over_time(curves["temperature"][..., 1:]),
        "rank": _mean_over_time(curves["rank"][..., 1:]),
        "balance": np.divide(sums[0], sums[1], out=np.full(sums[0].shape, np.nan), where=sums[1] > 0),
    }
    return details


def _mean_over_time(values: Array) -> Array:
    """Over the times at which it was measured; NaN for runs that have none at the end."""
    measured = ~np.all(np.isnan(values), axis=tuple(range(values.ndim - 1)))
    mean: Array = values[..., measured].mean(axis=-1) if measured.any() else values[..., 0]
    return mean


def common_level(train: Array, share: float = 1.0) -> float:
    """The lowest training loss that a share of the points reached with all seeds; points that diverged do not count.

    train : (rate, batch, seed, t).   NaN where all diverged.
    """
    points = train.reshape(-1, *train.shape[2:])
    done = points[np.isfinite(points[..., -1]).all(axis=1)]
    if not len(done):
        return math.nan
    reached = np.sort(done.min(axis=-1).max(axis=-1))
    return float(reached[math.ceil(share * len(reached)) - 1])


def at_level(train: Array, values: Array, level: float) -> Array:
    """`values` (…, t) where `train` first reaches the level, NaN where it never does.

    Linear in the training loss between two measurements.
    """
    flat_train, flat = train.reshape(-1, train.shape[-1]), values.reshape(-1, values.shape[-1])
    result = np.full(len(flat), np.nan)
    for n, (curve, row) in enumerate(zip(flat_train, flat, strict=True)):
        reached = np.flatnonzero(curve <= level)
        if not reached.size or not np.isfinite(curve[-1]):
            continue
        i = int(reached[0])
        if i == 0 or curve[i - 1] == curve[i]:
            result[n] = row[i]
            continue
        part = (curve[i - 1] - level) / (curve[i - 1] - curve[i])
        result[n] = row[i - 1] + part * (row[i] - row[i - 1])
    return result.reshape(values.shape[:-1])


def score(config: TemperatureConfig, details: Details) -> dict[str, Any]:
    """Points of the grid with means and standard errors over seeds, and comparisons over those without divergence."""
    shape = details.ratio.shape
    flat = {name: values.reshape(-1, values.shape[-1]) for name, values in details.measured.items()}
    diverged = np.isfinite(details.diverged).reshape(-1, details.diverged.shape[-1])
    batches, ratio = np.broadcast_to(details.batches, shape).ravel(), details.ratio.ravel()
    tau = np.broadcast_to(details.tau[:, None], shape).ravel()
    points = []
    for n in range(ratio.size):
        good = ~diverged[n]
        points.append(
            {
                "rate": float(tau[n] / config.training.step),
                "tau": float(tau[n]),
                "batch": int(batches[n]),
                "ratio": float(ratio[n]),
                "steps": round(config.steps(tau[n] / config.training.step)),
                "passes": float(details.t[-1] / ratio[n] / config.temperature.samples),
                "diverged": int(np.count_nonzero(diverged[n])),
                **{name: statistics(values[n][good]) for name, values in flat.items()},
            }
        )
    use = ~diverged.any(axis=1)
    compared = {
        name: compare(
            flat[name][use], ratio[use], batches[use], flat["train_loss"][use], flat["temperature"][use], config.seed
        )
        for name in QUANTITIES
    }
    return {
        "points": points,
        "seeds": config.temperature.seeds,
        "samples": config.temperature.samples,
        "time": float(details.t[-1]),
        "level": plain(details.level),
        "deep_level": plain(details.deep_level),
        "networks": int(diverged.size),
        "diverged": int(np.count_nonzero(diverged)),
        "compared": compared,
        "gap_with_train_loss": plain(rank_correlation(*(flat[k][use].mean(axis=1) for k in ("gap", "train_loss")))),
        **_powers(details, ratio, use),
        "balance": _range_of(flat["balance"][use]),
    }


def _powers(details: Details, ratio: Array, use: Any) -> dict[str, Any]:
    """Powers with which T_eff goes with rate/batch: of its mean over time, with 95 %, and at the times one by one."""

    def power(temperature: Array) -> Array:
        temperature = temperature.reshape(-1, temperature.shape[-1])
        good = use & (temperature > 0).all(axis=1)
        found = slopes(np.log(temperature[good]), ratio[good]) if good.any() else np.full(1, np.nan)
        return found[np.isfinite(found)]

    mean = power(details.measured["temperature"])
    along = details.curves["temperature"]
    times = np.flatnonzero(np.isfinite(along).any(axis=(0, 1, 2)))
    each = [power(along[..., i]) for i in times]
    return {
        "slope_of_temperature": float(mean.mean()) if mean.size else None,
        "slope_of_temperature_interval": student_interval(mean),
        "slopes_of_temperature": [
            [float(details.t[i]), float(one.mean()) if one.size else None] for i, one in zip(times, each, strict=True)
        ],
    }


def _range_of(values: Array) -> list[float] | None:
    """Smallest, median and largest."""
    good = values[np.isfinite(values)]
    return [float(np.min(good)), float(np.median(good)), float(np.max(good))] if good.size else None


def closed_forms(config: TemperatureConfig) -> list[dict[str, float]]:
    """The one-dimensional chains against Var θ = η s²(1+μ)/(h(1−μ)(2(1+μ) − ηh)) and ⟨θ·∇ℓ⟩ = (1+μ)/(2η)⟨v²⟩.

    h = s² = 1. Errors are those of means over independent chains.
    """
    rng = np.random.default_rng([config.seed, STREAM_CHAINS])
    one, rows = np.ones((1, 1)), []
    for momentum, rate in FORMS:
        steps = quadratic.mixing_steps(1.0, rate, momentum)
        theta, v, force = quadratic.simulate(
            one, one, rate, momentum=momentum, chains=config.temperature.chains, steps=steps, rng=rng
        )
        squares, expected = theta[:, 0] ** 2, quadratic.position_variance(1.0, 1.0, rate, momentum)
        balance = theta[:, 0] * force[:, 0] - (1 + momentum) / (2 * rate) * v[:, 0] ** 2
        errors = [float(np.std(each, ddof=1) / math.sqrt(each.size)) for each in (squares, balance)]
        rows.append(
            {
                "momentum": momentum,
                "step": rate,
                "steps": steps,
                "variance": float(np.mean(squares)),
                "error": errors[0],
                "expected": expected,
                "deviation": float((np.mean(squares) - expected) / errors[0]),
                "balance_deviation": float(np.mean(balance) / errors[1]),
            }
        )
    return rows


def agreement(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """How many deviations are within two standard errors, and the largest, with the limit for all of them together.

    limit : by Bonferroni, exceeded by any of them with a chance of at most JOINT if the closed forms hold.
    """
    off = np.abs([row[name] for row in rows for name in ("deviation", "balance_deviation")])
    return {
        "comparisons": off.size,
        "within_two": int(np.count_nonzero(off <= 2)),
        "largest": float(off.max()),
        "limit": float(norm.isf(JOINT / 2 / off.size)),
    }


def _write(config: TemperatureConfig, out: Path, details: Details) -> None:
    grid = ("tau", "batch", "seed")
    arrays: dict[str, tuple[tuple[str, ...], Array]] = {
        "ratio": (("tau", "batch"), details.ratio),
        "diverged": (grid, details.diverged),
        **{f"end_{name}": (grid, values) for name, values in details.measured.items()},
        **{
            name: ((*grid, "interval" if name in ("dissipation", "fluctuation") else "t"), values)
            for name, values in details.curves.items()
        },
    }
    write_sidecar(
        out / "temperature.h5",
        kind=config.kind,
        config=tomllib.loads(config.to_toml()),
        arrays=arrays,
        coordinates={"tau": details.tau, "batch": details.batches, "t": details.t},
        overwrite=True,
    )


# figures and words


def draw(config: TemperatureConfig, out: Path, scores: dict[str, Any], details: Details) -> None:
    """All figures of the study."""
    from bbdfield.plotting import temperature as plots
    from bbdfield.plotting.style import save

    found = scores["temperature"]
    balance = np.divide(
        details.curves["dissipation"],
        details.curves["fluctuation"],
        out=np.full(details.curves["fluctuation"].shape, np.nan),
        where=details.curves["fluctuation"] > 0,
    )
    figures = {
        "temperature": plots.figure_gap(details.ratio, details.batches, details.measured, found),
        "temperature-curves": plots.figure_curves(details.t, details.ratio, details.curves, found),
        "temperature-balance": plots.figure_balance(
            details.t, details.ratio, details.batches, balance, details.measured["temperature"], found
        ),
        "temperature-forms": plots.figure_forms(found["forms"], found["forms_agreement"]),
    }
    for name, figure in figures.items():
        save(figure, out / "figures" / f"{name}.png")


def verdict(found: Mapping[str, Any]) -> str:
    """What the comparisons say, in sentences."""
    compared = found["compared"]
    lines = []
    levels = (f"Where the training loss is {number(found[key])}" for key in ("level", "deep_level"))
    for name, what in zip(("gap", "gap_at_level", "gap_at_deep_level"), ("After equal time", *levels), strict=True):
        one = compared[name]
        lines.append(f"{what} {trend(one)}; {collapse(one)}.")
    return " ".join(lines)


def trend(one: Mapping[str, Any]) -> str:
    """How a gap goes with rate/batch, as far as the slopes of the seeds tell."""
    if one["change"] is None:
        return "the gap could not be compared at different rate/batch"
    told = f"change over the grid {number(one['change'], 2)}"
    if one["change_interval"] is None:
        return f"the gap has a {told} (one seed, no interval)"
    low, high = one["change_interval"]
    told += f", 95 % [{number(low, 2)}, {number(high, 2)}], of a mean of {number(one['mean'], 2)}"
    if low > 0 or high < 0:
        return f"the gap {'grows' if low > 0 else 'falls'} with rate/batch ({told})"
    return f"no trend of the gap with rate/batch is seen ({told})"


def collapse(one: Mapping[str, Any]) -> str:
    """Whether points of equal rate/batch coincide."""
    if one["p_value"] is None:
        return "whether points of equal rate/batch coincide cannot be told"
    spread, error, p = (number(one[name], 2) for name in ("spread", "seed_error", "p_value"))
    told = f"{spread} against a standard error of {error}, p = {p}"
    if one["p_value"] < 0.05:
        return f"points of equal rate/batch differ by more than seeds explain ({told})"
    return f"points of equal rate/batch differ by no more than seeds may explain ({told})"


def describe(config: Mapping[str, Any], scores: Mapping[str, Any]) -> Description:
    """What was measured, in words and tables."""
    found = scores["temperature"]
    summary = (
        f"{network(config)} This was repeated for {len(found['points'])} pairs of learning rate and minibatch,"
        f" {found['seeds']} seeds each, on the first {found['samples']} training samples, always up to t ="
        f" {found['time']:g}. {found['diverged']} of {found['networks']} networks diverged."
    )
    balance, agree = found["balance"], found["forms_agreement"]
    ratios = (
        ""
        if balance is None
        else f" Dissipation over fluctuation in the second half of the runs is {number(balance[1])} in the median"
        f" ({number(balance[0])} to {number(balance[2])}): 1 would be a stationary state."
    )
    tables = [
        Table(
            "Does it change with rate/batch?",
            ["quantity", "points", "change", "rank correlation", "given training loss", "with T_eff"],
            [
                [
                    QUANTITIES[name],
                    one["points"],
                    _with_interval(one["change"], one["change_interval"]),
                    decimal(one["rank_correlation"]),
                    decimal(one["given_train_loss"]),
                    decimal(one["with_temperature"]),
                ]
                for name, one in found["compared"].items()
            ],
            "Change: from the lowest rate/batch to the highest, by slopes against its logarithm, with 95 % by Student's"
            " t over seeds. Rank correlations are with rate/batch, over points of the grid, and given the training loss"
            " at the end, and with the measured T_eff",
        ),
        Table(
            "Does rate/batch alone decide?",
            ["quantity", "explained", "spread", "seed error", "p", "with batch"],
            [
                [
                    QUANTITIES[name],
                    _with_chance(one["explained"], one["explained_by_chance"]),
                    number(one["spread"], 2),
                    number(one["seed_error"], 2),
                    number(one["p_value"], 2),
                    decimal(one["with_batch"]),
                ]
                for name, one in found["compared"].items()
            ],
            "Explained: share of the variance over points that rate/batch"
            " explains, and below it what chance would; spread: among points of equal rate/batch, beside the standard"
            " error of a point; p: how likely such a spread is if only rate/batch counts, each quantity by itself;"
            " with batch: rank correlation of the deviations with the batch",
        ),
        Table(
            "The grid",
            [
                "rate",
                "batch",
                "rate/batch",
                "diverged",
                "training loss",
                "test loss",
                "gap",
                "at equal loss",
                "T_eff",
                "balance",
            ],
            [
                [
                    number(point["tau"]),
                    point["batch"],
                    number(point["ratio"]),
                    point["diverged"],
                    *(
                        _with_error(point[name])
                        for name in ("train_loss", "test_loss", "gap", "gap_at_level", "temperature", "balance")
                    ),
                ]
                for point in found["points"]
            ],
            f"Means over seeds with standard errors. At equal loss: where training loss is {number(found['level'])}."
            " T_eff: mean over the times after the start, from the gradients of single samples. Balance: dissipation"
            " over fluctuation",
        ),
        Table(
            "Closed forms in one dimension",
            ["momentum", "ηh", "variance", "closed form", "deviation", "of the balance"],
            [
                [
                    number(row["momentum"]),
                    number(row["step"]),
                    _with_error({"mean": row["variance"], "standard_error": row["error"]}),
                    number(row["expected"], 4),
                    decimal(row["deviation"]),
                    decimal(row["balance_deviation"]),
                ]
                for row in found["forms"]
            ],
            f"Independent chains; deviations in standard errors. {agree['within_two']} of {agree['comparisons']} are"
            f" within 2, the largest is {number(agree['largest'])}; one of them is beyond {number(agree['limit'])} with"
            f" a chance of {JOINT:.0%} at most",
        ),
    ]
    power, interval = found["slope_of_temperature"], found["slope_of_temperature_interval"]
    within = f" [{decimal(interval[0])}, {decimal(interval[1])}]" if interval else ""
    measured = "" if power is None else f" The measured T_eff goes as rate/batch to the power {decimal(power)}{within}."
    return Description(summary, tables, verdict(found) + measured + ratios)


def _with_error(given: Mapping[str, Any]) -> str:
    return number(given["mean"]) + (
        f"\n± {number(given['standard_error'], 2)}" if given["standard_error"] is not None else ""
    )


def _with_interval(value: Any, interval: Sequence[float] | None) -> str:
    return number(value, 2) + (f"\n{number(interval[0], 2)}, {number(interval[1], 2)}" if interval else "")


def _with_chance(value: Any, chance: Any) -> str:
    return decimal(value) + (f"\n({decimal(chance)})" if value is not None else "")
