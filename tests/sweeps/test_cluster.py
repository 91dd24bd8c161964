"""Points on a Dask cluster: a real scheduler and real workers, each a process of its own, on loopback."""

from __future__ import annotations

import gc
import json
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from bbdfield import interrupts
from bbdfield.errors import InputError, NumericsError
from bbdfield.sweeps.cluster import run_on_cluster
from bbdfield.sweeps.local import run_local
from bbdfield.sweeps.point import Task

ROOT = Path(__file__).parents[2]


class Cluster:
    """Its processes end with the test."""

    def __init__(self, folder: Path, until: Callable[[Callable[[], object]], None], **settings: str) -> None:
        self.folder, self.until, self.processes = folder, until, []
        self.file, self.settings = folder / "scheduler.json", settings
        self.scheduler = self._start("dask_scheduler", "--port", "0", "--scheduler-file", str(self.file))
        until(lambda: self.address)

    @property
    def address(self) -> str:
        with suppress(OSError, ValueError):
            return json.loads(self.file.read_text())["address"]
        return ""

    def worker(self, *options: str, nanny: bool = False, path: Path = ROOT) -> subprocess.Popen[bytes]:
        """One more worker, which has announced itself to the scheduler."""
        log = self.folder / f"worker-{len(self.processes)}"
        given = ["--nthreads", "1", *options] if "--nthreads" not in options else list(options)
        alone = [] if nanny else ["--no-nanny"]
        started = self._start("dask_worker", self.address, *given, *alone, "--death-timeout", "60", path=path, log=log)
        self.until(lambda: b"Registered to" in log.read_bytes())
        return started

    def _start(self, program: str, *arguments: str, path: Path = ROOT, log: Path | None = None) -> Any:
        command = [sys.executable, "-m", f"distributed.cli.{program}", *arguments, "--no-dashboard"]
        with open(log or self.folder / "scheduler", "wb") as file:
            process = subprocess.Popen(
                [*command, "--host", "127.0.0.1"],
                cwd=self.folder,  # not the tests' own: paths must be absolute
                env={**os.environ, "PYTHONPATH": str(path), **self.settings},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, until: Any) -> Iterator[Callable[..., Cluster]]:
    """Start a scheduler, with settings of Dask as environment variables."""
    with ExitStack() as stack:

        def start(**settings: str) -> Cluster:
            started = Cluster(tmp_path_factory.mktemp("cluster"), until, **settings)
            stack.callback(started.close)
            return started

        yield start


def worker_of(task: Task) -> int:
    """Process that runs a point or ran it; 0 before it has begun."""
    with suppress(OSError, ValueError):
        return json.loads((task.directory / "run.json").read_text())["process"]["pid"]
    return 0


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[threading.Event]:
    """Do something in another thread; the event is set when it is done."""
    done = threading.Event()
    thread = threading.Thread(target=lambda: (act(), done.set()))
    thread.start()
    try:
        yield done
    finally:
        thread.join()


def test_the_same_bits_as_in_local_processes_and_one_outcome_each(tasks, content, cluster, capfd):
    started = cluster()
    workers = [started.worker(), started.worker()]
    good, (bad,), here = tasks(3), tasks(1, "initial.bias=1e200", folder="bad"), tasks(3, folder="here")
    told: list[str] = []
    outcomes = list(run_on_cluster([*good[:2], bad, good[2]], started.address, say=told.append))
    assert sorted(one.status for one in outcomes) == ["failed", "finished", "finished", "finished"]
    assert [one.status for one in run_local(here, 2)] == ["finished"] * 3
    for one, other in zip(good, here, strict=True):
        assert content(one.directory) == content(other.directory)
    assert {worker_of(task) for task in good} <= {worker.pid for worker in workers}
    commands = {json.loads((task.directory / "run.json").read_text())["command"] for task in good}
    assert commands == {shlex.join(sys.argv)}, "of the sweep, not of a worker"
    assert json.loads((bad.directory / "failed.json").read_text())["class"] == "numerics"
    assert not list(good[0].directory.parent.glob(".cluster-*")), "nothing is left of the check"
    assert told == [] and capfd.readouterr().err == ""
    assert logging.getLogger("distributed").level <= logging.CRITICAL, "quiet during the sweep only"

    # from the file of the scheduler, two sweeps at once: of other directories, and of points with the same names
    two, three = tasks(2, folder="two"), tasks(2, folder="three")
    first, second = run_on_cluster(two, str(started.file)), run_on_cluster(three, started.address)
    found = [next(first), next(second), *first, *second]
    assert [one.status for one in found] == ["finished"] * 4
    for one in (*two, *three):
        assert content(one.directory) == content(here[int(one.name[1])].directory)


