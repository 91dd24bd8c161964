"""The field simulation: its gradient, its agreement with the lattice on the lattice's grid, and what it refuses."""

from __future__ import annotations

import dataclasses
import shutil

import h5py
import numpy as np
import pytest

from bbdfield.errors import InputError, NumericsError
from bbdfield.fields import simulation
from bbdfield.fields.simulation import FieldSystem, simulate
from bbdfield.lattice.training import LatticeSystem, train
from bbdfield.model.architecture import DYNAMICS
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.run import Run
from bbdfield.model.units import LatticeState, to_field, to_lattice
from bbdfield.storage import Trajectory, content_digest
from bbdfield.storage.migrations import begin_chain
from bbdfield.storage.seal import seal
from solvers.grids import Grid
from solvers.padding import PADDINGS
from solvers.sweeps import SCHEMES

GROUPS = ("w", "b", "r")
ORDERS = pytest.mark.parametrize("order", [0, 1])
EVERY_SCHEME = pytest.mark.parametrize("scheme", SCHEMES)
TIES = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def start_of(lattice, grid=None, seed=5, **amplitudes):
    settings = {"weight": 1.5, "bias": 0.5} | amplitudes
    return InitialFields(lattice, seed=seed, **settings).on(grid or lattice.grid, lattice)


def system(signals, lattice, training, *, grid=None, order=1, scheme="rk4", backend="numpy"):
    boundary = Boundary.draw(signals, lattice, training)
    return FieldSystem(start_of(lattice, grid), boundary, order=order, scheme=scheme, backend=backend)


class Stop(Exception):
    """Raised from `progress`, in place of a crash."""


def stop_after(steps):
    def progress(done, total, loss):
        if done == steps:
            raise Stop

    return progress


# the field on the lattice's own grid


@TIES
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_euler_on_the_lattices_grid_is_the_lattice(tmp_path, signals, problems, tied, padding, dynamics):
    """Order 0, n_x = M, n_y = N: the field equations are the lattice's, so 20 steps agree to rounding."""
    lattice = problems.lattice(tied=tied, padding=padding)
    training = problems.training(dynamics=dynamics, step=0.8)
    initial = InitialFields(lattice, seed=5, weight=1.5, bias=0.5)
    run = train(lattice, signals, training, out=tmp_path / "lattice.h5", initial=initial)
    start = run.initial_fields.on(Grid(lattice.depth, lattice.width))
    sim = simulate(start, run.boundary, order=0, depth_scheme="euler", backend="numpy", out=tmp_path / "field.h5")
    np.testing.assert_array_equal(sim.steps, [0, 10, 20])
    np.testing.assert_array_equal(sim.t, run.t)
    for i in range(3):
        for name in GROUPS:
            ours, theirs = getattr(sim.fields(i), name), getattr(run.fields(i), name)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max(), err_msg=name)
        np.testing.assert_allclose(sim.z(i), run.z(i), rtol=0, atol=1e-12 * np.abs(run.z(i)).max())
    np.testing.assert_allclose(sim.loss, run.loss, rtol=1e-12)
    np.testing.assert_allclose(sim.evaluation["test_loss"], run.evaluation["test_loss"], rtol=1e-12)
    np.testing.assert_array_equal(sim.evaluation["test_accuracy"], run.evaluation["test_accuracy"])
    for name in GROUPS:  # there was something to agree on
        before, after = getattr(run.fields(0), name), getattr(run.fields(2), name)
        assert np.abs(after - before).max() > 1e-2 * np.abs(before).max()
    run.close()
    sim.close()


# the gradient


def inner_products(field):
    """Metric of each group: the derivative of the loss along δ is Σ metric(gradient) · δ."""
    grid, mass = field.grid, field.march.reconstruction.mass
    cell = grid.h_y if field.tied else grid.h_y**2

    def along_x(values):
        return np.tensordot(mass, values, 1)

    return {"w": lambda g: cell * along_x(g), "b": lambda g: grid.h_y * along_x(g), "r": lambda g: g}


