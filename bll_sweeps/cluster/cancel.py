"""`bll cancel`: a sweep, or one job, on SLURM or in local workers. What has been done stays; launching goes on."""

from __future__ import annotations

from bll_sweeps.cluster import slurm
from bll_sweeps.cluster.status import find_job, live_pools, read_manifest
from bll_sweeps.cluster.words import plural
from bll_sweeps.errors import UsageError
from bll_sweeps.store.layout import Layout


def cancel_sweep(layout: Layout, sweep: str) -> str:
    """Stops whatever runs or waits for the sweep's last launch; a sentence on what that was."""
    manifest = read_manifest(layout, sweep)  # an unknown name is an error
    if manifest["launcher"]["name"] == "slurm":
        for launch in layout.sweep(sweep).launches():
            layout.sweep(sweep).unsubmitted(launch).unlink(missing_ok=True)  # nobody tops it up
        number = slurm.cancel(layout, manifest["jobs"])
        return f"{sweep}: {plural(number, 'job')} cancelled; nothing is lost, launching again goes on"
    pools = live_pools(layout, sweep)
    if pools is None:
        raise UsageError(f"sweep={sweep!r} was launched on another machine: cancel it there")
    for pool in pools:
        pool.stop.touch()
    if not pools:
        return f"{sweep}: no launch is running"
    return f"{sweep}: {plural(len(pools), 'pool')} of workers asked to stop; nothing is lost, launching again goes on"


def cancel_job(layout: Layout, text: str) -> str:
    """Takes one job, and what waits for it, out of SLURM's queue. UsageError for a job that is not there."""
    try:
        job_id = find_job(layout, text)
    except UsageError:
        raise UsageError(
            f"{text!r} is neither a sweep ({', '.join(layout.sweeps())}) nor a job of {layout.root}"
        ) from None
    if not slurm.cancel(layout, [job_id]):
        raise UsageError(f"job={job_id!r} is not in SLURM's queue")
    return f"{job_id}: cancelled; nothing is lost, launching its sweep again goes on"
