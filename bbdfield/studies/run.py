"""One study: from a configuration to a finished run directory, whatever the kind.

    check -> prepare the directory -> compute -> scores.json -> figures -> report.html

What is computed stands in one module per kind (`bbdfield.studies.kinds`); here is what they have in common.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bbdfield._version import __version__
from bbdfield.errors import InputError
from bbdfield.provenance import git_revision, machine, package_version
from bbdfield.studies.config import AnyStudy
from bbdfield.studies.kinds import KINDS, JobProgress, Session, kind_of
from bbdfield.studies.report import write_report
from solvers.threads import threads

#: trajectories and sidecars of all kinds; what else lies in a run directory is the user's own
FILES = tuple(name + end for name in ("lattice-*", "field-*", *KINDS) for end in (".h5", ".h5.part"))
OUTPUTS = ("config.toml", "scores.json", "run.json", "report.html", "log.txt", "figures", "combinations")


def run_study(
    config: AnyStudy,
    out: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    workers: int | None = None,
    report_progress: JobProgress | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Run a study into the directory `out` and return its scores (the content of scores.json).

    Parameters
    ----------
    overwrite : replace the results of an earlier study in `out`.
    resume : continue an interrupted study; harmless on a finished one.
    workers : processes (default: one per CPU); 1 runs everything in this process.
    report_progress : called with (job, steps done, steps in all, loss).
    say : gets one line per stage (default: standard error); all lines also go to log.txt.

    Raises
    ------
    InputError
        for an existing directory, another configuration on resuming, or anything the configuration cannot do.
    NumericsError
        when a computation ceases to be finite; finished files are kept.
    """
    kind, processes = kind_of(config.kind), workers or os.cpu_count() or 1
    device = kind.check(config)
    _prepare(out, config, overwrite=overwrite, resume=resume)
    handler = logging.FileHandler(out / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log = logging.getLogger("bbdfield.study")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)

    def tell(line: str) -> None:
        log.info(line)
        (say or (lambda text: print(text, file=sys.stderr)))(line)

    try:
        started = time.time()
        _write_run_json(out, started, None, device)
        tell(device)
        side_by_side = f", or 1 in each of {processes} processes where jobs run side by side" if processes > 1 else ""
        tell(f"compiled code on {threads()} threads{side_by_side}")
        session = Session(processes, report_progress, tell)
        scores, details = kind.compute(config, out, session)
        _write_atomically(out / "scores.json", json.dumps(scores, indent=1, allow_nan=False) + "\n")
        if config.output.figures:
            tell("drawing")
            (out / "figures").mkdir(exist_ok=True)
            kind.draw(config, out, scores, details)
        _write_run_json(out, started, time.time(), device)
        if config.output.figures:
            tell(f"report: {write_report(out)}")
        return scores
    finally:
        log.removeHandler(handler)
        handler.close()


# the run directory


def _prepare(out: Path, config: AnyStudy, *, overwrite: bool, resume: bool) -> None:
    text = config.to_toml()
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; choose another directory with --out")
    if out.is_dir() and any(out.iterdir()):
        ours = (out / "config.toml").is_file()
        if resume:
            if not ours:
                raise InputError(f"{out}: holds no study to resume; run without --resume into a new directory")
            if (out / "config.toml").read_text(encoding="utf-8") != text:
                raise InputError(f"{out}: holds a study of another configuration; resume with its own config.toml")
            return
        if not overwrite:
            raise InputError(f"{out}: exists already; choose another directory, or --overwrite or --resume it")
        if not ours:
            raise InputError(f"{out}: is not a study's directory, so it is not overwritten; choose another one")
        for path in [*(out / name for name in OUTPUTS), *(path for name in FILES for path in out.glob(name))]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write_atomically(out / "config.toml", text)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another directory") from error


def _write_atomically(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _write_run_json(out: Path, started: float, finished: float | None, device: str) -> None:
    """What differs between two runs of one configuration: times, versions, machine, command."""
    import h5py
    import scipy

    stamp = "%Y-%m-%dT%H:%M:%SZ"
    record = {
        "started": time.strftime(stamp, time.gmtime(started)),
        "finished": time.strftime(stamp, time.gmtime(finished)) if finished else None,
        "seconds": round(finished - started, 1) if finished else None,
        "command": shlex.join(sys.argv),
        "versions": {
            "bbdfield": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": package_version("numba"),
            "scipy": scipy.__version__,
            "h5py": h5py.__version__,
        },
        "git_revision": git_revision(),
        "machine": machine(),
        "device": device,
        "threads": threads(),
    }
    _write_atomically(out / "run.json", json.dumps(record, indent=1) + "\n")
