"""Findings follow from the numbers: a corrected number takes its finding away, a corrupted one brings one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.paper.consistency import GRADES, check, run_to_run
from analysis.paper.counts import possible_by_column, possible_counts
from analysis.paper.reported import FOLDER, benchmarks, reported
from analysis.paper.text_claims import claims
from bll_sweeps.errors import UsageError


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return reported()


@pytest.fixture(scope="module")
def findings(table: pd.DataFrame) -> pd.DataFrame:
    return check(table, claims())


def _pairs(text: str) -> dict[str, str]:
    return dict(part.split("=") for part in text.split("; "))


def _with(tmp_path: Path, change: str, where: str) -> pd.DataFrame:
    """The shipped numbers with other values in the one row that `where` names, read again; both as `column=value`."""
    text = pd.read_csv(FOLDER / "reported.csv", dtype=str, keep_default_na=False)
    mask = pd.Series(True, index=text.index)
    for column, value in _pairs(where).items():
        mask &= text[column] == value
    assert mask.sum() == 1, where
    for column, value in _pairs(change).items():
        text.loc[mask, column] = value
    path = tmp_path / "numbers.csv"
    text.to_csv(path, index=False, lineterminator="\n")
    return reported(path)


def _sentences(found: pd.DataFrame, kind: str) -> list[str]:
    return list(found.loc[found["kind"] == kind, "sentence"])


def _new(found: pd.DataFrame, before: pd.DataFrame) -> list[str]:
    return sorted(set(found["sentence"]) - set(before["sentence"]))


def test_what_is_known_to_be_odd_is_found(findings: pd.DataFrame) -> None:
    assert set(findings["grade"]) <= set(GRADES)
    averages = findings[findings["kind"] == "average"]
    assert averages.groupby("place").size().to_dict() == {"Table 1": 1, "Table 2": 12}
    assert (averages.loc[averages["place"] == "Table 2", "grade"] == "explained").all()
    (first,) = averages.loc[averages["place"] == "Table 1", ["told", "follows"]].to_numpy().tolist()
    assert first == ["32.75", "32.62 (mean of its 5 columns)"]
    aime = [text for text in _sentences(findings, "count") if "aime24" in text]
    assert {text.split(": ")[1].split()[0] for text in aime} == {"0.41", "1.24", "2.49", "2.70", "7.09", "8.76"}
    assert (findings.loc[findings["kind"] == "count", "grade"] == "explained").all()
    (order,) = _sentences(findings, "order")
    assert "qwen2.5-1.5b" in order and "-0.11" in order and "+0.71" in order
    repeats = findings[findings["kind"] == "repeat"]
    assert set(repeats["told"] + " " + repeats["follows"]) == {"32.75 33.36 ± 0.05", "10.15 5.5 ± 0.2", "0.80 0.76"}
    (duplicate,) = _sentences(findings, "duplicate")
    assert "10.15 for both llama-3.1-8b and qwen2.5-7b" in duplicate
    (name,) = _sentences(findings, "name")
    assert name.startswith("LLaMA-3.1-3B")
    told = list(findings.loc[findings["kind"] == "text", "told"])
    assert told == ["14", "8", "27", "16 %", "Q90", "20000"]


CORRECTIONS = [
    ("average", "value=32.62", "place=Table 1; backbone=qwen2.5-math-1.5b; objective=p; benchmark=average"),
    ("average", "value=50.49", "place=Table 2; backbone=llama-3.1-8b; objective=nll; benchmark=average"),
    ("order", "value=35.20", "place=Table 2; backbone=qwen2.5-1.5b; objective=p; benchmark=average"),
    ("count", "value=8.75", "place=Table 1; backbone=qwen2.5-math-7b; objective=logp_above; benchmark=aime24"),
    ("repeat", "value=0.80", "place=Section 3"),
    ("repeat", "value=0.1015", "place=Figure 6 right; alpha=1"),
    ("duplicate", "value=5.50", "place=Table 3; backbone=qwen2.5-7b; objective=p; metric=jaro_winkler"),
]


@pytest.mark.parametrize(("kind", "change", "where"), CORRECTIONS, ids=[kind for kind, _, _ in CORRECTIONS])
def test_a_corrected_number_takes_its_finding_away(
    tmp_path: Path, findings: pd.DataFrame, kind: str, change: str, where: str
) -> None:
    after = check(_with(tmp_path, change, where), claims())
    assert len(_sentences(after, kind)) == len(_sentences(findings, kind)) - 1


def test_a_corrected_name_takes_its_finding_away(tmp_path: Path) -> None:
    text = (FOLDER / "reported.csv").read_text().replace("LLaMA-3.1-3B", "LLaMA-3.2-3B")
    path = tmp_path / "numbers.csv"
    path.write_text(text)
    assert _sentences(check(reported(path)), "name") == []


CORRUPTIONS = [
    (
        "average",
        "contradiction",
        "value=71.90",
        "place=Table 1; backbone=qwen2.5-math-7b; objective=nll; benchmark=math500",
    ),
    (
        "average",
        "contradiction",
        "value=16.4",
        "place=Table 9; backbone=qwen2.5-7b; objective=nll; benchmark=average",
    ),
    (
        "order",
        "contradiction",
        "value=5.20",
        "place=Table 1; backbone=llama-3.1-8b; objective=p; benchmark=average",
    ),
    (
        "count",
        "contradiction",
        "value=24.40",
        "place=Table 2; backbone=qwen2.5-1.5b; objective=base; benchmark=gpqa_medical",
    ),
    (
        "count",
        "contradiction",
        "value=95.1",
        "place=Table 10; backbone=qwen2.5-14b; objective=nll; benchmark=OpenBookQA clean",
    ),
    (
        "repeat",
        "contradiction",
        "value=18.00",
        "place=review of v1 (2025-10-02); backbone=qwen2.5-math-1.5b; objective=nll",
    ),
    (
        "duplicate",
        "unlikely",
        "value=41.89",
        "place=Table 3; backbone=qwen2.5-1.5b; objective=base; metric=jaro_winkler",
    ),
    ("name", "contradiction", "printed=Qwen2.5-9B", "place=Table 6; backbone=qwen2.5-math-1.5b"),
    (
        "text",
        "contradiction",
        "value=60.00",
        "place=Table 1; backbone=qwen2.5-math-1.5b; objective=p; benchmark=average",
    ),
]


@pytest.mark.parametrize(("kind", "grade", "change", "where"), CORRUPTIONS, ids=[kind for kind, *_ in CORRUPTIONS])
def test_a_corrupted_number_brings_a_finding(
    tmp_path: Path, findings: pd.DataFrame, kind: str, grade: str, change: str, where: str
) -> None:
    after = check(_with(tmp_path, change, where), claims())
    new = after[after["sentence"].isin(_new(after, findings)) & (after["kind"] == kind)]
    assert list(new["grade"]) == [grade], after[after["sentence"].isin(_new(after, findings))]


def test_an_explanation_must_fit_every_line_of_its_table(tmp_path: Path) -> None:
    where = "place=Table 2; backbone=qwen2.5-1.5b; objective=nll; benchmark=average"
    after = check(_with(tmp_path, "value=35.33", where))  # implies 24.99, between 39 and 40 of 158
    averages = after[(after["kind"] == "average") & (after["place"] == "Table 2")]
    assert len(averages) == 12 and (averages["grade"] == "contradiction").all()


@pytest.mark.parametrize(
    ("kind", "number"),
    [("benchmarks", 16), ("backbones", 10), ("largest_gain", 15.75), ("best_quantile", 0.3), ("questions", 5000)],
)
def test_a_claim_is_judged_by_the_numbers(table: pd.DataFrame, kind: str, number: float) -> None:
    told = claims()
    mine = told[told["kind"] == kind].tail(1)
    (before,) = _sentences(check(table, mine), "text")
    after = _sentences(check(table, mine.assign(number=number, decimals=2)), "text")
    if kind == "best_quantile":  # the series have their best at different thresholds
        assert after != [before]
        assert list(check(table, mine.assign(number=number))["follows"])[-1] == "not so in 2 of 3 series"
    elif (kind, number) == ("benchmarks", 16):  # right for v1, which counts three tables
        first = told[told["kind"] == kind].head(1)
        assert _sentences(check(table, first.assign(number=number)), "text") == []
    else:
        assert after == []


def test_a_best_threshold_that_is_best_everywhere_is_no_finding(table: pd.DataFrame) -> None:
    told = claims()
    mine = told[told["kind"] == "best_quantile"]
    lifted = table.assign(score=table["score"].where(table["quantile"] != 0.9, 0.5))
    assert _sentences(check(lifted, mine), "text") == []


def test_a_bad_claim_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "claims.csv"
    path.write_text((FOLDER / "claims.csv").read_text().replace("largest_gain", "largest"))
    with pytest.raises(UsageError, match=r"claims.csv line 8, column kind: 'largest' is unknown; did you mean"):
        claims(path)


def test_repetitions_of_one_cell_are_the_yardstick(table: pd.DataFrame) -> None:
    assert run_to_run(table, "math", "average", "accuracy") == pytest.approx(0.0061)
    assert run_to_run(table, "medical", "average", "accuracy") == 0


def test_an_empty_source_has_no_findings(table: pd.DataFrame) -> None:
    assert len(check(table.iloc[:0])) == 0


# --- counts ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 700), st.integers(1, 16), st.data())
def test_what_was_counted_is_possible(questions: int, samples: int, data: Any) -> None:
    trials = questions * samples
    right = data.draw(st.integers(0, trials))
    assert right in possible_counts(round(100 * right / trials, 2), trials, 0.005)


@settings(max_examples=60)
@given(st.sampled_from([30, 40, 272]), st.data())
def test_a_mean_of_rounded_columns_is_possible(questions: int, data: Any) -> None:
    rights = data.draw(st.lists(st.integers(0, questions), min_size=16, max_size=16))
    columns = [round(100 * right / questions, 1) for right in rights]
    assert possible_by_column(round(sum(columns) / 16, 2), questions, 16, 0.005)


def test_most_numbers_are_not_possible_for_few_questions() -> None:
    exact = sum(bool(possible_counts(v / 100, 30 * 16, 0.005)) for v in range(1000))
    rounded = sum(possible_by_column(v / 100, 30, 16, 0.005) for v in range(1000))
    assert exact < 60 and exact < rounded < 500


@settings(max_examples=30)
@given(st.data())
def test_a_source_that_is_right_has_no_findings(table: pd.DataFrame, data: Any) -> None:
    """Made-up counts per column, their mean as the average."""
    known = benchmarks().xs("medical")
    names = [name for name in known.index if known.loc[name, "reported"]]
    template = table[(table["place"] == "Table 2") & (table["backbone"] == "llama-3.1-8b")].copy()
    template = template[template["name"] == "nll"].set_index("benchmark")
    scores = []
    for name in names:
        n = int(known.loc[name, "questions"])
        scores.append(round(data.draw(st.integers(0, n)) / n, 4))
    template.loc[names, "score"] = scores
    template.loc["average", "score"] = round(sum(scores) / len(scores), 4)
    made = template.assign(value=100 * template["score"]).reset_index()
    assert list(check(made)["sentence"]) == []
