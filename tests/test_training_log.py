"""training/log.py: what a training costs, counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training_fit import EXECUTION, RECIPE, examples, rows, run, small_model
from torch.utils.flop_counter import FlopCounterMode

from bll_sweeps.grid import cost
from bll_sweeps.store.metrics import TIMING
from bll_sweeps.training.log import FlopCount
from bll_sweeps.training.packing import Batching, Sequences

SEQUENCES = Sequences.of(examples())
ALL = np.arange(len(SEQUENCES))
EVERYWHERE = {"step", *TIMING} - {"mfu"}


@pytest.mark.parametrize("frozen", [False, True])
def test_the_operations_of_a_training_are_those_that_torch_counts(frozen):
    """Of one sequence, without attention, which torch does not count on a CPU, and without the mask's half."""
    model = small_model()
    if frozen:  # all layers, so that only activations of them have gradients
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("layers" not in name)
    row = ALL[:1]
    batch = SEQUENCES.micro_batch(row)
    with FlopCounterMode(display=False) as counter:
        hidden = model.base_model(input_ids=batch.inputs, use_cache=False).last_hidden_state
        logits = hidden.flatten(0, 1)[batch.positions] @ model.get_output_embeddings().weight.T
        logits.sum().backward()
    counted = sum(
        n for operation, n in counter.get_flop_counts()["Global"].items() if "attention" not in str(operation)
    )
    found = FlopCount(model)(SEQUENCES.input_tokens(row), int(SEQUENCES.supervised[row].sum()), squares=0)
    vectors = sum(p.numel() for p in model.parameters() if p.ndim == 1)  # biases and norms, counted as if matrices
    assert counted < found < counted + 6.1 * SEQUENCES.input_tokens(row) * vectors


def test_attention_of_a_long_sequence_counts_half_of_what_has_no_mask():
    model = small_model()
    config = model.config
    count = FlopCount(model)
    width = config.hidden_size * config.num_hidden_layers
    assert count(0, 0, squares=100) == 3 * 100 * 4 * width / 2


@pytest.mark.parametrize("packing", [False, True])
def test_the_timing_tells_what_is_padding(packing, tmp_path):
    """One step of all rows, so that the micro-batches are known."""
    recipe = replace(RECIPE, steps=1, batch_size=len(ALL))
    execution = replace(EXECUTION, micro_batch=8, packing=packing, micro_batch_tokens=64)
    run(tmp_path, recipe=recipe, execution=execution)
    (told,) = rows(tmp_path, "timing.jsonl")
    assert set(told) == EVERYWHERE
    batching = Batching(packed=True, tokens=64) if packing else Batching(rows=8)
    places = sum(batch.inputs.numel() for _, batch in SEQUENCES.micro_batches(ALL, batching))
    tokens = SEQUENCES.input_tokens(ALL)
    assert told["padding"] == pytest.approx(1 - tokens / places, abs=1e-4)
    assert told["tokens_per_s"] * told["elapsed_s"] == pytest.approx(tokens, rel=0.05)
    assert told["tokens_per_s_per_device"] == told["tokens_per_s"]
    flops = FlopCount(small_model())(tokens, int(SEQUENCES.supervised.sum()), SEQUENCES.squared_inputs(ALL))
    assert told["model_tflops"] * told["elapsed_s"] * 1e12 == pytest.approx(flops, rel=0.05)
    assert 0.01 < told["peak_memory_gib"] < 64


def test_the_share_of_the_peak_is_told_in_bfloat16_where_the_peak_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    from bll_sweeps.training import log

    gpu = torch.device("cuda", 0)
    assert log.peak_bf16_flops(gpu) == cost.GPUS["h200"].peak_bf16_flops == 989e12
    assert log.peak_bf16_flops(torch.device("cpu")) == 0
    for name in ("NVIDIA H100 PCIe", "NVIDIA H200 NVL", "NVIDIA RTX A1000", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert log.peak_bf16_flops(gpu) == 0, name
    monkeypatch.setattr(log, "peak_bf16_flops", lambda device: 1e10)
    for dtype in ("bfloat16", "float32"):
        run(tmp_path / dtype, recipe=replace(RECIPE, dtype=dtype, steps=2))
    (told,) = rows(tmp_path / "bfloat16", "timing.jsonl")
    assert set(told) == {"step", *TIMING}
    assert told["mfu"] == pytest.approx(told["model_tflops"] * 1e12 / 1e10, rel=1e-2, abs=2e-4)
    assert set(rows(tmp_path / "float32", "timing.jsonl")[0]) == EVERYWHERE
