"""The faults study: processes are killed, files altered, disks filled, workers lost. What is left of the results?

    kills (training, simulation, sweep)    SIGKILL at random instants, then on to the end
    mutations                              altered HDF5 files, and what a user can do with them
    configs                                altered configurations
    disk                                   ENOSPC at random bytes
    scaling                                a sweep on two workers against one, with failing points and lost workers

Everything is done to the command line in processes of its own. Each part is finished by itself: an interrupted study
goes on with the first part that is not. Counts are the same in every run; what lies under ``measured`` (times,
speed-up, memory, where kills fell) is not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbdfield import files, interrupts
from bbdfield.studies import describe as words
from bbdfield.studies.describe import Cell, Description, Table

if TYPE_CHECKING:
    from bbdfield.studies.config import FaultsConfig
    from bbdfield.studies.kinds import Session

CAPTIONS = {
    "kills": "Every SIGKILL (crosses): how long the process had run, and how many snapshots its file then had; lines"
    " begin at what the process found. The next process went on from there.",
    "mutations": "What became of altered files, by the kind of alteration. Refused: one line says what is wrong."
    " Repaired: resuming kept whole snapshots and ended as the undisturbed run. Unharmed: unfinished files of which"
    " only bitwise original snapshots are used. Forged: values of the original under a new seal.",
    "speed": "A sweep on two workers against one, beside what two copies of a loop that shares nothing reach on this"
    " machine.",
}
FOLDER = "faults"
KILLS = ("training", "simulation", "sweep")


def check(config: FaultsConfig) -> str:
    """What runs, in words; everything runs in processes that the study starts."""
    from solvers.backends import get_backend

    for name in config.faults.backends:
        get_backend(name)
    keys = config.faults
    return (
        f"{keys.kills} kills of each of {', '.join(KILLS)}; {keys.mutations} altered files, {keys.configs} altered"
        f" configurations, {keys.full_disks} full disks, a sweep of {keys.points} points"
    )


def compute(config: FaultsConfig, out: Path, session: Session) -> tuple[dict[str, Any], dict[str, Any]]:
    """All parts that are not there yet."""
    folder, mark = out / FOLDER, hashlib.sha256(config.to_toml().encode()).hexdigest()
    folder.mkdir(exist_ok=True)
    found: dict[str, Any] = {}
    for name, part in _parts(config).items():
        path = folder / f"{name}.json"
        known = _read(path, mark)
        if known is None:
            interrupts.check()
            work = folder / name
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            known = json.loads(json.dumps(part(work.absolute(), session)))
            files.write_text(path, json.dumps({"configuration": mark, "found": known}, indent=1) + "\n")
            shutil.rmtree(work, ignore_errors=True)
        for problem in known.get("problems", [])[:10]:
            session.say(f"{name}: {problem}"[:1000])
        found[name] = known
    return {"kind": config.kind, "title": config.title, "faults": _scores(found)}, found


def _parts(config: FaultsConfig) -> dict[str, Callable[[Path, Session], dict[str, Any]]]:
    from bbdfield.studies.faults import configs, disk, mutations, scaling

    keys = config.faults
    parts: dict[str, Callable[[Path, Session], dict[str, Any]]] = {}
    if keys.points:  # first, because it is timed: on the machine as it was found
        parts["scaling"] = lambda folder, session: scaling.time_all(config, folder, session)
    if keys.kills:
        for name in KILLS:
            parts[name] = partial(_killed, config, name)
    if keys.mutations:
        parts["mutations"] = lambda folder, session: mutations.mutate_all(config, folder, session)
    if keys.configs:
        parts["configs"] = lambda folder, session: configs.alter_all(config, folder, session)
    if keys.full_disks:
        parts["disk"] = lambda folder, session: disk.fill_all(config, folder, session)
    return parts


def _killed(config: FaultsConfig, part: str, folder: Path, session: Session) -> dict[str, Any]:
    from bbdfield.studies.faults.kills import kill_all

    return kill_all(config, part, folder, session)


def _read(path: Path, mark: str) -> dict[str, Any] | None:
    """A finished part of this very configuration."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return dict(stored["found"]) if stored["configuration"] == mark else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _scores(found: Mapping[str, Any]) -> dict[str, Any]:
    """Without lists of single events, which the parts' own files keep."""
    kept = {
        name: {key: value for key, value in part.items() if key not in ("each", "problems")}
        | {"problems": len(part.get("problems", []))}
        for name, part in found.items()
    }
    kills = {name: kept.pop(name) for name in KILLS if name in kept}
    return {**({"kills": kills} if kills else {}), **kept}


