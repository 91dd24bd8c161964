"""Sets of parameters that no gradient leaves, whatever data and loss: points on them, tangents and distances.

Zhao, Luo, Zhang, arXiv 2510.09564, prove for analytic models that every symmetry of the architecture induces such a
structural invariant manifold. In Σ_k a_k σ(w_k·x + b_k), and in the same way in any hidden layer of a deeper network,
let v_k = (a_k, w_k, b_k) be the full neuron: its outgoing weights, incoming weights and bias. Then

    equal         v_i = v_j                 for every σ
    opposite      v_i = −v_j                for odd σ; the bias changes its sign, too
    zero          v_i = 0                   for σ(0) = 0
    proportional  v_i = c v_j,   c > 0      for σ(cz) = cσ(z): relu (and, with any c ≠ 0, linear neurons)

are invariant. The last is derived here: with w_i = c w_j, b_i = c b_j, gradients are ∂ℓ/∂a_i = c ∂ℓ/∂a_j and
∂ℓ/∂(w, b)_i = (a_i/a_j) ∂ℓ/∂(w, b)_j, so that it takes a_i = c a_j. A trap: equal *incoming* weights and biases alone
("inputs" below) are no invariant manifold, since ∂ℓ/∂w_i is proportional to a_i.

All of them say v_k = s_k u for some neurons k, with fixed numbers s (of zero: s = 0). They are linear, and
P = s sᵀ/|s|² on those neurons projects on them and on their tangents alike. Equal neurons are one neuron in other
coordinates (`ReducedNetwork`).

Channels of a lattice: of a plain network those of one site m are neurons, with W[m−1], b[m−1] coming in and W[m] (or
R) going out. A skip connection leads channel c of one site to channel c of the next, and the critical scaling's
identity likewise; there channels i and j have to be tied in all layers at once, with the rows of the lift E and of R:

    ŵ[m]_ic = s ŵ[m]_jc,   ŵ[m]_ci = s ŵ[m]_cj,   b̂[m]_i = s b̂[m]_j,   R_i = s R_j,   E_i = s E_j

(derived here; rows and columns, so that the four weights between i and j agree up to signs). Exchanging i and j alone
would leave ŵ_ii − ŵ_ij free, and that difference is conserved. Fields have the same manifolds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from bbdfield.errors import InputError
from bbdfield.lattice.dense import Biases, DenseNetwork, Weights
from bbdfield.model.activations import Activation, get_activation
from bbdfield.model.architecture import Lattice
from bbdfield.model.units import identity

Array = npt.NDArray[np.float64]
#: group ("w", "b", "r", "lift") -> its arrays, one per layer: a list, or one array with the layers first
Parameters = Mapping[str, Any]

KINDS = ("equal", "opposite", "zero", "proportional")
#: looks like one of them, and is none
NON_EXAMPLE = "inputs"

_SAMPLES = np.linspace(-4.0, 4.0, 65)
_FACTORS = (0.25, 0.7, 3.0)


# which activations have which manifolds


def is_odd(sigma: Activation) -> bool:
    """Whether σ(−z) = −σ(z), to rounding, on points from −4 to 4."""
    return _agree(sigma.f(-_SAMPLES), -sigma.f(_SAMPLES))


def vanishes_at_zero(sigma: Activation) -> bool:
    """Whether σ(0) = 0."""
    return float(sigma.f(np.zeros(1))[0]) == 0.0


def is_homogeneous(sigma: Activation) -> bool:
    """Whether σ(cz) = cσ(z) for c > 0, to rounding, on points from −4 to 4."""
    return all(_agree(sigma.f(c * _SAMPLES), c * sigma.f(_SAMPLES)) for c in _FACTORS)


def _agree(a: Array, b: Array) -> bool:
    return bool(np.allclose(a, b, rtol=1e-13, atol=1e-15))


_NEEDS: dict[str, tuple[Callable[[Activation], bool], str]] = {
    "opposite": (is_odd, "an odd activation, σ(−z) = −σ(z)"),
    "zero": (vanishes_at_zero, "an activation with σ(0) = 0"),
    "proportional": (is_homogeneous, "an activation with σ(cz) = cσ(z), such as relu"),
}


def is_linear(sigma: Activation) -> bool:
    """Whether σ(cz) = cσ(z) for any c."""
    return is_odd(sigma) and is_homogeneous(sigma)


def holds_for(kind: str, sigma: Activation) -> bool:
    """Whether neurons with this activation have this manifold."""
    _known(kind)
    return kind not in _NEEDS or _NEEDS[kind][0](sigma)


def _known(kind: str) -> None:
    if kind not in (*KINDS, NON_EXAMPLE):
        raise InputError(f"manifolds: '{kind}' is none of {', '.join(KINDS)}")


# manifolds


@dataclass(frozen=True)
class Tie:
    """Which entries of parameters belong to which neuron: group, layer or layers, and the neurons' axis there."""

    group: str
    layer: int | slice
    axis: int


