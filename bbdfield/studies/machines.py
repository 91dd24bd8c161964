"""What computes the lattices and fields of a study, in words; refuses what cannot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bbdfield.fields.marches import choose_backend
from bbdfield.lattice.training import engine_of
from bbdfield.model.architecture import Lattice, Training
from bbdfield.studies.config import TrainingSection
from solvers.backends import check_checkpoint
from solvers.grids import Grid


def lattice_machine(keys: TrainingSection, lattice: Lattice, training: Training) -> str:
    """What trains a lattice.

    Raises
    ------
    InputError
        for a backend, precision or checkpoint that it cannot have.
    """
    return engine_of(lattice, training.batch, **keys.machine()).backend.description


def field_machine(
    machine: dict[str, Any], lattice: Lattice, grid: Grid, order: int, training: Training, **expansion: Any
) -> str:
    """What integrates a field; `machine` and `expansion` are options of `simulate`. Raises as `lattice_machine`."""
    check_checkpoint("field.checkpoint", machine["checkpoint"])
    known = {name: expansion[name] for name in ("width_order", "stencil") if name in expansion}
    sizes: dict[str, Any] = {"samples": training.batch, "precision": machine["precision"]}
    return choose_backend(machine["backend"], lattice, grid, order, **sizes, **known).description


def in_words(lattices: Iterable[str], fields: Iterable[str] = ()) -> str:
    """One phrase for all of them, each named once."""
    told = [("lattice", dict.fromkeys(lattices)), ("field", dict.fromkeys(fields))]
    return "; ".join(f"{what}: {' or '.join(names)}" for what, names in told if names)
