"""What this run root has given to SLURM, and what of it is in the queue.

A submission is a folder (store/layout.py): intent.json is written before sbatch under the unique name that the SLURM
job then has, so that a launch that died at any point left something the next one recognises.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bll_sweeps.cluster import scheduler
from bll_sweeps.cluster.buckets import Bucket, Place
from bll_sweeps.cluster.scheduler import QueueEntry, SchedulerUnavailable
from bll_sweeps.errors import StoreError
from bll_sweeps.store.claims import user
from bll_sweeps.store.layout import Attempt, JobFiles, Layout, Submission
from bll_sweeps.store.records import keep_to_owners, read_json, write_json

_LATE_S = 300.0  # after which no sbatch is still on its way


@dataclass(frozen=True)
class Submitted:
    """A submission as its folder tells it. `slurm_job` is None until sbatch has answered."""

    files: Submission
    intent: dict[str, Any]
    slurm_job: str | None
    released: bool
    ended: dict[str, Any] | None
    cancelled: frozenset[int]  # elements, by a user

    @property
    def elements(self) -> list[list[list[str]]]:
        """Job ids: of each element, of each of its lanes."""
        return self.intent["elements"]

    @property
    def jobs(self) -> list[str]:
        return [job for element in self.elements for lane in element for job in lane]

    @property
    def mine(self) -> bool:
        return bool(self.intent["user"] == user())

    @property
    def packed(self) -> bool:
        return any(len(element) > 1 for element in self.elements)

    def element_id(self, element: int) -> str:
        """How SLURM calls the element; a batch of one is no array."""
        return f"{self.slurm_job}_{element}" if len(self.elements) > 1 else str(self.slurm_job)


@dataclass(frozen=True)
class Queued:
    """A job's newest place. `entry`: what SLURM says of it; None if it knows it no more (or did not answer)."""

    submission: Submitted
    element: int
    entry: QueueEntry | None
    answered: bool

    @property
    def live(self) -> bool:
        """Whether it may still run by itself. Without an answer from SLURM: whether it was ever seen to end."""
        if not self.answered:
            return self.submission.ended is None
        return self.entry is not None and self.entry.live

    @property
    def pending(self) -> bool:
        return self.entry is not None and self.entry.state == "PENDING"

    def dropped(self, files: JobFiles) -> bool:
        """Whether the job has failed in this very element, which will not try it again, and its failure was cleared."""
        attempts = files.attempts()
        return bool(attempts) and attempts[-1].cleared.exists() and self.ran(attempts[-1])

    def ran(self, attempt: Attempt) -> bool:
        """Whether the attempt was made in this submission."""
        try:
            return read_json(attempt.slurm)["submission"] == self.submission.files.name
        except (OSError, StoreError):
            return False

    @property
    def cancelled(self) -> bool:
        """Whether a user took it out of the queue."""
        return self.element in self.submission.cancelled

    @property
    def place(self) -> Place:
        return Place(self.submission.files.name, self.element)

    @property
    def id(self) -> str:
        return self.entry.id if self.entry else self.submission.element_id(self.element)


@dataclass(frozen=True)
class QueueView:
    """The newest place of each job, from one query. `problem`: why SLURM did not answer, or ''."""

    jobs: Mapping[str, Queued]
    problem: str
    entries: Mapping[tuple[str, int | None], QueueEntry]
    asked: frozenset[str]  # names of the submissions that the query was about

    def live(self, job_id: str) -> Queued | None:
        found = self.jobs.get(job_id)
        return found if found is not None and found.live else None

    def has_ended(self, owner: Mapping[str, Any] | None) -> bool:
        """Whether the owner of a claim was a SLURM job of ours that runs no more, whatever its last heartbeat."""
        if self.problem or not owner or owner.get("submission") not in self.asked:
            return False
        if owner.get("user") != user():
            return False  # SLURM may hide another user's jobs: then only the heartbeat tells
        return not any(entry.raw_id == str(owner["slurm_job"]) and entry.live for entry in self.entries.values())


