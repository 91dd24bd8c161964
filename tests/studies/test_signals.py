"""The signals study, small: its table, rates of lattice and field, its files, and what it refuses."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.lattice.network import forward
from bbdfield.model.activations import get_activation
from bbdfield.model.run import Run
from bbdfield.storage.sidecar import read_sidecar
from bbdfield.studies import signals
from bbdfield.studies.config import SignalsConfig, parse_config
from bbdfield.studies.run import run_study
from bbdfield.studies.signals import CAPTIONS, check, describe, input_differences

SMALL = """
kind = "signals"
title = "small"
seed = 3
[data]
file = "data.npz"
[lattice]
depth = 8
width = 12
channels = 2
radius = "1/8"
readout_modes = 4
[initial]
weight = 2.0
bias = 0.3
correlation_x = 1.0
[training]
steps = 20
batch = 8
rates = { w = 4.0, b = 0.5, r = 1.0 }
snapshot_every = 10
probe = 3
[signals]
width = 60
networks = 12
settle = 12
layers = 8
directions = 5
[output]
figures = false
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_smooth_data):
    path = tmp_path_factory.mktemp("signals")
    write_smooth_data(path)
    return path


def silent(line: str) -> None:
    """No progress on the screen of the tests."""


def parsed(folder: Path, *overrides: str) -> SignalsConfig:
    config = parse_config(SMALL, "study", folder, overrides)
    assert isinstance(config, SignalsConfig)
    return config


@pytest.fixture(scope="module")
def finished(folder):
    """The study, with figures."""
    out = folder / "run"
    scores = run_study(parsed(folder, "output.figures=true"), out, workers=1, say=silent)
    return out, scores


# random networks


def test_the_table_has_the_known_digits(finished):
    found = finished[1]["signals"]
    numbers = {
        (1.0, 0.05): (0.193593, 0.759032, 1.7476, 1, 3.6270, "ordered"),
        (1.3, 0.05): (0.315316, 0.880164, 1.7852, 1, 7.8341, "ordered"),
        (2.5, 0.05): (1.063958, 1.133516, 1.1799, 0.4468, 11.7956, "chaotic"),
        (4.0, 0.05): (2.195494, 1.342402, 0.8733, 0.1651, 6.9803, "chaotic"),
    }
    assert len(found["table"]) == 4 and found["activation"] == "tanh"
    for row in found["table"]:
        q, chi, xi_q, c, xi_c, phase = numbers[row["weight"], row["bias"]]
        assert (round(row["q"], 6), round(row["chi"], 6), row["phase"]) == (q, chi, phase)
        assert (round(row["xi_q"], 4), round(row["c"], 4), round(row["xi_c"], 4)) == (xi_q, c, xi_c)
    assert {row["bias"]: round(row["weight"], 6) for row in found["critical_line"]} == {
        0.01: 1.424205,
        0.05: 1.760955,
        0.1: 1.986073,
    }


def test_sampled_networks_stand_beside_it(finished):
    """Width 60 has errors of 1/60 of its own; 12 networks give their standard error to a fifth."""
    for row in finished[1]["signals"]["table"]:
        measured = row["measured"]
        for name in ("q", "chi", "xi_q"):
            mean, error = measured[name]
            assert 0 < error < 0.1 * row[name]
            assert abs(mean - row[name]) < 4 * error + 0.05 * row[name]
        assert abs(measured["c"][0] - row["c"]) < 4 * measured["c"][1] + 0.1
        xi, error = measured["xi_c"]
        assert abs(1 / xi - 1 / row["xi_c"]) < 4 * error / xi**2 + 0.03


def test_the_phase_diagram_is_highest_along_the_critical_line(finished):
    sidecar = read_sidecar(finished[0] / "signals.h5")
    xi, weights, biases = sidecar.arrays["xi"], sidecar.coordinates["weight"], sidecar.coordinates["bias"]
    assert sidecar.dims["xi"] == ("bias", "weight") and np.isfinite(xi[1:]).all()
    line = sidecar.arrays["critical"]
    for i in range(5, biases.size):
        critical = np.interp(biases[i], line[:, 0], line[:, 1])
        assert abs(weights[np.argmax(xi[i])] - critical) <= 1.01 * (weights[1] - weights[0])
    np.testing.assert_allclose(sidecar.arrays["correlation"][:, 0], 0.5)
    assert np.abs(sidecar.arrays["correlation"] - sidecar.arrays["correlation_expected"]).max() < 0.3


