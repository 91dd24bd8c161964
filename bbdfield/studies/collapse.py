"""Does one number decide? Points of a grid, each with several seeds, against one ratio of their two coordinates.

If a quantity depends on the ratio alone, points of equal ratio coincide up to seeds, and points of a group are
exchangeable within each seed. Whether it has a trend is decided by the slopes of the seeds, which are independent, with
Student's t. Rank correlations are attenuated by noise, and drawing seeds again gives their scatter only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from scipy.stats import t as student

Array = npt.NDArray[np.float64]

#: random streams of the study's seed, and how often one draws
STREAM_BOOTSTRAP, STREAM_PERMUTATIONS = 41, 42
BOOTSTRAPS, PERMUTATIONS = 1000, 4000
NUMBERS = (
    "mean",
    "change",
    "change_interval",
    "rank_correlation",
    "bootstrap_range",
    "given_train_loss",
    "given_train_loss_range",
    "with_temperature",
    "explained",
    "explained_by_chance",
    "spread",
    "seed_error",
    "p_value",
    "with_batch",
)


def correlations(a: Array, b: Array) -> Array:
    """Spearman's of every row of a and b (rows, points): the correlation of ranks; NaN where one is constant."""
    ranks = [rankdata(each, axis=-1) for each in (a, b)]
    x, y = (each - each.mean(axis=-1, keepdims=True) for each in ranks)
    below: Array = np.sqrt(np.sum(x**2, axis=-1) * np.sum(y**2, axis=-1))
    return np.divide(np.sum(x * y, axis=-1), below, out=np.full(below.shape, np.nan), where=below > 0)


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's; NaN for fewer than three points, or where one of them is constant."""
    return float(correlations(a[None], b[None])[0]) if len(a) > 2 else math.nan


def partial(ab: Array, ac: Array, bc: Array) -> Array:
    """The correlation of a and b at equal c: (r_ab − r_ac r_bc)/√((1−r_ac²)(1−r_bc²)); NaN where c is one of them."""
    below = (1 - ac**2) * (1 - bc**2)
    good = below > 1e-12
    return np.divide(ab - ac * bc, np.sqrt(np.where(good, below, 1.0)), out=np.full(ab.shape, np.nan), where=good)


def partial_rank_correlation(a: Array, b: Array, given: Array) -> float:
    """Of a and b at equal `given`."""
    pairs = ((a, b), (a, given), (b, given))
    return float(partial(*(np.array([rank_correlation(*pair)]) for pair in pairs))[0])


def student_interval(values: Array) -> list[float] | None:
    """95 % for the mean of independent values; None for fewer than two."""
    if len(values) < 2:
        return None
    reach = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return [float(np.mean(values)) - reach, float(np.mean(values)) + reach]


def slopes(values: Array, ratio: Array) -> Array:
    """Slope of every seed's values (points, seeds) against log ratio, by least squares; NaN for one ratio only."""
    x = np.log(ratio) - np.log(ratio).mean()
    below = float(x @ x)
    result: Array = x @ values / below if np.ptp(np.log(ratio)) > 1e-9 else np.full(values.shape[1], np.nan)
    return result


def groups_of(ratio: Array) -> list[npt.NDArray[np.int64]]:
    """Points of equal rate/batch, by growing ratio; `ratio` is flat."""
    order = np.argsort(ratio, kind="stable")
    cuts = np.flatnonzero(np.diff(np.log(ratio[order])) > 1e-9) + 1
    return [np.sort(part) for part in np.split(order, cuts)]


def within(means: Array, groups: Sequence[npt.NDArray[np.int64]]) -> Array:
    """Deviation of every point from the mean of its group."""
    off = np.zeros(means.shape)
    for group in groups:
        off[group] = means[group] - means[group].mean(axis=0)
    return off


def exchangeable(values: Array, groups: Sequence[npt.NDArray[np.int64]], rng: np.random.Generator) -> float:
    """How likely points of equal rate/batch differ as much as they do if only rate/batch counts: a p-value.

    Then the points of a group are exchangeable within a seed. Statistic: Σ over points of the squared deviation of the
    mean over seeds from its group's. NaN where no group has two points, or there is one seed only.

    Parameters
    ----------
    values : (points, seeds).
    """
    several = [group for group in groups if len(group) > 1]
    if not several or values.shape[1] < 2:
        return math.nan
    seen = float(np.sum(within(values.mean(axis=1), several) ** 2))
    # the means of groups do not change under the permutations
    totals = np.zeros(PERMUTATIONS)
    for group in several:
        block = np.broadcast_to(values[group], (PERMUTATIONS, len(group), values.shape[1]))
        means = rng.permuted(block, axis=1).mean(axis=2)
        totals += np.sum((means - means.mean(axis=1, keepdims=True)) ** 2, axis=1)
    return float((1 + np.count_nonzero(totals >= seen * (1 - 1e-12))) / (1 + PERMUTATIONS))


