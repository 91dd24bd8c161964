"""Dense networks of plain lists of W and b, all of whose layers are trained: the textbook network beside the lattice.

    z[l] = W[l] a[l] + b[l],   a[0] = x,   a[l+1] = σ(z[l]),   logits = z[L-1]

or, residual, with pairs of layers as blocks and, if their number is odd, a linear readout at the end:

    a[k+1] = a[k] + W[2k+1] σ(W[2k] a[k] + b[2k]) + b[2k+1].

W[l] is (n_out, n_in) and b[l] (n_out,); a network without biases has b = None. Samples stand in columns, as elsewhere
samples stand last: x (n_in, B). Targets are those of `bbdfield.model.losses.prepare_targets`, (B, outputs).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from bbdfield.errors import InputError
from bbdfield.model.activations import Activation
from bbdfield.model.losses import Loss

Array = npt.NDArray[np.float64]
Weights = list[Array]
Biases = list[Array] | None

#: BLAS works on rows and columns in blocks; the sums of what is left over round differently
_BLOCK = 8


def aligned_product(a: Array, b: Array) -> Array:
    """a @ b in which equal rows of a have equal results, and equal columns of b too, bit for bit.

    Training then leaves equal neurons equal (`bbdfield.observables.manifolds`). BLAS sums up entries in incomplete
    blocks in another order, so zeros complete them; sizes that are multiples of the block cost nothing.
    """
    rows, columns = len(a), b.shape[1]
    if rows % _BLOCK == 0 and columns % _BLOCK == 0:
        return a @ b
    left = np.zeros((-(-rows // _BLOCK) * _BLOCK, a.shape[1]))
    right = np.zeros((len(b), -(-columns // _BLOCK) * _BLOCK))
    left[:rows], right[:, :columns] = a, b
    return np.ascontiguousarray((left @ right)[:rows, :columns])


@dataclass(frozen=True)
class DenseNetwork:
    """What is fixed of a dense network; its parameters are handed in, and their shapes say the rest."""

    activation: Activation
    loss: Loss
    residual: bool = False

    def check(self, w: Sequence[Array], b: Sequence[Array] | None, x: Array, targets: Array | None = None) -> None:
        """Raise InputError unless layers, biases, samples and prepared targets fit to one another."""
        if not w or x.ndim != 2 or (b is not None and len(b) != len(w)):
            raise InputError("dense network: needs at least one W, one b for each W or None, and x of shape (n_in, B)")
        size = len(x)
        for layer, weights in enumerate(w):
            if weights.ndim != 2 or weights.shape[1] != size:
                raise InputError(
                    f"dense network: W[{layer}] has shape {weights.shape}, but its input has {size} numbers"
                )
            if b is not None and b[layer].shape != weights.shape[:1]:
                raise InputError(
                    f"dense network: b[{layer}] has shape {b[layer].shape}, but W[{layer}] {len(weights)} rows"
                )
            size = len(weights)
            if self._closes_block(layer) and size != w[layer - 1].shape[1]:
                raise InputError(
                    f"dense network: W[{layer}] ends a block with {size} numbers that began with"
                    f" {w[layer - 1].shape[1]}; a skip connection needs as many"
                )
        if targets is not None and (np.shape(targets) != (x.shape[1], size) or not x.shape[1]):
            raise InputError(
                f"dense network: targets have shape {np.shape(targets)}, but {x.shape[1]} samples of {size} outputs"
                f" need {(x.shape[1], size)}, as `prepare_targets` makes them"
            )

    def forward(self, w: Sequence[Array], b: Sequence[Array] | None, x: Array) -> list[Array]:
        """Return z of every layer, (n_l, B): what is activated within, the logits at the end.

        In a residual network, z of the second layer of a block is what the block adds.
        """
        self.check(w, b, x)
        return self._forward(w, b, x)[0]

    def logits(self, w: Sequence[Array], b: Sequence[Array] | None, x: Array) -> Array:
        """Return the logits (outputs, B)."""
        self.check(w, b, x)
        z, inputs = self._forward(w, b, x)
        return inputs[-1] if self._closes_block(len(w) - 1) else z[-1]

    def loss_and_gradients(
        self, w: Sequence[Array], b: Sequence[Array] | None, x: Array, targets: Array
    ) -> tuple[float, Weights, Biases]:
        """Return the mean loss over the batch and its exact gradients with respect to W and b."""
        self.check(w, b, x, targets)
        inputs, deltas, loss = self._backward(w, b, x, targets)
        gradients = [aligned_product(delta, a.T) for delta, a in zip(deltas, inputs, strict=True)]
        return loss, gradients, None if b is None else [delta.sum(axis=1) for delta in deltas]

    def per_sample_gradients(self, w: Sequence[Array], b: Sequence[Array] | None, x: Array, targets: Array) -> Array:
        """Return the gradient of each sample's own loss, (B, P): all W, then all b, each in C order."""
        self.check(w, b, x, targets)
        inputs, deltas, _ = self._backward(w, b, x, targets)
        count = x.shape[1]  # the batch mean's 1/B goes
        parts = [count * np.einsum("is,js->sij", d, a).reshape(count, -1) for d, a in zip(deltas, inputs, strict=True)]
        if b is not None:
            parts += [count * delta.T for delta in deltas]
        return np.concatenate(parts, axis=1)

    def _closes_block(self, layer: int) -> bool:
        return self.residual and layer % 2 == 1

    def _is_activated(self, layer: int, layers: int) -> bool:
        """Whether σ acts on z of this layer."""
        return layer % 2 == 0 and layer < layers - 1 if self.residual else layer < layers - 1

    def _forward(self, w: Sequence[Array], b: Sequence[Array] | None, x: Array) -> tuple[list[Array], list[Array]]:
        """z of every layer; a, the input of every layer, with what leaves the last one at the end."""
        z, inputs = [], [np.asarray(x, float)]
        for layer, weights in enumerate(w):
            z.append(aligned_product(weights, inputs[-1]))
            if b is not None:
                z[-1] += b[layer][:, None]
            if self._closes_block(layer):
                inputs.append(inputs[-2] + z[-1])
            else:
                inputs.append(self.activation.f(z[-1]) if self._is_activated(layer, len(w)) else z[-1])
        return z, inputs

    def _backward(
        self, w: Sequence[Array], b: Sequence[Array] | None, x: Array, targets: Array
    ) -> tuple[list[Array], list[Array], float]:
        """The input a of every layer, δ = ∂loss/∂z of every layer, and the loss."""
        z, inputs = self._forward(w, b, x)
        losses, pulled = self.loss.per_sample_and_gradient(np.ascontiguousarray(inputs[-1].T), targets)
        cotangent, skipped = np.ascontiguousarray(pulled.T), None
        deltas: list[Array] = [cotangent] * len(w)
        for layer in reversed(range(len(w))):
            if self._closes_block(layer):
                skipped = cotangent
            elif self._is_activated(layer, len(w)):
                cotangent = cotangent * self.activation.df(z[layer])
            deltas[layer] = cotangent
            cotangent = aligned_product(w[layer].T, cotangent)
            if skipped is not None and not self._closes_block(layer):
                cotangent, skipped = cotangent + skipped, None
        return inputs[:-1], deltas, float(np.mean(losses))


