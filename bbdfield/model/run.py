"""Recording a training run, and reading it back.

`record` drives any system that can be stepped in training time (the lattice, or the field theory on a grid) through the
steps of its boundary and writes the trajectory; `Run` is what it leaves behind. Both systems are recorded by this one
loop, so that their files agree in everything but the physics.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from bbdfield import interrupts
from bbdfield.datasets import Dataset
from bbdfield.errors import InputError, NumericsError
from bbdfield.model.architecture import GROUPS, VELOCITIES, FieldState, Lattice, Training, field_shapes
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.losses import accuracy, get_loss
from bbdfield.model.units import LatticeState, to_field
from bbdfield.storage import Trajectory, TrajectoryWriter, bring_up_to_date
from solvers.backends import Backend
from solvers.grids import Grid

Progress = Callable[[int, int, float], None]


class System(Protocol):
    """What can be trained and recorded: state as NumPy arrays, one step of training, z on the probe set, logits.

    `watch` is asked at every snapshot and raises NumericsError when the weights have become ill posed.
    """

    backend: Backend

    def state(self) -> dict[str, np.ndarray]: ...
    def load(self, state: dict[str, np.ndarray]) -> None: ...
    def step(self, k: int) -> dict[str, float]: ...
    def watch(self, t: float) -> None: ...
    def probe(self) -> np.ndarray: ...
    def logits(self, x: np.ndarray) -> np.ndarray: ...


class Observer(Protocol):
    """What takes numbers of every training step while it is made, beside the loss (`bbdfield.observables.stepping`)."""

    names: ClassVar[tuple[str, ...]]

    def step(
        self, k: int, system: System, before: dict[str, np.ndarray], after: dict[str, np.ndarray]
    ) -> dict[str, float]:
        """The numbers of step k, from `before` to `after`, where `system` stands."""


def record(
    system: System,
    *,
    kind: str,
    path: Path,
    boundary: Boundary,
    lattice: Lattice,
    grid: Grid,
    config: dict[str, Any],
    overwrite: bool = False,
    resume: bool = False,
    compression: str | None = None,
    progress: Progress | None = None,
    observers: Sequence[Observer] = (),
) -> Run:
    """Train `system` under `boundary` and write w, b, z, R at every snapshot and the loss of every step to `path`.

    With `resume` an incomplete file is continued from its last snapshot, bitwise as if it had not stopped; a finished
    one is returned as it is, and a missing one is started. What `observers` take of every step is stored beside the
    loss.

    Raises
    ------
    InputError
        for an existing file (without overwrite or resume), one of another configuration, or one that another process is
        writing.
    NumericsError
        as soon as a value is not finite, naming t, the quantity and x, or the weights have become ill posed; earlier
        snapshots stay in the file.
    KeyboardInterrupt
        after one Ctrl-C when the next snapshot is saved, after two at once; either way the file can be resumed.
    """
    training = boundary.training
    full = {
        "lattice": lattice.to_config(),
        "training": dataclasses.asdict(training),
        "start": hashlib.sha256(
            b"".join(np.ascontiguousarray(v).tobytes() for v in system.state().values())
        ).hexdigest(),
        "data": {"name": boundary.dataset.name, "digest": boundary.dataset.digest},
        **config,
    }
    machine = f"{system.backend.name} in {system.backend.precision}"
    observed = _names_of(observers)
    if resume and path.exists():
        bring_up_to_date(path)
        with Trajectory(path, repair=True) as old:
            if old.complete:
                if old.config.get("start") != full["start"]:  # perhaps because float32 rounds it
                    _same_backend(path, old.attrs.get("backend"), machine)
                _same_config(path, old.config, full)
                missing = [name for name in observed if name not in old.scalars]
                if missing:
                    raise InputError(
                        f"{path}: is finished, and was recorded without {', '.join(missing)}; ask it with bbdfield"
                        " observe, or overwrite it"
                    )
                return Run(path)
            _same_backend(path, old.attrs.get("backend"), machine)
            if {"loss", *observed} != {*old.scalars}:
                raise InputError(
                    f"{path}: was begun with other observables of every step ({_listed(old.scalars)}); take those, or"
                    " another file"
                )
            kept = old.n_snapshots
            if kept:
                system.load({name: variable[-1] for name, variable in old.fields.items() if name != "z"})
                system.watch(float(old.t[-1]))  # what was refused once is refused again
        writer = TrajectoryWriter.resume(path, config=full)
        if writer.n_snapshots != kept:
            writer.abandon()
            raise InputError(f"{path}: another process has gone on with it meanwhile; run it again")
    else:
        writer = TrajectoryWriter.create(
            path,
            kind=kind,
            config=full,
            seed=training.seed,
            overwrite=overwrite,
            compression=compression,
            scalars=["loss", *observed],
            evaluation=["test_loss", "test_accuracy"],
            backend=machine,
            **_layout(boundary, lattice, grid),
        )
    with interrupts.deferred(), writer, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        last, due = writer.last_step, set(training.snapshot_steps())
        for k in range(last if last is not None else 0, training.steps + 1):
            if k in due:
                if k != last:
                    _snapshot(writer, system, boundary, grid, k)
                if k < training.steps and interrupts.asked():
                    raise interrupts.Stopped
            if k == training.steps:
                break
            before = copied(system.state()) if observers else {}
            scalars = system.step(k)
            if not np.isfinite(scalars["loss"]):
                raise NumericsError(_what_failed(system, grid, k * training.step, path))
            if observers:
                after = copied(system.state())
                for observer in observers:
                    scalars |= observer.step(k, system, before, after)
            writer.scalar(k, **scalars)
            if progress:
                progress(k + 1, training.steps, scalars["loss"])
    return Run(path)


def _snapshot(writer: TrajectoryWriter, system: System, boundary: Boundary, grid: Grid, k: int) -> None:
    t = k * boundary.training.step
    fields = {**system.state(), "z": system.probe()}
    if not all(np.isfinite(value).all() for value in fields.values()):
        raise NumericsError(_what_failed(system, grid, t, writer.path))
    writer.snapshot(k, t, fields, evaluate(system, boundary))
    system.watch(t)


def evaluate(system: System, boundary: Boundary) -> dict[str, float]:
    """Loss and accuracy on the first `evaluate` test samples; NaN without a test set (accuracy: without labels)."""
    targets, dataset = boundary.test_targets, boundary.dataset
    if not len(targets) or dataset.x_test is None or dataset.y_test is None:
        return {"test_loss": float("nan"), "test_accuracy": float("nan")}
    logits = system.logits(dataset.x_test[: len(targets)])
    return {
        "test_loss": get_loss(boundary.lattice.loss).value(logits, targets),
        "test_accuracy": accuracy(logits, dataset.y_test[: len(targets)]) if dataset.has_labels else float("nan"),
    }


def _what_failed(system: System, grid: Grid, t: float, path: Path) -> str:
    """One line naming t, the first quantity that is not finite, and x."""
    names = {"w": "weights w", "b": "biases b", "r": "readout R"}
    term, where = "loss", ""
    for name, value in system.state().items():
        if name not in names:
            continue
        bad = np.flatnonzero(~np.isfinite(value.reshape(len(value), -1)).all(axis=1))
        if bad.size:
            term = names[name]
            where = "" if name == "r" else f", x = {grid.x_links[bad[0]]:.4g}"
            break
    else:
        z = system.probe()
        bad = np.flatnonzero(~np.isfinite(z.reshape(len(z), -1)).all(axis=1))
        if bad.size:
            term, where = "pre-activations z", f", x = {grid.x_sites[bad[0]]:.4g}"
    return (
        f"{term} not finite at t = {t:.6g}{where}; earlier snapshots are kept in {path}; "
        "lower training.step or training.rates, or the initial amplitudes"
    )


def copied(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A copy of a state, which compiled code moves in place."""
    return {name: np.array(value) for name, value in state.items()}


