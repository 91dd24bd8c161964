"""Translation along depth: exact for repeating layers, broken continuously by five differences between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bbdfield.decomposition.lagrangian import bulk
from bbdfield.decomposition.maps import PerGroup, Rule
from bbdfield.decomposition.symmetry import (
    BREAKINGS,
    Configuration,
    broken,
    configurations,
    density,
    layers_of,
    mixture,
    shift_change,
    spread,
)
from bbdfield.errors import InputError
from bbdfield.model.activations import get_activation

MU = PerGroup(w=0.7, b=1.9)
SHAPES = {"dense": (6, 6), "tied": (2, 5, 2), "untied": (8, 2, 5, 2), "one tap": (3, 1, 3)}
CASES = [(shape, skip) for shape in SHAPES for skip in (0.0, 1.0)]


def repeating(shape="dense", skip=1.0, depth=5, activation="tanh", padding="zeros"):
    return layers_of(Rule(activation, skip, padding), [SHAPES[shape]] * depth, MU, cells=8)


@pytest.mark.parametrize("padding", ["zeros", "circular", "reflect"])
@pytest.mark.parametrize(("shape", "skip"), CASES)
def test_repeating_layers_are_all_alike(shape, skip, padding):
    layers = repeating(shape, skip, padding=padding)
    found = spread(layers, configurations(layers, 16))
    assert found.value <= 1e-14
    assert np.ptp(found.means) <= 1e-14 * found.means.mean() and found.means.min() > 0


@pytest.mark.parametrize("kind", BREAKINGS)
@pytest.mark.parametrize(("shape", "skip"), CASES)
def test_every_breaking_is_seen_and_grows_continuously_from_zero(shape, skip, kind):
    layers = repeating(shape, skip)
    fields = configurations(layers, 24, seed=3)
    sizes = np.array([0.0, 1e-9, 1e-6, 1e-3, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    found = np.array([spread(broken(layers, kind, size), fields).value for size in sizes])
    assert found[0] <= 1e-14
    assert found[5] > 1e-6
    assert 0 < found[3] < found[5]
    # Lipschitz: no jump anywhere, also not at 0 and 1.
    assert np.all(np.abs(np.diff(found)) <= 12 * np.diff(sizes) + 1e-14), found
    assert set(spread(broken(layers, kind, 0.1, at=2), fields).pair) & {1, 2}


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_the_second_activation_is_another_one(activation):
    layers = repeating(activation=activation)
    fields = configurations(layers, 8)
    assert spread(broken(layers, "activation", 0.1), fields).value > 1e-6
    assert spread(broken(layers, "activation", 0.1, other=activation), fields).value <= 1e-14
    whole = broken(layers, "activation", 1.0, other="relu")[2].activation
    x = np.linspace(-2, 2, 7)
    np.testing.assert_allclose(whole.f(x), get_activation("relu").f(x), atol=1e-15)


def test_a_mixture_has_the_mixed_derivatives():
    both = mixture(get_activation("tanh"), get_activation("gelu"), 0.3)
    x, h = np.linspace(-2, 2, 9), 1e-5
    np.testing.assert_allclose((both.f(x + h) - both.f(x - h)) / (2 * h), both.df(x), atol=1e-9)
    np.testing.assert_allclose((both.df(x + h) - both.df(x - h)) / (2 * h), both.d2f(x), atol=1e-9)


@pytest.mark.parametrize("skip", [0.0, 1.0])
def test_a_full_mask_is_a_narrower_layer(skip):
    """At ε = 1 the density is that of the layer without the missing neurons."""
    small, large = [(3, 3)] * 2, [(5, 5)] * 2
    layers = layers_of(Rule("tanh", skip), small + large, MU)
    plain = layers_of(Rule("tanh", skip), small, MU)[0]
    for fields in configurations(layers, 4):
        cut = type(fields)(fields.W[:3, :3], fields.Wdot[:3, :3], fields.z[:3], fields.zdot[:3], fields.z_next_dot[:3])
        assert density(layers[0], fields) == pytest.approx(density(plain, cut), rel=1e-13)
        assert density(layers[3], fields) > density(plain, cut)


@pytest.mark.parametrize(("shape", "skip"), CASES)
def test_removed_neurons_are_felt_by_neither_neighbour(shape, skip):
    """Width broken fully: what the removed half of a site does has no effect, through weights or skip."""
    layers = broken(repeating(shape, skip), "width", 1.0, at=2)
    (fields,) = configurations(layers, 1)
    half = len(fields.z) // 2
    before, after = fields.z_next_dot.copy(), (fields.z.copy(), fields.zdot.copy())
    before[half:] += 1.0
    after[0][half:] += 1.0
    after[1][half:] += 1.0
    assert density(layers[1], replace(fields, z_next_dot=before)) == density(layers[1], fields)
    assert density(layers[2], replace(fields, z=after[0], zdot=after[1])) == density(layers[2], fields)
    assert density(layers[3], replace(fields, z=after[0], zdot=after[1])) != density(layers[3], fields)


@pytest.mark.parametrize("tied", [True, False])
def test_smaller_kernels_and_fewer_channels_are_masks_too(tied):
    head = () if tied else (6,)
    shapes = [(*head, 2, 3, 2), (*head, 3, 5, 3)]
    layers = layers_of(Rule("tanh", 0.0), shapes, MU, cells=6)
    plain = layers_of(Rule("tanh", 0.0), shapes[:1], MU, cells=6)[0]
    for fields in configurations(layers, 4):
        inner = [w[..., :2, 1:4, :2] for w in (fields.W, fields.Wdot)]
        cut = type(fields)(*inner, fields.z[:, :2], fields.zdot[:, :2], fields.z_next_dot[:, :2])
        assert density(layers[0], fields) == pytest.approx(density(plain, cut), rel=1e-13)
    sizes = np.linspace(0, 1, 11)
    found = [
        spread(layers_of(Rule("tanh", 0.0), shapes, MU, 6, size), configurations(layers, 8)).value for size in sizes
    ]
    assert found[0] <= 1e-14 and found[1] > 1e-6 and np.abs(np.diff(found)).max() < 1.2


def test_networks_of_unequal_layers_are_not_symmetric():
    pyramid = layers_of(Rule("tanh", 0.0), [(6, 8), (4, 6), (4, 4)], MU)
    assert spread(pyramid, configurations(pyramid, 8)).value > 0.1
    mixed = layers_of(Rule(("tanh", "relu", "tanh"), 1.0), [(4, 4)] * 3, MU)
    assert spread(mixed, configurations(mixed, 8)).value > 0.01


@pytest.mark.parametrize("kind", ["mlp-residual", "tied-circular-residual", "tied-zeros", "untied-reflect"])
def test_the_bulk_is_the_sum_of_the_densities(nets, kind):
    net = nets.build(kind, "tanh", batch=3)
    z, zdot = net.naive()
    layers = layers_of(net.rule, [w.shape for w in net.W], MU, cells=6)
    inside = bulk(net.rule, net.W, net.Wdot, z, zdot, MU)
    found = [
        density(layer, Configuration(net.W[m], net.Wdot[m], z[m], zdot[m], zdot[m + 1]))
        for m, layer in enumerate(layers)
    ]
    np.testing.assert_allclose(found[1:], inside.layers[1:], rtol=1e-13)


@pytest.mark.parametrize("kind", ["mlp-residual", "tied-circular-residual", "tied-zeros", "untied-reflect"])
def test_moving_the_fields_one_layer_on_changes_nothing_where_layers_repeat(nets, kind):
    net = nets.build(kind, "tanh", batch=2)
    z, zdot = net.naive()
    layers = layers_of(net.rule, [w.shape for w in net.W], MU, cells=6)
    fields = (net.W, net.Wdot, z, zdot)
    assert shift_change(net.rule, layers, *fields, (0, 2)) <= 1e-14
    changes = [
        [shift_change(net.rule, broken(layers, how, size), *fields, (0, 2)) for size in (0.05, 0.1)]
        for how in BREAKINGS
    ]
    assert np.min(changes) > 1e-6
    assert np.all(np.array(changes)[:, 0] < np.array(changes)[:, 1])


def test_bad_requests_are_refused(nets):
    layers, net = repeating(), nets.build("mlp-residual")
    z, zdot = net.naive()
    with pytest.raises(InputError, match="unknown breaking 'depth': use one of activation, width, fan_in, mu, skip"):
        broken(layers, "depth", 0.1)
    with pytest.raises(InputError, match=r"the size of a breaking is 0 … 1, got 1.5"):
        broken(layers, "mu", 1.5)
    with pytest.raises(InputError, match="no place 0 to break width in 5 layers"):
        broken(layers, "width", 0.1, at=0)
    with pytest.raises(InputError, match="all of one kind"):
        layers_of(Rule(), [(3, 3), (2, 3, 2)])
    with pytest.raises(InputError, match="does not tell the number of cells"):
        layers_of(Rule(), [(2, 3, 2)])
    with pytest.raises(InputError, match="layer 1 has 4 cells, another 5"):
        layers_of(Rule(), [(5, 2, 3, 2), (4, 2, 3, 2)])
    with pytest.raises(InputError, match="needs two layers or more"):
        spread(layers[:1], configurations(layers, 2))
    with pytest.raises(InputError, match=r"window \(1, 3\) and its shift must lie within 3 layers"):
        shift_change(net.rule, layers[:3], net.W, net.Wdot, z, zdot, (1, 3))
    with pytest.raises(InputError, match=r"W\[0\] has shape \(5, 5\), its layer \(6, 6\)"):
        shift_change(net.rule, layers[:3], net.W, net.Wdot, z, zdot, (0, 1))
