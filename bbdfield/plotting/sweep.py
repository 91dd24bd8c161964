"""Figures of a sweep: scores against one of its keys with seeds as bars, and maps over two of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter, NullLocator

from bbdfield.errors import InputError
from bbdfield.plotting import style
from bbdfield.plotting.convergence import tick, triangle

MARKERS = "osD^vP*X<>"
#: entries of a legend, beyond which the rest is counted
MOST_ENTRIES = 12
#: the most cells of a map that get their number written in
MOST_NUMBERS = 64
#: largest over smallest value from which an axis, or a scale of colours, is logarithmic
SPAN = 10.0
_LABELS = {
    "a_x": "lattice spacing $a_x / L_x$",
    "a_y": "lattice spacing $a_y / L_y$",
    "order": "order of the field theory",
    "scaling": "scaling",
}
_FAILED = "#c9c9c9"


@dataclass(frozen=True)
class Curve:
    """One score along one key, all other settings fixed.

    family : what its colour stands for.   rest : what its marker stands for; "" if there is nothing else.
    x : (n,) places; numbers, or positions of `ticks`.   values : of every place, one per seed; empty where all failed.
    slope : of the fit in log-log, None without one.   expected : the slope that theory expects.
    order : of the field theory, whose colour it gets.
    """

    family: str
    rest: str
    x: Sequence[float]
    values: Sequence[Sequence[float]]
    slope: float | None = None
    expected: int | None = None
    order: int | None = None


@dataclass(frozen=True)
class Map:
    """One score over two keys.

    title : what is fixed.   values : (y, x) means, NaN where there is none.
    finished, planned : (y, x) numbers of points; 0 planned is no cell of the sweep.
    """

    title: str
    values: np.ndarray
    finished: np.ndarray
    planned: np.ndarray


def label(key: str) -> str:
    """A key or score as axes name it; keys and values may hold anything, so no formulas in them."""
    if key in _LABELS:
        return _LABELS[key]
    of, _, quantity = key.rpartition(".")
    kinds = {"error": "relative error", "max_error": "largest error", "error_over_movement": "error / movement"}
    if of in kinds and quantity in style.SYMBOLS:
        return f"{kinds[of]} of {style.SYMBOLS[quantity]}"
    return plain(key)


def plain(text: str) -> str:
    """Text of a file's own, for labels."""
    return style.literal(text, longest=48)


def wrapped(title: str, inches: float) -> str:
    """A title in lines that fit into a figure; formulas are not broken, and are short."""
    formula, lines = r"(?<!\\)\$.*?(?<!\\)\$", []
    for line in title.split("\n"):
        lines.append("")
        for word in re.findall(rf"(?:{formula}|\S)+", line):
            if lines[-1] and len(re.sub(formula, "a_xⁿ", f"{lines[-1]} {word}")) > 10.5 * inches:
                lines.append("")
            lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


def _ncols(handles: Sequence[Any], inches: float) -> int:
    """As many columns of a legend as fit."""
    widths, room = [len(str(handle.get_label())) + 6 for handle in handles], 11.0 * inches
    return len(handles) if sum(widths) <= room else max(1, min(len(handles), int(room / max(widths))))


# scores against a key


