"""Which lattices the PyTorch and JAX programs know: those of the benchmark's problems."""

from __future__ import annotations

from bbdfield.errors import InputError
from bbdfield.model.architecture import Lattice


def require_known(lattice: Lattice) -> None:
    """Refuse a lattice that PyTorch and JAX would compute differently (InputError)."""
    known: dict[str, tuple[str, ...]] = {
        "scaling": ("residual",),
        "activation": ("tanh",),
        "loss": ("cross-entropy",),
        "padding": ("zeros", "circular"),
    }
    for key, values in known.items():
        value = getattr(lattice, key)
        if value not in values:
            names = " or ".join(values)
            raise InputError(f"benchmark: lattice.{key} = {value!r} has no counterpart in PyTorch and JAX; use {names}")
