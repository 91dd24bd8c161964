"""Sums of gradients over lanes of samples, in the order of the lanes."""

from __future__ import annotations

from solvers.compiled import jit

_CACHED = 2048


@jit
def add(rows, low, high, factor, fresh, target):  # type: ignore[no-untyped-def]
    """target[low:high] += factor Σ_l rows[l, low:high], or = where `fresh`; rows are used up."""
    for first in range(low, high, _CACHED):
        last = min(first + _CACHED, high)
        total, out = rows[0, first:last], target[first:last]
        for n in range(1, rows.shape[0]):
            more = rows[n, first:last]
            for i in range(total.size):
                total[i] += more[i]
        if fresh:
            for i in range(out.size):
                out[i] = factor * total[i]
        else:
            for i in range(out.size):
                out[i] += factor * total[i]
