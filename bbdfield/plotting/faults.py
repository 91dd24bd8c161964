"""Figures of a study of faults: where kills fell, what became of altered files, how sweeps scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from bbdfield.errors import InputError
from bbdfield.plotting import style

#: fate -> its name in legends, colour; what must not happen is red
FATES = {
    "refused": ("refused in one line", "#0072B2"),
    "repaired": ("repaired", "#009E73"),
    "unharmed": ("unharmed: only whole snapshots used", "#56B4E9"),
    "forged": ("forged: own seal, values of the original", "#b0b0b0"),
    "accepted": ("ACCEPTED THOUGH ALTERED", "#D55E00"),
    "failed": ("TRACEBACK, CRASH, HANG OR MEMORY", "#7a0000"),
}
CONFIG_FATES = {
    "refused": ("refused", FATES["refused"][1]),
    "accepted": ("accepted, and echoed", "#009E73"),
    "failed": ("NOT ECHOED OR WORSE", "#7a0000"),
}
GROUPS = {
    "bytes": "bytes altered, cut,\nmoved, added",
    "structure": "edited with\nHDF5 tools",
    "hostile": "hostile structures\nunder a forged seal",
}


@style.styled
def figure_kills(parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Kills along the run: fraction of the run that was there after each of them, against when it struck.

    Parameters
    ----------
    parts : training, simulation, sweep -> their kills, with instant and rest (seconds), before, after and total.

    Raises
    ------
    InputError
        without any kill.
    """
    if not any(parts.values()):
        raise InputError("there is no kill to draw")
    figure = style.new_figure(3.7 * len(parts) + 0.6, 4.2)
    axes = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    for ax, (name, kills) in zip(axes, parts.items(), strict=True):
        for kill in kills:
            x, low, high = kill["instant"], kill["before"] / kill["total"], kill["after"] / kill["total"]
            ax.plot([0, x], [low, high], color="#d3dbe3", linewidth=0.8, zorder=1)
        x = np.array([kill["instant"] for kill in kills])
        y = np.array([kill["after"] / kill["total"] for kill in kills])
        aimed = np.array([kill["aimed"] for kill in kills], bool)
        for mask, color, label in (
            (~aimed, style.ORDER_COLORS[1], "at a random instant"),
            (aimed, style.ORDER_COLORS[0], "while its file was growing"),
        ):
            ax.plot(x[mask], y[mask], "x", color=color, markersize=5.5, markeredgewidth=1.5, label=label, zorder=2)
        ax.set_title(f"{name}: {len(kills)} kills")
        ax.set_xlabel("killed after so many seconds")
        ax.set_xlim(left=0)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes[0].set_ylabel("snapshots in the file")
    axes[0].set_ylim(-0.04, 1.06)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    axes[0].set_yticks(np.linspace(0, 1, 5))
    lost = sum(max(0, kill["before"] - kill["after"]) for kills in parts.values() for kill in kills)
    total = sum(map(len, parts.values()))
    told = "no line falls: nothing was ever lost" if not lost else f"{lost} SNAPSHOTS LOST"
    figure.suptitle(f"{total} kills, each from where the last one left the file; {told}")
    return figure


@style.styled
def figure_mutations(groups: Mapping[str, Mapping[str, int]], configs: Mapping[str, Any] | None = None) -> Figure:
    """Stacked bars: what became of altered files, and of altered configurations.

    Parameters
    ----------
    groups : bytes, structure, hostile -> fate -> files.
    configs : counts of the altered configurations, if there are any.

    Raises
    ------
    InputError
        without any file.
    """
    total = sum(sum(row.values()) for row in groups.values())
    if not total:
        raise InputError("there is no altered file to draw")
    figure = style.new_figure(9.2, 3.6 if configs is None else 4.6)
    heights = [3] if configs is None else [3, 1.15]
    axes = figure.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    rows = {GROUPS.get(name, name): _files(row) for name, row in groups.items() if sum(row.values())}
    _bars(axes[0], rows, FATES)
    bad = sum(row["accepted"] + row["failed"] for row in rows.values())
    verdict = "none was believed" if not bad else f"{bad} WERE BELIEVED OR DID HARM"
    axes[0].set_title(f"{total} altered HDF5 files: {verdict}")
    if configs is not None:
        good = {key: int(configs[key]) for key in ("refused", "accepted")}
        failed = int(configs["files"]) - sum(good.values())
        _bars(axes[1], {"TOML": {**good, "failed": failed}}, CONFIG_FATES)
        told = "every accepted value is echoed" if not failed else f"{failed} WENT WRONG"
        axes[1].set_title(f"{configs['files']} altered configurations: {told}")
    axes[-1].set_xlabel("files")
    return figure


def _files(row: Mapping[str, int]) -> dict[str, int]:
    """Counts by the names of `FATES`."""
    kept = {fate: int(row.get(fate, 0)) for fate in FATES if fate != "failed"}
    return {**kept, "failed": sum(row.values()) - sum(kept.values())}


def _bars(ax: Any, rows: Mapping[str, Mapping[str, int]], looks: Mapping[str, tuple[str, str]]) -> None:
    longest = max(sum(row.values()) for row in rows.values())
    places = np.arange(len(rows))[::-1]
    left = np.zeros(len(rows))
    for fate, (label, color) in looks.items():
        counts = np.array([row[fate] for row in rows.values()])
        if not counts.any():
            continue
        ax.barh(places, counts, 0.62, left=left, color=color, label=label)
        for place, count, start in zip(places, counts, left, strict=True):
            if count > 0.035 * longest:
                ax.text(start + count / 2, place, str(count), ha="center", va="center", color="white", fontsize=9)
        left = left + counts
    ax.set_yticks(places, list(rows))
    ax.set_xlim(0, 1.02 * longest)
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=1.2)


@style.styled
def figure_speed(found: Mapping[str, Any]) -> Figure:
    """Speed-up of two workers beside the ceiling, with every measurement.

    Parameters
    ----------
    found : points and measured (speed_up, ceiling, ratio, seconds by number of workers, ceilings).
    """
    measured = found["measured"]
    one, two = (np.asarray(measured["seconds"][key], float) for key in ("1", "2"))
    figure = style.new_figure(6.4, 2.7)
    ax = figure.subplots()
    values = [measured["ceiling"], measured["speed_up"]]
    labels = ["two copies of a loop\nthat shares nothing", f"sweep of {found['points']} points\non two workers"]
    ax.barh([1, 0], values, 0.55, color=[style.GREY, style.ORDER_COLORS[1]])
    for place, each in ((1, measured["ceilings"]), (0, one / two)):
        ax.plot(each, np.full(len(each), place + 0.16), "|", color=style.DARK, markersize=9, markeredgewidth=1.3)
    for place, value in zip((1, 0), values, strict=True):
        ax.text(value - 0.03, place - 0.1, f"{value:.2f}", color="white", ha="right", va="center", fontweight="bold")
    ax.set_yticks([1, 0], labels)
    ax.set_xlim(0, max(2.05, 1.05 * max(values), 1.05 * max(measured["ceilings"]), 1.05 * float((one / two).max())))
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("work per time, relative to one alone")
    ax.set_title(f"The sweep reaches {100 * measured['ratio']:.0f} % of what this machine can do")
    return figure
