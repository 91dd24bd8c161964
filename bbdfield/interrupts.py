"""Ctrl-C: once to finish the current snapshot, save and stop; twice to stop at once.

What saves its state now and then encloses its loop in `deferred` and asks `asked` whenever it has saved. A worker
process does not get the signal itself: it is told through a source that it `follow`s.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

NOTICE = b"\ninterrupted: finishing the current snapshot; Ctrl-C again stops at once\n"

_asked = threading.Event()
_sources: list[Callable[[], bool]] = []
_depth = 0  # how many `deferred` enclose one another


class Stopped(KeyboardInterrupt):
    """The computation stopped where it was asked to, everything up to there saved."""


def asked() -> bool:
    """Whether this process was asked to stop."""
    return _asked.is_set() or any(source() for source in _sources)


def check() -> None:
    """Stop here if that was asked for, unless an enclosing `deferred` will do it at a better moment."""
    if not _depth and asked():
        raise Stopped


def follow(source: Callable[[], bool]) -> None:
    """Stop also when `source()` says so; for worker processes, whose parent alone gets the signal."""
    _sources.append(source)


def unfollow(source: Callable[[], bool]) -> None:
    """Undo `follow`."""
    _sources.remove(source)


@contextmanager
def deferred() -> Iterator[None]:
    """Within, the first Ctrl-C only makes `asked` true, and the second raises KeyboardInterrupt at once.

    The body is to raise `Stopped` when it has saved. Only the main thread of a process gets signals; elsewhere nothing
    is changed.
    """
    global _depth
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # a job in a shell's background, say
    if threading.current_thread() is not threading.main_thread() or ignored:
        yield
        return
    outermost = _depth == 0
    before = signal.signal(signal.SIGINT, _note) if outermost else None
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        late = outermost and _asked.is_set()
        if outermost:
            signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
            _asked.clear()
    if late:  # it came after the last moment at which the body asked
        raise Stopped


def _note(number: int, frame: FrameType | None) -> None:
    if _asked.is_set():
        raise KeyboardInterrupt
    _asked.set()
    os.write(2, NOTICE)
