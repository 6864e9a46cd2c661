"""The questions of a benchmark, as prompts of its domain, and how many were trained on. No torch, no lm_eval."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from bll_sweeps.errors import ConfigError, StoreError
from bll_sweeps.grid.axes import Benchmark
from bll_sweeps.grid.cell import EvaluateJob
from bll_sweeps.training.data import load_rows
from bll_sweeps.training.rows import folded, question_id, read_rows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """`prompt` is the text that the model continues, written by the domain's template exactly as in training."""

    text: str
    answer: str
    prompt: str

    @property
    def id(self) -> str:
        """question_id of the text: results pair up across benchmarks' versions, and with the training rows."""
        return question_id(self.text)


def questions(job: EvaluateJob) -> list[Question]:
    """The first `benchmark.questions` (0: all) of the lab task's held-out questions, or of the benchmark's jsonl file.

    Raises ConfigError for a missing or malformed file, for a question that occurs twice and for a benchmark with fewer
    questions than it asks for, and StoreError for a file that is not the one its digest names.
    """
    benchmark = job.benchmark
    pairs = _from_file(benchmark) if benchmark.path else _from_lab(job)
    if benchmark.questions > len(pairs):
        raise ConfigError(
            "benchmark.questions", benchmark.questions, f"is more than there are: {len(pairs)} (0 takes all of them)"
        )
    pairs = pairs[: benchmark.questions or None]
    return [Question(text, answer, job.domain.prompt.replace("{question}", text)) for text, answer in pairs]


def seen_in_training(job: EvaluateJob, items: list[Question]) -> int | None:
    """How many of the questions the checkpoint was fine-tuned on (letter case aside); a warning names any.

    None, with a warning, where the training set is no longer what it was. A base model was fine-tuned on nothing, and
    lab tasks keep their held-out questions out of training by construction.
    """
    if job.train is None or (job.train.domain.source == "lab" and not job.benchmark.path):
        return 0
    try:
        trained = {folded(row.question) for row in load_rows(job.train.domain)}
    except (ConfigError, StoreError) as error:
        log.warning("how many of %s's questions were trained on cannot be told: %s", job.benchmark.name, error)
        return None
    seen = [item.text for item in items if folded(item.text) in trained]
    if seen:
        log.warning(
            "%d of the %d questions of benchmark %s are in the training set of domain %s, the first of them %r",
            len(seen),
            len(items),
            job.benchmark.name,
            job.train.domain.name,
            seen[0][:80],
        )
    return len(seen)


def _from_lab(job: EvaluateJob) -> list[tuple[str, str]]:
    from bll_sweeps.lab.tasks import held_out

    if job.domain.lab is None:
        raise ConfigError("benchmark.path", "", "must name a jsonl file: the domain is not a task of the lab")
    return [(row.question, row.answer) for row in held_out(job.domain.lab, job.domain.task)]


def _from_file(benchmark: Benchmark) -> list[tuple[str, str]]:
    rows = read_rows(Path(benchmark.path), benchmark.digest, "benchmark.path")
    if not rows:
        raise ConfigError("benchmark.path", benchmark.path, "holds no question")
    lines: dict[str, int] = {}
    for line, row in list(rows.items())[: benchmark.questions or None]:
        if lines.setdefault(row.question, line) != line:
            problem = f"has one question twice, in lines {lines[row.question]} and {line}: {row.question[:80]!r}"
            raise ConfigError("benchmark.path", benchmark.path, problem)
    return [(row.question, row.answer) for row in rows.values()]
