"""The manifolds study: which sets of parameters does no gradient leave, and do networks come near them?

Zhao, Luo, Zhang, arXiv 2510.09564. On dense networks of two and three layers, a plain and a residual lattice, at once:

- pairs of neurons (or channels) are tied: equal, opposite, proportional, or zero, as far as the activation allows. Is
  the gradient tangent there, and do the ties hold bit for bit under gradient descent and momentum? Beside them a pair
  with equal inputs and different outputs, which is no invariant manifold;
- equal neurons are trained beside the one neuron that they are;
- networks that start near a manifold, and networks that start small: do neurons come together?
- fields and networks that do not depend on y, on inputs that do not: do they stay so, and what does a wave along y do?
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from bbdfield import interrupts
from bbdfield.datasets import Dataset
from bbdfield.errors import InputError, NumericsError
from bbdfield.fields.simulation import simulate
from bbdfield.fields.well_posedness import check_start, largest_input
from bbdfield.lattice.dense import DenseNetwork, Weights, descend, draw_dense
from bbdfield.lattice.sharpness import check_training_step
from bbdfield.lattice.training import LatticeSystem, train
from bbdfield.model.activations import get_activation, is_built_in
from bbdfield.model.architecture import FieldState, Lattice, Rates, Training
from bbdfield.model.boundary import Boundary
from bbdfield.model.losses import get_loss, prepare_targets
from bbdfield.model.run import Run
from bbdfield.model.units import LatticeState, to_lattice
from bbdfield.observables import manifolds as sets
from bbdfield.observables.ties import (
    KINDS,
    NON_EXAMPLE,
    Manifold,
    ReducedNetwork,
    dense_manifold,
    lattice_manifold,
    listed,
    of_lattice,
    tied_lift,
)
from bbdfield.storage.sidecar import write_sidecar
from bbdfield.studies.config import ManifoldsConfig
from bbdfield.studies.config.manifolds import places_of, tied_kinds
from bbdfield.studies.describe import Description, Table, network, number
from bbdfield.studies.kinds import Session
from solvers.sweeps import get_scheme

Array = npt.NDArray[np.float64]
Parameters = Mapping[str, Any]

#: random streams of the study's seed
STREAM_START, STREAM_BATCHES, STREAM_NEAR, STREAM_SMALL = 50, 51, 52, 53
DYNAMICS = ("sgd", "momentum")
NETWORKS = ("two layers", "three layers", "plain lattice", "residual lattice")
COMPILED = "residual lattice, compiled"
DECAYED = "two layers, weight decay"
#: biases start with this standard deviation, so that they are part of every tie
BIAS = 0.1
#: samples on which tangency is tested, and logits are compared
PROBE = 256
#: of the field on the lattice's own sites
DEPTH_SCHEME = "midpoint"
#: scales of proportional neurons: the first two are exact in binary numbers, the others are not
UNEVEN = (1.0, 3.3)
#: cosines are taken so often
LOOKS = 100

CAPTIONS = {
    "manifolds": "Distance to the manifold along training, in units of the norm of all parameters per neuron at the"
    " start. What stays at exactly 0, bit for bit, is in the strip at the bottom. The non-example, equal incoming but"
    " different outgoing weights, starts at 0, too, but on no invariant manifold. Thin lines are pairs of neurons that"
    " start near the manifold of equal neurons, without and with weight decay.",
    "manifolds-condensation": "Cosines of the angles between the incoming weights of all pairs of hidden neurons of a"
    " network that starts small: at the start, where they are most alike, and at the end. Right: along how many lines"
    " the neurons point (n²/Σcos²), for small and for ordinary initial weights, dense and on the lattice; small starts"
    " are so many times the ordinary ones.",
    "manifolds-translation": "How far fields and networks that start without y, on inputs without y, depart from that:"
    " parameters, relative to their norm, and z on the probe samples; and with a small wave along y in the initial"
    " biases.",
}


@dataclass
class Details:
    """Arrays for figures and sidecar.

    runs : names of the trainings with ties.   distance : (run, kind, step) over `scale`, NaN for kinds that it has not.
    near : network -> (pair, step) distances of starts near equal neurons.   looks : steps at which cosines were taken.
    cosines : (3, n, n) at start, most condensed, end.   moments : the three steps.
    directions : network -> (look,).   t : times of snapshots.
    translation : system -> (snapshot, 2) of parameters and z.
    """

    runs: list[str] = field(default_factory=list)
    distance: list[Array] = field(default_factory=list)
    near: dict[str, Array] = field(default_factory=dict)
    looks: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0))
    cosines: Array = field(default_factory=lambda: np.zeros((0, 0, 0)))
    moments: list[int] = field(default_factory=list)
    directions: dict[str, Array] = field(default_factory=dict)
    t: Array = field(default_factory=lambda: np.zeros(0))
    translation: dict[str, Array] = field(default_factory=dict)


def check(config: ManifoldsConfig) -> str:
    """Refuse steps that could only diverge; returns what runs."""
    lattice = config.lattice_at(*config.rungs()[0])
    start = to_lattice(config.initial_fields(lattice).on(lattice.grid, lattice))
    boundary = Boundary.draw(config.dataset(), lattice, config.training_plan())
    sharp = check_training_step(LatticeSystem(lattice, boundary, start, backend="numpy"))
    if _compiled(config):
        LatticeSystem(lattice, boundary, start, backend="numba")  # or it is refused here
    _check_field(config)
    return f"NumPy on the CPU, one thread, and compiled code beside it; τ λ_max = {sharp:.3g} at the start"


def compute(config: ManifoldsConfig, out: Path, session: Session) -> tuple[dict[str, Any], Details]:
    """All parts, one after the other, on one thread: BLAS may cut products by threads."""
    details = Details()
    with threadpool_limits(1):
        session.say("networks with ties")
        tangency, ties = _with_ties(config, details, session)
        session.say("reduced width")
        reduced = _reduced_width(config)
        session.say("starts near a manifold, and small ones")
        condensation = {"near": _near(config, details), "small": _small(config, details)}
        session.say("fields that do not depend on y")
        translation = _translation(config, out, session, details)
    found = {
        "steps": config.training.steps,
        "tangency": tangency,
        "non_example": {
            name: {
                "tangency": tangency[name][NON_EXAMPLE],
                "distance": {dynamics: ties[name][dynamics][NON_EXAMPLE]["distance"] for dynamics in ties[name]},
            }
            for name in tangency
        },
        "ties": ties,
        "reduced_width": reduced,
        "condensation": condensation,
        "translation": translation,
    }
    _write(config, out, details)
    return {"kind": config.kind, "title": config.title, "manifolds": found}, details


# networks


def _compiled(config: ManifoldsConfig) -> bool:
    return is_built_in(config.manifolds.activations[0])


def _samples(config: ManifoldsConfig) -> tuple[Array, Array]:
    """All training samples of a dense network: x (D · width, n) and targets (n, outputs)."""
    data = config.dataset()
    x = np.ascontiguousarray(data.x.reshape(len(data.x), -1).T)
    return x, prepare_targets(config.lattice.loss, data.y, data.outputs)


def _batches(config: ManifoldsConfig, steps: int) -> Iterator[tuple[Array, Array]]:
    """The same minibatches for all dense networks."""
    x, targets = _samples(config)
    rng = np.random.default_rng([config.seed, STREAM_BATCHES])
    for _ in range(steps):
        index = rng.choice(len(targets), config.training.batch, replace=False)
        yield x[:, index], targets[index]


def _draw_dense(
    config: ManifoldsConfig, hidden: Sequence[int], activation: str, gain: float, stream: int
) -> tuple[DenseNetwork, Weights, Weights]:
    """A dense network with random biases, too."""
    data, rng = config.dataset(), np.random.default_rng([config.seed, stream])
    size = data.x[0].size
    w, b = draw_dense([size, *hidden, data.outputs], rng, gain)
    biases = [BIAS * gain * rng.standard_normal(part.shape) for part in b or []]
    return DenseNetwork(get_activation(activation), get_loss(config.lattice.loss)), w, biases


def _draw_lattice(config: ManifoldsConfig, activation: str, scaling: str) -> tuple[Lattice, Training, LatticeState]:
    """The configured lattice, or its plain sister with the same learning rates of W, b and R."""
    given = config.lattice_at(*config.rungs()[0])
    lattice = dataclasses.replace(given, activation=activation, scaling=scaling)
    training, initial = config.training_plan(), config.initial_fields(lattice)
    initial = dataclasses.replace(initial, bias=max(initial.bias, BIAS))
    if scaling == "plain":
        rates, square = training.rates, lattice.a_x**2
        training = dataclasses.replace(training, rates=Rates(rates.w * square, rates.b * square, rates.r))
        initial = dataclasses.replace(initial, weight=config.manifolds.plain_weight)
    return lattice, training, to_lattice(initial.on(lattice.grid, lattice))


def _with_momentum(config: ManifoldsConfig, training: Training) -> Training:
    damping = -math.log(config.manifolds.momentum) / training.step
    return dataclasses.replace(training, dynamics="heavy-ball", damping=damping)


def _norm_per_neuron(parameters: Parameters, neurons: int) -> float:
    total = sum(float(np.sum(part * part)) for arrays in parameters.values() for part in arrays)
    return math.sqrt(total / neurons)


# ties


@dataclass
class Tied:
    """A network whose neurons are tied, ready to train.

    manifolds : kind -> manifold.   start : its parameters.   gradient : at the start, on some samples.
    steps : dynamics -> parameters after every step.   neurons : in the tied layer.
    """

    manifolds: dict[str, Manifold]
    start: Parameters
    gradient: Parameters
    steps: Mapping[str, Iterable[Parameters]]
    neurons: int


def _with_ties(config: ManifoldsConfig, details: Details, session: Session) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tangency at the start, and how long ties hold, for every network and dynamics."""
    tangency: dict[str, Any] = {}
    ties: dict[str, Any] = {}
    for n, activation in enumerate(config.manifolds.activations):
        for kind in (*NETWORKS, *([COMPILED] if n == 0 and _compiled(config) else [])):
            name = f"{kind}, {activation}"
            tied = (
                _tied_dense(config, kind, activation) if "layers" in kind else _tied_lattice(config, kind, activation)
            )
            tangency[name] = {kind: manifold.tangency(tied.gradient) for kind, manifold in tied.manifolds.items()}
            ties[name] = {}
            for dynamics in DYNAMICS:
                interrupts.check()
                session.say(f"{name}, {dynamics}")
                ties[name][dynamics] = _follow(config, tied, dynamics, f"{name}, {dynamics}", details)
            if kind == "two layers" and "proportional" in tied.manifolds:
                tangency[name]["proportional, uneven"] = _uneven(config, activation)
    return tangency, ties


