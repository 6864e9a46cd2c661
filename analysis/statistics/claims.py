"""Recomputes the lab's two claims from the records, point by point, and reads them honestly.

Strong end: where prior strength is above .98, p and the thresholded NLL (logp_above) both gain over NLL.
Weak end: on tasks never seen in pretraining, NLL gains over p.

Each is judged on sampled answers (temperature above 0; the primary decoding where there are several). A point is a
backbone and a task. It counts if the paired 95 % intervals of all its comparisons lie above zero, in every variant of
it (over seeds too, where there are several): noise rates, benchmarks and other variants of one backbone and task are
no further evidence, but may deny it. A comparison that was never run is missing, and its point does not count. The
greedy columns (temperature 0) say whether the effect is one of sampling only. A claim holds if at least two points
count; where it does not hold is named.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.sources.table import POINT, Results
from analysis.statistics.continuum import REFERENCE, Prior, gains
from analysis.statistics.seeds import decisive

STRONG_ABOVE = 0.98
STRONG_OBJECTIVES = ("p", "logp_above")
WEAK_OBJECTIVE = "p"
POINTS_NEEDED = 2
_POINT = ["backbone", "task"]
_OF_POINT = ["point", "task", "exposure", "prior", "prior_low", "prior_high", "temperature"]
_COLUMNS = ("gain", "gain_low", "gain_high", "n")


@dataclass(frozen=True)
class Claim:
    """One claim and its points.

    rows: backbone, task, point, variant, comparison, temperature, prior (with interval), exposure, gain (with interval)
    and n as judged, and the same for greedy with the prefix `greedy_`. `counts` is true where the judged interval lies
    above zero.
    """

    name: str
    statement: str
    rows: pd.DataFrame

    @property
    def verdict(self) -> str:
        """'holds' or 'does not hold' with the points where it does and does not, or 'not decided' with the reason."""
        if len(self.rows) == 0:
            return "not decided (the sweep has no such point)"
        counts = self.rows.groupby(_POINT, sort=False)["counts"].all()
        where = f"at {int(counts.sum())} of {len(counts)} points, {POINTS_NEEDED} are needed"
        if counts.sum() >= POINTS_NEEDED:
            failing = self.rows[~self.rows["counts"]].drop_duplicates(["point", "variant"])
            others = [f"{r.point} {r.variant}".strip() for r in failing.itertuples()]
            return f"holds ({where}{'; not at ' + ', '.join(others) if others else ''})"
        lacking = int((self.rows["n"] == 0).sum())
        if lacking:
            return f"not decided ({lacking} of {len(self.rows)} comparisons missing)"
        if counts.all():
            return f"not decided ({where})"
        return f"does not hold ({where})"

    def count(self, prefix: str = "") -> tuple[int, int]:
        """(comparisons whose interval lies above zero, comparisons with data), judged or `greedy_`."""
        known = self.rows[self.rows[f"{prefix}n"] > 0]
        return int((known[f"{prefix}gain_low"] > 0).sum()), len(known)


def check(results: Results, prior: Prior = "clean") -> list[Claim]:
    """The two claims with all their points, strongest prior first."""
    return judge(gains(results, prior))


def judge(table: pd.DataFrame) -> list[Claim]:
    """The claims from a table of `continuum.gains`."""
    wide = _wide(decisive(table))
    strong = _complete(wide[wide["prior"] > STRONG_ABOVE], STRONG_OBJECTIVES)
    weak = _complete(wide[wide["exposure"] == 0], (WEAK_OBJECTIVE,))
    strong = strong.assign(comparison=strong["objective"] + f" - {REFERENCE}")
    weak = _mirrored(weak).assign(comparison=f"{REFERENCE} - {WEAK_OBJECTIVE}")
    names = " and ".join(STRONG_OBJECTIVES)
    return [
        Claim(
            "strong end",
            f"where prior strength > {STRONG_ABOVE:g}, {names} both gain over {REFERENCE}",
            _judged(strong),
        ),
        Claim(
            "weak end",
            f"on tasks never seen in pretraining, {REFERENCE} gains over {WEAK_OBJECTIVE}",
            _judged(weak),
        ),
    ]


def _wide(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of sampled answers, with the greedy ones beside them; one decoding of each, the primary one first.

    `point` names the benchmark.
    """
    keys = [*POINT, "objective"]
    table = table.reindex(columns=[*keys, "label", *_OF_POINT, "primary", *_COLUMNS])
    table = table.assign(point=table["label"])
    table = table.assign(task=table["task"].where(table["task"].fillna("") != "", table["domain"]))
    first = table["primary"].fillna(False).astype(bool).sort_values(ascending=False, kind="stable").index
    ordered = table.loc[first]
    judged = ordered[ordered["temperature"] > 0].drop_duplicates(keys).sort_index()
    beside = ordered.loc[ordered["temperature"] == 0, [*keys, *_COLUMNS]].drop_duplicates(keys)
    wide = judged.merge(beside.rename(columns={c: f"greedy_{c}" for c in _COLUMNS}), on=keys, how="left")
    return wide.assign(greedy_n=wide["greedy_n"].fillna(0).astype(int))


def _complete(rows: pd.DataFrame, objectives: tuple[str, ...]) -> pd.DataFrame:
    """The rows of `objectives`, all of them at every point: one that was never run has n = 0."""
    points = rows.drop_duplicates(POINT)[[*POINT, *_OF_POINT]]
    wanted = points.merge(pd.DataFrame({"objective": list(objectives)}), how="cross")
    known = rows[[*POINT, "objective", *_COLUMNS, *(f"greedy_{c}" for c in _COLUMNS)]]
    out = wanted.merge(known, on=[*POINT, "objective"], how="left")
    return out.assign(**{n: out[n].fillna(0).astype(int) for n in ("n", "greedy_n")})


def _mirrored(rows: pd.DataFrame) -> pd.DataFrame:
    """The same comparisons the other way round."""
    signs: dict[str, pd.Series] = {}
    for stem in ("gain", "greedy_gain"):
        signs |= {
            stem: -rows[stem],
            f"{stem}_low": -rows[f"{stem}_high"],
            f"{stem}_high": -rows[f"{stem}_low"],
        }
    return rows.assign(**signs)


def _judged(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(counts=rows["gain_low"] > 0).reset_index(drop=True)
