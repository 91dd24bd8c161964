"""The depth sweep compiled for an NVIDIA GPU: forward march and adjoint in one launch each (`sweep.cu`).

Samples are independent in depth, so a thread block takes a few of them through all cells and stages, while NumPy or
CuPy would launch some twenty kernels per stage and wait for each. A gradient is six launches: taps from weights,
forward, (the readout, by CuPy), adjoint, and three for the sums over the blocks' shares. That is few enough to leave
CUDA graphs alone: the readout between them calls cuBLAS, and reads targets that are new in every step.

Shares are summed in a fixed order, by one thread per number: the same device gives the same bits in every run. What is
compiled depends on the sizes alone; CuPy keeps the machine code in its cache, across processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bbdfield.errors import InputError
from bbdfield.model.scalings.critical import CriticalOrder0, CriticalOrder1
from bbdfield.model.scalings.residual import ResidualOrder0, ResidualOrder1
from solvers.grids import Grid
from solvers.padding import PADDINGS
from solvers.sweeps import DepthScheme, NodeReconstruction

Array = Any
Constants = Mapping[str, int | float | str | tuple[float, ...]]

SOURCE = Path(__file__).with_name("sweep.cu")
#: name -> number, in the order of sweep.cu's enumeration
ACTIVATIONS = {name: i for i, name in enumerate(("tanh", "sigmoid", "softplus", "relu", "gelu", "identity"))}
RESIDUAL, CRITICAL = range(2)
KERNELS = ("prepare", "forward", "adjoint", "sum_shares", "mix")
#: stages that sweep.cu has room for
MOST_STAGES = 8
#: threads of kernels that take one number each
FLAT_THREADS = 256
#: shares of untied weights may take this part of the GPU's memory
SHARES_PART = 0.25


def unsupported(equation: Any) -> str | None:
    """Why there is no CUDA sweep for a bulk equation; None if there is one."""
    if type(equation) not in (ResidualOrder0, ResidualOrder1, CriticalOrder0, CriticalOrder1):
        return f"no CUDA sweep for the equation {type(equation).__name__}"
    activation = getattr(equation, "activation", None)
    if activation is not None and activation.name not in ACTIVATIONS:
        return f"no CUDA sweep for the activation '{activation.name}'"
    return None


class Device(Protocol):
    """Where kernels run: an array namespace, sizes of the machine, and how to compile and launch.

    shared, shared_all : bytes of shared memory that a block may have, and that a multiprocessor has.
    memory : bytes in all.
    """

    xp: Any
    multiprocessors: int
    shared: int
    shared_all: int
    memory: int
    max_threads: int

    def free(self) -> int: ...
    def build(self, constants: Constants) -> Mapping[str, Any]: ...
    def resident(self, kernel: Any, threads: int, shared: int) -> int: ...
    def launch(self, kernel: Any, blocks: int, threads: int, shared: int, arguments: tuple[Any, ...]) -> None: ...


def prologue(constants: Constants) -> str:
    """#defines in front of sweep.cu."""

    def text(value: Any) -> str:
        return "{" + ", ".join(map(repr, value)) + "}" if isinstance(value, tuple) else str(value)

    return "".join(f"#define {name} {text(value)}\n" for name, value in constants.items())


