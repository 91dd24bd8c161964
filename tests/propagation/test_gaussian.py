"""Gaussian averages against closed forms, Gauss–Hermite rules and sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bbdfield.model.activations import get_activation
from bbdfield.propagation.gaussian import NODES, average, pair_average

ACTIVATIONS = ("tanh", "sigmoid", "softplus", "relu", "gelu", "identity")


@pytest.mark.parametrize("power", range(7))
def test_moments(power):
    exact = 0 if power % 2 else math.prod(range(1, power, 2)) * 1.7 ** (power / 2)
    assert average(lambda u: u**power, 1.7) == pytest.approx(exact, abs=1e-12, rel=1e-13)


@pytest.mark.parametrize("c", [-1.0, -0.6, 0.0, 0.3, 0.999, 1.0])
def test_pairs_of_rectified_values_have_closed_forms(c):
    """The arc-cosine kernels (Cho, Saul 2009): kinks cost no digits."""
    relu = get_activation("relu")
    angle = math.acos(c)
    first = (math.sin(angle) + (math.pi - angle) * c) / (2 * math.pi)
    assert pair_average(relu.f, relu.f, 2.5, c) == pytest.approx(2.5 * first, abs=1e-13)
    assert pair_average(relu.df, relu.df, 2.5, c) == pytest.approx((math.pi - angle) / (2 * math.pi), abs=1e-13)


@pytest.mark.parametrize("q", [0.1, 1.0])
def test_against_gauss_hermite(q):
    """For small variances, where that converges too."""
    x, w = np.polynomial.hermite_e.hermegauss(180)
    w = w / w.sum()
    u = math.sqrt(q) * x
    assert average(np.tanh, q) == pytest.approx(0, abs=1e-15)
    assert average(lambda v: np.tanh(v) ** 2, q) == pytest.approx(w @ np.tanh(u) ** 2, rel=1e-10)
    c = 0.4
    second = c * u[:, None] + math.sqrt(1 - c * c) * u
    plane = w @ (np.tanh(u)[:, None] * np.tanh(second)) @ w
    assert pair_average(np.tanh, np.tanh, q, c) == pytest.approx(plane, rel=1e-10)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("q", [0.0, 0.3, 5.0, 200.0])
def test_twice_the_nodes_change_nothing(name, q):
    sigma = get_activation(name)
    for f in (lambda u: sigma.f(u) ** 2, lambda u: sigma.df(u) ** 2, lambda u: sigma.f(u) * sigma.d2f(u)):
        assert average(f, q, 2 * NODES) == pytest.approx(average(f, q), rel=1e-12, abs=1e-12)
    for c in (-0.5, 0.2, 0.99):
        for f in (sigma.f, sigma.df):
            assert pair_average(f, f, q, c, 2 * NODES) == pytest.approx(pair_average(f, f, q, c), rel=1e-12)


def test_a_rule_of_few_nodes_would_be_noticed():
    assert abs(average(lambda u: np.tanh(u) ** 2, 5.0, 6) / average(lambda u: np.tanh(u) ** 2, 5.0) - 1) > 1e-9


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "gelu", "relu"])
def test_price_s_theorem(name):
    """∂/∂c E[σ(u₁)σ(u₂)] = q E[σ'(u₁)σ'(u₂)]."""
    sigma, q, c, h = get_activation(name), 1.3, 0.35, 1e-4
    slope = (pair_average(sigma.f, sigma.f, q, c + h) - pair_average(sigma.f, sigma.f, q, c - h)) / (2 * h)
    assert slope == pytest.approx(q * pair_average(sigma.df, sigma.df, q, c), rel=1e-7)


def test_pairs_are_continuous_where_they_become_one():
    tanh = get_activation("tanh")
    whole = average(lambda u: tanh.df(u) ** 2, 2.0)
    assert pair_average(tanh.df, tanh.df, 2.0, 1 - 1e-9) == pytest.approx(whole, rel=1e-8)
    assert pair_average(tanh.f, tanh.df, 2.0, -1.0) == pytest.approx(0, abs=1e-15)


def test_pairs_against_sampling():
    rng = np.random.default_rng(4)
    g = rng.standard_normal((2, 400_000))
    c, q = 0.7, 1.8
    u1, u2 = math.sqrt(q) * g[0], math.sqrt(q) * (c * g[0] + math.sqrt(1 - c * c) * g[1])
    sigma = get_activation("gelu")
    values = sigma.f(u1) * sigma.df(u2)
    error = values.std() / math.sqrt(values.size)
    assert abs(values.mean() - pair_average(sigma.f, sigma.df, q, c)) < 4 * error
