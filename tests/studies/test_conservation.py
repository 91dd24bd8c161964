"""The conservation study, small: its figures, its tables, its files, and what it refuses."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from bbdfield.errors import InputError
from bbdfield.model.run import Run
from bbdfield.observables.conservation import observe
from bbdfield.storage.sidecar import read_sidecar
from bbdfield.studies import conservation
from bbdfield.studies.config import ConservationConfig, parse_config
from bbdfield.studies.conservation import CAPTIONS, check, count, describe, networks
from bbdfield.studies.run import run_study

SMALL = """
kind = "conservation"
title = "small"
seed = 3
[data]
file = "data.npz"
[lattice]
depth = 3
width = 12
channels = 2
range = "taps"
taps = 3
scaling = "plain"
activation = "relu"
readout_modes = 4
[initial]
weight = 1.5
[training]
steps = 120
batch = 8
rates = { w = 0.05, b = 0.02, r = 1.0 }
snapshot_every = 40
probe = 3
[conservation]
hidden = [6, 5]
rate = 0.05
intrinsic_samples = 20
intrinsic_depths = [4, 8, 16]
intrinsic_cells = [4, 8, 16]
[output]
figures = false
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_smooth_data):
    path = tmp_path_factory.mktemp("conservation")
    write_smooth_data(path)
    return path


def silent(line: str) -> None:
    """No progress on the screen of the tests."""


def parsed(folder: Path, *overrides: str) -> ConservationConfig:
    config = parse_config(SMALL, "study", folder, overrides)
    assert isinstance(config, ConservationConfig)
    return config


@pytest.fixture(scope="module")
def finished(folder):
    """The study, with figures; its intrinsic part, which has tests of its own, in coarser steps."""
    out = folder / "run"
    coarser = {"STEP": 0.006, "TOLERANCE": 1e-7, "LATTICE_TOLERANCE": 1e-7, "FIRST_ORDER_CELLS": 8, "SNAPSHOTS": 3}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in coarser.items():
            patch.setattr(conservation.intrinsic, name, value)
        scores = run_study(parsed(folder, "output.figures=true"), out, workers=1, say=silent)
    return out, scores


def test_only_rounding_is_left_of_the_drift(finished):
    found = finished[1]["conservation"]
    for name in ("convolutional", "dense"):
        assert found[name]["rest"] < 1e-13 < 1e-5 < found[name]["drift"]
        assert found[name]["steps"] == 120
        assert found[name]["slope"] == pytest.approx(2, abs=0.1)
        low, high = found[name]["slope_interval"]
        assert low <= found[name]["slope"] <= high
    assert found["dense"]["laws"] == 11 and found["dense"]["widths"] == [24, 6, 5, 3]
    assert found["convolutional"]["laws"] == 2 * 2 + 3
    assert found["convolutional"]["rest_of_steps"] < 1e-12


def test_momentum_and_weight_decay_have_laws_of_their_own(finished):
    found = finished[1]["conservation"]
    for row in found["momentum"].values():
        assert row["rest"] < 1e-14 < 1e-3 < row["drift"]
    assert found["momentum"]["lattice"]["charges"] == 1
    assert found["momentum"]["dense"]["charges"] == 15 + 10
    assert found["momentum"]["dense"]["factor_error"] < 1e-6
    assert found["weight_decay"]["rest"] < 1e-13
    assert found["weight_decay"]["size"] == pytest.approx(found["weight_decay"]["expected_without_increments"], rel=0.2)
    assert found["weight_decay"]["factor"] == pytest.approx((1 - 0.05 * 0.01) ** 2)


def test_the_field_keeps_its_law_as_the_grid_is_refined(finished):
    found = finished[1]["conservation"]["field"]
    assert found["midpoint"]["order"] > 1.8
    assert 0.7 < found["euler"]["order"] < found["midpoint"]["order"]
    assert found["midpoint"]["drift"][-1] < 0.1 * found["euler"]["drift"][-1]


def test_counts_are_those_of_the_table_and_of_the_laws_that_were_followed(finished):
    rows = finished[1]["conservation"]["counts"]
    assert len(rows) == len(networks()) >= 8
    assert [row["laws"] for row in rows] == [row["expected"] for row in rows] == [row["listed"] for row in rows]
    assert {row["name"]: row["laws"] for row in rows}["linear 2–2–2–2"] == 6
    assert max(row["parameters"] for row in rows) > 500
    assert all(row["parameters"] - row["ranks"][-1] == row["laws"] for row in rows)


