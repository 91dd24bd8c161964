"""Hats on and off: the conversion between fields and lattice, and the learning rates that go with it."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.model.architecture import Rates
from bbdfield.model.initial import InitialFields
from bbdfield.model.units import (
    LatticeState,
    heavy_ball_of,
    inertia,
    inertia_of,
    learning_rates,
    to_field,
    to_lattice,
    units,
)
from solvers.grids import Grid

TIES = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


@TIES
def test_round_trip_returns_the_fields(problems, tied):
    lattice = problems.lattice(tied=tied, length_x=2.0, length_y=3.0, radius=0.75)
    state = InitialFields(lattice, seed=1, bias=1.0).on(lattice.grid)
    there = to_lattice(state)
    back = to_field(lattice, there)
    for name in ("w", "b", "r"):
        expected = getattr(state, name)
        np.testing.assert_allclose(getattr(back, name), expected, rtol=1e-15)
    # W_k = a_x a_y ŵ, b = a_x b̂ with a_x = 2/6, a_y = 3/10
    np.testing.assert_allclose(there.w, state.w / 10, rtol=1e-15)
    np.testing.assert_allclose(there.b, state.b / 3, rtol=1e-15)
    np.testing.assert_array_equal(there.r, state.r)
    assert (units(lattice).w, units(lattice).b) == pytest.approx((0.1, 1 / 3), rel=1e-15)


def test_readout_is_copied_not_shared(problems):
    lattice = problems.lattice()
    state = InitialFields(lattice).on(lattice.grid)
    there = to_lattice(state)
    there.r[...] = 7.0
    assert not (state.r == 7.0).any()
    assert not np.shares_memory(to_field(lattice, there).r, there.r)


def test_fields_on_another_grid_are_not_a_lattice(problems):
    lattice = problems.lattice()
    with pytest.raises(ValueError, match="restrict it first"):
        to_lattice(InitialFields(lattice).on(Grid(12, 10), lattice))


@TIES
def test_a_lattice_step_moves_the_hats_by_the_functional_gradient(problems, tied):
    """θ ← θ − lr ∂ℓ/∂θ equals θ̂ ← θ̂ − τη̂ δℓ/δθ̂ with δℓ/δθ̂ = (∂ℓ/∂θ̂)/(cell of θ̂) and ∂ℓ/∂θ̂ = unit · ∂ℓ/∂θ."""
    lattice = problems.lattice(tied=tied, length_x=2.0, length_y=3.0, radius=0.75)
    a_x, a_y = lattice.a_x, lattice.a_y
    rates = Rates(2.0, 0.3, 0.7)
    lr = learning_rates(lattice, 0.5, rates)
    rng = np.random.default_rng(1)
    before = InitialFields(lattice, seed=1, bias=1.0).on(lattice.grid)
    start = to_lattice(before)
    g = {name: rng.standard_normal(getattr(start, name).shape) for name in ("w", "b", "r")}
    after = to_field(lattice, LatticeState(start.w - lr.w * g["w"], start.b - lr.b * g["b"], start.r - lr.r * g["r"]))
    unit = {"w": a_x * a_y, "b": a_x, "r": 1.0}
    cell = {"w": a_x * a_y if tied else a_x * a_y * a_y, "b": a_x * a_y, "r": 1.0}
    for name in ("w", "b", "r"):
        functional = unit[name] * g[name] / cell[name]
        expected = getattr(before, name) - 0.5 * getattr(rates, name) * functional
        np.testing.assert_allclose(getattr(after, name), expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@TIES
def test_learning_rates_follow_the_table(problems, tied):
    """w ∝ a_x a_y (tied) or a_x (untied), b ∝ a_x/a_y, r ∝ 1."""

    def at(depth, width):
        lr = learning_rates(problems.lattice(tied=tied, depth=depth, width=width), 1.0, Rates(1.0, 1.0, 1.0))
        return np.array([lr.w, lr.b, lr.r])

    base = at(6, 10)
    np.testing.assert_allclose(at(12, 10) / base, [1 / 2, 1 / 2, 1], rtol=1e-14)
    np.testing.assert_allclose(at(6, 30) / base, [1 / 3 if tied else 1, 3, 1], rtol=1e-14)


@TIES
def test_inertia_follows_the_table(problems, tied):
    """W tied μ̂/(a_x a_y), W untied μ̂/a_x, b μ̂ a_y/a_x, R μ̂, with μ̂ = 1/(η̂γ)."""
    lattice = problems.lattice(tied=tied, length_x=2.0, length_y=3.0, radius=0.75)
    training = problems.training(dynamics="heavy-ball", damping=0.4, rates=(2.0, 0.5, 0.0))
    mu = inertia(lattice, training)
    a_x, a_y = lattice.a_x, lattice.a_y
    assert mu.w == pytest.approx(1 / (2.0 * 0.4) / (a_x * a_y if tied else a_x), rel=1e-14)
    assert mu.b == pytest.approx(1 / (0.5 * 0.4) * a_y / a_x, rel=1e-14)
    assert mu.r == np.inf
    with pytest.raises(InputError, match="no inertia"):
        inertia(lattice, problems.training())


def test_heavy_ball_and_inertia_convert_both_ways():
    rate, momentum = heavy_ball_of(mu=3.0, damping=0.7, step=0.25)
    assert (rate, momentum) == pytest.approx((0.25**2 / 3, np.exp(-0.175)), rel=1e-15)
    assert inertia_of(rate, momentum, 0.25) == pytest.approx((3.0, 0.7), rel=1e-14)
    for bad in ((0.1, 0.0, 1.0), (0.1, 1.0, 1.0), (0.0, 0.9, 1.0), (0.1, 0.9, 0.0)):
        with pytest.raises(InputError, match="0 < momentum < 1"):
            inertia_of(*bad)
