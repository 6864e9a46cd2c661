"""Ours beside the reported numbers: differences with our interval, verdicts, and why a number cannot be compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from grids import cells

from analysis.__main__ import main
from analysis.paper.compare import NOT_COMPARABLE, OUTSIDE, WITHIN, beside, compare, matches, summary
from analysis.paper.overlay import overlay
from analysis.paper.reported import reported
from analysis.paper.write import write_comparison
from analysis.report.page import write_report
from analysis.sources.table import Results, load
from analysis.statistics.continuum import gains, means
from bll_sweeps.cli import run as bll
from bll_sweeps.grid.cell import Cell
from tests.analysis_store import StoreBuilder, lab_store

SIZES = {"math500": 500, "minerva_math": 272, "olympiadbench": 675, "aime24": 30, "amc23": 40}
RATES = {"base": 0.31, "nll": 0.42, "p": 0.653}
BACKBONE = "qwen2.5-math-1.5b"


def _finish(builder: StoreBuilder, one: Cell, rate: float, questions: int, samples: int) -> None:
    """The cell's evaluation and prior, done; its training has a spec only, which is what comparing reads of it."""
    for job in one.jobs():
        builder.spec(job)
    rng = np.random.default_rng(len(one.objective.name) + questions)
    hard = np.linspace(rate - 0.3, rate + 0.3, questions)  # the mean score is close to the rate
    draws = (rng.random((questions, samples)) < hard[:, None]).astype(int)
    names = [f"{one.benchmark.name} {i}" for i in range(questions)]
    rows = [{"question": q, "sampled": d.tolist(), "greedy": d[:1].tolist()} for q, d in zip(names, draws, strict=True)]
    builder.score(one.evaluate, rows)
    if one.prior.id not in builder.written:
        builder.written.add(one.prior.id)
        sequence = {"tokens": 10, "sum_p": 8.0, "clean_tokens": 10, "clean_sum_p": 8.0, "noisy": False}
        result = {which: {"mean_p": 0.8, "tokens": 400} for which in ("clean", "as_trained")}
        builder._publish(one.prior, result, {"sequences.jsonl": [{"row": i, **sequence} for i in range(40)]})


@pytest.fixture(scope="module")
def grid() -> dict[tuple[str, str], Cell]:
    """Cells of the paper's grid; the models and data sets are not in the lock, which changes ids only."""
    found = {}
    for benchmark in SIZES:
        (one,) = cells("objective=nll", f"backbone={BACKBONE}", f"benchmark={benchmark}")
        for (other,) in [cells(f"objective={name}", "benchmark=lab-add") for name in RATES] if not found else []:
            _OBJECTIVES[other.objective.name] = other.objective
        for name, objective in _OBJECTIVES.items():
            found[benchmark, name] = dataclasses.replace(one, objective=objective)
    return found


_OBJECTIVES: dict[str, Any] = {}


def _store(
    root: Path, grid: dict[tuple[str, str], Cell], wanted: list[tuple[str, str]], overrides: list[str], **size: int
) -> Results:
    builder, launched = StoreBuilder(root), []
    for key in wanted:
        one = grid[key]
        _finish(builder, one, RATES[key[1]], size.get(key[0], SIZES[key[0]]), 16)
        launched.append((one, [f"objective={key[1]}", f"backbone={BACKBONE}", f"benchmark={key[0]}", *overrides]))
    builder.launch(launched, sweep="paper")
    return load(root)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, grid: dict[tuple[str, str], Cell]) -> Results:
    return _store(tmp_path_factory.mktemp("runs"), grid, list(grid), [])


@pytest.fixture(scope="module")
def comparison(whole: Results) -> pd.DataFrame:
    return compare(whole)


def _row(table: pd.DataFrame, **where: str) -> dict[Any, Any]:
    rows = table
    for column, value in where.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1, rows
    return rows.to_dict("records")[0]


