"""The trained network of every scaling and range against PyTorch: one forward pass by theory §§1, 3 and autograd."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bbdfield.lattice.training import LatticeSystem
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.ranges import Derivative, Kernel, Taps
from bbdfield.model.scalings import SCALINGS
from bbdfield.model.units import to_lattice
from solvers.padding import PADDINGS

KAPPA, LENGTH = 0.7, 0.12
RANGES = {
    "kernel": lambda tied: Kernel("1/4", tied),
    "taps": lambda tied: Taps(5, tied),
    "derivative": lambda tied: Derivative(LENGTH, tied),
}


def system_of(signals, problems, scaling, reach, tied, padding, **changes):
    base = problems.lattice(padding=padding, depth=5, **changes)
    kappa = KAPPA if scaling == "critical" else None
    lattice = dataclasses.replace(base, scaling=scaling, range=RANGES[reach](tied), kappa=kappa)
    mean = (0.3, 0.1, 0.05) if reach == "derivative" else None
    spread = (1.0, 1.0, 0.2) if reach == "derivative" else None
    fields = InitialFields(lattice, seed=4, weight=0.5, bias=0.7, mean=mean, spread=spread).on(lattice.grid)
    return LatticeSystem(lattice, Boundary.draw(signals, lattice, problems.training()), to_lattice(fields))


def logits_of(lattice, z, theta, b, r):
    """The network in torch: θ (M, [N], C, P, C) -> taps -> M layers -> readout, neighbour by neighbour."""
    n, a_y = lattice.width, 1 / lattice.width
    if lattice.range.name == "derivative":
        moments = theta.unbind(-2)
        first, second = LENGTH / (2 * a_y), (LENGTH / a_y) ** 2
        left = -first * moments[1] + second * moments[2]
        right = first * moments[1] + second * moments[2]
        taps = [left, moments[0] - 2 * second * moments[2], right]
    else:
        taps = list(theta.unbind(-2))
    reach = len(taps) // 2
    r_0 = (3 * KAPPA * lattice.length_x / lattice.depth) ** -0.5
    for m in range(lattice.depth):
        s = r_0 * torch.tanh(z / r_0) if lattice.scaling == "critical" else torch.tanh(z)
        following = z if lattice.scaling == "residual" else torch.zeros_like(z)
        for tap, w in enumerate(taps):
            k = tap - reach
            if lattice.padding == "circular":
                beside = torch.roll(s, -k, dims=0)
            else:
                at = torch.arange(n) + k
                mirrored = torch.where(at < 0, -1 - at, torch.where(at >= n, 2 * n - 1 - at, at))
                inside = ((at >= 0) & (at < n)).to(s.dtype)[:, None, None]
                beside = s[mirrored] if lattice.padding == "reflect" else s[mirrored] * inside
            following = following + torch.einsum("ab,ybs->yas" if w.ndim == 3 else "yab,ybs->yas", w[m], beside)
        z = following + b[m][..., None]
    y = (torch.arange(n, dtype=torch.float64) + 0.5) * a_y
    modes = torch.cos(torch.pi * torch.outer(torch.arange(r.shape[-1]), y))
    return a_y * torch.einsum("kcj,jy,ycs->sk", r, modes, z)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("reach", RANGES)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_loss_gradient_and_logits_are_pytorchs(signals, problems, scaling, reach, padding, tied):
    system = system_of(signals, problems, scaling, reach, tied, padding)
    index = system.boundary.batch(0)
    loss, gradients = system.gradient(system.u, index)
    parameters = [torch.tensor(part, requires_grad=True) for part in system.u]
    z0 = torch.tensor(system.boundary.input(index, system.lattice.width))
    expected = torch.nn.functional.cross_entropy(
        logits_of(system.lattice, z0, *parameters), torch.tensor(signals.y[index])
    )
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    for name, found, parameter in zip("wbr", gradients, parameters, strict=True):
        reference = parameter.grad.numpy()
        assert found.shape == reference.shape
        assert np.abs(reference).max() > 1e-4, name
        np.testing.assert_allclose(found, reference, rtol=0, atol=1e-12 * np.abs(reference).max(), err_msg=name)
    with torch.no_grad():
        z0 = torch.tensor(system.boundary.lifted(signals.x_test, system.lattice.width))
        logits = logits_of(system.lattice, z0, *parameters).numpy()
    np.testing.assert_allclose(system.logits(signals.x_test), logits, rtol=0, atol=1e-13 * np.abs(logits).max())


@pytest.mark.parametrize("scaling", SCALINGS)
def test_training_of_moments_is_pytorchs(signals, problems, scaling):
    """Five SGD steps with one learning rate per group: the moments are what is trained, not the taps."""
    system = system_of(signals, problems, scaling, "derivative", False, "circular")
    parameters = [torch.tensor(part, requires_grad=True) for part in system.u]
    slower = 0.004 if scaling == "plain" else 0.1  # rates for which rounding is not amplified
    rates = {name: slower * getattr(system.rates, name) for name in "wbr"}
    system.rates = dataclasses.replace(system.rates, **rates)
    groups = [{"params": [p], "lr": rate} for p, rate in zip(parameters, rates.values(), strict=True)]
    optimizer = torch.optim.SGD(groups)
    start = [part.copy() for part in system.u]
    for k in range(5):
        index = system.boundary.batch(k)
        z0 = torch.tensor(system.boundary.input(index, system.lattice.width))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            logits_of(system.lattice, z0, *parameters), torch.tensor(signals.y[index])
        )
        loss.backward()
        optimizer.step()
        assert system.step(k)["loss"] == pytest.approx(loss.item(), rel=1e-11)
    for found, parameter, before in zip(system.u, parameters, start, strict=True):
        expected = parameter.detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        assert np.abs(expected - before).max() > 1e-3 * np.abs(expected).max()
