"""SIGKILL at random instants, again and again, and on from there: is the end the same, and was anything lost?

One run is killed many times in a row; each time a number of seconds is drawn from 0 to what the uninterrupted rest
would take, so that kills fall into start-up, computing, writing and closing. Every other kill waits for the next growth
of a file and strikes some milliseconds after it, in the middle of writing as often as possible. Meanwhile a reader
looks at the files, and what it has seen once must be there after the kill.
"""

from __future__ import annotations

import shutil
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bbdfield.errors import InputError
from bbdfield.model.architecture import DYNAMICS
from bbdfield.storage import Trajectory
from bbdfield.studies.faults import victims
from bbdfield.studies.faults.disk import results
from bbdfield.studies.faults.programs import Ended, Looks, Program, members, succeed, watched
from bbdfield.studies.faults.sweeps import sweep_toml
from bbdfield.studies.kinds import Session

if TYPE_CHECKING:
    from bbdfield.studies.config import FaultsConfig

#: The field of a lattice is simulated for so many times fewer steps: a step of it costs more.
FEWER_STEPS, FEWER_ADAPTIVE = 4, 16
#: A kill that waits for a file to grow gives up after so many seconds, and strikes so many after the growth at most.
WAIT, AFTER = 0.5, 0.004
#: points of the sweep that is killed, and seconds that the workers of a killed sweep may live on
SWEEP_POINTS, ORPHANED = 6, 10.0


@dataclass(frozen=True)
class Victim:
    """A command that writes one trajectory, and goes on with it when it is given again with --resume.

    name : what it is.   command : its arguments.   out : what it writes.   whole : what it has written undisturbed, up
    to `total` snapshots, which took `seconds`, `startup` of them up to the first snapshot.
    """

    name: str
    command: tuple[str, ...]
    out: Path
    whole: Path
    total: int
    seconds: float
    startup: float

    #: whether half of the kills are of the parent alone
    parent_alone = False

    def files(self) -> list[Path]:
        """The trajectories that can be looked at while it runs."""
        return [self.out]

    def progress(self) -> tuple[int, bool]:
        """(complete snapshots, whether all is finished); a file that cannot be read has lost them all."""
        if not self.out.exists():
            return 0, False
        try:
            with Trajectory(self.out) as found:
                return found.n_snapshots, found.complete
        except InputError:
            return 0, False

    def wrong(self) -> int:
        """How many files hold a snapshot that is not bitwise that of the undisturbed run."""
        return _differs(self.out, self.whole)

    def equal(self) -> bool:
        """Whether it ended as the undisturbed run."""
        return self.out.exists() and list(results(self.out).values()) == list(results(self.whole).values())


class SweepVictim(Victim):
    """A sweep: its progress is counted in the snapshots of all its trajectories."""

    parent_alone = True

    def files(self) -> list[Path]:
        return sorted(self.out.glob("points/*/*.h5"))

    def progress(self) -> tuple[int, bool]:
        return _snapshots(self.files()), (self.out / "scores.json").is_file()

    def wrong(self) -> int:
        return sum(_differs(path, self.whole / path.relative_to(self.out)) for path in self.files())

    def equal(self) -> bool:
        return self.out.exists() and results(self.out) == results(self.whole)


@dataclass(frozen=True)
class Kill:
    """One kill: seconds after the start, of how many; snapshots (or points) before it and after it, of how many; the
    phase it fell into; whether a file was just growing; whether it hit the parent alone.
    """

    name: str
    number: int
    instant: float
    rest: float
    before: int
    after: int
    total: int
    phase: str
    aimed: bool
    parent_alone: bool


@dataclass
class Outcome:
    """What became of one victim; failures are messages."""

    name: str
    kills: list[Kill] = field(default_factory=list)
    looks: Looks = field(default_factory=Looks)
    failures: list[str] = field(default_factory=list)
    resumed: int = 0
    ends: int = 0
    equal: int = 0
    lost: int = 0
    wrong: int = 0
    leftovers: int = 0
    orphans: int = 0


