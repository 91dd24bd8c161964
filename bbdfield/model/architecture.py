"""What is configured: the lattice (the discrete network) and its training law.

The lattice of arXiv 2511.02003, without or with a skip connection s, depth index m = 0..M and width index i = 0..N-1:

    z[m+1]_i = s z[m]_i + Σ_j W[m]_ij σ(z[m]_j) + b[m]_i,      z[0] = E ⊗ x(y)
    logits_k = a_y Σ_{c,i} R_kc(y_i) z[M]_ci

How W and b depend on the spacings is the network's scaling (`bbdfield.model.scalings`), which j are seen its range
(`bbdfield.model.ranges`).

Lengths are in the units of length_x and length_y (1 by default, which makes them fractions of depth and width); time is
t = k τ after k steps.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bbdfield.errors import InputError
from bbdfield.model.activations import get_activation
from bbdfield.model.losses import get_loss
from bbdfield.model.ranges import RANGES, Kernel, Range
from bbdfield.model.scalings import SCALINGS, Critical, Scaling
from solvers.grids import Grid
from solvers.padding import PADDINGS

#: parameter groups and their velocities, as they are called in states and files
GROUPS, VELOCITIES = ("w", "b", "r"), ("w_dot", "b_dot", "r_dot")
DAMPED = ("heavy-ball", "leapfrog")
#: relative error of a step with error control, if not given
TOLERANCE = 1e-6
FULL_BATCH = ("flow", "adaptive-flow")
DYNAMICS = ("sgd", *FULL_BATCH, *DAMPED)


def _require(condition: bool, key: str, value: Any, remedy: str) -> None:
    if not condition:
        raise InputError(f"{key} = {value!r}: {remedy}")


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


@dataclass(frozen=True)
class Lattice:
    """A network on M = depth links and N = width cells with C channels and one bias per site.

    range : Kernel, Taps or Derivative.   scaling : "residual", "critical" or "plain".   kappa : the cubic coupling κ of
    the critical scaling (1 by default; the others have none).

    Raises
    ------
    InputError
        for sizes that are no positive whole numbers, unknown names, a range that does not fit on the width, or a
        combination without meaning.
    """

    depth: int
    width: int
    channels: int
    range: Range
    outputs: int = 10
    data_channels: int = 1
    scaling: str = "residual"
    padding: str = "zeros"
    activation: str = "tanh"
    loss: str = "cross-entropy"
    readout_modes: int = 6
    length_x: float = 1.0
    length_y: float = 1.0
    kappa: float | None = None

    def __post_init__(self) -> None:
        for key in ("depth", "width", "channels", "outputs", "data_channels", "readout_modes"):
            _require(
                _whole(getattr(self, key), 1), f"lattice.{key}", getattr(self, key), "needs a positive whole number"
            )
        for key in ("length_x", "length_y"):
            value = getattr(self, key)
            _require(_finite(value) and value > 0, f"lattice.{key}", value, "needs a positive length")
        _require(self.scaling in SCALINGS, "lattice.scaling", self.scaling, f"use one of {', '.join(SCALINGS)}")
        _require(self.padding in PADDINGS, "lattice.padding", self.padding, f"use one of {', '.join(PADDINGS)}")
        get_activation(self.activation)
        get_loss(self.loss)
        if self.scaling == Critical.name:
            object.__setattr__(self, "kappa", Critical.kappa if self.kappa is None else self.kappa)
            _require(_finite(self.kappa) and self.kappa > 0, "lattice.kappa", self.kappa, "needs a coupling > 0")  # type: ignore[operator]
        elif self.kappa is not None:
            raise InputError(
                f'lattice.kappa = {self.kappa!r}: lattice.scaling = "{self.scaling}" has no cubic coupling; remove'
                ' it, or use scaling = "critical"'
            )
        self.law.check(self.activation)
        self.range.components(self.grid)

    @property
    def grid(self) -> Grid:
        """Sites, links and cells of the lattice itself: a_x = grid.h_x, a_y = grid.h_y."""
        return Grid(self.depth, self.width, self.length_x, self.length_y)

    @property
    def a_x(self) -> float:
        return self.length_x / self.depth

    @property
    def a_y(self) -> float:
        return self.length_y / self.width

    @cached_property
    def law(self) -> Scaling:
        """The scaling itself."""
        return Critical(self.kappa) if self.kappa is not None else SCALINGS[self.scaling]()

    def at(self, depth: int, width: int) -> Lattice:
        """The same network at another resolution."""
        return dataclasses.replace(self, depth=depth, width=width)

    def to_config(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "range": {"name": self.range.name, **dataclasses.asdict(self.range)}}  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Lattice:
        given = dict(config["range"])
        kind = RANGES[given.pop("name", Kernel.name)]  # earlier files know one range and do not name it
        return cls(**{**config, "range": kind(**given)})


@dataclass(frozen=True)
class Rates:
    """η̂ of each parameter group in ∂_t θ̂ = −η̂ δℓ/δθ̂ (the field's rates; the lattice's follow from the scaling).

    r = 0 keeps the readout R fixed.
    """

    w: float
    b: float
    r: float

    def __post_init__(self) -> None:
        for key in ("w", "b", "r"):
            value = getattr(self, key)
            _require(_finite(value) and value >= 0, f"training.rates.{key}", value, "needs a number >= 0")


@dataclass(frozen=True)
class Training:
    """How the network is trained, the same for lattice and field.

    Overdamped, ∂_t θ̂ = −η̂ δℓ/δθ̂:

    - "sgd": one Euler step of length τ = `step` per minibatch of `batch` samples, θ̂ ← θ̂ − τ η̂ δℓ/δθ̂;
    - "flow": the gradient flow of the loss on one fixed set of `batch` samples, by classical Runge-Kutta steps;
    - "adaptive-flow": the same by Dormand and Prince's pair, each τ in as many steps as the relative `tolerance` of the
      hatted fields needs (it starts anew with τ at every step, so that nothing else needs to be remembered).

    Second order from rest, μ̂(∂_t² + γ∂_t)θ̂ = −δℓ/δθ̂, with `damping` γ and inertia μ̂ = 1/(η̂γ), so that the same
    rates have the same overdamped limit; one minibatch per step:

    - "heavy-ball": SGD with momentum β = e^{−γτ}, order 1 in τ;
    - "leapfrog": the conformal leapfrog, order 2; its loss is recorded in the middle of each step.

    Snapshots are taken every `snapshot_every` steps and at the end; z is stored on `probe` samples; test loss and
    accuracy are measured on the first `evaluate` test samples.
    """

    steps: int
    batch: int
    rates: Rates
    step: float = 1.0
    dynamics: str = "sgd"
    damping: float | None = None
    tolerance: float | None = None
    snapshot_every: int = 10
    probe: int = 16
    evaluate: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for key, least in (
            ("steps", 1),
            ("batch", 1),
            ("snapshot_every", 1),
            ("probe", 1),
            ("evaluate", 0),
            ("seed", 0),
        ):
            value = getattr(self, key)
            _require(_whole(value, least), f"training.{key}", value, f"needs a whole number >= {least}")
        _require(_finite(self.step) and self.step > 0, "training.step", self.step, "needs a positive number")
        _require(
            self.dynamics in DYNAMICS,
            "training.dynamics",
            self.dynamics,
            f"use one of {', '.join(DYNAMICS)}",
        )
        if self.second_order:
            given = self.damping is not None and _finite(self.damping) and self.damping > 0
            _require(given, "training.damping", self.damping, f"{self.dynamics} needs a damping γ > 0")
        else:
            _require(self.damping is None, "training.damping", self.damping, f"{self.dynamics} has none; remove it")

        if self.dynamics == "adaptive-flow":
            object.__setattr__(self, "tolerance", TOLERANCE if self.tolerance is None else self.tolerance)
            given = self.tolerance is not None and _finite(self.tolerance) and 1e-13 <= self.tolerance < 1
            _require(given, "training.tolerance", self.tolerance, "needs a relative tolerance from 1e-13 to 1")
        else:
            _require(
                self.tolerance is None, "training.tolerance", self.tolerance, f"{self.dynamics} has none; remove it"
            )

    @property
    def full_batch(self) -> bool:
        """Whether all steps see the same samples."""
        return self.dynamics in FULL_BATCH

    @property
    def second_order(self) -> bool:
        """Whether weights have inertia, so that velocities are part of the state."""
        return self.dynamics in DAMPED

    def snapshot_steps(self) -> list[int]:
        """Steps before which a snapshot is taken; the last is the end of training."""
        steps = list(range(0, self.steps, self.snapshot_every))
        return [*steps, self.steps]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Training:
        return cls(**{**config, "rates": Rates(**config["rates"])})


@dataclass(frozen=True)
class FieldState:
    """ŵ, b̂ on the links of a grid and the readout R: what training moves.

    w : tied (n_x, C, P, C), untied (n_x, n_y, C, P, C), indices (x_link, [y], c_out, component, c_in), where components
    are kernel points u, taps or moments;  b : (n_x, n_y, C);  r : (outputs, C, modes). `lattice` is the network that
    the field describes: it gives a_x (the small parameter of order 1), range, scaling, activation, loss and padding.
    Its own depth and width need not be the grid's.
    """

    lattice: Lattice
    grid: Grid
    w: Any
    b: Any
    r: Any = field(repr=False)
    #: what the fields were drawn from, if they were (`InitialFields.to_config`)
    origin: dict[str, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        shapes = field_shapes(self.lattice, self.grid)
        for name in ("w", "b", "r"):
            if tuple(getattr(self, name).shape) != shapes[name]:
                raise InputError(
                    f"field {name} has shape {tuple(getattr(self, name).shape)}, but a grid of"
                    f" {self.grid.n_x} x {self.grid.n_y} cells needs {shapes[name]}"
                )


def field_shapes(lattice: Lattice, grid: Grid) -> dict[str, tuple[int, ...]]:
    """Shapes of w, b and r on a grid."""
    c = lattice.channels
    kernel = (c, lattice.range.components(grid).size, c)
    return {
        "w": (grid.n_x, *kernel) if lattice.range.tied else (grid.n_x, grid.n_y, *kernel),
        "b": (grid.n_x, grid.n_y, c),
        "r": (lattice.outputs, c, lattice.readout_modes),
    }
