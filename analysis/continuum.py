"""Statistics of a sweep: mean scores, gains over NLL paired by question, and where on the continuum they lie.

A point is a (backbone, domain, benchmark, variant). Its place is the prior strength of the base model (paper, Eq. 5),
either on the clean answers or on the answers as trained (label noise included). Several seeds are averaged within a
question first, so n stays the number of questions: the interval speaks of other questions, `seed_sd` of other seeds.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.intervals import (
    REGION_EDGES,
    REGIONS,
    RESAMPLES,
    Interval,
    mean_interval,
    nothing,
    paired_difference,
    paired_differences,
    ratio_interval,
    region,
)
from analysis.table import POINT, Results

__all__ = [
    "REGIONS",
    "REGION_EDGES",
    "crossover",
    "gains",
    "mean_interval",
    "means",
    "paired_difference",
    "ratio_interval",
    "region",
]

Prior = Literal["clean", "as_trained"]
REFERENCE = "nll"
# What a row of `means` and `gains` says of its point, besides POINT itself.
_OF_POINT = ["point", "task", "exposure", "noise_kind", "noise_rate"]


def means(results: Results, prior: Prior = "clean") -> pd.DataFrame:
    """One row per point, objective, decoding: mean, low, high, n (questions), samples, seeds, seed_sd, prior, region.

    Rows whose cells are all missing are there, with n = 0.
    """
    rows = []
    for keys, cells in _groups(results):
        done = cells[cells["state"] == "done"]
        score_N, samples = _question_means(results, done)
        interval = mean_interval(score_N.to_numpy(dtype=float), samples) if len(score_N) else nothing()
        rows.append({**keys, **_place(cells, prior), **_fields(interval, ""), **_seeds(done, samples)})
    return _ordered(pd.DataFrame(rows))


def gains(
    results: Results, prior: Prior = "clean", reference: str = REFERENCE, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """One row per point, objective other than `reference` and base, and decoding: gain over the reference by question.

    Columns as in `means`, with gain, gain_low, gain_high for the mean difference. Only questions that both were asked
    count; only seeds that both have. n = 0 where either is missing.
    """
    groups = {tuple(keys.values()): (keys, cells) for keys, cells in _groups(results)}
    rows, differences = [], []
    for keys, cells in groups.values():
        if keys["objective"] in (reference, "base"):
            continue
        partner = groups.get(tuple({**keys, "objective": reference}.values()))
        done = cells[cells["state"] == "done"]
        other = partner[1][partner[1]["state"] == "done"] if partner else done.iloc[:0]
        seeds = set(done["seed"]) & set(other["seed"])
        done, other = done[done["seed"].isin(seeds)], other[other["seed"].isin(seeds)]
        difference_N, samples = _difference(results, done, other)
        paired = done.set_index("seed")["mean"] - other.set_index("seed")["mean"]
        seed_sd = float(paired.std()) if len(paired) > 1 else math.nan
        rows.append({**keys, **_place(cells, prior), **_seeds(done, samples), "seed_sd": seed_sd})
        differences.append(difference_N)
    if not rows:
        return pd.DataFrame(columns=[*POINT, *_OF_POINT, "objective", "decoding", "gain", "n", "prior"])
    intervals = paired_differences(differences, resamples)
    return _ordered(pd.DataFrame([row | _fields(one, "gain") for row, one in zip(rows, intervals, strict=True)]))


def _difference(results: Results, done: pd.DataFrame, other: pd.DataFrame) -> tuple[np.ndarray, int]:
    """Score differences of the questions that both were asked, and the samples behind one score."""
    a_N, samples = _question_means(results, done)
    b_N, _ = _question_means(results, other)
    common = a_N.index.intersection(b_N.index)
    return a_N[common].to_numpy(float) - b_N[common].to_numpy(float), samples


def _groups(results: Results) -> list[tuple[dict[str, str], pd.DataFrame]]:
    by = [*POINT, "objective", "decoding"]
    groups = results.cells.groupby(by, sort=False)
    return [({name: str(part) for name, part in zip(by, key, strict=True)}, cells) for key, cells in groups]


def _question_means(results: Results, done: pd.DataFrame) -> tuple[pd.Series, int]:
    """Score of each question, averaged over samples and then over seeds; and the samples behind one such score."""
    jobs = dict.fromkeys((str(job), str(d)) for job, d in zip(done["evaluate"], done["decoding"], strict=True))
    tables = [results.scores[key] for key in jobs]
    if not tables:
        return pd.Series(dtype=float), 0
    joined = pd.concat([table["score"] for table in tables], axis=1, join="inner")
    return joined.mean(axis=1), int(sum(table["samples"].min() for table in tables))


def _place(cells: pd.DataFrame, prior: Prior) -> dict[str, object]:
    known = cells[cells[f"prior_{prior}"].notna()]
    first: dict[Any, Any] = (known if len(known) else cells).iloc[0].to_dict()
    out: dict[str, object] = {key: first[key] for key in _OF_POINT}
    value = float(first[f"prior_{prior}"])
    out |= {
        "prior": value,
        "prior_low": first[f"prior_{prior}_low"],
        "prior_high": first[f"prior_{prior}_high"],
    }
    return out | {
        "prior_sequences": first["prior_sequences"],
        "region": region(value),
        "primary": bool(first["primary"]),
    }


def _fields(interval: Interval, stem: str) -> dict[str, float]:
    names = (stem, f"{stem}_low", f"{stem}_high") if stem else ("mean", "low", "high")
    return dict(zip((*names, "n"), (interval.mean, interval.low, interval.high, interval.n), strict=True))


def _seeds(done: pd.DataFrame, samples: int) -> dict[str, float]:
    different = done.drop_duplicates("evaluate")
    spread = float(different["mean"].std()) if len(different) > 1 else math.nan
    return {"samples": samples, "seeds": len(different), "seed_sd": spread}


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """By prior strength, strongest first, the variants of a point together; else in the order of the sweep."""
    if table.empty:
        return table
    strength = table.groupby("point")["prior"].transform("mean")
    table = table.assign(_strength=strength).sort_values(
        ["_strength", "point"], ascending=[False, True], kind="stable", ignore_index=True
    )
    return table.drop(columns="_strength")


def crossover(table: pd.DataFrame, objective: str, decoding: str, resamples: int = 2_000, seed: int = 0) -> Interval:
    """The prior strength above which `objective` beats NLL: root of a line through gain (of `gains`) and logit(prior).

    The interval resamples points, and within a point its gain by its own interval's width. n is the number of points.
    Nothing (nan) where fewer than 3 points are known or the gain does not rise with prior strength; the interval is
    open (nan) where more than 2.5 % of the resamples have no such root.
    """
    rows = table[
        (table["objective"] == objective) & (table["decoding"] == decoding) & (table["n"] > 0) & table["prior"].notna()
    ]
    n = len(rows)
    if n < 3:
        return nothing(n)
    x_N, y_N = logit(rows["prior"].to_numpy(float)), rows["gain"].to_numpy(float)
    error_N = (rows["gain_high"] - rows["gain_low"]).to_numpy(float) / (2 * 1.96)
    rng = np.random.default_rng(seed)
    index_BN = rng.integers(0, n, size=(resamples, n))
    roots_B = _roots(x_N[index_BN], y_N[index_BN] + rng.normal(size=index_BN.shape) * error_N[index_BN])
    root = float(_roots(x_N[None], y_N[None])[0])
    if math.isnan(root):
        return nothing(n)
    found_B = roots_B[~np.isnan(roots_B)]
    if len(found_B) < 0.975 * resamples:
        return Interval(float(expit(np.array(root))), math.nan, math.nan, n)
    low, high = expit(np.quantile(found_B, [0.025, 0.975]))
    return Interval(float(expit(np.array(root))), float(low), float(high), n)


def _roots(x_BN: np.ndarray, y_BN: np.ndarray) -> np.ndarray:
    """Where the least-squares line of each row is zero; nan where it does not rise."""
    dx_BN = x_BN - x_BN.mean(axis=1, keepdims=True)
    spread_B = (dx_BN**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope_B = (dx_BN * y_BN).sum(axis=1) / spread_B
        return np.where((slope_B > 0) & (spread_B > 0), x_BN.mean(axis=1) - y_BN.mean(axis=1) / slope_B, np.nan)


def logit(p: np.ndarray) -> np.ndarray:
    """log(p/(1-p)), p held off 0 and 1 by 1e-4 so that every point has a place on the axis."""
    p = np.clip(p, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(p / (1 - p)))


def expit(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))
