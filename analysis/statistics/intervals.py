"""Intervals of 95 %, from arrays alone. The unit is the question: the benchmark's, for the prior the training set's.

- `mean_interval`: the mean score of one cell. Wilson's interval at the effective number of trials.
- `ratio_interval`: prior strength, a ratio of sums. Percentile bootstrap over training questions.
- paired.py: one objective against another on the same questions. Tango's score interval at effective trials.
- seeds.py: either of the two over questions and seeds.

docs/statistics.md says why, and bench/results/coverage.md how often they cover the truth.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

Z = 1.959963984540054  # the normal distribution's 97.5 % point
TAIL = 0.025
# There can be as many questions as training rows: above this number they are pooled before they are resampled.
PRIOR_GROUPS = 2_000
PRIOR_RESAMPLES = 1_000
_CHUNK = 4_000_000  # numbers held at once


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval and the number of units (questions or sequences) behind it."""

    mean: float
    low: float
    high: float
    n: int


def nothing(n: int = 0) -> Interval:
    """What is known when there are no data."""
    return Interval(math.nan, math.nan, math.nan, n)


def mean_interval(scores_N: Array, samples: int = 1) -> Interval:
    """Mean of question scores [N] in [0, 1]: means of `samples` right-or-wrong generations, or a continuous measure.

    Wilson's (1927) interval with n replaced by the effective number of trials (Korn and Graubard 1998, Confidence
    intervals for proportions with small expected number of positive counts): see `effective_trials`. Right or wrong
    once per question, or the same in all samples of each, this is the plain Wilson interval. It never has zero width:
    200 right answers out of 200 give [.981, 1].

    Raises ValueError for a score outside [0, 1].
    """
    return mean_intervals([scores_N], [samples])[0]


