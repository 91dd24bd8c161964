"""The mean-field maps: the published numbers, their own consistency, and random networks of finite width."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.propagation.mean_field import MeanField, critical_weight, depth_scale
from bbdfield.propagation.random_networks import measure

#: σ_w², σ_b² -> q*, χ₁, ξ_q, c*, ξ_c for tanh, with the digits to which they are known
TABLE = {
    (1.0, 0.05): (0.193593, 0.759032, 1.7476, 1, 3.6270),
    (1.3, 0.05): (0.315316, 0.880164, 1.7852, 1, 7.8341),
    (2.5, 0.05): (1.063958, 1.133516, 1.1799, 0.4468, 11.7956),
    (4.0, 0.05): (2.195494, 1.342402, 0.8733, 0.1651, 6.9803),
}
CRITICAL = {0.01: 1.424205, 0.05: 1.760955, 0.1: 1.986073}


@pytest.mark.parametrize(("variances", "numbers"), TABLE.items())
def test_every_digit_of_the_table(variances, numbers):
    q, chi, xi_q, c, xi_c = numbers
    point = MeanField(*variances).fixed_point()
    assert round(point.q, 6) == q and round(point.chi, 6) == chi
    assert round(point.xi_q, 4) == xi_q and round(point.c, 4) == c and round(point.xi_c, 4) == xi_c
    assert point.ordered == (c == 1)
    twice = MeanField(*variances, nodes=320).fixed_point()
    assert twice.q == pytest.approx(point.q, rel=1e-11) and twice.xi_c == pytest.approx(point.xi_c, rel=1e-10)


@pytest.mark.parametrize(("bias", "weight"), CRITICAL.items())
def test_every_digit_of_the_critical_line(bias, weight):
    found = critical_weight(bias)
    assert round(found, 6) == weight
    assert MeanField(found, bias).fixed_point().chi == pytest.approx(1, abs=1e-12)
    assert MeanField(0.99 * found, bias).fixed_point().ordered
    assert not MeanField(1.01 * found, bias).fixed_point().ordered
    near = [MeanField(found * (1 + e), bias).fixed_point().xi_c for e in (-0.1, -0.01, -0.001, 0.001, 0.01, 0.1)]
    assert near[0] < near[1] < near[2] and near[3] > near[4] > near[5]


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "gelu", "softplus", "relu"])
def test_factors_are_the_derivatives_of_the_maps(name):
    ensemble = MeanField(0.8, 0.1, name)
    point = ensemble.fixed_point()
    assert ensemble.next_variance(point.q) == pytest.approx(point.q, rel=1e-12)
    assert ensemble.next_correlation(point.q, point.c) == pytest.approx(point.c, abs=1e-12)
    h = 1e-4 * point.q
    slope = (ensemble.next_variance(point.q + h) - ensemble.next_variance(point.q - h)) / (2 * h)
    assert point.chi_q == pytest.approx(slope, rel=1e-7)
    h = 1e-4
    slope = (ensemble.next_correlation(point.q, 0.5 + h) - ensemble.next_correlation(point.q, 0.5 - h)) / (2 * h)
    assert ensemble.chi(point.q, 0.5) == pytest.approx(slope, rel=1e-7)


@pytest.mark.parametrize(("variances", "c"), [((1.3, 0.05), 0.2), ((2.5, 0.05), 0.2), ((2.5, 0.05), 0.95)])
def test_layers_approach_the_fixed_point_with_its_depth_scales(variances, c):
    ensemble = MeanField(*variances)
    point = ensemble.fixed_point()
    q_m, c_m = ensemble.layers(0.5, c, 160)
    assert q_m[-1] == pytest.approx(point.q, rel=1e-12) and c_m[-1] == pytest.approx(point.c, abs=1e-4)
    late = np.abs(c_m - point.c)[80:110]
    slope = np.polyfit(np.arange(30), np.log(late), 1)[0]
    assert -1 / slope == pytest.approx(point.xi_c, rel=0.02)
    early = np.abs(q_m - point.q)[6:14]
    assert -1 / np.polyfit(np.arange(8), np.log(early), 1)[0] == pytest.approx(point.xi_q, rel=0.02)


def test_vanishing_signals():
    """Without biases the ordered phase of an odd activation forgets everything, the chaotic one all correlation."""
    gone = MeanField(0.9, 0.0).fixed_point()
    assert (gone.q, gone.c) == (0.0, 1.0) and gone.chi == gone.chi_c == pytest.approx(0.9)
    chaotic = MeanField(1.5, 0.0).fixed_point()
    assert chaotic.q > 0.1 and chaotic.c == 0.0 and chaotic.chi > 1
    assert critical_weight(0.0) == pytest.approx(1, abs=1e-9)
    assert MeanField(0.9, 0.0).fixed_variance(start=0.0) == 0.0


def test_other_activations():
    """Closed forms: relu q = σ_b²/(1 − σ_w²/2), critical at (2, 0) with every q a fixed point; identity likewise."""
    relu = MeanField(1.2, 0.05, "relu").fixed_point()
    assert relu.q == pytest.approx(0.05 / 0.4, rel=1e-12) and relu.chi == pytest.approx(0.6, rel=1e-12)
    assert critical_weight(0.0, "relu") == pytest.approx(2, rel=1e-12)
    assert MeanField(2.0, 0.0, "relu").fixed_point(start=1.7).q == 1.7
    identity = MeanField(0.5, 0.3, "identity").fixed_point()
    assert identity.q == pytest.approx(0.6, rel=1e-12) and identity.xi_q == pytest.approx(1 / math.log(2), rel=1e-12)
    sigmoid = MeanField(critical_weight(0.05, "sigmoid"), 0.05, "sigmoid")
    assert sigmoid.chi(sigmoid.fixed_variance()) == pytest.approx(1, abs=1e-9)


def test_depth_scale_of_a_factor():
    assert depth_scale(math.exp(-1 / 7)) == pytest.approx(7, rel=1e-12) == depth_scale(-math.exp(-1 / 7))
    assert depth_scale(1.0) == math.inf and depth_scale(0.0) == 0.0 and depth_scale(math.e) == -1


# networks of finite width


@pytest.mark.parametrize(
    ("variances", "skip", "c"), [((1.3, 0.05), 0.0, 0.3), ((2.5, 0.05), 0.0, 0.9), ((0.1, 0.02), 1.0, 0.4)]
)
def test_random_networks_follow_the_maps(variances, skip, c):
    """Independent of the quadrature: networks with actual weights, plain and residual, in standard errors."""
    ensemble = MeanField(*variances, skip=skip)
    width, depth, networks = 1000, 14, 5
    found = measure(ensemble, width=width, depth=depth, networks=networks, q=0.6, c=c, seed=7)
    q_m, c_m = ensemble.layers(0.6, c, depth)
    for values, expected, floor in (
        (found.q, q_m, 0.02),
        (found.c, c_m, 0.01),
        (found.chi, [ensemble.chi(q) for q in q_m[:-1]], 0.02),
        (found.chi_q, [ensemble.chi_q(q) for q in q_m[:-1]], 0.02),
        (found.chi_c, [ensemble.chi(*pair) for pair in zip(q_m[:-1], c_m[:-1], strict=True)], 0.02),
    ):
        assert values.shape == (networks, len(expected))
        error = values.std(axis=0, ddof=1) / math.sqrt(networks)
        assert error.max() < 2.5 * floor
        # five networks give a rough standard error, so no layer's error counts as less than a typical one
        assert np.all(np.abs(values.mean(axis=0) - expected) < 5 * np.maximum(error, np.median(error)) + 2 / width)


def test_random_networks_lose_correlation_at_the_rate_of_the_theory():
    """tanh, width 2000: q after many layers, and the slope of ln|c − c*|."""
    ensemble = MeanField(1.3, 0.05)
    point = ensemble.fixed_point()
    found = measure(ensemble, width=2000, depth=24, networks=3, q=0.3, c=0.0, seed=3)
    late = found.q[:, 12:].mean(axis=1)
    assert abs(late.mean() - point.q) < 4 * late.std(ddof=1) / math.sqrt(3) + 1e-3
    slopes = [np.polyfit(np.arange(12), np.log(1 - c[8:20]), 1)[0] for c in found.c]
    expected = np.polyfit(np.arange(12), np.log(1 - ensemble.layers(0.3, 0.0, 24)[1][8:20]), 1)[0]
    assert np.mean(slopes) == pytest.approx(expected, rel=0.06)
    assert np.mean(slopes) == pytest.approx(-1 / point.xi_c, rel=0.15)  # and not, say, half of it


def test_measurements_repeat_bitwise_and_differ_between_seeds():
    settings = {"width": 50, "depth": 3, "networks": 2, "q": 1.0, "c": 0.5}
    one = measure(MeanField(1.0, 0.1), **settings, seed=1)
    assert np.array_equal(one.q, measure(MeanField(1.0, 0.1), **settings, seed=1).q)
    assert not np.array_equal(one.q, measure(MeanField(1.0, 0.1), **settings, seed=2).q)
    np.testing.assert_allclose(one.q[:, 0], 1.0, rtol=1e-12)
    np.testing.assert_allclose(one.c[:, 0], 0.5, rtol=1e-12)


# what is refused


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MeanField(-1.0, 0.0), "weight variance σ_w² = -1.0: needs a finite number >= 0"),
        (lambda: MeanField(1.0, math.nan), "bias variance σ_b² = nan: needs a finite number >= 0"),
        (lambda: MeanField(math.inf, 0.0), "weight variance σ_w² = inf: needs a finite number >= 0"),
        (lambda: MeanField(True, 0.0), "weight variance σ_w² = True: needs a finite number >= 0"),
        (lambda: MeanField(1.0, 0.0, skip=1.5), "skip s = 1.5: needs a number from 0 (plain) to 1 (residual)"),
        (lambda: MeanField(1.0, 0.0, nodes=1), "nodes = 1: needs a whole number >= 2"),
        (lambda: MeanField(1.0, 0.0, "tan"), "unknown activation 'tan': use one of "),
        (lambda: MeanField(1.0, 0.0).layers(1.0, 1.1, 3), "correlation c = 1.1: needs a number from -1 to 1"),
        (lambda: MeanField(1.0, 0.0).layers(-1.0, 1.0, 3), "variance q = -1.0: needs a finite number >= 0"),
        (
            lambda: MeanField(2.5, 0.1, "relu").fixed_point(),
            "relu, σ_w² = 2.5, σ_b² = 0.1: no fixed point, the variance grows without bound",
        ),
        (
            lambda: MeanField(1.0, 0.1, skip=1.0).fixed_point(),
            "tanh, σ_w² = 1, σ_b² = 0.1, s = 1: no fixed point, the variance grows without bound",
        ),
        (lambda: critical_weight(0.05, "relu"), "relu has no critical line at σ_b² = 0.05"),
        (lambda: critical_weight(0.05, "gelu"), "gelu has no critical line at σ_b² = 0.05: no stable variance"),
        (lambda: critical_weight(0.0, "gelu"), "gelu has no critical line at σ_b² = 0: no stable variance"),
        (lambda: critical_weight(-0.05), "bias variance σ_b² = -0.05: needs a finite number >= 0"),
        (
            lambda: measure(MeanField(1.0, 0.1), width=0, depth=1, networks=1, q=1.0, c=0.0, seed=0),
            "random networks: width = 0: needs a whole number >= 2",
        ),
    ],
)  # fmt: skip
def test_refused_in_one_line(build, message):
    with pytest.raises(InputError) as caught:
        build()
    assert "\n" not in str(caught.value) and str(caught.value).startswith(message)
