"""The linearised bulk of given networks and fields, layer by layer.

Lattice, about a trajectory z (exact; every layer is a map of its own):

    δz[m+1] = s δz[m] + 𝒲[m] (σ_a'(z[m]) δz[m])

Field, about a solution ẑ of ∂_xẑ = G_n[ẑ; ŵ, b̂]: the tangent of the solver's own step over each cell of its grid,

    ∂_x δẑ = (∂G_n/∂ẑ) δẑ

The two have nothing in common but W ↔ ŵ, so that comparing their rates tests the field theory. In the limit a_x → 0 of
the residual scaling, T = P exp ∫ 𝒦[ŵ] diag σ'(ẑ) dx (ordered in depth).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bbdfield.errors import InputError
from bbdfield.model.activations import Activation, get_activation
from bbdfield.model.architecture import FieldState
from bbdfield.model.regularisation import Regularised, cutoff_matrix
from bbdfield.model.run import Run
from bbdfield.model.scalings import WidthOperator
from bbdfield.propagation.transfer import Layer, Transfer
from solvers.grids import Grid
from solvers.sweeps import DepthMarch, Sweep, get_scheme
from solvers.width import KernelOperator

Array = npt.NDArray[np.float64]


# the lattice


def linearised_network(
    w: Sequence[Array] | Array,
    z: Sequence[Array] | Array,
    activation: str | Activation = "tanh",
    *,
    skip: float = 1.0,
    padding: str = "zeros",
    x: Array | None = None,
) -> Transfer:
    """The layers of a network as plain arrays.

    Parameters
    ----------
    w : W[m], M of them: dense (N·C, N·C), a tied convolution (C, T, C) or an untied one (N, C, T, C), T odd.
    z : z[m] (N, C, B) at the M + 1 sites (the last one is not used and may be missing).
    activation, skip, padding : σ_a, s, and what lies beyond the edges (convolutions).
    x : sites (M + 1,); default 0 … M, so that rates are per layer.

    Raises
    ------
    InputError
        if shapes do not belong together.
    """
    sigma = activation if isinstance(activation, Activation) else get_activation(activation)
    depth = len(w)
    if len(z) not in (depth, depth + 1):
        raise InputError(f"linearised network: {depth} layers need z at {depth} or {depth + 1} sites, not {len(z)}")
    shape = np.shape(z[0])
    layers = [_lattice_layer(np.asarray(w[m]), sigma.df(np.asarray(z[m])), skip, padding) for m in range(depth)]
    return Transfer(layers, np.arange(depth + 1.0) if x is None else x, shape)


def _lattice_layer(w: Array, slope: Array, skip: float, padding: str) -> Layer:
    cells, channels, _ = shape = slope.shape
    if w.ndim == 2:
        if w.shape != (cells * channels,) * 2:
            raise InputError(f"linearised network: a dense layer on {cells} x {channels} units is not {w.shape}")

        def flat(matrix: Array, v: Array) -> Array:
            return (matrix @ v.reshape(cells * channels, -1)).reshape(v.shape)

        return Layer(lambda v: skip * v + flat(w, slope * v), lambda g: skip * g + slope * flat(w.T, g))
    taps = w.shape[-2] if w.ndim in (3, 4) else 0
    if taps % 2 == 0 or w.shape not in ((channels, taps, channels), (cells, channels, taps, channels)):
        raise InputError(f"linearised network: W of shape {w.shape} does not act on z of shape {shape}")
    # cells of length 1: the quadrature over the kernel is the plain sum over taps
    grid = Grid(1, cells, 1.0, float(cells))
    operator = KernelOperator(np, grid, taps / 2, tied=w.ndim == 3, padding=padding)
    return Layer(
        lambda v: skip * v + operator.apply(w, slope * v),
        lambda g: skip * g + slope * operator.adjoint_state(w, g),
    )


# fields


def linearised_field(
    state: FieldState,
    z0: Array,
    *,
    order: int,
    scheme: str = "rk4",
    width_order: int | None = None,
    stencil: int = 4,
    cutoff: bool = False,
) -> Transfer:
    """The linearised field equation of order n about the solution that starts from ẑ(0, y) = `z0` (n_y, C, B).

    width_order, stencil : of the width operator, as for `bbdfield.fields.simulation.simulate`.
    cutoff : the equation is projected onto the waves that the lattice has, |q| <= π/a_y, and so are perturbations.
    """
    lattice, grid = state.lattice, state.grid
    operator = lattice.range.operator(np, grid, lattice.a_y, lattice.padding, width_order, stencil)
    equation: Any = lattice.law.bulk(order, _FixedWeights(operator), get_activation(lattice.activation), lattice.a_x)
    project: Callable[[Any], Any] | None = None
    if cutoff:
        equation = Regularised(equation, np, cutoff_matrix(grid, lattice.padding, lattice.a_y))
        project = equation.project
    march = DepthMarch(equation, grid, get_scheme(scheme))
    nodes = tuple(
        np.tensordot(march.reconstruction.interpolation, part, axes=1) if march.scheme.nodal else part
        for part in (np.asarray(state.w), np.asarray(state.b))
    )
    sweep = march.forward(project(z0) if project else np.ascontiguousarray(z0), nodes)
    one_cell = DepthMarch(equation, Grid(1, grid.n_y, grid.h_x, grid.length_y), march.scheme)
    width = 3 if march.scheme.nodal else 1
    layers = []
    for cell in range(grid.n_x):
        first = march.reconstruction.node_index(cell, 0)
        c = tuple(part[first : first + width] for part in nodes)
        layers.append(_field_layer(one_cell, Sweep([], [sweep.tapes[cell]]), c))
    if project:
        layers[0] = _after(project, layers[0])
    return Transfer(layers, grid.x_sites, z0.shape)


def _field_layer(march: DepthMarch, sweep: Sweep, c: tuple[Any, ...]) -> Layer:
    still = (_Still(), np.zeros_like(c[1]))

    def forget(node: int, cotangents: tuple[Any, ...]) -> None:
        """Gradients of the coefficients are not wanted."""

    return Layer(
        lambda v: march.tangent(sweep, c, v, still)[-1],
        lambda g: march.adjoint(sweep, c, g, forget)[0],
    )


class _Still:
    """δŵ = 0 at every node."""

    def __getitem__(self, node: Any) -> _Still:
        return self


class _FixedWeights:
    """A width operator that spends nothing on δŵ = 0 and on gradients with respect to ŵ."""

    def __init__(self, operator: WidthOperator) -> None:
        self.operator, self.xp = operator, operator.xp
        self.adjoint_state, self.symbol, self.bounded = operator.adjoint_state, operator.symbol, operator.bounded

    def apply(self, w: Any, s: Any) -> Any:
        return 0.0 if isinstance(w, _Still) else self.operator.apply(w, s)

    def adjoint_weights(self, s: Any, g: Any) -> Any:
        return 0.0


def _after(project: Callable[[Any], Any], layer: Layer) -> Layer:
    return Layer(lambda v: layer.forward(project(v)), lambda g: project(layer.transpose(g)))


# recorded runs


def linearised_run(run: Run, i: int, samples: slice | Sequence[int] = slice(None)) -> Transfer:
    """Lattice or field of a recorded run at snapshot i, about its own solution on (some of) the probe samples."""
    z = run.z(i)[..., samples]
    if run.kind == "lattice":
        lattice = run.lattice
        theta, taps = run.trajectory.fields["w"][i], lattice.range.taps(lattice.a_y)
        w = theta if taps is None else np.einsum("kp,...apb->...akb", taps, theta)
        sigma = lattice.law.activation(get_activation(lattice.activation), lattice.a_x)
        x = lattice.grid.x_sites
        return linearised_network(w, z, sigma, skip=lattice.law.skip, padding=lattice.padding, x=x)
    theory = dict(run.config["field"])
    try:
        order, scheme = theory["order"], theory["depth_scheme"]
    except KeyError as error:
        raise InputError(f"{run.path}: its configuration has no field.{error.args[0]}; record the run again") from error
    options = {key: theory[key] for key in ("width_order", "stencil") if key in theory}
    cutoff = theory.get("ill_posed") == "cutoff"
    return linearised_field(run.fields(i), z[0], order=order, scheme=scheme, cutoff=cutoff, **options)
