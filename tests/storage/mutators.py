"""Ways in which a file goes bad, drawn at random from a seed: bytes on the disk, and edits through h5py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from bbdfield.storage import schema

Random = np.random.Generator
Bytes = Callable[[bytes, Random], bytes]
Edit = Callable[[h5py.File, Random], None]


def _place(content: bytes, rng: Random, length: int = 1) -> int:
    return int(rng.integers(0, max(1, len(content) - length)))


def flip_a_bit(content: bytes, rng: Random) -> bytes:
    place = _place(content, rng)
    return content[:place] + bytes([content[place] ^ (1 << int(rng.integers(8)))]) + content[place + 1 :]


def flip_bytes(content: bytes, rng: Random) -> bytes:
    changed = np.frombuffer(content, np.uint8).copy()
    places = rng.integers(0, len(content), int(rng.integers(2, 50)))
    changed[places] ^= rng.integers(1, 256, len(places), dtype=np.uint8)
    return changed.tobytes()


def overwrite_with_zeros(content: bytes, rng: Random) -> bytes:
    length = int(2 ** rng.uniform(3, 13))
    place = _place(content, rng, length)
    return content[:place] + bytes(len(content[place : place + length])) + content[place + length :]


def overwrite_at_random(content: bytes, rng: Random) -> bytes:
    length = int(2 ** rng.uniform(3, 13))
    place = _place(content, rng, length)
    return content[:place] + rng.bytes(len(content[place : place + length])) + content[place + length :]


def truncate(content: bytes, rng: Random) -> bytes:
    return content[: _place(content, rng)]


def truncate_a_little(content: bytes, rng: Random) -> bytes:
    return content[: -int(rng.integers(1, 200))]


def extend(content: bytes, rng: Random) -> bytes:
    more = int(rng.integers(1, 5000))
    return content + (bytes(more) if rng.random() < 0.5 else rng.bytes(more))


def extend_with_itself(content: bytes, rng: Random) -> bytes:
    return content + content[_place(content, rng) :]


def swap_blocks(content: bytes, rng: Random) -> bytes:
    length = int(2 ** rng.uniform(3, 12))
    first, second = sorted(_place(content, rng, 2 * length) for _ in range(2))
    second = max(second, first + length)
    changed = bytearray(content)
    size = min(length, len(content) - second)
    changed[first : first + size] = content[second : second + size]
    changed[second : second + size] = content[first : first + size]
    return bytes(changed)


def duplicate_a_block(content: bytes, rng: Random) -> bytes:
    length = int(2 ** rng.uniform(3, 12))
    source, target = (_place(content, rng, length) for _ in range(2))
    return content[:target] + content[source : source + length] + content[target + length :]


def insert_a_block(content: bytes, rng: Random) -> bytes:
    place = _place(content, rng)
    return content[:place] + rng.bytes(int(rng.integers(1, 100))) + content[place:]


def leave_out_a_block(content: bytes, rng: Random) -> bytes:
    length = int(2 ** rng.uniform(0, 10))
    place = _place(content, rng, length)
    return content[:place] + content[place + length :]


def change_the_superblock(content: bytes, rng: Random) -> bytes:
    place = int(rng.integers(0, 48))
    return content[:place] + rng.bytes(1) + content[place + 1 :]


def _some_dataset(file: h5py.File, rng: Random) -> h5py.Dataset:
    names = [name for name in json.loads(schema.plain(file.attrs["datasets"])) if name in file]
    return file[names[int(rng.integers(len(names)))]]


def change_a_value(file: h5py.File, rng: Random) -> None:
    while True:
        dataset = _some_dataset(file, rng)
        if dataset.size and schema.has_values(dataset):
            break
    place = tuple(int(rng.integers(size)) for size in dataset.shape)
    dataset[place] = np.nextafter(dataset[place], np.inf) if dataset.dtype.kind == "f" else dataset[place] + 1


def change_a_field(file: h5py.File, rng: Random) -> None:
    field = file["fields"][("w", "b", "z", "r")[int(rng.integers(4))]]
    i, j = (int(rng.integers(len(field))) for _ in range(2))
    field[i] = field[j] if i != j else 2 * field[i]


def change_an_attribute(file: h5py.File, rng: Random) -> None:
    names = sorted(file.attrs)
    name = names[int(rng.integers(len(names)))]
    value = schema.plain(file.attrs[name])
    file.attrs[name] = value + 1 if isinstance(value, int) else schema.text(value + " ")


def change_the_configuration(file: h5py.File, rng: Random) -> None:
    config = json.loads(schema.plain(file.attrs["config"]))
    config["depth"] += int(rng.integers(1, 9))
    file.attrs["config"] = schema.text(schema.encode_json(config, "config"))


def delete_an_attribute(file: h5py.File, rng: Random) -> None:
    names = sorted(file.attrs)
    del file.attrs[names[int(rng.integers(len(names)))]]


def change_dimensions(file: h5py.File, rng: Random) -> None:
    dataset = _some_dataset(file, rng)
    dataset.attrs["dims" if "dims" in dataset.attrs else "units"] = schema.text("y x_site")


def delete_a_dataset(file: h5py.File, rng: Random) -> None:
    del file[_some_dataset(file, rng).name]


def add_a_dataset(file: h5py.File, rng: Random) -> None:
    group = file[("/", "fields", "scalars", "evaluation", "boundary")[int(rng.integers(5))]]
    group.create_dataset("added", data=rng.normal(size=3))


def rename_a_dataset(file: h5py.File, rng: Random) -> None:
    name = _some_dataset(file, rng).name
    file.move(name, name + "_old")


def exchange_two_datasets(file: h5py.File, rng: Random) -> None:
    file.move("fields/b", "fields/other")
    file.move("scalars/loss", "fields/b")
    file.move("fields/other", "scalars/loss")


def exchange_two_scalars(file: h5py.File, rng: Random) -> None:
    file.move("scalars/loss", "scalars/other")
    file.move("scalars/energy", "scalars/loss")
    file.move("scalars/other", "scalars/energy")


def change_a_length(file: h5py.File, rng: Random) -> None:
    while True:
        dataset = _some_dataset(file, rng)
        if dataset.maxshape and dataset.maxshape[0] is None:
            dataset.resize(int(rng.integers(0, 2 * len(dataset) + 2)), axis=0)
            return


def replace_a_dataset(file: h5py.File, rng: Random) -> None:
    name = _some_dataset(file, rng).name
    del file[name]
    file.create_dataset(name, data=rng.normal(size=(2, 3)))


def shift_snapshots(file: h5py.File, rng: Random) -> None:
    for name in ("w", "b", "z", "r"):
        field = file["fields"][name]
        field[:] = np.roll(field[:], 1, axis=0)


BYTES: tuple[Bytes, ...] = (
    flip_a_bit, flip_bytes, overwrite_with_zeros, overwrite_at_random, truncate, truncate_a_little, extend,
    extend_with_itself, swap_blocks, duplicate_a_block, insert_a_block, leave_out_a_block, change_the_superblock,
)  # fmt: skip
EDITS: tuple[Edit, ...] = (
    change_a_value, change_a_field, change_an_attribute, change_the_configuration, delete_an_attribute,
    change_dimensions, delete_a_dataset, add_a_dataset, rename_a_dataset, exchange_two_datasets, exchange_two_scalars,
    change_a_length, replace_a_dataset, shift_snapshots,
)  # fmt: skip


def mutate(path: Path, content: bytes, number: int, *, edits: bool) -> str:
    """Write `content` to a file, changed in a way that the number alone decides; the name of that way."""
    rng = np.random.default_rng(number)
    if edits and number % 3 == 0:
        edit = EDITS[number // 3 % len(EDITS)]
        path.write_bytes(content)
        with h5py.File(path, "r+", libver="latest") as file:
            edit(file, rng)
        return edit.__name__
    change = BYTES[number % len(BYTES)]
    path.write_bytes(change(content, rng))
    return change.__name__
