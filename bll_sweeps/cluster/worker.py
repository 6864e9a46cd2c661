"""A local worker: claims ready jobs of a launch, parents before children, and runs each in a forked child."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bll_sweeps.cluster.children import STOPPED, Child, Held, claim_job, preload, preload_tracker
from bll_sweeps.cluster.disk import release_weights
from bll_sweeps.cluster.status import failure, read_manifest
from bll_sweeps.errors import UsageError
from bll_sweeps.store.claims import acquire, claimed, process_start
from bll_sweeps.store.layout import JobFiles, Layout
from bll_sweeps.store.records import is_done

POLL_S = 0.05
IDLE_S = 0.2


@dataclass
class Worker:
    """A picklable callable that holds paths only: what submitit starts.

    `launcher`: (pid, start ticks) of the launching process, whose end also ends this worker.
    `stop`: a file whose appearance ends the worker. `cuda_devices`: what its jobs see as $CUDA_VISIBLE_DEVICES, which
    submitit's local executor empties; None leaves it unset.
    """

    root: str
    sweep: str
    launch: int
    stop: str
    launcher: tuple[int, str]
    cuda_devices: str | None = None

    def __call__(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's; it then asks the workers to stop
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if self.cuda_devices is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.cuda_devices
        layout = Layout(Path(self.root))
        manifest = read_manifest(layout, self.sweep, self.launch)
        jobs: dict[str, dict[str, Any]] = manifest["jobs"]
        canary = {job_id: jobs[job_id] for job_id in manifest.get("canary", ())}
        preload(jobs)
        preload_tracker(layout, list(jobs))
        while not self._told_to_stop():
            first = canary if not all(is_done(layout.job(job_id)) for job_id in canary) else jobs
            batch = self._claim_next(layout, first)
            if batch:
                self._run(layout, batch)
            elif self._nothing_left(layout, first):
                return
            else:
                time.sleep(IDLE_S)

    def _told_to_stop(self) -> bool:
        return Path(self.stop).exists() or process_start(self.launcher[0]) != self.launcher[1]

    def _claim_next(self, layout: Layout, jobs: dict[str, dict[str, Any]]) -> list[Held]:
        """The next ready job, claimed; for an evaluation also the others of its checkpoint, so that one load serves
        all.
        """
        for job_id, entry in jobs.items():
            held = self._claim(layout, job_id, entry)
            if held is None:
                continue
            batch = [held]
            if entry["kind"] == "evaluate":
                siblings = (
                    (i, e) for i, e in jobs.items() if i != job_id and e.get("checkpoint") == entry["checkpoint"]
                )
                batch += [more for i, e in siblings if (more := self._claim(layout, i, e))]
            return batch
        return []

    def _claim(self, layout: Layout, job_id: str, entry: dict[str, Any]) -> Held | None:
        if not all(is_done(layout.job(parent)) for parent in entry["parents"]):
            return None
        return claim_job(layout.job(job_id))

    def _nothing_left(self, layout: Layout, jobs: dict[str, dict[str, Any]]) -> bool:
        """Whether no job of the launch can become ready any more: all are done, failed, or below a failed one."""
        hopeless: set[str] = set()
        for job_id, entry in jobs.items():
            files = layout.job(job_id)
            if is_done(files):
                continue
            if failure(files) is None and not hopeless.intersection(entry["parents"]):
                return False  # ready, running elsewhere, or waiting for one that is
            hopeless.add(job_id)
        return True

    def _run(self, layout: Layout, batch: list[Held]) -> None:
        """Runs the batch in a child and waits; a child that is killed leaves a failure record."""
        child = Child(layout, batch)
        while (status := child.poll()) is None:
            if self._told_to_stop():
                child.kill()
                break
            time.sleep(POLL_S)
        if status not in (None, STOPPED):
            child.record_crash(status)
        child.release()


def run_here(layout: Layout, job_id: str) -> None:
    """Runs one job in this process (`bll run`, `python -m jobs.cell`). Raises what the job raises."""
    from jobs.attempt import new_attempt, run_attempt

    files: JobFiles = layout.job(job_id)
    claim = acquire(files)
    if claim is None:
        raise UsageError(f"job={job_id!r} is being run by another live process; `bll status` shows where")
    with claimed(claim):
        if not is_done(files):  # another process may have ended it before we had the claim
            run_attempt(layout, job_id, claim, new_attempt(files))
    release_weights(layout, [job_id])
