"""The table of a sweep: one row per point with its settings, its scores, and how it ended.

A point's own directory is the only truth; the table is made from them, whole, whenever it is written:

    sweep.csv, sweep.h5   one row per point
    rungs.csv             one row per point, rung and order, of kinds that have rungs; in sweep.h5 the arrays ``rung_*``
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bbdfield import files
from bbdfield._text import visible
from bbdfield.errors import InputError
from bbdfield.storage.sidecar import read_sidecar, write_sidecar
from bbdfield.studies.config import toml_value
from bbdfield.studies.run import finished_scores
from bbdfield.sweeps.plan import Point
from bbdfield.sweeps.point import FAILURE as FAILURE_FILE

POINTS = "points"
CSV, HDF5, RUNGS = "sweep.csv", "sweep.h5", "rungs.csv"
#: how a point can stand
FINISHED, FAILURE, UNFINISHED = "finished", "failed", "unfinished"
#: what a row begins with
OWN = ("name", "status", "reason", "seconds")
#: the most columns of points and the longest text, in bytes, in sweep.h5; sweep.csv has all
MOST_COLUMNS = 8000
MOST_TEXT = 400

_NAME, _UNUSUAL = re.compile(r"[A-Za-z]\w*(\.\w+)*", re.ASCII), re.compile(r"\W", re.ASCII)

Number = int | float
Columns = dict[str, list[Any]]


@dataclass
class Row:
    """What is known of a point.

    reason : why it failed.   failure : "input", "numerics", "worker" or "error".   seconds : of its computation.
    device, data : where and on what it ran, as its run.json says.
    scores : every number in its scores.json, "rungs.0.error.z".
    """

    point: Point
    status: str = UNFINISHED
    reason: str = ""
    failure: str = ""
    seconds: float | None = None
    device: str = ""
    data: dict[str, str] = field(default_factory=dict)
    scores: dict[str, Number] = field(default_factory=dict)


def directory_of(out: Path, point: Point) -> Path:
    """The run directory of a point."""
    return out / POINTS / point.name


def collect(out: Path, points: Iterable[Point]) -> list[Row]:
    """How every point stands, from its directory."""
    return [read_row(out, point) for point in points]


def read_row(out: Path, point: Point) -> Row:
    """How a point stands: only what its run.json vouches for counts as finished."""
    if point.config is None:
        return Row(point, FAILURE, point.refusal, "input")
    run = directory_of(out, point)
    with suppress(ValueError, OverflowError, RecursionError):  # JSON that no study writes
        scores = finished_scores(run, point.config)
        if scores is not None:
            return Row(point, FINISHED, **_record(run), scores=dict(flatten(scores)))
    try:
        failed = json.loads((run / FAILURE_FILE).read_text(encoding="utf-8"))
        return Row(point, FAILURE, str(failed["reason"]), str(failed["class"]))
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return Row(point)


def _record(run: Path) -> dict[str, Any]:
    """seconds, device and data of a run.json, as far as it has them."""
    found: dict[str, Any] = {}
    with suppress(OSError, ValueError, RecursionError, AttributeError, TypeError):
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        found["device"] = str(record.get("device", ""))
        found["data"] = {key: str(value) for key, value in record.get("data", {}).items()}
        found["seconds"] = float(record.get("seconds"))
    return found


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, Number]]:
    """("rungs.0.error.z", 0.01) for every number in tables and lists; true is 1, and what is no number is left out."""
    if isinstance(value, (int, float)):
        yield key, float(value) if isinstance(value, float) or abs(value) >= 2**63 else int(value)
    elif isinstance(value, (dict, list)):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flatten(inner, f"{key}.{name}" if key else str(name))


# tables


def point_columns(rows: Sequence[Row], keys: Sequence[str]) -> Columns:
    """Column -> one value per point: how it stands, swept keys, scores, and the other keys of its configuration."""
    own = {"name": [row.point.name for row in rows], "status": [row.status for row in rows]}
    columns: Columns = {**own, "reason": [row.reason for row in rows], "seconds": [row.seconds for row in rows]}
    columns |= {key: [row.point.settings.get(key) for row in rows] for key in keys}
    parameters = [_parameters(row.point) for row in rows]
    taken = {*columns, *(key for each in parameters for key in each)}
    for score in dict.fromkeys(key for row in rows for key in row.scores):
        columns[score if score not in taken else f"scores.{score}"] = [row.scores.get(score) for row in rows]
    for key in dict.fromkeys(key for each in parameters for key in each):
        if key not in keys:
            columns[key] = [each.get(key) for each in parameters]
    return columns


def rung_columns(rows: Sequence[Row], keys: Sequence[str]) -> Columns:
    """Column -> one value per point, rung and order; no columns for kinds that have none."""
    found = [(row, rung) for row in rows for rung in rungs_of(row)]
    numbers = dict.fromkeys(key for _, rung in found for key in rung)
    columns: Columns = {"point": [row.point.name for row, _ in found]} if found else {}
    for key in keys if found else ():
        columns[key] = [row.point.settings.get(key) for row, _ in found]
    # a point's list of depths or orders is here one depth and one order
    return columns | {key: [rung.get(key) for _, rung in found] for key in numbers}


def rungs_of(row: Row) -> list[dict[str, Number]]:
    """The rungs of a continuum study: depth, width, a_x, a_y, order, error.z, ..."""
    rungs: dict[int, dict[str, Number]] = {}
    for key, value in row.scores.items():
        match = re.fullmatch(r"rungs\.(\d+)\.(.+)", key)
        if match:
            rungs.setdefault(int(match[1]), {})[match[2]] = value
    return list(rungs.values())


def _parameters(point: Point) -> dict[str, Any]:
    """Every key of a configuration, "training.rates.w"."""
    if point.config is None:
        return {}
    return dict(_keys(point.config.model_dump(exclude={"title"})))


def _keys(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{above}{name}.")
        elif value is not None:
            yield f"{above}{name}", value


# files


def write_index(out: Path, rows: Sequence[Row], keys: Sequence[str], about: Mapping[str, Any]) -> None:
    """Write sweep.csv, rungs.csv and sweep.h5, each complete or not at all.

    about : what sweep.h5 says of the whole sweep, plain JSON types.

    Raises
    ------
    InputError
        when one cannot be written; the earlier one is still there then, and every point's directory.
    """
    points, rungs = point_columns(rows, keys), rung_columns(rows, keys)
    files.write_text(out / CSV, csv_text(points))
    if rungs:
        files.write_text(out / RUNGS, csv_text(rungs))
    else:
        (out / RUNGS).unlink(missing_ok=True)  # of an earlier plan
    tables = [(key, "point", values) for key, values in points.items()][:MOST_COLUMNS]
    tables += [(f"rung_{key}", "rung", values) for key, values in rungs.items()]
    names = _identifiers([key for key, _, _ in tables])
    arrays = {
        name: ((dimension,), as_array(values)) for name, (_, dimension, values) in zip(names, tables, strict=True)
    }
    config = {
        **about,
        "keys": list(keys),
        "columns": {name: key for name, (key, _, _) in zip(names, tables, strict=True)},
    }
    write_sidecar(out / HDF5, kind="sweep", config=config, arrays=arrays, overwrite=True)


def read_index(out: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """(what sweep.h5 says of the sweep, column -> array) of a sweep's directory.

    Raises
    ------
    InputError
        for a missing, altered or foreign file.
    """
    found = read_sidecar(out / HDF5)
    columns = found.config.get("columns")
    known = isinstance(columns, dict) and all(isinstance(columns.get(name), str) for name in found.arrays)
    if found.kind != "sweep" or not isinstance(columns, dict) or not known:
        raise InputError(f"{found.path}: holds no sweep; resume the sweep to write it again")
    return found.config, {columns[name]: values for name, values in found.arrays.items()}


def csv_text(columns: Columns) -> str:
    """A table as RFC 4180 has it; text that a spreadsheet would take for a formula gets an apostrophe in front."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow([_cell(key) for key in columns])
    writer.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))
    return file.getvalue()


