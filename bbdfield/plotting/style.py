"""One look for every figure: fonts, colours, scales, and how a figure is saved.

Figures are made through Matplotlib's object interface with an Agg canvas, never through pyplot, so that drawing leaves
no state behind and needs no display.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bbdfield._text import visible
from bbdfield.errors import InputError
from bbdfield.files import write_bytes
from bbdfield.plotting.records import metadata

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

DPI = 150
#: signed fields, differences of fields (another map, because it is another scale), positive quantities
SIGNED, DIFFERENCE, POSITIVE = "RdBu_r", "PuOr_r", "viridis"
#: colours that colour-blind readers can tell apart (Okabe and Ito)
ORDER_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")
GREY, DARK = "#8c8c8c", "#222222"
#: as they stand in axis labels and titles
SYMBOLS = {"z": r"$\hat{z}$", "w": r"$\hat{w}$", "b": r"$\hat{b}$", "loss": "the loss"}
X_LABEL, Y_LABEL, U_LABEL, T_LABEL = "depth $x / L_x$", "width $y / L_y$", "tap $u / L_y$", "training time $t$"

_RC: dict[Any, Any] = {
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "mathtext.fontset": "dejavusans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "figure.titlesize": 12.5,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.use_mathtext": True,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "bbdfield",
    "image.cmap": POSITIVE,
}
SUFFIXES = ("png", "pdf", "svg")


def styled(draw: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Run a drawing function under the project's style, whatever the user's own Matplotlib settings are."""

    @functools.wraps(draw)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with matplotlib.rc_context(_RC):
            return draw(*args, **kwargs)

    return wrapper


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (inches) that arranges itself, on an Agg canvas."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@styled
def save(figure: Figure, path: str | Path, record: Mapping[str, Any] | None = None) -> Path:
    """Write a figure as .png (150 dpi), .pdf or .svg; equal figures of equal records give equal bytes.

    Parameters
    ----------
    record : where the figure comes from (default: what `records.recorded` around the call says); it goes into the file,
        and nothing else does that would tell when or by which version the figure was drawn.

    Raises
    ------
    InputError
        for another suffix, or a path that cannot be written; what was there is then still there.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in SUFFIXES:
        raise InputError(f"{path}: a figure is written as .png, .pdf or .svg; choose one of these suffixes")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata(kind, record))
    write_bytes(path, buffer.getvalue())
    return path


def literal(text: str, longest: int = 60) -> str:
    """A name of the user's own as part of a label: cut, without control characters, and never a formula."""
    return visible(text, keep="", longest=longest).replace("$", r"\$")


def symmetric_limit(*arrays: np.ndarray) -> float:
    """v of the scale [-v, v] that holds all finite values of the arrays; 1 if they are all zero."""
    largest = max((float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) for a in arrays), default=0.0)
    return largest if largest > 0 else 1.0


def rung_colors(count: int) -> list[str]:
    """Greys of a ladder of networks, coarse (light) to fine (dark); colours are for the orders of the field."""
    return [str(round(float(shade), 3)) for shade in (np.linspace(0.82, 0.35, count) if count > 1 else [0.35])]


def order_color(order: int) -> str:
    return ORDER_COLORS[order % len(ORDER_COLORS)]


def positive(values: np.ndarray) -> np.ndarray:
    """Values for a logarithmic axis: what is zero, negative or not finite becomes NaN, a gap in the line."""
    values = np.asarray(values, float)
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def fraction(value: float) -> str:
    """A relative error in words: 0.0123 -> "1.2 %"."""
    percent = 100 * value
    if not np.isfinite(percent):
        return "not finite"
    return f"{percent:.0f} %" if percent >= 10 else f"{float(f'{percent:.1e}'):.6f}".rstrip("0").rstrip(".") + " %"
