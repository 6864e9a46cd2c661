"""What a cell is, which jobs it needs, and what a job's id is made of.

A cell is one grid point: a resolved (objective, backbone, domain, benchmark, recipe, seed). Every value here is a
frozen dataclass, so an experiment is a value and its jobs follow from it:

    cell -> PretrainJob (lab backbones) -> PriorJob
                                        -> TrainJob (objectives other than base) -> EvaluateJob

A job's id is `<kind>-<16 hex>` of the canonical JSON of everything that changes its result (design, invariant 1).
Fields marked with `label()` - names and places - are carried along but are not part of the identity.
No torch, no Hydra: planning and analysis import this module.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, ClassVar, Literal

from bll_sweeps.errors import ConfigError, one_of

# Raised by hand when the meaning of a kind's result changes: every job of that kind then gets a new id.
KIND_VERSION = {"pretrain": 1, "prior": 1, "train": 1, "evaluate": 1}
KINDS = tuple(KIND_VERSION)  # in the order in which a cell runs them


def label(**kwargs: Any) -> Any:
    """A dataclass field that is not part of a job's identity: a name, or the place where data lie."""
    return field(metadata={"identity": False}, **kwargs)


def computed(**kwargs: Any) -> Any:
    """A field that is found out (a digest, a definition looked up by name), never configured."""
    return field(metadata={"computed": True}, **kwargs)


def _check(ok: bool, key: str, value: object, needed: str) -> None:
    if not ok:
        raise ConfigError(key, value, needed)


def _positive(value: object, *keys: str) -> None:
    for key in keys:
        number = getattr(value, key)
        _check(math.isfinite(number) and number > 0, key, number, "must be finite and greater than 0")


def _fraction(value: object, *keys: str) -> None:
    for key in keys:
        number = getattr(value, key)
        _check(0.0 <= number <= 1.0, key, number, "must lie in [0, 1]")


# --- the axes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Objective:
    """f(p) of the target token's probability; formulas in bll_sweeps.objectives.family (paper, Sections 3 and 5).

    family: nll -log p | power (1-p^alpha)/alpha | convexity -p^alpha/alpha | unlikelihood log(1-p+epsilon)
            | base, the untrained backbone.
    keep: tokens whose current p lies above or below `threshold` (inclusive), or all of them.
    normaliser: the loss is divided by all supervised tokens of the step, or by those that survive the threshold.
    """

    name: str = label()
    family: Literal["base", "nll", "power", "convexity", "unlikelihood"]
    alpha: float = 1.0
    epsilon: float = 1e-3
    keep: Literal["all", "above", "below"] = "all"
    threshold: float = 0.0
    normaliser: Literal["all", "survivors"] = "all"

    def __post_init__(self) -> None:
        _check(math.isfinite(self.alpha), "alpha", self.alpha, "must be finite")
        _check(self.alpha >= 0, "alpha", self.alpha, "must be >= 0 (a negative alpha has unbounded gradients)")
        if self.family == "convexity":
            _check(self.alpha > 0, "alpha", self.alpha, "must be > 0 for family=convexity (it divides by alpha)")
        _positive(self, "epsilon")
        _fraction(self, "threshold")

    @property
    def is_base(self) -> bool:
        return self.family == "base"

    def identity(self) -> dict[str, Any]:
        """Only what the family uses, so that two ways of writing one objective are one job."""
        if self.family == "base":
            return {"family": "base"}
        out: dict[str, Any] = {"family": self.family}
        if self.family == "power" and self.alpha == 0:
            out["family"] = "nll"
        elif self.family in ("power", "convexity"):
            out["alpha"] = self.alpha
        elif self.family == "unlikelihood":
            out["epsilon"] = self.epsilon
        if self.keep != "all":
            out |= {"keep": self.keep, "threshold": self.threshold, "normaliser": self.normaliser}
        return out


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Optimiser, schedule and batch of one training. `steps` 0 means `epochs` passes over the domain's rows."""

    name: str = label()
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.01
    batch_size: int
    steps: int = 0
    epochs: float = 1.0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_fraction: float = 0.1
    final_lr_fraction: float = 0.0
    clip_norm: float = 1.0
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        _positive(self, "learning_rate", "eps", "batch_size", "clip_norm", "epochs")
        _check(
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            "weight_decay",
            self.weight_decay,
            "must be finite and >= 0",
        )
        _check(self.steps >= 0, "steps", self.steps, "must be >= 0 (0: from epochs)")
        _check(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            "betas",
            list(self.betas),
            "must be two numbers in [0, 1)",
        )
        _fraction(self, "warmup_fraction", "final_lr_fraction")

    def total_steps(self, rows: int) -> int:
        """Optimiser steps over `rows` training rows; an incomplete last batch is a step of its own."""
        return self.steps or max(1, math.ceil(self.epochs * rows / self.batch_size))