def draw(config: FaultsConfig, out: Path, scores: dict[str, Any], details: Mapping[str, Any]) -> None:
    """All figures of the parts that there are."""
    from bbdfield.plotting import faults as figures
    from bbdfield.plotting.style import save

    kills = {name: details[name]["each"] for name in KILLS if name in details}
    if kills:
        save(figures.figure_kills(kills), out / "figures" / "kills.png")
    if "mutations" in details:
        altered = {group: details["mutations"]["by_group"][group] for group in details["mutations"]["by_group"]}
        configs = details.get("configs")
        save(figures.figure_mutations(altered, configs), out / "figures" / "mutations.png")
    if "scaling" in details:
        save(figures.figure_speed(details["scaling"]), out / "figures" / "speed.png")


# in words


def describe(config: Mapping[str, Any], scores: Mapping[str, Any]) -> Description:
    """Counts, part by part."""
    found = scores["faults"]
    tables = [
        table
        for name, make in (("kills", _kills), ("mutations", _mutations), ("configs", _configs), ("disk", _disks))
        if name in found
        for table in make(found[name])
    ]
    if "scaling" in found:
        tables += _scaling(found["scaling"])
    summary = (
        f"{words.network(config).rstrip('.')}, in processes that were killed at random instants, on disks that were"
        " full at random bytes; its files and the configurations of all experiments were altered by the thousand."
    )
    return Description(summary, tables, _message(found))


def _message(found: Mapping[str, Any]) -> str:
    """What went wrong, or that nothing did."""
    wrong = []
    for name, part in found.get("kills", {}).items():
        if part["lost"] or part["wrong"] or part["equal"] != part["ends"] or part["resumed"] != part["kills"]:
            wrong.append(f"kills of {name}")
    altered = found.get("mutations")
    if altered is not None and any(altered[key] for key in ("accepted", "memory", "traceback", "crash", "hang")):
        wrong.append("altered files")
    given = found.get("configs")
    if given is not None and any(given[key] for key in ("not_echoed", "untidy", "traceback", "crash", "hang")):
        wrong.append("altered configurations")
    disk = found.get("disk")
    if disk is not None and (disk["lost"] or disk["equal"] != disk["disks"] or disk["one_line"] != disk["disks"]):
        wrong.append("full disks")
    sweep = found.get("scaling")
    if sweep is not None and not _sweep_is_whole(sweep):
        wrong.append("sweeps")
    if wrong:
        return f"NOT ALL IS WELL: see {words.listed(wrong)}, and log.txt."
    return "Nothing was lost, every run ended as the undisturbed one bit for bit, and nothing false was believed."


def _sweep_is_whole(sweep: Mapping[str, Any]) -> bool:
    lost = [sweep["worker_killed"], sweep["cluster_worker_killed"]]
    return (
        bool(sweep["equal"])
        and sweep["failed"] == sweep["injected"]
        and sweep["finished"] == sweep["points"] - sweep["injected"]
        and all(one is None or (one["equal"] and one["exit_code"] == 0) for one in lost)
    )


