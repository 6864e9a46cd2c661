"""Every reported number beside ours: the difference, and whether it is within tolerance or not comparable, and why."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pandas as pd

from analysis.paper.consistency import OTHER_SOURCES, printed_averages, run_to_run
from analysis.paper.ours import RECIPES, our_numbers, without_normaliser
from analysis.paper.reported import AVERAGE, reported
from analysis.sources.table import Prior, Results

WITHIN, OUTSIDE, NOT_COMPARABLE = "within tolerance", "outside tolerance", "not comparable"
COLUMNS = [
    "place", "how", "domain", "backbone", "objective", "benchmark", "metric", "variant", "reported", "ours", "low",
    "high", "n", "seeds", "best", "difference", "difference_low", "difference_high", "tolerance", "verdict", "why",
]  # fmt: skip
# The paper's domains that have no configuration here.
_DOMAINS = ("math", "medical", "figfont")
# The authors' evaluation rounds each of 16 columns to 0.1 per cent, which moves their mean by at most half of that.
_COLUMN_ROUNDING = {"math": 0.0005}
_NOT_OURS = "not in our grid"
_NOT_MEASURED = ("the project does not run", "not measured")


def compare(results: Results, table: pd.DataFrame | None = None, prior: Prior = "clean") -> pd.DataFrame:
    """One row per reported number (COLUMNS), scores in [0, 1].

    difference: ours minus reported. Its interval is that of ours alone, as the reported number has none. tolerance: the
    rounding or digitising of the reported number; for mathematics half the rounding of a column besides; for averages
    the difference between the paper's own repetitions of a cell besides (consistency.run_to_run). verdict: within
    tolerance where the interval, widened by the tolerance on both sides, holds zero. why: what a comparison lacks, or
    what is odd about the reported number.
    """
    table = reported() if table is None else table
    mine = _index(our_numbers(results, prior))
    spreads = {domain: run_to_run(table, domain, AVERAGE, "accuracy") for domain in table["domain"].unique()}
    printed = printed_averages(table)
    rows = []
    for row in table.to_dict("records"):
        base = {key: row[key] for key in ("place", "how", "domain", "backbone", "benchmark", "metric")}
        ours, why = _counterpart(row, mine)
        found = {"objective": row["name"], "reported": row["score"], **_numbers(row, ours)}
        found["tolerance"] = _tolerance(row, spreads[row["domain"]])
        note = printed.get(tuple(str(row[key]) for key in ("place", "domain", "backbone", "name", "metric")), "")
        if row["benchmark"] == AVERAGE and note.startswith(OTHER_SOURCES):
            why = why or note
        if ours is not None and math.isnan(found["difference_low"] + found["difference_high"]):
            why = why or "our number has no interval"
        verdict = NOT_COMPARABLE if why else _verdict(found)
        rows.append({**base, **found, "verdict": verdict, "why": why or note * (row["benchmark"] == AVERAGE)})
    return pd.DataFrame(rows, columns=COLUMNS)


def summary(comparison: pd.DataFrame) -> str:
    """One sentence with the counts: comparable, within, outside, and why the others are not comparable."""
    verdicts = Counter(comparison["verdict"])
    comparable = verdicts[WITHIN] + verdicts[OUTSIDE]
    text = f"Of {len(comparison)} reported numbers {comparable} can be compared: {verdicts[WITHIN]} within tolerance, "
    text += f"{verdicts[OUTSIDE]} outside"
    whys = Counter(why.partition(":")[0] for why in comparison.loc[comparison["verdict"] == NOT_COMPARABLE, "why"])
    parts = [f"{n} {why}" for why, n in sorted(whys.items(), key=lambda pair: (-pair[1], pair[0]))]
    return f"{text}; {verdicts[NOT_COMPARABLE]} are not comparable ({'; '.join(parts)})." if parts else f"{text}."


def beside(comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows in which our number can stand beside the reported one: those that can be compared, and our averages
    where the reported one is over other sources.
    """
    comparable = (comparison["verdict"] != NOT_COMPARABLE) | comparison["why"].str.startswith(OTHER_SOURCES)
    return comparison[comparable & (comparison["n"] > 0)]


def matches(comparison: pd.DataFrame) -> bool:
    """Whether any reported number is one of our grid's, even if it is not comparable or missing."""
    why = comparison["why"]
    return bool(((why != _NOT_OURS) & ~why.str.startswith(_NOT_MEASURED)).any())


def _index(mine: pd.DataFrame) -> dict[tuple[str, ...], list[dict[Any, Any]]]:
    """(domain, backbone, benchmark, metric) -> our numbers: comparable ones first, then by recipe, then by variant."""
    out: dict[tuple[str, ...], list[dict[Any, Any]]] = {}
    for row in mine.to_dict("records"):
        out.setdefault(_where(row), []).append(row)
    for rows in out.values():
        rows.sort(
            key=lambda row: (row["reason"] != "", _recipe_rank(row["variant"]), row["variant"] != "", row["variant"])
        )
    return out


def _recipe_rank(variant: str) -> int:
    """0: the paper's own recipe, 1: its authors' code, 2: another. A variant names it where cells differ in it."""
    named = [text.removeprefix("recipe=") for text in variant.split(", ") if text.startswith("recipe=")]
    return RECIPES.index(named[0]) if named and named[0] in RECIPES else len(RECIPES) * bool(named)


def _where(row: dict[Any, Any]) -> tuple[str, ...]:
    return tuple(str(row[key]) for key in ("domain", "backbone", "benchmark", "metric"))


def _counterpart(
    row: dict[Any, Any], mine: dict[tuple[str, ...], list[dict[Any, Any]]]
) -> tuple[dict[Any, Any] | None, str]:
    """Our number for a reported one and why they cannot be compared, '' if they can."""
    if row["domain"] not in _DOMAINS:
        return None, f"the project does not run this domain: {row['domain']}"
    if row["metric"] == "share_above_0.55" or (row["metric"] == "mean_p" and row["objective"] != "base"):
        return None, f"not measured here: {row['metric']} of {row['name']}"
    wanted = without_normaliser(row["identity"])
    found = [one for one in mine.get(_where(row), []) if _same(one, wanted, row["name"])]
    if not found:
        return None, _NOT_OURS
    return found[0], str(found[0]["reason"])


def _same(one: dict[Any, Any], wanted: str, name: str) -> bool:
    identity = without_normaliser(one["identity"])
    return identity == wanted if identity else one["objective"] == name


def _numbers(row: dict[Any, Any], ours: dict[Any, Any] | None) -> dict[str, Any]:
    if ours is None:
        blank = dict.fromkeys(("ours", "low", "high", "difference", "difference_low", "difference_high"), math.nan)
        return {**blank, "variant": "", "n": 0, "seeds": 0, "best": False}
    apart = {
        name: ours[key] - row["score"]
        for name, key in (("difference", "mean"), ("difference_low", "low"), ("difference_high", "high"))
    }
    return {
        "ours": ours["mean"],
        **{key: ours[key] for key in ("variant", "low", "high", "n", "seeds", "best")},
        **apart,
    }


def _tolerance(row: dict[Any, Any], spread: float) -> float:
    scored = row["metric"] in ("accuracy", "gain_over_nll")
    of_column = _COLUMN_ROUNDING.get(row["domain"], 0.0) if scored else 0.0
    return float(row["rounding"] + of_column + (spread if scored and row["benchmark"] == AVERAGE else 0.0))


def _verdict(found: dict[str, Any]) -> str:
    low, high = found["difference_low"] - found["tolerance"], found["difference_high"] + found["tolerance"]
    return WITHIN if low <= 0 <= high else OUTSIDE
