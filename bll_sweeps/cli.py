"""`bll`: the command line. Translates and delegates; nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bll_sweeps.errors import JobsFailed, StoreError, UsageError

if TYPE_CHECKING:
    from bll_sweeps.store.layout import Layout

DONE, FAILED, USAGE = 0, 1, 2
Run = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit codes: 0 done (or submitted), 1 jobs failed, 2 usage."""
    try:
        code = run(list(sys.argv[1:] if arguments is None else arguments))
    except UsageError as error:
        code = _complain(error, USAGE)
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
    if known.command in ("launch", "plan"):
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
    return parser


def _launching(commands: Any) -> None:
    text = "Run a sweep (sweep=NAME) or a grid (objective=nll,p ...): what the store has is not run again."
    sub = _command(commands, "launch", _launch, text)
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides; commas make axes")
    sub.add_argument("--detach", action="store_true", help="return at once, leave the workers running")
    sub.add_argument("--rerun-stale", action="store_true", help="also run again what other code made")
    sub = _command(commands, "plan", _plan, "Show what a launch would run; submits nothing.")
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for launch")
    sub.add_argument("--json", action="store_true")
    _on_sweep(commands, "retry", _retry, "Run failed and damaged jobs of a sweep again, and what they blocked.")
    _on_sweep(commands, "cancel", _cancel, "Stop the workers of a sweep; nothing is lost.")
    _on_job(commands, "run", _run, "Run one job here, in the foreground.")


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
    sub = _on_sweep(commands, "results", _results, "Scores with intervals.")
    sub.add_argument("--csv", action="store_true")
    claims = "recompute from the records which end of the continuum each objective wins"
    sub.add_argument("--claims", action="store_true", help=claims)
    sub = _on_sweep(commands, "report", _report, "Figures and one self-contained HTML page.")
    sub.add_argument("--out", type=Path, default=None, help="default: <run root>/reports/SWEEP")


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
    overrides = list(args.overrides)
    if args.detach:
        overrides.append("hydra.launcher.detach=true")
    if args.rerun_stale:
        overrides.append("hydra.launcher.rerun_stale=true")
    with _hydra() as hydra:
        from jobs.cell import run_cell

        _translated(
            lambda: hydra.multirun("cell", run_cell, [*overrides, "hydra.mode=MULTIRUN"], with_log_configuration=False)
        )
    return DONE


