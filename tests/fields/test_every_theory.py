"""The field simulation of every scaling and range: its gradient, and the same numbers on every backend."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bbdfield.fields.simulation import FieldSystem
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.ranges import Derivative, Kernel, Taps
from solvers.grids import Grid

GROUPS = ("w", "b", "r")
RANGES = {
    "kernel": lambda tied: Kernel("1/4", tied),
    "taps": lambda tied: Taps(3, tied),
    "derivative": lambda tied: Derivative(0.1, tied),
}
THEORIES = [("residual", 0), ("residual", 1), ("critical", 0), ("critical", 1), ("plain", 1)]
EVERY_THEORY = pytest.mark.parametrize(("scaling", "order"), THEORIES)
EVERY_RANGE = pytest.mark.parametrize("reach", RANGES)
TIES = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def system(signals, problems, scaling, order, reach, tied, *, backend="numpy", **options):
    base = problems.lattice(padding=options.pop("padding", "reflect"), depth=8)
    kappa = 0.2 if scaling == "critical" else None
    lattice = dataclasses.replace(base, scaling=scaling, range=RANGES[reach](tied), kappa=kappa)
    boundary = Boundary.draw(
        signals, lattice, problems.training(rates=(0.02, 0.02, 0.1) if scaling == "plain" else (0.5, 0.2, 0.5))
    )
    plain = scaling == "plain"  # stiff, and 1 + 𝒦σ' must not come near singular
    mean = (0.3, 0.1, 0.05 if plain else 0.2) if reach == "derivative" else None
    initial = InitialFields(lattice, seed=5, weight=0.15 if plain else 0.5, bias=0.5, mean=mean)
    start = initial.on(Grid(36 if plain else 7, options.pop("cells", 10)), lattice)
    if reach == "taps":
        options.setdefault("width_order", 2)
    return FieldSystem(start, boundary, order=order, scheme="midpoint" if plain else "rk4", backend=backend, **options)


@TIES
@EVERY_RANGE
@EVERY_THEORY
def test_gradient_is_the_losss(signals, problems, scaling, order, reach, tied):
    """δℓ/δŵ, δℓ/δb̂, ∂ℓ/∂R against central differences of the discretised loss, along a direction in each group."""
    field = system(signals, problems, scaling, order, reach, tied)
    index = field.boundary.batch(0)
    z0, targets = field.boundary.input(index, 10), field.boundary.targets[index]
    loss, gradient = field.gradient(field.u, z0, targets)
    assert loss > 0
    h_y, mass = field.grid.h_y, field.march.reconstruction.mass
    component = h_y if reach == "kernel" else 1.0  # ∫du of kernels, Σ over taps or moments
    cell = {"w": component * (1.0 if tied else h_y), "b": h_y}
    rng = np.random.default_rng(6)
    for group, name in enumerate(GROUPS):
        direction = rng.standard_normal(field.u[group].shape)
        cotangent = gradient[group] if name == "r" else cell[name] * np.tensordot(mass, gradient[group], 1)
        ahead, behind = (
            field.gradient(
                tuple(part + e * direction if i == group else part for i, part in enumerate(field.u)), z0, targets
            )[0]
            for e in (1e-5, -1e-5)
        )
        expected = np.vdot(cotangent, direction)
        scale = np.linalg.norm(cotangent) * np.linalg.norm(direction) / np.sqrt(direction.size)
        assert (ahead - behind) / 2e-5 == pytest.approx(expected, abs=2e-6 * scale), name


@EVERY_RANGE
@EVERY_THEORY
def test_every_backend_steps_like_numpy(signals, problems, backends, scaling, order, reach):
    for tied in (False,) if scaling == "plain" else (True, False):
        compare(
            *(
                system(signals, problems, scaling, order, reach, tied, backend=backend, padding="circular")
                for backend in ("numpy", backends)
            ),
            signals,
        )


def test_every_backend_cuts_off_like_numpy(signals, problems, backends):
    compare(
        *(
            system(signals, problems, "residual", 1, "taps", False, backend=backend, cells=20, ill_posed="cutoff")
            for backend in ("numpy", backends)
        ),
        signals,
    )


def compare(here, there, signals):
    assert there.step(0)["loss"] == pytest.approx(here.step(0)["loss"], rel=1e-12)
    there.watch(1.0)
    for name in GROUPS:
        expected, found = here.state()[name], there.state()[name]
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max(), err_msg=name)
    z = here.probe()
    np.testing.assert_allclose(there.probe(), z, rtol=0, atol=1e-12 * np.abs(z).max())
    logits = here.logits(signals.x_test)
    np.testing.assert_allclose(there.logits(signals.x_test), logits, rtol=0, atol=1e-12 * np.abs(logits).max())
