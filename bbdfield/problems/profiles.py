"""Smooth weights of any range for which the field equation is well posed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bbdfield.model.architecture import Lattice
from bbdfield.model.ranges import Derivative, Kernel


@dataclass(frozen=True)
class Profile:
    """ŵ as a function of its component p: called with p of any shape (..., P), it gives (..., C, P, C).

    Kernels are (A + B cos(πp/r) + D sin(πp/2r)) / 2r with random matrices. Side taps are 0.6 + a small symmetric
    matrix and moments are ŵ_1 symmetric, ŵ_2 = 0.5 + a small symmetric matrix: real speeds, positive diffusion.
    """

    table: np.ndarray
    radius: float | None

    @classmethod
    def draw(cls, lattice: Lattice, seed: int, even: bool = False) -> Profile:
        """`even` : the same for ±u (as waves between reflecting edges need); the plain scaling gets smaller row sums,
        and no second moment (1 + 𝒦σ' would be singular).
        """
        rng = np.random.default_rng([17, seed])
        c, plain = lattice.channels, not lattice.law.limit
        kind = lattice.range
        one = np.eye(c)

        def matrix(scale: float, symmetric: bool = False) -> np.ndarray:
            drawn = rng.uniform(-1, 1, (c, c)) / np.sqrt(c)
            return scale * ((drawn + drawn.T) / 2 if symmetric else drawn)

        scale = 0.6 if plain else 3.0
        if isinstance(kind, Kernel):
            table = np.stack([matrix(scale), matrix(scale), matrix(0.0 if even else scale)])
            return cls(table / (2 * kind.radius), kind.radius)
        if isinstance(kind, Derivative):
            first, second = matrix(0.8, symmetric=True), 0.5 * one + matrix(0.2, symmetric=True)
            return cls(
                np.stack([matrix(scale), 0.0 * first if even else first, 0.0 * second if plain else second]), None
            )
        count = kind.components(lattice.grid).size
        side = (0.2 if plain else 0.6) * one
        taps = [side + matrix(0.3 if plain else 0.4, symmetric=True) for _ in range(count)]
        taps[count // 2] = matrix(scale)
        table = np.stack(taps)
        return cls((table + table[::-1]) / 2 if even else table, None)

    def __call__(self, p: np.ndarray) -> np.ndarray:
        p = np.asarray(p, float)
        if self.radius is None:
            return np.moveaxis(np.broadcast_to(self.table, (*p.shape[:-1], *self.table.shape)), -3, -2)
        angle = np.pi * p / self.radius
        waves = np.stack([np.ones_like(p), np.cos(angle), np.sin(angle / 2)])
        return np.moveaxis(np.tensordot(waves, self.table, axes=(0, 0)), -3, -2)
