"""Values of keys, each with what it needs in words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import PlainValidator

from bbdfield.errors import InputError
from bbdfield.model.ranges import Range
from bbdfield.model.scalings import SCALINGS
from solvers.stencils import FIRST as STENCILS

#: What is planned is refused by its name, so that nobody takes it for a misspelling.
LATER_VALUES = {
    "training.optimizer": ("adam", "adamw", "nesterov", "rmsprop"),
}


LATER_KEYS = ("training.schedule", "training.weight_decay")


#: What exists under another name.
MOMENTUM = 'momentum is training.dynamics = "heavy-ball" with training.damping = -ln(momentum) / training.step'


#: orders in a_x that some scaling has
ORDERS = tuple(sorted({order for scaling in SCALINGS.values() for order in scaling.orders}))


#: The longest side of a lattice or grid, and the most numbers in one array (1 TiB of float64): beyond lies a misprint.
MOST_CELLS = 1_000_000


MOST_KAPPA = 1e6


MOST_NUMBERS = 2**37


def show(value: Any) -> str:
    """The value as one short line; also for what has no representation."""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of many thousand digits; a table nested a thousand deep
        text = f"a {type(value).__name__} that is too large to print"
    return text if len(text) <= 60 else f"{text[:57]}..."


def refuse(needs: str, value: Any) -> ValueError:
    return ValueError(f"needs {needs} (got {show(value)})")


def is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _range(least: int, most: int) -> str:
    return f"a whole number >= {least}" if most >= 2**31 else f"a whole number from {least} to {most}"


def whole(least: int, most: int = 2**31) -> PlainValidator:
    def check(value: Any) -> int:
        if not is_whole(value, least, most):
            raise refuse(_range(least, most), value)
        return int(value)

    return PlainValidator(check)


def real(accept: Callable[[float], bool], needs: str) -> PlainValidator:
    """A finite float (or a whole number taken as one) that `accept` accepts."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise refuse(needs, value)
        try:
            number = float(value)
        except OverflowError:
            raise refuse(f"{needs} below 1e308", value) from None
        if number != value and value == value:  # else config.toml would not echo what was given
            raise refuse(f"{needs}, which a float of 64 bits holds exactly", value)
        if not math.isfinite(number) or not accept(number):
            raise refuse(needs, value)
        return number

    return PlainValidator(check)


def plain_text(value: Any) -> str:
    if not isinstance(value, str):
        raise refuse("a string", value)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise refuse("text that is valid UTF-8", value) from None
    return value


def file_name(value: Any) -> str:
    text = plain_text(value)
    if not text or "\0" in text:
        raise refuse("the name of a file", value)
    return text


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise refuse("true or false", value)
    return value


def choice(known: Callable[[], Sequence[str]] | Sequence[str], key: str = "") -> PlainValidator:
    later = LATER_VALUES.get(key, ())

    def check(value: Any) -> str:
        names = known() if callable(known) else known
        if isinstance(value, str) and value in names:
            return value
        if key == "training.optimizer" and value in ("momentum", "heavy-ball"):
            raise ValueError(f'"{value}": {MOMENTUM}')
        listed = ", ".join(f'"{name}"' for name in names)
        if isinstance(value, str) and value in later:
            raise ValueError(f'"{value}" does not exist yet; use {"one of " if len(names) > 1 else ""}{listed}')
        raise refuse(f"one of {listed}" if len(names) > 1 else listed, value)

    return PlainValidator(check)


def sizes_of(value: Any) -> int | tuple[int, ...]:
    """One size, or a ladder of increasing sizes."""
    if is_whole(value, 1, MOST_CELLS):
        return int(value)
    needs = f"a whole number from 1 to {MOST_CELLS}, or an increasing list of them"
    if not isinstance(value, (list, tuple)) or not value or not all(is_whole(v, 1, MOST_CELLS) for v in value):
        raise refuse(needs, value)
    if any(b <= a for a, b in itertools.pairwise(value)):
        raise refuse("its sizes in increasing order, each once", list(value))
    return tuple(value)


def of_range(kind: type[Range]) -> PlainValidator:
    """The key of a range."""

    def check(value: Any) -> Any:
        try:
            return kind.read(value)
        except (InputError, ValueError, OverflowError, TypeError):
            raise refuse(kind.needs, value) from None

    return PlainValidator(check)


def cells_of(value: Any) -> int | str:
    if value == "lattice" or is_whole(value, 1, MOST_CELLS):
        return value
    raise refuse(f'a whole number from 1 to {MOST_CELLS}, or "lattice"', value)


