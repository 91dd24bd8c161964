"""Choosing where the loops run."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from solvers.backends import available_backends, get_backend
from solvers.errors import InputError


def no_gpu():
    """What `import cupy` gives on a machine with CuPy but no device."""
    return SimpleNamespace(__version__="0", cuda=SimpleNamespace(is_available=lambda: False))


def test_numpy_is_always_there_and_round_trips():
    backend = get_backend("numpy")
    a = np.arange(6.0).reshape(2, 3)
    assert backend.xp is np
    np.testing.assert_array_equal(backend.to_numpy(backend.to_device(a)), a)
    backend.synchronize()
    assert available_backends()["numpy"] == "NumPy on the CPU"


def test_every_backend_round_trips(backends):
    a = np.arange(6.0).reshape(2, 3)
    on_device = backends.to_device(a)
    back = backends.to_numpy(backends.xp.matmul(on_device, backends.xp.permute_dims(on_device, (1, 0))))
    assert isinstance(back, np.ndarray) and back.dtype == np.float64
    np.testing.assert_array_equal(back, a @ a.T)
    assert backends.name in backends.description or backends.name in ("numpy", "cupy")


def test_a_backend_passes_through(backends):
    assert get_backend(backends) is backends


def test_unknown_backend_names_the_known_ones():
    with pytest.raises(InputError, match="backend 'jax' does not exist; use one of auto, numpy, cupy"):
        get_backend("jax")


@pytest.mark.parametrize(
    ("module", "reason"),
    [(None, "CuPy is not installed; install the extra"), (no_gpu(), "no GPU answers .no CUDA device.")],
    ids=["not installed", "no device"],
)
def test_missing_gpu_is_one_clear_line_and_auto_falls_back(monkeypatch, module, reason):
    monkeypatch.setitem(sys.modules, "cupy", module)
    with pytest.raises(InputError, match=reason) as caught:
        get_backend("cupy")
    assert "\n" not in str(caught.value) and 'backend = "numpy"' in str(caught.value)
    assert get_backend("auto").name == "numpy"
    assert available_backends()["cupy"] == f"unavailable: {caught.value}"


def test_auto_takes_what_answers():
    answers = not available_backends()["cupy"].startswith("unavailable")
    assert get_backend("auto").name == ("cupy" if answers else "numpy")
