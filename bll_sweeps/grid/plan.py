"""Cells -> the DAG of their jobs, each once, parents first, with what the store already has. Pure: states come in as
a function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from bll_sweeps.grid.cell import KINDS, Cell, EvaluateJob, Job

# What the disk says of a job. `stale`: done, but made by other code. `pruned`: done, its weights removed to save disk.
# `damaged`: its record, spec or outputs are corrupt.
State = Literal["new", "running", "done", "stale", "pruned", "failed", "damaged"]
STATES: tuple[State, ...] = ("new", "running", "done", "stale", "pruned", "failed", "damaged")
FINISHED: tuple[State, ...] = ("done", "stale")


@dataclass(frozen=True)
class PlannedJob:
    job: Job
    state: State

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


@dataclass(frozen=True)
class CellJobs:
    """A cell and the ids of its jobs."""

    cell: Cell
    pretrain: str | None
    prior: str
    train: str | None
    evaluate: str

    def ids(self) -> dict[str, str | None]:
        return {
            "pretrain": self.pretrain,
            "prior": self.prior,
            "train": self.train,
            "evaluate": self.evaluate,
        }


@dataclass(frozen=True)
class Plan:
    cells: tuple[CellJobs, ...]
    jobs: dict[str, PlannedJob]  # parents before children

    @cached_property
    def to_run(self) -> list[PlannedJob]:
        """Jobs that a launch has to run (or that run already), parents first; a pruned one if one of these needs it."""
        out: list[PlannedJob] = []
        needed: set[str] = set()
        for planned in reversed(self.jobs.values()):  # children first: they say what is needed
            done = planned.job.id not in needed if planned.state == "pruned" else planned.finished
            if not done:
                out.append(planned)
                needed.update(planned.job.parents)
        return out[::-1]

    def stale_as_new(self) -> Plan:
        """The plan in which what other code made runs again."""
        jobs = {i: PlannedJob(p.job, "new") if p.state == "stale" else p for i, p in self.jobs.items()}
        return Plan(self.cells, jobs)

    def counts(self) -> dict[str, dict[str, int]]:
        """Jobs by kind and state, e.g. {"train": {"total": 28, "new": 28, "done": 0, ...}}.

        `pruned` are those to be run again; a pruned job that nothing needs is done.
        """
        again = {planned.job.id for planned in self.to_run}
        out: dict[str, dict[str, int]] = {}
        for kind in KINDS:
            states = Counter(
                "done" if planned.state == "pruned" and planned.job.id not in again else planned.state
                for planned in self.jobs.values()
                if planned.job.kind == kind
            )
            if states:
                out[kind] = {"total": sum(states.values())} | {state: states[state] for state in STATES}
        return out

    def model_loads(self) -> int:
        """How many checkpoints the evaluations still to run have to load: those of one checkpoint share a load."""
        return len({p.job.checkpoint_id for p in self.to_run if isinstance(p.job, EvaluateJob)})

    def summary(self) -> dict[str, Any]:
        """What `bll plan --json` says of the plan itself."""
        return {"kinds": self.counts(), "cells": len(self.cells), "model_loads": self.model_loads()}


def plan(cells: Iterable[Cell], state_of: Callable[[str], State]) -> Plan:
    """The plan of `cells`. Cells with the same jobs and names are one (1e-4 and 0.0001 are the same number); one
    objective under two names stays two cells, which share their jobs.
    """
    planned: dict[str, PlannedJob] = {}
    rows: dict[tuple[object, ...], CellJobs] = {}
    for cell in cells:
        pretrain, prior, train, evaluate = cell.pretrain, cell.prior, cell.train, cell.evaluate
        key = (evaluate.id, prior.id, *cell.labels().values())
        if key in rows:
            continue
        rows[key] = CellJobs(
            cell, pretrain.id if pretrain else None, prior.id, train.id if train else None, evaluate.id
        )
        for job in (pretrain, prior, train, evaluate):
            if job is not None and job.id not in planned:
                planned[job.id] = PlannedJob(job, state_of(job.id))
    order = {kind: i for i, kind in enumerate(KINDS)}
    # Stable: within a kind the order of the grid. pretrain < prior < train < evaluate also puts parents first.
    jobs = dict(sorted(planned.items(), key=lambda item: order[item[1].job.kind]))
    return Plan(tuple(rows.values()), jobs)


def ready_order(jobs: Sequence[PlannedJob]) -> list[PlannedJob]:
    """The order in which workers look for work, parents before children.

    Jobs without parents that have children (pretrain) come first, so that no worker waits for one of them at the end;
    then depth first, so that results arrive early.
    """
    known = {p.job.id for p in jobs}
    parents = {p.job.id: [parent for parent in p.job.parents if parent in known] for p in jobs}
    children: dict[str, list[PlannedJob]] = {}
    for p in jobs:
        for parent in parents[p.job.id]:
            children.setdefault(parent, []).append(p)
    out = {p.job.id: p for p in jobs if not parents[p.job.id] and p.job.id in children}

    def visit(p: PlannedJob) -> None:
        if all(parent in out for parent in parents[p.job.id]):
            out.setdefault(p.job.id, p)
            for child in children.get(p.job.id, ()):
                visit(child)

    for p in jobs:
        visit(p)
    return list(out.values())
