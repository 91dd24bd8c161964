"""The field equation of order 0 and 1: value, tangent and adjoint, for every activation."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.model.activations import get_activation
from bbdfield.model.scalings.residual import Residual, ResidualOrder0, ResidualOrder1
from solvers.grids import Grid
from solvers.padding import PADDINGS
from solvers.width import KernelOperator

ACTIVATIONS = ("tanh", "sigmoid", "softplus", "relu", "gelu", "identity")
NUMPY_MODE = {"zeros": "constant", "circular": "wrap", "reflect": "symmetric"}
N, K, C, B, A_X = 8, 2, 2, 3, 0.3

EVERY_ACTIVATION = pytest.mark.parametrize("activation", ACTIVATIONS)
EVERY_PADDING = pytest.mark.parametrize("padding", PADDINGS)
ORDERS = pytest.mark.parametrize("order", [0, 1])
TIES = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def equation(order, activation, padding="zeros", tied=True, xp=np):
    operator = KernelOperator(xp, Grid(1, N), (K + 0.5) / N, tied=tied, padding=padding)
    return Residual().bulk(order, operator, get_activation(activation), A_X)


def draw(seed, tied=True):
    """z of order one and coefficients for which F is of order one; no z within 0.01 of the kink of relu."""
    rng = np.random.default_rng(seed)
    z = 1.5 * rng.standard_normal((N, C, B))
    z += np.where(np.abs(z) < 0.01, 0.02, 0.0)
    kernel = (C, 2 * K + 1, C)
    return z, (2 * rng.standard_normal(kernel if tied else (N, *kernel)), rng.standard_normal((N, C)))


def naive_operator(w, s, padding):
    padded = np.pad(s, ((K, K), (0, 0), (0, 0)), mode=NUMPY_MODE[padding])
    gathered = np.stack([padded[k : k + N] for k in range(2 * K + 1)])  # (T, N, C, B)
    return np.einsum("akc,kycs->yas" if w.ndim == 3 else "yakc,kycs->yas", w, gathered) / N


@EVERY_PADDING
@TIES
@EVERY_ACTIVATION
def test_value_is_the_formula(activation, tied, padding):
    z, (w, b) = draw(1, tied)
    sigma = get_activation(activation)
    f = naive_operator(w, sigma.f(z), padding) + b[:, :, None]
    g = f - A_X / 2 * naive_operator(w, sigma.df(z) * f, padding)
    np.testing.assert_allclose(equation(0, activation, padding, tied).value(z, (w, b))[0], f, rtol=0, atol=1e-13)
    np.testing.assert_allclose(equation(1, activation, padding, tied).value(z, (w, b))[0], g, rtol=0, atol=1e-13)


@EVERY_PADDING
@EVERY_ACTIVATION
def test_order_1_is_its_definition_by_the_tangent_of_order_0(activation, padding):
    """G_1 = F − (a_x/2) (∂F/∂ẑ)·F."""
    z, c = draw(2)
    zeroth = equation(0, activation, padding)
    f, tape = zeroth.value(z, c)
    still = tuple(np.zeros_like(part) for part in c)
    expected = f - A_X / 2 * zeroth.tangent(tape, c, f, still)
    found, _ = equation(1, activation, padding).value(z, c)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    assert np.abs(found - f).max() > 0.01 * np.abs(f).max()


@TIES
@ORDERS
@EVERY_ACTIVATION
def test_tangent_is_the_central_difference(activation, order, tied):
    (z, c), (dz, dc) = draw(3, tied), draw(4, tied)
    rhs = equation(order, activation, tied=tied)
    _, tape = rhs.value(z, c)
    h = 1e-6

    def moved(e):
        return rhs.value(z + e * dz, tuple(a + e * d for a, d in zip(c, dc, strict=True)))[0]

    exact = rhs.tangent(tape, c, dz, dc)
    np.testing.assert_allclose(exact, (moved(h) - moved(-h)) / (2 * h), rtol=0, atol=1e-7 * np.abs(exact).max())


@EVERY_PADDING
@TIES
@ORDERS
@EVERY_ACTIVATION
def test_adjoint_is_the_transpose_of_the_tangent(activation, order, tied, padding):
    (z, c), (dz, dc) = draw(5, tied), draw(6, tied)
    rhs = equation(order, activation, padding, tied)
    _, tape = rhs.value(z, c)
    g = np.random.default_rng(7).standard_normal(z.shape)
    z_bar, (w_bar, b_bar) = rhs.adjoint(tape, c, g)
    assert (z_bar.shape, w_bar.shape, b_bar.shape) == (z.shape, c[0].shape, c[1].shape)
    still_z, still_w, still_b = 0 * dz, 0 * dc[0], 0 * dc[1]
    moves = [(z_bar, (dz, still_w, still_b)), (w_bar, (still_z, dc[0], still_b)), (b_bar, (still_z, still_w, dc[1]))]
    for bar, direction in moves:
        image = rhs.tangent(tape, c, direction[0], direction[1:])
        moved = next(part for part in direction if part.any())
        scale = np.linalg.norm(g) * np.linalg.norm(image) + np.linalg.norm(bar) * np.linalg.norm(moved)
        assert abs(np.vdot(g, image) - np.vdot(bar, moved)) <= 1e-13 * scale


@ORDERS
@EVERY_ACTIVATION
def test_every_backend_agrees_with_numpy(backends, activation, order):
    (z, c), (dz, dc) = draw(8), draw(9)
    put, get = backends.to_device, backends.to_numpy
    reference = equation(order, activation)
    f, tape = reference.value(z, c)
    z_bar, c_bar = reference.adjoint(tape, c, dz)
    rhs = equation(order, activation, xp=backends.xp)
    on_device = tuple(map(put, c))
    found, tape_there = rhs.value(put(z), on_device)
    back, bars = rhs.adjoint(tape_there, on_device, put(dz))
    pairs = [
        (found, f),
        (rhs.tangent(tape_there, on_device, put(dz), tuple(map(put, dc))), reference.tangent(tape, c, dz, dc)),
        (back, z_bar),
        *zip(bars, c_bar, strict=True),
    ]
    for there, here in pairs:
        np.testing.assert_allclose(get(there), here, rtol=0, atol=1e-13 * max(1.0, np.abs(here).max()))


def test_orders_are_0_and_1():
    operator = KernelOperator(np, Grid(1, N), (K + 0.5) / N, tied=True, padding="zeros")
    tanh = get_activation("tanh")
    assert isinstance(Residual().bulk(0, operator, tanh, A_X), ResidualOrder0)
    assert isinstance(Residual().bulk(1, operator, tanh, A_X), ResidualOrder1)
    with pytest.raises(InputError, match=r"field\.orders: order 2 is not defined for .* use one of 0, 1"):
        Residual().bulk(2, operator, tanh, A_X)
