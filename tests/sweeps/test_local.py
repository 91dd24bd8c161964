"""Points in local processes: the same bits as in this one, whatever happens to the workers."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bbdfield import interrupts
from bbdfield.errors import NumericsError
from bbdfield.sweeps import local
from bbdfield.sweeps.local import run_local
from bbdfield.sweeps.point import Task, run_point

ROOT = Path(__file__).parents[2]


def worker_of(task: Task) -> int:
    """Process that runs a point or ran it; 0 before it has begun."""
    with suppress(OSError, ValueError):
        return json.loads((task.directory / "run.json").read_text())["process"]["pid"]
    return 0


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_bits_as_in_this_process(tasks, content, workers):
    there, here = tasks(3), tasks(3, folder="here")
    outcomes = list(run_local(there, workers, threads=1))
    assert sorted((one.name, one.status) for one in outcomes) == [(f"p{k}", "finished") for k in range(3)]
    for one, other in zip(there, here, strict=True):
        run_point(other)
        assert content(one.directory) == content(other.directory)
    pids = {worker_of(task) for task in there}
    assert len(pids) <= workers and os.getpid() not in pids
    assert not any(is_alive(pid) for pid in pids), "nobody is left"


def test_a_failing_point_costs_nobody_else(tasks):
    good, (bad,) = tasks(3), tasks(1, "initial.bias=1e200", folder="bad")
    outcomes = list(run_local([good[0], bad, *good[1:]], 2))
    assert sorted(one.status for one in outcomes) == ["failed", "finished", "finished", "finished"]
    assert next(one for one in outcomes if one.status == "failed").kind_of_failure == "numerics"


def test_nothing_to_do(tasks):
    assert list(run_local([], 2)) == [] and not multiprocessing.active_children()


def test_a_slow_reader_keeps_no_worker_waiting(tasks, until):
    several = tasks(4)
    outcomes = run_local(several, 1)
    next(outcomes)
    until(lambda: all((task.directory / "scores.json").exists() for task in several))
    assert len(list(outcomes)) == 3


def test_waiting_costs_next_to_nothing(tasks, endless, until):
    (task,) = tasks(1, *endless)
    quick = tasks(1, folder="quick")
    outcomes = run_local([*quick, task], 2)
    next(outcomes)
    until(lambda: worker_of(task))
    before = time.process_time()
    with stopping(lambda: time.sleep(2.0)):
        assert next(outcomes).status == "interrupted"
    assert time.process_time() - before < 0.2


@contextmanager
def stopping(begin: Callable[[], object]) -> Iterator[None]:
    """Ask this process to stop when `begin` returns in another thread."""
    asked = threading.Event()

    def ask() -> None:
        begin()
        asked.set()

    thread = threading.Thread(target=ask)
    interrupts.follow(asked.is_set)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        interrupts.unfollow(asked.is_set)


def test_asked_to_stop_what_runs_saves_and_the_rest_does_not_begin(tasks, endless, until):
    several = tasks(5, *endless)
    with stopping(lambda: until(lambda: all(worker_of(task) for task in several[:2]))):
        outcomes = list(run_local(several, 2))
    assert {one.status for one in outcomes} == {"interrupted"} and len(outcomes) == 5
    assert [task.directory.exists() for task in several] == [True, True, False, False, False]
    assert several[0].stop.exists() and not multiprocessing.active_children()


def test_where_no_stop_file_can_be_made_all_stop_at_once(tasks, endless, until):
    (task,) = tasks(1, *endless)
    task.stop.mkdir()
    task.stop.rmdir()
    task = Task(task.name, task.config_toml, task.directory, task.stop / "none" / ".stop")
    with stopping(lambda: until(lambda: worker_of(task))), pytest.raises(KeyboardInterrupt):
        list(run_local([task], 1))
    assert not is_alive(worker_of(task))


def test_closing_kills_the_workers_at_once(tasks, endless, until):
    (quick,), several = tasks(1, folder="quick"), tasks(3, *endless)
    outcomes = run_local([quick, *several], 2)
    assert next(outcomes).name == "p0"
    until(lambda: worker_of(several[0]) and worker_of(several[1]))
    outcomes.close()
    assert not any(is_alive(worker_of(task)) for task in several)
    assert not several[2].directory.exists() and not several[0].stop.exists()


# ---- workers that die


def killing(task: Task, until: Callable[..., None], times: int, number: int = signal.SIGKILL) -> threading.Thread:
    """Kill the worker that runs a point as often as given, once it has saved something."""

    def kill() -> None:
        killed = [0]
        for _ in range(times):
            until(lambda: worker_of(task) not in killed and list(task.directory.glob("*.h5*")))
            killed.append(worker_of(task))
            os.kill(killed[-1], number)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_killed_worker_costs_nothing(tasks, content, until):
    long = ("training.steps=300", "training.snapshot_every=10")
    several, (whole,) = tasks(3, *long), tasks(1, *long, folder="whole")
    thread = killing(several[0], until, 1)
    outcomes = list(run_local(several, 2))
    thread.join()
    assert sorted((one.name, one.status) for one in outcomes) == [(f"p{k}", "finished") for k in range(3)]
    run_point(whole)
    assert content(several[0].directory) == content(whole.directory)
    assert json.loads((several[0].directory / "run.json").read_text())["earlier"], "it was tried again"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, "its worker was killed (signal 9) twice, perhaps for lack of memory; "),
        (signal.SIGSEGV, "its worker was killed (signal 11) twice; "),
    ],
)
def test_a_point_that_kills_its_workers_fails_alone(tasks, endless, until, number, reason):
    (deadly,), others = tasks(1, *endless, folder="deadly"), tasks(2)
    thread = killing(deadly, until, 2, number)
    outcomes = {one.name if one.status == "finished" else "deadly": one for one in run_local([deadly, *others], 1)}
    thread.join()
    assert set(outcomes) == {"deadly", "p0", "p1"}
    outcome = outcomes["deadly"]
    assert (outcome.status, outcome.kind_of_failure) == ("failed", "worker") and outcome.reason.startswith(reason)
    record = json.loads((deadly.directory / "failed.json").read_text())
    assert (record["reason"], record["class"]) == (outcome.reason, "worker")


def test_an_idle_worker_may_die(tasks, endless, until):
    (quick,), (long,) = tasks(1, folder="quick"), tasks(1, *endless)
    outcomes = run_local([quick, long], 2)
    assert next(outcomes).status == "finished"
    idle = worker_of(quick)
    until(lambda: worker_of(long))
    os.kill(idle, signal.SIGKILL)
    until(lambda: not is_alive(idle))
    with stopping(lambda: None):
        assert [one.status for one in outcomes] == ["interrupted"]
    assert not (long.directory / "failed.json").exists()


def test_kills_at_random_instants_neither_lose_nor_hang_anything(tasks, content, monkeypatch):
    """While a worker starts, is told, computes, answers or waits."""
    monkeypatch.setattr(local, "_STILLBORN", 10**6)
    monkeypatch.setattr(local, "_TRIES", 10**6)
    several, here = tasks(8), tasks(8, folder="here")
    rng, over, killed = random.Random(1), threading.Event(), []

    def kill() -> None:
        while len(killed) < 12 and not over.wait(rng.uniform(0.0, 0.8)):
            children = [child.pid for child in multiprocessing.active_children() if child.name == "sweep"]
            if children:
                killed.append(rng.choice(children))
                with suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    outcomes = list(run_local(several, 2))
    over.set()
    thread.join()
    assert killed and sorted((one.name, one.status) for one in outcomes) == [(f"p{k}", "finished") for k in range(8)]
    for one, other in zip(several, here, strict=True):
        run_point(other)
        assert content(one.directory) == content(other.directory)


def test_processes_that_cannot_start_are_said(tasks, monkeypatch):
    def refuse(self: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", refuse)
    with pytest.raises(NumericsError, match=r"no worker process can be started \(Resource temporarily unavailable\)"):
        list(run_local(tasks(2), 2))


def test_with_fewer_processes_than_wanted_it_goes_on(tasks, monkeypatch):
    start, started = multiprocessing.context.SpawnProcess.start, []

    def refuse_the_second(self: multiprocessing.context.SpawnProcess) -> None:
        if started:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        started.append(start(self))

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", refuse_the_second)
    assert [one.status for one in run_local(tasks(3), 2)] == ["finished"] * 3


# ---- from outside: signals to the parent, or to the whole process group

SCRIPT = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes background jobs ignore it
from bbdfield import interrupts
from bbdfield.sweeps.local import run_local
from bbdfield.sweeps.point import Task

def main():
    folder = Path(sys.argv[1])
    tasks = [Task(path.stem, path.read_text(), folder / "points" / path.stem, folder / ".stop")
             for path in sorted(folder.glob("p*.toml"))]
    with interrupts.deferred():
        for outcome in run_local(tasks, 2):
            print(outcome.name, outcome.status, flush=True)

GUARD
    main()
"""


