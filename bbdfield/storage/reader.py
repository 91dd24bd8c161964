"""Read a trajectory: lazily, only its complete snapshots, and only what its seal or its chain vouches for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from bbdfield.errors import Damaged, InputError
from bbdfield.storage import chain, guard, schema, seal

REMEDY = "run the study again with --resume, which repairs what it can, or restore the file"
AWAY = "restore the file, or move it away and run the study again with --resume"
_ATTRIBUTES: dict[str, type] = {
    "kind": str, "config": dict, "seed": int, "versions": dict, "git_revision": str, "command": str,
    "created": str, "resumed": list, "datasets": list, "digest": str, "backend": str,
}  # fmt: skip
_WHAT = ("software", "schema_version")


class Variable:
    """One dataset, read when indexed; along the growing dimension only its complete part exists.

    ``variable[i]`` takes what h5py takes (also negative integers) and returns a NumPy array.
    Raises `Damaged` naming file and dataset if the bytes on disk are damaged.
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
            raise Damaged(f"{self.path}: {self.name} is damaged ({schema.reason(error)}); {REMEDY}") from error

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
        elif isinstance(keys[0], int | np.integer):
            if not -self.shape[0] <= keys[0] < self.shape[0]:
                raise IndexError(f"{self.name}: entry {keys[0]} of {self.shape[0]}")
            keys[0] = int(keys[0]) % self.shape[0]
        else:
            keys[0] = np.arange(self.shape[0])[keys[0]]
        return tuple(keys)


