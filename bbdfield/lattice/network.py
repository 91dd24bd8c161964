"""The discrete network on the lattice: forward pass and exact back-propagation, in plain NumPy.

    z[m+1][y,c] = s z[m][y,c] + Σ_{u,c'} w[m](y)[c,u,c'] σ(z[m])[y+u−K, c'] + b[m][y,c],      m = 0 … M−1
    logits[s,k] = a_y Σ_{y,c,j} r[k,c,j] cos(π j y_i / L_y) z[M][y,c,s],                      y_i = (i+½) a_y

Layouts (float64, C order): z (M+1, N, C, B); w tied (M, C, T, C) or untied (M, N, C, T, C), with T = 2K+1
taps; b (M, N, C); r (O, C, J); logits (B, O). Padding acts on σ(z): "zeros" vanishes outside, "circular" is
periodic, "reflect" is the even extension about the edge of the outermost cell (NumPy's "symmetric").

With the samples innermost, the T·C inputs of a cell are one contiguous run of the padded activations, so
the convolution is a matrix product over a strided view and copies nothing. The adjoint is the same product
with the flipped, transposed kernel over the zero-padded cotangent, folded back by the padding's adjoint.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from bbdfield.errors import InputError
from bbdfield.model.activations import Activation
from bbdfield.model.losses import Loss

Array = npt.NDArray[np.float64]

PADDINGS = ("zeros", "circular", "reflect")


# Width operator


def check_padding(padding: str, cells: int, reach: int) -> None:
    """Raise InputError unless `padding` is known and a kernel of `reach` K fits a lattice of `cells` N."""
    if padding not in PADDINGS:
        raise InputError(f"unknown padding {padding!r}: use one of {', '.join(PADDINGS)}")
    if padding != "zeros" and reach > cells:
        raise InputError(
            f"{padding} padding: the kernel reaches {reach} cells but the lattice has {cells}; "
            "narrow the kernel, widen the lattice or use zeros padding"
        )


def _fill_ghosts(padded: Array, reach: int, padding: str) -> None:
    """Set the K ghost cells at either end of `padded` (N+2K, …) from its N inner cells."""
    end = len(padded) - reach
    if padding == "zeros":
        padded[:reach] = 0.0
        padded[end:] = 0.0
    elif padding == "circular":
        padded[:reach] = padded[end - reach : end]
        padded[end:] = padded[reach : 2 * reach]
    else:
        padded[:reach] = padded[reach : 2 * reach][::-1]
        padded[end:] = padded[end - reach : end][::-1]


def pad(values: Array, reach: int, padding: str) -> Array:
    """Return `values` (N, …) extended by `reach` K cells at either end: (N+2K, …)."""
    check_padding(padding, len(values), reach)
    padded = np.empty((len(values) + 2 * reach, *values.shape[1:]))
    padded[reach : reach + len(values)] = values
    _fill_ghosts(padded, reach, padding)
    return padded


def fold(padded: Array, reach: int, padding: str) -> Array:
    """Return the adjoint of `pad`, (N+2K, …) → (N, …): every ghost is added to the cell it was copied from.

    The result is a view of `padded`, which is overwritten.
    """
    end = len(padded) - reach
    inner = padded[reach:end]
    if padding == "circular":
        padded[end - reach : end] += padded[:reach]
        inner[:reach] += padded[end:]
    elif padding == "reflect":
        inner[:reach] += padded[:reach][::-1]
        padded[end - reach : end] += padded[end:][::-1]
    return inner


def _windows(padded: Array, taps: int) -> Array:
    """Return the view (…, N, T·C, B) of `padded` (…, N+2K, C, B) whose row y holds the T taps of cell y."""
    *lead, cells, channels, samples = padded.shape
    shape = (*lead, cells - taps + 1, taps * channels, samples)
    return as_strided(padded, shape, padded.strides, writeable=False)


def _kernel_matrix(w: Array) -> Array:
    """Return one layer's kernel (C, T, C) or (N, C, T, C) as matrices (…, C, T·C)."""
    return w.reshape(*w.shape[:-2], w.shape[-2] * w.shape[-1])


