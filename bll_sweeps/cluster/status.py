"""What the disk says of a sweep: no live process, no database, no scheduler needed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bll_sweeps.cluster.words import duration, plural
from bll_sweeps.code import code_digest
from bll_sweeps.errors import StoreError, UsageError, one_of
from bll_sweeps.grid.cell import KINDS
from bll_sweeps.grid.plan import State
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.claims import is_alive, live_claim
from bll_sweeps.store.layout import Attempt, JobFiles, Layout, WorkerFiles
from bll_sweeps.store.records import is_done, read_json, read_json_if, read_record

if TYPE_CHECKING:
    from bll_sweeps.cluster.submissions import QueueView

# As `State`, seen from a sweep: `new` is `pending` or, below a failed or damaged parent, `blocked`; on SLURM it is
# `unsubmitted` if it is in no queue.
Shown = Literal["done", "running", "pending", "unsubmitted", "failed", "blocked", "damaged"]
# How SLURM ends what it does not requeue, though nothing is wrong with the job.
LOST = ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL")
SHOWN: tuple[Shown, ...] = ("done", "running", "pending", "unsubmitted", "failed", "blocked", "damaged")


def job_state(files: JobFiles, *, this_code: bool = False) -> State:
    """The job's state. With `this_code`, as for a plan, a result that other code made is `stale` instead of `done`, and
    one whose weights were removed is `pruned`.
    """
    if is_done(files):
        if damage(files):
            return "damaged"
        record = read_record(files)
        if not this_code or record is None:
            return "done"
        if record.pruned():
            return "pruned"
        return "done" if record.provenance().get("code") == code_digest() else "stale"
    if not files.folder.is_dir():
        return "new"
    if failure(files) is not None:
        return "failed"  # before the claim, which is held until the whole batch of the job has ended
    if live_claim(files):
        return "running"
    return "damaged" if spec_problem(files) else "new"


def failure(files: JobFiles) -> dict[str, Any] | None:
    """failure.json of the last attempt: {"message", "traceback", "at"}, or None if it did not fail."""
    attempts = files.attempts()
    try:
        return read_json(attempts[-1].failure) if attempts else None
    except FileNotFoundError:
        return None
    except StoreError as error:
        return {"message": str(error), "traceback": "", "at": ""}


def damage(files: JobFiles, *, deep: bool = False) -> str | None:
    """What is damaged about a job, in a sentence that names the file; None if nothing is. `deep` reads all outputs."""
    if not is_done(files):
        return spec_problem(files) if files.folder.is_dir() else None
    try:
        record = read_record(files)
        assert record is not None
        record.provenance()
        for name, digest in record.kept().items():
            path = record.attempt.folder / name
            if deep:
                record.output(name)
            elif (not path.exists() or path.stat().st_size != digest["bytes"]) and name in record.kept():
                return f"{path} is missing or differs from its record; `bll retry` runs its job again"
    except (StoreError, OSError) as error:
        return str(error)
    return None


def spec_problem(files: JobFiles) -> str | None:
    """What is wrong with the job's spec, or None. A spec that has not changed is checked once."""
    try:
        stat = files.spec.stat()
    except FileNotFoundError:
        return _spec_problem(files, 0, 0)
    return _spec_problem(files, stat.st_mtime_ns, stat.st_size)


@cache
def _spec_problem(files: JobFiles, mtime_ns: int, size: int) -> str | None:
    try:
        read_spec(files)
    except StoreError as error:
        return str(error)
    return None


def live_pools(layout: Layout, sweep: str) -> list[WorkerFiles] | None:
    """Pools of workers of `sweep` whose launcher lives on this machine; None if one may live on another."""
    pools = []
    for pool in layout.worker_pools():
        try:
            found = read_json(pool.launcher)
        except (OSError, StoreError):
            continue  # it died while it started
        if found["sweep"] != sweep or pool.stop.exists():
            continue
        alive = is_alive(found["owner"])
        if alive is None:
            return None
        if alive:
            pools.append(pool)
    return pools


def job_names(manifest: dict[str, Any]) -> dict[str, str]:
    """A readable name of each job of a manifest: what distinguishes it, e.g. `train p10 lab-a lab-spell`."""
    axes = {
        "pretrain": ("backbone",),
        "prior": ("backbone", "domain"),
        "train": ("objective", "backbone", "domain"),
        "evaluate": ("objective", "backbone", "benchmark"),
    }
    names: dict[str, str] = {}
    cells = manifest["cells"]
    shared = set.intersection(*(set(cell["overrides"]) for cell in cells)) if len(cells) > 1 else set()
    for cell in cells:
        values = [text for text in cell["overrides"] if text not in shared]
        values = [text for text in values if "." in text.partition("=")[0]]  # axis choices have no dot
        for kind, job_id in cell["jobs"].items():
            if job_id and job_id not in names:
                words = [str(cell["labels"][key]) for key in axes[kind]]
                if kind in ("train", "evaluate") and cell["labels"]["seed"]:
                    words.append(f"seed={cell['labels']['seed']}")
                words += [text for text in values if kind != "pretrain" or text.startswith("backbone.")]
                names[job_id] = " ".join([kind, *words])
    return names


