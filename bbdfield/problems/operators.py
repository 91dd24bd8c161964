"""𝒦[ŵ] exactly: integrals by Gauss-Legendre quadrature (to rounding for smooth kernels), derivatives as derivatives.

    kernel        ∫_{−r}^{r} ŵ(u) s(y + u) du
    taps          Σ_k ŵ_k Σ_{n<=p} (k a_y)^n/n! ∂_y^n s
    derivative    Σ_{n<=2} ŵ_n ℓ^n ∂_y^n s

It shares nothing with the operators that it is to measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bbdfield.errors import InputError
from bbdfield.model.architecture import Lattice
from bbdfield.model.ranges import Derivative, Kernel, Taps

#: quadrature points of a kernel
POINTS = 48


def components(lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """(p, dν): components and their measure, so that 𝒦[ŵ] is a sum over p of dν ŵ_p."""
    kind = lattice.range
    if isinstance(kind, Kernel):
        u, weights = np.polynomial.legendre.leggauss(POINTS)
        return kind.radius * u, kind.radius * weights
    p = kind.components(lattice.grid).astype(float)
    return p, np.ones(p.size)


def factors(lattice: Lattice, p: np.ndarray, width_order: int | None) -> np.ndarray:
    """(orders + 1, P): component p of a local range acts as Σ_n factors[n, p] ∂_y^n."""
    kind = lattice.range
    if isinstance(kind, Derivative):
        return np.diag(kind.length ** np.arange(3.0))
    if isinstance(kind, Taps):
        order = max(kind.width_orders) if width_order is None else width_order
        return np.stack([(p * lattice.a_y) ** n / math.factorial(n) for n in range(order + 1)])
    raise InputError(f'lattice.range = "{kind.name}" is not local')


def component_symbols(lattice: Lattice, p: np.ndarray, q: np.ndarray, width_order: int | None) -> np.ndarray:
    """(n_q, P): what component p does to e^{iqy}: e^{iqp} for kernels, powers of iq for local ranges."""
    if isinstance(lattice.range, Kernel):
        return np.exp(1j * np.multiply.outer(q, p))
    table = factors(lattice, p, width_order)
    return (1j * q[:, None]) ** np.arange(len(table)) @ table


def symbol(
    lattice: Lattice, profile: Callable[[np.ndarray], np.ndarray], q: np.ndarray, width_order: int | None
) -> np.ndarray:
    """(n_q, C, C): 𝒦[ŵ] on e^{iqy}, for ŵ = profile(p) (C, P, C) that does not depend on y."""
    p, measure = components(lattice)
    return np.einsum("qp,cpd->qcd", component_symbols(lattice, p, q, width_order) * measure, profile(p))


def lattice_symbol(lattice: Lattice, profile: Callable[[np.ndarray], np.ndarray], q: np.ndarray) -> np.ndarray:
    """(n_q, C, C): the lattice's own Σ_k (taps of ŵ)_k e^{iqka_y}, without the scaling's factor."""
    theta = lattice.range.unit(lattice.a_y) * profile(lattice.range.components(lattice.grid))
    to_taps = lattice.range.taps(lattice.a_y)
    taps = theta if to_taps is None else np.einsum("kp,cpd->ckd", to_taps, theta)
    k = np.arange(taps.shape[1]) - taps.shape[1] // 2
    return np.einsum("qk,ckd->qcd", np.exp(1j * lattice.a_y * np.multiply.outer(q, k)), taps)


def act(
    lattice: Lattice,
    weights: Callable[[np.ndarray], np.ndarray],
    s: Callable[[np.ndarray, int], np.ndarray],
    y: np.ndarray,
    width_order: int | None,
) -> np.ndarray:
    """𝒦[ŵ]s at y, (n_y, C).

    weights : p (n_y or 1, P) -> ŵ (n_y or 1, C, P, C), at the y's.
    s : (points of any shape, n) -> ∂_y^n s there, (*shape, C), continued beyond the edges as the padding says; with
    zero padding the integral ends at the edges instead (kernels only).
    """
    p, measure = components(lattice)
    if not isinstance(lattice.range, Kernel):
        table = factors(lattice, p, width_order)
        sums = np.stack([s(y, n) for n in range(len(table))])
        return np.einsum("ycpd,np,nyd->yc", _everywhere(weights(p[None]), y), table, sums)
    u, du = p[None], measure[None]
    if lattice.padding == "zeros":
        low = np.maximum(-lattice.range.radius, -y)[:, None]
        high = np.minimum(lattice.range.radius, lattice.length_y - y)[:, None]
        unit, half = p / lattice.range.radius, (high - low) / 2
        u, du = (low + high) / 2 + half * unit, half * measure / lattice.range.radius
    values = s(y[:, None] + u, 0)
    du = np.broadcast_to(du, values.shape[:2])
    return np.einsum("ycpd,yp,ypd->yc", _everywhere(weights(u), y), du, values)


def _everywhere(w: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.broadcast_to(w, (y.size, *w.shape[1:]))
