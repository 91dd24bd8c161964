"""Array backends: where the inner loops run.

A backend is an array namespace (`xp`) following the array-API standard together with the transfers to and from NumPy.
Users only ever see NumPy arrays; the device holds the state of a sweep and nothing else.

    numpy   the readable reference           numba   NumPy arrays, sweeps compiled for the CPU
    cupy    CUDA                             auto    the fastest that is here and worth its start, by size
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
    """An array namespace and its transfers; `description` says in words what runs the loops.

    precision : of arrays on the device, "float64" or "float32"; on the host they are always float64.
    """

    name: str
    xp: Any
    to_device: Callable[[np.ndarray], Array]
    to_numpy: Callable[[Array], np.ndarray]
    synchronize: Callable[[], None]
    description: str
    precision: str = "float64"


def _host(name: str, description: str, precision: str) -> Backend:
    dtype = np.dtype(precision)
    return Backend(
        name,
        np,
        lambda a: np.asarray(a, dtype),
        lambda a: np.asarray(a, np.float64),
        lambda: None,
        description + _in(precision),
        precision,
    )


def _in(precision: str) -> str:
    return "" if precision == "float64" else f", {precision}"


def _numpy(precision: str = "float64") -> Backend:
    return _host("numpy", "NumPy on the CPU", precision)


def _numba(precision: str = "float64") -> Backend:
    try:
        import numba
    except ImportError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"backend 'numba': numba cannot be imported ({reason}); install it anew, or use backend = \"numpy\""
        ) from error
    return _host("numba", f"numba {numba.__version__} on the CPU", precision)


def _cupy(precision: str = "float64") -> Backend:
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
        lambda a: cupy.asarray(a, precision),
        lambda a: cupy.asnumpy(a).astype(np.float64, copy=False),
        lambda: cupy.cuda.get_current_stream().synchronize(),
        f"CuPy {cupy.__version__} on {properties['name'].decode()}" + _in(precision),
        precision,
    )


def generic_backend(xp: Any, name: str) -> Backend:
    """A backend on any array-API namespace, e.g. array-api-strict in the tests."""
    return Backend(name, xp, xp.asarray, lambda a: np.asarray(a), lambda: None, f"array namespace {name}")


BACKENDS = {"numpy": _numpy, "numba": _numba, "cupy": _cupy}
PRECISIONS = ("float64", "float32")

#: from how many numbers per sweep (cells in depth × cells × channels × samples) on "auto" takes a backend. Below,
#: loading compiled code outlasts a short run; the GPU's number is a guess, as none has been measured
NUMBA_FROM, CUPY_FROM = 20_000, 2_000_000


def available_backends() -> dict[str, str]:
    """Each backend's name with its description, or the reason why it cannot be used."""
    found = {}
    for name, make in BACKENDS.items():
        try:
            found[name] = make().description
        except InputError as error:
            found[name] = f"unavailable: {error}"
    return found


def check_checkpoint(key: str, checkpoint: object) -> int:
    """A checkpoint's distance, or InputError that names its key."""
    if isinstance(checkpoint, (int, np.integer)) and not isinstance(checkpoint, bool) and checkpoint >= 0:
        return int(checkpoint)
    raise InputError(f"{key} = {checkpoint!r}: needs a whole number, or 0 to keep everything")


def get_backend(name: str | Backend = "auto", *, values: int | None = None, precision: str = "float64") -> Backend:
    """The backend of that name.

    Parameters
    ----------
    name : "numpy", "numba", "cupy" or "auto": by size the GPU if one answers, else compiled code, else NumPy; or a
        backend, which is returned.
    values : numbers per sweep, for "auto"; None counts as many.
    precision : "float64" or "float32".

    Raises
    ------
    InputError
        for an unknown name or precision, or a backend that cannot run here.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision '{precision}' does not exist; use one of {', '.join(PRECISIONS)}")
    if isinstance(name, Backend):
        if precision not in ("float64", name.precision):
            raise InputError(
                f"precision = '{precision}', but the backend given computes in {name.precision};"
                f' use get_backend("{name.name}", precision="{precision}")'
            )
        return name
    if name == "auto":
        for make, least in ((_cupy, CUPY_FROM), (_numba, NUMBA_FROM)):
            if values is None or values >= least:
                try:
                    return make(precision)
                except InputError:
                    continue
        return _numpy(precision)
    if name not in BACKENDS:
        raise InputError(f"backend '{name}' does not exist; use one of auto, {', '.join(BACKENDS)}")
    return BACKENDS[name](precision)
