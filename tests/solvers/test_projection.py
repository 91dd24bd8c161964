"""The cut-off as an orthogonal projection, and its modes against SciPy's transforms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import dct, dst

from solvers.errors import InputError
from solvers.grids import Grid
from solvers.padding import PADDINGS, pad
from solvers.projection import cutoff_projection, width_modes

EVERY_PADDING = pytest.mark.parametrize("padding", PADDINGS)
CELLS = pytest.mark.parametrize("cells", [1, 2, 11, 16])
LENGTH = 1.6


def grid(cells):
    return Grid(1, cells, length_y=LENGTH)


def waves(padding, wave_number, y):
    """The continuum's modes of one wave number."""
    if padding == "circular":
        return [np.cos(wave_number * y), np.sin(wave_number * y)]
    return [np.cos(wave_number * y)] if padding == "reflect" else [np.sin(wave_number * y)]


@EVERY_PADDING
@CELLS
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 0.99])
def test_it_is_an_orthogonal_projection(padding, cells, fraction):
    projection = cutoff_projection(grid(cells), padding, fraction * np.pi * cells / LENGTH)
    np.testing.assert_array_equal(projection, projection.T)
    np.testing.assert_allclose(projection @ projection, projection, rtol=0, atol=1e-14)


@EVERY_PADDING
@pytest.mark.parametrize("cells", [11, 16])
def test_low_modes_are_kept_and_high_ones_removed(padding, cells):
    g = grid(cells)
    cut = 0.5 * np.pi / g.h_y
    projection = cutoff_projection(g, padding, cut)
    spacing = (2 if padding == "circular" else 1) * np.pi / LENGTH
    kept = 0
    for j in range(round(np.pi / g.h_y / spacing) + 1):
        for wave in waves(padding, j * spacing, g.y):
            below = j * spacing <= cut + 1e-9
            np.testing.assert_allclose(projection @ wave, wave if below else 0 * wave, rtol=0, atol=1e-13)
            kept += below and np.abs(wave).max() > 1e-9
    assert np.trace(projection) == pytest.approx(kept)
    assert 0 < kept < cells


@EVERY_PADDING
@CELLS
@pytest.mark.parametrize("factor", [1.0, 2.0, np.inf])
def test_every_wave_that_the_grid_resolves_passes_unchanged(padding, cells, factor):
    g = grid(cells)
    np.testing.assert_array_equal(cutoff_projection(g, padding, factor * np.pi / g.h_y), np.eye(cells))


@EVERY_PADDING
def test_a_cut_off_at_a_mode_keeps_it_on_every_grid(padding):
    """q_max = π/a_y of a lattice with 8 sites, on finer grids of the field."""
    for cells in (16, 24, 40, 56):
        modes = round(np.trace(cutoff_projection(grid(cells), padding, np.pi * 8 / LENGTH)))
        assert modes == {"circular": 9, "reflect": 9, "zeros": 8}[padding]


@EVERY_PADDING
@CELLS
def test_modes_are_orthonormal_and_ascending(padding, cells):
    q, modes = width_modes(grid(cells), padding)
    np.testing.assert_allclose(modes.T @ modes, np.eye(cells), rtol=0, atol=1e-14)
    assert q.shape == (cells,) and np.all(np.diff(q) >= 0) and q[0] >= 0
    assert q[-1] <= np.pi * cells / LENGTH * (1 + 1e-12)


@pytest.mark.parametrize("cells", [2, 11, 16])
def test_modes_are_those_of_the_transforms(cells):
    s = np.random.default_rng(3).standard_normal(cells)
    cosines, sines = (width_modes(grid(cells), padding)[1] for padding in ("reflect", "zeros"))
    np.testing.assert_allclose(cosines.T @ s, dct(s, type=2, norm="ortho"), rtol=0, atol=1e-13)
    np.testing.assert_allclose(sines.T @ s, dst(s, type=2, norm="ortho"), rtol=0, atol=1e-13)
    q, modes = width_modes(grid(cells), "circular")
    spectrum = np.abs(np.fft.rfft(s)) ** 2 / cells * np.where(np.arange(cells // 2 + 1) % (cells / 2) == 0, 1, 2)
    power = [np.sum((modes.T @ s)[np.isclose(q, k)] ** 2) for k in 2 * np.pi * np.arange(cells // 2 + 1) / LENGTH]
    np.testing.assert_allclose(power, spectrum, rtol=0, atol=1e-13)


@pytest.mark.parametrize("padding", ["circular", "reflect"])
def test_it_commutes_with_even_sums_over_the_padded_neighbours(padding):
    """The modes are those of the padding: they diagonalise s(y − h) + s(y + h)."""
    cells = 12
    padded = pad(np, np.eye(cells)[:, :, None], 1, padding)[:, :, 0]
    neighbours = padded[2:] + padded[:-2]
    projection = cutoff_projection(grid(cells), padding, 0.4 * np.pi * cells / LENGTH)
    np.testing.assert_allclose(projection @ neighbours, neighbours @ projection, rtol=0, atol=1e-14)


def test_nonsense_is_refused():
    with pytest.raises(InputError, match="padding 'edge' does not exist; use one of zeros, circular, reflect"):
        cutoff_projection(grid(4), "edge", 1.0)
    for q_max in (-1.0, float("nan")):
        with pytest.raises(InputError, match="cut-off wave number"):
            cutoff_projection(grid(4), "zeros", q_max)
