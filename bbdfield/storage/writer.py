"""Write a trajectory snapshot by snapshot; a kill at any moment loses at most the snapshot being written.

The file is built beside its place, put into SWMR mode (single writer, multiple readers) and only then renamed
into place: from its first moment under its name it can be read, and a killed writer leaves it readable. Each
snapshot goes to disk in an order that makes its last entry, in /step, the proof that the rest of it is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from bbdfield.errors import InputError
from bbdfield.provenance import provenance
from bbdfield.storage import schema
from bbdfield.storage.reader import Trajectory

_SCALAR_CHUNK = 1024
_SPARE_BYTES = 2**20  # for metadata and scalars, beside the fields of a snapshot
_COMPRESSIONS = (None, "gzip")


@dataclass(frozen=True)
class _Layout:
    """Everything about the datasets that is decided at creation."""

    coordinates: Mapping[str, NDArray[Any]]
    boundary: Mapping[str, tuple[tuple[str, ...], NDArray[Any]]]
    fields: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]
    scalars: Sequence[str]
    evaluation: Sequence[str]
    compression: str | None

    def sizes(self) -> dict[str, int]:
        """Length of every dimension that does not grow; `InputError` for bad names, disagreeing lengths."""
        if self.compression not in _COMPRESSIONS:
            raise InputError(f"compression {self.compression!r} is not known; use 'gzip' or None")
        shaped: list[tuple[str, tuple[str, ...], tuple[int, ...]]]
        shaped = [(f"coordinate {name}", (name,), values.shape) for name, values in self.coordinates.items()]
        shaped += [(f"boundary {name}", dims, values.shape) for name, (dims, values) in self.boundary.items()]
        shaped += [(f"field {name}", dims, shape) for name, (dims, shape) in self.fields.items()]
        sizes: dict[str, int] = {}
        for what, dims, shape in shaped:
            if len(dims) != len(shape) or len(set(dims)) != len(dims):
                raise InputError(f"{what}: dimensions {tuple(dims)} do not fit its shape {tuple(shape)}")
            for dim, size in zip(dims, shape, strict=True):
                if dim in schema.GROUPS or dim in schema.SERIES or not dim.isidentifier():
                    raise InputError(f"{what}: {dim!r} cannot name a dimension; choose another name")
                if sizes.setdefault(dim, size) != size:
                    raise InputError(f"{what}: its dimension {dim} has length {size}, elsewhere {sizes[dim]}")
        for name in (*self.boundary, *self.fields, *self.scalars, *self.evaluation):
            if not name.isidentifier():
                raise InputError(f"{name!r} cannot name a dataset; use letters, digits and underscores")
        return sizes

    def names(self, sizes: Mapping[str, int]) -> list[str]:
        members = {"fields": self.fields, "evaluation": self.evaluation}
        members |= {"scalars": self.scalars, "boundary": self.boundary}
        return sorted([*schema.SERIES, *sizes, *(f"{group}/{name}" for group in members for name in members[group])])

    def build(self, file: h5py.File, sizes: Mapping[str, int]) -> None:
        """Create all datasets, with their dimension scales; SWMR mode allows none later."""
        for group in schema.GROUPS:
            file.create_group(group)
        # Entries per snapshot stand alone in their checksummed chunks: a chunk is written once, so no later
        # kill can tear it. Scalars share chunks, so they carry no checksum that a torn write could break.
        once: dict[str, Any] = {"chunks": (1,), "fletcher32": True}
        shared: dict[str, Any] = {"chunks": (_SCALAR_CHUNK,)}
        _growing(file, "t", "f8", **once).make_scale("t")
        _growing(file, "scalar_step", "i8", fillvalue=-1, **shared).make_scale("scalar_step")
        for name, size in sizes.items():
            if name in self.coordinates:
                file.create_dataset(name, data=self.coordinates[name]).make_scale(name)
            else:
                file.create_dataset(name, (size,), "i8").make_scale(f"{schema.NO_COORDINATE} {size:10d}")
        for name in {"t", *self.coordinates} & set(schema.UNITS):
            file[name].attrs["units"] = schema.text(schema.UNITS[name])
        _attach(file, _growing(file, "step", "i8", fillvalue=-1, **once), ("t",))
        for name in self.evaluation:
            _attach(file, _growing(file, f"evaluation/{name}", "f8", **once), ("t",))
        for name in self.scalars:
            _attach(file, _growing(file, f"scalars/{name}", "f8", **shared), ("scalar_step",))
        gzip: dict[str, Any] = {"compression": "gzip", "shuffle": True}
        for name, (dims, shape) in self.fields.items():
            options = {
                "chunks": schema.chunk_shape(shape),
                "fletcher32": True,
                **(gzip if self.compression else {}),
            }
            _attach(file, _growing(file, f"fields/{name}", "f8", shape, **options), ("t", *dims))
        for name, (dims, values) in self.boundary.items():
            options = {"fletcher32": True, **gzip} if values.size and values.ndim else {}
            _attach(file, file.create_dataset(f"boundary/{name}", data=values, **options), dims)


def _growing(file: h5py.File, name: str, dtype: str, shape: tuple[int, ...] = (), **options: Any) -> h5py.Dataset:
    return file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), **options)


def _attach(file: h5py.File, dataset: h5py.Dataset, dims: Sequence[str]) -> None:
    dataset.attrs["dims"] = schema.text(" ".join(dims))
    for axis, dim in enumerate(dims):
        dataset.dims[axis].attach_scale(file[dim])


def numeric(values: ArrayLike, what: str) -> NDArray[Any]:
    """As float64 or int64 without losing anything."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what}: values of type {array.dtype} cannot be stored; give real numbers")
    wanted = np.float64 if array.dtype.kind == "f" else np.int64
    if not np.can_cast(array.dtype, wanted):
        raise InputError(f"{what}: values of type {array.dtype} do not fit into {np.dtype(wanted)}")
    return array.astype(wanted)


