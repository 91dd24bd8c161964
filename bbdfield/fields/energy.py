"""Energy of the fields and its continuity on the solver's own grid.

    ε_m = ½ h_x ( μ̂_w ∫[dy]du |∂_t ŵ|² + μ̂_b ∫dy |∂_t b̂|² )       cell m = 0 … n_x−1; tied ŵ has no y
    J_m = ⟨ Σ_{y,c} λ_m ∂_t ẑ_m ⟩                                    site m = 0 … n_x, towards larger x
    dε_m/dt + J_{m+1} − J_m = −2γ ε_m
    overdamped:  J_{m+1} − J_m = −h_x ( ∫[dy]du |∂_t ŵ|²/η̂_w + ∫dy |∂_t b̂|²/η̂_b )

For taps and moments Σ stands for ∫du. ε_m is the energy *in* a cell: as n_x = M, Euler and order 0 make the field the
lattice, ε_m is the lattice's E[m]. λ_m is the cotangent that the exact discrete adjoint of the march brings to site
m, with the mean over the samples and the cell of y in it, and ∂_t ẑ_m comes from the march's tangent along the
fields' velocities. The equation is then an identity of the discretised theory, for every n_x, order, padding and
depth scheme that takes its coefficients on links. RK4 also takes them at sites, interpolated over several cells, so
that no cell has an energy of its own: it is refused.

One step τ of the heavy ball, v' = βv + τa with β = e^{−γτ}, has an exact balance of its own, for the energies before
and after the step, with the current J̄ that the velocity v̄ = (βv + v')/2 drives:

    ε_m(t+τ) − β² ε_m(t) = −τ ( J̄_{m+1} − J̄_m )
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bbdfield.errors import InputError
from bbdfield.fields.marches import CHUNK
from bbdfield.fields.simulation import FieldSystem
from solvers.grids import Grid

Array = npt.NDArray[np.float64]
State = tuple[Any, ...]


@dataclass(frozen=True)
class Balance:
    """What is left of a balance, and the sum of the sizes of its terms, entry by entry."""

    residual: Array
    scale: Array

    @property
    def worst(self) -> float:
        """Largest |residual| relative to its own terms; 0 where nothing moves."""
        return float(np.max(np.abs(self.residual) / np.where(self.scale > 0, self.scale, 1.0)))


def balance(*terms: npt.ArrayLike) -> Balance:
    """Return the sum of terms that should cancel."""
    given = [np.atleast_1d(np.asarray(term, dtype=float)) for term in terms]
    return Balance(np.sum(given, axis=0), np.sum(np.abs(given), axis=0))


@dataclass(frozen=True)
class FieldEnergy:
    """Energy and current of the fields at one moment, on one set of samples.

    energy, rate, dissipation : ε_m, dε_m/dt from the accelerations, and 2γε_m, (n_x,). In overdamped motion ε is 0 and
    the dissipation Σ_g |∂_tθ̂_g|²/η̂_g.
    site_current : J_m before the sum over y, (n_x + 1, n_y).
    step_current : J̄ of the step that follows with these samples, (n_x + 1, n_y); None unless heavy ball.
    readout_energy, readout_rate, readout_dissipation : the same of R.   readout_power : ∂ℓ/∂R·∂_tR.
    """

    grid: Grid
    loss: float
    energy: Array
    rate: Array
    dissipation: Array
    site_current: Array
    step_current: Array | None
    readout_energy: float
    readout_rate: float
    readout_dissipation: float
    readout_power: float

    @property
    def current(self) -> Array:
        """J_m, (n_x + 1,)."""
        current: Array = self.site_current.sum(axis=1)
        return current

    @property
    def density(self) -> Array:
        """ε(x) = ε_m / h_x, energy per depth, (n_x,)."""
        return self.energy / self.grid.h_x

    @property
    def kinetic(self) -> float:
        """T = Σ_m ε_m + ½ μ̂_R |∂_tR|²."""
        return float(self.energy.sum()) + self.readout_energy

    def continuity(self) -> Balance:
        """dε_m/dt + J_{m+1} − J_m + dissipation, (n_x,)."""
        return balance(self.rate, self.current[1:], -self.current[:-1], self.dissipation)

    def totals(self) -> Balance:
        """d(T + ℓ)/dt + dissipation − J_0, (1,), with dℓ/dt = J_{n_x} + ∂ℓ/∂R·∂_tR at fixed targets."""
        J = self.current
        kinetic = self.rate.sum() + self.readout_rate
        dissipated = self.dissipation.sum() + self.readout_dissipation
        return balance(kinetic, J[-1], self.readout_power, dissipated, -J[0])


def observe(system: FieldSystem, index: npt.NDArray[np.int64]) -> FieldEnergy:
    """Return energy and current of the fields as they are, with the training samples `index` at the boundary.

    Velocities are the system's own: those of its state where it has inertia, else −η̂ times the gradient.

    Raises
    ------
    InputError
        for a depth scheme that takes coefficients at sites.
    """
    _require_links(system)
    training = system.boundary.training
    rates = (training.rates.w, training.rates.b, training.rates.r)
    z0 = system.boundary.input(index, system.grid.n_y)
    targets = system.boundary.targets[index]
    loss, gradient = system.gradient(system.u, z0, targets)
    gamma, after = training.damping, None
    if gamma is None:
        velocity: State = tuple(-rate * g for rate, g in zip(rates, gradient, strict=True))
        energy = change = (np.zeros(system.grid.n_x), np.zeros(system.grid.n_x), 0.0)
        lost = _quadratic(system, velocity, velocity, [1.0 / rate if rate else 0.0 for rate in rates])
    else:
        velocity = system.v
        force = tuple(-gamma * rate * g for rate, g in zip(rates, gradient, strict=True))  # −(δℓ/δθ̂)/μ̂
        acceleration = tuple(a - gamma * v for a, v in zip(force, velocity, strict=True))
        inertia = _inertia(system)
        energy = _quadratic(system, velocity, velocity, [0.5 * mu for mu in inertia])
        change = _quadratic(system, velocity, acceleration, inertia)
        lost = (2.0 * gamma * energy[0], 2.0 * gamma * energy[1], 2.0 * gamma * energy[2])
        if training.dynamics == "heavy-ball":
            decay, half = math.exp(-gamma * training.step), 0.5 * training.step
            after = tuple(decay * v + half * a for v, a in zip(velocity, force, strict=True))
    currents = _currents(system, [velocity] if after is None else [velocity, after], z0, targets)
    return FieldEnergy(
        grid=system.grid,
        loss=loss,
        energy=energy[0] + energy[1],
        rate=change[0] + change[1],
        dissipation=lost[0] + lost[1],
        site_current=currents[0],
        step_current=None if after is None else currents[1],
        readout_energy=energy[2],
        readout_rate=change[2],
        readout_dissipation=lost[2],
        readout_power=_inner(system, gradient[2], velocity[2]),
    )


def cell_energy(system: FieldSystem) -> tuple[Array, float]:
    """Return ε_m (n_x,) and the energy of R, from the velocities alone.

    Raises
    ------
    InputError
        for motion without inertia, or a depth scheme that takes coefficients at sites.
    """
    _require_links(system)
    if not system.v:
        raise InputError(
            f"energy: {system.boundary.training.dynamics} has no inertia, so no kinetic energy; use heavy-ball"
        )
    w, b, r = _quadratic(system, system.v, system.v, [0.5 * mu for mu in _inertia(system)])
    return w + b, r


def step_balance(before: FieldEnergy, energy_after: Array, training_step: float, damping: float) -> Balance:
    """Return ε_m(t+τ) − β² ε_m(t) + τ (J̄_{m+1} − J̄_m) for one step of the heavy ball, (n_x,)."""
    if before.step_current is None:
        raise InputError("energy: the balance of one step is known for the heavy ball only; use dynamics heavy-ball")
    J = training_step * before.step_current.sum(axis=1)
    return balance(energy_after, -math.exp(-2.0 * damping * training_step) * before.energy, J[1:], -J[:-1])


def _require_links(system: FieldSystem) -> None:
    scheme = system.march.scheme
    if scheme.nodal:
        raise InputError(
            f"energy: {scheme.name} interpolates ŵ and b̂ over several cells, so that no cell has an energy of its own;"
            " use depth_scheme euler or midpoint"
        )


def _inertia(system: FieldSystem) -> list[float]:
    """μ̂ = 1/(η̂γ) of ŵ, b̂, R; 0 for a group that never moves."""
    training = system.boundary.training
    gamma = training.damping or 0.0
    return [1.0 / (rate * gamma) if rate else 0.0 for rate in (training.rates.w, training.rates.b, training.rates.r)]


def _quadratic(system: FieldSystem, one: State, two: State, weights: list[float]) -> tuple[Array, Array, float]:
    """weight × ∫ one·two of ŵ and b̂ in each cell, and of R."""
    grid, xp = system.grid, system.backend.xp
    cell = system.lattice.range.cell(grid.h_y) * (1.0 if system.tied else grid.h_y)
    measures = (grid.h_x * cell, grid.h_x * grid.h_y)
    parts = []
    for group, measure in enumerate(measures):
        product = xp.reshape(one[group] * two[group], (grid.n_x, -1))
        parts.append(weights[group] * measure * system.backend.to_numpy(xp.sum(product, axis=1)))
    return parts[0], parts[1], weights[2] * _inner(system, one[2], two[2])


def _inner(system: FieldSystem, one: Any, two: Any) -> float:
    return float(system.backend.xp.sum(one * two))


def _currents(system: FieldSystem, velocities: list[State], z0: Array, targets: Array) -> list[Array]:
    """J before the sum over y, (n_x + 1, n_y), of each of some velocities."""
    xp, backend, samples = system.backend.xp, system.backend, z0.shape[-1]
    nodes = (system.u[0], system.u[1])
    result = [np.zeros((system.grid.n_x + 1, system.grid.n_y)) for _ in velocities]
    for first in range(0, samples, CHUNK):
        part = slice(first, min(first + CHUNK, samples))
        start = system.start(z0[..., part])
        sweep = system.march.forward(start, nodes)
        _, last, _ = system.output(sweep.z[-1], system.u[2], backend.to_device(targets[part]))
        cotangents = system.march.adjoint(sweep, nodes, last, lambda _node, _bars: None)
        share = (part.stop - first) / samples
        for total, velocity in zip(result, velocities, strict=True):
            rates = system.march.tangent(sweep, nodes, xp.zeros_like(start), (velocity[0], velocity[1]))
            for m, (cotangent, rate) in enumerate(zip(cotangents, rates, strict=True)):
                total[m] += share * backend.to_numpy(xp.sum(cotangent * rate, axis=(1, 2)))
    return result
