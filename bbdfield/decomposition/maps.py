"""The linear map of one layer, its adjoint and its gradient, for every kind of layer, on plain arrays.

    z[m+1] = s z[m] + 𝒲[m] σ(z[m]) + b[m],      m = 0 … M−1

=================  ========================  ==================  ===========  ==================================
layer              W[m]                      z[m]                b[m]         (𝒲 v)
=================  ========================  ==================  ===========  ==================================
dense              (n_out, n_in)             (n, P)              (n,)         Σ_j W_ij v_j
tied convolution   (C_out, T, C_in)          (N, C, P)           (N, C)       Σ_{u,c'} W[c,u,c'] v[y+u−K, c']
locally connected  (N, C_out, T, C_in)       (N, C, P)           (N, C)       Σ_{u,c'} W[y,c,u,c'] v[y+u−K, c']
=================  ========================  ==================  ===========  ==================================

P samples stand last, T = 2K+1 is odd. Outside the N cells v is zero ("zeros"), periodic ("circular") or the even
extension about the edge ("reflect"). A network is a list of W and a list of b; lists may also be arrays with the
layers first. Nothing here is shared with `bbdfield.lattice` or `solvers`: it is a second, simple implementation.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bbdfield.errors import InputError
from bbdfield.model.activations import Activation, get_activation

Array = npt.NDArray[np.float64]
Arrays = Sequence[Array] | Array

PADDINGS = ("zeros", "circular", "reflect")


@dataclass(frozen=True)
class PerGroup:
    """One number for each parameter group W, b, R: inertias μ_g or learning rates η_g."""

    w: float = 1.0
    b: float = 1.0
    r: float = 1.0

    def __post_init__(self) -> None:
        for key in ("w", "b", "r"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise InputError(f"group {key}: needs a finite number >= 0, got {getattr(self, key)!r}")


@dataclass(frozen=True)
class Rule:
    """What is fixed of the layers: σ, the skip s and the padding; σ and s may differ from layer to layer.

    Parameters
    ----------
    activation : Activation or str, or one of them per layer
        σ acts on z[m] before W[m]. A network whose first layer sees the raw input has "identity" there.
    skip : float, or one per layer
        s: 1 residual, 0 plain feed-forward.
    padding : str
        "zeros", "circular" or "reflect"; dense layers have none.

    Raises
    ------
    InputError
        If a name is unknown, or a skip is no finite number.
    """

    activation: Activation | str | Sequence[Activation | str] = "tanh"
    skip: float | Sequence[float] = 1.0
    padding: str = "zeros"

    def __post_init__(self) -> None:
        if isinstance(self.activation, (Activation, str)):
            object.__setattr__(self, "activation", _activation(self.activation))
        else:
            object.__setattr__(self, "activation", tuple(_activation(a) for a in self.activation))
        given = np.asarray(self.skip)
        if given.dtype.kind not in "iuf" or given.ndim > 1 or not np.isfinite(given).all():
            raise InputError(f"skip = {self.skip!r}: needs finite numbers, usually 0 or 1")
        skips = tuple(float(s) for s in np.atleast_1d(given))
        object.__setattr__(self, "skip", skips[0] if given.ndim == 0 else skips)
        if self.padding not in PADDINGS:
            raise InputError(f"unknown padding {self.padding!r}: use one of {', '.join(PADDINGS)}")

    def sigma(self, m: int) -> Activation:
        """σ of layer m."""
        if isinstance(self.activation, Activation):
            return self.activation
        return _activation(self.activation[m])

    def s(self, m: int) -> float:
        """Skip of layer m."""
        return self.skip[m] if isinstance(self.skip, tuple) else float(self.skip)  # type: ignore[arg-type]

    def skipped(self, m: int, values: Array) -> Array | float:
        """Return s v; plain 0 where layer m has no skip, since the widths on its sides may then differ."""
        return self.s(m) * values if self.s(m) != 0 else 0.0

    def check_depth(self, depth: int) -> None:
        """Raise InputError unless what is given per layer is given for `depth` layers."""
        for name, value in (("activation", self.activation), ("skip", self.skip)):
            if isinstance(value, tuple) and len(value) != depth:
                raise InputError(f"{name}: {len(value)} values for {depth} layers; give one, or one per layer")


def _activation(given: Activation | str) -> Activation:
    return given if isinstance(given, Activation) else get_activation(given)


# The map of one layer


@functools.lru_cache
def source_cells(cells: int, reach: int, padding: str) -> npt.NDArray[np.int64]:
    """Return, for the N+2K cells of the extended lattice, the cell whose value each holds; −1 where it holds zero."""
    extended = np.arange(-reach, cells + reach)
    if padding == "circular":
        source = extended % cells
    elif padding == "reflect":
        folded = extended % (2 * cells)
        source = np.where(folded < cells, folded, 2 * cells - 1 - folded)
    else:
        source = np.where((extended >= 0) & (extended < cells), extended, -1)
    source.flags.writeable = False
    return source


@functools.lru_cache
def _seen_cells(cells: int, taps: int, padding: str) -> npt.NDArray[np.int64]:
    """The cell that tap u of cell y sees, (N, T); −1 for none."""
    seen = source_cells(cells, taps // 2, padding)[np.arange(cells)[:, None] + np.arange(taps)]
    seen.flags.writeable = False
    return seen


def patches(values: Array, taps: int, padding: str) -> Array:
    """Return what the taps of every cell see, v[y+u−K, c']: (N, C, P) → (N, T, C, P)."""
    seen = _seen_cells(len(values), taps, padding)
    if padding == "zeros":
        # A cell of zeros at the end is what the index −1 finds.
        values = np.concatenate([values, np.zeros((1, *values.shape[1:]))])
    result: Array = values[seen]
    return result


def apply(W: Array, values: Array, padding: str = "zeros") -> Array:
    """Return 𝒲 v, in the layouts of this module."""
    if W.ndim == 2:
        return W @ values
    taps, sources = W.shape[-2:]
    seen = patches(values, taps, padding).reshape(len(values), taps * sources, values.shape[-1])
    result: Array = np.matmul(W.reshape(*W.shape[:-2], taps * sources), seen)
    return result


def adjoint(W: Array, cotangent: Array, padding: str = "zeros") -> Array:
    """Return 𝒲ᵀ g: ⟨𝒲 v, g⟩ = ⟨v, 𝒲ᵀ g⟩; every tap's share goes back to the cell that it was taken from."""
    if W.ndim == 2:
        return W.T @ cotangent
    cells, _, samples = cotangent.shape
    taps, sources = W.shape[-2:]
    matrix = W.reshape(*W.shape[:-2], taps * sources)
    shares = np.matmul(np.swapaxes(matrix, -1, -2), cotangent).reshape(cells, taps, sources, samples)
    extended = np.zeros((cells + taps - 1, sources, samples))
    for u in range(taps):
        extended[u : u + cells] += shares[:, u]
    source = source_cells(cells, taps // 2, padding)
    inside = source >= 0
    result = np.zeros((cells, sources, samples))
    np.add.at(result, source[inside], extended[inside])
    return result


def outer(shape: tuple[int, ...], cotangent: Array, values: Array, padding: str = "zeros") -> Array:
    """Return the gradient of ⟨𝒲 v, g⟩ with respect to a W of the given shape, summed over the samples."""
    if len(shape) == 2:
        return cotangent @ values.T
    seen = patches(values, shape[-2], padding)
    if len(shape) == 3:
        tied: Array = np.tensordot(cotangent, seen, axes=([0, 2], [0, 3]))
        return tied
    flat = seen.reshape(len(values), -1, values.shape[-1])
    untied: Array = np.matmul(cotangent, np.swapaxes(flat, -1, -2)).reshape(shape)
    return untied


# What fits together


def as_arrays(name: str, values: Arrays) -> list[Array]:
    """Return the entries as float64 arrays; raise InputError where one is missing or holds no real numbers."""
    result = []
    for m, value in enumerate(values):
        given = np.asarray(value)
        if given.dtype.kind not in "iuf":
            what = "is missing" if value is None else f"holds {given.dtype}, not real numbers"
            raise InputError(f"network: {name}[{m}] {what}; give one array per layer")
        result.append(given.astype(np.float64, copy=False))
    return result


def site_shapes(rule: Rule, W: list[Array], first: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shapes (n,) or (N, C) of z[0] … z[M] without the samples, given that of z[0].

    Raises
    ------
    InputError
        If a W is of no known kind, the shapes do not chain, a skip connects unequal widths, or a kernel is wider than a
        lattice that is not padded with zeros.
    """
    if not W:
        raise InputError("network: there is no layer; give at least one W")
    rule.check_depth(len(W))
    shapes = [tuple(first)]
    for m, w in enumerate(W):
        here = shapes[-1]
        following: tuple[int, ...]
        if w.ndim not in (2, 3, 4) or 0 in w.shape or (w.ndim > 2 and w.shape[-2] % 2 == 0):
            raise InputError(
                f"network: W[{m}] has shape {w.shape}, not (n_out, n_in), (C_out, T, C_in) or (N, C_out, T, C_in)"
                " with T odd"
            )
        if w.ndim == 2:
            fits, following = here == (w.shape[1],), (w.shape[0],)
        else:
            cells = here[0] if w.ndim == 3 else w.shape[0]
            fits, following = here == (cells, w.shape[-1]), (cells, w.shape[-3])
        if not fits:
            raise InputError(f"network: the shapes do not chain: W[{m}] {w.shape} can't act on z[{m}] of shape {here}")
        if rule.s(m) != 0 and here != following:
            raise InputError(
                f"network: W[{m}] takes {here} to {following}, but the skip s = {rule.s(m):g} needs equal widths;"
                " use s = 0 there or equal widths"
            )
        if w.ndim > 2 and rule.padding != "zeros" and w.shape[-2] // 2 > here[0]:
            raise InputError(
                f"network: the kernel of W[{m}] reaches {w.shape[-2] // 2} cells but the lattice has {here[0]};"
                f" narrow it or use zeros padding instead of {rule.padding}"
            )
        shapes.append(following)
    return shapes


def check_biases(b: list[Array], shapes: list[tuple[int, ...]], name: str = "b") -> None:
    """Raise InputError unless b[m] has one entry for every neuron of z[m+1]: the substitution b ↔ z needs it."""
    if len(b) != len(shapes) - 1:
        raise InputError(f"network: {len(b)} arrays {name} for {len(shapes) - 1} layers; give one per layer")
    for m, (given, shape) in enumerate(zip(b, shapes[1:], strict=True)):
        if given.shape == shape:
            continue
        shared = given.size < int(np.prod(shape)) and (
            given.shape == shape[1:] or (len(given.shape) == len(shape) and 1 in given.shape) or given.size == 1
        )
        if shared:
            raise InputError(
                f"network: {name}[{m}] has shape {given.shape}, shared along the width: the substitution is not"
                f" invertible with fewer biases than neurons; untie it to shape {shape}"
            )
        raise InputError(f"network: {name}[{m}] has shape {given.shape}, but its layer needs {shape}")


def check_same(name: str, given: list[Array], other: str, like: list[Array]) -> None:
    """Raise InputError unless `given` has the shapes of `like`."""
    if len(given) != len(like):
        raise InputError(f"network: {len(given)} arrays {name} for {len(like)} arrays {other}; give one for each")
    for m, (one, two) in enumerate(zip(given, like, strict=True)):
        if one.shape != two.shape:
            raise InputError(f"network: {name}[{m}] has shape {one.shape}, but {other}[{m}] has {two.shape}")


def check_neurons(rule: Rule, W: list[Array], z: list[Array]) -> None:
    """Raise InputError unless z[0] … z[M] are the sites of these layers, all with the same samples."""
    if not z or z[0].ndim < 2:
        raise InputError("network: z[0] needs the shape (n, P) or (N, C, P), the samples last")
    shapes = [(*shape, z[0].shape[-1]) for shape in site_shapes(rule, W, z[0].shape[:-1])]
    if len(z) != len(shapes):
        raise InputError(f"network: {len(z)} arrays z for {len(W)} layers; give z[0] … z[{len(W)}]")
    for m, (given, shape) in enumerate(zip(z, shapes, strict=True)):
        if given.shape != shape:
            raise InputError(
                f"network: the shapes do not chain: z[{m}] has shape {given.shape}, its place needs {shape}"
            )
