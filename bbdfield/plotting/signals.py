"""Figures of signal propagation: phases of random networks, and growth rates in trained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from bbdfield.errors import InputError
from bbdfield.plotting import style

#: direction -> its name in legends, colour
LOOKS = {
    "leading": ("leading singular direction", style.ORDER_COLORS[0]),
    "inputs": ("difference of two inputs", style.ORDER_COLORS[1]),
    "random": ("random directions", style.ORDER_COLORS[2]),
}
#: depth scales beyond this are one colour: on the critical line ξ_c is infinite
LONGEST = 100.0
#: ensembles, in the order of the table
_ENSEMBLES = (style.ORDER_COLORS[1], "#56B4E9", "#E69F00", style.ORDER_COLORS[0], style.ORDER_COLORS[3])
_NAMES = {"lattice": "network", "field": "field theory"}


@style.styled
def figure_phases(
    weights: np.ndarray,
    biases: np.ndarray,
    xi: np.ndarray,
    line: np.ndarray,
    table: Sequence[Mapping[str, Any]],
    width: int,
    correlation: np.ndarray,
    error: np.ndarray,
    expected: np.ndarray,
) -> Figure:
    """The phase diagram of random networks, and how correlations approach their fixed points.

    Parameters
    ----------
    weights, biases : (n_w,), (n_b,) variances.
    xi : (n_b, n_w) depth scale ξ_c in layers; NaN without fixed point.
    line : (n, 2) σ_b², σ_w² of the critical line.
    table : rows with weight, bias, c and xi_c.   width : of the networks that were measured.
    correlation, error, expected : (rows, layers + 1), measured c with its standard error, and of the maps.
    """
    figure = style.new_figure(11.0, 4.8)
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    shown = np.ma.masked_invalid(np.clip(xi, None, LONGEST))
    if shown.count() == 0:
        raise InputError("the phase diagram is empty: no variances have a fixed point")
    mesh = left.pcolormesh(
        weights, biases, shown, norm=LogNorm(max(0.1, float(shown.min())), LONGEST), shading="gouraud", cmap="viridis"
    )
    left.grid(False)
    bar = figure.colorbar(mesh, ax=left, extend="max")
    bar.set_label("depth scale of the correlation $\\xi_c$ (layers)")
    if len(line):
        left.plot(line[:, 1], line[:, 0], color="white", linewidth=2)
    for row, color in zip(table, _colors(len(table)), strict=True):
        left.plot(row["weight"], row["bias"], "o", color=color, markeredgecolor="white", markersize=8)
        left.annotate(
            "$\\infty$" if row["xi_c"] is None else f"{row['xi_c']:.3g}",
            (row["weight"], row["bias"]),
            (0, 8),
            textcoords="offset points",
            ha="center",
            color="white",
            fontsize=9,
        )
    left.set_xlim(weights[0], weights[-1])
    left.set_ylim(biases[0], biases[-1])
    _name_phases(left, line)
    left.set_xlabel("variance of the weights $\\sigma_w^2$")
    left.set_ylabel("variance of the biases $\\sigma_b^2$")

    layers = np.arange(expected.shape[1])
    for i, (row, color) in enumerate(zip(table, _colors(len(table)), strict=True)):
        right.axhline(row["c"], color=color, linestyle="--", linewidth=0.8)
        right.plot(layers, expected[i], color=color, label=f"{row['weight']:g}, {row['bias']:g}")
        right.errorbar(layers, correlation[i], error[i], color=color, fmt="o", markersize=3, elinewidth=0.8)
    right.set_xlabel("layer $m$")
    right.set_ylabel("correlation of two signals $c$")
    handles, labels = right.get_legend_handles_labels()
    labels[0] = f"$\\sigma_w^2,\\ \\sigma_b^2$ = {labels[0]}"
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(table)))
    off = float(np.max(np.abs(correlation - expected)))
    figure.suptitle(
        f"Signals travel far only near the critical line; correlations at width {width} follow the maps to {off:.2g}"
    )
    return figure


def _name_phases(ax: Axes, line: np.ndarray) -> None:
    """ "ordered" and "chaotic" on either side of the critical line, where it is in view."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    if not len(line):
        return
    height = low + 0.88 * (high - low)
    there = float(np.interp(height, line[:, 0], line[:, 1]))
    for name, side, edge in (("ordered", "right", left), ("chaotic", "left", right)):
        if abs(there - edge) > 0.12 * (right - left) and left < there < right:
            shift = 0.03 * (right - left) * (-1 if side == "right" else 1)
            ax.text(there + shift, height, name, color="white", ha=side, va="center", fontsize=11)


def _colors(count: int) -> list[str]:
    return [_ENSEMBLES[i % len(_ENSEMBLES)] for i in range(count)]


