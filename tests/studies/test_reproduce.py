"""A study that is run again: equal scores, different ones, altered files, data that are gone."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.studies import continuum
from bbdfield.studies.config import parse_config
from bbdfield.studies.reproduce import Difference, Reproduction, compare_scores, reproduce
from bbdfield.studies.run import run_study

STUDY = """
kind = "continuum"
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
steps = 4
batch = 5
rates = { w = 2.0, b = 0.5, r = 0.5 }
snapshot_every = 2
probe = 3
[field]
orders = [0]
n_x = 6
refine_x = 1
"""


def silent(_: str) -> None:
    """Nothing on standard error."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, write_data) -> Path:
    """A finished study without figures, not to be changed."""
    folder = tmp_path_factory.mktemp("study")
    write_data(folder)
    config = parse_config(STUDY + "[output]\nfigures = false\n", folder=folder)
    run_study(config, folder / "run", workers=1, say=silent)
    return folder / "run"


@pytest.fixture
def run_dir(finished, tmp_path) -> Path:
    """A copy whose data file is a copy, too."""
    copy = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("*.h5"))
    shutil.copy(finished.parent / "data.npz", tmp_path / "data.npz")
    config = copy / "config.toml"
    text = config.read_text().replace(str(finished.parent), str(tmp_path))
    config.write_text(text)
    record = json.loads((copy / "run.json").read_text())
    run_json(copy, config_sha256=None, data=record["data"])
    return copy


def run_json(run_dir: Path, **changes: object) -> None:
    record = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps({**record, **changes}))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_machine_gives_the_same_bits_and_leaves_the_directory_alone(finished):
    before = content(finished)
    result = reproduce(finished, workers=1, say=silent)
    assert result.equal and not result.altered and result.original is True and not result.circumstances
    assert result.count > 20 and result.largest is None
    assert result.message() == f"{finished}: reproduced, all {result.count} scores bitwise equal"
    assert list(result.lines()) == [result.message()]
    assert content(finished) == before


def test_the_second_run_is_kept_where_it_was_asked_for(finished, tmp_path):
    assert reproduce(finished, workers=1, say=silent, out=tmp_path / "again").equal
    assert (tmp_path / "again" / "scores.json").read_bytes() == (finished / "scores.json").read_bytes()
    assert (tmp_path / "again" / "config.toml").read_bytes() == (finished / "config.toml").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        reproduce(finished, workers=1, say=silent, out=tmp_path / "again")


