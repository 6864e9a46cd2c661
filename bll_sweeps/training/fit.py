"""The training loop: fixed rows per optimiser step, a loss normalised over the whole step, checkpoints that
resume exactly.

Micro-batches, ranks, attempts and interruptions do not change the result: the rows of a step follow from the seed,
the loss is divided by the tokens of the step over all ranks, and a resumed run ends with the same bits as one that was
never interrupted (CPU, same micro-batch, threads and ranks; with others it differs by rounding).
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bll_sweeps.errors import Interrupted, UsageError
from bll_sweeps.grid.axes import Objective, Recipe
from bll_sweeps.grid.settings import Execution
from bll_sweeps.objectives.family import has_survivor_count, kept
from bll_sweeps.objectives.heads import check_head, head
from bll_sweeps.objectives.objective_loss import Base
from bll_sweeps.training import checkpoint
from bll_sweeps.training.data import Example
from bll_sweeps.training.log import FlopCount, Log, Meter, Work
from bll_sweeps.training.model import check, deterministic, head_weight, hidden_states, use_attention, use_device
from bll_sweeps.training.packing import Batching, DataOrder, MicroBatch, Sequences
from bll_sweeps.training.ranks import SINGLE, Ranks
from bll_sweeps.training.sharding import is_sharded, shard, whole, whole_with_gradient

if TYPE_CHECKING:
    from transformers import PreTrainedModel

QUANTILES = {"p_q05": 0.05, "p_q25": 0.25, "p_q50": 0.5, "p_q75": 0.75, "p_q95": 0.95}
_BEGINNING: dict[str, Any] = {"tokens": 0, "metrics": [], "timing": []}  # what a checkpoint knows besides its tensors
_CHECKED_TOKENS = 16  # of the first sequence, for the start-up check of the model


@dataclass(frozen=True)
class FitResult:
    """Optimiser steps, supervised tokens trained on, and the last metrics row."""

    steps: int
    tokens: int
    final: dict[str, Any]


def fit(
    model: PreTrainedModel,
    examples: list[Example],
    objective: Objective,
    recipe: Recipe,
    seed: int,
    execution: Execution,
    *,
    checkpoints: Path,
    earlier: list[Path],
    metrics: Path,
    timing: Path,
    on_progress: Callable[[int, int], None],
    on_row: Callable[[dict[str, Any]], None],
    ranks: Ranks = SINGLE,
    stop: Callable[[], bool] = lambda: False,
) -> FitResult:
    """Trains `model` in place and leaves it in eval mode; with several (connected) ranks on each of them alike, or each
    with its part of it, with Execution.sharding (sharding.whole_state); rank 0 alone then brings the weights.

    checkpoints: this attempt's folder of checkpoints; earlier: those of earlier attempts, newest first, whose newest
    complete checkpoint is gone on from. metrics, timing: jsonl files, written anew, with the rows up to the
    checkpoint carried over. on_progress(steps done, steps in all) after every step; on_row(row) for every
    metrics row, carried-over ones included, with the columns of its timing row; both on every rank, while rank 0 alone
    writes files. stop() is asked in every step: once it is true on any rank the step is finished and saved, and all
    ranks raise Interrupted (after the last step there is nothing to interrupt). Raises FloatingPointError, naming step,
    objective and learning rate, when a loss or gradient is not finite, and PeerLost when another rank is gone.
    """
    with ranks.operations():
        device, base = _prepare(model, objective, recipe, execution, ranks)
        _check(model, examples[0], objective, recipe, execution, device)
    trainer = _Trainer(model, base, Sequences.of(examples), objective, recipe, execution, device, ranks, stop)
    total = recipe.total_steps(len(examples))
    order = DataOrder(seed, len(examples), recipe)
    found = ranks.broadcast(checkpoint.latest([checkpoints, *earlier]) if ranks.leads else None)
    first, state = 0, _BEGINNING
    if found:
        found.restore(model, trainer.optimizer)
        first, state = found.step, found.state
    meter = Meter(device, recipe, ranks.world_size)
    tokens, log = state["tokens"], Log(metrics, timing, state["metrics"], state["timing"], meter, write=ranks.leads)
    with deterministic(), log, ranks.operations():
        for row, times in zip(log.metrics, log.timing, strict=True):
            on_row(row | times)  # those from before the checkpoint too: a mirror of this attempt is then whole
        on_progress(first, total)
        for step in range(first, total):
            rate = learning_rate(recipe, step, total)
            torch.manual_seed(order.seed(step, ranks.rank))  # for dropout, where a model has any
            outcome = trainer.step(order.rows(step), rate, step)
            tokens += outcome.targets
            done = step + 1
            log.count(outcome.work)
            if done % execution.log_every_steps == 0 or done == total:
                row = {"step": done, "tokens": tokens, "learning_rate": rate, **outcome.statistics(objective, ranks)}
                on_row(log.add(row))
            stopping = outcome.stop and done < total
            due = done % execution.checkpoint_every_steps == 0 and done < total
            if (due or stopping) and (ranks.leads or is_sharded(model)):
                state = {"tokens": tokens, "metrics": log.metrics, "timing": log.timing}
                checkpoint.save(checkpoints, done, model, trainer.optimizer, state, write=ranks.leads)
            on_progress(done, total)
            if stopping:
                raise Interrupted(f"stopped at step {done} of {total} and saved it")
    model.eval()
    return FitResult(steps=total, tokens=tokens, final=dict(log.metrics[-1]))


# --- one step -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Outcome:
    """One optimiser step, seen before its update: log p of the supervised tokens of this rank; over all ranks the loss,
    the gradient's norm, the number of supervised tokens, what was computed, and whether any was asked to stop.
    """

    logps: list[Tensor]
    loss: float
    grad_norm: float
    targets: int
    work: Work
    stop: bool

    def statistics(self, objective: Objective, ranks: Ranks) -> dict[str, float]:
        """The columns of a metrics row that describe the step's tokens: nll in nats, p over tokens."""
        logp = ranks.gather(torch.cat(self.logps))
        p = logp.exp().double()
        quantiles = torch.quantile(p, torch.tensor(list(QUANTILES.values()), dtype=p.dtype, device=p.device))
        return {
            "objective": self.loss,
            "nll": -logp.mean(dtype=torch.float64).item(),
            "mean_p": p.mean().item(),
            **dict(zip(QUANTILES, quantiles.tolist(), strict=True)),
            "grad_norm": self.grad_norm,
            "kept_fraction": kept(objective, logp).double().mean().item(),
        }


