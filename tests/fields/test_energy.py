"""Energy of the fields on the solver's grid: its balance to rounding, and the lattice's energy as the grids meet."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bbdfield.decomposition.energy import current, layer_energy, layer_energy_rate
from bbdfield.decomposition.maps import PerGroup, Rule
from bbdfield.decomposition.substitution import neurons
from bbdfield.errors import InputError
from bbdfield.fields import energy as field_energy
from bbdfield.fields.energy import cell_energy, observe, step_balance
from bbdfield.fields.simulation import FieldSystem
from bbdfield.lattice.training import LatticeSystem
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.ranges import Derivative, Taps
from bbdfield.model.units import inertia, learning_rates, to_lattice
from solvers.grids import Grid
from solvers.padding import PADDINGS

LINKS = pytest.mark.parametrize("scheme", ["euler", "midpoint"])
ORDERS = pytest.mark.parametrize("order", [0, 1])
TIES = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def start_of(lattice, grid, seed=5):
    return InitialFields(lattice, seed=seed, weight=1.5, bias=0.5).on(grid, lattice)


def moving(signals, lattice, training, *, grid=None, order=1, scheme="midpoint", backend="numpy", steps=3):
    """A field some steps from its start, so that it moves."""
    start = start_of(lattice, grid or lattice.grid)
    system = FieldSystem(start, Boundary.draw(signals, lattice, training), order=order, scheme=scheme, backend=backend)
    for k in range(steps):
        system.step(k)
    return system


@LINKS
@ORDERS
@TIES
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("n_x", [3, 17])
def test_every_cell_keeps_the_books(signals, problems, scheme, order, tied, padding, n_x):
    lattice = problems.lattice(tied=tied, padding=padding)
    training = problems.training(dynamics="heavy-ball", step=0.3)
    system = moving(signals, lattice, training, grid=Grid(n_x, 10), order=order, scheme=scheme)
    seen = observe(system, system.boundary.batch(3))
    assert seen.energy.shape == (n_x,) and seen.energy.min() > 0
    assert seen.continuity().worst <= 1e-12
    assert seen.totals().worst <= 1e-12
    assert np.abs(seen.current[1:]).min() > 1e-9 and seen.current[0] == 0
    # Each term is needed: without one of them the books do not close.
    for name in ("rate", "dissipation"):
        assert dataclasses.replace(seen, **{name: 1.01 * getattr(seen, name)}).continuity().worst > 1e-6
    assert seen.dissipation == pytest.approx(2 * training.damping * seen.energy, rel=1e-14)
    np.testing.assert_array_equal(cell_energy(system)[0], seen.energy)
    # The step that follows, with the same samples.
    system.step(3)
    after, _ = cell_energy(system)
    assert step_balance(seen, after, training.step, training.damping).worst <= 1e-12
    assert step_balance(seen, after, training.step, 1.01 * training.damping).worst > 1e-6


@LINKS
@ORDERS
@TIES
@pytest.mark.parametrize("dynamics", ["sgd", "flow"])
def test_overdamped_cells_keep_the_books(signals, problems, scheme, order, tied, dynamics):
    lattice = problems.lattice(tied=tied, activation="softplus")
    training = problems.training(dynamics=dynamics, step=0.3)
    system = moving(signals, lattice, training, grid=Grid(7, 10), order=order, scheme=scheme)
    seen = observe(system, system.boundary.batch(3))
    assert seen.continuity().worst <= 1e-12 and seen.totals().worst <= 1e-12
    assert np.all(seen.energy == 0) and seen.kinetic == 0 and seen.step_current is None
    # Energy comes in at the output, and every cell takes of it.
    assert np.all(np.diff(seen.current) < 0)
    assert dataclasses.replace(seen, dissipation=1.01 * seen.dissipation).continuity().worst > 1e-6
    with pytest.raises(InputError, match="has no inertia, so no kinetic energy"):
        cell_energy(system)
    with pytest.raises(InputError, match="known for the heavy ball only"):
        step_balance(seen, seen.energy, 0.3, 0.7)


@pytest.mark.parametrize("frozen", [(0.0, 0.2, 0.5), (2.0, 0.0, 0.5), (2.0, 0.2, 0.0)], ids=["w", "b", "r"])
@pytest.mark.parametrize("dynamics", ["heavy-ball", "leapfrog", "sgd"])
def test_a_group_at_rest_has_no_energy(signals, problems, frozen, dynamics):
    system = moving(signals, problems.lattice(), problems.training(dynamics=dynamics, rates=frozen, step=0.3))
    seen = observe(system, system.boundary.batch(3))
    assert seen.continuity().worst <= 1e-12 and seen.totals().worst <= 1e-12
    assert (seen.step_current is not None) == (dynamics == "heavy-ball")
    if frozen[2] == 0:
        assert seen.readout_energy == seen.readout_power == seen.readout_dissipation == 0


@TIES
def test_energy_is_the_integral_and_j_the_rate_of_the_loss(signals, problems, tied):
    """Against sums written out, and against what the loss does along the motion."""
    lattice = problems.lattice(tied=tied)
    training = problems.training(dynamics="heavy-ball", step=0.3)
    system = moving(signals, lattice, training, grid=Grid(5, 10))
    index = system.boundary.batch(3)
    seen, grid = observe(system, index), system.grid
    mu_w, mu_b, mu_r = (1 / (rate * training.damping) for rate in (2.0, 0.2, 0.5))
    w, b, r = system.v
    for m in range(5):
        du_or_dydu = grid.h_y if tied else grid.h_y**2
        density = 0.5 * (mu_w * du_or_dydu * np.sum(w[m] ** 2) + mu_b * grid.h_y * np.sum(b[m] ** 2))
        assert seen.density[m] == pytest.approx(density, rel=1e-13)
    assert seen.kinetic == pytest.approx(seen.energy.sum() + 0.5 * mu_r * np.sum(r**2), rel=1e-13)
    z0, targets = system.boundary.input(index, 10), system.boundary.targets[index]

    def loss(h, velocity):
        moved = tuple(u + h * v for u, v in zip(system.u, velocity, strict=True))
        return system.gradient(moved, z0, targets)[0]

    for velocity, expected in (
        ((w, b, 0 * r), seen.current[-1]),
        ((0 * w, 0 * b, r), seen.readout_power),
    ):
        assert (loss(1e-4, velocity) - loss(-1e-4, velocity)) / 2e-4 == pytest.approx(expected, rel=1e-6)
    # Only the cells before a site bring it into motion: with one moving cell J is the same at all sites after it.
    one = np.zeros_like(w), np.zeros_like(b), 0 * r
    one[0][2], one[1][2] = w[2], b[2]
    system.v = one
    lone = observe(system, index).current
    assert np.all(lone[:3] == 0) and np.ptp(lone[3:]) <= 1e-13 * abs(lone[3]) and abs(lone[3]) > 1e-9


@TIES
@pytest.mark.parametrize("padding", PADDINGS)
def test_on_the_lattices_grid_it_is_the_lattices_energy(signals, problems, tied, padding):
    """Order 0, Euler, n_x = M: E[m] and J[m] by the plain-array theory, which shares no code with the field."""
    lattice = problems.lattice(tied=tied, padding=padding)
    training = problems.training(dynamics="heavy-ball", step=0.3)
    system = moving(signals, lattice, training, order=0, scheme="euler")
    net = LatticeSystem(lattice, system.boundary, to_lattice(start_of(lattice, lattice.grid)))
    for k in range(3):
        net.step(k)
    index = system.boundary.batch(3)
    seen = observe(system, index)
    mu = PerGroup(**dataclasses.asdict(inertia(lattice, training)))
    z0, targets = net.boundary.input(index, lattice.width), net.boundary.targets[index]
    (W, b, R), (Wdot, bdot, _) = net.u, net.v
    zdot = neurons(Rule("tanh", 1.0, padding), W, b, z0, Wdot, bdot).zdot
    found = net.network.loss_and_gradients(z0, W, b, R, targets, keep_delta=True)
    eta = learning_rates(lattice, training.damping, training.rates)
    Wddot = -training.damping * Wdot - eta.w * found.gradients["w"]
    bddot = -training.damping * bdot - eta.b * found.gradients["b"]
    for ours, theirs in (
        (seen.energy, layer_energy(Wdot, bdot, mu)),
        (seen.rate, layer_energy_rate(Wdot, bdot, Wddot, bddot, mu)),
        (seen.current, current(found.delta, zdot)),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())
        assert np.abs(theirs).max() > 1e-9


@pytest.mark.parametrize(("order", "expected"), [(0, 1.0), (1, 2.0)])
def test_the_lattices_energy_is_met_at_the_order_of_the_theory(signals, problems, fitted_order, order, expected):
    """ε and J after 4 steps, at the lattice's own links and sites: the field has three cells to one layer."""
    depths, errors = [12, 24, 48], {"energy": [], "current": []}
    training = problems.training(dynamics="heavy-ball", step=0.3)
    for depth in depths:
        lattice = problems.lattice(depth=depth)
        system = moving(signals, lattice, training, grid=Grid(3 * depth, 10), order=order, steps=4)
        exact = moving(signals, lattice, training, order=0, scheme="euler", steps=4)  # is the lattice, see above
        field, network = (observe(each, system.boundary.batch(4)) for each in (system, exact))
        for name, ours, theirs in (
            ("energy", field.density[1::3], network.density),
            ("current", field.current[::3], network.current),
        ):
            errors[name].append(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    for name in errors:
        assert fitted_order([1 / depth for depth in depths], errors[name]) == pytest.approx(expected, abs=0.2), name


def test_samples_in_chunks_and_other_backends(signals, problems, monkeypatch, backends):
    training = problems.training(dynamics="heavy-ball", step=0.3)
    whole = moving(signals, problems.lattice(), training)
    index = whole.boundary.batch(3)
    expected = observe(whole, index)
    system = moving(signals, problems.lattice(), training, backend=backends)
    monkeypatch.setattr(field_energy, "CHUNK", 3)
    seen = observe(system, index)
    assert isinstance(seen.energy, np.ndarray) and isinstance(seen.site_current, np.ndarray)
    for name in ("energy", "rate", "site_current", "step_current"):
        theirs = getattr(expected, name)
        np.testing.assert_allclose(getattr(seen, name), theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())
    assert seen.continuity().worst <= 1e-12


def test_a_scheme_that_couples_cells_is_refused(signals, problems):
    system = moving(signals, problems.lattice(), problems.training(dynamics="heavy-ball"), scheme="rk4", steps=0)
    for ask in (lambda: observe(system, system.boundary.batch(0)), lambda: cell_energy(system)):
        with pytest.raises(InputError, match=r"rk4 interpolates ŵ and b̂ over several cells.*use depth_scheme euler"):
            ask()


@TIES
@pytest.mark.parametrize("scaling", ["residual", "critical"])
@pytest.mark.parametrize("kind", [Taps, Derivative])
def test_local_ranges_keep_the_books_too(signals, problems, scaling, kind, tied):
    """Energy density and current of every scaling and range, at order 1; and ε is that of the lattice at order 0."""
    lattice = dataclasses.replace(
        problems.lattice(depth=24, channels=1, padding="circular", readout_modes=1),
        range=kind(tied=tied),
        scaling=scaling,
        kappa=1e-4 if scaling == "critical" else None,
    )
    training = problems.training(dynamics="heavy-ball", rates=(0.2, 0.2, 0.2), step=0.2)
    boundary, initial = Boundary.draw(signals, lattice, training), InitialFields(lattice, 2, weight=0.5)
    system = FieldSystem(initial.on(lattice.grid), boundary, order=1, scheme="midpoint", backend="numpy", stencil=2)
    for k in range(3):
        system.step(k)
    found = observe(system, boundary.batch(3))
    assert found.continuity().worst < 1e-12 and found.energy.min() > 0
    one = FieldSystem(initial.on(lattice.grid), boundary, order=0, scheme="euler", backend="numpy", stencil=2)
    net = LatticeSystem(lattice, boundary, to_lattice(initial.on(lattice.grid)))
    one.step(0)
    net.step(0)
    mu = inertia(lattice, training)
    inside = [0.5 * (mu.w * np.sum(w**2) + mu.b * np.sum(b**2)) for w, b in zip(net.v[0], net.v[1], strict=True)]
    # critical: an Euler step of its limit only up to κ a_x ẑ², here some 5e-5
    tolerance = 1e-11 if scaling == "residual" else 2e-4
    assert np.allclose(cell_energy(one)[0], inside, rtol=tolerance)


def test_behind_a_cutoff_the_current_is_that_of_the_waves_that_are_kept(signals, problems):
    """Signals are projected where they enter, for the gradient and for the currents; else the books do not close."""
    lattice = dataclasses.replace(problems.lattice(padding="circular", readout_modes=1), range=Taps(tied=False))
    training = problems.training(dynamics="heavy-ball", rates=(0.2, 0.2, 0.2), step=0.2)
    boundary, start = Boundary.draw(signals, lattice, training), InitialFields(lattice, 2, weight=0.2)
    behind = {"scheme": "midpoint", "backend": "numpy", "width_order": 2, "ill_posed": "cutoff"}
    system = FieldSystem(start.on(Grid(6, 20)), boundary, order=0, **behind)
    system.step(0)
    assert observe(system, boundary.batch(1)).continuity().worst < 1e-12
    starts = iter([system.start, system.backend.to_device])  # the gradient's, the currents'
    system.start = lambda z0: next(starts)(np.ascontiguousarray(z0))
    assert observe(system, boundary.batch(1)).continuity().worst > 1e-9
