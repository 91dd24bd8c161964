"""The layer's map against the lattice package, its adjoint and its gradient, and what does not fit together."""

from __future__ import annotations

import numpy as np
import pytest

from bbdfield.decomposition.maps import PerGroup, Rule, adjoint, apply, outer
from bbdfield.decomposition.substitution import neurons
from bbdfield.errors import InputError
from bbdfield.lattice.network import width_operator, width_operator_adjoint

SHAPES = {"dense": (5, 7), "tied": (3, 5, 2), "untied": (6, 3, 5, 2)}


def sides(kind, rng, samples=4):
    w = rng.standard_normal(SHAPES[kind])
    before, after = ((7,), (5,)) if kind == "dense" else ((6, 2), (6, 3))
    return w, rng.standard_normal((*before, samples)), rng.standard_normal((*after, samples))


@pytest.mark.parametrize("padding", ["zeros", "circular", "reflect"])
@pytest.mark.parametrize("kind", SHAPES)
def test_adjoint_and_gradient_are_exact(kind, padding):
    w, v, g = sides(kind, np.random.default_rng(0))
    product = np.vdot(apply(w, v, padding), g)
    scale = np.linalg.norm(w) * np.linalg.norm(v) * np.linalg.norm(g)
    assert abs(product - np.vdot(v, adjoint(w, g, padding))) < 1e-14 * scale
    # 𝒲 is linear in W, so its gradient tested against W itself gives the product again, and against E_ij the entry.
    gradient = outer(w.shape, g, v, padding)
    assert abs(product - np.vdot(gradient, w)) < 1e-14 * scale
    entry = np.zeros_like(w)
    entry[tuple(n - 1 for n in w.shape)] = 1.0
    assert abs(np.vdot(apply(entry, v, padding), g) - gradient[tuple(n - 1 for n in w.shape)]) < 1e-14 * scale


@pytest.mark.parametrize("padding", ["zeros", "circular", "reflect"])
@pytest.mark.parametrize("reach", [0, 1, 3, 6])
@pytest.mark.parametrize("tied", [True, False])
def test_convolution_is_that_of_the_lattice_package(tied, reach, padding):
    rng = np.random.default_rng(reach)
    w = rng.standard_normal((2, 2 * reach + 1, 2) if tied else (6, 2, 2 * reach + 1, 2))
    v = rng.standard_normal((6, 2, 3))
    np.testing.assert_allclose(apply(w, v, padding), width_operator(w, v, padding), rtol=0, atol=1e-13)
    np.testing.assert_allclose(adjoint(w, v, padding), width_operator_adjoint(w, v, padding), rtol=0, atol=1e-13)


def zeros(*shapes):
    return [np.zeros(shape) for shape in shapes]


@pytest.mark.parametrize(
    ("rule", "W", "b", "z0", "message"),
    [
        (Rule(skip=0), zeros((4, 3), (2, 5)), zeros(4, 2), (3, 1), r"do not chain: W\[1\] .* z\[1\] of shape \(4,\)"),
        (Rule(skip=0), zeros((4, 3)), zeros(4), (2, 1), r"do not chain: W\[0\]"),
        (Rule(), zeros((4, 3)), zeros(4), (3, 1), r"skip s = 1 needs equal widths; use s = 0"),
        (Rule(), zeros((3, 3, 2)), zeros((5, 3)), (5, 2, 1), r"skip s = 1 needs equal widths"),
        (Rule(), zeros((2, 3, 2)), zeros(2), (5, 2, 1), r"b\[0\].*shared.*not invertible.*untie it to .*\(5, 2\)"),
        (Rule(), zeros((2, 3, 2)), zeros((1, 2)), (5, 2, 1), "shared along the width"),
        (Rule(), zeros((3, 3)), zeros(1), (3, 1), "shared along the width"),
        (Rule(), zeros((3, 3)), zeros((3, 3)), (3, 1), r"b\[0\] has shape \(3, 3\), but its layer needs \(3,\)"),
        (Rule(), zeros((3, 3)), zeros(3, 3), (3, 1), "2 arrays b for 1 layers"),
        (Rule(), zeros((2, 4, 2)), zeros((5, 2)), (5, 2, 1), "with T odd"),
        (Rule(), zeros((3,)), zeros(3), (3, 1), "with T odd"),
        (Rule(), zeros((7, 2, 3, 2)), zeros((5, 2)), (5, 2, 1), "do not chain"),
        (Rule(), [], [], (3, 1), "no layer"),
        (Rule(), [None], zeros(3), (3, 1), r"W\[0\] is missing"),
        (Rule(), [np.zeros((3, 3), complex)], zeros(3), (3, 1), "holds complex128, not real numbers"),
        (Rule(), zeros((3, 3)), zeros(3), (3,), r"needs \(n, P\) or \(N, C, P\)"),
        (Rule(("tanh", "relu")), zeros((3, 3)), zeros(3), (3, 1), "activation: 2 values for 1 layers"),
        (Rule(skip=(1, 0)), zeros((3, 3)), zeros(3), (3, 1), "skip: 2 values for 1 layers"),
        (Rule(padding="circular"), zeros((2, 13, 2)), zeros((5, 2)), (5, 2, 1), "6 cells but the lattice has 5"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(rule, W, b, z0, message):
    with pytest.raises(InputError, match=message) as caught:
        neurons(rule, W, b, np.zeros(z0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "swish"}, "unknown activation 'swish'"),
        ({"activation": ("tanh", "swish")}, "unknown activation 'swish'"),
        ({"padding": "same"}, "unknown padding 'same': use one of zeros, circular, reflect"),
        ({"skip": float("nan")}, "needs finite numbers"),
        ({"skip": "yes"}, "needs finite numbers"),
    ],
)
def test_bad_rules_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Rule(**settings)


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_bad_inertias_are_refused(value):
    with pytest.raises(InputError, match="group b: needs a finite number >= 0"):
        PerGroup(b=value)