def _kills(parts: Mapping[str, Any]) -> list[Table]:
    rows: list[list[Cell]] = [
        [
            name,
            *(words.measured(part[key]) for key in ("kills", "resumed", "lost", "wrong", "ends", "equal")),
            words.measured(part["measured"]["looks"]),
            words.measured(part["refused_looks"]),
        ]
        for name, part in parts.items()
    ]
    head = [
        "",
        "SIGKILLs",
        "resumed",
        "snapshots lost",
        "wrong",
        "ended",
        "bitwise equal",
        "looks meanwhile",
        "refused",
    ]
    phases = sorted({phase for part in parts.values() for phase in part["measured"]["phases"]})
    where: list[list[Cell]] = [
        [name, *(words.measured(part["measured"]["phases"].get(phase, 0)) for phase in phases)]
        for name, part in parts.items()
    ]
    note = "lost: beyond the one being written; wrong: files with a snapshot that the undisturbed run has not"
    return [Table("Killed and resumed", head, rows, note), Table("Where the kills fell", ["", *phases], where)]


def _mutations(found: Mapping[str, Any]) -> list[Table]:
    fates = ("refused", "repaired", "unharmed", "forged", "accepted", "memory", "traceback", "crash", "hang")
    rows: list[list[Cell]] = [
        [group, *(words.measured(row[fate]) for fate in fates)] for group, row in found["by_group"].items()
    ]
    rows.append(["all", *(words.measured(found[fate]) for fate in fates)])
    note = f"peak memory of one command {found['measured']['peak_mib']} MiB, slowest file"
    note += f" {found['measured']['slowest_seconds']} s"
    reasons: list[list[Cell]] = [[reason, count] for reason, count in list(found["reasons"].items())[:12]]
    return [
        Table("Altered HDF5 files", ["altered", *fates], rows, note),
        Table("Why they were refused", ["reason", "files"], reasons),
    ]


def _configs(found: Mapping[str, Any]) -> list[Table]:
    fates = ("files", "refused", "accepted", "not_echoed", "untidy", "traceback", "crash", "hang")
    rows: list[list[Cell]] = [[*(words.measured(found[fate]) for fate in fates)]]
    rows[0] += [words.measured(found["runs"]), words.measured(found["runs_echoed"])]
    head = [*(fate.replace("_", " ") for fate in fates), "really run", "echoed in config.toml"]
    return [Table("Altered configurations", head, rows)]


def _disks(found: Mapping[str, Any]) -> list[Table]:
    keys = ("disks", "one_line", "readable", "lost", "equal")
    rows: list[list[Cell]] = [
        [name, *(words.measured(row[key]) for key in keys)] for name, row in found["by_command"].items()
    ]
    head = ["", "full disks", "one line, exit 2", "files readable", "snapshots lost", "bitwise equal in the end"]
    return [
        Table(
            "Full disks", head, rows, f"{found['method']}; a sweep that can still say which points failed exits with 3"
        )
    ]


def _scaling(found: Mapping[str, Any]) -> list[Table]:
    measured = found["measured"]
    rows: list[list[Cell]] = [
        ["points finished", words.measured(found["finished"])],
        ["points failed, injected", f"{words.number(found['failed'])}, {words.number(found['injected'])}"],
        ["one and two workers agree bitwise", _yes(found["equal"])],
        ["speed-up of two workers", words.decimal(measured["speed_up"])],
        ["two copies of a loop that shares nothing", words.decimal(measured["ceiling"])],
        ["speed-up / ceiling", words.percent(measured["ratio"])],
        ["a worker killed: the sweep completed, equal", _survived(found["worker_killed"])],
        ["a worker killed under Dask", _survived(found["cluster_worker_killed"])],
    ]
    return [Table(f"A sweep of {words.number(found['points'])} points", ["", ""], rows)]


def _yes(value: Any) -> str:
    return "yes" if value else "NO"


def _survived(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not tried: distributed is not installed"
    return _yes(found["killed"] and found["exit_code"] == 0 and found["equal"])
