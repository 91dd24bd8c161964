"""Training the discrete network on data, with the learning rates for which a field limit exists."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bbdfield.datasets import Dataset
from bbdfield.lattice.engines import Engine, Parameters, Part, choose
from bbdfield.lattice.growth import check_lattice_growth
from bbdfield.lattice.network import Network
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import GROUPS, VELOCITIES, Lattice, Training
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.losses import get_loss
from bbdfield.model.run import Observer, Progress, Run, record
from bbdfield.model.units import LatticeState, identity, learning_rates, to_lattice, units
from solvers.adaptive import adaptive_advance
from solvers.backends import Backend
from solvers.steppers import Rate, get_damped_stepper, rk4_step

#: samples per back-propagation; larger batches are summed over chunks so that memory stays bounded
CHUNK = 256


def engine_of(
    lattice: Lattice, batch: int, backend: str | Backend = "auto", precision: str = "float64", checkpoint: int = 0
) -> Engine:
    """What trains this lattice; parameters and errors as those of `LatticeSystem`."""
    network = Network(
        lattice.law.activation(get_activation(lattice.activation), lattice.a_x),
        get_loss(lattice.loss),
        lattice.padding,
        lattice.a_y,
        lattice.length_y,
        lattice.law.skip,
    )
    return choose(lattice, network, batch, backend, precision, checkpoint)


class LatticeSystem:
    """The discrete network with its parameters u = (θ, b, R), and their velocities v where they have inertia.

    θ are the network's taps W, or the moments that its taps are made of (derivative range).

    Parameters
    ----------
    backend : "numpy" (the reference), "numba" (compiled) or "auto": by size; `self.backend` says what runs.
    precision : "float64" or, compiled, "float32"; states, losses and logits are float64 in any case.
    checkpoint : compiled, layers between stored z; from there layers are computed again on the way back, so that memory
        grows as depth / checkpoint + checkpoint. 0 keeps every layer. Results are the same bits.

    Raises
    ------
    InputError
        for a backend that cannot do this.
    """

    def __init__(
        self,
        lattice: Lattice,
        boundary: Boundary,
        start: LatticeState,
        *,
        backend: str | Backend = "auto",
        precision: str = "float64",
        checkpoint: int = 0,
    ) -> None:
        self.lattice, self.boundary = lattice, boundary
        training = boundary.training
        self._engine = engine_of(lattice, training.batch, backend, precision, checkpoint)
        self.network = self._engine.network
        self.backend = self._engine.backend
        self._matrix = lattice.range.taps(lattice.a_y)
        self.rates = learning_rates(lattice, 1.0, training.rates)  # η per group: τη is the learning rate
        self.load({"w": start.w, "b": start.b, "r": start.r})
        self.watch(0.0)

    def load(self, state: dict[str, np.ndarray]) -> None:
        given = tuple(np.asarray(state[name], float) for name in GROUPS)
        self._u = self._engine.native(given)
        self._v: Parameters = ()
        if self.boundary.training.second_order:
            rest = [np.zeros_like(part) for part in given]
            velocities = (np.asarray(state.get(name, zero)) for name, zero in zip(VELOCITIES, rest, strict=True))
            self._v = self._engine.native(tuple(velocities))

    @property
    def u(self) -> Parameters:
        """θ, b, R in the layouts of the package; read only."""
        return self._engine.restored(self._u)

    @property
    def v(self) -> Parameters:
        """Velocities of θ, b, R, or nothing; read only."""
        return self._engine.restored(self._v) if self._v else ()

    def watch(self, t: float) -> None:
        """Refuse weights whose shortest waves blow up (NumericsError)."""
        check_lattice_growth(self.lattice, self.weights(self.u[0]), t)

    def state(self) -> dict[str, np.ndarray]:
        return dict(zip((*GROUPS, *VELOCITIES), (*self.u, *self.v), strict=False))

    def weights(self, theta: np.ndarray) -> np.ndarray:
        """The network's taps W (M, [N], C, T, C): W_k = Σ_p taps[k, p] θ_p."""
        return theta if self._matrix is None else np.einsum("kp,...apb->...akb", self._matrix, theta)

    def _parts(self, index: np.ndarray) -> Iterator[Part]:
        for first in range(0, len(index), CHUNK):
            part = index[first : first + CHUNK]
            z0 = self.boundary.input(part, self.lattice.width)
            yield Part(len(part) / len(index), z0, self.boundary.targets[part])

    def gradient(self, parameters: Parameters, index: np.ndarray) -> tuple[float, Parameters]:
        """Mean loss over training samples and its gradient with respect to (θ, b, r)."""
        engine = self._engine
        loss, gradients = engine.gradient(engine.native(parameters), self._parts(index))
        return loss, engine.restored(gradients)

    def step(self, k: int) -> dict[str, float]:
        """From t = kτ to (k+1)τ on the step's samples; returns the loss of its first gradient.

        Compiled SGD moves the parameters in place: after an interrupt inside a step, `load` a state before going on.

        SGD: θ ← θ − τη ∂ℓ/∂θ. Flows: Runge-Kutta for θ̇ = −η ∂ℓ/∂θ. With inertia μ = 1/(ηγ): θ̈ + γθ̇ = −γη ∂ℓ/∂θ.
        """
        training, index = self.boundary.training, self.boundary.batch(k)
        rates = self.rates.w, self.rates.b, self.rates.r
        if training.dynamics == "sgd":
            moves = training.step * rates[0], training.step * rates[1], training.step * rates[2]
            loss, self._u = self._engine.descend(self._u, self._parts(index), moves)
            return {"loss": loss}
        if training.damping is not None:
            rates = training.damping * rates[0], training.damping * rates[1], training.damping * rates[2]
        losses: list[float] = []

        def force(_: float, u: Parameters) -> Parameters:
            loss, gradients = self._engine.gradient(u, self._parts(index))
            losses.append(loss)
            return tuple(-rate * gradient for rate, gradient in zip(rates, gradients, strict=True))

        u, v = self._u, self._v
        if training.damping is not None:
            stepper = get_damped_stepper(training.dynamics)
            u, v = stepper.step(force, k * training.step, u, v, training.step, training.damping)
        elif training.tolerance is None:
            u = rk4_step(force, k * training.step, u, training.step)
        else:
            u = self._adaptive(force, k * training.step, u, training.step, training.tolerance)
        if np.isfinite(losses[0]):  # else the state that failed stays, so that the error can name what was not finite
            self._u, self._v = u, v
        return {"loss": losses[0]}

    def _adaptive(self, force: Rate, t: float, u: Parameters, dt: float, tolerance: float) -> Parameters:
        """One step with error control of the hatted parameters, which are of order 1 as the field's are."""
        unit, one = units(self.lattice), self._identity()
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

    def _identity(self) -> np.ndarray | float:
        """What θ are at ŵ = 0, in the engine's layout."""
        one = identity(self.lattice)
        if isinstance(one, float):
            return one
        theta, b, r = (np.zeros_like(part) for part in self.u)
        return self._engine.native((theta + one, b, r))[0]

    def probe(self) -> np.ndarray:
        """z (M + 1, N, C, B) on the probe set."""
        theta, b, _ = self.u
        return self.network.forward(self.boundary.probe_input(self.lattice.width), self.weights(theta), b)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Logits (n, outputs) of samples x (n, D, data width)."""
        parts = [x[first : first + CHUNK] for first in range(0, len(x), CHUNK)]
        width = self.lattice.width
        return np.concatenate([self._engine.logits(self._u, self.boundary.lifted(part, width)) for part in parts])


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
    observers: Sequence[Observer] = (),
    backend: str | Backend = "auto",
    precision: str = "float64",
    checkpoint: int = 0,
) -> Run:
    """Train the lattice on `data` and record its trajectory.

    Parameters
    ----------
    initial : the random fields that are sampled onto the lattice (default: drawn with the training seed), or W, b, R
        themselves.
    out : the HDF5 file to write.
    progress : called with (steps done, steps in all, loss).
    observers : what takes numbers of every step (`bbdfield.observables`); they are stored beside the loss.
    backend, precision, checkpoint : what runs and how; see `LatticeSystem`.

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
        LatticeSystem(lattice, boundary, initial, backend=backend, precision=precision, checkpoint=checkpoint),
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
        observers=observers,
    )
