"""From the store to a W&B server: one clean run per job, replayed from the job's own rows and record.

A ledger in the store says what is there. It is written once the server has confirmed that it holds every row, so that
a publish that was killed, or a server that lost something on the way, is put right by the next one: a run that is there
already goes on from the row that it lacks, if its rows are the job's (session.py). What is removed from the server
later is brought again only where that is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bll_sweeps.errors import StoreError
from bll_sweeps.grid.spec import Spec, read_spec
from bll_sweeps.store.claims import acquire, claimed, live_claim
from bll_sweeps.store.layout import Attempt, Layout
from bll_sweeps.store.records import Record, read_json_if, read_record, write_json
from bll_sweeps.tracking import names
from bll_sweeps.tracking.content import Content, Sweeps, besides, content, identity, rows, sweeps_of
from bll_sweeps.tracking.server import AT_ONCE, PAGE, Target, address, reachable
from bll_sweeps.tracking.wandb import described, is_online

if TYPE_CHECKING:
    from bll_sweeps.tracking.service import Alive

VERSION = 3  # of what a published run holds; another one brings all of them up to date, but for what was logged as rows
FINISH_TIMEOUT_S = 900  # for what a run still has to send; a job has half a minute
_SILENT = "the server does not answer any more"
_LOOK_AGAIN_S = (1.0, 2.0, 4.0)  # a server may take a moment to count what it was sent


@dataclass(frozen=True)
class Item:
    """A job that the server lacks, or of which it has something older."""

    job_id: str
    spec: Spec
    record: Record | None  # None: it still runs (--live)
    attempt: Attempt
    digest: str


@dataclass(frozen=True)
class Brought:
    """The run, how many rows it has now, and how many runs of another result were marked for it."""

    run: str
    rows: int
    superseded: int


@dataclass
class Published:
    """How many jobs were brought to the server, were there already, are not finished; of the latter, how many were
    brought as far as they are, and how many are online themselves; how many earlier runs were superseded; what went
    wrong, by job.
    """

    new: int = 0
    known: int = 0
    unfinished: int = 0
    live: int = 0
    online: int = 0
    superseded: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    address: str = ""  # of the project, for a browser


def publish(
    layout: Layout,
    job_ids: Iterable[str],
    target: Target,
    *,
    live: bool = False,
    again: bool = False,
    supersede: bool = False,
    at_once: int = AT_ONCE,
    on_job: Callable[[int, int], None] = lambda done, total: None,
) -> Published:
    """Brings the finished jobs to the server; live: those that run too, as far as they are.

    again: whatever the ledger says. supersede: where the server has another result of a job, this one gets a run of its
    own, as it does anyway where that is only the beginning of one. on_job(jobs brought, jobs to bring).

    UsageError without a key, ConnectionError without a server; one that falls silent later ends it within minutes, with
    what it confirmed written down. StoreError while another publish from this store to the same place is at work: of
    two writers of a run neither knows what it holds.
    """
    from bll_sweeps.tracking.service import Alive, service

    out = Published()
    with service() as folder, contextlib.ExitStack() as within:
        target, server = reachable(target)
        out.address = address(target)
        claim = acquire(layout.published(server))
        if claim is None:
            raise StoreError(f"another `bll publish` to {out.address} is at work ({_who(layout, server)}): wait for it")
        within.enter_context(claimed(claim))
        sweeps, alive = sweeps_of(layout), Alive()
        work = list(_work(layout, job_ids, sweeps, server, live, again, out))
        done = itertools.count(1)
        for i in range(0, len(work), PAGE):
            part = work[i : i + PAGE]
            brought: dict[str, Brought] = {}
            threads = ThreadPoolExecutor(at_once)
            try:
                alive.watch()
                futures = {
                    threads.submit(_bring, layout, item, sweeps, target, folder, alive, supersede): item
                    for item in part
                }
                for future in as_completed(futures):
                    item = futures[future]
                    try:
                        brought[item.job_id] = future.result()
                    except Exception as error:  # noqa: BLE001 - wandb raises what it likes; the job is named
                        out.problems[item.job_id] = _SILENT if alive.gone else described(error)
                    on_job(next(done), len(work))
            finally:  # Ctrl-C leaves what has not begun, and writes down what is there
                threads.shutdown(cancel_futures=True)
                alive.stop()
                sent = [item for item in part if item.job_id in brought]
                out.superseded += sum(one.superseded for one in brought.values())
                if alive.gone:
                    out.problems |= {item.job_id: _SILENT for item in sent}
                else:
                    _confirm(layout, sent, brought, target, server, out)
    return out


def _who(layout: Layout, server: str) -> str:
    owner = live_claim(layout.published(server)) or {}
    return "{user} on {host}, process {pid}".format_map({"user": "?", "host": "?", "pid": "?"} | owner)


def _work(
    layout: Layout, job_ids: Iterable[str], sweeps: Sweeps, server: str, live: bool, again: bool, out: Published
) -> Iterator[Item]:
    """What is to be brought; counts the rest."""
    for job_id in dict.fromkeys(job_ids):
        files = layout.job(job_id)
        try:
            record, spec = read_record(files), read_spec(files)
            attempts = files.attempts()
            # A job that is online itself has its run in hand, also while it closes that after its end; two writers
            # would write over each other's rows.
            busy = bool(attempts) and is_online(spec.tracker, attempts[-1].wandb) and bool(live_claim(files))
            known = read_json_if(layout.published(server).job(job_id))
            if record is None:
                out.unfinished += 1
                if busy:
                    out.online += 1
                elif live and attempts and not known:  # else it is run again, and its result is there
                    yield Item(job_id, spec, None, attempts[-1], "")
                continue
            attempt = record.attempt
            digest = _digest(layout, spec, record, sweeps)
            if known and known["digest"] == digest and not again:
                out.known += 1
            elif busy:
                out.unfinished, out.online = out.unfinished + 1, out.online + 1
            else:
                yield Item(job_id, spec, record, attempt, digest)
        except StoreError as error:
            out.problems[job_id] = str(error)


def _digest(layout: Layout, spec: Spec, record: Record, sweeps: Sweeps) -> str:
    """Of all that a run follows from."""
    mine = identity(layout, spec, sweeps.of.get(spec.job.id, []))
    told = [VERSION, mine.tags, mine.group, spec.plain(), record.outputs, record.result, besides(record, sweeps)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _bring(
    layout: Layout, item: Item, sweeps: Sweeps, target: Target, folder: Path, alive: Alive, supersede: bool
) -> Brought:
    from bll_sweeps.tracking.session import OtherResult, Session

    if alive.gone:
        raise ConnectionError(_SILENT)
    own = identity(layout, item.spec, sweeps.of.get(item.job_id, []))
    told = rows(item.attempt)
    rest = content(layout, item.spec, item.record, sweeps) if item.record else Content()
    session = Session(
        "online",
        own,
        folder / item.job_id,
        project=target.project,
        entity=target.entity,
        supersede="any" if supersede else "unfinished",
        ends=item.record is not None or item.attempt.failure.exists(),
        runs_here=False,
        began=_began(item.attempt, told),
        finish_timeout_s=FINISH_TIMEOUT_S,
    )
    try:
        if item.record:
            session.require(str(rest.summary.get(names.ROWS, "")))
        with session.together():
            for row in told:
                session.log(row)
        if item.record:
            session.add(rest, model=item.spec.tracker.checkpoints)
    except BaseException as error:
        if not isinstance(error, OtherResult):  # that run is closed already
            with contextlib.suppress(Exception):
                session.finish(ok=False)
        raise
    session.finish(ok=item.record is not None or not item.attempt.failure.exists())
    shutil.rmtree(folder / item.job_id, ignore_errors=True)  # else all jobs' lie there in the end
    return Brought(session.id, session.count, session.superseded)


def _began(attempt: Attempt, told: list[dict[str, Any]]) -> float | None:
    """When the job would have begun, had it run in one go until its attempt ended; None if that is not known."""
    provenance = read_json_if(attempt.provenance) or {}
    if not told:
        return datetime.fromisoformat(provenance["started_at"]).timestamp() if "started_at" in provenance else None
    if "finished_at" in provenance:
        ended = datetime.fromisoformat(provenance["finished_at"]).timestamp()
    else:
        ended = attempt.output("metrics.jsonl").stat().st_mtime
    return ended - float(told[-1].get("elapsed_s", 0.0))


def _confirm(
    layout: Layout, items: Sequence[Item], brought: dict[str, Brought], target: Target, server: str, out: Published
) -> None:
    """Writes the ledger for what the server says it has, whole; the rest is a problem."""
    left = list(items)
    for wait_s in (0.0, *_LOOK_AGAIN_S):
        if not left:
            return
        time.sleep(wait_s)
        try:
            there = _on_server([brought[item.job_id].run for item in left], target)
        except Exception as error:  # noqa: BLE001 - wandb raises what it likes; nothing is confirmed then
            out.problems |= {item.job_id: f"the server does not tell what it has ({described(error)})" for item in left}
            return
        whole = {item.job_id for item in left if _is_whole(item, there, brought[item.job_id])}
        for item in left:
            if item.job_id in whole and item.record:
                mine = brought[item.job_id]
                told = {"digest": item.digest, "rows": mine.rows, "run": mine.run, "project": out.address}
                write_json(layout.published(server).job(item.job_id), told)
                out.new += 1
            elif item.job_id in whole:
                out.live += 1
        left = [item for item in left if item.job_id not in whole]
    for item in left:
        mine = brought[item.job_id]
        state, lines = there.get(mine.run, ("missing", 0))
        problem = f"the server has it as {state} with {lines} of {mine.rows} rows"
        remedy = "give another --project" if lines > mine.rows else "publish it again"
        out.problems[item.job_id] = f"{problem}; {remedy}"


def _on_server(run_ids: Sequence[str], target: Target) -> dict[str, tuple[str, int]]:
    """State and number of rows of those of the runs that the server has."""
    import wandb

    named = {"name": {"$in": list(run_ids)}}
    found = wandb.Api(timeout=60).runs(target.path, filters=named, per_page=PAGE, lazy=True)
    return {run.id: (run.state, run.historyLineCount) for run in found}


def _is_whole(item: Item, there: dict[str, tuple[str, int]], mine: Brought) -> bool:
    state, lines = there.get(mine.run, ("missing", 0))
    if item.record is None:  # a later attempt of a job that runs may be behind what an earlier one brought
        return lines >= mine.rows
    return lines == mine.rows and state == "finished"
