"""The transfer operator of a linearised bulk: how fast perturbations grow with depth, and in which directions.

    δz[m+1] = T[m] δz[m],   m = 0 … M−1,      δz(L) = T δz(0),   T = T[M−1] ⋯ T[0]

T[m] are given as functions with their transposes, so that a lattice layer and a cell of a field solver are the same
thing here. Every sample is a replica with its own z, hence its own T; samples never mix.

- growth along x of given directions: |δz(x)|/|δz(0)|, its rate Λ = ln(|δz(L)|/|δz(0)|)/L per unit of x, its depth scale
  ξ = 1/|Λ| (over which |δz| changes by a factor e) and the local rate d ln|δz|/dx on links;
- the leading singular direction of T: what grows most between the two ends. Golub–Kahan–Lanczos bidiagonalisation
  (SIAM J. Numer. Anal. B 2 (1965) 205), which is power iteration with TᵀT that makes use of all its iterates;
- Lyapunov exponents: orthonormal frames are carried along and re-orthonormalised by QR after each layer (Benettin,
  Galgani, Giorgilli, Strelcyn, Meccanica 15 (1980) 9); over a finite depth they remember the first frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bbdfield.errors import InputError, NumericsError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """One linear map and its transpose, each (N, C, B) -> (N, C, B) and sample by sample."""

    forward: Callable[[Array], Array]
    transpose: Callable[[Array], Array]


@dataclass(frozen=True)
class Transfer:
    """The linearised bulk.

    Parameters
    ----------
    layers : the maps T[m], M of them.
    x : the sites (M + 1,) between them, increasing.
    shape : of δz: (N cells, C channels, B samples).

    Raises
    ------
    InputError
        if these do not belong together.
    """

    layers: Sequence[Layer]
    x: Array
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        x = np.asarray(self.x, float)
        if not self.layers or x.shape != (len(self.layers) + 1,) or not (np.diff(x) > 0).all():
            raise InputError(f"transfer: {len(self.layers)} layers need as many increasing sites and one more")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"transfer: the shape of δz must be (N, C, B), not {self.shape}")
        object.__setattr__(self, "x", x)

    @property
    def x_links(self) -> Array:
        return 0.5 * (self.x[1:] + self.x[:-1])

    @property
    def length(self) -> float:
        return float(self.x[-1] - self.x[0])

    def apply(self, dz: Array) -> Array:
        """T δz."""
        for layer in self.layers:
            dz = layer.forward(dz)
        return dz

    def transpose(self, g: Array) -> Array:
        """Tᵀ g."""
        for layer in reversed(self.layers):
            g = layer.transpose(g)
        return g

    def matrix(self) -> Array:
        """T as matrices (B, N·C, N·C); one march per column, so for small problems."""
        cells, channels, samples = self.shape
        size = cells * channels
        result = np.empty((samples, size, size))
        for column in range(size):
            one = np.zeros((size, samples))
            one[column] = 1.0
            result[:, :, column] = self.apply(one.reshape(self.shape)).reshape(size, samples).T
        return result


@dataclass(frozen=True)
class Growth:
    """Growth of perturbations along x.

    x, x_links : sites and links.   log : ln(|δz(x)|/|δz(0)|) at the sites, (M + 1, directions, B).
    local : d ln|δz|/dx on the links, (M, directions, B).   Where a perturbation dies out they are −∞.
    """

    x: Array
    x_links: Array
    log: Array
    local: Array

    @property
    def rate(self) -> Array:
        """Λ (directions, B): positive for growth."""
        rate: Array = self.log[-1] / (self.x[-1] - self.x[0])
        return rate

    @property
    def depth_scale(self) -> Array:
        """ξ = 1/|Λ| (directions, B) in the units of x; infinite where nothing changes."""
        return depth_scale(self.rate)


@dataclass(frozen=True)
class Leading:
    """The leading singular triple of T, sample by sample.

    log : ln s₁ (B,).   direction, response : right and left singular vectors (N, C, B), T direction = s₁ response.
    residual : |Tᵀ response − s₁ direction| / s₁ (B,).   steps : applications of T that it took.
    """

    log: Array
    direction: Array
    response: Array
    residual: Array
    steps: int


@dataclass(frozen=True)
class Lyapunov:
    """Exponents in decreasing order of the frame's columns: mean (k, B) per unit of x, and local (M, k, B) on links."""

    exponents: Array
    local: Array


def depth_scale(rate: Any) -> Array:
    """1/|Λ|, infinite for Λ = 0."""
    size = np.abs(np.asarray(rate, float))
    return np.divide(1.0, size, out=np.full(size.shape, np.inf), where=size > 0)


def random_directions(shape: tuple[int, int, int], count: int, seed: int | Sequence[int]) -> Array:
    """`count` normal directions (count, N, C, B) of norm 1 for every sample: white in y and over channels."""
    directions = np.random.default_rng(seed).standard_normal((count, *shape))
    return directions / _norm(directions)


