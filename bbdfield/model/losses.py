"""Loss functions ℓ(logits, Y) with their gradients, for every array-API namespace.

The conventions are those of PyTorch. Targets are prepared once, by `prepare_targets`, as one float array Y of
shape (B, O), so that what runs at every training step has no branch:

=============  ===================================  ========================================================
name           Y                                    value per sample, f = logits, p = softmax(f)
=============  ===================================  ========================================================
mean-square    one-hot labels, or any targets       mean_k (f_k − Y_k)²
cross-entropy  one-hot labels, or probabilities     −Σ_k Y_k log p_k
kl-divergence  one-hot labels, or probabilities     Σ_k Y_k (log Y_k − log p_k), with 0 log 0 = 0
hinge          one-hot labels                       mean_k [k ≠ y] max(0, 1 − f_y + f_k), y the label
=============  ===================================  ========================================================
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from bbdfield.errors import InputError

Array = Any
"""An array of any array-API namespace."""

_PROBABILITY_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Loss:
    """A loss ℓ(f, Y), f the logits (B, O) and Y the prepared targets (B, O).

    Parameters
    ----------
    name : str
    value_per_sample : callable
        (f, Y) ↦ ℓ per sample, shape (B,).
    gradient : callable
        (f, Y) ↦ ∂/∂f of the mean of ℓ over the batch, shape (B, O): it holds the 1/B.
    combined : callable, optional
        (f, Y) ↦ both at once, the same bits, when sharing work makes it faster than the two calls.
    """

    name: str
    value_per_sample: Callable[[Array, Array], Array]
    gradient: Callable[[Array, Array], Array]
    combined: Callable[[Array, Array], tuple[Array, Array]] | None = None

    def per_sample_and_gradient(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        """Return (ℓ per sample, its gradient)."""
        if self.combined is not None:
            return self.combined(logits, targets)
        return self.value_per_sample(logits, targets), self.gradient(logits, targets)

    def value(self, logits: Array, targets: Array) -> float:
        """Return the mean of the loss over the batch."""
        return float(array_namespace(logits).mean(self.value_per_sample(logits, targets)))


def log_softmax(logits: Array) -> Array:
    """Return log softmax over the last axis; subtracting the maximum first keeps exp from overflowing."""
    xp = array_namespace(logits)
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def _square(logits: Array, targets: Array) -> Array:
    return array_namespace(logits).mean((logits - targets) ** 2, axis=1)


def _square_gradient(logits: Array, targets: Array) -> Array:
    samples, outputs = logits.shape
    return (logits - targets) * (2.0 / (samples * outputs))


def _cross_entropy(logits: Array, targets: Array) -> Array:
    return -array_namespace(logits).sum(targets * log_softmax(logits), axis=1)


def _cross_entropy_gradient(logits: Array, targets: Array) -> Array:
    xp = array_namespace(logits)
    mass = xp.sum(targets, axis=1, keepdims=True)
    return (mass * xp.exp(log_softmax(logits)) - targets) / logits.shape[0]


def _cross_entropy_both(logits: Array, targets: Array) -> tuple[Array, Array]:
    xp = array_namespace(logits)
    logs, mass = log_softmax(logits), xp.sum(targets, axis=1, keepdims=True)
    return -xp.sum(targets * logs, axis=1), (mass * xp.exp(logs) - targets) / logits.shape[0]


def _kl_divergence(logits: Array, targets: Array) -> Array:
    xp = array_namespace(logits)
    log_targets = xp.log(xp.where(targets > 0, targets, xp.ones_like(targets)))
    return xp.sum(targets * (log_targets - log_softmax(logits)), axis=1)


def _margins(logits: Array, targets: Array) -> Array:
    """Return 1 − f_y + f_k, and 0 at k = y."""
    xp = array_namespace(logits)
    return (1.0 - xp.sum(logits * targets, axis=1, keepdims=True) + logits) * (1.0 - targets)


def _hinge(logits: Array, targets: Array) -> Array:
    xp = array_namespace(logits)
    margins = _margins(logits, targets)
    return xp.mean(xp.maximum(margins, xp.zeros_like(margins)), axis=1)


def _hinge_gradient(logits: Array, targets: Array) -> Array:
    xp = array_namespace(logits)
    samples, outputs = logits.shape
    active = xp.astype(_margins(logits, targets) > 0, logits.dtype)
    return (active - targets * xp.sum(active, axis=1, keepdims=True)) / (samples * outputs)


_LOSSES = {
    loss.name: loss
    for loss in (
        Loss("mean-square", _square, _square_gradient),
        Loss("cross-entropy", _cross_entropy, _cross_entropy_gradient, _cross_entropy_both),
        # The two differ by the entropy of Y, which the logits do not enter.
        Loss("kl-divergence", _kl_divergence, _cross_entropy_gradient),
        Loss("hinge", _hinge, _hinge_gradient),
    )
}


def loss_names() -> tuple[str, ...]:
    """Return the names that `get_loss` knows."""
    return tuple(_LOSSES)


def get_loss(name: str) -> Loss:
    """Return the loss called `name`; raise InputError, listing the known names, if there is none."""
    if name not in _LOSSES:
        raise InputError(f"unknown loss {name!r}: use one of {', '.join(_LOSSES)}")
    return _LOSSES[name]


def prepare_targets(loss: Loss | str, y: npt.ArrayLike, outputs: int) -> npt.NDArray[np.float64]:
    """Return the targets of `loss` as the float array (n, outputs) that its functions take.

    Parameters
    ----------
    loss : Loss or str
    y : array
        Integer labels (n,) in 0 … outputs − 1, which are one-hot encoded, or targets (n, outputs): any finite
        numbers for mean-square, probabilities for cross-entropy and kl-divergence; hinge takes labels only.
    outputs : int
        Number of outputs O.

    Raises
    ------
    InputError
        If the shape, the type or a value is not as above.
    """
    name = loss.name if isinstance(loss, Loss) else get_loss(loss).name
    given = np.asarray(y)
    if given.ndim == 1 and given.dtype.kind in "iu":
        return _one_hot(name, given, outputs)
    if name == "hinge":
        raise InputError(
            f"loss hinge: needs integer labels of shape (n,), got {given.dtype} of shape {given.shape}; "
            "give labels or choose another loss"
        )
    if given.ndim != 2 or given.shape[1] != outputs or given.dtype.kind not in "iuf":
        raise InputError(
            f"loss {name}: targets must be integer labels (n,) or numbers (n, {outputs}), "
            f"got {given.dtype} of shape {given.shape}"
        )
    targets = given.astype(np.float64)
    bad = ~np.isfinite(targets).all(axis=1)
    if bad.any():
        raise InputError(f"loss {name}: the target of sample {bad.argmax()} is not finite; remove or mend it")
    if name != "mean-square":
        bad = (targets < 0).any(axis=1) | (np.abs(targets.sum(axis=1) - 1.0) > _PROBABILITY_TOLERANCE)
        if bad.any():
            raise InputError(
                f"loss {name}: the target of sample {bad.argmax()} is no probability distribution "
                "(non-negative, sum 1); normalise it or choose mean-square"
            )
    return targets


def _one_hot(name: str, labels: npt.NDArray[np.integer], outputs: int) -> npt.NDArray[np.float64]:
    bad = (labels < 0) | (labels >= outputs)
    if bad.any():
        worst = bad.argmax()
        raise InputError(
            f"loss {name}: label {labels[worst]} of sample {worst} is outside 0 … {outputs - 1}; "
            "raise the number of outputs or mend the labels"
        )
    encoded = np.zeros((len(labels), outputs))
    encoded[np.arange(len(labels)), labels] = 1.0
    return encoded


def accuracy(logits: Array, y: Array) -> float:
    """Return the fraction of samples whose largest logit is at the label, or at the largest of Y (n, O)."""
    xp = array_namespace(logits, y)
    if y.ndim not in (1, 2) or y.shape[0] != logits.shape[0] or (y.ndim == 2 and y.shape != logits.shape):
        raise InputError(f"accuracy: logits {tuple(logits.shape)} and targets {tuple(y.shape)} do not match")
    labels = xp.argmax(y, axis=1) if y.ndim == 2 else y
    return float(xp.mean(xp.astype(xp.argmax(logits, axis=1) == labels, xp.float64)))
