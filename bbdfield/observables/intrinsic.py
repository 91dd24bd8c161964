"""Intrinsic dynamics of linear networks: how training moves the function Z, without the parameters.

Gradient flow of the parameters of Z = W_L ⋯ W_1 moves Z by itself alone if the weights start (relaxed) balanced. In all
cases below, with Z = P diag(σ) Qᵀ and G = ∂f/∂Z,

    Ż = −P [ m(σ_a, σ_b) (PᵀGQ)_ab ] Qᵀ

and a network is its mean m, a function of two singular values:

    two layers, D = λ1     m = √(a² + λ²/4) + √(b² + λ²/4)
    L layers, all D = 0    m = Σ_j a^{2(L−j)/L} b^{2(j−1)/L}
    L layers, D_i = λ_i 1  m = Σ_j Π_{i>j} (Λ_i − h(a)) Π_{i<j} (Λ_i − h(b)),  see `relaxed_mean`
    infinite depth         m = (a² − b²)/(ln a² − ln b²),  the logarithmic mean of a² and b²

which are Ż = −(A G + G B) with A = WWᵀ of the last layer and B = WᵀW of the first; Ż = −Σ_j (ZZᵀ)^{(L−j)/L} G
(ZᵀZ)^{(j−1)/L} (Arora, Cohen, Hazan, arXiv 1802.06509); and Ż = −∫₀¹ (ZZᵀ)^{1−s} G (ZᵀZ)^s ds. Marcotte, Gribonval,
Peyré, arXiv 2508.07370, have relaxed balanced weights (`bbdfield.lattice.balanced`) and say that the dynamics of
infinite depth is explicit for them; all forms with λ, and the last, are derived here. In the limit of infinite depth
the parameters W(s) move by −δf/δW(s); the result does not depend on ℓ, which may even vary with s (docs/intrinsic.md):
the factors that (ZZᵀ)^{1−s} and (ZᵀZ)^s get from ℓ are inverse to each other.

The last is the linear limit of the residual field theory, ∂_x ẑ = ŵ(x) ẑ, trained with rate η̂: t here is η̂ t there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bbdfield.errors import InputError, NumericsError
from bbdfield.fields.simulation import FieldSystem
from bbdfield.lattice.balanced import BalancedField
from bbdfield.lattice.dense import DenseNetwork
from bbdfield.lattice.training import LatticeSystem
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import FieldState, Lattice
from bbdfield.model.boundary import Boundary
from bbdfield.model.losses import get_loss
from bbdfield.model.units import to_lattice
from solvers.grids import Grid
from solvers.steppers import rk4_step

Array = npt.NDArray[np.float64]
#: m(a, b), elementwise, of singular values
Mean = Callable[[Array, Array], Array]
#: G = ∂f/∂Z
Gradient = Callable[[Array], Array]

#: singular values up to this count as zero: their squares have no logarithm
_VANISHED = 1e-150
#: relative error per step of the closed forms' integration
TOLERANCE = 1e-12


def two_layer_mean(relaxation: float = 0.0) -> Mean:
    """m = √(a² + λ²/4) + √(b² + λ²/4) of two layers with D = λ 1.

    Exact where n_0 = n_1 = n_2, and more generally for λ > 0 if n_2 = n_1, for λ < 0 if n_0 = n_1: the root of
    A² − λA = ZZᵀ is then the same for every eigenvalue of A. For λ = 0 any widths will do.
    """

    def mean(a: Array, b: Array) -> Array:
        quarter = relaxation**2 / 4
        return np.sqrt(a**2 + quarter) + np.sqrt(b**2 + quarter)

    return mean


def deep_mean(layers: int) -> Mean:
    """m = Σ_j a^{2(L−j)/L} b^{2(j−1)/L} of L balanced layers, 0⁰ = 1."""
    if layers < 1:
        raise InputError(f"intrinsic dynamics: {layers} layers; a network has at least one")

    def mean(a: Array, b: Array) -> Array:
        terms = (a ** (2 * (layers - j) / layers) * b ** (2 * (j - 1) / layers) for j in range(1, layers + 1))
        return np.asarray(sum(terms), float)

    return mean


def relaxed_mean(relaxation: Sequence[float]) -> Mean:
    """m of L layers of one width n with D_i = λ_i 1, i = 1 … L−1 (derived here).

    With Λ_1 = 0, Λ_{i+1} = Λ_i + λ_i, layer i has the squared singular values Λ_i − h, with one level h < min Λ for
    each singular value σ of Z,

        σ² = Π_i (Λ_i − h(σ)),      m(a, b) = Σ_j Π_{i>j} (Λ_i − h(a)) Π_{i<j} (Λ_i − h(b)).

    The product falls with h, so that Z fixes all h. λ = 0 gives `deep_mean`, L = 2 `two_layer_mean`.
    """
    levels = np.concatenate([[0.0], np.cumsum(np.asarray(relaxation, float))])
    gaps, layers = levels - levels.min(), len(levels)

    def squares(sigma: Array) -> Array:
        """Λ_i − h, (L, ...): Newton's method in y = ln(min Λ − h), from the right of a convex function."""
        above = sigma > _VANISHED
        target = 2 * np.log(np.where(above, sigma, 1.0))
        y = target / layers
        for _ in range(100):
            inside = gaps.reshape(-1, *[1] * y.ndim) + np.exp(y)
            move = (np.log(inside).sum(axis=0) - target) / (np.exp(y) / inside).sum(axis=0)
            y = y - move
            if np.abs(move).max(initial=0.0) < 1e-15:
                break
        return gaps.reshape(-1, *[1] * y.ndim) + np.where(above, np.exp(y), 0.0)

    def mean(a: Array, b: Array) -> Array:
        of_a, of_b = squares(np.asarray(a, float)), squares(np.asarray(b, float))
        terms = (np.prod(of_a[j + 1 :], axis=0) * np.prod(of_b[:j], axis=0) for j in range(layers))
        return np.asarray(sum(terms), float)

    return mean


