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
from cells import make_cell, table

from bll_sweeps.errors import Interrupted, StoreError
from bll_sweeps.grid.axes import to_plain
from bll_sweeps.grid.cell import EvaluateJob, Job
from bll_sweeps.grid.settings import Execution, Tracker
from bll_sweeps.grid.spec import Spec, spec_text, write_spec
from bll_sweeps.store.claims import acquire
from bll_sweeps.store.layout import Attempt, Layout
from bll_sweeps.store.records import Record, publish, read_json, read_jsonl, read_jsonl_gz, read_record, write_record
from bll_sweeps.tracking import Run
from bll_sweeps.training.data import load_rows, tokenize
from bll_sweeps.training.model import load_tokenizer
from jobs import RUN
from jobs.attempt import new_attempt, run_attempt
from jobs.context import JobContext

# The words to spell have 3 or 4 letters; this length leaves no room for the last token of the longer ones.
CELL = make_cell(**{"domain.max_length": 10})
EXECUTION = Execution(name="test", log_every_steps=4)


class Mirror(Run):
    """What a tracker is told."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Record, Mirror]]:
    """Kind -> record and mirror of the cell's jobs."""
    layout = Layout(tmp_path_factory.mktemp("jobs"))
    return {job.kind: run(layout, job) for job in CELL.jobs()}


def run(layout: Layout, job: Job) -> tuple[Record, Mirror]:
    files, mirror = layout.job(job.id), Mirror()
    files.folder.mkdir(parents=True)
    spec = Spec(job, EXECUTION, Tracker(name="off", wandb="off"), {})
    context = JobContext(layout, spec, new_attempt(files), mirror=mirror)
    outcome = importlib.import_module(RUN[job.kind]).run(job, context)
    write_record(context.attempt, job.id, outcome.result, outcome.outputs)
    assert publish(files, context.attempt)
    record = read_record(files)
    assert record is not None
    return record, mirror


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_tell_how_many_rows_were_cut(done: dict[str, tuple[Record, Mirror]]) -> None:
    data = tokenize(load_rows(CELL.domain), CELL.domain, load_tokenizer(done["pretrain"][0].output("model")))
    examples = data.examples
    cut = sum(example.cut for example in examples)
    either = sum(example.cut or example.clean_cut for example in examples)
    assert 0 < cut < either < len(examples)
    assert done["train"][0].result["rows_cut"] == cut
    assert done["prior"][0].result["rows_cut"] == either
    assert done["pretrain"][0].result["rows_cut"] == 0
    for kind in ("prior", "train"):
        assert done[kind][0].result["rows_dropped"] == 0
        assert done[kind][0].result["sequence_tokens"] == data.tokens


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
    record = done["evaluate"][0]
    assert set(record.outputs) == {"scores.exact-v1.jsonl", "answers.exact-v1.jsonl.gz", "generations.jsonl.gz"}


def test_an_evaluation_keeps_what_was_taken_for_each_answer_apart_from_the_scores(
    done: dict[str, tuple[Record, Mirror]],
) -> None:
    record = done["evaluate"][0]
    scores = read_jsonl(record.output("scores.exact-v1.jsonl"))
    answers = read_jsonl_gz(record.output("answers.exact-v1.jsonl.gz"))
    generations = read_jsonl_gz(record.output("generations.jsonl.gz"))
    assert len(scores) == len(answers) == len(generations) > 0
    for of_scores, of_answers, texts in zip(scores, answers, generations, strict=True):
        assert of_scores.keys() == {"question", *CELL.benchmark.decodings}
        assert of_answers["question"] == of_scores["question"] == texts["question"]
        for name in CELL.benchmark.decodings:
            assert of_answers["answers"][name] == [text.strip() for text in texts[name]]
            assert len(of_answers["kinds"][name]) == len(of_scores[name])


