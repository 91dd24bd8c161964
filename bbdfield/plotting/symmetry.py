"""Figures of the translation symmetry along depth and of ways of breaking it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from bbdfield.errors import InputError
from bbdfield.plotting import style

#: what is broken -> its name in legends, colour, marker
LOOKS = {
    "mu": ("inertia $\\mu$", style.ORDER_COLORS[3], "D"),
    "width": ("width", style.ORDER_COLORS[1], "s"),
    "skip": ("skip", "#E69F00", "v"),
    "fan_in": ("fan-in", style.ORDER_COLORS[2], "^"),
    "activation": ("activation", style.ORDER_COLORS[0], "o"),
}
ROUNDING = 2.0**-53
_SIZE_LABEL = "size of the breaking $\\varepsilon$"


def draw_breaking(ax: Axes, sizes: np.ndarray, values: Mapping[str, np.ndarray]) -> list[Line2D]:
    """A measure of inequality against ε on logarithmic axes, one line per kind of breaking."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    return [
        ax.plot(sizes, style.positive(values[kind]), color=color, marker=marker, markersize=4.5, label=name)[0]
        for kind, (name, color, marker) in LOOKS.items()
        if kind in values
    ]


@style.styled
def figure_breaking(
    sizes: np.ndarray,
    spreads: Mapping[str, np.ndarray],
    slopes: Mapping[str, float | None],
    repeating: float,
) -> Figure:
    """S against ε with the level of repeating layers, and S / ε.

    Parameters
    ----------
    sizes : (n,) ε.
    spreads : kind -> (n,) S.
    slopes : kind -> fitted slope of log S against log ε at small ε.
    repeating : S of repeating layers.

    Raises
    ------
    InputError
        without any kind to draw.
    """
    if not spreads:
        raise InputError("there is no breaking to draw")
    figure = style.new_figure(10.5, 4.9)
    grid = figure.add_gridspec(2, 2, height_ratios=[6, 1], hspace=0.02)
    above, below, ratio = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[:, 1])

    lines = draw_breaking(above, sizes, spreads)
    shown = np.concatenate([style.positive(values) for values in spreads.values()])
    low, high = np.nanmin(shown), np.nanmax(shown)
    guide = 0.45 * low * sizes / sizes[0]
    lines += above.plot(sizes, guide, color=style.GREY, linestyle="--", linewidth=1.1, label="slope 1")
    above.set_ylim(0.25 * low, 2.5 * high)
    above.set_ylabel("inequality of the layers $S$")
    above.tick_params(axis="x", which="both", bottom=False, labelbottom=False)
    above.spines["bottom"].set_visible(False)

    floor = max(repeating, ROUNDING)
    below.axhline(floor, color=style.DARK, linewidth=1.6)
    words = "repeating layers: $S = 0$" if repeating == 0 else f"repeating layers: $S$ = {repeating:.1e}"
    below.annotate(words, (0.5, floor), (0, 4), ("axes fraction", "data"), "offset points", ha="center", fontsize=9)
    below.set_xscale("log")
    below.set_yscale("log")
    below.set_ylim(floor / 5, floor * 30)
    below.set_yticks([floor], ["rounding" if repeating <= ROUNDING else f"{floor:.0e}"])
    below.yaxis.set_minor_locator(NullLocator())
    below.set_xlim(above.get_xlim())
    below.set_xlabel(_SIZE_LABEL)
    _break_axis(above, below)

    ratio.set_xscale("log")
    for kind, (_, color, marker) in LOOKS.items():
        if kind in spreads:
            ratio.plot(sizes, spreads[kind] / sizes, color=color, marker=marker, markersize=4.5)
    ratio.set_ylim(bottom=0)
    ratio.set_xlabel(_SIZE_LABEL)
    ratio.set_ylabel(r"$S / \varepsilon$")
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines))
    figure.suptitle(_breaking_message(slopes, repeating))
    return figure


@style.styled
def figure_layers(means: Mapping[str, np.ndarray], size: float) -> Figure:
    """Mean density of every layer relative to that of repeating layers, one panel per kind of breaking.

    Parameters
    ----------
    means : kind -> (M,) ⟨𝓛[m]⟩ at ε = `size`, and "repeating".

    Raises
    ------
    InputError
        without the repeating layers to compare with.
    """
    kinds = [kind for kind in LOOKS if kind in means]
    if "repeating" not in means or not kinds:
        raise InputError("the layers' densities need those of repeating layers to compare with")
    unbroken = means["repeating"]
    relative = {kind: 100 * (means[kind] / unbroken - 1) for kind in kinds}
    figure = style.new_figure(11.5, 3.4)
    axes = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)[0]
    layers = np.arange(unbroken.size)
    touched = 0
    for ax, kind in zip(axes, kinds, strict=True):
        name, color, _ = LOOKS[kind]
        differs = relative[kind] != 0
        touched = max(touched, int(np.count_nonzero(differs)))
        ax.axhline(0, color=style.GREY, linewidth=0.8)
        ax.plot(layers[~differs], relative[kind][~differs], "o", color=style.GREY, markersize=3)
        ax.vlines(layers[differs], 0, relative[kind][differs], color=color, linewidth=3)
        ax.plot(layers[differs], relative[kind][differs], "o", color=color, markersize=5)
        ax.set_title(name)
        ax.set_xlabel("layer $m$")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.set_xlim(-0.7, unbroken.size - 0.3)
    ax.margins(y=0.12)
    axes[0].set_ylabel("mean density, relative to\nrepeating layers (%)")
    figure.suptitle(
        f"A breaking of size $\\varepsilon$ = {size:g} changes the layers that it touches,"
        f" at most {touched} of {unbroken.size}, and no other"
    )
    return figure


