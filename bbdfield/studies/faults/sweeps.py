"""The sweeps that are killed, run out of disk, lose workers and are timed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbdfield import files
from bbdfield.studies.faults import victims

if TYPE_CHECKING:
    from bbdfield.studies.config import FaultsConfig


def sweep_toml(config: FaultsConfig, path: Path, *, points: int, steps: int, failing: int = 0) -> Path:
    """Write a sweep over seeds of a small network; the steps of `failing` points are so large that they blow up."""
    training: dict[str, Any] = {"steps": steps, "snapshot_every": max(1, steps // 8), "backend": "numpy"}
    field = {"n_x": 4, "refine_x": 1, "orders": [1], "backend": "numpy"}
    lines = [victims.study(config, training=training, field=field).to_toml()]
    for number in range(points):
        lines.append(f"[[sweep.points]]\nseed = {config.seed + number}")
        if number < failing:
            lines.append('"training.rates.w" = 1e12')
    files.write_text(path, "\n".join(lines) + "\n")
    return path
