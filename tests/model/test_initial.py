"""Initial fields: one random function for all grids, with the statistics that are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.model.initial import InitialFields, cosine_amplitudes, cosine_basis
from solvers.grids import Grid

TIES = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


@pytest.mark.parametrize("correlation", [0.05, 0.2, 1.0, 10.0])
def test_amplitudes_add_up_to_unit_variance(correlation):
    """Averaged over [0, L], c_0² + Σ c_n²/2 = Σ S_n = 1; and the series has converged."""
    a = cosine_amplitudes(2.0, correlation)
    assert a[0] ** 2 + np.sum(a[1:] ** 2) / 2 == pytest.approx(1.0, rel=1e-14)
    assert len(a) == 1 or a[-1] < 1e-7 * a.max()


def test_correlation_away_from_the_ends_is_gaussian():
    """Up to images at the distance of the ends, exp(−Δ²/2ℓ²) times the variance in the middle."""
    length, correlation = 3.0, 0.25
    a = cosine_amplitudes(length, correlation)
    x = np.array([1.5, *(1.5 + np.linspace(-0.6, 0.6, 13))])
    basis = cosine_basis(x, length, len(a)) * a
    covariance = basis @ basis.T
    expected = np.exp(-((x[1:] - 1.5) ** 2) / (2 * correlation**2))
    np.testing.assert_allclose(covariance[0, 1:] / covariance[0, 0], expected, rtol=0, atol=1e-7)


def test_drawn_fields_have_the_variance_and_correlation_asked_for(problems):
    """2rŵ√C = weight, b̂ = bias, R√C = readout, as standard deviations over space and all channels."""
    channels = 40
    lattice = problems.lattice(channels=channels, depth=8, outputs=20, readout_modes=6)
    initial = InitialFields(
        lattice, seed=2, weight=3.0, bias=0.5, readout=2.0, correlation_x=0.1, correlation_u=0.05, correlation_y=0.1
    )
    grid = Grid(40, 90)
    state = initial.on(grid)
    row_sum = 2 * 0.25 * np.sqrt(channels) * state.w
    assert np.sqrt(np.mean(row_sum**2)) == pytest.approx(3.0, rel=0.02)
    assert np.sqrt(np.mean(state.b**2)) == pytest.approx(0.5, rel=0.05)
    assert np.sqrt(channels * np.mean(state.r**2)) == pytest.approx(2.0, rel=0.05)

    def correlation(a, b):
        return np.mean(a * b) / np.sqrt(np.mean(a * a) * np.mean(b * b))

    middle = state.w.shape[-2] // 2
    for steps in (2, 4, 8):  # away from the ends; h_x = 1/40 and ℓ_x = 1/10, h_y = 1/90 and ℓ_u = 1/20
        expected = np.exp(-((steps / 4) ** 2) / 2)
        assert correlation(state.w[20 - steps // 2], state.w[20 + steps // 2]) == pytest.approx(expected, abs=0.05)
        ahead, behind = state.w[:, :, middle + steps // 2], state.w[:, :, middle - steps // 2]
        assert correlation(ahead, behind) == pytest.approx(np.exp(-((steps / 4.5) ** 2) / 2), abs=0.05)


@TIES
def test_one_function_on_every_grid(problems, tied):
    """Grids with an odd ratio share links, cells and taps: the values there are equal; lattices see the same field."""
    lattice = problems.lattice(tied=tied)
    initial = InitialFields(lattice, seed=4, bias=1.0)
    coarse, fine = initial.on(Grid(4, 10)), initial.on(Grid(12, 30), lattice.at(12, 30))
    half, fine_half = Grid(4, 10).half_width(0.25), Grid(12, 30).half_width(0.25)
    taps = slice(fine_half - 3 * half, fine_half + 3 * half + 1, 3)
    at_links = fine.w[1::3]
    at_cells = at_links if tied else at_links[:, 1::3]
    np.testing.assert_allclose(at_cells[..., taps, :], coarse.w, rtol=0, atol=1e-12 * np.abs(coarse.w).max())
    np.testing.assert_allclose(fine.b[1::3, 1::3], coarse.b, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(fine.r, coarse.r)
    assert fine.lattice.depth == 12 and coarse.lattice == lattice
    # and the lattice of another size draws the same function from the same seed
    again = InitialFields(lattice.at(12, 30), seed=4, bias=1.0).on(Grid(4, 10), lattice)
    np.testing.assert_array_equal(again.w, coarse.w)
    np.testing.assert_array_equal(again.b, coarse.b)


def test_fields_are_smooth_on_the_scale_of_their_correlation_length(problems):
    initial = InitialFields(problems.lattice(), seed=4, correlation_x=0.5)
    w = initial.on(Grid(64, 10)).w
    assert np.abs(np.diff(w, axis=0)).max() < 0.15 * np.abs(w).max()


def test_seeds_decide(problems):
    lattice = problems.lattice()
    one, same, other = (InitialFields(lattice, seed=s).on(lattice.grid) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.w, same.w)
    np.testing.assert_array_equal(one.r, same.r)
    assert np.abs(one.w - other.w).max() > 0.1 * np.abs(one.w).max()
    assert np.abs(one.r - other.r).max() > 0.1 * np.abs(one.r).max()


def test_amplitudes_scale_the_same_draw(problems):
    lattice = problems.lattice()
    one, two = (
        InitialFields(lattice, weight=w, bias=b, readout=r).on(lattice.grid) for w, b, r in ((1, 1, 1), (2, 3, 4))
    )
    np.testing.assert_allclose(two.w, 2 * one.w, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(two.b, 3 * one.b, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(two.r, 4 * one.r, rtol=1e-14)
    assert not InitialFields(lattice, weight=0.0).on(lattice.grid).w.any()


def test_drawn_fields_cannot_be_changed_in_place(problems):
    """Their origin is on record: what is changed must be copied first."""
    state = InitialFields(problems.lattice()).on(problems.lattice().grid)
    for name in ("w", "b", "r"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(state, name)[...] = 0.0


def test_configuration_rebuilds_the_fields(problems):
    lattice = problems.lattice()
    initial = InitialFields(lattice, seed=9, weight=1.5, correlation_u=0.2)
    again = InitialFields(lattice, **initial.to_config())
    np.testing.assert_array_equal(again.on(lattice.grid).w, initial.on(lattice.grid).w)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": -1.0}, r"initial\.weight = -1\.0: needs a number >= 0"),
        ({"bias": np.inf}, r"initial\.bias = inf: needs a number >= 0"),
        ({"readout": np.nan}, r"initial\.readout = nan: needs a number >= 0"),
        ({"correlation_x": 1e-4}, r"initial\.correlation_x = 0\.0001: needs a length >= 0\.001"),
        ({"correlation_u": np.nan}, r"initial\.correlation_u = nan: needs a length >= 0\.001"),
        ({"correlation_y": -0.3}, r"initial\.correlation_y = -0\.3: needs a length >= 0\.001"),
    ],
)
def test_impossible_statistics_are_refused(problems, change, message):
    with pytest.raises(InputError, match=message):
        InitialFields(problems.lattice(), **change)