def test_every_reported_number_has_a_verdict(comparison: pd.DataFrame) -> None:
    assert len(comparison) == len(reported())
    assert set(comparison["verdict"]) == {WITHIN, OUTSIDE, NOT_COMPARABLE}
    assert comparison.loc[comparison["verdict"] == NOT_COMPARABLE, "why"].ne("").all()


def test_a_difference_has_our_interval(comparison: pd.DataFrame) -> None:
    row = _row(comparison, place="Table 1", backbone=BACKBONE, objective="p", benchmark="math500")
    assert row["n"] == 500 and row["reported"] == pytest.approx(0.6527)
    assert row["low"] < row["ours"] < row["high"]
    assert row["difference"] == pytest.approx(row["ours"] - 0.6527)
    assert row["difference_low"] == pytest.approx(row["low"] - 0.6527)
    assert row["tolerance"] == pytest.approx(0.00005 + 0.0005)
    assert row["verdict"] == WITHIN


def test_a_number_far_from_ours_is_outside(comparison: pd.DataFrame) -> None:
    row = _row(comparison, place="Table 1", backbone=BACKBONE, objective="p", benchmark="minerva_math")
    assert row["verdict"] == OUTSIDE and row["difference"] > 0.3  # ours are made at .653, the paper has .2618


def test_averages_carry_the_papers_own_spread(comparison: pd.DataFrame) -> None:
    row = _row(comparison, place="Table 1", backbone=BACKBONE, objective="p", benchmark="average")
    assert row["tolerance"] == pytest.approx(0.00005 + 0.0005 + 0.0061, abs=2e-5)
    assert "these average 32.62 per cent" in row["why"] and row["verdict"] == OUTSIDE
    again = _row(comparison, place="Figure 6 left", objective="power-1.0")
    assert again["ours"] == row["ours"]  # p under another name


def test_prior_strength_is_compared(comparison: pd.DataFrame) -> None:
    row = _row(comparison, place="Table 5", backbone=BACKBONE, domain="math")
    assert row["ours"] == pytest.approx(0.8) and row["verdict"] == WITHIN and row["n"] == 40


def test_what_is_not_there_is_said(comparison: pd.DataFrame) -> None:
    assert _row(comparison, place="Table 8", objective="p", benchmark="MBPP")["why"].startswith(
        "the project does not run"
    )
    assert _row(comparison, place="Table 6", backbone=BACKBONE)["why"].startswith("not measured")
    other = _row(comparison, place="Table 1", backbone="deepseek-math-7b", objective="p", benchmark="aime24")
    assert other["why"] == "not in our grid"
    assert "outside" in summary(comparison) and "not in our grid" in summary(comparison)


def test_the_tables_show_ours_beside_the_reported(whole: Results, tmp_path: Path) -> None:
    told = write_comparison(whole, tmp_path)
    assert told.startswith(f"Of {len(reported())} reported numbers ")
    text = (tmp_path / "paper-tables" / "table-1.md").read_text()
    (best,) = [line for line in text.splitlines() if line.startswith(f"| {BACKBONE} | p (−p)")]
    assert best.count("**") == 2 * 6 and "(65.27)" in best and "n = 500; ours 500" in text
    (second,) = [line for line in text.splitlines() if line.startswith(f"| {BACKBONE} | nll")]
    assert "**" not in second
    assert not (tmp_path / "paper-tables" / "table-2.md").exists()


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["recipe.batch_size=8"], "other settings: recipe.batch_size=8"),
        (["domain.noise.kind=uniform", "domain.noise.rate=0.2"], ""),
    ],
)
def test_other_settings_are_not_comparable(
    tmp_path: Path, grid: dict[tuple[str, str], Cell], overrides: list[str], why: str
) -> None:
    found = compare(_store(tmp_path, grid, [("aime24", "nll")], overrides))
    row = _row(found, place="Table 1", backbone=BACKBONE, objective="nll", benchmark="aime24")
    if why:
        assert (row["verdict"], row["why"]) == (NOT_COMPARABLE, why)
    else:  # the specs, not the command line, say whether labels are noisy
        assert row["verdict"] in (WITHIN, OUTSIDE)


