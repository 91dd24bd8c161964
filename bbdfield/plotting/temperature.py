"""Figures of temperature: the gap against rate/batch, balance of fluctuation and dissipation, noise of single runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bbdfield.plotting import style

RATIO_LABEL = "rate/batch $\\tau/B$"
#: colours of temperatures, cold to hot, without the palest end
_HEAT = matplotlib.colors.LinearSegmentedColormap.from_list(
    "heat", matplotlib.colormaps["plasma"](np.linspace(0.0, 0.88, 256))
)


@style.styled
def figure_gap(
    ratio: np.ndarray, batches: np.ndarray, measured: Mapping[str, np.ndarray], found: Mapping[str, Any]
) -> Figure:
    """The gap against rate/batch: at equal time, and at equal training loss.

    Parameters
    ----------
    ratio : (rate, batch).   batches : (batch,).
    measured : "gap", "gap_at_level" and "gap_at_deep_level", (rate, batch, seed).
    found : the study's scores.
    """
    figure = style.new_figure(11.0, 4.9)
    left, right = figure.subplots(1, 2)
    colors = _colors(batches)
    for j, (batch, color) in enumerate(zip(batches, colors, strict=True)):
        _with_errors(left, ratio[:, j], measured["gap"][:, j], color, f"batch {batch:g}")
        _with_errors(right, ratio[:, j], measured["gap_at_level"][:, j], color)
        _with_errors(right, ratio[:, j], measured["gap_at_deep_level"][:, j], color, marker="s", line="--")
    left.set_title(f"after equal training time, $t$ = {found['time']:g}")
    levels = [found["level"], found["deep_level"]]
    if None in levels:
        right.set_title("at equal training loss: no network was left")
    else:
        right.set_title(f"where the training loss is {levels[0]:.3g} (circles) or {levels[1]:.3g} (squares)")
    for ax in (left, right):
        _logarithmic(ax, ratio)
        ax.set_xlabel(RATIO_LABEL)
        ax.set_ylabel("gap: test loss − training loss")
    gaps = measured["gap"][np.isfinite(measured["gap"])]
    if gaps.size and gaps.min() >= 0:
        left.set_ylim(bottom=0)
    right.set_ylim(*left.get_ylim())
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=min(6, len(batches)))
    figure.suptitle(_message(found))
    return figure


def _message(found: Mapping[str, Any]) -> str:
    """Title: what equal time and equal loss say."""
    one, level = found["compared"]["gap"], found["compared"]["gap_at_level"]
    if one["explained"] is None:
        return "Too few networks were left to compare"
    explained, chance = (style.fraction(max(one[key], 0.0)) for key in ("explained", "explained_by_chance"))
    lines = f"After equal time rate/batch explains {explained} of the gap's variance (chance: {chance}"
    if one["p_value"] is not None:
        lines += f"; seeds {'do not' if one['p_value'] < 0.05 else 'may'} explain the rest"
    told = {1: "the gap grows with rate/batch", -1: "the gap falls with rate/batch"}
    told[0] = "no trend of the gap with rate/batch is seen"
    at_level, at_end = _sign(level["change_interval"]), _sign(one["change_interval"])
    if at_level is None:
        return lines + ")"
    also = " too" if at_level == at_end else ""
    return lines + f");\nat equal training loss {told[at_level]}{also}"


def _sign(interval: Sequence[float] | None) -> int | None:
    """Of what an interval is about: 1, −1, or 0 if it contains 0; None without one."""
    return None if interval is None else int(interval[0] > 0) - int(interval[1] < 0)


def _with_errors(
    ax: Axes,
    x: np.ndarray,
    values: np.ndarray,
    color: Any,
    label: str | None = None,
    marker: str = "o",
    line: str = "-",
) -> None:
    """Means over seeds (last axis) with standard errors; points without all seeds are left out."""
    means = values.mean(axis=-1)
    seeds = values.shape[-1]
    errors = values.std(axis=-1, ddof=1) / np.sqrt(seeds) if seeds > 1 else np.zeros(means.shape)
    ax.errorbar(
        x,
        means,
        errors,
        color=color,
        fmt=marker + line,
        markersize=5,
        elinewidth=1,
        capsize=2,
        linewidth=1,
        label=label,
    )


def _colors(values: np.ndarray) -> list[Any]:
    colors = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, len(values)))
    return [tuple(color) for color in colors]


def _logarithmic(ax: Axes, ratio: np.ndarray) -> None:
    """A logarithmic axis with ticks at the ratios themselves, where they are few."""
    ax.set_xscale("log")
    ticks = np.unique(np.round(np.log(ratio.ravel()), 9))
    if len(ticks) <= 9:
        ax.set_xticks(np.exp(ticks), [f"{value:.3g}" for value in np.exp(ticks)])
        ax.xaxis.set_minor_locator(NullLocator())


def _heat(figure: Figure, axes: Any, ratio: np.ndarray) -> Any:
    """The colour of a temperature, with its bar."""
    low, high = float(ratio.min()), float(ratio.max())
    high = high if high > low else 2 * low
    norm = LogNorm(low, high)
    bar = figure.colorbar(ScalarMappable(norm, _HEAT), ax=axes)
    bar.set_label("rate/batch $\\tau/B$")
    marks = [float(mark) for mark in np.geomspace(low, high, 4)]
    bar.set_ticks(marks, labels=[f"{mark:.2g}" for mark in marks])
    bar.ax.yaxis.set_minor_locator(NullLocator())
    return lambda value: _HEAT(norm(value))


@style.styled
def figure_curves(
    t: np.ndarray, ratio: np.ndarray, curves: Mapping[str, np.ndarray], found: Mapping[str, Any]
) -> Figure:
    """Training loss against time, and the gap against training loss, means over seeds of every point of the grid.

    Parameters
    ----------
    t : (evaluations,).   ratio : (rate, batch).   curves : "train_loss", "test_loss" (rate, batch, seed, t).
    """
    figure = style.new_figure(11.0, 4.6)
    left, right = axes = figure.subplots(1, 2)
    color = _heat(figure, axes, ratio)
    train, test = (curves[name].mean(axis=2) for name in ("train_loss", "test_loss"))
    for i, j in np.ndindex(ratio.shape):
        shade = color(ratio[i, j])
        left.plot(t, train[i, j], color=shade, linewidth=1.2)
        right.plot(train[i, j], test[i, j] - train[i, j], color=shade, linewidth=1.2)
        right.plot(train[i, j, -1:], (test - train)[i, j, -1:], "o", color=shade, markersize=4)
    left.set_xlabel(style.T_LABEL)
    left.set_ylabel("training loss")
    right.set_xlabel("training loss (falls to the right)")
    right.set_ylabel("gap: test loss − training loss")
    right.invert_xaxis()
    right.set_title("dots: end of training")
    slower, follows = _sign(found["compared"]["train_loss"]["change_interval"]), found["gap_with_train_loss"]
    told = {
        1: "Training loss at the end grows with rate/batch",
        -1: "Training loss at the end falls with rate/batch",
        0: "No trend of the training loss at the end with rate/batch is seen",
        None: "Training loss and gap along all runs",
    }[slower]
    if follows is not None:
        told += f"; rank correlation of the gap with training loss {follows:.2f}".replace("-", "−")
    figure.suptitle(told)
    return figure


@style.styled
def figure_balance(
    t: np.ndarray,
    ratio: np.ndarray,
    batches: np.ndarray,
    balance: np.ndarray,
    temperature: np.ndarray,
    found: Mapping[str, Any],
) -> Figure:
    """Dissipation over fluctuation along all runs, and the measured temperature.

    Parameters
    ----------
    t : (evaluations,).   balance : (rate, batch, seed, evaluations − 1).   temperature : (rate, batch, seed).
    """
    figure = style.new_figure(11.0, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=[1.35, 1])
    color = _heat(figure, left, ratio)
    middle = (t[1:] + t[:-1]) / 2
    means = balance.mean(axis=2)
    for i, j in np.ndindex(ratio.shape):
        left.plot(middle, means[i, j], color=color(ratio[i, j]), linewidth=1.2)
    left.axhline(1.0, color=style.DARK, linewidth=1, linestyle="--")
    left.text(middle[0], 1.03, "stationary", color=style.DARK, va="bottom", fontsize=9)
    late = means[..., len(middle) // 2 :]
    good = late[np.isfinite(late)]
    left.set_ylim(max(-4.0, min(-0.5, float(good.min()) if good.size else 0.0)), 1.35)
    left.set_xlabel(style.T_LABEL)
    left.set_ylabel("dissipation / fluctuation")

    for j, (batch, shade) in enumerate(zip(batches, _colors(batches), strict=True)):
        _with_errors(right, ratio[:, j], temperature[:, j], shade, f"batch {batch:g}")
    seen = temperature[np.isfinite(temperature)]
    if seen.size and (seen > 0).all():
        ends = np.array([ratio.min(), ratio.max()])
        start = float(np.exp(np.log(seen).mean()))
        right.plot(ends, start * ends / np.exp(np.log(ratio).mean()), color=style.GREY, linewidth=1, label="slope 1")
        right.set_yscale("log")
    _logarithmic(right, ratio)
    right.set_xlabel(RATIO_LABEL)
    right.set_ylabel("measured temperature $T_\\mathrm{eff}$ (loss)")
    right.legend()
    span, slope = found["balance"], found["slope_of_temperature"]
    if slope is not None:
        right.set_title(_power(slope, found["slope_of_temperature_interval"]))
    if span is None:
        told = "No network was left whose balance could be measured"
    elif span[2] < 0.9:
        told = f"Norms still grow in all runs: in the second half dissipation is at most {span[2]:.2f} of fluctuation"
    else:
        told = f"Second half: dissipation over fluctuation from {span[0]:.2f} to {span[2]:.2f}; 1 is stationary"
    figure.suptitle(told)
    return figure


def _power(slope: float, interval: Sequence[float] | None) -> str:
    told = f"slope {slope:.2f}"
    if interval is not None:
        low, high = interval
        told += f" [{low:.2f}, {high:.2f}]: {'proportional within errors' if low <= 1 <= high else 'not proportional'}"
    return told.replace("-", "−")


@style.styled
def figure_forms(rows: Sequence[Mapping[str, float]], agreement: Mapping[str, float]) -> Figure:
    """One-dimensional chains against their closed form; rows and their agreement as in the study's scores."""
    figure = style.new_figure(11.0, 4.4)
    left, right = figure.subplots(1, 2)
    momenta = sorted({row["momentum"] for row in rows})
    for momentum, color in zip(momenta, style.ORDER_COLORS, strict=False):
        mine = [row for row in rows if row["momentum"] == momentum]
        steps = np.array([row["step"] for row in mine])
        fine = np.geomspace(0.6 * steps.min(), min(1.04 * steps.max(), 1.98 * (1 + momentum)), 200)
        label = f"$\\mu$ = {momentum:g}"
        # h = s² = 1, so that the rate is ηh
        line = fine * (1 + momentum) / ((1 - momentum) * (2 * (1 + momentum) - fine))
        left.plot(fine, line, color=color, linewidth=1.2)
        errors = 2 * np.array([row["error"] for row in mine])
        left.errorbar(steps, [row["variance"] for row in mine], errors, color=color, fmt="o", markersize=5, label=label)
        right.plot(steps, [row["deviation"] for row in mine], "o", color=color, markersize=6)
        right.plot(steps, [row["balance_deviation"] for row in mine], "s", color=color, markersize=5, fillstyle="none")
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("rate × curvature $\\eta h$")
    left.set_ylabel("variance of the position, $s^2/h^2$")
    left.legend()
    right.axhspan(-2, 2, color="#eeeeee", zorder=0)
    right.set_xscale("log")
    right.set_xlabel("rate × curvature $\\eta h$")
    right.set_ylabel("simulation − theory, standard errors")
    worst, limit = agreement["largest"], agreement["limit"]
    right.set_ylim(-max(3.0, 1.1 * worst), max(3.0, 1.1 * worst))
    right.set_title(
        "filled: variance;  open: $\\langle\\theta\\nabla\\ell\\rangle - (1+\\mu)\\langle v^2\\rangle/2\\eta$"
    )
    figure.suptitle(
        f"Chains {'follow' if worst <= limit else 'do not follow'} the closed forms: {agreement['within_two']} of"
        f" {agreement['comparisons']} deviations are within 2 standard errors, the largest is {worst:.1f}"
        f" (limit for all together {limit:.1f})"
    )
    return figure


