"""The energy study, small: its balances from the stored arrays, where energy enters, swaps, figures, refusals."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.plotting.energy import Motion, figure_budget, figure_energy_map, figure_links, figure_swaps
from bbdfield.storage.sidecar import read_sidecar
from bbdfield.studies import energy
from bbdfield.studies.config import EnergyConfig, parse_config
from bbdfield.studies.describe import number
from bbdfield.studies.kinds import Session
from bbdfield.studies.run import run_study

SMALL = """
kind = "energy"
title = "small"
seed = 3
[data]
file = "data.npz"
[lattice]
depth = 6
width = 12
channels = 2
radius = "1/8"
weights = "tied"
padding = "reflect"
activation = "tanh"
readout_modes = 4
[initial]
weight = 1.0
bias = 0.3
[training]
steps = 12
batch = 5
step = 0.5
rates = { w = 2.0, b = 0.5, r = 0.5 }
dynamics = "heavy-ball"
damping = 0.4
probe = 3
[field]
n_x = 9
order = 1
depth_scheme = "midpoint"
[energy]
moments = 3
[plain]
hidden = [7, 5]
steps = 8
[output]
figures = false
"""
RESIDUALS = ("lattice_residual", "field_residual", "overdamped_residual", "plain_residual", "totals_residual")
STEP_RESIDUALS = ("lattice_step_residual", "field_step_residual", "plain_step_residual", "link_residual")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    signals = np.cumsum(rng.standard_normal((40, 2, 12)), axis=-1) / 3
    np.savez(path / "data.npz", x=signals, y=np.arange(40) % 3, x_test=signals[:9], y_test=np.arange(9) % 3)
    return path


def changed(folder: Path, *overrides: str) -> EnergyConfig:
    config = parse_config(SMALL, folder=folder, overrides=overrides)
    assert isinstance(config, EnergyConfig)
    return config


def silent(_: str) -> None:
    """Nothing on standard error."""


def computed(config: EnergyConfig, out: Path) -> tuple[dict, energy.Details]:
    energy.check(config)
    scores, details = energy.compute(config, out, Session(1, None, silent))
    return scores["energy"], details


@pytest.fixture(scope="module")
def study(folder, tmp_path_factory):
    """(configuration, run directory, content of scores.json) of a whole study with figures."""
    config, out = changed(folder, "output.figures=true"), tmp_path_factory.mktemp("study") / "run"
    return config, out, run_study(config, out, workers=1, say=silent)


def test_every_balance_holds_to_rounding(study):
    _, out, scores = study
    assert scores == json.loads((out / "scores.json").read_text())
    found = scores["energy"]
    for name in (*RESIDUALS, *STEP_RESIDUALS):
        assert 0 <= found[name] <= 1e-12, name
    # They were not 0 because nothing happened.
    assert all(found[name] > 0 for name in RESIDUALS)
    for name in ("lattice", "field", "overdamped", "plain"):
        first, last = found["loss"][name]
        assert abs(last - first) > 1e-3, name


def test_the_stored_arrays_keep_the_books(study):
    """The laws written out once more, from the file alone."""
    config, out, scores = study
    stored = read_sidecar(out / "energy.h5")
    assert stored.kind == "energy"
    tau, gamma, arrays = config.training.step, config.training.damping, stored.arrays
    for prefix, cells in (("", 6), ("field_", 9)):
        E, J, moved = (arrays[prefix + name] for name in ("energy", "current", "step_current"))
        assert E.shape == (13, cells) and J.shape == moved.shape == (12, cells + 1)
        assert np.all(E[0] == 0) and np.all(E[1:] > 0)

        def left(beta, E=E, moved=moved):
            terms = E[1:], -(beta**2) * E[:-1], tau * moved[:, 1:], -tau * moved[:, :-1]
            return np.max(np.abs(sum(terms)) / sum(np.abs(term) for term in terms))

        assert left(math.exp(-gamma * tau)) <= 1e-12 < 1e-4 < left(1.01 * math.exp(-gamma * tau))
        # Fixed data: nothing comes in at the input. From rest: no current at the first moment, but in the first step.
        assert np.all(J[:, 0] == 0) and np.all(J[0] == 0) and np.all(moved[0, 1:] < 0)
    E, J = arrays["energy"][:-1], arrays["current"]
    np.testing.assert_allclose(arrays["rate"], J[:, :-1] - J[:, 1:] - 2 * gamma * E, rtol=0, atol=1e-15)
    assert stored.coordinates["t"].tolist() == (tau * np.arange(13)).tolist()
    assert arrays["continuity_residual"].max() == scores["energy"]["lattice_residual"]
    assert np.all(np.diff(arrays["overdamped_current"], axis=1) <= 0)


def test_where_energy_enters_and_where_it_goes(study):
    config, out, scores = study
    arrays, found = read_sidecar(out / "energy.h5").arrays, scores["energy"]["entering"]
    tau, gamma = config.training.step, config.training.damping
    lost = (1 - math.exp(-2 * gamma * tau)) * arrays["energy"][:-1]
    assert found["output"] == pytest.approx(-tau * arrays["step_current"][:, -1].sum(), rel=1e-13)
    assert found["output"] > 0 and found["input"] == 0
    assert found["dissipated"] == pytest.approx(lost.sum(), rel=1e-12)
    assert found["stored"] == pytest.approx(arrays["energy"][-1].sum(), rel=1e-13)
    assert found["output"] == pytest.approx(found["dissipated"] + found["stored"], rel=1e-12)
    assert found["residual"] <= 1e-13
    assert found["output_half_share"] == pytest.approx(lost[:, 3:].sum() / lost.sum(), rel=1e-12)
    mean = -arrays["step_current"].mean(axis=0)
    assert np.interp(found["half_depth"], np.arange(7) / 6, mean) == pytest.approx(mean[-1] / 2, rel=1e-10)
    # What the readout took is its energy now and what it lost.
    R = arrays["readout_energy"]
    assert found["readout"] == pytest.approx(R[-1] + (1 - math.exp(-2 * gamma * tau)) * R[:-1].sum(), rel=1e-11)
    # The loss goes down by steps and jumps at swaps, and by nothing else.
    assert found["loss_paid"] == pytest.approx(-arrays["descent"].sum(), rel=1e-13)
    told = arrays["descent"][:-1].sum() + arrays["swap_loss"].sum()
    assert found["loss_change"] == pytest.approx(told, rel=1e-12)
    # Short steps: the loss pays what layers and readout get, and a little that is lost in the steps.
    assert found["output"] + found["readout"] < found["loss_paid"] < 2.5 * (found["output"] + found["readout"])


def test_what_is_lost_in_the_steps_is_of_first_order_in_their_length(folder, tmp_path):
    """What the loss pays beyond what layers and readout get is of first order in the step."""
    excess = []
    for overrides in ((), ("training.step=0.25", "training.steps=24"), ("training.step=0.125", "training.steps=48")):
        # One batch of all samples, so that the motion is the same for all steps.
        found = computed(changed(folder, "training.batch=40", *overrides), tmp_path)[0]["entering"]
        excess.append(found["loss_paid"] / (found["output"] + found["readout"]) - 1)
    assert excess[0] > excess[1] > excess[2] > 0
    assert excess[1] / excess[2] == pytest.approx(2, abs=0.25)


def test_a_swap_enters_through_the_boundaries(study):
    _, out, scores = study
    arrays, found = read_sidecar(out / "energy.h5").arrays, scores["energy"]["swap"]
    assert found["count"] == 11 and arrays["swap_loss"].shape == (11,)
    np.testing.assert_allclose(arrays["swap_signals"] + arrays["swap_targets"], arrays["swap_loss"], rtol=0, atol=1e-14)
    assert min(found["loss_rms"], found["signals_rms"], found["targets_rms"], found["power_rms"]) > 1e-4
    # The layers' energy and L_bulk go on; L_boundary takes the jump of the loss.
    assert found["kinetic"] == 0 and found["bulk"] <= 1e-13 and found["boundary"] <= 1e-13
    assert found["lagrangian"] <= 1e-13 and found["routes"] <= 1e-12
    # The signals' pulse is the same at every depth, and it is what the loss gets from them.
    steps = arrays["moment_step"].astype(int)
    assert arrays["moment_pulse"].shape == (len(steps), 7) and steps.tolist() == [4, 7, 11]
    assert found["pulse_along_depth"] <= 1e-12 and found["pulse_against_loss"] <= 1e-6
    np.testing.assert_allclose(arrays["moment_pulse"][:, 3], arrays["swap_signals"][steps - 1], rtol=1e-5)
    np.testing.assert_allclose(arrays["moment_after"], arrays["current"][steps], rtol=1e-12, atol=1e-15)
    before, after = arrays["moment_before"][:, -1], arrays["moment_after"][:, -1]
    assert np.abs(after - before).max() > 1e-6
    # The readout's intake jumps too; where it is at rest the power's jump is that of J alone.
    assert not np.allclose(arrays["swap_power"][steps - 1], before - after, rtol=1e-3)
    np.testing.assert_allclose(arrays["moment_through_output"], arrays["swap_power"][steps - 1], rtol=1e-10, atol=1e-15)


def test_links_carry_the_current(study):
    _, out, _ = study
    arrays = read_sidecar(out / "energy.h5").arrays
    steps = arrays["moment_step"].astype(int)
    kernel, skip = arrays["moment_kernel"], arrays["moment_skip"]
    assert kernel.shape == (3, 6, 12, 3) and skip.shape == (3, 6, 12)
    moved = arrays["step_current"][steps, :-1]
    np.testing.assert_allclose(kernel.sum(axis=(2, 3)) + skip.sum(axis=2), moved, rtol=0, atol=1e-13)
    assert np.abs(kernel[:, 1:]).max() > 1e-8 and np.abs(skip[:, 1:]).max() > 1e-8


def test_the_field_at_order_0_on_the_lattices_grid_is_the_lattice(folder, tmp_path):
    config = changed(folder, "field.order=0", "field.n_x=lattice", "field.depth_scheme=euler")
    found, details = computed(config, tmp_path)
    assert max(found["field_against_lattice"].values()) <= 1e-11
    assert details.field.residuals != details.lattice.residuals  # by other routes
    coarse = computed(changed(folder), tmp_path)[0]["field_against_lattice"]
    assert all(1e-5 < value < 0.1 for value in coarse.values())


@pytest.mark.parametrize(
    "overrides",
    [
        ("lattice.weights=untied", "lattice.padding=circular", "lattice.activation=softplus"),
        ("training.rates.r=0", "lattice.padding=zeros", "lattice.loss=mean-square"),
        ("training.rates.b=0", "lattice.activation=gelu", "lattice.loss=hinge"),
        ("lattice.activation=relu", "field.order=0", "field.depth_scheme=euler", "initial.bias=0"),
    ],
    ids=["untied", "fixed readout", "fixed biases", "relu"],
)
def test_other_networks(folder, tmp_path, overrides):
    config = changed(folder, "training.steps=5", "plain.steps=5", *overrides)
    found, details = computed(config, tmp_path)
    for name in (*RESIDUALS, *STEP_RESIDUALS):
        assert found[name] <= 1e-12, name
    assert found["swap"]["kinetic"] == 0 and found["entering"]["output"] > 0
    assert (found["entering"]["readout"] == 0) == ("training.rates.r=0" in overrides)
    # Kinks are counted where σ has them.
    assert set(found["kinks"]) == {"lattice", "overdamped", "plain"}
    assert details.lattice.kinks == 0 or "lattice.activation=relu" in overrides


def test_a_kink_that_is_hit_is_counted(folder, tmp_path):
    """A dense network of one layer of zeros stands on the kink of relu."""
    config = changed(folder, "lattice.activation=relu", "training.steps=2", "plain.steps=1", "plain.gain=1e-300")
    assert computed(config, tmp_path)[0]["kinks"]["plain"] > 0


def test_the_same_numbers_again(study, folder, tmp_path):
    _, out, scores = study
    again = run_study(changed(folder), tmp_path / "again", workers=2, say=silent)
    assert again == scores
    assert read_sidecar(tmp_path / "again" / "energy.h5").arrays.keys() == read_sidecar(out / "energy.h5").arrays.keys()
    for name, values in read_sidecar(tmp_path / "again" / "energy.h5").arrays.items():
        np.testing.assert_array_equal(values, read_sidecar(out / "energy.h5").arrays[name])
    assert run_study(changed(folder), tmp_path / "again", resume=True, workers=1, say=silent) == scores


def test_the_report_says_it(study):
    config, out, scores = study
    figures = {path.stem for path in (out / "figures").iterdir()}
    assert figures == set(energy.CAPTIONS) and len(figures) == 4
    page = (out / "report.html").read_text()
    described = energy.describe(json.loads(json.dumps(config.model_dump())), scores)
    balances = {row[0]: row[1:] for row in described.tables[0].rows}
    assert balances["network"][0] == scores["energy"]["lattice_residual"]
    assert balances["network without inertia"][1] is None
    assert number(max(scores["energy"][name] for name in RESIDUALS[:4])) in described.message
    assert "9 depth cells" in described.summary and "7 and 5 hidden neurons" in described.summary
    for table in described.tables:
        assert table.title in page


# what the figures show


def test_the_map_shows_what_it_was_given():
    rng = np.random.default_rng(1)
    density, J = rng.random((20, 4)) + 0.1, -rng.random((20, 5))
    J[:, 0], J[:, 2], J[:, 4] = 0.0, -0.3, -0.6
    figure = figure_energy_map(np.arange(21.0), [Motion("mine", density, J), Motion("other", density, J)], memory=4.0)
    top, mean = figure.axes[0], next(ax for ax in figure.axes if "mean of $J$" in ax.get_xlabel())
    assert top.get_title() == "mine"
    np.testing.assert_array_equal(top.collections[0].get_array(), density.T)
    np.testing.assert_allclose(mean.lines[0].get_xdata(), 100 * J.mean(axis=0) / -0.6)
    # Five steps are averaged: constant rows stay.
    below = next(ax for ax in figure.axes if ax.get_xlabel() == "training time $t$")
    shown = np.asarray(below.collections[0].get_array())
    assert shown.shape == (5, 16)
    np.testing.assert_allclose(shown[2], -0.3)
    np.testing.assert_allclose(shown[1, 0], J[:5, 1].mean())
    assert "50 % passes mid-depth" in figure.get_suptitle()
    with pytest.raises(InputError, match="no motion to draw"):
        figure_energy_map(np.arange(3.0), [])


def test_the_budget_adds_up_in_the_figure():
    inflow, lost = np.full(10, 0.3), np.linspace(0, 0.3, 10)
    stored = np.concatenate([[0.0], np.cumsum(inflow - lost)])
    figure = figure_budget(np.arange(11.0), inflow, lost, stored, {"all": np.full(10, 3e-15)})
    assert "50 % of the energy that entered is dissipated" in figure.get_suptitle()
    assert r"3\times10^{-15}" in figure.get_suptitle()
    entered = figure.axes[1].lines[0].get_ydata()
    np.testing.assert_allclose(entered, np.concatenate([[0.0], np.cumsum(lost)]) + stored, rtol=1e-14)


def test_currents_in_the_width_point_where_they_go():
    kernel, skip = np.zeros((4, 6, 3)), np.full((4, 6), -0.2)
    kernel[:, :, 2] = -0.2  # through the tap that looks to larger y, backwards: energy moves to larger y
    figure = figure_links(kernel, skip, np.array([-1, 0, 1]) / 6, (1.0, 1.0), 2.0)
    assert "At $t$ = 2 energy flows to the input; the kernels carry 50 %" in figure.get_suptitle()
    left = figure.axes[0]
    np.testing.assert_allclose(left.collections[0].get_array(), np.full((6, 4), -0.4 * 6))
    arrows = left.collections[1]
    # Half of the energy goes one cell up while all of it goes one layer back.
    np.testing.assert_allclose(np.asarray(arrows.V) / np.asarray(arrows.U), -0.5 * (1 / 6) / (1 / 4))
    assert np.all(np.asarray(arrows.U) < 0)
    nothing = figure_links(0 * kernel, 0 * skip, np.array([-1, 0, 1]) / 6, (1.0, 1.0), 2.0)
    assert "not finite" in nothing.get_suptitle()


def test_swaps_are_drawn_as_given():
    signals, targets = np.array([3.0, 1.0]), np.array([-3.0, -1.2])
    site = np.linspace(0, -1, 4)
    figure = figure_swaps(signals, targets, site, 2 * site, {"a": np.full(4, 3.0)}, 7.0)
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), signals)
    assert "changes the loss by 0.14 (RMS): 2.2 through the input, 2.3 at the output" in figure.get_suptitle()
    assert "$t$ = 7" in figure.axes[1].get_title()


# what is refused


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lattice.depth=[4, 8]", "lattice.depth: needs one size, since one network is studied (got [4, 8])"),
        ("training.dynamics=leapfrog", 'training.dynamics: needs "heavy-ball"'),
        ("training.steps=1", "training.steps: needs at least 2"),
        ("field.depth_scheme=rk4", 'field.depth_scheme: needs one of "euler", "midpoint" (got \'rk4\')'),
        ("field.orders=[1]", "field.orders: unknown key; did you mean field.order?"),
        ("field.order=2", "field.order: needs a whole number from 0 to 1 (got 2)"),
        ("plain.hidden=[]", "plain.hidden: needs a list of widths"),
        ("plain.hidden=[4, 0]", "plain.hidden: needs a list of widths"),
        ("plain.gain=-1", "plain.gain: needs a number > 0 (got -1)"),
        ("energy.moments=0", "energy.moments: needs a whole number from 1 to 1000 (got 0)"),
        ("training.rates={ w = 0, b = 0, r = 1 }", "training.rates: needs a rate w > 0 or b > 0"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(folder, override, message):
    with pytest.raises(InputError) as caught:
        changed(folder, override)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_configuration_survives_writing(folder):
    config = changed(folder)
    assert parse_config(config.to_toml(), folder=folder) == config
    slow = config.overdamped()
    assert slow.training.dynamics == "sgd" and slow.training.damping is None
    assert dataclasses.replace(slow.training_plan(), dynamics="heavy-ball", damping=0.4) == config.training_plan()


def test_steps_that_only_diverge_are_refused(folder):
    with pytest.raises(InputError, match="unstable step"):
        energy.check(changed(folder, "training.rates={ w = 1e6, b = 1.0, r = 1.0 }"))
    with pytest.raises(InputError, match=r"field\.n_x = 1: unstable depth step"):
        energy.check(changed(folder, "initial.weight=30.0", "field.n_x=1", "training.rates={ w = 1e-6, b = 0, r = 0 }"))
