"""Depth marches: tangent against differences, adjoint against tangent, coefficients between links and nodes."""

from __future__ import annotations

import numpy as np
import pytest

from solvers.errors import InputError
from solvers.grids import Grid
from solvers.sweeps import SCHEMES, DepthMarch, NodeReconstruction, get_scheme

EVERY_SCHEME = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)


class Pendulums:
    """G(z; a, b) = a sin z + b: z (n,), a (n, n), b (n,)."""

    def value(self, z, c):
        return c[0] @ np.sin(z) + c[1], z

    def tangent(self, z, c, dz, dc):
        return c[0] @ (np.cos(z) * dz) + dc[0] @ np.sin(z) + dc[1]

    def adjoint(self, z, c, g):
        return np.cos(z) * (c[0].T @ g), (np.outer(g, np.sin(z)), g)


class Quadrature:
    """G = φ c², so that z(L_x) = z(0) + ∫ φ c² dx and its functional gradient with respect to c is 2 φ c."""

    def value(self, z, c):
        return c[1] * c[0] ** 2, None

    def tangent(self, tape, c, dz, dc):
        return 2 * c[1] * c[0] * dc[0] + c[0] ** 2 * dc[1]

    def adjoint(self, tape, c, g):
        return np.zeros_like(g), (2 * c[1] * c[0] * g, c[0] ** 2 * g)


def problem(scheme, n=4, size=3):
    march = DepthMarch(Pendulums(), Grid(n, 1, length_x=1.5), scheme)
    nodes = march.reconstruction.interpolation.shape[0]
    rng = np.random.default_rng(n)

    def draw():
        return rng.standard_normal(size), (rng.standard_normal((nodes, size, size)), rng.standard_normal((nodes, size)))

    return march, draw(), draw()


@EVERY_SCHEME
def test_one_step_is_the_tableaus(scheme):
    march, (z, c), _ = problem(scheme, n=1)
    h = march.grid.h_x

    def g(z, node):
        return c[0][node] @ np.sin(z) + c[1][node]

    if scheme.name == "euler":
        expected = z + h * g(z, 0)
    elif scheme.name == "midpoint":
        expected = z + h * g(z + h / 2 * g(z, 0), 0)
    else:
        k1 = g(z, 0)
        k2 = g(z + h / 2 * k1, 1)
        k3 = g(z + h / 2 * k2, 1)
        expected = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + g(z + h * k3, 2))
    np.testing.assert_allclose(march.forward(z, c).z[-1], expected, rtol=1e-14)


@EVERY_SCHEME
def test_tangent_is_the_derivative_at_every_site(scheme):
    march, (z, c), (dz, dc) = problem(scheme)
    exact = march.tangent(march.forward(z, c), c, dz, dc)

    def moved(e):
        return march.forward(z + e * dz, tuple(a + e * d for a, d in zip(c, dc, strict=True)), keep=False).z

    h = 1e-5
    for site, (ahead, behind) in enumerate(zip(moved(h), moved(-h), strict=True)):
        np.testing.assert_allclose(
            exact[site], (ahead - behind) / (2 * h), rtol=0, atol=1e-7 * np.abs(exact[site]).max()
        )


@EVERY_SCHEME
def test_adjoint_is_the_transpose_of_the_tangent(scheme):
    march, (z, c), (dz, dc) = problem(scheme)
    sweep = march.forward(z, c)
    end = march.tangent(sweep, c, dz, dc)[-1]
    lam_end = np.random.default_rng(9).standard_normal(z.shape)
    bars = tuple(np.zeros_like(part) for part in c)

    def add(node, cotangents):
        for bar, value in zip(bars, cotangents, strict=True):
            bar[node] += value

    lam = march.adjoint(sweep, c, lam_end, add)
    assert len(lam) == march.grid.n_x + 1
    np.testing.assert_array_equal(lam[-1], lam_end)
    pairs = [(lam[0], dz), (bars[0], dc[0]), (bars[1], dc[1])]
    scale = sum(np.linalg.norm(a) * np.linalg.norm(b) for a, b in pairs)
    assert abs(np.vdot(lam_end, end) - sum(np.vdot(a, b) for a, b in pairs)) <= 1e-13 * scale


