"""From the store to a W&B server: one clean run per job, replayed from the job's own rows and record.

A ledger in the store says what is there. It is written once the server has confirmed that it holds every row, so that
a publish that was killed, or a server that lost something, is put right by the next one: a run that is there already
goes on from the row that it lacks (session.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bll_sweeps.errors import StoreError, UsageError
from bll_sweeps.grid.settings import Tracker
from bll_sweeps.grid.spec import Spec, read_spec
from bll_sweeps.store.layout import Attempt, Layout
from bll_sweeps.store.records import Record, read_json_if, read_record, write_json
from bll_sweeps.tracking import names
from bll_sweeps.tracking.content import Content, Sweeps, besides, code_of, content, identity, rows, sweeps_of
from bll_sweeps.tracking.wandb import described, is_online

if TYPE_CHECKING:
    from bll_sweeps.tracking.session import Alive

VERSION = 2  # of what a published run holds; another one publishes all of them again
AT_ONCE = 8
_PAGE = 200  # runs asked for in one request
FINISH_TIMEOUT_S = 900  # for what a run still has to send; a job has half a minute
_SILENT = "the server does not answer any more"
_LOOK_AGAIN_S = (1.0, 2.0, 4.0)  # a server may take a moment to count what it was sent


@dataclass(frozen=True)
class Target:
    """A project on a server. entity: '' for the user's default one."""

    project: str
    entity: str = ""

    @property
    def path(self) -> str:
        """As the client's API names it."""
        return f"{self.entity}/{self.project}"

    def key(self, base_url: str) -> str:
        """Names the server and project in the ledger."""
        return hashlib.sha256(f"{base_url.rstrip('/')}\n{self.entity}\n{self.project}".encode()).hexdigest()[:16]


def target_of(layout: Layout, job_ids: Iterable[str]) -> Target:
    """Where the jobs log to, by the first of them whose spec can be read."""
    for job_id in job_ids:
        with contextlib.suppress(StoreError):
            own = read_spec(layout.job(job_id)).tracker
            return Target(own.project, own.entity)
    return Target(Tracker.project)


@dataclass(frozen=True)
class Item:
    """A job that the server lacks, or of which it has something older."""

    job_id: str
    spec: Spec
    record: Record | None  # None: it still runs (--live)
    attempt: Attempt
    digest: str


@dataclass
class Published:
    """How many jobs were brought to the server, were there already, still run; what went wrong, by job."""

    new: int = 0
    known: int = 0
    unfinished: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    address: str = ""  # of the project, for a browser


def publish(
    layout: Layout,
    job_ids: Iterable[str],
    target: Target,
    *,
    live: bool = False,
    again: bool = False,
    at_once: int = AT_ONCE,
    on_job: Callable[[int, int], None] = lambda done, total: None,
) -> Published:
    """Brings the finished jobs to the server; live: those that run too, as far as they are.

    again: whatever the ledger says. on_job(jobs brought, jobs to bring). UsageError without a key, ConnectionError
    without a server; one that falls silent later ends it within minutes, with what it confirmed written down.
    """

    from bll_sweeps.tracking.session import Alive, service

    out = Published()
    with service() as folder:
        target, server = reachable(target)
        out.address = address(target)
        sweeps, alive = sweeps_of(layout), Alive()
        work = list(_work(layout, job_ids, sweeps, server, live, again, out))
        done = itertools.count(1)
        for i in range(0, len(work), _PAGE):
            part = work[i : i + _PAGE]
            counts: dict[str, int] = {}
            threads = ThreadPoolExecutor(at_once)
            try:
                alive.watch()
                futures = {threads.submit(_bring, layout, item, sweeps, target, folder, alive): item for item in part}
                for future in as_completed(futures):
                    item = futures[future]
                    try:
                        counts[item.job_id] = future.result()
                    except Exception as error:  # noqa: BLE001 - wandb raises what it likes; the job is named
                        out.problems[item.job_id] = _SILENT if alive.gone else described(error)
                    on_job(next(done), len(work))
            finally:  # Ctrl-C leaves what has not begun, and writes down what is there
                threads.shutdown(cancel_futures=True)
                alive.stop()
                sent = [item for item in part if item.job_id in counts]
                if alive.gone:
                    out.problems |= {item.job_id: _SILENT for item in sent}
                else:
                    _confirm(layout, sent, counts, target, server, out)
    return out


def reachable(target: Target) -> tuple[Target, str]:
    """The target with its entity, and its key in the ledger. UsageError without a key that the server takes,
    ConnectionError without a server.
    """
    import wandb

    settings = wandb.setup().settings
    try:
        own = str(wandb.Api(timeout=30).default_entity or "")  # asks the server, also where an entity is given
    except Exception as error:  # noqa: BLE001 - wandb raises what it likes
        problem = f"W&B at {settings.base_url} cannot be used ({described(error)})"
        if _is_the_keys(error):
            where = "a key comes from `wandb login` or $WANDB_API_KEY, another server from $WANDB_BASE_URL"
            raise UsageError(f"{problem}: {where}") from None
        raise ConnectionError(f"{problem}: it does not answer, or not as W&B does ($WANDB_BASE_URL)") from None
    entity = target.entity or own
    found = Target(target.project, entity)
    return found, found.key(settings.base_url)