@style.styled
def figure_rates(t: np.ndarray, rate: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Λ against t, and the depth scale 1/|Λ|; lines are the lattice, dots the field.

    Parameters
    ----------
    t : (n,) times.
    rate : system -> direction -> (n, samples).
    """
    figure = style.new_figure(10.5, 4.4)
    left, right = figure.subplots(1, 2)
    left.axhline(0, color=style.GREY, linewidth=0.8)
    for direction, (name, color) in LOOKS.items():
        for system, of in rate.items():
            samples = _finite(of[direction])
            values = samples.mean(axis=1)
            scale = 1 / style.positive(np.abs(values))  # infinite for a rate of zero: a gap
            if system == "lattice":
                left.plot(t, values, color=color, label=name)
                low, high = np.percentile(samples, [16, 84], axis=1)
                left.fill_between(t, low, high, color=color, alpha=0.15, linewidth=0)
                right.plot(t, scale, color=color)
            else:
                left.plot(t, values, "o", color=color, markersize=4, markerfacecolor="white")
                right.plot(t, scale, "o", color=color, markersize=4, markerfacecolor="white")
    left.plot([], [], color=style.DARK, label="network")
    left.plot([], [], "o", color=style.DARK, markersize=4, markerfacecolor="white", label="field theory")
    right.set_yscale("log")
    for ax in (left, right):
        ax.set_xlabel(style.T_LABEL)
    left.set_ylabel(r"growth rate $\Lambda$ (per depth $L_x$)")
    right.set_ylabel(r"depth scale $\xi = 1/|\Lambda|$ ($L_x$)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    first, last = (float(_finite(rate["lattice"]["leading"][i]).mean()) for i in (0, -1))
    word = "grows faster" if last > 1.05 * first else "grows more slowly" if last < 0.95 * first else "grows as before"
    title = f"With training, what grows most {word}: $\\Lambda$ = {first:.2f} at the start, {last:.2f} at the end"
    if not np.isfinite([first, last]).all():
        title = "For one sample at least, every change of the input dies out in the depth"
    figure.suptitle(title)
    return figure


def _finite(rates: np.ndarray) -> np.ndarray:
    """Rates with gaps where a change has died out (−∞)."""
    return np.where(np.isfinite(rates), rates, np.nan)


@style.styled
def figure_local(t: np.ndarray, x: Mapping[str, np.ndarray], local: Mapping[str, np.ndarray]) -> Figure:
    """Λ(x, t) of the leading direction: network, field theory, difference.

    Parameters
    ----------
    t : (n,) times.
    x : system -> links.
    local : system -> (n, links).
    """
    figure = style.new_figure(11.5, 3.9)
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    local = {system: _finite(values) for system, values in local.items()}
    limit = style.symmetric_limit(*local.values())
    grows = min(float(np.min(values, initial=0.0, where=np.isfinite(values))) for values in local.values()) >= 0
    low, cmap = (0.0, style.POSITIVE) if grows else (-limit, style.SIGNED)
    for ax, (system, values) in zip(axes, local.items(), strict=False):
        mesh = _map(ax, x[system], t, values, (low, limit), cmap)
        ax.set_title(_NAMES[system])
    figure.colorbar(mesh, ax=axes[:2], label=r"local rate $\Lambda(x, t)$ (per $L_x$)")
    there = np.array([np.interp(x["lattice"], x["field"], row) for row in local["field"]])
    difference = there - local["lattice"]
    smaller = style.symmetric_limit(difference)
    mesh = _map(axes[2], x["lattice"], t, difference, (-smaller, smaller), style.DIFFERENCE)
    axes[2].set_title("field theory − network")
    figure.colorbar(mesh, ax=axes[2])
    axes[0].set_ylabel(style.T_LABEL)
    end = local["lattice"][-1]
    known, off = end[np.isfinite(end)], np.abs(difference[np.isfinite(difference)])
    if not known.size or not off.size:
        figure.suptitle("The leading direction dies out on its way through the depth")
        return figure
    place = float(x["lattice"][np.flatnonzero(end == known.max())[0]])
    figure.suptitle(
        f"After training, the leading direction grows fastest at $x$ = {place:.2f} $L_x$;"
        f" the field theory's rate is at most {off.max():.2g} off"
    )
    return figure


def _map(ax: Axes, x: np.ndarray, t: np.ndarray, values: np.ndarray, span: tuple[float, float], cmap: str) -> Any:
    ax.grid(False)
    ax.set_xlabel(style.X_LABEL)
    return ax.pcolormesh(_edges(x), _edges(t), values, vmin=span[0], vmax=span[1], cmap=cmap, rasterized=True)


def _edges(centres: np.ndarray) -> np.ndarray:
    """Cell edges around increasing values: half way between neighbours."""
    if centres.size == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])
