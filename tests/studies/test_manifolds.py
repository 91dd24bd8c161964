"""The manifolds study, small: its scores, files and words, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.model.run import Run
from bbdfield.observables.manifolds import observe
from bbdfield.plotting.manifolds import figure_observed
from bbdfield.storage.sidecar import read_sidecar
from bbdfield.studies.config import ManifoldsConfig, parse_config
from bbdfield.studies.manifolds import CAPTIONS, describe
from bbdfield.studies.run import run_study

SMALL = """
kind = "manifolds"
title = "small"
seed = 3
[data]
file = "data.npz"
[lattice]
depth = 3
width = 12
channels = 8
range = "taps"
taps = 3
padding = "circular"
readout_modes = 4
[initial]
weight = 1.5
bias = 0.3
[training]
steps = 120
batch = 8
step = 0.2
rates = { w = 2.0, b = 0.2, r = 0.5 }
snapshot_every = 10
probe = 3
evaluate = 9
[manifolds]
hidden = 16
deep = [11, 13]
reduced = 60
translation = 40
samples = 30
pairs = 2
decay = 0.1
[output]
figures = false
"""
TANH = ("two layers, tanh", "three layers, tanh", "plain lattice, tanh", "residual lattice, tanh")
RELU = tuple(name.replace("tanh", "relu") for name in TANH)
COMPILED = "residual lattice, compiled, tanh"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("manifolds")
    rng = np.random.default_rng(0)
    y = (np.arange(12) + 0.5) / 12
    smooth = rng.standard_normal((40, 2, 3)) @ np.cos(np.pi * np.outer(np.arange(3), y))
    labels = np.arange(40) % 3
    np.savez(path / "data.npz", x=smooth, y=labels, x_test=smooth[:9], y_test=labels[:9])
    return path


def silent(line: str) -> None:
    """No progress on the screen of the tests."""


def parsed(folder: Path, *overrides: str) -> ManifoldsConfig:
    config = parse_config(SMALL, "study", folder, overrides)
    assert isinstance(config, ManifoldsConfig)
    return config


@pytest.fixture(scope="module")
def finished(folder):
    out = folder / "run"
    return out, run_study(parsed(folder, "output.figures=true"), out, workers=1, say=silent)


def test_gradients_are_tangent_but_for_the_non_example(finished):
    found = finished[1]["manifolds"]
    assert set(found["tangency"]) == {*TANH, *RELU, COMPILED}
    for name, of in found["tangency"].items():
        kinds = {"equal", "opposite", "zero"} if name.endswith("tanh") else {"equal", "zero", "proportional"}
        uneven = {"proportional, uneven"} if name == RELU[0] else set()
        assert set(of) == {*kinds, *uneven, "inputs"}
        assert all(value <= 1e-14 for kind, value in of.items() if kind != "inputs") and of["inputs"] > 1e-2
        assert found["non_example"][name]["tangency"] == of["inputs"]


def test_ties_hold_bit_for_bit_and_the_non_example_leaves(finished):
    found = finished[1]["manifolds"]
    for name in (*TANH, *RELU, COMPILED):
        for dynamics in ("sgd", "momentum"):
            for kind, entry in found["ties"][name][dynamics].items():
                if kind == "inputs":
                    assert entry["bitwise_steps"] == 0 and entry["distance"] > 0.01
                else:
                    assert entry == {"bitwise_steps": 120, "distance": 0.0}
    sidecar = read_sidecar(finished[0] / "manifolds.h5")
    assert sidecar.dims["distance"] == ("run", "kind", "step") and sidecar.arrays["distance"].shape == (18, 5, 121)
    row = list(sidecar.coordinates["kind"]).index("inputs")
    assert (sidecar.arrays["distance"][:, row, 0] < 1e-15).all() and (sidecar.arrays["distance"][:, row, 1:] > 0).all()


def test_reduced_networks_are_the_same(finished):
    for name in ("two layers", "three layers"):
        for dynamics in ("sgd", "momentum"):
            found = finished[1]["manifolds"]["reduced_width"][name][dynamics]
            assert max(found["parameters"], found["logits"]) <= 1e-13 and found["moved"] > 0.1


def test_condensation(finished):
    found = finished[1]["manifolds"]["condensation"]
    assert set(found["near"]) == {"two layers", "two layers, weight decay", "plain lattice", "residual lattice"}
    for of in found["near"].values():
        assert len(of["ratio"]) == 2 and all(0.001 < start < 0.1 for start in of["start"])
    decayed, free = found["near"]["two layers, weight decay"]["ratio"], found["near"]["two layers"]["ratio"]
    assert all(with_decay < 0.8 * without for with_decay, without in zip(decayed, free, strict=True))
    assert found["small"]["two layers, small"]["least"] < 2.5 < found["small"]["two layers, ordinary"]["least"]


def test_what_does_not_depend_on_y(finished):
    found = finished[1]["manifolds"]["translation"]
    for system in ("lattice", "field"):
        for part in ("parameters", "z"):
            assert found["uniform"][system][part]["largest"] < 1e-13
            assert 1e-8 < found["wave"][system][part]["start"] < 1e-5


def test_words_figures_and_report(finished):
    out, scores = finished
    described = describe(parsed(out.parent).model_dump(), json.loads((out / "scores.json").read_text()))
    assert described.message.startswith("All ties held bit for bit through 120 steps of gradient descent and momentum")
    assert [table.title for table in described.tables] == [
        "Tangency",
        "Ties along training",
        "Reduced width",
        "Starts near equal neurons",
        "Directions",
        "Invariance in y",
    ]
    assert {path.stem for path in (out / "figures").iterdir()} == set(CAPTIONS)
    assert "\n" not in described.message and (out / "report.html").is_file()
    scores["manifolds"]["ties"][TANH[0]]["sgd"]["equal"] = {"bitwise_steps": 7, "distance": 1e-16}
    described = describe(parsed(out.parent).model_dump(), scores)
    assert described.message.startswith("Not all ties held")
    assert described.tables[1].rows[0][2] == "7\n1.00·10⁻¹⁶"


def test_a_recorded_run_is_drawn(finished):
    with Run(finished[0] / "field-wave.h5") as run:
        observed = observe(run)
        figure = figure_observed(observed.values(), {**observed.coordinates, "t": run.t}, observed.summary, "a$b.h5")
    assert len(figure.axes) == 3 and "channels" in figure.get_suptitle()


def test_the_study_repeats_itself_bit_for_bit(folder, finished):
    few = ("training.steps=20", "manifolds.reduced=5", "manifolds.translation=10", 'manifolds.activations=["gelu"]')
    for name in ("a", "b"):
        run_study(parsed(folder, *few), folder / name, workers=1, say=silent)
    assert (folder / "a" / "scores.json").read_bytes() == (folder / "b" / "scores.json").read_bytes()


def test_defaults_and_round_trip(folder):
    config = parse_config(SMALL.partition("[manifolds]")[0], "study", folder, ("manifolds.samples=30",))
    assert isinstance(config, ManifoldsConfig) and config.manifolds.activations == ("tanh", "relu")
    assert parse_config(config.to_toml()) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lattice.padding=zeros", 'lattice.padding: needs "circular", without which'),
        ("lattice.channels=7", "lattice.channels: needs at least 8, so that every kind is tied (got 7)"),
        ("lattice.scaling=plain", 'lattice.scaling: kind = "manifolds" studies residual networks; use "residual"'),
        ("training.dynamics=flow", 'training.dynamics: needs "sgd"; runs with momentum are made beside it'),
        ("training.backend=numba", "training.backend: both routes are followed side by side; leave it out"),
        ("training.precision=float32", "training.precision: ties are followed in float64"),
        ("manifolds.activations=[]", "manifolds.activations: needs a list out of tanh, "),
        ("manifolds.deep=[12]", "manifolds.deep: needs a list of two or more hidden widths"),
        ("manifolds.deep=[12, 8]", "manifolds.deep: needs widths of at least 9 (got [12, 8])"),
        ("manifolds.hidden=8", "manifolds.hidden: needs a whole number from 9 to 100000 (got 8)"),
        ("manifolds.momentum=1", "manifolds.momentum: needs a number below 1 (got 1.0)"),
        ("manifolds.pairs=5", "manifolds.pairs: needs at most half of manifolds.hidden and of lattice.channels, 8"),
        (
            "manifolds.samples=41",
            "manifolds.samples: needs at least training.batch and at most the 40 training",
        ),
        ("manifolds.step=1", "manifolds.step: unknown key"),
    ],
)
def test_refused_in_one_line(folder, override, message):
    with pytest.raises(InputError) as caught:
        parsed(folder, override)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"study: {message}")


def test_a_width_without_waves_is_refused(folder):
    with pytest.raises(InputError, match=r"^study: lattice\.width: needs at least 3 cells, .* \(got 2\)$"):
        parsed(folder, "lattice.width=2", "lattice.taps=1", "lattice.readout_modes=1")
