"""The manifolds study, small: its scores, files and words, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.model.run import Run
from bbdfield.observables.manifolds import observe
from bbdfield.observables.ties import KINDS
from bbdfield.plotting.manifolds import figure_manifolds, figure_observed, figure_translation
from bbdfield.storage.sidecar import read_sidecar
from bbdfield.studies.config import ManifoldsConfig, parse_config
from bbdfield.studies.config.manifolds import neurons_needed, places_of, tied_kinds
from bbdfield.studies.manifolds import CAPTIONS, check, describe
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
    assert [of["share"] for of in found["small"].values()] == [0.01, 1.0, 0.1, 1.0]
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


def test_linear_networks_have_all_kinds_at_once(folder):
    """Four pairs and a zero, with no neuron in two of them; 12 channels, a multiple of 4."""
    few = (
        "training.steps=20",
        "manifolds.reduced=5",
        "manifolds.translation=5",
        "initial.weight=1.0",
        "training.rates.w=0.2",
    )
    linear = (
        'manifolds.activations=["identity"]',
        "lattice.channels=12",
        "manifolds.hidden=10",
        "manifolds.deep=[10, 10]",
    )
    found = run_study(parsed(folder, *few, *linear), folder / "linear", workers=1, say=silent)["manifolds"]
    for name, of in found["tangency"].items():
        assert {*KINDS, "inputs"} <= set(of)
        assert all(value <= 1e-14 for kind, value in of.items() if kind != "inputs") and of["inputs"] > 1e-2
        for kinds in found["ties"][name].values():
            assert all(kinds[kind] == {"bitwise_steps": 20, "distance": 0.0} for kind in KINDS)


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity", "sigmoid"])
def test_every_kind_has_neurons_of_its_own(activation):
    kinds = tied_kinds(activation)
    least = neurons_needed([activation])
    for count in range(least, least + 4):
        taken = [k for place in places_of(kinds, count).values() for k in place]
        assert len(set(taken)) == len(taken) and set(taken) <= set(range(count))
    with pytest.raises(InputError, match=rf"^manifolds: {len(kinds)} ties .* do not fit into {least - 1} neurons"):
        places_of(kinds, least - 1)


# titles that depend on data


def distances(**rows):
    """(kind, step) of a panel of the main figure: kinds that are not given are NaN."""
    found = np.full((5, 21), np.nan)
    for kind, values in rows.items():
        found[[*KINDS, "inputs"].index(kind)] = values
    return found


def test_titles_say_what_the_data_say():
    kinds, near = [*KINDS, "inputs"], np.geomspace(0.01, 0.1, 21)[None]
    at_once, late = (np.r_[0.0, np.ones(20)], np.r_[np.zeros(11), np.full(10, 1e-9)])

    def title(bitwise, *panels):
        given = {str(n): (panel, near, None) for n, panel in enumerate(panels)}
        return figure_manifolds(given, kinds, "tanh", bitwise).get_suptitle()

    good = distances(equal=0, zero=0, inputs=at_once)
    assert title(True, good, good).startswith("Equal and zero neurons stay so bit for bit through 20 steps;\n")
    assert title(False, good, good).startswith(
        "Equal and zero neurons stay so bit for bit through 20 steps here, though"
    )
    assert title(False, good, distances(equal=late, zero=0, inputs=at_once)).startswith(
        "Zero neurons stay so bit for bit through 20 steps, equal ones not in all of these networks;"
    )
    assert title(False, distances(equal=late, inputs=at_once)).startswith("No tie holds bit for bit")
    assert "share only their inputs part at once; starts nearby move away" in title(True, good)
    assert "share only their inputs part;" in title(True, distances(equal=0, inputs=late))
    assert "share only their inputs do not part;" in title(True, distances(equal=0, inputs=0))
    assert "share only their inputs part in 1 of 2 networks;" in title(True, good, distances(equal=0, inputs=0))

    def departed(size):
        values = {"field, uniform": np.full((5, 2), size), "field, wave": np.full((5, 2), 1e-6)}
        return figure_translation(np.arange(5.0), values, 1e-6).get_suptitle()

    assert departed(3e-16).startswith("What does not depend on $y$ stays so to $3")
    assert departed(0.3).startswith("What does not depend on $y$ comes to depend on it by $3")


def test_words_on_pairs_that_moved_away_leave_the_others_out(finished):
    scores = json.loads(json.dumps(finished[1]))
    near = scores["manifolds"]["condensation"]["near"]
    for name in near:
        near[name]["ratio"] = [0.5, 0.7]
    message = describe(parsed(finished[0].parent).model_dump(), scores).message
    assert "Of 6 pairs that started near equal neurons 0 moved away; with weight decay 2 of 2 came nearer" in message
    near["two layers"]["ratio"] = [0.5, 3.0]
    message = describe(parsed(finished[0].parent).model_dump(), scores).message
    assert "1 moved away, to 3 times their distance" in message


def test_defaults_and_round_trip(folder):
    config = parse_config(SMALL.partition("[manifolds]")[0], "study", folder, ("manifolds.samples=30",))
    assert isinstance(config, ManifoldsConfig) and config.manifolds.activations == ("tanh", "relu")
    assert parse_config(config.to_toml()) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lattice.padding=zeros", 'lattice.padding: needs "circular", without which'),
        ("lattice.channels=7", "lattice.channels: needs at least 8, so that every kind is tied (got 7)"),
        (
            'manifolds.activations=["identity"]',
            "lattice.channels: needs at least 10, so that every kind is tied (got 8)",
        ),
        ("lattice.depth=1", "lattice.depth: needs at least 2, so that there is a hidden site (got 1)"),
        ("training.rates.w=0", "training.rates.w: needs a rate > 0; without it weights stay where they are"),
        ("lattice.scaling=plain", 'lattice.scaling: kind = "manifolds" studies residual networks; use "residual"'),
        ("training.dynamics=flow", 'training.dynamics: needs "sgd"; runs with momentum are made beside it'),
        ("training.backend=numba", "training.backend: both routes are followed side by side; leave it out"),
        ("training.precision=float32", "training.precision: ties are followed in float64"),
        ("manifolds.activations=[]", "manifolds.activations: needs a list out of tanh, "),
        ("manifolds.deep=[12]", "manifolds.deep: needs a list of two or more hidden widths"),
        (
            "manifolds.deep=[12, 7]",
            "manifolds.deep: needs widths of at least 8, so that every kind is tied (got [12, 7])",
        ),
        ("manifolds.hidden=7", "manifolds.hidden: needs at least 8, so that every kind is tied (got 7)"),
        ("manifolds.rate=1e9", "manifolds.rate: needs a number from 1e-09 to 100 (got 1000000000.0)"),
        ("manifolds.near=100", "manifolds.near: needs a number from 1e-09 to 0.5 (got 100)"),
        ("manifolds.wave=1e-300", "manifolds.wave: needs a number from 1e-12 to 1 (got 1e-300)"),
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


def test_too_few_links_for_the_field_are_refused_before_anything_runs(folder):
    message = (
        r"^lattice\.depth = 2: too few links .* \(field\.n_x = 2: unstable .*\); use more, or lower initial\.weight$"
    )
    with pytest.raises(InputError, match=message):
        check(parsed(folder, "lattice.depth=2"))


def test_a_width_without_waves_is_refused(folder):
    with pytest.raises(InputError, match=r"^study: lattice\.width: needs at least 3 cells, .* \(got 2\)$"):
        parsed(folder, "lattice.width=2", "lattice.taps=1", "lattice.readout_modes=1")
