"""Back-propagation solves the equations of motion: for one sample local in depth, for a batch per replica."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield.decomposition.forces import (
    Gradients,
    accelerations,
    backpropagate,
    batch_mean_errors,
    descent,
    forces,
    gradients,
    one_sample_residuals,
)
from bbdfield.decomposition.maps import PerGroup, Rule
from bbdfield.decomposition.substitution import bias_accelerations, neuron_accelerations, neurons
from bbdfield.errors import InputError
from bbdfield.lattice.network import Network
from bbdfield.model.activations import get_activation
from bbdfield.model.losses import get_loss

MU, GAMMA = PerGroup(w=0.7, b=1.9, r=0.4), 0.35


def solve(net):
    """z, ż, δ and ∂ℓ/∂θ by the package."""
    now = neurons(net.rule, net.W, net.b, net.z0, net.Wdot, net.bdot, net.z0dot)
    last, by_r = net.output.gradient(now.z[-1], net.R)
    delta = backpropagate(net.rule, net.W, now.z, last)
    return now, delta, gradients(net.rule, net.W, now.z, delta, by_r)


@pytest.mark.parametrize("batch", [1, 4])
def test_back_propagation_is_that_of_the_lattice_package(nets, lattice_kind, activation, loss, batch):
    net = nets.build(lattice_kind, activation, loss, batch)
    _, delta, found = solve(net)
    other = Network(get_activation(activation), get_loss(loss), net.rule.padding, 1 / 6, skip=net.rule.s(0))
    wanted = other.loss_and_gradients(net.z0, np.array(net.W), np.array(net.b), net.R, net.targets, keep_delta=True)
    np.testing.assert_allclose(np.array(delta), wanted.delta, rtol=1e-12, atol=1e-14)
    for got, name in ((found.w, "w"), (found.b, "b"), (found.r, "r")):
        np.testing.assert_allclose(np.array(got), wanted.gradients[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["mlp", "mlp-residual", "mlp-skips", "tied-channels"])
def test_gradients_are_those_of_the_loss(nets, kind):
    """Where the lattice package can't go: the loss along the velocities, by loops and central differences."""
    net, h = nets.build(kind, "gelu", moving_input=True), 1e-5
    _, delta, found = solve(net)
    expected = np.vdot(delta[0], net.z0dot) + np.vdot(found.r, net.Rdot)
    expected += sum(np.vdot(g, v) for g, v in zip(found.w + found.b, net.Wdot + net.bdot, strict=True))
    later, earlier = net.moved(h), net.moved(-h)
    change = (later.naive_loss(later.naive()[0][-1]) - earlier.naive_loss(earlier.naive()[0][-1])) / (2 * h)
    assert change == pytest.approx(expected, rel=1e-7)


def motion(net):
    """f from (W, z): ż, z̈ along the true second-order motion, then f[m] = μ_b (d/dt + γ) ḃ[m] from z alone."""
    now, delta, found = solve(net)
    second = accelerations(Gradients(net.Wdot, net.bdot, net.Rdot), found, MU, GAMMA)
    zddot = neuron_accelerations(net.rule, net.W, net.Wdot, second.w, second.b, now.z, now.zdot)
    bddot = bias_accelerations(net.rule, net.W, net.Wdot, second.w, now.z, now.zdot, zddot)
    return now, delta, found, forces(net.bdot, bddot, MU.b, GAMMA)


@pytest.mark.parametrize("activation", ["tanh", "softplus", "gelu"])
def test_one_sample_obeys_a_local_equation(nets, kind, activation):
    net = nets.build(kind, activation, batch=1)
    now, delta, _, f = motion(net)
    assert one_sample_residuals(net.rule, net.W, now.z, f, delta[-1]).max() <= 1e-12
    for m, force in enumerate(f):
        np.testing.assert_allclose(delta[m + 1][..., 0], -force, rtol=0, atol=1e-12 * (1 + np.abs(force).max()))
    # It does notice a wrong force.
    f[1] = f[1] * 1.01
    assert one_sample_residuals(net.rule, net.W, now.z, f, delta[-1]).max() > 1e-3


def test_a_batch_obeys_it_replica_by_replica_and_its_mean_does_not(nets, kind):
    net = nets.build(kind, "tanh", batch=6)
    now, delta, _, f = motion(net)
    for m, force in enumerate(f):
        np.testing.assert_allclose(delta[m + 1].sum(axis=-1), -force, rtol=0, atol=1e-12 * (1 + np.abs(force).max()))
    errors = batch_mean_errors(net.rule, net.W, now.z, delta)
    # The residual path passes the mean on unharmed, which makes the error smaller but not small.
    assert errors.max() > 0.05, errors
    with pytest.raises(InputError, match="holds for one sample, not for a batch of 6"):
        one_sample_residuals(net.rule, net.W, now.z, f, delta[-1])


def test_the_error_of_the_mean_is_some_twenty_percent(nets):
    """A network of ordinary size: 8 layers of 20 neurons, 32 samples."""
    rng = np.random.default_rng(0)
    W = [1.5 * rng.standard_normal((20, 20)) / np.sqrt(20) for _ in range(8)]
    b = [0.1 * rng.standard_normal(20) for _ in range(8)]
    for skip in (0.0, 1.0):
        rule = Rule("tanh", skip)
        z = neurons(rule, W, b, rng.standard_normal((20, 32))).z
        target = rng.standard_normal((20, 1))
        delta = backpropagate(rule, W, z, (z[-1] - target) / 32)
        error = batch_mean_errors(rule, W, z, delta)
        assert 0.1 < error.mean() < 0.4, error


def test_the_mean_is_exact_for_one_sample_and_for_linear_networks(nets, kind):
    for activation, batch in (("tanh", 1), ("identity", 5)):
        net = nets.build(kind, activation, batch=batch)
        now, delta, _ = solve(net)
        assert batch_mean_errors(net.rule, net.W, now.z, delta).max() <= 1e-13


def test_motion_laws(nets):
    net = nets.build("tied-zeros")
    _, _, found = solve(net)
    velocity = Gradients(net.Wdot, net.bdot, net.Rdot)
    second = accelerations(velocity, found, MU, GAMMA)
    np.testing.assert_allclose(MU.w * (second.w[1] + GAMMA * net.Wdot[1]), -found.w[1], atol=1e-14)
    np.testing.assert_allclose(MU.b * (second.b[1] + GAMMA * net.bdot[1]), -found.b[1], atol=1e-14)
    np.testing.assert_allclose(MU.r * (second.r + GAMMA * net.Rdot), -found.r, atol=1e-14)
    down = descent(found, PerGroup(2.0, 3.0, 5.0))
    np.testing.assert_array_equal(down.w[0], -2.0 * found.w[0])
    np.testing.assert_array_equal(down.b[0], -3.0 * found.b[0])
    np.testing.assert_array_equal(down.r, -5.0 * found.r)
    assert descent(Gradients(found.w, found.b), PerGroup()).r is None
    with pytest.raises(InputError, match="group b: second-order motion needs an inertia > 0"):
        accelerations(velocity, found, PerGroup(b=0.0), GAMMA)


def test_delta_must_fit_the_last_site(nets):
    net = nets.build("mlp")
    z, _ = net.naive()
    with pytest.raises(InputError, match=r"delta\[0\] has shape \(4, 3\), but z\[M:\]\[0\] has \(3, 3\)"):
        backpropagate(net.rule, net.W, z, np.zeros((4, 3)))
