"""Networks of every kind with velocities, and a third implementation of their layers: loops with dual numbers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from bbdfield.decomposition.maps import Rule
from bbdfield.decomposition.readout import Output, cosine_basis
from bbdfield.model.losses import get_loss, loss_names, prepare_targets

OUTPUTS, MODES, CELLS, DEPTH = 3, 3, 6, 3


@dataclass
class Net:
    """A network with velocities, its input and its targets."""

    kind: str
    rule: Rule
    W: list[np.ndarray]
    b: list[np.ndarray]
    Wdot: list[np.ndarray]
    bdot: list[np.ndarray]
    R: np.ndarray
    Rdot: np.ndarray
    z0: np.ndarray
    z0dot: np.ndarray
    output: Output
    loss: str
    targets: np.ndarray
    basis: np.ndarray | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def naive(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """z and ż by loops over neurons and connections."""
        z, zdot = [self.z0], [self.z0dot]
        for m, w in enumerate(self.W):
            sigma = self.rule.sigma(m)
            value, rate = sigma.f(z[m]), sigma.df(z[m]) * zdot[m]
            shape = (w.shape[0],) if w.ndim == 2 else (len(self.z0), w.shape[-3])
            following = np.empty((*shape, self.z0.shape[-1]))
            following_dot = np.empty_like(following)
            for at in np.ndindex(*shape):
                total = self.b[m][at] + (self.rule.s(m) * z[m][at] if self.rule.s(m) else 0.0)
                total_dot = self.bdot[m][at] + (self.rule.s(m) * zdot[m][at] if self.rule.s(m) else 0.0)
                for entry, source in self._connections(w, at):
                    total = total + w[entry] * value[source]
                    total_dot = total_dot + self.Wdot[m][entry] * value[source] + w[entry] * rate[source]
                following[at], following_dot[at] = total, total_dot
            z.append(following)
            zdot.append(following_dot)
        return z, zdot

    def _connections(self, w, at):
        if w.ndim == 2:
            return [((*at, j), j) for j in range(w.shape[1])]
        y, c = at
        taps, sources = w.shape[-2:]
        found = []
        for u in range(taps):
            cell = y + u - taps // 2
            if self.rule.padding == "circular":
                cell %= len(self.z0)
            elif self.rule.padding == "reflect":
                cell = -1 - cell if cell < 0 else cell
                cell = 2 * len(self.z0) - 1 - cell if cell >= len(self.z0) else cell
            elif not 0 <= cell < len(self.z0):
                continue
            found += [((c, u, d) if w.ndim == 3 else (y, c, u, d), (cell, d)) for d in range(sources)]
        return found

    def naive_loss(self, z_last: np.ndarray) -> float:
        """ℓ by another route than `Output`."""
        if self.basis is None:
            logits = np.einsum("kn,np->pk", self.R, z_last)
        else:
            logits = np.einsum("kcj,yj,ycp->pk", self.R, self.basis, z_last)
        return float(np.mean(get_loss(self.loss).value_per_sample(logits, self.targets)))

    def moved(self, step: float, acceleration: Any = None) -> Net:
        """The network a time `step` later, to second order if accelerations are given."""

        def go(values, rates, seconds):
            return [
                v + step * r + (0 if a is None else step**2 / 2 * a)
                for v, r, a in zip(values, rates, seconds, strict=True)
            ]

        none = [None] * len(self.W)
        w2, b2 = (none, none) if acceleration is None else (acceleration.w, acceleration.b)
        r2 = None if acceleration is None else acceleration.r
        change = dict(self.__dict__)
        change["W"], change["b"] = go(self.W, self.Wdot, w2), go(self.b, self.bdot, b2)
        (change["R"],) = go([self.R], [self.Rdot], [r2])
        (change["z0"],) = go([self.z0], [self.z0dot], [None])
        if acceleration is not None:
            change["Wdot"], change["bdot"] = go(self.Wdot, w2, none), go(self.bdot, b2, none)
            (change["Rdot"],) = go([self.Rdot], [r2], [None])
        return Net(**change)


class Nets:
    """Builders; `KINDS` are all kinds of layers, each plain and residual."""

    KINDS = (
        "mlp",
        "mlp-residual",
        "mlp-skips",
        "tied-zeros",
        "tied-circular-residual",
        "tied-reflect-residual",
        "tied-channels",
        "untied-reflect",
        "untied-zeros-residual",
        "untied-circular-residual",
    )
    #: those that `bbdfield.lattice.network` can also do
    LATTICE = tuple(kind for kind in KINDS if kind.startswith(("tied", "untied")) and kind != "tied-channels")

    @staticmethod
    def rule(kind: str, activation: Any) -> Rule:
        padding = next((p for p in ("circular", "reflect") if p in kind), "zeros")
        skip: Any = 1.0 if "residual" in kind else 0.0
        if kind == "mlp-skips":
            skip = (0.0, 1.0, 0.0)
        return Rule(activation, skip, padding)

    @classmethod
    def build(
        cls,
        kind: str,
        activation: Any = "tanh",
        loss: str = "cross-entropy",
        batch: int = 3,
        seed: int = 0,
        **options: Any,
    ) -> Net:
        """options: moving_input, depth, scale (of all parameters), widths (of an mlp)."""
        rng = np.random.default_rng([seed, batch, cls.KINDS.index(kind)])
        depth, scale = options.get("depth", DEPTH), options.get("scale", 1.0)
        if kind.startswith("mlp"):
            widths = (
                options.get("widths")
                or {
                    "mlp": (4, 7, 5, 3),
                    "mlp-residual": (5,) * (depth + 1),
                    "mlp-skips": (4, 6, 6, 3),
                }[kind]
            )
            shapes = [(n, m) for m, n in itertools.pairwise(widths)]
            sites = [(n,) for n in widths]
        else:
            channels = [2, 3, 1, 2] if kind == "tied-channels" else [2] * (depth + 1)
            head = (CELLS,) if kind.startswith("untied") else ()
            shapes = [(*head, n, 3, m) for m, n in itertools.pairwise(channels)]
            sites = [(CELLS, c) for c in channels]
        fans = [np.sqrt(shape[1] if len(shape) == 2 else 3 * shape[-1]) for shape in shapes]
        draw = rng.standard_normal
        dense = len(sites[-1]) == 1
        r_shape = (OUTPUTS, sites[-1][0]) if dense else (OUTPUTS, sites[-1][1], MODES)
        basis = None if dense else cosine_basis(CELLS, MODES, 1 / CELLS)
        labels = rng.integers(0, OUTPUTS, batch)
        return Net(
            kind,
            cls.rule(kind, activation),
            [scale * draw(shape) / fan for shape, fan in zip(shapes, fans, strict=True)],
            [scale * draw(site) for site in sites[1:]],
            [draw(shape) / fan for shape, fan in zip(shapes, fans, strict=True)],
            [draw(site) for site in sites[1:]],
            draw(r_shape),
            draw(r_shape),
            draw((*sites[0], batch)),
            draw((*sites[0], batch)) if options.get("moving_input") else np.zeros((*sites[0], batch)),
            Output(loss, labels, OUTPUTS, basis),
            loss,
            prepare_targets(loss, labels, OUTPUTS),
            basis,
        )


@pytest.fixture(scope="session")
def nets() -> type[Nets]:
    return Nets


@pytest.fixture(scope="session", params=Nets.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session", params=Nets.LATTICE)
def lattice_kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session", params=("tanh", "sigmoid", "softplus", "relu", "gelu", "identity"))
def activation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session", params=loss_names())
def loss(request: pytest.FixtureRequest) -> str:
    return request.param
