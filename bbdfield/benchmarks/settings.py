"""What a run of the benchmark is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bbdfield.errors import InputError

PARTS = ("sites", "scaling", "forecast")
SIZES = ("small", "full")
#: seconds of a block, and blocks of every program
BLOCKS = {"small": 0.002, "full": 0.15}
REPEATS = {"small": 2, "full": 7}
#: the forecast: layers of the lattices, cells of the field, training steps
DEPTHS = {"small": (8, 16), "full": (64, 256, 1024, 4096)}
CELLS = {"small": (4,), "full": (8, 12, 16)}
STEPS = {"small": 3, "full": 300}


@dataclass(frozen=True)
class Settings:
    """sizes : "small" (seconds, for tests) or "full".   depths : layers of the forecast's lattices.

    say : takes one line per stage.
    """

    sizes: str
    threads: int
    only: tuple[str, ...]
    depths: tuple[int, ...]
    say: Callable[[str], None]

    @property
    def repeats(self) -> int:
        return REPEATS[self.sizes]

    @property
    def block(self) -> float:
        return BLOCKS[self.sizes]

    @property
    def cells(self) -> tuple[int, ...]:
        return CELLS[self.sizes]

    @property
    def steps(self) -> int:
        return STEPS[self.sizes]


def parts_of(text: str | None) -> tuple[str, ...]:
    """The parts named in "sites,forecast", in their own order; all without a text.

    Raises
    ------
    InputError
        for a part that does not exist.
    """
    if text is None:
        return PARTS
    given = [part.strip() for part in text.split(",")]
    for part in given:
        if part not in PARTS:
            raise InputError(f"--only: there is no part '{part}'; use some of {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in given)


def depths_of(text: str | None, sizes: str) -> tuple[int, ...]:
    """The depths named in "64,256", rising; those of `sizes` without a text.

    Raises
    ------
    InputError
        for what is no list of different whole numbers of layers.
    """
    if text is None:
        return DEPTHS[sizes]
    try:
        depths = sorted({int(part) for part in text.split(",")})
    except ValueError:
        depths = []
    if not depths or depths[0] < 1:
        raise InputError(f"--depths: '{text}' is no list of numbers of layers, such as 64,256")
    return tuple(depths)


def require_choice(key: str, value: str, known: Sequence[str]) -> None:
    """Refuse (InputError) a value that is not among those known."""
    if value not in known:
        raise InputError(f"{key}: '{value}' does not exist; use one of {', '.join(known)}")
