"""The symmetry study: is the layer density one function for all layers, and what happens where layers differ by ε?

    S = max_{m,m'} ⟨ |𝓛[m] − 𝓛[m']| ⟩ / ⟨ |𝓛| ⟩

over seeded fields, for repeating networks (dense, tied and untied convolution; plain and residual) and for the
configured lattice broken in five ways; then over the fields of that lattice while it is trained. A trained network is
not the same in all layers, and need not be: the symmetry is one of the law, not of the state.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bbdfield.decomposition.lagrangian import bulk
from bbdfield.decomposition.maps import Array, PerGroup, Rule
from bbdfield.decomposition.substitution import neurons
from bbdfield.decomposition.symmetry import (
    BREAKINGS,
    Configuration,
    Layer,
    broken,
    configurations,
    density,
    layers_of,
    shift_change,
    spread,
)
from bbdfield.lattice.sharpness import check_training_step, stability_limit
from bbdfield.lattice.training import LatticeSystem, train
from bbdfield.model.architecture import GROUPS, VELOCITIES, Lattice
from bbdfield.model.boundary import Boundary
from bbdfield.model.run import Run
from bbdfield.model.units import LatticeState, to_lattice
from bbdfield.storage.sidecar import write_sidecar
from bbdfield.studies.config import SymmetryConfig
from bbdfield.studies.describe import Description, Table, decimal, listed, network, number
from bbdfield.studies.kinds import Session
from bbdfield.studies.machines import in_words
from bbdfield.studies.moments import Observer

#: figures show what a breaking of about this size does to single layers
SHOWN = 0.1
#: log S is fitted against log ε up to here: beyond, the densities' ε² counts
SMALL = 0.01
#: a trained network is measured on the fields of at most so many of its layers, L_bulk on so many configurations
MOST_FIELDS = 16

CAPTIONS = {
    "symmetry-breaking": "The measure S of unequal layers against the size ε of five ways of breaking the symmetry in"
    " one place of the configured lattice, on seeded fields. Left: with a guide of slope 1; repeating layers have"
    " S = 0, which the lowest strip shows at the level of rounding. Right: S / ε, constant where S is linear in ε.",
    "symmetry-layers": "Mean density of every layer on the same seeded fields, relative to that of repeating layers,"
    " with the symmetry broken in one place in five ways. The layers that differ are coloured.",
    "symmetry-shift": "The fields of a trained network are moved one layer on within a window (shaded). Left: the terms"
    " of L_bulk; inside the window they move along unchanged, and only its ends, where fields are joined that do not"
    " belong together, differ. Right: the relative change inside the window if layers differ by ε.",
    "symmetry-training": "Density of every layer of the lattice on its own fields, at times along its training: the"
    " layers' states differ. Each layer's density evaluated on the same fields is the same number.",
}


@dataclass(frozen=True)
class Moving:
    """A network in motion: W, z and their velocities, with its inertias."""

    t: float
    rule: Rule
    mu: PerGroup
    W: list[Array]
    Wdot: list[Array]
    z: list[Array]
    zdot: list[Array]

    @property
    def moves(self) -> bool:
        """False for a network with inertia at its start, which is at rest."""
        return any(rate.any() for rate in (*self.Wdot, *self.zdot))

    def fields(self, m: int) -> Configuration:
        """What the density of layer m sees."""
        return Configuration(self.W[m], self.Wdot[m], self.z[m], self.zdot[m], self.zdot[m + 1])


@dataclass
class Details:
    """Arrays for figures and sidecar.

    sizes : ε.   spreads : kind -> S(ε).   means : kind -> ⟨𝓛[m]⟩ at ε = shown, "repeating" among them.
    t, density : 𝓛[m] of the trained network on its own fields, (t, layer).
    before, after : terms of L_bulk per layer, before and after the shift.   changes : kind -> change of L_bulk(ε).
    """

    sizes: Array
    shown: float
    spreads: dict[str, Array] = field(default_factory=dict)
    means: dict[str, Array] = field(default_factory=dict)
    changes: dict[str, Array] = field(default_factory=dict)
    t: Array = field(default_factory=lambda: np.zeros(0))
    density: Array = field(default_factory=lambda: np.zeros((0, 0)))
    before: Array = field(default_factory=lambda: np.zeros(0))
    after: Array = field(default_factory=lambda: np.zeros(0))


def check(config: SymmetryConfig) -> str:
    """Refuse a training step that could only diverge; returns backend and sharpness in words."""
    lattice, training = _lattice(config), config.training_plan()
    start = to_lattice(config.initial_fields(lattice).on(lattice.grid, lattice))
    boundary = Boundary.draw(config.dataset(), lattice, training)
    system = LatticeSystem(lattice, boundary, start, **config.training.machine())
    sharp = check_training_step(system)
    stable = f"τ λ_max = {sharp:.3g} at the start (steps are stable up to {stability_limit(training):.3g})"
    return f"{in_words([system.backend.description])}; {stable}"


def compute(config: SymmetryConfig, out: Path, session: Session) -> tuple[dict[str, Any], Details]:
    """Measure S on seeded fields, train the lattice, measure S and the shift on its fields."""
    sizes = np.array(config.symmetry.sizes)
    details = Details(sizes, float(sizes[np.argmin(np.abs(np.log(sizes / SHOWN)))]))
    with threadpool_limits(1):
        session.say("repeating networks")
        found = repeating(config)
        session.say(f"{len(BREAKINGS)} ways of breaking, {sizes.size} sizes")
        found |= break_layers(config, details)
        session.say("training the lattice")
        with _train(config, out, session) as run:
            session.say("the fields of the trained lattice")
            moving = [state for i in range(len(run.t)) if (state := state_of(run, i)).moves]
        found["shift"] = shift_fields(config, moving[-1], details)
        found["training"] = follow_training(config, moving, details)
    _write(config, out, details)
    return {"kind": config.kind, "title": config.title, "symmetry": found}, details


def draw(config: SymmetryConfig, out: Path, scores: dict[str, Any], details: Details) -> None:
    """All figures of the study."""
    from bbdfield.plotting import symmetry as plots
    from bbdfield.plotting.style import save

    found = scores["symmetry"]
    figures = {
        "symmetry-breaking": plots.figure_breaking(details.sizes, details.spreads, found["slopes"], found["repeating"]),
        "symmetry-layers": plots.figure_layers(details.means, details.shown),
        "symmetry-shift": plots.figure_shift(
            details.before, details.after, config.window(), details.sizes, details.changes, found["shift"]["repeating"]
        ),
        "symmetry-training": plots.figure_training(details.t, details.density, found["training"]["law"]),
    }
    for name, figure in figures.items():
        save(figure, out / "figures" / f"{name}.png")


def describe(config: Mapping[str, Any], scores: Mapping[str, Any]) -> Description:
    """What was measured, in words and tables."""
    found = scores["symmetry"]
    shift, training, shown = found["shift"], found["training"], found["shown"]
    by_kind: dict[str, dict[float, float]] = {kind: {} for kind in BREAKINGS}
    for entry in found["broken"]:
        by_kind[entry["kind"]][entry["size"]] = entry["spread"]
    changes = {entry["kind"]: entry["change"] for entry in shift["broken"] if entry["size"] == shown}
    sizes = {entry["size"] for entry in found["broken"]}
    columns = sorted({min(sizes), shown, max(sizes)})
    head = ["broken by", *(f"S at ε = {size:g}" for size in columns), "slope", "S, trained fields", "shift"]
    rows = [
        [
            _WORDS[kind],
            *(by_kind[kind][size] for size in columns),
            decimal(found["slopes"][kind]),
            training["broken"][kind],
            changes[kind],
        ]
        for kind in BREAKINGS
    ]
    first, last = shift["window"]
    tables = [
        Table(
            "Repeating networks",
            ["network", "S"],
            [
                *([name, value] for name, value in found["repeating_by"].items()),
                ["largest, from the terms of L_bulk", found["repeating_by_bulk"]],
            ],
            f"Density and term of L_bulk, computed apart, agree to {number(found['density_against_bulk'])}",
        ),
        Table(
            "One place differs by ε",
            head,
            rows,
            f"S on seeded fields of the lattice; slope of log S against log ε up to {SMALL:g}; at ε = {shown:g}: S on"
            f" trained fields, and relative change of L_bulk when those of layers {first} to {last - 1} move one layer"
            " on",
        ),
        Table(
            "The trained lattice, whose layers repeat",
            ["quantity", "value"],
            [
                ["S on its fields, largest over training", training["law"]],
                ["difference of layers' densities on their own fields, at the end", training["state"][-1]],
                ["change of L_bulk in the window under the shift", shift["repeating"]],
                ["the same from L_bulk of the moved fields", shift["repeating_by_bulk"]],
                ["change of L_bulk at the window's ends", shift["ends"]],
            ],
            "Relative to the mean density of a layer (S and difference) and to L_bulk in the window (changes)",
        ),
    ]
    message = (
        f"Repeating layers have S = {number(found['repeating'])}; of the five ways of breaking, the weakest at"
        f" ε = {shown:g} gives S = {number(min(spreads[shown] for spreads in by_kind.values()))}. The densities of the"
        f" trained layers differ by {number(training['state'][-1])} times their mean; evaluated on the same fields they"
        f" differ by {number(training['law'])}."
    )
    summary = (
        f"The density of every layer was evaluated on the same {found['configurations']} seeded fields, for dense"
        f" networks of {listed(found['mlp'])} neurons and for convolutional ones of the lattice's size, plain and"
        f" residual, and for the lattice with one place differing by ε. {network(config)} The same was done with the"
        " fields that it had then."
    )
    return Description(summary, tables, message)


_WORDS = {
    "activation": "activation",
    "width": "width of a site",
    "fan_in": "fan-in",
    "mu": "inertia μ",
    "skip": "skip",
}


# seeded fields


def networks(config: SymmetryConfig) -> dict[str, list[Layer]]:
    """The repeating networks by name: dense, tied and untied layers, plain and residual, as deep as the lattice."""
    lattice = _lattice(config)
    channels, taps = lattice.channels, lattice.range.components(lattice.grid).size
    kernel = (channels, taps, channels)
    widths = config.symmetry.mlp if isinstance(config.symmetry.mlp, tuple) else (config.symmetry.mlp,)
    shapes: dict[str, tuple[int, ...]] = {f"dense, {n} neurons": (n, n) for n in widths}
    shapes |= {"tied convolution": kernel, "untied convolution": (lattice.width, *kernel)}
    return {
        f"{name}, {how}": layers_of(
            Rule(lattice.activation, skip, lattice.padding), [shape] * lattice.depth, cells=lattice.width
        )
        for name, shape in shapes.items()
        for how, skip in (("plain", 0.0), ("residual", 1.0))
    }


def repeating(config: SymmetryConfig) -> dict[str, Any]:
    """S of every repeating network, also from the terms of L_bulk, and how far densities and these terms agree."""
    by, by_bulk, apart = {}, [], []
    for name, layers in networks(config).items():
        fields = _seeded(config, layers)
        by[name] = spread(layers, fields).value
        few = fields[:MOST_FIELDS]
        terms = bulk_terms(layers, few)
        by_bulk.append(float(np.abs(terms[:, :, None] - terms[:, None, :]).mean(axis=0).max() / terms.mean()))
        densities = np.array([density(layers[1], each) for each in few])
        apart.append(float(np.max(np.abs(terms / densities[:, None] - 1))))
    widths = config.symmetry.mlp
    return {
        "repeating": max(by.values()),
        "repeating_by": by,
        "repeating_by_bulk": max(by_bulk),
        "density_against_bulk": max(apart),
        "configurations": config.symmetry.configurations,
        "mlp": list(widths) if isinstance(widths, tuple) else [widths],
    }


def bulk_terms(layers: list[Layer], fields: list[Configuration]) -> Array:
    """The terms 1 … M−1 of L_bulk, each with every configuration at its place: (configurations, M−1).

    This asks `bulk`, which has only the map 𝒲 in common with `density`. Neighbours share a site, so layers take turns.
    Masks and inertias are not considered.
    """
    rule = Rule([layer.activation for layer in layers], [layer.skip for layer in layers], layers[0].padding)
    depth, terms = len(layers), np.empty((len(fields), len(layers) - 1))
    for row, one in enumerate(fields):
        for turn in (1, 2):
            places = range(turn, depth, 2)
            W, Wdot = ([np.zeros_like(one.W)] * depth for _ in range(2))
            z, zdot = ([np.zeros_like(one.z)] * (depth + 1) for _ in range(2))
            for m in places:
                W[m], Wdot[m], z[m], zdot[m], zdot[m + 1] = one.W, one.Wdot, one.z, one.zdot, one.z_next_dot
            terms[row, turn - 1 :: 2] = bulk(rule, W, Wdot, z, zdot).layers[turn::2]
    return terms


def break_layers(config: SymmetryConfig, details: Details) -> dict[str, Any]:
    """S(ε) of the configured lattice for all breakings, with its slope at small ε and its steepest rise."""
    layers = lattice_layers(_lattice(config))
    fields = _seeded(config, layers)
    unbroken = spread(layers, fields)
    details.means["repeating"] = unbroken.means
    for kind in BREAKINGS:
        spreads = [spread(broken(layers, kind, float(size)), fields) for size in details.sizes]
        details.spreads[kind] = np.array([each.value for each in spreads])
        details.means[kind] = spreads[int(np.flatnonzero(details.sizes == details.shown)[0])].means
    whole = {kind: np.append(unbroken.value, values) for kind, values in details.spreads.items()}
    return {
        "shown": details.shown,
        "broken": _by_kind_and_size(details.sizes, details.spreads, "spread"),
        "slopes": {kind: slope_of(details.sizes, values) for kind, values in details.spreads.items()},
        "steepest": {
            kind: float(np.max(np.abs(np.diff(values)) / np.diff(np.append(0.0, details.sizes))))
            for kind, values in whole.items()
        },
    }


def slope_of(sizes: Array, values: Array) -> float | None:
    """Slope of log value against log ε for ε up to `SMALL`; None where fewer than two are positive."""
    use = (sizes <= SMALL) & (values > 0)
    if np.count_nonzero(use) < 2:
        return None
    return float(np.polyfit(np.log(sizes[use]), np.log(values[use]), 1)[0])


def lattice_layers(lattice: Lattice, mu: PerGroup | None = None) -> list[Layer]:
    """The layers of a lattice, which repeat."""
    taps = lattice.range.components(lattice.grid).size
    kernel: tuple[int, ...] = (lattice.channels, taps, lattice.channels)
    shape = kernel if lattice.range.tied else (lattice.width, *kernel)
    return layers_of(rule_of(lattice), [shape] * lattice.depth, mu, cells=lattice.width)


def rule_of(lattice: Lattice) -> Rule:
    """σ, skip and padding of a lattice's layers."""
    return Rule(lattice.activation, 1.0, lattice.padding)


