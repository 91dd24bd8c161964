"""The configuration of a study: one TOML file, checked to the last key before anything is computed or written.

    kind = "continuum"
    seed = 1

    [lattice]
    depth = [16, 32, 64, 128]       # the ladder; depth or width may be a list
    width = 40
    channels = 8
    radius = "11/80"

    [training]
    steps = 100
    batch = 32
    step = 0.25
    rates = { w = 7.27, b = 0.1, r = 0.5 }

Every other key has a default, and `StudyConfig.to_toml` writes all of them out. Every mistake is reported as one line,
``FILE.toml: lattice.depth: needs a whole number >= 1 (got -3)``, whatever the mistake is.
"""

from __future__ import annotations

import difflib
import itertools
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, create_model, model_validator

from bbdfield._text import visible
from bbdfield.datasets import SHIPPED, Dataset, load_dataset, on_cells
from bbdfield.errors import InputError
from bbdfield.fields.well_posedness import REMEDIES, STENCIL
from bbdfield.model.activations import activation_names
from bbdfield.model.architecture import DAMPED, DYNAMICS, FULL_BATCH, TOLERANCE, Lattice, Rates, Training
from bbdfield.model.initial import InitialFields
from bbdfield.model.losses import loss_names, prepare_targets
from bbdfield.model.random_functions import cosine_amplitudes
from bbdfield.model.ranges import RANGES, Kernel, Range, Taps
from bbdfield.model.scalings import SCALINGS, Critical
from solvers.backends import BACKENDS, PRECISIONS
from solvers.grids import Grid
from solvers.padding import PADDINGS
from solvers.stencils import FIRST as STENCILS
from solvers.sweeps import SCHEMES

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
#: no configuration is longer, and a larger file is something else
MOST_BYTES = 2**24
MOST_NUMBERS = 2**37

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


# ---- values, each with what it needs in words


def _show(value: Any) -> str:
    """The value as one short line; also for what has no representation."""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of many thousand digits; a table nested a thousand deep
        text = f"a {type(value).__name__} that is too large to print"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse(needs: str, value: Any) -> ValueError:
    return ValueError(f"needs {needs} (got {_show(value)})")


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _range(least: int, most: int) -> str:
    return f"a whole number >= {least}" if most >= 2**31 else f"a whole number from {least} to {most}"


def _whole(least: int, most: int = 2**31) -> PlainValidator:
    def check(value: Any) -> int:
        if not _is_whole(value, least, most):
            raise _refuse(_range(least, most), value)
        return int(value)

    return PlainValidator(check)


