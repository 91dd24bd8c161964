"""The validity study: how rough may weights be, and how much of them may be averaged away, for the fields to describe
the network?

    for every roughness ℓ/a and seed:   train the lattice from Gaussian random weights of correlation length ℓ
        for every window:               average its weights at t = 0 -> field -> ẑ, ŵ and loss, against the lattice

Initial weights are Gaussian random fields with correlation lengths ℓ_x = (ℓ/a) a_x and ℓ_u = ℓ_y = (ℓ/a) a_y, down to
independent values on every link and tap (ℓ/a = 0), for which no field exists. Two choices decide what is found.

**What may count as a field.** On as many depth cells as the network has layers, with ŵ constant on each, order 1 has
one number for every weight and repeats the network layer by layer, whatever the weights are: that would prove nothing.
So a cell of the field holds several layers (`field.layers`, 2 by default) and starts from their average under the
window, then over the cell. ŵ is constant on a cell (depth scheme "midpoint"): a scheme that interpolates between cells,
such as RK4, samples rough averages at points of its own making, and its aliasing, which is no property of the theory,
exceeded every other error there (error of ẑ over its movement 1.4 instead of 0.5 for independent weights without a
window, one seed). The solver's own grid is checked with the smallest window: the same start on `refine_x` times as many
cells. In the width the field keeps the lattice's cells: the kernel's operator takes no derivative across the width, and
data are not averaged, so averages of z across the width would not start from them.

**What is held fixed.** By default ("effect") the standard deviation of the weights' mean over depth and taps,
`initial.weight` = std of ⟨2r ŵ⟩√C: networks of all roughness do about equally much, and single weights become larger
the rougher they are. `initial.weight` = 1.4, 48 layers and 11 taps give independent weights of variance 2/(fan-in · M),
those of He for a residual network of M layers. With "weights", the standard deviation of each weight is fixed instead:
rough networks then do little, since their weights average out, smooth ones a lot, and the map shows strength as much as
roughness (at 16 the smoothest networks, whose errors grow in depth, were described worse than independent weights).

Errors are relative to the network; beside them stands the ratio to the trivial predictor "nothing moves", which knows
the network at t = 0: ‖field − network‖ / ‖network(t) − network(0)‖ over all stored t > 0; for the loss, the trivial
predictor is the network's loss with its initial weights on the same minibatches. At 1 a field is no better than that.
ẑ and the loss are compared with the network itself, ŵ with the averages of its weights: what was averaged away is in no
field. How far fields predict the *movement* of the network's own ẑ and ŵ stands beside: what was averaged away hardly
moves, so the movement of rough networks is predicted better than their state.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bbdfield.errors import InputError
from bbdfield.fields.closure import closure_residual
from bbdfield.fields.coarse_graining import Window, along, coarse_grain, restrict, restrict_sites, window_matrix
from bbdfield.fields.simulation import simulate
from bbdfield.fields.well_posedness import check_start
from bbdfield.lattice.sharpness import check_training_step, stability_limit
from bbdfield.lattice.training import LatticeSystem, train
from bbdfield.model.activations import is_built_in
from bbdfield.model.architecture import GROUPS, FieldState, Lattice, Training
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.losses import get_loss
from bbdfield.model.random_functions import cosine_amplitudes, cosine_basis
from bbdfield.model.run import Run
from bbdfield.model.units import LatticeState, to_lattice
from bbdfield.storage.sidecar import Sidecar, finished_sidecar, read_sidecar, write_sidecar
from bbdfield.studies.config import ValidityConfig
from bbdfield.studies.describe import Cell, Description, Table, listed, network, number
from bbdfield.studies.kinds import Session
from bbdfield.studies.machines import field_machine, in_words, lattice_machine
from bbdfield.studies.pool import run_jobs
from solvers.grids import Grid
from solvers.interpolation import average_matrix
from solvers.sweeps import get_scheme

Array = np.ndarray
Progress = Callable[[int, int, float], None]

QUANTITIES = ("z", "w", "loss")
SYMBOLS = {"z": "ẑ", "w": "ŵ", "loss": "loss"}
NAMES = {"z": "ẑ", "w": "the averages of ŵ", "loss": "the loss"}
#: what a quantity of a field is compared with; the first two are what `error` and `over_trivial` mean
COMPARISONS = ("z_network", "w_averages", "z_averages", "w_network", "z_movement", "w_movement")
MAIN = {"z": "z_network", "w": "w_averages"}
#: of that many values of roughness, and at this window (in layers), the picture shows fields
PICTURES, PICTURE_WINDOW = 3, 2.0

CAPTIONS = {
    "validity-map": "Error of the field relative to the trivial predictor “nothing moves”, with its standard error over"
    " seeds, for every roughness of the initial weights and every window. The line is the limit beyond which the field"
    " is no better than the trivial predictor; one stroke: within a standard error of it, two strokes: beyond.",
    "validity-error": "The same against the roughness, one line per window, mean and standard error over seeds. Last"
    " panel: orders of the theory with the smallest window, and the change when the field solver's own grid is"
    " refined.",
    "validity-closure": "The closure residual of averaging, ⟨𝒦[ŵ]σ(z)⟩ − 𝒦[⟨ŵ⟩]σ(⟨z⟩) relative to the first term, of"
    " the network's initial weights. Left: over all depths. Middle: at each depth, with the smallest window, then over"
    " cells. Right: the error of the field's ẑ against the residual, one point per roughness, window and seed.",
    "validity-fields": "Initial weights ŵ(x, u) of networks from rough to smooth, their average that the field starts"
    " from, and the pre-activations ẑ(x, y) of network and field at the end of training on one sample. The difference"
    " has a scale of its own.",
}


# the networks


@dataclass(frozen=True)
class Job:
    """The network of one roughness and seed, with all its fields."""

    ratio: float
    seed: int
    first: bool

    @property
    def label(self) -> str:
        return f"ℓ/a = {exact(self.ratio)}, seed {self.seed}"

    @property
    def name(self) -> str:
        return f"ratio{exact(self.ratio)}-seed{self.seed}"

    @property
    def lattice_file(self) -> str:
        return f"lattice-{self.name}.h5"

    @property
    def scores_file(self) -> str:
        return f"field-scores-{self.name}.h5"

    @property
    def field_file(self) -> str:
        """Of one field at a time; removed as soon as it has been compared."""
        return f"field-{self.name}.h5"

    def told(self, config: ValidityConfig) -> dict[str, Any]:
        """All that a job's numbers depend on, key by key, for its sidecar."""
        sections = tomllib.loads(config.to_toml())
        study = {
            f"{section}.{key}": value
            for section, table in sections.items()
            if isinstance(table, dict) and section != "output"
            for key, value in table.items()
        }
        return {"ratio": self.ratio, "seed": self.seed, "first": self.first, **study}


