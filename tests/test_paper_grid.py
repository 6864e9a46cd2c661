"""The published grids of the paper: how much work they are, their protocols, and the sets that they read."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from grids import cells

from bll_sweeps.errors import ConfigError
from bll_sweeps.evaluation.data import questions
from bll_sweeps.evaluation.grading import grader
from bll_sweeps.evaluation.task_files import TASKS
from bll_sweeps.grid.axes import Generated, Table
from bll_sweeps.grid.cell import Cell, TrainJob
from bll_sweeps.grid.plan import plan
from bll_sweeps.lab.generated import generated_items
from bll_sweeps.training.rows import read_table

CONF = Path(__file__).parents[1] / "conf"
COLUMNS = {
    "math": {"math500": 500, "minerva_math": 272, "olympiadbench": 674, "aime24": 30, "amc23": 40},
    "medical": {
        "medmcqa": 4183,
        "medqa": 1273,
        "pubmedqa": 1000,
        "mmlu_pro_medical": 1535,
        "gpqa_medical": 390,
        "lancet": 412,
        "nejm": 603,
        "medbullets_op4": 308,
        "medbullets_op5": 308,
        "medxpertqa": 1449,
    },
    "figfont": {"figfont": 5000},
}


@cache
def sweep(name: str) -> list[Cell]:
    return cells(f"sweep={name}")


def jobs(found: list[Cell]) -> dict[str, int]:
    return {kind: states["total"] for kind, states in plan(found, lambda job: "new").counts().items()}


@pytest.mark.slow
def test_the_papers_grid_is_28_trainings_and_35_model_loads() -> None:
    found = sweep("paper")
    assert jobs(found) == {"prior": 12, "train": 28, "evaluate": 148 + 64}
    assert Counter(cell.objective.is_base for cell in found) == {False: 148, True: 64}
    assert plan(found, lambda job: "new").model_loads() == 35


@pytest.mark.slow
def test_the_full_grid_is_189_trainings_for_1008_cells() -> None:
    found = sweep("full")
    assert len(found) == 1008
    assert jobs(found) == {"prior": 21, "train": 189, "evaluate": 1008}


@pytest.mark.slow
def test_the_alpha_sweep_has_19_values_at_each_end() -> None:
    trained = {(cell.backbone.name, cell.domain.name, cell.objective.alpha) for cell in sweep("alpha")}
    assert Counter(key[:2] for key in trained) == {
        ("qwen2.5-math-1.5b", "math"): 19,
        ("qwen2.5-7b", "figfont"): 19,
    }


@pytest.mark.slow
def test_thresholds_at_quantiles_wait_for_the_one_prior_job() -> None:
    found = [cell for cell in sweep("quantile") if cell.objective.needs_prior]
    assert {cell.train.parents for cell in found if cell.train} == {(found[0].prior.id,)}
    assert {cell.objective.threshold_quantile for cell in found} >= {0.05, 0.1, 0.5, 0.9}


def test_learning_rates_and_decay_are_the_papers() -> None:
    rates = {(c.backbone.name, c.domain.name): (c.recipe.learning_rate, c.recipe.weight_decay) for c in sweep("paper")}
    assert rates["llama-3.1-8b", "math"] == (2e-5, 0.01)
    assert rates["llama-3.2-3b", "medical"] == (5e-5, 0.01)
    assert rates["qwen2.5-7b", "figfont"] == (5e-5, 1e-5)
    steps = {c.domain.name: c.recipe.total_steps(c.domain.hints.rows) for c in sweep("paper")}
    assert steps == {"math": 264, "medical": 91, "figfont": 156}


@pytest.mark.slow
def test_the_rehearsal_goes_through_every_template_benchmark_grader_and_recipe() -> None:
    mini, paper = sweep("paper-mini"), sweep("paper")
    assert {(c.backbone.template, c.domain.name, c.domain.prompt) for c in paper} <= {
        (c.backbone.template, c.domain.name, c.domain.prompt) for c in mini
    }
    for of in ("benchmark.name", "benchmark.graders", "benchmark.decodings", "objective.name", "recipe.name"):
        axis, field = of.split(".")
        values = [{str(getattr(getattr(cell, axis), field)) for cell in found} for found in (paper, mini)]
        assert values[0] <= values[1], of
    assert {c.recipe.gradient for c in mini} == {"step", "authors"}
    assert all(isinstance(c.train, TrainJob) for c in mini if not c.objective.is_base)


@pytest.mark.parametrize("domain", COLUMNS)
def test_every_column_has_its_task_file_with_the_same_protocol(domain: str) -> None:
    for name, size in COLUMNS[domain].items():
        chosen = yaml.safe_load((CONF / f"benchmark/{name}.yaml").read_text())
        task = _task(TASKS / f"{name}.yaml")
        (decoding,) = chosen["decodings"].values()
        kwargs = task["generation_kwargs"]
        assert task["task"] == chosen["task"] == chosen["name"] == name
        assert chosen["domain"] == domain
        assert kwargs["max_gen_toks"] == chosen["max_new_tokens"]
        assert kwargs["temperature"] == decoding["temperature"]
        assert kwargs["until"] == []
        assert kwargs["do_sample"] == (decoding["temperature"] > 0)
        assert task["repeats"] == decoding.get("samples", 1)
        assert chosen["data"]["size"] == size if "data" in chosen else chosen["generated"]["count"] == size
        assert all(grader(known) for known in chosen["graders"])


def _task(path: Path) -> dict[str, Any]:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: str(node.value))
    data = yaml.load(path.read_text(), Loader)  # noqa: S506 - a SafeLoader
    included = data.pop("include", None)
    return (_task(path.parent / included) if included else {}) | data


# --- figlet fonts -----------------------------------------------------------------------------------------------------


def test_figlet_items_are_reasoning_gyms_for_seed_42() -> None:
    import reasoning_gym

    theirs = reasoning_gym.create_dataset(
        "figlet_font", min_word_len=2, max_word_len=5, space_letters=True, seed=42, size=45_000
    )
    for split, first in (("domain", 0), ("benchmark", 40_000)):
        block = yaml.safe_load((CONF / split / "figfont.yaml").read_text())["generated"]
        assert block["first"] == first
        for offset in (0, 1, 17, block["count"] - 1):
            ours = Generated(**block | {"first": first + offset, "count": 1})
            (item,) = generated_items(ours, split)
            assert (item.question, item.answer) == (
                theirs[first + offset]["question"],
                theirs[first + offset]["answer"],
            )


# --- the files of the Qwen2.5-Math evaluation, whose rows the paper's authors grade ----------------------------------


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"problem": "q", "solution": "s", "answer": "\\frac34", "unique_id": "test/1"}, {}, "\\frac34"),
        ({"problem": "q", "solution": "$\\boxed{1} \\boxed{\\frac12}$"}, {"answer": "solution|last_box"}, "\\frac12"),
        ({"problem": "q", "id": 1606, "final_answer": ["2,4"], "context": None}, {"answer": "final_answer[0]"}, "2,4"),
        ({"problem": "q", "id": 0, "answer": 27.0, "url": "u"}, {}, "27"),
        ({"problem": "q", "id": 60, "answer": "204"}, {}, "204"),
    ],
)  # fmt: skip
def test_the_files_of_the_original_evaluation_can_be_named_instead(
    row: dict[str, Any], columns: dict[str, str], expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(row) + "\n")
    named = [f"+benchmark.data.columns.{ours}='{theirs}'" for ours, theirs in columns.items()]
    cell, *_ = cells(
        "backbone=qwen2.5-math-1.5b", "benchmark=amc23", "benchmark.data.hub=''", f"benchmark.data.path={path}",
        "benchmark.data.columns.question=problem", "benchmark.data.size=1", "~benchmark.data.columns.id",
        *[text.lstrip("+") for text in named],
    )  # fmt: skip
    (question,) = questions(cell.evaluate)
    assert question.gold.answer == expected
    assert "{question}" not in question.prompt and question.prompt.startswith("<|im_start|>system\n")


def test_gpqas_five_copies_are_one_question_and_other_numbers_of_copies_an_error() -> None:
    settings = ["paths=rehearsal", "backbone.source=random", "domain.data.size=0", "benchmark.data.size=0"]
    cell, *_ = cells("backbone=qwen2.5-1.5b", "benchmark=gpqa_medical", *settings)
    assert cell.benchmark.table and len(read_table(cell.benchmark.table, "benchmark.data")) == 15
    found = questions(cell.evaluate)
    assert len({question.id for question in found}) == len(found) == 3
    assert found[0].text.endswith("\nA. Heart\nB. Lung\nC. Kidney\nD. Liver")
    cell, *_ = cells("backbone=qwen2.5-1.5b", "benchmark=gpqa_medical", "benchmark.data.copies=4", *settings)
    with pytest.raises(ConfigError, match=r"benchmark.data.copies=4 must be how often"):
        questions(cell.evaluate)


def test_a_table_needs_a_place() -> None:
    with pytest.raises(ConfigError, match="only one can be meant"):
        Table(path="x.jsonl", hub="org/name", files="*")
