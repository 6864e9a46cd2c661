"""Results as text: a table for the terminal and CSV. Every number stands with its interval and its n."""

from __future__ import annotations

import math

import pandas as pd

from analysis.sources.table import CELL, Prior, Results
from analysis.statistics.benchmarks import View, averages, in_view
from bll_sweeps.store.regions import REGION_EDGES


def results_text(results: Results, prior: Prior = "clean", view: View = 16) -> str:
    """A terminal table, a line per cell and decoding, strongest prior first; below it the averages over the benchmarks
    of a domain, what all cells share, warnings, missing cells and problems.

    view: 14 shows the two MedBullets as one column, and the two journals (benchmarks.py).
    """
    launches = ", ".join(str(m.get("launch")) for m in results.launches)
    parts = [f"sweep {results.sweep}, launch {launches}: {_count(results)}"]
    parts.append(_score_table(in_view(results.cells, view), prior))
    whole = averages(results.cells, view=view)
    if len(whole):
        parts += [f"averages over a domain's benchmarks{' (14 columns)' * (view == 14)}", _average_table(whole, prior)]
    if results.shared:
        parts.append(f"all cells: {', '.join(results.shared)}")
    if (results.cells["state"] == "done").any():
        weak, strong = (number(edge, 1) for edge in REGION_EDGES)
        parts.append(
            f"prior: mean p of the training answers' tokens under the base model (n: their questions, sequences); "
            f"region by it: MW model-weak, up to {weak}; MS model-strong, from {strong}; MI in between"
        )
    parts += [f"warning: {text}" for text in results.warnings]
    missing = results.missing.drop_duplicates(CELL)
    if len(missing):
        parts.append(f"missing ({len(missing)} cells)")
        parts.append(
            "\n".join(
                f"  {r.label} {r.objective} seed={r.seed} {r.variant}: {r.why}".replace(" :", ":")
                for r in missing.itertuples()
            )
        )
    if results.problems:
        parts.append(
            "problems (damaged records are not used)\n" + "\n".join(f"  {problem}" for problem in results.problems)
        )
    return "\n".join(parts) + "\n"


def _score_table(cells: pd.DataFrame, prior: Prior) -> str:
    which = f"prior_{prior}"
    order = cells["benchmark"].map({name: i for i, name in enumerate(dict.fromkeys(cells["benchmark"]))})
    cells = cells.assign(_order=order).sort_values(
        [which, "point", "variant", "_order"], ascending=[False, True, True, True], kind="stable"
    )
    # Where every domain has one benchmark of the same name, its column would say nothing.
    several = ["benchmark"] if (cells["benchmark"] != cells["domain"]).any() else []
    names = ["point", *several, *(["variant"] if any(cells["variant"]) else []), "objective", "seed", "decoding"]
    heads = [*names, "mean [95 %]", "questions", "prior [95 %]", "of questions, sequences", "region"]
    lines = []
    for row in cells[cells["state"] == "done"].to_dict("records"):
        count = f"{row['questions']} x {row['samples']}"
        units = f"{row['prior_questions'] or '?'}, {row['prior_sequences']}" if row["prior_sequences"] else "-"
        score = with_interval(row["mean"], row["low"], row["high"])
        strength = with_interval(row[which], row[f"{which}_low"], row[f"{which}_high"], 4)
        cell = [*(row[name] for name in names), score, count, strength, units, row[f"region_{prior}"]]
        lines.append([str(text) for text in cell])
    return text_table(heads, lines)


def _average_table(whole: pd.DataFrame, prior: Prior) -> str:
    """The averages of which at least one benchmark is done; in place of the rest how many are missing."""
    which = f"prior_{prior}"
    rows = whole.sort_values([which, "point", "variant"], ascending=[False, True, True], kind="stable")
    names = ["point", *(["variant"] if any(rows["variant"]) else []), "objective", "seed", "decoding"]
    heads = [*names, "average of", "mean [95 %]", "questions", "region"]
    lines = []
    for row in rows.to_dict("records"):
        missing = len(row["lacking"].split(", ")) if row["lacking"] else 0
        if missing == row["benchmarks"]:
            continue
        score = f"- ({missing} missing)" if missing else with_interval(row["mean"], row["low"], row["high"])
        count = f"{row['questions']}" if row["questions"] else "-"
        unit = "benchmarks" if row["columns"] == row["benchmarks"] else "columns"
        cell = [*(row[name] for name in names), f"{row['columns']} {unit}", score, count, row[f"region_{prior}"]]
        lines.append([str(text) for text in cell])
    return text_table(heads, lines)


def results_csv(results: Results, view: View = 16) -> str:
    """All columns of `Results.cells`, missing rows included; empty fields where a number is not known.

    A benchmark's further graders have rows of their own after its first, with `primary_grader` False.
    """
    tables = [in_view(table, view) for table in (results.cells, results.other_graders)]
    both = pd.concat([table for table in tables if len(table)]) if any(map(len, tables)) else results.cells
    first = {key: i for i, key in enumerate(dict.fromkeys(map(tuple, both[_ROW].to_numpy())))}
    place = [first[tuple(key)] for key in both[_ROW].to_numpy()]
    both = both.assign(_place=place).sort_values("_place", kind="stable").drop(columns="_place")
    return both.to_csv(index=False, float_format="%.6g")


_ROW = [*CELL, "recipe", "launch", "decoding"]


def with_interval(mean: float, low: float, high: float, digits: int = 3) -> str:
    """`.452 [.401, .504]`; '-' where nothing is known."""
    if math.isnan(mean):
        return "-"
    return f"{number(mean, digits)} [{number(low, digits)}, {number(high, digits)}]"


def number(value: float, digits: int = 3) -> str:
    """Scores as papers print them: no leading zero, no minus before a zero."""
    if math.isnan(value):
        return "?"
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def text_table(heads: list[str], rows: list[list[str]]) -> str:
    """Left-aligned columns, two spaces apart, a rule below the heads."""
    widths = [max([len(head), *(len(row[i]) for row in rows)]) for i, head in enumerate(heads)]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _count(results: Results) -> str:
    cells, done = results.cells.drop_duplicates(CELL), results.done.drop_duplicates(CELL)
    return f"{len(done)} of {len(cells)} cells have scores"