@dataclass(frozen=True)
class Manifold:
    """Parameters in which entry k along every tie's axis is s_k u, for the neurons k.

    name : one of `KINDS`, or "inputs".   neurons, scales : k and s_k; scales of zero for zero neurons.
    origin : what weights "w" are measured from: the identity of the critical scaling, else 0.
    """

    name: str
    neurons: tuple[int, ...]
    scales: tuple[float, ...]
    ties: tuple[Tie, ...]
    origin: Any = 0.0

    def project(self, parameters: Parameters) -> dict[str, Any]:
        """The nearest point on the manifold; tied entries are the same bits (with scales that are powers of 2)."""
        return self._moved(self.tangent(self._moved(parameters, -1.0)), 1.0)

    def tangent(self, parameters: Parameters) -> dict[str, Any]:
        """P_T g: the part of a gradient or velocity along the manifold."""
        found = _copies(parameters)
        for tie in self.ties:
            found[tie.group][tie.layer] = self.projected(found[tie.group][tie.layer], tie.axis)
        return found

    def distance(self, parameters: Parameters) -> float:
        """Euclidean distance to the manifold; exactly 0 for tied entries that are equal bits (scales ±1 or 0)."""
        return float(np.sqrt(self._across(self._moved(parameters, -1.0))))

    def tangency(self, gradients: Parameters) -> float:
        """|(1 − P_T) g| / |g| of a gradient at a point on the manifold: 0 if the manifold is invariant."""
        size = _square(gradients)
        return float(np.sqrt(self._across(gradients) / size)) if size > 0 else 0.0

    def tied(self, parameters: Parameters) -> bool:
        """Whether the ties hold bit for bit: s_j x_i == s_i x_j."""
        moved = self._moved(parameters, -1.0)
        for tie in self.ties:
            rows = self._rows(moved[tie.group][tie.layer], tie.axis)
            if not any(self.scales):
                if any(row.any() for row in rows):
                    return False
                continue
            for (x, s), (y, t) in combinations(zip(rows, self.scales, strict=True), 2):
                if not np.array_equal(t * x, s * y):
                    return False
        return True

    def _rows(self, values: Array, axis: int) -> list[Array]:
        front = np.moveaxis(values, axis, 0)
        return [front[k] for k in self.neurons]

    def _moved(self, parameters: Parameters, sign: float) -> dict[str, Any]:
        if isinstance(self.origin, float):
            return dict(parameters)
        return {group: arrays + sign * self.origin if group == "w" else arrays for group, arrays in parameters.items()}

    def projected(self, values: Array, axis: int) -> Array:
        """One array with its neurons along `axis` tied, whatever the ties are."""
        found = np.array(values, float)
        front = np.moveaxis(found, axis, 0)
        norm = sum(s * s for s in self.scales)
        if norm == 0:
            front[list(self.neurons)] = 0.0
            return found
        common = sum(s * front[k] for k, s in zip(self.neurons, self.scales, strict=True)) / norm
        for k, s in zip(self.neurons, self.scales, strict=True):
            front[k] = s * common
        return found

    def _across(self, parameters: Parameters) -> float:
        """|(1 − P) θ|². Ties of one array act on different axes, so that their parts are orthogonal in turn."""
        found, total = _copies(parameters), 0.0
        norm = sum(s * s for s in self.scales)
        for tie in self.ties:
            values = found[tie.group][tie.layer]
            rows = self._rows(values, tie.axis)
            if norm == 0:
                total += sum(float(np.sum(row * row)) for row in rows)
            else:  # Lagrange's identity: no cancellation, and exactly 0 for equal bits
                for (x, s), (y, t) in combinations(zip(rows, self.scales, strict=True), 2):
                    total += float(np.sum((t * x - s * y) ** 2)) / norm
            found[tie.group][tie.layer] = self.projected(values, tie.axis)
        return total


