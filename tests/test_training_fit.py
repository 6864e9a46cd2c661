"""The loop: its gradient is the formula's, and neither micro-batches nor interruptions change where it ends.

Run as a script it trains one small model in the given folder, to be killed from outside.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from bll_sweeps.errors import ConfigError, UsageError
from bll_sweeps.grid.axes import Objective, Recipe
from bll_sweeps.grid.settings import Execution
from bll_sweeps.objectives import chunks
from bll_sweeps.objectives.catalogue import main_catalogue
from bll_sweeps.objectives.family import kept, value
from bll_sweeps.store.metrics import TIMING
from bll_sweeps.training.data import Example
from bll_sweeps.training.fit import FitResult, fit, learning_rate
from bll_sweeps.training.model import use_attention
from bll_sweeps.training.packing import DataOrder

ROOT = Path(__file__).parents[1]
SURVIVORS = Objective(name="survivors", family="nll", keep="above", threshold=0.05, normaliser="survivors")
RELATIVES = (
    Objective(name="asft", family="formula", formula="-p * logp", weight="p", anchor=0.1),
    Objective(name="eaft", family="formula", formula="-entropy * logp"),
    Objective(name="label_smoothing", family="nll", smoothing=0.1),
)
CATALOGUE = {**main_catalogue(), "survivors": SURVIVORS, **{objective.name: objective for objective in RELATIVES}}
COLUMNS = {"step", "tokens", "objective", "nll", "mean_p", "p_q05", "p_q25", "p_q50", "p_q75", "p_q95"} | {
    "grad_norm", "kept_fraction", "learning_rate",
}  # fmt: skip
TIMES = {*TIMING} - {"mfu"}  # which is of a GPU
RECIPE = Recipe(name="r", learning_rate=3e-3, batch_size=16, steps=20)
EXECUTION = Execution(name="e", checkpoint_every_steps=6, log_every_steps=4)


class Interrupted(Exception):
    pass


def small_model(seed: int = 0, *, tied: bool = True, vocabulary: int = 20) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=1,
    )
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(config)


def examples(count: int = 40) -> list[Example]:
    """Prompts of random tokens and a response that counts up from the last one: learnable, lengths 4 to 14."""
    rng = np.random.default_rng(0)
    out = []
    for _ in range(count):
        prompt = rng.integers(3, 20, rng.integers(1, 9)).tolist()
        response = [3 + (prompt[-1] + k) % 17 for k in range(1, int(rng.integers(3, 6)))]
        ids = (*prompt, *response, 1)
        out.append(Example(ids, len(prompt), ids, False, "0" * 16))
    return out


def run(
    folder: Path,
    objective: Objective = CATALOGUE["nll"],
    recipe: Recipe = RECIPE,
    execution: Execution = EXECUTION,
    *,
    model: PreTrainedModel | None = None,
    seed: int = 5,
    earlier: tuple[Path, ...] = (),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
    **options: Any,
) -> tuple[PreTrainedModel, FitResult]:
    model = model or small_model()
    result = fit(
        model,
        examples(),
        objective,
        recipe,
        seed,
        execution,
        checkpoints=folder / "checkpoints",
        earlier=[path / "checkpoints" for path in earlier],
        metrics=folder / "metrics.jsonl",
        timing=folder / "timing.jsonl",
        on_progress=on_progress,
        on_row=on_row,
        **options,
    )
    return model, result


def weights(model: PreTrainedModel) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def stop_at(step: int) -> Callable[[int, int], None]:
    def on_progress(done: int, total: int) -> None:
        if done == step:
            raise Interrupted

    return on_progress


# --- what a step computes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, objective in CATALOGUE.items() if objective.is_plain])
def test_one_step_of_sgd_follows_the_gradient_of_the_formula_on_full_logits(name, tmp_path):
    recipe = Recipe(
        name="r", optimizer="sgd", learning_rate=0.5, batch_size=16, steps=1, weight_decay=0.0,
        warmup_fraction=0.0, clip_norm=1e9, dtype="float64",
    )  # fmt: skip
    objective, data = CATALOGUE[name], examples()
    reference = small_model().double().eval()
    logps = []
    for row in DataOrder(5, len(data), recipe).rows(0):
        ids = torch.tensor(data[row].input_ids)
        logits = reference(input_ids=ids[None]).logits[0, data[row].prompt_tokens - 1 : -1]
        logps.append(torch.log_softmax(logits, -1).gather(1, ids[data[row].prompt_tokens :, None])[:, 0])
    logp = torch.cat(logps)
    stays = kept(objective, logp)
    count = stays.sum() if objective.normaliser == "survivors" else len(logp)
    loss = value(objective, logp).sum() / count
    loss.backward()
    moved = torch.cat([(p - 0.5 * p.grad).detach().flatten() for p in reference.parameters()])

    model, result = run(tmp_path, objective, recipe)
    # Not closer, because transformers' RMSNorm computes in float32 even in a float64 model.
    torch.testing.assert_close(weights(model), moved, rtol=1e-6, atol=1e-7)
    assert result.steps == 1 and result.tokens == len(logp)
    assert result.final["objective"] == pytest.approx(loss.item(), rel=1e-12)
    assert result.final["nll"] == pytest.approx(-logp.mean().item(), rel=1e-12)
    assert result.final["mean_p"] == pytest.approx(logp.exp().mean().item(), rel=1e-12)
    assert result.final["kept_fraction"] == pytest.approx(stays.double().mean().item(), rel=1e-12)
    assert result.final["p_q25"] == pytest.approx(logp.exp().quantile(0.25).item(), rel=1e-12)


AUTHORS = Recipe(
    name="authors", optimizer="sgd", learning_rate=0.5, batch_size=14, steps=1, weight_decay=0.0, warmup_fraction=0.0,
    clip_norm=1e9, dtype="float64", gradient="authors", micro_batch=3, ranks=2,
)  # fmt: skip


def sum_of_means(objective: Objective, recipe: Recipe) -> tuple[torch.Tensor, float, float]:
    """What the authors' code does, without any of ours: (weights after a step of SGD, the mean of the losses, the
    gradient's norm).
    """
    data, model = examples(), small_model().double().eval()
    batch = DataOrder(5, len(data), recipe).rows(0)
    losses = []
    for rank in range(recipe.ranks):
        mine = batch[rank :: recipe.ranks]
        for start in range(0, len(mine), recipe.micro_batch):
            logps = []
            for row in mine[start : start + recipe.micro_batch]:
                ids, prompt = torch.tensor(data[row].input_ids), data[row].prompt_tokens
                logits = model(input_ids=ids[None]).logits[0, prompt - 1 : -1]
                logps.append(torch.log_softmax(logits, -1).gather(1, ids[prompt:, None])[:, 0])
            logp = torch.cat(logps)
            stays = kept(objective, logp)
            losses.append(value(objective, logp[stays]).sum() / max(1, int(stays.sum())))
    (torch.stack(losses).sum() / recipe.ranks).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    return weights(model) - 0.5 * gradient, torch.stack(losses).mean().item(), gradient.norm().item()


@pytest.mark.parametrize("name", ["nll", "p", "p10", "logp_above", "logp_below", "unlikelihood", "survivors"])
def test_the_authors_gradient_is_the_sum_of_their_micro_batches_means(name, tmp_path):
    moved, loss, norm = sum_of_means(CATALOGUE[name], AUTHORS)
    model, result = run(tmp_path, CATALOGUE[name], AUTHORS)
    torch.testing.assert_close(weights(model), moved, rtol=1e-6, atol=1e-7)
    assert result.final["objective"] == pytest.approx(loss, rel=1e-6)
    assert result.final["grad_norm"] == pytest.approx(norm, rel=1e-6)


def test_the_authors_gradient_grows_with_the_number_of_micro_batches_and_is_clipped_as_such(tmp_path):
    def norm(**changes: Any) -> float:
        return run(tmp_path, recipe=replace(AUTHORS, **changes))[1].final["grad_norm"]

    step = norm(gradient="step")
    assert norm(micro_batch=7) == pytest.approx(step, rel=0.5)  # a micro-batch on each of two ranks
    assert norm(micro_batch=1) == pytest.approx(7 * step, rel=0.5)  # seven on each
    start = weights(small_model())
    model, result = run(tmp_path, recipe=replace(AUTHORS, clip_norm=0.01))
    assert (weights(model) - start).norm().item() == pytest.approx(0.5 * 0.01, rel=1e-6)
    assert result.final["grad_norm"] > 0.1


def test_one_micro_batch_on_one_rank_is_the_gradient_of_the_step(tmp_path):
    expected, whole = run(tmp_path / "step", recipe=replace(AUTHORS, gradient="step"))
    model, result = run(tmp_path / "authors", recipe=replace(AUTHORS, micro_batch=14, ranks=1))
    torch.testing.assert_close(weights(model), weights(expected), rtol=1e-10, atol=1e-12)
    assert result.final == pytest.approx(whole.final, rel=1e-10)


def test_the_executions_micro_batch_is_nothing_to_the_authors_gradient(tmp_path):
    recipe = replace(AUTHORS, steps=5)
    expected, _ = run(tmp_path / "0", CATALOGUE["p10"], recipe)
    for size in (1, 5):
        model, _ = run(tmp_path / str(size), CATALOGUE["p10"], recipe, replace(EXECUTION, micro_batch=size))
        assert_same_end(tmp_path / str(size), model, tmp_path / "0", expected)


def test_a_training_that_drops_the_last_batch_ends_a_step_earlier(tmp_path):
    recipe = replace(RECIPE, steps=0, epochs=1.0)  # of 40 rows, 16 at a time
    seen = {drop: run(tmp_path / str(drop), recipe=replace(recipe, drop_last=drop))[1] for drop in (False, True)}
    assert (seen[False].steps, seen[True].steps) == (3, 2)
    assert seen[True].tokens < seen[False].tokens


@pytest.mark.parametrize("name", ["nll", "p", "p10", "logp_below", "unlikelihood", "survivors"])
def test_the_micro_batch_does_not_change_the_result(name, tmp_path):
    recipe = replace(RECIPE, dtype="float64")
    expected, whole = run(tmp_path / "0", CATALOGUE[name], recipe)
    for size in (1, 4, 16):
        execution = replace(EXECUTION, micro_batch=size)
        model, result = run(tmp_path / str(size), CATALOGUE[name], recipe, execution)
        torch.testing.assert_close(weights(model), weights(expected), rtol=1e-8, atol=1e-12)
        assert result.final == pytest.approx(whole.final, rel=1e-8)


@pytest.mark.parametrize("name", ["nll", "p10", "logp_below", "survivors", "asft", "eaft", "label_smoothing"])
def test_packing_does_not_change_the_result(name, tmp_path):
    recipe = replace(RECIPE, dtype="float64")
    expected, whole = run(tmp_path / "padded", CATALOGUE[name], recipe)
    for tokens in (16, 64):
        execution = replace(EXECUTION, packing=True, micro_batch_tokens=tokens)
        model, result = run(tmp_path / str(tokens), CATALOGUE[name], recipe, execution)
        torch.testing.assert_close(weights(model), weights(expected), rtol=1e-8, atol=1e-12)
        assert result.final == pytest.approx(whole.final, rel=1e-8)


def test_packing_in_float32_gives_the_same_first_losses(tmp_path):
    losses = []
    for packing in (False, True):
        execution = replace(EXECUTION, packing=packing, micro_batch_tokens=64, log_every_steps=1)
        run(tmp_path / str(packing), CATALOGUE["nll"], replace(RECIPE, steps=10), execution)
        rows = (tmp_path / str(packing) / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(row)["objective"] for row in rows])
    assert len(losses[0]) == 10
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_sequences_that_could_see_each_other_are_refused_before_the_first_step(tmp_path, monkeypatch):
    from transformers import masking_utils

    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)  # no block mask
    execution = replace(EXECUTION, packing=True, micro_batch_tokens=64)
    with pytest.raises(UsageError, match="does not keep packed sequences apart"):
        run(tmp_path, CATALOGUE["nll"], RECIPE, execution)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_kernel_that_is_not_installed_is_named():
    with pytest.raises(UsageError, match=r"execution\.attention='flash_attention_2' cannot be used for Qwen2"):
        use_attention(small_model(), "flash_attention_2")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_kernel_that_needs_a_gpu_is_refused_without_one(tmp_path):
    execution = replace(EXECUTION, packing=True, attention="flex_attention", device="auto")
    with pytest.raises(UsageError, match=r"execution\.attention='flex_attention' needs a GPU"):
        run(tmp_path, CATALOGUE["nll"], RECIPE, execution)


def test_flash_attention_in_float32_is_refused(tmp_path):
    execution = replace(EXECUTION, packing=True, attention="flash_attention_2", device="auto")
    with pytest.raises(UsageError, match=r"needs recipe\.dtype=bfloat16, not float32"):
        run(tmp_path, CATALOGUE["nll"], RECIPE, execution)


@pytest.mark.parametrize("change", [{"activation_checkpointing": True}, {"head": "naive"}, {"head": "torch"}])
def test_how_a_step_is_computed_does_not_change_the_result(change, tmp_path):
    recipe = replace(RECIPE, dtype="float64")
    expected, _ = run(tmp_path / "plain", CATALOGUE["p"], recipe)
    model, _ = run(tmp_path / "other", CATALOGUE["p"], recipe, replace(EXECUTION, **change))
    torch.testing.assert_close(weights(model), weights(expected), rtol=1e-8, atol=1e-12)


def test_activation_checkpointing_computes_layers_again(tmp_path):
    passes = []
    for again in (False, True):
        model, mine = small_model(), []
        model.model.layers[0].self_attn.register_forward_hook(lambda *_, mine=mine: mine.append(1))
        execution = replace(EXECUTION, activation_checkpointing=again)
        run(tmp_path / str(again), recipe=replace(RECIPE, steps=2), execution=execution, model=model)
        passes.append(len(mine))
    # Beside the steps' own passes there are those that check the model.
    assert passes[1] > passes[0] > 2


def adapted(*targets: str, tied: bool = True) -> PreTrainedModel:
    """Layers and head frozen, with adapters of low rank beside the projections."""
    from peft import LoraConfig

    model, targets = small_model(tied=tied), targets or ("q_proj", "v_proj")
    model.add_adapter(LoraConfig(r=2, target_modules=list(targets), init_lora_weights="gaussian"))
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_of_the_head_which_would_not_be_trained_is_refused(tied, tmp_path):
    with pytest.raises(UsageError, match=r"output embedding must be one weight, .* but has .*lora_A"):
        run(tmp_path, model=adapted("q_proj", "lm_head", tied=tied))


def test_adapters_train_beside_a_frozen_model_and_head(tmp_path):
    recipe = replace(RECIPE, dtype="float64")
    expected, _ = run(tmp_path / "own", CATALOGUE["p"], recipe, model=adapted())
    model, _ = run(tmp_path / "naive", CATALOGUE["p"], recipe, replace(EXECUTION, head="naive"), model=adapted())
    torch.testing.assert_close(weights(model), weights(expected), rtol=1e-8, atol=1e-12)
    before = dict(adapted().double().named_parameters())
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora" in name}


@pytest.mark.slow
def test_a_compiled_model_trains_as_the_plain_one(tmp_path, monkeypatch):
    """Captured and differentiated as for inductor, whose compiler would take minutes."""
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(compiled, backend="aot_eager"))
    recipe, execution = replace(RECIPE, steps=3), replace(EXECUTION, packing=True, micro_batch_tokens=64)
    plain, _ = run(tmp_path / "plain", CATALOGUE["p"], recipe, execution)
    model, _ = run(tmp_path / "compiled", CATALOGUE["p"], recipe, replace(execution, compile=True))
    assert model.base_model._compiled_call_impl is not None
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-4, atol=1e-5)


def test_an_anchor_of_great_weight_holds_the_model_where_it_was(tmp_path):
    """At the base model KL has no gradient, so that all that moves it away is f."""
    start, moved = weights(small_model()), []
    for anchor in (0.0, 1.0, 30.0):
        objective = Objective(name="anchored", family="nll", anchor=anchor)
        moved.append((weights(run(tmp_path / str(anchor), objective)[0]) - start).norm().item())
    assert moved[0] > moved[1] > moved[2]


def test_weight_decay_spares_biases_and_norms(tmp_path):
    # Nothing survives this threshold, so decay is all that moves a weight.
    nothing = Objective(name="nothing", family="nll", keep="above", threshold=1.0, normaliser="survivors")
    before = dict(small_model().named_parameters())
    model, result = run(tmp_path, nothing, replace(RECIPE, steps=3, weight_decay=0.5))
    assert result.final["kept_fraction"] == result.final["grad_norm"] == result.final["objective"] == 0
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (parameter.ndim == 1), name


def test_clipping_bounds_the_step_but_not_the_reported_norm(tmp_path):
    recipe = replace(RECIPE, optimizer="sgd", learning_rate=1.0, steps=1, warmup_fraction=0.0, weight_decay=0.0)
    start = weights(small_model())
    model, result = run(tmp_path, recipe=replace(recipe, clip_norm=0.01))
    assert (weights(model) - start).norm().item() == pytest.approx(0.01, rel=1e-3)
    assert result.final["grad_norm"] > 0.1


def test_bfloat16_trains_float32_master_weights(tmp_path):
    model, result = run(tmp_path, recipe=replace(RECIPE, dtype="bfloat16"))
    _, single = run(tmp_path / "single")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert result.final["nll"] == pytest.approx(single.final["nll"], rel=0.05)


def test_the_gradient_of_the_output_embedding_is_not_rounded_to_bfloat16(tmp_path, monkeypatch):
    """Summed over chunks in float32, it stays that; the other weights' are those of bfloat16 products."""
    monkeypatch.setattr(chunks, "_CHUNK_ROWS", 16)
    monkeypatch.setattr(chunks, "_CHUNK_LOGITS", {"cpu": 16})
    recipe = replace(RECIPE, dtype="bfloat16", optimizer="sgd", steps=1, clip_norm=1e9)
    model, _ = run(tmp_path, recipe=recipe, model=small_model(tied=False))
    rounded = {name: torch.equal(p.grad, p.grad.bfloat16().float()) for name, p in model.named_parameters()}
    assert not rounded.pop("lm_head.weight")
    assert rounded["model.layers.0.mlp.up_proj.weight"]


