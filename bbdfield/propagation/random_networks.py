"""Random dense networks of finite width, to which the mean field is an approximation.

    z[m+1] = s z[m] + W σ(z[m]) + b,      W_ij ~ N(0, σ_w²/N),  b_i ~ N(0, σ_b²),  drawn anew in every layer

Two inputs of variance q and correlation c are sent through each network, and with them small changes δz, by the exact
tangents of its layers. Per layer: q and c of the pair (at the sites), and three factors (on the links),

    χ   = |δz'|²/|δz|²                       a random change
    χ_c = δz'_1·δz'_2/|δz|²                  the same random change made to both inputs
    χ_q = z'·δz'/(z·δz),  δz = z             both change in length
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bbdfield.errors import InputError
from bbdfield.model.activations import Activation, get_activation
from bbdfield.propagation.mean_field import MeanField

Array = npt.NDArray[np.float64]

#: random changes per layer: their mean halves the noise of one
_CHANGES = 4


@dataclass(frozen=True)
class Measured:
    """q, c (networks, depth + 1) and the factors chi, chi_q, chi_c (networks, depth), means over both inputs."""

    q: Array
    c: Array
    chi: Array
    chi_q: Array
    chi_c: Array


def measure(ensemble: MeanField, *, width: int, depth: int, networks: int, q: float, c: float, seed: int) -> Measured:
    """Draw `networks` networks of N = `width` and send two inputs of variance q and correlation c through each.

    Raises
    ------
    InputError
        for sizes that are too small.
    """
    for name, value, least in (("width", width, 2), ("depth", depth, 1), ("networks", networks, 1)):
        if not isinstance(value, int) or value < least:
            raise InputError(f"random networks: {name} = {value!r}: needs a whole number >= {least}")
    found = Measured(*(np.empty((networks, depth + 1 - n)) for n in (0, 0, 1, 1, 1)))
    for i in range(networks):
        rng = np.random.default_rng([seed, i])
        # exactly of variance q and correlation c, also at finite width
        basis = math.sqrt(width) * np.linalg.qr(rng.standard_normal((width, 2)))[0]
        z = math.sqrt(q) * basis @ np.array([[1.0, c], [0.0, math.sqrt(1.0 - c * c)]])
        found.q[i, 0], found.c[i, 0] = _moments(z)
        for m in range(depth):
            z, found.chi[i, m], found.chi_q[i, m], found.chi_c[i, m] = _layer(ensemble, z, rng)
            found.q[i, m + 1], found.c[i, m + 1] = _moments(z)
    return found


def _moments(z: Array) -> tuple[float, float]:
    gram = z.T @ z / len(z)
    return float(np.trace(gram)) / 2, float(gram[0, 1] / math.sqrt(gram[0, 0] * gram[1, 1]))


def _layer(ensemble: MeanField, z: Array, rng: np.random.Generator) -> tuple[Array, float, float, float]:
    """The next z (N, 2), and χ, χ_q, χ_c of a layer with fresh weights."""
    given = ensemble.activation
    sigma = given if isinstance(given, Activation) else get_activation(given)
    width, skip = len(z), ensemble.skip
    w = math.sqrt(ensemble.weight / width) * rng.standard_normal((width, width))
    b = math.sqrt(ensemble.bias) * rng.standard_normal((width, 1))
    change = rng.standard_normal((width, _CHANGES))
    value, slope = sigma.value_and_slope(z)
    columns = np.concatenate([value, slope * z, slope[:, :1] * change, slope[:, 1:] * change], axis=1)
    moved = w @ columns
    after = skip * z + moved[:, :2] + b
    radial = skip * z + moved[:, 2:4]
    first = skip * change + moved[:, 4 : 4 + _CHANGES]
    second = skip * change + moved[:, 4 + _CHANGES :]
    size = np.sum(change**2, axis=0)
    chi = 0.5 * float(np.mean(np.sum(first**2 + second**2, axis=0) / size))
    chi_c = float(np.mean(np.sum(first * second, axis=0) / size))
    chi_q = float(np.mean(np.sum(after * radial, axis=0) / np.sum(z**2, axis=0)))
    return after, chi, chi_q, chi_c
