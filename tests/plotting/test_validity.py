"""Figures of the validity study: what they mark, say and refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from bbdfield.errors import InputError
from bbdfield.plotting import style
from bbdfield.plotting.validity import (
    draw_map,
    figure_closure,
    figure_error,
    figure_fields,
    figure_map,
    mean_and_error,
)

RATIOS, WINDOWS = np.array([0.0, 1.0, 4.0]), np.array([0.0, 2.0])


def values(*means: float) -> np.ndarray:
    """(ratio, window, 3 seeds) with these means, row by row."""
    return np.array(means).reshape(3, 2, 1) * np.array([0.5, 1.0, 1.5])


def drawn(figure: Figure) -> str:
    figure.draw_without_rendering()
    return figure.get_suptitle()


def test_mean_and_error_are_over_seeds():
    mean, error = mean_and_error(values(1, 2, 3, 4, 5, 6))
    np.testing.assert_allclose(mean, [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_allclose(error, mean * 0.5 / np.sqrt(3))
    assert not mean_and_error(values(1, 2, 3, 4, 5, 6)[..., :1])[1].any()


def test_the_map_marks_where_the_field_is_no_better():
    figure = style.new_figure(4, 3)
    ax = figure.subplots()
    draw_map(ax, RATIOS, WINDOWS, values(0.5, 2.0, 0.1, 1.0, 0.01, 0.2))
    assert [text.get_text().split("\n")[0] for text in ax.texts] == ["0.5", "2", "0.1", "1", "0.01", "0.2"]
    assert [text.get_weight() for text in ax.texts] == ["normal", "bold", "normal", "bold", "normal", "normal"]
    strokes = [(line.get_xdata()[0] + 0.46, line.get_ydata()[0]) for line in ax.lines if line.get_linewidth() == 0.6]
    assert len(strokes) == 3  # 2 ± 0.58: two; 1 ± 0.29: one
    edges = {
        (tuple(line.get_xdata()), tuple(line.get_ydata())) for line in ax.lines if line.get_linewidth() == 2.5
    }  # around the cells (0, 1) and (1, 1)
    assert edges == {((-0.5, 0.5), (0.5, 0.5)), ((0.5, 1.5), (0.5, 0.5)), ((1.5, 1.5), (0.5, 1.5))}


def test_titles_say_what_the_numbers_say():
    bad = {"z": values(0.5, 2.0, 0.1, 1.0, 0.01, 0.2)}
    title = drawn(figure_map(RATIOS, WINDOWS, bad))
    assert "no better than “nothing moves” at 2 of 6 points" in title
    assert r"$\ell/a \leq$ 1 and windows of at least 2 layers" in title
    assert "everywhere" in drawn(figure_map(RATIOS, WINDOWS, {"z": 0.1 * bad["z"]}))
    by_order = {0: values(1, 0, 1, 0, 1, 0)[:, 0], 1: values(0.5, 0, 0.1, 0, 0.02, 0)[:, 0]}
    error = figure_error(RATIOS, WINDOWS, dict.fromkeys(("z", "w", "loss"), bad["z"]), by_order, np.full(3, np.nan))
    assert "by 50 at $\\ell/a$ = 4, and by 2 at $\\ell/a$ = 0" in drawn(error)
    residual = values(0.5, 0.4, 0.1, 0.2, 0.01, 0.02)
    closure = figure_closure(RATIOS, WINDOWS, residual, np.full((3, 3, 5), 0.1), residual**2)
    assert drawn(closure).endswith("correlate with 1.00")


def test_what_was_not_measured_leaves_gaps():
    missing = values(0.5, np.nan, 0.1, np.nan, 0.0, 0.2)
    with np.errstate(all="raise"):
        assert "at 0 of" not in drawn(figure_map(RATIOS, WINDOWS, {"z": missing, "w": np.full((3, 2, 1), np.nan)}))
        three = dict.fromkeys(("z", "w", "loss"), missing)
        drawn(figure_error(RATIOS, WINDOWS, three, {1: missing[:, 0]}, np.array([0.1, np.nan, 0.0])))
        drawn(figure_closure(RATIOS, WINDOWS, np.zeros((3, 2, 3)), np.zeros((3, 3, 5)), missing))


def picture(**changes: Any) -> dict[str, Any]:
    z = np.outer(np.linspace(1, 2, 9), np.ones(6))
    given = {"ratio": 2.0, "window": 1.0, "reach": 0.1, "w": np.ones((8, 3)), "w_average": np.ones((4, 3))}
    return given | {"z": z, "z_field": 1.1 * z[::2]} | changes


def test_the_picture_s_title_gives_the_difference():
    assert r"differs by 10 % at $\ell/a$ = 2" in drawn(figure_fields([picture()]))
    assert r"differs by 0 % at $\ell/a$ = 2" in drawn(figure_fields([picture(z_field=picture()["z"][::2])]))


def test_nothing_to_draw_is_refused():
    with pytest.raises(InputError, match="no map to draw"):
        figure_map(RATIOS, WINDOWS, {})
    with pytest.raises(InputError, match="no fields to draw"):
        figure_fields([])
