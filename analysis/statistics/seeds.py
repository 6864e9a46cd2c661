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

import numpy as np

from analysis.statistics.intervals import Array, Interval, t_quantile


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
