"""Every training step of a run: what theories take of it, while it is made or afterwards.

Files keep snapshots, and some theories ask about single steps. Training is deterministic, so that the steps between two
snapshots can be made again: `replay` does, and checks that it arrives at the next snapshot bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from bbdfield.errors import InputError, NumericsError
from bbdfield.fields.simulation import FieldSystem
from bbdfield.lattice.training import LatticeSystem
from bbdfield.model.architecture import GROUPS, VELOCITIES, FieldState, Lattice, Training
from bbdfield.model.run import Observer, Progress, Run, System, copied
from bbdfield.model.units import LatticeState
from solvers.grids import Grid

State = dict[str, np.ndarray]


class Recorder(Observer, Protocol):
    """What a theory takes of every training step, as numbers, whose names begin with the theory's.

    They depend on that step and nothing else, least of all on earlier calls: runs are interrupted.
    """

    def __init__(self, lattice: Lattice, grid: Grid, training: Training, kind: str) -> None:
        """For runs of a `kind`, "lattice" or "field"; InputError where the theory does not hold for them."""


def replay(run: Run) -> Iterator[tuple[int, System, State, State]]:
    """Make every step of a run again: (k, the system after step k, state before, state after).

    Raises
    ------
    InputError
        for a run without snapshots, or without the velocities that its dynamics has.
    NumericsError
        when it does not arrive at the next snapshot bit for bit, so that something else made the file.
    """
    names = groups_of(run)
    system = system_of(run)
    for i in range(len(run.steps) - 1):
        state = _stored(run, names, i)
        system.load(state)
        for k in range(int(run.steps[i]), int(run.steps[i + 1])):
            system.step(k)
            after = copied(system.state())
            yield k, system, state, after
            state = after
        stored = _stored(run, names, i + 1)
        wrong = [name for name in names if not np.array_equal(state[name], stored[name])]
        if wrong:
            raise NumericsError(
                f"{run.path}: making the steps from {run.steps[i]} to {run.steps[i + 1]} again does not lead to its"
                f" snapshot (differs in {', '.join(wrong)}); versions or processor are not those that recorded it, so"
                " record the run again, with training.observe"
            )


def recorded(run: Run, recorder: type[Recorder], progress: Progress | None = None) -> dict[str, np.ndarray]:
    """A recorder's numbers of every step, name -> (steps,): from the file if they were recorded, else by `replay`.

    Raises
    ------
    InputError, NumericsError
        as `replay` and the recorder do; InputError for a run without a single step.
    """
    _check_made(run)
    stored = run.trajectory.scalars
    count = int(run.steps[-1]) if len(run.steps) else 0
    if not count:
        raise InputError(f"{run.path}: holds no training step yet; resume the run first")
    maker = recorder(run.lattice, run.grid, run.training, run.kind)
    if all(name in stored for name in recorder.names):
        return {name: np.asarray(stored[name][:count]) for name in recorder.names}
    columns: dict[str, list[float]] = {name: [] for name in recorder.names}
    for k, system, before, after in replay(run):
        found = maker.step(k, system, before, after)
        for name in recorder.names:
            columns[name].append(found[name])
        if progress is not None:
            progress(k + 1, count, float(run.loss[k]))
    return {name: np.array(values) for name, values in columns.items()}


def groups_of(run: Run) -> tuple[str, ...]:
    """Names of all that is moved."""
    if not len(run.steps):
        raise InputError(f"{run.path}: holds no snapshot yet; resume the run first")
    names = (*GROUPS, *VELOCITIES) if run.training.second_order else GROUPS
    missing = [name for name in names if name not in run.trajectory.fields]
    if missing:
        what = f"{', '.join(missing)}, which {run.training.dynamics} dynamics needs"
        raise InputError(f"{run.path}: has no {what}; record the trajectory again with this bbdfield")
    return names


def _stored(run: Run, names: tuple[str, ...], i: int) -> State:
    return {name: np.array(run.trajectory.fields[name][i]) for name in names}


def _check_made(run: Run) -> None:
    """Refuse fields that no field equation made."""
    if run.kind != "lattice" and "depth_scheme" not in run.config.get("field", {}):
        raise InputError(
            f"{run.path}: holds coarse-grained fields, which no field equation made, so its steps cannot be made again;"
            " give the trajectory of a lattice or of a simulation"
        )


def system_of(run: Run) -> System:
    """What made the run: the same code on the same backend, in the state of its first snapshot."""
    told = str(run.trajectory.attrs.get("backend") or "numpy in float64")
    backend, _, precision = told.partition(" in ")
    options: dict[str, Any] = {"backend": backend, "precision": precision or "float64"}
    w, b, r = (np.array(run.trajectory.fields[name][0]) for name in GROUPS)
    if run.kind == "lattice":
        return LatticeSystem(run.lattice, run.boundary, LatticeState(w, b, r), **options)
    _check_made(run)
    field = run.config["field"]
    keys = {key: field[key] for key in ("order", "width_order", "stencil", "ill_posed") if key in field}
    start = FieldState(run.lattice, run.grid, w, b, r)
    return FieldSystem(start, run.boundary, scheme=field["depth_scheme"], **keys, **options)