def _copies(parameters: Parameters) -> dict[str, Any]:
    """Containers that can be written to; arrays of list entries are replaced, never changed."""
    return {
        group: np.array(arrays) if isinstance(arrays, np.ndarray) else list(arrays)
        for group, arrays in parameters.items()
    }


def _square(parameters: Parameters) -> float:
    return sum(float(np.sum(part * part)) for arrays in parameters.values() for part in arrays)


def _scales(kind: str, neurons: Sequence[int], scales: Sequence[float] | None, linear: bool) -> tuple[float, ...]:
    """s of a kind: given for "proportional" only."""
    if scales is not None and kind != "proportional":
        raise InputError(f"manifolds: '{kind}' has no scales to choose; leave them out, or ask for 'proportional'")
    count = len(neurons)
    least = 1 if kind == "zero" else 2
    if count < least or len(set(neurons)) != count:
        raise InputError(f"manifolds: '{kind}' needs {least} different neurons or more, not {list(neurons)}")
    if kind == "opposite":
        return tuple(-1.0 if n % 2 else 1.0 for n in range(count))
    if kind == "proportional":
        given = tuple(2.0**n for n in range(count)) if scales is None else tuple(float(s) for s in scales)
        fine = all(np.isfinite(s) and (s > 0 or (linear and s != 0)) for s in given)
        if len(given) != count or not fine:
            raise InputError(f"manifolds: 'proportional' needs {count} scales > 0, one per neuron, not {list(given)}")
        return given
    return (0.0 if kind == "zero" else 1.0,) * count


def _admit(kind: str, sigma: Activation | None, where: str) -> None:
    """Refuse a kind that the neurons do not have; no activation: linear neurons, which have all of them."""
    _known(kind)
    if sigma is not None and not holds_for(kind, sigma):
        raise InputError(f"manifolds: '{kind}' neurons need {_NEEDS[kind][1]}, and {where} has {sigma.name}")


def _within(neurons: Sequence[int], count: int, what: str) -> tuple[int, ...]:
    if any(not 0 <= int(k) < count for k in neurons):
        raise InputError(f"manifolds: {what} are numbered 0 to {count - 1}, and {list(neurons)} are asked for")
    return tuple(int(k) for k in neurons)


# networks of plain lists


def listed(w: Sequence[Array], b: Sequence[Array] | None) -> dict[str, list[Array]]:
    """Parameters (or gradients) of a dense network, as manifolds take them."""
    return {"w": list(w), **({} if b is None else {"b": list(b)})}


def dense_manifold(
    network: DenseNetwork,
    w: Sequence[Array],
    b: Sequence[Array] | None,
    kind: str,
    layer: int,
    neurons: Sequence[int],
    scales: Sequence[float] | None = None,
) -> Manifold:
    """The manifold of some neurons of one hidden layer of a dense network, `bbdfield.lattice.dense`.

    Parameters
    ----------
    kind : one of `KINDS`, or "inputs" for equal incoming weights and biases, which is not invariant.
    layer : the hidden layer l, whose neurons are the rows of W[l] and b[l] and the columns of W[l+1]; in a residual
        network the inside of a block, l = 0, 2, …
    scales : of "proportional" neurons; 1, 2, 4, … by default, for which ties are exact in binary numbers.

    Raises
    ------
    InputError
        for a layer that is not hidden, neurons that it does not have, or a kind that its activation does not have.
    """
    hidden = [i for i in range(len(w) - 1) if not (network.residual and i % 2)]
    if layer not in hidden:
        raise InputError(
            f"manifolds: layer {layer} is not hidden in a {'residual ' if network.residual else ''}network of"
            f" {len(w)} layers; choose one of {hidden}"
        )
    _admit(kind, network.activation, f"layer {layer}")
    chosen = _within(neurons, len(w[layer]), f"neurons of layer {layer}")
    ties = [Tie("w", layer, 0)] + ([] if b is None else [Tie("b", layer, 0)])
    if kind != NON_EXAMPLE:
        ties.append(Tie("w", layer + 1, 1))
    return Manifold(kind, chosen, _scales(kind, chosen, scales, is_linear(network.activation)), tuple(ties))


