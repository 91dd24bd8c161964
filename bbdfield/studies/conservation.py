"""The conservation study: what gradient flows conserve, and what is left of it when training moves in steps.

A convolutional lattice (the configuration's) and a dense relu network, trained on the same data by minibatch gradient
descent. Their laws drift, as η² over a fixed number of steps; what each step must add, D(Δ), is subtracted, and what is
left should be rounding. With momentum the laws fail and antisymmetric charges of linear units decay instead; with
weight decay both laws and charges decay. How many laws there are is counted by the rank of a Lie algebra.

In the limit of depth a linear residual network keeps a field of laws; on grids it drifts as the error of the march.

The second part is intrinsic dynamics: what training does to the function of a linear network (`studies.intrinsic`).
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from bbdfield.comparison.orders import fit_order
from bbdfield.errors import InputError, NumericsError
from bbdfield.fields.simulation import FieldSystem
from bbdfield.lattice.dense import DenseNetwork, descend, draw_dense
from bbdfield.lattice.sharpness import check_training_step, stability_limit
from bbdfield.lattice.training import LatticeSystem, train
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import GROUPS, VELOCITIES, Rates
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.losses import get_loss
from bbdfield.model.ranges import Kernel
from bbdfield.model.run import Run
from bbdfield.model.units import learning_rates, to_lattice
from bbdfield.observables import lie
from bbdfield.observables.conservation import (
    Law,
    Steps,
    charged,
    components,
    decay,
    field_laws,
    gradients,
    lattice_laws,
    list_laws,
    relative,
    relative_each,
)
from bbdfield.observables.stepping import replay
from bbdfield.storage.sidecar import write_sidecar
from bbdfield.studies import intrinsic
from bbdfield.studies.config import ConservationConfig
from bbdfield.studies.describe import Description, Table, decimal, network, number, percent
from bbdfield.studies.kinds import Session
from solvers.grids import Grid

Array = npt.NDArray[np.float64]
Parameters = Mapping[str, Any]

#: random streams of the study's seed
STREAM_DENSE, STREAM_VELOCITY, STREAM_COUNT = 50, 51, 52
SYSTEMS = ("convolutional", "dense")
#: cells in depth on which the law of the linear field is followed, by which marches, for so many steps of its flow
FIELD_CELLS, FIELD_SCHEMES, FIELD_STEPS, FIELD_SAMPLES = (8, 16, 32, 64), ("euler", "midpoint"), 10, 16
#: steps of the dense networks that are tried before a study, and how much of a rise of the loss is no divergence
TRIED, RISES = 10, 10.0
#: so many points of a curve are kept at most
POINTS = 200

CAPTIONS = {
    "conservation": "Left and middle: the laws of the convolutional and of a dense relu network while they are trained"
    " by minibatch gradient descent. Coloured: how far any of them has drifted since the start, relative to the sum of"
    " absolute values of its own terms. Black: the same when the exact increment of every step, the law's own quadratic"
    " form of the step, is subtracted. Right: the drift after a fixed number of steps against the learning rate.",
    "conservation-departures": "Left: a linear dense network with momentum, started with random velocities: the drift"
    " of its laws, which nothing keeps, and its antisymmetric charges, which must decay by the momentum in every step"
    " (dashes: powers of the momentum). Middle: a relu network with weight decay: its laws (dots: as they would be by"
    " the decay alone), and what is left of their exact recursion. Right: drift of the law of a linear residual field,"
    " the limit of infinite depth, along its gradient flow, on grids of several sizes and by two marches in depth.",
    **intrinsic.CAPTIONS,
}


@dataclass(frozen=True)
class Curve:
    """Along a run: steps done, largest relative drift of any law since the start, and of what is left of it."""

    step: npt.NDArray[np.int64]
    drift: Array
    rest: Array

    @property
    def worst(self) -> float:
        return float(self.rest.max())


@dataclass
class Details:
    """Arrays for figures and sidecar.

    curves : system -> its SGD run.   slope : system -> (factors, drifts).
    momentum : drift of the laws, size of the charges over their start, what μ^k makes of it, all over `momentum_step`.
    field_drift : scheme of the march -> drift of the field's law on grids of FIELD_CELLS.
    weight_decay : |D|/|D(0)|, what it would be without increments, what is left.
    """

    curves: dict[str, Curve] = field(default_factory=dict)
    slope: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    momentum: dict[str, Array] = field(default_factory=dict)
    weight_decay: dict[str, Array] = field(default_factory=dict)
    field_drift: dict[str, Array] = field(default_factory=dict)
    intrinsic: dict[str, Any] = field(default_factory=dict)


def check(config: ConservationConfig) -> str:
    """Refuse networks that conserve nothing and steps that could only diverge; returns backend and sharpness."""
    lattice, training = config.network(), config.training_plan()
    system = _lattice_system(config)
    laws = lattice_laws(lattice, learning_rates(lattice, 1.0, training.rates), system.state())
    if not any(law.matrix for law in laws):
        raise InputError(
            f"training.rates.r: 0 leaves activation {lattice.activation} nothing that momentum keeps, and the run with"
            ' momentum nothing to follow; give it a rate, or use activation = "identity"'
        )
    intrinsic.check_intrinsic(config)
    sharp = check_training_step(system)
    _check_dense(config)
    stable = f"τ λ_max = {sharp:.3g} at the start (steps are stable up to {stability_limit(training):.3g})"
    return f"{system.backend.description}; {stable}"


def _check_dense(config: ConservationConfig) -> None:
    """Refuse a learning rate of the dense networks with which a few steps already diverge."""
    keys = config.conservation
    for activation, momentum in (("relu", 0.0), ("identity", keys.momentum)):
        net, w, b, batches = dense_problem(config, activation)
        with np.errstate(over="ignore", invalid="ignore"):
            run = descend(net, w, b, batches(TRIED + 1), keys.rate * (1 - momentum), momentum=momentum)
            losses = np.array([step.loss for step in run])  # each before its step
        if not losses.max() <= RISES * losses[0]:
            raise InputError(
                f"conservation.rate = {keys.rate:g}: the loss of the dense {activation} network rises from"
                f" {losses[0]:.3g} to {losses.max():.3g} within {TRIED} steps, so training diverges; use a smaller rate"
            )


def _lattice_system(config: ConservationConfig, **changes: Any) -> LatticeSystem:
    """The lattice at its start, with changes to its training."""
    lattice, training = config.network(), dataclasses.replace(config.training_plan(), **changes)
    start = to_lattice(config.initial_fields(lattice).on(lattice.grid, lattice))
    boundary = Boundary.draw(config.dataset(), lattice, training)
    return LatticeSystem(lattice, boundary, start, **config.training.machine())


def compute(config: ConservationConfig, out: Path, session: Session) -> tuple[dict[str, Any], Details]:
    """Train, follow the laws, count them, and compare intrinsic dynamics with training."""
    details = Details()
    with threadpool_limits(1), np.errstate(over="ignore", invalid="ignore"):
        session.say("the convolutional network")
        found: dict[str, Any] = {"convolutional": follow_lattice(config, out, session, details)}
        session.say("the dense network")
        found["dense"] = follow_dense(config, details)
        session.say("momentum and weight decay")
        found["momentum"] = {"lattice": momentum_of_lattice(config), "dense": momentum_of_dense(config, details)}
        found["weight_decay"] = weight_decay(config, details)
        session.say("the law of a linear residual field")
        found["field"] = law_of_the_field(config, details)
    with threadpool_limits(1):
        session.say("counting laws")
        found["counts"] = count(config.seed)
        session.say("intrinsic dynamics")
        found["intrinsic"], details.intrinsic = intrinsic.compute_intrinsic(config, out, session)
    _write(config, out, details)
    return {"kind": config.kind, "title": config.title, "conservation": found}, details


def draw(config: ConservationConfig, out: Path, scores: dict[str, Any], details: Details) -> None:
    """All figures of the study."""
    from bbdfield.plotting import conservation as plots
    from bbdfield.plotting.style import save

    curves = {name: (curve.step, curve.drift, curve.rest) for name, curve in details.curves.items()}
    save(plots.figure_laws(curves, details.slope, _titles(config)), out / "figures" / "conservation.png")
    save(
        plots.figure_departures(
            details.momentum,
            details.weight_decay,
            config.conservation.momentum,
            np.array(FIELD_CELLS),
            details.field_drift,
        ),
        out / "figures" / "conservation-departures.png",
    )
    intrinsic.draw_intrinsic(out, scores["conservation"]["intrinsic"], details.intrinsic)


def _titles(config: ConservationConfig) -> dict[str, str]:
    """system -> what network it is; the lattice's own activation may leave it the laws of its readout alone."""
    lattice = config.network()
    laws = lattice_laws(lattice, learning_rates(lattice, 1.0, config.training_plan().rates))
    alone = ", its readout" if lattice.depth > 1 and len(laws) == 1 and laws[0].site == lattice.depth else ""
    return {"convolutional": f"convolutional {lattice.activation} network{alone}", "dense": "dense relu network"}


