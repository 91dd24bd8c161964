"""What a user can do with a trajectory or sidecar, tried on altered ones in a process that may hang or crash.

Every altered file is shown (`info`), read to the last number, compared with another run, and resumed. What is read must
be what the original holds, up to the snapshot where reading stops; what is resumed must end as the undisturbed run.
"""

from __future__ import annotations

import os
import re
import signal
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bbdfield.errors import InputError, NumericsError
from bbdfield.model.run import Run
from bbdfield.storage import content_digest
from bbdfield.storage.sidecar import read_sidecar
from bbdfield.studies.config import load_config
from bbdfield.studies.faults import victims
from bbdfield.studies.faults.children import Child, Output, command_line
from bbdfield.studies.faults.mutations import Mutation, make
from bbdfield.studies.faults.programs import is_tidy, succeed

if TYPE_CHECKING:
    from bbdfield.studies.config import FaultsConfig

#: The interrupted and the killed files have this many of the tiny training's steps.
STOPPED_AT = 7
#: what a resumption changes in a file
_NOT_KEPT = ("complete", "digest", "resumed")

_state: dict[str, Any] = {}


def prepare(config: FaultsConfig, folder: Path) -> dict[str, Any]:
    """Write all originals; returns the setting that children get. Its folder "work" is to be removed in the end."""
    originals = folder / "originals"
    originals.mkdir(parents=True, exist_ok=True)
    for old in originals.iterdir():
        old.unlink()
    toml, log = victims.write(victims.tiny(config, folder), folder / "tiny.toml"), folder / "log"
    succeed(["train", toml, "--out", originals / "lattice.h5"], log)
    succeed(["simulate", originals / "lattice.h5", "--out", originals / "field.h5"], log)
    succeed(["decompose", originals / "lattice.h5", "--out", originals / "sidecar.h5"], log)
    memory = Path("/dev/shm")  # where bringing files to the disk takes no time
    work = tempfile.mkdtemp(prefix="bbdfield-", dir=memory if os.access(memory, os.W_OK) else folder)
    setting = {"folder": str(folder), "work": work, "seed": config.seed, "memory": config.faults.memory}
    for kind in ("lattice", "field"):
        with suppress(KeyboardInterrupt):
            _leave(folder, kind, kill=False)
        with Child("trials", setting, config.faults.timeout * 6) as child:
            left = child.ask({"leave": kind})
        if left != {"crashed": int(signal.SIGKILL)}:
            raise RuntimeError(f"a {kind} that was to be killed was not: {left}")
    return setting


def _leave(folder: Path, kind: str, *, kill: bool) -> None:
    """Train or simulate up to a step and stop there: by an exception, as Ctrl-C does, or for good."""
    from bbdfield.fields.simulation import simulate
    from bbdfield.lattice.training import train

    def stop(done: int, total: int, loss: float) -> None:
        if done == STOPPED_AT:
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt

    study, originals = load_config(folder / "tiny.toml"), folder / "originals"
    out = originals / f"{kind}-{'killed' if kill else 'interrupted'}.h5"
    out.unlink(missing_ok=True)
    lattice = study.lattice_at(*study.rungs()[0])
    if kind == "lattice":
        initial = study.initial_fields(lattice)
        machine = study.training.machine()
        train(lattice, study.dataset(), study.training_plan(), initial=initial, **machine, out=out, progress=stop)
    else:
        with Run(originals / "lattice.h5") as run:
            simulate(run.initial_fields.on(lattice.grid), run.boundary, order=1, out=out, progress=stop)


# in the child