def exact(value: float) -> str:
    """The shortest text that only this number has: 0, 0.5, 1.0000001."""
    return repr(float(value)).removesuffix(".0")


def jobs_of(config: ValidityConfig) -> list[Job]:
    """All networks, by seed: the first seed also checks the solver's grid."""
    seeds = range(config.validity.seeds)
    return [Job(ratio, config.seed + k, k == 0) for k in seeds for ratio in config.validity.ratios]


def lattice_of(config: ValidityConfig) -> Lattice:
    return config.lattice_at(*config.rungs()[0])


def training_of(config: ValidityConfig, seed: int) -> Training:
    return dataclasses.replace(config.training_plan(), seed=seed)


def share_of_mean(length: float, correlation: float, cells: int) -> float:
    """Standard deviation of the mean over `cells` points of a random function of unit variance on [0, length]."""
    if correlation == 0:
        return 1 / math.sqrt(cells)
    amplitudes = cosine_amplitudes(length, correlation)
    points = (np.arange(cells) + 0.5) * length / cells
    means = cosine_basis(points, length, amplitudes.size).mean(axis=0)
    return float(np.linalg.norm(amplitudes * means))


def initial_of(config: ValidityConfig, ratio: float, seed: int) -> InitialFields:
    """Random initial weights of correlation length ratio · a."""
    lattice, initial = lattice_of(config), config.initial
    in_x, in_y = ratio * lattice.a_x, ratio * lattice.a_y
    weight, bias = initial.weight, initial.bias
    if config.validity.fixed == "effect":
        over_depth = share_of_mean(lattice.length_x, in_x, lattice.depth)
        taps = lattice.range.components(lattice.grid).size
        weight /= over_depth * share_of_mean(taps * lattice.a_y, in_y, taps)
        bias /= over_depth
    return InitialFields(
        lattice,
        seed,
        weight,
        bias,
        initial.readout,
        correlation_x=in_x,
        correlation_u=in_y,
        correlation_y=in_y,
    )


def average(state: FieldState, grid: Grid, window: float) -> FieldState:
    """Averages of ŵ, b̂ in depth under a Gaussian window of `window` layers, then over the cells of a coarser grid."""
    here = state.grid
    in_x = average_matrix(here.n_x, grid.n_x) @ window_matrix(here.x_links, window * here.h_x)
    return FieldState(state.lattice, grid, along(in_x, state.w, 0), along(in_x, state.b, 0), state.r)


