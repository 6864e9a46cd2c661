"""What the run of a finished job holds on W&B besides its curves. It follows from the store alone, so that a run that
was live, one that was resumed and one that was published later end alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from bll_sweeps.errors import StoreError
from bll_sweeps.grid.cell import EvaluateJob, PretrainJob, PriorJob
from bll_sweeps.grid.spec import Spec
from bll_sweeps.store.layout import Attempt, JobFiles, Layout
from bll_sweeps.store.records import (
    GENERATIONS,
    Record,
    iter_jsonl,
    iter_jsonl_gz,
    later_scores,
    read_json_if,
    read_record,
)
from bll_sweeps.store.regions import region
from bll_sweeps.tracking import names

TABLE_QUESTIONS = 50  # of a benchmark's table: its first ones, with the first answer to each
TABLE_CHARACTERS = 2000  # of a text in it
CELLS = "cells.json"  # in the artifact of an evaluation: its cells
SCORES = "scores"  # folder in that artifact: by graders that came later
MODEL = "model"  # the output that stays where it is: gigabytes
_TAGGED = ("objective", "backbone", "domain", "benchmark", "recipe")
_COLUMNS = ["question", "prompt", "gold", "answer", "taken for the answer", "found by", "score"]


@dataclass(frozen=True)
class Table:
    columns: list[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class Content:
    """summary: values by name, nested ones joined by /. histograms: counts [B] of equal parts of [0, 1]. files: of the
    artifact, by their names in it. told: what the artifact tells besides, by file name. model: a folder of weights that
    is referred to, where that is asked for.
    """

    summary: dict[str, Any] = field(default_factory=dict)
    histograms: dict[str, list[int]] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    model: Path | None = None
    digests: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Identity:
    """What a job's run is called: job id, kind, title, config, group, tags."""

    id: str
    kind: str
    title: str
    config: dict[str, Any]
    group: str
    tags: list[str]


@dataclass(frozen=True)
class Sweeps:
    """What sweeps' last launches have: names of the sweeps by job; of each evaluation its cells, by sweep and place in
    it, as manifests tell them. A job that is done is taken in by a later sweep without a word in its spec.
    """

    of: dict[str, list[str]] = field(default_factory=dict)
    cells: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)


def sweeps_of(layout: Layout, only: Iterable[str] | None = None) -> Sweeps:
    """Of all sweeps, or of these."""
    out = Sweeps()
    for name in layout.sweeps() if only is None else only:
        launches = layout.sweep(name).launches()
        manifest = read_json_if(layout.sweep(name).manifest(launches[-1])) if launches else None
        for job in manifest["jobs"] if manifest else []:
            out.of.setdefault(job["id"], []).append(name)
        for i, cell in enumerate(manifest["cells"] if manifest else []):
            out.cells.setdefault(cell["jobs"]["evaluate"], {}).setdefault(name, {})[str(i)] = cell
    return out


def identity(layout: Layout, spec: Spec, sweeps: Sequence[str] = ()) -> Identity:
    """Of the job, with the sweeps that its spec names, those of `sweeps`, and the region of its prior strength, where
    that is known.
    """
    labels = spec.labels
    tags = [names.tag(axis, labels[axis]) for axis in _TAGGED if axis in labels]
    tags += [names.tag("sweep", name) for name in (*labels.get("sweeps", []), *sweeps)]
    if place := _place(layout, spec):
        tags.append(names.tag("region", place[names.REGION]))
    return Identity(
        spec.job.id,
        spec.job.kind,
        title(spec),
        spec.plain(),
        str(labels.get("sweep", "")),
        sorted(set(tags)),
    )


def title(spec: Spec) -> str:
    """train nll lab-a lab-spell 0"""
    named = [spec.labels.get(key) for key in ("objective", "backbone", "domain", "benchmark", "seed")]
    parts = [str(name) for name in dict.fromkeys(named) if name is not None]  # a benchmark may be called as its domain
    return " ".join([spec.job.kind, *parts]) if parts else spec.job.id


def content(layout: Layout, spec: Spec, record: Record, sweeps: Sweeps) -> Content:
    """StoreError where an output is not what the record says."""
    later = later_scores(record)
    summary = _place(layout, spec) | _results(spec, record.result, later)
    summary[names.ROWS] = _of_result(record)
    made = read_json_if(record.attempt.provenance) or {}
    summary[names.ATTEMPT] = {key: made[key] for key in ("host", "started_at", "seconds") if key in made}
    if came_later := besides(record, sweeps):
        summary[names.BESIDES] = came_later
    files = {name: path for name, path in _small(record, later) if path.exists()}
    cells = sweeps.cells.get(spec.job.id)
    told = {CELLS: cells} if cells else {}
    kept = MODEL not in record.pruned() and record.attempt.output(MODEL).is_dir()
    model = record.attempt.output(MODEL) if kept else None
    digests = {name: digest["sha256"] for name, digest in record.outputs.items() if name.startswith(f"{MODEL}/")}
    media = _histograms(spec, record.result), _tables(spec, record)
    return Content(names.flat(summary), *media, files, told, model, digests)


