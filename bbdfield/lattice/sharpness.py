"""How large a training step may be: the sharpness of the loss in units of the step."""

from __future__ import annotations

import numpy as np

from bbdfield.errors import InputError
from bbdfield.lattice.training import LatticeSystem

#: τ λ_max up to which explicit steps of a quadratic loss are stable
LIMITS = {"sgd": 2.0, "flow": 2.785}
#: SGD of a network survives beyond the limit (the loss is not quadratic: "edge of stability"); from here on every run
#: that we tried diverged. The flow must resolve the gradient flow, so its limit is strict.
REFUSED_FROM = {"sgd": 20.0, "flow": 2.785}


def sharpness(system: LatticeSystem, iterations: int = 20) -> float:
    """τ λ_max of the Hessian preconditioned by the rates, η^½ ∂²ℓ η^½, on the first minibatch.

    Power iteration on central differences of the gradient, from a fixed random start.
    """
    index = system.boundary.batch(0)
    parameters = [system.w, system.b, system.r]
    scales = [np.sqrt(rate) for rate in (system.rates.w, system.rates.b, system.rates.r)]
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
        when τ λ_max is beyond `REFUSED_FROM`, or not finite.
    """
    training = system.boundary.training
    size, limit = sharpness(system), REFUSED_FROM[training.dynamics]
    if not size <= limit:
        remedy = f"use training.step <= {0.9 * training.step * limit / size:.2g}" if np.isfinite(size) else "lower it"
        raise InputError(
            f"training.step = {training.step:g}: unstable step, τ λ_max = {size:.3g} at the start exceeds {limit:g}"
            f" (an explicit step is stable up to {LIMITS[training.dynamics]:g}); {remedy} or lower training.rates"
        )
    return size
