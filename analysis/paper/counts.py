"""Which accuracies a number of questions allows: k of n, over several samples, with and without rounding by column."""

from __future__ import annotations

import math
from functools import cache

_TENTHS = 1000  # 100 % in tenths of a per cent, to which the authors' evaluation rounds a column


def possible_counts(percent: float, trials: int, within: float) -> list[int]:
    """The k for which 100 k / trials lies within `within` of `percent`."""
    low = math.ceil((percent - within) * trials / 100 - 1e-6)
    high = math.floor((percent + within) * trials / 100 + 1e-6)
    return list(range(max(low, 0), min(high, trials) + 1))


def nearest_counts(percent: float, trials: int) -> tuple[float, float]:
    """The possible percentages next to `percent`, at or below it and above it."""
    k = min(math.floor(percent * trials / 100 + 1e-9), trials)
    return 100 * k / trials, 100 * min(k + 1, trials) / trials


def possible_by_column(percent: float, questions: int, samples: int, within: float) -> bool:
    """Whether `percent` can be the mean of `samples` column accuracies k/questions, each rounded to 0.1 per cent.

    A column is one sample of every question; the authors' evaluation rounds each before it averages them.
    """
    reachable = _column_sums(questions, samples)
    low = math.ceil((percent - within) * 10 * samples - 1e-6)
    high = math.floor((percent + within) * 10 * samples + 1e-6)
    return any(reachable >> total & 1 for total in range(max(low, 0), high + 1))


@cache
def _column_sums(questions: int, samples: int) -> int:
    """The sums (in tenths) that `samples` rounded columns can have, as bits of one number."""
    # Both roundings of a tie count: which one is taken depends on the floating-point value.
    exact = [_TENTHS * k / questions for k in range(questions + 1)]
    columns = {math.floor(x + 0.5) for x in exact} | {math.ceil(x - 0.5) for x in exact}
    sums = 1
    for _ in range(samples):
        more = 0
        for column in columns:
            more |= sums << column
        sums = more
    return sums
