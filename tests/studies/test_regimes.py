"""The regimes study, small: every network once more by hand, censored ratios, its files, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from bbdfield.errors import InputError, NumericsError
from bbdfield.lattice.dense import DenseNetwork, descend, draw_dense
from bbdfield.model.activations import get_activation
from bbdfield.model.losses import get_loss, prepare_targets
from bbdfield.model.run import Run
from bbdfield.observables.regimes import Curves, Steps, settles_at_the_end, settles_below, settles_in_sum
from bbdfield.observables.stepping import replay
from bbdfield.plotting.regimes import figure_curves, figure_nodal, figure_observed, figure_ratios
from bbdfield.plotting.style import save
from bbdfield.storage.sidecar import read_sidecar
from bbdfield.studies import regimes
from bbdfield.studies.config import RegimesConfig, parse_config
from bbdfield.studies.regimes import CAPTIONS, GAIN, NAMES, STREAM_WEIGHTS, Job, describe
from bbdfield.studies.run import run_study

SMALL = """
kind = "regimes"
title = "small"
seed = 3
[data]
file = "data.npz"
[lattice]
depth = 4
width = 12
channels = 2
radius = "1/8"
readout_modes = 4
activation = "relu"
[initial]
weight = 2.0
bias = 0.3
readout = 0.5
[training]
steps = 60
batch = 8
step = 0.5
rates = { w = 2.0, b = 0.2, r = 0.5 }
snapshot_every = 10
probe = 5
[field]
n_x = 3
[regimes]
seeds = 2
widths = [7, 6]
blocks = 1
steps = 50
batch = 6
rate = 0.05
full_steps = 45
full_rate = 0.1
windows = [0.0, 0.1]
[output]
figures = false
"""
COUNT = 2 * (5 + 5) + 5  # definitions with one rate: windows × (ρ + q), and the end


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_data):
    path = tmp_path_factory.mktemp("regimes")
    write_data(path)
    return path


def silent(line: str) -> None:
    """No progress on the screen of the tests."""


def parsed(folder: Path, *overrides: str) -> RegimesConfig:
    config = parse_config(SMALL, "study", folder, overrides)
    assert isinstance(config, RegimesConfig)
    return config


@pytest.fixture(scope="module")
def finished(folder):
    """The study, with figures."""
    out = folder / "run"
    scores = run_study(parsed(folder, "output.figures=true"), out, workers=1, say=silent)
    return out, scores


def entry_of(found, **wanted):
    (entry,) = [e for e in found["definitions"] if all(e[key] == value for key, value in wanted.items())]
    return entry


def curves_of(out: Path, network: str) -> list[dict[str, np.ndarray]]:
    return [read_sidecar(out / f"curves-{network}-{i}.h5").arrays for i in (1, 2)]


def test_every_network_and_every_definition(finished):
    _, scores = finished
    networks = scores["regimes"]["networks"]
    assert list(networks) == list(NAMES)
    for name, of in networks.items():
        two_rates = name in ("dense-decaying", "lattice", "field")
        assert of["count"] == len(of["definitions"]) == (2 * COUNT - 5 if two_rates else COUNT)
        assert of["known"] + sum(e["settled"] < 2 for e in of["definitions"]) == of["count"]
        assert of["seeds"] == 2 and all(0 <= value <= 1 for value in of["accuracy"])
    assert networks["lattice"]["windows"] == [1, 6] and networks["dense-full-batch"]["steps"] == 45


@pytest.mark.parametrize("network", list(NAMES))
def test_ratios_are_those_of_the_curves(finished, network):
    out, scores = finished
    curves, of = curves_of(out, network), scores["regimes"]["networks"][network]
    window = of["windows"][1]
    times = [[settles_in_sum(c[name], 0.8, window) for name in ("w", "a")] for c in curves]
    entry = entry_of(of, curve="w", kind="q", level=0.8, window=window)
    ratio = np.array([a / b for a, b in times])
    if np.isfinite(ratio).all():
        assert entry["mean"] == pytest.approx(ratio.mean()) and entry["median"] == pytest.approx(np.median(ratio))
        assert entry["error"] == pytest.approx(ratio.std(ddof=1) / math.sqrt(2)) and entry["settled"] == 2
        assert entry["spread"] == pytest.approx([ratio.min(), ratio.max()])
    else:  # no sign of a small network flips in one of the runs
        assert network == "dense-residual" and entry["mean"] is None and entry["settled"] < 2
    for level in (0.1, 0.5):
        entry = entry_of(of, curve="w", kind="rho", level=level, window=1)
        weights = [settles_below(c["w"], level) for c in curves]
        patterns = [settles_below(c["a"], level) for c in curves]
        assert entry["settled_weights"] == np.isfinite(weights).sum()
        assert entry["settled_patterns"] == np.isfinite(patterns).sum()
        assert (entry["mean"] is None) == (not np.isfinite([weights, patterns]).all())
    entry = entry_of(of, curve="distance", kind="end", level=0.5)
    ends = [[settles_at_the_end(c["at"], c[f"distance_{name}"], 0.5) for name in "wa"] for c in curves]
    expected = [a / b for a, b in ends]
    assert entry["mean"] == (pytest.approx(np.mean(expected)) if np.isfinite(expected).all() else None)


def test_the_lattice_is_trained_from_its_seed_and_followed_at_every_step(finished):
    out, _ = finished
    curves = curves_of(out, "lattice")[1]
    with Run(out / "lattice-2.h5") as run:
        assert run.training.seed == 4 and run.lattice.activation == "relu"
        maker = Steps(run.lattice, run.grid, run.training, run.kind)
        for k, system, before, after in replay(run):
            found = maker.step(k, system, before, after)
            assert (found["regimes_w"], found["regimes_a"]) == (curves["w"][k], curves["a"][k])
        assert curves["flipped"][-1] == curves["a"][-1]
    with Run(out / "field-1.h5") as field:
        assert field.kind == "field" and field.grid.n_x == 3 and field.training.seed == 3


def test_a_dense_run_by_hand(finished, folder):
    """The full batch needs no order of samples: its first two steps of w_t, from the seed's weights."""
    out, _ = finished
    data = parsed(folder).dataset()
    w, b = draw_dense([24, 7, 6, 3], np.random.default_rng([3, STREAM_WEIGHTS]), GAIN)
    network = DenseNetwork(get_activation("relu"), get_loss("cross-entropy"))
    x, targets = data.x.reshape(40, 24).T, prepare_targets("cross-entropy", data.y, 3)
    steps = list(descend(network, w, b, [(x, targets)] * 2, 0.1))
    old = np.concatenate([part.ravel() for part in (*w, *b)])
    for k, step in enumerate(steps):
        new = np.concatenate([part.ravel() for part in (*step.w, *step.b)])
        expected = np.linalg.norm(new - old) / np.linalg.norm(old)
        assert curves_of(out, "dense-full-batch")[0]["w"][k] == pytest.approx(expected, rel=1e-10)
        old = new


