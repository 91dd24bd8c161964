"""Fitted orders: recovered from power laws, with an interval that covers the truth."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield.comparison.orders import fit_order
from bbdfield.errors import InputError


def test_a_power_law_is_recovered() -> None:
    h = [1 / 16, 1 / 64, 1 / 32]
    fit = fit_order(h, [3.0 * s**1.7 for s in h])
    assert fit.order == pytest.approx(1.7, abs=1e-12)
    assert fit.prefactor == pytest.approx(3.0, rel=1e-10)
    np.testing.assert_allclose(fit.local, [1.7, 1.7], atol=1e-12)
    assert fit.ci is not None and fit.ci[1] - fit.ci[0] < 1e-6


def test_the_interval_covers_the_true_order_nineteen_times_out_of_twenty() -> None:
    rng = np.random.default_rng(0)
    h = 1 / np.array([8, 16, 32, 64, 128])
    covered = 0
    for _ in range(400):
        low, high = fit_order(h, h**2 * np.exp(0.1 * rng.standard_normal(5))).ci or (np.nan, np.nan)
        covered += low <= 2 <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_two_rungs_have_a_slope_but_no_interval() -> None:
    fit = fit_order([0.1, 0.05], [1e-2, 2.5e-3])
    assert fit.order == pytest.approx(2.0) and fit.ci is None


@pytest.mark.parametrize(
    ("h", "e"), [([0.1], [1.0]), ([0.1, 0.1], [1, 2]), ([0.1, 0.2], [0.0, 1.0]), ([0.1, 0.2], [np.nan, 1])]
)
def test_what_has_no_order_is_refused(h: list[float], e: list[float]) -> None:
    with pytest.raises(InputError, match="order"):
        fit_order(h, e)
