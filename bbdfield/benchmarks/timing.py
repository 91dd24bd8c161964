"""Times of several programs, taken in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: seconds of rest before a block: threads that still spin after the program before must not cost the next one
REST = 0.02
#: a call that takes longer than this many blocks is measured fewer times, and warms itself
LONG = 8.0


@dataclass(frozen=True)
class Timing:
    """Seconds per call over repeated blocks of `calls` calls each.

    spread : (slowest − fastest block) / median.
    """

    median: float
    minimum: float
    spread: float
    repeats: int
    calls: int

    @classmethod
    def of(cls, seconds: list[float], calls: int = 1) -> Timing:
        middle = statistics.median(seconds)
        return cls(middle, min(seconds), (max(seconds) - min(seconds)) / middle, len(seconds), calls)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def block_seconds(call: Callable[[int], object], finish: Callable[[], object], first: int, calls: int) -> float:
    """Seconds per call of calls `first` … `first + calls − 1`, the last one finished."""
    begin = time.perf_counter()
    for k in range(first, first + calls):
        call(k)
    finish()
    return (time.perf_counter() - begin) / calls


def in_turns(
    programs: Mapping[str, tuple[Callable[[int], object], Callable[[], object]]], *, repeats: int, block: float
) -> dict[str, Timing]:
    """Median seconds per call of each program: warm, in blocks of about `block` seconds, one block each in turn.

    Parameters
    ----------
    programs : name -> (call(k), finish): `finish` returns when everything called has been computed.
    repeats : blocks of each; at most 3, without a call that warms, of a program whose single call outlasts `LONG`
    blocks.
    """
    counts, long = {}, {}
    for name, (call, finish) in programs.items():
        block_seconds(call, finish, 0, 1)  # compiles, allocates
        once = block_seconds(call, finish, 1, 1)
        counts[name] = max(1, round(block / max(once, 1e-7)))
        long[name] = once >= LONG * block
    found: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(repeats):
        for name, (call, finish) in programs.items():
            if turn < 3 or not long[name]:
                time.sleep(REST)
                if not long[name]:
                    block_seconds(call, finish, 0, 1)  # its data back into cache, its threads awake
                found[name].append(block_seconds(call, finish, 1, counts[name]))
    return {name: Timing.of(seconds, counts[name]) for name, seconds in found.items()}
