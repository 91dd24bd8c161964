"""The seal of a finished file: a trailer behind HDF5's own end of the file, over every byte before it.

::

    trailer = MAGIC (16 bytes) + length of what it seals (8 bytes, little-endian) + its SHA-256 (32 bytes)

HDF5 ignores what follows its end of a file, and cuts it off when it opens the file for writing: an edited file has no
seal. The seal is checked before the HDF5 library sees the file, because that library trusts much of what it reads.
It tells an altered file from a whole one; it is no signature, since anybody can compute it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from pathlib import Path

from bbdfield.errors import Damaged, InputError

MAGIC = b"bbdfield seal 1\n"
SIZE = len(MAGIC) + 8 + 32

Identity = tuple[int, int, int, int, int]

_SETTLED = 2e9  # ns; a file system may not tell apart two changes that are closer than this
_MOST_REMEMBERED = 100_000
_BLOCK = 2**20
_checked: set[Identity] = set()


def identity(descriptor: int) -> Identity:
    """What changes when a file is replaced or written to: device, inode, size, times of both kinds of change."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def remembered(known: Identity) -> bool:
    """Whether this process has already found this very file to be whole."""
    return known in _checked


def remember(known: Identity, began: int) -> None:
    """Note that a file is whole, unless it was so young when the check `began` that a change would not show.

    A clock that went backwards makes every file young, which costs only time.
    """
    if began - max(known[3:]) > _SETTLED and len(_checked) < _MOST_REMEMBERED:
        _checked.add(known)


def sealed(content: bytes) -> bytes:
    """The bytes of a whole file, with its seal."""
    return content + MAGIC + len(content).to_bytes(8, "little") + hashlib.sha256(content).digest()


def seal(path: Path, inode: int | None = None) -> None:
    """Append the seal to a file that HDF5 has closed, and bring it to the disk.

    Raises
    ------
    InputError
        if the path no longer leads to `inode`: another process has replaced the file.
    OSError
        if it cannot be written; the file is then without seal, as before.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        if inode is not None and os.fstat(descriptor).st_ino != inode:
            raise InputError(f"{path}: replaced by another process while being written; run it once only")
        size = os.fstat(descriptor).st_size
        trailer = MAGIC + size.to_bytes(8, "little") + _sha256(descriptor, size)
        try:
            if os.pwrite(descriptor, trailer, size) != SIZE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def is_sealed(descriptor: int, path: Path, remedy: str, *, again: bool = False) -> bool:
    """Whether an open file carries a seal; raises `Damaged` if it carries one that does not fit.

    again : compute it even if this process has found this very file whole before.
    """
    began, known = time.time_ns(), identity(descriptor)
    size = known[2] - SIZE
    trailer = os.pread(descriptor, SIZE, size) if size >= 0 else b""
    if not trailer.startswith(MAGIC):
        return False
    if again or not remembered(known):
        whole = MAGIC + size.to_bytes(8, "little") + _sha256(descriptor, size)
        if trailer != whole:
            raise Damaged(f"{path}: damaged or altered after it was finished (its seal does not fit); {remedy}")
        remember(known, began)
    return True


def _sha256(descriptor: int, size: int) -> bytes:
    """SHA-256 of the first `size` bytes."""
    total, place = hashlib.sha256(), 0
    while place < size:
        block = os.pread(descriptor, min(_BLOCK, size - place), place)
        if not block:
            break
        total.update(block)
        place += len(block)
    return total.digest()