@dataclass(frozen=True, kw_only=True)
class LabTask:
    """A reasoning-gym task of the lab. `held_out` distinct questions are for evaluation and never trained on."""

    dataset: str
    params: dict[str, int] = field(default_factory=dict)
    held_out: int = 200
    held_out_seed: int = 1_000_003

    def __post_init__(self) -> None:
        _positive(self, "held_out")


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A small Qwen2-architecture model (tied embeddings)."""

    hidden_size: int
    layers: int
    intermediate_size: int
    heads: int
    kv_heads: int
    max_positions: int = 512

    def __post_init__(self) -> None:
        _positive(self, "hidden_size", "layers", "intermediate_size", "heads", "kv_heads", "max_positions")
        _check(
            self.hidden_size % self.heads == 0,
            "hidden_size",
            self.hidden_size,
            f"must be a multiple of heads={self.heads}",
        )
        _check(
            self.heads % self.kv_heads == 0,
            "heads",
            self.heads,
            f"must be a multiple of kv_heads={self.kv_heads}",
        )


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """How a lab backbone is made: `exposure` counts the pretraining items of each lab task."""

    shape: ModelShape
    exposure: dict[str, int]
    recipe: Recipe
    max_length: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.seed >= 0, "seed", self.seed, "must be >= 0")
        _positive(self, "max_length")
        for task, items in self.exposure.items():
            _check(items >= 0, f"exposure.{task}", items, "must be >= 0 items")
        _check(
            sum(self.exposure.values()) > 0,
            "exposure",
            self.exposure,
            "must give at least one task more than 0 items",
        )

    def identity(self) -> dict[str, Any]:
        """A task with 0 items is the same as one that is not named."""
        return fields_identity(self) | {"exposure": {task: n for task, n in self.exposure.items() if n}}


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """The base model: pretrained here (source=lab), or a local directory in the hub's format (source=directory)."""

    name: str = label()
    source: Literal["lab", "directory"]
    pretraining: Pretraining | None = None
    tasks: dict[str, LabTask] = computed(default_factory=dict)  # filled from the cell's lab.tasks
    path: str = label(default="")
    digest: str = computed(default="")  # of the directory: file list, sizes, header digests

    def __post_init__(self) -> None:
        if self.source == "lab":
            if self.pretraining is None:
                raise ConfigError("pretraining", None, "must be given for source=lab")
            for task in self.pretraining.exposure:
                _check(task in self.tasks, "pretraining.exposure", task, one_of(self.tasks, task))
        else:
            _check(bool(self.path), "path", self.path, "must name a local model directory for source=directory")

    @cached_property
    def reference(self) -> str:
        """What stands for the backbone in a job's content: its pretrain job, or the digest of what lies in its
        directory.
        """
        return PretrainJob(backbone=self).id if self.source == "lab" else f"directory:{self.digest}"

    @property
    def parents(self) -> tuple[str, ...]:
        return (self.reference,) if self.source == "lab" else ()


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Label noise of the demonstrations: which share of the answers is wrong, and how.

    uniform: the answer of another question, any of them. imbalanced: the answer of another question out of a few that
    recur (1/rank), so that the wrong answers look alike. missing: no answer at all, the response ends at once.
    """

    kind: Literal["none", "uniform", "imbalanced", "missing"] = "none"
    rate: float = 0.0

    def __post_init__(self) -> None:
        _fraction(self, "rate")

    def identity(self) -> dict[str, Any]:
        return {"kind": "none"} if self.kind == "none" or self.rate == 0 else {"kind": self.kind, "rate": self.rate}


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Training set and prompt format. Rows have `question` and `answer`; the templates say how they become text."""

    name: str = label()
    source: Literal["lab", "jsonl"]
    task: str = ""  # source=lab: a key of lab.tasks
    lab: LabTask | None = computed(default=None)  # filled from lab.tasks
    rows: int = 0  # 0: all (source=jsonl)
    seed: int = 0
    noise: Noise = field(default_factory=Noise)
    prompt: str
    response: str = "{answer}"
    max_length: int = 256
    path: str = label(default="")
    digest: str = computed(default="")  # sha256 of the jsonl file

    def __post_init__(self) -> None:
        _positive(self, "max_length")
        _check(self.seed >= 0, "seed", self.seed, "must be >= 0")
        _check(self.rows >= 0, "rows", self.rows, "must be >= 0")
        _check("{question}" in self.prompt, "prompt", self.prompt, "must contain {question}")
        _check("{answer}" in self.response, "response", self.response, "must contain {answer}")
        if self.source == "lab":
            _check(self.rows > 0, "rows", self.rows, "must be > 0 for source=lab")
        else:
            _check(bool(self.path), "path", self.path, "must name a jsonl file for source=jsonl")

    def identity(self) -> dict[str, Any]:
        """`lab` holds the task's definition, so the key under which lab.tasks names it does not count."""
        out = fields_identity(self)
        del out["task"]
        return out | {"generator": lab_generator()} if self.source == "lab" else out


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """`samples` generations per question; temperature 0 is greedy."""

    temperature: float
    samples: int = 1

    def __post_init__(self) -> None:
        _check(
            math.isfinite(self.temperature) and self.temperature >= 0,
            "temperature",
            self.temperature,
            "must be finite and >= 0",
        )
        _positive(self, "samples")
        _check(
            self.temperature > 0 or self.samples == 1,
            "samples",
            self.samples,
            "must be 1 at temperature=0 (greedy samples are identical)",
        )


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Evaluation set and protocol, of one domain. `task` names an lm-eval task file of bll_sweeps/evaluation/tasks/."""

    name: str = label()
    domain: str = label()  # the name of the domain it belongs to
    task: str
    task_digest: str = computed(default="")  # of the task file and the code that it names
    questions: int = 0  # 0: all
    decodings: dict[str, Decoding]
    primary: str = label()  # the decoding that stands for the benchmark in figures
    max_new_tokens: int
    grader: Literal["exact"] = "exact"
    seed: int = 0
    path: str = label(default="")  # a jsonl file with question and answer; empty: the lab task's held-out questions
    digest: str = computed(default="")

    def __post_init__(self) -> None:
        _positive(self, "max_new_tokens")
        _check(self.questions >= 0, "questions", self.questions, "must be >= 0 (0: all)")
        _check(bool(self.decodings), "decodings", self.decodings, "must name at least one decoding")
        _check(self.primary in self.decodings, "primary", self.primary, one_of(self.decodings, self.primary))

    def identity(self) -> dict[str, Any]:
        """The grader is not in it: scores are a derived record, keyed by grader and version."""
        out = fields_identity(self)
        del out["grader"]
        return out


# --- jobs -----------------------------------------------------------------------------------------------------------


def fields_identity(value: Any) -> dict[str, Any]:
    """The identity fields of a dataclass value, as plain data."""
    return {
        f.name: identity(getattr(value, f.name)) for f in dataclasses.fields(value) if f.metadata.get("identity", True)
    }


def identity(value: Any) -> Any:
    """Plain JSON data of everything in `value` that changes a result. Remembered with a frozen value: read only."""
    if isinstance(value, (str, int, float)) or value is None:
        return value
    if isinstance(value, dict):
        return {str(key): identity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [identity(item) for item in value]
    known = value.__dict__.get("_identity")
    if known is None:
        own = getattr(value, "identity", None)
        known = own() if own else fields_identity(value)
        object.__setattr__(value, "_identity", known)  # thousands of cells share few values
    return known


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces, shortest float notation, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


class _Identified:
    """What all four kinds share: an id that is the digest of `content()`."""

    kind: ClassVar[str]

    def content(self) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} has no content()")

    @cached_property
    def id(self) -> str:
        text = canonical_json({"kind": self.kind, "version": KIND_VERSION[self.kind], **self.content()})
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True)
class PretrainJob(_Identified):
    """Makes a lab backbone -> `model/`."""

    kind: ClassVar[str] = "pretrain"
    backbone: Backbone

    def content(self) -> dict[str, Any]:
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
        return {"backbone": self.backbone.reference, "domain": identity(self.domain)}

    @property
    def parents(self) -> tuple[str, ...]:
        return self.backbone.parents


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
        return {
            "objective": identity(self.objective),
            "backbone": self.backbone.reference,
            "domain": identity(self.domain),
            "recipe": identity(self.recipe),
            "seed": self.seed,
        }

    @property
    def parents(self) -> tuple[str, ...]:
        return self.backbone.parents


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
            "checkpoint": self.train.id if self.train else self.backbone.reference,
            "benchmark": identity(self.benchmark),
            "prompt": self.domain.prompt,
        }
        if not self.benchmark.path:  # the lab task's held-out questions
            out |= {"lab": identity(self.domain.lab), "generator": lab_generator()}
        return out

    @property
    def parents(self) -> tuple[str, ...]:
        return (self.train.id,) if self.train else self.backbone.parents

    @property
    def checkpoint_id(self) -> str:
        """What is loaded: evaluations that share it can share one model load."""
        return self.train.id if self.train else self.backbone.reference


Job = PretrainJob | PriorJob | TrainJob | EvaluateJob
JOB_TYPES: dict[str, type] = {
    "pretrain": PretrainJob,
    "prior": PriorJob,
    "train": TrainJob,
    "evaluate": EvaluateJob,
}


@cache
def lab_generator() -> str:
    """The package and version that generates lab items: another version may generate others."""
    from importlib.metadata import version

    return f"reasoning-gym {version('reasoning-gym')}"


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
        _check(self.seed >= 0, "seed", self.seed, "must be >= 0")
        _check(
            self.benchmark.domain == self.domain.name,
            "benchmark.domain",
            self.benchmark.domain,
            f"is not the cell's domain={self.domain.name!r}: a benchmark belongs to one domain",
        )

    @cached_property
    def pretrain(self) -> PretrainJob | None:
        return PretrainJob(backbone=self.backbone) if self.backbone.source == "lab" else None

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


# --- plain data in and out ------------------------------------------------------------------------------------------


def to_plain(value: Any) -> Any:
    """A value of this module as JSON data, names and places included (what spec.json holds)."""
    return dataclasses.asdict(value)
