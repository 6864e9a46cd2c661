"""Grading again: scores by other graders come from the generations that are there, and analysis finds them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import make_cell
from test_jobs import attempted

from analysis.sources.table import load
from bll_sweeps.cli import run
from bll_sweeps.cluster.launch import declare, prepare
from bll_sweeps.cluster.regrade import Unscored, after_launch, regrade, unscored
from bll_sweeps.cluster.status import SweepWatch
from bll_sweeps.errors import ConfigError
from bll_sweeps.evaluation.grading import jaro_winkler
from bll_sweeps.evaluation.scores import apart, metrics, score_rows
from bll_sweeps.grid.cell import Cell
from bll_sweeps.grid.hub import Hub
from bll_sweeps.grid.schema.resolve import ResolvedCell
from bll_sweeps.grid.settings import Execution, Tracker
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import (
    file_sha256,
    read_json,
    read_jsonl,
    read_jsonl_gz,
    read_record,
    withdraw,
    write_json,
)

CELL = make_cell(objective={"name": "base", "family": "base"}, **{"backbone.pretraining.exposure": {"spell": 640}})
EVALUATE = CELL.evaluate.id
EXECUTION, TRACKER = Execution(name="test"), Tracker(name="off", wandb="off")
ID = jaro_winkler.ID


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A store with all jobs of the cell done, whose launch names the grader `exact` alone."""
    layout = Layout(tmp_path_factory.mktemp("regrade") / "runs")
    for job in CELL.jobs():
        attempted(layout, job, EXECUTION)
    launch(layout, "exact")
    return layout


@pytest.fixture
def layout(finished: Layout, tmp_path: Path) -> Layout:
    """A copy that a test may change."""
    return Layout(Path(shutil.copytree(finished.root, tmp_path / "runs", symlinks=True)))


def launch(layout: Layout, *graders: str, cell: Cell = CELL) -> dict[str, Any]:
    """The manifest of a launch of the cell with these graders; nothing is left to run."""
    cell = replace(cell, benchmark=replace(cell.benchmark, graders=graders))
    prepared = prepare([ResolvedCell(cell, EXECUTION, TRACKER, layout.root, Hub(layout.root / "no.lock"))])
    declare("mine", prepared, ["bll", "launch"])
    manifest: dict[str, Any] = SweepWatch(layout, "mine").manifest
    return manifest


def attempt_files(layout: Layout) -> dict[str, bytes]:
    """Everything of the evaluation but later scores."""
    folder = layout.job(EVALUATE).folder
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.parent.name != "scores"}


def test_only_finished_evaluations_lack_scores_and_only_those_that_their_cells_ask_for(layout: Layout) -> None:
    assert unscored(layout, launch(layout, "exact")) == []
    manifest = launch(layout, "jaro_winkler", "exact", "word")
    assert unscored(layout, manifest) == [Unscored(EVALUATE, ("jaro_winkler", "word"))]
    assert unscored(layout, manifest, ["option"]) == [Unscored(EVALUATE, ("option",))]
    withdraw(layout.job(EVALUATE), "for this test")
    assert unscored(layout, manifest) == []


def test_scores_come_from_the_generations_which_are_left_as_they_are(layout: Layout) -> None:
    before, told = attempt_files(layout), []
    work = unscored(layout, launch(layout, "jaro_winkler", "exact"))
    regrade(layout, work, on_job=lambda *what: told.append(what))
    assert attempt_files(layout) == before
    files = layout.job(EVALUATE)
    record = read_record(files)
    assert record is not None
    generations = read_jsonl_gz(record.output("generations.jsonl.gz"))
    rows = read_jsonl(files.scores(ID))
    graded = score_rows(generations, CELL.benchmark.decodings, "jaro_winkler")
    assert (rows, read_jsonl_gz(files.scores_answers(ID))) == apart(graded)
    assert read_json(files.scores_summary(ID)) == {
        "grader": ID,
        "metrics": metrics(graded, generations, CELL.benchmark.decodings),
        "sha256": file_sha256(files.scores(ID)),
        "answers_sha256": file_sha256(files.scores_answers(ID)),
        "generations": file_sha256(record.output("generations.jsonl.gz")),
        "libraries": {},
    }
    assert told == [(EVALUATE, ID, read_json(files.scores_summary(ID))["metrics"])]


def test_a_second_time_there_is_nothing_to_do(layout: Layout) -> None:
    manifest = launch(layout, "jaro_winkler", "exact")
    regrade(layout, unscored(layout, manifest))
    assert unscored(layout, manifest) == []


def test_what_was_stopped_in_between_is_still_to_do(layout: Layout) -> None:
    manifest = launch(layout, "jaro_winkler", "word")
    regrade(layout, unscored(layout, manifest))
    layout.job(EVALUATE).scores_summary(ID).unlink()  # it is written last
    assert unscored(layout, manifest) == [Unscored(EVALUATE, ("jaro_winkler",))]