def test_altered_scores_are_said_and_what_was_written_is_reproduced(run_dir):
    scores = json.loads((run_dir / "scores.json").read_text())
    before = scores["rungs"][0]["error"]["z"]
    scores["rungs"][0]["error"]["z"] = 0.5 * before
    (run_dir / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    result = reproduce(run_dir, workers=1, say=silent)
    assert not result.equal and result.altered and result.original is True
    (difference,) = result.differences
    assert difference == Difference("rungs.0.error.z", 0.5 * before, before, 1.0)
    assert "altered after the study wrote it; what it wrote is reproduced bitwise" in result.message()
    assert "1 of" in result.message() and "by up to 1.0e+00 relative: rungs.0.error.z" in result.message()


def test_scores_that_differ_are_listed_with_what_else_differs(run_dir, monkeypatch):
    true = continuum.compute

    def slightly_off(config, out, session):
        scores, details = true(config, out, session)
        scores["rungs"][0]["error"]["z"] *= 1 + 1e-9
        scores["lattice"][1]["train_loss"] *= 1 + 1e-3
        return scores, details

    monkeypatch.setattr(continuum, "compute", slightly_off)
    versions = json.loads((run_dir / "run.json").read_text())["versions"]
    run_json(run_dir, versions={**versions, "numpy": "1.0"}, git_revision="abc", machine="a\x1b[31mbacus", device=None)
    result = reproduce(run_dir, workers=1, say=silent)
    assert not result.equal and not result.altered and result.original is False
    assert [entry.key for entry in result.differences] == ["lattice.1.train_loss", "rungs.0.error.z"]
    assert result.largest == pytest.approx(1e-3, rel=1e-9)
    assert result.circumstances["numpy"] == ("1.0", np.__version__) and result.circumstances["git_revision"][0] == "abc"
    assert result.circumstances["machine"][0] == "a\\x1b[31mbacus" and result.circumstances["device"][0] == "nothing"
    text = "\n".join(result.lines())
    assert "numpy: 1.0 then, " in text and "lattice.1.train_loss: " in text and "\x1b" not in text
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["differences"][1]["key"] == "rungs.0.error.z"


def test_measured_times_may_differ(run_dir, monkeypatch):
    true = continuum.compute

    def timed(config, out, session):
        scores, details = true(config, out, session)
        return {**scores, "seconds": {"of": [12.0]}}, details

    scores = json.loads((run_dir / "scores.json").read_text())
    (run_dir / "scores.json").write_text(json.dumps({**scores, "seconds": {"of": [10.0]}}))
    run_json(run_dir, scores_sha256=None)
    monkeypatch.setattr(continuum, "compute", timed)
    assert [entry.key for entry in reproduce(run_dir, workers=1, say=silent).differences] == ["seconds.of.0"]
    monkeypatch.setattr(continuum, "TIMINGS", ("seconds.*",), raising=False)
    result = reproduce(run_dir, workers=1, say=silent)
    assert result.equal and result.timings == [Difference("seconds.of.0", 10.0, 12.0, 0.2)] and result.original is None
    assert "(1 measured times differ)" in result.message()


def refused(run_dir: Path, words: str) -> None:
    before = content(run_dir) if run_dir.is_dir() else None
    with pytest.raises(InputError, match=words) as caught:
        reproduce(run_dir, workers=1, say=silent)
    assert "\n" not in str(caught.value) and str(run_dir.name) in str(caught.value)
    assert before is None or content(run_dir) == before


def test_data_that_are_gone_or_others_are_refused(run_dir):
    data = run_dir.parent / "data.npz"
    rng = np.random.default_rng(5)
    np.savez(data, x=rng.standard_normal((40, 2, 12)), y=np.arange(40) % 3)
    refused(run_dir, "its data file .*data.npz holds other data now than the study had")
    data.unlink()
    refused(run_dir, r"config\.toml: data\.file: .*data\.npz: no such file; check the path")


def test_another_configuration_is_noticed(finished, run_dir):
    record = json.loads((finished / "run.json").read_text())
    run_json(run_dir, config_sha256=record["config_sha256"])
    config = run_dir / "config.toml"
    config.write_text(config.read_text().replace("steps = 4", "steps = 5"))
    refused(run_dir, "not the configuration that was run")


def test_what_holds_no_finished_study_is_refused(run_dir, tmp_path):
    refused(tmp_path / "missing", "no such directory")
    run_json(run_dir, finished=None)
    refused(run_dir, "has not finished; resume it first")
    (run_dir / "sweep.toml").write_text("")
    refused(run_dir, r"holds a sweep; give one of the directories in .*points")
    (run_dir / "sweep.toml").unlink()
    (run_dir / "scores.json").unlink()
    refused(run_dir, r"no scores\.json")
    os.mkfifo(run_dir / "scores.json")
    with pytest.raises(InputError, match=r"no finished study"):
        reproduce(run_dir, workers=1, say=silent)


@pytest.mark.parametrize("name", ["config.toml", "scores.json", "run.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"{", b"[1]", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_broken_files_are_refused_in_one_line(run_dir, name, content):
    (run_dir / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        reproduce(run_dir, workers=1, say=silent)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_scores_are_compared_to_the_last_bit():
    one = {"a": [1.0, {"b": 0.1}], "c": None, "d": "x", "e": 0.0, "f": [], "g": 1, "h": True}
    assert compare_scores(one, json.loads(json.dumps(one))) == []
    assert compare_scores({"x": math.nan}, {"x": math.nan}) == []
    after = {"a": [1.0, {"b": math.nextafter(0.1, 1)}], "c": 2.0, "d": "y", "e": -0.0, "f": [1], "g": 1.0, "i": 5}
    found = {entry.key: entry.relative for entry in compare_scores(one, after)}
    assert next(iter(found)) == "a.1.b" and found["a.1.b"] == pytest.approx(2**-53 / 0.1 * 2**-3, rel=1)
    assert found["e"] == 0.0 and found["g"] == 0.0 and found["c"] is None and found["d"] is None
    assert set(found) == {"a.1.b", "c", "d", "e", "f", "f.0", "g", "h", "i"}
    assert compare_scores({"x": 0.0}, {"x": 1e-300})[0].relative == math.inf
    assert compare_scores({"x": 10**400}, {"x": 1.0})[0].relative == math.inf
    assert [entry.key for entry in compare_scores({"x": 1.0, "y": 1.0}, {"x": 1.1, "y": 2.0})] == ["y", "x"]


def test_many_differences_are_counted_not_listed():
    differences = [Difference(f"k{i}\x1b", 1.0, 2.0, 1.0) for i in range(9)]
    result = Reproduction(Path("run"), differences, [], {}, altered=False, original=None, count=12)
    assert result.message() == (
        "run: not reproduced: 9 of 12 scores differ, by up to 1.0e+00 relative: "
        + ", ".join(f"k{i}\\x1b" for i in range(5)) + " and 4 more"
    )  # fmt: skip
    assert len(list(result.lines())) == 6
    unlike = Reproduction(Path("run"), [Difference("a", "x", None, None)], [], {}, altered=True, original=None, count=1)
    assert unlike.largest is None and "1 of 1 scores differ: a" in unlike.message()


def test_the_rerun_draws_nothing_unless_it_is_kept(finished, monkeypatch):
    seen = []
    kept = SimpleNamespace(**vars(continuum))

    def watch(config, out, session):
        seen.append((config.output.figures, out))
        return kept.compute(config, out, session)

    monkeypatch.setattr(continuum, "compute", watch)
    assert reproduce(finished, workers=1, say=silent).equal
    ((figures, place),) = seen
    assert figures is False and not place.exists()
