"""Curves over training time, depth and spacing show the numbers that they were given."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
from matplotlib.colors import to_hex

import bbdfield
from bbdfield.comparison.orders import fit_order
from bbdfield.comparison.scores import compare
from bbdfield.errors import InputError
from bbdfield.plotting import convergence, curves, style


@dataclass(frozen=True)
class Errors:
    """A score whose numbers are known: ẑ leaves at t = 30, ŵ has no error at t = 0."""

    horizon: float | None = None
    t: np.ndarray = field(default_factory=lambda: np.array([0.0, 10.0, 20.0, 30.0]))
    error_t: dict = field(
        default_factory=lambda: {
            "z": np.array([0.01, 0.02, 0.05, 0.2]),
            "w": np.array([0.0, 0.01, 0.02, 0.04]),
            "b": np.array([0.0, 0.03, 0.03, 0.05]),
        }
    )
    movement_error_t: dict = field(
        default_factory=lambda: {"w": np.array([0, 0.1, 0.1, 0.2]), "b": np.array([np.inf, 0.03, 0.03, 0.05])}
    )
    x_site: np.ndarray = field(default_factory=lambda: np.array([0.0, 1.0, 2.0]))
    x_link: np.ndarray = field(default_factory=lambda: np.array([0.5, 1.5]))
    profile: dict = field(
        default_factory=lambda: {
            "z": np.array([0.0, 0.3, 0.2]),
            "w": np.array([0.1, 0.2]),
            "b": np.array([0.3, 0.4]),
        }
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory, signals, problems):
    """Networks of 3 and 6 layers, fields of both orders of the latter, and their scores."""
    folder = tmp_path_factory.mktemp("study")
    plan = problems.training(steps=12, snapshot_every=3)
    networks = [
        bbdfield.train(problems.lattice(depth=m), signals, plan, out=folder / f"lattice-{m}.h5") for m in (3, 6)
    ]
    start = networks[1].initial_fields.on(bbdfield.Grid(8, 10), networks[1].lattice)
    sims = {
        order: bbdfield.simulate(
            start, networks[1].boundary, order=order, backend="numpy", out=folder / f"field-{order}.h5"
        )
        for order in (0, 1)
    }
    yield networks, sims, {order: compare(sim, networks[1]) for order, sim in sims.items()}
    for run in (*networks, *sims.values()):
        run.close()


def labelled(ax):
    return bool(ax.get_xlabel()) and bool(ax.get_ylabel() or ax.get_title())


def test_training_shows_every_step_and_every_snapshot(study):
    networks, sims, _ = study
    shown = [curves.TrainingCurve.of(run, f"network {run.grid.n_x}") for run in networks]
    shown += [curves.TrainingCurve.of(sim, f"field {order}") for order, sim in sims.items()]
    figure = curves.figure_training(shown)
    loss, accuracy = figure.axes
    assert labelled(loss) and labelled(accuracy) and "%" in accuracy.get_ylabel()
    raw = [line for line in loss.lines if line.get_label().startswith("_")]
    for line, run in zip(raw, networks, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), run.loss)
        np.testing.assert_array_equal(line.get_xdata(), np.arange(12) * run.training.step)
    for line, run in zip(accuracy.lines, (*networks, *sims.values()), strict=True):
        np.testing.assert_allclose(line.get_ydata(), 100 * run.evaluation["test_accuracy"])
        assert line.is_dashed() == (run.kind == "field")
        assert run.kind == "field" or line.get_linestyle() == "-"
    drawn = [line.get_zorder() for line in accuracy.lines]
    assert min(drawn[2:]) > max(drawn[:2])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "network 3",
        "network 6",
        "field 0",
        "field 1",
    ]


def test_training_title_says_how_far_the_losses_are_apart():
    t = np.arange(4.0)
    network = curves.TrainingCurve("network", t, np.array([3.0, 4.0, 0.0, 0.0]), t, t)
    near = curves.TrainingCurve("field", t, np.array([3.0, 4.0, 0.1, 0.0]), t, t, order=1)
    far = curves.TrainingCurve("field", t, np.array([3.0, 4.0, 0.0, 5.0]), t, t, order=1)
    assert (
        "learns as the network does: their losses differ by 2 %"
        in curves.figure_training([network, near]).get_suptitle()
    )
    assert "differently: their losses differ by 100 %" in curves.figure_training([network, far]).get_suptitle()


def test_without_labels_there_is_no_accuracy_to_show():
    t = np.arange(4.0)
    curve = curves.TrainingCurve("network", t, t, t, np.full(4, np.nan))
    assert [ax.get_ylabel() for ax in curves.figure_training([curve]).axes] == ["training loss"]
    with pytest.raises(InputError, match="no training curve"):
        curves.figure_training([])


def test_smoothing_is_a_running_mean_at_the_middle_of_its_window():
    t = np.arange(100.0)
    times, values = curves.smooth(t, 2 * t + 1)
    np.testing.assert_allclose(values, 2 * times + 1)
    assert times.size == 98 and times[0] == pytest.approx(1.0)
    few = curves.smooth(t[:3], t[:3])
    np.testing.assert_allclose(few, (t[:3], t[:3]))
    assert curves.smooth(t[:0], t[:0])[1].size == 0


def test_errors_over_time_mark_ten_percent_and_the_horizon():
    figure = curves.figure_error_over_time({0: Errors(horizon=30.0), 1: Errors()})
    z, w, b = figure.axes
    assert all(ax.get_yscale() == "log" and labelled(ax) for ax in figure.axes)
    assert [ax.get_ylim() for ax in (w, b)] == [z.get_ylim()] * 2
    drawn = {line.get_label(): line.get_ydata() for line in z.lines}
    np.testing.assert_array_equal(drawn["order 0"], [0.01, 0.02, 0.05, 0.2])
    level = [line for line in z.lines if list(line.get_ydata()) == [0.1, 0.1]]
    horizons = [line for line in z.lines if list(line.get_xdata()) == [30.0, 30.0]]
    assert len(level) == 1 and len(horizons) == 1
    assert to_hex(horizons[0].get_color()) == to_hex(style.order_color(0))
    assert "10 %" in [text.get_text() for text in figure.legends[0].get_texts()]
    dotted = [line.get_ydata() for line in w.lines if line.get_linestyle() == ":"]
    np.testing.assert_array_equal(dotted[0], [np.nan, 0.1, 0.1, 0.2])


def test_error_titles_say_until_when_the_field_holds():
    assert "within 20 % until $t$ = 30" in curves.figure_error_over_time({1: Errors()}).get_suptitle()
    title = curves.figure_error_over_time({0: Errors(), 1: Errors(horizon=30.0)}).get_suptitle()
    assert "Order 1" in title and "within 10 % until $t$ = 30, its horizon" in title


def test_depth_profile_is_over_the_whole_depth():
    figure = curves.figure_depth_profile({1: Errors()})
    z, w, _ = figure.axes
    np.testing.assert_array_equal(z.lines[0].get_xdata(), [0, 0.5, 1])
    np.testing.assert_array_equal(z.lines[0].get_ydata(), [np.nan, 0.3, 0.2])
    np.testing.assert_array_equal(w.lines[0].get_xdata(), [0.25, 0.75])
    assert "L_x" in z.get_xlabel() and "30 %" in figure.get_suptitle() and "= 0.5" in figure.get_suptitle()


def test_real_scores_are_drawn(study, tmp_path):
    _, _, scores = study
    for draw in (curves.figure_error_over_time, curves.figure_depth_profile):
        figure = draw(scores)
        line = figure.axes[0].lines[0]
        values = scores[0].error_t["z"] if draw is curves.figure_error_over_time else scores[0].profile["z"]
        np.testing.assert_array_equal(np.nan_to_num(line.get_ydata()), np.where(values > 1e-12, values, 0))
        assert style.save(figure, tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
        with pytest.raises(InputError, match="no score"):
            draw({})


SPACINGS = np.array([1 / 8, 1 / 16, 1 / 32])
ERRORS = {
    order: {name: factor * SPACINGS ** (order + 1) for factor, name in enumerate(convergence.QUANTITIES, start=1)}
    for order in (0, 1)
}
FITS = {order: {name: fit_order(SPACINGS, e) for name, e in errors.items()} for order, errors in ERRORS.items()}
FLOOR = {0: {name: np.full(3, 1e-6) for name in convergence.QUANTITIES}}


@pytest.mark.parametrize("spacing", ["a_x", "a_y"])
def test_convergence_shows_errors_fits_and_the_solvers_grid(spacing):
    figure = convergence.figure_convergence(SPACINGS, ERRORS, FITS, spacing_name=spacing, grid_errors=FLOOR)
    for ax, name in zip(figure.axes, convergence.QUANTITIES, strict=True):
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        points = [line for line in ax.lines if line.get_marker() == "o"]
        for order, line in enumerate(points):
            np.testing.assert_array_equal(line.get_ydata(), ERRORS[order][name])
        fitted = [line for line in ax.lines if line.get_marker() == "None"]
        for order, line in enumerate(fitted):
            ends = ERRORS[order][name][[2, 0]]
            np.testing.assert_allclose(line.get_ydata(), ends)
        legend = [text.get_text() for text in ax.get_legend().get_texts()]
        assert legend[0].startswith("order 0: slope 1.00 [1.00, 1.00]")
        assert "solver's grid" in legend
        grid = [line for line in ax.lines if line.get_marker() == "x"]
        np.testing.assert_array_equal(grid[0].get_ydata(), FLOOR[0][name])
        assert style.SYMBOLS[name] in ax.get_ylabel()
    assert all(f"{spacing} / L" in ax.get_xlabel() for ax in figure.axes[2:])
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["1/8", "1/16", "1/32"]
    assert "1.00}$ at order 0" in figure.get_suptitle() and "2.00}$ at order 1" in figure.get_suptitle()


def test_reference_triangles_have_the_slope_of_theory():
    for spacing, slopes in (("a_x", [1, 2]), ("a_y", [2, 2])):
        figure = convergence.figure_convergence(SPACINGS, ERRORS, spacing_name=spacing)
        for ax in figure.axes:
            for patch, slope in zip(ax.patches, slopes, strict=True):
                (left, bottom), (right, _), (_, top) = patch.get_xy()[:3]
                assert np.log(top / bottom) / np.log(right / left) == pytest.approx(slope)


def test_missing_values_and_fits_leave_gaps(tmp_path):
    errors = {0: {name: [0.1, np.nan, 0.0] for name in convergence.QUANTITIES}}
    figure = convergence.figure_convergence(SPACINGS, errors, {0: {}})
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [0.1, np.nan, np.nan])
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["order 0"]
    style.save(figure, tmp_path / "convergence.png")


def test_errors_must_belong_to_the_spacings():
    with pytest.raises(InputError, match="3 values for 2 spacings"):
        convergence.figure_convergence(SPACINGS[:2], ERRORS)
    with pytest.raises(InputError, match="no errors"):
        convergence.figure_convergence(SPACINGS, {})


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "12 %"), (0.0123, "1.2 %"), (7.31e-4, "0.073 %"), (3e-7, "0.00003 %"), (0.0, "0 %")]
)
def test_relative_errors_in_words(value, text):
    assert style.fraction(value) == text


def test_drawing_needs_no_pyplot():
    modules = "bbdfield.plotting.fields, bbdfield.plotting.animation, bbdfield.plotting.convergence"
    code = f"import sys, {modules}; print('matplotlib.pyplot' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