def address(target: Target) -> str:
    """Of the project, for a browser."""
    import wandb

    where = {"entity": target.entity, "project": target.project}
    return str(wandb.setup().settings.model_copy(update=where).project_url)


def _is_the_keys(error: Exception) -> bool:
    """Whether a key is missing, is none, or is refused; wandb has one type of error for these and for an outage."""
    import wandb

    if isinstance(error, wandb.errors.UsageError):
        return True
    answer = getattr(error.__cause__, "response", None)
    refused = answer is not None and answer.http_status < 500
    return isinstance(error, wandb.errors.AuthenticationError) and (error.__cause__ is None or refused)


def _work(
    layout: Layout, job_ids: Iterable[str], sweeps: Sweeps, server: str, live: bool, again: bool, out: Published
) -> Iterator[Item]:
    """What is to be brought; counts the rest."""
    for job_id in dict.fromkeys(job_ids):
        files = layout.job(job_id)
        try:
            record, spec = read_record(files), read_spec(files)
            if record is None:
                out.unfinished += 1
                attempts = files.attempts() if live else []
                # A job that is online itself has its run in hand; two writers would write over each other's rows.
                if attempts and not is_online(spec.tracker, attempts[-1].wandb):
                    yield Item(job_id, spec, None, attempts[-1], "")
                continue
            attempt = record.attempt
            digest = _digest(layout, spec, record, sweeps)
            known = read_json_if(layout.published(server, job_id))
            if known and known["digest"] == digest and not again:
                out.known += 1
                continue
            yield Item(job_id, spec, record, attempt, digest)
        except StoreError as error:
            out.problems[job_id] = str(error)


def _digest(layout: Layout, spec: Spec, record: Record, sweeps: Sweeps) -> str:
    """Of all that a run follows from."""
    mine = identity(layout, spec, sweeps.of.get(spec.job.id, []))
    told = [VERSION, mine.tags, mine.group, spec.plain(), record.outputs, record.result, besides(record, sweeps)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _bring(layout: Layout, item: Item, sweeps: Sweeps, target: Target, folder: Path, alive: Alive) -> int:
    """The number of rows that the run has now."""
    from bll_sweeps.tracking.session import Session

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
        code=code_of(item.attempt),
        result=str(rest.summary.get(names.ROWS, "")),
        ends=item.record is not None,
        runs_here=False,
        finish_timeout_s=FINISH_TIMEOUT_S,
    )
    try:
        with session.together():
            for row in told:
                session.log(row)
        if item.record:
            session.add(rest, model=item.spec.tracker.checkpoints)
    except BaseException:
        with contextlib.suppress(Exception):
            session.finish(ok=False)
        raise
    session.finish()
    return session.count


def _confirm(
    layout: Layout, items: Sequence[Item], counts: dict[str, int], target: Target, server: str, out: Published
) -> None:
    """Writes the ledger for what the server says it has, whole; the rest is a problem."""
    left = list(items)
    for wait_s in (0.0, *_LOOK_AGAIN_S):
        if not left:
            return
        time.sleep(wait_s)
        try:
            there = _on_server(left, target)
        except Exception as error:  # noqa: BLE001 - wandb raises what it likes; nothing is confirmed then
            out.problems |= {item.job_id: f"the server does not tell what it has ({described(error)})" for item in left}
            return
        whole = {item.job_id for item in left if _is_whole(item, there, counts)}
        for item in left:
            if item.job_id in whole and item.record:
                told = {"digest": item.digest, "rows": counts[item.job_id]}
                write_json(layout.published(server, item.job_id), told)
                out.new += 1
        left = [item for item in left if item.job_id not in whole]
    for item in left:
        state, lines = there.get(item.job_id, ("missing", 0))
        problem = f"the server has it as {state} with {lines} of {counts[item.job_id]} rows"
        # As when an earlier attempt was logged at other steps.
        remedy = "give another --project" if lines > counts[item.job_id] else "publish it again"
        out.problems[item.job_id] = f"{problem}; {remedy}"


def _on_server(items: Sequence[Item], target: Target) -> dict[str, tuple[str, int]]:
    """State and number of rows of the items' runs that the server has."""
    import wandb

    named = {"name": {"$in": [item.job_id for item in items]}}
    found = wandb.Api(timeout=60).runs(target.path, filters=named, per_page=_PAGE, lazy=True)
    return {run.id: (run.state, run.historyLineCount) for run in found}


def _is_whole(item: Item, there: dict[str, tuple[str, int]], counts: dict[str, int]) -> bool:
    state, lines = there.get(item.job_id, ("missing", 0))
    if item.record is None:  # a later attempt of a job that runs may be behind what an earlier one brought
        return lines >= counts[item.job_id]
    return lines == counts[item.job_id] and state == "finished"
