"""Coarse-graining: declared orders, conservation, round trips, and what `at` finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import bbdfield
from bbdfield.fields.coarse_graining import (
    POINT_ORDER,
    Window,
    coarse_grain,
    restrict,
    restrict_sites,
    window_matrix,
    write_coarse_grained,
)
from solvers.grids import Grid
from solvers.interpolation import AVERAGE_ORDER, average_matrix


def cell_averages(n: int) -> np.ndarray:
    """Exact averages of sin(3x) + x² over n cells of [0, 1]."""
    edges = np.arange(n + 1) / n
    primitive = -np.cos(3 * edges) / 3 + edges**3 / 3
    return np.diff(primitive) * n


def slope(sizes: list[int], errors: list[float]) -> float:
    return float(-np.polyfit(np.log(sizes), np.log(errors), 1)[0])


@pytest.mark.parametrize(("numerator", "denominator"), [(3, 1), (1, 2), (3, 2), (5, 4)])
def test_averages_have_the_declared_order(numerator: int, denominator: int) -> None:
    sizes = [16, 32, 64]
    errors = []
    for n in sizes:
        target = n * numerator // denominator
        errors.append(float(np.abs(average_matrix(n, target) @ cell_averages(n) - cell_averages(target)).max()))
    if denominator == 2 and numerator == 1:  # whole cells are merged: exact
        assert max(errors) < 1e-14
    else:
        assert slope(sizes, errors) > AVERAGE_ORDER - 0.3


@pytest.mark.parametrize(("source", "target"), [(10, 7), (7, 10), (12, 4), (4, 12), (3, 5), (1, 4)])
def test_averages_conserve_the_integral(source: int, target: int) -> None:
    values = np.random.default_rng(0).standard_normal(source)
    assert np.mean(average_matrix(source, target) @ values) == pytest.approx(np.mean(values), abs=1e-14)


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_refining_and_averaging_back_is_the_identity(factor: int) -> None:
    there = average_matrix(12, 12 * factor)
    back = average_matrix(12 * factor, 12)
    np.testing.assert_allclose(back @ there, np.eye(12), atol=1e-13)


def test_window_averages_and_keeps_constants() -> None:
    points = (np.arange(50) + 0.5) / 50
    smooth = window_matrix(points, 0.1)
    np.testing.assert_allclose(smooth @ np.ones(50), 1.0, atol=1e-14)
    rough = np.random.default_rng(0).standard_normal(50)
    assert np.std(smooth @ rough) < 0.5 * np.std(rough)
    np.testing.assert_array_equal(window_matrix(points, 0.0), np.eye(50))
    with pytest.raises(bbdfield.InputError, match="window x"):
        Window(x=-1.0)


def network(depth: int, width: int = 12, *, tied: bool = True) -> bbdfield.Lattice:
    return bbdfield.Lattice(depth=depth, width=width, channels=2, range=bbdfield.Kernel(1.5 / 12, tied=tied), outputs=3)


@pytest.mark.parametrize("tied", [True, False])
def test_restriction_of_smooth_fields_has_the_declared_order(tied: bool) -> None:
    target = Grid(13, 12)
    initial = bbdfield.InitialFields(network(13, tied=tied), seed=3, bias=1.0, correlation_x=0.5, correlation_y=0.8)
    exact = initial.on(target)
    sizes, errors = [12, 24, 48], []
    for n in sizes:
        found = restrict(
            initial.on(Grid(n, 36)), target
        )  # 36 = 3·12: cells and taps coincide, so only x is interpolated
        errors.append(float(np.abs(found.w - exact.w).max() + np.abs(found.b - exact.b).max()))
    assert slope(sizes, errors) > POINT_ORDER - 0.5


def test_restriction_of_sites_has_the_declared_order() -> None:
    def z(grid: Grid) -> np.ndarray:
        return np.sin(3 * grid.x_sites)[:, None] * np.cos(np.pi * grid.y)

    target = Grid(13, 12)
    sizes, errors = [10, 20, 40], []
    for n in sizes:
        source = Grid(n, 2 * n)
        errors.append(float(np.abs(restrict_sites(z(source), source, target) - z(target)).max()))
    assert slope(sizes, errors) > POINT_ORDER - 0.5


@pytest.fixture
def run(tmp_path: Path) -> bbdfield.Run:
    rng = np.random.default_rng(0)
    data = bbdfield.Dataset("noise", rng.standard_normal((20, 12)), np.arange(20) % 3)
    plan = bbdfield.Training(steps=4, batch=5, rates=bbdfield.Rates(1, 1, 1), snapshot_every=2, probe=3, seed=1)
    return bbdfield.train(network(6, tied=False), data, plan, out=tmp_path / "lattice.h5")


def test_on_its_own_grid_nothing_changes(run: bbdfield.Run) -> None:
    same = coarse_grain(run, run.grid)
    state, original = same.at(t=run.t[-1]), run.fields(2)
    for name in ("w", "b", "r"):
        np.testing.assert_allclose(getattr(state, name), getattr(original, name), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(same.z(1), run.z(1), rtol=1e-12, atol=1e-12)


def test_merging_cells_averages_them(run: bbdfield.Run) -> None:
    state, original = coarse_grain(run, Grid(3, 12)).fields(0), run.fields(0)
    np.testing.assert_allclose(state.b, original.b.reshape(3, 2, 12, 2).mean(axis=1), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(
        state.w, original.w.reshape(3, 2, *original.w.shape[1:]).mean(axis=1), rtol=1e-11, atol=1e-11
    )


def test_coarse_fields_start_a_simulation_and_a_file(run: bbdfield.Run, tmp_path: Path) -> None:
    sim = bbdfield.simulate(
        coarse_grain(run, Grid(6, 12)).at(t=0), run.boundary, order=0, depth_scheme="euler", out=tmp_path / "field.h5"
    )
    assert bbdfield.compare(sim, run).error["z"] < 1e-12  # Euler on the lattice's own grid is the lattice
    written = write_coarse_grained(run, Grid(12, 36), tmp_path / "coarse.h5")
    assert written.kind == "field" and written.fields(1).w.shape == (12, 36, 2, 9, 2)
    np.testing.assert_array_equal(written.loss, run.loss)


def test_a_coarse_grained_start_keeps_the_second_order(tmp_path: Path) -> None:
    """Order 1 at fixed n_x from the lattices' own first snapshots: the error still falls as a_x²."""
    rng = np.random.default_rng(0)
    data = bbdfield.Dataset("noise", rng.standard_normal((20, 12)), np.arange(20) % 3)
    plan = bbdfield.Training(steps=4, batch=5, rates=bbdfield.Rates(1, 0.1, 0.1), step=0.2, snapshot_every=2, probe=3)
    errors, depths = [], [24, 48, 96]
    for depth in depths:
        net = network(depth)
        smooth = bbdfield.InitialFields(net, weight=2.0, correlation_x=0.5, bias=0.5)
        run = bbdfield.train(net, data, plan, initial=smooth, out=tmp_path / f"l{depth}.h5")
        start = coarse_grain(run, Grid(24, 12)).at(t=0)
        sim = bbdfield.simulate(start, run.boundary, order=1, out=tmp_path / f"f{depth}.h5")
        errors.append(bbdfield.compare(sim, run).error["z"])
    assert slope(depths, errors) == pytest.approx(2.0, abs=0.1)


