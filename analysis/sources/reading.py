"""Reads specs, records and outputs of jobs for the tables. What is damaged becomes a named problem and is not used."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd

from bll_sweeps.errors import StoreError
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import Record, file_sha256, is_done, read_json, read_record

T = TypeVar("T")


class _Graded(NamedTuple):
    """Scores by one grader (`<name>-v<version>`). path, sha256: of later scores; of the job's own its record tells."""

    id: str
    metrics: dict[str, dict[str, Any]]
    path: Path | None = None
    sha256: str = ""


GENERATIONS = "generations.jsonl.gz"  # an evaluation's output that later scores are made from


# The record holds the same mean as its rows; a greater difference means that one of them is not what was written.
SCORE_TOLERANCE = 1e-4
PRIOR_TOLERANCE = 1e-3


class Reader:
    """One store, read once: every answer is remembered, every problem is told once."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.problems: list[str] = []
        self._known: dict[tuple[str, str], Any] = {}

    def once(self, what: str, job_id: str, read: Callable[[], T | None]) -> T | None:
        """`read()`, called once per job; None and a named problem if what it reads is damaged."""
        key = (what, job_id)
        if key not in self._known:
            try:
                self._known[key] = read()
            except StoreError as error:
                self._problem(key, str(error))
            except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
                self._problem(key, f"{what} of {job_id} cannot be read ({type(error).__name__}: {error})")
        return self._known[key]

    def _problem(self, key: tuple[str, str], text: str) -> None:
        self._known[key] = None
        if text not in self.problems:
            self.problems.append(text)

    def spec(self, job_id: str) -> dict[str, Any] | None:
        """The job's frozen spec.json, None if there is none."""

        def read() -> dict[str, Any] | None:
            path = self.layout.job(job_id).spec
            if not path.exists():
                return None
            data = read_json(path)
            if data["id"] != job_id or not isinstance(data["job"], dict):
                raise StoreError(f"{path} is not the spec of {job_id}; `bll retry` runs its job again")
            return data

        return self.once("spec.json", job_id, read)

    def record(self, job_id: str) -> Record | None:
        """The job's record, None if it is not done or damaged."""
        return self.once("record", job_id, lambda: read_record(self.layout.job(job_id)))

    def scores(self, job_id: str, grader: str = "") -> dict[str, pd.DataFrame] | None:
        """Per decoding: a table indexed by question with `score` (mean over samples) and `samples`, by the newest
        version of the grader of that name; '': the one that the evaluation was launched with.
        """

        def read() -> dict[str, pd.DataFrame] | None:
            record = self.record(job_id)
            if record is None:
                return None
            chosen = self._graded(job_id, grader)
            if chosen is None:
                raise StoreError(f"{job_id} has no scores by {grader}; `bll regrade` makes them")
            if chosen.path is not None:
                _check_later(chosen.path, chosen.sha256)
            path = chosen.path or record.output(f"scores.{chosen.id}.jsonl")
            return _scores(path, _rows(path), chosen.metrics)

        return self.once(f"scores ({grader})" if grader else "scores", job_id, read)

    def grader(self, job_id: str, grader: str = "") -> str:
        """Evaluate job: name and version of the grader of those scores, `exact-v1`; '' if there are none."""
        chosen = self._graded(job_id, grader)
        return chosen.id if chosen else ""

    def engine(self, job_id: str) -> str:
        """Evaluate job: what generated its answers, `hf` or `vllm <version>`; '' if it is not done. Records from before
        there was a choice name none: those are transformers' answers.
        """
        record = self.record(job_id)
        return str(record.result.get("engine") or "hf") if record else ""

    def metrics_by(self, job_id: str, grader: str, decoding: str) -> dict[str, Any]:
        """Evaluate job: what is told of a decoding by that grader; {} if it is not done or not graded so."""
        chosen = self._graded(job_id, grader)
        return dict(chosen.metrics.get(decoding, {})) if chosen else {}

    def graders(self, job_id: str) -> list[str]:
        """Evaluate job: the names of all graders that there are scores by, its own ones first."""
        return list(dict.fromkeys(graded.id.rpartition("-v")[0] for graded in self._all_graded(job_id)))

    def disagreements(self, job_id: str) -> tuple[float, int]:
        """Evaluate job: how many of its generations its graders judged unlike (nan where it has one grader), and how
        many generations it has, those of all decodings.
        """
        record = self.record(job_id)
        if record is None:
            return math.nan, 0
        generations = sum(int(of["questions"]) * int(of["samples"]) for of in record.result["metrics"].values())
        several = len(record.result.get("graders") or ()) > 1
        return number_of(record.result, "disagreements") if several else math.nan, generations

    def _graded(self, job_id: str, grader: str) -> _Graded | None:
        """Of the evaluation's own graders and of later ones that of this name with the highest version."""

        def read() -> _Graded | None:
            record = self.record(job_id)
            wanted = grader or (str(record.result["grader"]).rpartition("-v")[0] if record else "")
            versions = [graded for graded in self._all_graded(job_id) if graded.id.rpartition("-v")[0] == wanted]
            return max(versions, key=lambda graded: int(graded.id.rpartition("-v")[2]), default=None)

        return self.once(f"grader ({grader})", job_id, read)

    def _all_graded(self, job_id: str) -> list[_Graded]:
        """By whom an evaluation was scored: its own graders, the one whose scores count first, then later ones."""

        def read() -> list[_Graded] | None:
            record = self.record(job_id)
            if record is None:
                return None
            own = str(record.result["grader"])
            by_id = record.result.get("graders") or {record.result["grader"]: record.result["metrics"]}
            found = [_Graded(name, by_id[name]) for name in sorted(by_id, key=lambda name: (name != own, name))]
            later = [self._later(record, path) for path in self.layout.job(job_id).later_scores()]
            return [*found, *(graded for graded in later if graded is not None)]

        return self.once("graders", job_id, read) or []

    def _later(self, record: Record, summary_path: Path) -> _Graded | None:
        """Scores that `bll regrade` made; None if it made them from other generations than those of the record."""

        def read() -> _Graded | None:
            try:
                summary = read_json(summary_path)
            except StoreError:
                raise StoreError(f"{summary_path} is corrupt or truncated; `bll regrade` makes it again") from None
            digest = record.outputs.get(GENERATIONS, {}).get("sha256")
            if digest is None or summary.get("generations") != digest:
                return None
            name = str(summary["grader"])
            return _Graded(name, dict(summary["metrics"]), record.job.scores(name), str(summary["sha256"]))

        return self.once(f"later scores {summary_path.name}", record.job.id, read)

    def seen_in_training(self, job_id: str) -> float:
        """How many of the benchmark's questions are in the training set; nan where the record does not tell."""
        record = self.record(job_id)
        return number_of(record.result, "seen_in_training") if record else math.nan

    def rows_cut(self, job_id: str) -> float:
        """Train or prior job: training rows that were cut to max_length; nan where that is not told."""
        record = self.record(job_id)
        return number_of(record.result, "rows_cut") if record else math.nan

    def sequences(self, job_id: str) -> pd.DataFrame | None:
        """Prior job: one row per training sequence (row, question, tokens, sum_p, clean_tokens, clean_sum_p,
        noisy); `question`, a digest of its text, is not in older records.
        """

        def read() -> pd.DataFrame | None:
            record = self.record(job_id)
            if record is None:
                return None
            path = record.output("sequences.jsonl")
            table = pd.DataFrame(_rows(path))
            for which, sums, tokens in PRIORS:
                mean = float(table[sums].sum()) / float(table[tokens].sum())
                told = record.result[which]["mean_p"]
                if not abs(mean - told) <= PRIOR_TOLERANCE:
                    raise StoreError(
                        f"{path} has mean p {mean:.4f} ({which}), its record {told}; `bll retry` runs its job again"
                    )
            return table

        return self.once("sequences", job_id, read)

    def metrics(self, job_id: str) -> pd.DataFrame | None:
        """Train or pretrain job: the training curve; the value of the loss is in `loss`."""

        def read() -> pd.DataFrame | None:
            record = self.record(job_id)
            if record is None:
                return None
            # `objective` names the objective everywhere else in the tables.
            return pd.DataFrame(_rows(record.output("metrics.jsonl"))).rename(columns={"objective": "loss"})

        return self.once("metrics", job_id, read)

    def provenance(self, job_id: str) -> dict[str, Any] | None:
        """attempt.json of the attempt that finished the job."""

        def read() -> dict[str, Any] | None:
            record = self.record(job_id)
            return None if record is None else dict(record.provenance())

        return self.once("provenance", job_id, read)

    def not_done(self, job_id: str) -> str:
        """Why a job has no usable record, in a few words; '' if it has one."""
        job = self.layout.job(job_id)
        if is_done(job):
            return "" if self.record(job_id) is not None else f"{job_id} has a damaged record"
        attempts = job.attempts()
        failures = [attempt.failure for attempt in attempts if attempt.failure.exists()]
        if failures and failures[-1].parent == attempts[-1].folder:
            return f"{job_id} failed{_failure(failures[-1])}"
        return f"{job_id} is not done" + (" (it was started)" if attempts else "")