def check(config: ValidityConfig) -> str:
    """Refuse a training or depth step that could only diverge; returns backend and sharpness in words."""
    sharpest, scheme = 0.0, get_scheme(config.field.depth_scheme)
    lattice, training = lattice_of(config), training_of(config, config.seed)
    boundary = Boundary.draw(config.dataset(), lattice, training)
    for job in jobs_of(config):
        start = initial_of(config, job.ratio, job.seed).on(lattice.grid)
        if job.first:
            system = LatticeSystem(lattice, boundary, to_lattice(start), **config.training.machine())
            sharpest = max(sharpest, check_training_step(system))
        averages = average(start, config.field_grid(), config.validity.windows[0])  # wider windows leave less
        try:
            check_start(averages, max(config.field.orders), scheme)
        except InputError as error:
            raise InputError(
                f"field.layers = {config.field.layers}: the field's {averages.grid.n_x} cells are too few for"
                f" {_what(job.ratio)} with {_size(config.validity.windows[0])} ({str(error).split('; ')[0]}); lower"
                " initial.weight, or use a deeper lattice"
            ) from error
    computed = [
        field_machine(config.field.machine(), lattice, config.field_grid(), order, training)
        for order in config.field.orders
    ]
    stable = f"τ λ_max <= {sharpest:.3g} at the start (steps are stable up to {stability_limit(training):.3g})"
    return f"{in_words([lattice_machine(config.training, lattice, training)], computed)}; {stable}"


# one network and its fields


def run_job(job: Job, config: ValidityConfig, out: Path, progress: Progress | None) -> None:
    """Train the network, or continue, or mend its file; simulate and compare its fields; leave the numbers in a
    sidecar, unless it is there.

    Raises
    ------
    InputError
        for a sidecar of another configuration.
    """
    finished = finished_sidecar(out / job.scores_file)
    if finished is not None:
        _check_sidecar(job, config, finished)
    lattice, training, windows, orders = lattice_of(config), training_of(config, job.seed), *_plan(config)
    total = training.steps * (1 + len(windows) * len(orders) + refined(config, job))
    done = 0

    def report() -> Progress | None:
        nonlocal done
        before, done = done, done + training.steps
        return None if progress is None else lambda k, _, loss: progress(before + k, total, loss)

    with train(
        lattice,
        config.dataset(),
        training,
        initial=initial_of(config, job.ratio, job.seed),
        out=out / job.lattice_file,
        resume=True,
        compression=config.compression(),
        progress=report(),
        **config.training.machine(),
    ) as run:
        if finished is not None:
            return
        found = _Fields(config, job, run, out)
        for window in windows:
            for order in orders:
                found.compare(window, order, report)
        found.write()


def _check_sidecar(job: Job, config: ValidityConfig, found: Sidecar) -> None:
    """Refuse the sidecar of another job or configuration."""
    path, expected = found.path, job.told(config)
    if found.kind != config.kind:
        raise InputError(f"{path}: holds arrays of kind {found.kind!r}, not {config.kind!r}; remove it")
    for key in {**expected, **found.config}:
        if found.config.get(key) != expected.get(key):
            was, now = (values.get(key, "none") for values in (found.config, expected))
            raise InputError(f"{path}: is of another configuration ({key} = {was}, not {now}); remove it")


def refined(config: ValidityConfig, job: Job) -> bool:
    """Whether a job repeats its field of the highest order and the smallest window on a finer grid."""
    return job.first and config.field.refine_x > 1


def _plan(config: ValidityConfig) -> tuple[tuple[float, ...], tuple[int, ...]]:
    return config.validity.windows, config.field.orders