@contextmanager
def sweeping(folder: Path, tasks: list[Task], guard: str) -> Iterator[subprocess.Popen[str]]:
    (folder / "sweep.py").write_text(SCRIPT.replace("GUARD", guard))
    for task in tasks:
        (folder / f"{task.name}.toml").write_text(task.config_toml)
    process = subprocess.Popen(
        [sys.executable, str(folder / "sweep.py"), str(folder)],
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


GUARD = 'if __name__ == "__main__":'


def test_workers_end_with_a_parent_that_was_killed_and_the_points_go_on(tasks, endless, until, tmp_path):
    several = tasks(3, *endless)
    with sweeping(tmp_path, several, GUARD) as process:
        until(lambda: worker_of(several[0]) and worker_of(several[1]))
        workers = [worker_of(task) for task in several[:2]]
        process.kill()
        with stopping(lambda: until(lambda: worker_of(several[0]) not in workers)):
            outcomes = list(run_local(several[:2], 2))  # resumed at once; it waits for whoever still holds the lock
        until(lambda: not any(map(is_alive, workers)))
    assert [one.status for one in outcomes] == ["interrupted"] * 2
    assert not several[2].directory.exists()


@pytest.mark.parametrize("presses", [1, 2])
def test_interrupts_from_the_keyboard_are_the_parents_alone(tasks, endless, until, tmp_path, presses):
    """Once: all save and stop; twice: all are gone at once. No worker says a word."""
    steps = endless if presses == 1 else ("training.steps=100000", "training.snapshot_every=50000")
    several = tasks(3, *steps)
    with sweeping(tmp_path, several, GUARD) as process:
        until(lambda: all(list(task.directory.glob("*.h5*")) for task in several[:2]))
        workers = [worker_of(task) for task in several[:2]]
        os.killpg(process.pid, signal.SIGINT)
        if presses == 2:
            until(lambda: (tmp_path / ".stop").exists())
            os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert not any(map(is_alive, workers))
    assert process.returncode != 0 and err.count("Traceback") == 1, "the script's own, which catches nothing"
    lines = sorted(out.split("\n")[:-1])
    interrupted = [f"p{k} interrupted" for k in range(3)]
    assert lines == interrupted if presses == 1 else set(lines) <= set(interrupted)  # of those that had not begun


def test_a_script_without_a_guard_is_told_so(tasks, tmp_path):
    with sweeping(tmp_path, tasks(1), "if True:") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.rstrip().splitlines()[-1].endswith('guard its main part with if __name__ == "__main__"')
