"""Figures of the regime change: settling times of weights and activation patterns, their curves, and nodal lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from bbdfield.plotting import style
from solvers.level_sets import normal_speed, zero_set

#: network -> colour, marker
LOOKS = {
    "dense": ("#D55E00", "o"),
    "dense-decaying": ("#E69F00", "s"),
    "dense-full-batch": ("#CC79A7", "D"),
    "dense-residual": ("#56B4E9", "v"),
    "lattice": ("#0072B2", "^"),
    "field": ("#009E73", "P"),
}
CLAIMED = 3.0
W, RATE, A = r"$w_t$", r"$w_t/\eta_t$", r"$a_t$"
_RATIO = r"settling times $T^w/T^a$"
_CURVE_LOOKS = {"w": (W, style.ORDER_COLORS[0]), "w_rate": (RATE, "#E69F00"), "a": (A, style.ORDER_COLORS[1])}
_MOST_COLUMNS = 3


@style.styled
def figure_ratios(found: Mapping[str, Any], windows: Mapping[str, int]) -> Figure:
    """T^w/T^a of every network, by the three families of definitions.

    Parameters
    ----------
    found : the study's scores: networks -> name -> definitions, and factor_about_three.
    windows : network -> the window that is shown, in steps.
    """
    networks = found["networks"]
    figure = style.new_figure(12.0, 6.8)
    axes = figure.subplots(2, 3, sharey=True)
    panels = [("w", "rho"), ("w", "q"), ("distance", "end"), ("w_rate", "rho"), ("w_rate", "q")]
    for ax, (curve, kind) in zip(axes.flat, panels, strict=False):
        ax.axhline(1, color=style.DARK, linewidth=0.9)
        ax.axhline(CLAIMED, color=style.DARK, linewidth=0.9, linestyle="--")
        for i, (name, of) in enumerate(networks.items()):
            chosen = [
                entry
                for entry in of["definitions"]
                if (entry["curve"], entry["kind"]) == (curve, kind) and entry["window"] in (None, windows[name])
            ]
            # one rate for all: w_t/η_t settles as w_t does
            if chosen:
                _ratios_of(ax, name, chosen, i - (len(networks) - 1) / 2)
        _ratio_scale(ax)
    axes[0, 0].set_title(f"{W} and {A} stay under $\\rho$ × maximum")
    axes[0, 1].set_title(f"sums of {W} and {A} reach $q$ × total")
    axes[0, 2].set_title("distance from the end stays under $\\rho$ × maximum")
    axes[1, 0].set_title(f"the same with {RATE}")
    axes[1, 1].set_title(f"the same with {RATE}")
    for ax, label in zip(axes.flat, (r"$\rho$", "$q$", r"$\rho$", r"$\rho$", "$q$"), strict=False):
        ax.set_xlabel(label)
    for ax in axes[:, 0]:
        ax.set_ylabel(_RATIO)
    axes[0, 2].tick_params(labelbottom=True)
    _legend(axes[1, 2], networks)
    families = found["factor_about_three"]["families"]
    said = (("Under ρ × maximum", "rho"), ("By sums", "q"), ("By the distance from the end", "distance"))
    figure.suptitle("\n".join(_says(how, families[family]) for how, family in said))
    # whatever is drawn is seen: marks, bounds and their arrows
    drawn = [value for ax in axes.flat[:5] for line in ax.lines for value in np.asarray(line.get_ydata(), float)]
    low, high = float(np.nanmin(drawn)), float(np.nanmax(drawn))
    axes[0, 0].set_ylim(min(0.45, low / 1.5), max(5.0, 1.5 * high))
    return figure


def _ratio_scale(ax: Axes) -> None:
    ax.set_yscale("log")
    places = [0.01, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 100, 1000]
    ax.set_yticks(places, ["0.01", "0.1", "¼", "½", *(f"{place:g}" for place in places[4:])])
    ax.minorticks_off()


#: medians that are about 1: both settle at the same time
_TOGETHER = (0.9, 1.1)


def _says(how: str, of: Mapping[str, Any]) -> str:
    """One line: which settles first, by one family of definitions."""
    if of["median"] is None:
        return f"{how}, weights or patterns do not settle within the runs"
    if of["tenth"] > 1:
        which = "earlier than"
    elif of["ninetieth"] < 1:
        which = "later than"
    elif of["median"] > _TOGETHER[1]:
        which = "mostly earlier than"
    elif of["median"] < _TOGETHER[0]:
        which = "mostly later than"
    else:
        which = "about when"
    more = f" ({of['undetermined']} undetermined)" if of["undetermined"] else ""
    return (
        f"{how}, patterns settle {which} weights do: median ratio {of['median']:.2f}, about 3 in {of['about_three']}"
        f" of {of['known']} cases{more}"
    )


def _ratios_of(ax: Axes, name: str, entries: Sequence[Mapping[str, Any]], shift: float) -> None:
    color, marker = LOOKS[name]
    levels = np.array([entry["level"] for entry in entries])
    gap = float(np.diff(levels).min()) if len(levels) > 1 else 0.1
    places = levels + 0.09 * gap * shift
    # None becomes NaN, at which the line is interrupted
    means, errors = (np.array([entry[key] for entry in entries], float) for key in ("mean", "error"))
    for settles, alpha in ((True, 1.0), (False, 0.3)):
        shown = np.array([entry["mean"] is not None and entry["settles"] == settles for entry in entries])
        if shown.any():
            ax.errorbar(
                places, np.where(shown, means, np.nan), np.where(shown, errors, np.nan), color=color, marker=marker,
                markersize=5, linewidth=0.9, capsize=2, alpha=alpha,
            )  # fmt: skip
    for place, entry in zip(places, entries, strict=True):
        for bound, further in ((entry["at_least"], 1.35), (entry["at_most"], 1 / 1.35)):
            if bound is not None:
                ax.plot(place, bound, marker, color=color, markerfacecolor="white", markersize=5)
                ax.annotate(
                    "",
                    (place, further * bound),
                    (place, bound),
                    arrowprops={"arrowstyle": "->", "color": color, "shrinkA": 3, "shrinkB": 0},
                )


def _legend(ax: Axes, networks: Mapping[str, Any]) -> None:
    ax.axis("off")
    for name, of in networks.items():
        color, marker = LOOKS[name]
        accuracy = "" if of["accuracy_mean"] is None else f" ({100 * of['accuracy_mean']:.0f} %)"
        ax.plot([], [], color=color, marker=marker, markersize=5, label=f"{of['name']}{accuracy}")
    hollow: dict[str, Any] = {"color": style.GREY, "markerfacecolor": "white"}
    ax.plot([], [], "o", **hollow, label="arrow up: weights do not settle in some run,\nin no run smaller than this")
    ax.plot([], [], "o", **hollow, label="arrow down: patterns do not settle in some run,\nin no run larger than this")
    ax.plot([], [], "o-", color=style.GREY, alpha=0.3, label="pale: part $q$ of a curve that does not settle")
    ax.plot([], [], color=style.DARK, linewidth=0.9, label="1: both settle together")
    ax.plot([], [], color=style.DARK, linewidth=0.9, linestyle="--", label="3: the claim")
    ax.legend(loc="center", title="network (test accuracy)", fontsize=8)


@style.styled
def figure_curves(
    curves: Mapping[str, Mapping[str, np.ndarray]],
    steps: Mapping[str, int],
    names: Mapping[str, str],
    correlations: Mapping[str, Sequence[float | None]],
) -> Figure:
    """w_t, w_t/η_t and a_t over their maxima against time; one panel for each network.

    Parameters
    ----------
    curves : network -> "w", "w_rate", "a" -> averages over windows, (steps − window + 1,).
    steps : network -> length of its run.
    names : network -> its name.
    correlations : network -> of a_t with w_t, of every seed; None where one of them does not vary.
    """
    columns = min(_MOST_COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    figure = style.new_figure(3.9 * columns + 0.4, 2.7 * rows + 1.0)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for ax, (name, of) in zip(axes.flat, curves.items(), strict=False):
        scaled = {curve: values / max(float(values.max()), 1e-300) for curve, values in of.items()}
        for curve in ("w_rate", "w", "a"):
            label, color = _CURVE_LOOKS[curve]
            window = steps[name] - len(of[curve]) + 1
            middle = np.arange(len(of[curve])) + window / 2
            ax.plot(middle, scaled[curve], color=color, linewidth=1.2 if curve != "w_rate" else 2.6, label=label)
        ax.set_ylim(0, 1.05)
        ax.set_xlabel("training step")
        ax.set_title(names[name])
    for ax in axes.flat[len(curves) :]:
        ax.axis("off")
    for ax in axes[:, 0]:
        ax.set_ylabel("average / maximum")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(_moves_together([value for of in correlations.values() for value in of]))
    return figure


#: correlations from which on two curves are said to move together
_CLOSE = 0.7


def _moves_together(correlations: Sequence[float | None]) -> str:
    """One line: whether signs flip as weights move, in how many runs."""
    known = [value for value in correlations if value is not None]
    if not known:
        return f"No correlation of {A} with {W}: weights or signs do not vary"
    close = sum(value >= _CLOSE for value in known)
    whether = "Signs flip as weights move" if close else "Signs do not follow weights closely"
    if 0 < close < len(known):
        whether += f" in {close} of {len(known)} runs"
    span = f"{min(known):.2f} to {max(known):.2f}" if len(known) > 1 else f"{known[0]:.2f}"
    return f"{whether}: the correlation of {A} with {W} is {span}".replace("-", "−")


@style.styled
def figure_nodal(lines: Mapping[str, np.ndarray], *, periodic: bool = False) -> Figure:
    """Nodal lines of ẑ at several times, coloured by their speed; their length, and what they sweep.

    Parameters
    ----------
    lines : x, y of the unit square; shown_t (n,), shown_z and shown_rate (n, n_x, n_y) of one channel and sample; t,
        length (mean over channels and samples), flipped and swept (fractions in one step) at the snapshots.
    periodic : whether y is.
    """
    count = len(lines["shown_t"])
    figure = style.new_figure(12.0, 6.4)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    maps, below = parts
    top = list(maps.subplots(1, count, squeeze=False)[0])
    left, right = below.subplots(1, 2)
    mesh = _maps(top, lines, periodic)
    maps.colorbar(mesh, ax=top, label=r"normal speed $|\partial_t\hat{z}|/|\nabla\hat{z}|$", pad=0.01)
    left.plot(lines["t"], lines["length"], "o-", color=style.ORDER_COLORS[1], markersize=3)
    left.set_ylim(0, 1.15 * float(lines["length"].max()) or 1.0)
    left.set_xlabel(style.T_LABEL)
    left.set_ylabel("length of nodal lines\n(side of the square = 1)")
    left.set_title("mean over channels and samples")
    both = np.concatenate([lines["flipped"], lines["swept"]])
    shown = both[both > 0]
    if shown.size:
        span = float(shown.min()), float(shown.max())
        right.plot(span, span, color=style.DARK, linewidth=0.9, label="equal")
        right.plot(lines["swept"], lines["flipped"], "o", color=style.ORDER_COLORS[0], markersize=4, label="snapshots")
        right.set_xscale("log")
        right.set_yscale("log")
        right.legend()
    right.set_xlabel("area that nodal lines sweep in a step")
    right.set_ylabel("fraction of signs\nthat flip in it")
    first, last = float(lines["length"][0]), float(lines["length"][-1])
    flipped, swept = float(lines["flipped"].sum()), float(lines["swept"].sum())
    share = ""
    if flipped > 0 and np.isfinite(swept):
        share = f"; the area they sweep is {swept / flipped:.2f} of the signs that flip"
    figure.suptitle(
        f"Nodal lines of $\\hat{{z}}$, first seed: length {first:.2f} at the start, {last:.2f} at the end{share}"
    )
    return figure


def _maps(axes: Sequence[Axes], lines: Mapping[str, np.ndarray], periodic: bool) -> Any:
    """The sign pattern at every shown time, its nodal lines in the colours of their speed."""
    x, y, period = lines["x"], lines["y"], 1.0 if periodic else None
    found = []
    for z, rate in zip(lines["shown_z"], lines["shown_rate"], strict=True):
        where = zero_set(z, x, y, period=period)
        found.append((where, normal_speed(z, rate, x, y, where, period=period)[0]))
    speeds = np.concatenate([speed for _, speed in found])
    speeds = speeds[speeds > 0]
    norm = LogNorm(*np.percentile(speeds, [2, 98])) if speeds.size > 1 and np.ptp(speeds) > 0 else None
    last = None
    for ax, (where, speed), z, t in zip(axes, found, lines["shown_z"], lines["shown_t"], strict=True):
        ax.grid(False)
        ax.pcolormesh(x, y, z.T > 0, cmap="Greys", vmin=-0.3, vmax=4, shading="nearest", rasterized=True)
        segments = np.stack([where.start, where.end], axis=1)
        last = LineCollection(list(segments), cmap="plasma", norm=norm, linewidths=2.2, capstyle="round")
        last.set_array(speed)
        ax.add_collection(last)
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        ax.set_title(f"$t$ = {t:g}")
        ax.set_xlabel(style.X_LABEL)
        if ax is not axes[0]:
            ax.set_yticklabels([])
    axes[0].set_ylabel(style.Y_LABEL)
    return last


@style.styled
def figure_observed(
    arrays: Mapping[str, np.ndarray], coordinates: Mapping[str, np.ndarray], summary: Mapping[str, Any], name: str
) -> Figure:
    """What `bbdfield observe` shows of one run: curves, ratios of settling times, nodal lines at its end."""
    drawn = "regimes_z" in arrays
    figure = style.new_figure(12.0 if drawn else 8.2, 4.2)
    left, middle, *others = figure.subplots(1, 3 if drawn else 2)
    steps = len(arrays["regimes_a"])
    window = int(max(coordinates["regimes_window"]))
    total = {curve: np.cumsum(np.append(0.0, arrays[f"regimes_{curve}"])) for curve in ("w_rate", "w", "a")}
    for curve, sums in total.items():
        label, color = _CURVE_LOOKS[curve]
        means = (sums[window:] - sums[:-window]) / window
        largest = float(means.max())
        thick = 2.6 if curve == "w_rate" else 1.2
        left.plot(
            np.arange(len(means)) + window / 2, means / largest if largest > 0 else means, color=color, linewidth=thick,
            label=label,
        )  # fmt: skip
    left.set_ylim(0, 1.05)
    left.set_xlabel("training step")
    left.set_ylabel(f"average over {window} steps / maximum")
    left.legend()
    middle.axhline(1, color=style.DARK, linewidth=0.9)
    middle.axhline(CLAIMED, color=style.DARK, linewidth=0.9, linestyle="--")
    for kind, marker in (("rho", "o"), ("q", "s")):
        for i, curve in enumerate(("w", "w_rate")):
            label, color = _CURVE_LOOKS[curve]
            if not np.isfinite(arrays[f"regimes_ratio_{kind}"][i]).any():
                continue
            for k, line in enumerate(("-", "--", ":")[: arrays[f"regimes_ratio_{kind}"].shape[1]]):
                letter = r"$\rho$" if kind == "rho" else "$q$"
                middle.plot(
                    coordinates[f"regimes_{kind}"], arrays[f"regimes_ratio_{kind}"][i, k], line, color=color,
                    marker=marker, markersize=4, linewidth=0.9, label=f"{label}, {letter}" if k == 0 else None,
                )  # fmt: skip
    middle.plot(
        coordinates["regimes_rho"], arrays["regimes_ratio_end"], "D-", color=style.ORDER_COLORS[2], markersize=4,
        linewidth=0.9, label=r"from the end, $\rho$",
    )  # fmt: skip
    _ratio_scale(middle)
    finite = np.concatenate([arrays[f"regimes_ratio_{kind}"].ravel() for kind in ("rho", "q", "end")])
    finite = finite[np.isfinite(finite)]
    middle.set_ylim(min(0.45, float(finite.min(initial=1.0)) / 1.2), max(5.0, 1.2 * float(finite.max(initial=1.0))))
    middle.set_xlabel(r"level $\rho$ or $q$")
    middle.set_ylabel(_RATIO)
    middle.legend(ncols=2, fontsize=8)
    for right in others:
        lines = {
            "x": coordinates["regimes_x"],
            "y": coordinates["regimes_y"],
            "shown_t": coordinates["regimes_shown"][-1:],
            "shown_z": arrays["regimes_z"][-1:],
            "shown_rate": arrays["regimes_z_rate"][-1:],
        }
        mesh = _maps([right], lines, bool(summary.get("periodic", False)))
        figure.colorbar(mesh, ax=right, label=r"normal speed $|\partial_t\hat{z}|/|\nabla\hat{z}|$")
        right.set_title(f"nodal lines, channel {summary['channel']}, sample {summary['sample']}, end of the run")
    count, settled = summary["definitions"], summary["settled"]
    say = (
        f"weights settle at {summary['ratio_median']:.2f} times the patterns' time (median of {settled} of {count}"
        " definitions)"
        if settled
        else f"within {steps} steps, weights and patterns settle by none of {count} definitions"
    )
    figure.suptitle(f"{style.literal(name)}\n{say}")
    return figure
