"""kind = "regimes"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, PlainValidator

from bbdfield.observables.regimes import FRACTIONS, LEAST_SNAPSHOTS, LEAST_STEPS, THRESHOLDS, WINDOWS
from bbdfield.studies.config.one_field import OneField
from bbdfield.studies.config.sections import Section
from bbdfield.studies.config.values import POSITIVE, each_of, increasing, whole, widths_of

#: what can be followed: dense networks of plain lists, the lattice of [lattice] and [training], and its field
NETWORKS = ("dense", "dense-decaying", "dense-full-batch", "dense-residual", "lattice", "field")
_LEVELS = "an increasing list of levels from 0.001 to 0.999"
_WINDOWS = "an increasing list of parts of the run from 0 (a single step) to 0.25"


class RegimesSection(Section):
    """[regimes] networks that are followed, and the grid of definitions of settling.

    networks : "dense" (constant rate), "dense-decaying" (the rate falls linearly to zero), "dense-full-batch" (constant
    rate, all training samples), "dense-residual" (blocks of two layers, the hidden ones as wide as the first width),
    "lattice" and "field".
    seeds : runs of each, with the seeds seed, seed + 1, ...
    widths : of the dense networks' hidden layers.  steps, batch, rate : of their training; full_steps, full_rate : with
    the full batch.  blocks : of the residual one.
    thresholds, fractions : ρ and q.  windows : lengths of the moving average, as parts of the run.
    """

    networks: Annotated[tuple[str, ...], each_of(NETWORKS)] = NETWORKS
    seeds: Annotated[int, whole(1, 1000)] = 3
    widths: Annotated[tuple[int, ...], PlainValidator(widths_of)] = (100, 100)
    blocks: Annotated[int, whole(1, 1000)] = 2
    steps: Annotated[int, whole(LEAST_STEPS)] = 4000
    batch: Annotated[int, whole(1)] = 32
    rate: Annotated[float, POSITIVE] = 0.1
    full_steps: Annotated[int, whole(LEAST_STEPS)] = 1000
    full_rate: Annotated[float, POSITIVE] = 0.3
    thresholds: Annotated[tuple[float, ...], increasing("levels", 1e-3, 0.999, _LEVELS)] = THRESHOLDS
    fractions: Annotated[tuple[float, ...], increasing("levels", 1e-3, 0.999, _LEVELS)] = FRACTIONS
    windows: Annotated[tuple[float, ...], increasing("parts", 0.0, 0.25, _WINDOWS)] = WINDOWS


class RegimesConfig(OneField):
    """kind = "regimes": do activation patterns settle before weights, on the lattice and in the field?"""

    regimes: RegimesSection = Field(default_factory=RegimesSection)

    def refusals(self) -> Iterator[str]:
        yield from super().refusals()
        yield from _too_little(self)


def _too_little(config: RegimesConfig) -> Iterator[str]:
    """Runs in which nothing can be seen to settle, and networks that do not fit the data."""
    training, keys = config.training, config.regimes
    if training.steps < LEAST_STEPS:
        yield f"training.steps: settling needs {LEAST_STEPS} training steps or more (got {training.steps})"
    snapshots = len(config.training_plan().snapshot_steps())
    if snapshots < LEAST_SNAPSHOTS:
        yield (
            f"training.snapshot_every: settling needs {LEAST_SNAPSHOTS} snapshots or more, and"
            f" {training.snapshot_every} steps leave {snapshots}; lower it"
        )
    count = len(config.dataset().x)
    if keys.batch > count:
        yield f"regimes.batch: the data have only {count} samples; use a smaller batch (got {keys.batch})"
    if len(config.rungs()) == 1 and min(config.network().depth, config.field_grid().n_x) < 2:
        yield "lattice.depth: with a single layer only the input is activated, which does not move; use 2 or more"
