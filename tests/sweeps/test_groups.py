"""What points say together: every run counts once, and what failed has its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bbdfield.sweeps.figures import figures
from bbdfield.sweeps.groups import Observation, observations, varying
from bbdfield.sweeps.index import Row
from bbdfield.sweeps.plan import Sweep
from bbdfield.sweeps.run import run_sweep

Small = Callable[[str], Sweep]


def run(sweep: Sweep, out: Path) -> dict[str, Any]:
    return run_sweep(sweep, out, workers=1, say=lambda line: None)


@pytest.mark.parametrize(
    ("overlapping", "each_once"),
    [
        ("'lattice.depth' = [[2, 4], 4, [4]]", "'lattice.depth' = [[2, 4]]"),
        ("'field.orders' = [[0, 1], [1], [0]]\na_x = ['1/2', '1/4']", "a_x = ['1/2', '1/4']"),
    ],
)
def test_a_rung_that_points_share_counts_once(small: Small, computed, tmp_path, overlapping, each_once):
    text = "[sweep]\nfigures = false\n[sweep.grid]\nseed = [1, 2]\n"
    found, wanted = run(small(text + overlapping), tmp_path / "a"), run(small(text + each_once), tmp_path / "b")
    assert all(entry["n"] == 2 for group in found["groups"] for entry in group["scores"].values())
    assert found["groups"] == wanted["groups"] and found["fitted_orders"] == wanted["fitted_orders"]


def test_one_seed_has_neither_deviation_nor_interval(small: Small, computed, tmp_path):
    sweep = small("[sweep.grid]\nseed = [1]\na_x = ['1/2', '1/4']\n'field.orders' = [[0, 1], [1], [0]]\n")
    scores = run(sweep, tmp_path / "out")
    assert {entry["std"] for group in scores["groups"] for entry in group["scores"].values()} == {None}
    assert {entry["ci"] for fit in scores["fitted_orders"] for entry in fit["order"].values()} == {None}


def finished(point: Any, error: float) -> Row:
    depth, width = point.config.lattice.depth, point.config.lattice.width
    rung = {"depth": depth, "width": width, "a_x": 1 / depth, "a_y": 1 / width, "order": 1, "error.z": error}
    return Row(point, "finished", scores={f"rungs.0.{key}": value for key, value in rung.items()})


def test_refused_points_have_a_place_on_the_map(small: Small):
    sweep = small("[sweep.grid]\n'lattice.depth' = [2, 4]\n'lattice.width' = [12, 10, 0]\n")
    rows = [
        Row(p, "failed", p.refusal) if p.config is None else finished(p, 0.1 * k) for k, p in enumerate(sweep.points())
    ]
    assert [row.status for row in rows].count("failed") == 4
    found = observations(rows)
    assert varying(found) == ["a_x", "a_y"]
    assert {each.settings["a_y"] for each in found if not each.values} == {0.1, "lattice.width = 0"}
    drawn = dict(figures(sweep, found, ["error.z"]))
    assert "heat-1" in drawn
    labels = [label.get_text() for label in drawn["heat-1"].axes[0].get_yticklabels()]
    assert labels == ["1/12", "1/10", "lattice.width = 0"]


def test_a_finished_run_stands_for_a_failed_one_at_its_place(small: Small):
    """As of two points that share a rung, one of which failed elsewhere."""
    (point,) = small("[sweep.grid]\na_x = ['1/4']\na_y = ['1/12']\norder = [1]\n").points()
    rows = [Row(point, "failed", "no memory"), finished(point, 0.1)]
    for each in (rows, rows[::-1]):
        (only,) = observations(each)
        assert only.values["error.z"] == 0.1


def test_a_key_that_some_points_do_not_have_varies():
    found = [Observation({"a": 1, "b": value}, 0, {"e": 1.0}) for value in (None, 2)]
    assert varying(found) == ["b"]


def test_spacings_of_refused_points_come_from_the_base(small: Small):
    sweep = small("[[sweep.points]]\n'lattice.radius' = '1/7'\n[[sweep.points]]\na_x = 0.5\n")
    refused, whole = sweep.points()
    assert refused.config is None and refused.settings["a_x"] == 0.25
    assert whole.settings["a_x"] == 0.5 and json.dumps(whole.settings)