def _number(accept: Callable[[float], bool], needs: str) -> PlainValidator:
    """A finite float (or a whole number taken as one) that `accept` accepts."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _refuse(needs, value)
        try:
            number = float(value)
        except OverflowError:
            raise _refuse(f"{needs} below 1e308", value) from None
        if number != value and value == value:  # else config.toml would not echo what was given
            raise _refuse(f"{needs}, which a float of 64 bits holds exactly", value)
        if not math.isfinite(number) or not accept(number):
            raise _refuse(needs, value)
        return number

    return PlainValidator(check)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _refuse("a string", value)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _refuse("text that is valid UTF-8", value) from None
    return value


def _file(value: Any) -> str:
    text = _text(value)
    if not text or "\0" in text:
        raise _refuse("the name of a file", value)
    return text


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refuse("true or false", value)
    return value


def _choice(known: Callable[[], Sequence[str]] | Sequence[str], key: str = "") -> PlainValidator:
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
        raise _refuse(f"one of {listed}" if len(names) > 1 else listed, value)

    return PlainValidator(check)


def _sizes(value: Any) -> int | tuple[int, ...]:
    """One size, or a ladder of increasing sizes."""
    if _is_whole(value, 1, MOST_CELLS):
        return int(value)
    needs = f"a whole number from 1 to {MOST_CELLS}, or an increasing list of them"
    if not isinstance(value, (list, tuple)) or not value or not all(_is_whole(v, 1, MOST_CELLS) for v in value):
        raise _refuse(needs, value)
    if any(b <= a for a, b in itertools.pairwise(value)):
        raise _refuse("its sizes in increasing order, each once", list(value))
    return tuple(value)


def _of_range(kind: type[Range]) -> PlainValidator:
    """The key of a range."""

    def check(value: Any) -> Any:
        try:
            return kind.read(value)
        except (InputError, ValueError, OverflowError, TypeError):
            raise _refuse(kind.needs, value) from None

    return PlainValidator(check)


def _cells(value: Any) -> int | str:
    if value == "lattice" or _is_whole(value, 1, MOST_CELLS):
        return value
    raise _refuse(f'a whole number from 1 to {MOST_CELLS}, or "lattice"', value)


def _each_of(known: Sequence[str]) -> PlainValidator:
    """A list of different names."""
    listed = ", ".join(f'"{name}"' for name in known)

    def check(value: Any) -> tuple[str, ...]:
        if not isinstance(value, (list, tuple)) or not value or not all(entry in known for entry in value):
            raise _refuse(f"a list out of {listed}", value)
        if len(set(value)) != len(value):
            raise _refuse("each name once", list(value))
        return tuple(value)

    return PlainValidator(check)


def _width_orders(value: Any) -> tuple[int, ...]:
    if (
        not isinstance(value, (list, tuple))
        or not all(_is_whole(v, 0, 2) for v in value)
        or len(set(value)) < len(value)
    ):
        raise _refuse("a list of different width orders out of 0, 1, 2", value)
    return tuple(value)


def _table(value: Any) -> dict[str, Any]:
    """Keys of a section, which are checked where they are used."""
    if not isinstance(value, Mapping):
        raise _refuse("a table of keys", value)
    return dict(value)


def _stencil(value: Any) -> int:
    if not _is_whole(value, 2, 6) or value not in STENCILS:
        raise _refuse(f"one of the accuracies {', '.join(map(str, STENCILS))}", value)
    return int(value)


def _orders(value: Any) -> tuple[int, ...]:
    needs = f"a list of different orders out of {', '.join(map(str, ORDERS))}"
    if not isinstance(value, (list, tuple)) or not value:
        raise _refuse(needs, value)
    if not all(_is_whole(order, min(ORDERS), max(ORDERS)) for order in value) or len(set(value)) != len(value):
        raise _refuse(needs, value)
    return tuple(value)


def _numbers(value: Any) -> tuple[float, ...]:
    """One number per tap or moment."""
    numbers = isinstance(value, (list, tuple)) and value and len(value) <= 1001
    if not numbers or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value):
        raise _refuse("a list of numbers", value)
    if not all(abs(v) <= 1e6 for v in value):
        raise _refuse("a list of numbers up to 1e6 in size", value)
    return tuple(map(float, value))


def _increasing(what: str, least: float, most: float, needs: str) -> PlainValidator:
    """An increasing list of numbers in a range."""

    def check(value: Any) -> tuple[float, ...]:
        if not isinstance(value, (list, tuple)) or not value:
            raise _refuse(needs, value)
        if not all(isinstance(n, (int, float)) and not isinstance(n, bool) and least <= n <= most for n in value):
            raise _refuse(needs, list(value))
        if any(b <= a for a, b in itertools.pairwise(value)):
            raise _refuse(f"its {what} in increasing order, each once", list(value))
        return tuple(map(float, value))

    return PlainValidator(check)


def _window(value: Any) -> tuple[int, int]:
    whole = isinstance(value, (list, tuple)) and len(value) == 2 and all(_is_whole(v, 1, MOST_CELLS) for v in value)
    if not whole or value[1] <= value[0]:
        raise _refuse("two layers [first, last] with 1 <= first < last", value)
    return value[0], value[1]


def _is_variance(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1000


def _variances(value: Any) -> tuple[tuple[float, float], ...]:
    needs = "a list of pairs [σ_w², σ_b²] of numbers from 0 to 1000"
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(v, (list, tuple)) for v in value):
        raise _refuse(needs, value)
    if not all(len(pair) == 2 and all(map(_is_variance, pair)) and pair[0] > 0 for pair in value):
        raise _refuse(f"{needs}, the first > 0", value)
    return tuple((float(weight), float(bias)) for weight, bias in value)


def _biases(value: Any) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or not value or not all(map(_is_variance, value)):
        raise _refuse("a list of variances σ_b², numbers from 0 to 1000", value)
    return tuple(map(float, value))


def _layer_widths(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not value or not all(_is_whole(v, 1, 100_000) for v in value):
        raise _refuse("a list of widths, whole numbers from 1 to 100000", value)
    return tuple(value)


def _nonnegative(x: float) -> bool:
    return x >= 0


def _positive(x: float) -> bool:
    return x > 0


_AMPLITUDE = _number(_nonnegative, "a number >= 0")
_LENGTH = _number(lambda x: x == 0 or 1e-3 <= x <= 1e3, "a length from 0.001 to 1000, or 0 for independent values")
_NUMBERS = PlainValidator(_numbers)
_BREAKINGS = _increasing("sizes", 1e-8, 1.0, "an increasing list of sizes ε with 1e-8 <= ε <= 1")
_MULTIPLES = _increasing("numbers", 0.0, 1000.0, "an increasing list of numbers from 0 to 1000")
_KAPPA = _number(lambda x: 0 < x <= MOST_KAPPA, f"a number > 0, at most {MOST_KAPPA:g}")
_ORDERS = PlainValidator(_orders)
_SIZES = PlainValidator(_sizes)
_OPTIONAL_POSITIVE = _number(_positive, "a number > 0")
_CELLS = PlainValidator(_cells)
_FLAG = PlainValidator(_flag)


# ---- sections


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSection(_Section):
    """[data] a shipped set by its `name`, or the user's own `file` (relative to the TOML's folder)."""

    name: Annotated[str | None, _choice(tuple(SHIPPED))] = None
    file: Annotated[str | None, PlainValidator(_file)] = None

    @model_validator(mode="before")
    @classmethod
    def _one_of_them(cls, table: Any) -> Any:
        if isinstance(table, Mapping) and "name" in table and "file" in table:
            raise ValueError("has both name and file; give the one or the other")
        if isinstance(table, Mapping) and not ("name" in table or "file" in table):
            return {**table, "name": "mnist1d"}
        return table


class _LatticeKeys(_Section):
    """[lattice] the network; one of depth and width may be a ladder of sizes.

    Each range has a key of its own (radius of kernels, taps of taps, length of derivatives); kappa is of the critical
    scaling.
    """

    depth: Annotated[int | tuple[int, ...], _SIZES]
    width: Annotated[int | tuple[int, ...], _SIZES]
    channels: Annotated[int, _whole(1, 100_000)]
    scaling: Annotated[str, _choice(tuple(SCALINGS))] = "residual"
    kappa: Annotated[float | None, _KAPPA] = None
    range: Annotated[str, _choice(tuple(RANGES))] = "kernel"
    weights: Annotated[str, _choice(("tied", "untied"))] = "tied"
    padding: Annotated[str, _choice(PADDINGS)] = "zeros"
    activation: Annotated[str, _choice(activation_names)] = "tanh"
    loss: Annotated[str, _choice(loss_names)] = "cross-entropy"
    readout_modes: Annotated[int, _whole(1, MOST_CELLS)] = 6

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, table: Any) -> Any:
        """What the range and the scaling need and was not given."""
        if not isinstance(table, Mapping):
            return table
        given: dict[str, Any] = {"kappa": Critical.kappa} if table.get("scaling") == Critical.name else {}
        kind = RANGES.get(table.get("range", "kernel")) if isinstance(table.get("range", ""), str) else None
        if kind is not None and kind.default() is not None:
            given[kind.key] = kind.default()
        return {**given, **table}


if TYPE_CHECKING:

    class LatticeSection(_LatticeKeys): ...

else:
    LatticeSection = create_model(
        "LatticeSection",
        __base__=_LatticeKeys,
        **{kind.key: (Annotated[Any, _of_range(kind)], None) for kind in RANGES.values()},
    )


class InitialSection(_Section):
    """[initial] amplitudes and correlation lengths of the random initial fields, see `InitialFields`."""

    weight: Annotated[float, _AMPLITUDE] = 3.0
    bias: Annotated[float, _AMPLITUDE] = 0.0
    readout: Annotated[float, _AMPLITUDE] = 1.0
    correlation_x: Annotated[float, _LENGTH] = 0.3
    correlation_u: Annotated[float, _LENGTH] = 0.1
    correlation_y: Annotated[float, _LENGTH] = 0.3
    mean: Annotated[tuple[float, ...] | None, _NUMBERS] = None
    spread: Annotated[tuple[float, ...] | None, _NUMBERS] = None


class RatesSection(_Section):
    """training.rates: η̂ of weights, biases and readout."""

    w: Annotated[float, _AMPLITUDE]
    b: Annotated[float, _AMPLITUDE]
    r: Annotated[float, _AMPLITUDE]


class TrainingSection(_Section):
    """[training] the training law, the same for lattice and field, see `Training`.

    backend, precision, checkpoint : how the lattice is computed; layers between kept z (0: all are kept).
    """

    steps: Annotated[int, _whole(1)]
    batch: Annotated[int, _whole(1)]
    step: Annotated[float, _number(_positive, "a number > 0")] = 1.0
    rates: RatesSection
    dynamics: Annotated[str, _choice(DYNAMICS)] = "sgd"
    damping: Annotated[float | None, _OPTIONAL_POSITIVE] = None
    tolerance: Annotated[float | None, _number(lambda x: 1e-13 <= x < 1, "a number from 1e-13 to 1")] = None
    snapshot_every: Annotated[int, _whole(1)] = 10
    probe: Annotated[int, _whole(1)] = 16
    evaluate: Annotated[int, _whole(0)] = 1000
    optimizer: Annotated[str, _choice(("sgd",), "training.optimizer")] = "sgd"
    backend: Annotated[str, _choice(("auto", "numpy", "numba"))] = "auto"
    precision: Annotated[str, _choice(PRECISIONS)] = "float64"
    checkpoint: Annotated[int, _whole(0, MOST_CELLS)] = 0

    def machine(self) -> dict[str, Any]:
        """How the lattice is computed: options of `train`."""
        return {"backend": self.backend, "precision": self.precision, "checkpoint": self.checkpoint}

    @model_validator(mode="before")
    @classmethod
    def _default_tolerance(cls, table: Any) -> Any:
        adaptive = isinstance(table, Mapping) and table.get("dynamics") == "adaptive-flow"
        return {"tolerance": TOLERANCE, **table} if adaptive else table


class _FieldMachine(_Section):
    """How a field is computed: backend, precision of its numbers, cells between kept ẑ (0: all are kept)."""

    backend: Annotated[str, _choice(("auto", *BACKENDS), "field.backend")] = "auto"
    precision: Annotated[str, _choice(PRECISIONS)] = "float64"
    checkpoint: Annotated[int, _whole(0, MOST_CELLS)] = 0

    def machine(self) -> dict[str, Any]:
        """Options of `simulate`."""
        return {"backend": self.backend, "precision": self.precision, "checkpoint": self.checkpoint}


class FieldSection(_FieldMachine):
    """[field] orders in a_x, the solver's grid and its refinement for the grid check (both 1: no check).

    width_order : order in a_y, of taps only.   stencil : accuracy of the differences of taps and derivatives.
    ill_posed : "refuse", or "cutoff" to keep waves up to π/a_y only.
    """

    orders: Annotated[tuple[int, ...], _ORDERS] = ORDERS
    n_x: Annotated[int | str, _CELLS] = "lattice"
    n_y: Annotated[int | str, _CELLS] = "lattice"
    depth_scheme: Annotated[str, _choice(tuple(SCHEMES))] = "rk4"
    width_order: Annotated[int | None, _whole(0, 2)] = None
    stencil: Annotated[int, PlainValidator(_stencil)] = STENCIL
    ill_posed: Annotated[str, _choice(REMEDIES)] = "refuse"
    refine_x: Annotated[int, _whole(1, 64)] = 2
    refine_y: Annotated[int, _whole(1, 81)] = 1


class SymmetrySection(_Section):
    """[symmetry] how the translation along depth is measured and broken.

    sizes : ε of every breaking.   configurations, samples : seeded fields, and replicas of z in each.
    mlp : widths of the dense networks beside the lattice.
    window : the layers first <= m < last whose fields are moved one layer on; default: 1 to the last.
    """

    sizes: Annotated[tuple[float, ...], _BREAKINGS] = (
        1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0,
    )  # fmt: skip
    configurations: Annotated[int, _whole(1, 100_000)] = 32
    samples: Annotated[int, _whole(1, 100_000)] = 4
    mlp: Annotated[int | tuple[int, ...], _SIZES] = (16, 64)
    window: Annotated[tuple[int, int] | None, PlainValidator(_window)] = None


class EnergyFieldSection(_FieldMachine):
    """[field] of an energy study: the grid in depth (in width it is the lattice's), and schemes that stay on links."""

    order: Annotated[int, _whole(min(ORDERS), max(ORDERS))] = 1
    n_x: Annotated[int | str, _CELLS] = "lattice"
    depth_scheme: Annotated[str, _choice(("euler", "midpoint"))] = "midpoint"


class EnergySection(_Section):
    """[energy] moments: at how many times currents are resolved in the width, and swaps looked into."""

    moments: Annotated[int, _whole(1, 1000)] = 4


class PlainSection(_Section):
    """[plain] a dense network without skips beside the lattice: hidden widths, heavy ball with the lattice's momentum.

    gain : initial weights are normal with variance gain²/fan-in.
    """

    hidden: Annotated[tuple[int, ...], PlainValidator(_layer_widths)] = (48, 48, 48, 48)
    steps: Annotated[int, _whole(1)] = 100
    learning_rate: Annotated[float, _OPTIONAL_POSITIVE] = 0.05
    gain: Annotated[float, _OPTIONAL_POSITIVE] = 1.5


class DecompositionSection(_Section):
    """[decomposition] random networks that are tried beside the trained one, see `bbdfield.studies.cases`.

    cases : on which the identity is tried; 288 is every network × activation × loss × batch × skip once.
    round_trip : depths of the networks that are taken from b to z and back.
    """

    cases: Annotated[int, _whole(1, 100_000)] = 288
    round_trip: Annotated[int | tuple[int, ...], _SIZES] = (16, 256, 4096)


class SignalsFieldSection(_FieldMachine):
    """[field] of a signals study: one order, and the grid in depth (in width it is the lattice's)."""

    order: Annotated[int, _whole(min(ORDERS), max(ORDERS))] = 1
    n_x: Annotated[int | str, _CELLS] = "lattice"
    depth_scheme: Annotated[str, _choice(tuple(SCHEMES))] = "midpoint"
    width_order: Annotated[int | None, _whole(0, 2)] = None
    stencil: Annotated[int, PlainValidator(_stencil)] = STENCIL
    ill_posed: Annotated[str, _choice(REMEDIES)] = "refuse"


class SignalsSection(_Section):
    """[signals] random networks of given variances, and directions in which the trained one is disturbed.

    activation : of the random networks.   variances : their [σ_w², σ_b²].   biases : σ_b² of the critical line's table.
    width, networks : how they are sampled.   settle, layers : layers to settle in, and layers after that are measured.
    directions : random directions of the trained network.
    """

    activation: Annotated[str, _choice(activation_names)] = "tanh"
    variances: Annotated[tuple[tuple[float, float], ...], PlainValidator(_variances)] = (
        (1.0, 0.05), (1.3, 0.05), (2.5, 0.05), (4.0, 0.05),
    )  # fmt: skip
    biases: Annotated[tuple[float, ...], PlainValidator(_biases)] = (0.01, 0.05, 0.1)
    width: Annotated[int, _whole(2, 20_000)] = 500
    networks: Annotated[int, _whole(1, 100_000)] = 24
    settle: Annotated[int, _whole(0, 100_000)] = 30
    layers: Annotated[int, _whole(1, 100_000)] = 20
    directions: Annotated[int, _whole(1, 100_000)] = 8


class ValidityFieldSection(_FieldMachine):
    """[field] of a validity study: how many layers one depth cell of the field holds, and schemes that keep ŵ constant
    on a cell. refine_x: the first seed is repeated on so many times as many cells (1: no check).
    """

    orders: Annotated[tuple[int, ...], _ORDERS] = ORDERS
    layers: Annotated[int, _whole(2, MOST_CELLS)] = 2
    depth_scheme: Annotated[str, _choice(("euler", "midpoint"))] = "midpoint"
    refine_x: Annotated[int, _whole(1, 64)] = 2


class ValiditySection(_Section):
    """[validity] the map: roughness of the initial weights, windows of averaging, seeds.

    ratios : correlation length over lattice spacing, 0 = independent weights.   windows : standard deviations of the
    Gaussian window in layers, 0 = none.   fixed : what has the same standard deviation for all ratios, the mean of the
    weights over depth and taps ("effect") or each weight ("weights").
    """

    ratios: Annotated[tuple[float, ...], _MULTIPLES] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    windows: Annotated[tuple[float, ...], _MULTIPLES] = (0.0, 1.0, 2.0, 4.0, 8.0)
    seeds: Annotated[int, _whole(1, 1000)] = 3
    fixed: Annotated[str, _choice(("effect", "weights"))] = "effect"


class LadderSection(_Section):
    """[[ladder]] of an orders study: one spacing is refined, everything else is kept; lists are all tried.

    spacing : "a_x" (depth is the ladder), "a_y" (width is) or "step" (training.step is halved `halvings` times).
    orders, width_order : of the field theory, in a_x and a_y.
    lattice, initial, training, field : keys that differ from the study's own sections.
    """

    spacing: Annotated[str, _choice(("a_x", "a_y", "step"))]
    scaling: Annotated[str, _choice(tuple(SCALINGS))] = "residual"
    range: Annotated[str, _choice(tuple(RANGES))] = "kernel"
    weights: Annotated[tuple[str, ...], _each_of(("tied", "untied"))] = ("tied",)
    padding: Annotated[tuple[str, ...], _each_of(PADDINGS)] = ("circular",)
    dynamics: Annotated[tuple[str, ...], _each_of(DYNAMICS)] = ("sgd",)
    orders: Annotated[tuple[int, ...], _ORDERS] = ORDERS
    width_order: Annotated[tuple[int, ...], PlainValidator(_width_orders)] = ()
    halvings: Annotated[int, _whole(2, 12)] = 3
    lattice: Annotated[dict[str, Any], PlainValidator(_table)] = Field(default_factory=dict)
    initial: Annotated[dict[str, Any], PlainValidator(_table)] = Field(default_factory=dict)
    training: Annotated[dict[str, Any], PlainValidator(_table)] = Field(default_factory=dict)
    field: Annotated[dict[str, Any], PlainValidator(_table)] = Field(default_factory=dict)


class FaultsSection(_Section):
    """[faults] how often everything goes wrong, see `bbdfield.studies.faults`; 0 leaves a part out.

    kills : SIGKILLs of each of training, simulation and sweep.   in_a_row : of one trajectory before it may end.
    backends : that train and simulate it.   mutations, configs : altered files.   runs : accepted configurations that
    are really run.   full_disks : writes at which the disk is full.   points, failing : of the sweep that is timed, and
    how many of them fail.   timeout : seconds after which a command counts as hanging.   memory : MiB that reading one
    altered file may take.
    """

    kills: Annotated[int, _whole(0, 100_000)] = 50
    in_a_row: Annotated[int, _whole(1, 1000)] = 5
    backends: Annotated[tuple[str, ...], _each_of(("numpy", "numba"))] = ("numpy", "numba")
    mutations: Annotated[int, _whole(0, 10_000_000)] = 5000
    configs: Annotated[int, _whole(0, 10_000_000)] = 2000
    runs: Annotated[int, _whole(0, 10_000)] = 20
    full_disks: Annotated[int, _whole(0, 100_000)] = 50
    points: Annotated[int, _whole(0, 100_000)] = 200
    failing: Annotated[int, _whole(0, 100_000)] = 5
    timeout: Annotated[float, _OPTIONAL_POSITIVE] = 10.0
    memory: Annotated[int, _whole(1, 1_000_000)] = 256


class OutputSection(_Section):
    """[output] how trajectories are stored, and whether figures and the report are made."""

    compression: Annotated[str, _choice(("none", "gzip"))] = "none"
    figures: Annotated[bool, _FLAG] = True


class AnyStudy(_Section):
    """What every kind of study configures: data, network, initial fields, training, output."""

    kind: Annotated[str, _choice(lambda: tuple(CONFIGS), "kind")]
    title: Annotated[str, PlainValidator(_text)] = ""
    seed: Annotated[int, _whole(0, 2**63 - 1)] = 0
    data: DataSection = Field(default_factory=lambda: DataSection(name="mnist1d"))
    lattice: LatticeSection
    initial: InitialSection = Field(default_factory=InitialSection)
    training: TrainingSection
    output: OutputSection = Field(default_factory=OutputSection)

    def rungs(self) -> list[tuple[int, int]]:
        """(depth, width) of every lattice of the ladder, coarsest first."""
        return [(m, n) for m in _listed(self.lattice.depth) for n in _listed(self.lattice.width)]

    def fitted_against(self) -> str | None:
        """The spacing that the ladder refines, "a_x" or "a_y"; None without a ladder."""
        if len(_listed(self.lattice.depth)) > 1:
            return "a_x"
        return "a_y" if len(_listed(self.lattice.width)) > 1 else None

    def dataset(self) -> Dataset:
        """The data; a file is read again only when it has changed."""
        if self.data.file is None:
            return _load(self.data.name or "mnist1d", None, ())
        try:
            found = os.stat(self.data.file)
        except OSError:
            return load_dataset(file=self.data.file)  # which says what is wrong
        version = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
        return _load("mnist1d", self.data.file, version)

    def lattice_at(self, depth: int, width: int) -> Lattice:
        """The network of one rung, with as many inputs and outputs as the data have."""
        keys, dataset = self.lattice, self.dataset()
        return Lattice(
            depth=depth,
            width=width,
            channels=keys.channels,
            range=self._range,
            outputs=dataset.outputs,
            data_channels=dataset.channels,
            scaling=keys.scaling,
            kappa=keys.kappa,
            padding=keys.padding,
            activation=keys.activation,
            loss=keys.loss,
            readout_modes=keys.readout_modes,
        )

    @property
    def _range(self) -> Range:
        kind: Any = RANGES[self.lattice.range]
        made: Range = kind(getattr(self.lattice, kind.key), tied=self.lattice.weights == "tied")
        return made

    def training_plan(self) -> Training:
        """The training law."""
        keys = self.training.model_dump(exclude={"rates", "optimizer", "backend", "precision", "checkpoint"})
        return Training(**keys, rates=Rates(**self.training.rates.model_dump()), seed=self.seed)

    def initial_fields(self, lattice: Lattice) -> InitialFields:
        """The random initial fields: the same functions for every rung."""
        return InitialFields(lattice, self.seed, **self.initial.model_dump())

    def grids(self) -> Iterator[tuple[str, Grid]]:
        """Every grid of the study with the key that made it."""
        for depth, width in self.rungs():
            yield "lattice.width", Grid(depth, width)

    def compression(self) -> str | None:
        """As the trajectory writer wants it."""
        return None if self.output.compression == "none" else self.output.compression

    def to_toml(self) -> str:
        """Every key, defaults included; reading it back gives an equal configuration."""
        top = self.model_dump()
        tables = {key: value for key, value in top.items() if value and _is_tables(value)}
        plain = {key: value for key, value in top.items() if not isinstance(value, dict) and key not in tables}
        parts = ["".join(f"{key} = {toml_value(value)}\n" for key, value in plain.items())]
        for section, table in top.items():
            if isinstance(table, dict):
                lines = [f"{key} = {toml_value(value)}\n" for key, value in table.items() if value is not None]
                parts.append(f"[{section}]\n{''.join(lines)}")
        for section, entries in tables.items():
            for table in entries:
                lines = [f"{key} = {toml_value(value)}\n" for key, value in table.items()]
                parts.append(f"[[{section}]]\n{''.join(lines)}")
        return "\n".join(parts)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str = "configuration", folder: Path | None = None) -> Self:
        """Check a table of plain values.

        Parameters
        ----------
        where : what error messages call it, e.g. the file's name.
        folder : where a relative data.file lies (default: the working directory); the configuration keeps it absolute.

        Raises
        ------
        InputError
            One line: where, the key, what it needs and what it got.
        """
        try:
            config = cls.model_validate(table)
        except ValidationError as error:
            raise _one_line(where, [_explain(cls, detail) for detail in error.errors(include_url=False)]) from None
        if config.data.file is not None:
            absolute = str((folder or Path()).absolute() / config.data.file)
            config = config.model_copy(update={"data": DataSection(file=absolute)})
        problems = list(_impossible(config)) or list(config.refusals())
        if problems:
            raise _one_line(where, problems)
        return config

    def refusals(self) -> Iterator[str]:
        """What this kind of study cannot do although the network can be trained, one line each."""
        yield from ()


