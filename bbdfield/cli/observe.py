"""`observe`: the companion theories, asked of a recorded trajectory."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from bbdfield.cli.arguments import FILE, check_free, json_option, overwrite_option
from bbdfield.cli.group import cli
from bbdfield.cli.output import print_json, say
from bbdfield.cli.progress import Progress
from bbdfield.errors import InputError


@cli.command()
@click.argument("file", type=FILE)
@click.option(
    "--only", metavar="NAMES", help="Theories, separated by commas: conservation, regimes, manifolds, temperature."
)
@click.option("--out", type=FILE, help="Sidecar to write (default: FILE with .observables.h5).")
@overwrite_option
@json_option
def observe(file: Path, only: str | None, out: Path | None, overwrite: bool, as_json: bool) -> None:
    """Ask companion theories of the trajectory in FILE.

    Conserved quantities, settling of patterns and weights, invariant manifolds and the noise of minibatches go into one
    sidecar file, with one figure each beside it. FILE stays as it is; steps between its snapshots are made again where
    a theory needs them. Without --only, theories that do not hold are named with the reason."""
    from bbdfield.observables import THEORIES, theory

    names = [name.strip() for name in only.split(",")] if only is not None else list(THEORIES)
    for name in names:
        if not name:
            raise InputError(f"--only '{only}': a name is missing; give theories out of {', '.join(THEORIES)}")
        theory(name)
    if len(set(names)) < len(names):
        raise InputError(f"--only {only}: give each theory once")
    out = file.with_suffix(".observables.h5") if out is None else out
    if out.suffix not in (".h5", ".hdf5"):
        raise InputError(f"{out}: a sidecar is an HDF5 file; give a name that ends in .h5")
    pictures = {name: out.with_suffix(f".{name}.png") for name in THEORIES}
    from threadpoolctl import threadpool_limits

    from bbdfield.model.run import Run
    from bbdfield.plotting.records import record_of
    from bbdfield.plotting.style import save
    from bbdfield.studies.observe import figure, to_json
    from bbdfield.studies.observe import observe as ask

    with Run(file) as run:
        for target in (out, *(pictures[name] for name in names)):
            check_free(target, overwrite, file)
        # Everything is made aside and appears together, the sidecar last.
        with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as aside:
            record, made = record_of(run), Path(aside)
            with Progress() as progress, threadpool_limits(1):
                asked = names if only is not None else None
                sidecar = ask(run, made / out.name, asked, progress=progress.of(file.name))
            found = sidecar.config["theories"]
            for name in found:
                save(figure(sidecar, name), made / pictures[name].name, record)
            for name, picture in pictures.items():
                if name in found:
                    os.replace(made / picture.name, picture)
                elif overwrite:
                    picture.unlink(missing_ok=True)  # of the sidecar that is replaced
            os.replace(made / out.name, out)
            sidecar = dataclasses.replace(sidecar, path=out)
    if as_json:
        print_json({**to_json(sidecar), "figures": {name: str(pictures[name]) for name in found}})
        return
    say(str(out))
    steps = sidecar.config["steps"]
    if steps["recorded"] < steps["wanted"]:
        say(f"unfinished: {steps['recorded']} of {steps['wanted']} training steps")
    for name, summary in found.items():
        say(f"{name}: {pictures[name]}")
        for line in summary["told"]:
            say(f"  {line}")
    for name, reason in sidecar.config["left_out"].items():
        say(f"{name}: does not apply: {reason}")