def test_random_weights_and_few_questions_are_not_comparable(tmp_path: Path, grid: dict[tuple[str, str], Cell]) -> None:
    few = compare(_store(tmp_path / "few", grid, [("math500", "nll")], [], math500=5))
    where = {"place": "Table 1", "backbone": BACKBONE, "objective": "nll", "benchmark": "math500"}
    assert _row(few, **where)["why"] == "other questions: 5, the paper has 500"
    one = grid["math500", "nll"]
    made = dataclasses.replace(one, backbone=dataclasses.replace(one.backbone, source="random"))
    found = compare(_store(tmp_path / "random", {("math500", "nll"): made}, [("math500", "nll")], []))
    assert _row(found, **where)["why"] == "random weights"
    assert matches(found) and len(beside(found)) == 0


def test_a_missing_cell_is_named(tmp_path: Path, grid: dict[tuple[str, str], Cell]) -> None:
    builder = StoreBuilder(tmp_path)
    one = grid["aime24", "p"]
    for job in one.jobs():
        builder.spec(job)
    builder.launch([(one, ["objective=p", f"backbone={BACKBONE}", "benchmark=aime24"])])
    row = _row(compare(load(tmp_path)), place="Table 1", backbone=BACKBONE, objective="p", benchmark="aime24")
    assert row["why"].startswith("cell missing: ") and row["n"] == 0


# --- the paper's numbers in our figures ------------------------------------------------------------------------------


def test_comparable_numbers_are_laid_over_ours(whole: Results) -> None:
    found = overlay(whole, means(whole), gains(whole))
    place = {"backbone": BACKBONE, "domain": "math"}
    table = reported()
    of_grid = table[(table["place"] == "Table 1") & (table["backbone"] == BACKBONE) & table["benchmark"].isin(SIZES)]
    for name, rows in of_grid[of_grid["objective"].isin(RATES)].groupby("objective"):
        assert _row(found.means, **place, objective=str(name))["mean"] == pytest.approx(rows["score"].mean())
    one = _row(found.gains, **place, objective="p")
    assert one["gain"] == pytest.approx(one["gain"]) and np.isnan([one["gain_low"], one["p_value"]]).all()
    assert one["prior"] == pytest.approx(0.8) and one["place"] == "Table 1"