def infinite_depth_mean() -> Mean:
    """m = ∫₀¹ a^{2(1−s)} b^{2s} ds = (a² − b²)/(ln a² − ln b²), a² where b = a and 0 where one vanishes."""

    def mean(a: Array, b: Array) -> Array:
        a, b = np.broadcast_arrays(a, b)
        with np.errstate(divide="ignore"):
            low, high = np.log(np.minimum(a, b) ** 2), np.log(np.maximum(a, b) ** 2)
        ratio = np.where(np.isfinite(low), high - np.where(np.isfinite(low), low, 0.0), 0.0)  # ln of the quotient, >= 0
        factor = np.where(ratio > 0, -np.expm1(-ratio) / np.where(ratio > 0, ratio, 1.0), 1.0)
        return np.where(np.isfinite(low), np.maximum(a, b) ** 2 * factor, 0.0)

    return mean


def speed(z: Array, g: Array, mean: Mean) -> Array:
    """Ż = −P [m(σ_a, σ_b) (PᵀGQ)_ab] Qᵀ; z and g (n_out, n_in). Missing singular values are zero."""
    p, values, q = np.linalg.svd(z)
    rows, columns = np.zeros(len(p)), np.zeros(len(q))
    rows[: len(values)], columns[: len(values)] = values, values
    return -p @ (mean(rows[:, None], columns[None, :]) * (p.T @ g @ q.T)) @ q


def intrinsic_flow(start: Array, gradient: Gradient, mean: Mean, times: Sequence[float] | Array) -> Array:
    """Z at `times`, (times, n_out, n_in), by Dormand and Prince's method of order 8 with error control.

    Raises
    ------
    NumericsError
        when the integration does not arrive.
    """
    from scipy.integrate import solve_ivp  # slow to import, and needed here only

    def velocity(_: float, flat: Array) -> Array:
        z = flat.reshape(start.shape)
        return speed(z, gradient(z), mean).ravel()

    ends = (0.0, float(times[-1]))
    found = solve_ivp(velocity, ends, start.ravel(), "DOP853", times, rtol=TOLERANCE, atol=TOLERANCE)
    if not found.success or not np.isfinite(found.y).all():
        raise NumericsError(
            f"intrinsic dynamics: the integration stopped at t = {found.t[-1] if found.t.size else 0:g}"
        )
    flow: Array = found.y.T.reshape(-1, *start.shape)
    return flow


@dataclass(frozen=True)
class LinearTask:
    """Mean-square loss of a linear map on samples: f(Z) = mean over samples and outputs of (Z x − y)².

    x (n_in, B), y (B, n_out).
    """

    x: Array
    y: Array

    def gradient(self, z: Array) -> Array:
        """∂f/∂Z = 2/(B n_out) (Z x − yᵀ) xᵀ."""
        return (z @ self.x - self.y.T) @ self.x.T * (2.0 / self.y.size)

    def loss(self, z: Array) -> float:
        return float(np.mean((z @ self.x - self.y.T) ** 2))


