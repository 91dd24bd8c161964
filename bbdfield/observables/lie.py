"""How many independent conservation laws a network has: D − dim Lie(V)(θ), by exact arithmetic.

A gradient flow moves along θ̇ = −Σ ∂f(θ; x)ᵀ ∂ℓ/∂f, whatever the data and the loss: inside the span V of the gradient
fields of the network's outputs. It conserves exactly the functions that are constant along V, and so along all the
brackets of fields of V (Frobenius). Their number near a generic θ is

    D − dim Lie(V)(θ),    Lie(V) = V + [V, V] + [V, [V, V]] + …                arXiv 2307.00144

and D − dim V(θ) alone bounds it from above. Outputs are gated linear networks: where a ReLU network's pattern of
activation stands still, its output is x → aᵀ(W_L G_{L−1} W_{L−1} … G_1 (W_1 x + b_1) …) with gates G of 0 and 1, whose
span over all patterns is that over all numbers (the path-lifting φ of a dense ReLU network: one coefficient for every
path). Linear networks have all gates 1. For convolutions this takes the gates of all cells as independent.

How it is computed. Outputs are polynomials in θ with whole coefficients, so everything is done modulo a prime near
2³⁰ at a random θ, where no tolerance is needed to tell a rank. Brackets are multilinear in the fields, so that random
members of V span as much as all do: brackets [X_k, [… [X_1, X_0]]] of random X are added, level by level, until a level
adds nothing (then no later level does). Derivatives along fields are exact too: θ takes values in F_p[ε_1 … ε_k] with
ε_i² = 0. Ranks can only come out too small, each with a probability of about (degree)/2³⁰.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from bbdfield.decomposition.maps import source_cells
from bbdfield.errors import InputError

Whole = npt.NDArray[np.int64]
Base = Callable[[Whole, Whole], Whole]

#: the largest prime below 2^30: eight products fit into 63 bits
PRIME = 2**30 - 35
_CHUNK = 8
#: brackets that are tried at a time, and how many more than could be independent
_BATCH, _MARGIN = 48, 3
GATED = {"relu": True, "identity": False}


# arithmetic modulo the prime


def _matmul(a: Whole, b: Whole) -> Whole:
    """a @ b modulo the prime."""
    total = np.zeros(1, np.int64)
    for first in range(0, a.shape[-1], _CHUNK):
        part = slice(first, first + _CHUNK)
        total = (total + np.matmul(a[..., part], b[..., part, :]) % PRIME) % PRIME
    return total


def _times(a: Whole, b: Whole) -> Whole:
    return a * b % PRIME


def _product(a: Whole, b: Whole, base: Base) -> Whole:
    """The product of two series Σ_S a_S ε_S (S along the first axis, 2^k long), with `base` for their coefficients."""
    if len(a) == 1:
        return base(a[0], b[0])[None]
    half = len(a) // 2
    low = _product(a[:half], b[:half], base)
    high = _product(a[:half], b[half:], base) + _product(a[half:], b[:half], base)
    return np.concatenate([low, high % PRIME])


class Span:
    """A subspace of F_p^n that grows, as the rows of a reduced echelon form."""

    def __init__(self, size: int) -> None:
        self.rows: Whole = np.zeros((0, size), np.int64)
        self._pivots: list[int] = []

    @property
    def rank(self) -> int:
        return len(self._pivots)

    def add(self, vectors: Whole) -> int:
        """Take vectors (m, n) in, and return by how much the rank has grown."""
        new = np.asarray(vectors, np.int64) % PRIME
        if self._pivots:
            new = (new - _matmul(new[:, self._pivots], self.rows)) % PRIME
        before = self.rank
        for i in range(len(new)):
            places = np.flatnonzero(new[i])
            if not places.size:
                continue
            pivot = int(places[0])
            row = new[i] * pow(int(new[i, pivot]), -1, PRIME) % PRIME
            new[i + 1 :] = (new[i + 1 :] - new[i + 1 :, pivot, None] * row) % PRIME
            self.rows = (self.rows - self.rows[:, pivot, None] * row) % PRIME
            self.rows = np.concatenate([self.rows, row[None]])
            self._pivots.append(pivot)
        return self.rank - before


# networks


@dataclass(frozen=True)
class Layer:
    """One layer of a network whose laws are counted.

    weights : (n_out, n_in), tied (C_out, T, C_in) or untied (N, C_out, T, C_in).   bias : shape of b, or None.
    gated : whether an activation follows.   skip : what enters `skip` layers earlier is added to what leaves (0: none).
    """

    weights: tuple[int, ...]
    bias: tuple[int, ...] | None = None
    gated: bool = False
    skip: int = 0


@dataclass(frozen=True)
class Counted:
    """A network as a polynomial in its parameters.

    layers : in order; a dense layer after a convolution reads its (N, C) values in a row, or their `moments`.
    cells : N of convolutions, 0 without any.   padding : theirs.
    lift : (C, D), what takes the D data channels of a sample to the C of the first layer; None: the data are free.
    moments : (J, N), fixed numbers by which the last layer's values are summed over the cells; None: they are not.
    """

    layers: tuple[Layer, ...]
    cells: int = 0
    padding: str = "zeros"
    lift: Whole | None = field(default=None, compare=False)
    moments: Whole | None = field(default=None, compare=False)

    @property
    def parameters(self) -> int:
        """D."""
        return sum(int(np.prod(shape)) for _, shape in self.arrays())

    def arrays(self) -> list[tuple[str, tuple[int, ...]]]:
        """What θ holds, in order: ("w", shape) of every layer, each followed by its ("b", shape) if it has one."""
        parts = []
        for layer in self.layers:
            parts.append(("w", layer.weights))
            if layer.bias is not None:
                parts.append(("b", layer.bias))
        return parts

    def split(self, theta: Any) -> tuple[list[Any], list[Any]]:
        """W and b of every layer (b None where there is none), views of θ (…, D)."""
        w: list[Any] = []
        b: list[Any] = []
        first = 0
        for name, shape in self.arrays():
            part = theta[..., first : (first := first + int(np.prod(shape)))].reshape(*theta.shape[:-1], *shape)
            if name == "w":
                w.append(part)
                b.append(None)
            else:
                b[-1] = part
        return w, b

    def draw(self, rng: np.random.Generator, batch: int) -> list[Whole]:
        """Random sample, gates and output covector of `batch` members of V."""

        def numbers(*shape: int) -> Whole:
            return rng.integers(1, PRIME, (batch, *shape), dtype=np.int64)

        first = self.layers[0].weights
        if len(first) == 2:
            drawn = [numbers(first[1])]
        elif self.lift is None:
            drawn = [numbers(self.cells, first[-1])]
        else:
            drawn = [_matmul(numbers(self.cells, self.lift.shape[1]), self.lift.T % PRIME)]
        shape: tuple[int, ...] = ()
        for layer in self.layers:
            shape = layer.weights[:1] if len(layer.weights) == 2 else (self.cells, layer.weights[-3])
            drawn.append(numbers(*shape) if layer.gated else np.ones((batch, *shape), np.int64))
        return [*drawn, numbers(*shape)]

    def gradient(self, theta: Whole, drawn: Sequence[Whole]) -> Whole:
        """∂f/∂θ (E, batch, D) of the drawn members of V at θ (E, batch, D), by back-propagation."""
        w, b = self.split(theta)
        entering = np.zeros((len(theta), *drawn[0].shape), np.int64)
        entering[0] = drawn[0]
        inputs, leaving = [], [entering]
        for layer, w_l, b_l, gates in zip(self.layers, w, b, drawn[1:-1], strict=True):
            inputs.append(self._seen(layer, leaving[-1]))
            z = self._apply(layer, w_l, inputs[-1])
            if b_l is not None:
                z = (z + b_l) % PRIME
            if layer.gated:
                z = z * gates % PRIME
            if layer.skip:
                z = (z + leaving[-layer.skip]) % PRIME
            leaving.append(z)
        pulled = [np.zeros_like(z) for z in leaving]
        pulled[-1][0] = drawn[-1]
        gradients: list[Whole] = []
        for l in reversed(range(len(w))):  # noqa: E741
            layer, cotangent = self.layers[l], pulled[l + 1] % PRIME
            if layer.skip:
                pulled[l + 1 - layer.skip] += cotangent
            if layer.gated:
                cotangent = cotangent * drawn[l + 1] % PRIME
            if layer.bias is not None:
                shared = cotangent.sum(axis=-2) if len(layer.bias) == 1 and cotangent.ndim == 4 else cotangent
                gradients.append(shared.reshape(*theta.shape[:2], -1) % PRIME)
            gradients.append(self._outer(layer, cotangent, inputs[l]).reshape(*theta.shape[:2], -1))
            pulled[l] = pulled[l] + self._pull(layer, w[l], cotangent, leaving[l].shape)
        return np.concatenate(gradients[::-1], axis=-1)

    # one layer: dense on (…, n), convolutions on the patches (…, N, T C) of (…, N, C)

    def _seen(self, layer: Layer, values: Whole) -> Whole:
        """What a layer's weights multiply."""
        if len(layer.weights) == 2:
            if self.moments is not None and values.ndim == 4:
                values = _matmul(np.broadcast_to(self.moments % PRIME, (1, 1, *self.moments.shape)), values)
            return values.reshape(*values.shape[:2], -1)
        padded = np.concatenate([values, np.zeros_like(values[..., :1, :])], axis=-2)
        return padded[..., self._places(layer), :].reshape(*values.shape[:-1], -1)

    def _places(self, layer: Layer) -> npt.NDArray[np.int64]:
        """The cell that each tap of each cell reads, (N, T); N, a cell of zeros, for none."""
        taps = layer.weights[-2]
        found = source_cells(self.cells, taps // 2, self.padding)[np.arange(self.cells)[:, None] + np.arange(taps)]
        return np.where(found < 0, self.cells, found)

    def _apply(self, layer: Layer, w: Whole, seen: Whole) -> Whole:
        if w.ndim == 4:
            return _product(w, seen[..., None], _matmul)[..., 0]
        matrix = w.reshape(*w.shape[:-2], -1)
        if w.ndim == 5:
            return _product(seen, np.swapaxes(matrix, -1, -2), _matmul)
        return _product(matrix, seen[..., None], _matmul)[..., 0]

    def _outer(self, layer: Layer, cotangent: Whole, seen: Whole) -> Whole:
        if len(layer.weights) == 3:
            return _product(np.swapaxes(cotangent, -1, -2), seen, _matmul)
        return _product(cotangent[..., :, None], seen[..., None, :], _times)

    def _pull(self, layer: Layer, w: Whole, cotangent: Whole, shape: tuple[int, ...]) -> Whole:
        if w.ndim == 4:
            back = _product(np.swapaxes(w, -1, -2), cotangent[..., None], _matmul)[..., 0]
            if len(shape) == 3:
                return back
            if self.moments is None:
                return back.reshape(shape)
            moments = self.moments.T % PRIME
            return _matmul(np.broadcast_to(moments, (1, 1, *moments.shape)), back.reshape(*shape[:2], -1, shape[-1]))
        matrix = w.reshape(*w.shape[:-2], -1)
        if w.ndim == 5:
            back = _product(cotangent, matrix, _matmul)
        else:
            back = _product(np.swapaxes(matrix, -1, -2), cotangent[..., None], _matmul)[..., 0]
        places = self._places(layer)
        back = back.reshape(*shape[:3], places.shape[1], shape[-1])
        result = np.zeros((self.cells + 1, *shape[:2], shape[-1]), np.int64)
        np.add.at(result, places, np.moveaxis(back, (2, 3), (0, 1)))
        return np.moveaxis(result[: self.cells], 0, 2) % PRIME


def dense(
    widths: Sequence[int], activation: str = "identity", *, biases: bool = True, residual: bool = False
) -> Counted:
    """A dense network as `bbdfield.lattice.dense.DenseNetwork` has it, with relu or identity.

    Raises
    ------
    InputError
        for another activation, whose outputs are no polynomials, or blocks that do not fit their skip.
    """
    gated, last = _gated(activation), len(widths) - 2
    layers = []
    for i, (n_in, n_out) in enumerate(pairwise(widths)):
        closes = residual and i % 2 == 1
        if closes and n_out != widths[i - 1]:
            raise InputError(
                f"widths {list(widths)}: a block ends with {n_out} numbers that began with {widths[i - 1]};"
                " a skip connection needs as many"
            )
        active = gated and i < last and (i % 2 == 0 or not residual)
        layers.append(Layer((n_out, n_in), (n_out,) if biases else None, active, 2 if closes else 0))
    if not layers:
        raise InputError(f"widths {list(widths)}: a network needs two at least")
    return Counted(tuple(layers))


def convolutional(
    cells: int,
    channels: Sequence[int],
    taps: int,
    activation: str = "relu",
    *,
    tied: bool = True,
    biases: bool = True,
    padding: str = "zeros",
    outputs: int = 0,
) -> Counted:
    """Convolutions between `channels`, a bias for every cell, and, with `outputs`, a dense layer that reads all cells.

    Raises
    ------
    InputError
        for an activation whose outputs are no polynomials, an even number of taps, or fewer than two channel numbers.
    """
    gated = _gated(activation)
    if taps % 2 == 0 or len(channels) < 2:
        raise InputError(f"{taps} taps between channels {list(channels)}: needs an odd number, and two channel numbers")
    layers = []
    for i, (c_in, c_out) in enumerate(pairwise(channels)):
        kernel = (c_out, taps, c_in)
        active = gated and (outputs > 0 or i < len(channels) - 2)
        layers.append(Layer(kernel if tied else (cells, *kernel), (cells, c_out) if biases else None, active))
    if outputs:
        layers.append(Layer((outputs, cells * channels[-1]), (outputs,) if biases else None))
    return Counted(tuple(layers), cells, padding)


def _gated(activation: str) -> bool:
    if activation not in GATED:
        raise InputError(
            f"activation {activation!r}: the output is no polynomial in the parameters, so laws cannot be counted;"
            f" use one of {', '.join(GATED)}"
        )
    return GATED[activation]


# counting


@dataclass(frozen=True)
class Count:
    """parameters : D.   ranks : dim V(θ), then with brackets of one more level each.   laws : D − the last of them."""

    parameters: int
    ranks: tuple[int, ...]

    @property
    def laws(self) -> int:
        return self.parameters - self.ranks[-1]


def count_laws(network: Counted, seed: int = 0) -> Count:
    """Return how many independent functions of θ every gradient flow of the network conserves near a generic θ.

    Raises
    ------
    InputError
        for a network of more than 2,000 parameters, which would take hours.
    """
    size = network.parameters
    if size > 2000:
        raise InputError(f"a network of {size} parameters: laws are counted for 2000 at most; take a smaller one")
    rng = np.random.default_rng([seed, size])
    theta = rng.integers(1, PRIME, size, dtype=np.int64)
    span = Span(size)
    ranks: list[int] = []
    while True:
        level = len(ranks)
        while span.rank < size:
            batch = min(_BATCH, size - span.rank + _MARGIN)
            drawn = [network.draw(rng, batch) for _ in range(level + 1)]
            start = np.broadcast_to(theta, (1, batch, size))
            if span.add(nested_bracket(network, start, drawn)[0]) < batch:
                break
        ranks.append(span.rank)
        if span.rank == size or (level and ranks[-1] == ranks[-2]):
            return Count(size, tuple(ranks))


def nested_bracket(network: Counted, theta: Whole, drawn: Sequence[Sequence[Whole]]) -> Whole:
    """Return [X_k, [… [X_1, X_0]]] at θ (E, batch, D) for the gradient fields X_i that were drawn.

    [X, Z] = DZ·X − DX·Z, with the derivatives along X and Z from θ + ε X and θ + ε Z.
    """
    if len(drawn) == 1:
        return network.gradient(theta, drawn[0])
    outer, inner = drawn[-1], drawn[:-1]
    count = len(theta)
    along = np.concatenate([theta, network.gradient(theta, outer)])
    z = nested_bracket(network, along, inner)
    value, change = z[:count], z[count:]
    back = network.gradient(np.concatenate([theta, value]), outer)[count:]
    return (change - back) % PRIME


def linear_two_layers(n: int, r: int, m: int) -> int:
    """Laws of U Vᵀ, U (n, r), V (m, r), without biases: r(r+1)/2 if r <= N = n + m, else N r − N(N−1)/2."""
    total = n + m
    return r * (r + 1) // 2 if r <= total else total * r - total * (total - 1) // 2
