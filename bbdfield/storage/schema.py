"""What a trajectory file holds: one HDF5 file per trajectory, the same layout for lattice and field.

Layout, schema version 2 (all numbers little-endian float64 or int64; no object types, no external links)::

    /                   attributes: software, schema_version, kind, config, seed, versions, git_revision,
                        command, machine, created, resumed, backend, datasets, digest
    /t, /step           (t)              training time and step number of each snapshot; step is appended
                                         last, so its length is the number of complete snapshots
    /chain              (t, word)        digest of each snapshot, the one before it and all between them
    /fields/w           (t, x_link, c_out, u, c_in) tied, or (t, x_link, y, c_out, u, c_in) untied
    /fields/b           (t, x_link, y, c_out)
    /fields/z           (t, x_site, y, c_out, sample)      on the fixed probe samples
    /fields/r           (t, output, c_out, mode)
    /evaluation/*       (t)              numbers measured at each snapshot, such as test_accuracy
    /scalar_step        (scalar_step)    step number of each training step
    /scalars/*          (scalar_step)    numbers measured at every training step, such as loss
    /boundary/*         what drives the trajectory and never changes: samples, labels, sample_index, lift, ...
    /<dimension>        the dimension scale of each dimension above, attached, with its coordinate, if any
    (after the end)     the seal of a finished file, see `bbdfield.storage.seal`

In ``xarray.open_datatree`` the root's coordinates are inherited and hide a variable of the same name, such as
/boundary/y behind the coordinate y; ``xarray.open_dataset(..., group="boundary")`` shows it.

``datasets`` is the JSON list of every dataset, so that a missing one is noticed; ``resumed`` the JSON list of
the provenance (created, versions, git_revision, command, machine) of every resumption; ``digest`` begins the chain
(`bbdfield.storage.chain`). Dimensions without a coordinate carry the netCDF mark for that, so that xarray
reads everything by name; ``dims`` on each other dataset says the same in one string.

Changing the layout means: raise `SCHEMA_VERSION`, and enter into `MIGRATIONS` under the *old* version a
function that edits an open file (a copy) into the next version; `bbdfield.storage.migrate` goes through them, and
`bbdfield.storage.migrations` holds the functions.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bbdfield.errors import InputError

SOFTWARE = "bbdfield"
SCHEMA_VERSION = 2
KINDS = ("lattice", "field")
GROUPS = ("fields", "evaluation", "scalars", "boundary")
SERIES = ("t", "step", "scalar_step", "chain")
CHAIN, WORD = "chain", "word"
WORDS = 4  # of 8 bytes, in a SHA-256
UNITS = {"t": "training time", "x_site": "L_x", "x_link": "L_x", "y": "L_y", "u": "L_y"}
JSON_ATTRIBUTES = ("config", "versions", "resumed", "datasets")
MOST_TEXT = 2**22  # letters of an attribute
NO_COORDINATE = "This is a netCDF dimension but not a netCDF variable."

MIGRATIONS: dict[int, Callable[[h5py.File], None]] = {}

#: what h5py and the operating system raise when a file cannot be read or written
FAILURES = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError)

_SLAB_BYTES = 2**26


@contextmanager
def one_line(doing: str) -> Iterator[None]:
    """Turn what h5py raises for an unwritable file into an `InputError`: `doing` and why."""
    try:
        yield
    except InputError:
        raise
    except FAILURES as error:
        raise InputError(f"{doing}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Why something failed: the operating system's words out of HDF5's long message, where it has them."""
    text = " ".join(str(error).split()) or type(error).__name__
    told = re.search(r"error message = '([^']*)'", text)
    return told[1] if told else re.sub(r"^\[Errno \d+\] ", "", text)[:300]


