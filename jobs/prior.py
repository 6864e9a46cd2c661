"""`prior`: how probable the base model finds the training targets, clean and as trained (paper, Eq. 5)."""

from __future__ import annotations

from bll_sweeps.grid.cell import PriorJob
from jobs import Result
from jobs.context import JobContext


def run(job: PriorJob, context: JobContext) -> Result:
    from bll_sweeps.store.records import write_jsonl
    from bll_sweeps.training.model import load_checkpoint
    from bll_sweeps.training.prior import measure

    model, tokenizer = load_checkpoint(
        context.backbone_folder(job.backbone), context.spec.execution, job.backbone.dtype
    )
    data = context.training_set(job.domain, tokenizer)
    prior = measure(model, data.examples, context.spec.execution.eval_batch, context.progress_of("sequences"))
    write_jsonl(context.attempt.output("sequences.jsonl"), prior.sequences)
    rows_cut = sum(example.cut or example.clean_cut for example in data.examples)
    lost = {"rows_cut": rows_cut, "rows_dropped": data.lost["dropped"]}
    result = {"as_trained": prior.as_trained, "clean": prior.clean, **lost, "sequence_tokens": data.tokens}
    return Result(result, ["sequences.jsonl"])
