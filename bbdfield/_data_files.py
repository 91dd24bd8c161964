"""The arrays of a user's data file, npz or HDF5, read without trusting what the file says of itself.

What a header claims is held against the bytes that are there before memory is taken for it, nothing is unpickled,
unpacked to disk or fetched from another file, and whatever a library says of a damaged file becomes one line.
"""

from __future__ import annotations

import io
import math
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bbdfield._text import visible
from bbdfield.errors import InputError

#: Arrays of so many bytes as float64 are read however well they are compressed; larger ones only if what is stored is
#: compressed to no less than a hundredth.
FREE, RATIO = 2**28, 100
#: Longest directory of an archive, longest header of an array in it (both would be read at once), most names listed.
_DIRECTORY, _HEADER, _LISTED = 2**20, 2**14, 12
_PIECE = 2**18
_DEFLATE, _SHUFFLE, _FLETCHER = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32


class _Bad(ValueError):
    """What is wrong with a file and what to do, without its name."""


def read_arrays(path: Path, keys: Sequence[str], needed: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of `keys` that are in the file; arrays of integers, floats or truth values.

    Raises
    ------
    InputError
        One line: no plain file, of another format, damaged, without one of the `needed` arrays, with an array that is
        not what it seems or larger than the memory.
    """
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise InputError(f"data file {path}: unknown type '{suffix}'; give .h5, .hdf5 or .npz")
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise InputError(f"data file {path}: no such file; check the path") from error
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"data file {path}: no such file, but a directory, pipe or device; give a plain file")
    form, reader = _READERS[suffix]
    # What is not allocated (holes) reads as zeros; some systems do not say.
    disk = min(found.st_size, 512 * getattr(found, "st_blocks", found.st_size))
    try:
        return reader(path, keys, needed, _Claims(disk))
    except InputError:
        raise
    except _Bad as error:
        raise InputError(f"data file {path}: {error}") from error
    except Exception as error:  # the libraries raise almost anything for damaged bytes, also MemoryError
        raise InputError(
            f"data file {path}: cannot be read as {form}; it is truncated, of another format, holds pickled"
            " objects, or is locked: write it again"
        ) from error


class _Claims:
    """What arrays claim to need, held against the bytes on disk and the memory."""

    def __init__(self, disk: int):
        self.disk, self.total = disk, 0

    def check(self, key: str, dtype: np.dtype[Any], shape: tuple[int, ...], disk: int) -> None:
        if dtype.kind not in "biuf" or dtype.hasobject or dtype.subdtype is not None:
            raise _Bad(f"'{key}' holds {visible(str(dtype), '', 60)}, not real numbers; store integers or floats")
        count, disk = math.prod(shape), min(disk, self.disk)
        need = 8 * count
        if need > FREE and dtype.itemsize * count > RATIO * disk:
            raise _Bad(
                f"'{key}' claims {_bytes(dtype.itemsize * count)}, of shape {_short(shape)}, and has {_bytes(disk)} on"
                " disk; write it again, uncompressed"
            )
        self.total += need
        if self.total > memory():
            raise _Bad(f"its arrays need {_bytes(self.total)} as float64, more than the memory; give fewer samples")


def memory() -> int:
    """Bytes of memory that this process may have at most."""
    known = [2**62]
    try:
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        import resource

        known.append(resource.getrlimit(resource.RLIMIT_AS)[0])
    except (AttributeError, ImportError, OSError, ValueError):  # not on every system
        pass
    return min(size for size in known if size > 0)


def _bytes(size: int) -> str:
    return f"{float(min(size, 10**30)):.3g} bytes"


def _short(shape: tuple[int, ...]) -> str:
    return visible(str(shape) if max(shape, default=0) < 10**30 else "beyond all bounds", "", 80)


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(visible(name, "", 40) for name in sorted(names)[:_LISTED]) or "nothing"
    return f"{shown} and {len(names) - _LISTED} more" if len(names) > _LISTED else shown


def _require(names: Sequence[str], needed: Sequence[str]) -> None:
    for key in needed:
        if key not in names:
            raise _Bad(f"no array '{key}' (found: {_names(names)}); store signals as x, answers as y")


# ---- npz


class _Frugal(io.FileIO):
    """A file that refuses to hand out much at once, such as the whole directory of an archive of a million names."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _DIRECTORY:
            raise _Bad("is an archive of too many names; write it again with numpy.savez")
        return super().read(-1 if size is None else size)


def _read_npz(path: Path, keys: Sequence[str], needed: Sequence[str], claims: _Claims) -> dict[str, np.ndarray]:
    with _Frugal(path, "rb") as stream, zipfile.ZipFile(stream) as archive:
        entries: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            name = info.filename
            if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
                raise _Bad(f"holds the name {visible(name, '', 40)!r}, which leads elsewhere; write it again")
            key = name.removesuffix(".npy")
            if key in keys and key in entries:
                raise _Bad(f"holds '{key}' twice; write it again with numpy.savez")
            entries[key] = info
        _require(list(entries), needed)
        return {key: _npy(archive, key, entries[key], claims) for key in keys if key in entries}


def _npy(archive: zipfile.ZipFile, key: str, info: zipfile.ZipInfo, claims: _Claims) -> np.ndarray:
    if info.flag_bits & 1:
        raise _Bad(f"'{key}' is encrypted; write it again with numpy.savez")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _Bad(f"'{key}' is compressed in a way that NumPy does not write; write it again with numpy.savez")
    with archive.open(info) as entry:
        shape, fortran, dtype, start = _npy_header(key, entry)
        claims.check(key, dtype, shape, info.compress_size)
        size = math.prod(shape) * dtype.itemsize
        if start + size != info.file_size:
            raise _Bad(f"'{key}' has {info.file_size - start} bytes, but its header claims {size}; write it again")
        array = np.empty(math.prod(shape), dtype)
        content, done = array.view(np.uint8), 0
        while done < size:
            piece = entry.read(min(_PIECE, size - done))
            if not piece:
                raise EOFError(key)
            content[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
        if entry.read(1):  # at the end the checksum is looked at
            raise _Bad(f"'{key}' is longer than its header claims; write it again")
    return array.reshape(shape, order="F" if fortran else "C")


def _npy_header(key: str, entry: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order, type, and where the values start."""
    begin = entry.read(8)
    if len(begin) < 8 or not begin.startswith(b"\x93NUMPY"):
        raise _Bad(f"'{key}' is no NumPy array; write it again with numpy.savez")
    width, parse = {
        (1, 0): (2, np.lib.format.read_array_header_1_0),
        (2, 0): (4, np.lib.format.read_array_header_2_0),
    }.get((begin[6], begin[7]), (0, None))
    length = entry.read(width)
    count = int.from_bytes(length, "little")
    if parse is None or count > _HEADER:
        raise _Bad(f"'{key}' has a header that no array of numbers has; write it again with numpy.savez")
    shape, fortran, dtype = parse(io.BytesIO(length + entry.read(count)))
    if dtype.hasobject:
        raise _Bad(f"'{key}' holds pickled objects, which are not read; store integers or floats")
    if any(isinstance(n, bool) or n < 0 for n in shape):
        raise _Bad(f"'{key}' has the impossible shape {_short(shape)}; write it again")
    return shape, fortran, dtype, 8 + width + count


# ---- HDF5


def _read_hdf5(path: Path, keys: Sequence[str], needed: Sequence[str], claims: _Claims) -> dict[str, np.ndarray]:
    with h5py.File(path, "r") as file:
        there = [key for key in keys if file.id.links.exists(key.encode())]
        for key in there:
            if not isinstance(file.get(key, getlink=True), h5py.HardLink):
                raise _Bad(f"'{key}' links elsewhere; store the array itself")
        arrays = [key for key in there if isinstance(file[key], h5py.Dataset)]
        if any(key not in arrays for key in needed):
            count = file.id.get_num_objs()
            others = [f"{count} names"] if count > 1000 else [name for name in file if name not in keys]
            _require([*arrays, *others], needed)
        return {key: _hdf5_array(key, file[key], claims) for key in arrays}


def _hdf5_array(key: str, dataset: h5py.Dataset, claims: _Claims) -> np.ndarray:
    if dataset.shape is None:
        raise _Bad(f"'{key}' is an empty dataset; store numbers")
    if dataset.is_virtual or dataset.external:
        raise _Bad(f"'{key}' has its values in other files; store the array itself")
    shape, dtype = dataset.shape, dataset.dtype
    claims.check(key, dtype, shape, claims.disk)
    if dataset.id.get_type() != h5py.h5t.py_create(dtype, logical=True):
        raise _Bad(f"'{key}' holds numbers in an unusual layout; store integers or floats as NumPy has them")
    with _damage(key):
        if dataset.chunks is not None:
            return _chunked(key, dataset, claims)
        if dataset.id.get_storage_size() != math.prod(shape) * dtype.itemsize:
            raise _Bad(f"'{key}' was never written; write the file again")
        return np.asarray(dataset[()])


@contextmanager
def _damage(key: str) -> Iterator[None]:
    """Of a readable file, say which array is damaged."""
    try:
        yield
    except (_Bad, MemoryError):
        raise
    except Exception as error:
        raise _Bad(f"cannot be read as HDF5: '{key}' is damaged; write it again") from error


def _chunked(key: str, dataset: h5py.Dataset, claims: _Claims) -> np.ndarray:
    """An array in chunks, all of which must be there.

    They are unpacked here and not by HDF5, which trusts the sizes of damaged chunks and then reads beyond them.
    """
    plist, dtype, cut = dataset.id.get_create_plist(), dataset.dtype, dataset.chunks
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if len(set(filters)) != len(filters) or not set(filters) <= {_DEFLATE, _SHUFFLE, _FLETCHER}:
        raise _Bad(f"'{key}' is compressed in an unusual way; store it uncompressed or with gzip")
    array = np.empty(dataset.shape, dtype)
    size = math.prod(cut) * dtype.itemsize
    wanted = math.prod(-(-n // c) for n, c in zip(array.shape, cut, strict=True))
    if size > max(FREE, array.nbytes) or wanted > claims.disk // 8:
        raise _Bad(f"'{key}' is cut into chunks {_short(cut)} that its file cannot hold; write it again")
    chunks: list[Any] = []
    dataset.id.chunk_iter(chunks.append)
    places = {tuple(info.chunk_offset) for info in chunks}
    if len(chunks) != wanted or len(places) != wanted or any(info.size > size + size // 100 + 1024 for info in chunks):
        raise _Bad(f"'{key}' lacks chunks, or has impossible ones; write the file again")
    for place in places:
        skipped, raw = dataset.id.read_direct_chunk(place)
        for i in reversed(range(len(filters))):
            if not skipped >> i & 1:
                raw = _undone(filters[i], raw, size, dtype.itemsize)
        if len(raw) != size:
            raise _Bad(f"'{key}' has a chunk of another size than it should have; write the file again")
        inside = tuple(slice(start, start + c) for start, c in zip(place, cut, strict=True))
        target = array[inside]
        target[...] = np.frombuffer(raw, dtype).reshape(cut)[tuple(map(slice, target.shape))]
    return array


def _undone(kind: int, raw: bytes, size: int, itemsize: int) -> bytes:
    """The bytes before a filter was applied; no more of them than a chunk has, and its checksum."""
    if kind == _DEFLATE:
        return zlib.decompressobj().decompress(raw, size + 5)
    if kind == _SHUFFLE:
        whole = len(raw) - len(raw) % itemsize
        return np.frombuffer(raw[:whole], np.uint8).reshape(itemsize, -1).T.tobytes() + raw[whole:]
    if len(raw) < 4 or _checksum(raw[:-4]) != tuple(half % 65535 for half in struct.unpack("<HH", raw[-4:])):
        raise ValueError("checksum")
    return raw[:-4]


def _checksum(raw: bytes) -> tuple[int, int]:
    """Fletcher's sums as HDF5 takes them, modulo 65535: of 16-bit words, and of the sums of the words up to each."""
    words = np.frombuffer(raw + b"\0" * (len(raw) % 2), ">u2").astype(np.uint64)
    back = np.arange(words.size, 0, -1, dtype=np.uint64) % np.uint64(65535)
    return int(words.sum() % np.uint64(65535)), int((words * back).sum() % np.uint64(65535))


_Reader = Callable[[Path, Sequence[str], Sequence[str], _Claims], dict[str, np.ndarray]]
_READERS: dict[str, tuple[str, _Reader]] = {
    ".h5": ("HDF5", _read_hdf5),
    ".hdf5": ("HDF5", _read_hdf5),
    ".npz": ("npz", _read_npz),
}