def test_an_evaluation_by_several_graders_leaves_the_scores_of_each_and_where_they_differ(
    done: dict[str, tuple[Record, Mirror]], tmp_path: Path
) -> None:
    layout, job = without(done, "evaluate", tmp_path)
    assert isinstance(job, EvaluateJob)
    both = replace(job, benchmark=replace(job.benchmark, graders=("word", "exact")))
    assert both.id == job.id
    record, _ = run(layout, both)
    files = [(f"scores.{name}.jsonl", f"answers.{name}.jsonl.gz") for name in ("word-v1", "exact-v1")]
    assert set(record.outputs) == {*sum(files, ()), "disagreements.jsonl", "generations.jsonl.gz"}
    assert record.result["grader"] == "word-v1" and set(record.result["graders"]) == {"word-v1", "exact-v1"}
    assert record.result["disagreements"] == len(read_jsonl(record.output("disagreements.jsonl")))
    before = done["evaluate"][0]
    assert read_jsonl(record.output("scores.exact-v1.jsonl")) == read_jsonl(before.output("scores.exact-v1.jsonl"))


def test_jobs_of_one_domain_and_tokenizer_share_a_prepared_training_set(
    done: dict[str, tuple[Record, Mirror]],
) -> None:
    (folder,) = (Layout(done["train"][0].job.folder.parents[1]).root / "prepared").iterdir()
    assert folder.is_dir()


# --- thresholds at a quantile of the prior --------------------------------------------------------------------------


def test_a_training_with_a_threshold_at_a_quantile_takes_it_from_the_prior(
    done: dict[str, tuple[Record, Mirror]], tmp_path: Path
) -> None:
    layout, _ = without(done, "train", tmp_path)
    above = {"name": "above", "family": "nll", "keep": "above", "threshold_quantile": 0.25}
    cell = make_cell(**{"domain.max_length": 10, "objective": above})
    assert cell.train
    record, _ = run(layout, cell.train)
    threshold = done["prior"][0].result["as_trained"]["quantiles"]["0.25"]
    assert 0 < threshold < 1 and record.result["threshold"] == threshold
    fixed = {"name": "above", "family": "nll", "keep": "above", "threshold": threshold}
    at_it = make_cell(**{"domain.max_length": 10, "objective": fixed}).train
    assert at_it
    expected, _ = run(layout, at_it)
    assert record.output("metrics.jsonl").read_bytes() == expected.output("metrics.jsonl").read_bytes()
    assert record.output("model") != expected.output("model")
    kept = [row["kept_fraction"] for row in lines(record.output("metrics.jsonl"))]
    assert 0.6 < kept[0] < 1  # about a quarter of the tokens lie below
    assert "threshold" not in done["train"][0].result


def test_a_training_whose_prior_is_not_done_says_so(done: dict[str, tuple[Record, Mirror]], tmp_path: Path) -> None:
    layout, _ = without(done, "prior", tmp_path)
    cell = make_cell(**{"objective.keep": "below", "objective.threshold_quantile": 0.5, "domain.max_length": 10})
    assert cell.train
    with pytest.raises(StoreError, match=f"the parent {cell.prior.id} is not done"):
        run(layout, cell.train)


# --- files and models that no one made here -------------------------------------------------------------------------


def test_a_random_backbone_goes_through_all_kinds_of_jobs_on_files(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"problem": "?" * (i + 1) + "x" * 60 * (i == 5), "solution": {"answer": i}} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = to_plain(table(path, columns={"question": "problem", "answer": "solution.answer"}, size=12))
    domain = {"domain.source": "table", "domain.data": data, "domain.lab": None, "domain.rows": 0}
    cell = make_cell(
        backbone={"name": "tiny", "source": "random", "template": "llama", "architecture": "llama"},
        **domain | {"domain.max_length": 40, "domain.max_dropped_fraction": 0.1, "domain.stop": ["<|eot_id|>"]},
        **{"benchmark.source": "table", "benchmark.data": data, "recipe.batch_size": 4, "recipe.steps": 3},
    )
    layout = Layout(tmp_path / "runs")
    records = {job.kind: run(layout, job)[0] for job in cell.jobs()}
    assert list(records) == ["pretrain", "prior", "train", "evaluate"]
    assert records["pretrain"].result["parameters"] > 1000
    for kind in ("prior", "train"):
        assert records[kind].result["rows_dropped"] == 1
    assert [row["row"] for row in read_jsonl(records["prior"].output("sequences.jsonl"))] == [*range(5), *range(6, 12)]
    assert records["evaluate"].result["seen_in_training"] == 12
    assert records["evaluate"].result["metrics"]["greedy"]["questions"] == 12


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
