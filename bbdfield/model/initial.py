"""Initial fields: smooth Gaussian random functions, drawn once and sampled onto every grid.

A random function on [0, L] with correlation length ℓ, of unit variance on average over [0, L], is the cosine series

    g(x) = Σ_n c_n cos(π n x / L),    c_n ~ N(0, (2 − δ_n0) S_n),    S_n ∝ exp(−(π n ℓ / L)² / 2),  Σ S_n = 1,

whose correlation away from the ends is exp(−Δ²/2ℓ²); in several coordinates it is the product of such series.
Coefficients are drawn before any grid is known, so that all lattices and the field start from one function.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bbdfield.errors import InputError
from bbdfield.model.architecture import FieldState, Lattice
from solvers.grids import Grid

#: independent random streams of one seed; the numbers are part of the file format (changing them changes every run)
STREAM_FIELDS, STREAM_SAMPLES, STREAM_LIFT = 0, 1, 2


def cosine_amplitudes(length: float, correlation: float) -> np.ndarray:
    """Standard deviations of c_n, until S_n falls below 1e-16 of S_0."""
    count = int(np.ceil(np.sqrt(2 * 37.0) * length / (np.pi * correlation))) + 1
    n = np.arange(count)
    spectrum = np.exp(-((np.pi * n * correlation / length) ** 2) / 2)
    return np.sqrt(np.where(n > 0, 2.0, 1.0) * spectrum / spectrum.sum())


def cosine_basis(points: np.ndarray, length: float, count: int) -> np.ndarray:
    """cos(π n x / L): (points, count)."""
    return np.cos(np.pi * np.outer(points / length, np.arange(count)))


@dataclass(frozen=True)
class InitialFields:
    """Random initial ŵ, b̂ and R.

    correlation_x, correlation_u, correlation_y : correlation lengths (in the units of x and y; u is in units of y).
    weight : standard deviation of 2r ŵ √C (the row sum that a channel receives has it only for ℓ_u ≫ 2r); bias : of b̂;
    readout : of R √C.
    """

    lattice: Lattice
    seed: int = 0
    weight: float = 3.0
    bias: float = 0.0
    readout: float = 1.0
    correlation_x: float = 0.3
    correlation_u: float = 0.1
    correlation_y: float = 0.3

    def __post_init__(self) -> None:
        for key in ("weight", "bias", "readout"):
            value = getattr(self, key)
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"initial.{key} = {value!r}: needs a number >= 0")
        for key in ("correlation_x", "correlation_u", "correlation_y"):
            value = getattr(self, key)
            if not (np.isfinite(value) and value >= 1e-3):
                raise InputError(f"initial.{key} = {value!r}: needs a length >= 0.001")

    @cached_property
    def _amplitudes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        lattice = self.lattice
        return (
            cosine_amplitudes(lattice.length_x, self.correlation_x),
            cosine_amplitudes(2 * lattice.range.radius, self.correlation_u),
            cosine_amplitudes(lattice.length_y, self.correlation_y),
        )

    @cached_property
    def coefficients(self) -> dict[str, np.ndarray]:
        """Cosine coefficients of ŵ (n_x, [n_y], C, n_u, C), b̂ (n_x, n_y, C) and R itself."""
        lattice, channels = self.lattice, self.lattice.channels
        in_x, in_u, in_y = self._amplitudes
        rng = np.random.default_rng([self.seed, STREAM_FIELDS])
        scale = self.weight / (2 * lattice.range.radius * np.sqrt(channels))
        kernel = in_u[None, :, None] * np.ones((channels, 1, channels))
        if lattice.range.tied:
            deviations = in_x[:, None, None, None] * kernel
        else:
            deviations = in_x[:, None, None, None, None] * in_y[None, :, None, None, None] * kernel
        w = scale * deviations * rng.standard_normal(deviations.shape)
        r = rng.standard_normal((lattice.outputs, channels, lattice.readout_modes))
        deviations = in_x[:, None, None] * in_y[None, :, None] * np.ones(channels)
        b = self.bias * deviations * rng.standard_normal(deviations.shape)
        return {"w": w, "b": b, "r": self.readout / np.sqrt(channels) * r}

    def on(self, grid: Grid, lattice: Lattice | None = None) -> FieldState:
        """The fields at a grid's links, cells and taps, as the start of the theory of `lattice` (default: its own)."""
        lattice = lattice or self.lattice
        radius, c = lattice.range.radius, self.coefficients
        x = cosine_basis(grid.x_links, grid.length_x, c["w"].shape[0])
        y = cosine_basis(grid.y, grid.length_y, c["b"].shape[1])
        u = cosine_basis(grid.taps(radius) + radius, 2 * radius, c["w"].shape[-2])
        if lattice.range.tied:
            w = np.einsum("xi,uj,iajb->xaub", x, u, c["w"], optimize=True)
        else:
            w = np.einsum("xi,yl,uj,ilajb->xyaub", x, y, u, c["w"], optimize=True)
        b = np.einsum("xi,yl,ila->xya", x, y, c["b"], optimize=True)
        r = c["r"].copy()
        for part in (w, b, r):  # or `origin` could come to name something else; copy to change
            part.flags.writeable = False
        return FieldState(lattice, grid, w, b, r, self.to_config())

    def to_config(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "lattice"}