def _of_result(record: Record) -> str:
    if metrics := record.outputs.get("metrics.jsonl"):
        return str(metrics["sha256"])
    return hashlib.sha256(json.dumps([record.result, record.outputs], sort_keys=True).encode()).hexdigest()


def besides(record: Record, sweeps: Sweeps) -> str:
    """Digest of what a finished job got later; '' for nothing."""
    scores = {grader: summary["sha256"] for grader, summary in later_scores(record).items()}
    told = [scores, sweeps.cells.get(record.job.id)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest() if any(told) else ""


def rows(attempt: Attempt) -> list[dict[str, Any]]:
    """What the job has logged: rows of metrics.jsonl with their times, in order. Empty for kinds that log none; a line
    that is being written is left out.
    """
    times = {row["step"]: row for row in _whole_lines(attempt.output("timing.jsonl"))}
    return [times.get(row["step"], {}) | row for row in _whole_lines(attempt.output("metrics.jsonl"))]


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_bytes().rpartition(b"\n")[0].split(b"\n") if line.strip()]
    except ValueError as error:
        raise StoreError(f"{path} is corrupt ({error}); `bll retry` runs its job again") from None


def _place(layout: Layout, spec: Spec) -> dict[str, Any]:
    """Where the job lies on the continuum: empty as long as its prior job is not done."""
    if isinstance(spec.job, PretrainJob):
        return {}
    prior = PriorJob(backbone=spec.job.backbone, domain=spec.job.domain)
    try:
        record = read_record(layout.job(prior.id))
    except StoreError:  # that job's own affair
        return {}
    if record is None:
        return {}
    strength = record.result["clean"]["mean_p"]
    return {names.PRIOR_STRENGTH: strength, names.REGION: region(strength)}


def _results(spec: Spec, result: dict[str, Any], later: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    if isinstance(spec.job, EvaluateJob):
        primary = result["metrics"][result["primary"]]
        told = {
            names.SCORE: primary["mean"],
            names.SCORE_STDERR: primary["stderr"],
            names.QUESTIONS: primary["questions"],
        }
        rest = {key: result[key] for key in ("grader", "primary", "engine", "seen_in_training") if key in result}
        others = {grader: found for grader, found in result.get("graders", {}).items() if grader != result["grader"]}
        others |= {grader: summary["metrics"] for grader, summary in later.items()}
        return told | {spec.job.benchmark.name: result["metrics"], "eval": rest, "graders": others}
    if isinstance(spec.job, PriorJob):
        return {"prior": {key: _without_histogram(value) for key, value in result.items()}}
    return result


def _without_histogram(value: Any) -> Any:
    return {key: inner for key, inner in value.items() if key != "histogram"} if isinstance(value, dict) else value


def _histograms(spec: Spec, result: dict[str, Any]) -> dict[str, list[int]]:
    if not isinstance(spec.job, PriorJob):
        return {}
    return {
        name: result[key]["histogram"] for key, name in names.HISTOGRAMS.items() if "histogram" in result.get(key, {})
    }


def _tables(spec: Spec, record: Record) -> dict[str, Table]:
    """Some of the questions with the model's answers, as the first grader took them. Files are read line by line: some
    are of hundreds of thousands of answers, and several jobs are published at once.
    """
    if not isinstance(spec.job, EvaluateJob):
        return {}
    decoding, grader = record.result["primary"], record.result["grader"]
    generations = list(islice(iter_jsonl_gz(record.output(GENERATIONS)), TABLE_QUESTIONS))
    wanted = {row["question"] for row in generations}
    scores = _of_questions(wanted, iter_jsonl(record.output(f"scores.{grader}.jsonl")))
    kept = f"answers.{grader}.jsonl.gz"
    taken = _of_questions(wanted, iter_jsonl_gz(record.output(kept))) if kept in record.outputs else {}
    found = []
    for row in generations:
        question = row["question"]
        told = taken.get(question, {})
        answer, kind = (told[key][decoding][0] if told else "" for key in ("answers", "kinds"))
        texts = [_cut(row.get("prompt", "")), _cut(row.get("gold", "")), _cut(row[decoding][0]), _cut(answer), kind]
        found.append([question, *texts, float(scores[question][decoding][0])])
    return {names.table(spec.job.benchmark.name): Table(_COLUMNS, found)}


def _of_questions(wanted: Collection[Any], rows: Iterable[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    return {row["question"]: row for row in rows if row["question"] in wanted}


def _cut(text: Any) -> str:
    text = str(text)
    return text if len(text) <= TABLE_CHARACTERS else f"{text[:TABLE_CHARACTERS]} [cut]"


def _small(record: Record, later: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """What another store needs to know the job as this one does; the outputs' digests are checked."""
    files: JobFiles = record.job
    yield "spec.json", files.spec
    for path in (record.attempt.record, record.attempt.provenance, record.attempt.output("timing.jsonl")):
        yield path.name, path
    for name in record.kept():
        if not name.startswith(f"{MODEL}/"):
            yield name, record.output(name)
    for grader in later:
        for path in (files.scores(grader), files.scores_answers(grader), files.scores_summary(grader)):
            yield f"{SCORES}/{path.name}", path
