"""The figures of a sweep, from its rows: errors against spacings, scores against a key, maps over two keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bbdfield import files
from bbdfield.plotting.style import fraction, save
from bbdfield.plotting.sweep import Curve, Map, figure_curves, figure_heat, label, plain
from bbdfield.sweeps.describe import settings_text, value_text
from bbdfield.sweeps.groups import (
    Observation,
    canonical,
    distinct,
    fit_pooled,
    grouped,
    is_number,
    main_scores,
    observations,
    toml_text,
    varying,
)
from bbdfield.sweeps.index import Row
from bbdfield.sweeps.plan import SPACINGS, Sweep

#: panels side by side, maps of default pairs, and what is shown in maps
MOST_COLUMNS, MOST_HEAT = 4, 9
MOST_PLACES = 60


def draw(sweep: Sweep, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write figures/*.png."""
    found = observations(rows)
    scores = main_scores(str(sweep.base["kind"]), sweep.scores, found)
    written = []
    for name, figure in figures(sweep, found, scores):
        files.make_directory(folder)
        written.append(save(figure, folder / f"{name}.png"))
    return written


def figures(sweep: Sweep, found: Sequence[Observation], scores: Sequence[str]) -> Iterator[tuple[str, Figure]]:
    """(name, figure): all that the settings of the sweep allow."""
    if not scores:
        return
    keys, continuum = varying(found), sweep.base["kind"] == "continuum"
    axes = [key for key in keys if len(distinct(found, key)) > 1]
    spacings = [key for key in SPACINGS if continuum and len(_places(found, key)) > 1]
    for spacing in spacings:
        curves = {score: list(_curves(found, keys, spacing, score)) for score in scores}
        yield f"error-{spacing}", figure_curves(curves, spacing, title=_scaling(curves, spacing))
    key = next((key for key in axes if is_number(distinct(found, key)[0])), axes[0] if axes else None)
    if not spacings and key is not None and len(_places(found, key)) <= MOST_PLACES:
        yield "scores", _scores_figure(found, keys, key, scores)
    for number, (x, y) in enumerate(_pairs(sweep, axes), 1):
        yield f"heat-{number}", _heat(found, keys, x, y, scores)


def _places(found: Sequence[Observation], key: str) -> list[Any]:
    return distinct([each for each in found if each.values], key)


