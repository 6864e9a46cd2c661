"""Do the numbers of a source agree with each other? Findings are computed from the numbers; none is written down here.

findings = check(reported(), claims())
findings[["kind", "grade", "place", "sentence"]]

Any table with the columns of `reported.reported` can be checked. Kinds of findings:
- average: a printed average that is not the mean of its columns, and whether sources without a column explain it;
- order: two objectives that the printed averages and the columns' means order differently;
- count: an accuracy that no number of right answers gives, and whether rounding by column explains it;
- repeat: one cell with several numbers in several places;
- duplicate: one number for two backbones, where chance hardly gives it;
- name: a backbone printed under a name that is not its own;
- text: what the text says and what the numbers give (text_claims.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.paper.counts import nearest_counts, possible_by_column, possible_counts
from analysis.paper.reported import AVERAGE, METRICS, benchmarks
from analysis.statistics.continuum import REFERENCE

GRADES = {
    "contradiction": "both cannot hold",
    "explained": "does not follow as it stands, but a rule that is named gives it",
    "unlikely": "possible, but hardly by chance",
    "loose": "right but for rounding, wording or counting",
}
# A number that two backbones share is told where fewer such coincidences than this are expected in its column.
CHANCE = 0.05
_CELL = ["domain", "backbone", "identity", "benchmark", "metric"]
_LINE = ["place", "domain", "backbone", "name", "metric"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """told: what is reported; follows: what the numbers give instead; grade: one of GRADES."""

    kind: str
    grade: str
    place: str
    told: str
    follows: str
    sentence: str


def check(table: pd.DataFrame, claims: pd.DataFrame | None = None) -> pd.DataFrame:
    """All findings, a row each (columns: the fields of Finding); empty where everything agrees."""
    from analysis.paper.text_claims import claim_findings

    found = [*averages(table), *orders(table), *counts(table), *repeats(table), *duplicates(table), *names(table)]
    if claims is not None:
        found += claim_findings(table, claims)
    return pd.DataFrame([asdict(one) for one in found], columns=list(Finding.__dataclass_fields__))


# --- averages and the order that they give ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """A line of a table that prints an average: its columns' mean and what may explain the difference, in per cent."""

    key: dict[str, str]
    average: float
    mean: float
    columns: int
    within: float  # how far rounding alone can take the two apart
    explanation: str  # '' where there is none

    @property
    def agrees(self) -> bool:
        return abs(self.average - self.mean) <= self.within + 1e-9


def _lines(table: pd.DataFrame) -> list[_Line]:
    """The lines with an average and at least two columns. An explanation counts only if it fits every line of its table
    that needs one.
    """
    lines = []
    for key, group in _grouped(table, _LINE).items():
        columns, average = ([row for row in group if (row["benchmark"] == AVERAGE) is whole] for whole in (False, True))
        if len(columns) < 2 or not average:
            continue
        whole, mean = average[0], sum(row["score"] for row in columns) / len(columns)
        within = sum(row["rounding"] for row in columns) / len(columns) + whole["rounding"]
        names = dict(zip(_LINE, key, strict=True))
        why = _other_source(columns, whole)
        lines.append(_Line(names, 100 * whole["score"], 100 * mean, len(columns), 100 * within, why))
    odd = [line for line in lines if not line.agrees]
    unexplained = {(line.key["place"], line.key["domain"]) for line in odd if not line.explanation}
    return [
        _Line(line.key, line.average, line.mean, line.columns, line.within, "")
        if (line.key["place"], line.key["domain"]) in unexplained
        else line
        for line in lines
    ]


def _grouped(table: pd.DataFrame, names: list[str]) -> dict[tuple[str, ...], list[dict[Any, Any]]]:
    """The rows by their values of these columns, in order."""
    out: dict[tuple[str, ...], list[dict[Any, Any]]] = {}
    for row in table.to_dict("records"):
        out.setdefault(tuple(str(row[name]) for name in names), []).append(row)
    return out


def _other_source(columns: list[dict[Any, Any]], whole: dict[Any, Any]) -> str:
    """Whether one more source, without a column, makes the average: which, and with how many right answers."""
    for row in benchmarks().reset_index().to_dict("records"):
        if row["reported"] or row["domain"] != whole["domain"]:
            continue
        n = len(columns) + 1
        implied = 100 * (n * whole["score"] - sum(one["score"] for one in columns))
        slack = 100 * (n * whole["rounding"] + sum(one["rounding"] for one in columns))
        ks = possible_counts(implied, int(row["questions"]) * int(row["samples"]), slack)
        if ks:
            right = f"{ks[0]}" if len(ks) == 1 else f"{ks[0]} to {ks[-1]}"
            return (
                f"it is the mean over {n} sources if {row['benchmark']}, which has no column, is at {implied:.2f} "
                f"({right} of {row['questions']} questions)"
            )
    return ""


