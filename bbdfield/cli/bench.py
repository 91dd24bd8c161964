"""bbdfield bench: how fast is it here?"""

from __future__ import annotations

from pathlib import Path

import click

from bbdfield.cli.arguments import FILE, json_option, overwrite_option
from bbdfield.cli.group import cli
from bbdfield.cli.output import print_description, print_json, say
from bbdfield.cli.progress import Progress
from bbdfield.errors import InputError


@cli.command()
@click.option("--only", help="Parts to measure, such as sites,forecast.  [default: sites,scaling,forecast]")
@click.option("--sizes", default="full", show_default=True, help="full (minutes), or small (seconds; shows nothing).")
@click.option("--depths", help="Layers of the forecast's lattices.  [default: 64,256,1024,4096]")
@click.option("--threads", type=click.IntRange(min=1), help="CPUs and threads of every program (default: all).")
@click.option("--out", type=FILE, help="Directory for bench.json, figures and report.html.")
@overwrite_option
@json_option
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
        print_json(results)
        return
    description = describe_benchmark(results)
    say(description.summary)
    print_description(TITLE, description)
    if written is not None:
        say(f"report: {written}")
