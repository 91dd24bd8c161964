"""The command line: every step of a study by itself, and `run` for all of them.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 2 bad input, 3 the numerics
failed, 130 interrupted. Errors are caught in one place, `main`, and are one line each.

What is slow to import is imported inside the commands, so that ``bbdfield --help`` answers at once.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from bbdfield._version import __version__
from bbdfield.errors import InputError, NumericsError

if TYPE_CHECKING:
    from rich.console import Console

    from bbdfield.model.run import Run
    from bbdfield.studies.config import AnyStudy
    from bbdfield.studies.describe import Description

EXIT_INPUT, EXIT_NUMERICS, EXIT_INTERRUPTED = 2, 3, 130
QUANTITIES = ("z", "w", "b", "loss")

#: seconds between two lines of progress about one job where there is no terminal to draw bars on
_QUIET = 10.0


class Interrupted(Exception):
    """Ctrl-C in a command that can go on later; the message is the command that does so."""


# ---- the one place where errors end


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not stop a computation
    try:
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
        return _fail(f"{where}{error.strerror or error}", EXIT_INPUT)
    return 0


def _fail(message: str, code: int) -> int:
    print(f"bbdfield: {' '.join(message.split())}", file=sys.stderr)
    return code


@contextmanager
def _resumable(context: click.Context) -> Iterator[None]:
    """Turn Ctrl-C into `Interrupted` with the same command line, but resuming."""
    try:
        yield
    except KeyboardInterrupt:
        given: list[str] = context.find_root().obj
        command, *rest = (word for word in given if word not in ("--overwrite", "--resume"))
        raise Interrupted(shlex.join(["bbdfield", command, "--resume", *rest])) from None


# ---- progress, on standard error


class Progress:
    """Bars, one per job, on a terminal; elsewhere a line now and then. `say` prints between them."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, markup=False, highlight=False)
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._told: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            from rich import progress

            self._bars = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("loss {task.fields[loss]:.4g}"),
                progress.TimeRemainingColumn(),
                console=self.console,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    def report(self, job: str, done: int, total: int, loss: float) -> None:
        if self._bars is not None:
            if job not in self._tasks:
                self._tasks[job] = self._bars.add_task(job, total=total, loss=loss)
            self._bars.update(self._tasks[job], completed=done, loss=loss)
            return
        now = time.monotonic()
        if done == total or now - self._told.setdefault(job, now) > _QUIET:
            self._told[job] = now
            self.say(f"{job}: {done}/{total}, loss {loss:.4g}")

    def of(self, job: str) -> Callable[[int, int, float], None]:
        """`report` for one job."""
        return lambda done, total, loss: self.report(job, done, total, loss)


# ---- small helpers


def _check_free(out: Path, overwrite: bool, *inputs: Path) -> None:
    """Refuse an output that exists, unless it may be overwritten; an input is never overwritten."""
    if out.is_dir():
        raise InputError(f"{out}: is a directory; give the name of a file")
    if any(out.exists() and path.exists() and out.samefile(path) for path in inputs):
        raise InputError(f"{out}: is the input itself; choose another path with --out")
    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists already; choose another path with --out, or add --overwrite")
    if not out.parent.is_dir():
        raise InputError(f"{out}: there is no directory {out.parent}; make it first or choose another path")


def _check_choice(overwrite: bool, resume: bool) -> None:
    if overwrite and resume:
        raise InputError("--overwrite and --resume exclude each other; give one of them")


def _open_lattice(path: Path) -> Run:
    from bbdfield.model.run import Run

    run = Run(path)
    if run.kind != "lattice":
        run.close()
        raise InputError(f"{path}: is a {run.kind} trajectory; give one of a lattice, as bbdfield train writes it")
    return run


def _grid_of(run: Run, n_x: int | None, n_y: int | None) -> Any:
    from solvers.grids import Grid

    lattice = run.lattice
    return Grid(
        lattice.depth if n_x is None else n_x,
        lattice.width if n_y is None else n_y,
        lattice.length_x,
        lattice.length_y,
    )


