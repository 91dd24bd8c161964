"""Counting laws: against polynomials written out, against the table, against torch; and what cannot be counted."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pytest
import torch

from bbdfield.errors import InputError
from bbdfield.observables.lie import (
    PRIME,
    Counted,
    Layer,
    Span,
    convolutional,
    count_laws,
    dense,
    linear_two_layers,
    nested_bracket,
)

# The slow way: polynomials as {exponents: coefficient}, every component of φ, every bracket.

Polynomial = dict[tuple[int, ...], int]
Field = list[Polynomial]


def derivative(f: Polynomial, i: int) -> Polynomial:
    result: Polynomial = {}
    for powers, coefficient in f.items():
        if powers[i]:
            lower = (*powers[:i], powers[i] - 1, *powers[i + 1 :])
            result[lower] = result.get(lower, 0) + coefficient * powers[i]
    return result


def add_product(total: Polynomial, a: Polynomial, b: Polynomial, sign: int) -> None:
    for (p, x), (q, y) in itertools.product(a.items(), b.items()):
        key = tuple(i + j for i, j in zip(p, q, strict=True))
        total[key] = total.get(key, 0) + sign * x * y


def bracket(x: Field, y: Field) -> Field:
    """[X, Y] = DY·X − DX·Y."""
    result: Field = []
    for k in range(len(x)):
        total: Polynomial = {}
        for i in range(len(x)):
            add_product(total, derivative(y[k], i), x[i], 1)
            add_product(total, derivative(x[k], i), y[i], -1)
        result.append({powers: value for powers, value in total.items() if value})
    return result


def at(f: Polynomial, theta: list[int]) -> int:
    total = 0
    for powers, coefficient in f.items():
        for value, power in zip(theta, powers, strict=True):
            coefficient = coefficient * pow(value, power, PRIME) % PRIME
        total += coefficient
    return total % PRIME


def naive_ranks(phi: Iterable[Polynomial], size: int) -> list[int]:
    """dim V, then with all brackets of one more level each, until nothing is added."""
    theta = [int(v) for v in np.random.default_rng(1).integers(1, PRIME, size)]
    first = [[derivative(f, i) for i in range(size)] for f in phi]
    span, ranks, level = Span(size), [], first
    while True:
        span.add(np.array([[at(part, theta) for part in field] for field in level]))
        ranks.append(span.rank)
        if len(ranks) > 1 and ranks[-1] == ranks[-2]:
            return ranks
        level = [bracket(x, y) for x in first for y in level]


def variable(i: int, size: int) -> Polynomial:
    return {tuple(int(j == i) for j in range(size)): 1}


def products(widths: list[int]) -> tuple[list[Polynomial], int]:
    """Every entry of W_L … W_1."""
    size = sum(a * b for a, b in itertools.pairwise(widths))
    first, found = 0, [[{(0,) * size: 1} if i == j else {} for j in range(widths[0])] for i in range(widths[0])]
    for n_in, n_out in itertools.pairwise(widths):
        following: list[list[Polynomial]] = [[{} for _ in range(widths[0])] for _ in range(n_out)]
        for i, j, k in itertools.product(range(n_out), range(n_in), range(widths[0])):
            add_product(following[i][k], variable(first + i * n_in + j, size), found[j][k], 1)
        first, found = first + n_in * n_out, following
    return [f for row in found for f in row], size


def paths(widths: list[int], biases: bool) -> tuple[list[Polynomial], int]:
    """Every path's product of weights, times the bias where it begins inside; θ = W, b of every layer in turn."""
    offsets, size = [], 0
    for n_in, n_out in itertools.pairwise(widths):
        offsets.append((size, size + n_in * n_out))
        size += n_in * n_out + (n_out if biases else 0)
    found = []
    for begin in range(len(widths) if biases else 1):
        for nodes in itertools.product(*map(range, widths[begin:])):
            powers = [0] * size
            if begin:
                powers[offsets[begin - 1][1] + nodes[0]] += 1
            for layer, (i, j) in enumerate(itertools.pairwise(nodes), start=begin):
                powers[offsets[layer][0] + j * widths[layer] + i] += 1
            found.append({tuple(powers): 1})
    return found, size


