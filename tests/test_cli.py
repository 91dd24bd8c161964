"""The command line: what it makes, what it refuses (one line, exit 2, nothing touched), how it is interrupted."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import bbdfield.cli.check
import bbdfield.cli.progress
from bbdfield import __version__
from bbdfield.cli import main
from bbdfield.model.run import Run
from bbdfield.storage import content_digest
from solvers.width import KernelOperator

ROOT = Path(__file__).parents[1]

STUDY = """
kind = "continuum"
title = "small [study]"
seed = 1

[lattice]
depth = [4, 8]
width = 8
channels = 2
radius = "3/16"

[training]
steps = 12
batch = 8
step = 0.25
rates = { w = 3.0, b = 0.1, r = 0.5 }
snapshot_every = 4
probe = 3
evaluate = 50

[field]
refine_x = 1

[output]
figures = false
"""

READERS = {
    "simulate": ["simulate", "BAD", "--out", "new.h5"],
    "coarse-grain": ["coarse-grain", "BAD", "--out", "new.h5"],
    "compare, first": ["compare", "BAD", "lattice.h5"],
    "compare, second": ["compare", "field.h5", "BAD"],
    "plot": ["plot", "BAD", "--out", "new.png"],
    "info": ["info", "BAD"],
}
WRITERS = {
    "train": ["train", "study.toml", "--out", "there"],
    "simulate": ["simulate", "lattice.h5", "--out", "there"],
    "coarse-grain": ["coarse-grain", "lattice.h5", "--out", "there"],
    "plot": ["plot", "lattice.h5", "--out", "there"],
    "animate": ["plot", "lattice.h5", "--animate", "there"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's configuration with a lattice and a field trajectory of it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "study.toml").write_text(STUDY)
    assert main(["train", f"{folder}/study.toml", "--out", f"{folder}/lattice.h5"]) == 0
    assert main(["simulate", f"{folder}/lattice.h5", "--out", f"{folder}/field.h5"]) == 0
    return folder


@pytest.fixture(scope="module")
def finished(made: Path) -> Path:
    """The directory of the whole study."""
    out = made.parent / "finished"
    assert main(["run", f"{made}/study.toml", "--out", f"{out}", "--workers", "1"]) == 0
    return out


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working directory with copies of them."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """No file of a folder may appear, disappear or change."""

    def content() -> dict[Path, bytes | None]:
        return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}

    before = content()
    yield
    after = content()
    assert set(after) == set(before)
    assert [path for path in after if after[path] != before[path]] == []


Refused = Callable[..., str]


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused; its one line of complaint without "bbdfield: "."""

    def check(*arguments: str, code: int = 2) -> str:
        capsys.readouterr()
        with untouched(here):
            assert main(arguments) == code
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith("bbdfield: ") and err.endswith("\n"), (out, err)
        return err.removeprefix("bbdfield: ").rstrip("\n")

    return check


