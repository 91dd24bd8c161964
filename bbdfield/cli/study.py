"""bbdfield run: a whole study."""

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
)
from bbdfield.cli.group import cli
from bbdfield.cli.output import print_description, print_json, say
from bbdfield.cli.progress import Progress
from bbdfield.errors import NumericsError

if TYPE_CHECKING:
    from bbdfield.studies.config import AnyStudy


@cli.command()
@click.argument("config", type=FILE)
@click.option("--out", type=FILE, required=True, help="Directory for everything that the study makes.")
@overwrite_option
@resume_option
@set_option
@click.option("--workers", type=click.IntRange(min=1), help="Processes (default: one per CPU).")
@json_option
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
    check_choice(overwrite, resume)
    from concurrent.futures.process import BrokenProcessPool

    from bbdfield.studies.config import load_config
    from bbdfield.studies.run import run_study

    study = load_config(config, overrides)
    with resumable(context), Progress() as progress:
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
        print_json(scores)
    else:
        print_scores(study, scores, out)


def print_scores(study: AnyStudy, scores: dict[str, Any], out: Path) -> None:
    """Tables of a study's scores, what they say, and where its report is."""
    import tomllib

    from bbdfield.studies.kinds import kind_of

    print_description(study.title or study.kind, kind_of(study.kind).describe(tomllib.loads(study.to_toml()), scores))
    report = out / "report.html"
    say(f"report: {report}" if report.is_file() else f"results: {out}")