def _plain(value: Any) -> Any:
    """As JSON knows it: NaN and infinity become null, arrays lists."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value


def _print_json(value: Any) -> None:
    click.echo(json.dumps(_plain(value), indent=1, allow_nan=False))


def _console() -> Console:
    """Standard output; a file or pipe is wide enough for any table."""
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    return console if console.is_terminal else Console(markup=False, highlight=False, width=140)


def _format(value: Any, form: str = ".2e") -> str:
    number = _plain(value)
    return "-" if number is None else format(number, form)


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # The title by itself: above a narrow table it would be broken to the table's width.
    _console().print(Text(title, style="bold"), soft_wrap=True)
    _console().print(table)


def _print_summary(run: Run) -> None:
    """What a recorded run came to, in one line."""
    told = f"{run.path}: {len(run.t)} snapshots up to t = {run.t[-1]:g}, loss {run.loss[0]:.4g} -> {run.loss[-1]:.4g}"
    accuracy = _plain(float(run.evaluation["test_accuracy"][-1]))
    click.echo(told if accuracy is None else f"{told}, test accuracy {accuracy:.3f}")


_FILE = click.Path(path_type=Path)
_overwrite = click.option("--overwrite", is_flag=True, help="Replace what is there.")
_resume = click.option("--resume", is_flag=True, help="Go on with an interrupted run; harmless on a finished one.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else on standard output.")
_set = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Replace one key of the configuration, such as --set lattice.width=40; may be repeated.",
)
_n_x = click.option("--n-x", type=int, help="Depth cells of the grid (default: as many as the lattice has layers).")
_n_y = click.option("--n-y", type=int, help="Width cells of the grid (default: as many as the lattice has).")


class _InOrder(click.Group):
    """Lists its commands in the order in which a study uses them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bbdfield", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Train a deep network, simulate its continuum field theory, and compare the two.

    Exit codes: 0 done, 2 bad input, 3 the numerics failed, 130 interrupted.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


# ---- a whole study


@cli.command()
@click.argument("config", type=_FILE)
@click.option("--out", type=_FILE, required=True, help="Directory for everything that the study makes.")
@_overwrite
@_resume
@_set
@click.option("--workers", type=click.IntRange(min=1), help="Processes (default: one per CPU).")
@_json
@click.pass_context
def run(
    context: click.Context,
    config: Path,
    out: Path,
    overwrite: bool,
    resume: bool,
    overrides: tuple[str, ...],
    workers: int | None,
    as_json: bool,
) -> None:
    """Run the study that CONFIG, a TOML file, describes."""
    _check_choice(overwrite, resume)
    from concurrent.futures.process import BrokenProcessPool

    from bbdfield.studies.config import load_config
    from bbdfield.studies.run import run_study

    study = load_config(config, overrides)
    with _resumable(context), Progress() as progress:
        try:
            scores = run_study(
                study,
                out,
                overwrite=overwrite,
                resume=resume,
                workers=workers,
                report_progress=progress.report,
                say=progress.say,
            )
        except BrokenProcessPool:
            message = "a worker process was killed, perhaps for lack of memory; go on with --resume and fewer --workers"
            raise NumericsError(message) from None
    if as_json:
        _print_json(scores)
    else:
        print_scores(study, scores, out)


def print_scores(study: AnyStudy, scores: dict[str, Any], out: Path) -> None:
    """Tables of a study's scores, what they say, and where its report is."""
    import tomllib

    from bbdfield.studies.kinds import kind_of

    _print_description(study.title or study.kind, kind_of(study.kind).describe(tomllib.loads(study.to_toml()), scores))
    report = out / "report.html"
    click.echo(f"report: {report}" if report.is_file() else f"results: {out}")


def _print_description(name: str, description: Description) -> None:
    """Its tables, the first one under the name of the whole, and what they say."""
    for i, table in enumerate(description.tables):
        rows = [[cell if isinstance(cell, str) else _shown(cell) for cell in row] for row in table.rows]
        _print_table(table.title if i else f"{name}: {table.title}", table.head, rows)
    if description.message:
        _console().print(description.message, soft_wrap=True)


def _shown(cell: float | None) -> str:
    return str(cell) if isinstance(cell, int) else _format(cell)


# ---- its steps


