"""One run of the benchmark: measure, and write bench.json, figures and report.html."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import resource
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbdfield._version import __version__
from bbdfield.benchmarks.describe import CAPTIONS, TITLE, describe
from bbdfield.benchmarks.forecast import measure_forecast
from bbdfield.benchmarks.machine import ceilings, describe_machine
from bbdfield.benchmarks.scaling import measure_scaling
from bbdfield.benchmarks.settings import Settings
from bbdfield.benchmarks.sites import measure_sites
from bbdfield.errors import InputError
from bbdfield.files import write_text
from bbdfield.plotting.records import recorded
from bbdfield.provenance import git_revision, now
from bbdfield.studies.report import figures_of, write_page
from solvers.backends import available_backends

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = {"sites": measure_sites, "scaling": measure_scaling, "forecast": measure_forecast}
PACKAGES = ("numpy", "scipy", "numba", "h5py", "matplotlib", "torch", "jax", "cupy-cuda12x", "cupy-cuda13x")
RESULTS, REPORT = "bench.json", "report.html"
#: entries of bench.json that say how it came about; figures and report carry them, too
PROVENANCE = ("started", "seconds", "command", "config", "threads", "machine", "device", "versions", "git_revision")


def measure(settings: Settings) -> dict[str, Any]:
    """Everything that was asked for, as bench.json holds it."""
    started, clock = now(), time.monotonic()
    machine = describe_machine()
    settings.say("the machine's ceilings")
    results: dict[str, Any] = {
        "format": 1,
        "sizes": settings.sizes,
        "threads": settings.threads,
        "repeats": settings.repeats,
        "precision": "float64",
        "command": shlex.join(["bbdfield", *sys.argv[1:]]),
        # the problems draw their numbers from fixed seeds, so this is all that a repetition is told
        "config": {"only": settings.only, "depths": settings.depths, "cells": settings.cells, "steps": settings.steps},
        "started": started,
        "machine": machine,
        "device": available_backends(),
        "versions": {"bbdfield": __version__, "python": platform.python_version(), **_versions()},
        "git_revision": git_revision(),
        "ceilings": ceilings(settings.sizes, settings.threads, repeats=settings.repeats, block=settings.block),
    }
    for part in settings.only:
        results[part] = MEASURES[part](settings)
    results["seconds"] = round(time.monotonic() - clock, 1)
    # of the whole process, everything loaded: unlike the sums of arrays in "scaling"
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results["largest_resident_mb"] = round(kilobytes / (1e6 if sys.platform == "darwin" else 1e3), 1)
    return results


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


# the directory


def prepare(out: Path, *, overwrite: bool) -> None:
    """Make the directory; refuse one that is there, unless it is an earlier benchmark's and may be overwritten.

    Raises
    ------
    InputError
        for anything else that is there, or a place that cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; choose another directory with --out")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise InputError(f"{out}: exists already; choose another directory with --out, or add --overwrite")
        if not (out / RESULTS).is_file():
            raise InputError(f"{out}: is not a benchmark's directory, so it is not overwritten; choose another one")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / REPORT).unlink(missing_ok=True)
        if (out / "figures").is_dir():
            shutil.rmtree(out / "figures")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another directory") from error


def write(results: dict[str, Any], out: Path) -> Path:
    """Write bench.json, the figures and the report of it; returns the report's path."""
    write_text(out / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n")
    provenance = {key: results[key] for key in PROVENANCE}
    with recorded(provenance):
        draw(results, out / "figures")
    return write_page(
        out / REPORT,
        TITLE,
        describe(results),
        figures_of(out, CAPTIONS),
        command=results["command"],
        note="Times differ from run to run and machine to machine; compare ratios taken in one run.",
        provenance=provenance,
    )


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """The figures of the parts that were measured."""
    from bbdfield.plotting.benchmarks import figure_forecast, figure_scaling, figure_sites
    from bbdfield.plotting.style import save

    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Callable[[Any], Figure]]
    figures = {"sites": figure_sites, "scaling": figure_scaling, "forecast": figure_forecast}
    return [save(make(results[part]), folder / f"{part}.png") for part, make in figures.items() if part in results]
