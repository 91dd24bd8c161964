"""Initial fields: one random function for all grids, with the statistics that are asked for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.model.initial import InitialFields, cosine_amplitudes, cosine_basis
from bbdfield.model.random_functions import periodic_amplitudes, periodic_basis
from bbdfield.model.ranges import Derivative, Kernel, Taps
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


# circular padding: fields on a circle


@pytest.mark.parametrize("correlation", [0.05, 0.3, 1.0, 10.0])
def test_on_a_circle_the_correlation_is_the_wrapped_gaussian_everywhere(correlation):
    """Poisson summation: Σ_n S_n cos(2πnΔ/L) is the sum of exp(−(Δ + kL)²/2ℓ²) over k, of unit variance."""
    length = 2.0
    a = periodic_amplitudes(length, correlation)
    y = np.linspace(0, length, 23)
    basis = periodic_basis(y, length, len(a)) * a
    apart = y[:, None, None] - y[None, :, None] + length * np.arange(-200, 201)
    wrapped = np.exp(-(apart**2) / (2 * correlation**2)).sum(axis=-1)
    np.testing.assert_allclose(basis @ basis.T, wrapped / wrapped[0, 0], rtol=0, atol=1e-13)


def test_with_circular_padding_fields_are_periodic(problems):
    """b̂ and untied ŵ join smoothly over the edge, as they do not with other paddings; kernels stay open in u."""
    for kind in (Kernel("1/4", tied=False), Taps(3), Derivative(0.1)):
        jumps = {}
        for padding in ("circular", "zeros"):
            lattice = dataclasses.replace(problems.lattice(padding=padding), range=kind)
            state = InitialFields(lattice, seed=4, bias=1.0).on(Grid(4, 90), lattice)
            inside = max(np.abs(np.diff(part, axis=1)).max() for part in (state.w, state.b))
            jumps[padding] = max(np.abs(part[:, -1] - part[:, 0]).max() for part in (state.w, state.b)) / inside
        assert jumps["circular"] < 1 and jumps["zeros"] > 5, (kind.name, jumps)


@TIES
def test_one_periodic_function_on_every_grid(problems, tied):
    lattice = problems.lattice(tied=tied, padding="circular")
    initial = InitialFields(lattice, seed=4, bias=1.0)
    coarse, fine = initial.on(Grid(4, 10)), initial.on(Grid(12, 30), lattice.at(12, 30))
    np.testing.assert_allclose(fine.b[1::3, 1::3], coarse.b, rtol=0, atol=1e-12)
    middle, half = fine.w.shape[-2] // 2, coarse.w.shape[-2] // 2
    at_cells = fine.w[1::3] if tied else fine.w[1::3, 1::3]
    taps = slice(middle - 3 * half, middle + 3 * half + 1, 3)
    np.testing.assert_allclose(at_cells[..., taps, :], coarse.w, rtol=0, atol=1e-12 * np.abs(coarse.w).max())


# independent values, and the ranges


def independent(values):
    """Sample correlations between neighbours along every axis are what 1/√n noise allows."""
    for axis in range(values.ndim):
        if values.shape[axis] > 1:
            along = np.moveaxis(values, axis, 0)
            a, b = along[:-1], along[1:]
            if abs(np.mean(a * b) / np.mean(values**2)) > 4 / np.sqrt(a.size):
                return False
    return True


@TIES
@pytest.mark.parametrize("kind", [Kernel, Taps])
def test_correlation_0_is_independent_values_of_the_variance_asked_for(problems, kind, tied):
    """From point to point of the lattice in x, y and u: 2rŵ√C = weight for kernels, ŵ_k√(TC) for taps, b̂ = bias."""
    reach = Kernel("1/4", tied) if kind is Kernel else Taps(5, tied)
    lattice = dataclasses.replace(problems.lattice(depth=60, channels=6), range=reach)
    nothing = {"correlation_x": 0.0, "correlation_u": 0.0, "correlation_y": 0.0}
    state = InitialFields(lattice, seed=3, weight=3.0, bias=0.5, **nothing).on(lattice.grid)
    per_component = 3.0 / np.sqrt(6) / (2 * 0.25 if kind is Kernel else np.sqrt(5))
    tolerance = 4 / np.sqrt(2 * state.w.size)
    assert np.sqrt(np.mean(state.w**2)) == pytest.approx(per_component, rel=tolerance)
    assert np.sqrt(np.mean(state.b**2)) == pytest.approx(0.5, rel=4 / np.sqrt(2 * state.b.size))
    assert abs(state.w.mean()) < 4 * per_component / np.sqrt(state.w.size)
    assert independent(state.w) and independent(state.b)
    smooth = InitialFields(lattice, seed=3, bias=0.5).on(lattice.grid)
    assert not independent(smooth.w) and not independent(smooth.b)


@pytest.mark.parametrize("axis", ["x", "y", "u"])
def test_one_axis_can_be_rough_and_the_others_smooth(problems, axis):
    lattice = problems.lattice(depth=40, width=30, channels=4, radius="1/4", tied=False)
    state = InitialFields(lattice, seed=3, **{f"correlation_{axis}": 0.0}).on(lattice.grid)
    number = {"x": 0, "y": 1, "u": 3}

    def roughness(name):
        along = number[name]
        return np.mean(np.diff(state.w, axis=along) ** 2) / (2 * np.mean(state.w**2))  # 1 for independent values

    for name in number:
        assert (0.85 < roughness(name) < 1.15) if name == axis else roughness(name) < 0.2


@pytest.mark.parametrize("axis", ["x", "y", "u"])
def test_independent_values_exist_on_the_lattices_own_grid_only(problems, axis):
    lattice = problems.lattice()
    initial = InitialFields(lattice, bias=0.1, **{f"correlation_{axis}": 0.0})
    assert initial.rough == (axis,)
    initial.on(lattice.grid)
    message = rf"initial\.correlation_{axis} = 0: independent values exist on the lattice's own grid only.*coarse-grain"
    for grid in (Grid(12, 10), Grid(6, 30)):
        with pytest.raises(InputError, match=message) as caught:
            initial.on(grid, lattice)
        assert "\n" not in str(caught.value)


def test_correlation_y_means_nothing_where_nothing_varies_along_y(problems):
    """Tied weights without biases: any grid, and the same weights as with any other length."""
    lattice = problems.lattice()
    for grid in (lattice.grid, Grid(12, 30), Grid(5, 50)):
        rough, smooth = (InitialFields(lattice, correlation_y=y).on(grid, lattice) for y in (0.0, 0.3))
        np.testing.assert_array_equal(rough.w, smooth.w)
        np.testing.assert_array_equal(rough.r, smooth.r)
        assert rough.b.shape == smooth.b.shape and not rough.b.any()
    assert InitialFields(lattice, correlation_y=0.0).rough == ()
    assert InitialFields(problems.lattice(tied=False), correlation_y=0.0).rough == ("y",)


def test_correlation_u_means_nothing_without_a_kernel(problems):
    """Taps and moments are a few numbers: theirs are independent anyway, and go onto any grid."""
    for kind in (Taps(3), Derivative(0.1)):
        lattice = dataclasses.replace(problems.lattice(), range=kind)
        rough, smooth = (InitialFields(lattice, correlation_u=u).on(Grid(12, 30), lattice) for u in (0.0, 0.1))
        np.testing.assert_array_equal(rough.w, smooth.w)


@TIES
def test_mean_and_spread_of_taps_and_moments(problems, tied):
    """Mean times δ_cc' per component; standard deviation weight × spread (taps: /√T) /√C."""
    channels, mean, spread = 12, (0.5, -1.0, 2.0), (1.0, 0.0, 3.0)
    for kind, count in ((Taps(3, tied), np.sqrt(3)), (Derivative(0.1, tied), 1.0)):
        lattice = dataclasses.replace(problems.lattice(channels=channels), range=kind)
        options = {"weight": 0.5, "correlation_x": 0.05, "correlation_y": 0.05, "mean": mean, "spread": spread}
        w = InitialFields(lattice, seed=8, **options).on(Grid(60, 80), lattice).w
        for component in range(3):
            part = w[..., component, :]
            fluctuation = part - mean[component] * np.eye(channels)
            expected = 0.5 * spread[component] / count / np.sqrt(channels)
            assert np.sqrt(np.mean(fluctuation**2)) == pytest.approx(expected, rel=0.06, abs=1e-15)
            assert abs(fluctuation.mean()) < 0.1 * expected + 1e-15
        plain = InitialFields(lattice, seed=8, **{**options, "mean": None, "spread": None}).on(Grid(60, 80), lattice).w
        own = (0.0, 0.0, 1.0) if kind.name == "derivative" else (0.0, 0.0, 0.0)
        varies = (True, True, False) if kind.name == "derivative" else (True, True, True)
        for component in range(3):
            fluctuation = plain[..., component, :] - own[component] * np.eye(channels)
            size = 0.5 / count / np.sqrt(channels) if varies[component] else 0.0
            assert np.sqrt(np.mean(fluctuation**2)) == pytest.approx(size, rel=0.06, abs=1e-15)


