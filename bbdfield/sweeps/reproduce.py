"""`bbdfield reproduce` of a sweep: every point that finished is computed again and held against what it wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bbdfield.errors import InputError
from bbdfield.studies.kinds import kind_of
from bbdfield.studies.report import read_json, read_text
from bbdfield.studies.reproduce import Reproduction, circumstances, place_for, reproduction, sha256
from bbdfield.studies.run import was_altered
from bbdfield.sweeps.index import POINTS, directory_of
from bbdfield.sweeps.plan import Sweep, load_sweep
from bbdfield.sweeps.run import ABOUT, PLAN, SCORES, Progress, run_sweep


def reproduce_sweep(
    run_dir: Path,
    *,
    workers: int | None = None,
    threads: int = 1,
    say: Callable[[str], None] | None = None,
    report: Callable[[Progress], None] | None = None,
    out: Path | None = None,
) -> Reproduction:
    """Run the sweep of a directory again and compare its own scores and those of every finished point, to the last bit.

    The directory itself is only read. Keys of differences are such as "points.0123456789abcdef.rungs.0.error.z".

    Parameters
    ----------
    workers, threads, say, report : as of `run_sweep`.
    out : where to (a new directory, which is kept, with figures); by default a temporary one, without.

    Raises
    ------
    InputError
        for a directory that holds no finished sweep, or a plan or data that are not those of its points.
    """
    run_dir = Path(run_dir)
    sweep, about = _recorded(run_dir)
    points = [point for point in sweep.points() if point.config is not None]
    stand = [point for point in points if (directory_of(run_dir, point) / SCORES).is_file()]
    if not stand:
        raise InputError(
            f"{run_dir}: no run in {run_dir / POINTS} is a point of this plan with these data; restore plan and data"
        )
    then = _scores(run_dir, [point.name for point in stand])
    with place_for(out) as place:
        again = sweep if out is not None else dataclasses.replace(sweep, figures=False)
        run_sweep(again, place, workers=workers, threads=threads, say=say, report=report)
        now, record = _scores(place, [point.name for point in stand]), read_json(place / ABOUT)
        written = read_text(place / SCORES)
    digest = about.get("scores_sha256")
    altered = isinstance(digest, str) and sha256(read_text(run_dir / SCORES)) != digest
    return reproduction(
        run_dir,
        then,
        now,
        [f"{POINTS}.*.{pattern}" for pattern in getattr(kind_of(str(sweep.base["kind"])), "TIMINGS", ())],
        circumstances(about, record),
        altered=altered or any(was_altered(directory_of(run_dir, point)) for point in stand),
        original=sha256(written) == digest if isinstance(digest, str) else None,
    )


def _recorded(run_dir: Path) -> tuple[Sweep, dict[str, Any]]:
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: no such directory; give the one that bbdfield sweep wrote")
    for name in (PLAN, SCORES, ABOUT):
        if not (run_dir / name).is_file():
            raise InputError(f"{run_dir}: holds no finished sweep (no {name}); give the directory of one, or resume it")
    about = read_json(run_dir / ABOUT)
    wanted = about.get("plan_sha256")
    if isinstance(wanted, str) and wanted != sha256(read_text(run_dir / PLAN)):
        raise InputError(
            f"{run_dir / PLAN}: not the plan that was run (digest in {ABOUT}); restore it, or resume with it"
        )
    if not about.get("finished"):
        raise InputError(f"{run_dir}: holds a sweep that has not finished; resume it first")
    return load_sweep(run_dir / PLAN), about


def _scores(out: Path, names: list[str]) -> dict[str, Any]:
    """scores.json of a sweep and of some of its points; a point without one has none."""
    found: dict[str, Any] = {}
    for name in names:
        path = out / POINTS / name / SCORES
        found[name] = read_json(path) if path.is_file() else None
    return {"sweep": read_json(out / SCORES), POINTS: found}