def _adjoint_matrix_like(w: Array) -> Array:
    """Return room for the adjoint kernel of the one-layer kernel `w`, with the entries that stay zero set."""
    if w.ndim == 3:
        return np.zeros(w.shape)
    cells, channels, taps, _ = w.shape
    return np.zeros((cells + taps - 1, channels, taps, channels))


def _fill_adjoint_matrix(w: Array, out: Array) -> Array:
    """Write the adjoint kernel of `w` to `out` and return it as matrices (…, C, T·C).

    Tied: A[c', v, c] = w[c, 2K−v, c']. Untied, at padded cell p: A[p, c', v, c] = w[p−2K+v, c, 2K−v, c'],
    that is, the entry (y+u, c', 2K−u, c) is w[y, c, u, c']: one copy through a skewed view. What lies outside
    the lattice stays zero.
    """
    if w.ndim == 3:
        out[...] = w[:, ::-1].transpose(2, 1, 0)
    else:
        cells, channels, taps, _ = w.shape
        cell, target, tap, source = out.strides
        flipped = out[:, :, ::-1]
        skewed = as_strided(flipped, (cells, taps, channels, channels), (cell, cell - tap, target, source))
        skewed[...] = w.transpose(0, 2, 3, 1)
    return _kernel_matrix(out)


