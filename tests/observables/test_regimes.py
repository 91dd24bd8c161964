"""Regime change: curves and settling times against slow versions, and nodal lines whose motion is known."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest

from bbdfield.datasets import Dataset
from bbdfield.errors import InputError
from bbdfield.fields.simulation import simulate
from bbdfield.lattice.dense import DenseNetwork, descend, draw_dense
from bbdfield.lattice.training import train
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import Rates
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.losses import get_loss
from bbdfield.model.ranges import Taps
from bbdfield.model.run import Run
from bbdfield.observables.regimes import (
    Curves,
    Definitions,
    Norms,
    Steps,
    _told,
    flipped,
    follow_dense,
    follow_run,
    hidden_layers,
    nodal_lines,
    observe,
    ratios,
    relative_step,
    settled,
    settles_at_the_end,
    settles_below,
    settles_in_sum,
    signs,
    smoothed,
    times,
)
from bbdfield.observables.stepping import recorded, replay
from bbdfield.plotting.regimes import figure_observed
from solvers.grids import Grid

# settling


def slow_means(curve, window):
    return [sum(curve[i : i + window]) / window for i in range(len(curve) - window + 1)]


def slow_below(curve, rho, window):
    means = slow_means(curve, window)
    for i in range(len(means)):
        if all(value < rho * max(means) for value in means[i:]):
            return i + window / 2
    return math.nan


def slow_in_sum(curve, q, window):
    means, total = slow_means(curve, window), 0.0
    for i, value in enumerate(means):
        total += value
        if total >= q * sum(means):
            return i + window / 2
    return math.nan


@pytest.mark.parametrize("window", [1, 4, 30])
def test_settling_times_are_those_of_slow_loops(window):
    rng = np.random.default_rng(window)
    curve = np.exp(-np.arange(200) / 40) * rng.uniform(0.2, 1, 200) + 0.02
    np.testing.assert_allclose(smoothed(curve, window), slow_means(curve, window), rtol=1e-12)
    for level in (0.05, 0.1, 0.3, 0.5, 0.9):
        expected = slow_below(curve, level, window)
        np.testing.assert_equal(settles_below(curve, level, window), expected)
        assert settles_in_sum(curve, level, window) == slow_in_sum(curve, level, window)


def test_exponentials_settle_by_their_rates():
    """exp(-t/90) and exp(-t/30): T_ρ = τ ln(1/ρ) and T_q = τ ln(1/(1−q)), so that every ratio is 3."""
    t = np.arange(3000) + 0.5
    slow, fast = np.exp(-t / 90), np.exp(-t / 30)
    definitions = Definitions(thresholds=(0.1, 0.3), fractions=(0.5, 0.9), windows=(1,))
    found = times(Curves(slow, 7 * slow, fast), definitions)
    np.testing.assert_allclose(found["rho"][0, 0], [90 * math.log(10), 90 * math.log(1 / 0.3)], atol=1.5)
    np.testing.assert_allclose(found["q"][2, 0], [30 * math.log(2), 30 * math.log(10)], atol=1.5)
    of = ratios(found)
    np.testing.assert_allclose(of["rho"], 3, atol=0.1)
    np.testing.assert_allclose(of["q"], 3, atol=0.1)
    assert of["rho"].shape == (2, 1, 2) and "end" not in of


def test_what_does_not_settle_is_no_number():
    flat, falling = np.ones(100), np.linspace(1, 0, 100)
    assert math.isnan(settles_below(flat, 0.5))
    assert math.isnan(settles_in_sum(np.zeros(100), 0.5))
    assert settles_in_sum(flat, 0.5) == 49.5  # q times the run's length, however long it is
    again = np.concatenate([falling, [1.0]])
    assert settles_below(falling, 0.5) == 50.5 and math.isnan(settles_below(again, 0.5))
    found = times(Curves(flat, flat, falling), Definitions(windows=(1,)))
    assert np.isnan(ratios(found)["rho"]).all() and np.isfinite(found["rho"][2]).all()
    # the sum of a flat curve reaches q, which is no settling
    does = settled(found)
    assert np.isfinite(found["q"]).all() and not does["q"][:2].any() and does["q"][2].all() and does["rho"][2].all()


def test_a_sum_counts_where_the_curve_settles_by_the_largest_level_with_the_same_window():
    """A last step of 1 among falling ones: it never settles by itself, but its averages do."""
    curve = np.append(np.linspace(1, 0, 100), 1.0)
    found = times(Curves(curve, curve, curve), Definitions(thresholds=(0.05, 0.5), fractions=(0.5,), windows=(1, 10)))
    assert np.isnan(found["rho"][0, 0]).all() and np.isfinite(found["rho"][0, 1]).tolist() == [False, True]
    assert settled(found)["q"][..., 0].tolist() == [[False, True]] * 3


def test_curves_that_are_not_finite_are_refused():
    for curve in (np.array([1.0, math.nan, 0.5]), np.array([math.inf, 1.0, 0.5])):
        for settles in (settles_below, settles_in_sum):
            with pytest.raises(InputError, match=r"^a curve of weights or patterns is not finite .*; lower the rates$"):
                settles(curve, 0.5)
        with pytest.raises(InputError, match=r"^a curve of weights or patterns is not finite"):
            settles_at_the_end(np.arange(3.0), curve, 0.5)


def test_distance_from_the_end():
    at = np.array([0.0, 10, 20, 30])
    assert settles_at_the_end(at, np.array([4.0, 1.9, 2.1, 0.0]), 0.5) == 30
    assert settles_at_the_end(at, np.array([4.0, 1.9, 1.0, 0.0]), 0.5) == 10
    assert math.isnan(settles_at_the_end(at, np.zeros(4), 0.5))


def test_windows_are_parts_of_the_run():
    assert Definitions.of(2000).windows == (1, 20, 100)
    assert Definitions.of(40, (0.0, 0.1)).windows == (1, 4)
    with pytest.raises(InputError, match=r"^a window of 11 steps does not fit the run's 10; use another$"):
        smoothed(np.ones(10), 11)


# dense networks


def dense(residual=False, rates=0.05, steps=30, every=7):
    rng = np.random.default_rng(3)
    network = DenseNetwork(get_activation("relu"), get_loss("cross-entropy"), residual)
    w, b = draw_dense([6, 6, 6, 3] if residual else [6, 9, 8, 3], rng, math.sqrt(2))
    x, labels = rng.standard_normal((6, 20)), np.eye(3)[np.arange(20) % 3]
    batches = [(x[:, k % 4 :: 4], labels[k % 4 :: 4]) for k in range(steps)]
    probe = rng.standard_normal((6, 12))
    made = list(descend(network, w, b, batches, rates))
    return network, w, b, made, probe, follow_dense(network, w, b, iter(made), rates, probe, every)


@pytest.mark.parametrize("residual", [False, True])
def test_curves_of_a_dense_network_by_slow_loops(residual):
    network, w, b, made, probe, (curves, last) = dense(residual)
    assert last.k == 29 and len(curves.a) == 30
    states = [(w, b), *((step.w, step.b) for step in made)]
    hidden = [0] if residual else [0, 1]
    assert list(hidden_layers(network, len(w))) == hidden
    for k in (0, 11, 29):
        parts = [[*states[i][0], *states[i][1]] for i in (k, k + 1)]
        moved = sum(
            (q - p) ** 2 for old, new in zip(*parts, strict=True) for p, q in zip(old.flat, new.flat, strict=True)
        )
        size = sum(p**2 for part in parts[0] for p in part.flat)
        assert curves.w[k] == pytest.approx(math.sqrt(moved / size), rel=1e-12)
        assert curves.w_rate[k] == pytest.approx(curves.w[k] / 0.05)
        z = [network.forward(*states[i], probe) for i in (k, k + 1)]
        flips = [
            (z[0][layer][unit, sample] > 0) != (z[1][layer][unit, sample] > 0)
            for layer in hidden
            for unit, sample in itertools.product(range(len(z[0][layer])), range(12))
        ]
        assert curves.a[k] == sum(flips) / len(flips)
    assert curves.a.max() > 0
    np.testing.assert_array_equal(curves.at, [0, 7, 14, 21, 28, 30])
    assert curves.distance_w[-1] == 0 and curves.distance_a[-1] == 0
    ends = [*states[14][0], *states[14][1]], [*states[30][0], *states[30][1]]
    away = math.sqrt(sum(float(((p - q) ** 2).sum()) for p, q in zip(*ends, strict=True)))
    assert curves.distance_w[2] == pytest.approx(away, rel=1e-12)


def test_a_rate_of_its_own_for_every_step():
    rates = [0.1 / (1 + k) for k in range(30)]
    *_, (curves, _) = dense(rates=rates, every=0)
    np.testing.assert_allclose(curves.w_rate, curves.w * (1 + np.arange(30)) / 0.1)
    assert curves.at.size == 0


def test_what_has_no_pattern_and_no_size():
    network = DenseNetwork(get_activation("relu"), get_loss("cross-entropy"))
    with pytest.raises(InputError, match=r"^a network of one layer activates nothing; it needs two layers or more$"):
        hidden_layers(network, 1)
    with pytest.raises(InputError, match=r"^all weights are zero, so w_t = .* has no denominator"):
        relative_step([np.zeros(3)], [np.ones(3)])
    w, b = draw_dense([2, 3, 2], np.random.default_rng(0))
    with pytest.raises(InputError, match=r"^no training step was given"):
        follow_dense(network, w, b, iter([]), 0.1, np.ones((2, 1)))
    assert flipped(signs([np.array([1.0, -1.0, 0.0])]), signs([np.array([1.0, 1.0, -1.0])])) == pytest.approx(1 / 3)


# lattice and field

STEPS = 60


@pytest.fixture(scope="module")
def runs(signals, problems, tmp_path_factory):
    """A lattice and its field, with their numbers of every step recorded."""
    out = tmp_path_factory.mktemp("regimes")
    lattice = problems.lattice(activation="relu")
    training = problems.training(steps=STEPS, snapshot_every=15, step=0.5, probe=6)
    start = InitialFields(lattice, 3)
    observers = [Steps(lattice, lattice.grid, training, "lattice")]
    train(lattice, signals, training, initial=start, out=out / "lattice.h5", observers=observers).close()
    boundary = Boundary.draw(signals, lattice, training)
    grid = Grid(5, 10)
    field = start.on(grid)
    observers = [Steps(lattice, grid, training, "field")]
    simulate(field, boundary, order=1, depth_scheme="midpoint", out=out / "field.h5", observers=observers).close()
    with Run(out / "lattice.h5") as a, Run(out / "field.h5") as b:
        yield {"lattice": a, "field": b}


@pytest.mark.parametrize("kind", ["lattice", "field"])
def test_steps_are_those_of_slow_sums(runs, kind):
    run = runs[kind]
    numbers = recorded(run, Steps)
    lattice, grid, rates = run.lattice, run.grid, run.training.rates
    h_x, h_y = grid.h_x, grid.h_y
    hats = {"w": 1.0, "b": 1.0, "r": 1.0}
    if kind == "lattice":
        hats = {"w": 1 / (lattice.a_x * lattice.a_y), "b": 1 / lattice.a_x, "r": 1.0}
    cells = {"w": h_x * h_y, "b": h_x * h_y, "r": 1.0}  # tied kernel: quadrature in x and u
    previous = None
    for k, system, before, after in replay(run):
        z = np.array(system.probe())
        if previous is not None:
            count = sum(
                (previous[m, i, c, s] > 0) != (z[m, i, c, s] > 0)
                for m in range(1, len(z) - 1)
                for i, c, s in itertools.product(*map(range, z.shape[1:]))
            )
            assert numbers["regimes_a"][k] == count / z[1:-1].size
        previous = z
        if k > 4:
            break
        plain = {name: 1.0 if kind == "lattice" else cells[name] for name in cells}
        metric = {name: cells[name] * hats[name] ** 2 / getattr(rates, name) for name in cells}
        for name, weights, factor in (("regimes_w", plain, 1.0), ("regimes_w_rate", metric, 1 / run.training.step)):
            moved = sum(weights[g] * float(((after[g] - before[g]) ** 2).sum()) for g in weights)
            size = sum(weights[g] * float((before[g] ** 2).sum()) for g in weights)
            assert numbers[name][k] == pytest.approx(factor * math.sqrt(moved / size), rel=1e-12)
    assert numbers["regimes_a"].max() > 0


def test_the_metric_of_the_rates_is_the_norm_of_the_gradient(runs):
    """Σ_g ‖ΔW_g‖²/η_g with the lattice's own numbers and learning rates, whatever the hatted units."""
    from bbdfield.model.units import learning_rates

    run = runs["lattice"]
    rates = learning_rates(run.lattice, 1.0, run.training.rates)
    numbers = recorded(run, Steps)
    k, _, before, after = next(iter(replay(run)))
    moved = sum(float(((after[g] - before[g]) ** 2).sum()) / getattr(rates, g) for g in ("w", "b", "r"))
    size = sum(float((before[g] ** 2).sum()) / getattr(rates, g) for g in ("w", "b", "r"))
    assert numbers["regimes_w_rate"][k] == pytest.approx(math.sqrt(moved / size) / run.training.step, rel=1e-12)


