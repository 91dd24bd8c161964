"""Companion theories asked of a file, recorded while it is made, and refused where they do not hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from bbdfield import Run, train
from bbdfield.cli import main
from bbdfield.errors import InputError
from bbdfield.observables import THEORIES, theory
from bbdfield.storage.sidecar import read_sidecar
from bbdfield.studies.config import parse_config
from bbdfield.studies.run import run_study

STUDY = """
kind = "continuum"
seed = 3
[data]
name = "waves"
[lattice]
depth = 6
width = 12
channels = 3
activation = "relu"
range = "taps"
taps = 3
[field]
orders = [1]
n_x = 6
refine_x = 1
[training]
steps = 60
batch = 8
step = 0.1
rates = { w = 1.0, b = 0.1, r = 0.3 }
snapshot_every = 6
probe = 6
evaluate = 16
backend = "numpy"
observe = ["regimes", "manifolds", "temperature"]
[output]
figures = false
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("observed") / "run"
    run_study(parse_config(STUDY), out, workers=1, say=lambda line: None)
    return out


def lattice_of(study):
    return next(study.glob("lattice-*.h5"))


def test_a_study_records_what_it_is_asked_for_in_lattice_and_field(study):
    wanted = {name for each in ("regimes", "manifolds", "temperature") for name in theory(each).Steps.names}
    for path in (lattice_of(study), next(study.glob("field-*.h5"))):
        with Run(path) as run:
            assert {"loss", *wanted} >= set(run.trajectory.scalars) > {"loss"}
            assert all(np.isfinite(values).all() for values in run.trajectory.scalars.values())


