"""Gradients of single samples, layer by layer, are those of batches of one."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield import Derivative, Kernel, Lattice, Rates, Taps, Training
from bbdfield.lattice.per_sample import per_sample_gradients
from bbdfield.lattice.training import LatticeSystem
from bbdfield.model.architecture import GROUPS
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.units import to_lattice


@pytest.mark.parametrize(
    ("range", "changes"),
    [
        (Taps(3), {}),
        (Taps(5, tied=True), {"padding": "circular", "activation": "relu"}),
        (Kernel(3 / 20, tied=True), {"padding": "reflect", "loss": "mean-square"}),
        (Kernel(3 / 20, tied=False), {}),
        (Derivative(0.2, tied=True), {"padding": "circular"}),
        (Derivative(0.2, tied=False), {"loss": "hinge"}),
        (Taps(3), {"scaling": "critical"}),
        (Taps(3), {"scaling": "plain"}),
    ],
)
def test_per_sample_gradients_are_those_of_batches_of_one(signals, range, changes):
    lattice = Lattice(
        range=range,
        outputs=signals.outputs,
        **{"depth": 4, "width": 10, "channels": 3, "data_channels": 2, "readout_modes": 3, **changes},
    )
    boundary = Boundary.draw(signals, lattice, Training(steps=1, batch=4, rates=Rates(1.0, 1.0, 1.0), probe=1))
    start = to_lattice(InitialFields(lattice, 3, weight=2.0, bias=0.3).on(lattice.grid, lattice))
    system = LatticeSystem(lattice, boundary, start, backend="numpy")
    index = np.array([0, 5, 7, 23])
    parts = {group: [] for group in GROUPS}
    for group, part in per_sample_gradients(lattice, boundary, (start.w, start.b, start.r), index):
        parts[group].append(part)
    for position, sample in enumerate(index):
        _, gradients = system.gradient(system.u, np.array([sample]))
        for group, expected in zip(GROUPS, gradients, strict=True):
            found = np.concatenate([part[position] for part in parts[group]])
            np.testing.assert_allclose(found, expected.ravel(), rtol=1e-12, atol=1e-14 * np.abs(expected).max())
