"""What the paper reports in a region of the continuum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pandas as pd

from analysis.paper.reported import reported_gains
from analysis.statistics.crossover import SETTING


@dataclass(frozen=True)
class Reported:
    """What the paper reports in a region: an objective's mean gain over NLL, and at how many settings it is above zero.
    Reported numbers have no intervals.
    """

    objective: str
    region: str
    settings: int
    above: int
    gain: float


def reported_in(place: str, objectives: Sequence[str]) -> list[Reported]:
    """The paper's settings of a region (by prior strength), benchmarks of a domain averaged first."""
    table = _gains()
    out = []
    for objective in objectives:
        rows = table[(table["region"] == place) & (table["objective"] == objective) & table["gain"].notna()]
        by_setting = rows.groupby(SETTING)["gain"].mean()
        if len(by_setting):
            above = int((by_setting > 0).sum())
            out.append(Reported(objective, place, len(by_setting), above, float(by_setting.mean())))
    return out


@cache
def _gains() -> pd.DataFrame:
    return reported_gains()