def test_observe_tells_every_theory_or_why_not(study, tmp_path, capsys):
    out = tmp_path / "seen.h5"
    assert main(["observe", str(lattice_of(study)), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["theories"]) | set(told["left_out"]) == set(THEORIES)
    assert "skip" in told["left_out"]["conservation"]
    for name, picture in told["figures"].items():
        with Image.open(picture) as image:
            assert image.width > 600 and name in picture
    found = read_sidecar(out)
    assert found.kind == "observables"
    assert all(name.split("_")[0] in told["theories"] for name in found.arrays)
    assert {dim for dims in found.dims.values() for dim in dims} >= {"step", "t"}


def test_recorded_while_training_or_made_again_is_the_same(study, tmp_path, capsys):
    plain = tmp_path / "plain.h5"
    config = tmp_path / "study.toml"
    config.write_text(STUDY.replace('observe = ["regimes", "manifolds", "temperature"]', ""))
    assert main(["train", str(config), "--out", str(plain)]) == 0
    for source, name in ((plain, "again"), (lattice_of(study), "stored")):
        arguments = ["observe", str(source), "--only", "regimes,temperature", "--out", str(tmp_path / f"{name}.h5")]
        assert main(arguments) == 0
    capsys.readouterr()
    again, stored = read_sidecar(tmp_path / "again.h5"), read_sidecar(tmp_path / "stored.h5")
    assert set(again.arrays) == set(stored.arrays)
    for name, values in stored.arrays.items():
        np.testing.assert_array_equal(values, again.arrays[name])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--only", "conservation"], "skip"),
        (["--only", "regimes,gravity"], "no theory is called 'gravity'"),
        (["--only", "regimes,regimes"], "each theory once"),
    ],
)
def test_what_does_not_hold_is_one_line_and_exit_code_2(study, tmp_path, capsys, arguments, complaint):
    out = tmp_path / "seen.h5"
    assert main(["observe", str(lattice_of(study)), "--out", str(out), *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert complaint in said[-1] and said[-1].startswith("bbdfield: ")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_unasked(study, tmp_path, capsys):
    out = tmp_path / "seen.h5"
    (tmp_path / "seen.regimes.png").write_text("mine")
    assert main(["observe", str(lattice_of(study)), "--out", str(out), "--only", "regimes"]) == 2
    assert "exists already" in capsys.readouterr().err and not out.exists()


def test_a_sidecar_is_no_trajectory(study, tmp_path, capsys):
    out = tmp_path / "seen.h5"
    assert main(["observe", str(lattice_of(study)), "--out", str(out), "--only", "regimes"]) == 0
    assert main(["observe", str(out)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()[-1]) < 300


def test_training_observe_is_refused_where_it_means_nothing():
    with pytest.raises(InputError, match=r"training.observe.*skip"):
        config = parse_config(STUDY.replace('["regimes", "manifolds", "temperature"]', '["conservation"]'))
        from bbdfield.studies.continuum import check

        check(config)
    with pytest.raises(InputError, match=r"training.observe: needs a list out of"):
        parse_config(STUDY.replace('"manifolds"', '"gravity"'))
    energy = STUDY.replace('kind = "continuum"', 'kind = "decomposition"').partition("[field]")
    with pytest.raises(InputError, match="asks its own questions"):
        parse_config(energy[0] + "[training]" + energy[2].partition("[training]")[2])


def test_channels_of_one_cell_make_a_dense_network(tmp_path):
    dense = STUDY.replace('name = "waves"', 'name = "waves"\nlayout = "channels"').replace("width = 12", "width = 1")
    dense = dense.replace("taps = 3", "taps = 1\nreadout_modes = 1")
    config = parse_config(dense)
    data = config.dataset()
    assert data.width == 1 and data.channels == parse_config(STUDY).dataset().width
    run_study(config, tmp_path / "run", workers=1, say=lambda line: None)
    with Run(next((tmp_path / "run").glob("lattice-*.h5"))) as run:
        assert run.trajectory.fields["w"].shape[1:] == (6, 3, 1, 3) and run.loss[-1] < run.loss[0]


def test_coarse_grained_fields_are_not_asked_about_steps(study, tmp_path, capsys):
    coarse = tmp_path / "coarse.h5"
    assert main(["coarse-grain", str(lattice_of(study)), "--n-x", "3", "--n-y", "12", "--out", str(coarse)]) == 0
    with Run(coarse) as run:
        assert set(run.trajectory.scalars) == {"loss"}
    assert main(["observe", str(coarse), "--only", "temperature"]) == 2
    assert "no field equation made" in capsys.readouterr().err


def test_an_interrupted_observe_leaves_nothing(study, tmp_path, capsys, monkeypatch):
    from bbdfield.plotting import temperature

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(temperature, "figure_observed", interrupted)
    arguments = ["observe", str(lattice_of(study)), "--out", str(tmp_path / "seen.h5"), "--only", "regimes,temperature"]
    assert main(arguments) == 130
    assert not list(tmp_path.iterdir())


def test_overwriting_takes_the_figures_of_other_theories_away(study, tmp_path, capsys):
    arguments = ["observe", str(lattice_of(study)), "--out", str(tmp_path / "seen.h5"), "--only"]
    assert main([*arguments, "regimes,temperature"]) == 0
    assert main([*arguments, "temperature", "--overwrite"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"seen.h5", "seen.temperature.png"}


def test_an_unfinished_run_is_said_to_be_so(tmp_path, capsys):
    config = parse_config(STUDY)
    lattice, broken = config.lattice_at(6, 12), tmp_path / "a.h5"

    def stop(done, steps, loss):
        if done == 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(lattice, config.dataset(), config.training_plan(), out=broken, progress=stop, backend="numpy")
    assert main(["observe", str(broken), "--only", "manifolds"]) == 0
    assert "unfinished: 30 of 60 training steps" in capsys.readouterr().out


def test_a_missing_file_is_named(tmp_path, capsys):
    assert main(["observe", str(tmp_path / "none" / "x.h5")]) == 2
    assert "x.h5: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({'["regimes", "manifolds", "temperature"]': '["conservation"]'}, "skip"),
        ({"batch = 8": "batch = 256"}, "is all samples"),
        ({"batch = 8": 'batch = 8\ndynamics = "flow"'}, "same samples in every step"),
    ],
)
def test_what_training_observe_cannot_have_is_refused_before_anything(change, complaint):
    text = STUDY
    for old, new in change.items():
        text = text.replace(old, new)
    with pytest.raises(InputError, match=complaint):
        parse_config(text)


def test_a_finished_run_is_not_taken_for_one_with_observables(study, tmp_path, capsys):
    config, out = tmp_path / "study.toml", tmp_path / "a.h5"
    config.write_text(STUDY)
    assert main(["train", str(config), "--out", str(out), "--set", "training.observe=[]"]) == 0
    assert main(["train", str(config), "--out", str(out), "--resume"]) == 2
    assert "was recorded without regimes_w" in capsys.readouterr().err