def test_rates_of_dense_networks(finished):
    out, _ = finished
    constant, decaying = curves_of(out, "dense")[0], curves_of(out, "dense-decaying")[0]
    np.testing.assert_allclose(constant["w_rate"], constant["w"] / 0.05)
    np.testing.assert_allclose(decaying["w_rate"], decaying["w"] / (0.05 * (1 - np.arange(50) / 50)))
    assert constant["w"][0] == decaying["w"][0] and constant["w"][1] != decaying["w"][1]


def test_what_does_not_settle_is_counted_and_has_a_bound_only():
    """Patterns settle at 12.5 of 100 steps, weights in one run of two: no ratio, but more than 8 in the other."""
    pairs = np.array([[60.0, 20.0], [math.nan, 12.5]])
    entry = regimes._definition("w", "rho", 0.1, 1, pairs, pairs[:, 0] / pairs[:, 1], 100)
    assert (entry["mean"], entry["median"], entry["spread"], entry["error"]) == (None, None, None, None)
    assert (entry["settled"], entry["settled_weights"], entry["settled_patterns"]) == (1, 1, 2)
    assert entry["bound"] == 8.0 and not entry["about_three"] and entry["weights"] is None
    unknown = np.array([[math.nan, math.nan], [60.0, 20.0]])
    assert regimes._definition("w", "rho", 0.1, 1, unknown, unknown[:, 0] / 20, 100)["bound"] is None


@pytest.mark.parametrize(
    ("ratios", "about"),
    [
        ([3.0, 3.2], True),
        ([2.2, 2.6], True),
        ([4.4, 5.0], True),
        ([2.0, 2.1], False),
        ([5, 5.2], False),
        ([0, 6], False),
    ],
)
def test_about_three(ratios, about):
    pairs = np.array([[100 * ratio + 1e-9, 100.0] for ratio in ratios])
    entry = regimes._definition("w", "q", 0.5, 1, pairs, pairs[:, 0] / 100, 1000)
    assert entry["about_three"] is about