@cli.command()
@click.argument("config", type=_FILE)
@click.option("--out", type=_FILE, required=True, help="HDF5 file to write.")
@click.option("--depth", type=int, help="Layers (default: the first of the ladder).")
@click.option("--width", type=int, help="Cells (default: the first of the ladder).")
@_overwrite
@_resume
@_set
@click.pass_context
def train(
    context: click.Context,
    config: Path,
    out: Path,
    depth: int | None,
    width: int | None,
    overwrite: bool,
    resume: bool,
    overrides: tuple[str, ...],
) -> None:
    """Train one lattice of CONFIG and record its trajectory."""
    _check_choice(overwrite, resume)
    _check_free(out, overwrite or resume, config)
    from threadpoolctl import threadpool_limits

    from bbdfield.lattice.training import train as train_lattice
    from bbdfield.studies.config import load_config

    study = load_config(config, overrides)
    first = study.rungs()[0]
    lattice = study.lattice_at(first[0] if depth is None else depth, first[1] if width is None else width)
    # One BLAS thread, as in `run`: sums then come out bit for bit the same.
    with _resumable(context), Progress() as progress, threadpool_limits(1):
        recorded = train_lattice(
            lattice,
            study.dataset(),
            study.training_plan(),
            initial=study.initial_fields(lattice),
            **study.training.machine(),
            out=out,
            overwrite=overwrite,
            resume=resume,
            compression=study.compression(),
            progress=progress.of(f"lattice M={lattice.depth} N={lattice.width}"),
        )
    with recorded:
        click.echo(f"trained by {_computed_by(recorded)}", err=True)
        _print_summary(recorded)


@cli.command()
@click.argument("lattice", type=_FILE)
@click.option("--out", type=_FILE, required=True, help="HDF5 file to write.")
@click.option("--order", type=int, default=1, show_default=True, help="Order of the theory in a_x: 0 or 1.")
@_n_x
@_n_y
@click.option("--depth-scheme", default="rk4", show_default=True, help="euler, midpoint or rk4.")
@click.option("--width-order", type=int, help="Order in a_y for lattices with taps: 0, 1 or 2.  [default: 2]")
@click.option("--stencil", type=int, default=4, show_default=True, help="Accuracy of derivatives in y: 2, 4 or 6.")
@click.option("--ill-posed", default="refuse", show_default=True, help="refuse, or cutoff: waves up to π/a_y only.")
@click.option("--backend", default="auto", show_default=True, help="auto (by size), numpy, numba or cupy.")
@click.option("--precision", default="float64", show_default=True, help="float64 or float32.")
@click.option("--checkpoint", type=int, default=0, show_default=True, help="Cells between kept ẑ; 0 keeps all.")
@_overwrite
@_resume
@click.pass_context
def simulate(
    context: click.Context,
    lattice: Path,
    out: Path,
    order: int,
    n_x: int | None,
    n_y: int | None,
    depth_scheme: str,
    width_order: int | None,
    stencil: int,
    ill_posed: str,
    backend: str,
    precision: str,
    checkpoint: int,
    overwrite: bool,
    resume: bool,
) -> None:
    """Integrate the field theory of the lattice in LATTICE.

    It starts from the same initial fields and sees the same data in the same order, and nothing else."""
    _check_choice(overwrite, resume)
    _check_free(out, overwrite or resume, lattice)
    from threadpoolctl import threadpool_limits

    from bbdfield.fields.coarse_graining import coarse_grain
    from bbdfield.fields.simulation import simulate as simulate_field

    with _open_lattice(lattice) as source, _resumable(context), Progress() as progress, threadpool_limits(1):
        grid = _grid_of(source, n_x, n_y)
        if "initial" in source.config:
            start = source.initial_fields.on(grid)
        else:
            progress.say(f"{lattice}: did not start from drawn fields; starting from its coarse-grained first snapshot")
            start = coarse_grain(source, grid).at(0.0)
        recorded = simulate_field(
            start,
            source.boundary,
            order=order,
            depth_scheme=depth_scheme,
            width_order=width_order,
            stencil=stencil,
            ill_posed=ill_posed,
            backend=backend,
            precision=precision,
            checkpoint=checkpoint,
            out=out,
            overwrite=overwrite,
            resume=resume,
            progress=progress.of(f"field order {order} on {grid.n_x}x{grid.n_y}"),
        )
    with recorded:
        told = f"integrated by {_computed_by(recorded)}"
        if ill_posed == "cutoff":
            told += f"; waves above π/a_y = {math.pi / recorded.lattice.a_y:.4g} were cut off"
        click.echo(told, err=True)
        _print_summary(recorded)


