"""`bbdfield reproduce`: run a recorded study again and hold its scores against those that it wrote.

Scores are reproducible to the last bit on the same versions and kind of machine, so the comparison is exact; what
differs in versions, revision, machine and backends is told beside it.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bbdfield._text import visible
from bbdfield.errors import InputError
from bbdfield.studies.config import AnyStudy, load_config
from bbdfield.studies.kinds import JobProgress, kind_of
from bbdfield.studies.report import read_json, read_text

#: entries of run.json that may explain a difference
CIRCUMSTANCES = ("versions", "git_revision", "machine", "device", "threads")
_LISTED = 5


@dataclass(frozen=True)
class Difference:
    """A score that came out differently.

    key : such as "rungs.0.error.z".   recorded, found : before and now; None also where there is none.
    relative : |found - recorded| / |recorded|; None for what are not both numbers, inf for recorded = 0.
    """

    key: str
    recorded: Any
    found: Any
    relative: float | None


@dataclass(frozen=True)
class Reproduction:
    """What running a study again has shown.

    differences : of the scores, the largest first.   timings : the same of what the kind declares to be measured times,
    which are expected to differ.   circumstances : name -> (then, now) of what else differs.
    altered : scores.json in the run directory is not what the study wrote, by the digest in run.json.
    original : the scores now are those that the study wrote, whatever scores.json holds today; None without a digest.
    """

    run_dir: Path
    differences: Sequence[Difference]
    timings: Sequence[Difference]
    circumstances: Mapping[str, tuple[str, str]]
    altered: bool
    original: bool | None
    count: int

    @property
    def equal(self) -> bool:
        """Whether every score came out bitwise the same (timings aside), and scores.json is what was written."""
        return not self.differences and not self.altered

    @property
    def largest(self) -> float | None:
        """The largest relative difference; None if no two numbers differ."""
        return max((entry.relative for entry in self.differences if entry.relative is not None), default=None)

    def message(self) -> str:
        """The outcome in one line."""
        if self.equal:
            also = f" ({len(self.timings)} measured times differ)" if self.timings else ""
            return f"{self.run_dir}: reproduced, all {self.count} scores bitwise equal{also}"
        parts = []
        if self.altered:
            shown = {True: "; what it wrote is reproduced bitwise", False: "", None: ""}[self.original]
            parts.append(f"scores.json was altered after the study wrote it{shown}")
        if self.differences:
            names = ", ".join(visible(entry.key, "", 80) for entry in self.differences[:_LISTED])
            more = f" and {len(self.differences) - _LISTED} more" if len(self.differences) > _LISTED else ""
            worst = "" if self.largest is None else f", by up to {self.largest:.1e} relative"
            parts.append(f"{len(self.differences)} of {self.count} scores differ{worst}: {names}{more}")
        return f"{self.run_dir}: not reproduced: {'; '.join(parts)}"

    def lines(self) -> Iterator[str]:
        """The outcome, the largest differences, and what else is different, one line each."""
        yield self.message()
        for entry in self.differences[:_LISTED]:
            yield f"  {visible(entry.key, '', 80)}: {_shown(entry.recorded)} then, {_shown(entry.found)} now"
        for name, (then, now) in self.circumstances.items():
            yield f"  {name.replace('_', ' ')}: {then} then, {now} now"

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; what is infinite as null."""

        def plain(entries: Sequence[Difference]) -> list[dict[str, Any]]:
            return [
                {
                    "key": entry.key,
                    "recorded": entry.recorded,
                    "found": entry.found,
                    "relative": entry.relative if entry.relative is not None and entry.relative < math.inf else None,
                }
                for entry in entries
            ]

        return {
            "run": str(self.run_dir),
            "equal": self.equal,
            "scores": self.count,
            "altered": self.altered,
            "original_reproduced": self.original,
            "differences": plain(self.differences),
            "timings": plain(self.timings),
            "circumstances": {name: {"then": then, "now": now} for name, (then, now) in self.circumstances.items()},
        }


def reproduce(
    run_dir: Path,
    *,
    workers: int | None = None,
    say: Callable[[str], None] | None = None,
    report_progress: JobProgress | None = None,
    out: Path | None = None,
) -> Reproduction:
    """Run the study of a run directory again and compare scores.json; the directory itself is only read.

    Parameters
    ----------
    workers, say, report_progress : as of `run_study`.
    out : where to (a new directory, which is kept, with figures); by default a temporary one, without.

    Raises
    ------
    InputError
        for a directory that holds no finished study, one of a sweep, a configuration that this version refuses, or data
        that are gone or changed.
    NumericsError
        when the computation ceases to be finite.
    """
    from bbdfield.studies.run import run_study

    run_dir = Path(run_dir)
    config, recorded, record = _recorded(run_dir)
    text = read_text(run_dir / "scores.json")
    with place_for(out) as place:
        if out is None:
            config = config.model_copy(update={"output": config.output.model_copy(update={"figures": False})})
        found = run_study(config, place, workers=workers, say=say, report_progress=report_progress)
        again, written = read_json(place / "run.json"), read_text(place / "scores.json")
    digest = record.get("scores_sha256")
    return reproduction(
        run_dir,
        recorded,
        found,
        getattr(kind_of(config.kind), "TIMINGS", ()),
        circumstances(record, again),
        altered=isinstance(digest, str) and sha256(text) != digest,
        original=sha256(written) == digest if isinstance(digest, str) else None,
    )


