"""Initial fields: Gaussian random functions, drawn once and sampled onto every grid.

Coefficients (`bbdfield.model.random_functions`) are drawn before any grid is known, so that all lattices and the field
start from one function. A correlation length of 0 means independent values on the lattice's own points: rough weights,
which no other grid can sample and no field theory describes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bbdfield.errors import InputError
from bbdfield.model.architecture import FieldState, Lattice
from bbdfield.model.random_functions import cosine_amplitudes, cosine_basis, periodic_amplitudes, periodic_basis
from solvers.grids import Grid

#: independent random streams of one seed; the numbers are part of the file format (changing them changes every run)
STREAM_FIELDS, STREAM_SAMPLES, STREAM_LIFT = 0, 1, 2


def _along(length: float, correlation: float, cells: int, periodic: bool = False) -> np.ndarray:
    """Standard deviations of the coefficients along one axis; independent values have one per cell."""
    if correlation == 0:
        return np.ones(cells)
    return (periodic_amplitudes if periodic else cosine_amplitudes)(length, correlation)


def _basis(points: np.ndarray, length: float, correlation: float, count: int, periodic: bool = False) -> np.ndarray:
    """Their functions at some points: (points, count)."""
    if correlation == 0:  # on other points than their own only if all coefficients are 0
        return np.eye(len(points), count)
    return (periodic_basis if periodic else cosine_basis)(points, length, count)


@dataclass(frozen=True)
class InitialFields:
    """Random initial ŵ, b̂ and R.

    correlation_x, correlation_u, correlation_y : correlation lengths (in the units of x and y; u, of kernels only, is
    in units of y); 0: independent from point to point of the lattice.
    weight : standard deviation of 2r ŵ √C for kernels (the row sum that a channel receives has it only for ℓ_u ≫ 2r),
    of ŵ_k √(T C) for taps, of ŵ_n √C for moments; bias : of b̂; readout : of R √C.
    mean : of ŵ, times δ_cc': per tap or moment; for kernels one number, the mean of 2r ŵ. spread : factor of `weight`
    per tap or moment. None: the range's own (moments: mean (0, 0, 1) and spread (1, 1, 0), else mean 0 and spread 1).

    Raises
    ------
    InputError
        for amplitudes or lengths out of their range, or lists of the wrong length.
    """

    lattice: Lattice
    seed: int = 0
    weight: float = 3.0
    bias: float = 0.0
    readout: float = 1.0
    correlation_x: float = 0.3
    correlation_u: float = 0.1
    correlation_y: float = 0.3
    mean: tuple[float, ...] | None = None
    spread: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for key in ("weight", "bias", "readout"):
            value = getattr(self, key)
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"initial.{key} = {value!r}: needs a number >= 0")
        for key in ("correlation_x", "correlation_u", "correlation_y"):
            value = getattr(self, key)
            if not (np.isfinite(value) and (value >= 1e-3 or value == 0)):
                raise InputError(f"initial.{key} = {value!r}: needs a length >= 0.001, or 0 for independent values")
        for key in ("mean", "spread"):
            if getattr(self, key) is not None:  # lists from files
                object.__setattr__(self, key, tuple(float(value) for value in getattr(self, key)))
        self.lattice.range.mean(self.lattice.grid, self.mean)
        self.lattice.range.spread(self.correlation_u, self.lattice.grid, self.spread)

    @property
    def _periodic(self) -> bool:
        """Whether fields are periodic in y, as the width is: with circular padding."""
        return self.lattice.padding == "circular"

    @cached_property
    def _amplitudes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        lattice = self.lattice
        return (
            _along(lattice.length_x, self.correlation_x, lattice.depth),
            lattice.range.spread(self.correlation_u, lattice.grid, self.spread),
            _along(lattice.length_y, self.correlation_y, lattice.width, self._periodic),
        )

    @cached_property
    def coefficients(self) -> dict[str, np.ndarray]:
        """Random coefficients of ŵ (n_x, [n_y], C, n_u, C), b̂ (n_x, n_y, C) and R itself."""
        lattice, channels = self.lattice, self.lattice.channels
        in_x, in_u, in_y = self._amplitudes
        rng = np.random.default_rng([self.seed, STREAM_FIELDS])
        scale = self.weight / np.sqrt(channels)
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

    @property
    def rough(self) -> tuple[str, ...]:
        """Axes ("x", "y", "u") along which the fields are independent values: u for kernels only, y where anything
        varies along it (untied weights or biases).
        """
        kernel, in_y = self.lattice.range.dimension == "u", not self.lattice.range.tied or self.bias > 0
        axes = {"x": True, "y": in_y, "u": kernel}
        return tuple(axis for axis, matters in axes.items() if matters and getattr(self, f"correlation_{axis}") == 0)

    def require_field(self) -> None:
        """Refuse independent values, of which there is no field theory (InputError)."""
        if self.rough:
            raise InputError(
                f"initial.correlation_{self.rough[0]} = 0: independent values are no field; coarse-grain them first, or"
                " give a correlation length"
            )

    def on(self, grid: Grid, lattice: Lattice | None = None) -> FieldState:
        """The fields at a grid's links, cells and taps, as the start of the theory of `lattice` (default: its own)."""
        lattice = lattice or self.lattice
        c, rough = self.coefficients, self.rough
        if rough and grid != self.lattice.grid:
            raise InputError(
                f"initial.correlation_{rough[0]} = 0: independent values exist on the lattice's own grid only, they are"
                " no field; coarse-grain them, or give a correlation length"
            )
        x = _basis(grid.x_links, grid.length_x, self.correlation_x, c["w"].shape[0])
        y = _basis(grid.y, grid.length_y, self.correlation_y, c["b"].shape[1], self._periodic)
        count = c["w"].shape[-2]
        u = np.eye(count) if "u" in rough else lattice.range.basis(grid, count)
        if lattice.range.tied:
            w = np.einsum("xi,uj,iajb->xaub", x, u, c["w"], optimize=True)
        else:
            w = np.einsum("xi,yl,uj,ilajb->xyaub", x, y, u, c["w"], optimize=True)
        w += np.eye(lattice.channels)[:, None, :] * lattice.range.mean(grid, self.mean)[None, :, None]
        b = np.einsum("xi,yl,ila->xya", x, y, c["b"], optimize=True)
        r = c["r"].copy()
        for part in (w, b, r):  # or `origin` could come to name something else; copy to change
            part.flags.writeable = False
        return FieldState(lattice, grid, w, b, r, self.to_config())

    def to_config(self) -> dict[str, Any]:
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "lattice"}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
