"""Figure of the intrinsic dynamics: depth M, the field solver, and the closed form of infinite depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bbdfield.plotting import style

#: what is on a ladder -> its sizes, label, colour, slope that is expected
_LADDERS = {
    "lattice": ("depths", "lattice of M layers", style.DARK, -1),
    "first_order": ("depths", "that lattice − its order-1 field", style.ORDER_COLORS[1], -2),
    "field": ("cells", "field solver on $n_x$ cells", style.ORDER_COLORS[0], -4),
}
_MARKERS = "os^v"


@style.styled
def figure_intrinsic(
    infinite: Sequence[Mapping[str, Any]], line_t: np.ndarray, lines: np.ndarray, t: np.ndarray, dots: np.ndarray
) -> Figure:
    """Errors against depth or cells; singular values of Z against training time.

    Parameters
    ----------
    infinite : for each ℓ, relaxation, depths, lattice, first_order, cells, field, depth_slope.
    line_t, lines : times and Z (times, n, n) of the closed form.   t, dots : the same of the field solver, for one ℓ.
    """
    figure = style.new_figure(10.5, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    for key, (sizes, label, color, slope) in _LADDERS.items():
        for row, marker in zip(infinite, _MARKERS, strict=False):
            errors = style.positive(np.asarray(row[key], float))
            left.plot(row[sizes], errors, marker, color=color, markersize=6, markerfacecolor="white")
        _guide(left, np.asarray(infinite[0][sizes], float), infinite[0][key], slope, color)
        left.plot([], [], "o", color=color, label=label)
    for row, marker in zip(infinite, _MARKERS, strict=False):
        name = f"$\\ell$ = {row['relaxation']:g}"
        left.plot([], [], marker, color=style.GREY, markersize=6, markerfacecolor="white", label=name)
    left.set_xscale("log", base=2)
    left.set_yscale("log")
    left.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.set_xlabel("layers $M$, or cells $n_x$ of the depth")
    left.set_ylabel("largest relative error of $Z$ in training")

    values, found = (np.linalg.svd(maps, compute_uv=False) for maps in (lines, dots))
    right.plot(line_t, values, color=style.GREY, linewidth=1.2)
    right.plot(t, found, "o", color=style.ORDER_COLORS[0], markersize=4, markerfacecolor="white")
    right.plot([], [], color=style.GREY, label="closed form of infinite depth")
    right.plot([], [], "o", color=style.ORDER_COLORS[0], markersize=4, markerfacecolor="white", label="field solver")
    right.set_ylim(bottom=0)
    right.set_xlabel(style.T_LABEL)
    right.set_ylabel(f"singular values of $Z$, $\\ell$ = {infinite[-1]['relaxation']:g}")
    handles, labels = (a + b for a, b in zip(*(ax.get_legend_handles_labels() for ax in (left, right)), strict=True))
    figure.legend(handles, labels, loc="outside lower center", ncols=4)

    worst = max((row["depth_slope"] for row in infinite), key=lambda slope: abs(slope + 1))
    reached = max(row["field"][-1] for row in infinite)
    come = "reach the flow of infinite depth as" if worst < -0.5 else "do not come to the flow of infinite depth:"
    figure.suptitle(
        f"Linear residual networks {come} $M^{{{worst:.2f}}}$; the field solver is {_power(reached)} away from it"
    )
    return figure


def _power(value: float) -> str:
    """2.5e-09 as 2.5·10⁻⁹ in a formula."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"${mantissa}\\cdot 10^{{{int(exponent)}}}$"


def _guide(ax: Axes, sizes: np.ndarray, errors: Sequence[float], slope: int, color: str) -> None:
    """A line of the expected slope through the middle of the ladder, named at its fine end."""
    middle = len(sizes) // 2
    line = errors[middle] * (sizes / sizes[middle]) ** slope
    ax.plot(sizes, line, color=color, linewidth=1)
    end = (sizes[-1], line[-1])
    ax.annotate(f"slope {slope}".replace("-", "−"), end, (7, 4), textcoords="offset points", color=color)
