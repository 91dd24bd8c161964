"""Activation functions σ with their first two derivatives, for every array-API namespace.

The network needs σ and σ', the field's order-1 terms need σ''. All functions act element-wise, keep shape and
dtype, and are overflow-safe: for every finite argument they are finite, without a warning.
"""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import array_api_compat as compat
from array_api_compat import array_namespace

from bbdfield.errors import InputError

# Arrays come from NumPy, CuPy, PyTorch, ...: the namespaces share no type that a checker could use.
Array = Any
Elementwise = Callable[[Array], Array]

_DIFFERENCE_STEP = 1e-3


@dataclass(frozen=True)
class Activation:
    """An activation σ(x) and its derivatives.

    Parameters
    ----------
    name : str
        The name by which a configuration asks for it.
    f, df, d2f : callable
        σ, σ', σ'': element-wise, array in, array of the same shape and dtype out.
    combined : callable, optional
        x ↦ (σ(x), σ'(x)) when sharing work makes it faster than the two calls.
    """

    name: str
    f: Elementwise
    df: Elementwise
    d2f: Elementwise
    combined: Callable[[Array], tuple[Array, Array]] | None = None

    def value_and_slope(self, x: Array) -> tuple[Array, Array]:
        """Return (σ(x), σ'(x)); for tanh, for instance, σ' = 1 − σ² costs no second tanh."""
        return self.combined(x) if self.combined is not None else (self.f(x), self.df(x))


def erf(x: Array) -> Array:
    """Return the error function of `x`, which the array API lacks.

    Each library's own erf is used where it has one; any other array makes a round trip through NumPy.
    """
    for belongs, module in (
        (compat.is_numpy_array, "scipy.special"),
        (compat.is_cupy_array, "cupyx.scipy.special"),
        (compat.is_torch_array, "torch.special"),
    ):
        if belongs(x):
            return importlib.import_module(module).erf(x)
    import numpy as np
    from scipy.special import erf as host_erf

    host = np.from_dlpack(x, device="cpu")
    return array_namespace(x).asarray(host_erf(host), device=compat.device(x))


def _tanh(x: Array) -> Array:
    return array_namespace(x).tanh(x)


def _tanh_both(x: Array) -> tuple[Array, Array]:
    t = array_namespace(x).tanh(x)
    return t, 1.0 - t * t


def _tanh_d2(x: Array) -> Array:
    t, slope = _tanh_both(x)
    return -2.0 * t * slope


def _sigmoid_both(x: Array) -> tuple[Array, Array]:
    # exp of a non-positive number only: no overflow, and full relative accuracy in both tails.
    xp = array_namespace(x)
    e = xp.exp(-xp.abs(x))
    inverse = 1.0 / (1.0 + e)
    small = e * inverse
    return xp.where(x >= 0, inverse, small), small * inverse


def _sigmoid_d2(x: Array) -> Array:
    # σ'' = σ'(1 − 2σ) and 1 − 2σ = −tanh(x/2), which does not cancel at x = 0.
    return -_sigmoid_both(x)[1] * array_namespace(x).tanh(0.5 * x)


def _positive_part(x: Array) -> Array:
    xp = array_namespace(x)
    return xp.maximum(x, xp.zeros_like(x))


def _softplus_both(x: Array) -> tuple[Array, Array]:
    # log(1 + eˣ) = max(x, 0) + log(1 + e^{−|x|})
    xp = array_namespace(x)
    e = xp.exp(-xp.abs(x))
    return _positive_part(x) + xp.log1p(e), xp.where(x >= 0, xp.ones_like(x), e) / (1.0 + e)


def _relu_slope(x: Array) -> Array:
    return array_namespace(x).astype(x > 0, x.dtype)


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1.0 + erf(x * math.sqrt(0.5)))


def _normal_tail(x: Array) -> tuple[Array, Array]:
    """Return a = min(|x|, 40) and the normal density φ(a): φ(40) is exactly 0, and a² can't overflow."""
    xp = array_namespace(x)
    a = xp.minimum(xp.abs(x), xp.full_like(x, 40.0))
    return a, xp.exp(-0.5 * a * a) * (1.0 / math.sqrt(2.0 * math.pi))