# minibatch gradient descent


def follow(laws: Sequence[Law], start: Parameters, steps: Iterable[tuple[Parameters, Parameters]], count: int) -> Curve:
    """Follow laws along (before, after) of every step: D(k) − D(0), and the same less Σ D(Δ)."""
    first = [(law.value(start), law.scale(start)) for law in laws]
    sums = [np.zeros_like(value) for value, _ in first]
    due = set(np.unique(np.round(np.linspace(1, count, min(count, POINTS))).astype(int)).tolist())
    rows = []
    for k, (before, after) in enumerate(steps, start=1):
        change = _difference(after, before)
        drift = rest = 0.0
        for law, (value, scale), total in zip(laws, first, sums, strict=True):
            total += law.increment(change)
            if k in due:
                moved, scales = law.value(after) - value, (scale, law.scale(after))
                drift = max(drift, relative(moved, *scales))
                rest = max(rest, relative(moved - total, *scales))
        if k in due:
            rows.append((k, drift, rest))
    taken, drifts, rests = zip(*rows, strict=True)
    return Curve(np.array(taken, np.int64), np.array(drifts), np.array(rests))


def _difference(after: Parameters, before: Parameters) -> dict[str, Any]:
    """Δ of lists and arrays alike."""
    return {
        name: [a - b for a, b in zip(value, before[name], strict=True)]
        if isinstance(value, list)
        else value - before[name]
        for name, value in after.items()
    }


