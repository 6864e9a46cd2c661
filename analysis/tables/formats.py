"""A grid of cells as Markdown, as LaTeX (booktabs) and as CSV; and temperatures in words."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "≥": r"$\geq$"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"} | {"·": r"$\cdot$", "±": r"$\pm$"}
_LATEX |= {character: f"${character}$" for character in "<>|"}


@dataclass(frozen=True)
class Grid:
    """A table: `heads` of its columns, the first `names` of which name a line; cells are (text, bold)."""

    title: str
    heads: list[str]
    lines: list[list[tuple[str, bool]]]
    caption: str
    names: int = 1


def markdown(grid: Grid) -> str:
    """Title, table and caption."""
    rule = ["---" if i < grid.names else "---:" for i in range(len(grid.heads))]
    rows = [[_markdown(head) for head in grid.heads], rule]
    rows += [[f"**{_markdown(text)}**" if bold else _markdown(text) for text, bold in line] for line in grid.lines]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"## {_markdown(grid.title)}\n\n{table}\n\n{_markdown(grid.caption)}\n"


def _markdown(text: str) -> str:
    """Readers of Markdown take HTML in it for HTML."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("_", "\\_").replace("\n", " ")


def latex(grid: Grid, label: str) -> str:
    """A `table` environment for the package booktabs."""
    alignment = "l" * grid.names + "r" * (len(grid.heads) - grid.names)
    body = [
        " & ".join(rf"\textbf{{{_latex(text)}}}" if bold else _latex(text) for text, bold in line)
        for line in grid.lines
    ]
    lines = [
        r"\begin{table}", r"\centering\small", rf"\caption{{{_latex(grid.title)}. {_latex(grid.caption)}}}",
        rf"\label{{{label}}}", rf"\begin{{tabular}}{{{alignment}}}", r"\toprule",
        " & ".join(map(_latex, grid.heads)) + r" \\", r"\midrule", *(f"{row} \\\\" for row in body), r"\bottomrule",
        r"\end{tabular}", r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def comma_separated(heads: list[str], lines: list[list[str]]) -> str:
    """CSV with one kind of line end on every system."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(lines)
    return out.getvalue()


def temperatures(values: pd.Series) -> str:
    """`T=1`, or `T=0.7 to 1` where they differ."""
    low, high = float(values.min()), float(values.max())
    return f"T={low:g}" + (f" to {high:g}" if high > low else "")
