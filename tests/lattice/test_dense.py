"""Dense networks against PyTorch's own gradients, and their descent against a loop written out."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.lattice.dense import DenseNetwork, descend, draw_dense
from bbdfield.model.activations import get_activation
from bbdfield.model.losses import get_loss, prepare_targets

WIDTHS = {"plain": [5, 7, 6, 3], "residual": [5, 7, 5, 8, 5, 3], "blocks": [5, 7, 5, 4, 5]}


def case(kind, activation="tanh", loss="cross-entropy", biases=True, samples=9):
    rng = np.random.default_rng(len(kind))
    w, b = draw_dense(WIDTHS[kind], rng, gain=1.3, biases=biases)
    if b is not None:
        b = [0.3 * rng.standard_normal(part.shape) for part in b]
    network = DenseNetwork(get_activation(activation), get_loss(loss), residual=kind != "plain")
    x, outputs = rng.standard_normal((5, samples)), WIDTHS[kind][-1]
    return network, w, b, x, prepare_targets(loss, rng.integers(0, outputs, samples), outputs)


def torch_logits(torch, network, w, b, x):
    act = {"tanh": torch.tanh, "relu": torch.relu}[network.activation.name]
    a = x
    if not network.residual:
        for k, weights in enumerate(w):
            a = weights @ a + (0 if b is None else b[k][:, None])
            a = act(a) if k < len(w) - 1 else a
        return a
    for k in range(0, len(w) - 1, 2):
        h = act(w[k] @ a + (0 if b is None else b[k][:, None]))
        a = a + w[k + 1] @ h + (0 if b is None else b[k + 1][:, None])
    return w[-1] @ a + (0 if b is None else b[-1][:, None]) if len(w) % 2 else a


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("kind", list(WIDTHS))
def test_gradients_are_those_of_torch(kind, activation, biases):
    torch = pytest.importorskip("torch")
    network, w, b, x, targets = case(kind, activation, biases=biases)
    loss, g_w, g_b = network.loss_and_gradients(w, b, x, targets)
    tw = [torch.tensor(part, requires_grad=True) for part in w]
    tb = None if b is None else [torch.tensor(part, requires_grad=True) for part in b]
    logits = torch_logits(torch, network, tw, tb, torch.tensor(x))
    value = torch.nn.functional.cross_entropy(logits.T, torch.tensor(targets.argmax(axis=1)))
    value.backward()
    np.testing.assert_allclose(network.logits(w, b, x), logits.detach().numpy(), rtol=0, atol=1e-13)
    assert abs(loss - float(value.detach())) < 1e-13
    pairs = [*zip(g_w, tw, strict=True), *([] if b is None else zip(g_b, tb, strict=True))]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", list(WIDTHS))
def test_per_sample_gradients_are_those_of_single_samples_and_their_mean(kind):
    network, w, b, x, targets = case(kind, "relu", "mean-square")
    each = network.per_sample_gradients(w, b, x, targets)
    for s in range(x.shape[1]):
        _, g_w, g_b = network.loss_and_gradients(w, b, x[:, s : s + 1], targets[s : s + 1])
        np.testing.assert_allclose(each[s], np.concatenate([g.ravel() for g in [*g_w, *g_b]]), rtol=0, atol=1e-13)
    _, g_w, g_b = network.loss_and_gradients(w, b, x, targets)
    np.testing.assert_allclose(each.mean(0), np.concatenate([g.ravel() for g in [*g_w, *g_b]]), rtol=0, atol=1e-13)


def test_descent_is_the_loop_written_out():
    network, w, b, x, targets = case("plain")
    batches = [(x[:, k : k + 3], targets[k : k + 3]) for k in range(6)]
    mu, decay, eta = 0.7, 0.02, 0.1
    steps = list(descend(network, w, b, batches, eta, momentum=mu, weight_decay=decay))
    theta, v = [*w, *b], [np.zeros_like(part) for part in [*w, *b]]
    for (batch, wanted), step in zip(batches, steps, strict=True):
        loss, g_w, g_b = network.loss_and_gradients(theta[:3], theta[3:], batch, wanted)
        v = [mu * p - eta * (g + decay * q) for p, g, q in zip(v, [*g_w, *g_b], theta, strict=True)]
        theta = [p + q for p, q in zip(theta, v, strict=True)]
        assert step.loss == loss
        for ours, written in zip([*step.w, *step.b], theta, strict=True):
            np.testing.assert_array_equal(ours, written)
    assert not np.array_equal(w[0], steps[-1].w[0]) and steps[0].w[0] is not steps[1].w[0]


def test_a_schedule_gives_every_step_its_rate():
    network, w, b, x, targets = case("plain", biases=False)
    first, second = descend(network, w, b, [(x, targets)] * 2, [0.1, 0.0])
    assert b is None and first.b is None
    np.testing.assert_array_equal(first.w[1], second.w[1])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda w, b: ([*w[:-1], w[-1][:, :-1]], b), r"W\[2\]"),
        (lambda w, b: (w, b[:-1]), "one b for each W"),
        (lambda w, b: (w, [b[0][:-1], *b[1:]]), r"b\[0\]"),
    ],
)
def test_what_does_not_fit_is_refused(change, complaint):
    network, w, b, x, _ = case("plain")
    with pytest.raises(InputError, match=complaint):
        network.forward(*change(w, b), x)


def test_a_block_must_end_as_wide_as_it_began():
    network, w, b, x, _ = case("residual")
    with pytest.raises(InputError, match="as many"):
        network.logits([w[0], w[1][:-1]], [b[0], b[1][:-1]], x)
