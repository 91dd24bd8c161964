"""How well a field run predicts a lattice run: errors at equal physical time, on the lattice's own points.

The field is restricted to the lattice's sites and links. An error is ‖field − lattice‖ / ‖lattice‖ in L2 over all
stored times (and all entries), unless said otherwise. Because weights that hardly move flatter any theory, the error
over the *movement* ‖ŵ(t) − ŵ(0)‖ stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bbdfield.errors import InputError
from bbdfield.fields.coarse_graining import restrict, restrict_sites
from bbdfield.model.run import Run

#: relative difference of z on the probe set beyond which a trajectory no longer counts as predicted
HORIZON = 0.10


@dataclass(frozen=True)
class Score:
    """Errors of one field run against one lattice run.

    error, max_error : relative L2 and maximum error of z, w, b (hatted) and loss over all stored t.
    error_over_movement : of w and b, relative to ‖ŵ(t) − ŵ(0)‖ over all stored t.
    horizon : first stored t at which the instantaneous relative error of z exceeds 10 %; None if never.
    t, error_t, movement_error_t : the same at each snapshot (NaN before anything has moved);  loss_t, loss_error_t :
    relative loss error at each step.
    profile : relative L2 error per site (z) or link (w, b) at the last snapshot.
    test_accuracy, test_loss : of lattice and field at each snapshot.
    """

    error: dict[str, float]
    max_error: dict[str, float]
    error_over_movement: dict[str, float]
    horizon: float | None
    t: np.ndarray
    error_t: dict[str, np.ndarray]
    movement_error_t: dict[str, np.ndarray]
    loss_t: np.ndarray
    loss_error_t: np.ndarray
    profile: dict[str, np.ndarray]
    x_site: np.ndarray
    x_link: np.ndarray
    test_accuracy: dict[str, np.ndarray]
    test_loss: dict[str, np.ndarray]

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain JSON types (NaN becomes None)."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(entry) for entry in value.tolist()]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def check_comparable(sim: Run, run: Run) -> None:
    """Refuse two runs that do not describe the same training.

    Raises
    ------
    InputError
        naming what differs: data, sample sequence, seed, training law, scaling or any other property of the network.
    """
    pair = f"{sim.path} and {run.path} do not belong together"
    if run.kind != "lattice" and sim.kind == "lattice":
        raise InputError(f"{pair}: give the field file first and the lattice file second")
    if sim.config.get("data", {}).get("digest") != run.config.get("data", {}).get("digest"):
        raise InputError(f"{pair}: they were trained on different data; simulate from this lattice file")
    mine, theirs = sim.config["lattice"], run.config["lattice"]
    resolution = {"depth", "width"}
    differing = [key for key in sorted({*mine, *theirs} - resolution) if mine.get(key) != theirs.get(key)]
    if differing:
        raise InputError(f"{pair}: lattice.{differing[0]} differs; simulate from this lattice file")
    if sim.config.get("field", {}).get("order", 0) > 0 and mine.get("depth") != theirs.get("depth"):
        raise InputError(
            f"{pair}: the field is that of {mine.get('depth')} layers (its order keeps a_x), the lattice has"
            f" {theirs.get('depth')}; simulate from this lattice file"
        )
    knows_a_y = sim.lattice.range.width_orders and sim.config.get("field", {}).get("width_order") != 0
    if knows_a_y and mine.get("width") != theirs.get("width"):
        raise InputError(
            f"{pair}: the field is that of {mine.get('width')} cells (its width order keeps a_y), the lattice has"
            f" {theirs.get('width')}; simulate from this lattice file"
        )
    mine, theirs = sim.config["training"], run.config["training"]
    differing = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
    if differing:
        raise InputError(f"{pair}: training.{differing[0]} differs; simulate from this lattice file")
    if sim.config.get("initial") != run.config.get("initial") and "initial" in sim.config:
        raise InputError(f"{pair}: their initial fields differ; simulate from this lattice file")
    index = "sample_index"
    if not np.array_equal(sim.trajectory.boundary[index][()], run.trajectory.boundary[index][()]):
        raise InputError(f"{pair}: their sample sequences differ; simulate from this lattice file")


def compare(sim: Run, run: Run) -> Score:
    """Score the field run `sim` against the lattice run `run`.

    The times compared are those that both have stored.

    Raises
    ------
    InputError
        for runs of different networks, data, seeds or training laws, or without a common snapshot.
    """
    check_comparable(sim, run)
    steps, at_sim, at_run = np.intersect1d(sim.steps, run.steps, return_indices=True)
    if not steps.size:
        raise InputError(
            f"{sim.path} and {run.path} have no snapshot in common; record both with the same snapshot_every"
        )
    grid = run.grid
    names = ("z", "w", "b")
    squares: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}  # error², norm², movement²
    largest = {name: np.zeros(2) for name in names}
    profile: dict[str, np.ndarray] = {}
    first: dict[str, np.ndarray] = {}
    for i, j in zip(at_sim, at_run, strict=True):
        theirs, mine = run.fields(int(j)), restrict(sim.fields(int(i)), grid)
        exact = {"z": run.z(int(j)), "w": theirs.w, "b": theirs.b}
        predicted = {"z": restrict_sites(sim.z(int(i)), sim.grid, grid), "w": mine.w, "b": mine.b}
        for name in names:
            difference, start = predicted[name] - exact[name], first.setdefault(name, exact[name])
            squares[name].append(
                (
                    float(np.sum(difference**2)),
                    float(np.sum(exact[name] ** 2)),
                    float(np.sum((exact[name] - start) ** 2)),
                )
            )
            largest[name] = np.maximum(largest[name], [np.abs(difference).max(), np.abs(exact[name]).max()])
            rows = (len(difference), -1)
            profile[name] = _ratio(
                np.linalg.norm(difference.reshape(rows), axis=1), np.linalg.norm(exact[name].reshape(rows), axis=1)
            )
    sums = {name: np.array(values) for name, values in squares.items()}
    count = min(sim.loss.size, run.loss.size)
    loss_field, loss_lattice = sim.loss[:count], run.loss[:count]
    loss_difference = np.abs(loss_field - loss_lattice)
    error = {name: float(np.sqrt(_ratio(*sums[name].sum(axis=0)[:2]))) for name in names}
    error["loss"] = float(_ratio(np.linalg.norm(loss_difference), np.linalg.norm(loss_lattice)))
    max_error = {name: float(_ratio(*largest[name])) for name in names}
    max_error["loss"] = float(_ratio(loss_difference.max(initial=0.0), np.abs(loss_lattice).max(initial=0.0)))
    error_t = {name: np.sqrt(_ratio(sums[name][:, 0], sums[name][:, 1])) for name in names}
    t = run.t[at_run]
    beyond = np.flatnonzero(error_t["z"] > HORIZON)
    return Score(
        error=error,
        max_error=max_error,
        error_over_movement={
            name: float(np.sqrt(_ratio(sums[name][:, 0].sum(), sums[name][:, 2].sum()))) for name in ("w", "b")
        },
        horizon=float(t[beyond[0]]) if beyond.size else None,
        t=t,
        error_t=error_t,
        movement_error_t={
            name: np.where(sums[name][:, 2] > 0, np.sqrt(_ratio(sums[name][:, 0], sums[name][:, 2])), np.nan)
            for name in ("w", "b")
        },
        loss_t=(np.arange(count) + (0.5 if run.training.dynamics == "leapfrog" else 0.0)) * run.training.step,
        loss_error_t=_ratio(loss_difference, np.abs(loss_lattice)),
        profile=profile,
        x_site=grid.x_sites,
        x_link=grid.x_links,
        test_accuracy={
            "lattice": run.evaluation["test_accuracy"][at_run],
            "field": sim.evaluation["test_accuracy"][at_sim],
        },
        test_loss={"lattice": run.evaluation["test_loss"][at_run], "field": sim.evaluation["test_loss"][at_sim]},
    )


def grid_change(coarse: Run, fine: Run, run: Run) -> dict[str, float]:
    """Relative L2 change of z, w, b and loss, on the points of the lattice run, when the field's grid is refined."""
    grid = run.grid
    _, at_coarse, at_fine = np.intersect1d(coarse.steps, fine.steps, return_indices=True)
    sums = {name: np.zeros(2) for name in ("z", "w", "b")}
    for i, j in zip(at_coarse, at_fine, strict=True):
        a, b = restrict(coarse.fields(int(i)), grid), restrict(fine.fields(int(j)), grid)
        pairs = {
            "z": (restrict_sites(coarse.z(int(i)), coarse.grid, grid), restrict_sites(fine.z(int(j)), fine.grid, grid)),
            "w": (a.w, b.w),
            "b": (a.b, b.b),
        }
        for name, (p, q) in pairs.items():
            sums[name] += [float(np.sum((p - q) ** 2)), float(np.sum(q**2))]
    change = {name: float(np.sqrt(_ratio(*values))) for name, values in sums.items()}
    change["loss"] = float(_ratio(np.linalg.norm(coarse.loss - fine.loss), np.linalg.norm(fine.loss)))
    return change


def _ratio(numerator: Any, denominator: Any) -> Any:
    """numerator / denominator; 0/0 is 0 (nothing there, nothing wrong) and x/0 is infinite."""
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    safe = np.where(denominator > 0, denominator, 1.0)
    return np.where(denominator > 0, numerator / safe, np.where(numerator > 0, np.inf, 0.0))
