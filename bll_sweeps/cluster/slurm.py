"""SLURM: what a launch has to run is given to sbatch through submitit, dependencies included; then the terminal is
free.

    declared jobs -> buckets -> one held array each -> pickles and dependencies in place -> released

Two launches at once, and one that dies at any point, submit nothing twice: submissions.py says how.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import io
import logging
import os
import shlex
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from bll_sweeps.cluster import scheduler, snapshot
from bll_sweeps.cluster.allocation import Allocation
from bll_sweeps.cluster.buckets import Bucket, Place, Waiting, dependency, plan_buckets
from bll_sweeps.cluster.launch import Declared
from bll_sweeps.cluster.notice import Notice
from bll_sweeps.cluster.scheduler import SchedulerUnavailable
from bll_sweeps.cluster.status import failure, read_manifest
from bll_sweeps.cluster.submissions import Queue, Queued, QueueView, Submitted, end, intend, read_submission, settle
from bll_sweeps.cluster.words import plural
from bll_sweeps.errors import ConfigError, JobsFailed, StoreError, UsageError
from bll_sweeps.grid.build import build
from bll_sweeps.grid.resources import ResourceRule, Shape, shape_of
from bll_sweeps.store.claims import Claim, acquire, live_claim
from bll_sweeps.store.layout import Layout, Submission
from bll_sweeps.store.records import is_done, read_json, write_json
from jobs.attempt import claimed

log = logging.getLogger("bll")
# A user's own ./jobs folder must not shadow ours (as python -P); threads are the execution's to say.
_ENVIRONMENT = ("export PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1",)
_LAST_S = 60.0  # how long the last worker tries to submit what SLURM refused
_YIELD_S = 10.0  # after which a worker leaves that to another
_SBATCH_S = 20  # where SLURM's queue is full sbatch tries again for two minutes, which is too long


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """A site, and how a launch uses it: the keys of conf/hydra/launcher/slurm.yaml, which says what they mean."""

    resources: dict[str, ResourceRule] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    sbatch: dict[str, str] = field(default_factory=dict)
    python: str = ""
    array_parallelism: int = 256
    jobs_per_allocation: int = 1
    max_array_size: int = 0
    signal_delay_s: int = 120
    stop_after_failures: int = 3
    snapshot: bool = True
    notify: Literal["none", "mail", "webhook"] = "none"
    mail_user: str = ""

    def __post_init__(self) -> None:
        least = {"array_parallelism": 1, "jobs_per_allocation": 1, "max_array_size": 0, "stop_after_failures": 0}
        for key, low in (least | {"signal_delay_s": 30}).items():
            if getattr(self, key) < low:
                raise ConfigError(key, getattr(self, key), f"must be >= {low}")
        if self.notify == "webhook" and not os.environ.get("BLL_WEBHOOK"):
            raise ConfigError("notify", "webhook", "needs the address in $BLL_WEBHOOK (it may be a secret)")


@dataclass
class Outcome:
    """What a submission round did: jobs given to SLURM by kind, sbatch calls, and the jobs left with the reason."""

    submitted: dict[str, int] = field(default_factory=dict)
    sbatch_calls: int = 0
    left: dict[str, str] = field(default_factory=dict)


class Refused(JobsFailed):
    """sbatch did not take it for now: a limit. The message is sbatch's own."""


class Mistaken(UsageError):
    """sbatch will never take it: a mistake in the site or the resources. Nothing was submitted."""


def submit(layout: Layout, sweep: str, launch: int, *, patience_s: float = 3600) -> Outcome:
    """Gives everything of the launch that is neither done, failed nor in the queue to SLURM, and returns. What was
    stopped for failing alike goes on.

    Raises Mistaken (nothing was submitted), SchedulerUnavailable, and Refused if SLURM takes nothing at all.
    """
    with _launching(layout, patience_s) as claim:
        return _round(layout, sweep, launch, claim).run()