def follow_lattice(config: ConservationConfig, out: Path, session: Session, details: Details) -> dict[str, Any]:
    """Train the lattice, recording every step's rest in its file, and follow its laws by making the steps again."""
    lattice, training = config.network(), config.training_plan()
    report = session.report
    run = train(
        lattice,
        config.dataset(),
        training,
        initial=config.initial_fields(lattice),
        out=out / "lattice.h5",
        resume=True,
        compression=config.compression(),
        progress=(lambda done, total, loss: report("lattice", done, total, loss)) if report else None,
        observers=[Steps(lattice, lattice.grid, training, "lattice")],
        **config.training.machine(),
    )
    with run:
        start = {name: np.array(run.trajectory.fields[name][0]) for name in GROUPS}
        laws = lattice_laws(lattice, learning_rates(lattice, 1.0, training.rates), start)
        pairs = ((before, after) for _, _, before, after in replay(run))
        curve = details.curves["convolutional"] = follow(laws, start, pairs, training.steps)
        recorded = float(run.trajectory.scalars["conservation_rest"][: training.steps].sum())
    slope = _slope(config, "convolutional", details, lambda factor: _drift_of_lattice(config, laws, factor))
    return {**_told(laws, start, curve), "rest_of_steps": recorded, **slope, "test_accuracy": _accuracy(out)}


def _accuracy(out: Path) -> float | None:
    with Run(out / "lattice.h5") as run:
        value = float(run.evaluation["test_accuracy"][-1])
    return value if math.isfinite(value) else None


def _told(laws: Sequence[Law], start: Parameters, curve: Curve) -> dict[str, Any]:
    numbers = int(sum(components(law.value(start), law.matrix).size for law in laws))
    return {"laws": numbers, "steps": int(curve.step[-1]), "drift": float(curve.drift[-1]), "rest": curve.worst}


