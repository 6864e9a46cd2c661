"""Where on the continuum an objective starts to beat NLL: gain as a line in the logit of prior strength, and its root.

The unit is the *setting*, a backbone on a domain. Its seeds, variants and benchmarks are not independent of one another
and are averaged first. The line is fitted to settings by least squares, unweighted: settings scatter about it by more
than their measurement error, because tasks and backbones differ, and that scatter is what the interval has to hold.

Why a line in logit(prior): prior strength is a probability, and the settings of interest crowd at both of its ends; the
logit spreads them. A line is the least that has a root, and with five to ten settings no more can be told. Whether it
fits is reported: `lack_of_fit`, and beside the root what assumes no shape: the root of a monotone fit, and the bracket
between the settings whose own intervals lie below and above zero. In sweep=lab-continuum the gain jumps and then stays
where it is, which no line follows; there the bracket says more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.statistics.intervals import Array, Z, t_quantile

SETTING = ["backbone", "domain"]
MIN_SETTINGS = 4  # a line has two unknowns; with one degree of freedom left every interval is empty talk
_MAX_LOGIT = 50.0  # beyond which a probability is 0 or 1


@dataclass(frozen=True)
class Crossover:
    """The prior strength above which an objective beats NLL, with its 95 % interval; or why the data show none.

    prior, low, high: nan where there is none; an end of the interval beyond the observed prior strengths is open (nan).
    settings, points: how many (points: seeds, variants and benchmarks counted apart). why: '' or the reason for none.
    range: the observed prior strengths. monotone: the root of the monotone fit (nan without a change of sign).
    line: the fit, None where settings are too few. bracket: prior strengths of the strongest setting whose own 95 %
    interval lies below zero and of the weakest one whose lies above; if the gain rises with prior strength, in whatever
    shape, it changes its sign between the two. An end without such a setting is nan, both are where they contradict.
    """

    prior: float
    low: float
    high: float
    settings: int
    points: int
    why: str
    range: tuple[float, float]
    monotone: float
    line: Line | None
    bracket: tuple[float, float] = (math.nan, math.nan)

    @property
    def mean(self) -> float:
        return self.prior

    @property
    def n(self) -> int:
        return self.settings


@dataclass(frozen=True)
class Line:
    """gain = height + slope * (logit(prior) - centre), fitted to `settings` settings.

    spread: sum of squared distances from the centre. error: standard deviation of a setting about the line, never below
    the mean measurement error. measurement: that error (of the gain, and of the prior through the slope), root mean
    square. lack_of_fit: probability of residuals as large if measurement error were all there is (chi-squared).
    """

    height: float
    slope: float
    centre: float
    spread: float
    error: float
    measurement: float
    lack_of_fit: float
    settings: int

    @property
    def freedom(self) -> int:
        return self.settings - 2

    @property
    def slope_interval(self) -> tuple[float, float]:
        """95 % interval of the slope, in gain per unit of logit."""
        half = t_quantile(self.freedom) * self.error / math.sqrt(self.spread)
        return self.slope - half, self.slope + half

    def at(self, prior: float) -> float:
        return self.height + self.slope * (_logit(prior) - self.centre)

    def new(self, prior: float, prior_error: float = 0.0) -> Prediction:
        """The gain of a setting that is not among the fitted ones, at this prior strength.

        prior_error: standard error of the prior strength. The interval holds the scatter between settings, the
        uncertainty of the line, and that of the prior strength.
        """
        d = _logit(prior) - self.centre
        own = self.slope * prior_error / max(prior * (1 - prior), 1e-4)
        error = math.sqrt(self.error**2 * (1 + 1 / self.settings + d * d / self.spread) + own * own)
        gain, half = self.at(prior), t_quantile(self.freedom) * error
        better = student_cdf(gain / error, self.freedom) if error > 0 else float(gain > 0)
        return Prediction(gain, gain - half, gain + half, better, self.settings)


@dataclass(frozen=True)
class Prediction:
    """Predicted gain over NLL of one new setting, its 95 % prediction interval, the probability that it is above zero
    (Student's t, settings - 2 degrees of freedom), and the number of settings that it rests on.
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


def fit(settings: pd.DataFrame) -> Line | None:
    """The least-squares line through `settings_of`; None for fewer than 4 settings, or if all have one prior."""
    n = len(settings)
    if n < MIN_SETTINGS:
        return None
    x_N, y_N = settings["x"].to_numpy(float), settings["gain"].to_numpy(float)
    d_N = x_N - x_N.mean()
    spread = float((d_N**2).sum())
    if spread < 1e-12:
        return None
    slope = float((d_N * y_N).sum()) / spread
    residual_N = y_N - y_N.mean() - slope * d_N
    variance_N = settings["gain_var"].to_numpy(float) + slope**2 * settings["x_var"].to_numpy(float)
    squares, measured = float((residual_N**2).sum()), float(variance_N.mean())
    chi2 = float((residual_N**2 / np.maximum(variance_N, 1e-12)).sum())
    return Line(
        height=float(y_N.mean()),
        slope=slope,
        centre=float(x_N.mean()),
        spread=spread,
        error=math.sqrt(max(squares / (n - 2), measured)),
        measurement=math.sqrt(measured),
        lack_of_fit=chi2_tail(chi2, n - 2),
        settings=n,
    )


def crossover(table: pd.DataFrame, objective: str, decoding: str) -> Crossover:
    """The prior strength above which `objective` beats NLL, from rows of `continuum.gains` (or `benchmarks.by_place`).

    The interval is Fieller's (1954, Some problems in interval estimation): all prior strengths at which the line does
    not differ from zero at the 5 % level, by Student's t with settings - 2 degrees of freedom. It needs no resampling,
    which settings as few as five do not bear. The data show none (`why` says so) where settings are fewer than 4, the
    gain does not rise reliably with prior strength (the slope's 95 % interval holds zero), or the line has no root
    among the observed prior strengths.
    """
    return crossover_of(settings_of(table, objective, decoding))


def crossover_of(settings: pd.DataFrame) -> Crossover:
    """`crossover`, from `settings_of`."""
    n, points, line = len(settings), int(settings["points"].sum()), fit(settings)
    p_N = settings["prior"]
    observed = (float(p_N.min()), float(p_N.max())) if n else (math.nan, math.nan)
    monotone = _expit(monotone_root(settings["x"].to_numpy(float), settings["gain"].to_numpy(float)))
    why, bracket = _why_none(settings, line, observed), _bracket(settings)
    if why or line is None:
        return Crossover(math.nan, math.nan, math.nan, n, points, why, observed, monotone, line, bracket)
    low, high = (p if observed[0] <= p <= observed[1] else math.nan for p in map(_expit, _fieller(line)))
    return Crossover(_expit(_root(line)), low, high, n, points, "", observed, monotone, line, bracket)


def _why_none(settings: pd.DataFrame, line: Line | None, observed: tuple[float, float]) -> str:
    n = len(settings)
    if n < MIN_SETTINGS:
        return f"too few settings: {n}, {MIN_SETTINGS} are needed"
    if line is None:
        return "all settings have the same prior strength"
    low, high = line.slope_interval
    told = f"slope {line.slope:+.3f} [{low:+.3f}, {high:+.3f}] per unit of logit, {n} settings"
    gains = settings["gain"]
    if bool((gains > 0).all()) or bool((gains < 0).all()):
        word = "above" if gains.iloc[0] > 0 else "below"
        return f"no change of sign: the gain is {word} zero at all {n} settings"
    if line.slope <= 0:
        return f"the gain does not rise with prior strength ({told})"
    if low <= 0:
        return f"the gain does not rise reliably with prior strength ({told})"
    root = _expit(_root(line))
    if not observed[0] <= root <= observed[1]:
        where = "below" if root < observed[0] else "above"
        return f"outside the range: the line's root lies {where} the observed {observed[0]:.3f} to {observed[1]:.3f}"
    return ""


def _bracket(settings: pd.DataFrame) -> tuple[float, float]:
    below = float(settings.loc[settings["high"] < 0, "prior"].max())
    above = float(settings.loc[settings["low"] > 0, "prior"].min())
    return (math.nan, math.nan) if below >= above else (below, above)


def _root(line: Line) -> float:
    """In logits."""
    return line.centre - line.height / line.slope


def _fieller(line: Line) -> tuple[float, float]:
    """In logits: where (height + slope d)^2 = t^2 error^2 (1/n + d^2/spread), d the distance from the centre."""
    t2 = (t_quantile(line.freedom) * line.error) ** 2
    a = line.slope**2 - t2 / line.spread
    b, c = line.height * line.slope, line.height**2 - t2 / line.settings
    half = math.sqrt(max(b * b - a * c, 0.0)) / a
    return line.centre - b / a - half, line.centre - b / a + half


def monotone_root(x_N: Array, y_N: Array) -> float:
    """Where the least-squares non-decreasing fit (pool adjacent violators) goes through zero, straight between the last
    point below and the first above it; nan where it does not.
    """
    order = np.argsort(x_N, kind="stable")
    x_N, fitted_N = x_N[order], _isotonic(y_N[order])
    below, above = np.flatnonzero(fitted_N < 0), np.flatnonzero(fitted_N > 0)
    if len(below) == 0 or len(above) == 0:
        return math.nan
    i, j = int(below[-1]), int(above[0])
    share = -fitted_N[i] / (fitted_N[j] - fitted_N[i])
    return float(x_N[i] + share * (x_N[j] - x_N[i]))


def _isotonic(y_N: Array) -> Array:
    blocks: list[list[float]] = []  # mean, size
    for value in y_N:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, size), (before, more) = blocks.pop(), blocks.pop()
            blocks.append([(mean * size + before * more) / (size + more), size + more])
    return np.repeat([mean for mean, _ in blocks], [int(size) for _, size in blocks])


