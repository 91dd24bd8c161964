"""Read a trajectory: lazily, only its complete snapshots, with one-line errors for bad files."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from bbdfield.errors import InputError
from bbdfield.storage import schema

_MOST_COMPRESSED = 1100  # deflate cannot do better than 1032:1, so a larger claim is a lie
_METADATA_ATTEMPTS = 25  # pauses of 2**25 ns, 34 ms, altogether
_ATTRIBUTES: dict[str, type] = {
    "kind": str, "config": dict, "seed": int, "versions": dict, "git_revision": str, "command": str,
    "created": str, "resumed": list, "datasets": list, "complete": bool, "digest": str,
}  # fmt: skip


class Variable:
    """One dataset, read when indexed; along the growing dimension only its complete part exists.

    ``variable[i]`` takes what h5py takes (also negative integers) and returns a NumPy array.
    Raises `InputError` naming file and dataset if the bytes on disk are damaged.
    """

    def __init__(self, path: Path, dataset: h5py.Dataset, length: int | None):
        self.path = path
        self.name: str = dataset.name
        self.dims = schema.dimensions(dataset)
        self.shape: tuple[int, ...] = dataset.shape if length is None else (length, *dataset.shape[1:])
        self.dtype: np.dtype[Any] = dataset.dtype
        self.compression: str | None = dataset.compression
        self._dataset = dataset

    @property
    def nbytes(self) -> int:
        return 8 * int(np.prod(self.shape, dtype=object))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<Variable {self.name} {dict(zip(self.dims, self.shape, strict=True))}>"

    def __getitem__(self, key: Any) -> NDArray[Any]:
        if not self._dataset:
            raise InputError(f"{self.path}: {self.name} cannot be read after the file was closed; open it again")
        try:
            return np.asarray(self._dataset[self._within(key)])
        except (OSError, RuntimeError) as error:
            detail = " ".join(str(error).split())
            raise InputError(f"{self.path}: {self.name} is damaged ({detail}); restore it or run it again") from error

    def _within(self, key: Any) -> Any:
        """Resolve the first index against the complete length, which the dataset on disk may exceed."""
        if not self.shape:
            return key
        keys = list(key) if isinstance(key, tuple) else [key]
        for place, item in enumerate(keys):
            if item is Ellipsis:
                keys[place : place + 1] = [slice(None)] * (len(self.shape) - len(keys) + 1)
                break
        if not keys:
            keys = [slice(None)]
        if isinstance(keys[0], slice):
            start, stop, step = keys[0].indices(self.shape[0])
            keys[0] = slice(start, max(start, stop), step) if step > 0 else keys[0]
        else:
            picked = np.arange(self.shape[0])[keys[0]]
            keys[0] = int(picked) if picked.ndim == 0 else picked
        return tuple(keys)


class Trajectory:
    """A trajectory file opened for reading, also while it is being written or after its writer was killed.

    Attributes
    ----------
    path, kind, config, seed, attrs, complete : as stored; `attrs` has all root attributes
    t, step : (n_snapshots,) training time and step number of every complete snapshot
    fields, boundary : name -> `Variable` (lazy: ``trajectory.fields["w"][-1]``)
    coordinates : name -> array
    scalar_step : (n,) int64, and scalars, name -> (n,) array: one entry per training step; while the
        trajectory is incomplete, only those before its last complete snapshot
    evaluation : name -> (n_snapshots,) array

    Raises
    ------
    InputError
        Missing, foreign, truncated or damaged file, other schema version, missing dataset: one line, with the
        remedy.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._file = open_file(self.path)
        try:
            with schema.one_line(f"{self.path}: damaged trajectory, restore it or run it again"):
                self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> None:
        file, path = self._file, self.path
        software, version = schema.plain(file.attrs.get("software")), file.attrs.get("schema_version")
        if software != schema.SOFTWARE or not isinstance(version, np.integer):
            raise InputError(f"{path}: an HDF5 file, but not a bbdfield trajectory; give one written by bbdfield")
        schema.check_version(int(version), path)
        self.attrs = schema.read_attributes(file)
        for name, wanted in _ATTRIBUTES.items():
            if type(self.attrs.get(name)) is not wanted:
                raise InputError(f"{path}: attribute {name} is missing or not a {wanted.__name__}; run it again")
        self.kind: str = self.attrs["kind"]
        self.config: dict[str, Any] = self.attrs["config"]
        self.seed: int = self.attrs["seed"]
        self.complete: bool = self.attrs["complete"]
        if self.kind not in schema.KINDS:
            raise InputError(f"{path}: kind is {self.kind!r}, not one of {', '.join(schema.KINDS)}; run it again")
        self._check_objects()

        # While a writer runs, lengths grow: read step first, then all else is at least as long. A step is
        # never negative; -1 is what an appended entry reads as between its resize and its value.
        self.step: NDArray[np.int64] = Variable(path, file["step"], None)[:]
        self.step = self.step[: np.append(self.step < 0, True).argmax()]
        scalar_step = Variable(path, file["scalar_step"], None)[:]
        if not self.complete:
            last = self.step[-1] if len(self.step) else 0
            scalar_step = scalar_step[: np.append((scalar_step < 0) | (scalar_step >= last), True).argmax()]
        self.scalar_step: NDArray[np.int64] = scalar_step
        self._limits = {"t": len(self.step), "scalar_step": len(self.scalar_step)}

        available = os.path.getsize(path)
        self._variables = {name: self._variable(name, available) for name in self.attrs["datasets"]}
        self.t: NDArray[np.float64] = self._variables["t"][:]
        self.fields: Mapping[str, Variable] = self._group("fields")
        self.boundary: Mapping[str, Variable] = self._group("boundary")

    def _check_objects(self) -> None:
        """Only the listed datasets may be there, each float64 or int64 numbers stored in this very file."""
        found = set()
        for prefix in ("", *(f"{group}/" for group in schema.GROUPS)):
            group = self._file[prefix or "/"]
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise InputError(f"{self.path}: {prefix}{name} links elsewhere, which a trajectory never does")
                if not prefix and name in schema.GROUPS:
                    continue
                item = group[name]
                if not isinstance(item, h5py.Dataset) or item.is_virtual or item.external:
                    raise InputError(
                        f"{self.path}: {prefix}{name} is not a plain dataset, which a trajectory only holds"
                    )
                if item.dtype.str not in ("<f8", "<i8"):
                    raise InputError(f"{self.path}: {prefix}{name} has type {item.dtype}, not float64 or int64")
                found.add(prefix + name)
        expected = {*self.attrs["datasets"], *schema.SERIES}
        if found != expected:
            name = min(found ^ expected)
            problem = "is missing" if name in expected else "does not belong there"
            raise InputError(f"{self.path}: dataset {name} {problem}; restore the file or run it again")

    def _variable(self, name: str, available: int) -> Variable:
        dataset = self._file[name]
        dims = schema.dimensions(dataset)
        length = self._limits.get(dims[0]) if dims else None
        variable = Variable(self.path, dataset, length)
        if length is not None and dataset.shape[0] < length:
            raise InputError(f"{self.path}: {name} holds {dataset.shape[0]} of {length} entries; run it again")
        for dim, size in zip(dims[length is not None :], dataset.shape[length is not None :], strict=True):
            if dim not in self._file or self._file[dim].shape != (size,):
                raise InputError(
                    f"{self.path}: dimension {dim!r} of {name} has no scale of length {size}; run it again"
                )
        if schema.has_values(dataset):
            if variable.nbytes > available * (_MOST_COMPRESSED if variable.compression else 1):
                raise InputError(f"{self.path}: {name} claims {variable.nbytes} bytes, more than the file can hold")
            if not dataset.fletcher32 and _end(dataset, length) > available:
                raise InputError(f"{self.path}: {name} is truncated, its end is missing; restore it or run it again")
        return variable

    def _group(self, group: str) -> dict[str, Variable]:
        prefix = f"{group}/"
        return {name.removeprefix(prefix): v for name, v in self._variables.items() if name.startswith(prefix)}

    @property
    def n_snapshots(self) -> int:
        return len(self.step)

    @cached_property
    def coordinates(self) -> dict[str, NDArray[Any]]:
        scales = {name: v for name, v in self._variables.items() if "/" not in name and name not in schema.SERIES}
        return {name: v[:] for name, v in scales.items() if schema.has_values(self._file[name])}

    @cached_property
    def scalars(self) -> dict[str, NDArray[np.float64]]:
        return {name: variable[:] for name, variable in self._group("scalars").items()}

    @cached_property
    def evaluation(self) -> dict[str, NDArray[np.float64]]:
        return {name: variable[:] for name, variable in self._group("evaluation").items()}

    def content_digest(self) -> str:
        """SHA-256 of the datasets' complete part, without the attributes: equal for equal results."""
        with schema.one_line(f"{self.path}: damaged, restore it or run it again"):
            return schema.digest(self._file, None, self._limits)

    def verify(self) -> None:
        """Compute the digest of the whole file again; raise `InputError` if anything in it was altered."""
        if not self.complete:
            raise InputError(f"{self.path}: incomplete, so it has no digest to verify; resume the run first")
        with schema.one_line(f"{self.path}: damaged, restore it or run it again"):
            altered = schema.digest(self._file, self.attrs) != self.attrs["digest"]
        if altered:
            raise InputError(
                f"{self.path}: altered after it was completed (digest differs); restore it or run it again"
            )

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_file(path: Path) -> h5py.File:
    """Open plainly; a file that a running or killed writer left marked as open needs SWMR reading."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path, or run the study that writes it")
    try:
        try:
            return h5py.File(path, "r")
        except OSError as error:
            # While a writer flushes, and after it was killed there, the header may count more than is there.
            marked, short = "already open for" in str(error), "truncated file" in str(error)
            if marked or short:
                with contextlib.suppress(OSError, RuntimeError, KeyError):
                    file = _open_shared(path)
                    if marked or not file.attrs["complete"]:
                        return file
                    file.close()
            raise
    except (OSError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        if "signature not found" in text:
            problem = "not an HDF5 file; give a trajectory written by bbdfield"
        elif "truncated file" in text:
            problem = "truncated HDF5 file, its end is missing; copy it again or run it again"
        else:
            problem = f"cannot be opened ({text}); restore it or run it again"
        raise InputError(f"{path}: {problem}") from error


def _end(dataset: h5py.Dataset, length: int | None) -> int:
    """Where in the file the part up to `length` ends: HDF5 reads zeros beyond the end of a truncated file."""
    if dataset.chunks is None:
        return (dataset.id.get_offset() or 0) + dataset.id.get_storage_size()
    ends = [0]

    def visit(chunk: Any) -> None:
        if length is None or chunk.chunk_offset[0] < length:
            ends.append(chunk.byte_offset + chunk.size)

    dataset.id.chunk_iter(visit)
    return max(ends)


def _open_shared(path: Path) -> h5py.File:
    """Like ``h5py.File(path, "r", swmr=True)``, but giving up on damaged metadata at once, nearly.

    HDF5 takes a wrong checksum for a write in progress and tries 100 times, doubling its pause from 1 ns: for
    ever. h5py does not offer the setting, so it is made in the HDF5 library that h5py has loaded.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    set_attempts = getattr(ctypes.CDLL(h5py.h5p.__file__), "H5Pset_metadata_read_attempts", None)
    if set_attempts is not None:
        set_attempts(ctypes.c_int64(access.id), ctypes.c_uint(_METADATA_ATTEMPTS))
    mode = h5py.h5f.ACC_RDONLY | h5py.h5f.ACC_SWMR_READ
    return h5py.File(h5py.h5f.open(os.fsencode(path), mode, fapl=access))