def _tied_dense(config: ManifoldsConfig, kind: str, activation: str) -> Tied:
    keys = config.manifolds
    hidden, layer = ((keys.hidden,), 0) if kind == "two layers" else (keys.deep, 1)
    net, w, b = _draw_dense(config, hidden, activation, keys.gain, STREAM_START)
    manifolds = {
        name: dense_manifold(net, w, b, name, layer, neurons)
        for name, neurons in places_of(tied_kinds(activation), hidden[layer]).items()
    }
    start: Parameters = listed(w, b)
    for manifold in manifolds.values():
        start = manifold.project(start)
    x, targets = _samples(config)
    _, g_w, g_b = net.loss_and_gradients(start["w"], start["b"], x[:, :PROBE], targets[:PROBE])

    def steps(momentum: float) -> Iterator[Parameters]:
        batches = _batches(config, config.training.steps)
        for step in descend(net, start["w"], start["b"], batches, keys.rate, momentum=momentum):
            _finite(step.loss, f"{kind}, {activation}")
            yield listed(step.w, step.b)

    return Tied(
        manifolds, start, listed(g_w, g_b), {"sgd": steps(0.0), "momentum": steps(keys.momentum)}, hidden[layer]
    )


def _uneven(config: ManifoldsConfig, activation: str) -> float:
    """Tangency at proportional neurons whose ratio is no power of two."""
    net, w, b = _draw_dense(config, (config.manifolds.hidden,), activation, config.manifolds.gain, STREAM_START)
    manifold = dense_manifold(net, w, b, "proportional", 0, (0, 1), UNEVEN)
    start = manifold.project(listed(w, b))
    x, targets = _samples(config)
    _, g_w, g_b = net.loss_and_gradients(start["w"], start["b"], x[:, :PROBE], targets[:PROBE])
    return manifold.tangency(listed(g_w, g_b))


