"""The command line as a process of its own: started, watched while its files grow, killed, and asked what it said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from bbdfield.errors import InputError, NumericsError
from bbdfield.storage import Trajectory

#: where the package lies that the processes run
ROOT = Path(__file__).parents[3]
#: seconds between two looks at a growing file
PAUSE = 0.02
#: seconds that an undisturbed command may take at most
PATIENCE = 600.0


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with this very package importable and one thread for every library."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    return {**os.environ, **single, "PYTHONPATH": os.pathsep.join(paths), **more}


@dataclass(frozen=True)
class Ended:
    """code : exit code, or minus the signal.   said : what it wrote to standard error.   seconds : how long it ran."""

    code: int
    said: str
    seconds: float

    @property
    def line(self) -> str:
        """Its complaint in one line, without the name of the program."""
        complaints = [line for line in self.said.splitlines() if line.startswith("bbdfield: ")]
        return complaints[-1].removeprefix("bbdfield: ") if complaints else ""

    @property
    def tidy(self) -> bool:
        """Whether it failed as promised: exit code 2, 3 or 130, and in the end one line that says why."""
        return self.code in (2, 3, 130) and is_tidy(self.said)


def is_tidy(said: str) -> bool:
    """Whether a failed command ended with its one line: no traceback, and above it at most progress and warnings."""
    lines = said.strip().splitlines()
    return bool(lines) and lines[-1].startswith("bbdfield: ") and "Traceback" not in said


class Program:
    """``python -m bbdfield ...`` in its own process group, with its output in a file. A context manager that kills.

    file_size : bytes that a file of it may have.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        log: Path,
        environ: Mapping[str, str] | None = None,
        file_size: int | None = None,
    ) -> None:
        self._log = open(log, "w+b")  # closed with the process
        self.started = time.monotonic()
        self._released = False  # whether its children are to be left alone
        command = [sys.executable, "-m", "bbdfield", *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            env=environment() if environ is None else dict(environ),
            start_new_session=True,
        )
        if file_size is not None:
            import resource

            with suppress(ProcessLookupError):
                resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (file_size, file_size))

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it ended within so many seconds; None: a long time."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE if seconds is None else max(0.0, seconds))
            return True
        return False

    def kill(self, whole: bool = True) -> None:
        """SIGKILL, to its whole process group or to its first process alone."""
        with suppress(ProcessLookupError):
            if whole:
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        self.process.wait()
        self._released = not whole

    def survivors(self, seconds: float) -> int:
        """How many processes of its group are still there after so many seconds."""
        deadline = time.monotonic() + seconds
        while (count := len(members(self.process.pid))) and time.monotonic() < deadline:
            time.sleep(PAUSE)
        return count

    def ended(self) -> Ended:
        """What became of it; it must have ended."""
        code = self.process.wait()
        seconds = time.monotonic() - self.started
        self._log.seek(0)
        return Ended(code, self._log.read().decode("utf-8", "replace"), seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._released:
            self.kill()
        self._log.close()


def run(arguments: Sequence[object], log: Path, environ: Mapping[str, str] | None = None) -> Ended:
    """Run a command to its end."""
    with Program(arguments, log, environ) as program:
        if not program.wait():
            raise NumericsError(f"bbdfield {' '.join(map(str, arguments))} did not end within {PATIENCE:g} s")
        return program.ended()


def succeed(arguments: Sequence[object], log: Path) -> Ended:
    """Run a command that must not fail."""
    done = run(arguments, log)
    if done.code != 0:
        raise NumericsError(f"bbdfield {arguments[0]} failed undisturbed: {' '.join(done.said.split())[-500:]}")
    return done


def members(group: int) -> list[int]:
    """Processes of a group that have not ended; only where there is /proc."""
    found = []
    for entry in Path("/proc").iterdir() if Path("/proc/self").exists() else ():
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                state, _, pgrp = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:3]
                if int(pgrp) == group and state not in "ZX":
                    found.append(int(entry.name))
    return found


@dataclass
class Looks:
    """What a reader saw of files that were growing.

    count : looks that found a file.   most : complete snapshots seen, file by file.   refused : what readers were told
    instead.   shrunk : files that had fewer snapshots than at an earlier look.   appeared : seconds to the first file.
    """

    count: int = 0
    most: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    shrunk: int = 0
    appeared: float | None = None

    def look(self, path: Path) -> int | None:
        """Open a trajectory as a user would and read its last snapshot; None if there is none yet."""
        if not path.exists():
            return None
        try:
            with Trajectory(path) as found:
                count = found.n_snapshots
                if count:
                    found.fields["w"][count - 1]
        except InputError as error:
            if path.exists():
                self.refused.append(str(error))
            return None
        self.count += 1
        before = self.most.get(str(path), 0)
        self.shrunk += count < before
        self.most[str(path)] = max(before, count)
        return count

    def lost(self) -> int:
        """Snapshots that were seen once and are not there any more."""
        seen, before = dict(self.most), self.shrunk
        missing = 0
        for path, count in seen.items():
            missing += max(0, count - (self.look(Path(path)) or 0))
        self.shrunk = before  # that is what is counted here
        return missing


@contextmanager
def watched(looks: Looks, paths: Callable[[], Sequence[Path]]) -> Iterator[None]:
    """Look at the files that `paths` names again and again, as long as the block runs."""
    over, began = threading.Event(), time.monotonic()

    def watch() -> None:
        while not over.wait(PAUSE):
            for path in paths():
                if looks.look(path) is not None and looks.appeared is None:
                    looks.appeared = time.monotonic() - began

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
