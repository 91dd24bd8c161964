"""The machine: what it is, and the fastest that it copies memory and multiplies matrices.

The copy counts every number twice, read and written, as steps do (`Problem.numbers_moved`).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController, threadpool_limits

from bbdfield.benchmarks.timing import Timing, in_turns
from bbdfield.errors import InputError
from solvers.backends import get_backend
from solvers.threads import threads as threads_here
from solvers.threads import use_threads

#: numbers in each of the two arrays that are copied, and rows of the square matrices: far out of cache, and well in it
COPIED = {"small": 1 << 16, "full": 1 << 24}
ROWS = {"small": 64, "full": 1200}
GIGA = 1e9


@dataclass(frozen=True)
class Ceiling:
    """A program that does nothing but copy or multiply; `amount` bytes or operations per call."""

    call: Callable[[int], object]
    amount: float


def copying(sizes: str, threads: int) -> Ceiling:
    """Copies one array to another, in as many parts as there are threads."""
    count = COPIED[sizes]
    source, target = np.ones(count), np.zeros(count)
    parts = [slice(count * i // threads, count * (i + 1) // threads) for i in range(threads)]
    if threads == 1:
        return Ceiling(lambda k: np.copyto(target, source), 16.0 * count)
    pool = ThreadPoolExecutor(threads)

    def call(k: int) -> None:
        for _ in pool.map(lambda part: np.copyto(target[part], source[part]), parts):
            pass

    return Ceiling(call, 16.0 * count)


def multiplying(sizes: str, threads: int) -> Ceiling:
    """A square matrix product by BLAS."""
    rows = ROWS[sizes]
    a, b = np.random.default_rng(0).standard_normal((2, rows, rows))
    out = np.empty((rows, rows))
    libraries = ThreadpoolController()

    def call(k: int) -> None:
        with libraries.limit(limits=threads, user_api="blas"):
            np.matmul(a, b, out=out)

    return Ceiling(call, 2.0 * rows**3)


def _nothing() -> None:
    """What ran is done when the call returns."""


def ceilings(sizes: str, threads: int, *, repeats: int, block: float) -> dict[str, Any]:
    """Copy bandwidth (GB/s) and matrix product rate (GFLOP/s) on one thread and on all, and on the GPU if there is one.

    "best" is of the fastest block, "median" of the median one.
    """
    counts = sorted({1, threads})
    kinds = {"copy": copying, "matmul": multiplying}
    programs = {f"{kind} {count}": make(sizes, count) for kind, make in kinds.items() for count in counts}
    times = in_turns(
        {name: (program.call, _nothing) for name, program in programs.items()}, repeats=repeats, block=block
    )
    found: dict[str, Any] = {
        kind: {str(count): _rate(programs[f"{kind} {count}"], times[f"{kind} {count}"]) for count in counts}
        for kind in kinds
    }
    return {**found, "units": {"copy": "GB/s", "matmul": "GFLOP/s"}, "gpu": _gpu_ceilings(sizes, repeats, block)}


def _rate(program: Ceiling, timing: Timing) -> dict[str, float]:
    return {
        "median": program.amount / timing.median / GIGA,
        "best": program.amount / timing.minimum / GIGA,
        "spread": timing.spread,
    }


@dataclass(frozen=True)
class Gpu:
    """What the GPU is called, how to wait for it, and its own copy and product."""

    description: str
    synchronize: Callable[[], None]
    ceilings: Mapping[str, Ceiling]


def find_gpu(sizes: str) -> Gpu | None:
    """The GPU, if one answers; its arrays are larger than those of the CPU."""
    try:
        device = get_backend("cupy")
    except InputError:
        return None
    xp = device.xp
    count, rows = 4 * COPIED[sizes], 4 * ROWS[sizes]
    source, target = xp.ones(count), xp.zeros(count)
    a, b = xp.ones((rows, rows)), xp.ones((rows, rows))

    def copy(k: int) -> None:
        target[...] = source

    found = {"copy": Ceiling(copy, 16.0 * count), "matmul": Ceiling(lambda k: xp.matmul(a, b), 2.0 * rows**3)}
    return Gpu(device.description, device.synchronize, found)


def _gpu_ceilings(sizes: str, repeats: int, block: float) -> dict[str, Any] | None:
    """The same on the GPU; None without one."""
    gpu = find_gpu(sizes)
    if gpu is None:
        return None
    calls = {name: (program.call, gpu.synchronize) for name, program in gpu.ceilings.items()}
    times = in_turns(calls, repeats=repeats, block=block)
    return {
        "device": gpu.description,
        **{name: _rate(program, times[name]) for name, program in gpu.ceilings.items()},
    }


# what it is


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, GPU and system, in words."""
    try:
        gpu = get_backend("cupy").description
    except InputError:
        gpu = "none"
    return {
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
        "load_at_start": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIGA, 1)
    except (AttributeError, ValueError, OSError):
        return None


@contextmanager
def on_threads(count: int | None) -> Iterator[int]:
    """All programs on so many CPUs and threads (default: those of `solvers.threads`); yields how many.

    Where the system allows it the process is confined to as many CPUs, since JAX takes one thread per CPU it may use.

    Raises
    ------
    InputError
        for less than one thread, or more than CPUs.
    """
    allowed = None
    given, count = count, threads_here() if count is None else count
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
        if given is None:  # OMP_NUM_THREADS may ask for more
            count = min(count, len(allowed))
        if count > len(allowed):
            raise InputError(f"--threads {count}: this process may use {len(allowed)} CPUs; give at most as many")
        os.sched_setaffinity(0, sorted(allowed)[:count])
    before = use_threads(count)
    try:
        with threadpool_limits(count):
            yield count
    finally:
        use_threads(before)
        if allowed is not None:
            os.sched_setaffinity(0, allowed)
