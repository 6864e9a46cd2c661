"""`bll cancel`: a sweep, or one job, on SLURM or in local workers. What has been done stays; launching goes on."""

from __future__ import annotations

from collections.abc import Collection

from bll_sweeps.cluster import scheduler
from bll_sweeps.cluster.scheduler import SchedulerUnavailable
from bll_sweeps.cluster.slurm import launching
from bll_sweeps.cluster.status import failure, find_job, live_pools, read_manifest
from bll_sweeps.cluster.submissions import Queue, Queued, Submitted
from bll_sweeps.cluster.words import plural
from bll_sweeps.errors import JobsFailed, UsageError
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import is_done, write_json

_PATIENCE_S = 300.0  # a worker may be submitting what SLURM refused


def cancel_sweep(layout: Layout, sweep: str) -> str:
    """Stops whatever runs or waits for the sweep's last launch; a sentence on what that was."""
    manifest = read_manifest(layout, sweep)  # an unknown name is an error
    if manifest["launcher"]["name"] == "slurm":
        _live(layout, manifest["jobs"])  # complains before anything is changed
        _forget_refused(layout, sweep)  # at once, for a worker that is submitting the rest just now
        with launching(layout, _PATIENCE_S):
            _forget_refused(layout, sweep)
            taken = _take_out(layout, manifest["jobs"])
        return f"{sweep}: {plural(len(taken), 'job')} cancelled; nothing is lost, launching again goes on"
    pools = live_pools(layout, sweep)
    if pools is None:
        raise UsageError(f"sweep={sweep!r} was launched on another machine: cancel it there")
    for pool in pools:
        pool.stop.touch()
    if not pools:
        return f"{sweep}: no launch is running"
    return f"{sweep}: {plural(len(pools), 'pool')} of workers asked to stop; nothing is lost, launching again goes on"


def cancel_job(layout: Layout, text: str) -> str:
    """Takes one job, with the allocation it shares and what waits for it, out of SLURM's queue. UsageError for a job
    that is not there.
    """
    try:
        job_id = find_job(layout, text)
    except UsageError:
        raise UsageError(
            f"{text!r} is neither a sweep ({', '.join(layout.sweeps())}) nor a job of {layout.root}"
        ) from None
    with launching(layout, _PATIENCE_S):
        taken = _take_out(layout, [job_id])
    if not taken:
        raise UsageError(f"job={job_id!r} is not in SLURM's queue")
    others = [job for job in taken if job != job_id]
    with_it = f", and with it {', '.join(others)}, which its allocation was to run too" if others else ""
    return f"{job_id}: cancelled{with_it}; nothing is lost, launching its sweep again goes on"


def _forget_refused(layout: Layout, sweep: str) -> None:
    for launch in layout.sweep(sweep).launches():
        layout.sweep(sweep).unsubmitted(launch).unlink(missing_ok=True)  # nobody tops it up


def _take_out(layout: Layout, jobs: Collection[str]) -> list[str]:
    """Cancels the elements in SLURM's queue that run or will run these jobs; all jobs that were left in them. The
    caller holds the claim on submitting.
    """
    live = _live(layout, jobs)
    elements: dict[str, tuple[Submitted, set[int]]] = {}
    for q in live.values():
        elements.setdefault(q.submission.files.name, (q.submission, set(q.submission.cancelled)))[1].add(q.element)
    for submission, cancelled in elements.values():
        write_json(submission.files.cancelled, {"elements": sorted(cancelled)})
    scheduler.cancel(sorted(live))
    inside = [job for q in live.values() for lane in q.submission.elements[q.element] for job in lane]
    return [job for job in inside if not is_done(layout.job(job)) and failure(layout.job(job)) is None]


def _live(layout: Layout, jobs: Collection[str]) -> dict[str, Queued]:
    """The elements in SLURM's queue that run or will run these jobs, by id. JobsFailed for those of somebody else."""
    view = Queue(layout).look(jobs)
    if view.problem:
        raise SchedulerUnavailable(view.problem)
    live = {q.id: q for job in jobs if (q := view.live(job))}
    for element, q in live.items():
        if not q.submission.mine:
            raise JobsFailed(f"SLURM job {element} is {q.submission.intent['user']}'s, who alone can cancel it")
    return live