def test_a_killed_worker_costs_nothing(tasks, content, cluster, until):
    started = cluster()
    started.worker()
    started.worker()
    long = ("training.steps=200", "training.snapshot_every=10")
    several, (whole,) = tasks(3, *long), tasks(1, *long, folder="whole")

    def kill() -> None:
        until(lambda: list(several[0].directory.glob("*.h5*")))
        os.kill(worker_of(several[0]), signal.SIGKILL)

    with meanwhile(kill):
        outcomes = list(run_on_cluster(several, started.address))
    assert sorted((one.name, one.status) for one in outcomes) == [(f"p{k}", "finished") for k in range(3)]
    assert json.loads((several[0].directory / "run.json").read_text())["earlier"], "another worker went on with it"
    list(run_local([whole], 1))
    assert content(several[0].directory) == content(whole.directory)


def test_a_point_that_kills_its_workers_fails_alone(tasks, endless, cluster, until):
    started = cluster(DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0")
    started.worker()
    started.worker()
    (deadly,), others = tasks(1, *endless, folder="deadly"), tasks(2)

    def kill() -> None:
        until(lambda: list(deadly.directory.glob("*.h5*")))
        os.kill(worker_of(deadly), signal.SIGKILL)

    with meanwhile(kill):
        outcomes = list(run_on_cluster([deadly, *others], started.address))
    assert sorted(one.status for one in outcomes) == ["failed", "finished", "finished"]
    record = json.loads((deadly.directory / "failed.json").read_text())
    assert record["class"] == "worker" and record["reason"].startswith(
        "its worker was lost, perhaps for lack of memory"
    )


def test_threads_of_one_worker_take_turns(tasks, content, cluster):
    started = cluster()
    started.worker("--nthreads", "3")
    several, told = tasks(4), []
    assert [one.status for one in run_on_cluster(several, started.address, say=told.append)] == ["finished"] * 4
    assert len(told) == 1 and "its 3 threads take turns" in told[0] and "--nthreads 1" in told[0]
    here = tasks(4, folder="here")
    list(run_local(here, 2))
    assert [content(task.directory) for task in several] == [content(task.directory) for task in here]


def test_stopping_once_and_closing_early(tasks, endless, cluster, until):
    started = cluster()
    worker = started.worker()
    several = tasks(3, *endless)
    with meanwhile(lambda: until(lambda: worker_of(several[0]))) as begun:
        interrupts.follow(begun.is_set)
        try:
            outcomes = list(run_on_cluster(several, started.address))
        finally:
            interrupts.unfollow(begun.is_set)
    assert [one.status for one in outcomes] == ["interrupted"] * 3 and several[0].stop.exists()
    assert not several[1].directory.exists() and not several[2].directory.exists()
    several[0].stop.unlink()

    (quick,), others = tasks(1, folder="quick"), tasks(2, *endless, folder="others")
    running = run_on_cluster([quick, *others], started.address)
    assert next(running).status == "finished"
    until(lambda: worker_of(others[0]) and list(others[0].directory.glob("*.h5*")))
    running.close()
    assert others[0].stop.exists()
    others[0].stop.unlink()  # as the sweep does when it ends; what was cancelled stops all the same
    (after,) = tasks(1, folder="after")
    assert [one.status for one in run_on_cluster([after], started.address)] == ["finished"], "the worker is free again"
    assert not others[1].directory.exists() and worker.poll() is None


SCRIPT = """
import sys
from pathlib import Path
from bbdfield.sweeps.cluster import run_on_cluster
from bbdfield.sweeps.point import Task
folder, address = Path(sys.argv[1]), sys.argv[2]
task = Task("p0", (folder / "p0.toml").read_text(), folder / "points" / "p0", folder / ".stop")
list(run_on_cluster([task], address))
"""


def test_points_of_a_killed_sweep_stop_and_a_resumed_one_goes_on(tasks, endless, cluster, until, tmp_path):
    started = cluster()
    started.worker()
    started.worker()
    (task,) = tasks(1, *endless)
    (tmp_path / "p0.toml").write_text(task.config_toml)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), started.address]
    with subprocess.Popen(command, env={"PYTHONPATH": str(ROOT)}) as sweep:
        until(lambda: list(task.directory.glob("*.h5*")))
        sweep.kill()
    before = (task.directory / "run.json").read_bytes()

    def resumed() -> bool:
        return (task.directory / "run.json").read_bytes() != before

    with meanwhile(lambda: until(resumed)) as again:
        interrupts.follow(again.is_set)
        try:
            outcomes = list(run_on_cluster([task], started.address))
        finally:
            interrupts.unfollow(again.is_set)
    assert [one.status for one in outcomes] == ["interrupted"], "it waited for the lock rather than fail"