def submit_declared(declared: Declared) -> None:
    """Submits a launch and says what became of it."""
    outcome = submit(declared.layout, declared.sweep, declared.launch)
    name = declared.sweep
    if not outcome.submitted and not outcome.left:
        print(f"{name}: nothing to submit; see `bll status {name}`")
        return
    kinds = ", ".join(f"{n} {kind}" for kind, n in outcome.submitted.items())
    total = sum(outcome.submitted.values())
    calls = f"{plural(outcome.sbatch_calls, 'call')} of sbatch"
    print(f"{name}: submitted {plural(total, 'job')} ({kinds or 'none'}) with {calls} (launch {declared.launch})")
    if outcome.left:
        why = "; ".join(dict.fromkeys(outcome.left.values()))
        print(f"{name}: {len(outcome.left)} jobs are left unsubmitted: {why}")
    print(f"see `bll status {name}`; nothing of it needs this terminal")


@contextmanager
def _launching(layout: Layout, patience_s: float) -> Iterator[Claim]:
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


def _round(layout: Layout, sweep: str, launch: int, claim: Claim, code: str = "") -> _Round:
    """`code`: the name of the snapshot to run from; empty: one of the code that runs now."""
    manifest = read_manifest(layout, sweep, launch)
    options = build(SlurmOptions, manifest["launcher"]["options"], "hydra.launcher")
    folder = Path(__file__).parents[2]
    if options.snapshot:
        folder = layout.code(code) if code else snapshot.take(layout)
    return _Round(layout, manifest, options, claim, folder)