def _tied_lattice(config: ManifoldsConfig, kind: str, activation: str) -> Tied:
    lattice, training, state = _draw_lattice(config, activation, "plain" if kind == "plain lattice" else "residual")
    manifolds = {
        name: lattice_manifold(lattice, name, channels)
        for name, channels in places_of(tied_kinds(activation), lattice.channels).items()
    }
    boundary, state = _tie(Boundary.draw(config.dataset(), lattice, training), state, manifolds.values())
    backend = "numba" if kind == COMPILED else "numpy"

    def steps(law: Training) -> Iterator[Parameters]:
        system = LatticeSystem(lattice, dataclasses.replace(boundary, training=law), state, backend=backend)
        yield from _lattice_steps(system, law.steps, f"{kind}, {activation}")

    system = LatticeSystem(lattice, boundary, state, backend="numpy")
    _, (g_w, g_b, g_r) = system.gradient(system.u, np.arange(min(PROBE, len(boundary.targets))))
    gradient = of_lattice({"w": g_w, "b": g_b, "r": g_r}, np.zeros_like(boundary.lift))
    return Tied(
        manifolds,
        _parameters(state, boundary),
        gradient,
        {"sgd": steps(training), "momentum": steps(_with_momentum(config, training))},
        lattice.channels,
    )


