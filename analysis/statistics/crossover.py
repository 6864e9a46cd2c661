"""Where on the continuum an objective starts to beat NLL: the crossover prior strength, with its interval."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.statistics.intervals import Interval, nothing


def crossover(table: pd.DataFrame, objective: str, decoding: str, resamples: int = 2_000, seed: int = 0) -> Interval:
    """The prior strength above which `objective` beats NLL: root of a line through gain (of `gains`) and logit(prior).

    The interval resamples points, whose scatter has the noise of their gains in it. n is the number of points. Nothing
    (nan) where fewer than 3 points are known, the gain does not rise with prior strength, or the root lies outside the
    points' prior strengths. An end of the interval is open (nan) where it lies outside of them, both are where more
    than 2.5 % of the resamples have no root.
    """
    rows = table[
        (table["objective"] == objective) & (table["decoding"] == decoding) & (table["n"] > 0) & table["prior"].notna()
    ]
    n = len(rows)
    if n < 3:
        return nothing(n)
    x_N, y_N = logit(rows["prior"].to_numpy(float)), rows["gain"].to_numpy(float)
    rng = np.random.default_rng(seed)
    index_BN = rng.integers(0, n, size=(resamples, n))
    roots_B = _roots(x_N[index_BN], y_N[index_BN])
    root = float(_roots(x_N[None], y_N[None])[0])
    if not x_N.min() <= root <= x_N.max():
        return nothing(n)
    found_B = roots_B[~np.isnan(roots_B)]
    if len(found_B) < 0.975 * resamples:
        return Interval(float(expit(np.array(root))), math.nan, math.nan, n)
    low, high = np.quantile(found_B, [0.025, 0.975])
    ends = expit(np.array([low if low >= x_N.min() else math.nan, high if high <= x_N.max() else math.nan]))
    return Interval(float(expit(np.array(root))), float(ends[0]), float(ends[1]), n)


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
