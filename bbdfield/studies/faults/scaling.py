"""A sweep of many points on two workers against one, beside the best that the machine can do; sweeps that lose workers.

The ceiling is measured by a loop of small NumPy operations that shares nothing: two copies of it at the same time
against one. Sweeps and loops take turns, so that other work on the machine hits them alike.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbdfield.errors import NumericsError
from bbdfield.studies.faults.disk import results
from bbdfield.studies.faults.kills import fresh
from bbdfield.studies.faults.programs import PAUSE, Ended, Program, environment, members
from bbdfield.studies.faults.sweeps import sweep_toml

if TYPE_CHECKING:
    from bbdfield.studies.config import FaultsConfig
    from bbdfield.studies.kinds import Session

#: seconds of one copy of the loop; how often loops and sweeps take turns; training steps of each point
LOOP_SECONDS, TURNS, STEPS = 2.0, 2, 32
#: points of the sweeps that lose a worker
LOSING_POINTS = 8
#: exit code of a sweep with failed points
SOME_FAILED = 3

_LOOP = """
import sys, time
import numpy as np
rng = np.random.default_rng(0)
a, b = rng.standard_normal((2, 16, 12, 12))
def work(rounds):
    c = a
    for _ in range(rounds):
        c = np.tanh(c @ b) + 0.5 * c.transpose(0, 2, 1)
    return c
