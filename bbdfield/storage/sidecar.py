"""Arrays that a study or an analysis found: one small HDF5 file beside the trajectories, which stay as they are.

Layout (all numbers little-endian float64 or int64, all text of fixed length in UTF-8)::

    /               attributes: software, sidecar_version, kind, config, digest; when, how and by what written
    /<array>        with its dimensions attached as scales, and ``dims``, their names in one string
    /<dimension>    its coordinate, or the netCDF mark of a dimension without one
    (after the end) the seal, see `bbdfield.storage.seal`

so that ``xarray.open_dataset`` shows every array with its dimensions. The seal is checked on reading. ``digest`` covers
configuration and arrays: equal arrays give an equal digest, whenever and wherever they were written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from bbdfield.errors import Damaged, InputError
from bbdfield.files import write_bytes
from bbdfield.provenance import provenance
from bbdfield.storage import guard, schema, seal
from bbdfield.storage.writer import attach, check_directory, in_memory, numeric

SIDECAR_VERSION = 2
REMEDY = "compute it again"

_DECODED_AT_ONCE = 2**24  # bytes of memory

Named = Mapping[str, tuple[tuple[str, ...], ArrayLike]]


class _Earlier(InputError):
    """A sidecar of an earlier version."""


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar holds.

    kind : which analysis wrote it.   config : what it was told.   digest : of configuration and arrays.
    arrays : name -> array.   dims : name -> names of its dimensions.   coordinates : dimension -> its coordinate.
    origin : when, how and by what it was written.
    """

    path: Path
    kind: str
    config: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    dims: dict[str, tuple[str, ...]]
    coordinates: dict[str, NDArray[Any]]
    digest: str
    origin: dict[str, str]


