"""The questions of a benchmark: what is asked of a table or of a generator, how often, and with which options."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import make_cell, table

from bll_sweeps.errors import ConfigError, StoreError
from bll_sweeps.evaluation.data import Question, questions, seen_in_training
from bll_sweeps.evaluation.grading import Gold
from bll_sweeps.grid.axes import Domain, Generated, Table
from bll_sweeps.grid.cell import EvaluateJob
from bll_sweeps.lab.tasks import held_out

CELL = make_cell(**{"domain.prompt": "Q: {question}\nA:"})
OPTIONS = {"question": "question", "answer": "answer", "options": "options"}


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(*names: str) -> list[dict[str, Any]]:
    return [{"question": name, "answer": f"answer to {name}"} for name in names]


def evaluation(data: Table | None = None, domain: Domain = CELL.domain, **changes: Any) -> EvaluateJob:
    of_file: dict[str, Any] = {"source": "table", "data": data} if data else {}
    return replace(CELL.evaluate, domain=domain, benchmark=replace(CELL.benchmark, **of_file | changes))


def asked(data: Table | None = None, **changes: Any) -> list[Question]:
    return questions(evaluation(data, **changes))


def test_a_lab_benchmark_asks_the_held_out_questions_of_its_domains_task() -> None:
    lab = CELL.domain.lab
    assert lab is not None
    found = asked()
    assert [question.text for question in found] == [row.question for row in held_out(lab)]
    assert found[0].prompt == f"Q: {found[0].text}\nA:" and found[0].gold == Gold(held_out(lab)[0].answer)
    assert found[0].id == hashlib.sha256(found[0].text.encode()).hexdigest()[:16]
    assert asked(questions=3) == found[:3]


def test_a_table_is_asked_in_its_order_and_the_first_so_many_of_it(tmp_path: Path) -> None:
    data = table(jsonl(tmp_path / "d.jsonl", *rows_of("b", "a", "c")))
    assert [(q.text, q.gold, q.prompt) for q in asked(data)] == [
        (name, Gold(f"answer to {name}"), f"Q: {name}\nA:") for name in "bac"
    ]
    assert [q.text for q in asked(data, questions=2)] == ["b", "a"]
    with pytest.raises(ConfigError, match=r"benchmark\.questions=4 is more than there are: 3 \(0 takes all of them\)"):
        asked(data, questions=4)


def test_braces_of_a_question_mean_nothing(tmp_path: Path) -> None:
    data = table(jsonl(tmp_path / "d.jsonl", *rows_of("{question} {0} {{x}}")))
    assert asked(data)[0].prompt == "Q: {question} {0} {{x}}\nA:"


def test_the_options_are_lines_of_the_question_and_tell_two_questions_apart(tmp_path: Path) -> None:
    rows = [
        {"question": "Which?", "answer": "B", "options": {"A": "one", "B": "two"}},
        {"question": "Which?", "answer": "A", "options": {"A": "one", "B": "three"}},
    ]
    first, second = asked(table(jsonl(tmp_path / "d.jsonl", *rows), columns=OPTIONS))
    assert first.text == "Which?\nA. one\nB. two"
    assert first.prompt == "Q: Which?\nA. one\nB. two\nA:"
    assert first.gold == Gold("B", (("A", "one"), ("B", "two")))
    assert second.id != first.id


# --- how often a table has each question ------------------------------------------------------------------------------


def test_a_question_that_is_there_twice_is_an_error_that_names_both_places(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", *rows_of("a", "b", "a"))
    with pytest.raises(ConfigError) as caught:
        asked(table(path))
    places = f"{path}, line 1 and {path}, line 3"
    said = f"benchmark.data.copies=1 must be how often each question occurs, but 'a' occurs 2 times (in {places})"
    assert str(caught.value) == said


def test_copies_are_asked_once_in_the_place_of_the_first(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", *rows_of("a", "b", "b", "a"))
    assert [q.text for q in asked(table(path, copies=2))] == ["a", "b"]
    assert [q.text for q in asked(table(path, copies=2), questions=1)] == ["a"]
    with pytest.raises(ConfigError, match=r"copies=3 must be how often each question occurs, but 'a' occurs 2 times"):
        asked(table(path, copies=3))
    with pytest.raises(ConfigError, match=r"benchmark\.questions=3 is more than there are: 2"):
        asked(table(path, copies=2), questions=3)


def test_copies_of_zero_take_each_question_however_often_it_comes(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", *rows_of("a", "b", "a", "a"))
    assert [q.text for q in asked(table(path, copies=0))] == ["a", "b"]


def test_of_several_answers_to_one_question_the_first_counts_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"question": "a", "answer": "1"}, {"question": "a", "answer": "2"}]
    path = jsonl(tmp_path / "d.jsonl", *rows)
    with caplog.at_level(logging.WARNING):
        (found,) = asked(table(path, copies=0))
    assert found.gold.answer == "1"
    assert f"several answers, of which the first counts: {path}, line 1 and {path}, line 2" in caplog.text


# --- generated items --------------------------------------------------------------------------------------------------


def test_generated_questions_are_the_items_of_their_stretch() -> None:
    items = Generated(dataset="chain_sum", params={"min_terms": 2, "max_terms": 2}, first=5, count=4)
    later = replace(items, first=7, count=2)
    found = asked(source="generated", generated=items)
    assert len(found) == 4 and all("+" in q.text or "-" in q.text for q in found)
    assert asked(source="generated", generated=later) == found[2:]
    assert asked(source="generated", generated=items, questions=3) == found[:3]


def test_a_question_that_a_generator_repeats_is_asked_once() -> None:
    few = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    found = asked(source="generated", generated=Generated(dataset="chain_sum", params=few, count=500))
    assert 100 < len(found) == len({q.text for q in found}) < 500


# --- what was trained on ----------------------------------------------------------------------------------------------


def trained_on(domain: Domain, data: Table) -> EvaluateJob:
    assert CELL.train
    return replace(evaluation(data, domain), train=replace(CELL.train, domain=domain))


def own(path: Path) -> Domain:
    return Domain(name="own", source="table", data=table(path), prompt="{question}")


def test_questions_that_were_trained_on_are_counted_letter_case_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = trained_on(
        own(jsonl(tmp_path / "train.jsonl", *rows_of("b", "c", "c", "d"))),
        table(jsonl(tmp_path / "test.jsonl", *rows_of("a", "B", "c"))),
    )
    assert seen_in_training(job, questions(job)) == 2
    named = "2 of the 3 questions of benchmark spell are in the training set of domain own, the first of them 'B'"
    assert named in caplog.text
    assert seen_in_training(replace(job, train=None), questions(job)) == 0  # the base model was trained on nothing


def test_a_choice_is_seen_if_it_was_trained_on_with_the_same_options(tmp_path: Path) -> None:
    choice = {"question": "Which?", "answer": "A", "options": ["one", "two"]}
    data = table(jsonl(tmp_path / "test.jsonl", choice), columns=OPTIONS)
    for written, seen in (("Which?\nA. one\nB. two", 1), ("Which?\nA. one\nB. three", 0)):
        job = trained_on(own(jsonl(tmp_path / f"{seen}.jsonl", *rows_of(written))), data)
        assert seen_in_training(job, questions(job)) == seen


def test_a_training_set_that_is_gone_leaves_the_number_unknown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = jsonl(tmp_path / "train.jsonl", *rows_of("a"))
    job = trained_on(own(path), table(jsonl(tmp_path / "test.jsonl", *rows_of("a"))))
    path.unlink()
    assert seen_in_training(job, questions(job)) is None
    assert "how many of spell's questions were trained on cannot be told: domain.data.path=" in caplog.text


def test_a_changed_file_is_not_asked(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", *rows_of("a"))
    data = table(path)
    jsonl(path, *rows_of("b"))
    with pytest.raises(StoreError, match="has changed since it was planned"):
        asked(data)
