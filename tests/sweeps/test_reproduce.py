"""A sweep that is run again: every point to the last bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.studies.reproduce import reproduce
from bbdfield.sweeps.plan import Sweep
from bbdfield.sweeps.reproduce import reproduce_sweep
from bbdfield.sweeps.run import run_sweep

#: the third point is impossible
SECTION = """
[sweep]
figures = false
[sweep.grid]
"lattice.depth" = [2, 4]
[[sweep.points]]
"training.batch" = 5
[[sweep.points]]
"training.batch" = 1000
"""


def silent(_: str) -> None:
    """Nothing on standard error."""


@pytest.fixture
def finished(small: Callable[[str], Sweep], computed: list[str], tmp_path: Path) -> Path:
    run_sweep(small(SECTION), tmp_path / "sweep", workers=1, say=silent)
    computed.clear()
    return tmp_path / "sweep"


def test_every_point_is_computed_again_and_equal(finished, computed):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    result = reproduce_sweep(finished, workers=1, say=silent)
    assert result.equal and result.original is True and len(computed) == 2
    assert result.message().startswith(f"{finished}: reproduced, all ") and result.count > 50
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_no_line_names_a_file_that_is_gone_afterwards(finished, tmp_path):
    lines: list[str] = []
    reproduce_sweep(finished, workers=1, say=lines.append)
    assert lines and not any("report" in line for line in lines)


def test_an_altered_point_is_named(finished):
    path = sorted(finished.glob("points/*/scores.json"))[0]
    scores = json.loads(path.read_text())
    scores["rungs"][0]["error"]["z"] *= 2
    path.write_text(json.dumps(scores))
    result = reproduce_sweep(finished, workers=1, say=silent)
    assert [entry.key for entry in result.differences] == [f"points.{path.parent.name}.rungs.0.error.z"]
    assert result.altered and not result.equal and result.largest == 0.5


def test_what_cannot_be_repeated_is_refused(finished, tmp_path):
    with pytest.raises(InputError, match="holds a sweep"):
        reproduce(finished, workers=1, say=silent)
    with pytest.raises(InputError, match="no such directory"):
        reproduce_sweep(tmp_path / "missing", say=silent)
    with pytest.raises(InputError, match=r"no finished sweep \(no sweep\.toml\)"):
        reproduce_sweep(tmp_path, say=silent)
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((40, 2, 12)), y=np.arange(40) % 3)
    with pytest.raises(InputError, match="is a point of this plan with these data"):
        reproduce_sweep(finished, workers=1, say=silent)
    plan = (finished / "sweep.toml").read_text()
    (finished / "sweep.toml").write_text(plan.replace("[2, 4]", "[2, 4, 8]"))
    with pytest.raises(InputError, match="not the plan that was run"):
        reproduce_sweep(finished, workers=1, say=silent)
    (finished / "sweep.toml").write_text(plan)
    about = json.loads((finished / "sweep.json").read_text())
    (finished / "sweep.json").write_text(json.dumps({**about, "finished": None}))
    with pytest.raises(InputError, match="has not finished"):
        reproduce_sweep(finished, workers=1, say=silent)
