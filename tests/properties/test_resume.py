"""state() of any step, loaded into a new system, goes on bit for bit: every stepper, range, scaling and backend."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from bbdfield.datasets import Dataset
from bbdfield.fields.simulation import FieldSystem
from bbdfield.lattice.training import LatticeSystem
from bbdfield.model.architecture import DAMPED, DYNAMICS, Lattice, Rates, Training
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.ranges import Derivative, Kernel, Range, Taps
from bbdfield.model.units import to_lattice

STEPS = 8
RANGES = (Kernel("1/4"), Kernel("1/4", tied=False), Taps(3), Taps(3, tied=False), Derivative(0.1))
#: (range, scaling, dynamics, channels): one channel leaves arrays whose order in memory NumPy is free to choose
CASES = [
    *itertools.product(RANGES, ("residual",), DYNAMICS, (1, 2)),
    *itertools.product(RANGES[2:4], ("critical",), DYNAMICS, (1,)),
]


def boundary_of(kind: Range, scaling: str, dynamics: str, channels: int) -> tuple[Boundary, InitialFields]:
    rng = np.random.default_rng(1)
    data = Dataset("noise", rng.standard_normal((12, 1, 6)), np.arange(12) % 3)
    lattice = Lattice(
        depth=4, width=6, channels=channels, range=kind, scaling=scaling, outputs=3, readout_modes=2,
        kappa=0.05 if scaling == "critical" else None,
    )  # fmt: skip
    plan = Training(
        steps=STEPS, batch=4, step=0.5, rates=Rates(w=1.0, b=0.1, r=0.1), probe=1, seed=2, dynamics=dynamics,
        damping=0.4 if dynamics in DAMPED else None, tolerance=1e-5 if dynamics == "adaptive-flow" else None,
    )  # fmt: skip
    return Boundary.draw(data, lattice, plan), InitialFields(lattice, seed=2, weight=0.5)


def copied(system: Any) -> dict[str, np.ndarray]:
    """As a file gives it back."""
    return {name: np.array(value, order="C") for name, value in system.state().items()}


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("what", ["lattice", "field"])
def test_a_resumed_system_is_bitwise_the_same(what, backend):
    different = []
    with threadpool_limits(1):
        for kind, scaling, dynamics, channels in CASES:
            boundary, initial = boundary_of(kind, scaling, dynamics, channels)
            lattice = boundary.lattice

            def new(boundary=boundary, initial=initial, lattice=lattice) -> Any:
                if what == "lattice":
                    return LatticeSystem(boundary=boundary, lattice=lattice, backend=backend,
                                         start=to_lattice(initial.on(lattice.grid, lattice)))  # fmt: skip
                return FieldSystem(initial.on(lattice.grid), boundary, order=1, scheme="rk4", backend=backend)

            whole, states = new(), []
            for k in range(STEPS):
                states.append(copied(whole))
                whole.step(k)
            for begin in (0, 1, 5):
                rest = new()
                rest.load(states[begin])
                for k in range(begin, STEPS):
                    rest.step(k)
                for name, value in copied(rest).items():
                    assert np.isfinite(value).all()
                    if not np.array_equal(value, copied(whole)[name]):
                        different.append((kind, scaling, dynamics, channels, begin, name))
    assert different == []
