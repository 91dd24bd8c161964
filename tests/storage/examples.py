"""A small trajectory that several tests write, damage and mend; imported by them and by the processes they start."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.storage import Trajectory, TrajectoryWriter, migrations, seal

M, N, C, T, B, CLASSES, MODES, STEPS, EVERY = 3, 5, 2, 3, 4, 3, 2, 8, 2
CONFIG: dict[str, Any] = {"depth": M, "scaling": "residual", "range": {"radius": 0.25, "tied": True}}


def description(tied: bool = True, scale: int = 1) -> dict[str, Any]:
    """Arguments of `TrajectoryWriter.create` for a small lattice; `scale` lengthens the probe set."""
    rng = np.random.default_rng(7)
    coordinates = {
        "x_site": np.arange(M + 1) / M, "x_link": (np.arange(M) + 0.5) / M, "y": (np.arange(N) + 0.5) / N,
        "u": np.linspace(-0.2, 0.2, T), "c_out": np.arange(C), "c_in": np.arange(C), "mode": np.arange(MODES),
    }  # fmt: skip
    boundary = {
        "sample_index": (("batch_step", "batch"), rng.integers(0, 9, (STEPS, 2))),
        "x": (("train_sample", "data_channel", "data_cell"), rng.normal(size=(9, 1, 6))),
        "y": (("train_sample",), rng.integers(0, CLASSES, 9)),
        "lift": (("c_out", "data_channel"), rng.normal(size=(C, 1))),
        "empty": (("nothing",), np.zeros(0)),
    }
    w = ("x_link", "c_out", "u", "c_in"), (M, C, T, C)
    untied = ("x_link", "y", "c_out", "u", "c_in"), (M, N, C, T, C)
    fields = {
        "w": w if tied else untied,
        "b": (("x_link", "y", "c_out"), (M, N, C)),
        "z": (("x_site", "y", "c_out", "sample"), (M + 1, N, C, B * scale)),
        "r": (("output", "c_out", "mode"), (CLASSES, C, MODES)),
    }
    return {
        "kind": "lattice", "config": CONFIG, "seed": 3, "coordinates": coordinates, "boundary": boundary,
        "fields": fields, "scalars": ["loss", "energy"], "evaluation": ["test_accuracy"],
    }  # fmt: skip


def state(step: int, described: dict[str, Any]) -> dict[str, np.ndarray]:
    """Fields at a step: pseudorandom, but a function of the step alone."""
    rng = np.random.default_rng(step)
    return {name: rng.normal(size=shape) for name, (_, shape) in described["fields"].items()}


def train(writer: TrajectoryWriter, described: dict[str, Any], stop: int = STEPS) -> None:
    """Snapshots every other step, scalars every step, going on from the writer's last snapshot."""
    first = 0 if writer.last_step is None else writer.last_step
    for step in range(first, stop + 1):
        if step % EVERY == 0 and step != writer.last_step:
            writer.snapshot(step, 0.1 * step, state(step, described), {"test_accuracy": step / STEPS})
        if step < stop:
            writer.scalar(step, loss=1 / (1 + step), energy=float(step))


def write(path: Path, described: dict[str, Any] | None = None, **more: Any) -> Path:
    described = described or description()
    with TrajectoryWriter.create(path, **{**described, **more}) as writer:
        train(writer, described)
    return path


def interrupted(path: Path, stop: int) -> Path:
    """A file left incomplete, with scalars beyond the last snapshot when `stop` is odd."""
    writer = TrajectoryWriter.create(path, **description())
    train(writer, description(), stop)
    writer.abandon()
    return path


def refused(path: Path, *words: str) -> None:
    """Opening raises one line that names the file and says these words."""
    with pytest.raises(InputError) as caught:
        Trajectory(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    assert all(word in message for word in words), message


def start(code: str, *arguments: Any, **environment: str) -> subprocess.Popen[str]:
    """Run code in another process, where this file is the module `example`."""
    load = "import os, signal, sys\nfrom pathlib import Path\nimport examples as example\n"
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parents[1]}", **environment}
    command = [sys.executable, "-c", load + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def child(code: str, *arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    process = start(code, *arguments, **environment)
    out, error = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


def rechain(path: Path) -> Path:
    """Make an edited file whole again: chain and seal of what it now holds."""
    with h5py.File(path, "r+") as file:
        migrations.begin_chain(file)
    seal.seal(path)
    return path


KILLED = """
    path, stop = Path(sys.argv[1]), int(sys.argv[2])
    if path.exists():
        writer = example.TrajectoryWriter.resume(path, config=example.CONFIG)
    else:
        writer = example.TrajectoryWriter.create(path, **example.description())
    example.train(writer, example.description(), stop)
    os.kill(os.getpid(), signal.SIGKILL)
"""