def kill_all(config: FaultsConfig, part: str, folder: Path, session: Session) -> dict[str, Any]:
    """`part` is training, simulation or sweep; returns counts, and the kills one by one under "each"."""
    keys, done = config.faults, list[int]()
    laws = [*DYNAMICS, "flow on all samples"]
    names = [(law, backend) for law in laws for backend in keys.backends] if part != "sweep" else [("sweep", "")]
    quotas = [keys.kills // len(names) + (i < keys.kills % len(names)) for i in range(len(names))]
    chosen = [(law, backend, quota) for (law, backend), quota in zip(names, quotas, strict=True) if quota]

    def one(entry: tuple[str, str, int]) -> Outcome:
        law, backend, quota = entry
        victim = _sweep(config, folder) if part == "sweep" else _trajectory(config, part, law, backend, folder)

        def say(count: int) -> None:
            session.say(f"{part}: {sum(done) + count} of {keys.kills} kills ({victim.name})")

        outcome = _chains(victim, quota, keys.in_a_row, config.seed, say if part == "sweep" else lambda _: None)
        done.append(quota)
        say(0)
        return outcome

    with ThreadPoolExecutor(session.workers if part != "sweep" else 1) as pool:
        return _summary(list(pool.map(one, chosen)))


def _summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    kills = [kill for outcome in outcomes for kill in outcome.kills]
    phases: dict[str, int] = {}
    for kill in kills:
        phases[kill.phase] = phases.get(kill.phase, 0) + 1
    return {
        "kills": len(kills),
        **{
            key: sum(getattr(outcome, key) for outcome in outcomes)
            for key in ("resumed", "ends", "equal", "lost", "wrong", "leftovers", "orphans")
        },
        "refused_looks": sum(len(outcome.looks.refused) + outcome.looks.shrunk for outcome in outcomes),
        "victims": [outcome.name for outcome in outcomes],
        "measured": {
            "looks": sum(outcome.looks.count for outcome in outcomes),
            "phases": phases,
            "parent_alone": sum(kill.parent_alone for kill in kills),
        },
        "problems": [
            f"{outcome.name}: {text}"
            for outcome in outcomes
            for text in [*outcome.failures, *dict.fromkeys(outcome.looks.refused)][:5]
        ],
        "each": [asdict(kill) for kill in kills],
    }


def _trajectory(config: FaultsConfig, part: str, law: str, backend: str, folder: Path) -> Victim:
    """Write what the command needs, and run it undisturbed."""
    name = f"{law}, {backend}"
    place = fresh(folder / name.replace(", ", "-").replace(" ", "-"))
    all_samples = law == "flow on all samples"
    training = victims.dynamics("flow" if all_samples else law) | {"backend": backend}
    if all_samples:
        training["batch"] = len(config.dataset().x)
    if part == "simulation":
        training["steps"] = max(4, config.training.steps // (FEWER_ADAPTIVE if "adaptive" in law else FEWER_STEPS))
    toml = victims.write(victims.study(config, training=training), place / "study.toml")
    command: tuple[str, ...] = ("train", str(toml))
    if part == "simulation":
        lattice = place / "lattice.h5"
        succeed([*command, "--out", lattice], place / "log")
        command = ("simulate", str(lattice), "--backend", backend, "--n-x", str(max(2, config.rungs()[0][0] // 2)))
    looks, whole = Looks(), place / "whole.h5"
    with watched(looks, lambda: [whole]):
        seconds = succeed([*command, "--out", whole], place / "log").seconds
    startup = min(seconds, looks.appeared or seconds)
    with Trajectory(whole) as found:
        total = found.n_snapshots
    return Victim(name, command, place / "killed" / "out.h5", whole, total, seconds, startup)


def _sweep(config: FaultsConfig, folder: Path) -> Victim:
    place = fresh(folder / "sweep")
    toml = sweep_toml(config, place / "sweep.toml", points=SWEEP_POINTS, steps=max(8, config.training.steps // 2))
    command = ("sweep", str(toml), "--workers", "2")
    looks, whole = Looks(), place / "whole"
    with watched(looks, lambda: sorted(whole.glob("points/*/*.h5"))):
        seconds = succeed([*command, "--out", whole], place / "log").seconds
    startup = min(seconds, looks.appeared or seconds)
    total = _snapshots(sorted(whole.glob("points/*/*.h5")))
    return SweepVictim("sweep", command, place / "killed" / "out", whole, total, seconds, startup)


def _snapshots(paths: Sequence[Path]) -> int:
    """Complete snapshots in all files; one that cannot be read has none."""
    looks = Looks()
    return sum(looks.look(path) or 0 for path in paths)


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _chains(victim: Victim, quota: int, in_a_row: int, seed: int, say: Any) -> Outcome:
    """Kill until the quota is met, at most `in_a_row` times before the run may end."""
    rng = np.random.default_rng([seed, zlib.crc32(victim.name.encode())])
    outcome = Outcome(victim.name)
    while len(outcome.kills) < quota:
        fresh(victim.out.parent)
        outcome.looks.most.clear()
        row, groups = 0, list[int]()
        while True:
            before, complete = victim.progress()
            allowed = row < in_a_row and len(outcome.kills) < quota and not complete
            ended = _run(victim, rng, outcome, before, row, groups, kill=allowed)
            if ended is not None:
                break
            row += 1
            outcome.wrong += victim.wrong()
        outcome.orphans += _survivors(groups)
        if ended.code != 0:
            outcome.failures.append(f"exit code {ended.code}: {' '.join(ended.said.split())[-500:]}")
            if row == 0:
                return outcome  # it fails by itself: more of it would teach nothing
        outcome.resumed += row if ended.code == 0 else 0
        outcome.ends += 1
        outcome.equal += victim.equal()
        outcome.leftovers += sum(path != victim.out for path in victim.out.parent.iterdir())
        say(len(outcome.kills))
    return outcome


def _run(
    victim: Victim, rng: np.random.Generator, outcome: Outcome, before: int, row: int, groups: list[int], *, kill: bool
) -> Ended | None:
    """Start or resume, and perhaps kill; None if the kill came in time."""
    rest = victim.startup + (victim.seconds - victim.startup) * (1 - max(0, before - 1) / max(1, victim.total - 1))
    instant, aimed, after = rng.uniform(0.0, rest), bool(rng.integers(2)), rng.uniform(0.0, AFTER)
    alone = bool(rng.integers(2)) and victim.parent_alone
    log = victim.out.parent.parent / "log"
    command = [*victim.command, "--out", victim.out, "--resume"]
    with watched(outcome.looks, victim.files), Program(command, log) as program:
        if program.wait(program.started + instant - time.monotonic() if kill else None):
            return program.ended()
        aimed = aimed and _grew(victim, program, after)
        struck = time.monotonic() - program.started
        program.kill(whole=not alone)
        ended = program.ended()
    if ended.code >= 0:  # it ended by itself in that very moment
        return ended
    groups.append(program.process.pid)
    found, complete = victim.progress()
    outcome.lost += outcome.looks.lost() + max(0, before - found)
    phase = _phase(before, found, victim.total, complete)
    outcome.kills.append(Kill(victim.name, row, struck, rest, before, found, victim.total, phase, aimed, alone))
    return None


def _survivors(groups: Sequence[int]) -> int:
    """Processes of killed parents that are still there after some seconds."""
    deadline = time.monotonic() + ORPHANED
    while (count := sum(len(members(group)) for group in groups)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return count


def _grew(victim: Victim, program: Program, after: float) -> bool:
    """Wait for a file to grow, and a moment longer; whether one did."""
    deadline, size, grew = time.monotonic() + WAIT, _size(victim), False
    while not grew and program.running and time.monotonic() < deadline:
        time.sleep(0.0005)
        grew = _size(victim) != size
    time.sleep(after)
    return grew


def _size(victim: Victim) -> int:
    total = 0
    for path in victim.files():
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total


def _phase(before: int, found: int, total: int, complete: bool) -> str:
    if complete:
        return "after the end"
    if found == total:
        return "closing"
    return "computing and writing" if found > before else "before anything new was written"


def _differs(path: Path, reference: Path) -> int:
    """1 if any snapshot in a killed file is not bitwise that of the undisturbed run."""
    if not path.exists():
        return 0
    try:
        with Trajectory(path) as found, Trajectory(reference) as whole:
            n = found.n_snapshots
            pairs = [(found.t, whole.t[:n]), (found.step, whole.step[:n])]
            pairs += [(variable[:], whole.fields[name][:n]) for name, variable in found.fields.items()]
            pairs += [(values, whole.evaluation[name][:n]) for name, values in found.evaluation.items()]
            pairs += [(values, whole.scalars[name][: len(values)]) for name, values in found.scalars.items()]
            return int(any(a.tobytes() != np.ascontiguousarray(b).tobytes() for a, b in pairs))
    except InputError:
        return 1
