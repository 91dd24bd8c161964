"""Steps made again are the steps that were made; what observers take is stored, and survives interruption."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield import Lattice, Rates, Taps, Training, simulate, train
from bbdfield.errors import InputError, NumericsError
from bbdfield.model.run import Run
from bbdfield.observables.stepping import recorded, replay


class Movement:
    """The largest move of a weight, and of z."""

    names = ("movement_w", "movement_z")

    def __init__(self, lattice, grid, training, kind):
        self.scale = 1.0 if kind == "lattice" else 2.0

    def step(self, k, system, before, after):
        return {"movement_w": self.scale * np.abs(after["w"] - before["w"]).max(), "movement_z": system.probe().max()}


def record(tmp_path, waves, dynamics="sgd", backend="numpy", every=7, observers=(), **options):
    lattice = Lattice(depth=5, width=8, channels=2, range=Taps(3), outputs=waves.outputs, padding="circular")
    full = {"damping": 2.0} if dynamics in ("heavy-ball", "leapfrog") else {}
    training = Training(20, 4, Rates(1.0, 0.2, 0.3), step=0.1, dynamics=dynamics, snapshot_every=every, probe=3, **full)
    return train(lattice, waves, training, out=tmp_path / "a.h5", backend=backend, observers=observers, **options)


@pytest.fixture(scope="module")
def waves():
    from bbdfield.datasets import load_dataset

    return load_dataset("waves")


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("dynamics", ["sgd", "heavy-ball", "flow"])
def test_a_replay_makes_the_recorded_steps(tmp_path, waves, dynamics, backend):
    with record(tmp_path, waves, dynamics, backend) as sparse:
        made = {k: (before, after) for k, _, before, after in replay(sparse)}
    (tmp_path / "each").mkdir()
    with record(tmp_path / "each", waves, dynamics, backend, every=1) as dense:
        assert list(made) == list(range(20))
        for k, (before, after) in made.items():
            for name in before:
                np.testing.assert_array_equal(before[name], dense.trajectory.fields[name][k])
                np.testing.assert_array_equal(after[name], dense.trajectory.fields[name][k + 1])


def test_a_field_is_replayed_too(tmp_path, waves):
    with record(tmp_path, waves) as lattice:
        field = simulate(lattice.initial_fields.on(lattice.grid), lattice.boundary, out=tmp_path / "field.h5")
    with field:
        steps = list(replay(field))
        assert [k for k, *_ in steps] == list(range(20))
        np.testing.assert_array_equal(steps[-1][3]["w"], field.trajectory.fields["w"][-1])


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_what_observers_take_is_stored_and_equals_the_replay(tmp_path, waves, backend):
    lattice = Lattice(depth=5, width=8, channels=2, range=Taps(3), outputs=waves.outputs, padding="circular")
    watching = Movement(lattice, lattice.grid, None, "lattice")
    with record(tmp_path, waves, backend=backend, observers=[watching]) as run:
        stored = run.trajectory.scalars
        assert set(stored) == {"loss", *Movement.names} and recorded(run, Movement)["movement_w"][3] > 0
    (tmp_path / "plain").mkdir()
    with record(tmp_path / "plain", waves, backend=backend) as plain:
        again = recorded(plain, Movement)
        np.testing.assert_array_equal(plain.loss, stored["loss"])
    for name in Movement.names:
        np.testing.assert_array_equal(stored[name], again[name])


def test_an_interrupted_run_goes_on_with_its_observers(tmp_path, waves):
    lattice = Lattice(depth=5, width=8, channels=2, range=Taps(3), outputs=waves.outputs, padding="circular")
    watching = Movement(lattice, lattice.grid, None, "lattice")
    with record(tmp_path, waves, observers=[watching]) as whole:
        wanted = whole.trajectory.scalars

    def stop(done, steps, loss):
        if done == 17:
            raise KeyboardInterrupt

    (tmp_path / "b").mkdir()
    with pytest.raises(KeyboardInterrupt):
        record(tmp_path / "b", waves, observers=[watching], progress=stop)
    with pytest.raises(InputError, match=r"other observables.*movement_w"):
        record(tmp_path / "b", waves, resume=True)
    with record(tmp_path / "b", waves, observers=[watching], resume=True) as run:
        for name, values in wanted.items():
            np.testing.assert_array_equal(run.trajectory.scalars[name], values)


def test_a_replay_that_ends_elsewhere_is_noticed(tmp_path, waves):
    with record(tmp_path, waves) as run:
        run.training, run.config  # noqa: B018  (read before they are replaced)
        run.__dict__["training"] = Training(20, 4, Rates(1.0, 0.2, 0.31), step=0.1, snapshot_every=7, probe=3)
        run.__dict__.pop("boundary", None)
        with pytest.raises(NumericsError, match="does not lead to its snapshot"):
            list(replay(run))


def test_a_run_without_steps_is_refused(tmp_path, waves):
    def stop(done, steps, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(tmp_path, waves, progress=stop)
    with Run(tmp_path / "a.h5") as run, pytest.raises(InputError, match="no training step"):
        recorded(run, Movement)
