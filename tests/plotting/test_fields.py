"""Images of fields: they show the run's own numbers, on symmetric scales that network and field share."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from PIL import Image

import bbdfield
from bbdfield.errors import InputError
from bbdfield.fields.coarse_graining import restrict, restrict_sites
from bbdfield.plotting import animation, fields, style


@pytest.fixture(scope="module")
def make_runs(tmp_path_factory, signals, problems):
    """tied -> a network of 6 layers and its field of order 1 on 9 cells, so that the grids differ."""
    made = {}

    def make(tied):
        if tied not in made:
            made[tied] = _make_runs(tmp_path_factory.mktemp("runs"), signals, problems, tied)
        return made[tied]

    yield make
    for pair in made.values():
        for run in pair:
            run.close()


def _make_runs(folder, signals, problems, tied):
    lattice, plan = problems.lattice(tied=tied), problems.training(steps=12, snapshot_every=2)
    run = bbdfield.train(lattice, signals, plan, out=folder / "lattice.h5")
    start = run.initial_fields.on(bbdfield.Grid(9, 10), lattice)
    sim = bbdfield.simulate(start, run.boundary, order=1, backend="numpy", out=folder / "field.h5")
    return run, sim


@pytest.fixture(scope="module")
def runs(make_runs):
    return make_runs(True)


def images(ax):
    return [artist for artist in ax.collections if isinstance(artist, QuadMesh)]


def panels(figure):
    """Axes that hold an image of a field, row by row (colour bars left out)."""
    return [ax for ax in figure.axes if images(ax) and ax.get_label() != "<colorbar>"]


@pytest.mark.parametrize(("tied", "quantity"), [(True, "z"), (True, "w"), (True, "b"), (False, "w")])
def test_comparison_shows_network_field_and_their_difference(make_runs, tied, quantity):
    run, sim = make_runs(tied)
    figure = fields.figure_field_comparison(run, sim, quantity=quantity, sample=2, channel=1)
    axes = np.array(panels(figure)).reshape(3, 4)
    values = [[images(ax)[0].get_array() for ax in row] for row in axes]
    steps = [0, 2, 4, 6]
    for column, i in enumerate(steps):
        state, mine, theirs = run.fields(i), sim.fields(i), restrict(sim.fields(i), run.grid)
        if quantity == "z":
            network, field = run.z(i)[:, :, 1, 2], sim.z(i)[:, :, 1, 2]
            difference = restrict_sites(sim.z(i), sim.grid, run.grid)[:, :, 1, 2] - network
        elif quantity == "b":
            network, field = state.b[:, :, 1], mine.b[:, :, 1]
            difference = theirs.b[:, :, 1] - network
        else:
            middle = () if run.lattice.range.tied else (5,)
            network, field, shown = (w[:, *middle, 1, :, 1] for w in (state.w, mine.w, theirs.w))
            difference = shown - network
        for row, expected in enumerate((network, field, difference)):
            np.testing.assert_array_equal(values[row][column], expected.T)
        assert f"{run.t[i]:.4g}" in axes[0, column].get_title()


@pytest.mark.parametrize("quantity", ["z", "w", "b"])
def test_network_and_field_share_one_symmetric_scale_and_the_difference_has_its_own(runs, quantity):
    figure = fields.figure_field_comparison(*runs, quantity=quantity)
    meshes = [images(ax)[0] for ax in panels(figure)]
    limits = [mesh.get_clim() for mesh in meshes]
    assert all(low == -high and high > 0 for low, high in limits)
    assert len(set(limits[:8])) == 1 and len(set(limits[8:])) == 1
    assert limits[8][1] < limits[0][1]
    assert meshes[0].get_cmap().name != meshes[8].get_cmap().name
    largest = max(np.abs(mesh.get_array()).max() for mesh in meshes[:8])
    assert limits[0][1] == pytest.approx(largest)
    bars = [ax.get_ylabel() for ax in figure.axes if ax.get_label() == "<colorbar>"]
    assert len(bars) == 2 and "field − network" in bars[1] and "enlarged" in bars[1]


def test_comparison_labels_its_axes_and_states_the_difference(runs):
    run, sim = runs
    figure = fields.figure_field_comparison(run, sim, quantity="z", channel=1, sample=0)
    axes = np.array(panels(figure)).reshape(3, 4)
    assert [ax.get_ylabel().split("\n")[0] for ax in axes[:, 0]] == ["network", "field of order 1", "difference"]
    assert all("L_y" in ax.get_ylabel() for ax in axes[:, 0])
    assert all("L_x" in ax.get_xlabel() for ax in axes[-1])
    exact = run.z(6)[:, :, 1, 0]
    apart = restrict_sites(sim.z(6), sim.grid, run.grid)[:, :, 1, 0] - exact
    assert style.fraction(np.linalg.norm(apart) / np.linalg.norm(exact)) in figure.get_suptitle()


def test_equal_runs_differ_nowhere(runs):
    run, _ = runs
    figure = fields.figure_field_comparison(run, run)
    bars = [ax.get_ylabel() for ax in figure.axes if ax.get_label() == "<colorbar>"]
    assert "equal everywhere" in bars[1]
    assert "0 %" in figure.get_suptitle()


def test_images_cover_the_network_from_end_to_end(runs):
    run, _ = runs
    for quantity in fields.QUANTITIES:
        content = fields.plane(run, quantity, 0)
        assert content.values.shape == (content.horizontal.size - 1, content.vertical.size - 1)
        assert (content.horizontal[0], content.horizontal[-1]) == (0, 1)
        assert np.all(np.diff(content.horizontal) > 0)
    radius = run.lattice.range.radius
    np.testing.assert_allclose(fields.plane(run, "w", 0).vertical[[0, -1]], [-radius, radius], rtol=1e-12)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"quantity": "r"}, "quantity = 'r'"),
        ({"channel": 2}, "channel = 2"),
        ({"quantity": "w", "channel": (0, 5)}, "channel = 5"),
        ({"sample": 4}, "sample = 4"),
        ({"snapshots": [0, 7]}, "snapshots"),
        ({"snapshots": []}, "snapshots"),
    ],
)
def test_what_a_run_does_not_have_is_refused_in_one_line(runs, asked, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        fields.figure_field_comparison(*runs, **asked)
    assert "\n" not in str(caught.value)


def test_runs_without_common_snapshots_are_refused(runs):
    run, _ = runs

    class Later:
        def __getattr__(self, name):
            return getattr(run, name)

        steps = run.steps + 1

    with pytest.raises(InputError, match="no snapshot in common"):
        fields.figure_field_comparison(run, Later())


def test_trajectory_is_drawn_at_five_times_above_its_loss(runs):
    for run in runs:
        figure = fields.figure_trajectory(run, channel=1, sample=3)
        shown = panels(figure)
        assert len(shown) == 10
        for row in (shown[:5], shown[5:]):
            assert len({images(ax)[0].get_clim() for ax in row}) == 1
        np.testing.assert_array_equal(images(shown[4])[0].get_array(), run.z(-1)[:, :, 1, 3].T)
        (loss,) = [ax for ax in figure.axes if ax.get_ylabel() == "training loss"]
        np.testing.assert_array_equal(loss.lines[0].get_ydata(), run.loss)
        assert "training time" in loss.get_xlabel()


def test_equal_figures_give_equal_bytes_whatever_the_users_settings(runs, tmp_path):
    run, _ = runs
    plain = fields.plot_trajectory(run, tmp_path / "plain.png").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "lines.linewidth": 9}):
        assert fields.plot_trajectory(run, tmp_path / "other.png").read_bytes() == plain
        assert matplotlib.rcParams["font.size"] == 30
    with Image.open(tmp_path / "plain.png") as image:
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert not {"Software", "Creation Time"} & set(image.info)


@pytest.mark.parametrize("suffix", ["svg", "pdf"])
def test_no_format_holds_a_date(tmp_path, suffix):
    figure = style.new_figure(2, 1)
    figure.subplots().plot([0, 1])
    text = style.save(figure, tmp_path / f"figure.{suffix}").read_bytes()
    assert not re.search(rb"20\d\d-?\d\d|CreationDate|dc:date|Matplotlib v", text)


def test_film_shows_every_snapshot_on_one_scale(runs, tmp_path):
    run, _ = runs
    figure, show = animation.trajectory_frames(run, channel=1, sample=3)
    z, w = (images(ax)[0] for ax in panels(figure))
    limits = z.get_clim(), w.get_clim()
    for i in (0, 6):
        show(i)
        np.testing.assert_array_equal(z.get_array(), run.z(i)[:, :, 1, 3].T)
        np.testing.assert_array_equal(w.get_array(), fields.plane(run, "w", i, channel=1).values.T)
        assert any(f"{run.t[i]:.4g}" in ax.get_title() for ax in figure.axes)
    assert (z.get_clim(), w.get_clim()) == limits
    assert limits[0][1] == max(np.abs(run.z(i)[:, :, 1, 3]).max() for i in range(7))
    with Image.open(animation.animate_trajectory(run, tmp_path / "film.gif")) as film:
        assert film.n_frames == 7
        frames = []
        for i in (0, 6):
            film.seek(i)
            frames.append(np.asarray(film.convert("RGB")))
    assert np.any(frames[0] != frames[1])


@pytest.mark.parametrize("name", ["film.avi", "film"])
def test_other_film_formats_are_refused(runs, tmp_path, name):
    with pytest.raises(InputError, match=r"\.gif or \.mp4"):
        animation.animate_trajectory(runs[0], tmp_path / name)


def test_mp4_without_ffmpeg_says_what_to_install(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match=r"pip install 'bbdfield\[video\]'"):
        animation.animate_trajectory(runs[0], tmp_path / "film.mp4")
    assert not (tmp_path / "film.mp4").exists()


@pytest.mark.parametrize("name", ["plot.jpg", "plot", "missing/plot.png"])
def test_figures_go_to_known_formats_in_existing_directories(tmp_path, name):
    with pytest.raises(InputError, match="plot") as caught:
        style.save(style.new_figure(2, 1), tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_run_without_snapshots_is_refused(runs, tmp_path):
    class Empty:
        path = tmp_path / "empty.h5"
        t = np.array([])

    for draw in (fields.figure_trajectory, animation.trajectory_frames):
        with pytest.raises(InputError, match="no snapshot yet"):
            draw(Empty())


def test_zero_fields_have_a_scale(runs):
    content = replace(fields.plane(runs[0], "b", 0), values=np.zeros((6, 10)))
    assert style.symmetric_limit(content.values) == 1.0
    assert style.symmetric_limit(np.array([-3.0, 2.0, np.nan])) == 3.0


@pytest.mark.parametrize(
    ("kind", "label", "counted"),
    [(bbdfield.Taps(5, tied=True), "tap", (-2, -1, 0, 1, 2)), (bbdfield.Derivative(), "moment, mid-width", (0, 1, 2))],
)
def test_taps_and_moments_are_counted(signals, problems, tmp_path, kind, label, counted):
    """The vertical axis of their ŵ is a number, not a length; each row is one of them."""
    lattice = replace(problems.lattice(depth=12, padding="circular"), range=kind)
    law = problems.training(steps=1, rates=(0.1, 0.1, 0.1))
    initial = bbdfield.InitialFields(lattice, weight=0.2)
    with bbdfield.train(lattice, signals, law, initial=initial, out=tmp_path / "lattice.h5") as run:
        shown = fields.plane(run, "w", 0)
        assert shown.vertical_label == label and shown.vertical_ticks == counted
        np.testing.assert_array_equal(shown.vertical, np.arange(len(counted) + 1) + counted[0] - 0.5)
        w = run.fields(0).w if kind.tied else run.fields(0).w[:, 5]
        np.testing.assert_array_equal(shown.values, w[:, 0, :, 0])
