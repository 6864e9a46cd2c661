"""Launching is declaring: cells -> plan, frozen specs and a manifest on disk. What then runs the jobs is local.py's
to say.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bll_sweeps.cluster.status import damage, job_state, read_manifest, spec_problem
from bll_sweeps.code import code_digest, commit
from bll_sweeps.errors import ConfigError, StoreError, UsageError
from bll_sweeps.grid.plan import Plan, PlannedJob, plan, ready_order
from bll_sweeps.grid.schema.grids import ComposedCell
from bll_sweeps.grid.schema.resolve import ResolvedCell, Resolver
from bll_sweeps.grid.settings import Execution, Tracker
from bll_sweeps.grid.spec import Spec, parse_spec, read_spec, spec_text, write_spec
from bll_sweeps.store.layout import JobFiles, Layout, SweepFiles
from bll_sweeps.store.records import fsync_folder, is_done, read_jsonl_gz, withdraw, write_json


@dataclass(frozen=True)
class Declared:
    """A launch as it stands on disk."""

    layout: Layout
    sweep: str
    launch: int
    plan: Plan
    gpus_per_job: int = 0


def resolve_cells(composed: Sequence[ComposedCell]) -> list[ResolvedCell]:
    """Composed configurations as cells. ConfigError for the first that cannot be used, before anything is written."""
    from bll_sweeps.evaluation.task_files import task_digest

    resolve = Resolver(task_digest)
    return [resolve(cell.config, cell.overrides) for cell in composed]


def plan_cells(cells: Sequence[ResolvedCell]) -> tuple[Layout, Plan]:
    """The plan of resolved cells against the store at their run root. Reads only."""
    roots = {cell.root for cell in cells}
    if len(roots) != 1:
        raise UsageError(f"paths.root differs between cells of one launch: {', '.join(sorted(map(str, roots)))}")
    layout = Layout(roots.pop())
    return layout, plan((cell.cell for cell in cells), lambda job_id: job_state(layout.job(job_id), this_code=True))


def declare(name: str, cells: Sequence[ResolvedCell], command: Sequence[str], *, rerun_stale: bool = False) -> Declared:
    """Freezes the specs of what has to run and writes the launch's manifest; nothing runs yet.

    Jobs that failed before are to be tried again, damaged records are withdrawn; with `rerun_stale` so are results
    that other code made. Raises ConfigError for a run root that cannot be written, before anything is.
    """
    if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
        raise ConfigError("hydra.sweeper.name", name, "must be made of letters, digits and ._+-: it names a folder")
    layout, planned = plan_cells(cells)
    _check_writable(layout.root)
    for job in planned.jobs.values():
        files = layout.job(job.job.id)
        if job.state == "damaged" and is_done(files) and (text := damage(files)):
            withdraw(files, text)
        elif job.state == "stale" and rerun_stale:
            withdraw(files, "made by other code")
        elif job.state == "failed":
            clear_failure(files)
    if rerun_stale:
        planned = Plan(
            planned.cells,
            {i: PlannedJob(p.job, "new" if p.state == "stale" else p.state) for i, p in planned.jobs.items()},
        )
    specs = _specs(name, layout, planned, cells)
    for job in planned.to_run:
        if job.state != "running":
            write_spec(layout.job(job.job.id), specs[job.job.id])
    gpus = max(cell.execution.gpus for cell in cells)
    launch = _write_manifest(layout.sweep(name), planned, list(specs.values()), command, gpus)
    return Declared(layout, name, launch, planned, gpus)


def clear_failure(files: JobFiles) -> None:
    """The last attempt's failure no longer counts: the job may be tried again. Its text stays."""
    last = files.attempts()[-1]
    with contextlib.suppress(FileNotFoundError):  # another launch cleared it, or has begun the next attempt
        last.failure.rename(last.failure.with_name("failure.cleared.json"))


def reopen(layout: Layout, sweep: str) -> tuple[Declared, list[str]]:
    """For `bll retry`: the last launch of `sweep` with its failed and damaged jobs made runnable, and the ids of these.

    Nothing else is touched. Parents of failed jobs are read whole, since a damaged output of theirs may be why.
    """
    manifest = read_manifest(layout, sweep)
    jobs: dict[str, dict[str, Any]] = manifest["jobs"]
    failed = [job_id for job_id in jobs if job_state(layout.job(job_id)) == "failed"]
    suspects = {parent for job_id in failed for parent in jobs[job_id]["parents"]}
    damaged = {job_id: text for job_id in jobs if (text := damage(layout.job(job_id), deep=job_id in suspects))}
    torn = {job_id for job_id in damaged if spec_problem(layout.job(job_id))}
    frozen = _frozen_specs(layout.sweep(sweep), torn)
    for job_id in torn - frozen.keys():
        raise StoreError(
            f"{layout.job(job_id).spec} is damaged and no launch record holds a copy; launch the sweep again"
        )
    for job_id, text in damaged.items():
        withdraw(layout.job(job_id), text)
        if job_id in torn:
            write_spec(layout.job(job_id), frozen[job_id])
    for job_id in failed:
        clear_failure(layout.job(job_id))
    declared = Declared(layout, sweep, manifest["launch"], Plan((), {}), manifest["gpus_per_job"])
    return declared, [job_id for job_id in jobs if job_id in damaged or job_id in failed]


