"""Transfer operators with known growth: constant, commuting and random maps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import digamma

from bbdfield.errors import InputError, NumericsError
from bbdfield.propagation.transfer import (
    Layer,
    Transfer,
    depth_scale,
    growth,
    leading,
    lyapunov,
    random_directions,
)


def transfer_of(matrices: np.ndarray, samples: int = 1, length: float = 1.0) -> Transfer:
    """Layers from matrices (M, n, n) that are the same for all samples, or (M, B, n, n)."""
    stack = matrices if matrices.ndim == 4 else np.repeat(matrices[:, None], samples, axis=1)

    def layer(matrix: np.ndarray) -> Layer:
        return Layer(lambda v: np.einsum("bij,jcb->icb", matrix, v), lambda g: np.einsum("bij,icb->jcb", matrix, g))

    depth, samples, n = stack.shape[:3]
    return Transfer([layer(m) for m in stack], np.linspace(0, length, depth + 1), (n, 1, samples))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def test_the_operator_is_the_product_of_its_layers(rng):
    maps = rng.standard_normal((3, 2, 5, 5))
    transfer = transfer_of(maps)
    product = maps[2] @ maps[1] @ maps[0]
    np.testing.assert_allclose(transfer.matrix(), product, rtol=1e-13)
    v, g = rng.standard_normal((2, 5, 1, 2))
    np.testing.assert_allclose(np.sum(g * transfer.apply(v)), np.sum(v * transfer.transpose(g)), rtol=1e-13)


def test_eigenvectors_grow_at_their_rates():
    rates = np.array([0.8, -1.5, 0.0])
    transfer = transfer_of(np.repeat(np.diag(np.exp(rates * 2.0 / 8))[None], 8, axis=0), samples=2, length=2.0)
    directions = np.repeat(np.eye(3)[:, :, None, None], 2, axis=3)
    found = growth(transfer, 7.0 * directions)  # their size does not matter
    np.testing.assert_allclose(found.rate, np.repeat(rates[:, None], 2, axis=1), atol=1e-14)
    np.testing.assert_allclose(found.local, np.broadcast_to(rates[:, None], (8, 3, 2)), atol=1e-13)
    np.testing.assert_allclose(found.log[:, 0, 0], 0.8 * np.linspace(0, 2, 9), atol=1e-14)
    np.testing.assert_allclose(found.depth_scale[:2, 0], [1 / 0.8, 1 / 1.5])
    assert found.x_links[0] == 0.125 and found.x[-1] == 2.0
    assert depth_scale(0.0) == np.inf


def test_growth_resolves_depth_and_samples(rng):
    """Scalar layers: every link has its own rate, every sample too."""
    factors = rng.uniform(0.5, 2, (6, 3))
    transfer = transfer_of(factors[:, :, None, None])
    found = growth(transfer, random_directions((1, 1, 3), 4, 0))
    np.testing.assert_allclose(found.local[:, 0], np.log(factors) * 6, rtol=1e-12)
    np.testing.assert_allclose(found.log[-1], np.broadcast_to(np.log(factors).sum(axis=0), (4, 3)), rtol=1e-10)


def test_deep_products_neither_overflow_nor_underflow():
    for factor in (1e-3, 1e3):
        transfer = transfer_of(np.full((200, 1, 1), factor))
        assert growth(transfer, np.ones((1, 1, 1))).rate == pytest.approx(200 * np.log(factor))
        assert lyapunov(transfer, 1).exponents[0, 0] == pytest.approx(200 * np.log(factor))


def test_what_dies_out_has_rate_minus_infinity():
    maps = np.array([np.eye(2), np.zeros((2, 2)), np.eye(2)])
    found = growth(transfer_of(maps), np.ones((2, 1, 1)))
    assert found.rate[0, 0] == -np.inf and abs(found.local[0, 0, 0]) < 1e-14 and found.depth_scale[0, 0] == 0
    assert leading(transfer_of(maps)).log[0] == -np.inf


# the leading singular direction


def test_leading_singular_direction(rng):
    maps = rng.standard_normal((4, 3, 12, 12)) / 3
    transfer = transfer_of(maps)
    found = leading(transfer, tolerance=1e-10)
    for b, matrix in enumerate(transfer.matrix()):
        u, s, v = np.linalg.svd(matrix)
        assert found.log[b] == pytest.approx(np.log(s[0]), rel=1e-12)
        right, left = found.direction[:, 0, b], found.response[:, 0, b]
        assert abs(right @ v[0]) == pytest.approx(1, abs=1e-9) and abs(left @ u[:, 0]) == pytest.approx(1, abs=1e-9)
        np.testing.assert_allclose(matrix @ right, s[0] * left, atol=1e-9 * s[0])
    assert found.residual.max() <= 1e-10 and found.steps <= 12
    # nothing grows more
    rates = growth(transfer, np.concatenate([found.direction[None], random_directions(transfer.shape, 20, 1)])).rate
    assert (rates[0] > rates[1:].max(axis=0)).all()
    np.testing.assert_allclose(rates[0], found.log, rtol=1e-9)


def test_power_iteration_with_the_transpose_ends_at_the_same(rng):
    transfer = transfer_of(rng.standard_normal((3, 1, 8, 8)))
    v = random_directions(transfer.shape, 1, 5)[0]
    for _ in range(400):
        v = transfer.transpose(transfer.apply(v))
        v /= np.linalg.norm(v)
    assert np.log(np.linalg.norm(transfer.apply(v))) == pytest.approx(leading(transfer).log[0], rel=1e-10)


def test_nearly_equal_singular_values_and_few_steps(rng):
    """A gap of 1e-4 needs few Lanczos steps; too few are confessed by the residual."""
    q, p = (np.linalg.qr(rng.standard_normal((60, 60)))[0] for _ in range(2))
    s = np.concatenate([[1.0001, 1.0], np.linspace(0, 0.9, 58)])
    transfer = transfer_of((q * s @ p)[None])
    found = leading(transfer, tolerance=1e-9)
    assert found.log[0] == pytest.approx(np.log(1.0001), abs=1e-9)
    hasty = leading(transfer, tolerance=1e-9, steps=2)
    assert hasty.steps == 2 and hasty.residual[0] > 1e-3 and hasty.log[0] < found.log[0] - 1e-3
    warm = leading(transfer, tolerance=1e-6, start=found.direction)
    assert warm.steps == 1 and warm.log[0] == pytest.approx(found.log[0], abs=1e-9)


def test_an_orthogonal_operator_has_no_favourite(rng):
    transfer = transfer_of(np.linalg.qr(rng.standard_normal((3, 6, 6)))[0])
    found = leading(transfer)
    assert found.log[0] == pytest.approx(0, abs=1e-13) and found.steps == 1
    np.testing.assert_allclose(growth(transfer, random_directions((6, 1, 1), 3, 0)).rate, 0, atol=1e-13)


# Lyapunov exponents


def test_exponents_of_a_triangular_flow(rng):
    """Constant layers: the exponents are log moduli of eigenvalues, whatever the eigenvectors."""
    rates = np.array([1.0, 0.3, -0.4, -2.0])
    base = rng.standard_normal((4, 4))
    step = base @ np.diag(np.exp(rates * 0.5)) @ np.linalg.inv(base)
    found = lyapunov(transfer_of(np.repeat(step[None], 400, axis=0), samples=2, length=200.0), 3, seed=2)
    np.testing.assert_allclose(found.exponents, np.repeat(rates[:3, None], 2, axis=1), atol=0.02)
    np.testing.assert_allclose(found.local[200:], np.broadcast_to(rates[:3, None], (200, 3, 2)), atol=1e-6)


def test_exponents_of_random_products_have_a_closed_form():
    """Newman, Commun. Math. Phys. 103 (1986) 121: λ_i = ½ [ln(2σ²/n) + ψ((n − i + 1)/2)] for Gaussian n × n maps."""
    n, depth, samples, variance = 10, 300, 8, 1.7
    rng = np.random.default_rng(0)
    maps = np.sqrt(variance / n) * rng.standard_normal((depth, samples, n, n))
    found = lyapunov(transfer_of(maps, length=float(depth)), n, seed=1).exponents
    exact = 0.5 * (np.log(2 * variance / n) + digamma((n - np.arange(n)) / 2))
    error = found.std(axis=1, ddof=1) / np.sqrt(samples)
    assert error.max() < 0.06
    assert (np.abs(found.mean(axis=1) - exact) < 4 * np.maximum(error, np.median(error))).all()


def test_the_sum_of_all_exponents_is_the_growth_of_volumes(rng):
    transfer = transfer_of(rng.standard_normal((5, 2, 6, 6)))
    found = lyapunov(transfer, 6, seed=3).exponents
    np.testing.assert_allclose(found.sum(axis=0), np.linalg.slogdet(transfer.matrix())[1], rtol=1e-10)


# what is refused


def test_refused(rng):
    transfer = transfer_of(rng.standard_normal((2, 1, 3, 3)))
    with pytest.raises(InputError, match=r"directions \(2, 1, 1\) need the shape \(directions, 3, 1, 1\)"):
        growth(transfer, np.ones((2, 1, 1)))
    with pytest.raises(InputError, match="must not vanish"):
        growth(transfer, np.zeros((3, 1, 1)))
    with pytest.raises(InputError, match="4 exponents of 3 components"):
        lyapunov(transfer, 4)
    with pytest.raises(InputError, match="2 layers need as many increasing sites and one more"):
        Transfer(transfer.layers, np.array([0.0, 1.0]), (3, 1, 1))
    with pytest.raises(InputError, match="increasing sites"):
        Transfer(transfer.layers, np.array([0.0, 1.0, 1.0]), (3, 1, 1))
    with pytest.raises(InputError, match=r"shape of δz must be \(N, C, B\)"):
        Transfer(transfer.layers, transfer.x, (3, 1))  # type: ignore[arg-type]
    infinite = transfer_of(np.full((2, 3, 3), np.nan))
    for broken in (lambda: growth(infinite, np.ones((3, 1, 1))), lambda: lyapunov(infinite, 1)):
        with pytest.raises(NumericsError, match=r"δz is not finite at x = 0\.5"):
            broken()
    with pytest.raises(NumericsError, match="transfer operator is not finite"):
        leading(infinite)


def test_random_directions_are_unit_and_seeded():
    one = random_directions((5, 2, 3), 4, 7)
    np.testing.assert_allclose(np.sum(one**2, axis=(1, 2)), 1)
    assert np.array_equal(one, random_directions((5, 2, 3), 4, 7))
    assert not np.array_equal(one, random_directions((5, 2, 3), 4, 8))
