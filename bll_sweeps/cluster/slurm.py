"""SLURM: what a launch has to run is given to sbatch through submitit, dependencies included; then the terminal is
free.

    declared jobs -> buckets -> one held array each -> pickles and dependencies in place -> released

Two launches at once, and one that dies at any point, submit nothing twice: submissions.py says how.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bll_sweeps.cluster import scheduler, snapshot
from bll_sweeps.cluster.allocation import Allocation
from bll_sweeps.cluster.buckets import Bucket, Place, Waiting, dependency, plan_buckets
from bll_sweeps.cluster.launch import Declared
from bll_sweeps.cluster.notice import Notice
from bll_sweeps.cluster.sbatch import Mistaken, Refused, Sbatch, SlurmOptions
from bll_sweeps.cluster.scheduler import SchedulerUnavailable
from bll_sweeps.cluster.status import failure, read_manifest
from bll_sweeps.cluster.submissions import Queue, Queued, QueueView, Submitted, end, intend, read_submission, settle
from bll_sweeps.cluster.words import plural
from bll_sweeps.errors import JobsFailed
from bll_sweeps.grid.build import build
from bll_sweeps.grid.resources import Shape, shape_of
from bll_sweeps.store.claims import Claim, acquire, claimed, live_claim, user
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import is_done, write_json

log = logging.getLogger("bll")


@dataclass
class Outcome:
    """What a submission round did: jobs given to SLURM by kind, sbatch calls, and the jobs left with the reason."""

    submitted: dict[str, int] = field(default_factory=dict)
    sbatch_calls: int = 0
    released: int = 0  # elements that SLURM had held after failed starts
    queued: int = 0  # jobs of the launch that were in the queue before, and stay there as they are
    left: dict[str, str] = field(default_factory=dict)


def submit(layout: Layout, sweep: str, launch: int, *, patience_s: float = 3600) -> Outcome:
    """Gives everything of the launch that is neither done, failed nor in the queue to SLURM, and returns. What was
    stopped for failing alike goes on.

    Raises Mistaken (nothing was submitted), SchedulerUnavailable, and Refused if SLURM takes nothing at all.
    """
    with launching(layout, patience_s) as claim:
        return submission_round(layout, sweep, launch, claim).run()


def submit_declared(declared: Declared) -> None:
    """Submits a launch and says what became of it."""
    outcome = submit(declared.layout, declared.sweep, declared.launch)
    name = declared.sweep
    if outcome.released:
        print(f"{name}: released {plural(outcome.released, 'job')} that SLURM had held after failed starts")
    elif not outcome.submitted and not outcome.left:
        as_before = f": {plural(outcome.queued, 'job')} in the queue already, and unchanged" if outcome.queued else ""
        print(f"{name}: nothing to submit{as_before}; see `bll status {name}`")
        return
    kinds = ", ".join(f"{n} {kind}" for kind, n in outcome.submitted.items())
    total = sum(outcome.submitted.values())
    calls = f"{plural(outcome.sbatch_calls, 'call')} of sbatch"
    if outcome.sbatch_calls:
        print(f"{name}: submitted {plural(total, 'job')} ({kinds or 'none'}) with {calls} (launch {declared.launch})")
    manifest = read_manifest(declared.layout, name, declared.launch)
    if canary := [job for job in manifest.get("canary", ()) if not is_done(declared.layout.job(job))]:
        print(f"{name}: {plural(len(canary), 'job')} of one cell are the canary, for which all others wait")
    if outcome.left:
        why = "; ".join(dict.fromkeys(outcome.left.values()))
        print(f"{name}: {plural(len(outcome.left), 'job')} left unsubmitted: {why}")
    print(f"see `bll status {name}`; nothing of it needs this terminal")


@contextmanager
def launching(layout: Layout, patience_s: float) -> Iterator[Claim]:
    """The claim on submitting: one launch at a time for a run root."""
    layout.launching.folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_s
    told = False
    while (claim := acquire(layout.launching)) is None:
        if time.monotonic() > deadline:
            raise JobsFailed("another launch has been submitting for too long: see submissions/claims in the run root")
        if not told and (who := live_claim(layout.launching)):
            log.warning("another launch is submitting (pid %s on %s): waiting", who.get("pid"), who.get("host"))
            told = True
        time.sleep(0.2)
    with claimed(claim):
        yield claim


def submission_round(layout: Layout, sweep: str, launch: int, claim: Claim, code: str = "") -> Round:
    """`code`: the name of the snapshot to run from; empty: one of the code that runs now."""
    manifest = read_manifest(layout, sweep, launch)
    options = build(SlurmOptions, manifest["launcher"]["options"], "hydra.launcher")
    folder = Path(__file__).parents[2]
    if options.snapshot:
        folder = layout.code(code) if code else snapshot.take(layout)
    return Round(layout, manifest, options, claim, folder)


class Round:
    """One pass over a launch's jobs, under the claim on submitting."""

    def __init__(self, layout: Layout, manifest: dict[str, Any], options: SlurmOptions, claim: Claim, code: Path):
        self._layout, self._manifest, self._options, self._claim = layout, manifest, options, claim
        self._code, self._sbatch = code, Sbatch(options, code)
        self._known: dict[str, Submitted] = {}  # by the name of the submission
        self._placed: dict[Place, Place] = {}  # an element of a bucket -> the element of a submission
        self._new: list[Submitted] = []
        self._full: dict[tuple[str, ...], str] = {}  # partition, account and qos that take not one job more, and why
        self._outcome = Outcome()

    def run(self, *, topping_up: bool = False) -> Outcome:
        """A worker that is `topping_up` leaves alone what a user cancelled, or what was stopped for failing alike."""
        queue = Queue(self._layout)
        view = settle(queue)
        live = self._in_queue(view)
        waiting = self._waiting(view, live)
        stopped = self._stopped(queue)
        if topping_up:
            kinds = {self._kind(job) for s in stopped for job in s.jobs}
            cancelled = {job for job, queued in view.jobs.items() if queued.cancelled}
            waiting = [job for job in waiting if self._kind(job.id) not in kinds and job.id not in cancelled]
        else:
            for s in stopped:
                with contextlib.suppress(PermissionError):  # a colleague's: it holds for nothing that is submitted now
                    s.files.stopped.unlink(missing_ok=True)
            self._release_stuck(live)
        self._known = {q.submission.files.name: q.submission for q in view.jobs.values() if q.live}
        queued = {job: q.place for job, q in live.items()}
        left = [job for job in self._manifest["jobs"] if job in live and not is_done(self._layout.job(job))]
        self._outcome.queued = len(left)
        refused = ""
        try:
            for bucket in self._buckets(waiting, queued):
                refused = self._submit(bucket) or refused
            try:
                self._notice(view, live)
            except Refused as error:
                refused = refused or str(error)  # the last one to top up has room for it
            except Mistaken as error:
                log.warning("there will be no notice at the end: %s", error)
        except Mistaken:
            scheduler.cancel([str(s.slurm_job) for s in self._new])
            for s in self._new:
                end(s.files, "cancelled: another part of its launch was refused")
            raise
        self._release()
        self._tell_workers(refused)
        self._outcome.sbatch_calls = self._sbatch.calls
        return self._outcome

    def _tell_workers(self, refused: str) -> None:
        """What SLURM refused is tried again by workers that end: those of the same user, with the code of this launch.
        Refused if there are none.
        """
        marker = self._layout.sweep(self._manifest["sweep"]).unsubmitted(self._manifest["launch"])
        if not refused:
            marker.unlink(missing_ok=True)
        else:
            write_json(marker, {"why": refused, "user": user(), "code": self._code.name})
            if not any(s.mine for s in self._known.values()):  # a colleague's workers do not submit for us
                raise Refused(f"SLURM takes no job at all: {refused}")

    def _in_queue(self, view: QueueView) -> dict[str, Queued]:
        """The jobs that will run without our doing. Not those whose failure was cleared while the element in which they
        failed is still at work on something else: it has dropped them, and SLURM cancels what waits for it.
        """
        live = {job: queued for job, queued in view.jobs.items() if queued.live}
        for job_id, entry in self._manifest["jobs"].items():  # parents before children
            queued = live.get(job_id)
            given_up = queued is not None and queued.dropped(self._layout.job(job_id))
            lost = [parent for parent in entry["parents"] if parent in self._manifest["jobs"] and parent not in live]
            orphaned = queued is not None and queued.pending and any(not self._settled(parent) for parent in lost)
            if given_up or orphaned:
                del live[job_id]
        return live

    def _settled(self, job_id: str) -> bool:
        """Whether what waits for the job may rely on it: it is done, or a live process outside the queue runs it."""
        files = self._layout.job(job_id)
        return is_done(files) or live_claim(files) is not None

    def _waiting(self, view: QueueView, live: Mapping[str, Queued]) -> list[Waiting]:
        """Jobs that SLURM has to be given: not done, not failed, in no queue, and no live process runs them."""
        shapes = [build(Shape, shape) for shape in self._manifest["shapes"]]
        jobs = self._manifest["jobs"]
        done = {job_id for job_id in jobs if is_done(self._layout.job(job_id))}
        out = []
        for job_id, entry in jobs.items():
            files = self._layout.job(job_id)
            dropped = job_id in view.jobs and view.jobs[job_id].dropped(files)
            at_work = not dropped and (who := live_claim(files)) is not None and not view.has_ended(who)
            if job_id in done or job_id in live or failure(files) is not None or at_work:
                continue
            parents = tuple(parent for parent in entry["parents"] if not is_done(self._layout.job(parent)))
            shape = shapes[entry["shape"]]
            out.append(Waiting(job_id, entry["kind"], shape, parents, entry.get("checkpoint", "")))
        return out

    def _stopped(self, queue: Queue) -> list[Submitted]:
        """Submissions of this launch that were stopped because too many of their jobs failed alike."""
        mine = (self._manifest["sweep"], self._manifest["launch"])
        found = [s for s in queue.submissions() if (s.intent["sweep"], s.intent["launch"]) == mine]
        return [s for s in found if s.files.stopped.exists()]

    def _release_stuck(self, live: Mapping[str, Queued]) -> None:
        """A launch is the word that SLURM waits for; workers do not give it, since it may be a node that is broken."""
        mine = [q for job, q in live.items() if job in self._manifest["jobs"] and q.submission.mine]
        stuck = {q.id for q in mine if q.entry and q.entry.stuck}
        if stuck:
            scheduler.release(",".join(sorted(stuck)))
        self._outcome.released = len(stuck)

    def _kind(self, job_id: str) -> tuple[str, int]:
        """Jobs of one kind and shape are stopped together."""
        entry = self._manifest["jobs"][job_id]
        return entry["kind"], entry["shape"]

    def _buckets(self, waiting: list[Waiting], queued: dict[str, Place]) -> list[Bucket]:
        """What to submit, parents first. With a canary, its jobs come first and all others wait for its success."""
        size = self._options.max_array_size or (scheduler.max_array_size() if len(waiting) > 1 else 1)
        settings: dict[str, Any] = {"jobs_per_allocation": self._options.jobs_per_allocation, "max_elements": size}
        canary = [job for job in self._manifest.get("canary", ()) if not is_done(self._layout.job(job))]
        first, left = plan_buckets([j for j in waiting if j.id in canary], queued, prefix="canary.", **settings)
        places = queued | {job: place for bucket in first for job, place in bucket.places().items()}
        others = [job for job in waiting if job.id not in canary]
        if not all(job in places for job in canary):  # it failed, or runs outside SLURM
            self._outcome.left = dict.fromkeys([*left, *(job.id for job in others)], "it waits for the canary")
            return first
        rest, more = plan_buckets(others, places, **settings)
        self._outcome.left = dict.fromkeys([*left, *more], "a job it needs runs outside SLURM, or has failed")
        ahead = {places[job] for job in canary}
        behind = {bucket.name for bucket in rest}
        return [*first, *(_after_canary(bucket, ahead, behind) for bucket in rest)] if ahead else rest

    def _submit(self, bucket: Bucket) -> str:
        """Submits the bucket, or as much of it as SLURM takes; why it did not take all, or ''."""
        start, size, refused = 0, len(bucket.elements), ""
        queue = (bucket.shape.partition, bucket.shape.account, bucket.shape.qos)
        if queue in self._full:
            size, refused = 0, self._full[queue]
        while start < len(bucket.elements) and size:
            part = bucket.part(start, min(start + size, len(bucket.elements)))
            if not all(p in self._placed or p.submission in self._known for after in part.after for p in after):
                refused = refused or "its parents were not taken"
                break
            try:
                submitted = self._array(part)
            except Refused as error:
                refused, size = str(error), size // 2
                if not size:
                    self._full[queue] = refused
                continue
            self._placed |= {
                Place(bucket.name, start + i): Place(submitted.files.name, i) for i in range(len(part.elements))
            }
            start += len(part.elements)
        for element in bucket.elements[start:]:
            self._outcome.left |= {job: refused for lane in element for job in lane}
        return refused if start < len(bucket.elements) else ""

    def _array(self, bucket: Bucket) -> Submitted:
        """One held array, its pickles and dependencies in place. Raises Refused, Mistaken, SchedulerUnavailable."""
        after = [tuple(self._placed.get(place, place) for place in places) for places in bucket.after]
        sizes = {name: len(s.elements) for name, s in self._known.items()}
        waits = dependency(after, sizes, {name for name, s in self._known.items() if s.packed})
        common = self._after([waits.afterok]) if waits.afterok else ""
        if waits.aftercorr:
            common = f"aftercorr:{self._known[waits.aftercorr].slurm_job}"
        root = str(self._layout.root)
        submitted = self._send(
            bucket, common, lambda name: [Allocation(root, name, i) for i in range(len(bucket.elements))]
        )
        scheduler.depend([(submitted.element_id(i), self._after(after[i])) for i in waits.own])
        self._known[submitted.files.name] = submitted
        jobs = self._outcome.submitted
        jobs[bucket.kind] = jobs.get(bucket.kind, 0) + len(submitted.jobs)
        return submitted

    def _send(self, bucket: Bucket, waits: str, work: Callable[[str], Sequence[Callable[[], None]]]) -> Submitted:
        """Gives SLURM the array of what `work` makes for the submission's name: intent first."""
        if not self._claim.held():
            raise JobsFailed("another launch has taken over submitting; `bll status` shows what was submitted")
        files = intend(self._layout, bucket, self._manifest["sweep"], self._manifest["launch"], self._code.name)
        self._sbatch.submit(files, bucket.shape, waits, work(files.name))
        submitted = read_submission(files)
        assert submitted is not None and submitted.slurm_job
        self._new.append(submitted)
        return submitted

    def _after(self, places: Sequence[Place]) -> str:
        """The dependency on these elements of submissions."""
        words = []
        for place in places:
            submitted = self._known[place.submission]
            words.append(f"{'afterany' if submitted.packed else 'afterok'}:{submitted.element_id(place.element)}")
        return ",".join(words)

    def _notice(self, view: QueueView, live: Mapping[str, Queued]) -> None:
        """The job that tells of the sweep's end, after everything of it that is queued, by whatever sweep; there is one
        at a time.
        """
        queued = {q.submission.slurm_job for job, q in live.items() if job in self._manifest["jobs"]}
        queued |= {s.slurm_job for s in self._new}
        if self._options.notify == "none" or not queued:
            return
        after = "afterany:" + ":".join(sorted(filter(None, queued)))
        for entry in view.entries.values():
            if entry.live and entry.state == "PENDING" and entry.name.startswith(f"{self._manifest['sweep']}-notice-"):
                scheduler.depend([(entry.id, after)])
                return
        own = shape_of("prior", 0, self._options.resources)
        silent = any(rule.memory_gib == 0 for rule in self._options.resources.values())
        shape = dataclasses.replace(own, gpus=0, cpus=1, memory_gib=None if silent else 1.0, time_min=10, gres="")
        bucket = Bucket("notice", "notice", shape, ((),), ((),))
        webhook = self._options.notify == "webhook"
        work = Notice(str(self._layout.root), self._manifest["sweep"], self._manifest["launch"], webhook)
        self._send(bucket, after, lambda _: [work])

    def _release(self) -> None:
        if not self._claim.held():
            raise JobsFailed("another launch has taken over submitting; `bll status` shows what was submitted")
        if self._new:
            try:
                scheduler.release(",".join(str(s.slurm_job) for s in self._new))
            except SchedulerUnavailable:  # it also complains about what it releases
                names = {s.files.name for s in self._new}
                entries = scheduler.queue(names)
                if any(entry.held for entry in entries) or {entry.name for entry in entries} != names:
                    raise
        for s in self._new:
            s.files.released.touch()


def _after_canary(bucket: Bucket, canary: set[Place], behind: set[str]) -> Bucket:
    """The bucket whose elements also wait for the whole canary, unless they wait for a bucket that does (`behind`)."""
    after = tuple(
        places if any(place.submission in behind for place in places) else tuple(sorted({*places, *canary}))
        for places in bucket.after
    )
    return dataclasses.replace(bucket, after=after)


def note_ended(layout: Layout) -> None:
    """Marks the submissions of which SLURM knows nothing any more, unless it does not answer or a launch is at work."""
    if any(not s.ended.exists() for s in layout.submissions()):
        with contextlib.suppress(JobsFailed), launching(layout, patience_s=1):
            settle(Queue(layout))
