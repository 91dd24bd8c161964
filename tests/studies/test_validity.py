"""The validity study, small: its scores against its own files, limits, words, what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.fields.coarse_graining import Window, coarse_grain, restrict, restrict_sites
from bbdfield.fields.simulation import simulate
from bbdfield.lattice.network import Network
from bbdfield.model.activations import get_activation
from bbdfield.model.losses import get_loss
from bbdfield.model.run import Run
from bbdfield.storage import content_digest
from bbdfield.storage.sidecar import read_sidecar, write_sidecar
from bbdfield.studies.config import ValidityConfig, parse_config
from bbdfield.studies.run import run_study
from bbdfield.studies.validity import (
    Job,
    average,
    describe,
    exact,
    initial_of,
    lattice_of,
    limit_of,
    run_job,
    share_of_mean,
    statistics,
)

SMALL = """
kind = "validity"
title = "small"
seed = 3
[data]
file = "data.npz"
[lattice]
depth = 16
width = 12
channels = 2
radius = "1/8"
readout_modes = 4
[initial]
weight = 2.0
bias = 0.2
[training]
steps = 6
batch = 5
rates = { w = 2.0, b = 0.5, r = 0.5 }
snapshot_every = 3
probe = 3
[validity]
ratios = [0, 1, 8]
windows = [0, 2, 6]
seeds = 2
[output]
figures = false
"""


def parsed(folder: Path, *overrides: str) -> ValidityConfig:
    config = parse_config(SMALL, "study", folder, overrides)
    assert isinstance(config, ValidityConfig)
    return config


@pytest.fixture
def folder(tmp_path: Path, write_data: Callable[[Path], None]) -> Path:
    write_data(tmp_path)
    return tmp_path


def silent(_: str) -> None:
    """Nothing on standard error."""


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, write_data: Callable[[Path], None]
) -> tuple[Path, dict[str, Any]]:
    """One finished study with figures: its directory and scores."""
    folder = tmp_path_factory.mktemp("validity")
    write_data(folder)
    config = parsed(folder, "output.figures=true")
    return folder / "run", run_study(config, folder / "run", workers=1, say=silent)


def point(scores: dict[str, Any], ratio: float, window: float, order: int = 1) -> dict[str, Any]:
    (found,) = [
        entry
        for entry in scores["validity"]["points"]
        if (entry["ratio"], entry["window"], entry["order"]) == (ratio, window, order)
    ]
    return found


def test_a_study_leaves_its_directory_complete(finished):
    out, scores = finished
    assert json.loads((out / "scores.json").read_text()) == scores
    networks = [f"ratio{ratio}-seed{seed}.h5" for ratio in (0, 1, 8) for seed in (3, 4)]
    assert {path.name for path in out.iterdir()} == {
        ".lock",
        "config.toml", "run.json", "scores.json", "log.txt", "report.html", "figures", "validity.h5",
        *(f"lattice-{name}" for name in networks), *(f"field-scores-{name}" for name in networks),
    }  # fmt: skip
    assert {path.stem for path in (out / "figures").iterdir()} == {
        "validity-map", "validity-error", "validity-closure", "validity-fields",
    }  # fmt: skip
    assert len(scores["validity"]["points"]) == 2 * 3 * 3
    assert "Error of ẑ / “nothing moves”" in (out / "report.html").read_text()


def test_smoother_weights_are_described_better_and_wider_windows_worse(finished):
    _, scores = finished
    z = {(r, w): point(scores, r, w)["over_trivial"]["z"]["mean"] for r in (0, 1, 8) for w in (0, 2, 6)}
    assert z[8, 0] < 0.3 * z[1, 0] < 0.3 * z[0, 0]
    assert z[8, 0] < z[8, 2] < z[8, 6] and z[0, 2] < z[0, 6]
    residual = {(r, w): point(scores, r, w)["closure"]["start"]["mean"] for r in (0, 1, 8) for w in (0, 2, 6)}
    assert residual[8, 0] < 0.3 * residual[1, 0] < 0.3 * residual[0, 0]
    assert residual[8, 0] < residual[8, 2] < residual[8, 6]


def test_order_1_helps_where_weights_are_smooth(finished):
    _, scores = finished
    smooth, rough = (
        point(scores, ratio, 0, 0)["error"]["z"]["mean"] / point(scores, ratio, 0, 1)["error"]["z"]["mean"]
        for ratio in (8, 0)
    )
    assert smooth > 3 > 1.5 > rough


def test_scores_are_what_the_trajectories_give(finished, tmp_path):
    """One network and window by another route: coarse-grain, simulate, compare, by the plain definitions."""
    out, scores = finished
    found = []
    for seed in (3, 4):
        with Run(out / f"lattice-ratio1-seed{seed}.h5") as run:
            averages = coarse_grain(run, type(run.grid)(8, 12), Window(2 / 16))
            start = averages.fields(0)
            with simulate(start, run.boundary, order=1, depth_scheme="midpoint", out=tmp_path / f"{seed}.h5") as sim:
                later = range(1, len(run.t))
                z = np.array([run.z(i) for i in later])
                mine = np.array([restrict_sites(sim.z(i), sim.grid, run.grid) for i in later])
                w = np.array([averages.fields(i).w for i in later])
                w_mine = np.array([sim.fields(i).w for i in later])
                moved = np.array([run.fields(i).w - run.fields(0).w for i in later])
                first = restrict(sim.fields(0), run.grid).w
                w_moved = np.array([restrict(sim.fields(i), run.grid).w - first for i in later])
                found.append(
                    {
                        "z": np.linalg.norm(mine - z) / np.linalg.norm(z - run.z(0)),
                        "w": np.linalg.norm(w_mine - w) / np.linalg.norm(w - start.w),
                        "loss": np.linalg.norm(sim.loss - run.loss) / np.linalg.norm(untrained(run) - run.loss),
                        "error": np.linalg.norm(sim.loss - run.loss) / np.linalg.norm(run.loss),
                        "moved": np.linalg.norm(w_moved - moved) / np.linalg.norm(moved),
                    }
                )
    theirs = point(scores, 1, 2)
    one, two = ({name: float(value) for name, value in each.items()} for each in found)
    pairs = [(theirs["over_trivial"][name], name) for name in ("z", "w", "loss")]
    for entry, name in (*pairs, (theirs["error"]["loss"], "error"), (theirs["movement_error"]["w"], "moved")):
        assert entry["mean"] == pytest.approx((one[name] + two[name]) / 2, rel=1e-9)
        assert entry["standard_error"] == pytest.approx(abs(one[name] - two[name]) / 2, rel=1e-6)


def untrained(run: Run) -> np.ndarray:
    """Loss of every minibatch with the weights as they were at t = 0."""
    lattice, boundary, fields = run.lattice, run.boundary, run.trajectory.fields
    loss = get_loss(lattice.loss)
    net = Network(get_activation("tanh"), loss, "zeros", lattice.a_y, 1.0)
    rows = [boundary.batch(k) for k in range(6)]
    logits = [net.logits(boundary.input(row, 12), fields["w"][0], fields["b"][0], fields["r"][0]) for row in rows]
    return np.array([loss.value(f, boundary.targets[row]) for f, row in zip(logits, rows, strict=True)])


def test_the_grid_is_checked_with_the_smallest_window(finished):
    _, scores = finished
    for entry in scores["validity"]["points"]:
        checked = entry["window"] == 0 and entry["order"] == 1
        assert all((value is not None) is checked for value in entry["grid_change"].values())
    assert 0 < point(scores, 8, 0)["grid_change"]["z"] < 0.1


def test_the_sidecar_holds_every_seed(finished):
    out, scores = finished
    sidecar = read_sidecar(out / "validity.h5")
    values = sidecar.arrays["over_trivial_z_network"]
    assert sidecar.dims["over_trivial_z_network"] == ("order", "ratio", "window", "seed")
    assert values.shape == (2, 3, 3, 2) and sidecar.coordinates["seed"].tolist() == [3, 4]
    assert point(scores, 8, 6)["over_trivial"]["z"]["mean"] == pytest.approx(values[1, 2, 2].mean(), rel=1e-14)
    assert sidecar.arrays["closure_by_depth"].shape == (3, 3, 2, 8)


def test_scores_are_bitwise_the_same_and_resuming_is_harmless(folder):
    few = ("validity.ratios=[0, 4]", "validity.windows=[2]", "field.orders=[1]")
    for name, workers in (("one", 1), ("two", 2)):
        run_study(parsed(folder, *few), folder / name, workers=workers, say=silent)
    text = (folder / "one" / "scores.json").read_bytes()
    assert (folder / "two" / "scores.json").read_bytes() == text
    before = {path: path.stat().st_mtime_ns for path in (folder / "one").glob("*-ratio*.h5")}
    assert len(before) == 8
    run_study(parsed(folder, *few), folder / "one", resume=True, workers=1, say=silent)
    assert (folder / "one" / "scores.json").read_bytes() == text
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (folder / "one" / "field-scores-ratio4-seed4.h5").unlink()  # as after a kill
    run_study(parsed(folder, *few), folder / "one", resume=True, workers=1, say=silent)
    assert (folder / "one" / "scores.json").read_bytes() == text


def test_ratios_that_are_nearly_equal_have_networks_of_their_own(folder):
    near = ("validity.ratios=[1.0, 1.0000001]", "validity.windows=[2]", "field.orders=[1]", "validity.seeds=1")
    scores = run_study(parsed(folder, *near), folder / "run", workers=2, say=silent)
    names = {f"{part}-ratio{ratio}-seed3.h5" for part in ("lattice", "field-scores") for ratio in ("1", "1.0000001")}
    assert {path.name for path in (folder / "run").glob("*-ratio*")} == names
    one, other = (entry["over_trivial"]["z"]["mean"] for entry in scores["validity"]["points"])
    assert one != other and one == pytest.approx(other, rel=1e-4)
    head = describe(parsed(folder).model_dump(), scores).tables[0].head
    assert head == ["window (layers)", "ℓ/a = 1", "ℓ/a = 1.0000001"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (16, "16"), (0.1 + 0.2, "0.30000000000000004"), (1e-7, "1e-07"), (2.5, "2.5")]
)
def test_exact_text(value, text):
    assert exact(value) == text and float(text) == value


@pytest.mark.parametrize("seed", [3, 4])
def test_a_damaged_file_of_a_finished_job_is_mended(finished, tmp_path, caplog, seed):
    """The network's trajectory from what is left of it, the numbers from the trajectory."""
    out, config, job = tmp_path / "run", parsed(finished[0].parent), Job(8.0, seed, seed == 3)
    out.mkdir()
    names = (job.lattice_file, job.scores_file)
    for name in names:
        shutil.copy(finished[0] / name, out)
    lattice, scores = (out / name for name in names)
    digest, arrays = content_digest(lattice), read_sidecar(scores).digest

    def check(*lines: str) -> None:
        run_job(job, config, out, None)
        assert content_digest(lattice) == digest and read_sidecar(scores).digest == arrays
        assert len(caplog.messages) == len(lines)
        for line, message in zip(lines, caplog.messages, strict=True):
            assert line in message
        caplog.clear()

    for path in (lattice, scores):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] + b"damage" + content[len(content) // 2 + 6 :])
    seal = "damaged or altered after it was finished (its seal does not fit)"
    check(f"{scores}: {seal}; computing it again", f"{lattice}: {seal}; ")
    lattice.unlink()
    check()
    lattice.write_bytes(lattice.read_bytes()[:-56])
    check()


@pytest.mark.parametrize(
    ("job", "override", "difference"),
    [
        (Job(2.0, 3, True), "validity.seeds=2", "ratio = 1.0, not 2.0"),
        (Job(1.0, 4, True), "validity.seeds=2", "seed = 3, not 4"),
        (Job(1.0, 3, False), "validity.seeds=2", "first = True, not False"),
        (Job(1.0, 3, True), "validity.windows=[0.0, 2.0]", "validity.windows = [0.0, 2.0, 6.0], not [0.0, 2.0]"),
        (Job(1.0, 3, True), "training.steps=7", "training.steps = 6, not 7"),
    ],
)
def test_a_finished_job_of_another_configuration_is_refused(finished, tmp_path, job, override, difference):
    """Also where its name is that of this job: what it was told is compared."""
    there = finished[0] / Job(1.0, 3, True).scores_file
    shutil.copy(there, tmp_path / job.scores_file)
    config = parsed(finished[0].parent, override)
    with pytest.raises(InputError) as caught:
        run_job(job, config, tmp_path, None)
    line = f"{tmp_path / job.scores_file}: is of another configuration ({difference}); remove it"
    assert str(caught.value) == line
    run_job(Job(1.0, 3, True), parsed(finished[0].parent, "output.figures=false"), finished[0], None)  # its own


def test_a_finished_job_must_be_of_this_kind(finished, tmp_path):
    job = Job(1.0, 3, True)
    write_sidecar(tmp_path / job.scores_file, kind="signals", config={}, arrays={})
    with pytest.raises(InputError, match=r"holds arrays of kind 'signals', not 'validity'; remove it$"):
        run_job(job, parsed(finished[0].parent), tmp_path, None)


# the networks


def test_the_mean_of_the_weights_has_the_same_deviation_for_all_roughness(folder):
    config = parsed(folder, "initial.bias=0.5")
    for ratio in (0.0, 0.5, 8.0):
        drawn = [initial_of(config, ratio, seed).on(lattice_of(config).grid) for seed in range(300)]
        scale = 2 * lattice_of(config).range.radius * math.sqrt(2)  # 2r√C
        means = np.array([scale * state.w.mean(axis=(0, 2)) for state in drawn])
        assert means.std() == pytest.approx(2.0, rel=0.1)
        assert np.array([state.b.mean(axis=0) for state in drawn]).std() == pytest.approx(0.5, rel=0.1)


def test_or_each_weight_has(folder):
    config = parsed(folder, "validity.fixed=weights")
    for ratio in (0.0, 1.0, 8.0):
        drawn = np.array([initial_of(config, ratio, seed).on(lattice_of(config).grid).w for seed in range(300)])
        assert 2 * lattice_of(config).range.radius * math.sqrt(2) * drawn.std() == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("correlation", [0.0, 0.02, 0.1, 2.0])
def test_the_share_of_the_mean_is_that_of_samples(correlation):
    from bbdfield.model.random_functions import cosine_amplitudes, cosine_basis

    rng, cells = np.random.default_rng(1), 16
    if correlation:
        amplitudes = cosine_amplitudes(1.5, correlation)
        basis = cosine_basis((np.arange(cells) + 0.5) * 1.5 / cells, 1.5, amplitudes.size)
        samples = (amplitudes * rng.standard_normal((4000, amplitudes.size))) @ basis.T
    else:
        samples = rng.standard_normal((4000, cells))
    assert share_of_mean(1.5, correlation, cells) == pytest.approx(samples.mean(axis=1).std(), rel=0.05)


def test_averages_of_a_state_are_those_of_its_trajectory(finished):
    out, _ = finished
    with Run(out / "lattice-ratio0-seed3.h5") as run:
        grid = type(run.grid)(8, 12)
        expected, found = coarse_grain(run, grid, Window(3 / 16)).fields(0), average(run.fields(0), grid, 3.0)
    np.testing.assert_allclose(found.w, expected.w, atol=1e-12)
    np.testing.assert_allclose(found.b, expected.b, atol=1e-12)


# statistics and limits


def test_mean_and_standard_error():
    assert statistics(np.array([1.0, 2.0, 6.0])) == {"mean": 3.0, "standard_error": pytest.approx(math.sqrt(7 / 3))}
    assert statistics(np.array([2.0])) == {"mean": 2.0, "standard_error": None}
    assert statistics(np.array([np.nan, 1.0])) == {"mean": None, "standard_error": None}


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ([0.5, 0.3, 0.1], 0.0),
        ([4.0, 0.25, 0.1], 0.5),  # halfway in log between 0 and 1
        ([0.5, 2.0, 0.5], 2.5),  # from there on up, not below
        ([2.0, 1.0, 0.5], 1.0),
        ([0.5, 0.5, 1.0], None),
        ([math.nan, 0.5, 0.1], 1.0),
        ([math.nan, math.nan, math.nan], None),
        ([3.0, 0.0, 0.0], 1.0),
    ],
)
def test_the_limit_is_interpolated(values, limit):
    found = limit_of([0.0, 1.0, 4.0], values)
    assert found is None if limit is None else found == pytest.approx(limit)


