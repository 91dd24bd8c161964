"""Arrays that a study or an analysis found: one small HDF5 file beside the trajectories, which stay as they are.

Layout (all numbers little-endian float64 or int64)::

    /               attributes: software, sidecar_version, kind, config, digest; when, how and by what written
    /<array>        with its dimensions attached as scales, and ``dims``, their names in one string
    /<dimension>    its coordinate, or the netCDF mark of a dimension without one

so that ``xarray.open_dataset`` shows every array with its dimensions. ``digest`` covers configuration and arrays, and
is compared on reading. Equal arrays give an equal digest, whenever and wherever they were written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from bbdfield.errors import InputError
from bbdfield.provenance import provenance
from bbdfield.storage import schema
from bbdfield.storage.reader import open_file
from bbdfield.storage.writer import numeric

SIDECAR_VERSION = 1

Named = Mapping[str, tuple[tuple[str, ...], ArrayLike]]


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar holds.

    kind : which analysis wrote it.   config : what it was told.   digest : of configuration and arrays.
    arrays : name -> array.   dims : name -> names of its dimensions.   coordinates : dimension -> its coordinate.
    """

    path: Path
    kind: str
    config: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    dims: dict[str, tuple[str, ...]]
    coordinates: dict[str, NDArray[Any]]
    digest: str


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
    arrays : name -> (names of its dimensions, values); NaN is allowed.
    coordinates : dimension -> its coordinate, 1-d; other dimensions get a length only.
    overwrite : replace an existing file, which stays intact until the new one stands.

    Raises
    ------
    InputError
        for an existing file, names or lengths that do not fit each other, values that are no real numbers, or a file
        that cannot be written.
    """
    path = Path(path)
    values = {name: numeric(given, f"array {name}") for name, (_, given) in arrays.items()}
    dims = {name: tuple(given) for name, (given, _) in arrays.items()}
    scales = {name: numeric(given, f"coordinate {name}") for name, given in (coordinates or {}).items()}
    sizes = _sizes(values, dims, scales)
    text = schema.encode_json(config, "config")
    if path.is_dir():
        raise InputError(f"{path}: is a directory; give the name of a file")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; choose another file or overwrite it")
    if not path.parent.is_dir():
        raise InputError(f"{path}: directory {path.parent} does not exist; create it first")
    origin = {key: json.dumps(v, sort_keys=True) if isinstance(v, dict) else v for key, v in provenance().items()}
    attributes = {
        "software": schema.SOFTWARE,
        "sidecar_version": SIDECAR_VERSION,
        "kind": kind,
        "config": text,
        **origin,
        "digest": _digest(kind, text, values, dims, scales),
    }
    part = path.with_name(path.name + ".part")
    with schema.one_line(f"{path}: cannot be written, check the directory's permissions and free space"):
        try:
            with h5py.File(part, "w", libver="latest") as file:
                for name, value in attributes.items():
                    file.attrs[name] = schema.text(value) if isinstance(value, str) else value
                for name, size in sizes.items():
                    if name in scales:
                        file.create_dataset(name, data=scales[name]).make_scale(name)
                        if name in schema.UNITS:
                            file[name].attrs["units"] = schema.text(schema.UNITS[name])
                    else:
                        file.create_dataset(name, (size,), "i8").make_scale(f"{schema.NO_COORDINATE} {size:10d}")
                for name, value in values.items():
                    dataset = file.create_dataset(name, data=value)
                    dataset.attrs["dims"] = schema.text(" ".join(dims[name]))
                    for axis, dim in enumerate(dims[name]):
                        dataset.dims[axis].attach_scale(file[dim])
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return path


def read_sidecar(path: str | os.PathLike[str]) -> Sidecar:
    """Read a whole sidecar.

    Raises
    ------
    InputError
        for a missing, foreign, damaged or altered file: one line, with the remedy.
    """
    path = Path(path)
    with (
        open_file(path) as file,
        schema.one_line(f"{path}: damaged, restore it or compute it again"),
    ):
        version = file.attrs.get("sidecar_version")
        if schema.plain(file.attrs.get("software")) != schema.SOFTWARE or not isinstance(version, np.integer):
            raise InputError(f"{path}: an HDF5 file, but no bbdfield sidecar; give one that an analysis wrote")
        if version != SIDECAR_VERSION:
            known = f"but this bbdfield reads version {SIDECAR_VERSION}"
            raise InputError(f"{path}: sidecar version {version}, {known}; compute it again")
        found: dict[str, NDArray[Any]] = {}
        dims: dict[str, tuple[str, ...]] = {}
        scales: dict[str, NDArray[Any]] = {}
        for name in file:
            dataset = file[name]
            if not isinstance(dataset, h5py.Dataset) or dataset.dtype.str not in ("<f8", "<i8"):
                raise InputError(f"{path}: {name} is no array of numbers; compute it again")
            if not dataset.is_scale:
                found[name], dims[name] = np.asarray(dataset[()]), schema.dimensions(dataset)
            elif schema.has_values(dataset):
                scales[name] = np.asarray(dataset[()])
        kind, text = schema.plain(file.attrs["kind"]), schema.plain(file.attrs["config"])
        digest = _digest(kind, text, found, dims, scales)
        if digest != schema.plain(file.attrs["digest"]):
            raise InputError(f"{path}: altered after it was written (digest differs); compute it again")
        return Sidecar(path, kind, json.loads(text), found, dims, scales, digest)


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
        if not name.isidentifier():
            raise InputError(f"{name!r} cannot name an array or dimension; use letters, digits and underscores")
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
