"""Error against lattice spacing, with fitted orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bbdfield.errors import InputError
from bbdfield.plotting import style

QUANTITIES = ("z", "w", "b", "loss")


class FittedOrder(Protocol):
    """The slope of log error against log spacing, with a confidence interval (see `bbdfield.comparison.orders.Fit`)."""

    @property
    def order(self) -> float: ...
    @property
    def ci(self) -> tuple[float, float] | None: ...


Errors = Mapping[int, Mapping[str, Sequence[float] | np.ndarray]]
Fits = Mapping[int, Mapping[str, FittedOrder]]


def draw_convergence(
    ax: Axes,
    spacings: Sequence[float] | np.ndarray,
    quantity: str,
    errors: Errors,
    fits: Fits,
    *,
    spacing_name: str = "a_x",
    grid_errors: Errors | None = None,
) -> None:
    """Errors of one quantity on logarithmic axes: points, fitted lines with slopes in the legend, reference triangles.

    Grey crosses are the error of the field solver's own grid: a point near them measures the solver, not the theory.
    """
    h = np.asarray(spacings, float)
    ax.set_xscale("log")
    ax.set_yscale("log")
    for order, by_quantity in sorted(errors.items()):
        color = style.order_color(order)
        error = style.positive(np.asarray(by_quantity[quantity], float))
        fit = fits.get(order, {}).get(quantity)
        label = f"order {order}" if fit is None else f"order {order}: slope {_slope(fit)}"
        ax.plot(h, error, "o", color=color, markersize=5, label=label)
        if fit is not None:
            ends = np.array([h.min(), h.max()])
            middle = np.exp(np.nanmean(np.log([h, error]), axis=1))  # a least-squares line passes through the mean
            ax.plot(ends, middle[1] * (ends / middle[0]) ** fit.order, color=color, linewidth=1.4)
        expected = order + 1 if spacing_name == "a_x" else 2
        if h.size > 1 and np.isfinite(error).all():
            triangle(ax, h, error, expected, color)
    for i, (_, by_quantity) in enumerate(sorted((grid_errors or {}).items())):
        floor = style.positive(np.asarray(by_quantity[quantity], float))
        ax.plot(
            h,
            floor,
            "x-",
            color=style.GREY,
            linewidth=0.8,
            markersize=4,
            label=None if i else "solver's grid",
        )
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(h, [tick(value) for value in h])
    ax.set_xlim(h.min() / 1.4, h.max() * 1.4)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.3)  # room for the legend above the lines
    axis = spacing_name.removeprefix("a_")
    ax.set_xlabel(f"lattice spacing $a_{axis} / L_{axis}$")
    ax.set_ylabel(f"relative error of {style.SYMBOLS[quantity]}")
    ax.legend(loc="upper left", handletextpad=0.3)


@style.styled
def figure_convergence(
    spacings: Sequence[float] | np.ndarray,
    errors: Errors,
    fits: Fits | None = None,
    *,
    spacing_name: str = "a_x",
    grid_errors: Errors | None = None,
) -> Figure:
    """Errors of ẑ, ŵ, b̂ and the loss against the lattice spacing, one panel each.

    Parameters
    ----------
    spacings : (rungs,) a_x / L_x or a_y / L_y.
    errors : order -> quantity -> (rungs,) relative errors.
    fits : order -> quantity -> fitted order.
    spacing_name : "a_x" or "a_y".
    grid_errors : like errors, what refining the field solver's grid changes.

    Raises
    ------
    InputError
        without errors, or when their number is not that of the spacings.
    """
    if not errors:
        raise InputError("there are no errors to draw against the spacing")
    fits = fits or {}
    count = np.size(spacings)
    for order, by_quantity in errors.items():
        for quantity, values in by_quantity.items():
            if np.size(values) != count:
                raise InputError(f"errors of {quantity}, order {order}: {np.size(values)} values for {count} spacings")
    figure = style.new_figure(9.6, 7.4)
    axes = figure.subplots(2, 2)
    for ax, quantity in zip(axes.ravel(), QUANTITIES, strict=True):
        draw_convergence(ax, spacings, quantity, errors, fits, spacing_name=spacing_name, grid_errors=grid_errors)
    for ax in axes[0]:
        ax.set_xlabel("")
    figure.suptitle(_message(fits, spacing_name))
    return figure


def _message(fits: Fits, spacing_name: str) -> str:
    symbol = f"{spacing_name[0]}_{spacing_name[2]}"
    slopes = [(order, fit["z"].order) for order, fit in sorted(fits.items()) if "z" in fit]
    powers = [f"${symbol}^{{{slope:.2f}}}$ at order {order}" for order, slope in slopes]
    if not powers:
        return f"Error of the field theory against the lattice spacing ${symbol}$"
    return f"The error of {style.SYMBOLS['z']} scales as {' and as '.join(powers)}"


def _slope(fit: FittedOrder) -> str:
    if fit.ci is None:
        return f"{fit.order:.2f}"
    return f"{fit.order:.2f} [{fit.ci[0]:.2f}, {fit.ci[1]:.2f}]".replace("-", "−")


def tick(value: float) -> str:
    """1/16 rather than 0.0625, where it is one."""
    inverse = round(1 / value)
    return f"1/{inverse}" if abs(inverse * value - 1) < 1e-9 else f"{value:.3g}"


def triangle(ax: Axes, h: np.ndarray, error: np.ndarray, slope: int, color: str) -> None:
    """A reference triangle of this slope below the fine end of a line of errors."""
    arrange = np.argsort(h)
    h, error = h[arrange], error[arrange]
    left = h[0] * (h[1] / h[0]) ** 0.3
    right = left * (h[1] / h[0]) ** 0.6
    top = float(np.exp(np.interp(np.log(right), np.log(h), np.log(error)))) / 1.7
    bottom = top * (left / right) ** slope
    ax.fill([left, right, right], [bottom, bottom, top], facecolor="none", edgecolor=color, linewidth=0.9, alpha=0.8)
    middle = (right, float(np.sqrt(bottom * top)))
    ax.annotate(str(slope), middle, (3, 0), textcoords="offset points", va="center", color=color, fontsize=8.5)
