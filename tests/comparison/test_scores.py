"""Scores against numbers computed by hand, and pairs that must be refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import bbdfield
from bbdfield.comparison.scores import HORIZON, compare, grid_change
from solvers.grids import Grid

DATA = bbdfield.Dataset(
    "noise",
    np.random.default_rng(0).standard_normal((24, 12)),
    np.arange(24) % 3,
    np.random.default_rng(1).standard_normal((9, 12)),
    np.arange(9) % 3,
)
PLAN = bbdfield.Training(steps=6, batch=4, rates=bbdfield.Rates(4, 1, 1), snapshot_every=2, probe=3, seed=1)


def network(depth: int = 6, **changes: object) -> bbdfield.Lattice:
    basic = {"width": 12, "channels": 2, "range": bbdfield.Kernel(1.5 / 12), "outputs": 3}
    return bbdfield.Lattice(depth=depth, **{**basic, **changes})  # type: ignore[arg-type]


@pytest.fixture
def lattice(tmp_path: Path) -> bbdfield.Run:
    return bbdfield.train(network(), DATA, PLAN, out=tmp_path / "lattice.h5")


@pytest.fixture
def field(lattice: bbdfield.Run, tmp_path: Path) -> bbdfield.Run:
    start = lattice.initial_fields.on(Grid(8, 12))
    return bbdfield.simulate(start, lattice.boundary, order=0, out=tmp_path / "field.h5")


def test_errors_are_those_of_the_definition(lattice: bbdfield.Run, field: bbdfield.Run) -> None:
    score = compare(field, lattice)
    mine = np.array([bbdfield.restrict(field.fields(i), lattice.grid).w for i in range(4)])
    theirs = np.array([lattice.fields(i).w for i in range(4)])
    norm = np.linalg.norm
    assert score.error["w"] == pytest.approx(norm(mine - theirs) / norm(theirs), rel=1e-12)
    assert score.error_over_movement["w"] == pytest.approx(norm(mine - theirs) / norm(theirs - theirs[0]), rel=1e-12)
    assert score.max_error["w"] == pytest.approx(np.abs(mine - theirs).max() / np.abs(theirs).max(), rel=1e-12)
    assert score.error_t["w"][2] == pytest.approx(norm(mine[2] - theirs[2]) / norm(theirs[2]), rel=1e-12)
    assert score.profile["w"][4] == pytest.approx(norm(mine[3, 4] - theirs[3, 4]) / norm(theirs[3, 4]), rel=1e-12)
    assert score.error["loss"] == pytest.approx(norm(field.loss - lattice.loss) / norm(lattice.loss), rel=1e-12)
    assert score.error_over_movement["w"] > score.error["w"] > 0
    assert np.isnan(score.movement_error_t["w"][0]) and score.movement_error_t["w"][3] > 0
    assert len(score.profile["z"]) == 7
    np.testing.assert_array_equal(score.test_accuracy["lattice"], lattice.evaluation["test_accuracy"])


def test_a_run_against_itself_has_no_error(lattice: bbdfield.Run) -> None:
    score = compare(lattice, lattice)
    assert max(score.error.values()) == 0 and score.horizon is None
    assert max(grid_change(lattice, lattice, lattice).values()) == 0


def test_the_horizon_is_the_first_time_beyond_ten_percent(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, steps=40, snapshot_every=1, rates=bbdfield.Rates(60, 10, 10))
    run = bbdfield.train(network(3), DATA, plan, out=tmp_path / "l.h5")
    sim = bbdfield.simulate(run.initial_fields.on(Grid(8, 12)), run.boundary, order=0, out=tmp_path / "f.h5")
    score = compare(sim, run)
    assert score.horizon is not None
    first = int(np.argmax(score.error_t["z"] > HORIZON))
    assert score.horizon == score.t[first] and (score.error_t["z"][:first] <= HORIZON).all()


def test_to_dict_is_plain_json(lattice: bbdfield.Run, field: bbdfield.Run) -> None:
    import json

    text = json.dumps(compare(field, lattice).to_dict(), allow_nan=False)
    assert json.loads(text)["error"].keys() == {"z", "w", "b", "loss"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net": {"padding": "circular"}}, "lattice.padding"),
        ({"plan": {"seed": 2}}, "training.seed"),
        ({"plan": {"step": 0.5}}, "training.step"),
        ({"data": True}, "different data"),
        ({"initial": True}, "initial fields"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(
    lattice: bbdfield.Run, tmp_path: Path, change: dict, message: str
) -> None:
    net = network(**change.get("net", {}))
    plan = dataclasses.replace(PLAN, **change.get("plan", {}))
    data = DATA
    if "data" in change:
        data = bbdfield.Dataset("other", DATA.x + 1, DATA.y, DATA.x_test, DATA.y_test)
    initial = bbdfield.InitialFields(net, plan.seed, weight=2.5) if "initial" in change else None
    other = bbdfield.train(net, data, plan, initial=initial, out=tmp_path / "other.h5")
    sim = bbdfield.simulate(other.initial_fields.on(Grid(6, 12)), other.boundary, order=0, out=tmp_path / "f.h5")
    with pytest.raises(bbdfield.InputError, match=message):
        compare(sim, lattice)


def test_order_one_belongs_to_one_depth(lattice: bbdfield.Run, tmp_path: Path) -> None:
    start = lattice.initial_fields.on(Grid(8, 12), network(12))
    sim = bbdfield.simulate(start, lattice.boundary, order=1, out=tmp_path / "f.h5")
    with pytest.raises(bbdfield.InputError, match="12 layers"):
        compare(sim, lattice)
