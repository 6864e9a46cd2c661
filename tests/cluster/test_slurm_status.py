"""Looking at a sweep on SLURM, and stopping it: status, logs, wait, cancel, run. Here SLURM has no accounting, so that
nothing may depend on slurmdbd and sacct.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sweeps
from slurm_cluster import Slurm
from sweeps import ENDLESS, SLURM, SWEEP, Bll

from bll_sweeps.store.layout import Layout

TOP = Path(__file__).parents[2]
NLL = [*ENDLESS, "objective=nll"]  # with pretraining and prior done: a training and its evaluation


@pytest.fixture(scope="module")
def slurm(slurm_with: Callable[..., Slurm]) -> Slurm:
    return slurm_with(accounting=False)


@pytest.fixture
def root(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run root where a model is pretrained and its prior known."""
    return sweeps.part_of(sweeps.reference(tmp_path_factory), tmp_path / "runs", "pretrain", "prior")


@pytest.fixture
def counted(tmp_path: Path) -> tuple[dict[str, str], Callable[[], list[str]]]:
    """(an environment in which SLURM's commands are counted, what was called in it so far)."""
    folder, log = tmp_path / "counting", tmp_path / "counting" / "log"
    folder.mkdir()
    for name in ("squeue", "sacct", "scontrol", "sinfo", "sstat", "sbatch"):
        script = folder / name
        script.write_text(f'#!/bin/sh\necho {name} >> "{log}"\nexec {shutil.which(name)} "$@"\n')
        script.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
    return environment, lambda: log.read_text().split() if log.exists() else []


def training(root: Path, attempt: int = 1, beyond: int = 0) -> Callable[[], bool]:
    """Whether that attempt of the one training has a checkpoint beyond that step."""
    return lambda: any(step > beyond for step in sweeps.steps_of(sweeps.job_of(root, "train"), attempt))


def in_progress(job: dict[str, Any]) -> dict[str, Any] | None:
    return job if job.get("done") else None


def timings(root: Path, attempt: int) -> list[str]:
    """Lines of timing.jsonl: no two attempts measure the same, so that what is the same was carried over."""
    file = sweeps.job_of(root, "train").attempt(attempt).output("timing.jsonl")
    return file.read_text().splitlines()


def test_status_says_what_waits_what_runs_and_what_was_cancelled_and_launching_goes_on_from_checkpoints(
    slurm: Slurm, bll: Bll, root: Path, counted: tuple[dict[str, str], Callable[[], list[str]]]
) -> None:
    with sweeps.paused(slurm):
        sweeps.launched(bll, *NLL)
        train, evaluate = sweeps.job_of(root, "train").id, sweeps.jobs_of(root, "evaluate")[0].id
        element = next(job["id"] for job in sweeps.elements(slurm, root) if "-train-" in job["name"])
        slurm.wait(lambda: slurm.job(element)["reason"] == "PartitionDown")
        environment, calls = counted
        found = sweeps.status(bll, env=environment)
        assert calls() == ["squeue"]  # a refresh asks once
        assert found["jobs"][train] == {
            "id": train, "kind": "train", "state": "pending", "detail": "PartitionDown", "slurm": element
        }  # fmt: skip
        assert found["jobs"][evaluate]["detail"] == "Dependency"
        text = bll("status").stdout
        assert "pending 1 train: PartitionDown" in text
        assert "pending 1 evaluate: Dependency" in text
    sweeps.wait_for(training(root), what=lambda: sweeps.private_logs(root))
    job = sweeps.wait_for(lambda: in_progress(sweeps.status(bll)["jobs"][train]))
    assert (job["state"], job["total"], job["slurm"]) == ("running", 1000000, element)
    assert job["detail"].startswith(f"{job['done']}/1000000 steps, about ")
    assert f"running {train} (train nll lab-tiny lab-tiny" in bll("status").stdout
    done = bll("wait", "--timeout", "0")
    assert (done.returncode, done.stderr) == (1, "bll: 2 jobs are left after 0 s\n")
    done = bll("cancel")
    assert done.returncode == 0
    assert "smoke: 2 jobs cancelled; nothing is lost, launching again goes on" in done.stdout
    sweeps.idle(slurm)
    found = sweeps.status(bll)
    assert found["jobs"][train]["state"] == found["jobs"][evaluate]["state"] == "unsubmitted"
    assert found["jobs"][train]["detail"] == "cancelled"
    assert f"unsubmitted {train} (train nll" in bll("status").stdout
    done = bll("wait")
    assert done.returncode == 1
    assert "2 jobs are in no queue; launching smoke again submits them" in done.stderr
    assert "submitted 2 jobs" in sweeps.launched(bll, *NLL)
    sweeps.wait_for(training(root, 2), what=lambda: sweeps.private_logs(root))
    assert timings(root, 2)[0] == timings(root, 1)[0]
    # One job only: what waits for it goes, too.
    done = bll("cancel", train)
    assert done.returncode == 0
    assert f"{train}: cancelled" in done.stdout
    sweeps.idle(slurm)
    assert sweeps.attempts(root)[evaluate] == 0
    done = bll("cancel", train)
    assert (done.returncode, done.stderr) == (2, f"bll: job='{train}' is not in SLURM's queue\n")
    assert bll("cancel", "nonsense").returncode == 2


