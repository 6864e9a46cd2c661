"""The tables: a row for every cell, what is missing and why, what is damaged by name."""

from __future__ import annotations

import html
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.report.page import write_report
from analysis.sources.table import formula, load
from analysis.statistics.continuum import gains
from analysis.tables.results import results_csv, results_text
from bll_sweeps.errors import StoreError, UsageError
from bll_sweeps.grid.axes import Domain, Noise, Objective, Table, to_plain
from bll_sweeps.store.layout import JobFiles, Layout
from bll_sweeps.store.records import read_record, write_record
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
    assert set(results.cells["region_clean"]) == {"MS", "MW"}


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
        assert (results.cells["region_clean"] == "").all()
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
    assert base["variant"].tolist() == ["noise uniform 0.2", "noise imbalanced 0.4", "noise none 0"]


def test_overrides_of_axes_places_and_objectives_make_no_variant(tmp_path: Path) -> None:
    one = cell(*POINTS[0], "p0.5", questions=10)
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
    assert (row["objective"], row["variant"]) == ("p0.5(alpha=0.3)", "recipe.steps=9")


def test_an_override_that_the_objectives_name_tells_is_not_told_again(tmp_path: Path) -> None:
    one = cell(*POINTS[0], Objective(name="power-0.3", family="power", alpha=0.3), questions=10)
    kept = cell(*POINTS[0], Objective(name="power-0.3", family="power", alpha=0.3, keep="above", threshold=0.3))
    builder = StoreBuilder(tmp_path)
    overrides = ["objective=power", "objective.alpha=0.30"]
    builder.launch([(one, overrides), (kept, [*overrides, "objective.keep=above", "objective.threshold=0.3"])])
    names = load(tmp_path).cells["objective"].unique().tolist()
    assert names == ["power-0.3", "power-0.3(keep=above, threshold=0.3)"]


def test_one_number_in_two_notations_is_one_variant(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path)
    one = cell(*POINTS[0], "nll", questions=10)
    builder.finish(one)
    builder.launch([(one, ["recipe.learning_rate=1e-4"]), (one, ["recipe.learning_rate=0.0001"])])
    assert load(tmp_path).cells["variant"].tolist() == ["recipe.learning_rate=0.0001"] * 2  # two decodings


def test_repeated_questions_are_one_unit_of_the_prior_and_both_counts_are_told(tmp_path: Path) -> None:
    rows = {}
    for repeats in (0, 1, 30):
        root = tmp_path / str(repeats)
        builder = StoreBuilder(root, questions=10, repeats=repeats)
        one = cell("lab-b", "add", "nll", questions=10)
        builder.finish(one)
        builder.launch([(one, [])])
        rows[repeats] = load(root).cells.iloc[0]
    counts = {repeats: (row["prior_questions"], row["prior_sequences"]) for repeats, row in rows.items()}
    assert counts == {0: (0, 300), 1: (300, 300), 30: (10, 300)}
    assert rows[0]["prior_clean"] == pytest.approx(rows[30]["prior_clean"])
    assert rows[0]["prior_clean_low"] == pytest.approx(rows[1]["prior_clean_low"])
    assert "10, 300" in results_text(load(tmp_path / "30"))


def test_two_names_of_one_objective_keep_their_rows(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, questions=10)
    cells = [
        cell(*POINTS[0], "p0.5", questions=10),
        cell(*POINTS[0], Objective(name="power-0.5", family="power", alpha=0.5), questions=10),
    ]
    for one in cells:
        builder.finish(one)
    builder.launch([(one, []) for one in cells])
    results = load(tmp_path)
    assert results.cells["evaluate"].nunique() == 1
    assert results.done["objective"].tolist() == ["p0.5", "p0.5", "power-0.5", "power-0.5"]
    assert len(results.questions) == 2 * 10
    assert results.cells["identity"].nunique() == 1


def test_several_graders_are_a_problem_and_their_scores_are_not_paired(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, questions=10)
    nll, p, p10 = (cell(*POINTS[0], name, questions=10) for name in ("nll", "p", "p10"))
    for one, grader in ((nll, "exact-v2"), (p, "exact-v1"), (p10, "exact-v2")):
        builder.grader = grader
        builder.finish(one)
    builder.launch([(one, []) for one in (nll, p, p10)])
    results = load(tmp_path)
    assert len(results.problems) == 1
    assert "exact-v1 (1 evaluations), exact-v2 (2 evaluations)" in results.problems[0]
    assert gains(results).set_index(["objective", "decoding"])["n"].to_dict() == {
        ("p", "sampled"): 0,
        ("p", "greedy"): 0,
        ("p10", "sampled"): 10,
        ("p10", "greedy"): 10,
    }


