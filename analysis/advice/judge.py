"""One objective against NLL at one setting, by the other settings of the evidence and by its own measurement.

One fixed method: the gain over NLL of a prior-leaning objective is a non-decreasing function of prior strength, fitted
to all settings but the one asked about (statistics/crossover.py); of other objectives nothing is predicted. What is
said of that one is the fit's prediction, with the scatter between settings in it. Beyond their prior strengths such a
function is only bounded: below them the gain is at most that of the weakest, above them at least that of the strongest.
Where that bound does not tell the sign, the paper's numbers of the region say which way to lean. Where the setting has
been measured and its difference is significant, that decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from analysis.advice.evidence import Evidence
from analysis.advice.paper import Reported, reported_in
from analysis.statistics.benchmarks import PRIMARY
from analysis.statistics.crossover import Crossover, Prediction, crossover
from analysis.statistics.intervals import Interval
from bll_sweeps.store.regions import region

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
    outside those of the evidence, so that the prediction's interval is open (to -1 or 1), and its probability nan where
    the sign is not told. paper: what is reported in the region, None where nothing is. crossover: of the others.
    """

    objective: str
    verdict: Verdict
    by: Literal["measured", "predicted", ""]
    predicted: Prediction | None
    measured: Measured | None
    beyond: bool
    paper: Reported | None
    crossover: Crossover

    @property
    def foreseen(self) -> float:
        """The gain expected without its measurement: the prediction, or where that does not tell the sign the paper's
        mean of the region, if it has one; nan where nothing is known.
        """
        if self.predicted is None:
            return math.nan
        return self.paper.gain if math.isnan(self.predicted.better) and self.paper else self.predicted.gain

    @property
    def expected(self) -> float:
        """What was measured, where that is significant or all there is; else what is foreseen."""
        if self.measured is not None and (self.by == "measured" or self.predicted is None):
            return self.measured.gain
        return self.foreseen

    @property
    def sure(self) -> bool:
        """Whether the prediction alone reaches SURE, either way."""
        return self.predicted is not None and _sure(self.predicted)


def judge(evidence: Evidence, backbone: str, domain: str, prior: Interval, objective: str) -> Judgement:
    """One objective against NLL at one setting, which is not among the fitted ones."""
    others = crossover(evidence.without(backbone, domain), objective, PRIMARY)
    predicted = others.fit.predict(prior) if others.fit else None
    row = evidence.at(backbone, domain, objective)
    measured = _measured(row) if row is not None else None
    beyond = predicted is not None and not others.observed[0] <= prior.mean <= others.observed[1]
    if predicted is not None and beyond:
        predicted = _bounded(predicted, below=prior.mean < others.observed[0])
    verdict, by = _verdict(predicted, measured)
    paper = next(iter(reported_in(region(prior.mean), [objective])), None)
    return Judgement(objective, verdict, by, predicted, measured, beyond, paper, others)


def _bounded(said: Prediction, below: bool) -> Prediction:
    """A prediction beyond the evidence, where a gain that does not fall with prior strength is known from one side."""
    if below:
        return replace(said, low=-1.0, better=said.better if said.gain < 0 else math.nan)
    return replace(said, high=1.0, better=said.better if said.gain > 0 else math.nan)


def _measured(row: dict[str, Any]) -> Measured:
    over_seeds = row.get("gain_seeds_low", math.nan), row.get("gain_seeds_high", math.nan)
    low, high = (row["gain_low"], row["gain_high"]) if math.isnan(over_seeds[0]) else over_seeds
    # Student's t for few seeds leaves the range of a difference of scores, which lie in [0, 1].
    low, high = max(float(low), -1.0), min(float(high), 1.0)
    return Measured(float(row["gain"]), low, high, int(row["n"]), int(row["seeds"]))


def _verdict(predicted: Prediction | None, measured: Measured | None) -> tuple[Verdict, By]:
    if measured is not None and measured.significant:
        return ("better" if measured.gain > 0 else "worse"), "measured"
    if predicted is not None and _sure(predicted):
        return ("better" if predicted.better > 0.5 else "worse"), "predicted"
    return "undecided", ""


def _sure(said: Prediction) -> bool:
    """Never where the probability is not known."""
    return said.better >= SURE or said.better <= 1 - SURE
