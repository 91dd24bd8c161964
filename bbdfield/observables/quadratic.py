"""The stationary state of SGD on a quadratic loss ℓ = ½ θᵀHθ, with noise of covariance N in every gradient.

    v' = μ v − η (Hθ + ξ),   θ' = θ + v',   ⟨ξξᵀ⟩ = N, independent from step to step

μ = 0 is plain SGD. N is the covariance of the minibatch gradient: C/B, with the factor of sampling without replacement
(`bbdfield.observables.noise`). In one dimension, H = h and N = s²,

    Var θ = η s² (1+μ) / (h (1−μ) (2(1+μ) − ηh)),      ⟨v²⟩ = 2ηh/(1+μ) Var θ,      stable for 0 < ηh < 2(1+μ)

In more dimensions the covariance Σ solves, to lowest order in ηH, HΣ + ΣH = ηN (times 1/(1−μ) with momentum), and
exactly the discrete Lyapunov equation of the linear map (θ, v) → (θ', v'), from which the forms above follow. The
derivations are in docs/temperature.md. Stationary balance: Yaida, arXiv 1810.00004.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_discrete_lyapunov

from bbdfield.errors import InputError
from bbdfield.observables.noise import sampling_factor

Array = npt.NDArray[np.float64]


def check_stable(curvature: float, rate: float, momentum: float = 0.0) -> None:
    """Raise InputError unless chains of this curvature have a stationary state: 0 < ηh < 2(1+μ), 0 <= μ < 1."""
    if not 0 <= momentum < 1:
        raise InputError(f"momentum = {momentum:g}: needs a number >= 0 and < 1")
    if not (rate > 0 and 0 < rate * curvature < 2 * (1 + momentum)):
        raise InputError(
            f"rate · curvature = {rate * curvature:.4g}: no stationary state; needs 0 < ηh < 2(1+μ) ="
            f" {2 * (1 + momentum):g}, so use another rate"
        )


def position_variance(curvature: float, noise: float, rate: float, momentum: float = 0.0) -> float:
    """Var θ in one dimension; `noise` is s², the variance of the gradient.

    Raises
    ------
    InputError
        where there is no stationary state, or for a negative variance.
    """
    check_stable(curvature, rate, momentum)
    _check_variance("noise", noise)
    above = rate * noise * (1 + momentum)
    return above / (curvature * (1 - momentum) * (2 * (1 + momentum) - rate * curvature))


def velocity_variance(curvature: float, noise: float, rate: float, momentum: float = 0.0) -> float:
    """⟨v²⟩ = 2ηh/(1+μ) Var θ in one dimension: the stationary ⟨θ·∇ℓ⟩ = (1+μ)/(2η) ⟨v²⟩ of Yaida."""
    return 2 * rate * curvature / (1 + momentum) * position_variance(curvature, noise, rate, momentum)


def epoch_variance(curvature: float, spread: float, rate: float, batch: int, count: int) -> float:
    """Var θ of plain SGD in one dimension when epochs of n samples are cut into K = ⌊n/B⌋ minibatches.

    Averaged over the steps of an epoch. Minibatches of one epoch have covariance c = −S/n, so that, with ρ = 1 − ηh
    and noise variance a = S(1/B − 1/n), k steps after the beginning of an epoch

        Var_k = ρ^{2k} Var_0 + η² [(a − c) Σ_{j<k} ρ^{2j} + c (Σ_{j<k} ρ^j)²],      Var_K = Var_0

    Slow directions, ηhK ≪ 1, are much colder than with independent minibatches, as an epoch's noise sums to zero;
    those that overshoot, ηh > 1, are hotter.

    Parameters
    ----------
    spread : S, the variance of the samples' gradients (with n − 1).

    Raises
    ------
    InputError
        where there is no stationary state, for a negative variance, or an impossible minibatch.
    """
    check_stable(curvature, rate)
    _check_variance("spread", spread)
    sampling_factor(batch, count)
    rho, per_epoch = 1 - rate * curvature, count // batch
    own, shared = spread / batch, -spread / count
    steps = np.arange(1, per_epoch + 1)
    squares, sums = np.cumsum(rho ** (2.0 * (steps - 1))), np.cumsum(rho ** (steps - 1.0))
    made = rate**2 * (own * squares + shared * sums**2)
    decay = rho ** (2.0 * steps)
    start = made[-1] / (1 - decay[-1])
    return float(np.mean(decay * start + made))


def _check_variance(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise InputError(f"{name} = {value:g}: is a variance, so it needs a finite number >= 0")


def _check_matrices(hessian: Array, noise: Array) -> tuple[Array, Array]:
    h, n = np.asarray(hessian, float), np.asarray(noise, float)
    if h.ndim != 2 or h.shape[0] != h.shape[1] or n.shape != h.shape:
        raise InputError(f"quadratic loss: needs H and N of one square shape, got {h.shape} and {n.shape}")
    if not (np.allclose(h, h.T, rtol=1e-10, atol=0) and np.linalg.eigvalsh(h)[0] > 0):
        raise InputError("quadratic loss: needs a symmetric, positive definite H, or there is no stationary state")
    return h, n


def lyapunov(hessian: Array, noise: Array, rate: float) -> Array:
    """Σ of HΣ + ΣH = ηN, the stationary covariance to lowest order in ηH.

    In the eigenbasis of H: Σ_ij = η N_ij/(h_i + h_j).

    Raises
    ------
    InputError
        unless H is symmetric and positive definite.
    """
    h, n = _check_matrices(hessian, noise)
    values, vectors = np.linalg.eigh(h)
    inside = vectors.T @ n @ vectors
    result: Array = vectors @ (rate * inside / (values[:, None] + values)) @ vectors.T
    return result


def stationary_covariance(hessian: Array, noise: Array, rate: float, momentum: float = 0.0) -> tuple[Array, Array]:
    """Exact (⟨θθᵀ⟩, ⟨vvᵀ⟩): X = A X Aᵀ + Q of the map x' = Ax + (−η)(ξ, ξ), x = (θ, v).

    Raises
    ------
    InputError
        unless H is symmetric and positive definite, and the chain stable.
    """
    h, n = _check_matrices(hessian, noise)
    check_stable(float(np.linalg.eigvalsh(h)[-1]), rate, momentum)
    one, size = np.eye(len(h)), len(h)
    step = np.block([[one - rate * h, momentum * one], [-rate * h, momentum * one]])
    whole = solve_discrete_lyapunov(step, rate**2 * np.block([[n, n], [n, n]]))
    return whole[:size, :size], whole[size:, size:]


def simulate(
    hessian: Array,
    noise: Array,
    rate: float,
    *,
    momentum: float = 0.0,
    chains: int,
    steps: int,
    rng: np.random.Generator,
) -> tuple[Array, Array, Array]:
    """(θ, v, Hθ) of independent chains after `steps` steps from rest at 0, each (chains, d).

    v is the velocity of the next step and Hθ the gradient before it, as they stand in ⟨θ·∇ℓ⟩ = (1+μ)/(2η) ⟨v²⟩.

    Averages over chains have standard errors by their number, whatever the memory of each chain. Chains forget their
    start as max(|1 − ηh|, √μ)^steps.
    """
    h, n = _check_matrices(hessian, noise)
    check_stable(float(np.linalg.eigvalsh(h)[-1]), rate, momentum)
    values, vectors = np.linalg.eigh((n + n.T) / 2)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    theta, v = np.zeros((2, chains, len(h)))
    for _ in range(steps):
        v = momentum * v - rate * (theta @ h + rng.standard_normal((chains, len(h))) @ root.T)
        theta = theta + v
    force = theta @ h
    v = momentum * v - rate * (force + rng.standard_normal((chains, len(h))) @ root.T)
    return theta, v, force


def mixing_steps(curvature: float, rate: float, momentum: float = 0.0, left: float = 1e-4) -> int:
    """Steps after which less than `left` of a chain's start is left, in one dimension."""
    check_stable(curvature, rate, momentum)
    trace = 1 + momentum - rate * curvature
    root = np.roots([1.0, -trace, momentum])
    # twice as many: at critical damping the decay is k·ρ^k
    return math.ceil(2 * math.log(left) / math.log(min(max(float(np.abs(root).max()), 1e-12), 1 - 1e-12))) + 1
