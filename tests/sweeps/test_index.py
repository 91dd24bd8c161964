"""The table of a sweep: what its files hold, and what they protect their readers from."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray

from bbdfield.errors import InputError
from bbdfield.storage.sidecar import read_sidecar
from bbdfield.sweeps.index import (
    Row,
    as_array,
    collect,
    csv_text,
    flatten,
    point_columns,
    read_index,
    rung_columns,
    rungs_of,
    write_index,
)
from bbdfield.sweeps.plan import Point, Sweep

Small = Callable[[str], Sweep]

TWO = '[sweep.grid]\nseed = [1, 2]\nlattice.padding = ["zeros", "mirror"]\n'


@pytest.fixture
def rows(small: Small) -> list[Row]:
    """Of four points two are impossible, one is finished and one is not."""
    first, refused, second, also = small(TWO).points()
    rungs = [{"depth": 4, "order": order, "error": {"z": 0.5 / (1 + order), "w": None}} for order in (0, 1)]
    scores = dict(flatten({"kind": "continuum", "rungs": rungs, "holds": True}))
    done = Row(first, "finished", seconds=0.25, scores=scores)
    return [done, Row(refused, "failed", refused.refusal, "input"), Row(second), Row(also, "failed", "=1+1", "error")]


KEYS = ("seed", "lattice.padding")


def test_numbers_of_scores_are_flattened():
    scores = {"kind": "x", "a": {"b": [1, 2.5, None, "text", True]}, "big": 2**70, "c": []}
    assert dict(flatten(scores)) == {"a.b.0": 1, "a.b.1": 2.5, "a.b.4": 1, "big": float(2**70)}


def test_columns_hold_every_setting_and_score(rows: list[Row]):
    columns = point_columns(rows, KEYS)
    assert list(columns)[:9] == [
        "name",
        "status",
        "reason",
        "seconds",
        "seed",
        "lattice.padding",
        "rungs.0.depth",
        "rungs.0.order",
        "rungs.0.error.z",
    ]
    assert columns["rungs.1.error.z"] == [0.25, None, None, None] and columns["holds"] == [1, None, None, None]
    assert columns["lattice.padding"] == ["zeros", "mirror"] * 2
    assert columns["training.rates.w"] == [2.0, None, 2.0, None] and columns["lattice.depth"][0] == 4
    assert {len(values) for values in columns.values()} == {4}


def test_a_score_with_the_name_of_a_key_keeps_its_own_column(rows: list[Row]):
    rows[0].scores["training.steps"] = 77
    columns = point_columns(rows, KEYS)
    assert (columns["scores.training.steps"][0], columns["training.steps"][0]) == (77, 4)


def test_rungs_are_a_table_of_their_own(rows: list[Row]):
    assert rungs_of(rows[0])[1] == {"depth": 4, "order": 1, "error.z": 0.25}
    columns = rung_columns(rows, KEYS)
    assert columns["order"] == [0, 1] and columns["seed"] == [1, 1]
    assert columns["point"] == [rows[0].point.name] * 2
    assert rung_columns(rows[1:], KEYS) == {}


def test_files_agree_with_the_rows(rows: list[Row], tmp_path: Path):
    write_index(tmp_path, rows, KEYS, {"title": "t"})
    with open(tmp_path / "sweep.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [line["status"] for line in table] == ["finished", "failed", "unfinished", "failed"]
    assert float(table[0]["rungs.0.error.z"]) == 0.5 and table[2]["rungs.0.error.z"] == ""
    assert table[0]["field.orders"] == "[0, 1]"
    about, columns = read_index(tmp_path)
    assert about["title"] == "t" and about["keys"] == list(KEYS)
    assert columns["lattice.padding"].tolist() == ["zeros", "mirror"] * 2
    np.testing.assert_array_equal(columns["rungs.1.error.z"], [0.25, np.nan, np.nan, np.nan])
    assert columns["rung_order"].tolist() == [0, 1]
    with xarray.open_dataset(tmp_path / "sweep.h5", engine="h5netcdf") as found:
        assert dict(found.sizes) == {"point": 4, "rung": 2}
        assert found["seed"].values.tolist() == [1, 1, 2, 2] and found["seed"].dtype == np.int64
        assert found["rungs.0.error.z"].values[0] == 0.5
        assert found["status"].values.astype(str).tolist()[0] == "finished"
    with open(tmp_path / "rungs.csv", newline="", encoding="utf-8") as file:
        assert [line["error.z"] for line in csv.DictReader(file)] == ["0.5", "0.25"]
    assert not list(tmp_path.glob("*.part"))


def test_equal_rows_give_equal_files(rows: list[Row], tmp_path: Path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_index(tmp_path / name, rows, KEYS, {})
    assert (tmp_path / "a/sweep.csv").read_bytes() == (tmp_path / "b/sweep.csv").read_bytes()
    assert read_sidecar(tmp_path / "a/sweep.h5").digest == read_sidecar(tmp_path / "b/sweep.h5").digest


def test_text_is_no_formula_in_a_spreadsheet():
    text = csv_text(
        {
            "=key": ["=HYPERLINK(1)", "+1", "-1", "@x", "\t=1", 'a "b", c\nd'],
            "n": [-1.5, None, 2, True, 0.1, float("nan")],
        }
    )
    lines = list(csv.reader(text.splitlines(keepends=True)))
    assert lines[0] == ["'=key", "n"]
    assert [line[0] for line in lines[1:]] == ["'=HYPERLINK(1)", "'+1", "'-1", "'@x", "'\t=1", 'a "b", c\nd']
    assert [line[1] for line in lines[1:]] == ["-1.5", "", "2", "true", "0.1", ""]
    assert text.startswith("'=key,n\r\n")


def test_text_does_not_steer_a_terminal():
    assert csv_text({"k": ["\x1b[2Jz"]}) == "k\r\n\\x1b[2Jz\r\n"


def test_odd_names_and_texts_fit_into_the_file(rows: list[Row], tmp_path: Path):
    odd = ["tied convolution, plain", "tied convolution; plain", "point", "0", "ẑ", "k" * 300]
    rows[0].scores = {key: number for number, key in enumerate(odd)}
    rows[3].reason = "\0 " + "é" * 5000 + "\udcff"
    write_index(tmp_path, rows, KEYS, {})
    _, columns = read_index(tmp_path)
    assert [columns[key][0] for key in odd] == list(range(6))
    assert columns["reason"][3].startswith("� é") and len(columns["reason"][3].encode()) <= 400


def test_columns_choose_their_type():
    assert as_array([1, 2]).dtype == np.int64 and as_array([1, 2.5]).dtype == np.float64
    assert np.isnan(as_array([1, None])[1])
    assert as_array([2**63, 1]).dtype == np.float64
    assert as_array([32, "lattice"]).tolist() == ["32", "lattice"]
    assert as_array([None, None]).tolist() == ["", ""]
    assert as_array([[0, 1], None]).tolist() == ["[0, 1]", ""]


def test_only_what_is_vouched_for_is_finished(small: Small, tmp_path: Path):
    point = small(TWO).points()[0]
    run = tmp_path / "points" / point.name
    run.mkdir(parents=True)

    def status() -> str:
        (row,) = collect(tmp_path, [point])
        return row.status

    assert status() == "unfinished"
    (run / "scores.json").write_text('{"a": 1}')
    (run / "run.json").write_text(json.dumps({"finished": "now"}))
    assert point.config is not None
    (run / "config.toml").write_text(point.config.to_toml())
    assert status() == "unfinished"  # no digest
    (run / "failed.json").write_text('{"reason": "it blew up", "class": "numerics"}')
    assert status() == "failed"
    for damaged in ("", "[", "[1]", '{"reason": 1}', "[" * 100_000, "\xff"):
        (run / "failed.json").write_text(damaged, encoding="latin-1")
        assert status() == "unfinished"


def test_a_foreign_or_altered_index_is_refused(rows: list[Row], tmp_path: Path):
    with pytest.raises(InputError, match=r"sweep\.h5"):
        read_index(tmp_path)
    write_index(tmp_path, rows, KEYS, {})
    content = bytearray((tmp_path / "sweep.h5").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "sweep.h5").write_bytes(content)
    with pytest.raises(InputError, match=r"sweep\.h5.*altered"):
        read_index(tmp_path)


def test_a_refused_point_is_a_row(small: Small, tmp_path: Path):
    row = collect(tmp_path, small(TWO).points())[1]
    assert (row.status, row.failure) == ("failed", "input") and "mirror" in row.reason
    assert isinstance(row.point, Point)
