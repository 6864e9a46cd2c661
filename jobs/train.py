"""`train`: fine-tunes a backbone on a domain with one objective -> checkpoint."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bll_sweeps.grid.axes import Objective, Recipe
from bll_sweeps.grid.cell import TrainJob
from jobs import Result
from jobs.context import JobContext

if TYPE_CHECKING:
    from bll_sweeps.training.data import TrainingSet

log = logging.getLogger("bll")
_LENGTHS = "%d sequences of %.0f tokens, at most %d; %s"
_LINE = "step %d: objective %.4f, nll %.4f, mean p %.4f, kept %.3f; %.0f tokens/s, %.0f %% padding"


def run(job: TrainJob, context: JobContext) -> Result:
    from bll_sweeps.training.model import load_checkpoint

    # Where the ranks hold a part each, it is rank 0 that reads the whole.
    weights = context.ranks.leads or not context.spec.execution.sharding
    model, tokenizer = load_checkpoint(context.backbone_folder(job.backbone), weights=weights)
    data = context.training_set(job.domain, tokenizer)
    objective = _at_quantile(job, context) if job.objective.needs_prior else job.objective
    return fit_and_save(context, model, tokenizer, data, objective, job.recipe, job.seed)


def _at_quantile(job: TrainJob, context: JobContext) -> Objective:
    """The objective with its threshold where the prior job found the quantile."""
    quantile = job.objective.threshold_quantile
    threshold = context.parent_result(job.prior.id)["as_trained"]["quantiles"][str(quantile)]
    log.info("threshold %.6g: quantile %g of p under the base model", threshold, quantile)
    return replace(job.objective, threshold=threshold, threshold_quantile=None)


def fit_and_save(
    context: JobContext,
    model: Any,
    tokenizer: Any,
    data: TrainingSet,
    objective: Objective,
    recipe: Recipe,
    seed: int,
) -> Result:
    """Trains from the newest checkpoint of earlier attempts, saves `model/` and the curves."""
    from bll_sweeps.training.fit import fit
    from bll_sweeps.training.model import save_model
    from bll_sweeps.training.sharding import whole_state

    attempt = context.attempt

    def on_row(row: dict[str, Any]) -> None:
        context.mirror.log(row)
        told = (row[key] for key in ("step", "objective", "nll", "mean_p", "kept_fraction", "tokens_per_s"))
        log.info(_LINE, *told, 100 * row.get("padding", math.nan))  # rows of an earlier version tell none

    lengths, execution = data.tokens, context.spec.execution
    packed = execution.packing and recipe.gradient != "authors"  # whose micro-batches are their own
    layout = f"packed, about {execution.micro_batch_tokens} tokens at once" if packed else "padded"
    log.info(_LENGTHS, len(data.examples), lengths["mean"], lengths["longest"], layout)
    fitted = fit(
        model,
        data.examples,
        objective,
        recipe,
        seed,
        execution,
        checkpoints=attempt.checkpoints,
        earlier=[a.checkpoints for a in context.earlier],
        metrics=attempt.output("metrics.jsonl"),
        timing=attempt.output("timing.jsonl"),
        on_progress=context.step,
        on_row=on_row,
        ranks=context.ranks,
        stop=context.stop,
    )
    with context.ranks.operations():
        state = whole_state(model, keep=context.ranks.leads)
    if context.ranks.leads:
        save_model(model, tokenizer, attempt.output("model"), state)
    parameters = sum(p.numel() for p in model.parameters())
    result = {
        "steps": fitted.steps,
        "tokens": fitted.tokens,
        "rows_cut": data.lost["cut"],
        "rows_dropped": data.lost["dropped"],
        "sequence_tokens": lengths,
        **({} if objective.keep == "all" else {"threshold": objective.threshold}),
        "parameters": parameters,
        "final": fitted.final,
    }
    return Result(result, ["model", "metrics.jsonl"])
