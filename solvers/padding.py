"""Continuation of a field beyond the edges of the width, and its exact adjoint.

Arrays have the width first: (n_y, channels, samples). `pad` adds `half` cells on both sides, `fold` is its transpose.

- zeros: the field vanishes outside;
- circular: the width is periodic;
- reflect: even extension about the edge y = 0 and y = L_y (NumPy's "symmetric": the edge cell is repeated).
"""

from __future__ import annotations

from typing import Any

from solvers.errors import InputError

Array = Any
PADDINGS = ("zeros", "circular", "reflect")


def pad(xp: Any, s: Array, half: int, padding: str) -> Array:
    """(n_y, C, B) -> (n_y + 2 half, C, B)."""
    if half == 0:
        return s
    if padding == "zeros":
        edge = xp.zeros((half, *s.shape[1:]), dtype=s.dtype)
        return xp.concat([edge, s, edge], axis=0)
    if padding == "circular":
        return xp.concat([s[-half:, ...], s, s[:half, ...]], axis=0)
    if padding == "reflect":
        return xp.concat([xp.flip(s[:half, ...], axis=0), s, xp.flip(s[-half:, ...], axis=0)], axis=0)
    raise InputError(f"padding '{padding}' does not exist; use one of {', '.join(PADDINGS)}")


def fold(xp: Any, g: Array, half: int, padding: str) -> Array:
    """The adjoint of `pad`: (n_y + 2 half, C, B) -> (n_y, C, B)."""
    if half == 0:
        return g
    inner = xp.asarray(g[half:-half, ...], copy=True)
    if padding == "circular":
        inner[-half:, ...] += g[:half, ...]
        inner[:half, ...] += g[-half:, ...]
    elif padding == "reflect":
        inner[:half, ...] += xp.flip(g[:half, ...], axis=0)
        inner[-half:, ...] += xp.flip(g[-half:, ...], axis=0)
    elif padding != "zeros":
        raise InputError(f"padding '{padding}' does not exist; use one of {', '.join(PADDINGS)}")
    return inner