def crossovers(table: pd.DataFrame, objectives: Sequence[str], decoding: str) -> pd.DataFrame:
    """One row per objective and task, and `pooled` over tasks where there are several: task, objective, and the fields
    of Crossover but for the line's, which are slope, slope_low, slope_high, scatter, measurement, lack_of_fit.
    """
    rows = []
    for objective in objectives:
        tasks = sorted(set(table.loc[table["objective"] == objective, "task"]))
        parts = [(task, table[table["task"] == task]) for task in tasks]
        for task, some in parts + ([("pooled", table)] if len(tasks) > 1 else []):
            found = crossover(some, objective, decoding)
            row: dict[str, object] = {"task": task, "objective": objective}
            row |= {key: getattr(found, key) for key in ("prior", "low", "high", "settings", "points", "why")}
            row |= {"bracket_low": found.bracket[0], "bracket_high": found.bracket[1]}
            row |= {"observed_low": found.range[0], "observed_high": found.range[1], "monotone": found.monotone}
            rows.append(row | _line_fields(found.line))
    return pd.DataFrame(rows)


def _line_fields(line: Line | None) -> dict[str, float]:
    names = ("slope", "slope_low", "slope_high", "scatter", "measurement", "lack_of_fit")
    if line is None:
        return dict.fromkeys(names, math.nan)
    values = (line.slope, *line.slope_interval, line.error, line.measurement, line.lack_of_fit)
    return dict(zip(names, values, strict=True))


