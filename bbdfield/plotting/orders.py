"""Orders of convergence of many combinations: one chart of orders, one page of slopes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bbdfield.plotting.style import DARK, GREY, ORDER_COLORS, SYMBOLS, new_figure, positive, styled

Row = Mapping[str, Any]
MARKS = {"z": "o", "w": "s", "b": "D"}
SPACINGS = {"a_x": "spacing in depth $a_x$", "a_y": "spacing in width $a_y$", "step": r"training step $\tau$"}
#: half the width of the band around a declared order
BAND = 0.15


def label(row: Row) -> str:
    """A combination in a few words; what is the same for most is left out."""
    order = row["order"] if row["spacing"] == "a_x" else row["width_order"]
    symbol = {"a_x": "n", "a_y": "p", "step": ""}[row["spacing"]]
    parts = [row["scaling"], row["range"], row["weights"]]
    parts += [row["padding"]] if row["padding"] != "circular" else []
    parts += [row["dynamics"]] if row["dynamics"] != "sgd" or row["spacing"] == "step" else []
    parts += [f"{symbol} = {order}"] if order is not None and symbol else []
    return ", ".join(parts)


@styled
def orders_chart(rows: Sequence[Row]) -> Figure:
    """Measured against declared order: one line per combination, one column per spacing."""
    spacings = [key for key in SPACINGS if any(row["spacing"] == key for row in rows)]
    most = max(sum(row["spacing"] == key for row in rows) for key in spacings)
    figure = new_figure(5.4 * len(spacings), 1.6 + 0.25 * most)
    for ax, key in zip(np.atleast_1d(figure.subplots(1, len(spacings))), spacings, strict=True):
        draw_orders(ax, [row for row in rows if row["spacing"] == key], SPACINGS[key], most)
    held, kept = (sum(row["verdict"] == verdict for row in rows) for verdict in ("holds", "plateau as expected"))
    figure.suptitle(
        f"{held} of {len(rows)} combinations converge as declared, and {kept} without a limit keep their error"
    )
    colors = ORDER_COLORS[: len(MARKS)]
    handles = [
        Line2D([], [], ls="", marker=mark, color=color, label=SYMBOLS[name])
        for (name, mark), color in zip(MARKS.items(), colors, strict=True)
    ]
    handles.append(Line2D([], [], lw=6, color="#d9d9d9", label="declared ± 0.15"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def draw_orders(ax: Axes, rows: Sequence[Row], name: str, most: int) -> None:
    """Marks of ẑ, ŵ, b̂ on one line per row, over the band of the declared order."""
    for line, row in enumerate(rows):
        for shift, (key, mark), color in zip((-0.22, 0.0, 0.22), MARKS.items(), ORDER_COLORS, strict=False):
            declared = 0.0 if row["declared"] is None else row["declared"][key]
            ax.plot(
                [declared - BAND, declared + BAND], [line + shift] * 2, lw=4, color="#d9d9d9", solid_capstyle="butt"
            )
            measured = row["measured"][key]
            if measured is not None:
                ax.plot(measured, line + shift, mark, ms=3.6, color=color, clip_on=False)
    ax.set_yticks(range(len(rows)), [label(row) for row in rows], fontsize=8)
    for tick, row in zip(ax.get_yticklabels(), rows, strict=True):
        if row["verdict"] == "fails":
            tick.set_color("#b00020")
            tick.set_fontweight("bold")
    ax.set_ylim(most - 0.4, -0.6)
    ax.set_xlabel(f"order in the {name.split(' $')[0]} ${name.split(' $')[1]}")
    ax.set_title(name)
    ax.xaxis.set_major_locator(_locator())


def _locator() -> Any:
    from matplotlib.ticker import MultipleLocator

    return MultipleLocator(0.5)


@styled
def slopes_page(rows: Sequence[Row]) -> Figure:
    """Error of ẑ, relative to its coarsest rung, against the spacing: one panel per spacing, scaling and range."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["spacing"], row["scaling"], row["range"]), []).append(row)
    columns = 4
    lines = -(-len(groups) // columns)
    figure = new_figure(3.3 * columns, 2.75 * lines + 0.6)
    axes = np.atleast_2d(figure.subplots(lines, columns))
    for ax in axes.flat[len(groups) :]:
        ax.set_axis_off()
    for ax, (key, members) in zip(axes.flat, groups.items(), strict=False):
        draw_slopes(ax, members)
        ax.set_title(f"{key[1]} {key[2]}", fontsize=9.5)
        ax.set_xlabel(SPACINGS[key[0]])
    for row in axes:
        row[0].set_ylabel(r"error of $\hat{z}$ / coarsest")
    held, limits = (sum(row["verdict"] == verdict for row in rows) for verdict in ("holds", "plateau as expected"))
    figure.suptitle(
        f"Errors fall with the spacing as declared (dotted) in {held} of {len(rows) - limits} combinations with a"
        " limit; solid: tied weights, dashed: untied"
    )
    return figure


def draw_slopes(ax: Axes, rows: Sequence[Row]) -> None:
    """Lines of all rows of a panel, coloured by declared order; dotted lines of the declared slopes."""
    shown: dict[float | None, str] = {}
    for row in rows:
        declared = None if row["declared"] is None else float(row["declared"]["z"])
        color = GREY if declared is None else _color(declared)
        h = np.asarray(row["spacings"], float)
        error = positive(np.asarray(row["judged_errors"]["z"], float))
        style = "-" if row["weights"] == "tied" else "--"
        ax.loglog(h, error / error[0], style, marker="o", ms=3, lw=1.1, color=color)
        if declared not in shown:
            name = "no limit (largest error)" if declared is None else f"order {declared:g}"
            shown[declared] = name
            ax.plot([], [], color=color, label=name)
            if declared is not None:
                ax.loglog(h, (h / h[0]) ** declared, ":", color=DARK, lw=0.9)
    ax.legend(loc="lower right", fontsize=7.5, handlelength=1.2)
    every = sorted({h for row in rows for h in row["spacings"]})
    ticks = every[:: -(-len(every) // 5)]
    ax.set_xticks(ticks, [f"1/{round(1 / h)}" for h in ticks], fontsize=8)
    ax.minorticks_off()
    if all(row["declared"] is None for row in rows):
        ax.set_ylim(0.1, 3)


def _color(declared: float) -> str:
    return {0.5: "#8c6d31", 1.0: ORDER_COLORS[0], 2.0: ORDER_COLORS[1], 3.0: ORDER_COLORS[2], 4.0: ORDER_COLORS[3]}.get(
        declared, DARK
    )