def begin(setting: Mapping[str, Any]) -> None:
    """Read the originals once."""
    folder = Path(setting["folder"])
    work = Path(tempfile.mkdtemp(dir=setting["work"]))
    _state.update(folder=folder, seed=setting["seed"], output=Output(), known={}, work=work)
    originals = folder / "originals"
    for kind in ("lattice", "field"):
        path = originals / f"{kind}.h5"
        if path.exists():
            _state["known"][kind] = _content(path)
            _state[f"{kind} digest"] = content_digest(path)
    with suppress(InputError):
        _state["known"]["sidecar"] = _sidecar(originals / "sidecar.h5")


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Make one altered file and try everything with it."""
    if "leave" in request:
        _leave(_state["folder"], request["leave"], kill=True)
    mutation = Mutation(**request)
    originals, path = _state["folder"] / "originals", _state["work"] / f"{mutation.number}.h5"
    unmade = make(mutation, originals / f"{mutation.original}.h5", path, _state["seed"])
    try:
        return _tried(mutation, path) | {"unmade": unmade}
    finally:
        for left in path.parent.iterdir():
            left.unlink()


def _tried(mutation: Mutation, path: Path) -> dict[str, Any]:
    kind, originals = mutation.original.split("-")[0], _state["folder"] / "originals"
    fate, message = _read(kind, path, forged=mutation.group == "hostile")
    answer: dict[str, Any] = {"fate": fate, "reasons": [reason(message)] if fate == "refused" else []}
    if fate not in ("refused", "unharmed", "forged"):
        return answer | {"message": message}
    if kind == "sidecar":
        return answer
    lattice, field = f"{originals}/lattice.h5", f"{originals}/field.h5"
    commands = [
        ["info", f"{path}"],
        ["compare", f"{path}", lattice] if kind == "field" else ["compare", field, f"{path}"],
        ["train", f"{_state['folder']}/tiny.toml", "--out", f"{path}", "--resume"]
        if kind == "lattice"
        else ["simulate", lattice, "--out", f"{path}", "--resume"],
    ]
    for doing in commands:
        code, text = command_line(doing, _state["output"])
        told = f"{doing[0]}: {text[-1500:]}"
        if code is None or "Traceback" in text:
            return {"fate": "traceback", "message": told}
        if code == 3 and "out of memory" in text:
            return {"fate": "memory", "message": told}
        if code and not is_tidy(text):
            answer["untidy"] = told
        if doing[0] == "info" and code == 0 and fate == "refused" and mutation.group != "hostile":
            return {"fate": "accepted", "message": f"{told}, but reading says: {message}"}
    if code == 0 and fate != "forged":
        good, message = _finished(kind, path)
        fate = ("repaired" if fate == "refused" else fate) if good else "accepted"
        answer |= {"fate": fate, "message": f"resumed: {message}" if message else ""}
    return answer


def _read(kind: str, path: Path, *, forged: bool) -> tuple[str, str]:
    """(fate, message) of reading everything."""
    try:
        found = _sidecar(path) if kind == "sidecar" else _content(path)
    except (InputError, NumericsError) as error:
        text = str(error)
        return ("traceback", f"more than one line: {text}") if "\n" in text else ("refused", text)
    except MemoryError:
        return "memory", traceback.format_exc()[-2000:]
    except Exception:
        return "traceback", traceback.format_exc()[-2000:]
    difference = _difference(found, _state["known"][kind])
    if found["complete"]:
        same = not difference or difference.startswith("attribute ")
        return "forged" if forged and same else "accepted", f"read as finished; {difference}"
    return ("accepted", difference) if difference else ("unharmed", "")


def _content(path: Path) -> dict[str, Any]:
    """Everything that a trajectory tells: attributes, what never changes, and rows."""
    with Run(path) as run:
        trajectory = run.trajectory
        fixed = {f"boundary/{name}": variable[()] for name, variable in trajectory.boundary.items()}
        fixed |= {f"/{name}": values for name, values in trajectory.coordinates.items()}
        rows = {"t": trajectory.t, "step": trajectory.step, "scalar_step": trajectory.scalar_step}
        rows |= {f"fields/{name}": variable[:] for name, variable in trajectory.fields.items()}
        rows |= {f"evaluation/{name}": values for name, values in trajectory.evaluation.items()}
        rows |= {f"scalars/{name}": values for name, values in trajectory.scalars.items()}
        fixed = {name: values for name, values in fixed.items() if name.lstrip("/") not in rows}
        _ = run.lattice, run.training, run.grid, run.boundary
        if "initial" in run.config:
            _ = run.initial_fields
        for i in range(len(run.t)):
            run.fields(i), run.z(i)
        attributes = {name: value for name, value in trajectory.attrs.items() if name not in _NOT_KEPT}
        return {"attributes": attributes, "fixed": fixed, "rows": rows, "complete": trajectory.complete}


def _sidecar(path: Path) -> dict[str, Any]:
    found = read_sidecar(path)
    return {
        "attributes": {"kind": found.kind, "config": found.config},
        "fixed": {**found.arrays, **found.coordinates},
        "rows": {},
        "complete": True,
    }


#: told when a file is written, so different for originals that were written one after the other
_OF_WRITING = ("created", "command", "versions", "git_revision", "machine")


def _difference(found: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """What in a file is not as in the undisturbed run, up to where it stops; "" if nothing."""
    for name in {*found["attributes"], *known["attributes"]} - set(_OF_WRITING):
        if repr(found["attributes"].get(name)) != repr(known["attributes"].get(name)):
            return f"attribute {name}: {found['attributes'].get(name)!r:.200}"
    for part in ("fixed", "rows"):
        if set(found[part]) != set(known[part]):
            return f"datasets {sorted(set(found[part]) ^ set(known[part]))}"
        for name, values in found[part].items():
            reference = known[part][name]
            if part == "rows":
                reference = reference[: len(values)]
            if values.dtype != reference.dtype or values.shape != reference.shape:
                return f"{name}: {values.dtype} {values.shape}"
            if values.tobytes() != np.ascontiguousarray(reference).tobytes():
                return f"values of {name}"
    return ""


def _finished(kind: str, path: Path) -> tuple[bool, str]:
    """Whether a resumed file is what the undisturbed run left."""
    try:
        if content_digest(path) != _state[f"{kind} digest"]:
            return False, "its digest differs from the undisturbed run's"
        found = _content(path)
    except Exception:
        return False, traceback.format_exc()[-2000:]
    difference = "" if found["complete"] else "not complete"
    return not (difference := difference or _difference(found, _state["known"][kind])), difference


#: words of a refusal, as a pattern -> what it comes to; the first that fits
_REASONS = (
    (r"seal", "the seal does not fit"),
    (r"bytes follow its end|truncated|next to nothing|are missing from its end", "not as long as it should be"),
    (r"not an HDF5 file|HDF5 cannot open|superblock", "not an HDF5 file"),
    (r"snapshot \d+ of|snapshots begun", "a snapshot is not as its digest"),
    (r"constant data|chain of digests", "what never changes is not as its digest"),
    (r"but not? a? ?bbdfield|none written by bbdfield|not a bbdfield", "not written by bbdfield"),
    (r"version", "another version"),
    (r"links elsewhere", "a link that leads elsewhere"),
    (r"lie elsewhere|filter that", "values that lie elsewhere, or need other filters"),
    (r"claims|compressed|chunks of|absurd length|more than any", "more than such a file can hold"),
    (
        r"impossible name|does not belong|another name|not a plain dataset|no group",
        "an object that does not belong there",
    ),
    (r"has a type|neither a short text|is not a |not a dict|codec|JSON", "a value of the wrong type"),
    (r"has shape|entries along|do not increase|needs a|is '", "values that do not fit each other"),
    (r"is missing|has no |holds \d+ of", "something is missing"),
    (r"damaged \(", "HDF5's own checksums"),
)


def reason(message: str) -> str:
    """A refusal in a few words, without names and numbers."""
    told = message.split(".h5: ", 1)[-1].split(";")[0]
    return next((words for pattern, words in _REASONS if re.search(pattern, told)), "another reason")
