"""One point of a sweep: a whole study in its own directory, whose outcome is told rather than raised.

Points run in worker processes, here or on a cluster. All of them run them with `run_point`, with one BLAS thread, so
that the executor, the number of workers and their threads change no bit of a result.
"""

from __future__ import annotations

import errno
import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bbdfield import files, interrupts
from bbdfield.errors import Damaged, InputError, NumericsError
from bbdfield.provenance import now

FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"
#: what was wrong with a failed point: its settings, its numbers, the process that ran it, or something else
INPUT, NUMERICS, WORKER, ERROR = "input", "numerics", "worker", "error"
#: nothing was wrong with the point: there was no room for its files, and there will be none for those of others
DISK = "disk"
FAILURE = "failed.json"

#: seconds to wait for a process that is about to release the point's directory: one whose sweep was killed, say
PATIENCE = 60.0


@dataclass(frozen=True)
class Task:
    """What a worker is told.

    name : of the point.  config_toml : its resolved configuration, with an absolute data.file.
    directory : its run directory.  stop : a file whose existence asks the point to stop at its next snapshot.
    threads : of compiled kernels.
    """

    name: str
    config_toml: str
    directory: Path
    stop: Path
    threads: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of a point.

    status : finished, failed or interrupted.  reason : one line, unless it finished.
    kind_of_failure : input, numerics, worker or error for a failed point, else ""; disk if it is to be run again.
    seconds : that it took this time.
    """

    name: str
    status: str
    reason: str = ""
    kind_of_failure: str = ""
    seconds: float = 0.0


def run_point(task: Task) -> Outcome:
    """Begin a point or go on with it, and record a failure in its directory, but for that of a full disk.

    A finished point is left as it is. Only one point at a time can run in a process.

    Raises
    ------
    KeyboardInterrupt
        other than because of `task.stop`.
    """
    started = time.monotonic()
    asked_to_stop = task.stop.exists  # one object: it is unfollowed by identity
    interrupts.follow(asked_to_stop)
    try:
        if asked_to_stop():
            return Outcome(task.name, INTERRUPTED, "it had not begun")
        _run(task)
    except interrupts.Stopped:
        return Outcome(task.name, INTERRUPTED, "stopped at a snapshot", seconds=time.monotonic() - started)
    except KeyboardInterrupt:
        if not asked_to_stop():
            raise
        return Outcome(task.name, INTERRUPTED, "stopped", seconds=time.monotonic() - started)
    except Exception as error:
        kind, reason = _told(error)
        if _is_full(error):
            return Outcome(task.name, FAILED, " ".join(reason.split()), DISK, time.monotonic() - started)
        if kind == ERROR and not isinstance(error, MemoryError | OSError):
            reason += f"; the traceback is in {task.directory / 'log.txt'}"
            _log(task.directory, error)
        return failed(task, kind, reason, time.monotonic() - started)
    finally:
        interrupts.unfollow(asked_to_stop)
    return Outcome(task.name, FINISHED, seconds=time.monotonic() - started)


def failed(task: Task, kind: str, reason: str, seconds: float = 0.0) -> Outcome:
    """The outcome of a failed point, also recorded in its directory if that can be written."""
    record = {"reason": " ".join(reason.split()), "class": kind, "when": now()}
    with suppress(InputError):
        files.make_directory(task.directory)
        files.write_text(task.directory / FAILURE, json.dumps(record, indent=1) + "\n")
    return Outcome(task.name, FAILED, record["reason"], kind, seconds)


def load() -> None:
    """Import what every study needs, which takes a second: once per worker rather than in its first point."""
    import scipy.linalg  # noqa: F401  (its BLAS is another one than NumPy's, and is limited only when it is loaded)

    import bbdfield.comparison.scores
    import bbdfield.fields.simulation
    import bbdfield.lattice.training
    import bbdfield.studies.run  # noqa: F401


def _run(task: Task) -> None:
    load()
    from bbdfield.studies.config import parse_config
    from bbdfield.studies.kinds import kind_of
    from bbdfield.studies.run import CONFIG, finished_scores, run_study

    config = parse_config(task.config_toml, where=task.name)
    if finished_scores(task.directory, config) is not None:
        (task.directory / FAILURE).unlink(missing_ok=True)
        return
    files.make_directory(task.directory)
    # A point that is tried again is no failed one, even if it is killed at once.
    (task.directory / FAILURE).unlink(missing_ok=True)
    if not (
        task.directory / CONFIG
    ).is_file():  # a kill before this line leaves nothing that could be told from a study
        files.write_text(task.directory / CONFIG, config.to_toml())
    kind_of(config.kind)  # imported here, that the BLAS it may bring is limited, too
    with _threads(task.threads):
        run_study(config, task.directory, resume=True, workers=1, say=_silent, wait=PATIENCE)


def _silent(line: str) -> None:
    """Lines go to log.txt only: the sweep has its own display."""


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """One BLAS thread and so many threads of compiled kernels."""
    from threadpoolctl import threadpool_limits

    from solvers.threads import use_threads

    before = use_threads(count)
    try:
        with threadpool_limits(1):
            yield
    finally:
        use_threads(before)


def _told(error: Exception) -> tuple[str, str]:
    """Kind of failure and one line."""
    if isinstance(error, Damaged):
        return INPUT, f"{error} (of a sweep: with --resume --retry-failed)"
    if isinstance(error, InputError):
        return INPUT, str(error)
    if isinstance(error, NumericsError):
        return NUMERICS, str(error)
    if isinstance(error, MemoryError):
        return ERROR, f"out of memory ({error}); use a smaller lattice, grid, batch or probe, or fewer workers"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        return ERROR, f"{where}{error.strerror or error}"
    first, _, _ = str(error).strip().partition("\n")
    return ERROR, f"{type(error).__name__}: {first}" if first else type(error).__name__


def _is_full(error: BaseException | None) -> bool:
    """Whether a full disk, or one that can no longer be written, is behind an error."""
    reasons = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    words = ("the disk is full", *map(os.strerror, reasons))  # HDF5 has no numbers
    while error is not None:
        if getattr(error, "errno", None) in reasons or any(each in str(error) for each in words):
            return True
        error = error.__cause__ or error.__context__
    return False


def _log(directory: Path, error: Exception) -> None:
    """Append the traceback to the point's log."""
    lines = "".join(traceback.format_exception(error))
    with suppress(OSError), open(directory / "log.txt", "a", encoding="utf-8", errors="backslashreplace") as log:
        log.write(f"{now()} {lines}")
