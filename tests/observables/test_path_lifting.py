"""Path-lifting against a walk over every path, networks rebuilt from it, and what recovers the parameters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.lattice.dense import DenseNetwork, draw_dense
from bbdfield.model.activations import get_activation
from bbdfield.model.losses import get_loss
from bbdfield.observables.path_lifting import (
    Paths,
    flatten,
    laws,
    laws_jacobian,
    product_jacobian,
    recoverability,
    recoverable,
    unflatten,
)

NETWORKS = [((3, 4, 2), True), ((2, 3, 3, 2), True), ((2, 3, 2, 1, 3), False), ((2, 2, 2, 2), True), ((3, 2), True)]


def drawn(widths, biases, seed=0):
    rng = np.random.default_rng(seed)
    w, b = draw_dense(widths, rng, gain=1.4, biases=biases)
    return w, None if b is None else [rng.standard_normal(part.shape) for part in b]


def walk(w, b):
    """Every path, one at a time: (where it starts, its neurons, its product)."""
    widths = [w[0].shape[1], *(len(part) for part in w)]
    for start in range(len(widths) if b is not None else 1):
        for neurons in itertools.product(*(range(n) for n in widths[start:])):
            value = 1.0 if start == 0 else b[start - 1][neurons[0]]
            for k, layer in enumerate(range(start, len(w))):
                value *= w[layer][neurons[k + 1], neurons[k]]
            yield start, neurons, value


def differences(function, theta, h=1e-6):
    """Jacobian by central differences, one parameter at a time."""
    columns = []
    for i in range(theta.size):
        step = np.zeros_like(theta)
        step[i] = h
        columns.append((function(theta + step) - function(theta - step)) / (2 * h))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("widths, biases", NETWORKS)
def test_path_lifting_is_the_product_along_every_path(widths, biases):
    w, b = drawn(widths, biases)
    paths, expected = Paths.of(w, b), [value for _, _, value in walk(w, b)]
    assert paths.count == len(expected)
    assert paths.parameters == flatten(w, b).size
    np.testing.assert_allclose(paths.lift(flatten(w, b)), expected, rtol=1e-14)


@pytest.mark.parametrize("widths, biases", NETWORKS)
def test_its_jacobian_is_its_derivative_also_where_weights_vanish(widths, biases):
    w, b = drawn(widths, biases)
    w[0][0, 0] = 0.0
    theta, paths = flatten(w, b), Paths.of(w, b)
    np.testing.assert_allclose(paths.jacobian(theta), differences(paths.lift, theta), atol=1e-8)


@pytest.mark.parametrize("widths, biases", NETWORKS)
@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_logits_are_linear_in_the_path_lifting_given_the_pattern(widths, biases, activation):
    w, b = drawn(widths, biases)
    x = np.random.default_rng(1).standard_normal((widths[0], 20))
    network, paths = DenseNetwork(get_activation(activation), get_loss("mean-square")), Paths.of(w, b)
    z = network.forward(w, b, x)
    active = [np.ones_like(part) if activation == "identity" else part > 0 for part in z[:-1]]
    phi = paths.lift(flatten(w, b))
    np.testing.assert_allclose(paths.logits(phi, active, x), network.logits(w, b, x), atol=1e-13)
    naive = np.zeros((widths[-1], 20))
    for start, neurons, value in walk(w, b):
        for s in range(20):
            term = value * (x[neurons[0], s] if start == 0 else 1.0)
            for k, layer in enumerate(range(start, len(w))):
                if layer > 0:
                    term *= active[layer - 1][neurons[k], s]
            naive[neurons[-1], s] += term
    np.testing.assert_allclose(paths.logits(phi, active, x), naive, atol=1e-13)
    if activation == "relu" and len(widths) > 2:
        assert not all(part.all() for part in active)  # or the pattern would not matter
        assert np.abs(paths.logits(phi, [np.ones_like(part) for part in z[:-1]], x) - naive).max() > 0.01


def test_rescaling_a_hidden_neuron_leaves_it_but_not_the_laws():
    w, b = drawn((3, 4, 4, 2), True)
    other_w, other_b = [part.copy() for part in w], [part.copy() for part in b]
    other_w[0][1] *= 2.5
    other_b[0][1] *= 2.5
    other_w[1][:, 1] /= 2.5
    paths = Paths.of(w, b)
    np.testing.assert_allclose(paths.lift(flatten(other_w, other_b)), paths.lift(flatten(w, b)), rtol=1e-14)
    assert abs(laws(other_w, other_b, True)[1] - laws(w, b, True)[1]) > 0.1


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("widths, biases", NETWORKS)
def test_laws_and_their_jacobian_by_loops(widths, biases, relu):
    w, b = drawn(widths, biases)
    naive = []
    for layer in range(len(w) - 1):
        for i in range(len(w[layer])):
            for j in [i] if relu else range(i, len(w[layer])):
                value = sum(w[layer + 1][k, i] * w[layer + 1][k, j] for k in range(len(w[layer + 1])))
                value -= sum(w[layer][i, k] * w[layer][j, k] for k in range(w[layer].shape[1]))
                naive.append(value - (b[layer][i] * b[layer][j] if biases else 0.0))
    np.testing.assert_allclose(laws(w, b, relu), naive, atol=1e-14)

    def of(theta):
        return laws(*unflatten(theta, widths, biases), relu)

    found, theta = laws_jacobian(w, b, relu), flatten(w, b)
    assert found.shape == (len(naive), theta.size)  # none for a single layer
    np.testing.assert_allclose(found, differences(of, theta), atol=1e-8)


@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_no_gradient_changes_the_laws_and_gradients_are_those_of_the_path_lifting(activation):
    """∇h · ∇ℓ = 0 whatever the data; and ∇ℓ lies in the row space of ∂φ, since ℓ is a function of φ."""
    widths = (3, 4, 3, 2)
    w, b = drawn(widths, True)
    rng = np.random.default_rng(2)
    network = DenseNetwork(get_activation(activation), get_loss("mean-square"))
    _, dw, db = network.loss_and_gradients(w, b, rng.standard_normal((3, 9)), rng.standard_normal((9, 2)))
    gradient = flatten(dw, db)
    assert np.abs(laws_jacobian(w, b, activation == "relu") @ gradient).max() < 1e-13 * np.linalg.norm(gradient)
    jacobian = Paths.of(w, b).jacobian(flatten(w, b))
    left = gradient - jacobian.T @ np.linalg.lstsq(jacobian.T, gradient, rcond=None)[0]
    assert np.linalg.norm(left) < 1e-12 * np.linalg.norm(gradient)


@pytest.mark.parametrize("widths, biases", [((3, 4, 2), True), ((2, 3, 3, 2), True), ((2, 3, 2, 4, 3), False)])
def test_relu_networks_are_recoverable_and_the_kernel_is_the_rescalings(widths, biases):
    w, b = drawn(widths, biases)
    found, hidden = recoverable(w, b, relu=True), sum(widths[1:-1])
    assert found.rank_lifted == found.parameters - hidden
    assert found.rank_conserved == found.conserved == hidden
    assert found.recoverable and found.rank == found.parameters
    assert found.kept > 1e-4 and found.dropped == 0.0


def test_on_the_rescalings_the_laws_are_a_grounded_laplacian():
    """∂h on ker ∂φ is −2 times the Laplacian of the network with conductances W², neuron by neuron."""
    widths = (2, 3, 3, 2)
    w, b = drawn(widths, True)
    first = [0, 3, 6]  # hidden neurons before layer 1, 2
    rescalings, laplacian = [], np.zeros((6, 6))
    for layer in range(2):
        for i in range(3):
            dw, db = [np.zeros_like(part) for part in w], [np.zeros_like(part) for part in b]
            dw[layer][i], db[layer][i], dw[layer + 1][:, i] = w[layer][i], b[layer][i], -w[layer + 1][:, i]
            rescalings.append(flatten(dw, db))
            here = first[layer] + i
            laplacian[here, here] = np.sum(w[layer][i] ** 2) + b[layer][i] ** 2 + np.sum(w[layer + 1][:, i] ** 2)
            if layer == 0:
                laplacian[here, 3:] = laplacian[3:, here] = -(w[1][:, i] ** 2)
    kernel = np.array(rescalings).T
    assert np.abs(Paths.of(w, b).jacobian(flatten(w, b)) @ kernel).max() < 1e-13
    np.testing.assert_allclose(laws_jacobian(w, b, True) @ kernel, -2 * laplacian, atol=1e-13)
    assert np.linalg.eigvalsh(laplacian)[0] > 0


def test_a_dead_neuron_and_the_product_of_matrices_are_not_recoverable():
    w, b = drawn((3, 4, 2), True)
    w[0][2], b[0][2], w[1][:, 2] = 0.0, 0.0, 0.0
    dead = recoverable(w, b, relu=True)
    assert not dead.recoverable
    assert dead.rank == dead.parameters - 6  # its own three weights, bias and two outputs are in no path and no law
    w, _ = drawn((3, 3, 3), False)
    assert recoverable(w, None, relu=False).recoverable
    matrix = recoverable(
        w, None, relu=False, lift=lambda theta: product_jacobian(unflatten(theta, (3, 3, 3), False)[0])
    )
    assert matrix.rank == matrix.parameters - 3  # 9 of GL(3) in the hidden layer, 6 laws
    assert matrix.dropped < 1e-13 < 1e-4 < matrix.kept


def test_the_jacobian_of_the_product():
    widths = (2, 3, 4, 2)
    w, _ = drawn(widths, False)

    def product(theta):
        z = np.eye(2)
        for part in unflatten(theta, widths, False)[0]:
            z = part @ z
        return z.ravel()

    np.testing.assert_allclose(product_jacobian(w), differences(product, flatten(w, None)), atol=1e-8)


def test_parameters_survive_flattening():
    w, b = drawn((3, 4, 2), True)
    again_w, again_b = unflatten(flatten(w, b), (3, 4, 2), True)
    assert all(np.array_equal(p, q) for p, q in zip((*w, *b), (*again_w, *again_b), strict=True))


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: Paths((3,)), "no network"),
        (lambda: Paths((100, 100, 100, 100)), "paths, more than"),
        (lambda: recoverability(np.ones((2, 3)), np.ones((2, 4))), "not of the same parameters"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(call, says):
    with pytest.raises(InputError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
