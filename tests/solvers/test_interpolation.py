"""Local polynomial interpolation: exactness, order and coincidence."""

from __future__ import annotations

import numpy as np
import pytest

from solvers.errors import InputError
from solvers.interpolation import apply_along_first, interpolation_matrix

POINTS = pytest.mark.parametrize("points", [2, 3, 4, 5, 6])


def half_points(n):
    """Cell centres of n cells on [0, 1], and all sites and quarter points, half a cell beyond the centres."""
    return (np.arange(n) + 0.5) / n, np.arange(4 * n + 1) / (4 * n)


@POINTS
def test_polynomials_below_the_number_of_points_are_exact(points):
    source, target = half_points(11)
    matrix = interpolation_matrix(source, target, points)
    for degree in range(points):
        np.testing.assert_allclose(matrix @ source**degree, target**degree, rtol=0, atol=1e-13)
    assert np.abs(matrix @ source**points - target**points).max() > 1e-8


@POINTS
def test_error_falls_with_the_number_of_points_as_order(points, fitted_order):
    sizes = (40, 80, 160)
    errors = []
    for n in sizes:
        source, target = half_points(n)
        matrix = interpolation_matrix(source, target, points)
        errors.append(np.abs(matrix @ np.exp(-3 * source) - np.exp(-3 * target)).max())
    assert abs(fitted_order(1 / np.array(sizes), errors) - points) < 0.15


def test_coincident_points_copy_exactly_one_value():
    source = np.array([0.1, 0.25, 0.3, 0.7, 0.9, 1.3, 2.0])
    np.testing.assert_array_equal(interpolation_matrix(source, source[[6, 0, 3]], 4), np.eye(7)[[6, 0, 3]])


@POINTS
def test_stencils_are_the_nearest_points(points):
    """Away from the ends the stencil is centred: no other choice of neighbours has a smaller reach."""
    source, _ = half_points(20)
    target = np.linspace(0.31, 0.69, 23)
    matrix = interpolation_matrix(source, target, points)
    for row, x in zip(matrix, target, strict=True):
        used = np.abs(source[row != 0] - x)
        unused = np.abs(source[row == 0] - x)
        if used.size > 1:
            assert used.size == points
            assert used.max() <= unused.min() + (1 / 20 if points % 2 == 0 else 0) + 1e-12


def test_rows_sum_to_one():
    source, target = half_points(9)
    np.testing.assert_allclose(interpolation_matrix(source, target).sum(axis=1), 1, rtol=0, atol=1e-14)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_source_values_are_all_used(n):
    source, target = half_points(n)
    matrix = interpolation_matrix(source, target, 6)
    np.testing.assert_allclose(matrix @ source ** (n - 1), target ** (n - 1), rtol=0, atol=1e-12)


def test_no_source_values_are_refused():
    with pytest.raises(InputError, match="at least one value"):
        interpolation_matrix(np.array([]), np.array([0.5]))


def test_apply_along_first_acts_on_the_first_axis_only():
    rng = np.random.default_rng(1)
    matrix, values = rng.standard_normal((4, 3)), rng.standard_normal((3, 2, 5, 2))
    expected = np.einsum("ij,jabc->iabc", matrix, values)
    np.testing.assert_allclose(apply_along_first(matrix, values), expected, rtol=0, atol=1e-14)