class OneNetwork(AnyStudy):
    """A study of one network: no ladder."""

    def refusals(self) -> Iterator[str]:
        yield from _several_networks(self)
        if self.lattice.scaling != "residual":
            yield f'lattice.scaling: kind = "{self.kind}" studies residual networks; use "residual"'
        allowed = ("kernel",) if self.kind in ("energy", "validity") else ("kernel", "taps")
        if self.lattice.range not in allowed:
            yield f'lattice.range: kind = "{self.kind}" is defined for {" and ".join(allowed)} weights; use "kernel"'


class StudyConfig(AnyStudy):
    """kind = "continuum": field theory against lattice, with a ladder in depth or width."""

    field: FieldSection = Field(default_factory=FieldSection)

    @model_validator(mode="before")
    @classmethod
    def _field_defaults(cls, table: Any) -> Any:
        """The orders that the scaling has, and the highest width order of taps."""
        lattice, field = (
            (table.get(key, {}) for key in ("lattice", "field")) if isinstance(table, Mapping) else ((), ())
        )
        if not isinstance(lattice, Mapping) or not isinstance(field, Mapping):
            return table
        given: dict[str, Any] = {}
        if lattice.get("scaling") == "plain":
            given["orders"] = [1]
        if lattice.get("range") == "taps":
            given["width_order"] = max(Taps.width_orders)
        return {**table, "field": {**given, **field}}

    def refusals(self) -> Iterator[str]:
        yield from _no_field(self, "orders", self.field.orders, self.field.width_order)

    def theory(self) -> dict[str, Any]:
        """Which field theory, beyond its order in a_x: options of `simulate`."""
        return {"width_order": self.field.width_order, "stencil": self.field.stencil, "ill_posed": self.field.ill_posed}

    def field_grid(self, depth: int, width: int, refined: bool = False) -> Grid:
        """The solver's grid for one rung, or the finer one of the grid check."""
        keys = self.field
        n_x, n_y = (size if isinstance(n, str) else n for n, size in ((keys.n_x, depth), (keys.n_y, width)))
        return Grid(n_x * keys.refine_x, n_y * keys.refine_y) if refined else Grid(n_x, n_y)

    def grids(self) -> Iterator[tuple[str, Grid]]:
        yield from super().grids()
        for depth, width in self.rungs():
            yield ("lattice.width" if self.field.n_y == "lattice" else "field.n_y"), self.field_grid(depth, width)
            yield "field.refine_y", self.field_grid(depth, width, refined=True)


