"""One objective against another on the same questions: the mean difference, its 95 % interval and its p-value.

Tango's score interval (1998, Equivalence test and confidence interval for the difference in proportions for the
paired-sample design) for b questions that only the first side answers right and c that only the second does, out of n.
Here a question has a difference in [-1, 1] (the mean of several generations, or a continuous measure). The mean of
the positive parts stands for b/n, that of the negative parts for c/n, and n is replaced by the effective number of
trials, as in `intervals.mean_interval`. With one right-or-wrong answer per question this is Tango's interval itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.statistics.intervals import Array, Interval, Z, effective_trials

_HALVINGS = 48  # of [-1, 1]: ends to some 1e-14


@dataclass(frozen=True)
class Difference(Interval):
    """A mean difference; p_value: of the two-sided score test of no difference, below .05 where 0 is not inside."""

    p_value: float


def paired_difference(a_N: Array, b_N: Array) -> Difference:
    """Mean of a-b over questions [N], scores in [0, 1], with Tango's score interval at effective trials.

    Exact properties: swapping a and b mirrors the interval; the order of the questions does not matter; the width is
    never zero. Raises ValueError for differences outside [-1, 1].
    """
    return paired_differences([np.asarray(a_N, dtype=float) - np.asarray(b_N, dtype=float)])[0]


def paired_differences(differences: Sequence[Array]) -> list[Difference]:
    """`paired_difference` of many comparisons, each given as its differences by question; faster than one by one."""
    sizes = [len(difference_N) for difference_N in differences]
    out = [Difference(math.nan, math.nan, math.nan, 0, math.nan)] * len(sizes)
    for n in sorted(set(sizes) - {0}):
        which = [k for k, size in enumerate(sizes) if size == n]
        found = _of_equal_size(np.stack([np.asarray(differences[k], dtype=float) for k in which]))
        for k, (mean, low, high, p_value) in zip(which, found.T.tolist(), strict=True):
            out[k] = Difference(mean, low, high, n, p_value)
    return out


def _of_equal_size(difference_KN: Array) -> Array:
    """Mean, low, high and p-value of K comparisons -> [4, K]."""
    if not bool(np.all(np.abs(difference_KN) <= 1 + 1e-9)):
        raise ValueError("differences must lie in [-1, 1]: they are of scores in [0, 1]")
    n = difference_KN.shape[1]
    # Either side sorted by itself: the sums are then the same bit for bit in any order, and mirrored.
    sides = [np.sort(np.maximum(sign * difference_KN, 0.0), axis=1) for sign in (1, -1)]
    (gain_K, loss_K), squares_K = (side.mean(axis=1) for side in sides), sum((side**2).sum(axis=1) for side in sides)
    mean_K, discordant_K = gain_K - loss_K, gain_K + loss_K
    variance_K = np.maximum(squares_K / n - mean_K**2, 0.0)
    informative_K = n * np.divide(n * discordant_K**2, squares_K, out=np.zeros_like(gain_K), where=squares_K > 0)
    trials_K = effective_trials(n, variance_K, discordant_K - mean_K**2, informative_K)
    z_K = mean_K * np.sqrt(np.divide(trials_K, discordant_K, out=np.zeros_like(gain_K), where=discordant_K > 0))
    p_K = np.array([math.erfc(abs(z) / math.sqrt(2)) for z in z_K.tolist()])
    low_K, high_K = -_upper(loss_K, gain_K, trials_K), _upper(gain_K, loss_K, trials_K)
    return np.stack([mean_K, low_K, high_K, p_K]) + 0.0  # no minus before a zero


def _upper(gain_K: Array, loss_K: Array, trials_K: Array) -> Array:
    """The largest difference that the score test at 5 % does not reject, by bisection."""
    low_K, high_K = gain_K - loss_K, np.ones_like(gain_K)
    for _ in range(_HALVINGS):
        middle_K = (low_K + high_K) / 2
        inside_K = _score(gain_K, loss_K, trials_K, middle_K) >= -Z
        low_K, high_K = np.where(inside_K, middle_K, low_K), np.where(inside_K, high_K, middle_K)
    return high_K


def _score(gain_K: Array, loss_K: Array, trials_K: Array, difference_K: Array) -> Array:
    """Tango's statistic of the hypothesis that the mean difference is `difference` (his Equations 3 to 5).

    The share of losses under the hypothesis is its maximum-likelihood estimate, the positive root of a quadratic.
    """
    b = -gain_K - loss_K + (2 - gain_K + loss_K) * difference_K
    c = -loss_K * difference_K * (1 - difference_K)
    share_K = (np.sqrt(np.maximum(b * b - 8 * c, 0.0)) - b) / 4
    variance_K = np.maximum(2 * share_K + difference_K * (1 - difference_K), 1e-300)
    return np.asarray((gain_K - loss_K - difference_K) * np.sqrt(trials_K / variance_K))
