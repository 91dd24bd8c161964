"""Forces: the equations of motion in (W, z), and back-propagation as their solution.

    f[m] = μ_b (d/dt + γ) ḃ[m],      δ_p[m] = ∂ℓ/∂z_p[m]
    replica p:    δ_p[m] = (s + 𝒲[m] diag σ'(z_p[m]))ᵀ δ_p[m+1],      δ_p[M] = ∂ℓ/∂z_p[M]
    one sample:   f[m−1] = (s + 𝒲[m] diag σ'(z[m]))ᵀ f[m]  for 1 ≤ m < M,   f[M−1] = −∂ℓ/∂z[M]:   δ[m+1] = −f[m]
    a batch:      f[m] = −Σ_p δ_p[m+1];  f itself obeys no local equation

ℓ is the mean over the batch, so δ_p holds the factor 1/P and the average over replicas is the *sum* over the samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bbdfield.decomposition.maps import (
    Array,
    Arrays,
    PerGroup,
    Rule,
    adjoint,
    as_arrays,
    check_neurons,
    check_same,
    outer,
)
from bbdfield.errors import InputError


@dataclass(frozen=True)
class Gradients:
    """∂ℓ/∂θ of every group, in the layouts of the parameters; r is None where there is no readout."""

    w: list[Array]
    b: list[Array]
    r: Array | None = None


def pull_back(rule: Rule, m: int, w: Array, z: Array, cotangent: Array) -> Array:
    """Return (s + 𝒲[m] diag σ'(z[m]))ᵀ g."""
    return rule.skipped(m, cotangent) + rule.sigma(m).df(z) * adjoint(w, cotangent, rule.padding)


def backpropagate(rule: Rule, W: Arrays, z: Arrays, delta_last: Array) -> list[Array]:
    """Return δ[0] … δ[M] of every replica, (n, P) or (N, C, P), from δ[M] = ∂ℓ/∂z[M]."""
    weights, sites = as_arrays("W", W), as_arrays("z", z)
    check_neurons(rule, weights, sites)
    delta = as_arrays("delta", [delta_last])
    check_same("delta", delta, "z[M:]", sites[-1:])
    for m in reversed(range(len(weights))):
        delta.insert(0, pull_back(rule, m, weights[m], sites[m], delta[0]))
    return delta


def gradients(rule: Rule, W: Arrays, z: Arrays, delta: Arrays, gradient_r: Array | None = None) -> Gradients:
    """Return ∂ℓ/∂W[m] = Σ_p δ_p[m+1] ⊗ σ(z_p[m]) and ∂ℓ/∂b[m] = Σ_p δ_p[m+1]; that of R is passed on."""
    w = [
        outer(np.shape(W[m]), np.asarray(delta[m + 1]), rule.sigma(m).f(np.asarray(z[m])), rule.padding)
        for m in range(len(W))
    ]
    return Gradients(w, [np.sum(delta[m + 1], axis=-1) for m in range(len(W))], gradient_r)


def descent(gradient: Gradients, rates: PerGroup) -> Gradients:
    """Return the velocities of overdamped motion, θ̇_g = −η_g ∂ℓ/∂θ_g, η_g = 1/(μ_g γ)."""
    return Gradients(
        [-rates.w * g for g in gradient.w],
        [-rates.b * g for g in gradient.b],
        None if gradient.r is None else -rates.r * gradient.r,
    )


def accelerations(velocity: Gradients, gradient: Gradients, mu: PerGroup, gamma: float) -> Gradients:
    """Return θ̈_g = −γ θ̇_g − (∂ℓ/∂θ_g)/μ_g, the equations of motion of (W, b, R)."""
    for name in ("w", "b", "r"):
        if getattr(mu, name) == 0 and getattr(gradient, name) is not None:
            raise InputError(
                f"group {name}: second-order motion needs an inertia > 0; use `descent` for overdamped motion"
            )

    def law(rate: Array, g: Array, inertia: float) -> Array:
        return -gamma * rate - g / inertia

    return Gradients(
        [law(rate, g, mu.w) for rate, g in zip(velocity.w, gradient.w, strict=True)],
        [law(rate, g, mu.b) for rate, g in zip(velocity.b, gradient.b, strict=True)],
        None if velocity.r is None or gradient.r is None else law(velocity.r, gradient.r, mu.r),
    )


def forces(bdot: Arrays, bddot: Arrays, mu_b: float, gamma: float) -> list[Array]:
    """Return f[m] = μ_b (b̈[m] + γ ḃ[m]); b̈ may come from (W, z) by `substitution.bias_accelerations`."""
    return [
        mu_b * (second + gamma * rate)
        for rate, second in zip(as_arrays("bdot", bdot), as_arrays("bddot", bddot), strict=True)
    ]


def one_sample_residuals(rule: Rule, W: Arrays, z: Arrays, f: Arrays, delta_last: Array) -> Array:
    """Return, per layer m = 1 … M, how far f is from the one-sample equation, relative to |f[m−1]| and its operands.

    Entry m−1 holds |f[m−1] − (s + 𝒲[m] diag σ'(z[m]))ᵀ f[m]| for m < M, and |f[M−1] + ∂ℓ/∂z[M]| for m = M.

    Raises
    ------
    InputError
        For more than one sample: f then obeys no local equation (see `batch_mean_errors`).
    """
    weights, sites, given = as_arrays("W", W), as_arrays("z", z), as_arrays("f", f)
    check_neurons(rule, weights, sites)
    if sites[0].shape[-1] != 1:
        raise InputError(
            f"forces: the local equation of f holds for one sample, not for a batch of {sites[0].shape[-1]};"
            " use the replicas' own δ (backpropagate)"
        )
    expected = [pull_back(rule, m, weights[m], sites[m], given[m][..., None])[..., 0] for m in range(1, len(weights))]
    expected.append(-np.asarray(delta_last, dtype=float)[..., 0])
    return np.array([_relative(got - want, got, want) for got, want in zip(given, expected, strict=True)])


def batch_mean_errors(rule: Rule, W: Arrays, z: Arrays, delta: Arrays) -> Array:
    """Return, for m = 1 … M−1, the error of applying the one-sample equation to the batch's f = −Σ_p δ_p[m+1].

    | Σ_p δ_p[m] − ⟨(s + 𝒲[m] diag σ'(z_p[m]))ᵀ⟩ Σ_p δ_p[m+1] | / | Σ_p δ_p[m] |

    σ' is averaged over the batch, which is the best that an equation for the mean alone can do; what it misses is the
    correlation of σ'(z_p) with δ_p. It vanishes for one sample and for linear networks only.
    """
    weights, sites, cotangents = as_arrays("W", W), as_arrays("z", z), as_arrays("delta", delta)
    errors = []
    for m in range(1, len(weights)):
        mean = cotangents[m + 1].sum(axis=-1, keepdims=True)
        pulled = pull_back(rule, m, weights[m], sites[m], np.broadcast_to(mean, cotangents[m + 1].shape))
        exact = cotangents[m].sum(axis=-1)
        errors.append(np.linalg.norm(exact - pulled.mean(axis=-1)) / np.linalg.norm(exact))
    return np.array(errors)


def _relative(error: Array, *operands: Array) -> float:
    scale = sum(float(np.linalg.norm(term)) for term in operands)
    return float(np.linalg.norm(error)) / scale if scale > 0 else 0.0
