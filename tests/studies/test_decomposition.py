"""The decomposition study and `bbdfield decompose`, small, end to end."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import json
import os
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

import bbdfield.studies.moments as moments
from bbdfield.cli import main
from bbdfield.decomposition.lagrangian import BulkTerms
from bbdfield.errors import InputError
from bbdfield.lattice.training import LatticeSystem, train
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.ranges import Derivative, Taps
from bbdfield.model.run import Run
from bbdfield.model.units import inertia, to_lattice
from bbdfield.storage import content_digest
from bbdfield.storage.sidecar import read_sidecar
from bbdfield.studies import cases as tried
from bbdfield.studies.config import parse_config
from bbdfield.studies.decompose import decompose
from bbdfield.studies.moments import Motion, Observer
from bbdfield.studies.run import run_study

STUDY = """
kind = "decomposition"
title = "small"
seed = 3
[data]
file = "data.npz"
[lattice]
depth = 4
width = 10
channels = 2
radius = "1/4"
readout_modes = 3
[training]
steps = 12
batch = 8
step = 0.5
dynamics = "heavy-ball"
damping = 0.3
rates = { w = 2.0, b = 0.2, r = 0.5 }
snapshot_every = 4
probe = 4
evaluate = 8
[decomposition]
cases = 48
round_trip = [4, 64]
[output]
figures = false
"""
ROUNDING = 1e-13


def silent(_):
    """Nothing on standard error."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, signals):
    folder = tmp_path_factory.mktemp("study")
    np.savez(folder / "data.npz", **{name: getattr(signals, name) for name in ("x", "y", "x_test", "y_test")})
    return folder


def study(folder, out, *changes):
    return run_study(parse_config(STUDY, folder=folder, overrides=changes), folder / out, workers=1, say=silent)


@pytest.fixture(scope="module")
def finished(folder):
    """(scores, directory) of a study with all figures."""
    return study(folder, "run", "output.figures=true"), folder / "run"


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory, signals, problems):
    """dynamics -> a finished lattice trajectory, not to be changed."""
    made = {}
    for dynamics in ("sgd", "flow", "heavy-ball", "leapfrog"):
        path = tmp_path_factory.mktemp(dynamics) / "lattice.h5"
        train(problems.lattice(), signals, problems.training(dynamics=dynamics), out=path).close()
        made[dynamics] = path
    return made


# ---- the study


def test_the_identity_holds_at_every_step_and_in_every_case(finished):
    scores, out = finished
    found = scores["decomposition"]
    assert found["worst"] <= ROUNDING and found["worst"] == max(found["worst_training"], found["worst_cases"])
    assert found["worst_over_terms"] <= ROUNDING and found["round_trip"] <= 1e-14
    assert (found["steps"], found["cases"]) == (12, 48)
    assert sum(entry["cases"] for entry in found["cases_by_network"]) == 48
    assert len(found["cases_by_network"]) == 6, "all kinds of networks, plain and residual"
    assert [entry["depth"] for entry in found["round_trip_by_depth"]] == [4, 64]
    side = read_sidecar(out / "decomposition.h5").arrays
    np.testing.assert_allclose(side["lagrangian"], side["bulk"] + side["boundary"], rtol=1e-12)
    assert side["bulk"][0] == 0.0 and (side["bulk"][1:] > 0).all(), "from rest"
    assert side["lagrangian"][0] == -side["loss"][0]
    np.testing.assert_allclose(side["bulk"], (side["bulk_weights"] + side["bulk_biases"]).sum(axis=1), rtol=1e-14)
    assert not side["bulk_biases"][:, 0].any() and side["boundary_input"][1:].all()


def test_the_losses_are_those_of_the_training(finished):
    """The observed training is the recorded one, and that is the one without observation."""
    _, out = finished
    side = read_sidecar(out / "decomposition.h5")
    with Run(out / "lattice-M004-N010.h5") as run:
        np.testing.assert_array_equal(side.arrays["loss"], run.loss)
        np.testing.assert_allclose(side.coordinates["t"], 0.5 * np.arange(12))
        plain = train(
            run.lattice, run.boundary.dataset, run.training, initial=run.initial_fields, out=out.parent / "plain.h5"
        )
        with plain:
            for name in ("w", "b", "r", "w_dot"):
                np.testing.assert_array_equal(plain.trajectory.fields[name][-1], run.trajectory.fields[name][-1])


