"""kind = "signals"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from bbdfield.fields.well_posedness import REMEDIES, STENCIL
from bbdfield.model.activations import activation_names
from bbdfield.model.architecture import Lattice
from bbdfield.studies.config.combinations import no_field, several_networks
from bbdfield.studies.config.sections import FieldMachine, Section
from bbdfield.studies.config.study import AnyStudy
from bbdfield.studies.config.values import CELLS, ORDERS, accuracy_of, biases_of, choice, variances_of, whole
from solvers.grids import Grid
from solvers.sweeps import SCHEMES


class SignalsFieldSection(FieldMachine):
    """[field] of a signals study: one order, and the grid in depth (in width it is the lattice's)."""

    order: Annotated[int, whole(min(ORDERS), max(ORDERS))] = 1
    n_x: Annotated[int | str, CELLS] = "lattice"
    depth_scheme: Annotated[str, choice(tuple(SCHEMES))] = "midpoint"
    width_order: Annotated[int | None, whole(0, 2)] = None
    stencil: Annotated[int, PlainValidator(accuracy_of)] = STENCIL
    ill_posed: Annotated[str, choice(REMEDIES)] = "refuse"


class SignalsSection(Section):
    """[signals] random networks of given variances, and directions in which the trained one is disturbed.

    activation : of the random networks.   variances : their [σ_w², σ_b²].   biases : σ_b² of the critical line's table.
    width, networks : how they are sampled.   settle, layers : layers to settle in, and layers after that are measured.
    directions : random directions of the trained network.
    """

    activation: Annotated[str, choice(activation_names)] = "tanh"
    variances: Annotated[tuple[tuple[float, float], ...], PlainValidator(variances_of)] = (
        (1.0, 0.05), (1.3, 0.05), (2.5, 0.05), (4.0, 0.05),
    )  # fmt: skip
    biases: Annotated[tuple[float, ...], PlainValidator(biases_of)] = (0.01, 0.05, 0.1)
    width: Annotated[int, whole(2, 20_000)] = 500
    networks: Annotated[int, whole(1, 100_000)] = 24
    settle: Annotated[int, whole(0, 100_000)] = 30
    layers: Annotated[int, whole(1, 100_000)] = 20
    directions: Annotated[int, whole(1, 100_000)] = 8


class SignalsConfig(AnyStudy):
    """kind = "signals": how far signals travel in depth, in random networks and in one that is being trained."""

    field: SignalsFieldSection = Field(default_factory=SignalsFieldSection)
    signals: SignalsSection = Field(default_factory=SignalsSection)

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
        if self.training.probe < 2:
            yield f"training.probe: needs two samples or more, whose difference is followed (got {self.training.probe})"