@style.styled
def figure_curves(
    panels: Mapping[str, Sequence[Curve]],
    key: str,
    *,
    ticks: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Scores against one key, one panel per score; colours are for families, markers for all other settings.

    Parameters
    ----------
    panels : score -> its curves.
    ticks : names of the places, for a key whose values are no numbers.

    Raises
    ------
    InputError
        without any curve.
    """
    panels = {score: [curve for curve in curves if any(map(len, curve.values))] for score, curves in panels.items()}
    panels = {score: curves for score, curves in panels.items() if curves}
    if not panels:
        raise InputError("there are no scores to draw")
    columns = 2 if len(panels) > 1 else 1
    lines = -(-len(panels) // columns)
    every = [curve for curves in panels.values() for curve in curves]
    looks, inches = _Looks(every), 4.9 * columns
    handles = looks.handles()
    most = max(len(values) for curve in every for values in curve.values)
    if most > 1:
        bars = f"smallest to largest of {most} seeds"
        handles.append(Line2D([], [], color=style.GREY, marker="|", ls="-", label=bars))
    title, ncols = wrapped(title, inches), _ncols(handles, inches) if handles else 1
    around = 0.2 * -(-len(handles) // ncols) + 0.22 * title.count("\n")  # of legend and title
    figure = style.new_figure(inches, 0.7 + 3.5 * lines + around)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax, (score, curves) in zip(axes, panels.items(), strict=False):
        draw_curves(ax, curves, looks, key, score, ticks)
    for ax in axes[len(panels) :]:
        ax.remove()
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=ncols)
    figure.suptitle(title)
    return figure


class _Looks:
    """Which colour and marker each curve has, the same in all panels."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        self.families = list(dict.fromkeys(curve.family for curve in curves))
        self.rests = list(dict.fromkeys(curve.rest for curve in curves))
        self._fitted = any(curve.slope is not None for curve in curves)
        self._seeds = any(len(values) > 1 for curve in curves for values in curve.values)
        shades = matplotlib.colormaps[style.POSITIVE](np.linspace(0.0, 0.88, max(2, len(self.families))))
        orders = {curve.family: curve.order for curve in curves}
        self._colors: list[Any] = [
            style.order_color(order) if (order := orders[family]) is not None else shade
            for family, shade in zip(self.families, shades, strict=False)
        ]

    def color(self, curve: Curve) -> Any:
        return self._colors[self.families.index(curve.family)]

    def marker(self, curve: Curve) -> str:
        return MARKERS[self.rests.index(curve.rest) % len(MARKERS)]

    def shift(self, curve: Curve) -> float:
        """Where among its neighbours a curve is drawn, from −1 to 1, so that bars do not hide one another."""
        place, count = self.rests.index(curve.rest), len(self.rests)
        if count == 1:
            place, count = self.families.index(curve.family), len(self.families)
        return 2 * place / (count - 1) - 1 if count > 1 and self._seeds else 0.0

    def handles(self) -> list[Line2D]:
        """What colours and markers stand for; colours with slopes are told in each panel."""
        families = [
            Line2D([], [], color=color, lw=2.2, label=plain(family))
            for family, color in zip(self.families, self._colors, strict=True)
            if family and not self._fitted
        ]
        rests = [
            Line2D([], [], ls="", color=style.DARK, marker=MARKERS[i % len(MARKERS)], markersize=5, label=plain(rest))
            for i, rest in enumerate(self.rests)
            if rest
        ]
        return [*_shortened(families), *_shortened(rests)]


def draw_curves(
    ax: Axes, curves: Sequence[Curve], looks: _Looks, key: str, score: str, ticks: Sequence[str] | None
) -> None:
    """Means over seeds with bars from the smallest to the largest, fitted lines, and the slope that theory expects."""
    x_all = np.unique(np.concatenate([np.asarray(curve.x, float) for curve in curves]))
    y_all = np.array([value for curve in curves for values in curve.values for value in values])
    spacing = key in ("a_x", "a_y")
    log_x = ticks is None and (spacing or _decades(x_all))
    log_y = _decades(y_all) or (spacing and bool((y_all > 0).all()))
    ax.set_xscale("log" if log_x else "linear")
    ax.set_yscale("log" if log_y else "linear")
    step = 0.05 * _smallest_step(np.log(x_all) if log_x else x_all)
    for curve in curves:
        filled = [(x, np.asarray(values)) for x, values in zip(curve.x, curve.values, strict=True) if len(values)]
        x = np.array([place for place, _ in filled], float)
        middle = np.array([_mean(values, log_y) for _, values in filled])
        bars = np.array([[m - v.min(), v.max() - m] for m, (_, v) in zip(middle, filled, strict=True)])
        places = x * np.exp(step * looks.shift(curve)) if log_x else x + step * looks.shift(curve)
        look: dict[str, Any] = {"color": looks.color(curve), "marker": looks.marker(curve), "markersize": 4.5}
        joined = "-" if curve.slope is None and x.size > 1 else ""
        ax.errorbar(places, middle, np.maximum(bars, 0).T, ls=joined, lw=1.1, elinewidth=1, capsize=2, **look)
        if curve.slope is not None:
            ends, centre = np.array([places.min(), places.max()]), np.exp(np.log(places).mean())
            ax.plot(ends, _mean(middle, True) * (ends / centre) ** curve.slope, color=look["color"], lw=1.1)
    if log_x and log_y:
        _triangles(ax, curves, looks)
    _name_axes(ax, x_all, key, score, ticks, log_x)
    _legend(ax, curves, looks, log_y)


def _triangles(ax: Axes, curves: Sequence[Curve], looks: _Looks) -> None:
    """Below the lowest curve of every order."""
    whole = [
        curve for curve in curves if curve.expected is not None and all(map(len, curve.values)) and len(curve.x) > 1
    ]
    for expected in dict.fromkeys(curve.expected for curve in whole):
        mine = [curve for curve in whole if curve.expected == expected]
        lowest = min(mine, key=lambda curve: _mean(np.asarray(curve.values[int(np.argmin(curve.x))]), True))
        error = np.array([_mean(np.asarray(values), True) for values in lowest.values])
        color = looks.color(lowest) if lowest.order is not None else style.GREY
        triangle(ax, np.asarray(lowest.x, float), error, expected or 1, color)


def _name_axes(ax: Axes, x: np.ndarray, key: str, score: str, ticks: Sequence[str] | None, log_x: bool) -> None:
    if ticks is not None:
        slanted = {"rotation": 25, "ha": "right"} if max(map(len, ticks)) * len(ticks) > 36 else {}
        ax.set_xticks(range(len(ticks)), [plain(name) for name in ticks], **slanted)  # type: ignore[arg-type]
        ax.set_xlim(-0.5, len(ticks) - 0.5)
    elif x.size <= 8:
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(x, [tick(value) if key in ("a_x", "a_y") else f"{value:g}" for value in x])
    if log_x:
        ax.set_xlim(x.min() / 1.4, x.max() * 1.4)
    ax.set_xlabel(label(key))
    ax.set_ylabel(label(score))


def _legend(ax: Axes, curves: Sequence[Curve], looks: _Looks, log_y: bool) -> None:
    """The families with the range of their slopes, above the curves."""
    entries: list[Line2D] = []
    for family in looks.families:
        mine = [curve for curve in curves if curve.family == family]
        slopes = [curve.slope for curve in mine if curve.slope is not None]
        told = f"slope {_range(slopes)}" if slopes else ""
        text = f"{plain(family)}{': ' if family and told else ''}{told}"
        if mine and told:
            entries.append(Line2D([], [], color=looks.color(mine[0]), lw=2.2, label=text))
    entries = _shortened(entries)
    if not entries:
        return
    columns = 1 if len(entries) <= 3 else 2
    low, high = ax.get_ylim()
    room = 0.09 * -(-len(entries) // columns) + 0.04
    ax.set_ylim(low, high * (high / low) ** (room / (1 - room)) if log_y else high + (high - low) * room / (1 - room))
    small: dict[str, Any] = {} if columns == 1 else {"fontsize": 8, "columnspacing": 1.0}
    ax.legend(handles=entries, loc="upper left", ncols=columns, handlelength=1.2, handletextpad=0.5, **small)


def _shortened(entries: list[Line2D]) -> list[Line2D]:
    """The first entries of a legend, and how many are left out."""
    left = len(entries) - MOST_ENTRIES
    return entries if left <= 0 else [*entries[:MOST_ENTRIES], Line2D([], [], ls="", label=f"and {left} more")]


def _range(slopes: Sequence[float]) -> str:
    low, high = (f"{value:.2f}".replace("-", "−") for value in (min(slopes), max(slopes)))
    return low if low == high else f"{low} to {high}"


def _mean(values: np.ndarray, logarithmic: bool) -> float:
    return float(np.exp(np.mean(np.log(values)))) if logarithmic else float(np.mean(values))


def _decades(values: np.ndarray) -> bool:
    """Whether positive values span enough for a logarithmic axis."""
    values = values[np.isfinite(values)]
    return bool(values.size > 1 and values.min() > 0 and values.max() / values.min() > SPAN)


def _smallest_step(values: np.ndarray) -> float:
    return float(np.diff(values).min()) if values.size > 1 else 1.0


# maps over two keys


@style.styled
def figure_heat(
    scores: Mapping[str, Sequence[Map]],
    x: tuple[str, Sequence[str]],
    y: tuple[str, Sequence[str]],
    *,
    title: str = "",
) -> Figure:
    """Maps over two keys: one row per score, with a scale of its own, and one column per combination of other settings.

    Parameters
    ----------
    scores : score -> its maps, the same number for all.
    x, y : key and the names of its values.

    Raises
    ------
    InputError
        when nothing finished.
    """
    scores = {score: maps for score, maps in scores.items() if any(np.isfinite(each.values).any() for each in maps)}
    if not scores:
        raise InputError("there are no scores to draw")
    rows, columns = len(scores), len(next(iter(scores.values())))
    (x_key, x_names), (y_key, y_names) = x, y
    width = min(max(2.2, 0.62 * len(x_names)), 6.0 if columns == 1 else 3.6)
    height = min(max(1.5, 0.42 * len(y_names)), 4.5 if rows == 1 else 2.8)
    inches = max(5.2, 1.7 + (width + 0.25) * columns)
    title = wrapped(title, inches)
    figure = style.new_figure(inches, 1.1 + 0.22 * title.count("\n") + (height + 0.45) * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for row, (score, maps) in enumerate(scores.items()):
        norm = _norm(np.concatenate([each.values.ravel() for each in maps]))
        for column, each in enumerate(maps):
            draw_map(axes[row, column], each, norm)
            if row == 0:
                axes[row, column].set_title(plain(each.title))
        image = matplotlib.cm.ScalarMappable(norm, style.POSITIVE)
        bar = figure.colorbar(image, ax=list(axes[row]), pad=0.02, aspect=14)
        bar.set_label(label(score))
        if isinstance(norm, LogNorm):
            _few_ticks(bar.ax.yaxis, norm)
    for ax in axes[-1]:
        slanted = max(map(len, x_names)) * len(x_names) > 7 * width
        look: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        ax.set_xticks(range(len(x_names)), [plain(name) for name in x_names], **look)
    for ax in axes[:, 0]:
        ax.set_yticks(range(len(y_names)), [plain(name) for name in y_names])
    figure.supxlabel(label(x_key), fontsize=10)
    figure.supylabel(label(y_key), fontsize=10)
    if any(
        (each.planned > 0).any() and (each.finished[each.planned > 0] == 0).any()
        for each in next(iter(scores.values()))
    ):
        figure.legend(handles=[Patch(fc=_FAILED, ec="white", hatch="////", label="failed")], loc="outside lower right")
    figure.suptitle(title)
    return figure


def draw_map(ax: Axes, cells: Map, norm: Normalize) -> None:
    """Coloured cells with their numbers if there are few; what failed is grey and hatched."""
    ax.imshow(cells.values, origin="lower", aspect="auto", cmap=style.POSITIVE, norm=norm, interpolation="none")
    ax.grid(False)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    numbers = cells.values.size <= MOST_NUMBERS
    for i, j in np.ndindex(cells.values.shape):
        value, finished, planned = float(cells.values[i, j]), int(cells.finished[i, j]), int(cells.planned[i, j])
        if planned and not np.isfinite(value):
            ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fc=_FAILED, ec="white", lw=0, hatch="////"))
            continue
        part = f"\n{finished}/{planned}" if finished < planned else ""
        if planned and (numbers or part):
            dark = norm(value) < 0.55
            text = f"{_short(value)}{part}" if numbers else part.strip()
            size = 8 if cells.values.shape[1] <= 6 else 7
            ax.text(j, i, text, ha="center", va="center", fontsize=size, color="white" if dark else "black")


def _norm(values: np.ndarray) -> Normalize:
    found = values[np.isfinite(values)]
    low, high = float(found.min()), float(found.max())
    if low == high:  # one colour, and a scale with a beginning and an end
        low, high = low - 0.5 * abs(low or 1.0), high + 0.5 * abs(high or 1.0)
        return Normalize(low, high)
    return LogNorm(low, high) if _decades(found) else Normalize(low, high)


def _few_ticks(axis: Any, norm: LogNorm) -> None:
    """Names only as many as are read: powers of ten, and 2 and 5 between them on a short scale."""
    short = norm.vmax is not None and norm.vmin is not None and norm.vmax / norm.vmin < 300
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if short else (1.0,), numticks=8))
    axis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(10, 10)))
    axis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    """A number for a cell: 0.013, 2.1e−5."""
    text = f"{value:.2g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "−")