@EVERY_SCHEME
def test_adjoint_at_inner_sites_is_the_sensitivity_there(scheme):
    """⟨λ_m, dz_m⟩ is the same at every site when the coefficients do not move."""
    march, (z, c), (dz, dc) = problem(scheme)
    sweep = march.forward(z, c)
    dz = march.tangent(sweep, c, dz, tuple(np.zeros_like(part) for part in dc))
    lam = march.adjoint(sweep, c, np.ones_like(z), lambda node, cotangents: None)
    products = np.array([np.vdot(a, b) for a, b in zip(lam, dz, strict=True)])
    scale = max(np.linalg.norm(a) * np.linalg.norm(b) for a, b in zip(lam, dz, strict=True))
    assert np.ptp(products) <= 1e-13 * scale


def test_dropping_the_tapes_changes_no_value():
    march, (z, c), _ = problem(get_scheme("rk4"))
    bare, kept = march.forward(z, c, keep=False), march.forward(z, c)
    assert bare.tapes == [] and len(kept.tapes) == 4
    for a, b in zip(bare.z, kept.z, strict=True):
        np.testing.assert_array_equal(a, b)


def test_unknown_scheme_names_the_known_ones():
    with pytest.raises(InputError, match="'heun' does not exist; use one of euler, midpoint, rk4"):
        get_scheme("heun")


# coefficients between links and nodes


@EVERY_SCHEME
def test_reconstruction_is_exact_for_quintic_coefficients(scheme):
    r = NodeReconstruction(Grid(9, 1, length_x=2.0), scheme)
    nodes = np.arange(19) * 2.0 / 18 if scheme.nodal else r.grid.x_links
    for degree in range(6):
        found = r.interpolation @ r.grid.x_links**degree
        np.testing.assert_allclose(found, nodes**degree, rtol=0, atol=1e-13 * 2.0**degree)
    if scheme.nodal:
        np.testing.assert_array_equal(r.interpolation[1::2], np.eye(9))


@EVERY_SCHEME
@pytest.mark.parametrize("n", [1, 2, 5, 16])
def test_quadrature_integrates_over_the_depth(scheme, n):
    r = NodeReconstruction(Grid(n, 1, length_x=2.0), scheme)
    assert r.quadrature.sum() == pytest.approx(2.0, rel=1e-14)
    if scheme.name == "rk4":  # Simpson's rule: exact for cubics
        x = np.arange(2 * n + 1) * 2.0 / (2 * n)
        assert r.quadrature @ x**3 == pytest.approx(4.0, rel=1e-13)


@EVERY_SCHEME
@pytest.mark.parametrize("n", [1, 2, 5, 16, 64])
def test_mass_matrix_is_symmetric_and_positive(scheme, n):
    r = NodeReconstruction(Grid(n, 1), scheme)
    np.testing.assert_allclose(r.mass, r.mass.T, rtol=0, atol=1e-16)
    values = np.linalg.eigvalsh(r.mass)
    assert values.min() > 0.5 / n and values.max() < 20 / n
    np.testing.assert_allclose(r.gradient_map, np.linalg.inv(r.mass) @ r.interpolation.T, rtol=0, atol=1e-11 * n)


@pytest.mark.parametrize("name", SCHEMES)
def test_functional_gradient_converges_up_to_the_ends(name, fitted_order):
    """δ/δc ∫ φ c² dx = 2 φ c, in the maximum norm over all links, and the directional derivative with M as metric."""
    scheme = get_scheme(name)
    sizes = (16, 32, 64)
    largest = []
    for n in sizes:
        grid = Grid(n, 1)
        march = DepthMarch(Quadrature(), grid, scheme)
        r = march.reconstruction
        x = grid.x_links
        c, phi = 1 + 0.5 * np.sin(3 * x), np.exp(x) * np.cos(2 * x)
        nodes = (r.interpolation @ c, r.interpolation @ phi)
        bar = np.zeros(len(nodes[0]))

        def add(node, cotangents, bar=bar):
            bar[node] += cotangents[0]

        march.adjoint(march.forward(np.zeros(()), nodes), nodes, np.ones(()), add)
        gradient = r.gradient_map @ bar
        largest.append(np.abs(gradient - 2 * phi * c).max())
        direction = np.cos(5 * x)
        np.testing.assert_allclose(gradient @ r.mass @ direction, bar @ r.interpolation @ direction, rtol=1e-12)
    if scheme.nodal:
        assert fitted_order(1 / np.array(sizes), largest) > 3.9
    else:  # coefficients constant on each cell: the values on the links are the gradient itself
        assert max(largest) < 1e-13