class DecompositionConfig(OneNetwork):
    """kind = "decomposition": is L = L_bulk + L_boundary, at every step of a training and for every other network?"""

    decomposition: DecompositionSection = Field(default_factory=DecompositionSection)


class SymmetryConfig(OneNetwork):
    """kind = "symmetry": is the layer density one function for all layers, and how far is it if they differ by ε?"""

    symmetry: SymmetrySection = Field(default_factory=SymmetrySection)

    def window(self) -> tuple[int, int]:
        """(first, last): the fields of the layers first <= m < last are moved one layer on."""
        return self.symmetry.window or (1, self.rungs()[0][0] - 1)

    def refusals(self) -> Iterator[str]:
        yield from list(super().refusals()) or _impossible_symmetry(self)


class EnergyConfig(OneNetwork):
    """kind = "energy": where energy enters a network in training, how it moves along depth, and where it is lost."""

    field: EnergyFieldSection = Field(default_factory=EnergyFieldSection)
    energy: EnergySection = Field(default_factory=EnergySection)
    plain: PlainSection = Field(default_factory=PlainSection)

    def field_grid(self) -> Grid:
        """The field solver's grid."""
        ((depth, width),) = self.rungs()
        return Grid(depth if isinstance(self.field.n_x, str) else self.field.n_x, width)

    def overdamped(self) -> Self:
        """The same study with the overdamped law, plain SGD with the same rates."""
        training = self.training.model_copy(update={"dynamics": "sgd", "damping": None})
        return self.model_copy(update={"training": training})

    def grids(self) -> Iterator[tuple[str, Grid]]:
        yield from super().grids()
        if len(self.rungs()) == 1:
            yield "field.n_x", self.field_grid()

    def refusals(self) -> Iterator[str]:
        yield from list(super().refusals()) or _impossible_energy(self)
        yield from _no_field(self, "order", (self.field.order,), None)


