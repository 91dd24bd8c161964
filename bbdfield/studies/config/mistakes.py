"""Saying what is wrong with a configuration, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from bbdfield._text import visible
from bbdfield.errors import InputError
from bbdfield.studies.config.toml import BARE_KEY
from bbdfield.studies.config.values import LATER_KEYS, MOMENTUM, show


def one_line(where: str, problems: Sequence[str]) -> InputError:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return InputError(visible(f"{where}: {problems[0]}{more}", keep=""))


def key_of(names: Sequence[Any]) -> str:
    shown = [name if BARE_KEY.fullmatch(name) and len(name) <= 60 else show(name) for name in map(str, names)]
    return ".".join(shown)


def _known_keys(model: type[BaseModel], section: Sequence[Any]) -> list[str]:
    """Names of the keys of a section."""
    for name in section:
        if isinstance(name, int):  # one of several tables
            continue
        inner = model.model_fields[name].annotation
        inner = inner if isinstance(inner, type) else get_args(inner)[0]
        assert isinstance(inner, type) and issubclass(inner, BaseModel)
        model = inner
    return list(model.model_fields)


def explain(model: type[BaseModel], detail: Mapping[str, Any]) -> str:
    """'lattice.depth: needs ...' from one of pydantic's error records."""
    loc = detail["loc"]
    key, kind = key_of(loc), detail["type"]
    if kind == "value_error":
        return f"{key}: {detail['ctx']['error']}"
    if kind == "missing":
        return f"{key}: is missing; add {EXAMPLES.get(key, 'it')}"
    if kind == "extra_forbidden":
        if key == "training.momentum":
            return f"{key}: unknown key; {MOMENTUM}"
        if key in LATER_KEYS:
            return f"{key}: does not exist yet; remove it"
        known = _known_keys(model, loc[:-1])
        close = difflib.get_close_matches(str(loc[-1])[:40], known, n=1)
        remedy = f"did you mean {key_of([*loc[:-1], *close])}?" if close else f"known are {', '.join(known)}"
        return f"{key}: unknown key; {remedy}"
    return f"{key or 'configuration'}: needs a table of keys (got {show(detail['input'])})"


EXAMPLES = {
    "kind": 'kind = "continuum"',
    "lattice": "a section [lattice] with depth, width, channels and radius",
    "lattice.depth": "a number of layers, or a list of them as the ladder",
    "lattice.width": "a number of cells, or a list of them as the ladder",
    "lattice.channels": "a number of channels",
    "lattice.radius": 'the kernel radius, such as "11/80"',
    "training": "a section [training] with steps, batch and rates",
    "training.steps": "the number of training steps",
    "training.batch": "the number of samples in a minibatch",
    "training.rates": "rates = { w = ..., b = ..., r = ... }",
    "training.rates.w": "the rate of the weights",
    "training.rates.b": "the rate of the biases",
    "training.rates.r": "the rate of the readout (0 keeps it fixed)",
}