@style.styled
def figure_observed(
    arrays: Mapping[str, np.ndarray], coordinates: Mapping[str, np.ndarray], summary: Mapping[str, Any], name: str
) -> Figure:
    """Balance, temperature and noise along one run.

    Parameters
    ----------
    arrays : of `bbdfield.observables.temperature.observe`.   coordinates : "step" and "t" among them.
    """
    figure = style.new_figure(11.0, 4.4)
    left, right = figure.subplots(1, 2)
    t, steps = coordinates["t"], coordinates["step"]
    tau = (t[-1] - t[0]) / len(steps) if len(t) > 1 else 1.0
    shown = arrays["temperature_ratio"]
    left.plot((steps + 1) * tau, shown, color=style.ORDER_COLORS[1], linewidth=1.2)
    left.axhline(1.0, color=style.DARK, linestyle="--", linewidth=1)
    late = shown[len(shown) // 2 :]
    late = late[np.isfinite(late)]
    if late.size:
        low, high = min(float(late.min()), 0.0), max(float(late.max()), 1.0)
        left.set_ylim(low - 0.4 * (high - low), high + 0.4 * (high - low))
    left.set_xlabel(style.T_LABEL)
    left.set_ylabel("dissipation / fluctuation")
    left.set_title(f"running sums over {summary['window']} steps; 1 is a stationary state")
    right.plot(t, style.positive(arrays["temperature_effective"]), "o-", color=style.ORDER_COLORS[0], markersize=4)
    right.set_yscale("log")
    right.set_xlabel(style.T_LABEL)
    right.set_ylabel("effective temperature $T_\\mathrm{eff}$ (loss)", color=style.ORDER_COLORS[0])
    other = right.twinx()
    other.plot(t, style.positive(arrays["temperature_rank"]), "s--", color=style.GREY, markersize=4)
    other.set_ylim(bottom=0)
    other.grid(False)
    other.spines["right"].set_visible(True)
    other.set_ylabel("effective rank of the noise", color=style.GREY)
    since = summary["balanced_since"]
    told = "not in balance" if summary["balance"] == "drifting" else "balance cannot be told"
    if since is not None:
        told = f"in balance since t = {since:.3g}"
    ratio = f"{summary['ratio']:.2g} ± {summary['ratio_error']:.1g}".replace("-", "−")
    figure.suptitle(f"{style.literal(name)}\ndissipation/fluctuation {ratio}, {told}")
    return figure
