"""Write a trajectory snapshot by snapshot; a kill at any moment loses at most the snapshot being written.

The file is built beside its place, put into SWMR mode (single writer, multiple readers) and only then renamed
into place: from its first moment under its name it can be read, and a killed writer leaves it readable. Each
snapshot goes to disk in an order that makes its last entry, in /step, the proof that the rest of it is there, and its
digest in /chain the proof of what it was. Completing the file means closing it and appending its seal.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
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
from bbdfield.files import locked_file
from bbdfield.provenance import provenance
from bbdfield.storage import chain, guard, schema, seal
from bbdfield.storage.reader import Trajectory, read_attributes

_SCALAR_CHUNK = 1024
_SPARE_BYTES = 2**20  # for metadata and scalars, beside the fields of a snapshot
_COMPRESSIONS = (None, "gzip")
_MOST_RESUMPTIONS = 1000  # are recorded, the last ones


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
                if dim in {*schema.GROUPS, *schema.SERIES, schema.WORD} or not guard.valid_name(dim):
                    raise InputError(f"{what}: {dim!r} cannot name a dimension; choose another name")
                if sizes.setdefault(dim, size) != size:
                    raise InputError(f"{what}: its dimension {dim} has length {size}, elsewhere {sizes[dim]}")
        for name in (*self.boundary, *self.fields, *self.scalars, *self.evaluation):
            if not guard.valid_name(name):
                raise InputError(f"{name!r} cannot name a dataset; use letters, digits and underscores")
        return sizes

    def names(self, sizes: Mapping[str, int]) -> list[str]:
        members = {"fields": self.fields, "evaluation": self.evaluation}
        members |= {"scalars": self.scalars, "boundary": self.boundary}
        fixed = [*schema.SERIES, schema.WORD, *sizes]
        return sorted([*fixed, *(f"{group}/{name}" for group in members for name in members[group])])

    def build(self, file: h5py.File, sizes: Mapping[str, int]) -> None:
        """Create all datasets, with their dimension scales; SWMR mode allows none later."""
        for group in schema.GROUPS:
            file.create_group(group)
        # Entries per snapshot stand alone in their checksummed chunks: a chunk is written once, so no later
        # kill can tear it. Scalars share chunks, so they carry no checksum that a torn write could break.
        once: dict[str, Any] = {"chunks": (1,), "fletcher32": True}
        shared: dict[str, Any] = {"chunks": (_SCALAR_CHUNK,)}
        growing(file, "t", "f8", **once).make_scale("t")
        growing(file, "scalar_step", "i8", fillvalue=-1, **shared).make_scale("scalar_step")
        for name, size in {**sizes, schema.WORD: schema.WORDS}.items():
            if name in self.coordinates:
                file.create_dataset(name, data=self.coordinates[name]).make_scale(name)
            else:
                file.create_dataset(name, (size,), "i8").make_scale(f"{schema.NO_COORDINATE} {size:10d}")
        for name in {"t", *self.coordinates} & set(schema.UNITS):
            file[name].attrs["units"] = schema.text(schema.UNITS[name])
        attach(file, growing(file, "step", "i8", fillvalue=-1, **once), ("t",))
        links = growing(file, schema.CHAIN, "i8", (schema.WORDS,), chunks=(1, schema.WORDS), fletcher32=True)
        attach(file, links, ("t", schema.WORD))
        for name in self.evaluation:
            attach(file, growing(file, f"evaluation/{name}", "f8", **once), ("t",))
        for name in self.scalars:
            attach(file, growing(file, f"scalars/{name}", "f8", **shared), ("scalar_step",))
        gzip: dict[str, Any] = {"compression": "gzip", "shuffle": True}
        for name, (dims, shape) in self.fields.items():
            options = {
                "chunks": schema.chunk_shape(shape),
                "fletcher32": True,
                **(gzip if self.compression else {}),
            }
            attach(file, growing(file, f"fields/{name}", "f8", shape, **options), ("t", *dims))
        for name, (dims, values) in self.boundary.items():
            options = {"fletcher32": True, **gzip} if values.size and values.ndim else {}
            attach(file, file.create_dataset(f"boundary/{name}", data=values, **options), dims)


def growing(file: h5py.File, name: str, dtype: str, shape: tuple[int, ...] = (), **options: Any) -> h5py.Dataset:
    return file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), **options)


def attach(file: h5py.File, dataset: h5py.Dataset, dims: Sequence[str]) -> None:
    dataset.attrs["dims"] = schema.text(" ".join(dims))
    for axis, dim in enumerate(dims):
        dataset.dims[axis].attach_scale(file[dim])


def numeric(values: ArrayLike, what: str) -> NDArray[Any]:
    """As float64 or int64 without losing anything."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what}: values of type {array.dtype} cannot be stored; give real numbers")
    wanted = np.dtype("<f8" if array.dtype.kind == "f" else "<i8")
    if not np.can_cast(array.dtype, wanted):
        raise InputError(f"{what}: values of type {array.dtype} do not fit into {wanted}")
    return array.astype(wanted)


