"""What `python -m analysis --source paper` writes, and what a sweep of its backbones gets besides its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.paper.compare import beside, compare, matches, summary
from analysis.paper.consistency import GRADES, check
from analysis.paper.figures import write_reported_figures
from analysis.paper.reported import reported, reported_gains, reported_means
from analysis.paper.tables import write_tables
from analysis.paper.text_claims import claims
from analysis.sources.table import Prior, Results
from analysis.tables.folder import made
from analysis.tables.formats import Grid, markdown
from bll_sweeps.store.records import write_text

_KINDS = {
    "average": "Printed averages that are not the mean of their columns",
    "order": "Objectives that printed averages and columns order differently",
    "count": "Accuracies that no number of right answers gives",
    "repeat": "One cell with several numbers",
    "duplicate": "One number for two backbones",
    "name": "Backbones under another name",
    "text": "What the text says against what the numbers give",
}


def write_paper(folder: Path, numbers: Path | None = None) -> str:
    """tables/table-<n>.md, .tex and .csv; findings.md and .csv; figures; means.csv and gains.csv of the main grid.

    numbers: another file in the format of reported.csv. Returns what was written and found, for the terminal.
    """
    table = reported(numbers)
    findings = check(table, claims())
    made(folder)
    tables = write_tables(table, folder / "tables")
    write_text(folder / "findings.md", findings_text(findings, len(table)))
    write_text(folder / "findings.csv", findings.to_csv(index=False))
    for name, rows in (("means", reported_means(table)), ("gains", reported_gains(table))):
        write_text(folder / f"{name}.csv", rows.to_csv(index=False, float_format="%.6g"))
    figures = write_reported_figures(table, folder / "figures")
    lines = [f"{len(table)} reported numbers from {table['place'].nunique()} places"]
    lines += [f"wrote {len(tables)} tables, {len(figures)} figures and findings.md to {folder}", ""]
    return "\n".join([*lines, *findings_summary(findings)]) + "\n"


def findings_summary(findings: pd.DataFrame) -> list[str]:
    """A line in all, then per kind its counts and, as long as they are few, the findings."""
    grades = findings["grade"].value_counts()
    counts = ", ".join(f"{grades[grade]} {grade} ({what})" for grade, what in GRADES.items() if grade in grades)
    lines = [f"{len(findings)} findings" + (f": {counts}" if counts else "; the numbers agree with each other")]
    for kind, title in _KINDS.items():
        mine = findings[findings["kind"] == kind]
        if mine.empty:
            continue
        by_grade = ", ".join(f"{n} {grade}" for grade, n in mine["grade"].value_counts().items())
        lines.append(f"{title} ({by_grade})")
        shown = mine if len(mine) <= _SHOWN else mine[mine["grade"] != "explained"]
        lines += [f"  {row['place']}: {row['sentence']}" for row in shown.to_dict("records")]
        hidden = mine.drop(shown.index)
        if len(hidden):
            first = hidden.iloc[0]
            lines.append(f"  {first['place']}: {first['sentence']}")
            lines += [f"  and {len(hidden) - 1} alike (findings.md)"] if len(hidden) > 1 else []
    return lines


_SHOWN = 8


def findings_text(findings: pd.DataFrame, numbers: int) -> str:
    """findings.md: a table per kind."""
    grades = "; ".join(f"{grade}: {what}" for grade, what in GRADES.items())
    text = f"# Findings\n\n{numbers} reported numbers, {len(findings)} findings. Every finding is computed from the "
    text += f"numbers. Grades - {grades}.\n"
    for kind, title in _KINDS.items():
        mine = findings[findings["kind"] == kind]
        if len(mine):
            columns = ["place", "grade", "told", "follows", "sentence"]
            lines = [[(str(row[name]), False) for name in columns] for row in mine.to_dict("records")]
            text += (
                "\n" + markdown(Grid(f"{title} ({len(mine)})", columns, lines, "", names=len(columns))).rstrip() + "\n"
            )
    return text


def write_comparison(results: Results, folder: Path, prior: Prior = "clean") -> str:
    """comparison.csv and .md, and where any number can be compared the paper's tables with ours (paper-tables/).
    Returns a line for the terminal; '' and no file where no reported number is one of this sweep's cells.
    """
    table = reported()
    comparison = compare(results, table, prior)
    if not matches(comparison):
        return ""
    write_text(folder / "comparison.csv", comparison.to_csv(index=False, float_format="%.6g"))
    write_text(folder / "comparison.md", comparison_text(comparison))
    written = ["comparison.md"]
    if len(beside(comparison)):
        written += [f"paper-tables/{path.name}" for path in write_tables(table, folder / "paper-tables", comparison)]
    return f"{summary(comparison)}\nwrote {', '.join(written)}\n"


def comparison_text(comparison: pd.DataFrame) -> str:
    """comparison.md: the summary, what is compared, and what is not and why."""
    text = f"# Ours and the reported numbers\n\n{summary(comparison)}\n\n"
    text += "Scores in [0, 1]. The interval of a difference is that of our number alone: the reported ones have none. "
    text += "Within tolerance: the interval, widened on both sides by the tolerance, holds zero. The tolerance is the "
    text += "rounding of the reported number; in mathematics .0005 besides, as the authors' evaluation rounds each "
    text += "sample's accuracy; for averages the difference between the paper's own numbers for one cell besides.\n"
    shown = beside(comparison)
    if len(shown):
        lines = [_line(row) for row in shown.to_dict("records")]
        heads = ["place", "cell", "ours [95 %]", "n", "reported", "difference [95 %]", "tolerance", "verdict"]
        text += "\n" + markdown(Grid(f"Compared ({len(shown)})", heads, lines, "", names=2))
    counts = comparison.drop(shown.index)["why"].value_counts()
    lines = [
        [(str(why), False), (str(n), False)] for why, n in sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    ]
    if lines:
        text += "\n" + markdown(Grid("Not compared", ["why", "numbers"], lines, "comparison.csv has them all."))
    return text


def _line(row: dict[Any, Any]) -> list[tuple[str, bool]]:
    def interval(stem: str, low: str, high: str, sign: str = "") -> str:
        return f"{row[stem]:{sign}.4f} [{row[low]:{sign}.4f}, {row[high]:{sign}.4f}]"

    names = ("backbone", "objective", "benchmark", "metric", *(["variant"] if row["variant"] else []))
    cell = ", ".join(str(row[name]) for name in names)
    verdict = f"{row['verdict']}{f' ({why})' if (why := row['why']) else ''}"
    texts = [str(row["place"]), cell, interval("ours", "low", "high"), str(row["n"]), f"{row['reported']:.4f}"]
    texts += [interval("difference", "difference_low", "difference_high", "+"), f"{row['tolerance']:.4f}", verdict]
    return [(text, False) for text in texts]