# ---- help


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], [], ["run", "-h"]])
def test_help_and_version_import_nothing_heavy(arguments):
    heavy = ("numpy", "scipy", "h5py", "matplotlib", "numba", "cupy", "pydantic", "rich", "torch")
    code = (
        f"import sys; from bbdfield.cli import main; code = main({arguments!r});"
        f"print(code, *sorted(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *shown, last = done.stdout.splitlines()
    assert last == "0" and done.stderr == ""
    assert (
        shown == [f"bbdfield {__version__}"] if arguments == ["--version"] else shown[0].startswith("Usage: bbdfield")
    )


def test_the_environment_is_told_without_compiled_code(monkeypatch):
    assert "machine code is kept in" in bbdfield.cli.check.environment()["threads"]["compiled kernels"]
    monkeypatch.setitem(sys.modules, "solvers.compiled", None)
    assert bbdfield.cli.check.environment()["threads"]["compiled kernels"] == "unavailable"


def test_module_and_every_command_have_help():
    done = subprocess.run([sys.executable, "-m", "bbdfield"], cwd=ROOT, capture_output=True, text=True, check=True)
    commands = [
        "run",
        "sweep",
        "reproduce",
        "train",
        "simulate",
        "coarse-grain",
        "compare",
        "decompose",
        "observe",
        "plot",
        "report",
        "info",
        "check",
        "bench",
    ]
    listed = done.stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == commands
    assert not any(line.endswith("...") for line in listed)


# ---- what the commands make


def test_steps_of_a_study_one_by_one(here, capsys):
    assert main(["compare", "field.h5", "lattice.h5", "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert set(score["error"]) == {"z", "w", "b", "loss"} and 0 < score["error"]["z"] < 0.1
    assert main(["compare", "field.h5", "lattice.h5"]) == 0
    assert f"{score['error']['z']:.2e}" in capsys.readouterr().out

    assert (
        main(["coarse-grain", "lattice.h5", "--n-x", "6", "--n-y", "24", "--window", "0.1", "0", "--out", "c.h5"]) == 0
    )
    with Run("c.h5") as coarse:
        assert (coarse.grid.n_x, coarse.grid.n_y) == (6, 24)
        assert coarse.config["field"]["coarse_grained"] == {"window_x": 0.1, "window_y": 0.0}

    assert (
        main(["simulate", "lattice.h5", "--order", "0", "--n-x", "4", "--depth-scheme", "euler", "--out", "e.h5"]) == 0
    )
    capsys.readouterr()
    assert main(["compare", "e.h5", "lattice.h5", "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert max(score["error"].values()) < 1e-12, "Euler on the lattice's own grid is the lattice"

    assert main(["plot", "field.h5"]) == 0 and Path("field.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", "field.h5", "--animate", "film.gif", "--channel", "1"]) == 0
    assert Path("film.gif").read_bytes().startswith(b"GIF8") and not Path("film.png").exists()


def test_train_chooses_the_rung(here):
    assert main(["train", "study.toml", "--out", "l.h5", "--depth", "6", "--width", "24", "--set", "seed=5"]) == 0
    with Run("l.h5") as run:
        assert (run.lattice.depth, run.lattice.width, run.training.seed) == (6, 24, 5)
    with Run("lattice.h5") as run:
        assert (run.lattice.depth, run.lattice.width, run.training.seed) == (4, 8, 1), "the first rung by default"


def test_simulate_starts_from_a_lattice_that_was_not_drawn(here, capsys):
    from bbdfield.lattice.training import train
    from bbdfield.model.units import to_lattice

    with Run("lattice.h5") as run:
        start = to_lattice(run.initial_fields.on(run.grid))
        data = run.boundary.dataset
        train(run.lattice, data, run.training, initial=start, out="arrays.h5").close()
    capsys.readouterr()
    assert main(["simulate", "arrays.h5", "--order", "0", "--depth-scheme", "euler", "--out", "f.h5"]) == 0
    assert "coarse-grained first snapshot" in capsys.readouterr().err
    assert main(["compare", "f.h5", "arrays.h5", "--json"]) == 0
    assert max(json.loads(capsys.readouterr().out)["error"].values()) < 1e-12


def test_info(here, capsys):
    assert main(["info", "lattice.h5", "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert (held["kind"], held["complete"], held["snapshots"], held["seed"]) == ("lattice", True, 4, 1)
    assert held["steps"] == {"recorded": 12, "wanted": 12} and held["t"] == {"first": 0.0, "last": 3.0}
    assert held["datasets"]["fields/w"] == {
        "dims": {"t": 4, "x_link": 4, "c_out": 2, "u": 3, "c_in": 2},
        "bytes": 8 * 4 * 4 * 2 * 3 * 2,
    }
    assert held["config"]["lattice"]["width"] == 8 and held["versions"]["numpy"] == np.__version__
    assert main(["info", "lattice.h5"]) == 0
    shown = capsys.readouterr().out
    assert "kind: lattice\ncomplete: yes\nsnapshots: 4\n" in shown
    assert "fields/w: dims (t 4, x_link 4, c_out 2, u 3, c_in 2), bytes 1536" in shown


def test_run(here, capsys):
    refined = ["--set", "field.refine_x=2", "--workers", "1"]
    assert main(["run", "study.toml", "--out", "run", "--json", *refined]) == 0
    out, err = capsys.readouterr()
    scores = json.loads(out)
    assert scores == json.loads(Path("run/scores.json").read_text())
    assert [(rung["depth"], rung["order"]) for rung in scores["rungs"]] == [(4, 0), (4, 1), (8, 0), (8, 1)]
    assert "lattice M=8 N=8: 12/12, loss" in err

    assert main(["run", "study.toml", "--out", "run", "--resume", *refined]) == 0
    out = capsys.readouterr().out
    assert scores == json.loads(Path("run/scores.json").read_text()), "resuming what is finished changes nothing"
    assert "small [study]: relative errors of the field" in out and "results: run" in out
    for number in (scores["rungs"][0]["error"]["z"], scores["rungs"][3]["grid_error"]):
        assert f"{number:.2e}" in out
    assert f"{scores['fitted_order']['1']['z']:.2f}" in out


def test_run_from_a_resolved_configuration(here, finished, capsys):
    arguments = ["--set", "lattice.depth=8", "--set", "field.orders=[1]", "--workers", "1", "--json"]
    assert main(["run", str(finished / "config.toml"), "--out", "again", *arguments]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["rungs"] == json.loads((finished / "scores.json").read_text())["rungs"][3:]
    assert scores["fitted_order"] == {}


# ---- what they refuse


@pytest.mark.parametrize("command", ["run", "train"])
@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("lattice.depht=3", "lattice.depht: unknown key; did you mean lattice.depth?"),
        ("lattice.channels=two", "lattice.channels: needs a whole number from 1 to 100000 (got 'two')"),
        ("lattice.width=-8", "lattice.width: needs a whole number from 1 to 1000000, or an increasing list of them"),
        ("lattice.radius=0.2", "lattice.radius: kernel radius 0.2 is not on a cell edge of width 8"),
        ("lattice.radius=9/16", "lattice.radius: needs a number > 0"),
        ("training={}", "training.steps: is missing; add the number of training steps (and 2 more)"),
        ("training.optimizer=adam", 'training.optimizer: "adam" does not exist yet; use "sgd"'),
        ("training.batch=4001", "training.batch: needs at most the 4000 training samples (got 4001)"),
    ],
)  # fmt: skip
def test_bad_configurations(refused, command, override, complaint):
    assert refused(command, "study.toml", "--out", "new", "--set", override).startswith(f"study.toml: {complaint}")


@pytest.mark.parametrize("command", ["run", "train"])
def test_files_that_are_no_configuration(refused, command, here):
    assert refused(command, "none.toml", "--out", "new") == "none.toml: no such file; check the path"
    assert refused(command, "lattice.h5", "--out", "new").startswith("lattice.h5: not UTF-8 text")
    (here / "broken.toml").write_text("kind = ")
    assert refused(command, "broken.toml", "--out", "new").startswith("broken.toml: not valid TOML: ")
    assert refused(command, "study.toml", "--out", "new", "--set", "seed").startswith("--set 'seed': needs KEY=VALUE")


def test_train_refuses_a_rung_that_cannot_be(refused):
    assert "not on a cell edge of width 9" in refused("train", "study.toml", "--out", "new.h5", "--width", "9")
    assert "lattice.depth = 0" in refused("train", "study.toml", "--out", "new.h5", "--depth", "0")


@pytest.fixture(params=["missing", "foreign", "empty", "text", "truncated", "folder"])
def bad_file(request: pytest.FixtureRequest, here: Path) -> Path:
    """A file that is no trajectory."""
    path = here / f"{request.param}.h5"
    if request.param == "foreign":
        with h5py.File(path, "w") as file:
            file["fields/w"] = np.zeros(3)
    elif request.param == "empty":
        path.write_bytes(b"")
    elif request.param == "text":
        path.write_text("these are no numbers\n" * 100)
    elif request.param == "truncated":
        whole = (here / "lattice.h5").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif request.param == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize("arguments", READERS.values(), ids=READERS)
def test_files_that_are_no_trajectory(refused, bad_file, arguments):
    line = refused(*(bad_file.name if word == "BAD" else word for word in arguments))
    assert line.startswith(f"{bad_file.name}: ")


@pytest.mark.parametrize("size", [0.02, 0.3, 0.9, 0.999])
def test_truncated_anywhere(refused, here, size):
    whole = (here / "lattice.h5").read_bytes()
    (here / "cut.h5").write_bytes(whole[: int(size * len(whole))])
    for arguments in READERS.values():
        assert refused(*("cut.h5" if word == "BAD" else word for word in arguments)).startswith("cut.h5: ")


def test_field_where_a_lattice_is_needed(refused):
    for command in ("simulate", "coarse-grain"):
        line = refused(command, "field.h5", "--out", "new.h5")
        assert line == "field.h5: is a field trajectory; give one of a lattice, as bbdfield train writes it"
    assert "give the field file first and the lattice file second" in refused("compare", "lattice.h5", "field.h5")


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("seed=2", "training.seed"),
        ("training.rates.w=2", "training.rates"),
        ("training.steps=8", "training.steps"),
        ("lattice.channels=3", "lattice.channels"),
        ("initial.weight=2", "initial"),
        ("data.file=own.npz", "data"),
    ],
)
def test_lattice_and_field_that_do_not_belong_together(refused, here, override, word):
    rng = np.random.default_rng(1)
    np.savez(here / "own.npz", x=rng.normal(size=(30, 40)), y=np.arange(30) % 10)
    assert main(["train", "study.toml", "--out", "other.h5", "--set", override]) == 0
    line = refused("compare", "field.h5", "other.h5")
    assert line.startswith("field.h5 and other.h5 do not belong together: ") and word in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--order", "2"], 'field.orders: order 2 is not defined for lattice.scaling = "residual"; use one of 0, 1'),
        (["--depth-scheme", "heun"], "'heun' does not exist; use one of euler, midpoint, rk4"),
        (["--backend", "abacus"], "'abacus' does not exist; use one of auto, numpy"),
        (["--n-x", "0"], "n_x = 0: needs a positive whole number"),
        (["--n-y", "9"], "kernel radius 0.1875 is not on a cell edge of width 9"),
        (["--n-x", "one"], "Invalid value for '--n-x': 'one' is not a valid integer"),
        (["--overwrite", "--resume"], "--overwrite and --resume exclude each other"),
        (["--width-order", "1"], 'field.width_order = 1: not defined for lattice.range = "kernel"; remove it'),
        (["--ill-posed", "cutoff"], '"kernel" is a bounded operator, of which there is nothing to cut off'),
        (["--ill-posed", "ignore"], "field.ill_posed = 'ignore': use one of refuse, cutoff"),
    ],
)
def test_simulate_refuses(refused, arguments, words):
    assert words in refused("simulate", "lattice.h5", "--out", "new.h5", *arguments)


def test_an_ill_posed_theory_is_refused_with_exit_code_3_and_runs_behind_a_cutoff(here, capsys):
    """The shipped example, on four times the lattice's cells."""
    example = str(Path(__file__).parents[1] / "experiments" / "cutoff.toml")
    small = ["--set", "training.steps=1", "--set", "lattice.depth=32"]
    assert main(["run", example, "--out", "ill", *small, "--set", "field.ill_posed=refuse"]) == 3
    assert capsys.readouterr().err.startswith("bbdfield: ill posed at t = 0: waves of wave number")
    assert not Path("ill").exists()
    assert main(["train", example, "--out", "taps.h5", *small]) == 0
    field = ["simulate", "taps.h5", "--out", "cut.h5", "--n-x", "16", "--n-y", "96"]
    assert main(field) == 3 and not Path("cut.h5").exists()
    capsys.readouterr()
    assert main([*field, "--ill-posed", "cutoff"]) == 0
    assert "waves above π/a_y = 75.4 were cut off" in capsys.readouterr().err
    with bbdfield.Run("cut.h5") as run:
        assert np.isfinite(run.z(-1)).all() and run.config["field"]["ill_posed"] == "cutoff"


def test_simulate_refuses_an_unstable_depth_step(refused):
    assert main(["train", "study.toml", "--out", "l.h5", "--set", "initial.weight=400"]) == 0
    assert "unstable depth step" in refused("simulate", "l.h5", "--n-x", "1", "--out", "new.h5")


@pytest.mark.parametrize("arguments", WRITERS.values(), ids=WRITERS)
def test_nothing_is_overwritten(refused, here, arguments):
    target = here / ("film.gif" if "--animate" in arguments else "there.png" if "plot" in arguments else "there.h5")
    target.write_text("precious")
    arguments = [target.name if word == "there" else word for word in arguments]
    assert refused(*arguments).startswith(f"{target.name}: exists already; choose another path with --out, or add --")
    assert main([*arguments, "--overwrite"]) == 0
    assert target.read_bytes()[:8] != b"precious"


@pytest.mark.parametrize("arguments", WRITERS.values(), ids=WRITERS)
def test_an_input_is_never_overwritten(refused, arguments):
    same = arguments[1]
    line = refused(*(same if word == "there" else word for word in arguments), "--overwrite")
    assert line == f"{same}: is the input itself; choose another path with --out"


@pytest.mark.parametrize("arguments", WRITERS.values(), ids=WRITERS)
def test_places_that_cannot_be_written(refused, here, arguments):
    (here / "folder").mkdir()
    line = refused(*("folder" if word == "there" else word for word in arguments), "--overwrite")
    assert line == "folder: is a directory; give the name of a file"
    line = refused(*("none/new.h5" if word == "there" else word for word in arguments))
    assert line.startswith("none/new.h5: there is no directory none")


def test_run_refuses_an_existing_directory(refused, here, finished):
    shutil.copytree(finished, "run")
    assert refused("run", "study.toml", "--out", "run").startswith("run: exists already; ")
    line = refused("run", "study.toml", "--out", "run", "--resume", "--set", "seed=2")
    assert line.startswith("run: holds a study of another configuration; ")
    foreign = here / "photographs"
    foreign.mkdir()
    (foreign / "lattice-1.h5").write_text("precious")
    for choice in ([], ["--overwrite"], ["--resume"]):
        assert refused("run", "study.toml", "--out", "photographs", *choice).startswith("photographs: ")
    assert refused("run", "study.toml", "--out", "lattice.h5").startswith("lattice.h5: is a file; ")
    assert main(["run", "study.toml", "--out", "run", "--workers", "1", "--overwrite", "--set", "lattice.depth=4"]) == 0
    assert (
        len(json.loads(Path("run/scores.json").read_text())["lattice"]) == 1
        and not Path("run/lattice-M008-N008.h5").exists()
    )


def test_report(here, finished, capsys):
    shutil.copytree(finished, "run")
    Path("run/report.html").unlink(missing_ok=True)
    assert main(["report", "run"]) == 0
    assert capsys.readouterr().out == "run/report.html\n"
    assert "small [study]" in Path("run/report.html").read_text(encoding="utf-8")


def test_report_shows_nothing_altered(refused, here, finished):
    shutil.copytree(finished, here / "run", dirs_exist_ok=True)
    Path("run/report.html").unlink(missing_ok=True)
    text = Path("run/scores.json").read_text()
    Path("run/scores.json").write_text(text.replace("1", "2", 1))
    assert refused("report", "run").startswith("run/scores.json: altered since it was written (digest differs); ")
    Path("run/scores.json").write_text(text)
    with open("run/config.toml", "a") as file:
        file.write("# a remark\n")
    assert refused("report", "run").startswith("run/config.toml: altered since the study began (digest differs); ")
    assert not Path("run/report.html").exists()


def test_report_refuses(refused, here):
    assert refused("report", "none") == "none: no such directory; give the one that bbdfield run or sweep wrote"
    (here / "run").mkdir()
    assert refused("report", "run").startswith("run: holds nothing finished (no scores.json); ")
    (here / "run" / "scores.json").write_text("{}")
    (here / "run" / "report.html").write_text("precious")
    assert refused("report", "run").startswith("run/report.html: exists already; ")


def test_plot_refuses(refused):
    assert "channel = 2: lattice.h5 has 2, numbered 0 to 1" in refused("plot", "lattice.h5", "--channel", "2")
    assert "sample = 3: lattice.h5 has 3" in refused("plot", "lattice.h5", "--sample", "3")
    assert "choose one of these suffixes" in refused("plot", "lattice.h5", "--out", "a.xyz")
    assert "choose one of these suffixes" in refused("plot", "lattice.h5", "--animate", "a.png")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runn"], "No such command 'runn'"),
        (["run"], "Missing argument 'CONFIG'"),
        (["run", "study.toml"], "Missing option '--out'"),
        (["run", "study.toml", "--out", "new", "--wokers", "2"], "No such option"),
        (["run", "study.toml", "--out", "new", "--workers", "0"], "0 is not in the range x>=1"),
        (["run", "study.toml", "--out", "new", "--overwrite", "--resume"], "exclude each other"),
        (["--nothing"], "No such option"),
    ],
)
def test_bad_command_lines(refused, arguments, words):
    assert words in refused(*arguments)


