"""The temperature study, small: its grid, comparisons with known answers, its files, and what it refuses."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.plotting.temperature import _message, figure_balance, figure_curves, figure_forms
from bbdfield.storage.sidecar import read_sidecar
from bbdfield.studies import temperature
from bbdfield.studies.collapse import (
    compare,
    exchangeable,
    groups_of,
    partial_rank_correlation,
    rank_correlation,
    slopes,
    student_interval,
)
from bbdfield.studies.config import TemperatureConfig, parse_config
from bbdfield.studies.describe import Table
from bbdfield.studies.run import run_study
from bbdfield.studies.temperature import CAPTIONS, QUANTITIES, at_level, common_level, describe, jobs_of, verdict

SMALL = """
kind = "temperature"
title = "small"
seed = 3
[data]
file = "data.npz"
[lattice]
depth = 3
width = 12
channels = 2
radius = "1/8"
readout_modes = 4
[initial]
weight = 2.0
[training]
steps = 48
batch = 4
rates = { w = 3.0, b = 0.3, r = 1.0 }
probe = 2
[temperature]
rates = [0.5, 1, 2]
batches = [2, 4, 8]
seeds = 3
samples = 30
evaluations = 8
chains = 2000
[output]
figures = false
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_data):
    path = tmp_path_factory.mktemp("temperature")
    write_data(path)
    return path


def silent(line: str) -> None:
    """No progress on the screen of the tests."""


def parsed(folder, *overrides):
    config = parse_config(SMALL, "study", folder, overrides)
    assert isinstance(config, TemperatureConfig)
    return config


@pytest.fixture(scope="module")
def finished(folder):
    """The study, with figures."""
    out = folder / "run"
    scores = run_study(parsed(folder, "output.figures=true"), out, workers=1, say=silent)
    return out, scores


# the grid


def test_all_points_train_for_one_time_on_the_same_samples(finished, folder):
    found = finished[1]["temperature"]
    assert [(p["rate"], p["batch"]) for p in found["points"]] == [(r, b) for r in (0.5, 1, 2) for b in (2, 4, 8)]
    assert {p["rate"]: p["steps"] for p in found["points"]} == {0.5: 96, 1: 48, 2: 24}
    assert found["time"] == 48 and found["networks"] == 27 and found["diverged"] == 0 and found["seeds"] == 3
    for point in found["points"]:
        assert point["ratio"] == point["rate"] / point["batch"]
        # passes over the data: the same at equal rate/batch
        assert point["passes"] == pytest.approx(point["steps"] * point["batch"] / 30)
        for name in (*(QUANTITIES.keys() - {"gap_at_deep_level"}), "temperature", "balance"):
            assert np.isfinite(point[name]["mean"]) and point[name]["standard_error"] > 0
        assert point["gap"]["mean"] == pytest.approx(point["test_loss"]["mean"] - point["train_loss"]["mean"])
    systems = [temperature.system_of(parsed(folder), job) for job in jobs_of(parsed(folder))]
    assert {system.boundary.training.steps * system.boundary.training.step for system in systems} == {48.0}
    for one, job in zip(systems, jobs_of(parsed(folder)), strict=True):
        assert len(one.boundary.dataset.x) == 30
        first = next(s for s, j in zip(systems, jobs_of(parsed(folder)), strict=True) if j.seed == job.seed)
        np.testing.assert_array_equal(one.state()["w"], first.state()["w"])


def test_the_curves_are_those_of_a_plain_training(finished, folder):
    config = parsed(folder)
    job = temperature.Job(2.0, 4, 4)
    curves = read_sidecar(finished[0] / job.file).arrays
    system = temperature.system_of(config, job)
    x, y = system.boundary.dataset.x, system.boundary.dataset.y

    def loss():
        logits = system.logits(x)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -np.mean(logs[np.arange(30), y]), np.mean(logits.argmax(axis=1) == y)

    for i in range(9):
        np.testing.assert_allclose([curves["train_loss"][i], curves["train_accuracy"][i]], loss(), rtol=1e-12)
        assert curves["t"][i] == 6.0 * i
        for k in range(3 * i, 3 * i + 3 * (i < 8)):
            system.step(k)
    measured = np.isfinite(curves["temperature"])
    assert measured[0] and measured[-1] and 3 <= measured.sum() <= 6
    assert (curves["fluctuation"] > 0).all()


