"""Cost per site of every program on every problem, and which part of the machine's ceiling that is."""

from __future__ import annotations

from typing import Any

from bbdfield.benchmarks.machine import Gpu, copying, find_gpu, multiplying
from bbdfield.benchmarks.problems import SITES, Problem, large_convolution
from bbdfield.benchmarks.programs import Contest, march_field, train_lattice
from bbdfield.benchmarks.settings import Settings
from bbdfield.benchmarks.timing import Timing, in_turns

#: theories of the field, marched at the lattice's own resolution
THEORIES = ((0, "euler"), (1, "midpoint"), (1, "rk4"))
SAME_AS_LATTICE = (0, "euler")
#: programs that a backend is compared with
RIVALS = ("numpy", "PyTorch", "JAX")


def measure_sites(settings: Settings) -> list[dict[str, Any]]:
    """One entry per problem; all programs of a problem, and its ceilings, take turns."""
    found, gpu = [], find_gpu(settings.sizes)
    problems = SITES[settings.sizes]()
    if gpu is not None and settings.sizes == "full":
        problems.append(large_convolution())
    for problem in problems:
        settings.say(f"sites: {problem.name}")
        found.append(_measured(problem, gpu, settings))
    return found


def _measured(problem: Problem, gpu: Gpu | None, settings: Settings) -> dict[str, Any]:
    contests: dict[tuple[int, str] | None, Contest] = {None: train_lattice(problem, settings.threads)}
    for order, scheme in THEORIES:
        contests[order, scheme] = march_field(problem, problem.lattice.grid, order, scheme)
    ceiling_kind = "copy" if problem.lattice.channels == 1 else "matmul"
    ceiling = {"copy": copying, "matmul": multiplying}[ceiling_kind](settings.sizes, settings.threads)
    programs = {
        f"{theory} {name}": (program.step, program.finish)
        for theory, contest in contests.items()
        for name, program in contest.programs.items()
    }
    programs["ceiling"] = (ceiling.call, lambda: None)
    if gpu is not None:
        programs["gpu"] = (gpu.ceilings[ceiling_kind].call, gpu.synchronize)
    times = in_turns(programs, repeats=settings.repeats, block=settings.block)
    rates = {"cpu": ceiling.amount / times["ceiling"].median}
    if gpu is not None:
        rates["gpu"] = gpu.ceilings[ceiling_kind].amount / times["gpu"].median
    amount = 8.0 * problem.numbers_moved if ceiling_kind == "copy" else float(problem.operations)
    lattice = _rows(contests[None], None, times, problem)
    by_name = {row["program"]: row["seconds"]["median"] for row in lattice if "seconds" in row}
    for row in lattice:
        if "seconds" in row:
            median = row["seconds"]["median"]
            row["times_faster_than"] = {name: by_name[name] / median for name in RIVALS if name in by_name}
            row["fraction_of_ceiling"] = amount / median / rates["cpu"]
    field = [row for theory in THEORIES for row in _rows(contests[theory], theory, times, problem)]
    for row in field:
        if "seconds" in row and (row["order"], row["scheme"]) == SAME_AS_LATTICE:  # so the same bytes and operations
            rate = rates["gpu" if row["program"] == "cupy" else "cpu"]
            row["fraction_of_ceiling"] = amount / row["seconds"]["median"] / rate
    return {
        "name": problem.name,
        "range": problem.lattice.range.name,
        "weights": "tied" if problem.lattice.range.tied else "untied",
        "depth": problem.lattice.depth,
        "width": problem.lattice.width,
        "channels": problem.lattice.channels,
        "batch": problem.batch,
        "taps": problem.taps,
        "padding": problem.lattice.padding,
        "sites": problem.sites,
        "bytes_per_site_at_least": 8.0 * problem.numbers_moved / problem.sites,
        "operations_per_step": problem.operations,
        "ceiling": {
            "kind": ceiling_kind,
            "per_second": rates["cpu"],
            "spread": times["ceiling"].spread,
            "gpu_per_second": rates.get("gpu"),
        },
        "lattice": lattice,
        "field": field,
    }


def _rows(
    contest: Contest, theory: tuple[int, str] | None, times: dict[str, Timing], problem: Problem
) -> list[dict[str, Any]]:
    """One row per program, also of those that do not run here."""
    told = {} if theory is None else {"order": theory[0], "scheme": theory[1]}
    rows: list[dict[str, Any]] = []
    for name in contest.programs:
        timing = times[f"{theory} {name}"]
        per_site = {"ns_per_site": 1e9 * timing.median / problem.sites, "ms_per_step": 1e3 * timing.median}
        rows.append({"program": name, **told, **per_site, "seconds": timing.to_dict()})
    return rows + [{"program": name, **told, "missing": reason} for name, reason in contest.missing.items()]
