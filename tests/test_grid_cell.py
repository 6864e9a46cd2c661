"""What is part of a job's identity and what is not."""

from __future__ import annotations

import math

import pytest
from cells import CELL, changed, make_cell
from hypothesis import given
from hypothesis import strategies as st

from bll_sweeps.errors import ConfigError
from bll_sweeps.grid.axes import canonical_json, to_plain
from bll_sweeps.grid.build import build
from bll_sweeps.grid.cell import JOB_TYPES, Cell


def ids(cell: Cell) -> dict[str, str]:
    return {job.kind: job.id for job in cell.jobs()}


def test_ids_are_pinned_across_releases() -> None:
    """A change here makes every user's finished jobs unknown: raise KIND_VERSION, say so in CHANGELOG, then edit."""
    assert ids(make_cell()) == {
        "pretrain": "pretrain-db2405bf21b7a410",
        "prior": "prior-6123c17964b7229f",
        "train": "train-4ab5891b25f4d780",
        "evaluate": "evaluate-d43a366bc9bf4eea",
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("objective.name", "another name"),
        ("backbone.name", "another name"),
        ("backbone.pretraining.recipe.name", "another name"),
        ("domain.name", "spell"),
        ("domain.path", "elsewhere.jsonl"),
        ("benchmark.name", "another name"),
        ("benchmark.primary", "greedy"),
        ("recipe.name", "another name"),
    ],
)
def test_names_and_places_change_no_id(key: str, value: str) -> None:
    assert ids(make_cell(**{key: value})) == ids(make_cell())


@pytest.mark.parametrize(
    ("key", "value", "kinds"),
    [
        ("objective.alpha", 9.0, "train evaluate"),
        ("objective.family", "convexity", "train evaluate"),
        ("objective.keep", "above", "train evaluate"),
        ("recipe.learning_rate", 1e-3, "train evaluate"),
        ("recipe.betas", [0.9, 0.99], "train evaluate"),
        ("recipe.steps", 9, "train evaluate"),
        ("seed", 1, "train evaluate"),
        ("domain.prompt", "Q: {question}\n", "prior train evaluate"),
        ("domain.response", "A: {answer}", "prior train evaluate"),
        ("domain.noise", {"kind": "uniform", "rate": 0.3}, "prior train evaluate"),
        ("domain.noise", {"kind": "missing", "rate": 0.2}, "prior train evaluate"),
        ("domain.digest", "1" * 64, "prior train evaluate"),
        ("domain.rows", 129, "prior train evaluate"),
        ("benchmark.max_new_tokens", 9, "evaluate"),
        ("benchmark.task_digest", "1" * 64, "evaluate"),
        ("benchmark.decodings", {"sampled": {"temperature": 0.9, "samples": 4}}, "evaluate"),
        ("backbone.pretraining.exposure", {"spell": 257, "add": 64}, "pretrain prior train evaluate"),
        ("backbone.pretraining.recipe.batch_size", 33, "pretrain prior train evaluate"),
        ("backbone.pretraining.shape.layers", 2, "pretrain prior train evaluate"),
        ("backbone.pretraining.seed", 1, "pretrain prior train evaluate"),
    ],
)
def test_what_changes_a_result_changes_just_the_ids_that_depend_on_it(key: str, value: object, kinds: str) -> None:
    changes = {key: value} | ({"benchmark.primary": "sampled"} if key == "benchmark.decodings" else {})
    before, after = ids(make_cell()), ids(make_cell(**changes))
    assert {kind for kind in before if before[kind] != after[kind]} == set(kinds.split())


def test_two_ways_of_writing_one_objective_are_one_job() -> None:
    nll = make_cell(**{"objective": {"name": "nll", "family": "nll"}})
    limit = make_cell(**{"objective": {"name": "power", "family": "power", "alpha": 0.0}})
    unused = make_cell(**{"objective": {"name": "nll", "family": "nll", "alpha": 3.0, "threshold": 0.7}})
    assert ids(nll) == ids(limit) == ids(unused)


def test_noise_of_rate_zero_is_no_noise() -> None:
    assert ids(make_cell(**{"domain.noise": {"kind": "missing", "rate": 0.0}})) == ids(
        make_cell(**{"domain.noise": {}})
    )


def test_a_task_with_no_pretraining_items_is_the_same_as_one_that_is_not_named() -> None:
    assert ids(make_cell(**{"backbone.pretraining.exposure": {"spell": 256, "add": 0}})) == ids(
        make_cell(**{"backbone.pretraining.exposure": {"spell": 256}})
    )


def test_base_does_not_depend_on_recipe_or_seed() -> None:
    base = {"objective": {"name": "base", "family": "base"}}
    one, other = make_cell(**base), make_cell(**base, **{"recipe.steps": 99, "seed": 7})
    assert one.train is None
    assert ids(one) == ids(other)


@given(alpha=st.floats(0, 20), rate=st.floats(0, 1), steps=st.integers(0, 10_000), seed=st.integers(0, 5))
def test_a_job_read_back_from_json_has_the_same_id(alpha: float, rate: float, steps: int, seed: int) -> None:
    cell = make_cell(
        **{
            "objective.alpha": alpha,
            "domain.noise": {"kind": "uniform", "rate": rate},
            "recipe.steps": steps,
            "seed": seed,
        }
    )
    for job in cell.jobs():
        assert build(JOB_TYPES[job.kind], to_plain(job)).id == job.id


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_has_one_canonical_text_and_reads_back(x: float) -> None:
    text = canonical_json({"x": x})
    assert canonical_json({"x": float(repr(x))}) == text


@pytest.mark.parametrize(
    ("key", "value", "needle"),
    [
        ("objective.alpha", math.inf, "objective.alpha=inf must be finite"),
        ("objective.alpha", math.nan, "objective.alpha=nan must be finite"),
        ("objective.alpha", -1.0, "objective.alpha=-1.0 must be >= 0"),
        ("objective.threshold", 1.5, "objective.threshold=1.5 must lie in [0, 1]"),
        ("objective.family", "powr", "did you mean 'power'"),
        ("recipe.learning_rate", -1e-3, "recipe.learning_rate=-0.001 must be finite and greater than 0"),
        ("recipe.learning_rate", math.nan, "recipe.learning_rate=nan must be finite"),
        ("recipe.learning_rate", "fast", "recipe.learning_rate='fast' must be of type float, not str"),
        ("recipe.stepz", 3, "recipe.stepz=3 is unknown; did you mean 'steps'"),
        ("domain.noise", {"kind": "unifrom"}, "domain.noise.kind='unifrom' is unknown; did you mean 'uniform'"),
        ("domain.prompt", "no slot", "domain.prompt='no slot' must contain {question}"),
        ("benchmark.domain", "other", "benchmark.domain='other' is not the cell's domain='spell'"),
        ("benchmark.primary", "sample", "did you mean 'sampled'"),
        ("benchmark.decodings", {"sampled": {"temperature": 0.0, "samples": 4}}, "must be 1 at temperature=0"),
        ("backbone.pretraining.exposure", {"spel": 3}, "did you mean 'spell'"),
        ("backbone.pretraining.shape.heads", 3, "must be a multiple of heads=3"),
    ],
)
def test_bad_values_are_named_with_key_value_and_choices(key: str, value: object, needle: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Cell, changed(**{key: value}))
    assert needle in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named() -> None:
    data = {key: value for key, value in CELL.items() if key != "recipe"}
    with pytest.raises(ConfigError, match="recipe=None is missing"):
        build(Cell, data)