def _plan(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.launch import plan_cells, resolve_cells

    with _hydra() as hydra:
        name, composed = _translated(lambda: _composed(hydra, args.overrides))
    layout, plan = plan_cells(resolve_cells(composed))
    summary = {"sweep": name, "root": str(layout.root), **plan.summary(gpus={})}
    stale = [p.job.id for p in plan.jobs.values() if p.state == "stale"]
    if args.json:
        print(json.dumps(summary | {"stale": stale}, indent=1))
        return DONE
    print(f"{name}: {summary['cells']} cells, {len(plan.to_run)} of {len(plan.jobs)} jobs to run ({layout.root})")
    for kind, counts in summary["kinds"].items():
        states = ", ".join(f"{n} {state}" for state, n in counts.items() if n and state != "total")
        print(f"  {kind:9} {counts['total']:5}  {states}")
    print(f"  model loads for evaluation: {summary['model_loads']}; GPU hours: {summary['gpu_hours']:g}")
    if stale:
        some = " ".join(stale[:4]) + (" ..." if len(stale) > 4 else "")
        print(f"  {len(stale)} done jobs were made by other code (`--rerun-stale` runs them again): {some}")
    return DONE


def _composed(hydra: Any, overrides: Sequence[str]) -> tuple[str, list[Any]]:
    from hydra.types import RunMode

    from bll_sweeps.grid.schema.grids import composed_cells

    config = hydra.compose_config(
        "cell", [*overrides, "hydra.mode=MULTIRUN"], run_mode=RunMode.MULTIRUN, with_log_configuration=False
    )
    cells = composed_cells(hydra.config_loader, config, list(config.hydra.overrides.task))
    return cells.name, cells.cells


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
        time.sleep(2)
        status = watch.status()


def _show(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.show import show

    print(show(_layout(args), args.job))
    return DONE


def _logs(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.show import log_text
    from bll_sweeps.cluster.status import find_job

    layout = _layout(args)
    for text in log_text(layout, find_job(layout, args.job), follow=args.follow):
        sys.stdout.write(text)
        sys.stdout.flush()
    return DONE


def _retry(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.launch import reopen
    from bll_sweeps.cluster.local import LocalOptions, run_declared
    from bll_sweeps.cluster.status import live_pools

    layout = _layout(args)
    declared, ids = reopen(layout, _sweep(args, layout))
    if not ids:
        print(f"{declared.sweep}: nothing has failed or is damaged (`bll launch` goes on with what is left)")
        return DONE
    print(f"{declared.sweep}: {len(ids)} failed or damaged jobs are run again", flush=True)
    if live_pools(layout, declared.sweep):
        print(f"{declared.sweep}: the workers of a running launch take them up; `bll wait {declared.sweep}` waits")
        return DONE
    status = run_declared(declared, LocalOptions())
    return _ended(status)


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
        alive = live_pools(layout, watch.manifest["sweep"])
        time.sleep(1)
        status = watch.status()
        if alive == [] and not status.number("running") and status.number("pending"):
            progress.close(status, 0)
            raise JobsFailed(f"no worker is left for {status.number('pending')} pending jobs: launch the sweep again")
    progress.close(status, 0)
    if not status.finished:
        raise JobsFailed(f"{status.number('running', 'pending')} jobs are left after {args.timeout:g} s")
    return _ended(status)


def _cancel(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.status import live_pools, read_manifest

    layout = _layout(args)
    sweep = _sweep(args, layout)
    read_manifest(layout, sweep)  # an unknown name is an error
    pools = live_pools(layout, sweep)
    if pools is None:
        raise UsageError(f"sweep={sweep!r} was launched on another machine: cancel it there")
    for pool in pools:
        pool.stop.touch()
    stopped = f"{len(pools)} launches asked to stop; nothing is lost, launching again goes on"
    print(f"{sweep}: {stopped if pools else 'no launch is running'}")
    return DONE


def _ended(status: Any) -> int:
    if status.number("failed", "blocked", "damaged"):
        raise JobsFailed(status.verdict())
    return DONE


def _run(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.launch import check_runnable
    from bll_sweeps.cluster.status import find_job

    layout = _layout(args)
    job_id = find_job(layout, args.job)
    check_runnable(layout, job_id)
    from bll_sweeps.cluster.worker import configure_logging, run_here

    configure_logging()
    try:
        run_here(layout, job_id)
    except UsageError as error:
        raise JobsFailed(f"{job_id}: {error}") from None  # its input, not the command line's
    print(f"{job_id}: done")
    return DONE


def _results(args: argparse.Namespace) -> int:
    from analysis import claims, table, tables

    layout = _layout(args)
    results = table.load(layout.root, _sweep(args, layout))
    if args.claims:
        print(claims.claims_text(claims.check(results)), end="")
    else:
        print(tables.results_csv(results) if args.csv else tables.results_text(results), end="")
    return _with_problems(results.problems)


def _report(args: argparse.Namespace) -> int:
    from analysis.report import write_report
    from analysis.table import load

    layout = _layout(args)
    sweep = _sweep(args, layout)
    results = load(layout.root, sweep)
    page = write_report(results, args.out or layout.report(sweep))
    code = _with_problems(results.problems)
    print(page)
    return code


def _with_problems(problems: Sequence[str]) -> int:
    """Damaged records were left out of what was printed: said on stderr, and by the exit code."""
    for problem in problems:
        print(f"bll: {problem}", file=sys.stderr)
    return FAILED if problems else DONE


def _complain(error: Exception, code: int) -> int:
    print(f"bll: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