class _Fields:
    """All fields of one network: squares of errors at each stored t > 0, losses, closure residuals, pictures."""

    def __init__(self, config: ValidityConfig, job: Job, run: Run, out: Path) -> None:
        self.config, self.job, self.run, self.out = config, job, run, out
        self.grid = config.field_grid()
        windows, orders = _plan(config)
        self.at = {(w, n): (j, i) for i, w in enumerate(windows) for j, n in enumerate(orders)}
        shape, times = (len(orders), len(windows)), len(run.t) - 1
        self.squares = {name: np.zeros((*shape, times, 3)) for name in COMPARISONS}
        self.refined = np.full((*shape, len(QUANTITIES)), np.nan)
        self.loss = np.zeros((*shape, run.loss.size))
        residuals = [
            [closure_residual(run, i, Window(w * run.lattice.a_x), self.grid.n_x) for w in windows]
            for i in (0, len(run.t) - 1)
        ]
        self.closure = np.array([[each.total for each in row] for row in residuals])
        self.closure_by_depth = np.array([each.by_depth for each in residuals[0]])
        taps = run.lattice.range.components(self.grid).size
        self.picture_w = np.zeros((len(windows), self.grid.n_x, taps))
        self.picture_z = np.zeros((len(windows), self.grid.n_x + 1, self.grid.n_y))
        self.network = [(run.fields(i).w, run.z(i)) for i in range(len(run.t))]

    def compare(self, window: float, order: int, report: Callable[[], Progress | None]) -> None:
        """Simulate one field and compare it."""
        where, run = self.at[window, order], self.run
        averages = coarse_grain(run, self.grid, Window(window * run.lattice.a_x))
        start = averages.fields(0)
        with self._simulate(start, order, report()) as sim:
            fields = [(sim.fields(i).w, sim.z(i)) for i in range(len(sim.t))]
            self.loss[where] = sim.loss
        means = [(averages.fields(i).w, averages.z(i)) for i in range(len(run.t))]
        for name, squares in self._squares(fields, means).items():
            self.squares[name][where] = squares
        if order == max(self.config.field.orders):
            i = where[1]
            self.picture_w[i] = _kernel(start.w, self.grid)
            self.picture_z[i] = fields[-1][1][:, :, 0, 0]
        factor = self.config.field.refine_x
        if refined(self.config, self.job) and order == max(self.config.field.orders) and where[1] == 0:
            finer = Grid(factor * self.grid.n_x, self.grid.n_y)
            w, b = (np.repeat(values, factor, axis=0) for values in (start.w, start.b))
            again = FieldState(start.lattice, finer, w, b, start.r)
            with self._simulate(again, order, report()) as sim:
                self.refined[where] = self._change(sim, fields, factor, self.loss[where])

    def _simulate(self, start: FieldState, order: int, progress: Progress | None) -> Run:
        keys = self.config.field
        path = self.out / self.job.field_file
        options: dict[str, Any] = {"depth_scheme": keys.depth_scheme, "overwrite": True, **keys.machine()}
        return simulate(start, self.run.boundary, order=order, out=path, progress=progress, **options)

    def _squares(self, fields: list[tuple[Array, Array]], means: list[tuple[Array, Array]]) -> dict[str, Array]:
        """(t, 3) for each comparison: ‖error‖², ‖compared with‖², ‖its movement‖²."""
        run, grid, start = self.run, self.grid, self.run.fields(0)

        def on_lattice(w: Array, z: Array) -> tuple[Array, Array]:
            state = FieldState(start.lattice, grid, w, np.zeros((grid.n_x, grid.n_y, w.shape[-1])), start.r)
            return restrict(state, run.grid).w, restrict_sites(z, grid, run.grid)

        mine = [on_lattice(*each) for each in fields]
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in COMPARISONS}
        for i in range(1, len(run.t)):
            for k, name in enumerate("wz"):
                theirs, theirs_first = self.network[i][k], self.network[0][k]
                mean, mean_first = means[i][k], means[0][k]
                moved = theirs - theirs_first
                found[f"{name}_network"].append(_triple(mine[i][k] - theirs, theirs, moved))
                found[f"{name}_averages"].append(_triple(fields[i][k] - mean, mean, mean - mean_first))
                found[f"{name}_movement"].append(_triple(mine[i][k] - mine[0][k] - moved, moved, moved))
        return {name: np.array(values) for name, values in found.items()}

    def _change(self, sim: Run, fields: list[tuple[Array, Array]], factor: int, loss: Array) -> list[float]:
        """Change of ẑ, ŵ and loss on a finer grid, relative to the movement that the trivial predictor misses."""
        changed, moved = np.zeros(2), np.zeros(2)
        for i in range(1, len(fields)):
            w, z = sim.fields(i).w, sim.z(i)[::factor]
            w = w.reshape(-1, factor, *w.shape[1:]).mean(axis=1)
            changed += [np.sum((z - fields[i][1]) ** 2), np.sum((w - fields[i][0]) ** 2)]
            moved += [np.sum((fields[i][k] - fields[0][k]) ** 2) for k in (1, 0)]
        in_loss = np.linalg.norm(sim.loss - loss), np.linalg.norm(self.frozen - self.run.loss)
        pairs = [*zip(np.sqrt(changed), np.sqrt(moved), strict=True), in_loss]
        return [float(above / below) if below > 0 else math.nan for above, below in pairs]

    @cached_property
    def frozen(self) -> Array:
        """Loss of every step's samples with the network's initial weights."""
        run, boundary = self.run, self.run.boundary
        state = LatticeState(*(run.trajectory.fields[name][0] for name in GROUPS))
        system = LatticeSystem(run.lattice, boundary, state)
        loss, rows = get_loss(run.lattice.loss), [boundary.batch(k) for k in range(run.training.steps)]
        return np.array([loss.value(system.logits(boundary.dataset.x[row]), boundary.targets[row]) for row in rows])

    def write(self) -> None:
        """Leave everything in the job's sidecar; the fields themselves are gone."""
        (self.out / self.job.field_file).unlink(missing_ok=True)
        by_field, run = ("order", "window"), self.run
        arrays: dict[str, tuple[tuple[str, ...], Array]] = {
            name: ((*by_field, "t", "square"), squares) for name, squares in self.squares.items()
        }
        arrays |= {
            "refined": ((*by_field, "quantity"), self.refined),
            "loss": ((*by_field, "batch_step"), self.loss),
            "loss_network": (("batch_step",), run.loss),
            "loss_frozen": (("batch_step",), self.frozen),
            "closure": (("end", "window"), self.closure),
            "closure_by_depth": (("window", "x_link"), self.closure_by_depth),
            "picture_w": (("window", "x_link", "u"), self.picture_w),
            "picture_z": (("window", "x_site", "y"), self.picture_z),
        }
        windows, orders = _plan(self.config)
        write_sidecar(
            self.out / self.job.scores_file,
            kind=self.config.kind,
            config=self.job.told(self.config),
            arrays=arrays,
            coordinates={"order": np.array(orders), "window": np.array(windows), "t": run.t[1:]},
            overwrite=True,
        )


