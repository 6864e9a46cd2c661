"""Several benchmarks of one domain: their macro average with its interval, and the paper's 14 columns for its sixteen.

The macro average is the unweighted mean of the columns' means, as in the paper's tables, and only where every benchmark
of the domain that the sweep names has a score. The "Avg." that the paper prints for medicine (Table 2) is another
number: by our computation the mean of eleven sources, one of which (HumanityLastExam) it does not report, not of its
ten columns. On Llama-3.1-8B with NLL it prints 47.23 where its columns average 50.49.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.sources.table import PLACE
from analysis.statistics.comparisons import ADJUSTED, adjusted, minimum_detectable, p_value
from analysis.statistics.intervals import Interval
from analysis.statistics.seeds import average_over_seeds, detectable_over_seeds, p_over_seeds

# 16: a column per benchmark. 14: the paper speaks of 14 benchmarks and does not say which of its 16 columns it counts
# together; that they are the two MedBullets and the two journals is our reading.
View = Literal[16, 14]
MERGED = {"medbullets": ("medbullets_op4", "medbullets_op5"), "lancet_nejm": ("lancet", "nejm")}
# The same questions with another number of options: their errors are not independent.
_ASKED_TWICE = "medbullets"
_SAME_QUESTIONS = dict.fromkeys(MERGED[_ASKED_TWICE], _ASKED_TWICE)
PRIMARY = "primary"
_UNITS = ("questions", "n")
_OF_AVERAGE = ["columns", "benchmarks", "lacking"]


def column_of(benchmark: str, view: View = 16) -> str:
    """The column that a benchmark is in: its own, or in the 14-view one for two."""
    return next((name for name, parts in MERGED.items() if view == 14 and benchmark in parts), benchmark)


def combined(parts: Sequence[tuple[str, Interval]], view: View = 16) -> Interval:
    """Unweighted mean of the columns of these (benchmark, estimate); a column of two is the mean of both.

    The interval is that of Zou and Donner (2008, Construction of confidence limits about effect measures): for
    independent estimates m_i in [l_i, u_i] with weights w_i it is [m - sqrt(sum (w_i (m_i - l_i))^2), m + sqrt(sum (w_i
    (u_i - m_i))^2)]. Benchmarks with the same questions (MedBullets) count as fully dependent, so that their distances
    are added before they are squared. One part gives its own interval. n is the number of questions in all, those that
    two benchmarks share once.
    """
    mean, below, above, questions = 0.0, dict[str, float](), dict[str, float](), dict[str, int]()
    for (benchmark, one), weight in zip(parts, _weights([name for name, _ in parts], view), strict=True):
        unit = _SAME_QUESTIONS.get(benchmark, benchmark)
        mean += weight * one.mean
        below[unit] = below.get(unit, 0.0) + weight * (one.mean - one.low)
        above[unit] = above.get(unit, 0.0) + weight * (one.high - one.mean)
        questions[unit] = max(questions.get(unit, 0), one.n)
    low, high = mean - math.hypot(*below.values()), mean + math.hypot(*above.values())
    return Interval(mean, low, high, sum(questions.values()))


def _weights(benchmarks: Sequence[str], view: View) -> list[float]:
    """The weight of each benchmark in the unweighted mean of the columns."""
    columns = [column_of(name, view) for name in benchmarks]
    return [1 / (len(set(columns)) * columns.count(column)) for column in columns]


def averages(table: pd.DataFrame, every: pd.DataFrame | None = None, view: View = 16) -> pd.DataFrame:
    """Macro averages of the rows of `Results.cells`, `continuum.means` or `continuum.gains`, domain by domain.

    One row per place, objective, decoding (and seed, where rows have one) of a domain with several benchmarks: a copy
    of its first row, with `benchmark` and `label` of the whole domain, `columns` (how many are averaged) and the
    `benchmarks` in them, `lacking` (the names of those without a score; if any, nothing else is known and n is 0), and
    the mean or gain with its interval over `questions` or `n` questions in all. The p-value of a gain is that of its
    interval, and p_holm, p_bh and significant_holm are of the averages alone. every: rows that name all benchmarks of
    each domain (default: `table`).
    """
    stem = "gain" if "gain" in table else ""
    unit = next((name for name in _UNITS if name in table), "n")
    keys = [key for key in (*PLACE, "objective", "seed", "decoding") if key in table]
    wanted = _benchmarks(table if every is None else every)
    groups: dict[tuple[Any, ...], list[dict[Any, Any]]] = {}
    for row in table.to_dict("records"):
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    rows = []
    for group in groups.values():
        names = wanted.get((group[0]["domain"], group[0]["decoding"]), [])
        if len(names) > 1:
            rows.append(_average(group, names, (stem, unit), view))
    return _adjusted(pd.DataFrame(rows, columns=[*table.columns, *_OF_AVERAGE]))


def _adjusted(table: pd.DataFrame) -> pd.DataFrame:
    """With p-values adjusted over the rows that are left, in the columns where they were."""
    return adjusted(table)[list(table.columns)] if {"p_value", *ADJUSTED} <= set(table.columns) else table


def _average(records: list[dict[Any, Any]], names: list[str], kind: tuple[str, str], view: View) -> dict[Any, Any]:
    first = records[0]
    stem, unit = kind
    fields = (stem, f"{stem}_low", f"{stem}_high") if stem else ("mean", "low", "high")
    done = {row["benchmark"]: row for row in records if row[unit] > 0}
    lacking = [name for name in names if name not in done]
    columns = len({column_of(name, view) for name in names})
    found, seeds = Interval(math.nan, math.nan, math.nan, 0), (math.nan, math.nan)
    over_seeds = (f"{stem}_seeds_low", f"{stem}_seeds_high") if stem else ("seeds_low", "seeds_high")
    if not lacking:
        mean, low, high = fields
        of = [done[name] for name in names]
        parts = [Interval(row[mean], row[low], row[high], row[unit]) for row in of]
        found = combined(list(zip(names, parts, strict=True)), view)
    if not lacking and over_seeds[0] in first:
        ends = [(done[name][over_seeds[0]], done[name][over_seeds[1]]) for name in names]
        seeds = average_over_seeds(found, list(zip(_weights(names, view), parts, ends, strict=True)))
    whole: dict[str, Any] = {"benchmark": f"average of {columns}", "label": f"{first['point']} (average of {columns})"}
    whole |= {"columns": columns, "benchmarks": len(names), "lacking": ", ".join(lacking)}
    whole |= dict(zip((*fields, unit), (found.mean, found.low, found.high, found.n), strict=True))
    whole |= {"seed_sd": math.nan} if "seed_sd" in first else {}
    whole |= {"state": "missing" if lacking else "done"} if "state" in first else {}
    whole |= {key: "" for key in ("evaluate", "engine", "grader") if key in first}
    whole |= {"seeds": min(row["seeds"] for row in records)} if "seeds" in first else {}
    whole |= dict(zip(over_seeds, seeds, strict=True)) if over_seeds[0] in first else {}
    if "p_value" in first:
        several = not math.isnan(seeds[0])
        p = p_over_seeds(found, seeds, whole["seeds"]) if several else p_value(found)
        mdd = detectable_over_seeds(found, seeds, whole["seeds"]) if several else minimum_detectable(found)
        whole |= {"p_value": p, "mdd": mdd}
    return {**first, **whole}


def _benchmarks(table: pd.DataFrame) -> dict[tuple[str, str], list[str]]:
    """(domain, decoding) -> the benchmarks that it is averaged over, in the order of the sweep.

    A benchmark whose decodings nobody knows yet ('') counts for all of its domain.
    """
    out: dict[tuple[str, str], list[str]] = {}
    for domain, rows in table.groupby("domain", sort=False):
        pairs = list(rows[["benchmark", "decoding"]].drop_duplicates().itertuples(index=False, name=None))
        for decoding in dict.fromkeys(name for _, name in pairs):
            out[str(domain), decoding] = list(dict.fromkeys(b for b, name in pairs if name in (decoding, "")))
    return out


def by_place(table: pd.DataFrame, every: pd.DataFrame | None = None, view: View = 16) -> pd.DataFrame:
    """Rows of `continuum.means` or `continuum.gains` as the continuum shows them, one per place, objective, decoding.

    A domain with one benchmark keeps its rows; one with several has their macro averages, known only where all of its
    benchmarks are. `columns`, `benchmarks`, `lacking` and `every` are as in `averages`. Where benchmarks differ in
    their primary decoding, the rows of each one's own come first once more, as decoding PRIMARY.
    """
    every = _with_primary(table if every is None else every)
    table = _with_primary(table)
    if table.empty:
        return table.assign(columns=0, benchmarks=0, lacking="")
    wanted = _benchmarks(every)
    pairs = zip(table["domain"], table["decoding"], strict=True)
    placed = table.assign(columns=1, benchmarks=1, lacking="", _at=range(len(table)))
    kept = placed[[len(wanted.get(pair, [])) < 2 for pair in pairs]]
    if len(kept) < len(table):
        more = averages(placed.drop(columns=_OF_AVERAGE), every, view)
        kept = pd.concat([kept, more]).sort_values("_at", kind="stable", ignore_index=True)
    return _adjusted(kept.drop(columns="_at"))


def by_primary(table: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Of `by_place` the rows by each benchmark's primary decoding, each place and objective once: a domain whose
    benchmarks have several primary decodings has its rows of decoding PRIMARY.
    """
    if table.empty:
        return table
    placed = by_place(table, cells)
    own = placed[placed["decoding"] == PRIMARY]
    rest = placed[placed["primary"].astype(bool) & ~placed["domain"].isin(set(own["domain"]))]
    return pd.concat([own, rest], ignore_index=True)


