"""Rows -> token ids: templates, borders, truncation, and what a bad file or row says."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bll_sweeps.errors import ConfigError, StoreError
from bll_sweeps.grid.axes import Domain, Noise
from bll_sweeps.training.data import load_rows, tokenize
from bll_sweeps.training.rows import Row


def characters(bos: str | None = None) -> PreTrainedTokenizerFast:
    """One token per character; <pad> 0, <eos> 1, <bos> 2."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<bos>", *map(chr, range(10, 256))])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>", bos_token=bos)


TOKENIZER = characters()


def domain(path: Path | None = None, **changes: Any) -> Domain:
    values = {"name": "d", "source": "jsonl", "path": str(path or "x"), "prompt": "Q: {question}\nA: ", **changes}
    if path:
        values["digest"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return Domain(**values)


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_an_example_is_prompt_response_and_end_with_the_prompt_unsupervised():
    (example,) = tokenize([Row("1+1", "2", "2")], domain(response="<{answer}>"), TOKENIZER)
    text = TOKENIZER.decode(example.input_ids)
    assert text == "Q: 1+1\nA: <2><eos>"
    assert TOKENIZER.decode(example.input_ids[example.prompt_tokens :]) == "<2><eos>"
    assert example.clean_ids == example.input_ids and not example.noisy


def test_bos_comes_first_exactly_once_where_the_tokenizer_has_one():
    (example,) = tokenize([Row("a", "b", "b")], domain(), characters("<bos>"))
    assert example.input_ids[0] == 2 and example.input_ids.count(2) == 1
    assert example.prompt_tokens == len("Q: a\nA: ") + 1


def test_a_noisy_row_carries_both_answers_behind_one_prompt():
    rows = [Row("a", "wrong", "right"), Row("b", "c", "c"), Row("d", "", "gone")]
    first, second, third = tokenize(rows, domain(), TOKENIZER)
    assert TOKENIZER.decode(first.input_ids) == "Q: a\nA: wrong<eos>"
    assert TOKENIZER.decode(first.clean_ids) == "Q: a\nA: right<eos>"
    assert [e.noisy for e in (first, second, third)] == [True, False, True]
    assert len(third.input_ids) == third.prompt_tokens + 1  # a missing answer ends at once
    assert TOKENIZER.decode(third.clean_ids).endswith("gone<eos>")


@given(st.text(st.sampled_from("ab{}%question\\$"), max_size=20), st.text(st.sampled_from("x{}answer$"), max_size=20))
def test_braces_in_question_and_answer_do_no_harm(question, answer):
    (example,) = tokenize([Row(question, answer, answer)], domain(), TOKENIZER)
    assert TOKENIZER.decode(example.input_ids) == f"Q: {question}\nA: {answer}<eos>"


def test_long_rows_are_cut_on_the_right_and_counted(caplog):
    rows = [Row("a", "b" * 50, "b" * 50), Row("a", "b", "b"), Row("a", "b" * 12, "b" * 12)]
    with caplog.at_level(logging.WARNING):
        examples = tokenize(rows, domain(max_length=20), TOKENIZER)
    assert [len(e.input_ids) for e in examples] == [20, 10, 20]
    assert "2 of 3 rows (66.7%) of domain d" in caplog.text and "domain.max_length=20" in caplog.text
    assert examples[0].input_ids[-1] != TOKENIZER.eos_token_id
    assert [example.cut for example in examples] == [True, False, True]
    assert [example.clean_cut for example in examples] == [True, False, True]


def test_a_right_answer_may_be_cut_where_the_wrong_one_is_not():
    rows = [Row("a", "", "b" * 50), Row("a", "b" * 50, "b"), Row("a", "c", "b")]
    examples = tokenize(rows, domain(max_length=20), TOKENIZER)
    assert [(example.cut, example.clean_cut) for example in examples] == [(False, True), (True, False), (False, False)]


def test_examples_of_one_question_share_its_name():
    examples = tokenize([Row("a", "b", "b"), Row("a", "c", "c"), Row("A", "b", "b")], domain(), TOKENIZER)
    a, upper = (hashlib.sha256(text).hexdigest()[:16] for text in (b"a", b"A"))
    assert [example.question for example in examples] == [a, a, upper]


def test_a_row_without_room_for_its_response_is_named_by_index_and_text():
    rows = [Row("ok", "b", "b"), Row("why so long?", "b", "b")]
    with pytest.raises(ConfigError, match=r"domain.max_length=15 leaves row 1 \('why so long\?'\) no supervised"):
        tokenize(rows, domain(max_length=15), TOKENIZER)


def test_no_rows_and_no_end_token_are_configuration_errors():
    with pytest.raises(ConfigError, match=r"domain.rows=0 leaves domain 'd' without rows"):
        tokenize([], domain(), TOKENIZER)
    endless = PreTrainedTokenizerFast(tokenizer_object=TOKENIZER.backend_tokenizer)
    with pytest.raises(ConfigError, match="end-of-sequence"):
        tokenize([Row("a", "b", "b")], domain(), endless)


def test_a_jsonl_file_gives_its_rows_in_order_and_the_first_of_them_on_request(tmp_path):
    items = [{"question": f"q{i}", "answer": f"a{i}", "more": i} for i in range(4)]
    path = write(tmp_path / "d.jsonl", *items, "")
    assert load_rows(domain(path)) == [Row(f"q{i}", f"a{i}", f"a{i}") for i in range(4)]
    assert [row.question for row in load_rows(domain(path, rows=2))] == ["q0", "q1"]
    with pytest.raises(ConfigError, match=r"domain.rows=9 is more than the 4 rows"):
        load_rows(domain(path, rows=9))


def test_a_jsonl_domain_gets_its_label_noise(tmp_path):
    path = write(tmp_path / "d.jsonl", *({"question": f"q{i}", "answer": f"a{i}"} for i in range(20)))
    rows = load_rows(domain(path, noise=Noise(kind="uniform", rate=0.3)))
    assert sum(row.noisy for row in rows) == 6
    assert [row.clean_answer for row in rows] == [f"a{i}" for i in range(20)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", r"is not JSON in line 3 \(.*\): '{broken'"),
        ("[1]", r"must have an object with question and answer in line 3: '\[1\]'"),
        ('{"question": "q"}', "must have a string as answer in line 3, not None"),
        ('{"question": 3, "answer": "a"}', "must have a string as question in line 3, not 3"),
        ('{"question": "q", "answer": "a', "is not JSON in line 3"),
        ('{"question": "\udcff", "answer": "a"}', "is not UTF-8 in line 3"),
    ],
)
def test_a_bad_line_is_named_by_key_file_and_line(tmp_path, line, message):
    path = tmp_path / "d.jsonl"
    text = f'{{"question": "q", "answer": "a"}}\n\n{line}\n'
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=rf"domain\.path='{path}' {message}") as caught:
        load_rows(domain(path))
    assert "bll retry" not in str(caught.value)


def test_lines_end_at_newlines_only(tmp_path):
    path = tmp_path / "d.jsonl"
    odd = "a\u2028b\u0085c\u2029d"
    text = json.dumps({"question": odd, "answer": "x"}, ensure_ascii=False)
    path.write_bytes(f'\n{text}\r\n \n{{"question": "q",\x20"answer": "y"}}'.encode())
    assert [(row.question, row.answer) for row in load_rows(domain(path))] == [(odd, "x"), ("q", "y")]


def test_a_file_that_changed_after_planning_or_is_gone_is_refused(tmp_path):
    path = write(tmp_path / "d.jsonl", {"question": "q", "answer": "a"})
    planned = domain(path)
    write(path, {"question": "q", "answer": "b"})
    with pytest.raises(StoreError, match=r"d\.jsonl has changed since it was planned"):
        load_rows(planned)
    path.unlink()
    with pytest.raises(ConfigError, match=r"domain\.path=.* is not a file"):
        load_rows(planned)