class TrajectoryWriter:
    """Writes one trajectory; made by `create` or `resume`, used in a ``with`` block.

    Leaving the block normally completes the file (`close`); an exception keeps what was written, as an
    incomplete file (`abandon`), so that `resume` can go on from its last complete snapshot. Until then no other
    process can write it.
    """

    def __init__(self, path: Path, file: h5py.File, names: Sequence[str], inode: int, began: bytes):
        self.path = path
        self._lock = contextlib.ExitStack()
        self._file: h5py.File | None = file
        self._inode = inode
        # Kept open: a dataset let go of writes out its chunks, where a failure would go unnoticed.
        self._datasets = {name: file[name] for name in names}
        self._link = began
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
        overwrite : replace an existing file as soon as the new one has begun, without snapshots

        Raises
        ------
        InputError
            The path exists, its directory is missing or not writable, or the description contradicts itself.
        """
        target = _followed(Path(path))
        if kind not in schema.KINDS:
            raise InputError(f"kind is {kind!r}; use one of {', '.join(schema.KINDS)}")
        if not 0 <= seed < 2**63:
            raise InputError(f"seed is {seed}; use an integer from 0 to 2**63 - 1")
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
        with _locked(target) as lock:
            if target.exists() and not overwrite:
                raise InputError(f"{target}: exists already; choose another path, or overwrite or resume it")
            return cls._start(target, lock, layout, attributes)

    @classmethod
    def resume(cls, path: str | os.PathLike[str], *, config: dict[str, Any]) -> Self:
        """Go on with an incomplete file from its last complete snapshot (`last_step`, None if there is none).

        Complete snapshots and the scalars of earlier steps are copied into a new file, which then replaces
        the old one, so a kill here loses nothing. Of a damaged file those snapshots are kept that are what was
        written, up to the first that is not; one line on the log says so.

        Raises
        ------
        InputError
            if the file is complete and whole, or of another configuration
        Damaged
            if nothing of it can be trusted
        """
        path = _followed(Path(path))
        with _locked(path) as lock, Trajectory(path, repair=True) as old:
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
            attributes = {**old.attrs, "resumed": [*old.attrs["resumed"], provenance()][-_MOST_RESUMPTIONS:]}
            writer = cls._start(old.path, lock, layout, attributes, lambda writer: writer._copy(old))
            if old.damage:
                count = f"{old.n_snapshots} snapshot{'s' * (old.n_snapshots > 1)}"
                kept = f"kept {count}" if old.n_snapshots else "no snapshot could be kept"
                again = f"step {old.step[-1]}" if old.n_snapshots else "the start"
                log = logging.getLogger("bbdfield")
                log.warning("%s: %s; %s, computing again from %s", old.path, old.damage, kept, again)
            return writer

    def _copy(self, old: Trajectory) -> None:
        """Append everything that another file holds."""
        rows = [dict(zip(old.scalars, row, strict=True)) for row in zip(*old.scalars.values(), strict=True)]
        self._pending = list(zip(old.scalar_step.tolist(), rows or [{}] * len(old.scalar_step), strict=True))
        self._last_scalar = int(old.scalar_step[-1]) if len(old.scalar_step) else -1
        for i, (step, t) in enumerate(zip(old.step.tolist(), old.t.tolist(), strict=True)):
            values = {name: variable[i] for name, variable in old.fields.items()}
            self.snapshot(step, t, values, {name: series[i] for name, series in old.evaluation.items()})

    @classmethod
    def _start(
        cls,
        path: Path,
        lock: contextlib.ExitStack,
        layout: _Layout,
        attributes: dict[str, Any],
        fill: Callable[[Self], None] = lambda _: None,
    ) -> Self:
        sizes = layout.sizes()
        names = layout.names(sizes)
        part = path.with_name(path.name + ".part")
        with schema.one_line(f"{path}: cannot be written, check the directory's permissions and free space"):
            try:
                part.write_bytes(_image(layout, sizes, {**attributes, "datasets": names}))
                file = h5py.File(part, "r+", libver="latest")
                descriptor = file.id.get_vfd_handle()  # now: it cannot be asked for any more after some failures
                try:
                    file.swmr_mode = True
                    began = bytes.fromhex(guard.attribute(file, "digest"))
                    writer = cls(path, file, names, part.stat().st_ino, began)
                    fill(writer)
                    file.flush()
                    os.fsync(descriptor)  # or a power cut could leave neither the old file nor this one
                    os.replace(part, path)
                except BaseException:
                    if file:
                        _write_elsewhere(descriptor)
                        _close_quietly(file)
                    raise
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        writer._lock = lock.pop_all()
        return writer

    def scalar(self, step: int, **values: float) -> None:
        """Note what was measured at one training step; written with the next snapshot, or on closing."""
        self._expect(values, "scalars")
        if step <= self._last_scalar:
            raise InputError(
                f"{self.path}: scalars of step {step} after those of step {self._last_scalar}; steps increase"
            )
        if self.last_step is not None and step < self.last_step:
            raise InputError(f"{self.path}: scalars of step {step} after the snapshot of step {self.last_step}")
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

        Order on disk: scalars of earlier steps, fields, evaluation, t, chain; flush; step; flush. If the disk is
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
                columns = self._write_scalars(file, before=step)
                for name, value in entries.items():
                    _append(self._datasets[name], self.n_snapshots, np.asarray(value)[None])
                pieces = {name: [array] for name, array in arrays.items()}
                link = chain.link(self._link, chain.parts(step, t, pieces, evaluation or {}, *columns))
                _append(self._datasets[schema.CHAIN], self.n_snapshots, chain.words(link)[None])
                file.flush()
                self._check_compression(file)
                _append(self._datasets["step"], self.n_snapshots, np.array([step]))
                file.flush()
        except InputError:
            self._disconnect()
            raise
        self.n_snapshots += 1
        self.last_step, self._link = int(step), link

    def close(self) -> None:
        """Write the remaining scalars, close the file and seal it, which marks it complete; once is enough."""
        if self._file is None:
            return
        file = self._file
        try:
            with schema.one_line(f"{self.path}: could not be completed, is the disk full"):
                self._write_scalars(file, before=None)
                file.flush()
                self._file = None  # what HDF5 leaves of a file that it fails to close can only be let go of
                _close(file)
                seal.seal(self.path, self._inode)
        finally:
            self._disconnect()
            self._lock.close()

    def abandon(self) -> None:
        """Close and leave the file incomplete, to be resumed; a second call does nothing."""
        if self._file is not None:
            _close_quietly(self._file)
            self._file = None
            self._lock.close()

    def _disconnect(self) -> None:
        """Abandon after a failure, leaving the file as a kill would: as its last flush left it."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # the header may count what could not be written
                os.ftruncate(self._file.id.get_vfd_handle(), self._file.id.get_filesize())
            _write_elsewhere(self._file.id.get_vfd_handle())
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

    def _check_compression(self, file: h5py.File) -> None:
        """Stop before the file looks like a compression bomb to its readers."""
        packed = sum(guard.claim(item)[0] for item in self._datasets.values() if item.compression)
        if guard.is_bomb(packed, file.id.get_filesize()):
            raise InputError(
                f"{self.path}: its fields compress more than {guard.BOMB_RATIO} to 1, which no reader would believe; "
                "write it with compression none"
            )

    def _write_scalars(
        self, file: h5py.File, before: int | None
    ) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
        """Append and return the noted scalars of steps < before; their step numbers last, as for snapshots."""
        noted = list(itertools.takewhile(lambda entry: before is None or entry[0] < before, self._pending))
        steps = np.array([step for step, _ in noted], dtype="<i8")
        columns = {name: np.array([values[name] for _, values in noted], dtype="<f8") for name in file["scalars"]}
        if noted:
            start = len(self._datasets["scalar_step"])
            for name, column in columns.items():
                _append(self._datasets[f"scalars/{name}"], start, column)
            file.flush()
            _append(self._datasets["scalar_step"], start, steps)
            del self._pending[: len(noted)]
        return steps, columns


