"""The figure of the intrinsic dynamics: its title is computed from what it shows."""

from __future__ import annotations

import numpy as np

from bbdfield.plotting.intrinsic import figure_intrinsic


def drawn(slope=-1.0, reached=3e-9):
    sizes = np.array([8.0, 16.0, 32.0])
    row = {
        "relaxation": 0.0,
        "depths": [8, 16, 32],
        "lattice": (0.5 * sizes**slope).tolist(),
        "depth_slope": slope,
        "first_order": (0.5 * sizes**-2).tolist(),
        "cells": [8, 16, 32],
        "field": [1e-5, 1e-7, reached],
    }
    t = np.linspace(0, 1, 4)
    z = np.exp(-t)[:, None, None] * np.diag([1.0, 2.0])
    return figure_intrinsic([row, {**row, "relaxation": 1.0}], t, z, t, z)


def test_the_title_tells_slope_and_error():
    assert "M^{-1.00}" in drawn().get_suptitle() and "3.0\\cdot 10^{-9}" in drawn().get_suptitle()
    assert "M^{-0.70}" in drawn(slope=-0.7).get_suptitle()
    assert "2.0\\cdot 10^{-4}" in drawn(reached=2e-4).get_suptitle()


def test_ladders_and_singular_values_are_drawn_as_given():
    left, right = drawn().axes
    lattice = left.lines[0]
    np.testing.assert_allclose(lattice.get_ydata(), [0.5 / 8, 0.5 / 16, 0.5 / 32])
    guide = left.lines[2]
    np.testing.assert_allclose(guide.get_ydata(), [0.5 / 8, 0.5 / 16, 0.5 / 32])
    assert left.get_xscale() == left.get_yscale() == "log"
    np.testing.assert_allclose(right.lines[0].get_ydata(), 2 * np.exp(-np.linspace(0, 1, 4)))
    assert "largest relative error" in left.get_ylabel() and "training time" in right.get_xlabel()
