"""A worker: claims ready jobs of a launch, parents before children, and runs each in a forked child.

The worker imports torch, transformers and lm-eval once; a child starts in a tenth of a second, and whatever kills it
(a fault, the kernel out of memory) leaves the worker to record it. Between fork and import the worker makes no tensor
and no thread, so that forking is safe and results are those of a fresh process.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bll_sweeps.cluster.status import failure, read_manifest
from bll_sweeps.errors import StoreError, UsageError
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.claims import Claim, acquire, process_start
from bll_sweeps.store.layout import Attempt, JobFiles, Layout
from bll_sweeps.store.records import is_done
from jobs.attempt import new_attempt, run_attempt, write_failure

POLL_S = 0.05
IDLE_S = 0.2
# What jobs import; naming a missing one here would fail the worker rather than slow down its jobs.
_PRELOAD = (
    "torch",
    "transformers.models.qwen2.modeling_qwen2",
    "lm_eval.models.huggingface",
    "reasoning_gym",
)


@dataclass(frozen=True)
class Held:
    """A job this worker has claimed, with the folder of its new attempt."""

    job_id: str
    claim: Claim
    attempt: Attempt


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
        jobs: dict[str, dict[str, Any]] = read_manifest(layout, self.sweep, self.launch)["jobs"]
        preload()
        _preload_tracker(layout, jobs)
        while not self._told_to_stop():
            batch = self._claim_next(layout, jobs)
            if batch:
                self._run(layout, batch)
            elif self._nothing_left(layout, jobs):
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
                    (i, e)
                    for i, e in jobs.items()
                    if e["kind"] == "evaluate" and e["parents"] == entry["parents"] and i != job_id
                )
                batch += [more for i, e in siblings if (more := self._claim(layout, i, e))]
            return batch
        return []

    def _claim(self, layout: Layout, job_id: str, entry: dict[str, Any]) -> Held | None:
        files = layout.job(job_id)
        if (
            is_done(files)
            or failure(files) is not None
            or not all(is_done(layout.job(parent)) for parent in entry["parents"])
        ):
            return None
        claim = acquire(files)
        if claim is None:
            return None
        if is_done(files) or failure(files) is not None:  # another worker ended it between our look and our claim
            claim.release()
            return None
        return Held(job_id, claim, new_attempt(files))

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
        """Runs the batch in a child and waits, keeping the claims alive; a child that is killed leaves a failure
        record.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _child(layout, batch)
        status = None
        while status is None:
            ended, code = os.waitpid(pid, os.WNOHANG)
            if ended:
                status = os.waitstatus_to_exitcode(code)
            elif self._told_to_stop():
                os.kill(pid, signal.SIGKILL)  # nothing is lost: the next attempt goes on from its last checkpoint
                os.waitpid(pid, 0)
                break
            else:
                for held in batch:
                    held.claim.beat()
                time.sleep(POLL_S)
        if status is not None and status != 0:
            self._record_crash(layout, batch, status)
        for held in batch:
            held.claim.release()

    def _record_crash(self, layout: Layout, batch: list[Held], status: int) -> None:
        """The first job of the batch that neither ended nor failed is the one that was running when the child died."""
        for held in batch:
            if not is_done(layout.job(held.job_id)) and not held.attempt.failure.exists():
                write_failure(held.attempt, crash_message(status))
                return


def crash_message(status: int) -> str:
    """In words: how a child ended that left no record (`status` as of os.waitstatus_to_exitcode)."""
    if status >= 0:
        return f"the job's process exited with status {status} without a record; see its log"
    name = signal.Signals(-status).name
    hint = " (the kernel does this when memory runs out)" if name == "SIGKILL" else ""
    return f"the job's process was killed by {name}{hint}"


def preload() -> None:
    """Imports what jobs need, once per worker. No tensor operation, no thread: the worker forks afterwards."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # jobs never reach for a hub: data and models are local
    for name in _PRELOAD:
        importlib.import_module(name)


def _preload_tracker(layout: Layout, jobs: dict[str, dict[str, Any]]) -> None:
    """Imports wandb if the jobs log to it. A spec that cannot be read is its job's failure, not the worker's."""
    from bll_sweeps import tracking

    for job_id in jobs:
        with contextlib.suppress(StoreError):
            return tracking.preload(read_spec(layout.job(job_id)).tracker)


def _child(layout: Layout, batch: list[Held]) -> None:
    """Runs the jobs of a batch one after another; never returns. Exit status 1 if one of them failed."""
    worker = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with its worker
    if os.getppid() != worker:
        os._exit(1)
    for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_DFL)  # submitit's handlers are the worker's, not the job's
    failed = False
    for held in batch:
        _log_to(held.attempt)
        try:
            run_attempt(layout, held.job_id, held.claim, held.attempt)
        except BaseException:
            logging.getLogger("bll").exception("%s failed", held.job_id)
            failed = True
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(failed))


def _log_to(attempt: Attempt) -> None:
    """Sends everything this process prints to the attempt's log.txt."""
    sys.stdout.flush()
    sys.stderr.flush()
    fd = os.open(attempt.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    configure_logging()


def configure_logging() -> None:
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )
    logging.captureWarnings(True)


def run_here(layout: Layout, job_id: str) -> None:
    """Runs one job in this process (`bll run`, `python -m jobs.cell`). Raises what the job raises."""
    from jobs.attempt import claimed

    files: JobFiles = layout.job(job_id)
    claim = acquire(files)
    if claim is None:
        raise UsageError(f"job={job_id!r} is being run by another live process; `bll status` shows where")
    with claimed(claim):
        if not is_done(files):  # another process may have ended it before we had the claim
            run_attempt(layout, job_id, claim, new_attempt(files))