def test_numbers_depend_on_no_earlier_step(runs):
    """As resumed runs need: a recorder that sees single steps finds the same bits, and leaves the system as it was."""
    run = runs["lattice"]
    numbers = recorded(run, Steps)
    for k, system, before, after in replay(run):
        if k in (0, 17, 40):
            found = Steps(run.lattice, run.grid, run.training, "lattice").step(k, system, before, after)
            assert [found[name] for name in Steps.names] == [numbers[name][k] for name in Steps.names]
            assert all(np.array_equal(system.state()[name], after[name]) for name in after)


def test_steps_that_do_not_follow_one_another_on_one_recorder(runs):
    """Signs of the step before are used again only if it was the step before."""
    run = runs["lattice"]
    numbers, maker = recorded(run, Steps), Steps(run.lattice, run.grid, run.training, "lattice")
    seen = [k for k in range(1, STEPS) if numbers["regimes_a"][k] > 0]
    wanted = [0, 5, 6, seen[-1]]
    for k, system, before, after in replay(run):
        if k in wanted:
            assert maker.step(k, system, before, after)["regimes_a"] == numbers["regimes_a"][k]


def test_recorded_numbers_are_those_of_a_replay(runs, signals, tmp_path):
    run = runs["lattice"]
    again = train(run.lattice, signals, run.training, initial=InitialFields(run.lattice, 3), out=tmp_path / "plain.h5")
    with again:
        found, stored = recorded(again, Steps), recorded(run, Steps)
        for name in Steps.names:
            np.testing.assert_array_equal(found[name], stored[name])


