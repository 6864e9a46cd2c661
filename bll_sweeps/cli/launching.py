"""Commands that start, stop and repeat jobs."""

from __future__ import annotations

import argparse
import json
from typing import Any

from bll_sweeps.cli.composing import composed_grid, hydra_on_conf, prepared_plan, slots, translated
from bll_sweeps.cli.options import DONE, at_least_one, command, ended, layout_of, on_job, on_root, on_sweep, sweep_of
from bll_sweeps.errors import JobsFailed, UsageError


def add(commands: Any) -> None:
    text = "Run a sweep (sweep=NAME) or a grid (objective=nll,p ...): what the store has is not run again."
    sub = command(commands, "launch", _launch, text)
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides; commas make axes")
    sub.add_argument("--detach", action="store_true", help="return at once, leave the workers running")
    sub.add_argument("--rerun-stale", action="store_true", help="also run again what other code made")
    sub.add_argument("--canary", action="store_true", help="run one cell first, the rest only if it succeeds")
    sub.add_argument("--yes", action="store_true", help="do not ask, however many GPU-hours it takes")
    sub = command(commands, "plan", _plan, "Show what a launch would run and cost; submits nothing.")
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for launch")
    sub.add_argument("--json", action="store_true")
    help_ = "GPUs (workers, where jobs need none) for the expected makespan"
    sub.add_argument("--gpus", type=at_least_one, default=0, metavar="N", help=help_)
    sub = command(
        commands, "fetch", _fetch, "Bring a sweep's models and data sets from the hub and lock their revisions."
    )
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for launch")
    sub.add_argument("--update", action="store_true", help="resolve revisions anew that are locked already")
    on_sweep(commands, "retry", _retry, "Run failed and damaged jobs of a sweep again, and what they blocked.")
    sub = on_root(commands, "cancel", _cancel, "Stop a sweep, or one job of it; nothing is lost.")
    sub.add_argument("sweep", nargs="?", metavar="SWEEP|JOB", help="default: the sweep launched last")
    on_job(commands, "run", _run, "Run one job here, in the foreground; also inside salloc.")


def _launch(args: argparse.Namespace) -> int:
    flags = {
        "detach": args.detach,
        "rerun_stale": args.rerun_stale,
        "canary": args.canary,
        "confirmed": args.yes,
    }
    overrides = [*args.overrides, *(f"hydra.launcher.{key}=true" for key, given in flags.items() if given)]
    with hydra_on_conf() as hydra:
        from jobs.cell import run_cell

        translated(
            lambda: hydra.multirun("cell", run_cell, [*overrides, "hydra.mode=MULTIRUN"], with_log_configuration=False)
        )
    return DONE


def _plan(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster import inputs
    from bll_sweeps.cluster.launch import asks, estimated
    from bll_sweeps.cluster.words import plural

    with hydra_on_conf() as hydra:
        name, composed, launcher = translated(lambda: composed_grid(hydra, args.overrides))
    prepared = prepared_plan(composed, launcher)
    plan = prepared.plan
    cost = estimated(prepared, args.gpus or slots(launcher, prepared.shapes.values()))
    summary = {
        "sweep": name,
        "root": str(prepared.layout.root),
        **plan.summary(),
        "gpu_hours": round(cost.gpu_hours, 3),
        "estimate": cost.plain(),
        "asks": asks(prepared),
    }
    stale = [p.job.id for p in plan.jobs.values() if p.state == "stale"]
    lacking = inputs.missing(plan)
    if args.json:
        print(json.dumps(summary | {"stale": stale, "missing": lacking}, indent=1))
        return DONE
    jobs = f"{len(plan.to_run)} of {plural(len(plan.jobs), 'job')} to run"
    print(f"{name}: {plural(len(plan.cells), 'cell')}, {jobs} ({summary['root']})")
    for line in cost.text():
        print(f"  {line}")
    print(f"  model loads for evaluation: {summary['model_loads']}")
    if launcher["_target_"].endswith(".SlurmLauncher"):
        for ask in summary["asks"]:
            what = ", ".join(f"{key}={value}" for key, value in ask.items() if key not in ("kind", "jobs"))
            print(f"  asks SLURM, for each of {ask['jobs']} {ask['kind']}: {what}")
    if lacking:
        print(f"  {inputs.missing_text(lacking)}")
    if stale:
        some = " ".join(stale[:4]) + (" ..." if len(stale) > 4 else "")
        print(f"  {len(stale)} done jobs were made by other code (`--rerun-stale` runs them again): {some}")
    return DONE


def _fetch(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.fetch import fetch
    from bll_sweeps.cluster.inputs import of_the_hub
    from bll_sweeps.cluster.launch import resolve_cells

    with hydra_on_conf() as hydra:
        name, composed, _ = translated(lambda: composed_grid(hydra, args.overrides))
    cells = resolve_cells(composed)
    models, tables = of_the_hub(resolved.cell for resolved in cells)
    hub = cells[0].hub
    if not models and not tables:
        print(f"{name}: needs nothing of the hub")
        return DONE
    fetch(models, tables, hub, update=args.update)
    if hub.mirror is None:
        print(f"{name}: locked in {hub.lock}; commit it, so that others get the same")
    return DONE


def _retry(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.launch import reopen
    from bll_sweeps.cluster.status import SweepWatch, live_pools
    from bll_sweeps.cluster.words import plural

    layout = layout_of(args)
    declared, ids = reopen(layout, sweep_of(args, layout))
    on_slurm = declared.launcher.name == "slurm"
    left = SweepWatch(layout, declared.sweep).status() if on_slurm and not ids else None
    if not ids and not (left and (left.number("blocked", "unsubmitted") or left.stuck)):
        print(f"{declared.sweep}: nothing has failed or is damaged (`bll launch` goes on with what is left)")
        return DONE
    if ids:
        print(f"{declared.sweep}: {plural(len(ids), 'failed or damaged job')} to run again", flush=True)
    if on_slurm:
        from bll_sweeps.cluster.slurm import submit_declared

        submit_declared(declared)
        return DONE
    from bll_sweeps.cluster.local import LocalOptions, run_declared

    if live_pools(layout, declared.sweep):
        print(f"{declared.sweep}: the workers of a running launch take them up; `bll wait {declared.sweep}` waits")
        return DONE
    return ended(run_declared(declared, LocalOptions()))


def _cancel(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.cancel import cancel_job, cancel_sweep

    layout = layout_of(args)
    if args.sweep and args.sweep not in layout.sweeps():
        print(cancel_job(layout, args.sweep))
    else:
        print(cancel_sweep(layout, sweep_of(args, layout)))
    return DONE


def _run(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.launch import check_runnable
    from bll_sweeps.cluster.status import find_job

    layout = layout_of(args)
    job_id = find_job(layout, args.job)
    check_runnable(layout, job_id)
    from bll_sweeps.cluster.children import configure_logging
    from bll_sweeps.cluster.worker import run_here

    configure_logging()
    try:
        run_here(layout, job_id)
    except UsageError as error:
        raise JobsFailed(f"{job_id}: {error}") from None  # its input, not the command line's
    print(f"{job_id}: done")
    return DONE
