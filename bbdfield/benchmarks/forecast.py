"""The forecast: the loss curve of a deep lattice from a field on few cells, against training that lattice.

The lattice is trained in earnest by this package, so that its loss curve is known; PyTorch trains the same lattice (the
same numbers to rounding), for fewer steps, and its time per step is multiplied. The field runs all steps in earnest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bbdfield.benchmarks import pytorch
from bbdfield.benchmarks.problems import Problem, forecast
from bbdfield.benchmarks.programs import NOT_INSTALLED, fastest_field, fastest_lattice
from bbdfield.benchmarks.scaling import exponent
from bbdfield.benchmarks.settings import Settings
from bbdfield.benchmarks.timing import REST, Timing, in_turns
from bbdfield.errors import NumericsError
from solvers.grids import Grid

ORDER, SCHEME = 1, "rk4"
#: complete runs of every field, and blocks of PyTorch's steps
REPEATS = 3


def measure_forecast(settings: Settings) -> dict[str, Any]:
    """Seconds, errors, speed-ups and exponents for every depth of the lattice and number of cells of the field."""
    problems = {depth: forecast(depth, settings.steps) for depth in settings.depths}
    lattices = []
    for depth, problem in problems.items():
        settings.say(f"forecast: training the lattice of {depth:,} layers")
        lattices.append({"depth": depth, **_trained(problem, settings)})
    settings.say("forecast: the field")
    fields = _forecasts(problems, settings)
    by_depth = {entry["depth"]: entry for entry in lattices}
    for row in fields:
        lattice = by_depth[row["depth"]]
        exact, found = np.asarray(lattice["loss"]), np.asarray(row["loss"])
        seconds = row["seconds"]["median"]
        row["relative_error"] = float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
        row["largest_relative_error"] = float(np.max(np.abs(found - exact) / np.abs(exact)))
        row["times_faster_than_lattice"] = lattice["seconds"] / seconds
        rival = lattice["pytorch"]
        row["times_faster_than_pytorch"] = None if rival is None else rival["seconds_of_all_steps"] / seconds
    return {
        "steps": settings.steps,
        "order": ORDER,
        "scheme": SCHEME,
        "lattices": lattices,
        "fields": fields,
        "cold_seconds": cold_seconds(settings.depths[0], settings.cells[0]),
        "exponents": _exponents(lattices, fields),
        "pytorch": "measured" if pytorch.installed() else NOT_INSTALLED,
    }


def _trained(problem: Problem, settings: Settings) -> dict[str, Any]:
    """The lattice's loss curve and time; PyTorch's time per step and, in turns with it, the lattice's."""
    backend, system = fastest_lattice(problem)
    start = {"w": problem.start.w, "b": problem.start.b, "r": problem.start.r}
    steps = problem.training.steps
    programs: Any = {"lattice": (lambda k: system.step(k % steps), system.backend.synchronize)}
    if pytorch.installed():
        rival = pytorch.PyTorchLattice(problem, settings.threads)
        programs["PyTorch"] = (rival.step, rival.finish)
    times = in_turns(programs, repeats=REPEATS, block=settings.block)
    system.load(start)
    begin = time.perf_counter()
    loss = [system.step(k)["loss"] for k in range(steps)]
    seconds = time.perf_counter() - begin
    _require_finite(loss, problem.name)
    timing = times.get("PyTorch")
    return {
        "backend": backend,
        "seconds": seconds,
        "seconds_of_step": times["lattice"].to_dict(),
        "loss": loss,
        "pytorch": None
        if timing is None
        else {
            "seconds_of_step": timing.to_dict(),
            "seconds_of_all_steps": timing.median * steps,
            "steps_measured": timing.repeats * timing.calls,
        },
    }


def first_step(depth: int, cells: int) -> None:
    """Make a forecast's field and let it train for one step."""
    problem = forecast(depth, 1)
    _, system = fastest_field(problem, Grid(cells, problem.lattice.width), ORDER, SCHEME)
    system.step(0)


def cold_seconds(depth: int, cells: int) -> float | None:
    """Seconds of `first_step` in a new process: imports, compiled code from its cache, data; None if it failed."""
    code = (
        "import time; begin = time.perf_counter(); from bbdfield.benchmarks.forecast import first_step;"
        f"first_step({depth}, {cells}); print(time.perf_counter() - begin)"
    )
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else None


def _forecasts(problems: dict[int, Problem], settings: Settings) -> list[dict[str, Any]]:
    """Complete runs of all fields, in turns, compiled before."""
    systems, starts, backends = {}, {}, {}
    for depth, problem in problems.items():
        for cells in settings.cells:
            grid = Grid(cells, problem.lattice.width)
            backends[depth, cells], system = fastest_field(problem, grid, ORDER, SCHEME)
            starts[depth, cells] = system.state()
            system.step(0)
            systems[depth, cells] = system
    seconds: dict[tuple[int, int], list[float]] = {key: [] for key in systems}
    losses: dict[tuple[int, int], list[float]] = {}
    for _ in range(REPEATS):
        for key, system in systems.items():
            system.load(starts[key])
            time.sleep(REST)
            begin = time.perf_counter()
            losses[key] = [system.step(k)["loss"] for k in range(settings.steps)]
            seconds[key].append(time.perf_counter() - begin)
    rows = []
    for (depth, cells), times in seconds.items():
        _require_finite(losses[depth, cells], f"field of {depth} layers on {cells} cells")
        timing = Timing.of(times, settings.steps).to_dict()
        row = {"depth": depth, "cells": cells, "backend": backends[depth, cells], "seconds": timing}
        rows.append({**row, "loss": losses[depth, cells]})
    return rows


def _require_finite(loss: list[float], name: str) -> None:
    if not np.all(np.isfinite(loss)):
        raise NumericsError(f"benchmark, {name}: the loss ceased to be finite; the forecast has nothing to compare")


def _exponents(lattices: list[dict[str, Any]], fields: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the seconds in the number of layers, per program; {} with one depth."""
    depths = [entry["depth"] for entry in lattices]
    if len(depths) < 2:
        return {}
    found = {"lattice": exponent(depths, [entry["seconds"] for entry in lattices])}
    if all(entry["pytorch"] for entry in lattices):
        found["PyTorch"] = exponent(depths, [entry["pytorch"]["seconds_of_all_steps"] for entry in lattices])
    for cells in sorted({row["cells"] for row in fields}):
        own = [row["seconds"]["median"] for row in fields if row["cells"] == cells]
        found[f"field on {cells} cells"] = exponent(depths, own)
    return found
