"""Altered HDF5 files: bytes, structure and attributes, and structures that no honest program writes.

Files of every kind (finished; interrupted; killed; sidecars) are altered by the thousand. Each one goes through what a
user can do with it, and what comes out is compared with the original (`trials`). A mutation is drawn from its number
alone, so that any of them can be made again.

Alterations of structure and attributes are made with the HDF5 library, as a user with other tools would make them.
Hostile ones are sealed again afterwards: what they hold has to be refused for what it is.

What can become of an altered file:

refused     every command said in one line what is wrong.
repaired    reading refused it; resuming kept whole snapshots, and ended as the undisturbed run, bit for bit.
unharmed    an unfinished file, of which everything that is read is bitwise the original's, and which went on from there
            to the same end: what was altered is not used.
forged      its values are bitwise the original's, some attribute is not, and whoever altered it made a new seal. A seal
            is no signature: who can write a file can say in it what he likes. It must do no harm.
accepted    anything else that was taken for good. There must be none.
memory, traceback, crash, hang      more memory than allowed; an exception that is no refusal; the process died; or it
            took too long. There must be none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from bbdfield.storage.seal import SIZE as SEAL_BYTES
from bbdfield.storage.seal import seal

if TYPE_CHECKING:
    from bbdfield.studies.config import FaultsConfig
    from bbdfield.studies.kinds import Session

Random = np.random.Generator
Bytes = Callable[[bytearray, Random], bytearray]
Edit = Callable[[h5py.File, Random], None]

#: originals: those of one kind of trajectory are equal but for where they stopped
ORIGINALS = {
    "lattice": "finished lattice",
    "lattice-interrupted": "interrupted lattice",
    "lattice-killed": "killed lattice",
    "field": "finished field",
    "field-interrupted": "interrupted field",
    "field-killed": "killed field",
    "sidecar": "sidecar",
}
#: what can become of an altered file, best first
FATES = ("refused", "repaired", "unharmed", "forged", "accepted", "memory", "traceback", "crash", "hang")
GOOD = FATES[:4]
GROUPS = ("bytes", "structure", "hostile")


@dataclass(frozen=True)
class Mutation:
    """What is done to which original; `number` seeds the rest."""

    number: int
    original: str
    group: str
    kind: str


# bytes


def _place(content: bytearray, rng: Random, length: int = 1) -> int:
    return int(rng.integers(0, max(1, len(content) - length + 1)))


def _length(content: bytearray, rng: Random, most: int = 4096) -> int:
    """Mostly short, sometimes long."""
    return int(min(len(content), 2 ** rng.uniform(0, np.log2(most))))


def _flip_bit(content: bytearray, rng: Random) -> bytearray:
    content[_place(content, rng)] ^= 1 << int(rng.integers(8))
    return content


def _flip_byte(content: bytearray, rng: Random) -> bytearray:
    content[_place(content, rng)] ^= int(rng.integers(1, 256))
    return content


def _flip_many(content: bytearray, rng: Random) -> bytearray:
    for place in rng.integers(0, len(content), int(rng.integers(2, 100))):
        content[place] ^= int(rng.integers(1, 256))
    return content


def _flip_head(content: bytearray, rng: Random) -> bytearray:
    content[int(rng.integers(0, 600))] ^= int(rng.integers(1, 256))
    return content


def _flip_tail(content: bytearray, rng: Random) -> bytearray:
    content[-int(rng.integers(1, 2 * SEAL_BYTES))] ^= int(rng.integers(1, 256))
    return content


def _zeros(content: bytearray, rng: Random) -> bytearray:
    length = _length(content, rng)
    place = _place(content, rng, length)
    content[place : place + length] = bytes(length)
    return content


def _ones(content: bytearray, rng: Random) -> bytearray:
    length = _length(content, rng)
    place = _place(content, rng, length)
    content[place : place + length] = b"\xff" * length
    return content


def _noise(content: bytearray, rng: Random) -> bytearray:
    length = _length(content, rng)
    place = _place(content, rng, length)
    content[place : place + length] = rng.bytes(length)
    return content


def _copied(content: bytearray, rng: Random) -> bytearray:
    length = _length(content, rng)
    a, b = _place(content, rng, length), _place(content, rng, length)
    content[a : a + length] = content[b : b + length]
    return content


def _swapped(content: bytearray, rng: Random) -> bytearray:
    length = _length(content, rng)
    a, b = _place(content, rng, length), _place(content, rng, length)
    content[a : a + length], content[b : b + length] = content[b : b + length], content[a : a + length]
    return content


def _inserted(content: bytearray, rng: Random) -> bytearray:
    place = _place(content, rng)
    content[place:place] = rng.bytes(_length(content, rng))
    return content


def _cut_out(content: bytearray, rng: Random) -> bytearray:
    length = _length(content, rng)
    place = _place(content, rng, length)
    del content[place : place + length]
    return content


def _truncated(content: bytearray, rng: Random) -> bytearray:
    """Anywhere, or by a few bytes, or just before the seal."""
    few, anywhere = int(rng.integers(1, 2 * SEAL_BYTES)), int(rng.integers(1, len(content)))
    return content[: -[few, SEAL_BYTES, anywhere, anywhere][int(rng.integers(4))]]


def _extended(content: bytearray, rng: Random) -> bytearray:
    length = [1, SEAL_BYTES, _length(content, rng), 2**20][int(rng.integers(4))]
    return content + (bytes(length) if rng.integers(2) else rng.bytes(length))


def _twice(content: bytearray, rng: Random) -> bytearray:
    return content + content


def _resealed_tail(content: bytearray, rng: Random) -> bytearray:
    """Its seal, if it has one, or another 56 bytes, after a byte that was put between."""
    return content[:-SEAL_BYTES] + rng.bytes(1) + content[-SEAL_BYTES:]


BYTES: Mapping[str, Bytes] = {
    "one bit": _flip_bit,
    "one byte": _flip_byte,
    "several bytes": _flip_many,
    "a byte of the head": _flip_head,
    "a byte of the end": _flip_tail,
    "a block of zeros": _zeros,
    "a block of ones": _ones,
    "a block of noise": _noise,
    "a block copied": _copied,
    "blocks swapped": _swapped,
    "bytes put in": _inserted,
    "bytes cut out": _cut_out,
    "truncated": _truncated,
    "extended": _extended,
    "written twice": _twice,
    "a byte before the seal": _resealed_tail,
}


# structure and attributes, with the HDF5 library


def _datasets(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return sorted(found)


def _pick(file: h5py.File, rng: Random, *, filled: bool = False, prefix: str = "") -> str:
    names = [n for n in _datasets(file) if n.startswith(prefix) and (not filled or file[n].size)]
    return str(rng.choice(names or _datasets(file)))


def _attribute(file: h5py.File, rng: Random) -> str:
    return str(rng.choice(sorted(file.attrs)))


def _value(file: h5py.File, rng: Random) -> None:
    """One number: a little more, NaN, infinite, huge, another sign."""
    dataset = file[_pick(file, rng, filled=True)]
    values = dataset[()]
    flat = values.reshape(-1) if values.ndim else np.array([values]).reshape(-1)
    place = int(rng.integers(flat.size))
    old = flat[place]
    if flat.dtype.kind == "f":
        choices = [np.nextafter(old, np.inf), np.nan, np.inf, 1e308, -old if old else 1.0]
        changed = [choice for choice in choices if np.float64(choice).tobytes() != old.tobytes()]
        flat[place] = changed[int(rng.integers(len(changed)))]
    else:
        flat[place] = old + [1, -1, 10**6, -(10**15)][int(rng.integers(4))] if flat.dtype.kind == "i" else old
    dataset[()] = flat.reshape(values.shape) if values.ndim else flat[0]


def _rows_swapped(file: h5py.File, rng: Random) -> None:
    names = [n for n in _datasets(file) if file[n].ndim and len(file[n]) > 1 and "fields/" in n]
    name = str(rng.choice(names)) if names else _pick(file, rng, filled=True)
    if file[name].ndim and len(file[name]) > 1:
        a, b = rng.choice(len(file[name]), 2, replace=False)
        first, second = file[name][a], file[name][b]
        file[name][a], file[name][b] = second, first
    else:
        _value(file, rng)


def _deleted(file: h5py.File, rng: Random) -> None:
    del file[_pick(file, rng)]


def _renamed(file: h5py.File, rng: Random) -> None:
    name = _pick(file, rng)
    file.move(name, name + "x")


def _added(file: h5py.File, rng: Random) -> None:
    name = ["extra", "fields/extra", "boundary/extra", "scalars/extra"][int(rng.integers(4))]
    file.create_dataset(name, data=rng.standard_normal(3))


def _resized(file: h5py.File, rng: Random) -> None:
    names = [n for n in _datasets(file) if file[n].maxshape[:1] == (None,)]
    if not names:
        return _deleted(file, rng)
    dataset = file[str(rng.choice(names))]
    dataset.resize(max(0, len(dataset) + int(rng.choice([-2, -1, 1, 5]))), axis=0)
    return None


def _last_snapshot_cut(file: h5py.File, rng: Random) -> None:
    """As if it had never been: from everything that grows with t."""
    if "step" not in file or not len(file["step"]):
        return _deleted(file, rng)
    count = len(file["step"])
    for name in _datasets(file):
        if name != "scalar_step" and not name.startswith("scalars/") and file[name].maxshape[:1] == (None,):
            file[name].resize(count - 1, axis=0)
    return None


def _retyped(file: h5py.File, rng: Random) -> None:
    name = _pick(file, rng)
    values = file[name][()]
    del file[name]
    file[name] = np.asarray(values).astype(str(rng.choice(["f4", ">f8", "i2", "u8", "S8", "c16", "?"])))


def _reshaped(file: h5py.File, rng: Random) -> None:
    name = _pick(file, rng, filled=True)
    values = np.asarray(file[name][()])
    del file[name]
    file[name] = values.reshape([(-1,), (1, *values.shape), (-1, 1)][int(rng.integers(3))])


def _attribute_changed(file: h5py.File, rng: Random) -> None:
    name = _attribute(file, rng)
    value = file.attrs[name]
    if isinstance(value, (bytes, str)):
        text = value.decode() if isinstance(value, bytes) else value
        place = int(rng.integers(len(text))) if text else 0
        file.attrs[name] = np.bytes_((text[:place] + "7" + text[place + 1 :] + ("" if text else "x")).encode())
    else:
        file.attrs[name] = value + 1 if not isinstance(value, np.bool_) else not value


def _attribute_retyped(file: h5py.File, rng: Random) -> None:
    strange = [np.float64("nan"), np.inf, -1, 2**63 - 1, np.zeros(5), np.bytes_(b"\xff\xfe"), "text", h5py.Empty("f8")]
    file.attrs[_attribute(file, rng)] = strange[int(rng.integers(len(strange)))]


def _attribute_deleted(file: h5py.File, rng: Random) -> None:
    del file.attrs[_attribute(file, rng)]


def _attribute_added(file: h5py.File, rng: Random) -> None:
    holder = file[_pick(file, rng)] if rng.integers(2) else file
    holder.attrs["remark"] = "harmless"


def _dims_changed(file: h5py.File, rng: Random) -> None:
    names = [n for n in _datasets(file) if "dims" in file[n].attrs]
    if not names:
        return _attribute_deleted(file, rng)
    file[str(rng.choice(names))].attrs["dims"] = np.bytes_(str(rng.choice(["", "t", "y x", "t t t", "/etc"])).encode())
    return None


def _config_changed(file: h5py.File, rng: Random) -> None:
    """One number or word somewhere in the configuration, a little."""
    config = json.loads(_text(file.attrs["config"]))
    leaves = [(table, key) for table, key in _leaves(config) if not isinstance(table[key], (dict, list))]
    table, key = leaves[int(rng.integers(len(leaves)))]
    old = table[key]
    if isinstance(old, (int, float)) and not isinstance(old, bool):
        table[key] = old + 1
    else:
        table[key] = f"{old}x"
    _set_text(file, "config", json.dumps(config, sort_keys=True))


STRUCTURE: Mapping[str, Edit] = {
    "a number": _value,
    "rows swapped": _rows_swapped,
    "dataset deleted": _deleted,
    "dataset renamed": _renamed,
    "dataset added": _added,
    "dataset resized": _resized,
    "last snapshot cut off": _last_snapshot_cut,
    "another type": _retyped,
    "another shape": _reshaped,
    "attribute changed": _attribute_changed,
    "attribute retyped": _attribute_retyped,
    "attribute deleted": _attribute_deleted,
    "attribute added": _attribute_added,
    "dimensions renamed": _dims_changed,
    "configuration changed": _config_changed,
}


# hostile


def _replace(file: h5py.File, rng: Random) -> str:
    """Remove a dataset and give its name."""
    name = _pick(file, rng)
    del file[name]
    return name


def _external_link(file: h5py.File, rng: Random) -> None:
    file[_replace(file, rng)] = h5py.ExternalLink("/etc/other.h5", "/z")


def _soft_link(file: h5py.File, rng: Random) -> None:
    name = _replace(file, rng)
    file[name] = h5py.SoftLink("/" + str(rng.choice([name, "t", "nowhere"])))


def _hard_cycle(file: h5py.File, rng: Random) -> None:
    group = "fields" if "fields" in file else "loop"
    file.require_group(group)
    file[f"{group}/again"] = file["/"]


def _objects(file: h5py.File, rng: Random) -> None:
    name, kind = _replace(file, rng), int(rng.integers(5))
    if kind == 0:
        file.create_dataset(name, data=["a", "b"], dtype=h5py.string_dtype())
    elif kind == 1:
        file.create_dataset(name, (2,), dtype=h5py.vlen_dtype(np.float64))[0] = np.arange(3.0)
    elif kind == 2:
        file.create_dataset(name, (1,), dtype=h5py.ref_dtype)[0] = file.ref
    elif kind == 3:
        file.create_dataset(name, data=np.zeros(3, [("a", "f8"), ("b", "i8")]))
    else:
        file.create_dataset(name, data=np.zeros(2, h5py.opaque_dtype(np.dtype("M8[ns]"))))


def _named_type(file: h5py.File, rng: Random) -> None:
    file[_replace(file, rng)] = np.dtype("f8")


def _virtual(file: h5py.File, rng: Random) -> None:
    name = _replace(file, rng)
    layout = h5py.VirtualLayout((4, 3), "f8")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "z", (4, 3))
    file.create_virtual_dataset(name, layout)


def _outside(file: h5py.File, rng: Random) -> None:
    file.create_dataset(_replace(file, rng), (9,), "f8", external=[("/etc/passwd", 0, 72)])


def _huge(file: h5py.File, rng: Random) -> None:
    """A shape that takes no place in the file and terabytes in memory."""
    name = _pick(file, rng, filled=True)
    dims, old = file[name].attrs.get("dims"), file[name]
    rank, side = max(1, old.ndim), 2 ** int(rng.integers(24, 44))
    kind = old.dtype
    del file[name]
    shape = (side, *[2] * (rank - 1))
    made = file.create_dataset(name, shape, kind, chunks=(2**16, *[1] * (rank - 1)), maxshape=(None, *shape[1:]))
    if dims is not None:
        made.attrs["dims"] = dims
    elif rng.integers(2):
        made.make_scale(name)


def _bomb(file: h5py.File, rng: Random) -> None:
    """64 MiB to 1 GiB of zeros in a file of kilobytes."""
    name, size = _replace(file, rng), 2 ** int(rng.integers(23, 27))
    made = file.create_dataset(name, (size,), "f8", chunks=(2**20,), compression="gzip", compression_opts=9)
    made[: 2**21] = 0.0
    made.attrs["dims"] = np.bytes_(b"t")


def _strange_name(file: h5py.File, rng: Random) -> None:
    strange = ["..", ".hidden", "a b", "x" * 300, "\x1b[31m", "ﬀ", "<script>", "-"]
    space = h5py.h5s.create_simple((2,))
    h5py.h5d.create(file.id, strange[int(rng.integers(len(strange)))].encode(), h5py.h5t.IEEE_F64LE, space)


def _deep_groups(file: h5py.File, rng: Random) -> None:
    group: Any = file
    for _ in range(int(rng.choice([3, 300]))):
        group = group.create_group("g")


def _many_objects(file: h5py.File, rng: Random) -> None:
    for i in range(2000):
        file.create_group(f"g{i}")


def _many_attributes(file: h5py.File, rng: Random) -> None:
    holder = file[_pick(file, rng)]
    for i in range(300):
        holder.attrs[f"a{i}"] = i


def _long_attribute(file: h5py.File, rng: Random) -> None:
    _set_text(file, "command" if "command" in file.attrs else "kind", "x" * 2**25)


def _strange_json(file: h5py.File, rng: Random) -> None:
    """A configuration that is none, or that no JSON parser should swallow."""
    whole = _text(file.attrs["config"])
    texts = [
        "NaN", "[]", "1e999", '"text"', "{", "null", "[" * 100_000, '{"a":' * 50_000, "9" * 100_000,
        whole[:-1] + ', "x": NaN}', whole[:-1] + ', "x": Infinity}', whole[:-1] + ', "x": "\\ud800"}',
        whole[:-1] + ', "lattice": {}}', whole[:-1] + ', "lattice": null, "training": 3}',
    ]  # fmt: skip
    _set_text(file, "config", texts[int(rng.integers(len(texts)))])


def _strange_numbers(file: h5py.File, rng: Random) -> None:
    """A configuration whose sizes are impossible, or do not fit the arrays beside it."""
    config = json.loads(_text(file.attrs["config"]))
    numbers = [table_key for table_key in _leaves(config) if _is_number(table_key)]
    table, key = numbers[int(rng.integers(len(numbers)))]
    strange = [-1, 0, 10**9, 10**18, 10**400, 1e300, 0.5, "text", None, [], {}, True]
    table[key] = strange[int(rng.integers(len(strange)))]
    _set_text(file, "config", json.dumps(config, sort_keys=True))


def _strange_listing(file: h5py.File, rng: Random) -> None:
    """Of the datasets that should be there."""
    listings: list[Any] = [[], {}, "x", ["/../../etc"], ["t"] * 1000, [1, 2], [["t"]], None, ["fields"], ["\x00"]]
    name = "datasets" if "datasets" in file.attrs else "kind"
    _set_text(file, name, json.dumps(listings[int(rng.integers(len(listings)))]))


def _strange_root(file: h5py.File, rng: Random) -> None:
    """Attributes of the wrong type, or NaN."""
    name = _attribute(file, rng)
    strange = [np.nan, np.inf, -(2**63), np.zeros((100, 100)), h5py.Empty("f8"), np.bytes_(b"\xff"), np.float32(1), ""]
    file.attrs[name] = strange[int(rng.integers(len(strange)))]


def _foreign_format(file: h5py.File, rng: Random) -> None:
    for name in ("schema_version", "sidecar_version"):
        if name in file.attrs:
            file.attrs.modify(name, np.int64(rng.choice([-1, 0, 99, 2**62])))


def _chained_filters(file: h5py.File, rng: Random) -> None:
    name = _replace(file, rng)
    file.create_dataset(name, data=np.zeros(64), chunks=(64,), scaleoffset=2)


HOSTILE: Mapping[str, Edit] = {
    "external link": _external_link,
    "soft link": _soft_link,
    "cycle of groups": _hard_cycle,
    "objects and compounds": _objects,
    "a type in place of data": _named_type,
    "virtual dataset": _virtual,
    "data in another file": _outside,
    "huge shape": _huge,
    "compression bomb": _bomb,
    "strange name": _strange_name,
    "groups in groups": _deep_groups,
    "thousands of groups": _many_objects,
    "hundreds of attributes": _many_attributes,
    "long attribute": _long_attribute,
    "impossible JSON": _strange_json,
    "impossible numbers": _strange_numbers,
    "impossible listing": _strange_listing,
    "attributes of no sense": _strange_root,
    "another version": _foreign_format,
    "unknown filter": _chained_filters,
}

KINDS: Mapping[str, Mapping[str, Any]] = {"bytes": BYTES, "structure": STRUCTURE, "hostile": HOSTILE}


def draw_all(count: int) -> Iterator[Mutation]:
    """The first `count` mutations: all kinds in turn, for each original in turn."""
    kinds = [(group, kind) for group in GROUPS for kind in KINDS[group]]
    # HDF5 opens a killed file for changes only after it was mended, so that these are made to interrupted ones
    everything = [name for name in ORIGINALS if not name.endswith("killed")]
    for number in range(count):
        group, kind = kinds[number % len(kinds)]
        originals = list(ORIGINALS) if group == "bytes" else everything
        yield Mutation(number, originals[(number // len(kinds)) % len(originals)], group, kind)


def make(mutation: Mutation, original: Path, target: Path, seed: int) -> str:
    """Write the altered file, which differs from the original in at least one byte.

    Returns "", or why the HDF5 library would not do it; then one byte is altered instead.
    """
    rng = np.random.default_rng([seed, mutation.number])
    content = original.read_bytes()
    if mutation.group == "bytes":
        altered = bytearray(content)
        for _ in range(100):
            altered = BYTES[mutation.kind](bytearray(content), rng)
            if altered != content:
                break
        target.write_bytes(altered)
        return ""
    target.write_bytes(content)
    try:
        with h5py.File(target, "r+", libver="latest") as file:
            KINDS[mutation.group][mutation.kind](file, rng)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        target.write_bytes(_flip_byte(bytearray(content), rng))
        return f"{type(error).__name__}: {error}"
    if mutation.group == "hostile" and content[-SEAL_BYTES:].startswith(b"bbdfield seal"):
        seal(target)
    return ""


def mutate_all(config: FaultsConfig, folder: Path, session: Session) -> dict[str, Any]:
    """Counts of what became of all altered files; see `FATES`."""
    from bbdfield.studies.faults import trials
    from bbdfield.studies.faults.children import ask_all

    keys = config.faults
    setting = trials.prepare(config, folder)
    requests: list[dict[str, Any]] = [vars(mutation) for mutation in draw_all(keys.mutations)]
    by_group = {group: dict.fromkeys(FATES, 0) for group in GROUPS}
    by_kind: dict[str, dict[str, int]] = {}
    reasons: dict[str, int] = {}
    problems: list[str] = []
    peak, slowest, unmade = 0.0, 0.0, 0
    try:
        answers = ask_all("trials", setting, requests, count=session.workers, timeout=keys.timeout)
        for count, (request, answer) in enumerate(answers, 1):
            fate = answer.get("fate") or ("hang" if "hung" in answer else "crash")
            if answer.get("peak", 0.0) > keys.memory and fate in GOOD:
                fate = "memory"
            peak, slowest = max(peak, answer.get("peak", 0.0)), max(slowest, answer.get("seconds", keys.timeout))
            by_group[request["group"]][fate] += 1
            row = by_kind.setdefault(request["kind"], dict.fromkeys(FATES, 0))
            row[fate] += 1
            unmade += bool(answer.get("unmade"))
            for reason in answer.get("reasons", []):
                reasons[reason] = reasons.get(reason, 0) + 1
            if fate not in GOOD or answer.get("untidy"):
                problems.append(
                    f"{fate}: {request['kind']} of {request['original']}, number {request['number']}: {answer}"
                )
            if count % 500 == 0 or count == len(requests):
                session.say(f"mutations: {count} of {len(requests)} files")
    finally:
        shutil.rmtree(setting["work"], ignore_errors=True)
    totals = {fate: sum(row[fate] for row in by_group.values()) for fate in FATES}
    return {
        "files": len(requests),
        **{fate.replace(" ", "_"): totals[fate] for fate in FATES},
        "made_otherwise": unmade,
        "by_group": by_group,
        "by_kind": by_kind,
        "reasons": dict(sorted(reasons.items(), key=lambda entry: -entry[1])),
        "measured": {"peak_mib": round(peak, 1), "slowest_seconds": round(slowest, 2)},
        "problems": problems,
    }


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _set_text(file: h5py.File, name: str, value: str) -> None:
    """A text of fixed length, as bbdfield stores it."""
    encoded = value.encode("utf-8", "surrogatepass")
    file.attrs[name] = np.array(encoded, h5py.string_dtype("utf-8", max(1, len(encoded))))


def _leaves(table: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in nested tables and lists."""
    for key in list(table) if isinstance(table, dict) else range(len(table)):
        yield table, key
        if isinstance(table[key], (dict, list)):
            yield from _leaves(table[key])


def _is_number(leaf: tuple[Any, Any]) -> bool:
    value = leaf[0][leaf[1]]
    return isinstance(value, (int, float)) and not isinstance(value, bool)
