"""Threads of the compiled kernels: set once per process, and never part of a result.

A batch is cut into lanes whose number depends on the problem alone; `run_lanes` runs them on as many threads as there
are, and sums over lanes are taken in order. So the same bits come out on 1 thread and on 64. Kernels call BLAS for one
lane at a time and parallelise over lanes, hence BLAS itself gets one thread meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

from solvers.errors import InputError

_count: int | None = None
_pool: ThreadPoolExecutor | None = None


def use_threads(count: int | None) -> int | None:
    """Let kernels run on so many threads; None: the CPUs that this process may use, or OMP_NUM_THREADS.

    Returns what was set before, to be set again.

    Raises
    ------
    InputError
        for a count below 1.
    """
    global _count, _pool
    if count is not None and count < 1:
        raise InputError(f"threads = {count}: needs at least 1")
    if _pool is not None:
        _pool.shutdown()
    before, _count, _pool = _count, count, None
    return before


def _forget_pool() -> None:
    """A forked child has the pool but not its threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def threads() -> int:
    """How many threads kernels run on."""
    if _count is not None:
        return _count
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if given.isdigit() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _libraries() -> Any:
    return ThreadpoolController()


def run_lanes(kernel: Callable[..., Any], lanes: Sequence[tuple[Any, ...]]) -> None:
    """Call `kernel(*arguments)` once per lane, on `threads()` threads; kernels must release the GIL."""
    global _pool
    count = threads()
    if len(lanes) == 1 or count == 1:
        with _libraries().limit(limits=1, user_api="blas"):
            for arguments in lanes:
                kernel(*arguments)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(count, thread_name_prefix="lane")
    with _libraries().limit(limits=1, user_api="blas"):
        futures = [_pool.submit(kernel, *arguments) for arguments in lanes]
        try:
            for future in futures:
                future.result()
        finally:
            wait(futures)  # after an interrupt, too: lanes write into arrays that the next step will use
