"""What the disk says of a sweep: no live process, no database, no scheduler needed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from bll_sweeps.code import code_digest
from bll_sweeps.errors import StoreError, UsageError, one_of
from bll_sweeps.grid.cell import KINDS
from bll_sweeps.grid.plan import State
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.claims import is_alive, live_claim
from bll_sweeps.store.layout import JobFiles, Layout, WorkerFiles
from bll_sweeps.store.records import is_done, read_json, read_record

# As `State`, seen from a sweep: `new` is `pending` or, below a failed or damaged parent, `blocked`.
Shown = Literal["done", "running", "pending", "failed", "blocked", "damaged"]
SHOWN: tuple[Shown, ...] = ("done", "running", "pending", "failed", "blocked", "damaged")


def job_state(files: JobFiles, *, this_code: bool = False) -> State:
    """The job's state. With `this_code`, a result that other code made is `stale` instead of `done`."""
    if is_done(files):
        if damage(files):
            return "damaged"
        record = read_record(files)
        stale = this_code and record is not None and record.provenance().get("code") != code_digest()
        return "stale" if stale else "done"
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
        for name, digest in record.outputs.items():
            path = record.attempt.folder / name
            if deep:
                record.output(name)
            elif not path.exists() or path.stat().st_size != digest["bytes"]:
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
    for cell in manifest["cells"]:
        values = [text for text in cell["overrides"] if "." in text.partition("=")[0]]  # axis choices have no dot
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
    detail: str = ""  # progress, the first line of the error, or what blocks it
    done: int = 0
    total: int = 0


@dataclass
class SweepStatus:
    sweep: str
    launch: int
    created_at: str
    cells: int
    jobs: list[JobStatus]
    seconds: dict[str, list[float]] = field(default_factory=dict)  # durations of done jobs by kind

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
        return not self.number("running", "pending")

    def verdict(self) -> str:
        """One line on what did not end well, with the first error and the remedy."""
        bad = [job for job in self.jobs if job.state in ("failed", "damaged")]
        first = f"{bad[0].id}: {bad[0].detail}" if bad else ""
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
            "jobs": [{k: v for k, v in vars(job).items() if v not in ("", 0)} for job in self.jobs],
        }


class SweepWatch:
    """Follows one launch of a sweep; finished jobs are read once, so that refreshing thousands of jobs is cheap."""

    def __init__(self, layout: Layout, sweep: str, launch: int | None = None):
        self.layout = layout
        self.manifest = read_manifest(layout, sweep, launch)
        self._done: dict[str, float] = {}

    def status(self) -> SweepStatus:
        states: dict[str, JobStatus] = {}
        for job_id, entry in self.manifest["jobs"].items():
            states[job_id] = self._job(job_id, entry["kind"], entry["parents"], states)
        seconds: dict[str, list[float]] = {}
        for job_id, duration in self._done.items():
            seconds.setdefault(self.manifest["jobs"][job_id]["kind"], []).append(duration)
        m = self.manifest
        return SweepStatus(m["sweep"], m["launch"], m["created_at"], len(m["cells"]), list(states.values()), seconds)

    def _job(self, job_id: str, kind: str, parents: Iterable[str], known: dict[str, JobStatus]) -> JobStatus:
        files = self.layout.job(job_id)
        if job_id in self._done and is_done(files):
            return JobStatus(job_id, kind, "done")
        state = job_state(files)
        if state == "done":
            self._done[job_id] = _seconds(files)
            return JobStatus(job_id, kind, "done")
        if state == "running":
            done, total, unit = _progress(files)
            return JobStatus(job_id, kind, "running", f"{done}/{total} {unit}" if total else "starting", done, total)
        if state == "failed":
            found = failure(files)
            return JobStatus(job_id, kind, "failed", found["message"] if found else "")
        if state == "damaged":
            return JobStatus(job_id, kind, "damaged", damage(files) or "")
        blocking = [p for p in parents if p in known and known[p].state in ("failed", "blocked", "damaged")]
        if blocking:
            return JobStatus(job_id, kind, "blocked", f"by {', '.join(blocking)}")
        return JobStatus(job_id, kind, "pending")


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
    attempts = files.attempts()
    try:
        data = json.loads(Path(attempts[-1].progress).read_text()) if attempts else {}
    except (OSError, json.JSONDecodeError):
        data = {}  # not told yet
    return data.get("done", 0), data.get("total", 0), data.get("unit", "")
