"""The advice for one setting: its place, each objective against NLL, the choice, the paper's numbers, what to run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from analysis.advice.evidence import Evidence
from analysis.advice.judge import Judgement, judge
from analysis.advice.paper import Reported, reported_in
from analysis.advice.settle import Settling, settling
from analysis.statistics.continuum import REFERENCE
from analysis.statistics.crossover import SETTING
from analysis.statistics.intervals import Interval
from bll_sweeps.store.regions import region


@dataclass(frozen=True)
class Advice:
    """What is said of one setting. favoured: an objective, or '' where the evidence does not decide; leaning: what it
    would be if one had to choose ('' without evidence).
    """

    backbone: str
    domain: str
    prior: Interval
    prior_seeds: int
    region: str
    judgements: list[Judgement]
    favoured: str
    leaning: str
    paper: list[Reported]
    settle: list[Settling]
    evidence: Evidence


def advise(
    evidence: Evidence,
    backbone: str,
    domain: str,
    prior: Interval,
    objectives: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Advice:
    """What the evidence says of a backbone on a domain with this prior strength. Where the evidence has the setting,
    its prior strength there counts, which is over all its seeds as its gains are.

    objectives: those to compare with NLL (default: all that the evidence compares, or -p and the thresholded NLL).
    overrides: how a launch names this setting, `backbone=lab-c benchmark=lab-spell`.
    """
    wanted = [name for name in objectives if name not in (REFERENCE, "base")]
    wanted = wanted or evidence.objectives or ["p", "logp_above"]
    prior, seeds = evidence.prior_at(backbone, domain) or (prior, 1)
    judgements = [judge(evidence, backbone, domain, prior, objective) for objective in wanted]
    favoured, leaning = _choice(judgements)
    place = region(prior.mean)
    return Advice(
        backbone=backbone,
        domain=domain,
        prior=prior,
        prior_seeds=seeds,
        region=place,
        judgements=judgements,
        favoured=favoured,
        leaning=leaning,
        paper=reported_in(place, wanted),
        settle=settling(evidence, backbone, domain, prior, judgements, list(overrides)),
        evidence=evidence,
    )


def _choice(judgements: list[Judgement]) -> tuple[str, str]:
    """(favoured, leaning): the objective with the largest gain among those better than NLL; NLL if all are worse."""
    known = [one for one in judgements if not math.isnan(one.expected)]
    if not known:
        return "", ""
    best = max(known, key=lambda one: one.expected)
    leaning = best.objective if best.expected > 0 else REFERENCE
    better = [one for one in known if one.verdict == "better"]
    if better:
        return _largest(better).objective, leaning
    return (REFERENCE if all(one.verdict == "worse" for one in judgements) else ""), leaning


def _largest(better: list[Judgement]) -> Judgement:
    """Like is compared with like: gains measured here where all are, else what a measurement decided goes before what
    was predicted.
    """
    if all(one.measured is not None for one in better):
        return max(better, key=lambda one: one.measured.gain if one.measured else math.nan)
    return max(better, key=lambda one: (one.by == "measured", one.expected))


def plain(advice: Advice) -> dict[str, Any]:
    """The advice as JSON has it; what is not known is null."""
    out = asdict(replace(advice, evidence=Evidence(pd.DataFrame(), [], [], None)))
    del out["evidence"]
    for one in out["judgements"]:
        one["crossover"].pop("fit")
    for one, launch in zip(out["settle"], advice.settle, strict=True):
        one["command"] = launch.command
    found = advice.evidence
    settings = int(found.table.drop_duplicates(SETTING).shape[0])
    out["evidence"] = {"sweeps": found.sweeps, "settings": settings, "left_out": found.left_out}
    return _without_nan(out)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
