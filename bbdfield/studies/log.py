"""log.txt of a run directory: every line that was told, and every warning, with its time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bbdfield._text import visible

LOGGER = logging.getLogger("bbdfield")


class _Quiet(logging.FileHandler):
    """Drops a line that cannot be written: the results, whose files say so, matter more than the log."""

    def handleError(self, record: logging.LogRecord) -> None:
        return


class _Visible(logging.Formatter):
    """What came from a file or a configuration does not steer the terminal that shows the log."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def add_log(out: Path) -> logging.Handler:
    """Append what is logged from now on to the log of a run directory."""
    handler = _Quiet(out / "log.txt", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_Visible("%(asctime)s %(message)s"))
    LOGGER.addHandler(handler)
    return handler


@contextmanager
def logged(out: Path) -> Iterator[None]:
    """`add_log` for a while."""
    handler, level = add_log(out), LOGGER.level
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.setLevel(level)
        LOGGER.removeHandler(handler)
        handler.close()