def check_runnable(layout: Layout, job_id: str) -> None:
    """UsageError if the job is done already or a parent of it is not."""
    files = layout.job(job_id)
    if is_done(files):
        raise UsageError(f"job={job_id!r} is done: {files.done.resolve()}")
    missing = [parent for parent in read_spec(files).job.parents if not is_done(layout.job(parent))]
    if missing:
        raise UsageError(f"job={job_id!r} waits for {', '.join(missing)}: run that first")


def _check_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".writable.{os.getpid()}.{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            "paths.root", str(root), f"cannot be written ({error.strerror}): choose a folder you may write to"
        ) from None


def _specs(name: str, layout: Layout, planned: Plan, cells: Sequence[ResolvedCell]) -> dict[str, str]:
    """Text of spec.json of each job to run. The sweep that first launched a job stays its `sweep` label."""
    settings: dict[str, tuple[Execution, Tracker, dict[str, Any]]] = {}
    for resolved in cells:
        labels = resolved.cell.labels()
        for job in resolved.cell.jobs():
            keys = {
                "pretrain": ["backbone"],
                "prior": ["backbone", "domain"],
                "train": ["objective", "backbone", "domain", "recipe", "seed"],
            }
            settings.setdefault(
                job.id,
                (resolved.execution, resolved.tracker, {k: labels[k] for k in keys.get(job.kind, labels)}),
            )
    texts = {}
    for job_id, planned_job in planned.jobs.items():
        if planned_job.finished:
            continue
        execution, tracker, labels = settings[job_id]
        before = _known(layout.job(job_id))
        sweeps = list(dict.fromkeys([*(before.labels["sweeps"] if before else []), name]))
        if before and layout.job(job_id).attempts():
            # The curve of a job that goes on keeps its cadence, so that an interruption leaves no trace in it.
            execution = replace(execution, log_every_steps=before.execution.log_every_steps)
        texts[job_id] = spec_text(
            Spec(planned_job.job, execution, tracker, labels | {"sweep": sweeps[0], "sweeps": sweeps})
        )
    return texts


def _known(files: JobFiles) -> Spec | None:
    try:
        return read_spec(files) if files.spec.exists() else None
    except StoreError:
        return None  # it is written anew


def _write_manifest(
    files: SweepFiles, planned: Plan, specs: list[str], command: Sequence[str], gpus_per_job: int
) -> int:
    """Writes launch.<n>.json for the next free n: the specs' file, made exclusively, reserves the number."""
    files.folder.mkdir(parents=True, exist_ok=True)
    packed = gzip.compress("".join(specs).encode(), mtime=0)
    launch = (files.launches() or [0])[-1] + 1
    while True:
        try:
            with files.specs(launch).open("xb") as stream:
                stream.write(packed)
                stream.flush()
                os.fsync(stream.fileno())
            break
        except FileExistsError:
            launch += 1
    fsync_folder(files.folder)
    write_json(
        files.manifest(launch),
        {
            "sweep": files.name,
            "launch": launch,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": list(command),
            "code": code_digest(),
            "gpus_per_job": gpus_per_job,
            **commit(),
            "cells": [
                {
                    "labels": c.cell.labels(),
                    "overrides": list(c.cell.overrides),
                    "primary": c.cell.benchmark.primary,
                    "jobs": c.ids(),
                }
                for c in planned.cells
            ],
            # In the order in which workers look for work.
            "jobs": [
                {"id": p.job.id, "kind": p.job.kind, "parents": list(p.job.parents)}
                for p in ready_order(list(planned.jobs.values()))
            ],
        },
    )
    os.utime(files.folder)  # the order in which sweeps were launched last
    return launch


def _frozen_specs(files: SweepFiles, wanted: set[str]) -> dict[str, str]:
    """Spec texts of the `wanted` jobs as the launches of this sweep froze them, the newest that is whole."""
    out: dict[str, str] = {}
    for launch in reversed(files.launches()):
        if not wanted - out.keys():
            break
        for data in read_jsonl_gz(files.specs(launch)):
            if data["id"] in wanted - out.keys():
                parse_spec(data, data["id"], str(files.specs(launch)))
                out[data["id"]] = json.dumps(data, sort_keys=True) + "\n"
    return out
