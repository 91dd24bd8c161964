"""Energy moves and is lost, never made: per layer, per neuron and in all, and at a change of samples."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield.decomposition.energy import (
    continuity,
    current,
    layer_energy,
    layer_energy_rate,
    link_currents,
    neuron_continuity,
    neuron_energy,
    neuron_energy_rate,
    observe,
    overdamped_continuity,
    overdamped_totals,
    site_current,
    swap,
    totals,
)
from bbdfield.decomposition.forces import Gradients, accelerations, backpropagate, descent, gradients
from bbdfield.decomposition.maps import PerGroup
from bbdfield.decomposition.substitution import neurons
from bbdfield.errors import InputError
from bbdfield.lattice.network import Network
from bbdfield.model.losses import get_loss

MU, GAMMA, RATES = PerGroup(w=0.7, b=1.9, r=0.4), 0.35, PerGroup(w=0.2, b=0.05, r=0.6)


def gradient_of(net, z):
    """∂ℓ/∂θ by the lattice package where it can, so that accelerations and J come by different routes."""
    delta_last, by_r = net.output.gradient(z[-1], net.R)
    delta = backpropagate(net.rule, net.W, z, delta_last)
    if net.kind.startswith("mlp") or net.kind == "tied-channels":
        return delta, gradients(net.rule, net.W, z, delta, by_r)
    network = Network(net.rule.sigma(0), get_loss(net.loss), net.rule.padding, 1 / 6, skip=net.rule.s(0))
    found = network.loss_and_gradients(net.z0, np.array(net.W), np.array(net.b), net.R, net.targets).gradients
    return delta, Gradients(list(found["w"]), list(found["b"]), found["r"])


def moving(net):
    """Velocity, acceleration, gradient, z, ż, δ of second-order motion."""
    now = neurons(net.rule, net.W, net.b, net.z0, net.Wdot, net.bdot, net.z0dot)
    delta, gradient = gradient_of(net, now.z)
    velocity = Gradients(net.Wdot, net.bdot, net.Rdot)
    return velocity, accelerations(velocity, gradient, MU, GAMMA), gradient, now.z, now.zdot, delta


@pytest.mark.parametrize("batch", [1, 4])
def test_layers_and_whole_keep_the_books(nets, kind, activation, batch):
    net = nets.build(kind, activation, batch=batch, moving_input=batch == 4)
    velocity, second, gradient, _, zdot, delta = moving(net)
    J = current(delta, zdot)
    energy = layer_energy(velocity.w, velocity.b, MU)
    rate = layer_energy_rate(velocity.w, velocity.b, second.w, second.b, MU)
    balance = continuity(energy, rate, J, GAMMA)
    assert balance.residual.shape == (len(net.W),)
    assert balance.worst <= 1e-12
    assert continuity(energy, rate, J, 1.01 * GAMMA).worst > 1e-6
    whole = totals(velocity, second, gradient, J, 0.3, MU, GAMMA)
    assert whole.residual <= 1e-12
    assert whole.kinetic == pytest.approx(energy.sum() + 0.2 * np.sum(net.Rdot**2), rel=1e-13)
    assert whole.dissipation == pytest.approx(2 * GAMMA * whole.kinetic, rel=1e-14)
    assert whole.loss == 0.3
    # At fixed data nothing flows in or out at the input.
    assert (whole.inflow == 0) == (batch == 1)


@pytest.mark.parametrize("batch", [1, 4])
def test_overdamped_motion_keeps_the_books(nets, kind, activation, loss, batch):
    net = nets.build(kind, activation, loss, batch)
    z = neurons(net.rule, net.W, net.b, net.z0).z
    delta, gradient = gradient_of(net, z)
    velocity = descent(gradient, RATES)
    J = current(delta, neurons(net.rule, net.W, net.b, net.z0, velocity.w, velocity.b).zdot)
    assert overdamped_continuity(velocity.w, velocity.b, J, RATES).worst <= 1e-12
    whole = overdamped_totals(velocity, gradient, J, 0.3, RATES)
    assert whole.residual <= 1e-12
    assert whole.kinetic == 0 and whole.inflow == 0 and whole.rate <= 0
    # Energy runs from the output towards the input, and every layer takes of it.
    assert np.all(np.diff(J) <= 0)
    frozen = PerGroup(0.0, RATES.b, 0.0)
    still = descent(gradient, frozen)
    J = current(delta, neurons(net.rule, net.W, net.b, net.z0, still.w, still.b).zdot)
    assert overdamped_continuity(still.w, still.b, J, frozen).worst <= 1e-12


@pytest.mark.parametrize("kind", ["mlp-residual", "tied-zeros", "untied-circular-residual"])
def test_energy_of_a_run_in_time(nets, kind):
    """No identity of formulae but of numbers: E changes along the integrated motion by what J brings and γ takes."""
    net, h = nets.build(kind, "tanh", batch=2), 1e-4
    velocity, second, _, _, zdot, delta = moving(net)
    rates = []
    for sign in (1, -1):
        later = net.moved(sign * h, second)
        rates.append(layer_energy(later.Wdot, later.bdot, MU))
    change = (rates[0] - rates[1]) / (2 * h)
    J = current(delta, zdot)
    expected = J[:-1] - J[1:] - 2 * GAMMA * layer_energy(velocity.w, velocity.b, MU)
    np.testing.assert_allclose(change, expected, rtol=1e-6, atol=1e-6)
    # J[M] is the rate of the loss at fixed readout.
    up, down = ((m := net.moved(s * h, second)).output.value(m.naive()[0][-1], net.R) for s in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx(J[-1], rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("batch", [1, 3])
def test_link_currents_add_up(nets, kind, batch):
    net = nets.build(kind, "tanh", batch=batch, moving_input=True)
    z, zdot = net.naive()
    _, _, _, _, _, delta = moving(net)
    links, sites, J = link_currents(net.rule, net.W, z, zdot, delta), site_current(delta, zdot), current(delta, zdot)
    for m, w in enumerate(net.W):
        scale = np.abs(links[m]).sum()
        assert abs(links[m].sum() - J[m]) <= 1e-13 * scale
        assert abs(sites[m].sum() - J[m]) <= 1e-13 * scale
        # Each link by its formula, collected at the neuron that it leaves.
        slope = net.rule.sigma(m).df(z[m])
        leaving = np.zeros(z[m].shape[:-1])
        for to in np.ndindex(*z[m + 1].shape[:-1]):
            for entry, source in net._connections(w, to):
                along = np.sum(delta[m + 1][to] * w[entry] * slope[source] * zdot[m][source])
                here = (*to, *entry[-2:]) if w.ndim > 2 else entry
                own = net.rule.s(m) * np.sum(delta[m + 1][to] * zdot[m][to]) if net.rule.s(m) else 0.0
                straight = here[-1] == to[-1] and (w.ndim == 2 or here[2] == w.shape[-2] // 2)
                along += own if straight else 0.0
                assert abs(links[m][here] - along) <= 1e-13 * scale
                leaving[source] += along
        np.testing.assert_allclose(leaving, sites[m], rtol=0, atol=1e-13 * scale)


@pytest.mark.parametrize(
    "kind", ["mlp", "mlp-skips", "untied-reflect", "untied-circular-residual", "untied-zeros-residual"]
)
def test_every_neuron_keeps_the_books(nets, kind):
    net = nets.build(kind, "gelu", batch=3)
    velocity, second, _, z, zdot, delta = moving(net)
    energy = neuron_energy(velocity.w, velocity.b, MU)
    rate = neuron_energy_rate(velocity.w, velocity.b, second.w, second.b, MU)
    np.testing.assert_allclose([e.sum() for e in energy], layer_energy(velocity.w, velocity.b, MU), rtol=1e-13)
    links = link_currents(net.rule, net.W, z, zdot, delta)
    for layer in neuron_continuity(energy, rate, links, site_current(delta, zdot), GAMMA):
        assert layer.worst <= 1e-12


def test_tied_weights_have_no_place_in_the_width(nets):
    net = nets.build("tied-zeros")
    with pytest.raises(InputError, match="layer 0 are tied and have no place in the width"):
        neuron_energy(net.Wdot, net.bdot, MU)


def test_motion_with_a_frozen_group_must_be_at_rest(nets):
    net = nets.build("mlp")
    with pytest.raises(InputError, match="bdot is not 0 although its learning rate is"):
        overdamped_continuity(net.Wdot, net.bdot, np.zeros(4), PerGroup(1.0, 0.0))


# Observations and swaps


def see(net, **changes):
    given = {"mu": MU, **changes}
    output, z0 = given.pop("output", net.output), given.pop("z0", net.z0)
    velocities = (None, None, None) if "rates" in given else (net.Wdot, net.bdot, net.Rdot)
    return observe(net.rule, net.W, net.b, net.R, *velocities, z0, output, **given)


def test_an_observation_is_made_of_the_single_pieces(nets, kind, loss):
    net = nets.build(kind, "tanh", loss)
    velocity, _, gradient, z, zdot, delta = moving(net)
    seen = see(net)
    assert seen.residual <= 1e-13
    assert seen.loss == pytest.approx(net.naive_loss(net.naive()[0][-1]), rel=1e-13)
    np.testing.assert_array_equal(seen.energy, layer_energy(velocity.w, velocity.b, MU))
    np.testing.assert_allclose(seen.current, current(delta, zdot), rtol=1e-13)
    np.testing.assert_allclose(seen.intake, -np.diff(seen.current), rtol=1e-13, atol=1e-15)
    assert seen.readout_intake == pytest.approx(-np.vdot(gradient.r, net.Rdot), rel=1e-12)
    assert seen.lagrangian.total == pytest.approx(seen.bulk.total + seen.boundary.total, rel=1e-11)
    assert seen.kinks.tolist() == [0] * len(net.W)
    np.testing.assert_array_equal(seen.z[-1], z[-1])
    overdamped = see(net, rates=RATES)
    down = descent(gradient, RATES)
    np.testing.assert_allclose(overdamped.energy, layer_energy(down.w, down.b, MU), rtol=1e-12)
    assert overdamped_continuity(down.w, down.b, overdamped.current, RATES).worst <= 1e-12
    assert overdamped.residual <= 1e-13


def test_a_swap_of_samples_enters_through_the_boundary(nets, kind):
    """With inertia: E and L_bulk go on, ℓ jumps, and the layers' intakes jump by what J[M] brings."""
    net = nets.build(kind, "tanh", batch=3)
    other = nets.build(kind, "tanh", batch=3, seed=1)
    before, after = see(net), see(net, z0=other.z0, output=other.output)
    kick = swap(before, after)
    scale = before.lagrangian.total + 2 * before.loss
    assert abs(kick.loss) > 1e-3 and abs(kick.current[-1]) > 1e-3 and kick.neurons.min() > 1e-3
    np.testing.assert_array_equal(kick.kinetic, 0)
    assert abs(kick.bulk) <= 1e-12 * scale
    assert abs(kick.boundary + kick.loss) <= 1e-12 * scale
    assert abs(kick.lagrangian + kick.loss) <= 1e-12 * scale
    assert kick.intake.sum() == pytest.approx(kick.current[0] - kick.current[-1], rel=1e-11)
    assert kick.current[0] == 0
    assert kick.through_output == pytest.approx(kick.intake.sum() + kick.readout_intake, rel=1e-11)
    # Overdamped motion follows the force at once: there the velocities jump too.
    slow = swap(see(net, rates=RATES), see(net, rates=RATES, z0=other.z0, output=other.output))
    assert np.abs(slow.kinetic).min() > 0 and abs(slow.bulk) > 1e-8


def test_what_an_observation_needs(nets):
    net = nets.build("mlp")
    arguments = (net.rule, net.W, net.b, net.R)
    with pytest.raises(InputError, match="velocities of W and b are missing"):
        observe(*arguments, None, None, None, net.z0, net.output)
    with pytest.raises(InputError, match=r"velocities or learning rates .* not both"):
        observe(*arguments, net.Wdot, net.bdot, None, net.z0, net.output, rates=RATES)
    with pytest.raises(InputError, match=r"Rdot has shape \(2,\), R \(3, 3\)"):
        observe(*arguments, net.Wdot, net.bdot, np.zeros(2), net.z0, net.output)
    small = nets.build("mlp", batch=2)
    with pytest.raises(InputError, match=r"z\[0\] has shape \(4, 2\)"):
        swap(see(net), see(small))


def test_a_fixed_readout_takes_nothing(nets):
    net = nets.build("mlp")
    seen = observe(net.rule, net.W, net.b, net.R, net.Wdot, net.bdot, None, net.z0, net.output)
    assert seen.readout_intake == 0 and seen.boundary.readout == 0
