"""`bbdfield decompose`: Lagrangian, energies and currents at every snapshot of a recorded lattice trajectory.

The trajectory is only read. At each snapshot the samples are those of the step that follows it (at the end: of the last
step), and velocities those of the dynamics, see `bbdfield.studies.moments`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bbdfield.errors import InputError
from bbdfield.lattice.training import LatticeSystem
from bbdfield.model.architecture import GROUPS, VELOCITIES
from bbdfield.model.run import Progress, Run
from bbdfield.model.units import LatticeState
from bbdfield.storage.sidecar import Sidecar, read_sidecar, write_sidecar
from bbdfield.studies.moments import Motion, Observer


def decompose(run: Run, out: Path, *, overwrite: bool = False, progress: Progress | None = None) -> Sidecar:
    """Write L, L_bulk, L_boundary, their residual, E, J and the dissipation of every layer to the sidecar `out`.

    Parameters
    ----------
    run : a lattice trajectory; an unfinished one is taken as far as it goes.
    progress : called with (snapshots done, snapshots in all, loss).

    Raises
    ------
    InputError
        for the trajectory of a field, one without snapshots, or one without the velocities that its dynamics needs.
    NumericsError
        when something is not finite.
    """
    if run.kind != "lattice":
        raise InputError(f"{run.path}: is a {run.kind} trajectory; give one of a lattice, as bbdfield train writes it")
    lattice = run.lattice
    if lattice.law.identity or lattice.range.taps(lattice.a_y) is not None:
        what = f'lattice.scaling = "{lattice.scaling}" with lattice.range = "{lattice.range.name}"'
        raise InputError(
            f'{run.path}: {what} is not decomposed here; that needs scaling = "residual" or "plain" and'
            ' range = "kernel" or "taps"'
        )
    if not len(run.t):
        raise InputError(f"{run.path}: holds no snapshot yet; resume the run first")
    training = run.training
    names = (*GROUPS, *VELOCITIES) if training.second_order else GROUPS
    missing = [name for name in names if name not in run.trajectory.fields]
    if missing:
        what = f"{', '.join(missing)}, which {training.dynamics} dynamics needs"
        raise InputError(f"{run.path}: has no {what}; record the trajectory again with this bbdfield")
    motion = Motion.of(lattice, training)
    system: LatticeSystem | None = None
    lists: dict[str, list[Any]] = {}
    for i, step in enumerate(run.steps):
        stored = {name: run.trajectory.fields[name][i] for name in names}
        if system is None:
            system = LatticeSystem(lattice, run.boundary, LatticeState(*(stored[name] for name in GROUPS)))
        system.load(stored)
        # Overflow ends in a NumericsError of the observer, in one line.
        with np.errstate(over="ignore", invalid="ignore"):
            found = Observer(system).moment(run.boundary.batch(min(int(step), training.steps - 1)))
        for name, value in {
            "lagrangian": found.direct.total,
            "bulk": found.bulk.total,
            "boundary": found.boundary.total,
            "loss": found.direct.loss,
            "kinetic": found.direct.total + found.direct.loss,
            "residual": found.residual,
            "bulk_weights": found.bulk.weights,
            "bulk_biases": found.bulk.biases,
            "boundary_input": found.boundary.input,
            "boundary_readout": found.boundary.readout,
            "energy": found.energy,
            "current": found.current,
            "dissipation": found.dissipation,
            "readout_intake": found.readout_intake,
            "kinks": found.kinks,
        }.items():
            lists.setdefault(name, []).append(value)
        if progress is not None:
            progress(i + 1, len(run.steps), found.direct.loss)
    axes = {lattice.depth: "x_link", lattice.depth + 1: "x_site"}
    arrays: dict[str, tuple[tuple[str, ...], np.ndarray]] = {"step": (("t",), run.steps)}
    for name, values in lists.items():
        array = np.array(values)
        arrays[name] = (("t",) if array.ndim == 1 else ("t", axes[array.shape[1]]), array)
    told = {
        "trajectory": run.path.name,
        "digest": run.trajectory.content_digest(),
        "dynamics": training.dynamics,
        "damping": motion.gamma,
        "inertia": {"w": motion.mu.w, "b": motion.mu.b, "r": motion.mu.r},
    }
    grid = lattice.grid
    coordinates = {"t": run.t, "x_link": grid.x_links, "x_site": grid.x_sites}
    write_sidecar(out, kind="decomposition", config=told, arrays=arrays, coordinates=coordinates, overwrite=overwrite)
    return read_sidecar(out)


def to_json(sidecar: Sidecar) -> dict[str, Any]:
    """Numbers of a sidecar in short: the last snapshot, and the worst of all."""
    found = sidecar.arrays
    last = {
        name: float(found[name][-1]) for name in ("lagrangian", "bulk", "boundary", "loss", "kinetic", "readout_intake")
    }
    return {
        "sidecar": str(sidecar.path),
        **sidecar.config,
        "snapshots": len(found["residual"]),
        "worst": float(found["residual"].max()),
        "kinks": int(found["kinks"].sum()),
        "last": last
        | {name: found[name][-1].tolist() for name in ("energy", "current", "dissipation")}
        | {"t": float(sidecar.coordinates["t"][-1])},
    }
