"""The command line: bad input is one line that names key, value and choices, exit code 2, nothing started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Bll

from bll_sweeps.store.layout import Layout

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize(
    ("override", "needles"),
    [
        ("objective=nl", ["objective='nl'", "did you mean 'nll'", "logp_above"]),
        ("benchmark=lab-spel", ["benchmark='lab-spel'", "did you mean 'lab-spell'"]),
        ("sweep=labb", ["sweep='labb'", "did you mean 'lab'", "smoke"]),
        ("objectiv=nll", ["objectiv", "did you mean 'objective'"]),
        ("recipe.learnin_rate=1", ["recipe.learnin_rate", "did you mean 'learning_rate'", "batch_size"]),
        ("backbone.pretraining.exposure.spel=3", ["exposure.spel", "did you mean 'spell'"]),
        ("hydra.launcher.workes=3", ["hydra.launcher.workes", "did you mean 'workers'"]),
        ("recipe.learning_rate=fast", ["recipe.learning_rate='fast'", "must be a number"]),
        ("seed=1.5", ["seed='1.5'", "must be a whole number"]),
        ("recipe.learning_rate=-0.1", ["recipe.learning_rate=-0.1", "must be finite and greater than 0"]),
        ("recipe.learning_rate=inf", ["recipe.learning_rate=inf", "must be finite"]),
        ("objective.threshold=1.5", ["objective.threshold=1.5", "must lie in [0, 1]"]),
        ("objective.alpha=nan", ["objective.alpha=nan", "must be finite"]),
        ("objective.family=powr", ["objective.family='powr'", "did you mean 'power'", "unlikelihood"]),
        ("domain=no-such-domain", ["domain='no-such-domain'", "lab-spell"]),
        ("domain=lab-add", ["benchmark.domain='lab-spell'", "domain='lab-add'"]),
        ("domain.task=spel", ["domain.task='spel'", "did you mean 'spell'"]),
        ("benchmark.task=exact", ["benchmark.task='exact'", "exact_answer"]),
        ("backbone=glob(zzz*)", ["backbone=glob(zzz*)", "matches nothing"]),
        ("objective=nll,", ["objective=nll,", "KEY=VALUE"]),
        ("hydra.launcher.workers=-1", ["hydra.launcher.workers=-1", "must be >= 0"]),
        ("execution.head=cut_cross_entropy", ["execution.head='cut_cross_entropy'", "not installed"]),
        ("execution.attention=flash_attention_2 execution.device=auto", ["='flash_attention_2'", "flash-attn"]),
        ("execution.attention=flex_attention", ["execution.attention='flex_attention'", "execution=cuda"]),
        ("execution.device=cuda", ["execution.device='cuda'", "shows no GPU"]),
        ("execution=cuda", ["execution.device='cuda'", "shows no GPU"]),
        ("sweep=lab,smoke", ["sweep='lab,smoke'", "must name one sweep"]),
        ("--no-such-option", ["--no-such-option"]),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(bll: Bll, tmp_path: Path, override: str, needles: list[str]) -> None:
    done = bll("launch", *override.split(" "), env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for needle in needles:
        assert needle in done.stderr
    assert not (tmp_path / "runs" / "jobs").exists()
    assert not (tmp_path / "runs" / "sweeps").exists()


def test_a_misspelt_key_in_a_choice_of_ones_own_is_named_with_its_file(bll: Bll, tmp_path: Path) -> None:
    choice = tmp_path / "conf" / "objective" / "odd.yaml"
    choice.parent.mkdir(parents=True)
    choice.write_text("name: odd\nfamily: power\nalpa: 2.0\n")
    done = bll("launch", "objective=odd", env={"BLL_CONF": str(tmp_path / "conf")})
    assert done.returncode == 2
    assert "objective/odd" in done.stderr
    assert "alpa is unknown; did you mean 'alpha'?" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_two_choices_of_one_name_are_refused(bll: Bll, tmp_path: Path) -> None:
    """Else their results would stand under one name."""
    choice = tmp_path / "conf" / "objective" / "copied.yaml"
    choice.parent.mkdir(parents=True)
    choice.write_text("name: nll\nfamily: formula\nformula: -p * logp\n")
    env = {"BLL_CONF": str(tmp_path / "conf")}
    for command in ("plan", "launch"):
        done = bll(command, "objective=nll,copied", env=env)
        assert done.returncode == 2
        assert "objective='copied' is called 'nll', as objective=nll is" in done.stderr
        assert done.stderr.count("\n") == 1
    assert bll("plan", "objective=copied", env=env).returncode == 0
    sweep = tmp_path / "conf" / "sweep" / "both.yaml"
    sweep.parent.mkdir()
    grids = "[{backbone: [lab-a]}, {backbone: [lab-a], objective: [copied]}]"
    sweep.write_text(f"# @package _global_\nhydra: {{mode: MULTIRUN, sweeper: {{name: both, grids: {grids}}}}}\n")
    done = bll("plan", "sweep=both", env=env)
    assert done.returncode == 2
    assert "objective='copied' is called 'nll', as the default is" in done.stderr
    assert bll("plan", "objective=power", "objective.alpha=0.5,2", env=env).returncode == 0


def test_a_benchmark_whose_domain_does_not_exist_is_named(bll: Bll, tmp_path: Path) -> None:
    choice = tmp_path / "conf" / "benchmark" / "odd.yaml"
    choice.parent.mkdir(parents=True)
    choice.write_text("defaults:\n  - override /domain@_global_.domain: nowhere\n  - _self_\nname: odd\n")
    done = bll("launch", "benchmark=odd", env={"BLL_CONF": str(tmp_path / "conf")})
    assert done.returncode == 2
    assert "domain='nowhere' is unknown" in done.stderr
    assert "lab-spell" in done.stderr


def test_an_unwritable_run_root_is_named_before_anything_starts(bll: Bll, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = bll("launch", "sweep=smoke", f"paths.root={tmp_path}/file/runs")
    assert done.returncode == 2
    assert f"paths.root='{tmp_path}/file/runs' cannot be written (Not a directory)" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_data_file_that_is_missing_is_named(bll: Bll, tmp_path: Path) -> None:
    env = {"BLL_CONF": str(FIXTURES / "user_conf"), "OWN_JSONL": str(tmp_path / "none.jsonl")}
    done = bll("launch", "benchmark=own", env=env)
    assert done.returncode == 2
    assert "domain.data.path=" in done.stderr
    assert "none.jsonl" in done.stderr


def test_a_wrong_folder_of_own_choices_is_named(bll: Bll) -> None:
    done = bll("plan", env={"BLL_CONF": "/no/such/folder"})
    assert done.returncode == 2
    assert "BLL_CONF='/no/such/folder'" in done.stderr


def test_the_plan_of_the_lab_counts_jobs_by_kind_and_trains_less_than_it_has_cells(bll: Bll, tmp_path: Path) -> None:
    plan = json.loads(bll("plan", "sweep=lab", "--json").stdout)
    assert {kind: counts["new"] for kind, counts in plan["kinds"].items()} == {
        "pretrain": 3,
        "prior": 9,
        "train": 36,
        "evaluate": 45,
    }
    assert plan["cells"] == 45
    assert plan["model_loads"] == 39
    assert plan["gpu_hours"] == 0
    assert not (tmp_path / "runs").exists()


def test_the_plan_for_slurm_says_what_jobs_ask_for_and_checks_the_launchers_options(bll: Bll) -> None:
    site = [f"+hydra.launcher.resources.site.{text}" for text in ("partition=batch", "time_min=90", "memory_gib=0")]
    done = bll("plan", "sweep=smoke", "hydra/launcher=slurm", "execution=cuda", *site)
    asked = "gpus=1, nodes=1, tasks=1, cpus=8, time_min=90, partition=batch"
    assert f"  asks SLURM, for each of 2 train: {asked}\n" in done.stdout
    done = bll("plan", "sweep=smoke", "hydra/launcher=slurm", "hydra.launcher.signal_delay_s=3")
    assert (done.returncode, done.stderr) == (2, "bll: hydra.launcher.signal_delay_s=3 must be >= 30\n")
    done = bll("plan", "sweep=smoke", "hydra/launcher=slurm", "execution.resources.train.time_min=2")
    assert (done.returncode, "time_min=2 is too short: jobs are told to stop" in done.stderr) == (2, True), done.stderr
    done = bll("plan", "sweep=smoke", "hydra/launcher=slurm", "hydra.launcher.resources.site.partition=batch")
    assert "hydra.launcher.resources.site.partition is not set yet: a + before it adds it" in done.stderr


@pytest.mark.slow
def test_what_only_says_where_or_how_changes_no_id(bll: Bll, tmp_path: Path) -> None:
    def ids(*overrides: str) -> set[str]:
        from bll_sweeps.cli.composing import composed_grid, hydra_on_conf
        from bll_sweeps.cluster.launch import prepare, resolve_cells

        with hydra_on_conf() as hydra:
            _, composed, _ = composed_grid(hydra, ["sweep=smoke", f"paths.root={tmp_path}", *overrides])
        return set(prepare(resolve_cells(composed)).plan.jobs)

    expected = ids()
    assert len(expected) == 7
    for change in ("tracker=off", "execution=cuda", "execution.micro_batch=3", f"paths.root={tmp_path}/other"):
        assert ids(change) == expected, change
    assert ids("hydra.launcher.workers=1") == expected
    assert ids("recipe.weight_decay=0.02") != expected


def test_a_data_files_content_is_part_of_the_ids_and_its_place_is_not(bll: Bll, tmp_path: Path) -> None:
    def ids(path: Path) -> set[str]:
        env = {"BLL_CONF": str(FIXTURES / "user_conf"), "OWN_JSONL": str(path)}
        code = (
            "from bll_sweeps.cli.composing import composed_grid, hydra_on_conf\n"
            "from bll_sweeps.cluster.launch import prepare, resolve_cells\n"
            "with hydra_on_conf() as hydra: cells = composed_grid(hydra, ['backbone=lab-tiny', 'benchmark=own'])[1]\n"
            "print(*prepare(resolve_cells(cells)).plan.jobs)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | env)
        return set(done.stdout.split())

    here, there = tmp_path / "rows.jsonl", tmp_path / "moved.jsonl"
    here.write_text('{"question": "a", "answer": "b"}\n')
    before = ids(here)
    assert {job_id.partition("-")[0] for job_id in before} == {"pretrain", "prior", "train", "evaluate"}
    here.rename(there)
    assert ids(there) == before
    there.write_text('{"question": "a", "answer": "c"}\n')
    assert {job_id.partition("-")[0] for job_id in ids(there) & before} == {"pretrain"}


def test_planning_and_status_load_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from bll_sweeps.cli import run; code = run({args!r});"
        "heavy = [m for m in ('torch', 'transformers', 'lm_eval', 'wandb', 'submitit') if m in sys.modules];"
        "assert not heavy, heavy; assert code == 0"
    )
    Layout(tmp_path).sweep("s").folder.mkdir(parents=True)
    manifest = {"sweep": "s", "launch": 1, "created_at": "now", "cells": [], "jobs": []}
    Layout(tmp_path).sweep("s").manifest(1).write_text(json.dumps(manifest))
    for args in (["plan", "sweep=smoke"], ["status", "--root", str(tmp_path)]):
        done = subprocess.run(
            [sys.executable, "-c", code.format(args=args)], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr


def test_help_loads_neither_hydra_nor_torch(tmp_path: Path) -> None:
    code = (
        "import sys\ntry:\n    from bll_sweeps.cli import run; run(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'hydra', 'omegaconf', 'pandas', 'numpy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("command", ["status", "results", "wait", "retry"])
def test_asking_about_a_sweep_that_was_never_launched_is_a_usage_error(bll: Bll, tmp_path: Path, command: str) -> None:
    assert "nothing has been launched there" in bll(command).stderr
    (tmp_path / "runs" / "sweeps" / "lab").mkdir(parents=True)
    (tmp_path / "runs" / "sweeps" / "lab" / "launch.1.json").write_text(
        '{"sweep": "lab", "launch": 1, "created_at": "", "cells": [], "jobs": []}'
    )
    done = bll(command, "lob")
    assert done.returncode == 2
    assert "did you mean 'lab'" in done.stderr
