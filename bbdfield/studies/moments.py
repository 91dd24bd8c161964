"""One moment of a lattice's training: the Lagrangian by two routes, energies and currents.

    L                        from the velocities of W, b, R and the loss that the lattice's own network computes
    L_bulk, L_boundary       from W and z: z by the lattice's forward pass, ż by `decomposition.substitution`, and the
                             loss once more, by `decomposition.readout` from z[M]

Velocities come from the dynamics, never from differences of snapshots. With inertia they are part of the state. In
overdamped motion (SGD, flow) they are θ̇ = −η ∂ℓ/∂θ on the samples of that moment, η the learning rate per unit of t;
since only μγ = 1/η is fixed then, γ = 1 and μ = 1/η.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bbdfield.decomposition.energy import current, layer_energy
from bbdfield.decomposition.lagrangian import (
    BoundaryTerms,
    BulkTerms,
    LagrangianTerms,
    boundary,
    bulk,
    lagrangian,
    operand_scale,
)
from bbdfield.decomposition.maps import Array, PerGroup, Rule
from bbdfield.decomposition.readout import Output, cosine_basis
from bbdfield.decomposition.substitution import neurons
from bbdfield.lattice.training import CHUNK, LatticeSystem, Parameters
from bbdfield.model.architecture import Lattice, Training
from bbdfield.model.units import learning_rates


@dataclass(frozen=True)
class Motion:
    """Inertias μ and damping γ of S = ∫ e^{γt} L dt; μ = 0 stands for a group that is kept fixed."""

    mu: PerGroup
    gamma: float

    @classmethod
    def of(cls, lattice: Lattice, training: Training) -> Motion:
        """μ = 1/(ηγ) per group; without inertia γ = 1."""
        gamma = 1.0 if training.damping is None else training.damping
        eta = learning_rates(lattice, 1.0, training.rates)
        return cls(PerGroup(*(1.0 / (rate * gamma) if rate else 0.0 for rate in (eta.w, eta.b, eta.r))), gamma)


def terms(of: LagrangianTerms) -> float:
    """Σ of the sizes of L's own terms."""
    return float(of.weights.sum() + of.biases.sum()) + of.readout + abs(of.loss)


@dataclass(frozen=True)
class Moment:
    """What was found at one moment, for one batch.

    direct : terms of L in (W, b, R).   bulk, boundary : terms in (W, z, R).   scale : of their operands.
    energy : E (M,).   current : J (M+1,).   dissipation : 2γE (M,).   readout_intake : −∂ℓ/∂R·Ṙ.
    kinks : (M,), uses of a one-sided derivative.   z, zdot : per site, with the samples.
    """

    direct: LagrangianTerms
    bulk: BulkTerms
    boundary: BoundaryTerms
    scale: float
    energy: Array
    current: Array
    dissipation: Array
    readout_intake: float
    kinks: npt.NDArray[np.int64]
    z: list[Array]
    zdot: list[Array]
    velocity: Parameters

    @property
    def difference(self) -> float:
        """|L − L_bulk − L_boundary|."""
        return abs(self.direct.total - self.bulk.total - self.boundary.total)

    @property
    def residual(self) -> float:
        """The difference relative to the operands, which is what rounding allows."""
        return self.difference / self.scale

    @property
    def terms(self) -> float:
        """Kinetic terms of L plus |ℓ|, which are smaller than the operands: ḃ is a small difference of large ones."""
        return terms(self.direct)

    @property
    def intake(self) -> Array:
        """J[m] − J[m+1]: the power that each layer takes, (M,)."""
        return self.current[:-1] - self.current[1:]