# --- logits, and the two distributions (Abramowitz and Stegun, for whole degrees of freedom) --------------------------


def logit(p: Array) -> Array:
    """log(p/(1-p)), p held off 0 and 1 by 1e-4 so that every point has a place on the axis."""
    p = np.clip(p, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(p / (1 - p)))


def expit(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _logit(p: float) -> float:
    return float(logit(np.array(p)))


def _expit(x: float) -> float:
    return math.nan if math.isnan(x) else 1 / (1 + math.exp(-min(max(x, -_MAX_LOGIT), _MAX_LOGIT)))


def student_cdf(t: float, freedom: int) -> float:
    """P(T <= t) of Student's t, freedom >= 1 (26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    cos2, term, series = math.cos(angle) ** 2, 1.0, 0.0
    odd = freedom % 2
    for k in range(1, freedom // 2 + 1):
        series += term
        term *= cos2 * (2 * k / (2 * k + 1) if odd else (2 * k - 1) / (2 * k))
    inside = math.sin(angle) * series * (math.cos(angle) if odd else 1.0)
    inside = 2 / math.pi * (angle + inside) if odd else inside
    return 0.5 + inside / 2


def chi2_tail(x: float, freedom: int) -> float:
    """P(chi-squared >= x), freedom >= 1 (26.4.4 and 26.4.5)."""
    half, odd = x / 2, freedom % 2
    if half > 700:
        return 0.0
    steps = [k + odd / 2 for k in range((freedom - odd) // 2)]
    powers = sum(half**k / math.gamma(k + 1) for k in steps)
    return (math.erfc(math.sqrt(half)) if odd else 0.0) + math.exp(-half) * powers
