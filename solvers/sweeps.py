"""Marching in depth: explicit Runge-Kutta schemes for ∂_x z = G(z; c(x)), with tangent and exact discrete adjoint.

A scheme is a tableau (a, b) and, for each stage, where in the cell its coefficients are taken: 0 = left site, 1 = link
(cell midpoint), 2 = right site. Schemes that only use the link see the coefficients as constant on each cell, which
caps their order at 2; RK4 takes them at sites too, from `NodeReconstruction`.

The right-hand side is any object with

    value(z, c) -> (G, tape)         tangent(tape, c, dz, dc) -> dG         adjoint(tape, c, g) -> (gᵀ∂G/∂z, gᵀ∂G/∂c)

where c is a tuple of arrays. `tape` is whatever it wants to remember.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from solvers.errors import InputError
from solvers.grids import Grid
from solvers.interpolation import interpolation_matrix

Array = Any
Coefficients = tuple[Array, ...]


class RightHandSide(Protocol):
    def value(self, z: Array, c: Coefficients) -> tuple[Array, Any]: ...
    def tangent(self, tape: Any, c: Coefficients, dz: Array, dc: Coefficients) -> Array: ...
    def adjoint(self, tape: Any, c: Coefficients, g: Array) -> tuple[Array, Coefficients]: ...


@dataclass(frozen=True)
class DepthScheme:
    """An explicit Runge-Kutta scheme; tests/convergence measure its `order` for smooth coefficients and activations.

    `real_limit` is the length of the stability interval on the negative real axis: steps need h |∂G/∂z| below it.
    """

    name: str
    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    nodes: tuple[int, ...]
    real_limit: float

    @property
    def nodal(self) -> bool:
        """Whether stages need coefficients at sites, not only on links."""
        return any(node != 1 for node in self.nodes)


EULER = DepthScheme("euler", 1, ((),), (1.0,), (1,), 2.0)
MIDPOINT = DepthScheme("midpoint", 2, ((), (0.5,)), (0.0, 1.0), (1, 1), 2.0)
# the classical fourth-order scheme (Kutta 1901)
_RK4_STAGES = ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0))
RK4 = DepthScheme("rk4", 4, _RK4_STAGES, (1 / 6, 1 / 3, 1 / 3, 1 / 6), (0, 1, 1, 2), 2.785)
SCHEMES = {scheme.name: scheme for scheme in (EULER, MIDPOINT, RK4)}


def get_scheme(name: str) -> DepthScheme:
    if name not in SCHEMES:
        raise InputError(f"depth scheme '{name}' does not exist; use one of {', '.join(SCHEMES)}")
    return SCHEMES[name]


@dataclass(frozen=True)
class NodeReconstruction:
    """Coefficients where the stages need them, from their values on the links, and the gradient back on the links.

    Link schemes use the link values themselves. RK4 gets them at the 2 n_x + 1 half-points (sites and links in turn) by
    sixth-order interpolation P. The loss then depends on the link values through P, and its functional gradient in the
    space of reconstructed functions is M⁻¹Pᵀḡ with the mass matrix M = PᵀQP of the scheme's own quadrature Q: without M
    the one-sided stencils at the ends would spoil the gradient there.

    Measured order of RK4's gradient: 4 away from the ends and against smooth directions; 3 at the first and last links,
    where the third-order stage values have no neighbouring cell to cancel against, so 3.5 in L2 over the whole depth.
    """

    grid: Grid
    scheme: DepthScheme
    points: int = 6

    @cached_property
    def interpolation(self) -> np.ndarray:
        """P: (nodes, n_x)."""
        if not self.scheme.nodal:
            return np.eye(self.grid.n_x)
        half_points = np.arange(2 * self.grid.n_x + 1) * self.grid.length_x / (2 * self.grid.n_x)
        matrix = interpolation_matrix(self.grid.x_links, half_points, self.points)
        matrix[1::2] = np.eye(self.grid.n_x)
        return matrix

    @cached_property
    def quadrature(self) -> np.ndarray:
        """Q: the scheme's weight of each node, Σ = L_x."""
        weights = np.zeros(self.interpolation.shape[0])
        for weight, node in zip(self.scheme.b, self.scheme.nodes, strict=True):
            weights[self.node_index(np.arange(self.grid.n_x), node)] += weight * self.grid.h_x
        return weights

    @cached_property
    def mass(self) -> np.ndarray:
        """M = PᵀQP, the L2 inner product of reconstructed functions under the scheme's quadrature."""
        return self.interpolation.T @ (self.quadrature[:, None] * self.interpolation)

    @cached_property
    def gradient_map(self) -> np.ndarray:
        """M⁻¹Pᵀ: cotangents at the nodes -> functional gradient on the links."""
        if not self.scheme.nodal:
            return np.eye(self.grid.n_x) / self.grid.h_x
        return np.linalg.solve(self.mass, self.interpolation.T)

    def node_index(self, cell: Any, node: int) -> Any:
        """Index of a stage's node among the reconstructed values."""
        return 2 * cell + node if self.scheme.nodal else cell


