"""Translation along depth: is the layer density one function for all m, and if not, by how much?

    𝓛[m](z, z⁺, W; velocities) = μ_W/2 |Ẇ|² + μ_b/2 ⟨ | ż⁺ − s ż − d/dt(𝒲σ(z)) |² ⟩
    S = max_{m,m'} ⟨ |𝓛[m] − 𝓛[m']| ⟩ / ⟨ |𝓛| ⟩        over seeded configurations of the largest layer's shape

S vanishes for repeating layers. A neuron or connection that a layer lacks enters with the weight 1 − ε, ε = 1 meaning
that it is not there, so that every way of breaking the symmetry has a continuous size ε.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bbdfield.decomposition.maps import (
    Array,
    Arrays,
    PerGroup,
    Rule,
    apply,
    as_arrays,
    check_neurons,
    check_same,
    source_cells,
)
from bbdfield.errors import InputError
from bbdfield.model.activations import Activation, get_activation

BREAKINGS = ("activation", "width", "fan_in", "mu", "skip")


@dataclass(frozen=True)
class Layer:
    """What the density of one layer depends on besides its fields.

    inputs, outputs : weights 0 … 1 of the neurons of z[m] and z[m+1], shape (n,) or (N, C).
    fan : weights of the entries of W, in W's shape.   mu : its r is not used.
    """

    activation: Activation
    skip: float
    mu: PerGroup
    inputs: Array
    outputs: Array
    fan: Array
    padding: str = "zeros"

    @property
    def links(self) -> Array:
        """Weights of W's entries in the kinetic term: an entry is there if both ends are; tied ones have no ends."""
        if self.fan.ndim == 2:
            return self.fan * np.outer(self.outputs, self.inputs)
        if self.fan.ndim == 3:
            return self.fan
        cells, _, taps, _ = self.fan.shape
        source = source_cells(cells, taps // 2, self.padding)
        # An entry that looks beyond a zero-padded edge is there, although it sees nothing.
        seen = np.where((source >= 0)[:, None], self.inputs[source], 1.0)
        ends = np.stack([seen[u : u + cells] for u in range(taps)], axis=1)
        return self.fan * self.outputs[:, :, None, None] * ends[:, None]


@dataclass(frozen=True)
class Configuration:
    """Arguments of one layer's density: W with z before and z⁺ after it, the samples last, and their velocities."""

    W: Array
    Wdot: Array
    z: Array
    zdot: Array
    z_next_dot: Array


@dataclass(frozen=True)
class Spread:
    """S, the two layers that differ most, and ⟨𝓛[m]⟩ of every layer."""

    value: float
    pair: tuple[int, int]
    means: Array


def density(layer: Layer, fields: Configuration) -> float:
    """Return 𝓛 of one layer for one configuration. It depends on z⁺ through its velocity only."""
    value, slope = layer.activation.value_and_slope(fields.z)
    present = layer.inputs[..., None]
    moved = apply(layer.fan * fields.Wdot, present * value, layer.padding)
    moved += apply(layer.fan * fields.W, present * slope * fields.zdot, layer.padding)
    rate = fields.z_next_dot - layer.skip * present * fields.zdot - moved
    samples = fields.z.shape[-1]
    return 0.5 * layer.mu.w * float(np.sum(layer.links * fields.Wdot**2)) + 0.5 * layer.mu.b * float(
        np.sum(layer.outputs[..., None] * rate**2) / samples
    )


def layers_of(
    rule: Rule,
    shapes: Sequence[tuple[int, ...]],
    mu: PerGroup | None = None,
    cells: int | None = None,
    size: float = 1.0,
) -> list[Layer]:
    """Return the layers of a network, all in one shape that holds the largest.

    Parameters
    ----------
    rule : Rule
    shapes : shapes of W[0] … W[M−1], of one kind.
        What a smaller layer lacks (neurons, channels, outer taps) has the weight 1 − `size`.
    mu : PerGroup
    cells : int
        N, which a tied convolution's W does not tell.
    size : float
        ε: 1 for the network as it is, 0 for all layers enlarged to one shape.
    """
    if not shapes or len({len(shape) for shape in shapes}) != 1 or len(shapes[0]) not in (2, 3, 4):
        raise InputError(
            "symmetry: needs the shapes of at least one W, all of one kind (dense, tied or locally connected)"
        )
    _check_size(size)
    rule.check_depth(len(shapes))
    kind = len(shapes[0])
    sizes = [max(each) for each in zip(*shapes, strict=True)]
    # As many neurons on either side, so that a skip finds its place whatever the widths.
    source, target = kind - 1, 0 if kind == 2 else kind - 3
    sizes[source] = sizes[target] = max(sizes[source], sizes[target])
    largest = tuple(sizes)
    width = largest[0] if kind == 4 else cells
    if kind == 3 and width is None:
        raise InputError("symmetry: a tied convolution's W does not tell the number of cells; give it")
    layers = []
    for m, shape in enumerate(shapes):
        fan = np.full(largest, 1.0 - size)
        if kind == 2:
            inputs, outputs = np.full(largest[1], 1.0 - size), np.full(largest[0], 1.0 - size)
            inputs[: shape[1]], outputs[: shape[0]] = 1.0, 1.0
            # Here only the neurons are missing; their entries go with them.
            fan[...] = 1.0
        else:
            if kind == 4 and shape[0] != largest[0]:
                raise InputError(f"symmetry: layer {m} has {shape[0]} cells, another {largest[0]}; give equal numbers")
            inputs, outputs = np.full((width, largest[-1]), 1.0 - size), np.full((width, largest[-3]), 1.0 - size)
            inputs[:, : shape[-1]], outputs[:, : shape[-3]] = 1.0, 1.0
            outer_taps = (largest[-2] - shape[-2]) // 2
            fan[..., : shape[-3], outer_taps : outer_taps + shape[-2], : shape[-1]] = 1.0
        weight = PerGroup() if mu is None else mu
        layers.append(Layer(rule.sigma(m), rule.s(m), weight, inputs, outputs, fan, rule.padding))
    return layers


def mixture(one: Activation, two: Activation, size: float) -> Activation:
    """Return (1 − ε) σ + ε σ₂."""

    def mixed(name: str) -> Activation:
        def f(x: Array) -> Array:
            result: Array = (1.0 - size) * getattr(one, name)(x) + size * getattr(two, name)(x)
            return result

        return f  # type: ignore[return-value]

    return Activation(f"{1 - size:g} {one.name} + {size:g} {two.name}", mixed("f"), mixed("df"), mixed("d2f"))  # type: ignore[arg-type]


def broken(
    layers: list[Layer], kind: str, size: float, at: int | None = None, other: Activation | str | None = None
) -> list[Layer]:
    """Return the layers with the symmetry broken in one place by ε = `size`.

    activation   layer `at` has (1−ε)σ + εσ₂
    width        half of the neurons (convolution: cells) of the site between layers `at`−1 and `at` have the weight 1−ε
    fan_in       half of the connections into layer `at` (convolution: the outer taps, or half of the channels if T = 1)
                 have the weight 1−ε
    mu           layer `at` has the inertias (1+ε)μ
    skip         layer `at` has the skip (1−ε)s, or ε where s = 0

    Parameters
    ----------
    at : int
        Default: the middle.
    other : Activation
        σ₂; default: softplus, or tanh where σ is softplus.
    """
    if kind not in BREAKINGS:
        raise InputError(f"unknown breaking {kind!r}: use one of {', '.join(BREAKINGS)}")
    _check_size(size)
    at = len(layers) // 2 if at is None else at
    if not (1 if kind == "width" else 0) <= at < len(layers):
        raise InputError(f"symmetry: there is no place {at} to break {kind} in {len(layers)} layers")
    layer = layers[at]
    result = list(layers)
    if kind == "activation":
        if other is None:
            other = "tanh" if layer.activation.name == "softplus" else "softplus"
        second = get_activation(other) if isinstance(other, str) else other
        result[at] = replace(layer, activation=mixture(layer.activation, second, size))
    elif kind == "width":
        kept = np.ones(layer.inputs.shape)
        kept[len(kept) // 2 :] = 1.0 - size
        result[at] = replace(layer, inputs=layer.inputs * kept)
        result[at - 1] = replace(layers[at - 1], outputs=layers[at - 1].outputs * kept)
    elif kind == "fan_in":
        result[at] = replace(layer, fan=layer.fan * (1.0 - size * _removable(layer.fan.shape)))
    elif kind == "mu":
        result[at] = replace(layer, mu=PerGroup(layer.mu.w * (1 + size), layer.mu.b * (1 + size), layer.mu.r))
    else:
        result[at] = replace(layer, skip=layer.skip * (1.0 - size) if layer.skip != 0 else size)
    return result


def _removable(shape: tuple[int, ...]) -> Array:
    """1 for the connections that "fan_in" removes, 0 for the rest."""
    removed = np.zeros(shape)
    if len(shape) > 2 and shape[-2] > 1:
        reach = shape[-2] // 2
        removed[..., np.abs(np.arange(-reach, reach + 1)) > reach / 2, :] = 1.0
    else:
        removed[..., shape[-1] // 2 :] = 1.0
    return removed


def _check_size(size: float) -> None:
    if not 0 <= size <= 1:
        raise InputError(f"symmetry: the size of a breaking is 0 … 1, got {size!r}")


def configurations(layers: list[Layer], count: int = 64, seed: int = 0, samples: int = 1) -> list[Configuration]:
    """Return seeded fields for these layers: normal z and velocities, W and Ẇ normal with variance 1/fan-in."""
    rng = np.random.default_rng(seed)
    layer = layers[0]
    entries = layer.fan.shape[1] if layer.fan.ndim == 2 else layer.fan.shape[-1] * layer.fan.shape[-2]
    scale = entries**-0.5
    before, after = (*layer.inputs.shape, samples), (*layer.outputs.shape, samples)
    return [
        Configuration(
            W=scale * rng.standard_normal(layer.fan.shape),
            Wdot=scale * rng.standard_normal(layer.fan.shape),
            z=rng.standard_normal(before),
            zdot=rng.standard_normal(before),
            z_next_dot=rng.standard_normal(after),
        )
        for _ in range(count)
    ]


def spread(layers: list[Layer], fields: list[Configuration]) -> Spread:
    """Return S = max_{m,m'} ⟨|𝓛[m] − 𝓛[m']|⟩ / ⟨|𝓛|⟩, ⟨|𝓛|⟩ over all layers and configurations."""
    if len(layers) < 2 or not fields:
        raise InputError("symmetry: needs two layers or more, and at least one configuration")
    values = np.array([[density(layer, one) for one in fields] for layer in layers])
    differences = {
        (m, n): float(np.mean(np.abs(values[m] - values[n]))) for m, n in itertools.combinations(range(len(layers)), 2)
    }
    pair = max(differences, key=lambda key: differences[key])
    return Spread(differences[pair] / float(np.mean(np.abs(values))), pair, values.mean(axis=1))


def shift_change(
    rule: Rule,
    layers: list[Layer],
    W: Arrays,
    Wdot: Arrays,
    z: Arrays,
    zdot: Arrays,
    window: tuple[int, int],
) -> float:
    """Return the relative change of L_bulk when the fields in a window are moved one layer on.

    The fields W[m], z[m], z[m+1] of the layers first ≤ m < last are handed to the layers m+1:

        | Σ_m ( 𝓛[m+1] − 𝓛[m] )(z[m], z[m+1], W[m]) | / Σ_m 𝓛[m]

    0 for repeating layers, whatever the fields are.

    Raises
    ------
    InputError
        If the window and its image do not lie inside the network, or its layers are not all of one shape.
    """
    first, last = window
    if not 0 <= first < last < len(layers):
        raise InputError(f"symmetry: the window {window} and its shift must lie within {len(layers)} layers")
    given = as_arrays("W", W), as_arrays("Wdot", Wdot), as_arrays("z", z), as_arrays("zdot", zdot)
    check_neurons(rule, given[0], given[2])
    check_same("Wdot", given[1], "W", given[0])
    check_same("zdot", given[3], "z", given[2])
    change, size = 0.0, 0.0
    for m in range(first, last):
        if given[0][m].shape != layers[m].fan.shape:
            raise InputError(f"symmetry: W[{m}] has shape {given[0][m].shape}, its layer {layers[m].fan.shape}")
        fields = Configuration(given[0][m], given[1][m], given[2][m], given[3][m], given[3][m + 1])
        here = density(layers[m], fields)
        change += density(layers[m + 1], fields) - here
        size += here
    return abs(change) / size if size > 0 else 0.0
