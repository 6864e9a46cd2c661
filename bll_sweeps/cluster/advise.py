"""`bll advise`: the cell to ask about, and its prior strength, measured here if the store does not have it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from bll_sweeps.cluster.launch import Launcher, Prepared, declare
from bll_sweeps.cluster.local import LocalOptions, run_declared
from bll_sweeps.errors import ConfigError, JobsFailed, UsageError, one_of
from bll_sweeps.grid.plan import Plan
from bll_sweeps.store.records import is_done

KINDS = ("pretrain", "prior")  # what prior strength takes


def as_axes(overrides: Sequence[str], folders: Iterable[Path]) -> tuple[list[str], list[str]]:
    """(overrides that compose the base cell asked about and the objectives to compare, how a launch names the setting).

    `domain=NAME` alone becomes a benchmark of that domain, the one of its name or the first: which does not matter for
    prior strength. folders: where `benchmark/*.yaml` are looked for. Raises UsageError for what is missing or named
    several times.
    """
    given = {text.partition("=")[0]: text.partition("=")[2] for text in overrides}
    for key in ("backbone", "domain", "benchmark"):
        if "," in given.get(key, ""):
            raise ConfigError(key, given[key], "must be one: advice is for one backbone on one domain")
    if "backbone" not in given:
        raise UsageError("backbone=None is missing: `bll advise backbone=lab-c domain=lab-spell`")
    own = [text for text in overrides if text.partition("=")[0] not in ("domain", "objective", "benchmark")]
    benchmark = given.get("benchmark") or _benchmark(given.get("domain", ""), folders)
    setting = [f"benchmark={benchmark}", *own]
    objectives = ",".join(dict.fromkeys(["base", *filter(None, given.get("objective", "").split(","))]))
    return [f"objective={objectives}", *setting], sorted(setting, key=lambda text: not text.startswith("backbone="))


def _benchmark(domain: str, folders: Iterable[Path]) -> str:
    known: dict[str, list[str]] = {}
    for path in sorted(path for folder in folders for path in folder.glob("benchmark/*.yaml")):
        told = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        known.setdefault(str(told.get("domain", "")), []).append(path.stem)
    known.pop("", None)
    if not domain:
        raise UsageError(f"domain=None is missing (choose from {', '.join(sorted(known))})")
    if domain not in known:
        raise UsageError(f"domain={domain!r} {one_of(sorted(known), domain)}")
    return domain if domain in known[domain] else known[domain][0]


def measure(name: str, prepared: Prepared, command: Sequence[str], options: LocalOptions, *, run: bool) -> str:
    """The id of the first cell's prior job, done: run here with the pretraining it takes where the store lacks them.

    What the workers tell goes to stderr. Raises UsageError if it is not there and `run` is false, JobsFailed if it
    fails.
    """
    cell = prepared.plan.cells[0]
    layout = prepared.layout
    if is_done(layout.job(cell.prior)) and prepared.plan.jobs[cell.prior].state != "damaged":
        return cell.prior
    if not run:
        text = f"the prior strength of backbone={cell.cell.backbone.name} on domain={cell.cell.domain.name}"
        raise UsageError(f"{text} is not in {layout.root}: leave out --no-run to measure it")
    wanted = {job_id: p for job_id, p in prepared.plan.jobs.items() if job_id in (cell.prior, cell.pretrain)}
    with contextlib.redirect_stdout(sys.stderr):
        declared = declare(
            name, replace(prepared, plan=Plan(prepared.plan.cells, wanted)), command, launcher=Launcher("local")
        )
        os.utime(
            layout.sweep(name).folder, (0, 0)
        )  # no sweep that `bll status` or `bll results` should mean by default
        status = run_declared(declared, options)
    if not is_done(layout.job(cell.prior)):
        raise JobsFailed(status.verdict())
    return cell.prior
