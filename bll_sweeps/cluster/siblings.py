"""The same error in many jobs of one kind is one error: the rest of them need not find it again."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from bll_sweeps.cluster import scheduler
from bll_sweeps.cluster.scheduler import SchedulerUnavailable
from bll_sweeps.cluster.status import failure
from bll_sweeps.cluster.submissions import Submitted, read_submission, stop
from bll_sweeps.store.layout import Layout, Submission

_FRAME = re.compile(r'File "(.+)", line (\d+), in (.+)')


def signature(found: dict[str, Any]) -> str:
    """What makes two failures the same: the exception's type and where it was raised. '' without a traceback."""
    frames = _FRAME.findall(found.get("traceback", ""))
    return f"{found['message'].partition(':')[0]} at {':'.join(frames[-1])}" if frames else ""


def stop_after_identical_failures(layout: Layout, files: Submission, sweep: str, launch: int, limit: int) -> None:
    """Cancels what has not started of the jobs of this kind and shape, once `limit` of them failed alike (0: never)."""
    if not limit:
        return
    own = read_submission(files)
    assert own is not None
    siblings = [s for s in map(read_submission, layout.submissions()) if s and _alike(s, own, sweep, launch)]
    failures = [found for s in siblings for job in s.jobs if (found := failure(layout.job(job)))]
    counts = Counter(filter(None, map(signature, failures)))
    if not counts or counts.most_common(1)[0][1] < limit:
        return
    common, number = counts.most_common(1)[0]
    message = next(found["message"] for found in failures if signature(found) == common)
    for s in siblings:
        stop(s.files, f"stopped after {number} identical failures: {message}")
    try:
        scheduler.cancel([str(s.slurm_job) for s in siblings if s.slurm_job], pending_only=True)
    except SchedulerUnavailable as error:
        print(f"could not cancel the rest, which will stop as soon as it starts: {error}", flush=True)


def _alike(other: Submitted, own: Submitted, sweep: str, launch: int) -> bool:
    intent = other.intent
    return (intent["sweep"], intent["launch"], intent["kind"], intent["shape"]) == (
        sweep,
        launch,
        own.intent["kind"],
        own.intent["shape"],
    )
