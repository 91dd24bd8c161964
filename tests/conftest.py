"""What all tests share: floating-point errors raise, the backends that answer here, and one small problem."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import array_api_strict
import numpy as np
import pytest

from bbdfield.datasets import Dataset
from bbdfield.errors import InputError
from bbdfield.model.architecture import DAMPED, Lattice, Rates, Training
from bbdfield.model.ranges import Kernel
from solvers.backends import Backend, generic_backend, get_backend


def _backends() -> list[Any]:
    """NumPy, the strict reading of the array-API standard, and the GPU only where one answers."""
    found: list[Any] = [
        pytest.param(get_backend("numpy"), id="numpy"),
        pytest.param(generic_backend(array_api_strict, "array-api-strict"), id="array-api-strict"),
    ]
    try:
        found.append(pytest.param(get_backend("cupy"), id="cupy", marks=pytest.mark.gpu))
    except InputError:
        pass
    return found


@pytest.fixture(params=_backends())
def backends(request: pytest.FixtureRequest) -> Backend:
    return request.param


@pytest.fixture(autouse=True)
def raise_on_floating_point_errors() -> Iterator[None]:
    """Overflow, division by zero and invalid operations are errors unless the code says otherwise."""
    with np.errstate(all="raise", under="ignore"):
        yield


@pytest.fixture(scope="session")
def signals() -> Dataset:
    """24 + 8 smooth samples of two channels on 10 cells, in three classes."""
    rng = np.random.default_rng(20)
    y = (np.arange(10) + 0.5) / 10
    modes = np.cos(np.pi * np.outer(np.arange(4), y))
    x = rng.standard_normal((32, 2, 4)) / (1 + np.arange(4)) @ modes
    labels = np.arange(32) % 3
    return Dataset("signals", x[:24], labels[:24], x[24:], labels[24:])


class Problems:
    """Small lattices and training laws for `signals`; any argument can be overridden."""

    @staticmethod
    def lattice(**changes: Any) -> Lattice:
        tied = changes.pop("tied", True)
        radius = changes.pop("radius", "1/4")
        settings = {"depth": 6, "width": 10, "channels": 2, "outputs": 3, "data_channels": 2, "readout_modes": 3}
        return Lattice(**({"range": Kernel(radius, tied)} | settings | changes))

    @staticmethod
    def training(**changes: Any) -> Training:
        rates = Rates(*changes.pop("rates", (2.0, 0.2, 0.5)))
        if changes.get("dynamics") in DAMPED:
            changes = {"damping": 0.7} | changes
        settings = {"steps": 20, "batch": 8, "snapshot_every": 10, "probe": 4, "evaluate": 8, "seed": 3}
        return Training(rates=rates, **(settings | changes))


@pytest.fixture(scope="session")
def problems() -> type[Problems]:
    return Problems


@pytest.fixture(scope="session")
def fitted_order() -> Any:
    """(spacings, errors) -> slope of log error against log spacing, by least squares."""

    def fit(spacings: Any, errors: Any) -> float:
        return float(np.polyfit(np.log(np.asarray(spacings, float)), np.log(np.asarray(errors, float)), 1)[0])

    return fit
