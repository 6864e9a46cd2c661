"""Commands that tell how things stand, and clear away what nothing needs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from bll_sweeps.cli.options import (
    DONE,
    at_least_one,
    ended,
    layout_of,
    on_job,
    on_root,
    on_sweep,
    sweep_of,
    with_problems,
)
from bll_sweeps.errors import JobsFailed


def add(commands: Any) -> None:
    sub = on_sweep(commands, "status", _status, "How far a sweep is, what failed and why.")
    sub.add_argument("--json", action="store_true")
    sub.add_argument("--watch", action="store_true", help="refresh until nothing is left to run")
    sub = on_sweep(commands, "wait", _wait, "Wait until nothing of a sweep is left to run.")
    sub.add_argument("--timeout", type=float, default=None, metavar="SECONDS")
    sub = on_root(commands, "show", _show, "One cell or job: its configuration, state, results and files.")
    either = "a job id (or its beginning), or a cell as objective,backbone,benchmark"
    sub.add_argument("job", metavar="CELL|JOB", help=either)
    sub = on_job(commands, "logs", _logs, "The log of a job's last attempt.")
    sub.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    sub.add_argument("--attempt", type=at_least_one, default=0, metavar="N", help="default: the last")
    sub.add_argument("--rank", type=int, default=0, metavar="N", help="of a distributed training (default: 0)")
    sub = on_root(commands, "gc", _gc, "Remove from the disk what nothing needs any more.")
    sub.add_argument("--dry-run", action="store_true", help="only list it, with sizes")
    weights = "also the weights of every evaluated training; a launch that needs them again trains it anew"
    sub.add_argument("--weights", action="store_true", help=weights)
    caches = "also what the analysis keeps of the records of every sweep; the next report reads them again"
    sub.add_argument("--caches", action="store_true", help=caches)
    sub.add_argument("--json", action="store_true")


def _status(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.status import SweepWatch, tracking_problem

    layout = layout_of(args)
    watch = SweepWatch(layout, sweep_of(args, layout))
    status = watch.status()
    if args.json:
        print(json.dumps(status.plain() | {"tracking": tracking_problem(layout, watch.manifest)}, indent=1))
        return DONE
    from bll_sweeps.cluster.progress import print_status
    from bll_sweeps.cluster.status import job_names

    names = job_names(watch.manifest)
    while True:
        if args.watch and sys.stdout.isatty():
            print("\033[H\033[2J", end="")
        print_status(status, lambda job_id: names.get(job_id, ""))
        if problem := tracking_problem(layout, watch.manifest):
            print(problem)
        if not args.watch or status.finished:
            return DONE
        time.sleep(max(2.0, watch.refresh_s))
        status = watch.status()


def _wait(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.progress import Progress
    from bll_sweeps.cluster.status import SweepWatch, job_names, live_pools

    layout = layout_of(args)
    watch = SweepWatch(layout, sweep_of(args, layout))
    deadline = time.monotonic() + args.timeout if args.timeout is not None else float("inf")
    progress = Progress(watch.manifest["sweep"], job_names(watch.manifest).__getitem__)
    status = watch.status()
    while not status.finished and time.monotonic() < deadline:
        progress.show(status, 0)
        alive = None if watch.on_slurm else live_pools(layout, watch.manifest["sweep"])
        time.sleep(watch.refresh_s)
        status = watch.status()
        if alive == [] and not status.number("running") and status.number("pending"):
            progress.close(status, 0)
            raise JobsFailed(f"no worker is left for {status.number('pending')} pending jobs: launch the sweep again")
    progress.close(status, 0)
    if not status.finished:
        raise JobsFailed(f"{status.number('running', 'pending')} jobs are left after {args.timeout:g} s")
    return ended(status)


def _show(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.show import show

    print(show(layout_of(args), args.job))
    return DONE


def _logs(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.show import log_text
    from bll_sweeps.cluster.status import find_job

    layout = layout_of(args)
    found = log_text(layout, find_job(layout, args.job), follow=args.follow, attempt=args.attempt, rank=args.rank)
    for text in found:
        sys.stdout.write(text)
        sys.stdout.flush()
    return DONE


def _gc(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.disk import collect
    from bll_sweeps.cluster.slurm import note_ended

    layout = layout_of(args)
    if not args.dry_run:
        note_ended(layout)
    collected = collect(layout, dry_run=args.dry_run, weights=args.weights, caches=args.caches)
    print(json.dumps(collected.plain(), indent=1) if args.json else collected.text())
    return with_problems(collected.problems)
