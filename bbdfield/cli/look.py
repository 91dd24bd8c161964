"""Looking at results: plot, report, info."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bbdfield.cli.arguments import FILE, check_free, json_option, overwrite_option
from bbdfield.cli.group import cli
from bbdfield.cli.output import flat, print_json, say
from bbdfield.errors import Damaged, InputError


@cli.command()
@click.argument("file", type=FILE)
@click.option("--out", type=FILE, help="Figure to write: .png, .pdf or .svg (default: FILE with .png).")
@click.option("--animate", type=FILE, help="Film to write: .gif or .mp4.")
@click.option("--channel", type=int, default=0, show_default=True, help="Channel to show.")
@click.option("--sample", type=int, default=0, show_default=True, help="Probe sample to show.")
@overwrite_option
def plot(file: Path, out: Path | None, animate: Path | None, channel: int, sample: int, overwrite: bool) -> None:
    """Draw the trajectory in FILE."""
    from bbdfield.model.run import Run

    if out is None and animate is None:
        out = file.with_suffix(".png")
    for target in (out, animate):
        if target is not None:
            check_free(target, overwrite, file)
    with Run(file) as recorded:
        if out is not None:
            from bbdfield.plotting.fields import plot_trajectory

            plot_trajectory(recorded, out, channel=channel, sample=sample)
            say(str(out))
        if animate is not None:
            from bbdfield.plotting.animation import animate_trajectory

            animate_trajectory(recorded, animate, channel=channel, sample=sample)
            say(str(animate))


@cli.command()
@click.argument("run_dir", type=FILE)
@overwrite_option
def report(run_dir: Path, overwrite: bool) -> None:
    """Write the report of the study or sweep in RUN_DIR again."""
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: no such directory; give the one that bbdfield run or sweep wrote")
    if not (run_dir / "scores.json").is_file():
        raise InputError(f"{run_dir}: holds nothing finished (no scores.json); run or resume it first")
    check_free(run_dir / "report.html", overwrite)
    from bbdfield.studies.run import check_unaltered
    from bbdfield.sweeps.run import PLAN

    if (run_dir / PLAN).is_file():
        from bbdfield.sweeps.run import write_report
    else:
        from bbdfield.studies.report import write_report

        check_unaltered(run_dir)
    say(str(write_report(run_dir)))


@cli.command()
@click.argument("file", type=FILE)
@json_option
def info(file: Path, as_json: bool) -> None:
    """Show what FILE holds.

    A trajectory, also while it is being written, a sidecar, or the table of a sweep."""
    from bbdfield.storage import Trajectory
    from bbdfield.storage.sidecar import is_sidecar, read_sidecar

    try:
        aside = is_sidecar(file)
    except Damaged:  # a trajectory says more about its damage, and what can be repaired
        aside = False
    if aside:
        held = describe_sidecar(read_sidecar(file))
    else:
        with Trajectory(file) as trajectory:
            held = describe(trajectory)
    if as_json:
        print_json({"file": str(file), **held})
        return
    say(f"file: {file}")
    for key, value in held.items():
        if isinstance(value, dict):
            say(f"{key}:")
            for name, entry in value.items():
                say(f"  {name}: {flat(entry)}")
        else:
            say(f"{key}: {flat(value)}")


def describe_sidecar(sidecar: Any) -> dict[str, Any]:
    """Content of a sidecar in plain JSON types."""

    def told(name: str, array: Any) -> dict[str, Any]:
        kind = "text" if array.dtype.kind in "SU" else array.dtype.name
        return {"dims": dict(zip(sidecar.dims[name], array.shape, strict=True)), "type": kind}

    arrays = {name: told(name, array) for name, array in sidecar.arrays.items()}
    return {"kind": sidecar.kind, "arrays": arrays, "config": sidecar.config, **sidecar.origin}


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
