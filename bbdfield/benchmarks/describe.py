"""What the benchmark found, in words and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bbdfield.benchmarks.programs import FRAMEWORKS, NOT_INSTALLED
from bbdfield.studies.describe import Cell, Description, Table, decimal, listed, number, percent
from solvers.backends import BACKENDS

Entry = Mapping[str, Any]

CAPTIONS = {
    "sites": "Median cost of a training step per layer, cell, channel and sample, all programs of a line in turns on"
    " the same threads.",
    "scaling": "Time per step and largest sum of arrays against one size at a time, with the slopes of log–log fits;"
    " the field has 16 RK4 cells of order 1 except in the last column.",
    "forecast": "A field on few cells against training the lattice that it describes: MNIST-1D, 40 cells, 8 channels,"
    " 32 samples. PyTorch's time is that of a step, times the number of steps.",
}
TITLE = "Benchmark"
#: programs that wait for a CPU, per CPU, above which times are not to be trusted
BUSY = 0.5


def describe(results: Entry) -> Description:
    """Tables of the parts that were measured."""
    machine, threads = results["machine"], results["threads"]
    gpu = "" if machine["gpu"] == "none" else f", {machine['gpu']}"
    summary = (
        f"Training steps in float64 on {machine['cpu']} ({threads} of {machine['cpus']} CPUs{gpu}), all programs warm"
        f" and in turns: medians of {results['repeats']} blocks, or of 3 where one step is long."
    )
    tables = [_ceilings(results["ceilings"])]
    messages = []
    if "sites" in results:
        tables += [_lattice_table(results["sites"]), _field_table(results["sites"])]
    if "scaling" in results:
        tables.append(_scaling_table(results["scaling"]))
    if "forecast" in results:
        tables.append(_forecast_table(results["forecast"]))
        messages.append(_forecast_message(results["forecast"]))
    load = machine["load_at_start"]
    if load is not None and load > BUSY * machine["cpus"]:
        messages.append(f"Other programs were running (load {load:g} at the start): do not trust these ratios.")
    if machine["gpu"] == "none":
        messages.append("No GPU answered: nothing was measured on one.")
    return Description(summary, tables, " ".join(messages))


def _ceilings(ceilings: Entry) -> Table:
    rows: list[list[Cell]] = []
    for kind, name in (("copy", "copy, GB/s read and written"), ("matmul", "matrix product, GFLOP/s")):
        for count, rate in ceilings[kind].items():
            threads = f"{count} thread{'s' if count != '1' else ''}"
            rows.append([name, threads, digits(rate["median"]), digits(rate["best"]), percent(rate["spread"])])
        if ceilings["gpu"] is not None:
            rate = ceilings["gpu"][kind]
            rows.append([name, "GPU", digits(rate["median"]), digits(rate["best"]), percent(rate["spread"])])
    return Table("the machine's ceilings", ["", "on", "median", "best", "spread"], rows, "arrays out of cache, float64")


def digits(value: float) -> str:
    """Three significant digits, and all those before the decimal point."""
    return f"{value:,.0f}" if abs(value) >= 100 else number(float(value))


def _row(rows: Sequence[Entry], program: str) -> Entry:
    return next((row for row in rows if row["program"] == program), {})


def _cost(row: Entry) -> Cell:
    if "ns_per_site" in row:
        return digits(row["ns_per_site"])
    return NOT_INSTALLED if row.get("missing") == NOT_INSTALLED else "–"


def _measured(problems: Sequence[Entry], kind: str, names: Sequence[str]) -> list[str]:
    """Programs that deserve a column: frameworks always, a backend where it ran at all."""
    ran = {row["program"] for problem in problems for row in problem[kind] if "ns_per_site" in row}
    return [name for name in names if name in FRAMEWORKS or name in ran]


def _lattice_table(problems: Sequence[Entry]) -> Table:
    names = _measured(problems, "lattice", (*BACKENDS, *FRAMEWORKS))
    rows: list[list[Cell]] = []
    for problem in problems:
        by_name = {name: _row(problem["lattice"], name) for name in names}
        best = by_name.get("numba") or {}
        best = best if "ns_per_site" in best else by_name["numpy"]
        ratios = best["times_faster_than"]
        rows.append(
            [
                f"{problem['name']}\n{problem['depth']:,} × {problem['width']:,} × {problem['channels']} ×"
                f" {problem['batch']}",
                *(_cost(by_name[name]) for name in names),
                digits(best["ms_per_step"]),
                *(_times(ratios.get(name)) for name in ("numpy", *FRAMEWORKS)),
                _ceiling_of(best, problem),
                percent(best["seconds"]["spread"]),
            ]
        )
    head = ["", *names, "ms/step", "vs NumPy", "vs PyTorch", "vs JAX", "of ceiling", "spread"]
    return Table(
        "cost of training a lattice, ns per layer, cell, channel and sample",
        head,
        rows,
        "sizes are layers × cells × channels × samples; ms/step, ratios, fraction of the machine's copy or matrix"
        " product rate and spread are those of numba, or of NumPy where numba has no code; bytes and operations as in"
        " docs/benchmarks.md",
    )


def _ceiling_of(row: Entry, problem: Entry) -> str:
    if "fraction_of_ceiling" not in row:
        return "–"
    return f"{percent(row['fraction_of_ceiling'])} {problem['ceiling']['kind']}"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{digits(value)}×"


def _field_table(problems: Sequence[Entry]) -> Table:
    names = _measured(problems, "field", tuple(BACKENDS))
    rows: list[list[Cell]] = []
    for problem in problems:
        for order, scheme in dict.fromkeys((row["order"], row["scheme"]) for row in problem["field"]):
            own = [row for row in problem["field"] if (row["order"], row["scheme"]) == (order, scheme)]
            found = {name: _row(own, name) for name in names}
            costs = {name: row["ns_per_site"] for name, row in found.items() if "ns_per_site" in row}
            fastest = min(costs, key=lambda name: costs[name]) if costs else None
            rows.append(
                [
                    problem["name"],
                    f"{order}, {scheme}",
                    *(_cost(found[name]) for name in names),
                    _times(costs["numpy"] / costs[fastest]) if fastest else "–",
                    digits(found[fastest]["ms_per_step"]) if fastest else "–",
                    fastest or "–",
                    _ceiling_of(found[fastest], problem) if fastest else "–",
                ]
            )
    return Table(
        "cost of the field at the lattice's resolution, ns per depth cell, cell, channel and sample",
        ["", "order", *names, "vs NumPy", "ms/step", "fastest", "of ceiling"],
        rows,
        "order 0 by Euler is the lattice itself, so its bytes and operations are known",
    )


def _scaling_table(entries: Sequence[Entry]) -> Table:
    rows: list[list[Cell]] = []
    for entry in entries:
        memory, held = entry["memory"], entry["bytes"]
        rows.append(
            [
                entry["axis"],
                entry["program"],
                entry["backend"],
                listed(entry["sizes"]) if len(entry["sizes"]) < 3 else f"{entry['sizes'][0]} … {entry['sizes'][-1]}",
                _power(entry["time"]),
                decimal(entry["time"]["last"]),
                digits(1e3 * entry["seconds"][-1]["median"]),
                "–" if memory is None else _power(memory),
                "–" if held is None else digits(held[-1] / 1e6),
            ]
        )
    head = ["", "program", "by", "from … to", "time ∝ size^", "last two", "ms/step", "memory ∝ size^", "MB"]
    return Table("growth of time and memory", head, rows, "ms per step and MB at the largest size")


def _power(fit: Entry) -> str:
    return decimal(round(fit["exponent"], 2) + 0.0)  # no −0.00


def _forecast_table(forecast: Entry) -> Table:
    lattices = {entry["depth"]: entry for entry in forecast["lattices"]}
    rows: list[list[Cell]] = []
    for row in forecast["fields"]:
        lattice = lattices[row["depth"]]
        rival = lattice["pytorch"]
        rows.append(
            [
                f"{row['depth']:,}",
                str(row["cells"]),
                NOT_INSTALLED if rival is None else digits(rival["seconds_of_all_steps"]),
                digits(lattice["seconds"]),
                digits(row["seconds"]["median"]),
                _times(row["times_faster_than_pytorch"]),
                _times(row["times_faster_than_lattice"]),
                _fraction(row["relative_error"]),
                _fraction(row["largest_relative_error"]),
            ]
        )
    head = ["layers", "cells", "PyTorch s", "lattice s", "field s", "vs PyTorch", "vs lattice", "L2 error", "largest"]
    return Table(
        f"forecast of the loss over {forecast['steps']} steps",
        head,
        rows,
        f"field of order {forecast['order']} by {forecast['scheme']}; PyTorch: median step, times the steps",
    )


def _fraction(value: float) -> str:
    return f"{number(100 * value)} %"


def _forecast_message(forecast: Entry) -> str:
    told = [f"{name} {_power(fit)}" for name, fit in forecast["exponents"].items()]
    cold = forecast["cold_seconds"]
    setup = "" if cold is None else f"A new process makes its field's first step after {number(cold)} s."
    return (f"Cost against the number of layers grows with exponents: {', '.join(told)}. " if told else "") + setup