class Trajectory:
    """A trajectory file opened for reading, also while it is being written or after its writer was killed.

    Opening it checks it: the seal of a finished file, the chain of any other (see `bbdfield.storage.seal` and
    `chain`), which reads it once from end to end. This process remembers what it has checked.

    Parameters
    ----------
    path : the file
    repair : open a damaged file too, as far as its snapshots are what was written: it then reads as an unfinished one
        of so many snapshots, and `damage` says what is wrong

    Attributes
    ----------
    path, kind, config, seed, attrs : as stored; `attrs` has all root attributes
    complete : whether the file carries the seal of a finished one
    damage : what is wrong with the file; "" for nothing
    t, step : (n_snapshots,) training time and step number of every complete snapshot
    fields, boundary : name -> `Variable` (lazy: ``trajectory.fields["w"][-1]``)
    coordinates : name -> array
    scalar_step : (n,) int64, and scalars, name -> (n,) array: one entry per training step; while the
        trajectory is incomplete, only those before its last complete snapshot
    evaluation : name -> (n_snapshots,) array

    Raises
    ------
    InputError
        Missing, foreign or locked file, other schema version: one line, with the remedy.
    Damaged
        Truncated, altered or hostile file, also with `repair` where nothing of it can be trusted.
    """

    def __init__(self, path: str | os.PathLike[str], *, repair: bool = False):
        self.path = Path(path)
        self._remedy = AWAY if repair else REMEDY
        opened = guard.open_file(self.path, self._remedy, tolerant=repair)
        self._file, self.complete, self.damage = opened.file, opened.sealed, opened.damage
        try:
            with guard.refusing(self.path, AWAY):
                self._read_header()
            with guard.refusing(self.path, self._remedy):
                self._read_entries(repair, opened)
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> None:
        """The root's attributes, and that no other objects are there than the file should have."""
        self.attrs = read_attributes(self._file, self.path)
        for name, wanted in _ATTRIBUTES.items():
            if type(self.attrs.get(name)) is not wanted:
                raise guard.Strange(f"attribute {name} is missing or not a {wanted.__name__}")
        self.kind: str = self.attrs["kind"]
        self.config: dict[str, Any] = self.attrs["config"]
        self.seed: int = self.attrs["seed"]
        if self.kind not in schema.KINDS:
            raise guard.Strange(f"kind is {self.kind!r}, not one of {', '.join(schema.KINDS)}")
        found = set(guard.names(self._file)) - set(schema.GROUPS)
        for group in schema.GROUPS:
            found |= {f"{group}/{name}" for name in guard.names(guard.group(self._file, group))}
        expected = {str(name) for name in self.attrs["datasets"]} | {*schema.SERIES, schema.WORD}
        if found != expected:
            name = min(found ^ expected)
            raise guard.Strange(f"dataset {name} {'is missing' if name in expected else 'does not belong there'}")

    def _read_entries(self, repair: bool, opened: guard.Opened) -> None:
        """Lengths, step numbers and times, and how far the chain vouches for them."""
        # While a writer runs, lengths grow: open and read step first, then all else is at least as long.
        file, path = self._file, self.path
        steps = self._entries(guard.dataset(file, "step"), repair)
        datasets = {name: guard.dataset(file, name) for name in sorted(self.attrs["datasets"])}
        guard.check_distinct(datasets.values())
        self._check_dimensions(datasets)
        scalar_step = self._entries(datasets["scalar_step"], repair)
        steps = steps[: self._common_length(datasets, "t", len(steps), repair)]
        scalar_step = scalar_step[: self._common_length(datasets, "scalar_step", len(scalar_step), repair)]
        self._limits = {"t": len(steps), "scalar_step": len(scalar_step)}
        guard.check_claims([guard.claim(item, self._length(item)) for item in datasets.values()], self._available())

        self.complete = self.complete and not self.damage
        if not self.complete:
            steps = steps[: self._follow(datasets, steps, scalar_step, repair, opened)]
            last = steps[-1] if len(steps) else 0
            scalar_step = scalar_step[: np.append(scalar_step >= last, True).argmax()]
            self._limits = {"t": len(steps), "scalar_step": len(scalar_step)}
        self.step: NDArray[np.int64] = steps
        self.scalar_step: NDArray[np.int64] = scalar_step
        self._datasets = datasets
        self._variables = {name: Variable(path, item, self._length(item)) for name, item in datasets.items()}
        self.t: NDArray[np.float64] = self._variables["t"][:]
        self.fields: Mapping[str, Variable] = self._group("fields")
        self.boundary: Mapping[str, Variable] = self._group("boundary")

    def _available(self) -> int:
        return os.fstat(self._file.id.get_vfd_handle()).st_size

    def _entries(self, dataset: h5py.Dataset, repair: bool) -> NDArray[np.int64]:
        """Step numbers, which increase from 0; with `repair`, those before the first that is wrong.

        An appended entry reads as -1 between its resize and its value: of snapshots one at most, since they come
        one at a time.
        """
        guard.check_claims([guard.claim(dataset)], self._available())
        values = _readable(dataset) if repair else np.asarray(dataset[:])
        rising = values > np.append(-1, values)[:-1]
        steps = values[: np.append(~rising, True).argmax()]
        rest = values[len(steps) :]
        if len(values) < len(dataset) or (rest != -1).any() or (dataset.name == "/step" and len(rest) > 1):
            broken = f"{dataset.name[1:]}: steps do not increase after entry {len(steps)} of {len(dataset)}"
            if not repair:
                raise guard.Strange(broken)
            self.damage = self.damage or broken
        return steps

    def _common_length(self, datasets: Mapping[str, h5py.Dataset], dim: str, wanted: int, repair: bool) -> int:
        """How many entries every dataset along a growing dimension has, at most `wanted`."""
        for name, item in datasets.items():
            if schema.dimensions(item)[:1] == (dim,) and len(item) < wanted:
                broken = f"{name} holds {len(item)} of {wanted} entries"
                if not repair:
                    raise guard.Strange(broken)
                self.damage, wanted = self.damage or broken, len(item)
        return wanted

    def _check_dimensions(self, datasets: Mapping[str, h5py.Dataset]) -> None:
        """Every dataset has its dimensions' lengths; those along a growing dimension are at least so long."""
        for name, item in datasets.items():
            if item.is_scale and schema.has_values(item) and schema.plain(item.attrs["NAME"]) != name:
                raise guard.Strange(f"dimension {name} has a scale of another name")
            for dim, size in zip(schema.dimensions(item), item.shape, strict=True):
                if dim not in datasets or not datasets[dim].is_scale:
                    raise guard.Strange(f"dimension {dim!r} of {name} has no scale")
                if dim not in ("t", "scalar_step") and datasets[dim].shape != (size,):
                    raise guard.Strange(f"{name} has {size} entries along {dim}, whose scale has {datasets[dim].shape}")

    def _length(self, item: h5py.Dataset) -> int | None:
        return self._limits.get(schema.dimensions(item)[0]) if item.shape else None

    def _follow(
        self,
        datasets: Mapping[str, h5py.Dataset],
        steps: NDArray[np.int64],
        scalar_step: NDArray[np.int64],
        repair: bool,
        opened: guard.Opened,
    ) -> int:
        """How many snapshots the chain vouches for; all of them, or `Damaged`, without `repair`."""
        unchanged = seal.identity(self._file.id.get_vfd_handle()) == opened.identity
        if not repair and unchanged and seal.remembered(opened.identity):
            return len(steps)
        began = chain.start(self.attrs, datasets)
        if began.hex() != self.attrs["digest"]:
            raise Damaged(f"{self.path}: its configuration or its constant data were altered; {AWAY}")
        kept, why = 0, "differs from its digest"
        try:
            for fits in chain.follow(datasets, began, steps, scalar_step):
                if not fits:
                    break
                kept += 1
        except (*schema.FAILURES, LookupError) as error:
            why = schema.reason(error)
        if kept < len(steps):
            broken = f"snapshot {kept} of {len(steps)} (step {steps[kept]}) is damaged or altered ({why})"
            if not repair:
                raise Damaged(f"{self.path}: {broken}; {self._remedy}")
            self.damage = self.damage or broken
        elif not self.damage:
            seal.remember(opened.identity, opened.began)
        return kept

    def _group(self, group: str) -> dict[str, Variable]:
        prefix = f"{group}/"
        return {name.removeprefix(prefix): v for name, v in self._variables.items() if name.startswith(prefix)}

    @property
    def n_snapshots(self) -> int:
        return len(self.step)

    @cached_property
    def coordinates(self) -> dict[str, NDArray[Any]]:
        scales = {name: v for name, v in self._variables.items() if "/" not in name and name not in schema.SERIES}
        return {name: v[:] for name, v in scales.items() if schema.has_values(self._datasets[name])}

    @cached_property
    def scalars(self) -> dict[str, NDArray[np.float64]]:
        return {name: variable[:] for name, variable in self._group("scalars").items()}

    @cached_property
    def evaluation(self) -> dict[str, NDArray[np.float64]]:
        return {name: variable[:] for name, variable in self._group("evaluation").items()}

    def content_digest(self) -> str:
        """SHA-256 of the datasets' complete part, without attributes and chain: equal for equal results."""
        with guard.refusing(self.path, REMEDY):
            return schema.content_digest(self._datasets, self._limits)

    def verify(self) -> None:
        """Check the whole file once more, seal and chain; raise `Damaged` if anything in it was altered."""
        if self.complete:
            seal.is_sealed(self._file.id.get_vfd_handle(), self.path, REMEDY, again=True)
        with guard.refusing(self.path, REMEDY):
            began = chain.start(self.attrs, self._datasets)
            links = chain.follow(self._datasets, began, self.step, self._variables["scalar_step"][:])
            if began.hex() != self.attrs["digest"] or not all(links):
                raise guard.Strange("altered, its chain of digests does not fit")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_attributes(file: h5py.File, path: Path) -> dict[str, Any]:
    """Root attributes of a trajectory as plain Python values, JSON decoded."""
    software, version = (guard.label(file, name) for name in _WHAT)
    if software != schema.SOFTWARE or not isinstance(version, int):
        raise InputError(f"{path}: an HDF5 file, but not a bbdfield trajectory; give one written by bbdfield")
    schema.check_version(version, path)
    attributes = guard.attributes(file)
    return {
        name: schema.decode_json(value, name) if name in schema.JSON_ATTRIBUTES else value
        for name, value in attributes.items()
    }


def _readable(dataset: h5py.Dataset) -> NDArray[np.int64]:
    """The entries of a list of numbers before the first that cannot be read."""
    try:
        return np.asarray(dataset[:])
    except schema.FAILURES:
        kept: list[int] = []
    with contextlib.suppress(*schema.FAILURES):
        for place in range(len(dataset)):
            kept.append(int(dataset[place]))
    return np.array(kept, dtype=np.int64)


def content_digest(path: str | os.PathLike[str]) -> str:
    """`Trajectory.content_digest` of a file."""
    with Trajectory(path) as trajectory:
        return trajectory.content_digest()