OTHER_SOURCES = "the printed average is over other sources"


def printed_averages(table: pd.DataFrame) -> dict[tuple[str, ...], str]:
    """(place, domain, backbone, name, metric) -> what is odd about its printed average, for those that are odd."""
    out = {}
    for line in _lines(table):
        if not line.agrees:
            odd = OTHER_SOURCES if line.explanation else "the printed average is not that of its columns"
            told = f"{odd}: these average {line.mean:.2f} per cent"
            out[tuple(line.key.values())] = told
    return out


def averages(table: pd.DataFrame) -> Iterator[Finding]:
    """Printed averages that rounding does not reconcile with the mean of their columns."""
    for line in _lines(table):
        if line.agrees:
            continue
        follows = f"{line.mean:.2f} (mean of its {line.columns} columns)"
        who = f"{line.key['backbone']}, {line.key['name']}"
        text = (
            f"{who}: the printed average is {line.average:.2f}, the mean of its {line.columns} columns {line.mean:.2f}"
        )
        more = line.explanation or "no other set of known sources explains it"
        grade = "explained" if line.explanation else "contradiction"
        yield Finding(
            kind="average", grade=grade, place=line.key["place"], told=f"{line.average:.2f}", follows=follows,
            sentence=f"{text}; {more}.",
        )  # fmt: skip


def orders(table: pd.DataFrame) -> Iterator[Finding]:
    """Objectives that the printed averages place on the other side of the reference than the columns' means do."""
    groups: dict[tuple[str, ...], dict[str, _Line]] = {}
    for line in _lines(table):
        where = tuple(line.key[name] for name in ("place", "domain", "backbone", "metric"))
        groups.setdefault(where, {})[line.key["name"]] = line
    for (place, domain, backbone, _), lines in groups.items():
        base = lines.get(REFERENCE)
        for name, line in lines.items():
            if base is None or line is base:
                continue
            printed, follows = line.average - base.average, line.mean - base.mean
            if printed * follows >= 0:
                continue
            text = f"{backbone} on {domain}: {name} against {REFERENCE} is {printed:+.2f} by the printed averages "
            text += f"({line.average:.2f} and {base.average:.2f}) and {follows:+.2f} by the means of the columns "
            yield Finding(
                kind="order", grade="contradiction", place=place, told=f"{printed:+.2f}", follows=f"{follows:+.2f}",
                sentence=f"{text}({line.mean:.2f} and {base.mean:.2f}).",
            )  # fmt: skip


# --- counts ----------------------------------------------------------------------------------------------------------


def counts(table: pd.DataFrame) -> Iterator[Finding]:
    """Accuracies that no whole number of right answers gives, where questions and samples are known."""
    known = benchmarks().to_dict("index")
    for row in table[table["metric"].isin(("accuracy", "exact_match", "pass_at_1"))].to_dict("records"):
        of = known.get((row["domain"], row["benchmark"]))
        if of is None or row["how"] == "digitised":
            continue
        n, samples = int(of["questions"]), int(of["samples"])
        percent, within = 100 * row["score"], 100 * row["rounding"]
        if possible_counts(percent, n * samples, within):
            continue
        low, high = nearest_counts(percent, n * samples)
        text = f"{_cell(row)}: {_value(row)} is no k of {n} questions"
        text += f" x {samples} samples" if samples > 1 else ""
        text += f" (next to it {low:.2f} and {high:.2f})"
        rounded = samples > 1 and possible_by_column(percent, n, samples, within)
        more = f"; it can be the mean of {samples} column accuracies that were each rounded to 0.1" if rounded else ""
        yield Finding(
            kind="count", grade="explained" if rounded else "contradiction", place=row["place"], told=_value(row),
            follows=f"{low:.2f} or {high:.2f}", sentence=f"{text}{more}.",
        )  # fmt: skip


# --- one cell twice, one number twice, names --------------------------------------------------------------------------


