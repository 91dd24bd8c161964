"""The Lagrangian in (W, b, R), arXiv 2511.02003 eq. (5), and its bulk and boundary in (W, z, R), eq. (7).

    L          = Σ_m ( μ_W/2 |Ẇ[m]|² + μ_b/2 |ḃ[m]|² ) + μ_R/2 |Ṙ|² − ℓ
    L_bulk     = Σ_{m≥0} μ_W/2 |Ẇ[m]|² + Σ_{m≥1} μ_b/2 ⟨ |d/dt( z[m+1] − s z[m] − 𝒲[m]σ(z[m]) )|² ⟩
    L_boundary = μ_b/2 ⟨ |d/dt( z[1] − s z[0] − 𝒲[0]σ(z[0]) )|² ⟩ + μ_R/2 |Ṙ|² − ℓ
    L          = L_bulk + L_boundary

⟨…⟩ is the mean over the P replicas, each of which gives the same ḃ. `lagrangian` sees only velocities of parameters
and ℓ; `bulk` and `boundary` compute with W and z: no arithmetic serves both sides. The bulk reads neither the input
z[0] nor the targets nor the loss. (The action is ∫ e^{γt} L dt; γ does not enter L.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bbdfield.decomposition.maps import Array, Arrays, PerGroup, Rule, apply, as_arrays, check_neurons, check_same


@dataclass(frozen=True)
class LagrangianTerms:
    """Terms of L in (W, b, R): weights and biases (M,), readout and loss numbers; `total` = Σ kinetic − loss."""

    weights: Array
    biases: Array
    readout: float
    loss: float

    @property
    def total(self) -> float:
        return float(self.weights.sum() + self.biases.sum()) + self.readout - self.loss


@dataclass(frozen=True)
class BulkTerms:
    """Terms of L_bulk per layer, (M,) each. biases[0] is 0: that term belongs to the boundary."""

    weights: Array
    biases: Array

    @property
    def layers(self) -> Array:
        return self.weights + self.biases

    @property
    def total(self) -> float:
        return float(self.layers.sum())


@dataclass(frozen=True)
class BoundaryTerms:
    """Terms of L_boundary: input = the first layer's bias term, readout = μ_R/2 |Ṙ|², loss = ℓ, which is subtracted."""

    input: float
    readout: float
    loss: float

    @property
    def total(self) -> float:
        return self.input + self.readout - self.loss


def lagrangian(
    Wdot: Arrays, bdot: Arrays, Rdot: Array | None, loss: float, mu: PerGroup | None = None
) -> LagrangianTerms:
    """Return L from the parameters' velocities and the loss, eq. (5).

    Parameters
    ----------
    Wdot, bdot : lists of arrays
    Rdot : array or None
        None where there is no readout, or a fixed one.
    loss : float
        ℓ, the mean over the batch.
    mu : PerGroup
        Inertias μ_W, μ_b, μ_R; 1 by default.
    """
    mu = PerGroup() if mu is None else mu
    return LagrangianTerms(
        np.array([0.5 * mu.w * np.linalg.norm(rate) ** 2 for rate in as_arrays("Wdot", Wdot)]),
        np.array([0.5 * mu.b * np.linalg.norm(rate) ** 2 for rate in as_arrays("bdot", bdot)]),
        0.0 if Rdot is None else 0.5 * mu.r * float(np.linalg.norm(Rdot) ** 2),
        float(loss),
    )


def _sites(rule: Rule, W: Arrays, Wdot: Arrays, z: Arrays, zdot: Arrays) -> tuple[list[Array], ...]:
    given = as_arrays("W", W), as_arrays("Wdot", Wdot), as_arrays("z", z), as_arrays("zdot", zdot)
    check_neurons(rule, given[0], given[2])
    check_same("Wdot", given[1], "W", given[0])
    check_same("zdot", given[3], "z", given[2])
    return given


