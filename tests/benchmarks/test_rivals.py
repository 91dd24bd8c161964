"""PyTorch and JAX train the lattice that is timed against them: the same weights after two steps of SGD."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest

from bbdfield.benchmarks.jax_ import JaxLattice
from bbdfield.benchmarks.problems import Problem, problem
from bbdfield.benchmarks.pytorch import PyTorchLattice
from bbdfield.errors import InputError
from bbdfield.lattice.training import LatticeSystem
from bbdfield.model.architecture import Rates
from bbdfield.model.boundary import Boundary
from bbdfield.model.ranges import Derivative, Kernel, Taps

RIVALS = {"torch": lambda problem: PyTorchLattice(problem, 1)}
if importlib.util.find_spec("jax") is not None:
    RIVALS["jax"] = JaxLattice
RANGES = {
    "kernel": lambda tied: Kernel(3.5 / 12, tied),
    "taps": lambda tied: Taps(3, tied),
    "derivative": lambda tied: Derivative(0.05, tied),
}


def moving(problem: Problem) -> Problem:
    """The same problem, at rates that move its weights."""
    training = dataclasses.replace(problem.training, rates=Rates(2.0, 0.2, 0.5))
    boundary = Boundary.draw(problem.boundary.dataset, problem.lattice, training)
    return dataclasses.replace(problem, boundary=boundary)


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("padding", ["zeros", "circular"])
@pytest.mark.parametrize(("channels", "batch"), [(1, 1), (3, 4)])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("reach", RANGES)
def test_two_steps_are_those_of_the_lattice(reach, tied, channels, batch, padding, rival):
    given = moving(
        problem("test", RANGES[reach](tied), depth=5, width=12, channels=channels, batch=batch, padding=padding)
    )
    ours = LatticeSystem(given.lattice, given.boundary, given.start, backend="numpy")
    theirs = RIVALS[rival](given)
    for k in range(2):
        assert float(theirs.step(k)) == pytest.approx(ours.step(k)["loss"], rel=1e-12)
    theirs.finish()
    found = theirs.state()
    for name, expected in ours.state().items():
        before = getattr(given.start, name)
        assert found[name].shape == expected.shape
        assert np.abs(expected - before).max() > 1e-4 * np.abs(expected).max(), f"{name} did not move"
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-10 * np.abs(expected).max(), err_msg=name)
        moved = np.abs(expected - before).max()
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-8 * moved, err_msg=f"movement of {name}")


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize(
    "change", [{"padding": "reflect"}, {"activation": "relu"}, {"scaling": "plain"}, {"loss": "mean-square"}]
)
def test_other_lattices_are_refused(change, rival):
    given = problem("test", Taps(3), depth=2, width=8)
    with pytest.raises(InputError, match=f"lattice.{next(iter(change))} = .* no counterpart in PyTorch and JAX"):
        RIVALS[rival](dataclasses.replace(given, lattice=dataclasses.replace(given.lattice, **change)))
