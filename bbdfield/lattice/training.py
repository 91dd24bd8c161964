"""Training the discrete network on data, with the learning rates for which a field limit exists."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from bbdfield.datasets import Dataset
from bbdfield.lattice.growth import check_lattice_growth
from bbdfield.lattice.network import Network
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import GROUPS, VELOCITIES, Lattice, Training
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.losses import get_loss
from bbdfield.model.run import Progress, Run, record
from bbdfield.model.units import LatticeState, identity, learning_rates, to_lattice, units
from solvers.adaptive import adaptive_advance
from solvers.steppers import Rate, get_damped_stepper, rk4_step

#: samples per back-propagation; larger batches are summed over chunks so that memory stays bounded
CHUNK = 256

Parameters = tuple[np.ndarray, ...]


class LatticeSystem:
    """The discrete network with its parameters u = (θ, b, R), and their velocities v where they have inertia.

    θ are the network's taps W, or the moments that its taps are made of (derivative range).
    """

    def __init__(self, lattice: Lattice, boundary: Boundary, start: LatticeState) -> None:
        self.lattice, self.boundary = lattice, boundary
        self.network = Network(
            lattice.law.activation(get_activation(lattice.activation), lattice.a_x),
            get_loss(lattice.loss),
            lattice.padding,
            lattice.a_y,
            lattice.length_y,
            lattice.law.skip,
        )
        self._taps = lattice.range.taps(lattice.a_y)
        training = boundary.training
        self.rates = learning_rates(lattice, 1.0, training.rates)  # η per group: τη is the learning rate
        self.load({"w": start.w, "b": start.b, "r": start.r})
        self.watch(0.0)

    def load(self, state: dict[str, np.ndarray]) -> None:
        self.u: Parameters = tuple(np.array(state[name], float) for name in GROUPS)
        self.v: Parameters = ()
        if self.boundary.training.second_order:
            rest = [np.zeros_like(part) for part in self.u]
            self.v = tuple(np.array(state.get(name, zero)) for name, zero in zip(VELOCITIES, rest, strict=True))

    def watch(self, t: float) -> None:
        """Refuse weights whose shortest waves blow up (NumericsError)."""
        check_lattice_growth(self.lattice, self.weights(self.u[0]), t)

    def state(self) -> dict[str, np.ndarray]:
        return dict(zip((*GROUPS, *VELOCITIES), (*self.u, *self.v), strict=False))

    def weights(self, theta: np.ndarray) -> np.ndarray:
        """The network's taps W (M, [N], C, T, C): W_k = Σ_p taps[k, p] θ_p."""
        return theta if self._taps is None else np.einsum("kp,...apb->...akb", self._taps, theta)

    def gradient(self, parameters: Parameters, index: np.ndarray) -> tuple[float, Parameters]:
        """Mean loss over training samples and its gradient with respect to (θ, b, r)."""
        theta, b, r = parameters
        w = self.weights(theta)
        total, sums = 0.0, tuple(np.zeros_like(p) for p in (w, b, r))
        for first in range(0, len(index), CHUNK):
            part = index[first : first + CHUNK]
            share = len(part) / len(index)
            result = self.network.loss_and_gradients(
                self.boundary.input(part, self.lattice.width), w, b, r, self.boundary.targets[part]
            )
            total += share * result.loss
            for summed, name in zip(sums, ("w", "b", "r"), strict=True):
                summed += share * result.gradients[name]
        if self._taps is None:
            return total, sums
        return total, (np.einsum("kp,...akb->...apb", self._taps, sums[0]), *sums[1:])

    def step(self, k: int) -> dict[str, float]:
        """From t = kτ to (k+1)τ on the step's samples; returns the loss of its first gradient.

        SGD: θ ← θ − τη ∂ℓ/∂θ. Flows: Runge-Kutta for θ̇ = −η ∂ℓ/∂θ. With inertia μ = 1/(ηγ): θ̈ + γθ̇ = −γη ∂ℓ/∂θ.
        """
        training, index = self.boundary.training, self.boundary.batch(k)
        factor = 1.0 if training.damping is None else training.damping
        rates = [factor * rate for rate in (self.rates.w, self.rates.b, self.rates.r)]
        losses: list[float] = []

        def force(_: float, u: Parameters) -> Parameters:
            loss, gradients = self.gradient(u, index)
            losses.append(loss)
            return tuple(-rate * gradient for rate, gradient in zip(rates, gradients, strict=True))

        u, v = self.u, self.v
        if training.damping is not None:
            stepper = get_damped_stepper(training.dynamics)
            u, v = stepper.step(force, k * training.step, u, v, training.step, training.damping)
        elif training.dynamics == "sgd":
            u = tuple(value + training.step * move for value, move in zip(u, force(0.0, u), strict=True))
        elif training.tolerance is None:
            u = rk4_step(force, k * training.step, u, training.step)
        else:
            u = self._adaptive(force, k * training.step, u, training.step, training.tolerance)
        if np.isfinite(losses[0]):  # else the state that failed stays, so that the error can name what was not finite
            self.u, self.v = u, v
        return {"loss": losses[0]}

    def _adaptive(self, force: Rate, t: float, u: Parameters, dt: float, tolerance: float) -> Parameters:
        """One step with error control of the hatted parameters, which are of order 1 as the field's are."""
        unit, one = units(self.lattice), identity(self.lattice)
        scales = (unit.w, unit.b, 1.0)

        def hatted(v: Parameters) -> Parameters:
            return tuple(part / scale for part, scale in zip(v, scales, strict=True))

        def bare(v: Parameters) -> Parameters:
            w, b, r = (part * scale for part, scale in zip(v, scales, strict=True))
            return w + one, b, r

        theta, b, r = u
        moved, *_ = adaptive_advance(
            lambda s, v: hatted(force(s, bare(v))),
            t,
            t + dt,
            hatted((theta - one, b, r)),
            dt,
            rtol=tolerance,
            atol=tolerance,
        )
        return bare(moved)

    def probe(self) -> np.ndarray:
        """z (M + 1, N, C, B) on the probe set."""
        theta, b, _ = self.u
        return self.network.forward(self.boundary.probe_input(self.lattice.width), self.weights(theta), b)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Logits (n, outputs) of samples x (n, D, data width)."""
        parts = [x[first : first + CHUNK] for first in range(0, len(x), CHUNK)]
        width = self.lattice.width
        w, b, r = self.weights(self.u[0]), *self.u[1:]
        return np.concatenate([self.network.logits(self.boundary.lifted(part, width), w, b, r) for part in parts])


def train(
    lattice: Lattice,
    data: Dataset,
    training: Training,
    *,
    out: str | Path,
    initial: InitialFields | LatticeState | None = None,
    overwrite: bool = False,
    resume: bool = False,
    compression: str | None = None,
    progress: Progress | None = None,
) -> Run:
    """Train the lattice on `data` and record its trajectory.

    Parameters
    ----------
    initial : the random fields that are sampled onto the lattice (default: drawn with the training seed), or W, b, R
        themselves.
    out : the HDF5 file to write.
    progress : called with (steps done, steps in all, loss).

    Raises
    ------
    InputError
        for data that do not fit the lattice or an existing file.
    NumericsError
        when a value ceases to be finite; what was recorded stays in the file.
    """
    boundary = Boundary.draw(data, lattice, training)
    initial = InitialFields(lattice, training.seed) if initial is None else initial
    config = {}
    if isinstance(initial, InitialFields):
        initial = dataclasses.replace(initial, lattice=lattice)  # as the file will know them
        config["initial"] = initial.to_config()
        initial = to_lattice(initial.on(lattice.grid, lattice))
    return record(
        LatticeSystem(lattice, boundary, initial),
        kind="lattice",
        path=Path(out),
        boundary=boundary,
        lattice=lattice,
        grid=lattice.grid,
        config=config,
        overwrite=overwrite,
        resume=resume,
        compression=compression,
        progress=progress,
    )
