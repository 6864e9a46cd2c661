"""What a cell is, which jobs it needs, and what a job's id is made of.

A cell is one grid point: a resolved (objective, backbone, domain, benchmark, recipe, seed). An experiment is a
value, and its jobs follow from it:

    cell -> PretrainJob (backbones made here) -> PriorJob -> (thresholds at a quantile of the prior)
                                              -> TrainJob (objectives other than base) -> EvaluateJob

A job's id is `<kind>-<16 hex>` of the canonical JSON of everything that changes its result (design, invariant 1).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from bll_sweeps.grid.axes import (
    Backbone,
    Benchmark,
    Domain,
    Objective,
    Recipe,
    canonical_json,
    check,
    identity,
    lab_generator,
    label,
)

# Raised by hand when the meaning of a kind's result changes: every job of that kind then gets a new id.
KIND_VERSION = {"pretrain": 1, "prior": 1, "train": 1, "evaluate": 1}
KINDS = tuple(KIND_VERSION)  # in the order in which a cell runs them


class _Identified:
    """What all four kinds share: an id that is the digest of `content()`."""

    kind: ClassVar[str]

    def content(self) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} has no content()")

    @cached_property
    def id(self) -> str:
        text = canonical_json({"kind": self.kind, "version": KIND_VERSION[self.kind], **self.content()})
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def reference(backbone: Backbone) -> str:
    """What stands for the backbone in a job's content: its pretrain job, or the digest of its files, wherever they lie.

    A model of the hub that is not in the lock goes by its name: it can be planned with, not launched.
    """
    if not backbone.made_here:
        return f"directory:{backbone.digest}" if backbone.digest else f"hub:{backbone.hub}"
    known = backbone.__dict__.get("_reference")
    if known is None:
        known = PretrainJob(backbone=backbone).id
        object.__setattr__(backbone, "_reference", known)  # thousands of cells share few backbones
    return known


def parents_of(backbone: Backbone) -> tuple[str, ...]:
    """The job that makes the backbone, if one does."""
    return (reference(backbone),) if backbone.made_here else ()


def _read_in(backbone: Backbone) -> dict[str, str]:
    """The precision in which a model is read, where it is not the usual one."""
    return {} if backbone.dtype == "float32" else {"dtype": backbone.dtype}


@dataclass(frozen=True, kw_only=True)
class PretrainJob(_Identified):
    """Makes a lab backbone, or a random one -> `model/`."""

    kind: ClassVar[str] = "pretrain"
    backbone: Backbone

    def content(self) -> dict[str, Any]:
        if self.backbone.source == "random":
            name = self.backbone.hub or self.backbone.name  # of which its weights are drawn
            return {"random": name, "architecture": self.backbone.architecture, "template": self.backbone.template}
        assert self.backbone.pretraining is not None
        return {
            "pretraining": identity(self.backbone.pretraining),
            "tasks": identity(self.backbone.tasks),
            "generator": lab_generator(),
        }

    @property
    def parents(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True, kw_only=True)
class PriorJob(_Identified):
    """How probable the base model finds the domain's training targets (paper, Eq. 5)."""

    kind: ClassVar[str] = "prior"
    backbone: Backbone
    domain: Domain

    def content(self) -> dict[str, Any]:
        return {"backbone": reference(self.backbone), "domain": identity(self.domain)} | _read_in(self.backbone)

    @property
    def parents(self) -> tuple[str, ...]:
        return parents_of(self.backbone)


@dataclass(frozen=True, kw_only=True)
class TrainJob(_Identified):
    """Fine-tunes the backbone on the domain with the objective -> `model/`."""

    kind: ClassVar[str] = "train"
    objective: Objective
    backbone: Backbone
    domain: Domain
    recipe: Recipe
    seed: int

    def content(self) -> dict[str, Any]:
        out = {
            "objective": identity(self.objective),
            "backbone": reference(self.backbone),
            "domain": identity(self.domain),
            "recipe": identity(self.recipe),
            "seed": self.seed,
        }
        return out | ({"prior": self.prior.id} if self.objective.needs_prior else {})

    @property
    def prior(self) -> PriorJob:
        """Where a threshold at a quantile comes from."""
        return PriorJob(backbone=self.backbone, domain=self.domain)

    @property
    def parents(self) -> tuple[str, ...]:
        return parents_of(self.backbone) + ((self.prior.id,) if self.objective.needs_prior else ())