def _seeded(config: SymmetryConfig, layers: list[Layer]) -> list[Configuration]:
    return configurations(layers, config.symmetry.configurations, config.seed, config.symmetry.samples)


def _by_kind_and_size(sizes: Array, values: Mapping[str, Array], name: str) -> list[dict[str, Any]]:
    return [
        {"kind": kind, "size": float(size), name: float(value)}
        for kind, found in values.items()
        for size, value in zip(sizes, found, strict=True)
    ]


# the fields of a trained lattice


def state_of(run: Run, i: int) -> Moving:
    """The lattice at snapshot i, moving as it does on the minibatch of the next step (at the end: the last one).

    Velocities and inertias are those of `moments`: its own, or θ̇ = −η ∂ℓ/∂θ with μ = 1/η where it has no inertia.
    """
    training, boundary = run.training, run.boundary
    names = (*GROUPS, *VELOCITIES) if training.second_order else GROUPS
    stored = {name: run.trajectory.fields[name][i] for name in names}
    system = LatticeSystem(run.lattice, boundary, LatticeState(*(stored[name] for name in GROUPS)))
    system.load(stored)
    observer = Observer(system)
    index = boundary.batch(min(int(run.steps[i]), training.steps - 1))
    w, b, _ = system.u
    w_dot, b_dot, _ = observer.velocity(index)
    there = neurons(observer.rule, w, b, boundary.input(index, run.lattice.width), w_dot, b_dot)
    assert there.zdot is not None
    return Moving(float(run.t[i]), observer.rule, observer.motion.mu, list(w), list(w_dot), there.z, there.zdot)