def repeats(table: pd.DataFrame) -> Iterator[Finding]:
    """Cells that are reported several times with numbers further apart than rounding and digitising allow."""
    for group in _grouped(table, _CELL).values():
        least, most = min(group, key=_score), max(group, key=_score)
        if most["score"] - least["score"] <= most["rounding"] + least["rounding"] + 1e-9:
            continue
        one, other = sorted((least, most), key=group.index)
        said = ", ".join(dict.fromkeys(f"{row['place']} {_value(row)}" for row in group))
        apart = 100 * (most["score"] - least["score"])
        yield Finding(
            kind="repeat", grade="contradiction", place=f"{one['place']}, {other['place']}",
            told=_value(one), follows=_value(other),
            sentence=f"{_cell(one)}: {said}; {apart:.2f} points apart, so that one of them is wrong or they are of "
            "different runs.",
        )  # fmt: skip


def run_to_run(table: pd.DataFrame, domain: str, benchmark: str, metric: str) -> float:
    """The largest difference between numbers that are reported for one trained cell of these names, as a score; 0 where
    none is reported twice. It is what another run of one recipe may change.
    """
    mine = table[(table["domain"] == domain) & (table["benchmark"] == benchmark) & (table["metric"] == metric)]
    mine = mine[mine["objective"] != "base"]
    spread = mine.groupby(_CELL)["score"].agg(["min", "max"])
    return float((spread["max"] - spread["min"]).max()) if len(spread) else 0.0


def duplicates(table: pd.DataFrame) -> Iterator[Finding]:
    """One number for several backbones with one objective, where fewer than CHANCE such pairs are expected by chance:
    pairs / possible numbers between the least and the greatest of the column.
    """
    known = benchmarks().to_dict("index")
    printed = table[(table["how"] == "printed") & (table["value"] > 0)]
    for key, column in printed.groupby(["place", "domain", "benchmark", "metric"], sort=False):
        place, domain, benchmark, metric = map(str, key)
        of = known.get((domain, benchmark)) if metric in ("accuracy", "exact_match") else None
        step = max(2 * column["rounding"].max(), 1 / (of["questions"] * of["samples"]) if of else 0.0)
        possible = 1 + (column["score"].max() - column["score"].min()) / step
        pairs = [
            (a, b, float(one["score"].iloc[0]))
            for _, same in column.groupby("identity", sort=False)
            for _, one in same.groupby("value", sort=False)
            for a, b in combinations(one["backbone"], 2)
        ]
        sizes = column.groupby("identity").size()
        expected = float((sizes * (sizes - 1) / 2).sum()) / possible
        for a, b, score in pairs if expected < CHANCE else []:
            row = column[(column["backbone"] == a) & np.isclose(column["score"], score)].to_dict("records")[0]
            text = f"{METRICS[metric]} on {benchmark} with {row['name']}: {_value(row)} for both {a} and {b}; "
            yield Finding(
                kind="duplicate", grade="unlikely", place=place, told=_value(row), follows="two different numbers",
                sentence=f"{text}{expected:.3f} such pairs are expected in this column by chance.",
            )  # fmt: skip


def names(table: pd.DataFrame) -> Iterator[Finding]:
    """Backbones that are printed under a name that none of the table's backbones has."""
    known = {_plain(name) for name in table["backbone"]}
    for (place, printed, backbone), rows in table[table["printed"] != ""].groupby(["place", "printed", "backbone"]):
        if _plain(str(printed)) in known:
            continue
        named = table[(table["backbone"] == backbone) & (table["printed"] == "")]
        where = ", ".join(dict.fromkeys(named["place"]))
        yield Finding(
            kind="name", grade="contradiction", place=str(place), told=str(printed), follows=str(backbone),
            sentence=f"{printed} (domain {rows['domain'].iloc[0]}) is the name of no known backbone; its {len(rows)} "
            f"numbers are taken for {backbone}, which stands under its own name in {where or 'no other place'}.",
        )  # fmt: skip


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def at(rows: pd.DataFrame, place: int) -> dict[str, Any]:
    """The row at that place, counted from 0."""
    return {str(key): value for key, value in rows.iloc[place].to_dict().items()}


def _score(row: dict[Any, Any]) -> float:
    return float(row["score"])


def _cell(row: dict[Any, Any]) -> str:
    return f"{row['backbone']}, {row['name']}, {METRICS[row['metric']]} on {row['benchmark']} ({row['domain']})"


def _value(row: dict[Any, Any]) -> str:
    """As printed; digitised ones with their tolerance, everything but probabilities in per cent."""
    scale = 1.0 if row["metric"] == "mean_p" else 100.0
    digits = row["decimals"] if scale == 1 or row["unit"] == "percent" else max(row["decimals"] - 2, 0)
    text = f"{scale * row['score']:.{digits}f}"
    return text if math.isnan(row["tolerance"]) else f"{text} ± {scale * row['rounding']:g}"
