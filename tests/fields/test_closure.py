"""The closure residual: against loops over every neuron, where it must vanish, and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.fields.closure import closure_residual, closure_terms
from bbdfield.fields.coarse_graining import Window
from bbdfield.fields.simulation import simulate
from bbdfield.lattice.training import train
from bbdfield.model.architecture import Lattice
from bbdfield.model.initial import InitialFields
from bbdfield.model.ranges import Derivative, Taps
from bbdfield.model.run import Run
from bbdfield.model.units import LatticeState
from solvers.grids import Grid


def trained(path: Path, lattice: Lattice, problems: Any, data: Any, initial: Any = None) -> Run:
    if initial is None:
        rough = {"correlation_x": 0.0, "correlation_u": 0.1, "correlation_y": 0.1}
        initial = InitialFields(lattice, 5, weight=2.0, bias=0.5, **rough)
    plan = problems.training(steps=2, snapshot_every=1, probe=2)
    return train(lattice, data, plan, initial=initial, out=path / "lattice.h5")


def gaussian(points: np.ndarray, length: float) -> np.ndarray:
    rows = []
    for a in points:
        row = [np.exp(-((a - b) ** 2) / (2 * length**2)) if length else float(a == b) for b in points]
        rows.append(np.array(row) / sum(row))
    return np.array(rows)


def outside(i: int, n: int, padding: str) -> int | None:
    """Which cell a cell beyond the edge stands for."""
    if 0 <= i < n:
        return i
    return {"zeros": None, "circular": i % n, "reflect": -1 - i if i < 0 else 2 * n - 1 - i}[padding]


def acting(lattice: Lattice, kernel: np.ndarray, z: np.ndarray, sigma: Any) -> np.ndarray:
    """Σ_{k,c'} kernel[.., c, k, c'] σ(z)[y + k − K, c'], neuron by neuron."""
    cells, channels, samples = z.shape
    taps = kernel.shape[-2]
    out = np.zeros_like(z)
    for y, c, s, k, d in itertools.product(*map(range, (cells, channels, samples, taps, channels))):
        there = outside(y + k - taps // 2, cells, lattice.padding)
        if there is not None:
            weight = kernel[c, k, d] if kernel.ndim == 3 else kernel[y, c, k, d]
            out[y, c, s] += weight * sigma(z[there, d, s])
    return out


def naive(run: Run, i: int, window: Window, cells: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Both terms of the residual with W instead of ŵ: the raw arrays of the file, and loops."""
    lattice = run.lattice
    w, z = run.trajectory.fields["w"][i], run.trajectory.fields["z"][i]
    if isinstance(lattice.range, Derivative):
        stencils = {-1: (0, -0.5, 1), 0: (1, 0, -2), 1: (0, 0.5, 1)}
        ratio = lattice.range.length / lattice.a_y
        w = np.stack([sum(stencils[k][n] * ratio**n * w[..., n, :] for n in range(3)) for k in (-1, 0, 1)], axis=-2)
    if lattice.scaling == "critical":
        w = w.copy()
        w[..., w.shape[-2] // 2, :] -= np.eye(lattice.channels)
        scale = np.sqrt(1 / (3 * lattice.kappa * lattice.a_x))
        sigma = lambda v: scale * np.tanh(v / scale)  # noqa: E731
    else:
        sigma = np.tanh
    depth, width = lattice.depth, lattice.width
    in_x = gaussian((np.arange(depth) + 0.5) / depth, window.x)
    if cells:
        each = depth // cells
        in_x = np.array([in_x[j * each : (j + 1) * each].mean(axis=0) for j in range(cells)])
    in_y = gaussian((np.arange(width) + 0.5) / width, window.y)
    layers = [acting(lattice, w[m], z[m], sigma) for m in range(depth)]
    mean, closed = [], []
    for row in in_x:
        mean.append(np.einsum("ab,bcs->acs", in_y, sum(a * layer for a, layer in zip(row, layers, strict=True))))
        kernel = sum(a * part for a, part in zip(row, w, strict=True))
        if not lattice.range.tied:
            kernel = np.einsum("ab,b...->a...", in_y, kernel)
        state = np.einsum("ab,bcs->acs", in_y, sum(a * z[m] for m, a in enumerate(row)))
        closed.append(acting(lattice, kernel, state, sigma))
    return np.array(mean), np.array(closed)


CASES = [
    ({}, Window(0.2), None),
    ({}, Window(), 3),
    ({"tied": False, "padding": "reflect"}, Window(0.15, 0.2), 2),
    ({"padding": "circular"}, Window(0.1, 0.1), None),
    ({"scaling": "critical", "kappa": 0.7}, Window(0.1), 3),
    ({"range": Taps(3, tied=False)}, Window(0.1), None),
    ({"range": Derivative(length=0.2, tied=True)}, Window(0.2), 2),
]


@pytest.mark.parametrize(("changes", "window", "cells"), CASES)
def test_the_residual_is_what_loops_over_all_neurons_give(tmp_path, problems, signals, changes, window, cells):
    given = dict(changes)
    kind = given.pop("range", None)
    lattice = problems.lattice(**given)
    if kind is not None:
        lattice = dataclasses.replace(lattice, range=kind)
    with trained(tmp_path, lattice, problems, signals) as run:
        mean, closed = naive(run, 1, window, cells)
        theirs = closure_terms(run, 1, window, cells)
        # ŵ and W differ by a factor, which relative numbers do not know
        factor = np.linalg.norm(mean) / np.linalg.norm(theirs[0])
        np.testing.assert_allclose(factor * theirs[0], mean, atol=1e-12 * np.abs(mean).max())
        np.testing.assert_allclose(factor * theirs[1], closed, atol=1e-12 * np.abs(mean).max())
        found = closure_residual(run, 1, window, cells)
    residual = mean - closed
    assert found.total == pytest.approx(np.linalg.norm(residual) / np.linalg.norm(mean), rel=1e-10)
    assert found.total > 1e-3
    expected = [np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(residual, mean, strict=True)]
    np.testing.assert_allclose(found.by_depth, expected, rtol=1e-9)
    np.testing.assert_allclose(found.x, (np.arange(len(mean)) + 0.5) / len(mean))


def test_without_averaging_there_is_no_residual(tmp_path, problems, signals):
    with trained(tmp_path, problems.lattice(), problems, signals) as run:
        assert closure_residual(run, 1).total == 0.0
        assert closure_residual(run, 1, Window(0.1)).total > 0.01


def test_a_linear_network_of_equal_layers_is_closed(tmp_path, problems, signals):
    lattice = problems.lattice(activation="identity")
    rng = np.random.default_rng(0)
    kernel = 0.05 * rng.standard_normal((1, 2, 5, 2))
    state = LatticeState(np.repeat(kernel, 6, axis=0), np.zeros((6, 10, 2)), rng.standard_normal((3, 2, 3)))
    with trained(tmp_path, lattice, problems, signals, state) as run:
        assert closure_residual(run, 0, Window(0.2)).total < 1e-14
        assert closure_residual(run, 0, Window(0.2, 0.1)).total > 1e-3  # averages across the width meet the edges
        assert np.ptp(run.z(0), axis=0).max() > 0.1


def test_nothing_acts_nothing_is_left(tmp_path, problems, signals):
    state = LatticeState(np.zeros((6, 2, 5, 2)), np.zeros((6, 10, 2)), np.zeros((3, 2, 3)))
    with trained(tmp_path, problems.lattice(), problems, signals, state) as run:
        found = closure_residual(run, 0, Window(0.2))
    assert found.total == 0.0 and not found.by_depth.any()


def test_it_grows_with_the_window_and_with_roughness(tmp_path, problems, signals):
    lattice, totals = problems.lattice(depth=24), {}
    for name, length in (("rough", 0.0), ("smooth", 0.5)):
        (tmp_path / name).mkdir()
        initial = InitialFields(lattice, 2, weight=2.0, correlation_x=length, correlation_u=0.1)
        with trained(tmp_path / name, lattice, problems, signals, initial) as run:
            totals[name] = [closure_residual(run, 0, Window(window)).total for window in (0.02, 0.05, 0.2)]
    for values in totals.values():
        assert values[0] < values[1] < values[2]
    assert totals["rough"][0] > 3 * totals["smooth"][0] and totals["rough"][1] > 3 * totals["smooth"][1]


def test_a_field_has_no_layers(tmp_path, problems, signals):
    lattice = problems.lattice()
    with trained(tmp_path, lattice, problems, signals, InitialFields(lattice, 1)) as run:
        start = run.initial_fields.on(Grid(8, 10), lattice)
        with simulate(start, run.boundary, out=tmp_path / "field.h5") as sim, pytest.raises(InputError) as caught:
            closure_residual(sim, 0)
    assert str(caught.value).endswith("a field has no layers to average over; give a lattice file")
