"""One objective against NLL at one setting, by the other settings of the evidence and by its own measurement.

One fixed method: the gain over NLL is a non-decreasing function of prior strength, fitted to all settings but the one
asked about (statistics/crossover.py). What is said of that one is the fit's prediction, with the scatter between
settings in it. Where it has been measured and its difference is significant, that decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from analysis.advice.evidence import Evidence
from analysis.statistics.benchmarks import PRIMARY
from analysis.statistics.crossover import Crossover, Prediction, crossover_of, settings_of
from analysis.statistics.intervals import Interval

SURE = 0.9  # an objective is advised, not only leaned to, from this probability on
Verdict = Literal["better", "worse", "undecided"]  # than NLL
By = Literal["measured", "predicted", ""]


@dataclass(frozen=True)
class Measured:
    """A gain over NLL at one setting with its 95 % interval, over questions and, from two seeds on, seeds too."""

    gain: float
    low: float
    high: float
    questions: int
    seeds: int

    @property
    def significant(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Judgement:
    """One objective against NLL. predicted: from the other settings, None where they are too few. measured: at this
    very setting, with the interval over questions and, from two seeds on, seeds. verdict: by the measurement where that
    is significant, else by the prediction where its probability is at least SURE. beyond: the prior strength lies
    outside those of the evidence. crossover: of the other settings.
    """

    objective: str
    verdict: Verdict
    by: Literal["measured", "predicted", ""]
    predicted: Prediction | None
    measured: Measured | None
    beyond: bool
    crossover: Crossover

    @property
    def gain(self) -> float:
        """The better known of the two; nan where neither is."""
        if self.measured is not None and (self.by == "measured" or self.predicted is None):
            return self.measured.gain
        return self.predicted.gain if self.predicted is not None else math.nan


def judge(evidence: Evidence, backbone: str, domain: str, prior: Interval, objective: str) -> Judgement:
    """One objective against NLL at one setting, which is not among the fitted ones."""
    others = crossover_of(settings_of(evidence.without(backbone, domain), objective, PRIMARY))
    predicted = others.fit.predict(prior) if others.fit else None
    row = evidence.at(backbone, domain, objective)
    measured = _measured(row) if row is not None else None
    verdict, by = _verdict(predicted, measured)
    beyond = predicted is not None and not others.observed[0] <= prior.mean <= others.observed[1]
    return Judgement(objective, verdict, by, predicted, measured, beyond, others)


def _measured(row: dict[str, Any]) -> Measured:
    over_seeds = row.get("gain_seeds_low", math.nan), row.get("gain_seeds_high", math.nan)
    low, high = (row["gain_low"], row["gain_high"]) if math.isnan(over_seeds[0]) else over_seeds
    # Student's t for few seeds leaves the range of a difference of scores, which lie in [0, 1].
    low, high = max(float(low), -1.0), min(float(high), 1.0)
    return Measured(float(row["gain"]), low, high, int(row["n"]), int(row["seeds"]))


def _verdict(predicted: Prediction | None, measured: Measured | None) -> tuple[Verdict, By]:
    if measured is not None and measured.significant:
        return ("better" if measured.gain > 0 else "worse"), "measured"
    if predicted is not None and max(predicted.better, 1 - predicted.better) >= SURE:
        return ("better" if predicted.better > 0.5 else "worse"), "predicted"
    return "undecided", ""
