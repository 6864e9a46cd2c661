"""Jobs run in forked children of a process that has imported torch, transformers and lm-eval once.

A child starts in a tenth of a second, and whatever kills it (a fault, the kernel out of memory) leaves its parent to
record it. Between import and fork the parent makes no tensor and no thread, so that forking is safe and results are
those of a fresh process.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bll_sweeps.cluster.disk import release_weights
from bll_sweeps.cluster.status import failure
from bll_sweeps.errors import Interrupted, StoreError
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.claims import Claim, acquire
from bll_sweeps.store.layout import Attempt, JobFiles, Layout
from bll_sweeps.store.records import is_done, look_anew
from jobs.attempt import new_attempt, run_attempt, write_failure

STOPPED = 75  # exit status of a child that was asked to stop and has saved its state
_MEMORY_EVERY_S = 1.0
_ASKING = (signal.SIGUSR2, signal.SIGTERM)
# What jobs import; naming a missing one here would fail the worker rather than slow down its jobs. Trainings find their
# data prepared, mostly, and import what makes them where they do not.
_MODELS = ("torch", "transformers.models.qwen2.modeling_qwen2")
_PRELOAD = {
    "pretrain": (*_MODELS, "reasoning_gym"),
    "prior": _MODELS,
    "train": _MODELS,
    "evaluate": (*_MODELS, "lm_eval.models.huggingface", "reasoning_gym"),
}


@dataclass(frozen=True)
class Held:
    """A job with the folder of its new attempt. `claim` is None for a rank that follows the one that holds it."""

    job_id: str
    claim: Claim | None
    attempt: Attempt


def claim_job(files: JobFiles, is_dead: Callable[[dict[str, object]], bool] | None = None) -> Held | None:
    """The job, claimed and with a new attempt; None if it is done, has failed, or somebody else is at it."""
    if is_done(files) or failure(files) is not None:
        return None
    claim = acquire(files, is_dead)
    if claim is None:
        return None
    look_anew(files.folder)
    if is_done(files) or failure(files) is not None:  # another worker ended it between our look and our claim
        claim.release()
        return None
    return Held(files.id, claim, new_attempt(files))


class Child:
    """A forked process that runs the jobs of a batch one after another."""

    def __init__(
        self,
        layout: Layout,
        batch: Sequence[Held],
        environment: Mapping[str, str] | None = None,
        rank: int | None = None,
    ):
        """Starts it. `environment`: variables of its own; `rank`: among those that $RANK, $WORLD_SIZE, ... describe."""
        self.batch = list(batch)
        self._layout, self._rank = layout, rank
        self._measured, self.peak_kib = 0.0, 0
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING)  # until the child has its own handlers
        try:
            self.pid = os.fork()
            if self.pid == 0:
                try:
                    _child(layout, self.batch, environment or {}, rank)
                except BaseException:
                    logging.getLogger("bll").exception("the child could not start, or end")
                finally:
                    os._exit(1)  # whatever went wrong, as on a full disk: the child must not go on as its parent
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING)

    def poll(self) -> int | None:
        """Keeps the claims alive and measures memory; the exit status once the child has ended, as a return code."""
        self._measure()
        ended, code = os.waitpid(self.pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(code)
        for held in self.batch:
            if held.claim:
                held.claim.beat()
        return None

    def ask_to_stop(self) -> None:
        """It saves its state after the present step, and exits with STOPPED."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR2)

    def kill(self) -> None:
        """Nothing is lost: the next attempt goes on from the last checkpoint."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def record_crash(self, status: int) -> None:
        """After a child that died, or could not record its failure: the job that it was at, the first that neither
        ended nor failed, has failed. OSError if that cannot be recorded either, as on a full disk.
        """
        if status in (0, STOPPED):
            return
        for held in self.batch:
            if held.attempt.interrupted.exists():
                return  # it was ended on purpose
            if not is_done(self._layout.job(held.job_id)) and not held.attempt.failure.exists():
                who = "" if self._rank is None else f"rank {self._rank}: "
                write_failure(held.attempt, who + crash_message(status, self.peak_kib))
                return

    def release(self) -> None:
        for held in self.batch:
            if held.claim:
                held.claim.release()
        release_weights(self._layout, [held.job_id for held in self.batch])

    def _measure(self) -> None:
        """The child's highest resident memory so far, also on disk: what kills it may kill its parent as well."""
        now = time.monotonic()
        if now - self._measured < _MEMORY_EVERY_S:
            return
        self._measured = now
        with contextlib.suppress(OSError, ValueError, IndexError):
            status = Path(f"/proc/{self.pid}/status").read_text()
            peak = int(status.partition("VmHWM:")[2].split()[0])
            if peak > 1.05 * self.peak_kib:
                self.peak_kib = peak
                for held in self.batch:
                    if not is_done(self._layout.job(held.job_id)):
                        write_memory(held.attempt, peak)  # of the first that is not done: the one that runs
                        break


