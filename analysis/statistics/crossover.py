"""Where on the continuum an objective starts to beat NLL: gain as a non-decreasing function of prior strength.

The unit is the *setting*, a backbone on a domain. Its seeds, variants and benchmarks are not independent of one another
and are averaged first. That the gain of a prior-leaning objective does not fall with prior strength is the paper's
claim, and all that is assumed; of other objectives nothing is (`prior_leaning`). In the lab the gain jumps and then
stays where it is, which neither a line nor another curve of few parameters follows. The fit is the least-squares one
over settings (pool adjacent violators), straight in logit(prior strength) between settings, since that spreads both
ends of the axis, and constant beyond them. Settings have equal weights: they scatter about any curve by more than their
measurement error, because tasks differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd

from analysis.statistics.intervals import Array, Interval, Z, student_cdf, t_quantile
from bll_sweeps.grid.axes import Objective
from bll_sweeps.objectives import family

SETTING = ["backbone", "domain"]
MIN_SETTINGS = 4  # of fewer, each left out in turn, the scatter cannot be told
REJECTED = 2.27  # the 95 % point of the test's limiting distribution


@dataclass(frozen=True)
class Crossover:
    """The prior strength above which an objective beats NLL, with its 95 % interval; or why the data show none.

    prior, low, high: nan where there is none. settings, points: how many (points: seeds, variants and benchmarks
    counted apart). why: '' or the reason for none. observed: the range of prior strengths. fit: None where settings are
    too few.
    """

    prior: float
    low: float
    high: float
    settings: int
    points: int
    why: str
    observed: tuple[float, float]
    fit: Fit | None

    @property
    def mean(self) -> float:
        return self.prior

    @property
    def n(self) -> int:
        return self.settings


@dataclass(frozen=True)
class Fit:
    """The non-decreasing fit: gain_N at x_N, the logits of the settings' prior strengths, ascending.

    error: root mean square of what the fit of the others misses a setting by, each left out in turn. scatter: the same
    by their median, which one setting beside a jump does not move (1.4826 times it, as of a normal distribution).
    Neither is below `measurement`, the root mean square error of the measured gains.
    """

    x_N: tuple[float, ...]
    gain_N: tuple[float, ...]
    error: float
    scatter: float
    measurement: float

    @property
    def settings(self) -> int:
        return len(self.x_N)

    def at(self, prior: float) -> float:
        return float(np.interp(_logit(prior), self.x_N, self.gain_N))

    def predict(self, prior: Interval) -> Prediction:
        """The gain of a setting that is not among the fitted ones. What is unsure is the scatter between settings
        (`error`) and the fit over the interval of its prior strength.
        """
        ends = [self.at(prior.mean if math.isnan(end) else end) for end in (prior.low, prior.high)]
        error = math.hypot(self.error, (ends[1] - ends[0]) / (2 * Z))
        gain, half = self.at(prior.mean), t_quantile(self.settings - 1) * error
        better = student_cdf(gain / error, self.settings - 1) if error > 0 else float(gain > 0)
        return Prediction(gain, gain - half, gain + half, better, self.settings)


@dataclass(frozen=True)
class Prediction:
    """Predicted gain over NLL of one new setting, its 95 % prediction interval, the probability that it is above zero
    (Student's t, settings - 1 degrees of freedom), and the number of settings that it rests on.
    """

    gain: float
    low: float
    high: float
    better: float
    settings: int


def settings_of(table: pd.DataFrame, objective: str, decoding: str) -> pd.DataFrame:
    """One row per setting of `objective` in the rows of `continuum.gains`: backbone, domain, prior, x (logit of prior),
    gain, low, high (its interval, over seeds too where there are several), gain_var, x_var (measurement variances),
    points. Rows without a score or a prior do not count.

    gain_var holds the questions' error (from the interval) and, where a row averages several seeds, that of seeds.
    """
    rows = table[
        (table["objective"] == objective) & (table["decoding"] == decoding) & (table["n"] > 0) & table["prior"].notna()
    ]
    p = rows["prior"].clip(1e-4, 1 - 1e-4)
    error = (rows["gain_high"] - rows["gain_low"]) / (2 * Z)
    by_seed = _seed_variance(rows)
    wide = rows["prior_high"] - rows["prior_low"] if "prior_low" in rows else pd.Series(0.0, rows.index)
    x_error = wide.fillna(0.0) / (2 * Z) / (p * (1 - p))
    some = rows.assign(x=logit(p.to_numpy(float)), gain_var=error**2 + by_seed, x_var=x_error**2, points=1)
    for end in ("low", "high"):
        over_seeds = rows[f"gain_seeds_{end}"] if f"gain_seeds_{end}" in rows else rows[f"gain_{end}"]
        some[end] = over_seeds.fillna(rows[f"gain_{end}"])
    grouped = some.groupby(SETTING, sort=True)
    out = grouped[["x", "gain", "low", "high", "gain_var", "x_var"]].mean()
    # Points of a setting share questions and backbone: their errors are added as if they were one and the same.
    return out.assign(prior=expit(out["x"].to_numpy(float)), points=grouped["points"].sum()).reset_index()


def _seed_variance(rows: pd.DataFrame) -> pd.Series:
    if "seed_sd" not in rows:
        return pd.Series(0.0, rows.index)
    return (rows["seed_sd"].astype(float) ** 2 / rows["seeds"].clip(lower=1)).fillna(0.0)


def fit(settings: pd.DataFrame) -> Fit | None:
    """The non-decreasing fit through `settings_of`; None for fewer than 4 settings, or if all have one prior."""
    x_N, gain_N = settings["x"].to_numpy(float), settings["gain"].to_numpy(float)
    n = len(x_N)
    if n < MIN_SETTINGS or np.ptp(x_N) < 1e-9:
        return None
    order = np.argsort(x_N, kind="stable")
    x_N, gain_N = x_N[order], gain_N[order]
    others = [np.delete(np.arange(n), i) for i in range(n)]
    missed = [np.interp(x_N[i], x_N[of], isotonic(x_N[of], gain_N[of])) - gain_N[i] for i, of in enumerate(others)]
    measured = math.sqrt(float(settings["gain_var"].mean()))
    return Fit(
        x_N=tuple(x_N.tolist()),
        gain_N=tuple(isotonic(x_N, gain_N).tolist()),
        error=max(math.sqrt(float(np.mean(np.square(missed)))), measured),
        scatter=max(1.4826 * float(np.median(np.abs(missed))), measured),
        measurement=measured,
    )


def isotonic(x_N: Array, y_N: Array) -> Array:
    """The non-decreasing values [N] nearest to y_N by least squares; x_N is ascending, and equal x have one value."""
    if not len(x_N):
        return np.empty(0)
    starts = np.flatnonzero(np.diff(x_N, prepend=-np.inf) > 0)
    sizes = np.diff(np.append(starts, len(x_N)))
    blocks: list[tuple[float, int]] = []  # mean, size
    for value, size in zip(np.add.reduceat(y_N, starts) / sizes, sizes, strict=True):
        mean, n = float(value), int(size)
        while blocks and blocks[-1][0] > mean:
            before, more = blocks.pop()
            mean, n = (mean * n + before * more) / (n + more), n + more
        blocks.append((mean, n))
    return np.repeat([mean for mean, _ in blocks], [n for _, n in blocks])


def crossover(table: pd.DataFrame, objective: str, decoding: str) -> Crossover:
    """The prior strength above which `objective` beats NLL, from rows of `continuum.gains` (or `benchmarks.by_place`).

    prior: where the fit goes through zero. low to high: all places between settings where a change of sign is not
    rejected, to the settings on either side, each widened by the error of its prior strength. Rejected is what misses
    the settings, by squares and in units of their scatter, by REJECTED more than the fit does: the likelihood ratio
    test for the inverse of a monotone function (Banerjee and Wellner 2001, Likelihood ratio tests for monotone
    functions). The data show none (`why` says so) where settings are fewer than 4, or where it is not rejected that the
    gain has one sign at all of them. Simulated coverage: bench/results/coverage.md.
    """
    found = crossover_of(settings_of(table, objective, decoding))
    rows = table[table["objective"] == objective]
    if "prior_leaning" not in rows or rows["prior_leaning"].all():
        return found
    return replace(
        found,
        prior=math.nan,
        low=math.nan,
        high=math.nan,
        why=f"{_NOT_LEANING} over {found.settings} settings",
        fit=None,
    )


_NOT_LEANING = (
    "its weight w(p) falls with p somewhere, or is no function of p, so that nothing says that its gain rises with "
    "prior strength"
)


@lru_cache
def prior_leaning(identity: str) -> bool:
    """Whether w(p) = -p f'(p) nowhere falls with p: against NLL, whose w is 1, it leans to what the model knows.

    identity: of the objective, as the rows of `Results.cells` have it; True where it is not known ('').
    """
    told = json.loads(identity) if identity else {"family": "base"}
    if told["family"] == "base":
        return True
    if told.pop("quantile", None) is not None:  # wherever the threshold comes to lie, it is a step
        told["threshold"] = 0.5
    objective = Objective(name="", **told)
    if objective.needs_entropy:
        return False
    weight_G = family.weight(objective, np.log(np.arange(1, 1000) / 1000))
    return bool((np.diff(weight_G) >= -1e-12).all())


def crossover_of(settings: pd.DataFrame) -> Crossover:
    """`crossover`, from `settings_of`."""
    n, points, found = len(settings), int(settings["points"].sum()), fit(settings)
    observed = (float(settings["prior"].min()), float(settings["prior"].max())) if n else (math.nan, math.nan)
    possible = _possible(settings, found) if found else []
    why = _why_none(settings, found, possible)
    if why or found is None:
        return Crossover(math.nan, math.nan, math.nan, n, points, why, observed, found)
    error_N = Z * np.sqrt(settings.sort_values("x", kind="stable")["x_var"].to_numpy(float))
    low = found.x_N[possible[0] - 1] - error_N[possible[0] - 1]
    high = found.x_N[possible[-1]] + error_N[possible[-1]]
    return Crossover(_expit(_root(found)), _expit(low), _expit(high), n, points, "", observed, found)


def _possible(settings: pd.DataFrame, found: Fit) -> list[int]:
    """How many settings may lie below the crossover, as the test does not reject it; 0 or all: there is none."""
    x_N, gain_N = np.array(found.x_N), settings.sort_values("x", kind="stable")["gain"].to_numpy(float)
    least, out = float(np.square(gain_N - np.array(found.gain_N)).sum()), []
    for k in range(len(x_N) + 1):
        below, above = isotonic(x_N[:k], gain_N[:k]), isotonic(x_N[k:], gain_N[k:])
        signed_N = np.concatenate([np.minimum(below, 0), np.maximum(above, 0)])
        more = float(np.square(gain_N - signed_N).sum()) - least
        if more <= REJECTED * found.scatter**2 + 1e-12:
            out.append(k)
    return out


def _why_none(settings: pd.DataFrame, found: Fit | None, possible: list[int]) -> str:
    n = len(settings)
    if n < MIN_SETTINGS:
        return f"too few settings: {n}, {MIN_SETTINGS} are needed"
    if found is None:
        return f"all {n} settings have the same prior strength"
    gains = settings["gain"]
    if bool((gains > 0).all()) or bool((gains < 0).all()):
        word = "above" if gains.iloc[0] > 0 else "below"
        return f"no change of sign: the gain is {word} zero at all {n} settings"
    if found.gain_N[-1] - found.gain_N[0] < 1e-9:
        return f"over {n} settings the gain does not rise with prior strength"
    words = [word for word, k in (("above", 0), ("below", n)) if k in possible]
    if words:
        return f"by its scatter of {found.scatter:.2f} the gain may be {' or '.join(words)} zero at all {n} settings"
    return ""


def _root(found: Fit) -> float:
    """In logits: where a fit of both signs goes through zero, the middle of where it is zero."""
    x_N, gain_N = np.array(found.x_N), np.array(found.gain_N)
    i, j = int(np.flatnonzero(gain_N < 0)[-1]), int(np.flatnonzero(gain_N > 0)[0])
    if j > i + 1:
        return float(x_N[i + 1] + x_N[j - 1]) / 2
    share = -gain_N[i] / (gain_N[j] - gain_N[i])
    return float(x_N[i] + share * (x_N[j] - x_N[i]))


def crossovers(table: pd.DataFrame, objectives: Sequence[str], decoding: str) -> pd.DataFrame:
    """One row per objective and task, and `pooled` over tasks where there are several: task, objective, prior, low,
    high, settings, points, why, observed_low, observed_high, and of the fit `scatter` and `measurement`.
    """
    rows = []
    for objective in objectives:
        tasks = sorted(set(table.loc[table["objective"] == objective, "task"]))
        parts = [(task, table[table["task"] == task]) for task in tasks]
        for task, some in parts + ([("pooled", table)] if len(tasks) > 1 else []):
            found = crossover(some, objective, decoding)
            row: dict[str, object] = {"task": task, "objective": objective}
            row |= {key: getattr(found, key) for key in ("prior", "low", "high", "settings", "points", "why")}
            row |= {"observed_low": found.observed[0], "observed_high": found.observed[1]}
            row |= {"scatter": found.fit.scatter if found.fit else math.nan}
            rows.append(row | {"measurement": found.fit.measurement if found.fit else math.nan})
    return pd.DataFrame(rows)


def logit(p: Array) -> Array:
    """log(p/(1-p)), p held off 0 and 1 by 1e-4 so that every point has a place on the axis."""
    p = np.clip(p, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(p / (1 - p)))


def expit(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _logit(p: float) -> float:
    return float(logit(np.array(p)))


def _expit(x: float) -> float:
    return float(expit(np.array(x)))