PRIORS = (("clean", "clean_sum_p", "clean_tokens"), ("as_trained", "sum_p", "tokens"))


def number_of(data: dict[str, Any], key: str) -> float:
    """A number of a record, nan where it does not tell it."""
    value = data.get(key)
    return float(value) if isinstance(value, (int, float)) else math.nan


def _check_later(path: Path, sha256: str) -> None:
    if not path.exists() or file_sha256(path) != sha256:
        summary = path.with_suffix(".json")
        raise StoreError(
            f"{path} is missing or differs from the digest in {summary.name}; `bll regrade` makes both again"
        )


def _rows(path: Path) -> list[dict[str, Any]]:
    # One call for the whole file: three times faster than a call a line, and its digest has been checked.
    return list(json.loads(f"[{','.join(path.read_text(encoding='utf-8').splitlines())}]"))


def _failure(path: Path) -> str:
    try:
        data = read_json(path)
    except (StoreError, OSError):
        return ""
    text = (
        next((str(data[key]) for key in ("error", "message", "reason") if data.get(key)), "")
        if isinstance(data, dict)
        else ""
    )
    return f": {text.splitlines()[0][:200]}" if text else ""


def _scores(path: Path, rows: list[dict[str, Any]], told: dict[str, dict[str, Any]]) -> dict[str, pd.DataFrame]:
    out: dict[str, pd.DataFrame] = {}
    for decoding, metrics in told.items():
        values = [[float(score) for score in row[decoding]] for row in rows]
        if not values or not all(values):
            raise StoreError(f"{path} has a question without scores ({decoding}); `bll retry` runs its job again")
        table = pd.DataFrame(
            {"score": [math.fsum(v) / len(v) for v in values], "samples": [len(v) for v in values]},
            index=pd.Index([str(row["question"]) for row in rows], name="question"),
        )
        if not table.index.is_unique:
            raise StoreError(f"{path} has a question twice; `bll retry` runs its job again")
        if not table["score"].between(0, 1).all():
            raise StoreError(
                f"{path} has a score outside [0, 1] ({decoding}): its grader is at fault; mend it, raise its VERSION "
                "and launch again with --rerun-stale"
            )
        mean = float(table["score"].mean())
        if not abs(mean - metrics["mean"]) <= SCORE_TOLERANCE or len(table) != metrics["questions"]:
            raise StoreError(
                f"{path} has {len(table)} questions with mean {mean:.6f} ({decoding}), its record "
                f"{metrics['questions']} with {metrics['mean']}; `bll retry` runs its job again"
            )
        out[decoding] = table
    return out