# the trained network


def test_rates_of_lattice_and_field_agree_and_change(finished):
    trained = finished[1]["signals"]["trained"]
    assert trained["t"] == [0, 10, 20] and trained["samples"] == 3 and trained["directions"] == 5
    lattice, field = (trained["rate"][name] for name in ("lattice", "field"))
    for direction in ("leading", "inputs", "random"):
        np.testing.assert_allclose(field[direction], lattice[direction], atol=trained["difference"][direction])
        assert trained["difference"][direction] < 0.03
        assert np.ptp(lattice[direction]) > trained["difference"][direction]
        scales = trained["depth_scale"]["lattice"][direction]
        np.testing.assert_allclose(scales, 1 / np.abs(lattice[direction]), rtol=1e-12)
    assert (np.array(lattice["leading"]) > np.array(lattice["inputs"])).all()
    assert (np.array(lattice["leading"]) > np.array(lattice["random"])).all()
    assert trained["residual"] < 1e-5


def test_the_leading_rate_is_that_of_the_recorded_network(finished):
    """By differences: the whole transfer matrix of one sample from the recorded weights, its largest singular value."""
    out, _ = finished
    rates = read_sidecar(out / "signals.h5").arrays["lattice_leading_rate"]
    with Run(out / "lattice.h5") as run:
        w, b = (run.trajectory.fields[name][1] for name in ("w", "b"))
        z0 = run.z(1)[0][..., 2]
        steps = np.eye(24).reshape(12, 2, 24) * 1e-5
        sigma = get_activation(run.lattice.activation)
        ends = [forward(z0[..., None] + sign * steps, w, b, sigma, run.lattice.padding)[-1] for sign in (1, -1)]
    matrix = ((ends[0] - ends[1]) / 2e-5).reshape(24, 24)
    assert math.log(np.linalg.norm(matrix, 2)) == pytest.approx(rates[1, 2], abs=1e-6)


def test_sidecar_figures_and_words(finished):
    out, scores = finished
    sidecar = read_sidecar(out / "signals.h5")
    assert sidecar.kind == "signals" and sidecar.dims["field_leading_local"] == ("t", "field_x_link")
    local = sidecar.arrays["lattice_leading_local"].mean(axis=1)
    np.testing.assert_allclose(local, scores["signals"]["trained"]["rate"]["lattice"]["leading"], rtol=1e-10)
    assert sorted(path.stem for path in (out / "figures").iterdir()) == sorted(CAPTIONS)
    described = describe(parsed(out.parent).model_dump(), scores)
    titles = ["Random networks", "The critical line", "The trained network"]
    assert [table.title for table in described.tables] == titles
    assert described.tables[0].rows[0][2].startswith("0.1936\n") and described.tables[1].rows[1] == ["0.05", "1.760955"]
    first, last = (scores["signals"]["trained"]["rate"]["lattice"]["leading"][i] for i in (0, -1))
    assert f"from {first:.2f} to {last:.2f} per depth" in described.message
    assert json.loads((out / "scores.json").read_text())["signals"] == scores["signals"]


def test_scores_are_bitwise_the_same_with_more_workers_and_when_resumed(finished, folder):
    out, _ = finished
    text = (out / "scores.json").read_bytes()
    run_study(parsed(folder, "output.figures=true"), out, resume=True, say=silent)
    assert (out / "scores.json").read_bytes() == text
    run_study(parsed(folder), folder / "two", workers=2, say=silent)
    assert (folder / "two" / "scores.json").read_bytes() == text


