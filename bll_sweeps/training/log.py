"""What a training writes as it goes: metrics.jsonl, what its steps were like (the same bytes for every run of a job),
and timing.jsonl, how fast it went and what it took.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch

from bll_sweeps.grid.axes import Recipe
from bll_sweeps.grid.cost import GPUS
from bll_sweeps.training.model import head_weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Work:
    """What steps computed, over all ranks. tokens: that the model read, prompts included and padding not; places: with
    padding; flops: what the tokens need (FlopCount).
    """

    tokens: int = 0
    places: int = 0
    flops: float = 0.0

    def __iadd__(self, other: Work) -> Work:
        self.tokens += other.tokens
        self.places += other.places
        self.flops += other.flops
        return self


class FlopCount:
    """Floating point operations that training a dense transformer on its tokens needs, as MFU counts them (Chowdhery
    et al. 2022, appendix B): 2 per parameter and token forward, as many for the gradients of activations, and as many
    again for the gradients of weights that are trained. What is computed anew (activation checkpointing), an anchor's
    base model and padding are not counted, the head for tokens with a target only, attention as a causal mask leaves
    it. Of a model with experts, or with another attention than full one, it is too much.
    """

    def __init__(self, model: PreTrainedModel):
        config = model.config.get_text_config()
        tables = [model.get_input_embeddings().weight, head_weight(model)]
        inner = [p for p in model.parameters() if all(p is not table for table in tables)]
        self._token = sum(p.numel() * (6 if p.requires_grad else 4) for p in inner)
        self._target = tables[1].numel() * (6 if tables[1].requires_grad else 4)
        heads = getattr(config, "num_attention_heads", 0)  # none: no attention
        width = heads * (getattr(config, "head_dim", None) or config.hidden_size // max(1, heads))
        self._pair = 3 * 2 * config.num_hidden_layers * width  # 4 x width forward, halved by the mask

    def __call__(self, tokens: int, targets: int, squares: int) -> float:
        """squares: the sum of the squared lengths of sequences."""
        return float(self._token * tokens + self._target * targets + self._pair * squares)


class Meter:
    """The columns of timing.jsonl of one training on `world_size` devices like this one."""

    def __init__(self, device: torch.device, recipe: Recipe, world_size: int):
        self._device, self._world = device, world_size
        self._peak = peak_bf16_flops(device) if recipe.dtype == "bfloat16" else 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def columns(self, work: Work, seconds: float) -> dict[str, float]:
        """Of the steps since the last row; `seconds` has the saving of checkpoints in it. peak_memory_gib is of this
        rank, until now: what tensors took on its GPU, or on a CPU its whole process, which may have run other jobs
        before. mfu: in bfloat16 on GPUs of a known peak.
        """
        seconds = max(seconds, 1e-9)
        out = {
            "tokens_per_s": round(work.tokens / seconds, 1),
            "tokens_per_s_per_device": round(work.tokens / seconds / self._world, 1),
            "padding": round(1 - work.tokens / work.places, 4) if work.places else 0.0,
            "peak_memory_gib": round(self._peak_memory() / 2**30, 3),
            "model_tflops": round(work.flops / seconds / self._world / 1e12, 6),
        }
        return out | ({"mfu": round(work.flops / seconds / self._world / self._peak, 4)} if self._peak else {})

    def _peak_memory(self) -> float:
        if self._device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self._device))
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else used * 1024.0


def peak_bf16_flops(device: torch.device) -> float:
    """Of its data sheet, dense, in bfloat16; 0 where it is not known, as for slower variants of the same name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = re.search(rf"\b({'|'.join(GPUS)})\b", name.lower())
    if known is None or re.search(r"\b(nvl|mig|h100 pcie)\b", name.lower()):
        return 0.0
    return GPUS[known[1]].peak_bf16_flops


class Log:
    """Both files, carried over a resume; only kept in memory unless `write`."""

    def __init__(
        self,
        metrics: Path,
        timing: Path,
        rows: list[dict[str, Any]],
        times: list[dict[str, Any]],
        meter: Meter,
        *,
        write: bool,
    ):
        self.metrics, self.timing = [*rows], [*times]
        self._meter, self._work = meter, Work()
        self._paths = (metrics, timing) if write else ()
        self._files: list[TextIO] = []
        self._clock = time.perf_counter()
        self._elapsed = times[-1]["elapsed_s"] if times else 0.0

    def __enter__(self) -> Log:
        for path, rows in zip(self._paths, (self.metrics, self.timing), strict=False):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files.append(path.open("w", encoding="utf-8"))
            self._files[-1].writelines(_line(row) for row in rows)
        self._clock = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def count(self, work: Work) -> None:
        """Of a step."""
        self._work += work

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Writes the row, and beside it the time since the last one. Returns both as one row, for a mirror."""
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        self._elapsed += seconds
        times = {"step": row["step"], "elapsed_s": round(self._elapsed, 4), **self._meter.columns(self._work, seconds)}
        self._work = Work()
        self.metrics.append(row)
        self.timing.append(times)
        for file, new in zip(self._files, (row, times), strict=False):
            file.write(_line(new))
            file.flush()
        return row | times


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, allow_nan=False) + "\n"