class _Round:
    """One pass over a launch's jobs, under the claim on submitting."""

    def __init__(self, layout: Layout, manifest: dict[str, Any], options: SlurmOptions, claim: Claim, code: Path):
        self._layout, self._manifest, self._options, self._claim = layout, manifest, options, claim
        self._code = code
        path = f"{shlex.quote(str(self._code))}${{PYTHONPATH:+:$PYTHONPATH}}"
        self._environment = [f"export PYTHONPATH={path}", *_ENVIRONMENT]
        self._known: dict[str, Submitted] = {}  # by the name of the submission
        self._placed: dict[Place, Place] = {}  # an element of a bucket -> the element of a submission
        self._new: list[Submitted] = []
        self._full: dict[tuple[str, ...], str] = {}  # partition, account and qos that take not one job more, and why
        self._possible: set[Shape] = set()
        self._outcome = Outcome()

    def run(self, *, topping_up: bool = False) -> Outcome:
        """A worker that is `topping_up` leaves alone what was stopped for failing alike."""
        queue = Queue(self._layout)
        view = settle(queue)
        live = self._in_queue(view)
        waiting = self._waiting(view, live)
        stopped = self._stopped(queue)
        if topping_up:
            kinds = {self._kind(job) for s in stopped for job in s.jobs}
            waiting = [job for job in waiting if self._kind(job.id) not in kinds]
        else:
            for s in stopped:
                s.files.stopped.unlink(missing_ok=True)
        self._known = {q.submission.files.name: q.submission for q in view.jobs.values() if q.live}
        queued = {job: q.place for job, q in live.items()}
        refused = ""
        try:
            for bucket in self._buckets(waiting, queued):
                refused = self._submit(bucket) or refused
            try:
                self._notice(view)
            except Refused as error:
                refused = refused or str(error)  # the last one to top up has room for it
        except Mistaken:
            scheduler.cancel([str(s.slurm_job) for s in self._new])
            for s in self._new:
                end(s.files, "cancelled: another part of its launch was refused")
            raise
        self._release()
        marker = self._layout.sweep(self._manifest["sweep"]).unsubmitted(self._manifest["launch"])
        if not refused:
            marker.unlink(missing_ok=True)
        else:
            # Workers that finish try again: those of the same user, with the code of this launch.
            write_json(marker, {"why": refused, "user": getpass.getuser(), "code": self._code.name})
            if not self._known:
                raise Refused(f"SLURM takes no job at all: {refused}")
        return self._outcome

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
                submitted = self._sbatch(part)
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

    def _sbatch(self, bucket: Bucket) -> Submitted:
        """One held array, its pickles and dependencies in place. Raises Refused, Mistaken, SchedulerUnavailable."""
        after = [tuple(self._placed.get(place, place) for place in places) for places in bucket.after]
        sizes = {name: len(s.elements) for name, s in self._known.items()}
        waits = dependency(after, sizes, {name for name, s in self._known.items() if s.packed})
        common = self._after([waits.afterok]) if waits.afterok else ""
        if waits.aftercorr:
            common = f"aftercorr:{self._known[waits.aftercorr].slurm_job}"
        files = intend(self._layout, bucket, self._manifest["sweep"], self._manifest["launch"], self._code.name)
        work = [Allocation(str(self._layout.root), files.name, i) for i in range(len(bucket.elements))]
        job = self._call_sbatch(files, bucket.shape, common, work)
        submitted = read_submission(files)
        assert submitted is not None and submitted.slurm_job == job
        scheduler.depend([(submitted.element_id(i), self._after(after[i])) for i in waits.own])
        self._known[files.name] = submitted
        self._new.append(submitted)
        jobs = self._outcome.submitted
        jobs[bucket.kind] = jobs.get(bucket.kind, 0) + len(submitted.jobs)
        return submitted

    def _call_sbatch(self, files: Submission, shape: Shape, waits: str, work: Sequence[Callable[[], None]]) -> str:
        """sbatch through submitit, held, waiting as `waits` says; the number that SLURM gave the job."""
        import submitit

        if not self._claim.held():
            raise JobsFailed("another launch has taken over submitting; `bll status` shows what was submitted")
        self._outcome.sbatch_calls += 1
        with _outside_slurm(), _bounded_sbatch():
            executor = submitit.SlurmExecutor(files.private, max_num_timeout=10**6, python=self._options.python or None)
            executor.update_parameters(**sbatch_parameters(self._options, shape, files.name, self._environment))
            self._check_possible(executor, files, shape)
            extra = {"hold": True, "kill-on-invalid-dep": "yes", "requeue": True}
            extra |= ({"dependency": waits} if waits else {}) | self._options.sbatch
            executor.parameters["additional_parameters"] = extra | executor.parameters.get("additional_parameters", {})
            try:
                with contextlib.redirect_stderr(io.StringIO()), executor.batch():
                    jobs = [executor.submit(call) for call in work]
            except submitit.core.utils.FailedJobError as error:
                self._not_taken(files, str(error))
            except submitit.core.utils.FailedSubmissionError as error:
                raise SchedulerUnavailable(" ".join(str(error).split())) from None
        job = str(jobs[0].job_id).partition("_")[0]
        write_json(files.submitted, {"slurm_job": job})
        return job

    def _check_possible(self, executor: Any, files: Submission, shape: Shape) -> None:
        """Raises Mistaken for what no node could ever run, once per shape: sbatch takes it as long as it is held."""
        if shape in self._possible:
            return
        executor.parameters["additional_parameters"] = dict(self._options.sbatch)
        message = scheduler.objection(executor._make_submission_file_text("true", ""))
        if message and scheduler.refusal(message) == "mistake":
            shutil.rmtree(files.folder, ignore_errors=True)
            raise Mistaken(f"sbatch refused it: {message}")
        self._possible.add(shape)

    def _not_taken(self, files: Submission, complaint: str) -> NoReturn:
        """sbatch failed. Perhaps only its answer was lost: an array that was submitted nevertheless is held, and goes;
        one that comes later still is left to the next launch (`settle`).
        """
        message = scheduler.one_line(complaint) or f"sbatch did not answer within {_SBATCH_S} s"
        meaning = scheduler.refusal(message)
        found = scheduler.queue([files.name])
        scheduler.cancel(sorted({entry.job for entry in found if entry.live}))
        if found or meaning == "outage":
            raise SchedulerUnavailable(f"sbatch failed: {message}")
        if "retrying" in message:
            end(files, message)  # the folder is the name by which what comes late would be known
        else:
            shutil.rmtree(files.folder, ignore_errors=True)
        if meaning == "full":
            raise Refused(message)
        raise Mistaken(f"sbatch refused it: {message}")

    def _after(self, places: Sequence[Place]) -> str:
        """The dependency on these elements of submissions."""
        words = []
        for place in places:
            submitted = self._known[place.submission]
            words.append(f"{'afterany' if submitted.packed else 'afterok'}:{submitted.element_id(place.element)}")
        return ",".join(words)

    def _notice(self, view: QueueView) -> None:
        """The job that tells of the sweep's end, after everything that is queued; there is one at a time."""
        if self._options.notify == "none" or not self._new:
            return
        everything = [s for s in self._known.values() if s.intent["sweep"] == self._manifest["sweep"]]
        after = "afterany:" + ":".join(str(s.slurm_job) for s in everything if s.intent["kind"] != "notice")
        for entry in view.entries.values():
            if entry.live and entry.state == "PENDING" and entry.name.startswith(f"{self._manifest['sweep']}-notice-"):
                scheduler.depend([(entry.id, after)])
                return
        own = shape_of("prior", 0, self._options.resources)
        shape = dataclasses.replace(own, gpus=0, cpus=1, memory_gib=1.0, time_min=10, gres="")
        bucket = Bucket("notice", "notice", shape, ((),), ((),))
        files = intend(self._layout, bucket, self._manifest["sweep"], self._manifest["launch"], self._code.name)
        webhook = self._options.notify == "webhook"
        work = Notice(str(self._layout.root), self._manifest["sweep"], self._manifest["launch"], webhook)
        self._call_sbatch(files, shape, after, [work])
        submitted = read_submission(files)
        assert submitted is not None
        self._new.append(submitted)

    def _release(self) -> None:
        if not self._claim.held():
            raise JobsFailed("another launch has taken over submitting; `bll status` shows what was submitted")
        if self._new:
            try:
                scheduler.release(",".join(str(s.slurm_job) for s in self._new))
            except SchedulerUnavailable:  # it also complains about what it releases
                if any(entry.held for entry in scheduler.queue(s.files.name for s in self._new)):
                    raise
        for s in self._new:
            s.files.released.touch()


