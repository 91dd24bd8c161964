"""The width operator against loops and quadrature, and its adjoints against itself."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad_vec

from solvers.errors import InputError
from solvers.grids import Grid
from solvers.padding import PADDINGS
from solvers.width import FFT_FROM_TAPS, KernelOperator, _fast_length

NUMPY_MODE = {"zeros": "constant", "circular": "wrap", "reflect": "symmetric"}
EVERY_PADDING = pytest.mark.parametrize("padding", PADDINGS)
#: (method, tied): the transform exists for tied kernels only
EVALUATIONS = pytest.mark.parametrize(
    ("method", "tied"),
    [("direct", True), ("direct", False), ("fft", True)],
    ids=["direct-tied", "direct-untied", "fft"],
)
#: (cells, K): one tap, few, as many as the width has cells, and 99
SIZES = pytest.mark.parametrize(("cells", "half"), [(6, 0), (9, 2), (7, 3), (100, 49)])


def arrays(cells, half, tied, channels=2, samples=3):
    rng = np.random.default_rng(cells + half)
    kernel = (channels, 2 * half + 1, channels)
    w = rng.standard_normal(kernel if tied else (cells, *kernel))
    return w, rng.standard_normal((cells, channels, samples)), rng.standard_normal((cells, channels, samples))


def operator(backend, cells, half, tied, padding, method="auto"):
    grid = Grid(1, cells)
    return KernelOperator(backend.xp, grid, (half + 0.5) * grid.h_y, tied=tied, padding=padding, method=method)


def loops(w, s, padding, h_y):
    """h_y Σ_k ŵ(y, u_k) s(y + u_k), one product at a time over cells and taps."""
    half = w.shape[-2] // 2
    padded = np.pad(s, ((half, half), (0, 0), (0, 0)), mode=NUMPY_MODE[padding])
    out = np.zeros_like(s)
    for y in range(len(s)):
        kernel = w if w.ndim == 3 else w[y]
        for k in range(2 * half + 1):
            out[y] += h_y * kernel[:, k, :] @ padded[y + k]
    return out


@EVERY_PADDING
@EVALUATIONS
@SIZES
def test_apply_agrees_with_loops(backends, cells, half, tied, padding, method):
    w, s, _ = arrays(cells, half, tied)
    found = operator(backends, cells, half, tied, padding, method).apply(backends.to_device(w), backends.to_device(s))
    expected = loops(w, s, padding, 1 / cells)
    np.testing.assert_allclose(backends.to_numpy(found), expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@EVERY_PADDING
@EVALUATIONS
@SIZES
def test_adjoints_are_the_transposes(backends, cells, half, tied, padding, method):
    w, s, g = arrays(cells, half, tied)
    dw = np.random.default_rng(5).standard_normal(w.shape)
    k = operator(backends, cells, half, tied, padding, method)
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


@EVERY_PADDING
@SIZES
def test_direct_and_transform_agree_in_every_operation(cells, half, padding, backends):
    w, s, g = (backends.to_device(a) for a in arrays(cells, half, True))
    direct, fft = (operator(backends, cells, half, True, padding, m) for m in ("direct", "fft"))
    pairs = [
        (direct.apply(w, s), fft.apply(w, s)),
        (direct.adjoint_state(w, g), fft.adjoint_state(w, g)),
        (direct.adjoint_weights(s, g), fft.adjoint_weights(s, g)),
    ]
    for a, b in (map(backends.to_numpy, pair) for pair in pairs):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13 * np.abs(a).max())


def test_untied_with_equal_kernels_is_tied():
    w, s, g = arrays(9, 2, True)
    everywhere = np.broadcast_to(w, (9, *w.shape)).copy()
    tied, untied = (KernelOperator(np, Grid(1, 9), 2.5 / 9, tied=t, padding="reflect") for t in (True, False))
    np.testing.assert_allclose(untied.apply(everywhere, s), tied.apply(w, s), rtol=0, atol=1e-14)
    np.testing.assert_allclose(untied.adjoint_weights(s, g).sum(axis=0), tied.adjoint_weights(s, g), rtol=0, atol=1e-14)


@EVERY_PADDING
def test_strided_input_gives_the_same_as_contiguous(padding):
    w, s, g = arrays(9, 2, True)
    k = KernelOperator(np, Grid(1, 9), 2.5 / 9, tied=True, padding=padding, method="direct")
    turned_s, turned_g = np.asfortranarray(s), np.asfortranarray(g)
    pairs = [
        (k.apply(w, turned_s), k.apply(w, s)),
        (k.adjoint_state(w, turned_g), k.adjoint_state(w, g)),
        (k.adjoint_weights(turned_s, turned_g), k.adjoint_weights(s, g)),
    ]
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_midpoint_rule_is_second_order_on_nested_grids(tied, padding, fitted_order):
    """Against adaptive quadrature over [-r, r], cut where the padding kinks the integrand; L2 and maximum norm."""
    radius, channel_factors = 11 / 80, np.array([[1.0, -0.4], [0.3, 0.8]])

    def kernel(y, u):
        values = np.cos(5 * u + 0.3) + u
        return values if tied else values * (1 + 0.5 * np.sin(3 * y))

    def signal(y):
        """Two channels; smooth across the edges when periodic, and with a slope there when not."""
        if padding == "circular":
            return np.stack([np.cos(2 * np.pi * y) + 0.2, np.sin(4 * np.pi * y)])
        inside = np.abs((y + 1) % 2 - 1) if padding == "reflect" else y
        return np.stack([np.exp(inside), np.cos(2 * inside) + inside]) * (
            ((y > 0) & (y < 1)) if padding == "zeros" else 1.0
        )

    def exact(y):
        edges = np.stack(
            [-radius + 0 * y, np.clip(-y, -radius, radius), np.clip(1 - y, -radius, radius), radius + 0 * y]
        )
        total = np.zeros((2, y.size))
        for low, high in pairwise(edges):
            integral, _ = quad_vec(
                lambda t, low=low, high=high: (
                    (high - low) * kernel(y, low + t * (high - low)) * signal(y + low + t * (high - low))
                ),
                0.0,
                1.0,
                epsabs=1e-11,
                epsrel=1e-11,
            )
            total += integral
        return channel_factors @ total

    spacings, l2, largest = [], [], []
    for cells in (40, 120, 360):
        grid = Grid(1, cells)
        u = grid.taps(radius)
        if tied:
            w = channel_factors[:, None, :] * kernel(0.0, u)[:, None]
        else:
            w = channel_factors[:, None, :] * kernel(grid.y[:, None], u)[:, None, :, None]
        found = KernelOperator(np, grid, radius, tied=tied, padding=padding).apply(
            w, signal(grid.y).T[:, :, None].copy()
        )
        error = found[:, :, 0].T - exact(grid.y)
        spacings.append(grid.h_y)
        l2.append(np.sqrt(np.mean(error**2)))
        largest.append(np.abs(error).max())
    assert abs(fitted_order(spacings, l2) - 2) < 0.05
    assert abs(fitted_order(spacings, largest) - 2) < 0.1


def test_radius_off_the_edge_is_refused():
    with pytest.raises(InputError, match="not on a cell edge"):
        KernelOperator(np, Grid(1, 40), 0.13, tied=True, padding="zeros")


def test_auto_takes_the_transform_for_many_tied_taps_only():
    def method(half, tied):
        return KernelOperator(np, Grid(1, 200), (half + 0.5) / 200, tied=tied, padding="zeros").method

    many = FFT_FROM_TAPS // 2 + 1
    assert (method(many, True), method(many, False), method(2, True)) == ("fft", "direct", "direct")
    with pytest.raises(ValueError, match="does not depend on y"):
        KernelOperator(np, Grid(1, 9), 2.5 / 9, tied=False, padding="zeros", method="fft")


def test_fast_length_is_the_next_product_of_small_primes():
    smooth = sorted(2**a * 3**b * 5**c for a in range(10) for b in range(6) for c in range(4))
    for n in range(1, 400):
        assert _fast_length(n) == next(m for m in smooth if m >= n)


@pytest.mark.parametrize("method", ["direct", "fft"])
def test_symbol_is_what_the_operator_does_to_plane_waves(method):
    cells, half, length = 16, 3, 1.3
    grid = Grid(1, cells, length_y=length)
    w, *_ = arrays(cells, half, True)
    k = KernelOperator(np, grid, (half + 0.5) * grid.h_y, tied=True, padding="circular", method=method)
    q = 2 * np.pi * np.arange(-cells // 2, cells // 2 + 1) / length
    direction = np.array([0.6, -1.1])
    for wave_number, matrix in zip(q, k.symbol(w, q), strict=True):
        wave = np.exp(1j * wave_number * grid.y)
        signal = (wave[:, None] * direction)[:, :, None]
        image = k.apply(w, signal.real.copy()) + 1j * k.apply(w, signal.imag.copy())
        np.testing.assert_allclose(image[:, :, 0], wave[:, None] * (matrix @ direction), rtol=0, atol=1e-13)


def test_symbol_keeps_leading_axes():
    w = np.random.default_rng(2).standard_normal((4, 9, 2, 5, 2))
    k = KernelOperator(np, Grid(1, 9), 2.5 / 9, tied=False, padding="zeros")
    found = k.symbol(w, np.array([0.0, 2.0, -2.0]))
    assert found.shape == (3, 4, 9, 2, 2)
    np.testing.assert_allclose(found[0], w.sum(axis=-2) / 9, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found[1], found[2].conj(), rtol=0, atol=1e-14)
