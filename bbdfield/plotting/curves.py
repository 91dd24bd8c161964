"""Curves over training time and over depth: losses, accuracies and relative errors of the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bbdfield.errors import InputError
from bbdfield.model.run import Run
from bbdfield.plotting import style

#: the relative error of ẑ beyond which a trajectory no longer counts as predicted
HORIZON = 0.10


@dataclass(frozen=True)
class TrainingCurve:
    """How one training went: loss at t_loss (every step), test accuracy at t (every snapshot; NaN without labels).

    order : of the field theory; None for a network, whose curve is grey and solid.
    """

    label: str
    t_loss: np.ndarray
    loss: np.ndarray
    t: np.ndarray
    test_accuracy: np.ndarray
    order: int | None = None

    @classmethod
    def of(cls, run: Run, label: str) -> Self:
        t_loss = run.trajectory.scalar_step * run.training.step
        order = run.config.get("field", {}).get("order", 0) if run.kind == "field" else None
        return cls(label, t_loss, run.loss, run.t, run.evaluation["test_accuracy"], order)


class ErrorsOfField(Protocol):
    """The part of a score that is drawn here (see `bbdfield.comparison.scores.Score`)."""

    @property
    def t(self) -> np.ndarray: ...
    @property
    def error_t(self) -> dict[str, np.ndarray]: ...
    @property
    def movement_error_t(self) -> dict[str, np.ndarray]: ...
    @property
    def horizon(self) -> float | None: ...
    @property
    def profile(self) -> dict[str, np.ndarray]: ...
    @property
    def x_site(self) -> np.ndarray: ...
    @property
    def x_link(self) -> np.ndarray: ...


def smoothing_width(count: int) -> int:
    """Steps over which the loss of minibatches is averaged: about 3 % of all."""
    return max(1, min(count, round(0.03 * count)))


def smooth(t: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Running mean over `smoothing_width` steps, at the middle of each window."""
    if not values.size:
        return t, values
    window = np.full(smoothing_width(values.size), 1 / smoothing_width(values.size))
    return np.convolve(t, window, "valid"), np.convolve(values, window, "valid")


def draw_loss(ax: Axes, curves: Sequence[TrainingCurve]) -> list[Line2D]:
    """Training loss: each step thin, its running mean on top; fields dashed over the networks."""
    lines = []
    for curve, look in zip(curves, _looks(curves), strict=True):
        if curve.order is None or len(curves) == 1:
            ax.plot(curve.t_loss, curve.loss, color=look["color"], linewidth=0.6, alpha=0.6)
        lines += ax.plot(*smooth(curve.t_loss, curve.loss), label=curve.label, **look)
    ax.set_xlabel(style.T_LABEL)
    ax.set_ylabel("training loss")
    ax.margins(x=0.01)
    return lines


def draw_accuracy(ax: Axes, curves: Sequence[TrainingCurve]) -> list[Line2D]:
    """Test accuracy in percent at every snapshot; fields dashed over the networks."""
    lines = []
    for curve, look in zip(curves, _looks(curves), strict=True):
        lines += ax.plot(curve.t, 100 * curve.test_accuracy, label=curve.label, **look)
    ax.set_xlabel(style.T_LABEL)
    ax.set_ylabel("test accuracy (%)")
    ax.margins(x=0.01)
    return lines


@style.styled
def figure_training(curves: Sequence[TrainingCurve]) -> Figure:
    """Loss and test accuracy of all networks and fields; the loss alone when there are no labels to test on.

    Parameters
    ----------
    curves : networks from coarse to fine, then fields.
    """
    if not curves:
        raise InputError("there is no training curve to draw")
    labelled = any(np.isfinite(curve.test_accuracy).any() for curve in curves)
    figure = style.new_figure(10.5 if labelled else 6.5, 4.3)
    axes = figure.subplots(1, 2 if labelled else 1, squeeze=False)[0]
    lines = draw_loss(axes[0], curves)
    if labelled:
        draw_accuracy(axes[1], curves)
    figure.legend(handles=lines, loc="outside lower center", ncols=min(5, len(curves)), handlelength=3.2)
    networks, fields = [c for c in curves if c.order is None], [c for c in curves if c.order is not None]
    figure.suptitle(_training_message(networks, fields))
    return figure


def draw_error_over_time(ax: Axes, scores: Mapping[int, ErrorsOfField], quantity: str) -> None:
    """Relative error of one quantity at each snapshot, per order; dotted: relative to the movement since t = 0."""
    shown = []
    for order, score in sorted(scores.items()):
        color = style.order_color(order)
        error = _above_rounding(score.error_t[quantity])
        ax.plot(score.t, error, color=color, marker="o", markersize=2.5, label=f"order {order}")
        shown.append(error)
        if quantity in score.movement_error_t:
            moved = _above_rounding(score.movement_error_t[quantity])
            ax.plot(score.t, moved, color=color, linestyle=":", linewidth=1.4)
            shown.append(moved)
        if score.horizon is not None:
            ax.axvline(score.horizon, color=color, linewidth=1, linestyle="-.")
    if quantity == "z":
        ax.axhline(HORIZON, color=style.GREY, linewidth=1, linestyle="--")
    _log_axis(ax, [*shown, np.array([HORIZON])] if quantity == "z" else shown)
    times = np.concatenate([score.t for score in scores.values()])
    margin = 0.03 * np.ptp(times) or 1.0
    ax.set_xlim(times.min() - margin, times.max() + margin)
    ax.set_xlabel(style.T_LABEL)
    ax.set_title(f"error of {style.SYMBOLS[quantity]}")


