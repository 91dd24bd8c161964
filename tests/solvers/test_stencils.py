"""Finite differences against dense matrices and exact derivatives, and their adjoints against themselves."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest

from solvers.errors import InputError
from solvers.grids import Grid
from solvers.padding import PADDINGS
from solvers.stencils import FIRST, ORDERS, SECOND, DifferenceOperator

NUMPY_MODE = {"zeros": "constant", "circular": "wrap", "reflect": "symmetric"}
EVERY_PADDING = pytest.mark.parametrize("padding", PADDINGS)
EVERY_ORDER = pytest.mark.parametrize("order", ORDERS)
EVERY_ACCURACY = pytest.mark.parametrize("accuracy", list(FIRST))
TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
MIXED = pytest.mark.parametrize("mixed", [False, True], ids=["moments", "mixed"])
CELLS = 9


def operator(xp, order, tied, padding, accuracy, mixed=False, cells=CELLS, length=1.0):
    mixing = np.random.default_rng(8).standard_normal((order + 1, 4)) if mixed else None
    grid = Grid(1, cells, length_y=length)
    return DifferenceOperator(xp, grid, order=order, tied=tied, padding=padding, accuracy=accuracy, mixing=mixing)


def arrays(components, tied, cells=CELLS, channels=2, samples=3):
    rng = np.random.default_rng(10 * cells + components)
    kernel = (channels, components, channels)
    w = rng.standard_normal(kernel if tied else (cells, *kernel))
    return w, rng.standard_normal((cells, channels, samples)), rng.standard_normal((cells, channels, samples))


def dense(n, padding, accuracy, cells, h):
    """D_n as a matrix (cells, cells), one tap at a time."""
    if n == 0:
        return np.eye(cells)
    half = accuracy // 2
    extension = np.pad(np.eye(cells), ((half, half), (0, 0)), mode=NUMPY_MODE[padding])
    matrix = np.zeros((cells, cells))
    for i in range(cells):
        if n == 2:
            matrix[i] += SECOND[accuracy][0] * extension[i + half]
        for j in range(1, half + 1):
            right, left = extension[i + half + j], extension[i + half - j]
            matrix[i] += FIRST[accuracy][j - 1] * (right - left) if n == 1 else SECOND[accuracy][j] * (right + left)
    return matrix / h**n


@MIXED
@EVERY_PADDING
@TIED
@EVERY_ORDER
@EVERY_ACCURACY
def test_apply_and_adjoints_agree_with_dense_matrices(backends, accuracy, order, tied, padding, mixed):
    k = operator(backends.xp, order, tied, padding, accuracy, mixed, length=0.7)
    w, s, g = arrays(k.components, tied)
    moments = w if not mixed else np.random.default_rng(8).standard_normal((order + 1, 4)) @ w
    moments = np.broadcast_to(moments, (CELLS, *moments.shape[-3:]))
    derivatives = np.stack([dense(n, padding, accuracy, CELLS, 0.7 / CELLS) for n in range(order + 1)])
    matrix = np.einsum("ycnd,nyx->ycxd", moments, derivatives)
    put, get = backends.to_device, backends.to_numpy

    expected = np.einsum("ycxd,xdb->ycb", matrix, s)
    tolerance = 1e-13 * np.abs(expected).max()
    np.testing.assert_allclose(get(k.apply(put(w), put(s))), expected, rtol=0, atol=tolerance)

    expected = np.einsum("ycxd,ycb->xdb", matrix, g)
    tolerance = 1e-13 * np.abs(expected).max()
    np.testing.assert_allclose(get(k.adjoint_state(put(w), put(g))), expected, rtol=0, atol=tolerance)

    expected = np.einsum("ycb,nyx,xdb->ycnd", g, derivatives, s)
    if mixed:
        expected = np.random.default_rng(8).standard_normal((order + 1, 4)).T @ expected
    expected = expected.sum(axis=0) if tied else expected
    tolerance = 1e-13 * np.abs(expected).max()
    np.testing.assert_allclose(get(k.adjoint_weights(put(s), put(g))), expected, rtol=0, atol=tolerance)


@MIXED
@EVERY_PADDING
@TIED
@EVERY_ORDER
@EVERY_ACCURACY
def test_adjoints_are_the_transposes(backends, accuracy, order, tied, padding, mixed):
    k = operator(backends.xp, order, tied, padding, accuracy, mixed)
    w, s, g = arrays(k.components, tied)
    dw = np.random.default_rng(5).standard_normal(w.shape)
    put, get = backends.to_device, backends.to_numpy
    norm = np.linalg.norm

    image, pulled = get(k.apply(put(w), put(s))), get(k.adjoint_state(put(w), put(g)))
    assert pulled.shape == s.shape
    scale = norm(g) * norm(image) + norm(pulled) * norm(s)
    assert abs(np.vdot(g, image) - np.vdot(pulled, s)) <= 1e-13 * scale

    image, pulled = get(k.apply(put(dw), put(s))), get(k.adjoint_weights(put(s), put(g)))
    assert pulled.shape == w.shape
    scale = norm(g) * norm(image) + norm(pulled) * norm(dw)
    assert abs(np.vdot(g, image) - np.vdot(pulled, dw)) <= 1e-13 * scale


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("padding", ["circular", "reflect"])
@EVERY_ACCURACY
def test_measured_order_of_the_differences_is_the_declared_one(accuracy, padding, n, fitted_order):
    """On a function that the padding continues smoothly; L2 and maximum norm."""
    spacings, l2, largest = [], [], []
    wave = np.pi * (2 if padding == "circular" else 1) / 1.5
    for cells in (40, 80, 160) if padding == "circular" else (20, 40, 80):
        grid = Grid(1, cells, length_y=1.5)
        phase = wave * grid.y
        signal = np.exp(0.5 * np.cos(phase))
        slope = -0.5 * np.sin(phase)
        exact = wave**n * signal * (slope if n == 1 else slope**2 - 0.5 * np.cos(phase))
        k = DifferenceOperator(np, grid, order=2, tied=True, padding=padding, accuracy=accuracy)
        w = np.zeros((1, 3, 1))
        w[0, n, 0] = 1.0
        error = k.apply(w, signal[:, None, None])[:, 0, 0] - exact
        spacings.append(grid.h_y)
        l2.append(np.sqrt(np.mean(error**2)))
        largest.append(np.abs(error).max())
    assert abs(fitted_order(spacings, l2) - accuracy) < 0.1
    assert abs(fitted_order(spacings, largest) - accuracy) < 0.1


@MIXED
@EVERY_ORDER
@EVERY_ACCURACY
def test_symbol_is_what_the_operator_does_to_plane_waves(accuracy, order, mixed):
    cells, length = 16, 1.3
    k = operator(np, order, True, "circular", accuracy, mixed, cells, length)
    w, *_ = arrays(k.components, True)
    q = 2 * np.pi * np.arange(-cells // 2, cells // 2 + 1) / length
    y = Grid(1, cells, length_y=length).y
    direction = np.array([0.6, -1.1])
    found = k.symbol(w, q)
    assert found.shape == (len(q), 2, 2) and found.dtype == complex
    for wave_number, matrix in zip(q, found, strict=True):
        wave = np.exp(1j * wave_number * y)
        signal = (wave[:, None] * direction)[:, :, None]
        image = k.apply(w, signal.real.copy()) + 1j * k.apply(w, signal.imag.copy())
        expected = wave[:, None] * (matrix @ direction)
        np.testing.assert_allclose(image[:, :, 0], expected, rtol=0, atol=1e-12 * max(1, np.abs(expected).max()))


@EVERY_ACCURACY
def test_symbol_approaches_the_derivatives_and_keeps_leading_axes(accuracy):
    k = DifferenceOperator(np, Grid(1, 1000), order=2, tied=False, padding="zeros", accuracy=accuracy)
    w = np.random.default_rng(1).standard_normal((4, 5, 2, 3, 2))
    q = np.array([0.0, 3.0, -7.0])
    found = k.symbol(w, q)
    exact = w[..., 0, :] + np.multiply.outer(1j * q, w[..., 1, :]) - np.multiply.outer(q**2, w[..., 2, :])
    assert found.shape == (3, 4, 5, 2, 2)
    np.testing.assert_allclose(found, exact, rtol=0, atol=30 * np.abs(exact).max() * (7 / 1000) ** accuracy + 1e-9)


@EVERY_PADDING
@TIED
def test_second_order_expansion_of_three_taps_is_their_plain_sum(padding, tied):
    """Σ_n (k a)^n/n! D_n s = s(y + k a), k = −1, 0, 1, for differences of accuracy 2 on the lattice's own sites."""
    grid = Grid(1, CELLS, length_y=0.8)
    a = grid.h_y
    mixing = np.array([[(k * a) ** n / (1, 1, 2)[n] for k in (-1, 0, 1)] for n in range(3)])
    taken = DifferenceOperator(np, grid, order=2, tied=tied, padding=padding, accuracy=2, mixing=mixing)
    w, s, _ = arrays(3, tied)
    padded = np.pad(s, ((1, 1), (0, 0), (0, 0)), mode=NUMPY_MODE[padding])
    taps = np.broadcast_to(w, (CELLS, *w.shape[-3:]))
    expected = sum(taps[:, :, k, :] @ padded[k : k + CELLS] for k in range(3))
    np.testing.assert_allclose(taken.apply(w, s), expected, rtol=0, atol=1e-14 * np.abs(expected).max())
    q = np.linspace(-np.pi / a, np.pi / a, 7)
    shifts = np.exp(1j * np.multiply.outer(q, a * np.arange(-1, 2)))
    np.testing.assert_allclose(taken.symbol(w, q), np.tensordot(shifts, w, axes=(1, -2)), rtol=0, atol=1e-14)


