"""How time and memory grow with depth, width, channels, batch, and the field's own cells: fitted exponents.

Memory is the largest sum of NumPy's arrays (tracemalloc) while the system is built and trains for two steps: the same
in every run. Data, programs and code are not in it.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

from bbdfield.benchmarks import pytorch
from bbdfield.benchmarks.problems import Problem, scaling_axes
from bbdfield.benchmarks.programs import Program, fastest_field, fastest_lattice
from bbdfield.benchmarks.settings import Settings
from bbdfield.benchmarks.timing import in_turns
from bbdfield.comparison.orders import fit_order
from solvers.grids import Grid

#: depth cells of the field where they are not what grows, and the ladder of those where they are
CELLS = {"small": 4, "full": 16}
LADDER = {"small": (4, 8), "full": (16, 32, 64, 128)}
THEORY = {"order": 1, "scheme": "rk4"}
#: times of PyTorch stand beside, its memory does not: tracemalloc does not see it
PROGRAMS = ("lattice", "field", "PyTorch")


def measure_scaling(settings: Settings) -> list[dict[str, Any]]:
    """One entry per axis and program: sizes, seconds, bytes and their exponents. Sizes of an axis take turns."""
    found = []
    for axis in scaling_axes(settings.sizes):
        settings.say(f"scaling: {axis.name}")
        problems = {size: axis.make(size) for size in axis.sizes}
        makers = {
            "lattice": {size: _lattice(problem) for size, problem in problems.items()},
            "field": {size: _field(problem, CELLS[settings.sizes]) for size, problem in problems.items()},
        }
        found += _axis(axis.name, makers, problems if pytorch.installed() else {}, settings)
    settings.say("scaling: cells")
    base = next(axis for axis in scaling_axes(settings.sizes) if axis.name == "depth")
    deepest = base.make(max(base.sizes))
    found += _axis(
        "cells", {"field": {cells: _field(deepest, cells) for cells in LADDER[settings.sizes]}}, {}, settings
    )
    return found


Make = Callable[[], tuple[str, Any]]


def _lattice(problem: Problem) -> Make:
    return lambda: fastest_lattice(problem)


def _field(problem: Problem, cells: int) -> Make:
    return lambda: fastest_field(problem, Grid(cells, problem.lattice.width), **THEORY)  # type: ignore[arg-type]


def _axis(
    name: str, makers: dict[str, dict[int, Make]], pytorch_problems: dict[int, Problem], settings: Settings
) -> list[dict[str, Any]]:
    programs: dict[str, Program] = {}
    backends: dict[str, list[str]] = {}
    for program, ladder in makers.items():
        for size, make in ladder.items():
            backend, system = make()
            backends.setdefault(program, []).append(backend)
            steps = system.boundary.training.steps
            programs[f"{program} {size}"] = Program(_stepping(system, steps), system.backend.synchronize)
    for size, problem in pytorch_problems.items():
        rival = pytorch.PyTorchLattice(problem, settings.threads)
        programs[f"PyTorch {size}"] = Program(rival.step, rival.finish)
    times = in_turns(programs, repeats=settings.repeats, block=settings.block)
    rows = []
    for program in PROGRAMS:
        sizes = [size for size in (makers.get(program) or pytorch_problems) if f"{program} {size}" in times]
        if not sizes:
            continue
        seconds = [times[f"{program} {size}"] for size in sizes]
        held = [peak_bytes(make) for make in makers[program].values()] if program in makers else None
        rows.append(
            {
                "axis": name,
                "program": program,
                "backend": " or ".join(dict.fromkeys(backends.get(program, [program]))),
                "sizes": sizes,
                "seconds": [timing.to_dict() for timing in seconds],
                "time": exponent(sizes, [timing.median for timing in seconds]),
                "bytes": held,
                "memory": None if held is None else exponent(sizes, held),
            }
        )
    return rows


def _stepping(system: Any, steps: int) -> Callable[[int], Any]:
    return lambda k: system.step(k % steps)


def peak_bytes(make: Make) -> int:
    """The largest sum of NumPy's arrays while a system is made and trains for two steps; code is compiled before."""
    _, system = make()
    system.step(0)
    del system
    tracemalloc.start()
    try:
        _, system = make()
        system.step(0)
        system.step(1)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def exponent(sizes: Sequence[int], values: Sequence[float]) -> dict[str, Any]:
    """The slope of log value against log size, its 95 % confidence interval (None with two points), and the last two
    sizes' own slope.
    """
    fit = fit_order([float(size) for size in sizes], [float(value) for value in values])
    return {"exponent": fit.order, "ci": None if fit.ci is None else list(fit.ci), "last": fit.local[0]}
