"""Balanced weights of lists and of infinitely deep networks: the conserved matrices to rounding, and refusals."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import fractional_matrix_power

from bbdfield.errors import InputError
from bbdfield.lattice.balanced import BalancedField, imbalances, product, relaxed_balanced

N = 4


@pytest.mark.parametrize(
    "widths, relaxation",
    [
        ((3, 4, 2), 0.0),
        ((5, 2, 5, 2), 0.0),
        ((3, 3, 3), 0.7),
        ((3, 3, 3), -0.7),
        ((3, 2, 4), 0.5),
        ((3, 2, 4), -0.5),
        ((4, 4, 4, 4), (0.8, -0.3)),
        ((2, 3, 3, 5), (0.5, 0.3)),
        ((1, 3, 3, 3, 1), (1.0, 0.0, -1.0)),
        ((2, 4, 4, 4, 2), (0.1, 0.2, -0.3)),
        ((3, 2), 0.0),
    ],
)
def test_relaxed_balanced_weights_are_that_to_rounding(widths, relaxation):
    w = relaxed_balanced(widths, relaxation, np.random.default_rng(1))
    assert [part.shape for part in w] == [(n, m) for m, n in pairwise(widths)]
    found = imbalances(w)
    for d, lam in zip(found, np.broadcast_to(relaxation, len(found)), strict=True):
        assert np.abs(d - lam * np.eye(len(d))).max() < 5e-15
    if not np.any(relaxation):
        assert np.linalg.matrix_rank(product(w)) == min(widths)
    again = relaxed_balanced(widths, relaxation, np.random.default_rng(1))
    other = relaxed_balanced(widths, relaxation, np.random.default_rng(2))
    assert all(np.array_equal(p, q) for p, q in zip(w, again, strict=True))
    assert not np.array_equal(w[0], other[0])


@pytest.mark.parametrize(
    "widths, relaxation",
    [
        ((2, 3, 2), 0.5),
        ((2, 3, 2), -0.5),
        ((1, 3, 3, 1), (-1.0, 1.0)),
        ((2, 4, 4, 2), (0.1, -0.2)),
        ((3, 3, 4, 3), (1.0, 1.0)),
    ],
)
def test_widths_without_such_weights_are_refused(widths, relaxation):
    with pytest.raises(InputError, match="have no weights with D_i") as caught:
        relaxed_balanced(widths, relaxation, np.random.default_rng(1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "widths, relaxation, size, says",
    [
        ((3,), 0.0, 1.0, "no network"),
        ((3, 0, 2), 0.0, 1.0, "positive whole number"),
        ((3, 3, 3), (1.0, 2.0), 1.0, "1 finite numbers"),
        ((3, 3, 3), np.nan, 1.0, "finite numbers"),
        ((3, 3, 3), 0.0, 0.0, "size > 0"),
    ],
)
def test_what_are_no_widths_is_refused(widths, relaxation, size, says):
    with pytest.raises(InputError, match=says):
        relaxed_balanced(widths, relaxation, np.random.default_rng(1), size)


def test_why_a_refusal_is_right():
    """[2, 3, 2] with λ > 0: W_2ᵀW_2 = W_1W_1ᵀ + λ would have rank 3, W_2 has two rows."""
    w = relaxed_balanced((2, 3, 3), 0.5, np.random.default_rng(0))
    assert np.linalg.matrix_rank(w[1]) == 3


@pytest.mark.parametrize("relaxation", [0.0, 1.5])
def test_balanced_fields_are_balanced_and_propagate_as_they_say(relaxation):
    field = BalancedField.draw(N, np.random.default_rng(0), relaxation)
    h = 1e-4
    before, w, after = field.at([0.3 - h, 0.3, 0.3 + h])
    slope = (after + after.T - before - before.T) / (2 * h)
    assert np.abs(slope + w.T @ w - w @ w.T - relaxation * np.eye(N)).max() < 1e-6
    ones = np.eye(N).ravel()
    marched = solve_ivp(lambda s, p: (field.at([s])[0] @ p.reshape(N, N)).ravel(), (0, 1), ones, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(marched.y[:, -1].reshape(N, N), field.propagator(), atol=1e-8)
    # what the closed form rests on: P(s)ᵀP(s) = (ZᵀZ)^s exp(ℓ s(s−1)/2)
    z, part = field.propagator(), field.propagator(0.4)
    expected = fractional_matrix_power(z.T @ z, 0.4) * np.exp(relaxation * 0.4 * (0.4 - 1) / 2)
    np.testing.assert_allclose(part.T @ part, expected, atol=1e-12)
    assert np.abs(field.at([0.2])[0] - field.at([0.7])[0]).max() > 0.1


@pytest.mark.parametrize(
    "change, says",
    [
        ({"stretch": np.eye(3)}, "one size"),
        ({"stretch": np.triu(np.ones((N, N)))}, "symmetric"),
        ({"turn": np.eye(N)}, "antisymmetric"),
        ({"relaxation": np.inf}, "no finite number"),
    ],
)
def test_what_is_no_balanced_field_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        dataclasses.replace(BalancedField.draw(N, np.random.default_rng(0)), **change)
