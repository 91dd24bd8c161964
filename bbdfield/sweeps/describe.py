"""What a sweep found, in words and tables: for the report and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bbdfield.studies.describe import Cell, Description, Table, decimal, listed, measured, number
from bbdfield.sweeps.groups import toml_text
from bbdfield.sweeps.plan import SPACINGS

#: rows of a table in the report; the files have all
MOST_ROWS = 40
NAMES = {"error.z": "ẑ", "error.w": "ŵ", "error.b": "b̂", "error.loss": "loss"}
_BARS = "Where there are several seeds, points are means over them and bars go from the smallest to the largest value."
_MEANS = " On logarithmic axes means are geometric."
CAPTIONS = {
    "error-a_x": "Relative L2 error of the field theory over all stored times against the lattice spacing in depth."
    f" {_BARS}{_MEANS} Lines are fits with one intercept per seed; triangles show the slope that theory expects.",
    "error-a_y": "Relative L2 error of the field theory over all stored times against the lattice spacing in width."
    f" {_BARS}{_MEANS} Lines are fits with one intercept per seed.",
    "scores": f"Scores against the first swept key that is a number. {_BARS}{_MEANS}",
    **{
        f"heat-{number}": "Scores over two swept keys, means over seeds (geometric where all values are positive)."
        " Grey hatched cells failed; n/m: n of m points finished; white cells are no points of the sweep."
        for number in range(1, 10)
    },
}

Failures = Sequence[tuple[str, str]]


def describe(scores: Mapping[str, Any], failures: Failures) -> Description:
    """From the content of scores.json, and (settings, reason) of the failed points."""
    counts, swept = scores["counts"], scores["swept"]
    values = listed([f"{key} ({count} value{'s' if count != 1 else ''})" for key, count in swept.items()])
    stand = [f"{counts['finished']} finished"]
    stand += [f"{counts[key]} {key}" for key in ("failed", "unfinished") if counts[key]]
    summary = f'{counts["points"]} runs of kind "{scores["points_kind"]}" over {values}: {", ".join(stand)}.'
    tables = [_orders(scores["fitted_orders"])] if scores["fitted_orders"] else []
    if scores["groups"]:
        tables.append(_groups(scores["groups"], scores["main_scores"], swept))
    if failures:
        tables.append(_failed(failures))
    return Description(summary, tables, _message(scores["fitted_orders"]))


def settings_text(settings: Mapping[str, Any]) -> str:
    """a_x = 1/16, initial.weight = 2."""
    shown = (f"{key} = {value_text(key, value)}" for key, value in settings.items() if value is not None)
    return ", ".join(shown)


def value_text(key: str, value: Any) -> str:
    """A value as people write it: 1/16 rather than 0.0625 for a spacing, 2 rather than 2.0."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if key in SPACINGS and value and abs(round(1 / value) * value - 1) < 1e-9:
            return f"1/{round(1 / value)}"
        return str(value) if isinstance(value, int) else f"{value:.6g}"
    text = value if isinstance(value, str) else toml_text(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _message(fits: Sequence[Mapping[str, Any]]) -> str:
    """The range of slopes of ẑ for every order and spacing."""
    slopes: dict[tuple[str, Any], list[float]] = {}
    for fit in fits:
        slope = measured((fit["order"].get("error.z") or {}).get("slope"))
        if slope is not None:
            slopes.setdefault((fit["against"], fit["settings"].get("order")), []).append(slope)
    if not slopes:
        return ""
    parts = [
        f"{against}^{decimal(min(found))}"
        + (f" to {against}^{decimal(max(found))}" if len(found) > 1 else "")
        + ("" if order is None else f" at order {order}")
        for (against, order), found in slopes.items()
    ]
    return f"The error of ẑ scales as {listed(parts)}."


def _orders(fits: Sequence[Mapping[str, Any]]) -> Table:
    names = list(dict.fromkeys(score for fit in fits for score in fit["order"]))
    rows: list[list[Cell]] = []
    same = _same([fit["settings"] for fit in fits])
    for fit in fits[:MOST_ROWS]:
        row: list[Cell] = [str(fit["against"]), _without(fit["settings"], same)]
        for name in names:
            found = fit["order"].get(name)
            ci = found and found["ci"]
            row.append(
                "–" if not found else decimal(found["slope"]) + (f"\n{decimal(ci[0])}, {decimal(ci[1])}" if ci else "")
            )
        rows.append(row)
    note = f"all seeds together, one intercept each; beneath, the 95 % confidence interval{_more(fits)}"
    return Table(
        "Fitted orders of convergence", ["in", "settings", *(NAMES.get(name, name) for name in names)], rows, note
    )


def _groups(groups: Sequence[Mapping[str, Any]], scores: Sequence[str], swept: Mapping[str, int]) -> Table:
    rows: list[list[Cell]] = []
    # what has one value only because the points with others failed is named
    same = {key for key in _same([group["settings"] for group in groups]) if swept.get(key, 1) < 2}
    for group in groups[:MOST_ROWS]:
        found = [group["scores"][score] for score in scores]
        row: list[Cell] = [_without(group["settings"], same), max(each["n"] for each in found)]
        for each in found:
            spread = "" if each["std"] is None else f"\n± {number(each['std'], 2)}"
            row.append(f"{number(each['mean'])}{spread}")
        rows.append(row)
    note = f"mean and standard deviation over seeds{_more(groups)}"
    return Table("Scores", ["settings", "seeds", *(NAMES.get(score, score) for score in scores)], rows, note)


def _failed(failures: Failures) -> Table:
    rows: list[list[Cell]] = [[settings, reason] for settings, reason in failures[:MOST_ROWS]]
    return Table("Failed points", ["settings", "reason"], rows, f"tried again by --retry-failed{_more(failures)}")


def _same(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """Keys that have one value in all of several settings."""
    values: dict[str, set[str]] = {}
    for each in settings:
        for key, value in each.items():
            values.setdefault(key, set()).add(toml_text(value))
    return {key for key, found in values.items() if len(found) < 2}


def _without(settings: Mapping[str, Any], same: set[str]) -> str:
    return settings_text({key: value for key, value in settings.items() if key not in same}) or "all"


def _more(entries: Sequence[Any]) -> str:
    return f"; the first {MOST_ROWS} of {len(entries)}, sweep.csv has all" if len(entries) > MOST_ROWS else ""
