"""The kernel's norm against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest

from solvers.grids import Grid
from solvers.stability import kernel_norm
from solvers.width import KernelOperator


def dense_norm(w, cells, padding, tied=True):
    channels = w.shape[-1]
    radius = w.shape[-2] / (2 * cells)
    k = KernelOperator(np, Grid(1, cells), radius, tied=tied, padding=padding, method="direct")
    matrix = k.apply(w, np.eye(cells * channels).reshape(cells, channels, -1))
    return np.linalg.norm(matrix.reshape(cells * channels, -1), 2)


def test_exact_for_a_periodic_tied_kernel():
    w = np.random.default_rng(1).standard_normal((2, 5, 2))
    assert kernel_norm(w, 1 / 20) == pytest.approx(dense_norm(w, 20, "circular"), rel=1e-12)


def test_largest_over_depth_counts():
    w = np.random.default_rng(2).standard_normal((4, 2, 5, 2))
    assert kernel_norm(w, 0.05) == pytest.approx(max(kernel_norm(layer, 0.05) for layer in w), rel=1e-13)
    assert kernel_norm(3 * w, 0.05) == pytest.approx(3 * kernel_norm(w, 0.05), rel=1e-13)


@pytest.mark.parametrize(("padding", "factor"), [("zeros", 1.0), ("reflect", np.sqrt(2))])
def test_bounds_the_other_paddings(padding, factor):
    """Up to the spacing of the wave numbers tried, 4 per tap: 1/cos(π/8); a reflection doubles the edge's energy."""
    for seed in range(5):
        w = np.random.default_rng(seed).standard_normal((3, 7, 3))
        assert dense_norm(w, 40, padding) <= factor * kernel_norm(w, 1 / 40) / np.cos(np.pi / 8)


def test_constant_kernel_has_its_integral_as_norm():
    w = np.full((1, 9, 1), 2.0)
    assert kernel_norm(w, 0.1) == pytest.approx(2.0 * 9 * 0.1, rel=1e-14)
