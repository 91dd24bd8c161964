"""Independent jobs of a study in parallel processes, one thread each, which changes no bit of the result.

A job computes one trajectory, or whatever else leaves its result in the run directory. Processes are spawned: fork
after threads have started would deadlock numerical libraries.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from threadpoolctl import threadpool_limits

from bbdfield import interrupts
from bbdfield.studies.kinds import JobProgress
from bbdfield.studies.log import add_log
from solvers.threads import use_threads

Progress = Callable[[int, int, float], None]

#: seconds between two looks at whether Ctrl-C was pressed
_LOOK = 0.2


class Labelled(Protocol):
    """What can be a job: anything that can be sent to another process and has a name for the progress display."""

    @property
    def label(self) -> str: ...


Job = TypeVar("Job", bound=Labelled)
Config = TypeVar("Config")
#: (job, config, run directory, progress) -> None; a function of a module, so that another process can find it
RunJob = Callable[[Job, Config, Path, Progress | None], None]


def run_jobs(
    run_job: RunJob[Job, Config],
    jobs: Iterable[Job],
    config: Config,
    out: Path,
    workers: int,
    report: JobProgress | None,
    tell: Callable[[str], None],
) -> None:
    """Run all jobs, in the order given where there is a choice.

    Parameters
    ----------
    run_job : called with (job, config, out, progress); progress takes (steps done, steps in all, loss).
    workers : processes; 1 = this process only.
    report : called with (job's label, steps done, steps in all, loss).
    tell : with one process, gets each job's label as it starts.

    Raises
    ------
    Exception
        the first one that a job raised; the other jobs are stopped, and what they have recorded stays on disk.
    KeyboardInterrupt
        after one Ctrl-C when every running job has saved its next snapshot, after two at once.
    """
    if workers == 1:
        with threadpool_limits(1):
            for job in jobs:
                interrupts.check()
                tell(job.label)
                run_job(job, config, out, None if report is None else _labelled(report, job.label))
        return
    context = multiprocessing.get_context("spawn")
    reports, stop = context.Queue(), context.RawValue("b", 0)  # without a lock, which a killed worker might keep
    listener = threading.Thread(target=_listen, args=(reports, report), daemon=True)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (reports, stop, out))
    try:
        with _interrupts_held():
            listener.start()
            futures = [pool.submit(_work, run_job, job, config, out) for job in jobs]
        with interrupts.deferred():
            _wait(futures, stop)
    except BaseException:
        # Workers would finish their jobs first; what they have recorded is on disk already.
        for process in multiprocessing.active_children():
            process.terminate()
        reports.cancel_join_thread()  # a worker may have died with the queue's lock
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        reports.put(None)
        if listener.ident is not None:
            listener.join(timeout=5)


def _wait(futures: list[Future[None]], stop: Any) -> None:
    """Until all are done; asked to stop, until those that run have saved."""
    running = set(futures)
    while running:
        done, running = wait(running, _LOOK, FIRST_EXCEPTION)
        if interrupts.asked() and not stop.value:
            stop.value = 1
            running = {future for future in running if not future.cancel()}
        for future in done:
            if not (stop.value and isinstance(future.exception(), interrupts.Stopped)):
                future.result()
    if stop.value:
        raise interrupts.Stopped


_reports: Any = None  # in a worker: where progress goes


def _start_worker(reports: Any, stop: Any, out: Path) -> None:
    global _reports
    _reports = reports
    add_log(out)
    interrupts.follow(lambda: bool(stop.value))
    exit_with_parent()
    threadpool_limits(1)
    use_threads(1)


def exit_with_parent() -> None:
    """End this worker at once when its parent is killed, or a resumed study would find it writing there still."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(run_job: RunJob[Job, Config], job: Job, config: Config, out: Path) -> None:
    def progress(done: int, total: int, loss: float) -> None:
        interrupts.check()
        if done % 5 == 0 or done == total:
            _reports.put((job.label, done, total, loss))

    run_job(job, config, out, progress)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C reaches the whole process group, but this process alone decides.

    Children started here inherit a mask in which the interrupt is blocked for good. One that arrives meanwhile, through
    whichever thread, waits and takes effect at the end. (Where there are no masks, workers print a traceback before
    they stop.)
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    arrived: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: arrived.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if arrived:
            signal.raise_signal(signal.SIGINT)


def _labelled(report: JobProgress, label: str) -> Progress:
    return lambda done, total, loss: report(label, done, total, loss)


def _listen(reports: Any, report: JobProgress | None) -> None:
    while (message := reports.get()) is not None:
        if report:
            report(*message)