def _gelu_both(x: Array) -> tuple[Array, Array]:
    cdf = _normal_cdf(x)
    return x * cdf, cdf + x * _normal_tail(x)[1]


def _gelu_d2(x: Array) -> Array:
    a, density = _normal_tail(x)
    return density * (2.0 - a * a)


def _zeros(x: Array) -> Array:
    return array_namespace(x).zeros_like(x)


def _ones(x: Array) -> Array:
    return array_namespace(x).ones_like(x)


_BUILT_IN = {
    a.name: a
    for a in (
        Activation("tanh", _tanh, lambda x: _tanh_both(x)[1], _tanh_d2, _tanh_both),
        Activation(
            "sigmoid",
            lambda x: _sigmoid_both(x)[0],
            lambda x: _sigmoid_both(x)[1],
            _sigmoid_d2,
            _sigmoid_both,
        ),
        Activation(
            "softplus",
            lambda x: _softplus_both(x)[0],
            lambda x: _softplus_both(x)[1],
            lambda x: _sigmoid_both(x)[1],
            _softplus_both,
        ),
        Activation("relu", _positive_part, _relu_slope, _zeros),
        Activation("gelu", lambda x: x * _normal_cdf(x), lambda x: _gelu_both(x)[1], _gelu_d2, _gelu_both),
        # A copy, so that no caller writes into its argument by writing into the result.
        Activation("identity", lambda x: array_namespace(x).asarray(x, copy=True), _ones, _zeros),
    )
}
_REGISTERED: dict[str, Activation] = {}


def is_built_in(name: str) -> bool:
    """Whether every process knows this activation without being told."""
    return name in _BUILT_IN


def activation_names() -> tuple[str, ...]:
    """Return the names that `get_activation` knows: the built-in ones, then the user's own."""
    return (*_BUILT_IN, *_REGISTERED)


def get_activation(name: str) -> Activation:
    """Return the activation called `name`; raise InputError, listing the known names, if there is none."""
    found = _BUILT_IN.get(name) or _REGISTERED.get(name)
    if found is None:
        known = ", ".join(activation_names())
        raise InputError(f"unknown activation {name!r}: use one of {known}, or register your own first")
    return found


def register_activation(name: str, f: Elementwise, df: Elementwise, d2f: Elementwise | None = None) -> Activation:
    """Make the user's own activation known under `name`, and return it.

    Parameters
    ----------
    name : str
        A new name; registering one's own name again replaces it, a built-in one is refused.
    f, df : callable
        σ and σ', element-wise. Use `array_api_compat.array_namespace(x)` inside to run on every backend.
    d2f : callable, optional
        σ''. Without it, σ'' is the fourth-order central difference of σ' with step h = 1e-3,
        [8 (σ'(x+h) − σ'(x−h)) − (σ'(x+2h) − σ'(x−2h))] / 12h, whose error is h⁴|σ⁽⁶⁾|/30 plus about 1e-13 of
        rounding in double precision; within 2h of a kink it means nothing.

    Raises
    ------
    InputError
        If the name is empty or built-in, or a function is not callable.
    """
    if not isinstance(name, str) or not name:
        raise InputError(f"register_activation: the name must be a non-empty string, got {name!r}")
    if name in _BUILT_IN:
        raise InputError(f"register_activation: {name!r} is built in and stays so; choose another name")
    for label, function in (("f", f), ("df", df), ("d2f", d2f)):
        if not callable(function) and not (label == "d2f" and function is None):
            raise InputError(f"register_activation: {label} of {name!r} must be a function, got {function!r}")

    def difference(x: Array) -> Array:
        h = _DIFFERENCE_STEP
        near, far = df(x + h) - df(x - h), df(x + 2 * h) - df(x - 2 * h)
        return (8.0 * near - far) / (12.0 * h)

    _REGISTERED[name] = Activation(name, f, df, d2f if d2f is not None else difference)
    return _REGISTERED[name]
