"""What the tests of studies share: small data sets, of noise and of smooth signals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def write_data() -> Callable[[Path], None]:
    """Write 40 + 9 samples of noise, two channels on 12 cells in three classes, as data.npz into a folder."""

    def write(folder: Path) -> None:
        rng = np.random.default_rng(0)
        signals = rng.standard_normal((40, 2, 12))
        labels = np.arange(40) % 3
        np.savez(folder / "data.npz", x=signals, y=labels, x_test=signals[:9], y_test=labels[:9])

    return write


@pytest.fixture(scope="session")
def write_smooth_data() -> Callable[[Path], None]:
    """The same with signals of three cosine modes."""

    def write(folder: Path) -> None:
        rng = np.random.default_rng(0)
        y = (np.arange(12) + 0.5) / 12
        smooth = rng.standard_normal((40, 2, 3)) @ np.cos(np.pi * np.outer(np.arange(3), y))
        labels = np.arange(40) % 3
        np.savez(folder / "data.npz", x=smooth, y=labels, x_test=smooth[:9], y_test=labels[:9])

    return write