# words


def told(scores: dict[str, Any], config: ValidityConfig, values: dict[tuple[float, float], float]) -> str:
    """The message, if over_trivial of ẑ of order 1 were these."""
    changed = json.loads(json.dumps(scores))
    for (ratio, window), value in values.items():
        point(changed, ratio, window)["over_trivial"]["z"] = {"mean": value, "standard_error": 0.1}
    for i, window in enumerate((0.0, 2.0, 6.0)):
        column = [point(changed, ratio, window)["over_trivial"]["z"]["mean"] for ratio in (0.0, 1.0, 8.0)]
        limit = limit_of([0.0, 1.0, 8.0], column)
        everywhere = max(column) < 1
        changed["validity"]["limit"]["1"]["z"][i] = {"window": window, "ratio": limit, "everywhere": everywhere}
    return describe(config.model_dump(), changed).message


def test_the_words_follow_the_numbers(finished, folder):
    _, scores = finished
    config = parsed(folder)
    good = {(ratio, window): 0.1 for ratio in (0, 1, 8) for window in (0, 2, 6)}
    everywhere = told(scores, config, good)
    assert everywhere.startswith("The field predicts ẑ better than “nothing moves” everywhere on the map (error /")
    bad = told(scores, config, good | {(0, 2): 10.0, (8, 6): 1.5})
    assert bad.startswith(
        "The field is no better than “nothing moves” for ẑ at 2 of 9 points: with a window of 2 layers below"
        " ℓ/a = 0.5; with a window of 6 layers not even the smoothest weights are described."
    )
    close = told(scores, config, good | {(0, 2): 1.05, (0, 6): 0.95, (1, 6): 0.85})
    assert " at 1 of 9 points: " in close
    assert "; of all points, 2 lie within a standard error of the limit." in close
    described = describe(config.model_dump(), scores)
    assert described.tables[0].head == ["window (layers)", "ℓ/a = 0", "ℓ/a = 1", "ℓ/a = 8"]
    assert "from independent weights to 8 lattice spacings, with 2 seeds each" in described.summary