class SignalsConfig(AnyStudy):
    """kind = "signals": how far signals travel in depth, in random networks and in one that is being trained."""

    field: SignalsFieldSection = Field(default_factory=SignalsFieldSection)
    signals: SignalsSection = Field(default_factory=SignalsSection)

    def network(self) -> Lattice:
        """The network that is trained."""
        return self.lattice_at(*self.rungs()[0])

    def theory(self) -> dict[str, Any]:
        """Which field theory, beyond its order in a_x: options of `simulate`."""
        return {"width_order": self.field.width_order, "stencil": self.field.stencil, "ill_posed": self.field.ill_posed}

    def field_grid(self) -> Grid:
        """The field solver's grid."""
        ((depth, width),) = self.rungs()
        return Grid(depth if isinstance(self.field.n_x, str) else self.field.n_x, width)

    def grids(self) -> Iterator[tuple[str, Grid]]:
        yield from super().grids()
        if len(self.rungs()) == 1:
            yield "field.n_x", self.field_grid()

    def refusals(self) -> Iterator[str]:
        yield from _several_networks(self)
        yield from _no_field(self, "order", (self.field.order,), self.field.width_order)
        if self.training.probe < 2:
            yield f"training.probe: needs two samples or more, whose difference is followed (got {self.training.probe})"