class Observer:
    """Observes a lattice in training; what it does changes nothing in the system."""

    def __init__(self, system: LatticeSystem) -> None:
        self.system, self.lattice, self.boundary = system, system.lattice, system.boundary
        self.rule = Rule(self.lattice.activation, system.network.skip, self.lattice.padding)
        self.motion = Motion.of(self.lattice, self.boundary.training)
        network = system.network
        self.basis = cosine_basis(self.lattice.width, self.lattice.readout_modes, network.a_y, network.length_y)

    def output(self, index: npt.NDArray[np.int64]) -> Output:
        """The output boundary of these samples."""
        return Output(self.lattice.loss, self.boundary.targets[index], self.lattice.outputs, self.basis)

    def velocity(self, index: npt.NDArray[np.int64]) -> Parameters:
        """(Ẇ, ḃ, Ṙ): of the state, or −η ∂ℓ/∂θ on these samples where there is no inertia."""
        if self.boundary.training.second_order:
            return self.system.v
        rates = (self.system.rates.w, self.system.rates.b, self.system.rates.r)
        _, gradient = self.system.gradient(self.system.u, index)
        return tuple(-rate * part for rate, part in zip(rates, gradient, strict=True))

    def moment(self, index: npt.NDArray[np.int64]) -> Moment:
        """Everything about these training samples at the system's present state; the samples are taken in chunks."""
        velocity, motion = self.velocity(index), self.motion
        w_rate, b_rate, r_rate = velocity
        parts = [self._part(index[first : first + CHUNK], velocity) for first in range(0, len(index), CHUNK)]
        shares = [min(CHUNK, len(index) - first) / len(index) for first in range(0, len(index), CHUNK)]

        def mean(values: Sequence[Array]) -> Array:
            total: Array = sum(share * value for share, value in zip(shares, values, strict=True))  # type: ignore[assignment]
            return total

        def average(values: Sequence[float]) -> float:
            return float(sum(share * value for share, value in zip(shares, values, strict=True)))

        first = parts[0]
        energy = layer_energy(w_rate, b_rate, motion.mu)
        return Moment(
            lagrangian(w_rate, b_rate, r_rate, average([part.loss for part in parts]), motion.mu),
            BulkTerms(first.bulk.weights, mean([part.bulk.biases for part in parts])),
            BoundaryTerms(
                average([part.boundary.input for part in parts]),
                first.boundary.readout,
                average([part.boundary.loss for part in parts]),
            ),
            average([part.scale for part in parts]),
            energy,
            mean([part.current for part in parts]),
            2.0 * motion.gamma * energy,
            average([part.readout_intake for part in parts]),
            np.sum([part.kinks for part in parts], axis=0),
            [np.concatenate(sites, axis=-1) for sites in zip(*(part.z for part in parts), strict=True)],
            [np.concatenate(sites, axis=-1) for sites in zip(*(part.zdot for part in parts), strict=True)],
            velocity,
        )

    def _part(self, index: npt.NDArray[np.int64], velocity: Parameters) -> _Part:
        """One chunk of samples."""
        (w, b, r), (w_rate, b_rate, r_rate) = self.system.u, velocity
        network, mu = self.system.network, self.motion.mu
        start = self.boundary.input(index, self.lattice.width)
        done = network.loss_and_gradients(start, w, b, r, self.boundary.targets[index], keep_delta=True)
        moving = neurons(self.rule, w, b, start, w_rate, b_rate)
        z, zdot = list(network.forward(start, w, b)), moving.zdot or []
        loss = self.output(index).value(z[-1], r)
        assert done.delta is not None
        return _Part(
            done.loss,
            bulk(self.rule, w, w_rate, z, zdot, mu),
            boundary(self.rule, w, w_rate, z, zdot, r_rate, loss, mu),
            operand_scale(self.rule, w, w_rate, z, zdot, r_rate, loss, mu),
            current(done.delta, zdot),
            -float(np.vdot(done.gradients["r"], r_rate)),
            moving.kinks,
            z,
            zdot,
        )


@dataclass(frozen=True)
class _Part:
    loss: float
    bulk: BulkTerms
    boundary: BoundaryTerms
    scale: float
    current: Array
    readout_intake: float
    kinks: npt.NDArray[np.int64]
    z: list[Array]
    zdot: list[Array]
