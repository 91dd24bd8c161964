"""Gaussian random functions of one coordinate as cosine series, sampled on any grid.

A random function on [0, L] with correlation length ℓ, of unit variance on average over [0, L], is

    g(x) = Σ_n c_n cos(π n x / L),    c_n ~ N(0, (2 − δ_n0) S_n),    S_n ∝ exp(−(π n ℓ / L)² / 2),  Σ S_n = 1,

whose correlation away from the ends is exp(−Δ²/2ℓ²); in several coordinates it is the product of such series. On a
circle of length L the waves are cos(2π n x / L) and sin(2π n x / L), with S_n ∝ exp(−(2π n ℓ / L)² / 2) over n ∈ ℤ,
and the correlation is the same everywhere.
"""

from __future__ import annotations

import numpy as np


def cosine_amplitudes(length: float, correlation: float) -> np.ndarray:
    """Standard deviations of c_n, until S_n falls below 1e-16 of S_0."""
    count = int(np.ceil(np.sqrt(2 * 37.0) * length / (np.pi * correlation))) + 1
    n = np.arange(count)
    spectrum = np.exp(-((np.pi * n * correlation / length) ** 2) / 2)
    return np.sqrt(np.where(n > 0, 2.0, 1.0) * spectrum / spectrum.sum())


def cosine_basis(points: np.ndarray, length: float, count: int) -> np.ndarray:
    """cos(π n x / L): (points, count)."""
    return np.cos(np.pi * np.outer(points / length, np.arange(count)))


def periodic_amplitudes(length: float, correlation: float) -> np.ndarray:
    """Standard deviations of the coefficients of 1, cos, sin, cos, sin, …, until S_n falls below 1e-16 of S_0."""
    count = int(np.ceil(np.sqrt(2 * 37.0) * length / (2 * np.pi * correlation))) + 1
    n = np.arange(count)
    spectrum = np.where(n > 0, 2.0, 1.0) * np.exp(-((2 * np.pi * n * correlation / length) ** 2) / 2)
    deviations = np.sqrt(spectrum / spectrum.sum())
    return np.concatenate([deviations[:1], np.repeat(deviations[1:], 2)])


def periodic_basis(points: np.ndarray, length: float, count: int) -> np.ndarray:
    """1, cos(2π y / L), sin(2π y / L), cos(4π y / L), …: (points, count)."""
    n = (np.arange(count) + 1) // 2
    angles = 2 * np.pi * np.outer(points / length, n)
    return np.where(np.arange(count) % 2 == 0, np.where(n == 0, 1.0, np.sin(angles)), np.cos(angles))
