"""Points of a sweep in parallel processes of this machine.

Every worker has a pipe of its own and shares nothing with the others, least of all a lock: one that is killed, at
whatever instant, takes nothing with it but the point that it ran. (The pools of the standard library and of pebble
break, or stall, when a worker dies while it holds their queue.)
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from bbdfield import interrupts
from bbdfield.errors import NumericsError
from bbdfield.sweeps.point import INTERRUPTED, WORKER, Outcome, Task, failed, load, run_point

#: seconds between two looks at whether Ctrl-C was pressed
_LOOK = 0.2
#: how often a point may cost its worker
_TRIES = 2
#: how many workers in a row may die before they are ready
_STILLBORN = 5
_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def run_local(tasks: Iterable[Task], workers: int, threads: int | None = None) -> Iterator[Outcome]:
    """Run all points, in the order given where there is a choice; one outcome for each, as they finish.

    A point whose worker dies is tried once more, when the others have begun, and goes on from its last snapshot. After
    one Ctrl-C (`interrupts.asked`) the stop files of all tasks are made, so that points that run stop at their next
    snapshot and the others do not begin. Closing the iterator early kills the workers at once.

    Parameters
    ----------
    workers : processes; even a single one is not this process, which is to survive what the points do.
    threads : of compiled kernels in each of them (default: what each task says).

    Raises
    ------
    NumericsError
        when worker processes cannot be started.
    """
    crew = _Crew([task if threads is None else replace(task, threads=threads) for task in tasks], workers)
    crew.start()
    try:
        while (outcome := crew.next()) is not None:
            yield outcome
    finally:
        crew.close()


def ask_to_stop(stops: Iterable[Path]) -> None:
    """Make the stop files; where that is impossible, on a full disk, stop at once, which loses no more than a kill."""
    try:
        for stop in stops:
            stop.touch()
    except OSError:
        raise KeyboardInterrupt from None


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    task: Task | None = None


class _Crew:
    """The workers, and the thread that hands out the points: a slow reader of outcomes keeps no worker waiting."""

    def __init__(self, tasks: list[Task], workers: int) -> None:
        self._stops = {task.stop for task in tasks}
        self._stopping = False
        self._outcomes: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()
        self._waiting = deque(tasks)
        self._size = workers
        self._workers: list[_Worker] = []
        self._deaths: dict[str, list[int]] = {}  # point -> exit codes of its workers
        self._stillborn = 0
        self._context = multiprocessing.get_context("spawn")
        self._closed, self._close = self._context.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._work, name="sweep", daemon=True)

    # for the reader

    def start(self) -> None:
        self._thread.start()

    def next(self) -> Outcome | None:
        """The next outcome; None when there are no more."""
        while True:
            if not self._stopping and interrupts.asked():
                ask_to_stop(self._stops)
                self._stopping = True
            try:
                told = self._outcomes.get(timeout=_LOOK)
            except queue.Empty:
                continue
            if isinstance(told, BaseException):
                raise told
            return told

    def close(self) -> None:
        """Kill all workers, those that still run a point among them."""
        with suppress(OSError):
            self._close.send_bytes(b"close")
        self._thread.join()
        self._close.close()
        self._closed.close()

    # the thread

    def _work(self) -> None:
        last: BaseException | None = None
        try:
            while self._waiting or any(worker.task for worker in self._workers):
                self._hire()
                self._hand_out()
                pipes = [worker.pipe for worker in self._workers]
                sentinels = [worker.process.sentinel for worker in self._workers]
                signs = wait([self._closed, *pipes, *sentinels])
                if self._closed in signs:
                    break
                for worker in list(self._workers):
                    if worker.pipe in signs or worker.process.sentinel in signs:
                        self._hear(worker)
        except BaseException as error:
            last = error
        finally:
            for worker in list(self._workers):
                self._dismiss(worker)
            self._outcomes.put(last)

    def _hire(self) -> None:
        """As many workers as there is work for."""
        busy = sum(worker.task is not None for worker in self._workers)
        while len(self._workers) < min(self._size, busy + len(self._waiting)):
            try:
                self._workers.append(self._new_worker())
            except OSError as error:
                if not self._workers:
                    raise NumericsError(
                        f"no worker process can be started ({error.strerror}); free memory or processes, then resume"
                    ) from error
                self._size = len(self._workers)

    def _new_worker(self) -> _Worker:
        # Ctrl-C reaches the whole process group, but the sweep alone decides. This thread's children inherit a mask in
        # which it is blocked; the tracker comes first, because starting it takes the mask away.
        resource_tracker.ensure_running()
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs,), name="sweep", daemon=True)
        try:
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()  # or nobody would notice the end of the worker by the end of its pipe
        return _Worker(process, ours)

    def _hand_out(self) -> None:
        for worker in self._workers:
            while worker.ready and worker.task is None and self._waiting:
                task = self._waiting.popleft()
                if task.stop.exists():
                    self._outcomes.put(Outcome(task.name, INTERRUPTED, "it had not begun"))
                    continue
                with suppress(OSError):  # a dead worker; it will be noticed
                    worker.pipe.send(task)
                worker.task = task

    def _hear(self, worker: _Worker) -> None:
        """What a worker has said, or that it has died; a dead one is listened to once more."""
        dead = not worker.process.is_alive()
        try:
            while worker.pipe.poll():
                told = worker.pipe.recv()
                if told is None:
                    worker.ready, self._stillborn = True, 0
                else:
                    worker.task = None
                    self._outcomes.put(told)
        except (EOFError, OSError):
            dead = True
        if dead:
            self._bury(worker)

    def _bury(self, worker: _Worker) -> None:
        worker.process.join(1.0)  # its pipe may end a little earlier than it does
        code, task = self._dismiss(worker), worker.task
        if not worker.ready:
            self._stillborn += 1
            if self._stillborn == _STILLBORN:
                raise NumericsError(
                    f"worker processes die while they start ({_cause([code])}); free memory or, if a script runs the "
                    'sweep, guard its main part with if __name__ == "__main__"'
                )
        if task is None:
            return
        deaths = self._deaths.setdefault(task.name, [])
        deaths.append(code)
        if len(deaths) < _TRIES:
            self._waiting.append(task)
            return
        perhaps = ", perhaps for lack of memory" if -signal.SIGKILL in deaths else ""
        reason = f"its worker {_cause(deaths)}{perhaps}; use fewer workers or a smaller point, then --retry-failed"
        self._outcomes.put(failed(task, WORKER, reason))

    def _dismiss(self, worker: _Worker) -> int:
        """Kill a worker unless it has died, and return its exit code."""
        self._workers.remove(worker)
        worker.process.kill()
        worker.process.join()
        code = worker.process.exitcode or 0
        worker.process.close()
        worker.pipe.close()
        return code


def _cause(codes: list[int]) -> str:
    """Exit codes in words: of one worker, or of the two that a point has cost."""
    how = ", then ".join(dict.fromkeys(f"signal {-code}" if code < 0 else f"exit code {code}" for code in codes))
    ended = "was killed" if codes[-1] < 0 else "ended"
    return f"{ended} ({how}) twice" if len(codes) > 1 else how


def _serve(pipe: Connection) -> None:
    """A worker: run points until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ |= dict.fromkeys(_BLAS_THREADS, "1")  # libraries that are loaded from now on start no threads at all
    from bbdfield.studies.pool import exit_with_parent

    exit_with_parent()
    load()
    pipe.send(None)
    with suppress(EOFError):
        while True:
            pipe.send(run_point(pipe.recv()))
