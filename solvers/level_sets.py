"""The zero set of a function on a rectangular grid: its length, and the speed at which it moves.

Values z_ij stand at the points (x_i, y_j). Between them the function is continued by marching squares, on the dual grid
whose corners are these points:

- an edge is crossed where z > 0 at one end and z <= 0 at the other, at the zero of the straight line between the two;
- a square with two crossings holds one segment; one with four, a saddle, two of them: they cut off the two corners
  whose sign is not that of the mean of all four.

Lengths are of second order in the grid's spacings for smooth functions with ∇z ≠ 0 on the line. The normal speed of the
line is |∂_t z|/|∇z|, at every segment's middle and of the bilinear interpolation in its square; ∫ |∂_t z|/|∇z| dl is
the area that the line sweeps per unit of time. Both are exact for straight lines that keep their direction. On other
smooth lines single speeds have an error of first order, whose sign changes from square to square, so that the error of
their mean is smaller. Where z varies from point to point nothing of this kind holds.

Lorensen, Cline, Marching cubes, SIGGRAPH 1987 (here in two dimensions).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from solvers.errors import InputError

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

#: corners of a square, counter-clockwise, (along x, along y), and its edges between consecutive corners
_CORNERS = ((0, 0), (1, 0), (1, 1), (0, 1))
_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0))


@dataclass(frozen=True)
class ZeroSet:
    """Segments of the lines z = 0 of several functions.

    start, end : (n, 2) end points (x, y); of a square across the period they may lie beyond the last y.
    square : (n, 2) indices (i, j) of the square that each lies in.
    middle : (n, 2) its middle within the square, from 0 to 1 along x and y.
    function : (n,) index of its function, trailing axes of z flattened.
    shape : of these trailing axes.
    """

    start: Array
    end: Array
    square: Indices
    middle: Array
    function: Indices
    shape: tuple[int, ...]

    @property
    def lengths(self) -> Array:
        """Length of every segment, (n,)."""
        lengths: Array = np.hypot(*(self.end - self.start).T)
        return lengths

    def total(self, values: Array | None = None) -> Array:
        """∫ dl of every function, or ∫ values dl for one value per segment; in the shape of the trailing axes."""
        weights = self.lengths if values is None else self.lengths * values
        sums = np.bincount(self.function, weights, int(np.prod(self.shape, dtype=int)))
        return np.asarray(sums, float).reshape(self.shape)


def zero_set(z: Array, x: Array, y: Array, *, period: float | None = None) -> ZeroSet:
    """Where z changes sign, by marching squares.

    Parameters
    ----------
    z : (n_x, n_y, ...) values at the points; trailing axes are different functions.
    x, y : (n_x,), (n_y,) increasing coordinates.
    period : of y; the squares between the last and the first y are then there, too.

    Raises
    ------
    InputError
        for fewer than two points along an axis, or coordinates that do not fit.
    """
    z, x, y = _checked(z, x, y, period)
    shape = z.shape[2:]
    z = z.reshape(*z.shape[:2], -1)
    if period is not None:
        z, y = np.concatenate([z, z[:, :1]], axis=1), np.append(y, y[0] + period)
    positive = z > 0
    corners = [
        positive[i : i + len(x) - 1, j : j + len(y) - 1] for i, j in _CORNERS
    ]  # of every square, as views  # fmt: skip
    differs = [corners[a] != corners[b] for a, b in _EDGES]
    crossings = np.sum(differs, axis=0, dtype=np.int8)

    values = [z[i : i + len(x) - 1, j : j + len(y) - 1] for i, j in _CORNERS]
    parts: list[tuple[tuple[Indices, ...], int, int]] = []
    simple = np.nonzero(crossings == 2)
    which = np.stack([d[simple] for d in differs])
    for first in range(4):
        for second in range(first + 1, 4):
            chosen = which[first] & which[second]
            parts.append((tuple(index[chosen] for index in simple), first, second))
    saddle = np.nonzero(crossings == 4)
    mean_positive = sum(value[saddle] for value in values) > 0
    cuts_odd = mean_positive == corners[0][saddle]  # the corners 1 and 3 are cut off, else 0 and 2
    for chosen, pairs in ((cuts_odd, ((0, 1), (2, 3))), (~cuts_odd, ((3, 0), (1, 2)))):
        parts += [(tuple(index[chosen] for index in saddle), first, second) for first, second in pairs]

    where: list[tuple[Array, Array, Indices, Indices]] = []
    for index, first, second in parts:
        ends = [_crossing([value[index] for value in values], edge) for edge in (first, second)]
        where.append((ends[0], ends[1], np.stack(index[:2], axis=-1), index[2]))
    begin, stop, square, function = (np.concatenate(entries) for entries in zip(*where, strict=True))
    order = np.lexsort((square[:, 1], square[:, 0], function))
    begin, stop, square, function = (part[order] for part in (begin, stop, square, function))
    corner = np.stack([x[square[:, 0]], y[square[:, 1]]], axis=-1)
    size = np.stack([np.diff(x)[square[:, 0]], np.diff(y)[square[:, 1]]], axis=-1)
    return ZeroSet(
        corner + size * begin, corner + size * stop, square, 0.5 * (begin + stop), function.astype(np.int64), shape
    )


def _crossing(corners: list[Array], edge: int) -> Array:
    """(n, 2), within the square, of the zero on an edge, from the values at its corners."""
    a, b = _EDGES[edge]
    part = corners[a] / (corners[a] - corners[b])
    from_, to = np.array(_CORNERS[a], float), np.array(_CORNERS[b], float)
    return from_ + part[:, None] * (to - from_)


def normal_speed(
    z: Array, change: Array, x: Array, y: Array, lines: ZeroSet, *, period: float | None = None
) -> tuple[Array, Array]:
    """|∂_t z|/|∇z| on every segment of the zero set of z, and |∇z| there, (n,) both.

    Parameters
    ----------
    z, x, y, period : as `zero_set` was given.
    change : ∂_t z, in the shape of z.

    The speed is 0 where |∇z| = 0 and there is no direction to move in.
    """
    z, x, y = _checked(z, x, y, period)
    flat = z.reshape(*z.shape[:2], -1)
    moves = np.asarray(change, float).reshape(flat.shape)
    if period is not None:
        flat, y = np.concatenate([flat, flat[:, :1]], axis=1), np.append(y, y[0] + period)
        moves = np.concatenate([moves, moves[:, :1]], axis=1)
    (i, j), (u, v), f = lines.square.T, lines.middle.T, lines.function
    along_x = (1 - v) * (flat[i + 1, j, f] - flat[i, j, f]) + v * (flat[i + 1, j + 1, f] - flat[i, j + 1, f])
    along_y = (1 - u) * (flat[i, j + 1, f] - flat[i, j, f]) + u * (flat[i + 1, j + 1, f] - flat[i + 1, j, f])
    steepness: Array = np.hypot(along_x / np.diff(x)[i], along_y / np.diff(y)[j])
    rate = (1 - v) * ((1 - u) * moves[i, j, f] + u * moves[i + 1, j, f])
    rate += v * ((1 - u) * moves[i, j + 1, f] + u * moves[i + 1, j + 1, f])
    speed = np.divide(np.abs(rate), steepness, out=np.zeros_like(rate), where=steepness > 0)
    return speed, steepness


def _checked(z: Array, x: Array, y: Array, period: float | None) -> tuple[Array, Array, Array]:
    z, x, y = np.asarray(z, float), np.asarray(x, float), np.asarray(y, float)
    if z.ndim < 2 or z.shape[:2] != (x.size, y.size) or x.ndim != 1 or y.ndim != 1:
        raise InputError(
            f"zero set: z of shape {z.shape} does not stand at {x.size} x {y.size} points; give z (n_x, n_y, ...)"
        )
    if x.size < 2 or y.size < 2:
        raise InputError(f"zero set: lines need two points or more along x and y, here are {x.size} x {y.size}")
    if (np.diff(x) <= 0).any() or (np.diff(y) <= 0).any():
        raise InputError("zero set: the coordinates x and y must increase")
    if period is not None and period <= y[-1] - y[0]:
        raise InputError(f"zero set: period {period:g} is not longer than the {y[-1] - y[0]:g} that y covers")
    return z, x, y