def test_groups_that_do_not_train_are_left_out(problems):
    lattice = problems.lattice()
    state = {"w": np.ones((6, 2, 5, 2)), "b": np.ones((6, 10, 2)), "r": np.ones((3, 2, 3))}
    after = {name: 1.1 * values for name, values in state.items()}
    after["r"] = 5 * state["r"]
    frozen = Norms(lattice, lattice.grid, problems.training(rates=(2.0, 0.2, 0.0)), "lattice")
    assert frozen.relative_steps(state, after) == pytest.approx((0.1, 0.1))
    moving = Norms(lattice, lattice.grid, problems.training(), "lattice")
    assert moving.relative_steps(state, after)[0] > 0.2


@pytest.mark.parametrize("kind", ["lattice", "field"])
def test_norms_of_untied_weights(problems, kind):
    """Untied kernel weights: ∫ over x, y and u; the lattice's are a_x a_y ŵ, its b = a_x b̂."""
    lattice, training = problems.lattice(tied=False), problems.training()
    h_x, h_y = lattice.a_x, lattice.a_y
    rng = np.random.default_rng(5)
    before = {"w": rng.standard_normal((6, 10, 2, 5, 2)), "b": rng.standard_normal((6, 10, 2)), "r": np.ones((3, 2, 3))}
    after = {name: values + 0.1 * rng.standard_normal(values.shape) for name, values in before.items()}
    cells = {"w": h_x * h_y * h_y, "b": h_x * h_y, "r": 1.0}
    hats = {"w": h_x * h_y, "b": h_x, "r": 1.0} if kind == "lattice" else dict.fromkeys(cells, 1.0)
    plain = dict.fromkeys(cells, 1.0) if kind == "lattice" else cells
    metric = {g: cells[g] / hats[g] ** 2 / getattr(training.rates, g) for g in cells}
    expected = [
        math.sqrt(
            sum(weights[g] * float(((after[g] - before[g]) ** 2).sum()) for g in cells)
            / sum(weights[g] * float((before[g] ** 2).sum()) for g in cells)
        )
        for weights in (plain, metric)
    ]
    found = Norms(lattice, lattice.grid, training, kind).relative_steps(before, after)
    assert found == pytest.approx(expected, rel=1e-12)


