"""The continuum study: does the field theory predict the lattice, and how does its error fall with the spacing?

    config -> data -> lattice of every rung -> field of every order (and on a finer grid) -> scores -> figures

Lattices and fields are independent jobs: a field is computed from the configuration alone (the initial fields and the
boundary that it implies), never from a lattice's file. They run in parallel processes with one BLAS thread each,
which changes no bit of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bbdfield.comparison.orders import fit_order
from bbdfield.comparison.scores import Score, compare, grid_change
from bbdfield.errors import InputError
from bbdfield.fields.simulation import simulate
from bbdfield.fields.well_posedness import check_start, largest_input
from bbdfield.lattice.sharpness import check_training_step, stability_limit
from bbdfield.lattice.training import LatticeSystem, train
from bbdfield.model.activations import is_built_in
from bbdfield.model.boundary import Boundary
from bbdfield.model.run import Run
from bbdfield.model.scalings import SCALINGS, Critical
from bbdfield.model.units import to_lattice
from bbdfield.studies import describe as words
from bbdfield.studies.config import StudyConfig
from bbdfield.studies.describe import Cell, Description, Table
from bbdfield.studies.kinds import Session
from bbdfield.studies.machines import field_machine, in_words, lattice_machine
from bbdfield.studies.observe import recorders
from bbdfield.studies.pool import run_jobs
from solvers.grids import Grid
from solvers.stability import excess
from solvers.sweeps import get_scheme

QUANTITIES = ("z", "w", "b", "loss")
Details = dict[tuple[int, int], Score]
SYMBOLS = {"z": "ẑ", "w": "ŵ", "b": "b̂", "loss": "loss"}
#: figures in the order in which they are shown, with their captions
CAPTIONS = {
    "z-comparison": "Pre-activations ẑ(x, y) of the network, of the field theory, and their difference, which has a"
    " scale of its own, at four training times. Finest rung, highest order.",
    "w-comparison": "Weights ŵ(x, u) of the network, of the field theory, and their difference, which has a scale"
    " of its own, at four training times. Finest rung, highest order.",
    "training": "Training loss (thin: every step of the networks; thick: running mean) and test accuracy. Networks are"
    " grey and solid, the field theory at the finest rung is dashed.",
    "convergence": "Relative L2 error of the field theory over all stored times against the lattice spacing. Lines are"
    " fits, with the slope and its 95 % confidence interval; triangles show the slope that theory expects. Grey"
    " crosses: change when the field solver's own grid is refined.",
    "error-over-time": "Relative error at each stored time, at the finest rung. Dotted: the error of weights and biases"
    " relative to how far they have moved. The horizon is the first time at which the error of ẑ exceeds 10 %.",
    "depth-profile": "Relative error at each depth at the last stored time, at the finest rung.",
}


def machines(config: StudyConfig) -> tuple[list[str], list[str]]:
    """What trains each lattice of the plan, and what integrates each field."""
    plan, training = Plan.of(config), config.training_plan()
    lattices = [
        lattice_machine(config.training, config.lattice_at(depth, width), training) for depth, width in config.rungs()
    ]
    fields = []
    for job in (*plan.fields.values(), *plan.refined.values()):
        lattice = config.lattice_at(job.depth, job.width)
        grid = Grid(job.n_x, job.n_y, lattice.length_x, lattice.length_y)
        machine, order = config.field.machine(), job.order or 0
        fields.append(field_machine(machine, lattice, grid, order, training, **config.theory()))
    return lattices, fields


def check(config: StudyConfig) -> str:
    """Refuse a training or depth step that could only diverge; returns backend and sharpness in words."""
    computed, training, sharp = in_words(*machines(config)), config.training_plan(), None
    for depth, width in config.rungs():
        lattice = config.lattice_at(depth, width)
        if sharp is not None and lattice.range.lattice_bounded:
            break
        weights = to_lattice(config.initial_fields(lattice).on(lattice.grid, lattice))
        boundary = Boundary.draw(config.dataset(), lattice, training)
        system = LatticeSystem(lattice, boundary, weights, **config.training.machine())
        sharp = check_training_step(system) if sharp is None else sharp
    plan, excesses = Plan.of(config), [0.0]
    for job in dict.fromkeys((*plan.fields.values(), *plan.refined.values())):
        lattice = config.lattice_at(job.depth, job.width)
        grid = Grid(job.n_x, job.n_y, lattice.length_x, lattice.length_y)
        start, scheme = config.initial_fields(lattice).on(grid), get_scheme(config.field.depth_scheme)
        largest = largest_input(Boundary.draw(config.dataset(), lattice, training), job.n_y)
        growth = check_start(start, job.order or 0, scheme, **config.theory(), largest=largest)
        excesses.append(excess(growth.equation))
    stable = f"τ λ_max = {sharp:.3g} at the start (steps are stable up to {stability_limit(training):.3g})"
    coarsest = config.lattice_at(*config.rungs()[0])
    told = f"{computed}; {stable}"
    if max(excesses) > 0:
        told += f"; short waves grow by at most e^{max(excesses):.2g} beyond the longest"
    if isinstance(coarsest.law, Critical):
        largest = largest_input(Boundary.draw(config.dataset(), coarsest, training), coarsest.width)
        small = coarsest.law.kappa * coarsest.a_x * largest**2
        told += f"; κ a_x ẑ² = {small:.2g} at the input of the coarsest lattice (the cubic theory needs it to be small)"
    return told + ("; regularised: waves above π/a_y are cut off" if config.field.ill_posed == "cutoff" else "")


def compute(config: StudyConfig, out: Path, session: Session) -> tuple[dict[str, Any], Details]:
    """Train all lattices, integrate all fields, compare."""
    plan = Plan.of(config)
    jobs = plan.jobs()
    # another process would not know an activation that was registered in this one
    workers = min(session.workers, len(jobs)) if is_built_in(config.lattice.activation) else 1
    lattices = len(plan.lattices)
    session.say(f"{lattices} lattices and {len(jobs) - lattices} fields in {workers} processes")
    run_jobs(run_job, jobs, config, out, workers, session.report, session.say)
    session.say("comparing")
    with threadpool_limits(1):
        return score_study(config, plan, out)


def draw(config: StudyConfig, out: Path, scores: dict[str, Any], details: Details) -> None:
    """All figures of the study."""
    from bbdfield.studies.figures import write_figures

    plan = Plan.of(config)
    lattices = [Run(out / job.filename) for job in plan.lattices]
    fields = {key: Run(out / job.filename) for key, job in plan.fields.items()}
    try:
        triples = [(order, rung, score) for (order, rung), score in details.items()]
        write_figures(out, lattices, fields, triples, scores, config)
    finally:
        for run in (*lattices, *fields.values()):
            run.close()


@dataclass(frozen=True)
class Job:
    """One trajectory to compute: a lattice (order None) or a field of some order on some grid."""

    depth: int
    width: int
    order: int | None = None
    n_x: int = 0
    n_y: int = 0
    knows_a_y: bool = False

    @property
    def filename(self) -> str:
        if self.order is None:
            return f"lattice-M{self.depth:03d}-N{self.width:03d}.h5"
        # order 0 does not know a_x: one field for all depths
        of = (f"-M{self.depth:03d}" if self.order else "") + (f"-N{self.width:03d}" if self.knows_a_y else "")
        return f"field-order{self.order}{of}-{self.n_x}x{self.n_y}.h5"

    @property
    def label(self) -> str:
        if self.order is None:
            return f"lattice M={self.depth} N={self.width}"
        of = (f" M={self.depth}" if self.order else "") + (f" N={self.width}" if self.knows_a_y else "")
        return f"field order {self.order}{of} on {self.n_x}x{self.n_y}"

    @property
    def cost(self) -> int:
        """Rough relative cost, to start the longest jobs first."""
        if self.order is None:
            return self.depth * self.width
        return 4 * (2 + 3 * self.order) * self.n_x * self.n_y


@dataclass(frozen=True)
class Plan:
    """All jobs of a study: lattices[rung], fields[(order, rung)] and, if asked for, refined[(order, rung)]."""

    lattices: list[Job]
    fields: dict[tuple[int, int], Job]
    refined: dict[tuple[int, int], Job]

    @classmethod
    def of(cls, config: StudyConfig) -> Plan:
        rungs, knows_a_y = config.rungs(), bool(config.field.width_order) or config.field.ill_posed == "cutoff"
        fields, refined = {}, {}
        for order in config.field.orders:
            for rung, (depth, width) in enumerate(rungs):
                # a field that does not know the spacings is the same for every rung: the first stands for all
                describes = (depth if order else rungs[0][0], width if order or knows_a_y else rungs[0][1])
                grid = config.field_grid(depth, width)
                fields[order, rung] = Job(*describes, order, grid.n_x, grid.n_y, knows_a_y)
                fine = config.field_grid(depth, width, refined=True)
                if fine != grid:
                    refined[order, rung] = Job(*describes, order, fine.n_x, fine.n_y, knows_a_y)
        return cls([Job(depth, width) for depth, width in rungs], fields, refined)

    def jobs(self) -> list[Job]:
        """Each job once, longest first."""
        unique = dict.fromkeys((*self.lattices, *self.fields.values(), *self.refined.values()))
        by_file = {job.filename: job for job in reversed(list(unique))}
        return sorted(by_file.values(), key=lambda job: -job.cost)


# computing the trajectories


def run_job(job: Job, config: StudyConfig, out: Path, progress: Callable[[int, int, float], None] | None) -> None:
    """Compute one trajectory, or continue it; a finished one is left as it is."""
    path = out / job.filename
    lattice, training = config.lattice_at(job.depth, job.width), config.training_plan()
    initial = config.initial_fields(lattice)
    options: dict[str, Any] = {"resume": True, "compression": config.compression(), "progress": progress}
    dataset = config.dataset()
    if job.order is None:
        options["observers"] = recorders(
            config.training.observe, lattice, lattice.grid, training, "lattice", len(dataset.x)
        )
        run = train(lattice, dataset, training, initial=initial, out=path, **config.training.machine(), **options)
    else:
        grid = Grid(job.n_x, job.n_y, lattice.length_x, lattice.length_y)
        options["observers"] = recorders(config.training.observe, lattice, grid, training, "field", len(dataset.x))
        run = simulate(
            initial.on(grid, lattice),
            Boundary.draw(dataset, lattice, training),
            order=job.order,
            depth_scheme=config.field.depth_scheme,
            **config.field.machine(),
            **config.theory(),
            out=path,
            **options,
        )
    run.close()


# scoring


def score_study(config: StudyConfig, plan: Plan, out: Path) -> tuple[dict[str, Any], Details]:
    """Compare all files of a study; bitwise reproducible, so no times, paths or versions in here."""
    details: Details = {}
    rungs: list[dict[str, Any]] = []
    lattices: list[dict[str, Any]] = []
    for rung, lattice_job in enumerate(plan.lattices):
        with Run(out / lattice_job.filename) as run:
            window = min(config.training.snapshot_every, run.loss.size)
            lattices.append(
                {
                    "depth": lattice_job.depth,
                    "width": lattice_job.width,
                    "train_loss": float(np.mean(run.loss[-window:])),
                    "test_accuracy": _number(run.evaluation["test_accuracy"][-1]),
                }
            )
            for order in config.field.orders:
                with Run(out / plan.fields[order, rung].filename) as sim:
                    score = compare(sim, run)
                    change = None
                    if (order, rung) in plan.refined:
                        with Run(out / plan.refined[order, rung].filename) as fine:
                            change = grid_change(sim, fine, run)
                details[order, rung] = score
                rungs.append(
                    {
                        "depth": lattice_job.depth,
                        "width": lattice_job.width,
                        "a_x": run.lattice.a_x,
                        "a_y": run.lattice.a_y,
                        "order": order,
                        "n_x": plan.fields[order, rung].n_x,
                        "n_y": plan.fields[order, rung].n_y,
                        "error": _numbers(score.error),
                        "max_error": _numbers(score.max_error),
                        "error_over_movement": _numbers(score.error_over_movement),
                        "grid_error": max(change.values()) if change else None,
                        "grid_error_by": change,
                        "horizon": score.horizon,
                        "test_accuracy_field": _number(score.test_accuracy["field"][-1]),
                    }
                )
    return {
        "kind": config.kind,
        "title": config.title,
        "rungs": rungs,
        "fitted_against": config.fitted_against(),
        **fit_ladder(rungs, config.fitted_against(), list(config.field.orders)),
        "lattice": lattices,
    }, details


def fit_ladder(rungs: list[dict[str, Any]], against: str | None, orders: list[int]) -> dict[str, Any]:
    """fitted_order, fitted_order_ci and local_orders of each quantity; empty without a ladder, None where nothing can
    be fitted.
    """
    fitted: dict[str, dict[str, Any]] = {"fitted_order": {}, "fitted_order_ci": {}, "local_orders": {}}
    if against is None:
        return fitted
    for order in orders:
        mine = [rung for rung in rungs if rung["order"] == order]
        for key in fitted:
            fitted[key][str(order)] = {}
        for name in QUANTITIES:
            try:
                fit = fit_order([rung[against] for rung in mine], [rung["error"][name] for rung in mine])
            except InputError:
                slope, interval, local = None, None, None
            else:
                slope, interval, local = fit.order, list(fit.ci) if fit.ci else None, fit.local
            fitted["fitted_order"][str(order)][name] = slope
            fitted["fitted_order_ci"][str(order)][name] = interval
            fitted["local_orders"][str(order)][name] = local
    return fitted


def _number(value: Any) -> float | None:
    """For JSON: None where there is no number, as for an error over a movement that there was not."""
    return float(value) if np.isfinite(value) else None


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in values.items()}


# in words


def describe(config: Mapping[str, Any], scores: Mapping[str, Any]) -> Description:
    """Summary, key message and tables."""
    own = {key: f"the lattice's own {name}" for key, name in (("n_x", "depth"), ("n_y", "width"))}
    given = {key: words.at(config, "field", key) for key in own}
    grid = " × ".join(own[key] if cells == "lattice" else f"{cells} {key[-1]}-cells" for key, cells in given.items())
    summary = (
        f"{words.network(config)} From the same initial fields, and driven by the same data in the same order, the"
        f" field equations of order {words.listed(words.at(config, 'field', 'orders'))} in the lattice spacing were"
        f" integrated on a grid of {grid} ({words.at(config, 'field', 'depth_scheme')} in depth) and compared with the"
        " networks at equal training times."
    )
    rungs = scores.get("rungs") or []
    tables = [_rung_table(rungs)] if rungs else []
    lattice = config.get("lattice")
    if isinstance(lattice, Mapping) and not SCALINGS[str(lattice.get("scaling", "residual"))].limit:
        summary += f" {_plateau(rungs)}"
    if scores.get("fitted_order"):
        tables.append(_fitted_table(scores))
    if scores.get("lattice"):
        tables.append(_network_table(scores["lattice"]))
    return Description(summary, tables, _headline(rungs, scores) if rungs else "")


def _plateau(rungs: Sequence[Mapping[str, Any]]) -> str:
    """Why the error of a scaling without a limit stays, with its values over the ladder."""
    text = f"The error is not expected to vanish with the spacing. {words.NO_LIMIT}"
    if len(rungs) > 1:
        largest = words.listed([words.number(rung["max_error"]["z"]) for rung in rungs])
        moved = words.listed([words.number(rung["error_over_movement"]["b"]) for rung in rungs])
        text += f" Along the ladder: largest error of ẑ {largest}; error of b̂ over its movement {moved}."
    return text


def _headline(rungs: list[Mapping[str, Any]], scores: Mapping[str, Any]) -> str:
    finest = max(rungs, key=lambda rung: (rung["depth"] * rung["width"], rung["order"]))
    error = {name: words.number(value) for name, value in finest["error"].items()}
    text = (
        f"At the finest rung ({words.number(finest['depth'])} layers of {words.number(finest['width'])} cells) the"
        f" field of order {words.number(finest['order'])} has a relative error of {error['z']} in ẑ, {error['w']} in ŵ"
        f" and {error['loss']} in the loss"
    )
    slope = (scores.get("fitted_order") or {}).get(str(finest["order"]), {}).get("z")
    floor = (finest.get("grid_error_by") or {}).get("z")
    if floor is not None and finest["error"]["z"] is not None and floor > 0.3 * finest["error"]["z"]:
        text += "; the error of the solver's own grid is of that size, so refine field.n_x or field.n_y"
    elif slope is not None:
        text += f"; over the ladder the error of ẑ scales as {scores['fitted_against']}^{words.decimal(slope)}"
    horizon = finest["horizon"]
    return text + (
        "; its error in ẑ never exceeds 10 %."
        if horizon is None
        else f"; its error in ẑ first exceeds 10 % at t = {words.number(horizon)}."
    )


def _fitted_table(scores: Mapping[str, Any]) -> Table:
    intervals, local = scores.get("fitted_order_ci") or {}, scores.get("local_orders") or {}
    rows: list[list[Cell]] = []
    for order, slopes in scores["fitted_order"].items():
        row: list[Cell] = [str(order)]
        for name in SYMBOLS:
            cell = words.decimal(slopes.get(name))
            interval = intervals.get(order, {}).get(name)
            if interval:
                cell += f" [{words.decimal(interval[0])}, {words.decimal(interval[1])}]"
            between = local.get(order, {}).get(name)
            if between:
                cell += f"\n{', '.join(words.decimal(value) for value in between)}"
            row.append(cell)
        rows.append(row)
    title = f"Fitted orders of convergence in {scores['fitted_against']}"
    note = "with 95 % confidence interval; beneath, those between neighbouring rungs"
    return Table(title, ["order of the theory", *SYMBOLS.values()], rows, note)


def _rung_table(rungs: Iterable[Mapping[str, Any]]) -> Table:
    head = ["layers", "width", "order", *SYMBOLS.values(), "ŵ / moved", "b̂ / moved"]
    rows = [
        [
            *(words.measured(rung[key]) for key in ("depth", "width", "order")),
            *(words.measured(rung["error"][name]) for name in SYMBOLS),
            *(words.measured(rung["error_over_movement"][name]) for name in ("w", "b")),
            words.measured(rung["grid_error"]),
            "never" if rung["horizon"] is None else f"t = {words.number(rung['horizon'])}",
            words.percent(rung.get("test_accuracy_field")),
        ]
        for rung in rungs
    ]
    note = (
        "L2, over all stored times, also relative to how far weights and biases moved; change when the solver's grid is"
        " refined; first t with more than 10 % error in ẑ; test accuracy of the field"
    )
    return Table("relative errors of the field", [*head, "solver's grid", "horizon", "accuracy"], rows, note)


def _network_table(lattices: Iterable[Mapping[str, Any]]) -> Table:
    rows = [
        [
            *(words.measured(entry[key]) for key in ("depth", "width", "train_loss")),
            words.percent(entry["test_accuracy"]),
        ]
        for entry in lattices
    ]
    head = ["layers", "width", "training loss", "test accuracy"]
    return Table("The networks themselves, at the end of training", head, rows)