def _computed_by(recorded: Run) -> str:
    from solvers.threads import threads

    backend = recorded.trajectory.attrs.get("backend") or "an earlier version"
    return f"{backend} on {threads()} threads" if backend.startswith("numba") else backend


@cli.command("coarse-grain")
@click.argument("lattice", type=_FILE)
@click.option("--out", type=_FILE, required=True, help="HDF5 file to write.")
@_n_x
@_n_y
@click.option(
    "--window",
    type=float,
    nargs=2,
    metavar="X Y",
    default=(0.0, 0.0),
    show_default=True,
    help="Standard deviations of the Gaussian window in depth and width.",
)
@_overwrite
def coarse_grain_command(
    lattice: Path, out: Path, n_x: int | None, n_y: int | None, window: tuple[float, float], overwrite: bool
) -> None:
    """Turn the arrays of LATTICE into fields on a grid."""
    _check_free(out, overwrite, lattice)
    from bbdfield.fields.coarse_graining import Window, write_coarse_grained

    with _open_lattice(lattice) as source:
        grid = _grid_of(source, n_x, n_y)
        with write_coarse_grained(source, grid, out, window=Window(*window), overwrite=overwrite) as written:
            click.echo(f"{out}: {len(written.t)} snapshots on {grid.n_x} x {grid.n_y} cells")


@cli.command()
@click.argument("field", type=_FILE)
@click.argument("lattice", type=_FILE)
@_json
def compare(field: Path, lattice: Path, as_json: bool) -> None:
    """Score the prediction in FIELD against LATTICE."""
    from bbdfield.comparison.scores import compare as score_runs
    from bbdfield.model.run import Run

    with Run(field) as sim, Run(lattice) as real:
        score = score_runs(sim, real)
    if as_json:
        _print_json(score.to_dict())
        return
    over: dict[str, float] = score.error_over_movement
    rows = [
        ["relative L2 error", *(_format(score.error[name]) for name in QUANTITIES)],
        ["largest error / largest value", *(_format(score.max_error[name]) for name in QUANTITIES)],
        ["relative to the movement", *(_format(over.get(name)) for name in QUANTITIES)],
    ]
    _print_table(f"{field} against {lattice}", ["", *QUANTITIES], rows)
    horizon = "never" if score.horizon is None else f"at t = {score.horizon:g}"
    click.echo(f"pre-activations differ by more than 10 %: {horizon} (compared up to t = {score.t[-1]:g})")
    accuracy = {name: _format(values[-1], ".3f") for name, values in score.test_accuracy.items()}
    click.echo(f"test accuracy: lattice {accuracy['lattice']}, field {accuracy['field']}")


@cli.command()
@click.argument("lattice", type=_FILE)
@click.option("--out", type=_FILE, help="Sidecar to write (default: LATTICE with .decomposition.h5).")
@_overwrite
@_json
def decompose(lattice: Path, out: Path | None, overwrite: bool, as_json: bool) -> None:
    """Split the Lagrangian of LATTICE into bulk and boundary.

    Lagrangian, energy, current and dissipation at every snapshot go into a sidecar file, and a figure beside it;
    LATTICE stays as it is."""
    out = lattice.with_suffix(".decomposition.h5") if out is None else out
    picture = out.with_suffix(".png")
    for target in (out, picture):
        _check_free(target, overwrite, lattice)
    if out == picture:
        raise InputError(f"{out}: is where the figure goes; give the sidecar a name that ends in .h5")
    from threadpoolctl import threadpool_limits

    from bbdfield.plotting.decomposition import figure_trajectory
    from bbdfield.plotting.style import save
    from bbdfield.studies.decompose import decompose as decompose_run
    from bbdfield.studies.decompose import to_json

    with _open_lattice(lattice) as recorded, Progress() as progress, threadpool_limits(1):
        sidecar = decompose_run(recorded, out, overwrite=overwrite, progress=progress.of("snapshots"))
    save(figure_trajectory(sidecar, lattice.name), picture)
    held = to_json(sidecar)
    if as_json:
        _print_json({**held, "figure": str(picture)})
        return
    last = held["last"]
    click.echo(
        f"{out}: {held['snapshots']} snapshots; at t = {last['t']:g} L = {last['lagrangian']:.4g} ="
        f" {last['bulk']:.4g} (bulk) {last['boundary']:+.4g} (boundary), equal to {held['worst']:.0e} of the operands"
    )
    if held["kinks"]:
        click.echo(
            f"{held['kinks']} neurons lay exactly on a kink of the activation: the derivative from below is used"
        )
    click.echo(str(picture))


