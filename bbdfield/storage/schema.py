"""What a trajectory file holds: one HDF5 file per trajectory, the same layout for lattice and field.

Layout, schema version 1 (all numbers little-endian float64 or int64; no object types, no external links)::

    /                   attributes: software, schema_version, kind, config, seed, versions, git_revision,
                        command, created, resumed, datasets, complete, digest
    /t, /step           (t)              training time and step number of each snapshot; step is appended
                                         last, so its length is the number of complete snapshots
    /fields/w           (t, x_link, c_out, u, c_in) tied, or (t, x_link, y, c_out, u, c_in) untied
    /fields/b           (t, x_link, y, c_out)
    /fields/z           (t, x_site, y, c_out, sample)      on the fixed probe samples
    /fields/r           (t, output, c_out, mode)
    /evaluation/*       (t)              numbers measured at each snapshot, such as test_accuracy
    /scalar_step        (scalar_step)    step number of each training step
    /scalars/*          (scalar_step)    numbers measured at every training step, such as loss
    /boundary/*         what drives the trajectory and never changes: samples, labels, sample_index, lift, ...
    /<dimension>        the dimension scale of each dimension above, attached, with its coordinate, if any

In ``xarray.open_datatree`` the root's coordinates are inherited and hide a variable of the same name, such as
/boundary/y behind the coordinate y; ``xarray.open_dataset(..., group="boundary")`` shows it.

``datasets`` is the JSON list of every dataset, so that a missing one is noticed; ``resumed`` the JSON list of
the provenance (created, versions, git_revision, command) of every resumption; ``digest`` is what `digest`
returns, written on completion. Dimensions without a coordinate carry the netCDF mark for that, so that xarray
reads everything by name; ``dims`` on each other dataset says the same in one string.

Changing the layout means: raise `SCHEMA_VERSION`, and enter into `MIGRATIONS` under the *old* version a
function that edits an open file (a copy) into the next version; `bbdfield.storage.migrate` chains them and
seals the result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bbdfield.errors import InputError

SOFTWARE = "bbdfield"
SCHEMA_VERSION = 1
KINDS = ("lattice", "field")
GROUPS = ("fields", "evaluation", "scalars", "boundary")
SERIES = ("t", "step", "scalar_step")
UNITS = {"t": "training time", "x_site": "L_x", "x_link": "L_x", "y": "L_y", "u": "L_y"}
JSON_ATTRIBUTES = ("config", "versions", "resumed", "datasets")
NO_COORDINATE = "This is a netCDF dimension but not a netCDF variable."

MIGRATIONS: dict[int, Callable[[h5py.File], None]] = {}

_CHUNK_BYTES = 2**30  # HDF5 refuses chunks of 4 GiB and more
_SLAB_BYTES = 2**26


@contextmanager
def one_line(doing: str) -> Iterator[None]:
    """Turn what h5py raises for a damaged or unwritable file into an `InputError`: `doing` and why."""
    try:
        yield
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise InputError(f"{doing}: {' '.join(str(error).split())}") from error


def chunk_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunk of one float64 snapshot, (1, *shape), its longest side halved until it is at most 1 GiB."""
    chunk = [1, *(max(1, size) for size in shape)]
    while 8 * int(np.prod(chunk, dtype=object)) > _CHUNK_BYTES:
        longest = chunk.index(max(chunk))
        chunk[longest] = -(-chunk[longest] // 2)
    return tuple(chunk)


def check_version(version: int, path: Path) -> None:
    """Raise `InputError`, naming the remedy, unless this version of the schema is the one read here."""
    if version == SCHEMA_VERSION:
        return
    if version > SCHEMA_VERSION:
        remedy = "it was written by a newer bbdfield, upgrade bbdfield to read it"
    elif all(step in MIGRATIONS for step in range(version, SCHEMA_VERSION)):
        remedy = "convert it with bbdfield.storage.migrate(source, target)"
    else:
        remedy = "no migration from it is known, run the study again"
    raise InputError(f"{path}: schema version {version}, but this bbdfield reads version {SCHEMA_VERSION}; {remedy}")


def dimensions(dataset: h5py.Dataset) -> tuple[str, ...]:
    """Names of a dataset's dimensions; a dimension scale is its own."""
    if dataset.is_scale:
        return (dataset.name[1:],)
    return tuple(plain(dataset.attrs["dims"]).split())


def has_values(dataset: h5py.Dataset) -> bool:
    """False for a dimension that has no coordinate, whose dataset only carries a length."""
    return not (dataset.is_scale and dataset.attrs["NAME"].startswith(NO_COORDINATE.encode()))


def text(value: str) -> NDArray[np.bytes_]:
    """A string of fixed length, as attributes store it: the other kind lies outside all checksums."""
    encoded = value.encode()
    return np.array(encoded, h5py.string_dtype("utf-8", max(1, len(encoded))))


def plain(value: Any) -> Any:
    """Plain Python value of an attribute."""
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode() if isinstance(value, bytes) else value


def read_attributes(file: h5py.File) -> dict[str, Any]:
    """Root attributes as plain Python values, JSON decoded."""
    attributes: dict[str, Any] = {}
    for name, value in file.attrs.items():
        attributes[name] = json.loads(plain(value)) if name in JSON_ATTRIBUTES else plain(value)
    return attributes


def write_attributes(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    """Inverse of `read_attributes`; raises `InputError` where the configuration is not plain JSON."""
    for name, value in attributes.items():
        stored = encode_json(value, name) if name in JSON_ATTRIBUTES else value
        file.attrs[name] = text(stored) if isinstance(stored, str) else stored


def encode_json(value: Any, name: str) -> str:
    """Canonical JSON: sorted keys, no NaN or infinity, nothing but plain types."""
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name}: cannot be stored as JSON ({error}); use finite numbers, strings, lists, dicts"
        ) from error


def digest(
    file: h5py.File, attributes: Mapping[str, Any] | None = None, limits: Mapping[str, int] | None = None
) -> str:
    """SHA-256 of a trajectory: names, dimensions, types, shapes, units and bytes of all datasets.

    Parameters
    ----------
    file : open trajectory
    attributes : root attributes to include (``digest`` itself is left out); None for the datasets alone
    limits : lengths of the growing dimensions ``t`` and ``scalar_step`` to count; all of them by default
    """
    total = hashlib.sha256()
    if attributes is not None:
        kept = {name: value for name, value in attributes.items() if name != "digest"}
        total.update(json.dumps(kept, sort_keys=True).encode())
    for name in sorted(json.loads(file.attrs["datasets"])):
        with one_line(f"{file.filename}: /{name} is damaged, restore it or run it again"):
            _digest_dataset(total, name, file[name], limits or {})
    return total.hexdigest()


def _digest_dataset(total: Any, name: str, dataset: h5py.Dataset, limits: Mapping[str, int]) -> None:
    dims, shape = dimensions(dataset), dataset.shape
    if dims and dims[0] in limits:
        shape = (limits[dims[0]], *shape[1:])
    header = [name, dims, dataset.dtype.str, shape, plain(dataset.attrs.get("units", ""))]
    total.update(json.dumps(header).encode())
    if not has_values(dataset):
        return
    if not shape:
        total.update(dataset[()].tobytes())
        return
    rows = max(1, _SLAB_BYTES // max(1, 8 * int(np.prod(shape[1:]))))
    for start in range(0, shape[0], rows):
        total.update(np.ascontiguousarray(dataset[start : min(start + rows, shape[0])]).data)