def sbatch_parameters(options: SlurmOptions, shape: Shape, name: str, environment: Sequence[str]) -> dict[str, Any]:
    """submitit's parameters for an allocation of `shape`."""
    out: dict[str, Any] = {
        "job_name": name,
        "time": shape.time_min,
        "nodes": shape.nodes,
        "ntasks_per_node": shape.tasks,
        "cpus_per_task": shape.cpus,
        "array_parallelism": options.array_parallelism,
        "signal_delay_s": options.signal_delay_s,
        "stderr_to_stdout": True,
        "setup": [*options.setup, *environment],
        # A rank that fails ends the others; since 22.05 srun no longer inherits the CPUs of the allocation.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={shape.cpus}"],
    }
    if shape.memory_gib is not None:
        out["mem"] = f"{round(shape.memory_gib * 1024)}M"
    model = f":{shape.gpu_type}" if shape.gpu_type else ""
    gpus = [f"gpu{model}:{shape.gpus}"] if shape.gpus else []
    if gres := ",".join([*gpus, *filter(None, [shape.gres])]):  # older clusters know no --gpus-per-node
        out["gres"] = gres
    if options.notify == "mail" and "-notice-" in name:
        out |= {"mail_type": "END,FAIL"} | ({"mail_user": options.mail_user} if options.mail_user else {})
    return out | {key: value for key in ("partition", "account", "qos", "constraint") if (value := getattr(shape, key))}


def _after_canary(bucket: Bucket, canary: set[Place], behind: set[str]) -> Bucket:
    """The bucket whose elements also wait for the whole canary, unless they wait for a bucket that does (`behind`)."""
    after = tuple(
        places if any(place.submission in behind for place in places) else tuple(sorted({*places, *canary}))
        for places in bucket.after
    )
    return dataclasses.replace(bucket, after=after)


