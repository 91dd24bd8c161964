"""Figures of conservation laws: their drift in training, what is left of it, charges under momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from bbdfield.plotting import style

#: system -> title, colour
LOOKS = {
    "convolutional": ("convolutional relu network", style.ORDER_COLORS[1]),
    "dense": ("dense relu network", style.ORDER_COLORS[0]),
}
#: below this, relative numbers are rounding
ROUNDING = float(np.finfo(float).eps)


@style.styled
def figure_laws(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], slope: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> Figure:
    """Drift of the laws over training and what is left after subtraction; the drift against the learning rate.

    Parameters
    ----------
    curves : system -> (step, drift, rest).   slope : system -> (factor of the rates, drift).
    """
    figure = style.new_figure(12.0, 4.4)
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 0.9])
    for ax, (name, (step, drift, rest)) in zip(axes, curves.items(), strict=False):
        title, color = LOOKS[name]
        ax.semilogy(step, style.positive(drift), color=color, label="drift of the laws, $|D - D(0)|$")
        ax.semilogy(step, style.positive(rest), color=style.DARK, label="less the exact increment of every step")
        ax.axhline(ROUNDING, color=style.GREY, linestyle=":", linewidth=1)
        ax.text(step[-1], ROUNDING / 1.6, "rounding of one number", ha="right", va="top", color=style.GREY, fontsize=8)
        ax.set_title(title)
        ax.set_xlabel("training step")
        ax.set_ylim(1e-17, max(1.0, 3 * float(np.nanmax(drift))))
        _decades(ax)
    axes[0].set_ylabel("relative to the law's own terms")
    axes[0].legend(loc="center right")
    axes[1].legend(loc="center right")
    right = axes[2]
    for name, (factor, drift) in slope.items():
        title, color = LOOKS[name]
        order = np.polyfit(np.log(factor), np.log(drift), 1)[0]
        right.loglog(factor, drift, "o-", color=color, markersize=4, label=f"{name}: slope {order:.2f}")
    factor, drift = next(iter(slope.values()))
    guide = 0.25 * float(drift[-1]) * (factor / factor[-1]) ** 2
    right.loglog(factor, guide, color=style.GREY, linestyle="--", linewidth=1, label="slope 2")
    right.set_xlabel("learning rate (fraction of the trained one)")
    right.set_ylabel("drift after a fixed number of steps")
    right.set_title("the drift falls as the square of the rate")
    right.legend()
    most = max(float(drift.max()) for _, drift, _ in curves.values())
    left = max(float(rest.max()) for _, _, rest in curves.values())
    figure.suptitle(
        f"Steps of training break the laws by their squares and by nothing else: they drift by up to"
        f" {style.fraction(most)}, of which all but {left:.0e} is accounted for"
    )
    return figure


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
    for (name, drift), color in zip(field.items(), style.ORDER_COLORS, strict=False):
        order = -np.polyfit(np.log(cells), np.log(drift), 1)[0]
        right.loglog(cells, drift, "o-", color=color, markersize=4, label=f"{name}: order {order:.2f}")
    right.set_xticks(cells, [str(n) for n in cells])
    right.minorticks_off()
    right.set_xlabel("cells $n_x$ in depth")
    right.set_ylabel("drift of the law along the flow")
    right.set_title("linear residual field")
    right.legend()
    followed = expected[np.abs(momentum["charge"] / np.maximum(expected, 1e-300) - 1) < 0.1]
    decades = int(-np.log10(followed.min())) if followed.size else 0
    rest = float(weight_decay["rest"].max())
    figure.suptitle(
        f"Momentum: charges fall by {factor:g} a step through {decades} decades. Weight decay: laws follow their"
        f" recursion to {rest:.0e}. Depth: the field keeps a law"
    )
    return figure


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
        message = f"laws drift by {style.fraction(drift)}, as they may; charges decay as they must, to {left_over:.0e}"
    elif sgd:
        message = f"laws drift by {style.fraction(drift)}; less each step's exact increment, {left_over:.0e} is left"
    else:
        message = f"along the flow, laws drift by {drift:.1e}"
    figure.suptitle(f"{style.literal(name)}: {message}")
    return figure


def _shade(place: float) -> tuple[float, float, float]:
    """Dark blue to light blue."""
    low, high = np.array([0.03, 0.19, 0.42]), np.array([0.55, 0.75, 0.90])
    r, g, b = low + (high - low) * place
    return float(r), float(g), float(b)