def write_sidecar(
    path: str | os.PathLike[str],
    *,
    kind: str,
    config: dict[str, Any],
    arrays: Named,
    coordinates: Mapping[str, ArrayLike] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write arrays to a new file, which appears complete or not at all.

    Parameters
    ----------
    kind : name of the analysis.
    config : what it was told, plain JSON types.
    arrays : name -> (names of its dimensions, values), numbers or text; NaN is allowed.
    coordinates : dimension -> its coordinate, 1-d, numbers or text; other dimensions get a length only.
    overwrite : replace an existing file, which stays intact until the new one stands.

    Raises
    ------
    InputError
        for an existing file, names or lengths that do not fit each other, values that are neither real numbers nor
        text, or a file that cannot be written.
    """
    path = Path(path)
    values = {name: _values(given, f"array {name}") for name, (_, given) in arrays.items()}
    dims = {name: tuple(given) for name, (given, _) in arrays.items()}
    scales = {name: _values(given, f"coordinate {name}") for name, given in (coordinates or {}).items()}
    sizes = _sizes(values, dims, scales)
    text = schema.encode_json(config, "config")
    check_directory(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; choose another file or overwrite it")
    attributes = {
        "software": schema.SOFTWARE,
        "sidecar_version": SIDECAR_VERSION,
        "kind": kind,
        "config": config,
        **provenance(),
        "digest": _digest(kind, text, values, dims, scales),
    }
    with schema.one_line(f"{path}: cannot be written"), in_memory("new") as file:
        schema.write_attributes(file, attributes)
        for name, size in sizes.items():
            if name in scales:
                _store(file, name, scales[name]).make_scale(name)
                if name in schema.UNITS:
                    file[name].attrs["units"] = schema.text(schema.UNITS[name])
            else:
                file.create_dataset(name, (size,), "i8").make_scale(f"{schema.NO_COORDINATE} {size:10d}")
        for name, value in values.items():
            attach(file, _store(file, name, value), dims[name])
        file.flush()
        write_bytes(path, seal.sealed(file.id.get_file_image()))
    return path


def is_sidecar(path: str | os.PathLike[str]) -> bool:
    """Whether a file says that it is a sidecar; `InputError` for one that is not there or no HDF5 file."""
    path = Path(path)
    with guard.open_file(path, REMEDY).file as file, guard.refusing(path, REMEDY):
        return isinstance(guard.label(file, "sidecar_version"), int)


def read_sidecar(path: str | os.PathLike[str]) -> Sidecar:
    """Read a whole sidecar.

    Raises
    ------
    InputError
        for a missing, foreign, damaged or altered file: one line, with the remedy.
    """
    path = Path(path)
    opened = guard.open_file(path, REMEDY)
    with opened.file as file, guard.refusing(path, REMEDY):
        software, version = (guard.label(file, name) for name in _WHAT)
        if software != schema.SOFTWARE or not isinstance(version, int):
            raise InputError(f"{path}: an HDF5 file, but no bbdfield sidecar; give one that an analysis wrote")
        if version != SIDECAR_VERSION:
            known = f"sidecar version {version}, but this bbdfield reads version {SIDECAR_VERSION}"
            if version > SIDECAR_VERSION:
                raise InputError(f"{path}: {known}; it was written by a newer bbdfield, upgrade bbdfield to read it")
            raise _Earlier(f"{path}: {known}; {REMEDY}")
        if not opened.sealed:
            raise Damaged(f"{path}: altered after it was written, or cut (it has no seal); {REMEDY}")
        attributes = guard.attributes(file)
        config = schema.decode_json(attributes["config"], "config")
        if not isinstance(config, dict):
            raise guard.Strange("attribute config is not a dict")
        datasets = [guard.dataset(file, name, texts=True) for name in guard.names(file)]
        guard.check_distinct(datasets)
        guard.check_claims([guard.claim(dataset) for dataset in datasets], path.stat().st_size)
        scales = {item.name[1:]: _load(item) for item in datasets if item.is_scale and schema.has_values(item)}
        found = {item.name[1:]: item for item in datasets if not item.is_scale}
        arrays = {name: _load(item) for name, item in found.items()}
        dims = {name: schema.dimensions(item) for name, item in found.items()}
        try:
            _sizes(arrays, dims, scales)
        except InputError as error:
            raise guard.Strange(str(error)) from error
        origin = {name: str(attributes[name]) for name in provenance() if name in attributes}
        return Sidecar(path, attributes["kind"], config, arrays, dims, scales, attributes["digest"], origin)


def finished_sidecar(path: Path) -> Sidecar | None:
    """What a study that goes on finds of itself: the sidecar, or None if it is to be computed (again).

    That is where there is none, and, as one line on the log says, where it is damaged or of an earlier version.

    Raises
    ------
    InputError
        for a file that is no sidecar, or of a newer version.
    """
    if not path.exists():
        return None
    try:
        return read_sidecar(path)
    except (Damaged, _Earlier) as error:
        why = str(error).removeprefix(f"{path}: ").split("; ")[0]
        logging.getLogger("bbdfield").warning("%s: %s; computing it again", path, why)
        return None


_WHAT = ("software", "sidecar_version")


def _values(given: ArrayLike, what: str) -> NDArray[Any]:
    """Numbers as float64 or int64, text as it is."""
    array = np.asarray(given)
    if array.dtype.kind != "U":
        return numeric(array, what)
    if any("\0" in entry for entry in array.flat):
        raise InputError(f"{what}: text with a zero byte cannot be stored; leave it out")
    return array


def _store(file: h5py.File, name: str, values: NDArray[Any]) -> h5py.Dataset:
    """Text goes in as UTF-8 of fixed length: HDF5 keeps the other kind outside its checksums, and h5py as objects."""
    if values.dtype.kind != "U":
        return file.create_dataset(name, data=values)
    encoded = np.char.encode(values, "utf-8", "backslashreplace")
    length = max(1, encoded.dtype.itemsize)
    if length > guard.MOST_LETTERS:
        raise InputError(f"array {name}: text of {length} bytes; files take at most {guard.MOST_LETTERS}")
    return file.create_dataset(name, data=encoded.view(h5py.string_dtype("utf-8", length)))


def _load(dataset: h5py.Dataset) -> NDArray[Any]:
    values = np.asarray(dataset[()])
    return _decoded(values) if values.dtype.kind == "S" else values


def _decoded(texts: NDArray[np.bytes_]) -> NDArray[np.str_]:
    """Texts from UTF-8, some at a time: while they are decoded, each takes 100 bytes and more besides its letters."""
    flat, letters = texts.reshape(-1), texts.dtype.itemsize
    decoded = np.empty(flat.shape, f"U{letters}")
    some = 1 + _DECODED_AT_ONCE // (100 + letters)
    for i in range(0, len(flat), some):
        decoded[i : i + some] = np.char.decode(flat[i : i + some], "utf-8")
    longest = int(np.char.str_len(decoded).max(initial=1))
    return decoded.astype(f"U{longest}", copy=False).reshape(texts.shape)


def _sizes(
    values: Mapping[str, NDArray[Any]], dims: Mapping[str, tuple[str, ...]], scales: Mapping[str, NDArray[Any]]
) -> dict[str, int]:
    """Length of every dimension."""
    sizes: dict[str, int] = {}
    shaped: list[tuple[str, tuple[str, ...], tuple[int, ...]]]
    shaped = [(f"coordinate {name}", (name,), scale.shape) for name, scale in scales.items()]
    shaped += [(f"array {name}", dims[name], value.shape) for name, value in values.items()]
    for what, names, shape in shaped:
        if len(names) != len(shape) or len(set(names)) != len(names):
            raise InputError(f"{what}: dimensions {names} do not fit its shape {shape}")
        for name, size in zip(names, shape, strict=True):
            if sizes.setdefault(name, size) != size:
                raise InputError(f"{what}: its dimension {name} has length {size}, elsewhere {sizes[name]}")
    for name in (*values, *sizes):
        if not guard.valid_name(name):
            allowed = "use letters, digits, underscores, and dots or hyphens between them"
            raise InputError(f"{name!r} cannot name an array or dimension; {allowed}")
        if name in values and name in sizes:
            raise InputError(f"array {name}: has the name of a dimension; give it as a coordinate or rename it")
    return sizes


def _digest(
    kind: str,
    config: str,
    values: Mapping[str, NDArray[Any]],
    dims: Mapping[str, tuple[str, ...]],
    scales: Mapping[str, NDArray[Any]],
) -> str:
    total = hashlib.sha256(json.dumps([kind, config]).encode())
    for name, value in sorted({**values, **scales}.items()):
        total.update(json.dumps([name, dims.get(name, (name,)), value.dtype.str, value.shape]).encode())
        total.update(np.ascontiguousarray(value).tobytes())
    return total.hexdigest()
