"""Training the lattice: the step, the recorded trajectory, and stopping and resuming."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bbdfield.errors import InputError, NumericsError
from bbdfield.lattice import training as training_module
from bbdfield.lattice.network import forward
from bbdfield.lattice.sharpness import stability_limit
from bbdfield.lattice.training import LatticeSystem, train
from bbdfield.model.activations import get_activation
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.run import Run
from bbdfield.model.units import heavy_ball_of, inertia, learning_rates, to_lattice
from bbdfield.storage import Trajectory, TrajectoryWriter, content_digest
from solvers.steppers import get_damped_stepper


class Stop(Exception):
    """Raised from `progress`, in place of a crash."""


def stop_after(steps):
    def progress(done, total, loss):
        if done == steps:
            raise Stop

    return progress


def make_system(signals, lattice, training):
    start = to_lattice(InitialFields(lattice, seed=5, bias=0.5).on(lattice.grid))
    return LatticeSystem(lattice, Boundary.draw(signals, lattice, training), start)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_step_is_sgd_with_the_lattices_learning_rates(signals, problems, tied):
    """The move is −learning rate × the slope of the step's own minibatch loss, by central differences."""
    lattice, training = problems.lattice(tied=tied), problems.training()
    system = make_system(signals, lattice, training)
    lr = learning_rates(lattice, training.step, training.rates)
    before = {name: value.copy() for name, value in system.state().items()}
    index = system.boundary.batch(3)

    def loss(**changed):
        arrays = before | changed
        return system.gradient((arrays["w"], arrays["b"], arrays["r"]), index)[0]

    reported = system.step(3)["loss"]
    assert reported == pytest.approx(loss(), rel=1e-14)
    rng = np.random.default_rng(1)
    for name, after in system.state().items():
        direction = rng.standard_normal(after.shape)
        h = 1e-6
        slope = (loss(**{name: before[name] + h * direction}) - loss(**{name: before[name] - h * direction})) / (2 * h)
        moved = np.vdot(after - before[name], direction)
        assert moved == pytest.approx(-getattr(lr, name) * slope, rel=1e-6)


def test_large_batches_are_summed_over_chunks(monkeypatch, signals, problems):
    system = make_system(signals, problems.lattice(), problems.training())
    arguments = tuple(system.state().values()), np.arange(23)
    loss, whole = system.gradient(*arguments)
    logits = system.logits(signals.x)
    monkeypatch.setattr(training_module, "CHUNK", 5)
    in_parts_loss, in_parts = system.gradient(*arguments)
    assert in_parts_loss == pytest.approx(loss, rel=1e-14)
    for a, b in zip(whole, in_parts, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-13 * np.abs(a).max())
    np.testing.assert_allclose(system.logits(signals.x), logits, rtol=0, atol=1e-14)


def test_heavy_ball_is_torch_sgd_with_momentum(signals, problems):
    """PyTorch's SGD(lr, momentum), with (lr, β) = (h²/μ, e^{−γh}) per group, moves the parameters in the same way."""
    lattice = problems.lattice()
    training = problems.training(dynamics="heavy-ball", damping=0.7, step=0.8)
    system = make_system(signals, lattice, training)
    mu = inertia(lattice, training)
    parameters = {
        name: torch.tensor(value, requires_grad=True) for name, value in system.state().items() if name in mu_of(mu)
    }
    groups = []
    for name, value in mu_of(mu).items():
        rate, momentum = heavy_ball_of(value, 0.7, 0.8)
        groups.append({"params": [parameters[name]], "lr": rate, "momentum": momentum})
    optimizer = torch.optim.SGD(groups)
    for k in range(6):
        arrays = tuple(parameters[name].detach().numpy().copy() for name in ("w", "b", "r"))
        _, gradients = system.gradient(arrays, system.boundary.batch(k))
        for name, gradient in zip(("w", "b", "r"), gradients, strict=True):
            parameters[name].grad = torch.tensor(gradient)
        optimizer.step()
        system.step(k)
    for name, value in parameters.items():
        np.testing.assert_allclose(system.state()[name], value.detach().numpy(), rtol=0, atol=1e-13)


def mu_of(mu):
    return {"w": mu.w, "b": mu.b, "r": mu.r}