def test_norms_of_a_lattice_without_skips(problems):
    """W = 1 + unit ŵ on the centre tap: the metric is of ŵ, which starts from 0, w_t of W, which starts from 1."""
    lattice = problems.lattice(scaling="critical", range=Taps(3), activation="tanh")
    training = problems.training(rates=(2.0, 0.0, 0.0))
    rng = np.random.default_rng(6)
    one = np.zeros((6, 2, 3, 2))
    one[:, 0, 1, 0] = one[:, 1, 1, 1] = 1.0
    small = 0.01 * rng.standard_normal(one.shape)
    before, after = {"w": one + small}, {"w": one + 1.5 * small}
    plain, metric = Norms(lattice, lattice.grid, training, "lattice").relative_steps(before, after)
    assert metric == pytest.approx(0.5, rel=1e-12)
    assert plain == pytest.approx(0.5 * np.linalg.norm(small) / np.linalg.norm(one + small), rel=1e-12)


# nodal lines


@dataclass
class Line:
    """z = normal · (x, y) − 0.6 − 0.3 t of several normals."""

    grid: Grid

    def z(self, t):
        x, y = np.meshgrid(self.grid.x_sites, self.grid.y, indexing="ij")
        angles = np.linspace(0.1, 1.4, 7)
        return np.cos(angles) * x[..., None] + np.sin(angles) * y[..., None] - 0.6 - 0.3 * t