def test_what_does_not_move_has_no_ratio(folder):
    few = ("validity.ratios=[4]", "validity.windows=[0]", "validity.seeds=1", "output.figures=true")
    config = parsed(folder, *few, "training.rates={ w = 0, b = 0, r = 1 }")
    scores = run_study(config, folder / "run", workers=1, say=silent)
    entry = point(scores, 4, 0)
    assert entry["over_trivial"]["z"] == entry["over_trivial"]["w"] == {"mean": None, "standard_error": None}
    assert entry["over_trivial"]["loss"]["mean"] > 0 and entry["error"]["z"]["mean"] > 0
    assert "As to ẑ, nothing moves at all." in describe(config.model_dump(), scores).message


# configuration

RATIOS = "needs an increasing list of numbers from 0 to 1000"


def test_defaults(folder):
    config = parse_config(SMALL.partition("[validity]")[0], "study", folder)
    assert isinstance(config, ValidityConfig)
    assert config.validity.ratios == (0, 0.5, 1, 2, 4, 8, 16) and config.validity.windows == (0, 1, 2, 4, 8)
    assert (config.validity.seeds, config.validity.fixed, config.field_grid().n_x) == (3, "effect", 8)
    assert parse_config(config.to_toml()) == config and parse_config(parsed(folder).to_toml()) == parsed(folder)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("validity.ratios=[]", f"validity.ratios: {RATIOS} (got [])"),
        ("validity.ratios=[-1, 2]", f"validity.ratios: {RATIOS} (got [-1, 2])"),
        ("validity.ratios=[0, true]", f"validity.ratios: {RATIOS} (got [0, True])"),
        ("validity.windows=[2, 1]", "validity.windows: needs its numbers in increasing order, each once (got [2, 1])"),
        ("validity.windows=3", f"validity.windows: {RATIOS} (got 3)"),
        (
            "validity.ratios=[0, 0.001]",
            "validity.ratios: needs correlation lengths of 0, or of at least 0.001 of depth and width (got 0.001",
        ),
        ("validity.seeds=0", "validity.seeds: needs a whole number from 1 to 1000 (got 0)"),
        ("validity.fixed=both", 'validity.fixed: needs one of "effect", "weights" (got \'both\')'),
        ("field.layers=1", "field.layers: needs a whole number from 2 to 1000000 (got 1)"),
        ("field.layers=3", "field.layers: needs a divisor of lattice.depth, 16, with at least 2 cells (got 3)"),
        ("field.layers=16", "field.layers: needs a divisor of lattice.depth, 16, with at least 2 cells (got 16)"),
        ("field.depth_scheme=rk4", 'field.depth_scheme: needs one of "euler", "midpoint" (got \'rk4\')'),
        (
            "initial.correlation_x=0.1",
            "initial.correlation_x: validity.ratios gives all correlation lengths; remove it",
        ),
        ("initial.mean=[1.0]", "initial.mean: weights of a validity study have mean 0; remove it"),
        ("lattice.depth=[8, 16]", "lattice.depth: needs one size, since one network is studied (got [8, 16])"),
        ("lattice.scaling=plain", 'lattice.scaling: kind = "validity" studies residual networks; use "residual"'),
    ],
)
def test_refused_in_one_line(folder, override, message):
    with pytest.raises(InputError) as caught:
        parsed(folder, override)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"study: {message}")


def test_steps_that_can_only_diverge_are_refused_before_anything_is_written(folder):
    weak = "training.rates={ w = 1e-6, b = 0, r = 1e-6 }"
    for overrides, message in (
        (("training.step=1e5",), r"^training\.step = 100000: unstable step"),
        (
            ("initial.weight=300", weak),
            r"^field\.layers = 2: the field's 8 cells are too few for .* lower initial\.weight",
        ),
    ):
        with pytest.raises(InputError, match=message):
            run_study(parsed(folder, *overrides), folder / "run", workers=1, say=silent)
        assert not (folder / "run").exists()
