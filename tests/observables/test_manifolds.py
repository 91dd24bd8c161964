"""Invariant manifolds: projections against constraint matrices, tangency, ties bit for bit, reduced width, runs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from bbdfield.datasets import load_dataset
from bbdfield.errors import InputError
from bbdfield.fields.simulation import simulate
from bbdfield.lattice.dense import DenseNetwork, aligned_product, descend, draw_dense
from bbdfield.lattice.training import LatticeSystem, train
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import FieldState, Lattice, Rates, Training
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.losses import get_loss, prepare_targets
from bbdfield.model.ranges import Derivative, Kernel, Taps
from bbdfield.model.units import LatticeState, to_field, to_lattice
from bbdfield.observables import manifolds as sets
from bbdfield.observables.stepping import recorded
from bbdfield.observables.ties import (
    KINDS,
    Manifold,
    ReducedNetwork,
    Tie,
    dense_manifold,
    holds_for,
    lattice_manifold,
    listed,
    of_lattice,
    tied_lift,
)
from solvers.grids import Grid

# dense networks


def dense(widths=(5, 9, 7, 4), activation="tanh", biases=True, residual=False, seed=0):
    rng = np.random.default_rng(seed)
    w, b = draw_dense(widths, rng)
    b = [0.3 * rng.standard_normal(part.shape) for part in b] if biases else None
    x = rng.standard_normal((widths[0], 11))
    targets = prepare_targets("cross-entropy", rng.integers(0, widths[-1], 11), widths[-1])
    return DenseNetwork(get_activation(activation), get_loss("cross-entropy"), residual), w, b, x, targets


def flat(parameters) -> np.ndarray:
    return np.concatenate([np.asarray(part).ravel() for parts in parameters.values() for part in parts])


def constraints(parameters, groups) -> np.ndarray:
    """One row per equation Σ (coefficient × entry) = 0; groups: lists of (group, layer, index, coefficient)."""
    offsets, total = {}, 0
    for name, parts in parameters.items():
        for layer, part in enumerate(parts):
            offsets[name, layer] = total
            total += part.size
    rows = []
    for equation in groups:
        row = np.zeros(total)
        for name, layer, index, coefficient in equation:
            row[offsets[name, layer] + np.ravel_multi_index(index, parameters[name][layer].shape)] += coefficient
        rows.append(row)
    return np.array(rows)


def neuron_entries(parameters, layer, k):
    """Where everything of a neuron stands, by loops."""
    entries = [("w", layer, (k, j)) for j in range(parameters["w"][layer].shape[1])]
    entries += [("b", layer, (k,))] if "b" in parameters else []
    return entries + [("w", layer + 1, (j, k)) for j in range(parameters["w"][layer + 1].shape[0])]


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize(
    ("kind", "activation", "scales"),
    [
        ("equal", "gelu", (1, 1)),
        ("opposite", "tanh", (1, -1)),
        ("zero", "tanh", (0,)),
        ("proportional", "relu", (1, 2.7)),
    ],
)
def test_projection_tangent_and_distance_are_those_of_the_constraints(kind, activation, scales, biases):
    net, w, b, x, targets = dense(activation=activation, biases=biases)
    neurons = (4, 1)[: len(scales)]
    manifold = dense_manifold(net, w, b, kind, 1, neurons, scales if kind == "proportional" else None)
    parameters = listed(w, b)
    where = [neuron_entries(parameters, 1, k) for k in neurons]
    if kind == "zero":
        equations = [[(*entry, 1.0)] for entry in where[0]]
    else:
        equations = [[(*p, scales[1]), (*q, -scales[0])] for p, q in zip(*where, strict=True)]
    a = constraints(parameters, equations)
    along = np.eye(a.shape[1]) - a.T @ np.linalg.pinv(a @ a.T) @ a
    point = manifold.project(parameters)
    np.testing.assert_allclose(flat(point), along @ flat(parameters), atol=1e-14)
    assert manifold.distance(parameters) == pytest.approx(np.linalg.norm(flat(parameters) - along @ flat(parameters)))
    assert not manifold.tied(parameters) and manifold.distance(point) < 1e-15
    np.testing.assert_array_equal(parameters["w"][1], w[1])  # and the given ones are what they were
    _, g_w, g_b = net.loss_and_gradients(w, b, x, targets)
    gradient = listed(g_w, g_b)
    np.testing.assert_allclose(flat(manifold.tangent(gradient)), along @ flat(gradient), atol=1e-15)
    off = flat(gradient) - along @ flat(gradient)
    assert manifold.tangency(gradient) == pytest.approx(np.linalg.norm(off) / np.linalg.norm(flat(gradient)))


DENSE = [((5, 9, 4), 0, False), ((5, 9, 7, 4), 0, False), ((5, 9, 7, 4), 1, False), ((5, 9, 5, 8, 5, 4), 2, True)]


@pytest.mark.parametrize(("widths", "layer", "residual"), DENSE)
@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "identity", "softplus"])
def test_gradients_are_tangent_on_manifolds_and_not_on_the_non_example(widths, layer, residual, activation):
    net, w, b, x, targets = dense(widths, activation, residual=residual)
    for biases in (b, None):
        kinds = [kind for kind in KINDS if holds_for(kind, net.activation)]
        for kind in [*kinds, "inputs"]:
            neurons = (1,) if kind == "zero" else (0, 3, 6)
            scales = (1, 2.9, 0.3) if kind == "proportional" else None
            manifold = dense_manifold(net, w, biases, kind, layer, neurons, scales)
            point = manifold.project(listed(w, biases))
            _, g_w, g_b = net.loss_and_gradients(point["w"], point.get("b"), x, targets)
            found = manifold.tangency(listed(g_w, g_b))
            assert found > 1e-2 if kind == "inputs" else found <= 1e-14, (kind, found)


def test_three_neurons_of_linear_networks_may_be_opposite_multiples():
    net, w, b, x, targets = dense(activation="identity")
    manifold = dense_manifold(net, w, b, "proportional", 0, (0, 2, 5), (1.0, -0.7, 2.3))
    point = manifold.project(listed(w, b))
    _, g_w, g_b = net.loss_and_gradients(point["w"], point["b"], x, targets)
    assert manifold.tangency(listed(g_w, g_b)) <= 1e-14


def tangency_of(ties, activation="tanh"):
    """Of neurons 0 and 1 of the first layer, whose parts are tied by a factor each: (group, layer, axis, s)."""
    net, w, b, x, targets = dense(activation=activation)
    parts = [Manifold("by hand", (0, 1), (1.0, s), (Tie(group, layer, axis),)) for group, layer, axis, s in ties]
    point = listed(w, b)
    for part in parts:
        point = part.project(point)
    _, g_w, g_b = net.loss_and_gradients(point["w"], point["b"], x, targets)
    return math.hypot(*(part.tangency(listed(g_w, g_b)) for part in parts))


def test_the_bias_of_opposite_neurons_changes_its_sign():
    assert tangency_of([("w", 0, 0, -1.0), ("b", 0, 0, -1.0), ("w", 1, 1, -1.0)]) <= 1e-14
    assert tangency_of([("w", 0, 0, -1.0), ("b", 0, 0, 1.0), ("w", 1, 1, -1.0)]) > 1e-2
    assert tangency_of([("w", 0, 0, -1.0), ("b", 0, 0, -1.0), ("w", 1, 1, 1.0)]) > 1e-2


def test_outgoing_weights_of_proportional_neurons_have_the_factor_and_not_its_inverse():
    assert tangency_of([("w", 0, 0, 3.0), ("b", 0, 0, 3.0), ("w", 1, 1, 3.0)], "relu") <= 1e-14
    for other in (1 / 3.0, 1.0, -3.0):
        assert tangency_of([("w", 0, 0, 3.0), ("b", 0, 0, 3.0), ("w", 1, 1, other)], "relu") > 1e-2
    assert tangency_of([("w", 0, 0, 3.0), ("b", 0, 0, 3.0), ("w", 1, 1, 3.0)], "tanh") > 1e-2


def test_the_gradient_at_a_tied_point_is_that_of_torch():
    torch = pytest.importorskip("torch")
    net, w, b, x, targets = dense()
    manifold = dense_manifold(net, w, b, "opposite", 1, (0, 4))
    point = manifold.project(listed(w, b))
    _, g_w, g_b = net.loss_and_gradients(point["w"], point["b"], x, targets)
    ws, bs = ([torch.tensor(part, requires_grad=True) for part in point[name]] for name in ("w", "b"))
    a = torch.tensor(x)
    for layer, (weights, bias) in enumerate(zip(ws, bs, strict=True)):
        z = weights @ a + bias[:, None]
        a = torch.tanh(z) if layer < 2 else z
    torch.nn.functional.cross_entropy(a.T, torch.tensor(targets)).backward()
    found = {"w": [part.grad.numpy() for part in ws], "b": [part.grad.numpy() for part in bs]}
    np.testing.assert_allclose(flat(found), flat(listed(g_w, g_b)), atol=1e-15)
    assert manifold.tangency(found) <= 1e-14


@pytest.mark.parametrize(
    ("kind", "layer", "neurons", "scales", "message"),
    [
        ("opposite", 0, (0, 1), None, "'opposite' neurons need an odd activation, .* layer 0 has relu"),
        ("equal", 2, (0, 1), None, r"layer 2 is not hidden in a network of 3 layers; choose one of \[0, 1\]"),
        ("equal", 0, (0, 9), None, r"neurons of layer 0 are numbered 0 to 8, and \[0, 9\] are asked for"),
        ("equal", 0, (3, 3), None, r"'equal' needs 2 different neurons or more, not \[3, 3\]"),
        ("equal", 0, (3, 4), (1, 2), "'equal' has no scales to choose"),
        ("proportional", 0, (3, 4), (1, -2), r"'proportional' needs 2 scales > 0, one per neuron"),
        ("alike", 0, (3, 4), None, "'alike' is none of equal, opposite, zero, proportional"),
    ],
)
def test_what_is_no_manifold_is_refused(kind, layer, neurons, scales, message):
    net, w, b, *_ = dense(activation="relu")
    with pytest.raises(InputError, match=rf"^manifolds: {message}"):
        dense_manifold(net, w, b, kind, layer, neurons, scales)


def test_activations_have_what_they_have():
    table = {
        "tanh": {"equal", "opposite", "zero"},
        "relu": {"equal", "zero", "proportional"},
        "identity": set(KINDS),
        "sigmoid": {"equal"},
        "gelu": {"equal", "zero"},
    }
    for name, kinds in table.items():
        assert {kind for kind in KINDS if holds_for(kind, get_activation(name))} == kinds
    with pytest.raises(InputError, match=r"'zero' neurons need an activation with σ\(0\) = 0"):
        net, w, b, *_ = dense(activation="sigmoid")
        dense_manifold(net, w, b, "zero", 0, (1,))


def test_across_equal_neurons_only_errors_curve_the_loss():
    """The Gauss-Newton part of the Hessian vanishes across, so that with exact targets the loss is flat there."""
    rng = np.random.default_rng(0)
    w, b = draw_dense((5, 9, 4), rng)
    net, x = DenseNetwork(get_activation("tanh"), get_loss("mean-square")), rng.standard_normal((5, 11))
    point = dense_manifold(net, w, b, "equal", 0, (2, 6)).project(listed(w, b))
    shift, h = rng.standard_normal(5), 1e-5
    exact = net.logits(point["w"], point["b"], x).T
    for targets, flat_there in ((exact, True), (exact + rng.standard_normal(exact.shape), False)):
        curved = []
        for sign in (-1.0, 1.0):  # apart, and together
            slopes = []
            for step in (h, -h):
                moved = [np.array(part) for part in point["w"]]
                moved[0][2] += step * shift
                moved[0][6] += sign * step * shift
                _, g_w, _ = net.loss_and_gradients(moved, point["b"], x, targets)
                slopes.append(g_w[0][2] + sign * g_w[0][6])
            curved.append(float(np.linalg.norm(slopes[0] - slopes[1])) / (2 * h))
        assert (curved[0] < 1e-6 * curved[1]) == flat_there


# ties, bit for bit


def test_products_treat_equal_rows_and_columns_alike():
    """Sizes at which BLAS itself does not."""
    rng = np.random.default_rng(1)
    for rows, inner, columns in [
        (5, 10, 32),
        (10, 10, 100),
        (33, 64, 1),
        (3, 8, 1),
        (30, 40, 7),
        (64, 3, 9),
        (7, 7, 7),
    ]:
        row, matrix = rng.standard_normal(inner), rng.standard_normal((inner, columns))
        found = aligned_product(np.tile(row, (rows, 1)), matrix)
        assert (found == found[0]).all()
        np.testing.assert_allclose(found, np.tile(row, (rows, 1)) @ matrix, rtol=1e-13, atol=1e-14)
        column = rng.standard_normal((inner, 1))
        found = aligned_product(matrix.T, np.tile(column, (1, rows)))
        assert (found == found[:, :1]).all()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    ("activation", "kinds"), [("tanh", ("equal", "opposite", "zero")), ("relu", ("proportional",))]
)
def test_ties_of_dense_networks_stay_the_same_bits(activation, kinds, momentum):
    """Odd widths and a batch of 7, so that blocks of BLAS are incomplete; the non-example leaves."""
    net, w, b, *_ = dense((13, 31, 27, 10), activation)
    rng = np.random.default_rng(3)
    point = listed(w, b)
    places = [(0, 26), (3, 20), (5,)] if len(kinds) > 1 else [(0, 26)]
    ties = [dense_manifold(net, w, b, kind, 1, place) for kind, place in zip(kinds, places, strict=True)]
    loose = dense_manifold(net, w, b, "inputs", 1, (7, 25))
    for manifold in (*ties, loose):
        point = manifold.project(point)
    assert loose.tied(point)
    batches = [
        (rng.standard_normal((13, 7)), prepare_targets("cross-entropy", rng.integers(0, 10, 7), 10)) for _ in range(150)
    ]
    for step in descend(net, point["w"], point["b"], batches, 0.1, momentum=momentum):
        assert all(manifold.tied(listed(step.w, step.b)) for manifold in ties)
        assert not loose.tied(listed(step.w, step.b))
    assert [manifold.distance(listed(step.w, step.b)) for manifold in ties] == [0.0] * len(ties)
    assert loose.distance(listed(step.w, step.b)) > 0.01


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 6, 7, 9, 13, 17, 31, 33, 39, 64, 100])
def test_products_treat_equal_rows_and_columns_alike_at_many_sizes(rows):
    rng = np.random.default_rng(rows)
    for inner in (1, 3, 10, 17, 40, 65, 200):
        for columns in (1, 2, 5, 7, 9, 16, 33, 100):
            row, matrix = rng.standard_normal(inner), rng.standard_normal((inner, columns))
            found = aligned_product(np.tile(row, (rows, 1)), matrix)
            assert (found == found[0]).all(), (rows, inner, columns)
            column, matrix = rng.standard_normal((inner, 1)), rng.standard_normal((rows, inner))
            found = aligned_product(matrix, np.tile(column, (1, columns)))
            assert (found == found[:, :1]).all(), (rows, inner, columns)


# reduced width


def test_equal_neurons_are_one_neuron_by_the_formula_itself():
    """Σ over m copies of a σ(w·x + b) against √m β σ(ω·x/√m), by loops."""
    net, w, b, x, _ = dense((5, 9, 4))
    neurons = [1, 4, 8]
    point = dense_manifold(net, w, b, "equal", 0, neurons).project(listed(w, b))
    reduced, omega, beta = ReducedNetwork.of(net, point["w"], point["b"], {0: neurons})
    assert [part.shape for part in omega] == [(7, 5), (4, 7)]
    m, first = 3, 1
    np.testing.assert_allclose(omega[0][first], math.sqrt(m) * point["w"][0][1], rtol=1e-15)
    np.testing.assert_allclose(omega[1][:, first], math.sqrt(m) * point["w"][1][:, 1], rtol=1e-15)
    expected = np.zeros((4, 11))
    for s in range(11):
        for k in range(7):
            root = math.sqrt(m if k == first else 1)
            expected[:, s] += root * omega[1][:, k] * math.tanh((omega[0][k] @ x[:, s] + beta[0][k]) / root)
        expected[:, s] += beta[1]
    np.testing.assert_allclose(reduced.logits(omega, beta, x), expected, atol=1e-14)
    np.testing.assert_allclose(net.logits(point["w"], point["b"], x), expected, atol=1e-14)
    norms = [sum(float(np.sum(part**2)) for part in parts) for parts in ((*point["w"], *point["b"]), (*omega, *beta))]
    assert norms[0] == pytest.approx(norms[1], rel=1e-14)  # coordinates are orthonormal


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("biases", [True, False])
def test_the_reduced_network_trains_as_the_wide_one(momentum, biases):
    net, w, b, *_ = dense((13, 31, 27, 10), biases=biases)
    rng, groups = np.random.default_rng(3), {0: [0, 7, 8, 30], 1: [2, 3, 26]}
    point = listed(w, b)
    for layer, neurons in groups.items():
        point = dense_manifold(net, w, b, "equal", layer, neurons).project(point)
    reduced, omega, beta = ReducedNetwork.of(net, point["w"], point.get("b"), groups)
    batches = [
        (rng.standard_normal((13, 8)), prepare_targets("cross-entropy", rng.integers(0, 10, 8), 10)) for _ in range(500)
    ]
    wide = descend(net, point["w"], point.get("b"), batches, 0.05, momentum=momentum)
    for one, other in zip(wide, descend(reduced, omega, beta, batches, 0.05, momentum=momentum), strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-13)
    x = batches[0][0]
    np.testing.assert_allclose(net.logits(one.w, one.b, x), reduced.logits(other.w, other.b, x), atol=1e-13, rtol=0)
    _, again, _ = ReducedNetwork.of(net, one.w, one.b, groups)
    assert max(np.abs(p - q).max() for p, q in zip(again, other.w, strict=True)) <= 1e-13
    assert np.linalg.norm(one.w[0] - point["w"][0]) > 0.1


def test_neurons_that_differ_are_not_reduced():
    net, w, b, *_ = dense()
    with pytest.raises(InputError, match=r"^manifolds: neurons \[0, 1\] of layer 0 differ; project them first"):
        ReducedNetwork.of(net, w, b, {0: [0, 1]})


# distances and directions, by loops


def naive_pair(a, b, kind):
    size = math.sqrt(a @ a + b @ b)
    if kind != "proportional":
        s = 1 if kind == "equal" else -1
        return np.linalg.norm(a - s * b) / math.sqrt(2) / size
    tries = np.tan(np.linspace(0, math.pi / 2, 40_001)[:-1])
    return min(math.sqrt(max(0, a @ a - 2 * c * (a @ b) + c * c * (b @ b)) / (1 + c * c)) for c in (*tries, 1e9)) / size


@pytest.mark.parametrize("kind", ["equal", "opposite", "proportional"])
def test_pair_distances_by_loops(kind):
    rows = np.random.default_rng(0).standard_normal((4, 3))
    rows[3] = 2.5 * rows[1]
    found = sets.pair_distances(rows, kind)
    for i in range(4):
        for j in range(4):
            assert found[i, j] == pytest.approx(naive_pair(rows[i], rows[j], kind) if i != j else 0, abs=1e-4)
    if kind == "proportional":
        assert found[1, 3] < 1e-15
    assert (sets.pair_distances(np.repeat(rows[:1], 2, axis=0), "equal") == 0).all()


def test_directions_count_lines():
    assert sets.directions(np.eye(5)) == pytest.approx(5)
    assert sets.directions(np.outer([1, -2, 0.5], [1, 2, 3])) == pytest.approx(1)
    assert sets.directions(np.zeros((3, 2))) == 0
    rows = np.random.default_rng(0).standard_normal((6, 3))
    total = sum((a @ b / np.linalg.norm(a) / np.linalg.norm(b)) ** 2 for a in rows for b in rows)
    assert sets.directions(rows) == pytest.approx(36 / total)
    assert sets.cosines(rows)[1, 2] == pytest.approx(
        rows[1] @ rows[2] / np.linalg.norm(rows[1]) / np.linalg.norm(rows[2])
    )


def test_small_networks_condense():
    """On teacher data: 20 neurons of a small network come to point along few lines, those of an ordinary one do not."""
    rng, least = np.random.default_rng(0), {}
    x = rng.standard_normal((6, 64))
    targets = np.tanh(x[:1] + 0.5 * x[1:2]).T
    for gain in (0.01, 1.0):
        w, b = draw_dense((6, 20, 1), np.random.default_rng(1), gain)
        net = DenseNetwork(get_activation("tanh"), get_loss("mean-square"))
        steps = descend(net, w, b, [(x, targets)] * 400, 0.1, momentum=0.5)
        least[gain] = min(sets.directions(sets.neurons_of(step.w, None, 0, "inputs")) for step in steps)
    assert least[0.01] < 1.2 and least[1.0] > 3


# lattices


def lattice_of(scaling="residual", range_=None, activation="tanh", **changes):
    settings = {"padding": "circular", "scaling": scaling, "activation": activation, "outputs": 10, **changes}
    return Lattice(3, 8, 8, range_ or Taps(3, True), **settings)


RATES = {"plain": Rates(0.2, 0.05, 0.3)}


def system_on(lattice, manifolds, dynamics="sgd", backend="numpy", seed=0):
    damped = {"damping": 0.4} if dynamics == "heavy-ball" else {}
    rates = RATES.get(lattice.scaling, Rates(2.0, 0.3, 0.5))
    training = Training(60, 12, rates, step=0.25, seed=seed, probe=2, snapshot_every=20, dynamics=dynamics, **damped)
    boundary = Boundary.draw(load_dataset("mnist1d"), lattice, training)
    mean = {"mean": (0.1,) * lattice.range.components(lattice.grid).size} if lattice.scaling == "critical" else {}
    drawn = InitialFields(lattice, seed, weight=1.5, bias=0.5, correlation_u=0.2, **mean)
    state = to_lattice(drawn.on(lattice.grid, lattice))
    for manifold in manifolds:
        boundary = dataclasses.replace(boundary, lift=tied_lift(boundary.lift, manifold))
        point = manifold.project(of_lattice({"w": state.w, "b": state.b, "r": state.r}, boundary.lift))
        state = LatticeState(point["w"], point["b"], point["r"][0])
    return LatticeSystem(lattice, boundary, state, backend=backend)


def all_of(system):
    return of_lattice(dict(zip("wbr", system.u, strict=True)), system.boundary.lift)


def gradient_of(system):
    _, (w, b, r) = system.gradient(system.u, np.arange(40))
    return of_lattice({"w": w, "b": b, "r": r}, np.zeros_like(system.boundary.lift))


@pytest.mark.parametrize(
    ("lattice", "site"),
    [
        (lattice_of(), None),
        (lattice_of(range_=Kernel(3 / 16, tied=True)), None),
        (lattice_of(range_=Taps(3), padding="zeros"), None),
        (lattice_of(range_=Kernel(3 / 16, tied=False), activation="relu"), None),
        (lattice_of(range_=Derivative(length=0.05)), None),
        (lattice_of("critical"), None),
        (lattice_of("plain"), None),
        (lattice_of("plain"), 1),
        (lattice_of("plain", range_=Taps(3), activation="relu"), 2),
        (lattice_of("plain", activation="relu"), 3),
    ],
)
def test_channels_have_the_same_manifolds(lattice, site):
    last = site == lattice.depth
    kinds = list(KINDS) if last else [kind for kind in KINDS if holds_for(kind, get_activation(lattice.activation))]
    for kind in [*kinds, "inputs"]:
        channels = (5,) if kind == "zero" else (1, 6)
        scales = (1.0, 1.7) if kind == "proportional" else None
        manifold = lattice_manifold(lattice, kind, channels, site, scales)
        system = system_on(lattice, [manifold])
        assert manifold.distance(all_of(system)) < 1e-14
        found = manifold.tangency(gradient_of(system))
        assert found > 1e-2 if kind == "inputs" else found <= 1e-14, (kind, found)


def test_the_lift_belongs_to_a_channel_behind_skips():
    lattice = lattice_of()
    bare = lattice_manifold(lattice, "equal", (1, 6), lift=False)
    assert bare.tangency(gradient_of(system_on(lattice, [bare]))) > 1e-2
    whole = lattice_manifold(lattice, "equal", (1, 6))
    lift = system_on(lattice, [whole]).boundary.lift
    assert lift[1] == lift[6] and np.sum(lift**2) == pytest.approx(8)


def test_joint_projection_by_loops():
    """Rows and columns i, j of every layer: the nearest point by the pseudo-inverse of all its equations."""
    lattice = Lattice(2, 3, 3, Taps(3, True), outputs=2, readout_modes=1, padding="circular")
    rng = np.random.default_rng(0)
    state = {
        "w": rng.standard_normal((2, 3, 3, 3)),
        "b": rng.standard_normal((2, 3, 3)),
        "r": rng.standard_normal((2, 3, 1)),
    }
    parameters = of_lattice(state, rng.standard_normal((3, 1)))
    for kind, s in (("equal", 1.0), ("opposite", -1.0)):
        i, j, equations = 0, 2, []
        for m in range(2):
            for c in range(3):
                for u in range(3):
                    equations.append([("w", m, (i, u, c), 1.0), ("w", m, (j, u, c), -s)])
                    equations.append([("w", m, (c, u, i), 1.0), ("w", m, (c, u, j), -s)])
            equations += [[("b", m, (y, i), 1.0), ("b", m, (y, j), -s)] for y in range(3)]
        equations += [[("r", 0, (k, i, 0), 1.0), ("r", 0, (k, j, 0), -s)] for k in range(2)]
        equations.append([("lift", 0, (i, 0), 1.0), ("lift", 0, (j, 0), -s)])
        a = constraints(parameters, equations)
        nearest = flat(parameters) - np.linalg.pinv(a) @ (a @ flat(parameters))
        manifold = lattice_manifold(lattice, kind, (i, j))
        np.testing.assert_allclose(flat(manifold.project(parameters)), nearest, atol=1e-14)
        assert manifold.distance(parameters) == pytest.approx(np.linalg.norm(nearest - flat(parameters)), rel=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("dynamics", ["sgd", "heavy-ball"])
@pytest.mark.parametrize("scaling", ["residual", "plain"])
def test_ties_of_channels_stay_the_same_bits(scaling, dynamics, backend):
    lattice = lattice_of(scaling)
    ties = [
        lattice_manifold(lattice, kind, at) for kind, at in (("equal", (0, 7)), ("opposite", (1, 6)), ("zero", (2,)))
    ]
    loose = lattice_manifold(lattice, "inputs", (3, 5))
    system = system_on(lattice, [*ties, loose], dynamics, backend)
    for k in range(60):
        system.step(k)
        assert all(manifold.tied(all_of(system)) for manifold in ties)
    assert [manifold.distance(all_of(system)) for manifold in ties] == [0.0, 0.0, 0.0]
    assert loose.distance(all_of(system)) > 0.01


def test_the_critical_scaling_keeps_ties_to_rounding():
    """The identity is added to one weight of two, so that sums have another order."""
    lattice = lattice_of("critical")
    manifold = lattice_manifold(lattice, "equal", (0, 7))
    system = system_on(lattice, [manifold])
    before = np.array(system.u[0])
    for k in range(60):
        system.step(k)
    assert manifold.distance(all_of(system)) < 1e-13
    assert np.linalg.norm(system.u[0] - before) > 0.01


def test_exchanging_two_channels_leaves_one_number_free_which_is_conserved():
    lattice = lattice_of()
    manifold = lattice_manifold(lattice, "equal", (0, 7))
    system = system_on(lattice, [manifold])
    w, b, r = (np.array(part) for part in system.u)
    shift = np.random.default_rng(0).standard_normal((3, 3))
    for i, j in ((0, 0), (7, 7)):
        w[:, i, :, j] += 0.1 * shift
    system.load({"w": w, "b": b, "r": r})
    for k in range(60):
        system.step(k)
    moved = system.u[0]
    np.testing.assert_allclose(moved[:, 0, :, 0], moved[:, 7, :, 7], atol=1e-13)
    np.testing.assert_allclose(moved[:, 0, :, 7], moved[:, 7, :, 0], atol=1e-13)
    np.testing.assert_allclose(moved[:, 0, :, 0] - moved[:, 0, :, 7], 0.1 * shift, atol=1e-13)
    assert np.linalg.norm(moved - w) > 0.01


@pytest.mark.parametrize(
    ("lattice", "kind", "channels", "site", "message"),
    [
        (lattice_of(), "equal", (0, 1), 1, 'with scaling = "residual" a channel is one through all depths'),
        (lattice_of("plain"), "equal", (0, 1), 0, "hidden sites are 1 to 3, and site 0 is asked for"),
        (lattice_of(activation="relu"), "opposite", (0, 1), None, "'opposite' neurons need an odd .* has relu"),
        (lattice_of(), "equal", (0, 8), None, "channels are numbered 0 to 7"),
    ],
)  # fmt: skip
def test_channels_without_manifold_are_refused(lattice, kind, channels, site, message):
    with pytest.raises(InputError, match=rf"^manifolds: {message}"):
        lattice_manifold(lattice, kind, channels, site)


def test_channel_distances_are_those_of_the_manifold():
    """In a lattice of unit cells hats are bare, so that norms agree; over what belongs to the two channels."""
    lattice = Lattice(
        2, 3, 3, Taps(3, True), outputs=2, readout_modes=1, padding="circular", length_x=2.0, length_y=3.0
    )
    rng = np.random.default_rng(0)
    state = LatticeState(*(rng.standard_normal(shape) for shape in ((2, 3, 3, 3), (2, 3, 3), (2, 3, 1))))
    lift = rng.standard_normal((3, 1))
    parameters = of_lattice({"w": state.w, "b": state.b, "r": state.r}, lift)
    fields = to_field(lattice, state)
    for kind in ("equal", "opposite"):
        found = sets.channel_distances(fields, lift, kind)
        for i in range(3):
            for j in range(3):
                if i == j:
                    assert found[i, i] == 0
                    continue
                mine = np.zeros((2, 3, 3, 3), bool)
                mine[:, [i, j]] = True
                mine[:, :, :, [i, j]] = True
                size = np.sum(state.w[mine] ** 2) + sum(
                    np.sum(part**2) for part in (state.b[..., [i, j]], state.r[:, [i, j]], lift[[i, j]])
                )
                expected = lattice_manifold(lattice, kind, (i, j)).distance(parameters) / math.sqrt(size)
                assert found[i, j] == pytest.approx(expected, rel=1e-12)
    shares = sets.channel_distances(fields, lift, "zero")
    assert np.mean(shares**2) == pytest.approx(1)


def test_channel_distances_weigh_fields_by_their_cells():
    """∫|ŵ|² + ∫|b̂|² + |R|² + |E|², by loops over cells that are neither units nor squares; R and E are points."""
    rng = np.random.default_rng(0)
    for tied in (True, False):
        lattice = Lattice(
            2, 3, 3, Taps(3, tied), outputs=2, readout_modes=1, padding="circular", length_x=1.2, length_y=0.9
        )
        h_x, h_y = 0.6, 0.3
        shapes = ((2, 3, 3, 3) if tied else (2, 3, 3, 3, 3), (2, 3, 3), (2, 3, 1))
        w, b, r = (rng.standard_normal(shape) for shape in shapes)
        lift = rng.standard_normal((3, 1))
        fields = FieldState(lattice, lattice.grid, w, b, r)
        cell = h_x * (1.0 if tied else h_y)
        parameters = of_lattice({"w": math.sqrt(cell) * w, "b": math.sqrt(h_x * h_y) * b, "r": r}, lift)
        i, j, size = 0, 2, 0.0
        for m in range(2):
            for y in range(3):
                size += h_x * h_y * (b[m, y, i] ** 2 + b[m, y, j] ** 2)
            for row, u, column in np.ndindex(3, 3, 3):
                if {row, column} & {i, j}:
                    for y in range(1 if tied else 3):
                        size += cell * (w[m, row, u, column] if tied else w[m, y, row, u, column]) ** 2
        size += np.sum(r[:, [i, j]] ** 2) + np.sum(lift[[i, j]] ** 2)
        expected = lattice_manifold(lattice, "equal", (i, j)).distance(parameters) / math.sqrt(size)
        assert sets.channel_distances(fields, lift, "equal")[i, j] == pytest.approx(expected, rel=1e-12)


def test_distances_of_fields_do_not_depend_on_their_grid():
    """Fields that are constant in x and y, on 2 × 3 and on 6 × 12 points."""
    lattice = Lattice(2, 3, 4, Taps(3, True), outputs=2, readout_modes=1, padding="circular")
    rng = np.random.default_rng(0)
    w, b, r, lift = (rng.standard_normal(shape) for shape in ((4, 3, 4), 4, (2, 4, 1), (4, 1)))
    found = []
    for grid in (Grid(2, 3), Grid(6, 12)):
        state = FieldState(lattice, grid, np.tile(w, (grid.n_x, 1, 1, 1)), np.tile(b, (grid.n_x, grid.n_y, 1)), r)
        found.append(sets.channel_distances(state, lift, "equal"))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


def test_distances_of_proportional_channels_off_the_manifold():
    """The factor by trying many; then the distance to the manifold with that factor, in unit cells."""
    lattice = Lattice(
        2, 3, 3, Taps(3, True), outputs=2, readout_modes=1, padding="circular", activation="relu",
        length_x=2.0, length_y=3.0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    state = LatticeState(*(rng.standard_normal(shape) for shape in ((2, 3, 3, 3), (2, 3, 3), (2, 3, 1))))
    lift = rng.standard_normal((3, 1))
    parts = of_lattice({"w": state.w, "b": state.b, "r": state.r}, lift)
    for row, factor in ((0, 3.0), (1, 0.4)):  # channels near multiples of channel 2, larger and smaller
        for values, axis in ((state.w, 1), (state.w, 3), (state.b, 2), (state.r, 1), (lift, 0)):
            moved = np.moveaxis(values, axis, 0)
            moved[row] = 0.3 * moved[row] + factor * moved[2]
    found = sets.channel_distances(to_field(lattice, state), lift, "proportional")
    for i, j in ((0, 1), (0, 2), (1, 2)):
        rows, sizes = [], []
        for k in (i, j):
            column = np.array(state.w[..., k])
            column[:, k] = 0.0  # the weight k, k counts once
            rows.append(
                np.concatenate([x.ravel() for x in (state.w[:, k], column, state.b[..., k], state.r[:, k], lift[k])])
            )
            sizes.append(rows[-1] @ rows[-1])
        size = sum(sizes) - np.sum(state.w[:, i, :, j] ** 2) - np.sum(state.w[:, j, :, i] ** 2)
        assert rows[0] @ rows[1] > 0
        tries = np.tan(np.linspace(1e-3, math.pi / 2 - 1e-3, 20_001))
        off = [sizes[0] - 2 * c * (rows[0] @ rows[1]) + c * c * sizes[1] for c in tries] / (1 + tries**2)
        c = float(tries[np.argmin(off)])
        manifold = lattice_manifold(lattice, "proportional", (i, j), None, (c, 1.0))
        assert c > 1.2 or c < 0.8
        assert found[i, j] == pytest.approx(manifold.distance(parts) / math.sqrt(size), rel=1e-3)
        assert found[j, i] == found[i, j] > 0.02


def test_proportional_channels_are_found():
    lattice = lattice_of(activation="relu")
    manifold = lattice_manifold(lattice, "proportional", (2, 5), None, (1.0, 2.0))
    system = system_on(lattice, [manifold])
    fields = to_field(lattice, LatticeState(*system.u))
    found = sets.channel_distances(fields, system.boundary.lift, "proportional")
    assert found[2, 5] < 1e-14
    found[2, 5] = found[5, 2] = 1
    assert found[np.triu_indices(8, 1)].min() > 0.05


# what does not depend on y


def uniform_problem(modes=1, padding="circular", tied=True):
    given = load_dataset("mnist1d").as_channels()
    data = dataclasses.replace(
        given, x=np.repeat(given.x[:60], 8, axis=2), y=given.y[:60],
        x_test=np.repeat(given.x_test[:9], 8, axis=2), y_test=given.y_test[:9],
    )  # fmt: skip
    lattice = Lattice(3, 8, 4, Taps(3, tied=tied), data_channels=40, padding=padding, readout_modes=4)
    training = Training(40, 12, Rates(2.0, 0.3, 0.5), step=0.1, probe=3, snapshot_every=10)
    drawn = InitialFields(lattice, 0, weight=1.5, bias=0.5).on(lattice.grid, lattice)
    parts = sets.invariant_start({"w": drawn.w, "b": drawn.b, "r": drawn.r}, tied)
    if modes > 1:
        parts["r"] = np.array(drawn.r)
    return data, lattice, training, FieldState(lattice, lattice.grid, parts["w"], parts["b"], parts["r"])


@pytest.mark.parametrize("tied", [True, False])
def test_fields_that_do_not_depend_on_y_stay_so(tmp_path, tied):
    data, lattice, training, start = uniform_problem(tied=tied)
    boundary = Boundary.draw(data, lattice, training)
    runs = [
        train(lattice, data, training, initial=to_lattice(start), out=tmp_path / "lattice.h5"),
        *(simulate(start, boundary, order=n, out=tmp_path / f"field{n}.h5") for n in (0, 1)),
    ]
    for run in runs:
        with run:
            observed = sets.observe(run)
            assert observed.summary["invariant_in_y"] is True and "nothing keeps it" not in observed.told[-1]
            found = observed.values()
            assert found["manifolds_translation"].max() < 1e-14
            assert found["manifolds_translation_z"].max() < 1e-13
            assert np.abs(run.fields(-1).w - start.w).max() > 1e-2


WHY = {
    "modes": "the readout starts with more modes than its first",
    "padding": "zeros padding has edges",
    "wave": "b depends on y at the first snapshot",
    "weights": "w depends on y at the first snapshot",
}


@pytest.mark.parametrize("breaking", list(WHY))
def test_what_breaks_it(tmp_path, breaking):
    data, lattice, training, start = uniform_problem(
        modes=4 if breaking == "modes" else 1,
        padding="zeros" if breaking == "padding" else "circular",
        tied=breaking != "weights",
    )
    if breaking == "weights":
        wave = 1e-2 * np.cos(2 * np.pi * lattice.grid.y)
        start = dataclasses.replace(start, w=start.w * (1 + wave[:, None, None, None]))
    if breaking == "wave":
        start = dataclasses.replace(start, b=start.b + 1e-3 * np.cos(2 * np.pi * lattice.grid.y)[:, None])
    with simulate(start, Boundary.draw(data, lattice, training), out=tmp_path / "field.h5") as run:
        observed = sets.observe(run)
        assert observed.values()["manifolds_translation_z"][-1] > 1e-4
        assert observed.summary["invariant_in_y"] is False
        assert observed.told[-1].endswith(f"nothing keeps it, since {WHY[breaking]}")


def test_translation_distance_by_loops():
    rng = np.random.default_rng(0)
    shapes = {"w": (2, 4, 3, 3, 3), "b": (2, 4, 3), "r": (5, 3, 2)}
    state = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    total = sum(
        (state[name][m, y] - sum(state[name][m, i] for i in range(4)) / 4).ravel() @
        (state[name][m, y] - sum(state[name][m, i] for i in range(4)) / 4).ravel()
        for name in ("w", "b") for m in range(2) for y in range(4)
    ) + np.sum(state["r"][:, :, 1] ** 2)  # fmt: skip
    size = sum(np.sum(part**2) for part in state.values())
    assert sets.translation_distance(state, tied=False) == pytest.approx(math.sqrt(total / size))
    assert sets.translation_distance(sets.invariant_start(state, tied=False), tied=False) < 1e-16


# recorded runs


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Train a lattice into a file."""

    def made(lattice, steps=12):
        training = Training(
            steps, 8, RATES.get(lattice.scaling, Rates(2.0, 0.3, 0.5)), step=0.2, probe=3, snapshot_every=4
        )
        out = tmp_path_factory.mktemp("run") / "lattice.h5"
        start = InitialFields(lattice, 0, weight=1.5, bias=0.3)
        return train(lattice, load_dataset("mnist1d"), training, initial=start, out=out)

    return made


