"""Random networks on which the identity L = L_bulk + L_boundary and the round trip b → z → b are tried.

Every case is one combination of network × skip × activation × loss × batch, with sizes, parameters and velocities drawn
from a seed of its own. In half of them the input moves too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bbdfield.decomposition.energy import observe
from bbdfield.decomposition.maps import PADDINGS, Array, PerGroup, Rule
from bbdfield.decomposition.readout import Output, cosine_basis
from bbdfield.decomposition.substitution import KINKS, round_trip
from bbdfield.model.losses import loss_names
from bbdfield.studies.moments import terms

NETWORKS = ("dense", "tied convolution", "locally connected")
ACTIVATIONS = ("tanh", "sigmoid", "softplus", "relu", "gelu", "identity")
BATCHES = (1, 6)


@dataclass(frozen=True)
class Case:
    """One combination, and its number, which seeds everything random about it."""

    number: int
    network: str
    skip: float
    activation: str
    loss: str
    batch: int


@dataclass(frozen=True)
class CaseResult:
    """residual : |L − L_bulk − L_boundary| relative to the operands.   kinks : uses of a one-sided derivative.

    over_terms : the same difference relative to L's own terms.
    """

    case: Case
    residual: float
    over_terms: float
    kinks: int


def combinations() -> list[tuple[str, float, str, str, int]]:
    """Every network × skip × activation × loss × batch."""
    return list(itertools.product(NETWORKS, (0.0, 1.0), ACTIVATIONS, loss_names(), BATCHES))


def cases(count: int) -> Iterator[Case]:
    """`count` cases: all combinations spread evenly, again and again with other numbers if there are fewer."""
    known = combinations()
    rounds = -(-count // len(known))
    chosen = (np.arange(count) * (rounds * len(known))) // count
    for number, at in enumerate(chosen):
        yield Case(number, *known[int(at) % len(known)])


def run_case(case: Case, seed: int) -> CaseResult:
    """Try the identity on one network."""
    rng = np.random.default_rng([seed, case.number])
    net = _network(case.network, case.skip, int(rng.integers(1, 6)), rng)
    draw, dense = rng.standard_normal, case.network == "dense"
    outputs = int(rng.integers(2, 5))
    if case.activation in KINKS and case.skip == 0 and net.depth > 1:
        # In every second of these networks all neurons of one site lie exactly on the kink.
        on_kink = rng.random() < 0.5
        for values in (net.W[0], net.b[0]):
            values[...] *= 0.0 if on_kink else 1.0
    basis, R = None, None
    if dense:
        last = net.sites[-1][0]
        if rng.random() < 0.5 and last > 1:
            outputs = last  # the last layer gives the logits itself
        else:
            R = draw((outputs, last))
    else:
        cells, channels = net.sites[-1]
        modes = int(rng.integers(1, min(cells, 4) + 1))
        basis, R = cosine_basis(cells, modes, 1.0 / cells), draw((outputs, channels, modes))
    rule = Rule(case.activation, case.skip, net.padding)
    found = observe(
        rule,
        net.W,
        net.b,
        R,
        net.Wdot,
        net.bdot,
        None if R is None else draw(R.shape),
        draw((*net.sites[0], case.batch)),
        Output(case.loss, rng.integers(0, outputs, case.batch), outputs, basis),
        PerGroup(*np.exp(draw(3))),
        z0dot=draw((*net.sites[0], case.batch)) if rng.random() < 0.5 else None,
    )
    difference = abs(found.lagrangian.total - found.bulk.total - found.boundary.total)
    return CaseResult(case, found.residual, float(difference / terms(found.lagrangian)), int(found.kinks.sum()))


def run_round_trip(network: str, skip: float, depth: int, seed: int) -> tuple[float, float]:
    """What b and ḃ lose on the way to z and back in a network of this depth, relative to the operands."""
    rng = np.random.default_rng([seed, NETWORKS.index(network), int(skip), depth])
    net = _network(network, skip, depth, rng, repeating=True)
    # Layers of a deep residual network are small, or its signals would blow up.
    small = 1.0 / depth if skip else 1.0
    W, b, Wdot, bdot = (
        [small * value for value in values] for values in (net.W, net.b, net.Wdot, [v / depth for v in net.bdot])
    )
    lost = round_trip(Rule("tanh", skip, net.padding), W, b, rng.standard_normal((*net.sites[0], 2)), Wdot, bdot)
    return lost.b, lost.bdot


@dataclass(frozen=True)
class _Network:
    sites: list[tuple[int, ...]]
    W: list[Array]
    b: list[Array]
    Wdot: list[Array]
    bdot: list[Array]
    padding: str

    @property
    def depth(self) -> int:
        return len(self.W)


def _network(network: str, skip: float, depth: int, rng: np.random.Generator, repeating: bool = False) -> _Network:
    """Sizes, parameters and velocities; widths or channels change from layer to layer where there is no skip."""

    def widths(least: int, most: int) -> list[int]:
        changing = skip == 0 and not repeating
        return [int(n) for n in (rng.integers(least, most, depth + 1) if changing else [most - 1] * (depth + 1))]

    shapes: list[tuple[int, ...]]
    sites: list[tuple[int, ...]]
    padding = "zeros"
    if network == "dense":
        sizes = widths(1, 9)
        shapes, sites = [(after, before) for before, after in itertools.pairwise(sizes)], [(n,) for n in sizes]
    else:
        cells, taps = int(rng.integers(4, 9)), 2 * int(rng.integers(0, 3)) + 1
        padding = str(rng.choice(PADDINGS))
        channels = widths(1, 4)
        head = () if network == "tied convolution" else (cells,)
        shapes = [(*head, after, taps, before) for before, after in itertools.pairwise(channels)]
        sites = [(cells, c) for c in channels]

    def weights(shape: tuple[int, ...]) -> Array:
        entries = shape[-1] * (shape[-2] if len(shape) > 2 else 1)
        drawn: Array = rng.standard_normal(shape) / np.sqrt(entries)
        return drawn

    def draw(shapes: list[tuple[int, ...]], of: Any) -> list[Array]:
        return [of(shape) for shape in shapes]

    return _Network(
        sites,
        draw(shapes, weights),
        draw(sites[1:], rng.standard_normal),
        draw(shapes, weights),
        draw(sites[1:], rng.standard_normal),
        padding,
    )
