"""`evaluate`: generates and grades answers of one checkpoint, or of the base model, on one benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bll_sweeps.grid.cell import EvaluateJob
from bll_sweeps.grid.settings import Execution
from bll_sweeps.store.records import GENERATIONS, write_jsonl, write_jsonl_gz
from jobs import Result
from jobs.context import JobContext


def run(job: EvaluateJob, context: JobContext) -> Result:
    from bll_sweeps.evaluation.harness import evaluate
    from bll_sweeps.evaluation.scores import apart

    folder = context.parent_output(job.train.id, "model") if job.train else context.backbone_folder(job.backbone)
    attempt = context.attempt
    evaluation = evaluate(
        _engine(folder, context.spec.execution, job.backbone.dtype),
        job,
        context.spec.execution,
        journal=attempt.journal,
        earlier=[a.journal for a in context.earlier],
        on_progress=context.progress_of("generations"),
    )
    outputs = []
    for grader_id, rows in evaluation.rows.items():
        scores, answers = apart(rows)
        outputs += [f"scores.{grader_id}.jsonl", f"answers.{grader_id}.jsonl.gz"]
        write_jsonl(attempt.output(outputs[-2]), scores)
        write_jsonl_gz(attempt.output(outputs[-1]), answers)
    if len(evaluation.rows) > 1:
        outputs.append("disagreements.jsonl")
        write_jsonl(attempt.output(outputs[-1]), evaluation.disagreements)
    write_jsonl_gz(attempt.output(GENERATIONS), evaluation.generations)
    return Result(evaluation.summary, [*outputs, GENERATIONS])


_loaded: dict[tuple[Path, Execution, str], Any] = {}  # one at most


def _engine(folder: Path, execution: Execution, dtype: str) -> Any:
    """The model is loaded once for all evaluations of a checkpoint, which run one after another in one process."""
    key = (folder, execution, dtype)
    if key not in _loaded:
        while _loaded:  # the one before makes room first
            _loaded.popitem()[1].close()
        _loaded[key] = _load(*key)
    return _loaded[key]


def _load(folder: Path, execution: Execution, dtype: str) -> Any:
    if execution.engine == "vllm":
        from bll_sweeps.evaluation.vllm_engine import VLLMEngine

        return VLLMEngine.load(folder, execution, dtype)
    from bll_sweeps.evaluation.engine import HFEngine

    return HFEngine.load(folder, execution, dtype)
