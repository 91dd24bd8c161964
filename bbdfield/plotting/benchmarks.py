"""Figures of `bbdfield bench`: cost per site, scaling, and the forecast. Input is what bench.json holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bbdfield.plotting.style import DARK, GREY, ORDER_COLORS, fraction, new_figure, positive, styled

Entry = Mapping[str, Any]

#: colour and mark of a program, the same in all figures
LOOKS = {
    "numba": (ORDER_COLORS[1], "o"),
    "lattice": (ORDER_COLORS[1], "o"),
    "field": (ORDER_COLORS[0], "s"),
    "cupy": (ORDER_COLORS[2], "^"),
    "PyTorch": (DARK, "D"),
    "JAX": (ORDER_COLORS[3], "v"),
    "numpy": (GREY, "s"),
}
NAMES = {
    "numba": "numba (here)",
    "numpy": "NumPy (here)",
    "cupy": "CuPy (here)",
    "lattice": "lattice (here)",
    "field": "field (here)",
}
AXES = {
    "depth": "layers $M$ of the lattice",
    "width": "cells $N$",
    "channels": "channels $C$",
    "batch": "samples $B$",
    "cells": "depth cells $n_x$ of the field",
}


def _name(program: str) -> str:
    return NAMES.get(program, program)


# cost per site


@styled
def figure_sites(problems: Sequence[Entry]) -> Figure:
    """Nanoseconds per layer, cell, channel and sample of every program: one line per problem, lattice and field."""
    theories = sorted({(row["order"], row["scheme"]) for problem in problems for row in problem["field"]})
    lines = [(problem, None) for problem in problems] + [
        (problem, theory) for problem in problems for theory in theories
    ]
    figure = new_figure(11.5, 1.6 + 0.34 * max(len(problems), 1 + len(theories) * len(problems) / 2))
    left, right = figure.subplots(1, 2)
    draw_sites(left, [line for line in lines if line[1] is None])
    draw_sites(right, [line for line in lines if line[1] is not None])
    left.set_title("training the lattice")
    right.set_title("integrating the field on as many cells")
    figure.suptitle(_sites_title(problems))
    rows = [row for problem in problems for row in (*problem["lattice"], *problem["field"])]
    programs = [name for name in LOOKS if any(row["program"] == name and "ns_per_site" in row for row in rows)]
    handles = [
        Line2D([], [], ls="", color=LOOKS[name][0], marker=LOOKS[name][1], label=_name(name)) for name in programs
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def draw_sites(ax: Axes, lines: Sequence[tuple[Entry, tuple[int, str] | None]]) -> None:
    """Marks of all programs on one line per problem (and theory), fastest to slowest joined by a thin line."""
    names = []
    for place, (problem, theory) in enumerate(lines):
        costs = {name: _cost(problem, theory, name) for name in LOOKS}
        known = {name: cost for name, cost in costs.items() if cost is not None}
        if known:
            ax.plot([min(known.values()), max(known.values())], [place, place], color="#d0d0d0", lw=1, zorder=1)
        for name, cost in known.items():
            color, mark = LOOKS[name]
            ax.plot(cost, place, mark, color=color, ms=6, zorder=2)
        told = "" if theory is None else f", order {theory[0]} {theory[1]}"
        names.append(f"{problem['name']}{told}")
    ax.set_xscale("log")
    ax.set_yticks(range(len(lines)), names, fontsize=8 if len(lines) > 10 else 9)
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.set_xlabel("ns per layer, cell, channel and sample")


def _cost(problem: Entry, theory: tuple[int, str] | None, program: str) -> float | None:
    """ns per site, None where it was not measured."""
    rows = problem["lattice" if theory is None else "field"]
    for row in rows:
        if row["program"] == program and (theory is None or (row["order"], row["scheme"]) == theory):
            cost: float | None = row.get("ns_per_site")
            return cost
    return None


def _sites_title(problems: Sequence[Entry]) -> str:
    """How much faster numba is than the fastest framework, over all problems."""
    ratios = []
    for problem in problems:
        own = _cost(problem, None, "numba")
        rivals = [cost for name in ("PyTorch", "JAX") if (cost := _cost(problem, None, name))]
        if own and rivals:
            ratios.append(min(rivals) / own)
    if not ratios:
        return "Cost of a training step per site"
    low, high = _ratio(min(ratios)), _ratio(max(ratios))
    return f"Compiled lattices train {low} to {high} times as fast as the faster of PyTorch and JAX"


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


# scaling


@styled
def figure_scaling(entries: Sequence[Entry]) -> Figure:
    """Seconds per step (above) and bytes (below) against every size, with fitted exponents."""
    axes = [axis for axis in AXES if any(entry["axis"] == axis for entry in entries)]
    figure = new_figure(3.1 * len(axes), 6.2)
    panels = np.atleast_2d(figure.subplots(2, len(axes), sharex="col", sharey="row"))
    for column, axis in enumerate(axes):
        members = [entry for entry in entries if entry["axis"] == axis]
        draw_scaling(panels[0, column], members, "time")
        draw_scaling(panels[1, column], members, "memory")
        panels[1, column].set_xlabel(AXES[axis])
    for row in panels:  # rows share their y axes: room for the legends above all lines
        low, high = row[0].get_ylim()
        row[0].set_ylim(low, high * (high / low) ** 0.4)
    panels[0, 0].set_ylabel("ms per training step")
    panels[1, 0].set_ylabel("largest sum of arrays / MB")
    figure.suptitle(_scaling_title(entries))
    return figure


def draw_scaling(ax: Axes, entries: Sequence[Entry], kind: str) -> None:
    """Lines of all programs against one size; `kind` is "time" or "memory". The legend gives the exponents."""
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    sizes: list[int] = []
    for entry in entries:
        if entry[kind] is None:
            continue
        color, mark = LOOKS[entry["program"]]
        values = [1e3 * s["median"] for s in entry["seconds"]] if kind == "time" else [b / 1e6 for b in entry["bytes"]]
        label = f"{_name(entry['program']).removesuffix(' (here)')}: {_exponent(entry[kind]['exponent'])}"
        ax.plot(entry["sizes"], positive(np.asarray(values, float)), color=color, marker=mark, ms=4.5, label=label)
        sizes = list(entry["sizes"])
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(title="exponent", loc="upper left", fontsize=8.5, title_fontsize=8.5, handlelength=1.4)


def _exponent(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")  # no −0.00


def _scaling_title(entries: Sequence[Entry]) -> str:
    of_field = next((e for e in entries if e["axis"] == "depth" and e["program"] == "field"), None)
    of_lattice = next((e for e in entries if e["axis"] == "depth" and e["program"] == "lattice"), None)
    if of_field is None or of_lattice is None:
        return "Cost of a training step against its sizes"
    time, memory = (_exponent(of_field[kind]["exponent"]) for kind in ("time", "memory"))
    return (
        f"The field's time grows with the layers that it describes to the power {time} and its memory to {memory},"
        f" the lattice's time to {_exponent(of_lattice['time']['exponent'])}"
    )


# the forecast


@styled
def figure_forecast(forecast: Entry) -> Figure:
    """Seconds, speed-up and error against the lattice's layers, and the loss curves of the deepest lattice."""
    figure = new_figure(12.5, 4.3)
    seconds, error, curve = figure.subplots(1, 3)
    draw_seconds(seconds, forecast)
    draw_errors(error, forecast)
    draw_losses(curve, forecast)
    figure.suptitle(_forecast_title(forecast))
    return figure