@dataclass(frozen=True)
class JobStatus:
    id: str
    kind: str
    state: Shown
    detail: str = ""  # progress, why it waits, the first line of the error, or what blocks it
    done: int = 0
    total: int = 0
    slurm: str = ""  # its element in SLURM's queue
    stuck: bool = False  # pending, but SLURM holds it, or what it waits for, until it is released

    def plain(self) -> dict[str, Any]:
        """Without what is not known; done and total go together."""
        unknown = ("done", "total") if not self.total else ()
        return {key: value for key, value in vars(self).items() if value not in ("", False) and key not in unknown}


@dataclass
class SweepStatus:
    sweep: str
    launch: int
    created_at: str
    cells: int
    jobs: list[JobStatus]
    seconds: dict[str, list[float]] = field(default_factory=dict)  # durations of done jobs by kind
    problem: str = ""  # why SLURM did not answer: what waits or runs is then only known from the disk
    refused: str = ""  # why SLURM took only a part, while workers are there that will submit the rest

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        out: dict[str, dict[str, int]] = {}
        for kind in KINDS:
            states = Counter(job.state for job in self.jobs if job.kind == kind)
            if states:
                out[kind] = {"total": sum(states.values())} | {state: states[state] for state in SHOWN}
        return out

    def number(self, *states: Shown) -> int:
        return sum(job.state in states for job in self.jobs)

    @property
    def finished(self) -> bool:
        """Nothing is left that could still run by itself."""
        moving = any(job.state == "running" or (job.state == "pending" and not job.stuck) for job in self.jobs)
        return not moving and not (self.refused and self.number("unsubmitted"))

    @property
    def stuck(self) -> list[JobStatus]:
        return [job for job in self.jobs if job.stuck]

    def verdict(self) -> str:
        """One line on what did not end well, with the first error and the remedy."""
        bad = [job for job in self.jobs if job.state in ("failed", "damaged")]
        if not bad and self.stuck:
            held = f"SLURM holds {plural(len(self.stuck), 'job')} until {self.sweep} is launched again"
            return f"{held}; {self.stuck[0].id}: {self.stuck[0].detail}"
        if not bad:
            left = [job for job in self.jobs if job.state in ("unsubmitted", "blocked")]
            why = next((f"; {job.id}: {job.detail}" for job in left if job.detail), "")
            return f"{len(left)} jobs are in no queue; launching {self.sweep} again submits them{why}"
        first = f"{bad[0].id}: {bad[0].detail}"
        return (
            f"{len(bad)} of {len(self.jobs)} jobs failed, {self.number('blocked')} are blocked by them; {first}; "
            f"`bll status {self.sweep}` lists them, `bll logs JOB` shows why, `bll retry {self.sweep}` runs them again"
        )

    def eta_s(self, workers: int) -> float | None:
        """Seconds to go, from the mean duration of each kind so far; None before one of each kind has ended."""
        if not workers:
            return None
        left = 0.0
        for job in self.jobs:
            if job.state not in ("pending", "running"):
                continue
            known = self.seconds.get(job.kind)
            if not known:
                return None
            mean = sum(known) / len(known)
            if job.state == "pending":
                left += mean
            else:
                left += mean * (1 - job.done / job.total if job.total else 0.5)
        return left / workers

    def plain(self) -> dict[str, Any]:
        return {
            "sweep": self.sweep,
            "launch": self.launch,
            "created_at": self.created_at,
            "cells": self.cells,
            "kinds": self.counts,
            "problem": self.problem,
            "jobs": [job.plain() for job in self.jobs],
        }


