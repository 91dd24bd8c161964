"""What the points of a sweep say together: means over seeds, and orders of convergence pooled over them.

Everything here follows from settings and scores alone, in the order of the plan: however many workers there were, the
result is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bbdfield.studies.config import toml_value
from bbdfield.sweeps.index import FINISHED, Row, rungs_of
from bbdfield.sweeps.plan import SPACINGS

#: what is looked at first, by kind; of others the first numbers that differ between points
MAIN = {
    "continuum": ("error.z", "error.w", "error.b", "error.loss"),
    "energy": (
        "energy.field_against_lattice.energy",
        "energy.entering.output",
        "energy.entering.half_depth",
        "energy.loss.lattice.1",
    ),
    "decomposition": ("decomposition.bulk_share", "decomposition.boundary_change", "decomposition.loss.1"),
}
MOST_MAIN = 4
#: of a continuum point, whose rungs say it: key of the configuration -> column of the rungs
OF_RUNGS = {**{size: spacing for spacing, size in SPACINGS.items()}, "field.orders": "order"}

Settings = dict[str, Any]
Values = dict[str, float]


@dataclass(frozen=True)
class Observation:
    """One run, or one rung and order of it: settings without the seed, the seed, scores; none of a run that failed."""

    settings: Settings
    seed: int
    values: Values


@dataclass(frozen=True)
class Group:
    """Observations that differ only in the seed."""

    settings: Settings
    members: list[Observation]

    def values(self, score: str) -> list[float]:
        """The finite values of a score."""
        found = [member.values[score] for member in self.members if score in member.values]
        return [value for value in found if np.isfinite(value)]


def observations(rows: Sequence[Row]) -> list[Observation]:
    """All runs; of kinds with rungs one for every rung and order, told apart by a_x, a_y and order.

    Points may share a rung of one seed, as ladders that overlap do: that is one run, and counts once.
    """
    # a refused point does not say its kind; all points of a sweep have the same
    ladder = any(row.point.config is not None and row.point.config.kind == "continuum" for row in rows)
    found: dict[tuple[str, str], Observation] = {}
    for each in (each for row in rows for each in _of_row(row, ladder)):
        key = toml_text(each.settings), toml_text(each.seed)
        if key not in found or (each.values and not found[key].values):
            found[key] = each
    return list(found.values())


def _of_row(row: Row, ladder: bool) -> Iterator[Observation]:
    seed = row.point.config.seed if row.point.config is not None else row.point.settings.get("seed", 0)
    settings = {key: value for key, value in row.point.settings.items() if key != "seed"}
    if row.status != FINISHED:
        yield Observation(_of_failed(settings) if ladder else settings, seed, {})
    elif ladder:
        outside = {key: value for key, value in settings.items() if key not in OF_RUNGS}
        for rung in rungs_of(row):
            place = {key: rung.get(key) for key in OF_RUNGS.values()}
            yield Observation({**outside, **place}, seed, {**rung})
    else:
        yield Observation(settings, seed, {**row.scores})


def _of_failed(settings: Mapping[str, Any]) -> Settings:
    """Where a run would have been: its spacings and order, if it was to have one of each."""
    found: Settings = {}
    for key, value in settings.items():
        name = OF_RUNGS.get(key, key)
        if name == "order":
            value = value[0] if isinstance(value, list) and len(value) == 1 else value
        elif key in OF_RUNGS and is_number(value):
            value = 1 / value if value > 0 else f"{key} = {value:g}"  # there is no such place
        if name not in OF_RUNGS.values() or not (value is None or isinstance(value, list)):
            found[name] = value
    return found


def canonical(key: str, kind: str) -> str:
    """What a swept key is called in the settings of observations."""
    return OF_RUNGS.get(key, key) if kind == "continuum" else key


def distinct(found: Iterable[Observation], key: str) -> list[Any]:
    """The values of a setting: numbers in increasing order, then everything else in the order of the plan."""
    values = {toml_text(each.settings[key]): each.settings[key] for each in found if key in each.settings}
    numbers = [value for value in values.values() if is_number(value)]
    return [*sorted(numbers), *(value for value in values.values() if not is_number(value) and value is not None)]


def varying(found: Sequence[Observation]) -> list[str]:
    """Settings with two values or more; that a configuration has no such key counts as one."""
    values: dict[str, set[str]] = {}
    for each in found:
        for key, value in each.settings.items():
            values.setdefault(key, set()).add(toml_text(value))
    return [key for key, texts in values.items() if len(texts) > 1]


def grouped(found: Iterable[Observation], without: Sequence[str] = ()) -> list[Group]:
    """Observations of equal settings, but for the seed and the settings `without`; in the order of the plan."""
    groups: dict[str, Group] = {}
    for each in found:
        settings = {key: value for key, value in each.settings.items() if key not in without}
        groups.setdefault(toml_text(settings), Group(settings, [])).members.append(each)
    return list(groups.values())


def main_scores(kind: str, wanted: Sequence[str], found: Sequence[Observation]) -> list[str]:
    """Which scores are shown: the wanted ones that exist, or those of the kind, or the first that settings change."""
    known = dict.fromkeys(key for each in found for key in each.values)
    for names in (wanted, MAIN.get(kind, ())):
        there = [name for name in names if name in known]
        if there:
            return there
    changing = [key for key in known if _changes(found, key)]
    differing = [key for key in known if len({each.values[key] for each in found if key in each.values}) > 1]
    return (changing or differing)[:MOST_MAIN]


def _changes(found: Sequence[Observation], score: str) -> bool:
    """Whether a score differs, by more than rounding, between runs of one seed."""
    of_seed: dict[int, list[float]] = {}
    for each in found:
        if score in each.values:
            of_seed.setdefault(each.seed, []).append(each.values[score])
    return any(max(values) - min(values) > 1e-9 * max(1e-3, *map(abs, values)) for values in of_seed.values())


def statistics(values: Sequence[float]) -> dict[str, float | int | None]:
    """n, mean, std (of the sample; None for one value), min and max."""
    if not values:
        return {"n": 0, "mean": None, "std": None, "min": None, "max": None}
    array = np.array(values)
    std = float(np.std(array, ddof=1)) if array.size > 1 else None
    return {"n": array.size, "mean": float(np.mean(array)), "std": std, "min": min(values), "max": max(values)}


def summarise(found: Sequence[Observation], scores: Sequence[str]) -> list[dict[str, Any]]:
    """Settings and statistics of every group that has a value."""
    return [
        {"settings": group.settings, "scores": {score: statistics(group.values(score)) for score in scores}}
        for group in grouped(each for each in found if each.values)
    ]


def fit_orders(found: Sequence[Observation], scores: Sequence[str]) -> list[dict[str, Any]]:
    """Slopes of log score against log a_x, and against log a_y, of all points of the same other settings."""
    fits = []
    for spacing in SPACINGS:
        if len(distinct(found, spacing)) < 2:
            continue
        for group in grouped((each for each in found if each.values), without=[spacing]):
            orders = {score: fit_pooled(group.members, spacing, score) for score in scores}
            if any(orders.values()):
                fits.append({"against": spacing, "settings": group.settings, "order": orders})
    return fits


def fit_pooled(members: Sequence[Observation], spacing: str, score: str) -> dict[str, Any] | None:
    """The common slope of lines with one intercept per seed, log e = c_seed + p log h, by least squares.

    Returns
    -------
    {"slope": p, "ci": its 95 % confidence interval (Student t) or None, "n": points, "seeds": lines}; None where
    there is no order to fit: fewer than two spacings, or a score that is not positive.
    """
    from scipy.special import stdtrit

    of_seed: dict[int, list[tuple[float, float]]] = {}
    for each in members:
        if score in each.values and np.isfinite(each.values[score]):
            of_seed.setdefault(each.seed, []).append((each.settings[spacing], each.values[score]))
    points = [pair for pairs in of_seed.values() for pair in pairs]
    if any(min(pair) <= 0 for pair in points):
        return None
    centred = [np.log(pairs) - np.mean(np.log(pairs), axis=0) for pairs in of_seed.values()]
    x, y = np.concatenate(centred).T if centred else np.zeros((2, 0))
    spread = float(x @ x)
    if spread < 1e-12:  # every seed has one spacing only
        return None
    slope, freedom, ci = float(x @ y) / spread, len(points) - len(of_seed) - 1, None
    if freedom > 0:
        error = float(np.sqrt(np.sum((y - slope * x) ** 2) / freedom / spread))
        reach = float(stdtrit(freedom, 0.975)) * error
        ci = [slope - reach, slope + reach]
    return {"slope": slope, "ci": ci, "n": len(points), "seeds": len(of_seed)}


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def toml_text(value: Any) -> str:
    """A value as text, equal for equal numbers: settings may be lists or tables."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {toml_text(entry)}" for key, entry in value.items())
    return toml_value(float(value)) if is_number(value) else "" if value is None else toml_value(value)
