"""Fields that do not depend on y: ordinary differential equations in x, whatever the range."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from bbdfield.errors import InputError
from bbdfield.model.activations import get_activation
from bbdfield.model.ranges import Kernel, Taps
from bbdfield.model.scalings import Critical, Plain
from bbdfield.problems.base import Problem, modulation, modulation_integrals, points

#: tolerance of the reference integration, and its largest step over L_x
TOLERANCE, LARGEST_STEP = 1e-13, 1 / 64


@dataclass(frozen=True)
class UniformProblem(Problem):
    """With ẑ(x), b̂(x) uniform and periodic or reflecting edges, 𝒦[ŵ] is a matrix W(x) on every range.

    (So it is with zero padding for taps at width order 0, a theory that sees no edges, unlike the lattice itself.)

    Kernels are W/2r, taps W (K + 1 + k)/Σ(K + 1 + k), moments (W, 0.3, 0.5; plain: W, 0, 0), of which
    only the first acts. Equations:

        residual    F = Wσ(ẑ) + b̂           G_1 = F − (a_x/2) Wσ'(ẑ)F
        critical    F = Wẑ − κẑ³ + b̂         G_1 = F + a_x(−κWẑ³ + (6/5)κ²ẑ⁵) − (a_x/2)(WF − 3κẑ²F)
        plain       G_1 = (2/a_x)(1 + Wσ'(ẑ))^{−1}(Wσ(ẑ) + b̂ − ẑ)

    `exact` integrates them by an eighth-order Runge-Kutta method (DOP853) to 1e-13 unless a formula is known.
    """

    def __post_init__(self) -> None:
        pointwise = isinstance(self.lattice.range, Taps) and self.width_order == 0
        self._require(padding=("circular", "reflect", *(["zeros"] if pointwise else [])))

    @abstractmethod
    def coupling(self, x: np.ndarray) -> np.ndarray:
        """W(x), (n_x, C, C)."""

    @abstractmethod
    def source(self, x: np.ndarray) -> np.ndarray:
        """b̂(x), (n_x, C)."""

    @abstractmethod
    def initial(self) -> np.ndarray:
        """ẑ(0), (C, B)."""

    def weights(self, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
        w, kind = self.coupling(x), self.lattice.range
        share, rest = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.3, 0.5])
        if isinstance(kind, Kernel):
            share, rest = np.full(p.shape, 1 / (2 * kind.radius)), np.zeros(p.shape)
        elif isinstance(kind, Taps):
            share, rest = (p + kind.count // 2 + 1.0) / np.sum(p + kind.count // 2 + 1.0), np.zeros(p.shape)
        if not self.lattice.law.limit:
            rest = 0 * rest  # else 1 + 𝒦σ' is singular for some wave
        one = np.eye(self.lattice.channels)
        return (np.einsum("xcd,p->xcpd", w, share) + np.einsum("cd,p->cpd", one, rest))[:, None]

    def bias(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.repeat(self.source(x)[:, None], y.size, axis=1)

    def exact(self, x: Any, y: Any, order: int | None = None) -> np.ndarray:
        return self._everywhere(self._integrated(points(x), self._order(order)), y)

    def sites(self) -> np.ndarray:
        """z[m] (M + 1, N, C, B) of the lattice, z ← s z + (W_0 + unit·W)σ_a(z) + unit·b̂ with W_0 its identity."""
        lattice = self.lattice
        sigma = lattice.law.activation(get_activation(lattice.activation), lattice.a_x).f
        unit, z = lattice.law.unit(lattice.a_x), [self.initial()]
        taps = unit * self.coupling(lattice.grid.x_links) + lattice.law.identity * np.eye(lattice.channels)
        for w, b in zip(taps, unit * self.source(lattice.grid.x_links), strict=True):
            z.append(lattice.law.skip * z[-1] + w @ sigma(z[-1]) + b[:, None])
        return self._everywhere(np.stack(z), lattice.grid.y)

    def _everywhere(self, z: np.ndarray, y: Any) -> np.ndarray:
        return np.repeat(z[:, None], points(y).size, axis=1)

    @cached_property
    def _dense(self) -> dict[int, Callable[[float], np.ndarray]]:
        return {}

    def _integrated(self, x: np.ndarray, order: int) -> np.ndarray:
        """(n_x, C, B)."""
        shape = self.initial().shape
        if order not in self._dense:
            length = self.lattice.length_x

            def slope(at: float, z: np.ndarray) -> np.ndarray:
                w, b = self.coupling(np.full(1, at))[0], self.source(np.full(1, at))[0][:, None]
                return self._slope(z.reshape(shape), w, b, order).ravel()

            settings: dict[str, Any] = {"method": "DOP853", "rtol": TOLERANCE, "atol": 1e-2 * TOLERANCE}
            settings |= {"max_step": LARGEST_STEP * length, "dense_output": True}
            self._dense[order] = solve_ivp(slope, (0.0, length), self.initial().ravel(), **settings).sol
        return np.stack([self._dense[order](at).reshape(shape) for at in x])

    def _slope(self, z: np.ndarray, w: np.ndarray, b: np.ndarray, order: int) -> np.ndarray:
        """G_n of uniform ẑ (C, B)."""
        a, activation = self.lattice.a_x, get_activation(self.lattice.activation)
        law = self.lattice.law
        if isinstance(law, Critical):
            kappa = law.kappa
            f = w @ z - kappa * z**3 + b
            if order == 0:
                return f
            return f + a * (-kappa * w @ z**3 + 1.2 * kappa**2 * z**5) - a / 2 * (w @ f - 3 * kappa * z**2 * f)
        f = w @ activation.f(z) + b
        if isinstance(law, Plain):
            return np.stack([self._relaxed(z[:, s], (f - z)[:, s], w) for s in range(z.shape[1])], axis=1)
        return f if order == 0 else f - a / 2 * (w @ (activation.df(z) * f))

    def _relaxed(self, z: np.ndarray, residue: np.ndarray, w: np.ndarray) -> np.ndarray:
        slopes = get_activation(self.lattice.activation).df(z)
        return np.linalg.solve(np.eye(z.size) + w * slopes, 2 / self.lattice.a_x * residue)


@dataclass(frozen=True)
class Uniform(UniformProblem):
    """Random smooth W(x), b̂(x) whose matrices at different x do not commute; any scaling, range and activation."""

    samples: int = 2
    seed: int = 0

    @cached_property
    def _draws(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng, c = np.random.default_rng([29, self.seed]), self.lattice.channels
        scale = 1.0 if self.lattice.law.limit else 0.4
        return (
            scale * rng.uniform(-1, 1, (3, c, c)) / np.sqrt(c),
            0.7 * rng.uniform(-1, 1, (3, c)),
            rng.uniform(-1, 1, (c, self.samples)),
        )

    def _in_x(self, x: np.ndarray, draws: np.ndarray) -> np.ndarray:
        s = x / self.lattice.length_x
        return np.tensordot(np.stack([np.ones_like(s), np.sin(2 * s + 0.3), np.cos(3 * s)], axis=1), draws, 1)

    def coupling(self, x: np.ndarray) -> np.ndarray:
        return self._in_x(x, self._draws[0])

    def source(self, x: np.ndarray) -> np.ndarray:
        return self._in_x(x, self._draws[1])

    def initial(self) -> np.ndarray:
        return self._draws[2]


@dataclass(frozen=True)
class OneChannel(UniformProblem):
    """One channel, one number w; every start is a sample."""

    w: float = 1.0
    starts: tuple[float, ...] = (0.3, -0.8, 1.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_channels(1)

    def coupling(self, x: np.ndarray) -> np.ndarray:
        return np.full((x.size, 1, 1), float(self.w))

    def source(self, x: np.ndarray) -> np.ndarray:
        return np.zeros((x.size, 1))

    def initial(self) -> np.ndarray:
        return np.array([self.starts], float)


@dataclass(frozen=True)
class TanhGrowth(OneChannel):
    """∂_x ẑ = w g(x) tanh ẑ, g = 1 + v cos(πx/L_x) (residual):   sinh ẑ(x) = sinh ẑ(0) e^{w∫g}.

    Separate: dẑ cosh ẑ/sinh ẑ = w g dx. Order 1, ∂_x ẑ = wg tanh ẑ − (a_x/2)(wg)² tanh ẑ/cosh²ẑ, is integrated.
    """

    variation: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(scaling=("residual",), activation=("tanh",))

    def coupling(self, x: np.ndarray) -> np.ndarray:
        return self.w * modulation(x, self.lattice.length_x, self.variation)[:, None, None]

    def exact(self, x: Any, y: Any, order: int | None = None) -> np.ndarray:
        if self._order(order) == 1:
            return super().exact(x, y, 1)
        grown = np.exp(self.w * modulation_integrals(points(x), self.lattice.length_x, self.variation)[0])
        return self._everywhere(np.arcsinh(np.multiply.outer(grown, np.sinh(self.initial()))), y)


@dataclass(frozen=True)
class CriticalCubic(OneChannel):
    """∂_x ẑ = w ẑ − κẑ³ (critical), Bernoulli's equation:

        ẑ(x) = ẑ(0) e^{wx} / √(1 + κ ẑ(0)² (e^{2wx} − 1)/w)            → ±√(w/κ) for w > 0, and 0 for w <= 0

    Insert v = ẑ^{−2}: ∂_x v = −2w v + 2κ. The lattice is z ← (1 + a_x w) r tanh(z/r), r = (3κa_x)^{−1/2}; order 1,

        ∂_x ẑ = F + a_x(−κwẑ³ + (6/5)κ²ẑ⁵) − (a_x/2)(w − 3κẑ²)F,    F = wẑ − κẑ³,

    is integrated.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(scaling=("critical",))

    def exact(self, x: Any, y: Any, order: int | None = None) -> np.ndarray:
        if self._order(order) == 1:
            return super().exact(x, y, 1)
        x, z0 = points(x)[:, None, None], self.initial()
        growth = np.expm1(2 * self.w * x) / self.w if self.w else 2 * x
        kappa = self.lattice.kappa or 1.0
        return self._everywhere(z0 * np.exp(self.w * x) / np.sqrt(1 + kappa * z0**2 * growth), y)


@dataclass(frozen=True)
class PlainRelaxation(OneChannel):
    """(a_x/2)(1 + wσ'(ẑ)) ∂_x ẑ = wσ(ẑ) − ẑ + b (plain): everything falls to the fixed point z* = wσ(z*) + b.

    Near it, with A = wσ'(z*), field and lattice decay as

        field      e^{−2(1−A)/(1+A) · x/a_x}        lattice      A^{x/a_x} = e^{ln A · x/a_x}

    (for the identity activation exactly so, everywhere: ẑ = z* + (ẑ(0) − z*) e^{…}). Per layer the exponents differ
    by (1 − A)³/12 + …: at fixed m = x/a_x the error does not know a_x and never falls; at fixed x > 0 both are at z*,
    exponentially close. Only if A = 1 − αa_x, near criticality, is there a common limit, e^{−αx}, with error O(a_x²).
    """

    w: float = 0.6
    b: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(scaling=("plain",), activation=("tanh", "identity"))
        if not 0 < self.w < 1:
            raise InputError(f"PlainRelaxation: w = {self.w!r}: needs 0 < w < 1, for one fixed point")

    def source(self, x: np.ndarray) -> np.ndarray:
        return np.full((x.size, 1), float(self.b))

    @cached_property
    def fixed_point(self) -> float:
        """z*."""
        sigma = get_activation(self.lattice.activation).f
        reach = 1 + abs(self.b) / (1 - self.w)
        return float(brentq(lambda z: self.w * float(sigma(np.array(z))) + self.b - z, -reach, reach, xtol=1e-15))

    @cached_property
    def multiplier(self) -> float:
        """A = wσ'(z*), by which one layer of the lattice reduces a small departure from z*."""
        return self.w * float(get_activation(self.lattice.activation).df(np.array(self.fixed_point)))

    @property
    def decay(self) -> float:
        """2(1 − A)/(1 + A)/a_x, the field's rate."""
        return 2 * (1 - self.multiplier) / (1 + self.multiplier) / self.lattice.a_x

    def exact(self, x: Any, y: Any, order: int | None = None) -> np.ndarray:
        if self.lattice.activation != "identity":
            return super().exact(x, y, order)
        self._order(order)
        left = np.exp(-self.decay * points(x))[:, None, None]
        return self._everywhere(self.fixed_point + (self.initial() - self.fixed_point) * left, y)
