"""Reads specs, records and outputs of jobs for the tables. What is damaged becomes a named problem and is not used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pandas as pd

from analysis.sources.files import PROVENANCE, PRUNED, SPEC, Files
from analysis.sources.parse import Block, Told, Wanted, slowly
from analysis.sources.row_files import arrow_table, json_rows
from analysis.sources.score_files import ScoreFiles
from analysis.sources.scores import Key
from analysis.workers import Workers
from bll_sweeps.errors import StoreError
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import GENERATIONS, Record, file_sha256, is_done, read_json

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")


class _Graded(NamedTuple):
    """Scores by one grader (`<name>-v<version>`). path, sha256: of later scores; of the job's own its record tells."""

    id: str
    metrics: Told
    path: Path | None = None
    sha256: str = ""


@dataclass
class Kept:
    """What an earlier load read of jobs that have not changed since: small files (job -> name -> text), scores of
    evaluations, tables of metrics and sequences by job.
    """

    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    blocks: dict[Key, Block] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)


PRIOR_TOLERANCE = 1e-3  # between the mean p of a record and of its rows
_TABLES = {"prior": "sequences.jsonl", "train": "metrics.jsonl", "pretrain": "metrics.jsonl"}


class Reader:
    """One store, read once: every answer is remembered, every problem is told once.

    workers: read what `read_ahead` names. damaged: the jobs with problems, of which nothing is kept.
    """

    def __init__(self, layout: Layout, kept: Kept | None = None, workers: Workers | None = None):
        self.layout = layout
        self.kept = kept or Kept()
        self.files = Files(layout, self.kept.texts)
        self.problems: list[str] = []
        self.damaged: set[str] = set()
        self._known: dict[tuple[str, str], Any] = {}
        self._workers, self._scores = workers, ScoreFiles(workers)

    def read_ahead(self, job_ids: Iterable[str], fetch: bool = False) -> None:
        """Has the scores of these jobs read and parsed while the caller goes on; their small files too, if `fetch`.

        By other processes: a thread that computes would hold up each of the many reads of small files by milliseconds.
        """
        jobs = [job for job in dict.fromkeys(job_ids) if job]
        if fetch and self._workers is not None:
            self.files.fetch(jobs, self._workers)
        for job_id in jobs:
            if job_id.rpartition("-")[0] in _TABLES or self.files.unchanged(job_id):
                continue
            record = self.record(job_id)
            if record is None or self._pruned(record):
                continue
            for grader in self.graders(job_id):
                chosen = self._graded(job_id, grader)
                if chosen is not None and (wanted := _wanted(record, chosen)) is not None:
                    self._scores.want(wanted)

    def _pruned(self, record: Record) -> bool:
        return self.files.text(record.job.id, f"{record.attempt.folder.name}/{PRUNED}") is not None

    def once(self, what: str, job_id: str, read: Callable[[], T | None]) -> T | None:
        """`read()`, called once per job; None and a named problem if what it reads is damaged."""
        key = (what, job_id)
        if key not in self._known:
            try:
                self._known[key] = read()
            except StoreError as error:
                self._problem(key, str(error))
            except KeyError as error:
                path = self.files.job(job_id).folder
                told = f"{what} of {job_id} lacks {error}: another version of bll-sweeps wrote it, or it is damaged"
                self._problem(key, f"{told} (in {path})")
            except (OSError, TypeError, ValueError, AttributeError, IndexError) as error:
                self._problem(key, f"{what} of {job_id} cannot be read ({type(error).__name__}: {error})")
        return self._known[key]

    def _problem(self, key: tuple[str, str], text: str) -> None:
        self._known[key] = None
        self.damaged.add(key[1])
        if text not in self.problems:
            self.problems.append(text)

    def spec(self, job_id: str) -> dict[str, Any] | None:
        """The job's frozen spec.json, None if there is none."""
        return self.once("spec.json", job_id, lambda: self.read_spec(job_id))

    def read_spec(self, job_id: str) -> dict[str, Any] | None:
        """As `spec`, not remembered, which spares memory where one is asked once; raises what `once` takes."""
        if not job_id:
            return None
        data = self.files.json(job_id, SPEC)
        if data is None:
            return None
        if data["id"] != job_id or not isinstance(data["job"], dict):
            raise StoreError(
                f"{self.files.job(job_id).spec} is not the spec of {job_id}; `bll retry` runs its job again"
            )
        return data

    def record(self, job_id: str) -> Record | None:
        """The job's record, None if it is not done or damaged."""
        known: Record | None = self._known.get(("record", job_id))  # asked for a dozen times per cell
        return known or self.once("record", job_id, lambda: self.files.record(job_id))

    def scores(self, job_id: str, grader: str = "") -> dict[str, Block] | None:
        """Scores by question per decoding, by the newest version of the grader of that name; '': the one that the
        evaluation was launched with.
        """

        def read() -> dict[str, Block] | None:
            record = self.record(job_id)
            if record is None:
                return None
            chosen = self._graded(job_id, grader)
            if chosen is None:
                raise StoreError(f"{job_id} has no scores by {grader}; `bll regrade` makes them")
            kept = {name: self.kept.blocks.get((job_id, name, chosen.id)) for name in chosen.metrics}
            whole = {name: block for name, block in kept.items() if block is not None}
            if self.files.unchanged(job_id) and len(whole) == len(chosen.metrics):
                return whole
            found = self._scores.get(chosen.path or record.attempt.output(f"scores.{chosen.id}.jsonl"))
            if found is not None:
                return found
            if chosen.path is not None:
                _check_later(chosen.path, chosen.sha256)
            return slowly(chosen.path or record.output(f"scores.{chosen.id}.jsonl"), chosen.metrics)

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
            later = [self._later(record, path) for path in self.files.later_scores(job_id)]
            return [*found, *(graded for graded in later if graded is not None)]

        return self.once("graders", job_id, read) or []

    def _later(self, record: Record, summary_path: Path) -> _Graded | None:
        """Scores that `bll regrade` made; None if it made them from other generations than those of the record."""

        def read() -> _Graded | None:
            try:
                summary = self.files.json(record.job.id, f"scores/{summary_path.name}")
            except StoreError as error:
                if "version=" in str(error):
                    raise
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
            path, table = self._table(record)
            table = table if isinstance(table, pd.DataFrame) else table.to_pandas()
            if self.files.unchanged(job_id):
                return table
            for which, sums, tokens in PRIORS:
                mean = float(table[sums].sum()) / float(table[tokens].sum())
                told = record.result[which]["mean_p"]
                if not abs(mean - told) <= PRIOR_TOLERANCE:
                    raise StoreError(
                        f"{path} has mean p {mean:.4f} ({which}), its record {told}; `bll retry` runs its job again"
                    )
            return table

        return self.once("sequences", job_id, read)

    def metrics(self, job_id: str) -> pd.DataFrame | pa.Table | None:
        """Train or pretrain job: the training curve, as its file has it (row_files.Stack makes one table of many)."""

        def read() -> pd.DataFrame | pa.Table | None:
            record = self.record(job_id)
            return None if record is None else self._table(record)[1]

        return self.once("metrics", job_id, read)

    def _table(self, record: Record) -> tuple[Path, pd.DataFrame | pa.Table]:
        """A job's big table, as it was kept, or read now."""
        job_id = record.job.id
        name = _TABLES[job_id.rpartition("-")[0]]
        path, table = record.attempt.output(name), self.kept.tables.get(job_id)
        if table is not None:
            return path, table
        if name in record.outputs and not self._pruned(record):
            digest = record.outputs[name]
            found = arrow_table(path, digest["bytes"], digest["sha256"])
            if found is not None:
                return path, found
        return path, pd.DataFrame(json_rows(record.output(name).read_bytes()))

    def provenance(self, job_id: str) -> dict[str, Any] | None:
        """attempt.json of the attempt that finished the job."""

        def read() -> dict[str, Any] | None:
            record = self.record(job_id)
            if record is None:
                return None
            attempt = record.attempt
            data = self.files.json(job_id, f"{attempt.folder.name}/{PROVENANCE}")
            if data is None:
                raise StoreError(f"{attempt.provenance} is missing: nothing tells who made the record, and when")
            return dict(data)

        return self.once("provenance", job_id, read)

    def not_done(self, job_id: str) -> str:
        """Why a job has no usable record, in a few words; '' if it has one."""
        return self.once("state", job_id, lambda: self._not_done(job_id)) or ""

    def _not_done(self, job_id: str) -> str:
        job = self.files.job(job_id)
        if self.record(job_id) is not None:
            return ""
        if is_done(job):
            return f"{job_id} has a damaged record"
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


def _wanted(record: Record, chosen: _Graded) -> Wanted | None:
    """The file of these scores; None where the record does not name it."""
    if chosen.path is not None:
        return Wanted(chosen.path, None, chosen.sha256, chosen.metrics)
    name = f"scores.{chosen.id}.jsonl"
    digest = record.outputs.get(name)
    if digest is None:
        return None
    return Wanted(record.attempt.output(name), digest["bytes"], digest["sha256"], chosen.metrics)


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