def test_swaps_kick_the_boundary_and_leave_the_bulk(finished):
    scores, out = finished
    found = scores["decomposition"]
    assert found["bulk_unchanged"] is True and found["boundary_change"] > 1e-6
    swaps = found["swaps"]
    assert swaps["count"] == 11 and swaps["bulk_largest"] <= ROUNDING and swaps["kinetic"] == 0.0
    assert swaps["boundary"] == pytest.approx(swaps["loss"], rel=1e-9) and swaps["loss"] > 1e-4
    assert min(swaps["intake"]) > 0 and swaps["neurons"] > 0.1
    side = read_sidecar(out / "decomposition.h5").arrays
    np.testing.assert_allclose(side["swap_boundary"], -side["swap_loss"], atol=1e-13)


def test_without_inertia_velocities_follow_and_the_bulk_moves_too(folder):
    text = STUDY.replace("damping = 0.3\n", "").replace("heavy-ball", "sgd")
    config = parse_config(text, folder=folder)
    found = run_study(config, folder / "sgd", workers=1, say=silent)["decomposition"]
    assert found["worst"] <= ROUNDING and found["bulk_unchanged"] is True
    assert found["swaps"]["kinetic"] > 1e-6 and found["swaps"]["bulk_largest"] > 1e-6


def test_a_flow_has_no_swaps(folder):
    text = STUDY.replace("damping = 0.3\n", "").replace("heavy-ball", "flow").replace("figures = false", "")
    run_study(parse_config(text, folder=folder), folder / "flow", workers=1, say=silent)
    found = json.loads((folder / "flow" / "scores.json").read_text())["decomposition"]
    assert found["worst"] <= ROUNDING and found["swaps"] is None and found["bulk_unchanged"] is None
    assert not (folder / "flow" / "figures" / "swaps.png").exists()
    assert "swaps of the minibatch" not in (folder / "flow" / "report.html").read_text()


def test_a_wrong_bulk_is_noticed(folder, monkeypatch):
    """The residual is measured, not assumed: one part in 1e9 in the bulk of the random networks and of the training."""
    import bbdfield.decomposition.energy as energy

    exact = moments.bulk

    def wrong(*arguments):
        right = exact(*arguments)
        return BulkTerms(right.weights * (1 + 1e-9), right.biases)

    monkeypatch.setattr(moments, "bulk", wrong)
    monkeypatch.setattr(energy, "bulk", wrong)
    found = study(folder, "wrong")["decomposition"]
    assert found["worst_training"] > 1e-12 and found["worst_cases"] > 1e-11


def test_a_bulk_that_knows_the_data_is_noticed(folder, monkeypatch):
    import bbdfield.studies.decomposition as kind

    exact = kind.bulk

    def knows(rule, W, Wdot, z, zdot, mu):
        right = exact(rule, W, Wdot, z, zdot, mu)
        return BulkTerms(right.weights, right.biases + 1e-15 * float(np.sum(z[0] ** 2)))

    monkeypatch.setattr(kind, "bulk", knows)
    assert study(folder, "knows")["decomposition"]["bulk_unchanged"] is False


def test_kinks_are_counted(folder):
    found = study(folder, "relu", 'lattice.activation="relu"', "decomposition.cases=288")["decomposition"]
    assert found["worst"] <= ROUNDING and found["kinks_cases"] > 0
    assert found["kinks"] == 0, "no pre-activation of random data is exactly 0"


