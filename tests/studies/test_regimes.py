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
from bbdfield.observables.regimes import Curves, Steps, follow_run, settles_at_the_end, settles_below, settles_in_sum
from bbdfield.observables.stepping import replay
from bbdfield.plotting.regimes import (
    _moves_together,
    _says,
    figure_curves,
    figure_nodal,
    figure_observed,
    figure_ratios,
)
from bbdfield.plotting.style import save
from bbdfield.storage.sidecar import read_sidecar
from bbdfield.studies import regimes
from bbdfield.studies.config import RegimesConfig, parse_config
from bbdfield.studies.regimes import CAPTIONS, GAIN, NAMES, STREAM_BATCHES, STREAM_WEIGHTS, Job, describe
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
    with np.load(path / "data.npz") as written:
        data = dict(written)
    rng = np.random.default_rng(11)  # test samples of their own, which cannot be mistaken for the first training ones
    np.savez(path / "data.npz", **{**data, "x_test": rng.standard_normal((9, 2, 12)), "y_test": (np.arange(9) + 1) % 3})
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
        assert of["known"] + of["unknown"] + of["flat"] == of["count"]
        assert of["seeds"] == 2 and all(0 <= value <= 1 for value in of["accuracy"])
    assert networks["lattice"]["windows"] == [1, 6] and networks["dense-full-batch"]["steps"] == 45


@pytest.mark.parametrize("network", list(NAMES))
def test_ratios_are_those_of_the_curves(finished, network):
    out, scores = finished
    curves, of = curves_of(out, network), scores["regimes"]["networks"][network]
    window = of["windows"][1]
    times = [[settles_in_sum(c[name], 0.8, window) for name in ("w", "a")] for c in curves]
    settles = [[math.isfinite(settles_below(c[name], 0.5, window)) for name in ("w", "a")] for c in curves]
    entry = entry_of(of, curve="w", kind="q", level=0.8, window=window)
    assert [entry["settled_weights"], entry["settled_patterns"]] == np.sum(settles, axis=0).tolist()
    assert entry["settles"] is bool(np.all(settles))
    ratio = np.array([a / b for a, b in times])
    if np.isfinite(ratio).all():
        assert entry["mean"] == pytest.approx(ratio.mean()) and entry["median"] == pytest.approx(np.median(ratio))
        assert entry["error"] == pytest.approx(ratio.std(ddof=1) / math.sqrt(2))
        assert entry["spread"] == pytest.approx([ratio.min(), ratio.max()])
    else:  # no sign of a small network flips in one of the runs
        assert network == "dense-residual" and entry["mean"] is None and not entry["settles"]
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
        assert field.trajectory.config["field"]["order"] == 1