@EVERY_SCHEME
@ORDERS
@TIES
@pytest.mark.parametrize("loss", ["cross-entropy", "mean-square"])
def test_gradient_is_the_losss(signals, problems, scheme, order, tied, loss):
    """Along a random direction and entry by entry, against central differences of the discretised loss."""
    lattice = problems.lattice(tied=tied, loss=loss, padding="reflect")
    field = system(signals, lattice, problems.training(), grid=Grid(7, 10), order=order, scheme=scheme)
    index = field.boundary.batch(0)
    z0, targets = field.boundary.input(index, 10), field.boundary.targets[index]
    loss_value, gradient = field.gradient(field.u, z0, targets)
    assert loss_value > 0
    metric = inner_products(field)
    cotangents = [metric[name](g) for name, g in zip(GROUPS, gradient, strict=True)]
    rng = np.random.default_rng(6)

    def difference(direction, h=1e-5):
        moved = [
            field.gradient(tuple(a + e * d for a, d in zip(field.u, direction, strict=True)), z0, targets)[0]
            for e in (h, -h)
        ]
        return (moved[0] - moved[1]) / (2 * h)

    everywhere = [rng.standard_normal(part.shape) for part in field.u]
    expected = sum(np.vdot(c, d) for c, d in zip(cotangents, everywhere, strict=True))
    assert difference(everywhere) == pytest.approx(expected, rel=1e-6)
    for group, cotangent in enumerate(cotangents):
        for entry in rng.choice(cotangent.size, size=4, replace=False):
            direction = [np.zeros(part.shape) for part in field.u]
            direction[group].flat[entry] = 1.0
            expected = cotangent.flat[entry]
            assert difference(direction) == pytest.approx(expected, abs=1e-6 * np.abs(cotangent).max()), GROUPS[group]


def test_large_batches_are_summed_over_chunks(monkeypatch, signals, problems):
    field = system(signals, problems.lattice(), problems.training(batch=23))
    index = field.boundary.batch(0)
    arguments = field.u, field.boundary.input(index, 10), field.boundary.targets[index]
    loss, whole = field.gradient(*arguments)
    logits = field.logits(signals.x)
    monkeypatch.setattr(simulation, "CHUNK", 5)
    in_parts_loss, in_parts = field.gradient(*arguments)
    assert in_parts_loss == pytest.approx(loss, rel=1e-14)
    for a, b in zip(whole, in_parts, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-13 * np.abs(a).max())
    np.testing.assert_allclose(field.logits(signals.x), logits, rtol=0, atol=1e-14)


def test_hatted_fields_of_lattices_move_by_the_functional_gradient(signals, problems):
    """Lattices of several depths and widths: one SGD step is −τη̂ × nearly the same function of (x, y, u).

    Nested grids (ratio 3) share links, cells and taps; what is left is O(a_x + a_y²): it falls by 3 or so per rung.
    """
    rungs = ((4, 10), (12, 30), (36, 90))
    for tied in (True, False):
        base = problems.lattice(tied=tied)
        training = problems.training(step=0.7, rates=(2.0, 0.2, 0.5))
        boundary = Boundary.draw(signals, base, training)
        initial = InitialFields(base, seed=5, weight=1.5, bias=0.5)

        fine = base.at(36, 90)
        reference = FieldSystem(initial.on(Grid(36, 90), fine), boundary, order=0, scheme="rk4", backend="numpy")
        index = boundary.batch(0)
        _, gradient = reference.gradient(reference.u, boundary.input(index, 90), boundary.targets[index])
        expected = dict(zip(GROUPS, gradient, strict=True))

        errors = {name: [] for name in GROUPS}
        for depth, width in rungs:
            lattice = base.at(depth, width)
            before = initial.on(lattice.grid, lattice)
            network = LatticeSystem(lattice, dataclasses.replace(boundary, lattice=lattice), to_lattice(before))
            network.step(0)
            after = to_field(lattice, LatticeState(**network.state()))
            ratio = 90 // width
            links, cells = slice(ratio // 2, None, ratio), slice(ratio // 2, None, ratio)
            fine_half, half = Grid(1, 90).half_width(0.25), lattice.grid.half_width(0.25)
            taps = slice(fine_half - ratio * half, fine_half + ratio * half + 1, ratio)
            common = {
                "w": expected["w"][links][:, :, taps] if tied else expected["w"][links][:, cells][:, :, :, taps],
                "b": expected["b"][links][:, cells],
                "r": expected["r"],
            }
            for name, rate in zip(GROUPS, (2.0, 0.2, 0.5), strict=True):
                moved = (getattr(after, name) - getattr(before, name)) / (-0.7 * rate)
                error = np.linalg.norm(moved - common[name]) / np.linalg.norm(common[name])
                errors[name].append(error)
        for name, (coarse, middle, finest) in errors.items():
            assert finest < 0.03, (name, errors)
            assert middle < 0.5 * coarse and finest < 0.5 * middle, (name, errors)


@EVERY_SCHEME
@ORDERS
def test_every_backend_steps_like_numpy(signals, problems, backends, order, scheme):
    lattice, training = problems.lattice(padding="circular"), problems.training()
    here, there = (
        system(signals, lattice, training, grid=Grid(5, 10), order=order, scheme=scheme, backend=backend)
        for backend in ("numpy", backends)
    )
    assert there.backend is backends
    for k in range(2):
        assert there.step(k)["loss"] == pytest.approx(here.step(k)["loss"], rel=1e-13)
    for name in GROUPS:
        expected = here.state()[name]
        found = there.state()[name]
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max(), err_msg=name)
    z = here.probe()
    np.testing.assert_allclose(there.probe(), z, rtol=0, atol=1e-13 * np.abs(z).max())
    np.testing.assert_allclose(there.logits(signals.x_test), here.logits(signals.x_test), rtol=0, atol=1e-13)


