"""The paper's Tables 1 to 10, from its reported numbers, and where there are results ours beside them.

Each table is one definition: which rows, which columns. A cell of ours stands as "ours [low, high] (reported)".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures.style import in_order
from analysis.paper.compare import beside
from analysis.paper.consistency import printed_averages
from analysis.paper.reported import AVERAGE, FOLDER, METRICS, benchmarks, formulas, read_csv
from analysis.tables.formats import Grid, comma_separated, latex, markdown
from bll_sweeps.store.records import write_text

MISSING = "–"
# Index of a reported number -> the row of compare.compare that is about it.
Ours = dict[int, dict[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """One table: the reported rows at `place`, a line per distinct `rows`, a column per distinct `column`."""

    number: int
    title: str
    rows: tuple[str, ...] = ("backbone", "name")
    column: str = "benchmark"
    note: str = ""

    @property
    def place(self) -> str:
        return f"Table {self.number}"


_UNRUN = "The project does not run this domain: reported numbers only."
TABLES = (
    PaperTable(number=1, title="Mathematics, the model-strong end: accuracy (%), mean of 16 samples at temperature 1"),
    PaperTable(number=2, title="Medicine, model-intermediate: accuracy (%), greedy decoding"),
    PaperTable(number=3, title="Figlet fonts, the model-weak end (%), greedy decoding", column="metric"),
    PaperTable(
        number=5, title="Prior strength: mean p of the training set's target tokens under the base model (Eq. 5)",
        rows=("backbone",), column="domain",
    ),
    PaperTable(
        number=6, title="Share (%) of the training set's target tokens with p > 0.55 under the base model",
        rows=("backbone",), column="domain",
    ),
    PaperTable(
        number=7, title="Instruction tuning: win rate (%) of -p against -log p on AlpacaEval 2", rows=("backbone",),
        column="metric", note=_UNRUN,
    ),
    PaperTable(number=8, title="Coding: pass@1 (%)", note=_UNRUN),
    PaperTable(number=9, title="Low-resource languages: accuracy (%) on MMLU-ProX", note=_UNRUN),
    PaperTable(number=10, title="Knowledge: accuracy (%) on OpenBookQA", note=_UNRUN),
)  # fmt: skip
_EVERY = "every domain"
_HEADS = {"backbone": "backbone", "name": "objective"}


def write_tables(table: pd.DataFrame, folder: Path, comparison: pd.DataFrame | None = None) -> list[Path]:
    """Tables 1 to 10 as table-<number>.md, .tex and .csv in `folder`; the paths of the Markdown files.

    comparison: that of compare.compare with this table; then only tables that have a cell of ours are written, and of
    ours only what can stand beside a reported number (compare.beside).
    """
    written = []
    for definition in TABLES:
        rows = table[(table["place"] == definition.place) & (table["how"] == "printed")]
        ours = _ours(rows, comparison)
        if rows.empty or (comparison is not None and not ours):
            continue
        written.append(_write(folder, definition.number, paper_table(definition, rows, ours), _records(rows, ours)))
    if comparison is None:
        grid = hyperparameters()
        heads = [*grid.heads]
        written.append(_write(folder, 4, grid, (heads, [[text for text, _ in line] for line in grid.lines])))
    return sorted(written, key=lambda path: int(path.stem.rpartition("-")[2]))


def _write(folder: Path, number: int, grid: Grid, records: tuple[list[str], list[list[str]]]) -> Path:
    path = folder / f"table-{number}.md"
    write_text(path, markdown(grid))
    write_text(path.with_suffix(".tex"), latex(grid, f"tab:paper-{number}"))
    write_text(path.with_suffix(".csv"), comma_separated(*records))
    return path


def paper_table(definition: PaperTable, rows: pd.DataFrame, ours: Ours | None = None) -> Grid:
    """The table's grid; `ours` are rows of a comparison by the index of the reported number that they stand beside."""
    ours = ours or {}
    columns = list(dict.fromkeys(rows[definition.column]))
    at = {(*_line(row, definition), row[definition.column]): index for index, row in _indexed(rows)}
    lines = [
        [*((_plain(name), False) for name in line), *(_cell(rows, at.get((*line, column)), ours) for column in columns)]
        for line in _lines(rows, definition)
    ]
    heads = [
        *(_HEADS[name] for name in definition.rows),
        *(_head(rows, column, definition, ours) for column in columns),
    ]
    return Grid(
        f"{definition.place}. {definition.title}", heads, lines, _caption(definition, rows, ours), len(definition.rows)
    )


def _indexed(rows: pd.DataFrame) -> Iterator[tuple[int, dict[Any, Any]]]:
    return zip(map(int, rows.index), rows.to_dict("records"), strict=True)


def _line(row: dict[Any, Any], definition: PaperTable) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in definition.rows)


def _lines(rows: pd.DataFrame, definition: PaperTable) -> list[tuple[str, ...]]:
    """Backbones in the order of the paper, their objectives in that of the catalogue."""
    lines = list(dict.fromkeys(_line(row, definition) for row in rows.to_dict("records")))
    backbones = list(dict.fromkeys(line[0] for line in lines))
    objectives = in_order(line[-1] for line in lines)
    return sorted(lines, key=lambda line: (backbones.index(line[0]), objectives.index(line[-1])))


def _plain(name: str) -> str:
    formula = formulas().get(name, "")
    return f"{name} ({formula})" if formula and name != "base" else name


