"""The lab's rows: held-out questions stay out, noise is exact, exhausted tasks are errors."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bll_sweeps.errors import ConfigError
from bll_sweeps.grid.axes import Backbone, Domain, LabTask, ModelShape, Noise, Pretraining, Recipe
from bll_sweeps.lab import tasks
from bll_sweeps.lab.tasks import IMBALANCED_ANSWERS, held_out, pretraining_rows, training_rows, with_noise
from bll_sweeps.training.rows import Row

SPELL = LabTask(dataset="spell_backward", params={"min_word_len": 3, "max_word_len": 4}, held_out=200)
ADD = LabTask(
    dataset="chain_sum",
    params={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
    held_out=40,
)
SHAPE = ModelShape(hidden_size=8, layers=1, intermediate_size=8, heads=1, kv_heads=1)


def domain(task: LabTask, **changes: Any) -> Domain:
    values: dict[str, Any] = {
        "name": "d",
        "source": "lab",
        "task": "t",
        "lab": task,
        "rows": 500,
        "prompt": "{question}\n",
    }
    return Domain(**(values | changes))


def backbone(exposure: dict[str, int], seed: int = 0) -> Backbone:
    recipe = Recipe(name="r", learning_rate=1e-3, batch_size=8)
    pretraining = Pretraining(shape=SHAPE, exposure=exposure, recipe=recipe, seed=seed)
    return Backbone(name="b", source="lab", pretraining=pretraining, tasks={"spell": SPELL, "add": ADD})


@pytest.mark.parametrize("task", [SPELL, ADD], ids=["spell", "add"])
def test_held_out_questions_are_distinct_and_as_many_as_asked(task: LabTask) -> None:
    questions = [row.question for row in held_out(task)]
    assert len(questions) == len(set(questions)) == task.held_out
    assert all(row.answer == row.clean_answer for row in held_out(task))


@pytest.mark.parametrize("task", [SPELL, ADD], ids=["spell", "add"])
@pytest.mark.parametrize("seed", [0, 1, 1_000_003])
def test_no_training_row_asks_a_held_out_question(task: LabTask, seed: int) -> None:
    excluded = {row.question for row in held_out(task)}
    rows = training_rows(domain(task, seed=seed))
    rows += pretraining_rows(backbone({"spell": 300, "add": 300}, seed))
    excluded |= {row.question for row in held_out(SPELL)} | {row.question for row in held_out(ADD)}
    assert not excluded & {row.question for row in rows}


def test_a_twin_that_differs_in_letter_case_is_left_out_too() -> None:
    excluded = {row.question for row in held_out(SPELL)}
    unfiltered = {question for question, _ in itertools.islice(tasks._items(SPELL, 0, "spell"), 20_000)}
    twins = {question for question in unfiltered if question.casefold() in {q.casefold() for q in excluded}} - excluded
    assert twins  # Cora and cora
    rows = training_rows(domain(SPELL, rows=20_000)) + pretraining_rows(backbone({"spell": 20_000}))
    assert not {q.casefold() for q in excluded} & {row.question.casefold() for row in rows}


def test_pretraining_leaves_out_what_any_task_of_the_same_dataset_holds_out() -> None:
    other = dataclasses.replace(SPELL, params={"min_word_len": 3, "max_word_len": 3}, held_out_seed=7)
    base = backbone({"spell": 5_000})
    both = dataclasses.replace(base, tasks=base.tasks | {"short": other})
    excluded = {row.question for row in held_out(other)}
    assert excluded & {row.question for row in pretraining_rows(base)}
    assert not excluded & {row.question for row in pretraining_rows(both)}


def test_add_would_leak_if_only_seeds_kept_the_sets_apart() -> None:
    rows = training_rows(domain(ADD, rows=4000))
    assert len({row.question for row in rows}) == 200 - ADD.held_out  # every other question occurs


def test_rows_follow_from_the_seed_alone() -> None:
    noise = Noise(kind="uniform", rate=0.2)
    assert training_rows(domain(SPELL, noise=noise)) == training_rows(domain(SPELL, noise=noise))
    assert training_rows(domain(SPELL, seed=1)) != training_rows(domain(SPELL, seed=2))
    assert training_rows(domain(SPELL, rows=100)) == training_rows(domain(SPELL, rows=200))[:100]


def test_pretraining_counts_the_exposure_and_has_no_noise() -> None:
    rows = pretraining_rows(backbone({"spell": 30, "add": 20}))
    assert len(rows) == 50 and not any(row.noisy for row in rows)
    assert sum("Spell this word" in row.question for row in rows) == 30
    assert len(pretraining_rows(backbone({"spell": 30, "add": 0}))) == 30


@given(
    rate=st.floats(0, 1),
    kind=st.sampled_from(["uniform", "imbalanced", "missing"]),
    answers=st.lists(st.sampled_from("abcd"), min_size=2, max_size=40).filter(lambda x: len(set(x)) > 1),
    seed=st.integers(0, 3),
)
def test_noise_replaces_exactly_the_stated_share(rate: float, kind: Any, answers: list[str], seed: int) -> None:
    rows = [Row(f"q{i}", answer, answer) for i, answer in enumerate(answers)]
    noisy = with_noise(rows, Noise(kind=kind, rate=rate), seed)
    assert sum(row.noisy for row in noisy) == round(rate * len(rows))
    assert [(row.question, row.clean_answer) for row in noisy] == [(row.question, row.answer) for row in rows]
    assert all(row.answer == "" if kind == "missing" else row.answer in answers for row in noisy if row.noisy)


def test_uniform_noise_draws_from_all_other_answers_and_imbalanced_from_a_few() -> None:
    rows = [Row(f"q{i}", str(i), str(i)) for i in range(2000)]
    uniform = Counter(r.answer for r in with_noise(rows, Noise(kind="uniform", rate=0.5), 0) if r.noisy)
    few = Counter(r.answer for r in with_noise(rows, Noise(kind="imbalanced", rate=0.5), 0) if r.noisy)
    assert len(uniform) > 700 and max(uniform.values()) < 10
    assert len(few) <= IMBALANCED_ANSWERS
    counts = sorted(few.values(), reverse=True)
    assert counts[0] > 1.5 * counts[1] > 0  # weights 1, 1/2, 1/3 ...


def test_noise_without_a_second_answer_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"domain\.noise\.kind='uniform'"):
        with_noise([Row("q", "a", "a")] * 4, Noise(kind="uniform", rate=0.5), 0)


def test_too_few_distinct_questions_name_the_key() -> None:
    everything = LabTask(dataset="chain_sum", params=ADD.params, held_out=200)
    with pytest.raises(ConfigError, match=r"lab\.tasks\.sums\.held_out=201 .*200 distinct questions"):
        held_out(LabTask(dataset="chain_sum", params=ADD.params, held_out=201), "sums")
    assert len(held_out(everything)) == 200
    with pytest.raises(ConfigError, match=r"lab\.tasks\.sums\.held_out=200 leaves no question to train on"):
        training_rows(dataclasses.replace(domain(everything), task="sums"))


def test_unknown_datasets_and_parameters_are_named() -> None:
    with pytest.raises(ConfigError, match=r"lab\.tasks\.x\.dataset='spel_backward'.*did you mean 'spell_backward'"):
        held_out(LabTask(dataset="spel_backward"), "x")
    with pytest.raises(ConfigError, match=r"lab\.tasks\.x\.params=.*spell_backward"):
        held_out(LabTask(dataset="spell_backward", params={"length": 3}), "x")
    with pytest.raises(ConfigError, match=r"lab\.tasks\.x\.params=.*max_word_len must be"):
        held_out(LabTask(dataset="spell_backward", params={"min_word_len": 5, "max_word_len": 4}), "x")


def test_the_configured_lab_can_be_generated() -> None:
    conf = Path(__file__).parents[1] / "conf"
    configured = yaml.safe_load((conf / "lab" / "standard.yaml").read_text())["tasks"]
    for name, fields in configured.items():
        task = LabTask(**fields)
        assert len(held_out(task, name)) == task.held_out
        assert len(training_rows(domain(task, rows=50))) == 50
    for path in (conf / "backbone").glob("lab-*.yaml"):
        exposure = yaml.safe_load(path.read_text())["pretraining"]["exposure"]
        assert exposure.keys() <= configured.keys(), path.name
