"""Array backends: where the inner loops run.

A backend is an array namespace (`xp`) following the array-API standard together with the transfers to and from NumPy.
Users only ever see NumPy arrays; the device holds the state of a sweep and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from solvers.errors import InputError

Array = Any  # an array of whichever namespace is in use


@dataclass(frozen=True)
class Backend:
    """An array namespace and its transfers; `description` says in words what runs the loops."""

    name: str
    xp: Any
    to_device: Callable[[np.ndarray], Array]
    to_numpy: Callable[[Array], np.ndarray]
    synchronize: Callable[[], None]
    description: str


def _numpy() -> Backend:
    return Backend("numpy", np, np.asarray, np.asarray, lambda: None, "NumPy on the CPU")


def _cupy() -> Backend:
    """CuPy, probed by a real allocation and a matrix product: importing it proves nothing."""
    try:
        import cupy
    except ImportError as error:
        raise InputError(
            "backend 'cupy': CuPy is not installed; install the extra cuda12 or cuda13, or use backend = \"numpy\""
        ) from error
    try:
        if not cupy.cuda.is_available():
            raise RuntimeError("no CUDA device")
        probe = cupy.ones((2, 2))
        float((probe @ probe).sum())
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"backend 'cupy': CuPy is installed but no GPU answers ({reason}); use backend = \"numpy\""
        ) from error
    from array_api_compat import cupy as xp

    return Backend(
        "cupy",
        xp,
        cupy.asarray,
        cupy.asnumpy,
        lambda: cupy.cuda.get_current_stream().synchronize(),
        f"CuPy {cupy.__version__} on {properties['name'].decode()}",
    )


def generic_backend(xp: Any, name: str) -> Backend:
    """A backend on any array-API namespace, e.g. array-api-strict in the tests."""
    return Backend(name, xp, xp.asarray, lambda a: np.asarray(a), lambda: None, f"array namespace {name}")


BACKENDS = {"numpy": _numpy, "cupy": _cupy}


def available_backends() -> dict[str, str]:
    """Each backend's name with its description, or the reason why it cannot be used."""
    found = {}
    for name, make in BACKENDS.items():
        try:
            found[name] = make().description
        except InputError as error:
            found[name] = f"unavailable: {error}"
    return found


def get_backend(name: str | Backend = "auto") -> Backend:
    """The backend of that name; "auto" takes the GPU when one answers, else the CPU.

    Raises
    ------
    InputError
        for an unknown name or a backend that cannot run here.
    """
    if isinstance(name, Backend):
        return name
    if name == "auto":
        try:
            return _cupy()
        except InputError:
            return _numpy()
    if name not in BACKENDS:
        raise InputError(f"backend '{name}' does not exist; use one of auto, {', '.join(BACKENDS)}")
    return BACKENDS[name]()
