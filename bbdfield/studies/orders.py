"""The orders study: does every combination of scaling, range, orders and dynamics converge as it declares?

    config -> combinations -> a continuum study of each (its own directory, with its own config.toml) -> table of orders

One spacing is refined at a time. In a_x, the field's width operator is made the lattice's own (same cells, differences
of accuracy 2) so that nothing but a_x is left; in a_y, the field marches with Euler steps on the lattice's own links.
An order counts when the last two local orders agree. In the training step τ the lattice is compared with itself at fine
steps. Scalings without a limit are expected not to converge: there the largest error of ẑ, and the errors of ŵ and b̂
relative to how far they moved, must stay where they are.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bbdfield.comparison.orders import fit_order
from bbdfield.errors import InputError
from bbdfield.lattice.sharpness import check_training_step
from bbdfield.lattice.training import LatticeSystem
from bbdfield.model.activations import is_built_in
from bbdfield.model.architecture import DAMPED, Training
from bbdfield.model.boundary import Boundary
from bbdfield.model.scalings import SCALINGS
from bbdfield.model.units import LatticeState, to_field, to_lattice
from bbdfield.studies import continuum
from bbdfield.studies import describe as words
from bbdfield.studies.config import LadderSection, OrdersConfig, StudyConfig
from bbdfield.studies.describe import Cell, Description, Table
from bbdfield.studies.kinds import Session
from bbdfield.studies.machines import in_words
from bbdfield.studies.pool import run_jobs
from solvers.steppers import DAMPED_STEPPERS, STEPPERS

#: an order holds when it is this close to the declared one, and two local orders agree when they are this close
HOLDS, AGREE = 0.15, 0.3
#: the change on a finer grid of the field may be this part of the finest rung's error
FLOOR = 0.3
#: quantities that must hold; the loss is reported beside them
JUDGED = ("z", "w", "b")
HOLD, PLATEAU, FAIL = "holds", "plateau as expected", "fails"
CAPTIONS = {
    "orders": "Measured orders of every combination (marks) against the declared one (grey band: ± 0.15). Combinations"
    " without a limit should stand at 0.",
    "slopes": "Relative error of ẑ against the spacing, one panel per spacing, scaling and range, relative to the"
    " coarsest lattice. Triangles: declared slopes.",
}


def check(config: OrdersConfig) -> str:
    """Refuse a combination that could not run; returns what there is to do in words."""
    count, lattices, fields = 0, [], []
    for name, ladder, study in config.combinations():
        count += 1
        try:
            if ladder.spacing == "step":
                check_training_step(_lattice_system(study, study.training_plan()))
            else:
                continuum.check(study)
                computed = continuum.machines(study)
                lattices += computed[0]
                fields += computed[1]
        except (InputError, ArithmeticError) as error:
            raise type(error)(f"{name}: {error}") from error
    return f"{in_words(lattices, fields)}; {count} combinations"


def compute(config: OrdersConfig, out: Path, session: Session) -> tuple[dict[str, Any], None]:
    """Run every combination, and judge."""
    jobs = [Combination(name, ladder, study) for name, ladder, study in config.combinations()]
    # another process would not know an activation that was registered in this one
    workers = min(session.workers, len(jobs)) if is_built_in(config.lattice.activation) else 1
    session.say(f"{len(jobs)} combinations in {workers} processes")
    run_jobs(run_combination, jobs, config, out, workers, session.report, session.say)
    rows: list[dict[str, Any]] = []
    for job in jobs:
        scores = json.loads((out / "combinations" / job.label / "scores.json").read_text(encoding="utf-8"))
        rows += judge(job.label, job.ladder, job.study, scores)
    verdicts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in (HOLD, PLATEAU, FAIL)}
    return {"kind": config.kind, "title": config.title, "orders": {"verdicts": verdicts, "combinations": rows}}, None


def draw(config: OrdersConfig, out: Path, scores: dict[str, Any], details: None) -> None:
    """Both figures."""
    from bbdfield.plotting.orders import orders_chart, slopes_page
    from bbdfield.plotting.style import save

    rows = scores["orders"]["combinations"]
    save(orders_chart(rows), out / "figures" / "orders.png")
    save(slopes_page(rows), out / "figures" / "slopes.png")


@dataclass(frozen=True)
class Combination:
    """One job: a combination's name, its ladder and its continuum study."""

    label: str
    ladder: LadderSection
    study: StudyConfig


