"""Figures of sweeps: means and bars, slopes, cells that failed, titles and legends that fit."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bbdfield.errors import InputError
from bbdfield.plotting import style
from bbdfield.plotting.sweep import Curve, Map, draw_map, figure_curves, figure_heat, label, plain, wrapped

SPACINGS = [0.25, 0.125, 0.0625]


def curve(order: int = 1, rest: str = "", seeds: int = 3, **changes: object) -> Curve:
    """Errors a_x^(order+1) with a factor of 2 per seed."""
    values = [[2.0**seed * h ** (order + 1) for seed in range(seeds)] for h in SPACINGS]
    given = {"slope": order + 1.0, "expected": order + 1, "order": order}
    return Curve(f"order {order}", rest, SPACINGS, values, **{**given, **changes})  # type: ignore[arg-type]


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [
        text.get_text()
        for legend in (*figure.legends, *(ax.get_legend() for ax in figure.axes))
        if legend
        for text in legend.get_texts()
    ]


def test_points_are_geometric_means_with_bars_over_seeds():
    figure = figure_curves({"error.z": [curve(seeds=3)]}, "a_x", title="t")
    (ax,) = figure.axes
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    points = ax.containers[0].lines[0].get_xydata()
    np.testing.assert_allclose(points, [[h, 2 * h**2] for h in SPACINGS])  # the middle one of 1, 2, 4
    bars = np.sort([segment[:, 1] for segment in ax.containers[0].lines[2][0].get_segments()], axis=0)
    np.testing.assert_allclose(bars, np.sort([[h**2, 4 * h**2] for h in SPACINGS], axis=0))
    assert ax.get_xlabel() == r"lattice spacing $a_x / L_x$" and r"$\hat{z}$" in ax.get_ylabel()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1/4", "1/8", "1/16"][::-1]
    assert "order 1: slope 2.00" in texts(figure) and "smallest to largest of 3 seeds" in texts(figure)


def test_the_fit_passes_through_the_means():
    (ax,) = figure_curves({"error.z": [curve(order=0)]}, "a_x").axes
    fit = ax.lines[-1]
    x, y = fit.get_xdata(), fit.get_ydata()
    assert np.log(y[1] / y[0]) / np.log(x[1] / x[0]) == pytest.approx(1.0)
    assert np.exp(np.interp(np.log(0.125), np.log(x), np.log(y))) == pytest.approx(2 * 0.125)
    assert ax.texts[0].get_text() == "1"  # the triangle


def test_slopes_of_one_order_are_a_range():
    curves = [curve(rest="weight = 1", slope=1.9), curve(rest="weight = 2", slope=2.04), curve(order=0)]
    found = texts(figure_curves({"error.z": curves}, "a_x"))
    assert {"order 1: slope 1.90 to 2.04", "order 0: slope 1.00", "weight = 1", "weight = 2"} <= set(found)


def test_a_score_that_is_not_positive_has_a_linear_axis():
    flat = Curve("", "", [1.0, 2.0], [[-1.0, 1.0], [2.0, 4.0]])
    (ax,) = figure_curves({"s": [flat]}, "initial.weight").axes
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "linear")
    np.testing.assert_allclose(ax.containers[0].lines[0].get_ydata(), [0, 3])
    assert ax.get_xlabel() == "initial.weight"


def test_places_may_have_names():
    named = Curve("a = $x$", "", [0, 1], [[1.0], [2.0]])
    (ax,) = figure_curves({"s": [named]}, "lattice.activation", ticks=["tanh", "$relu$"]).axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["tanh", r"\$relu\$"]


def test_what_failed_everywhere_is_left_out():
    holes = Curve("", "", [1.0, 2.0, 3.0], [[1.0], [], [3.0]])
    (ax,) = figure_curves({"s": [holes]}, "k").axes
    np.testing.assert_allclose(ax.containers[0].lines[0].get_xdata(), [1, 3])
    with pytest.raises(InputError, match="no scores"):
        figure_curves({"s": [Curve("", "", [1.0], [[]])]}, "k")


def test_legends_and_titles_fit():
    curves = [curve(rest=f"setting = {number}" + "x" * 100, slope=None) for number in range(30)]
    figure = figure_curves({"error.z": curves}, "a_x", title="A title of many words. " * 20)
    assert "and 18 more" in texts(figure)
    width = figure.get_window_extent().width
    for artist in (*figure.legends, figure._suptitle):  # type: ignore[attr-defined]
        box = artist.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= width
    assert max(map(len, texts(figure))) <= 48


def test_wrapped_keeps_formulas_whole():
    assert wrapped("a $x + y$ b", 0.3) == "a\n$x + y$\nb"
    assert wrapped("short\nlines", 10) == "short\nlines"
    assert wrapped(r"costs 5 \$ and more \$", 100) == r"costs 5 \$ and more \$"


def test_labels_of_keys_hold_no_formulas():
    assert plain("$x$" + "y" * 100).startswith(r"\$x\$y") and len(plain("y" * 100)) == 48
    assert label("max_error.b") == r"largest error of $\hat{b}$" and label("a.$") == r"a.\$"


MAP = Map(
    "order 1",
    np.array([[0.01, np.nan, 1.0], [0.1, np.nan, 0.5]]),
    np.array([[2, 0, 1], [2, 0, 2]]),
    np.array([[2, 2, 2], [2, 0, 2]]),
)


def test_cells_tell_value_failure_and_absence():
    figure = style.new_figure(4, 3)
    ax = figure.subplots()
    draw_map(ax, MAP, LogNorm(0.01, 1.0))
    assert [text.get_text() for text in ax.texts] == ["0.01", "1\n1/2", "0.1", "0.5"]
    (failed,) = [patch for patch in ax.patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    assert failed.get_xy() == (0.5, -0.5)  # planned and not finished; the cell above it was not planned


def test_a_map_has_one_scale_per_score():
    figure = figure_heat(
        {"error.z": [MAP, MAP], "s": [MAP, MAP]}, ("a_x", ["1/4", "1/8", "1/16"]), ("k", ["a", "b"]), title="t"
    )
    figure.draw_without_rendering()
    assert len(figure.axes) == 6 and "failed" in texts(figure)
    assert figure.axes[0].get_title() == "order 1"
    assert isinstance(figure.axes[0].images[0].norm, LogNorm)
    assert [tick.get_text() for tick in figure.axes[2].get_xticklabels()] == ["1/4", "1/8", "1/16"]


def test_equal_values_and_signed_ones_have_linear_colours():
    for values in (np.full((2, 3), 0.5), np.array([[-1.0, 0, 1], [2, 3, 4]]), np.zeros((2, 3))):
        cells = Map("", values, np.ones((2, 3)), np.ones((2, 3)))
        figure = figure_heat({"s": [cells]}, ("x", list("abc")), ("y", list("de")))
        figure.draw_without_rendering()
        norm = figure.axes[0].images[0].norm
        assert type(norm) is Normalize and norm.vmin < norm.vmax
    with pytest.raises(InputError, match="no scores"):
        figure_heat(
            {"s": [Map("", np.full((1, 1), np.nan), np.zeros((1, 1)), np.ones((1, 1)))]}, ("x", ["a"]), ("y", ["b"])
        )