def test_the_points_are_means_of_the_curves(finished):
    """From the sidecars of the networks, one by one."""
    out, scores = finished
    found = scores["temperature"]

    def where(curve, loss, level):
        i = int(np.argmax(loss <= level))
        part = (loss[i - 1] - level) / (loss[i - 1] - loss[i]) if i else 1.0
        return curve[i - 1] + part * (curve[i] - curve[i - 1]) if i else curve[0]

    for point in found["points"]:
        rows = []
        for seed in (3, 4, 5):
            a = read_sidecar(out / temperature.Job(point["rate"], point["batch"], seed).file).arrays
            hot = a["temperature"][1:]
            at = {name: where(a[name], a["train_loss"], found["level"]) for name in temperature.CURVES}
            rows.append(
                {
                    "gap_at_level": at["test_loss"] - at["train_loss"],
                    "accuracy_gap": a["train_accuracy"][-1] - a["test_accuracy"][-1],
                    "accuracy_gap_at_level": at["train_accuracy"] - at["test_accuracy"],
                    "temperature": np.mean(hot[np.isfinite(hot)]),
                    "balance": sum(a["dissipation"][4:]) / sum(a["fluctuation"][4:]),
                }
            )
        for name in rows[0]:
            values = np.array([row[name] for row in rows])
            assert point[name]["mean"] == pytest.approx(values.mean(), rel=1e-9, abs=1e-12)
            assert point[name]["standard_error"] == pytest.approx(values.std(ddof=1) / np.sqrt(3), rel=1e-7, abs=1e-12)


def test_powers_of_the_temperature(finished):
    out, scores = finished
    found = scores["temperature"]
    a = read_sidecar(out / "temperature.h5").arrays
    x = np.log(a["ratio"].ravel())
    first = [np.polyfit(x, np.log(a["temperature"][..., k, 0].ravel()), 1)[0] for k in range(3)]
    time, power = found["slopes_of_temperature"][0]
    assert time == 0 and power == pytest.approx(np.mean(first))
    # one network at the start: the power is that of rate (1/batch − 1/samples)
    assert 1.0 < power < 1.25
    mean = [np.polyfit(x, np.log(a["end_temperature"][..., k].ravel()), 1)[0] for k in range(3)]
    assert found["slope_of_temperature"] == pytest.approx(np.mean(mean))
    low, high = found["slope_of_temperature_interval"]
    assert high - low == pytest.approx(2 * 4.302652729911275 * np.std(mean, ddof=1) / np.sqrt(3))


def test_temperature_rises_with_rate_over_batch(finished):
    found = finished[1]["temperature"]
    points = sorted(found["points"], key=lambda p: p["ratio"])
    assert points[-1]["temperature"]["mean"] > 4 * points[0]["temperature"]["mean"]
    assert 0.3 < found["slope_of_temperature"] < 1.7


def test_the_closed_forms_are_within_standard_errors(finished):
    rows = finished[1]["temperature"]["forms"]
    assert {row["momentum"] for row in rows} == {0.0, 0.5, 0.9} and len(rows) == 12
    agree = finished[1]["temperature"]["forms_agreement"]
    off = [abs(row[name]) for row in rows for name in ("deviation", "balance_deviation")]
    assert agree["comparisons"] == 24 and agree["largest"] == max(off) < agree["limit"] == pytest.approx(3.53, abs=0.01)
    assert agree["within_two"] == sum(value <= 2 for value in off) >= 19
    for row in rows:
        assert row["deviation"] == pytest.approx((row["variance"] - row["expected"]) / row["error"])
        assert row["error"] < 0.05 * row["expected"]


def test_files_figures_and_words(finished, folder):
    out, scores = finished
    assert json.loads((out / "scores.json").read_text()) == scores
    assert {path.stem for path in (out / "figures").glob("*.png")} == set(CAPTIONS)
    sidecar = read_sidecar(out / "temperature.h5")
    assert sidecar.dims["end_gap"] == ("tau", "batch", "seed") and sidecar.arrays["train_loss"].shape == (3, 3, 3, 9)
    described = describe(tomllib.loads(parsed(folder).to_toml()), scores)
    assert "0 of 27 networks diverged" in described.summary
    assert described.message.startswith("After equal time")
    assert all(isinstance(table, Table) and table.rows for table in described.tables)
    assert len(described.tables[0].rows) == len(QUANTITIES) and len(described.tables[2].rows) == 9


def test_a_second_run_in_two_processes_and_a_resumed_one_give_the_same_bits(finished, folder, tmp_path):
    again = run_study(parsed(folder), tmp_path / "again", workers=2, say=silent)
    assert again == finished[1]
    (tmp_path / "again" / "scores.json").unlink()
    next((tmp_path / "again").glob("trained-*.h5")).unlink()
    assert run_study(parsed(folder), tmp_path / "again", workers=1, resume=True, say=silent) == finished[1]


