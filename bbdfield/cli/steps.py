"""The steps of a study one by one: train, simulate, coarse-grain, compare, decompose."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bbdfield.cli.arguments import (
    FILE,
    check_choice,
    check_free,
    grid_of,
    json_option,
    n_x_option,
    n_y_option,
    open_lattice,
    overwrite_option,
    resumable,
    resume_option,
    set_option,
)
from bbdfield.cli.group import cli
from bbdfield.cli.output import number, print_json, print_summary, print_table, say
from bbdfield.cli.progress import Progress
from bbdfield.errors import InputError

if TYPE_CHECKING:
    from bbdfield.model.run import Run

QUANTITIES = ("z", "w", "b", "loss")


@cli.command()
@click.argument("config", type=FILE)
@click.option("--out", type=FILE, required=True, help="HDF5 file to write.")
@click.option("--depth", type=int, help="Layers (default: the first of the ladder).")
@click.option("--width", type=int, help="Cells (default: the first of the ladder).")
@overwrite_option
@resume_option
@set_option
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
    check_choice(overwrite, resume)
    check_free(out, overwrite or resume, config, resumable=True)
    from threadpoolctl import threadpool_limits

    from bbdfield.lattice.training import train as train_lattice
    from bbdfield.studies.config import load_config
    from bbdfield.studies.observe import recorders

    study = load_config(config, overrides)
    first = study.rungs()[0]
    lattice = study.lattice_at(first[0] if depth is None else depth, first[1] if width is None else width)
    training = study.training_plan()
    observers = recorders(study.training.observe, lattice, lattice.grid, training, "lattice", len(study.dataset().x))
    # One BLAS thread, as in `run`: sums then come out bit for bit the same.
    with resumable(context), Progress() as progress, threadpool_limits(1):
        recorded = train_lattice(
            lattice,
            study.dataset(),
            training,
            initial=study.initial_fields(lattice),
            **study.training.machine(),
            out=out,
            overwrite=overwrite,
            resume=resume,
            compression=study.compression(),
            observers=observers,
            progress=progress.of(f"lattice M={lattice.depth} N={lattice.width}"),
        )
    with recorded:
        say(f"trained by {_computed_by(recorded)}", err=True)
        print_summary(recorded)


@cli.command()
@click.argument("lattice", type=FILE)
@click.option("--out", type=FILE, required=True, help="HDF5 file to write.")
@click.option("--order", type=int, default=1, show_default=True, help="Order of the theory in a_x: 0 or 1.")
@n_x_option
@n_y_option
@click.option("--depth-scheme", default="rk4", show_default=True, help="euler, midpoint or rk4.")
@click.option("--width-order", type=int, help="Order in a_y for lattices with taps: 0, 1 or 2.  [default: 2]")
@click.option("--stencil", type=int, default=4, show_default=True, help="Accuracy of derivatives in y: 2, 4 or 6.")
@click.option("--ill-posed", default="refuse", show_default=True, help="refuse, or cutoff: waves up to π/a_y only.")
@click.option("--backend", default="auto", show_default=True, help="auto (by size), numpy, numba or cupy.")
@click.option("--precision", default="float64", show_default=True, help="float64 or float32.")
@click.option("--checkpoint", type=int, default=0, show_default=True, help="Cells between kept ẑ; 0 keeps all.")
@overwrite_option
@resume_option
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
    check_choice(overwrite, resume)
    check_free(out, overwrite or resume, lattice, resumable=True)
    from threadpoolctl import threadpool_limits

    from bbdfield.fields.coarse_graining import coarse_grain
    from bbdfield.fields.simulation import simulate as simulate_field

    with open_lattice(lattice) as source, resumable(context), Progress() as progress, threadpool_limits(1):
        grid = grid_of(source, n_x, n_y)
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
        say(told, err=True)
        print_summary(recorded)


def _computed_by(recorded: Run) -> str:
    from solvers.threads import threads

    backend = recorded.trajectory.attrs.get("backend") or "an earlier version"
    return f"{backend} on {threads()} threads" if backend.startswith("numba") else backend


@cli.command("coarse-grain")
@click.argument("lattice", type=FILE)
@click.option("--out", type=FILE, required=True, help="HDF5 file to write.")
@n_x_option
@n_y_option
@click.option(
    "--window",
    type=float,
    nargs=2,
    metavar="X Y",
    default=(0.0, 0.0),
    show_default=True,
    help="Standard deviations of the Gaussian window in depth and width.",
)
@overwrite_option
def coarse_grain_command(
    lattice: Path, out: Path, n_x: int | None, n_y: int | None, window: tuple[float, float], overwrite: bool
) -> None:
    """Turn the arrays of LATTICE into fields on a grid."""
    check_free(out, overwrite, lattice)
    from bbdfield.fields.coarse_graining import Window, write_coarse_grained

    with open_lattice(lattice) as source:
        grid = grid_of(source, n_x, n_y)
        with write_coarse_grained(source, grid, out, window=Window(*window), overwrite=overwrite) as written:
            say(f"{out}: {len(written.t)} snapshots on {grid.n_x} x {grid.n_y} cells")


@cli.command()
@click.argument("field", type=FILE)
@click.argument("lattice", type=FILE)
@json_option
def compare(field: Path, lattice: Path, as_json: bool) -> None:
    """Score the prediction in FIELD against LATTICE."""
    from bbdfield.comparison.scores import compare as score_runs
    from bbdfield.model.run import Run

    with Run(field) as sim, Run(lattice) as real:
        score = score_runs(sim, real)
    if as_json:
        print_json(score.to_dict())
        return
    over: dict[str, float] = score.error_over_movement
    rows = [
        ["relative L2 error", *(number(score.error[name]) for name in QUANTITIES)],
        ["largest error / largest value", *(number(score.max_error[name]) for name in QUANTITIES)],
        ["relative to the movement", *(number(over.get(name)) for name in QUANTITIES)],
    ]
    print_table(f"{field} against {lattice}", ["", *QUANTITIES], rows)
    horizon = "never" if score.horizon is None else f"at t = {score.horizon:g}"
    say(f"pre-activations differ by more than 10 %: {horizon} (compared up to t = {score.t[-1]:g})")
    accuracy = {name: number(values[-1], ".3f") for name, values in score.test_accuracy.items()}
    say(f"test accuracy: lattice {accuracy['lattice']}, field {accuracy['field']}")


@cli.command()
@click.argument("lattice", type=FILE)
@click.option("--out", type=FILE, help="Sidecar to write (default: LATTICE with .decomposition.h5).")
@overwrite_option
@json_option
def decompose(lattice: Path, out: Path | None, overwrite: bool, as_json: bool) -> None:
    """Split the Lagrangian of LATTICE into bulk and boundary.

    Lagrangian, energy, current and dissipation at every snapshot go into a sidecar file, and a figure beside it;
    LATTICE stays as it is."""
    out = lattice.with_suffix(".decomposition.h5") if out is None else out
    picture = out.with_suffix(".png")
    for target in (out, picture):
        check_free(target, overwrite, lattice)
    if out == picture:
        raise InputError(f"{out}: is where the figure goes; give the sidecar a name that ends in .h5")
    from threadpoolctl import threadpool_limits

    from bbdfield.plotting.decomposition import figure_trajectory
    from bbdfield.plotting.records import record_of
    from bbdfield.plotting.style import save
    from bbdfield.studies.decompose import decompose as decompose_run
    from bbdfield.studies.decompose import to_json

    with open_lattice(lattice) as recorded, Progress() as progress, threadpool_limits(1):
        record = record_of(recorded)
        sidecar = decompose_run(recorded, out, overwrite=overwrite, progress=progress.of("snapshots"))
    save(figure_trajectory(sidecar, lattice.name), picture, record)
    held = to_json(sidecar)
    if as_json:
        print_json({**held, "figure": str(picture)})
        return
    last = held["last"]
    say(
        f"{out}: {held['snapshots']} snapshots; at t = {last['t']:g} L = {last['lagrangian']:.4g} ="
        f" {last['bulk']:.4g} (bulk) {last['boundary']:+.4g} (boundary), equal to {held['worst']:.0e} of the operands"
    )
    if held["kinks"]:
        say(f"{held['kinks']} neurons lay exactly on a kink of the activation: the derivative from below is used")
    say(str(picture))