@dataclass(frozen=True)
class ReducedNetwork:
    """A dense network with groups of equal neurons, as the narrower network that it is.

    m equal neurons m a σ(w·x + b) are one neuron √m β σ(ω·(x, 1)/√m), with β = √m a and ω = √m (w, b), and gradient
    descent moves (β, ω) at the same rate. In deep networks, with m neurons per group of layer l and m' of layer l+1,

        W = √(m/m') ω,   b = β/√m',   ∂ℓ/∂ω = √(m/m') ∂ℓ/∂W,   ∂ℓ/∂β = (∂ℓ/∂b)/√m'

    which are orthonormal coordinates on the manifold (derived here for deep networks). It takes the place of the
    network in `bbdfield.lattice.dense.descend`.

    sizes : m of every group, for the input (ones), every hidden layer and the output (ones).
    """

    network: DenseNetwork
    sizes: tuple[Array, ...]

    @classmethod
    def of(
        cls, network: DenseNetwork, w: Sequence[Array], b: Sequence[Array] | None, groups: Mapping[int, Sequence[int]]
    ) -> tuple[ReducedNetwork, Weights, Biases]:
        """The reduced network and its (ω, β), of a network in which `groups` of hidden layers are equal neurons.

        groups : hidden layer -> neurons that are equal there.

        Raises
        ------
        InputError
            if neurons of a group differ, or a layer is not hidden.
        """
        kept = [np.arange(w[0].shape[1]), *(np.arange(len(part)) for part in w)]
        sizes = [np.ones(len(rows)) for rows in kept]
        for layer, neurons in groups.items():
            manifold = dense_manifold(network, w, b, "equal", layer, neurons)
            if not manifold.tied(listed(w, b)):
                raise InputError(f"manifolds: neurons {list(neurons)} of layer {layer} differ; project them first")
            first, *others = manifold.neurons
            sizes[layer + 1][first] = len(neurons)
            kept[layer + 1] = np.delete(kept[layer + 1], others)
            sizes[layer + 1] = np.delete(sizes[layer + 1], others)
        reduced = cls(network, tuple(sizes))
        omega = [
            np.sqrt(sizes[i + 1][:, None] * sizes[i]) * part[np.ix_(kept[i + 1], kept[i])] for i, part in enumerate(w)
        ]
        beta = None
        if b is not None:
            beta = [np.sqrt(m) * part[rows] for m, rows, part in zip(sizes[1:], kept[1:], b, strict=True)]
        return reduced, omega, beta

    def _factors(self) -> list[Array]:
        """√(m/m') of every layer's weights."""
        pairs = zip(self.sizes[:-1], self.sizes[1:], strict=True)
        return [np.sqrt(below[None, :] / above[:, None]) for below, above in pairs]

    def bare(self, w: Sequence[Array], b: Sequence[Array] | None) -> tuple[Weights, Biases]:
        """W and b of the narrower network of ordinary neurons that (ω, β) stand for."""
        weights = [factor * part for factor, part in zip(self._factors(), w, strict=True)]
        if b is None:
            return weights, None
        return weights, [part / np.sqrt(m) for part, m in zip(b, self.sizes[1:], strict=True)]

    def logits(self, w: Sequence[Array], b: Sequence[Array] | None, x: Array) -> Array:
        return self.network.logits(*self.bare(w, b), x)

    def loss_and_gradients(
        self, w: Sequence[Array], b: Sequence[Array] | None, x: Array, targets: Array
    ) -> tuple[float, Weights, Biases]:
        """The loss and its gradients with respect to ω and β."""
        loss, g_w, g_b = self.network.loss_and_gradients(*self.bare(w, b), x, targets)
        omega = [factor * g for factor, g in zip(self._factors(), g_w, strict=True)]
        if g_b is None:
            return loss, omega, None
        return loss, omega, [g / np.sqrt(m) for g, m in zip(g_b, self.sizes[1:], strict=True)]


