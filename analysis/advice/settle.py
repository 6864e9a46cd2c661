"""Which launches would settle what the evidence does not decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.advice.evidence import Evidence
from analysis.advice.judge import Judgement
from analysis.statistics.continuum import REFERENCE
from analysis.statistics.intervals import Interval

_SEEDS = 3  # from three seeds on an interval speaks of other seeds too
_NAMED = 3


@dataclass(frozen=True)
class Settling:
    """A launch that would tell more, and why."""

    overrides: list[str]
    why: str

    @property
    def command(self) -> str:
        return " ".join(["bll launch", *self.overrides])


def settling(
    evidence: Evidence,
    backbone: str,
    domain: str,
    prior: Interval,
    judgements: list[Judgement],
    overrides: list[str],
) -> list[Settling]:
    """The setting itself, where its difference is not known, not significant, or known of one seed; else none. Where
    only a prediction is to be made surer: settings that lack an objective, then those nearest in prior strength with
    the widest intervals.
    """
    missing = [one.objective for one in judgements if one.measured is None]
    unsure = {
        one.objective: one.measured
        for one in judgements
        if one.measured and (one.measured.seeds < 2 or not one.measured.significant)
    }
    out = []
    if missing:
        text = "this setting itself has not been measured"
        out.append(Settling([f"objective={','.join([REFERENCE, *missing])}", *_but_seed(overrides), _seeds(0)], text))
    if unsure:
        had = max(one.seeds for one in unsure.values())
        row = evidence.at(backbone, domain, next(iter(unsure)))
        text = f"its interval holds zero with {had} seeds" if had > 1 else "one seed does not tell what others give"
        names = f"objective={','.join([REFERENCE, *unsure])}"
        out.append(Settling([*(of := _sweep(row)), names, *_but_seed(overrides, bool(of)), _seeds(had)], text))
    if any(one.verdict == "undecided" for one in judgements):
        objectives = [one.objective for one in judgements]
        out += _of_others(evidence, backbone, domain, prior, objectives, _but_axes(overrides))
    return out


def _of_others(
    evidence: Evidence, backbone: str, domain: str, prior: Interval, objectives: list[str], conditions: list[str]
) -> list[Settling]:
    """conditions: overrides that other settings are launched with too, such as the label noise."""
    table = evidence.without(backbone, domain)
    table = table[table["objective"].isin(objectives) & table["prior"].notna()]
    if table.empty:
        return []
    distance = (table["prior"] - prior.mean).abs()
    low, high = (_over_seeds(table, end) for end in ("low", "high"))
    near = table.assign(_distance=distance, _width=high - low)
    lacking = near[near["n"] == 0].sort_values("_distance", kind="stable").head(_NAMED)
    nearest = near[near["n"] > 0].sort_values("_distance", kind="stable").head(2 * _NAMED)
    widest = nearest.sort_values("_width", ascending=False, kind="stable").head(1)
    out = []
    for row in [*lacking.to_dict("records"), *widest.to_dict("records")]:
        of = [*_sweep(row), f"objective={REFERENCE},{row['objective']}", f"backbone={row['backbone']}"]
        of += [f"benchmark={row['benchmark']}"] if row["columns"] == 1 else []
        of += _but_seed(conditions, bool(_sweep(row)))
        if row["n"] == 0:
            why = f"evidence that lacks {row['objective']} or {REFERENCE}, prior strength {row['prior']:.3f}"
        else:
            of.append(_seeds(int(row["seeds"])))
            why = f"the widest interval nearby ({row['_width']:.2f}), prior strength {row['prior']:.3f}"
        out.append(Settling(of, why))
    return out


def _sweep(row: Mapping[Any, Any] | None) -> list[str]:
    """The sweep that has the cells, in which further seeds count together with them; one without a file has no name."""
    return [] if row is None or str(row["sweep"]).startswith("adhoc-") else [f"sweep={row['sweep']}"]


def _seeds(had: int) -> str:
    """Those at hand, which cost nothing again, and some more."""
    return f"seed={','.join(map(str, range(had + _SEEDS)))}"


def _but_seed(overrides: list[str], of_sweep: bool = False) -> list[str]:
    """of_sweep: the sweep says what its seeds are the seeds of, which an override would hold fast."""
    fixed = {key for key in (text.partition("=")[0] for text in overrides) if of_sweep and key.endswith(".seed")}
    return [text for text in overrides if text.partition("=")[0] not in fixed | {"seed"}]


def _but_axes(overrides: list[str]) -> list[str]:
    """What the overrides say of neither setting nor seed."""
    axes = ("seed=", "objective=", "backbone=", "benchmark=", "domain=", "sweep=")
    return [text for text in overrides if not text.startswith(axes)]


def _over_seeds(table: pd.DataFrame, end: str) -> pd.Series:
    return table[f"gain_seeds_{end}"].fillna(table[f"gain_{end}"])