class _Trainer:
    """Model, the one that an anchor holds it to, data and optimizer; a step of them."""

    def __init__(
        self,
        model: PreTrainedModel,
        base: PreTrainedModel | None,
        sequences: Sequences,
        objective: Objective,
        recipe: Recipe,
        execution: Execution,
        device: torch.device,
        ranks: Ranks,
        stop: Callable[[], bool],
    ):
        self._flops = FlopCount(model)
        self.optimizer = make_optimizer(model, recipe)
        self._model, self._base, self._sequences = model, base, sequences
        self._objective, self._recipe, self._head = objective, recipe, head(execution.head, objective)
        self._batching, self._device = batching(execution), device
        self._ranks, self._stop, self._sharded = ranks, stop, is_sharded(model)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._places = 0  # of this rank's micro-batches in this step

    def step(self, rows: np.ndarray, rate: float, step: int) -> _Outcome:
        """One update from the step's rows, of which each rank computes its share. Gradients are of (sum of f) /
        (tokens or survivors of the whole step, over all ranks), or what Recipe.gradient says.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self._places, targets = 0, int(self._sequences.supervised[rows].sum())
        authors = self._recipe.gradient == "authors"
        survivors = has_survivor_count(self._objective) and not authors
        denominator = 1 if survivors else targets
        value, logps = self._authors_gradients(rows) if authors else self._gradients(rows, denominator)
        kept_here = sum(int(kept(self._objective, logp).sum()) for logp in logps) if survivors else 0
        # In one go, and before the gradients: this is where a lost peer is noticed at once (see Ranks.sum).
        trained_here = [p.grad is not None for p in self._parameters]
        value, kept_tokens, places, stops, *trained = self._ranks.sum(
            [value, kept_here, self._places, self._stop(), *trained_here]
        )
        if not self._sharded:  # else that is done already
            self._ranks.sum_gradients([p for p, somewhere in zip(self._parameters, trained, strict=True) if somewhere])
        if survivors:
            # The survivors are known only now; the gradient is linear in 1 / denominator.
            count = max(1, kept_tokens)
            value /= count
            torch._foreach_mul_([p.grad for p in self._parameters if p.grad is not None], 1.0 / count)
        norm = whole(torch.nn.utils.clip_grad_norm_(self._parameters, self._recipe.clip_norm)).item()
        if not (math.isfinite(value) and math.isfinite(norm)):
            place = f"at step {step + 1} (objective={self._objective.name}, learning_rate={rate:.4g})"
            raise FloatingPointError(
                f"loss {value} and gradient norm {norm} {place}: a lower recipe.learning_rate may help"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        read, squares = self._sequences.input_tokens(rows), self._sequences.squared_inputs(rows)
        return _Outcome(
            logps, value, norm, targets, Work(read, int(places), self._flops(read, targets, squares)), stops > 0
        )

    def _gradients(self, rows: np.ndarray, denominator: int) -> tuple[float, list[Tensor]]:
        """Leaves the gradients of this rank's share of the rows in the parameters. Returns its part of the loss and
        the log p of its supervised tokens; without rows there are none of either.
        """
        losses, logps = [], [self._no_logp()]
        for batch in self._batches(rows):
            loss, logp = self._loss(batch, denominator)
            loss.backward()
            losses.append(loss.detach())
            logps.append(logp)
        return torch.stack(losses).sum().item() if losses else 0.0, logps

    def _batches(self, rows: np.ndarray) -> Iterator[MicroBatch]:
        """This rank's micro-batches of the step. The ranks of a sharded model have equally many, since each takes part
        in every forward and backward pass of the others.
        """
        world = self._ranks.world_size
        of_ranks = [self._sequences.share(rows, rank, world) for rank in range(world)]
        mine = of_ranks[self._ranks.rank]
        for _, batch in self._sequences.micro_batches(mine, self._batching, self._device):
            yield batch
        if self._sharded:
            counts = [len(self._sequences.lines(of, self._batching)) for of in of_ranks]
            yield from self._fill(max(counts) - counts[self._ranks.rank])

    def _fill(self, count: int) -> Iterator[MicroBatch]:
        yield from (self._sequences.nothing(self._device) for _ in range(count))

    def _authors_gradients(self, rows: np.ndarray) -> tuple[float, list[Tensor]]:
        """As _gradients, by Recipe.gradient=authors: row i of the step is rank i % ranks', and of a rank's rows each
        micro_batch in turn has a loss of its own, the mean over its (kept) tokens. Gradients are of their sum divided
        by the number of ranks; the value is their mean, which compares with other recipes'.
        """
        recipe, losses, logps = self._recipe, [0.0], [self._no_logp()]
        of_ranks = [rows[rank :: recipe.ranks] for rank in range(recipe.ranks)]
        size = recipe.micro_batch
        groups = [of[start : start + size] for of in of_ranks for start in range(0, len(of), size)]
        mine = groups[self._ranks.rank :: self._ranks.world_size]
        missing = len(groups[:: self._ranks.world_size]) - len(mine) if self._sharded else 0
        for batch in itertools.chain((self._sequences.micro_batch(g, self._device) for g in mine), self._fill(missing)):
            loss, logp = self._loss(batch, 1)
            mean = loss / max(1, int(kept(self._objective, logp).sum()))
            (mean / recipe.ranks).backward()
            losses.append(mean.item() / len(groups))
            logps.append(logp)
        return math.fsum(losses), logps

    def _loss(self, batch: MicroBatch, denominator: float) -> tuple[Tensor, Tensor]:
        """(sum of f over the batch's targets / denominator, their log p)."""
        self._places += batch.inputs.numel()
        base = None
        if self._base is not None:
            with torch.no_grad():
                hidden, table = self._hidden_and_head(self._base, batch)
                base = Base(hidden, table.to(hidden.dtype))
        hidden, table = self._hidden_and_head(self._model, batch)
        return self._head(hidden, table, batch.targets, self._objective, denominator, base=base)

    def _hidden_and_head(self, model: PreTrainedModel, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        with autocast(self._device, self._recipe):
            hidden = hidden_states(model, batch)
        # The head takes float32 weights as they are: the gradient of a bfloat16 copy would be rounded to that.
        hidden = hidden.bfloat16() if self._recipe.dtype == "bfloat16" else hidden
        return hidden, whole_with_gradient(head_weight(model))

    def _no_logp(self) -> Tensor:
        dtype = torch.float64 if self._recipe.dtype == "float64" else torch.float32
        return torch.empty(0, dtype=dtype, device=self._device)


# --- optimiser and schedule ---------------------------------------------------------------------------------


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer; weight decay only on matrices, not on biases and norms."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.eps, fused=True)


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """The rate of `step` (counted from 0): linear warm-up to the recipe's rate, then its schedule down to the
    final fraction.
    """
    warmup = math.ceil(recipe.warmup_fraction * total)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / (total - warmup)
    share = {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress))}[
        recipe.schedule
    ]
    low = 1.0 if recipe.schedule == "constant" else recipe.final_lr_fraction
    return recipe.learning_rate * (low + (1.0 - low) * share)


