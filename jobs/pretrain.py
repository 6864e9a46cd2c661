"""`pretrain`: makes a lab backbone with a stated exposure to each task."""

from __future__ import annotations

from bll_sweeps.grid.cell import PretrainJob
from jobs import Result
from jobs.context import JobContext


def run(job: PretrainJob, context: JobContext) -> Result:
    from bll_sweeps.lab import tasks, tokenizer
    from bll_sweeps.lab.model import new_model
    from bll_sweeps.objectives.catalogue import NLL
    from bll_sweeps.training.data import tokenize
    from jobs.train import fit_and_save

    pretraining = job.backbone.pretraining
    assert pretraining is not None
    lab_tokenizer = tokenizer.build(job.backbone.tasks, max_length=pretraining.shape.max_positions)
    rows, text = tasks.pretraining_rows(job.backbone), tasks.pretraining_domain(job.backbone)
    examples = tokenize(rows, text, lab_tokenizer)
    model = new_model(pretraining.shape, lab_tokenizer, pretraining.seed)
    return fit_and_save(context, model, lab_tokenizer, examples, NLL, pretraining.recipe, pretraining.seed)
