"""Rules -> the resources of a job: later rules win, and only trainings have several ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bll_sweeps.errors import ConfigError
from bll_sweeps.grid.build import build
from bll_sweeps.grid.cell import KINDS
from bll_sweeps.grid.resources import ResourceRule, Shape, most_gpus, shape_of
from bll_sweeps.grid.settings import Execution

BILLION = 10**9
CONF = Path(__file__).parents[1] / "conf"


def test_without_rules_a_job_has_one_process_on_a_cpu() -> None:
    assert {shape_of(kind, 0) for kind in KINDS} == {Shape()}
    assert Shape().ranks == 1 and Shape().all_gpus == 0


def test_later_rules_win_field_by_field_and_the_experiments_come_last() -> None:
    site = {
        "all": ResourceRule(partition="a", cpus=2, time_min=10),
        "evaluate": ResourceRule(kinds=("evaluate",), cpus=3),
    }
    experiment = {"all": ResourceRule(time_min=20), "train": ResourceRule(kinds=("train",), partition="b")}
    assert shape_of("train", 0, site, experiment) == Shape(partition="b", cpus=2, time_min=20)
    assert shape_of("evaluate", 0, site, experiment) == Shape(partition="a", cpus=3, time_min=20)
    assert shape_of("evaluate", 0, experiment, site) == Shape(partition="a", cpus=3, time_min=10)


def test_a_site_that_gives_memory_by_the_core_can_say_that_none_is_asked_for() -> None:
    brought = {"all": ResourceRule(memory_gib=64, cpus=8)}
    assert shape_of("train", 0, brought, {"site": ResourceRule(memory_gib=0)}) == Shape(cpus=8, memory_gib=None)


@pytest.mark.parametrize("execution", ["cpu", "cuda"])
def test_a_site_has_its_way_against_what_an_execution_brings_along(execution: str) -> None:
    ours = build(Execution, yaml.safe_load((CONF / "execution" / f"{execution}.yaml").read_text()))
    site = {"site": ResourceRule(partition="batch", time_min=120), "training": ResourceRule(kinds=("train",), cpus=3)}
    train = shape_of("train", 0, ours.default_resources, site, ours.resources)
    assert (train.partition, train.time_min, train.cpus) == ("batch", 120, 3)
    assert train.gpus == (1 if execution == "cuda" else 0)  # of which the site says nothing
    experiment = ours.resources | {"all": ResourceRule(time_min=30)}
    assert shape_of("train", 0, ours.default_resources, site, experiment).time_min == 30


def test_a_rule_that_says_zero_gpus_takes_them_away_and_one_that_says_nothing_does_not() -> None:
    rules = {"all": ResourceRule(gpus=4), "prior": ResourceRule(kinds=("prior",), gpus=0), "more": ResourceRule(cpus=8)}
    assert shape_of("prior", 0, rules).gpus == 0
    assert shape_of("train", 0, rules).gpus == 4


@pytest.mark.parametrize(("parameters", "gpus"), [(0, 1), (4 * BILLION, 1), (4 * BILLION + 1, 8)])
def test_a_rule_for_large_backbones_begins_above_its_size(parameters: int, gpus: int) -> None:
    rules = {"all": ResourceRule(gpus=1), "large": ResourceRule(above_billion=4, gpus=8)}
    assert shape_of("train", parameters, rules).gpus == gpus


def test_a_training_has_a_rank_per_gpu_unless_it_is_told_and_nothing_else_has_ranks() -> None:
    rules = {"all": ResourceRule(gpus=4, nodes=2)}
    assert shape_of("train", 0, rules).ranks == shape_of("pretrain", 0, rules).ranks == 8
    told = rules | {"tasks": ResourceRule(tasks=3)}
    assert shape_of("train", 0, told).ranks == 6
    for kind in ("prior", "evaluate"):
        shape = shape_of(kind, 0, told)
        assert (shape.ranks, shape.nodes, shape.all_gpus) == (1, 1, 4)
    assert shape_of("train", 0, {"cpu": ResourceRule(gpus=0)}).ranks == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gpus": -1}, "gpus=-1 must be >= 0"),
        ({"nodes": 0}, "nodes=0 must be >= 1"),
        ({"tasks": 0}, "tasks=0 must be >= 1"),
        ({"cpus": 0}, "cpus=0 must be >= 1"),
        ({"time_min": 0}, "time_min=0 must be >= 1"),
        ({"memory_gib": -1.0}, "memory_gib=-1.0 must be >= 0 (0: ask for none)"),
        ({"memory_gib": float("nan")}, "memory_gib=nan must be >= 0"),
        ({"above_billion": -1}, "above_billion=-1 must be >= 0"),
        ({"kinds": ("trian",)}, "kinds='trian' is unknown; did you mean 'train'?"),
    ],
)
def test_what_cannot_be_asked_for_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ResourceRule(**values)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


def test_the_largest_of_the_jobs_counts_per_node() -> None:
    assert most_gpus([]) == 0
    assert most_gpus([Shape(gpus=2, nodes=4), Shape(gpus=3)]) == 3
