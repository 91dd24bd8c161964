"""Orders of convergence from errors at several spacings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bbdfield.errors import InputError


@dataclass(frozen=True)
class Fit:
    """error ≈ prefactor · spacing^order.

    ci : 95 % confidence interval of the slope (Student t on the residuals of the log-log line; None with two points).
    local : order between neighbouring rungs, coarsest pair first.
    """

    order: float
    prefactor: float
    ci: tuple[float, float] | None
    local: list[float]


def fit_order(spacings: Sequence[float], errors: Sequence[float]) -> Fit:
    """Least-squares slope of log error against log spacing.

    Raises
    ------
    InputError
        with fewer than two distinct spacings, or an error that is zero or not finite (there is no order to fit).
    """
    from scipy import stats  # slow to import, and needed here only

    h, e = np.asarray(spacings, float), np.asarray(errors, float)
    if h.size != e.size or np.unique(h).size < 2:
        raise InputError("an order needs errors at two or more different spacings; make the ladder longer")
    if not (np.all(np.isfinite(e)) and np.all(e > 0) and np.all(h > 0)):
        raise InputError("an order needs positive, finite errors at every spacing")
    arrange = np.argsort(-h)
    x, y = np.log(h[arrange]), np.log(e[arrange])
    line = stats.linregress(x, y)
    ci = None
    if x.size > 2:
        reach = float(stats.t.ppf(0.975, x.size - 2) * line.stderr)
        ci = (float(line.slope - reach), float(line.slope + reach))
    return Fit(float(line.slope), float(np.exp(line.intercept)), ci, (np.diff(y) / np.diff(x)).tolist())