def test_equal_studies_give_equal_numbers_and_resuming_changes_none(folder, finished):
    scores, out = finished
    again = study(folder, "again")
    assert again == scores
    first, second = (read_sidecar(path / "decomposition.h5").arrays for path in (out, folder / "again"))
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
    before = (out / "scores.json").read_bytes()
    lines = []
    config = parse_config((out / "config.toml").read_text(), folder=folder)
    run_study(config, out, resume=True, workers=1, say=lines.append)
    assert (out / "scores.json").read_bytes() == before and not any("each observed" in line for line in lines)
    (folder / "again" / "decomposition.h5").unlink()
    config = parse_config((folder / "again" / "config.toml").read_text(), folder=folder)
    assert run_study(config, folder / "again", resume=True, workers=1, say=silent) == scores


def test_resuming_mends_what_is_damaged(folder, finished, caplog):
    scores, out = finished
    (lattice,), sidecar = out.glob("lattice-*.h5"), out / "decomposition.h5"
    whole, arrays = content_digest(lattice), read_sidecar(sidecar).digest

    def resume():
        config = parse_config((out / "config.toml").read_text(), folder=folder)
        assert run_study(config, out, resume=True, workers=1, say=silent) == scores
        assert content_digest(lattice) == whole and read_sidecar(sidecar).digest == arrays

    for path, line in ((lattice, "kept "), (sidecar, "computing it again")):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        resume()
        assert any(f"{path}: damaged or altered" in message and line in message for message in caplog.messages)
    lattice.unlink()
    resume()