@dataclass(frozen=True, kw_only=True)
class EvaluateJob(_Identified):
    """Generates and grades answers of one checkpoint (`train`), or of the base model, on one benchmark."""

    kind: ClassVar[str] = "evaluate"
    backbone: Backbone
    domain: Domain
    benchmark: Benchmark
    train: TrainJob | None = None

    def content(self) -> dict[str, Any]:
        out = {
            "checkpoint": self.train.id if self.train else reference(self.backbone),
            "benchmark": identity(self.benchmark),
        } | _read_in(self.backbone)
        if self.benchmark.source != "lm_eval":  # such a task has prompts of its own
            out |= {"prompt": self.domain.prompt} | ({"stop": list(self.domain.stop)} if self.domain.stop else {})
        if self.benchmark.source == "lab":  # the lab task's held-out questions
            out["lab"] = identity(self.domain.lab)
        if self.benchmark.source in ("lab", "generated"):
            out["generator"] = lab_generator()
        return out

    @property
    def parents(self) -> tuple[str, ...]:
        return (self.train.id,) if self.train else parents_of(self.backbone)

    @property
    def checkpoint_id(self) -> str:
        """What is loaded: evaluations that share it can share one model load."""
        return self.train.id if self.train else reference(self.backbone)


Job = PretrainJob | PriorJob | TrainJob | EvaluateJob
JOB_TYPES: dict[str, type] = {
    "pretrain": PretrainJob,
    "prior": PriorJob,
    "train": TrainJob,
    "evaluate": EvaluateJob,
}


# --- the cell -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One grid point. `overrides` are the command-line or sweep-file overrides that made it (for labels only)."""

    objective: Objective
    backbone: Backbone
    domain: Domain
    benchmark: Benchmark
    recipe: Recipe
    seed: int = 0
    overrides: tuple[str, ...] = label(default=())

    def __post_init__(self) -> None:
        check(self.seed >= 0, "seed", self.seed, "must be >= 0")
        anchored, authors = self.objective.anchor, self.recipe.gradient == "authors"
        check(not (anchored and authors), "objective.anchor", anchored, "has no meaning for recipe.gradient=authors")
        check(
            self.benchmark.domain == self.domain.name,
            "benchmark.domain",
            self.benchmark.domain,
            f"is not the cell's domain={self.domain.name!r}: a benchmark belongs to one domain",
        )
        check(
            self.domain.source == "lab" or self.benchmark.source != "lab",
            "benchmark.source",
            self.benchmark.source,
            f"has no questions: domain={self.domain.name!r} is not a task of the lab, so benchmark.data must say where",
        )

    @cached_property
    def pretrain(self) -> PretrainJob | None:
        return PretrainJob(backbone=self.backbone) if self.backbone.made_here else None

    @cached_property
    def prior(self) -> PriorJob:
        return PriorJob(backbone=self.backbone, domain=self.domain)

    @cached_property
    def train(self) -> TrainJob | None:
        if self.objective.is_base:
            return None
        return TrainJob(
            objective=self.objective,
            backbone=self.backbone,
            domain=self.domain,
            recipe=self.recipe,
            seed=self.seed,
        )

    @cached_property
    def evaluate(self) -> EvaluateJob:
        return EvaluateJob(backbone=self.backbone, domain=self.domain, benchmark=self.benchmark, train=self.train)

    def jobs(self) -> tuple[Job, ...]:
        """The cell's jobs, parents first."""
        jobs = (self.pretrain, self.prior, self.train, self.evaluate)
        return tuple(job for job in jobs if job is not None)

    def labels(self) -> dict[str, Any]:
        """The names a person knows the cell by."""
        return {
            "objective": self.objective.name,
            "backbone": self.backbone.name,
            "domain": self.domain.name,
            "benchmark": self.benchmark.name,
            "recipe": self.recipe.name,
            "seed": self.seed,
        }
