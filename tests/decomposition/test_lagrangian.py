"""L = L_bulk + L_boundary to rounding, by routes that share nothing; what the bulk may not know; errors are caught."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bbdfield.decomposition import lagrangian as module
from bbdfield.decomposition.energy import observe, overdamped_continuity, swap
from bbdfield.decomposition.lagrangian import boundary, bulk, lagrangian, operand_scale
from bbdfield.decomposition.maps import PerGroup, Rule
from bbdfield.decomposition.readout import Output, cosine_basis
from bbdfield.errors import InputError
from bbdfield.lattice.network import Network, readout
from bbdfield.model.activations import get_activation
from bbdfield.model.losses import get_loss, loss_names, prepare_targets

TOLERANCE = 1e-13
MU = PerGroup(w=0.7, b=1.9, r=0.4)


def mismatch(net, mu=MU):
    """|L − L_bulk − L_boundary| / Σ operands. z, ż and the direct ℓ come from the loops of conftest."""
    z, zdot = net.naive()
    direct = lagrangian(net.Wdot, net.bdot, net.Rdot, net.naive_loss(z[-1]), mu)
    arguments = (net.rule, net.W, net.Wdot, z, zdot)
    ends = boundary(*arguments, net.Rdot, net.output.value(z[-1], net.R), mu)
    scale = operand_scale(*arguments, net.Rdot, direct.loss, mu)
    difference = abs(direct.total - bulk(*arguments, mu).total - ends.total)
    # Without inertia and loss nothing is left; then nothing may be missing.
    return difference / scale if scale > 0 else difference


@pytest.mark.parametrize("batch", [1, 4])
def test_decomposition_is_an_identity(nets, kind, activation, loss, batch):
    """480 cases: 10 networks x 6 activations x 4 losses x 2 batches."""
    assert mismatch(nets.build(kind, activation, loss, batch, moving_input=batch == 4)) <= TOLERANCE


@settings(max_examples=100, deadline=None)
@given(
    data=st.data(),
    activation=st.sampled_from(["tanh", "sigmoid", "softplus", "relu", "gelu", "identity"]),
    loss=st.sampled_from(loss_names()),
    batch=st.integers(1, 5),
    seed=st.integers(0, 10**6),
    moving_input=st.booleans(),
    scale=st.sampled_from([1e-3, 0.3, 1.0, 5.0]),
    inertias=st.tuples(*[st.just(0.0) | st.floats(1e-3, 100.0)] * 3),
)
def test_decomposition_is_an_identity_wherever_one_looks(
    nets, data, activation, loss, batch, seed, moving_input, scale, inertias
):
    kind = data.draw(st.sampled_from(nets.KINDS))
    options = {"moving_input": moving_input, "scale": scale}
    if kind == "mlp":
        options["widths"] = data.draw(st.lists(st.integers(1, 8), min_size=2, max_size=6))
    elif kind not in ("mlp-skips", "tied-channels"):
        options["depth"] = data.draw(st.integers(1, 5))
    assert mismatch(nets.build(kind, activation, loss, batch, seed, **options), PerGroup(*inertias)) <= TOLERANCE


def test_terms_are_those_of_the_definition(nets, kind):
    net = nets.build(kind, "tanh", batch=2)
    z, zdot = net.naive()
    inside = bulk(net.rule, net.W, net.Wdot, z, zdot, MU)
    ends = boundary(net.rule, net.W, net.Wdot, z, zdot, net.Rdot, 0.25, MU)
    direct = lagrangian(net.Wdot, net.bdot, net.Rdot, 0.25, MU)
    np.testing.assert_allclose(inside.weights, [0.35 * np.sum(w**2) for w in net.Wdot], rtol=1e-14)
    np.testing.assert_allclose(inside.biases[1:], [0.95 * np.sum(b**2) for b in net.bdot[1:]], rtol=1e-12)
    assert inside.biases[0] == 0
    assert ends.input == pytest.approx(0.95 * np.sum(net.bdot[0] ** 2), rel=1e-12)
    assert [ends.readout, direct.readout] == pytest.approx([0.2 * np.sum(net.Rdot**2)] * 2, rel=1e-14)
    assert ends.total == pytest.approx(ends.input + ends.readout - 0.25, rel=1e-14)
    np.testing.assert_allclose(direct.weights, inside.weights, rtol=1e-14)
    np.testing.assert_allclose(inside.layers, inside.weights + inside.biases, rtol=0)
    fixed = boundary(net.rule, net.W, net.Wdot, z, zdot, None, 0.25, MU)
    assert fixed.total == pytest.approx(ends.total - ends.readout, rel=1e-14)
    assert lagrangian(net.Wdot, net.bdot, None, 0.25, MU).readout == 0


def test_bulk_knows_neither_input_nor_targets_nor_loss(nets, kind):
    """At fixed W, z[1…M] other X and Y leave it bitwise the same, and the boundary changes with each of them."""
    net = nets.build(kind, "tanh", batch=2)
    z, zdot = net.naive()
    rest = (net.Rdot, net.output.value(z[-1], net.R))
    inside = bulk(net.rule, net.W, net.Wdot, z, zdot).total
    ends = boundary(net.rule, net.W, net.Wdot, z, zdot, *rest).total

    other_x = [np.random.default_rng(1).standard_normal(z[0].shape), *z[1:]]
    assert bulk(net.rule, net.W, net.Wdot, other_x, zdot).total == inside
    assert abs(boundary(net.rule, net.W, net.Wdot, other_x, zdot, *rest).total - ends) > 1e-3
    unread = [np.full_like(z[0], np.nan), *z[1:]]
    assert bulk(net.rule, net.W, net.Wdot, unread, unread[:1] + zdot[1:]).total == inside

    other_y = replace(net.output, targets=(np.argmax(net.targets, axis=1) + 1) % 3)
    other_loss = other_y.value(z[-1], net.R)
    assert bulk(net.rule, net.W, net.Wdot, z, zdot).total == inside
    assert abs(boundary(net.rule, net.W, net.Wdot, z, zdot, net.Rdot, other_loss).total - ends) > 1e-3
    assert set(inspect.signature(bulk).parameters) == {"rule", "W", "Wdot", "z", "zdot", "mu"}


def wrong_slope(net):
    net.rule = Rule(replace(get_activation("tanh"), df=np.ones_like, combined=None), net.rule.skip, net.rule.padding)


def wrong_skip(net):
    net.rule = Rule(net.rule.activation, 1.0 - net.rule.s(0), net.rule.padding)


def wrong_padding(net):
    net.rule = Rule(net.rule.activation, net.rule.skip, "reflect" if net.rule.padding == "zeros" else "zeros")


def wrong_activation(net):
    net.rule = Rule("softplus", net.rule.skip, net.rule.padding)


def flipped_taps(net):
    net.W = [w[..., ::-1, :] for w in net.W]


def no_weight_velocity(net):
    net.Wdot = [net.Wdot[0], *(0 * w for w in net.Wdot[1:])]


def layers_in_wrong_order(net):
    net.W = net.W[::-1]


MUTATIONS = {
    f.__name__: f
    for f in (
        wrong_slope,
        wrong_skip,
        wrong_padding,
        wrong_activation,
        flipped_taps,
        no_weight_velocity,
        layers_in_wrong_order,
    )
}


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("kind", ["tied-circular-residual", "untied-zeros-residual", "untied-reflect"])
def test_a_wrong_network_is_caught(nets, kind, mutation):
    net = nets.build(kind, "tanh", batch=3, moving_input=True)
    z, zdot = net.naive()
    direct = lagrangian(net.Wdot, net.bdot, net.Rdot, net.naive_loss(z[-1]))
    MUTATIONS[mutation](net)
    arguments = (net.rule, net.W, net.Wdot, z, zdot)
    both = bulk(*arguments).total + boundary(*arguments, net.Rdot, direct.loss).total
    assert abs(direct.total - both) / operand_scale(*arguments, net.Rdot, direct.loss) > 1e-6


@pytest.mark.parametrize(
    "mutation",
    ["sum over replicas", "first layer counted twice", "loss added", "sign of a term", "a replica left out of z"],
)
def test_a_wrong_decomposition_is_caught(nets, kind, mutation, monkeypatch):
    net = nets.build(kind, "tanh", batch=3, moving_input=True)
    z, zdot = net.naive()
    loss = net.naive_loss(z[-1])
    direct = lagrangian(net.Wdot, net.bdot, net.Rdot, loss, MU)
    arguments = (net.rule, net.W, net.Wdot, z, zdot)
    scale = operand_scale(*arguments, net.Rdot, loss, MU)
    mu = MU
    if mutation == "sum over replicas":
        mu = replace(MU, b=3 * MU.b)
    elif mutation == "sign of a term":
        right = module._operands
        monkeypatch.setattr(module, "_operands", lambda *a: (*right(*a)[:3], -right(*a)[3]))
    elif mutation == "a replica left out of z":
        zdot = [rate.copy() for rate in zdot]
        zdot[1][..., 0] = 0
        arguments = (net.rule, net.W, net.Wdot, z, zdot)
    ends = boundary(*arguments, net.Rdot, loss, mu)
    both = bulk(*arguments, mu).total + ends.total
    if mutation == "first layer counted twice":
        both += ends.input
    elif mutation == "loss added":
        both += 2 * loss
    assert abs(direct.total - both) / scale > 1e-4


def test_readout_is_that_of_the_lattice_package_and_its_gradient_is_one(nets, kind, loss):
    net = nets.build(kind, "tanh", loss, batch=4)
    z_last = net.naive()[0][-1]
    if net.basis is not None:
        np.testing.assert_allclose(cosine_basis(6, 3, 0.5, 3.0)[:, 1], 0.5 * np.cos(np.pi * (np.arange(6) + 0.5) / 6))
        np.testing.assert_allclose(net.output.logits(z_last, net.R), readout(z_last, net.R, 1 / 6, 1.0), atol=1e-14)
    rng, h = np.random.default_rng(3), 1e-5
    z_way, r_way = rng.standard_normal(z_last.shape), rng.standard_normal(net.R.shape)
    up, down = (net.output.value(z_last + e * h * z_way, net.R + e * h * r_way) for e in (1, -1))
    by_z, by_r = net.output.gradient(z_last, net.R)
    assert (up - down) / (2 * h) == pytest.approx(np.vdot(by_z, z_way) + np.vdot(by_r, r_way), rel=1e-6, abs=1e-9)


def test_readouts_of_other_forms(nets):
    rng = np.random.default_rng(0)
    z, targets = rng.standard_normal((5, 2, 4)), rng.standard_normal((4, 3))
    R = rng.standard_normal((3, 5, 2))
    output = Output("mean-square", targets, 3)
    assert output.value(z, R) == pytest.approx(np.mean((np.einsum("kyc,ycp->pk", R, z) - targets) ** 2), rel=1e-13)
    assert output.gradient(z, R)[1].shape == R.shape
    direct = z[:3, 0]
    assert output.value(direct, None) == pytest.approx(np.mean((direct.T - targets) ** 2), rel=1e-13)
    assert output.gradient(direct, None)[1] is None
    with pytest.raises(InputError, match=r"R of shape \(3, 4\) can't take z\[M\] of shape \(5, 2\) to 3 outputs"):
        output.value(z, np.zeros((3, 4)))
    with pytest.raises(InputError, match=r"targets have shape \(4, 3\), the logits \(2, 3\)"):
        output.value(direct[:, :2], None)


@pytest.mark.parametrize("skip", [0.0, 1.0])
def test_identity_along_a_thousand_steps_of_sgd(skip):
    """Velocities are the dynamics' own, θ̇ = −η ∂ℓ/∂θ, with the lattice package's gradient; a new batch every step."""
    rng = np.random.default_rng(5)
    depth, cells, channels, taps, batch = 3, 6, 2, 3, 3
    x = rng.standard_normal((cells, channels, 24))
    labels = np.argmax(x[:3, 0], axis=0)
    w = rng.standard_normal((depth, channels, taps, channels)) / 3
    b, r = np.zeros((depth, cells, channels)), rng.standard_normal((3, channels, 3))
    rates = PerGroup(0.05, 0.05, 0.3)
    network = Network(get_activation("tanh"), get_loss("cross-entropy"), "zeros", 1 / cells, skip=skip)
    rule, basis = Rule("tanh", skip), cosine_basis(cells, 3, 1 / cells)
    worst, worst_current, losses, previous = 0.0, 0.0, [], None
    for _ in range(1000):
        index = rng.permutation(24)[:batch]
        found = network.loss_and_gradients(x[..., index], w, b, r, prepare_targets("cross-entropy", labels[index], 3))
        dot = {k: -getattr(rates, k) * g for k, g in found.gradients.items()}
        output = Output("cross-entropy", labels[index], 3, basis)
        seen = observe(rule, w, b, r, dot["w"], dot["b"], dot["r"], x[..., index], output, MU)
        worst = max(worst, seen.residual)
        worst_current = max(worst_current, overdamped_continuity(dot["w"], dot["b"], seen.current, rates).worst)
        assert seen.loss == pytest.approx(found.loss, rel=1e-13)
        if previous is not None and len(losses) % 100 == 0:
            assert swap(previous, seen).neurons[0] > 0.1
        losses.append(seen.loss)
        previous = seen
        w, b, r = w + dot["w"], b + dot["b"], r + dot["r"]
    assert worst <= TOLERANCE
    assert worst_current <= 1e-12
    assert np.mean(losses[-100:]) < 0.7 * np.mean(losses[:100])


def test_shapes_are_checked_on_this_side_too(nets):
    net = nets.build("mlp")
    z, zdot = net.naive()
    with pytest.raises(InputError, match=r"z\[2\] has shape .* its place needs"):
        bulk(net.rule, net.W, net.Wdot, [*z[:2], z[1], z[3]], zdot)
    with pytest.raises(InputError, match=r"3 arrays zdot for 4 arrays z"):
        boundary(net.rule, net.W, net.Wdot, z, zdot[1:], None, 0.0)
    with pytest.raises(InputError, match=r"Wdot\[1\] is missing"):
        lagrangian([net.Wdot[0], None], net.bdot, None, 0.0)