def test_another_version_of_a_grader_is_another_grader(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = launch(layout, "jaro_winkler")
    regrade(layout, unscored(layout, manifest))
    monkeypatch.setattr(jaro_winkler, "ID", "jaro_winkler-v10")
    assert unscored(layout, manifest) == [Unscored(EVALUATE, ("jaro_winkler",))]
    regrade(layout, unscored(layout, manifest))
    assert [path.stem for path in layout.job(EVALUATE).later_scores()] == [ID, "jaro_winkler-v10"]
    assert set(load(layout.root, "mine").cells["grader"]) == {"jaro_winkler-v10"}  # the highest counts, v2 or v10


def test_analysis_counts_by_the_grader_that_the_launch_names_first(layout: Layout) -> None:
    regrade(layout, unscored(layout, launch(layout, "jaro_winkler", "exact")))
    means = {}
    for number, grader in ((1, "exact-v1"), (2, ID)):
        results = load(layout.root, "mine", launch=number)
        assert results.problems == []
        assert set(results.cells["grader"]) == {grader}
        means[grader] = results.cells.set_index("decoding")["mean"].to_dict()
    summary = read_json(layout.job(EVALUATE).scores_summary(ID))["metrics"]
    assert means[ID] == {name: pytest.approx(summary[name]["mean"]) for name in CELL.benchmark.decodings}
    assert means[ID] != means["exact-v1"]  # half a word earns a part of a point


def test_scores_that_are_not_there_are_named_with_what_makes_them(layout: Layout) -> None:
    launch(layout, "jaro_winkler")
    results = load(layout.root, "mine")
    assert results.problems == [f"{EVALUATE} has no scores by jaro_winkler; `bll regrade` makes them"]
    assert results.cells["mean"].isna().all()


def test_damaged_scores_are_named_and_not_used(layout: Layout) -> None:
    regrade(layout, unscored(layout, launch(layout, "jaro_winkler")))
    scores = layout.job(EVALUATE).scores(ID)
    scores.write_text("\n".join(scores.read_text().splitlines()[:-1]) + "\n")
    results = load(layout.root, "mine")
    assert len(results.problems) == 1 and str(scores) in results.problems[0]
    assert results.cells["mean"].isna().all()


def test_scores_of_other_generations_do_not_count(layout: Layout) -> None:
    """The evaluation ran again, by other code perhaps: scores of what it made before say nothing of what it has now."""
    manifest = launch(layout, "jaro_winkler")
    regrade(layout, unscored(layout, manifest))
    withdraw(layout.job(EVALUATE), "made by other code")
    attempted(layout, CELL.evaluate, EXECUTION)
    assert unscored(layout, manifest) == []  # the same bytes again
    summary = layout.job(EVALUATE).scores_summary(ID)
    write_json(summary, read_json(summary) | {"generations": "0" * 64})
    assert unscored(layout, manifest) == [Unscored(EVALUATE, ("jaro_winkler",))]
    assert load(layout.root, "mine").cells["mean"].isna().all()


def test_damaged_scores_are_made_again(layout: Layout) -> None:
    manifest = launch(layout, "jaro_winkler")
    regrade(layout, unscored(layout, manifest))
    layout.job(EVALUATE).scores(ID).write_text("")
    assert unscored(layout, manifest) == [Unscored(EVALUATE, ("jaro_winkler",))]
    regrade(layout, unscored(layout, manifest))
    assert load(layout.root, "mine").problems == []


def test_the_command_scores_what_the_last_launch_names_or_what_it_is_told(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(layout, "jaro_winkler")
    arguments = ["regrade", "mine", "--root", str(layout.root), "--processes", "1"]
    assert run(arguments) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{EVALUATE}  ") and f"{ID}: greedy 0." in first and "sampled 0." in first
    assert last == "mine: scored 1 evaluation again; nothing was generated"
    assert run(arguments) == 0
    assert capsys.readouterr().out == "mine: scored 0 evaluations again; nothing was generated\n"
    assert run([*arguments, "--grader", "word", "--grader", "exact"]) == 0
    assert [path.stem for path in layout.job(EVALUATE).later_scores()] == [ID, "word-v1"]
    with pytest.raises(ConfigError, match="did you mean 'word'"):
        run([*arguments, "--grader", "wrod"])


def test_a_launch_scores_what_is_finished_or_says_how(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = launch(layout, "jaro_winkler")
    after_launch(layout, manifest, 0)
    assert "`bll regrade mine` makes them, without a GPU" in capsys.readouterr().out
    assert layout.job(EVALUATE).later_scores() == []
    after_launch(layout, manifest, 1)
    assert "1 finished evaluation without scores by a grader" in capsys.readouterr().out
    after_launch(layout, manifest, 1)
    assert capsys.readouterr().out == ""
