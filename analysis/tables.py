"""Results as text: a table for the terminal and CSV. Every number stands with its interval and its n."""

from __future__ import annotations

import math

import pandas as pd

from analysis.table import Prior, Results


def results_text(results: Results, prior: Prior = "clean") -> str:
    """A terminal table, a line per cell and decoding, strongest prior first; warnings, missing cells and problems below
    it.
    """
    which = f"prior_{prior}"
    cells = results.cells.sort_values([which, "point", "variant"], ascending=[False, True, True], kind="stable")
    variants = any(cells["variant"])
    heads = [
        "point",
        *(["variant"] if variants else []),
        "objective",
        "seed",
        "decoding",
        "mean [95 %]",
        "questions",
        "prior [95 %]",
        "of questions, sequences",
        "region",
    ]
    lines = []
    for row in cells[cells["state"] == "done"].to_dict("records"):
        count = f"{row['questions']} x {row['samples']}"
        strength = with_interval(row[which], row[f"{which}_low"], row[f"{which}_high"], 4)
        units = f"{row['prior_questions'] or '?'}, {row['prior_sequences']}" if row["prior_sequences"] else "-"
        score = with_interval(row["mean"], row["low"], row["high"])
        names = [
            row["point"],
            *([row["variant"]] if variants else []),
            row["objective"],
            row["seed"],
            row["decoding"],
        ]
        lines.append([str(cell) for cell in [*names, score, count, strength, units, row[f"region_{prior}"]]])
    launches = ", ".join(str(m.get("launch")) for m in results.launches)
    parts = [f"sweep {results.sweep}, launch {launches}: {_count(results)}", text_table(heads, lines)]
    parts += [f"warning: {text}" for text in results.warnings]
    missing = results.missing.drop_duplicates(["point", "variant", "objective", "seed"])
    if len(missing):
        parts.append(f"missing ({len(missing)} cells)")
        parts.append(
            "\n".join(
                f"  {r.point} {r.objective} seed={r.seed} {r.variant}: {r.why}".replace(" :", ":")
                for r in missing.itertuples()
            )
        )
    if results.problems:
        parts.append(
            "problems (damaged records are not used)\n" + "\n".join(f"  {problem}" for problem in results.problems)
        )
    return "\n".join(parts) + "\n"


def results_csv(results: Results) -> str:
    """All columns of `Results.cells`, missing rows included; empty fields where a number is not known."""
    return results.cells.to_csv(index=False, float_format="%.6g")


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
    names = ["point", "variant", "objective", "seed"]
    cells: pd.DataFrame = results.cells.drop_duplicates(names)
    done = results.done.drop_duplicates(names)
    return f"{len(done)} of {len(cells)} cells have scores"