def test_flips_are_the_area_that_lines_sweep():
    """A moving line: speed 0.3 exactly; over a coarse step the signs that flip are its area, to the grid's spacing."""
    grid = Grid(200, 200)
    line, tau = Line(grid), 0.2
    before, after = line.z(0.0), line.z(tau)
    found = nodal_lines(before, after, tau, grid)
    np.testing.assert_allclose(found.speed, 0.3, rtol=1e-10)
    flips = ((before[1:-1] > 0) != (after[1:-1] > 0)).mean(axis=(0, 1))
    np.testing.assert_allclose(tau * found.swept, flips, rtol=0.02)


def test_flips_of_a_growing_circle(fitted_order):
    """Radius 0.25 + 0.1 t: swept area and flipped fraction agree better on finer grids, and with π(r₁² − r₀²)."""
    errors = []
    for n in (20, 40, 80, 160):
        grid, exact = Grid(n, n), math.pi * (0.3**2 - 0.25**2)
        x, y = np.meshgrid(grid.x_sites, grid.y, indexing="ij")
        centres = 0.5 + 0.02 * np.random.default_rng(0).uniform(-1, 1, (40, 2))
        away = np.hypot(x[..., None] - centres[:, 0], y[..., None] - centres[:, 1])
        before, after = away - 0.25, away - 0.3
        found = nodal_lines(before, after, 0.5, grid)
        area = (1 - 2 * grid.h_x) * (1 - grid.h_y)  # between the sites that move, and the outermost cells
        flips = ((before[1:-1] > 0) != (after[1:-1] > 0)).mean() * (1 - grid.h_x)
        swept = 0.5 * found.swept.mean() * area
        assert flips == pytest.approx(swept, rel=0.05)
        errors.append(abs(swept / exact - 1))
        np.testing.assert_allclose(found.length, 2 * math.pi * 0.275, rtol=2 / n)
    assert errors[-1] < 1e-3 and fitted_order([1 / n for n in (20, 40, 80, 160)], errors) > 1.5