# ---- what is refused, and what is lost


def test_no_scheduler(tasks, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("bbdfield.sweeps.cluster._ANSWER", 1.0)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        (tmp_path / "none.json").write_text("{}")
        for address in (nobody, "abacus://here", "no host", str(tmp_path / "none.json")):
            with pytest.raises(InputError) as refused:
                list(run_on_cluster(tasks(1), address))
            line = str(refused.value)
            assert line.startswith(f"--scheduler {address}: no scheduler answers (") and "\n" not in line
            # one that is still open would wait for an answer, and complain, when Python ends
            assert {each.status for each in gc.get_objects() if type(each) is Client} <= {"closed"}
    assert capfd.readouterr().err == "" and not (tmp_path / "points").exists()


def test_without_dask(tasks, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r'distributed is not installed; install "bbdfield\[distributed\]"'):
        list(run_on_cluster(tasks(1), "tcp://127.0.0.1:1"))


def test_workers_of_another_version_or_place_are_named(tasks, cluster, tmp_path, monkeypatch):
    started = cluster()
    started.worker()
    (task,) = tasks(1)
    monkeypatch.setattr("bbdfield.sweeps.cluster._version", lambda: "0.0.1")
    with pytest.raises(InputError, match=r"worker tcp://127\.0\.0\.1:\d+: has bbdfield .* and this process 0\.0\.1; "):
        list(run_on_cluster([task], started.address))
    monkeypatch.undo()
    monkeypatch.setattr("bbdfield.files.write_text", lambda path, text: None)
    with pytest.raises(InputError, match=r"worker tcp://127\.0\.0\.1:\d+: does not see .*points on "):
        list(run_on_cluster([task], started.address))
    assert not task.directory.exists()
    monkeypatch.undo()
    old = tmp_path / "old" / "bbdfield"
    old.mkdir(parents=True)
    (old / "__init__.py").write_text('__version__ = "0.0.0"\n')
    started.worker(path=old.parent)
    with pytest.raises(InputError, match=r"worker tcp://127\.0\.0\.1:\d+: cannot run bbdfield .*No module named"):
        list(run_on_cluster([task], started.address))
    assert not task.directory.exists()


def test_no_worker_left(tasks, endless, cluster, until):
    started = cluster()
    with pytest.raises(NumericsError, match=r"no worker for 0 s; start workers"):
        list(run_on_cluster(tasks(1), started.address, patience=0.0))
    worker = started.worker()
    (task,) = tasks(1, *endless)
    running = meanwhile(lambda: (until(lambda: worker_of(task)), worker.kill()))
    with running, pytest.raises(NumericsError, match="nothing that was saved is lost"):
        list(run_on_cluster([task], started.address, patience=1.0))
    assert not (task.directory / "failed.json").exists()


def test_the_scheduler_goes(tasks, endless, cluster, until, monkeypatch, capfd):
    monkeypatch.setattr("bbdfield.sweeps.cluster._ANSWER", 2.0)
    started = cluster()
    started.worker()
    (task,) = tasks(1, *endless)
    running = meanwhile(lambda: (until(lambda: worker_of(task)), started.scheduler.kill()))
    with running, pytest.raises(NumericsError, match="the scheduler has gone, or has dropped this sweep"):
        list(run_on_cluster([task], started.address))
    assert not (task.directory / "failed.json").exists() and capfd.readouterr().err == ""