def run_combination(
    job: Combination, config: OrdersConfig, out: Path, progress: Callable[[int, int, float], None] | None
) -> None:
    """The continuum study of one combination, in a directory of its own; a finished one is left as it is."""
    directory = out / "combinations" / job.label
    if (directory / "scores.json").is_file():
        return
    directory.mkdir(parents=True, exist_ok=True)
    ladder, study = job.ladder, job.study
    (directory / "config.toml").write_text(study.to_toml(), encoding="utf-8")
    with threadpool_limits(1):
        if ladder.spacing == "step":
            scores = refine_step(study, ladder.halvings)
        else:
            plan = continuum.Plan.of(study)
            trajectories = plan.jobs()
            for done, trajectory in enumerate(trajectories):
                continuum.run_job(trajectory, study, directory, None)
                if progress is not None:
                    progress(done + 1, len(trajectories), 0.0)
            scores, _ = continuum.score_study(study, plan, directory)
    part = directory / "scores.json.part"
    part.write_text(json.dumps(scores, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(directory / "scores.json")


# the training step


def refine_step(study: StudyConfig, halvings: int) -> dict[str, Any]:
    """The lattice at τ, τ/2, … against the same equation of motion at fine steps: relative L2 errors at the end.

    The reference is the gradient flow with error control, or the leapfrog at a sixteenth of the finest step. All steps
    see the same samples, since the batch is the whole training set.
    """
    training = study.training_plan()

    def at_the_end(law: Training) -> dict[str, np.ndarray]:
        system = _lattice_system(study, law)
        for k in range(law.steps):
            system.step(k)
        state = to_field(system.lattice, LatticeState(*system.u))
        return {"z": system.probe(), "w": np.asarray(state.w), "b": np.asarray(state.b)}

    finest = 2**halvings
    fine: dict[str, Any]
    if training.dynamics in DAMPED:
        fine = {"dynamics": "leapfrog", "step": training.step / (16 * finest), "steps": 16 * finest * training.steps}
    else:
        fine = {"dynamics": "adaptive-flow", "tolerance": 1e-12}
    exact = at_the_end(dataclasses.replace(training, **fine))
    rungs = []
    for halving in range(halvings + 1):
        count = 2**halving
        law = dataclasses.replace(training, step=training.step / count, steps=training.steps * count)
        found = at_the_end(law)
        error = {
            name: float(np.linalg.norm(found[name] - exact[name]) / np.linalg.norm(exact[name])) for name in JUDGED
        }
        rungs.append({"step": law.step, "order": 0, "error": error, "grid_error": None})
    return {"rungs": rungs, "fitted_against": "step"}


def _lattice_system(study: StudyConfig, law: Training) -> LatticeSystem:
    """The one network of a study at its start, under a training law."""
    ((depth, width),) = study.rungs()
    lattice = study.lattice_at(depth, width)
    start = to_lattice(study.initial_fields(lattice).on(lattice.grid, lattice))
    return LatticeSystem(lattice, Boundary.draw(study.dataset(), lattice, law), start, **study.training.machine())


# judging


def declared_order(ladder: LadderSection, study: StudyConfig, order: int) -> dict[str, float] | None:
    """What theory says for each quantity; None without a limit.

    In a_x n + 1. In a_y 2 for kernels and derivatives, p + 1 for taps. Zero-padded taps leave an error of order 1 in
    the last cells, so ½ in L2, but 1 for tied weights, whose motion is a sum over the width.
    """
    if ladder.spacing == "step":
        dynamics = study.training.dynamics
        orders = {"sgd": STEPPERS["euler"].order, "flow": STEPPERS["rk4"].order}
        orders |= {scheme.name: scheme.order for scheme in DAMPED_STEPPERS.values()}
        return dict.fromkeys(JUDGED, float(orders[dynamics]))
    if not SCALINGS[study.lattice.scaling].limit:
        return None
    if ladder.spacing == "a_x":
        return dict.fromkeys((*JUDGED, "loss"), order + 1.0)
    if study.lattice.range != "taps":
        return dict.fromkeys((*JUDGED, "loss"), 2.0)
    if study.lattice.padding == "zeros":
        return {"z": 0.5, "w": 1.0 if study.lattice.weights == "tied" else 0.5, "b": 0.5}
    return dict.fromkeys((*JUDGED, "loss"), (study.field.width_order or 0) + 1.0)


def judge(name: str, ladder: LadderSection, study: StudyConfig, scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per order in a_x: measured and declared orders, and the verdict."""
    rows = []
    orders = [0] if ladder.spacing == "step" else study.field.orders
    for order in orders:
        declared = declared_order(ladder, study, order)
        rungs = [rung for rung in scores["rungs"] if rung["order"] == order]
        spacings = [rung[ladder.spacing] for rung in rungs]
        errors = {key: [rung["error"][key] for rung in rungs] for key in rungs[0]["error"]}
        judged = dict(errors)
        if declared is None:  # L2 falls with the thickness of the layers; what stays is its height
            judged["z"] = [rung["max_error"]["z"] for rung in rungs]
            judged |= {key: [rung["error_over_movement"][key] for rung in rungs] for key in ("w", "b")}
        fits = {key: _fit(spacings, values) for key, values in judged.items()}
        rows.append(
            {
                "name": name,
                "scaling": study.lattice.scaling,
                "range": study.lattice.range,
                "weights": study.lattice.weights,
                "padding": study.lattice.padding,
                "dynamics": study.training.dynamics,
                "spacing": ladder.spacing,
                "order": None if ladder.spacing != "a_x" else order,
                "width_order": study.field.width_order if ladder.spacing == "a_y" else None,
                "spacings": spacings,
                "errors": errors,
                "judged_errors": judged,
                "measured": {key: fit[0] for key, fit in fits.items()},
                "local": {key: fit[1] for key, fit in fits.items()},
                "declared": declared,
                "grid_error": rungs[-1]["grid_error"],
                "verdict": _verdict(fits, declared, rungs[-1]),
            }
        )
    return rows


def _fit(spacings: Sequence[float], errors: Sequence[float]) -> tuple[float | None, list[float]]:
    """(slope over the last three rungs, all local orders); None where there is nothing to fit."""
    try:
        return fit_order(spacings[-3:], errors[-3:]).order, fit_order(spacings, errors).local
    except InputError:
        return None, []


def _verdict(
    fits: Mapping[str, tuple[float | None, list[float]]],
    declared: Mapping[str, float] | None,
    finest: Mapping[str, Any],
) -> str:
    """holds: every order is the declared one, two local orders agree, and the error is not the solver's own grid's."""
    floor = finest.get("grid_error_by") or {}
    for key in JUDGED:
        measured, local = fits[key]
        expected = 0.0 if declared is None else declared[key]
        if measured is None or abs(measured - expected) > HOLDS or abs(local[-1] - local[-2]) > AGREE:
            return FAIL
        if floor.get(key, 0.0) > FLOOR * finest["error"][key]:
            return FAIL
    return PLATEAU if declared is None else HOLD


# words


def describe(config: Mapping[str, Any], scores: Mapping[str, Any]) -> Description:
    """The table of orders, and what it says."""
    rows = scores["orders"]["combinations"]
    verdicts = scores["orders"]["verdicts"]
    failed = [f"{row['name']} (order {row['order']})" for row in rows if row["verdict"] == FAIL]
    kept = verdicts[PLATEAU]
    summary = (
        f"{len(rows)} combinations of scaling, range, order and dynamics were refined in one spacing at a time, with"
        " amplitudes chosen so that their finest rungs are asymptotic. Orders as declared, within"
        f" {HOLDS} in ẑ, ŵ and b̂: {verdicts[HOLD]}. Without a limit, and staying at their error, as"
        f" theory says: {kept}. Not as declared: {verdicts[FAIL]}."
    )
    if failed:
        summary += f" These are {'; '.join(failed)}."
    if kept:
        summary += f" {words.NO_LIMIT}"
    tables = [_table(rows, spacing) for spacing in ("a_x", "a_y", "step") if _of(rows, spacing)]
    return Description(summary, tables)


def _of(rows: Sequence[Mapping[str, Any]], spacing: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["spacing"] == spacing]


def _table(rows: Sequence[Mapping[str, Any]], spacing: str) -> Table:
    title = {"a_x": "Orders in a_x", "a_y": "Orders in a_y", "step": "Orders in the training step τ"}[spacing]
    order = {"a_x": "order", "a_y": "width_order", "step": "order"}[spacing]
    cells: list[list[Cell]] = []
    for row in _of(rows, spacing):
        declared = row["declared"]
        expected = "none"
        if declared is not None:
            known = sorted({declared[key] for key in JUDGED})
            expected = (
                words.decimal(known[0])
                if len(known) == 1
                else ", ".join(f"{continuum.SYMBOLS[key]} {words.decimal(declared[key])}" for key in JUDGED)
            )
        cells.append(
            [
                row["scaling"],
                row["range"],
                row["weights"],
                row["padding"],
                row["dynamics"],
                "–" if row[order] is None else str(row[order]),
                *(words.decimal(row["measured"].get(key)) for key in (*JUDGED, "loss")),
                expected,
                words.measured(row["errors"]["z"][-1]),
                row["verdict"],
            ]
        )
    head = ["scaling", "range", "weights", "padding", "dynamics", "n" if spacing == "a_x" else "p"]
    if spacing == "step":
        head[-1] = "–"
    note = (
        "slopes over the three finest rungs; declared for ẑ, ŵ, b̂; relative L2 error of ẑ at the finest rung. Without a"
        " limit: slopes of the largest error of ẑ and of the errors of ŵ and b̂ over their movement"
    )
    return Table(title, [*head, "ẑ", "ŵ", "b̂", "loss", "declared", "error of ẑ", "verdict"], cells, note)