def test_figures_and_words(finished):
    from bbdfield.studies.decomposition import CAPTIONS, describe

    scores, out = finished
    assert {path.stem for path in (out / "figures").iterdir()} == set(CAPTIONS)
    page = html.unescape((out / "report.html").read_text())
    assert "heavy-ball gradient descent with damping γ = 0.3" in page and "48 random networks" in page
    for caption in CAPTIONS.values():
        assert caption in page
    told = describe(tomllib.loads((out / "config.toml").read_text()), scores)
    assert "stays the same to the last bit" in told.message
    changed = json.loads(json.dumps(scores))
    changed["decomposition"]["bulk_unchanged"] = False
    assert "bulk CHANGES" in describe(tomllib.loads((out / "config.toml").read_text()), changed).message


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("lattice.depth=[4,8]", r"lattice\.depth: needs one size.*\[4, 8\]"),
        ("lattice.width=[10,30]", r"lattice\.width: needs one size"),
        ("decomposition.cases=0", r"decomposition\.cases: needs a whole number"),
        ("decomposition.round_trip=[8,4]", r"decomposition\.round_trip: needs its sizes in increasing order"),
        ("decomposition.case=1", r"decomposition\.case: unknown key; did you mean decomposition\.cases"),
    ],
)
def test_what_cannot_work_is_refused(folder, change, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        parse_config(STUDY, folder=folder, overrides=[change])
    assert "\n" not in str(caught.value)


# ---- random networks


def test_all_combinations_once():
    every = list(tried.cases(288))
    assert len({(c.network, c.skip, c.activation, c.loss, c.batch) for c in every}) == 288
    some = list(tried.cases(12))
    assert {c.network for c in some} == set(tried.NETWORKS) and {c.skip for c in some} == {0.0, 1.0}
    assert [c.number for c in tried.cases(300)] == list(range(300))


def test_all_288_cases_hold_to_rounding():
    results = [tried.run_case(case, 1) for case in tried.cases(288)]
    assert max(result.residual for result in results) <= ROUNDING
    assert max(result.over_terms for result in results) <= ROUNDING
    assert {result.case.activation for result in results if result.kinks} == {"relu"}
    assert any(result.residual > 0 for result in results), "both sides are computed"


# ---- one moment


@pytest.mark.parametrize("dynamics", ["sgd", "leapfrog"])
def test_a_batch_in_chunks_is_the_same_batch(signals, problems, dynamics, monkeypatch):
    lattice, training = problems.lattice(), problems.training(dynamics=dynamics, batch=24)
    start = to_lattice(InitialFields(lattice, seed=1).on(lattice.grid))
    system = LatticeSystem(lattice, Boundary.draw(signals, lattice, training), start)
    system.step(0)
    index = system.boundary.batch(1)
    whole = Observer(system).moment(index)
    monkeypatch.setattr(moments, "CHUNK", 7)
    parts = Observer(system).moment(index)
    assert parts.residual <= ROUNDING
    for name in ("energy", "current", "dissipation"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(parts.bulk.layers, whole.bulk.layers, rtol=1e-10)
    assert parts.direct.total == pytest.approx(whole.direct.total, rel=1e-12)
    assert parts.scale == pytest.approx(whole.scale, rel=1e-12)
    assert parts.readout_intake == pytest.approx(whole.readout_intake, rel=1e-10)
    np.testing.assert_allclose(parts.z[-1], whole.z[-1], rtol=1e-12, atol=1e-15)


def test_inertia_is_that_of_the_dynamics(problems):
    lattice, training = problems.lattice(), problems.training(dynamics="heavy-ball", rates=(2.0, 0.2, 0.0))
    motion, known = Motion.of(lattice, training), inertia(lattice, training)
    assert (motion.mu.w, motion.mu.b, motion.gamma) == (known.w, known.b, training.damping)
    assert motion.mu.r == 0.0, "a fixed readout has no kinetic energy"


# ---- bbdfield decompose


@pytest.mark.parametrize("dynamics", ["sgd", "flow", "heavy-ball", "leapfrog"])
def test_decompose_every_dynamics(trajectories, tmp_path, dynamics):
    path = trajectories[dynamics]
    before = content_digest(path)
    with Run(path) as run:
        side = decompose(run, tmp_path / "side.h5")
        boundary, training, losses = run.boundary, run.training, run.loss
        velocities = {name: run.trajectory.fields[name][-1] for name in run.trajectory.fields if name.endswith("_dot")}
        steps, t = run.steps, run.t
    assert content_digest(path) == before
    found = side.arrays
    assert found["residual"].max() <= ROUNDING
    np.testing.assert_array_equal(side.coordinates["t"], t)
    np.testing.assert_allclose(found["kinetic"] - found["loss"], found["lagrangian"], rtol=1e-14)
    gamma, mu = side.config["damping"], side.config["inertia"]
    np.testing.assert_allclose(found["dissipation"], 2 * gamma * found["energy"])
    assert not found["current"][:, 0].any(), "the data stand still between swaps"
    if training.second_order:
        assert gamma == training.damping and found["energy"][0].sum() == 0.0
        own = 0.5 * (mu["w"] * (velocities["w_dot"] ** 2).sum() + mu["b"] * (velocities["b_dot"] ** 2).sum())
        assert found["energy"][-1].sum() == pytest.approx(own, rel=1e-12)
    else:
        # What the loss gives, layers and readout dissipate: −dℓ/dt = Σ |θ̇|²/η = 2T at γ = 1, μ = 1/η.
        assert gamma == 1.0
        np.testing.assert_allclose(-np.diff(found["current"], axis=1), found["dissipation"], rtol=1e-9)
        np.testing.assert_allclose(found["readout_intake"] - found["current"][:, -1], 2 * found["kinetic"], rtol=1e-9)
    if dynamics != "leapfrog":  # whose losses are those of the middle of each step
        np.testing.assert_allclose(found["loss"][:-1], losses[steps[:-1]], rtol=1e-12)
    assert len(boundary.batch(0)) == training.batch


@pytest.fixture
def here(tmp_path, trajectories):
    shutil.copy(trajectories["heavy-ball"], tmp_path / "lattice.h5")
    with contextlib.chdir(tmp_path):
        yield tmp_path


def refused(capsys, *arguments):
    assert main(["decompose", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1
    return err


def test_the_command(here, capsys):
    before = Path("lattice.h5").read_bytes()
    assert main(["decompose", "lattice.h5"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("lattice.decomposition.h5: 3 snapshots; at t = 20 L = ")
    assert out.endswith("lattice.decomposition.png\n")
    assert sorted(os.listdir()) == ["lattice.decomposition.h5", "lattice.decomposition.png", "lattice.h5"]
    assert Path("lattice.decomposition.png").read_bytes().startswith(b"\x89PNG")
    assert Path("lattice.h5").read_bytes() == before

    assert "lattice.decomposition.h5: exists already" in refused(capsys, "lattice.h5")
    Path("lattice.decomposition.h5").rename("side.h5")
    assert "lattice.decomposition.png: exists already" in refused(capsys, "lattice.h5")
    assert main(["decompose", "lattice.h5", "--out", "side.h5", "--overwrite", "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    side = read_sidecar("side.h5")
    assert held["sidecar"] == "side.h5" and held["figure"] == "side.png" and held["worst"] <= ROUNDING
    assert held["last"]["energy"] == side.arrays["energy"][-1].tolist()
    assert held["trajectory"] == "lattice.h5" and held["dynamics"] == "heavy-ball"


def test_bad_inputs_are_one_line_and_exit_2(here, capsys, finished):
    assert "nothing.h5: no such file" in refused(capsys, "nothing.h5")
    assert "lattice.h5: is the input itself" in refused(capsys, "lattice.h5", "--out", "lattice.h5", "--overwrite")
    assert "there is no directory" in refused(capsys, "lattice.h5", "--out", "nowhere/side.h5")
    assert "is where the figure goes" in refused(capsys, "lattice.h5", "--out", "side.png")
    Path("text.h5").write_text("text")
    assert "text.h5: not an HDF5 file" in refused(capsys, "text.h5")
    shutil.copy(finished[1] / "decomposition.h5", "other.h5")
    assert "other.h5: an HDF5 file, but not a bbdfield trajectory" in refused(capsys, "other.h5")
    assert main(["simulate", "lattice.h5", "--out", "field.h5", "--n-x", "4"]) == 0
    capsys.readouterr()
    assert "field.h5: is a field trajectory; give one of a lattice" in refused(capsys, "field.h5")
    assert sorted(os.listdir()) == ["field.h5", "lattice.h5", "other.h5", "text.h5"]


def test_a_trajectory_without_its_velocities_is_refused(here, monkeypatch):
    with Run("lattice.h5") as run:
        fields = {name: variable for name, variable in run.trajectory.fields.items() if name != "b_dot"}
        monkeypatch.setattr(run.trajectory, "fields", fields)
        with pytest.raises(InputError, match=r"lattice\.h5: has no b_dot, which heavy-ball dynamics needs"):
            decompose(run, here / "side.h5")
    assert not Path("side.h5").exists()


def test_the_documented_example_runs():
    text = (Path(__file__).parents[2] / "docs" / "decomposition.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    names: dict = {}
    exec(code.replace("print(", "shown = ("), names)
    assert names["moment"].residual <= ROUNDING and names["moment"].bulk.total > 0


@pytest.mark.parametrize(
    ("scaling", "kind"), [("critical", Taps()), ("residual", Derivative()), ("critical", Derivative())]
)
def test_weights_that_are_no_taps_of_a_plain_activation_are_refused(signals, problems, tmp_path, scaling, kind):
    lattice = dataclasses.replace(problems.lattice(depth=16), range=kind, scaling=scaling)
    law = problems.training(steps=1, rates=(0.01, 0.01, 0.01))
    run = train(lattice, signals, law, initial=InitialFields(lattice, weight=0.1), out=tmp_path / "run.h5")
    with pytest.raises(InputError, match=f'"{scaling}" with lattice.range = "{kind.name}" is not decomposed here'):
        decompose(run, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_the_plain_network_is_decomposed(signals, problems, tmp_path):
    """s = 0 and nearest-neighbour weights, the network of arXiv 2511.02003, at every snapshot."""
    lattice = dataclasses.replace(problems.lattice(), range=Taps(tied=False), scaling="plain")
    law = problems.training(steps=4, snapshot_every=1, dynamics="heavy-ball", rates=(0.01, 0.01, 0.1))
    run = train(lattice, signals, law, out=tmp_path / "run.h5")
    found = decompose(run, tmp_path / "out.h5")
    assert found.arrays["residual"].max() < 1e-15 and np.abs(found.arrays["bulk"][1:]).min() > 0
