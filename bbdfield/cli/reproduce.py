"""bbdfield reproduce: is what a directory says what its configuration gives?"""

from __future__ import annotations

from pathlib import Path

import click

from bbdfield.cli.arguments import FILE, json_option, threads_option, workers_option
from bbdfield.cli.group import cli
from bbdfield.cli.output import print_json, say
from bbdfield.cli.progress import PointsProgress, Progress
from bbdfield.errors import NumericsError


@cli.command()
@click.argument("run_dir", type=FILE)
@click.option("--out", type=FILE, help="Keep the repetition in this directory (default: it is deleted).")
@workers_option
@threads_option
@json_option
def reproduce(run_dir: Path, out: Path | None, workers: int | None, threads: int | None, as_json: bool) -> None:
    """Run what RUN_DIR holds again and compare all scores.

    RUN_DIR is of a study or a sweep. Says which scores differ and what else is different: versions, git revision,
    machine, backend. If scores differ the exit code is 3."""
    from bbdfield.sweeps.run import PLAN

    if (run_dir / PLAN).is_file():
        from bbdfield.sweeps.reproduce import reproduce_sweep

        with PointsProgress() as points:
            found = reproduce_sweep(
                run_dir, workers=workers, threads=threads or 1, say=points.say, report=points.report, out=out
            )
    else:
        from bbdfield.studies.reproduce import reproduce as reproduce_study

        with Progress() as progress:
            found = reproduce_study(
                run_dir, workers=workers, say=progress.say, report_progress=progress.report, out=out
            )
    if as_json:
        print_json(found.to_dict())
    else:
        for line in found.lines():
            say(line)
    if not found.equal:
        raise NumericsError(found.message())
