"""Integrating the field theory: the boundary value problem in x at every training step, and the fields' motion in t.

    bulk      ∂_x ẑ = G_n[ẑ; ŵ, b̂],   ẑ(0, y) = E ⊗ x(y)
    adjoint   −∂_x λ = (∂G_n/∂ẑ)† λ,   λ(L_x, y) = δℓ/δẑ(L_x, y)
    training  ∂_t ŵ = −η̂_w ⟨(∂G_n/∂ŵ)† λ⟩,   ∂_t b̂ = −η̂_b ⟨(∂G_n/∂b̂)† λ⟩,   ∂_t R = −η̂_R ∂ℓ/∂R

on the solver's own grid (any n_x, n_y), after the field description of arXiv 2511.02003 eqs (8)-(10). The adjoint is
the exact transpose of the discrete forward march, so the gradient is that of the discretised loss. The only inputs
are the initial fields and the boundary (data, lift, sample sequence).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bbdfield.fields.marches import CHUNK, CHUNKS, choose_backend, make_march, theory
from bbdfield.fields.well_posedness import STENCIL, admit, check, largest_input, unbounded
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import GROUPS, VELOCITIES, FieldState
from bbdfield.model.boundary import Boundary
from bbdfield.model.losses import get_loss
from bbdfield.model.regularisation import Regularised, cutoff_matrix
from bbdfield.model.run import Observer, Run, record
from bbdfield.model.scalings import BulkEquation
from solvers.adaptive import adaptive_advance
from solvers.backends import Backend, check_checkpoint
from solvers.steppers import get_damped_stepper, get_stepper
from solvers.sweeps import DepthMarch, get_scheme

Array = Any
State = tuple[Array, ...]


class FieldSystem:
    """The discretised field theory of one network, order and grid, with its state (ŵ, b̂, R) on the device.

    q_max : the largest wave number that is kept, None without a cut-off.
    """

    def __init__(
        self,
        start: FieldState,
        boundary: Boundary,
        *,
        order: int,
        scheme: str,
        backend: str | Backend = "auto",
        precision: str = "float64",
        checkpoint: int = 0,
        width_order: int | None = None,
        stencil: int = STENCIL,
        ill_posed: str = "refuse",
    ) -> None:
        self.lattice, self.grid, self.boundary, self.order = start.lattice, start.grid, boundary, order
        lattice, grid = self.lattice, self.grid
        self.activation, self.loss = get_activation(lattice.activation), get_loss(lattice.loss)
        self.tied = lattice.range.tied
        checkpoint = check_checkpoint("field.checkpoint", checkpoint)
        expansion: dict[str, Any] = {"width_order": width_order, "stencil": stencil}
        sizes: dict[str, Any] = {"samples": boundary.training.batch, "precision": precision}
        self.backend = choose_backend(backend, lattice, grid, order, **sizes, **expansion)
        xp = self.xp = self.backend.xp
        self._chunk = CHUNKS.get(self.backend.name, CHUNK)
        equation: BulkEquation
        operator, equation = theory(xp, lattice, grid, order, **expansion)
        self._largest = largest_input(boundary, grid.n_y)
        self._seen: float | None = None  # the same over all depths, once the probe set has been sent through
        self.q_max = admit(start, operator, ill_posed, self._largest)
        self._project: Callable[[Array], Array] = lambda z: z
        if self.q_max is not None:
            matrix = self.backend.to_device(cutoff_matrix(grid, lattice.padding, lattice.a_y))
            equation = regularised = Regularised(equation, xp, matrix)
            self._project = regularised.project
        self.equation = equation
        self.march = DepthMarch(equation, grid, get_scheme(scheme))
        layout: dict[str, Any] = {"tied": self.tied, "padding": lattice.padding, "checkpoint": checkpoint}
        self.sweep = make_march(self.backend, self.march, operator.stencil, **layout)
        reconstruction = self.march.reconstruction
        to_device = self.backend.to_device
        nodal = reconstruction.scheme.nodal
        self._to_nodes = to_device(reconstruction.interpolation) if nodal else None
        self._to_gradient = to_device(reconstruction.gradient_map) if nodal else None
        self._rooms: dict[str, np.ndarray] = {}
        basis = np.cos(np.pi / grid.length_y * np.outer(grid.y, np.arange(lattice.readout_modes)))
        self._readout = to_device(grid.h_y * basis)
        self.load({"w": start.w, "b": start.b, "r": start.r})
        self.watch(0.0)

    # state

    def load(self, state: dict[str, np.ndarray]) -> None:
        to_device = self.backend.to_device
        # copies: SGD on the host writes into the state before last
        self.u: State = tuple(to_device(np.array(state[name], float, order="C")) for name in GROUPS)
        self._spare: State = tuple(np.empty_like(part) for part in self.u) if self.xp is np else ()
        self._seen = None
        self.v: State = ()
        if self.boundary.training.second_order:
            velocities = [
                state.get(dot, np.zeros_like(state[name])) for dot, name in zip(VELOCITIES, GROUPS, strict=True)
            ]
            self.v = tuple(to_device(np.ascontiguousarray(part)) for part in velocities)

    def state(self) -> dict[str, np.ndarray]:
        parts = dict(zip((*GROUPS, *VELOCITIES), (*self.u, *self.v), strict=False))
        return {name: np.array(self.backend.to_numpy(part)) for name, part in parts.items()}

    def watch(self, t: float) -> None:
        """Refuse weights for which the equation is ill posed (NumericsError) or the first depth step too large
        (InputError). Slopes are those of the inputs at first, later those of the probe set at all depths.
        """
        largest = self._largest
        if t > 0:
            if not unbounded(self.lattice, self.equation):
                return
            if self._seen is None:
                self.probe()
            largest = max(largest, self._seen or 0.0)
        w = self.backend.to_numpy(self.u[0])
        check(self.lattice, self.grid, self.equation, self.march.scheme, w, self.q_max, t, largest)

    # space

    def start(self, z0: np.ndarray) -> Array:
        """ẑ(0, y) on the device."""
        return self._project(self.backend.to_device(np.ascontiguousarray(z0)))

    def _nodes(self, u: tuple[Array, ...]) -> tuple[Array, Array]:
        """ŵ and b̂ where the depth scheme needs them; valid until the next call."""
        if self._to_nodes is None:
            return u[0], u[1]
        return self._along_x(self._to_nodes, u[0], "w"), self._along_x(self._to_nodes, u[1], "b")

    def _along_x(self, matrix: Array, values: Array, room: str = "") -> Array:
        """matrix · values along x; `room` names the array that is used again and again, on the host."""
        xp, shape = self.xp, (matrix.shape[0], *values.shape[1:])
        flat = xp.reshape(values, (values.shape[0], -1))
        if xp is np and room:
            out = self._room(room, shape)
            np.matmul(matrix, flat, out=out.reshape(len(matrix), -1))
            return out
        return xp.reshape(xp.matmul(matrix, flat), shape)

    def _room(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A host array that is kept, so that steps allocate nothing that grows with the grid."""
        if name not in self._rooms or self._rooms[name].shape != shape:
            self._rooms[name] = np.empty(shape, self.backend.precision)
        return self._rooms[name]

    def _logits(self, z_end: Array, r: Array) -> tuple[Array, Array, Array]:
        """(logits (B, O), moments ∫cos(πjy/L_y) ẑ dy as (J·C, B), R as (O, J·C))."""
        xp = self.xp
        n_y, channels, samples = z_end.shape
        modes = self._readout.shape[1]
        flat = xp.matmul(xp.permute_dims(self._readout, (1, 0)), xp.reshape(z_end, (n_y, channels * samples)))
        moments = xp.reshape(flat, (modes * channels, samples))
        matrix = xp.reshape(xp.permute_dims(r, (0, 2, 1)), (r.shape[0], modes * channels))
        return xp.permute_dims(xp.matmul(matrix, moments), (1, 0)), moments, matrix

    def output(self, z_end: Array, r: Array, targets: Array) -> tuple[float, Array, Array]:
        """The boundary at x = L_x: (loss, λ = ∂ℓ/∂ẑ(L_x) (n_y, C, B), ∂ℓ/∂R), all arrays on the device."""
        xp, modes, (_, channels, samples) = self.xp, self._readout.shape[1], z_end.shape
        logits, moments, matrix = self._logits(z_end, r)
        losses, pulled = self.loss.per_sample_and_gradient(logits, targets)
        pulled = xp.permute_dims(pulled, (1, 0))
        back = xp.reshape(xp.matmul(xp.permute_dims(matrix, (1, 0)), pulled), (modes, channels * samples))
        lam = xp.reshape(xp.matmul(self._readout, back), z_end.shape)
        r_bar = xp.reshape(xp.matmul(pulled, xp.permute_dims(moments, (1, 0))), (r.shape[0], modes, channels))
        return float(xp.mean(losses)), lam, xp.permute_dims(r_bar, (0, 2, 1))

    def gradient(self, u: tuple[Array, ...], z0: np.ndarray, targets: np.ndarray) -> tuple[float, tuple[Array, ...]]:
        """Loss and its functional gradient (δℓ/δŵ, δℓ/δb̂, ∂ℓ/∂R) on one set of samples, z0 (n_y, C, B)."""
        loss, bars = self._cotangents(u, z0, targets)
        return loss, self._functional(bars)

    def _cotangents(self, u: State, z0: np.ndarray, targets: np.ndarray) -> tuple[float, State]:
        """Loss, and the derivatives with respect to ŵ and b̂ at the nodes and R; valid until the next call."""
        total, count = 0.0, z0.shape[-1]
        sums: tuple[Array, ...] = ()
        nodes = self._nodes(u)
        for first in range(0, count, self._chunk):
            part = slice(first, min(first + self._chunk, count))
            share = (part.stop - first) / count
            loss, grads = self._gradient_of_chunk(u, nodes, z0[..., part], targets[part])
            total += share * loss
            if share == 1.0:
                return total, grads
            grads = tuple(share * g for g in grads)
            sums = tuple(a + b for a, b in zip(sums, grads, strict=True)) if sums else grads
        return total, sums

    def _gradient_of_chunk(
        self, u: tuple[Array, ...], nodes: tuple[Array, Array], z0: np.ndarray, targets: np.ndarray
    ) -> tuple[float, tuple[Array, ...]]:
        z_end = self.sweep.forward(self.start(z0), nodes)
        loss, lam, r_bar = self.output(z_end, u[2], self.backend.to_device(targets))
        return loss, (*self.sweep.adjoint(lam), r_bar)

    def _functional(self, bars: tuple[Array, ...]) -> tuple[Array, ...]:
        """Cotangents at the nodes -> functional gradients: divide by the cell of (x, u), (x, y, u) or (x, y)."""
        w_bar, b_bar, r_bar = bars
        w_cell, b_cell = self._cells()
        if self._to_gradient is not None:
            w_bar, b_bar = self._along_x(self._to_gradient, w_bar), self._along_x(self._to_gradient, b_bar)
        return w_bar / w_cell, b_bar / b_cell, r_bar

    def _cells(self) -> tuple[float, float]:
        """What cotangents of ŵ and b̂ are divided by; h_x is part of `gradient_map` where that is a matrix."""
        h_x = self.grid.h_x if self._to_gradient is None else 1.0
        h_y = self.grid.h_y
        return h_x * self.lattice.range.cell(h_y) * (1.0 if self.tied else h_y), h_x * h_y

    def _descend(self, rates: tuple[float, ...], z0: np.ndarray, targets: np.ndarray) -> float:
        """One step of SGD; a state that follows a loss that is not finite is not taken over."""
        loss, bars = self._cotangents(self.u, z0, targets)
        if not np.isfinite(loss):
            return loss
        w_cell, b_cell = self._cells()
        if self._to_gradient is not None:
            w_bar, b_bar = (
                self._along_x(self._to_gradient, bar, "d" + name) for bar, name in zip(bars, "wb", strict=False)
            )
            bars = (w_bar, b_bar, bars[2])
        factors = (-rates[0] / w_cell, -rates[1] / b_cell, -rates[2])
        if self.xp is not np:
            self.u = tuple(part + factor * bar for part, factor, bar in zip(self.u, factors, bars, strict=True))
            return loss
        moved = tuple(
            np.multiply(bar, factor, out=spare) for bar, factor, spare in zip(bars, factors, self._spare, strict=True)
        )
        for part, new in zip(self.u, moved, strict=True):
            new += part
        self.u, self._spare = moved, self.u
        return loss

    # time

    def step(self, k: int) -> dict[str, float]:
        """From t = kτ to (k+1)τ on the step's samples; returns the loss of its first gradient.

        With inertia μ̂ = 1/(η̂γ): (∂_t² + γ∂_t)θ̂ = −γη̂ δℓ/δθ̂.
        """
        training = self.boundary.training
        factor = 1.0 if training.damping is None else training.damping
        rates = [factor * rate for rate in (training.rates.w, training.rates.b, training.rates.r)]
        index = self.boundary.batch(k)
        z0 = self.boundary.input(index, self.grid.n_y)
        targets = self.boundary.targets[index]
        if training.dynamics == "sgd":
            return {"loss": self._descend(tuple(training.step * rate for rate in rates), z0, targets)}
        losses: list[float] = []

        def force(_: float, u: State) -> State:
            loss, gradients = self.gradient(u, z0, targets)
            losses.append(loss)
            return tuple(-rate * gradient for rate, gradient in zip(rates, gradients, strict=True))

        u, v, t, dt = self.u, self.v, k * training.step, training.step
        if training.damping is not None:
            u, v = get_damped_stepper(training.dynamics).step(force, t, u, v, dt, training.damping)
        elif training.tolerance is not None:
            tolerance = training.tolerance
            u, *_ = adaptive_advance(force, t, t + dt, u, dt, rtol=tolerance, atol=tolerance)
        else:
            u = get_stepper("rk4").step(force, t, u, dt)
        if np.isfinite(losses[0]):  # else the state that failed stays, so that the error can name what was not finite
            self.u, self.v = u, v
        return {"loss": losses[0]}

    # what is recorded

    def probe(self) -> np.ndarray:
        """ẑ (n_x + 1, n_y, C, B) on the probe set."""
        z0 = self.start(self.boundary.probe_input(self.grid.n_y))
        z = self.backend.to_numpy(self.sweep.sites(z0, self._nodes(self.u)))
        self._seen = float(np.max(np.abs(z)))
        return z

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Logits (n, outputs) of samples x (n, D, data width)."""
        nodes = self._nodes(self.u)
        parts = []
        for first in range(0, len(x), self._chunk):
            z0 = self.start(self.boundary.lifted(x[first : first + self._chunk], self.grid.n_y))
            z_end = self.sweep.forward(z0, nodes, keep=False)
            parts.append(self.backend.to_numpy(self._logits(z_end, self.u[2])[0]))
        return np.concatenate(parts)


def simulate(
    start: FieldState,
    boundary: Boundary,
    *,
    order: int = 1,
    depth_scheme: str = "rk4",
    backend: str | Backend = "auto",
    precision: str = "float64",
    checkpoint: int = 0,
    width_order: int | None = None,
    stencil: int = STENCIL,
    ill_posed: str = "refuse",
    out: str | Path,
    overwrite: bool = False,
    resume: bool = False,
    compression: str | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    observers: Sequence[Observer] = (),
) -> Run:
    """Integrate the field theory of `start.lattice` from `start` under `boundary` and record it.

    Parameters
    ----------
    start : initial fields on the solver's grid, e.g. ``InitialFields(...).on(Grid(32, 40), lattice)``.
    boundary : data and sample sequence, e.g. ``run.boundary`` of a lattice run.
    order : 0 or 1 in a_x.
    depth_scheme : "euler", "midpoint" or "rk4".
    backend : "numpy", "numba", "cupy" or "auto", by size; precision "float64" or "float32" of what it computes.
    checkpoint : cells between kept ẑ, from which the rest is computed again on the way back; 0 keeps all.
    width_order : 0, 1 or 2 in a_y for taps (default 2); other ranges need none.   stencil : accuracy 2, 4 or 6 of ∂_y.
    ill_posed : "refuse", or "cutoff" to keep only waves that the lattice has, |q| <= π/a_y.
    out : the HDF5 file to write.
    progress : called with (steps done, steps in all, loss).
    observers : what takes numbers of every step (`bbdfield.observables`); they are stored beside the loss.

    Returns
    -------
    Run, the recorded trajectory.

    Raises
    ------
    InputError
        for an unknown order, scheme or backend, a start that the theory does not describe (`well_posedness.admit`), an
        unstable depth step or an existing file.
    NumericsError
        when the equation is ill posed, at the start or as weights train, or a value ceases to be finite; what was
        recorded stays in the file.
    """
    options: dict[str, Any] = {"width_order": width_order, "stencil": stencil, "ill_posed": ill_posed}
    machine: dict[str, Any] = {"backend": backend, "precision": precision, "checkpoint": checkpoint}
    system = FieldSystem(start, boundary, order=order, scheme=depth_scheme, **machine, **options)
    config = {"order": order, "depth_scheme": depth_scheme, "n_x": start.grid.n_x, "n_y": start.grid.n_y, **options}
    return record(
        system,
        kind="field",
        path=Path(out),
        boundary=boundary,
        lattice=start.lattice,
        grid=start.grid,
        config={"field": config, **({"initial": start.origin} if start.origin else {})},
        overwrite=overwrite,
        resume=resume,
        compression=compression,
        progress=progress,
        observers=observers,
    )