def _operands(
    rule: Rule, m: int, W: list[Array], Wdot: list[Array], z: list[Array], zdot: list[Array]
) -> tuple[Array, ...]:
    """The four terms of d/dt( z[m+1] − s z[m] − 𝒲[m]σ(z[m]) ), with their signs, per replica."""
    value, slope = rule.sigma(m).value_and_slope(z[m])
    return (
        zdot[m + 1],
        -np.asarray(rule.skipped(m, zdot[m])),
        -apply(Wdot[m], value, rule.padding),
        -apply(W[m], slope * zdot[m], rule.padding),
    )


def bulk(rule: Rule, W: Arrays, Wdot: Arrays, z: Arrays, zdot: Arrays, mu: PerGroup | None = None) -> BulkTerms:
    """Return L_bulk from W, z and their velocities, layer by layer, eq. (7).

    Parameters
    ----------
    rule : Rule
    W, Wdot : lists of M arrays
    z, zdot : lists of M+1 arrays (n, P) or (N, C, P)
        z[0] has its place in the list but its values are not read.
    mu : PerGroup

    Raises
    ------
    InputError
        If the shapes do not chain.
    """
    mu = PerGroup() if mu is None else mu
    given = _sites(rule, W, Wdot, z, zdot)
    samples = given[2][0].shape[-1]
    weights, biases = np.zeros(len(given[0])), np.zeros(len(given[0]))
    for m, rate in enumerate(given[1]):
        weights[m] = 0.5 * mu.w * np.sum(rate**2)
        if m > 0:
            first, *others = _operands(rule, m, *given)
            biases[m] = 0.5 * mu.b * np.sum((first + sum(others)) ** 2) / samples
    return BulkTerms(weights, biases)


def boundary(
    rule: Rule,
    W: Arrays,
    Wdot: Arrays,
    z: Arrays,
    zdot: Arrays,
    Rdot: Array | None,
    loss: float,
    mu: PerGroup | None = None,
) -> BoundaryTerms:
    """Return L_boundary: the first layer's bias term, which the data enter as z[0], the readout's kinetic term, and ℓ.

    Of W and z only W[0], z[0], z[1] are read; ℓ is the batch mean, computed from z[M] (`readout.Output.value`).
    """
    mu = PerGroup() if mu is None else mu
    given = _sites(rule, W, Wdot, z, zdot)
    first, *others = _operands(rule, 0, *given)
    kinetic = 0.5 * mu.b * float(np.sum((first + sum(others)) ** 2)) / given[2][0].shape[-1]
    readout = 0.0 if Rdot is None else 0.5 * mu.r * float(np.sum(np.asarray(Rdot) ** 2))
    return BoundaryTerms(kinetic, readout, float(loss))


def operand_scale(
    rule: Rule,
    W: Arrays,
    Wdot: Arrays,
    z: Arrays,
    zdot: Arrays,
    Rdot: Array | None,
    loss: float,
    mu: PerGroup | None = None,
) -> float:
    """Return what "to rounding" is measured by: ḃ is a difference, so its operands count, not ḃ.

    Σ_m ( μ_W/2 |Ẇ|² + μ_b/2 ⟨ |ż[m+1]|² + s²|ż[m]|² + |𝒲̇σ|² + |𝒲σ'ż|² ⟩ ) + μ_R/2 |Ṙ|² + |ℓ|
    """
    mu = PerGroup() if mu is None else mu
    given = _sites(rule, W, Wdot, z, zdot)
    samples = given[2][0].shape[-1]
    total = abs(float(loss)) + (0.0 if Rdot is None else 0.5 * mu.r * float(np.sum(np.asarray(Rdot) ** 2)))
    for m, rate in enumerate(given[1]):
        total += 0.5 * mu.w * float(np.sum(rate**2))
        total += 0.5 * mu.b * sum(float(np.sum(term**2)) for term in _operands(rule, m, *given)) / samples
    return total
