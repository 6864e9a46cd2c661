"""How a job runs, as opposed to what it computes: nothing here is part of a job's identity."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bll_sweeps.errors import ConfigError
from bll_sweeps.grid.resources import ResourceRule

HEADS = ("own", "naive", "torch", "liger", "cut_cross_entropy")
# What has to be installed besides: (setting, choice) -> (what brings it, modules of which one is enough; transformers
# takes attention kernels from `kernels` where their own package is missing).
_NEEDS = {
    ("head", "liger"): ("liger-kernel>=0.8.5", ("liger_kernel",)),
    ("head", "cut_cross_entropy"): ("cut-cross-entropy", ("cut_cross_entropy",)),
    ("attention", "flash_attention_2"): ("flash-attn", ("flash_attn", "kernels")),
    ("attention", "flash_attention_3"): ("FlashAttention-3", ("flash_attn_interface", "kernels")),
}


@dataclass(frozen=True, kw_only=True)
class Execution:
    """May not change a result beyond rounding; recorded as provenance of each attempt.

    head: what computes loss and gradient from hidden states (objectives/heads.py); all but `own` are for comparison.
    micro_batch: rows per forward and backward pass (0: the whole batch), each padded to the longest. packing: lines of
    several sequences instead, about micro_batch_tokens tokens in all. attention: the kernel of a training; all keep
    packed sequences apart, sdpa by a dense mask, the others without one. sharding: the ranks of a training hold a
    part each of weights, gradients and optimizer states, instead of a copy. activation_checkpointing: what layers hold
    is computed again in the backward pass. compile: by torch.compile. eval_batch: generations decoded side by side.
    resources: what the jobs ask of a scheduler (grid/resources.py), over what the site says; default_resources: what
    they ask for where neither it nor the site says otherwise. engine: what generates answers, transformers (the
    reference) or vLLM. vllm_python: the python of vLLM's own environment (constraints-vllm.txt), absolute.
    vllm_gpu_memory: the share of a GPU's memory that it takes; vllm_gpus_per_model: GPUs that share one copy of the
    model (each such group has its own); vllm_context: tokens of prompt and answer together, if fewer than the model
    can have, so that it needs less memory (0: the model's). keep: what stays on disk of a finished training:
    its weights; its weights until all evaluations of it are done; or also the states for resuming.
    """

    name: str
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    threads: int = 1
    head: Literal["own", "naive", "torch", "liger", "cut_cross_entropy"] = "own"
    micro_batch: int = 0
    packing: bool = False
    micro_batch_tokens: int = 16384
    attention: Literal["sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] = "sdpa"
    sharding: bool = False
    activation_checkpointing: bool = False
    compile: bool = False
    eval_batch: int = 256
    engine: Literal["hf", "vllm"] = "hf"
    vllm_python: str = ""
    vllm_gpu_memory: float = 0.9
    vllm_gpus_per_model: int = 1
    vllm_context: int = 0
    checkpoint_every_steps: int = 50
    log_every_steps: int = 10
    keep: Literal["weights", "until_evaluated", "all"] = "weights"
    default_resources: dict[str, ResourceRule] = field(default_factory=dict, hash=False)
    resources: dict[str, ResourceRule] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for key in (
            "threads",
            "eval_batch",
            "micro_batch_tokens",
            "checkpoint_every_steps",
            "log_every_steps",
            "vllm_gpus_per_model",
        ):
            if getattr(self, key) < 1:
                raise ConfigError(key, getattr(self, key), "must be >= 1")
        if self.micro_batch < 0:
            raise ConfigError("micro_batch", self.micro_batch, "must be >= 0")
        if not 0 < self.vllm_gpu_memory <= 1:
            raise ConfigError("vllm_gpu_memory", self.vllm_gpu_memory, "must be above 0 and at most 1")
        if self.vllm_context < 0:
            raise ConfigError("vllm_context", self.vllm_context, "must be >= 0 (0: the model's)")
        if self.engine == "vllm" and not Path(self.vllm_python).expanduser().is_absolute():
            problem = "must be the path of the python of vLLM's environment (constraints-vllm.txt) for engine=vllm"
            raise ConfigError("vllm_python", self.vllm_python, problem)

    def require_gpu_for_attention(self) -> None:
        """ConfigError for a kernel that processors do not have, or not with gradients."""
        if self.attention != "sdpa" and self.device == "cpu":
            problem = "needs a GPU (execution=cuda); on processors there is sdpa"
            raise ConfigError("execution.attention", self.attention, problem)

    def require_installed(self) -> None:
        """ConfigError for a head or an attention whose package is not installed here."""
        for (key, choice), (package, modules) in _NEEDS.items():
            if getattr(self, key) == choice and not any(map(importlib.util.find_spec, modules)):
                problem = f"needs the package {package}, which is not installed here"
                raise ConfigError(f"execution.{key}", choice, problem)

    def require_vllm(self) -> str:
        """vLLM's python. ConfigError if it cannot be run on this machine."""
        python = str(Path(self.vllm_python).expanduser())
        if not (Path(python).is_file() and os.access(python, os.X_OK)):
            problem = "is no program here: it must be the python of vLLM's environment (constraints-vllm.txt)"
            raise ConfigError("execution.vllm_python", self.vllm_python, problem)
        return python


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """Where curves go besides the jsonl on disk. $WANDB_MODE, when set, takes precedence over `wandb`.

    checkpoints: trained models as artifacts too, by reference to where they lie.
    """

    name: str
    wandb: Literal["off", "offline", "online"] = "offline"
    project: str = "bll-sweeps"
    entity: str = ""
    checkpoints: bool = False

    def __post_init__(self) -> None:
        if not is_project(self.project):
            raise ConfigError("project", self.project, PROJECT_RULE)


PROJECT_RULE = "must have 1 to 128 characters, and none of /\\#?%:"


def is_project(name: str) -> bool:
    """Whether W&B takes it as the name of a project."""
    return 0 < len(name) <= 128 and not set(name) & set("/\\#?%:")