@pytest.mark.parametrize(("dynamics", "order"), [("heavy-ball", 1), ("leapfrog", 2)])
def test_damped_training_has_the_declared_order(signals, problems, fitted_order, dynamics, order):
    """To t = 1 on one fixed minibatch, against a step 16 times finer."""

    def end(steps):
        training = problems.training(dynamics=dynamics, steps=steps, step=1 / steps, rates=(2.0, 0.5, 1.0), damping=2.0)
        system = make_system(signals, problems.lattice(), training)
        fixed = system.boundary.sample_index[0]
        object.__setattr__(system.boundary, "sample_index", np.tile(fixed, (steps, 1)))
        for k in range(steps):
            system.step(k)
        return np.concatenate([part.ravel() for part in (*system.u, *system.v)])

    reference, sizes = end(512), [8, 16, 32]
    errors = [np.linalg.norm(end(n) - reference) for n in sizes]
    assert fitted_order([1 / n for n in sizes], errors) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(
    ("dynamics", "damping"), [("heavy-ball", 0.1), ("heavy-ball", 2.0), ("leapfrog", 0.1), ("leapfrog", 2.0)]
)
def test_stability_limit_of_damped_steps_is_where_a_quadratic_loss_diverges(problems, dynamics, damping):
    """u'' + γu' = −γλu has a spectral radius of 1 at the limit: just below it shrinks, just above it grows."""
    limit = stability_limit(problems.training(dynamics=dynamics, damping=damping, step=1.0))
    stepper = get_damped_stepper(dynamics)

    def size(curvature):
        u, v = (np.array([1.0]),), (np.array([0.3]),)
        for _ in range(4000):
            u, v = stepper.step(lambda t, u: (-damping * curvature * u[0],), 0.0, u, v, 1.0, damping)
        return float(np.abs(u[0][0]))

    assert size(0.99 * limit) < 1e-3
    with np.errstate(over="ignore"):
        assert not size(1.01 * limit) < 1e3


def test_large_damping_is_the_overdamped_limit(signals, problems):
    """With γ → ∞ at fixed η the second-order dynamics becomes ∂_t θ = −η ∂ℓ/∂θ; the difference falls as 1/γ."""

    def end(**changes):
        training = problems.training(steps=4000, step=1 / 4000, batch=8, **changes)
        system = make_system(signals, problems.lattice(depth=3), training)
        fixed = system.boundary.sample_index[0]
        object.__setattr__(system.boundary, "sample_index", np.tile(fixed, (4000, 1)))
        for k in range(400):
            system.step(k)
        return system.state()["w"]

    overdamped = end()
    errors = [
        np.linalg.norm(end(dynamics="leapfrog", damping=damping) - overdamped) for damping in (50.0, 100.0, 200.0)
    ]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.3) and errors[1] / errors[2] == pytest.approx(2, abs=0.3)


def test_training_lowers_the_loss_of_the_flow_at_every_step(tmp_path, signals, problems):
    training = problems.training(dynamics="flow", step=0.5, batch=24)
    with train(problems.lattice(), signals, training, out=tmp_path / "run.h5") as run:
        assert (np.diff(run.loss) < 0).all()
        assert run.loss[-1] < 0.7 * run.loss[0]


def test_what_is_recorded(tmp_path, signals, problems):
    lattice, training = problems.lattice(), problems.training(steps=7, snapshot_every=3, step=0.5)
    initial = InitialFields(lattice, seed=5, bias=0.5)
    calls = []
    train(
        lattice, signals, training, out=tmp_path / "run.h5", initial=initial, progress=lambda *a: calls.append(a)
    ).close()
    with Run(tmp_path / "run.h5") as run:
        assert run.trajectory.complete and run.kind == "lattice"
        run.trajectory.verify()
        np.testing.assert_array_equal(run.steps, [0, 3, 6, 7])
        np.testing.assert_array_equal(run.t, [0.0, 1.5, 3.0, 3.5])
        assert (run.lattice, run.training, run.grid) == (lattice, training, lattice.grid)
        assert [call[:2] for call in calls] == [(k + 1, 7) for k in range(7)]
        np.testing.assert_array_equal([call[2] for call in calls], run.loss)
        # the first snapshot is the start, the later ones the steps'
        system = LatticeSystem(lattice, Boundary.draw(signals, lattice, training), to_lattice(initial.on(lattice.grid)))
        np.testing.assert_allclose(run.fields(0).w, initial.on(lattice.grid).w, rtol=1e-14)
        for k in range(6):
            assert system.step(k)["loss"] == run.loss[k]
        np.testing.assert_array_equal(run.trajectory.fields["w"][2], system.u[0])
        np.testing.assert_array_equal(run.z(2), system.probe())
        z = forward(run.boundary.probe_input(10), *system.u[:2], get_activation("tanh"), "zeros")
        np.testing.assert_array_equal(run.z(2), z)
        # and the file alone gives the boundary and the initial fields back
        assert run.initial_fields == initial
        drawn = system.boundary
        for key in ("lift", "sample_index", "probe_index"):
            np.testing.assert_array_equal(getattr(run.boundary, key), getattr(drawn, key))
        assert run.boundary.dataset.digest == signals.digest
        assert set(run.evaluation) == {"test_loss", "test_accuracy"} and len(run.evaluation["test_loss"]) == 4