def test_an_allocation_that_fails_before_the_job_begins_says_where_to_look(
    slurm: Slurm, bll: Bll, root: Path, tmp_path: Path
) -> None:
    sbatch = "sbatch: {nice: 100, exclusive: true, requeue: false}"
    environment = sweeps.site(tmp_path, f"setup: ['echo there is no such module; exit 7']\n{sbatch}")
    assert bll("launch", "hydra/launcher=mine", *NLL, env=environment).returncode == 0
    done = sweeps.ended(bll, slurm)
    train = sweeps.job_of(root, "train").id
    (folder,) = [s.private for s in Layout(root).submissions() if "-train-" in s.name]
    assert done.returncode == 1
    assert re.search(
        rf"2 jobs are in no queue; .*; {train}: SLURM job \d+ is gone \(FAILED\), see {folder}", done.stderr
    )
    options = "".join(script.read_text() for script in folder.glob("*.sh"))
    assert "#SBATCH --nice=100\n" in options and "#SBATCH --exclusive\n" in options
    assert "requeue" not in options
    assert "no such module" in "".join(file.read_text() for file in folder.glob("*.out"))
    assert "submitted 2 jobs" in bll("launch", "hydra/launcher=mine", *NLL, env=environment).stdout
    sweeps.idle(slurm)


def test_watching_asks_slurm_once_per_refresh_and_no_more_when_all_is_done(
    slurm: Slurm, bll: Bll, root: Path, counted: tuple[dict[str, str], Callable[[], list[str]]]
) -> None:
    environment, calls = counted
    sweeps.launched(bll, *SWEEP, "objective=base")
    done = bll("status", "--watch", env=environment)
    assert done.returncode == 0
    assert 1 <= len(calls()) <= done.stdout.count("smoke launch 1 of ")
    assert set(calls()) == {"squeue"}
    sweeps.idle(slurm)
    assert "3/3 jobs done" in done.stdout
    before = calls()
    assert bll("wait", env=environment).returncode == 0
    assert bll("status", env=environment).returncode == 0
    assert calls() == before


def test_logs_are_those_of_the_right_attempt_and_following_goes_over_to_the_next(
    slurm: Slurm, bll: Bll, root: Path
) -> None:
    sweeps.launched(bll, *NLL)
    train = sweeps.job_of(root, "train")
    sweeps.wait_for(training(root), what=lambda: sweeps.private_logs(root))
    following = sweeps.start(root, "logs", "-f", train.id, slurm=slurm)
    assert "attempt 1" in bll("logs", train.id).stdout
    element = next(job["id"] for job in sweeps.elements(slurm, root) if "-train-" in job["name"])
    slurm.requeue(element)
    slurm.wait(slurm.start_requeued, 60)
    sweeps.wait_for(training(root, 2), what=lambda: sweeps.private_logs(root))
    assert timings(root, 2)[0] == timings(root, 1)[0]
    for arguments, attempt in ((["--attempt", "1"], 1), (["--attempt", "2"], 2), ([], 2)):
        said = [f"{train.id}, attempt {n}: " in bll("logs", train.id, *arguments).stdout for n in (1, 2)]
        assert said == [attempt == 1, attempt == 2]
    done = bll("logs", train.id, "--attempt", "3")
    assert done.returncode == 2
    assert "1, 2" in done.stderr
    assert following.poll() is None
    assert bll("cancel").returncode == 0
    sweeps.idle(slurm)
    out, _ = following.communicate(timeout=60)
    assert following.returncode == 0
    first, _, second = out.partition("--- attempt 2 ---\n")
    assert f"{train.id}, attempt 1: " in first
    assert f"{train.id}, attempt 2: " in second


def test_a_job_runs_in_the_foreground_of_an_allocation(slurm: Slurm, bll: Bll, root: Path) -> None:
    with sweeps.paused(slurm):
        sweeps.launched(bll, *SWEEP, "objective=base")
        bll("cancel")
        sweeps.idle(slurm)
    evaluate = sweeps.job_of(root, "evaluate")
    environment = ["env", f"BLL_RUNS={root}", f"PYTHONPATH={TOP}"]
    command = [sys.executable, "-m", "bll_sweeps.cli", "run", evaluate.id]
    out = slurm.run("srun", "--ntasks=1", "--mem=3G", "--chdir=/", *environment, *command, timeout=300)
    assert f"{evaluate.id}: done" in out
    assert "slurm_job" in json.loads(evaluate.attempts()[-1].provenance.read_text())
    assert "nothing to submit" in sweeps.launched(bll, *SWEEP, "objective=base")


def test_an_outage_of_the_controller_fails_nothing_and_the_next_launch_goes_on(
    slurm: Slurm, bll: Bll, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with sweeps.paused(slurm):
        sweeps.launched(bll, *SWEEP, "objective=base")
        with slurm.without("slurmctld"):
            # SLURM's commands take 9 s to find out: at the same time.
            asked = [["status", "--json"], ["status"], ["cancel"]]
            processes = [sweeps.start(root, *arguments, slurm=slurm) for arguments in asked]
            found, text, cancelled = [process.communicate(timeout=120)[0] for process in processes]
            assert [process.returncode for process in processes] == [0, 0, 1]
            known = json.loads(found)
            assert "squeue failed" in known["problem"]
            waiting = [job for job in known["jobs"] if job["state"] != "done"]
            assert [(job["kind"], job["state"]) for job in waiting] == [("evaluate", "pending")]
            assert waiting[0]["detail"].startswith("unknown: squeue failed")
            assert "SLURM does not answer (squeue failed: " in text
            assert "SLURM does not answer (squeue failed: " in cancelled
            done = bll("launch", *SLURM, *SWEEP, "objective=base,nll")
            assert done.returncode == 1
            assert re.fullmatch(r"bll: SLURM does not answer \(.*\): .*\n", done.stderr), done.stderr
    assert "submitted 2 jobs (1 train, 1 evaluate)" in sweeps.launched(bll, *SWEEP, "objective=base,nll")
    sweeps.completed(bll, slurm)
    assert set(sweeps.attempts(root).values()) == {1}
    expected = sweeps.results(sweeps.reference(tmp_path_factory))
    assert all(expected[name] == content for name, content in sweeps.results(root).items())