def _names_of(observers: Sequence[Observer]) -> list[str]:
    """What observers take; InputError for what cannot be stored beside the loss."""
    names: list[str] = []
    for observer in observers:
        given = getattr(observer, "names", None)
        if isinstance(observer, type) or not isinstance(given, tuple) or not callable(getattr(observer, "step", None)):
            raise InputError(
                f"observers: {observer!r} is none; give objects with a tuple `names` and step(k, system, before, after)"
            )
        names += given
    if "loss" in names or len(set(names)) < len(names):
        raise InputError(f"observers: names must differ, and none may be loss (got {', '.join(map(str, names))})")
    return names


def _listed(names: Iterable[str]) -> str:
    return ", ".join(name for name in names if name != "loss") or "none"


def _same_backend(path: Path, stored: str | None, wanted: str) -> None:
    """What one backend began another cannot go on with bit for bit."""
    if stored and stored != wanted:
        raise InputError(
            f"{path}: was computed by {stored}, and this would go on with {wanted}; choose that backend, or overwrite"
        )


def _same_config(path: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    differing = [key for key in sorted({*stored, *wanted}) if stored.get(key) != wanted.get(key)]
    if differing:
        raise InputError(
            f"{path}: belongs to another configuration (differs in {', '.join(differing)}); use another directory"
        )


def _layout(boundary: Boundary, lattice: Lattice, grid: Grid) -> dict[str, Any]:
    """Coordinates, dimensions and the boundary's own data, as the trajectory file wants them."""
    shapes, component = field_shapes(lattice, grid), lattice.range.dimension
    probes = len(boundary.probe_index)
    channels = np.arange(lattice.channels)
    coordinates = {
        "x_site": grid.x_sites,
        "x_link": grid.x_links,
        "y": grid.y,
        component: lattice.range.components(grid),
        "c_out": channels,
        "c_in": channels,
        "sample": boundary.probe_index,
        "output": np.arange(lattice.outputs),
        "mode": np.arange(lattice.readout_modes),
    }
    in_y = () if lattice.range.tied else ("y",)
    fields = {
        "w": (("x_link", *in_y, "c_out", component, "c_in"), shapes["w"]),
        "b": (("x_link", "y", "c_out"), shapes["b"]),
        "z": (("x_site", "y", "c_out", "sample"), (grid.n_x + 1, grid.n_y, lattice.channels, probes)),
        "r": (("output", "c_out", "mode"), shapes["r"]),
    }
    if boundary.training.second_order:
        fields |= {dot: fields[name] for dot, name in zip(VELOCITIES, GROUPS, strict=True)}
    data = boundary.dataset
    given: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        "sample_index": (("batch_step", "batch"), boundary.sample_index),
        "probe_index": (("sample",), boundary.probe_index),
        "lift": (("c_out", "data_channel"), boundary.lift),
        "x": (("train_sample", "data_channel", "data_cell"), data.x),
        "target": (("train_sample",) if data.y.ndim == 1 else ("train_sample", "output"), data.y),
    }
    if data.x_test is not None and data.y_test is not None:
        given["x_test"] = (("test_sample", "data_channel", "data_cell"), data.x_test)
        given["target_test"] = (("test_sample",) if data.y_test.ndim == 1 else ("test_sample", "output"), data.y_test)
    return {"coordinates": coordinates, "fields": fields, "boundary": given}


