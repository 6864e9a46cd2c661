"""From a W&B project to a store: runs that `bll` jobs left there, as ordinary records, checked by their digests.

A run's artifact has the job's spec, record and outputs (content.py), so a pulled record is the same bytes as the one
that was published; weights stay where they were trained, and count as pruned. Nothing of it is run or unpickled.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bll_sweeps.errors import StoreError, UsageError
from bll_sweeps.grid.spec import Spec, parse_spec, read_spec
from bll_sweeps.store.claims import acquire
from bll_sweeps.store.layout import Attempt, JobFiles, Layout
from bll_sweeps.store.records import (
    GENERATIONS,
    atomic_path,
    check_output,
    done_attempt,
    file_sha256,
    is_done,
    publish,
    read_json,
    read_json_if,
    write_json,
    write_jsonl_gz,
)
from bll_sweeps.tracking import names
from bll_sweeps.tracking.content import CELLS, MODEL, SCORES
from bll_sweeps.tracking.server import AT_ONCE, PAGE, Target, reachable
from bll_sweeps.tracking.wandb import described

# What jobs leave, weights apart: nothing else of a record on the server comes into the store.
_OUTPUT = re.compile(
    r"(metrics|sequences|disagreements)\.jsonl|scores\.[\w.-]+\.jsonl|(answers\.[\w.-]+|generations)\.jsonl\.gz"
)
_GRADER = re.compile(r"\w[\w.-]*")
_PULLED = "pulled.json"  # of a pulled attempt: digests of the result and of what came later, as the server told them
_TOLD = (names.ROWS, names.BESIDES)
_JOB = re.compile(r"(pretrain|prior|train|evaluate)-[0-9a-f]{16}")
_RUN = re.compile(rf"({_JOB.pattern})(-\d+)?")  # those after one that was superseded are numbered


@dataclass
class Pulled:
    """How many jobs came, were here already, are not finished there; how many runs are none of ours, or superseded;
    what went wrong, by job; the sweeps that came, and what they are called here.
    """

    new: int = 0
    known: int = 0
    unfinished: int = 0
    foreign: int = 0
    superseded: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    sweeps: dict[str, str] = field(default_factory=dict)


def pull(
    layout: Layout,
    target: Target,
    *,
    sweep: str = "",
    at_once: int = AT_ONCE,
    on_job: Callable[[int, int], None] = lambda done, total: None,
) -> Pulled:
    """Brings the project's finished jobs (of a sweep: those with its tag) into the store, and their cells as a launch.

    A job that is done here is left as it is; one that was pulled also gets what came to it since: scores of other
    graders, cells of other sweeps. on_job(jobs brought, jobs to bring). UsageError without a key or such a project,
    ConnectionError without a server.
    """
    import wandb

    from bll_sweeps.tracking.service import service

    out = Pulled()
    with service() as folder:
        target, _ = reachable(target)
        api = wandb.Api(timeout=60)
        wanted, known = _finished(api, layout, target, sweep, out)
        threads = ThreadPoolExecutor(at_once)
        try:
            futures = {threads.submit(_fetch, api, layout, target, run, folder): _job_of(run) for run in wanted}
            for done, future in enumerate(as_completed(futures), 1):
                try:
                    future.result()
                    out.new += 1
                except Exception as error:  # noqa: BLE001 - wandb raises what it likes; the job is named
                    out.problems[futures[future]] = described(error)
                on_job(done, len(wanted))
        finally:  # Ctrl-C leaves what has not begun; the next pull goes on
            threads.shutdown(cancel_futures=True)
    _tell(layout, target, [*known, *map(_job_of, wanted)], sweep, out)
    return out


def _finished(api: Any, layout: Layout, target: Target, sweep: str, out: Pulled) -> tuple[list[Any], list[str]]:
    """The runs of jobs that are to be fetched, and the ids of those that are here; counts the others."""
    filters = {"tags": names.tag("sweep", sweep)} if sweep else {}
    try:
        runs = list(api.runs(target.path, filters=filters, per_page=PAGE, lazy=False))
    except Exception as error:  # noqa: BLE001 - wandb raises what it likes
        why = described(error)
        raise UsageError(f"{target.path} cannot be read ({why}); give a project as ENTITY/PROJECT") from None
    if sweep and not runs:
        raise UsageError(
            f"--sweep={sweep!r}: {target.path} has no run of it (its tag would be {names.tag('sweep', sweep)})"
        )
    wanted, known = [], []
    for run in runs:
        job_id = _job_of(run)
        if not job_id:
            out.foreign += 1
        elif names.SUPERSEDED in run.tags:
            out.superseded += 1
        elif run.state != "finished":
            out.unfinished += 1
        else:
            try:
                here = _is_here(layout.job(job_id), run)
            except (StoreError, AttributeError, TypeError) as error:
                out.problems[job_id] = described(error)
                continue
            if here:
                known.append(job_id)
            else:
                wanted.append(run)
    out.known = len(known)
    return wanted, known


def _job_of(run: Any) -> str:
    """The id of the job whose run it is; '' for a run that no job made."""
    found = _RUN.fullmatch(run.id)
    told = run.config.get("id") if isinstance(run.config, dict) and "job" in run.config else None
    return found[1] if found and found[1] == told else ""


def _is_here(job: JobFiles, run: Any) -> bool:
    """With all that came to it since, if it was pulled: what it got here is its own affair."""
    if not is_done(job):
        return False
    pulled = read_json_if(done_attempt(job).output(_PULLED))
    return pulled is None or all(pulled.get(name) == run.summary.get(name) for name in _TOLD)


def _fetch(api: Any, layout: Layout, target: Target, run: Any, scratch: Path) -> None:
    """Puts the job into the store. StoreError for files that are not what the record says."""
    from bll_sweeps.tracking.session import ARTIFACTS

    job_id = _job_of(run)
    files = layout.job(job_id)
    aside = scratch / run.id
    with ARTIFACTS:
        artifact = api.artifact(f"{target.path}/{names.RECORD}-{run.id}:latest", type=names.RECORD)
    if any(entry.ref for entry in artifact.manifest.entries.values()):
        raise StoreError("its record refers to files elsewhere, which are not fetched")
    # By its cache, a folder of this pull: without, wandb keeps the path to write to where its threads share it, and one
    # file may come to lie at another's place.
    artifact.download(root=str(aside), skip_cache=False, multipart=False)
    _check(job_id, aside)
    write_json(aside / _PULLED, {name: run.summary.get(name) for name in _TOLD})
    _put(files, aside)
    shutil.rmtree(aside)  # else the whole project lies in the scratch folder in the end


def _check(job_id: str, folder: Path) -> None:
    spec, record = read_json(folder / "spec.json"), read_json(folder / "record.json")
    parse_spec(spec, job_id, f"the spec of {job_id} on the server")
    if record.get("id") != job_id:
        raise StoreError(f"the record on the server is that of {record.get('id')}")
    for name, digest in record["outputs"].items():
        if name.startswith(f"{MODEL}/"):
            continue
        if not _OUTPUT.fullmatch(name):
            raise StoreError(f"the record names an output {name!r}, which no job leaves")
        check_output(folder / name, digest)
    for summary in (folder / SCORES).glob("*.json"):
        told, grader = read_json(summary), summary.stem
        of_these = told.get("generations") == record["outputs"].get(GENERATIONS, {}).get("sha256", "none")
        files = {"sha256": f"{grader}.jsonl"}
        if "answers_sha256" in told:
            files["answers_sha256"] = f"{grader}.answers.jsonl.gz"
        whole = all(told.get(key) == _sha256_if(folder / SCORES / name) for key, name in files.items())
        if not (of_these and told.get("grader") == grader and _GRADER.fullmatch(grader) and whole):
            raise StoreError(f"the scores by {grader} on the server are not those of its record")


def _sha256_if(path: Path) -> str | None:
    return file_sha256(path) if path.exists() else None


def _put(files: JobFiles, folder: Path) -> None:
    """Copies what was fetched into place, DONE last, as a worker would that holds the job's claim; of a job that is
    here only what came later.
    """
    record = read_json(folder / "record.json")
    files.folder.mkdir(parents=True, exist_ok=True)
    claim = acquire(files)
    if claim is None:
        raise StoreError(f"{files.id} is running here at the moment; pull again when it has ended")
    try:
        if is_done(files):
            if done_attempt(files).record.read_bytes() != (folder / "record.json").read_bytes():
                raise StoreError("the server has another result of this job; it is not mixed with the one here")
            _copy_scores(folder, files)
            for name in (CELLS, _PULLED):
                if (folder / name).exists():
                    _copy(folder / name, done_attempt(files).output(name))
            return
        attempt: Attempt = files.attempt(1 + max([0, *(a.number for a in files.attempts())]))
        attempt.folder.mkdir()
        if not files.spec.exists():  # one that is here tells how the job is run here
            _copy(folder / "spec.json", files.spec)
        outputs = [name for name in record["outputs"] if not name.startswith(f"{MODEL}/")]
        for name in ["attempt.json", "timing.jsonl", CELLS, _PULLED, *outputs, "record.json"]:
            if (folder / name).exists():
                _copy(folder / name, attempt.output(name))
        if len(outputs) < len(record["outputs"]):
            write_json(attempt.pruned, {"outputs": [MODEL], "reason": "pulled from W&B, which has no weights"})
        _copy_scores(folder, files)
        publish(files, attempt)
    finally:
        claim.release()


def _copy_scores(folder: Path, files: JobFiles) -> None:
    """Of graders whose scores are not here, files whose digests are known; summaries last, which say that the rest is
    there.
    """
    for summary in sorted((folder / SCORES).glob("*.json")):
        grader = summary.stem
        if not files.scores_summary(grader).exists():
            checked = [files.scores(grader), files.scores_summary(grader)]
            if "answers_sha256" in read_json(summary):
                checked.insert(0, files.scores_answers(grader))
            for path in checked:
                _copy(folder / SCORES / path.name, path)


def _copy(source: Path, path: Path) -> None:
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)


def _tell(layout: Layout, target: Target, job_ids: Iterable[str], only: str, out: Pulled) -> None:
    """A launch of each sweep, or of one, with the cells that these jobs came with, unless the sweep has them all."""
    by_sweep: dict[str, list[tuple[int, Any]]] = {}
    for job_id in job_ids:
        for attempt in layout.job(job_id).attempts():
            try:
                for sweep, mine in (read_json_if(attempt.output(CELLS)) or {}).items():
                    if not only or sweep == only:
                        placed = [(int(place), _cell(cell)) for place, cell in mine.items()]
                        by_sweep.setdefault(_name(sweep), []).extend(placed)
            except (StoreError, AttributeError, KeyError, TypeError, ValueError) as error:
                out.problems[job_id] = f"its cells are not what a launch tells of them ({error!r})"
    for theirs, fetched in sorted(by_sweep.items()):
        sweep = _free(layout, theirs)
        files = layout.sweep(sweep)
        launches = files.launches()
        number = launches[-1] + 1 if launches else 1
        before = read_json(files.manifest(launches[-1]))["cells"] if launches else []
        in_order = [*before, *(cell for _, cell in sorted(fetched, key=lambda placed: placed[0]))]
        every = list({json.dumps(cell, sort_keys=True): cell for cell in in_order}.values())
        out.sweeps[theirs] = sweep
        if len(every) == len(before):
            continue
        specs = {job: _spec(layout, job) for cell in every for job in cell["jobs"].values() if job}
        here = [spec for _, spec in sorted(specs.items()) if spec]
        write_jsonl_gz(files.specs(number), [spec.plain() for spec in here])
        manifest = {
            "sweep": sweep,
            "launch": number,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": ["bll", "pull", target.path],
            "launcher": {"name": "local", "options": {}},
            "shapes": [],
            "cells": every,
            "jobs": [{"id": s.job.id, "kind": s.job.kind, "parents": list(s.job.parents), "shape": 0} for s in here],
        }
        write_json(files.manifest(number), manifest)


def _spec(layout: Layout, job_id: str) -> Spec | None:
    files = layout.job(job_id)
    return read_spec(files) if files.spec.exists() else None


def _name(sweep: str) -> str:
    if not re.fullmatch(r"[\w@=,+-][\w@=,.+-]*", sweep):
        raise StoreError(f"the server names a sweep {sweep!r}, which is no name of one")
    return sweep


def _free(layout: Layout, sweep: str) -> str:
    """The name, or another one where a sweep that was launched here has it: whose grid that is, its launches say."""
    launches = layout.sweep(sweep).launches()
    last = read_json(layout.sweep(sweep).manifest(launches[-1])) if launches else None
    return sweep if last is None or last["command"][:2] == ["bll", "pull"] else f"{sweep}-pulled"


def _cell(cell: Any) -> dict[str, Any]:
    """As it is, if it is one."""
    if not all(job is None or _JOB.fullmatch(job) for job in cell["jobs"].values()):
        raise ValueError(f"jobs {cell['jobs']}")
    return {"labels": dict(cell["labels"]), "overrides": list(cell["overrides"]), "primary": str(cell["primary"]),
            "graders": list(cell.get("graders", [])), "jobs": dict(cell["jobs"])}  # fmt: skip
