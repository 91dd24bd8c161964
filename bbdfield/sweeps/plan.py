"""Which points a sweep has: an ordinary study file and a section that lists other values for some of its keys.

    [sweep.grid]                        # every combination of these
    seed = [1, 2, 3]
    a_x = [0.125, 0.0625]               # lattice.depth = 8, 16
    "lattice.padding" = ["zeros", "circular"]

    [[sweep.points]]                    # each of these with every combination of the grid
    "lattice.scaling" = "critical"
    "lattice.range" = "taps"

A key is written as in ``--set``: ``"lattice.padding"``; ``a_x``, ``a_y``, ``order`` and ``scaling`` stand for
lattice.depth = 1/a_x, lattice.width = 1/a_y, field.orders (or field.order) and lattice.scaling.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from bbdfield.errors import InputError
from bbdfield.studies.config import AnyStudy, model_of, parse_table, read_text, toml_key, toml_value

MOST_POINTS = 100_000
#: no key of a study is longer
MOST_CHARACTERS = 100
SPACINGS = {"a_x": "lattice.depth", "a_y": "lattice.width"}
KEYS = ("grid", "points", "heat", "scores", "figures")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_KEY = re.compile(rf"{_NAME.pattern}(\.{_NAME.pattern})*")
#: the ladders of this kind have orders of their own
_OWN_ORDERS = ("orders",)

Settings = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    name : of its directory: 16 hexadecimal digits of the SHA-256 of configuration and data.
    settings : swept key -> value, as its configuration has it; None where that has no such key.
    config : its whole configuration; None if that is impossible, and then `refusal` says why.
    """

    name: str
    settings: Settings
    config: AnyStudy | None
    refusal: str = ""