class ValidityConfig(OneNetwork):
    """kind = "validity": how rough may weights be, and how far averaged, for the fields to describe the network?"""

    field: ValidityFieldSection = Field(default_factory=ValidityFieldSection)
    validity: ValiditySection = Field(default_factory=ValiditySection)

    def field_grid(self) -> Grid:
        """The field's cells: several layers each, and those of the lattice across the width."""
        ((depth, width),) = self.rungs()
        return Grid(depth // self.field.layers, width)

    def refusals(self) -> Iterator[str]:
        yield from list(super().refusals()) or _impossible_validity(self)


class OrdersConfig(OneNetwork):
    """kind = "orders": does every scaling, range and order converge as it declares?"""

    field: FieldSection = Field(default_factory=FieldSection)
    ladder: tuple[LadderSection, ...] = ()

    def combinations(self) -> Iterator[tuple[str, LadderSection, StudyConfig]]:
        """(name, its ladder, the continuum study) of every combination of the lists.

        Raises
        ------
        InputError
            for one that is not possible, by its name.
        """
        for ladder in self.ladder:
            for names in itertools.product(
                ladder.weights, ladder.padding, ladder.dynamics, ladder.width_order or (None,)
            ):
                weights, padding, dynamics, width_order = names
                parts = [ladder.spacing, ladder.scaling, ladder.range, weights, padding, dynamics]
                name = "-".join([*parts, *([f"p{width_order}"] if width_order is not None else [])])
                yield name, ladder, StudyConfig.from_table(self._table(ladder, *names), name)

    def _table(
        self, ladder: LadderSection, weights: str, padding: str, dynamics: str, width_order: int | None
    ) -> dict[str, Any]:
        """The keys of one combination's study."""
        table = _given(self.model_dump(exclude={"ladder", "kind", "title"}))
        own = {"kappa"} if ladder.scaling != self.lattice.scaling else set()
        own |= {kind.key for kind in RANGES.values()} if ladder.range != self.lattice.range else set()
        table["lattice"] = {key: value for key, value in table["lattice"].items() if key not in own}
        table["lattice"] |= {
            "scaling": ladder.scaling,
            "range": ladder.range,
            "weights": weights,
            "padding": padding,
            **ladder.lattice,
        }
        table["initial"] |= ladder.initial
        table["training"] |= {"dynamics": dynamics, **ladder.training}
        order = {} if width_order is None else {"width_order": width_order}
        table["field"] |= {"orders": list(ladder.orders), **order, **ladder.field}
        if self.data.file is not None:
            table["data"] = {"file": self.data.file}
        return {"kind": "continuum", **table}

    def refusals(self) -> Iterator[str]:
        yield from list(super().refusals()) or self._refused()

    def _refused(self) -> Iterator[str]:
        if not self.ladder:
            yield "ladder: is missing; add a section [[ladder]] with spacing, scaling and range"
        for number, ladder in enumerate(self.ladder):
            yield from (f"ladder.{number}.{problem}" for problem in _misplaced(ladder))
        names: set[str] = set()
        try:
            for name, ladder, study in self.combinations():
                if name in names:
                    yield f"ladder: {name} stands in two of them; give each combination once"
                names.add(name)
                yield from (f"ladder: {name}: {problem}" for problem in _no_ladder(ladder, study))
        except InputError as error:
            yield f"ladder: {error}"


#: keys of a ladder's own that its tables must not change behind its back: section -> keys
_LADDERS_OWN = {
    "lattice": ("scaling", "range", "weights", "padding"),
    "initial": (),
    "training": ("dynamics",),
    "field": ("orders", "width_order"),
}


def _misplaced(ladder: LadderSection) -> Iterator[str]:
    """Keys that stand in the wrong table, or mean nothing for this spacing."""
    for section, own in _LADDERS_OWN.items():
        for key in own:
            if key in getattr(ladder, section):
                yield f"{section}.{key}: is a key of the ladder itself; write {key} beside spacing"
    nothing = ("orders", "width_order", "field") if ladder.spacing == "step" else ("halvings",)
    for key in nothing:
        if getattr(ladder, key) != LadderSection.model_fields[key].get_default(call_default_factory=True):
            yield f'{key}: means nothing for spacing = "{ladder.spacing}"; remove it'


def _no_ladder(ladder: LadderSection, study: StudyConfig) -> Iterator[str]:
    """Why a combination cannot be refined."""
    if ladder.spacing != "step":
        size = "depth" if ladder.spacing == "a_x" else "width"
        if study.fitted_against() != ladder.spacing:
            yield f"lattice.{size} needs a list of sizes to refine {ladder.spacing}"
        elif len(study.rungs()) < 3:
            yield "needs three sizes or more, so that two local orders can agree"
        return
    if len(study.rungs()) > 1:
        yield "lattice.depth and lattice.width need one size each, since the training step is refined"
    if study.training.dynamics == "adaptive-flow":
        yield 'training.dynamics: "adaptive-flow" chooses its steps itself; give another one'
    if study.training.batch != len(study.dataset().x):
        count = len(study.dataset().x)
        yield f"training.batch: needs all {count} training samples, so that every step sees the same"


class FaultsConfig(OneNetwork):
    """kind = "faults": is anything lost, or anything false believed, when processes are killed and files altered?"""

    faults: FaultsSection = Field(default_factory=FaultsSection)

    def refusals(self) -> Iterator[str]:
        yield from super().refusals()
        if self.faults.failing > self.faults.points:
            yield f"faults.failing: needs at most faults.points, {self.faults.points} (got {self.faults.failing})"
        if self.faults.kills and self.training.steps < 8:
            yield f"training.steps: needs at least 8, so that there is something to kill (got {self.training.steps})"


CONFIGS: dict[str, type[AnyStudy]] = {
    "continuum": StudyConfig,
    "decomposition": DecompositionConfig,
    "symmetry": SymmetryConfig,
    "energy": EnergyConfig,
    "orders": OrdersConfig,
    "validity": ValidityConfig,
    "signals": SignalsConfig,
    "faults": FaultsConfig,
}


def load_config(path: Path, overrides: Sequence[str] = ()) -> AnyStudy:
    """Read and check a study.

    Parameters
    ----------
    path : the TOML file.
    overrides : "a.b=c" each; c is read as a TOML value, and as a plain string when it is none.

    Raises
    ------
    InputError
        One line naming the file, the key and the remedy.
    """
    path = Path(path)
    return parse_config(read_text(path), str(path), path.parent, overrides)


def read_text(path: Path) -> str:
    """The text of a TOML file; `InputError` for one that cannot be read."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, for ever
            raise InputError(f"{path}: is not a plain file; give a TOML file")
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InputError(f"{path}: is larger than {MOST_BYTES // 2**20} MiB; give a TOML file")
        return content.decode("utf-8-sig")
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read ({reason}); give a TOML file") from None


def parse_config(
    text: str, where: str = "configuration", folder: Path | None = None, overrides: Sequence[str] = ()
) -> AnyStudy:
    """`load_config` of a text instead of a file."""
    table = parse_table(text, where, overrides)
    if "sweep" in table:
        raise InputError(f"{where}: sweep: this file describes a sweep; use bbdfield sweep, or remove [sweep]")
    return model_of(table).from_table(table, where, folder)


def parse_table(text: str, where: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The tables of a TOML text with some keys overridden, "a.b=c" each; nothing in them is checked."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) if isinstance(error, ValueError) else "nested too deeply"
        raise InputError(f"{where}: not valid TOML: {reason}") from None
    for override in overrides:
        _override(table, override)
    return table


def model_of(table: Mapping[str, Any]) -> type[AnyStudy]:
    """The configuration of the table's kind; any, to refuse a kind that there is not."""
    kind = table.get("kind")
    return CONFIGS.get(kind, StudyConfig) if isinstance(kind, str) else StudyConfig


def _override(table: dict[str, Any], override: str) -> None:
    """Set one key, "a.b=c", in a table of tables."""
    key, equals, text = override.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(_BARE_KEY.fullmatch(name) for name in names):
        raise InputError(f"--set {_show(override)}: needs KEY=VALUE, such as lattice.width=40")
    for name in names[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise InputError(f"--set {_show(override)}: {name} is no section; check the key")
    table[names[-1]] = _override_value(text.strip())


def _override_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if list(parsed) == ["value"] else text


# ---- saying what is wrong


def _one_line(where: str, problems: Sequence[str]) -> InputError:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return InputError(visible(f"{where}: {problems[0]}{more}", keep=""))


def _key(names: Sequence[Any]) -> str:
    shown = [name if _BARE_KEY.fullmatch(name) and len(name) <= 60 else _show(name) for name in map(str, names)]
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


def _explain(model: type[BaseModel], detail: Mapping[str, Any]) -> str:
    """'lattice.depth: needs ...' from one of pydantic's error records."""
    loc = detail["loc"]
    key, kind = _key(loc), detail["type"]
    if kind == "value_error":
        return f"{key}: {detail['ctx']['error']}"
    if kind == "missing":
        return f"{key}: is missing; add {_EXAMPLES.get(key, 'it')}"
    if kind == "extra_forbidden":
        if key == "training.momentum":
            return f"{key}: unknown key; {MOMENTUM}"
        if key in LATER_KEYS:
            return f"{key}: does not exist yet; remove it"
        known = _known_keys(model, loc[:-1])
        close = difflib.get_close_matches(str(loc[-1])[:40], known, n=1)
        remedy = f"did you mean {_key([*loc[:-1], *close])}?" if close else f"known are {', '.join(known)}"
        return f"{key}: unknown key; {remedy}"
    return f"{key or 'configuration'}: needs a table of keys (got {_show(detail['input'])})"


_EXAMPLES = {
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


# ---- combinations that cannot work


def _impossible(config: AnyStudy) -> Iterator[str]:
    """What is wrong although every key by itself is right; nothing large is computed here."""
    keys, training = config.lattice, config.training
    combinations = list(_meaningless(config))
    if combinations:
        yield from combinations
        return
    if len(_listed(keys.depth)) > 1 and len(_listed(keys.width)) > 1:
        yield "lattice.depth: only one of depth and width may be a ladder, and lattice.width is one; give one size"
        return
    damped = training.dynamics in DAMPED
    if damped and training.damping is None:
        yield f'training.damping: is missing; "{training.dynamics}" needs a damping > 0'
    if not damped and training.damping is not None:
        yield f'training.damping: "{training.dynamics}" has no inertia, so no damping; remove it or change dynamics'
    adaptive = training.dynamics == "adaptive-flow"
    if training.tolerance is not None and not adaptive:
        yield f'training.tolerance: "{training.dynamics}" has fixed steps; remove it or change training.dynamics'
    rates = training.rates
    if not (rates.w or rates.b or rates.r):
        yield "training.rates: needs a rate > 0, or nothing is trained (got w = b = r = 0)"
    if keys.readout_modes > min(_listed(keys.width)):
        yield (
            f"lattice.readout_modes: needs at most lattice.width, {min(_listed(keys.width))}, or modes coincide"
            f" (got {keys.readout_modes})"
        )
    grids = list(_wrong_grids(config))
    yield from grids
    if not grids:
        yield from _too_large(config)
    yield from _wrong_data(config)


def _meaningless(config: AnyStudy) -> Iterator[str]:
    """Keys of [lattice] and [initial] that do not belong together."""
    keys, initial = config.lattice, config.initial
    kind = RANGES[keys.range]
    if getattr(keys, kind.key) is None:
        yield f"lattice.{kind.key}: is missing; add {_EXAMPLES.get(f'lattice.{kind.key}', kind.needs)}"
        return
    owners = [(other.key, "range", other.name) for other in RANGES.values()]
    for key, where, owner in (*owners, ("kappa", "scaling", Critical.name)):
        chosen = getattr(keys, where)
        if getattr(keys, key) is not None and chosen != owner:
            yield f'lattice.{key}: is of lattice.{where} = "{owner}", not of "{chosen}"; remove it or change {where}'
    if keys.scaling == "plain" and keys.range == "derivative":
        yield (
            'lattice.scaling: "plain" with lattice.range = "derivative" has weights ~ 1/a_y² and no a_x to hold them;'
            ' use scaling = "residual" or "critical", or range = "kernel" or "taps"'
        )
    if keys.scaling == "critical" and keys.activation != "tanh":
        yield (
            'lattice.activation: lattice.scaling = "critical" is the cubic expansion of a rescaled tanh; use "tanh", or'
            f' scaling = "residual" (got "{keys.activation}")'
        )
    grid = Grid(max(_listed(keys.depth)), max(_listed(keys.width)))
    for name in ("mean", "spread"):
        values = getattr(initial, name)
        try:
            if name == "mean":
                config._range.mean(grid, values)
            else:
                config._range.spread(initial.correlation_u, grid, values)
        except InputError as error:
            if values is not None and str(error).startswith("initial."):  # else it is the grid, which is refused below
                yield f"initial.{name}: {str(error).split(': ', 1)[1]} (got {_show(list(values))})"


def _several_networks(config: AnyStudy) -> Iterator[str]:
    for key, size in (("lattice.depth", config.lattice.depth), ("lattice.width", config.lattice.width)):
        if len(_listed(size)) > 1:
            yield f"{key}: needs one size, since one network is studied (got {_show(list(_listed(size)))})"


def _no_field(config: AnyStudy, key: str, orders: Sequence[int], width_order: int | None) -> Iterator[str]:
    """What has no field theory although the network can be trained."""
    keys = config.lattice
    known = SCALINGS[keys.scaling].orders
    for order in orders:
        if order not in known:
            yield (
                f'field.{key}: order {order} is not defined for lattice.scaling = "{keys.scaling}"; use'
                f" {list(known)} (got {_show(list(orders))})"
            )
    if width_order is not None and not RANGES[keys.range].width_orders:
        yield (
            f'field.width_order: lattice.range = "{keys.range}" has no expansion in a_y, only "taps" have; remove it'
            f" (got {width_order})"
        )
    axes = {"x": True, "u": keys.range == "kernel", "y": keys.weights == "untied" or config.initial.bias > 0}
    for axis, used in axes.items():
        if used and getattr(config.initial, f"correlation_{axis}") == 0:
            yield (
                f"initial.correlation_{axis}: independent values are no field; give a length, or map where the"
                ' description ends with kind = "validity"'
            )


def _wrong_grids(config: AnyStudy) -> Iterator[str]:
    weights, seen = config._range, set()
    for key, grid in config.grids():
        if max(grid.n_x, grid.n_y) > MOST_CELLS:
            yield f"field.refine_x: the refined grid {grid.n_x} x {grid.n_y} has more than {MOST_CELLS} cells a side"
        if grid.n_y in seen:
            continue
        seen.add(grid.n_y)
        try:
            weights.components(grid)
        except InputError as error:
            where = f"lattice.{weights.key}" if key == "lattice.width" else key
            hint = " (an odd refine_y keeps the radius on a cell edge)" if key == "field.refine_y" else ""
            yield f"{where}: {error}{hint}"


def _too_large(config: AnyStudy) -> Iterator[str]:
    keys, training, initial = config.lattice, config.training, config.initial
    weights_of, channels, tied = config._range, keys.channels, keys.weights == "tied"
    for _, grid in config.grids():
        taps = weights_of.components(grid).size
        weights = grid.n_x * taps * channels**2 * (1 if tied else grid.n_y)
        states = (grid.n_x + 1) * grid.n_y * channels * max(training.probe, min(training.batch, 256))
        if max(weights, states) > MOST_NUMBERS:
            what = "weights" if weights > states else "pre-activations"
            number = f"{max(weights, states):.1e} {what}"
            yield f"lattice.channels: a {grid.n_x} x {grid.n_y} grid would hold {number}; make it smaller"
            return
    rows = 1 if training.dynamics in FULL_BATCH else training.steps
    if rows * training.batch > MOST_NUMBERS:
        yield f"training.steps: {training.steps} steps of {training.batch} samples do not fit into memory; give fewer"
    in_x, in_y = (
        cosine_amplitudes(1.0, length).size if length else max(_listed(size))
        for length, size in ((initial.correlation_x, keys.depth), (initial.correlation_y, keys.width))
    )
    in_u = 2001 if isinstance(weights_of, Kernel) else weights_of.components(grid).size
    if isinstance(weights_of, Kernel) and initial.correlation_u:
        in_u = cosine_amplitudes(2 * weights_of.radius, initial.correlation_u).size
    drawn = in_x * in_u * channels**2 * (1 if tied else in_y)
    if drawn > MOST_NUMBERS // 64:
        yield f"initial.correlation_x: such rough fields take {drawn:.1e} random coefficients; give longer correlations"


def _wrong_data(config: AnyStudy) -> Iterator[str]:
    key = "data.name" if config.data.file is None else "data.file"
    try:
        data = config.dataset()
    except InputError as error:
        yield f"{key}: {error}"
        return
    training, count = config.training, len(data.x)
    if training.batch > count:
        yield f"training.batch: needs at most the {count} training samples (got {training.batch})"
    probes = count if data.x_test is None else len(data.x_test)
    if training.probe > probes:
        kind = "training" if data.x_test is None else "test"
        yield f"training.probe: needs at most the {probes} {kind} samples (got {training.probe})"
    for y in (data.y, data.y_test):
        if y is not None:
            try:
                prepare_targets(config.lattice.loss, y, data.outputs)
            except InputError as error:
                yield f"lattice.loss: {error}"
                break
    if data.width < 4:
        try:
            for _, grid in config.grids():
                on_cells(data.x[:1], grid.n_y)
        except InputError as error:
            yield f"{key}: {error}"


def _impossible_symmetry(config: SymmetryConfig) -> Iterator[str]:
    keys, symmetry = config.lattice, config.symmetry
    ((depth, width),) = config.rungs()
    if depth < 3:
        yield f"lattice.depth: needs at least 3 layers, one of them between two others (got {depth})"
        return
    if symmetry.window is not None and symmetry.window[1] >= depth:
        yield (
            f"symmetry.window: needs to end before layer {depth}, so that it can be moved one layer on"
            f" (got {_show(list(symmetry.window))})"
        )
    if not (config.training.rates.w or config.training.rates.b):
        yield "training.rates: needs a rate w > 0 or b > 0, or no layer moves (got w = b = 0)"
    taps = config._range.components(Grid(depth, width)).size
    largest = max(width * keys.channels**2 * taps, *(size**2 for size in _listed(symmetry.mlp)))
    if 2 * symmetry.configurations * largest > MOST_NUMBERS:
        numbers = f"{2 * symmetry.configurations * largest:.1e} weights"
        yield f"symmetry.configurations: {symmetry.configurations} would hold {numbers}; give fewer"


def _impossible_energy(config: EnergyConfig) -> Iterator[str]:
    training = config.training
    if training.dynamics != "heavy-ball":
        yield (
            'training.dynamics: needs "heavy-ball", whose steps keep exact books of the energy; the overdamped law is'
            f' followed beside it (got "{training.dynamics}")'
        )
    if not (training.rates.w or training.rates.b):
        yield "training.rates: needs a rate w > 0 or b > 0, or no layer has energy (got w = b = 0)"
    if training.steps < 2:
        yield f"training.steps: needs at least 2, so that samples are swapped once (got {training.steps})"


def _impossible_validity(config: ValidityConfig) -> Iterator[str]:
    ((depth, width),) = config.rungs()
    layers, own = config.field.layers, config.initial
    if depth % layers or depth < 2 * layers:
        yield f"field.layers: needs a divisor of lattice.depth, {depth}, with at least 2 cells (got {layers})"
    for axis in "xuy":
        key = f"correlation_{axis}"
        if getattr(own, key) != InitialSection.model_fields[key].default:
            yield f"initial.{key}: validity.ratios gives all correlation lengths; remove it (got {getattr(own, key):g})"
    if own.mean is not None:
        yield "initial.mean: weights of a validity study have mean 0; remove it"
    smallest = min((ratio for ratio in config.validity.ratios if ratio), default=math.inf)
    if not smallest / max(depth, width) >= 1e-3:
        needs = "correlation lengths of 0, or of at least 0.001 of depth and width"
        yield f"validity.ratios: needs {needs} (got {smallest:g} spacings)"
    if config.seed + config.validity.seeds > 2**63:
        yield f"validity.seeds: needs seeds below 2⁶³ (got {config.validity.seeds} from {config.seed} on)"


@lru_cache(maxsize=2)
def _load(name: str, file: str | None, version: tuple[int, ...]) -> Dataset:
    return load_dataset(name, file)


def _listed(sizes: int | tuple[int, ...]) -> tuple[int, ...]:
    return sizes if isinstance(sizes, tuple) else (sizes,)


# ---- writing TOML

_ESCAPES = {'"': '\\"', "\\": "\\\\"}


def _is_tables(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(entry, dict) for entry in value)


def _given(table: dict[str, Any]) -> dict[str, Any]:
    """A table without the keys that have no value."""
    return {
        key: _given(value) if isinstance(value, dict) else value for key, value in table.items() if value is not None
    }


def toml_value(value: Any) -> str:
    """A value as TOML, whatever a TOML file can hold; tables on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return f'"{"".join(map(_escaped, value))}"'
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{toml_key(key)} = {toml_value(entry)}' for key, entry in value.items())} }}"
    if isinstance(value, (date, time)):  # a datetime is a date
        return value.isoformat()
    return f"[{', '.join(map(toml_value, value))}]"


def toml_key(key: str) -> str:
    """A key as TOML: in quotes where it needs them."""
    return key if _BARE_KEY.fullmatch(key) else toml_value(key)


def _escaped(character: str) -> str:
    if character < " " or character == "\x7f":
        return f"\\u{ord(character):04X}"
    return _ESCAPES.get(character, character)
