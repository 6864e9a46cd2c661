"""Intervals of 95 %, from arrays alone. The unit is the question: the benchmark's, for the prior the training set's.

Three cases, three methods:
- `mean_interval`: the mean score of one cell. Wilson's interval at the effective number of trials.
- `paired_difference`: one objective against another on the same questions. Percentile bootstrap over questions.
- `ratio_interval`: prior strength, a ratio of sums. Percentile bootstrap over training questions.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

Z = 1.959963984540054  # the normal distribution's 97.5 % point
TAIL = 0.025
RESAMPLES = 10_000
# There can be as many questions as training rows: above this number they are pooled before they are resampled.
PRIOR_GROUPS = 2_000
PRIOR_RESAMPLES = 1_000
_CHUNK = 4_000_000  # drawn indices held at once


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
    """Mean of question scores [N], each the mean of `samples` generations in [0, 1].

    Wilson's interval with n replaced by the effective number of trials m(1-m)/SE^2, where SE is the standard error over
    questions, kept between N (all samples of a question agree) and N*samples (all are independent). For one sample per
    question this is the plain Wilson interval. It never has zero width: 200 right answers out of 200 give [.981, 1].

    Raises ValueError for a score outside [0, 1].
    """
    scores_N = np.asarray(scores_N, dtype=float)
    n = len(scores_N)
    if n == 0:
        return nothing()
    if not bool(np.all((scores_N >= -1e-9) & (scores_N <= 1 + 1e-9))):
        raise ValueError(f"scores must lie in [0, 1], not in [{scores_N.min()}, {scores_N.max()}]")
    mean = min(max(float(scores_N.mean()), 0.0), 1.0)
    spread = mean * (1 - mean)
    error2 = float(scores_N.var()) / n
    trials = float(n)
    if spread > 0:
        trials = min(max(spread / error2 if error2 > 0 else math.inf, n), float(n * samples))
    centre = (mean + Z * Z / (2 * trials)) / (1 + Z * Z / trials)
    half = Z / (1 + Z * Z / trials) * math.sqrt(spread / trials + Z * Z / (4 * trials * trials))
    return Interval(mean, min(max(centre - half, 0.0), mean), max(min(centre + half, 1.0), mean), n)


def paired_difference(a_N: Array, b_N: Array, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean of a-b over questions [N], scores in [0, 1], with a percentile bootstrap interval over the questions.

    Exact properties: swapping a and b mirrors the interval; the order of the questions does not matter.
    When all N differences are one value c the bootstrap would answer with certainty. Then the interval allows a share
    u = 1 - 0.025^(1/N) of questions (the largest share of which N draws would show none) to differ by as much as scores
    can: [c - u(1+c), c + u(1-c)].
    """
    return paired_differences([np.asarray(a_N, dtype=float) - np.asarray(b_N, dtype=float)], resamples, seed)[0]


def paired_differences(differences: list[Array], resamples: int = RESAMPLES, seed: int = 0) -> list[Interval]:
    """`paired_difference` of many comparisons, each given as its differences by question; faster than one by one."""
    canonical = [_canonical(np.asarray(difference_N, dtype=float)) for difference_N in differences]
    out = [_constant(*one) for one in canonical]
    for n in sorted({len(values_N) for values_N, _, _ in canonical}):
        todo = [k for k, one in enumerate(canonical) if len(one[0]) == n and out[k] is None]
        if not todo:
            continue
        sums_BK = resampled_sums(np.stack([canonical[k][0] for k in todo], axis=1), resamples, seed)
        for k, ends in zip(todo, np.quantile(sums_BK / n, [TAIL, 1 - TAIL], axis=0).T, strict=True):
            out[k] = _interval(canonical[k], round(float(ends[0]), 12), round(float(ends[1]), 12))
    return [one for one in out if one is not None]


