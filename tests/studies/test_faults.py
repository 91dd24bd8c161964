"""The faults study: a small one end to end, and that each of its checks notices what it is there for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.studies import faults
from bbdfield.studies.config import FaultsConfig, load_config
from bbdfield.studies.faults import configs, disk, kills, mutations, trials, victims
from bbdfield.studies.faults.children import Child, ask_all
from bbdfield.studies.faults.programs import Ended, Looks, Program, environment, members, run, succeed
from bbdfield.studies.run import run_study

STUDY = """
kind = "faults"
title = "small"
seed = 3

[data]
name = "waves"

[lattice]
depth = 4
width = 12
channels = 2
radius = "1/8"

[training]
steps = 40
batch = 8
step = 0.25
rates = { w = 3.0, b = 0.1, r = 0.5 }
snapshot_every = 2
probe = 4
evaluate = 8

[faults]
kills = 2
in_a_row = 2
backends = ["numpy"]
mutations = 51
configs = 38
runs = 2
full_disks = 2
points = 0
failing = 0
timeout = 60.0
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> FaultsConfig:
    path = tmp_path_factory.mktemp("study") / "study.toml"
    path.write_text(STUDY)
    config = load_config(path)
    assert isinstance(config, FaultsConfig)
    return config


@pytest.fixture(scope="module")
def prepared(study: FaultsConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The originals of the mutations, and the setting of the children that try them."""
    folder = tmp_path_factory.mktemp("mutations")
    setting = trials.prepare(study, folder)
    yield folder, setting
    shutil.rmtree(setting["work"])


# the study


def test_small_study(study: FaultsConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    scores = run_study(study, out, workers=2, say=lambda _: None)
    found = scores["faults"]
    for part in ("training", "simulation", "sweep"):
        told = found["kills"][part]
        assert (told["kills"], told["resumed"]) == (2, 2)
        assert told["ends"] == told["equal"] > 0
        assert (told["lost"], told["wrong"], told["leftovers"], told["refused_looks"], told["orphans"]) == (0,) * 5
        assert told["problems"] == 0 and sum(told["measured"]["phases"].values()) == 2
    altered = found["mutations"]
    assert altered["files"] == 51 == sum(altered[fate] for fate in mutations.FATES)
    assert [altered[fate] for fate in mutations.FATES if fate not in mutations.GOOD] == [0] * 5
    assert altered["refused"] > 25 and set(altered["by_kind"]) == {
        k for kinds in mutations.KINDS.values() for k in kinds
    }
    assert altered["measured"]["peak_mib"] <= study.faults.memory
    given = found["configs"]
    assert given["files"] == 38 == given["refused"] + given["accepted"]
    assert given["refused"] > 0 and given["accepted"] > 0 and given["runs"] == given["runs_echoed"] == 2
    assert {key: found["disk"][key] for key in ("disks", "one_line", "readable", "lost", "equal")} == {
        "disks": 2, "one_line": 2, "readable": 2, "lost": 0, "equal": 2
    }  # fmt: skip
    assert "scaling" not in found
    described = faults.describe(tomllib.loads(study.to_toml()), scores)
    assert described.message.startswith("Nothing was lost")
    assert sorted(path.stem for path in (out / "figures").iterdir()) == ["kills", "mutations"]
    assert json.loads((out / "scores.json").read_text()) == scores

    # finished parts are not done again
    lines: list[str] = []
    assert run_study(study, out, workers=2, resume=True, say=lines.append) == scores
    assert not [line for line in lines if "kills (" in line]


@pytest.mark.parametrize(
    ("part", "key", "value", "words"),
    [
        ("kills", "lost", 1, "kills of training"),
        ("kills", "equal", 1, "kills of training"),
        ("mutations", "accepted", 1, "altered files"),
        ("configs", "not_echoed", 2, "altered configurations"),
        ("disk", "equal", 0, "full disks"),
        ("scaling", "failed", 6, "sweeps"),
    ],
)
def test_whatever_is_wrong_is_said(part: str, key: str, value: int, words: str) -> None:
    found: dict[str, Any] = {
        "kills": {"training": {"kills": 9, "resumed": 9, "lost": 0, "wrong": 0, "ends": 2, "equal": 2}},
        "mutations": dict.fromkeys(mutations.FATES, 0),
        "configs": dict.fromkeys(("not_echoed", "untidy", "traceback", "crash", "hang"), 0),
        "disk": {"disks": 4, "one_line": 4, "lost": 0, "equal": 4},
        "scaling": {
            "points": 200, "finished": 195, "failed": 5, "injected": 5, "equal": True,
            "worker_killed": {"equal": True, "exit_code": 0}, "cluster_worker_killed": None,
        },
    }  # fmt: skip
    assert faults._message(found).startswith("Nothing was lost")
    (found["kills"]["training"] if part == "kills" else found[part])[key] = value
    assert faults._message(found) == f"NOT ALL IS WELL: see {words}, and log.txt."


def test_counts_that_cannot_be(study: FaultsConfig, tmp_path: Path) -> None:
    for override, words in (("faults.failing=9", "at most faults.points, 0"), ("training.steps=4", "at least 8")):
        (tmp_path / "bad.toml").write_text(STUDY)
        with pytest.raises(InputError, match=words):
            load_config(tmp_path / "bad.toml", [override])


# mutations


def test_mutations_are_drawn_from_their_numbers(prepared: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, setting = prepared
    drawn = list(mutations.draw_all(2 * len({k for kinds in mutations.KINDS.values() for k in kinds})))
    unmade = 0
    for mutation in drawn:
        original, target = folder / "originals" / f"{mutation.original}.h5", tmp_path / "altered.h5"
        unmade += bool(mutations.make(mutation, original, target, setting["seed"]))
        first = target.read_bytes()
        assert first != original.read_bytes(), mutation
        if mutation.group == "bytes":
            mutations.make(mutation, original, target, setting["seed"])
            assert target.read_bytes() == first
    assert unmade <= 2


def test_an_altered_file_that_is_believed_is_noticed(
    prepared: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of another run under its own seal is not what the undisturbed run left."""
    folder, _ = prepared
    monkeypatch.setattr(trials, "_state", {"known": {"lattice": trials._content(folder / "originals" / "lattice.h5")}})
    original = folder / "originals" / "lattice-interrupted.h5"
    assert trials._read("lattice", original, forged=False) == ("unharmed", "")
    for name, expected in (("lattice", "accepted"), ("field", "accepted")):
        fate, message = trials._read("lattice", folder / "originals" / f"{name}.h5", forged=False)
        assert fate == expected and message.startswith("read as finished")
    (tmp_path / "cut.h5").write_bytes(original.read_bytes()[:5000])
    assert trials._read("lattice", tmp_path / "cut.h5", forged=False)[0] == "refused"


def test_values_that_differ_are_noticed(prepared: tuple[Path, dict[str, Any]]) -> None:
    known = trials._content(prepared[0] / "originals" / "lattice.h5")
    assert trials._difference(known, known) == ""
    shorter = {**known, "rows": {name: values[:3] for name, values in known["rows"].items()}}
    assert trials._difference(shorter, known) == ""
    changed = {**known, "rows": {**known["rows"], "fields/w": known["rows"]["fields/w"] + 1e-16}}
    assert trials._difference(changed, known) == "values of fields/w"
    assert trials._difference({**known, "attributes": {}}, known).startswith("attribute ")


def test_children_that_hang_or_die_are_replaced(prepared: tuple[Path, dict[str, Any]]) -> None:
    _, setting = prepared
    request = vars(next(mutations.draw_all(1)))
    with Child("trials", setting, 60.0) as child:
        assert child.ask({"leave": "lattice"}) == {"crashed": signal.SIGKILL}
        assert child.ask(request)["fate"] in mutations.GOOD
        child._timeout = 1e-4
        assert child.ask(request) == {"hung": 1e-4}
        child._timeout = 60.0
        assert child.ask(request)["fate"] in mutations.GOOD
    requests = [vars(mutation) for mutation in mutations.draw_all(6)]
    told = list(ask_all("trials", setting, requests, count=2, timeout=60.0))
    assert sorted(request["number"] for request, _ in told) == list(range(6))
    with pytest.raises(InputError, match="did not start"):
        with Child("nothing", setting, 60.0) as child:
            child.ask(request)


# configurations


@pytest.mark.parametrize(
    ("given", "echoed", "problem"),
    [
        ({"a": 1}, {"a": 1.0, "b": 2}, ""),
        ({"a": {"b": "11/80"}}, {"a": {"b": 0.1375}}, ""),
        ({"a": [1, 2]}, {"a": [1, 2]}, ""),
        ({"data": {"file": "x.npz"}}, {"data": {"file": "/there/x.npz"}}, ""),
        ({"a": 1}, {}, "a is not there"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b: given 1, written 2"),
        ({"a": 2**53 + 1}, {"a": float(2**53)}, f"a: given {2**53 + 1}, written {float(2**53)}"),
        ({"a": True}, {"a": 1}, "a: given True, written 1"),
        ({"a": [1, 2]}, {"a": [1]}, "a: given [1, 2], written [1]"),
    ],
)
def test_echo(given: dict[str, Any], echoed: dict[str, Any], problem: str) -> None:
    assert configs._missing(given, echoed, "") == problem


def test_every_kind_of_alteration_of_a_configuration_alters_it(study: FaultsConfig, tmp_path: Path) -> None:
    text = victims.study(study).to_toml().encode()
    tables = [tomllib.loads(text.decode()), tomllib.loads(study.to_toml())]
    for name, alter in configs.TEXTS.items():
        assert any(alter(text, np.random.default_rng(i)) != text for i in range(3)), name
    for name, edit in configs.TABLES.items():
        changed = []
        for i in range(5):
            table = configs._copy(tables[0])
            edit(table, np.random.default_rng(i), tables)
            changed.append(repr(table) != repr(tables[0]))
        assert any(changed), name


# kills


def test_programs_are_killed_with_their_group(study: FaultsConfig, tmp_path: Path) -> None:
    toml = victims.write(victims.study(study, training={"steps": 100_000}), tmp_path / "long.toml")
    with Program(["train", toml, "--out", tmp_path / "a.h5"], tmp_path / "log") as program:
        assert members(program.process.pid) == [program.process.pid]
        assert not program.wait(0.05)
        program.kill()
        assert program.ended().code == -signal.SIGKILL and members(program.process.pid) == []
    refused = run(["info", tmp_path / "nothing.h5"], tmp_path / "log")
    assert refused.code == 2 and refused.tidy
    assert not Ended(1, "Traceback ...\nbbdfield: x\n", 0.0).tidy and not Ended(2, "", 0.0).tidy


def test_lost_and_wrong_snapshots_are_noticed(prepared: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    originals = prepared[0] / "originals"
    whole, part = originals / "lattice.h5", originals / "lattice-interrupted.h5"
    looks, path = Looks(), tmp_path / "a.h5"
    path.write_bytes(whole.read_bytes())
    assert looks.look(path) == 7 and looks.lost() == 0
    path.write_bytes(part.read_bytes())
    assert looks.lost() == 3 and not looks.refused
    assert kills._differs(path, whole) == 0 and kills._differs(originals / "field-interrupted.h5", whole) == 1
    path.write_bytes(part.read_bytes()[:3000])
    assert looks.lost() == 7 and len(looks.refused) == 1 and kills._differs(path, whole) == 1


# full disks


def test_full_disk(tmp_path: Path) -> None:
    """The library refuses what is beyond the limit, in its directory and nowhere else."""
    library = disk.compiled(tmp_path)
    assert library is not None, "no C compiler: a limit on the size of files stands in for a full disk"
    home = tmp_path / "home"
    home.mkdir()
    code = """
import os, shutil, sys
with open("elsewhere", "wb") as file:
    file.write(bytes(5000))
free = shutil.disk_usage("home").free
try:
    with open("home/file", "wb", buffering=0) as file:
        for _ in range(20):
            assert file.write(bytes(100)) == 100
except OSError as error:
    print(error.errno, os.path.getsize("home/file"), free)
"""
    for limit, expected in ((450, 400), (400, 400)):
        count = disk._counter(tmp_path)
        environ = disk._environment(library, home, limit, count, tells=True)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
        )
        if limit == 450:  # the write that crosses the limit is short, as on a real disk
            assert "AssertionError" in done.stderr and (home / "file").stat().st_size == 450
        else:
            assert done.stdout.split() == ["28", str(expected), "0"], done
        assert disk._counted(count)[1] == 1


def test_results_of_a_directory(prepared: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    originals = prepared[0] / "originals"
    (tmp_path / "lattice-a.h5").write_bytes((originals / "lattice.h5").read_bytes())
    (tmp_path / "scores.json").write_text("{}")
    before = disk.results(tmp_path)
    assert sorted(before) == ["lattice-a.h5", "scores.json"]
    (tmp_path / "lattice-a.h5").write_bytes((originals / "lattice-interrupted.h5").read_bytes())
    assert disk.results(tmp_path)["lattice-a.h5"] == "incomplete"
    (tmp_path / "x.h5.part").touch()
    assert disk.results(tmp_path)["x.h5.part"] == "left over"


# scaling


@pytest.mark.slow
def test_scaling(study: FaultsConfig, tmp_path: Path) -> None:
    """A small sweep with failing points, workers that are killed, and the machine's ceiling beside it."""
    from bbdfield.plotting.faults import figure_speed
    from bbdfield.studies.faults.scaling import time_all
    from bbdfield.studies.kinds import Session

    section = study.faults.model_copy(update={"points": 4, "failing": 1})
    config = study.model_copy(update={"faults": section})
    found = time_all(config, tmp_path / "scaling", Session(2, None, lambda _: None))
    assert (found["points"], found["finished"], found["failed"], found["exit_code"]) == (4, 3, 1, 3)
    assert found["equal"] and found["worker_killed"]["equal"] and faults._sweep_is_whole(found)
    cluster = found["cluster_worker_killed"]
    assert cluster is None or (cluster["equal"] and cluster["finished"] == 8)
    measured = found["measured"]
    assert measured["ratio"] == pytest.approx(measured["speed_up"] / measured["ceiling"], rel=2e-3)
    assert len(measured["ceilings"]) == 5 and figure_speed(found).axes


def test_environment_finds_this_package(tmp_path: Path) -> None:
    code = "import bbdfield; print(bbdfield.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    import bbdfield

    assert done.stdout.strip() == bbdfield.__file__ and environment(X="1")["X"] == "1" and "X" not in os.environ


def test_a_file_that_is_written_can_be_looked_at(study: FaultsConfig, tmp_path: Path) -> None:
    from bbdfield.studies.faults.programs import watched

    toml, looks = victims.write(victims.study(study), tmp_path / "s.toml"), Looks()
    with watched(looks, lambda: [tmp_path / "a.h5"]):
        succeed(["train", toml, "--out", tmp_path / "a.h5"], tmp_path / "log")
    assert not looks.refused and not looks.shrunk
    assert looks.look(tmp_path / "a.h5") == 21
    with h5py.File(tmp_path / "foreign.h5", "w"):
        pass
    assert looks.look(tmp_path / "foreign.h5") is None and len(looks.refused) == 1
