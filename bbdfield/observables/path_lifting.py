"""The path-lifting φ(θ) of dense ReLU and linear networks, and whether φ and what is conserved recover θ.

    z_l = W_l a_{l-1} + b_l,   a_l = σ(z_l),   logits = z_L,      l = 1 … L,   a_0 = x

A path starts at an input, or at the bias of a neuron, and follows one edge per layer to an output:

    φ_p = Π_{edges of p} W,   times b of the neuron where it starts, if that is no input

(an output's own bias is a path without edges). A ReLU network computes nothing else: with A_p(x) = 1 if all hidden
neurons of p are active on x, else 0 (always 1 for linear networks),

    logit_k(x) = Σ_{p to k} φ_p A_p(x) x_{start of p}      (x = 1 where p starts at a bias).

φ does not change when a hidden neuron's incoming weights and bias are multiplied by a factor and its outgoing weights
divided by it. Gonon, Brisebarre, Riccietti, Gribonval, arXiv 2310.01225; Marcotte, Gribonval, Peyré, arXiv 2508.07370.

With h what every gradient flow conserves, θ is intrinsically recoverable (2508.07370) if no direction leaves both φ and
h as they are: ker ∂φ ∩ ker ∂h = {0}, that is, the Jacobian of (φ, h) has full column rank. Conserved are

    linear   D_l = W_{l+1}ᵀ W_{l+1} − W_l W_lᵀ − b_l b_lᵀ  (its upper triangle)     ReLU   the diagonal of D_l only

Derived here: let no weight of a ReLU network vanish. ker ∂φ then is spanned by the hidden neurons' rescalings, and ∂h
on it is −2 times a graph Laplacian whose edges are the network's own, of conductance W², grounded through inputs,
biases and outputs. Such a matrix is regular, so that (φ, h) recovers θ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from bbdfield.errors import InputError

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

#: more paths than this are refused: the Jacobian has a row for each
MOST_PATHS = 200_000
#: singular values below this times the largest (and the larger side of the matrix) count as zero
TOLERANCE = 1e-12


@dataclass(frozen=True)
class Paths:
    """The paths of a dense network of widths n_0 … n_L, with or without biases.

    Parameters θ are in one vector: all W, then all b, each in C order (as `flatten` puts them). Paths come in groups by
    where they start: at the inputs (start 0), then at the biases of layer 1 … L.

    Raises
    ------
    InputError
        for fewer than two widths, or more than `MOST_PATHS` paths.
    """

    widths: tuple[int, ...]
    biases: bool = True

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise InputError(f"path-lifting: widths {self.widths} are no network; give two or more, all >= 1")
        if self.count > MOST_PATHS:
            raise InputError(
                f"path-lifting: widths {self.widths} have {self.count} paths, more than {MOST_PATHS}; use fewer layers"
                " or neurons"
            )

    @classmethod
    def of(cls, w: Sequence[Array], b: Sequence[Array] | None) -> Paths:
        """The paths of given weights."""
        fit = all(len(before) == after.shape[1] for before, after in pairwise(w))
        if not w or not fit or (b is not None and [len(part) for part in b] != [len(part) for part in w]):
            raise InputError("path-lifting: needs W of layers that follow on one another, and one b for each or None")
        return cls((w[0].shape[1], *(len(part) for part in w)), b is not None)

    @property
    def depth(self) -> int:
        return len(self.widths) - 1

    @property
    def starts(self) -> range:
        """0 for the inputs, l for the biases of layer l."""
        return range(self.depth + 1 if self.biases else 1)

    @property
    def count(self) -> int:
        """Number of paths: Σ over starts of the product of the widths from there on."""
        return sum(int(np.prod([float(n) for n in self.widths[start:]])) for start in self.starts)

    @property
    def parameters(self) -> int:
        weights = sum(m * n for m, n in pairwise(self.widths))
        return weights + (sum(self.widths[1:]) if self.biases else 0)

    def neurons(self, start: int) -> Indices:
        """(paths, L − start + 1): the neurons that each path of a group visits, in the layers start … L."""
        grid = np.indices(self.widths[start:]).reshape(self.depth - start + 1, -1)
        return np.ascontiguousarray(grid.T)

    @cached_property
    def edges(self) -> list[Indices]:
        """Of each group, (paths, factors): the indices in θ of what is multiplied."""
        sizes = [m * n for m, n in pairwise(self.widths)]
        of_w = np.concatenate([[0], np.cumsum(sizes)])
        of_b = of_w[-1] + np.concatenate([[0], np.cumsum(self.widths[1:])])
        groups = []
        for start in self.starts:
            seen = self.neurons(start)
            factors = [
                of_w[layer] + seen[:, layer - start + 1] * self.widths[layer] + seen[:, layer - start]
                for layer in range(start, self.depth)
            ]
            if start > 0:
                factors.insert(0, of_b[start - 1] + seen[:, 0])
            groups.append(np.stack(factors, axis=1).astype(np.int64))
        return groups

    def lift(self, theta: Array) -> Array:
        """φ(θ), (paths,)."""
        return np.concatenate([np.prod(theta[group], axis=1) for group in self.edges])

    def jacobian(self, theta: Array) -> Array:
        """∂φ, (paths, parameters): for each factor of a path the product of all others."""
        out, first = np.zeros((self.count, self.parameters)), 0
        for group in self.edges:
            factors = theta[group]
            rows = first + np.arange(len(group))
            for k in range(group.shape[1]):
                others = np.delete(factors, k, axis=1)  # no division: factors may be zero
                out[rows, group[:, k]] = np.prod(others, axis=1)
            first += len(group)
        return out

    def logits(self, phi: Array, active: Sequence[Array], x: Array) -> Array:
        """What the network computes, from φ and the activation pattern alone: (outputs, B).

        active : of each hidden layer 1 … L−1, (n_l, B), whether the neuron is active (all True for linear networks).
        x : (n_0, B).
        """
        out, first = np.zeros((self.widths[-1], x.shape[1])), 0
        for start in self.starts:
            seen = self.neurons(start)
            carried = x[seen[:, 0]] if start == 0 else np.ones((len(seen), x.shape[1]))
            for layer in range(max(start, 1), self.depth):
                carried = carried * active[layer - 1][seen[:, layer - start]]
            np.add.at(out, seen[:, -1], phi[first : first + len(seen), None] * carried)
            first += len(seen)
        return out


def flatten(w: Sequence[Array], b: Sequence[Array] | None) -> Array:
    """θ: all W, then all b, each in C order."""
    return np.concatenate([np.ravel(part) for part in (*w, *(b or ()))])


def unflatten(theta: Array, widths: Sequence[int], biases: bool) -> tuple[list[Array], list[Array] | None]:
    """W and b of θ."""
    shapes: list[tuple[int, ...]] = [(n, m) for m, n in pairwise(widths)]
    shapes += [(n,) for n in widths[1:]] if biases else []
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    parts = [part.reshape(shape) for part, shape in zip(np.split(theta, ends[:-1]), shapes, strict=True)]
    layers = len(widths) - 1
    return parts[:layers], parts[layers:] if biases else None


def laws(w: Sequence[Array], b: Sequence[Array] | None, relu: bool) -> Array:
    """h(θ): the upper triangles of all D_l, or their diagonals for ReLU; see the module."""
    found = [np.zeros(0)]
    for layer in range(len(w) - 1):
        d = w[layer + 1].T @ w[layer + 1] - w[layer] @ w[layer].T
        if b is not None:
            d = d - np.outer(b[layer], b[layer])
        found.append(np.diag(d) if relu else d[np.triu_indices(len(d))])
    return np.concatenate(found)


def laws_jacobian(w: Sequence[Array], b: Sequence[Array] | None, relu: bool) -> Array:
    """∂h, (laws, parameters)."""
    rows = []
    for layer in range(len(w) - 1):
        count = len(w[layer])
        pairs = zip(*(np.arange(count),) * 2, strict=True) if relu else zip(*np.triu_indices(count), strict=True)
        for i, j in pairs:
            dw = [np.zeros_like(part) for part in w]
            db = None if b is None else [np.zeros_like(part) for part in b]
            for one, other in ((i, j), (j, i)):  # D_ij is bilinear: each factor in turn
                dw[layer + 1][:, one] += w[layer + 1][:, other]
                dw[layer][one] -= w[layer][other]
                if db is not None and b is not None:
                    db[layer][one] -= b[layer][other]
            rows.append(flatten(dw, db))
    return np.array(rows).reshape(len(rows), sum(part.size for part in (*w, *(b or ()))))


@dataclass(frozen=True)
class Recoverability:
    """Ranks of ∂φ, ∂h and both together against the number of parameters.

    kept, dropped : the smallest singular value of (∂φ, ∂h) that counts and the largest that does not (0 if none), both
    relative to the largest of all.
    """

    parameters: int
    lifted: int
    conserved: int
    rank_lifted: int
    rank_conserved: int
    rank: int
    kept: float
    dropped: float

    @property
    def recoverable(self) -> bool:
        """ker ∂φ ∩ ker ∂h = {0}."""
        return self.rank == self.parameters


def recoverability(d_phi: Array, d_h: Array) -> Recoverability:
    """Numerical ranks by singular values; each row is first scaled to norm 1, which changes no kernel.

    d_phi (lifted, parameters), d_h (conserved, parameters). Singular values up to `TOLERANCE` times the largest and
    times the larger side of the matrix count as zero.
    """
    if d_phi.ndim != 2 or d_h.ndim != 2 or d_phi.shape[1] != d_h.shape[1]:
        raise InputError(
            f"recoverability: Jacobians of shapes {d_phi.shape} and {d_h.shape} are not of the same parameters"
        )
    both = np.concatenate([d_phi, d_h])
    values, rank = _rank(both)
    scale = values[0] if rank else 1.0
    return Recoverability(
        parameters=both.shape[1],
        lifted=len(d_phi),
        conserved=len(d_h),
        rank_lifted=_rank(d_phi)[1],
        rank_conserved=_rank(d_h)[1],
        rank=rank,
        kept=float(values[rank - 1] / scale) if rank else 0.0,
        dropped=float(values[rank] / scale) if rank < len(values) else 0.0,
    )


def _rank(rows: Array) -> tuple[Array, int]:
    """Singular values, descending, and how many count."""
    norms = np.linalg.norm(rows, axis=1)
    scaled = rows[norms > 0] / norms[norms > 0, None]
    if not len(scaled):
        return np.zeros(rows.shape[1]), 0
    values = np.linalg.svd(scaled, compute_uv=False)
    return values, int(np.sum(values > TOLERANCE * max(scaled.shape) * values[0]))


def recoverable(
    w: Sequence[Array], b: Sequence[Array] | None, relu: bool, lift: Callable[[Array], Array] | None = None
) -> Recoverability:
    """Recoverability of W and b from φ and h; φ is the path-lifting, unless its Jacobian is given as `lift` (of θ)."""
    d_phi = Paths.of(w, b).jacobian if lift is None else lift
    return recoverability(d_phi(flatten(w, b)), laws_jacobian(w, b, relu))


def product_jacobian(w: Sequence[Array]) -> Array:
    """∂Z of the matrix product Z = W_L ⋯ W_1, (n_L n_0, parameters): the coarser φ of linear networks."""
    blocks = []
    for layer in range(len(w)):
        after, before = np.eye(len(w[-1])), np.eye(w[0].shape[1])
        for part in reversed(w[layer + 1 :]):
            after = after @ part
        for part in w[:layer]:
            before = part @ before
        blocks.append(np.kron(after, before.T))
    return np.concatenate(blocks, axis=1)
