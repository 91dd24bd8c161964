"""(W, b) ↔ (W, z) with velocities and accelerations, to rounding and to great depth; kinks are counted."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield.decomposition.maps import Rule
from bbdfield.decomposition.substitution import (
    bias_accelerations,
    biases,
    neuron_accelerations,
    neurons,
    operands,
    round_trip,
    worst_ratio,
)
from bbdfield.errors import InputError, NumericsError
from bbdfield.lattice.network import forward
from bbdfield.model.activations import get_activation


def test_neurons_and_velocities_agree_with_loops(nets, kind, activation):
    net = nets.build(kind, activation, moving_input=True)
    found = neurons(net.rule, net.W, net.b, net.z0, net.Wdot, net.bdot, net.z0dot)
    for got, want in zip((*found.z, *found.zdot), [x for part in net.naive() for x in part], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)


def test_neurons_agree_with_the_lattice_package(nets, lattice_kind):
    net = nets.build(lattice_kind, "gelu")
    z = forward(net.z0, np.array(net.W), np.array(net.b), get_activation("gelu"), net.rule.padding, net.rule.s(0))
    found = neurons(net.rule, np.array(net.W), np.array(net.b), net.z0)
    np.testing.assert_allclose(np.array(found.z), z, rtol=1e-13, atol=1e-14)
    assert found.zdot is None


def test_velocities_and_accelerations_are_derivatives(nets, kind):
    """Central differences along the straight path θ + tθ̇ + t²θ̈/2."""
    net, rng, h = nets.build(kind, "tanh", moving_input=True), np.random.default_rng(1), 1e-4
    Wddot, bddot = [rng.standard_normal(w.shape) for w in net.W], [rng.standard_normal(b.shape) for b in net.b]

    def path(t):
        W = [w + t * v + t * t / 2 * a for w, v, a in zip(net.W, net.Wdot, Wddot, strict=True)]
        b = [w + t * v + t * t / 2 * a for w, v, a in zip(net.b, net.bdot, bddot, strict=True)]
        return neurons(net.rule, W, b, net.z0 + t * net.z0dot).z

    now = neurons(net.rule, net.W, net.b, net.z0, net.Wdot, net.bdot, net.z0dot)
    second = neuron_accelerations(net.rule, net.W, net.Wdot, Wddot, bddot, now.z, now.zdot)
    for before, here, after, rate, change in zip(path(-h), path(0), path(h), now.zdot, second, strict=True):
        np.testing.assert_allclose((after - before) / (2 * h), rate, rtol=0, atol=1e-6 * (1 + np.abs(rate).max()))
        np.testing.assert_allclose(
            (after - 2 * here + before) / h**2, change, rtol=0, atol=1e-5 * (1 + np.abs(change).max())
        )
    back = bias_accelerations(net.rule, net.W, net.Wdot, Wddot, now.z, now.zdot, second)
    for got, want in zip(back, bddot, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_round_trip_is_exact_relative_to_the_operands(nets, kind, activation):
    net = nets.build(kind, activation, moving_input=True)
    lost = round_trip(net.rule, net.W, net.b, net.z0, net.Wdot, net.bdot, net.z0dot)
    assert max(lost.b, lost.bdot) <= 1e-15
    there = neurons(net.rule, net.W, net.b, net.z0, net.Wdot, net.bdot, net.z0dot)
    back = biases(net.rule, net.W, there.z, net.Wdot, there.zdot)
    for got, want in zip((*back.b, *back.bdot), (*net.b, *net.bdot), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-13 * max(1.0, np.abs(want).max()))
    assert max(back.spread, back.spread_dot) <= 1e-15


def deep(kind, depth, bias):
    """A deep network whose signals neither die nor blow up."""
    rng = np.random.default_rng(2)
    residual = "residual" in kind
    shape = (4, 4) if kind.startswith("mlp") else (2, 3, 2)
    site = (4,) if kind.startswith("mlp") else (5, 2)
    gain = (1.0 / depth if residual else 1.0) * np.sqrt(1 / (4 if len(shape) == 2 else 6))
    W = gain * rng.standard_normal((depth, *shape))
    b = bias * (1.0 / depth if residual else 0.3) * rng.standard_normal((depth, *site))
    Wdot, bdot = gain * rng.standard_normal(W.shape), bias * rng.standard_normal(b.shape) / depth
    return Rule("tanh", float(residual)), W, b, rng.standard_normal((*site, 2)), Wdot, bdot


@pytest.mark.parametrize(
    ("kind", "bias"), [("mlp", 1.0), ("mlp-residual", 1e-6), ("tied", 1e-6), ("tied-residual", 1.0)]
)
def test_round_trip_stays_exact_at_4096_layers(kind, bias):
    rule, W, b, z0, Wdot, bdot = deep(kind, 4096, bias)
    lost = round_trip(rule, W, b, z0, Wdot, bdot)
    assert max(lost.b, lost.bdot) <= 1e-15


@pytest.mark.parametrize("kind", ["mlp", "mlp-residual", "tied-residual"])
def test_round_trip_from_neurons_to_neurons(kind):
    """z → b → z: each layer is exact to rounding; the roundings of M layers travel on with the signal and add up."""
    depth = 1024
    rule, W, b, z0, *_ = deep(kind, depth, 1.0)
    z = neurons(rule, W, b, z0[..., :1]).z
    z = [site + (0.1 * np.cos(m + np.arange(site.size))).reshape(site.shape) for m, site in enumerate(z)]
    found, scales = biases(rule, W, z).b, operands(rule, W, z)[0]
    single = [neurons(Rule("tanh", rule.s(0)), [W[m]], [found[m]], z[m]).z[1] - z[m + 1] for m in range(0, depth, 8)]
    assert worst_ratio(single, scales[::8]) <= 1e-15
    again = neurons(rule, W, found, z[0]).z
    error = [new - old for new, old in zip(again[1:], z[1:], strict=True)]
    assert worst_ratio(error, scales) <= depth * np.finfo(float).eps


def test_replicas_of_different_networks_are_noticed(nets):
    net = nets.build("mlp", batch=3)
    z = neurons(net.rule, net.W, net.b, net.z0).z
    assert biases(net.rule, net.W, z).spread <= 1e-15
    z[2][:, 1] += 0.1
    assert biases(net.rule, net.W, z).spread > 1e-3


@pytest.mark.parametrize(("activation", "count"), [("relu", [2, 1, 0]), ("tanh", [0, 0, 0])])
def test_kinks_are_counted(activation, count):
    W = [np.eye(2)] * 3
    b = [np.array([0.0, 1.0]), np.array([1.0, 1.0]), np.array([1.0, 1.0])]
    found = neurons(Rule(activation, 0.0), W, b, np.zeros((2, 1)), W, b, np.ones((2, 1)))
    assert found.kinks.tolist() == count
    if activation == "relu":
        # The left derivative, 0: what moves at the kink does not get through.
        np.testing.assert_array_equal(found.zdot[1], np.array([[0.0], [1.0]]))


def test_a_wrong_slope_is_noticed_by_the_round_trip_of_other_velocities(nets):
    net = nets.build("mlp")
    z, zdot = net.naive()
    net.Wdot[1] = net.Wdot[1] + 1e-3
    got = biases(net.rule, net.W, z, net.Wdot, zdot).bdot
    assert np.abs(got[1] - net.bdot[1]).max() > 1e-5
    assert np.abs(got[0] - net.bdot[0]).max() < 1e-14


def test_errors_where_there_is_no_operand_are_infinite():
    here = [np.array([1.0, 0.0])]
    assert worst_ratio([np.array([0.5, 0.0])], here) == 0.5
    assert worst_ratio([np.array([0.5, 1e-300])], here) == np.inf


def test_missing_velocities_and_lost_samples_are_refused(nets):
    net = nets.build("mlp")
    z, zdot = net.naive()
    with pytest.raises(InputError, match="velocities are needed of both W and b"):
        neurons(net.rule, net.W, net.b, net.z0, net.Wdot)
    with pytest.raises(InputError, match="velocities are needed of both W and z"):
        biases(net.rule, net.W, z, net.Wdot)
    with pytest.raises(InputError, match=r"zdot\[1\] is missing"):
        biases(net.rule, net.W, z, net.Wdot, [zdot[0], None, *zdot[2:]])
    with pytest.raises(InputError, match=r"3 arrays z for 3 layers; give z\[0\] … z\[3\]"):
        biases(net.rule, net.W, z[:-1])
    with pytest.raises(InputError, match=r"z\[2\] has shape \(5, 2\), its place needs \(5, 3\)"):
        biases(net.rule, net.W, [*z[:2], z[2][:, :2], z[3]])
    with pytest.raises(InputError, match=r"Wdot\[0\] has shape"):
        neurons(net.rule, net.W, net.b, net.z0, net.Wdot[::-1], net.bdot)


def test_signals_that_blow_up_are_named():
    with pytest.raises(NumericsError, match=r"z\[2\] or its velocity is not finite"):
        neurons(Rule("identity", 0.0), [1e200 * np.eye(2)] * 3, [np.zeros(2)] * 3, np.ones((2, 1)))
