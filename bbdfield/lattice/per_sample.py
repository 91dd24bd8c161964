"""The gradient of every sample's own loss, of the discrete network.

    ∂ℓ_s/∂w[m] = δ_s[m+1] ⊗ σ(z_s[m]),   ∂ℓ_s/∂b[m] = δ_s[m+1],   ∂ℓ_s/∂R = ∂ℓ_s/∂f ⊗ moments of z_s[M]

One back-propagation of all samples leaves δ of each of them; the products above, which a training step sums over
samples, are kept apart here. They come layer by layer, so that a Gram matrix of a few hundred samples needs the memory
of one layer's gradients only, however many parameters the network has.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from bbdfield.lattice.network import Network, pad, readout_basis
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import Lattice
from bbdfield.model.boundary import Boundary
from bbdfield.model.losses import get_loss

Array = npt.NDArray[np.float64]


def per_sample_gradients(
    lattice: Lattice, boundary: Boundary, parameters: tuple[Array, Array, Array], index: npt.NDArray[np.int64]
) -> Iterator[tuple[str, Array]]:
    """Gradients with respect to θ, b, R of single training samples, in parts: ("w", "b" or "r", (samples, numbers)).

    Parts come as ("w", layer 0), ("b", layer 0), ("w", layer 1), …, ("r", R), so that the parts of one group, side by
    side, are its parameters in C order. θ are the taps, or the moments of the derivative range.

    Parameters
    ----------
    parameters : θ (M, [N], C, P, C), b (M, N, C), R (outputs, C, modes) as in `LatticeState`.
    index : which training samples.

    Raises
    ------
    InputError
        if the arrays do not belong to the lattice.
    """
    theta, b, r = parameters
    matrix = lattice.range.taps(lattice.a_y)
    w = theta if matrix is None else np.einsum("kp,...apb->...akb", matrix, theta)
    activation = lattice.law.activation(get_activation(lattice.activation), lattice.a_x)
    network = Network(
        activation, get_loss(lattice.loss), lattice.padding, lattice.a_y, lattice.length_y, lattice.law.skip
    )
    z0, targets, count = boundary.input(index, lattice.width), boundary.targets[index], len(index)
    found = network.loss_and_gradients(z0, w, b, r, targets, keep_delta=True)
    assert found.delta is not None
    delta = found.delta * count  # the batch mean's 1/B goes
    z = network.forward(z0, w, b)
    taps = w.shape[-2]
    for m in range(lattice.depth):
        padded = pad(activation.f(z[m]), taps // 2, lattice.padding)
        seen = sliding_window_view(padded, taps, axis=0)  # (N, C_in, B, T)
        subscripts = "ycs,ydsk->sckd" if lattice.range.tied else "ycs,ydsk->syckd"
        layer = np.einsum(subscripts, delta[m + 1], seen, optimize=True)
        if matrix is not None:
            layer = np.einsum("kp,...akb->...apb", matrix, layer)
        yield "w", layer.reshape(count, -1)
        yield "b", np.ascontiguousarray(np.moveaxis(delta[m + 1], -1, 0)).reshape(count, -1)
    basis = lattice.a_y * readout_basis(lattice.width, r.shape[2], lattice.a_y, lattice.length_y)
    moments = np.einsum("yj,ycs->scj", basis, z[-1])
    pulled = count * network.loss.gradient(found.logits, targets)
    yield "r", np.einsum("so,scj->socj", pulled, moments).reshape(count, -1)