@pytest.mark.parametrize(
    "changes",
    [
        ("lattice.scaling=critical", "lattice.kappa=0.1", "initial.weight=0.5", "training.step=0.05"),
        ("lattice.scaling=plain", "initial.weight=0.5", "field.n_x=16", "training.step=0.01"),
        ("lattice.range=taps", "lattice.weights=untied", "field.width_order=0", "initial.weight=0.5"),
    ],
)
def test_other_scalings_and_ranges(folder, tmp_path, monkeypatch, changes):
    monkeypatch.setattr(signals, "MAP_WEIGHTS", 4)
    monkeypatch.setattr(signals, "MAP_BIASES", 3)
    text = SMALL.replace('radius = "1/8"\n', "") if "lattice.range=taps" in changes else SMALL
    few = ("training.steps=2", "signals.networks=1", "signals.settle=0", "signals.layers=2")
    config = parse_config(text, "study", folder, (*changes, *few))
    scores = run_study(config, tmp_path / "run", workers=1, say=silent)
    trained = scores["signals"]["trained"]
    assert np.isfinite(trained["rate"]["field"]["leading"]).all()
    if "lattice.scaling=critical" in changes:
        assert trained["difference"]["leading"] < 0.1
    assert "±" in describe(config.model_dump(), scores).tables[0].rows[0][2]


# what has no rate, and what has no difference


FEW = ("training.steps=2", "signals.networks=1", "signals.settle=0", "signals.layers=2", "output.figures=true")


@pytest.fixture
def small_map(monkeypatch):
    monkeypatch.setattr(signals, "MAP_WEIGHTS", 4)
    monkeypatch.setattr(signals, "MAP_BIASES", 3)


def test_a_network_that_passes_every_change_on_unchanged(folder, tmp_path, small_map):
    """No weights, and none learned: Λ = 0 but for rounding, no depth scale, and nothing to divide by."""
    still = ("initial.weight=0", "initial.bias=0", "training.rates={ w = 0, b = 0, r = 1 }")
    scores = run_study(parsed(folder, *FEW, *still), tmp_path / "run", workers=1, say=silent)
    trained = scores["signals"]["trained"]
    for system in ("lattice", "field"):
        for direction in ("leading", "inputs", "random"):
            assert trained["rate"][system][direction] == pytest.approx([0, 0], abs=1e-14)
            assert trained["depth_scale"][system][direction] == [None, None]
    described = describe(parsed(folder).model_dump(), scores)
    assert "at the end changes along it keep their size. Differences" in described.message
    assert re.search(r"agree with the network's to [^,]*\.$", described.message)
    assert "Differences of inputs keep their size at 0.00 (at first 0.00)" in described.message


def test_a_network_in_which_every_change_dies_out(folder, tmp_path, small_map):
    """A plain network without weights: rates of −∞ are no numbers for scores.json, and have words of their own."""
    dead = ("lattice.scaling=plain", "initial.weight=0", "initial.bias=0", "training.rates={ w = 0, b = 0, r = 1 }")
    config = parsed(folder, *FEW, *dead, "field.n_x=16", "training.step=0.01")
    scores = run_study(config, tmp_path / "run", workers=1, say=silent)
    trained = json.loads((tmp_path / "run" / "scores.json").read_text())["signals"]["trained"]
    assert trained == scores["signals"]["trained"]
    for direction in ("leading", "inputs", "random"):
        assert trained["rate"]["lattice"][direction] == [None, None]
        assert trained["depth_scale"]["lattice"][direction] == [0, 0]
        assert trained["rate"]["field"][direction][0] < 0  # which falls exponentially in its own layers
        assert trained["difference"][direction] is None
    described = describe(config.model_dump(), scores)
    assert described.message.endswith("dies out on its way through the depth, before and after training.")
    assert described.tables[2].rows[0][1:4] == ["–", "–", "0.00"]


def test_words_without_numbers(finished):
    trained = json.loads(json.dumps(finished[1]["signals"]["trained"]))
    trained["rate"]["lattice"]["inputs"][-1] = None
    trained["difference"]["leading"] = None
    words = describe(
        parsed(finished[0].parent).model_dump(), {"signals": finished[1]["signals"] | {"trained": trained}}
    ).message
    assert "Differences of inputs die out at −∞ (at first" in words
    assert words.endswith("In the network or in the field theory, but not in both, a leading direction dies out.")


def test_differences_skip_samples_that_are_alike():
    a, b = np.random.default_rng(0).standard_normal((2, 4, 3))
    distinct = np.stack([a, b, a + b], axis=-1)
    np.testing.assert_array_equal(input_differences(distinct), np.roll(distinct, 1, axis=-1) - distinct)
    found = input_differences(np.stack([a, a, b, a], axis=-1))
    np.testing.assert_array_equal(found, np.stack([b - a, b - a, a - b, b - a], axis=-1))
    assert not input_differences(np.stack([a, a], axis=-1)).any()


