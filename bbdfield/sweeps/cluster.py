"""Points of a sweep on a Dask cluster that runs already: workers anywhere that see the same directory.

A worker that is lost costs no point: the scheduler gives what it ran to another one, which goes on from the last
snapshot. Scheduler and workers need nothing of this package but its being installed.
"""

from __future__ import annotations

import logging
import platform
import queue
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbdfield import files, interrupts
from bbdfield.errors import InputError, NumericsError
from bbdfield.provenance import PACKAGES, package_version
from bbdfield.sweeps.local import ask_to_stop
from bbdfield.sweeps.point import FAILED, INTERRUPTED, WORKER, Outcome, Task, failed, run_point

if TYPE_CHECKING:
    from distributed import Client, Future

#: seconds between two looks at whether Ctrl-C was pressed, and at the workers
_LOOK, _LOOK_AT_WORKERS = 0.2, 2.0
#: seconds for the scheduler to answer, and for the workers' look at the directory
_ANSWER, _CHECK = 10.0, 60.0
#: how often a point may come back stopped although nobody asked
_TRIES = 3
#: the kind of failure of a point that had not begun, before it is given up
_UNUSABLE = "unusable"
#: tasks per message to the scheduler
_BATCH = 500

_turn = threading.Lock()  # in a worker: BLAS threads are limited for the whole process


def run_on_cluster(
    tasks: Iterable[Task], address: str, *, patience: float = 60.0, say: Callable[[str], None] | None = None
) -> Iterator[Outcome]:
    """Run all points on the cluster; one outcome for each, as they finish.

    The results are those of `run_local`, bit by bit. After one Ctrl-C (`interrupts.asked`) points that run stop at
    their next snapshot and the others do not begin. Closing the iterator early asks for the same and does not wait.

    Parameters
    ----------
    address : of the scheduler, such as tcp://10.0.0.1:8786, or the path of the file that it wrote for --scheduler-file.
    patience : seconds to wait for a worker when there is none.
    say : gets one line about what is odd with the cluster.

    Raises
    ------
    InputError
        before anything is submitted: dask.distributed is not installed, nobody answers at the address, or a worker
        runs another bbdfield or sees another directory.
    NumericsError
        when the scheduler, or every worker, has gone; what the points have saved is kept.
    """
    tell = say or (lambda line: None)
    tasks = [replace(task, directory=task.directory.absolute(), stop=task.stop.absolute()) for task in tasks]
    if not tasks:
        return
    with _quiet(), _connected(address) as client:
        sweep = _Sweep(client, address, tasks, patience, tell)
        sweep.check_workers()
        try:
            yield from sweep.outcomes()
        finally:
            sweep.close()
            sweep.forget()


def check_scheduler(address: str) -> None:
    """Whether a scheduler answers, before anything is written.

    Raises
    ------
    InputError
        as of `run_on_cluster`: dask.distributed is not installed, or nobody answers.
    """
    with _quiet(), _connected(address):
        pass


