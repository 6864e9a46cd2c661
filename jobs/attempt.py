"""One attempt at a job in this process: read the frozen spec, run the kind's paragraph, publish the record.

Whoever calls holds the job's claim. The result counts only if the claim is still held when the record is published.
A training of several ranks runs in a process each, all of them in the folder of one attempt; rank 0 leads and writes.
"""

from __future__ import annotations

import errno
import importlib
import json
import logging
import os
import random
import secrets
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from bll_sweeps import tracking
from bll_sweeps.code import code_digest, versions
from bll_sweeps.errors import Interrupted, StoreError
from bll_sweeps.grid.axes import to_plain
from bll_sweeps.grid.spec import Spec, read_spec
from bll_sweeps.store.claims import Claim
from bll_sweeps.store.layout import Attempt, JobFiles, Layout
from bll_sweeps.store.records import fsync_folder, publish, read_record, write_json, write_record
from bll_sweeps.tracking import Run
from bll_sweeps.tracking.content import Content, content, identity, sweeps_of
from bll_sweeps.training.ranks import SINGLE, PeerLost, Ranks
from jobs import RUN, Result
from jobs.context import JobContext

log = logging.getLogger("bll")
# A rank that lost a peer leaves it, or the parent of a killed one, this long to record the cause.
PEER_GRACE_S = 10.0


def new_attempt(files: JobFiles) -> Attempt:
    """A fresh folder for the next try. The caller holds the claim, so that no other process makes the same."""
    numbers = [a.number for a in files.attempts()]
    attempt = files.attempt(numbers[-1] + 1 if numbers else 1)
    attempt.folder.mkdir()
    return attempt