def _drift_of_lattice(config: ConservationConfig, laws: Sequence[Law], factor: float) -> float:
    steps = config.conservation.factor_steps
    system = _lattice_system(config, step=config.training.step * factor, steps=steps)
    start = {name: np.array(part) for name, part in system.state().items()}
    for k in range(steps):
        system.step(k)
    return _norm_of_drift(laws, start, system.state())


def _norm_of_drift(laws: Sequence[Law], start: Parameters, end: Parameters) -> float:
    """|D − D(0)| over all laws, relative to their scales."""
    off = math.sqrt(sum(float(np.sum((law.value(end) - law.value(start)) ** 2)) for law in laws))
    return off / math.sqrt(sum(float(np.sum(law.scale(start) ** 2)) for law in laws))


def _slope(config: ConservationConfig, name: str, details: Details, drift: Any) -> dict[str, Any]:
    factors = np.array(config.conservation.factors)
    drifts = np.array([drift(float(factor)) for factor in factors])
    if not (np.isfinite(drifts).all() and (drifts > 0).all()):
        raise NumericsError(f"conservation.factors: the {name} network's drift is not finite, or zero; lower the rates")
    details.slope[name] = factors, drifts
    fit = fit_order(list(factors), list(drifts))
    return {"slope": fit.order, "slope_interval": None if fit.ci is None else list(fit.ci)}


# the dense network


def dense_problem(config: ConservationConfig, activation: str) -> tuple[DenseNetwork, list[Array], list[Array], Any]:
    """A dense network on the configuration's data: (network, W, b, batches of the study's own sample order)."""
    data, training = config.dataset(), config.training_plan()
    x = data.x.reshape(len(data.x), -1)
    widths = [x.shape[1], *config.conservation.hidden, data.outputs]
    rng = np.random.default_rng([config.seed, STREAM_DENSE])
    w, b = draw_dense(widths, rng, math.sqrt(2.0) if activation == "relu" else 1.0)
    boundary = Boundary.draw(data, config.network(), training)

    def batches(steps: int) -> Iterator[tuple[Array, Array]]:
        for k in range(steps):
            index = boundary.batch(k)
            yield np.ascontiguousarray(x[index].T), boundary.targets[index]

    assert b is not None
    return DenseNetwork(get_activation(activation), get_loss(config.lattice.loss)), w, b, batches


def _pairs(
    w: list[Array], b: list[Array], steps: Iterable[Any]
) -> Iterator[tuple[dict[str, list[Array]], dict[str, list[Array]]]]:
    """(before, after) of every step of `descend`."""
    before = {"w": w, "b": b}
    for step in steps:
        if not math.isfinite(step.loss):
            raise NumericsError(f"the dense network's loss is not finite after {step.k} steps; lower conservation.rate")
        after = {"w": step.w, "b": step.b}
        yield before, after
        before = after


def follow_dense(config: ConservationConfig, details: Details) -> dict[str, Any]:
    """The same of the dense network."""
    net, w, b, batches = dense_problem(config, "relu")
    laws, start, keys = list_laws(w, b, "relu"), {"w": w, "b": b}, config.conservation
    steps = config.training.steps
    pairs = _pairs(w, b, descend(net, w, b, batches(steps), keys.rate))
    curve = details.curves["dense"] = follow(laws, start, pairs, steps)

    def drift(factor: float) -> float:
        *_, (_, end) = _pairs(w, b, descend(net, w, b, batches(keys.factor_steps), keys.rate * factor))
        return _norm_of_drift(laws, start, end)

    widths = [w[0].shape[1], *(len(part) for part in w)]
    return {"widths": widths, **_told(laws, start, curve), **_slope(config, "dense", details, drift)}


# momentum and weight decay