def _triple(error: Array, size: Array, moved: Array) -> tuple[float, float, float]:
    return float(np.sum(error**2)), float(np.sum(size**2)), float(np.sum(moved**2))


def _kernel(w: Array, grid: Grid) -> Array:
    """One channel to itself, (x_link, u); in the middle of the width where weights are not shared."""
    return (w if w.ndim == 4 else w[:, grid.n_y // 2])[:, 0, :, 0]


# all networks


@dataclass
class Details:
    """Arrays for figures and sidecar; their axes are (order, ratio, window, seed).

    error, trivial : comparison or "loss" -> relative error, and error relative to the trivial predictor.
    refined : quantity -> change on a finer grid (order, ratio, window), first seed; NaN where it was not checked.
    closure : residual at the start and at the end, (2, ratio, window, seed).   closure_by_depth : at the start,
    (ratio, window, seed, cell).   pictures : one per roughness that is shown.
    """

    ratios: Array
    windows: Array
    orders: tuple[int, ...]
    error: dict[str, Array]
    trivial: dict[str, Array]
    refined: dict[str, Array]
    closure: Array
    closure_by_depth: Array
    pictures: list[dict[str, Any]]


def compute(config: ValidityConfig, out: Path, session: Session) -> tuple[dict[str, Any], Details]:
    """Train all networks, simulate all their fields, compare."""
    jobs = jobs_of(config)
    # another process would not know an activation that was registered in this one
    workers = min(session.workers, len(jobs)) if is_built_in(config.lattice.activation) else 1
    windows, orders = _plan(config)
    session.say(f"{len(jobs)} lattices, each with {len(windows) * len(orders)} fields, in {workers} processes")
    run_jobs(run_job, jobs, config, out, workers, session.report, session.say)
    session.say("comparing")
    with threadpool_limits(1):
        details = gather(config, out)
        scores = score(config, details)
    _write(config, out, details)
    return {"kind": config.kind, "title": config.title, "validity": scores}, details


def gather(config: ValidityConfig, out: Path) -> Details:
    """Read the sidecars of all jobs."""
    ratios, seeds, (windows, orders) = config.validity.ratios, range(config.validity.seeds), _plan(config)
    found = {(job.ratio, job.seed): read_sidecar(out / job.scores_file) for job in jobs_of(config)}

    def stacked(of: Callable[[Sidecar], Array]) -> Array:
        """(order, window) of each job -> (order, ratio, window, seed)."""
        table = np.array([[of(found[ratio, config.seed + k]) for k in seeds] for ratio in ratios])
        return np.moveaxis(table, (2, 0, 3, 1), (0, 1, 2, 3))

    error, trivial = {}, {}
    for name in COMPARISONS:
        wrong, size, moved = (stacked(partial(_sum_over_time, name, column)) for column in range(3))
        error[name], trivial[name] = _root(wrong, size), _root(wrong, moved)
    wrong = stacked(lambda s: np.sum((s.arrays["loss"] - s.arrays["loss_network"]) ** 2, axis=-1))
    like = np.ones((len(orders), len(windows)))
    size = stacked(lambda s: like * np.sum(s.arrays["loss_network"] ** 2))
    fell = stacked(lambda s: like * np.sum((s.arrays["loss_frozen"] - s.arrays["loss_network"]) ** 2))
    error["loss"], trivial["loss"] = _root(wrong, size), _root(wrong, fell)
    first = [found[ratio, config.seed].arrays for ratio in ratios]
    refined = np.array([each["refined"] for each in first])  # (ratio, order, window, quantity)
    closure = np.array([[found[ratio, config.seed + k].arrays["closure"] for k in seeds] for ratio in ratios])
    by_depth = np.array([[found[ratio, config.seed + k].arrays["closure_by_depth"] for k in seeds] for ratio in ratios])
    return Details(
        np.array(ratios),
        np.array(windows),
        orders,
        error,
        trivial,
        {name: np.moveaxis(refined[..., k], 1, 0) for k, name in enumerate(QUANTITIES)},
        np.moveaxis(closure, (2, 0, 3, 1), (0, 1, 2, 3)),
        np.moveaxis(by_depth, 2, 1),
        [_picture(config, out, ratio, found[ratio, config.seed]) for ratio in _shown(ratios)],
    )


def _sum_over_time(name: str, column: int, found: Sidecar) -> Array:
    """(order, window): a column of `_Fields.squares`, summed over the stored times."""
    total: Array = found.arrays[name][..., column].sum(axis=-1)
    return total


def _root(above: Array, below: Array) -> Array:
    """√(above / below), NaN where there is nothing to compare with."""
    return np.sqrt(np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0))


def _shown(ratios: Sequence[float]) -> list[float]:
    """The values of roughness of which fields are shown."""
    chosen = np.unique(np.linspace(0, len(ratios) - 1, min(len(ratios), PICTURES)).round().astype(int))
    return [ratios[i] for i in chosen]


def _picture(config: ValidityConfig, out: Path, ratio: float, found: Sidecar) -> dict[str, Any]:
    windows = np.array(config.validity.windows)
    i = int(np.argmin(np.abs(windows - PICTURE_WINDOW)))
    with Run(out / Job(ratio, config.seed, True).lattice_file) as run:
        return {
            "ratio": ratio,
            "window": float(windows[i]),
            "w": _kernel(run.fields(0).w, run.grid),
            "w_average": found.arrays["picture_w"][i],
            "z": run.z(-1)[:, :, 0, 0],
            "z_field": found.arrays["picture_z"][i],
            "reach": float(run.lattice.range.components(run.grid).size * run.grid.h_y / 2),
        }


# scores


def statistics(values: Array) -> dict[str, float | None]:
    """Mean and standard error over seeds; None for what there is not."""
    mean, count = float(np.mean(values)), len(values)
    error = float(np.std(values, ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    return {"mean": _plain(mean), "standard_error": _plain(error)}


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def limit_of(ratios: Sequence[float], over_trivial: Sequence[float]) -> float | None:
    """The smallest ℓ/a from which on, for all smoother weights, a field beats the trivial predictor.

    Interpolated, with log over_trivial linear in ℓ/a, between the roughest weights that are described and the next
    rougher ones; the smallest ratio itself if all are described, None if the smoothest are not (or nothing moved).
    """
    values = np.asarray(over_trivial, float)
    if not values[-1] < 1:
        return None
    failing = np.flatnonzero(~(values < 1))
    if not failing.size:
        return float(ratios[0])
    i = int(failing[-1])
    if not np.isfinite(values[i]) or values[i + 1] <= 0:
        return float(ratios[i + 1])
    part = math.log(values[i]) / (math.log(values[i]) - math.log(values[i + 1]))
    return float(ratios[i] + part * (ratios[i + 1] - ratios[i]))


def score(config: ValidityConfig, details: Details) -> dict[str, Any]:
    """All points, and for each order, quantity and window the limit; bitwise reproducible."""
    means = {name: details.trivial[_main(name)].mean(axis=-1) for name in QUANTITIES}  # (order, ratio, window)
    limits = {
        str(order): {
            name: [
                {
                    "window": float(window),
                    "ratio": (limit := limit_of(details.ratios.tolist(), means[name][j, :, i].tolist())),
                    "everywhere": limit is not None and bool(np.all(means[name][j, :, i] < 1)),
                }
                for i, window in enumerate(details.windows)
            ]
            for name in QUANTITIES
        }
        for j, order in enumerate(details.orders)
    }
    return {
        "fixed": config.validity.fixed,
        "cells": config.field_grid().n_x,
        "weight": [_std(config, ratio) for ratio in config.validity.ratios],
        "points": list(_points(config, details)),
        "limit": limits,
    }


def _std(config: ValidityConfig, ratio: float) -> float:
    """Standard deviation of single weights W."""
    initial = initial_of(config, ratio, config.seed)
    lattice = initial.lattice
    taps = lattice.range.components(lattice.grid).size
    return initial.weight * lattice.law.unit(lattice.a_x) / (taps * math.sqrt(lattice.channels))


def _main(name: str) -> str:
    return MAIN.get(name, name)


def _points(config: ValidityConfig, details: Details) -> Iterator[dict[str, Any]]:
    for j, order in enumerate(details.orders):
        for r, ratio in enumerate(details.ratios):
            for i, window in enumerate(details.windows):
                at = (j, r, i)
                error = {name: statistics(values[at]) for name, values in details.error.items()}
                trivial = {name: statistics(values[at]) for name, values in details.trivial.items()}
                yield {
                    "order": order,
                    "ratio": float(ratio),
                    "window": float(window),
                    "seeds": config.validity.seeds,
                    "error": {name: error[_main(name)] for name in QUANTITIES},
                    "over_trivial": {name: trivial[_main(name)] for name in QUANTITIES},
                    "over_trivial_averages": {"z": trivial["z_averages"]},
                    "over_trivial_network": {"w": trivial["w_network"]},
                    "movement_error": {name: trivial[f"{name}_movement"] for name in ("z", "w")},
                    "grid_change": {name: _plain(details.refined[name][at]) for name in QUANTITIES},
                    "closure": {
                        "start": statistics(details.closure[0, r, i]),
                        "end": statistics(details.closure[1, r, i]),
                    },
                }


def _write(config: ValidityConfig, out: Path, details: Details) -> None:
    """Every seed's numbers, as arrays."""
    axes = ("order", "ratio", "window", "seed")
    arrays: dict[str, tuple[tuple[str, ...], Array]] = {}
    for name, values in details.error.items():
        arrays[f"error_{name}"] = (axes, values)
        arrays[f"over_trivial_{name}"] = (axes, details.trivial[name])
    for name, values in details.refined.items():
        arrays[f"grid_change_{name}"] = (axes[:3], values)
    arrays["closure"] = (("end", *axes[1:]), details.closure)
    arrays["closure_by_depth"] = ((*axes[1:], "x_link"), details.closure_by_depth)
    seeds = np.arange(config.validity.seeds) + config.seed
    coordinates = {"order": np.array(details.orders), "ratio": details.ratios, "window": details.windows, "seed": seeds}
    coordinates["x_link"] = config.field_grid().x_links
    write_sidecar(
        out / "validity.h5",
        kind=config.kind,
        config=tomllib.loads(config.to_toml()),
        arrays=arrays,
        coordinates=coordinates,
        overwrite=True,
    )


def draw(config: ValidityConfig, out: Path, scores: dict[str, Any], details: Details) -> None:
    """All figures of the study."""
    from bbdfield.plotting import validity as plots
    from bbdfield.plotting.style import save

    last = len(details.orders) - 1
    shown = {name: details.trivial[_main(name)] for name in QUANTITIES}
    axes = (details.ratios, details.windows)
    figures = {
        "validity-map": plots.figure_map(*axes, {name: values[last] for name, values in shown.items()}),
        "validity-error": plots.figure_error(
            *axes,
            {name: values[last] for name, values in shown.items()},
            dict(zip(details.orders, shown["z"][:, :, 0], strict=True)),
            details.refined["z"][last, :, 0],
        ),
        "validity-closure": plots.figure_closure(
            *axes, details.closure[0], details.closure_by_depth[:, 0], details.error[MAIN["z"]][last]
        ),
        "validity-fields": plots.figure_fields(details.pictures),
    }
    for name, figure in figures.items():
        save(figure, out / "figures" / f"{name}.png")


# in words


def describe(config: Mapping[str, Any], scores: Mapping[str, Any]) -> Description:
    """What was measured, and where the description stops."""
    found = scores["validity"]
    points = found["points"]
    order = max(point["order"] for point in points)
    best = [point for point in points if point["order"] == order]
    ratios, windows = (sorted({point[key] for point in best}) for key in ("ratio", "window"))
    at = {(point["ratio"], point["window"]): point for point in best}
    tables = [_map_table(name, ratios, windows, at) for name in QUANTITIES]
    tables.append(_limit_table(found["limit"][str(order)], windows, order))
    tables.append(_rough_table(ratios, windows, at, found["weight"]))
    held = {
        "effect": "The mean of the weights over depth and taps had the same standard deviation for all of them",
        "weights": "Single weights had the same standard deviation for all of them",
    }[found["fixed"]]
    summary = (
        f"{network(config)} This was repeated for initial weights of {len(ratios)} correlation lengths, from"
        f" {_roughness(ratios[0])} to {exact(ratios[-1])} lattice spacings, with {best[0]['seeds']} seeds each. {held}."
        f" For every network, weights averaged under Gaussian windows of {listed(map(exact, windows))} layers,"
        f" then over the {found['cells']} cells of the field, were the start of the field theory of order {order}, and"
        " this was compared with the network and with the trivial predictor that nothing moves."
    )
    return Description(summary, tables, _message(found, at, ratios, windows, order))


def _roughness(ratio: float) -> str:
    return "independent weights" if ratio == 0 else exact(ratio)


def _message(
    found: Mapping[str, Any],
    at: Mapping[tuple[float, float], Mapping[str, Any]],
    ratios: Sequence[float],
    windows: Sequence[float],
    order: int,
) -> str:
    """Where the description stops, from the limits and the points."""
    parts = []
    for name in QUANTITIES:
        parts.append(_where(NAMES[name], found["limit"][str(order)][name], at, name))
    moved = [point["movement_error"]["z"]["mean"] for (ratio, _), point in at.items() if ratio == ratios[0]]
    known = [value for value in moved if value is not None]
    if known:
        parts.append(
            f"How ẑ moves, apart from where it starts, is missed by {number(min(known), 2)} to {number(max(known), 2)}"
            f" of the movement for the roughest weights ({_what(ratios[0])})."
        )
    rough, smooth = (_best_window(at, ratio, windows) for ratio in (ratios[0], ratios[-1]))
    if rough is not None and smooth is not None and len(windows) > 1:
        parts.append(
            f"The error of ẑ is smallest with {_size(rough)} for {_what(ratios[0])}, and with {_size(smooth)} for"
            f" {_what(ratios[-1])}."
        )
    return " ".join(parts)


def _what(ratio: float) -> str:
    return "independent weights" if ratio == 0 else f"ℓ/a = {exact(ratio)}"


def _where(
    quantity: str,
    limits: Sequence[Mapping[str, Any]],
    at: Mapping[tuple[float, float], Mapping[str, Any]],
    name: str,
) -> str:
    """One sentence about one quantity."""
    means = [point["over_trivial"][name]["mean"] for point in at.values()]
    known = [value for value in means if value is not None]
    if not known:
        return f"As to {quantity}, nothing moves at all."
    failed = sum(value >= 1 for value in known)
    if not failed:
        return (
            f"The field predicts {quantity} better than “nothing moves” everywhere on the map (error / movement from"
            f" {number(min(known), 2)} to {number(max(known), 2)})."
        )
    text = f"The field is no better than “nothing moves” for {quantity} at {failed} of {len(known)} points"
    stops = [
        f"{_size(entry['window'])} below ℓ/a = {number(entry['ratio'], 2)}"
        for entry in limits
        if not entry["everywhere"] and entry["ratio"] is not None
    ]
    never = [_size(entry["window"]) for entry in limits if entry["ratio"] is None]
    if stops:
        text += f": with {'; with '.join(stops)}"
    if never:
        text += f"{';' if stops else ':'} with {listed(never)} not even the smoothest weights are described"
    close = sum(_is_close(point["over_trivial"][name]) for point in at.values())
    if close:
        text += f"; of all points, {close} {'lies' if close == 1 else 'lie'} within a standard error of the limit"
    return f"{text}."


def _is_close(entry: Mapping[str, Any]) -> bool:
    """Whether the limit, 1, is within a standard error of the mean."""
    mean, error = entry["mean"], entry["standard_error"]
    return mean is not None and error is not None and abs(mean - 1) <= error


def _size(window: float) -> str:
    return "no window" if window == 0 else f"a window of {exact(window)} {'layer' if window == 1 else 'layers'}"


def _best_window(
    at: Mapping[tuple[float, float], Mapping[str, Any]], ratio: float, windows: Sequence[float]
) -> float | None:
    errors = {window: at[ratio, window]["error"]["z"]["mean"] for window in windows}
    known = {window: error for window, error in errors.items() if error is not None}
    return min(known, key=lambda window: known[window]) if known else None


def _with_error(entry: Mapping[str, Any]) -> str:
    """Mean, and beneath it the standard error."""
    error = entry["standard_error"]
    return number(entry["mean"], 2) + ("" if error is None else f"\n± {number(error, 1)}")


def _map_table(
    name: str,
    ratios: Sequence[float],
    windows: Sequence[float],
    at: Mapping[tuple[float, float], Mapping[str, Any]],
) -> Table:
    rows: list[list[Cell]] = [
        [exact(window), *(_with_error(at[ratio, window]["over_trivial"][name]) for ratio in ratios)]
        for window in windows
    ]
    of = "the averages of the network's" if name == "w" else "the network's own"
    return Table(
        f"Error of {SYMBOLS[name]} / “nothing moves”",
        ["window (layers)", *(f"ℓ/a = {exact(ratio)}" for ratio in ratios)],
        rows,
        f"against {of}; beneath, the standard error over seeds",
    )


def _limit_table(limits: Mapping[str, Sequence[Mapping[str, Any]]], windows: Sequence[float], order: int) -> Table:
    def cell(entry: Mapping[str, Any]) -> str:
        if entry["everywhere"]:
            return "everywhere"
        return "nowhere" if entry["ratio"] is None else f"from {number(entry['ratio'], 2)}"

    rows: list[list[Cell]] = [
        [exact(window), *(cell(limits[name][i]) for name in QUANTITIES)] for i, window in enumerate(windows)
    ]
    return Table(
        f"ℓ/a from which on order {order} beats “nothing moves”",
        ["window (layers)", *SYMBOLS.values()],
        rows,
        "interpolated between the values that were tried; nowhere: not even for the smoothest weights",
    )


def _rough_table(
    ratios: Sequence[float],
    windows: Sequence[float],
    at: Mapping[tuple[float, float], Mapping[str, Any]],
    weights: Sequence[float],
) -> Table:
    window = windows[0]
    rows: list[list[Cell]] = []
    for ratio, weight in zip(ratios, weights, strict=True):
        point = at[ratio, window]
        rows.append(
            [
                exact(ratio),
                weight,
                _with_error(point["error"]["z"]),
                _with_error(point["movement_error"]["z"]),
                _with_error(point["movement_error"]["w"]),
                _with_error(point["closure"]["start"]),
                point["grid_change"]["z"],
            ]
        )
    head = ["ℓ/a", "std of W", "ẑ / ‖ẑ‖", "movement of ẑ", "movement of ŵ", "closure residual", "solver's grid"]
    return Table(
        f"From rough to smooth, with {_size(window)}",
        head,
        rows,
        "error of ẑ; of how the network's own ẑ and ŵ move, relative to that; closure residual of the initial weights;"
        " change of ẑ on a finer grid, relative to its movement",
    )