# --- surroundings -------------------------------------------------------------------------------------------


def autocast(device: torch.device, recipe: Recipe) -> contextlib.AbstractContextManager[Any]:
    """What the model computes in; its weights stay float32."""
    if recipe.dtype == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def batching(execution: Execution) -> Batching:
    if not execution.packing:
        return Batching(rows=execution.micro_batch)
    return Batching(packed=True, tokens=execution.micro_batch_tokens, one_line=execution.attention != "sdpa")


def _check(
    model: PreTrainedModel,
    example: Example,
    objective: Objective,
    recipe: Recipe,
    execution: Execution,
    device: torch.device,
) -> None:
    """UsageError for a model, an attention or a head that would not compute what it should."""
    with autocast(device, recipe):
        check(model, list(example.input_ids[:_CHECKED_TOKENS]), packed=batching(execution).packed)
    check_head(execution.head, objective, device, getattr(torch, recipe.dtype))


def _prepare(
    model: PreTrainedModel, objective: Objective, recipe: Recipe, execution: Execution, ranks: Ranks
) -> tuple[torch.device, PreTrainedModel | None]:
    """Puts the model on its device, to train, and beside it the one that an anchor holds it to: whole, or this rank's
    part. bfloat16 computes in bfloat16 on float32 master weights.
    """
    if execution.attention.startswith("flash") and recipe.dtype != "bfloat16":
        raise UsageError(f"execution.attention={execution.attention!r} needs recipe.dtype=bfloat16, not {recipe.dtype}")
    head_weight(model)  # it must have one
    device = use_device(execution, ranks)
    if execution.attention != "sdpa" and device.type == "cpu":
        raise UsageError(f"execution.attention={execution.attention!r} needs a GPU, and torch sees none here")
    model.to(torch.float64 if recipe.dtype == "float64" else torch.float32)
    use_attention(model, execution.attention)
    base = copy.deepcopy(model).requires_grad_(False).eval() if objective.anchor else None
    for one in (model, base) if base is not None else (model,):
        if execution.sharding and ranks.world_size > 1:
            shard(one, device, ranks, torch.bfloat16 if recipe.dtype == "bfloat16" else None)
        else:
            one.to(device)
        if execution.compile:
            one.base_model.compile(dynamic=True)  # lines of a step are of another length each
    if execution.activation_checkpointing:
        model.activation_checkpointing_enable()
    model.train()
    return device, base
