"""Energy of the layers and its continuity along depth and width.

    E[m] = ½( μ_W |Ẇ[m]|² + μ_b |ḃ[m]|² )        on links, m = 0 … M−1
    J[m] = ⟨ δ[m]·ż[m] ⟩                          on sites, m = 0 … M, towards larger m
    dE[m]/dt + J[m+1] − J[m] = −2γ E[m]

J[M] = dℓ/dt at fixed targets and readout: while the loss falls it is negative, energy enters at the output boundary and
runs towards the input. At fixed data J[0] = 0. With T = Σ_m E[m] + ½ μ_R |Ṙ|²:

    d(T + ℓ)/dt = −2γ T + J[0]
    overdamped (θ̇ = −η ∂ℓ/∂θ):   J[m+1] − J[m] = −Σ_g |θ̇_g[m]|²/η_g,   dℓ/dt = −Σ_g |θ̇_g|²/η_g + J[0]

Resolved in the width, the current through the link from neuron j of site m to neuron i of site m+1 is

    j[m]_ij = ⟨ δ[m+1]_i (s δ_ij + W_ij σ'(z_j)) ż_j ⟩,      Σ_ij j[m]_ij = J[m]

δ holds the 1/P of the mean (see `forces`), so that ⟨…⟩ is the sum over the samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bbdfield.decomposition.forces import Gradients, backpropagate, gradients
from bbdfield.decomposition.lagrangian import (
    BoundaryTerms,
    BulkTerms,
    LagrangianTerms,
    boundary,
    bulk,
    lagrangian,
    operand_scale,
)
from bbdfield.decomposition.maps import (
    Array,
    Arrays,
    PerGroup,
    Rule,
    as_arrays,
    check_neurons,
    check_same,
    patches,
)
from bbdfield.decomposition.readout import Output
from bbdfield.decomposition.substitution import neurons
from bbdfield.errors import InputError

# Layer by layer


def layer_energy(Wdot: Arrays, bdot: Arrays, mu: PerGroup) -> Array:
    """Return E[m] = ½( μ_W |Ẇ[m]|² + μ_b |ḃ[m]|² ), (M,)."""
    return np.array(
        [
            0.5 * (mu.w * np.vdot(w, w) + mu.b * np.vdot(b, b))
            for w, b in zip(as_arrays("Wdot", Wdot), as_arrays("bdot", bdot), strict=True)
        ]
    )


def layer_energy_rate(Wdot: Arrays, bdot: Arrays, Wddot: Arrays, bddot: Arrays, mu: PerGroup) -> Array:
    """Return dE[m]/dt = μ_W Ẇ·Ẅ + μ_b ḃ·b̈, (M,), from accelerations (`forces.accelerations`)."""
    return np.array(
        [
            mu.w * np.vdot(Wdot[m], Wddot[m]) + mu.b * np.vdot(bdot[m], bddot[m])
            for m in range(len(as_arrays("Wdot", Wdot)))
        ]
    )


def current(delta: Arrays, zdot: Arrays) -> Array:
    """Return J[m] = ⟨δ[m]·ż[m]⟩, (M+1,)."""
    cotangents, rates = as_arrays("delta", delta), as_arrays("zdot", zdot)
    check_same("zdot", rates, "delta", cotangents)
    return np.array([np.vdot(d, v) for d, v in zip(cotangents, rates, strict=True)])


def site_current(delta: Arrays, zdot: Arrays) -> list[Array]:
    """Return ⟨δ[m]_i ż[m]_i⟩ of every neuron, (n,) or (N, C) per site; its sum is J[m]."""
    return [np.sum(d * v, axis=-1) for d, v in zip(as_arrays("delta", delta), as_arrays("zdot", zdot), strict=True)]


def link_currents(rule: Rule, W: Arrays, z: Arrays, zdot: Arrays, delta: Arrays) -> list[Array]:
    """Return j[m] of every link between neurons, skip included, for m = 0 … M−1.

    Dense: (n_out, n_in). Convolution, tied or not: (N, C_out, T, C_in), the link that reaches cell y, channel c through
    tap u from channel c'; the skip is the centre tap. Summed over (T, C_in) it is the current that arrives at a neuron;
    summed over all it is J[m].
    """
    weights, sites = as_arrays("W", W), as_arrays("z", z)
    rates, cotangents = as_arrays("zdot", zdot), as_arrays("delta", delta)
    check_neurons(rule, weights, sites)
    check_same("zdot", rates, "z", sites)
    check_same("delta", cotangents, "z", sites)
    result = []
    for m, w in enumerate(weights):
        arriving, moved = cotangents[m + 1], rule.sigma(m).df(sites[m]) * rates[m]
        if w.ndim == 2:
            links = w * (arriving @ moved.T)
            if rule.s(m) != 0:
                links = links + rule.s(m) * np.diag(np.sum(arriving * rates[m], axis=-1))
        else:
            links = w * np.einsum("ycp,yudp->ycud", arriving, patches(moved, w.shape[-2], rule.padding))
            if rule.s(m) != 0:
                channels = np.arange(w.shape[-1])
                skipped = rule.s(m) * np.sum(arriving * rates[m], axis=-1)
                links[:, channels, w.shape[-2] // 2, channels] += skipped
        result.append(links)
    return result


def neuron_energy(Wdot: Arrays, bdot: Arrays, mu: PerGroup) -> list[Array]:
    """Return ½( μ_W Σ_j Ẇ_ij² + μ_b ḃ_i² ) of every neuron that a layer feeds; its sum over neurons is E[m].

    Raises
    ------
    InputError
        For tied weights, which belong to no one place in the width.
    """
    return _rows(Wdot, Wdot, bdot, bdot, PerGroup(0.5 * mu.w, 0.5 * mu.b))


def neuron_energy_rate(Wdot: Arrays, bdot: Arrays, Wddot: Arrays, bddot: Arrays, mu: PerGroup) -> list[Array]:
    """Return d/dt of `neuron_energy`."""
    return _rows(Wdot, Wddot, bdot, bddot, mu)


def _rows(w_one: Arrays, w_two: Arrays, b_one: Arrays, b_two: Arrays, factor: PerGroup) -> list[Array]:
    result = []
    for m, (one, two) in enumerate(zip(as_arrays("W", w_one), as_arrays("W", w_two), strict=True)):
        if one.ndim == 3:
            raise InputError(
                f"energy: the weights of layer {m} are tied and have no place in the width; use layer_energy"
            )
        rows = np.sum(one * two, axis=1 if one.ndim == 2 else (2, 3))
        result.append(factor.w * rows + factor.b * np.asarray(b_one[m]) * np.asarray(b_two[m]))
    return result


@dataclass(frozen=True)
class Continuity:
    """Residual of a continuity equation, and the sum of the sizes of its terms, entry by entry."""

    residual: Array
    scale: Array

    @property
    def worst(self) -> float:
        """Largest |residual| relative to its own terms; 0 where nothing moves."""
        return float(np.max(np.abs(self.residual) / np.where(self.scale > 0, self.scale, 1.0)))


def continuity(energy: Array, rate: Array, J: Array, gamma: float) -> Continuity:
    """Return dE[m]/dt + J[m+1] − J[m] + 2γE[m] for m = 0 … M−1."""
    return _continuity(rate, J[1:], -J[:-1], 2.0 * gamma * energy)


def overdamped_continuity(Wdot: Arrays, bdot: Arrays, J: Array, rates: PerGroup) -> Continuity:
    """Return J[m+1] − J[m] + Σ_g |θ̇_g[m]|²/η_g for m = 0 … M−1."""
    return _continuity(J[1:], -J[:-1], overdamped_dissipation(Wdot, bdot, rates))


def neuron_continuity(
    energy: list[Array], rate: list[Array], links: list[Array], sites: list[Array], gamma: float
) -> list[Continuity]:
    """Return the balance of every neuron, de_i/dt + J[m+1]_i − Σ_j j[m]_ij + 2γ e_i, per layer.

    energy, rate : from `neuron_energy`, `neuron_energy_rate`.  links : `link_currents`.  sites : `site_current`.
    """
    return [
        _continuity(
            rate[m], sites[m + 1], -links[m].sum(axis=1 if links[m].ndim == 2 else (2, 3)), 2.0 * gamma * energy[m]
        )
        for m in range(len(energy))
    ]


def _continuity(*terms: Array) -> Continuity:
    return Continuity(np.sum(terms, axis=0), np.sum(np.abs(terms), axis=0))


def overdamped_dissipation(Wdot: Arrays, bdot: Arrays, rates: PerGroup) -> Array:
    """Return Σ_g |θ̇_g[m]|²/η_g over W and b, (M,). A group at rest with η = 0 dissipates nothing."""
    result = np.zeros(len(Wdot))
    for name, velocity, eta in (("Wdot", Wdot, rates.w), ("bdot", bdot, rates.b)):
        for m, rate in enumerate(as_arrays(name, velocity)):
            result[m] += _power(rate, eta, name)
    return result


def _power(rate: Array, eta: float, name: str) -> float:
    square = float(np.vdot(rate, rate))
    if eta == 0 and square > 0:
        raise InputError(f"energy: {name} is not 0 although its learning rate is; overdamped motion is θ̇ = −η ∂ℓ/∂θ")
    return square / eta if square > 0 else 0.0


# The whole network


@dataclass(frozen=True)
class Totals:
    """Energy balance of the whole network.

    kinetic : T = Σ_m E[m] + ½ μ_R |Ṙ|² (0 in overdamped motion).   loss : ℓ.
    rate : d(T + ℓ)/dt.   dissipation : 2γT, or Σ_g |θ̇_g|²/η_g.   inflow : J[0], 0 at fixed data.
    residual : |rate + dissipation − inflow| relative to the terms it is made of.
    """

    kinetic: float
    loss: float
    rate: float
    dissipation: float
    inflow: float
    residual: float


def totals(
    velocity: Gradients, acceleration: Gradients, gradient: Gradients, J: Array, loss: float, mu: PerGroup, gamma: float
) -> Totals:
    """Return the balance d(T + ℓ)/dt = −2γT + J[0], with dℓ/dt = J[M] + ∂ℓ/∂R·Ṙ at fixed targets."""
    parts = [layer_energy(velocity.w, velocity.b, mu).sum()]
    rates = [*layer_energy_rate(velocity.w, velocity.b, acceleration.w, acceleration.b, mu), J[-1]]
    if velocity.r is not None and acceleration.r is not None and gradient.r is not None:
        parts.append(0.5 * mu.r * np.vdot(velocity.r, velocity.r))
        rates += [mu.r * np.vdot(velocity.r, acceleration.r), np.vdot(gradient.r, velocity.r)]
    kinetic = float(sum(parts))
    return _totals(kinetic, loss, rates, 2.0 * gamma * kinetic, J)


def overdamped_totals(velocity: Gradients, gradient: Gradients, J: Array, loss: float, rates: PerGroup) -> Totals:
    """Return the balance dℓ/dt = −Σ_g |θ̇_g|²/η_g + J[0], with dℓ/dt = J[M] + ∂ℓ/∂R·Ṙ at fixed targets."""
    changes, dissipation = [J[-1]], float(overdamped_dissipation(velocity.w, velocity.b, rates).sum())
    if velocity.r is not None and gradient.r is not None:
        changes.append(np.vdot(gradient.r, velocity.r))
        dissipation += _power(velocity.r, rates.r, "Rdot")
    return _totals(0.0, loss, changes, dissipation, J)


def _totals(kinetic: float, loss: float, rates: list[float], dissipation: float, J: Array) -> Totals:
    rate, inflow = float(sum(rates)), float(J[0])
    scale = sum(abs(float(term)) for term in rates) + dissipation + abs(inflow)
    residual = abs(rate + dissipation - inflow) / scale if scale > 0 else 0.0
    return Totals(kinetic, float(loss), rate, dissipation, inflow, residual)


# One moment of a training run


@dataclass(frozen=True)
class Observation:
    """Everything about one moment of training: what `observe` found.

    z, zdot, delta : per site, with the samples.  kinks : (M,), uses of a one-sided derivative.
    gradient : ∂ℓ/∂θ.  energy : E (M,).  current : J (M+1,).  readout_intake : −∂ℓ/∂R·Ṙ, the power into the readout.
    residual : |L − L_bulk − L_boundary| relative to `operand_scale`.
    """

    z: list[Array]
    zdot: list[Array]
    delta: list[Array]
    kinks: npt.NDArray[np.int64]
    loss: float
    gradient: Gradients
    lagrangian: LagrangianTerms
    bulk: BulkTerms
    boundary: BoundaryTerms
    residual: float
    energy: Array
    current: Array
    readout_intake: float

    @property
    def intake(self) -> Array:
        """J[m] − J[m+1] = dE[m]/dt + 2γE[m]: the power that layer m takes from the current, (M,)."""
        return self.current[:-1] - self.current[1:]


def observe(
    rule: Rule,
    W: Arrays,
    b: Arrays,
    R: Array | None,
    Wdot: Arrays | None,
    bdot: Arrays | None,
    Rdot: Array | None,
    z0: Array,
    output: Output,
    mu: PerGroup | None = None,
    *,
    rates: PerGroup | None = None,
    z0dot: Array | None = None,
) -> Observation:
    """Return the Lagrangian both ways, energies and currents of a network at one moment.

    Parameters
    ----------
    rule, W, b, R : the network; R (see `readout`) or None.
    Wdot, bdot, Rdot : velocities. With `rates` given they are None: the motion is overdamped and θ̇ = −η ∂ℓ/∂θ.
    z0, output : input and output boundary of the batch.
    mu : PerGroup
    rates : PerGroup, optional
        Learning rates per unit of time.

    Raises
    ------
    InputError
        If shapes do not fit, or velocities are missing.
    NumericsError
        If a z is not finite.
    """
    mu = PerGroup() if mu is None else mu
    start = np.asarray(z0, dtype=float)
    # With velocities given one pass does; overdamped motion needs the forces, and so z, before it has velocities.
    still = neurons(rule, W, b, start, Wdot, bdot, z0dot)
    loss = output.value(still.z[-1], R)
    delta_last, gradient_r = output.gradient(still.z[-1], R)
    delta = backpropagate(rule, W, still.z, delta_last)
    gradient = gradients(rule, W, still.z, delta, gradient_r)
    if rates is not None:
        if Wdot is not None or bdot is not None or Rdot is not None:
            raise InputError("observe: give velocities or learning rates (overdamped motion), not both")
        Wdot, bdot = [-rates.w * g for g in gradient.w], [-rates.b * g for g in gradient.b]
        Rdot = None if gradient_r is None else -rates.r * gradient_r
    if Wdot is None or bdot is None:
        raise InputError("observe: the velocities of W and b are missing; give them, or rates for overdamped motion")
    if Rdot is not None and (R is None or np.shape(Rdot) != R.shape):
        raise InputError(f"observe: Rdot has shape {np.shape(Rdot)}, R {None if R is None else R.shape}")
    moving = still if rates is None else neurons(rule, W, b, start, Wdot, bdot, z0dot)
    zdot = moving.zdot or []
    direct = lagrangian(Wdot, bdot, Rdot, loss, mu)
    bulk_terms = bulk(rule, W, Wdot, moving.z, zdot, mu)
    boundary_terms = boundary(rule, W, Wdot, moving.z, zdot, Rdot, loss, mu)
    scale = operand_scale(rule, W, Wdot, moving.z, zdot, Rdot, loss, mu)
    difference = abs(direct.total - bulk_terms.total - boundary_terms.total)
    return Observation(
        z=moving.z,
        zdot=zdot,
        delta=delta,
        kinks=moving.kinks,
        loss=loss,
        gradient=gradient,
        lagrangian=direct,
        bulk=bulk_terms,
        boundary=boundary_terms,
        residual=difference / scale if scale > 0 else 0.0,
        energy=layer_energy(Wdot, bdot, mu),
        current=current(delta, zdot),
        readout_intake=0.0 if gradient_r is None or Rdot is None else -float(np.vdot(gradient_r, Rdot)),
    )


@dataclass(frozen=True)
class Swap:
    """What a change of samples does at one moment, after − before: the kick that the boundary gives the bulk.

    loss : jump of ℓ, and so of the energy T + ℓ where velocities go on unchanged.   lagrangian, bulk, boundary : of L.
    kinetic : jump of E per layer (M,): 0 unless the velocities follow the force at once (overdamped).
    current : jump of J (M+1,).   intake : jump of the power that each layer takes (M,); readout_intake : the readout.
    neurons : RMS jump of z[m] relative to its RMS (M+1,); samples are compared in their order in the batch.
    """

    loss: float
    lagrangian: float
    bulk: float
    boundary: float
    kinetic: Array
    current: Array
    intake: Array
    readout_intake: float
    neurons: Array

    @property
    def through_output(self) -> float:
        """Jump of the power that enters through the output boundary: −ΔJ[M], plus what the readout takes."""
        return float(-self.current[-1] + self.readout_intake)


def swap(before: Observation, after: Observation) -> Swap:
    """Return what changes between two observations of one network with different batches of equal size.

    W, b, R are continuous, z jumps. With inertia the velocities are continuous too: then E, Ẇ, ḃ and with them L_bulk
    stay to rounding, L_boundary jumps by −Δℓ, and the forces, so the intakes of the layers, jump through J[M].
    """
    check_same("z", after.z, "z before the swap", before.z)
    jumps = [
        np.linalg.norm(new - old) / max(float(np.linalg.norm(old)), np.finfo(float).tiny)
        for old, new in zip(before.z, after.z, strict=True)
    ]
    return Swap(
        loss=after.loss - before.loss,
        lagrangian=after.lagrangian.total - before.lagrangian.total,
        bulk=after.bulk.total - before.bulk.total,
        boundary=after.boundary.total - before.boundary.total,
        kinetic=after.energy - before.energy,
        current=after.current - before.current,
        intake=after.intake - before.intake,
        readout_intake=after.readout_intake - before.readout_intake,
        neurons=np.array(jumps),
    )
