"""Evaluates a checkpoint on a benchmark: questions -> prompts -> generations (journalled) -> lm-eval's scores -> rows.

The only module that imports lm_eval. Its evaluator runs a task file of this package (tasks/*.yaml) once per decoding
of the benchmark; the model behind it is `JournalledModel`, which generates in a fixed partition of the requests, so
that the result depends neither on the order of tasks nor on how often it was interrupted. lm-eval's own caches are
not used: one never reads sampled runs back, the other ignores the prompt.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lm_eval.api.task
import lm_eval.evaluator
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from bll_sweeps.errors import ConfigError, UsageError
from bll_sweeps.evaluation import journal as journals
from bll_sweeps.evaluation.data import Question, questions, seen_in_training
from bll_sweeps.evaluation.grading import grader
from bll_sweeps.evaluation.sampling import generate, uniforms
from bll_sweeps.evaluation.scores import metrics, score_rows
from bll_sweeps.evaluation.task_files import TASKS, task_digest
from bll_sweeps.grid.axes import Benchmark
from bll_sweeps.grid.cell import EvaluateJob
from bll_sweeps.grid.settings import Execution
from bll_sweeps.store.records import file_sha256
from bll_sweeps.training.model import deterministic, load_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model. `digest` stands for its files: nothing that another model generated is taken for its own."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    digest: str

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end a generation: the tokenizer's eos and what the generation config adds."""
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        ids = configured if isinstance(configured, (list, tuple)) else [configured]
        return frozenset(i for i in (*ids, self.tokenizer.eos_token_id) if i is not None)

    @property
    def context(self) -> int:
        """Tokens that prompt and generation may have together."""
        return int(self.model.config.max_position_embeddings)


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found.

    rows: {"question": id, <decoding>: [score per generation]} per question.
    generations: {"question": id, "prompt", "gold", <decoding>: [texts], "length_limited": {<decoding>: [flags]}} per
    question.
    summary: {"benchmark", "grader", "primary", "metrics", "seen_in_training"}, what the record keeps (scores.metrics,
    data.seen_in_training).
    """

    rows: list[dict[str, Any]]
    generations: list[dict[str, Any]]
    summary: dict[str, Any]


def load(folder: Path, execution: Execution) -> Checkpoint:
    """The model in `folder` on the execution's device; load once, evaluate on many benchmarks.

    Raises ConfigError for a device that is not there.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    model, tokenizer = load_checkpoint(folder, execution)
    return Checkpoint(model, tokenizer, digest.hexdigest())


def evaluate(
    checkpoint: Path | Checkpoint,
    job: EvaluateJob,
    execution: Execution,
    *,
    journal: Path,
    earlier: Sequence[Path] = (),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvaluationResult:
    """Generates and grades `job.benchmark` with the checkpoint (a folder, or one that was loaded).

    journal: this attempt's file; earlier: those of earlier attempts, whose whole batches are not generated again.
    on_progress: generations done, generations in all. Raises ConfigError for an unknown task, grader or benchmark
    file, and for a prompt that leaves no room to answer.
    """
    if isinstance(checkpoint, Path):
        checkpoint = load(checkpoint, execution)
    items = questions(job)
    seen = seen_in_training(job, items)
    with journals.opened(journal, earlier) as opened, deterministic():
        model = JournalledModel(checkpoint, job.benchmark.seed, execution.eval_batch, opened, on_progress)
        texts, means = _run_task(model, job.benchmark, items)
    generations = [
        {
            "question": q.id,
            "prompt": q.prompt,
            "gold": q.answer,
            **{name: texts[name][i] for name in texts},
            "length_limited": {name: model.length_limited[name, i] for name in texts},
        }
        for i, q in enumerate(items)
    ]
    return _result(job.benchmark, generations, means, seen)


def _result(
    benchmark: Benchmark, generations: list[dict[str, Any]], means: dict[str, float], seen: int | None
) -> EvaluationResult:
    rows = score_rows(generations, benchmark.decodings, benchmark.grader)
    found = metrics(rows, generations, benchmark.decodings)
    assert all(math.isclose(found[name]["mean"], means[name], abs_tol=1e-9) for name in found), (
        "lm-eval's mean is another"
    )
    summary = {
        "benchmark": benchmark.name,
        "grader": grader(benchmark.grader).ID,
        "primary": benchmark.primary,
        "metrics": found,
        "seen_in_training": seen,
    }
    return EvaluationResult(rows, generations, summary)


# --- lm-eval's side -------------------------------------------------------------------------------------------------


def _run_task(
    model: JournalledModel, benchmark: Benchmark, items: list[Question]
) -> tuple[dict[str, list[list[str]]], dict[str, float]]:
    """Per decoding: the k generations of each question, in the order of `items`, and lm-eval's mean score."""
    task_digest(benchmark.task)  # an unknown task is named here, with the choices
    documents = [
        {"question": q.text, "answer": q.answer, "prompt": q.prompt, "grader": benchmark.grader} for q in items
    ]
    with _quiet():
        manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata={"documents": documents})
        tasks = {}
        for name, decoding in benchmark.decodings.items():
            task = manager.load(benchmark.task)["tasks"][benchmark.task]
            kwargs = {
                "do_sample": decoding.temperature > 0,
                "temperature": decoding.temperature,
                "max_gen_toks": benchmark.max_new_tokens,
            }
            task.set_config("task", name)  # two decodings of one task file are two tasks
            task.set_config("repeats", decoding.samples)
            task.set_config("generation_kwargs", kwargs, update=True)
            tasks[name] = task
        # simple_evaluate would reseed the process's generators and spend a second on describing the machine.
        out = lm_eval.evaluator.evaluate(lm=model, task_dict={"tasks": tasks}, bootstrap_iters=0)
    texts: dict[str, list[list[str]]] = {}
    means: dict[str, float] = {}
    for name in tasks:
        samples = sorted(out["samples"][name], key=lambda sample: sample["doc_id"])
        assert [sample["arguments"][0][0] for sample in samples] == [q.prompt for q in items], (
            "lm-eval changed a prompt"
        )
        texts[name] = [list(sample["resps"][0]) for sample in samples]
        (means[name],) = [value for key, value in out["results"][name].items() if key.startswith("score,")]
    return texts, means


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No notices and progress bars of lm-eval's; its errors pass."""
    logger, bar = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm
    level = logger.level
    logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bar