def test_several_engines_are_a_problem_and_their_answers_are_not_paired(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, questions=10)
    nll, p, p10, p_above = (cell(*POINTS[0], name, questions=10) for name in ("nll", "p", "p10", "p_above"))
    for one, engine in ((nll, "hf"), (p, "vllm 0.11.0"), (p10, None), (p_above, "vllm 0.12.0")):
        builder.engine = engine  # records from before there was a choice name none: hf
        builder.finish(one)
    builder.launch([(one, []) for one in (nll, p, p10, p_above)])
    results = load(tmp_path)
    engines = results.cells.drop_duplicates("objective").set_index("objective")["engine"].to_dict()
    assert engines == {"nll": "hf", "p": "vllm 0.11.0", "p10": "hf", "p_above": "vllm 0.12.0"}
    (problem,) = results.problems
    assert "hf (2 evaluations), vllm 0.11.0 (1 evaluations), vllm 0.12.0 (1 evaluations)" in problem
    assert problem in results_text(results)
    counts = gains(results).query("decoding == 'greedy'").set_index("objective")["n"].to_dict()
    assert counts == {"p": 0, "p10": 10, "p_above": 0}


def test_one_engine_is_no_problem_and_stands_in_the_csv(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, questions=10, engine="vllm 0.11.0")
    cells = lab_cells(objectives=("nll", "p"), points=POINTS[:1], questions=10)
    builder.finish(cells[0][0])
    builder.launch(cells)
    results = load(tmp_path)
    assert results.problems == []
    table = pd.read_csv(io.StringIO(results_csv(results)), keep_default_na=False)
    assert table.groupby("state")["engine"].unique().map(list).to_dict() == {"done": ["vllm 0.11.0"], "missing": [""]}


def later(tmp_path: Path) -> tuple[StoreBuilder, JobFiles]:
    """An evaluation by exact-v1 alone, all wrong; `bll regrade` has it by exact-v2 and other-v1, all right."""
    builder, one = StoreBuilder(tmp_path), cell(*POINTS[0], "nll")
    for job in one.jobs():
        builder.spec(job)
    builder.score(one.evaluate, [{"question": "q", "sampled": [0], "greedy": [0]}])
    for grader in ("exact-v2", "other-v1"):
        builder.score_later(one.evaluate, grader, [{"question": "q", "sampled": [1], "greedy": [1]}])
    builder.launch([(one, [])])
    return builder, Layout(tmp_path).job(one.evaluate.id)


def graded_by(root: Path) -> tuple[list[str], list[str]]:
    """(whose scores count, whose stand beside them)."""
    results = load(root)
    others = results.other_graders
    return results.cells["grader"].unique().tolist(), others["grader"].unique().tolist() if len(others) else []


def test_later_scores_from_these_generations_count(tmp_path: Path) -> None:
    later(tmp_path)
    assert graded_by(tmp_path) == (["exact-v2"], ["other-v1"])
    assert load(tmp_path).cells["mean"].tolist() == [1.0, 1.0]
    assert load(tmp_path).problems == []


@pytest.mark.parametrize("told", ["0" * 64, None])
def test_later_scores_from_other_generations_are_not_used(tmp_path: Path, told: str | None) -> None:
    _, files = later(tmp_path)
    for path in files.later_scores():
        summary = json.loads(path.read_text())
        summary.pop("generations")
        path.write_text(json.dumps(summary if told is None else {**summary, "generations": told}))
    assert graded_by(tmp_path) == (["exact-v1"], [])
    assert load(tmp_path).cells["mean"].tolist() == [0.0, 0.0]
    assert load(tmp_path).problems == []


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_later_scores_that_differ_from_their_digest_are_named_and_not_used(tmp_path: Path, damage: str) -> None:
    _, files = later(tmp_path)
    path = files.scores("exact-v2")
    if damage == "gone":
        path.unlink()
    else:
        path.write_text(path.read_text().replace('"q"', '"another"'))  # the same mean over as many questions
    results = load(tmp_path)
    (problem,) = results.problems
    assert str(path) in problem
    assert "`bll regrade`" in problem
    assert results.cells["state"].tolist() == ["missing", "missing"]


