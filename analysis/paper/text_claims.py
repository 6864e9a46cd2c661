"""What a text says of its numbers (claims.csv) against what the numbers give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.paper.consistency import Finding, at
from analysis.paper.counts import possible_counts
from analysis.paper.reported import FOLDER, benchmarks, choice_in, number_in, read_csv
from analysis.statistics.continuum import REFERENCE

COLUMNS = ("place", "kind", "domain", "benchmark", "number", "unit", "computed_from")
UNITS = ("percent", "quantile", "count")
_COUNTED = {"backbones": "backbone", "benchmarks": "benchmark", "domains": "domain"}


def claims(path: Path | None = None) -> pd.DataFrame:
    """The claims, one row each; `computed_from` is a list of places. Raises UsageError for a bad file."""
    path = path or FOLDER / "claims.csv"
    rows = []
    for line, row in read_csv(path, COLUMNS):
        choice_in(path, line, "kind", row["kind"], tuple(_CHECKS))
        choice_in(path, line, "unit", row["unit"], UNITS)
        number = number_in(path, line, "number", row["number"])
        decimals = len(row["number"].partition(".")[2])
        rows.append({**row, "number": number, "decimals": decimals, "computed_from": row["computed_from"].split("; ")})
    return pd.DataFrame(rows, columns=[*COLUMNS, "decimals"])


def claim_findings(table: pd.DataFrame, told: pd.DataFrame) -> list[Finding]:
    """The claims that do not hold, or only loosely; of those whose places are all in the table."""
    places = set(table["place"])
    known = [claim for claim in told.to_dict("records") if places.issuperset(claim["computed_from"])]
    found = [_CHECKS[str(claim["kind"])](table, claim) for claim in known]
    return [one for one in found if one is not None]


def _of(table: pd.DataFrame, claim: dict[Any, Any]) -> pd.DataFrame:
    mine = table[table["place"].isin(claim["computed_from"])]
    for column in ("domain", "benchmark"):
        mine = mine[mine[column] == claim[column]] if claim[column] else mine
    return mine


def _finding(claim: dict[Any, Any], grade: str, told: str, follows: str, sentence: str) -> Finding:
    return Finding(kind="text", grade=grade, place=claim["place"], told=told, follows=follows, sentence=sentence)


def _count(table: pd.DataFrame, claim: dict[Any, Any]) -> Finding | None:
    """How many backbones, benchmarks or domains there are."""
    rows, what = _of(table, claim), str(claim["kind"])
    rows = rows[(rows["benchmark"] != "average") & (rows["benchmark"] != "training set")]
    n = (
        len(rows[["domain", _COUNTED[what]]].drop_duplicates())
        if what == "benchmarks"
        else rows[_COUNTED[what]].nunique()
    )
    if n == claim["number"]:
        return None
    number, where = f"{claim['number']:g}", ", ".join(claim["computed_from"])
    return _finding(
        claim,
        "loose",
        number,
        str(n),
        f"{number} {what} are told; {where} have {n}, and which of them count is not said.",
    )


def _largest_gain(table: pd.DataFrame, claim: dict[Any, Any]) -> Finding | None:
    """The largest gain over NLL, in points of the score."""
    wide = _of(table, claim).pivot_table(index="backbone", columns="name", values="score", aggfunc="first")
    if REFERENCE not in wide:
        return None
    gains = wide.drop(columns=[name for name in ("base", REFERENCE) if name in wide]).sub(wide[REFERENCE], axis=0)
    if gains.isna().all(axis=None):  # no other objective at all, or none beside it
        return None
    row, column = map(int, np.unravel_index(np.nanargmax(gains.to_numpy(float)), gains.shape))
    backbone, objective = gains.index[row], gains.columns[column]
    before, gain = float(wide[REFERENCE].iloc[row]), float(gains.to_numpy(float)[row, column])
    points, told = round(100 * gain, 6), f"{claim['number']:g} %"
    if points == claim["number"]:
        return None
    loose = round(points, claim["decimals"]) == claim["number"]
    text = f"up to {told} is told; the largest gain over {REFERENCE} in {', '.join(claim['computed_from'])} is "
    text += f"{points:.2f} points ({objective}, {backbone}), "
    text += "which rounds to it" if loose else "which does not round to it"
    text += f"; points of the score, which itself grows by {100 * gain / before:.0f} %"
    others = table[(table["metric"] == "gain_over_nll") & (table["domain"] == claim["domain"])]
    if len(others):
        most = at(others, int(others["score"].argmax()))
        text += f". {most['place']} has one of {100 * most['score']:.1f} ({most['how']}, {most['backbone']})"
    return _finding(claim, "loose" if loose else "contradiction", told, f"{points:.2f} points", f"{text}.")


def _best_quantile(table: pd.DataFrame, claim: dict[Any, Any]) -> Finding | None:
    """Whether the threshold that is said to be best is the best of every series of thresholds from below."""
    rows = _of(table, claim)
    rows = rows[rows["objective"].str.endswith("_above") & rows["quantile"].notna()]
    parts, wrong = [], 0
    for objective, series in rows.groupby("objective", sort=False):
        best, said = at(series, int(series["score"].argmax())), series[series["quantile"] == claim["number"]]
        if said.empty:
            continue
        fails = best["score"] - said["score"].iloc[0] > best["rounding"] + said["rounding"].iloc[0]
        wrong += bool(fails)
        there = 100 * said["score"].iloc[0]
        parts.append(f"{objective}: Q{100 * best['quantile']:g} ({100 * best['score']:.2f}, there {there:.2f})")
    if not wrong:
        return None
    told = f"Q{100 * claim['number']:g}"
    text = f"the tokens above {told} are said to do best; by {', '.join(claim['computed_from'])} the best threshold of "
    return _finding(
        claim, "contradiction", told, f"not so in {wrong} of {len(parts)} series", f"{text}{'; '.join(parts)}."
    )


def _questions(table: pd.DataFrame, claim: dict[Any, Any]) -> Finding | None:
    """The size of a benchmark, against the known one and the reported counts."""
    known = benchmarks().loc[(claim["domain"], claim["benchmark"])]
    n = int(known["questions"])
    if n == claim["number"]:
        return None
    rows = _of(table, claim)
    rows = rows[rows["metric"].isin(("accuracy", "exact_match"))]
    trials = n * int(known["samples"])
    fits = sum(bool(possible_counts(100 * r["score"], trials, 100 * r["rounding"])) for r in rows.to_dict("records"))
    text = f"{claim['number']:g} questions of {claim['benchmark']} are told; {known['basis']}: {n}, and {fits} of the "
    return _finding(
        claim,
        "contradiction",
        f"{claim['number']:g}",
        str(n),
        f"{text}{len(rows)} reported scores are possible with {n}.",
    )


_CHECKS: dict[str, Callable[[pd.DataFrame, dict[Any, Any]], Finding | None]] = {
    **dict.fromkeys(_COUNTED, _count),
    "largest_gain": _largest_gain,
    "best_quantile": _best_quantile,
    "questions": _questions,
}
