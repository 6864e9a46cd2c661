"""`bll`: the command line. Translates and delegates; nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bll_sweeps.cluster.scheduler import SchedulerUnavailable
from bll_sweeps.errors import JobsFailed, StoreError, UsageError

if TYPE_CHECKING:
    from bll_sweeps.store.layout import Layout
    from bll_sweeps.tracking.publish import Target

DONE, FAILED, USAGE = 0, 1, 2
Run = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit codes: 0 done (or submitted), 1 jobs failed, 2 usage."""
    try:
        code = run(list(sys.argv[1:] if arguments is None else arguments))
    except UsageError as error:
        code = _complain(error, USAGE)
    except SchedulerUnavailable as error:
        code = _complain(f"SLURM does not answer ({error}): nothing is lost, try again when it does", FAILED)
    except (JobsFailed, StoreError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # `bll status | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = _complain(error, FAILED)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def run(arguments: list[str]) -> int:
    parser = _parser()
    known, overrides = parser.parse_known_args(arguments)
    if known.command in ("launch", "plan", "fetch", "advise"):
        misplaced = [text for text in overrides if text.startswith("-")]
        if misplaced:
            raise UsageError(f"{misplaced[0]} is no option of `bll {known.command}`; overrides are written key=value")
        known.overrides = known.overrides + overrides
    elif overrides:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    return known.run(known)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bll",
        description="Sweeps of fine-tuning objectives f(p) over backbones and benchmarks, "
        "placed on the model-capability continuum.",
        epilog="First steps: `bll plan sweep=lab`, `bll launch sweep=lab`, `bll report lab`. "
        "Exit codes: 0 done, 1 jobs failed, 2 usage.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _launching(commands)
    _looking(commands)
    _publishing(commands)
    return parser


def _launching(commands: Any) -> None:
    text = "Run a sweep (sweep=NAME) or a grid (objective=nll,p ...): what the store has is not run again."
    sub = _command(commands, "launch", _launch, text)
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides; commas make axes")
    sub.add_argument("--detach", action="store_true", help="return at once, leave the workers running")
    sub.add_argument("--rerun-stale", action="store_true", help="also run again what other code made")
    sub.add_argument("--canary", action="store_true", help="run one cell first, the rest only if it succeeds")
    sub.add_argument("--yes", action="store_true", help="do not ask, however many GPU-hours it takes")
    sub = _command(commands, "plan", _plan, "Show what a launch would run and cost; submits nothing.")
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for launch")
    sub.add_argument("--json", action="store_true")
    help_ = "GPUs (workers, where jobs need none) for the expected makespan"
    sub.add_argument("--gpus", type=_at_least_one, default=0, metavar="N", help=help_)
    sub = _command(
        commands, "fetch", _fetch, "Bring a sweep's models and data sets from the hub and lock their revisions."
    )
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for launch")
    sub.add_argument("--update", action="store_true", help="resolve revisions anew that are locked already")
    _on_sweep(commands, "retry", _retry, "Run failed and damaged jobs of a sweep again, and what they blocked.")
    sub = _on_root(commands, "cancel", _cancel, "Stop a sweep, or one job of it; nothing is lost.")
    sub.add_argument("sweep", nargs="?", metavar="SWEEP|JOB", help="default: the sweep launched last")
    _on_job(commands, "run", _run, "Run one job here, in the foreground; also inside salloc.")


def _looking(commands: Any) -> None:
    sub = _on_sweep(commands, "status", _status, "How far a sweep is, what failed and why.")
    sub.add_argument("--json", action="store_true")
    sub.add_argument("--watch", action="store_true", help="refresh until nothing is left to run")
    sub = _on_sweep(commands, "wait", _wait, "Wait until nothing of a sweep is left to run.")
    sub.add_argument("--timeout", type=float, default=None, metavar="SECONDS")
    sub = _on_root(commands, "show", _show, "One cell or job: its configuration, state, results and files.")
    either = "a job id (or its beginning), or a cell as objective,backbone,benchmark"
    sub.add_argument("job", metavar="CELL|JOB", help=either)
    sub = _on_job(commands, "logs", _logs, "The log of a job's last attempt.")
    sub.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    sub.add_argument("--attempt", type=_at_least_one, default=0, metavar="N", help="default: the last")
    sub.add_argument("--rank", type=int, default=0, metavar="N", help="of a distributed training (default: 0)")
    sub = _on_root(commands, "gc", _gc, "Remove from the disk what nothing needs any more.")
    sub.add_argument("--dry-run", action="store_true", help="only list it, with sizes")
    weights = "also the weights of every evaluated training; a launch that needs them again trains it anew"
    sub.add_argument("--weights", action="store_true", help=weights)
    caches = "also what the analysis keeps of the records of every sweep; the next report reads them again"
    sub.add_argument("--caches", action="store_true", help=caches)
    sub.add_argument("--json", action="store_true")
    sub = _on_sweep(commands, "regrade", _regrade, "Score finished evaluations again, from the answers that they keep.")
    names = "instead of the graders that the sweep's last launch names; may be given several times"
    sub.add_argument("--grader", action="append", default=[], metavar="NAME", help=names)
    sub.add_argument("--processes", type=_at_least_one, default=0, metavar="N", help="default: one per core")
    sub = _on_sweep(commands, "results", _results, "Scores with intervals.")
    sub.add_argument("--csv", action="store_true")
    view = "columns of the paper's benchmarks: 14 has MedBullets once, and The Lancet with the NEJM (default: 16)"
    sub.add_argument("--view", type=int, choices=(16, 14), default=16, help=view)
    claims = "recompute from the records which end of the continuum each objective wins"
    sub.add_argument("--claims", action="store_true", help=claims)
    _advising(commands)
    sub = _on_sweep(commands, "report", _report, "Figures and one self-contained HTML page.")
    sub.add_argument("--out", type=Path, default=None, help="default: <run root>/reports/SWEEP")
    which = "which answers prior strength is measured on (default: clean)"
    sub.add_argument("--prior", choices=("clean", "as_trained"), default="clean", help=which)
    overlay = "draw the paper's numbers into the figures, where cells can be compared (default: yes)"
    sub.add_argument("--overlay", action=argparse.BooleanOptionalAction, default=True, help=overlay)
    sub.add_argument("--watch", action="store_true", help="make it anew while the sweep runs")
    every = "how often --watch looks (default: 30)"
    sub.add_argument("--every", type=_at_least_one, default=30, metavar="SECONDS", help=every)


def _advising(commands: Any) -> None:
    text = "Which objective the evidence in the store favours for a backbone on a domain, and what would settle it."
    sub = _on_root(commands, "advise", _advise, text)
    which = "backbone=NAME domain=NAME (or benchmark=NAME), objective=nll,p for some only"
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=which)
    sub.add_argument("--no-run", action="store_true", help="only read: do not measure prior strength that is not known")
    sub.add_argument("--validate", action="store_true", help="leave out one setting of the store at a time instead")
    sub.add_argument("--json", action="store_true")