@pytest.mark.slow
def test_a_whole_report_with_the_papers_numbers_has_the_same_bytes_each_time(whole: Results, tmp_path: Path) -> None:
    """Figures, tables and page; the second time from the cache."""
    folders = (tmp_path / "a", tmp_path / "b")
    for results, folder in zip((whole, load(whole.root)), folders, strict=True):
        write_report(results, folder)
    files = [{str(p.relative_to(f)): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders]
    assert files[0].keys() == files[1].keys()
    assert [name for name, data in files[0].items() if files[1][name] != data] == []
    assert b"reported by the paper (no interval)" in files[0]["figures/bars-sampled.svg"]
    for name in ("gains", "ranks"):
        table = pd.read_csv(folders[0] / "tables" / f"{name}.csv")
        assert set(RATES) - {"base", "nll"} <= set(table["objective"])


@pytest.mark.slow
def test_both_commands_set_the_papers_numbers_beside_ours_and_draw_them_unless_told_not_to(
    whole: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, beside_ours = str(tmp_path / "a"), ("comparison.md", "comparison.csv", "paper-tables/table-1.md")
    assert bll(["report", "paper", "--root", str(whole.root), "--out", out, "--no-overlay"]) == 0
    told = capsys.readouterr().out
    assert "reported numbers" in told and told.rstrip().endswith("report.html")
    assert all((tmp_path / "a" / name).exists() for name in beside_ours)
    assert "reported by the paper" not in (tmp_path / "a" / "figures" / "bars-sampled.svg").read_text()
    assert main(["--source", str(whole.root), "--out", str(tmp_path / "b"), "--no-overlay"]) == 0
    assert "stand in the figures as open marks" not in (tmp_path / "b" / "report.html").read_text()
    assert (tmp_path / "b" / "comparison.csv").read_bytes() == (tmp_path / "a" / "comparison.csv").read_bytes()


def test_an_ablations_own_figure_comes_before_the_table(whole: Results) -> None:
    found = overlay(whole, means(whole), gains(whole))
    of = {kind: _row(getattr(found, kind), objective="p") for kind in ("means", "alpha", "quantile")}
    assert of["means"]["place"] == "Table 1" and of["means"]["digitised"] == 0
    assert of["alpha"]["place"] == "Figure 6 left" and of["alpha"]["mean"] == pytest.approx(0.3276)
    assert of["quantile"]["place"] == "Figure 5" and of["quantile"]["mean"] == pytest.approx(0.3336)
    assert of["alpha"]["digitised"] == pytest.approx(0.0005)
    assert _row(found.alpha, objective="nll")["place"] == "Table 1"


def test_fewer_benchmarks_have_no_average_of_figures(tmp_path: Path, grid: dict[tuple[str, str], Cell]) -> None:
    some = _store(tmp_path, grid, [(name, o) for name in ("aime24", "amc23") for o in RATES], [])
    found = overlay(some, means(some), gains(some))
    table = reported()
    two = table[(table["place"] == "Table 1") & (table["backbone"] == BACKBONE) & (table["objective"] == "p")]
    two = two[two["benchmark"].isin(("aime24", "amc23"))]
    assert _row(found.alpha, objective="p")["mean"] == pytest.approx(two["score"].mean())
    assert set(found.alpha["place"]) == {"Table 1"}


def test_nothing_is_laid_over_what_cannot_be_compared(tmp_path: Path, grid: dict[tuple[str, str], Cell]) -> None:
    few = _store(tmp_path / "a", grid, [("aime24", "nll"), ("aime24", "p")], [], aime24=10)
    found = overlay(few, means(few), gains(few))
    assert not len(found.means) and found.why.startswith("no cell is comparable with the paper's (other questions")
    lab_store(tmp_path / "b", objectives=("nll", "p"), points=(("lab-a", "rot"),), questions=5)
    lab = load(tmp_path / "b")
    found = overlay(lab, means(lab), gains(lab))
    assert not len(found.means) and "nothing of these backbones" in found.why


def test_of_two_recipes_the_papers_own_is_compared_and_named(tmp_path: Path, grid: dict[tuple[str, str], Cell]) -> None:
    builder, launched = StoreBuilder(tmp_path), []
    for recipe, rate in (("authors", 0.9), ("paper", 0.65)):
        for name in ("nll", "p"):
            one = grid["aime24", name]
            one = dataclasses.replace(one, recipe=dataclasses.replace(one.recipe, name=recipe, steps=1 + len(recipe)))
            _finish(builder, one, rate, 30, 16)
            overrides = [f"objective={name}", f"backbone={BACKBONE}", "benchmark=aime24", f"recipe={recipe}"]
            launched.append((one, overrides))
    builder.launch(launched, sweep="paper")
    row = _row(compare(load(tmp_path)), place="Table 1", backbone=BACKBONE, objective="p", benchmark="aime24")
    assert row["variant"] == "recipe=paper" and row["ours"] == pytest.approx(0.65, abs=0.05)


def test_a_lab_sweep_has_no_comparison(tmp_path: Path) -> None:
    lab_store(tmp_path / "runs", objectives=("nll", "p"), points=(("lab-a", "add"),), questions=8)
    assert write_comparison(load(tmp_path / "runs"), tmp_path / "out") == ""
    assert not (tmp_path / "out").exists()
