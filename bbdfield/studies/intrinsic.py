"""The intrinsic part of the conservation study: does training of linear networks follow its closed forms?

All networks are linear and learn the same task, the data's samples as a random lift brings them to as many numbers as
there are outputs. Balanced and relaxed balanced layers are trained by back-propagation in fine steps, infinitely deep
ones by the field solver of the residual scaling on finer and finer grids, and residual lattices of growing depth stand
beside them. Parameters that φ and the conserved quantities recover, or not, make a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from bbdfield import interrupts
from bbdfield.comparison.orders import fit_order
from bbdfield.datasets import Dataset
from bbdfield.errors import InputError
from bbdfield.lattice.balanced import BalancedField, imbalances, product, relaxed_balanced
from bbdfield.lattice.dense import draw_dense
from bbdfield.model.architecture import Lattice, Rates, Training
from bbdfield.model.boundary import Boundary
from bbdfield.model.ranges import Taps
from bbdfield.observables import intrinsic
from bbdfield.observables.path_lifting import product_jacobian, recoverable, unflatten
from bbdfield.studies.describe import Table, decimal, listed, number
from bbdfield.studies.kinds import Session

Array = npt.NDArray[np.float64]
Arrays = dict[str, tuple[tuple[str, ...], Array]]

#: random stream of the study's seed
STREAM = 40
#: how long is trained, and the steps in which layers are, in units of 1 / largest curvature of the task
HORIZON, STEP = 3.0, 0.002
SNAPSHOTS, LINES = 6, 60
#: relative error of the field's own steps in time, and of those beside a lattice, whose depth is the larger error
TOLERANCE, LATTICE_TOLERANCE = 1e-10, 1e-8
#: λ of two layers; numbers of balanced layers; λ_i of deeper relaxed balanced ones; ℓ of infinite depth
TWO_LAYERS: tuple[float, ...] = (0.0, 1.0, -1.0)
BALANCED = (3, 5)
RELAXED: tuple[tuple[float, ...], ...] = ((0.8, -0.3, 0.2),)
INFINITE: tuple[float, ...] = (0.0, 1.0)
#: size of random K, A₁, A₂, and cells of the order-1 field that is laid beside each lattice
SIZE, FIRST_ORDER_CELLS = 0.7, 16
#: what the closed forms are held to
AGREES = 1e-8

CAPTIONS = {
    "conservation-intrinsic": "Linear residual networks, relaxed balanced. Left: distance of the trained map Z from the"
    " closed form of infinite depth, the largest over training: lattices of M layers, and the field solver on n_x"
    " cells; and the distance of each lattice from its own field theory of order 1. Right: singular values of Z in"
    " training, by the closed form (lines) and the field solver (dots)."
}


@dataclass(frozen=True)
class Case:
    """A network of the recoverability table.   lifting : "paths" or "product", what φ is.   dead : one neuron is 0."""

    widths: tuple[int, ...]
    relu: bool
    biases: bool
    lifting: str = "paths"
    dead: bool = False

    @property
    def name(self) -> str:
        words = ["ReLU" if self.relu else "linear", "-".join(map(str, self.widths))]
        return " ".join(words) + (", biases" if self.biases else "") + (", a dead neuron" if self.dead else "")


CASES = (
    Case((3, 4, 2), True, True),
    Case((2, 3, 3, 2), True, True),
    Case((4, 5, 4, 3), True, False),
    Case((3, 4, 2), True, True, dead=True),
    Case((3, 3, 3), False, False),
    Case((3, 1, 3), False, False, "product"),
    Case((3, 3, 3), False, False, "product"),
    Case((2, 2, 2, 2), False, False, "product"),
)


def check_intrinsic(config: Any) -> None:
    """Refuse data that do not fill the networks (InputError)."""
    data, samples = config.dataset().as_channels(), config.conservation.intrinsic_samples
    if data.channels < data.outputs:
        raise InputError(
            f"data: {data.source} has {data.channels} numbers per sample but {data.outputs} outputs; the intrinsic"
            " dynamics need at least as many numbers as outputs"
        )
    if samples > len(data.x):
        raise InputError(
            f"conservation.intrinsic_samples: {data.source} has only {len(data.x)} samples (got {samples}); use fewer"
        )


def compute_intrinsic(config: Any, out: Path, session: Session) -> tuple[dict[str, Any], Arrays]:
    """Scores of the intrinsic dynamics, and the maps Z in training for the sidecar."""
    del out  # nothing here is long enough to be continued
    check_intrinsic(config)
    keys = config.conservation
    with threadpool_limits(1):
        data = config.dataset().as_channels()
        boundary = _boundary(data, keys.intrinsic_samples, config.seed)
        task = intrinsic.boundary_task(boundary)
        horizon = boundary.training.step * boundary.training.steps
        times = np.linspace(0, horizon, SNAPSHOTS + 1)
        layers, imbalance = _train_layers(config.seed, task, times, session)
        arrays: Arrays = {"intrinsic_time": (("intrinsic_t",), times)}
        infinite = []
        for relaxation in INFINITE:
            found, maps = _infinite_depth(keys, config.seed, boundary, relaxation, session)
            infinite.append(found)
            arrays.update(maps)
    return {
        "two_layer": max(row["error"] for row in layers if len(row["relaxation"]) == 1),
        "deep": max(row["error"] for row in layers if len(row["relaxation"]) > 1),
        "infinite_depth": max(row["field"][-1] for row in infinite),
        "depth_slope": max((row["depth_slope"] for row in infinite), key=lambda slope: abs(slope + 1)),
        "field_slope": max(row["field_slope"] for row in infinite),
        "first_order_slope": infinite[-1]["first_order_slope"],
        "field_agrees": all(row["field"][-1] <= AGREES for row in infinite),
        "imbalance": imbalance,
        "layers": layers,
        "infinite": infinite,
        "recoverability": recoverability_table(config.seed),
    }, arrays


def recoverability_table(seed: int) -> list[dict[str, Any]]:
    """One row per network of `CASES`, with random weights and biases."""
    rows = []
    for i, case in enumerate(CASES):
        rng = np.random.default_rng([seed, STREAM, 1, i])
        w, b = draw_dense(case.widths, rng, biases=case.biases)
        b = None if b is None else [rng.standard_normal(part.shape) for part in b]
        if case.dead and b is not None:
            w[0][0], b[0][0], w[1][:, 0] = 0.0, 0.0, 0.0
        widths = case.widths

        def of_product(theta: Array, widths: tuple[int, ...] = widths) -> Array:
            return product_jacobian(unflatten(theta, widths, biases=False)[0])

        found = recoverable(w, b, case.relu, of_product if case.lifting == "product" else None)
        rows.append(
            {
                "network": case.name,
                "lifting": case.lifting,
                "parameters": found.parameters,
                "lifted": found.lifted,
                "rank_lifted": found.rank_lifted,
                "laws": found.conserved,
                "rank_laws": found.rank_conserved,
                "rank": found.rank,
                "kept": found.kept,
                "dropped": found.dropped,
                "recoverable": found.recoverable,
            }
        )
    return rows


def _boundary(data: Dataset, samples: int, seed: int) -> Boundary:
    """The task's samples, and the flow of ŵ over the horizon in `SNAPSHOTS` steps with error control."""
    flow = Training(
        steps=SNAPSHOTS,
        batch=samples,
        rates=Rates(w=1.0, b=0.0, r=0.0),
        dynamics="adaptive-flow",
        tolerance=TOLERANCE,
        probe=1,
        evaluate=0,
        seed=seed,
    )
    lattice = _lattice(data, 2)
    task = intrinsic.boundary_task(Boundary.draw(data, lattice, flow))
    curvature = float(np.linalg.eigvalsh(task.x @ task.x.T)[-1] * 2.0 / task.y.size)
    if not curvature > 0:
        raise InputError(f"data: the samples of {data.source} are all zero, there is nothing to learn; use other data")
    step = HORIZON / curvature / SNAPSHOTS
    return Boundary.draw(data, lattice, replace(flow, step=step))


