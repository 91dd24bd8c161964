"""Manufactured solutions: choose ẑ and ŵ, and let b̂ be what makes ẑ a solution, for any range and scaling."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bbdfield.errors import InputError
from bbdfield.model.activations import Activation, get_activation
from bbdfield.model.ranges import Kernel
from bbdfield.model.scalings import Critical
from bbdfield.problems.base import Problem, modulation, points
from bbdfield.problems.operators import act
from bbdfield.problems.profiles import Profile
from solvers.grids import Grid


@dataclass(frozen=True)
class Manufactured(Problem):
    """One sample ẑ(x, y) = Σ_j A_cj cos(β_cj x + α_cj) cos(q_j y + φ_cj) that continues smoothly beyond the edges (q =
    2πj/L_y; reflecting edges: q = πj/L_y, φ = 0), weights ŵ = g(x)h(y)ŵ(p) (tied: h = 1), and

        residual, order 0      b̂ = ∂_xẑ − 𝒦[ŵ]σ(ẑ)
        critical, order 0      b̂ = ∂_xẑ − 𝒦[ŵ]ẑ + κẑ³
        plain, order 1         b̂ = ẑ − 𝒦[ŵ]σ(ẑ) + (a_x/2)(∂_xẑ + 𝒦[ŵ](σ'(ẑ)∂_xẑ))

    with the exact 𝒦 (`bbdfield.problems.operators`). Order 1 of the others has b̂ inside 𝒦 and no such formula.
    With zero padding (kernels) integrals end at the edges; local ranges see a jump there and have no smooth solution.

    on_cells : take 𝒦 in b̂ as the operator of the grid itself. ẑ on the cells then solves the equation whose width is
    the grid's, and the error of a march is that of its depth alone.
    """

    modes: int = 2
    seed: int = 0
    on_cells: bool = False

    def __post_init__(self) -> None:
        if self.lattice.padding == "zeros" and not isinstance(self.lattice.range, Kernel):
            raise InputError(
                f'Manufactured: lattice.padding = "zeros": range = "{self.lattice.range.name}" sees a jump at the edge;'
                ' use "circular" or "reflect"'
            )
        if not self.lattice.law.limit and self.lattice.range.width_orders and self.width_order not in (0, 1):
            raise InputError(
                "Manufactured: width_order: the plain scaling with second derivatives is singular; use 0 or 1"
            )

    @property
    def orders(self) -> tuple[int, ...]:
        return self.lattice.law.orders[:1]

    # the solution

    @cached_property
    def _draws(self) -> np.ndarray:
        """A, α, β, φ: (4, C, modes + 1)."""
        rng = np.random.default_rng([31, self.seed])
        shape = (self.lattice.channels, self.modes + 1)
        amplitude = rng.uniform(0.3, 0.6, shape) / (1 + np.arange(self.modes + 1)) ** 1.5
        phase = np.zeros(shape) if self.lattice.padding == "reflect" else rng.uniform(0, 2 * np.pi, shape)
        speed = rng.uniform(1.5, 2.5, shape) / self.lattice.length_x
        return np.stack([amplitude, rng.uniform(0, 2 * np.pi, shape), speed, phase])

    def _z(self, x: float, y: np.ndarray, along_x: int = 0, along_y: int = 0) -> np.ndarray:
        """∂_x^i ∂_y^j ẑ at one x and y of any shape: (*shape, C)."""
        amplitude, alpha, beta, phi = self._draws
        q = (np.pi if self.lattice.padding == "reflect" else 2 * np.pi) * np.arange(self.modes + 1)
        q = q / self.lattice.length_y
        in_x = beta**along_x * np.cos(beta * x + alpha + along_x * np.pi / 2)
        in_y = q**along_y * np.cos(q * y[..., None, None] + phi + along_y * np.pi / 2)
        return np.sum(amplitude * in_x * in_y, axis=-1)

    def exact(self, x: Any, y: Any, order: int | None = None) -> np.ndarray:
        self._order(order)
        return np.stack([self._z(at, points(y)) for at in points(x)])[..., None]

    # its coefficients

    @cached_property
    def profile(self) -> Profile:
        return Profile.draw(self.lattice, self.seed)

    def _amplitude(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """g(x) h(y), (n_x, n_y or 1)."""
        g = modulation(x, self.lattice.length_x, 0.4)[:, None]
        q, phase = (np.pi, 0.0) if self.lattice.padding == "reflect" else (2 * np.pi, 0.5)
        return g if self.lattice.range.tied else g * (1 + 0.3 * np.cos(q * y / self.lattice.length_y + phase))

    def weights(self, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
        return self._amplitude(x, y)[..., None, None, None] * self.profile(p)

    def bias(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.stack([self._bias(float(at), y) for at in x])

    def _bias_on(self, grid: Grid, w: np.ndarray) -> np.ndarray:
        if not self.on_cells:
            return super()._bias_on(grid, w)
        operator = self.operator(grid)

        def on_link(x: float, w_x: np.ndarray) -> np.ndarray:
            return self._balance(x, grid.y, lambda s: operator.apply(w_x, s(grid.y, 0)[..., None])[..., 0])

        return np.stack([on_link(float(x), w_x) for x, w_x in zip(grid.x_links, w, strict=True)])

    def _bias(self, x: float, y: np.ndarray) -> np.ndarray:
        amplitude = self._amplitude(np.full(1, x), y)[0][:, None, None, None]

        def k(values: Any) -> np.ndarray:
            return act(self.lattice, lambda p: amplitude * self.profile(p), values, y, self.width_order)

        return self._balance(x, y, k)

    def _balance(self, x: float, y: np.ndarray, k: Any) -> np.ndarray:
        """b̂ at one x, (n_y, C); k takes (y, n) -> ∂_y^n s to 𝒦s at y."""
        law, z, z_x = self.lattice.law, self._z(x, y), self._z(x, y, along_x=1)
        if isinstance(law, Critical):
            return z_x - k(lambda at, n: self._z(x, at, along_y=n)) + law.kappa * z**3
        activation = get_activation(self.lattice.activation)
        passed = k(lambda at, n: self._composed(activation, x, at, n))
        if law.limit:
            return z_x - passed
        drift = k(lambda at, n: self._drift(activation, x, at, n))
        return z - passed + self.lattice.a_x / 2 * (z_x + drift)

    def _composed(self, activation: Activation, x: float, y: np.ndarray, n: int) -> np.ndarray:
        """∂_y^n σ(ẑ), n <= 2."""
        z = self._z(x, y)
        if n == 0:
            return activation.f(z)
        z_y = self._z(x, y, along_y=1)
        if n == 1:
            return activation.df(z) * z_y
        return activation.d2f(z) * z_y**2 + activation.df(z) * self._z(x, y, along_y=2)

    def _drift(self, activation: Activation, x: float, y: np.ndarray, n: int) -> np.ndarray:
        """∂_y^n (σ'(ẑ) ∂_xẑ), n <= 1 (a second moment makes 1 + 𝒦σ' singular)."""
        z, z_x = self._z(x, y), self._z(x, y, along_x=1)
        if n == 0:
            return activation.df(z) * z_x
        if n > 1:
            return np.zeros_like(z)
        mixed = activation.df(z) * self._z(x, y, along_x=1, along_y=1)
        return activation.d2f(z) * self._z(x, y, along_y=1) * z_x + mixed
