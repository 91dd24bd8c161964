"""Small lattices of every range and scaling for problems with known solutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bbdfield.lattice.network import forward
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import Lattice
from bbdfield.model.ranges import Derivative, Kernel, Taps
from bbdfield.model.units import to_lattice

RANGES = {
    "kernel": lambda tied: Kernel("3/16", tied),
    "taps": lambda tied: Taps(3, tied),
    "derivative": lambda tied: Derivative(0.1, tied),
}


def make(name: str = "kernel", tied: bool = False, **changes: Any) -> Lattice:
    """A residual identity lattice of 4 x 8 cells on a periodic width."""
    settings = {"depth": 4, "width": 8, "channels": 2, "padding": "circular", "activation": "identity"}
    return Lattice(range=RANGES[name](tied), **(settings | changes))


def run(problem: Any, start: np.ndarray | None = None) -> np.ndarray:
    """z at all sites by the network itself, (M + 1, N, C, B)."""
    lattice = problem.lattice
    state = to_lattice(problem.fields(lattice.grid))
    taps = lattice.range.taps(lattice.a_y)
    w = state.w if taps is None else np.einsum("kp,...cpd->...ckd", taps, state.w)
    sigma = lattice.law.activation(get_activation(lattice.activation), lattice.a_x)
    z0 = problem.start(lattice.grid) if start is None else start
    return forward(z0, w, state.b, sigma, lattice.padding, lattice.law.skip)


@pytest.fixture(scope="session")
def lattices() -> Any:
    return make


@pytest.fixture(scope="session")
def network() -> Any:
    return run
