"""Activations for SIMD: σ_r(z) = r σ(z/r), its slope σ'(z/r) and curvature σ''(z/r)/r, over contiguous rows.

Branch-free where the function allows: tanh, sigmoid, relu and identity run at memory speed; softplus takes log1p and
gelu erf from the C library, one number at a time. tanh(x) = E/(E + 2) with E = e^{2|x|} − 1, and exp by reduction to
|r| <= ln2/2 and a Taylor polynomial: at most 3 units in the last place against numpy's. All arithmetic is in float64,
whatever the arrays.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from solvers.compiled import STRICT, jit

TANH, SIGMOID, SOFTPLUS, RELU, GELU, IDENTITY = range(6)
#: name -> number by which kernels know an activation
KINDS = {"tanh": TANH, "sigmoid": SIGMOID, "softplus": SOFTPLUS, "relu": RELU, "gelu": GELU, "identity": IDENTITY}

_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
#: added to a number below 2^51 it leaves the nearest integer in the low bits
_ROUND = 6755399441055744.0
_SQRT_HALF, _DENSITY = math.sqrt(0.5), 1.0 / math.sqrt(2.0 * math.pi)


def _shifted(context: Any, rounded: Any) -> Any:
    """2^k, given k + _ROUND."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        bits = builder.shl(builder.bitcast(arguments[0], word), ir.Constant(word, 52))
        return builder.bitcast(builder.add(bits, ir.Constant(word, 1023 << 52)), ir.DoubleType())

    return types.float64(types.float64), codegen


_power_of_two: Any = intrinsic(_shifted)


@jit(freedoms=STRICT, inline=True)
def _exp_parts(x):  # type: ignore[no-untyped-def]
    """(e^r − 1, 2^k) with e^x = 2^k e^r, for |x| < 708."""
    rounded = x * _LOG2E + _ROUND
    k = rounded - _ROUND
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    return r + r * r * p, _power_of_two(rounded)


@jit(freedoms=STRICT, inline=True)
def _tanh(x):  # type: ignore[no-untyped-def]
    less_one, power = _exp_parts(2.0 * min(abs(x), 20.0))
    e = power * less_one + (power - 1.0)
    return math.copysign(e / (e + 2.0), x)


@jit(freedoms=STRICT, inline=True)
def _exp_of_minus(a):  # type: ignore[no-untyped-def]
    """e^{−a} for a >= 0; below 1e-304 it stays there."""
    less_one, power = _exp_parts(-min(a, 700.0))
    return power * less_one + power


@jit(freedoms=STRICT)
def value(kind, r, z, s):  # type: ignore[no-untyped-def]
    """s = σ_r(z)."""
    by = 1.0 / r
    if kind == TANH:
        for i in range(z.size):
            s[i] = r * _tanh(by * z[i])
    elif kind == SIGMOID:
        for i in range(z.size):
            x = by * z[i]
            e = _exp_of_minus(abs(x))
            s[i] = r * ((1.0 if x >= 0.0 else e) / (1.0 + e))
    elif kind == SOFTPLUS:
        for i in range(z.size):
            x = by * z[i]
            s[i] = r * (max(x, 0.0) + math.log1p(math.exp(-abs(x))))
    elif kind == RELU:
        for i in range(z.size):
            s[i] = max(z[i], 0.0)
    elif kind == GELU:
        for i in range(z.size):
            s[i] = z[i] * 0.5 * (1.0 + math.erf(_SQRT_HALF * by * z[i]))
    else:
        for i in range(z.size):
            s[i] = z[i]


@jit(freedoms=STRICT)
def slopes(kind, r, z, first, second):  # type: ignore[no-untyped-def]
    """first = σ'(z/r), second = σ''(z/r)/r."""
    by = 1.0 / r
    if kind == TANH:
        for i in range(z.size):
            t = _tanh(by * z[i])
            d = 1.0 - t * t
            first[i] = d
            second[i] = -2.0 * by * t * d
    elif kind == SIGMOID:
        for i in range(z.size):
            x = by * z[i]
            e = _exp_of_minus(abs(x))
            d = e / ((1.0 + e) * (1.0 + e))
            first[i] = d
            second[i] = math.copysign(by * d * (1.0 - e) / (1.0 + e), -x)
    elif kind == SOFTPLUS:
        for i in range(z.size):
            x = by * z[i]
            e = _exp_of_minus(abs(x))
            first[i] = (1.0 if x >= 0.0 else e) / (1.0 + e)
            second[i] = by * e / ((1.0 + e) * (1.0 + e))
    elif kind == RELU:
        for i in range(z.size):
            first[i] = 1.0 if z[i] > 0.0 else 0.0
            second[i] = 0.0
    elif kind == GELU:
        for i in range(z.size):
            x = by * z[i]
            a = min(abs(x), 40.0)
            density = _DENSITY * _exp_of_minus(0.5 * a * a)
            first[i] = 0.5 * (1.0 + math.erf(_SQRT_HALF * x)) + x * density
            second[i] = by * density * (2.0 - a * a)
    else:
        for i in range(z.size):
            first[i] = 1.0
            second[i] = 0.0


@jit(freedoms=STRICT)
def slope(kind, r, z, first):  # type: ignore[no-untyped-def]
    """first = σ'(z/r)."""
    by = 1.0 / r
    if kind == TANH:
        for i in range(z.size):
            t = _tanh(by * z[i])
            first[i] = 1.0 - t * t
    elif kind == SIGMOID:
        for i in range(z.size):
            e = _exp_of_minus(abs(by * z[i]))
            first[i] = e / ((1.0 + e) * (1.0 + e))
    elif kind == SOFTPLUS:
        for i in range(z.size):
            x = by * z[i]
            e = _exp_of_minus(abs(x))
            first[i] = (1.0 if x >= 0.0 else e) / (1.0 + e)
    elif kind == RELU:
        for i in range(z.size):
            first[i] = 1.0 if z[i] > 0.0 else 0.0
    elif kind == GELU:
        for i in range(z.size):
            x = by * z[i]
            a = min(abs(x), 40.0)
            first[i] = 0.5 * (1.0 + math.erf(_SQRT_HALF * x)) + x * _DENSITY * _exp_of_minus(0.5 * a * a)
    else:
        for i in range(z.size):
            first[i] = 1.0


@jit(freedoms=STRICT)
def slope_of_value(kind, r, s, first):  # type: ignore[no-untyped-def]
    """first = σ'(z/r) from s = σ_r(z), without z: for tanh, relu and identity (`from_value`)."""
    by = 1.0 / r
    if kind == TANH:
        for i in range(s.size):
            t = by * s[i]
            first[i] = 1.0 - t * t
    elif kind == RELU:
        for i in range(s.size):
            first[i] = 1.0 if s[i] > 0.0 else 0.0
    else:
        for i in range(s.size):
            first[i] = 1.0


@jit
def from_value(kind):  # type: ignore[no-untyped-def]
    """Whether the slope follows from the value at no cost."""
    return kind in (TANH, RELU, IDENTITY)


def known(name: str) -> bool:
    """Whether there is compiled code for this activation."""
    return name in KINDS


__all__ = ["KINDS", "from_value", "known", "slope", "slope_of_value", "slopes", "value"]