work(2000)
print("ready", flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    work(int(line))
    print(time.perf_counter() - began, flush=True)
"""


def time_all(config: FaultsConfig, folder: Path, session: Session) -> dict[str, Any]:
    """Speed-up, ceiling, failed points, lost workers."""
    keys = config.faults
    if not keys.points:
        return {"points": 0}
    fresh(folder)
    toml = sweep_toml(config, folder / "sweep.toml", points=keys.points, steps=STEPS, failing=keys.failing)
    ceilings, seconds = [_ceiling()], {1: list[float](), 2: list[float]()}
    ended, counted, equal = None, dict[str, int](), True
    first: dict[str, str] | None = None
    for turn in range(TURNS):
        for workers in (1, 2) if turn % 2 == 0 else (2, 1):
            out = folder / f"{workers}-{turn}"
            ended = _run(["sweep", toml, "--out", out, "--workers", workers], folder, keys.points)
            seconds[workers].append(ended.seconds)
            found = results(out)
            first = first or found
            equal = equal and found == first
            counted = _counts(out)
            session.say(f"sweep of {keys.points} points on {workers} workers: {ended.seconds:.1f} s")
            ceilings.append(_ceiling())
    assert ended is not None
    speed_up = min(seconds[1]) / min(seconds[2])
    ceiling = statistics.median(ceilings)
    return {
        "points": keys.points,
        "finished": counted.get("finished", 0),
        "failed": counted.get("failed", 0),
        "injected": keys.failing,
        "exit_code": ended.code,
        "equal": equal,
        "worker_killed": _lose_worker(config, fresh(folder / "local"), session),
        "cluster_worker_killed": _lose_cluster_worker(config, fresh(folder / "cluster"), session),
        "measured": {
            "speed_up": round(speed_up, 3),
            "ceiling": round(ceiling, 3),
            "ratio": round(speed_up / ceiling, 3),
            "seconds": {str(workers): [round(value, 2) for value in values] for workers, values in seconds.items()},
            "ceilings": [round(value, 3) for value in ceilings],
        },
    }


def _run(arguments: list[Any], folder: Path, points: int) -> Ended:
    with Program(arguments, folder / "log") as program:
        if not program.wait(120 + 10 * points):
            raise NumericsError(f"a sweep of {points} points did not end")
        ended = program.ended()
    if ended.code not in (0, SOME_FAILED):
        raise NumericsError(f"a sweep failed: {' '.join(ended.said.split())[-500:]}")
    return ended


def _counts(out: Path) -> dict[str, int]:
    import json

    return {str(key): int(value) for key, value in json.loads((out / "scores.json").read_text())["counts"].items()}


def _ceiling() -> float:
    """How many times one copy's work two copies do in the time of one; 2 if they do not get in each other's way."""
    with _loop() as one, _loop() as two:
        rounds = 10_000
        while (taken := _time([one], rounds)) < LOOP_SECONDS / 4:
            rounds *= 2
        rounds = int(rounds * LOOP_SECONDS / taken)
        before, both, after = _time([one], rounds), _time([one, two], rounds), _time([two], rounds)
        return (before + after) / both


@contextmanager
def _loop() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def _time(loops: list[subprocess.Popen[str]], rounds: int) -> float:
    """Seconds until all of them have done so many rounds."""
    began = time.perf_counter()
    for loop in loops:
        assert loop.stdin is not None
        loop.stdin.write(f"{rounds}\n")
        loop.stdin.flush()
    for loop in loops:
        assert loop.stdout is not None
        loop.stdout.readline()
    return time.perf_counter() - began


# lost workers


def _lose_worker(config: FaultsConfig, folder: Path, session: Session) -> dict[str, Any]:
    """Kill one worker process of a local sweep in the middle."""
    toml, whole = _losing(config, folder)
    with Program(["sweep", toml, "--out", folder / "out", "--workers", "2"], folder / "log") as program:
        _await_points(folder / "out", program)
        workers = [pid for pid in members(program.process.pid) if _is_worker(pid)]
        killed = bool(workers) and program.running
        if killed:
            os.kill(workers[-1], signal.SIGKILL)
        program.wait()
        code = program.ended().code
    session.say("a worker of a sweep was killed")
    return {
        "killed": int(killed),
        "exit_code": code,
        "equal": results(folder / "out") == whole,
        **_counts(folder / "out"),
    }


def _lose_cluster_worker(config: FaultsConfig, folder: Path, session: Session) -> dict[str, Any] | None:
    """Kill one of two workers of a Dask cluster on this machine; None where Dask is not installed."""
    if importlib.util.find_spec("distributed") is None:
        session.say("distributed is not installed: no cluster is tried")
        return None
    toml, whole = _losing(config, folder)
    with _cluster(folder) as (address, workers):
        command = ["sweep", toml, "--out", folder / "out", "--scheduler", address]
        with Program(command, folder / "log") as program:
            _await_points(folder / "out", program)
            killed = program.running
            os.killpg(workers[-1].pid, signal.SIGKILL)
            program.wait()
            ended = program.ended()
    session.say("a worker of a cluster was killed")
    if not (folder / "out" / "scores.json").is_file():
        return {"killed": int(killed), "exit_code": ended.code, "equal": False, "said": ended.said[-500:]}
    same = results(folder / "out") == whole
    return {"killed": int(killed), "exit_code": ended.code, "equal": same, **_counts(folder / "out")}


def _losing(config: FaultsConfig, folder: Path) -> tuple[Path, dict[str, str]]:
    """The sweep that will lose a worker, and its undisturbed results."""
    toml = sweep_toml(config, folder / "sweep.toml", points=LOSING_POINTS, steps=4 * STEPS)
    _run(["sweep", toml, "--out", folder / "whole", "--workers", "2"], folder, LOSING_POINTS)
    return toml, results(folder / "whole")


def _await_points(out: Path, program: Program) -> None:
    """Until two points are finished."""
    while program.running and len(list(out.glob("points/*/scores.json"))) < 2:
        time.sleep(PAUSE)


def _is_worker(pid: int) -> bool:
    with suppress(OSError):
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@contextmanager
def _cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers as processes on loopback: (address, workers)."""
    import json

    told, started = folder / "scheduler.json", list[subprocess.Popen[bytes]]()

    def start(module: str, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{module}", *arguments, "--no-dashboard"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
        )
        started.append(process)
        return process

    try:
        start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(told))
        deadline = time.monotonic() + 60
        while not told.exists() or not told.read_text().strip():
            if time.monotonic() > deadline:
                raise NumericsError("a Dask scheduler on loopback did not start within a minute")
            time.sleep(PAUSE)
        address = str(json.loads(told.read_text())["address"])
        worker = ("--nthreads", "1", "--nworkers", "1", "--no-nanny", "--local-directory", str(folder / "dask"))
        workers = [start("dask_worker", address, *worker) for _ in range(2)]
        yield address, workers
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