@pytest.mark.parametrize("widths", [[2, 2, 2, 2], [2, 1, 2], [1, 3, 1], [1, 3, 2], [1, 2, 2, 1]])
def test_linear_networks_have_the_ranks_of_all_brackets_written_out(widths):
    phi, size = products(widths)
    assert list(count_laws(dense(widths, biases=False)).ranks) == naive_ranks(phi, size)


@pytest.mark.parametrize(("widths", "biases"), [([2, 2, 1], True), ([2, 3, 2], False), ([1, 2, 2, 1], True)])
def test_gates_span_what_all_paths_do(widths, biases):
    phi, size = paths(widths, biases)
    assert list(count_laws(dense(widths, "relu", biases=biases)).ranks) == naive_ranks(phi, size)


def test_a_network_with_rank_alone_would_have_more_laws():
    """D − dim V is 8 for 2–2–2–2: brackets matter."""
    found = count_laws(dense([2, 2, 2, 2], biases=False))
    assert (found.parameters - found.ranks[0], found.laws) == (8, 6)


# the table


@pytest.mark.parametrize(
    ("network", "laws"),
    [
        (dense([2, 2, 2, 2], biases=False), 6),
        (dense([3, 4, 4, 2], biases=False), 20),
        (dense([3, 4, 2]), 10),
        (dense([3, 5, 2], "relu", biases=False), 5),
        (dense([3, 5, 2], "relu"), 5),
        (dense([4, 5, 6, 3], "relu"), 11),
        (dense([10, 10, 10, 10], "relu"), 20),
        (dense([3, 4, 3], "relu", residual=True), 4),
        (dense([3, 2, 3, 2, 3, 2], residual=True), 6),
        (convolutional(6, [2, 3, 2], 3, biases=False), 3),
        (convolutional(6, [2, 3, 2], 3, padding="reflect"), 3),
        (convolutional(6, [1, 3, 4, 2], 3, padding="circular"), 7),
        (convolutional(6, [2, 3, 2], 3, "identity"), 6),
        (convolutional(5, [1, 3], 3, outputs=2), 3),
        (convolutional(5, [1, 2, 2], 3, tied=False, padding="circular"), 10),
    ],
)  # fmt: skip
def test_counts_are_those_of_the_table(network, laws):
    assert count_laws(network).laws == laws


@pytest.mark.parametrize(("n", "r", "m"), [(2, 2, 2), (3, 1, 3), (2, 4, 2), (1, 2, 1), (1, 4, 2), (2, 5, 2), (1, 5, 1)])
def test_two_linear_layers_of_any_width(n, r, m):
    """Both sides of r = n + m, and equal at it."""
    assert count_laws(dense([m, r, n], biases=False)).laws == linear_two_layers(n, r, m)
    total = n + m
    assert linear_two_layers(n, total, m) == total * (total + 1) // 2


def test_untied_weights_that_read_nothing_are_laws_of_their_own():
    """With zero padding the outer taps of the edge cells never move: 4 + 8 of them here, beside 10 laws of neurons."""
    assert count_laws(convolutional(5, [1, 2, 2], 3, tied=False)).laws == 10 + 12


def test_a_fixed_lift_leaves_weights_unmoved():
    """Of 2 channels that one data channel was lifted to, the kernel's part orthogonal to the lift is constant."""
    free = convolutional(5, [2, 3, 2], 3, biases=False)
    lifted = Counted(free.layers, free.cells, free.padding, lift=np.array([[3], [5]]))
    assert (count_laws(free).laws, count_laws(lifted).laws) == (3, 3 + 3 * 3)


