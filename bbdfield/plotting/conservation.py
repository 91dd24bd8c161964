"""Figures of conservation laws: their drift in training, what is left of it, charges under momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from bbdfield.plotting import style

#: system -> colour
COLORS = {"convolutional": style.ORDER_COLORS[1], "dense": style.ORDER_COLORS[0]}
#: below this, relative numbers are rounding of one number; of sums over many steps
ROUNDING, ROUNDED = float(np.finfo(float).eps), 1e-11
#: march in depth -> its order; a fitted slope is that order if it is this near
ORDERS = {"euler": 1.0, "midpoint": 2.0}
NEAR = 0.3


@style.styled
def figure_laws(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    slope: Mapping[str, tuple[np.ndarray, np.ndarray]],
    titles: Mapping[str, str],
) -> Figure:
    """Drift of the laws over training and what is left after subtraction; the drift against the learning rate.

    Parameters
    ----------
    curves : system -> (step, drift, rest).   slope : system -> (factor of the rates, drift).   titles : system -> what
    network it is, and which of its laws are followed if not all are.
    """
    figure = style.new_figure(12.0, 4.4)
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 0.9])
    for ax, (name, (step, drift, rest)) in zip(axes, curves.items(), strict=False):
        color = COLORS[name]
        ax.semilogy(step, style.positive(drift), color=color, label="drift of the laws, $|D - D(0)|$")
        ax.semilogy(step, style.positive(rest), color=style.DARK, label="less the exact increment of every step")
        ax.axhline(ROUNDING, color=style.GREY, linestyle=":", linewidth=1)
        ax.text(step[-1], ROUNDING / 1.6, "rounding of one number", ha="right", va="top", color=style.GREY, fontsize=8)
        ax.set_title(titles[name])
        ax.set_xlabel("training step")
        ax.set_ylim(1e-17, max(1.0, 3 * float(np.nanmax(drift))))
        _decades(ax)
    axes[0].set_ylabel("relative to the law's own terms")
    axes[0].legend(loc="center right")
    axes[1].legend(loc="center right")
    right = axes[2]
    orders = [_order(factor, drift) for factor, drift in slope.values()]
    for (name, (factor, drift)), order in zip(slope.items(), orders, strict=True):
        right.loglog(factor, drift, "o-", color=COLORS[name], markersize=4, label=f"{name}: slope {order:.2f}")
    factor, drift = next(iter(slope.values()))
    guide = 0.25 * float(drift[-1]) * (factor / factor[-1]) ** 2
    right.loglog(factor, guide, color=style.GREY, linestyle="--", linewidth=1, label="slope 2")
    right.set_xlabel("learning rate (fraction of the trained one)")
    right.set_ylabel("drift after a fixed number of steps")
    squares = all(abs(order - 2) < NEAR for order in orders)
    right.set_title(f"the drift {'falls as' if squares else 'is not as'} the square of the rate")
    right.legend()
    most = max(float(drift.max()) for _, drift, _ in curves.values())
    left = max(float(rest.max()) for _, _, rest in curves.values())
    but = "their squares and by nothing else" if left < ROUNDED else "more than their squares"
    figure.suptitle(
        f"Steps of training break the laws by {but}: they drift by up to {style.fraction(most)}, of which all but"
        f" {left:.0e} is accounted for"
    )
    return figure


def _order(sizes: np.ndarray, errors: np.ndarray) -> float:
    """Slope of log error against log size; NaN where an error is zero or not finite."""
    if not (np.isfinite(errors).all() and (errors > 0).all()):
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def _decades(ax: Axes) -> None:
    ax.yaxis.set_major_locator(LogLocator(base=10, numticks=10))


@style.styled
def figure_departures(
    momentum: Mapping[str, np.ndarray],
    weight_decay: Mapping[str, np.ndarray],
    factor: float,
    cells: np.ndarray,
    field: Mapping[str, np.ndarray],
) -> Figure:
    """Charges under momentum, laws under weight decay, and the law of the field.

    Parameters
    ----------
    momentum : step, drift (of the laws), charge, expected.   weight_decay : step, law, expected, rest.   field : march
    -> drift on grids of `cells`.
    """
    figure = style.new_figure(12.5, 4.4)
    left, middle, right = figure.subplots(1, 3)
    step, expected = momentum["step"], momentum["expected"]
    left.semilogy(step, style.positive(momentum["drift"]), color=style.ORDER_COLORS[0], label="drift of the laws $D$")
    left.semilogy(
        step, style.positive(momentum["charge"]), color=style.ORDER_COLORS[1], label="charges $|Q|$ over their start"
    )
    shown = expected > 1e-18
    left.semilogy(step[shown], expected[shown], color=style.DARK, linestyle="--", linewidth=1, label=f"${factor:g}^k$")
    left.set_title("momentum, linear network")
    left.set_ylim(1e-19, 10)
    left.set_ylabel("relative to terms, or to the start")
    left.legend(loc="center right")
    step = weight_decay["step"]
    law, alone = weight_decay["law"], weight_decay["expected"]
    middle.semilogy(step, style.positive(law), color=style.ORDER_COLORS[2], label="laws $|D|$ over their start")
    middle.semilogy(
        step, style.positive(alone), color=style.GREY, linestyle=":", label=r"$(1 - \eta\lambda)^{2k}$ alone"
    )
    middle.semilogy(step, style.positive(weight_decay["rest"]), color=style.DARK, label="laws less their recursion")
    middle.set_title("weight decay, relu network")
    middle.set_ylim(1e-17, 10)
    middle.legend(loc="center right")
    for ax in (left, middle):
        ax.set_xlabel("training step")
        _decades(ax)
    orders = {name: -_order(cells, drift) for name, drift in field.items()}
    for (name, drift), color in zip(field.items(), style.ORDER_COLORS, strict=False):
        right.loglog(cells, drift, "o-", color=color, markersize=4, label=f"{name}: order {orders[name]:.2f}")
    right.set_xticks(cells, [str(n) for n in cells])
    right.minorticks_off()
    right.set_xlabel("cells $n_x$ in depth")
    right.set_ylabel("drift of the law along the flow")
    right.set_title("linear residual field")
    right.legend()
    parts = _of_momentum(momentum["charge"], expected, factor), _of_decay(weight_decay["rest"])
    figure.suptitle(f"{'. '.join(parts)}.\n{_of_depth(orders, field)}")
    return figure


def _of_momentum(charge: np.ndarray, expected: np.ndarray, factor: float) -> str:
    """Whether charges fall as they must, and how far."""
    off = ~(np.abs(charge / np.maximum(expected, 1e-300) - 1) < 0.1)
    followed = expected[: int(np.argmax(off)) if off.any() else len(off)]
    if not followed.size:
        return f"Momentum: charges do not fall by {factor:g} a step"
    reached = float(followed[-1])
    left = off.any() and reached > ROUNDED
    decades = f"{-np.log10(reached):.0f} decades" if reached < 0.1 else f"{len(followed)} steps"
    return f"Momentum: charges fall by {factor:g} a step through {decades}{', and not beyond' if left else ''}"


def _of_decay(rest: np.ndarray) -> str:
    worst = float(rest.max())
    held = "follow their recursion to" if worst < ROUNDED else "leave their recursion by"
    return f"Weight decay: laws {held} {worst:.0e}"


def _of_depth(orders: Mapping[str, float], field: Mapping[str, np.ndarray]) -> str:
    """Whether the drift is what the march in depth makes of it."""
    if all(abs(order - ORDERS[name]) < NEAR for name, order in orders.items()):
        return "Depth: the field keeps a law, but for the error of its grid"
    finest = max(float(drift[-1]) for drift in field.values())
    found = " and ".join(f"{order + 0.0:.1f}" for order in np.round(list(orders.values()), 1))
    return f"Depth: the field's law drifts by {finest:.0e} on the finest grid, with orders {found}"


@style.styled
def figure_observed(
    arrays: Mapping[str, np.ndarray], coordinates: Mapping[str, np.ndarray], summary: Mapping[str, Any], name: str
) -> Figure:
    """The laws of one run over training, and their drift with what is left of it.

    Left: every law over the sum of absolute values of its terms. Right: drift at the snapshots; running sums of what is
    left of each step's change.
    """
    figure = style.new_figure(10.5, 4.4)
    left, right = figure.subplots(1, 2)
    t, values, scale = coordinates["t"], arrays["conservation_value"], arrays["conservation_scale"]
    shown = np.divide(values, scale, out=np.zeros_like(values), where=scale > 0)
    chosen = np.unique(np.linspace(0, values.shape[1] - 1, min(values.shape[1], 60)).round().astype(int))
    site = arrays["conservation_site"]
    sites = np.unique(site)
    for law in chosen:
        place = float(np.searchsorted(sites, site[law])) / max(1, len(sites) - 1)
        left.plot(t, shown[:, law], color=_shade(place), linewidth=0.9, alpha=0.8)
    left.set_xlabel(style.T_LABEL)
    left.set_ylabel("law $D$, relative to its terms")
    many = f" ({len(chosen)} of them)" if len(chosen) < values.shape[1] else ""
    left.set_title(f"{values.shape[1]} conserved numbers{many}, dark: early layers")
    steps = coordinates["step"]
    per_step = float(t[-1]) / max(1, len(steps))
    right.semilogy(
        t, style.positive(arrays["conservation_drift"]), color=style.ORDER_COLORS[0], label="drift of the laws"
    )
    rest = np.cumsum(arrays["conservation_rest"])
    momentum, sgd = summary["dynamics"] in ("heavy-ball", "leapfrog"), summary["dynamics"] == "sgd"
    word = "charges less their decay" if momentum else "less the exact increments" if sgd else "changes of all steps"
    right.semilogy((steps + 1) * per_step, style.positive(rest), color=style.DARK, label=f"{word}, sum of all steps")
    right.set_xlabel(style.T_LABEL)
    right.set_ylabel("relative to the law's own terms")
    right.legend()
    drift, left_over = float(arrays["conservation_drift"][-1]), float(rest[-1])
    if momentum:
        message = f"laws drift by {style.fraction(drift)}, as they may; charges miss their decay by {left_over:.0e}"
    elif sgd:
        message = f"laws drift by {style.fraction(drift)}; less each step's exact increment, {left_over:.0e} is left"
    else:
        message = f"along the flow, laws drift by {drift:.1e}"
    figure.suptitle(f"{style.literal(name)}\n{message}")
    return figure


def _shade(place: float) -> tuple[float, float, float]:
    """Dark blue to light blue."""
    low, high = np.array([0.03, 0.19, 0.42]), np.array([0.55, 0.75, 0.90])
    r, g, b = low + (high - low) * place
    return float(r), float(g), float(b)