def _cell(value: Any) -> str | Number:
    if value is None or value != value:  # a number that there is not
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    text = visible(_text(value), "\n\r\t")  # a terminal may show the file
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def _text(value: Any) -> str:
    """Text as it is, everything else as TOML; valid UTF-8, whatever a file was called."""
    text = "" if value is None else value if isinstance(value, str) else toml_value(value)
    return text.encode("utf-8", "replace").decode("utf-8")


def as_array(values: Sequence[Any]) -> NDArray[Any]:
    """int64, float64 with NaN for what there is not, or UTF-8 text, whichever holds a whole column."""
    numbers = [value for value in values if value is not None]
    if numbers and all(isinstance(value, (int, float)) for value in numbers):
        whole = len(numbers) == len(values) and all(isinstance(v, int) and -(2**63) <= v < 2**63 for v in numbers)
        return np.array([np.nan if v is None else v for v in values], dtype=np.int64 if whole else np.float64)
    return np.array([_short(_text(value)) for value in values], dtype=np.str_)


def _short(text: str) -> str:
    """What fits into a column of sweep.h5, in which NUL ends a text."""
    return text.replace("\0", "�").encode("utf-8")[:MOST_TEXT].decode("utf-8", "ignore")


def _identifiers(keys: Iterable[str]) -> list[str]:
    """Different names in HDF5: the key itself unless it holds more than letters, digits, _ and dots between."""
    names: list[str] = []
    taken = {"point", "rung"}  # the dimensions
    for key in keys:
        plain = name = key if _NAME.fullmatch(key) and len(key) <= 200 else _UNUSUAL.sub("_", f"x_{key}")[:200]
        number = 1
        while name in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name)
        names.append(name)
    return names