# lattices


def of_lattice(state: Mapping[str, Array], lift: Array | None = None) -> dict[str, Any]:
    """Parameters (or gradients) "w", "b", "r" of a lattice, as manifolds take them; with the lift E if it is given."""
    found = {"w": state["w"], "b": state["b"], "r": state["r"][None]}
    return found if lift is None else {**found, "lift": lift[None]}


def is_joint(lattice: Lattice) -> bool:
    """Whether channels are one thing through all depths, as behind skip connections."""
    return lattice.scaling != "plain"


def lattice_manifold(
    lattice: Lattice,
    kind: str,
    channels: Sequence[int],
    site: int | None = None,
    scales: Sequence[float] | None = None,
    *,
    lift: bool = True,
) -> Manifold:
    """The manifold of some channels of a lattice, of its bare parameters (`of_lattice`).

    Parameters
    ----------
    site : of a plain network: whose channels are tied, 1 … M; the last has no activation. None: in plain networks
        channels of all these sites, each for itself; in the others, which know no single site, through all depths.
    lift : whether the rows of E are tied, too, behind skip connections. They do not train; without them nothing is
        invariant.

    Raises
    ------
    InputError
        for a site or channels that the lattice does not have, or a kind that its activation does not have.
    """
    sigma = lattice.law.activation(get_activation(lattice.activation), lattice.a_x)
    only_last = site == lattice.depth and not is_joint(lattice)
    _admit(kind, None if only_last else sigma, "the lattice")
    chosen = _within(channels, lattice.channels, "channels")
    given = _scales(kind, chosen, scales, only_last or is_linear(sigma))
    whole = kind != NON_EXAMPLE
    if is_joint(lattice):
        if site is not None:
            raise InputError(
                f'manifolds: with scaling = "{lattice.scaling}" a channel is one through all depths, so there is no'
                " manifold of one site; leave the site out"
            )
        ties = _joint_ties() if whole else _incoming(slice(None))
        return Manifold(kind, chosen, given, (*ties, *([Tie("lift", 0, 0)] if lift else [])), identity(lattice))
    if site is not None and not 1 <= site <= lattice.depth:
        raise InputError(f"manifolds: hidden sites are 1 to {lattice.depth}, and site {site} is asked for")
    ties = _incoming(slice(None) if site is None else site - 1)
    if whole and site != lattice.depth:
        ties += (Tie("w", slice(1, None) if site is None else site, -1),)
    if whole and site in (None, lattice.depth):
        ties += (Tie("r", 0, 1),)
    return Manifold(kind, chosen, given, ties)


def _incoming(layer: int | slice) -> tuple[Tie, ...]:
    return Tie("w", layer, -3), Tie("b", layer, -1)


def _joint_ties() -> tuple[Tie, ...]:
    """Rows and columns of every layer, biases and readout of a channel through all depths; not the lift."""
    return *_incoming(slice(None)), Tie("w", slice(None), -1), Tie("r", 0, 1)


def tied_lift(lift: Array, manifold: Manifold) -> Array:
    """The lift E with the manifold's rows tied, and |E|² as it was."""
    if not any(tie.group == "lift" for tie in manifold.ties):
        return lift
    found = manifold.projected(lift, 0)
    size = float(np.linalg.norm(found))
    if size == 0:
        raise InputError("manifolds: no row of the lift is left; tie fewer channels")
    # a common factor: equal rows stay equal bits
    return found * (float(np.linalg.norm(lift)) / size)