class _Sweep:
    """One sweep's points on the cluster."""

    def __init__(
        self, client: Client, address: str, tasks: list[Task], patience: float, tell: Callable[[str], None]
    ) -> None:
        self.client, self.address, self.tasks, self.patience, self.tell = client, address, tasks, patience, tell
        self.id = uuid.uuid4().hex[:12]
        self.stops = {task.stop for task in tasks}
        self.directory = tasks[0].directory.parent
        self.token = self.directory / f".cluster-{self.id}"  # by which workers know the directory
        self.stopping = False
        self.pending: dict[str, tuple[Task, Future[Outcome]]] = {}  # by key
        self.tries: dict[str, int] = {}
        self.told: set[str] = set()
        self.came: queue.SimpleQueue[str] = queue.SimpleQueue()  # keys
        self.looked = self.alive = time.monotonic()  # when workers were looked for, and when there were some

    # before the first point

    def check_workers(self) -> None:
        """Refuse workers that would compute something else or elsewhere."""
        while not self.workers():
            self.look_for_workers()
            time.sleep(_LOOK)
        files.make_directory(self.directory)
        files.write_text(self.token, self.id)
        try:
            found = self.look()
            problems = [problem for name, one in found.items() if (problem := self.problem(name, one))]
            if problems:
                more = f" (and {len(problems) - 1} more workers)" if len(problems) > 1 else ""
                raise InputError(problems[0] + more)
            for line in _notes(found):
                self.tell(line)
        except BaseException:
            self.forget()
            raise

    def look(self) -> dict[str, Any]:
        """What every worker says of itself, or the exception that it raises."""
        try:
            found: dict[str, Any] = self.client.run(_look, str(self.token), on_error="return")
        except (OSError, TimeoutError):
            raise self.gone() from None
        return found

    def problem(self, worker: str, found: Any) -> str:
        """What makes a worker unusable, "" if nothing does."""
        if not isinstance(found, dict):
            return f"worker {worker}: cannot run bbdfield {_version()} ({_line(found)}); install it there, or remove it"
        theirs = found["versions"]["bbdfield"]
        if theirs != _version():
            return f"worker {worker}: has bbdfield {theirs} and this process {_version()}; install the same version"
        if found["problem"]:
            return (
                f"worker {worker}: {found['problem']} {self.directory} on {found['host']}; give a directory that all "
                "workers share"
            )
        return ""

    def forget(self) -> None:
        with suppress(OSError):
            self.token.unlink(missing_ok=True)

    # while they run

    def outcomes(self) -> Iterator[Outcome]:
        self.submit(self.tasks)
        while self.pending:
            if not self.stopping and interrupts.asked():
                self.stopping = True
                ask_to_stop(self.stops)
            try:
                key = self.came.get(timeout=_LOOK)
            except queue.Empty:
                self.look_for_workers()
                continue
            task, future = self.pending[key]
            outcome = self.result(task, future)
            if outcome is None:  # lost with the worker that held it; the scheduler has it computed again
                future.add_done_callback(self.note)
                continue
            del self.pending[key]
            future.release()
            if self.is_to_be_tried_again(task, outcome):
                self.submit([task], self.usable_workers())
            elif outcome.kind_of_failure == _UNUSABLE:
                yield failed(task, WORKER, outcome.reason)
            else:
                yield outcome

    def is_to_be_tried_again(self, task: Task, outcome: Outcome) -> bool:
        """Whether the worker was at fault, and not too often: one that joined late was not looked at, say."""
        if outcome.status == INTERRUPTED:
            fault = not self.stopping and not task.stop.exists()
        else:
            fault = outcome.kind_of_failure == _UNUSABLE
        self.tries[task.name] = self.tries.get(task.name, 0) + fault
        return fault and self.tries[task.name] < _TRIES

    def usable_workers(self) -> list[str]:
        found = self.look()
        problems = {name: self.problem(name, one) for name, one in found.items()}
        for problem in {problem for problem in problems.values() if problem} - self.told:
            self.told.add(problem)
            self.tell(problem)
        return [name for name, problem in problems.items() if not problem]

    def submit(self, tasks: Sequence[Task], workers: Sequence[str] = ()) -> None:
        keys = [f"bbdfield-{self.id}-{uuid.uuid4().hex[:8]}-{task.name}" for task in tasks]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a batch is large
            futures = self.client.map(
                _run,
                tasks,
                [(str(self.token), _version(), sys.argv)] * len(tasks),
                key=keys,
                pure=False,
                batch_size=_BATCH,
                workers=list(workers) or None,
            )
        self.pending |= {key: (task, future) for key, task, future in zip(keys, tasks, futures, strict=True)}
        for future in futures:
            future.add_done_callback(self.note)

    def note(self, future: Future[Outcome]) -> None:
        self.came.put(str(future.key))

    def result(self, task: Task, future: Future[Outcome]) -> Outcome | None:
        """What became of a task; None while it has to be computed again."""
        from distributed.scheduler import KilledWorker

        if future.cancelled():
            raise self.gone()
        try:
            outcome: Outcome = future.result(timeout=_ANSWER)
            return outcome
        except KilledWorker as error:
            deaths = getattr(error, "allowed_failures", 0) + 1
            reason = (
                f"its worker was lost{f' {deaths} times' if deaths > 1 else ''}, perhaps for lack of memory; use a "
                "smaller point or workers with more memory, then --retry-failed"
            )
            # The scheduler blames all points that it had given to the worker; the one that ran has left its name.
            begun = (task.directory / files.WRITER).exists()
            return failed(task, WORKER, reason) if begun else Outcome(task.name, FAILED, reason, _UNUSABLE)
        except TimeoutError:
            return None
        except Exception as error:
            if future.cancelled() or self.client.status != "running":
                raise self.gone() from None
            reason = f"no worker could run it ({_line(error)}); check the workers' installation"
            return Outcome(task.name, FAILED, reason, _UNUSABLE)

    def look_for_workers(self) -> None:
        """Now and then, whether there is anybody left to do the work."""
        now = time.monotonic()
        if now - self.looked < _LOOK_AT_WORKERS:
            return
        self.looked = now
        if self.workers():
            self.alive = now
        elif now - self.alive > self.patience:
            raise NumericsError(
                f"{self.address}: no worker for {self.patience:.0f} s; start workers (dask worker) and go on with "
                "--resume, nothing that was saved is lost"
            )

    def workers(self) -> Mapping[str, int]:
        """Threads of every worker."""
        try:
            scheduler: Any = self.client.scheduler
            found: Mapping[str, int] = self.client.sync(scheduler.ncores, callback_timeout=_ANSWER)
        except (OSError, TimeoutError, AttributeError, RuntimeError):
            raise self.gone() from None
        return found

    def gone(self) -> NumericsError:
        return NumericsError(
            f"{self.address}: the scheduler has gone, or has dropped this sweep; start it again and go on with "
            "--resume, nothing that was saved is lost"
        )

    def close(self) -> None:
        """Leave nothing of this sweep to run."""
        if not self.pending:
            return
        with suppress(KeyboardInterrupt):
            ask_to_stop(self.stops)
        with suppress(Exception):
            self.client.cancel([future for _, future in self.pending.values()])


