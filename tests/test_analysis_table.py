"""The tables: a row for every cell, what is missing and why, what is damaged by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.table import formula, load
from analysis.tables import results_csv, results_text
from bll_sweeps.errors import StoreError, UsageError
from bll_sweeps.grid.cell import Noise, to_plain
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import read_record
from tests.analysis_store import OBJECTIVES, StoreBuilder, cell, lab_cells, lab_store

POINTS = (("lab-a", "spell"), ("lab-c", "rot"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    lab_store(root, objectives=("base", "nll", "p"), points=POINTS, questions=20)
    return root


def test_a_cell_has_a_row_per_decoding_with_score_interval_and_n(store: Path) -> None:
    results = load(store)
    assert len(results.cells) == 3 * 2 * 2
    assert results.problems == []
    row = results.cells.query("objective == 'p' and backbone == 'lab-a' and decoding == 'sampled'").iloc[0]
    assert (row["state"], row["questions"], row["samples"], row["temperature"]) == ("done", 20, 8, 1.0)
    assert row["low"] <= row["mean"] <= row["high"]
    record = read_record(Layout(store).job(row["evaluate"]))
    assert record is not None
    assert row["mean"] == pytest.approx(record.result["metrics"]["sampled"]["mean"])


def test_prior_strength_is_the_records_with_an_interval_around_it(store: Path) -> None:
    results = load(store)
    for _, row in results.cells.drop_duplicates("prior").iterrows():
        record = read_record(Layout(store).job(row["prior"]))
        assert record is not None
        for which in ("clean", "as_trained"):
            assert row[f"prior_{which}"] == pytest.approx(record.result[which]["mean_p"])
            assert row[f"prior_{which}_low"] < row[f"prior_{which}"] < row[f"prior_{which}_high"]
    assert set(results.cells["region"]) == {"MS", "MW"}


def test_exposure_is_read_from_the_spec_and_zero_for_a_task_that_pretraining_does_not_name(store: Path) -> None:
    exposure = load(store).cells.drop_duplicates("point").set_index("point")["exposure"].to_dict()
    assert exposure == {"lab-a · spell": 20000, "lab-c · rot": 0}


def test_questions_sequences_and_curves_are_tidy_frames(store: Path) -> None:
    results = load(store)
    assert len(results.questions) == 12 * 20
    assert list(results.questions.columns) == ["evaluate", "decoding", "question", "score", "samples"]
    assert set(results.curves["train"]) == set(results.cells["train"]) - {""}
    assert {"step", "nll", "mean_p", "kept_fraction", "loss"} <= set(results.curves.columns)
    assert results.sequences.groupby("prior").size().tolist() == [300, 300]
    assert set(results.provenance["kind"]) == {"pretrain", "prior", "train", "evaluate"}


def test_a_failed_training_leaves_missing_rows_that_say_so(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, questions=10)
    cells = lab_cells(objectives=("nll", "p"), points=POINTS[:1], questions=10)
    builder.finish(cells[0][0])
    builder.fail(cells[1][0], "train", "RuntimeError: out of memory")
    builder.launch(cells)
    results = load(tmp_path)
    assert results.missing["decoding"].tolist() == ["sampled", "greedy"]
    why = results.missing["why"].iloc[0]
    assert "failed: RuntimeError: out of memory" in why
    assert "evaluate" not in why
    assert "out of memory" in results_text(results)


def test_a_cell_that_was_never_started_is_missing_too(tmp_path: Path) -> None:
    StoreBuilder(tmp_path).launch(lab_cells(objectives=("nll",), points=POINTS[:1]))
    results = load(tmp_path)
    assert results.cells["state"].tolist() == ["missing"]
    assert "is not done" in results.cells["why"].iloc[0]


@pytest.mark.parametrize("damage", ["truncated scores", "other mean", "torn record", "foreign record", "bad prior"])
def test_a_damaged_record_is_named_and_not_used(tmp_path: Path, damage: str) -> None:
    lab_store(tmp_path, objectives=("nll", "p"), points=POINTS[:1], questions=10)
    one = cell(*POINTS[0], "p", questions=10)
    job = one.prior if damage == "bad prior" else one.evaluate
    attempt = Layout(tmp_path).job(job.id).attempt(1)
    if damage == "truncated scores":
        path = attempt.output("scores.exact-v1.jsonl")
        path.write_text(path.read_text()[:-30])
    elif damage == "torn record":
        attempt.record.write_text(attempt.record.read_text()[:50])
    else:
        data = json.loads(attempt.record.read_text())
        if damage == "foreign record":
            data["id"] = "evaluate-0000000000000000"
        elif damage == "bad prior":
            data["result"]["clean"]["mean_p"] = 0.2
        else:
            data["result"]["metrics"]["sampled"]["mean"] = 0.123
        attempt.record.write_text(json.dumps(data))
    results = load(tmp_path)
    assert any(job.id in problem for problem in results.problems)
    if damage == "bad prior":
        assert results.cells["prior_clean"].isna().all()
        assert (results.cells["region"] == "").all()
    else:
        states = results.cells.drop_duplicates("objective").set_index("objective")["state"].to_dict()
        assert states == {"nll": "done", "p": "missing"}
        assert "damaged" in results.missing["why"].iloc[0]


def test_noise_of_a_base_cell_is_its_own_although_its_evaluation_is_shared(tmp_path: Path) -> None:
    noises = (Noise(kind="uniform", rate=0.2), Noise(kind="imbalanced", rate=0.4), Noise())
    lab_store(tmp_path, objectives=("base", "nll"), points=POINTS[:1], noises=noises, questions=10)
    cells = load(tmp_path).cells
    base = cells[(cells["objective"] == "base") & (cells["decoding"] == "greedy")]
    assert base["evaluate"].nunique() == 1
    assert list(zip(base["noise_kind"], base["noise_rate"], strict=True)) == [
        ("uniform", 0.2),
        ("imbalanced", 0.4),
        ("none", 0.0),
    ]
    assert base["variant"].tolist() == ["noise uniform 0.2", "noise imbalanced 0.4", "noise none 0.0"]


def test_overrides_of_axes_places_and_objectives_make_no_variant(tmp_path: Path) -> None:
    one = cell(*POINTS[0], "power", questions=10)
    overrides = [
        "objective=power",
        "objective.alpha=0.3",
        "seed=0",
        "execution=gpu",
        "hydra/launcher=slurm",
        "+recipe.steps=9",
    ]
    builder = StoreBuilder(tmp_path, questions=10)
    builder.finish(one)
    builder.launch([(one, overrides)])
    row = load(tmp_path).cells.iloc[0]
    assert (row["objective"], row["variant"]) == ("power(alpha=0.3)", "recipe.steps=9")


def test_the_last_launch_is_the_default_and_all_of_them_can_be_asked_for(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, questions=10)
    first, second = lab_cells(objectives=("nll",), points=POINTS, questions=10)
    for one, _ in (first, second):
        builder.finish(one)
    builder.launch([first], number=1)
    builder.launch([second], number=2)
    assert set(load(tmp_path).cells["backbone"]) == {"lab-c"}
    assert set(load(tmp_path, launch=1).cells["backbone"]) == {"lab-a"}
    assert set(load(tmp_path, every_launch=True).cells["backbone"]) == {"lab-a", "lab-c"}


def test_a_cell_that_means_something_else_in_a_later_launch_is_kept_apart(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, questions=10)
    old, new = (cell(*POINTS[0], "nll", noise=Noise(kind="uniform", rate=rate), questions=10) for rate in (0.1, 0.2))
    for number, one in enumerate((old, new), start=1):
        builder.finish(one)
        builder.launch([(one, ["objective=nll"])], number=number)
    cells = load(tmp_path, every_launch=True).cells
    assert cells.drop_duplicates("variant")["variant"].tolist() == ["as of launch 1", ""]


def test_unknown_names_are_usage_errors_with_the_choices(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'lab'"):
        load(store, sweep="lob")
    with pytest.raises(UsageError, match="choose from 1"):
        load(store, launch=7)
    with pytest.raises(UsageError, match="no sweep"):
        load(tmp_path)


def test_a_damaged_manifest_is_an_error(tmp_path: Path) -> None:
    StoreBuilder(tmp_path).launch(lab_cells(objectives=("nll",), points=POINTS[:1]))
    Layout(tmp_path).sweep("lab").manifest(1).write_text('{"cells": [')
    with pytest.raises(StoreError, match="corrupt"):
        load(tmp_path)


def test_the_terminal_table_shows_interval_n_and_prior(store: Path) -> None:
    text = results_text(load(store))
    assert "6 of 6 cells have scores" in text
    line = next(
        line for line in text.splitlines() if line.startswith("lab-a · spell") and " p " in line and "sampled" in line
    )
    assert "20 x 8" in line
    assert line.count("[") == 2


def test_the_csv_has_every_row(store: Path) -> None:
    results = load(store)
    assert len(results_csv(results).splitlines()) == 1 + len(results.cells)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nll", "−log p"),
        ("p", "−p"),
        ("p10", "−p^10"),
        ("logp_above", "−log p · 1[p ≥ 0.2]"),
        ("unlikelihood", "log(1−p)"),
    ],
)
def test_an_objective_is_written_as_its_formula(name: str, text: str) -> None:
    assert formula(to_plain(OBJECTIVES[name])) == text