def test_divergent_networks_are_recorded(folder, tmp_path):
    hot = ("temperature.rates=[0.25,0.5,16]", "temperature.batches=[2,4]", "training.steps=320", "training.rates.r=10")
    config = parsed(folder, *hot, "output.figures=true")
    scores = run_study(config, tmp_path / "hot", workers=1, say=silent)
    found = scores["temperature"]
    lost = [point for point in found["points"] if point["diverged"]]
    assert {point["rate"] for point in lost} == {16.0} and found["diverged"] == sum(p["diverged"] for p in lost)
    assert all(point["gap"]["mean"] is None for point in lost if point["diverged"] == 3)
    assert found["compared"]["gap"]["points"] == 6 - len(lost)
    assert found["level"] is not None
    assert f"{found['diverged']} of 18 networks diverged" in describe(tomllib.loads(config.to_toml()), scores).summary
    arrays = read_sidecar(tmp_path / "hot" / "temperature.h5").arrays
    assert np.isfinite(arrays["diverged"]).sum() == found["diverged"] > 0


# comparisons with known answers


def grid(of, noise, seeds=5, seed=0):
    """(values, ratio, batches) of points with rates and batches 1 … 8, values of(ratio, batch) + noise."""
    rng = np.random.default_rng(seed)
    rates, batches = (part.ravel() for part in np.meshgrid(2.0 ** np.arange(4), 2.0 ** np.arange(4), indexing="ij"))
    ratio = rates / batches
    return of(ratio, batches)[:, None] + noise * rng.standard_normal((16, seeds)), ratio, batches