def _tie(boundary: Boundary, state: LatticeState, manifolds: Iterable[Manifold]) -> tuple[Boundary, LatticeState]:
    """Parameters and lift on all the manifolds."""
    for manifold in manifolds:
        boundary = dataclasses.replace(boundary, lift=tied_lift(boundary.lift, manifold))
        found = manifold.project(_parameters(state, boundary))
        state = LatticeState(found["w"], found["b"], found["r"][0])
    return boundary, state


def _parameters(state: LatticeState, boundary: Boundary) -> Parameters:
    return of_lattice({"w": state.w, "b": state.b, "r": state.r}, boundary.lift)


def _lattice_steps(system: LatticeSystem, steps: int, name: str) -> Iterator[Parameters]:
    """Parameters after every step; valid until the next."""
    for k in range(steps):
        _finite(system.step(k)["loss"], name)
        yield of_lattice(dict(zip(("w", "b", "r"), system.u, strict=True)), system.boundary.lift)


def _finite(loss: float, name: str) -> None:
    if not math.isfinite(loss):
        raise NumericsError(f"{name}: the loss is not finite; lower training.rates or manifolds.rate")


def _follow(config: ManifoldsConfig, tied: Tied, dynamics: str, name: str, details: Details) -> dict[str, Any]:
    """Train, and say of every kind after how many steps its ties held bit for bit, and its distance at the end."""
    steps, scale = config.training.steps, _norm_per_neuron(tied.start, tied.neurons)
    distance = np.full((len(KINDS) + 1, steps + 1), np.nan)
    rows = {kind: distance[[*KINDS, NON_EXAMPLE].index(kind)] for kind in tied.manifolds}
    held = dict.fromkeys(tied.manifolds, 0)
    for kind, row in rows.items():
        row[0] = tied.manifolds[kind].distance(tied.start) / scale
    for k, parameters in enumerate(tied.steps[dynamics]):
        for kind, manifold in tied.manifolds.items():
            if held[kind] == k and manifold.tied(parameters):
                held[kind], rows[kind][k + 1] = k + 1, 0.0
            else:
                rows[kind][k + 1] = manifold.distance(parameters) / scale
    details.runs.append(name)
    details.distance.append(distance)
    return {kind: {"bitwise_steps": held[kind], "distance": float(rows[kind][-1])} for kind in tied.manifolds}


# reduced width


def _reduced_width(config: ManifoldsConfig) -> dict[str, Any]:
    """Equal neurons beside the one that they are: the largest differences along training."""
    keys = config.manifolds
    found: dict[str, Any] = {}
    groups = {
        "two layers": ((keys.hidden,), {0: range(4)}),
        "three layers": (keys.deep, {0: range(3), 1: range(2, 7)}),
    }
    seen = _samples(config)[0][:, :PROBE]
    for name, (hidden, equal) in groups.items():
        net, w, b = _draw_dense(config, hidden, keys.activations[0], keys.gain, STREAM_START)
        start: Parameters = listed(w, b)
        for layer, neurons in equal.items():
            start = dense_manifold(net, w, b, "equal", layer, list(neurons)).project(start)
        chosen = {layer: list(neurons) for layer, neurons in equal.items()}
        reduced, omega, beta = ReducedNetwork.of(net, start["w"], start["b"], chosen)
        interrupts.check()
        found[name] = {"neurons": {str(layer): len(neurons) for layer, neurons in equal.items()}}
        for dynamics, momentum in (("sgd", 0.0), ("momentum", keys.momentum)):
            wide = descend(net, start["w"], start["b"], _batches(config, keys.reduced), keys.rate, momentum=momentum)
            narrow = descend(
                cast(Any, reduced), omega, beta, _batches(config, keys.reduced), keys.rate, momentum=momentum
            )
            worst = {"logits": 0.0, "parameters": 0.0, "moved": 0.0}
            for one, other in zip(wide, narrow, strict=True):
                _finite(one.loss, name)
                _, again_w, again_b = ReducedNetwork.of(net, one.w, one.b, chosen)
                pairs = zip([*again_w, *(again_b or [])], [*other.w, *(other.b or [])], strict=True)
                worst["parameters"] = max([worst["parameters"]] + [float(np.max(np.abs(p - q))) for p, q in pairs])
                if one.k % 50 == 49 or one.k == keys.reduced - 1:
                    difference = net.logits(one.w, one.b, seen) - reduced.logits(other.w, other.b, seen)
                    worst["logits"] = max(worst["logits"], float(np.max(np.abs(difference))))
            squares = (float(np.sum((p - q) ** 2)) for p, q in zip(one.w, start["w"], strict=True))
            worst["moved"] = math.sqrt(sum(squares))
            found[name][dynamics] = worst
    return {"steps": keys.reduced, **found}