def _publishing(commands: Any) -> None:
    text = "Bring a sweep's finished jobs to Weights & Biases, from a machine that has network: one run per job."
    sub = _on_sweep(commands, "publish", _publish, text)
    _on_project(sub)
    sub.add_argument("--live", action="store_true", help="also jobs that run, as far as they are")
    sub.add_argument("--again", action="store_true", help="also what the ledger knows to be there already")
    sub.add_argument("--at-once", type=_at_least_one, default=8, metavar="N", help="runs in parallel (default: 8)")
    text = "Bring a W&B project's runs of bll jobs here, as records like any other, which reports and results read."
    sub = _on_root(commands, "pull", _pull, text)
    sub.add_argument("project", metavar="[ENTITY/]PROJECT", help="default entity: that of the key")
    sub.add_argument("--sweep", default="", metavar="NAME", help="only this sweep's (default: all)")
    sub.add_argument("--at-once", type=_at_least_one, default=8, metavar="N", help="runs in parallel (default: 8)")
    sub = _on_sweep(commands, "dashboard", _dashboard, "A W&B workspace and a report for a sweep, made or made anew.")
    _on_project(sub)
    sub.add_argument("--dry-run", action="store_true", help="only write both as JSON; needs no server and no key")
    text = "wandb's own terminal viewer on a sweep's runs on this disk; needs neither account nor network."
    _on_sweep(commands, "watch", _watch, text)