def test_what_depends_on_the_ratio_alone_collapses():
    values, ratio, batches = grid(lambda ratio, batch: np.log(ratio), 0.3)
    one = compare(values, ratio, batches, values**3, np.exp(values), 0)
    assert one["rank_correlation"] > 0.95 and one["bootstrap_range"][0] > 0.8 and one["explained"] > 0.95
    assert one["explained_by_chance"] == pytest.approx(6 / 15)
    # the change over the grid, log 64, by slopes of single seeds
    each = np.log(64) * np.array([np.polyfit(np.log(ratio), column, 1)[0] for column in values.T])
    assert one["change"] == pytest.approx(each.mean())
    reach = 2.7764451051977987 * each.std(ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(one["change_interval"], [each.mean() - reach, each.mean() + reach])
    assert one["seed_error"] == pytest.approx(np.sqrt(np.mean(values.var(axis=1, ddof=1) / 5)))
    assert one["p_value"] > 0.05 and one["spread"] < 2 * one["seed_error"]
    assert one["with_temperature"] > 0.9 and one["points"] == 16


def test_the_partial_correlation_is_that_at_equal_loss():
    values, ratio, batches = grid(lambda ratio, batch: np.log(ratio) + 0.2 * np.log(batch), 0.5)
    train, _, _ = grid(lambda ratio, batch: np.log(ratio) - 0.5 * np.log(batch), 1.0, seed=3)
    one = compare(values, ratio, batches, train, values, 0)
    a, b, c = values.mean(axis=1), ratio, train.mean(axis=1)
    assert one["given_train_loss"] == pytest.approx(partial_rank_correlation(a, b, c))
    others = [partial_rank_correlation(a, c, b), partial_rank_correlation(b, c, a)]
    assert all(abs(one["given_train_loss"] - other) > 0.05 for other in others)


def test_nothing_is_explained_where_no_ratio_repeats():
    values, ratio, batches = grid(lambda ratio, batch: ratio, 0.3)
    one = compare(values[:4], ratio[:4], batches[:4], values[:4], values[:4], 0)
    assert one["explained"] is None and one["explained_by_chance"] is None and one["p_value"] is None
    assert one["change"] is not None


def test_the_trend_has_the_level_it_claims():
    """Of pure noise 5 % of the intervals do not contain 0."""
    found = []
    for seed in range(300):
        values, ratio, _ = grid(lambda ratio, batch: 0 * ratio, 1.0, seed=seed)
        low, high = student_interval(slopes(values, ratio))
        found.append(low > 0 or high < 0)
    assert 0.01 < np.mean(found) < 0.1


def test_what_depends_on_the_batch_too_does_not():
    values, ratio, batches = grid(lambda ratio, batch: np.log(ratio) + 0.3 * np.log(batch), 0.1)
    one = compare(values, ratio, batches, values, values, 0)
    assert one["p_value"] < 0.01 and one["with_batch"] > 0.9 and one["spread"] > 2 * one["seed_error"]
    nothing, ratio, batches = grid(lambda ratio, batch: 0 * ratio, 0.3, seed=1)
    one = compare(nothing, ratio, batches, nothing, nothing, 0)
    assert one["change_interval"][0] < 0 < one["change_interval"][1] and one["explained"] < 0.9


def test_the_p_value_is_uniform_where_only_the_ratio_counts():
    """And invariant under what all networks of a seed have in common."""
    found = []
    for seed in range(40):
        values, ratio, _ = grid(lambda ratio, batch: ratio, 1.0, seeds=4, seed=seed)
        found.append(exchangeable(values, groups_of(ratio), np.random.default_rng(0)))
        shifted = exchangeable(values + 5 * np.arange(4), groups_of(ratio), np.random.default_rng(0))
        assert shifted == pytest.approx(found[-1], abs=1e-3)
    assert 0.3 < np.mean(found) < 0.7 and np.mean(np.array(found) < 0.1) < 0.25


def test_groups_are_points_of_equal_ratio():
    rates, batches = np.array([0.1, 0.3, 0.2, 0.6, 0.1]), np.array([1.0, 3.0, 2.0, 2.0, 3.0])
    assert [list(group) for group in groups_of(rates / batches)] == [[4], [0, 1, 2], [3]]


def test_rank_correlations_against_loops():
    rng = np.random.default_rng(1)
    a, b, c = rng.standard_normal((3, 12))
    ranks = [np.array([np.sum(v < x) for x in v]) for v in (a, b, c)]

    def residual(y, x):
        return y - np.polyval(np.polyfit(x, y, 1), x)

    assert rank_correlation(a, b) == pytest.approx(np.corrcoef(ranks[0], ranks[1])[0, 1])
    expected = np.corrcoef(residual(ranks[0], ranks[2]), residual(ranks[1], ranks[2]))[0, 1]
    assert partial_rank_correlation(a, b, c) == pytest.approx(expected)
    assert np.isnan(rank_correlation(a, np.ones(12))) and np.isnan(rank_correlation(a[:2], b[:2]))


def test_too_few_points_and_one_seed():
    values, ratio, batches = grid(lambda ratio, batch: ratio, 0.1, seeds=1)
    one = compare(values, ratio, batches, values, values, 0)
    assert (
        one["rank_correlation"] > 0.9
        and one["change_interval"] is None
        and one["bootstrap_range"] is None
        and one["p_value"] is None
    )
    values[2:] = np.nan
    none = compare(values, ratio, batches, values, values, 0)
    assert none["points"] == 2 and {none[key] for key in none if key != "points"} == {None}


def test_levels_of_the_training_loss():
    train = np.array([[[[3.0, 2.0, 1.0, 1.2], [3.0, 1.0, 0.5, 0.4]], [[3.0, 2.5, 2.0, 2.2], [3.0, 2.4, 1.8, 1.6]]]])
    assert common_level(train) == 2.0 and common_level(train, 0.5) == 1.0
    test = train + np.array([0.0, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(at_level(train, test - train, 1.5), [[[1.5, 0.75], [np.nan, np.nan]]])
    np.testing.assert_allclose(at_level(train, test - train, 3.0), np.zeros((1, 2, 2)))
    train[0, 0, 0, 2:] = np.nan  # it diverged
    assert common_level(train) == 2.0 and np.isnan(at_level(train, test, 2.5)[0, 0, 0])
    assert np.isnan(common_level(np.full((1, 1, 1, 3), np.nan)))


@pytest.mark.parametrize(
    ("interval", "p", "words"),
    [
        ([0.2, 0.9], 0.5, ("grows with", "no more than seeds may explain")),
        ([-0.9, -0.2], 0.01, ("falls with", "by more than seeds explain")),
        ([-0.2, 0.3], None, ("no trend", "cannot be told", "[−0.2, 0.3], of a mean of 1.5")),
        (None, 0.5, ("one seed, no interval",)),
    ],
)
def test_the_verdict_says_what_is_seen(interval, p, words):
    one = {"change": 0.5, "change_interval": interval, "mean": 1.5, "p_value": p, "spread": 0.1, "seed_error": 0.1}
    told = verdict(
        {"compared": dict.fromkeys(("gap", "gap_at_level", "gap_at_deep_level"), one), "level": 1, "deep_level": 1}
    )
    assert all(word in told for word in words)


# titles


def title(explained=0.9, p=0.2, end=(-2.0, -1.0), level=(0.1, 0.3)):
    one = {"explained": explained, "explained_by_chance": 0.4, "p_value": p, "change_interval": end}
    return _message({"compared": {"gap": one, "gap_at_level": {**one, "change_interval": level}}})


def test_the_title_says_no_more_than_is_seen():
    told = title()
    assert "explains 90 % of the gap's variance (chance: 40 %; seeds may explain the rest)" in told
    assert told.endswith("at equal training loss the gap grows with rate/batch")
    assert "seeds do not explain the rest" in title(p=0.01)
    assert title(level=(-0.1, 0.3)).endswith("no trend of the gap with rate/batch is seen")
    assert title(level=(-0.3, -0.1)).endswith("falls with rate/batch too")
    assert title(end=(-0.3, 0.1)).endswith("grows with rate/batch")
    assert "\n" not in title(level=None)
    assert title(explained=None) == "Too few networks were left to compare"


@pytest.mark.parametrize(
    ("interval", "words"),
    [(None, "along all runs"), ([-1, 1], "No trend"), ([1, 2], "grows with"), ([-2, -1], "falls with")],
)
def test_the_title_of_the_curves(interval, words):
    ratio, t = np.array([[0.1, 0.2], [0.2, 0.4]]), np.arange(5.0)
    loss = np.ones((2, 2, 1, 1)) * np.exp(-t)
    found = {"compared": {"train_loss": {"change_interval": interval}}, "gap_with_train_loss": None}
    figure = figure_curves(t, ratio, {"train_loss": loss, "test_loss": loss + 1}, found)
    assert words in figure.get_suptitle()


def test_the_title_of_chains_that_do_not_follow():
    row = {"momentum": 0.0, "step": 0.1, "variance": 2.0, "error": 0.01, "expected": 0.6, "deviation": 140.0}
    rows = [{**row, "balance_deviation": 1.0}, {**row, "step": 0.2, "deviation": -1.0, "balance_deviation": 0.3}]
    found = temperature.agreement(rows)
    assert (found["comparisons"], found["within_two"], found["largest"]) == (4, 3, 140.0)
    told = figure_forms(rows, found).get_suptitle()
    assert "do not follow" in told and "3 of 4 deviations" in told


@pytest.mark.parametrize(
    ("interval", "words"),
    [(None, "slope 0.97"), ([0.9, 1.1], "[0.90, 1.10]: proportional within errors"), ([0.2, 0.5], "not proportional")],
)
def test_the_title_of_the_temperature(interval, words):
    ratio = np.array([[0.1, 0.2], [0.2, 0.4]])
    found = {"balance": [0.5, 0.5, 0.5], "slope_of_temperature": 0.97, "slope_of_temperature_interval": interval}
    balance = np.full((2, 2, 1, 4), 0.5)
    figure = figure_balance(np.arange(5.0), ratio, np.array([4.0, 8.0]), balance, ratio[..., None], found)
    assert any(ax.get_title().endswith(words) for ax in figure.axes)


# bad input


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.dynamics=flow", 'training.dynamics: needs "sgd", whose temperature is rate/batch'),
        ("training.batch=3", "training.batch: needs to be one of temperature.batches, [2, 4, 8] (got 3)"),
        ("temperature.rates=[1,5]", "temperature.rates: training.steps / rate needs to be a whole number"),
        ("temperature.rates=[1]", "temperature.rates: needs pairs of rate and batch with the same rate/batch"),
        ("temperature.batches=[4,7]", "same rate/batch, or nothing can be compared at equal temperature"),
        ("temperature.rates=[2,1]", "temperature.rates: needs its rates in increasing order"),
        ("temperature.batches=[4]", "temperature.batches: needs an increasing list of two or more"),
        ("temperature.batches=[4,30]", "temperature.batches: needs minibatches smaller than temperature.samples, 30"),
        ("temperature.samples=41", "temperature.samples: needs at most the 40 training samples (got 41)"),
        ("temperature.seeds=0", "temperature.seeds: needs a whole number from 1 to 1000"),
        ("training.evaluate=0", "training.evaluate: needs test samples"),
        ("lattice.depth=[2,4]", "lattice.depth: needs one size"),
        ("temperature.temperature=1", "temperature.temperature: unknown key"),
    ],
)
def test_what_is_refused(folder, override, words):
    with pytest.raises(InputError) as raised:
        parsed(folder, override)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_sidecar_of_another_configuration(finished, folder):
    job = jobs_of(parsed(folder))[0]
    other = parsed(folder, "training.rates.w=4.0")
    with pytest.raises(InputError, match=r"is of another configuration \(differs in training.rates\); remove it"):
        temperature.run_job(job, other, finished[0], None)


def test_a_step_that_could_only_diverge(folder):
    with pytest.raises(InputError, match=r"training.step .*unstable step"):
        temperature.check(parsed(folder, "training.step=1000.0"))