def test_nodal_lines_are_those_of_the_run(finished):
    """Length and the area that a step sweeps, τ ∫ speed dl, means over channels and samples, at every snapshot."""
    out, scores = finished
    with Run(out / "field-2.h5") as run:
        _, lines = follow_run(run)
    stored = curves_of(out, "field")[1]
    np.testing.assert_allclose(stored["length"], lines.nodal.length.mean(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(stored["swept"], 0.5 * lines.nodal.swept.mean(axis=(1, 2)), rtol=1e-12)
    both, nodal = curves_of(out, "field"), scores["regimes"]["networks"]["field"]["nodal"]
    assert nodal["swept"] == pytest.approx(np.mean([c["swept"].mean() for c in both]))
    assert nodal["flipped"] == pytest.approx(np.mean([c["flipped"].mean() for c in both]))
    assert nodal["length"] == pytest.approx(np.mean([c["length"] for c in both], axis=0).tolist())


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


@pytest.mark.parametrize("network", ["dense", "dense-residual"])
def test_minibatches_accuracy_and_samples_by_hand(finished, folder, network):
    """All steps once more, from the seed's two streams: shuffled minibatches, skips, and numbers of test samples."""
    out, scores = finished
    data, rng = parsed(folder).dataset(), np.random.default_rng([4, STREAM_WEIGHTS])
    x, x_test = data.x.reshape(40, 24).T, data.x_test.reshape(9, 24).T
    residual = network == "dense-residual"
    if residual:
        lift = rng.standard_normal((7, 24)) / math.sqrt(24)
        x, x_test = lift @ x, lift @ x_test
    w, b = draw_dense([7, 7, 7, 3] if residual else [24, 7, 6, 3], rng, GAIN)
    targets, order, batches = np.eye(3)[data.y], np.random.default_rng([4, STREAM_BATCHES]), []
    while len(batches) < 50:  # of 40 samples, six batches of 6
        index = order.permutation(40)
        batches += [(x[:, index[k : k + 6]], targets[index[k : k + 6]]) for k in range(0, 36, 6)]

    def forward(w, b):
        if not residual:
            z = [w[0] @ x_test + b[0][:, None]]
            z.append(w[1] @ np.maximum(z[0], 0) + b[1][:, None])
            return z, w[2] @ np.maximum(z[1], 0) + b[2][:, None]
        z = [w[0] @ x_test + b[0][:, None]]
        return z, w[2] @ (x_test + w[1] @ np.maximum(z[0], 0) + b[1][:, None]) + b[2][:, None]

    described = DenseNetwork(get_activation("relu"), get_loss("cross-entropy"), residual)
    curves, (w_old, b_old) = curves_of(out, network)[1], (w, b)
    for step in descend(described, w, b, batches[:50], 0.05):
        parts = [np.concatenate([part.ravel() for part in (*ws, *bs)]) for ws, bs in ((w_old, b_old), (step.w, step.b))]
        moved = np.linalg.norm(parts[1] - parts[0]) / np.linalg.norm(parts[0])
        assert curves["w"][step.k] == pytest.approx(moved, rel=1e-9)
        then, now = (np.concatenate(forward(*of)[0])[:, :5] > 0 for of in ((w_old, b_old), (step.w, step.b)))
        assert curves["a"][step.k] == (then != now).mean()
        w_old, b_old = step.w, step.b
    right = (forward(w_old, b_old)[1].argmax(axis=0) == data.y_test).mean()
    assert scores["regimes"]["networks"][network]["accuracy"][1] == pytest.approx(right)


def test_seeds_differ(finished):
    out, _ = finished
    for network in NAMES:
        first, second = curves_of(out, network)
        assert not np.array_equal(first["w"], second["w"]) and first["w"][0] != second["w"][0]


def test_rates_of_dense_networks(finished):
    out, _ = finished
    constant, decaying = curves_of(out, "dense")[0], curves_of(out, "dense-decaying")[0]
    np.testing.assert_allclose(constant["w_rate"], constant["w"] / 0.05)
    np.testing.assert_allclose(decaying["w_rate"], decaying["w"] / (0.05 * (1 - np.arange(50) / 50)))
    assert constant["w"][0] == decaying["w"][0] and constant["w"][1] != decaying["w"][1]


def definition(pairs, kind="rho", window=1, steps=100, settles=None, moves=None):
    pairs = np.array(pairs, float)
    settles = np.isfinite(pairs) if settles is None else np.array(settles)
    moves = np.ones(pairs.shape, bool) if moves is None else np.array(moves)
    return regimes._definition("w", kind, 0.1, window, pairs, settles, moves, steps)


NAN = math.nan


def test_what_does_not_settle_is_counted_and_has_a_bound_only():
    entry = definition([[60.0, 20.0], [NAN, 12.5]])
    assert (entry["mean"], entry["median"], entry["spread"], entry["error"]) == (None, None, None, None)
    assert (entry["settled"], entry["settled_weights"], entry["settled_patterns"]) == (1, 1, 2)
    assert not entry["settles"] and not entry["about_three"] and entry["weights"] is None


@pytest.mark.parametrize(
    ("pairs", "window", "at_least", "at_most"),
    [
        # the last window of n steps stands at 100 − n/2; a curve could settle a step later
        ([[NAN, 12.5], [NAN, 20.0]], 1, 100.5 / 20, None),
        ([[NAN, 12.5], [NAN, 20.0]], 21, 90.5 / 20, None),
        ([[60.0, 20.0], [NAN, 12.5]], 1, 3.0, None),  # the smaller of the ratio 3 and the bound 8.04
        ([[90.0, 10.0], [NAN, 50.0]], 1, 100.5 / 50, None),
        ([[12.5, NAN], [20.0, NAN]], 21, None, 20 / 90.5),
        ([[60.0, 20.0], [12.5, NAN]], 1, None, 3.0),
        ([[20.0, 60.0], [80.0, NAN]], 1, None, 80 / 100.5),
        ([[NAN, 20.0], [20.0, NAN]], 1, None, None),  # in different directions
        ([[NAN, NAN], [60.0, 20.0]], 1, None, None),
        ([[60.0, 20.0], [60.0, 30.0]], 1, None, None),
    ],
)
def test_bounds(pairs, window, at_least, at_most):
    entry = definition(pairs, window=window)
    assert entry["at_least"] == (at_least and pytest.approx(at_least))
    assert entry["at_most"] == (at_most and pytest.approx(at_most))


def test_no_bound_from_what_never_moves_or_has_no_window():
    still = definition([[60.0, NAN], [60.0, 20.0]], moves=[[True, False], [True, True]])
    assert still["at_most"] is None and definition([[60.0, NAN], [60.0, 20.0]])["at_most"] is not None
    assert definition([[NAN, 20.0]], kind="end", window=None)["at_least"] is None


def test_a_sum_of_what_does_not_settle_is_no_case():
    entry = definition([[50.0, 50.0], [50.0, 25.0]], kind="q", settles=[[False, True], [True, True]])
    assert entry["mean"] == 1.5 and not entry["settles"] and entry["settled"] == 1 and entry["at_least"] is None
    counts = regimes._counts([entry])
    assert (counts["known"], counts["flat"], counts["unknown"], counts["median"]) == (0, 1, 0, None)


@pytest.mark.parametrize(
    ("ratios", "about", "undetermined"),
    [
        ([3.0, 3.2], True, False),
        ([2.2, 2.9], True, False),
        ([2.2, 2.6], False, False),  # the mean is 2.4, though 2.6 is one error away
        ([4.4, 5.0], False, False),
        ([4.2, 4.6], True, False),
        ([2.0, 2.1], False, False),
        ([5, 5.2], False, False),
        ([0, 6], False, True),  # mean 3, error 3
        ([1.2, 2.0, 6.0, 403.0], False, True),  # median 4
        ([3.0], False, True),
        ([1.0], False, False),
    ],
)
def test_about_three(ratios, about, undetermined):
    entry = definition([[100 * ratio + 1e-9, 100.0] for ratio in ratios], kind="q", steps=1000)
    assert (entry["about_three"], entry["undetermined"]) == (about, undetermined)
    assert (entry["error"] is None) == (len(ratios) == 1)


def test_counts():
    first, later = definition([[30.0, 20.0], [31.0, 20.0]]), definition([[20.0, 30.0], [20.0, 31.0]])
    unsure = definition([[20.0, 20.0], [60.0, 20.0]])
    above = definition([[NAN, 10.0], [NAN, 12.0]])  # 8.4 or more
    below, both, nothing = (definition(pairs) for pairs in ([[20.0, NAN]] * 2, [[NAN, 50.0]] * 2, [[NAN, NAN]] * 2))
    counts = regimes._counts([first, later, unsure, above, below, both, nothing])
    assert (counts["count"], counts["known"], counts["unknown"], counts["flat"]) == (7, 3, 4, 0)
    assert (counts["patterns_first"], counts["at_least"], counts["at_most"], counts["open"]) == (1, 2, 1, 2)
    assert (counts["median"], counts["most"]) == (pytest.approx(1.525), 2.0)
    assert regimes._counts([definition([[30.0, 20.0]])])["patterns_first"] is None


def test_counts_of_definitions(finished):
    scores = finished[1]["regimes"]
    three = scores["factor_about_three"]
    every = [entry for of in scores["networks"].values() for entry in of["definitions"]]
    assert three["of"] == len(every) and three["known"] == sum(e["settles"] for e in every)
    assert three["count"] == len(three["where"]) == sum(e["about_three"] for e in every)
    families = three["families"]
    assert sum(of["count"] for of in families.values()) == three["of"]
    assert families["distance"]["count"] == 5 * 6
    for family, kind in (("rho", "rho"), ("q", "q"), ("distance", "end")):
        medians = [e["median"] for e in every if e["kind"] == kind and e["settles"]]
        assert families[family]["median"] == pytest.approx(np.median(medians))


def test_lattice_and_field_agree_within_errors(finished):
    def one(mean, error, settles=True):
        place = {"curve": "w", "kind": "rho", "level": 0.1, "window": 1}
        return {"mean": mean, "error": error, "settles": settles, **place}

    lattice = {"seeds": 2, "definitions": [one(1.0, 0.3), one(1.0, 0.1), one(1.0, 0.1), one(None, None, False)]}
    theory = {"seeds": 2, "definitions": [one(2.0, 0.4), one(1.5, 0.1), one(1.0, 0.1, False), one(None, None, False)]}
    found = regimes._agreement(lattice, theory)
    assert (found["of"], found["both"], found["one"], found["agree"]) == (4, 2, 1, 1)
    assert found["apart"]["errors"] == pytest.approx(0.5 / math.hypot(0.1, 0.1)) and found["apart"]["level"] == 0.1
    assert regimes._agreement({**lattice, "seeds": 1}, theory)["agree"] is None
    assert finished[1]["regimes"]["lattice_and_field"]["of"] == 2 * COUNT - 5


def test_correlations_are_of_every_seed(finished):
    out, scores = finished
    for network, of in scores["regimes"]["networks"].items():
        for curves, value in zip(curves_of(out, network), of["correlation"], strict=True):
            w, a = (np.convolve(curves[name], np.ones(max(of["windows"])), "valid") for name in "wa")
            assert value == (pytest.approx(np.corrcoef(w, a)[0, 1]) if np.ptp(a) > 0 else None)


def test_figures_and_words(finished, folder):
    out, scores = finished
    assert sorted(path.stem for path in (out / "figures").iterdir()) == sorted(CAPTIONS)
    described = describe(parsed(folder).model_dump(), scores)
    assert [row[0] for row in described.tables[0].rows] == list(NAMES.values())
    for of in scores["regimes"]["factor_about_three"]["families"].values():
        assert f"weights settle at {of['median']:.3g} times the time of the patterns" in described.message
    assert "A residual network with 4 layers" in described.summary
    assert "Dense networks have hidden layers of 7 and 6 units" in described.summary
    assert "The dense residual network has 1 block of two layers, 7 units wide" in described.summary
    assert "nodal lines of ẑ sweep" in described.message
    assert json.loads((out / "scores.json").read_text())["regimes"] == scores["regimes"]
    nothing = {**scores["regimes"], "factor_about_three": {**scores["regimes"]["factor_about_three"], "known": 0}}
    message = describe(parsed(folder).model_dump(), {"regimes": nothing}).message
    assert message.startswith("By none of") and message.endswith("settle in every run.")


def test_scores_are_bitwise_the_same_with_more_workers_and_when_resumed(folder):
    config, out = parsed(folder, 'regimes.networks=["dense", "lattice"]'), folder / "some"
    run_study(config, out, workers=1, say=silent)
    text = (out / "scores.json").read_bytes()
    (out / "curves-dense-2.h5").unlink()
    (out / "curves-lattice-1.h5").unlink()
    run_study(config, out, resume=True, workers=1, say=silent)
    assert (out / "scores.json").read_bytes() == text
    run_study(config, folder / "two", workers=2, say=silent)
    assert (folder / "two" / "scores.json").read_bytes() == text


def test_dense_networks_alone(folder, tmp_path):
    config = parsed(folder, 'regimes.networks=["dense"]', "output.figures=true", "regimes.seeds=1")
    scores = run_study(config, tmp_path / "run", workers=1, say=silent)
    assert list(scores["regimes"]["networks"]) == ["dense"]
    assert not list((tmp_path / "run").glob("lattice*"))
    assert sorted(path.stem for path in (tmp_path / "run" / "figures").iterdir()) == ["regimes", "regimes-curves"]
    assert all(e["error"] is None for e in scores["regimes"]["networks"]["dense"]["definitions"])
    described = describe(config.model_dump(), scores)
    assert "in 1 network with 1 seed each. Dense networks have" in described.summary
    assert "residual" not in described.summary and "lattice_and_field" not in scores["regimes"]
    assert described.tables[0].rows[0][4] == "–"  # patterns first: no errors


def test_two_layers_have_lines_that_sweep_nothing(folder, tmp_path):
    config = parsed(folder, 'regimes.networks=["lattice"]', "regimes.seeds=1", "lattice.depth=2", "output.figures=true")
    scores = run_study(config, tmp_path / "run", workers=1, say=silent)
    nodal = scores["regimes"]["networks"]["lattice"]["nodal"]
    assert nodal["swept"] is None and min(nodal["length"]) > 0
    described = describe(config.model_dump(), scores)
    assert "sweep" not in described.message and "Dense" not in described.summary


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


def entries(mean, at_least=None, at_most=None, settles=True):
    said = {"mean": mean, "error": 0.1, "at_least": at_least, "at_most": at_most, "settles": settles}
    return [
        {"curve": curve, "kind": kind, "level": level, "window": window, **said}
        for curve, kind, window in (("w", "rho", 5), ("w", "q", 5), ("distance", "end", None))
        for level in (0.1, 0.5)
    ]


def family(median, tenth=None, ninetieth=None, undetermined=0):
    ends = {"tenth": median if tenth is None else tenth, "ninetieth": median if ninetieth is None else ninetieth}
    return {"median": median, **ends, "known": 6, "about_three": 2, "undetermined": undetermined}


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (family(1.2), "patterns settle earlier than weights do: median ratio 1.20, about 3 in 2 of 6 cases"),
        (family(0.8), "patterns settle later than weights do: median ratio 0.80, about 3 in 2 of 6 cases"),
        (family(1.2, 0.9, 2), "patterns settle mostly earlier than weights do: median ratio 1.20, about 3 in 2 of 6 c"),
        (family(0.5, 0.3, 1), "patterns settle mostly later than weights do: median ratio 0.50, about 3 in 2 of 6 ca"),
        (family(1.05, 0.9, 2), "patterns settle about when weights do: median ratio 1.05, about 3 in 2 of 6 cases"),
        (
            family(0.95, 0.9, 2, 1),
            "patterns settle about when weights do: median ratio 0.95, about 3 in 2 of 6 cases (",
        ),
        ({**family(1.0), "median": None}, "weights or patterns do not settle within the runs"),
    ],
)
def test_titles_of_ratios(of, words):
    said = _says("So", of)
    assert said.startswith(f"So, {words}")
    assert said.endswith("(1 undetermined)") == (of["undetermined"] == 1)


