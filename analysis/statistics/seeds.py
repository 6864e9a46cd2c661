"""Intervals over questions and seeds: what would other questions, asked of other training runs, say?

The interval over questions alone takes the runs at hand as given. Here the spread of the seeds' means is a second
source of error, and the two are joined as confidence limits of a sum (Zou and Donner 2008, MOVER): the distance to
either limit is sqrt(questions^2 + seeds^2). The part of the seeds is t(S-1) sd / sqrt(S), with Student's t because a
standard deviation from few seeds is itself uncertain: 12.7 for two seeds, 4.3 for three, 2.8 for five.

The seeds' means also scatter because each was asked with its own samples, so that part is counted twice: the interval
is wider than it need be where seeds hardly matter (bench/results/coverage.md), never too narrow for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd

from analysis.statistics.comparisons import minimum_detectable
from analysis.statistics.intervals import Array, Interval, Z, student_cdf, t_quantile

_BISECTIONS = 80


def over_seeds(score_SN: Array, questions: Interval) -> tuple[float, float]:
    """The 95 % interval over seeds and questions of scores or differences [S, N]; nan with fewer than two seeds.

    questions: the interval over questions of the mean over seeds.
    """
    seeds = len(score_SN)
    if seeds < 2 or questions.n == 0:
        return math.nan, math.nan
    mean_S = np.sort(score_SN.mean(axis=1))  # sorted: the order of the seeds does not matter, bit for bit
    spread = t_quantile(seeds - 1) * float(mean_S.std(ddof=1)) / math.sqrt(seeds)
    below, above = questions.mean - questions.low, questions.high - questions.mean
    return questions.mean - math.hypot(below, spread), questions.mean + math.hypot(above, spread)


def prior_over_seeds(value_S: Array, low_S: Array, high_S: Array) -> tuple[float, float, float]:
    """Prior strength of backbones or training sets of several seeds: the mean of `value_S`, and of its ends with the
    seeds' scatter joined, held within [0, 1]; of one seed what it has.
    """
    value, low, high = (float(ends_S.mean()) for ends_S in (value_S, low_S, high_S))
    if len(value_S) > 1:
        within = over_seeds(value_S[:, None], Interval(value, low, high, len(value_S)))
        low, high = max(within[0], 0.0), min(within[1], 1.0)
    return value, low, high


def p_over_seeds(questions: Interval, seeds: tuple[float, float], runs: int) -> float:
    """Two-sided p-value of zero for a mean of `runs` seeds: 1 - the level at which the interval over seeds and
    questions just reaches 0, so that it is below .05 exactly where `seeds`, the 95 % one, does not hold 0.

    questions: the interval over questions alone, whose half-width grows with the normal quantile; the seeds' part grows
    with that of Student's t with runs - 1 degrees of freedom.
    """
    near, end = (questions.low, seeds[0]) if questions.mean > 0 else (questions.high, seeds[1])
    of_questions = abs(questions.mean - near) / Z
    of_seeds = _added(abs(questions.mean - end), abs(questions.mean - near)) / t_quantile(runs - 1)
    if math.isnan(of_seeds):
        return math.nan
    least, most = 1e-9, 1e9  # Student's t at the level that is looked for
    for _ in range(_BISECTIONS):
        t = math.sqrt(least * most)
        tail = max(student_cdf(-t, runs - 1), 1e-300)
        reach = math.hypot(-NormalDist().inv_cdf(tail) * of_questions, t * of_seeds)
        least, most = (t, most) if reach < abs(questions.mean) else (least, t)
    return min(1.0, 2 * max(student_cdf(-most, runs - 1), 0.0))


def detectable_over_seeds(questions: Interval, seeds: tuple[float, float], runs: int) -> float:
    """`minimum_detectable` of the test over seeds and questions: the true mean difference that as many runs, asked as
    many questions, would show with 80 % power.

    The seeds' part of the interval grows by the noncentrality at which Student's t with runs - 1 degrees of freedom
    has that power, over its 97.5 % point; that of the questions as with one seed.
    """
    half, of_questions = (seeds[1] - seeds[0]) / 2, (questions.high - questions.low) / 2
    factor = _POWER_OF_FEW[min(runs - 2, len(_POWER_OF_FEW) - 1)]
    return math.hypot(minimum_detectable(questions), factor * _added(half, of_questions))


# For 2 to 10 runs, from scipy's noncentral t; for more it rises to 1.43, by 2 %.
_POWER_OF_FEW = (1.2855, 1.314, 1.3373, 1.3546, 1.367, 1.376, 1.3828, 1.3881, 1.3923)


def decisive(table: pd.DataFrame, stem: str = "gain") -> pd.DataFrame:
    """Rows of `continuum.gains` or `means` (stem "") with the interval over seeds and questions in the place of that
    over questions, where there are several seeds: that is the one which tells whether an objective is better. It is
    held within what a difference of scores, or a score, can be.
    """
    before = f"{stem}_" if stem else ""
    if f"{before}seeds_low" not in table:
        return table
    return table.assign(
        **{
            f"{before}{end}": table[f"{before}seeds_{end}"]
            .clip(-1.0 if stem else 0.0, 1.0)
            .fillna(table[f"{before}{end}"])
            .astype(float)
            for end in ("low", "high")
        }
    )


def average_over_seeds(
    average: Interval, parts: Sequence[tuple[float, Interval, tuple[float, float]]]
) -> tuple[float, float]:
    """The 95 % interval over seeds and questions of a weighted mean of benchmarks.

    average: with its interval over questions. parts: weight, interval over questions and interval over both of each.
    The same training runs answer all benchmarks, so what seeds add to each counts as fully dependent: these distances
    are averaged before they are squared, those of the questions after. nan where a part has no interval over seeds.
    """
    below = above = 0.0
    for weight, questions, (low, high) in parts:
        below += weight * _added(questions.mean - low, questions.mean - questions.low)
        above += weight * _added(high - questions.mean, questions.high - questions.mean)
    return (
        average.mean - math.hypot(average.mean - average.low, below),
        average.mean + math.hypot(average.high - average.mean, above),
    )


def _added(whole: float, part: float) -> float:
    return math.sqrt(np.maximum(whole**2 - part**2, 0.0))  # nan stays nan
