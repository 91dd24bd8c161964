"""What studies of one network and one field of it share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from bbdfield.model.architecture import Lattice
from bbdfield.studies.config.combinations import no_field, several_networks
from bbdfield.studies.config.sections import TheorySection
from bbdfield.studies.config.study import AnyStudy
from bbdfield.studies.config.values import CELLS, ORDERS, choice, whole
from solvers.grids import Grid
from solvers.sweeps import SCHEMES


class OneFieldSection(TheorySection):
    """[field] of one network: one order, and the grid in depth (in width it is the lattice's)."""

    order: Annotated[int, whole(min(ORDERS), max(ORDERS))] = 1
    n_x: Annotated[int | str, CELLS] = "lattice"
    depth_scheme: Annotated[str, choice(tuple(SCHEMES))] = "midpoint"


class OneField(AnyStudy):
    """A study of one network, of any scaling, and one field of it."""

    field: OneFieldSection = Field(default_factory=OneFieldSection)

    def network(self) -> Lattice:
        """The network that is trained."""
        return self.lattice_at(*self.rungs()[0])

    def theory(self) -> dict[str, Any]:
        """Which field theory, beyond its order in a_x: options of `simulate`."""
        return self.field.theory()

    def field_grid(self) -> Grid:
        """The field solver's grid."""
        ((depth, width),) = self.rungs()
        return Grid(depth if isinstance(self.field.n_x, str) else self.field.n_x, width)

    def grids(self) -> Iterator[tuple[str, Grid]]:
        yield from super().grids()
        if len(self.rungs()) == 1:
            yield "field.n_x", self.field_grid()

    def refusals(self) -> Iterator[str]:
        yield from several_networks(self)
        yield from no_field(self, "order", (self.field.order,), self.field.width_order)