@EVERY_ORDER
@MIXED
def test_untied_with_equal_coefficients_is_tied(order, mixed):
    tied, untied = (operator(np, order, t, "reflect", 4, mixed) for t in (True, False))
    w, s, g = arrays(tied.components, True)
    everywhere = np.broadcast_to(w, (CELLS, *w.shape)).copy()
    pairs = [
        (untied.apply(everywhere, s), tied.apply(w, s)),
        (untied.adjoint_state(everywhere, g), tied.adjoint_state(w, g)),
        (untied.adjoint_weights(s, g).sum(axis=0), tied.adjoint_weights(s, g)),
    ]
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@EVERY_PADDING
@EVERY_ORDER
def test_strided_input_gives_the_same_and_is_left_alone(padding, order):
    k = operator(np, order, True, padding, 4)
    w, s, g = arrays(k.components, True)
    turned_s, turned_g = np.asfortranarray(s), np.asfortranarray(g)
    pairs = [
        (k.apply(w, turned_s), k.apply(w, s)),
        (k.adjoint_state(w, turned_g), k.adjoint_state(w, g)),
        (k.adjoint_weights(turned_s, turned_g), k.adjoint_weights(s, g)),
    ]
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    for before, after in zip(arrays(k.components, True), (w, s, g), strict=True):
        np.testing.assert_array_equal(before, after)


