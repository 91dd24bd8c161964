"""At fixed weights one lattice of depth M approaches the field of order n as a_x^{n+1}, over all sites."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield.lattice.network import forward
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import FieldState
from bbdfield.model.initial import InitialFields
from bbdfield.model.scalings import Residual
from bbdfield.model.units import to_lattice
from solvers.grids import Grid
from solvers.padding import PADDINGS
from solvers.sweeps import SCHEMES, DepthMarch
from solvers.width import KernelOperator

DEPTHS = (24, 48, 96)
FINE = 96  # cells of the field, marched with the fourth-order scheme


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("activation", ["tanh", "gelu", "softplus"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_lattice_approaches_the_field_one_order_faster_than_the_theorys(
    problems, fitted_order, order, activation, tied, padding
):
    base = problems.lattice(activation=activation, tied=tied, padding=padding)
    initial = InitialFields(base, seed=1, weight=1.5, bias=0.7, correlation_x=0.5)
    z0 = np.random.default_rng(2).standard_normal((base.width, base.channels, 2))
    errors = []
    for depth in DEPTHS:
        lattice = base.at(depth, base.width)
        state: FieldState = initial.on(lattice.grid, lattice)
        discrete = to_lattice(state)
        z = forward(z0, discrete.w, discrete.b, get_activation(activation), padding)

        grid = Grid(FINE, base.width)
        operator = KernelOperator(np, grid, base.range.radius, tied=tied, padding=padding)
        equation = Residual().bulk(order, operator, get_activation(activation), lattice.a_x)
        march = DepthMarch(equation, grid, SCHEMES["rk4"])
        field = initial.on(grid, lattice)
        nodes = tuple(np.tensordot(march.reconstruction.interpolation, part, 1) for part in (field.w, field.b))
        sites = np.stack(march.forward(z0, nodes, keep=False).z)[:: FINE // depth]
        assert sites.shape == z.shape
        errors.append(np.linalg.norm(sites - z) / np.linalg.norm(z))
    assert abs(fitted_order(1 / np.array(DEPTHS), errors) - (order + 1)) < 0.1, errors