def test_a_torn_summary_of_later_scores_leaves_the_other_graders(tmp_path: Path) -> None:
    _, files = later(tmp_path)
    path = files.scores_summary("exact-v2")
    path.write_text(path.read_text()[:30])
    (problem,) = load(tmp_path).problems
    assert problem == f"{path} is corrupt or truncated; `bll regrade` makes it again"
    assert graded_by(tmp_path) == (["exact-v1"], ["other-v1"])


def test_a_score_outside_the_unit_interval_names_a_way_out_that_exists(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path)
    one = cell(*POINTS[0], "nll")
    for job in one.jobs():
        builder.spec(job)
    builder.score(one.evaluate, [{"question": "q", "sampled": [2], "greedy": [1]}])
    builder.launch([(one, [])])
    (problem,) = load(tmp_path).problems
    assert "--rerun-stale" in problem
    assert "regrade" not in problem


def test_exposure_to_a_domain_that_is_no_lab_task_is_not_known(tmp_path: Path) -> None:
    one = cell(*POINTS[1], "nll")
    data = Table(path="x.jsonl", digest="0")
    domain = Domain(name="mine", source="table", data=data, prompt="{question}\n")
    benchmark = replace(one.benchmark, name="mine", domain="mine", source="table", data=data)
    mine = replace(one, domain=domain, benchmark=benchmark)
    builder = StoreBuilder(tmp_path)
    for job in mine.jobs():
        builder.spec(job)
    builder.launch([(mine, [])])
    assert load(tmp_path).cells["exposure"].isna().all()


def test_cut_rows_and_generations_at_the_limit_are_warned_of(tmp_path: Path) -> None:
    told = []
    for name, cut, limited in (("unknown", None, None), ("none", 0, 0.0), ("some", 12, 0.125)):
        builder = StoreBuilder(tmp_path / name, questions=10, rows_cut=cut, length_limited=limited)
        one = cell(*POINTS[0], "nll", questions=10)
        builder.finish(one)
        builder.launch([(one, [])])
        told.append(load(tmp_path / name).warnings)
    assert told == [
        [],
        [],
        [
            "training rows were cut to max_length: lab-a · spell (12)",
            "generations ran into max_new_tokens: lab-a · spell sampled (up to 12 %)",
        ],
    ]
    assert "warning: training rows were cut" in results_text(load(tmp_path / "some"))


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


@pytest.mark.parametrize(
    ("family", "keep", "text"),
    [
        ("nll", "above", "−log p · 1[p ≥ Q0.1]"),
        ("power", "below", "−p · 1[p ≤ Q0.1]"),
        ("nll", "all", "−log p"),
    ],
)
def test_a_threshold_that_is_a_quantile_is_written_as_one(family: Any, keep: Any, text: str) -> None:
    objective = Objective(name="mine", family=family, keep=keep, threshold=0.2, threshold_quantile=0.1)
    assert formula(to_plain(objective)) == text


def test_the_tables_write_a_quantile_that_the_store_tells(tmp_path: Path) -> None:
    objective = Objective(name="logp_top", family="nll", keep="above", threshold=0.2, threshold_quantile=0.9)
    one = cell(*POINTS[0], objective, questions=10)
    builder = StoreBuilder(tmp_path, questions=10)
    builder.finish(one)
    builder.launch([(one, [])])
    assert load(tmp_path).formulas == {"logp_top": "−log p · 1[p ≥ Q0.9]"}


# --- stores that are not as one would wish: load, and the command with its page and figures ---------------------------


