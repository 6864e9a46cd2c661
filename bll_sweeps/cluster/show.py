"""One job or cell in full, and its log: `bll show`, `bll logs`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from bll_sweeps.cluster.status import damage, failure, find_job, job_state, last_sweep, read_manifest
from bll_sweeps.cluster.submissions import Queue
from bll_sweeps.errors import StoreError, UsageError
from bll_sweeps.grid.cell import KINDS
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.claims import live_claim
from bll_sweeps.store.layout import JobFiles, Layout
from bll_sweeps.store.records import read_json_if, read_record

_ASK_SLURM_S = 5.0


def show(layout: Layout, text: str) -> str:
    """What is known of the job or, for `objective,backbone,benchmark` (also `seed=0,...`), of the jobs of that cell."""
    if "," in text or "=" in text:
        return "\n\n".join(_job(layout, job_id) for job_id in _cell_jobs(layout, text.split(",")))
    return _job(layout, find_job(layout, text))


def _cell_jobs(layout: Layout, words: list[str]) -> list[str]:
    """Jobs of the one cell that has all `words` among its names, in the newest sweep that has such a cell."""
    last_sweep(layout)  # complains if there is none
    for sweep in reversed(layout.sweeps()):
        cells = [c for c in read_manifest(layout, sweep)["cells"] if all(_named(c["labels"], word) for word in words)]
        if len(cells) > 1:
            names = "; ".join(",".join(f"{k}={v}" for k, v in c["labels"].items()) for c in cells[:3])
            raise UsageError(
                f"cell={','.join(words)!r} is ambiguous: {len(cells)} cells of {sweep} have these names: {names}"
            )
        if cells:
            return [job_id for kind in KINDS if (job_id := cells[0]["jobs"][kind])]
    raise UsageError(f"cell={','.join(words)!r} is in none of the sweeps {', '.join(layout.sweeps())}")


def _named(labels: dict[str, Any], word: str) -> bool:
    """Whether a cell has the word among its names: `nll`, or `objective=nll` where one name could be several axes'."""
    key, equals, value = word.partition("=")
    return str(labels.get(key)) == value if equals else word in map(str, labels.values())


def _job(layout: Layout, job_id: str) -> str:
    files = layout.job(job_id)
    state = job_state(files, this_code=True)
    lines = [
        f"{files.id}  {'done, made by other code' if state == 'stale' else state}",
        f"folder   {files.folder}",
    ]
    try:
        spec = read_spec(files)
        lines.append(f"parents  {', '.join(spec.job.parents) or '-'}")
        lines.append("labels   " + ", ".join(f"{key}={value}" for key, value in spec.labels.items()))
        lines.append("content  " + json.dumps(spec.job.content(), sort_keys=True, indent=1))
        lines.append("execution " + json.dumps(vars(spec.execution)))
    except StoreError as error:
        lines.append(f"spec     {error}")
    lines += _outcome(files, state)
    told = [read_json_if(there.job(job_id)) for there in layout.publications()]
    lines += [f"on W&B   {one['project']}/runs/{one['run']}" for one in told if one and "run" in one]
    return "\n".join(lines)


def _outcome(files: JobFiles, state: str) -> list[str]:
    if state == "damaged":
        return [f"damage   {damage(files)}"]
    if state == "failed":
        found: dict[str, Any] = failure(files) or {}
        return [f"error    {found.get('message')}", found.get("traceback", "").rstrip()]
    if state == "running":
        who = live_claim(files) or {}
        return [f"by       {who.get('host')} pid {who.get('pid')}, attempt {len(files.attempts())}"]
    record = read_record(files) if state in ("done", "stale") else None
    if record is None:
        return []
    return [
        f"attempt  {json.dumps(record.provenance(), sort_keys=True)}",
        f"result   {json.dumps(record.result, sort_keys=True, indent=1)}",
        "outputs  " + ", ".join(sorted(record.outputs)),
    ]


def log_text(layout: Layout, job_id: str, *, follow: bool = False, attempt: int = 0, rank: int = 0) -> Iterator[str]:
    """The log of the job's attempt (0: the last) in pieces; with `follow` until the job neither runs nor waits in
    SLURM's queue, over to the next attempt where one begins. UsageError if there is none.
    """
    files = layout.job(job_id)
    attempts = files.attempts()
    if not attempts and not follow:
        raise UsageError(f"job={job_id!r} has not been started yet, so it has no log")
    if attempt and attempt not in [a.number for a in attempts]:
        raise UsageError(f"attempt={attempt} is none of {job_id}'s: {', '.join(str(a.number) for a in attempts)}")
    while not attempts:
        time.sleep(0.5)
        attempts = files.attempts()
    chosen = files.attempt(attempt) if attempt else attempts[-1]
    if rank and not chosen.log(rank).exists() and not follow:
        raise UsageError(f"rank={rank} has no log in attempt {chosen.number} of {job_id}")
    position, may_go_on = 0, _may_go_on(layout, files)
    while True:
        unfinished = may_go_on() if follow else False  # asked before reading, so that the last lines are not missed
        log = chosen.log(rank)
        if log.exists():
            with log.open(errors="replace") as stream:
                stream.seek(position)
                if text := stream.read():
                    yield text
                position = stream.tell()
        newest = files.attempts()[-1]
        if follow and not attempt and newest != chosen:
            chosen, position = newest, 0
            yield f"--- attempt {newest.number} ---\n"
        elif not unfinished:
            return
        else:
            time.sleep(0.5)


def _may_go_on(layout: Layout, files: JobFiles) -> Callable[[], bool]:
    """Whether the job runs, or may run again by itself: SLURM is asked every few seconds while it does not run."""
    queue = Queue(layout)
    asked, queued = -1e9, False

    def may_go_on() -> bool:
        nonlocal asked, queued
        state = job_state(files)
        if state == "new" and time.monotonic() - asked > _ASK_SLURM_S:
            queued, asked = queue.look([files.id]).live(files.id) is not None, time.monotonic()
        return state == "running" or (state == "new" and queued)

    return may_go_on