def content_digest(path: str | os.PathLike[str]) -> str:
    """`Trajectory.content_digest` of a file."""
    with Trajectory(path) as trajectory:
        return trajectory.content_digest()


def migrate(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Convert a trajectory of an older schema into a new file, step by step through `schema.MIGRATIONS`."""
    source, target = Path(source), Path(target)
    if target.exists():
        raise InputError(f"{target}: exists already; name a new file for the migrated trajectory")
    with open_file(source) as file:
        version = file.attrs.get("schema_version")
        if schema.plain(file.attrs.get("software")) != schema.SOFTWARE or not isinstance(version, np.integer):
            raise InputError(f"{source}: not a bbdfield trajectory; give one written by bbdfield")
    steps = range(int(version), schema.SCHEMA_VERSION)
    if not steps or any(step not in schema.MIGRATIONS for step in steps):
        raise InputError(f"{source}: no migration from schema {version} to {schema.SCHEMA_VERSION} is known or needed")
    part = target.with_name(target.name + ".part")
    try:
        with schema.one_line(f"{source}: cannot be migrated to {target}"):
            shutil.copyfile(source, part)
            with h5py.File(part, "r+", libver="latest") as file:
                for step in steps:
                    schema.MIGRATIONS[step](file)
                    file.attrs["schema_version"] = step + 1
                if file.attrs["complete"]:
                    file.attrs.modify(
                        "digest",
                        schema.text(schema.digest(file, schema.read_attributes(file))),
                    )
            os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
