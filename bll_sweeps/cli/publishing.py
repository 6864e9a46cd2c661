"""Commands between the store and Weights & Biases."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bll_sweeps.cli.options import (
    at_least_one,
    layout_of,
    on_root,
    on_sweep,
    root_of,
    sweep_of,
    with_problems,
)
from bll_sweeps.errors import UsageError

if TYPE_CHECKING:
    from bll_sweeps.store.layout import Layout
    from bll_sweeps.tracking.server import Target


_MOST_GAINS = 150  # in a report on W&B, strongest prior first


def add(commands: Any) -> None:
    text = "Bring a sweep's finished jobs to Weights & Biases, from a machine that has network: one run per job."
    sub = on_sweep(commands, "publish", _publish, text)
    _on_project(sub)
    sub.add_argument("--live", action="store_true", help="also jobs that run, as far as they are")
    sub.add_argument("--again", action="store_true", help="also what the ledger knows to be there already")
    text = "where the server has another result of a job, give this one a run of its own and mark that one superseded"
    sub.add_argument("--supersede", action="store_true", help=text)
    sub.add_argument("--at-once", type=at_least_one, default=8, metavar="N", help="runs in parallel (default: 8)")
    text = "Bring a W&B project's runs of bll jobs here, as records like any other, which reports and results read."
    sub = on_root(commands, "pull", _pull, text)
    text = "or its address; default entity: $WANDB_ENTITY, else that of the key"
    sub.add_argument("project", metavar="[ENTITY/]PROJECT", help=text)
    sub.add_argument("--sweep", default="", metavar="NAME", help="only this sweep's (default: all)")
    sub.add_argument("--at-once", type=at_least_one, default=8, metavar="N", help="runs in parallel (default: 8)")
    sub = on_sweep(commands, "dashboard", _dashboard, "A W&B workspace and a report for a sweep, made or made anew.")
    _on_project(sub)
    sub.add_argument("--dry-run", action="store_true", help="only write both as JSON; needs no server and no key")
    text = "wandb's own terminal viewer on a sweep's runs on this disk; needs neither account nor network."
    on_sweep(commands, "watch", _watch, text)


def _on_project(sub: argparse.ArgumentParser) -> None:
    text = "or its address; default: the one that the sweep was launched with (tracker.project)"
    sub.add_argument("--project", default="", metavar="[ENTITY/]PROJECT", help=text)
    sub.add_argument("--entity", default="", help="default: tracker.entity, else $WANDB_ENTITY, else that of the key")


def _publish(args: argparse.Namespace) -> int:
    from bll_sweeps.tracking.publish import publish

    layout = layout_of(args)
    jobs, target = _project_of(layout, sweep_of(args, layout), args)
    try:
        out = publish(
            layout,
            jobs,
            target,
            live=args.live,
            again=args.again,
            supersede=args.supersede,
            at_once=args.at_once,
            on_job=_progress("published"),
        )
    except KeyboardInterrupt:
        print("\nstopped; what the server has is written down, and the next publish brings the rest", file=sys.stderr)
        raise
    told = [f"{out.new} jobs published, {out.known} there already, {out.unfinished} not finished"]
    if args.live:
        told.append(f"of these {out.live} as far as they are")
    if out.online:
        told.append(f"{out.online} online by themselves")
    if out.superseded:
        told.append(f"{out.superseded} earlier runs superseded")
    if out.problems:
        told.append(f"{len(out.problems)} failed")
    print(", ".join(told))
    print(out.address)
    return with_problems([f"{job_id}: {problem}" for job_id, problem in sorted(out.problems.items())])


def _pull(args: argparse.Namespace) -> int:
    from bll_sweeps.store.layout import Layout
    from bll_sweeps.tracking.pull import pull
    from bll_sweeps.tracking.server import parse_target

    target, root = parse_target(args.project), root_of(args)
    if root.exists() and not root.is_dir():
        raise UsageError(f"--root={root} is a file; a run root is a folder")
    root.mkdir(parents=True, exist_ok=True)
    out = pull(Layout(root), target, sweep=args.sweep, at_once=args.at_once, on_job=_progress("pulled"))
    print(f"{out.new} jobs pulled, {out.known} here already, {out.unfinished} not finished there", end="")
    print(f", {out.foreign} runs are none of bll's" if out.foreign else "", end="")
    print(f", {out.superseded} superseded" if out.superseded else "", end="")
    print(f"; {len(out.problems)} failed: pull again" if out.problems else "")
    for theirs, sweep in out.sweeps.items():
        renamed = f"{theirs}, of which you have a launch of your own: " if sweep != theirs else ""
        print(f"{renamed}see `bll results {sweep}`, `bll report {sweep}`")
    return with_problems([f"{job_id}: {problem}" for job_id, problem in sorted(out.problems.items())])


def _watch(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.status import read_manifest
    from bll_sweeps.tracking.watch import watch

    layout = layout_of(args)
    manifest = read_manifest(layout, sweep_of(args, layout))
    return watch(layout, list(manifest["jobs"]))


def _dashboard(args: argparse.Namespace) -> int:
    from analysis.figures.style import colours
    from bll_sweeps.cluster.status import read_manifest
    from bll_sweeps.tracking import dashboard

    layout = layout_of(args)
    name = sweep_of(args, layout)
    manifest = read_manifest(layout, name)
    _, target = _project_of(layout, name, args)
    sweep = dashboard.sweep_of(manifest, colours(cell["labels"]["objective"] for cell in manifest["cells"]))
    tables, problems = _tables(layout, name)
    if args.dry_run:
        files = layout.dashboard(sweep.name)
        dashboard.write(files, sweep, target, tables)
        print(files.workspace, files.report, sep="\n")
    else:
        workspace, report = dashboard.save(sweep, target, tables)
        print(f"workspace: {workspace}", f"report: {report}", sep="\n")
    return with_problems(problems)


def _tables(layout: Layout, sweep: str) -> tuple[str, list[str]]:
    """Gains by the primary decodings and crossovers as Markdown, '' where nothing can be compared yet; and what is
    wrong with the records.
    """
    from analysis.sources.table import load
    from analysis.statistics.benchmarks import PRIMARY, by_primary
    from analysis.statistics.continuum import gains
    from analysis.tables.formats import markdown
    from analysis.tables.sweep import crossover_rows, crossovers_grid, gains_grid

    results = load(layout.root, sweep)
    known = by_primary(gains(results), results.cells)
    known = known[known["n"] > 0] if len(known) else known
    if known.empty:
        return "", results.problems
    crossovers = crossover_rows(known.assign(decoding=PRIMARY))
    parts = [markdown(gains_grid(known.head(_MOST_GAINS))), markdown(crossovers_grid(crossovers))]
    if len(known) > _MOST_GAINS:
        parts.insert(1, f"{len(known) - _MOST_GAINS} more are in `bll report {sweep}`.\n")
    return "\n".join(parts), results.problems


def _project_of(layout: Layout, sweep: str, args: argparse.Namespace) -> tuple[list[str], Target]:
    """The sweep's jobs, and where on W&B they belong."""
    from bll_sweeps.cluster.status import read_manifest
    from bll_sweeps.tracking.server import Target, parse_target, target_of

    manifest = read_manifest(layout, sweep)
    own = parse_target(args.project) if args.project else target_of(layout, manifest)
    return list(manifest["jobs"]), Target(own.project, args.entity or own.entity)


def _progress(word: str) -> Callable[[int, int], None]:
    """A line that counts, where somebody looks."""

    def told(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{word} {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return told
