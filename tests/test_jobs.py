"""The paragraphs of the job kinds, one after another in this process: what their records and the mirror are told."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import make_cell

from bll_sweeps.errors import Interrupted
from bll_sweeps.grid.cell import Job
from bll_sweeps.grid.settings import Execution, Tracker
from bll_sweeps.grid.spec import Spec, spec_text, write_spec
from bll_sweeps.store.claims import acquire
from bll_sweeps.store.layout import Attempt, Layout
from bll_sweeps.store.records import Record, publish, read_json, read_jsonl, read_record, write_record
from bll_sweeps.training.data import load_rows, tokenize
from bll_sweeps.training.model import load_tokenizer
from jobs import RUN
from jobs.attempt import new_attempt, run_attempt
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


# --- stopped and gone on with ---------------------------------------------------------------------------------------


def attempted(layout: Layout, job: Job, execution: Execution, stop: Callable[[], bool] = lambda: False) -> Attempt:
    """One attempt at the job, as a worker makes it; Interrupted or not."""
    files = layout.job(job.id)
    write_spec(files, spec_text(Spec(job, execution, Tracker(name="off", wandb="off"), {})))
    claim = acquire(files)
    assert claim is not None
    attempt = new_attempt(files)
    try:
        run_attempt(layout, job.id, claim, attempt, stop=stop)
    except Interrupted:
        assert not attempt.failure.exists()
    claim.release()
    return attempt


def without(done: dict[str, tuple[Record, Mirror]], kind: str, root: Path) -> tuple[Layout, Job]:
    """A copy of the store in which the job of that kind has not run."""
    record = done[kind][0]
    shutil.copytree(record.job.folder.parent, Layout(root).jobs, symlinks=True)
    shutil.rmtree(Layout(root).job(record.job.id).folder)
    return Layout(root), next(job for job in CELL.jobs() if job.kind == kind)


def after(calls: int) -> Callable[[], bool]:
    """A request to stop that comes with the n-th time one asks."""
    asked = iter(range(calls))
    return lambda: next(asked, None) is None


def outputs(layout: Layout, job: Job) -> dict[str, bytes]:
    record = read_record(layout.job(job.id))
    assert record is not None
    return {name: (record.attempt.folder / name).read_bytes() for name in (*record.outputs, "record.json")}


def interruption(attempt: Attempt) -> tuple[str, int, int]:
    found = read_json(attempt.interrupted)
    assert found.keys() == {"at", "kind_of_progress", "began_at", "reached"}
    return found["kind_of_progress"], found["began_at"], found["reached"]


def test_a_stopped_evaluation_loses_no_batch_and_ends_with_the_same_bytes(
    done: dict[str, tuple[Record, Mirror]], tmp_path: Path
) -> None:
    execution = replace(EXECUTION, eval_batch=16)
    layout, job = without(done, "evaluate", tmp_path / "stopped")
    whole, _ = without(done, "evaluate", tmp_path / "whole")
    attempted(whole, job, execution)
    first = attempted(layout, job, execution, after(3))  # at the start, after one batch, after two, and then
    assert interruption(first) == ("batches", 0, 3)
    second = attempted(layout, job, execution, after(4))
    assert interruption(second) == ("batches", 3, 4)
    assert first.journal.read_bytes().count(b"\n") == 3 and second.journal.read_bytes().count(b"\n") == 1
    last = attempted(layout, job, execution)
    assert last.record.exists() and not last.interrupted.exists()
    assert outputs(layout, job) == outputs(whole, job)


def test_a_stopped_training_is_gone_on_with_and_ends_with_the_same_bytes(
    done: dict[str, tuple[Record, Mirror]], tmp_path: Path
) -> None:
    execution = replace(EXECUTION, keep="all")
    layout, job = without(done, "train", tmp_path)
    assert interruption(attempted(layout, job, execution, after(2))) == ("steps", 0, 3)
    assert interruption(attempted(layout, job, execution, after(0))) == ("steps", 3, 4)
    last = attempted(layout, job, execution)
    record = done["train"][0]
    assert outputs(layout, job) == {name: (record.attempt.folder / name).read_bytes() for name in outputs(layout, job)}
    kept = [path.name for attempt in layout.job(job.id).attempts() for path in sorted(attempt.checkpoints.glob("*"))]
    assert kept == ["step-00000003", "step-00000004"]
    assert "slurm_job" not in read_json(last.provenance)


def test_a_stopped_prior_starts_again(done: dict[str, tuple[Record, Mirror]], tmp_path: Path) -> None:
    execution = replace(EXECUTION, eval_batch=16)
    layout, job = without(done, "prior", tmp_path)
    assert interruption(attempted(layout, job, execution, after(2)))[1:] == (0, 0)
    assert attempted(layout, job, execution).record.exists()


def test_an_attempt_tells_which_run_of_a_slurm_job_it_was(
    done: dict[str, tuple[Record, Mirror]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    layout, job = without(done, "prior", tmp_path)
    provenance = read_json(attempted(layout, job, EXECUTION).provenance)
    assert (provenance["slurm_job"], provenance["slurm_restarts"]) == ("4711", 2)
    assert provenance["peak_memory_mib"] > 0 and "peak_gpu_allocated_mib" not in provenance


def test_checkpoints_are_removed_unless_all_is_kept(done: dict[str, tuple[Record, Mirror]], tmp_path: Path) -> None:
    layout, job = without(done, "train", tmp_path)
    first = attempted(layout, job, EXECUTION, after(2))
    assert first.checkpoints.exists()
    attempted(layout, job, EXECUTION)
    assert not first.checkpoints.exists()