def test_periodic_lines_and_none():
    grid = Grid(12, 16)
    x, y = np.meshgrid(grid.x_sites, grid.y, indexing="ij")
    wave = np.stack([np.cos(2 * np.pi * (y - 0.2)), 2 + x], axis=-1)
    moved = np.stack([np.cos(2 * np.pi * (y - 0.21)), 2 + x], axis=-1)
    found = nodal_lines(wave, moved, 0.1, grid, periodic=True)
    np.testing.assert_allclose(found.length, [2, 0], atol=1e-12)
    assert found.speed[0] == pytest.approx(0.1, rel=0.03) and math.isnan(found.speed[1])
    np.testing.assert_allclose(found.swept, [0.2, 0], rtol=0.03)


def test_one_moving_site_has_nothing_between():
    """Two layers: lines have a length and a speed, and no area between the first and the last site that move."""
    grid = Grid(2, 20)
    line = Line(grid)
    found = nodal_lines(line.z(0.0), line.z(0.1), 0.1, grid)
    assert np.isnan(found.swept).all() and (found.length > 0.5).all()
    np.testing.assert_allclose(found.speed, 0.3, rtol=1e-10)


# a recorded run


@pytest.mark.parametrize("kind", ["lattice", "field"])
def test_observe(runs, kind):
    run = runs[kind]
    found = observe(run)
    values = found.values()
    snapshots, samples = len(run.steps), 6
    assert values["regimes_a"].shape == (STEPS,)
    assert values["regimes_time_rho"].shape == (3, 2, 5) and values["regimes_ratio_q"].shape == (2, 2, 5)
    assert values["regimes_length"].shape == (snapshots, 2, samples)
    assert found.coordinates["regimes_window"].tolist() == [1, 3]
    assert np.isfinite(values["regimes_ratio_q"]).all()
    for name, (dims, array) in found.arrays.items():
        assert name.startswith("regimes_") and len(dims) == np.ndim(array)
        assert all(dim in ("step", "t") or dim.startswith("regimes_") for dim in dims)
    known = np.concatenate([np.ravel(values[f"regimes_ratio_{name}"]) for name in ("rho", "q", "end")])
    does = {name: np.isfinite(values[f"regimes_time_{name}"]) for name in ("rho", "q", "end")}
    does["q"] &= does["rho"][..., -1:]  # a sum says something of curves that settle by ρ = 0.5
    both = [np.ravel(does["rho"][:2] & does["rho"][2]), np.ravel(does["q"][:2] & does["q"][2]), does["end"].all(axis=0)]
    counted = known[np.concatenate(both)]
    assert found.summary["settled"] == counted.size < found.summary["definitions"] == known.size
    assert found.summary["ratio_median"] == pytest.approx(np.median(counted))
    assert "times as late as patterns" in found.told[0] and "nodal lines" in found.told[1]
    assert found.told[0].endswith(
        f"by the other {known.size - counted.size} weights, patterns or both do not settle within the run"
    )
    length = values["regimes_length"].mean(axis=(1, 2))
    expected = {"length_first": length[0], "length_last": length[-1], "length_mean": length.mean()}
    assert {name: found.summary[name] for name in expected} == pytest.approx(expected)
    # distances are those of the stored fields
    signs_end, signs_0 = run.z(-1)[1:-1] > 0, run.z(0)[1:-1] > 0
    assert values["regimes_distance_a"][0] == (signs_end != signs_0).mean()
    # what is shown moves as the step from that snapshot does
    shown = int(np.flatnonzero(run.t == found.coordinates["regimes_shown"][1])[0])
    one = run.z(shown)[..., found.summary["channel"], found.summary["sample"]]
    start = values["regimes_z"][1] - 0.5 * run.training.step * values["regimes_z_rate"][1]
    np.testing.assert_allclose(start, one, atol=1e-12)