class Gpu:
    """The current CUDA device, through CuPy."""

    #: 128 registers a thread on every architecture, which holds the tiles without spilling
    max_threads = 512

    def __init__(self) -> None:
        import cupy

        self.xp = cupy
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        self.multiprocessors = int(properties["multiProcessorCount"])
        self.shared = int(properties["sharedMemPerBlockOptin"])
        self.shared_all = int(properties["sharedMemPerMultiprocessor"])
        self.memory = int(properties["totalGlobalMem"])
        self._registers = int(properties["regsPerMultiprocessor"])
        self._threads = int(properties["maxThreadsPerMultiProcessor"])

    def free(self) -> int:
        return int(self.xp.cuda.runtime.memGetInfo()[0] + self.xp.get_default_memory_pool().free_bytes())

    def build(self, constants: Constants) -> dict[str, Any]:
        source = prologue(constants) + SOURCE.read_text(encoding="utf-8")
        module = self.xp.RawModule(code=source, options=("-std=c++17",))
        return {name: module.get_function(name) for name in KERNELS}

    def resident(self, kernel: Any, threads: int, shared: int) -> int:
        """Blocks that a multiprocessor holds at a time."""
        by_registers = self._registers // (max(int(kernel.num_regs), 16) * threads)
        by_shared = self.shared_all // (shared + 1024)  # 1 KB of it is the system's
        return max(1, min(by_registers, by_shared, self._threads // threads))

    def launch(self, kernel: Any, blocks: int, threads: int, shared: int, arguments: tuple[Any, ...]) -> None:
        if shared > 48 * 1024 and kernel.max_dynamic_shared_size_bytes < shared:
            kernel.max_dynamic_shared_size_bytes = shared
        kernel((blocks,), (threads,), arguments, shared_mem=shared)


@cache
def _gpu(identity: int) -> Gpu:
    return Gpu()


def this_gpu() -> Gpu:
    import cupy

    return _gpu(cupy.cuda.Device().id)


@dataclass(frozen=True)
class Plan:
    """How a batch is cut up: constants of the compiled kernels, and the launch.

    groups : of constants["SAMPLES"] samples each; a block takes one after another.
    """

    constants: dict[str, Any]
    channels: int
    samples: int
    groups: int
    threads: int
    shared: int

    @property
    def taps_size(self) -> int:
        c = self.constants
        return int(self.channels**2 * c["TAPS"] * (1 if c["TIED"] else c["N_Y"]))

    @property
    def items(self) -> int:
        return int(self.constants["SAMPLES"] * self.channels * self.constants["N_Y"])

    @property
    def cell_tape(self) -> int:
        return int(self.constants["STAGES"] * (1 + self.constants["ORDER"]) * self.items)


class CudaMarch:
    """One scheme on one grid for one bulk equation, as `solvers.sweeps.DepthMarch`, compiled for a GPU.

    Coefficients are `nodes` = (ŵ, b̂) at the nodes of `NodeReconstruction`: (nodes, [n_y,] C, P, C) and (nodes, n_y, C).
    The width operator is 𝒦[ŵ]s(y) = Σ_k t_k s(y + k h_y) on the padded s, with taps t = stencil·ŵ along the components.

    What is returned lives in buffers that the next call with as many samples overwrites; nothing is allocated once a
    batch size has been seen.

    Parameters
    ----------
    equation : what `unsupported` has nothing against.
    stencil : (T, P), T odd.
    tied : ŵ does not depend on y.   padding : "zeros", "circular" or "reflect".
    precision : "float64" or "float32", of all arrays.
    checkpoint : cells between stored z, whose stages the adjoint then marches through once more; 0 keeps all stages.
    device : the current GPU unless given.

    Raises
    ------
    InputError
        for an equation without a CUDA sweep, a stencil that reaches further than the width, or a sweep that does not
        fit into the GPU's memory (when it is first asked for).
    """

    def __init__(
        self,
        equation: Any,
        grid: Grid,
        scheme: DepthScheme,
        stencil: np.ndarray,
        tied: bool,
        padding: str,
        precision: str,
        checkpoint: int = 0,
        device: Device | None = None,
    ) -> None:
        reason = unsupported(equation)
        if reason is not None:
            raise InputError(f'{reason}; use backend = "numpy"')
        taps, components = stencil.shape
        if taps % 2 == 0 or (padding != "zeros" and taps // 2 > grid.n_y):
            raise InputError(f"a stencil of {taps} taps on {grid.n_y} cells: needs an odd number that fits the width")
        if len(scheme.b) > MOST_STAGES:
            raise InputError(f"depth scheme '{scheme.name}': the CUDA sweep has room for {MOST_STAGES} stages")
        self.device = this_gpu() if device is None else device
        self.grid, self.scheme, self.tied, self.checkpoint = grid, scheme, tied, min(checkpoint, grid.n_x)
        self.dtype = np.dtype(precision)
        self.nodes = NodeReconstruction(grid, scheme).interpolation.shape[0]
        self._stencil = self.device.xp.asarray(np.ascontiguousarray(stencil), self.dtype)
        self._constants = {
            "REAL": "float" if precision == "float32" else "double",
            "N_X": grid.n_x,
            "N_Y": grid.n_y,
            "NODES": self.nodes,
            "TAPS": taps,
            "COMPONENTS": components,
            "TIED": int(tied),
            "PADDING": PADDINGS.index(padding),
            "CHECKPOINT": self.checkpoint,
            **_of_equation(equation),
            **_of_scheme(scheme, grid.h_x),
        }
        self._plans: dict[tuple[int, int], tuple[Plan, Mapping[str, Any], int]] = {}
        self._builds: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        self._buffers: dict[Any, Array] = {}
        self._last: tuple[Plan, Mapping[str, Any], int] | None = None

    # the seam

    def forward(self, z0: Array, nodes: tuple[Array, Array], keep: bool = True) -> Array:
        """ẑ at the last site (n_y, C, B) from ẑ at the first; `keep` if the adjoint will be asked for."""
        return self._march(z0, nodes, keep, False)

    def sites(self, z0: Array, nodes: tuple[Array, Array]) -> Array:
        """ẑ at all sites (n_x + 1, n_y, C, B)."""
        return self._march(z0, nodes, False, True)

    def adjoint(self, lam: Array) -> tuple[Array, Array]:
        """Cotangents of ŵ and b̂ at the nodes, summed over samples, for λ (n_y, C, B) at the last site.

        The exact transpose of the last `forward` (ValueError if that did not keep its stages).
        """
        if self._last is None:
            raise ValueError("adjoint: needs a forward(..., keep=True) just before")
        plan, kernels, blocks = self._last
        constants, buffer = plan.constants, self._buffer
        size, splits = self.nodes * plan.taps_size, constants["SPLITS"]
        partial_w = buffer("partial w", blocks * splits * size)
        partial_b = buffer("partial b", blocks * self.nodes * self.grid.n_y * plan.channels)
        arguments = (
            self._given(lam),
            buffer("taps", size),
            buffer("back", size),
            self._bias,
            self._tape(plan, blocks),
            self._checkpoints(plan),
            partial_w,
            partial_b,
            self._scratch(plan, blocks),
            np.int32(plan.samples),
        )
        self._launch(kernels["adjoint"], blocks, plan.threads, plan.shared, arguments)
        t_bar = buffer("t_bar", size)
        self._sum(plan, kernels, partial_w, t_bar, blocks * splits)
        width = () if self.tied else (self.grid.n_y,)
        w_bar = buffer("w_bar", (self.nodes, *width, plan.channels, constants["COMPONENTS"], plan.channels))
        self._launch(kernels["mix"], *self._flat(w_bar.size), 0, (t_bar, self._stencil, w_bar))
        b_bar = buffer("b_bar", (self.nodes, self.grid.n_y, plan.channels))
        self._sum(plan, kernels, partial_b, b_bar, blocks)
        return w_bar, b_bar

    # launches

    def _march(self, z0: Array, nodes: tuple[Array, Array], keep: bool, all_sites: bool) -> Array:
        n_y, channels, samples = z0.shape
        width = () if self.tied else (n_y,)
        shapes = ((self.nodes, *width, channels, self._stencil.shape[1], channels), (self.nodes, n_y, channels))
        if n_y != self.grid.n_y or tuple(part.shape for part in nodes) != shapes:
            found = ", ".join(str(part.shape) for part in (z0, *nodes))
            raise ValueError(f"z0, w, b of shapes {found}: needs ({self.grid.n_y}, C, B), {shapes[0]}, {shapes[1]}")
        plan, kernels, blocks = self._plan(channels, samples)
        size = self.nodes * plan.taps_size
        taps = self._buffer("taps", size)
        back = self._buffer("back", size) if keep else taps
        w, self._bias = (self._given(part) for part in nodes)
        self._launch(kernels["prepare"], *self._flat(size), 0, (w, self._stencil, taps, back, np.int32(keep)))
        end = self._buffer(("end", samples), z0.shape)
        sites = self._buffer(("sites", samples), (self.grid.n_x + 1, *z0.shape)) if all_sites else end
        arguments = (
            self._given(z0),
            taps,
            self._bias,
            end,
            sites,
            self._tape(plan, blocks) if keep and not self.checkpoint else end,
            self._checkpoints(plan) if keep else end,
            self._scratch(plan, blocks),
            np.int32(samples),
            np.int32(keep),
            np.int32(all_sites),
        )
        self._launch(kernels["forward"], blocks, plan.threads, plan.shared, arguments)
        self._last = (plan, kernels, blocks) if keep else None
        return sites

    def _launch(self, kernel: Any, blocks: int, threads: int, shared: int, arguments: tuple[Any, ...]) -> None:
        self.device.launch(kernel, blocks, threads, shared, arguments)

    def _flat(self, size: int) -> tuple[int, int]:
        """(blocks, threads) for one number a thread."""
        threads = min(FLAT_THREADS, self.device.max_threads)
        return max(1, min(-(-size // threads), 32 * self.device.multiprocessors)), threads

    def _sum(self, plan: Plan, kernels: Mapping[str, Any], shares: Array, out: Array, count: int) -> None:
        threads = min(FLAT_THREADS, self.device.max_threads)
        columns = math.gcd(32, threads)
        blocks = min(-(-out.size // columns), 32 * self.device.multiprocessors)
        arguments = (shares, out, np.int32(count), np.int64(out.size), np.int32(columns))
        self._launch(kernels["sum_shares"], blocks, threads, 8 * threads, arguments)

    # plans and buffers

    def _plan(self, channels: int, samples: int) -> tuple[Plan, Mapping[str, Any], int]:
        key = (channels, samples)
        if key not in self._plans:
            plan = make_plan(self._constants, channels, samples, self.device, self.dtype.itemsize)
            build = tuple(plan.constants.items())
            if build not in self._builds:
                self._builds[build] = self.device.build(plan.constants)
            kernels = self._builds[build]
            resident = self.device.resident(kernels["adjoint"], plan.threads, plan.shared)
            share = self.nodes * (plan.taps_size * plan.constants["SPLITS"] + self.grid.n_y * channels)
            most = int(SHARES_PART * self.device.memory) // (share * self.dtype.itemsize)
            blocks = max(1, min(plan.groups, resident * self.device.multiprocessors, most))
            self._plans[key] = plan, kernels, blocks
        return self._plans[key]

    def _tape(self, plan: Plan, blocks: int) -> Array:
        """v and f of every stage: of all samples, or with checkpoints of one segment per block."""
        if self.checkpoint:
            return self._buffer("tape", blocks * self.checkpoint * plan.cell_tape)
        return self._buffer("tape", plan.groups * self.grid.n_x * plan.cell_tape)

    def _checkpoints(self, plan: Plan) -> Array:
        segments = -(-self.grid.n_x // self.checkpoint) if self.checkpoint else 0
        return self._buffer("checkpoints", max(1, plan.groups * segments * plan.items))

    def _scratch(self, plan: Plan, blocks: int) -> Array:
        """What does not fit into shared memory."""
        return self._buffer("scratch", 1 if plan.constants["WORK_SHARED"] else blocks * plan.constants["WORK_SIZE"])

    def _buffer(self, name: Any, shape: int | tuple[int, ...]) -> Array:
        """An array of at least this size under a name: a larger one replaces it."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size = math.prod(shape)
        found = self._buffers.get(name)
        if found is None or found.size < size:
            self._buffers.pop(name, None)
            found = None  # freed before the larger one is asked for
            needed, free = size * self.dtype.itemsize, self.device.free()
            if needed > free:
                raise InputError(
                    f"field.checkpoint = {self.checkpoint}: the sweep's {name} needs {needed / 1e9:.3g} GB and the GPU"
                    f" has {free / 1e9:.3g} GB free; use checkpoint = {max(1, math.isqrt(self.grid.n_x))}, or fewer"
                    " samples at a time"
                )
            found = self._buffers[name] = self.device.xp.empty(size, self.dtype)
        return found[:size].reshape(shape)

    def _given(self, array: Array) -> Array:
        return self.device.xp.ascontiguousarray(array, dtype=self.dtype)


def _of_equation(equation: Any) -> dict[str, Any]:
    if isinstance(equation, (CriticalOrder0, CriticalOrder1)):
        kind, activation, kappa = CRITICAL, "identity", float(equation.kappa)
        a_x = float(equation.a_x) if isinstance(equation, CriticalOrder1) else 0.0
    else:
        kind, activation, kappa = RESIDUAL, equation.activation.name, 0.0
        a_x = 2.0 * float(equation.half) if isinstance(equation, ResidualOrder1) else 0.0
    numbers = {"KAPPA": kappa, "A_X": a_x}
    return {"EQUATION": kind, "ORDER": equation.order, "ACTIVATION": ACTIVATIONS[activation], **numbers}


def _of_scheme(scheme: DepthScheme, h: float) -> dict[str, Any]:
    """The tableau times h, by rows; SLOTS = 1 where every stage needs only the slope of the one before."""
    stages = len(scheme.b)
    a = np.zeros((stages, stages))
    for i, row in enumerate(scheme.a):
        a[i, : len(row)] = row
    chained = not np.any(np.tril(a, -2))
    return {
        "STAGES": stages,
        "SLOTS": 1 if chained else stages,
        "NODAL": int(scheme.nodal),
        "TABLEAU_A": tuple((h * a).ravel().tolist()),
        "TABLEAU_B": tuple(h * weight for weight in scheme.b),
        "STAGE_NODES": tuple(scheme.nodes),
    }


def make_plan(base: Mapping[str, Any], channels: int, samples: int, device: Device, itemsize: int) -> Plan:
    """Samples per block, register tile, threads and where the working arrays live.

    Few samples: one a block, since what counts is how many multiprocessors work. Many: up to four, of which a thread
    takes two (tied) or four (untied, so that taps come from L2 once) with up to four channels; smaller tiles where
    fewer than four warps would be left. Working arrays go to shared memory if they fit, then tied taps beside them.
    """
    n_y, taps, tied, slots = base["N_Y"], base["TAPS"], base["TIED"], base["SLOTS"]
    needs_v = base["ORDER"] == 1 and base["ACTIVATION"] in (ACTIVATIONS[n] for n in ("sigmoid", "softplus", "gelu"))

    def numbers(group: int) -> int:
        """WORK_SIZE of sweep.cu."""
        return group * channels * ((4 + slots + needs_v) * n_y + 2 * (n_y + taps - 1))

    def fits(count: int) -> bool:
        return count * itemsize <= device.shared

    group = 4
    while group > 1 and (-(-samples // group) < 0.75 * device.multiprocessors or not fits(numbers(group))):
        group //= 2
    rc = math.gcd(channels, 4)
    rs = min(group, 2 if tied else 4)
    if not tied:
        rc = min(rc, 8 // rs)
    while rs * rc > 1 and n_y * (channels // rc) * (group // rs) < min(128, device.max_threads):
        if rs > 1 and (tied or rc == 1):
            rs //= 2
        else:
            rc //= 2
    tiles = n_y * (channels // rc) * (group // rs)
    weights = channels * taps * (channels // rc) if tied else tiles
    threads = min(device.max_threads, 32 * -(-max(tiles, min(weights, 256)) // 32))
    taps_numbers = 2 * channels * taps * channels
    work_shared = fits(numbers(group))
    taps_shared = bool(tied) and fits(taps_numbers + (numbers(group) if work_shared else 0))
    shared = itemsize * ((taps_numbers if taps_shared else 0) + (numbers(group) if work_shared else 0))
    constants = {
        **base,
        "CHANNELS": channels,
        "SAMPLES": group,
        "RS": rs,
        "RC": rc,
        "SPLITS": max(1, min(threads // weights, 32, n_y)) if tied else 1,
        "WORK_SHARED": int(work_shared),
        "WORK_SIZE": numbers(group),
        "TAPS_SHARED": int(taps_shared),
        "MAX_THREADS": max(threads, FLAT_THREADS),
    }
    return Plan(constants, channels, samples, -(-samples // group), threads, shared)