def growth(transfer: Transfer, directions: Array) -> Growth:
    """Carry perturbations δz(0), (N, C, B) or (directions, N, C, B), along x.

    Raises
    ------
    InputError
        for directions of another shape, or that are zero for a sample.
    NumericsError
        if a perturbation is not finite; says where.
    """
    given = np.asarray(directions, float)
    start = given[None] if given.ndim == 3 else given
    if start.shape[1:] != transfer.shape or not (_norm(start) > 0).all():
        raise InputError(
            f"growth: directions {given.shape} need the shape (directions, {', '.join(map(str, transfer.shape))})"
            " and must not vanish"
        )
    depth, count, samples = len(transfer.layers), len(start), transfer.shape[2]
    steps = np.zeros((depth, count, samples))
    for d, each in enumerate(start):
        # Carried at norm 1, so that deep networks neither overflow nor underflow.
        dz = each / _norm(each)
        for m, layer in enumerate(transfer.layers):
            dz = layer.forward(dz)
            norm = _norm(dz)
            if not np.isfinite(norm).all():
                raise NumericsError(f"linearised bulk: δz is not finite at x = {transfer.x[m + 1]:.4g}")
            steps[m, d] = _log(norm[0, 0])
            dz = np.divide(dz, norm, out=np.zeros_like(dz), where=norm > 0)
    log = np.concatenate([np.zeros((1, count, samples)), np.cumsum(steps, axis=0)])
    return Growth(transfer.x, transfer.x_links, log, steps / np.diff(transfer.x)[:, None, None])


def leading(
    transfer: Transfer,
    *,
    tolerance: float = 1e-6,
    steps: int = 64,
    seed: int | Sequence[int] = 0,
    start: Array | None = None,
) -> Leading:
    """The direction δz(0) that grows most, |T δz(0)| = s₁ |δz(0)|, for every sample.

    tolerance : on the residual.   steps : at most so many applications of T and Tᵀ; `residual` says how well they did.
    start : first guess (N, C, B), a similar problem's answer, instead of a random one.
    """
    cells, channels, samples = transfer.shape
    v = random_directions(transfer.shape, 1, seed)[0] if start is None else np.array(start, float)
    v = _unit(v)[0]
    right = [v]
    left: list[Array] = []
    alpha: list[Array] = []
    beta: list[Array] = []
    limit = min(steps, cells * channels)
    while True:
        u, size = _unit(_orthogonal(transfer.apply(right[-1]), left))
        left.append(u)
        alpha.append(size)
        v, size = _unit(_orthogonal(transfer.transpose(u), right))
        bidiagonal = np.zeros((samples, len(alpha), len(alpha)))
        for j, value in enumerate(alpha):
            bidiagonal[:, j, j] = value
        for j, value in enumerate(beta):
            bidiagonal[:, j, j + 1] = value
        if not np.isfinite(bidiagonal).all():
            raise NumericsError("linearised bulk: the transfer operator is not finite")
        p, s, q = np.linalg.svd(bidiagonal)
        top = s[:, 0]
        residual = np.divide(size * np.abs(p[:, -1, 0]), top, out=np.zeros(samples), where=top > 0)
        if (residual <= tolerance).all() or len(alpha) >= limit:
            break
        beta.append(size)
        right.append(v)
    direction = np.einsum("jncb,bj->ncb", np.array(right), q[:, 0, :])
    response = np.einsum("jncb,bj->ncb", np.array(left), p[:, :, 0])
    return Leading(_log(top), direction, response, residual, len(alpha))


def lyapunov(transfer: Transfer, count: int, seed: int | Sequence[int] = 0) -> Lyapunov:
    """The leading `count` exponents, from a random first frame.

    Raises
    ------
    InputError
        for more exponents than δz has components.
    """
    cells, channels, samples = transfer.shape
    if not 1 <= count <= cells * channels:
        raise InputError(f"lyapunov: {count} exponents of {cells * channels} components; ask for fewer")
    frame = np.random.default_rng(seed).standard_normal((samples, cells * channels, count))
    frame = np.linalg.qr(frame)[0]
    steps = np.empty((len(transfer.layers), count, samples))
    for m, layer in enumerate(transfer.layers):
        moved = np.empty_like(frame)
        for k in range(count):
            column = np.ascontiguousarray(frame[:, :, k].T).reshape(transfer.shape)
            moved[:, :, k] = layer.forward(column).reshape(-1, samples).T
        if not np.isfinite(moved).all():
            raise NumericsError(f"linearised bulk: δz is not finite at x = {transfer.x[m + 1]:.4g}")
        frame, r = np.linalg.qr(moved)
        steps[m] = _log(np.abs(np.diagonal(r, axis1=1, axis2=2))).T
    return Lyapunov(steps.sum(axis=0) / transfer.length, steps / np.diff(transfer.x)[:, None, None])


def _norm(dz: Array) -> Array:
    """|δz| of every sample, with the axes of cells and channels kept."""
    norm: Array = np.sqrt(np.sum(dz * dz, axis=(-3, -2), keepdims=True))
    return norm


def _unit(dz: Array) -> tuple[Array, Array]:
    """(δz/|δz|, |δz|); what is only rounding after orthogonalisation counts as it is, zero stays zero."""
    norm = _norm(dz)
    return np.divide(dz, norm, out=np.zeros_like(dz), where=norm > 0), norm[0, 0]


def _orthogonal(dz: Array, basis: Sequence[Array]) -> Array:
    """δz minus its parts along a basis of each sample; twice, which keeps the basis orthogonal to rounding."""
    for _ in range(2):
        for one in basis:
            dz = dz - one * np.sum(one * dz, axis=(0, 1))
    return dz


def _log(values: Array) -> Array:
    """ln, −∞ for zero."""
    return np.log(values, out=np.full(values.shape, -np.inf), where=values > 0)
