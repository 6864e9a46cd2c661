"""How a job runs, as opposed to what it computes: nothing here is part of a job's identity."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bll_sweeps.errors import ConfigError
from bll_sweeps.grid.resources import ResourceRule


@dataclass(frozen=True, kw_only=True)
class Execution:
    """May not change a result beyond rounding; recorded as provenance of each attempt.

    micro_batch: rows per forward and backward pass (0: the whole batch). eval_batch: generations decoded side by side.
    resources: what the jobs ask of a scheduler (grid/resources.py), over what the site says; default_resources: what
    they ask for where neither it nor the site says otherwise. keep: what stays on disk of a finished training:
    its weights; its weights until all evaluations of it are done; or also the states for resuming.
    """

    name: str
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    threads: int = 1
    micro_batch: int = 0
    eval_batch: int = 256
    checkpoint_every_steps: int = 50
    log_every_steps: int = 10
    keep: Literal["weights", "until_evaluated", "all"] = "weights"
    default_resources: dict[str, ResourceRule] = field(default_factory=dict, hash=False)
    resources: dict[str, ResourceRule] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for key in ("threads", "eval_batch", "checkpoint_every_steps", "log_every_steps"):
            if getattr(self, key) < 1:
                raise ConfigError(key, getattr(self, key), "must be >= 1")
        if self.micro_batch < 0:
            raise ConfigError("micro_batch", self.micro_batch, "must be >= 0")


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """Where curves go besides the jsonl on disk. $WANDB_MODE, when set, takes precedence over `wandb`."""

    name: str
    wandb: Literal["off", "offline", "online"] = "offline"
    project: str = "bll-sweeps"
    entity: str = ""