def _cells(forecast: Entry) -> list[int]:
    return sorted({row["cells"] for row in forecast["fields"]})


def _of_cells(forecast: Entry, cells: int) -> list[Entry]:
    return [row for row in forecast["fields"] if row["cells"] == cells]


def _cell_color(forecast: Entry, cells: int) -> str:
    return (ORDER_COLORS[0], ORDER_COLORS[2], ORDER_COLORS[3])[_cells(forecast).index(cells) % 3]


def headline(forecast: Entry) -> Entry:
    """The deepest lattice's forecast on the fewest cells that are within 1 % at every step, else the best one."""
    deepest = max(row["depth"] for row in forecast["fields"])
    rows = sorted((row for row in forecast["fields"] if row["depth"] == deepest), key=lambda row: row["cells"])
    within = [row for row in rows if row["largest_relative_error"] < 0.01]
    return within[0] if within else min(rows, key=lambda row: row["largest_relative_error"])


def draw_seconds(ax: Axes, forecast: Entry) -> None:
    """Seconds of the whole loss curve: PyTorch, the lattice here, and fields; the speed-up beside the last points."""
    lattices = forecast["lattices"]
    depths = [entry["depth"] for entry in lattices]
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    if all(entry["pytorch"] for entry in lattices):
        values = [entry["pytorch"]["seconds_of_all_steps"] for entry in lattices]
        ax.plot(depths, values, color=DARK, marker="D", ms=4.5, label="training by PyTorch")
    color, mark = LOOKS["lattice"]
    ax.plot(depths, [entry["seconds"] for entry in lattices], color=color, marker=mark, ms=4.5, label="training here")
    for cells in _cells(forecast):
        rows, color = _of_cells(forecast, cells), _cell_color(forecast, cells)
        times = [row["seconds"]["median"] for row in rows]
        ax.plot([row["depth"] for row in rows], times, color=color, marker="s", ms=4.5, label=f"field, {cells} cells")
        speed = rows[-1]["times_faster_than_pytorch"]
        if speed is not None:
            at = (rows[-1]["depth"], times[-1])
            ax.annotate(f"{speed:.0f}×", at, (7, 0), textcoords="offset points", va="center", color=color, fontsize=9)
    _depth_axis(ax, depths)
    ax.set_xlim(right=max(depths) * 4)  # room for the speed-ups
    ax.set_ylabel(f"seconds for {forecast['steps']} steps")
    ax.set_title("time, with speed-up over PyTorch")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.35)
    ax.legend(loc="upper left")


