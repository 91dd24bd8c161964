"""Where the FFT overtakes the direct sum for tied kernels: the ratio of their times, both measured in this run.

    python experiments/benchmarks/width_operator.py

For each width N (kernel radius 11/80, 8 channels, 32 samples, one BLAS thread) the three operations of a field step are
timed: 𝒦s, its adjoint in s, its adjoint in ŵ. `solvers.width.FFT_FROM_TAPS` is set from this table.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from solvers.grids import Grid
from solvers.width import FFT_FROM_TAPS, KernelOperator

RADIUS, CHANNELS, SAMPLES = 11 / 80, 8, 32


def seconds(call: Callable[[], object], repeat: int = 7) -> float:
    """The median of several calls, after one that is not counted."""
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    rng = np.random.default_rng(0)
    print("   N  taps   direct: apply, adjoint s, adjoint w (ms)      direct / fft")
    for width in (40, 120, 200, 360, 1080):
        grid = Grid(1, width)
        s, g = rng.standard_normal((2, width, CHANNELS, SAMPLES))
        times = []
        for method in ("direct", "fft"):
            operator = KernelOperator(np, grid, RADIUS, tied=True, padding="zeros", method=method)
            w = rng.standard_normal((CHANNELS, operator.taps, CHANNELS))
            calls: list[Callable[[], object]] = [
                functools.partial(operator.apply, w, s),
                functools.partial(operator.adjoint_state, w, g),
                functools.partial(operator.adjoint_weights, s, g),
            ]
            times.append([seconds(call) for call in calls])
        direct, fft = np.array(times)
        shown = "  ".join(f"{1e3 * t:8.3f}" for t in direct)
        ratios = "  ".join(f"{ratio:5.2f}" for ratio in direct / fft)
        chosen = "fft" if operator.taps >= FFT_FROM_TAPS else "direct"
        print(f"{width:5d} {operator.taps:5d}   {shown}                   {ratios}   (auto: {chosen})")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
