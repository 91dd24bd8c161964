"""The network against PyTorch's differentiation and a naive loop; its operators against adjoints."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bbdfield.errors import InputError
from bbdfield.lattice import network
from bbdfield.lattice.network import (
    PADDINGS,
    Network,
    fold,
    forward,
    pad,
    readout,
    readout_basis,
    width_operator,
    width_operator_adjoint,
)
from bbdfield.model import activations
from bbdfield.model.activations import get_activation, register_activation
from bbdfield.model.losses import get_loss, loss_names, prepare_targets

TORCH_ACTIVATIONS = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "relu": torch.relu,
    "gelu": F.gelu,
    "identity": lambda x: x,
    "sine": torch.sin,
}
TIES = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
EVERY_PADDING = pytest.mark.parametrize("padding", PADDINGS)


@pytest.fixture(autouse=True)
def sine(monkeypatch):
    """A user's own activation, forgotten at the end of each test."""
    monkeypatch.setattr(activations, "_REGISTERED", {})
    return register_activation("sine", np.sin, np.cos)


def parameters(rng, tied, m=3, n=8, c=3, k=2, o=3, j=6):
    """Return w, b, r, large enough for the activations to act non-linearly."""
    w = rng.standard_normal((m, c, 2 * k + 1, c) if tied else (m, n, c, 2 * k + 1, c)) / (2 * k + 1)
    return w, 0.3 * rng.standard_normal((m, n, c)), rng.standard_normal((o, c, j))


def torch_logits(z, w, b, r, sigma, padding, skip, length_y):
    """Return the logits (B, O) the straightforward way: gather the neighbours of every cell, then einsum."""
    n, k = z.shape[0], w.shape[-2] // 2
    at = torch.arange(n)[:, None] + torch.arange(-k, k + 1)[None, :]
    inside = ((at >= 0) & (at < n)).to(z.dtype)
    if padding == "circular":
        at = at % n
    elif padding == "reflect":
        at = torch.where(at < 0, -1 - at, torch.where(at >= n, 2 * n - 1 - at, at))
    for m in range(w.shape[0]):
        s = sigma(z)
        if padding == "zeros":
            taps = s[at.clamp(0, n - 1)] * inside[:, :, None, None]
        else:
            taps = s[at]
        rule = "cuk,nukb->ncb" if w.ndim == 4 else "ncuk,nukb->ncb"
        z = skip * z + torch.einsum(rule, w[m], taps) + b[m][:, :, None]
    a_y = length_y / n
    y = (torch.arange(n, dtype=z.dtype) + 0.5) * a_y
    modes = torch.stack([torch.cos(torch.pi * j * y / length_y) for j in range(r.shape[2])])
    return a_y * torch.einsum("kcj,jn,ncb->bk", r, modes, z)


def torch_loss(name, logits, labels):
    dense = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    if name == "mean-square":
        return F.mse_loss(logits, dense)
    if name == "cross-entropy":
        return F.cross_entropy(logits, labels)
    if name == "kl-divergence":
        return F.kl_div(F.log_softmax(logits, dim=1), dense, reduction="batchmean")
    return F.multi_margin_loss(logits, labels)


@pytest.mark.parametrize(
    "skip, data_channels, c, n",
    [(1.0, 1, 2, 7), (0.0, 2, 3, 9), (0.5, 2, 3, 8)],
    ids=["residual", "plain", "half"],
)
@TIES
@EVERY_PADDING
@pytest.mark.parametrize("loss", loss_names())
@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_loss_and_gradients_match_torch(activation, loss, padding, tied, skip, data_channels, c, n):
    rng = np.random.default_rng(11)
    x, labels = rng.standard_normal((3, data_channels, n)), rng.integers(0, 3, 3)
    lift = rng.standard_normal((c, data_channels))
    w, b, r = parameters(rng, tied, n=n, c=c)
    length_y = 2.5

    net = Network(get_activation(activation), get_loss(loss), padding, length_y / n, length_y, skip)
    z0 = np.einsum("cd,sdy->ycs", lift, x)
    found = net.loss_and_gradients(z0, w, b, r, prepare_targets(loss, labels, 3), keep_delta=True)

    z0_t = torch.einsum("cd,sdy->ycs", torch.tensor(lift), torch.tensor(x)).requires_grad_()
    w_t, b_t, r_t = (torch.tensor(a, requires_grad=True) for a in (w, b, r))
    logits = torch_logits(z0_t, w_t, b_t, r_t, TORCH_ACTIVATIONS[activation], padding, skip, length_y)
    expected = torch_loss(loss, logits, torch.tensor(labels))
    expected.backward()

    assert found.loss == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(found.logits, logits.detach().numpy(), rtol=1e-12, atol=1e-13)
    for name, mine, theirs in (
        ("w", found.gradients["w"], w_t.grad),
        ("b", found.gradients["b"], b_t.grad),
        ("r", found.gradients["r"], r_t.grad),
        ("z0", found.delta[0], z0_t.grad),
    ):
        scale = np.linalg.norm(theirs.numpy())
        assert scale > 0, name
        assert np.linalg.norm(mine - theirs.numpy()) <= 1e-12 * scale, name


