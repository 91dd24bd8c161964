"""The small networks that are trained and simulated while everything goes wrong around them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bbdfield import files
from bbdfield.studies.config import StudyConfig

if TYPE_CHECKING:
    from bbdfield.studies.config import FaultsConfig

#: cells, layers and samples of the tiniest one: its files are mutated by the thousand
TINY = {"lattice": {"depth": 4, "width": 6, "channels": 1, "radius": "1/4", "readout_modes": 2}}
TINY_TRAINING = {"steps": 12, "batch": 4, "snapshot_every": 2, "probe": 2, "evaluate": 4, "backend": "numpy"}


def study(config: FaultsConfig, **changed: Mapping[str, Any]) -> StudyConfig:
    """The study's own network as a continuum study without figures; `changed`: keys of its sections."""
    table = _without_none(config.model_dump(exclude={"faults", "kind", "title"}))
    for section, keys in changed.items():
        table[section] = _without_none({**table.get(section, {}), **keys})
    if "file" in table["data"]:
        table["data"].pop("name", None)
    return StudyConfig.from_table({"kind": "continuum", **table, "output": {"figures": False}})


def dynamics(name: str) -> dict[str, Any]:
    """Keys of [training] that a law of motion needs."""
    return {"dynamics": name, "damping": 0.4 if name in ("heavy-ball", "leapfrog") else None, "tolerance": None}


def write(study: StudyConfig, path: Path) -> Path:
    files.write_text(path, study.to_toml())
    return path


def tiny(config: FaultsConfig, folder: Path, seed: int = 0) -> StudyConfig:
    """A network of a hundred numbers on a data set of its own, which is written into the folder."""
    rng, path = np.random.default_rng(7), folder / "tiny.npz"
    x, y = rng.standard_normal((12, 1, 6)), np.arange(12) % 3
    if not path.exists():
        np.savez(path, x=x, y=y, x_test=x[:4], y_test=y[:4])
    table = {
        "kind": "continuum",
        "seed": config.seed + seed,
        "data": {"file": str(path)},
        "lattice": TINY["lattice"],
        "training": {**TINY_TRAINING, "step": 0.25, "rates": {"w": 1.0, "b": 0.1, "r": 0.5}},
        "field": {"n_x": 4, "backend": "numpy", "orders": [1], "refine_x": 1},
        "output": {"figures": False},
    }
    return StudyConfig.from_table(table, "the tiny network", folder)


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in table.items()
        if value is not None
    }