@style.styled
def figure_error_over_time(scores: Mapping[int, ErrorsOfField]) -> Figure:
    """Instantaneous relative error of ẑ, ŵ, b̂ over training time.

    Parameters
    ----------
    scores : order -> score at the finest rung.
    """
    best = _highest(scores)
    figure = style.new_figure(11.5, 4.2)
    axes = figure.subplots(1, 3)
    for ax, quantity in zip(axes, ("z", "w", "b"), strict=True):
        draw_error_over_time(ax, scores, quantity)
    _one_scale(axes)
    handles, _ = axes[0].get_legend_handles_labels()
    handles.append(Line2D([], [], color=style.DARK, linestyle=":", label="relative to the movement since $t$ = 0"))
    handles.append(Line2D([], [], color=style.GREY, linestyle="--", linewidth=1, label="10 %"))
    if any(score.horizon is not None for score in scores.values()):
        handles.append(Line2D([], [], color=style.DARK, linestyle="-.", linewidth=1, label="horizon"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    score = scores[best]
    worst = float(np.max(score.error_t["z"], initial=0.0))
    figure.suptitle(
        f"Order {best} predicts {style.SYMBOLS['z']} within {style.fraction(worst)} until $t$ = {score.t[-1]:.4g}"
        if score.horizon is None
        else f"Order {best} predicts {style.SYMBOLS['z']} within 10 % until $t$ = {score.horizon:.4g}, its horizon"
    )
    return figure


def draw_depth_profile(ax: Axes, scores: Mapping[int, ErrorsOfField], quantity: str) -> None:
    """Relative error of one quantity at each site (ẑ) or link (ŵ, b̂), at the last snapshot, per order."""
    shown = []
    for order, score in sorted(scores.items()):
        x = (score.x_site if quantity == "z" else score.x_link) / score.x_site[-1]
        error = style.positive(score.profile[quantity])
        ax.plot(x, error, color=style.order_color(order), marker="o", markersize=2.5, label=f"order {order}")
        shown.append(error)
    _log_axis(ax, shown)
    ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel(style.X_LABEL)
    ax.set_title(f"error of {style.SYMBOLS[quantity]}")


@style.styled
def figure_depth_profile(scores: Mapping[int, ErrorsOfField]) -> Figure:
    """Relative error of ẑ, ŵ, b̂ over depth at the last snapshot.

    Parameters
    ----------
    scores : order -> score at the finest rung.
    """
    best = _highest(scores)
    figure = style.new_figure(11.5, 4.2)
    axes = figure.subplots(1, 3)
    for ax, quantity in zip(axes, ("z", "w", "b"), strict=True):
        draw_depth_profile(ax, scores, quantity)
    _one_scale(axes)
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=len(lines))
    score = scores[best]
    error = np.nan_to_num(score.profile["z"], posinf=0.0)
    where = float(score.x_site[int(np.argmax(error))] / score.x_site[-1])
    symbol = style.SYMBOLS["z"]
    figure.suptitle(
        f"At the end, order {best} predicts {symbol} within {style.fraction(float(error.max()))} at every depth;"
        f" worst at $x/L_x$ = {where:.2g}"
    )
    return figure


def _highest(scores: Mapping[int, ErrorsOfField]) -> int:
    if not scores:
        raise InputError("there is no score to draw; compare a field run with a lattice run first")
    return max(scores)


def _looks(curves: Sequence[TrainingCurve]) -> list[dict[str, Any]]:
    """Networks in greys, fields dashed on top in the colour of their order."""
    greys = iter(style.rung_colors(sum(curve.order is None for curve in curves)))
    looks: list[dict[str, Any]] = []
    for curve in curves:
        if curve.order is None:
            looks.append({"color": next(greys), "linestyle": "-", "linewidth": 2.8})
        else:  # shifted against each other, so that equal curves show as alternating colours
            dashes = "-" if len(curves) == 1 else (4.0 * curve.order, (3, 5))
            looks.append({"color": style.order_color(curve.order), "linestyle": dashes, "linewidth": 1.8, "zorder": 3})
    return looks


def _log_axis(ax: Axes, shown: Sequence[np.ndarray]) -> None:
    """Logarithmic, from just below the smallest value that matters to just above the largest."""
    values = np.concatenate([np.ravel(part) for part in shown]) if shown else np.array([])
    values = values[np.isfinite(values)]
    ax.set_yscale("log")
    if values.size:
        ax.set_ylim(values.min() / 2, values.max() * 2)


def _one_scale(axes: Sequence[Axes]) -> None:
    """The widest of the panels' vertical ranges for all, labelled on the first, so that they can be compared."""
    limits = np.array([ax.get_ylim() for ax in axes])
    for ax in axes:
        ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
        ax.tick_params(labelleft=ax is axes[0])
    axes[0].set_ylabel("relative error")


def _above_rounding(errors: np.ndarray) -> np.ndarray:
    """Errors without those at the level of rounding, such as that of ŵ at t = 0, which would stretch the axis."""
    errors = style.positive(errors)
    return np.where(errors > 1e-12, errors, np.nan)


def _training_message(networks: Sequence[TrainingCurve], fields: Sequence[TrainingCurve]) -> str:
    if not networks:
        return "Training of the field"
    if not fields:
        return "Training of the network" if len(networks) == 1 else "Training of the networks"
    network, field = networks[-1].loss, fields[-1].loss
    count = min(network.size, field.size)
    scale = float(np.linalg.norm(network[:count])) or 1.0
    apart = float(np.linalg.norm(field[:count] - network[:count])) / scale
    how = "The field learns as the network does" if apart < 0.1 else "Field and network learn differently"
    return f"{how}: their losses differ by {style.fraction(apart)}"
