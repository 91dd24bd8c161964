"""The exact 𝒦 against brute force that shares nothing with it."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield.problems.operators import act, component_symbols, lattice_symbol, symbol
from bbdfield.problems.profiles import Profile

Y = np.array([0.03, 0.11, 0.3, 0.52, 0.9])


def wave(y, n):
    """∂_y^n of (sin 2πy, cos(2πy) + 0.3)."""
    turn = 2 * np.pi
    sine, cosine = np.sin(turn * y + n * np.pi / 2), np.cos(turn * y + n * np.pi / 2)
    return np.stack([turn**n * sine, turn**n * cosine + (0.3 if n == 0 else 0.0)], axis=-1)


def midpoints(lattice, profile, y, padding):
    """∫ŵ(u) s(y + u) du with 4,000 midpoints."""
    r, count = lattice.range.radius, 4000
    u = (np.arange(count) + 0.5) * (2 * r / count) - r
    s = wave(y + u, 0)
    if padding == "zeros":
        s = s * ((y + u > 0) & (y + u < 1))[:, None]
    return np.einsum("cpd,pd->c", profile(u), s) * (2 * r / count)


@pytest.mark.parametrize("padding", ["circular", "zeros"])
def test_kernel_integral(lattices, padding):
    lattice = lattices(padding=padding)
    profile = Profile.draw(lattice, 1)
    found = act(lattice, profile, wave, Y, None)
    brute = np.stack([midpoints(lattice, profile, y, padding) for y in Y])
    assert np.max(np.abs(found - brute)) < (1e-6 if padding == "circular" else 1e-3)
    assert np.linalg.norm(found) > 0.1


@pytest.mark.parametrize("width_order", [0, 1, 2])
def test_taps_are_the_taylor_expansion_of_shifts(lattices, width_order):
    """Σ_k ŵ_k s(y + k a_y) − 𝒦s falls as a_y^{p+1}: at p = 1 by 4, at p = 2 by 8."""
    errors = []
    for width in (256, 512):
        lattice = lattices("taps", width=width)
        profile = Profile.draw(lattice, 1)
        shifted = sum(profile(np.arange(-1, 2))[:, k] @ wave(Y + (k - 1) / width, 0).T for k in range(3)).T
        errors.append(np.linalg.norm(act(lattice, profile, wave, Y, width_order) - shifted))
    assert errors[0] / errors[1] == pytest.approx(2 ** (width_order + 1), rel=0.08)


def test_derivatives(lattices):
    lattice = lattices("derivative")
    table = Profile.draw(lattice, 1).table
    expected = sum(0.1**n * wave(Y, n) @ table[n].T for n in range(3))
    assert np.allclose(act(lattice, Profile.draw(lattice, 1), wave, Y, None), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["kernel", "taps", "derivative"])
def test_symbol_is_the_action_on_waves(lattices, name):
    lattice = lattices(name)
    profile, q = Profile.draw(lattice, 1), np.array([2 * np.pi, 4 * np.pi])
    for column in range(2):

        def cosine(y, n, column=column):
            values = np.zeros((*np.shape(y), 2))
            values[..., column] = q[1] ** n * np.cos(q[1] * y + n * np.pi / 2)
            return values

        expected = (symbol(lattice, profile, q, None)[1, :, column] * np.exp(1j * q[1] * Y)[:, None]).real
        assert np.allclose(act(lattice, profile, cosine, Y, None), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "order"), [("kernel", 2), ("taps", 3), ("derivative", 2)])
def test_the_lattices_symbol_approaches_the_fields(lattices, name, order):
    """Midpoint rule and centred stencils: a_y²; taps against their expansion to second order: a_y³."""
    q, errors = np.array([2 * np.pi]), []
    for width in (120, 360):
        lattice = lattices(name, width=width)
        profile = Profile.draw(lattice, 1)
        difference = lattice_symbol(lattice, profile, q) - symbol(lattice, profile, q, None)
        errors.append(np.linalg.norm(difference))
    assert np.log(errors[0] / errors[1]) / np.log(3) == pytest.approx(order, abs=0.05)


def test_component_symbols_of_a_kernel_are_shifts(lattices):
    p, q = np.array([0.0, 0.1]), np.array([2 * np.pi])
    assert np.allclose(component_symbols(lattices(), p, q, None), [[1.0, np.exp(0.2j * np.pi)]])


@pytest.mark.parametrize("scaling", ["residual", "plain"])
@pytest.mark.parametrize("name", ["kernel", "taps", "derivative"])
def test_profiles_are_well_posed(lattices, name, scaling):
    """Short waves do not grow faster than long ones by more than bounded amounts: ŵ_1 symmetric, ŵ_2 positive."""
    lattice = lattices(name, scaling=scaling)
    q = np.linspace(0, 60, 31)
    for seed in range(5):
        k = symbol(lattice, Profile.draw(lattice, seed), q, 1 if scaling == "plain" and name == "taps" else None)
        assert np.linalg.eigvals(k).real.max() < (1.0 if scaling == "plain" else 3.5)


def test_even_profiles(lattices):
    u = np.array([-0.1, 0.0, 0.1])
    for name, p in (("kernel", u), ("taps", np.arange(-1, 2))):
        even = Profile.draw(lattices(name), 2, even=True)(p)
        assert np.allclose(even, even[:, ::-1])
        odd = Profile.draw(lattices(name), 2)(p)
        assert not np.allclose(odd, odd[:, ::-1])