# ---- looking at results


@cli.command()
@click.argument("file", type=_FILE)
@click.option("--out", type=_FILE, help="Figure to write: .png, .pdf or .svg (default: FILE with .png).")
@click.option("--animate", type=_FILE, help="Film to write: .gif or .mp4.")
@click.option("--channel", type=int, default=0, show_default=True, help="Channel to show.")
@click.option("--sample", type=int, default=0, show_default=True, help="Probe sample to show.")
@_overwrite
def plot(file: Path, out: Path | None, animate: Path | None, channel: int, sample: int, overwrite: bool) -> None:
    """Draw the trajectory in FILE."""
    from bbdfield.model.run import Run

    if out is None and animate is None:
        out = file.with_suffix(".png")
    for target in (out, animate):
        if target is not None:
            _check_free(target, overwrite, file)
    with Run(file) as recorded:
        if out is not None:
            from bbdfield.plotting.fields import plot_trajectory

            plot_trajectory(recorded, out, channel=channel, sample=sample)
            click.echo(str(out))
        if animate is not None:
            from bbdfield.plotting.animation import animate_trajectory

            animate_trajectory(recorded, animate, channel=channel, sample=sample)
            click.echo(str(animate))


@cli.command()
@click.argument("run_dir", type=_FILE)
@_overwrite
def report(run_dir: Path, overwrite: bool) -> None:
    """Write the report of the study in RUN_DIR again."""
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: no such directory; give the one that bbdfield run wrote")
    if not (run_dir / "scores.json").is_file():
        raise InputError(f"{run_dir}: holds no finished study (no scores.json); run or resume it first")
    _check_free(run_dir / "report.html", overwrite)
    from bbdfield.studies.report import write_report

    click.echo(str(write_report(run_dir)))


@cli.command()
@click.argument("file", type=_FILE)
@_json
def info(file: Path, as_json: bool) -> None:
    """Show what the trajectory FILE holds."""
    from bbdfield.storage import Trajectory

    with Trajectory(file) as trajectory:
        held = describe(trajectory)
    if as_json:
        _print_json({"file": str(file), **held})
        return
    click.echo(f"file: {file}")
    for key, value in held.items():
        if isinstance(value, dict):
            click.echo(f"{key}:")
            for name, entry in value.items():
                click.echo(f"  {name}: {_flat(entry)}")
        else:
            click.echo(f"{key}: {_flat(value)}")


def describe(trajectory: Any) -> dict[str, Any]:
    """Content of a trajectory file in plain JSON types."""
    attributes = trajectory.attrs
    t, step = trajectory.t, trajectory.step
    plan = trajectory.config.get("training")
    wanted = plan.get("steps") if isinstance(plan, dict) else None
    datasets = {
        name: {"dims": dict(zip(variable.dims, variable.shape, strict=True)), "bytes": variable.nbytes}
        for group, mapping in (("fields", trajectory.fields), ("boundary", trajectory.boundary))
        for name, variable in ((f"{group}/{key}", value) for key, value in mapping.items())
    }
    last = {name: values[-1] for name, values in {**trajectory.scalars, **trajectory.evaluation}.items() if len(values)}
    return {
        "kind": trajectory.kind,
        "complete": trajectory.complete,
        "snapshots": len(t),
        "steps": {"recorded": int(step[-1]) if len(step) else 0, "wanted": wanted},
        "t": {"first": float(t[0]), "last": float(t[-1])} if len(t) else None,
        "last values": {name: float(value) for name, value in last.items()},
        "seed": trajectory.seed,
        "config": trajectory.config,
        "datasets": datasets,
        "schema_version": attributes["schema_version"],
        "versions": attributes["versions"],
        "git_revision": attributes["git_revision"],
        "command": attributes["command"],
        "created": attributes["created"],
        "resumed": len(attributes["resumed"]),
    }


