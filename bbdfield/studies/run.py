"""One study: from a configuration to a finished run directory, whatever the kind.

    check -> prepare the directory -> compute -> scores.json -> figures -> report.html

What is computed stands in one module per kind (`bbdfield.studies.kinds`); here is what they have in common.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bbdfield import files
from bbdfield.errors import Damaged, InputError
from bbdfield.plotting.records import record_of_study, recorded
from bbdfield.provenance import now, provenance
from bbdfield.studies.config import AnyStudy
from bbdfield.studies.kinds import KINDS, JobProgress, Session, kind_of
from bbdfield.studies.log import LOGGER, logged
from bbdfield.studies.report import write_report
from solvers.threads import threads

#: trajectories and sidecars of all kinds; what else lies in a run directory is the user's own
FILES = tuple(
    name.format(stem)
    for stem in ("lattice-*", "field-*", *KINDS)
    for name in ("{}.h5", "{}.h5.part", ".{}.h5.lock")  # the lock of a killed writer
)
CONFIG, SCORES, RUN = "config.toml", "scores.json", "run.json"
OUTPUTS = (SCORES, RUN, "report.html", "log.txt", "figures", "combinations", "faults")


def run_study(
    config: AnyStudy,
    out: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    workers: int | None = None,
    report_progress: JobProgress | None = None,
    say: Callable[[str], None] | None = None,
    wait: float = 0.0,
) -> dict[str, Any]:
    """Run a study into the directory `out` and return its scores (the content of scores.json).

    Parameters
    ----------
    overwrite : replace the results of an earlier study in `out`.
    resume : continue an interrupted study; harmless on a finished one.
    workers : processes (default: one per CPU); 1 runs everything in this process.
    report_progress : called with (job, steps done, steps in all, loss).
    say : gets one line per stage (default: standard error); all lines also go to log.txt.
    wait : seconds to wait for another process that is writing into `out`.

    Raises
    ------
    InputError
        for an existing directory, one that another process writes into, another configuration on resuming, or anything
        the configuration cannot do.
    NumericsError
        when a computation ceases to be finite; finished files are kept.
    KeyboardInterrupt
        after one Ctrl-C when what runs has saved its next snapshot, after two at once.
    """
    kind, processes = kind_of(config.kind), workers or os.cpu_count() or 1
    _check_directory(out, config, overwrite=overwrite, resume=resume)
    device = kind.check(config)
    files.make_directory(out)
    with files.locked(out, wait):
        _check_directory(out, config, overwrite=overwrite, resume=resume)  # the other process may have been first
        if overwrite:
            _clear(out)
        files.write_text(out / "config.toml", config.to_toml())
        with logged(out):
            return _run(config, out, device, Session(processes, report_progress, _teller(say)), resume)


def _teller(say: Callable[[str], None] | None) -> Callable[[str], None]:
    def tell(line: str) -> None:
        LOGGER.info(line)
        (say or (lambda text: print(text, file=sys.stderr)))(line)

    return tell


def _run(config: AnyStudy, out: Path, device: str, session: Session, resume: bool) -> dict[str, Any]:
    """Compute, score, draw and report in a directory that is ready."""
    kind, tell, started = kind_of(config.kind), session.say, time.monotonic()
    if resume and was_altered(out):
        tell(f"{out / 'scores.json'}: altered since it was written; it is computed again from the trajectories")
        stands: dict[str, Any] = {}
    else:  # what vouches for finished scores stays until there are new ones
        stands = {
            key: value for key, value in _read_run(out).items() if key in ("finished", "seconds", "scores_sha256")
        }
    record = _record(config, out, device) | stands
    files.write_text(out / RUN, _json(record))
    tell(device)
    side_by_side = f", or 1 in each of {session.workers} processes where jobs run side by side"
    tell(f"compiled code on {threads()} threads{side_by_side if session.workers > 1 else ''}")
    scores, details = kind.compute(config, out, session)
    text = json.dumps(scores, indent=1, allow_nan=False) + "\n"
    files.write_text(out / SCORES, text)
    if config.output.figures:
        tell("drawing")
        (out / "figures").mkdir(exist_ok=True)
        with recorded(record_of_study(record, config.to_toml())):
            kind.draw(config, out, scores, details)
    record |= {"finished": now(), "seconds": round(time.monotonic() - started, 1), "scores_sha256": _sha256(text)}
    files.write_text(out / RUN, _json(record))
    if config.output.figures:
        tell(f"report: {write_report(out)}")
    return scores


# the run directory


def finished_scores(out: Path, config: AnyStudy) -> dict[str, Any] | None:
    """scores.json of a finished study of this configuration, as it was written; None if there is none or it was
    altered.
    """
    record = _read_run(out)
    try:
        text = (out / SCORES).read_text(encoding="utf-8")
        same = (out / CONFIG).read_text(encoding="utf-8") == config.to_toml()
    except (OSError, UnicodeDecodeError):
        return None
    if not same or not record.get("finished") or record.get("scores_sha256") != _sha256(text):
        return None
    scores: dict[str, Any] = json.loads(text)
    return scores


def was_altered(out: Path) -> bool:
    """Whether scores.json is not what the study wrote, by the digest in run.json."""
    digest = _read_run(out).get("scores_sha256")
    try:
        return digest is not None and _sha256((out / SCORES).read_text(encoding="utf-8")) != digest
    except (OSError, UnicodeDecodeError):
        return digest is not None


def check_unaltered(out: Path) -> None:
    """Refuse to show what is not what the study wrote.

    Raises
    ------
    Damaged
        when scores.json or config.toml was altered, by the digests in run.json.
    """
    if was_altered(out):
        remedy = "--resume computes it again from the trajectories"
        raise Damaged(f"{out / SCORES}: altered since it was written (digest differs); {remedy}")
    wanted = _read_run(out).get("config_sha256")
    if wanted is not None and _sha256((out / CONFIG).read_text(encoding="utf-8", errors="replace")) != wanted:
        raise Damaged(f"{out / CONFIG}: altered since the study began (digest differs); restore it, or run it anew")


def _read_run(out: Path) -> dict[str, Any]:
    """run.json; empty where there is none or it cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        record = json.loads((out / RUN).read_text(encoding="utf-8"))
        if isinstance(record, dict):
            return record
    return {}