def test_from_outside(here):
    """The same as a process of its own: exit code, one line, no traceback."""
    command = [sys.executable, "-m", "bbdfield", "train", "study.toml", "--out", "new.h5", "--set", "lattice.depth=-1"]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bbdfield: study.toml: lattice.depth: needs ") and done.stderr.count("\n") == 1


# ---- failing numerics and interruption


def test_failing_numerics(here, capsys):
    assert main(["train", "study.toml", "--out", "new.h5", "--set", "training.rates.w=1e300"]) == 3
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("bbdfield: ") and "not finite at t = " in last and "new.h5" in last
    with Run("new.h5") as run:
        assert run.steps.tolist() == [0], "what was recorded is kept"


def interrupt(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Ctrl-C at the given report of progress."""
    counter = itertools.count(1)

    def report(*_: Any) -> None:
        if next(counter) == calls:
            raise KeyboardInterrupt

    monkeypatch.setattr(bbdfield.cli.progress.Progress, "report", report)


@pytest.mark.parametrize("steps", [1, 6, 11])
def test_interrupted_train_goes_on(here, capsys, monkeypatch, steps):
    arguments = ["train", "study.toml", "--set", "title=two words", "--out", "new.h5"]
    with monkeypatch.context() as patch:
        interrupt(patch, steps)
        (here / "new.h5").write_text("to be replaced")
        assert main([*arguments, "--overwrite"]) == 130
    line = capsys.readouterr().err.splitlines()[-1]
    told, _, command = line.partition("go on with: ")
    assert told == "bbdfield: interrupted; what was recorded is kept, "
    assert shlex.split(command) == ["bbdfield", "train", "--resume", *arguments[1:]]
    with Run("new.h5") as run:
        assert not run.trajectory.complete and run.steps[-1] == steps // 4 * 4
    assert main(shlex.split(command)[1:]) == 0
    assert content_digest("new.h5") == content_digest("lattice.h5"), "as if nothing had happened"


def test_interrupted_simulate_goes_on(here, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 5)
        assert main(["simulate", "lattice.h5", "--out", "new.h5"]) == 130
    command = capsys.readouterr().err.splitlines()[-1].partition("go on with: ")[2]
    assert main(shlex.split(command)[1:]) == 0
    assert content_digest("new.h5") == content_digest("field.h5")


def test_interrupted_run_goes_on(here, finished, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 30)
        assert main(["run", "study.toml", "--out", "run", "--workers", "1"]) == 130
    assert not Path("run/scores.json").exists()
    command = capsys.readouterr().err.splitlines()[-1].partition("go on with: ")[2]
    assert main(shlex.split(command)[1:]) == 0
    assert Path("run/scores.json").read_bytes() == (finished / "scores.json").read_bytes()


#: `bbdfield` as in a terminal: a shell makes background jobs ignore interrupts, and children would inherit that
IN_TERMINAL = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from bbdfield.cli import main; sys.exit(main(sys.argv[1:]))"
)


def test_interrupt_from_the_keyboard_stops_all_processes(here):
    """Ctrl-C reaches the workers too: none may print a traceback, or go on until its jobs are done."""
    long = ["--set", "training.steps=1000000", "--out", "run", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, "run", "study.toml", *long],
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not list(here.glob("run/field-*.h5")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert (process.returncode, out) == (130, "") and "Traceback" not in err
    assert err.splitlines()[-1].endswith(f"go on with: bbdfield run --resume study.toml {shlex.join(long)}")


# ---- self-test


def test_check(capsys):
    assert main(["check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["bbdfield"] == __version__ and found["backends"]["numpy"] == "NumPy on the CPU"
    tested = [entry for entry in found["tests"] if entry["backend"] == "numpy"]
    assert len(tested) == 4 and all(entry["passed"] and entry["error"] < 1e-11 for entry in tested)
    assert main(["check"]) == 0
    assert "  ok: field at the lattice's resolution is the lattice, tied (numpy): " in capsys.readouterr().out


@pytest.mark.parametrize("method", ["adjoint_state", "adjoint_weights", "apply"])
def test_check_notices_wrong_numerics(capsys, monkeypatch, method):
    right = getattr(KernelOperator, method)
    monkeypatch.setattr(KernelOperator, method, lambda *arguments: right(*arguments) * (1 + 1e-9))
    assert main(["check"]) == 3
    out, err = capsys.readouterr()
    assert "FAILED: " in out and err.startswith("bbdfield: self-test failed on backend ") and err.count("\n") == 1
