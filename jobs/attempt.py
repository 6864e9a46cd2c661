"""One attempt at a job in this process: read the frozen spec, run the kind's paragraph, publish the record.

Whoever calls holds the job's claim. The result counts only if the claim is still held when the record is published.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import random
import shutil
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from bll_sweeps.code import code_digest, versions
from bll_sweeps.errors import StoreError
from bll_sweeps.grid.axes import to_plain
from bll_sweeps.grid.spec import Spec, read_spec
from bll_sweeps.store.claims import Claim
from bll_sweeps.store.layout import Attempt, JobFiles, Layout
from bll_sweeps.store.records import publish, write_json, write_record
from jobs import RUN
from jobs.context import JobContext

log = logging.getLogger("bll")


def new_attempt(files: JobFiles) -> Attempt:
    """A fresh folder for the next try. The caller holds the claim, so that no other process makes the same."""
    numbers = [a.number for a in files.attempts()]
    attempt = files.attempt(numbers[-1] + 1 if numbers else 1)
    attempt.folder.mkdir()
    return attempt


def run_attempt(layout: Layout, job_id: str, claim: Claim, attempt: Attempt) -> None:
    """Runs the job and publishes its record; raises what the job raised after recording it as the attempt's failure."""
    files = layout.job(job_id)
    started = time.time()
    try:
        spec = read_spec(files)
        prepare(spec)
        provenance = _provenance(spec, started)
        write_json(attempt.provenance, provenance)
        log.info("%s, attempt %d: %s", job_id, attempt.number, ", ".join(f"{k}={v}" for k, v in spec.labels.items()))
        outcome = importlib.import_module(RUN[spec.job.kind]).run(spec.job, JobContext(layout, spec, attempt))
        write_record(attempt, job_id, outcome.result, outcome.outputs)
        finished = {
            "finished_at": _iso(time.time()),
            "seconds": round(time.time() - started, 3),
            "peak_memory_mib": _peak_memory_mib(),
        }
        write_json(attempt.provenance, provenance | finished)
        if not claim.held():
            raise StoreError(
                f"another worker took {job_id} over while this one was silent: its result will count, not this one"
            )
        if not publish(files, attempt):
            log.warning("%s was already done; this attempt's result is left unused", job_id)
        _remove_leftovers(files)
        log.info("%s: done in %.1f s: %s", job_id, time.time() - started, json.dumps(outcome.result))
    except BaseException as error:
        record_failure(attempt, error)
        raise


@contextmanager
def claimed(claim: Claim) -> Iterator[Claim]:
    """Keeps a claim alive from a thread while this process itself runs the job; releases it at the end."""
    import threading

    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(5):
            claim.beat()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield claim
    finally:
        stop.set()
        thread.join()
        claim.release()


def prepare(spec: Spec) -> None:
    """Seeds and threads before the job's own code: nothing may depend on what this process did before."""
    import numpy as np
    import torch

    torch.set_num_threads(spec.execution.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def record_failure(attempt: Attempt, error: BaseException) -> None:
    """failure.json: type, first line and traceback. Interruptions by the user are no failures."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return
    lines = str(error).strip().splitlines()
    write_failure(attempt, f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": "), traceback.format_exc())


def write_failure(attempt: Attempt, message: str, trace: str = "") -> None:
    write_json(attempt.failure, {"message": message, "traceback": trace, "at": _iso(time.time())})


def _provenance(spec: Spec, started: float) -> dict[str, Any]:
    return {
        "started_at": _iso(started),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "code": code_digest(),
        "versions": versions(),
        "execution": to_plain(spec.execution),
    }


def _remove_leftovers(files: JobFiles) -> None:
    """Checkpoints and journals that were for resuming; the record no longer needs them."""
    for attempt in files.attempts():
        shutil.rmtree(attempt.checkpoints, ignore_errors=True)
        attempt.journal.unlink(missing_ok=True)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _peak_memory_mib() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
