"""Commands on results: scores, reports, advice."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bll_sweeps.cli.composing import composed_grid, hydra_on_conf, prepared_plan, translated
from bll_sweeps.cli.options import DONE, at_least_one, layout_of, on_root, on_sweep, sweep_of, with_problems
from bll_sweeps.errors import ConfigError, UsageError, one_of

if TYPE_CHECKING:
    from analysis.sources.table import Results
    from bll_sweeps.store.layout import Layout


def add(commands: Any) -> None:
    sub = on_sweep(commands, "regrade", _regrade, "Score finished evaluations again, from the answers that they keep.")
    names = "instead of the graders that the sweep's last launch names; may be given several times"
    sub.add_argument("--grader", action="append", default=[], metavar="NAME", help=names)
    sub.add_argument("--processes", type=at_least_one, default=0, metavar="N", help="default: one per core")
    sub = on_sweep(commands, "results", _results, "Scores with intervals.")
    sub.add_argument("--csv", action="store_true")
    view = "columns of the paper's benchmarks: 14 has MedBullets once, and The Lancet with the NEJM (default: 16)"
    sub.add_argument("--view", type=int, choices=(16, 14), default=16, help=view)
    instead = sub.add_mutually_exclusive_group()
    over = "the gain of each objective over this one, paired by question, with intervals and p-values"
    instead.add_argument("--reference", metavar="OBJECTIVE", help=over)
    claims = "recompute from the records which end of the continuum each objective wins"
    instead.add_argument("--claims", action="store_true", help=claims)
    _advising(commands)
    sub = on_sweep(commands, "report", _report, "Figures and one self-contained HTML page.")
    sub.add_argument("--out", type=Path, default=None, help="default: <run root>/reports/SWEEP")
    which = "which answers prior strength is measured on (default: clean)"
    sub.add_argument("--prior", choices=("clean", "as_trained"), default="clean", help=which)
    overlay = "draw the paper's numbers into the figures, where cells can be compared (default: yes)"
    sub.add_argument("--overlay", action=argparse.BooleanOptionalAction, default=True, help=overlay)
    sub.add_argument("--watch", action="store_true", help="make it anew while the sweep runs")
    every = "how often --watch looks (default: 30)"
    sub.add_argument("--every", type=at_least_one, default=30, metavar="SECONDS", help=every)


def _regrade(args: argparse.Namespace) -> int:
    from bll_sweeps.cluster.regrade import regrade, unscored
    from bll_sweeps.cluster.status import SweepWatch, job_names
    from bll_sweeps.cluster.words import plural
    from bll_sweeps.evaluation.grading import grader

    layout = layout_of(args)
    for name in args.grader:
        grader(name)  # an unknown one is named, with the choices
    sweep = sweep_of(args, layout)
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

    for name, given in (("--view 14", args.view == 14), ("--csv", args.csv and args.claims)):
        if given and (args.claims or args.reference):
            raise UsageError(f"{name} has no meaning with {'--claims' if args.claims else '--reference'}")
    layout = layout_of(args)
    results = load(layout.root, sweep_of(args, layout))
    if args.claims:
        print(claims_text(check(results)), end="")
    elif args.reference:
        print(_gains_over(args.reference, results, as_csv=args.csv), end="")
    else:
        show = tables.results_csv if args.csv else tables.results_text
        print(show(results, view=args.view), end="")
    return with_problems(results.problems)


def _gains_over(reference: str, results: Results, *, as_csv: bool) -> str:
    from analysis.statistics.continuum import gains
    from analysis.tables.formats import markdown
    from analysis.tables.sweep import gains_grid, with_averages

    known = list(dict.fromkeys(results.cells["objective"]))
    if reference not in known:
        raise ConfigError("--reference", reference, one_of(known, reference))
    found = with_averages(gains(results, reference=reference), results)
    if as_csv:
        return found.assign(reference=reference).to_csv(index=False)
    warnings = "".join(f"\nwarning: {text}\n" for text in results.warnings)
    return markdown(gains_grid(found, reference)) + warnings


def _report(args: argparse.Namespace) -> int:
    from analysis.report.page import write_report
    from analysis.sources.empty import is_empty, nothing
    from analysis.sources.table import load

    layout = layout_of(args)
    if not args.sweep and not args.watch and is_empty(layout.root):
        print(f"bll: {layout.root} holds no sweep yet; `bll launch sweep=lab` runs one", file=sys.stderr)
        print(write_report(nothing(layout.root), args.out or layout.reports).page)
        return DONE
    sweep = sweep_of(args, layout)
    if args.watch:
        return _watch_report(layout, sweep, args)
    results = load(layout.root, sweep)
    report = write_report(results, args.out or layout.report(sweep), args.prior, overlay=args.overlay)
    code = with_problems(results.problems)
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
    return with_problems(results.problems)


def _advising(commands: Any) -> None:
    text = "Which objective the evidence in the store favours for a backbone on a domain, and what would settle it."
    sub = on_root(commands, "advise", _advise, text)
    which = "backbone=NAME domain=NAME (or benchmark=NAME), objective=nll,p for some only; sweep=.. with --validate"
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=which)
    sub.add_argument("--no-run", action="store_true", help="only read: do not measure prior strength that is not known")
    sub.add_argument("--validate", action="store_true", help="leave out one setting of the store at a time instead")
    sub.add_argument("--json", action="store_true")


def _advise(args: argparse.Namespace) -> int:
    from analysis.advice.advise import advise, plain
    from analysis.advice.evidence import conditions_of, prior_strength, read_evidence
    from analysis.advice.text import advice_text

    if args.validate:
        return _validate(args)
    prepared, objectives, setting, measured = _asked_about(args)
    cell, root = prepared.plan.cells[0].cell, prepared.layout.root
    backbone, domain, noise = cell.backbone.name, cell.domain.name, cell.domain.noise
    asked = conditions_of((noise.kind, noise.rate), dataclasses.asdict(cell.recipe), setting)
    evidence = read_evidence(root, asked)
    known = evidence.prior_at(backbone, domain)
    prior = known[0] if known else prior_strength(root, measured())
    advice = advise(evidence, backbone, domain, prior, objectives, setting)
    print(json.dumps(plain(advice), indent=1) if args.json else advice_text(advice), end="\n" if args.json else "")
    return with_problems(evidence.problems)


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
    with hydra_on_conf() as hydra:
        _, composed, launcher = translated(lambda: composed_grid(hydra, [*axes, *root]))
    if not launcher["_target_"].endswith(".LocalLauncher"):
        where = "measures on this machine: launch objective=base there first, then ask with --no-run"
        raise UsageError(f"hydra.launcher={launcher['_target_']!r}: `bll advise` {where}")
    objectives = [str(cell.config["objective"]["name"]) for cell in composed]
    prepared = prepared_plan(composed[:1], launcher)
    workers = LocalOptions(launcher["workers"], launcher["timeout_min"])
    name = adhoc_name([composed[0].overrides]).replace("adhoc", "advise")
    return prepared, objectives, setting, lambda: measure(name, prepared, sys.argv, workers, run=not args.no_run)


def _validate(args: argparse.Namespace) -> int:
    from analysis.advice.evidence import read_evidence
    from analysis.advice.text import validation_text
    from analysis.advice.validate import validate, validation_plain

    some: dict[str, list[str]] = {"sweep": [], "objective": []}
    for key, _, value in (text.partition("=") for text in args.overrides):
        if key not in some:
            problem = "has no meaning with --validate, which takes each setting in turn"
            raise UsageError(f"{key}={value} {problem} (choose from {', '.join(some)})")
        some[key] += value.split(",")
    evidence = read_evidence(layout_of(args).root, sweeps=some["sweep"])
    for name in some["objective"]:
        if name not in evidence.objectives:
            raise UsageError(f"objective={name!r} {one_of(evidence.objectives, name)}")
    table = validate(evidence, some["objective"])
    print(json.dumps(validation_plain(table), indent=1) if args.json else validation_text(evidence, table).rstrip())
    return with_problems(evidence.problems)
