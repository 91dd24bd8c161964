"""How a field is marched in depth, and on which backend: array code (the reference), compiled code, or CUDA.

    forward(ẑ(0), (ŵ, b̂) at the nodes) -> ẑ(L_x)      sites(...) -> ẑ at all sites      adjoint(λ(L_x)) -> cotangents

All take and give arrays of the backend. `adjoint` belongs to the last `forward` and sums over samples.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from bbdfield.errors import InputError
from bbdfield.fields.well_posedness import STENCIL
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import Lattice
from bbdfield.model.scalings import BulkEquation
from solvers.backends import Backend, get_backend
from solvers.grids import Grid
from solvers.sweeps import DepthMarch, Sweep

Array = Any
Nodes = tuple[Array, Array]

#: samples marched together, more are summed over chunks so that memory stays bounded: a GPU needs many to be busy
CHUNKS = {"cupy": 4096}
CHUNK = 256
#: from this many taps on a tied kernel is faster by the reference's Fourier transform than by compiled sums
FOURIER_FROM = 64


class March(Protocol):
    def forward(self, z0: Array, nodes: Nodes, keep: bool = True) -> Array: ...
    def adjoint(self, lam: Array) -> Nodes: ...
    def sites(self, z0: Array, nodes: Nodes) -> Array: ...


class ArrayMarch:
    """`solvers.sweeps.DepthMarch` on the arrays of any backend; `checkpoint` = cells between kept ẑ, 0 keeps all."""

    def __init__(self, march: DepthMarch, xp: Any, checkpoint: int = 0) -> None:
        self._march, self._xp = march, xp
        n_x = march.grid.n_x
        self._segments = [range(n_x)]
        if checkpoint:
            self._segments = [range(first, min(first + checkpoint, n_x)) for first in range(0, n_x, checkpoint)]
        self._starts: list[Array] = []
        self._nodes: Nodes | None = None
        self._last: Sweep | None = None

    def forward(self, z0: Array, nodes: Nodes, keep: bool = True) -> Array:
        if not keep:
            return self._march.forward(z0, nodes, keep=False).z[-1]
        self._starts, self._nodes = [z0], nodes
        for cells in self._segments[:-1]:
            self._starts.append(self._march.forward(self._starts[-1], nodes, keep=False, cells=cells).z[-1])
        self._last = self._march.forward(self._starts[-1], nodes, cells=self._segments[-1])
        return self._last.z[-1]

    def adjoint(self, lam: Array) -> Nodes:
        nodes, last, self._last = self._nodes, self._last, None
        if nodes is None or last is None:
            raise ValueError("adjoint needs a forward march that kept its tape")
        sweep: Sweep | None = last
        w_bar, b_bar = (self._xp.zeros_like(part) for part in nodes)

        def add(node: int, cotangents: tuple[Array, ...]) -> None:
            w_bar[node, ...] += cotangents[0]
            b_bar[node, ...] += cotangents[1]

        for cells, start in reversed(list(zip(self._segments, self._starts, strict=True))):
            if sweep is None:
                sweep = self._march.forward(start, nodes, cells=cells)
            lam = self._march.adjoint(sweep, nodes, lam, add, cells=cells)[0]
            sweep = None
        return w_bar, b_bar

    def sites(self, z0: Array, nodes: Nodes) -> Array:
        return self._xp.stack(self._march.forward(z0, nodes, keep=False).z)


def theory(
    xp: Any, lattice: Lattice, grid: Grid, order: int, width_order: int | None = None, stencil: int = STENCIL
) -> tuple[Any, BulkEquation]:
    """Width operator and bulk equation on a grid."""
    operator = lattice.range.operator(xp, grid, lattice.a_y, lattice.padding, width_order, stencil)
    return operator, lattice.law.bulk(order, operator, get_activation(lattice.activation), lattice.a_x)


def choose_backend(
    name: str | Backend,
    lattice: Lattice,
    grid: Grid,
    order: int,
    *,
    samples: int,
    precision: str = "float64",
    width_order: int | None = None,
    stencil: int = STENCIL,
) -> Backend:
    """The backend by name, or for "auto" the fastest for this problem; never by the number of steps or threads.

    samples : of a training step.

    Raises
    ------
    InputError
        for a backend that cannot run here, or has no code for the problem.
    """
    backend = get_backend(name, values=grid.n_x * grid.n_y * lattice.channels * samples, precision=precision)
    if backend.name != "numba":
        return backend
    from bbdfield.fields.compiled import unsupported

    operator, equation = theory(np, lattice, grid, order, width_order, stencil)
    reason = unsupported(equation)
    if name == "auto":
        fourier = getattr(operator, "method", "") == "fft" and operator.taps >= FOURIER_FROM
        return get_backend("numpy", precision=precision) if reason or fourier else backend
    if reason:
        raise InputError(f'field.backend = "numba": {reason}; use backend = "numpy" or "auto"')
    return backend


def make_march(
    backend: Backend,
    march: DepthMarch,
    stencil: np.ndarray,
    *,
    tied: bool,
    padding: str,
    checkpoint: int = 0,
) -> March:
    """The march on this backend of what `march` does in array code."""
    equation, grid, scheme = march.rhs, march.grid, march.scheme
    options: dict[str, Any] = {"tied": tied, "padding": padding, "checkpoint": checkpoint}
    if backend.name == "numba":
        from bbdfield.fields.compiled import CompiledMarch

        return CompiledMarch(equation, grid, scheme, stencil, precision=backend.precision, **options)
    if backend.name == "cupy":
        from bbdfield.fields.cuda import CudaMarch, unsupported

        if unsupported(equation) is None:
            return CudaMarch(equation, grid, scheme, stencil, precision=backend.precision, **options)
    return ArrayMarch(march, backend.xp, checkpoint)
