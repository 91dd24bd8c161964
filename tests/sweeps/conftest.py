"""What the tests of sweeps share: a study that takes a moment, and workers that are this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bbdfield.storage import content_digest
from bbdfield.studies.config import parse_config
from bbdfield.sweeps.plan import Sweep
from bbdfield.sweeps.point import Outcome, Task, run_point

STUDY = """
kind = "continuum"
title = "small"
[data]
file = "data.npz"
[lattice]
depth = 4
width = 12
channels = 2
radius = "1/8"
readout_modes = 4
[training]
steps = 4
batch = 5
rates = { w = 2.0, b = 0.5, r = 0.5 }
snapshot_every = 2
probe = 3
evaluate = 9
[field]
orders = [0, 1]
n_x = 8
refine_x = 1
"""


def _write_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    signals, labels = rng.standard_normal((40, 2, 12)), np.arange(40) % 3
    np.savez(folder / "data.npz", x=signals, y=labels, x_test=signals[:9], y_test=labels[:9])


@pytest.fixture
def small(tmp_path: Path) -> Callable[[str], Sweep]:
    """A sweep over a small study, from the text of its section [sweep]."""
    _write_data(tmp_path)
    return lambda section: Sweep.from_toml(STUDY + section, "small.toml", tmp_path)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let this process be the workers, and list the points that they ran."""
    names: list[str] = []

    def run_here(tasks: Iterable[Task], workers: int, threads: int | None = None) -> Iterator[Outcome]:
        for task in tasks:
            names.append(task.name)
            yield run_point(task)

    monkeypatch.setattr("bbdfield.sweeps.local.run_local", run_here)
    return names


# ---- for the workers


@pytest.fixture
def tasks(tmp_path: Path) -> Callable[..., list[Task]]:
    """(number of points, *overrides, folder="points", threads=1) -> tasks that differ in the seed."""
    _write_data(tmp_path)

    def make(count: int, *overrides: str, folder: str = "points", threads: int = 1) -> list[Task]:
        changes = ("field.orders=[1]", "field.n_x=4", "output.figures=false", *overrides)
        configs = [parse_config(STUDY, "study", tmp_path, [f"seed={seed}", *changes]) for seed in range(count)]
        out = tmp_path / folder
        return [
            Task(f"p{seed}", config.to_toml(), out / f"p{seed}", tmp_path / f".stop-{folder}", threads)
            for seed, config in enumerate(configs)
        ]

    return make


@pytest.fixture
def endless() -> tuple[str, ...]:
    """Overrides for a point that takes longer than any test, and that is always near its next snapshot."""
    return "training.steps=100000", "training.snapshot_every=20"


@pytest.fixture
def content() -> Callable[[Path], dict[str, str | bytes]]:
    """What two runs of one point must have in common, bit by bit."""

    def read(directory: Path) -> dict[str, str | bytes]:
        found: dict[str, str | bytes] = {"scores.json": (directory / "scores.json").read_bytes()}
        return found | {path.name: content_digest(path) for path in directory.glob("*.h5")}

    return read


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Wait until a condition holds; a loaded machine gets a minute."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.02)

    return wait
