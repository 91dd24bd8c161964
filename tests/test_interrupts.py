"""Ctrl-C: once to save and stop, twice to stop at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bbdfield import interrupts

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _python_takes_interrupts():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_interrupt_is_only_noted(capfd):
    with pytest.raises(interrupts.Stopped), interrupts.deferred():
        assert not interrupts.asked()
        signal.raise_signal(signal.SIGINT)
        assert interrupts.asked()
        interrupts.check()  # not here: whoever deferred it stops at a better moment
        raise interrupts.Stopped
    assert "finishing the current snapshot; Ctrl-C again stops at once" in capfd.readouterr().err
    assert not interrupts.asked() and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_interrupt_stops_at_once():
    with pytest.raises(KeyboardInterrupt) as caught, interrupts.deferred():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")
    assert not isinstance(caught.value, interrupts.Stopped) and not interrupts.asked()


def test_a_late_interrupt_is_not_lost():
    with pytest.raises(interrupts.Stopped), interrupts.deferred():
        signal.raise_signal(signal.SIGINT)


def test_the_outermost_decides():
    with pytest.raises(interrupts.Stopped), interrupts.deferred():
        with interrupts.deferred():
            signal.raise_signal(signal.SIGINT)
        assert interrupts.asked()
        raise interrupts.Stopped


def test_an_ignored_interrupt_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts.deferred():
        signal.raise_signal(signal.SIGINT)
        assert not interrupts.asked()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_changes_nothing():
    seen = []

    def body() -> None:
        with interrupts.deferred():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_a_source_is_followed():
    stop = [False]

    def source() -> bool:
        return stop[0]

    interrupts.follow(source)
    try:
        interrupts.check()
        stop[0] = True
        with pytest.raises(interrupts.Stopped):
            interrupts.check()
        with pytest.raises(interrupts.Stopped), interrupts.deferred():
            interrupts.check()
            raise interrupts.Stopped
    finally:
        interrupts.unfollow(source)
    assert not interrupts.asked()


STUDY = """
kind = "continuum"
[lattice]
depth = 4
width = 10
channels = 2
radius = "3/20"
[training]
steps = 1000000
batch = 4
rates = { w = 1.0, b = 0.1, r = 0.1 }
snapshot_every = 2000
probe = 1
evaluate = 0
backend = "numpy"
"""


#: `bbdfield` as in a terminal: a shell makes background jobs ignore interrupts, and children would inherit that
IN_TERMINAL = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from bbdfield.cli import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.parametrize("presses", [1, 2])
def test_training_finishes_its_snapshot_unless_pressed_again(tmp_path, presses):
    """Snapshots are so far apart that the second press comes before the next one."""
    steps = 2000 if presses == 1 else 10**6
    (tmp_path / "study.toml").write_text(STUDY.replace("snapshot_every = 2000", f"snapshot_every = {steps}"))
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, "train", "study.toml", "--out", "run.h5"],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    from bbdfield.storage import Trajectory

    def snapshots() -> list[int]:
        with Trajectory(tmp_path / "run.h5") as file:
            return file.step.tolist()

    try:
        deadline = time.monotonic() + 60
        while not ((tmp_path / "run.h5").exists() and snapshots()) and time.monotonic() < deadline:
            time.sleep(0.05)
        before = snapshots()
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "finishing the current snapshot" not in process.stderr.readline():
            assert process.poll() is None
        if presses == 2:
            process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130 and "Traceback" not in rest
    finally:
        process.kill()
        process.communicate()
    assert "go on with: bbdfield train --resume study.toml --out run.h5" in rest
    with Trajectory(tmp_path / "run.h5") as file:
        assert not file.complete
    assert len(snapshots()) > len(before) if presses == 1 else snapshots() == before == [0]
    assert not os.path.exists(tmp_path / "run.h5.part")