def run_attempt(
    layout: Layout,
    job_id: str,
    claim: Claim | None,
    attempt: Attempt,
    *,
    ranks: Ranks = SINGLE,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Runs the job and publishes its record; raises what the job raised after recording it as the attempt's failure.

    Rank 0 has the claim; the other ranks have none and write no more than their failure. stop() is asked again and
    again: once it is true the job saves its state and Interrupted is raised. That is no failure, and interrupted.json
    says how far it is.
    """
    assert (claim is not None) == ranks.leads, "rank 0, and no other, holds the claim"
    try:
        spec = read_spec(layout.job(job_id))
        prepare(spec)
        context = JobContext(layout, spec, attempt, ranks, stop)
        with ranks.connected(spec.execution):
            if claim is None:
                _run(context)
            else:
                _lead(context, claim)
    except Interrupted:
        raise
    except BaseException as error:
        record_failure(attempt, error, ranks)
        raise


def _run(context: JobContext) -> Result:
    job = context.spec.job
    return importlib.import_module(RUN[job.kind]).run(job, context)


def _lead(context: JobContext, claim: Claim) -> None:
    """What rank 0 does besides the job itself: it tells about the attempt and publishes the record."""
    started, attempt, spec = time.time(), context.attempt, context.spec
    files = context.layout.job(spec.job.id)
    provenance = _provenance(context, started)
    write_json(attempt.provenance, provenance)
    log.info("%s, attempt %d: %s", files.id, attempt.number, ", ".join(f"{k}={v}" for k, v in spec.labels.items()))
    with _mirrored(context) as mirror:
        try:
            outcome = _run(context)
        except Interrupted:
            write_json(attempt.provenance, provenance | _ending(started))
            write_json(attempt.interrupted, {"at": _iso(time.time()), **context.saved()})
            raise
        write_record(attempt, files.id, outcome.result, outcome.outputs)
        write_json(attempt.provenance, provenance | _ending(started))
        if not claim.held():
            raise StoreError(
                f"another worker took {files.id} over while this one was silent: its result will count, not this one"
            )
        if publish(files, attempt):
            mirror.complete(partial(_finished, context))
        else:
            log.warning("%s was already done; this attempt's result is left unused", files.id)
    _remove_leftovers(files, spec.execution.keep)
    log.info("%s: done in %.1f s: %s", files.id, time.time() - started, json.dumps(outcome.result))


@contextmanager
def _mirrored(context: JobContext) -> Iterator[Run]:
    """The job's run on W&B; closed as failed if the block raises. What goes wrong with it never reaches the job."""
    spec = context.spec
    try:
        own, folder = identity(context.layout, spec), context.attempt.wandb
        context.mirror = tracking.open_tracker(spec.tracker, own, folder)
    except Exception:
        log.warning("the job is not mirrored on W&B; it goes on", exc_info=True)
    try:
        yield context.mirror
    except BaseException as error:
        try:
            if not isinstance(error, Interrupted):
                record_failure(context.attempt, error, context.ranks)  # the mirror may take most of a minute to close
        finally:
            context.mirror.close(ok=False)
        raise
    context.mirror.close(ok=True)


def _finished(context: JobContext) -> Content:
    spec = context.spec
    record = read_record(context.layout.job(spec.job.id))
    assert record is not None
    sweeps = sweeps_of(context.layout, spec.labels.get("sweeps", []))
    return content(context.layout, spec, record, sweeps)


def prepare(spec: Spec) -> None:
    """Seeds and threads before the job's own code: nothing may depend on what this process did before."""
    import numpy as np
    import torch

    torch.set_num_threads(spec.execution.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()  # a job before this one in the same process has its own
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def record_failure(attempt: Attempt, error: BaseException, ranks: Ranks = SINGLE) -> None:
    """failure.json: rank (of several), type, first line and traceback. Interruptions by the user are no failures."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return
    if isinstance(error, PeerLost):
        _leave_it_to_the_cause(attempt)
    lines = str(error).strip().splitlines()
    message = f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")
    if _is_out_of_memory(error):
        message = f"out of memory: {message} ({_peak_memory()})"
    trace = "".join(traceback.format_exception(error))
    write_failure(attempt, f"rank {ranks.rank}: {message}" if ranks.world_size > 1 else message, trace)


def write_failure(attempt: Attempt, message: str, trace: str = "") -> None:
    """failure.json, unless there is one: of several ranks, or a process and its parent, the first names the cause."""
    own = attempt.failure.with_name(f".{attempt.failure.name}.{secrets.token_hex(6)}.tmp")
    write_json(own, {"message": message, "traceback": trace, "at": _iso(time.time())})
    try:
        with suppress(FileExistsError):
            os.link(own, attempt.failure)
    finally:
        own.unlink()
    fsync_folder(attempt.folder)


def _leave_it_to_the_cause(attempt: Attempt) -> None:
    deadline = time.monotonic() + PEER_GRACE_S
    while not attempt.failure.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def _is_out_of_memory(error: BaseException) -> bool:
    """torch's allocator for the CPU has no error type of its own, and cuBLAS, NCCL and the driver have none either."""
    if isinstance(error, RuntimeError):
        text = str(error).lower()
        return any(sign in text for sign in ("out of memory", "can't allocate memory", "alloc_failed"))
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def _provenance(context: JobContext, started: float) -> dict[str, Any]:
    known: dict[str, Any] = {
        "started_at": _iso(started),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "code": code_digest(),
        "versions": versions(),
        "execution": to_plain(context.spec.execution),
    }
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        known["cuda_devices"] = os.environ["CUDA_VISIBLE_DEVICES"]
    if context.ranks.world_size > 1:
        known["ranks"] = context.ranks.world_size
    if "SLURM_JOB_ID" in os.environ:
        known["slurm_job"] = os.environ["SLURM_JOB_ID"]
        known["slurm_restarts"] = int(os.environ.get("SLURM_RESTART_COUNT", "0") or 0)
    return known


def _ending(started: float) -> dict[str, Any]:
    """Times and peak memory, of rank 0 where there are several."""
    known = {
        "finished_at": _iso(time.time()),
        "seconds": round(time.time() - started, 3),
        "peak_memory_mib": _peak_rss_mib(),
    }
    return known | {f"peak_gpu_{name}_mib": mib for name, mib in _peak_gpu_mib().items()}


def _remove_leftovers(files: JobFiles, keep: str) -> None:
    """Checkpoints and journals that were for resuming; the record no longer needs them."""
    for attempt in files.attempts():
        if keep != "all":
            shutil.rmtree(attempt.checkpoints, ignore_errors=True)
        attempt.journal.unlink(missing_ok=True)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _peak_rss_mib() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _peak_gpu_mib() -> dict[str, int]:
    """The most that torch used and reserved of this process's GPU since the job began; empty without a GPU."""
    torch = sys.modules.get("torch")  # whoever used a GPU has loaded it
    if torch is None or not torch.cuda.is_initialized():
        return {}
    peak = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    return {name: count // 2**20 for name, count in peak.items()}


def _peak_memory() -> str:
    """In words, for an error: "peak 11.9 GiB; GPU: peak 78.1 GiB allocated, 79.0 GiB reserved of 79.6 GiB"."""
    words = f"peak {_peak_rss_mib() / 1024:.1f} GiB"
    gpu = _peak_gpu_mib()
    if gpu:
        total = sys.modules["torch"].cuda.get_device_properties().total_memory / 2**30
        used = f"{gpu['allocated'] / 1024:.1f} GiB allocated, {gpu['reserved'] / 1024:.1f} GiB reserved"
        words += f"; GPU: peak {used} of {total:.1f} GiB"
    return words
