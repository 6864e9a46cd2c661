"""What a sweep's dashboards show, as plain data: which metrics, over which axis, under which title.

The workspace and the report are both made from these (dashboard.py); titles are those of the figures. Each panel says
of which kind of job its runs are ('': of every kind), as far as they have its metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bll_sweeps.store.metrics import CURVES, SCORES, TIMING, TRAINING
from bll_sweeps.tracking.names import (
    BACKBONE,
    BENCHMARK,
    HISTOGRAMS,
    OBJECTIVE,
    PRIOR_STRENGTH,
    QUESTIONS,
    REGION,
    SCORE,
    SCORE_STDERR,
    STEP,
    TOKENS,
    curve,
    score,
    table,
)

# Axes that W&B itself provides: rows (a histogram is one row), and seconds, the only one that system metrics have.
ROW, SECONDS = "_step", "_runtime"
# What wandb 0.31 samples every 15 s, by the names that its charts use; nodes without GPUs lack the latter.
SYSTEM = {
    "system/cpu": "CPU of the process (%)",
    "system/proc.memory.rssMB": "memory of the process (MB)",
    "system/memory_percent": "memory of the node in use (%)",
}
GPUS = 8  # of a node
GPU = {
    "gpu": "GPU utilisation (%)",
    "memoryAllocated": "GPU memory allocated (%)",
    "powerWatts": "GPU power (W)",
}
# Columns of the table of runs; of a metric of the summary by its name.
COLUMNS = (SCORE, SCORE_STDERR, QUESTIONS, PRIOR_STRENGTH, REGION)


@dataclass(frozen=True)
class Lines:
    """Curves over `x`, the mean of the runs of each `by` with the range they span; `by` None: each run for itself."""

    title: str
    metrics: tuple[str, ...]
    x: str = STEP
    by: str | None = OBJECTIVE
    ceiling: float | None = None
    kind: str = "train"


@dataclass(frozen=True)
class Bars:
    """A bar per `by`: the mean of its runs, with the range they span."""

    title: str
    metrics: tuple[str, ...]
    by: str = OBJECTIVE
    ceiling: float | None = None
    kind: str = "evaluate"


@dataclass(frozen=True)
class Scatter:
    """A point per run."""

    title: str
    x: str
    y: str
    kind: str = "evaluate"

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.x, self.y)


@dataclass(frozen=True)
class Parallel:
    """A line per run through some of its configuration and then through its metrics."""

    title: str
    config: tuple[str, ...]
    metrics: tuple[str, ...]
    kind: str = "evaluate"


@dataclass(frozen=True)
class Rows:
    """A table that the runs logged."""

    title: str
    metric: str
    kind: str = "evaluate"

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,)


@dataclass(frozen=True)
class Differences:
    """In what the runs' configurations and results differ."""

    title: str = "differences"
    metrics: tuple[str, ...] = ()
    kind: str = ""


Panel = Lines | Bars | Scatter | Parallel | Rows | Differences


@dataclass(frozen=True)
class Sweep:
    """What the dashboards have to know of a sweep.

    benchmarks: the decoding that counts, by benchmark. runs: the objective of each job by its id, which starts with its
    kind; '' of jobs that are of none. colours: as in the figures, by objective.
    """

    name: str
    benchmarks: Mapping[str, str]
    runs: Mapping[str, str] = field(default_factory=dict)
    colours: Mapping[str, str] = field(default_factory=dict)


def metrics_of(panels: Iterable[Panel]) -> set[str]:
    """Every metric that the panels refer to, axes included, W&B's own axes left out."""
    panels = list(panels)
    axes = {panel.x for panel in panels if isinstance(panel, Lines)} - {ROW, SECONDS}
    return axes | {metric for panel in panels for metric in panel.metrics}


def sections(sweep: Sweep) -> dict[str, list[Panel]]:
    """The workspace's sections, in order."""
    return {
        "Grid": grid(),
        "Training dynamics": training() + by_tokens(),
        "Probabilities": probabilities(),
        "Benchmark scores": [*scores(sweep), *answers(sweep)],
        "System": system(),
    }


def continuum() -> Scatter:
    return Scatter("score against prior strength", PRIOR_STRENGTH, SCORE)


def by_objective() -> Bars:
    return Bars("score by objective", (SCORE,), OBJECTIVE, SCORES["mean"].ceiling)


def grid() -> list[Panel]:
    axes = (OBJECTIVE, BACKBONE, BENCHMARK)
    return [
        continuum(),
        by_objective(),
        Bars("score by backbone", (SCORE,), BACKBONE, SCORES["mean"].ceiling),
        Bars("prior strength by backbone", (PRIOR_STRENGTH,), BACKBONE, 1.0, kind=""),
        Parallel("objective, backbone, benchmark, score", axes, (PRIOR_STRENGTH, SCORE)),
        Differences(),
    ]


def training() -> list[Panel]:
    """The figures' curves first."""
    keys = [*CURVES, *(key for key in TRAINING if key not in CURVES and not _is_quantile(key))]
    return [_training(key) for key in keys]


def by_tokens() -> list[Panel]:
    return [Lines(f"{TRAINING[key].title}, by tokens", (curve(key),), TOKENS, ceiling=_top(key)) for key in CURVES[:2]]


def before_training() -> list[Panel]:
    """p of the target tokens under the base models."""
    return [
        Lines("p under the base model, clean answers", (HISTOGRAMS["clean"],), ROW, None, kind="prior"),
        Lines("p under the base model, answers as trained on", (HISTOGRAMS["as_trained"],), ROW, None, kind="prior"),
        Bars("mean p under the base model, clean answers", ("prior/clean/mean_p",), BACKBONE, 1.0, "prior"),
        Bars("NLL under the base model, clean answers (nats)", ("prior/clean/nll",), BACKBONE, kind="prior"),
    ]


def probabilities() -> list[Panel]:
    """Of the target tokens: under the base models, then while training."""
    return [*before_training(), *(_training(key) for key in TRAINING if _is_quantile(key))]


def scores(sweep: Sweep) -> list[Panel]:
    """A bar panel per benchmark, by the decoding that counts."""
    return [
        Bars(f"{name}: {SCORES['mean'].title}", (score(name, decoding),), OBJECTIVE, SCORES["mean"].ceiling)
        for name, decoding in sweep.benchmarks.items()
    ]


def answers(sweep: Sweep) -> list[Panel]:
    return [Rows(f"{name}: answers", table(name)) for name in sweep.benchmarks]


def system() -> list[Panel]:
    ours: list[Panel] = [Lines(metric.title, (curve(key),)) for key, metric in TIMING.items()]
    node: list[Panel] = [Lines(title, (key,), SECONDS, None, kind="") for key, title in SYSTEM.items()]
    gpus: list[Panel] = [
        Lines(title, tuple(f"system/gpu.{i}.{key}" for i in range(GPUS)), SECONDS, None, kind="")
        for key, title in GPU.items()
    ]
    return [*ours, *node, *gpus]


def _training(key: str) -> Lines:
    return Lines(TRAINING[key].title, (curve(key),), ceiling=_top(key))


def _top(key: str) -> float | None:
    return TRAINING[key].ceiling


def _is_quantile(key: str) -> bool:
    return key.startswith("p_q")