def draw_errors(ax: Axes, forecast: Entry) -> None:
    """Relative L2 and largest relative error of the loss curve."""
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    for cells in _cells(forecast):
        rows, color = _of_cells(forecast, cells), _cell_color(forecast, cells)
        depths = [row["depth"] for row in rows]
        for key, style, name in (("relative_error", "-", "$L_2$"), ("largest_relative_error", "--", "largest")):
            values = positive(np.array([100 * row[key] for row in rows]))
            ax.plot(depths, values, style, color=color, marker="s", ms=4.5, label=f"{cells} cells, {name}")
    ax.axhline(1.0, color=GREY, lw=1, ls=":")
    for formatter in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    _depth_axis(ax, [entry["depth"] for entry in forecast["lattices"]])
    ax.set_ylabel("relative error of the loss curve / %")
    ax.set_title("error (dotted: 1 %)")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.35)
    ax.legend(loc="upper left", ncols=2, fontsize=8.5, columnspacing=1.0, handlelength=2.6)


def draw_losses(ax: Axes, forecast: Entry) -> None:
    """Loss of every step of the deepest lattice, and its forecast."""
    lattice = max(forecast["lattices"], key=lambda entry: entry["depth"])
    row = headline(forecast)
    steps = np.arange(len(lattice["loss"]))
    ax.plot(steps, lattice["loss"], color=LOOKS["lattice"][0], lw=2.2, label=f"lattice of {lattice['depth']:,} layers")
    ax.plot(steps, row["loss"], "--", color=DARK, lw=0.8, label=f"field on {row['cells']} cells")
    ax.set_xlabel("training step")
    ax.set_ylabel("loss of the step's samples")
    ax.set_title("loss curves of the deepest lattice")
    ax.legend(loc="upper right")


def _depth_axis(ax: Axes, depths: Sequence[int]) -> None:
    ax.set_xticks(depths, [f"{depth:,}" for depth in depths])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(min(depths) / 1.5, max(depths) * 1.5)
    ax.set_xlabel("layers $M$ of the lattice")


def _forecast_title(forecast: Entry) -> str:
    row = headline(forecast)
    speed = row["times_faster_than_pytorch"]
    against = (
        f"{speed:.0f} times as fast as PyTorch trains it"
        if speed is not None
        else f"{row['times_faster_than_lattice']:.0f} times as fast as it is trained here"
    )
    within = fraction(row["largest_relative_error"])
    return f"{row['cells']} cells forecast every loss of {row['depth']:,} layers within {within}, {against}"