# condensation


def _near(config: ManifoldsConfig, details: Details) -> dict[str, Any]:
    """d(t) of pairs that start near equal neurons, with momentum: of two layers, and of both lattices."""
    keys, activation = config.manifolds, config.manifolds.activations[0]
    rng = np.random.default_rng([config.seed, STREAM_NEAR])
    net, w, b = _draw_dense(config, (keys.hidden,), activation, keys.gain, STREAM_START)
    pairs = [(2 * n, 2 * n + 1) for n in range(keys.pairs)]
    manifolds = [dense_manifold(net, w, b, "equal", 0, pair) for pair in pairs]
    start: Parameters = listed(w, b)
    for manifold in manifolds:
        start = manifold.project(start)
    scale = _norm_per_neuron(start, keys.hidden)
    start = {group: [np.array(part) for part in parts] for group, parts in start.items()}
    for i, _ in pairs:
        for rows in (start["w"][0][i], start["b"][0][i : i + 1], start["w"][1][:, i]):
            rows += keys.near * scale / math.sqrt(w[0].shape[1] + 1 + len(w[1])) * rng.standard_normal(rows.shape)
    for name, decay in (("two layers", 0.0), (DECAYED, keys.decay)):
        law = {"momentum": keys.momentum, "weight_decay": decay}
        steps = descend(net, start["w"], start["b"], _batches(config, config.training.steps), keys.rate, **law)
        details.near[name] = _distances(manifolds, start, (listed(step.w, step.b) for step in steps)) / scale
    for kind in ("plain", "residual"):
        interrupts.check()
        lattice, training, state = _draw_lattice(config, activation, kind)
        training = _with_momentum(config, training)
        ties = [lattice_manifold(lattice, "equal", pair) for pair in pairs]
        boundary, state = _tie(Boundary.draw(config.dataset(), lattice, training), state, ties)
        scale = _norm_per_neuron(_parameters(state, boundary), lattice.channels)
        # ties of pairs that touch: perturb weights as they are, each by the same share of its norm
        parts = {name: np.array(getattr(state, name)) for name in ("w", "b", "r")}
        for i, _ in pairs:
            for rows in (parts["w"][..., i, :, :], parts["w"][..., i], parts["b"][..., i], parts["r"][:, i]):
                rows *= 1.0 + keys.near * rng.standard_normal(rows.shape)
        state = LatticeState(**parts)
        system = LatticeSystem(lattice, boundary, state, backend="numpy")
        moved = _lattice_steps(system, training.steps, f"{kind} lattice")
        details.near[f"{kind} lattice"] = _distances(ties, _parameters(state, boundary), moved) / scale
    return {
        name: {
            "start": [float(d) for d in distances[:, 0]],
            "end": [float(d) for d in distances[:, -1]],
            "ratio": [float(d) for d in distances[:, -1] / distances[:, 0]],
        }
        for name, distances in details.near.items()
    }


def _distances(manifolds: Sequence[Manifold], start: Parameters, steps: Iterable[Parameters]) -> Array:
    """(manifold, step) distances, from the start on."""
    found = [[manifold.distance(start) for manifold in manifolds]]
    found += [[manifold.distance(parameters) for manifold in manifolds] for parameters in steps]
    return np.array(found).T


