"""A clock that is set back while a study runs, and between a run and its continuation, changes nothing."""

from __future__ import annotations

import itertools
import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bbdfield import provenance
from bbdfield.storage import Trajectory
from bbdfield.studies.config import parse_config
from bbdfield.studies.reproduce import reproduce
from bbdfield.studies.run import run_study

STUDY = """
kind = "continuum"
seed = 3
[data]
file = "data.npz"
[lattice]
depth = [2, 4]
width = 12
channels = 2
radius = "1/8"
readout_modes = 4
[training]
steps = 6
batch = 5
rates = { w = 2.0, b = 0.5, r = 0.5 }
snapshot_every = 2
probe = 3
[field]
orders = [0]
n_x = 4
refine_x = 1
"""


@pytest.fixture
def backwards(monkeypatch) -> None:
    """Every look at the clock shows a time a day before the last; the first is in the year 2200."""
    ticks = itertools.count()
    start = datetime(2200, 1, 1, tzinfo=UTC)

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return start - timedelta(days=next(ticks))

    def seconds() -> float:
        return Clock.now().timestamp()

    monkeypatch.setattr(provenance, "datetime", Clock)
    monkeypatch.setattr(time, "time", seconds)
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * seconds()))


def test_a_study_runs_stops_resumes_and_is_reproduced(backwards, write_data, tmp_path: Path) -> None:
    write_data(tmp_path)
    config = parse_config(STUDY, folder=tmp_path)
    whole = run_study(config, tmp_path / "whole", workers=1, say=lambda _: None)

    def interrupt(job: str, done: int, total: int, loss: float) -> None:
        if job.startswith("lattice") and done == 3:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_study(config, out, workers=1, report_progress=interrupt, say=lambda _: None)
    for i, path in enumerate(sorted(out.rglob("*"))):  # written, by their dates, in other centuries
        os.utime(path, (1, 1) if i % 2 else (6e9, 6e9))
    assert run_study(config, out, workers=1, resume=True, say=lambda _: None) == whole
    assert run_study(config, out, workers=1, resume=True, say=lambda _: None) == whole
    for folder in (tmp_path / "whole", out):
        record = json.loads((folder / "run.json").read_text())
        assert record["seconds"] >= 0 and record["finished"] < record["started"]  # it is the clock that is wrong
        assert (folder / "report.html").is_file()
    assert (out / "scores.json").read_bytes() == (tmp_path / "whole" / "scores.json").read_bytes()
    names = [path.name for path in out.glob("*.h5")]
    assert len(names) == 3
    for name in names:
        with Trajectory(out / name) as resumed, Trajectory(tmp_path / "whole" / name) as straight:
            assert resumed.complete and resumed.content_digest() == straight.content_digest()
    assert reproduce(out, workers=1, say=lambda _: None).equal
