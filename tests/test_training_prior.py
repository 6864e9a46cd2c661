"""Prior strength: p of every target token under the model, as trained and clean, summed per sequence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from bll_sweeps.grid.axes import PRIOR_QUANTILES
from bll_sweeps.training.data import Example
from bll_sweeps.training.prior import HISTOGRAM_BINS, _summary, measure


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, intermediate_size=32, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.5, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


def examples(count: int = 13, noisy_every: int = 3) -> list[Example]:
    rng = np.random.default_rng(1)
    out = []
    for i in range(count):
        prompt = tuple(rng.integers(3, 20, rng.integers(1, 8)).tolist())
        answer, other = (tuple(rng.integers(3, 20, rng.integers(1, 6)).tolist()) for _ in range(2))
        noisy = i % noisy_every == 0
        clean = (*prompt, *(other if noisy else answer), 1)
        out.append(Example((*prompt, *answer, 1), len(prompt), clean, noisy, f"{i // 2:016x}", row=i))
    return out


def probabilities(model: Qwen2ForCausalLM, ids: tuple[int, ...], prompt_tokens: int) -> np.ndarray:
    """p of the target tokens of one sequence, from the model's own logits."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    p = logits.softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return p[prompt_tokens - 1 :].numpy()


@pytest.mark.parametrize("batch", [0, 1, 4, 100])
def test_every_target_token_counts_once_whatever_the_batch(model, batch):
    data = examples()
    trained = [probabilities(model, e.input_ids, e.prompt_tokens) for e in data]
    clean = [probabilities(model, e.clean_ids, e.prompt_tokens) for e in data]
    found = measure(model, data, batch)
    for summary, expected in ((found.as_trained, trained), (found.clean, clean)):
        p = np.concatenate(expected)
        assert summary["tokens"] == len(p) and summary["sequences"] == len(data)
        assert summary["mean_p"] == pytest.approx(p.mean(), rel=1e-4)
        assert summary["nll"] == pytest.approx(-np.log(p).mean(), rel=1e-4)
        assert summary["share_above_0.55"] == pytest.approx((p > 0.55).mean())
        assert summary["quantiles"]["0.5"] == pytest.approx(np.median(p), rel=1e-3)
        assert {"0.05", "0.25", "0.75", "0.95"} <= summary["quantiles"].keys()
    for i, row in enumerate(found.sequences):
        assert row["row"] == i and row["noisy"] == data[i].noisy
        assert (row["tokens"], row["clean_tokens"]) == (len(trained[i]), len(clean[i]))
        assert row["sum_p"] == pytest.approx(trained[i].sum(), rel=1e-4)
        assert row["clean_sum_p"] == pytest.approx(clean[i].sum(), rel=1e-4)


def test_sums_over_sequences_give_the_means(model):
    found = measure(model, examples(), 5)
    for prefix, summary in (("", found.as_trained), ("clean_", found.clean)):
        tokens = sum(row[f"{prefix}tokens"] for row in found.sequences)
        assert sum(row[f"{prefix}sum_p"] for row in found.sequences) / tokens == pytest.approx(summary["mean_p"])


def test_rows_of_one_question_share_its_name_and_are_told_one_by_one(model):
    data = examples()
    kept = [replace(example, row=20 + example.row) for example in data]  # some rows in between were dropped
    found = measure(model, [*data, *kept], 5)
    assert [row["question"] for row in found.sequences] == [f"{i // 2:016x}" for i in range(13)] * 2
    assert [row["row"] for row in found.sequences] == [*range(13), *range(20, 33)]


def test_every_quantile_at_which_a_threshold_can_lie_is_told(model):
    found = measure(model, examples(), 5)
    p = np.concatenate([probabilities(model, e.input_ids, e.prompt_tokens) for e in examples()])
    assert {float(q) for q in found.as_trained["quantiles"]} == set(PRIOR_QUANTILES)
    for quantile, value in found.as_trained["quantiles"].items():
        assert value == pytest.approx(np.quantile(p, float(quantile)), rel=1e-3)


def test_the_histogram_counts_every_target_token_in_its_bin(model):
    data = examples()
    found = measure(model, data, 5)
    for summary, which in ((found.as_trained, "input_ids"), (found.clean, "clean_ids")):
        p = np.concatenate([probabilities(model, getattr(e, which), e.prompt_tokens) for e in data])
        counts = np.array(summary["histogram"])
        assert counts.shape == (HISTOGRAM_BINS,) and counts.sum() == summary["tokens"] == len(p)
        below = np.cumsum(counts)[:-1]
        edges = np.arange(1, HISTOGRAM_BINS) / HISTOGRAM_BINS
        # A token within rounding of an edge may be counted on either side of it.
        assert (below >= [(p < edge - 1e-5).sum() for edge in edges]).all()
        assert (below <= [(p < edge + 1e-5).sum() for edge in edges]).all()


def test_the_ends_of_the_histogram_hold_zero_and_one():
    with np.errstate(divide="ignore"):
        counts = _summary([np.log(np.array([0.0, 1.0, 0.5])), np.array([1e-9])])["histogram"]
    assert counts[0] == 1 and counts[25] == 1 and counts[-1] == 2 and sum(counts) == 4


def test_equal_sequences_are_read_once(model):
    told: list[tuple[int, int]] = []
    data = examples(noisy_every=99)[1:]
    measure(model, data * 3, 0, lambda done, total: told.append((done, total)))
    assert told == [(12, 12)]


def test_without_noise_both_are_the_same_and_every_row_is_read_once(model):
    told: list[tuple[int, int]] = []
    found = measure(model, examples(noisy_every=99)[1:], 5, lambda done, total: told.append((done, total)))
    assert found.as_trained == found.clean
    assert told == [(5, 12), (10, 12), (12, 12)]


def test_the_model_keeps_its_mode_and_gets_no_gradients(model):
    for training in (True, False):
        model.train(training)
        measure(model, examples(), 4)
        assert model.training == training
    assert all(p.grad is None for p in model.parameters())
