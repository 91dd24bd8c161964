"""The substitution b ↔ z of arXiv 2511.02003, eq. (6), with velocities and accelerations.

    z[m+1] = s z[m] + 𝒲[m] σ(z[m]) + b[m]                                          (W, b; z[0]) → z
    b[m]   = z[m+1] − s z[m] − 𝒲[m] σ(z[m])                                        (W, z) → b
    ḃ[m]   = ż[m+1] − s ż[m] − 𝒲̇[m] σ(z[m]) − 𝒲[m] (σ'(z[m]) ż[m])                 and so on

It is invertible layer by layer where every neuron has a bias of its own. A batch of P samples gives P replicas of z
with one common b; then z has to keep to that constraint. Since b is a difference of larger terms, the natural scale of
an error in it is that of its operands |z[m+1]| + |s| |z[m]| + |𝒲| |σ|, not b itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bbdfield.decomposition.maps import (
    Array,
    Arrays,
    Rule,
    apply,
    as_arrays,
    check_biases,
    check_neurons,
    check_same,
    site_shapes,
)
from bbdfield.errors import InputError, NumericsError
from bbdfield.model.activations import Activation

#: where a built-in activation has no derivative; there σ' is the left one, as everywhere in this package: relu'(0) = 0
KINKS = {"relu": 0.0}


@dataclass(frozen=True)
class Neurons:
    """z[0] … z[M] with their velocities (None without those of the parameters).

    kinks : (M,), how many values z[m] lay exactly on a kink of σ, so that the one-sided derivative was used.
    """

    z: list[Array]
    zdot: list[Array] | None
    kinks: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Biases:
    """b[0] … b[M−1], averaged over the replicas, with their velocities (None without those of z).

    spread, spread_dot : largest difference between replicas of b and ḃ, relative to the operands: 0 to rounding if the
    samples were driven by one network.
    """

    b: list[Array]
    bdot: list[Array] | None
    spread: float
    spread_dot: float


@dataclass(frozen=True)
class RoundTrip:
    """Largest |b' − b| and |ḃ' − ḃ| after (W, b) → (W, z) → (W, b'), element by element relative to the operands."""

    b: float
    bdot: float


def count_kinks(activation: Activation, z: Array, tolerance: float = 0.0) -> int:
    """Return how many values of `z` lie within `tolerance` of a kink of the activation; exactly on it by default."""
    if activation.name not in KINKS:
        return 0
    return int(np.count_nonzero(np.abs(z - KINKS[activation.name]) <= tolerance))


def neurons(
    rule: Rule,
    W: Arrays,
    b: Arrays,
    z0: Array,
    Wdot: Arrays | None = None,
    bdot: Arrays | None = None,
    z0dot: Array | None = None,
) -> Neurons:
    """Return z[0] … z[M], and their velocities if those of W and b are given.

    Parameters
    ----------
    rule : Rule
    W, b, Wdot, bdot : lists of arrays
        In the layouts of `maps`.
    z0, z0dot : array (n, P) or (N, C, P)
        The input and its velocity: 0, the default, while the samples stay the same.

    Raises
    ------
    InputError
        If shapes do not chain, widths are unequal under a skip, or biases are shared.
    NumericsError
        If a z is not finite.
    """
    weights, biases_ = as_arrays("W", W), as_arrays("b", b)
    (start,) = as_arrays("z", [z0])
    if start.ndim < 2:
        raise InputError(f"network: z[0] has shape {start.shape}; it needs (n, P) or (N, C, P), the samples last")
    check_biases(biases_, site_shapes(rule, weights, start.shape[:-1]))
    if (Wdot is None) != (bdot is None):
        raise InputError("network: velocities are needed of both W and b, or of neither")
    w_rates: list[Array] | None = None
    b_rates: list[Array] = []
    z, zdot = [start], [np.zeros_like(start) if z0dot is None else np.asarray(z0dot, dtype=float)]
    if Wdot is not None and bdot is not None:
        w_rates, b_rates = as_arrays("Wdot", Wdot), as_arrays("bdot", bdot)
        check_same("Wdot", w_rates, "W", weights)
        check_same("bdot", b_rates, "b", biases_)
        check_same("zdot", zdot, "z", z)
    kinks = np.zeros(len(weights), dtype=np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        for m, w in enumerate(weights):
            sigma = rule.sigma(m)
            value, slope = sigma.value_and_slope(z[m])
            kinks[m] = count_kinks(sigma, z[m])
            z.append((rule.skipped(m, z[m]) + apply(w, value, rule.padding)) + biases_[m][..., None])
            if w_rates is not None:
                moved = apply(w_rates[m], value, rule.padding) + apply(w, slope * zdot[m], rule.padding)
                zdot.append((rule.skipped(m, zdot[m]) + moved) + b_rates[m][..., None])
            if not (np.isfinite(z[-1]).all() and np.isfinite(zdot[-1]).all()):
                raise NumericsError(f"network: z[{m + 1}] or its velocity is not finite; the weights are too large")
    return Neurons(z, zdot if w_rates is not None else None, kinks)


def _checked(
    rule: Rule, W: Arrays, z: Arrays, Wdot: Arrays | None, zdot: Arrays | None
) -> tuple[list[Array], list[Array], list[Array], list[Array]]:
    weights, sites = as_arrays("W", W), as_arrays("z", z)
    check_neurons(rule, weights, sites)
    if (Wdot is None) != (zdot is None):
        raise InputError("network: velocities are needed of both W and z, or of neither")
    if Wdot is None or zdot is None:
        return weights, sites, [], []
    w_rates, z_rates = as_arrays("Wdot", Wdot), as_arrays("zdot", zdot)
    check_same("Wdot", w_rates, "W", weights)
    check_same("zdot", z_rates, "z", sites)
    return weights, sites, w_rates, z_rates


def replicas(
    rule: Rule, W: Arrays, z: Arrays, Wdot: Arrays | None = None, zdot: Arrays | None = None
) -> tuple[list[Array], list[Array] | None]:
    """Return b and ḃ of every replica, (n, P) or (N, C, P) per layer: all the same to rounding, if z is a network's."""
    weights, sites, w_rates, z_rates = _checked(rule, W, z, Wdot, zdot)
    values, rates = [], []
    for m, w in enumerate(weights):
        value, slope = rule.sigma(m).value_and_slope(sites[m])
        values.append(sites[m + 1] - (rule.skipped(m, sites[m]) + apply(w, value, rule.padding)))
        if w_rates:
            moved = apply(w_rates[m], value, rule.padding) + apply(w, slope * z_rates[m], rule.padding)
            rates.append(z_rates[m + 1] - (rule.skipped(m, z_rates[m]) + moved))
    return values, rates if w_rates else None


def operands(
    rule: Rule, W: Arrays, z: Arrays, Wdot: Arrays | None = None, zdot: Arrays | None = None
) -> tuple[list[Array], list[Array] | None]:
    """Return the sizes of what b and ḃ are differences of, |z[m+1]| + |s||z[m]| + |𝒲||σ| and the same for ḃ."""
    weights, sites, w_rates, z_rates = _checked(rule, W, z, Wdot, zdot)
    values, rates = [], []
    for m, w in enumerate(weights):
        value, slope = rule.sigma(m).value_and_slope(sites[m])
        size = apply(np.abs(w), np.abs(value), rule.padding)
        values.append(np.abs(sites[m + 1]) + np.abs(rule.skipped(m, sites[m])) + size)
        if w_rates:
            size = apply(np.abs(w_rates[m]), np.abs(value), rule.padding)
            size += apply(np.abs(w), np.abs(slope * z_rates[m]), rule.padding)
            rates.append(np.abs(z_rates[m + 1]) + np.abs(rule.skipped(m, z_rates[m])) + size)
    return values, rates if w_rates else None


def worst_ratio(errors: list[Array], scales: list[Array]) -> float:
    """Return the largest |error| / scale over all entries; where both vanish there is no error."""
    worst = 0.0
    for error, scale in zip(errors, scales, strict=True):
        off = np.abs(error)
        if np.any((scale == 0) & (off > 0)):
            return float("inf")
        worst = max(worst, float(np.max(off / np.where(scale == 0, 1.0, scale))))
    return worst


def biases(rule: Rule, W: Arrays, z: Arrays, Wdot: Arrays | None = None, zdot: Arrays | None = None) -> Biases:
    """Return b[0] … b[M−1], and ḃ if the velocities of W and z are given: the inverse of `neurons`.

    Raises
    ------
    InputError
        If shapes do not chain or only one of the velocities is given.
    """
    values, rates = replicas(rule, W, z, Wdot, zdot)
    scales, rate_scales = operands(rule, W, z, Wdot, zdot)
    means = [value.mean(axis=-1) for value in values]
    spread = worst_ratio([np.ptp(value, axis=-1) for value in values], [scale.max(axis=-1) for scale in scales])
    if rates is None or rate_scales is None:
        return Biases(means, None, spread, 0.0)
    spread_dot = worst_ratio([np.ptp(rate, axis=-1) for rate in rates], [scale.max(axis=-1) for scale in rate_scales])
    return Biases(means, [rate.mean(axis=-1) for rate in rates], spread, spread_dot)


def round_trip(
    rule: Rule, W: Arrays, b: Arrays, z0: Array, Wdot: Arrays, bdot: Arrays, z0dot: Array | None = None
) -> RoundTrip:
    """Go (W, b) → (W, z) → (W, b) with velocities and return what is lost, relative to the operands."""
    there = neurons(rule, W, b, z0, Wdot, bdot, z0dot)
    values, rates = replicas(rule, W, there.z, Wdot, there.zdot)
    scales, rate_scales = operands(rule, W, there.z, Wdot, there.zdot)
    return RoundTrip(
        worst_ratio([value - given[..., None] for value, given in zip(values, as_arrays("b", b), strict=True)], scales),
        worst_ratio(
            [rate - given[..., None] for rate, given in zip(rates or [], as_arrays("bdot", bdot), strict=True)],
            rate_scales or [],
        ),
    )


def neuron_accelerations(
    rule: Rule,
    W: Arrays,
    Wdot: Arrays,
    Wddot: Arrays,
    bddot: Arrays,
    z: Arrays,
    zdot: Arrays,
    z0ddot: Array | None = None,
) -> list[Array]:
    """Return z̈[0] … z̈[M] of samples whose z, ż are known:

    z̈[m+1] = s z̈ + 𝒲̈ σ + 2 𝒲̇(σ' ż) + 𝒲(σ'' ż² + σ' z̈) + b̈[m]
    """
    weights, sites, w_rates, z_rates = _checked(rule, W, z, Wdot, zdot)
    zddot = [np.zeros_like(sites[0]) if z0ddot is None else np.asarray(z0ddot, dtype=float)]
    for m in range(len(weights)):
        moved = _second_order(rule, m, weights[m], w_rates[m], np.asarray(Wddot[m]), sites[m], z_rates[m], zddot[m])
        zddot.append(rule.skipped(m, zddot[m]) + moved + np.asarray(bddot[m])[..., None])
    return zddot


def bias_accelerations(
    rule: Rule, W: Arrays, Wdot: Arrays, Wddot: Arrays, z: Arrays, zdot: Arrays, zddot: Arrays
) -> list[Array]:
    """Return b̈[0] … b̈[M−1] from (W, z) and their first two derivatives, averaged over the replicas."""
    weights, sites, w_rates, z_rates = _checked(rule, W, z, Wdot, zdot)
    result = []
    for m in range(len(weights)):
        second = np.asarray(zddot[m], dtype=float)
        moved = _second_order(rule, m, weights[m], w_rates[m], np.asarray(Wddot[m]), sites[m], z_rates[m], second)
        result.append((np.asarray(zddot[m + 1]) - rule.skipped(m, second) - moved).mean(axis=-1))
    return result


def _second_order(
    rule: Rule, m: int, w: Array, w_rate: Array, w_second: Array, z: Array, zdot: Array, zddot: Array
) -> Array:
    """d²/dt² of 𝒲 σ(z)."""
    sigma = rule.sigma(m)
    value, slope = sigma.value_and_slope(z)
    return (
        apply(w_second, value, rule.padding)
        + 2.0 * apply(w_rate, slope * zdot, rule.padding)
        + apply(w, sigma.d2f(z) * zdot**2 + slope * zddot, rule.padding)
    )
