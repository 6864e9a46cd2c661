"""The reported numbers: complete, in the project's names, refused where they are malformed, in the tidy schema."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pandas as pd
import pytest

from analysis.paper.reported import FOLDER, benchmarks, reported, reported_ablation, reported_gains, reported_means
from analysis.sources.table import load
from analysis.statistics.benchmarks import by_place
from analysis.statistics.continuum import gains, means
from bll_sweeps.errors import UsageError
from tests.analysis_store import lab_store

ROOT = Path(__file__).parents[1]
MAIN = ["Table 1", "Table 2", "Table 3"]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return reported()


def _rewritten(tmp_path: Path, line: int, **values: str) -> Path:
    """A copy of the shipped file with other values in one line (the header is line 1)."""
    rows = list(csv.DictReader((FOLDER / "reported.csv").open()))
    rows[line - 2] |= values
    path = tmp_path / "numbers.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_every_table_and_figure_is_there(table: pd.DataFrame) -> None:
    assert len(table) == 468
    sizes = table.groupby("place").size()
    expected = {"Table 1": 96, "Table 2": 132, "Table 3": 24, "Table 5": 12, "Table 6": 4, "Table 7": 6, "Table 8": 15}
    expected |= {
        "Table 9": 48,
        "Table 10": 10,
        "Figure 5": 59,
        "Figure 6 left": 19,
        "Figure 6 right": 19,
        "Figure 7": 4,
    }
    assert sizes[list(expected)].to_dict() == expected
    assert table["score"].between(-1, 1).all() and (table["rounding"] > 0).all()


@pytest.mark.parametrize("axis", ["backbone", "domain", "benchmark", "objective"])
def test_the_main_grid_has_the_names_of_the_configuration(table: pd.DataFrame, axis: str) -> None:
    main = table[table["place"].isin(MAIN) & (table["benchmark"] != "average")]
    assert {name for name in main[axis] if not (ROOT / "conf" / axis / f"{name}.yaml").exists()} == set()


def test_thresholds_that_keep_every_token_are_the_objective_itself(table: pd.DataFrame) -> None:
    identity = table.drop_duplicates("name").set_index("name")["identity"]
    assert identity["p_above(threshold_quantile=0)"] == identity["p"] == identity["power-1.0"]
    assert identity["logp_below(threshold_quantile=1)"] == identity["nll"]
    assert identity["logp_above"] != identity["logp_above(threshold_quantile=0.2)"] != identity["nll"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"value": "17,59"}, "column value: '17,59' is no number between 0 and 100"),
        ({"value": "117.59"}, "column value: '117.59' is no number between 0 and 100"),
        ({"metric": "acuracy"}, "column metric: 'acuracy' is unknown; did you mean 'accuracy'?"),
        ({"objective": "-p"}, "column objective: '-p' is unknown"),
        ({"how": "digitised"}, "column tolerance"),
        ({"objective": "power"}, "column alpha"),
        ({"backbone": ""}, "column backbone: is empty"),
        ({"objective": "p_above", "quantile": "0.33"}, "threshold_quantile=0.33"),
    ],
)
def test_a_bad_value_is_named_with_its_line(tmp_path: Path, values: dict[str, str], told: str) -> None:
    path = _rewritten(tmp_path, 8, **values)
    with pytest.raises(UsageError) as error:
        reported(path)
    assert f"{path} line 8" in str(error.value) and told in str(error.value)


def test_other_columns_and_missing_files_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"line 1: the columns are a, b; they must be place, how"):
        reported(other)
    with pytest.raises(UsageError, match="cannot be read"):
        reported(tmp_path / "nowhere.csv")


def test_means_and_gains_have_the_columns_of_our_own(tmp_path: Path, table: pd.DataFrame) -> None:
    lab_store(tmp_path, objectives=("nll", "p"), points=(("lab-a", "add"),), questions=8)
    ours = load(tmp_path)
    assert set(means(ours).columns) - set(reported_means(table).columns) == set()
    assert set(gains(ours).columns) - set(reported_gains(table).columns) == set()
    assert set(reported_means(table)["source"]) == {"reported"}


def test_points_lie_where_table_5_says_and_have_no_interval(table: pd.DataFrame) -> None:
    rows = reported_means(table)
    assert len(rows) == 4 * 4 * 5 + 4 * 3 * 10 + 4 * 3
    one = rows[(rows["point"] == "qwen2.5-math-7b · medical") & (rows["benchmark"] == "nejm")].iloc[0]
    assert (one["prior"], one["region"], one["n"], one["decoding"]) == (0.59, "MI", 603, "greedy")
    assert rows[["low", "high", "prior_low", "prior_high"]].isna().all().all()


def test_gains_are_differences_of_the_reported_means(table: pd.DataFrame) -> None:
    placed = by_place(reported_gains(table))
    one = placed[(placed["point"] == "qwen2.5-math-1.5b · math") & (placed["objective"] == "p")].iloc[0]
    columns = [65.27 - 42.52, 26.18 - 12.71, 26.66 - 12.09, 6.88 - 0.62, 38.13 - 17.03]
    assert math.isclose(one["gain"], sum(columns) / 500, abs_tol=1e-9)
    assert math.isnan(one["gain_low"]) and one["columns"] == 5


def test_a_gain_without_its_reference_is_missing(table: pd.DataFrame) -> None:
    gone = table[(table["benchmark"] != "nejm") | (table["name"] != "nll")]
    rows = reported_gains(gone)
    lost = rows[rows["benchmark"] == "nejm"]
    assert len(lost) == 4 and (lost["n"] == 0).all() and lost["gain"].isna().all()


def test_every_benchmark_of_the_main_grid_has_its_questions(table: pd.DataFrame) -> None:
    main = table[table["place"].isin(MAIN) & (table["benchmark"] != "average")]
    assert {(row.domain, row.benchmark) for row in main.itertuples()} <= set(benchmarks().index)


def test_a_number_that_is_told_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    lines = (FOLDER / "reported.csv").read_text().splitlines()
    path = tmp_path / "twice.csv"
    path.write_text("\n".join([*lines, lines[4]]) + "\n")
    with pytest.raises(UsageError, match=rf"twice.csv lines 5 and {len(lines) + 1} tell one and the same number"):
        reported(path)


def test_the_ablations_stand_alone_with_nll_where_the_grid_has_the_same_score(table: pd.DataFrame) -> None:
    alphas = reported_ablation("alpha", table)
    assert alphas.groupby("domain").size().to_dict() == {"math": 20, "figfont": 20}
    nll = alphas[alphas["objective"] == "nll"].set_index("domain")
    assert nll["place"].to_dict() == {"math": "Table 1", "figfont": "Table 3"}
    assert nll.loc["figfont", "metric"] == "Jaro-Winkler similarity"
    assert (nll["digitised"] == 0).all() and (alphas[alphas["objective"] != "nll"]["digitised"] > 0).all()

    quantiles = reported_ablation("quantile", table)
    printed = quantiles[quantiles["place"] == "Figure 5 (printed maximum)"]
    assert len(quantiles) == 59 and len(printed) == 6  # a maximum printed beside its curve is not read off as well
    assert not quantiles["objective"].duplicated().any()

    sizes = reported_ablation("scale", table).set_index("backbone")["gain"]
    assert sizes.to_dict() == pytest.approx(
        {"qwen2.5-3b": 0.008, "qwen2.5-7b": 0.0408, "qwen2.5-14b": 0.121, "qwen2.5-32b": 0.16}
    )
    assert reported_ablation("scale", table[table["place"] == "Table 1"]).empty