def _lattice(data: Dataset, depth: int) -> Lattice:
    """A dense linear residual network whose logits are its last site."""
    return Lattice(
        depth=depth,
        width=1,
        channels=data.outputs,
        range=Taps(1, tied=True),
        outputs=data.outputs,
        data_channels=data.channels,
        activation="identity",
        loss="mean-square",
        readout_modes=1,
    )


def _train_layers(
    seed: int, task: intrinsic.LinearTask, times: Array, session: Session
) -> tuple[list[dict[str, Any]], float]:
    """Networks of finitely many layers against their closed forms; and the worst of D_i − λ_i 1 at the start."""
    n = len(task.x)
    networks: list[tuple[tuple[float, ...], intrinsic.Mean]] = [
        *(((relaxation,), intrinsic.two_layer_mean(relaxation)) for relaxation in TWO_LAYERS),
        *(((0.0,) * (layers - 1), intrinsic.deep_mean(layers)) for layers in BALANCED),
        *((relaxation, intrinsic.relaxed_mean(relaxation)) for relaxation in RELAXED),
    ]
    step, rows, imbalance = STEP * float(times[-1]) / HORIZON, [], 0.0
    for i, (relaxation, mean) in enumerate(networks):
        interrupts.check()
        session.say(f"intrinsic dynamics: {len(relaxation) + 1} linear layers, λ = {_listed(relaxation)}")
        weights = relaxed_balanced(
            (n,) * (len(relaxation) + 2), relaxation, np.random.default_rng([seed, STREAM, 0, i])
        )
        for d, wanted in zip(imbalances(weights), relaxation, strict=True):
            imbalance = max(imbalance, float(np.abs(d - wanted * np.eye(n)).max()))
        flow = intrinsic.intrinsic_flow(product(weights), task.gradient, mean, times)
        error = intrinsic.distance(intrinsic.train_layers(weights, task, times, step), flow)
        rows.append(
            {
                "layers": len(weights),
                "relaxation": list(relaxation),
                "error": error,
                "movement": intrinsic.movement(flow),
                "loss": [task.loss(flow[0]), task.loss(flow[-1])],
            }
        )
    return rows, imbalance