def _check_directory(out: Path, config: AnyStudy, *, overwrite: bool, resume: bool) -> None:
    """Refuse a directory that is not to be written into; touches nothing."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; choose another directory with --out")
    if not out.is_dir() or not files.is_occupied(out):
        return
    ours = (out / CONFIG).is_file()
    if resume:
        if not ours:
            raise InputError(f"{out}: holds no study to resume; run without --resume into a new directory")
        if (out / CONFIG).read_text(encoding="utf-8", errors="replace") != config.to_toml():
            raise InputError(f"{out}: holds a study of another configuration; resume with its own {CONFIG}")
        return
    if not overwrite:
        raise InputError(f"{out}: exists already; choose another directory, or --overwrite or --resume it")
    if not ours:
        raise InputError(f"{out}: is not a study's directory, so it is not overwritten; choose another one")


def _clear(out: Path) -> None:
    """Remove what a study left, all but config.toml, which still says whose directory it is."""
    for path in [*(out / name for name in OUTPUTS), *(path for name in FILES for path in out.glob(name))]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _record(config: AnyStudy, out: Path, device: str) -> dict[str, Any]:
    """What differs between two runs of one configuration: times, versions, machine, command."""
    data, before = config.dataset(), _read_run(out)
    told = {key: before.get(key) for key in ("started", "finished", "seconds", "command", "versions", "git_revision")}
    earlier = before.get("earlier")
    who = provenance()
    return {
        "started": who.pop("created"),
        "finished": None,
        "seconds": None,
        **who,
        "device": device,
        "threads": threads(),
        "process": {"host": platform.node(), "pid": os.getpid()},
        "seed": config.seed,
        "data": {"name": data.name, "digest": data.digest},
        "config_sha256": _sha256(config.to_toml()),
        "scores_sha256": None,
        "earlier": [*(earlier if isinstance(earlier, list) else []), *([told] if before else [])],
    }


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1) + "\n"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