@pytest.mark.parametrize(("scaling", "activation"), [("residual", "tanh"), ("plain", "relu"), ("critical", "tanh")])
def test_a_run_is_observed(run_of, scaling, activation):
    with run_of(lattice_of(scaling, activation=activation)) as run:
        seen = []
        observed = sets.observe(run, lambda *told: seen.append(told))
        steps = recorded(run, sets.Steps)
        found = observed.values()
        kinds = {"equal", "opposite", "zero"} if activation == "tanh" else {"equal", "zero", "proportional"}
        assert {f"manifolds_{kind}" for kind in kinds} < set(found) and len(seen) == 4
        assert found["manifolds_equal"].shape == (4, 8, 8)
        assert observed.arrays["manifolds_zero"][0] == ("t", "manifolds_channel")
        pairs = [found[f"manifolds_{kind}"][:, *np.triu_indices(8, 1)].min(axis=1) for kind in kinds - {"zero"}]
        np.testing.assert_array_equal(steps["manifolds_distance"][[3, 7, 11]], np.min(pairs, axis=0)[1:])
        np.testing.assert_array_equal(steps["manifolds_translation"][[3, 7, 11]], found["manifolds_translation"][1:])
        assert observed.summary["equal"]["last"] == found["manifolds_equal"][-1][np.triu_indices(8, 1)].min()
        i, j = observed.summary["equal"]["pair"]
        state = run.fields(3)
        if scaling == "plain":
            expected = [sets.channel_distances(state, run.boundary.lift, "equal", m)[i, j] for m in (1, 2)]
            assert observed.summary["equal"]["last"] == min(expected)
        missing = "proportional" if activation == "tanh" else "opposite"
        assert f"{activation} has no {missing} channels" in observed.told
        assert observed.told[-1].endswith("nothing keeps it, since the inputs depend on y")
        assert all("\n" not in line for line in observed.told)


def test_one_channel_has_no_pairs(run_of):
    with run_of(Lattice(3, 8, 1, Taps(3, True), padding="circular")) as run:
        observed = sets.observe(run)
        assert set(observed.arrays) == {"manifolds_translation", "manifolds_translation_z"}
        assert "one channel: there are no pairs that could be equal" in observed.told
        with pytest.raises(InputError, match=r"^the network has one channel, so it has no pairs; use"):
            recorded(run, sets.Steps)