def follow_training(config: SymmetryConfig, moving: list[Moving], details: Details) -> dict[str, Any]:
    """Along training: how much the layers' densities differ on their own fields (state), and on equal ones (law)."""
    lattice = _lattice(config)
    chosen = np.unique(np.linspace(0, lattice.depth - 1, min(lattice.depth, MOST_FIELDS)).round().astype(int))
    densities, law = [], []
    for state in moving:
        layers = lattice_layers(lattice, state.mu)
        densities.append([density(layer, state.fields(m)) for m, layer in enumerate(layers)])
        law.append(spread(layers, [state.fields(m) for m in chosen]).value)
    details.t, details.density = np.array([state.t for state in moving]), np.array(densities)
    last = moving[-1]
    layers, fields = lattice_layers(lattice, last.mu), [last.fields(m) for m in chosen]
    return {
        "t": details.t.tolist(),
        "law": max(law),
        "state": (np.ptp(details.density, axis=1) / details.density.mean(axis=1)).tolist(),
        "broken": {kind: spread(broken(layers, kind, details.shown), fields).value for kind in BREAKINGS},
    }


def shift_fields(config: SymmetryConfig, state: Moving, details: Details) -> dict[str, Any]:
    """The change of L_bulk when the fields in the window move one layer on, by densities and by L_bulk itself."""
    first, last = window = config.window()
    layers = lattice_layers(_lattice(config), state.mu)

    def change(of: list[Layer]) -> float:
        return shift_change(state.rule, of, state.W, state.Wdot, state.z, state.zdot, window)

    details.changes = {
        kind: np.array([change(broken(layers, kind, float(size))) for size in details.sizes]) for kind in BREAKINGS
    }
    W, Wdot = (_moved(values, first, last) for values in (state.W, state.Wdot))
    z, zdot = (_moved(values, first, last + 1) for values in (state.z, state.zdot))
    details.before = bulk(state.rule, state.W, state.Wdot, state.z, state.zdot, state.mu).layers
    details.after = bulk(state.rule, W, Wdot, z, zdot, state.mu).layers
    inside = float(details.before[first:last].sum())
    carried = details.after[first + 1 : last + 1] - details.before[first:last]
    return {
        "window": [first, last],
        "repeating": change(layers),
        "repeating_by_bulk": float(np.abs(carried).sum()) / inside,
        "ends": float(details.after.sum() - details.before.sum()) / inside,
        "broken": _by_kind_and_size(details.sizes, details.changes, "change"),
    }


