"""Arguments and options that several commands share, and what is refused about them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bbdfield.errors import InputError

if TYPE_CHECKING:
    from bbdfield.model.run import Run

FILE = click.Path(path_type=Path)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is there, from the start.")
resume_option = click.option(
    "--resume", is_flag=True, help="Go on with an interrupted run; harmless on a finished one."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else on standard output.")
set_option = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Replace one key of the configuration, such as --set lattice.width=40; may be repeated.",
)
workers_option = click.option(
    "--workers", type=click.IntRange(min=1), help="Worker processes on this machine (default: one per CPU)."
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of each worker of a sweep.  [default: 1]"
)
n_x_option = click.option(
    "--n-x", type=int, help="Depth cells of the grid (default: as many as the lattice has layers)."
)
n_y_option = click.option("--n-y", type=int, help="Width cells of the grid (default: as many as the lattice has).")


class Interrupted(Exception):
    """Ctrl-C in a command that can go on later; the message is the command that does so."""


@contextmanager
def resumable(context: click.Context) -> Iterator[None]:
    """Turn Ctrl-C into `Interrupted` with the same command line, but resuming."""
    try:
        yield
    except KeyboardInterrupt:
        given: list[str] = context.find_root().obj
        command, *rest = (word for word in given if word not in ("--overwrite", "--resume"))
        raise Interrupted(shlex.join(["bbdfield", command, "--resume", *rest])) from None


def check_free(out: Path, overwrite: bool, *inputs: Path, resumable: bool = False) -> None:
    """Refuse an output that exists, unless it may be overwritten; an input is never overwritten."""
    if out.is_dir():
        raise InputError(f"{out}: is a directory; give the name of a file")
    if any(out.exists() and path.exists() and out.samefile(path) for path in inputs):
        raise InputError(f"{out}: is the input itself; choose another path with --out")
    if out.exists() and not overwrite:
        add = "--resume to go on with it, or --overwrite" if resumable else "--overwrite"
        raise InputError(f"{out}: exists already; choose another path with --out, or add {add}")
    if not out.parent.is_dir():
        raise InputError(f"{out}: there is no directory {out.parent}; make it first or choose another path")


def check_choice(overwrite: bool, resume: bool) -> None:
    if overwrite and resume:
        raise InputError("--overwrite and --resume exclude each other; give one of them")


def open_lattice(path: Path) -> Run:
    from bbdfield.model.run import Run

    run = Run(path)
    if run.kind != "lattice":
        run.close()
        raise InputError(f"{path}: is a {run.kind} trajectory; give one of a lattice, as bbdfield train writes it")
    return run


def grid_of(run: Run, n_x: int | None, n_y: int | None) -> Any:
    from solvers.grids import Grid

    lattice = run.lattice
    return Grid(
        lattice.depth if n_x is None else n_x,
        lattice.width if n_y is None else n_y,
        lattice.length_x,
        lattice.length_y,
    )
