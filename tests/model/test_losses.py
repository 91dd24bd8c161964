"""Losses and their gradients against PyTorch, at large logits, and on strict array-API arrays."""

import array_api_strict
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bbdfield.errors import InputError
from bbdfield.model.losses import accuracy, get_loss, log_softmax, loss_names, prepare_targets

SAMPLES, OUTPUTS = 7, 4


def torch_per_sample(name, logits, y):
    """Return PyTorch's loss of every sample, for labels or targets y."""
    labels = y.dtype == torch.int64
    dense = F.one_hot(y, logits.shape[1]).to(logits.dtype) if labels else y
    if name == "mean-square":
        return F.mse_loss(logits, dense, reduction="none").mean(dim=1)
    if name == "cross-entropy":
        return F.cross_entropy(logits, y, reduction="none")
    if name == "kl-divergence":
        return F.kl_div(F.log_softmax(logits, dim=1), dense, reduction="none").sum(dim=1)
    return F.multi_margin_loss(logits, y, reduction="none")


def targets_of(kind, rng):
    if kind == "labels":
        return rng.integers(0, OUTPUTS, SAMPLES)
    if kind == "probabilities":
        return rng.dirichlet(np.ones(OUTPUTS), SAMPLES)
    return rng.standard_normal((SAMPLES, OUTPUTS))


CASES = [(name, "labels") for name in loss_names()] + [
    ("mean-square", "numbers"),
    ("cross-entropy", "probabilities"),
    ("kl-divergence", "probabilities"),
]


@pytest.mark.parametrize("name, kind", CASES)
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_value_and_gradient_match_torch(name, kind, scale):
    rng = np.random.default_rng(3)
    logits, y = scale * rng.standard_normal((SAMPLES, OUTPUTS)), targets_of(kind, rng)
    t = torch.tensor(logits, requires_grad=True)
    expected = torch_per_sample(name, t, torch.tensor(y))
    expected.mean().backward()

    loss, targets = get_loss(name), prepare_targets(name, y, OUTPUTS)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        values, gradient = loss.value_per_sample(logits, targets), loss.gradient(logits, targets)
    expected = expected.detach().numpy()
    assert values.shape == (SAMPLES,)
    np.testing.assert_allclose(values, expected, rtol=1e-13, atol=1e-15 * scale)
    assert np.linalg.norm(gradient - t.grad.numpy()) <= 1e-14 * np.linalg.norm(t.grad.numpy())
    assert loss.value(logits, targets) == pytest.approx(expected.mean(), rel=1e-13)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_both_at_once_are_the_same_bits(name, kind):
    rng = np.random.default_rng(5)
    loss, logits = get_loss(name), 3.0 * rng.standard_normal((SAMPLES, OUTPUTS))
    targets = prepare_targets(loss, targets_of(kind, rng), OUTPUTS)
    values, gradient = loss.per_sample_and_gradient(logits, targets)
    np.testing.assert_array_equal(values, loss.value_per_sample(logits, targets))
    np.testing.assert_array_equal(gradient, loss.gradient(logits, targets))


def test_means_over_the_batch_are_those_of_torch():
    rng = np.random.default_rng(4)
    logits, p = rng.standard_normal((SAMPLES, OUTPUTS)), rng.dirichlet(np.ones(OUTPUTS), SAMPLES)
    f = torch.tensor(logits)
    assert get_loss("mean-square").value(logits, p) == pytest.approx(F.mse_loss(f, torch.tensor(p)).item(), rel=1e-14)
    kl = F.kl_div(F.log_softmax(f, dim=1), torch.tensor(p), reduction="batchmean").item()
    assert get_loss("kl-divergence").value(logits, p) == pytest.approx(kl, rel=1e-13)


@pytest.mark.parametrize("name", loss_names())
def test_strict_array_api_arrays_are_accepted(name):
    rng = np.random.default_rng(5)
    logits, targets = (
        rng.standard_normal((SAMPLES, OUTPUTS)),
        prepare_targets(name, rng.integers(0, OUTPUTS, SAMPLES), OUTPUTS),
    )
    loss, strict = get_loss(name), (array_api_strict.asarray(logits), array_api_strict.asarray(targets))
    for function in (loss.value_per_sample, loss.gradient):
        result = function(*strict)
        assert type(result) is type(strict[0])
        np.testing.assert_allclose(np.from_dlpack(result), function(logits, targets), rtol=1e-14, atol=1e-16)
    assert loss.value(*strict) == pytest.approx(loss.value(logits, targets), rel=1e-14)


def test_log_softmax_of_huge_logits():
    result = log_softmax(np.array([[1e300, 0.0], [-1e4, -1e4]]))
    np.testing.assert_allclose(result, [[0.0, -1e300], [-np.log(2), -np.log(2)]], rtol=1e-15)


def test_labels_are_one_hot_encoded():
    np.testing.assert_array_equal(prepare_targets("hinge", [2, 0], 3), [[0, 0, 1], [1, 0, 0]])
    assert prepare_targets(get_loss("mean-square"), np.array([1], dtype=np.uint8), 2).dtype == np.float64


def test_prepared_targets_are_a_copy():
    y = np.zeros((1, 2))
    prepare_targets("mean-square", y, 2)[0, 0] = 1.0
    assert y[0, 0] == 0.0


@pytest.mark.parametrize(
    "name, y, message",
    [
        ("cross-entropy", [0, 3], "label 3 of sample 1 is outside 0 … 2"),
        ("hinge", [-1, 0], "label -1 of sample 0"),
        ("hinge", np.eye(3), "loss hinge: needs integer labels"),
        ("mean-square", np.zeros((2, 4)), r"numbers \(n, 3\), got float64 of shape \(2, 4\)"),
        ("mean-square", np.zeros(2), r"got float64 of shape \(2,\)"),
        ("mean-square", np.array([["a", "b", "c"]]), "targets must be"),
        ("mean-square", [[0.0, np.nan, 0.0]], "sample 0 is not finite"),
        ("cross-entropy", [[0.5, 0.5, 0.0], [0.5, 0.6, 0.0]], "sample 1 is no probability distribution"),
        ("kl-divergence", [[1.5, -0.5, 0.0]], "sample 0 is no probability distribution"),
    ],
)
def test_bad_targets_are_refused(name, y, message):
    with pytest.raises(InputError, match=message):
        prepare_targets(name, y, 3)


def test_unknown_loss_names_the_known_ones():
    with pytest.raises(InputError, match="mean-square, cross-entropy, kl-divergence, hinge"):
        get_loss("mse")


@pytest.mark.parametrize("module", [np, array_api_strict])
def test_accuracy_counts_labels_and_targets(module):
    logits = module.asarray([[0.0, 2.0], [3.0, 1.0], [0.0, 1.0], [5.0, 4.0]])
    assert accuracy(logits, module.asarray([1, 0, 0, 0])) == 0.75
    assert accuracy(logits, module.asarray([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.4]])) == 0.5


def test_accuracy_refuses_arrays_that_would_broadcast():
    with pytest.raises(InputError, match="do not match"):
        accuracy(np.zeros((3, 2)), np.zeros(1, dtype=int))
