"""What SLURM refused is submitted by the workers that end."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable

from bll_sweeps.cluster.slurm import launching, submission_round
from bll_sweeps.cluster.status import failure
from bll_sweeps.cluster.submissions import Queue
from bll_sweeps.errors import JobsFailed, StoreError, UsageError
from bll_sweeps.store.claims import Claim, user
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import is_done, read_json

log = logging.getLogger("bll")
_LAST_S = 60.0  # how long the last worker tries
_YIELD_S = 10.0  # after which a worker leaves it to another


def top_up(layout: Layout, sweep: str, launch: int, stop: Callable[[], bool]) -> None:
    """For a worker that ends: submits what SLURM had refused before, first of its own launch, then of others, of which
    perhaps nothing runs. Not once stop() is true: its allocation's time is up. Never raises.

    Workers that end together count against the limit until they have left. So one of them stays, with the claim on
    submitting, and the others, who do not get it, leave.
    """
    if stop() or not _refused(layout, sweep, launch):
        return
    try:
        with launching(layout, _YIELD_S) as claim:
            deadline, pause_s = time.monotonic() + _LAST_S, 1.0
            while not stop() and (refused := _refused(layout, sweep, launch)):
                for name, number, code in refused:
                    if not stop():
                        _submit_more(layout, name, number, claim, code)
                if time.monotonic() > deadline or _others_follow(layout):
                    return
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 8.0)
    except (JobsFailed, OSError) as error:
        log.warning("what SLURM had refused is left to others: %s", error)


def _submit_more(layout: Layout, sweep: str, launch: int, claim: Claim, code: str) -> None:
    try:
        submission_round(layout, sweep, launch, claim, code).run(topping_up=True)
    except (JobsFailed, UsageError, StoreError, OSError) as error:
        log.warning("%s: could not submit what is left: %s", sweep, error)


def _refused(layout: Layout, sweep: str, launch: int) -> list[tuple[str, int, str]]:
    """(sweep, launch, name of its code) of this user's launches of which SLURM refused a part; this one first."""
    others = ((name, number) for name in layout.sweeps() for number in layout.sweep(name).launches())
    found = []
    for name, number in dict.fromkeys([(sweep, launch), *others]):
        with contextlib.suppress(FileNotFoundError, StoreError):
            told = read_json(layout.sweep(name).unsubmitted(number))
            if told["user"] == user():
                found.append((name, number, told["code"]))
    return found


def _others_follow(layout: Layout) -> bool:
    """Whether some job of this user's is queued or runs: whoever ends it will see to the rest."""
    live = (job for job, queued in Queue(layout).look().jobs.items() if queued.live and queued.submission.mine)
    return any(not is_done(layout.job(job)) and failure(layout.job(job)) is None for job in live)
