"""The problems that are timed: seeded, made here, and the same for every program.

Only the forecast needs a file, the MNIST-1D that comes with the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from bbdfield.datasets import Dataset, load_dataset
from bbdfield.errors import InputError
from bbdfield.model.architecture import Lattice, Rates, Training
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.ranges import Derivative, Kernel, Range, Taps
from bbdfield.model.units import LatticeState, to_lattice

SEED, OUTPUTS = 1, 4
#: steps after which the sequence of samples begins again
ROUND = 64
#: as published, and as in experiments/forecast.toml
FORECAST_RADIUS, FORECAST_RATES = 11 / 80, Rates(w=80 / 11, b=0.1, r=0.5)


@dataclass(frozen=True)
class Problem:
    """A lattice to train, with its data, sample order and initial fields.

    width_order : of the field theory, for taps.
    """

    name: str
    lattice: Lattice
    boundary: Boundary
    fields: InitialFields
    width_order: int | None = None

    @property
    def training(self) -> Training:
        return self.boundary.training

    @property
    def batch(self) -> int:
        return self.training.batch

    @cached_property
    def start(self) -> LatticeState:
        """θ, b and R at the start."""
        return to_lattice(self.fields.on(self.lattice.grid, self.lattice))

    @property
    def sites(self) -> int:
        """Layers × cells × channels × samples: what a cost per site is divided by."""
        return self.lattice.depth * self.lattice.width * self.lattice.channels * self.batch

    @property
    def taps(self) -> int:
        """Neighbours that a neuron sees per channel."""
        matrix = self.lattice.range.taps(self.lattice.a_y)
        return self.lattice.range.components(self.lattice.grid).size if matrix is None else len(matrix)

    @property
    def numbers_moved(self) -> int:
        """Numbers that a training step has to read or write at least, once they are out of cache.

        Forward: θ and b are read, z is written. Backward: θ, b and z are read (θ and b also to be updated), θ and b are
        written. Gradients, λ and one layer's activations stay in cache.
        """
        return 3 * (self.start.w.size + self.start.b.size) + 2 * self.sites

    @property
    def operations(self) -> int:
        """Floating-point operations of a step's three products per layer: forward, adjoint, weights' gradient."""
        return 3 * 2 * self.taps * self.lattice.channels * self.sites


def problem(
    name: str,
    reach: Range,
    *,
    depth: int,
    width: int,
    channels: int = 1,
    batch: int = 1,
    padding: str = "circular",
    weight: float = 0.5,
    mean: tuple[float, ...] | None = None,
    width_order: int | None = None,
) -> Problem:
    """A residual tanh network on smooth random signals, at rates that leave its weights near where they start."""
    rng = np.random.default_rng(SEED)
    y = (np.arange(width) + 0.5) / width
    modes = np.cos(2 * np.pi * np.outer(np.arange(4), y))
    count = max(4 * batch, 16)
    x = rng.standard_normal((count, 1, 4)) / (1 + np.arange(4)) @ modes
    data = Dataset("bench", x, np.arange(count) % OUTPUTS)
    lattice = Lattice(depth, width, channels, reach, outputs=OUTPUTS, padding=padding)
    training = Training(steps=ROUND, batch=batch, rates=Rates(1e-3, 1e-3, 1e-3), step=1.0, probe=1, seed=SEED)
    fields = InitialFields(lattice, SEED, weight=weight, bias=0.1, mean=mean)
    return Problem(name, lattice, Boundary.draw(data, lattice, training), fields, width_order)


def taps(side: int) -> Problem:
    """Three untied taps, one channel, one sample on side × side sites, circular."""
    return problem(f"taps {side:,}×{side:,}", Taps(3), depth=side, width=side, mean=(1.0, 0.0, 1.0), width_order=0)


def convolution(depth: int = 256, width: int = 40, channels: int = 8, batch: int = 32) -> Problem:
    """A tied kernel of 9 taps whatever the width, zero padding."""
    reach = Kernel(4.5 / width)
    sizes: dict[str, Any] = {"depth": depth, "width": width, "channels": channels, "batch": batch}
    return problem("convolution", reach, padding="zeros", weight=3.0, **sizes)


def large_convolution() -> Problem:
    """What a GPU is for, and a CPU still holds: arrays of 335 MB."""
    sizes: dict[str, Any] = {"depth": 64, "width": 160, "channels": 32, "batch": 128}
    return problem("large convolution", Kernel(4.5 / 160), padding="zeros", weight=3.0, **sizes)


def untied_kernel(depth: int, width: int, channels: int, batch: int) -> Problem:
    """A locally connected layer: 9 taps of its own at every cell."""
    reach = Kernel(4.5 / width, tied=False)
    return problem("untied kernel", reach, depth=depth, width=width, channels=channels, batch=batch, weight=3.0)


def tied_taps(depth: int, width: int, channels: int, batch: int) -> Problem:
    """Three tied taps, circular."""
    options: dict[str, Any] = {"mean": (1.0, 0.0, 1.0), "width_order": 2, "weight": 0.3}
    reach = Taps(3, tied=True)
    return problem("tied taps", reach, depth=depth, width=width, channels=channels, batch=batch, **options)


def derivative(depth: int, width: int) -> Problem:
    """Trainable moments, untied, one channel, one sample; ℓ² = a_y²/(8 a_x): every scheme is stable."""
    length = float(np.sqrt(depth / 8) / width)
    return problem("derivative", Derivative(length), depth=depth, width=width, weight=0.3)


def forecast(depth: int, steps: int) -> Problem:
    """MNIST-1D on 40 cells, 8 channels, tied kernel of radius 11/80, 32 samples: experiments/forecast.toml."""
    data = load_dataset("mnist1d")
    lattice = Lattice(depth, 40, 8, Kernel(FORECAST_RADIUS), outputs=data.outputs)
    training = Training(steps=steps, batch=32, rates=FORECAST_RATES, step=1.0, probe=1, evaluate=0, seed=SEED)
    fields = InitialFields(lattice, SEED, weight=4.0, correlation_x=0.4, correlation_u=0.1)
    return Problem(f"forecast of {depth:,} layers", lattice, Boundary.draw(data, lattice, training), fields)


SITES: dict[str, Callable[[], list[Problem]]] = {
    "small": lambda: [
        taps(16),
        convolution(6, 16, 2, 4),
        untied_kernel(4, 16, 2, 4),
        tied_taps(6, 16, 2, 4),
        derivative(16, 16),
    ],
    "full": lambda: [
        taps(64),
        taps(256),
        taps(1024),
        convolution(),
        untied_kernel(64, 40, 8, 32),
        tied_taps(256, 40, 8, 32),
        derivative(256, 256),
    ],
}


@dataclass(frozen=True)
class Axis:
    """One size that grows while the others stay; `make(size)` is the problem."""

    name: str
    sizes: tuple[int, ...]
    make: Callable[[int], Problem]


def scaling_axes(sizes: str) -> list[Axis]:
    """The convolution, larger in one way at a time; its kernel keeps its 9 taps.

    Raises
    ------
    InputError
        for unknown sizes.
    """
    if sizes == "small":
        base = {"depth": 4, "width": 16, "channels": 2, "batch": 4}
        ladders: dict[str, tuple[int, ...]] = {"depth": (4, 8), "width": (16, 32), "channels": (2, 4), "batch": (4, 8)}
    elif sizes == "full":
        base = {"depth": 128, "width": 40, "channels": 8, "batch": 32}
        ladders = {
            "depth": (64, 128, 256, 512, 1024),
            "width": (20, 40, 80, 160, 320),
            "channels": (4, 8, 16, 32),
            "batch": (8, 16, 32, 64, 128),
        }
    else:
        raise InputError(f"sizes '{sizes}' do not exist; use small or full")

    def made(key: str, size: int) -> Problem:
        return convolution(**{**base, key: size})

    return [Axis(key, ladder, partial(made, key)) for key, ladder in ladders.items()]
