"""The lab's tokenizer: constant pieces, bytes, exact decoding, also after a round through a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from bll_sweeps.grid.axes import LabTask, ModelShape
from bll_sweeps.lab.model import new_model
from bll_sweeps.lab.tasks import PRETRAINING_PROMPT, held_out
from bll_sweeps.lab.tokenizer import build, fragments
from bll_sweeps.training.model import load_checkpoint, save_model

TASKS = {
    "spell": LabTask(dataset="spell_backward", params={"min_word_len": 3, "max_word_len": 4}),
    "rotate": LabTask(dataset="rotate_matrix", params={"min_n": 2, "max_n": 2, "min_rotations": 1, "max_rotations": 1}),
}
SHAPE = ModelShape(hidden_size=8, layers=1, intermediate_size=8, heads=1, kv_heads=1, max_positions=64)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return build(TASKS)


def test_content_is_spelled_and_the_words_around_it_are_one_token(tokenizer: PreTrainedTokenizerBase) -> None:
    for name, content in (("spell", 4), ("rotate", 8)):
        questions = [row.question for row in held_out(TASKS[name])]
        ids = tokenizer([PRETRAINING_PROMPT.format(question=q) for q in questions])["input_ids"]
        assert max(map(len, ids)) == content + 2


def test_pieces_hold_no_content(tokenizer: PreTrainedTokenizerBase) -> None:
    assert "\nAnswer: " in fragments(TASKS, PRETRAINING_PROMPT)
    assert not any(piece.rstrip()[-1].isdigit() for piece in fragments(TASKS, PRETRAINING_PROMPT))
    assert len(tokenizer) == 2 + 256 + len(fragments(TASKS, PRETRAINING_PROMPT))


@given(st.text(st.characters(codec="ascii")) | st.sampled_from(["\nAnswer: ", "é 日本", " a  b\n\n"]))
def test_any_text_decodes_exactly(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert "<" in text or tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_a_saved_backbone_loads_with_the_same_tokens_and_stop_token(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    save_model(new_model(SHAPE, tokenizer, 0), tokenizer, tmp_path / "model")
    model, loaded = load_checkpoint(tmp_path / "model")
    for row in (*held_out(TASKS["spell"])[:20], *held_out(TASKS["rotate"])[:20]):
        text = PRETRAINING_PROMPT.format(question=row.question) + row.answer
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded.eos_token_id == tokenizer.eos_token_id == model.generation_config.eos_token_id
    assert loaded.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert loaded.bos_token_id is None


def test_backbones_of_one_lab_share_the_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    assert build(dict(reversed(TASKS.items()))).get_vocab() == tokenizer.get_vocab()