class Queue:
    """Reads the submissions of a run root; what cannot change any more is read once."""

    def __init__(self, layout: Layout):
        self._layout = layout
        self._known: dict[str, Submitted] = {}

    def submissions(self) -> list[Submitted]:
        """Oldest first. Folders whose intent is torn were never submitted, and do not count."""
        out = []
        for files in self._layout.submissions():
            known = self._known.get(files.name)
            if known is None or known.ended is None:
                known = read_submission(files)
            if known is not None:
                self._known[files.name] = known
                out.append(known)
        return sorted(out, key=lambda s: s.intent["created_at"])

    def look(self, jobs: Iterable[str] | None = None) -> QueueView:
        """The places of `jobs` (None: of all), with at most one call of squeue, and none if none can be queued. What a
        site hides from all but its owner (PrivateData) is unknown, not ended.
        """
        wanted = None if jobs is None else set(jobs)
        found = [s for s in self.submissions() if wanted is None or wanted.intersection(s.jobs)]
        problem, entries, listed = "", {}, []
        try:
            listed = scheduler.queue(s.files.name for s in found if s.ended is None)
            entries = {(entry.name, entry.index): entry for entry in listed}
        except SchedulerUnavailable as error:
            problem = str(error)
        shown = {entry.name for entry in listed}
        hidden = {s.files.name for s in found if s.ended is None and not s.mine and s.files.name not in shown}
        if not problem and hidden and not scheduler.hides_jobs():
            hidden = set()
        places: dict[str, Queued] = {}
        for s in found:
            answered = not problem and s.files.name not in hidden
            if s.slurm_job is None and answered and s.files.name not in shown:
                continue  # SLURM never took it
            for i, element in enumerate(s.elements):
                entry = entries.get((s.files.name, i if len(s.elements) > 1 else None))
                places |= {job: Queued(s, i, entry, answered) for lane in element for job in lane}
        return QueueView(places, problem, entries, frozenset(s.files.name for s in found))


def read_submission(files: Submission) -> Submitted | None:
    try:
        intent = read_json(files.intent)
        submitted = read_json(files.submitted) if files.submitted.exists() else {}
        ended = read_json(files.ended) if files.ended.exists() else None
        cancelled = read_json(files.cancelled)["elements"] if files.cancelled.exists() else ()
    except (FileNotFoundError, StoreError):
        return None
    return Submitted(files, intent, submitted.get("slurm_job"), files.released.exists(), ended, frozenset(cancelled))


def intend(layout: Layout, bucket: Bucket, sweep: str, launch: int, code: str) -> Submission:
    """Records what is about to be submitted. Readable by the group, but for submitit's own folder."""
    files = layout.submission(f"{sweep}-{bucket.kind}-{secrets.token_hex(4)}")
    files.folder.mkdir(parents=True)
    files.private.mkdir(mode=0o700)
    for folder in (files.folder.parent, files.folder):  # pickles are loaded from below them
        keep_to_owners(folder)
    intent = {
        "sweep": sweep,
        "launch": launch,
        "kind": bucket.kind,
        "shape": bucket.shape.asked(),
        "elements": bucket.elements,
        "code": code,  # the name of the snapshot that it runs from: `bll gc` leaves that
        "user": user(),
        "created_at": time.time_ns(),
    }
    write_json(files.intent, intent)
    return files


def settle(queue: Queue) -> QueueView:
    """What launches that died have left is put right; the caller holds the claim on launching.

    Held arrays, whose pickles or dependencies may be missing, never ran: they are cancelled, and their jobs submitted
    anew. So are elements that wait for what has failed. Submissions of which SLURM knows nothing any more are marked as
    ended. Raises SchedulerUnavailable.
    """
    view = queue.look()
    if view.problem:
        raise SchedulerUnavailable(view.problem)
    mine = {s.files.name for s in queue.submissions() if s.mine}
    hopeless = sorted(entry.id for entry in view.entries.values() if entry.hopeless and entry.name in mine)
    if hopeless:
        scheduler.cancel(hopeless)
    changed = bool(hopeless)
    for s in queue.submissions():
        if s.ended is not None:
            continue
        entries = [entry for entry in view.entries.values() if entry.name == s.files.name and entry.live]
        if not s.released and entries and all(entry.held for entry in entries):
            if not s.mine:
                continue  # a colleague's: only its owner can cancel it
            scheduler.cancel(sorted({entry.job for entry in entries}))
            end(s.files, "left by a launch that died before it was released")
        elif not entries and s.slurm_job is None and time.time_ns() - s.intent["created_at"] < _LATE_S * 1e9:
            continue  # an sbatch whose launch died may still be at work
        elif not entries and not s.mine:
            continue  # SLURM may hide it
        elif not entries:
            end(s.files, "nothing of it is in the queue any more")
        elif not s.released:
            s.files.released.touch()  # only the mark was missing
        else:
            continue
        changed = True
    return queue.look() if changed else view


def end(files: Submission, why: str) -> None:
    write_json(files.ended, {"why": why, "at": time.time_ns()})


def stop(files: Submission, why: str) -> None:
    """Its jobs that have not started will not: see `stopped` in their status."""
    if not os.path.lexists(files.stopped):
        write_json(files.stopped, {"why": why, "at": time.time_ns()})
