"""Linear activation: fields are sums of waves, and each wave is a matrix exponential in depth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import expm

from bbdfield.errors import InputError
from bbdfield.model.scalings import Residual
from bbdfield.problems.base import Problem, modulation, modulation_integrals, points
from bbdfield.problems.operators import component_symbols, lattice_symbol, symbol
from bbdfield.problems.profiles import Profile
from solvers.grids import Grid


@dataclass(frozen=True)
class Linear(Problem):
    """∂_x ẑ = g(x)(𝒦ẑ + b(y)): σ(z) = z, weights ŵ = g(x) ŵ(p), any range, periodic or reflecting edges.

    A wave e^{iqy} (q = 2πj/L_y; between reflecting edges cos qy with q = πj/L_y and ŵ even in p) sees 𝒦 as its symbol
    K(q), a C × C matrix. With f = Kẑ + b, ∂_x f = K γ f, where all γ(x) are functions of the one matrix K:

        residual, order 0      γ = g                        D(x) = ∫_0^x γ = ∫g
        residual, order 1      γ = g − (a_x/2) g² K         D(x) = ∫g − (a_x/2) K ∫g²
        ẑ(x) = e^{KD} ẑ_0 + φ(KD) D b,                      φ(A) = (e^A − 1)/A
        plain, order 1         the same with K − 1 for K and D = (2x/a_x)(1 + K)^{−1} (constant weights, g = 1)
        lattice                z[m] = Π_j (1 + a_x g_j K_a) z[0] + …   (plain: K_a^m z[0] + …), K_a the taps' own symbol

    so that for one channel, g = 1 and b = 0 the lattice's (1 + a_x K)^m stands against e^{Kx}. For the loss
    ℓ = Σ_samples ∫ p(y)·ẑ(L_x, y) dy the adjoint is λ(x) = e^{K†(D(L_x) − D(x))†} p and, at order 0,

        δℓ/δb̂ = Σ_samples λ,        δℓ/δŵ_p = Σ_samples λ_c (𝒯_p ẑ)_c'    (tied: ∫dy)

    with 𝒯_p what component p does: a shift, or derivatives.

    modes : waves j = 0 … modes.   variation : of g(x) = 1 + v cos(πx/L_x).
    """

    modes: int = 2
    samples: int = 2
    variation: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        self._require(activation=("identity",), scaling=("residual", "plain"), padding=("circular", "reflect"))
        if not self.lattice.law.limit and self.variation:
            raise InputError(
                "Linear: variation: the plain scaling's solution needs weights constant in x, variation = 0"
            )

    @cached_property
    def q(self) -> np.ndarray:
        """Wave numbers (modes + 1,)."""
        turn = 2 * np.pi if self.lattice.padding == "circular" else np.pi
        return turn * np.arange(self.modes + 1) / self.lattice.length_y

    @cached_property
    def profile(self) -> Profile:
        return Profile.draw(self.lattice, self.seed, even=self.lattice.padding == "reflect")

    @cached_property
    def _amplitudes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of ẑ(0, y), of p(y) (modes + 1, C, B) and of b(y) (modes + 1, C, 1)."""
        rng = np.random.default_rng([23, self.seed])
        shape = (self.modes + 1, self.lattice.channels)

        def draw(count: int) -> np.ndarray:
            real, imaginary = rng.standard_normal((2, *shape, count))
            if self.lattice.padding == "reflect":
                return real + 0j
            imaginary[0] = 0.0
            return real + 1j * imaginary

        return draw(self.samples), draw(self.samples), draw(1)

    def weights(self, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
        return np.multiply.outer(modulation(x, self.lattice.length_x, self.variation), self.profile(p))[:, None]

    def bias(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        b = self._waves(self._amplitudes[2], y)[..., 0]
        return np.multiply.outer(modulation(x, self.lattice.length_x, self.variation), b)

    def exact(self, x: Any, y: Any, order: int | None = None) -> np.ndarray:
        k = symbol(self.lattice, self.profile, self.q, self.width_order)
        return self._waves(self._evolved(k, points(x), self._order(order)), points(y))

    def on_cells(self, x: Any, grid: Grid, order: int | None = None) -> np.ndarray:
        """The solution, exact in depth, of the equation whose width is the grid's: K(q) is that of its operator."""
        k = self.operator(grid).symbol(self.profile(self.lattice.range.components(grid)), self.q)
        return self._waves(self._evolved(k, points(x), self._order(order)), grid.y)

    def sites(self) -> np.ndarray:
        """z[m] of the lattice, (M + 1, N, C, B)."""
        lattice, k = self.lattice, lattice_symbol(self.lattice, self.profile, self.q)
        g = modulation(lattice.grid.x_links, lattice.length_x, self.variation)
        amplitudes, _, b = self._amplitudes
        z = [amplitudes]
        for g_m in g:
            unit = lattice.law.unit(lattice.a_x) * g_m
            z.append(lattice.law.skip * z[-1] + unit * (k @ z[-1] + b))
        return self._waves(np.stack(z), lattice.grid.y)

    def adjoint(self, x: Any, y: Any, order: int | None = None) -> np.ndarray:
        """λ (n_x, n_y, C, B) = δℓ/δẑ."""
        return self._waves(self._adjoint_amplitudes(points(x), self._order(order)), points(y))

    def gradient(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """(δℓ/δŵ, δℓ/δb̂) at order 0 on the links of a grid, in the shapes of `FieldState`."""
        if not isinstance(self.lattice.law, Residual):
            raise InputError(f'Linear: no gradient is known for lattice.scaling = "{self.lattice.scaling}"')
        x, p, lattice = grid.x_links, self.lattice.range.components(grid).astype(float), self.lattice
        k = symbol(lattice, self.profile, self.q, self.width_order)
        lam, z = self._adjoint_amplitudes(x, 0), self._evolved(k, x, 0)
        moved = np.einsum("qp,xqcs->xqpcs", component_symbols(lattice, p, self.q, self.width_order), z)
        y, weight = grid.y, np.ones(1)
        if lattice.range.tied:
            nodes, weight = np.polynomial.legendre.leggauss(40)
            y, weight = (nodes + 1) * lattice.length_y / 2, weight * lattice.length_y / 2
        lam_y, moved_y = self._waves(lam, y), self._waves(moved, y)
        g_b = self._waves(lam, grid.y).sum(axis=-1)
        if lattice.range.tied:
            return np.einsum("y,xycs,xypds->xcpd", weight, lam_y, moved_y), g_b
        return np.einsum("xycs,xypds->xycpd", lam_y, moved_y), g_b

    def end(self, grid: Grid) -> np.ndarray:
        """p(y) = λ(L_x, y) on a grid, (n_y, C, B)."""
        return self._waves(self._amplitudes[1], grid.y)

    def _generator(self, k: np.ndarray, x: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
        """(KD, D) at x, each (n_x, modes + 1, C, C)."""
        one = np.eye(k.shape[-1])
        if not self.lattice.law.limit:
            d = np.multiply.outer(2 * x / self.lattice.a_x, np.linalg.inv(one + k))
            return d @ (k - one), d
        first, second = modulation_integrals(x, self.lattice.length_x, self.variation)
        d = np.multiply.outer(first, np.broadcast_to(one, k.shape)).astype(complex)
        if order == 1:
            d = d - np.multiply.outer(0.5 * self.lattice.a_x * second, k)
        return k @ d, d

    def _evolved(self, k: np.ndarray, x: np.ndarray, order: int) -> np.ndarray:
        """Amplitudes of ẑ at x, (n_x, modes + 1, C, B): one exponential of ((KD, D b), (0, 0)) gives both terms."""
        a, d = self._generator(k, x, order)
        z0, _, b = self._amplitudes
        c = k.shape[-1]
        block = np.zeros((*a.shape[:2], c + 1, c + 1), complex)
        block[..., :c, :c], block[..., :c, c:] = a, d @ b
        flow = expm(block)
        return flow[..., :c, :c] @ z0 + flow[..., :c, c:]

    def _adjoint_amplitudes(self, x: np.ndarray, order: int) -> np.ndarray:
        k = symbol(self.lattice, self.profile, self.q, self.width_order)
        end = np.full(1, self.lattice.length_x)
        left = self._generator(k, end, order)[0] - self._generator(k, x, order)[0]
        return np.conj(np.swapaxes(expm(left), -1, -2)) @ self._amplitudes[1]

    def _waves(self, amplitudes: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(..., modes + 1, *rest) -> Re Σ_q A_q e^{iqy}, (..., n_y, *rest), with rest (C, B) or (P, C, B)."""
        waves = np.exp(1j * np.multiply.outer(y, self.q))
        axis = 0 if amplitudes.ndim == 3 else 1
        return np.moveaxis(np.tensordot(waves, amplitudes, axes=(1, axis)).real, 0, axis)
