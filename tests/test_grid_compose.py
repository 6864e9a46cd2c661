"""Cells composed once per choice equal what Hydra composes cell by cell."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from bll_sweeps.cli.composing import hydra_on_conf
from bll_sweeps.grid.schema.compose import Composer, same
from bll_sweeps.grid.schema.config import conf_dir
from bll_sweeps.grid.schema.grids import _composer

FIXTURES = Path(__file__).parent / "fixtures"

# Per axis: overrides that may be drawn, at most one of each row.
DRAWN = [
    [f"objective={name}" for name in ("base", "nll", "p", "power", "logp_above", "unlikelihood_below")],
    ["objective.alpha=0.25", "objective.alpha=3", "objective.normaliser=survivors"],
    ["backbone=lab-a", "backbone=lab-b", "backbone=lab-c"],
    ["++backbone.pretraining.exposure.add=7", "backbone.pretraining.recipe.learning_rate=1e-4"],
    ["benchmark=lab-spell", "benchmark=lab-rotate", "benchmark=lab-add"],
    ["domain=lab-add", "domain=lab-rotate"],
    ["domain.noise.rate=0.4", "domain.noise.kind=missing", "domain.rows=10"],
    ["benchmark.decodings.sampled.samples=3", "benchmark.max_new_tokens=9"],
    ["recipe=lab", "recipe=follows-seed"],
    ["recipe.steps=3", "recipe.betas=[0.8,0.9]"],
    ["lab.tasks.spell.held_out=11", "lab.tasks.spell.params.min_word_len=2"],
    ["execution.micro_batch=4", "execution=cuda"],
    ["tracker=off", "tracker=brings-execution"],
    ["seed=1", "seed=2"],
    ["paths.root=elsewhere"],
]
# The same of choices that bring others along and recipes that read backbone and domain.
DRAWN_OF_PAPER = [
    ["backbone=llama-3.1-8b", "backbone=qwen2.5-32b", "backbone=lab-a"],
    ["backbone.learning_rate=0.5", "backbone.dtype=float32", "backbone.source=random"],
    ["benchmark=math500", "benchmark=figfont", "benchmark=medqa", "benchmark=lab-spell"],
    ["domain=math", "domain=medical", "domain=figfont"],
    ["domain.hints.weight_decay=0.5", "domain.hints.micro_batch=2", "domain.max_length=99"],
    ["recipe=paper", "recipe=authors", "recipe=lab", "recipe=follows-seed"],
    ["recipe.learning_rate=0.25", "recipe.ranks=4", "recipe.drop_last=false"],
    ["execution=cpu", "execution=cuda"],
    ["tracker=off", "tracker=brings-execution"],
    ["paths=rehearsal"],
    ["seed=1", "objective=p"],
]


@st.composite
def overrides(draw: st.DrawFn, of: list[list[str]]) -> list[str]:
    rows = draw(st.lists(st.sampled_from(range(len(of))), unique=True, max_size=7))
    return draw(st.permutations([draw(st.sampled_from(of[row])) for row in rows]))


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    os.environ["BLL_CONF"] = str(FIXTURES / "user_conf")
    try:
        with hydra_on_conf() as hydra:
            config = hydra.compose_config("cell", [], with_log_configuration=False, run_mode=_run_mode())
            yield _composer(hydra.config_loader, config)
    finally:
        del os.environ["BLL_CONF"]


def _run_mode() -> Any:
    from hydra.types import RunMode

    return RunMode.MULTIRUN


@pytest.mark.slow
# Compositions are slow, so failing draws are not shrunk: they are short to begin with.
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
@given(drawn=overrides(DRAWN) | overrides(DRAWN_OF_PAPER))
def test_a_factorised_cell_equals_hydras_own_compose(composer: Composer, drawn: list[str]) -> None:
    assert composer.factorised
    expected = OmegaConf.to_container(compose("cell", drawn), resolve=True)
    assert composer.cell(drawn) == expected


def test_a_benchmark_brings_its_domain_unless_one_is_given(composer: Composer) -> None:
    assert composer.cell(["benchmark=lab-add"])["domain"]["task"] == "add"
    assert composer.cell(["benchmark=lab-add", "domain=lab-rotate"])["domain"]["task"] == "rotate"
    assert composer.cell(["domain.rows=10", "benchmark=lab-add"])["domain"]["rows"] == 10


def test_a_key_that_interpolates_another_is_resolved_per_cell(composer: Composer) -> None:
    names = [
        composer.cell(["recipe=follows-seed", f"seed={seed}", f"objective={objective}"])["recipe"]["name"]
        for seed in (1, 2)
        for objective in ("nll", "p")
    ]
    assert names == ["seed-1-nll", "seed-1-p", "seed-2-nll", "seed-2-p"]


PAPER = [
    [f"backbone={backbone}", f"benchmark={benchmark}", *more]
    for backbone in ("qwen2.5-7b", "llama-3.1-8b", "lab-a")
    for benchmark in ("math500", "figfont")
    for more in ([], ["recipe=authors"], ["backbone.learning_rate=0.5", "domain.hints.weight_decay=0.25"])
]


@pytest.mark.slow
def test_a_recipe_that_reads_backbone_and_domain_is_resolved_as_hydra_does(composer: Composer) -> None:
    before = composer.compositions
    found = [composer.cell(overrides) for overrides in PAPER]
    assert composer.compositions - before < len(PAPER)
    for overrides, cell in zip(PAPER, found, strict=True):
        assert cell == OmegaConf.to_container(compose("cell", overrides), resolve=True), overrides
    read = {(cell["recipe"]["learning_rate"], cell["recipe"]["weight_decay"]) for cell in found}
    assert read == {(5e-5, 0.01), (5e-5, 1e-5), (2e-5, 0.01), (2e-5, 1e-5), (0.5, 0.25)}
    assert {cell["recipe"]["micro_batch"] for cell in found} == {4, 16}


def test_a_backbone_brings_its_execution_and_a_domain_its_recipe_unless_one_is_given(composer: Composer) -> None:
    chosen = composer.cell(["backbone=qwen2.5-7b", "benchmark=math500"])
    assert (chosen["execution"]["name"], chosen["recipe"]["name"]) == ("cuda", "paper")
    given_ones = composer.cell(["backbone=qwen2.5-7b", "benchmark=math500", "execution=cpu", "recipe=lab-tiny"])
    assert (given_ones["execution"]["name"], given_ones["recipe"]["name"]) == ("cpu", "lab-tiny")


@pytest.mark.slow
def test_many_cells_need_few_compositions(composer: Composer) -> None:
    before = composer.compositions
    cells = [
        composer.cell([f"objective={o}", f"benchmark=lab-{b}", f"seed={s}"])
        for o in ("nll", "p", "p10")
        for b in ("spell", "add")
        for s in range(50)
    ]
    assert len(cells) == 300
    assert composer.compositions - before <= 3 + 2 + 50


def test_where_a_defaults_list_interpolates_nothing_is_factorised() -> None:
    def no_compose(_: object) -> Any:
        raise AssertionError("not needed")

    assert not Composer(no_compose, [conf_dir(), FIXTURES / "interpolated_conf"]).factorised
    assert Composer(no_compose, [conf_dir()]).factorised


def test_the_check_at_launch_notices_a_difference(composer: Composer) -> None:
    config = composer.cell(["seed=1"])
    composer.check([(["seed=1"], config)])
    with pytest.raises(AssertionError, match="seed=1"):
        composer.check([(["seed=1"], config | {"seed": 2})])
    assert same({"x": float("nan")}, {"x": float("nan")})


@pytest.mark.slow
def test_every_choice_of_the_tree_composes(composer: Composer) -> None:
    for file in sorted(conf_dir().rglob("*.yaml")):
        group = file.parent.relative_to(conf_dir()).as_posix()
        if group not in (".", "sweep"):
            assert compose("cell", [f"{group}={file.stem}"], return_hydra_config=True)