@pytest.mark.parametrize(
    ("overrides", "title"),
    [
        ((), "convolutional relu network"),
        (("lattice.activation=tanh",), "convolutional tanh network, its readout"),
        (("lattice.activation=identity", "training.rates={w=0.05, b=0.02, r=0.0}"), "convolutional identity network"),
    ],
)
def test_titles_name_the_network_that_was_trained(folder, overrides, title):
    config = parsed(folder, *overrides)
    assert "λ_max" in check(config)
    assert conservation._titles(config) == {"convolutional": title, "dense": "dense relu network"}


def test_counts_do_not_depend_on_the_seed():
    rows = count(7)
    assert [row["laws"] for row in rows] == [row["expected"] for row in rows]


def test_the_intrinsic_dynamics_is_its_second_part(finished):
    found = finished[1]["conservation"]["intrinsic"]
    assert found["two_layer"] < 1e-8
    assert found["depth_slope"] == pytest.approx(-1, abs=0.25)


def test_its_files_say_the_same(finished):
    out, scores = finished
    assert json.loads((out / "scores.json").read_text(encoding="utf-8")) == scores
    arrays = read_sidecar(out / "conservation.h5").arrays
    assert arrays["dense_rest"].max() == scores["conservation"]["dense"]["rest"]
    assert arrays["convolutional_step"][-1] == arrays["momentum_step"][-1] == 120
    for stem in CAPTIONS:
        assert (out / "figures" / f"{stem}.png").stat().st_size > 10_000
    with Run(out / "lattice.h5") as run:
        told = observe(run)
    assert told.summary["rest"] == pytest.approx(scores["conservation"]["convolutional"]["rest_of_steps"])
    assert told.summary["laws"] == scores["conservation"]["convolutional"]["laws"]


def test_the_study_is_bitwise_reproducible(finished, folder, monkeypatch):
    """All but the intrinsic part, which has a test of its own."""
    scores = finished[1]
    first = scores["conservation"]["intrinsic"]
    monkeypatch.setattr(conservation.intrinsic, "compute_intrinsic", lambda *_: (first, {}))
    again = run_study(parsed(folder), folder / "again", workers=1, say=silent)
    assert again == scores


def test_the_description_says_what_was_found(finished):
    out, scores = finished
    told = describe(tomllib.loads((out / "config.toml").read_text(encoding="utf-8")), scores)
    titles = [table.title for table in told.tables]
    assert titles[:4] == [
        "Laws in minibatch gradient descent",
        "Momentum and weight decay",
        "The law of the linear field",
        "How many laws",
    ]
    right = len(networks())
    assert f"for {right} of {right} networks" in told.message and "slope" in told.message


# what is refused


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("training.dynamics=heavy-ball", "training.damping=1.0"), "training.dynamics: needs \"sgd\""),
        (("training.precision=float32", "training.backend=numba"), "training.precision: needs \"float64\""),
        (("conservation.hidden=[]",), "conservation.hidden: needs a list"),
        (("conservation.momentum=1.0",), "between 0 and 1"),
        (("conservation.factors=[0.1, 0.2]",), "three or more"),
        (("conservation.factor_steps=1000",), "at most training.steps"),
        (("conservation.hidden=[1, 1]",), "conservation.hidden: needs a layer of two units"),
        (("conservation.weight_decay=20.0",), "conservation.weight_decay: needs"),
        (("lattice.depth=[3, 6]",), "needs one size"),
    ],
)  # fmt: skip
def test_settings_without_meaning_are_refused_in_one_line(folder, overrides, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        parsed(folder, *overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("lattice.scaling=residual",), "adds a skip to every layer"),
        (("lattice.activation=tanh", "training.rates={w=0.1, b=0.1, r=0.0}"), "activation tanh and a fixed readout"),
        (("training.rates={w=0.0, b=0.1, r=1.0}",), "rates.w = 0"),
        (("training.rates={w=0.05, b=0.02, r=0.0}",), "training.rates.r: 0 leaves"),
        (("conservation.rate=1e9", "conservation.weight_decay=1e-12"), "conservation.rate = 1e+09: the loss"),
    ],
)
def test_networks_that_conserve_nothing_are_refused_before_anything_is_written(folder, overrides, message):
    config = parsed(folder, *overrides)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        check(config)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=re.escape(message)):
        run_study(config, folder / "never", workers=1, say=silent)
    assert not (folder / "never").exists()