@dataclass(frozen=True, order=True)
class _Generation:
    """One generation to make, sorted so that prompts of like length share a batch."""

    temperature: float
    prompt_tokens: int
    prompt: str
    max_tokens: int
    until: tuple[str, ...]
    repeat: int

    def key(self) -> list[Any]:
        return [self.temperature, self.prompt, self.max_tokens, list(self.until), self.repeat]


class JournalledModel(LM):
    """Generates what lm-eval asks for, batch by batch; a batch that the journal has is not generated again.

    The batches are stretches of the sorted requests, at one temperature each: the same whatever the order of the
    requests, and whole, so that a resumed evaluation computes every row beside the same neighbours and ends with the
    same bytes.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        seed: int,
        batch: int,
        journal: journals.Journal,
        on_progress: Callable[[int, int], None],
    ) -> None:
        super().__init__()
        self.checkpoint, self.seed, self.batch, self.journal, self.on_progress = (
            checkpoint,
            seed,
            batch,
            journal,
            on_progress,
        )
        self.length_limited: dict[tuple[str, int], list[bool]] = {}  # (task, document) -> per repeat
        self._prompt_ids: dict[str, list[int]] = {}

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The text of each request; k requests of one document are its repeats 0 ... k-1."""
        repeats: Counter[tuple[str, int]] = Counter()
        wanted = []
        for request in requests:
            prompt, kwargs = request.args
            assert request.task_name is not None and request.doc_id is not None
            document = (request.task_name, request.doc_id)
            wanted.append((document, self._generation(prompt, kwargs, repeats[document])))
            repeats[document] += 1
        made: dict[_Generation, journals.Generation] = {}
        ordered = sorted({generation for _, generation in wanted})
        self.on_progress(0, len(ordered))
        for _, group in itertools.groupby(ordered, key=lambda generation: generation.temperature):
            rows = list(group)
            for start in range(0, len(rows), self.batch):
                part = rows[start : start + self.batch]
                made.update(zip(part, self._batch(part), strict=True))
                self.on_progress(len(made), len(ordered))
        for document, generation in wanted:
            self.length_limited.setdefault(document, []).append(made[generation].length_limited)
        return [made[generation].text for _, generation in wanted]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise UsageError("benchmark.task asks for log-likelihoods; benchmarks are scored on generated answers")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise UsageError("benchmark.task asks for log-likelihoods; benchmarks are scored on generated answers")

    def _generation(self, prompt: str, kwargs: dict[str, Any], repeat: int) -> _Generation:
        tokens, context = len(self._encode(prompt)), self.checkpoint.context
        if tokens >= context:
            raise ConfigError(
                "benchmark.max_new_tokens",
                kwargs["max_gen_toks"],
                f"has no room: a prompt fills the context of {context} tokens",
            )
        room = min(kwargs["max_gen_toks"], context - tokens)
        return _Generation(float(kwargs["temperature"]), tokens, prompt, room, tuple(kwargs["until"]), repeat)

    def _encode(self, prompt: str) -> list[int]:
        """As in training: bos only where the tokenizer has one, no other special token."""
        if prompt not in self._prompt_ids:
            tokenizer = self.checkpoint.tokenizer
            bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
            self._prompt_ids[prompt] = bos + tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return self._prompt_ids[prompt]

    def _batch(self, rows: list[_Generation]) -> list[journals.Generation]:
        key = journals.digest(
            {"checkpoint": self.checkpoint.digest, "seed": self.seed, "rows": [row.key() for row in rows]}
        )
        known = self.journal.get(key)
        if known is not None:
            return known
        tokenizer = self.checkpoint.tokenizer
        continuations = generate(
            self.checkpoint.model,
            [self._encode(row.prompt) for row in rows],
            [uniforms(self.seed, row.prompt, row.repeat, row.max_tokens) for row in rows],
            rows[0].temperature,
            self.checkpoint.stop_ids,
            pad_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        )
        decoded = [tokenizer.decode(ids, skip_special_tokens=True) for ids in continuations]
        full = [len(ids) == row.max_tokens for ids, row in zip(continuations, rows, strict=True)]
        made = [_until(text, row.until, limited) for text, row, limited in zip(decoded, rows, full, strict=True)]
        self.journal.append(key, made)
        return made


def _until(text: str, stops: tuple[str, ...], limited: bool) -> journals.Generation:
    """The text before the first of the stop strings; one that was found ended it, and not its length."""
    end = min((place for place in map(text.find, stops) if place >= 0), default=None)
    return journals.Generation(text, limited) if end is None else journals.Generation(text[:end], False)
