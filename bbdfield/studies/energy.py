"""The energy study: where energy enters a network in training, how it moves along the depth, and where it is lost.

    lattice   dE[m]/dt + J[m+1] − J[m] = −2γ E[m]         field   dε_m/dt + J_{m+1} − J_m = −2γ ε_m
    step      E[m](t+τ) − β² E[m](t) = −τ ( J̄[m+1] − J̄[m] )     β = e^{−γτ}, J̄ driven by (βv + v')/2

are balanced at every step of a real run with momentum, for the network and for the field, each by its own velocities;
so are the overdamped law J[m+1] − J[m] = −Σ_g |θ̇_g[m]|²/η_g of SGD, and a dense network without skips. On the lattice
gradients (accelerations) come from `bbdfield.lattice`, velocities ż of the neurons from `bbdfield.decomposition`.

A swap of samples changes the loss, not the energy of the layers. With the new signals coming in first, at the old
targets, Δ_Xℓ comes through the input boundary: as a pulse ∫J[m]dt that is the same at every depth, since no weight
moves meanwhile; the new targets then change ℓ by Δ_Yℓ at the output boundary.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bbdfield.decomposition.energy import (
    Observation,
    continuity,
    current,
    layer_energy,
    layer_energy_rate,
    link_currents,
    observe,
    overdamped_continuity,
    overdamped_totals,
    swap,
    totals,
)
from bbdfield.decomposition.forces import Gradients, accelerations, backpropagate, descent, gradients
from bbdfield.decomposition.maps import Array, PerGroup, Rule
from bbdfield.decomposition.readout import Output, cosine_basis
from bbdfield.decomposition.substitution import neurons
from bbdfield.errors import NumericsError
from bbdfield.fields import energy as of_field
from bbdfield.fields.simulation import FieldSystem
from bbdfield.lattice.sharpness import check_training_step, stability_limit
from bbdfield.lattice.training import LatticeSystem
from bbdfield.model.boundary import Boundary
from bbdfield.model.losses import get_loss
from bbdfield.model.units import inertia_of, to_lattice
from bbdfield.storage.sidecar import write_sidecar
from bbdfield.studies.config import EnergyConfig
from bbdfield.studies.describe import Description, Table, at, listed, network, number, percent
from bbdfield.studies.kinds import Session
from bbdfield.studies.machines import in_words
from solvers.interpolation import interpolation_matrix

#: of random numbers: the weights of the plain network
STREAM_PLAIN = 7
#: points of the quadrature along the way from one batch to the next; its error, which scores tell, falls exponentially
PULSE_POINTS = 32

CAPTIONS = {
    "energy-map": "Energy per depth (top, after every step) and its current (bottom; blue runs towards the input) over"
    " depth and training time: the network, the field by its own dynamics, and means over time. The current is the one"
    " that moves the energy of each step, averaged over the time 1/γ that inertia remembers; its colours are linear"
    " around 0 and logarithmic beyond. It is 0 at the input, where the data are fixed, and strongest at the output,"
    " where the falling loss feeds it; what it loses on its way is taken by the layers and dissipated there.",
    "energy-budget": "Energy of all layers of the network. Top: power that enters through the output boundary, that"
    " damping takes, and the change (thin: every step; thick: running mean). Middle: the same summed. Bottom: what is"
    " left of each balance in the worst layer of every step, relative to its terms; the dashed line is rounding, the"
    " dense network's steps are spread over the same axis.",
    "energy-links": "Currents resolved in the width in one training step, of the stored ones the one in which most"
    " energy enters. Left: the current along depth at every place (colour), skips included, and its direction with the"
    " kernels' sideways part (arrows, their length the square root of the strength). Right: what each tap of the"
    " kernels carries, relative to the mean current over depth; the skips carry the rest.",
    "energy-swaps": "What a change of the minibatch does. Left: the jump of the loss at every swap, split into what"
    " comes through the input with the new signals, still at the old targets, and what the new targets change at the"
    " output; the two depend on how samples are paired, here by their order. Middle: the current before and after one"
    " swap; the layers' energy does not jump. Right: the signals' pulse of energy is the same at every depth.",
}


@dataclass
class Books:
    """What was kept of one network in motion: arrays by name, rows are steps.

    residuals : by name, the worst layer of every step.
    """

    rows: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    residuals: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    kinks: int = 0

    def add(self, **values: Any) -> None:
        for name, value in values.items():
            self.rows.setdefault(name, []).append(value)

    def check(self, **values: float) -> None:
        for name, value in values.items():
            self.residuals.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> Array:
        return np.array(self.rows[name], dtype=float)

    def worst(self, name: str) -> float:
        return max(self.residuals[name])


@dataclass
class Details:
    """For figures and sidecar. moments : name -> one row per moment."""

    lattice: Books = dataclasses.field(default_factory=Books)
    field: Books = dataclasses.field(default_factory=Books)
    overdamped: Books = dataclasses.field(default_factory=Books)
    plain: Books = dataclasses.field(default_factory=Books)
    swaps: Books = dataclasses.field(default_factory=Books)
    moments: Books = dataclasses.field(default_factory=Books)


def check(config: EnergyConfig) -> str:
    """Refuse a training step that could only diverge, with momentum or without; returns the backend in words."""
    limits = []
    for each in (config.overdamped(), config):
        net = _lattice_system(each)
        sharp = check_training_step(net)
        limits.append(f"{stability_limit(net.boundary.training):.3g}")
    system = _field_system(config)
    stable = f"τ λ_max = {sharp:.3g} at the start (steps are stable up to {limits[1]}, SGD's up to {limits[0]})"
    return f"{in_words([net.backend.description], [system.backend.description])}; {stable}"


def compute(config: EnergyConfig, out: Path, session: Session) -> tuple[dict[str, Any], Details]:
    """Follow the network, the field, the overdamped network and the plain one; arrays go to energy.h5."""
    details = Details()
    parts: list[tuple[str, Callable[[EnergyConfig, Details, Callable[[int, int, float], None]], None]]] = [
        ("network", follow_lattice),
        ("field", follow_field),
        ("overdamped network", follow_overdamped),
        ("plain network", follow_plain),
    ]
    with threadpool_limits(1), np.errstate(over="ignore", invalid="ignore"):
        for name, follow in parts:
            session.say(name)

            def report(done: int, total: int, loss: float, name: str = name) -> None:
                if not np.isfinite(loss):
                    raise NumericsError(
                        f"energy: the loss of the {name} is not finite at step {done}; lower training.step or the rates"
                    )
                if session.report:
                    session.report(name, done, total, loss)

            follow(config, details, report)
    _write(config, out, details)
    return {"kind": config.kind, "title": config.title, "energy": _scores(config, details)}, details


def draw(config: EnergyConfig, out: Path, scores: dict[str, Any], details: Details) -> None:
    """All figures."""
    from bbdfield.plotting.energy import Motion, figure_budget, figure_energy_map, figure_links, figure_swaps
    from bbdfield.plotting.style import save

    lattice, plan = config.lattice_at(*config.rungs()[0]), config.training_plan()
    own, books = config.field_grid(), details.lattice
    t = plan.step * np.arange(plan.steps + 1)
    motions = [
        Motion(label, each["energy"][1:] / width, each["step_current"])
        for label, each, width in (
            (f"network, {lattice.depth} layers", books, lattice.a_x),
            (f"field of order {config.field.order}, {own.n_x} cells", details.field, own.h_x),
        )
    ]
    figures = {
        "energy-map": figure_energy_map(
            t, motions, details.overdamped["current"].mean(axis=0), 1.0 / (plan.damping or 1.0)
        )
    }
    energy = books["energy"].sum(axis=1)
    lost = -math.expm1(-2.0 * (plan.damping or 0.0) * plan.step) * energy[:-1]
    every = {
        "network": books.residuals["continuity"],
        "its steps": books.residuals["step"],
        "field": details.field.residuals["continuity"],
        "without inertia": details.overdamped.residuals["continuity"],
        "without skips": details.plain.residuals["continuity"],
    }
    inflow = -plan.step * (books["step_current"][:, -1] - books["step_current"][:, 0])
    residuals = {name: np.array(values) for name, values in every.items()}
    figures["energy-budget"] = figure_budget(t, inflow, lost, energy, residuals)
    moments, when = details.moments, plan.step * details.moments["step"]
    # The moment in which most energy enters.
    most = int(np.argmin(moments["skip"].sum(axis=(1, 2)) + moments["kernel"].sum(axis=(1, 2, 3))))
    taps = np.arange(moments["kernel"].shape[-1]) - moments["kernel"].shape[-1] // 2
    figures["energy-links"] = figure_links(
        moments["kernel"][most],
        moments["skip"][most],
        taps / lattice.width,
        (lattice.length_x, lattice.length_y),
        float(when[most]),
    )
    figures["energy-swaps"] = figure_swaps(
        details.swaps["signals"],
        details.swaps["targets"],
        moments["before"][-1],
        moments["after"][-1],
        {f"$t$ = {moment:.4g}": pulse for moment, pulse in zip(when, moments["pulse"], strict=True)},
        float(when[-1]),
    )
    for name, figure in figures.items():
        save(figure, out / "figures" / f"{name}.png")


def describe(config: Mapping[str, Any], scores: Mapping[str, Any]) -> Description:
    """What was followed and found, in words and tables."""
    found = scores["energy"]
    entering_, swaps, nearness = found["entering"], found["swap"], found["field_against_lattice"]
    cells = at(config, "field", "n_x")
    grid = f"{at(config, 'lattice', 'depth') if cells == 'lattice' else cells} depth cells"
    hidden = listed(at(config, "plain", "hidden"))
    summary = (
        f"{network(config)} Its energy was followed through every step; so was that of the field of order"
        f" {at(config, 'field', 'order')} on {grid} ({at(config, 'field', 'depth_scheme')}), by the field's own"
        " dynamics, of the same network without inertia (plain gradient descent with the same rates), and of a dense"
        f" network without skips ({hidden} hidden neurons)."
    )
    names = {
        "lattice": "network",
        "field": "field",
        "overdamped": "network without inertia",
        "plain": "dense network without skips",
    }
    balances = Table(
        "Residual of the balance of every layer",
        ["", "at every moment", "over every step", "loss"],
        [
            [
                name,
                found[f"{key}_residual"],
                found.get(f"{key}_step_residual"),
                f"{number(found['loss'][key][0])} → {number(found['loss'][key][1])}",
            ]
            for key, name in names.items()
        ],
        "Relative to the terms of each balance; the worst layer and step. The loss: first, and mean of the last tenth",
    )
    flows = Table(
        "Energy over the whole run",
        ["quantity", "value"],
        [
            ["into the layers through the output", entering_["output"]],
            ["into the layers through the input, at fixed samples", entering_["input"]],
            ["dissipated in the layers", entering_["dissipated"]],
            ["left in the layers", entering_["stored"]],
            ["taken by the readout", entering_["readout"]],
            ["paid by the loss in steps at fixed samples", entering_["loss_paid"]],
            ["put into the loss by swaps of samples", entering_["loss_swaps"]],
            ["steps in which energy left through the output", percent(entering_["outward_steps"])],
            ["dissipated in the output's half of the layers", percent(entering_["output_half_share"])],
        ],
        "Layers and readout get less than the loss pays: the rest is lost in the steps, an effect of first order in"
        " their length",
    )
    jumps = Table(
        f"{swaps['count']} swaps of samples",
        ["jump", "RMS", "sum"],
        [
            ["of the loss", swaps["loss_rms"], swaps["loss_sum"]],
            ["– through the input, with the signals", swaps["signals_rms"], swaps["signals_sum"]],
            ["– at the output, by the targets", swaps["targets_rms"], swaps["targets_sum"]],
            ["of the power that enters at the output", swaps["power_rms"], swaps["power_sum"]],
            ["of the energy of any layer (largest, relative)", swaps["kinetic"], None],
        ],
        "Signals and targets separately depend on how the samples of the two batches are paired: by their order",
    )
    message = (
        f"The balances hold to {number(max(found[f'{key}_residual'] for key in names))}. Of the energy that entered"
        f" the layers, all of it through the output boundary, {percent(entering_['dissipated'] / entering_['output'])}"
        f" was dissipated in them, {percent(entering_['output_half_share'])} of that in the half next to the output."
        f" Energy and current of the field differ from the network's by {percent(nearness['energy'])} and"
        f" {percent(nearness['step_current'])} (relative L2)."
    )
    return Description(summary, [balances, flows, jumps], message)


# the network


def _lattice_system(config: EnergyConfig) -> LatticeSystem:
    lattice = config.lattice_at(*config.rungs()[0])
    boundary = Boundary.draw(config.dataset(), lattice, config.training_plan())
    start = to_lattice(config.initial_fields(lattice).on(lattice.grid, lattice))
    return LatticeSystem(lattice, boundary, start, **config.training.machine())


@dataclass(frozen=True)
class Look:
    """The lattice at one moment with one batch: loss, logits, ∂ℓ/∂θ and δ by the lattice package; z, ż; J."""

    z0: Array
    targets: Array
    loss: float
    logits: Array
    gradient: Gradients
    delta: Array
    z: list[Array]
    zdot: list[Array]
    J: Array
    kinks: int


class Observer:
    """Looks at a lattice in training."""

    def __init__(self, net: LatticeSystem) -> None:
        self.net, training = net, net.boundary.training
        self.rule = Rule(net.lattice.activation, 1.0, net.lattice.padding)
        self.eta = PerGroup(net.rates.w, net.rates.b, net.rates.r)
        self.gamma = training.damping or 0.0
        # A group that never moves has no energy.
        self.mu = PerGroup(*(1.0 / (rate * self.gamma) if rate * self.gamma else 0.0 for rate in self._rates))

    @property
    def _rates(self) -> tuple[float, float, float]:
        return self.eta.w, self.eta.b, self.eta.r

    def velocity(self) -> Gradients:
        w, b, r = self.net.v
        return Gradients(list(w), list(b), r)

    def force(self, gradient: Gradients) -> Gradients:
        """−(∂ℓ/∂θ)/μ = −γη ∂ℓ/∂θ."""
        return descent(gradient, PerGroup(*(self.gamma * rate for rate in self._rates)))

    def acceleration(self, velocity: Gradients, gradient: Gradients) -> Gradients:
        return _combine(1.0, self.force(gradient), -self.gamma, velocity)

    def middle(self, velocity: Gradients, gradient: Gradients) -> Gradients:
        """(βv + v')/2 = βv + (τ/2) × force of the step that begins here."""
        step = self.net.boundary.training.step
        return _combine(math.exp(-self.gamma * step), velocity, 0.5 * step, self.force(gradient))

    def see(self, index: np.ndarray, velocity: Gradients | None = None) -> Look:
        """With the given velocities; without, the motion is overdamped."""
        net, (w, b, r) = self.net, self.net.u
        z0, targets = net.boundary.input(index, net.lattice.width), net.boundary.targets[index]
        found = net.network.loss_and_gradients(z0, w, b, r, targets, keep_delta=True)
        gradient = Gradients(list(found.gradients["w"]), list(found.gradients["b"]), found.gradients["r"])
        going = descent(gradient, self.eta) if velocity is None else velocity
        there = neurons(self.rule, w, b, z0, going.w, going.b)
        assert there.zdot is not None and found.delta is not None
        J = current(found.delta, there.zdot)
        kinks = int(there.kinks.sum())
        return Look(z0, targets, found.loss, found.logits, gradient, found.delta, there.z, there.zdot, J, kinks)

    def rates_of(self, look: Look, velocity: Gradients) -> list[Array]:
        """ż of the same moment along another velocity."""
        w, b, _ = self.net.u
        there = neurons(self.rule, w, b, look.z0, velocity.w, velocity.b)
        assert there.zdot is not None
        return there.zdot

    def observation(self, index: np.ndarray) -> Observation:
        """The same by the plain-array theory alone, with the Lagrangian."""
        net, (w, b, r), (w_dot, b_dot, r_dot) = self.net, self.net.u, self.net.v
        lattice = net.lattice
        basis = cosine_basis(lattice.width, lattice.readout_modes, lattice.a_y, lattice.length_y)
        output = Output(lattice.loss, net.boundary.targets[index], lattice.outputs, basis)
        z0 = net.boundary.input(index, lattice.width)
        return observe(self.rule, w, b, r, w_dot, b_dot, r_dot, z0, output, self.mu)

    def pulse(self, before: Look, after: Look) -> Array:
        """∫J[m]dt as the signals of one batch are turned into those of another, at fixed targets and weights, (M+1,).

        Gauss-Legendre quadrature along the straight way; samples are paired by their order.
        """
        net, (w, b, r) = self.net, self.net.u
        nodes, weights = np.polynomial.legendre.leggauss(PULSE_POINTS)
        zeros, moved = ([np.zeros_like(part) for part in group] for group in (w, b))
        rate, total = after.z0 - before.z0, np.zeros(len(w) + 1)
        for s, weight in zip(0.5 * (nodes + 1.0), 0.5 * weights, strict=True):
            z0 = before.z0 + s * rate
            delta = net.network.loss_and_gradients(z0, w, b, r, before.targets, keep_delta=True).delta
            there = neurons(self.rule, w, b, z0, zeros, moved, rate)
            assert delta is not None and there.zdot is not None
            total += weight * current(delta, there.zdot)
        return total


def _combine(a: float, one: Gradients, b: float, two: Gradients) -> Gradients:
    """a × one + b × two."""
    w, bias = ([a * x + b * y for x, y in zip(p, q, strict=True)] for p, q in ((one.w, two.w), (one.b, two.b)))
    r = None if one.r is None or two.r is None else a * one.r + b * two.r
    return Gradients(w, bias, r)


def follow_lattice(config: EnergyConfig, details: Details, report: Callable[[int, int, float], None]) -> None:
    """The network with momentum: balances at every step and over every step, swaps, and moments in detail."""
    net = _lattice_system(config)
    watch, boundary = Observer(net), net.boundary
    training, books, swaps = boundary.training, details.lattice, details.swaps
    loss_of = get_loss(net.lattice.loss)
    step, gamma, mu = training.step, watch.gamma, watch.mu
    kept = math.exp(-2.0 * gamma * step)
    moments = _moments(training.steps, config.energy.moments)
    previous: Look | None = None
    for k in range(training.steps):
        index, velocity = boundary.batch(k), watch.velocity()
        now = watch.see(index, velocity)
        report(k, training.steps, now.loss)
        if previous is not None:
            _keep_swap(watch, swaps, previous, now, loss_of.value(now.logits, previous.targets))
        acceleration, middle = watch.acceleration(velocity, now.gradient), watch.middle(velocity, now.gradient)
        energy = layer_energy(velocity.w, velocity.b, mu)
        rate = layer_energy_rate(velocity.w, velocity.b, acceleration.w, acceleration.b, mu)
        zdot = watch.rates_of(now, middle)
        moved = current(now.delta, zdot)
        whole = totals(velocity, acceleration, now.gradient, now.J, now.loss, mu, gamma)
        books.check(continuity=continuity(energy, rate, now.J, gamma).worst, totals=whole.residual)
        books.add(energy=energy, rate=rate, current=now.J, step_current=moved, loss=now.loss)
        assert velocity.r is not None and middle.r is not None and now.gradient.r is not None
        books.add(
            readout_energy=0.5 * mu.r * float(np.vdot(velocity.r, velocity.r)),
            readout_power=-float(np.vdot(now.gradient.r, middle.r)),
        )
        books.kinks += now.kinks
        if previous is not None and k in moments:
            _keep_moment(watch, details.moments, k, now, zdot, moved)
            _keep_jump(watch, details.moments, boundary.batch(k - 1), index, previous, now)
        net.step(k)
        after = watch.velocity()
        later = watch.see(index, after)
        books.add(descent=later.loss - now.loss)
        left = of_field.balance(
            layer_energy(after.w, after.b, mu), -kept * energy, step * moved[1:], -step * moved[:-1]
        )
        books.check(step=left.worst)
        previous = later
    last = watch.velocity()
    books.add(energy=layer_energy(last.w, last.b, mu))
    assert last.r is not None
    books.add(readout_energy=0.5 * mu.r * float(np.vdot(last.r, last.r)))
    report(training.steps, training.steps, now.loss)


def _keep_swap(watch: Observer, swaps: Books, before: Look, after: Look, between: float) -> None:
    """before, after : the same weights with the old and the new batch.   between : loss of new signals, old targets."""
    r_dot = watch.net.v[2]
    power = [-float(look.J[-1]) - float(np.vdot(look.gradient.r, r_dot)) for look in (before, after)]
    swaps.add(
        loss=after.loss - before.loss,
        signals=between - before.loss,
        targets=after.loss - between,
        power=power[1] - power[0],
    )


def _keep_moment(watch: Observer, moments: Books, k: int, now: Look, zdot: list[Array], moved: Array) -> None:
    """Currents of one step, resolved in the width: through every tap of the kernels, and through the skips."""
    w = watch.net.u[0]
    bare = Rule(watch.rule.activation, 0.0, watch.rule.padding)
    links = link_currents(bare, w, now.z, zdot, now.delta)
    kernel = np.stack([link.sum(axis=(1, 3)) for link in links])
    skip = np.stack([np.sum(now.delta[m + 1] * zdot[m], axis=(1, 2)) for m in range(len(w))])
    size = np.array([np.abs(link).sum() for link in links]) + np.abs(skip).sum(axis=1)
    left = np.abs(kernel.sum(axis=(1, 2)) + skip.sum(axis=1) - moved[:-1])
    moments.check(links=float(np.max(left / np.where(size > 0, size, 1.0))))
    moments.add(step=k, kernel=kernel, skip=skip)


def _keep_jump(watch: Observer, moments: Books, old: np.ndarray, new: np.ndarray, before: Look, after: Look) -> None:
    """One swap in detail, by the plain-array theory."""
    first, second = watch.observation(old), watch.observation(new)
    kick = swap(first, second)
    pulse = watch.pulse(before, after)
    between = get_loss(watch.net.lattice.loss).value(after.logits, before.targets)
    came = between - before.loss
    scale = max(float(np.abs(pulse).max()), np.finfo(float).tiny)
    size = abs(first.bulk.total) + abs(first.loss) + abs(second.loss)
    moments.check(
        kinetic=float(np.max(np.abs(kick.kinetic) / np.where(first.energy > 0, first.energy, 1.0))),
        bulk=abs(kick.bulk) / size,
        boundary=abs(kick.boundary + kick.loss) / size,
        routes=float(np.max(np.abs(second.current - after.J)) / max(float(np.max(np.abs(after.J))), 1e-300)),
        pulse_along_depth=float(np.ptp(pulse)) / scale,
        pulse_against_loss=abs(float(pulse[0]) - came) / scale,
        lagrangian=max(first.residual, second.residual),
    )
    moments.add(before=before.J, after=after.J, pulse=pulse, neurons=kick.neurons, through_output=kick.through_output)


def _moments(steps: int, count: int) -> list[int]:
    """Steps after the first, evenly spread."""
    return sorted({int(k) for k in np.linspace(0, steps - 1, count + 1)[1:].round() if k > 0})


# the field, the overdamped and the plain network


def _field_system(config: EnergyConfig) -> FieldSystem:
    lattice = config.lattice_at(*config.rungs()[0])
    return FieldSystem(
        config.initial_fields(lattice).on(config.field_grid(), lattice),
        Boundary.draw(config.dataset(), lattice, config.training_plan()),
        order=config.field.order,
        scheme=config.field.depth_scheme,
        **config.field.machine(),
    )


def follow_field(config: EnergyConfig, details: Details, report: Callable[[int, int, float], None]) -> None:
    """The field with momentum, by its own dynamics."""
    system, books = _field_system(config), details.field
    training = system.boundary.training
    assert training.damping is not None
    for k in range(training.steps):
        seen = of_field.observe(system, system.boundary.batch(k))
        report(k, training.steps, seen.loss)
        assert seen.step_current is not None
        books.add(energy=seen.energy, current=seen.current, step_current=seen.step_current.sum(axis=1), loss=seen.loss)
        system.step(k)
        energy, _ = of_field.cell_energy(system)
        left = of_field.step_balance(seen, energy, training.step, training.damping)
        books.check(continuity=seen.continuity().worst, totals=seen.totals().worst, step=left.worst)
    books.add(energy=energy)
    report(training.steps, training.steps, seen.loss)


def follow_overdamped(config: EnergyConfig, details: Details, report: Callable[[int, int, float], None]) -> None:
    """The same network by SGD: velocities follow the forces at once."""
    net = _lattice_system(config.overdamped())
    watch, books = Observer(net), details.overdamped
    steps = net.boundary.training.steps
    for k in range(steps):
        now = watch.see(net.boundary.batch(k))
        report(k, steps, now.loss)
        velocity = descent(now.gradient, watch.eta)
        left = overdamped_continuity(velocity.w, velocity.b, now.J, watch.eta)
        whole = overdamped_totals(velocity, now.gradient, now.J, now.loss, watch.eta)
        books.check(continuity=left.worst, totals=whole.residual)
        books.add(current=now.J, loss=now.loss)
        books.kinks += now.kinks
        net.step(k)
    report(steps, steps, now.loss)


def follow_plain(config: EnergyConfig, details: Details, report: Callable[[int, int, float], None]) -> None:
    """A dense network without skips as plain arrays, on the same batches; its last layer gives the logits."""
    boundary, keys, books = _lattice_system(config).boundary, config.plain, details.plain
    training = boundary.training
    assert training.damping is not None
    step, data = training.step, boundary.dataset.x.reshape(len(boundary.dataset.x), -1)
    mass, gamma = inertia_of(keys.learning_rate, math.exp(-training.damping * step), step)
    mu = PerGroup(mass, mass)
    widths = (data.shape[1], *keys.hidden, boundary.lattice.outputs)
    rng = np.random.default_rng([config.seed, STREAM_PLAIN])
    W = [keys.gain * rng.standard_normal((n, m)) / math.sqrt(m) for m, n in itertools.pairwise(widths)]
    b = [np.zeros(n) for n in widths[1:]]
    velocity = Gradients([np.zeros_like(w) for w in W], [np.zeros_like(v) for v in b])
    # The first layer sees the signals themselves.
    rule = Rule(("identity", *[boundary.lattice.activation] * len(keys.hidden)), 0.0)
    kept = math.exp(-2.0 * gamma * step)
    for k in range(keys.steps):
        index = boundary.batch(k % training.steps)
        output = Output(boundary.lattice.loss, boundary.targets[index], boundary.lattice.outputs)
        z0 = np.ascontiguousarray(data[index].T)
        there = neurons(rule, W, b, z0, velocity.w, velocity.b)
        assert there.zdot is not None
        loss = output.value(there.z[-1], None)
        report(k, keys.steps, loss)
        delta = backpropagate(rule, W, there.z, output.gradient(there.z[-1], None)[0])
        gradient = gradients(rule, W, there.z, delta)
        second, J = accelerations(velocity, gradient, mu, gamma), current(delta, there.zdot)
        energy = layer_energy(velocity.w, velocity.b, mu)
        rate = layer_energy_rate(velocity.w, velocity.b, second.w, second.b, mu)
        whole = totals(velocity, second, gradient, J, loss, mu, gamma)
        push = descent(gradient, PerGroup(1.0 / mass, 1.0 / mass))
        half = _combine(math.sqrt(kept), velocity, 0.5 * step, push)
        middle = neurons(rule, W, b, z0, half.w, half.b).zdot
        assert middle is not None
        moved = current(delta, middle)
        velocity = _combine(math.sqrt(kept), velocity, step, push)
        W, b = ([p + step * v for p, v in zip(x, y, strict=True)] for x, y in ((W, velocity.w), (b, velocity.b)))
        after = layer_energy(velocity.w, velocity.b, mu)
        left = of_field.balance(after, -kept * energy, step * moved[1:], -step * moved[:-1])
        books.check(continuity=continuity(energy, rate, J, gamma).worst, totals=whole.residual, step=left.worst)
        books.add(energy=energy, current=J, step_current=moved, loss=loss)
        books.kinks += int(there.kinks.sum())
    report(keys.steps, keys.steps, loss)


# what it amounts to


def _scores(config: EnergyConfig, details: Details) -> dict[str, Any]:
    lattice, moments = details.lattice, details.moments
    every = {"lattice": lattice, "field": details.field, "overdamped": details.overdamped, "plain": details.plain}
    difference = _field_against_lattice(config, details)
    return {
        **{f"{name}_residual": books.worst("continuity") for name, books in every.items()},
        "totals_residual": max(books.worst("totals") for books in every.values()),
        **{f"{name}_step_residual": every[name].worst("step") for name in ("lattice", "field", "plain")},
        "link_residual": moments.worst("links"),
        "entering": entering(config, details),
        "swap": _swap_scores(details),
        "field_against_lattice": difference,
        "kinks": {name: books.kinks for name, books in every.items() if name != "field"},
        "loss": {name: [float(books["loss"][0]), float(_tail(books["loss"]))] for name, books in every.items()},
    }


def _tail(values: Array) -> float:
    """Mean over the last tenth."""
    return float(np.mean(values[-max(1, len(values) // 10) :]))


def entering(config: EnergyConfig, details: Details) -> dict[str, Any]:
    """Sums over the run: energy into the layers through either boundary, where it went, and what the loss paid."""
    books, training = details.lattice, config.training_plan()
    step, gamma = training.step, training.damping or 0.0
    J, energy = step * books["step_current"], books["energy"]
    lost = -math.expm1(-2.0 * gamma * step) * energy[:-1]
    output, inward = -float(J[:, -1].sum()), float(J[:, 0].sum())
    dissipated, stored = float(lost.sum()), float(energy[-1].sum())
    mean = -J.mean(axis=0)
    sites = np.linspace(0.0, 1.0, mean.size)
    readout = step * float(books["readout_power"].sum())
    return {
        "output": output,
        "input": inward,
        "dissipated": dissipated,
        "stored": stored,
        "residual": abs(output + inward - dissipated - stored) / (abs(output) + abs(inward) + dissipated + stored),
        "readout": readout,
        "outward_steps": float(np.mean(J[:, -1] > 0)),
        "output_half_share": float(lost[:, lost.shape[1] // 2 :].sum()) / dissipated,
        "half_depth": _crossing(sites, mean, 0.5 * mean[-1]),
        "loss_paid": -float(books["descent"].sum()),
        "loss_swaps": float(details.swaps["loss"].sum()),
        "loss_change": float(books["loss"][-1] - books["loss"][0]),
    }


def _crossing(x: Array, values: Array, level: float) -> float | None:
    """The last x, from the end, down to which values stay above the level."""
    below = np.flatnonzero(values < level)
    if not below.size or below[-1] + 1 >= x.size:
        return None
    i = int(below[-1])
    return float(x[i] + (level - values[i]) / (values[i + 1] - values[i]) * (x[i + 1] - x[i]))


def _swap_scores(details: Details) -> dict[str, Any]:
    swaps, moments = details.swaps, details.moments

    def rms(values: Array) -> float:
        return float(np.sqrt(np.mean(values**2)))

    power = -details.lattice["current"][:, -1]
    found: dict[str, Any] = {"count": int(swaps["loss"].size)}
    for name in ("loss", "signals", "targets", "power"):
        found |= {f"{name}_rms": rms(swaps[name]), f"{name}_sum": float(swaps[name].sum())}
    found["loss_largest"] = float(np.max(np.abs(swaps["loss"])))
    found["power_without_swaps_rms"] = rms(power)
    names = ("kinetic", "bulk", "boundary", "pulse_along_depth", "pulse_against_loss", "routes", "lagrangian")
    return found | {name: moments.worst(name) for name in names} | {"neurons_rms": rms(moments["neurons"])}


def _field_against_lattice(config: EnergyConfig, details: Details) -> dict[str, float]:
    """Relative L2 difference over all depths and steps, the field evaluated at the network's links and sites."""
    lattice, own = config.lattice_at(*config.rungs()[0]).grid, config.field_grid()
    found = {}
    for name, source, target, unit in (
        ("energy", own.x_links, lattice.x_links, own.h_x / lattice.h_x),
        ("step_current", own.x_sites, lattice.x_sites, 1.0),
    ):
        exact = details.lattice[name]
        there = details.field[name] @ interpolation_matrix(source, target).T / unit
        found[name] = float(np.linalg.norm(there - exact) / np.linalg.norm(exact))
    return found


def _write(config: EnergyConfig, out: Path, details: Details) -> None:
    """Every array to energy.h5."""
    lattice, own = config.lattice_at(*config.rungs()[0]).grid, config.field_grid()
    half = config.lattice_at(*config.rungs()[0]).range.centre(lattice)
    step = config.training.step
    arrays: dict[str, tuple[tuple[str, ...], Any]] = {}
    places = {"energy": "link", "rate": "link", "current": "site", "step_current": "site"}
    for prefix, books, x in (
        ("", details.lattice, "x"),
        ("field_", details.field, "field_x"),
        ("overdamped_", details.overdamped, "x"),
        ("plain_", details.plain, "plain"),
    ):
        steps = "plain_step" if prefix == "plain_" else "step"
        for name, rows in books.rows.items():
            when = "t" if len(rows) == config.training.steps + 1 and steps == "step" else steps
            arrays[f"{prefix}{name}"] = ((when, f"{x}_{places[name]}") if name in places else (when,), rows)
        for name, values in books.residuals.items():
            arrays[f"{prefix}{name}_residual"] = ((steps,), values)
    for name, rows in details.swaps.rows.items():
        arrays[f"swap_{name}"] = (("swap",), rows)
    dims = {"kernel": ("x_link", "y", "u"), "skip": ("x_link", "y"), "step": (), "through_output": ()}
    for name, rows in details.moments.rows.items():
        arrays[f"moment_{name}"] = (("moment", *dims.get(name, ("x_site",))), rows)
    write_sidecar(
        out / "energy.h5",
        kind="energy",
        config=tomllib.loads(config.to_toml()),
        arrays=arrays,
        coordinates={
            "t": step * np.arange(config.training.steps + 1),
            "step": np.arange(config.training.steps),
            "swap": np.arange(1, config.training.steps),
            "x_link": lattice.x_links,
            "x_site": lattice.x_sites,
            "field_x_link": own.x_links,
            "field_x_site": own.x_sites,
            "y": lattice.y,
            "u": np.arange(-half, half + 1) * lattice.h_y,
        },
        overwrite=True,
    )
