"""Advice put to the test: each setting of the evidence is left out and predicted from the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.advice.evidence import Evidence
from analysis.advice.judge import Judgement, judge
from analysis.statistics.benchmarks import PRIMARY
from analysis.statistics.continuum import REFERENCE
from analysis.statistics.crossover import SETTING, settings_of
from analysis.statistics.intervals import Interval


def validate(evidence: Evidence, objectives: Sequence[str] = ()) -> pd.DataFrame:
    """Each setting left out in turn: one row per objective and setting, with what the others predict of it (predicted,
    low, high, better, sure; foreseen: what is advised by, see Judgement) and what was measured (measured, measured_low,
    measured_high, questions, seeds, significant); `advice` is the objective or NLL by the sign of `foreseen`; `right`
    whether that is the sign of the measurement.
    """
    rows = []
    for objective in objectives or evidence.objectives:
        for key in settings_of(evidence.table, objective, PRIMARY)[SETTING].itertuples(index=False, name=None):
            backbone, domain = map(str, key)
            row = evidence.at(backbone, domain, objective)
            assert row is not None
            prior = Interval(row["prior"], row["prior_low"], row["prior_high"], int(row["prior_questions"]))
            one = judge(evidence, backbone, domain, prior, objective)
            rows.append(_left_out(one, backbone, domain, prior))
    return pd.DataFrame(rows)


def _left_out(one: Judgement, backbone: str, domain: str, prior: Interval) -> dict[str, Any]:
    said, found = one.predicted, one.measured
    assert found is not None
    row: dict[str, Any] = {"objective": one.objective, "backbone": backbone, "domain": domain, "prior": prior.mean}
    for name in ("gain", "low", "high", "better"):
        row["predicted" if name == "gain" else name] = getattr(said, name) if said else math.nan
    row |= {"measured": found.gain, "measured_low": found.low, "measured_high": found.high}
    row |= {"questions": found.questions, "seeds": found.seeds, "significant": found.significant}
    gain = one.foreseen
    advice = "" if math.isnan(gain) else one.objective if gain > 0 else REFERENCE
    right = bool(advice) and (gain > 0) == (found.gain > 0)
    return row | {"foreseen": gain, "advice": advice, "sure": one.sure, "right": right}


def validation_plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON has them; what is not known is null."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]
