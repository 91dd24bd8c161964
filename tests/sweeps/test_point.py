"""One point: finished, failed with a reason, or interrupted; never an exception, and the same bits in every way."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import bbdfield.studies.run
from bbdfield import interrupts
from bbdfield.errors import Damaged, NumericsError
from bbdfield.sweeps import point
from bbdfield.sweeps.point import run_point
from solvers.threads import threads

ROOT = Path(__file__).parents[2]


def failure(directory: Path) -> dict[str, str]:
    return json.loads((directory / "failed.json").read_text())


def test_a_point_is_a_study_in_its_directory(tasks):
    (task,) = tasks(1)
    outcome = run_point(task)
    assert (outcome.name, outcome.status, outcome.reason) == ("p0", "finished", "") and outcome.seconds > 0
    assert (task.directory / "config.toml").read_text() == task.config_toml
    assert json.loads((task.directory / "scores.json").read_text())["kind"] == "continuum"
    assert not (task.directory / "failed.json").exists()


def test_a_finished_point_is_not_computed_again(tasks, monkeypatch):
    (task,) = tasks(1)
    run_point(task)
    before = {path: path.stat().st_mtime_ns for path in task.directory.iterdir()}
    (task.directory / "failed.json").write_text("{}")
    monkeypatch.setattr(bbdfield.studies.run, "run_study", lambda *_, **__: pytest.fail("computed again"))
    assert run_point(task).status == "finished"
    assert {path: path.stat().st_mtime_ns for path in task.directory.iterdir()} == before


def test_threads_change_no_bit(tasks, content):
    (one,) = tasks(1, "training.backend=numba", "training.batch=40")
    (three,) = tasks(1, "training.backend=numba", "training.batch=40", folder="three", threads=3)
    before = threads()
    assert [run_point(task).status for task in (one, three)] == ["finished"] * 2
    assert threads() == before, "left as it was"
    assert [json.loads((task.directory / "run.json").read_text())["threads"] for task in (one, three)] == [1, 3]
    assert content(one.directory) == content(three.directory)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (("seed = 0", "sed = 0"), "input", "p0: sed: unknown key; did you mean seed?"),
        (("kind =", "kind = ="), "input", "p0: not valid TOML: "),
        (("bias = 0.0", "bias = 1e200"), "numerics", "not finite at t = "),
        (("data.npz", "none.npz"), "input", "none.npz"),
    ],
)
def test_what_is_wrong_is_recorded(tasks, change, kind, words):
    (task,) = tasks(1)
    assert change[0] in task.config_toml
    outcome = run_point(replace(task, config_toml=task.config_toml.replace(*change)))
    assert (outcome.status, outcome.kind_of_failure) == ("failed", kind)
    assert words in outcome.reason and "\n" not in outcome.reason
    record = failure(task.directory)
    assert (record.pop("reason"), record.pop("class")) == (outcome.reason, kind) and set(record) == {"when"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError("3 TiB"), "out of memory (3 TiB); use a smaller "),
        (PermissionError(13, "Permission denied", "there"), "there: Permission denied"),
        (OSError("no\nluck"), "no luck"),
        (ZeroDivisionError("a\nb"), "ZeroDivisionError: a; the traceback is in "),
        (KeyError(), "KeyError; the traceback is in "),
    ],
)
def test_unexpected_exceptions_are_failures_too(tasks, monkeypatch, error, reason):
    (task,) = tasks(1)

    def broken(*_, **__):
        raise error

    monkeypatch.setattr(bbdfield.studies.run, "run_study", broken)
    outcome = run_point(task)
    assert (outcome.status, outcome.kind_of_failure) == ("failed", "error")
    assert outcome.reason.startswith(reason) and failure(task.directory)["reason"] == outcome.reason
    log = task.directory / "log.txt"
    assert log.exists() == ("traceback" in reason)
    assert not log.exists() or "Traceback (most recent call last):" in log.read_text()
    monkeypatch.undo()
    assert run_point(task).status == "finished", "whatever was left there is gone on with"
    assert not (task.directory / "failed.json").exists()


def test_a_failed_point_that_is_tried_again_is_no_longer_failed(tasks, monkeypatch):
    """Or a sweep that was killed meanwhile would leave it out when resumed."""
    (task,) = tasks(1)
    point.failed(task, "numerics", "bad\nluck")
    assert failure(task.directory)["reason"] == "bad luck"
    seen = []

    def look(*_, **__):
        seen.append((task.directory / "failed.json").exists())
        raise NumericsError("again")

    monkeypatch.setattr(bbdfield.studies.run, "run_study", look)
    assert run_point(task).reason == "again" and seen == [False]


def test_a_kill_at_the_very_beginning_leaves_a_directory_that_is_gone_on_with(tasks):
    (task,) = tasks(1)
    task.directory.mkdir(parents=True)
    (task.directory / ".lock").touch()
    (task.directory / "config.toml.part").write_text("kind = ")
    assert run_point(task).status == "finished"


def test_a_directory_that_cannot_be_made_is_a_failure(tasks):
    (task,) = tasks(1)
    task.directory.parent.write_text("a file where the points should be")
    outcome = run_point(task)
    assert (outcome.status, outcome.kind_of_failure) == ("failed", "input") and str(task.directory) in outcome.reason


def test_the_stop_file_stops_at_a_snapshot(tasks, content, until):
    (task,) = tasks(1, "training.steps=300")
    (whole,) = tasks(1, "training.steps=300", folder="whole")
    stopper = threading.Thread(target=lambda: (until(lambda: list(task.directory.glob("*.h5*"))), task.stop.touch()))
    stopper.start()
    outcome = run_point(task)
    stopper.join()
    assert (outcome.status, outcome.kind_of_failure) == ("interrupted", "")
    assert not (task.directory / "scores.json").exists() and not (task.directory / "failed.json").exists()
    assert run_point(task) == replace(outcome, reason="it had not begun", seconds=0.0), "it still stands there"
    task.stop.unlink()
    assert not interrupts.asked(), "it is no longer followed"
    assert [run_point(task).status, run_point(whole).status] == ["finished"] * 2
    assert content(task.directory) == content(whole.directory)


def test_another_interrupt_is_not_swallowed(tasks, monkeypatch):
    (task,) = tasks(1)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(bbdfield.studies.run, "run_study", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_point(task)
    task.stop.touch()
    assert run_point(task).status == "interrupted"


def test_a_directory_in_use_is_said(tasks, monkeypatch):
    (task,) = tasks(1)
    task.directory.mkdir(parents=True)
    code = (
        "import sys; from pathlib import Path; from bbdfield.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(task.directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT)},
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        monkeypatch.setattr(point, "PATIENCE", 0.2)
        outcome = run_point(task)
        assert outcome.status == "failed" and f"process {holder.pid} on " in outcome.reason
        monkeypatch.setattr(point, "PATIENCE", 60.0)
        release = threading.Timer(0.3, holder.stdin.close)
        release.start()
        assert run_point(task).status == "finished", "it waits for a process that is about to end"
        release.join()


def test_a_damaged_file_is_told_with_what_a_sweep_needs(tasks, monkeypatch):
    def damaged(*_: object, **__: object) -> None:
        raise Damaged("a.h5: damaged; move it away and run the study again with --resume")

    (task,) = tasks(1)
    monkeypatch.setattr(bbdfield.studies.run, "run_study", damaged)
    outcome = run_point(task)
    assert outcome.kind_of_failure == "input" == failure(task.directory)["class"]
    assert outcome.reason.endswith("again with --resume (of a sweep: with --resume --retry-failed)")
