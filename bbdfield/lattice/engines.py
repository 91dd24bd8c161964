"""What runs the lattice's sweeps: the NumPy reference, or one of two compiled routes chosen by size.

An engine has its own layout and precision of the parameters u = (θ, b, R). Losses, logits and R are float64 everywhere.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from bbdfield.errors import InputError
from bbdfield.lattice.network import PADDINGS, Network, check_padding, readout
from bbdfield.model.activations import is_built_in
from bbdfield.model.architecture import Lattice
from solvers.backends import NUMBA_FROM, Backend, check_checkpoint, get_backend
from solvers.threads import run_lanes

Parameters = tuple[np.ndarray, ...]
Rates = tuple[float, ...]

#: samples per lane, and lanes at most: sizes alone decide, so that threads do not show in results
LANE, LANES = 16, 8
#: numbers per lane that gradients of a block of layers may take until they are summed over lanes
BLOCK = 1 << 20
#: numbers that one thread sums over lanes at a time
PIECE = 1 << 17


class Part(NamedTuple):
    """Samples that go through the network together: their share in the batch, z[0] (N, C, B), targets (B, O)."""

    share: float
    z0: np.ndarray
    targets: np.ndarray


class Engine(Protocol):
    """native, restored : from the package's layouts (float64) and back, always as copies or read only.

    gradient : mean loss and its gradients, native; they are valid until the next call.
    descend : u − rates × gradients with the loss at u, possibly in place; u itself where the loss is not finite.
    """

    backend: Backend
    network: Network

    def native(self, u: Parameters) -> Parameters: ...
    def restored(self, u: Parameters) -> Parameters: ...
    def gradient(self, u: Parameters, parts: Iterable[Part]) -> tuple[float, Parameters]: ...
    def descend(self, u: Parameters, parts: Iterable[Part], rates: Rates) -> tuple[float, Parameters]: ...
    def logits(self, u: Parameters, z0: np.ndarray) -> np.ndarray: ...


class NumpyEngine:
    """The readable reference, `bbdfield.lattice.network`."""

    def __init__(self, backend: Backend, network: Network, matrix: np.ndarray | None) -> None:
        self.backend, self.network, self.matrix = backend, network, matrix

    def native(self, u: Parameters) -> Parameters:
        # One memory order, whatever the source's: products round by it, and a resumed run is to be bitwise the same.
        return tuple(np.array(part, np.float64, order="C") for part in u)

    def restored(self, u: Parameters) -> Parameters:
        return u

    def weights(self, theta: np.ndarray) -> np.ndarray:
        """The network's taps W (M, [N], C, T, C): W_k = Σ_p matrix[k, p] θ_p."""
        return theta if self.matrix is None else np.einsum("kp,...apb->...akb", self.matrix, theta)

    def gradient(self, u: Parameters, parts: Iterable[Part]) -> tuple[float, Parameters]:
        theta, b, r = u
        w = self.weights(theta)
        total, sums = 0.0, tuple(np.zeros_like(p) for p in (w, b, r))
        for share, z0, targets in parts:
            result = self.network.loss_and_gradients(z0, w, b, r, targets)
            total += share * result.loss
            for summed, name in zip(sums, ("w", "b", "r"), strict=True):
                summed += share * result.gradients[name]
        if self.matrix is None:
            return total, sums
        return total, (np.ascontiguousarray(np.einsum("kp,...akb->...apb", self.matrix, sums[0])), *sums[1:])

    def descend(self, u: Parameters, parts: Iterable[Part], rates: Rates) -> tuple[float, Parameters]:
        loss, gradients = self.gradient(u, parts)
        if not math.isfinite(loss):
            return loss, u
        return loss, tuple(value - rate * part for value, rate, part in zip(u, rates, gradients, strict=True))

    def logits(self, u: Parameters, z0: np.ndarray) -> np.ndarray:
        return self.network.logits(z0, self.weights(u[0]), *u[1:])


