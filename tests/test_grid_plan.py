"""The plan: each job once, parents first, what the store has is not run again."""

from __future__ import annotations

from cells import make_cell
from hypothesis import given
from hypothesis import strategies as st

from bll_sweeps.grid.cell import Cell
from bll_sweeps.grid.plan import STATES, PlannedJob, State, plan, ready_order

NLL, P, BASE = (
    {"name": "nll", "family": "nll"},
    {"name": "p", "family": "power", "alpha": 1.0},
    {"name": "base", "family": "base"},
)


def grid(objectives: list[dict], exposures: list[int], decodings: list[float], seeds: list[int]) -> list[Cell]:
    return [
        make_cell(
            **{
                "objective": objective,
                "backbone.pretraining.exposure": {"spell": exposure},
                "benchmark.decodings": {"sampled": {"temperature": temperature, "samples": 2}},
                "seed": seed,
            }
        )
        for objective in objectives
        for exposure in exposures
        for temperature in decodings
        for seed in seeds
    ]


def test_a_checkpoint_is_trained_once_however_many_benchmarks_it_is_evaluated_on() -> None:
    planned = plan(grid([BASE, NLL, P], [64, 128], [0.5, 1.0, 2.0], [0]), lambda job_id: "new")
    counts = {kind: states["total"] for kind, states in planned.counts().items()}
    assert counts == {"pretrain": 2, "prior": 2, "train": 4, "evaluate": 18}
    assert len(planned.cells) == 18
    assert planned.model_loads() == 6  # four checkpoints and two base models, not eighteen


def test_what_is_done_is_not_run_again() -> None:
    cells = grid([BASE, NLL], [64], [1.0], [0])
    everything = plan(cells, lambda job_id: "new")
    done = {job_id for job_id, p in everything.jobs.items() if p.job.kind in ("pretrain", "train")}
    planned = plan(cells, lambda job_id: "done" if job_id in done else "new")
    assert sorted(p.job.kind for p in planned.to_run) == ["evaluate", "evaluate", "prior"]
    assert planned.counts()["train"] == {
        "total": 1, "new": 0, "running": 0, "done": 1, "stale": 0, "pruned": 0, "failed": 0, "damaged": 0,
    }  # fmt: skip
    assert plan(cells, lambda job_id: "done").to_run == []


def test_a_pruned_job_that_nothing_needs_is_done() -> None:
    planned = plan(
        grid([BASE, NLL], [64], [1.0, 2.0], [0]), lambda job_id: "pruned" if job_id.startswith("train") else "done"
    )
    assert planned.to_run == []
    assert planned.counts()["train"]["done"] == 1
    assert planned.counts()["train"]["pruned"] == 0


def test_a_pruned_job_runs_again_if_an_unfinished_one_needs_it_even_through_another_pruned_one() -> None:
    cells = grid([NLL, P], [64], [1.0, 2.0], [0])
    missing = cells[0].evaluate

    def state(job_id: str) -> State:
        return "new" if job_id == missing.id else "pruned" if job_id.startswith(("train", "pretrain")) else "done"

    planned = plan(cells, state)
    assert missing.train
    assert [p.job.id for p in planned.to_run] == [*missing.train.parents, missing.train.id, missing.id]
    counts = {kind: (states["done"], states["pruned"], states["new"]) for kind, states in planned.counts().items()}
    assert counts == {"pretrain": (0, 1, 0), "prior": (1, 0, 0), "train": (1, 1, 0), "evaluate": (3, 0, 1)}
    assert planned.model_loads() == 1


def test_what_is_run_again_for_its_code_also_runs_the_pruned_jobs_that_it_needs() -> None:
    def state(job_id: str) -> State:
        return {"pretrain": "done", "prior": "stale", "train": "pruned", "evaluate": "stale"}[job_id.split("-")[0]]  # type: ignore[return-value]

    planned = plan(grid([NLL], [64], [1.0], [0]), state)
    assert planned.to_run == []
    assert [p.job.kind for p in planned.stale_as_new().to_run] == ["prior", "train", "evaluate"]


@given(states=st.lists(st.sampled_from(STATES), min_size=12, max_size=12))
def test_what_runs_are_the_unfinished_jobs_and_the_pruned_ones_they_need(states: list[State]) -> None:
    cells = grid([BASE, NLL, P], [64], [1.0, 2.0], [0])
    known = iter(states)
    planned = plan(cells, lambda job_id: next(known))
    running = {p.job.id for p in planned.to_run}
    needed = {parent for p in planned.to_run for parent in p.job.parents}
    for job_id, p in planned.jobs.items():
        expected = job_id in needed if p.state == "pruned" else p.state not in ("done", "stale")
        assert (job_id in running) == expected
    assert [p for p in planned.jobs.values() if p.job.id in running] == planned.to_run  # parents first


def test_cells_that_ask_for_the_same_evaluation_are_one() -> None:
    twice = [make_cell(**{"recipe.learning_rate": 1e-4}), make_cell(**{"recipe.learning_rate": 0.0001})]
    assert len(plan(twice, lambda job_id: "new").cells) == 1


def test_the_summary_has_the_documented_shape() -> None:
    summary = plan(grid([NLL], [64], [1.0], [0]), lambda job_id: "new").summary()
    assert summary["kinds"]["train"]["new"] == 1
    assert {key: summary[key] for key in ("cells", "model_loads")} == {"cells": 1, "model_loads": 1}


@given(
    objectives=st.lists(st.sampled_from([BASE, NLL, P]), min_size=1, max_size=4),
    exposures=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    seeds=st.lists(st.integers(0, 2), min_size=1, max_size=3),
    done=st.sets(st.sampled_from(["pretrain", "prior", "train", "evaluate"])),
)
def test_every_order_puts_parents_before_children_and_names_each_job_once(objectives, exposures, seeds, done) -> None:
    planned = plan(
        grid(objectives, exposures, [1.0], seeds), lambda job_id: "done" if job_id.split("-")[0] in done else "new"
    )
    jobs: list[PlannedJob] = list(planned.jobs.values())
    for order in (jobs, ready_order(jobs)):
        seen: set[str] = set()
        for p in order:
            assert set(p.job.parents) <= seen
            assert p.job.id not in seen
            seen.add(p.job.id)
        assert seen == set(planned.jobs)
    for cell in planned.cells:
        assert {i for i in cell.ids().values() if i} <= set(planned.jobs)