@contextmanager
def _bounded_sbatch() -> Iterator[None]:
    """submitit calls sbatch under a time limit: it is then killed, and has said before why it was trying again."""
    import submitit

    whole = submitit.SlurmExecutor._make_submission_command

    def bounded(executor: Any, path: Path) -> list[str]:
        return ["timeout", "--foreground", str(_SBATCH_S), *whole(executor, path)]

    submitit.SlurmExecutor._make_submission_command = bounded
    try:
        yield
    finally:
        submitit.SlurmExecutor._make_submission_command = whole


@contextmanager
def _outside_slurm() -> Iterator[None]:
    """Without the variables of an allocation that we may be in: sbatch would take them for options."""
    from submitit.helpers import clean_env

    configuration = os.environ.get("SLURM_CONF")
    with clean_env():
        if configuration:
            os.environ["SLURM_CONF"] = configuration
        try:
            yield
        finally:
            os.environ.pop("SLURM_CONF", None)


def top_up(layout: Layout, sweep: str, launch: int) -> None:
    """For a worker that ends: submits what SLURM had refused before, first of its own launch, then of others, of which
    perhaps nothing runs. Never raises.

    Workers that end together count against the limit until they have left. So one of them stays, with the claim on
    submitting, and the others, who do not get it, leave.
    """
    if not _refused(layout, sweep, launch):
        return
    try:
        with _launching(layout, _YIELD_S) as claim:
            deadline, pause_s = time.monotonic() + _LAST_S, 1.0
            while refused := _refused(layout, sweep, launch):
                for name, number, code in refused:
                    _submit_more(layout, name, number, claim, code)
                if time.monotonic() > deadline or _others_follow(layout):
                    return
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 8.0)
    except (JobsFailed, OSError) as error:
        log.warning("what SLURM had refused is left to others: %s", error)


def _submit_more(layout: Layout, sweep: str, launch: int, claim: Claim, code: str) -> None:
    try:
        _round(layout, sweep, launch, claim, code).run(topping_up=True)
    except (JobsFailed, UsageError, StoreError, OSError) as error:
        log.warning("%s: could not submit what is left: %s", sweep, error)


def _refused(layout: Layout, sweep: str, launch: int) -> list[tuple[str, int, str]]:
    """(sweep, launch, name of its code) of this user's launches of which SLURM refused a part; this one first."""
    others = ((name, number) for name in layout.sweeps() for number in layout.sweep(name).launches())
    found = []
    for name, number in dict.fromkeys([(sweep, launch), *others]):
        with contextlib.suppress(FileNotFoundError, StoreError):
            told = read_json(layout.sweep(name).unsubmitted(number))
            if told["user"] == getpass.getuser():
                found.append((name, number, told["code"]))
    return found


def _others_follow(layout: Layout) -> bool:
    """Whether some job of the run root is queued or runs: whoever ends it will see to the rest."""
    live = (job for job, queued in Queue(layout).look().jobs.items() if queued.live)
    return any(not is_done(layout.job(job)) and failure(layout.job(job)) is None for job in live)


def cancel(layout: Layout, jobs: Collection[str]) -> int:
    """Cancels the queued and running elements of these jobs; of how many jobs. Nothing is lost."""
    view = Queue(layout).look(jobs)
    if view.problem:
        raise SchedulerUnavailable(view.problem)
    live = [q for job in jobs if (q := view.live(job))]
    scheduler.cancel(sorted({q.id for q in live}))
    return len(live)


def note_ended(layout: Layout) -> None:
    """Marks the submissions of which SLURM knows nothing any more, unless it does not answer or a launch is at work."""
    if any(not s.ended.exists() for s in layout.submissions()):
        with contextlib.suppress(JobsFailed), _launching(layout, patience_s=1):
            settle(Queue(layout))
