"""`evaluate`: generates and grades answers of one checkpoint, or of the base model, on one benchmark."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from bll_sweeps.grid.cell import EvaluateJob
from bll_sweeps.grid.settings import Execution
from bll_sweeps.store.records import write_jsonl, write_jsonl_gz
from jobs import Result
from jobs.context import JobContext


def run(job: EvaluateJob, context: JobContext) -> Result:
    from bll_sweeps.evaluation.harness import evaluate

    folder = context.parent_output(job.train.id, "model") if job.train else context.backbone_folder(job.backbone)
    attempt = context.attempt
    with context.tracked() as run:
        evaluation = evaluate(
            _loaded(folder, context.spec.execution),
            job,
            context.spec.execution,
            journal=attempt.journal,
            earlier=[a.journal for a in context.earlier],
            on_progress=context.progress_of("generations"),
        )
        scores = f"scores.{evaluation.summary['grader']}.jsonl"
        write_jsonl(attempt.output(scores), evaluation.rows)
        write_jsonl_gz(attempt.output("generations.jsonl.gz"), evaluation.generations)
        run.summary(evaluation.summary)
    return Result(evaluation.summary, [scores, "generations.jsonl.gz"])


@lru_cache(maxsize=1)
def _loaded(folder: Path, execution: Execution) -> Any:
    """The model is loaded once for all evaluations of a checkpoint, which run one after another in one process."""
    from bll_sweeps.evaluation.harness import load

    return load(folder, execution)