@dataclasses.dataclass
class _Workspace:
    """Everything that one part of a batch needs, kept between steps."""

    lanes: list[Any]
    block: int  # layers whose gradients are summed over lanes at a time
    sums: tuple[np.ndarray, ...]  # gradients of θ and b of every lane (L, block, …), if there are several
    last: np.ndarray  # z[M] and δ[M] (N, C, B)
    delta: np.ndarray
    r_gradient: np.ndarray


class CompiledEngine:
    """Compiled sweeps over lanes of samples, in threads.

    A step is: forward over all layers, keeping σ(z) of the last `checkpoint` of them (0: of all) and z at every
    checkpoint; readout and loss in NumPy; adjoint, with earlier intervals computed again from their checkpoints. With
    one lane SGD updates θ in the adjoint sweep; with several, gradients are summed over lanes block by block of layers.
    """

    def __init__(
        self, backend: Backend, kernels: ModuleType, network: Network, lattice: Lattice, checkpoint: int
    ) -> None:
        from solvers.compiled.activations import KINDS, from_value

        self.backend, self.kernels, self.network, self.lattice = backend, kernels, network, lattice
        self.dtype = np.dtype(backend.precision)
        matrix = lattice.range.taps(lattice.a_y)
        self.matrix = np.zeros((0, 0), self.dtype) if matrix is None else np.array(matrix, self.dtype)
        taps = lattice.range.components(lattice.grid).size if matrix is None else len(matrix)
        check_padding(lattice.padding, lattice.width, taps // 2)
        kind = KINDS[lattice.activation]
        scale = 1.0 if lattice.kappa is None else 1.0 / math.sqrt(3.0 * lattice.kappa * lattice.a_x)
        self._law = (kind, scale, PADDINGS.index(lattice.padding), self.dtype.type(lattice.law.skip), self.matrix)
        self._from_value = bool(from_value(kind))
        self.ring = min(checkpoint, lattice.depth) or lattice.depth
        self._workspaces: dict[int, _Workspace] = {}
        self._gradients: tuple[np.ndarray, np.ndarray] | None = None

    def native(self, u: Parameters) -> Parameters:
        return (*self.kernels.native(u[0], u[1], self.dtype), np.array(u[2], np.float64, order="C"))

    def restored(self, u: Parameters) -> Parameters:
        return (*self.kernels.restored(u[0], u[1], self.lattice.range.tied), np.array(u[2], np.float64, order="C"))

    def gradient(self, u: Parameters, parts: Iterable[Part]) -> tuple[float, Parameters]:
        if self._gradients is None:
            self._gradients = np.zeros_like(u[0]), np.zeros_like(u[1])
        total, r_gradient, fresh = 0.0, np.zeros_like(u[2]), True
        for part in parts:
            loss, more = self._sweep(u, part, self._gradients, (part.share, part.share), fresh)
            total, fresh = total + part.share * loss, False
            r_gradient += part.share * more
        if not math.isfinite(total):
            for gradient in (*self._gradients, r_gradient):
                gradient.fill(np.nan)  # there is none; steppers with several stages must notice
        return total, (*self._gradients, r_gradient)

    def descend(self, u: Parameters, parts: Iterable[Part], rates: Rates) -> tuple[float, Parameters]:
        parts = iter(parts)
        first = next(parts)
        if first.share == 1.0:
            loss, r_gradient = self._sweep(u, first, u[:2], (-rates[0], -rates[1]), False)
        else:
            loss, (w_gradient, b_gradient, r_gradient) = self.gradient(u, itertools.chain([first], parts))
            if math.isfinite(loss):
                self._add(w_gradient[None], -rates[0], False, u[0])
                self._add(b_gradient[None], -rates[1], False, u[1])
        if math.isfinite(loss):
            u[2][...] -= rates[2] * r_gradient
        return loss, u

    def logits(self, u: Parameters, z0: np.ndarray) -> np.ndarray:
        last = np.empty(z0.shape)
        self._forward(u, self._lanes(u, z0.shape[-1], ring=1, kept=0, gradients=False), z0, last)
        return readout(last, u[2], self.lattice.a_y, self.lattice.length_y)

    def _sweep(
        self, u: Parameters, part: Part, targets: Parameters, factors: tuple[float, float], fresh: bool
    ) -> tuple[float, np.ndarray]:
        """Add factors × gradients of θ and b to the targets, unless the loss is not finite; returns it and ∂ℓ/∂R."""
        depth, work = self.lattice.depth, self._workspace(u, part.z0.shape[-1])
        self._forward(u, work.lanes, part.z0, work.last)
        loss, _ = self.network.output(work.last, u[2], part.targets, work.r_gradient, work.delta)
        if not math.isfinite(loss):
            return loss, work.r_gradient
        for lane in work.lanes:
            lane.put_delta(work.delta, depth)
        for start in reversed(range(0, depth, self.ring)):
            stop = min(start + self.ring, depth)
            if stop < depth:
                for lane in work.lanes:
                    lane.z[...] = lane.kept[start // self.ring]
                self._advance(u, work.lanes, start, stop)
            self._adjoint(u, work, start, stop, targets, factors, fresh)
        return loss, work.r_gradient

    def _forward(self, u: Parameters, lanes: list[Any], z0: np.ndarray, last: np.ndarray) -> None:
        for lane in lanes:
            lane.put(z0)
        self._advance(u, lanes, 0, self.lattice.depth)
        for lane in lanes:
            lane.get(last)

    def _advance(self, u: Parameters, lanes: list[Any], start: int, stop: int) -> None:
        common = (start, stop, *self._law, u[0], u[1])
        self._launch(self.kernels.forward, [common + lane.forward_arrays for lane in lanes])

    def _launch(self, kernel: Any, lanes: list[tuple[Any, ...]]) -> None:
        if len(lanes) == 1 and not self.kernels.BLAS:  # which spares the smallest sweeps the search for BLAS's threads
            kernel(*lanes[0])
        else:
            run_lanes(kernel, lanes)

    def _adjoint(
        self, u: Parameters, work: _Workspace, start: int, stop: int, targets: Parameters,
        factors: tuple[float, float], fresh: bool,
    ) -> None:  # fmt: skip
        common = (*self._law, u[0], u[1])
        if len(work.lanes) == 1:
            into = (*map(self.dtype.type, factors), fresh, 0, *targets)
            self._launch(self.kernels.adjoint, [(start, stop, *common, *work.lanes[0].adjoint_arrays, *into)])
            return
        one = self.dtype.type(1.0)
        for high in range(stop, start, -work.block):
            low = max(high - work.block, start)
            own = [tuple(sums[n] for sums in work.sums) for n in range(len(work.lanes))]
            self._launch(
                self.kernels.adjoint,
                [
                    (low, high, *common, *lane.adjoint_arrays, one, one, True, low, *into)
                    for lane, into in zip(work.lanes, own, strict=True)
                ],
            )
            for sums, factor, target in zip(work.sums, factors, targets, strict=True):
                self._add(sums, factor, fresh, target[low:high])

    def _add(self, sums: np.ndarray, factor: float, fresh: bool, target: np.ndarray) -> None:
        """target += factor × the sum over lanes (L, …), or = where `fresh`."""
        from bbdfield.lattice.compiled_sums import add

        rows, flat = sums.reshape(len(sums), -1), target.reshape(-1)
        scale = self.dtype.type(factor)
        cuts = [*range(0, flat.size, PIECE), flat.size]
        run_lanes(add, [(rows, low, high, scale, fresh, flat) for low, high in itertools.pairwise(cuts)])

    def _lanes(self, u: Parameters, samples: int, ring: int, kept: int, gradients: bool) -> list[Any]:
        count = lanes_of(samples)
        edges = [samples * n // count for n in range(count + 1)]
        return [
            self.kernels.Lane(u[0], u[1], self.matrix, slice(*pair), ring, kept, self._from_value, gradients)
            for pair in itertools.pairwise(edges)
        ]

    def _workspace(self, u: Parameters, samples: int) -> _Workspace:
        """Two are kept: a full part's and the last one's."""
        if samples not in self._workspaces:
            if len(self._workspaces) == 2:
                del self._workspaces[next(iter(self._workspaces))]
            depth = self.lattice.depth
            kept = -(-depth // self.ring) if self.ring < depth else 0
            lanes = self._lanes(u, samples, self.ring, kept, gradients=True)
            block = max(1, min(self.ring, BLOCK // (u[0][0].size + u[1][0].size)))
            count = len(lanes) if len(lanes) > 1 else 0
            sums = tuple(np.zeros((count, block, *part.shape[1:]), self.dtype) for part in u[:2])
            shape = (self.lattice.width, self.lattice.channels, samples)
            self._workspaces[samples] = _Workspace(
                lanes, block, sums, np.empty(shape), np.empty(shape), np.empty(u[2].shape)
            )
        return self._workspaces[samples]


def lanes_of(samples: int) -> int:
    """Into how many lanes samples are cut."""
    return min(LANES, -(-samples // LANE))


def by_products(lattice: Lattice, batch: int) -> bool:
    """Whether matrix products are faster than sums over taps, by sizes alone.

    Sums take C²T passes over rows of N cells per sample, products N calls of BLAS per lane. On C = 1 … 16, T = 1 … 21,
    up to 64 samples and N = 40 … 128 they break even near C² √(T/N) × (samples per lane) = 45, tied, and 70, untied.
    """
    taps = lattice.range.taps(lattice.a_y)
    count = lattice.range.components(lattice.grid).size if taps is None else len(taps)
    samples = min(batch // lanes_of(batch), LANE)
    size = lattice.channels**2 * math.sqrt(count / lattice.width) * samples
    return size >= (45 if lattice.range.tied else 70)


def choose(
    lattice: Lattice, network: Network, batch: int, backend: str | Backend, precision: str, checkpoint: int
) -> Engine:
    """The engine for this lattice.

    "auto" takes compiled code for sweeps of `solvers.backends.NUMBA_FROM` numbers or more, or where precision or
    checkpoints need it; neither steps nor threads decide, so that a resumed run takes the same.

    Raises
    ------
    InputError
        for a backend that does not exist here or has no code for this lattice, and float32 or checkpoints with NumPy.
    """
    checkpoint = check_checkpoint("training.checkpoint", checkpoint)
    compiled = is_built_in(lattice.activation)
    name = backend.name if isinstance(backend, Backend) else backend
    wanted = checkpoint > 0 or precision != "float64"
    if name == "auto":
        large = lattice.depth * lattice.width * lattice.channels * batch >= NUMBA_FROM
        name = "numba" if wanted or (large and compiled and _numba_here()) else "numpy"
    if wanted and not compiled and backend == "auto":
        raise InputError(
            f"training.precision and training.checkpoint need compiled code, and there is none for your own activation"
            f' "{lattice.activation}"; use precision = "float64" and checkpoint = 0'
        )
    if name == "numba" and not compiled:
        raise InputError(
            f'training.backend = "numba": no compiled code for your own activation "{lattice.activation}";'
            ' use backend = "numpy"'
        )
    if name not in ("numpy", "numba"):
        raise InputError(f'training.backend = "{name}": lattices train on the CPU; use auto, numpy or numba')
    found = get_backend(backend if isinstance(backend, Backend) else name, precision=precision)
    if name == "numpy":
        if found.precision != "float64":
            raise InputError(
                f'training.precision = "{found.precision}": the NumPy reference is float64; use backend = "numba"'
            )
        if checkpoint:
            raise InputError(
                f'training.checkpoint = {checkpoint}: the NumPy reference keeps every layer; use backend = "numba"'
            )
        return NumpyEngine(found, network, lattice.range.taps(lattice.a_y))
    from bbdfield.lattice import compiled_products, compiled_taps

    products = by_products(lattice, batch)
    kernels = compiled_products if products else compiled_taps
    words = "BLAS products" if products else "sums over taps"
    lanes = lanes_of(batch)
    words = f"{words}, {lanes} lane{'s' if lanes > 1 else ''} of samples"
    described = dataclasses.replace(found, description=f"{found.description}, {words}")
    return CompiledEngine(described, kernels, network, lattice, checkpoint)


def _numba_here() -> bool:
    try:
        get_backend("numba")
    except InputError:
        return False
    return True
