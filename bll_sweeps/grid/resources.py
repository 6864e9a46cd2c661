"""What a job asks of a scheduler: rules, matched against its kind and the size of its backbone; later ones win.

First come those that an execution brings along (`execution.default_resources`), then the site's, in its launcher file
(`hydra.launcher.resources`), and last the experiment's own (`execution.resources`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bll_sweeps.errors import ConfigError, one_of
from bll_sweeps.grid.cell import KINDS


@dataclass(frozen=True, kw_only=True)
class ResourceRule:
    """Says some of a job's resources. It applies to the `kinds` it names (none: all) and to backbones of more than
    `above_billion` parameters.

    gpus, tasks, cpus and memory_gib are per node; `tasks` are the ranks of a training (default: one per GPU), and
    `cpus` are per task. `memory_gib: 0` asks for none, where a site gives memory by the core. `gpu_type` is the site's
    name of the model; `gres` is for anything but GPUs.
    """

    kinds: tuple[str, ...] = ()
    above_billion: float = 0.0
    gpus: int | None = None
    nodes: int | None = None
    tasks: int | None = None
    cpus: int | None = None
    memory_gib: float | None = None
    time_min: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpu_type: str | None = None
    gres: str | None = None

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError("kinds", kind, one_of(KINDS, kind))
        if self.above_billion < 0:
            raise ConfigError("above_billion", self.above_billion, "must be >= 0")
        least = {"gpus": 0, "nodes": 1, "tasks": 1, "cpus": 1, "time_min": 1}
        for key, low in least.items():
            value = getattr(self, key)
            if value is not None and value < low:
                raise ConfigError(key, value, f"must be >= {low}")
        if "gpu" in (self.gres or ""):
            raise ConfigError("gres", self.gres, "must not name GPUs: say gpus and gpu_type instead")
        if self.memory_gib is not None and not self.memory_gib >= 0:
            raise ConfigError("memory_gib", self.memory_gib, "must be >= 0 (0: ask for none)")

    def applies(self, kind: str, parameters: int) -> bool:
        over = parameters > self.above_billion * 1e9 if self.above_billion else True
        return over and (not self.kinds or kind in self.kinds)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The resources of one job, all rules applied. Empty strings and None: the scheduler's own default."""

    gpus: int = 0
    nodes: int = 1
    tasks: int = 1
    cpus: int = 1
    memory_gib: float | None = None
    time_min: int = 60
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gpu_type: str = ""
    gres: str = ""

    @property
    def ranks(self) -> int:
        """Processes of the job."""
        return self.nodes * self.tasks

    @property
    def all_gpus(self) -> int:
        return self.nodes * self.gpus

    def asked(self) -> dict[str, object]:
        """What is asked for; of the rest the scheduler decides."""
        return {key: value for key, value in vars(self).items() if value not in ("", None, 0)}


def shape_of(kind: str, parameters: int, *rules: Mapping[str, ResourceRule]) -> Shape:
    """The resources of a job of `kind` on a backbone of `parameters` parameters. Only trainings have several ranks."""
    values: dict[str, object] = {}
    for rule in (rule for group in rules for rule in group.values() if rule.applies(kind, parameters)):
        values |= {f.name: value for f in dataclasses.fields(Shape) if (value := getattr(rule, f.name)) is not None}
    values["memory_gib"] = values.get("memory_gib") or None
    if kind not in ("pretrain", "train"):
        values |= {"tasks": 1, "nodes": 1}
    elif "tasks" not in values:
        values["tasks"] = max(1, int(str(values.get("gpus", 0))))
    return Shape(**values)  # type: ignore[arg-type]


def most_gpus(shapes: Iterable[Shape]) -> int:
    """GPUs of the largest of the jobs, on one node."""
    return max((shape.gpus for shape in shapes), default=0)