def _head(rows: pd.DataFrame, column: str, definition: PaperTable, ours: Ours) -> str:
    """Its title, and n: the questions as far as they are known, ours where ours are shown."""
    mine = rows[rows[definition.column] == column]
    known = benchmarks().to_dict("index").get((mine["domain"].iloc[0], mine["benchmark"].iloc[0]))
    title = METRICS[column] if definition.column == "metric" else column.removeprefix("MMLU-ProX ")
    if known and definition.column != "domain":
        title = known["title"] if definition.column == "benchmark" else title
        return f"{title} (n = {known['questions']}{_our_counts(mine, ours)})"
    return title + _our_counts(mine, ours, " (n: ", ")")


def _our_counts(mine: pd.DataFrame, ours: Ours, before: str = "; ", after: str = "") -> str:
    found = [ours[index]["n"] for index in mine.index if index in ours]
    return f"{before}ours {_counts(found)}{after}" if found else ""


def _counts(found: list[Any]) -> str:
    low, high = int(min(found)), int(max(found))
    return f"{low}" if low == high else f"{low} to {high}"


def _cell(rows: pd.DataFrame, index: int | None, ours: Ours) -> tuple[str, bool]:
    if index is None:
        return MISSING, False
    row: dict[Any, Any] = rows.loc[index].to_dict()
    text = printed(row)
    one = ours.get(index)
    if one is None:
        return (f"{MISSING} ({text})" if ours else text), False
    scale, digits = (1.0, row["decimals"]) if row["unit"] == "fraction" else (100.0, 1)
    low, high = (f"{scale * one[end]:.{digits}f}" for end in ("low", "high"))
    return f"{scale * one['ours']:.{digits}f} [{low}, {high}] ({text})", bool(one["best"])


def printed(row: dict[Any, Any]) -> str:
    """A reported number with the digits that it is printed with."""
    return f"{row['value']:.{int(row['decimals'])}f}"


def _ours(rows: pd.DataFrame, comparison: pd.DataFrame | None) -> Ours:
    """The comparable ones of these reported numbers. The comparison has its rows in the order of the reported table."""
    if comparison is None:
        return {}
    shown = beside(comparison)
    mine = shown.loc[rows.index.intersection(shown.index)]
    return {int(index): row for index, row in zip(mine.index, mine.to_dict("records"), strict=True)}


def _caption(definition: PaperTable, rows: pd.DataFrame, ours: Ours) -> str:
    if ours:
        text = "Ours with its 95 % interval, in brackets the paper's number. Bold: best of ours for its backbone and "
        text += "column, where the 95 % interval of its paired difference from the second best excludes zero (no test "
        text += "is made of Jaro-Winkler similarities and priors). "
        absent = len(rows) - len(ours)
        text += f"{MISSING}: no comparable number of ours ({absent} of {len(rows)} cells; comparison.csv says why). "
    else:
        text = "Numbers as the paper prints them. It reports no intervals and no seeds, so that none is bold. "
        text += "n: questions per column, where it is known. " if definition.column != "domain" else ""
    named = rows.loc[rows["printed"] != "", ["printed", "backbone"]].drop_duplicates()
    text += "".join(f"{b} is printed as {p}. " for p, b in named.to_numpy(str))
    averages, odd = int((rows["benchmark"] == AVERAGE).sum()), len(printed_averages(rows))
    if averages:
        text += f"Averages are as printed: {odd} of {averages} are not the mean of their columns (see the findings). "
    return (text + definition.note).strip()


def _records(rows: pd.DataFrame, ours: Ours) -> tuple[list[str], list[list[str]]]:
    """The table as one line per number."""
    names = ["backbone", "name", "domain", "benchmark", "metric", "unit"]
    heads = [*("objective" if name == "name" else name for name in names), "reported", "n_reported"]
    heads += ["ours", "low", "high", "n", "seeds", "bold"] if ours else []
    known, lines = benchmarks().to_dict("index"), []
    for index, row in _indexed(rows):
        of = known.get((row["domain"], row["benchmark"]))
        line = [*(str(row[name]) for name in names), printed(row), str(of["questions"]) if of else ""]
        if ours:
            one, scale = ours.get(index), 100.0 if row["unit"] == "percent" else 1.0
            numbers = [f"{scale * one[key]:.6g}" for key in ("ours", "low", "high")] if one else [""] * 3
            more = [str(int(one["n"])), str(int(one["seeds"])), str(bool(one["best"]))] if one else [""] * 3
            line += numbers + more
        lines.append(line)
    return heads, lines


def hyperparameters() -> Grid:
    """Table 4, as far as it is known: settings by domain, those of every domain in the caption."""
    rows = [row for _, row in read_csv(FOLDER / "hyperparameters.csv", ("domain", "setting", "value"))]
    common = [f"{row['setting']} {row['value']}" for row in rows if row["domain"] == _EVERY]
    rows = [row for row in rows if row["domain"] != _EVERY]
    settings, domains = (list(dict.fromkeys(row[key] for row in rows)) for key in ("setting", "domain"))
    value = {(row["setting"], row["domain"]): row["value"] for row in rows}
    lines = [[(d, False), *((value.get((s, d), MISSING), False) for s in settings)] for d in domains]
    caption = (
        f"Of every domain: {'; '.join(common)}. What is known of the settings from the paper, and where its authors' "
    )
    caption += "code says otherwise that beside it. The layout is ours: the paper's own table may hold other rows."
    return Grid("Table 4. Hyper-parameters", ["domain", *settings], lines, caption)
