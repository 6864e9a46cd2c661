"""Scores by other graders, from the generations that evaluations keep: no model is loaded.

Scores are a derived record, keyed by evaluation, grader and the grader's version: a job's own record holds those of the
graders that it was launched with, and beside its attempts lie those that were asked for later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from bll_sweeps.cluster.words import plural
from bll_sweeps.errors import UsageError
from bll_sweeps.evaluation.grading import grader
from bll_sweeps.evaluation.scores import apart, metrics, score_rows
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import (
    GENERATIONS,
    file_sha256,
    is_done,
    later_scores,
    read_jsonl_gz,
    read_record,
    write_json,
    write_jsonl,
    write_jsonl_gz,
)


@dataclass(frozen=True)
class Unscored:
    """A finished evaluation, and graders that its cells ask for without scores by their present versions."""

    job: str
    graders: tuple[str, ...]


def unscored(layout: Layout, manifest: dict[str, Any], graders: Sequence[str] = ()) -> list[Unscored]:
    """What a launch's finished evaluations lack, by `graders` or else by those that its cells name."""
    wanted: dict[str, dict[str, None]] = {}
    for cell in manifest["cells"]:
        wanted.setdefault(cell["jobs"]["evaluate"], {}).update(dict.fromkeys(graders or cell.get("graders", ())))
    out = []
    for job, names in wanted.items():
        files = layout.job(job)
        if is_done(files) and (record := read_record(files)):
            scored = {*record.outputs, *(f"scores.{grader_id}.jsonl" for grader_id in later_scores(record))}
            lacking = tuple(name for name in names if f"scores.{grader(name).ID}.jsonl" not in scored)
            out += [Unscored(job, lacking)] if lacking else []
    return out


def after_launch(layout: Layout, manifest: dict[str, Any], processes: int) -> None:
    """Grades what a launch's finished evaluations lack, in `processes` processes; with none it only says what to do."""
    work = unscored(layout, manifest)
    if not work:
        return
    many = f"{plural(len(work), 'finished evaluation')} without scores by a grader that this launch names"
    if not processes:
        print(f"{manifest['sweep']}: {many}: `bll regrade {manifest['sweep']}` makes them, without a GPU")
        return
    regrade(layout, work, processes=processes)
    print(f"{manifest['sweep']}: {many}: scored them from what they had generated")


def regrade(
    layout: Layout,
    work: Sequence[Unscored],
    *,
    processes: int = 1,
    on_job: Callable[[str, str, dict[str, Any]], None] = lambda job, grader_id, found: None,
) -> None:
    """Grades what is unscored. on_job(job, ID of the grader, metrics by decoding) after each. It may be stopped at any
    time: what was graded stays, the rest is still unscored.
    """
    for item in work:
        files = layout.job(item.job)
        record = read_record(files)
        if record is None:
            raise UsageError(f"job={item.job!r} has no whole record any more; `bll retry` runs it again")
        generations = list(read_jsonl_gz(record.output(GENERATIONS)))
        decodings = list(read_spec(files).job.benchmark.decodings)  # type: ignore[union-attr]
        for name in item.graders:
            rows = score_rows(generations, decodings, name, processes=processes)
            found = metrics(rows, generations, decodings)
            grader_id = grader(name).ID
            scores, answers = apart(rows)
            write_jsonl(files.scores(grader_id), scores)
            write_jsonl_gz(files.scores_answers(grader_id), answers)
            summary = {
                "grader": grader_id,
                "metrics": found,
                "sha256": file_sha256(files.scores(grader_id)),
                "answers_sha256": file_sha256(files.scores_answers(grader_id)),
                "generations": record.outputs[GENERATIONS]["sha256"],
                "libraries": {package: version(package) for package in grader(name).LIBRARIES},
            }
            write_json(files.scores_summary(grader_id), summary)
            on_job(item.job, grader_id, found)