@EVERY_PADDING
@EVERY_ACCURACY
def test_as_few_cells_as_the_stencil_reaches_are_enough(padding, accuracy):
    cells = accuracy // 2
    k = operator(np, 2, True, padding, accuracy, cells=cells)
    w, s, g = arrays(3, True, cells=cells)
    derivatives = [dense(n, padding, accuracy, cells, 1 / cells) for n in range(3)]
    expected = sum(np.einsum("cd,yx,xdb->ycb", w[:, n], derivatives[n], s) for n in range(3))
    np.testing.assert_allclose(k.apply(w, s), expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    assert np.vdot(g, expected) == pytest.approx(np.vdot(k.adjoint_state(w, g), s), rel=1e-12)


@pytest.mark.parametrize("padding", ["circular", "reflect"])
def test_fewer_cells_than_the_stencil_reaches_are_refused(padding):
    with pytest.raises(InputError, match=f"reaches 3 cells and the width has 2, too few for {padding}") as caught:
        operator(np, 1, True, padding, 6, cells=2)
    assert "\n" not in str(caught.value)
    w, s, _ = arrays(2, True, cells=2)
    inside = operator(np, 1, True, "zeros", 6, cells=2)
    step = FIRST[6][0] * 2  # D_1 s of (s_0, s_1) is c_1 (s_1, −s_0) / h
    expected = w[:, 0] @ s + w[:, 1] @ (step * np.stack([s[1], -s[0]]))
    np.testing.assert_allclose(inside.apply(w, s), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": 3}, "width order 3 does not exist; use one of 0, 1, 2"),
        ({"accuracy": 3}, "stencil accuracy 3 does not exist; use one of 2, 4, 6"),
        ({"padding": "edge"}, "padding 'edge' does not exist; use one of zeros, circular, reflect"),
        ({"mixing": np.ones((2, 3))}, r"mixing of shape \(2, 3\): needs \(3, components\) for width order 2"),
        ({"mixing": np.ones(3)}, r"mixing of shape \(3,\): needs"),
    ],
)
def test_bad_settings_are_refused_in_one_line(changes, message):
    settings = {"order": 2, "tied": True, "padding": "zeros", "accuracy": 4, "mixing": None}
    with pytest.raises(InputError, match=message) as caught:
        DifferenceOperator(array_api_strict, Grid(1, 8), **(settings | changes))
    assert "\n" not in str(caught.value)