@dataclass
class Sweep:
    """What a forward march leaves behind: z at the sites and the stages' tapes."""

    z: list[Array]
    tapes: list[list[Any]]


class DepthMarch:
    """One scheme on one grid for one right-hand side.

    Coefficients are tuples of arrays whose first axis runs over the reconstruction's nodes.
    """

    def __init__(self, rhs: RightHandSide, grid: Grid, scheme: DepthScheme) -> None:
        self.rhs, self.grid, self.scheme = rhs, grid, scheme
        self.reconstruction = NodeReconstruction(grid, scheme)

    def _stages(self, cell: int) -> list[int]:
        return [self.reconstruction.node_index(cell, node) for node in self.scheme.nodes]

    def forward(self, z0: Array, c: Coefficients, *, keep: bool = True, cells: range | None = None) -> Sweep:
        """z at all sites; `keep=False` drops the tapes (no adjoint will be asked for).

        cells : a part of the depth, in which case z0 is z at its first site.
        """
        h, z = self.grid.h_x, z0
        sites, tapes = [z0], []
        for cell in range(self.grid.n_x) if cells is None else cells:
            slopes: list[Array] = []
            stage_tapes = []
            for row, node in zip(self.scheme.a, self._stages(cell), strict=True):
                slope, tape = self.rhs.value(_combine(z, h, row, slopes), tuple(part[node, ...] for part in c))
                slopes.append(slope)
                stage_tapes.append(tape)
            z = _combine(z, h, self.scheme.b, slopes)
            sites.append(z)
            if keep:
                tapes.append(stage_tapes)
        return Sweep(sites, tapes)

    def tangent(self, sweep: Sweep, c: Coefficients, dz0: Array, dc: Coefficients) -> list[Array]:
        """Directional derivative of `forward` at all sites."""
        h, dz = self.grid.h_x, dz0
        sites = [dz0]
        for cell in range(self.grid.n_x):
            slopes: list[Array] = []
            for stage, (row, node) in enumerate(zip(self.scheme.a, self._stages(cell), strict=True)):
                at = tuple(part[node, ...] for part in c)
                direction = tuple(part[node, ...] for part in dc)
                tape = sweep.tapes[cell][stage]
                slopes.append(self.rhs.tangent(tape, at, _combine(dz, h, row, slopes), direction))
            dz = _combine(dz, h, self.scheme.b, slopes)
            sites.append(dz)
        return sites

    def adjoint(
        self,
        sweep: Sweep,
        c: Coefficients,
        lam: Array,
        add: Callable[[int, Coefficients], None],
        *,
        cells: range | None = None,
    ) -> list[Array]:
        """The exact transpose of `tangent` for a cotangent `lam` on the last site.

        Calls `add(node, cotangents)` with the cotangent of the coefficients at a node, once per stage; returns λ at all
        sites (of `cells`, if `sweep` is of a part of the depth). Formulas: reverse mode of z' = z + h Σ b_i k_i,
        k_i = G(z + h Σ_j a_ij k_j).
        """
        h, scheme = self.grid.h_x, self.scheme
        sites = [lam]
        cells = range(self.grid.n_x) if cells is None else cells
        for cell in reversed(cells):
            nodes, tapes = self._stages(cell), sweep.tapes[cell - cells.start]
            cotangents: list[Array | None] = [None] * len(nodes)
            total = lam
            for i in reversed(range(len(nodes))):
                terms = [(scheme.b[i], lam)] + [
                    (scheme.a[j][i], cotangents[j]) for j in range(i + 1, len(nodes)) if cotangents[j] is not None
                ]
                terms = [(weight, value) for weight, value in terms if weight]
                if not terms:
                    continue
                slope_bar = (h * terms[0][0]) * terms[0][1]
                for weight, value in terms[1:]:
                    slope_bar = slope_bar + (h * weight) * value
                at = tuple(part[nodes[i], ...] for part in c)
                z_bar, c_bar = self.rhs.adjoint(tapes[i], at, slope_bar)
                add(nodes[i], c_bar)
                cotangents[i] = z_bar
                total = total + z_bar
            lam = total
            sites.append(lam)
        return sites[::-1]


def _combine(z: Array, h: float, weights: Sequence[float], slopes: Sequence[Array]) -> Array:
    """z + h Σ weights·slopes, skipping zero weights."""
    for weight, slope in zip(weights, slopes, strict=False):
        if weight:
            z = z + (h * weight) * slope
    return z
