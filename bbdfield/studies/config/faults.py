"""kind = "faults"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from bbdfield.studies.config.sections import Section
from bbdfield.studies.config.study import OneNetwork
from bbdfield.studies.config.values import POSITIVE, each_of, whole


class FaultsSection(Section):
    """[faults] how often everything goes wrong, see `bbdfield.studies.faults`; 0 leaves a part out.

    kills : SIGKILLs of each of training, simulation and sweep.   in_a_row : of one trajectory before it may end.
    backends : that train and simulate it.   mutations, configs : altered files.   runs : accepted configurations that
    are really run.   full_disks : writes at which the disk is full.   points, failing : of the sweep that is timed, and
    how many of them fail.   timeout : seconds after which a command counts as hanging.   memory : MiB that reading one
    altered file may take.
    """

    kills: Annotated[int, whole(0, 100_000)] = 50
    in_a_row: Annotated[int, whole(1, 1000)] = 5
    backends: Annotated[tuple[str, ...], each_of(("numpy", "numba"))] = ("numpy", "numba")
    mutations: Annotated[int, whole(0, 10_000_000)] = 5000
    configs: Annotated[int, whole(0, 10_000_000)] = 2000
    runs: Annotated[int, whole(0, 10_000)] = 20
    full_disks: Annotated[int, whole(0, 100_000)] = 50
    points: Annotated[int, whole(0, 100_000)] = 200
    failing: Annotated[int, whole(0, 100_000)] = 5
    timeout: Annotated[float, POSITIVE] = 10.0
    memory: Annotated[int, whole(1, 1_000_000)] = 256


class FaultsConfig(OneNetwork):
    """kind = "faults": is anything lost, or anything false believed, when processes are killed and files altered?"""

    faults: FaultsSection = Field(default_factory=FaultsSection)

    def refusals(self) -> Iterator[str]:
        yield from super().refusals()
        if self.faults.failing > self.faults.points:
            yield f"faults.failing: needs at most faults.points, {self.faults.points} (got {self.faults.failing})"
        if self.faults.kills and self.training.steps < 8:
            yield f"training.steps: needs at least 8, so that there is something to kill (got {self.training.steps})"