@dataclass(frozen=True)
class Sweep:
    """A sweep, its keys checked; values are checked point by point.

    where : what messages call it.   base : the tables of the study.   grid : key -> its values.
    entries : settings of [[sweep.points]].   heat : pairs of keys for heat maps.   scores : what figures show.
    figures : whether there are any.
    """

    where: str
    base: dict[str, Any]
    grid: dict[str, tuple[Any, ...]]
    entries: tuple[Settings, ...] = ()
    heat: tuple[tuple[str, str], ...] = ()
    scores: tuple[str, ...] = ()
    figures: bool = True

    @property
    def model(self) -> type[AnyStudy]:
        """The configuration that all points have."""
        return model_of(self.base)

    @property
    def keys(self) -> tuple[str, ...]:
        """Every swept key once."""
        return tuple(dict.fromkeys([*(key for entry in self.entries for key in entry), *self.grid]))

    @property
    def title(self) -> str:
        title = self.base.get("title")
        return title if isinstance(title, str) else ""

    def count(self) -> int:
        """Number of combinations."""
        return math.prod(map(len, self.grid.values())) * max(1, len(self.entries))

    def points(self) -> list[Point]:
        """All points in the order of the file, equal ones once; what a configuration refuses is kept with the reason.

        Raises
        ------
        InputError
            when every point is refused.
        """
        found: dict[str, Point] = {}
        digests: dict[Any, str] = {}
        for settings in self._combinations():
            point = self._point(settings, digests)
            found.setdefault(point.name, point)
        points = list(found.values())
        if not any(point.config for point in points):
            every = f" (none of the {len(points)} points is possible)" if len(points) > 1 else ""
            raise InputError(f"{self.where}: {points[0].refusal}{every}")
        return points

    def to_toml(self) -> str:
        """The sweep as a file; reading it back gives an equal one."""
        plain = {key: value for key, value in self.base.items() if not isinstance(value, dict)}
        parts = ["".join(f"{toml_key(key)} = {toml_value(value)}\n" for key, value in plain.items())]
        parts += [_section(toml_key(key), value) for key, value in self.base.items() if isinstance(value, dict)]
        own: dict[str, Any] = {"figures": self.figures}
        own |= {key: value for key, value in (("heat", self.heat), ("scores", self.scores)) if value}
        parts.append(_section("sweep", own))
        if self.grid:
            parts.append(_section("sweep.grid", self.grid))
        parts += [_section("[sweep.points]", entry) for entry in self.entries]
        return "\n".join(parts)

    @classmethod
    def from_toml(cls, text: str, where: str = "sweep", folder: Path | None = None) -> Sweep:
        """`load_sweep` of a text."""
        return cls.from_table(parse_table(text, where), where, folder)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str = "sweep", folder: Path | None = None) -> Sweep:
        """Check the section [sweep] of a study's tables.

        Parameters
        ----------
        folder : where a relative data.file lies (default: the working directory).

        Raises
        ------
        InputError
            One line: where, the key, what it needs and what it got.
        """
        base = {key: value for key, value in table.items() if key != "sweep"}
        try:
            sweep = cls(where, base, **_read(table, model_of(base)))
            sweep._check()
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        return sweep._with_absolute_files((folder or Path()).absolute())

    def _check(self) -> None:
        """Too many points, and keys that contradict one another."""
        if self.count() > MOST_POINTS:
            raise InputError(f"sweep.grid: {self.count():,} points; a sweep has at most {MOST_POINTS:,}")
        targets = {key: _target(key, self.model) for key in self.keys}
        for keys in dict.fromkeys([(), *map(tuple, self.entries)]):
            section = "points" if keys else "grid"
            repeated = [key for key in keys if key in self.grid]
            if repeated:
                raise InputError(f"sweep.points: {repeated[0]} stands in sweep.grid too; give it once")
            for one, other in itertools.permutations((*keys, *self.grid), 2):
                if f"{targets[other]}.".startswith(f"{targets[one]}."):
                    raise InputError(f"sweep.{section}: {one} and {other} set the same key; give one of them")
        for pair in self.heat:
            missing = [key for key in pair if key not in self.keys]
            if missing or len(set(pair)) < 2:
                known = ", ".join(self.keys)
                raise InputError(f"sweep.heat: needs pairs of two swept keys out of {known} (got {_show(pair)})")

    def _with_absolute_files(self, folder: Path) -> Sweep:
        """The sweep with every data.file made absolute, so that its own sweep.toml works from anywhere."""

        def absolute(value: Any) -> Any:
            usable = isinstance(value, str) and value and "\0" not in value
            return str(folder / value) if usable else value

        key, data = "data.file", self.base.get("data")
        base, grid = dict(self.base), dict(self.grid)
        if isinstance(data, dict) and "file" in data:
            base["data"] = {**data, "file": absolute(data["file"])}
        if key in grid:
            grid[key] = tuple(map(absolute, grid[key]))
        entries = tuple({k: absolute(v) if k == key else v for k, v in entry.items()} for entry in self.entries)
        return Sweep(self.where, base, grid, entries, self.heat, self.scores, self.figures)

    def _combinations(self) -> Iterator[Settings]:
        for entry in self.entries or ({},):
            for values in itertools.product(*self.grid.values()):
                yield {**entry, **dict(zip(self.grid, values, strict=True))}

    def _point(self, settings: Settings, digests: dict[Any, str]) -> Point:
        table: Any = self.base
        output = table.get("output", {})
        if isinstance(output, dict):
            table = {**table, "output": {"figures": False, **output}}
        for key, value in settings.items():
            target = _target(key, self.model)
            if key in SPACINGS:
                value = round(1 / value)
            elif key == "order" and target == "field.orders":
                value = [value]
            table = _changed(table, target.split("."), value)
        try:
            config = self.model.from_table(table, "configuration")
        except InputError as error:
            refusal = str(error).removeprefix("configuration: ")
            return Point(_digest("refused", toml_value(table)), self._given(settings), None, refusal)
        source = (config.data.name, config.data.file)
        if source not in digests:
            digests[source] = config.dataset().digest
        values = {key: _value_of(config, key) for key in self.keys}
        return Point(_digest(config.to_toml(), digests[source]), values, config)

    def _given(self, settings: Settings) -> Settings:
        """Values of a point that has no configuration, as far as they were given."""
        found: Settings = {}
        for key in self.keys:
            value: Any = self.base
            for name in _target(key, self.model).split("."):
                value = value.get(name) if isinstance(value, Mapping) else None
            if key in SPACINGS:
                value = 1 / value if isinstance(value, int) and value > 0 else None
            found[key] = settings.get(key, value)
        return found


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep.

    Parameters
    ----------
    path : the TOML file.
    overrides : "a.b=c" each, as for `load_config`.

    Raises
    ------
    InputError
        One line naming the file, the key and the remedy.
    """
    path = Path(path)
    return Sweep.from_table(parse_table(read_text(path), str(path), overrides), str(path), path.parent)


# reading the section


def _read(table: Mapping[str, Any], model: type[AnyStudy]) -> dict[str, Any]:
    """The section [sweep] as arguments of `Sweep`."""
    if "sweep" not in table:
        raise InputError(
            "sweep: is missing; add [sweep.grid] with a list of values for each key, or use bbdfield run for one study"
        )
    own = table["sweep"]
    if not isinstance(own, Mapping):
        raise InputError(f"sweep: needs a table of keys (got {_show(own)})")
    for key in own:
        if key not in KEYS:
            close = difflib.get_close_matches(key[:40], KEYS, n=1)
            remedy = f"did you mean sweep.{close[0]}?" if close else f"known are {', '.join(KEYS)}"
            hint = "; keys of the study go into [sweep.grid]" if not close else ""
            raise InputError(f"sweep.{_shown(key)}: unknown key; {remedy}{hint}")
    grid = {key: _values(key, values) for key, values in _flat(own.get("grid", {}), "sweep.grid", model).items()}
    listed = own.get("points", [])
    if not isinstance(listed, list) or not all(isinstance(entry, Mapping) for entry in listed):
        raise InputError(f"sweep.points: needs tables [[sweep.points]] (got {_show(listed)})")
    entries = tuple(
        {key: _value(f"points.{k}.{key}", key, v) for key, v in _flat(entry, f"sweep.points.{k}", model).items()}
        for k, entry in enumerate(listed)
    )
    if not grid and not any(entries):
        raise InputError("sweep: lists no values; add [sweep.grid] with a list of values for each key")
    figures = own.get("figures", True)
    if not isinstance(figures, bool):
        raise InputError(f"sweep.figures: needs true or false (got {_show(figures)})")
    scores = own.get("scores", [])
    if not isinstance(scores, list) or not all(isinstance(score, str) and score for score in scores):
        raise InputError(f'sweep.scores: needs a list of names such as "error.z" (got {_show(scores)})')
    heat = own.get("heat", [])
    pairs = isinstance(heat, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in heat)
    if not pairs or not all(isinstance(key, str) for pair in heat for key in pair):
        raise InputError(f'sweep.heat: needs pairs of keys such as [["a_x", "seed"]] (got {_show(heat)})')
    return {
        "grid": grid,
        "entries": entries,
        "heat": tuple((first, second) for first, second in heat),
        "scores": tuple(scores),
        "figures": figures,
    }


def _flat(table: Any, where: str, model: type[AnyStudy]) -> dict[str, Any]:
    """Key -> value of a table whose keys are dotted, or tables in one another."""
    if not isinstance(table, Mapping):
        raise InputError(f"{where}: needs a table of keys (got {_show(table)})")
    found: dict[str, Any] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((name,), value) for name, value in reversed(list(table.items()))]
    while waiting:
        names, value = waiting.pop()
        key = ".".join(names)
        if isinstance(value, Mapping):
            waiting += [((*names, name), inner) for name, inner in reversed(list(value.items()))]
            continue
        try:
            _target(key, model)
        except InputError as error:
            raise InputError(f"{where}.{_shown(key)}: {error}") from None
        if key in found:
            raise InputError(f"{where}.{_shown(key)}: stands there twice; give it once")
        found[key] = value
    return found


def _values(key: str, values: Any) -> tuple[Any, ...]:
    where = f"grid.{key}"
    if not isinstance(values, list) or not values:
        raise InputError(f"sweep.{where}: needs a list of one value or more, such as [1, 2] (got {_show(values)})")
    found = [_value(where, key, value) for value in values]
    texts = [toml_value(value) for value in found]
    repeated = [text for text, count in Counter(texts).items() if count > 1]
    if repeated:
        raise InputError(f"sweep.{where}: gives {repeated[0][:60]} twice; give each value once")
    return tuple(found)


def _value(where: str, key: str, value: Any) -> Any:
    """The value, a spacing as 1/(whole number)."""
    if key not in SPACINGS:
        return value
    count = 0
    try:
        spacing = float(Fraction(value)) if isinstance(value, str) else value
        if isinstance(spacing, (int, float)) and not isinstance(spacing, bool) and 0 < spacing <= 1:
            count = round(1 / spacing)
    except (ValueError, ZeroDivisionError, OverflowError):
        spacing = 0
    if not count or abs(count * spacing - 1) > 1e-9:
        what = "layers" if key == "a_x" else "cells"
        raise InputError(f"sweep.{where}: needs 1/(a whole number of {what}), such as 0.125 (got {_show(value)})")
    return 1 / count


# keys


def _target(key: str, model: type[AnyStudy]) -> str:
    """The key of the configuration that a swept key sets, checked to exist."""
    if key == "order":
        field = model.model_fields.get("field")
        known = () if field is None or model.__name__ == "OrdersConfig" else field.annotation.model_fields  # type: ignore[union-attr]
        for name in ("orders", "order"):
            if name in known:
                return f"field.{name}"
        raise InputError("this kind of study has no order of a field theory; remove it")
    if key in ("kind", "title"):
        raise InputError(f"is the same for all points; make a sweep for each {key}")
    target = {**SPACINGS, "scaling": "lattice.scaling"}.get(key, key)
    names = target.split(".")
    if len(target) > MOST_CHARACTERS or not all(map(_NAME.fullmatch, names)):
        raise InputError("is no key of a study; write it as in lattice.padding")
    _check_known(names, model)
    return target


def _check_known(names: Sequence[str], model: type[AnyStudy]) -> None:
    """Refuse a key that no study of this kind has: a point would only say so later."""
    section: Any = model
    for depth, name in enumerate(names):
        fields = section.model_fields if isinstance(section, type) and issubclass(section, BaseModel) else None
        if fields is None:
            raise InputError(f"{'.'.join(names[:depth])} is a value and has no keys; give all of it")
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            known = f"did you mean {'.'.join([*names[:depth], *close])}?" if close else f"known are {', '.join(fields)}"
            raise InputError(f"unknown key; {known}")
        inner = fields[name].annotation
        section = inner if isinstance(inner, type) else next((a for a in get_args(inner) if isinstance(a, type)), None)


def _value_of(config: AnyStudy, key: str) -> Any:
    """What a configuration has for a swept key: plain TOML types."""
    value: Any = config
    for name in _target(key, type(config)).split("."):
        value = getattr(value, name)
    if key in SPACINGS:
        return 1 / value if isinstance(value, int) else [1 / size for size in value]
    if key == "order" and isinstance(value, tuple):
        return value[0] if len(value) == 1 else list(value)
    return value.model_dump() if isinstance(value, BaseModel) else _plain(value)


def _plain(value: Any) -> Any:
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _changed(table: Any, names: Sequence[str], value: Any) -> Any:
    """A table with one key changed; the old one, which other points share, stays as it is.

    What is no table is kept: the configuration refuses it.
    """
    if not names:
        return value
    if not isinstance(table, Mapping):
        return table
    return {**table, names[0]: _changed(table.get(names[0], {}), names[1:], value)}


# words


def _digest(*texts: str) -> str:
    """16 hexadecimal digits."""
    return hashlib.sha256("\n".join(texts).encode("utf-8")).hexdigest()[:16]


def _section(name: str, table: Mapping[str, Any]) -> str:
    return f"[{name}]\n" + "".join(f"{toml_key(key)} = {toml_value(value)}\n" for key, value in table.items())


def _shown(key: str) -> str:
    """A key as it is written, shortened."""
    return key if _KEY.fullmatch(key) and len(key) <= 60 else _show(key)


def _show(value: Any) -> str:
    """A value as one short line."""
    try:
        text = toml_value(value)
    except (ValueError, RecursionError):
        text = "a value that is too large to print"
    return text if len(text) <= 60 else f"{text[:57]}..."