def _with_primary(table: pd.DataFrame) -> pd.DataFrame:
    mine = table[table["primary"].astype(bool) & (table["decoding"] != "")] if len(table) else table
    if mine.empty or mine["decoding"].nunique() == 1:
        return table
    return pd.concat([mine.assign(decoding=PRIMARY), table], ignore_index=True)


def in_view(table: pd.DataFrame, view: View = 16) -> pd.DataFrame:
    """Rows of `Results.cells` (or `other_graders`) with a row per column of the view.

    16: the table itself. 14: two rows of one cell whose benchmarks share a column become one, done where both are, its
    numbers the unweighted means of theirs, its counts their sums, but questions that both ask count once. A row without
    its counterpart stays as it is.
    """
    if view == 16 or table.empty:
        return table
    columns = table["benchmark"].map(lambda name: column_of(name, view))
    keys = [*PLACE, "objective", "recipe", "seed", "decoding", "launch", "primary_grader"]
    named = table.assign(_column=columns, _grader=table["grader"].where(~table["primary_grader"].astype(bool), ""))
    rows: list[dict[Any, Any]] = []
    for (*_, name), group in named.groupby([*keys, "_grader", "_column"], sort=False):
        records = group.drop(columns=["_column", "_grader"]).to_dict("records")
        column, parts = str(name), {row["benchmark"]: row for row in records}
        both = sorted(parts) == sorted(MERGED.get(column, ()))
        rows += [_merged(column, [parts[one] for one in MERGED[column]], view)] if both else records
    return pd.DataFrame(rows, columns=table.columns)


