"""Who wrote an artefact, when, with what and how: what a repetition needs besides the configuration.

Everything that bbdfield writes carries this record: HDF5 files as root attributes, run directories as run.json, figures
as text chunks of the PNG.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

#: packages whose version can change a number
PACKAGES = ("numpy", "numba", "scipy", "h5py", "bbdfield")


def provenance() -> dict[str, Any]:
    """created (UTC), versions, git_revision, command and machine, as plain JSON types."""
    versions = {"python": platform.python_version()}
    versions |= {package: package_version(package) for package in PACKAGES}
    return {
        "created": now(),
        "versions": versions,
        "git_revision": git_revision(),
        "command": shlex.join(sys.argv),
        "machine": machine(),
    }


def now() -> str:
    """The time in UTC, to the second, as ISO 8601 writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine() -> str:
    """Processor, number of CPUs and operating system, in words."""
    return f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}"


@cache
def package_version(name: str) -> str:
    """The installed version; "not installed" without one."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@cache
def git_revision() -> str:
    """Commit of the checkout this package runs from, ``-dirty`` if it was changed; "" without a checkout."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # or it is an installed copy inside some other repository
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
