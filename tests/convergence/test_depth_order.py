"""The order of every depth scheme, forward, backward and for the gradient, is the one that it declares.

References come from other routes: a matrix exponential for the linear equation; for the non-linear one an adaptive
Runge-Kutta method of order 8, forward in x, then the adjoint and its integrand backward along its dense output.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from bbdfield.model.activations import get_activation
from bbdfield.model.scalings import Residual
from solvers.grids import Grid
from solvers.sweeps import SCHEMES, DepthMarch, NodeReconstruction
from solvers.width import KernelOperator

N, K, C, B, A_X = 8, 1, 2, 2, 0.1
SHAPE, KERNEL = (N, C, B), (C, 2 * K + 1, C)
EVERY_SCHEME = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
ORDERS = pytest.mark.parametrize("order", [0, 1])
SIZES = {"euler": (64, 128, 256), "midpoint": (16, 32, 64), "rk4": (32, 64, 128)}
TOLERANCE = 0.1


def equation(order, activation, padding="reflect"):
    operator = KernelOperator(np, Grid(1, N), (K + 0.5) / N, tied=True, padding=padding)
    return Residual().bulk(order, operator, get_activation(activation), A_X)


def rms(values):
    return np.sqrt(np.mean(values**2))


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def coefficients(x):
    """Smooth ŵ(x), b̂(x) that differ at the two ends, at points x: (points, *KERNEL), (points, N, C)."""
    waves = np.stack([np.ones_like(x), np.sin(2 * x + 0.3), np.cos(3 * x)])
    return np.tensordot(waves.T, 2 * draw(1, 3, *KERNEL), 1), np.tensordot(waves.T, draw(2, 3, N, C), 1)


def march(scheme, n, order, activation="tanh", constant=False):
    """(z at the sites, λ at the sites, functional gradients of <g, ẑ(L_x)> on the links) on n cells."""
    depth = DepthMarch(equation(order, activation), Grid(n, N), scheme)
    r = depth.reconstruction
    links = coefficients(0 * r.grid.x_links if constant else r.grid.x_links)
    c = tuple(np.tensordot(r.interpolation, part, 1) for part in links)
    sweep = depth.forward(draw(3, *SHAPE), c)
    bars = tuple(np.zeros_like(part) for part in c)

    def add(node, cotangents):
        for bar, value in zip(bars, cotangents, strict=True):
            bar[node] += value

    lam = depth.adjoint(sweep, c, draw(4, *SHAPE), add)
    return sweep.z, lam, tuple(np.tensordot(r.gradient_map, bar, 1) for bar in bars)


@cache
def solution(order):
    """ẑ(x), λ(x) as functions, and the integrand (∂G/∂c)† λ of the gradients."""
    rhs = equation(order, "tanh")
    settings = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-13, "dense_output": True}

    def at(x):
        return tuple(part[0] for part in coefficients(np.array([x])))

    def forward(x, z):
        return rhs.value(z.reshape(SHAPE), at(x))[0].ravel()

    z = solve_ivp(forward, (0, 1), draw(3, *SHAPE).ravel(), **settings).sol

    def cotangents(x, lam):
        c = at(x)
        return rhs.adjoint(rhs.value(z(x).reshape(SHAPE), c)[1], c, lam.reshape(SHAPE))

    def backward(x, lam):
        return -cotangents(x, lam)[0].ravel()

    lam = solve_ivp(backward, (1, 0), draw(4, *SHAPE).ravel(), **settings).sol
    return z, lam, lambda x: cotangents(x, lam(x))[1]


@cache
def exact_gradients(order, n):
    """δ/δŵ(x), δ/δb̂(x) at the links of n cells."""
    _, _, integrand = solution(order)
    parts = [integrand(x) for x in Grid(n, N).x_links]
    return tuple(np.stack(group) for group in zip(*parts, strict=True))


@ORDERS
@EVERY_SCHEME
def test_linear_equation_against_the_matrix_exponential(scheme, order, fitted_order):
    rhs = equation(order, "identity")
    c = tuple(part[0] for part in coefficients(np.zeros(1)))
    size = N * C
    units = np.eye(size).reshape(N, C, size)
    _, tape = rhs.value(units, c)
    matrix = rhs.tangent(tape, c, units, (0 * c[0], 0 * c[1])).reshape(size, size)
    constant = rhs.value(np.zeros((N, C, 1)), c)[0].ravel()
    augmented = np.zeros((size + 1, size + 1))
    augmented[:size, :size], augmented[:size, size] = matrix, constant
    start = np.concatenate([draw(3, *SHAPE).reshape(size, B), np.ones((1, B))])
    z_end = (expm(augmented) @ start)[:size].reshape(SHAPE)
    lam_start = (expm(matrix.T) @ draw(4, *SHAPE).reshape(size, B)).reshape(SHAPE)

    sizes, of_z, of_lam = SIZES[scheme.name], [], []
    for n in sizes:
        z, lam, _ = march(scheme, n, order, "identity", constant=True)
        of_z.append(np.linalg.norm(z[-1] - z_end))
        of_lam.append(np.linalg.norm(lam[0] - lam_start))
    for errors in (of_z, of_lam):
        assert abs(fitted_order(1 / np.array(sizes), errors) - scheme.order) < TOLERANCE


@ORDERS
@EVERY_SCHEME
def test_nonlinear_equation_with_coefficients_that_vary_in_depth(scheme, order, fitted_order):
    """ẑ(L_x), λ(0), and both gradients in L2 over the middle half of the depth."""
    sizes = SIZES[scheme.name]
    exact_z, exact_lam, _ = solution(order)
    z_end, lam_start = exact_z(1.0).reshape(SHAPE), exact_lam(0.0).reshape(SHAPE)
    errors = {name: [] for name in ("z", "lambda", "w", "b")}
    for n in sizes:
        z, lam, (g_w, g_b) = march(scheme, n, order)
        errors["z"].append(np.linalg.norm(z[-1] - z_end))
        errors["lambda"].append(np.linalg.norm(lam[0] - lam_start))
        middle = slice(n // 4, n - n // 4)
        for name, found, exact in zip(("w", "b"), (g_w, g_b), exact_gradients(order, n), strict=True):
            errors[name].append(rms(found[middle] - exact[middle]))
    orders = {name: fitted_order(1 / np.array(sizes), values) for name, values in errors.items()}
    for name, measured in orders.items():
        assert abs(measured - scheme.order) < TOLERANCE, (name, orders)


@pytest.mark.parametrize(("scheme", "expected"), [("euler", 1.0), ("midpoint", 2.0), ("rk4", 3.5)])
def test_gradient_in_l2_over_the_whole_depth(scheme, expected, fitted_order):
    """RK4's stage values are third order; at the first and last links no neighbouring cell cancels that: h³√h in L2."""
    sizes = (48, 96, 192) if scheme == "rk4" else SIZES[scheme]
    for part in (0, 1):
        errors = [rms(march(SCHEMES[scheme], n, 1)[2][part] - exact_gradients(1, n)[part]) for n in sizes]
        assert abs(fitted_order(1 / np.array(sizes), errors) - expected) < TOLERANCE


@EVERY_SCHEME
def test_directional_derivative_along_smooth_fields(scheme, fitted_order):
    """The gradient's integral against smooth fields over the whole depth, ends included, has the declared order."""
    sizes = SIZES[scheme.name]
    shape = draw(6, *KERNEL)

    def direction(x):
        return np.exp(x)[:, None, None, None] * shape

    x, weights = np.polynomial.legendre.leggauss(40)
    x, weights = (x + 1) / 2, weights / 2
    gradient = np.stack([solution(1)[2](point)[0] for point in x])
    exact = weights @ (gradient * direction(x)).sum(axis=(1, 2, 3))
    errors = []
    for n in sizes:
        grid = Grid(n, N)
        mass = NodeReconstruction(grid, scheme).mass
        errors.append(abs(np.vdot(march(scheme, n, 1)[2][0], np.tensordot(mass, direction(grid.x_links), 1)) - exact))
    assert abs(fitted_order(1 / np.array(sizes), errors) - scheme.order) < TOLERANCE
