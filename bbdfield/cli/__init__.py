"""The command line: every step of a study by itself, and `run` for all of them.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 2 bad input, 3 the numerics
failed, 130 interrupted. Errors are caught in one place, `main`, and are one line each.

What is slow to import is imported inside the commands, so that ``bbdfield --help`` answers at once.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from bbdfield.cli import bench, check, look, observe, reproduce, steps, study, sweep  # noqa: F401  (they add their commands)
from bbdfield.cli.arguments import Interrupted
from bbdfield.cli.group import cli
from bbdfield.cli.output import one_line
from bbdfield.errors import InputError, NumericsError

__all__ = ["main"]

EXIT_INPUT, EXIT_NUMERICS, EXIT_INTERRUPTED = 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not stop a computation
    try:
        with _warnings_told():
            cli.main(arguments, prog_name="bbdfield", standalone_mode=False, obj=arguments)
        sys.stdout.flush()
    except click.ClickException as error:
        return _fail(error.format_message(), EXIT_INPUT)
    except InputError as error:
        return _fail(str(error), EXIT_INPUT)
    except NumericsError as error:
        return _fail(str(error), EXIT_NUMERICS)
    except Interrupted as error:
        return _fail(f"interrupted; what was recorded is kept, go on with: {error}", EXIT_INTERRUPTED)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except MemoryError as error:
        return _fail(f"out of memory ({error}); use a smaller lattice, grid, batch or probe", EXIT_NUMERICS)
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        remedy = "; make room, then go on with --resume" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return _fail(f"{where}{error.strerror or error}{remedy}", EXIT_INPUT)
    return 0


def _fail(message: str, code: int) -> int:
    print(f"bbdfield: {one_line(message)}", file=sys.stderr)
    return code


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


@contextmanager
def _warnings_told() -> Iterator[None]:
    """What the package warns of, such as a repaired file, goes to standard error."""
    handler, log = logging.StreamHandler(), logging.getLogger("bbdfield")
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_OneLine("bbdfield: %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