def _pairs(sweep: Sweep, keys: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs that the file names, or the first two swept keys that vary; the order of a theory stands in columns."""
    kind = str(sweep.base["kind"])
    named = [(canonical(x, kind), canonical(y, kind)) for x, y in sweep.heat]
    if named:
        return [(x, y) for x, y in named if x in keys and y in keys and x != y][:MOST_HEAT]
    swept = dict.fromkeys(canonical(key, kind) for key in sweep.keys)
    usable = [key for key in swept if key in keys]
    usable = [key for key in usable if key != "order"] if len(usable) > 2 else usable
    return [(usable[0], usable[1])] if len(usable) > 1 else []


# scores against a key


def _curves(
    found: Sequence[Observation], keys: Sequence[str], along: str, score: str, places: Sequence[Any] | None = None
) -> Iterator[Curve]:
    """One curve per combination of the other settings; `places` are the values of a key that is no number."""
    others = [key for key in keys if key != along]
    family = "order" if "order" in others else others[0] if others else None
    there = [each for each in found if each.values and each.settings.get(along) is not None]
    for group in grouped(there, without=[along]):
        at = {toml_text(value): value for value in distinct(group.members, along)}
        values: dict[str, list[float]] = {text: [] for text in at}
        for each in group.members:
            value = each.values.get(score, np.nan)
            if np.isfinite(value):
                values[toml_text(each.settings[along])].append(value)
        order = group.settings.get("order")
        order = order if along in SPACINGS and isinstance(order, int) else None
        fit = fit_pooled(group.members, along, score) if along in SPACINGS and places is None else None
        rest = {key: group.settings.get(key) for key in others if key != family}
        yield Curve(
            family="" if family is None else _brief({family: group.settings.get(family)}, keys),
            rest=_brief(rest, keys),
            x=[places.index(text) if places is not None else at[text] for text in at],
            values=list(values.values()),
            slope=None if fit is None else fit["slope"],
            expected=None if order is None else order + 1 if along == "a_x" else 2,
            order=order if family in ("order", None) else None,
        )


def _brief(settings: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Settings with the last part of each key, where that tells it from the others: padding = zeros."""
    ends = Counter(key.rpartition(".")[2] for key in keys)
    names = {key: end if ends[end := key.rpartition(".")[2]] == 1 else key for key in settings}
    return settings_text({names[key]: value for key, value in settings.items()}).replace("order = ", "order ")


def _scores_figure(found: Sequence[Observation], keys: Sequence[str], key: str, scores: Sequence[str]) -> Figure:
    values = distinct(found, key)
    numbers = all(map(is_number, values))
    places = None if numbers else [toml_text(value) for value in values]
    curves = {score: list(_curves(found, keys, key, score, places)) for score in scores}
    ticks = None if numbers else [value_text(key, value) for value in values]
    title = _change(found, key, scores[0])
    return figure_curves(curves, key, ticks=ticks, title=title)


def _scaling(curves: Mapping[str, Sequence[Curve]], spacing: str) -> str:
    """The message: which powers of the spacing the first score follows."""
    score = next(iter(curves))
    symbol = f"{spacing[0]}_{spacing[2]}"
    powers: dict[str, list[float]] = {}
    for curve in curves[score]:
        if curve.slope is not None:
            powers.setdefault(curve.family if curve.order is not None else "", []).append(curve.slope)
    parts = []
    for family, slopes in powers.items():
        low, high = (f"${symbol}^{{{value:.2f}}}$" for value in (min(slopes), max(slopes)))
        at = f" at {plain(family)}" if len(powers) > 1 else ""
        parts.append((low if low == high else f"{low} to {high}") + at)
    what = label(score)
    if not parts:
        return f"The {what} against ${symbol}$"
    return f"The {what} scales as {' and as '.join(parts)}"


def _change(found: Sequence[Observation], key: str, score: str) -> str:
    """The message: from what to what the first score goes along the key."""
    there = [each for each in found if each.values]
    groups = [(group.settings[key], group.values(score)) for group in grouped(there, without=_all_but(there, key))]
    means = [(value, float(np.mean(values))) for value, values in groups if values and value is not None]
    if len(means) < 2:
        return f"{label(score)} against {label(key)}"
    ends = [min(means, key=lambda pair: pair[1]), max(means, key=lambda pair: pair[1])]
    low, high = (f"{_number(mean)} at {plain(settings_text({key: value}))}" for value, mean in ends)
    return f"Mean {label(score)}: from {low} to {high}"


def _all_but(found: Sequence[Observation], key: str) -> list[str]:
    return [other for other in dict.fromkeys(k for each in found for k in each.settings) if other != key]


# maps


def _heat(found: Sequence[Observation], keys: Sequence[str], x: str, y: str, scores: Sequence[str]) -> Figure:
    """Maps over two keys, at most a few combinations of what else varies."""
    places = {key: distinct(found, key) for key in (x, y)}
    others = [key for key in keys if key not in (x, y)]
    columns = _columns(found, others)
    maps = {score: [_map(found, x, y, places, column, score) for column in columns[:MOST_COLUMNS]] for score in scores}
    best = max(columns, key=lambda column: "order" in column and is_number(column["order"]) and column["order"])
    title = _extremes(_map(found, x, y, places, best, scores[0]), places, x, y, scores[0], best)
    if len(columns) > MOST_COLUMNS:
        title += f"\n(the first {MOST_COLUMNS} of {len(columns)} combinations of {plain(', '.join(others))})"
    names = {key: [value_text(key, value) for value in values] for key, values in places.items()}
    return figure_heat(maps, (x, names[x]), (y, names[y]), title=title)


def _columns(found: Sequence[Observation], others: Sequence[str]) -> list[dict[str, Any]]:
    """Combinations of what else varies, of points that finished."""
    combinations = {}
    for each in found:
        if each.values:
            column = {key: each.settings.get(key) for key in others}
            combinations[toml_text(column)] = column
    return list(combinations.values())


def _map(
    found: Sequence[Observation],
    x: str,
    y: str,
    places: Mapping[str, Sequence[Any]],
    column: Mapping[str, Any],
    score: str,
) -> Map:
    """Means over seeds, geometric if all values are positive and span decades."""
    across, up = ({toml_text(value): k for k, value in enumerate(places[key])} for key in (x, y))
    cells: list[list[list[float]]] = [[[] for _ in across] for _ in up]
    planned = np.zeros((len(up), len(across)), int)
    for each in found:
        settings = each.settings
        # what a failed run says nothing of, such as the orders it was to compute, it would have had
        inside = all(
            key not in settings or toml_text(settings[key]) == toml_text(value) for key, value in column.items()
        )
        i, j = up.get(toml_text(settings.get(y))), across.get(toml_text(settings.get(x)))
        if not inside or i is None or j is None:
            continue
        planned[i, j] += 1
        value = each.values.get(score, np.nan)
        if np.isfinite(value):
            cells[i][j].append(value)
    every = np.array([value for line in cells for cell in line for value in cell])
    geometric = every.size > 0 and every.min() > 0
    means = [[_mean(cell, geometric) for cell in line] for line in cells]
    finished = np.array([[len(cell) for cell in line] for line in cells])
    return Map(_brief(column, list(column)), np.array(means), finished, planned)


def _mean(values: Sequence[float], geometric: bool) -> float:
    if not values:
        return float("nan")
    return float(np.exp(np.mean(np.log(values)))) if geometric else float(np.mean(values))


def _extremes(
    cells: Map, places: Mapping[str, Sequence[Any]], x: str, y: str, score: str, column: Mapping[str, Any]
) -> str:
    """The message: where the score is smallest and where it is largest."""
    if not np.isfinite(cells.values).any():
        return ""
    told = []
    for index in (np.nanargmin(cells.values), np.nanargmax(cells.values)):
        i, j = divmod(int(index), cells.values.shape[1])
        where = plain(settings_text({x: places[x][j], y: places[y][i]}))
        told.append(f"{_number(float(cells.values[i, j]), score)} at {where}")
    at = f", {plain(cells.title)}" if column else ""
    what = label(score)
    what = what if what == plain(score) else f"{what[:1].upper()}{what[1:]}"
    return f"{what}{at}:\n{told[0]}, to\n{told[1]}"


def _number(value: float, score: str = "") -> str:
    return fraction(value) if score.startswith(("error.", "max_error.")) else f"{value:.3g}".replace("-", "−")
