"""Figures of energy in a network in training: maps over depth and time, the budget, link currents, swaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import AsinhNorm, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from bbdfield.errors import InputError
from bbdfield.plotting import style
from bbdfield.plotting.curves import smooth

DENSITY = r"energy per depth $\varepsilon$"
#: decades of the energy that a map shows
DECADES = 2.5
NETWORK, FIELD, OVERDAMPED = style.DARK, style.ORDER_COLORS[0], style.ORDER_COLORS[1]
#: balances -> colour and marker of their residuals
_RESIDUALS = (style.DARK, style.ORDER_COLORS[0], style.ORDER_COLORS[1], style.ORDER_COLORS[2], style.ORDER_COLORS[3])
#: no residual is drawn below: most are 0 or a few units of rounding
FLOOR = 1e-17


@dataclass(frozen=True)
class Motion:
    """Energy and current of one network or field: density (steps, n), after each step; current (steps, n + 1).

    Links and sites are those of n equal layers.
    """

    label: str
    density: np.ndarray
    current: np.ndarray


def draw_map(ax: Axes, edges: np.ndarray, values: np.ndarray, **look: object) -> QuadMesh:
    """Values (time, depth) as an image with the input at the bottom; on links, or on sites whose end cells are halved.

    edges : of the time cells, (steps + 1,).
    """
    count = values.shape[1]
    sites = look.pop("sites", False)
    n = count - 1 if sites else count
    depth = np.concatenate([[0.0], (np.arange(n) + 0.5) / n, [1.0]]) if sites else np.arange(n + 1) / n
    mesh = ax.pcolormesh(edges, depth, values.T, rasterized=True, **look)  # type: ignore[arg-type]
    ax.grid(False)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0, 1)
    ax.set_yticks([0, 0.5, 1], ["input 0", ".5", "output 1"])
    return mesh


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Means over `width` successive rows, (rows − width + 1, …)."""
    total = np.cumsum(np.concatenate([np.zeros_like(values[:1]), values]), axis=0)
    means: np.ndarray = (total[width:] - total[:-width]) / width
    return means


def _signed(value: float) -> str:
    return f"{value:.2g}".replace("-", "−")


