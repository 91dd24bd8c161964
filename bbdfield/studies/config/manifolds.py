"""kind = "manifolds"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from bbdfield.errors import InputError
from bbdfield.model.activations import activation_names, get_activation
from bbdfield.observables.ties import KINDS, NON_EXAMPLE, holds_for
from bbdfield.studies.config.sections import Section
from bbdfield.studies.config.study import OneNetwork
from bbdfield.studies.config.values import POSITIVE, is_whole, real, refuse, whole, widths_of

#: neurons that equal ones of the network of reduced width take: 4 of `hidden`; 3 and then 2 to 6 of `deep`
LEAST_REDUCED = 7


def tied_kinds(activation: str) -> list[str]:
    """The kinds that neurons with this activation are tied by, and the non-example."""
    return [*(kind for kind in KINDS if holds_for(kind, get_activation(activation))), NON_EXAMPLE]


def places_of(kinds: Sequence[str], count: int) -> dict[str, tuple[int, ...]]:
    """Neurons for every kind, from both ends of the layer, so that ties lie far apart in memory; disjoint."""
    places: dict[str, tuple[int, ...]] = {
        kind: (n,) if kind == "zero" else (n, count - 1 - n) for n, kind in enumerate(kinds)
    }
    taken = [k for place in places.values() for k in place]
    if len(set(taken)) < len(taken) or min(taken) < 0:
        raise InputError(f"manifolds: {len(kinds)} ties of their own neurons do not fit into {count} neurons; use more")
    return places


def neurons_needed(activations: Sequence[str]) -> int:
    """The least width at which `places_of` has disjoint places for the kinds of each of them."""
    last = [max(n for n, kind in enumerate(tied_kinds(name)) if kind != "zero") for name in activations]
    return 2 * (max(last) + 1)


def _between(least: float, most: float) -> PlainValidator:
    return real(lambda value: least <= value <= most, f"a number from {least:g} to {most:g}")


def _activations(value: Any) -> tuple[str, ...]:
    known = activation_names()
    if not isinstance(value, (list, tuple)) or not value or not all(name in known for name in value):
        raise refuse(f"a list out of {', '.join(known)}", value)
    return tuple(dict.fromkeys(value))


def _deep(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or len(value) < 2 or not all(is_whole(n, 1, 100_000) for n in value):
        raise refuse("a list of two or more hidden widths, whole numbers from 1 to 100000", value)
    return widths_of(value)


class ManifoldsSection(Section):
    """[manifolds] dense networks beside the lattice, and what is done with all of them.

    activations : of the networks whose neurons are tied; the first is that of all other parts.   hidden : width of the
    network with two layers.   deep : hidden widths of a deeper one, whose second hidden layer is tied.   rate, gain :
    learning rate of dense networks, and their initial weights' variance gain²/fan-in.   momentum : of the runs with
    momentum.   plain_weight : initial.weight of the lattice without skips.   near : distance of starts near a
    manifold, relative to a neuron.   pairs : how many such starts.   decay : weight decay of the dense network that
    starts there once more.   small : gain of small initial parameters.   small_lattice : a plain lattice's small
    initial parameters over its ordinary ones; products of several of them carry its gradients.   reduced : steps beside
    the reduced network.   translation : steps of fields that do not depend on y.   samples :
    training samples there.   wave : size of the wave along y that breaks it.
    """

    activations: Annotated[tuple[str, ...], PlainValidator(_activations)] = ("tanh", "relu")
    hidden: Annotated[int, whole(1, 100_000)] = 64
    deep: Annotated[tuple[int, ...], PlainValidator(_deep)] = (48, 32)
    rate: Annotated[float, _between(1e-9, 100.0)] = 0.05
    gain: Annotated[float, _between(1e-6, 100.0)] = 1.0
    momentum: Annotated[float, POSITIVE] = 0.9
    plain_weight: Annotated[float, _between(1e-6, 100.0)] = 1.5
    near: Annotated[float, _between(1e-9, 0.5)] = 0.01
    pairs: Annotated[int, whole(1, 1000)] = 4
    decay: Annotated[float, _between(1e-9, 1.0)] = 0.01
    small: Annotated[float, _between(1e-6, 100.0)] = 0.01
    small_lattice: Annotated[float, _between(1e-6, 1.0)] = 0.1
    reduced: Annotated[int, whole(1)] = 500
    translation: Annotated[int, whole(1)] = 400
    samples: Annotated[int, whole(1, 1_000_000)] = 500
    wave: Annotated[float, _between(1e-12, 1.0)] = 1e-6


class ManifoldsConfig(OneNetwork):
    """kind = "manifolds": which sets of parameters does no gradient leave?"""

    manifolds: ManifoldsSection = Field(default_factory=ManifoldsSection)

    def refusals(self) -> Iterator[str]:
        yield from list(super().refusals()) or _impossible_manifolds(self)


def _impossible_manifolds(config: ManifoldsConfig) -> Iterator[str]:
    keys, training, lattice = config.manifolds, config.training, config.lattice
    if training.dynamics != "sgd":
        yield (
            'training.dynamics: needs "sgd"; runs with momentum are made beside it, with manifolds.momentum'
            f' (got "{training.dynamics}")'
        )
    if training.precision != "float64" or training.checkpoint:
        yield 'training.precision: ties are followed in float64 without checkpoints; use precision = "float64"'
    if training.backend != "auto":
        yield f'training.backend: both routes are followed side by side; leave it out (got "{training.backend}")'
    if lattice.padding != "circular":
        yield (
            'lattice.padding: needs "circular", without which fields that do not depend on y do not stay so'
            f' (got "{lattice.padding}")'
        )
    if config.rungs()[0][1] < 3:
        yield f"lattice.width: needs at least 3 cells, along which there can be a wave (got {config.rungs()[0][1]})"
    if config.initial.correlation_x == 0 or (lattice.range == "kernel" and config.initial.correlation_u == 0):
        yield "initial.correlation_x: independent values are no field; give correlation lengths > 0"
    needed = neurons_needed(keys.activations)
    if lattice.channels < needed:
        yield f"lattice.channels: needs at least {needed}, so that every kind is tied (got {lattice.channels})"
    if config.rungs()[0][0] < 2:
        yield f"lattice.depth: needs at least 2, so that there is a hidden site (got {config.rungs()[0][0]})"
    needed = max(needed, LEAST_REDUCED)
    if keys.hidden < needed:
        yield f"manifolds.hidden: needs at least {needed}, so that every kind is tied (got {keys.hidden})"
    if min(keys.deep) < needed:
        yield f"manifolds.deep: needs widths of at least {needed}, so that every kind is tied (got {list(keys.deep)})"
    if training.rates.w == 0:
        yield "training.rates.w: needs a rate > 0; without it weights stay where they are, on any manifold (got 0)"
    if keys.momentum >= 1:
        yield f"manifolds.momentum: needs a number below 1 (got {keys.momentum})"
    if 2 * keys.pairs > min(keys.hidden, lattice.channels):
        yield (
            f"manifolds.pairs: needs at most half of manifolds.hidden and of lattice.channels, {lattice.channels}"
            f" (got {keys.pairs})"
        )
    data = config.dataset()
    if keys.samples > len(data.x) or training.batch > keys.samples:
        yield (
            f"manifolds.samples: needs at least training.batch and at most the {len(data.x)} training samples"
            f" (got {keys.samples})"
        )
