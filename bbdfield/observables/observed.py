"""What asking one theory of one trajectory gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Observed:
    """Arrays for a sidecar, and what they say in short.

    arrays : name -> (dimensions, values); names and dimensions begin with the theory's name, but for the dimensions
        that all share: "step" (every training step, 0 … n-1) and "t" (snapshots).
    coordinates : dimension -> its values, where it has any beside "step" and "t".
    summary : numbers and words, plain JSON types.
    told : lines for the terminal.
    """

    arrays: dict[str, tuple[tuple[str, ...], Array]]
    coordinates: dict[str, Array] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def values(self) -> dict[str, np.ndarray]:
        """name -> values, without dimensions."""
        return {name: np.asarray(values) for name, (_, values) in self.arrays.items()}