def each_of(known: Sequence[str], empty: bool = False) -> PlainValidator:
    """A list of different names, which may be empty."""
    listed = ", ".join(f'"{name}"' for name in known)

    def check(value: Any) -> tuple[str, ...]:
        some = isinstance(value, (list, tuple)) and (empty or len(value) > 0)
        if not some or not all(entry in known for entry in value):
            raise refuse(f"a list out of {listed}", value)
        if len(set(value)) != len(value):
            raise refuse("each name once", list(value))
        return tuple(value)

    return PlainValidator(check)


def width_orders_of(value: Any) -> tuple[int, ...]:
    if (
        not isinstance(value, (list, tuple))
        or not all(is_whole(v, 0, 2) for v in value)
        or len(set(value)) < len(value)
    ):
        raise refuse("a list of different width orders out of 0, 1, 2", value)
    return tuple(value)


def any_table(value: Any) -> dict[str, Any]:
    """Keys of a section, which are checked where they are used."""
    if not isinstance(value, Mapping):
        raise refuse("a table of keys", value)
    return dict(value)


def accuracy_of(value: Any) -> int:
    if not is_whole(value, 2, 6) or value not in STENCILS:
        raise refuse(f"one of the accuracies {', '.join(map(str, STENCILS))}", value)
    return int(value)


def orders_of(value: Any) -> tuple[int, ...]:
    needs = f"a list of different orders out of {', '.join(map(str, ORDERS))}"
    if not isinstance(value, (list, tuple)) or not value:
        raise refuse(needs, value)
    if not all(is_whole(order, min(ORDERS), max(ORDERS)) for order in value) or len(set(value)) != len(value):
        raise refuse(needs, value)
    return tuple(value)


def numbers_of(value: Any) -> tuple[float, ...]:
    """One number per tap or moment."""
    numbers = isinstance(value, (list, tuple)) and value and len(value) <= 1001
    if not numbers or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value):
        raise refuse("a list of numbers", value)
    if not all(abs(v) <= 1e6 for v in value):
        raise refuse("a list of numbers up to 1e6 in size", value)
    return tuple(map(float, value))


def increasing(what: str, least: float, most: float, needs: str) -> PlainValidator:
    """An increasing list of numbers in a range."""

    def check(value: Any) -> tuple[float, ...]:
        if not isinstance(value, (list, tuple)) or not value:
            raise refuse(needs, value)
        if not all(isinstance(n, (int, float)) and not isinstance(n, bool) and least <= n <= most for n in value):
            raise refuse(needs, list(value))
        if any(b <= a for a, b in itertools.pairwise(value)):
            raise refuse(f"its {what} in increasing order, each once", list(value))
        return tuple(map(float, value))

    return PlainValidator(check)


def window_of(value: Any) -> tuple[int, int]:
    whole = isinstance(value, (list, tuple)) and len(value) == 2 and all(is_whole(v, 1, MOST_CELLS) for v in value)
    if not whole or value[1] <= value[0]:
        raise refuse("two layers [first, last] with 1 <= first < last", value)
    return value[0], value[1]


def _is_variance(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1000


def variances_of(value: Any) -> tuple[tuple[float, float], ...]:
    needs = "a list of pairs [σ_w², σ_b²] of numbers from 0 to 1000"
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(v, (list, tuple)) for v in value):
        raise refuse(needs, value)
    if not all(len(pair) == 2 and all(map(_is_variance, pair)) and pair[0] > 0 for pair in value):
        raise refuse(f"{needs}, the first > 0", value)
    return tuple((float(weight), float(bias)) for weight, bias in value)


def biases_of(value: Any) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or not value or not all(map(_is_variance, value)):
        raise refuse("a list of variances σ_b², numbers from 0 to 1000", value)
    return tuple(map(float, value))


def widths_of(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not value or not all(is_whole(v, 1, 100_000) for v in value):
        raise refuse("a list of widths, whole numbers from 1 to 100000", value)
    return tuple(value)


def nonnegative(x: float) -> bool:
    return x >= 0


def positive(x: float) -> bool:
    return x > 0


AMPLITUDE = real(nonnegative, "a number >= 0")


LENGTH = real(lambda x: x == 0 or 1e-3 <= x <= 1e3, "a length from 0.001 to 1000, or 0 for independent values")


NUMBERS = PlainValidator(numbers_of)


BREAKINGS = increasing("sizes", 1e-8, 1.0, "an increasing list of sizes ε with 1e-8 <= ε <= 1")


MULTIPLES = increasing("numbers", 0.0, 1000.0, "an increasing list of numbers from 0 to 1000")


KAPPA = real(lambda x: 0 < x <= MOST_KAPPA, f"a number > 0, at most {MOST_KAPPA:g}")


SOME_ORDERS = PlainValidator(orders_of)


SIZES = PlainValidator(sizes_of)


POSITIVE = real(positive, "a number > 0")


CELLS = PlainValidator(cells_of)


FLAG = PlainValidator(_flag)