def momentum_of_lattice(config: ConservationConfig) -> dict[str, Any]:
    """The charges of the lattice with momentum, from random velocities: |Q(after) − μ Q(before)| of every step."""
    keys, step = config.conservation, config.training.step
    system = _lattice_system(config, dynamics="heavy-ball", damping=-math.log(keys.momentum) / step)
    training, lattice = system.boundary.training, system.lattice
    rng = np.random.default_rng([config.seed, STREAM_VELOCITY])
    state = system.state()
    size = {"w": 0.1, "b": 0.01, "r": 0.1}
    kicks = {
        dot: size[name] * float(np.sqrt(np.mean(state[name] ** 2)) + 1e-3) * rng.standard_normal(state[name].shape)
        for name, dot in zip(GROUPS, VELOCITIES, strict=True)
    }
    system.load({**state, **kicks})
    laws = charged(lattice_laws(lattice, learning_rates(lattice, 1.0, training.rates), state))
    steps = Steps(lattice, lattice.grid, training, "lattice")
    before = first = {name: np.array(part) for name, part in system.state().items()}
    worst = 0.0
    for k in range(training.steps):
        system.step(k)
        after = {name: np.array(part) for name, part in system.state().items()}
        worst = max(worst, steps.step(k, system, before, after)["conservation_rest"])
        before = after
    drift = max(relative(law.value(before) - law.value(first), law.scale(first), law.scale(before)) for law in laws)
    return {"momentum": decay(training), "charges": _charges(laws, before), "rest": worst, "drift": drift}


def _charges(laws: Sequence[Law], state: Parameters) -> int:
    """How many independent antisymmetric numbers there are."""
    return int(sum(components(law.value(state), True).size - law.value(state)[..., 0].size for law in laws))


def momentum_of_dense(config: ConservationConfig, details: Details) -> dict[str, Any]:
    """A linear dense network with momentum, from random velocities: its charges fall as μ^k, its laws drift."""
    net, w, b, batches = dense_problem(config, "identity")
    keys = config.conservation
    rng = np.random.default_rng([config.seed, STREAM_VELOCITY, 1])
    mu = keys.momentum
    eta = keys.rate * (1 - mu)  # as far per unit of time as without momentum
    theta, speed = {"w": w, "b": b}, {"w": [0.02 * rng.standard_normal(p.shape) / math.sqrt(p.shape[1]) for p in w]}
    speed["b"] = [0.01 * rng.standard_normal(p.shape) for p in b]
    laws = list_laws(w, b, "identity")
    first = [(law.value(theta), law.scale(theta)) for law in laws]
    start = [law.charge(theta, speed) for law in laws]
    size = math.sqrt(sum(float(np.sum(q**2)) for q in start))
    rows, worst, steps = [], 0.0, config.training.steps
    charges = start
    for k, (x, targets) in enumerate(batches(steps), start=1):
        _, g_w, g_b = net.loss_and_gradients(theta["w"], theta["b"], x, targets)
        assert g_b is not None
        slopes = {"w": g_w, "b": g_b}
        speed = {n: [mu * v - eta * g for v, g in zip(speed[n], slopes[n], strict=True)] for n in slopes}
        theta = {n: [p + v for p, v in zip(theta[n], speed[n], strict=True)] for n in slopes}
        now = [law.charge(theta, speed) for law in laws]
        scales = [law.charge_scale(theta, speed) for law in laws]
        worst = max(worst, *(relative(q - mu * p, s) for q, p, s in zip(now, charges, scales, strict=True)))
        drift = max(
            relative(law.value(theta) - value, scale, law.scale(theta))
            for law, (value, scale) in zip(laws, first, strict=True)
        )
        rows.append((k, drift, math.sqrt(sum(float(np.sum(q**2)) for q in now)) / size))
        charges = now
    if not np.isfinite(np.array(rows)).all():
        raise NumericsError("the linear network with momentum diverged; lower conservation.rate")
    taken, drifts, left = (np.array(column) for column in zip(*rows, strict=True))
    details.momentum = {"step": taken, "drift": drifts, "charge": left, "expected": mu**taken}
    known = details.momentum["expected"] > 1e-9
    off = np.abs(left[known] / details.momentum["expected"][known] - 1)
    return {
        "momentum": mu,
        "charges": _charges(laws, theta),
        "rest": worst,
        "drift": float(drifts[-1]),
        "factor_error": float(off.max()),
    }