def chunk_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunk of one float64 snapshot: (1, *shape), or as many of its values in C order as fit into 64 MiB."""
    chunk = [1, *(max(1, size) for size in shape)]
    for axis in range(1, len(chunk)):
        chunk[axis] = max(1, min(chunk[axis], _SLAB_BYTES // (8 * math.prod(chunk[axis + 1 :]))))
    return tuple(chunk)


def blocks(dataset: h5py.Dataset, shape: tuple[int, ...], first: tuple[int, ...] = ()) -> Iterator[NDArray[Any]]:
    """The values of ``dataset[first]``, which have this shape, in C order, in pieces of at most 64 MiB."""
    if not shape:
        yield np.asarray(dataset[first])
    if 0 in shape or not shape:
        return
    item = dataset.dtype.itemsize
    axis = next(axis for axis in range(len(shape)) if item * math.prod(shape[axis + 1 :]) <= _SLAB_BYTES)
    rows = max(1, _SLAB_BYTES // (item * math.prod(shape[axis + 1 :])))
    for lead in np.ndindex(*shape[:axis]):
        for start in range(0, shape[axis], rows):
            yield np.asarray(dataset[(*first, *lead, slice(start, min(start + rows, shape[axis])))])


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
    encoded = value.encode("utf-8", "backslashreplace")  # a command line may hold bytes that are no text
    return np.array(encoded, h5py.string_dtype("utf-8", max(1, len(encoded))))


def plain(value: Any) -> Any:
    """Plain Python value of an attribute."""
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode() if isinstance(value, bytes) else value


def write_attributes(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    """Store texts, integers and, under the names for it, JSON; raises `InputError` for what is none of these."""
    for name, value in attributes.items():
        stored = encode_json(value, name) if name in JSON_ATTRIBUTES else value
        if isinstance(stored, str) and len(stored) > MOST_TEXT:
            raise InputError(f"{name}: is {len(stored)} characters long; files take at most {MOST_TEXT}")
        file.attrs[name] = text(stored) if isinstance(stored, str) else stored


def encode_json(value: Any, name: str) -> str:
    """Canonical JSON: sorted keys, no NaN or infinity, nothing but plain types."""
    try:
        plain_types = json.loads(json.dumps(value, allow_nan=False))  # keys that are numbers become strings: sorted so
        return json.dumps(plain_types, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{name}: cannot be stored as JSON ({error}); use finite numbers, strings, lists, dicts"
        ) from error


def decode_json(text: str, name: str) -> Any:
    """Inverse of `encode_json`, which refuses whatever that does not write: NaN, infinities, repeated keys, ..."""
    value = json.loads(text)
    try:
        same = encode_json(value, name) == text
    except InputError:
        same = False
    if not same:
        raise ValueError(f"attribute {name} is not JSON as bbdfield writes it")
    return value


def content_digest(datasets: Mapping[str, h5py.Dataset], limits: Mapping[str, int] | None = None) -> str:
    """SHA-256 of names, dimensions, types, shapes, units and bytes of datasets, but for the chain.

    Parameters
    ----------
    datasets : name -> dataset
    limits : lengths of the growing dimensions ``t`` and ``scalar_step`` to count; all of them by default
    """
    total = hashlib.sha256()
    for name in sorted(set(datasets) - {CHAIN, WORD}):
        dims, shape = dimensions(datasets[name]), datasets[name].shape
        if dims and limits and dims[0] in limits:
            shape = (limits[dims[0]], *shape[1:])
        digest_dataset(total, name, datasets[name], shape)
    return total.hexdigest()


def digest_dataset(total: Any, name: str, dataset: h5py.Dataset, shape: tuple[int, ...]) -> None:
    """Add name, dimensions, type, shape, units and the values within that shape to a running hash."""
    header = [name, dimensions(dataset), dataset.dtype.str, shape, plain(dataset.attrs.get("units", ""))]
    total.update(json.dumps(header).encode())
    if has_values(dataset):
        for block in blocks(dataset, shape):
            total.update(np.ascontiguousarray(block).data)
