"""A whole study, small: contents of the run directory, reproducibility, resuming, refusals."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bbdfield import files
from bbdfield.errors import InputError, NumericsError
from bbdfield.model import activations
from bbdfield.model.activations import register_activation
from bbdfield.studies.config import StudyConfig, parse_config
from bbdfield.studies.continuum import Plan
from bbdfield.studies.run import finished_scores, run_study, was_altered

SMALL = """
kind = "continuum"
title = "small"
seed = 3
[data]
file = "data.npz"
[lattice]
depth = [4, 8]
width = 12
channels = 2
radius = "1/8"
readout_modes = 4
[training]
steps = 6
batch = 5
rates = { w = 2.0, b = 0.5, r = 0.5 }
snapshot_every = 3
probe = 3
[field]
orders = [0, 1]
n_x = 6
[output]
figures = false
"""


@pytest.fixture
def config(tmp_path: Path, write_data: Callable[[Path], None]) -> StudyConfig:
    write_data(tmp_path)
    return parse_config(SMALL, folder=tmp_path)


def changed(config: StudyConfig, old: str, new: str) -> StudyConfig:
    assert old in SMALL
    return parse_config(SMALL.replace(old, new), folder=Path(config.data.file or "").parent)


def silent(_: str) -> None:
    """Nothing on standard error."""


def test_a_study_leaves_its_directory_complete(config: StudyConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    lines: list[str] = []
    scores = run_study(config, out, workers=1, say=lines.append)
    assert json.loads((out / "scores.json").read_text()) == scores
    assert {path.name for path in out.iterdir()} == {
        "config.toml",
        "run.json",
        "scores.json",
        "log.txt",
        ".lock",
        "lattice-M004-N012.h5",
        "lattice-M008-N012.h5",
        "field-order0-6x12.h5",
        "field-order0-12x12.h5",
        "field-order1-M004-6x12.h5",
        "field-order1-M004-12x12.h5",
        "field-order1-M008-6x12.h5",
        "field-order1-M008-12x12.h5",
    }
    assert parse_config((out / "config.toml").read_text(), folder=tmp_path) == config
    assert scores["fitted_against"] == "a_x"
    assert set(scores["fitted_order"]) == {"0", "1"} and set(scores["fitted_order"]["1"]) == {"z", "w", "b", "loss"}
    assert all(isinstance(value, float) for value in scores["fitted_order"]["1"].values())
    assert [(r["depth"], r["order"]) for r in scores["rungs"]] == [(4, 0), (4, 1), (8, 0), (8, 1)]
    for rung in scores["rungs"]:
        assert set(rung["error"]) == {"z", "w", "b", "loss"} and set(rung["error_over_movement"]) == {"w", "b"}
        assert rung["grid_error"] == max(rung["grid_error_by"].values()) > 0
    assert all(set(entry) == {"depth", "width", "train_loss", "test_accuracy"} for entry in scores["lattice"])
    record = json.loads((out / "run.json").read_text())
    assert record["versions"]["numpy"] == np.__version__ and record["finished"] and record["seconds"] >= 0
    assert record["seed"] == 3 and record["data"]["digest"] == config.dataset().digest and record["earlier"] == []
    assert set(record) >= {"git_revision", "command", "machine", "device", "threads", "config_sha256", "scores_sha256"}
    assert any("NumPy on the CPU" in line for line in lines)  # which backend is said
    assert "NumPy on the CPU" in (out / "log.txt").read_text()


def test_scores_are_bitwise_the_same_whatever_the_number_of_processes(config: StudyConfig, tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("again", 1), ("two", 2)):
        run_study(config, tmp_path / name, workers=workers, say=silent)
    texts = {(tmp_path / name / "scores.json").read_bytes() for name in ("one", "again", "two")}
    assert len(texts) == 1


def test_an_interrupted_study_resumes_to_the_same_scores(config: StudyConfig, tmp_path: Path) -> None:
    whole = run_study(config, tmp_path / "whole", workers=1, say=silent)
    seen: list[str] = []

    def interrupt(job: str, done: int, total: int, loss: float) -> None:
        seen.append(job)
        if len(set(seen)) == 3 and done == 4:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_study(config, out, workers=1, report_progress=interrupt, say=silent)
    assert not (out / "scores.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.h5")}
    assert run_study(config, out, workers=1, resume=True, say=silent) == whole
    untouched = [path for path, when in finished.items() if path.stat().st_mtime_ns == when]
    assert len(untouched) == 2  # the two finished files were not computed again
    assert run_study(config, out, workers=1, resume=True, say=silent) == whole  # harmless on a finished one


def test_nothing_is_overwritten_unasked(config: StudyConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_study(config, out, workers=1, say=silent)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError, match="exists already"):
        run_study(config, out, workers=1, say=silent)
    with pytest.raises(InputError, match="another configuration"):
        run_study(changed(config, "steps = 6", "steps = 9"), out, workers=1, resume=True, say=silent)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    run_study(changed(config, "depth = [4, 8]", "depth = 5"), out, workers=1, overwrite=True, say=silent)
    assert {path.name for path in out.glob("lattice-*")} == {"lattice-M005-N012.h5"}  # no file of the old study is left

    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(InputError):
            run_study(config, precious, workers=1, say=silent, **options)
    assert [path.name for path in precious.iterdir()] == ["thesis.txt"]


def test_a_directory_that_another_process_writes_into_is_refused(config: StudyConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    # a lock excludes whoever opens the file again, also in this process
    with files.locked(out), pytest.raises(InputError, match=f"process {os.getpid()} on .* is writing into it"):
        run_study(config, out, workers=1, say=silent)
    assert {path.name for path in out.iterdir()} == {".lock"}
    run_study(config, out, workers=1, say=silent)


def test_only_what_the_study_wrote_counts_as_finished(config: StudyConfig, tmp_path: Path) -> None:
    out, lines = tmp_path / "run", []
    scores = run_study(config, out, workers=1, say=silent)
    assert finished_scores(out, config) == scores and not was_altered(out)
    assert finished_scores(out, changed(config, "seed = 3", "seed = 4")) is None
    text = (out / "scores.json").read_text()
    (out / "scores.json").write_text(text.replace('"order": 1', '"order": 2', 1))
    assert finished_scores(out, config) is None and was_altered(out)
    run_study(config, out, resume=True, workers=1, say=lines.append)
    assert any("scores.json: altered since it was written" in line for line in lines)
    assert (out / "scores.json").read_text() == text and finished_scores(out, config) == scores
    (out / "lattice-M008-N012.h5").write_bytes(b"damaged beyond repair")
    with pytest.raises(InputError, match="not an HDF5 file"):
        run_study(config, out, resume=True, workers=1, say=silent)
    assert finished_scores(out, config) == scores, "a refused resumption leaves a finished study finished"
    for broken in ("", "[1]", "{", "[" * 10**5):
        (out / "run.json").write_text(broken)
        assert finished_scores(out, config) is None and not was_altered(out)


def test_a_clock_that_goes_backwards_does_no_harm(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(2_000_000_000, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    whole = run_study(config, tmp_path / "run", workers=1, say=silent)
    assert run_study(config, tmp_path / "run", resume=True, workers=1, say=silent) == whole
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["seconds"] >= 0 and len(record["earlier"]) == 1 and record["earlier"][0]["seconds"] >= 0


def test_an_unstable_step_is_refused_before_anything_is_written(config: StudyConfig, tmp_path: Path) -> None:
    wild = changed(config, "steps = 6", "steps = 6\nstep = 10000.0")
    with pytest.raises(InputError, match=r"training\.step.*unstable step.*use training\.step <="):
        run_study(wild, tmp_path / "run", workers=1, say=silent)
    assert not (tmp_path / "run").exists()


def test_numbers_that_blow_up_stop_the_study_and_keep_what_was_saved(config: StudyConfig, tmp_path: Path) -> None:
    wild = changed(config, "readout_modes = 4", 'readout_modes = 4\nactivation = "identity"')
    wild = wild.model_copy(update={"training": wild.training.model_copy(update={"steps": 400, "step": 5.0})})
    with pytest.raises(NumericsError, match="not finite at t = ") as caught:
        run_study(wild, tmp_path / "run", workers=1, say=silent)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "run").glob("*.h5"))


def test_a_group_that_does_not_move_has_no_error_over_movement(config: StudyConfig, tmp_path: Path) -> None:
    still = changed(config, "rates = { w = 2.0, b = 0.5, r = 0.5 }", "rates = { w = 0.0, b = 0.5, r = 0.5 }")
    scores = run_study(still, tmp_path / "run", workers=1, say=silent)
    assert all(rung["error_over_movement"]["w"] is None for rung in scores["rungs"])
    assert all(rung["error_over_movement"]["b"] > 0 for rung in scores["rungs"])


def test_files_of_the_users_own_survive_an_overwrite(config: StudyConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_study(config, out, workers=1, say=silent)
    (out / "mine.h5").write_bytes(b"my own")
    run_study(config, out, workers=1, overwrite=True, say=silent)
    assert (out / "mine.h5").read_bytes() == b"my own"


def test_an_unstable_depth_step_is_refused_before_anything_is_written(config: StudyConfig, tmp_path: Path) -> None:
    coarse = changed(config, "n_x = 6", 'n_x = 1\ndepth_scheme = "euler"')
    with pytest.raises(InputError, match=r"field\.n_x = 1: unstable depth step"):
        run_study(coarse, tmp_path / "run", workers=1, say=silent)
    assert not (tmp_path / "run").exists()


def test_an_activation_of_the_users_own_works_whatever_the_number_of_processes(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activations, "_REGISTERED", {})  # other tests must not meet it
    register_activation("soft-sine", np.sin, np.cos, lambda z: -np.sin(z))
    mine = changed(config, "readout_modes = 4", 'readout_modes = 4\nactivation = "soft-sine"')
    scores = run_study(mine, tmp_path / "run", workers=2, say=silent)
    assert scores["fitted_order"]["1"]["z"] > 1.2


def test_a_width_ladder_is_fitted_against_a_y_with_one_field(config: StudyConfig, tmp_path: Path) -> None:
    text = SMALL.replace("depth = [4, 8]", "depth = 4").replace("width = 12", "width = [12, 36]")
    text = text.replace("n_x = 6", 'n_x = "lattice"\nn_y = 108\ndepth_scheme = "euler"\nrefine_x = 1\nrefine_y = 3')
    ladder = parse_config(text.replace("orders = [0, 1]", "orders = [0]"), folder=tmp_path)
    plan = Plan.of(ladder)
    assert len({job.filename for job in plan.fields.values()}) == 1
    scores = run_study(ladder, tmp_path / "run", workers=1, say=silent)
    assert scores["fitted_against"] == "a_y" and scores["fitted_order"]["0"]["z"] > 1.5


def test_without_a_test_set_or_labels_there_is_no_accuracy(config: StudyConfig, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((40, 12)), y=rng.standard_normal((40, 3)))
    regression = parse_config(
        SMALL.replace("readout_modes = 4", 'readout_modes = 4\nloss = "mean-square"'), folder=tmp_path
    )
    scores = run_study(regression, tmp_path / "run", workers=1, say=silent)
    assert all(entry["test_accuracy"] is None for entry in scores["lattice"])
    assert all(entry["test_accuracy_field"] is None for entry in scores["rungs"])
