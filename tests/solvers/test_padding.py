"""Padding against NumPy's own modes, and folding as its transpose."""

from __future__ import annotations

import numpy as np
import pytest

from solvers.errors import InputError
from solvers.padding import PADDINGS, fold, pad

NUMPY_MODE = {"zeros": "constant", "circular": "wrap", "reflect": "symmetric"}


@pytest.mark.parametrize("half", [0, 1, 3, 7])
@pytest.mark.parametrize("padding", PADDINGS)
def test_pad_is_numpys_mode(backends, padding, half):
    s = np.random.default_rng(1).standard_normal((7, 2, 3))
    padded = backends.to_numpy(pad(backends.xp, backends.to_device(s), half, padding))
    expected = np.pad(s, ((half, half), (0, 0), (0, 0)), mode=NUMPY_MODE[padding])
    np.testing.assert_array_equal(padded, expected)


@pytest.mark.parametrize("half", [0, 1, 3, 7])
@pytest.mark.parametrize("padding", PADDINGS)
def test_fold_is_the_transpose_of_pad(backends, padding, half):
    rng = np.random.default_rng(2)
    s, g = rng.standard_normal((7, 2, 3)), rng.standard_normal((7 + 2 * half, 2, 3))
    xp, put, get = backends.xp, backends.to_device, backends.to_numpy
    left = np.vdot(g, get(pad(xp, put(s), half, padding)))
    right = np.vdot(get(fold(xp, put(g), half, padding)), s)
    assert abs(left - right) <= 1e-13 * np.linalg.norm(g) * np.linalg.norm(s)


@pytest.mark.parametrize("padding", PADDINGS)
def test_fold_leaves_its_argument_alone(padding):
    g = np.random.default_rng(3).standard_normal((11, 1, 2))
    before = g.copy()
    fold(np, g, 2, padding)
    np.testing.assert_array_equal(g, before)


@pytest.mark.parametrize("function", [pad, fold])
def test_unknown_padding_names_the_known_ones(function):
    with pytest.raises(InputError, match="padding 'edge' does not exist; use one of zeros, circular, reflect"):
        function(np, np.zeros((5, 1, 1)), 1, "edge")
