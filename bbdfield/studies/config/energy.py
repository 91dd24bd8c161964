"""kind = "energy"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import Field, PlainValidator

from bbdfield.studies.config.combinations import no_field
from bbdfield.studies.config.sections import FieldMachine, Section
from bbdfield.studies.config.study import OneNetwork
from bbdfield.studies.config.values import CELLS, ORDERS, POSITIVE, choice, whole, widths_of
from solvers.grids import Grid


class EnergyFieldSection(FieldMachine):
    """[field] of an energy study: the grid in depth (in width it is the lattice's), and schemes that stay on links."""

    order: Annotated[int, whole(min(ORDERS), max(ORDERS))] = 1
    n_x: Annotated[int | str, CELLS] = "lattice"
    depth_scheme: Annotated[str, choice(("euler", "midpoint"))] = "midpoint"


class EnergySection(Section):
    """[energy] moments: at how many times currents are resolved in the width, and swaps looked into."""

    moments: Annotated[int, whole(1, 1000)] = 4


class PlainSection(Section):
    """[plain] a dense network without skips beside the lattice: hidden widths, heavy ball with the lattice's momentum.

    gain : initial weights are normal with variance gain²/fan-in.
    """

    hidden: Annotated[tuple[int, ...], PlainValidator(widths_of)] = (48, 48, 48, 48)
    steps: Annotated[int, whole(1)] = 100
    learning_rate: Annotated[float, POSITIVE] = 0.05
    gain: Annotated[float, POSITIVE] = 1.5


class EnergyConfig(OneNetwork):
    """kind = "energy": where energy enters a network in training, how it moves along depth, and where it is lost."""

    field: EnergyFieldSection = Field(default_factory=EnergyFieldSection)
    energy: EnergySection = Field(default_factory=EnergySection)
    plain: PlainSection = Field(default_factory=PlainSection)

    def field_grid(self) -> Grid:
        """The field solver's grid."""
        ((depth, width),) = self.rungs()
        return Grid(depth if isinstance(self.field.n_x, str) else self.field.n_x, width)

    def overdamped(self) -> Self:
        """The same study with the overdamped law, plain SGD with the same rates."""
        training = self.training.model_copy(update={"dynamics": "sgd", "damping": None})
        return self.model_copy(update={"training": training})

    def grids(self) -> Iterator[tuple[str, Grid]]:
        yield from super().grids()
        if len(self.rungs()) == 1:
            yield "field.n_x", self.field_grid()

    def refusals(self) -> Iterator[str]:
        yield from list(super().refusals()) or _impossible_energy(self)
        yield from no_field(self, "order", (self.field.order,), None)


def _impossible_energy(config: EnergyConfig) -> Iterator[str]:
    training = config.training
    if training.dynamics != "heavy-ball":
        yield (
            'training.dynamics: needs "heavy-ball", whose steps keep exact books of the energy; the overdamped law is'
            f' followed beside it (got "{training.dynamics}")'
        )
    if not (training.rates.w or training.rates.b):
        yield "training.rates: needs a rate w > 0 or b > 0, or no layer has energy (got w = b = 0)"
    if training.steps < 2:
        yield f"training.steps: needs at least 2, so that samples are swapped once (got {training.steps})"
