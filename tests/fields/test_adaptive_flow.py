"""The gradient flow with error control: as accurate as it says, the same on both sides, resumable."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.fields.simulation import FieldSystem, simulate
from bbdfield.lattice.sharpness import stability_limit
from bbdfield.lattice.training import LatticeSystem, train
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.ranges import Taps
from bbdfield.model.run import Run
from bbdfield.model.units import LatticeState, to_field, to_lattice

RATES = (20.0, 0.5, 3.0)


def systems(signals, problems, changes=None, order=0, scheme="euler", **law):
    lattice = dataclasses.replace(problems.lattice(padding="circular"), **(changes or {}))
    training = problems.training(**{"rates": RATES, **law})
    boundary, initial = Boundary.draw(signals, lattice, training), InitialFields(lattice, 1, bias=0.3)
    field = FieldSystem(initial.on(lattice.grid), boundary, order=order, scheme=scheme, backend="numpy")
    return LatticeSystem(lattice, boundary, to_lattice(initial.on(lattice.grid))), field


def after(system, steps):
    for k in range(steps):
        system.step(k)
    return system.probe()


@pytest.mark.parametrize("side", [0, 1], ids=["lattice", "field"])
def test_error_is_as_small_as_the_tolerance(signals, problems, side):
    exact = after(systems(signals, problems, dynamics="adaptive-flow", tolerance=1e-12, step=1.0)[side], 2)
    fixed = after(systems(signals, problems, dynamics="flow", step=1 / 64)[side], 128)
    assert np.abs(fixed - exact).max() < 1e-6 * np.abs(exact).max()
    errors = []
    for tolerance in (1e-4, 1e-7):
        system = systems(signals, problems, dynamics="adaptive-flow", tolerance=tolerance, step=1.0)[side]
        errors.append(np.abs(after(system, 2) - exact).max() / np.abs(exact).max())
        assert errors[-1] < 30 * tolerance
    assert errors[1] < errors[0] / 30  # and it pays to ask for more


def test_lattice_and_field_choose_the_same_steps(signals, problems):
    """At order 0 with Euler on the lattice's own grid both integrate one flow, in the same units."""
    lattice, field = systems(signals, problems, dynamics="adaptive-flow", step=1.0)
    assert np.allclose(after(lattice, 3), after(field, 3), rtol=0, atol=1e-12)


def test_the_tolerance_is_that_of_hatted_weights_for_the_critical_scaling_too(signals, problems):
    """W = 1 + a_x ŵ: it is ŵ that is as accurate as asked for, by as many steps as the field needs."""
    changes = {"scaling": "critical", "kappa": 0.1, "depth": 64, "channels": 1, "range": Taps(1, tied=True)}
    law = {"dynamics": "adaptive-flow", "rates": (5.0, 0.0, 0.0), "step": 1.0}

    def run(tolerance, side):
        system = systems(signals, problems, changes, order=1, scheme="rk4", tolerance=tolerance, **law)[side]
        asked = system._engine if side == 0 else system
        calls, original = [], asked.gradient
        asked.gradient = lambda *a: calls.append(1) or original(*a)
        after(system, 2)
        return (to_field(system.lattice, LatticeState(*system.u)).w if side == 0 else None), len(calls)

    exact, _ = run(1e-9, 0)
    for tolerance in (1e-4, 1e-5):
        (w, count), (_, fields) = run(tolerance, 0), run(tolerance, 1)
        assert count == fields
        assert np.abs(w - exact).max() < 30 * tolerance * np.abs(exact).max()


def test_stopping_and_resuming_changes_no_bit(signals, problems, tmp_path):
    lattice = problems.lattice()
    law = {"dynamics": "adaptive-flow", "steps": 6, "snapshot_every": 2, "rates": RATES}
    whole = train(lattice, signals, problems.training(**law), out=tmp_path / "whole.h5")

    class Stop(Exception):
        pass

    def stop(done: int, total: int, loss: float) -> None:
        if done == 5:
            raise Stop

    for name, run, options in (
        ("lattice", train, (lattice, signals, problems.training(**law))),
        ("field", simulate, (whole.initial_fields.on(lattice.grid), whole.boundary)),
    ):
        out = tmp_path / f"{name}.h5"
        once = run(*options, out=tmp_path / f"{name}-once.h5")
        with pytest.raises(Stop):
            run(*options, out=out, progress=stop)
        again = run(*options, out=out, resume=True)
        assert isinstance(again, Run) and again.steps.tolist() == [0, 2, 4, 6]
        for i in range(4):
            assert np.array_equal(again.fields(i).w, once.fields(i).w) and np.array_equal(again.z(i), once.z(i))
        assert np.array_equal(again.loss, once.loss)


def test_tolerance_belongs_to_this_law_only(problems):
    assert problems.training(dynamics="adaptive-flow").tolerance == 1e-6
    assert stability_limit(problems.training(dynamics="adaptive-flow")) == np.inf
    for law, message in (
        ({"tolerance": 1e-3}, "sgd has none"),
        ({"dynamics": "adaptive-flow", "tolerance": 0.0}, "needs a relative tolerance"),
        ({"dynamics": "adaptive-flow", "tolerance": 2.0}, "needs a relative tolerance"),
    ):
        with pytest.raises(InputError, match=message):
            problems.training(**law)