def test_starting_from_arrays_has_no_initial_fields(tmp_path, signals, problems):
    lattice = problems.lattice()
    start = to_lattice(InitialFields(lattice).on(lattice.grid))
    with (
        train(lattice, signals, problems.training(steps=1), out=tmp_path / "run.h5", initial=start) as run,
        pytest.raises(InputError, match="did not start from drawn fields; coarse-grain its first snapshot"),
    ):
        _ = run.initial_fields


def test_training_leaves_its_start_alone(tmp_path, signals, problems):
    lattice = problems.lattice()
    start = to_lattice(InitialFields(lattice).on(lattice.grid))
    before = dataclasses.replace(start, w=start.w.copy(), b=start.b.copy(), r=start.r.copy())
    train(lattice, signals, problems.training(steps=2), out=tmp_path / "run.h5", initial=start).close()
    for name in ("w", "b", "r"):
        np.testing.assert_array_equal(getattr(start, name), getattr(before, name))


@pytest.mark.parametrize(("dynamics", "killed_after"), [("sgd", 1), ("sgd", 7), ("sgd", 10), ("sgd", 20), ("flow", 13)])
def test_run_stopped_and_resumed_is_the_run(tmp_path, signals, problems, dynamics, killed_after):
    lattice, training = problems.lattice(), problems.training(dynamics=dynamics, snapshot_every=5)

    def go(name, **options):
        return train(lattice, signals, training, out=tmp_path / name, **options)

    go("whole.h5").close()
    with pytest.raises(Stop):
        go("stopped.h5", progress=stop_after(killed_after))
    with Trajectory(tmp_path / "stopped.h5") as stopped:
        assert not stopped.complete and stopped.n_snapshots == 1 + (killed_after - 1) // 5
    go("stopped.h5", resume=True).close()
    assert content_digest(tmp_path / "stopped.h5") == content_digest(tmp_path / "whole.h5")
    with pytest.raises(InputError, match="exists already"):
        go("stopped.h5")
    go("never-started.h5", resume=True).close()
    assert content_digest(tmp_path / "never-started.h5") == content_digest(tmp_path / "whole.h5")


def test_twice_resumed_is_the_run_too(tmp_path, signals, problems):
    lattice, training = problems.lattice(), problems.training(snapshot_every=4)
    train(lattice, signals, training, out=tmp_path / "whole.h5").close()
    for stop in (6, 15):
        with pytest.raises(Stop):
            train(lattice, signals, training, out=tmp_path / "run.h5", resume=True, progress=stop_after(stop))
    train(lattice, signals, training, out=tmp_path / "run.h5", resume=True).close()
    assert content_digest(tmp_path / "run.h5") == content_digest(tmp_path / "whole.h5")


def test_what_another_process_went_on_with_meanwhile_is_not_mixed_up(tmp_path, signals, problems, monkeypatch):
    """It runs, and stops, between this one's reading its last state and its beginning to write."""
    out, real = tmp_path / "run.h5", TrajectoryWriter.resume

    def go(stop, **options):
        training = problems.training(snapshot_every=4)
        return train(problems.lattice(), signals, training, out=out, progress=stop and stop_after(stop), **options)

    def late(*args, **named):
        monkeypatch.setattr(TrajectoryWriter, "resume", real)
        with pytest.raises(Stop):
            go(15, resume=True)
        return real(*args, **named)

    with pytest.raises(Stop):
        go(6)
    monkeypatch.setattr(TrajectoryWriter, "resume", late)
    with pytest.raises(InputError, match=r"run\.h5: another process has gone on with it meanwhile; run it again$"):
        go(None, resume=True)
    go(None, resume=True).close()
    go(None, resume=True).close()
    train(problems.lattice(), signals, problems.training(snapshot_every=4), out=tmp_path / "whole.h5").close()
    assert content_digest(out) == content_digest(tmp_path / "whole.h5")


def test_non_finite_values_stop_the_run_and_keep_what_was_recorded(tmp_path, signals, problems):
    """σ(z) = z and weights of 1e200 after the first step: z overflows at the second site behind the input."""
    lattice = problems.lattice(activation="identity", loss="mean-square")
    training = problems.training(rates=(1e200, 0.0, 0.0), step=0.5, snapshot_every=1)
    with pytest.raises(NumericsError, match=r"pre-activations z not finite at t = 0\.5, x = 0\.3333; ") as caught:
        train(lattice, signals, training, out=tmp_path / "run.h5")
    assert str(tmp_path / "run.h5") in str(caught.value) and "\n" not in str(caught.value)
    with Run(tmp_path / "run.h5") as kept:
        assert not kept.trajectory.complete
        np.testing.assert_array_equal(kept.steps, [0])
        assert np.isfinite(kept.z(0)).all() and kept.fields(0).w.any()
