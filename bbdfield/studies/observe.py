"""`bbdfield observe`: what the companion theories say of a recorded trajectory; and what they record while it is made.

A theory that does not hold for a network or a run says why. Asked for everything, those that hold are told and the
others named with their reasons; asked for by name, a theory that does not hold is an error.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bbdfield.errors import InputError, NumericsError
from bbdfield.model.architecture import Lattice, Training
from bbdfield.model.run import Progress, Run
from bbdfield.observables import THEORIES, theory
from bbdfield.observables.stepping import Recorder
from bbdfield.storage.sidecar import Sidecar, read_sidecar, write_sidecar
from solvers.grids import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND = "observables"


def recorders(
    names: Sequence[str], lattice: Lattice, grid: Grid, training: Training, kind: str, samples: int
) -> list[Recorder]:
    """What training.observe asks for, of a training on so many samples.

    Raises
    ------
    InputError
        for a theory that does not hold for this network; a field leaves such a theory out, since it is its lattice that
        was asked about.
    """
    made: list[Recorder] = []
    if "temperature" in names and training.batch == samples:
        raise InputError(
            f"training.observe: temperature: training.batch = {samples} is all samples, so that steps have no noise;"
            " use a smaller batch, or leave temperature out"
        )
    for name in names:
        try:
            made.append(theory(name).Steps(lattice, grid, training, kind))
        except InputError as error:
            if kind == "lattice":
                raise InputError(f"training.observe: {name}: {error}") from None
    return made


def observe(
    run: Run,
    out: Path,
    only: Sequence[str] | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Sidecar:
    """Ask all theories, or some, of a run and write what they say to the sidecar `out`.

    Raises
    ------
    InputError
        for an unknown theory, one of `only` that does not hold, or a run for which none holds.
    NumericsError
        when steps that one of `only` needs cannot be made again.
    """
    arrays: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    coordinates: dict[str, np.ndarray] = {}
    told: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    if run.kind not in ("lattice", "field"):
        raise InputError(f"{run.path}: is a {run.kind} file; give the trajectory of a lattice or a field")
    for name in only or THEORIES:
        asked = theory(name)
        try:
            found = asked.observe(run, progress)
        except (InputError, NumericsError) as error:
            if only:
                raise type(error)(_with_path(run, f"{name}: {error}")) from None
            left_out[name] = str(error)
            continue
        arrays |= {key: (dims, np.asarray(values)) for key, (dims, values) in found.arrays.items()}
        coordinates |= found.coordinates
        told[name] = {**found.summary, "told": found.told}
    if not told:
        first = next(iter(left_out.items()))
        raise InputError(_with_path(run, f"no theory holds for it; {first[0]}: {first[1]}"))
    used = {dim for dims, _ in arrays.values() for dim in dims}
    shared = {"t": np.asarray(run.t), "step": np.arange(int(run.steps[-1]) if len(run.steps) else 0)}
    coordinates |= {name: values for name, values in shared.items() if name in used}
    about = {
        "trajectory": run.path.name,
        "digest": run.trajectory.content_digest(),
        "steps": {"recorded": int(run.steps[-1]) if len(run.steps) else 0, "wanted": run.training.steps},
        "theories": told,
        "left_out": left_out,
    }
    write_sidecar(out, kind=KIND, config=about, arrays=arrays, coordinates=coordinates, overwrite=overwrite)
    return read_sidecar(out)


def figure(sidecar: Sidecar, name: str) -> Figure:
    """The figure of one theory."""
    drawing: Any = importlib.import_module(f"bbdfield.plotting.{name}")
    arrays = {key: values for key, values in sidecar.arrays.items() if key.startswith(f"{name}_")}
    summary = sidecar.config["theories"][name]
    made: Figure = drawing.figure_observed(arrays, sidecar.coordinates, summary, str(sidecar.config["trajectory"]))
    return made


def to_json(sidecar: Sidecar) -> dict[str, Any]:
    """What a sidecar says, without its arrays."""
    return {"sidecar": str(sidecar.path), **sidecar.config}


def _with_path(run: Run, message: str) -> str:
    return message if str(run.path) in message else f"{run.path}: {message}"
