"""The axes of a cell as values: objective, backbone, domain, benchmark, recipe, and what of them is identity.

Every value is a frozen dataclass that rejects what it cannot mean. Fields marked with `label()` - names and places -
are carried along but are no part of a job's identity; fields marked with `computed()` are found out, never configured;
`derived()` ones are neither identity nor configured.
No torch, no Hydra: planning and analysis import this module.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from bll_sweeps.errors import ConfigError, one_of

# --- identity ---------------------------------------------------------------------------------------------------------


def label(**kwargs: Any) -> Any:
    """A dataclass field that is not part of a job's identity: a name, or the place where data lie."""
    return field(metadata={"identity": False}, **kwargs)


def computed(**kwargs: Any) -> Any:
    """A field that is found out (a digest, a definition looked up by name), never configured."""
    return field(metadata={"computed": True}, **kwargs)


def derived(**kwargs: Any) -> Any:
    """A field that follows from the others and only says how large things are: neither identity nor configured."""
    return field(metadata={"identity": False, "computed": True}, **kwargs)


def check(ok: bool, key: str, value: object, needed: str) -> None:
    if not ok:
        raise ConfigError(key, value, needed)


def _positive(value: object, *keys: str) -> None:
    for key in keys:
        number = getattr(value, key)
        check(math.isfinite(number) and number > 0, key, number, "must be finite and greater than 0")


def _fraction(value: object, *keys: str) -> None:
    for key in keys:
        number = getattr(value, key)
        check(0.0 <= number <= 1.0, key, number, "must lie in [0, 1]")


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


@cache
def lab_generator() -> str:
    """The package and version that generates lab items: another version may generate others."""
    from importlib.metadata import version

    return f"reasoning-gym {version('reasoning-gym')}"


def lab_vocabulary(tasks: dict[str, LabTask]) -> int:
    """Tokens of the lab's tokenizer (lab/tokenizer.py): pad, eos, 256 bytes, a piece of the prompt and one a task.

    Exact for the tasks of conf/lab. Others may have a piece more or none, which their items would have to be generated
    to tell: some hundred weights, for what only estimates need.
    """
    return 2 + 256 + 1 + len(tasks)


def to_plain(value: Any) -> Any:
    """A value of this module as JSON data, names and places included (what spec.json holds)."""
    return dataclasses.asdict(value)


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
        check(math.isfinite(self.alpha), "alpha", self.alpha, "must be finite")
        check(self.alpha >= 0, "alpha", self.alpha, "must be >= 0 (a negative alpha has unbounded gradients)")
        if self.family == "convexity":
            check(self.alpha > 0, "alpha", self.alpha, "must be > 0 for family=convexity (it divides by alpha)")
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
        check(
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            "weight_decay",
            self.weight_decay,
            "must be finite and >= 0",
        )
        check(self.steps >= 0, "steps", self.steps, "must be >= 0 (0: from epochs)")
        check(
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
        check(
            self.hidden_size % self.heads == 0,
            "hidden_size",
            self.hidden_size,
            f"must be a multiple of heads={self.heads}",
        )
        check(
            self.heads % self.kv_heads == 0,
            "heads",
            self.heads,
            f"must be a multiple of kv_heads={self.kv_heads}",
        )

    def parameters(self, vocabulary: int) -> int:
        """Weights of the model over `vocabulary` tokens: query, key and value have biases, embeddings are tied."""
        hidden, inner = self.hidden_size, self.intermediate_size
        key_value = hidden // self.heads * self.kv_heads
        attention = 2 * hidden * hidden + hidden + 2 * (hidden * key_value + key_value)  # q and o; k and v
        layer = attention + 3 * hidden * inner + 2 * hidden  # gate, up and down; two norms
        return vocabulary * hidden + self.layers * layer + hidden


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """How a lab backbone is made: `exposure` counts the pretraining items of each lab task."""

    shape: ModelShape
    exposure: dict[str, int]
    recipe: Recipe
    max_length: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        check(self.seed >= 0, "seed", self.seed, "must be >= 0")
        _positive(self, "max_length")
        for task, items in self.exposure.items():
            check(items >= 0, f"exposure.{task}", items, "must be >= 0 items")
        check(
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
    parameters: int = derived(default=0)  # weights of the model, 0 if unknown; of a lab backbone it follows here

    def __post_init__(self) -> None:
        if self.source == "lab":
            if self.pretraining is None:
                raise ConfigError("pretraining", None, "must be given for source=lab")
            for task in self.pretraining.exposure:
                check(task in self.tasks, "pretraining.exposure", task, one_of(self.tasks, task))
            object.__setattr__(self, "parameters", self.pretraining.shape.parameters(lab_vocabulary(self.tasks)))
        else:
            check(bool(self.path), "path", self.path, "must name a local model directory for source=directory")


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Label noise of the demonstrations: which share of the answers is wrong, and how.

    uniform: the answer of another question, any of them. imbalanced: the answer of another question out of a few that
    recur (1/rank), so that the wrong answers look alike. missing: an empty answer.
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
        check(self.seed >= 0, "seed", self.seed, "must be >= 0")
        check(self.rows >= 0, "rows", self.rows, "must be >= 0")
        check("{question}" in self.prompt, "prompt", self.prompt, "must contain {question}")
        check("{answer}" in self.response, "response", self.response, "must contain {answer}")
        if self.source == "lab":
            check(self.rows > 0, "rows", self.rows, "must be > 0 for source=lab")
        else:
            check(bool(self.path), "path", self.path, "must name a jsonl file for source=jsonl")

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
        check(
            math.isfinite(self.temperature) and self.temperature >= 0,
            "temperature",
            self.temperature,
            "must be finite and >= 0",
        )
        _positive(self, "samples")
        check(
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
        check(self.questions >= 0, "questions", self.questions, "must be >= 0 (0: all)")
        check(bool(self.decodings), "decodings", self.decodings, "must name at least one decoding")
        check(self.primary in self.decodings, "primary", self.primary, one_of(self.decodings, self.primary))

    def identity(self) -> dict[str, Any]:
        """The grader is not in it: scores are a derived record, keyed by grader and version."""
        out = fields_identity(self)
        del out["grader"]
        return out
