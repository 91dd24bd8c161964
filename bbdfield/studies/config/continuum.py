"""kind = "continuum"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator

from bbdfield.errors import InputError
from bbdfield.model.ranges import Taps
from bbdfield.studies.config.combinations import no_field
from bbdfield.studies.config.sections import FieldSection
from bbdfield.studies.config.study import AnyStudy
from solvers.grids import Grid


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
        yield from self._unobservable()

    def _unobservable(self) -> Iterator[str]:
        """Why training.observe asks for what this network does not have."""
        if not self.training.observe:
            return
        from bbdfield.studies.observe import recorders

        for depth, width in self.rungs():
            lattice, training = self.lattice_at(depth, width), self.training_plan()
            try:
                recorders(self.training.observe, lattice, lattice.grid, training, "lattice", len(self.dataset().x))
            except InputError as error:
                yield str(error)
                return

    def theory(self) -> dict[str, Any]:
        """Which field theory, beyond its order in a_x: options of `simulate`."""
        return self.field.theory()

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