# in the client


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    """A connection to the scheduler."""
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            f'--scheduler: {error.name or "dask.distributed"} is not installed; install "bbdfield[distributed]"'
        ) from error

    class Connection(Client):
        def __init__(self, **arguments: Any) -> None:
            try:
                super().__init__(**arguments)
            except BaseException:  # or it waits for an answer once more, and complains, whenever it is collected
                self.close(timeout=_ANSWER)
                raise

    where = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # versions are compared where they matter, by `_notes`
            client = Connection(**where, timeout=_ANSWER, set_as_default=False, name="bbdfield")
    except Exception as error:
        reason = f"no scheduler answers ({_line(error)})"
        raise InputError(f"--scheduler {address}: {reason}; give the address of one, tcp://HOST:PORT") from None
    try:
        yield client
    finally:
        with suppress(Exception):
            client.close(timeout=_ANSWER)


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines, let alone tracebacks, of libraries: what matters is said in one line by the sweep itself."""
    with suppress(ImportError):
        import distributed  # noqa: F401  (it sets the levels of its loggers)
    names = ["distributed", "tornado", "asyncio"]
    loggers = [
        logger
        for name, logger in list(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in names
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _notes(found: Mapping[str, Any]) -> Iterator[str]:
    """What is odd with the workers, in a line each."""
    threads = [name for name, one in found.items() if one["threads"] > 1]
    if threads:
        yield (
            f"worker {threads[0]}: its {found[threads[0]]['threads']} threads take turns, one point at a time; start "
            "workers with --nthreads 1, as many as there are CPUs"
        )
    here = _versions()
    for package in ("python", "numpy", "numba", "scipy"):
        others = [(name, one["versions"][package]) for name, one in found.items() if one["versions"] != here]
        for name, theirs in others[:1]:
            if theirs != here[package]:
                yield f"worker {name}: has {package} {theirs} and this process {here[package]}; last digits may differ"


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _versions() -> dict[str, str]:
    """Of what can change a number."""
    versions = {package: package_version(package) for package in PACKAGES}
    return versions | {"python": platform.python_version(), "bbdfield": _version()}


def _version() -> str:
    from bbdfield._version import __version__

    return __version__


# in a worker


def _look(token: str, dask_worker: Any = None) -> dict[str, Any]:
    """What the worker is and whether it can read and write where the points will be."""
    problem = _sees(token)
    if not problem:
        mine = Path(f"{token}-{uuid.uuid4().hex}")
        try:
            mine.touch()
            mine.unlink()
        except OSError as error:
            problem = f"cannot write ({error.strerror}) into"
    return {
        "versions": _versions(),
        "problem": problem,
        "host": platform.node(),
        "threads": dask_worker.state.nthreads,
    }


def _sees(token: str) -> str:
    """What is wrong with the directory of the points here, "" if nothing."""
    try:
        same = token.endswith(Path(token).read_text(encoding="utf-8"))
    except OSError:
        same = False
    return "" if same else "does not see"


def _run(task: Task, expected: tuple[str, str, list[str]]) -> Outcome:
    """`run_point`, one at a time in this process, until the scheduler no longer wants it.

    expected : a file that the worker must see, and the version of bbdfield: it may have joined after the check; and the
        command of the sweep, which the point's record is to name rather than the worker's.
    """
    unwanted, (token, version, command) = _unwanted(), expected
    while not _turn.acquire(timeout=1.0):
        if unwanted() or task.stop.exists():
            return Outcome(task.name, INTERRUPTED, "it had not begun")
    try:
        if _version() != version:
            raise RuntimeError(f"it has bbdfield {_version()}, not {version}")
        if _sees(token):
            raise RuntimeError(f"it does not see {Path(token).parent}, or the sweep has ended")
        interrupts.follow(unwanted)
        own, sys.argv = sys.argv, command
        try:
            return run_point(task)
        finally:
            sys.argv = own
            interrupts.unfollow(unwanted)
    finally:
        _turn.release()


def _unwanted() -> Callable[[], bool]:
    """Whether the task of this thread was cancelled: by the end of its client, say, which may have been killed."""
    from distributed import Status, get_worker

    worker: Any = get_worker()
    key = worker.get_current_task()

    def answer() -> bool:
        state = worker.state.tasks.get(key)
        ended = worker.status in (Status.closed, Status.closing, Status.failed)
        return ended or state is None or state.state in ("cancelled", "resumed", "released")

    return answer
