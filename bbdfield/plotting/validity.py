"""Figures of where the field description holds: maps over roughness and window, errors, closure residual, fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from bbdfield.errors import InputError
from bbdfield.plotting import style

#: decades of error / trivial error that the colours of a map span, below and above 1
BELOW, ABOVE = 2.0, 0.5
_RATIO = r"correlation length $\ell / a$ of the initial weights"
_TRIVIAL = "error / “nothing moves”"
_NAMES = {
    "z": r"Pre-activations $\hat{z}$, against the network",
    "w": r"Weights $\hat{w}$, against the network's averages",
    "loss": "Loss, against the network",
}
_MARKERS = "osD^vPX*"


def mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over the last axis, the seeds; the error is 0 for one seed."""
    count = values.shape[-1]
    error = values.std(axis=-1, ddof=1) / np.sqrt(count) if count > 1 else np.zeros(values.shape[:-1])
    return values.mean(axis=-1), error


def draw_map(ax: Axes, ratios: np.ndarray, windows: np.ndarray, values: np.ndarray) -> Any:
    """Mean error / trivial error, (ratio, window, seed), as cells with numbers, strokes and the line at 1.

    Two strokes: no better than the trivial predictor by more than a standard error; one stroke: within one of it.
    """
    mean, error = mean_and_error(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        shade = np.log10(mean).T
    norm = TwoSlopeNorm(0.0, -BELOW, ABOVE)
    image = ax.imshow(
        np.clip(shade, -BELOW, ABOVE), origin="lower", aspect="auto", cmap=style.SIGNED, norm=norm, alpha=0.85
    )
    for i, j in np.ndindex(mean.shape):
        failing = mean[i, j] >= 1
        strokes = sum(bool(mean[i, j] + side * error[i, j] >= 1) for side in (1, -1))  # one: undecided
        for slope in (0.46, -0.46)[:strokes]:
            ax.plot([i - 0.46, i + 0.46], [j - slope, j + slope], color=style.DARK, linewidth=0.6, alpha=0.5)
        text = "–" if not np.isfinite(mean[i, j]) else f"{mean[i, j]:.2g}"
        beneath = "" if values.shape[-1] == 1 or text == "–" else f"\n± {error[i, j]:.1g}"
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
        look["color"] = "black" if not np.isfinite(shade[j, i]) or -1.4 < shade[j, i] < 0.33 else "white"
        ax.text(i, j, text + beneath, weight="bold" if failing else "normal", **look)
    _draw_limit(ax, mean >= 1)
    ax.grid(False)
    ax.set_xticks(range(ratios.size), [_ratio_name(ratio) for ratio in ratios])
    ax.set_yticks(range(windows.size), [f"{window:g}" for window in windows])
    ax.tick_params(length=0)
    ax.set_ylabel("window (layers)")
    return image


@style.styled
def figure_map(ratios: np.ndarray, windows: np.ndarray, trivial: Mapping[str, np.ndarray]) -> Figure:
    """Maps over roughness and window, one panel per quantity.

    Parameters
    ----------
    ratios, windows : ℓ/a, and windows in layers.
    trivial : "z", "w", "loss" -> error relative to the trivial predictor (ratio, window, seed).

    Raises
    ------
    InputError
        without any quantity.
    """
    names = [name for name in _NAMES if name in trivial]
    if not names:
        raise InputError("there is no map to draw")
    figure = style.new_figure(2.6 + 0.92 * ratios.size, 1.3 + len(names) * (0.75 + 0.44 * windows.size))
    axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for ax, name in zip(axes, names, strict=True):
        image = draw_map(ax, ratios, windows, trivial[name])
        ax.set_title(_NAMES[name], loc="left")
    axes[-1].set_xlabel(_RATIO)
    bar = figure.colorbar(image, ax=list(axes), aspect=40, pad=0.02)
    ticks = [0.01, 0.03, 0.1, 0.3, 1, 3]
    bar.set_ticks(np.log10(ticks).tolist(), labels=[f"{tick:g}" for tick in ticks])
    bar.ax.minorticks_off()
    bar.set_label(_TRIVIAL)
    figure.suptitle(_map_message(ratios, windows, trivial[names[0]], names[0]))
    return figure


@style.styled
def figure_error(
    ratios: np.ndarray,
    windows: np.ndarray,
    trivial: Mapping[str, np.ndarray],
    by_order: Mapping[int, np.ndarray],
    grid_change: np.ndarray,
) -> Figure:
    """Error relative to the trivial predictor against the roughness, with error bars.

    Parameters
    ----------
    trivial : "z", "w", "loss" -> (ratio, window, seed).
    by_order : order -> the same of ẑ with the smallest window (ratio, seed).
    grid_change : of ẑ on a finer grid, relative to its movement (ratio,); NaN where it was not checked.
    """
    figure = style.new_figure(10.5, 7.4)
    axes = figure.subplots(2, 2, sharex=True).ravel()
    positions = np.arange(ratios.size)
    colors = _window_colors(windows.size)
    for ax, name in zip(axes, _NAMES, strict=False):
        mean, error = mean_and_error(trivial[name])
        for i, window in enumerate(windows):
            look = {"color": colors[i], "marker": _MARKERS[i % 8], "label": _window(window)}
            _line(ax, positions, mean[:, i], error[:, i], **look)
        ax.set_title(_NAMES[name], loc="left")
    axes[0].legend(loc="best", ncols=2 if windows.size > 3 else 1)
    last = axes[3]
    for order, values in by_order.items():
        mean, error = mean_and_error(values)
        color = style.order_color(order)
        _line(last, positions, mean, error, color=color, marker=_MARKERS[order % 8], label=f"order {order}")
    if np.isfinite(grid_change).any():
        last.plot(positions, style.positive(grid_change), "x", color=style.GREY, label="solver's grid refined")
    last.set_title(rf"Orders of the theory: $\hat{{z}}$, {_window(windows[0])}", loc="left")
    last.legend(loc="best")
    for ax in axes:
        ax.set_yscale("log")
        ax.axhline(1, color=style.DARK, linewidth=1)
        ax.set_xticks(positions, [_ratio_name(ratio) for ratio in ratios])
        ax.yaxis.set_minor_locator(LogLocator(subs=range(2, 10)))
        ax.yaxis.set_minor_formatter(NullFormatter())
    for ax in axes[2:]:
        ax.set_xlabel(_RATIO)
    for ax in axes[::2]:
        ax.set_ylabel(_TRIVIAL)
    figure.suptitle(_order_message(ratios, by_order))
    return figure


@style.styled
def figure_closure(
    ratios: np.ndarray, windows: np.ndarray, closure: np.ndarray, by_depth: np.ndarray, error: np.ndarray
) -> Figure:
    """The closure residual against roughness and depth, and the error of ẑ against the residual.

    Parameters
    ----------
    closure : (ratio, window, seed).
    by_depth : (ratio, seed, cell), with the smallest window.
    error : relative error of ẑ (ratio, window, seed).
    """
    figure = style.new_figure(13.5, 4.4)
    left, middle, right = figure.subplots(1, 3)
    positions, colors = np.arange(ratios.size), _window_colors(windows.size)
    mean, spread = mean_and_error(closure)
    for i, window in enumerate(windows):
        look = {"color": colors[i], "marker": _MARKERS[i % 8]}
        _line(left, positions, mean[:, i], spread[:, i], label=_window(window), **look)
        flat, errors = style.positive(closure[:, i].ravel()), style.positive(error[:, i].ravel())
        right.plot(flat, errors, linestyle="none", markersize=4.5, alpha=0.8, **look)
    _logarithmic(left, closure)
    left.set_xticks(positions, [_ratio_name(ratio) for ratio in ratios])
    left.set_xlabel(_RATIO)
    left.set_ylabel("closure residual, relative")
    left.legend(loc="best")
    depths = (np.arange(by_depth.shape[-1]) + 0.5) / by_depth.shape[-1]
    profiles = style.positive(by_depth.mean(axis=1))
    at = _apart(profiles[:, -1], profiles)
    for i, ratio in enumerate(ratios):
        color = style.ORDER_COLORS[0] if i == 0 else str(round(0.3 + 0.35 * i / ratios.size, 3))
        middle.plot(depths, profiles[i], color=color)
        if np.isfinite(at[i]):
            label = (rf"$\ell/a$ = {ratio:g}", (1.0, at[i]), (3, 0), "data", "offset points")
            middle.annotate(*label, color=color, fontsize=8, va="center")
    middle.set_xlim(0, 1.25)
    middle.set_xticks([0, 0.5, 1])
    _logarithmic(middle, by_depth)
    middle.set_xlabel(style.X_LABEL)
    middle.set_ylabel(f"closure residual, {_window(windows[0])}")
    if np.isfinite(style.positive(closure)).any() and np.isfinite(style.positive(error)).any():
        right.set_xscale("log")
        right.set_yscale("log")
    right.set_xlabel("closure residual, relative")
    right.set_ylabel(r"error of the field's $\hat{z}$, relative")
    figure.suptitle(_closure_message(closure, error))
    return figure


@style.styled
def figure_fields(pictures: Sequence[Mapping[str, Any]]) -> Figure:
    """Rough and smooth weights before and after averaging, beside the pre-activations of network and field.

    Parameters
    ----------
    pictures : for each roughness "ratio", "window" (layers), "reach" (of the kernel in y / L_y), ŵ "w" (M, T) and
        "w_average" (n_x, T), ẑ "z" (M + 1, N) and "z_field" (n_x + 1, N).

    Raises
    ------
    InputError
        without any picture.
    """
    if not pictures:
        raise InputError("there are no fields to draw")
    figure = style.new_figure(14.5, 1.0 + 2.35 * len(pictures))
    axes = figure.subplots(len(pictures), 5, squeeze=False)
    for row, picture in zip(axes, pictures, strict=True):
        reach = picture["reach"]
        limit = style.symmetric_limit(picture["w"], picture["w_average"])
        for ax, values in zip(row[:2], (picture["w"], picture["w_average"]), strict=True):
            extent = (0.0, 1.0, -reach, reach)
            weights = ax.imshow(values.T, extent=extent, vmin=-limit, vmax=limit, **_IMAGE)
            ax.set_ylabel(style.U_LABEL)
        figure.colorbar(weights, ax=row[1], pad=0.02)
        z, z_field = picture["z"], picture["z_field"]
        every = (len(z) - 1) // (len(z_field) - 1)
        wrong = z_field - z[::every]
        limit, fine = style.symmetric_limit(z, z_field), style.symmetric_limit(wrong)
        for ax, values in zip(row[2:], (z, z_field, wrong), strict=True):
            half, most = 0.5 / (len(values) - 1), fine if values is wrong else limit
            look = {**_IMAGE, "cmap": style.DIFFERENCE} if values is wrong else _IMAGE
            states = ax.imshow(values.T, extent=(-half, 1 + half, 0, 1), vmin=-most, vmax=most, **look)
            ax.set_xlim(0, 1)
            ax.set_ylabel(style.Y_LABEL)
            if values is not z:
                figure.colorbar(states, ax=ax, pad=0.02)
        for ax in row:
            ax.grid(False)
            ax.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
        row[0].set_title(rf"$\ell/a$ = {picture['ratio']:g}: $\hat{{w}}$", loc="left")
    for ax, title in zip(
        axes[0][1:],
        (
            r"averages of $\hat{w}$",
            r"$\hat{z}$ of the network",
            r"$\hat{z}$ of the field",
            "difference",
        ),
        strict=True,
    ):
        ax.set_title(title)
    for ax in axes[-1]:
        ax.set_xlabel(style.X_LABEL)
    figure.suptitle(_fields_message(pictures))
    return figure


_IMAGE: dict[str, Any] = {"origin": "lower", "aspect": "auto", "cmap": style.SIGNED, "interpolation": "nearest"}


def _draw_limit(ax: Axes, failing: np.ndarray) -> None:
    """A line along the edges between cells (ratio, window) that fail and cells that do not."""
    look: dict[str, Any] = {"color": style.DARK, "linewidth": 2.5, "solid_capstyle": "round"}
    for i, j in np.argwhere(failing[1:] != failing[:-1]):
        ax.plot([i + 0.5, i + 0.5], [j - 0.5, j + 0.5], **look)
    for i, j in np.argwhere(failing[:, 1:] != failing[:, :-1]):
        ax.plot([i - 0.5, i + 0.5], [j + 0.5, j + 0.5], **look)


def _line(ax: Axes, positions: np.ndarray, mean: np.ndarray, error: np.ndarray, **look: Any) -> None:
    """Mean with error bars; on a logarithmic axis a bar that would reach 0 ends at a tenth of the mean."""
    mean = style.positive(mean)
    bars = np.stack([np.minimum(error, 0.9 * np.nan_to_num(mean)), error])
    ax.errorbar(positions, mean, bars, markersize=5, capsize=2.5, elinewidth=1, **look)


def _apart(places: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Heights of labels on a logarithmic axis, moved down where they would overlap."""
    known = shown[np.isfinite(shown)]
    gap = 0.045 * float(np.ptp(np.log(known))) if known.size else 0.0
    heights, above = np.full(places.shape, np.nan), np.inf
    for i in np.argsort(-np.nan_to_num(places)):
        if np.isfinite(places[i]):
            above = min(np.log(places[i]), above - gap)
            heights[i] = np.exp(above)
    return heights


def _logarithmic(ax: Axes, values: np.ndarray) -> None:
    """A logarithmic vertical axis, where there is something positive to show."""
    if np.isfinite(style.positive(values)).any():
        ax.set_yscale("log")


def _window_colors(count: int) -> list[Any]:
    import matplotlib

    return list(matplotlib.colormaps[style.POSITIVE](np.linspace(0.0, 0.85, count)))


def _ratio_name(ratio: float) -> str:
    return "0\n(independent)" if ratio == 0 else f"{ratio:g}"


def _window(window: float) -> str:
    return "no window" if window == 0 else f"window {window:g}"


# what the figures say, from their numbers


def _map_message(ratios: np.ndarray, windows: np.ndarray, trivial: np.ndarray, name: str) -> str:
    mean = trivial.mean(axis=-1)
    known = np.isfinite(mean)
    failing = np.argwhere(known & (mean >= 1))
    symbol = style.SYMBOLS[name]
    if not failing.size:
        return f"For {symbol} the field beats “nothing moves” everywhere on the map"
    roughest, widest = ratios[failing[:, 0].max()], windows[failing[:, 1].min()]
    least = f" and windows of at least {widest:g} layers" if widest else ""
    return (
        f"For {symbol} the field is no better than “nothing moves” at {len(failing)} of {int(known.sum())} points,\n"
        rf"all of them with $\ell/a \leq$ {roughest:g}{least}"
    )


def _order_message(ratios: np.ndarray, by_order: Mapping[int, np.ndarray]) -> str:
    if len(by_order) < 2:
        return "The rougher the weights and the wider the window, the worse the field"
    low, high = (by_order[order].mean(axis=-1) for order in (min(by_order), max(by_order)))
    gains = low / high
    return (
        f"Order {max(by_order)} divides the error of {style.SYMBOLS['z']} by {gains[-1]:.2g} at $\\ell/a$ ="
        f" {ratios[-1]:g}, and by {gains[0]:.2g} at $\\ell/a$ = {ratios[0]:g}"
    )


def _closure_message(closure: np.ndarray, error: np.ndarray) -> str:
    x, y = closure.ravel(), error.ravel()
    use = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    words = "What averaging does not close"
    if np.count_nonzero(use) < 3 or np.ptp(np.log(x[use])) == 0 or np.ptp(np.log(y[use])) == 0:
        return words
    related = np.corrcoef(np.log(x[use]), np.log(y[use]))[0, 1]
    return f"{words}: log error and log residual correlate with {related:.2f}"


def _fields_message(pictures: Sequence[Mapping[str, Any]]) -> str:
    def error(picture: Mapping[str, Any]) -> str:
        z, field = picture["z"], picture["z_field"]
        z = z[:: (len(z) - 1) // (len(field) - 1)]
        return style.fraction(float(np.linalg.norm(field - z) / np.linalg.norm(z)))

    listed = ", ".join(rf"{error(p)} at $\ell/a$ = {p['ratio']:g}" for p in pictures)
    return rf"With a window of {pictures[0]['window']:g} layers the field's $\hat{{z}}$ differs by {listed}"