class FieldsOfRun(Protocol):
    """Fields on some grid at each snapshot of a run."""

    grid: Grid

    def fields(self, i: int) -> FieldState: ...
    def z(self, i: int) -> np.ndarray: ...


def write_fields(run: Run, source: FieldsOfRun, path: Path, *, config: dict[str, Any], overwrite: bool = False) -> Run:
    """Write fields derived from a finished run (on another grid, say) as a field trajectory of the same times and
    losses. What else was recorded of every step belongs to the run itself.
    """
    scalars, evaluation = {"loss": run.loss}, run.trajectory.evaluation
    layout = _layout(run.boundary, run.lattice, source.grid)
    layout["fields"] = {name: entry for name, entry in layout["fields"].items() if name not in VELOCITIES}
    writer = TrajectoryWriter.create(
        path,
        kind="field",
        config=config,
        seed=run.training.seed,
        overwrite=overwrite,
        scalars=list(scalars),
        evaluation=list(evaluation),
        **layout,
    )
    with writer:
        for k, row in zip(run.trajectory.scalar_step, zip(*scalars.values(), strict=True), strict=True):
            writer.scalar(int(k), **dict(zip(scalars, row, strict=True)))
        for i, (step, t) in enumerate(zip(run.steps, run.t, strict=True)):
            state = source.fields(i)
            fields = {"w": state.w, "b": state.b, "r": state.r, "z": source.z(i)}
            writer.snapshot(int(step), float(t), fields, {name: values[i] for name, values in evaluation.items()})
    return Run(path)


