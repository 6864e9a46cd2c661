"""Which launches would settle what the evidence does not decide."""

from __future__ import annotations

from dataclasses import dataclass

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
    """The setting itself, where its difference is not known or not significant; else none. Where only a prediction is
    to be made surer: settings that lack an objective, then those nearest in prior strength with the widest intervals.
    """
    missing = [one.objective for one in judgements if one.measured is None]
    unsure = {one.objective: one.measured for one in judgements if one.measured and not one.measured.significant}
    out = []
    if missing:
        seeds = ",".join(map(str, range(_SEEDS)))
        text = "this setting itself has not been measured"
        out.append(Settling([f"objective={','.join([REFERENCE, *missing])}", *overrides, f"seed={seeds}"], text))
    if unsure:
        had = max(one.seeds for one in unsure.values())
        seeds = ",".join(str(seed) for seed in range(had, had + _SEEDS))
        text = f"its interval holds zero with {had} seed{'s' * (had != 1)}"
        out.append(Settling([f"objective={','.join([REFERENCE, *unsure])}", *overrides, f"seed={seeds}"], text))
    if any(one.verdict == "undecided" for one in judgements):
        out += _of_others(evidence, backbone, domain, prior, [one.objective for one in judgements])
    return out


def _of_others(
    evidence: Evidence, backbone: str, domain: str, prior: Interval, objectives: list[str]
) -> list[Settling]:
    table = evidence.without(backbone, domain)
    table = table[table["objective"].isin(objectives) & table["prior"].notna()]
    if table.empty:
        return []
    distance = (table["prior"] - prior.mean).abs()
    near = table.assign(_distance=distance, _width=table["gain_high"] - table["gain_low"])
    lacking = near[near["n"] == 0].sort_values("_distance", kind="stable").head(_NAMED)
    nearest = near[near["n"] > 0].sort_values("_distance", kind="stable").head(2 * _NAMED)
    widest = nearest.sort_values("_width", ascending=False, kind="stable").head(1)
    out = []
    for row in [*lacking.to_dict("records"), *widest.to_dict("records")]:
        of = [f"objective={REFERENCE},{row['objective']}", f"backbone={row['backbone']}"]
        of.append(f"benchmark={row['benchmark']}" if row["columns"] == 1 else f"domain={row['domain']}")
        had = int(row["seeds"])
        if row["n"] == 0:
            why = f"evidence that lacks {row['objective']} or {REFERENCE}, prior strength {row['prior']:.3f}"
        else:
            of.append(f"seed={','.join(str(seed) for seed in range(had, had + _SEEDS))}")
            why = f"the widest interval nearby ({row['_width']:.2f}), prior strength {row['prior']:.3f}"
        out.append(Settling([f"sweep={row['sweep']}", *of] if row["n"] == 0 else of, why))
    return out
