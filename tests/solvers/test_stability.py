"""How schemes amplify modes, and the bookkeeping of growth exponents."""

from __future__ import annotations

import math

import numpy as np
import pytest

from solvers.errors import InputError
from solvers.grids import Grid
from solvers.stability import MOST_GROWTH, amplification, excess, require_limit, sample, too_much
from solvers.sweeps import EULER, MIDPOINT, RK4, SCHEMES, DepthMarch

EVERY_SCHEME = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
#: R(z) of the textbooks: the exponential series up to the scheme's order
POLYNOMIALS = {"euler": [1, 1], "midpoint": [1 / 2, 1, 1], "rk4": [1 / 24, 1 / 6, 1 / 2, 1, 1]}


class Mode:
    """∂_x z = A z, one number."""

    def value(self, z, c):
        return c[0] * z, None


@EVERY_SCHEME
def test_amplification_is_the_schemes_polynomial(scheme):
    rng = np.random.default_rng(1)
    z = rng.standard_normal((5, 7)) + 1j * rng.standard_normal((5, 7))
    np.testing.assert_allclose(amplification(scheme, z), np.polyval(POLYNOMIALS[scheme.name], z), rtol=1e-14)
    assert amplification(scheme, np.zeros(3)).tolist() == [1.0, 1.0, 1.0]


@EVERY_SCHEME
def test_amplification_is_what_the_march_does(scheme):
    a, cells = -1.3 + 2.1j, 5
    march = DepthMarch(Mode(), Grid(cells, 1), scheme)
    nodes = march.reconstruction.interpolation.shape[0]
    end = march.forward(np.ones((1, 1, 1), complex), (np.full(nodes, a),), keep=False).z[-1].item()
    assert end == pytest.approx(complex(amplification(scheme, np.array(a / cells)) ** cells), rel=1e-13)


@EVERY_SCHEME
def test_amplification_follows_the_exponential_to_the_schemes_order(scheme, fitted_order):
    steps = np.array([0.2, 0.1, 0.05])
    errors = np.abs(amplification(scheme, steps * (1 + 1j)) - np.exp(steps * (1 + 1j)))
    assert fitted_order(steps, errors) == pytest.approx(scheme.order + 1, abs=0.1)


@EVERY_SCHEME
def test_real_limit_is_where_amplification_leaves_the_unit_circle(scheme):
    """On the negative real axis: |R| <= 1 up to it, above 1 beyond."""
    inside = amplification(scheme, -np.linspace(0, scheme.real_limit, 1001))
    assert np.abs(inside).max() <= 1 + 1e-12
    assert abs(amplification(scheme, np.array(-1.001 * scheme.real_limit))) > 1


def test_samples_are_spread_evenly_and_hold_both_ends():
    np.testing.assert_array_equal(sample(5, 10), [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(sample(5, 5), [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(sample(101, 5), [0, 25, 50, 75, 100])
    np.testing.assert_array_equal(sample(100, 1), [0])
    np.testing.assert_array_equal(sample(100, 0), [0])
    np.testing.assert_array_equal(sample(1, 8), [0])
    for count, most in ((17, 4), (1000, 33), (9, 8)):
        found = sample(count, most)
        assert found[0] == 0 and found[-1] == count - 1 and len(found) == most
        assert np.diff(found).max() - np.diff(found).min() <= 1 and found.dtype.kind == "i"


def test_excess_is_beyond_the_longest_wave_or_beyond_no_growth():
    assert excess(np.array([0.0, -1.0, 3.0])) == 3.0
    assert excess(np.array([2.0, 5.0, 1.0])) == 3.0
    assert excess(np.array([-4.0, 5.0, 1.0])) == 5.0  # a longest wave that decays excuses nothing
    assert excess(np.array([2.0, 1.0])) == 0.0
    assert excess(np.array([-1.0, -2.0])) == -1.0
    for bad in (np.inf, np.nan, -np.inf):
        assert excess(np.array([0.0, bad])) == math.inf
        assert excess(np.array([bad, 0.0])) == math.inf
    assert excess(np.full(3, np.inf)) == math.inf


def test_too_much_is_a_factor_of_a_thousand():
    assert MOST_GROWTH == 1e3
    edge = math.log(1e3)
    assert not too_much(np.array([0.0, 0.999 * edge])) and too_much(np.array([0.0, 1.001 * edge]))
    assert not too_much(np.array([100.0, 100.0 + 0.999 * edge])) and not too_much(np.array([100.0, 0.0]))
    assert too_much(np.array([0.0, np.nan])) and too_much(np.full(2, np.inf))


@EVERY_SCHEME
def test_too_large_steps_are_refused_with_the_number_of_cells_that_helps(scheme):
    rate, length = 60.0, 2.0
    needed = math.ceil(length * rate / scheme.real_limit)
    require_limit(length / needed, rate, scheme, length)
    message = rf"field\.n_x = {needed - 1}: unstable depth step, .* exceeds .* \({scheme.name}\); use n_x = {needed} or"
    with pytest.raises(InputError, match=message) as caught:
        require_limit(length / (needed - 1), rate, scheme, length)
    assert "\n" not in str(caught.value)


def test_limits_differ_by_scheme():
    require_limit(1.0, 2.5, RK4, 1.0)
    for scheme in (EULER, MIDPOINT):
        require_limit(1.0, 2.0, scheme, 1.0)
        with pytest.raises(InputError, match="unstable depth step"):
            require_limit(1.0, 2.5, scheme, 1.0)


@pytest.mark.parametrize("rate", [math.inf, math.nan])
def test_no_number_of_cells_helps_against_an_infinite_rate(rate):
    with pytest.raises(InputError, match=r"\|∂G/∂ẑ\| = (inf|nan): no depth step is small enough"):
        require_limit(0.1, rate, RK4, 1.0)