@TIES
@EVERY_PADDING
@pytest.mark.parametrize("skip", [0.0, 1.0])
def test_forward_matches_a_naive_loop(padding, tied, skip):
    rng = np.random.default_rng(1)
    n, c, k, samples = 7, 2, 3, 2
    w, b, _ = parameters(rng, tied, m=2, n=n, c=c, k=k)
    z0 = rng.standard_normal((n, c, samples))

    expected = np.zeros((3, n, c, samples))
    expected[0] = z0
    for m, y, i, s in np.ndindex(2, n, c, samples):
        total = skip * expected[m, y, i, s] + b[m, y, i]
        for u in range(2 * k + 1):
            at = y + u - k
            if padding == "circular":
                at %= n
            elif padding == "reflect":
                at = -1 - at if at < 0 else 2 * n - 1 - at if at >= n else at
            elif not 0 <= at < n:
                continue
            for q in range(c):
                total += (w[m, i, u, q] if tied else w[m, y, i, u, q]) * np.tanh(expected[m, at, q, s])
        expected[m + 1, y, i, s] = total

    z = forward(z0, w, b, get_activation("tanh"), padding, skip)
    np.testing.assert_allclose(z, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("reach", [0, 1, 3, 7])
@TIES
@EVERY_PADDING
def test_adjoints_of_width_operator_and_padding(padding, tied, reach):
    rng = np.random.default_rng(reach)
    n, c, taps = 7, 3, 2 * reach + 1
    w = rng.standard_normal((c, taps, c) if tied else (n, c, taps, c))
    u, v = rng.standard_normal((2, n, c, 4))
    left, right = np.vdot(width_operator(w, u, padding), v), np.vdot(u, width_operator_adjoint(w, v, padding))
    scale = np.linalg.norm(w) * np.linalg.norm(u) * np.linalg.norm(v)
    assert abs(left - right) <= 1e-13 * scale

    g = rng.standard_normal((n + 2 * reach, c, 4))
    left, right = np.vdot(pad(u, reach, padding), g), np.vdot(u, fold(g.copy(), reach, padding))
    assert abs(left - right) <= 1e-13 * np.linalg.norm(u) * np.linalg.norm(g)


@pytest.mark.parametrize("padding, mode", [("zeros", "constant"), ("circular", "wrap"), ("reflect", "symmetric")])
@pytest.mark.parametrize("reach", [0, 2, 5])
def test_padding_is_that_of_numpy(padding, mode, reach):
    values = np.random.default_rng(0).standard_normal((5, 2, 3))
    expected = np.pad(values, ((reach, reach), (0, 0), (0, 0)), mode=mode)
    np.testing.assert_array_equal(pad(values, reach, padding), expected)


def test_zero_padding_takes_a_kernel_wider_than_the_lattice():
    rng = np.random.default_rng(0)
    w, u, v = rng.standard_normal((2, 15, 2)), *rng.standard_normal((2, 3, 2, 2))
    inner = w[:, 5:10]
    np.testing.assert_allclose(width_operator(w, u, "zeros"), width_operator(inner, u, "zeros"), rtol=1e-13)
    forth, back = np.vdot(width_operator(w, u, "zeros"), v), np.vdot(u, width_operator_adjoint(w, v, "zeros"))
    assert forth == pytest.approx(back, rel=1e-12)


@TIES
def test_delta_is_the_gradient_at_every_layer(tied):
    """Starting the network at layer m, δ of the shorter network begins with δ[m] of the whole one."""
    rng = np.random.default_rng(5)
    w, b, r = parameters(rng, tied)
    z0, targets = rng.standard_normal((8, 3, 4)), rng.standard_normal((4, 3))
    net = Network(get_activation("tanh"), get_loss("mean-square"), "reflect", 1 / 8)
    z, whole = net.forward(z0, w, b), net.loss_and_gradients(z0, w, b, r, targets, keep_delta=True)
    for m in range(len(w)):
        part = net.loss_and_gradients(z[m], w[m:], b[m:], r, targets, keep_delta=True)
        np.testing.assert_allclose(part.delta, whole.delta[m:], rtol=1e-13, atol=1e-16)


def test_results_do_not_depend_on_earlier_calls():
    """The work arrays are reused: neither results handed out nor later ones may feel it."""
    rng = np.random.default_rng(6)
    w, b, r = parameters(rng, tied=False)
    samples = {size: (rng.standard_normal((8, 3, size)), rng.standard_normal((size, 3))) for size in (4, 2, 5)}

    def fresh():
        return Network(get_activation("gelu"), get_loss("mean-square"), "circular", 1 / 8)

    used = fresh()
    first = used.loss_and_gradients(samples[4][0], w, b, r, samples[4][1], keep_delta=True)
    kept = {name: g.copy() for name, g in first.gradients.items()}
    used.loss_and_gradients(samples[4][0] * np.nan, w, b, r, samples[4][1])
    for size in (2, 5, 4):
        again = used.loss_and_gradients(samples[size][0], w, b, r, samples[size][1])
        alone = fresh().loss_and_gradients(samples[size][0], w, b, r, samples[size][1])
        assert again.loss == alone.loss
        for name in "wbr":
            np.testing.assert_array_equal(again.gradients[name], alone.gradients[name])
    for name in "wbr":
        np.testing.assert_array_equal(first.gradients[name], kept[name])
    assert len(used._workspaces) == 2


def test_gradients_go_where_they_are_told():
    rng = np.random.default_rng(7)
    w, b, r = parameters(rng, tied=True)
    z0, targets = rng.standard_normal((8, 3, 4)), rng.standard_normal((4, 3))
    net = Network(get_activation("tanh"), get_loss("mean-square"), "zeros", 1 / 8)
    out = {"w": np.empty_like(w), "b": np.empty_like(b), "r": np.empty_like(r)}
    told, own = (net.loss_and_gradients(z0, w, b, r, targets, out=o) for o in (out, None))
    assert told.delta is None
    assert all(told.gradients[name] is out[name] for name in "wbr")
    for name in "wbr":
        np.testing.assert_array_equal(out[name], own.gradients[name])
    # The parameters and the input are read only.
    before = z0.copy(), w.copy()
    net.logits(z0, w, b, r)
    np.testing.assert_array_equal(z0, before[0])
    np.testing.assert_array_equal(w, before[1])


def test_non_contiguous_input_is_accepted():
    rng = np.random.default_rng(8)
    w, b, r = parameters(rng, tied=True)
    z0, targets = rng.standard_normal((4, 3, 8)).T, rng.standard_normal((4, 3))
    net = Network(get_activation("tanh"), get_loss("mean-square"), "zeros", 1 / 8)
    tidy, odd = (net.loss_and_gradients(z0, a, b, r, targets).loss for a in (w, np.asfortranarray(w)))
    assert tidy == pytest.approx(odd, rel=1e-14)
    assert tidy == pytest.approx(net.loss_and_gradients(z0.copy(order="C"), w, b, r, targets).loss, rel=1e-14)


def test_logits_and_readout_agree():
    rng = np.random.default_rng(9)
    w, b, r = parameters(rng, tied=False)
    z0 = rng.standard_normal((8, 3, 5))
    net = Network(get_activation("sigmoid"), get_loss("hinge"), "reflect", 0.25, 2.0)
    z = net.forward(z0, w, b)
    y = (np.arange(8) + 0.5) * 0.25
    modes = np.cos(np.pi * np.arange(6)[None] * y[:, None] / 2.0)
    expected = 0.25 * np.einsum("kcj,yj,ycs->sk", r, modes, z[-1])
    np.testing.assert_allclose(readout_basis(8, 6, 0.25, 2.0), modes, atol=1e-14)
    np.testing.assert_allclose(readout(z[-1], r, 0.25, 2.0), expected, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(net.logits(z0, w, b, r), expected, rtol=1e-13, atol=1e-14)


def test_forward_writes_to_the_given_array():
    rng = np.random.default_rng(10)
    w, b, _ = parameters(rng, tied=True)
    z0, out = rng.standard_normal((8, 3, 2)), np.empty((4, 8, 3, 2))
    net = Network(get_activation("tanh"), get_loss("hinge"), "zeros", 1 / 8)
    assert net.forward(z0, w, b, out) is out
    np.testing.assert_array_equal(out, net.forward(z0, w, b))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"z0": np.zeros((8, 3))}, r"z0 has shape \(8, 3\)"),
        ({"w": np.zeros((3, 3, 4, 3))}, "with T odd"),
        ({"w": np.zeros((3, 7, 3, 5, 3))}, "w has shape"),
        ({"b": np.zeros((2, 8, 3))}, r"b has shape \(2, 8, 3\), not \(M, N, C\) = \(3, 8, 3\)"),
        ({"r": np.zeros((3, 2, 6))}, r"r has shape \(3, 2, 6\)"),
        ({"targets": np.zeros((3, 4))}, r"targets have shape \(3, 4\), not \(B, O\) = \(4, 3\)"),
        ({"out": dict.fromkeys("wbr", np.zeros(3))}, r"out\['w'\] must be a C-ordered array"),
        ({"w": np.zeros((3, 3, 19, 3))}, "reaches 9 cells but the lattice has 8"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    arrays = dict(zip("wbr", parameters(np.random.default_rng(0), tied=True), strict=True))
    arrays = {"z0": np.zeros((8, 3, 4)), **arrays, "targets": np.zeros((4, 3)), **change}
    net = Network(get_activation("tanh"), get_loss("mean-square"), "circular", 1 / 8)
    with pytest.raises(InputError, match=message):
        net.loss_and_gradients(**arrays)


def test_unknown_padding_is_refused():
    with pytest.raises(InputError, match="unknown padding 'same': use one of zeros, circular, reflect"):
        network.check_padding("same", 4, 1)
