"""Local polynomial interpolation in one coordinate, as explicit matrices.

Matrices make the adjoint trivial (the transpose) and can be applied to any array along its first axis.
"""

from __future__ import annotations

import numpy as np

from solvers.errors import InputError

#: order in the spacing of averages over cells, for smooth functions
AVERAGE_ORDER = 5


def interpolation_matrix(source: np.ndarray, target: np.ndarray, points: int = 6) -> np.ndarray:
    """Rows that evaluate, at `target`, the polynomial through the `points` nearest entries of `source`.

    Order `points` in the spacing for smooth data; towards the ends the stencil becomes one-sided. With fewer source
    values than `points` all of them are used.

    Parameters
    ----------
    source : (n,) strictly increasing.
    target : (m,) any values; extrapolation beyond the ends by about half a cell is what this is meant for.

    Returns
    -------
    (m, n) matrix whose rows sum to one; a target that coincides with a source value gets exactly that value.
    """
    source, target = np.asarray(source, float), np.asarray(target, float)
    width = min(points, source.size)
    if width < 1:
        raise InputError("interpolation needs at least one value")
    matrix = np.zeros((target.size, source.size))
    for row, x in enumerate(target):
        # the stencil whose middle is nearest to x; for even stencils x lies in the central interval
        first = int(np.searchsorted(source, x, side="left")) - width // 2
        if width % 2 and 0 < first + width // 2 < source.size:
            left, right = source[first + width // 2 - 1], source[first + width // 2]
            first -= int(x - left < right - x)
        first = min(max(first, 0), source.size - width)
        nodes = source[first : first + width]
        hit = np.flatnonzero(nodes == x)
        if hit.size:
            matrix[row, first + hit[0]] = 1.0
            continue
        others = [np.delete(nodes, i) for i in range(width)]
        weights = np.array([np.prod((x - rest) / (node - rest)) for node, rest in zip(nodes, others, strict=True)])
        matrix[row, first : first + width] = weights / weights.sum()
    return matrix


def apply_along_first(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    """matrix @ values along the first axis, whatever the others are."""
    return (matrix @ values.reshape(values.shape[0], -1)).reshape(matrix.shape[0], *values.shape[1:])


def average_matrix(source: int, target: int) -> np.ndarray:
    """(target, source): averages over `source` equal cells -> averages over `target` equal cells of the same interval.

    The primitive at the source's edges is interpolated at the target's edges. Columns conserve the integral.
    """
    primitive = np.tril(np.ones((source + 1, source)), -1) / source
    edges = interpolation_matrix(np.arange(source + 1) / source, np.arange(target + 1) / target, AVERAGE_ORDER + 1)
    return target * np.diff(edges @ primitive, axis=0)
