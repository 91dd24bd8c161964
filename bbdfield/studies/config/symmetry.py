"""kind = "symmetry"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, PlainValidator

from bbdfield.studies.config.combinations import listed
from bbdfield.studies.config.sections import Section
from bbdfield.studies.config.study import OneNetwork
from bbdfield.studies.config.values import BREAKINGS, MOST_NUMBERS, SIZES, show, whole, window_of
from solvers.grids import Grid


class SymmetrySection(Section):
    """[symmetry] how the translation along depth is measured and broken.

    sizes : ε of every breaking.   configurations, samples : seeded fields, and replicas of z in each.
    mlp : widths of the dense networks beside the lattice.
    window : the layers first <= m < last whose fields are moved one layer on; default: 1 to the last.
    """

    sizes: Annotated[tuple[float, ...], BREAKINGS] = (
        1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0,
    )  # fmt: skip
    configurations: Annotated[int, whole(1, 100_000)] = 32
    samples: Annotated[int, whole(1, 100_000)] = 4
    mlp: Annotated[int | tuple[int, ...], SIZES] = (16, 64)
    window: Annotated[tuple[int, int] | None, PlainValidator(window_of)] = None


class SymmetryConfig(OneNetwork):
    """kind = "symmetry": is the layer density one function for all layers, and how far is it if they differ by ε?"""

    symmetry: SymmetrySection = Field(default_factory=SymmetrySection)

    def window(self) -> tuple[int, int]:
        """(first, last): the fields of the layers first <= m < last are moved one layer on."""
        return self.symmetry.window or (1, self.rungs()[0][0] - 1)

    def refusals(self) -> Iterator[str]:
        yield from list(super().refusals()) or _impossible_symmetry(self)


def _impossible_symmetry(config: SymmetryConfig) -> Iterator[str]:
    keys, symmetry = config.lattice, config.symmetry
    ((depth, width),) = config.rungs()
    if depth < 3:
        yield f"lattice.depth: needs at least 3 layers, one of them between two others (got {depth})"
        return
    if symmetry.window is not None and symmetry.window[1] >= depth:
        yield (
            f"symmetry.window: needs to end before layer {depth}, so that it can be moved one layer on"
            f" (got {show(list(symmetry.window))})"
        )
    if not (config.training.rates.w or config.training.rates.b):
        yield "training.rates: needs a rate w > 0 or b > 0, or no layer moves (got w = b = 0)"
    taps = config._range.components(Grid(depth, width)).size
    largest = max(width * keys.channels**2 * taps, *(size**2 for size in listed(symmetry.mlp)))
    if 2 * symmetry.configurations * largest > MOST_NUMBERS:
        numbers = f"{2 * symmetry.configurations * largest:.1e} weights"
        yield f"symmetry.configurations: {symmetry.configurations} would hold {numbers}; give fewer"