def _on_project(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--project", default="", help="default: the one that the sweep's jobs name (tracker.project)")
    sub.add_argument("--entity", default="", help="default: tracker.entity, else that of the key")


def _at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least 1")
    return int(text)


def _command(commands: Any, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    sub.set_defaults(run=run)
    return sub


def _on_root(commands: Any, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    sub = _command(commands, name, run, text)
    sub.add_argument("--root", type=Path, default=None, help="run root (default: $BLL_RUNS or ./runs)")
    return sub


def _on_sweep(commands: Any, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    sub = _on_root(commands, name, run, text)
    sub.add_argument("sweep", nargs="?", metavar="SWEEP", help="default: the sweep launched last")
    return sub


def _on_job(commands: Any, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    sub = _on_root(commands, name, run, text)
    sub.add_argument("job", metavar="JOB", help="a job id, or its beginning")
    return sub


# --- launch and plan --------------------------------------------------------------------------------------------------


def _launch(args: argparse.Namespace) -> int:
    flags = {
        "detach": args.detach,
        "rerun_stale": args.rerun_stale,
        "canary": args.canary,
        "confirmed": args.yes,
    }
    overrides = [*args.overrides, *(f"hydra.launcher.{key}=true" for key, given in flags.items() if given)]
    with _hydra() as hydra:
        from jobs.cell import run_cell

        _translated(
            lambda: hydra.multirun("cell", run_cell, [*overrides, "hydra.mode=MULTIRUN"], with_log_configuration=False)
        )
    return DONE


def _plan(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster import inputs
    from bll_sweeps.cluster.launch import asks, estimated

    with _hydra() as hydra:
        name, composed, launcher = _translated(lambda: _composed(hydra, args.overrides))
    prepared = _prepared(composed, launcher)
    plan = prepared.plan
    cost = estimated(prepared, args.gpus or _slots(launcher, prepared.shapes.values()))
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
    print(f"{name}: {summary['cells']} cells, {len(plan.to_run)} of {len(plan.jobs)} jobs to run ({summary['root']})")
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

    with _hydra() as hydra:
        name, composed, _ = _translated(lambda: _composed(hydra, args.overrides))
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


def _composed(hydra: Any, overrides: Sequence[str]) -> tuple[str, list[Any], dict[str, Any]]:
    """(name of the sweep, its cells, the launcher's options)."""
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from bll_sweeps.grid.schema.grids import composed_cells

    config = hydra.compose_config(
        "cell", [*overrides, "hydra.mode=MULTIRUN"], run_mode=RunMode.MULTIRUN, with_log_configuration=False
    )
    cells = composed_cells(hydra.config_loader, config, list(config.hydra.overrides.task))
    return cells.name, cells.cells, OmegaConf.to_container(config.hydra.launcher, resolve=True)  # type: ignore[return-value]


def _prepared(cells: Sequence[Any], launcher: dict[str, Any]) -> Any:
    """The plan as the launcher would make it, its options checked; Hydra's own launchers have none."""
    from hydra.utils import instantiate

    from bll_sweeps.cluster.launch import prepare, resolve_cells

    if launcher["_target_"].startswith("hydra_plugins.bll."):
        return instantiate(launcher).prepare(cells)
    return prepare(resolve_cells(cells))


def _slots(launcher: dict[str, Any], shapes: Iterable[Any]) -> int:
    """How many jobs, or GPUs, run at a time: the launcher's workers, or what SLURM may give."""
    most = max((max(1, shape.all_gpus) for shape in shapes), default=1)
    per_job = launcher.get("workers") or launcher.get("array_parallelism") or len(os.sched_getaffinity(0))
    return most * int(per_job)


class _hydra:
    """Hydra initialised on conf/, without any of its output; `with _hydra() as hydra`."""

    def __enter__(self) -> Any:
        from hydra import initialize_config_dir
        from hydra.core.global_hydra import GlobalHydra

        from bll_sweeps.grid.schema.config import conf_dir, register, user_conf_dir

        user_conf_dir()  # complains early about a wrong $BLL_CONF
        register()
        self._initialized = initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="bll")
        self._initialized.__enter__()
        return GlobalHydra.instance().hydra

    def __exit__(self, *error: Any) -> None:
        self._initialized.__exit__(*error)


def _translated(call: Callable[[], Any]) -> Any:
    """Hydra's and OmegaConf's errors as one line."""
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from bll_sweeps.grid.schema.messages import one_line

    try:
        return call()
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(one_line(error)) from None
    except yaml.YAMLError as error:
        raise UsageError(f"a file of the configuration is not YAML: {' '.join(str(error).split())}") from None


# --- what is on disk --------------------------------------------------------------------------------------------------


def _layout(args: argparse.Namespace) -> Layout:
    from bll_sweeps.store.layout import Layout

    root = (args.root or Path(os.environ.get("BLL_RUNS", "runs"))).expanduser().absolute()
    if not root.is_dir():
        raise UsageError(f"--root={root} is no folder: nothing has been launched there (set --root or $BLL_RUNS)")
    return Layout(root)


def _sweep(args: argparse.Namespace, layout: Layout) -> str:
    from bll_sweeps.cluster.status import last_sweep

    return args.sweep or last_sweep(layout)


def _status(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.status import SweepWatch

    layout = _layout(args)
    watch = SweepWatch(layout, _sweep(args, layout))
    status = watch.status()
    if args.json:
        print(json.dumps(status.plain(), indent=1))
        return DONE
    from bll_sweeps.cluster.progress import print_status
    from bll_sweeps.cluster.status import job_names

    names = job_names(watch.manifest)
    while True:
        if args.watch and sys.stdout.isatty():
            print("\033[H\033[2J", end="")
        print_status(status, lambda job_id: names.get(job_id, ""))
        if not args.watch or status.finished:
            return DONE
        time.sleep(max(2.0, watch.refresh_s))
        status = watch.status()


def _show(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.show import show

    print(show(_layout(args), args.job))
    return DONE


def _logs(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.show import log_text
    from bll_sweeps.cluster.status import find_job

    layout = _layout(args)
    found = log_text(layout, find_job(layout, args.job), follow=args.follow, attempt=args.attempt, rank=args.rank)
    for text in found:
        sys.stdout.write(text)
        sys.stdout.flush()
    return DONE


def _retry(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.launch import reopen
    from bll_sweeps.cluster.status import SweepWatch, live_pools
    from bll_sweeps.cluster.words import plural

    layout = _layout(args)
    declared, ids = reopen(layout, _sweep(args, layout))
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
    return _ended(run_declared(declared, LocalOptions()))


def _wait(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.progress import Progress
    from bll_sweeps.cluster.status import SweepWatch, job_names, live_pools

    layout = _layout(args)
    watch = SweepWatch(layout, _sweep(args, layout))
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
    return _ended(status)


def _cancel(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.cancel import cancel_job, cancel_sweep

    layout = _layout(args)
    if args.sweep and args.sweep not in layout.sweeps():
        print(cancel_job(layout, args.sweep))
    else:
        print(cancel_sweep(layout, _sweep(args, layout)))
    return DONE


def _ended(status: Any) -> int:
    if status.number("failed", "blocked", "damaged", "unsubmitted") or status.stuck:
        raise JobsFailed(status.verdict())
    return DONE


def _run(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.launch import check_runnable
    from bll_sweeps.cluster.status import find_job

    layout = _layout(args)
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


def _regrade(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.regrade import regrade, unscored
    from bll_sweeps.cluster.status import SweepWatch, job_names
    from bll_sweeps.cluster.words import plural
    from bll_sweeps.evaluation.grading import grader

    layout = _layout(args)
    for name in args.grader:
        grader(name)  # an unknown one is named, with the choices
    sweep = _sweep(args, layout)
    manifest = SweepWatch(layout, sweep).manifest
    names, work = job_names(manifest), unscored(layout, manifest, args.grader)

    def tell(job: str, grader_id: str, found: dict[str, Any]) -> None:
        scores = ", ".join(f"{decoding} {of['mean']:.4f}" for decoding, of in found.items())
        print(f"{job}  {names.get(job, '')}  {grader_id}: {scores}", flush=True)

    regrade(layout, work, processes=args.processes or len(os.sched_getaffinity(0)), on_job=tell)
    print(f"{sweep}: scored {plural(len(work), 'evaluation')} again; nothing was generated")
    return DONE


def _results(args: argparse.Namespace) -> int:
    from analysis.sources.table import load
    from analysis.statistics.claims import check
    from analysis.tables import results as tables
    from analysis.tables.claims import claims_text

    layout = _layout(args)
    results = load(layout.root, _sweep(args, layout))
    if args.claims:
        print(claims_text(check(results)), end="")
    else:
        show = tables.results_csv if args.csv else tables.results_text
        print(show(results, view=args.view), end="")
    return _with_problems(results.problems)


def _report(args: argparse.Namespace) -> int:
    from analysis.report.page import write_report
    from analysis.sources.empty import is_empty, nothing
    from analysis.sources.table import load

    layout = _layout(args)
    if not args.sweep and not args.watch and is_empty(layout.root):
        print(f"bll: {layout.root} holds no sweep yet; `bll launch sweep=lab` runs one", file=sys.stderr)
        print(write_report(nothing(layout.root), args.out or layout.reports).page)
        return DONE
    sweep = _sweep(args, layout)
    if args.watch:
        return _watch_report(layout, sweep, args)
    results = load(layout.root, sweep)
    report = write_report(results, args.out or layout.report(sweep), args.prior, overlay=args.overlay)
    code = _with_problems(results.problems)
    print(f"{report.compared}{report.page}")
    return code if len(results.cells) else DONE  # a sweep of nothing is no failure


def _watch_report(layout: Layout, sweep: str, args: argparse.Namespace) -> int:
    from analysis.report.watch import watch_report
    from bll_sweeps.cluster.status import SweepWatch

    results = watch_report(
        layout.root,
        sweep,
        args.out or layout.report(sweep),
        lambda: SweepWatch(layout, sweep).status().finished,  # a new one: it may be launched again meanwhile
        every_s=args.every,
        prior=args.prior,
        overlay=args.overlay,
        wrote=lambda report, _: print(f"{report.compared}{report.page}", flush=True),
    )
    return _with_problems(results.problems)


# --- W&B ------------------------------------------------------------------------------------------------------------


def _publish(args: argparse.Namespace) -> int:
    from bll_sweeps.tracking.publish import publish

    layout = _layout(args)
    jobs, target = _project_of(layout, _sweep(args, layout), args)
    out = publish(
        layout, jobs, target, live=args.live, again=args.again, at_once=args.at_once, on_job=_progress("published")
    )
    for job_id, problem in sorted(out.problems.items()):
        print(f"bll: {job_id}: {problem}", file=sys.stderr)
    print(f"{out.new} jobs published, {out.known} there already, {out.unfinished} not finished", end="")
    print(f"; {len(out.problems)} failed: publish again" if out.problems else "")
    return FAILED if out.problems else DONE


def _pull(args: argparse.Namespace) -> int:
    from bll_sweeps.store.layout import Layout
    from bll_sweeps.tracking.publish import Target
    from bll_sweeps.tracking.pull import pull

    entity, _, project = args.project.rpartition("/")
    root = (args.root or Path(os.environ.get("BLL_RUNS", "runs"))).expanduser().absolute()
    root.mkdir(parents=True, exist_ok=True)
    out = pull(
        Layout(root), Target(project, entity), sweep=args.sweep, at_once=args.at_once, on_job=_progress("pulled")
    )
    for job_id, problem in sorted(out.problems.items()):
        print(f"bll: {job_id}: {problem}", file=sys.stderr)
    print(f"{out.new} jobs pulled, {out.known} here already, {out.unfinished} not finished there", end="")
    print(f", {out.foreign} runs are none of bll's" if out.foreign else "", end="")
    print(f"; {len(out.problems)} failed: pull again" if out.problems else "")
    for sweep in out.sweeps:
        print(f"see `bll results {sweep}`, `bll report {sweep}`")
    return FAILED if out.problems else DONE


def _watch(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.status import read_manifest
    from bll_sweeps.tracking.watch import watch

    layout = _layout(args)
    manifest = read_manifest(layout, _sweep(args, layout))
    return watch(layout, list(manifest["jobs"]))


def _dashboard(args: argparse.Namespace) -> int:
    from analysis.figures.style import colours
    from bll_sweeps.cluster.status import read_manifest
    from bll_sweeps.tracking import dashboard

    layout = _layout(args)
    name = _sweep(args, layout)
    manifest = read_manifest(layout, name)
    _, target = _project_of(layout, name, args)
    sweep = dashboard.sweep_of(manifest, colours(cell["labels"]["objective"] for cell in manifest["cells"]))
    if args.dry_run:
        files = layout.dashboard(sweep.name)
        dashboard.write(files, sweep, target.entity, target.project)
        print(files.workspace, files.report, sep="\n")
    else:
        print(*dashboard.save(sweep, target.entity, target.project), sep="\n")
    return DONE


def _project_of(layout: Layout, sweep: str, args: argparse.Namespace) -> tuple[list[str], Target]:
    """The sweep's jobs, and where on W&B they belong."""
    from bll_sweeps.cluster.status import read_manifest
    from bll_sweeps.tracking.publish import Target, target_of

    jobs = list(read_manifest(layout, sweep)["jobs"])
    own = target_of(layout, jobs)
    return jobs, Target(args.project or own.project, args.entity or own.entity)


def _progress(word: str) -> Callable[[int, int], None]:
    """A line that counts, where somebody looks."""

    def told(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{word} {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return told


def _advise(args: argparse.Namespace) -> int:
    from analysis.advice.advise import advise, plain
    from analysis.advice.evidence import conditions_of, prior_strength, read_evidence
    from analysis.advice.text import advice_text

    if args.validate:
        return _validate(args)
    prepared, objectives, setting, measured = _asked_about(args)
    cell, root = prepared.plan.cells[0].cell, prepared.layout.root
    backbone, domain, noise = cell.backbone.name, cell.domain.name, cell.domain.noise
    evidence = read_evidence(root, conditions_of((noise.kind, noise.rate), dataclasses.asdict(cell.recipe)))
    known = evidence.prior_at(backbone, domain)
    prior = known[0] if known else prior_strength(root, measured())
    advice = advise(evidence, backbone, domain, prior, objectives, setting)
    print(json.dumps(plain(advice), indent=1) if args.json else advice_text(advice), end="\n" if args.json else "")
    return _with_problems(evidence.problems)


def _asked_about(args: argparse.Namespace) -> tuple[Any, list[str], list[str], Callable[[], str]]:
    """(the plan of the base cell, the objectives to compare, how a launch names the setting, what measures its prior
    strength where it has to be and tells the job).
    """
    from bll_sweeps.cluster.advise import as_axes, measure
    from bll_sweeps.cluster.local import LocalOptions
    from bll_sweeps.grid.schema.config import conf_dir, user_conf_dir
    from bll_sweeps.grid.schema.grids import adhoc_name

    axes, setting = as_axes(args.overrides, [folder for folder in (conf_dir(), user_conf_dir()) if folder])
    root = [f"paths.root={json.dumps(str(args.root.expanduser().absolute()))}"] if args.root else []
    with _hydra() as hydra:
        _, composed, launcher = _translated(lambda: _composed(hydra, [*axes, *root]))
    if not launcher["_target_"].endswith(".LocalLauncher"):
        where = "measures on this machine: launch objective=base there first, then ask with --no-run"
        raise UsageError(f"hydra.launcher={launcher['_target_']!r}: `bll advise` {where}")
    objectives = [str(cell.config["objective"]["name"]) for cell in composed]
    prepared = _prepared(composed[:1], launcher)
    workers = LocalOptions(launcher["workers"], launcher["timeout_min"])
    name = adhoc_name([composed[0].overrides]).replace("adhoc", "advise")
    return prepared, objectives, setting, lambda: measure(name, prepared, sys.argv, workers, run=not args.no_run)


def _validate(args: argparse.Namespace) -> int:
    from analysis.advice.evidence import read_evidence
    from analysis.advice.text import validation_text
    from analysis.advice.validate import validate, validation_plain

    if args.overrides:
        raise UsageError(f"{args.overrides[0]} has no meaning with --validate, which takes each setting in turn")
    evidence = read_evidence(_layout(args).root)
    table = validate(evidence)
    print(json.dumps(validation_plain(table), indent=1) if args.json else validation_text(evidence, table).rstrip())
    return _with_problems(evidence.problems)


def _gc(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.disk import collect
    from bll_sweeps.cluster.slurm import note_ended

    layout = _layout(args)
    if not args.dry_run:
        note_ended(layout)
    collected = collect(layout, dry_run=args.dry_run, weights=args.weights, caches=args.caches)
    print(json.dumps(collected.plain(), indent=1) if args.json else collected.text())
    return _with_problems(collected.problems)


def _with_problems(problems: Sequence[str]) -> int:
    """Damaged records were left out of what was printed: said on stderr, and by the exit code."""
    for problem in problems:
        print(f"bll: {problem}", file=sys.stderr)
    return FAILED if problems else DONE


def _complain(error: Exception | str, code: int) -> int:
    print(f"bll: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