def compare(values: Array, ratio: Array, batches: Array, train: Array, temperature: Array, seed: int) -> dict[str, Any]:
    """What one quantity (points, seeds) says of rate/batch (points,), over the points where all seeds have it.

    points : how many.   mean : over all.   change, change_interval : slope against log rate/batch, times the range of
    the latter, mean over seeds and 95 % by Student's t.   rank_correlation, bootstrap_range : of means over seeds with
    rate/batch, and the middle 95 % of what seeds drawn again give, which is no confidence interval.
    given_train_loss, given_train_loss_range : the partial one, given the training loss at the end.
    with_temperature : rank correlation with the measured T_eff instead.   explained : share of the variance over
    points that their rate/batch explains, where several points share one.   explained_by_chance : what it is on
    average if only chance counts, (groups − 1)/(points − 1).   spread : standard deviation among points of equal
    rate/batch.   seed_error : standard error of a point.   p_value : see `exchangeable`.   with_batch : rank
    correlation of the deviations among such points with those of log batch.

    Numbers that fewer than three points do not give are None.
    """
    use = np.isfinite(values).all(axis=1)
    values, train, temperature, ratio, batches = (each[use] for each in (values, train, temperature, ratio, batches))
    points, seeds = values.shape
    if points < 3:
        return {"points": points, **dict.fromkeys(NUMBERS)}
    means, losses = values.mean(axis=1), train.mean(axis=1)
    groups = groups_of(ratio)
    several = [group for group in groups if len(group) > 1]
    inside = np.concatenate(several) if several else np.zeros(0, np.int64)
    off = within(means, groups)
    rng = np.random.default_rng([seed, STREAM_BOOTSTRAP])
    draws = rng.integers(seeds, size=(BOOTSTRAPS, seeds)) if seeds > 1 else np.zeros((0, 1), int)
    drawn, lost, same = (
        each[:, draws].mean(axis=-1).T for each in (values, train, np.broadcast_to(ratio[:, None], values.shape))
    )

    def middle(found: Array) -> list[float] | None:
        found = found[np.isfinite(found)]
        return [float(q) for q in np.quantile(found, (0.025, 0.975))] if found.size else None

    scatter = float(np.sum((means - means.mean()) ** 2))
    error = float(np.sqrt(np.mean(values.var(axis=1, ddof=1) / seeds))) if seeds > 1 else math.nan
    changes = slopes(values, ratio) * np.ptp(np.log(ratio))
    return {
        "points": points,
        "mean": plain(float(np.mean(values))),
        "change": plain(float(np.mean(changes))),
        "change_interval": student_interval(changes) if np.isfinite(changes).all() else None,
        "rank_correlation": plain(rank_correlation(means, ratio)),
        "bootstrap_range": middle(correlations(drawn, same)),
        "given_train_loss": plain(partial_rank_correlation(means, ratio, losses)),
        "given_train_loss_range": middle(
            partial(correlations(drawn, same), correlations(drawn, lost), correlations(same, lost))
        ),
        "with_temperature": plain(rank_correlation(means, temperature.mean(axis=1))),
        "explained": plain(1 - float(np.sum(off**2)) / scatter) if scatter > 0 and several else None,
        "explained_by_chance": (len(groups) - 1) / (points - 1) if several else None,
        "spread": plain(_spread(off[inside], several)),
        "seed_error": plain(error),
        "p_value": plain(exchangeable(values, groups, np.random.default_rng([seed, STREAM_PERMUTATIONS]))),
        "with_batch": plain(rank_correlation(off[inside], within(np.log(batches), groups)[inside])),
    }


def _spread(off: Array, groups: Sequence[npt.NDArray[np.int64]]) -> float:
    """Standard deviation among the points of a group, over all groups."""
    freedom = sum(len(group) - 1 for group in groups)
    return math.sqrt(float(np.sum(off**2)) / freedom) if freedom else math.nan


def plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def statistics(values: Array) -> dict[str, float | None]:
    """Mean and standard error over seeds; None for what there is not."""
    if not values.size:
        return {"mean": None, "standard_error": None}
    error = float(np.std(values, ddof=1) / math.sqrt(values.size)) if values.size > 1 else math.nan
    return {"mean": plain(float(np.mean(values))), "standard_error": plain(error)}
