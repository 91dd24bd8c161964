"""Files of earlier schema versions, converted into new files of the present one."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bbdfield.errors import Damaged, InputError
from bbdfield.files import locked_file
from bbdfield.storage import chain, guard, schema, seal
from bbdfield.storage.reader import Trajectory
from bbdfield.storage.writer import attach, check_directory, growing

_REMEDY = "restore it or run the study again"


def migrate(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Convert a finished trajectory of an older schema into a new file, step by step through `schema.MIGRATIONS`.

    Raises
    ------
    InputError
        for an existing target, a file that is no finished trajectory, and a version that nothing converts; `Damaged`
        for one that was altered.
    """
    source, target = Path(source), Path(target)
    check_directory(target)
    with locked_file(target):
        if target.exists():
            raise InputError(f"{target}: exists already; name a new file for the migrated trajectory")
        _migrate(source, target)


def bring_up_to_date(path: Path) -> None:
    """Convert a finished trajectory of an older schema where it lies, which one line on the log says; leave any other
    file as it is.

    Raises
    ------
    InputError
        as `migrate` does, for a file of an older schema.
    """
    try:
        with guard.open_file(path, _REMEDY, tolerant=True).file as file, guard.refusing(path, _REMEDY):
            version = guard.label(file, "schema_version")
    except InputError:  # the reader says it better
        return
    if isinstance(version, int) and version < schema.SCHEMA_VERSION:
        with locked_file(path):
            _migrate(path, path)
        news = f"converted from schema version {version} to {schema.SCHEMA_VERSION}"
        logging.getLogger("bbdfield").warning("%s: %s", path, news)


def _migrate(source: Path, target: Path) -> None:
    steps = _steps(source)
    part = target.with_name(target.name + ".part")
    try:
        with schema.one_line(f"{source}: cannot be migrated to {target}"):
            shutil.copyfile(source, part)
            with h5py.File(part, "r+", libver="latest") as file:
                for step in steps:
                    schema.MIGRATIONS[step](file)
                    file.attrs["schema_version"] = step + 1
                begin_chain(file)
            seal.seal(part)
            with Trajectory(part) as converted:
                converted.verify()
            os.replace(part, target)
    except Damaged as error:
        raise Damaged(str(error).replace(str(part), str(source))) from error
    finally:
        part.unlink(missing_ok=True)


def _steps(source: Path) -> range:
    """The versions to leave behind; the file's objects are checked, since converting reads them all."""
    opened = guard.open_file(source, _REMEDY)
    with opened.file as file, guard.refusing(source, _REMEDY):
        software, version = (guard.label(file, name) for name in _WHAT)
        if software != schema.SOFTWARE or not isinstance(version, int):
            raise InputError(f"{source}: not a bbdfield trajectory; give one written by bbdfield")
        steps = range(version, schema.SCHEMA_VERSION)
        if not steps or any(step not in schema.MIGRATIONS for step in steps):
            known = f"no migration from schema {version} to {schema.SCHEMA_VERSION}"
            raise InputError(f"{source}: {known} is known or needed")
        finished = opened.sealed or bool(_flag(file))
        if not finished:
            only = f"of schema version {version}, of which only finished files are converted"
            raise InputError(f"{source}: unfinished, and {only}; move it away and run the study again with --resume")
        datasets = _datasets(file)
        guard.check_distinct(datasets.values())
        guard.check_claims([guard.claim(item) for item in datasets.values()], source.stat().st_size)
    return steps


_WHAT = ("software", "schema_version")


def _flag(file: h5py.File) -> int:
    """The attribute ``complete`` of schema 1, a one-byte enumeration."""
    found = h5py.h5a.open(file.id, b"complete")
    if found.get_type().get_size() != 1 or found.shape:
        raise guard.Strange("attribute complete is not a truth value")
    value = np.zeros((), "i1")
    found.read(value, mtype=found.get_type())
    return int(value)


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    found = [name for name in guard.names(file) if name not in schema.GROUPS]
    for group in schema.GROUPS:
        found += [f"{group}/{name}" for name in guard.names(guard.group(file, group))]
    return {name: guard.dataset(file, name) for name in found}


def begin_chain(file: h5py.File) -> None:
    """Compute the whole chain anew, of a file that has all its datasets."""
    datasets = {name: file[name] for name in json.loads(schema.plain(file.attrs["datasets"]))}
    attributes = guard.attributes(file)
    attributes |= {name: json.loads(attributes[name]) for name in schema.JSON_ATTRIBUTES}
    previous = chain.start(attributes, datasets)
    file.attrs["digest"] = schema.text(previous.hex())
    links = datasets[schema.CHAIN]
    for i, link in enumerate(chain.links(datasets, previous, datasets["step"][:], datasets["scalar_step"][:])):
        links.resize(i + 1, axis=0)
        links[i] = chain.words(link)


def _two(file: h5py.File) -> None:
    """Schema 1 had one digest, over everything, in an attribute beside ``complete``; 2 has a chain, and a seal."""
    attributes = {name: schema.plain(value) for name, value in file.attrs.items()}
    names = json.loads(attributes["datasets"])
    attributes |= {name: json.loads(attributes[name]) for name in schema.JSON_ATTRIBUTES}
    if _digest_of_one(file, attributes, names) != attributes["digest"]:
        raise Damaged(f"{file.filename}: altered after it was completed (digest differs); {_REMEDY}")
    del file.attrs["complete"]
    if "backend" not in attributes:  # the first files did not say it
        file.attrs["backend"] = schema.text("")
    file.create_dataset(schema.WORD, (schema.WORDS,), "i8").make_scale(f"{schema.NO_COORDINATE} {schema.WORDS:10d}")
    links = growing(file, schema.CHAIN, "i8", (schema.WORDS,), chunks=(1, schema.WORDS), fletcher32=True)
    attach(file, links, ("t", schema.WORD))
    listed = sorted([*names, schema.CHAIN, schema.WORD])
    file.attrs["datasets"] = schema.text(schema.encode_json(listed, "datasets"))


def _digest_of_one(file: h5py.File, attributes: dict[str, Any], names: list[str]) -> str:
    total = hashlib.sha256()
    kept = {name: value for name, value in attributes.items() if name != "digest"}
    total.update(json.dumps(kept, sort_keys=True).encode())
    for name in sorted(names):
        schema.digest_dataset(total, name, file[name], file[name].shape)
    return total.hexdigest()


schema.MIGRATIONS[1] = _two
