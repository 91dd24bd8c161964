"""Kernels compiled by numba for the CPU. Importing this package loads numba, so the others import it where it is used.

Conventions: loops run over the last axis, which is contiguous; nothing is allocated; every kernel releases the GIL, so
that lanes of samples run in threads (`solvers.threads`). Sums may be reassociated (`LOOSE`) for SIMD, but NaN and
infinity mean what they always mean.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

_config: Any = numba.config
Function = TypeVar("Function", bound=Callable[..., Any])

#: floating-point freedoms of kernels: sums in any order, fused multiply-add
LOOSE = frozenset({"reassoc", "contract", "nsz", "arcp"})
#: for code whose roundings are meant: fused multiply-add only
STRICT = frozenset({"contract"})


def _sources() -> str:
    """Digest of the kernels here: numba's cache looks at a kernel's own file only, not at those of what it calls."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cache_folder() -> Path:
    given = _config.CACHE_DIR
    try:
        base = Path(given) if given else Path.home() / ".cache" / "bbdfield"
    except RuntimeError:  # a user without a home
        base = Path(tempfile.gettempdir()) / "bbdfield"
    return base / f"kernels-{_sources()}"


#: where machine code is kept
CACHE = _cache_folder()


def jit(function: Function | None = None, *, freedoms: frozenset[str] = LOOSE, inline: bool = False) -> Any:
    """Compile at the first call, and keep the machine code across processes.

    A kernel may call kernels of its own file and of this package: a change in either compiles it anew. Where the cache
    folder (numba's NUMBA_CACHE_DIR, else ~/.cache/bbdfield) cannot be written, every process compiles for itself.
    """

    def compiled(function: Function) -> Any:
        options: dict[str, Any] = {"nogil": True, "fastmath": set(freedoms), "error_model": "numpy"}
        if inline:
            options["inline"] = "always"
        usual, _config.CACHE_DIR = _config.CACHE_DIR, str(CACHE)
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # numba: no place for its cache
            return numba.njit(**options)(function)
        finally:
            _config.CACHE_DIR = usual

    return compiled if function is None else compiled(function)
