"""Model folders: what is saved is what is loaded, and a model that the loss head cannot serve is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from bll_sweeps.errors import ConfigError, StoreError, UsageError
from bll_sweeps.grid.settings import Execution
from bll_sweeps.training.model import check, head_weight, load_checkpoint, load_model, save_model, use_device

SIZE = {
    "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32,
    "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip


def qwen(tied: bool = True) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**SIZE, tie_word_embeddings=tied))


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "a": 2, "b": 3}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_loads_with_the_same_bits_and_its_tokenizer(tied, tmp_path):
    model = qwen(tied)
    save_model(model, tokenizer(), tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]  # no temporary folder is left
    assert (tmp_path / "model" / "model.safetensors").is_file()
    loaded, words = load_checkpoint(tmp_path / "model", Execution(name="e", device="cpu", threads=1))
    assert not loaded.training and torch.get_num_threads() == 1
    for (name, ours), (_, theirs) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert words("a b")["input_ids"] == [2, 3] and words.eos_token_id == 1


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in ("1", "2"):
        save_model(qwen(), tokenizer(), tmp_path / name)
    files = sorted(p.name for p in (tmp_path / "1").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "2").iterdir())
    for name in files:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_a_save_that_fails_leaves_no_model_folder(tmp_path, monkeypatch):
    model = qwen()
    monkeypatch.setattr(model, "save_pretrained", lambda folder, **given: (Path(folder).mkdir(), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        save_model(model, tokenizer(), tmp_path / "model")
    assert not (tmp_path / "model").exists()
    monkeypatch.undo()
    save_model(model, tokenizer(), tmp_path / "model")


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(StoreError, match=f"{tmp_path} holds no model"):
        load_model(tmp_path)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_plain_causal_model_passes_the_check_in_its_own_mode(tied, attention):
    model = qwen(tied)
    model.set_attn_implementation(attention)
    for training in (True, False):
        model.train(training)
        check(model, [3, 7, 5, 1])
        assert model.training == training
    assert head_weight(model).shape == (20, 16)


def test_a_model_with_capped_logits_is_refused():
    torch.manual_seed(0)
    config = Gemma2Config(**SIZE, head_dim=4, final_logit_softcapping=0.05)
    with pytest.raises(UsageError, match="Gemma2ForCausalLM cannot be trained here"):
        check(Gemma2ForCausalLM(config), [3, 7, 5, 1])


def test_a_model_that_looks_ahead_is_refused():
    def add_the_last(module: torch.nn.Module, inputs: object, out: Any) -> None:
        out.last_hidden_state = out.last_hidden_state + out.last_hidden_state[:, -1:]

    model = qwen()
    model.model.register_forward_hook(add_the_last)
    with pytest.raises(UsageError, match="looks ahead"):
        check(model, [3, 7, 5, 1])


def test_a_head_with_a_bias_is_refused():
    model = qwen(tied=False)
    model.lm_head = torch.nn.Linear(16, 20, bias=True)
    with pytest.raises(UsageError, match="must be one weight, without bias or adapter, but has weight, bias"):
        head_weight(model)


def test_auto_takes_the_cpu_where_there_is_no_gpu_and_cuda_does_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert use_device(Execution(name="e", device="auto")).type == "cpu"
    with pytest.raises(ConfigError, match=r"execution\.device='cuda' is not available"):
        use_device(Execution(name="e", device="cuda"))