def test_training_raises_the_probability_of_the_targets(tmp_path):
    found: list[dict[str, Any]] = []
    recipe = replace(RECIPE, learning_rate=1e-2, steps=60)
    model, result = run(tmp_path, recipe=recipe, on_row=found.append)
    assert result.final["mean_p"] > 3 * found[0]["mean_p"] and result.final["nll"] < found[0]["nll"] / 2
    assert not model.training


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_loss_that_is_not_finite_stops_with_step_objective_and_learning_rate(optimizer, tmp_path):
    recipe = replace(RECIPE, optimizer=optimizer, learning_rate=1e30, warmup_fraction=0.0)
    with pytest.raises(FloatingPointError, match=r"at step \d+ \(objective=nll, learning_rate=\S+e\+\d\d\)"):
        run(tmp_path, recipe=recipe)


def test_a_gpu_that_is_not_there_is_a_configuration_error(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"execution\.device='cuda'"):
        run(tmp_path, execution=replace(EXECUTION, device="cuda"))
    run(tmp_path, recipe=replace(RECIPE, steps=1), execution=replace(EXECUTION, device="auto"))


# --- the schedule -------------------------------------------------------------------------------------------


@given(
    st.sampled_from(["cosine", "linear", "constant"]),
    st.integers(1, 300),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_the_rate_warms_up_to_the_recipes_and_falls_to_its_final_fraction(schedule, total, warmup, low):
    recipe = replace(RECIPE, schedule=schedule, warmup_fraction=warmup, final_lr_fraction=low)
    rates = [learning_rate(recipe, step, total) / recipe.learning_rate for step in range(total)]
    assert all(0 < rate <= 1 + 1e-12 for rate in rates)
    top = int(np.argmax(rates))
    assert rates[top] == pytest.approx(1.0)
    assert (np.diff(rates[: top + 1]) > 0).all() and (np.diff(rates[top:]) <= 1e-12).all()
    assert rates[-1] >= (1.0 if schedule == "constant" else low) - 1e-12 or top == total - 1


def test_schedules_have_their_textbook_values_halfway():
    recipe = replace(RECIPE, learning_rate=1.0, warmup_fraction=0.1, final_lr_fraction=0.2)
    assert learning_rate(recipe, 0, 100) == pytest.approx(0.1)
    assert learning_rate(recipe, 55, 100) == pytest.approx(0.6)
    assert learning_rate(replace(recipe, schedule="linear"), 55, 100) == pytest.approx(0.6)
    assert learning_rate(replace(recipe, schedule="linear"), 28, 100) == pytest.approx(0.84)
    assert learning_rate(replace(recipe, schedule="constant"), 99, 100) == 1.0


# --- metrics ------------------------------------------------------------------------------------------------


def test_metrics_rows_come_every_few_steps_and_at_the_end_with_timing_beside_them(tmp_path):
    told: list[dict[str, Any]] = []
    progress: list[tuple[int, int]] = []
    recipe = replace(RECIPE, steps=10)
    _, result = run(
        tmp_path, CATALOGUE["p_above"], recipe, on_row=told.append, on_progress=lambda *a: progress.append(a)
    )
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [4, 8, 10]
    assert found[-1] == result.final
    assert all(set(row) == COLUMNS for row in found)
    for row in found:
        assert 0 <= row["p_q05"] <= row["p_q25"] <= row["p_q50"] <= row["p_q75"] <= row["p_q95"] <= 1
    times = rows(tmp_path, "timing.jsonl")
    assert [row["step"] for row in times] == [4, 8, 10]
    assert all(set(row) == {"step"} | TIMES for row in times)
    assert told == [row | time for row, time in zip(found, times, strict=True)]  # a mirror gets both
    assert progress == [(k, 10) for k in range(11)]


def test_the_survivors_normaliser_scales_the_gradient_by_one_over_the_kept_fraction(tmp_path):
    recipe = replace(RECIPE, steps=1, dtype="float64")
    _, survivors = run(tmp_path / "s", SURVIVORS, recipe)
    _, everything = run(tmp_path / "a", replace(SURVIVORS, normaliser="all"), recipe)
    share = survivors.final["kept_fraction"]
    assert 0 < share < 1
    assert survivors.final["grad_norm"] * share == pytest.approx(everything.final["grad_norm"], rel=1e-12)
    assert survivors.final["objective"] * share == pytest.approx(everything.final["objective"], rel=1e-12)


# --- reproduction and resumption ----------------------------------------------------------------------------


def assert_same_end(folder: Path, model: PreTrainedModel, expected_folder: Path, expected: PreTrainedModel) -> None:
    assert torch.equal(weights(model), weights(expected))
    assert (folder / "metrics.jsonl").read_bytes() == (expected_folder / "metrics.jsonl").read_bytes()


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(tmp_path):
    first, _ = run(tmp_path / "1")
    torch.rand(3)  # whatever happened to torch's generator before
    second, _ = run(tmp_path / "2")
    assert_same_end(tmp_path / "2", second, tmp_path / "1", first)
    other, _ = run(tmp_path / "3", seed=6)
    assert not torch.equal(weights(other), weights(first))


def test_settings_of_torch_are_put_back(tmp_path):
    for before in (True, False):
        torch.use_deterministic_algorithms(before)
        with pytest.raises(Interrupted):
            run(tmp_path, on_progress=stop_at(1))
        assert torch.are_deterministic_algorithms_enabled() == before


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(optimizer, dtype, tmp_path):
    recipe = replace(RECIPE, optimizer=optimizer, dtype=dtype)
    execution = replace(EXECUTION, micro_batch=5)
    expected, whole = run(tmp_path / "whole", SURVIVORS, recipe, execution)
    attempts: list[Path] = []
    for stop in (3, 8, 15):  # before any checkpoint, and then from steps 6 and 12
        attempts.append(tmp_path / f"attempt.{stop}")
        with pytest.raises(Interrupted):
            run(attempts[-1], SURVIVORS, recipe, execution, earlier=tuple(attempts[:-1]), on_progress=stop_at(stop))
    progress: list[int] = []
    told: list[dict[str, Any]] = []
    model, result = run(
        tmp_path / "last", SURVIVORS, recipe, execution, model=small_model(99),
        earlier=tuple(attempts[::-1]), on_progress=lambda done, _: progress.append(done), on_row=told.append,
    )  # fmt: skip
    assert progress[0] == 12
    assert result == whole
    assert [row["step"] for row in told] == [4, 8, 12, 16, 20]  # carried-over rows with their times too
    assert all(set(row) == COLUMNS | TIMES for row in told)
    assert_same_end(tmp_path / "last", model, tmp_path / "whole", expected)
    assert [row["step"] for row in rows(tmp_path / "last", "timing.jsonl")] == [4, 8, 12, 16, 20]


def test_a_damaged_checkpoint_is_passed_over_with_a_warning_for_an_older_one(tmp_path, caplog):
    expected, _ = run(tmp_path / "whole")
    for attempt, stop in (("a", 7), ("b", 13)):
        with pytest.raises(Interrupted):
            earlier = (tmp_path / "a",) if attempt == "b" else ()
            run(tmp_path / attempt, earlier=earlier, on_progress=stop_at(stop))
    damaged = tmp_path / "b" / "checkpoints" / "step-00000012" / "model.safetensors"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    progress: list[int] = []
    earlier = (tmp_path / "b", tmp_path / "a")  # in whichever order they are given
    model, _ = run(tmp_path / "c", earlier=earlier, on_progress=lambda done, _: progress.append(done))
    assert "passing over checkpoint" in caplog.text and "step-00000012" in caplog.text
    assert progress[0] == 6
    assert_same_end(tmp_path / "c", model, tmp_path / "whole", expected)


def test_no_checkpoint_is_written_at_the_last_step_and_only_the_newest_is_kept(tmp_path):
    run(tmp_path, recipe=replace(RECIPE, steps=18))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000012"]


@pytest.mark.slow
def test_a_killed_process_is_gone_on_from_and_ends_with_the_same_bits(tmp_path):
    expected, _ = run(tmp_path / "whole")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    attempts: list[Path] = []
    for stop in (6, 14):  # right behind a checkpoint, and between two
        folder = tmp_path / f"attempt.{stop}"
        command = [sys.executable, __file__, str(folder), str(stop), *map(str, attempts)]
        process = subprocess.run(command, env=environment, timeout=120, capture_output=True, text=True)
        assert process.returncode == -signal.SIGKILL, process.stderr
        attempts.append(folder)
    progress: list[int] = []
    model, _ = run(
        tmp_path / "last", model=small_model(99), earlier=tuple(attempts),
        on_progress=lambda done, _: progress.append(done),
    )  # fmt: skip
    assert progress[0] == 12
    assert_same_end(tmp_path / "last", model, tmp_path / "whole", expected)


@pytest.mark.slow
def test_a_process_killed_at_any_moment_leaves_nothing_that_misleads_the_next(tmp_path):
    expected, _ = run(tmp_path / "whole")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    attempts: list[Path] = []
    for delay_s in (0.02, 0.1):
        folder = tmp_path / f"attempt.{delay_s}"
        command = [sys.executable, __file__, str(folder), "-1", *map(str, attempts)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "training\n"
        time.sleep(delay_s)
        process.kill()
        process.wait()
        process.stdout.close()
        attempts.append(folder)
    model, _ = run(tmp_path / "last", earlier=tuple(attempts))
    assert_same_end(tmp_path / "last", model, tmp_path / "whole", expected)


def _train_until_killed() -> None:
    folder, stop, *earlier = sys.argv[1:]
    torch.set_num_threads(1)

    def on_progress(done: int, total: int) -> None:
        if done == 0:
            print("training", flush=True)
        if done == int(stop):
            os.kill(os.getpid(), signal.SIGKILL)

    run(Path(folder), earlier=tuple(Path(e) for e in earlier), on_progress=on_progress)


if __name__ == "__main__":
    _train_until_killed()