def test_repeated_probe_samples(folder, tmp_path, small_map):
    """Neighbours that are alike have a difference to another one; if all are alike there is nothing to follow."""
    with np.load(folder / "data.npz") as stored:
        arrays = dict(stored)
    x_test = arrays["x_test"].copy()
    x_test[1] = x_test[0]
    np.savez(tmp_path / "data.npz", **(arrays | {"x_test": x_test}))
    scores = run_study(parsed(tmp_path, *FEW), tmp_path / "run", workers=1, say=silent)
    assert np.isfinite(scores["signals"]["trained"]["rate"]["field"]["inputs"]).all()
    rates = read_sidecar(tmp_path / "run" / "signals.h5").arrays["lattice_inputs_rate"]
    np.testing.assert_array_equal(rates[:, 0], rates[:, 1])
    assert (rates[:, 0] != rates[:, 2]).all()
    np.savez(tmp_path / "data.npz", **(arrays | {"x_test": np.repeat(x_test[:1], 9, axis=0)}))
    with pytest.raises(InputError, match=r"^training\.probe: the 3 probe samples are all alike, .*; use more"):
        run_study(parsed(tmp_path, *FEW), tmp_path / "alike", workers=1, say=silent)
    assert not (tmp_path / "alike").exists()


# what is refused


def test_defaults_and_round_trip(folder):
    config = parse_config(SMALL.partition("[signals]")[0], "study", folder)
    assert isinstance(config, SignalsConfig)
    assert config.signals.variances == ((1.0, 0.05), (1.3, 0.05), (2.5, 0.05), (4.0, 0.05))
    assert config.field.order == 1 and config.field_grid().n_x == 8
    assert parse_config(config.to_toml()) == config


PAIRS = "needs a list of pairs [σ_w², σ_b²] of numbers from 0 to 1000"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("signals.variances=[]", f"signals.variances: {PAIRS} (got [])"),
        ("signals.variances=[1.0, 0.05]", f"signals.variances: {PAIRS} (got [1.0, 0.05])"),
        ("signals.variances=[[0, 0.05]]", f"signals.variances: {PAIRS}, the first > 0 (got [[0, 0.05]])"),
        ("signals.variances=[[1, -0.05]]", f"signals.variances: {PAIRS}, the first > 0 (got [[1, -0.05]])"),
        ("signals.variances=[[1, nan]]", f"signals.variances: {PAIRS}, the first > 0 (got [[1, nan]])"),
        ("signals.biases=0.1", "signals.biases: needs a list of variances σ_b², numbers from 0 to 1000 (got 0.1)"),
        ("signals.width=1", "signals.width: needs a whole number from 2 to 20000 (got 1)"),
        ("signals.activation=tan", 'signals.activation: needs one of "tanh", '),
        ("signals.direction=3", "signals.direction: unknown key; did you mean signals.directions?"),
        ("field.orders=[1]", "field.orders: unknown key; did you mean field.order?"),
        ("field.order=2", "field.order: needs a whole number from 0 to 1 (got 2)"),
        ("field.width_order=1", 'field.width_order: lattice.range = "kernel" has no expansion in a_y'),
        ("training.probe=1", "training.probe: needs two samples or more, whose difference is followed (got 1)"),
        ("initial.correlation_x=0", "initial.correlation_x: independent values are no field"),
        ("lattice.depth=[8, 16]", "lattice.depth: needs one size, since one network is studied (got [8, 16])"),
    ],
)  # fmt: skip
def test_refused_in_one_line(folder, override, message):
    with pytest.raises(InputError) as caught:
        parsed(folder, override)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"study: {message}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "signals.variances=[[3.0, 0.05]]",
            "signals.variances: relu, σ_w² = 3, σ_b² = 0.05: no fixed point, the variance grows without bound",
        ),
        ("signals.variances=[[1.0, 0.05]]", "signals.biases: relu has no critical line at σ_b² = 0.01"),
    ],
)
def test_ensembles_without_fixed_points_are_refused_before_anything_is_written(folder, override, message):
    with pytest.raises(InputError) as caught:
        check(parsed(folder, "signals.activation=relu", override))
    assert str(caught.value).startswith(message)
