"""What runs in an allocation of SLURM: the lanes of one element side by side, or the ranks of one distributed job.

USR2 (time limit, preemption)  -> jobs save their state -> requeue -> they go on where they were
TERM (scancel, node drained)   -> jobs are ended and their claims released; a requeue is SLURM's to do
a job fails                    -> its record says why; the element ends with 1, so that SLURM says FAILED too
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from bll_sweeps.cluster import scheduler
from bll_sweeps.cluster.children import STOPPED, Child, Held, claim_job, preload, preload_tracker
from bll_sweeps.cluster.scheduler import SchedulerUnavailable
from bll_sweeps.cluster.status import failure
from bll_sweeps.errors import StoreError
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.claims import live_claim, user
from bll_sweeps.store.layout import Attempt, JobFiles, Layout
from bll_sweeps.store.records import is_done, read_json, read_json_if, write_json
from jobs.attempt import write_failure

DONE, FAILED, BLOCKED = 0, 1, 3  # exit statuses of an element; SLURM shows all but DONE as FAILED
_POLL_S = 0.1
_WAIT_S = 1.0
_NOT_YET_VISIBLE_S = 60.0  # how long a parent's DONE may take to appear on a shared filesystem
_LEAVE_S = 20.0  # before the time is up: what does not stop by then is killed, so that the requeue is in time
_PATIENCE = 3  # attempts in a row that may be stopped without having reached anything new


@dataclass
class Allocation:
    """A picklable callable that holds paths only: what submitit starts, once per rank."""

    root: str
    submission: str
    element: int

    def __call__(self) -> None:
        status = _Element(Layout(Path(self.root)), self.submission, self.element).run()
        if status:
            sys.exit(status)


class Asked:
    """What SLURM has asked this process for, by signal."""

    def __init__(self) -> None:
        self.to_stop_at: float | None = None
        self._terminated = False
        signal.signal(signal.SIGUSR2, self._stop)
        signal.signal(signal.SIGTERM, self._end)

    @property
    def anything(self) -> bool:
        return self.to_stop or self._terminated

    @property
    def to_stop(self) -> bool:
        return self.to_stop_at is not None

    def to_end(self) -> bool:
        """SIGTERM to a job that SLURM still calls running begins its preemption: time to save the state. To one that
        was cancelled or requeued it is the end.
        """
        if self._terminated and not self.to_stop and scheduler.state(os.environ.get("SLURM_JOB_ID", "")) == "RUNNING":
            self._terminated, self.to_stop_at = False, time.monotonic()
        return self._terminated

    def _stop(self, *_: object) -> None:
        self.to_stop_at = self.to_stop_at or time.monotonic()

    def _end(self, *_: object) -> None:
        self._terminated = True


@dataclass
class Lane:
    """Jobs that run one after another in one child at a time. `why`: what keeps those that are left from running."""

    jobs: list[str]
    environment: dict[str, str]
    child: Child | None = None
    tried: list[Held] = field(default_factory=list)
    told: bool = False
    blocked_since: float | None = None
    why: str = ""


class _Element:
    def __init__(self, layout: Layout, submission: str, element: int):
        self._asked = Asked()
        os.environ["BLL_SUBMISSION"] = submission  # in the claims: see QueueView.has_ended
        self._layout, self._files = layout, layout.submission(submission)
        intent = read_json(self._files.intent)
        self._sweep, self._launch, self._code = intent["sweep"], intent["launch"], intent["code"]
        self._options = _options(layout, self._sweep, self._launch)
        self._rank, self._ranks = int(os.environ.get("SLURM_PROCID", "0")), int(os.environ.get("SLURM_NTASKS", "1"))
        lanes: list[list[str]] = intent["elements"][element]
        devices = _devices(len(lanes))
        self._lanes = [Lane(list(jobs), env) for jobs, env in zip(lanes, devices, strict=True)]

    def run(self) -> int:
        """Runs the lanes and returns the exit status."""
        if stopped := read_json_if(self._files.stopped):
            print(f"not started: {stopped['why']}", flush=True)
            return BLOCKED
        self._check_code()
        if self._ranks > 1:
            from submitit.helpers import TorchDistributedEnvironment

            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        jobs = [job for lane in self._lanes for job in lane.jobs]
        preload(jobs, lambda: self._asked.anything)
        preload_tracker(self._layout, jobs)
        advance = self._lead if self._rank == 0 else self._follow
        while sum([advance(lane) for lane in self._lanes]):  # all of them, every time
            time.sleep(_POLL_S)
        return self._leave()

    def _check_code(self) -> None:
        """Raises StoreError unless this is the snapshot that the launch meant: a site's sbatch options may drop the
        variables that lead to it.
        """
        snapshot = self._layout.code(self._code)
        if snapshot.is_dir() and not Path(__file__).resolve().is_relative_to(snapshot.resolve()):
            raise StoreError(f"this job runs {Path(__file__).parents[2]}, not the snapshot {snapshot}: see $PYTHONPATH")

    # --- a lane, step by step; each returns whether there is more to do ---------------------------------------------

    def _lead(self, lane: Lane) -> bool:
        if lane.child is not None:
            return self._attend(lane, lane.child)
        if self._asked.to_end() or self._asked.to_stop:
            return False
        lane.jobs = [job for job in lane.jobs if not self._over(job)]
        ready = [job for job in lane.jobs if self._parents_done(job)]
        batch = [held for job in ready if (held := claim_job(self._layout.job(job), _ended_in_slurm))]
        if batch:
            for held in batch:
                write_json(held.attempt.slurm, self._whereabouts())
            lane.tried += batch
            lane.child = Child(self._layout, batch, lane.environment, 0 if self._ranks > 1 else None)
            return True
        if not lane.jobs:
            return False
        time.sleep(_WAIT_S)
        return self._may_still_start(lane)

    def _follow(self, lane: Lane) -> bool:
        """As a rank other than 0: joins the attempts that rank 0 begins."""
        if lane.child is not None:
            status = lane.child.poll()
            if status is None:
                self._pass_on(lane)
                return True
            if status not in (0, STOPPED):
                lane.child.record_crash(status)
                os._exit(FAILED)  # srun then ends the other ranks
            lane.child = None
        lane.jobs = [job for job in lane.jobs if not self._over(job)]
        if not lane.jobs or self._asked.to_end() or self._asked.to_stop:
            return False
        for job in lane.jobs:
            attempt = self._attempt_of_rank_0(self._layout.job(job))
            if attempt is not None and attempt not in [held.attempt for held in lane.tried]:
                held = Held(job, None, attempt)
                lane.tried.append(held)
                lane.child = Child(self._layout, [held], lane.environment, self._rank)
                break
        return True

    def _attend(self, lane: Lane, child: Child) -> bool:
        """While the child runs: True. Afterwards its jobs are either over or, if it was stopped, still in the lane."""
        status = child.poll()
        if status is None:
            self._pass_on(lane)
            return True
        child.record_crash(status)
        child.release()
        lane.child = None
        self._after_failures(child.batch)
        return not self._asked.to_stop

    def _pass_on(self, lane: Lane) -> None:
        """Tells the child what SLURM asked for; one that takes too long to stop is ended."""
        assert lane.child is not None
        if self._asked.to_end():
            lane.child.kill()
            lane.child.release()
            if self._rank == 0:
                for held in lane.child.batch:
                    note_end(held.attempt, "ended by SIGTERM")
            lane.child = None
        elif self._asked.to_stop_at is not None:
            if not lane.told:
                lane.child.ask_to_stop()
                lane.told = True
            if time.monotonic() - self._asked.to_stop_at > max(5.0, self._options["signal_delay_s"] - _LEAVE_S):
                os.kill(lane.child.pid, signal.SIGKILL)
                for held in lane.child.batch:
                    note_end(held.attempt, "did not stop in time")

    def _over(self, job: str) -> bool:
        files = self._layout.job(job)
        return is_done(files) or failure(files) is not None

    def _parents_done(self, job: str) -> bool:
        try:
            parents = read_spec(self._layout.job(job)).job.parents
        except StoreError:
            return True  # its attempt will say what is wrong with the spec
        return all(is_done(self._layout.job(parent)) for parent in parents)

    def _may_still_start(self, lane: Lane) -> bool:
        """Whether to go on waiting: while somebody else runs these jobs, or their parents; else for a grace time."""
        waits_for = []
        for job in lane.jobs:
            parents = read_spec(self._layout.job(job)).job.parents
            waits_for += [p for p in parents if not is_done(self._layout.job(p))] or [job]
        if any(live_claim(self._layout.job(job)) for job in waits_for):
            lane.blocked_since = None
            return True
        lane.blocked_since = lane.blocked_since or time.monotonic()
        failed = all(failure(self._layout.job(job)) is not None for job in waits_for)
        if not failed and time.monotonic() - lane.blocked_since < _NOT_YET_VISIBLE_S:
            return True
        lane.why = f"{', '.join(lane.jobs)}: waiting for {', '.join(dict.fromkeys(waits_for))}, which nobody runs"
        return False

    def _attempt_of_rank_0(self, files: JobFiles) -> Attempt | None:
        attempts = files.attempts()
        try:
            return attempts[-1] if attempts and read_json(attempts[-1].slurm) == self._whereabouts() else None
        except (FileNotFoundError, StoreError):
            return None

    def _whereabouts(self) -> dict[str, Any]:
        return {
            "submission": self._files.name,
            "slurm_job": os.environ.get("SLURM_JOB_ID", ""),
            "restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0") or 0),
            "ranks": self._ranks,
        }

    # --- the end ----------------------------------------------------------------------------------------------------

    def _leave(self) -> int:
        if self._rank:
            return DONE  # rank 0 decides what becomes of the job
        unfinished = [job for lane in self._lanes for job in lane.jobs if not self._over(job)]
        tried = [held for lane in self._lanes for held in lane.tried]
        if self._asked.to_end():
            return 128 + signal.SIGTERM
        if self._asked.to_stop and unfinished and not self._give_up_on_stuck(unfinished):
            self._requeue(unfinished)
        from bll_sweeps.cluster.topup import top_up

        top_up(self._layout, self._sweep, self._launch, lambda: self._asked.anything)
        if any(failure(self._layout.job(held.job_id)) is not None for held in tried):
            return FAILED
        for why in filter(None, (lane.why for lane in self._lanes)):
            print(why, flush=True)
        return BLOCKED if any(not self._over(job) for job in unfinished) else DONE

    def _requeue(self, unfinished: Sequence[str]) -> None:
        """Back into the queue; returns only if SLURM will not. While its controller is away, it is asked again."""
        slurm_job = os.environ["SLURM_JOB_ID"]
        while not self._asked.to_end():
            try:
                scheduler.requeue(slurm_job)
                print(f"requeued: {len(unfinished)} jobs go on later", flush=True)
                break
            except SchedulerUnavailable as error:
                print(f"cannot requeue: {error}", flush=True)
                away = any(word in str(error) for word in ("contact", "connect", "Transport", "did not answer"))
                state = scheduler.state(slurm_job)
                if state not in (None, "RUNNING"):
                    break  # SLURM was faster: a grace time was over, or the job was cancelled
                if state == "RUNNING" and not away:
                    for job in unfinished:
                        attempts = self._layout.job(job).attempts()
                        if attempts:
                            write_failure(attempts[-1], f"SLURM did not requeue it ({error}); its state is saved")
                    return
                time.sleep(2)
        while not self._asked.to_end():
            time.sleep(_POLL_S)  # SLURM ends this process
        sys.exit(128 + signal.SIGTERM)

    def _give_up_on_stuck(self, unfinished: Sequence[str]) -> bool:
        """Jobs that were stopped again and again without having reached anything new have failed. True if that leaves
        nothing to go on with. Attempts that never began, those behind the running one in its batch, do not count.
        """
        left = 0
        for job in unfinished:
            attempts = [attempt for attempt in self._layout.job(job).attempts() if attempt.provenance.exists()]
            if len(attempts) >= _PATIENCE and not any(advanced(attempt) for attempt in attempts[-_PATIENCE:]):
                hint = "raise its time_min, or lower execution.checkpoint_every_steps"
                message = f"stopped {_PATIENCE} times in a row without reaching a new step: {hint}"
                write_failure(self._layout.job(job).attempts()[-1], message)
            else:
                left += 1
        return not left

    def _after_failures(self, batch: Sequence[Held]) -> None:
        if any(held.attempt.failure.exists() for held in batch):
            from bll_sweeps.cluster.siblings import stop_after_identical_failures

            limit = self._options["stop_after_failures"]
            stop_after_identical_failures(self._layout, self._files, self._sweep, self._launch, limit)


def note_end(attempt: Attempt, why: str) -> None:
    """The attempt ended from outside: no failure. What it has saved is the next one's to find."""
    if not attempt.interrupted.exists():
        write_json(attempt.interrupted, {"why": why})