class TrajectoryWriter:
    """Writes one trajectory; made by `create` or `resume`, used in a ``with`` block.

    Leaving the block normally completes the file (`close`); an exception keeps what was written, as an
    incomplete file (`abandon`), so that `resume` can go on from its last complete snapshot.
    """

    def __init__(self, path: Path, file: h5py.File, inode: int):
        self.path = path
        self._file: h5py.File | None = file
        self._inode = inode
        # Kept open: a dataset let go of writes out its chunks, where a failure would go unnoticed.
        self._datasets = {name: file[name] for name in json.loads(file.attrs["datasets"])}
        self._pending: list[tuple[int, dict[str, float]]] = []
        self._last_scalar = -1
        self.n_snapshots = 0
        self.last_step: int | None = None

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        kind: str,
        config: dict[str, Any],
        seed: int,
        coordinates: Mapping[str, ArrayLike],
        boundary: Mapping[str, tuple[tuple[str, ...], ArrayLike]],
        fields: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]],
        scalars: Sequence[str],
        evaluation: Sequence[str],
        compression: str | None = None,
        backend: str = "",
        overwrite: bool = False,
    ) -> Self:
        """Start a new file.

        Parameters
        ----------
        kind : "lattice" or "field"
        config : the full configuration, plain JSON types
        coordinates : dimension -> its coordinate, 1-d; other dimensions get a length only
        boundary : name -> (dimensions, values), written once, now
        fields : name -> (dimensions, shape), both without the leading t
        scalars, evaluation : names of what is given for every training step, and with every snapshot
        compression : "gzip" (with shuffle) or None, for the fields
        backend : what computes it, in words; "" if nothing does
        overwrite : replace an existing file, which stays intact until the new one stands

        Raises
        ------
        InputError
            The path exists, its directory is missing or not writable, or the description contradicts itself.
        """
        target = Path(path)
        if kind not in schema.KINDS:
            raise InputError(f"kind is {kind!r}; use one of {', '.join(schema.KINDS)}")
        if not 0 <= seed < 2**63:
            raise InputError(f"seed is {seed}; use an integer from 0 to 2**63 - 1")
        if target.exists() and not overwrite:
            raise InputError(f"{target}: exists already; choose another path, or overwrite or resume it")
        layout = _Layout(
            {name: numeric(values, f"coordinate {name}") for name, values in coordinates.items()},
            {name: (dims, numeric(values, f"boundary {name}")) for name, (dims, values) in boundary.items()},
            fields, scalars, evaluation, compression,
        )  # fmt: skip
        attributes = {
            "software": schema.SOFTWARE,
            "schema_version": schema.SCHEMA_VERSION,
            "kind": kind,
            "seed": seed,
        }
        attributes |= {"config": config, "resumed": [], "backend": backend, **provenance()}
        return cls._start(target, layout, attributes)

    @classmethod
    def resume(cls, path: str | os.PathLike[str], *, config: dict[str, Any]) -> Self:
        """Go on with an incomplete file from its last complete snapshot (`last_step`, None if there is none).

        Complete snapshots and the scalars of earlier steps are copied into a new file, which then replaces
        the old one, so a kill here loses nothing. Raises `InputError` if the file is complete, damaged, or of
        another configuration.
        """
        with Trajectory(path) as old:
            if old.complete:
                raise InputError(f"{old.path}: complete already, so there is nothing to resume")
            if schema.encode_json(config, "config") != schema.encode_json(old.config, "config"):
                keys = [key for key in sorted({*config, *old.config}) if config.get(key) != old.config.get(key)]
                raise InputError(
                    f"{old.path}: its configuration differs in {', '.join(keys)}; resume with the same one"
                )
            layout = _Layout(
                old.coordinates,
                {name: (variable.dims, variable[()]) for name, variable in old.boundary.items()},
                {name: (variable.dims[1:], variable.shape[1:]) for name, variable in old.fields.items()},
                list(old.scalars), list(old.evaluation),
                next((variable.compression for variable in old.fields.values()), None),
            )  # fmt: skip
            attributes = {**old.attrs, "resumed": [*old.attrs["resumed"], provenance()]}

            def refill(writer: TrajectoryWriter) -> None:
                rows = [dict(zip(old.scalars, row, strict=True)) for row in zip(*old.scalars.values(), strict=True)]
                writer._pending = list(zip(old.scalar_step.tolist(), rows or [{}] * len(old.scalar_step), strict=True))
                writer._last_scalar = int(old.scalar_step[-1]) if len(old.scalar_step) else -1
                for i, (step, t) in enumerate(zip(old.step.tolist(), old.t.tolist(), strict=True)):
                    values = {name: variable[i] for name, variable in old.fields.items()}
                    writer.snapshot(step, t, values, {name: series[i] for name, series in old.evaluation.items()})

            return cls._start(old.path, layout, attributes, refill)

    @classmethod
    def _start(
        cls,
        path: Path,
        layout: _Layout,
        attributes: dict[str, Any],
        refill: Callable[[Self], None] = lambda _: None,
    ) -> Self:
        sizes = layout.sizes()
        if not path.parent.is_dir():
            raise InputError(f"{path}: directory {path.parent} does not exist; create it first")
        part = path.with_name(path.name + ".part")
        with schema.one_line(f"{path}: cannot be written, check the directory's permissions and free space"):
            file = h5py.File(part, "w", libver="latest")
            try:
                unsealed = {"datasets": layout.names(sizes), "complete": False, "digest": "0" * 64}
                schema.write_attributes(file, {**attributes, **unsealed})
                layout.build(file, sizes)
                file.swmr_mode = True
                writer = cls(path, file, part.stat().st_ino)
                refill(writer)
                file.flush()
                os.replace(part, path)
            except BaseException:
                _close_quietly(file)
                part.unlink(missing_ok=True)
                raise
        return writer

    def scalar(self, step: int, **values: float) -> None:
        """Note what was measured at one training step; written with the next snapshot, or on closing."""
        self._expect(values, "scalars")
        if step <= self._last_scalar:
            raise InputError(
                f"{self.path}: scalars of step {step} after those of step {self._last_scalar}; steps increase"
            )
        self._pending.append((int(step), {name: float(value) for name, value in values.items()}))
        self._last_scalar = int(step)

    def snapshot(
        self,
        step: int,
        t: float,
        fields: Mapping[str, ArrayLike],
        evaluation: Mapping[str, float] | None = None,
    ) -> None:
        """Append one snapshot and flush it.

        Order on disk: scalars of earlier steps, fields, evaluation, t; flush; step; flush. If the disk is
        full or writing fails, the file is abandoned, earlier snapshots intact, and `InputError` raised.
        """
        file = self._expect(fields, "fields")
        self._expect(evaluation or {}, "evaluation")
        if step < 0 or (self.last_step is not None and step <= self.last_step):
            raise InputError(f"{self.path}: snapshot of step {step} after step {self.last_step}; steps increase from 0")
        arrays = {name: numeric(values, f"field {name}") for name, values in fields.items()}
        for name, array in arrays.items():
            wanted = self._datasets[f"fields/{name}"].shape[1:]
            if array.shape != wanted:
                raise InputError(
                    f"{self.path}: field {name} has shape {array.shape}, the file was created for {wanted}"
                )
        entries: dict[str, ArrayLike] = {f"fields/{name}": array for name, array in arrays.items()}
        entries |= {f"evaluation/{name}": float(value) for name, value in (evaluation or {}).items()} | {"t": float(t)}
        try:
            with schema.one_line(f"{self.path}: snapshot of step {step} could not be written, is the disk full"):
                self._check_space(sum(array.nbytes for array in arrays.values()))
                self._write_scalars(file, before=step)
                for name, value in entries.items():
                    _append(self._datasets[name], self.n_snapshots, np.asarray(value)[None])
                file.flush()
                _append(self._datasets["step"], self.n_snapshots, np.array([step]))
                file.flush()
        except InputError:
            self._disconnect()
            raise
        self.n_snapshots += 1
        self.last_step = int(step)

    def close(self) -> None:
        """Write the remaining scalars, seal the file with its digest and mark it complete; once is enough."""
        if self._file is None:
            return
        file = self._file
        try:
            with schema.one_line(f"{self.path}: could not be completed, is the disk full"):
                if self.path.stat().st_ino != self._inode:
                    raise InputError(f"{self.path}: replaced by another process while being written; run it once only")
                self._write_scalars(file, before=None)
                file.flush()
                seal = schema.digest(file, {**schema.read_attributes(file), "complete": True})
                # Existing attributes may change in SWMR mode; reopening the file for it would leave a
                # moment in which a kill makes it unreadable.
                file.attrs.modify("digest", schema.text(seal))
                file.flush()
                file.attrs.modify("complete", np.True_)
                file.close()
                self._file = None
        finally:
            self._disconnect()

    def abandon(self) -> None:
        """Close and leave the file incomplete, to be resumed; a second call does nothing."""
        if self._file is not None:
            _close_quietly(self._file)
            self._file = None

    def _disconnect(self) -> None:
        """Abandon after a failure, leaving the file as a kill would: as its last flush left it.

        Closing normally would write again, and HDF5 crashes when that fails too; so a scratch file takes the
        descriptor's place. The header may count what could not be written; a hole of that size makes it true.
        """
        if self._file is not None:
            descriptor = self._file.id.get_vfd_handle()
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self._file.id.get_filesize())
            with tempfile.TemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as sink:
                os.dup2(sink.fileno(), descriptor)
        self.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _expect(self, values: Mapping[str, Any], group: str) -> h5py.File:
        """The open file, if exactly the names of the group are given."""
        if self._file is None:
            raise InputError(f"{self.path}: already closed; nothing can be appended")
        if set(values) != set(self._file[group]):
            given, wanted = ", ".join(sorted(values)) or "nothing", ", ".join(self._file[group]) or "nothing"
            raise InputError(f"{self.path}: {group} given: {given}; the file was created for: {wanted}")
        return self._file

    def _check_space(self, needed: int) -> None:
        """Stop before the disk is full, while HDF5 can still close the file in order."""
        free = shutil.disk_usage(self.path.parent).free
        if free < needed + _SPARE_BYTES:
            raise InputError(f"{self.path}: the disk is full: {needed} bytes needed, {free} left; make room, resume")

    def _write_scalars(self, file: h5py.File, before: int | None) -> None:
        """Append the noted scalars of steps < before; their step numbers last, as for snapshots."""
        count = sum(before is None or step < before for step, _ in self._pending)
        if count:
            start = len(self._datasets["scalar_step"])
            for name in file["scalars"]:
                column = np.array([values[name] for _, values in self._pending[:count]])
                _append(self._datasets[f"scalars/{name}"], start, column)
            file.flush()
            _append(self._datasets["scalar_step"], start, np.array([step for step, _ in self._pending[:count]]))
            del self._pending[:count]


def _append(dataset: h5py.Dataset, start: int, values: NDArray[Any]) -> None:
    dataset.resize(start + len(values), axis=0)
    dataset[start:] = values


def _close_quietly(file: h5py.File) -> None:
    """Close a file that may have failed already; the first error is the one worth reporting."""
    try:
        file.close()
    except (OSError, RuntimeError, ValueError):
        return