def write_memory(attempt: Attempt, peak_kib: int) -> None:
    temporary = attempt.memory.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"peak_mib": peak_kib // 1024, "limit_mib": memory_limit_mib()}))
    temporary.replace(attempt.memory)


def memory_limit_mib() -> int | None:
    """What SLURM gave this allocation on this node; None outside, or where memory is not limited."""
    per_node, per_cpu = os.environ.get("SLURM_MEM_PER_NODE"), os.environ.get("SLURM_MEM_PER_CPU")
    if per_node:
        return int(per_node) or None
    return int(per_cpu) * int(os.environ.get("SLURM_CPUS_ON_NODE", "1")) if per_cpu else None


def crash_message(status: int, peak_kib: int = 0) -> str:
    """In words: how a child ended that left no record (`status` as of os.waitstatus_to_exitcode)."""
    if status >= 0:
        return f"the job's process exited with status {status} without a record; see its log"
    name, limit = signal.Signals(-status).name, memory_limit_mib()
    peak = f"at a peak of {peak_kib / 2**20:.1f} GiB" if peak_kib else ""
    if name == "SIGKILL" and limit and peak_kib / 1024 >= 0.9 * limit:
        return f"out of memory: the job's process was killed {peak} of the {limit / 1024:.1f} GiB asked for"
    hint = f" {peak} (the kernel does this when memory runs out)".replace("  ", " ") if name == "SIGKILL" else ""
    return f"the job's process was killed by {name}{hint}"


def preload(jobs: Iterable[str], stop: Callable[[], bool] = lambda: False) -> None:
    """Imports what these jobs need, once per worker. No tensor operation, no thread: the worker forks afterwards. It
    takes seconds: once stop() is true, the rest is left out.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # jobs never reach for a hub: data and models are local
    kinds = dict.fromkeys(job_id.partition("-")[0] for job_id in jobs)
    gc.disable()  # looking for cycles among what modules hold is a seventh of their import
    try:
        for name in dict.fromkeys(name for kind in kinds for name in _PRELOAD[kind]):
            if not stop():
                importlib.import_module(name)
        gc.freeze()  # and would copy the pages that children share
    finally:
        gc.enable()


def preload_tracker(layout: Layout, jobs: Sequence[str]) -> None:
    """Imports wandb if the jobs log to it. A spec that cannot be read is its job's failure, not the worker's."""
    from bll_sweeps import tracking

    for job_id in jobs:
        with contextlib.suppress(StoreError):
            return tracking.preload(read_spec(layout.job(job_id)).tracker)


def _child(layout: Layout, batch: Sequence[Held], environment: Mapping[str, str], rank: int | None) -> NoReturn:
    """Runs the jobs of a batch one after another; never returns. Exit status 1 if one of them failed."""
    asked: list[int] = []
    for name in _ASKING:  # SLURM sends them to all processes of a job, also to this one
        signal.signal(name, lambda number, _: asked.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING)
    worker = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with its worker
    if os.getppid() != worker:
        os._exit(1)
    for name in (signal.SIGUSR1, signal.SIGCONT):
        signal.signal(name, signal.SIG_DFL)  # submitit's handlers are the worker's, not the job's
    os.environ.update(environment)
    from bll_sweeps.training.ranks import SINGLE, Ranks

    ranks = SINGLE if rank is None else Ranks.of_environment()
    status = 0
    for held in batch:
        if asked:
            status = STOPPED
            break
        _log_to(held.attempt, rank or 0)
        try:
            run_attempt(layout, held.job_id, held.claim, held.attempt, ranks=ranks, stop=lambda: bool(asked))
        except Interrupted as error:
            logging.getLogger("bll").info("%s: %s", held.job_id, error)
            status = STOPPED
            break
        except BaseException:
            logging.getLogger("bll").exception("%s failed", held.job_id)
            status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _log_to(attempt: Attempt, rank: int) -> None:
    """Sends everything this process prints to the attempt's log of that rank."""
    sys.stdout.flush()
    sys.stderr.flush()
    fd = os.open(attempt.log(rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
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