def advanced(attempt: Attempt) -> bool:
    """Whether the attempt has left something that the one after it can go on from, and it did not begin with."""
    try:
        told = read_json(attempt.interrupted)
        if "reached" in told:
            return told["reached"] > told["began_at"]
    except (FileNotFoundError, StoreError):
        pass
    return any(attempt.checkpoints.glob("step-*")) or (attempt.journal.exists() and attempt.journal.stat().st_size > 0)


@cache
def _slurm_knows() -> Callable[[str], bool]:
    """Whether SLURM has a job with that $SLURM_JOB_ID, asked at most every half a minute per job."""
    asked: dict[str, tuple[float, bool]] = {}

    def knows(raw_id: str) -> bool:
        when, answer = asked.get(raw_id, (-1e9, True))
        if time.monotonic() - when > 30:
            answer = not scheduler.ended(scheduler.state(raw_id))
            asked[raw_id] = (time.monotonic(), answer)
        return answer

    return knows


def _ended_in_slurm(owner: dict[str, Any]) -> bool:
    """Whether the claim's owner is a SLURM job that has ended: its heartbeat need not be waited out."""
    raw_id = str(owner.get("slurm_job", ""))
    if owner.get("user") != user():
        return False  # SLURM may hide another user's jobs
    return bool(raw_id) and raw_id != os.environ.get("SLURM_JOB_ID") and not _slurm_knows()(raw_id)


def _devices(lanes: int) -> list[dict[str, str]]:
    """$CUDA_VISIBLE_DEVICES of each lane: equal parts of the allocation's GPUs."""
    there = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if lanes == 1 or not there:
        return [{} for _ in range(lanes)]
    each = len(there) // lanes
    return [{"CUDA_VISIBLE_DEVICES": ",".join(there[i * each : (i + 1) * each])} for i in range(lanes)]


def _options(layout: Layout, sweep: str, launch: int) -> dict[str, Any]:
    from bll_sweeps.cluster.status import read_manifest

    return read_manifest(layout, sweep, launch)["launcher"]["options"]