def reproduction(
    run_dir: Path,
    recorded: Any,
    found: Any,
    times: Sequence[str],
    circumstances: Mapping[str, tuple[str, str]],
    *,
    altered: bool,
    original: bool | None,
) -> Reproduction:
    """Compare scores; keys that match one of `times` (such as "seconds.*") are measured times."""
    differences = compare_scores(recorded, found)
    return Reproduction(
        run_dir,
        [entry for entry in differences if not _matches(entry.key, times)],
        [entry for entry in differences if _matches(entry.key, times)],
        circumstances,
        altered=altered,
        original=original,
        count=sum(1 for _ in _leaves(recorded)),
    )


def _recorded(run_dir: Path) -> tuple[AnyStudy, dict[str, Any], dict[str, Any]]:
    """Configuration, scores and run.json of a finished study whose data are still what they were."""
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: no such directory; give the one that bbdfield run or sweep wrote")
    if (run_dir / "sweep.toml").exists():
        raise InputError(f"{run_dir}: holds a sweep; give one of the directories in {run_dir / 'points'}")
    for name in ("config.toml", "scores.json", "run.json"):
        if not (run_dir / name).is_file():
            raise InputError(f"{run_dir}: holds no finished study (no {name}); give the directory of one, or resume it")
    scores, record = read_json(run_dir / "scores.json"), read_json(run_dir / "run.json")
    if not record.get("finished"):
        raise InputError(f"{run_dir}: holds a study that has not finished; resume it first")
    config = load_config(run_dir / "config.toml")
    written = record.get("config_sha256")
    if isinstance(written, str) and written != sha256(read_text(run_dir / "config.toml")):
        raise InputError(
            f"{run_dir / 'config.toml'}: not the configuration that was run (digest in run.json); restore it"
        )
    then = record.get("data")
    digest = then.get("digest") if isinstance(then, dict) else None
    if isinstance(digest, str) and config.dataset().digest != digest:
        which = f"data file {config.data.file}" if config.data.file else f"shipped data {config.data.name}"
        raise InputError(f"{run_dir}: its {which} holds other data now than the study had; restore those")
    return config, scores, record


@contextmanager
def place_for(out: Path | None) -> Iterator[Path]:
    """The directory to run in: `out`, or one that is gone afterwards."""
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="bbdfield-reproduce-") as folder:
        yield Path(folder) / "run"


# ---- comparing


def compare_scores(recorded: Any, found: Any) -> list[Difference]:
    """What differs between the content of two scores.json, the largest relative difference first; exact."""
    then, now = dict(_leaves(recorded)), dict(_leaves(found))
    differences = []
    for key in dict.fromkeys((*then, *now)):
        before, after = then.get(key), now.get(key)
        if key in then and key in now and _same(before, after):
            continue
        differences.append(Difference(key, before, after, _relative(before, after)))
    differences.sort(key=lambda entry: math.inf if entry.relative is None else -entry.relative)
    return differences


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that is no table or list; empty ones count as values."""
    inner: Iterator[tuple[Any, Any]] | None = None
    if isinstance(value, dict):
        inner = iter(value.items())
    elif isinstance(value, (list, tuple)):
        inner = iter(enumerate(value))
    if inner is None or not value:
        yield key, value
        return
    for name, entry in inner:
        yield from _leaves(entry, f"{key}.{name}" if key else str(name))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, float) and isinstance(after, float):
        return before.hex() == after.hex()  # -0.0 is not 0.0, and NaN is NaN
    return type(before) is type(after) and bool(before == after)


def _relative(before: Any, after: Any) -> float | None:
    if not (_is_number(before) and _is_number(after)):
        return None
    try:
        change = abs(float(after) - float(before))
        if not math.isfinite(change):
            return math.inf
        return change / abs(before) if before else (math.inf if change else 0.0)
    except OverflowError:
        return math.inf


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def circumstances(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """What is different between two records (run.json) in versions (each by itself), revision, machine and device."""

    def told(record: Mapping[str, Any]) -> dict[str, Any]:
        versions = record.get("versions")
        rest = {name: record.get(name) for name in CIRCUMSTANCES if name != "versions"}
        return {**(versions if isinstance(versions, dict) else {}), **rest}

    before, after = told(then), told(now)
    return {
        visible(name, "", 60): (_shown(before.get(name)), _shown(after.get(name)))
        for name in dict.fromkeys((*after, *before))
        if before.get(name) != after.get(name)
    }


def _shown(value: Any) -> str:
    return "nothing" if value is None or value == "" else visible(str(value), "", 120)


def sha256(text: str) -> str:
    """The digest under which run.json knows a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
