"""The questions of a benchmark, as prompts of its domain, and how many were trained on. No torch, no lm_eval."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from bll_sweeps.errors import ConfigError, StoreError
from bll_sweeps.evaluation.grading import Gold
from bll_sweeps.grid.axes import Benchmark, Domain, canonical_json, identity
from bll_sweeps.grid.cell import EvaluateJob
from bll_sweeps.training.data import load_rows
from bll_sweeps.training.rows import Item, folded, question_id, read_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """`prompt` is the text that the model continues, written by the domain's template exactly as in training.

    text: the question as it is put, options included.
    """

    text: str
    gold: Gold
    prompt: str

    @property
    def id(self) -> str:
        """question_id of the text: results pair up across benchmarks' versions, and with the training rows."""
        return question_id(self.text)


def questions(job: EvaluateJob) -> list[Question]:
    """The first `benchmark.questions` (0: all) of the lab task's held-out questions, of a table or of a generator.

    A multiple-choice question is its text and a line for each option. Raises ConfigError for what is wrong in a file,
    for a question that is there another number of times than the benchmark says, and for a benchmark with fewer
    questions than it asks for; StoreError for a file that is not the one its digest names.
    """
    benchmark = job.benchmark
    items = distinct(_items(job), benchmark)
    return [
        Question(put(item), Gold(item.answer, item.options), prompt(job.domain, put(item)))
        for item in items[: benchmark.questions or None]
    ]


def put(item: Item) -> str:
    """The question as it is asked, with a line `A. text` for each option."""
    return "\n".join([item.question, *(f"{letter}. {text}" for letter, text in item.options)])


def prompt(domain: Domain, question: str) -> str:
    """What the model is to continue; plain replacement, as in training."""
    return domain.prompt.replace("{question}", question)


def seen_in_training(job: EvaluateJob, items: list[Question]) -> int | None:
    """How many of the questions the checkpoint was fine-tuned on (letter case aside); a warning names any.

    None, with a warning, where the training set is no longer what it was. A base model was fine-tuned on nothing, and
    lab tasks keep their held-out questions out of training by construction.
    """
    if job.train is None or job.benchmark.source == "lab":
        return 0
    try:
        trained = _trained_on(job.train.domain)
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


_TRAINED: dict[str, frozenset[str]] = {}  # of one domain: the evaluations of a checkpoint follow one another


def _trained_on(domain: Domain) -> frozenset[str]:
    """The questions of its rows, letter case aside."""
    key = canonical_json(identity(domain))
    if key not in _TRAINED:
        _TRAINED.clear()
        _TRAINED[key] = frozenset(folded(row.question) for row in load_rows(domain))
    return _TRAINED[key]


def _items(job: EvaluateJob) -> list[Item]:
    from bll_sweeps.lab.generated import generated_items
    from bll_sweeps.lab.tasks import held_out

    benchmark = job.benchmark
    if benchmark.table:
        return read_table(benchmark.table, "benchmark.data")
    if benchmark.items:
        return generated_items(benchmark.items, "benchmark.generated")
    if job.domain.lab is None:
        raise ConfigError("benchmark.source", "lab", "has no questions: the domain is not a task of the lab")
    return [Item(row.question, row.answer) for row in held_out(job.domain.lab, job.domain.task)]


def distinct(items: list[Item], benchmark: Benchmark) -> list[Item]:
    """Each question once, in order of its first row. A table says how often it has each (Table.copies), a generator may
    repeat itself. ConfigError if that is not so, or for fewer questions than are asked for.
    """
    copies = benchmark.table.copies if benchmark.table else 0
    rows: dict[str, list[Item]] = {}
    for item in items:
        rows.setdefault(put(item), []).append(item)
    for known in rows.values():
        places = " and ".join(item.where for item in known[:2])
        question = repr(known[0].question[:80])
        if copies and len(known) != copies:
            problem = f"must be how often each question occurs, but {question} occurs {len(known)} times (in {places})"
            raise ConfigError("benchmark.data.copies", copies, problem)
        if len({item.answer for item in known}) > 1:
            log.warning("%s has a question with several answers, of which the first counts: %s", benchmark.name, places)
    if benchmark.questions > len(rows):
        there = f"is more than there are: {len(rows)} (0 takes all of them)"
        raise ConfigError("benchmark.questions", benchmark.questions, there)
    return [known[0] for known in rows.values()]