class Run:
    """A recorded run, of lattice or field: the trajectory file with its meaning restored. A context manager.

    Fields are read as w, b (hatted, also for lattice runs: W and b are converted), z and r at snapshot i.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.trajectory = Trajectory(self.path)
        self.kind: str = self.trajectory.kind
        self.config: dict[str, Any] = self.trajectory.config

    @cached_property
    def lattice(self) -> Lattice:
        """The network that was trained, or that the field describes."""
        return self._part("lattice", lambda: Lattice.from_config(self.config["lattice"]))

    @cached_property
    def training(self) -> Training:
        return self._part("training", lambda: Training.from_config(self.config["training"]))

    @cached_property
    def grid(self) -> Grid:
        """The grid of the recorded arrays: the lattice's own, or the field solver's."""
        if self.kind == "lattice":
            return self.lattice.grid
        field = self._part("field", lambda: self.config["field"])
        return Grid(field["n_x"], field["n_y"], self.lattice.length_x, self.lattice.length_y)

    @cached_property
    def boundary(self) -> Boundary:
        """Data, lift and sample sequence, from the file itself."""
        stored = self.trajectory.boundary
        names = {"x_test": "x_test", "y_test": "target_test"}
        test = {key: stored[name][()] for key, name in names.items() if name in stored}
        return self._part(
            "boundary",
            lambda: Boundary(
                Dataset(
                    self.config["data"]["name"],
                    stored["x"][()],
                    stored["target"][()],
                    outputs=self.lattice.outputs,
                    source=str(self.path),
                    **test,
                ),
                self.lattice,
                self.training,
                stored["lift"][()],
                stored["sample_index"][()],
                stored["probe_index"][()],
            ),
        )

    @cached_property
    def initial_fields(self) -> InitialFields:
        """The random functions that the run started from.

        Raises
        ------
        InputError
            when the run started from arrays of its own: coarse-grain its first snapshot instead.
        """
        if "initial" not in self.config:
            raise InputError(f"{self.path}: did not start from drawn fields; coarse-grain its first snapshot instead")
        return self._part("initial", lambda: InitialFields(self.lattice, **self.config["initial"]))

    @property
    def t(self) -> np.ndarray:
        return self.trajectory.t

    @property
    def steps(self) -> np.ndarray:
        return self.trajectory.step

    @property
    def loss(self) -> np.ndarray:
        """Loss of every step, on that step's samples, before the step (leapfrog: at its middle)."""
        return self.trajectory.scalars["loss"]

    @property
    def evaluation(self) -> dict[str, np.ndarray]:
        """test_loss and test_accuracy at every snapshot."""
        return self.trajectory.evaluation

    def z(self, i: int) -> np.ndarray:
        """z (n_x + 1, n_y, C, probe samples) at snapshot i."""
        return self.trajectory.fields["z"][i]

    def fields(self, i: int) -> FieldState:
        """ŵ, b̂ and R at snapshot i on the run's own grid."""
        w, b, r = (self.trajectory.fields[name][i] for name in ("w", "b", "r"))
        if self.kind == "lattice":
            return to_field(self.lattice, LatticeState(w, b, r))
        return FieldState(self.lattice, self.grid, w, b, r)

    def _part(self, key: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise InputError(
                f"{self.path}: its configuration has no usable '{key}' ({error}); record the run again"
            ) from error

    def close(self) -> None:
        self.trajectory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
