"""The Lagrangian's two parts along training, the bulk's density over depth and time, residuals, swaps of samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure

from bbdfield.plotting import style
from bbdfield.plotting.curves import smooth
from bbdfield.storage.sidecar import Sidecar

WHOLE, BULK, BOUNDARY, LIGHT = style.DARK, "#0072B2", "#D55E00", "#9fc4dd"
#: decades that a logarithmic image shows below its largest value
DECADES = 4


# the images: depth × training time


def _edges(points: np.ndarray) -> np.ndarray:
    """Edges of cells around increasing points."""
    if points.size == 1:
        return np.array([points[0] - 0.5, points[0] + 0.5])
    middles = (points[1:] + points[:-1]) / 2
    return np.concatenate([[2 * points[0] - middles[0]], middles, [2 * points[-1] - middles[-1]]])


def thinned(t: np.ndarray, values: np.ndarray, most: int = 250) -> tuple[np.ndarray, np.ndarray]:
    """Means over equal numbers of times, at most `most` of them: more than an image has columns is noise."""
    every = -(-len(t) // most)
    count = len(t) // every
    shown = slice(0, count * every)
    return t[shown].reshape(count, every).mean(axis=1), values[shown].reshape(count, every, -1).mean(axis=1)


def draw_depth_time(ax: Axes, t: np.ndarray, x: np.ndarray, values: np.ndarray, *, signed: bool = False) -> QuadMesh:
    """values (t, x) as an image over training time and x/L_x; what is positive on a logarithmic scale."""
    t, values = thinned(t, values)
    norm: Normalize
    if signed:
        limit = style.symmetric_limit(values)
        # Linear below a hundredth: currents die away over decades, and their sign counts.
        norm = SymLogNorm(linthresh=limit / 100, vmin=-limit, vmax=limit)
    else:
        top = style.symmetric_limit(values)
        lowest = values[values > 0].min(initial=top)
        norm = LogNorm(vmin=min(max(lowest, top * 10.0**-DECADES), top / 10), vmax=top)
        values = np.maximum(values, norm.vmin or 0.0)
    mesh = ax.pcolormesh(
        _edges(t), _edges(x), values.T, norm=norm, cmap=style.SIGNED if signed else style.POSITIVE, rasterized=True
    )
    ax.grid(False)
    ax.set_ylim(0, 1)
    ax.set_xlabel(style.T_LABEL)
    ax.set_ylabel(style.X_LABEL)
    return mesh


def _over_time(ax: Axes, t: np.ndarray, values: np.ndarray, color: str, label: str, width: float = 1.8) -> None:
    """Every step thin, the running mean thick."""
    ax.plot(t, values, color=color, linewidth=0.5, alpha=0.35)
    ax.plot(*smooth(t, values), color=color, linewidth=width, label=label)


# the study


@style.styled
def figure_lagrangian(observed: Sidecar) -> Figure:
    """L, L_bulk and L_boundary at every step."""
    found, t = observed.arrays, observed.coordinates["t"]
    figure = style.new_figure(9.5, 4.8)
    ax = figure.subplots()
    ax.axhline(0, color=style.GREY, linewidth=0.8)
    _over_time(ax, t, found["boundary"], BOUNDARY, r"$L_\mathrm{boundary}$ from $(W, z)$")
    _over_time(ax, t, found["bulk"], BULK, r"$L_\mathrm{bulk}$ from $(W, z)$")
    _over_time(ax, t, found["lagrangian"], WHOLE, r"$L$ from $(\dot W, \dot b, \dot R)$ and $\ell$", 1.4)
    ax.plot(
        *smooth(t, found["bulk"] + found["boundary"]),
        color="#f0e442",
        linewidth=1.4,
        linestyle=(0, (3, 3)),
        label=r"$L_\mathrm{bulk} + L_\mathrm{boundary}$",
    )
    ax.set_xlabel(style.T_LABEL)
    ax.set_ylabel("Lagrangian (units of the loss)")
    ax.margins(x=0.01)
    figure.legend(loc="outside lower center", ncols=4)
    worst = float(found["residual"].max())
    figure.suptitle(f"Bulk and boundary add up to the Lagrangian, to {worst:.0e} at each of {t.size} training steps")
    return figure


@style.styled
def figure_density(observed: Sidecar) -> Figure:
    """The bulk's density, layer by layer, and its terms summed over the depth."""
    found, t, x = observed.arrays, observed.coordinates["t"], observed.coordinates["x_link"]
    figure = style.new_figure(9.5, 7.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    density = found["bulk_weights"] + found["bulk_biases"]
    mesh = draw_depth_time(above, t, x / (x[0] + x[-1]), density)
    above.set_xlabel("")
    figure.colorbar(mesh, ax=above, label=r"density $\mathcal{L}[m]$ of layer $m$")
    terms = (
        (found["bulk_weights"].sum(axis=1), BULK, r"bulk, weights $\frac{1}{2}\mu_W\,|\dot W|^2$"),
        (found["bulk_biases"].sum(axis=1), "#009E73", r"bulk, biases in $(W, z)$"),
        (found["boundary_input"], BOUNDARY, "boundary, first layer's bias term"),
        (found["boundary_readout"], "#CC79A7", r"boundary, readout $\frac{1}{2}\mu_R\,|\dot R|^2$"),
    )
    for values, color, label in terms:
        below.plot(t, style.positive(values), color=color, linewidth=0.5, alpha=0.35)
        below.plot(smooth(t, values)[0], style.positive(smooth(t, values)[1]), color=color, label=label)
    below.set_yscale("log")
    peak = max(float(values.max()) for values, _, _ in terms)
    lows = [float(means[means > 0].min(initial=peak)) for means in (smooth(t, values)[1] for values, _, _ in terms)]
    if peak > 0:
        below.set_ylim(max(peak * 1e-6, min(lows) / 3), peak * 2)
    below.set_xlabel(style.T_LABEL)
    below.set_ylabel("kinetic terms of $L$")
    below.margins(x=0.0)
    figure.legend(loc="outside lower center", ncols=2)
    total = density.sum(axis=0)
    share = total[: max(1, len(total) // 2)].sum() / total.sum() if total.sum() > 0 else 0.5
    half, part = ("first", share) if share >= 0.5 else ("second", 1 - share)
    figure.suptitle(f"The {half} half of the depth holds {100 * part:.0f} % of the bulk's Lagrangian")
    return figure


@style.styled
def figure_residual(observed: Sidecar, tried: Sequence[tuple[str, float, float, float]]) -> Figure:
    """Residuals of the identity at every step, and of random networks: (network, skip, over operands, over terms)."""
    t, residual = observed.coordinates["t"], observed.arrays["residual"]
    over_terms = residual * observed.arrays["scale"] / observed.arrays["terms"]
    figure = style.new_figure(10.5, 4.4)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    # An exact zero has no place on a logarithmic axis; it lies on its lower edge.
    floor = 1e-18
    left.plot(t, np.maximum(over_terms, floor), ".", markersize=2.5, color=LIGHT, label="relative to $L$'s terms")
    left.plot(t, np.maximum(residual, floor), ".", markersize=2.5, color=BULK, label="relative to the operands")
    left.legend(loc="upper right", markerscale=3)
    left.set_xlabel(style.T_LABEL)
    left.set_ylabel(r"$|L - L_\mathrm{bulk} - L_\mathrm{boundary}|$, relative")
    left.set_title(f"in training, {t.size} steps")
    kinds = list(dict.fromkeys((network, skip) for network, skip, *_ in tried))
    rng = np.random.default_rng(0)
    for place, kind in enumerate(kinds):
        values = np.array([values for network, skip, *values in tried if (network, skip) == kind])
        spread = place + 0.25 * (2 * rng.random(len(values)) - 1)
        right.plot(spread, np.maximum(values[:, 1], floor), ".", markersize=3, color=LIGHT)
        right.plot(spread, np.maximum(values[:, 0], floor), ".", markersize=3, color=BULK)
    short = {"tied convolution": "tied\nconv.", "locally connected": "locally\nconn."}
    names = [f"{short.get(network, network)}\n{'residual' if skip else 'plain'}" for network, skip in kinds]
    right.set_xticks(range(len(kinds)), names, fontsize=8)
    right.grid(False, axis="x")
    right.set_title(f"{len(tried)} random networks")
    for ax in (left, right):
        ax.set_yscale("log")
        ax.set_ylim(floor / 1.5, 1e-12)
        ax.axhline(np.finfo(float).eps, color=style.GREY, linestyle="--", linewidth=1)
        ax.axhline(1e-13, color=style.DARK, linewidth=1)
    left.text(t[0], 1.2e-13, "what is claimed", va="bottom", fontsize=8, color=style.DARK)
    worst = max([float(residual.max()), *(value for _, _, value, _ in tried)])
    exact = "The identity holds to rounding" if worst <= 1e-13 else "The identity is violated"
    figure.suptitle(f"{exact}: at worst {worst:.0e}")
    return figure


@style.styled
def figure_swaps(observed: Sidecar) -> Figure:
    """Jumps at the arrival of new samples: of L's parts, of the neurons, of the power that layers take."""
    found, t = observed.arrays, observed.coordinates["t_swap"]
    scale = found["terms"][1:]
    figure = style.new_figure(10.5, 7.4)
    (parts, sizes), (sites, layers) = figure.subplots(2, 2)
    parts.plot(t, found["swap_boundary"], color=BOUNDARY, linewidth=0.7, label=r"$\Delta L_\mathrm{boundary}$")
    parts.plot(t, found["swap_bulk"], color=BULK, linewidth=1.4, label=r"$\Delta L_\mathrm{bulk}$")
    parts.set_ylabel("jump (units of the loss)")
    parts.set_title("jumps of the two parts of $L$")
    parts.legend(loc="lower left", ncols=2)
    floor = 1e-18
    for name, color in (("swap_boundary", BOUNDARY), ("swap_bulk", BULK)):
        values = np.maximum(np.abs(found[name]) / scale, floor)
        sizes.plot(t, values, ".", markersize=2, color=color)
    sizes.set_yscale("log")
    sizes.set_ylim(floor / 1.5, 10)
    sizes.axhline(np.finfo(float).eps, color=style.GREY, linestyle="--", linewidth=1)
    sizes.set_title("the same, relative to the terms of $L$")
    sizes.set_ylabel("|jump| / terms")
    for ax in (parts, sizes):
        ax.set_xlabel(style.T_LABEL)
        ax.margins(x=0.01)
    x = observed.coordinates["x_site"] / observed.coordinates["x_site"][-1]
    _band(sites, x, found["swap_neurons"], style.DARK)
    sites.set_ylabel(r"$|\Delta z|\,/\,|z|$")
    sites.set_ylim(0, None)
    sites.set_title("jump of the neurons")
    links = (x[1:] + x[:-1]) / 2
    _band(layers, links, np.abs(found["swap_intake"]), BOUNDARY)
    layers.set_ylabel(r"$|\Delta(J[m] - J[m{+}1])|$ (loss / $t$)")
    layers.set_yscale("log")
    layers.set_title("jump of the power that a layer takes")
    for ax in (sites, layers):
        ax.set_xlabel(style.X_LABEL)
        ax.set_xlim(-0.02, 1.02)
    jumps, kept = np.abs(found["swap_boundary"] / scale), np.abs(found["swap_bulk"] / scale)
    boundary, bulk = r"$L_\mathrm{boundary}$", r"$L_\mathrm{bulk}$"
    jump, rest = (style.fraction(float(np.median(values))) for values in (jumps, kept))
    if kept.max() <= 1e-13:
        rest = f"{kept.max():.0e} at most"
    figure.suptitle(f"New samples move {boundary} by {jump} of $L$'s terms, {bulk} by {rest}")
    return figure


def _band(ax: Axes, x: np.ndarray, values: np.ndarray, color: str) -> None:
    """Median over the first axis, and the band that holds 80 % of it."""
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9), axis=0)
    ax.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0, label="80 %")
    ax.plot(x, middle, color=color, marker="o", markersize=3, label="median")
    ax.legend(loc="best")