def _moved(values: list[Array], first: int, last: int) -> list[Array]:
    """Entries first … last−1 handed to the places first+1 … last; the rest stays."""
    return [*values[: first + 1], *values[first:last], *values[last + 1 :]]


def _lattice(config: SymmetryConfig) -> Lattice:
    return config.lattice_at(*config.rungs()[0])


def _train(config: SymmetryConfig, out: Path, session: Session) -> Run:
    depth, width = config.rungs()[0]
    lattice, label, report = _lattice(config), f"lattice M={depth} N={width}", session.report
    return train(
        lattice,
        config.dataset(),
        config.training_plan(),
        initial=config.initial_fields(lattice),
        out=out / f"lattice-M{depth:03d}-N{width:03d}.h5",
        resume=True,
        compression=config.compression(),
        progress=None if report is None else lambda done, total, loss: report(label, done, total, loss),
        **config.training.machine(),
    )


def _write(config: SymmetryConfig, out: Path, details: Details) -> None:
    """Arrays over sizes, layers and time."""
    arrays: dict[str, tuple[tuple[str, ...], Array]] = {
        "density": (("t", "layer"), details.density),
        "bulk": (("layer",), details.before),
        "bulk_shifted": (("layer",), details.after),
    }
    arrays |= {f"mean_{kind}": (("layer",), values) for kind, values in details.means.items()}
    for kind in BREAKINGS:
        arrays[f"spread_{kind}"] = (("size",), details.spreads[kind])
        arrays[f"shift_{kind}"] = (("size",), details.changes[kind])
    write_sidecar(
        out / "symmetry.h5",
        kind=config.kind,
        config=tomllib.loads(config.to_toml()),
        arrays=arrays,
        coordinates={"t": details.t, "size": details.sizes, "layer": np.arange(details.before.size)},
        overwrite=True,
    )
