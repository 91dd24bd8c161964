"""The pool of processes: an interrupt that comes while workers start is neither lost nor theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
import os, signal, subprocess, sys
from bbdfield.studies.pool import _interrupts_held
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes background jobs ignore it
ask = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
reached = []
try:
    with _interrupts_held():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True).stdout.strip())
    reached.append("lost")
except KeyboardInterrupt:
    reached.append("interrupted")
held = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
print(*reached, "still held" if held else "free again")
"""


def test_an_interrupt_while_workers_start_waits_and_is_not_theirs():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=60
    )
    assert (done.returncode, done.stdout.split()) == (0, ["True", "interrupted", "free", "again"]), done.stderr