_SUMS = ("disagreements", "generations")
_OF_QUESTIONS = ("questions", "seen_in_training")
_MEANS = ("length_limited", "no_answer", "majority")


def _merged(column: str, rows: list[dict[Any, Any]], view: View) -> dict[Any, Any]:
    first = rows[0]
    whole: dict[str, Any] = {"benchmark": column, "label": f"{first['backbone']} · {column}"}
    done = all(row["state"] == "done" for row in rows)
    for key in ("evaluate", "engine", "grader", "why"):
        parts = list(dict.fromkeys(row[key] for row in rows if row[key]))
        whole[key] = ("; " if key in ("engine", "why") else " ").join(parts)
    if not done:
        blank = dict.fromkeys(("mean", "low", "high", *_MEANS, *_more(first)), math.nan)
        blank |= dict.fromkeys((*_OF_QUESTIONS, *_SUMS), 0)
        return {**first, **whole, **blank, "state": "missing", "samples": 0}
    means = [(row["benchmark"], Interval(row["mean"], row["low"], row["high"], row["questions"])) for row in rows]
    found = combined(means, view)
    whole |= {"mean": found.mean, "low": found.low, "high": found.high, "questions": found.n}
    seen = [row["seen_in_training"] for row in rows]  # nan where one of them is not known
    whole["seen_in_training"] = float(np.max(seen)) if column == _ASKED_TWICE else sum(seen)
    whole |= {key: sum(row[key] for row in rows) for key in _SUMS}
    whole |= {key: sum(row[key] for row in rows) / len(rows) for key in _MEANS}
    for key in _more(first):
        known = [0.0 if math.isnan(row[key]) else row[key] for row in rows]
        told = any(not math.isnan(row[key]) for row in rows)
        whole[key] = sum(known) / len(rows) if told else math.nan
    return {**first, **whole}


def _more(row: dict[Any, Any]) -> list[str]:
    """The columns that only some graders tell."""
    return [key for key in row if key.startswith(("pass_at_", "kind_"))]