class SweepWatch:
    """Follows one launch of a sweep; finished jobs are read once, so that refreshing thousands of jobs is cheap.

    On SLURM each status asks it once what is queued, and only while jobs are left.
    """

    def __init__(self, layout: Layout, sweep: str, launch: int | None = None):
        from bll_sweeps.cluster.submissions import Queue

        self.layout = layout
        self.manifest = read_manifest(layout, sweep, launch)
        self.on_slurm = self.manifest.get("launcher", {}).get("name") == "slurm"
        self.refresh_s = 5.0 if self.on_slurm else 1.0  # how often to ask: SLURM answers a whole cluster
        self._order = _blocking_first(self.manifest)
        self._queue = Queue(layout)
        self._done: dict[str, float] = {}

    def status(self) -> SweepStatus:
        jobs = self.manifest["jobs"]
        left = [job_id for job_id in jobs if not is_done(self.layout.job(job_id))]
        marker = self.layout.sweep(self.manifest["sweep"]).unsubmitted(self.manifest["launch"])
        refused = (left and read_json_if(marker)) or {}
        # Those that will submit what was refused may have ended all their jobs: then they are found among all others.
        view = self._queue.look(None if refused else left) if left and self.on_slurm else None
        states: dict[str, JobStatus] = {}
        for job_id in self._order:
            parents = jobs[job_id]["parents"]
            found = self._job(job_id, jobs[job_id]["kind"], parents, states, view)
            if found.state == "pending" and any(p in states and states[p].stuck for p in parents):
                found = replace(found, stuck=True)
            states[job_id] = found
        seconds: dict[str, list[float]] = {}
        for job_id, took in self._done.items():
            seconds.setdefault(jobs[job_id]["kind"], []).append(took)
        m = self.manifest
        head = (m["sweep"], m["launch"], m["created_at"], len(m["cells"]))
        live = [q for q in view.jobs.values() if q.live] if view else []
        follows = any(q.submission.intent["user"] == refused.get("user") for q in live)  # others' workers do not
        problem = view.problem if view else ""
        return SweepStatus(*head, [states[i] for i in jobs], seconds, problem, refused["why"] if follows else "")

    def _job(
        self, job_id: str, kind: str, parents: Iterable[str], known: dict[str, JobStatus], view: QueueView | None
    ) -> JobStatus:
        files = self.layout.job(job_id)
        if job_id in self._done and is_done(files):
            return JobStatus(job_id, kind, "done")
        state = job_state(files)
        if state in ("done", "pruned"):
            self._done[job_id] = _seconds(files)
            return JobStatus(job_id, kind, "done")
        queued = view.live(job_id) if view else None
        where = queued.id if queued else ""
        if state == "running" and not (view and view.has_ended(live_claim(files))):
            done, total, detail = _progress(files)
            return JobStatus(job_id, kind, "running", detail, done, total, where)
        if state == "failed":
            found = failure(files)
            return JobStatus(job_id, kind, "failed", found["message"] if found else "")
        if state == "damaged":
            return JobStatus(job_id, kind, "damaged", damage(files) or "")
        canary = self.manifest.get("canary", ())
        waits_for = [*parents, *(canary if job_id not in canary and not queued else ())]
        blocking = [p for p in waits_for if p in known and known[p].state in ("failed", "blocked", "damaged")]
        if blocking:
            return JobStatus(job_id, kind, "blocked", f"by {', '.join(blocking)}")
        if view is None:
            return JobStatus(job_id, kind, "pending")
        return _in_slurm(job_id, kind, files, view, live_claim(self.layout.launching) is not None)


def _blocking_first(manifest: dict[str, Any]) -> list[str]:
    """The manifest's jobs so that what may block a job comes before it: parents, as in the manifest, and a canary."""
    jobs, first = manifest["jobs"], set(manifest.get("canary", ()))
    for job_id in reversed(jobs):  # children before parents
        if job_id in first:
            first.update(jobs[job_id]["parents"])
    return sorted(jobs, key=lambda job_id: job_id not in first)


def _in_slurm(job_id: str, kind: str, files: JobFiles, view: QueueView, launching: bool) -> JobStatus:
    """A job of which the disk says only that it is not done: what the queue says, or what became of its last try.
    `launching`: whether a launch is submitting just now.
    """
    newest = view.jobs.get(job_id)
    if newest is None:
        return JobStatus(job_id, kind, "unsubmitted")  # SweepStatus.refused may say why
    if newest.live:
        entry = newest.entry
        if entry is None:
            why = view.problem or f"SLURM shows it only to {newest.submission.intent['user']}"
            return JobStatus(job_id, kind, "pending", f"unknown: {why}", slurm=newest.id)
        if entry.held and not newest.submission.released and not launching:
            left = "left by a launch that died before it was released"
            return JobStatus(job_id, kind, "pending", left, slurm=newest.id, stuck=True)
        if entry.state == "PENDING":
            return JobStatus(job_id, kind, "pending", entry.reason, slurm=newest.id, stuck=entry.stuck)
        said = "ending" if entry.state == "COMPLETING" else f"starting ({entry.state.lower()})"
        return JobStatus(job_id, kind, "running", said, slurm=newest.id)
    if stopped := read_json_if(newest.submission.files.stopped):
        return JobStatus(job_id, kind, "blocked", stopped["why"])
    if newest.cancelled:
        return JobStatus(job_id, kind, "unsubmitted", "cancelled")
    state = newest.entry.state if newest.entry else ""
    if state == "COMPLETED":  # only an element whose jobs are all over ends so
        return JobStatus(job_id, kind, "running", "its record is not visible here yet", slurm=newest.id)
    ended = f"SLURM job {newest.id} is gone" + (f" ({state})" if state else "")
    if state in LOST:
        return JobStatus(job_id, kind, "unsubmitted", f"{ended}; its checkpoints are there")
    attempts = files.attempts()
    if not attempts or attempts[-1].interrupted.exists() or not newest.ran(attempts[-1]):
        died = state not in ("", "CANCELLED")
        return JobStatus(
            job_id, kind, "unsubmitted", ended + (f", see {newest.submission.files.private}" if died else "")
        )
    return JobStatus(job_id, kind, "failed", f"ended without a record: {_last_seen(attempts[-1])}{ended}")