def _flat(value: Any) -> str:
    """A nested value on one line."""
    plain = _plain(value)
    if isinstance(plain, dict):
        return ", ".join(f"{key} {_flat(entry)}" if not isinstance(entry, dict) else f"{key} ({_flat(entry)})"
                         for key, entry in plain.items())  # fmt: skip
    if isinstance(plain, bool):
        return "yes" if plain else "no"
    return "-" if plain is None else f"{plain:.6g}" if isinstance(plain, float) else str(plain)


# ---- does it work here?


@cli.command()
@_json
def check(as_json: bool) -> None:
    """Show versions and backends, and run a self-test.

    The first time compiled kernels are built, which takes half a minute."""
    facts = environment()
    results = self_test()
    if as_json:
        _print_json({**facts, "tests": results})
    else:
        for title, entries in facts.items():
            click.echo(f"{title}:")
            for name, value in entries.items():
                click.echo(f"  {name}: {value}")
        click.echo("self-test:")
        for result in results:
            verdict = "ok" if result["passed"] else "FAILED"
            click.echo(f"  {verdict}: {result['test']} ({result['backend']}): {result['error']:.1e}")
    failed = [result for result in results if not result["passed"]]
    if failed:
        first = failed[0]
        raise NumericsError(
            f"self-test failed on backend {first['backend']}: {first['test']} is off by {first['error']:.1e}"
        )


