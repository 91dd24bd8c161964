"""bbdfield sweep: many studies, one for every point of a grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bbdfield.cli.arguments import (
    FILE,
    check_choice,
    json_option,
    overwrite_option,
    resumable,
    resume_option,
    set_option,
    threads_option,
    workers_option,
)
from bbdfield.cli.group import cli
from bbdfield.cli.output import print_description, print_json, say
from bbdfield.cli.progress import PointsProgress
from bbdfield.errors import InputError, NumericsError

if TYPE_CHECKING:
    from bbdfield.sweeps.plan import Sweep


@cli.command()
@click.argument("config", type=FILE)
@click.option("--out", type=FILE, required=True, help="Directory for the table and the runs of all points.")
@workers_option
@threads_option
@click.option(
    "--scheduler", metavar="ADDRESS", help="Run on the workers of this Dask scheduler, such as tcp://node:8786."
)
@overwrite_option
@resume_option
@click.option("--retry-failed", is_flag=True, help="Compute failed points once more; with --resume.")
@set_option
@json_option
@click.pass_context
def sweep(
    context: click.Context,
    config: Path,
    out: Path,
    workers: int | None,
    threads: int | None,
    scheduler: str | None,
    overwrite: bool,
    resume: bool,
    retry_failed: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run the study in CONFIG at every point of its [sweep].

    A finished point is never computed again; a failed one is noted with its reason, and the sweep goes on. With failed
    points the exit code is 3."""
    check_choice(overwrite, resume)
    if retry_failed and not resume:
        raise InputError("--retry-failed: goes with --resume; add it")
    if scheduler is not None and workers is not None:
        raise InputError("--workers: the cluster has its own workers; leave out --workers or --scheduler")
    from bbdfield.sweeps.plan import load_sweep
    from bbdfield.sweeps.run import run_sweep, verdict

    plan = load_sweep(config, overrides)
    with resumable(context), PointsProgress() as progress:
        scores = run_sweep(
            plan,
            out,
            workers=workers,
            threads=threads or 1,
            scheduler=scheduler,
            overwrite=overwrite,
            resume=resume,
            retry_failed=retry_failed,
            say=progress.say,
            report=progress.report,
        )
    if as_json:
        print_json(scores)
    else:
        _print(plan, scores, out)
    if scores["counts"]["failed"]:
        raise NumericsError(verdict(scores, out))


def _print(plan: Sweep, scores: dict[str, Any], out: Path) -> None:
    """Tables of what the sweep found, and where its report is."""
    from bbdfield.sweeps.describe import describe
    from bbdfield.sweeps.run import REPORT, failures_of

    print_description(plan.title or "sweep", describe(scores, failures_of(out)))
    say(f"report: {out / REPORT}")
