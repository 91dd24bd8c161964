"""Hats on and off: the conversion between fields and lattice, and the learning rates that go with it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.fields.simulation import FieldSystem
from bbdfield.lattice.training import LatticeSystem
from bbdfield.model.architecture import Rates
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.ranges import Derivative, Kernel, Taps
from bbdfield.model.scalings import SCALINGS
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
from solvers.padding import PADDINGS

TIES = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
EVERY_SCALING = pytest.mark.parametrize("scaling", SCALINGS)
RANGES = {
    "kernel": lambda tied: Kernel(0.75, tied),
    "taps": lambda tied: Taps(3, tied),
    "derivative": lambda tied: Derivative(0.3, tied),
}
EVERY_RANGE = pytest.mark.parametrize("reach", RANGES)
KAPPA, L_X, L_Y = 0.7, 2.0, 3.0


def lattice_of(problems, scaling, reach, tied, **changes):
    """6 x 10 sites on 2 x 3, so that a_x = 1/3 and a_y = 3/10 are no fractions of one another."""
    base = problems.lattice(radius=0.75, length_x=L_X, length_y=L_Y, loss="mean-square", **changes)
    kappa = KAPPA if scaling == "critical" else None
    return dataclasses.replace(base, scaling=scaling, range=RANGES[reach](tied), kappa=kappa)


def drawn(lattice, **changes):
    """Initial fields whose waves do not blow up on any of these lattices."""
    small = {"mean": (0.2, 0.1, 0.05), "spread": (1.0, 1.0, 0.1)} if lattice.range.name == "derivative" else {}
    return InitialFields(lattice, **({"seed": 1, "weight": 0.5, "bias": 0.5} | small | changes))


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


# every scaling and range


@TIES
@EVERY_RANGE
@EVERY_SCALING
def test_round_trip_of_every_scaling_and_range(problems, scaling, reach, tied):
    """θ = s c ŵ (+ 1 on the centre), b = s b̂ with s = a_x (plain: 1) and c = a_y (not kernels: 1), and back."""
    lattice = lattice_of(problems, scaling, reach, tied)
    state = drawn(lattice).on(lattice.grid)
    there = to_lattice(state)
    s = 1.0 if scaling == "plain" else 1 / 3
    c = 0.3 if reach == "kernel" else 1.0
    one = np.zeros(state.w.shape[-3:])
    if scaling == "critical":
        one[:, 0 if reach == "derivative" else one.shape[1] // 2, :] = np.eye(lattice.channels)
    scale = np.abs(there.w).max()
    np.testing.assert_allclose(there.w, one + s * c * state.w, rtol=0, atol=1e-15 * scale)
    np.testing.assert_allclose(there.b, s * state.b, rtol=1e-15)
    back = to_field(lattice, there)
    np.testing.assert_allclose(back.w, state.w, rtol=0, atol=1e-15 * scale / (s * c))
    np.testing.assert_allclose(back.b, state.b, rtol=1e-15)
    np.testing.assert_array_equal(back.r, state.r)
    assert np.abs(state.w).max() > 0.1


@TIES
@EVERY_RANGE
def test_learning_rates_of_every_range(problems, reach, tied):
    """W: a_x a_y (tied kernel), a_x (untied kernel, tied taps and moments), a_x/a_y (untied taps and moments)."""
    expected = {
        ("kernel", True): 1 / 3 * 0.3,
        ("kernel", False): 1 / 3,
        ("taps", True): 1 / 3,
        ("derivative", True): 1 / 3,
        ("taps", False): 1 / 0.9,
        ("derivative", False): 1 / 0.9,
    }[reach, tied]
    for scaling, more in (("residual", 1.0), ("critical", 1.0), ("plain", 9.0)):  # plain: a_x^0, not a_x^2
        rates = learning_rates(lattice_of(problems, scaling, reach, tied), 0.5, Rates(2.0, 0.3, 0.7))
        assert rates.w == pytest.approx(more * 0.5 * 2.0 * expected, rel=1e-14)
        assert rates.b == pytest.approx(more * 0.5 * 0.3 / 0.9, rel=1e-14)
        assert rates.r == pytest.approx(0.5 * 0.7, rel=1e-15)


def loss_of_hats(lattice, z0, targets, w, b, r):
    """Mean-square loss of the network that the fields ŵ, b̂, R make, by theory §§1, 3; complex arguments welcome."""
    a_x, a_y, n = lattice.length_x / lattice.depth, lattice.length_y / lattice.width, lattice.width
    name, unit, skip, r_0 = lattice.range.name, a_x, 1.0, None
    if lattice.scaling != "residual":
        skip = 0.0
    if lattice.scaling == "plain":
        unit = 1.0
    if lattice.scaling == "critical":
        r_0 = (3 * KAPPA * a_x) ** -0.5
    if name == "kernel":
        taps = unit * a_y * w
    elif name == "taps":
        taps = unit * w
    else:
        step = lattice.range.length / a_y
        stencils = np.array([[0, 1, 0], [-step / 2, 0, step / 2], [step**2, -2 * step**2, step**2]])
        taps = unit * np.einsum("pk,...apb->...akb", stencils, w)
    reach = taps.shape[-2] // 2
    if lattice.scaling == "critical":
        taps[..., reach, :] += np.eye(lattice.channels)
    if lattice.range.tied:
        taps = np.repeat(taps[:, None], n, axis=1)
    mode = {"zeros": "constant", "circular": "wrap", "reflect": "symmetric"}[lattice.padding]
    z = z0.astype(complex)
    for taps_m, b_m in zip(taps, b, strict=True):
        s = np.tanh(z) if r_0 is None else r_0 * np.tanh(z / r_0)
        padded = np.pad(s, ((reach, reach), (0, 0), (0, 0)), mode=mode)
        beside = np.stack([padded[k : k + n] for k in range(2 * reach + 1)])
        z = skip * z + np.einsum("yakb,kybs->yas", taps_m, beside) + unit * b_m[..., None]
    y = (np.arange(n) + 0.5) * a_y
    modes = np.cos(np.pi / lattice.length_y * np.outer(np.arange(r.shape[-1]), y))
    logits = a_y * np.einsum("kcj,jy,ycs->sk", r, modes, z)
    return ((logits - targets) ** 2).mean()


@TIES
@EVERY_RANGE
@EVERY_SCALING
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_a_training_step_moves_the_hats_by_the_functional_gradient(signals, problems, padding, scaling, reach, tied):
    """One SGD step of the network is θ̂ ← θ̂ − τη̂ δℓ/δθ̂, δℓ/δθ̂ by complex steps of the loss as a function of θ̂."""
    lattice = lattice_of(problems, scaling, reach, tied, padding=padding, depth=4)
    tau, rates = 0.5, {"w": 2.0, "b": 0.5, "r": 1.5}
    training = problems.training(step=tau, rates=tuple(rates.values()))
    boundary = Boundary.draw(signals, lattice, training)
    before = drawn(lattice).on(lattice.grid)
    network = LatticeSystem(lattice, boundary, to_lattice(before))
    index = boundary.batch(0)
    z0, targets = boundary.input(index, lattice.width), np.eye(lattice.outputs)[signals.y[index]]
    arrays = {name: getattr(before, name) for name in rates}
    loss = network.step(0)["loss"]
    assert loss == pytest.approx(loss_of_hats(lattice, z0, targets, **arrays).real, rel=1e-13)
    after = to_field(lattice, LatticeState(**network.state()))

    a_x, a_y = L_X / 4, L_Y / 10
    cell = {"w": a_x * (1 if tied else a_y) * (a_y if reach == "kernel" else 1), "b": a_x * a_y, "r": 1.0}
    rng = np.random.default_rng(2)
    for name, rate in rates.items():
        moved = getattr(after, name) - arrays[name]
        scale = np.abs(moved).max()
        assert scale > 1e-3
        noise = 1e-15 * np.abs(to_lattice(before).w).max() / min(units(lattice).w, units(lattice).b)
        directions = [np.eye(1, moved.size, i).reshape(moved.shape) for i in rng.choice(moved.size, 6, replace=False)]
        for direction in (*directions, rng.standard_normal(moved.shape) / np.sqrt(moved.size)):
            step = {**arrays, name: arrays[name] + 1e-30j * direction}
            slope = loss_of_hats(lattice, z0, targets, **step).imag / 1e-30
            expected = -tau * rate * slope / cell[name]
            assert np.vdot(moved, direction) == pytest.approx(expected, rel=1e-12, abs=1e-12 * scale + noise)


@TIES
@pytest.mark.parametrize("reach", ["taps", "derivative"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_field_on_the_lattices_grid_moves_as_the_lattice_does(signals, problems, padding, reach, tied):
    """Residual, Euler with n_x = M, differences of accuracy 2 at n_y = N: the same equations, step after step."""
    lattice = lattice_of(problems, "residual", reach, tied, padding=padding)
    training = problems.training(rates=(0.1, 0.1, 0.1))
    boundary = Boundary.draw(signals, lattice, training)
    before = drawn(lattice).on(lattice.grid)
    network = LatticeSystem(lattice, boundary, to_lattice(before))
    options = {"order": 0, "scheme": "euler", "backend": "numpy", "stencil": 2}
    field = FieldSystem(before, boundary, width_order=2 if reach == "taps" else None, **options)
    for k in range(5):
        assert field.step(k)["loss"] == pytest.approx(network.step(k)["loss"], rel=1e-12)
    after = to_field(lattice, LatticeState(**network.state()))
    for name, found in field.state().items():
        expected = getattr(after, name)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max(), err_msg=name)
        assert np.abs(expected - getattr(before, name)).max() > 1e-2 * np.abs(expected).max(), name
    z = network.probe()
    np.testing.assert_allclose(field.probe(), z, rtol=0, atol=1e-12 * np.abs(z).max())
