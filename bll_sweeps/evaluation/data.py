"""The questions of a benchmark, as prompts of its domain. No torch, no lm_eval."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from bll_sweeps.errors import ConfigError, StoreError
from bll_sweeps.grid.cell import EvaluateJob
from bll_sweeps.store.records import file_sha256, read_jsonl


@dataclass(frozen=True)
class Question:
    """`prompt` is the text that the model continues, written by the domain's template exactly as in training."""

    text: str
    answer: str
    prompt: str

    @property
    def id(self) -> str:
        """16 hex digits that follow from the question's text, so that results pair up across benchmarks' versions."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def questions(job: EvaluateJob) -> list[Question]:
    """The first `benchmark.questions` (0: all) of the lab task's held-out questions, or of the benchmark's jsonl file.

    Raises ConfigError for a missing or malformed file, for a question that occurs twice and for a benchmark with fewer
    questions than it asks for, and StoreError for a file that is not the one its digest names.
    """
    benchmark = job.benchmark
    pairs = _from_file(Path(benchmark.path), benchmark.digest) if benchmark.path else _from_lab(job)
    if not pairs or benchmark.questions > len(pairs):
        raise ConfigError(
            "benchmark.questions", benchmark.questions, f"is more than there are: {len(pairs)} (0 takes all of them)"
        )
    pairs = pairs[: benchmark.questions or None]
    seen: dict[str, int] = {}
    for i, (text, _) in enumerate(pairs):
        if seen.setdefault(text, i) != i:
            raise ConfigError(
                "benchmark.path", benchmark.path, f"has one question twice (rows {seen[text]} and {i}): {text[:80]!r}"
            )
    return [Question(text, answer, job.domain.prompt.replace("{question}", text)) for text, answer in pairs]


def _from_lab(job: EvaluateJob) -> list[tuple[str, str]]:
    from bll_sweeps.lab.tasks import held_out

    if job.domain.lab is None:
        raise ConfigError("benchmark.path", "", "must name a jsonl file: the domain is not a task of the lab")
    return [(row.question, row.answer) for row in held_out(job.domain.lab, job.domain.task)]


def _from_file(path: Path, digest: str) -> list[tuple[str, str]]:
    if not path.is_file():
        raise ConfigError("benchmark.path", str(path), "is not a file")
    found = file_sha256(path)
    if found != digest:
        raise StoreError(
            f"{path} has changed since it was planned (sha256 {found[:16]}, not {digest[:16]}); "
            "put the file back, or launch again"
        )
    pairs = []
    for i, row in enumerate(read_jsonl(path)):
        if (
            not isinstance(row, dict)
            or not isinstance(row.get("question"), str)
            or not isinstance(row.get("answer"), str)
        ):
            raise ConfigError("benchmark.path", str(path), f"row {i} must have the texts question and answer")
        pairs.append((row["question"], row["answer"]))
    return pairs