def train_layers(weights: Sequence[Array], task: LinearTask, times: Sequence[float] | Array, step: float) -> Array:
    """Z = W_L ⋯ W_1 at `times` under gradient flow of the layers themselves, (times, n_out, n_in).

    Runge-Kutta steps of at most `step`, gradients by the network's back-propagation: nothing here knows a closed form.

    Raises
    ------
    InputError
        for a step that is not positive, or times that decrease.
    NumericsError
        when weights cease to be finite.
    """
    if not step > 0 or np.any(np.diff([0.0, *times]) < 0):
        raise InputError(f"intrinsic dynamics: needs step > 0 and times >= 0 that do not decrease (step = {step})")
    network = DenseNetwork(get_activation("identity"), get_loss("mean-square"))

    def force(_: float, w: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(-g for g in network.loss_and_gradients(list(w), None, task.x, task.y)[1])

    w, now, found = tuple(np.array(part, float) for part in weights), 0.0, []
    for time in np.asarray(times, float).tolist():
        steps = int(np.ceil((time - now) / step - 1e-9))
        for k in range(steps):
            w = rk4_step(force, now, w, (time - now) / steps)
            _finite(w, now + (k + 1) * (time - now) / steps)
        now = time
        found.append(network.logits(list(w), None, np.eye(task.x.shape[0])))
    return np.array(found)


def residual_start(field: BalancedField, lattice: Lattice, grid: Grid) -> FieldState:
    """The fields of a residual network whose ŵ is W(s), s = x/L_x, no biases, and whose readout hands on ẑ.

    Raises
    ------
    InputError
        unless the lattice is the dense linear residual network that the closed form is of.
    """
    n = len(field.stretch)
    given = {
        "scaling": (lattice.scaling, "residual"),
        "activation": (lattice.activation, "identity"),
        "loss": (lattice.loss, "mean-square"),
        "width": (lattice.width, 1),
        "channels": (lattice.channels, n),
        "outputs": (lattice.outputs, n),
        "readout_modes": (lattice.readout_modes, 1),
        "range": (
            (lattice.range.name, lattice.range.components(lattice.grid).size, lattice.range.tied),
            ("taps", 1, True),
        ),
        "length_x": (lattice.length_x, 1.0),
        "length_y": (lattice.length_y, 1.0),
    }
    for key, (value, needed) in given.items():
        if value != needed:
            raise InputError(f"infinite depth: lattice.{key} is {value!r}, but its closed form is of {needed!r}")
    w = field.at(grid.x_links)[:, :, None, :]
    return FieldState(lattice, grid, w, np.zeros((grid.n_x, 1, n)), np.eye(n)[:, :, None])


def train_lattice(field: BalancedField, lattice: Lattice, boundary: Boundary) -> Array:
    """Z before training and after every step of the lattice from ŵ = W on its links, (steps + 1, n, n)."""
    start = to_lattice(residual_start(field, lattice, lattice.grid))
    return _maps(LatticeSystem(lattice, boundary, start), boundary)


def train_field(field: BalancedField, lattice: Lattice, boundary: Boundary, n_x: int, order: int = 0) -> Array:
    """The same of the field theory of order 0 (or 1, that of this lattice's depth) on n_x cells, RK4 in depth."""
    start = residual_start(field, lattice, Grid(n_x, 1))
    options = {"order": order, "scheme": "rk4", "width_order": 0}
    return _maps(FieldSystem(start, boundary, **options), boundary)  # type: ignore[arg-type]


def boundary_task(boundary: Boundary) -> LinearTask:
    """What Z = ẑ(1)/ẑ(0) is trained on: samples as they enter, and targets."""
    index = boundary.batch(0)
    return LinearTask(boundary.input(index, 1)[0], boundary.targets[index])


def _maps(system: LatticeSystem | FieldSystem, boundary: Boundary) -> Array:
    """Z from the logits of samples that enter as unit vectors: E⁺ is what the lift turns into them."""
    training = boundary.training
    if not training.full_batch or training.rates.b or training.rates.r:
        raise InputError(
            f"infinite depth: training.dynamics = {training.dynamics} with rates b = {training.rates.b:g} and r ="
            f" {training.rates.r:g}; its closed form is of the flow of W alone, so use flow or adaptive-flow, b = r = 0"
        )
    units = np.ascontiguousarray(np.linalg.pinv(boundary.lift).T)[:, :, None]
    if np.abs(boundary.lift @ units[:, :, 0].T - np.eye(len(boundary.lift))).max() > 1e-10:
        raise InputError("infinite depth: the lift does not reach all channels; use at most as many as the data have")
    maps = [system.logits(units).T]
    for k in range(training.steps):
        system.step(k)
        maps.append(system.logits(units).T)
        _finite(maps[-1:], (k + 1) * training.step)
    return np.array(maps)


def depth_imbalance(w: Array, h: float) -> Array:
    """∂_s(W + Wᵀ) + WᵀW − WWᵀ at the inner points of equally spaced W (points, n, n), by central differences."""
    symmetric = w + np.swapaxes(w, 1, 2)
    slope = (symmetric[2:] - symmetric[:-2]) / (2 * h)
    inside = w[1:-1]
    turned = np.swapaxes(inside, 1, 2)
    return slope + turned @ inside - inside @ turned


def distance(found: Array, expected: Array) -> float:
    """The largest ‖Z − Z'‖/‖Z'‖ over times, Frobenius norms."""
    apart = np.linalg.norm(found - expected, axis=(1, 2)) / np.linalg.norm(expected, axis=(1, 2))
    return float(apart.max())


def movement(path: Array) -> float:
    """‖Z(end) − Z(0)‖/‖Z(0)‖: whether there was anything to agree on."""
    return float(np.linalg.norm(path[-1] - path[0]) / np.linalg.norm(path[0]))


def _finite(parts: Sequence[Array], t: float) -> None:
    if not all(np.isfinite(part).all() for part in parts):
        raise NumericsError(f"intrinsic dynamics: the trained weights are not finite at t = {t:g}; use a smaller step")