def weight_decay(config: ConservationConfig, details: Details) -> dict[str, Any]:
    """A relu network with weight decay: D(k+1) = (1 − ηλ)² D(k) + D(step without decay), and what is left."""
    net, w, b, batches = dense_problem(config, "relu")
    keys, steps = config.conservation, config.training.steps
    laws, start = list_laws(w, b, "relu"), {"w": w, "b": b}
    keep = 1 - keys.rate * keys.weight_decay
    expected = [law.value(start) for law in laws]
    scales = [law.scale(start) for law in laws]
    size = math.sqrt(sum(float(np.sum(d**2)) for d in expected))
    rows, worst = [], 0.0
    run = descend(net, w, b, batches(steps), keys.rate, weight_decay=keys.weight_decay)
    for k, (before, after) in enumerate(_pairs(w, b, run), start=1):
        free = {n: [a - keep * p for a, p in zip(after[n], before[n], strict=True)] for n in after}
        values = [law.value(after) for law in laws]
        expected = [keep**2 * d + law.increment(free) for law, d in zip(laws, expected, strict=True)]
        left = [
            relative_each(v - e, s, law.scale(after))
            for law, v, e, s in zip(laws, values, expected, scales, strict=True)
        ]
        rest = max(float(part.max()) for part in left)
        worst = max(worst, rest)
        rows.append((k, math.sqrt(sum(float(np.sum(v**2)) for v in values)) / size, rest))
    taken, sizes, rests = (np.array(column) for column in zip(*rows, strict=True))
    details.weight_decay = {"step": taken, "law": sizes, "expected": keep ** (2 * taken), "rest": rests}
    return {
        "weight_decay": keys.weight_decay,
        "factor": keep**2,
        "rest": worst,
        "size": float(sizes[-1]),
        "expected_without_increments": float(keep ** (2 * steps)),
    }


# the limit of depth


