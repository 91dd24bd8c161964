"""What a range is: which weights a neuron has across the width, on the lattice and as fields.

A network's trainable weights are θ (M, [N], C, P, C), indices (x_link, [y], c_out, component, c_in); the field ŵ has
the same layout on any grid. A range says what the P components are, what the lattice's taps W_k are in terms of θ, and
which operator 𝒦[ŵ] acts on fields. The factor between θ and ŵ is this range's `unit` times the scaling's.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from bbdfield.errors import InputError
from solvers.grids import Grid


class Range(ABC):
    """Base of the ranges; subclasses are frozen dataclasses of what is configured.

    name : as it is called in configurations.   dimension : of the component axis in files.
    width_orders : orders in a_y in which its operator can be expanded; () if the limit is exact.
    lattice_bounded : whether the lattice's operator stays bounded as a_y → 0.
    key : its own key in [lattice] of a configuration, the first field of the class; `needs` and `words` say what the
    key takes, and how the weights are described.
    """

    name: ClassVar[str]
    dimension: ClassVar[str]
    width_orders: ClassVar[tuple[int, ...]] = ()
    lattice_bounded: ClassVar[bool] = True
    key: ClassVar[str]
    needs: ClassVar[str]
    words: ClassVar[str]
    tied: bool

    @classmethod
    def default(cls) -> Any:
        """The key's value where it is not given: the field's own default; None if it must be given."""
        value = dataclasses.fields(cls)[0].default  # type: ignore[arg-type]
        return None if value is dataclasses.MISSING else value

    @classmethod
    @abstractmethod
    def read(cls, value: Any) -> Any:
        """The key's value from a configuration; raises ValueError or InputError for what `needs` excludes."""

    # the lattice

    @abstractmethod
    def components(self, grid: Grid) -> np.ndarray:
        """Coordinates (P,) of the components on a grid.

        Raises
        ------
        InputError
            when they do not fit on its width.
        """

    @abstractmethod
    def centre(self, grid: Grid) -> int:
        """The component that multiplies σ(z) of the neuron's own cell."""

    def unit(self, a_y: float) -> float:
        """θ = unit · ŵ in a_y (the scaling adds its own factor)."""
        return 1.0

    def cell(self, h_y: float) -> float:
        """Measure of one component in ∫ dν, for functional gradients: Σ_components cell · … ."""
        return 1.0

    def taps(self, a_y: float) -> np.ndarray | None:
        """(T, P): W_k = Σ_p taps[k, p] θ_p; None when θ are the taps themselves."""
        return None

    # fields

    @abstractmethod
    def operator(self, xp: Any, grid: Grid, a_y: float, padding: str, width_order: int | None, stencil: int) -> Any:
        """𝒦[ŵ] on a grid of the field, for a lattice of spacing a_y: apply, adjoint_state, adjoint_weights, symbol.

        width_order : order of its expansion in a_y (None: the highest).   stencil : accuracy of differences.
        """

    def width_order(self, given: int | None) -> int:
        """The order in a_y to use: the highest unless given.

        Raises
        ------
        InputError
            for an order that this range does not have.
        """
        if given is not None and given not in self.width_orders:
            known = f"use one of {', '.join(map(str, self.width_orders))}" if self.width_orders else "remove it"
            raise InputError(f'field.width_order = {given!r}: not defined for lattice.range = "{self.name}"; {known}')
        return max(self.width_orders, default=0) if given is None else given

    def onto(self, source: Grid, target: Grid, averaged: bool = False) -> np.ndarray:
        """(P_target, P_source): components from one grid to another, as point values or averages over cells."""
        return np.eye(self.components(target).size)

    # random initial fields

    @abstractmethod
    def spread(self, correlation: float, grid: Grid, relative: Sequence[float] | None) -> np.ndarray:
        """Standard deviations of the random coefficients in the component axis, for a row sum of order 1.

        relative : factor of each component (None: the range's own).
        """

    def basis(self, grid: Grid, count: int) -> np.ndarray:
        """(P, count): components on a grid of each coefficient."""
        return np.eye(count)

    def mean(self, grid: Grid, mean: Sequence[float] | None) -> np.ndarray:
        """(P,): mean of ŵ, the same in all x and y, times δ_cc'."""
        count = self.components(grid).size
        if mean is None:
            return np.zeros(count)
        self._check_numbers("initial.mean", mean, count)
        return np.asarray(mean, float)

    def _check_numbers(self, key: str, values: Sequence[float], count: int) -> None:
        if len(values) != count:
            raise InputError(
                f'{key} = {list(values)}: lattice.range = "{self.name}" needs {count} number{"s" if count > 1 else ""}'
            )
        if not np.all(np.isfinite(values)):
            raise InputError(f"{key} = {list(values)}: needs finite numbers")
