"""SIMD activations against NumPy's and SciPy's functions, to a few units in the last place."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf, expit

from solvers.compiled import activations as compiled

ULP = np.finfo(float).eps
NAMES = pytest.mark.parametrize("name", compiled.KINDS)


def density(x):
    return np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)


#: name -> σ, σ', σ''
REFERENCES = {
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2, lambda x: -2 * np.tanh(x) * (1 - np.tanh(x) ** 2)),
    "sigmoid": (expit, lambda x: expit(x) * expit(-x), lambda x: -expit(x) * expit(-x) * np.tanh(x / 2)),
    "softplus": (lambda x: np.logaddexp(0, x), expit, lambda x: expit(x) * expit(-x)),
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0, lambda x: 0 * x),
    "gelu": (
        lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
        lambda x: 0.5 * (1 + erf(x / np.sqrt(2))) + x * density(x),
        lambda x: density(x) * (2 - x * x),
    ),
    "identity": (lambda x: x, lambda x: 1 + 0 * x, lambda x: 0 * x),
}


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(1)
    small = rng.standard_normal(997) * 10.0 ** rng.integers(-12, 1, 997)
    return np.concatenate([np.linspace(-30, 30, 10_001), small, [0.0, -0.0, 19.99, 20.01, -36.0, 36.0]])


def close(value, expected, ulp):
    """Relative to the value, or to 1 where it is a difference of numbers near 1."""
    np.testing.assert_array_less(np.abs(value - expected), ulp * ULP * np.abs(expected) + 4 * ULP)


@NAMES
@pytest.mark.parametrize("r", [1.0, 2.7])
def test_values_slopes_and_curvatures(points, name, r):
    kind, (f, df, d2f) = compiled.KINDS[name], REFERENCES[name]
    value, first, second, only = (np.full(points.shape, np.nan) for _ in range(4))
    compiled.value(kind, r, points, value)
    compiled.slopes(kind, r, points, first, second)
    compiled.slope(kind, r, points, only)
    close(value, r * f(points / r), 8)
    close(first, df(points / r), 16)
    close(second, d2f(points / r) / r, 16)
    close(only, first, 16)


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_relative_accuracy_of_small_values(name):
    """In the tails and near zero, where an absolute error would hide."""
    x = np.concatenate([-np.logspace(-300, 0, 500), -np.linspace(1, 600, 500)])
    value = np.empty_like(x)
    compiled.value(compiled.KINDS[name], 1.0, x, value)
    np.testing.assert_allclose(value, REFERENCES[name][0](x), rtol=6 * ULP, atol=0)


@NAMES
def test_infinite_and_undefined_arguments(name):
    x = np.array([-np.inf, -1e300, -800.0, 800.0, 1e300, np.inf, np.nan])
    value = np.empty_like(x)
    compiled.value(compiled.KINDS[name], 1.0, x, value)
    assert np.isnan(value[-1]) and np.isfinite(value[2:4]).all()
    with np.errstate(all="ignore"):
        expected = REFERENCES[name][0](x)
    defined = ~np.isnan(expected)
    np.testing.assert_allclose(value[defined], expected[defined], rtol=4 * ULP, atol=1e-300)


@NAMES
def test_slopes_of_values(points, name):
    kind = compiled.KINDS[name]
    if not compiled.from_value(kind):
        assert name in ("sigmoid", "softplus", "gelu")
        return
    value, slope = np.empty_like(points), np.empty_like(points)
    compiled.value(kind, 1.5, points, value)
    compiled.slope_of_value(kind, 1.5, value, slope)
    close(slope, REFERENCES[name][1](points / 1.5), 16)


@NAMES
def test_single_precision_rounds_once(name):
    x = np.linspace(-5, 5, 101, dtype=np.float32)
    value = np.empty_like(x)
    compiled.value(compiled.KINDS[name], 1.0, x, value)
    np.testing.assert_allclose(value, REFERENCES[name][0](x.astype(float)), rtol=1.2e-7, atol=1e-12)


def test_what_is_known():
    assert compiled.known("tanh") and not compiled.known("sine")
    assert set(compiled.KINDS) == set(REFERENCES)
