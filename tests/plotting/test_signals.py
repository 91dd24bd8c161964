"""Figures of the signals study: what they draw and say."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.plotting.signals import LONGEST, figure_local, figure_phases, figure_rates
from bbdfield.plotting.style import save

WEIGHTS, BIASES = np.linspace(0.5, 4, 8), np.linspace(0, 0.2, 5)
TABLE = [
    {"weight": 1.0, "bias": 0.05, "c": 1.0, "xi_c": 3.627},
    {"weight": 1.76, "bias": 0.05, "c": 1.0, "xi_c": None},
]
LINE = np.array([[0.0, 1.0], [0.2, 2.3]])


def phases(xi):
    curves = np.linspace(0.5, 1, 7) * np.ones((2, 1))
    return figure_phases(WEIGHTS, BIASES, xi, LINE, TABLE, 120, curves + 0.03, 0 * curves, curves)


def test_phases_show_the_line_the_table_and_both_phases(tmp_path):
    figure = phases(np.full((5, 8), 5.0) + np.arange(8))
    left, right = figure.axes[:2]
    words = [text.get_text() for text in left.texts]
    assert "3.63" in words and "$\\infty$" in words and "ordered" in words and "chaotic" in words
    np.testing.assert_allclose(left.lines[0].get_xydata(), LINE[:, ::-1])
    np.testing.assert_allclose(right.lines[1].get_ydata(), np.linspace(0.5, 1, 7))
    assert "at width 120 follow the maps to 0.03" in figure.get_suptitle()
    assert save(figure, tmp_path / "a.png").stat().st_size > 10_000


def test_infinite_depth_scales_and_missing_fixed_points():
    xi = np.full((5, 8), 2.0)
    xi[2, 3], xi[0, 0] = np.inf, np.nan
    shown = phases(xi).axes[0].collections[0].get_array()
    assert float(shown.max()) == LONGEST and np.ma.is_masked(shown)
    with pytest.raises(InputError, match="no variances have a fixed point"):
        phases(np.full((5, 8), np.nan))


def rates(last):
    t = np.arange(3.0)
    leading = np.array([[1.0, 1.2], [1.5, 1.7], [last, last]])
    one = {"leading": leading, "inputs": leading / 4, "random": np.zeros((3, 2))}
    return t, {"lattice": one, "field": {name: values + 0.01 for name, values in one.items()}}


@pytest.mark.parametrize(("last", "words"), [(2.0, "grows faster"), (0.4, "more slowly"), (1.1, "as before")])
def test_rates_say_what_training_does(last, words):
    figure = figure_rates(*rates(last))
    left, right = figure.axes
    assert words in figure.get_suptitle() and f"{last:.2f} at the end" in figure.get_suptitle()
    np.testing.assert_allclose(left.lines[1].get_ydata(), [1.1, 1.6, last])
    np.testing.assert_allclose(right.lines[0].get_ydata(), 1 / np.array([1.1, 1.6, last]))
    random = [line.get_ydata() for line in right.lines if np.isnan(line.get_ydata()).any()]
    assert len(random) == 1  # the network's, whose rate of zero has no depth scale: a gap, and the axis stays readable
    assert right.get_ylim()[1] < 1e3


def test_local_rates_on_different_grids():
    x = {"lattice": np.array([0.25, 0.75]), "field": np.array([1, 3, 5, 7]) / 8}
    local = {"lattice": np.array([[1.0, 2.0], [1.0, 3.0]]), "field": np.array([[1, 1.1, 2, 2.0], [1, 1, 3, 3.0]])}
    figure = figure_local(np.array([0.0, 5.0]), x, local)
    network, field, difference = (ax.collections[0] for ax in figure.axes[:3])
    assert network.get_clim() == field.get_clim() == (0.0, 3.0)
    expected = [np.interp(x["lattice"], x["field"], row) for row in local["field"]] - local["lattice"]
    np.testing.assert_allclose(difference.get_array(), expected)
    assert "at $x$ = 0.75" in figure.get_suptitle()
    negative = {name: -values for name, values in local.items()}
    assert figure_local(np.array([0.0, 5.0]), x, negative).axes[0].collections[0].get_clim() == (-3.0, 3.0)


def test_what_dies_out_leaves_gaps(tmp_path):
    t, rate = rates(-np.inf)
    figure = figure_rates(t, rate)
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), [1.1, 1.6, np.nan])
    assert "dies out" in figure.get_suptitle()
    assert save(figure, tmp_path / "a.png").stat().st_size > 10_000
    x = {name: np.array([0.25, 0.75]) for name in ("lattice", "field")}
    local = {name: np.array([[1.0, 2.0], [3.0, -np.inf]]) for name in x}
    figure = figure_local(np.array([0.0, 5.0]), x, local)
    assert figure.axes[0].collections[0].get_clim() == (0.0, 3.0)
    assert "fastest at $x$ = 0.25" in figure.get_suptitle() and figure.get_suptitle().endswith("at most 0 off")
    local = {name: np.full((2, 2), -np.inf) for name in x}
    figure = figure_local(np.array([0.0, 5.0]), x, local)
    assert "dies out" in figure.get_suptitle()
    assert save(figure, tmp_path / "b.png").stat().st_size > 5_000
