"""How large a training step may be: the sharpness of the loss in units of the step."""

from __future__ import annotations

import math

import numpy as np

from bbdfield.errors import InputError
from bbdfield.lattice.training import LatticeSystem
from bbdfield.model.architecture import Training

#: SGD of a network survives beyond the limit of stability (the loss is not quadratic: "edge of stability"); from this
#: many times the limit on, every run that we tried diverged. The flow must be resolved, so its limit is strict.
MARGIN = 10.0


def stability_limit(training: Training) -> float:
    """τ λ_max up to which a step is stable for a quadratic loss of curvature λ_max (in units of the rates η).

    SGD 2; Runge-Kutta 2.785 (with error control: any); heavy ball 2(1+β)/(γτ), as its learning rate is γτ·τη; leapfrog
    4/(γτ).
    """
    if training.damping is not None:
        damped = training.damping * training.step
        return (4 if training.dynamics == "leapfrog" else 2 * (1 + math.exp(-damped))) / damped
    if training.dynamics == "adaptive-flow":
        return math.inf
    return 2.785 if training.dynamics == "flow" else 2.0


def sharpness(system: LatticeSystem, iterations: int = 20) -> float:
    """τ λ_max of the Hessian preconditioned by the rates, η^½ ∂²ℓ η^½, on the first minibatch.

    Power iteration on central differences of the gradient, from a fixed random start: a bound from below, close after
    20 iterations.
    """
    index = system.boundary.batch(0)
    parameters, step_length = system.u, system.boundary.training.step
    scales = [np.sqrt(step_length * rate) for rate in (system.rates.w, system.rates.b, system.rates.r)]
    rng = np.random.default_rng(0)
    v = [rng.standard_normal(p.shape) for p in parameters]
    size = 0.0
    with np.errstate(all="ignore"):
        for _ in range(iterations):
            norm = float(np.sqrt(sum(float(np.sum(part**2)) for part in v)))
            if not norm > 0:
                return 0.0
            step = 1e-4
            shift = [step * scale * part / norm for scale, part in zip(scales, v, strict=True)]
            up = system.gradient(tuple(p + s for p, s in zip(parameters, shift, strict=True)), index)[1]
            down = system.gradient(tuple(p - s for p, s in zip(parameters, shift, strict=True)), index)[1]
            v = [scale * (a - b) / (2 * step) for scale, a, b in zip(scales, up, down, strict=True)]
            size = float(np.sqrt(sum(float(np.sum(part**2)) for part in v)))
    return size


def check_training_step(system: LatticeSystem) -> float:
    """τ λ_max, or a refusal when training could only diverge.

    Raises
    ------
    InputError
        when τ λ_max is far beyond `stability_limit`, or not finite.
    """
    training = system.boundary.training
    stable = stability_limit(training)
    size, limit = sharpness(system), stable * (1.0 if training.dynamics == "flow" else MARGIN)
    if not size <= limit:
        remedy = f"use training.step <= {0.9 * training.step * limit / size:.2g}" if np.isfinite(size) else "lower it"
        raise InputError(
            f"training.step = {training.step:g}: unstable step, τ λ_max = {size:.3g} at the start exceeds {limit:g}"
            f" (a step is stable up to {stable:.3g}); {remedy} or lower training.rates"
        )
    return size
