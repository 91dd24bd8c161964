"""The output boundary: from z[M] through the readout R to the loss ℓ, the mean over P samples.

logits[p,k] = Σ_i R[k,i] z[M][i,p]                                   R (O, n)
logits[p,k] = Σ_{y,c} R[k,y,c] z[M][y,c,p]                           R (O, N, C)
logits[p,k] = Σ_{y,c,j} R[k,c,j] φ_j(y) z[M][y,c,p]                  R (O, C, J) with a basis φ (N, J)
logits[p,k] = z[M][k,p]                                              no R: the last layer gives the logits itself
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bbdfield.decomposition.maps import Array
from bbdfield.errors import InputError
from bbdfield.model.losses import Loss, get_loss, prepare_targets


def cosine_basis(cells: int, modes: int, a_y: float, length_y: float = 1.0) -> Array:
    """Return φ_j(y_i) = a_y cos(π j y_i / L_y), y_i = (i+½) a_y, as (N, J): the readout of the lattice package."""
    y = a_y * (0.5 + np.arange(cells)[:, None])
    basis: Array = a_y * np.cos(np.arange(modes) * (np.pi * y / length_y))
    return basis


@dataclass(frozen=True)
class Output:
    """Loss and targets of a batch; R is handed in. ℓ, Y and (through z[0]) X are all that a boundary knows of the data.

    Parameters
    ----------
    loss : Loss or str
    targets : array
        Labels (P,) or targets (P, O), as `bbdfield.model.losses.prepare_targets` takes them.
    outputs : int
        Number O of outputs.
    basis : array (N, J), optional
        φ_j(y), for a readout (O, C, J).
    """

    loss: Loss | str
    targets: npt.ArrayLike
    outputs: int
    basis: Array | None = None

    def __post_init__(self) -> None:
        if isinstance(self.loss, str):
            object.__setattr__(self, "loss", get_loss(self.loss))
        targets = np.asarray(self.targets)
        # Hinge's prepared targets are one-hot already and may be handed in again.
        one_hot = targets.ndim == 2 and bool(np.isin(targets, (0.0, 1.0)).all() and (targets.sum(axis=1) == 1).all())
        given = np.argmax(targets, axis=1) if one_hot else targets
        object.__setattr__(self, "targets", prepare_targets(self.loss, given, self.outputs))

    def _matrix(self, z_last: Array, R: Array | None) -> Array:
        """The readout as a matrix (O, neurons)."""
        neurons = int(np.prod(z_last.shape[:-1]))
        if R is None:
            matrix = np.eye(neurons)
        elif self.basis is not None and R.ndim == 3 and R.shape[1:] == (z_last.shape[1], self.basis.shape[1]):
            matrix = np.einsum("kcj,yj->kyc", R, self.basis).reshape(len(R), -1)
        else:
            matrix = R.reshape(len(R), -1)
        if matrix.shape != (self.outputs, neurons):
            shape = None if R is None else R.shape
            raise InputError(
                f"readout: R of shape {shape} can't take z[M] of shape {z_last.shape[:-1]} to {self.outputs} outputs"
            )
        return matrix

    def logits(self, z_last: Array, R: Array | None) -> Array:
        """Return the logits (P, O)."""
        flat = z_last.reshape(-1, z_last.shape[-1])
        return (self._matrix(z_last, R) @ flat).T

    def value(self, z_last: Array, R: Array | None) -> float:
        """Return ℓ, the mean over the samples."""
        return self._loss.value(self._logits(z_last, R), self.targets)

    def gradient(self, z_last: Array, R: Array | None) -> tuple[Array, Array | None]:
        """Return ∂ℓ/∂z[M], with the 1/P of the mean in it, and ∂ℓ/∂R."""
        pulled = self._loss.gradient(self._logits(z_last, R), self.targets)
        delta = (self._matrix(z_last, R).T @ pulled.T).reshape(z_last.shape)
        if R is None:
            return delta, None
        whole = (pulled.T @ z_last.reshape(-1, z_last.shape[-1]).T).reshape(len(R), *z_last.shape[:-1])
        if self.basis is not None and R.shape != whole.shape:
            whole = np.einsum("kyc,yj->kcj", whole, self.basis)
        return delta, whole.reshape(R.shape)

    @property
    def _loss(self) -> Loss:
        return get_loss(self.loss) if isinstance(self.loss, str) else self.loss

    def _logits(self, z_last: Array, R: Array | None) -> Array:
        logits = self.logits(z_last, R)
        if logits.shape != np.shape(self.targets):
            raise InputError(f"readout: targets have shape {np.shape(self.targets)}, the logits {logits.shape}")
        return logits
