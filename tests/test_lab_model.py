"""A new lab backbone follows from shape and seed."""

from __future__ import annotations

import torch

from bll_sweeps.grid.axes import LabTask, ModelShape
from bll_sweeps.lab.model import new_model
from bll_sweeps.lab.tokenizer import build

SHAPE = ModelShape(hidden_size=16, layers=2, intermediate_size=32, heads=4, kv_heads=2, max_positions=64)


def test_the_seed_decides_the_weights_and_nothing_else_does() -> None:
    tokenizer = build({"spell": LabTask(dataset="spell_backward", held_out=20)})
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = new_model(SHAPE, tokenizer, 0)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = new_model(SHAPE, tokenizer, 0), new_model(SHAPE, tokenizer, 1)
    weights = [model.get_input_embeddings().weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert first.get_output_embeddings().weight is weights[0]  # tied
    assert weights[0].shape == (len(tokenizer), 16) and weights[0].dtype == torch.float32
