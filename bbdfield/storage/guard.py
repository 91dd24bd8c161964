"""What stands between a file from elsewhere and memory: nothing is read before its size and kind are known.

A seal shows that a file is as it was finished, not that bbdfield wrote it. So every file, sealed or not, may only hold
what bbdfield writes: plain datasets of numbers (in sidecars also of text), stored in this very file, no larger than
this file can hold, and short attributes.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import os
import re
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil

from bbdfield.errors import Damaged, InputError
from bbdfield.storage import schema, seal

MOST_LETTERS = 2**16  # bytes of an entry of a dataset of text
MOST_MEMBERS = 10_000  # of a group
BOMB_BYTES, BOMB_RATIO = 2**28, 200  # what compression may claim beyond doubt, and in proportion to the file

_MOST_COMPRESSED = 1100  # deflate cannot do better than 1032:1, so a larger claim is a lie
_MOST_CHUNK, _MOST_ROWS, _MOST_DIMENSIONS, _MOST_LABEL = 2**30, 1024, 8, 1000
_METADATA_ATTEMPTS = 25  # pauses of 2**25 ns, 34 ms, altogether
_OPENING_ATTEMPTS = 4
_NAME = re.compile(r"[^\W\d]\w*(?:[.-]\w+)*", re.ASCII)
_SCALE, _ATTACHED = {"CLASS", "NAME", "REFERENCE_LIST"}, {"DIMENSION_LIST"}
_OURS = {"dims", "units"}
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_NUMBERS = (h5py.h5t.IEEE_F64LE, h5py.h5t.STD_I64LE)
_SUPERBLOCK = struct.Struct("<8sBBBBQQQ")
_SIGNATURE, _NOWHERE = b"\x89HDF\r\n\x1a\n", 2**64 - 1


@dataclass(frozen=True)
class Opened:
    """A file opened by `open_file`; `damage` says what is wrong with it, if that was to be tolerated."""

    file: h5py.File
    sealed: bool
    damage: str
    identity: seal.Identity
    began: int


def open_file(path: Path, remedy: str, *, tolerant: bool = False) -> Opened:
    """Open a finished file by its seal; one that is being written, or was when it was killed, as its flags say.

    Parameters
    ----------
    remedy : what to do about damage, for the error message
    tolerant : open it in spite of a wrong seal or a wrong length

    Raises
    ------
    InputError
        for a file that is missing, foreign, unreadable or locked; `Damaged` for anything wrong with its bytes.
    """
    attempts = _OPENING_ATTEMPTS
    while True:
        attempts -= 1
        try:
            return _open(path, remedy, tolerant or attempts > 0, tolerant)
        except _Changing:  # a writer finished or replaced it in between: look again
            if attempts <= 0:
                raise
            time.sleep(0.01)


class _Changing(Damaged):
    """The file is not as it was a moment ago, or seems to be of the wrong length."""


def _open(path: Path, remedy: str, again: bool, tolerant: bool) -> Opened:
    began, damage, is_sealed = time.time_ns(), "", False
    with _descriptor(path) as descriptor:
        known = seal.identity(descriptor)
        _check_holes(descriptor, path, remedy)
        try:
            is_sealed = seal.is_sealed(descriptor, path, remedy)
        except Damaged as error:
            if not tolerant:
                raise
            damage = str(error).removeprefix(f"{path}: ").removesuffix(f"; {remedy}")
        marked, end = _superblock(os.pread(descriptor, _SUPERBLOCK.size, 0), path, remedy)
        size = seal.identity(descriptor)[2]
    wrong = "" if marked or is_sealed or damage else _wrong_length(end, size)
    if wrong and not tolerant:
        raise _Changing(f"{path}: {wrong}; {remedy}")
    short = bool(damage or wrong) and end > size
    file = _hdf5(path, marked or short, remedy)
    try:
        if is_sealed and seal.identity(file.id.get_vfd_handle()) != known:
            raise _Changing(f"{path}: was replaced while it was opened; open it again")
    except BaseException:
        file.close()
        raise
    return Opened(file, is_sealed, damage or wrong, known, began)


def _check_holes(descriptor: int, path: Path, remedy: str) -> None:
    """Refuse what lies on the disk as next to nothing, which is soon made and takes hours to read."""
    status = os.fstat(descriptor)
    on_disk = 512 * getattr(status, "st_blocks", status.st_size)  # some systems do not say
    if is_bomb(status.st_size, on_disk):
        raise Damaged(f"{path}: of its {status.st_size} bytes only {on_disk} are on the disk; {remedy}")


def _wrong_length(end: int, size: int) -> str:
    if end > size:
        return f"truncated file, {end - size} bytes are missing from its end"
    return f"{size - end} bytes follow its end that do not belong there" if end < size else ""


@contextlib.contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path, or run the study that writes it")
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _superblock(content: bytes, path: Path, remedy: str) -> tuple[bool, int]:
    """Whether the file is marked as open for writing, and where it says that it ends."""
    if not content.startswith(_SIGNATURE):
        raise Damaged(f"{path}: not an HDF5 file; give one written by bbdfield, or if this was one, {remedy}")
    if len(content) < _SUPERBLOCK.size:
        raise Damaged(f"{path}: truncated file, next to nothing is left; {remedy}")
    _, version, offsets, lengths, flags, base, extension, end = _SUPERBLOCK.unpack(content)
    if version not in (2, 3):
        raise InputError(f"{path}: an HDF5 file, but none written by bbdfield (superblock {version}); give one that is")
    if (offsets, lengths, base, extension) != (8, 8, 0, _NOWHERE):
        raise Damaged(f"{path}: its superblock is not one that bbdfield writes; {remedy}")
    return flags != 0, end


def _hdf5(path: Path, shared: bool, remedy: str) -> h5py.File:
    try:
        try:
            return h5py.File(path, "r")  # this is also what opens a file that this very process is writing
        except (OSError, RuntimeError):
            if not shared:
                raise
            return _open_shared(path)
    except (OSError, RuntimeError, ValueError) as error:
        text = schema.reason(error)
        if "unable to lock file" in str(error):
            locked = "another process has it open for writing; wait for that process, or stop it"
            raise InputError(f"{path}: is locked, {locked}") from error
        raise _Changing(f"{path}: damaged, HDF5 cannot open it ({text}); {remedy}") from error


def _open_shared(path: Path) -> h5py.File:
    """Like ``h5py.File(path, "r", swmr=True)``, but giving up on damaged metadata at once, nearly.

    HDF5 takes a wrong checksum for a write in progress and tries 100 times, doubling its pause from 1 ns: for
    ever. h5py does not offer the setting, so it is made in the HDF5 library that h5py has loaded.
    """
    with phil:  # a call past h5py is to keep to its lock, too: the library is not made for threads
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
        set_attempts = getattr(ctypes.PyDLL(h5py.h5p.__file__), "H5Pset_metadata_read_attempts", None)
        if set_attempts is not None:
            set_attempts(ctypes.c_int64(access.id), ctypes.c_uint(_METADATA_ATTEMPTS))
        mode = h5py.h5f.ACC_RDONLY | h5py.h5f.ACC_SWMR_READ
        return h5py.File(h5py.h5f.open(os.fsencode(path), mode, fapl=access))


class Strange(ValueError):
    """What no file of bbdfield holds; `refusing` makes it an error that names the file."""


@contextlib.contextmanager
def refusing(path: Path, remedy: str) -> Iterator[None]:
    """Turn `Strange`, and whatever h5py raises for damaged bytes, into one line: `Damaged`."""
    try:
        yield
    except InputError:
        raise
    except Strange as error:
        raise Damaged(f"{path}: {error}; {remedy}") from error
    except (*schema.FAILURES, LookupError, ArithmeticError, SystemError) as error:
        raise Damaged(f"{path}: damaged ({schema.reason(error)}); {remedy}") from error


def names(group: h5py.Group) -> list[str]:
    """Names of what a group holds; `Strange` for too many, for unusual ones, and for links that lead elsewhere."""
    if group.id.get_num_objs() > MOST_MEMBERS:
        raise Strange(f"{group.name} holds {group.id.get_num_objs()} objects, more than any file of bbdfield")
    raw: list[bytes] = []
    group.id.links.iterate(raw.append)
    for name in raw:
        if len(name) > 255 or not _NAME.fullmatch(name.decode("utf-8", "replace")):
            raise Strange(f"{group.name} holds an object with an impossible name ({name[:40]!a})")
        if group.id.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            raise Strange(f"{name.decode()} links elsewhere, which no file of bbdfield does")
    return [name.decode() for name in raw]


def valid_name(name: str) -> bool:
    """Whether an array may bear this name: letters, digits, underscores, and single dots or hyphens inside."""
    return len(name) <= 255 and _NAME.fullmatch(name) is not None


def attributes(item: h5py.HLObject) -> dict[str, Any]:
    """All attributes of an object, which may only be short texts and whole numbers."""
    found = {}
    for place in range(_count(item)):
        name = h5py.h5a.open(item.id, index=place).name
        if len(name) > 255:
            raise Strange(f"{item.name} has an attribute with an impossible name")
        found[name.decode()] = attribute(item, name.decode())
    return found


def attribute(item: h5py.HLObject, name: str) -> Any:
    """One attribute, a text of fixed length or a whole number."""
    found = h5py.h5a.open(item.id, name.encode())
    kind, space = found.get_type(), found.get_space().get_simple_extent_type()
    if space == h5py.h5s.SCALAR and isinstance(kind, h5py.h5t.TypeStringID) and not kind.is_variable_str():
        if kind.get_size() > 4 * schema.MOST_TEXT:
            raise Strange(f"attribute {name} of {item.name} has {kind.get_size()} bytes, more than any of bbdfield")
        text = np.empty((), f"S{kind.get_size()}")
        found.read(text, mtype=kind)
        return text.item().decode()
    if space == h5py.h5s.SCALAR and kind.equal(h5py.h5t.STD_I64LE):
        number = np.empty((), "<i8")
        found.read(number)
        return number.item()
    raise Strange(f"attribute {name} of {item.name} is neither a short text nor an integer")


def label(file: h5py.File, name: str) -> Any:
    """A root attribute that says what the file is; None if there is none, or none of a usual kind."""
    try:
        return attribute(file, name) if h5py.h5a.exists(file.id, name.encode()) else None
    except Strange:
        return None


def _count(item: h5py.HLObject) -> int:
    count = h5py.h5a.get_num_attrs(item.id)
    if count > 64:
        raise Strange(f"{item.name} has {count} attributes, more than any object of bbdfield")
    return int(count)


def group(file: h5py.File, name: str) -> h5py.Group:
    """A group without attributes."""
    if h5py.h5o.get_info(file.id, name.encode()).type != h5py.h5o.TYPE_GROUP:
        raise Strange(f"{name} is no group")
    found = file[name]
    if _count(found):
        raise Strange(f"{name} has attributes, which no group of bbdfield has")
    return found


def dataset(file: h5py.File, name: str, *, texts: bool = False) -> h5py.Dataset:
    """A plain dataset: its numbers (or with `texts` also texts of fixed length) lie in this file, in known filters."""
    if h5py.h5o.get_info(file.id, name.encode()).type != h5py.h5o.TYPE_DATASET:
        raise Strange(f"{name} is not a plain dataset")
    low = h5py.h5d.open(file.id, name.encode())
    _check_type(low.get_type(), name, texts)
    space = low.get_space()
    if space.get_simple_extent_type() not in (h5py.h5s.SCALAR, h5py.h5s.SIMPLE) or low.rank > _MOST_DIMENSIONS:
        raise Strange(f"{name} has no usable shape")
    _check_storage(low, name)
    if isinstance(low.get_type(), h5py.h5t.TypeStringID) and low.get_create_plist().get_nfilters():
        raise Strange(f"{name} holds compressed text, which bbdfield never writes")  # decoded, it would take much more
    found = h5py.Dataset(low)
    present = {h5py.h5a.open(low, index=place).name.decode("utf-8", "replace") for place in range(_count(found))}
    scale = "CLASS" in present
    if scale and attribute(found, "CLASS") != "DIMENSION_SCALE":
        raise Strange(f"{name} has a CLASS that is not DIMENSION_SCALE")
    strange = present - _OURS - (_SCALE if scale else _ATTACHED)
    missing = {"CLASS", "NAME"} - present if scale else {"dims", *(_ATTACHED if low.rank else ())} - present
    if strange or missing:
        raise Strange(f"{name} has {f'an unknown attribute {min(strange)}' if strange else f'no {min(missing)}'}")
    for label in present & {"NAME", *_OURS}:
        if len(str(attribute(found, label))) > _MOST_LABEL:
            raise Strange(f"{name} has an attribute {label} of absurd length")
    return found


def _check_type(kind: Any, name: str, texts: bool) -> None:
    text = isinstance(kind, h5py.h5t.TypeStringID) and not kind.is_variable_str() and kind.get_size() <= MOST_LETTERS
    if kind.committed() or not (any(kind.equal(number) for number in _NUMBERS) or (texts and text)):
        raise Strange(f"{name} has a type that is not float64 or int64" + (" or short text" if texts else ""))


def _check_storage(low: h5py.h5d.DatasetID, name: str) -> None:
    plan = low.get_create_plist()
    layout = plan.get_layout()
    if layout not in (h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED) or plan.get_external_count():
        raise Strange(f"{name} is not a plain dataset: its values lie elsewhere")
    filters = [plan.get_filter(place)[0] for place in range(plan.get_nfilters())]
    if not set(filters) <= _FILTERS or len(filters) > len(_FILTERS):
        raise Strange(f"{name} passes through a filter that is not deflate, shuffle or fletcher32")
    if layout == h5py.h5d.CHUNKED:
        chunk, growing = plan.get_chunk(), low.get_space().get_simple_extent_dims(True)[0] == h5py.h5s.UNLIMITED
        most = [max(1, size) for size in low.shape]
        most[0] = _MOST_ROWS if growing else most[0]
        size = low.get_type().get_size() * math.prod(chunk)
        if size > _MOST_CHUNK or any(length > limit for length, limit in zip(chunk, most, strict=True)):
            raise Strange(f"{name} has chunks of {chunk}, larger than its shape {low.shape} needs")
        _check_chunks(low, name, size, filters)


def _check_chunks(low: h5py.h5d.DatasetID, name: str, size: int, filters: list[int]) -> None:
    """Every chunk as long as its filters make it: HDF5 does not look, and reads past the end of a shorter one."""
    checksum = 4 * (h5py.h5z.FILTER_FLETCHER32 in filters)
    packed = h5py.h5z.FILTER_DEFLATE in filters

    def visit(chunk: Any) -> None:
        fits = checksum < chunk.size <= 2 * size + 1024 if packed else chunk.size == size + checksum
        if chunk.filter_mask or not fits:
            raise Strange(f"{name} has a chunk of {chunk.size} bytes where its values take {size}")

    try:
        low.chunk_iter(visit)
    except (OSError, RuntimeError):  # a part of the index is cut off: what it still leads to counts
        lengths = low.get_create_plist().get_chunk()
        for offset in itertools.product(*map(range, itertools.repeat(0), low.shape, lengths)):
            try:
                found = low.get_chunk_info_by_coord(offset)
            except (OSError, RuntimeError, ValueError):
                continue
            if found.byte_offset is not None:
                visit(found)


def check_distinct(datasets: Iterable[h5py.Dataset]) -> None:
    """No two names may lead to one dataset."""
    seen: set[int] = set()
    for item in datasets:
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise Strange(f"{item.name} is another name of a dataset that is listed already")
        seen.add(address)


def check_claims(claims: Iterable[tuple[int, bool]], available: int) -> None:
    """Refuse what a file of `available` bytes cannot hold; claims are (bytes, whether they are compressed)."""
    plain = packed = 0
    for size, compressed in claims:
        packed, plain = (packed + size, plain) if compressed else (packed, plain + size)
    if plain > available or packed > _MOST_COMPRESSED * available:
        raise Strange(f"claims {plain + packed} bytes of values, more than a file of {available} bytes can hold")
    if is_bomb(packed, available):
        raise Strange(f"claims {packed} bytes compressed into {available}, more than {BOMB_RATIO} to 1")


def is_bomb(packed: int, available: int) -> bool:
    """Whether so much, compressed into a file of so many bytes, is more than real numbers ever give."""
    return packed > max(BOMB_BYTES, BOMB_RATIO * available)


def claim(item: h5py.Dataset, length: int | None = None) -> tuple[int, bool]:
    """Bytes of a dataset's values (up to `length` along its first dimension), and whether they are compressed."""
    if not schema.has_values(item):
        return 0, False
    shape = item.shape if length is None else (length, *item.shape[1:])
    return item.id.get_type().get_size() * math.prod(shape), item.compression is not None