@style.styled
def figure_shift(
    before: np.ndarray,
    after: np.ndarray,
    window: tuple[int, int],
    sizes: np.ndarray,
    changes: Mapping[str, np.ndarray],
    repeating: float,
) -> Figure:
    """Terms of L_bulk before and after the fields in a window move one layer on, and the change inside against ε.

    Parameters
    ----------
    before, after : (M,) terms of L_bulk.
    window : (first, last), the layers first ≤ m < last move.
    sizes : (n,) ε.
    changes : kind -> (n,) relative change of L_bulk.
    repeating : the same for repeating layers.
    """
    first, last = window
    figure = style.new_figure(10.5, 4.6)
    left, right = figure.subplots(1, 2)
    layers = np.arange(before.size)
    scale = before.mean()
    moved = (layers > first) & (layers <= last)
    same = ~moved & (after == before)
    ends = ~moved & ~same
    left.axvspan(first + 0.5, last + 0.5, color="#f1f1f1", zorder=0)
    left.plot(layers, before / scale, color=style.GREY, marker="o", markersize=4, label="before")
    left.plot(
        layers[moved], after[moved] / scale, color=style.ORDER_COLORS[1], marker="o", markersize=4, label="moved on"
    )
    if ends.any():
        left.plot(
            layers[ends], after[ends] / scale, "X", color=style.ORDER_COLORS[0], markersize=8, label="joined at an end"
        )
    left.set_yscale("log")
    left.set_xlim(-0.7, before.size - 0.3)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_xlabel("layer $m$")
    left.set_ylabel("term of $L_\\mathrm{bulk}$ / mean")
    left.legend(loc="best")
    draw_breaking(right, sizes, changes)
    right.set_xlabel(_SIZE_LABEL)
    right.set_ylabel("relative change of $L_\\mathrm{bulk}$ in the window")
    right.legend(loc="best")
    what = "does not change" if repeating == 0 else f"changes by {repeating:.1e}"
    figure.suptitle(f"Moved one layer on, a trained network's bulk {what} inside the window, where layers repeat")
    return figure


@style.styled
def figure_training(t: np.ndarray, density: np.ndarray, law: float) -> Figure:
    """Density of every layer on its own fields, at times along training.

    Parameters
    ----------
    t : (n,) times.
    density : (n, M).
    law : S on the trained fields, the largest over time.
    """
    figure = style.new_figure(7.2, 4.4)
    ax = figure.subplots()
    chosen = np.unique(np.linspace(0, t.size - 1, min(t.size, 5)).round().astype(int))
    for color, i in zip(style.rung_colors(chosen.size), chosen, strict=True):
        last = i == chosen[-1]
        ax.plot(
            np.arange(density.shape[1]),
            density[i] / density[i].mean(),
            color=style.ORDER_COLORS[1] if last else color,
            marker="o",
            markersize=3.5,
            label=f"$t$ = {t[i]:.4g}",
        )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylim(bottom=0)
    ax.set_xlabel("layer $m$")
    ax.set_ylabel("density on the layer's own fields / mean")
    ax.legend(loc="best")
    ratio = float(density[-1].max() / density[-1].min())
    same = "is the same for all" if law == 0 else f"differs by {law:.1e}"
    figure.suptitle(f"Trained layers differ in state, by a factor of {ratio:.3g}; their law {same}")
    return figure


def _break_axis(above: Axes, below: Axes) -> None:
    """Marks that the two vertical axes are one with a piece left out."""
    mark: dict[str, Any] = {
        "marker": [(-1, -0.6), (1, 0.6)],
        "markersize": 8,
        "linestyle": "none",
        "color": style.DARK,
        "markeredgewidth": 1,
        "clip_on": False,
    }
    above.plot([0], [0], transform=above.transAxes, **mark)
    below.plot([0], [1], transform=below.transAxes, **mark)


def _breaking_message(slopes: Mapping[str, float | None], repeating: float) -> str:
    known = [slope for slope in slopes.values() if slope is not None]
    level = "S = 0$" if repeating == 0 else f"S$ = {repeating:.1e}"
    words = f"Repeating layers are all alike (${level})"
    if not known:
        return words
    low, high = f"{min(known):.2f}", f"{max(known):.2f}"
    power = low if low == high else f"{low} to {high}"
    return f"{words}; where one place differs, $S$ grows as $\\varepsilon$ to the power {power}"