def _infinite_depth(
    keys: Any, seed: int, boundary: Boundary, relaxation: float, session: Session
) -> tuple[dict[str, Any], Arrays]:
    """Field solver and lattices against the closed form of infinite depth, for one ℓ; all from the same K, A₁, A₂."""
    data, training, task = boundary.dataset, boundary.training, intrinsic.boundary_task(boundary)
    field = BalancedField.draw(data.outputs, np.random.default_rng([seed, STREAM, 2]), relaxation, SIZE)
    times = np.linspace(0, training.step * training.steps, LINES + 1)
    fine = intrinsic.intrinsic_flow(field.propagator(), task.gradient, intrinsic.infinite_depth_mean(), times)
    flow = fine[:: LINES // SNAPSHOTS]
    coarse = replace(boundary, training=replace(training, tolerance=LATTICE_TOLERANCE))
    in_field, in_lattice, first_order = [], [], []
    for cells in keys.intrinsic_cells:
        interrupts.check()
        session.say(f"intrinsic dynamics: field on {cells} cells, ℓ = {relaxation:g}")
        maps = intrinsic.train_field(field, boundary.lattice, boundary, cells)
        in_field.append(intrinsic.distance(maps, flow))
    for depth in keys.intrinsic_depths:
        interrupts.check()
        session.say(f"intrinsic dynamics: lattice of {depth} layers, ℓ = {relaxation:g}")
        lattice = _lattice(data, depth)
        own = intrinsic.train_lattice(field, lattice, coarse)
        in_lattice.append(intrinsic.distance(own, flow))
        theory = intrinsic.train_field(field, lattice, coarse, FIRST_ORDER_CELLS, 1)
        first_order.append(intrinsic.distance(theory, own))
    found = {
        "relaxation": relaxation,
        "movement": intrinsic.movement(flow),
        "loss": [task.loss(flow[0]), task.loss(flow[-1])],
        "depths": list(keys.intrinsic_depths),
        "lattice": in_lattice,
        "depth_slope": _slope(keys.intrinsic_depths, in_lattice),
        "first_order": first_order,
        "first_order_slope": _slope(keys.intrinsic_depths, first_order),
        "cells": list(keys.intrinsic_cells),
        "field": in_field,
        "field_slope": _slope(keys.intrinsic_cells, in_field),
    }
    name = f"intrinsic_{INFINITE.index(relaxation)}"
    square = ("intrinsic_out", "intrinsic_in")
    return found, {
        "intrinsic_line_time": (("intrinsic_line",), times),
        f"{name}_closed": (("intrinsic_line", *square), fine),
        f"{name}_field": (("intrinsic_t", *square), maps),
        f"{name}_lattice": (("intrinsic_t", *square), own),
    }


def _slope(sizes: Sequence[int], errors: Sequence[float]) -> float:
    """Of log error against log size; NaN becomes an error of its own in `fit_order`."""
    return -fit_order([1.0 / size for size in sizes], errors).order


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def draw_intrinsic(out: Path, found: Mapping[str, Any], arrays: Arrays) -> None:
    """figures/conservation-intrinsic.png."""
    from bbdfield.plotting.intrinsic import figure_intrinsic
    from bbdfield.plotting.style import save

    last = f"intrinsic_{len(found['infinite']) - 1}"
    figure = figure_intrinsic(
        found["infinite"],
        arrays["intrinsic_line_time"][1],
        arrays[f"{last}_closed"][1],
        arrays["intrinsic_time"][1],
        arrays[f"{last}_field"][1],
    )
    save(figure, out / "figures" / "conservation-intrinsic.png")


def arrays_of(arrays: Arrays) -> Arrays:
    """What belongs in the sidecar."""
    return dict(arrays)


def summary(found: Mapping[str, Any]) -> str:
    """What was done, in a sentence."""
    samples = "the same samples of the data"
    return (
        f"Linear networks of {listed(sorted({row['layers'] for row in found['layers']}))} layers and of infinite depth,"
        f" with relaxed balanced weights, were trained on {samples} by gradient flow and compared with the closed form"
        " of their intrinsic dynamics."
    )


def message(found: Mapping[str, Any]) -> str:
    """What was found, in a sentence."""
    worst = max(found["two_layer"], found["deep"], found["infinite_depth"])
    yes = sum(bool(row["recoverable"]) for row in found["recoverability"])
    return (
        f"Trained linear networks are within {number(worst)} of Z of the closed forms; the distance of residual"
        f" lattices from the flow of infinite depth has slope {decimal(found['depth_slope'])} in M. φ and the conserved"
        f" quantities recover all parameters of {yes} of {len(found['recoverability'])} networks."
    )


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Closed forms against training, the depth ladder, and what is recoverable."""
    rows = [
        [
            f"{row['layers']} layers, λ = {_listed(row['relaxation'])}",
            number(row["error"]),
            number(row["movement"]),
            "Runge-Kutta, by back-propagation",
        ]
        for row in found["layers"]
    ]
    rows += [
        [
            f"infinite depth, ℓ = {row['relaxation']:g}",
            number(row["field"][-1]),
            number(row["movement"]),
            f"field solver, {row['cells'][-1]} cells",
        ]
        for row in found["infinite"]
    ]
    ladder = [
        [f"{row['relaxation']:g}", *(number(error) for error in row["lattice"]), decimal(row["depth_slope"])]
        for row in found["infinite"]
    ]
    lifted = [
        [
            row["network"],
            row["lifting"],
            row["parameters"],
            f"{row['rank_lifted']} of {row['lifted']}",
            f"{row['rank_laws']} of {row['laws']}",
            row["rank"],
            number(row["kept"]),
            number(row["dropped"]),
            "yes" if row["recoverable"] else "no",
        ]
        for row in found["recoverability"]
    ]
    depths = found["infinite"][0]["depths"]
    return [
        Table(
            "Training of linear networks against its closed form",
            ["network", "largest error of Z", "Z moves by", "trained by"],
            rows,
            "Errors are relative to |Z|, the largest over training. λ and ℓ are those of relaxed balanced weights.",
        ),
        Table(
            "Residual networks of depth M against infinite depth",
            ["ℓ", *(f"M = {depth}" for depth in depths), "slope"],
            ladder,
        ),
        Table(
            "What the lifting φ and the conserved h recover of the parameters",
            [
                "network",
                "φ",
                "parameters",
                "rank ∂φ",
                "rank ∂h",
                "rank of both",
                "smallest kept",
                "largest dropped",
                "all",
            ],
            lifted,
            "Ranks of so many rows, by singular values; those of both relative to the largest, zero below 10⁻¹² times"
            " the longer side. Weights are random.",
        ),
    ]
