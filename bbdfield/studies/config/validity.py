"""kind = "validity"."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from bbdfield.studies.config.sections import FieldMachine, InitialSection, Section
from bbdfield.studies.config.study import OneNetwork
from bbdfield.studies.config.values import MOST_CELLS, MULTIPLES, ORDERS, SOME_ORDERS, choice, whole
from solvers.grids import Grid


class ValidityFieldSection(FieldMachine):
    """[field] of a validity study: how many layers one depth cell of the field holds, and schemes that keep ŵ constant
    on a cell. refine_x: the first seed is repeated on so many times as many cells (1: no check).
    """

    orders: Annotated[tuple[int, ...], SOME_ORDERS] = ORDERS
    layers: Annotated[int, whole(2, MOST_CELLS)] = 2
    depth_scheme: Annotated[str, choice(("euler", "midpoint"))] = "midpoint"
    refine_x: Annotated[int, whole(1, 64)] = 2


class ValiditySection(Section):
    """[validity] the map: roughness of the initial weights, windows of averaging, seeds.

    ratios : correlation length over lattice spacing, 0 = independent weights.   windows : standard deviations of the
    Gaussian window in layers, 0 = none.   fixed : what has the same standard deviation for all ratios, the mean of the
    weights over depth and taps ("effect") or each weight ("weights").
    """

    ratios: Annotated[tuple[float, ...], MULTIPLES] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    windows: Annotated[tuple[float, ...], MULTIPLES] = (0.0, 1.0, 2.0, 4.0, 8.0)
    seeds: Annotated[int, whole(1, 1000)] = 3
    fixed: Annotated[str, choice(("effect", "weights"))] = "effect"


class ValidityConfig(OneNetwork):
    """kind = "validity": how rough may weights be, and how far averaged, for the fields to describe the network?"""

    field: ValidityFieldSection = Field(default_factory=ValidityFieldSection)
    validity: ValiditySection = Field(default_factory=ValiditySection)

    def field_grid(self) -> Grid:
        """The field's cells: several layers each, and those of the lattice across the width."""
        ((depth, width),) = self.rungs()
        return Grid(depth // self.field.layers, width)

    def refusals(self) -> Iterator[str]:
        yield from list(super().refusals()) or _impossible_validity(self)


def _impossible_validity(config: ValidityConfig) -> Iterator[str]:
    ((depth, width),) = config.rungs()
    layers, own = config.field.layers, config.initial
    if depth % layers or depth < 2 * layers:
        yield f"field.layers: needs a divisor of lattice.depth, {depth}, with at least 2 cells (got {layers})"
    for axis in "xuy":
        key = f"correlation_{axis}"
        if getattr(own, key) != InitialSection.model_fields[key].default:
            yield f"initial.{key}: validity.ratios gives all correlation lengths; remove it (got {getattr(own, key):g})"
    if own.mean is not None:
        yield "initial.mean: weights of a validity study have mean 0; remove it"
    smallest = min((ratio for ratio in config.validity.ratios if ratio), default=math.inf)
    if not smallest / max(depth, width) >= 1e-3:
        needs = "correlation lengths of 0, or of at least 0.001 of depth and width"
        yield f"validity.ratios: needs {needs} (got {smallest:g} spacings)"
    if config.seed + config.validity.seeds > 2**63:
        yield f"validity.seeds: needs seeds below 2⁶³ (got {config.validity.seeds} from {config.seed} on)"