# training time


@pytest.mark.parametrize("which", ["field", "lattice"])
def test_flow_is_fourth_order_in_the_time_step(signals, problems, fitted_order, which):
    """The gradient flow to t = 1 with steps of 1/8, 1/16, 1/32, against 1/128."""
    lattice = problems.lattice(depth=4)

    def end(n):
        training = problems.training(dynamics="flow", steps=n, step=1 / n, rates=(2.0, 0.5, 1.0))
        if which == "field":
            trained = system(signals, lattice, training, scheme="midpoint")
        else:
            boundary = Boundary.draw(signals, lattice, training)
            trained = LatticeSystem(lattice, boundary, to_lattice(start_of(lattice)))
        for k in range(n):
            trained.step(k)
        return np.concatenate([(part / np.abs(part).max()).ravel() for part in trained.state().values()])

    counts = (8, 16, 32)
    exact = end(128)
    errors = [np.linalg.norm(end(n) - exact) for n in counts]
    assert abs(fitted_order(1 / np.array(counts), errors) - 4) < 0.1, errors


def test_sgd_step_is_minus_tau_eta_gradient(signals, problems):
    training = problems.training(step=0.25, rates=(2.0, 0.2, 0.0))
    field = system(signals, problems.lattice(), training)
    before = field.u
    index = field.boundary.batch(7)
    _, (g_w, g_b, _) = field.gradient(before, field.boundary.input(index, 10), field.boundary.targets[index])
    field.step(7)
    np.testing.assert_allclose(field.u[0], before[0] - 0.25 * 2.0 * g_w, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(field.u[1], before[1] - 0.25 * 0.2 * g_b, rtol=1e-14, atol=1e-15)
    np.testing.assert_array_equal(field.u[2], before[2])


# the recorded run


def test_prediction_knows_nothing_of_the_lattices_later_snapshots(tmp_path, signals, problems):
    """Overwriting everything that the lattice measured after t = 0 changes no bit of the prediction."""
    lattice = problems.lattice()
    initial = InitialFields(lattice, seed=5)
    train(lattice, signals, problems.training(), out=tmp_path / "lattice.h5", initial=initial).close()
    shutil.copy(tmp_path / "lattice.h5", tmp_path / "corrupt.h5")
    rng = np.random.default_rng(8)
    with h5py.File(tmp_path / "corrupt.h5", "r+") as file:
        for name, dataset in file["fields"].items():
            dataset[1:] = rng.standard_normal(dataset[1:].shape)
            assert dataset.shape[0] == 3, name
        for group in ("scalars", "evaluation"):
            for dataset in file[group].values():
                dataset[1:] = rng.standard_normal(dataset[1:].shape)
        begin_chain(file)
    seal(tmp_path / "corrupt.h5")

    digests = []
    for name in ("lattice", "corrupt"):
        with Run(tmp_path / f"{name}.h5") as run:
            start = run.initial_fields.on(Grid(8, 10))
            simulate(start, run.boundary, backend="numpy", out=tmp_path / f"field-of-{name}.h5").close()
        digests.append(content_digest(tmp_path / f"field-of-{name}.h5"))
    assert digests[0] == digests[1]
    assert content_digest(tmp_path / "lattice.h5") != content_digest(tmp_path / "corrupt.h5")


@pytest.mark.parametrize(
    ("dynamics", "scheme", "killed_after"),
    [
        ("sgd", "rk4", 1),
        ("sgd", "rk4", 7),
        ("sgd", "midpoint", 10),
        ("sgd", "euler", 19),
        ("flow", "euler", 7),
        ("heavy-ball", "euler", 13),
        ("leapfrog", "midpoint", 7),
    ],
)
def test_run_stopped_and_resumed_is_the_run(tmp_path, signals, problems, dynamics, scheme, killed_after):
    lattice, training = problems.lattice(), problems.training(dynamics=dynamics, snapshot_every=5)
    boundary, start = Boundary.draw(signals, lattice, training), start_of(lattice, Grid(5, 10))

    def go(name, **options):
        options = {"depth_scheme": scheme, "backend": "numpy"} | options
        return simulate(start, boundary, out=tmp_path / name, **options)

    go("whole.h5").close()
    with pytest.raises(Stop):
        go("stopped.h5", progress=stop_after(killed_after))
    with Trajectory(tmp_path / "stopped.h5") as stopped:
        assert not stopped.complete and stopped.n_snapshots == 1 + (killed_after - 1) // 5
    go("stopped.h5", resume=True).close()
    assert content_digest(tmp_path / "stopped.h5") == content_digest(tmp_path / "whole.h5")
    go("stopped.h5", resume=True).close()  # a finished run is returned as it is
    assert content_digest(tmp_path / "stopped.h5") == content_digest(tmp_path / "whole.h5")


def test_resuming_another_configuration_is_refused(tmp_path, signals, problems):
    lattice, training = problems.lattice(), problems.training()
    boundary, start = Boundary.draw(signals, lattice, training), start_of(lattice)
    out = tmp_path / "field.h5"
    with pytest.raises(Stop):
        simulate(start, boundary, backend="numpy", out=out, progress=stop_after(12))
    with pytest.raises(InputError, match="configuration differs in field; resume with the same one"):
        simulate(start, boundary, order=0, backend="numpy", out=out, resume=True)
    with pytest.raises(InputError, match="exists already"):
        simulate(start, boundary, backend="numpy", out=out)
    with pytest.raises(InputError, match="configuration differs in initial, start"):
        simulate(start_of(lattice, seed=6), boundary, backend="numpy", out=out, resume=True)
    simulate(start, boundary, backend="numpy", out=out, resume=True).close()
    with pytest.raises(InputError, match=r"another configuration \(differs in field\)"):
        simulate(start, boundary, order=0, backend="numpy", out=out, resume=True)


def test_unknown_order_scheme_backend_and_unstable_step_are_refused(tmp_path, signals, problems):
    lattice = problems.lattice()
    boundary = Boundary.draw(signals, lattice, problems.training())
    out = tmp_path / "field.h5"
    for options, message in (
        ({"order": 2}, "order 2 is not defined"),
        ({"depth_scheme": "heun"}, "depth scheme 'heun' does not exist"),
        ({"backend": "abacus"}, "backend 'abacus' does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            simulate(start_of(lattice), boundary, out=out, **{"backend": "numpy"} | options)
    assert not out.exists()


@ORDERS
@EVERY_SCHEME
def test_unstable_depth_step_is_refused_with_the_number_of_cells_that_helps(tmp_path, signals, problems, order, scheme):
    lattice = problems.lattice(padding="circular", channels=1)
    boundary = Boundary.draw(signals, lattice, problems.training())
    # the local average, damped at one rate everywhere: h |∂G/∂ẑ| = h (R + a_x R²/2 at order 1) is known
    rate, limit = 40.0, SCHEMES[scheme].real_limit
    exact = rate + (rate**2 / 12 if order == 1 else 0.0)
    needed = int(np.ceil(exact / limit))

    def start(n_x):
        state = start_of(lattice, Grid(n_x, 10))
        return dataclasses.replace(state, w=np.full(state.w.shape, -rate / 0.5), b=0 * state.b)

    def begin(n_x):
        out = tmp_path / f"field-{n_x}.h5"
        options = {"order": order, "depth_scheme": scheme, "backend": "numpy", "out": out}
        return simulate(start(n_x), boundary, progress=stop_after(1), **options)

    message = (
        rf"field\.n_x = {needed - 1}: unstable depth step, .* exceeds {limit:g} \({scheme}\); use n_x = {needed} or"
    )
    with pytest.raises(InputError, match=message):
        begin(needed - 1)
    assert not list(tmp_path.iterdir())
    with pytest.raises(Stop):
        begin(needed)


@pytest.mark.parametrize(
    ("rates", "activation", "found"),
    [
        ((1e200, 0.0, 0.0), "tanh", r"loss not finite at t = 0\.5; "),
        ((1e200, 0.0, 0.0), "identity", r"pre-activations z not finite at t = 0\.5, x = 0\.4; "),
        ((0.0, 0.0, 1e308), "tanh", r"readout R not finite at t = 0\.5; "),
        ((0.0, 1e308, 0.0), "tanh", r"biases b not finite at t = 0\.5, x = 0\.1; "),
    ],
)
def test_what_ceases_to_be_finite_is_named(tmp_path, signals, problems, rates, activation, found):
    lattice = problems.lattice(activation=activation, loss="mean-square")
    training = problems.training(rates=rates, step=0.5, snapshot_every=1)
    boundary, start = Boundary.draw(signals, lattice, training), start_of(lattice, Grid(5, 10), readout=100.0)
    out = tmp_path / "field.h5"
    with pytest.raises(NumericsError, match=found) as caught:
        simulate(start, boundary, order=0, depth_scheme="euler", backend="numpy", out=out)
    assert "\n" not in str(caught.value)
    assert f"earlier snapshots are kept in {out}" in str(caught.value)
    with Run(out) as kept:
        assert not kept.trajectory.complete
        assert len(kept.t) >= 1
        np.testing.assert_array_equal(kept.fields(0).w, start.w)
        assert np.isfinite(kept.z(len(kept.t) - 1)).all()
