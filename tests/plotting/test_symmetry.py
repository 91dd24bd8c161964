"""Figures of the symmetry study: what they draw and say, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.plotting.style import save
from bbdfield.plotting.symmetry import figure_breaking, figure_layers, figure_shift, figure_training

SIZES = np.array([1e-3, 1e-2, 0.1, 1.0])
SPREADS = {"mu": SIZES, "skip": 0.5 * SIZES}


def title(figure):
    return figure.get_suptitle()


def test_breaking_shows_every_kind_a_guide_and_the_level_of_repeating_layers(tmp_path):
    figure = figure_breaking(SIZES, SPREADS, {"mu": 1.0, "skip": 0.994}, 0.0)
    above, below, ratio = figure.axes
    # two kinds, the guide, the mark of the broken axis
    assert len(above.lines) == 4 and len(ratio.lines) == 2
    np.testing.assert_allclose(above.lines[1].get_ydata(), SPREADS["skip"])
    np.testing.assert_allclose(ratio.lines[1].get_ydata(), 0.5)
    assert above.get_ylim()[0] < 5e-4 and below.get_ylim()[1] < 1e-12
    assert "S = 0" in title(figure) and "0.99 to 1.00" in title(figure)
    assert save(figure, tmp_path / "a.png").stat().st_size > 10_000


def test_breaking_says_when_repeating_layers_are_not_alike():
    figure = figure_breaking(SIZES, SPREADS, {"mu": None}, 3e-3)
    assert "3.0e-03" in title(figure) and "power" not in title(figure)
    assert "3.0e-03" in figure.axes[1].texts[0].get_text()


def test_layers_are_coloured_where_they_differ():
    means = {"repeating": np.full(6, 2.0), "mu": np.array([2, 2, 2, 2.2, 2, 2]), "width": np.array([2, 2, 1, 1, 2, 2])}
    figure = figure_layers(means, 0.1)
    assert [ax.get_title() for ax in figure.axes] == ["inertia $\\mu$", "width"]
    assert "at most 2 of 6" in title(figure) and "0.1" in title(figure)
    same, differing = figure.axes[0].lines[1], figure.axes[0].lines[2]
    assert same.get_xdata().tolist() == [0, 1, 2, 4, 5] and differing.get_xdata().tolist() == [3]
    np.testing.assert_allclose(differing.get_ydata(), [10.0])


def test_shift_tells_moved_layers_from_the_ends(tmp_path):
    before = np.arange(1.0, 8.0)
    after = np.array([1, 2, 9, 3, 4, 5, 8.0])
    figure = figure_shift(before, after, (2, 5), SIZES, SPREADS, 0.0)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["moved on"].get_xdata().tolist() == [3, 4, 5]
    assert lines["joined at an end"].get_xdata().tolist() == [2, 6]
    assert "does not change" in title(figure)
    assert "changes by 2.0e-02" in title(figure_shift(before, after, (2, 5), SIZES, SPREADS, 0.02))
    # a parameter that does not move leaves nothing to draw on a logarithmic axis
    nothing = {kind: np.zeros(4) for kind in SPREADS}
    assert save(figure_shift(before, after, (2, 5), SIZES, nothing, 0.0), tmp_path / "b.png").exists()


def test_training_tells_state_from_law():
    density = np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 5.0]])
    figure = figure_training(np.array([0.0, 1.0]), density, 0.0)
    (ax,) = figure.axes
    assert [line.get_label() for line in ax.lines] == ["$t$ = 0", "$t$ = 1"]
    np.testing.assert_allclose(ax.lines[1].get_ydata(), density[1] / 3)
    assert "by a factor of 2.5; their law is the same" in title(figure)
    assert "differs by 1.0e-01" in title(figure_training(np.array([0.0, 1.0]), density, 0.1))


def test_nothing_to_draw_is_refused():
    with pytest.raises(InputError, match="there is no breaking to draw"):
        figure_breaking(SIZES, {}, {}, 0.0)
    with pytest.raises(InputError, match="need those of repeating layers"):
        figure_layers({"mu": np.ones(3)}, 0.1)