def _small(config: ManifoldsConfig, details: Details) -> dict[str, Any]:
    """How many directions neurons point along, for small and ordinary initial weights."""
    keys, steps = config.manifolds, config.training.steps
    activation, every = keys.activations[0], max(1, steps // LOOKS)
    details.looks = np.arange(0, steps + 1, every)
    found: dict[str, Any] = {}
    for name, gain in (("small", keys.small), ("ordinary", keys.gain)):
        interrupts.check()
        net, w, b = _draw_dense(config, (keys.hidden,), activation, gain, STREAM_SMALL)
        looks = [sets.neurons_of(w, b, 0, "inputs")]
        for step in descend(net, w, b, _batches(config, steps), keys.rate, momentum=keys.momentum):
            _finite(step.loss, f"{name} start")
            if (step.k + 1) % every == 0:
                looks.append(sets.neurons_of(step.w, step.b, 0, "inputs"))
        key = f"two layers, {name}"
        found[key] = _directions(key, looks, details, gain / keys.gain)
        if name == "small":
            best = int(np.argmin(details.directions[key]))
            moments = [0, best, len(looks) - 1]
            details.moments = [int(details.looks[i]) for i in moments]
            details.cosines = np.array([sets.cosines(looks[i]) for i in moments])
    for name, share in (("small", keys.small_lattice), ("ordinary", 1.0)):
        interrupts.check()
        lattice, training, state = _draw_lattice(config, activation, "plain")
        lattice = dataclasses.replace(lattice, depth=2)  # one hidden site: products of small weights stay visible
        rates = config.training_plan().rates
        square = lattice.a_x**2 * lattice.depth / config.rungs()[0][0]
        training = dataclasses.replace(training, rates=Rates(rates.w * square, rates.b * square, rates.r))
        initial = dataclasses.replace(config.initial_fields(lattice), weight=keys.plain_weight, bias=BIAS)
        state = to_lattice(initial.on(lattice.grid, lattice))
        state = LatticeState(*(share * part for part in (state.w, state.b, state.r)))
        law = _with_momentum(config, training)
        system = LatticeSystem(lattice, Boundary.draw(config.dataset(), lattice, law), state, backend="numpy")
        looks = [state.w[0].swapaxes(0, -3).reshape(lattice.channels, -1)]
        for k, parameters in enumerate(_lattice_steps(system, steps, f"{name} start")):
            if (k + 1) % every == 0:
                looks.append(parameters["w"][0].swapaxes(0, -3).reshape(lattice.channels, -1))
        key = f"plain lattice, {name}"
        found[key] = _directions(key, looks, details, share)
    return found


def _directions(name: str, looks: Sequence[Array], details: Details, share: float) -> dict[str, Any]:
    """Along how many lines neurons point; share : the start's parameters over those of the ordinary start."""
    values = np.array([sets.directions(neurons) for neurons in looks])
    details.directions[name] = values
    least = int(np.argmin(values))
    return {
        "neurons": len(looks[0]),
        "share": share,
        "start": float(values[0]),
        "least": float(values[least]),
        "least_step": int(details.looks[least]),
        "end": float(values[-1]),
    }


# what does not depend on y


def _translation(config: ManifoldsConfig, out: Path, session: Session, details: Details) -> dict[str, Any]:
    """Lattice and field that start without y, on inputs without y; and with a wave."""
    data, plan, starts = _without_y(config)
    found: dict[str, Any] = {"amplitude": config.manifolds.wave, "steps": plan.steps}
    for start, state in starts.items():
        boundary = Boundary.draw(data, state.lattice, plan)
        found[start] = {}
        for system in ("lattice", "field"):
            path, tell = out / f"{system}-{start}.h5", _teller(session, f"{system}, {start}")
            options: dict[str, Any] = {"out": path, "resume": True, "progress": tell, "backend": "numpy"}
            if system == "lattice":
                run = train(state.lattice, data, plan, initial=to_lattice(state), **options)
            else:
                run = simulate(state, boundary, order=1, depth_scheme=DEPTH_SCHEME, **options)
            with run:
                found[start][system] = _depart(run, f"{system}, {start}", details)
    return found


def _without_y(config: ManifoldsConfig) -> tuple[Dataset, Training, dict[str, FieldState]]:
    """Inputs without y, their training, and the starts: "uniform", and "wave" with a wave along y in b."""
    keys = config.manifolds
    lattice = config.lattice_at(*config.rungs()[0])
    data = _uniform(config.dataset(), keys.samples, lattice.width)
    lattice = dataclasses.replace(lattice, data_channels=data.channels)
    every = max(1, min(config.training.snapshot_every, keys.translation))
    plan = dataclasses.replace(config.training_plan(), steps=keys.translation, snapshot_every=every)
    plan = dataclasses.replace(plan, probe=min(plan.probe, len(data.x)))
    drawn = dataclasses.replace(config.initial_fields(lattice), bias=max(config.initial.bias, BIAS))
    fields = drawn.on(lattice.grid, lattice)
    parts = sets.invariant_start({"w": fields.w, "b": fields.b, "r": fields.r}, lattice.range.tied)
    wave = keys.wave * np.cos(2 * np.pi * lattice.grid.y / lattice.length_y)
    starts = {
        start: FieldState(lattice, lattice.grid, parts["w"], parts["b"] + size * wave[:, None], parts["r"])
        for start, size in (("uniform", 0.0), ("wave", 1.0))
    }
    return data, plan, starts


def _check_field(config: ManifoldsConfig) -> None:
    """Refuse a lattice on whose sites the field is unstable, in terms of this study's keys."""
    data, plan, starts = _without_y(config)
    state = starts["wave"]
    largest = largest_input(Boundary.draw(data, state.lattice, plan), state.grid.n_y)
    try:
        check_start(state, 1, get_scheme(DEPTH_SCHEME), largest=largest)
    except InputError as error:
        raise InputError(
            f"lattice.depth = {state.lattice.depth}: too few links for the field on the lattice's own sites"
            f" ({str(error).split('; ')[0]}); use more, or lower initial.weight"
        ) from error


def _teller(session: Session, label: str) -> Any:
    report = session.report
    return None if report is None else lambda done, total, loss: report(label, done, total, loss)


def _uniform(data: Dataset, samples: int, width: int) -> Dataset:
    """The same samples with every number of a signal in a channel of its own, on all cells alike."""
    flat = data.as_channels()
    arrays: dict[str, Any] = {"x": np.repeat(flat.x[:samples], width, axis=2), "y": data.y[:samples]}
    if flat.x_test is not None and data.y_test is not None:
        arrays |= {"x_test": np.repeat(flat.x_test[:samples], width, axis=2), "y_test": data.y_test[:samples]}
    else:
        arrays |= {"x_test": None, "y_test": None}
    return dataclasses.replace(data, **arrays)


def _depart(run: Run, name: str, details: Details) -> dict[str, Any]:
    observed = sets.observe(run)
    values = np.stack([observed.values()[key] for key in ("manifolds_translation", "manifolds_translation_z")], axis=1)
    details.t, details.translation[name] = np.asarray(run.t), values
    return {
        "parameters": {"start": float(values[0, 0]), "largest": float(values[:, 0].max()), "end": float(values[-1, 0])},
        "z": {"start": float(values[0, 1]), "largest": float(values[:, 1].max()), "end": float(values[-1, 1])},
        "loss": [float(run.loss[0]), float(run.loss[-1])],
    }


# what it amounts to


def draw(config: ManifoldsConfig, out: Path, scores: dict[str, Any], details: Details) -> None:
    """All figures of the study."""
    from bbdfield.plotting import manifolds as plots
    from bbdfield.plotting.style import save

    first = config.manifolds.activations[0]
    by_name = dict(zip(details.runs, details.distance, strict=True))
    panels = {
        name: (by_name[f"{name}, {first}, momentum"], details.near[name], details.near.get(f"{name}, weight decay"))
        for name in ("two layers", "residual lattice")
    }
    figures = {
        "manifolds": plots.figure_manifolds(panels, [*KINDS, NON_EXAMPLE], first, _all_bitwise(scores["manifolds"])),
        "manifolds-condensation": plots.figure_condensation(
            details.cosines, details.moments, details.looks, details.directions, scores["manifolds"]["condensation"]
        ),
        "manifolds-translation": plots.figure_translation(details.t, details.translation, config.manifolds.wave),
    }
    for name, figure in figures.items():
        save(figure, out / "figures" / f"{name}.png")


def _all_bitwise(found: Mapping[str, Any]) -> bool:
    return all(
        entry["bitwise_steps"] == found["steps"]
        for of in found["ties"].values()
        for kinds in of.values()
        for kind, entry in kinds.items()
        if kind != NON_EXAMPLE
    )


def describe(config: Mapping[str, Any], scores: Mapping[str, Any]) -> Description:
    """What was measured, in words and tables."""
    found = scores["manifolds"]
    kinds = [kind for kind in KINDS if any(kind in of for of in found["tangency"].values())]
    ties = [
        [
            name,
            dynamics,
            *(_kept(of[kind], found["steps"]) if kind in of else "–" for kind in kinds),
            number(of[NON_EXAMPLE]["distance"]),
        ]
        for name, runs in found["ties"].items()
        for dynamics, of in runs.items()
    ]
    tangency = [
        [name, *(number(of[kind]) if kind in of else "–" for kind in kinds), number(of[NON_EXAMPLE])]
        for name, of in found["tangency"].items()
    ]
    reduced = found["reduced_width"]
    near, small = found["condensation"]["near"], found["condensation"]["small"]
    tables = [
        Table(
            "Tangency",
            ["network", *kinds, "equal inputs only"],
            tangency,
            "|(1 − P_T) ∇ℓ| / |∇ℓ| at points on each manifold: 0 says that no gradient leaves it",
        ),
        Table(
            "Ties along training",
            ["network", "dynamics", *kinds, "equal inputs only"],
            ties,
            f"Steps of {found['steps']} after which ties still hold bit for bit, below the distance at the end if they"
            " do not; in the last column the distance at the end. In units of the norm per neuron at the start",
        ),
        Table(
            "Reduced width",
            ["network", "dynamics", "largest difference of parameters", "of logits", "weights moved by"],
            [
                [name, dynamics, *(number(of[dynamics][key]) for key in ("parameters", "logits", "moved"))]
                for name, of in reduced.items()
                if name != "steps"
                for dynamics in DYNAMICS
            ],
            f"m equal neurons and the one neuron √m β σ(ω·x/√m), side by side over {reduced['steps']} steps",
        ),
        Table(
            "Starts near equal neurons",
            ["network", "pairs", "d(end)/d(start)", "come nearer"],
            [
                [
                    name,
                    len(of["ratio"]),
                    f"{number(min(of['ratio']))} to {number(max(of['ratio']))}",
                    sum(r < 1 for r in of["ratio"]),
                ]
                for name, of in near.items()
            ],
        ),
        Table(
            "Directions",
            ["network", "neurons", "initial weights", "at the start", "least", "at step", "at the end"],
            [
                [
                    name,
                    of["neurons"],
                    f"× {number(of['share'])}",
                    *(number(of[key]) for key in ("start", "least")),
                    of["least_step"],
                    number(of["end"]),
                ]
                for name, of in small.items()
            ],
            "Along how many lines incoming weights point, n²/Σcos²; initial weights in units of the ordinary ones",
        ),
        Table(
            "Invariance in y",
            ["start", "system", "parameters: start", "largest", "z: start", "largest"],
            [
                [
                    start,
                    system,
                    *(number(of[part][when]) for part in ("parameters", "z") for when in ("start", "largest")),
                ]
                for start in ("uniform", "wave")
                for system, of in found["translation"][start].items()
            ],
            f"Relative deviation from what does not depend on y, over {found['translation']['steps']} steps;"
            f" wave: {found['translation']['amplitude']:g} cos 2πy in the initial biases b̂",
        ),
    ]
    summary = (
        f"{network(config)} Beside it were a plain lattice and dense networks of two and three layers on the same data."
        " Neurons, or channels, were placed on the structural invariant manifolds of arXiv 2510.09564, on what looks"
        " like one, and near one; fields were started without dependence on y."
    )
    return Description(summary, tables, _message(found))


def _kept(entry: Mapping[str, Any], steps: int) -> str:
    kept = entry["bitwise_steps"]
    return str(kept) if kept == steps else f"{kept}\n{number(entry['distance'])}"


def _message(found: Mapping[str, Any]) -> str:
    worst = max(v for of in found["tangency"].values() for kind, v in of.items() if kind != NON_EXAMPLE)
    left = [d for of in found["non_example"].values() for d in of["distance"].values()]
    every = _all_bitwise(found)
    small = found["condensation"]["small"]["two layers, small"]
    parts = [of[part]["largest"] for of in found["translation"]["uniform"].values() for part in ("parameters", "z")]
    near = dict(found["condensation"]["near"])
    decayed = near.pop(DECAYED)["ratio"]
    ratios = [ratio for of in near.values() for ratio in of["ratio"]]
    away = [ratio for ratio in ratios if ratio > 1]
    ends = " to ".join(dict.fromkeys(number(of(away)) for of in (min, max))) if away else ""
    far = f", to {ends} times their distance" if away else ""
    return (
        f"{'All ties held' if every else 'Not all ties held'} bit for bit through {found['steps']} steps of gradient"
        f" descent and momentum; gradients leave their manifolds by at most {number(worst, 2)} of their length. Neurons"
        f" that share their inputs only ended {number(min(left), 2)} to {number(max(left), 2)} of a norm apart."
        f" Of {len(ratios)} pairs that started near equal neurons {len(away)} moved away{far}; with weight decay"
        f" {sum(ratio < 1 for ratio in decayed)} of {len(decayed)} came nearer. From small initial weights"
        f" {small['neurons']} neurons pointed along {number(small['start'])} lines at the start,"
        f" {number(small['least'])} after {small['least_step']} steps, the fewest, and {number(small['end'])} at the"
        f" end. Fields without y at the start depended on it by {number(max(parts), 2)} at most."
    )


def _named(what: str, name: str) -> str:
    return f"{what}_{name.replace(',', '').replace(' ', '_')}"


def _write(config: ManifoldsConfig, out: Path, details: Details) -> None:
    """Every array to manifolds.h5."""
    steps = np.arange(config.training.steps + 1)
    arrays: dict[str, tuple[tuple[str, ...], Any]] = {
        "distance": (("run", "kind", "step"), np.array(details.distance)),
        "cosines": (("moment", "neuron", "other"), details.cosines),
    }
    for name, values in details.near.items():
        arrays[_named("near", name)] = (("pair", "step"), values)
    for name, values in details.directions.items():
        arrays[_named("directions", name)] = (("look",), values)
    for name, values in details.translation.items():
        arrays[_named("translation", name)] = (("t", "part"), values)
    write_sidecar(
        out / "manifolds.h5",
        kind=config.kind,
        config=tomllib.loads(config.to_toml()),
        arrays=arrays,
        coordinates={
            "run": np.array(details.runs),
            "kind": np.array([*KINDS, NON_EXAMPLE]),
            "step": steps,
            "look": details.looks,
            "moment": np.array(details.moments),
            "t": details.t,
            "part": np.array(["parameters", "z"]),
        },
        overwrite=True,
    )
