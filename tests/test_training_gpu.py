"""Training in bfloat16 on a GPU, and the kernels that only it has. Without one, what a processor can do of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_objective_loss import EVERY, assert_as_exact_as_naive, exact_problem
from test_training_fit import CATALOGUE, EXECUTION, RECIPE, Interrupted, rows, run, stop_at, weights
from transformers import Qwen2Config, Qwen2ForCausalLM

from bll_sweeps.objectives import chunks
from bll_sweeps.objectives.catalogue import NLL
from bll_sweeps.objectives.heads import check_head

DEVICE: Any = "cuda" if torch.cuda.is_available() else "cpu"
only_there = pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
HALF = replace(RECIPE, dtype="bfloat16")
PACKED = replace(EXECUTION, device=DEVICE, packing=True, micro_batch_tokens=64)


@only_there
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_as_near_to_float64_as_naive_ones(dtype: torch.dtype) -> None:
    for objective in EVERY.values():
        for scale in (2.0**-6, 1.0, 2.0**7):
            on_it = (tensor.detach().to(DEVICE) for tensor in exact_problem(5, 30, scale, 0.3))
            assert_as_exact_as_naive(objective, dtype, *on_it, chunk=7)


@only_there
def test_products_of_bfloat16_add_to_float32_in_place(caplog: pytest.LogCaptureFixture) -> None:
    chunks._adds_in_place.cache_clear()
    with caplog.at_level(logging.WARNING):
        check_head("own", NLL, torch.device(DEVICE), torch.bfloat16)
    assert not caplog.records


def model() -> Qwen2ForCausalLM:
    """With heads of 16, the smallest that kernels take."""
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 4}
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=20, num_key_value_heads=2, tie_word_embeddings=True, **shape))


def ends_alike(folder: Path, *ways: Any) -> None:
    """In bfloat16: the rounding of 20 steps of Adam."""
    found = [run(folder / str(n), CATALOGUE["p"], HALF, way, model=model()) for n, way in enumerate(ways)]
    first, *others = (weights(trained) for trained, _ in found)
    start = weights(model()).to(first.device)
    for other in others:
        assert ((other - first).norm() / (first - start).norm()).item() < 0.1
    losses = [result.final["nll"] for _, result in found]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=2e-2)


def test_packed_and_padded_training_end_alike(tmp_path: Path) -> None:
    again = replace(PACKED, activation_checkpointing=True)
    ends_alike(tmp_path, replace(EXECUTION, device=DEVICE), PACKED, again, replace(PACKED, head="naive"))


@only_there
def test_attention_without_a_mask_trains_as_sdpa_does(tmp_path: Path) -> None:
    ends_alike(tmp_path, PACKED, replace(PACKED, attention="flex_attention"))


@only_there
def test_flash_attention_trains_as_sdpa_does(tmp_path: Path) -> None:
    pytest.importorskip("flash_attn")
    ends_alike(tmp_path, PACKED, replace(PACKED, attention="flash_attention_2"))


@only_there
def test_a_compiled_model_trains_as_the_plain_one(tmp_path: Path) -> None:
    ends_alike(tmp_path, PACKED, replace(PACKED, compile=True))


def test_a_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole", CATALOGUE["p"], HALF, PACKED, model=model())
    with pytest.raises(Interrupted):
        run(tmp_path / "first", CATALOGUE["p"], HALF, PACKED, model=model(), on_progress=stop_at(13))
    resumed, _ = run(tmp_path / "second", CATALOGUE["p"], HALF, PACKED, model=model(), earlier=(tmp_path / "first",))
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=1e-2, atol=1e-3)
    assert [row["step"] for row in rows(tmp_path / "second")] == [row["step"] for row in rows(tmp_path / "whole")]


def test_the_timing_tells_memory_and_speed(tmp_path: Path) -> None:
    run(tmp_path, CATALOGUE["nll"], HALF, PACKED, model=model())
    for row in rows(tmp_path, "timing.jsonl"):
        assert row["tokens_per_s"] > 0 and row["peak_memory_gib"] > 0