def _interval(canonical: tuple[Array, int, bool], low: float, high: float) -> Interval:
    """The interval of the differences from that of their canonical form."""
    values_N, sign, symmetric = canonical
    if symmetric:
        low, high = -(high - low) / 2, (high - low) / 2
    low, high = (low, high) if sign > 0 else (-high, -low)
    return Interval(sign * float(values_N.mean()) + 0.0, low + 0.0, high + 0.0, len(values_N))  # no minus before a zero


def _constant(values_N: Array, sign: int, _: bool) -> Interval | None:
    """The interval where there are no differences, or where they are all the same."""
    n = len(values_N)
    if n == 0:
        return nothing()
    if values_N[-1] - values_N[0] >= 1e-12:
        return None
    mean, share = sign * float(values_N.mean()) + 0.0, 1 - TAIL ** (1 / n)
    return Interval(mean, mean - share * (1 + mean), mean + share * (1 - mean), n)


def _canonical(difference_N: Array) -> tuple[Array, int, bool]:
    """The differences sorted, mirrored if that comes first in order; the sign that undoes it; whether both agree."""
    forward, mirrored = np.sort(difference_N), np.sort(-difference_N)
    unlike = np.flatnonzero(forward != mirrored)
    if len(unlike) == 0:
        return forward, 1, True
    return (forward, 1, False) if forward[unlike[0]] < mirrored[unlike[0]] else (mirrored, -1, False)


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
    sums_B2 = resampled_sums(pairs_N2, PRIOR_RESAMPLES, seed)
    low, high = np.quantile(sums_B2[:, 0] / sums_B2[:, 1], [TAIL, 1 - TAIL])
    return Interval(mean, min(float(low), mean), max(float(high), mean), n)


def _pooled(pairs_N2: Array, group_N: NDArray[np.int64]) -> Array:
    """Sums of the pairs of each group -> [groups, 2]."""
    return np.stack([np.bincount(group_N, weights=pairs_N2[:, k]) for k in (0, 1)], axis=1)


def resampled_sums(values_NK: Array, resamples: int, seed: int) -> Array:
    """Sums over N draws with replacement of the rows of `values` [N, K], `resamples` times -> [B, K]."""
    n = len(values_NK)
    if n * resamples <= 2 * _CHUNK:
        return _draws(n, resamples, seed) @ values_NK
    step = max(1, _CHUNK // n)
    rng = np.random.default_rng(seed)
    parts = [_draw(rng, n, min(step, resamples - start)) @ values_NK for start in range(0, resamples, step)]
    return np.concatenate(parts)


@lru_cache(maxsize=2)  # of 64 MB at most
def _draws(n: int, resamples: int, seed: int) -> Array:
    # Comparisons on the same number of questions share their draws, which takes longer than the rest.
    return _draw(np.random.default_rng(seed), n, resamples).astype(float)


def _draw(rng: np.random.Generator, n: int, resamples: int) -> NDArray[np.int64]:
    """How often each of n units is drawn, per resample -> [B, N]."""
    index_BN = rng.integers(0, n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(index_BN.ravel(), minlength=resamples * n).reshape(resamples, n)


# --- the continuum's regions ----------------------------------------------------------------------------------------

# Model-weak up to the first, model-strong from the second, model-intermediate between. The paper (Table 5) reports
# prior strengths of .76 to .81 (mathematics, strong), .50 to .59 (medical, intermediate), .01 to .07 (figfont, weak)
# and names no edges: these are the middles of its two gaps, .29 and .68, to one decimal.
REGION_EDGES = (0.3, 0.7)
REGIONS = {"MW": "model-weak", "MI": "model-intermediate", "MS": "model-strong"}


def region(prior: float) -> str:
    """MW, MI or MS by prior strength (edges: REGION_EDGES); '' where the prior is not known."""
    if math.isnan(prior):
        return ""
    return "MW" if prior <= REGION_EDGES[0] else "MS" if prior >= REGION_EDGES[1] else "MI"