@style.styled
def figure_energy_map(
    edges: np.ndarray, motions: Sequence[Motion], overdamped: np.ndarray | None = None, memory: float = 0.0
) -> Figure:
    """Rows ε and J, columns motions and their means over time.

    Parameters
    ----------
    edges : (steps + 1,) times.
    motions : the network first.
    overdamped : (sites,) mean current of the overdamped network.
    memory : time over which the current is averaged; it flickers with the minibatches, and 1/γ is what inertia keeps.

    Raises
    ------
    InputError
        without a motion.
    """
    if not motions:
        raise InputError("there is no motion to draw")
    columns = len(motions)
    figure = style.new_figure(3.1 + 3.7 * columns, 6.2)
    axes = figure.subplots(2, columns + 1, sharey=True, width_ratios=[*[1.0] * columns, 0.66])
    top = max(float(np.quantile(motion.density, 0.995)) for motion in motions) or 1.0
    bottom = top * 10**-DECADES
    half = int(min(round(0.5 * memory / (edges[1] - edges[0])), (edges.size - 2) // 2))
    currents = [running_mean(motion.current, 2 * half + 1) for motion in motions]
    limit = max(float(np.quantile(np.abs(current), 0.995)) for current in currents) or 1.0
    for column, (motion, current) in enumerate(zip(motions, currents, strict=True)):
        above, below = axes[:, column]
        shown = np.clip(motion.density, 1e-3 * bottom, None)
        energy = draw_map(above, edges, shown, cmap="magma", norm=LogNorm(bottom, top))
        flow = draw_map(
            below,
            edges[half : edges.size - half],
            current,
            sites=True,
            cmap=style.SIGNED,
            norm=AsinhNorm(limit / 10, -limit, limit),
        )
        below.set_xlim(edges[0], edges[-1])
        above.set_title(motion.label)
        above.tick_params(labelbottom=False)
        below.set_xlabel(style.T_LABEL)
    axes[0, 0].set_ylabel(style.X_LABEL)
    axes[1, 0].set_ylabel(style.X_LABEL)
    figure.colorbar(energy, ax=axes[0, :columns].tolist(), pad=0.012, aspect=20, extend="both").set_label(DENSITY)
    bar = figure.colorbar(flow, ax=axes[1, :columns].tolist(), pad=0.012, aspect=20, extend="both")
    large = float(f"{0.95 * limit:.0e}")
    bar.set_ticks(
        [-large, -large / 10, 0.0, large / 10, large], labels=[_signed(v * large) for v in (-1, -0.1, 0, 0.1, 1)]
    )
    bar.minorticks_off()
    span = f", mean over {(2 * half + 1) * (edges[1] - edges[0]):.2g}" if half else ""
    bar.set_label(f"current $J${span}\n← to the input      to the output →")

    profile, share = axes[:, -1]
    means = [(motion.current.mean(axis=0), motion.label.partition(",")[0]) for motion in motions]
    if overdamped is not None:
        means.append((overdamped, "without inertia"))
    looks = ((NETWORK, "-"), (FIELD, "--"), (OVERDAMPED, ":"))
    for motion, (color, line) in zip(motions, looks, strict=False):
        n = motion.density.shape[1]
        profile.plot(motion.density.mean(axis=0), (np.arange(n) + 0.5) / n, color=color, linestyle=line)
    for (mean, label), (color, line) in zip(means, looks, strict=False):
        sites = np.linspace(0, 1, mean.size)
        share.plot(100 * mean / (mean[-1] or 1.0), sites, color=color, linestyle=line, label=label)
    profile.set_xlabel(r"mean of $\varepsilon$ over time")
    profile.set_xlim(left=0)
    share.set_xlabel("mean of $J$ (% of output's)")
    share.set_xlim(0, 105)
    profile.legend(handles=share.get_lines(), loc="upper right", fontsize=8, handlelength=1.8, borderaxespad=0.2)
    mean = means[0][0]
    middle = float(np.interp(0.5, np.linspace(0, 1, mean.size), mean)) / (float(mean[-1]) or 1.0)
    figure.suptitle(
        "Energy enters at the output, runs towards the input and is dissipated on its way:"
        f" {style.fraction(middle)} passes mid-depth"
    )
    return figure


@style.styled
def figure_budget(
    t: np.ndarray,
    inflow: np.ndarray,
    dissipated: np.ndarray,
    stored: np.ndarray,
    residuals: Mapping[str, np.ndarray],
) -> Figure:
    """Powers, sums and residuals over time.

    Parameters
    ----------
    t : (steps + 1,) times.
    inflow, dissipated : (steps,) energy that enters and that is lost in each step.
    stored : (steps + 1,) energy.
    residuals : what was balanced -> (steps,) relative residual of every step; may be of another length.
    """
    steps = np.diff(t)
    middle = 0.5 * (t[:-1] + t[1:])
    figure = style.new_figure(8.8, 8.2)
    top, sums, low = figure.subplots(3, 1, sharex=True, height_ratios=[1.15, 1, 0.9])
    curves = (
        ("enters at the output", inflow / steps, style.ORDER_COLORS[1]),
        ("dissipated", -dissipated / steps, style.ORDER_COLORS[0]),
        ("change", np.diff(stored) / steps, style.ORDER_COLORS[2]),
    )
    for label, values, color in curves:
        top.plot(middle, values, color=color, linewidth=0.5, alpha=0.45)
        top.plot(*smooth(middle, values), color=color, linewidth=1.8, label=label)
    reach = [np.quantile(values, q) for _, values, _ in curves for q in (0.005, 0.995)]
    top.set_ylim(1.15 * min(reach), 1.15 * max(reach) + 0.25 * (max(reach) - min(reach)))
    top.axhline(0, color=style.GREY, linewidth=0.8)
    top.set_ylabel("power")
    top.legend(ncols=3, loc="upper right")

    entered, lost = (np.concatenate([[0.0], np.cumsum(values)]) for values in (inflow, dissipated))
    sums.fill_between(t, lost, color=style.ORDER_COLORS[0], alpha=0.35, linewidth=0, label="dissipated so far")
    sums.fill_between(
        t, lost, lost + stored, color=style.ORDER_COLORS[2], alpha=0.6, linewidth=0, label="in the layers now"
    )
    sums.plot(t, entered, color=style.ORDER_COLORS[1], label="entered so far")
    sums.set_ylim(bottom=0)
    sums.set_ylabel("energy")
    handles, labels = sums.get_legend_handles_labels()
    order = [labels.index(name) for name in ("entered so far", "in the layers now", "dissipated so far")]
    sums.legend([handles[i] for i in order], [labels[i] for i in order], loc="upper left")

    span = t[-1] - t[0]
    for (label, values), color in zip(residuals.items(), _RESIDUALS, strict=False):
        at = t[0] + span * (np.arange(values.size) + 0.5) / values.size
        low.plot(at, np.maximum(values, FLOOR), ".", color=color, markersize=2.6, label=label)
    low.set_yscale("log")
    low.set_ylim(FLOOR, 1e-11)
    low.yaxis.set_major_locator(LogLocator(numticks=4))
    low.yaxis.set_minor_formatter(NullFormatter())
    low.axhline(2.0**-53, color=style.GREY, linewidth=0.9, linestyle="--")
    low.set_ylabel("relative residual")
    low.set_xlabel(style.T_LABEL)
    low.legend(ncols=len(residuals), loc="upper center", markerscale=4, handletextpad=0.1, columnspacing=1.2)
    low.margins(x=0.01)
    worst = max(float(values.max()) for values in residuals.values())
    mantissa, exponent = f"{worst:.0e}".split("e")
    figure.suptitle(
        f"{style.fraction(float(lost[-1] / entered[-1]))} of the energy that entered is dissipated;"
        f" every layer's books close to ${mantissa}\\times10^{{{int(exponent)}}}$"
    )
    return figure


@style.styled
def figure_links(kernel: np.ndarray, skip: np.ndarray, u: np.ndarray, lengths: tuple[float, float], t: float) -> Figure:
    """Currents of one moment in depth and width, and by tap of the kernel.

    Parameters
    ----------
    kernel : (M, N, T) energy per time through the links that arrive at cell y by tap u (from the cell at y + u).
    skip : (M, N) the same through the skips.
    u : (T,) taps, in units of L_y.
    lengths : (L_x, L_y).
    t : the time.
    """
    layers, cells, taps = kernel.shape
    a_x, a_y = lengths[0] / layers, lengths[1] / cells
    along = (skip + kernel.sum(axis=2)) / a_y
    # A link from y + u to y carries its energy by −u in the width while it goes a_x in depth.
    across = -(kernel * (u * lengths[1])).sum(axis=2) / (a_x * a_y)
    mean = float(skip.sum() + kernel.sum()) / layers
    by_tap = kernel.sum(axis=1) / (mean or 1.0)
    figure = style.new_figure(11.5, 4.9)
    left, right = figure.subplots(1, 2, width_ratios=[1.35, 1])
    limit = style.symmetric_limit(along)
    x, y = np.arange(layers + 1) / layers, np.arange(cells + 1) / cells
    mesh = left.pcolormesh(x, y, along.T, cmap=style.SIGNED, vmin=-limit, vmax=limit, rasterized=True)
    figure.colorbar(mesh, ax=left, pad=0.015, aspect=28).set_label(
        "current along depth\n← to the input      to the output →"
    )
    _arrows(left, along / lengths[0], across / lengths[1])
    left.set_xlabel(style.X_LABEL)
    left.set_ylabel(style.Y_LABEL)
    limit = style.symmetric_limit(by_tap)
    edges = (np.arange(taps + 1) - taps / 2) * (u[1] - u[0] if taps > 1 else 1.0 / cells)
    mesh = right.pcolormesh(x, edges, 100 * by_tap.T, cmap=style.DIFFERENCE, vmin=-100 * limit, vmax=100 * limit)
    figure.colorbar(mesh, ax=right, pad=0.015, aspect=28).set_label("share of the mean current (%)")
    right.set_xlabel(style.X_LABEL)
    right.set_ylabel(style.U_LABEL)
    for ax in (left, right):
        ax.grid(False)
        ax.set_xticks([0, 0.5, 1], ["input 0", ".5", "output 1"])
    total = float(np.abs(skip).sum() + np.abs(kernel).sum())
    carried = float(np.abs(kernel).sum()) / total if total else float("nan")
    left.set_title("through skips and kernels")
    right.set_title("through the kernels, by tap")
    where = "input" if mean < 0 else "output"
    figure.suptitle(
        f"At $t$ = {t:.4g} energy flows to the {where}; the kernels carry {style.fraction(carried)} of all that flows"
    )
    return figure


def _arrows(ax: Axes, along: np.ndarray, across: np.ndarray) -> None:
    """Directions of the current, averaged over blocks; long where it is strong."""
    layers, cells = along.shape
    blocks = max(1, -(-layers // 16)), max(1, -(-cells // 14))
    size = layers // blocks[0] * blocks[0], cells // blocks[1] * blocks[1]

    def mean(values: np.ndarray) -> np.ndarray:
        cut = values[: size[0], : size[1]]
        result: np.ndarray = cut.reshape(size[0] // blocks[0], blocks[0], -1, blocks[1]).mean(axis=(1, 3))
        return result

    x = (np.arange(size[0] // blocks[0]) + 0.5) * blocks[0] / layers
    y = (np.arange(size[1] // blocks[1]) + 0.5) * blocks[1] / cells
    one, two = mean(along), mean(across)
    longest = float(np.hypot(one, two).max())
    if longest > 0:
        # Square roots, so that weak currents show their direction too.
        length = np.sqrt(np.hypot(one, two) / longest)
        scale = length / np.where(np.hypot(one, two) > 0, np.hypot(one, two), 1.0)
        ax.quiver(
            x, y, (one * scale).T, (two * scale).T, angles="xy", scale_units="xy",
            scale=1.0 / (1.15 * max(x[0], y[0]) * 2), width=0.0028, color=style.DARK, pivot="mid",
        )  # fmt: skip


@style.styled
def figure_swaps(
    signals: np.ndarray,
    targets: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    pulses: Mapping[str, np.ndarray],
    t: float,
) -> Figure:
    """Jumps of the loss at all swaps, the current around one of them, and the pulses that pass through the network.

    Parameters
    ----------
    signals, targets : (swaps,) parts of the loss's jump.
    before, after : (sites,) current before and after the swap at `t`.
    pulses : label -> (sites,) ∫J dt.
    """
    figure = style.new_figure(12.6, 4.2)
    scatter, jump, along = figure.subplots(1, 3)
    scatter.plot(signals, targets, ".", color=style.DARK, markersize=4, alpha=0.7)
    reach = 1.08 * max(float(np.abs(signals).max()), float(np.abs(targets).max()), 1e-300)
    low, high = min(0.0, float(signals.min())) - 0.05 * reach, reach
    scatter.plot([low, high], [-low, -high], color=style.GREY, linewidth=1, linestyle="--")
    scatter.annotate("dashed: together no change", (0.04, 0.04), xycoords="axes fraction", fontsize=8.5)
    scatter.set_xlim(low, high)
    scatter.set_ylim(-high, -low)
    scatter.set_aspect("equal")
    scatter.set_xlabel("through the input, with the signals")
    scatter.set_ylabel("at the output, by the targets")
    scatter.set_title("jump of the loss at every swap")

    sites = np.linspace(0, 1, before.size)
    jump.plot(sites, before, color=style.ORDER_COLORS[1], label="before")
    jump.plot(sites, after, color=style.ORDER_COLORS[0], label="after")
    jump.axhline(0, color=style.GREY, linewidth=0.8)
    jump.set_ylabel("current $J$")
    jump.set_title(f"the current at the swap at $t$ = {t:.4g}")
    jump.legend()
    for (label, pulse), shade in zip(pulses.items(), style.rung_colors(len(pulses)), strict=True):
        along.plot(sites, pulse, color=shade, label=label)
    along.axhline(0, color=style.GREY, linewidth=0.8)
    along.set_ylabel(r"pulse $\int J\,\mathrm{d}t$ of the signals")
    along.set_title("the pulse passes the whole depth")
    along.legend(loc="best", frameon=True, framealpha=0.9, edgecolor="none")
    for ax in (jump, along):
        ax.set_xlabel(style.X_LABEL)
        ax.set_xticks([0, 0.5, 1], ["input 0", ".5", "output 1"])
        ax.set_xlim(0, 1)
    both, parts = np.sqrt(np.mean((signals + targets) ** 2)), np.sqrt(np.mean(signals**2))
    figure.suptitle(
        f"A swap changes the loss by {both:.2g} (RMS): {parts:.2g} through the input,"
        f" {np.sqrt(np.mean(targets**2)):.2g} at the output"
    )
    return figure
