"""The paragraphs of the job kinds, one after another in this process: what their records and the mirror are told."""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from cells import make_cell

from bll_sweeps.grid.cell import Job
from bll_sweeps.grid.settings import Execution, Tracker
from bll_sweeps.grid.spec import Spec
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import Record, publish, read_jsonl, read_record, write_record
from bll_sweeps.training.data import load_rows, tokenize
from bll_sweeps.training.model import load_tokenizer
from jobs import RUN
from jobs.attempt import new_attempt
from jobs.context import JobContext

# The words to spell have 3 or 4 letters; this length leaves no room for the last token of the longer ones.
CELL = make_cell(**{"domain.max_length": 10})
EXECUTION = Execution(name="test", log_every_steps=4)


class Mirror:
    """What a tracker is told."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.values: dict[str, Any] = {}

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def summary(self, values: dict[str, Any]) -> None:
        self.values |= values

    def close(self, ok: bool) -> None:
        assert ok


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Record, Mirror]]:
    """Kind -> record and mirror of the cell's jobs."""
    layout = Layout(tmp_path_factory.mktemp("jobs"))
    return {job.kind: run(layout, job) for job in CELL.jobs()}


def run(layout: Layout, job: Job) -> tuple[Record, Mirror]:
    files, mirror = layout.job(job.id), Mirror()
    files.folder.mkdir(parents=True)
    spec = Spec(job, EXECUTION, Tracker(name="off", wandb="off"), {})
    context = JobContext(layout, spec, new_attempt(files))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bll_sweeps.tracking.open_tracker", lambda *args, **kwargs: mirror)
        outcome = importlib.import_module(RUN[job.kind]).run(job, context)
    write_record(context.attempt, job.id, outcome.result, outcome.outputs)
    assert publish(files, context.attempt)
    record = read_record(files)
    assert record is not None
    return record, mirror


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_tell_how_many_rows_were_cut(done: dict[str, tuple[Record, Mirror]]) -> None:
    examples = tokenize(load_rows(CELL.domain), CELL.domain, load_tokenizer(done["pretrain"][0].output("model")))
    cut = sum(example.cut for example in examples)
    either = sum(example.cut or example.clean_cut for example in examples)
    assert 0 < cut < either < len(examples)
    assert done["train"][0].result["rows_cut"] == done["train"][1].values["rows_cut"] == cut
    assert done["prior"][0].result["rows_cut"] == either
    assert done["pretrain"][0].result["rows_cut"] == 0


def test_a_prior_names_the_question_of_every_row(done: dict[str, tuple[Record, Mirror]]) -> None:
    rows = read_jsonl(done["prior"][0].output("sequences.jsonl"))
    expected = [hashlib.sha256(row.question.encode()).hexdigest()[:16] for row in load_rows(CELL.domain)]
    assert [row["question"] for row in rows] == expected


def test_the_mirror_gets_the_times_and_the_outputs_do_not(done: dict[str, tuple[Record, Mirror]]) -> None:
    for kind in ("pretrain", "train"):
        record, mirror = done[kind]
        times = lines(record.attempt.folder / "timing.jsonl")
        metrics = lines(record.output("metrics.jsonl"))
        assert mirror.rows == [row | time for row, time in zip(metrics, times, strict=True)]
        assert "tokens_per_s" in mirror.rows[0] and "tokens_per_s" not in metrics[0]
        assert "timing.jsonl" not in record.outputs


def test_an_evaluation_tells_what_its_scores_rest_on(done: dict[str, tuple[Record, Mirror]]) -> None:
    result = done["evaluate"][0].result
    assert result["seen_in_training"] == 0
    for name in CELL.benchmark.decodings:
        assert 0 <= result["metrics"][name]["length_limited"] <= 1