def test_a_windowed_start_is_the_smoothed_average(run: bbdfield.Run) -> None:
    coarse = coarse_grain(run, run.grid, Window(x=0.2))
    np.testing.assert_array_equal(coarse.at(t=0).w, coarse.fields(0).w)
    assert np.abs(coarse.at(t=0).w - run.fields(0).w).max() > 1e-3


def test_damped_runs_are_coarse_grained_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = bbdfield.Dataset("noise", rng.standard_normal((20, 12)), np.arange(20) % 3)
    rates = bbdfield.Rates(1, 1, 1)
    plan = bbdfield.Training(steps=4, batch=5, rates=rates, dynamics="heavy-ball", damping=1.0, probe=3)
    run = bbdfield.train(network(6), data, plan, out=tmp_path / "lattice.h5")
    written = write_coarse_grained(run, Grid(3, 12), tmp_path / "coarse.h5")
    assert set(written.trajectory.fields) == {"w", "b", "z", "r"}


def test_a_time_without_snapshot_is_refused(run: bbdfield.Run) -> None:
    with pytest.raises(bbdfield.InputError, match="no snapshot at t = 1"):
        coarse_grain(run, run.grid).at(t=1.0)
    with pytest.raises(bbdfield.InputError, match="radius"):
        coarse_grain(run, Grid(6, 14))
