"""The paper's tables: every number as printed, missing cells said, nothing bold without an interval."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pandas as pd
import pytest

from analysis.paper.reported import reported
from analysis.paper.tables import MISSING, TABLES, paper_table, write_tables
from analysis.tables.formats import Grid, latex, markdown


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return reported()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, table: pd.DataFrame) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_tables(table, folder)
    return folder


def test_ten_tables_in_three_formats(folder: Path) -> None:
    names = {f"table-{n}{suffix}" for n in range(1, 11) for suffix in (".md", ".tex", ".csv")}
    assert {path.name for path in folder.iterdir()} == names


@pytest.mark.parametrize("definition", TABLES, ids=lambda definition: definition.place)
def test_every_number_stands_in_its_cell(definition, table: pd.DataFrame, folder: Path) -> None:  # type: ignore[no-untyped-def]
    rows = table[table["place"] == definition.place]
    grid = paper_table(definition, rows)
    cells = [text for line in grid.lines for text, _ in line[grid.names :]]
    printed = [f"{row['value']:.{row['decimals']}f}" for row in rows.to_dict("records")]
    assert sorted(text for text in cells if text != MISSING) == sorted(printed)
    assert not any(bold for line in grid.lines for _, bold in line)
    assert "no intervals" in grid.caption
    told = list(csv.DictReader((folder / f"table-{definition.number}.csv").open()))
    assert [row["reported"] for row in told] == printed


def test_cells_lie_where_the_paper_has_them(folder: Path) -> None:
    text = (folder / "table-1.md").read_text()
    (line,) = [row for row in text.splitlines() if row.startswith("| qwen2.5-math-1.5b | p (−p)")]
    assert [cell.strip() for cell in line.split("|")[3:-1]] == ["65.27", "26.18", "26.66", "6.88", "38.13", "32.75"]
    assert "1 of 16 are not the mean of their columns" in text
    assert "12 of 12 are not the mean of their columns" in (folder / "table-2.md").read_text()
    assert "llama-3.2-3b is printed as LLaMA-3.1-3B" in (folder / "table-2.md").read_text()
    assert f"| qwen2.5-7b | {MISSING} | {MISSING} | 0.07 |" in (folder / "table-5.md").read_text()


def test_a_captions_count_follows_the_numbers(table: pd.DataFrame, tmp_path: Path) -> None:
    mine = (table["place"] == "Table 1") & (table["value"] == 32.75)
    right = table.assign(score=table["score"].where(~mine, 0.3262), value=table["value"].where(~mine, 32.62))
    write_tables(right, tmp_path)
    assert "0 of 16 are not the mean" in (tmp_path / "table-1.md").read_text()


def test_latex_is_balanced_and_escaped(folder: Path) -> None:
    for path in folder.glob("*.tex"):
        text = path.read_text()
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
        columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
        assert columns
        body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
        assert {len(re.split(r"(?<!\\)&", line)) for line in body} == {len(columns[1])}, path
        assert not re.search(r"(?<!\\)[%_#]", text.split(r"\label")[0]), path


def test_the_same_numbers_give_the_same_bytes(table: pd.DataFrame, folder: Path, tmp_path: Path) -> None:
    write_tables(table, tmp_path)
    assert all((tmp_path / path.name).read_bytes() == path.read_bytes() for path in folder.iterdir())


def test_markup_in_names_is_harmless() -> None:
    grid = Grid("a|b", ["x_1"], [[("50 % & $", True)]], "c*")
    assert "**50 % &amp; $**" in markdown(grid) and "a\\|b" in markdown(grid)
    assert r"\textbf{50 \% \& \$}" in latex(grid, "t")


def test_signs_that_latex_or_html_take_for_something_else_are_escaped() -> None:
    grid = Grid("t", ["name", "p"], [[("<img src=x> & a|b", False), ("< .001", False)]], "")
    assert "$<$img src=x$>$ \\& a$|$b & $<$ .001" in latex(grid, "tab:t")
    assert "| &lt;img src=x> &amp; a\\|b | &lt; .001 |" in markdown(grid)
