"""Where sites, links, cells and taps are, and which kernels tile a grid."""

from __future__ import annotations

import numpy as np
import pytest

from solvers.errors import InputError
from solvers.grids import Grid


def test_sites_links_and_cells_are_centred():
    grid = Grid(4, 5, length_x=2.0, length_y=10.0)
    assert (grid.h_x, grid.h_y) == (0.5, 2.0)
    np.testing.assert_array_equal(grid.x_sites, [0, 0.5, 1, 1.5, 2])
    np.testing.assert_array_equal(grid.x_links, [0.25, 0.75, 1.25, 1.75])
    np.testing.assert_array_equal(grid.y, [1, 3, 5, 7, 9])


def test_sites_end_exactly_at_the_length():
    for n in (3, 7, 49, 1000):
        assert Grid(n, 1).x_sites[-1] == 1.0
        assert Grid(n, 1, length_x=0.1).x_sites[-1] == pytest.approx(0.1, rel=3e-16)


@pytest.mark.parametrize(("width", "half"), [(40, 5), (120, 16), (360, 49)])
def test_eleven_eightieths_tile_the_nested_widths(width, half):
    grid = Grid(1, width)
    assert grid.half_width(11 / 80) == half
    taps = grid.taps(11 / 80)
    assert len(taps) == 2 * half + 1
    np.testing.assert_allclose(taps, np.arange(-half, half + 1) / width, rtol=0, atol=1e-16)
    assert (2 * half + 1) * grid.h_y == pytest.approx(2 * 11 / 80, rel=1e-14)


def test_radius_scales_with_the_length_of_the_width():
    assert Grid(1, 10, length_y=4.0).half_width(1.0) == 2


@pytest.mark.parametrize("radius", [0.2, 0.251, 0.05 + 1e-6, 0.0, -0.05])
def test_radius_off_a_cell_edge_is_refused_with_the_nearest_that_fit(radius):
    with pytest.raises(InputError, match=r"kernel radius .* not on a cell edge of width 10 .*use a radius such as"):
        Grid(1, 10).half_width(radius)


def test_suggested_radii_are_accepted():
    grid = Grid(1, 10)
    with pytest.raises(InputError, match=r"such as 0\.25 or 0\.35, ") as caught:
        grid.half_width(0.3)
    assert "\n" not in str(caught.value)
    assert (grid.half_width(0.25), grid.half_width(0.35)) == (2, 3)


def test_kernel_wider_than_the_width_is_refused():
    assert Grid(1, 5).half_width(0.5) == 2
    with pytest.raises(InputError, match="7 taps are wider than the 5 cells"):
        Grid(1, 5).half_width(0.7)


@pytest.mark.parametrize("sizes", [(0, 4), (4, -1), (2.0, 4), (True, 4), (4, None)])
def test_numbers_of_cells_must_be_positive_whole_numbers(sizes):
    with pytest.raises(InputError, match=r"grid n_[xy] = .*needs a positive whole number"):
        Grid(*sizes)


@pytest.mark.parametrize("length", [0.0, -1.0, np.inf, np.nan])
def test_lengths_must_be_positive(length):
    with pytest.raises(InputError, match="grid length_x = "):
        Grid(2, 2, length_x=length)
    with pytest.raises(InputError, match="grid length_y = "):
        Grid(2, 2, length_y=length)