@dataclass(frozen=True)
class DenseStep:
    """What stands after step k (counted from 0): loss of its samples before it, parameters and velocities after it."""

    k: int
    loss: float
    w: Weights
    b: Biases
    w_velocity: Weights
    b_velocity: Biases


def descend(
    network: DenseNetwork,
    w: Sequence[Array],
    b: Sequence[Array] | None,
    batches: Iterable[tuple[Array, Array]],
    rate: float | Iterable[float],
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> Iterator[DenseStep]:
    """Minibatch gradient descent from (w, b), which stay as they are: one step per batch (x, targets).

        v ← μ v − η (G + λ θ),   θ ← θ + v

    Parameters
    ----------
    rate : η, one number or one for every step.   momentum : μ.   weight_decay : λ, of weights and biases.
    """
    ws, bs = [np.array(part, float) for part in w], None if b is None else [np.array(part, float) for part in b]
    v_w, v_b = [np.zeros_like(part) for part in ws], None if bs is None else [np.zeros_like(part) for part in bs]
    rates = iter(rate) if isinstance(rate, Iterable) else None

    def moved(parts: Weights, speeds: Weights, slopes: Weights, eta: float) -> tuple[Weights, Weights]:
        speeds = [momentum * v - eta * (g + weight_decay * p) for p, v, g in zip(parts, speeds, slopes, strict=True)]
        return [p + v for p, v in zip(parts, speeds, strict=True)], speeds

    for k, (x, targets) in enumerate(batches):
        eta = next(rates, None) if rates is not None else rate
        if eta is None:
            raise InputError(f"descend: rate has only {k} entries; give one for every batch")
        with np.errstate(over="ignore", invalid="ignore"):  # what diverges shows in the loss
            loss, g_w, g_b = network.loss_and_gradients(ws, bs, x, targets)
        ws, v_w = moved(ws, v_w, g_w, float(eta))  # type: ignore[arg-type]
        if bs is not None and v_b is not None and g_b is not None:
            bs, v_b = moved(bs, v_b, g_b, float(eta))  # type: ignore[arg-type]
        yield DenseStep(k, loss, ws, bs, v_w, v_b)


def draw_dense(
    widths: Sequence[int], rng: np.random.Generator, gain: float = 1.0, biases: bool = True
) -> tuple[Weights, Biases]:
    """Normal weights of variance gain²/n_in (√2 is He's for relu) between layers of these widths; biases are zero."""
    if len(widths) < 2 or min(widths) < 1:
        raise InputError(f"draw_dense: needs two widths or more, each at least 1 (got {list(widths)})")
    w = [gain / np.sqrt(n_in) * rng.standard_normal((n_out, n_in)) for n_in, n_out in pairwise(widths)]
    return w, [np.zeros(n_out) for n_out in widths[1:]] if biases else None
