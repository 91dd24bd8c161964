"""The chain of digests: what vouches for an unfinished file, snapshot by snapshot.

::

    chain[-1] = SHA-256(root attributes but ``digest``, and names, shapes, storage and static values of all datasets)
    chain[i]  = SHA-256(chain[i-1], step, t, fields, evaluation, and the scalars of steps from snapshot i-1 on, of i)

chain[-1] stands in the root attribute ``digest`` in hexadecimal, chain[i] in ``/chain`` as four little-endian integers
of 8 bytes. Fields, evaluation and scalars go in by their names in alphabetic order, each as its bytes in C order; the
scalars after their step numbers. Everything up to the first link that does not fit is as it was written.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bbdfield.storage import schema

Datasets = Mapping[str, h5py.Dataset]

_AT_ONCE = 2**22


def start(attributes: Mapping[str, Any], datasets: Datasets) -> bytes:
    """chain[-1], of the root attributes and of all that is the same for every snapshot."""
    total = hashlib.sha256()
    kept = {name: value for name, value in attributes.items() if name != "digest"}
    total.update(json.dumps(kept, sort_keys=True).encode())
    for name in sorted(datasets):
        dataset = datasets[name]
        storage = [dataset.chunks, dataset.compression, dataset.shuffle, dataset.fletcher32, dataset.maxshape]
        total.update(json.dumps(storage).encode())
        growing = bool(dataset.maxshape) and dataset.maxshape[0] is None
        schema.digest_dataset(total, name, dataset, (0, *dataset.shape[1:]) if growing else dataset.shape)
    return total.digest()


def link(previous: bytes, parts: Iterable[NDArray[Any]]) -> bytes:
    """chain[i], of chain[i-1] and the values of snapshot i."""
    total = hashlib.sha256(previous)
    for part in parts:
        total.update(np.ascontiguousarray(part).data)
    return total.digest()


def parts(
    step: int,
    t: float,
    fields: Mapping[str, Iterable[NDArray[Any]]],
    evaluation: Mapping[str, float],
    scalar_step: NDArray[np.int64],
    scalars: Mapping[str, NDArray[np.float64]],
) -> Iterator[NDArray[Any]]:
    """What a link is made of, in its order; each field in pieces, in C order."""
    yield np.array(step, "<i8")
    yield np.array(t, "<f8")
    for name in sorted(fields):
        yield from fields[name]
    for name in sorted(evaluation):
        yield np.array(evaluation[name], "<f8")
    yield scalar_step
    for name in sorted(scalars):
        yield scalars[name]


def links(
    datasets: Datasets, previous: bytes, steps: NDArray[np.int64], scalar_step: NDArray[np.int64]
) -> Iterator[bytes]:
    """chain[0], chain[1], ..., computed from what the file holds, in pieces of bounded size.

    previous : chain[-1].   steps : of the snapshots.   scalar_step : step numbers of the scalars, which increase.
    """
    n = len(steps)
    rows = {name: _Rows(item, n) for name, item in datasets.items() if name.startswith(("fields/", "evaluation/"))}
    fields, evaluation, scalars = (_group(group, {**datasets, **rows}) for group in ("fields", "evaluation", "scalars"))
    columns = {name: _column(item, len(scalar_step)) for name, item in scalars.items()}
    times, begin = _Rows(datasets["t"], n), 0
    for i, step in enumerate(steps.tolist()):
        end = int(np.searchsorted(scalar_step, step))
        pieces = parts(
            step,
            times.one(i),
            {name: field.pieces(i) for name, field in fields.items()},
            {name: values.one(i) for name, values in evaluation.items()},
            scalar_step[begin:end],
            {name: values[begin:end] for name, values in columns.items()},
        )
        previous, begin = link(previous, pieces), end
        yield previous


class _Rows:
    """The first n rows of a dataset in turn, small ones read many at once, which is much faster."""

    def __init__(self, dataset: h5py.Dataset, n: int) -> None:
        self.dataset, self.n = dataset, n
        self.size = dataset.dtype.itemsize * math.prod(dataset.shape[1:])
        self.begin, self.held = 0, np.empty(0)

    def one(self, i: int) -> Any:
        if not self.begin <= i < self.begin + len(self.held):
            end = min(self.n, i + max(1, _AT_ONCE // max(1, self.size)))
            try:
                self.begin, self.held = i, self.dataset[i:end]
            except schema.FAILURES:  # one of them is damaged, perhaps a later one
                self.begin, self.held = i, self.dataset[i : i + 1]
        return self.held[i - self.begin]

    def pieces(self, i: int) -> Iterable[NDArray[Any]]:
        if self.size > _AT_ONCE:
            return schema.blocks(self.dataset, self.dataset.shape[1:], (i,))
        return [self.one(i)]


def _column(dataset: h5py.Dataset, n: int) -> Any:
    """The first n entries; the dataset itself, to be read piece by piece, if they are many or not all readable."""
    try:
        return dataset[:n] if dataset.dtype.itemsize * n <= _AT_ONCE else dataset
    except schema.FAILURES:
        return dataset


def follow(
    datasets: Datasets, previous: bytes, steps: NDArray[np.int64], scalar_step: NDArray[np.int64]
) -> Iterator[bool]:
    """Whether each snapshot is as its link in the file says; the arguments are those of `links`."""
    told = _Rows(datasets[schema.CHAIN], len(steps))
    for i, computed in enumerate(links(datasets, previous, steps, scalar_step)):
        yield computed == told.one(i).tobytes()


def words(digest: bytes) -> NDArray[np.int64]:
    """A digest as ``/chain`` holds it."""
    return np.frombuffer(digest, "<i8")


def _group(group: str, members: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"{group}/"
    return {name.removeprefix(prefix): item for name, item in members.items() if name.startswith(prefix)}
