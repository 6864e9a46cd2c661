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

from bll_sweeps.cli import _hydra
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


@st.composite
def overrides(draw: st.DrawFn) -> list[str]:
    rows = draw(st.lists(st.sampled_from(range(len(DRAWN))), unique=True, max_size=7))
    return draw(st.permutations([draw(st.sampled_from(DRAWN[row])) for row in rows]))


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    os.environ["BLL_CONF"] = str(FIXTURES / "user_conf")
    try:
        with _hydra() as hydra:
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
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
@given(drawn=overrides())
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