def _last_seen(attempt: Attempt) -> str:
    """The memory that the attempt was seen to use, called by its name if it is about all that it was given."""
    try:
        found = read_json(attempt.memory)
    except (OSError, StoreError):
        return ""
    peak, limit = found["peak_mib"] / 1024, (found["limit_mib"] or 0) / 1024
    if limit and peak >= 0.8 * limit:
        return f"out of memory, at a measured peak of {peak:.1f} of the {limit:.1f} GiB asked for; "
    return f"it had used {peak:.1f} GiB; "


def tracking_problem(layout: Layout, manifest: dict[str, Any]) -> str:
    """In a line: how many jobs of a launch were to be on W&B and are not, and why the last one; '' if all are."""
    if manifest.get("tracker", {}).get("wandb") != "online":
        return ""
    attempts = {job_id: layout.job(job_id).attempts()[-1:] for job_id in manifest["jobs"]}
    found = {
        job_id: last[0].wandb_problem for job_id, last in attempts.items() if last and last[0].wandb_problem.exists()
    }
    there = {path.stem for place in layout.publications() for path in place.folder.glob("*.json")} if found else set()
    left = [path for job_id, path in found.items() if job_id not in there]
    if not left:
        return ""
    try:
        why = max(left, key=lambda path: path.stat().st_mtime).read_text().strip()
    except FileNotFoundError:  # its attempt is being removed
        why = "see their logs"
    return f"W&B: {plural(len(left), 'job')} not there, or not whole ({why}): `bll publish {manifest['sweep']}`"


def read_manifest(layout: Layout, sweep: str, launch: int | None = None) -> dict[str, Any]:
    """The manifest of a launch (default: the last), its jobs by id. UsageError for an unknown sweep."""
    files = layout.sweep(sweep)
    launches = files.launches()
    if not launches:
        known = layout.sweeps()
        raise UsageError(
            f"sweep={sweep!r} {one_of(known, sweep)}" if known else f"no sweep has been launched in {layout.root} yet"
        )
    manifest = read_json(files.manifest(launches[-1] if launch is None else launch))
    return manifest | {"jobs": {job["id"]: job for job in manifest["jobs"]}}


def last_sweep(layout: Layout) -> str:
    """The sweep that was launched last. UsageError if there is none."""
    known = layout.sweeps()
    if not known:
        raise UsageError(f"no sweep has been launched in {layout.root} yet")
    return known[-1]


def find_job(layout: Layout, text: str) -> str:
    """The id of the one job whose id starts with `text`, or with `text` after its kind. UsageError if there is not
    just one.
    """
    folder = layout.jobs
    known = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    hits = [job_id for job_id in known if job_id == text] or [
        job_id for job_id in known if job_id.startswith(text) or job_id.partition("-")[2].startswith(text)
    ]
    if len(hits) != 1:
        problem = (
            f"is ambiguous: {', '.join(hits[:5])}{' ...' if len(hits) > 5 else ''}"
            if hits
            else "is no job of this run root"
        )
        raise UsageError(f"job={text!r} {problem} ({folder})")
    return hits[0]


def _seconds(files: JobFiles) -> float:
    record = read_record(files)
    return float(record.provenance().get("seconds", 0.0)) if record else 0.0


def _progress(files: JobFiles) -> tuple[int, int, str]:
    """(done, total, in words with the time to go) of the running attempt."""
    attempts = files.attempts()
    try:
        data = json.loads(Path(attempts[-1].progress).read_text()) if attempts else {}
    except (OSError, json.JSONDecodeError):
        data = {}  # not told yet
    done, total, left_s = data.get("done", 0), data.get("total", 0), data.get("left_s")
    if not total:
        return 0, 0, "starting"
    left = f", about {duration(left_s)} left" if left_s and done < total else ""
    return done, total, f"{done}/{total} {data.get('unit', '')}{left}"