def test_the_last_step_is_the_last_of_the_run(runs):
    run = runs["lattice"]
    values = observe(run).values()
    end = values["regimes_z"][-1] + 0.5 * run.training.step * values["regimes_z_rate"][-1]
    summary = observe(run).summary
    np.testing.assert_allclose(end, run.z(-1)[..., summary["channel"], summary["sample"]], atol=1e-12)


def test_what_is_told_of_every_and_of_no_definition():
    base = {"steps": 50, "definitions": 4, "settled": 4, "ratio_median": 1.2, "ratio_least": 1, "ratio_most": 3}
    assert _told(base)[0].endswith("by 4 of 4 definitions")
    assert _told({**base, "settled": 0}) == [
        "by none of 4 definitions do both weights and patterns settle within 50 steps"
    ]
    lines = {"length_first": 2.0, "length_last": 3.0, "flipped": 0.1, "swept": None}
    assert _told({**base, **lines})[1].endswith("a step flips 1.00e-01 of the units")
    assert _told({**base, **lines, "swept": 0.2})[1].endswith("and its lines sweep 2.00e-01 of the area")


def test_swept_area_and_flips_of_a_run(runs):
    """Of the few single steps at the snapshots of one run, over channels and samples: alike to a third or so."""
    found = observe(runs["lattice"]).summary
    assert found["flipped"] > 0.001
    assert found["swept"] == pytest.approx(found["flipped"], rel=0.35)


def test_a_single_cell_has_no_lines(problems, tmp_path):
    """A dense residual lattice: every point of a signal is a channel of its one cell."""
    rng = np.random.default_rng(0)
    data = Dataset("dense", rng.standard_normal((24, 4, 1)), np.arange(24) % 3, outputs=3)
    lattice = problems.lattice(width=1, channels=5, data_channels=4, readout_modes=1, range=Taps(1), activation="relu")
    training = problems.training(steps=40, snapshot_every=10)
    with train(lattice, data, training, out=tmp_path / "dense.h5") as run:
        found = observe(run)
        curves, lines = follow_run(run)
        assert lines is None and len(found.told) == 1 and "regimes_z" not in found.arrays
        assert curves.a.max() > 0
        figure = figure_observed(found.values(), found.coordinates, found.summary, "dense.h5")
    assert len(figure.axes) == 2


# what is refused


def test_too_little_to_settle(signals, problems, tmp_path):
    lattice = problems.lattice()
    few = problems.training(steps=12, snapshot_every=2)
    with (
        train(lattice, signals, few, out=tmp_path / "few.h5") as run,
        pytest.raises(
            InputError, match=r"few\.h5: has 12 training steps, and settling needs 40 or more.*; train longer$"
        ),
    ):
        observe(run)
    rare = problems.training(steps=40, snapshot_every=40)
    with (
        train(lattice, signals, rare, out=tmp_path / "rare.h5") as run,
        pytest.raises(InputError, match=r"rare\.h5: has 2 snapshots, and settling needs 3 or more; lower training\.sn"),
    ):
        observe(run)


def test_networks_without_a_pattern(problems):
    lattice = problems.lattice(depth=1)
    with pytest.raises(
        InputError, match=r"^with a single layer only the input is activated.*; use lattice.depth >= 2$"
    ):
        Steps(lattice, lattice.grid, problems.training(), "lattice")
    lattice = problems.lattice()
    with pytest.raises(InputError, match=r"^all training\.rates are zero, so no weights move; give one that is > 0$"):
        Norms(lattice, lattice.grid, problems.training(rates=(0.0, 0.0, 0.0)), "lattice")
    zero = {"w": np.zeros(1), "b": np.zeros(1), "r": np.zeros(1)}
    norms = Norms(lattice, lattice.grid, problems.training(), "field")
    with pytest.raises(InputError, match=r"^all weights that train are zero.*; use larger \[initial\] amplitudes$"):
        norms.relative_steps(zero, zero)
    assert Rates(0.0, 0.0, 0.0).w == 0
