"""The symmetry study, small: its key figures, its files, what it says of networks that are not symmetric, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bbdfield.decomposition.maps import Rule
from bbdfield.decomposition.symmetry import BREAKINGS, broken, configurations
from bbdfield.errors import InputError
from bbdfield.lattice.training import LatticeSystem
from bbdfield.model.run import Run
from bbdfield.model.units import LatticeState, inertia
from bbdfield.storage.sidecar import read_sidecar
from bbdfield.studies import symmetry
from bbdfield.studies.config import SymmetryConfig, parse_config
from bbdfield.studies.run import run_study
from bbdfield.studies.symmetry import (
    Details,
    break_layers,
    bulk_terms,
    describe,
    follow_training,
    networks,
    repeating,
    shift_fields,
    slope_of,
    state_of,
)

SMALL = """
kind = "symmetry"
title = "small"
seed = 3
[data]
file = "data.npz"
[lattice]
depth = 7
width = 12
channels = 2
radius = "1/8"
readout_modes = 4
[training]
steps = 6
batch = 5
rates = { w = 2.0, b = 0.5, r = 0.5 }
snapshot_every = 2
probe = 3
[symmetry]
sizes = [1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0]
configurations = 12
samples = 2
mlp = [4, 6]
window = [2, 5]
[output]
figures = false
"""


def parsed(folder: Path, *overrides: str) -> SymmetryConfig:
    config = parse_config(SMALL, "study", folder, overrides)
    assert isinstance(config, SymmetryConfig)
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
    folder = tmp_path_factory.mktemp("symmetry")
    write_data(folder)
    config = parsed(folder, "output.figures=true")
    return folder / "run", run_study(config, folder / "run", workers=1, say=silent)


def test_a_study_leaves_its_directory_complete(finished):
    out, scores = finished
    assert json.loads((out / "scores.json").read_text()) == scores
    assert (scores["kind"], scores["title"]) == ("symmetry", "small")
    assert {path.name for path in out.iterdir()} == {
        ".lock",
        "config.toml", "run.json", "scores.json", "log.txt", "report.html", "figures", "symmetry.h5",
        "lattice-M007-N012.h5",
    }  # fmt: skip
    figures = {path.stem for path in (out / "figures").iterdir()}
    assert figures == {"symmetry-breaking", "symmetry-layers", "symmetry-shift", "symmetry-training"}
    report = (out / "report.html").read_text()
    assert "untied convolution, residual" in report and "One place differs by ε" in report


def test_repeating_networks_are_symmetric(finished):
    found = finished[1]["symmetry"]
    assert found["repeating"] == max(found["repeating_by"].values()) <= 1e-14
    assert set(found["repeating_by"]) == {
        f"{name}, {how}"
        for name in ("dense, 4 neurons", "dense, 6 neurons", "tied convolution", "untied convolution")
        for how in ("plain", "residual")
    }
    assert found["repeating_by_bulk"] <= 1e-14 and 0 < found["density_against_bulk"] <= 1e-13


def test_every_breaking_is_seen_and_grows_linearly_from_zero(finished):
    found = finished[1]["symmetry"]
    assert [(entry["kind"], entry["size"]) for entry in found["broken"]] == [
        (kind, size) for kind in BREAKINGS for size in (1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0)
    ]
    at = {(entry["kind"], entry["size"]): entry["spread"] for entry in found["broken"]}
    for kind in BREAKINGS:
        assert at[kind, 0.1] > 1e-6
        assert 0 < at[kind, 1e-4] < at[kind, 1e-3] < at[kind, 1e-2] < at[kind, 0.1]
        assert found["slopes"][kind] == pytest.approx(1, abs=0.02)
        assert 0 < found["steepest"][kind] < 12  # Lipschitz: no jump, also not at 0
    assert at["mu", 1e-4] == pytest.approx(1e-4, rel=1e-3)  # (1+ε)μ multiplies the density


def test_moving_trained_fields_changes_the_bulk_at_the_window_s_ends_only(finished):
    shift = finished[1]["symmetry"]["shift"]
    assert shift["window"] == [2, 5]
    assert shift["repeating"] <= 1e-14 and shift["repeating_by_bulk"] <= 1e-14
    assert abs(shift["ends"]) > 1e-3
    changes = {(entry["kind"], entry["size"]): entry["change"] for entry in shift["broken"]}
    assert len(changes) == 30 and min(changes.values()) > 1e-9
    assert all(changes[kind, 1e-4] < changes[kind, 0.1] for kind in BREAKINGS)
    sidecar = read_sidecar(finished[0] / "symmetry.h5")
    before, after = sidecar.arrays["bulk"], sidecar.arrays["bulk_shifted"]
    np.testing.assert_allclose(after[3:6], before[2:5], rtol=1e-14)
    assert np.flatnonzero(after != before).tolist() == [2, 3, 4, 5, 6]  # 2 and 6 are the ends


def test_trained_layers_differ_in_state_but_not_in_law(finished):
    out, scores = finished
    training = scores["symmetry"]["training"]
    assert training["t"] == [0.0, 2.0, 4.0, 6.0]
    assert training["law"] <= 1e-14 and min(training["state"]) > 0.1
    assert min(training["broken"].values()) > 1e-6
    sidecar = read_sidecar(out / "symmetry.h5")
    assert sidecar.kind == "symmetry" and sidecar.config["symmetry"]["window"] == [2, 5]
    assert sidecar.dims["density"] == ("t", "layer") and sidecar.dims["spread_skip"] == ("size",)
    density = sidecar.arrays["density"]
    np.testing.assert_allclose(np.ptp(density, axis=1) / density.mean(axis=1), training["state"], rtol=1e-12)
    relative = sidecar.arrays["mean_width"] / sidecar.arrays["mean_repeating"] - 1
    assert np.flatnonzero(np.abs(relative) > 1e-3).tolist() == [2, 3]  # the site between layers 2 and 3


def test_the_density_is_the_energy_that_training_moves(finished):
    """On its own fields, by another route: ½ η |∂ℓ/∂W[m]|² + ½ η |∂ℓ/∂b[m]|² of minibatch descent."""
    out, _ = finished
    density = read_sidecar(out / "symmetry.h5").arrays["density"]
    with Run(out / "lattice-M007-N012.h5") as run:
        for i, step in enumerate((0, 2, 4, 5)):
            state = LatticeState(*(run.trajectory.fields[name][i] for name in ("w", "b", "r")))
            system = LatticeSystem(run.lattice, run.boundary, state)
            w, b, _ = system.gradient(system.u, run.boundary.batch(step))[1]
            expected = [
                0.5 * (system.rates.w * np.sum(w[m] ** 2) + system.rates.b * np.sum(b[m] ** 2)) for m in range(7)
            ]
            np.testing.assert_allclose(density[i], expected, rtol=1e-10)


def test_inertia_and_velocities_are_the_network_s_own(folder):
    config = parsed(folder, "training.dynamics=heavy-ball", "training.damping=0.5", "training.rates.b=0")
    scores = run_study(config, folder / "run", workers=1, say=silent)
    training = scores["symmetry"]["training"]
    assert training["t"] == [2.0, 4.0, 6.0]  # at its start it is at rest
    assert training["law"] <= 1e-14
    density = read_sidecar(folder / "run" / "symmetry.h5").arrays["density"]
    with Run(folder / "run" / "lattice-M007-N012.h5") as run:
        rate = run.trajectory.fields["w_dot"][-1]
        assert not state_of(run, 0).moves
        mu = inertia(run.lattice, run.training).w
    np.testing.assert_allclose(density[-1], 0.5 * mu * (rate**2).sum(axis=(1, 2, 3)), rtol=1e-12)


def test_scores_are_bitwise_the_same_and_resuming_is_harmless(folder):
    for name in ("one", "two"):
        run_study(parsed(folder), folder / name, workers=1 if name == "one" else 2, say=silent)
    text = (folder / "one" / "scores.json").read_bytes()
    assert (folder / "two" / "scores.json").read_bytes() == text
    run_study(parsed(folder), folder / "one", resume=True, say=silent)
    assert (folder / "one" / "scores.json").read_bytes() == text


# what must not be found symmetric


def test_the_bulk_s_own_terms_show_a_layer_that_differs(folder):
    config = parsed(folder)
    layers = networks(config)["tied convolution, residual"]
    fields = configurations(layers, 3, config.seed)
    assert np.ptp(bulk_terms(layers, fields), axis=1).max() == 0
    for kind in ("activation", "skip"):
        terms = bulk_terms(broken(layers, kind, 0.1, at=4), fields)
        differing = np.flatnonzero(np.abs(terms / terms[:, :1] - 1).max(axis=0) > 1e-6)
        assert (differing + 1).tolist() == [4]


def test_a_network_of_unequal_layers_is_not_found_repeating(folder, monkeypatch):
    config = parsed(folder)
    unequal = {name: broken(layers, "skip", 0.1) for name, layers in networks(config).items()}
    monkeypatch.setattr("bbdfield.studies.symmetry.networks", lambda _: unequal)
    found = repeating(config)
    assert min(found["repeating_by"].values()) > 1e-6 and found["repeating_by_bulk"] > 1e-6


def test_unequal_layers_of_a_trained_network_are_noticed(finished, folder, monkeypatch):
    config = parsed(folder)
    with Run(finished[0] / "lattice-M007-N012.h5") as run:
        state = state_of(run, 2)
    mixed = replace(state, rule=Rule(["tanh"] * 4 + ["relu"] + ["tanh"] * 2, 1.0))
    details = Details(np.array([0.1]), 0.1)
    assert shift_fields(config, state, details)["repeating_by_bulk"] <= 1e-14
    assert shift_fields(config, mixed, details)["repeating_by_bulk"] > 1e-6
    whole = symmetry.lattice_layers
    monkeypatch.setattr(symmetry, "lattice_layers", lambda *given: broken(whole(*given), "mu", 0.1))
    assert follow_training(config, [state], details)["law"] > 1e-6
    assert shift_fields(config, state, details)["repeating"] > 1e-6


# slopes, words, configuration


def test_slopes_are_fitted_where_they_can_be():
    sizes = np.array([1e-4, 1e-3, 1e-2, 0.1])
    assert slope_of(sizes, 3 * sizes**2) == pytest.approx(2)
    assert slope_of(sizes, np.append(3 * sizes[:3], 77.0)) == pytest.approx(1)  # large ε are not used
    assert slope_of(sizes[2:], sizes[2:]) is None
    assert slope_of(sizes, np.zeros(4)) is None


def test_a_single_size_is_described_without_a_slope(folder):
    config = parsed(folder, "symmetry.sizes=[0.2]", "symmetry.mlp=4")
    scores = run_study(config, folder / "run", workers=1, say=silent)
    assert set(scores["symmetry"]["slopes"].values()) == {None} and scores["symmetry"]["mlp"] == [4]
    described = describe(config.model_dump(), scores)
    assert described.tables[1].head == ["broken by", "S at ε = 0.2", "slope", "S, trained fields", "shift"]
    assert [row[2] for row in described.tables[1].rows] == ["–"] * 5
    assert "12 seeded fields, for dense networks of 4 neurons" in described.summary
    assert described.message.startswith("Repeating layers have S = 0; ")


def test_untied_lattices_are_broken_too(folder):
    config = parsed(folder, "lattice.weights=untied", "lattice.padding=reflect", "symmetry.sizes=[0.1]")
    details = Details(np.array([0.1]), 0.1)
    assert min(entry["spread"] for entry in break_layers(config, details)["broken"]) > 1e-6


def test_defaults(folder):
    config = parse_config(SMALL.partition("[symmetry]")[0], "study", folder)
    assert isinstance(config, SymmetryConfig)
    assert config.symmetry.sizes[0] == 1e-4 and config.symmetry.sizes[-1] == 1.0 and 0.1 in config.symmetry.sizes
    assert config.window() == (1, 6)
    assert parse_config(config.to_toml()) == config
    assert parsed(folder).window() == (2, 5) and parse_config(parsed(folder).to_toml()) == parsed(folder)


SIZES = "needs an increasing list of sizes ε with 1e-8 <= ε <= 1"
WINDOW = "needs two layers [first, last] with 1 <= first < last"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("symmetry.sizes=[]", f"symmetry.sizes: {SIZES} (got [])"),
        ("symmetry.sizes=0.1", f"symmetry.sizes: {SIZES} (got 0.1)"),
        ("symmetry.sizes=[0, 1]", f"symmetry.sizes: {SIZES} (got [0, 1])"),
        ("symmetry.sizes=[nan]", f"symmetry.sizes: {SIZES} (got [nan])"),
        ("symmetry.sizes=[1, 0.1]", "symmetry.sizes: needs its sizes in increasing order, each once (got [1, 0.1])"),
        ("symmetry.configurations=0", "symmetry.configurations: needs a whole number from 1 to 100000 (got 0)"),
        ("symmetry.samples=1.5", "symmetry.samples: needs a whole number from 1 to 100000 (got 1.5)"),
        ("symmetry.window=[0, 3]", f"symmetry.window: {WINDOW} (got [0, 3])"),
        ("symmetry.window=[3, 3]", f"symmetry.window: {WINDOW} (got [3, 3])"),
        ("symmetry.window=3", f"symmetry.window: {WINDOW} (got 3)"),
        (
            "symmetry.window=[1, 7]",
            "symmetry.window: needs to end before layer 7, so that it can be moved one layer on (got [1, 7])",
        ),
        ("symmetry.size=[0.1]", "symmetry.size: unknown key; did you mean symmetry.sizes?"),
        ("field.orders=[1]", "field: unknown key; "),
        ("lattice.depth=2", "lattice.depth: needs at least 3 layers, one of them between two others (got 2)"),
        (
            "lattice.depth=[7, 14]",
            "lattice.depth: needs one size, since one network is studied (got [7, 14])",
        ),
        ("training.rates={ w = 0, b = 0, r = 1 }", "training.rates: needs a rate w > 0 or b > 0, or no layer moves"),
        ("symmetry.mlp=1000000", "symmetry.configurations: 12 would hold 2.4e+13 weights; give fewer"),
    ],
)  # fmt: skip
def test_refused_in_one_line(folder, override, message):
    with pytest.raises(InputError) as caught:
        parsed(folder, override)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"study: {message}")
