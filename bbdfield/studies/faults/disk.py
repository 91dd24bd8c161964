"""Disks that are full at a random byte: of a training, a simulation, a study, a sweep.

Writes fail in the C library (`enospc.c`, compiled here and loaded before it), for all that lies under one directory and
for all processes together, from a byte on that is drawn between nothing and all that an undisturbed run writes; every
other disk also tells beforehand how little is left. Without a C compiler the size of files is limited instead. After
that there is room again, and the same command goes on to the end that it would have had.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bbdfield.errors import InputError
from bbdfield.storage import Trajectory
from bbdfield.studies.faults import victims
from bbdfield.studies.faults.programs import Looks, Program, environment, succeed, watched
from bbdfield.studies.faults.sweeps import sweep_toml

if TYPE_CHECKING:
    from bbdfield.studies.config import FaultsConfig
    from bbdfield.studies.kinds import Session

SOURCE = Path(__file__).with_name("enospc.c")
#: a limit that drew no refusal (not all runs write the same number of bytes) is drawn again so many times
_DRAWS = 20


@dataclass(frozen=True)
class Command:
    """A command that writes `out`, and what is added to it to go on; `trajectories` are watched while it runs."""

    name: str
    arguments: tuple[str, ...]
    out: str
    again: tuple[str, ...] = ("--resume",)
    trajectories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Whole:
    """What an undisturbed run leaves, and how many bytes it writes."""

    results: Mapping[str, str]
    written: int


def compiled(folder: Path) -> Path | None:
    """The library of full disks; None where there is no C compiler, or nothing to load it."""
    library = folder / "full-disk.so"
    for compiler in ("cc", "gcc", "clang"):
        if shutil.which(compiler) and os.uname().sysname == "Linux":
            command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
            if subprocess.run(command, capture_output=True).returncode == 0:
                return library
    return None


def fill_all(config: FaultsConfig, folder: Path, session: Session) -> dict[str, Any]:
    """Counts of what full disks led to, by command."""
    library, wanted = compiled(folder), config.faults.full_disks
    commands = _commands(config, folder)
    quotas = [wanted // len(commands) + (i < wanted % len(commands)) for i in range(len(commands))]
    done: list[int] = []

    def one(entry: tuple[Command, int]) -> dict[str, Any]:
        found = _fill(entry[0], entry[1], config, folder, library)
        done.append(entry[1])
        session.say(f"full disks: {sum(done)} of {wanted} ({entry[0].name})")
        return found

    with ThreadPoolExecutor(session.workers) as pool:
        found = list(pool.map(one, [entry for entry in zip(commands, quotas, strict=True) if entry[1]]))
    counts = ("disks", "one_line", "readable", "lost", "equal")
    return {
        **{key: sum(entry[key] for entry in found) for key in counts},
        "method": "writes refused in the C library" if library else "limited file size (no C compiler)",
        "by_command": {entry["command"]: {key: entry[key] for key in counts} for entry in found},
        "problems": [text for entry in found for text in entry["problems"]],
    }


def _commands(config: FaultsConfig, folder: Path) -> list[Command]:
    """The commands, with what they read written."""
    steps = max(8, config.training.steps // 4)
    single = victims.study(config, training={"steps": steps, "backend": "numpy"})
    toml = victims.write(single, folder / "single.toml")
    depth = config.rungs()[0][0]
    ladder = victims.study(
        config,
        lattice={"depth": [max(2, depth // 4), max(4, depth // 2)]},
        training={"steps": max(8, steps // 4), "backend": "numpy"},
        field={"n_x": max(2, depth // 4), "refine_x": 1, "backend": "numpy"},
    )
    study = victims.write(ladder, folder / "study.toml")
    lattice = folder / "lattice.h5"
    lattice.unlink(missing_ok=True)
    succeed(["train", toml, "--out", lattice], folder / "log")
    commands = [
        Command("training", ("train", str(toml)), "out.h5", trajectories=("out.h5",)),
        Command("simulation", ("simulate", str(lattice), "--n-x", "4"), "out.h5", trajectories=("out.h5",)),
        Command("study", ("run", str(study), "--workers", "2"), "run"),
    ]
    toml = sweep_toml(config, folder / "sweep.toml", points=4, steps=max(8, steps // 4))
    again = ("--resume", "--retry-failed")
    return [*commands, Command("sweep", ("sweep", str(toml), "--workers", "2"), "sweep", again)]


def _fill(command: Command, count: int, config: FaultsConfig, folder: Path, library: Path | None) -> dict[str, Any]:
    """So many full disks for one command."""
    place = folder / command.name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    rng = np.random.default_rng([config.seed, len(command.name), ord(command.name[1])])
    whole = _undisturbed(command, place, library)
    found: dict[str, Any] = {"command": command.name, "problems": []}
    found |= dict.fromkeys(("disks", "one_line", "readable", "lost", "equal"), 0)
    for number in range(count):
        for _ in range(_DRAWS):
            limit = int(rng.uniform(0, whole.written))
            outcome = _once(command, place, whole, library, limit, tells=bool(number % 2))
            if outcome is not None:
                break
        else:
            found["problems"].append(f"{command.name}: no limit below {whole.written} bytes was ever reached")
            continue
        found["disks"] += 1
        for key, value in outcome.items():
            if key == "problem":
                found["problems"] += [f"{command.name}, {limit} of {whole.written} bytes: {value}"] if value else []
            else:
                found[key] += value
    return found


def _undisturbed(command: Command, place: Path, library: Path | None) -> Whole:
    home = place / "whole"
    home.mkdir()
    count = _counter(place)
    environ = _environment(library, home, 2**60, count, tells=False)
    with Program([*command.arguments, "--out", home / command.out], place / "log", environ) as program:
        program.wait()
        ended = program.ended()
    if ended.code != 0:
        raise InputError(f"bbdfield {command.arguments[0]} failed undisturbed: {ended.said[-500:]}")
    written = _counted(count)[0] if library else (home / command.out).stat().st_size
    return Whole(results(home / command.out), written)


def _once(
    command: Command, place: Path, whole: Whole, library: Path | None, limit: int, *, tells: bool
) -> dict[str, Any] | None:
    """One disk that is full after `limit` bytes; None if nothing was refused."""
    home = place / "full"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    looks, count = Looks(), _counter(place)
    environ = _environment(library, home, limit, count, tells=tells)
    watch = [home / name for name in command.trajectories]
    start = [*command.arguments, "--out", home / command.out]
    most = None if library else limit
    with watched(looks, lambda: watch), Program(start, place / "log", environ, file_size=most) as program:
        program.wait()
        ended = program.ended()
    if ended.code == 0 and not (library and _counted(count)[1]):
        return None
    problem = "" if ended.code == 2 and ended.tidy else f"exit code {ended.code}: {ended.said[-600:]}"
    if ended.code == 0 and results(home / command.out) == whole.results:
        problem = ""  # what was refused was nothing that it needed
    one_line = int(not problem)
    refused = len(looks.refused)
    lost = looks.lost() + sum(looks.look(path) is None for path in watch if path.exists())
    readable = int(len(looks.refused) == refused)
    with Program([*start, *command.again], place / "log") as program:
        program.wait()
        ended = program.ended()
    after = results(home / command.out)
    equal = int(ended.code == 0 and after == whole.results)
    if not equal:
        differing = sorted(k for k in {*after, *whole.results} if after.get(k) != whole.results.get(k))
        problem = problem or f"going on: exit code {ended.code}, {ended.said[-600:]}, differing {differing[:5]}"
    problem = problem or (f"{lost} snapshots lost" if lost else "") or "; ".join(looks.refused[:2])
    return {"one_line": one_line, "readable": readable, "lost": lost, "equal": equal, "problem": problem}


def results(path: Path) -> dict[str, str]:
    """What must be equal in the end: the content of every trajectory, and the bytes of every scores.json."""
    found: dict[str, str] = {}
    paths = sorted(path.rglob("*")) if path.is_dir() else [path]
    for one in paths:
        name = str(one.relative_to(path)) if path.is_dir() else one.name
        if one.name == "scores.json":
            found[name] = hashlib.sha256(one.read_bytes()).hexdigest()
        elif one.suffix == ".h5" and (one.name.startswith(("lattice-", "field-")) or one == path):
            try:
                with Trajectory(one) as trajectory:
                    found[name] = trajectory.content_digest() if trajectory.complete else "incomplete"
            except InputError as error:
                found[name] = str(error)
        elif one.suffix == ".part":
            found[name] = "left over"
    return found


def _environment(library: Path | None, home: Path, limit: int, count: Path, *, tells: bool) -> dict[str, str]:
    if library is None:
        return environment()
    told = {"FULL_DISK_TELLS": "1"} if tells else {}
    disk = {"FULL_DISK_UNDER": str(home.resolve()), "FULL_DISK_AFTER": str(limit), "FULL_DISK_COUNT": str(count)}
    return environment(LD_PRELOAD=str(library), **disk, **told)


def _counter(place: Path) -> Path:
    path = place / "count"
    path.write_bytes(bytes(16))
    return path


def _counted(path: Path) -> tuple[int, int]:
    """(bytes written, writes refused)."""
    used, refused = struct.unpack("<qq", path.read_bytes())
    return int(used), int(refused)