def _followed(path: Path) -> Path:
    """Where a symbolic link leads, which stays a link; any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _locked(path: Path) -> contextlib.ExitStack:
    """What holds the lock of a file, in a directory where it can be made."""
    check_directory(path)
    lock = contextlib.ExitStack()
    lock.enter_context(locked_file(path))
    return lock


def check_directory(path: Path) -> None:
    """Raise `InputError` unless a file of this name can be made: one line, saying why not."""
    if path.is_dir():
        raise InputError(f"{path}: is a directory; give the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: directory {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: directory {path.parent} cannot be written; change its permissions or take another")


def in_memory(name: str) -> h5py.File:
    """A new file without a disk under it: HDF5 crashes on a disk that is full when a file has just begun."""
    return h5py.File(name, "w", driver="core", backing_store=False, libver="latest")


def _image(layout: _Layout, sizes: Mapping[str, int], attributes: Mapping[str, Any]) -> bytes:
    """The bytes of a file without snapshots, the beginning of its chain included."""
    with in_memory("new") as file:
        schema.write_attributes(file, {**attributes, "digest": "0" * 64})
        layout.build(file, sizes)
        datasets = {name: file[name] for name in layout.names(sizes)}
        began = chain.start(read_attributes(file, Path("new")), datasets)
        file.attrs.modify("digest", schema.text(began.hex()))
        file.flush()
        return bytes(file.id.get_file_image())


def _append(dataset: h5py.Dataset, start: int, values: NDArray[Any]) -> None:
    dataset.resize(start + len(values), axis=0)
    dataset[start:] = values


def _close(file: h5py.File) -> None:
    descriptor = file.id.get_vfd_handle()
    try:
        file.close()
    except BaseException:
        _write_elsewhere(descriptor)
        raise


def _write_elsewhere(descriptor: int) -> None:
    """Let a scratch file take a descriptor's place.

    After a failure HDF5 would write again, at the latest when the process ends, and it crashes when that fails too.
    """
    with tempfile.TemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as sink:
        os.dup2(sink.fileno(), descriptor)


def _close_quietly(file: h5py.File) -> None:
    """Close a file that may have failed already; the first error is the one worth reporting."""
    try:
        file.close()
    except (OSError, RuntimeError, ValueError):
        return
