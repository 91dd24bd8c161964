"""Zero sets by marching squares: against slow loops, exact on planes, and of measured order on circles."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from solvers.errors import InputError
from solvers.level_sets import normal_speed, zero_set


def points(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Sites and cell centres of the unit square."""
    return np.linspace(0, 1, n + 1), (np.arange(n) + 0.5) / n


def slow_length(z: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Square by square: all zeros on its edges, joined; saddles by the mean of the corners."""
    total = 0.0
    for i, j in itertools.product(range(len(x) - 1), range(len(y) - 1)):
        corners = [(x[i], y[j]), (x[i + 1], y[j]), (x[i + 1], y[j + 1]), (x[i], y[j + 1])]
        values = [z[i, j], z[i + 1, j], z[i + 1, j + 1], z[i, j + 1]]
        zeros = {}
        for k in range(4):
            a, b = values[k], values[(k + 1) % 4]
            if (a > 0) != (b > 0):
                (xa, ya), (xb, yb) = corners[k], corners[(k + 1) % 4]
                zeros[k] = (xa + a / (a - b) * (xb - xa), ya + a / (a - b) * (yb - ya))
        if len(zeros) == 2:
            pairs = [tuple(zeros)]
        elif len(zeros) == 4:
            middle_joins_first = (sum(values) > 0) == (values[0] > 0)
            pairs = [(0, 1), (2, 3)] if middle_joins_first else [(3, 0), (1, 2)]
        else:
            pairs = []
        total += sum(math.dist(zeros[a], zeros[b]) for a, b in pairs)
    return total


def test_lengths_are_those_of_a_slow_loop_over_squares():
    rng = np.random.default_rng(0)
    x, y = np.cumsum(rng.uniform(0.1, 1, 9)), np.cumsum(rng.uniform(0.1, 1, 7))
    z = rng.standard_normal((9, 7, 2, 5))
    found = zero_set(z, x, y).total()
    assert found.shape == (2, 5)
    for c, s in itertools.product(range(2), range(5)):
        assert found[c, s] == pytest.approx(slow_length(z[:, :, c, s], x, y), rel=1e-13)


@pytest.mark.parametrize(("high", "cut"), [(5.0, [(1, 0), (0, 1)]), (0.2, [(0, 0), (1, 1)])])
def test_a_saddle_cuts_off_the_corners_that_differ_from_the_mean(high, cut):
    """z = high and −1 at opposite corners: for high = 5 the negative ones are cut off, for 0.2 the positive ones."""
    z, unit = np.array([[high, -1.0], [-1.0, high]]), np.array([0.0, 1.0])
    found = zero_set(z, unit, unit)
    assert found.lengths == pytest.approx([math.sqrt(2) / 6] * 2)
    middles = 0.5 * (found.start + found.end)
    near = [tuple(corner) for corner in np.rint(middles).astype(int).tolist()]
    assert sorted(near) == sorted(cut)


def test_a_moving_straight_line_is_exact():
    """n · (x, y) = d with d moving at 0.3: the part in the square is known, the speed 0.3 everywhere."""
    x, y = points(8)
    normal = np.array([math.cos(0.5), math.sin(0.5)])
    z = 3.0 * (normal[0] * x[:, None] + normal[1] * y - 0.6)
    lines = zero_set(z, x, y)
    # ends where the line leaves [0, 1] x [y_0, y_7]: through the two edges of constant y
    ends = [((0.6 - normal[1] * edge) / normal[0], edge) for edge in (y[0], y[-1])]
    assert all(0 <= where <= 1 for where, _ in ends)
    assert lines.total() == pytest.approx(math.dist(*ends), rel=1e-13)
    speed, steepness = normal_speed(z, np.full_like(z, -3.0 * 0.3), x, y, lines)
    np.testing.assert_allclose(speed, 0.3, rtol=1e-12)
    np.testing.assert_allclose(steepness, 3.0, rtol=1e-12)


def circle(n: int, centre: tuple[float, float]) -> tuple[float, float, float]:
    """Errors of length, mean speed and swept area of a circle of radius 0.3 that grows at 0.7."""
    x, y = points(n)
    z = (x[:, None] - centre[0]) ** 2 + (y - centre[1]) ** 2 - 0.09
    lines = zero_set(z, x, y)
    speed, _ = normal_speed(z, np.full_like(z, -2 * 0.3 * 0.7), x, y, lines)
    length, swept = float(lines.total()), float(lines.total(speed))
    return length - 0.6 * math.pi, swept / length - 0.7, swept - 0.7 * 0.6 * math.pi


def test_a_growing_circle_converges(fitted_order):
    """Length with order 2; mean speed and area swept faster than order 1, over several places of the circle."""
    sizes, centres = (16, 32, 64, 128), [(0.5 + 0.013 * k, 0.47 - 0.007 * k) for k in range(8)]
    errors = [np.sqrt(np.mean(np.square([circle(n, c) for c in centres]), axis=0)) for n in sizes]
    length, speed, swept = (fitted_order([1 / n for n in sizes], [e[i] for e in errors]) for i in range(3))
    assert 1.8 < length < 2.3
    assert speed > 1.3 and swept > 1.3
    assert (errors[-1] < 1e-3).all()


def test_across_the_period():
    """A line that crosses y = 0 of a periodic strip is whole only with the squares between the last y and the first."""
    x, y = points(12)
    z = np.cos(2 * np.pi * (y - 0.3 * x[:, None]))
    whole, cut = zero_set(z, x, y, period=1.0), zero_set(z, x, y)
    assert whole.total() == pytest.approx(2 * math.hypot(1, 0.3), rel=2e-3)
    assert cut.total() < whole.total() - 0.05
    change = 2 * np.pi * 0.2 * np.sin(2 * np.pi * (y - 0.3 * x[:, None]))  # moves along y at 0.2
    speed, _ = normal_speed(z, change, x, y, whole, period=1.0)
    np.testing.assert_allclose(speed, 0.2 / math.hypot(1, 0.3), rtol=0.05)


def test_zero_is_no_positive_value_and_nothing_is_no_line():
    x, y = points(3)
    assert zero_set(np.zeros((4, 3)), x, y).total() == 0
    assert zero_set(np.ones((4, 3, 2)), x, y).total().tolist() == [0, 0]
    z = np.ones((4, 3))
    z[0] = 0.0  # the line runs through the points of the first site
    assert zero_set(z, x, y).total() == pytest.approx(y[-1] - y[0])


def test_a_flat_place_has_no_speed():
    """|∇z| = 0 on a line only if z is not that of the line; there is then no direction to move in."""
    x = y = np.array([0.0, 1.0])
    z = np.array([[1.0, -1.0], [-1.0, 1.0]])
    lines = zero_set(z, x, y)
    flat = normal_speed(np.zeros((2, 2)), np.ones((2, 2)), x, y, lines)
    assert flat[0].tolist() == [0, 0] and flat[1].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("z", "x", "y", "period", "message"),
    [
        (np.zeros((3, 3)), [0, 1], [0, 1, 2], None, r"^zero set: z of shape \(3, 3\) does not stand at 2 x 3 points"),
        (
            np.zeros((1, 3)),
            [0],
            [0, 1, 2],
            None,
            "^zero set: lines need two points or more along x and y, here are 1 x",
        ),
        (np.zeros((2, 3)), [0, 1], [0, 2, 1], None, "^zero set: the coordinates x and y must increase"),
        (np.zeros((2, 3)), [0, 1], [0, 1, 2], 2.0, "^zero set: period 2 is not longer than the 2 that y covers"),
    ],
)
def test_refused_in_one_line(z, x, y, period, message):
    with pytest.raises(InputError, match=message):
        zero_set(z, np.array(x, float), np.array(y, float), period=period)
