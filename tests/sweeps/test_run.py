"""A whole sweep: what it leaves, what it does not compute twice, how it goes on, and what it refuses."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bbdfield import files, interrupts
from bbdfield.cli import main
from bbdfield.errors import InputError
from bbdfield.sweeps.groups import Observation, fit_pooled, main_scores, statistics
from bbdfield.sweeps.index import read_index
from bbdfield.sweeps.plan import Sweep
from bbdfield.sweeps.point import Outcome, run_point
from bbdfield.sweeps.run import Progress, run_sweep, verdict, write_report

Small = Callable[[str], Sweep]

GRID = "[sweep.grid]\nseed = [1, 2]\na_x = [0.25, 0.125]\n"
BAD = GRID.replace("[1, 2]", "[1, 2]\nlattice.padding = ['zeros', 'mirror']")


def silent(_: str) -> None:
    """Nothing on standard error."""


def run(sweep: Sweep, out: Path, **options: Any) -> dict[str, Any]:
    return run_sweep(sweep, out, **{"workers": 1, "say": silent, **options})


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "sweep.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def plain(small: Small) -> Sweep:
    """Four points, no figures."""
    return small(f"[sweep]\nfigures = false\n{GRID}")


def test_a_sweep_leaves_its_directory_complete(small: Small, computed: list[str], tmp_path: Path):
    out, seen, lines = tmp_path / "out", [], []
    scores = run(small(GRID), out, report=seen.append, say=lines.append)
    assert {path.name for path in out.iterdir()} >= {
        "sweep.toml",
        "sweep.json",
        "sweep.h5",
        "sweep.csv",
        "rungs.csv",
        "scores.json",
        "report.html",
        "log.txt",
        "figures",
        "points",
    }
    assert {path.name for path in (out / "points").iterdir()} == set(computed) == {line["name"] for line in table(out)}
    assert not (out / ".stop").exists()
    assert json.loads((out / "scores.json").read_text()) == scores
    assert scores["counts"] == {"points": 4, "finished": 4, "failed": 0, "unfinished": 0}
    assert {path.stem for path in (out / "figures").iterdir()} == {"error-a_x"}
    about = json.loads((out / "sweep.json").read_text())
    assert about["finished"] and about["versions"]["numpy"] == np.__version__ and len(about["scores_sha256"]) == 64
    assert Sweep.from_toml((out / "sweep.toml").read_text(), "small.toml") == small(GRID)
    assert [(p.finished, p.failed, p.remaining) for p in seen] == [(k, 0, 4 - k) for k in range(5)]
    assert seen[0].seconds_left is None and seen[-1].seconds_left == 0 and seen[0].total == 4
    log = (out / "log.txt").read_text()
    assert all(line in log for line in lines) and lines[-1].startswith("report: ")


def test_scores_are_those_of_the_points(plain: Sweep, computed: list[str], tmp_path: Path):
    scores = run(plain, tmp_path / "out")
    of_point = {name: json.loads((tmp_path / "out/points" / name / "scores.json").read_text()) for name in computed}
    first = next(
        group for group in scores["groups"] if group["settings"]["a_x"] == 0.25 and group["settings"]["order"] == 1
    )
    errors = [s["rungs"][1]["error"]["z"] for s in of_point.values() if s["rungs"][1]["a_x"] == 0.25]
    found = first["scores"]["error.z"]
    assert found["n"] == 2 and found["mean"] == pytest.approx(np.mean(errors)) and found["max"] == max(errors)
    assert found["std"] == pytest.approx(np.std(errors, ddof=1))
    slopes = [
        np.log2(coarse["rungs"][1]["error"]["z"] / fine["rungs"][1]["error"]["z"])
        for coarse, fine in zip(list(of_point.values())[::2], list(of_point.values())[1::2], strict=True)
    ]
    fit = next(fit for fit in scores["fitted_orders"] if fit["settings"]["order"] == 1)
    assert fit["against"] == "a_x" and fit["order"]["error.z"]["slope"] == pytest.approx(np.mean(slopes))
    assert fit["order"]["error.z"]["n"] == 4 and fit["order"]["error.z"]["seeds"] == 2
    line = next(line for line in table(tmp_path / "out") if line["name"] == computed[0])
    assert float(line["rungs.0.error.z"]) == of_point[computed[0]]["rungs"][0]["error"]["z"]


def test_order_of_computation_changes_no_bit(plain: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def backwards(tasks: Any, workers: int, threads: int | None = None) -> Iterator[Outcome]:
        yield from map(run_point, reversed(list(tasks)))

    run(plain, tmp_path / "a", workers=2)  # real worker processes
    monkeypatch.setattr("bbdfield.sweeps.local.run_local", backwards)
    run(plain, tmp_path / "b")
    assert (tmp_path / "a/scores.json").read_bytes() == (tmp_path / "b/scores.json").read_bytes()
    assert (tmp_path / "a/rungs.csv").read_bytes() == (tmp_path / "b/rungs.csv").read_bytes()


def test_finished_points_are_not_computed_again(plain: Sweep, small: Small, computed: list[str], tmp_path: Path):
    out = tmp_path / "out"
    scores = run(plain, out)
    before = {path: path.stat().st_mtime_ns for path in (out / "points").glob("*/*")}
    computed.clear()
    assert run(plain, out, resume=True) == scores
    assert computed == [] and before == {path: path.stat().st_mtime_ns for path in (out / "points").glob("*/*")}
    larger = run(small(GRID.replace("[1, 2]", "[2, 3]")), out, resume=True)
    assert len(computed) == 2 and larger["counts"]["finished"] == 4
    assert len(list((out / "points").iterdir())) == 6  # what is no point any more stays
    assert {line["seed"] for line in table(out)} == {"2", "3"}
    assert "2 runs in" in (out / "log.txt").read_text()


def test_failed_points_do_not_stop_the_others(small: Small, computed: list[str], tmp_path: Path):
    out, lines = tmp_path / "out", []
    sweep = small(BAD + "lattice.radius = ['1/8', '1/7']\n")
    scores = run(sweep, out, say=lines.append)
    assert scores["counts"] == {"points": 16, "finished": 4, "failed": 12, "unfinished": 0}
    assert len(computed) == 4 and any("12 of 16 points are impossible; first: " in line for line in lines)
    failed = [line for line in table(out) if line["status"] == "failed"]
    assert len(failed) == 12 and all("mirror" in line["reason"] or "radius" in line["reason"] for line in failed)
    assert verdict(scores, out).startswith("4 of 16 points finished, 12 failed; first: seed = 1, lattice.padding = ")
    page = (out / "report.html").read_text()
    assert "12 failed" in page and "Failed points" in page
    assert (out / "figures/heat-1.png").is_file()


def test_a_failure_is_kept_until_it_is_to_be_retried(small: Small, computed: list[str], tmp_path: Path):
    sweep, out = (
        small("[sweep]\nfigures = false\n[sweep.grid]\nseed = [1, 2]\ntraining.step = [0.5, 1e9]\n"),
        tmp_path / "out",
    )
    scores = run(sweep, out)
    assert scores["counts"]["failed"] == 2 and scores["counts"]["finished"] == 2
    record = json.loads(next((out / "points").glob("*/failed.json")).read_text())
    assert record["class"] in ("input", "numerics") and record["reason"]
    computed.clear()
    lines: list[str] = []
    assert run(sweep, out, resume=True, say=lines.append) == scores and computed == []
    assert any("2 failed points stay failed; --retry-failed" in line for line in lines)
    assert run(sweep, out, resume=True, retry_failed=True) == scores and len(computed) == 2
    (name,) = {path.parent.name for path in (out / "points").glob("*/failed.json")} - set(computed[1:])
    (out / "points" / name / "failed.json").write_text('{"reason": "killed", "class": "worker"}')
    run(sweep, out, resume=True)
    assert [line["reason"] for line in table(out) if line["name"] == name] == ["killed"]


def test_an_altered_point_is_told_and_computed_again(plain: Sweep, computed: list[str], tmp_path: Path):
    out, lines = tmp_path / "out", []
    scores = run(plain, out)
    first, second = (out / "points" / name for name in computed[:2])
    altered = (first / "scores.json").read_text().replace("0.0", "0.1")
    (first / "scores.json").write_text(altered)
    config = (second / "config.toml").read_text()
    (second / "config.toml").write_text(config.replace("seed = 1", "seed = 9"))
    computed.clear()
    assert run(plain, out, resume=True, say=lines.append) == scores
    assert set(computed) == {first.name, second.name}
    assert (second / "config.toml").read_text() == config
    told = [line for line in lines if "altered since" in line]
    assert len(told) == 2 and str(first) in told[0] and str(second) in told[1]


def test_ctrl_c_writes_the_index_and_resumes(plain: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    out = tmp_path / "out"

    def interrupted(tasks: Any, workers: int, threads: int | None = None) -> Iterator[Outcome]:
        first, second, *others = tasks
        yield run_point(first)
        interrupts.follow(asked := lambda: True)  # as after Ctrl-C
        try:
            second.stop.touch()
            yield from (run_point(task) for task in (second, *others))
        finally:
            monkeypatch.setattr(interrupts, "asked", lambda: True)
            interrupts.unfollow(asked)

    monkeypatch.setattr("bbdfield.sweeps.local.run_local", interrupted)
    lines: list[str] = []
    with pytest.raises(interrupts.Stopped):
        run(plain, out, say=lines.append)
    monkeypatch.undo()
    assert lines[-1] == "stopped with 3 of 4 points to go"
    assert [line["status"] for line in table(out)].count("finished") == 1
    assert not (out / ".stop").exists() and not (out / "scores.json").exists()
    scores = run(plain, out, resume=True, workers=2)
    assert scores["counts"]["finished"] == 4
    assert scores == run(plain, tmp_path / "whole", workers=2)


def test_a_full_disk_is_a_clear_line_and_loses_nothing(
    plain: Sweep, computed: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    out, write = tmp_path / "out", files.write_text

    def full(path: Path, text: str) -> None:
        if path.name == "sweep.csv" and len(computed) == 2:
            raise InputError(f"{path}: {OSError(errno.ENOSPC, 'No space left on device').strerror}; give it room")
        write(path, text)

    monkeypatch.setattr(files, "write_text", full)
    monkeypatch.setattr("bbdfield.sweeps.run.EVERY", 0.0)
    monkeypatch.setattr("bbdfield.sweeps.run.SHARE", 1e9)
    with pytest.raises(InputError, match=r"sweep\.csv: No space left"):
        run(plain, out)
    assert len(computed) == 2 and len(table(out)) == 4  # the earlier index is whole
    monkeypatch.setattr(files, "write_text", write)
    run(plain, out, resume=True)
    assert len(computed) == 4


@pytest.mark.parametrize("where", ["snapshot", "scores", "record"])
def test_a_full_disk_ends_the_sweep_and_no_point(
    plain: Sweep, computed: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out"
    if where == "snapshot":  # refused before it is full
        monkeypatch.setattr("bbdfield.storage.writer._SPARE_BYTES", 2**80)
    else:
        real, ends = os.replace, {"scores": "scores.json", "record": "run.json"}[where]
        monkeypatch.setattr(os, "replace", lambda a, b: full() if str(b).endswith(ends) else real(a, b))
    with pytest.raises(InputError, match=r"(the disk is full|No space left).*; the sweep stops, --resume goes on"):
        run(plain, out)
    assert len(computed) == 1, "there was no room for the others either"
    assert not list(out.glob("points/*/failed.json"))
    monkeypatch.undo()
    assert run(plain, out, resume=True, workers=2)["counts"]["finished"] == 4


def test_sessions_before_the_last_are_kept_in_the_record(
    plain: Sweep, small: Small, computed: list[str], tmp_path: Path
):
    out = tmp_path / "out"
    run(plain, out, workers=7)
    first = json.loads((out / "sweep.json").read_text())
    assert first["earlier"] == [] and first["seeds"] == [1, 2] and first["device"].startswith("lattice: NumPy on")
    digests = {json.loads(path.read_text())["data"]["digest"] for path in out.glob("points/*/run.json")}
    assert {each["digest"] for each in first["data"]} == digests and len(first["data"]) == 1
    assert "λ" not in first["device"] and first["device"].count("lattice: ") == 1
    run(small(f"[sweep]\nfigures = false\n{GRID}".replace("[1, 2]", "[2, 3]")), out, resume=True)
    again = json.loads((out / "sweep.json").read_text())
    (told,) = again["earlier"]
    assert {key: first[key] for key in told} == told and told["workers"] == 4  # no more than points
    assert {"created", "finished", "seconds", "command", "versions"} <= set(told) and again["seeds"] == [2, 3]
    run(plain, out, resume=True)
    assert [each["seconds"] for each in json.loads((out / "sweep.json").read_text())["earlier"]] == [
        first["seconds"],
        again["seconds"],
    ]
    run(plain, out, overwrite=True)
    assert json.loads((out / "sweep.json").read_text())["earlier"] == []


def test_an_earlier_plan_leaves_no_figures_in_the_report(small: Small, computed: list[str], tmp_path: Path):
    out = tmp_path / "out"
    run(small(GRID), out)
    (out / "figures/mine.png").write_bytes((out / "figures/error-a_x.png").read_bytes())
    run(small(f"[sweep]\nfigures = false\n{GRID}"), out, resume=True)
    assert [path.name for path in (out / "figures").iterdir()] == ["mine.png"]
    assert (out / "report.html").read_text().count("<img") == 1


@pytest.mark.parametrize(
    "grid",
    ["seed = [1, 'a', -1]", "seed = [1, 2]\n'lattice.padding' = ['zeros', 'mirror']", "'training.step' = [0.5, 1e9]"],
)
def test_failed_points_of_several_orders_are_drawn(small: Small, computed: list[str], tmp_path: Path, grid: str):
    """They say nothing of the orders that they would have had."""
    scores = run(small(f"[sweep.grid]\n{grid}\n"), tmp_path / "out")
    assert scores["counts"]["failed"] and scores["counts"]["finished"]
    assert "scores" in {path.stem for path in (tmp_path / "out/figures").iterdir()}


def test_scores_stand_even_if_drawing_fails(
    small: Small, computed: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    out = tmp_path / "out"
    run(small(GRID), out)
    monkeypatch.setattr("bbdfield.sweeps.figures.draw", lambda *_: {}["key"])
    with pytest.raises(KeyError):
        run(small(GRID.replace("[1, 2]", "[1]")), out, resume=True)
    about, scores = (json.loads((out / name).read_text()) for name in ("sweep.json", "scores.json"))
    assert about["finished"] and scores["counts"]["points"] == 2
    assert not (out / "report.html").exists() and not list((out / "figures").iterdir())
    assert "<img" not in write_report(out).read_text()


def test_what_points_that_failed_had_is_named(small: Small, computed: list[str], tmp_path: Path):
    run(small("[sweep]\nfigures = false\n[sweep.grid]\n'training.step' = [0.5, 1e9]\n"), tmp_path / "out")
    assert "training.step = 0.5, order = 1" in (tmp_path / "out/report.html").read_text()


def test_scores_that_only_seeds_change_are_not_the_main_ones():
    found = [
        Observation({"h": h}, seed, {"of_seed": float(seed), "noise": 1e-16 * h, "of_h": seed * h})
        for h in (1, 2)
        for seed in (1, 2)
    ]
    assert main_scores("symmetry", (), found) == ["of_h"]
    assert main_scores("symmetry", (), found[:2]) == ["of_seed", "of_h"]


def test_no_scheduler_leaves_everything_as_it_was(plain: Sweep, computed: list[str], tmp_path: Path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="--scheduler nobody: no scheduler answers"):
        run(plain, out, scheduler="nobody")
    assert not out.exists()
    run(plain, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="--scheduler nobody: no scheduler answers"):
        run(plain, out, scheduler="nobody", overwrite=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    run(plain, out, scheduler="nobody", resume=True)  # nothing is left to be computed


def test_the_report_shows_nothing_altered(
    plain: Sweep, computed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    command = ["report", str(out), "--overwrite"]
    run(plain, out)
    assert main(command) == 0
    for name, old, new in (("scores.json", "0.", "1."), ("sweep.toml", "0.25", "0.5")):
        text = (out / name).read_text()
        (out / name).write_text(text.replace(old, new, 1))
        assert main(command) == 2 and f"{name}: altered since it was written" in capsys.readouterr().err
        (out / name).write_text(text)
    (out / "sweep.json").write_text(json.dumps({**json.loads((out / "sweep.json").read_text()), "finished": None}))
    assert main(command) == 2 and "has not finished; go on with --resume" in capsys.readouterr().err


def test_directories_that_are_not_its_own_are_left_alone(plain: Sweep, computed: list[str], tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(InputError, match="not a sweep's directory"):
            run(plain, out, **options)
    with pytest.raises(InputError, match="is a file"):
        run(plain, out / "thesis.tex")
    assert (out / "thesis.tex").read_text() == "x" and len(list(out.iterdir())) == 1
    shutil.rmtree(out)
    run(plain, out)
    with pytest.raises(InputError, match="--overwrite or --resume"):
        run(plain, out)
    (out / "points/notes").mkdir()
    computed.clear()
    run(plain, out, overwrite=True)
    assert len(computed) == 4 and (out / "points/notes").is_dir()
    with files.locked(out), pytest.raises(InputError, match="is writing into it"):
        run(plain, out, resume=True)


def test_a_sweep_without_a_possible_point_writes_nothing(small: Small, tmp_path: Path):
    with pytest.raises(InputError, match="none of the 2 points"):
        run(small("[sweep.grid]\ntraining.batch = [4000, 5000]"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_report_escapes_what_came_from_files(small: Small, computed: list[str], tmp_path: Path):
    out = tmp_path / "out"
    sweep = small('[sweep]\nfigures = false\n[sweep.grid]\nlattice.padding = ["zeros", "<script>alert(1)</script>"]\n')
    sweep.base["title"] = "<b>bold</b>"
    run(sweep, out)
    page = (out / "report.html").read_text()
    assert "<script" not in page and "<b>" not in page and "&lt;script&gt;" in page
    before = page
    assert write_report(out).read_text() == before
    scores, about = (out / "scores.json").read_text(), json.loads((out / "sweep.json").read_text())
    (out / "sweep.json").write_text(json.dumps({**about, "scores_sha256": None}))
    for damaged in ('{"title": "", "counts": 1}', "{}", "[]", "[" * 100_000, scores.replace("swept", "wept")):
        (out / "scores.json").write_text(damaged)
        with pytest.raises(InputError, match=r"scores\.json: "):
            write_report(out)
    (out / "scores.json").write_text(scores)
    (out / "sweep.h5").unlink()
    with pytest.raises(InputError, match=r"sweep\.h5"):
        write_report(out)


def test_kinds_without_rungs_are_drawn_against_a_number(small: Small, computed: list[str], tmp_path: Path):
    sweep = small('[sweep.grid]\nseed = [1, 2]\ninitial.weight = [1.0, 2.0]\nlattice.activation = ["tanh", "relu"]\n')
    sweep.base["kind"] = "decomposition"
    sweep.base["decomposition"] = {"cases": 4, "round_trip": [4]}
    sweep.base["training"] = {**sweep.base["training"]}
    del sweep.base["field"]
    scores = run(sweep, tmp_path / "out")
    assert scores["counts"]["finished"] == 8 and scores["fitted_orders"] == []
    assert scores["main_scores"][0] == "decomposition.bulk_share"
    assert {path.stem for path in (tmp_path / "out/figures").iterdir()} == {"scores", "heat-1"}
    assert not (tmp_path / "out/rungs.csv").exists()
    _, columns = read_index(tmp_path / "out")
    assert columns["initial.weight"].tolist() == [1, 1, 2, 2] * 2


def test_slopes_have_one_intercept_per_seed():
    members = [
        Observation({"a_x": h}, seed, {"e": factor * h**2})
        for seed, factor in ((1, 1.0), (2, 50.0))
        for h in (0.5, 0.25, 0.125)
    ]
    fit = fit_pooled(members, "a_x", "e")
    assert fit is not None and fit["slope"] == pytest.approx(2) and fit["n"] == 6
    assert fit["ci"] == pytest.approx([2, 2])  # lines through all points would have a wide one
    assert fit_pooled(members[:1], "a_x", "e") is None
    two = fit_pooled(members[:2], "a_x", "e")
    assert two is not None and two["ci"] is None
    assert fit_pooled([*members, Observation({"a_x": 1.0}, 1, {"e": 0.0})], "a_x", "e") is None


def test_statistics_are_of_the_sample():
    assert statistics([1.0, 3.0]) == {"n": 2, "mean": 2.0, "std": pytest.approx(2**0.5), "min": 1.0, "max": 3.0}
    assert statistics([1.0])["std"] is None and statistics([])["mean"] is None


def test_time_left_follows_from_the_points_of_this_session(
    plain: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def slow(tasks: Any, workers: int, threads: int | None = None) -> Iterator[Outcome]:
        for task in tasks:
            run_point(task)
            yield Outcome(task.name, "finished", seconds=10.0)

    monkeypatch.setattr("bbdfield.sweeps.local.run_local", slow)
    seen: list[Progress] = []
    run(plain, tmp_path / "out", workers=2, report=seen.append)
    assert [progress.seconds_left for progress in seen] == [None, 15.0, 10.0, 5.0, 0.0]
