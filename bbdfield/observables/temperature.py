"""Temperature: the noise of minibatches, and whether fluctuation and dissipation are in balance.

Every group of parameters has its own learning rate. In the coordinates

    u_g = (θ_g − θ⁰_g)/√η_g,      ∇_u ℓ = √η_g ∂ℓ/∂θ_g,      η_g per unit of t

training is one gradient descent with one rate: τ for SGD, γτ² for the heavy ball, γτ² (1+μ)/2 for the leapfrog, the
latter two with momentum μ = e^{−γτ}. θ⁰ is the identity of scalings that have it. For fields u = ŵ √(cell/η̂), so that
sums over cells are integrals, and lattice and field have the same u·∇ℓ. With Cov(G) the covariance of the minibatch
gradient in u (`bbdfield.observables.noise`), d parameters that move and the one rate η,

    T_eff = η tr Cov(G) / (2 d (1 − μ))

is the temperature at which a quadratic loss holds d T/2 of energy. And in a stationary state, of any loss,

    ⟨u·∇ℓ_B⟩ = (1+μ)/(2η) ⟨|v|²⟩         dissipation = fluctuation: Yaida, arXiv 1810.00004

where v is a step's change of u, and ∇ℓ_B the gradient on its own minibatch. For sums over the steps of any run

    Σ (u·∇ℓ_B − (1+μ)/(2η) |v|²) = −[(1−μ)/2 Δ|u|² + μ Δ(u·v)]/η

exactly, for whatever samples, so that their ratio is 1 just when the bracket has stopped to drift, which is |u|²/2
without momentum. Both are per step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from bbdfield.errors import InputError
from bbdfield.fields.simulation import FieldSystem
from bbdfield.lattice.per_sample import per_sample_gradients
from bbdfield.model.architecture import GROUPS, VELOCITIES, Lattice, Training
from bbdfield.model.run import Run, System
from bbdfield.model.units import identity, learning_rates
from bbdfield.observables.noise import GradientNoise, gram, noise_of_gram, sampling_factor
from bbdfield.observables.observed import Observed
from bbdfield.observables.stepping import recorded, system_of
from solvers.grids import Grid

Array = npt.NDArray[np.float64]
State = dict[str, np.ndarray]
Progress = Callable[[int, int, float], None]

#: dissipation over fluctuation within this of 1 is called balanced
TOLERANCE = 0.1
#: fewer steps say nothing of a stationary state
FEWEST_STEPS = 20
#: samples whose gradients are taken, at most and at least; and how many numbers they may need in memory
MOST_SAMPLES, FEWEST_SAMPLES, MOST_NUMBERS = 128, 8, 2**25
#: leading eigenvalues that are kept, blocks for the error of the ratio, and the random stream of the choice of samples
MODES, BLOCKS, STREAM_CHOICE = 10, 10, 30


def effective_temperature(rate: float, trace: float, parameters: int, momentum: float = 0.0) -> float:
    """T_eff = η tr Cov(G)/(2 d (1−μ)); `trace` is that of the minibatch gradient: tr C/B, or tr S (1/B − 1/n)."""
    return rate * trace / (2 * parameters * (1 - momentum))


def balance(theta: Array, v_before: Array, v: Array, rate: float, momentum: float = 0.0) -> tuple[float, float]:
    """(θ·G, (1+μ)/(2η) |v|²) of one step v = μ v_before − ηG at θ, the gradient taken from the step itself."""
    force = momentum * v_before - v
    return float(np.sum(theta * force)) / rate, (1 + momentum) / (2 * rate) * float(np.sum(v**2))


def running_ratio(dissipation: Array, fluctuation: Array, window: int) -> Array:
    """Σ dissipation / Σ fluctuation over the last `window` steps, at every step; NaN before there are as many."""
    sums = [np.concatenate([[0.0], np.cumsum(values)]) for values in (dissipation, fluctuation)]
    above, below = (total[window:] - total[:-window] for total in sums)
    result = np.full(len(dissipation), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        result[window - 1 :] = above / below
    return result


@dataclass(frozen=True)
class Balance:
    """What a run says of its stationarity.

    ratio : dissipation over fluctuation, sums over the second half of the steps.   error : its standard error if all
    but a steady drift is stationary, see `balance_of`.   state : "balanced", "drifting" or "cannot be told".   since :
    of a balanced run, the first step from which on every later beginning, up to the middle of the run, leaves a ratio
    within the tolerance; else None.
    """

    ratio: float
    error: float
    state: str
    since: int | None


def balance_of(dissipation: Array, fluctuation: Array, tolerance: float = TOLERANCE) -> Balance:
    """Whether, and since when, a run is balanced.

    Dissipation − fluctuation is minus the change of X = [(1−μ)/2 |u|² + μ u·v]/η, so that its values are
    anticorrelated, and the sum over a stretch is the difference of two X. With σ² the variance of X at the ends of
    BLOCKS blocks about a straight line, the error of the ratio is √2 σ / Σ fluctuation.

    Drifting: 1 is outside the 95 % interval of Student's t. Balanced: it is inside, and the whole interval within the
    tolerance of 1. Blocks shorter than the memory of X make the error too small.

    Raises
    ------
    InputError
        for too few steps.
    """
    steps = len(dissipation)
    if steps < FEWEST_STEPS:
        raise InputError(f"temperature: needs at least {FEWEST_STEPS} training steps to average over (got {steps})")
    half = steps // 2
    with np.errstate(invalid="ignore", divide="ignore"):
        rest = np.cumsum(dissipation[::-1])[::-1] / np.cumsum(fluctuation[::-1])[::-1]  # from each step to the end
    ratio = float(rest[half])
    ends = np.linspace(0, steps - half, BLOCKS + 1).round().astype(int)
    x = np.concatenate([[0.0], np.cumsum((fluctuation - dissipation)[half:])])[ends]
    off_line = x - np.polyval(np.polyfit(ends, x, 1), ends)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = float(math.sqrt(2 * np.sum(off_line**2) / (len(ends) - 2)) / np.sum(fluctuation[half:]))
    reach = float(student.ppf(0.975, len(ends) - 2)) * error
    state = "cannot be told"
    # a ratio of exactly 1 has no drift, whatever rounding makes of the error
    if abs(ratio - 1) > reach + 1e-9:
        state = "drifting"
    elif abs(ratio - 1) + reach <= tolerance:
        state = "balanced"
    off = np.flatnonzero(~(np.abs(rest[: half + 1] - 1) <= tolerance))
    since = (int(off[-1]) + 1 if off.size else 0) if state == "balanced" else None
    return Balance(ratio, error, state, since)


@dataclass(frozen=True)
class Descent:
    """A training law as one descent in u.

    rate, momentum : η and μ.   scales : |u|² = Σ_g scale_g |θ_g − θ⁰_g|² over the groups that move.   origin : θ⁰ of w.
    """

    rate: float
    momentum: float
    scales: dict[str, float]
    origin: np.ndarray | float
    training: Training

    @classmethod
    def of(cls, lattice: Lattice, grid: Grid, training: Training, kind: str) -> Descent:
        """
        Raises
        ------
        InputError
            for gradient flows, which have no minibatches, and for minibatches of all samples in every step.
        """
        if training.full_batch:
            raise InputError(
                f"training.dynamics = {training.dynamics!r}: sees the same samples in every step, so it has no noise"
                ' and no temperature; use "sgd", "heavy-ball" or "leapfrog"'
            )
        origin: np.ndarray | float = 0.0
        if kind == "lattice":
            eta, origin = learning_rates(lattice, 1.0, training.rates), identity(lattice)
            rates = {"w": eta.w, "b": eta.b, "r": eta.r}
            cells = dict.fromkeys(GROUPS, 1.0)
        else:
            rates = {"w": training.rates.w, "b": training.rates.b, "r": training.rates.r}
            area = grid.h_x * grid.h_y
            w_cell = grid.h_x * lattice.range.cell(grid.h_y) * (1.0 if lattice.range.tied else grid.h_y)
            cells = {"w": w_cell, "b": area, "r": 1.0}
        scales = {group: cells[group] / rates[group] for group in GROUPS if rates[group]}
        rate, momentum = training.step, 0.0
        if training.damping is not None:
            rate, momentum = training.damping * training.step**2, math.exp(-training.damping * training.step)
            if training.dynamics == "leapfrog":
                rate *= (1 + momentum) / 2
        return cls(rate, momentum, scales, origin, training)

    def motion(self, before: Mapping[str, Any], after: Mapping[str, Any], group: str) -> tuple[Any, Any, Any]:
        """(θ − θ⁰ where the gradient is taken, velocity before, velocity after) of one group, v as changes per step.

        The leapfrog is the heavy ball of its midpoints: with θ½ = θ + (τ/2) e^{−γτ/2} θ̇ and V = (τ/2)(1+μ) θ̇½,
        V' = μV − γτ²(1+μ)/2 η ∂ℓ/∂θ(θ½') and θ½'' = θ½' + V'.
        """
        tau, theta = self.training.step, before[group]
        if group == "w":
            theta = theta - self.origin
        if not self.training.second_order:
            v = after[group] - before[group]
            return theta, np.zeros_like(v), v
        dot = VELOCITIES[GROUPS.index(group)]
        if dot not in before or dot not in after:
            raise InputError(
                f"temperature: the run has no {dot}, which {self.training.dynamics} dynamics needs; record it again"
                " with its velocities"
            )
        if self.training.dynamics == "heavy-ball":
            return theta, tau * before[dot], tau * after[dot]
        root = math.sqrt(self.momentum)
        factor = tau / 2 * (1 + self.momentum) / root
        return theta + tau / 2 * root * before[dot], factor * before[dot], factor * after[dot]

    def size(self, state: Mapping[str, Any]) -> float:
        """|u|²."""
        return float(
            sum(
                scale * np.sum((np.asarray(state[group], float) - (self.origin if group == "w" else 0.0)) ** 2)
                for group, scale in self.scales.items()
            )
        )

    def balance(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[float, float]:
        """(u·∇ℓ_B, (1+μ)/(2η) |v|²) of one step."""
        total = np.zeros(2)
        for group, scale in self.scales.items():
            total += scale * np.array(balance(*self.motion(before, after, group), self.rate, self.momentum))
        return float(total[0]), float(total[1])

    def temperature(self, noise: GradientNoise, count: int) -> float:
        """T_eff, with the exact covariance of minibatches without replacement out of `count` samples."""
        factor = sampling_factor(self.training.batch, count)
        return effective_temperature(self.rate, factor * noise.trace, noise.parameters, self.momentum)


class Steps:
    """Dissipation and fluctuation of every training step."""

    names: ClassVar[tuple[str, ...]] = ("temperature_dissipation", "temperature_fluctuation")

    def __init__(self, lattice: Lattice, grid: Grid, training: Training, kind: str) -> None:
        self.descent = Descent.of(lattice, grid, training, kind)

    def step(self, k: int, system: System, before: State, after: State) -> dict[str, float]:
        """The numbers of one step; they need nothing but the two states."""
        return dict(zip(self.names, self.descent.balance(before, after), strict=True))


# the noise of a recorded run


def chosen_samples(lattice: Lattice, count: int, seed: int, most: int = MOST_SAMPLES) -> npt.NDArray[np.int64]:
    """Which of the training samples are asked for their gradients: fewer for large lattices, the same at all times."""
    fit = MOST_NUMBERS // ((lattice.depth + 1) * lattice.width * lattice.channels)
    number = min(count, max(FEWEST_SAMPLES, min(most, fit)))
    chosen = np.random.default_rng([seed, STREAM_CHOICE]).choice(count, number, replace=False)
    return np.sort(chosen).astype(np.int64)


def noise_of_lattice(
    lattice: Lattice, boundary: Any, state: Mapping[str, Any], index: npt.NDArray[np.int64]
) -> GradientNoise:
    """The noise in u of a lattice in some state (θ, b, R as it is trained), from its gradients on single samples."""
    eta = learning_rates(lattice, 1.0, boundary.training.rates)
    parameters = tuple(np.asarray(state[name], float) for name in GROUPS)
    parts = per_sample_gradients(lattice, boundary, parameters, index)  # type: ignore[arg-type]
    return noise_of_gram(*gram(parts, {"w": eta.w, "b": eta.b, "r": eta.r}), len(boundary.dataset.x))


def noise_of_field(system: FieldSystem, index: npt.NDArray[np.int64]) -> GradientNoise:
    """The noise in u of a field as it stands: ∇_u ℓ = √(η̂ cell) δℓ/δθ̂."""
    boundary, grid, lattice = system.boundary, system.grid, system.lattice
    descent = Descent.of(lattice, grid, boundary.training, "field")
    rates = dict(
        zip(GROUPS, (boundary.training.rates.w, boundary.training.rates.b, boundary.training.rates.r), strict=True)
    )
    weights = {group: rates[group] ** 2 * descent.scales.get(group, 0.0) for group in GROUPS}  # η̂ cell
    rows: dict[str, list[Array]] = {group: [] for group in GROUPS}
    for sample in index:
        one = np.array([sample])
        _, gradients = system.gradient(system.u, boundary.input(one, grid.n_y), boundary.targets[one])
        for group, gradient in zip(GROUPS, gradients, strict=True):
            rows[group].append(np.array(system.backend.to_numpy(gradient), float).ravel())
    products, parameters = gram(((group, np.array(rows[group])) for group in GROUPS), weights)
    return noise_of_gram(products, parameters, len(boundary.dataset.x))


def _noises(run: Run, index: npt.NDArray[np.int64]) -> Iterator[GradientNoise]:
    """The noise at every snapshot."""
    if run.kind == "lattice":
        for i in range(len(run.t)):
            state = {name: run.trajectory.fields[name][i] for name in GROUPS}
            yield noise_of_lattice(run.lattice, run.boundary, state, index)
        return
    system = system_of(run)
    assert isinstance(system, FieldSystem)
    for i in range(len(run.t)):
        system.load({name: np.array(values[i]) for name, values in run.trajectory.fields.items() if name != "z"})
        yield noise_of_field(system, index)


def observe(run: Run, progress: Progress | None = None) -> Observed:
    """Temperature, noise and balance along a run of lattice or field.

    Raises
    ------
    InputError
        for dynamics without minibatches, minibatches of all samples, too few samples or steps, or a run with inertia
        but without velocities.
    """
    descent = Descent.of(run.lattice, run.grid, run.training, run.kind)
    count, batch = len(run.boundary.dataset.x), run.training.batch
    if batch == count:
        raise InputError(
            f"{run.path}: training.batch = {batch} is all samples, so that steps have no noise and no temperature;"
            " use a smaller batch"
        )
    if count < FEWEST_SAMPLES:
        raise InputError(
            f"{run.path}: has {count} training samples; the noise needs the gradients of at least {FEWEST_SAMPLES}"
        )
    done = int(run.steps[-1]) if len(run.steps) else 0
    if done < FEWEST_STEPS:
        raise InputError(
            f"{run.path}: holds {done} training steps; temperature needs at least {FEWEST_STEPS} to average over"
        )
    columns = recorded(run, Steps, progress)
    dissipation, fluctuation = (columns[name] for name in Steps.names)
    window = max(FEWEST_STEPS // 2, done // 10)
    found = balance_of(dissipation, fluctuation)
    index = chosen_samples(run.lattice, count, run.training.seed)
    noises = list(_noises(run, index))
    temperature = np.array([descent.temperature(noise, count) for noise in noises])
    if not temperature.any():
        raise InputError(
            f"{run.path}: the gradients of its samples are all equal, so that minibatches have no noise and no"
            " temperature; give samples that differ"
        )
    modes = np.array([noise.eigenvalues[:MODES] for noise in noises])
    arrays = {
        "temperature_dissipation": (("step",), dissipation),
        "temperature_fluctuation": (("step",), fluctuation),
        "temperature_ratio": (("step",), running_ratio(dissipation, fluctuation, window)),
        "temperature_effective": (("t",), temperature),
        "temperature_trace": (("t",), np.array([noise.trace for noise in noises])),
        "temperature_rank": (("t",), np.array([noise.effective_rank for noise in noises])),
        "temperature_eigenvalues": (("t", "temperature_mode"), modes),
    }
    since = None if found.since is None else float(found.since * run.training.step)
    sizes = [
        descent.size({name: run.trajectory.fields[name][i] for name in GROUPS})
        for i in (int(np.flatnonzero(np.asarray(run.steps) <= done // 2)[-1]), len(run.steps) - 1)
    ]
    change = (sizes[1] - sizes[0]) / sizes[0] if sizes[0] > 0 else None
    summary: dict[str, Any] = {
        "temperature_start": float(temperature[0]),
        "temperature_end": float(temperature[-1]),
        "parameters": noises[0].parameters,
        "samples": len(index),
        "effective_rank_end": float(noises[-1].effective_rank),
        "leading_share_end": float(modes[-1][0] / noises[-1].trace) if noises[-1].trace > 0 else None,
        "ratio": found.ratio,
        "ratio_error": found.error,
        "balance": found.state,
        "size_change": change,
        "balanced_since": since,
        "window": window,
    }
    verdict = "whether it is in balance cannot be told from so few steps"
    if since is not None:
        verdict = f"in balance within {TOLERANCE:.0%} since t = {since:g}"
    elif found.state == "drifting":
        verdict = "not in balance"
        if change:
            verdict += f"; |u|² {'grew' if change > 0 else 'shrank'} by {abs(change):.2g} of itself"
    told = [
        f"T_eff from {temperature[0]:.3g} to {temperature[-1]:.3g} per degree of freedom ({noises[0].parameters} of"
        f" them, noise from {len(index)} samples)",
        f"effective rank of the noise at the end {noises[-1].effective_rank:.3g}",
        f"dissipation/fluctuation over the second half {found.ratio:.3g} ± {found.error:.2g}: {verdict}",
    ]
    return Observed(arrays, {"temperature_mode": np.arange(modes.shape[1])}, summary, told)