# one trajectory


@style.styled
def figure_trajectory(sidecar: Sidecar, name: str) -> Figure:
    """What `bbdfield decompose` found: L and its parts, and over depth and time energy, current and dissipation."""
    found, t = sidecar.arrays, sidecar.coordinates["t"]
    links, sites = sidecar.coordinates["x_link"], sidecar.coordinates["x_site"]
    length = sites[-1]
    figure = style.new_figure(12.0, 7.6)
    (whole, energy), (flow, loss) = figure.subplots(2, 2)
    whole.axhline(0, color=style.GREY, linewidth=0.8)
    for key, color, label in (
        ("boundary", BOUNDARY, r"$L_\mathrm{boundary}$"),
        ("bulk", BULK, r"$L_\mathrm{bulk}$"),
        ("lagrangian", WHOLE, "$L$"),
    ):
        whole.plot(t, found[key], color=color, label=label, marker="o", markersize=2.5)
    whole.set_xlabel(style.T_LABEL)
    whole.set_ylabel("Lagrangian (units of the loss)")
    whole.margins(x=0.02)
    whole.legend(ncols=3)
    images = (
        (energy, links, "energy", r"energy $E[m]$", False),
        (flow, sites, "current", r"current $J[m]$ towards larger $x$", True),
        (loss, links, "dissipation", r"dissipation $2\gamma E[m]$", False),
    )
    for ax, x, key, label, signed in images:
        mesh = draw_depth_time(ax, t, x / length, found[key], signed=signed)
        figure.colorbar(mesh, ax=ax, label=label)
    worst = float(found["residual"].max())
    figure.suptitle(f"{style.literal(name)}: bulk and boundary add up to $L$ to {worst:.0e} at {t.size} snapshots")
    return figure