def test_counts_of_definitions(finished):
    scores = finished[1]["regimes"]
    three = scores["factor_about_three"]
    every = [entry for of in scores["networks"].values() for entry in of["definitions"]]
    assert three["of"] == len(every) and three["known"] == sum(e["mean"] is not None for e in every)
    assert three["count"] == len(three["where"]) == sum(e["about_three"] for e in every)
    families = three["families"]
    assert families["steps"]["of"] + families["distance"]["of"] == three["of"]
    assert families["distance"]["of"] == 5 * 6
    medians = [e["median"] for e in every if e["curve"] != "distance" and e["median"] is not None]
    assert families["steps"]["median"] == pytest.approx(np.median(medians))


def test_figures_and_words(finished, folder):
    out, scores = finished
    assert sorted(path.stem for path in (out / "figures").iterdir()) == sorted(CAPTIONS)
    described = describe(parsed(folder).model_dump(), scores)
    assert [row[0] for row in described.tables[0].rows] == list(NAMES.values())
    median = scores["regimes"]["factor_about_three"]["families"]["steps"]["median"]
    assert f"weights settle at {median:.3g} times the time of the patterns" in described.message
    assert "nodal lines of ẑ sweep" in described.message
    assert json.loads((out / "scores.json").read_text())["regimes"] == scores["regimes"]
    nothing = {**scores["regimes"], "factor_about_three": {**scores["regimes"]["factor_about_three"], "known": 0}}
    message = describe(parsed(folder).model_dump(), {"regimes": nothing}).message
    assert message.startswith("By none of") and message.endswith("settle in every run.")


def test_scores_are_bitwise_the_same_with_more_workers_and_when_resumed(finished, folder):
    out, _ = finished
    text = (out / "scores.json").read_bytes()
    (out / "curves-dense-2.h5").unlink()
    (out / "curves-lattice-1.h5").unlink()
    run_study(parsed(folder, "output.figures=true"), out, resume=True, say=silent)
    assert (out / "scores.json").read_bytes() == text
    run_study(parsed(folder), folder / "two", workers=2, say=silent)
    assert (folder / "two" / "scores.json").read_bytes() == text


def test_dense_networks_alone(folder, tmp_path):
    scores = run_study(
        parsed(folder, 'regimes.networks=["dense"]', "output.figures=true", "regimes.seeds=1"),
        tmp_path / "run",
        workers=1,
        say=silent,
    )
    assert list(scores["regimes"]["networks"]) == ["dense"]
    assert not list((tmp_path / "run").glob("lattice*"))
    assert sorted(path.stem for path in (tmp_path / "run" / "figures").iterdir()) == ["regimes", "regimes-curves"]
    assert all(e["error"] in (0.0, None) for e in scores["regimes"]["networks"]["dense"]["definitions"])


def test_a_dense_residual_lattice_has_no_lines(folder, tmp_path):
    """One cell whose channels are the points of a signal: curves and ratios, but nothing to draw a line through."""
    text = SMALL.replace('radius = "1/8"', 'range = "taps"\ntaps = 1').replace("width = 12", "width = 1")
    text = text.replace("readout_modes = 4", "readout_modes = 1").replace("bias = 0.3", "bias = 0.0")
    given = ("data.layout=channels", 'regimes.networks=["lattice"]', "lattice.channels=6", "output.figures=true")
    config = parse_config(text, "study", folder, given)
    scores = run_study(config, tmp_path / "run", workers=1, say=silent)
    of = scores["regimes"]["networks"]["lattice"]
    assert "nodal" not in of and of["known"] > 0
    assert sorted(path.stem for path in (tmp_path / "run" / "figures").iterdir()) == ["regimes", "regimes-curves"]
    assert "nodal" not in describe(config.model_dump(), scores).message


def test_a_rate_that_diverges_is_named(folder, tmp_path):
    config = parsed(folder, 'regimes.networks=["dense"]', "regimes.rate=1e200")
    with pytest.raises(
        NumericsError, match=r"^dense, constant rate: the loss is not finite at step \d+; lower regimes"
    ):
        regimes.run_job(Job("dense", 0), config, tmp_path, None)


# figures by themselves


def entries(mean, bound=None):
    return [
        {"curve": curve, "kind": kind, "level": level, "window": window, "mean": mean, "error": 0.1, "bound": bound}
        for curve, kind, window in (("w", "rho", 5), ("w", "q", 5), ("distance", "end", None))
        for level in (0.1, 0.5)
    ]