def environment() -> dict[str, dict[str, str]]:
    """Versions, backends and the threads of the linear algebra libraries."""
    import importlib.metadata
    import platform

    import numpy as np  # noqa: F401  (loads the BLAS whose threads are counted below)
    from threadpoolctl import threadpool_info

    from solvers.backends import available_backends
    from solvers.threads import threads as kernel_threads

    versions = {"bbdfield": __version__, "python": platform.python_version()}
    for name in ("numpy", "numba", "scipy", "h5py", "matplotlib", "pydantic", "cupy-cuda12x", "cupy-cuda13x"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    threads = {
        Path(library["filepath"]).name: f"{library['num_threads']} threads, {library['user_api']} {library['version']}"
        for library in threadpool_info()
    }
    try:
        from solvers.compiled import CACHE

        kept = f"{kernel_threads()} threads, machine code is kept in {CACHE}"
    except ImportError:  # the backends say why
        kept = "unavailable"
    return {
        "versions": versions,
        "backends": available_backends(),
        "threads": {"CPUs": str(os.cpu_count()), "compiled kernels": kept, **threads},
    }


def self_test() -> list[dict[str, Any]]:
    """On every backend that answers: adjoints are exact, and the field at the lattice's resolution is the lattice.

    With Euler's scheme on n_x = M depth cells the order-0 field theory *is* the network, so both must train alike to
    rounding; their operators and gradients are written twice.
    """
    from solvers.backends import available_backends

    usable = [name for name, words in available_backends().items() if not words.startswith("unavailable")]
    results = []
    for backend in usable:
        for tied in (True, False):
            kernel = "tied" if tied else "untied"
            for test, error in (
                (f"adjoint of the width operator, {kernel}", _adjoint_error(backend, tied)),
                (f"field at the lattice's resolution is the lattice, {kernel}", _lattice_error(backend, tied)),
            ):
                results.append({"test": test, "backend": backend, "error": error, "passed": error < 1e-11})
    return results


def _adjoint_error(backend: str, tied: bool) -> float:
    """max over paddings of |<Ks, g> - <s, K'g>| and |<Ks, g> - <w, dK'g>|, relative to the norms."""
    import numpy as np

    from solvers.backends import get_backend
    from solvers.grids import Grid
    from solvers.padding import PADDINGS
    from solvers.width import KernelOperator

    device = get_backend(backend)
    rng = np.random.default_rng(1)
    cells, channels, samples, half = 24, 3, 5, 4
    w = rng.standard_normal((channels, 2 * half + 1, channels) if tied else (cells, channels, 2 * half + 1, channels))
    s, g = rng.standard_normal((2, cells, channels, samples))
    worst = 0.0
    for padding in PADDINGS:
        operator = KernelOperator(device.xp, Grid(1, cells), (half + 0.5) / cells, tied=tied, padding=padding)
        on_device = [device.to_device(array) for array in (w, s, g)]
        applied = device.to_numpy(operator.apply(on_device[0], on_device[1]))
        state = device.to_numpy(operator.adjoint_state(on_device[0], on_device[2]))
        weights = device.to_numpy(operator.adjoint_weights(on_device[1], on_device[2]))
        scale = float(np.linalg.norm(applied) * np.linalg.norm(g))
        direct = np.vdot(applied, g)
        worst = max(worst, abs(direct - np.vdot(s, state)) / scale, abs(direct - np.vdot(w, weights)) / scale)
    return worst


def _lattice_error(backend: str, tied: bool) -> float:
    """Largest difference of w, b and R after ten steps of training, relative to how far they moved."""
    import numpy as np

    from bbdfield.datasets import Dataset
    from bbdfield.fields.simulation import FieldSystem
    from bbdfield.lattice.training import LatticeSystem
    from bbdfield.model.architecture import Lattice, Rates, Training
    from bbdfield.model.boundary import Boundary
    from bbdfield.model.initial import InitialFields
    from bbdfield.model.ranges import Kernel
    from bbdfield.model.units import LatticeState, to_field, to_lattice

    rng = np.random.default_rng(2)
    data = Dataset("self-test", rng.standard_normal((40, 1, 20)), np.arange(40) % 4)
    lattice = Lattice(depth=8, width=20, channels=4, range=Kernel(7 / 40, tied), outputs=4)
    plan = Training(steps=10, batch=8, rates=Rates(w=5.0, b=0.5, r=0.5), step=0.5, probe=1, seed=3)
    boundary = Boundary.draw(data, lattice, plan)
    start = InitialFields(lattice, seed=3).on(lattice.grid)
    compiled = "numba" if backend == "numba" else "numpy"
    network = LatticeSystem(lattice, boundary, to_lattice(start), backend=compiled)
    theory = FieldSystem(start, boundary, order=0, scheme="euler", backend=backend)
    for k in range(plan.steps):
        network.step(k)
        theory.step(k)
    trained = to_field(lattice, LatticeState(*network.u))
    worst = 0.0
    for name, predicted in theory.state().items():
        exact, before = getattr(trained, name), getattr(start, name)
        worst = max(worst, float(np.abs(predicted - exact).max() / np.abs(exact - before).max()))
    return worst


# ---- how fast is it here?


@cli.command()
@click.option("--only", help="Parts to measure, such as sites,forecast.  [default: sites,scaling,forecast]")
@click.option("--sizes", default="full", show_default=True, help="full (minutes), or small (seconds; shows nothing).")
@click.option("--depths", help="Layers of the forecast's lattices.  [default: 64,256,1024,4096]")
@click.option("--threads", type=click.IntRange(min=1), help="CPUs and threads of every program (default: all).")
@click.option("--out", type=_FILE, help="Directory for bench.json, figures and report.html.")
@_overwrite
@_json
def bench(
    only: str | None,
    sizes: str,
    depths: str | None,
    threads: int | None,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Measure speed here, and against PyTorch and JAX.

    Cost per site, the machine's own ceilings, scaling, and the forecast of deep networks from few cells, all in one run
    and as ratios. Run it on an idle machine."""
    from bbdfield.benchmarks.settings import SIZES, Settings, depths_of, parts_of, require_choice

    require_choice("--sizes", sizes, SIZES)
    parts, layers = parts_of(only), depths_of(depths, sizes)
    if overwrite and out is None:
        raise InputError("--overwrite: there is nothing to overwrite without --out")

    from bbdfield.benchmarks.describe import TITLE
    from bbdfield.benchmarks.describe import describe as describe_benchmark
    from bbdfield.benchmarks.machine import on_threads
    from bbdfield.benchmarks.run import measure, prepare, write

    with Progress() as progress, on_threads(threads) as count:
        if out is not None:
            prepare(out, overwrite=overwrite)
        results = measure(Settings(sizes, count, parts, layers, progress.say))
    written = None if out is None else write(results, out)
    if as_json:
        _print_json(results)
        return
    description = describe_benchmark(results)
    click.echo(description.summary)
    _print_description(TITLE, description)
    if written is not None:
        click.echo(f"report: {written}")


if __name__ == "__main__":
    sys.exit(main())
