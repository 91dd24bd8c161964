"""kind = "continuum", and what studies of one field share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainValidator, model_validator

from bbdfield.fields.well_posedness import REMEDIES, STENCIL
from bbdfield.model.architecture import Lattice
from bbdfield.model.ranges import Taps
from bbdfield.studies.config.combinations import no_field, several_networks
from bbdfield.studies.config.sections import FieldMachine, FieldSection
from bbdfield.studies.config.study import AnyStudy
from bbdfield.studies.config.values import CELLS, ORDERS, accuracy_of, choice, whole
from solvers.grids import Grid
from solvers.sweeps import SCHEMES


class StudyConfig(AnyStudy):
    """kind = "continuum": field theory against lattice, with a ladder in depth or width."""

    records_steps: ClassVar[bool] = True

    field: FieldSection = Field(default_factory=FieldSection)

    @model_validator(mode="before")
    @classmethod
    def _field_defaults(cls, table: Any) -> Any:
        """The orders that the scaling has, and the highest width order of taps."""
        lattice, field = (
            (table.get(key, {}) for key in ("lattice", "field")) if isinstance(table, Mapping) else ((), ())
        )
        if not isinstance(lattice, Mapping) or not isinstance(field, Mapping):
            return table
        given: dict[str, Any] = {}
        if lattice.get("scaling") == "plain":
            given["orders"] = [1]
        if lattice.get("range") == "taps":
            given["width_order"] = max(Taps.width_orders)
        return {**table, "field": {**given, **field}}

    def refusals(self) -> Iterator[str]:
        yield from no_field(self, "orders", self.field.orders, self.field.width_order)

    def theory(self) -> dict[str, Any]:
        """Which field theory, beyond its order in a_x: options of `simulate`."""
        return {"width_order": self.field.width_order, "stencil": self.field.stencil, "ill_posed": self.field.ill_posed}

    def field_grid(self, depth: int, width: int, refined: bool = False) -> Grid:
        """The solver's grid for one rung, or the finer one of the grid check."""
        keys = self.field
        n_x, n_y = (size if isinstance(n, str) else n for n, size in ((keys.n_x, depth), (keys.n_y, width)))
        return Grid(n_x * keys.refine_x, n_y * keys.refine_y) if refined else Grid(n_x, n_y)

    def grids(self) -> Iterator[tuple[str, Grid]]:
        yield from super().grids()
        for depth, width in self.rungs():
            yield ("lattice.width" if self.field.n_y == "lattice" else "field.n_y"), self.field_grid(depth, width)
            yield "field.refine_y", self.field_grid(depth, width, refined=True)


class OneFieldSection(FieldMachine):
    """[field] of one network: one order, and the grid in depth (in width it is the lattice's)."""

    order: Annotated[int, whole(min(ORDERS), max(ORDERS))] = 1
    n_x: Annotated[int | str, CELLS] = "lattice"
    depth_scheme: Annotated[str, choice(tuple(SCHEMES))] = "midpoint"
    width_order: Annotated[int | None, whole(0, 2)] = None
    stencil: Annotated[int, PlainValidator(accuracy_of)] = STENCIL
    ill_posed: Annotated[str, choice(REMEDIES)] = "refuse"


class OneField(AnyStudy):
    """A study of one network, of any scaling, and one field of it."""

    field: OneFieldSection = Field(default_factory=OneFieldSection)

    def network(self) -> Lattice:
        """The network that is trained."""
        return self.lattice_at(*self.rungs()[0])

    def theory(self) -> dict[str, Any]:
        """Which field theory, beyond its order in a_x: options of `simulate`."""
        return {"width_order": self.field.width_order, "stencil": self.field.stencil, "ill_posed": self.field.ill_posed}

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
