"""The kinds of study: which module computes, draws and describes each, and what these modules have in common."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bbdfield.studies.describe import Description

JobProgress = Callable[[str, int, int, float], None]
#: kind -> module with the functions of `Kind`
KINDS = {
    "continuum": "bbdfield.studies.continuum",
    "decomposition": "bbdfield.studies.decomposition",
    "symmetry": "bbdfield.studies.symmetry",
    "energy": "bbdfield.studies.energy",
    "orders": "bbdfield.studies.orders",
    "validity": "bbdfield.studies.validity",
    "signals": "bbdfield.studies.signals",
    "conservation": "bbdfield.studies.conservation",
    "regimes": "bbdfield.studies.regimes",
    "manifolds": "bbdfield.studies.manifolds",
    "temperature": "bbdfield.studies.temperature",
    "faults": "bbdfield.studies.faults",
}


@dataclass(frozen=True)
class Session:
    """What a computation is told besides its configuration.

    workers : processes; 1 = this process only.  report : called with (job, steps done, steps in all, loss).
    say : takes one line per stage.
    """

    workers: int
    report: JobProgress | None
    say: Callable[[str], None]


class Kind(Protocol):
    """The functions of a kind's module.

    CAPTIONS : file name of a figure, without suffix -> its caption, in the order in which the report shows them.
    """

    CAPTIONS: Mapping[str, str]

    def check(self, config: Any) -> str:
        """Refuse (InputError) what cannot work, before anything is written; returns what will run it, in words."""

    def compute(self, config: Any, out: Path, session: Session) -> tuple[dict[str, Any], Any]:
        """Compute, or continue, in `out`: (content of scores.json, whatever `draw` needs). Bitwise reproducible."""

    def draw(self, config: Any, out: Path, scores: dict[str, Any], details: Any) -> None:
        """Write figures/*.png."""

    def describe(self, config: Mapping[str, Any], scores: Mapping[str, Any]) -> Description:
        """What was done and found, from the tables of config.toml and scores.json: for report and terminal."""


def kind_of(name: str) -> Kind:
    module: Any = importlib.import_module(KINDS[name])
    return module
