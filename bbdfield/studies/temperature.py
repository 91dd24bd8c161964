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
from scipy.stats import rankdata
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
from bbdfield.studies.config import TemperatureConfig
from bbdfield.studies.describe import Description, Table, decimal, network, number
from bbdfield.studies.kinds import Session
from bbdfield.studies.machines import in_words
from bbdfield.studies.pool import run_jobs

Array = npt.NDArray[np.float64]
Progress = Callable[[int, int, float], None]

#: a network whose training loss exceeds this many times its start has diverged, even if slowly
DIVERGED = 10.0
#: random streams of the study's seed
STREAM_CHAINS, STREAM_BOOTSTRAP, STREAM_PERMUTATIONS = 40, 41, 42
RESAMPLES = 4000
#: the noise is measured at so many of the times
NOISE_TIMES = 6
#: the one-dimensional chains: momentum, ηh
FORMS = tuple((momentum, step) for momentum in (0.0, 0.5, 0.9) for step in (0.1, 0.5, 1.0, 1.8))
#: what is compared over the grid, in the order of the tables
QUANTITIES = {
    "gap": "gap, test − training loss, at equal time",
    "gap_at_level": "gap at equal training loss",
    "accuracy_gap": "training − test accuracy, at equal time",
    "accuracy_gap_at_level": "training − test accuracy at equal training loss",
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
    "temperature-curves": "Training loss and test loss along all runs, means over seeds, coloured by rate/batch. At one"
    " time hot networks have learned less than cold ones.",
    "temperature-balance": "Left: dissipation over fluctuation along the runs, means over seeds; 1 is a stationary"
    " state, below it the parameters' norm still grows. Right: the measured effective temperature against rate/batch,"
    " with a guide of slope 1.",
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
        return f"lattice-rate{_exact(self.rate)}-batch{self.batch}-seed{self.seed}.h5"

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
        data.name, data.x[:samples], data.y[:samples], data.x_test, data.y_test, outputs=data.outputs, source=data.source
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
    slow, fast = (system_of(config, Job(rate, config.training.batch, config.seed)) for rate in _ends(config))
    sharp = check_training_step(slow) * config.temperature.rates[-1] / config.temperature.rates[0]
    stable = f"τ λ_max = {sharp:.3g} at the start for the fastest rate (stable up to {stability_limit(fast.boundary.training):.3g})"
    backends = [
        system_of(config, Job(config.temperature.rates[0], batch, config.seed)).backend.description
        for batch in config.temperature.batches
    ]
    return f"{in_words(backends)}; {stable}"


def _ends(config: TemperatureConfig) -> tuple[float, float]:
    return config.temperature.rates[0], config.temperature.rates[-1]


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
            raise InputError(f"{path}: is of another configuration (differs in {', '.join(differing) or 'kind'}); remove it")
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

    tau : the learning steps.   ratio : τ/B (rate, batch).   level : the training loss that all reached.
    """

    tau: Array
    batches: Array
    ratio: Array
    t: Array
    level: float
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
    details.level = common_level(train)
    at = {name: at_level(train, values, details.level) for name, values in curves.items() if name in CURVES}
    half = len(t) // 2
    sums = [curves[name][..., half:].sum(axis=-1) for name in ("dissipation", "fluctuation")]
    details.measured = {
        "gap": test[..., -1] - train[..., -1],
        "gap_at_level": at["test_loss"] - at["train_loss"],
        "accuracy_gap": curves["train_accuracy"][..., -1] - curves["test_accuracy"][..., -1],
        "accuracy_gap_at_level": at["train_accuracy"] - at["test_accuracy"],
        "train_loss": train[..., -1],
        "test_loss": test[..., -1],
        "test_accuracy": curves["test_accuracy"][..., -1],
        "temperature": _mean_over_time(curves["temperature"]),
        "rank": _mean_over_time(curves["rank"]),
        "balance": np.divide(*sums, out=np.full(sums[0].shape, np.nan), where=sums[1] > 0),
    }
    return details


def _mean_over_time(values: Array) -> Array:
    """Over the times at which it was measured; NaN for runs that have none at the end."""
    measured = ~np.all(np.isnan(values), axis=tuple(range(values.ndim - 1)))
    mean: Array = values[..., measured].mean(axis=-1)
    return mean


def common_level(train: Array) -> float:
    """The lowest training loss that all runs reached: the largest of their smallest; NaN where all diverged."""
    done = train[np.isfinite(train[..., -1])]
    return float(done.min(axis=-1).max()) if len(done) else math.nan


def at_level(train: Array, values: Array, level: float) -> Array:
    """`values` (…, t) where `train` first reaches the level, linear in it between measurements; NaN where it never does."""
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


# statistics


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's: the correlation of ranks; NaN where there is none."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def partial_rank_correlation(a: Array, b: Array, given: Array) -> float:
    """Of a and b at equal `given`: (r_ab − r_ac r_bc)/√((1−r_ac²)(1−r_bc²))."""
    ab, ac, bc = rank_correlation(a, b), rank_correlation(a, given), rank_correlation(b, given)
    below = (1 - ac**2) * (1 - bc**2)
    return (ab - ac * bc) / math.sqrt(below) if below > 1e-12 else math.nan


def groups_of(ratio: Array) -> list[npt.NDArray[np.int64]]:
    """Points of equal rate/batch, by growing ratio; `ratio` is flat."""
    order = np.argsort(ratio, kind="stable")
    cuts = np.flatnonzero(np.diff(np.log(ratio[order])) > 1e-9) + 1
    return [np.sort(part) for part in np.split(order, cuts)]


def within(means: Array, groups: Sequence[npt.NDArray[np.int64]]) -> Array:
    """Deviation of every point from the mean of its group."""
    off = np.zeros(means.shape)
    for group in groups:
        off[group] = means[group] - means[group].mean(axis=0)
    return off


def exchangeable(values: Array, groups: Sequence[npt.NDArray[np.int64]], rng: np.random.Generator) -> float:
    """How likely points of equal rate/batch differ as much as they do if only rate/batch counts: a p-value.

    Then the points of a group are exchangeable within a seed. Statistic: Σ over points of the squared deviation of the
    mean over seeds from its group's. NaN where no group has two points, or there is one seed only.

    Parameters
    ----------
    values : (points, seeds).
    """
    several = [group for group in groups if len(group) > 1]
    if not several or values.shape[1] < 2:
        return math.nan
    seen = float(np.sum(within(values.mean(axis=1), several) ** 2))
    # the means of groups do not change under the permutations
    totals = np.zeros(RESAMPLES)
    for group in several:
        block = np.broadcast_to(values[group], (RESAMPLES, len(group), values.shape[1]))
        means = rng.permuted(block, axis=1).mean(axis=2)
        totals += np.sum((means - means.mean(axis=1, keepdims=True)) ** 2, axis=1)
    return float((1 + np.count_nonzero(totals >= seen * (1 - 1e-12))) / (1 + RESAMPLES))


def compare(values: Array, ratio: Array, batches: Array, train: Array, seed: int) -> dict[str, Any]:
    """What one quantity (points, seeds) says of rate/batch (points,).

    rank_correlation : with log rate/batch, means over seeds, and its 95 % interval by resampling seeds.
    given_train_loss : the partial one, given the training loss at the end.
    explained : share of the variance over points that their rate/batch explains.   spread : root mean square deviation
    among points of equal rate/batch; seed_error : the standard error of a point.   p_value : see `exchangeable`.
    with_batch : rank correlation of these deviations with the batch.
    """
    points, seeds = values.shape
    means, losses = values.mean(axis=1), train.mean(axis=1)
    groups = groups_of(ratio)
    several = [group for group in groups if len(group) > 1]
    inside = np.concatenate(several) if several else np.zeros(0, np.int64)
    off = within(means, groups)
    rng = np.random.default_rng([seed, STREAM_BOOTSTRAP])
    draws = rng.integers(seeds, size=(RESAMPLES // 4, seeds)) if seeds > 1 else np.zeros((0, 1), int)

    def interval(of: Callable[[Array, Array], float]) -> list[float] | None:
        found = np.array([of(values[:, d].mean(axis=1), train[:, d].mean(axis=1)) for d in draws])
        found = found[np.isfinite(found)]
        return [float(q) for q in np.quantile(found, (0.025, 0.975))] if found.size else None

    scatter = float(np.sum((means - means.mean()) ** 2)) if points else 0.0
    error = float(np.sqrt(np.mean(values.var(axis=1, ddof=1) / seeds))) if seeds > 1 and points else math.nan
    return {
        "rank_correlation": _plain(rank_correlation(means, ratio)),
        "interval": interval(lambda a, _: rank_correlation(a, ratio)),
        "given_train_loss": _plain(partial_rank_correlation(means, ratio, losses)),
        "given_train_loss_interval": interval(lambda a, b: partial_rank_correlation(a, ratio, b)),
        "explained": _plain(1 - float(np.sum(off**2)) / scatter) if scatter > 0 else None,
        "spread": _plain(_spread(off[inside], several)),
        "seed_error": _plain(error),
        "p_value": _plain(exchangeable(values, groups, np.random.default_rng([seed, STREAM_PERMUTATIONS]))),
        "with_batch": _plain(rank_correlation(off[inside], batches[inside])),
    }


def _spread(off: Array, groups: Sequence[npt.NDArray[np.int64]]) -> float:
    """Standard deviation among the points of a group, over all groups."""
    freedom = sum(len(group) - 1 for group in groups)
    return math.sqrt(float(np.sum(off**2)) / freedom) if freedom else math.nan


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def score(config: TemperatureConfig, details: Details) -> dict[str, Any]:
    """Points of the grid with means and standard errors over seeds, and the comparisons over those without divergence."""
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
        name: compare(flat[name][use], ratio[use], batches[use], flat["train_loss"][use], config.seed)
        for name in QUANTITIES
    }
    return {
        "points": points,
        "seeds": config.temperature.seeds,
        "samples": config.temperature.samples,
        "time": float(details.t[-1]),
        "level": _plain(details.level),
        "networks": int(diverged.size),
        "diverged": int(np.count_nonzero(diverged)),
        "compared": compared,
        "slope_of_temperature": _slope(ratio[use], flat["temperature"][use].mean(axis=1)),
        "balance": _range_of(flat["balance"][use]),
    }


def statistics(values: Array) -> dict[str, float | None]:
    """Mean and standard error over seeds; None for what there is not."""
    if not values.size:
        return {"mean": None, "standard_error": None}
    error = float(np.std(values, ddof=1) / math.sqrt(values.size)) if values.size > 1 else math.nan
    return {"mean": _plain(float(np.mean(values))), "standard_error": _plain(error)}


def _slope(ratio: Array, temperature: Array) -> float | None:
    """Of log T_eff against log rate/batch."""
    good = np.isfinite(temperature) & (temperature > 0)
    if np.count_nonzero(good) < 2 or np.ptp(np.log(ratio[good])) == 0:
        return None
    return float(np.polyfit(np.log(ratio[good]), np.log(temperature[good]), 1)[0])


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
        "temperature-forms": plots.figure_forms(found["forms"]),
    }
    for name, figure in figures.items():
        save(figure, out / "figures" / f"{name}.png")


def verdict(found: Mapping[str, Any]) -> str:
    """What the comparisons say, in sentences."""
    compared = found["compared"]
    lines = []
    for name, what in (("gap", "After equal time"), ("gap_at_level", "At equal training loss")):
        one = compared[name]
        lines.append(f"{what} {trend(one)}; {collapse(one)}.")
    return " ".join(lines)


def trend(one: Mapping[str, Any]) -> str:
    """How a gap goes with rate/batch, as far as its interval tells."""
    if one["rank_correlation"] is None:
        return "the gap could not be ranked against rate/batch"
    told = f"rank correlation {decimal(one['rank_correlation'])}"
    if one["interval"] is None:
        return f"the gap has {told} with rate/batch (one seed, no interval)"
    low, high = one["interval"]
    told += f" [{decimal(low)}, {decimal(high)}]"
    if low > 0 or high < 0:
        return f"the gap {'grows' if low > 0 else 'falls'} with rate/batch ({told})"
    return f"no trend of the gap with rate/batch is seen ({told})"


def collapse(one: Mapping[str, Any]) -> str:
    """Whether points of equal rate/batch coincide."""
    if one["p_value"] is None:
        return "whether points of equal rate/batch coincide cannot be told"
    told = f"{number(one['spread'], 2)} against a standard error of {number(one['seed_error'], 2)}, p = {number(one['p_value'], 2)}"
    if one["p_value"] < 0.05:
        return f"points of equal rate/batch differ by more than seeds explain ({told}), so rate/batch alone does not decide"
    return f"points of equal rate/batch differ by no more than seeds explain ({told})"


def describe(config: Mapping[str, Any], scores: Mapping[str, Any]) -> Description:
    """What was measured, in words and tables."""
    found = scores["temperature"]
    summary = (
        f"{network(config)} This was repeated for {len(found['points'])} pairs of learning rate and minibatch,"
        f" {found['seeds']} seeds each, on the first {found['samples']} training samples, always up to t ="
        f" {number(found['time'])}. {found['diverged']} of {found['networks']} networks diverged."
    )
    balance = found["balance"]
    ratios = (
        ""
        if balance is None
        else f" Dissipation over fluctuation in the second half of the runs is {number(balance[1])} in the median"
        f" ({number(balance[0])} to {number(balance[2])}): 1 would be a stationary state."
    )
    tables = [
        Table(
            "Does rate/batch decide?",
            ["quantity", "rank correlation", "given training loss", "explained", "spread", "seed error", "p", "with batch"],
            [
                [
                    QUANTITIES[name],
                    _with_interval(one["rank_correlation"], one["interval"]),
                    _with_interval(one["given_train_loss"], one["given_train_loss_interval"]),
                    decimal(one["explained"]),
                    number(one["spread"], 2),
                    number(one["seed_error"], 2),
                    number(one["p_value"], 2),
                    decimal(one["with_batch"]),
                ]
                for name, one in found["compared"].items()
            ],
            "Rank correlations are with rate/batch, over points of the grid, with 95 % intervals over seeds, and given"
            " the training loss at the end; explained: share of the variance over points that rate/batch explains;"
            " spread: among points of equal rate/batch, beside the standard error of a point; p: how likely such a"
            " spread is if only rate/batch counts; with batch: rank correlation of the deviations with the batch",
        ),
        Table(
            "The grid",
            ["rate", "batch", "rate/batch", "diverged", "training loss", "test loss", "gap", "at equal loss", "T_eff", "balance"],
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
            f"Means over seeds with standard errors. At equal loss: where the training loss is {number(found['level'])}."
            " T_eff: mean over time, from the gradients of single samples. Balance: dissipation over fluctuation",
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
            "Independent chains; deviations in standard errors",
        ),
    ]
    return Description(summary, tables, verdict(found) + ratios)


def _with_error(given: Mapping[str, Any]) -> str:
    return number(given["mean"]) + (f"\n± {number(given['standard_error'], 2)}" if given["standard_error"] is not None else "")


def _with_interval(value: Any, interval: Sequence[float] | None) -> str:
    return decimal(value) + (f"\n{decimal(interval[0])}, {decimal(interval[1])}" if interval else "")
