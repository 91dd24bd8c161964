"""Combinations of keys that cannot work although every key by itself is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bbdfield.datasets import on_cells
from bbdfield.errors import InputError
from bbdfield.model.architecture import DAMPED, FULL_BATCH
from bbdfield.model.losses import prepare_targets
from bbdfield.model.random_functions import cosine_amplitudes
from bbdfield.model.ranges import RANGES, Kernel
from bbdfield.model.scalings import SCALINGS, Critical
from bbdfield.studies.config.mistakes import EXAMPLES
from bbdfield.studies.config.values import MOST_CELLS, MOST_NUMBERS, show
from solvers.grids import Grid

if TYPE_CHECKING:
    from bbdfield.studies.config.study import AnyStudy


def impossible(config: AnyStudy) -> Iterator[str]:
    """What is wrong although every key by itself is right; nothing large is computed here."""
    keys, training = config.lattice, config.training
    combinations = list(_meaningless(config))
    if combinations:
        yield from combinations
        return
    if len(listed(keys.depth)) > 1 and len(listed(keys.width)) > 1:
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
    if keys.readout_modes > min(listed(keys.width)):
        yield (
            f"lattice.readout_modes: needs at most lattice.width, {min(listed(keys.width))}, or modes coincide"
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
        yield f"lattice.{kind.key}: is missing; add {EXAMPLES.get(f'lattice.{kind.key}', kind.needs)}"
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
    grid = Grid(max(listed(keys.depth)), max(listed(keys.width)))
    for name in ("mean", "spread"):
        values = getattr(initial, name)
        try:
            if name == "mean":
                config._range.mean(grid, values)
            else:
                config._range.spread(initial.correlation_u, grid, values)
        except InputError as error:
            if values is not None and str(error).startswith("initial."):  # else it is the grid, which is refused below
                yield f"initial.{name}: {str(error).split(': ', 1)[1]} (got {show(list(values))})"


def several_networks(config: AnyStudy) -> Iterator[str]:
    for key, size in (("lattice.depth", config.lattice.depth), ("lattice.width", config.lattice.width)):
        if len(listed(size)) > 1:
            yield f"{key}: needs one size, since one network is studied (got {show(list(listed(size)))})"


def no_field(config: AnyStudy, key: str, orders: Sequence[int], width_order: int | None) -> Iterator[str]:
    """What has no field theory although the network can be trained."""
    keys = config.lattice
    known = SCALINGS[keys.scaling].orders
    for order in orders:
        if order not in known:
            yield (
                f'field.{key}: order {order} is not defined for lattice.scaling = "{keys.scaling}"; use'
                f" {list(known)} (got {show(list(orders))})"
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
        cosine_amplitudes(1.0, length).size if length else max(listed(size))
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


def listed(sizes: int | tuple[int, ...]) -> tuple[int, ...]:
    return sizes if isinstance(sizes, tuple) else (sizes,)