def law_of_the_field(config: ConservationConfig, details: Details) -> dict[str, Any]:
    """The linear residual field of a narrow kernel on the same data, along its gradient flow: drift of its law."""
    network = config.network()
    kernel = Kernel((min(2, (network.width - 1) // 2) + 0.5) / network.width)
    network = dataclasses.replace(network, scaling="residual", activation="identity", range=kernel, kappa=None)
    training = dataclasses.replace(
        config.training_plan(),
        dynamics="flow",
        steps=FIELD_STEPS,
        step=0.05,
        batch=min(FIELD_SAMPLES, config.training.batch),
        rates=Rates(4.0, 0.2, 0.5),
    )
    boundary = Boundary.draw(config.dataset(), network, training)
    start = InitialFields(network, config.seed, weight=1.0, bias=0.3, correlation_x=0.5)
    found: dict[str, Any] = {"cells": list(FIELD_CELLS)}
    for scheme in FIELD_SCHEMES:
        drifts = []
        for cells in FIELD_CELLS:
            grid = Grid(cells, network.width)
            system = FieldSystem(start.on(grid), boundary, order=0, scheme=scheme)
            (law,) = field_laws(network, grid, training.rates)
            first = system.state()
            for k in range(FIELD_STEPS):
                system.step(k)
            last = system.state()
            drifts.append(relative(law.value(last) - law.value(first), law.scale(first), law.scale(last)))
        details.field_drift[scheme] = np.array(drifts)
        order = fit_order([1.0 / cells for cells in FIELD_CELLS], drifts)
        found[scheme] = {"drift": drifts, "order": order.order, "local_orders": order.local}
    return found


# how many laws


def networks() -> list[tuple[str, lie.Counted, int, tuple[str, bool]]]:
    """What is counted: (name, network, laws of the table, (activation, residual) of its listed laws)."""
    dense, conv = lie.dense, lie.convolutional

    def linear(*widths: int) -> tuple[str, lie.Counted, int, tuple[str, bool]]:
        inner = widths[1:-1]
        known = sum(r * (r + 1) // 2 for r in inner)
        if len(inner) == 1:
            known = lie.linear_two_layers(widths[2], widths[1], widths[0])
        return f"linear {'–'.join(map(str, widths))}", dense(widths, biases=False), known, ("identity", False)

    def relu(*widths: int, biases: bool = True) -> tuple[str, lie.Counted, int, tuple[str, bool]]:
        name = f"relu {'–'.join(map(str, widths))}{'' if biases else ', no biases'}"
        return name, dense(widths, "relu", biases=biases), sum(widths[1:-1]), ("relu", False)

    return [
        linear(2, 2, 2, 2),
        linear(3, 2, 3),
        linear(1, 4, 2),
        linear(2, 5, 2),
        linear(3, 4, 4, 2),
        ("linear 3–4–2 with biases", dense([3, 4, 2]), 10, ("identity", False)),
        relu(3, 5, 2, biases=False),
        relu(3, 5, 2),
        relu(4, 5, 6, 3),
        ("relu convolutions, 2–3–2 channels, no biases", conv(6, [2, 3, 2], 3, biases=False), 3, ("relu", False)),
        ("relu convolutions, 1–3–4–2 channels", conv(6, [1, 3, 4, 2], 3), 7, ("relu", False)),
        (
            "relu convolutions, circular, dense readout",
            conv(5, [1, 4], 3, padding="circular", outputs=3),
            4,
            ("relu", False),
        ),
        ("linear convolutions, 2–3–2 channels", conv(6, [2, 3, 2], 3, "identity"), 6, ("identity", False)),
        ("relu untied kernels, circular", conv(5, [1, 2, 2], 3, tied=False, padding="circular"), 10, ("relu", False)),
        ("relu residual block 3–4–3", dense([3, 4, 3], "relu", residual=True), 4, ("relu", True)),
        (
            "linear residual blocks, 3–2–3 twice, readout",
            dense([3, 2, 3, 2, 3, 2], residual=True),
            6,
            ("identity", True),
        ),
        linear(10, 12, 10),
        relu(12, 16, 16, 8),
    ]


def count(seed: int) -> list[dict[str, Any]]:
    """D, ranks and laws of every network of the table; `listed`: how many laws of `list_laws` are independent."""
    rows = []
    for name, counted, expected, asked in networks():
        found = lie.count_laws(counted, seed)
        row: dict[str, Any] = {"name": name, "parameters": found.parameters, "ranks": list(found.ranks)}
        row |= {"laws": found.laws, "expected": expected}
        row["listed"] = independent(counted, *asked, seed=seed)
        rows.append(row)
    return rows


def independent(counted: lie.Counted, activation: str, residual: bool, seed: int = 0) -> int:
    """The rank of the gradients of all listed laws at random whole θ, modulo a prime: how many are independent."""
    rng = np.random.default_rng([seed, STREAM_COUNT])
    w, b = counted.split(rng.integers(-999, 1000, counted.parameters).astype(float))
    biases = None if b[0] is None else b
    laws = list_laws(w, biases, activation, padding=counted.padding, residual=residual)
    theta = {"w": w} if biases is None else {"w": w, "b": b}
    span = lie.Span(counted.parameters)
    for law in laws:
        span.add(np.rint(gradients(law, theta)).astype(np.int64))  # sums of products of whole numbers, exact in floats
    return span.rank


# what it amounts to


def describe(config: Mapping[str, Any], scores: Mapping[str, Any]) -> Description:
    """What was measured, in words and tables."""
    found = scores["conservation"]
    momentum, decayed = found["momentum"], found["weight_decay"]
    momentum_rows = [
        [
            f"{name}, momentum",
            f"{row['charges']} charges Q",
            number(row["momentum"], 6),
            number(row["rest"]),
            number(row["drift"]),
        ]
        for name, row in (("lattice", momentum["lattice"]), ("linear dense", momentum["dense"]))
    ]
    tables = [
        Table(
            "Laws in minibatch gradient descent",
            ["network", "laws", "steps", "drift", "left after subtraction", "slope of the drift"],
            [
                [
                    name if name == "convolutional" else f"dense {'–'.join(map(str, found[name]['widths']))}",
                    found[name]["laws"],
                    found[name]["steps"],
                    number(found[name]["drift"]),
                    number(found[name]["rest"]),
                    f"{decimal(found[name]['slope'])}\n{', '.join(decimal(v) for v in found[name]['slope_interval'])}",
                ]
                for name in SYSTEMS
            ],
            "Largest of all laws, relative to the sum of absolute values of its own terms. Subtracted is the exact"
            " increment D(Δ) of every step. Slope of the drift against the learning rate, with its 95 % interval",
        ),
        Table(
            "Momentum and weight decay",
            ["run", "what is followed", "factor of a step", "largest error", "drift of the laws"],
            [
                *momentum_rows,
                [
                    "dense relu, weight decay",
                    "laws D",
                    number(decayed["factor"], 6),
                    number(decayed["rest"]),
                    number(1 - decayed["size"]),
                ],
            ],
            "Error of Q(k+1) = μ Q(k) in any step, or of D(k+1) = (1 − ηλ)² D(k) + D(step without decay) over all"
            " steps, relative to the terms. Drift of the laws: for weight decay, by how much their norm has fallen",
        ),
        Table(
            "The law of the linear field",
            ["march in depth", *(f"{cells} cells" for cells in found["field"]["cells"]), "order"],
            [
                [
                    scheme,
                    *(number(v) for v in found["field"][scheme]["drift"]),
                    decimal(found["field"][scheme]["order"]),
                ]
                for scheme in FIELD_SCHEMES
            ],
            "Largest relative drift along the gradient flow of the residual field with σ = 1",
        ),
        Table(
            "How many laws",
            ["network", "parameters", "dim V, with brackets", "laws", "of the table", "listed here, independent"],
            [
                [
                    row["name"],
                    row["parameters"],
                    ", ".join(map(str, row["ranks"])),
                    row["laws"],
                    row["expected"],
                    row["listed"],
                ]
                for row in found["counts"]
            ],
            "Laws: parameters less the last rank, by exact arithmetic modulo a prime; the last level of brackets adds"
            " nothing. Listed: the rank of the gradients of the laws that were followed",
        ),
        *intrinsic.tables(found["intrinsic"]),
    ]
    summary = (
        f"{network(config)} A dense relu network was trained on the same minibatches. The laws of both were followed"
        " step by step, with the exact increment of every step subtracted; so were the antisymmetric charges of runs"
        " with momentum, and the laws of one with weight decay. Independent laws were counted by the rank of the Lie"
        f" algebra of all gradient fields. {intrinsic.summary(found['intrinsic'])}"
    )
    return Description(summary, tables, _message(found))


def _message(found: Mapping[str, Any]) -> str:
    right = sum(row["laws"] == row["expected"] for row in found["counts"])
    rest = max(found[name]["rest"] for name in SYSTEMS)
    drift = max(found[name]["drift"] for name in SYSTEMS)
    slopes = " and ".join(decimal(found[name]["slope"]) for name in SYSTEMS)
    but = "and by nothing but the square of each step" if rest < 1e-11 else "and by more than the square of each step"
    return (
        f"Training in steps breaks the laws, by up to {percent(drift)} of their terms after {found['dense']['steps']}"
        f" steps, {but}: {number(rest, 2)} is left when it is subtracted. The"
        f" drift has slope {slopes} against the learning rate. Counted laws equal those of the table for {right} of"
        f" {len(found['counts'])} networks. {intrinsic.message(found['intrinsic'])}"
    )


def _write(config: ConservationConfig, out: Path, details: Details) -> None:
    """Every array to conservation.h5."""
    arrays: dict[str, tuple[tuple[str, ...], Any]] = {}
    for name, curve in details.curves.items():
        arrays |= {f"{name}_{key}": ((f"{name}_point",), getattr(curve, key)) for key in ("step", "drift", "rest")}
    for name, (factors, drifts) in details.slope.items():
        arrays |= {"factor": (("factor_point",), factors), f"{name}_factor_drift": (("factor_point",), drifts)}
    for name, columns in (("momentum", details.momentum), ("weight_decay", details.weight_decay)):
        arrays |= {f"{name}_{key}": ((f"{name}_point",), values) for key, values in columns.items()}
    arrays |= {f"field_{scheme}_drift": (("field_cells",), drifts) for scheme, drifts in details.field_drift.items()}
    arrays |= intrinsic.arrays_of(details.intrinsic)
    write_sidecar(
        out / "conservation.h5",
        kind=config.kind,
        config=tomllib.loads(config.to_toml()),
        arrays=arrays,
        coordinates={"field_cells": np.array(FIELD_CELLS)},
        overwrite=True,
    )