def mean_intervals(scores: Sequence[Array], samples: Sequence[int]) -> list[Interval]:
    """`mean_interval` of many cells, each with its scores by question; faster than one by one."""
    sizes = np.array([len(scores_N) for scores_N in scores], dtype=int)
    out = [nothing()] * len(sizes)
    for n in sorted(set(sizes.tolist()) - {0}):
        which = np.flatnonzero(sizes == n).tolist()
        for start in range(0, len(which), step := max(1, _CHUNK // n)):
            some = which[start : start + step]
            score_KN = np.stack([np.asarray(scores[k], dtype=float) for k in some])
            found = _of_equal_size(score_KN, np.array([samples[k] for k in some]))
            for k, (mean, low, high) in zip(some, found.T.tolist(), strict=True):
                out[k] = Interval(mean, low, high, n)
    return out


def _of_equal_size(score_KN: Array, samples_K: NDArray[np.int64]) -> Array:
    """Mean, low and high of K cells -> [3, K]."""
    if not bool(np.all((score_KN >= -1e-9) & (score_KN <= 1 + 1e-9))):
        raise ValueError(f"scores must lie in [0, 1], not in [{score_KN.min()}, {score_KN.max()}]")
    n = score_KN.shape[1]
    mean_K = np.clip(score_KN.mean(axis=1), 0.0, 1.0)
    spread_K = mean_K * (1 - mean_K)
    inside = spread_K > 0  # elsewhere all are right, or all wrong
    informative_K = np.full(len(mean_K), np.inf)
    for share_K, side_KN in ((mean_K, score_KN), (1 - mean_K, 1 - score_KN)):
        square_K = np.where(inside, (side_KN**2).mean(axis=1), 1.0)
        informative_K = np.minimum(informative_K, n * share_K**2 / square_K)
    variance_K = np.where(inside, score_KN.var(axis=1), 0.0)
    trials_K = effective_trials(n, variance_K, spread_K, informative_K)
    trials_K = np.where(samples_K > 1, np.minimum(trials_K, n * samples_K), trials_K)
    centre_K = (mean_K + Z * Z / (2 * trials_K)) / (1 + Z * Z / trials_K)
    half_K = Z / (1 + Z * Z / trials_K) * np.sqrt(spread_K / trials_K + Z * Z / (4 * trials_K * trials_K))
    low_K, high_K = np.maximum(centre_K - half_K, 0.0), np.minimum(centre_K + half_K, 1.0)
    return np.stack([mean_K, np.minimum(low_K, mean_K), np.maximum(high_K, mean_K)])


def effective_trials(n: int, variance: ArrayLike, largest: ArrayLike, informative: ArrayLike) -> Array:
    """How many independent all-or-nothing questions say as much as these n.

    variance: of the questions' values (divisor n). largest: what it would be were each question all or nothing; their
    ratio is the design effect. Few questions that are neither all right nor all wrong tell little of it: it is averaged
    with 1, the most it can be, with weights `informative`^2 and 1, where `informative` is Kish's number of questions
    that make up the rarer outcome, (sum x)^2 / sum x^2. The weights are our choice: by simulation they hold the
    coverage (bench/results/coverage.md). The trials are reduced by (z / t)^2, t being Student's quantile at n-1
    degrees of freedom, as the design effect is an estimate (Korn and Graubard 1998); they are never fewer than n, and n
    where all questions are alike.
    """
    variance, largest, weight = (np.asarray(value, dtype=float) for value in (variance, largest, informative))
    spread = variance > 1e-14  # questions that are all alike tell nothing of how much questions differ
    if n < 2 or not spread.any():
        return np.full(np.shape(variance), float(n))
    effect = np.where(spread, variance, 1.0) / np.where(spread, largest, 1.0) * n / (n - 1)
    effect = (weight**2 * effect + 1) / (weight**2 + 1)
    return np.where(spread, np.maximum(n / effect * (Z / t_quantile(n - 1)) ** 2, n), n)


# Student's t below 10 degrees of freedom, where the series of `t_quantile` is short of three digits or more.
_T_OF_FEW = (12.7062047, 4.3026527, 3.1824463, 2.7764451, 2.5705818, 2.4469119, 2.3646243, 2.3060041, 2.2621572)


def t_quantile(df: int) -> float:
    """The 97.5 % point of Student's t to 5 digits (from 10 degrees of freedom: Abramowitz and Stegun, 26.7.5)."""
    if df < 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, not {df}")
    if df <= len(_T_OF_FEW):
        return _T_OF_FEW[df - 1]
    series = (Z**3 + Z) / 4, (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96, (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384
    return Z + sum(term / df**power for power, term in enumerate(series, 1))


def student_cdf(t: float, freedom: int) -> float:
    """P(T <= t) of Student's t, freedom >= 1 (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    cos2, term, series = math.cos(angle) ** 2, 1.0, 0.0
    odd = freedom % 2
    for k in range(1, freedom // 2 + 1):
        series += term
        term *= cos2 * (2 * k / (2 * k + 1) if odd else (2 * k - 1) / (2 * k))
    inside = math.sin(angle) * series * (math.cos(angle) if odd else 1.0)
    inside = 2 / math.pi * (angle + inside) if odd else inside
    return 0.5 + inside / 2


def ratio_interval(
    numerator_N: Array, denominator_N: Array, seed: int = 0, units: Sequence[Hashable] | None = None
) -> Interval:
    """sum(numerator)/sum(denominator) over sequences [N]; prior strength is sum of p over tokens (paper, Eq. 5).

    Percentile bootstrap over units: sequences with equal `units` [N] (their questions) are one; without `units` each is
    its own. More than 2,000 units are first pooled at random into 2,000 groups, which are then resampled: the
    interval's width stays the same within some 2 %, at a fraction of the cost. n is the number of units; one alone has
    no interval (nan).
    """
    pairs_N2 = np.stack([np.asarray(numerator_N, dtype=float), np.asarray(denominator_N, dtype=float)], axis=1)
    if units is not None:
        number: dict[Hashable, int] = {}
        pairs_N2 = _pooled(pairs_N2, np.array([number.setdefault(unit, len(number)) for unit in units], dtype=int))
    n = len(pairs_N2)
    if n == 0 or pairs_N2[:, 1].sum() <= 0:
        return nothing(n)
    mean = float(pairs_N2[:, 0].sum() / pairs_N2[:, 1].sum())
    if n == 1:
        return Interval(mean, math.nan, math.nan, n)
    if n > PRIOR_GROUPS:
        pairs_N2 = _pooled(pairs_N2, np.random.default_rng(seed).permutation(n) % PRIOR_GROUPS)
    sums_B2 = _resampled_sums(pairs_N2, PRIOR_RESAMPLES, seed)
    low, high = np.quantile(sums_B2[:, 0] / sums_B2[:, 1], [TAIL, 1 - TAIL])
    return Interval(mean, min(float(low), mean), max(float(high), mean), n)


def _pooled(pairs_N2: Array, group_N: NDArray[np.int64]) -> Array:
    """Sums of the pairs of each group -> [groups, 2]."""
    return np.stack([np.bincount(group_N, weights=pairs_N2[:, k]) for k in (0, 1)], axis=1)


def _resampled_sums(values_NK: Array, resamples: int, seed: int) -> Array:
    """Sums over N draws with replacement of the rows of `values` [N, K], `resamples` times -> [B, K]."""
    n = len(values_NK)
    if n * resamples <= _CHUNK:
        return _sums(_draws(n, resamples, seed), values_NK)
    step = max(1, _CHUNK // n)
    rng = np.random.default_rng(seed)
    parts = [_sums(_draw(rng, n, min(step, resamples - start)), values_NK) for start in range(0, resamples, step)]
    return np.concatenate(parts)


def _sums(count_BN: Array | NDArray[np.int64], values_NK: Array) -> Array:
    # Not `@`: between two calls OpenBLAS's threads wait busily, for seconds in all, on processors that others need.
    return np.stack([np.einsum("bn,n->b", count_BN, values_N.copy()) for values_N in values_NK.T], axis=1)


@lru_cache(maxsize=1)  # of 32 MB at most
def _draws(n: int, resamples: int, seed: int) -> Array:
    # The priors of a sweep have equally many units: they share their draws, which take much longer than the rest.
    return _draw(np.random.default_rng(seed), n, resamples).astype(float)


def _draw(rng: np.random.Generator, n: int, resamples: int) -> NDArray[np.int64]:
    """How often each of n units is drawn, per resample -> [B, N]."""
    index_BN = rng.integers(0, n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(index_BN.ravel(), minlength=resamples * n).reshape(resamples, n)
