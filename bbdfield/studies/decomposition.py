"""The decomposition study: L = L_bulk + L_boundary at every step of a training, and on random networks of every kind.

    config -> lattice, trained step by step and observed at each -> random networks, round trips -> scores -> figures

Between two steps the minibatch changes while W, b and their velocities stay: the state after step k is looked at with
the old and with the new samples, which shows what the boundary does to the bulk.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bbdfield.decomposition.lagrangian import boundary, bulk
from bbdfield.lattice.sharpness import check_training_step, stability_limit
from bbdfield.lattice.training import LatticeSystem
from bbdfield.model.boundary import Boundary
from bbdfield.model.run import record
from bbdfield.model.units import LatticeState, to_lattice
from bbdfield.storage.sidecar import Sidecar, finished_sidecar, read_sidecar, write_sidecar
from bbdfield.studies import describe as words
from bbdfield.studies.cases import NETWORKS, CaseResult, cases, run_case, run_round_trip
from bbdfield.studies.config import DecompositionConfig
from bbdfield.studies.describe import Cell, Description, Table
from bbdfield.studies.kinds import Session
from bbdfield.studies.machines import in_words
from bbdfield.studies.moments import Moment, Observer

SIDECAR = "decomposition.h5"
CAPTIONS = {
    "lagrangian": "The Lagrangian L of the network in (W, b, R), and its two parts in (W, z, R), at every training step"
    " on that step's samples (thin), with running means (thick). L and the sum of its parts come from different"
    " programs.",
    "bulk-density": "Lagrangian density of the bulk, layer by layer, along training: kinetic energy of the weights and,"
    " from the second layer on, of what were the biases. Rows beneath: its two terms summed over the depth, and the"
    " first layer's bias term, which belongs to the boundary because it sees the input.",
    "residual": "How exactly L = L_bulk + L_boundary holds, at every training step and for random networks of every"
    " kind: difference of the two sides relative to the operands of ḃ, which is what rounding allows (dark), and"
    " relative to L's own terms (light). Dashed: the spacing of floating-point numbers. Exact zeros lie on the lower"
    " edge.",
    "swaps": "What the arrival of new samples does at fixed parameters and velocities. Above: jumps of the boundary's"
    " and of the bulk's part of L. Below: jump of the neurons, and of the power that each layer takes from the current"
    " J that the boundary drives.",
}


class _ObservedLattice(LatticeSystem):
    """A lattice that is observed before every step, on the samples of the last step and of the next."""

    def __init__(self, observed: dict[str, list[Any]], *args: Any, **machine: Any) -> None:
        super().__init__(*args, **machine)
        self.observed, self.observer = observed, Observer(self)

    def step(self, k: int) -> dict[str, float]:
        index = self.boundary.batch(k)
        now = self.observer.moment(index)
        self._note(_of_moment(now))
        if k > 0 and not self.boundary.training.full_batch:
            before = self.observer.moment(self.boundary.batch(k - 1))
            self._note({**_of_swap(before, now), **self._new_data(before, now, index)})
        return super().step(k)

    def _note(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self.observed.setdefault(name, []).append(value)

    def _new_data(self, before: Moment, now: Moment, index: np.ndarray) -> dict[str, Any]:
        """Other X and Y at fixed (W, z): is L_bulk the same, bit by bit, and how much is L_boundary not?"""
        (w, _, r), (w_rate, _, r_rate) = self.u, before.velocity
        rule, mu = self.observer.rule, self.observer.motion.mu
        z, zdot = [now.z[0], *before.z[1:]], before.zdot
        kept = bulk(rule, w, w_rate, z, zdot, mu)
        loss = self.observer.output(index).value(z[-1], r)
        changed = boundary(rule, w, w_rate, z, zdot, r_rate, loss, mu)
        old = bulk(rule, w, w_rate, before.z, zdot, mu)
        return {
            "data_bulk_equal": int(np.array_equal(kept.layers, old.layers)),
            "data_boundary": changed.total - before.boundary.total,
        }


def _of_moment(moment: Moment) -> dict[str, Any]:
    return {
        "lagrangian": moment.direct.total,
        "bulk": moment.bulk.total,
        "boundary": moment.boundary.total,
        "loss": moment.direct.loss,
        "bulk_weights": moment.bulk.weights,
        "bulk_biases": moment.bulk.biases,
        "boundary_input": moment.boundary.input,
        "boundary_readout": moment.boundary.readout,
        "scale": moment.scale,
        "terms": moment.terms,
        "residual": moment.residual,
        "energy": moment.energy,
        "current": moment.current,
        "dissipation": moment.dissipation,
        "kinks": moment.kinks,
    }


def _of_swap(before: Moment, now: Moment) -> dict[str, Any]:
    """after − before; z relative to its RMS, samples compared in their order in the batch."""
    jumps = [
        float(np.linalg.norm(new - old) / max(float(np.linalg.norm(old)), np.finfo(float).tiny))
        for old, new in zip(before.z, now.z, strict=True)
    ]
    return {
        "swap_loss": now.direct.loss - before.direct.loss,
        "swap_bulk": now.bulk.total - before.bulk.total,
        "swap_boundary": now.boundary.total - before.boundary.total,
        "swap_kinetic": now.energy - before.energy,
        "swap_intake": now.intake - before.intake,
        "swap_neurons": np.array(jumps),
    }


def check(config: DecompositionConfig) -> str:
    """Refuse a training step that could only diverge."""
    training, lattice = config.training_plan(), config.lattice_at(*config.rungs()[0])
    start = to_lattice(config.initial_fields(lattice).on(lattice.grid, lattice))
    boundary = Boundary.draw(config.dataset(), lattice, training)
    system = LatticeSystem(lattice, boundary, start, **config.training.machine())
    sharp = check_training_step(system)
    stable = f"τ λ_max = {sharp:.3g} at the start (steps are stable up to {stability_limit(training):.3g})"
    return f"{in_words([system.backend.description])}; {stable}"


def compute(config: DecompositionConfig, out: Path, session: Session) -> tuple[dict[str, Any], Details]:
    """Train and observe (unless that is finished already), try the random networks."""
    with threadpool_limits(1):
        observed = _observed(config, out, session)
        count = config.decomposition.cases
        session.say(f"{count} random networks")
        results = [run_case(case, config.seed) for case in cases(count)]
        sizes = config.decomposition.round_trip
        depths = sizes if isinstance(sizes, tuple) else (sizes,)
        trips = []
        for depth in depths:
            lost = [run_round_trip(network, skip, depth, config.seed) for network in NETWORKS for skip in (0.0, 1.0)]
            trips.append({"depth": depth, "b": max(b for b, _ in lost), "bdot": max(dot for _, dot in lost)})
    return _scores(config, observed, results, trips), (observed, results)


Details = tuple[Sidecar, list[CaseResult]]


def _observed(config: DecompositionConfig, out: Path, session: Session) -> Sidecar:
    """The arrays of the observed training; from the file where it is finished, and then a damaged trajectory is
    mended.
    """
    path, told = out / SIDECAR, tomllib.loads(config.to_toml())
    finished = finished_sidecar(path)
    if finished is not None and finished.config != told:
        finished = None
    depth, width = config.rungs()[0]
    lattice, training = config.lattice_at(depth, width), config.training_plan()
    label, report = f"lattice M={depth} N={width}", session.report
    if finished is None:
        session.say(f"{label}: {training.steps} steps, each observed")
    initial = config.initial_fields(lattice)
    start: LatticeState = to_lattice(initial.on(lattice.grid, lattice))
    boundary = Boundary.draw(config.dataset(), lattice, training)
    lists: dict[str, list[Any]] = {}
    machine = config.training.machine()
    record(
        LatticeSystem(lattice, boundary, start, **machine)
        if finished is not None
        else _ObservedLattice(lists, lattice, boundary, start, **machine),
        kind="lattice",
        path=out / f"lattice-M{depth:03d}-N{width:03d}.h5",
        boundary=boundary,
        lattice=lattice,
        grid=lattice.grid,
        config={"initial": initial.to_config()},
        overwrite=finished is None,  # what is missing are its observations: they need every step
        resume=finished is not None,
        compression=config.compression(),
        progress=None if report is None else lambda done, total, loss: report(label, done, total, loss),
    ).close()
    if finished is not None:
        return finished
    steps = np.arange(training.steps)
    layers = {depth: "x_link", depth + 1: "x_site"}
    arrays: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for name, values in lists.items():
        array = np.array(values)
        when = "t_swap" if name.startswith(("swap_", "data_")) else "t"
        arrays[name] = ((when,) if array.ndim == 1 else (when, layers[array.shape[1]]), array)
    times = {"t": training.step * steps, "t_swap": training.step * steps[1:]}
    write_sidecar(
        path,
        kind=config.kind,
        config=told,
        arrays=arrays,
        coordinates={"t": times["t"], "x_site": lattice.grid.x_sites, "x_link": lattice.grid.x_links}
        | ({"t_swap": times["t_swap"]} if "swap_loss" in arrays else {}),
        overwrite=True,
    )
    return read_sidecar(path)


def _scores(
    config: DecompositionConfig, observed: Sidecar, results: list[CaseResult], trips: list[dict[str, Any]]
) -> dict[str, Any]:
    found = observed.arrays
    worst_training, worst_cases = float(found["residual"].max()), max(result.residual for result in results)
    by_network = []
    for network in NETWORKS:
        for skip in (0.0, 1.0):
            mine = [r.residual for r in results if (r.case.network, r.case.skip) == (network, skip)]
            if mine:
                by_network.append({"network": network, "skip": skip, "cases": len(mine), "worst": max(mine)})
    total = np.abs(found["lagrangian"])
    return {
        "kind": config.kind,
        "title": config.title,
        "decomposition": {
            "worst": max(worst_training, worst_cases),
            "worst_training": worst_training,
            "worst_cases": worst_cases,
            "worst_over_terms": max(
                float((found["residual"] * found["scale"] / found["terms"]).max()),
                *(result.over_terms for result in results),
            ),
            "steps": len(found["residual"]),
            "cases": len(results),
            "cases_by_network": by_network,
            "round_trip": max(max(trip["b"], trip["bdot"]) for trip in trips),
            "round_trip_by_depth": trips,
            "kinks": int(found["kinks"].sum()),
            "kinks_cases": sum(result.kinks for result in results),
            "lagrangian": _first_and_last(found["lagrangian"]),
            "bulk": _first_and_last(found["bulk"]),
            "boundary": _first_and_last(found["boundary"]),
            "loss": _first_and_last(found["loss"]),
            "bulk_share": float(np.mean(found["bulk"]) / np.mean(total)) if total.any() else 0.0,
            **_swap_scores(found),
        },
    }


def _first_and_last(values: np.ndarray) -> list[float]:
    """Means over the first and the last tenth of the steps: single minibatches scatter."""
    tenth = max(1, len(values) // 10)
    return [float(values[:tenth].mean()), float(values[-tenth:].mean())]


def _swap_scores(found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    if "swap_loss" not in found:
        return {"bulk_unchanged": None, "swaps": None}
    scale = found["terms"][1:]

    def rms(values: np.ndarray) -> float:
        return float(np.sqrt(np.mean(values**2)))

    return {
        "bulk_unchanged": bool(found["data_bulk_equal"].all()),
        "boundary_change": float(np.abs(found["data_boundary"] / scale).min()),
        "swaps": {
            "count": len(scale),
            "loss": rms(found["swap_loss"]),
            "boundary": rms(found["swap_boundary"]),
            "bulk": rms(found["swap_bulk"]),
            "bulk_largest": float(np.abs(found["swap_bulk"] / scale).max()),
            "kinetic": rms(found["swap_kinetic"].sum(axis=1)),
            "neurons": float(found["swap_neurons"].mean()),
            "intake": [rms(values) for values in found["swap_intake"].T],
        },
    }


def draw(config: DecompositionConfig, out: Path, scores: dict[str, Any], details: Details) -> None:
    """All figures."""
    from bbdfield.plotting import decomposition as figures
    from bbdfield.plotting.style import save

    observed, results = details
    tried = [(r.case.network, r.case.skip, r.residual, r.over_terms) for r in results]
    drawn = {
        "lagrangian": figures.figure_lagrangian(observed),
        "bulk-density": figures.figure_density(observed),
        "residual": figures.figure_residual(observed, tried),
    }
    if "swap_loss" in observed.arrays:
        drawn["swaps"] = figures.figure_swaps(observed)
    for name, figure in drawn.items():
        save(figure, out / "figures" / f"{name}.png")


# in words


def describe(config: Mapping[str, Any], scores: Mapping[str, Any]) -> Description:
    """Summary, key message and tables."""
    found = scores["decomposition"]
    steps, count = words.number(found["steps"]), words.number(found["cases"])
    summary = (
        f"{words.network(config)} At each of its {steps} steps the Lagrangian was computed in (W, b, R), from their"
        " velocities and the network's own loss, and in (W, z, R), as a bulk that knows neither data nor loss and a"
        f" boundary; velocities come from the dynamics. {count} random networks were tried as well: dense,"
        " convolutional and locally connected, plain and residual, with every activation and loss."
    )
    message = (
        f"L = L_bulk + L_boundary holds to {words.number(found['worst_training'])} of its operands at every step of"
        f" the training and to {words.number(found['worst_cases'])} on the random networks (relative to L's own terms,"
        f" which are smaller: {words.number(found['worst_over_terms'])})."
    )
    if found["bulk_unchanged"] is not None:
        kept = "stays the same to the last bit" if found["bulk_unchanged"] else "CHANGES"
        message += f" With other data at fixed (W, z) the bulk {kept}, and the boundary changes."
    used = found["kinks"] + found["kinks_cases"]
    if used:
        message += (
            f" {words.number(used)} neurons lay exactly on a kink of their activation"
            f" ({words.number(found['kinks'])} in the training), where the derivative from below was used."
        )
    return Description(summary, [_terms(found), *_swaps(found), _cases(found), _trips(found)], message)


def _terms(found: Mapping[str, Any]) -> Table:
    rows: list[list[Cell]] = [
        [name, *(words.measured(value) for value in found[key])]
        for name, key in (("L", "lagrangian"), ("L_bulk", "bulk"), ("L_boundary", "boundary"), ("loss ℓ", "loss"))
    ]
    return Table("Terms of the Lagrangian", ["", "first tenth", "last tenth"], rows, "means over the steps")


def _swaps(found: Mapping[str, Any]) -> list[Table]:
    swaps = found["swaps"]
    if swaps is None:
        return []
    names = (
        ("loss ℓ", "loss"),
        ("L_boundary", "boundary"),
        ("L_bulk", "bulk"),
        ("kinetic energy", "kinetic"),
        ("neurons z, relative", "neurons"),
    )
    rows: list[list[Cell]] = [[name, words.measured(swaps[key])] for name, key in names]
    title = f"Jumps at the {words.number(swaps['count'])} swaps of the minibatch"
    return [Table(title, ["", "root mean square"], rows, "at fixed parameters; velocities follow their own law")]


def _cases(found: Mapping[str, Any]) -> Table:
    rows: list[list[Cell]] = [
        [
            str(entry["network"]),
            "residual" if entry["skip"] else "plain",
            words.measured(entry["cases"]),
            words.measured(entry["worst"]),
        ]
        for entry in found["cases_by_network"]
    ]
    note = "|L − L_bulk − L_boundary| relative to the operands"
    return Table("The identity on random networks", ["network", "", "cases", "worst"], rows, note)


def _trips(found: Mapping[str, Any]) -> Table:
    rows: list[list[Cell]] = [
        [words.measured(trip[key]) for key in ("depth", "b", "bdot")] for trip in found["round_trip_by_depth"]
    ]
    note = "what is lost relative to the operands, over all kinds of networks"
    return Table("Round trip b → z → b", ["layers", "b", "db/dt"], rows, note)