def command(root: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """(the page of `python -m analysis`, what it says on stderr)."""
    assert main(["--source", str(root), "--out", str(out)]) == 0
    assert (out / "figures").is_dir()
    return html.unescape((out / "report.html").read_text()), capsys.readouterr().err


def test_an_empty_store_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, told = command(tmp_path, tmp_path / "out", capsys)
    (line,) = told.splitlines()
    assert "holds no sweep yet" in line
    assert "This run root holds no sweep yet, so there is nothing to show." in page


def test_a_launch_without_cells_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    StoreBuilder(tmp_path).launch([])
    results = load(tmp_path)
    assert len(results.cells) == len(results.priors) == len(results.scores) == 0
    (problem,) = results.problems
    assert "names no cell" in problem
    page, told = command(tmp_path, tmp_path / "out", capsys)
    assert problem in page
    assert problem in told


@pytest.mark.slow
def test_a_single_cell_is_shown_with_its_n(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab_store(tmp_path, objectives=("nll",), points=POINTS[:1], questions=5)
    results = load(tmp_path)
    assert results.cells["state"].tolist() == ["done", "done"]
    assert results.problems == []
    assert gains(results).empty
    page, _ = command(tmp_path, tmp_path / "out", capsys)
    assert results.cells["evaluate"].iloc[0] in page


@pytest.mark.slow
def test_an_objective_without_any_result_is_named_as_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    builder, cells = StoreBuilder(tmp_path, questions=5), lab_cells(("nll", "p"), POINTS, questions=5)
    for one, _ in cells:
        if one.objective.name == "nll":
            builder.finish(one)
    builder.launch(cells)
    results = load(tmp_path)
    assert set(results.missing["objective"]) == {"p"}
    assert results.missing["why"].str.contains("is not done").all()
    page, _ = command(tmp_path, tmp_path / "out", capsys)
    for job in results.missing["train"]:
        assert f"{job} is not done" in page


@pytest.mark.slow
@pytest.mark.parametrize("score", [math.nan, None])
def test_scores_that_are_no_numbers_are_named_and_not_used(
    tmp_path: Path, score: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    lab_store(tmp_path, objectives=("nll", "p"), points=POINTS[:1], questions=5)
    job = cell(*POINTS[0], "p", questions=5).evaluate
    attempt = Layout(tmp_path).job(job.id).attempt(1)
    rows = [json.loads(line) for line in attempt.output("scores.exact-v1.jsonl").read_text().splitlines()]
    rows[0]["sampled"][0] = score
    attempt.output("scores.exact-v1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = read_record(Layout(tmp_path).job(job.id))
    assert told is not None
    write_record(attempt, job.id, told.result, sorted(told.outputs))  # a digest that fits: the grader wrote it so
    results = load(tmp_path)
    (problem,) = results.problems
    assert "NaN, in 1 of 5 questions" in problem
    assert set(results.missing["evaluate"]) == {job.id}
    assert f"{job.id} has damaged scores" in results.missing["why"].iloc[0]
    if score is not None:
        page, told_too = command(tmp_path, tmp_path / "out", capsys)
        assert problem in page
        assert problem in told_too


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["record", "spec"])
def test_what_a_newer_version_wrote_is_named_and_not_used(
    tmp_path: Path, which: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lab_store(tmp_path, objectives=("nll", "p"), points=POINTS[:1], questions=5)
    files = Layout(tmp_path).job(cell(*POINTS[0], "p", questions=5).evaluate.id)
    path = files.spec if which == "spec" else files.attempt(1).record
    rewrite(path, lambda data: data.update(version=2))
    results = load(tmp_path)
    (problem,) = results.problems
    assert f"{path} has version=2, this bll-sweeps reads version 1 only" in problem
    states = results.cells.groupby("objective")["state"].first().to_dict()
    assert states == {"nll": "done", "p": "done" if which == "spec" else "missing"}
    if which == "record":
        page, _ = command(tmp_path, tmp_path / "out", capsys)
        assert problem in page


def test_a_manifest_of_another_version_is_an_error(tmp_path: Path) -> None:
    lab_store(tmp_path, objectives=("nll",), points=POINTS[:1], questions=5)
    path = Layout(tmp_path).sweep("lab").manifest(1)
    rewrite(path, lambda data: data.update(version=2))
    with pytest.raises(StoreError, match="version=2"):
        load(tmp_path)


def test_a_manifest_whose_cells_lack_something_is_an_error_that_names_it(tmp_path: Path) -> None:
    lab_store(tmp_path, objectives=("nll",), points=POINTS[:1], questions=5)
    rewrite(Layout(tmp_path).sweep("lab").manifest(1), lambda data: data["cells"][0].pop("primary"))
    with pytest.raises(StoreError, match="launch 1 of sweep lab lacks 'primary'"):
        load(tmp_path)


OLDER: dict[str, Callable[[dict[str, Any]], object]] = {
    "evaluate": lambda data: data["result"].pop("metrics"),
    "prior": lambda data: data["result"].pop("clean"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OLDER)
def test_a_record_that_lacks_what_is_asked_of_it_is_named(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lab_store(tmp_path, objectives=("nll",), points=POINTS[:1], questions=5)
    job = getattr(cell(*POINTS[0], "nll", questions=5), kind)
    rewrite(Layout(tmp_path).job(job.id).attempt(1).record, OLDER[kind])
    results = load(tmp_path)
    assert any(
        job.id in problem and "another version of bll-sweeps wrote it" in problem for problem in results.problems
    )
    if kind == "prior":
        page, _ = command(tmp_path, tmp_path / "out", capsys)
        assert all(problem in page for problem in results.problems)


@pytest.mark.parametrize("lacking", ["domain", "backbone", "benchmark", "objective"])
def test_specs_that_lack_an_axis_are_named_and_their_scores_still_count(tmp_path: Path, lacking: str) -> None:
    lab_store(tmp_path, objectives=("nll",), points=POINTS[:1], questions=5)
    for path in (tmp_path / "jobs").glob("*/spec.json"):
        rewrite(path, lambda data: data["job"].pop(lacking, None))
    results = load(tmp_path)
    assert results.cells["state"].eq("done").any() or lacking == "benchmark"
    assert any(f"lacks '{lacking}'" in problem for problem in results.problems)


@pytest.mark.slow
@pytest.mark.parametrize("lacking", ["domain", "backbone", "recipe"])
def test_the_page_of_such_a_store_is_written(tmp_path: Path, lacking: str) -> None:
    lab_store(tmp_path / "runs", objectives=("base", "nll", "p"), points=POINTS[:1], questions=5)
    for path in (tmp_path / "runs" / "jobs").glob("*/spec.json"):
        rewrite(path, lambda data: data["job"].pop(lacking, None))
    results = load(tmp_path / "runs")
    report = write_report(results, tmp_path / "out")
    assert all(problem in html.unescape(report.page.read_text()) for problem in results.problems)


@pytest.mark.parametrize("workers", [1, 10**9])
def test_a_record_without_a_mean_is_named_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Also where other processes read many files at once."""
    monkeypatch.setattr("analysis.sources.table._MANY", workers)
    lab_store(tmp_path, objectives=("nll", "p"), points=POINTS[:1], questions=5)
    job = cell(*POINTS[0], "p", questions=5).evaluate
    record = Layout(tmp_path).job(job.id).attempt(1).record
    rewrite(record, lambda data: data["result"]["metrics"]["sampled"].pop("mean"))
    results = load(tmp_path)
    assert [job.id in problem for problem in results.problems] == [True]
    assert results.cells.loc[results.cells["objective"] == "nll", "state"].eq("done").all()


@pytest.mark.parametrize("outputs", [["scores.exact-v1.jsonl"], {"scores.exact-v1.jsonl": {"sha256": "0"}}, None])
def test_a_record_whose_outputs_are_none_is_named(tmp_path: Path, outputs: object) -> None:
    lab_store(tmp_path, objectives=("nll",), points=POINTS[:1], questions=5)
    job = cell(*POINTS[0], "nll", questions=5).evaluate
    rewrite(Layout(tmp_path).job(job.id).attempt(1).record, lambda data: data.update(outputs=outputs))
    assert any(job.id in problem for problem in load(tmp_path).problems)


def test_an_objective_with_fields_of_a_later_version_is_named(tmp_path: Path) -> None:
    lab_store(tmp_path, objectives=("nll",), points=POINTS[:1], questions=5)
    one = cell(*POINTS[0], "nll", questions=5)
    assert one.train is not None
    rewrite(Layout(tmp_path).job(one.train.id).spec, lambda data: data["job"]["objective"].update(curvature=2))
    results = load(tmp_path)
    assert any("objective of" in problem and "curvature" in problem for problem in results.problems)
    assert (results.cells["state"] == "done").all()


# --- priors -----------------------------------------------------------------------------------------------------------


def test_priors_have_a_row_per_place_and_kind_of_answers(store: Path) -> None:
    priors = load(store).priors
    assert list(zip(priors["backbone"], priors["domain"], priors["answers"], strict=True)) == [
        (backbone, task, answers) for backbone, task in POINTS for answers in ("clean", "as_trained")
    ]
    for row in priors.to_dict("records"):
        record = read_record(Layout(store).job(row["prior"]))
        assert record is not None
        assert row["mean"] == pytest.approx(record.result[row["answers"]]["mean_p"])
        assert row["low"] < row["mean"] < row["high"]
        assert row["tokens"] == record.result[row["answers"]]["tokens"]
        assert (row["sequences"], row["nll"], row["why"]) == (300, 1.0, "")
    assert set(priors["region"]) == {"MS", "MW"}


def test_priors_tell_quantiles_shares_and_histogram_where_the_record_does(tmp_path: Path) -> None:
    lab_store(tmp_path, objectives=("nll",), points=POINTS, questions=5)
    more = {"quantiles": {"0.1": 0.2, "0.5": 0.7}, "share_above_0.55": 0.6, "histogram": [3, 1]}
    one = cell(*POINTS[0], "nll", questions=5).prior
    rewrite(Layout(tmp_path).job(one.id).attempt(1).record, lambda data: data["result"]["clean"].update(more))
    for _ in ("read", "from the cache"):
        rows = load(tmp_path).priors.set_index(["backbone", "answers"])
        told, older = rows.loc[("lab-a", "clean")], rows.loc[("lab-c", "clean")]
        assert (told["quantile_0.1"], told["quantile_0.5"], told["share_above_0.55"]) == (0.2, 0.7, 0.6)
        assert (json.loads(told["histogram"]), older["histogram"]) == ([3, 1], "")
        assert math.isnan(older["quantile_0.5"]) and math.isnan(older["share_above_0.55"])


def test_a_prior_that_is_missing_or_damaged_says_why(tmp_path: Path) -> None:
    lab_store(tmp_path, objectives=("nll",), points=POINTS, questions=5)
    first, second = (cell(*point, "nll", questions=5).prior for point in POINTS)
    Layout(tmp_path).job(first.id).done.unlink()
    rewrite(Layout(tmp_path).job(second.id).attempt(1).record, lambda d: d["result"]["clean"].update(mean_p=0.9))
    priors = load(tmp_path).priors
    assert priors["mean"].isna().all()
    assert priors["tokens"].eq(0).all()
    assert (
        priors["why"].tolist()
        == [f"{first.id} is not done (it was started)"] * 2 + [f"{second.id} has damaged outputs"] * 2
    )


# --- what a user gets wrong -------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab_store(tmp_path / "runs", objectives=("nll", "p"), points=(("lab-a", "rot"),), questions=5)
    (tmp_path / "file").write_text("")
    for source in (str(tmp_path / "runs"), "paper"):
        assert main(["--source", source, "--out", str(tmp_path / "file")]) == 2
        assert f"error: --out={tmp_path / 'file'} cannot be made a folder" in capsys.readouterr().err


def test_a_run_root_may_be_called_as_the_source_of_the_papers_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab_store(tmp_path / "paper", objectives=("nll", "p"), points=(("lab-a", "rot"),), questions=5)
    monkeypatch.chdir(tmp_path)
    assert main(["--source", "./paper", "--sweep", "lab", "--claims"]) == 0
    assert "claim (strong end)" in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--prior", "as_trained"], ["--no-overlay"], ["--every-launch"]])
def test_options_of_sweeps_do_not_go_with_the_papers_numbers(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--source", "paper", "--out", str(tmp_path / "out"), *option]) == 2
    assert "is of sweeps; --source paper has none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_launch_and_every_launch_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--launch", "1", "--every-launch", "--claims"])
    assert "not allowed with argument --launch" in capsys.readouterr().err


def test_a_manifest_cannot_name_a_job_outside_the_store(tmp_path: Path) -> None:
    lab_store(tmp_path, objectives=("nll", "p"), points=(("lab-a", "rot"),), questions=5)
    path = Layout(tmp_path).sweep("lab").manifest(1)
    manifest = json.loads(path.read_text())
    manifest["cells"][0]["jobs"]["train"] = "../../../outside"
    path.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"launch\.1\.json names '../../../outside', which is no id of a job"):
        load(tmp_path)
    with pytest.raises(StoreError, match="is no id of a job"):
        Layout(tmp_path).job("../outside")
