"""Choosing where the loops run."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from solvers.backends import CUPY_FROM, NUMBA_FROM, available_backends, check_checkpoint, get_backend
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
    with pytest.raises(InputError, match="backend 'jax' does not exist; use one of auto, numpy, numba, cupy"):
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
    assert get_backend("auto").name == "numba"
    assert available_backends()["cupy"] == f"unavailable: {caught.value}"


def test_auto_takes_what_answers():
    answers = not available_backends()["cupy"].startswith("unavailable")
    assert get_backend("auto").name == ("cupy" if answers else "numba")
    assert get_backend("auto", values=CUPY_FROM - 1).name == "numba"
    assert get_backend("auto", values=NUMBA_FROM - 1).name == "numpy"


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_float32_on_the_device_is_float64_on_the_host(name):
    backend = get_backend(name, precision="float32")
    there = backend.to_device(np.array([1.0, 1e-9]))
    assert there.dtype == np.float32 and backend.to_numpy(there).dtype == np.float64
    assert backend.description.endswith(", float32") and backend.precision == "float32"


def test_unknown_precision_names_the_known_ones():
    with pytest.raises(InputError, match="precision 'half' does not exist; use one of float64, float32"):
        get_backend("numpy", precision="half")


def test_a_backend_of_another_precision_is_refused():
    single = get_backend("numba", precision="float32")
    assert get_backend(single, precision="float32") is single
    with pytest.raises(
        InputError, match=r"precision = .float32., but the backend given computes in float64; use get_b"
    ):
        get_backend(get_backend("numpy"), precision="float32")


def test_numba_that_cannot_be_imported_is_one_clear_line_and_auto_falls_back(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(InputError, match=r"backend .numba.: numba cannot be imported .*; install it anew, or use"):
        get_backend("numba")
    assert get_backend("auto").name == "numpy"


@pytest.mark.parametrize("value", [-1, 1.5, True, "a", None])
def test_bad_checkpoints_name_their_key(value):
    with pytest.raises(InputError, match=r"field.checkpoint = .*: needs a whole number, or 0 to keep everything"):
        check_checkpoint("field.checkpoint", value)
    assert check_checkpoint("field.checkpoint", np.int64(2)) == 2