def family(median, first=0):
    return {
        "median": median,
        "tenth": median,
        "ninetieth": median,
        "known": 6,
        "about_three": 2,
        "patterns_first": first,
    }


def test_ratios_show_censored_ones_as_bounds(tmp_path):
    found = {
        "networks": {
            "dense": {"name": "dense", "definitions": entries(1.0), "accuracy_mean": None, "median": 1.0},
            "lattice": {"name": "lattice", "definitions": entries(None, 4.0), "accuracy_mean": 0.8, "median": None},
        },
        "factor_about_three": {"families": {"steps": family(1.2), "distance": {**family(0.8), "median": None}}},
    }
    figure = figure_ratios(found, {"dense": 5, "lattice": 5})
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [line.get_ydata()[0] for line in hollow] == [4.0, 4.0]
    assert "Step by step, patterns settle earlier than weights do: median ratio 1.20, about 3 in 2 of 6 cases" in (
        figure.get_suptitle()
    )
    assert "By the distance from the end, weights or patterns do not settle" in figure.get_suptitle()
    assert save(figure, tmp_path / "a.png").stat().st_size > 10_000


def test_curves_that_do_not_move(tmp_path):
    still = {name: np.full(20, 0.0 if name == "a" else 1.0) for name in ("w", "w_rate", "a")}
    figure = figure_curves({"dense": still}, {"dense": 24}, {"dense": "dense"})
    assert "Correlation" in figure.get_suptitle() and save(figure, tmp_path / "a.png").exists()


def test_nodal_lines_that_are_none(tmp_path):
    lines = {
        "x": np.linspace(0, 1, 4), "y": np.array([0.25, 0.75]), "shown_t": np.array([0.0]),
        "shown_z": np.ones((1, 4, 2)), "shown_rate": np.zeros((1, 4, 2)), "t": np.arange(2.0),
        "length": np.zeros(2), "flipped": np.zeros(2), "swept": np.zeros(2),
    }  # fmt: skip
    figure = figure_nodal(lines)
    assert "length 0.00 at the start, 0.00 at the end" in figure.get_suptitle()
    assert save(figure, tmp_path / "a.png").exists()


def test_the_figure_of_an_observed_run(finished, tmp_path):
    with Run(finished[0] / "field-1.h5") as run:
        from bbdfield.observables.regimes import observe

        found = observe(run)
        coordinates = {**found.coordinates, "t": run.t, "step": np.arange(60)}
        figure = figure_observed(found.values(), coordinates, found.summary, "field-1.h5")
    assert "field-1.h5: " in figure.get_suptitle() and "times the patterns' time" in figure.get_suptitle()
    assert save(figure, tmp_path / "a.png").stat().st_size > 10_000


def test_curves_without_snapshots_have_no_end():
    assert "end" not in regimes.times(Curves(np.ones(9), np.ones(9), np.ones(9)), regimes.Definitions(windows=(1,)))


# what is refused


def test_defaults_and_round_trip(folder):
    config = parse_config(SMALL.partition("[regimes]")[0], "study", folder, ("training.steps=100",))
    assert isinstance(config, RegimesConfig) and config.regimes.seeds == 3
    assert parse_config(config.to_toml()) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.steps=30", "training.steps: settling needs 40 training steps or more (got 30)"),
        ("training.snapshot_every=60", "training.snapshot_every: settling needs 3 snapshots or more, and 60 st"),
        ("regimes.steps=39", "regimes.steps: needs a whole number >= 40 (got 39)"),
        ("regimes.batch=41", "regimes.batch: the data have only 40 samples; use a smaller batch (got 41)"),
        ('regimes.networks=["cnn"]', 'regimes.networks: needs a list out of "dense", "dense-decaying"'),
        ("regimes.windows=[0.1, 0.5]", "regimes.windows: needs an increasing list of parts of the run from 0"),
        ("regimes.thresholds=[0.5, 0.1]", "regimes.thresholds: needs its levels in increasing order, each once"),
        ("regimes.fractions=[1.0]", "regimes.fractions: needs an increasing list of levels from 0.001 to 0.999"),
        ("lattice.depth=1", "lattice.depth: with a single layer only the input is activated, which does not move; us"),
        ("lattice.depth=[4, 8]", "lattice.depth: needs one size, since one network is studied (got [4, 8])"),
        ("initial.correlation_x=0", "initial.correlation_x: independent values are no field"),
    ],
)  # fmt: skip
def test_refused_in_one_line(folder, override, message):
    with pytest.raises(InputError) as caught:
        parsed(folder, override)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"study: {message}")
