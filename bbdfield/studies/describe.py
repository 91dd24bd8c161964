"""What a study did and found, in words and tables: one description for the report and for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bbdfield.errors import InputError
from bbdfield.model.ranges import RANGES

#: A number is formatted where it is shown; None is what was not measured.
Cell = str | int | float | None

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Table:
    """A table of plain text and numbers.

    title : short; it stands alone in the terminal.   note : what else the report's caption says.
    A second line of a cell ("2.00\\n1.98, 2.01") is shown smaller.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"table {self.title!r}: a row of {len(row)} cells under {len(self.head)} columns")


@dataclass(frozen=True)
class Description:
    """summary : what was done.   tables : the numbers.   message : what they say, in a sentence or two."""

    summary: str
    tables: Sequence[Table] = field(default_factory=list)
    message: str = ""


# numbers


def measured(value: Any) -> float | int | None:
    """The value if it is a number, or None; TypeError for anything else, such as text in a damaged scores.json."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} where a number belongs")
    return value


def number(value: Any, digits: int = 3) -> str:
    """A number in words that are read, or a dash for none; small and large ones as 1.23·10⁻⁴."""
    value = measured(value)
    if value is None:
        return "–"
    if isinstance(value, int):
        return str(value)
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}·10{str(int(exponent)).translate(_SUPERSCRIPTS)}".replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


def decimal(value: Any) -> str:
    """A number with two decimals, as orders are given."""
    given = measured(value)
    return "–" if given is None else f"{given:.2f}".replace("-", "−")


def percent(value: Any) -> str:
    given = measured(value)
    return "–" if given is None else f"{100 * given:.1f} %"


def listed(values: Any) -> str:
    """16, 32 and 64."""
    if not isinstance(values, Iterable) or isinstance(values, str):
        return str(values)
    texts = [str(value) for value in values]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


# the configuration in words


def at(config: Mapping[str, Any], section: str, key: str) -> Any:
    """config[section][key] of a resolved configuration."""
    try:
        return config[section][key]
    except (KeyError, TypeError) as error:
        raise InputError(f"config.toml: {section}.{key} is missing; run the study again") from error


def training_law(config: Mapping[str, Any]) -> str:
    """How the networks were trained: "minibatch gradient descent, 100 steps of τ = 0.25, 32 samples each"."""
    dynamics, batch, step = (at(config, "training", key) for key in ("dynamics", "batch", "step"))
    steps = f"{at(config, 'training', 'steps')} steps of τ = {step}"
    if dynamics == "adaptive-flow":
        return f"the gradient flow on {batch} samples with error control, {steps}"
    if dynamics == "flow":
        return f"the gradient flow on {batch} samples, {steps}"
    if dynamics == "sgd":
        return f"minibatch gradient descent, {steps}, {batch} samples each"
    damping = at(config, "training", "damping")
    kind = "heavy-ball gradient descent" if dynamics == "heavy-ball" else "second-order motion by the leapfrog"
    momentum = number(math.exp(-damping * step))
    return f"{kind} with damping γ = {damping} (momentum {momentum}), {steps}, {batch} samples each"


#: what an error that does not fall means for the plain scaling
NO_LIMIT = (
    "A plain network away from criticality has no field: signals and gradients live in layers of thickness ~ a_x next"
    " to the boundaries, so the largest error of ẑ and the errors of ŵ and b̂ relative to their movement do not fall"
    " with a_x (the L2 norm of ẑ's error falls as √a_x only because these layers become thin)."
)


def network(config: Mapping[str, Any]) -> str:
    """Which networks were trained on what and how, as one sentence."""

    def of(key: str) -> Any:
        return at(config, "lattice", key)

    table = config.get("data")
    data = table.get("name") or Path(str(table.get("file"))).name if isinstance(table, dict) else "its data"
    depth, width = of("depth"), of("width")
    table = config.get("lattice")
    given = table if isinstance(table, dict) else {}
    kind, scaling = str(given.get("range", "kernel")), str(given.get("scaling", "residual"))
    known = RANGES.get(kind)
    weights = f"{kind} weights" if known is None else known.words.format(of(known.key))
    named = {"critical": "plain network at criticality", "plain": "plain network"}.get(scaling, f"{scaling} network")
    several = any(isinstance(size, Sequence) and len(size) > 1 for size in (depth, width))
    return (
        f"{named.replace('network', 'networks').capitalize() if several else f'A {named}'} with {listed(depth)} layers"
        f" of {listed(width)} cells, {of('channels')} channels and {of('weights')} {weights} (activation"
        f" {of('activation')}, padding {of('padding')}) {'were' if several else 'was'}"
        f" trained on {data} with the {of('loss')} loss by {training_law(config)}."
    )