def test_moments_stand_between_the_cells_and_a_dense_readout():
    """The matrix law of 3 channels, 6 numbers; of biases of 5 cells, seen through 2 moments, 3 parts never move."""
    kernel = Layer((3, 3, 2), (5, 3))
    network = Counted((kernel, Layer((4, 6))), 5, moments=np.arange(10).reshape(2, 5) ** 2 + 1)
    assert count_laws(network).laws == 6 + 3 * 3


# the arithmetic


@pytest.mark.parametrize("padding", ["zeros", "circular", "reflect"])
@pytest.mark.parametrize("tied", [True, False])
def test_gradients_are_those_of_torch(padding, tied):
    """Small whole numbers are exact in float64: the same polynomial by torch's own back-propagation."""
    network = convolutional(4, [2, 3, 2], 3, tied=tied, padding=padding, outputs=2)
    rng = np.random.default_rng(4)
    theta = rng.integers(-3, 4, network.parameters)
    drawn = [part % 5 for part in network.draw(rng, 1)]
    found = network.gradient(theta[None, None] % PRIME, drawn)[0, 0]
    t = torch.tensor(theta.astype(float), requires_grad=True)
    w, b = network.split(t)
    h = torch.tensor(drawn[0][0].astype(float))
    for layer, w_l, b_l, gates in zip(network.layers, w, b, drawn[1:-1], strict=True):
        if w_l.ndim == 2:
            h = w_l @ h.reshape(-1) + b_l
        else:
            edge = {"zeros": torch.zeros(1, h.shape[1]), "circular": None, "reflect": None}[padding]
            first, last = (
                (edge, edge) if edge is not None else (h[-1:], h[:1]) if padding == "circular" else (h[:1], h[-1:])
            )
            seen = torch.cat([first, h, last])
            patches = torch.stack([seen[u : u + 4] for u in range(3)], dim=1)
            h = torch.einsum("ouc,yuc->yo" if w_l.ndim == 3 else "youc,yuc->yo", w_l, patches) + b_l
        if layer.gated:
            h = h * torch.tensor(gates[0].astype(float))
    (h * torch.tensor(drawn[-1][0].astype(float))).sum().backward()
    assert t.grad is not None
    assert np.array_equal(found, t.grad.numpy().astype(np.int64) % PRIME)


def test_brackets_are_antisymmetric_and_satisfy_jacobi():
    network = dense([2, 3, 2, 2], "relu", residual=False)
    rng = np.random.default_rng(0)
    x, y, z = (network.draw(rng, 2) for _ in range(3))
    theta = np.broadcast_to(rng.integers(1, PRIME, network.parameters), (1, 2, network.parameters))

    def of(*fields):
        """[fields[-1], [… [fields[1], fields[0]]]]"""
        return nested_bracket(network, theta, fields)[0]

    assert of(x, y).any() and not ((of(x, y) + of(y, x)) % PRIME).any()
    assert of(x, y, z).any()
    assert not ((of(x, y, z) + of(y, z, x) + of(z, x, y)) % PRIME).any()


def test_span_has_the_rank_of_its_rows():
    rng = np.random.default_rng(2)
    rows = rng.integers(-9, 10, (7, 3)) @ rng.integers(-9, 10, (3, 10))
    span = Span(10)
    assert span.add(rows[:2]) == 2 and span.add(rows) == 1 and span.add(rows) == 0
    assert span.rank == np.linalg.matrix_rank(rows) == 3


# refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dense([2, 3, 2], "tanh"), "no polynomial"),
        (lambda: dense([2]), "needs two"),
        (lambda: dense([2, 3, 4], residual=True), "skip connection"),
        (lambda: convolutional(5, [1, 2], 2), "odd number"),
        (lambda: count_laws(dense([50, 40, 10])), "2000 at most"),
    ],
)
def test_what_cannot_be_counted_is_refused_in_one_line(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
