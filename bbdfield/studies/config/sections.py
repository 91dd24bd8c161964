"""The sections that every kind of study has, and those of fields that several have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainValidator, create_model, model_validator

from bbdfield.datasets import SHIPPED
from bbdfield.fields.well_posedness import REMEDIES, STENCIL
from bbdfield.model.activations import activation_names
from bbdfield.model.architecture import DYNAMICS, TOLERANCE
from bbdfield.model.losses import loss_names
from bbdfield.model.ranges import RANGES
from bbdfield.model.scalings import SCALINGS, Critical
from bbdfield.observables import THEORIES
from bbdfield.studies.config.values import (
    AMPLITUDE,
    CELLS,
    FLAG,
    KAPPA,
    LENGTH,
    MOST_CELLS,
    NUMBERS,
    ORDERS,
    POSITIVE,
    SIZES,
    SOME_ORDERS,
    accuracy_of,
    choice,
    each_of,
    file_name,
    of_range,
    positive,
    real,
    whole,
)
from solvers.backends import BACKENDS, PRECISIONS
from solvers.padding import PADDINGS
from solvers.sweeps import SCHEMES


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSection(Section):
    """[data] a shipped set by its `name`, or the user's own `file` (relative to the TOML's folder).

    layout : "cells", a signal over the width; "channels", every number of a signal in a channel of one cell, which
    makes a dense network of a lattice of width 1.
    """

    name: Annotated[str | None, choice(tuple(SHIPPED))] = None
    file: Annotated[str | None, PlainValidator(file_name)] = None
    layout: Annotated[str, choice(("cells", "channels"))] = "cells"

    @model_validator(mode="before")
    @classmethod
    def _one_of_them(cls, table: Any) -> Any:
        if isinstance(table, Mapping) and "name" in table and "file" in table:
            raise ValueError("has both name and file; give the one or the other")
        if isinstance(table, Mapping) and not ("name" in table or "file" in table):
            return {**table, "name": "mnist1d"}
        return table


class _LatticeKeys(Section):
    """[lattice] the network; one of depth and width may be a ladder of sizes.

    Each range has a key of its own (radius of kernels, taps of taps, length of derivatives); kappa is of the critical
    scaling.
    """

    depth: Annotated[int | tuple[int, ...], SIZES]
    width: Annotated[int | tuple[int, ...], SIZES]
    channels: Annotated[int, whole(1, 100_000)]
    scaling: Annotated[str, choice(tuple(SCALINGS))] = "residual"
    kappa: Annotated[float | None, KAPPA] = None
    range: Annotated[str, choice(tuple(RANGES))] = "kernel"
    weights: Annotated[str, choice(("tied", "untied"))] = "tied"
    padding: Annotated[str, choice(PADDINGS)] = "zeros"
    activation: Annotated[str, choice(activation_names)] = "tanh"
    loss: Annotated[str, choice(loss_names)] = "cross-entropy"
    readout_modes: Annotated[int, whole(1, MOST_CELLS)] = 6

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, table: Any) -> Any:
        """What the range and the scaling need and was not given."""
        if not isinstance(table, Mapping):
            return table
        given: dict[str, Any] = {"kappa": Critical.kappa} if table.get("scaling") == Critical.name else {}
        kind = RANGES.get(table.get("range", "kernel")) if isinstance(table.get("range", ""), str) else None
        if kind is not None and kind.default() is not None:
            given[kind.key] = kind.default()
        return {**given, **table}


if TYPE_CHECKING:

    class LatticeSection(_LatticeKeys): ...

else:
    LatticeSection = create_model(
        "LatticeSection",
        __base__=_LatticeKeys,
        **{kind.key: (Annotated[Any, of_range(kind)], None) for kind in RANGES.values()},
    )


class InitialSection(Section):
    """[initial] amplitudes and correlation lengths of the random initial fields, see `InitialFields`."""

    weight: Annotated[float, AMPLITUDE] = 3.0
    bias: Annotated[float, AMPLITUDE] = 0.0
    readout: Annotated[float, AMPLITUDE] = 1.0
    correlation_x: Annotated[float, LENGTH] = 0.3
    correlation_u: Annotated[float, LENGTH] = 0.1
    correlation_y: Annotated[float, LENGTH] = 0.3
    mean: Annotated[tuple[float, ...] | None, NUMBERS] = None
    spread: Annotated[tuple[float, ...] | None, NUMBERS] = None


class RatesSection(Section):
    """training.rates: η̂ of weights, biases and readout."""

    w: Annotated[float, AMPLITUDE]
    b: Annotated[float, AMPLITUDE]
    r: Annotated[float, AMPLITUDE]


class TrainingSection(Section):
    """[training] the training law, the same for lattice and field, see `Training`.

    backend, precision, checkpoint : how the lattice is computed; layers between kept z (0: all are kept).
    observe : theories of `bbdfield.observables` whose numbers are recorded of every step.
    """

    steps: Annotated[int, whole(1)]
    batch: Annotated[int, whole(1)]
    step: Annotated[float, real(positive, "a number > 0")] = 1.0
    rates: RatesSection
    dynamics: Annotated[str, choice(DYNAMICS)] = "sgd"
    damping: Annotated[float | None, POSITIVE] = None
    tolerance: Annotated[float | None, real(lambda x: 1e-13 <= x < 1, "a number from 1e-13 to 1")] = None
    snapshot_every: Annotated[int, whole(1)] = 10
    probe: Annotated[int, whole(1)] = 16
    evaluate: Annotated[int, whole(0)] = 1000
    optimizer: Annotated[str, choice(("sgd",), "training.optimizer")] = "sgd"
    backend: Annotated[str, choice(("auto", "numpy", "numba"))] = "auto"
    precision: Annotated[str, choice(PRECISIONS)] = "float64"
    checkpoint: Annotated[int, whole(0, MOST_CELLS)] = 0
    observe: Annotated[tuple[str, ...], each_of(THEORIES, empty=True)] = ()

    def machine(self) -> dict[str, Any]:
        """How the lattice is computed: options of `train`."""
        return {"backend": self.backend, "precision": self.precision, "checkpoint": self.checkpoint}

    @model_validator(mode="before")
    @classmethod
    def _default_tolerance(cls, table: Any) -> Any:
        adaptive = isinstance(table, Mapping) and table.get("dynamics") == "adaptive-flow"
        return {"tolerance": TOLERANCE, **table} if adaptive else table


class FieldMachine(Section):
    """How a field is computed: backend, precision of its numbers, cells between kept ẑ (0: all are kept)."""

    backend: Annotated[str, choice(("auto", *BACKENDS), "field.backend")] = "auto"
    precision: Annotated[str, choice(PRECISIONS)] = "float64"
    checkpoint: Annotated[int, whole(0, MOST_CELLS)] = 0

    def machine(self) -> dict[str, Any]:
        """Options of `simulate`."""
        return {"backend": self.backend, "precision": self.precision, "checkpoint": self.checkpoint}


class TheorySection(FieldMachine):
    """Which field theory, beyond its order in a_x.

    width_order : order in a_y, of taps only.   stencil : accuracy of the differences of taps and derivatives.
    ill_posed : "refuse", or "cutoff" to keep waves up to π/a_y only.
    """

    width_order: Annotated[int | None, whole(0, 2)] = None
    stencil: Annotated[int, PlainValidator(accuracy_of)] = STENCIL
    ill_posed: Annotated[str, choice(REMEDIES)] = "refuse"

    def theory(self) -> dict[str, Any]:
        """Options of `simulate`."""
        return {"width_order": self.width_order, "stencil": self.stencil, "ill_posed": self.ill_posed}


class FieldSection(TheorySection):
    """[field] orders in a_x, the solver's grid and its refinement for the grid check (both 1: no check)."""

    orders: Annotated[tuple[int, ...], SOME_ORDERS] = ORDERS
    n_x: Annotated[int | str, CELLS] = "lattice"
    n_y: Annotated[int | str, CELLS] = "lattice"
    depth_scheme: Annotated[str, choice(tuple(SCHEMES))] = "rk4"
    refine_x: Annotated[int, whole(1, 64)] = 2
    refine_y: Annotated[int, whole(1, 81)] = 1


class OutputSection(Section):
    """[output] how trajectories are stored, and whether figures and the report are made."""

    compression: Annotated[str, choice(("none", "gzip"))] = "none"
    figures: Annotated[bool, FLAG] = True