@pytest.mark.parametrize(
    ("correlations", "words"),
    [
        ([0.9, 0.8], "Signs flip as weights move: the correlation"),
        ([0.9, 0.31, None], "Signs flip as weights move in 1 of 2 runs: the correlation"),
        ([-1.0, 0.5], "Signs do not follow weights closely: the correlation"),
        ([None], "No correlation of"),
    ],
)
def test_titles_of_correlations(correlations, words):
    said = _moves_together(correlations)
    assert said.startswith(words)
    assert ("−1.00 to 0.50" in said) == (correlations[0] == -1.0)


def test_ratios_show_censored_ones_as_bounds(tmp_path):
    of = {"accuracy_mean": None}
    found = {
        "networks": {
            "dense": {"name": "dense", "definitions": entries(1.0), **of},
            "lattice": {"name": "lattice", "definitions": entries(None, 40.0), **of, "accuracy_mean": 0.8},
            "field": {"name": "field", "definitions": entries(None, None, 0.05), **of},
            "dense-residual": {"name": "pale", "definitions": entries(1.1, settles=False), **of},
        },
        "factor_about_three": {
            "families": {"rho": family(1.2), "q": family(0.8), "distance": {**family(0.8), "median": None}}
        },
    }
    figure = figure_ratios(found, dict.fromkeys(found["networks"], 5))
    ax = figure.axes[0]
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert [line.get_ydata()[0] for line in hollow] == [40.0, 40.0, 0.05, 0.05]
    arrows = [note.xy[1] / note.xyann[1] for note in ax.texts]
    assert [arrow > 1 for arrow in arrows] == [True, True, False, False]
    assert ax.get_ylim()[0] < 0.05 / 1.35 and ax.get_ylim()[1] > 1.35 * 40  # nothing is cut off
    assert [line.get_alpha() for line in ax.lines if line.get_color() == "#56B4E9" and len(line.get_xdata()) == 2] == (
        [0.3] * 3
    )
    assert figure.get_suptitle().split("\n") == [
        "Under ρ × maximum, patterns settle earlier than weights do: median ratio 1.20, about 3 in 2 of 6 cases",
        "By sums, patterns settle later than weights do: median ratio 0.80, about 3 in 2 of 6 cases",
        "By the distance from the end, weights or patterns do not settle within the runs",
    ]
    assert save(figure, tmp_path / "a.png").stat().st_size > 10_000


def test_lines_are_interrupted_where_nothing_is_known():
    levels = [{**entries(mean)[0], "level": level} for mean, level in ((1.0, 0.1), (None, 0.2), (2.0, 0.3))]
    figure = figure_ratios(
        {
            "networks": {"dense": {"name": "dense", "definitions": levels, "accuracy_mean": None}},
            "factor_about_three": {"families": dict.fromkeys(("rho", "q", "distance"), family(1.0))},
        },
        {"dense": 5},
    )
    (line,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    np.testing.assert_array_equal(line.get_ydata(), [1.0, NAN, 2.0])


def test_curves_that_do_not_move(tmp_path):
    still = {name: np.full(20, 0.0 if name == "a" else 1.0) for name in ("w", "w_rate", "a")}
    figure = figure_curves({"dense": still}, {"dense": 24}, {"dense": "dense"}, {"dense": [None]})
    assert "No correlation" in figure.get_suptitle() and save(figure, tmp_path / "a.png").exists()


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
    assert figure.get_suptitle().startswith("field-1.h5\n") and "times the patterns' time" in figure.get_suptitle()
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