def width_operator(w: Array, values: Array, padding: str) -> Array:
    """Return 𝒦[w]v = Σ_{u,c'} w(y)[c,u,c'] v[y+u−K, c'], (N, C, B), for w (C, T, C) or (N, C, T, C)."""
    taps = w.shape[-2]
    result: Array = np.matmul(_kernel_matrix(w), _windows(pad(values, taps // 2, padding), taps))
    return result


def width_operator_adjoint(w: Array, values: Array, padding: str) -> Array:
    """Return 𝒦†[w]v, the adjoint of `width_operator`: ⟨𝒦u, v⟩ = ⟨u, 𝒦†v⟩."""
    taps = w.shape[-2]
    check_padding(padding, len(values), taps // 2)
    kernel = _fill_adjoint_matrix(w, _adjoint_matrix_like(w))
    return fold(np.matmul(kernel, _windows(pad(values, taps - 1, "zeros"), taps)), taps // 2, padding)


# The network, piece by piece


def forward(
    z0: Array,
    w: Array,
    b: Array,
    activation: Activation,
    padding: str,
    skip: float = 1.0,
    out: Array | None = None,
) -> Array:
    """Return all layers z (M+1, N, C, B) that follow from z[0] = `z0` (N, C, B).

    Parameters
    ----------
    z0, w, b : array
        In the layouts of this module.
    skip : float
        s: 1 for a residual network, 0 for plain feed-forward.
    out : array, optional
        Where to put z instead of a new array.

    Raises
    ------
    InputError
        If the arrays do not belong together, or the padding is unknown or the kernel too wide for it.
    """
    reach = check_shapes(z0, w, b, padding)
    z = np.empty((len(w) + 1, *z0.shape)) if out is None else out
    z[0] = z0
    padded = np.empty((z0.shape[0] + 2 * reach, *z0.shape[1:]))
    windows = _windows(padded, w.shape[-2])
    for m in range(len(w)):
        _advance(z[m], activation.f(z[m]), w[m], b[m], padded, windows, padding, skip, z[m + 1])
    return z


def _advance(
    z: Array,
    s: Array,
    w: Array,
    b: Array,
    padded: Array,
    windows: Array,
    padding: str,
    skip: float,
    out: Array,
) -> None:
    """Write the next layer to `out`, given z and s = σ(z); `padded`, seen through `windows`, receives s."""
    reach = (len(padded) - len(z)) // 2
    padded[reach : reach + len(z)] = s
    _fill_ghosts(padded, reach, padding)
    np.matmul(_kernel_matrix(w), windows, out=out)
    out += b[..., None]
    if skip == 1.0:
        out += z
    elif skip != 0.0:
        out += skip * z


def readout_basis(cells: int, modes: int, a_y: float, length_y: float) -> Array:
    """Return cos(π j y_i / L_y), shape (N, J), at the cell centres y_i = (i+½) a_y."""
    y = (np.arange(cells) + 0.5) * a_y
    basis: Array = np.cos(np.pi / length_y * y[:, None] * np.arange(modes))
    return basis


def readout(z_last: Array, r: Array, a_y: float, length_y: float) -> Array:
    """Return the logits (B, O) of the last layer z[M] (N, C, B) with the readout r (O, C, J)."""
    moments = _moments(z_last, a_y * readout_basis(len(z_last), r.shape[2], a_y, length_y))
    return moments.T @ _readout_matrix(r).T


def _moments(z_last: Array, basis: Array) -> Array:
    """Return Σ_y basis[y,j] z[y,c,s] as a matrix (J·C, B)."""
    cells, channels, samples = z_last.shape
    return (basis.T @ z_last.reshape(cells, channels * samples)).reshape(-1, samples)


def _readout_matrix(r: Array) -> Array:
    """Return r (O, C, J) as a matrix (O, J·C)."""
    return r.transpose(0, 2, 1).reshape(len(r), -1)


def check_shapes(z0: Array, w: Array, b: Array, padding: str, r: Array | None = None) -> int:
    """Return the reach K of the kernel; raise InputError if the arrays and the padding belong together."""
    if z0.ndim != 3:
        raise InputError(f"network: z0 has shape {z0.shape}, not (N, C, B)")
    cells, channels, _ = z0.shape
    taps = w.shape[-2] if w.ndim in (4, 5) else 0
    kernel = (channels, taps, channels)
    if taps % 2 == 0 or w.shape[1:] not in (kernel, (cells, *kernel)):
        raise InputError(
            f"network: w has shape {w.shape}, but z0 {z0.shape} needs (M, {channels}, T, {channels}) or "
            f"(M, {cells}, {channels}, T, {channels}) with T odd"
        )
    if b.shape != (len(w), cells, channels):
        raise InputError(f"network: b has shape {b.shape}, not (M, N, C) = {(len(w), cells, channels)}")
    if r is not None and (r.ndim != 3 or r.shape[1] != channels):
        raise InputError(f"network: r has shape {r.shape}, not (O, {channels}, J)")
    check_padding(padding, cells, taps // 2)
    return taps // 2


# The network as one thing to train


class _Workspace:
    """The arrays of one training step, kept between steps; views that repeat are made once."""

    def __init__(self, depth: int, z_shape: tuple[int, ...], layer: Array) -> None:
        cells, channels, samples = z_shape
        taps = layer.shape[-2]
        reach = taps // 2
        self.z = np.empty((2, *z_shape))
        self.slopes = np.empty((depth, *z_shape))
        self.padded = np.empty((depth, cells + 2 * reach, channels, samples))
        self.windows = _windows(self.padded, taps)
        # The cotangent stands between 2K zeros at either end.
        self.padded_delta = np.zeros((cells + 4 * reach, channels, samples))
        self.delta = self.padded_delta[2 * reach : 2 * reach + cells]
        self.delta_windows = _windows(self.padded_delta, taps)
        self.adjoint_kernel = _adjoint_matrix_like(layer)
        self.pulled_back = np.empty((cells + 2 * reach, channels, samples))
        # Channel-first copies: a tied kernel's gradient is one matrix product (C, N·B) × (N·B, C) per tap.
        self.delta_rows = np.empty((channels, cells, samples))
        self.padded_rows = np.empty((channels, cells + 2 * reach, samples))
        self.tap_rows = as_strided(
            self.padded_rows,
            (taps, cells * samples, channels),
            (self.padded_rows.strides[1], self.padded_rows.strides[2], self.padded_rows.strides[0]),
            writeable=False,
        )
        self.tap_gradient = np.empty((taps, channels, channels))

    def kernel_gradient(self, m: int, out: Array) -> None:
        """Write ∂ℓ/∂w[m] = Σ_s δ[m+1] ⊗ (taps of σ(z[m])) to `out`, summed over the cells when tied."""
        if out.ndim == 4:
            np.matmul(self.delta, self.windows[m].transpose(0, 2, 1), out=_kernel_matrix(out))
            return
        self.delta_rows[...] = self.delta.transpose(1, 0, 2)
        self.padded_rows[...] = self.padded[m].transpose(1, 0, 2)
        np.matmul(self.delta_rows.reshape(len(self.delta_rows), -1), self.tap_rows, out=self.tap_gradient)
        out[...] = self.tap_gradient.transpose(1, 0, 2)


@dataclass(frozen=True)
class Backpropagation:
    """What one back-propagation found.

    Parameters
    ----------
    loss : float
        Mean over the batch.
    gradients : dict
        ∂loss/∂θ under "w", "b", "r", in the layouts of the parameters.
    logits : array (B, O)
    delta : array (M+1, N, C, B) or None
        δ[m] = ∂loss/∂z[m], if asked for.
    """

    loss: float
    gradients: dict[str, Array]
    logits: Array
    delta: Array | None


@dataclass(frozen=True)
class Network:
    """What is fixed of a network; the parameters w, b, r are handed in, and their shapes say the rest.

    Parameters
    ----------
    activation : Activation
    loss : Loss
    padding : str
        "zeros", "circular" or "reflect".
    a_y : float
        Lattice spacing along the width.
    length_y : float
        L_y = N a_y.
    skip : float
        s: 1 for a residual network, 0 for plain feed-forward.

    Notes
    -----
    `loss_and_gradients` reuses work arrays between calls, so threads must not share one Network. What it
    returns is the caller's own.
    """

    activation: Activation
    loss: Loss
    padding: str
    a_y: float
    length_y: float = 1.0
    skip: float = 1.0
    _workspaces: dict[tuple[Any, ...], _Workspace] = field(default_factory=dict, init=False, repr=False, compare=False)
    _bases: dict[tuple[int, int], Array] = field(default_factory=dict, init=False, repr=False, compare=False)

    def forward(self, z0: Array, w: Array, b: Array, out: Array | None = None) -> Array:
        """Return all layers z (M+1, N, C, B); see `forward` of this module."""
        return forward(z0, w, b, self.activation, self.padding, self.skip, out)

    def logits(self, z0: Array, w: Array, b: Array, r: Array) -> Array:
        """Return the logits (B, O), keeping no layer but the last."""
        reach = check_shapes(z0, w, b, self.padding, r)
        padded = np.empty((z0.shape[0] + 2 * reach, *z0.shape[1:]))
        windows = _windows(padded, w.shape[-2])
        z, following = z0.astype(np.float64, order="C"), np.empty(z0.shape)
        for m in range(len(w)):
            _advance(z, self.activation.f(z), w[m], b[m], padded, windows, self.padding, self.skip, following)
            z, following = following, z
        return readout(z, r, self.a_y, self.length_y)

    def loss_and_gradients(
        self,
        z0: Array,
        w: Array,
        b: Array,
        r: Array,
        targets: Array,
        *,
        keep_delta: bool = False,
        out: dict[str, Array] | None = None,
    ) -> Backpropagation:
        """Return the batch-mean loss and its exact gradients.

            δ[M] = ∂ℓ/∂z[M],   δ[m] = s δ[m+1] + σ'(z[m]) · 𝒦†[w[m]] δ[m+1]
            ∂ℓ/∂w[m] = Σ_s δ[m+1] ⊗ σ(z[m]),   ∂ℓ/∂b[m] = Σ_s δ[m+1]

        Parameters
        ----------
        z0, w, b, r : array
            In the layouts of this module.
        targets : array (B, O)
            As `bbdfield.model.losses.prepare_targets` returns them.
        keep_delta : bool
            Whether to return δ, which takes as much memory as z.
        out : dict, optional
            Arrays "w", "b", "r" in C order to receive the gradients instead of new ones.

        Raises
        ------
        InputError
            If the arrays do not belong together, or the padding is unknown or the kernel too wide for it.
        """
        reach = check_shapes(z0, w, b, self.padding, r)
        if targets.shape != (z0.shape[2], len(r)):
            expected = (z0.shape[2], len(r))
            raise InputError(f"network: targets have shape {targets.shape}, not (B, O) = {expected}")
        depth = len(w)
        gradients = out if out is not None else {k: np.empty(v.shape) for k, v in (("w", w), ("b", b), ("r", r))}
        delta = np.empty((depth + 1, *z0.shape)) if keep_delta else None
        for name, like in (("w", w), ("b", b), ("r", r)):
            # A strided target would be written to in a copy, and so not at all.
            if gradients[name].shape != like.shape or not gradients[name].flags.c_contiguous:
                raise InputError(f"network: out[{name!r}] must be a C-ordered array of shape {like.shape}")
        work = self._workspace(z0, w)

        z, following = work.z
        z[...] = z0
        for m in range(depth):
            value, work.slopes[m] = self.activation.value_and_slope(z)
            _advance(z, value, w[m], b[m], work.padded[m], work.windows[m], self.padding, self.skip, following)
            z, following = following, z

        loss, logits = self.output(z, r, targets, gradients["r"], work.delta)

        for m in reversed(range(depth)):
            if delta is not None:
                delta[m + 1] = work.delta
            work.kernel_gradient(m, gradients["w"][m])
            np.sum(work.delta, axis=-1, out=gradients["b"][m])
            if m == 0 and delta is None:
                break
            kernel = _fill_adjoint_matrix(w[m], work.adjoint_kernel)
            np.matmul(kernel, work.delta_windows, out=work.pulled_back)
            inner = fold(work.pulled_back, reach, self.padding)
            inner *= work.slopes[m]
            if self.skip == 0.0:
                work.delta[...] = inner
            else:
                if self.skip != 1.0:
                    work.delta[...] *= self.skip
                work.delta[...] += inner
        if delta is not None:
            delta[0] = work.delta
        return Backpropagation(loss, gradients, logits, delta)

    def output(self, z_last: Array, r: Array, targets: Array, r_gradient: Array, delta: Array) -> tuple[float, Array]:
        """Return the loss and the logits of z[M]; write ∂ℓ/∂r and δ[M] to the two arrays given for them."""
        modes = r.shape[2]
        basis = self._basis(len(z_last), modes)
        matrix, moments = _readout_matrix(r), _moments(z_last, basis)
        logits = moments.T @ matrix.T
        losses, pulled = self.loss.per_sample_and_gradient(logits, targets)
        r_gradient[...] = (pulled.T @ moments.T).reshape(len(r), modes, -1).transpose(0, 2, 1)
        delta[...] = (basis @ (matrix.T @ pulled.T).reshape(modes, -1)).reshape(z_last.shape)
        return float(np.add.reduce(losses)) / len(losses), logits  # `Loss.value`, at a third of its price

    def _basis(self, cells: int, modes: int) -> Array:
        """Return a_y cos(π j y_i / L_y), made once."""
        if (cells, modes) not in self._bases:
            self._bases[cells, modes] = self.a_y * readout_basis(cells, modes, self.a_y, self.length_y)
        return self._bases[cells, modes]

    def _workspace(self, z0: Array, w: Array) -> _Workspace:
        """Return work arrays for these shapes; two sets are kept: a full batch's and the last one's."""
        key = (z0.shape, w.shape)
        if key not in self._workspaces:
            if len(self._workspaces) == 2:
                del self._workspaces[next(iter(self._workspaces))]
            self._workspaces[key] = _Workspace(len(w), z0.shape, w[0])
        return self._workspaces[key]
