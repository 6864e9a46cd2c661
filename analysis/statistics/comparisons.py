"""Many comparisons at once: adjusted p-values, and how small a difference a benchmark can show.

The p-value of a gain is that of the score test which its interval inverts (paired.py): below .05 exactly where the
interval does not hold 0. The more gains a table has, the more of them are below .05 by chance.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pandas as pd

from analysis.statistics.intervals import Array, Interval, Z
from bll_sweeps.errors import UsageError

LEVEL = 0.05
POWER = 0.8
FAMILY = ("decoding",)
ADJUSTED = ("p_holm", "p_bh", "significant_holm")


def p_value(interval: Interval) -> float:
    """Two-sided p-value of zero for an estimate with this 95 % interval, by the normal distribution.

    For macro averages, whose interval is composed of others: the standard error is read off the side of the interval
    that faces 0, so that the p-value is below .05 exactly where the interval does not hold 0. nan where none is known.
    """
    facing = interval.mean - interval.low if interval.mean > 0 else interval.high - interval.mean
    if math.isnan(facing):
        return math.nan
    return math.erfc(Z * abs(interval.mean) / facing / math.sqrt(2))


def holm(p_K: Array) -> Array:
    """Holm's (1979) adjusted p-values: the chance of even one false discovery in the family stays below the level.

    Not-a-numbers stay what they are and are not counted.
    """
    return _adjusted(p_K, step_down=True)


def benjamini_hochberg(p_K: Array) -> Array:
    """Benjamini and Hochberg's (1995) adjusted p-values: the expected share of false discoveries stays below the level.

    Holds for independent comparisons and for positively dependent ones, as several objectives against one reference.
    Not-a-numbers stay what they are and are not counted.
    """
    return _adjusted(p_K, step_down=False)


def _adjusted(p_K: Array, step_down: bool) -> Array:
    p_K = np.asarray(p_K, dtype=float)
    out_K = np.full(len(p_K), math.nan)
    known = np.flatnonzero(~np.isnan(p_K))
    order = known[np.argsort(p_K[known], kind="stable")]
    rank_M = np.arange(1, len(order) + 1)
    if step_down:
        out_K[order] = np.maximum.accumulate(p_K[order] * (len(order) + 1 - rank_M))
    else:
        out_K[order] = np.minimum.accumulate((p_K[order] * len(order) / rank_M)[::-1])[::-1]
    return np.minimum(out_K, 1.0)


def adjusted(table: pd.DataFrame, family: tuple[str, ...] = FAMILY, level: float = LEVEL) -> pd.DataFrame:
    """The table with p_holm, p_bh and significant_holm of its `p_value`, over the rows that agree on `family`.

    The family is what a reader has before them: leave out rows first, then adjust. By default all comparisons of one
    decoding, whatever their point and objective. Rows without a p-value are missing, not counted, and not significant.
    """
    absent = [name for name in ("p_value", *family) if name not in table]
    if absent:
        raise UsageError(f"the table has no column {absent[0]!r} (columns: {', '.join(map(str, table.columns))})")
    table = table.assign(p_holm=math.nan, p_bh=math.nan, significant_holm=False)
    groups = table.groupby(list(family), sort=False).indices.values() if family else [np.arange(len(table))]
    p_N, holm_N, bh_N = (table[name].to_numpy(dtype=float, copy=True) for name in ("p_value", "p_holm", "p_bh"))
    for rows in groups:
        holm_N[rows], bh_N[rows] = holm(p_N[rows]), benjamini_hochberg(p_N[rows])
    return table.assign(p_holm=holm_N, p_bh=bh_N, significant_holm=holm_N < level)


def minimum_detectable(interval: Interval, power: float = POWER, level: float = LEVEL) -> float:
    """The true difference that a repetition of this comparison would show with this power, two-sided at this level.

    (z(1 - level/2) + z(power)) standard errors, 2.80 by default; the standard error is the half-width of the
    comparison's own 95 % interval over 1.96, so it has the paired variance in it and is never zero.
    """
    return _quantiles(power, level) * (interval.high - interval.low) / (2 * Z)


def question_sd(interval: Interval) -> float:
    """Standard deviation of a difference over questions, as its interval has it: what `questions_needed` asks for."""
    return (interval.high - interval.low) / (2 * Z) * math.sqrt(interval.n)


def questions_needed(difference: float, sd: float, power: float = POWER, level: float = LEVEL) -> int:
    """How many questions show a true mean difference with this power, by the paired test, two-sided at this level.

    sd: standard deviation of the difference over questions (`question_sd`). The normal approximation: below some 30
    questions it is optimistic.
    """
    if not 0 < abs(difference) <= 1:
        raise UsageError(f"difference={difference}: a difference of scores lies in [-1, 1] and is not 0")
    if not 0 < sd < math.inf:
        raise UsageError(f"sd={sd}: a standard deviation is above 0")
    return max(2, math.ceil(round((_quantiles(power, level) * sd / difference) ** 2, 6)))


def _quantiles(power: float, level: float) -> float:
    for name, value in (("power", power), ("level", level)):
        if not 0 < value < 1:
            raise UsageError(f"{name}={value} is not between 0 and 1")
    normal = NormalDist()
    return normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)
