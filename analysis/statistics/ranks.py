"""Which objective leads where: the rank of each over the points of a region, and how sure the mean rank is.

A point is a place on the continuum (backbone, domain, variant) with its macro average, as `benchmarks.by_place` has it.
Ranks are compared only between points that all ranked objectives have: an objective that was never run in a region has
a row that says so and takes no part; a point that lacks any of the others is left out, and counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import pandas as pd

from analysis.sources.table import PLACE
from analysis.statistics.intervals import TAIL, Array, t_quantile
from bll_sweeps.errors import UsageError

RESAMPLES = 4_000
RULES = ("region", "region_paper")
_ORDER = ("MS", "MI", "MW")
_COLUMNS = ["region", "objective", "points", "mean_rank", "low", "high", "best", "of", "left_out", "lacking"]
_TIE = 9  # decimals to which scores must agree to share a rank: sums of shares differ by rounding


@dataclass
class _Region:
    """Scores of one region: point -> objective -> score."""

    scores: dict[tuple[str, ...], dict[str, float]] = field(default_factory=dict)
    objectives: list[str] = field(default_factory=list)

    def add(self, point: tuple[str, ...], objective: str, score: float) -> None:
        """A row of the table; a score that is not known is nan."""
        if objective not in self.objectives:
            self.objectives.append(objective)
        known = self.scores.setdefault(point, {})
        if not math.isnan(known.get(objective, math.nan)):
            raise UsageError(f"objective={objective!r} has several rows at {' · '.join(filter(None, point))}")
        known[objective] = score

    def complete(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """The objectives with any score, and the points that have all of them."""
        ranked = [name for name in self.objectives if any(name in self.known(point) for point in self.scores)]
        return ranked, [point for point in self.scores if self.known(point) >= set(ranked)]

    def known(self, point: tuple[str, ...]) -> set[str]:
        """The objectives that have a score at a point."""
        return {name for name, score in self.scores[point].items() if not math.isnan(score)}


def ranks(table: pd.DataFrame, rule: str = "region", resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """One row per region and objective (not base): mean rank over points, its interval, and the share of points led.

    table: rows of `by_place(means(...))` of one decoding. rule: the column that says which region a point is in, by
    prior strength ('region') or as the paper assigns domains ('region_paper'); points without a region stand last, as
    region ''. Columns: region; objective; points (how many count); mean_rank (1 is best, ties share the mean of their
    ranks); low, high (95 %, see `mean_rank_interval`); best (share of points where it is best, divided among ties); of
    (how many objectives are ranked); left_out (points that lack a score of a ranked objective); lacking (which those
    are, with the number of points each lacks, or why the row has no rank).

    Raises UsageError for several decodings, an unknown rule, or several rows of an objective at a point.
    """
    if rule not in RULES:
        raise UsageError(f"rule={rule!r} is unknown (choose from {', '.join(RULES)})")
    decodings = list(dict.fromkeys(table["decoding"])) if len(table) else []
    if len(decodings) > 1:
        raise UsageError(f"ranks are of one decoding, the table has {', '.join(map(str, decodings))}")
    regions: dict[str, _Region] = {}
    for row in table[table["objective"] != "base"].to_dict("records") if len(table) else []:
        point = tuple(str(row[name]) for name in PLACE)
        score = float(row["mean"]) if row["n"] > 0 else math.nan
        regions.setdefault(str(row[rule]), _Region()).add(point, str(row["objective"]), score)
    rows = []
    for name in sorted(regions, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER)):
        rows += [{"region": name, **row} for row in _of_region(regions[name], resamples, seed)]
    return pd.DataFrame(rows, columns=_COLUMNS)


def _of_region(region: _Region, resamples: int, seed: int) -> list[dict[str, object]]:
    """The rows of a region, best mean rank first, then those that were not ranked."""
    ranked, points = region.complete()
    wanting = {name: sum(name not in region.known(point) for point in region.scores) for name in ranked}
    shared: dict[str, object] = {
        "points": len(points),
        "of": len(ranked),
        "left_out": len(region.scores) - len(points),
        "lacking": ", ".join(f"{name} ({count})" for name, count in wanting.items() if count),
    }
    none = {"mean_rank": math.nan, "low": math.nan, "high": math.nan, "best": math.nan}
    never = [name for name in region.objectives if name not in ranked]
    out = [{"objective": name, **none, **shared, "points": 0, "lacking": "no score in this region"} for name in never]
    if not points or not ranked:
        return [{"objective": name, **none, **shared} for name in ranked] + out
    score_PK = np.array([[region.scores[point][name] for name in ranked] for point in points])
    rank_PK = ranks_of(score_PK)
    leads_PK = rank_PK == rank_PK.min(axis=1, keepdims=True)
    best_K = (leads_PK / leads_PK.sum(axis=1, keepdims=True)).mean(axis=0)
    low_K, high_K = mean_rank_interval(rank_PK, resamples, seed)
    found: list[dict[str, object]] = []
    for k in np.argsort(rank_PK.mean(axis=0), kind="stable"):
        numbers = {"mean_rank": rank_PK[:, k].mean(), "low": low_K[k], "high": high_K[k], "best": best_K[k]}
        found.append({"objective": ranked[k], **{key: float(value) for key, value in numbers.items()}, **shared})
    return found + out


def ranks_of(score_PK: Array) -> Array:
    """Ranks [P, K] of the objectives at each point, 1 for the highest score; ties have the mean of their ranks."""
    score_PK = np.round(score_PK, _TIE)
    above_PK = (score_PK[:, None, :] > score_PK[:, :, None]).sum(axis=2)
    equal_PK = (score_PK[:, None, :] == score_PK[:, :, None]).sum(axis=2)
    return np.asarray(above_PK + (equal_PK + 1) / 2)


def mean_rank_interval(rank_PK: Array, resamples: int = RESAMPLES, seed: int = 0) -> tuple[Array, Array]:
    """95 % interval of each objective's mean rank [K] over points [P], resampled as a whole.

    The percentile bootstrap with its tails widened for few points (Hesterberg 2015, What teachers should know about the
    bootstrap: the tail is Phi(-sqrt(P/(P-1)) t), with Student's t). Where an objective has the same rank at all points
    the bootstrap would answer with certainty: then a share u = 1 - 0.025^(1/P) of other points (the largest of which P
    draws would show none) may have the first or the last rank. One point has no interval (nan).
    """
    points, objectives = rank_PK.shape
    if points < 2:
        return np.full(objectives, math.nan), np.full(objectives, math.nan)
    mean_K = rank_PK.mean(axis=0)
    drawn_BP = np.random.default_rng(seed).integers(0, points, size=(resamples, points))
    count_BP = np.stack([(drawn_BP == point).sum(axis=1) for point in range(points)], axis=1)
    tail = NormalDist().cdf(-math.sqrt(points / (points - 1)) * t_quantile(points - 1))
    low_K, high_K = np.quantile(count_BP @ rank_PK / points, [tail, 1 - tail], axis=0)
    share = 1 - TAIL ** (1 / points)
    constant_K = np.ptp(rank_PK, axis=0) == 0
    low_K = np.where(constant_K, mean_K - share * (mean_K - 1), low_K)
    high_K = np.where(constant_K, mean_K + share * (objectives - mean_K), high_K)
    return np.minimum(low_K, mean_K), np.maximum(high_K, mean_K)