@TIES
def test_mean_of_a_kernel_is_that_of_its_row_sum(problems, tied):
    lattice = problems.lattice(tied=tied)
    for grid in (lattice.grid, Grid(5, 30)):
        w = InitialFields(lattice, weight=0.0, mean=(0.7,)).on(grid, lattice).w
        row_sum = grid.h_y * w.sum(axis=-2)
        np.testing.assert_allclose(row_sum, np.broadcast_to(0.7 * np.eye(2), row_sum.shape), rtol=0, atol=1e-15)
        assert np.ptp(w[..., 0, :, 0]) < 1e-15


def test_configuration_with_lists_rebuilds_the_fields(problems):
    """Files hold lists; what is read back is the same initial field, equal and hashable."""
    lattice = dataclasses.replace(problems.lattice(), range=Derivative(0.1, tied=True))
    initial = InitialFields(lattice, seed=9, mean=[0, 0.5, 1], spread=[1, 0.5, 0.1])
    config = initial.to_config()
    assert config["mean"] == [0.0, 0.5, 1.0] and config["spread"] == [1.0, 0.5, 0.1]
    assert isinstance(config["mean"], list)
    again = InitialFields(lattice, **config)
    assert again == initial and again.mean == (0.0, 0.5, 1.0)
    assert hash(again) == hash(initial)
    np.testing.assert_array_equal(again.on(lattice.grid).w, initial.on(lattice.grid).w)
    assert InitialFields(lattice).to_config()["mean"] is None


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (Taps(3), {"mean": [1.0]}, r'initial\.mean = \[1\.0\]: lattice\.range = "taps" needs 3 numbers'),
        (Taps(5), {"spread": [1.0, 2.0]}, r'initial\.spread = .* "taps" needs 5 numbers'),
        (Derivative(0.1), {"mean": [1.0, 2.0]}, r'initial\.mean = .* "derivative" needs 3 numbers'),
        (Kernel("1/4"), {"mean": [1.0, 2.0]}, r'initial\.mean = .* "kernel" needs 1 number'),
        (Kernel("1/4"), {"spread": [1.0]}, r"initial\.spread: .* correlation_u instead; remove it"),
        (Taps(3), {"mean": [1.0, np.nan, 0.0]}, r"initial\.mean = .* finite"),
        (Taps(3), {"spread": [1.0, np.inf, 0.0]}, r"initial\.spread = .* finite"),
    ],
)
def test_impossible_means_and_spreads_are_refused(problems, kind, change, message):
    lattice = dataclasses.replace(problems.lattice(), range=kind)
    with pytest.raises(InputError, match=message):
        InitialFields(lattice, **change)
