"""Files that appear complete or not at all, and directories and files that only one process writes."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bbdfield.errors import InputError

LOCK, WRITER = ".lock", ".writer"


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place, bring it to the disk, and rename it: a kill or a power cut leaves the old one.

    Raises
    ------
    InputError
        when it cannot be written, for lack of space, say; the old file is still there then.
    """
    part = path.with_name(path.name + ".part")
    try:
        try:
            with open(part, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
    except OSError as error:
        reason = error.strerror or "cannot be written"
        raise InputError(
            f"{path}: {reason}; give a file in a directory that exists, can be written, and has room"
        ) from error


def make_directory(path: Path) -> None:
    """Make a directory and those above it.

    Raises
    ------
    InputError
        when that is impossible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}); choose another directory") from error


def is_occupied(directory: Path) -> bool:
    """Whether anything lies in a directory, besides what a lock or a kill leaves there."""
    return any(path.name not in (LOCK, WRITER) and path.suffix != ".part" for path in directory.iterdir())


@contextmanager
def locked(directory: Path, wait: float = 0.0) -> Iterator[None]:
    """Keep other processes from writing into a directory; the lock of a process that dies goes with it.

    wait : seconds to wait for another process to finish.

    Raises
    ------
    InputError
        when another process holds the directory, naming it.
    """
    lock, writer = directory / LOCK, directory / WRITER
    try:
        descriptor = _acquire(lock, wait)
    except BlockingIOError:
        raise InputError(
            f"{directory}: {_holder(writer)} is writing into it; wait for it, stop it, or choose another directory"
        ) from None
    except OSError as error:
        raise InputError(f"{directory}: cannot be written ({error.strerror}); choose another directory") from error
    if descriptor is None:
        logging.getLogger("bbdfield").warning("%s: this file system has no locks; run it once only", directory)
        yield
        return
    try:
        with suppress(OSError):  # it only helps the reader of a refusal
            writer.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            writer.unlink(missing_ok=True)
        os.close(descriptor)  # the lock file stays, as part of the directory


def _holder(writer: Path) -> str:
    try:
        with open(writer, encoding="utf-8", errors="replace") as file:
            told = file.read(200).strip()
    except OSError:
        told = ""
    return told if told.isprintable() and told else "another process"


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Keep other processes from writing a file; the lock of a process that dies goes with it.

    What is locked is a file of its own beside it, ``.NAME.lock``, which is removed at the end; a kill leaves it there,
    unlocked.

    Raises
    ------
    InputError
        when the file is locked already.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        descriptor = _acquire(lock)
    except BlockingIOError:
        raise InputError(
            f"{path}: another process is writing it; wait for that process, stop it, or choose another file"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be locked ({error.strerror}); choose another directory") from error
    if descriptor is None:
        logging.getLogger("bbdfield").warning("%s: this file system has no locks; write it once only", path)
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()  # before it is unlocked: whoever waits for it sees that it is gone
        os.close(descriptor)


#: how file systems without locks say so, and seconds between two tries to get a lock
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_PAUSE = 0.05


def _acquire(lock: Path, wait: float = 0.0) -> int | None:
    """Make and lock a file, waiting for another process; None where the file system has no locks."""
    until = time.monotonic() + wait
    while True:
        try:
            return _lock(lock)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(_PAUSE)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None
            raise


def _lock(lock: Path) -> int:
    """Make and lock a file; returns its descriptor, which holds the lock and loses it with the process.

    The library `filelock` puts a mere file in the place of a lock where there are none, which a kill leaves behind.
    """
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                return descriptor
        except FileNotFoundError:  # removed by the process that had it
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
