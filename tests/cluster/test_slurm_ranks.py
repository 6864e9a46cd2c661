"""A training of four ranks on two nodes, with gloo: it ends where one process does, and fails as one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import sweeps
import torch
from safetensors.torch import load_file
from slurm_cluster import Slurm
from sweeps import SWEEP, Bll, hook
from test_slurm_limits import asks

from bll_sweeps.store.layout import JobFiles
from bll_sweeps.store.records import read_json, read_record

DOUBLE = [*SWEEP, "objective=nll", "recipe.dtype=float64"]  # 20 steps
RANKS = 4
# Steps take their time, and each rank leaves its pid.
SLOWLY = """
def train(whole, job, context):
    import bll_sweeps.training.fit as fit
    rank, steps = int(os.environ["RANK"]), iter(range(10**6))
    def slow(trainer, *args, step=fit._Trainer.step):
        (Path(os.environ["HERE"]) / f"rank.{rank}").write_text(str(os.getpid()))
        time.sleep(0.5)
        if next(steps) == 3 and rank == int(os.environ.get("FAILING", -1)):
            raise ValueError("no luck")
        return step(trainer, *args)
    fit._Trainer.step = slow
    return whole(job, context)
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweeps.reference(tmp_path_factory, *DOUBLE)


@pytest.fixture
def root(reference: Path, tmp_path: Path) -> Path:
    return sweeps.part_of(reference, tmp_path / "runs", "pretrain", "prior")


@pytest.fixture
def launch(bll: Bll, root: Path, tmp_path: Path) -> Callable[..., JobFiles]:
    """Launches the sweep with a training of four ranks; its files."""

    def call(*args: str) -> JobFiles:
        env = asks(tmp_path, "train", nodes=2, tasks=2, memory_gib=8)
        sweeps.launched(bll, *DOUBLE, "execution=asks", *args, env=env)
        return sweeps.job_of(root, "train")

    return call


def slowly(folder: Path, more: str = "") -> str:
    setup = hook(folder / "site", SLOWLY)
    return setup.replace("']", f"','export HERE={folder}/site {more}']")


def pids(folder: Path) -> list[int]:
    """Of the ranks' own processes, once all of them train."""
    files = [folder / "site" / f"rank.{rank}" for rank in range(RANKS)]
    sweeps.wait_for(lambda: all(file.exists() and file.read_text() for file in files))
    return [int(file.read_text()) for file in files]


def assert_close(found: JobFiles, expected: JobFiles) -> None:
    """Weights and curves are those of a single process, up to the rounding of float64."""
    ours, theirs = read_record(found), read_record(expected)
    assert ours is not None and theirs is not None
    tensors, wanted = (load_file(record.output("model") / "model.safetensors") for record in (ours, theirs))
    assert tensors.keys() == wanted.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-8, atol=1e-12)
    curves = [
        [json.loads(line) for line in record.output("metrics.jsonl").read_text().splitlines()]
        for record in (ours, theirs)
    ]
    assert len(curves[0]) == len(curves[1]) >= 2
    for row, other in zip(*curves, strict=True):
        assert row == pytest.approx(other, rel=1e-8)


def ended_within(slurm: Slurm, seconds: float, job: JobFiles) -> None:
    slurm_job = read_json(job.attempts()[-1].slurm)["slurm_job"]
    slurm.wait(lambda: all(known["job_id"] != slurm_job for known in live(slurm)), seconds)


def live(slurm: Slurm) -> list[dict[str, str]]:
    return [job for job in slurm.jobs() if job["state"] in ("PENDING", "RUNNING", "COMPLETING")]


def test_four_ranks_on_two_nodes_end_where_one_process_does(
    slurm: Slurm, bll: Bll, launch: Callable[..., JobFiles], reference: Path
) -> None:
    job = launch()
    sweeps.completed(bll, slurm)
    assert_close(job, sweeps.job_of(reference, "train"))
    record = read_record(job)
    assert record is not None
    assert record.provenance()["ranks"] == RANKS
    nodes = [known["node"] for known in slurm.jobs() if known["job_id"] == record.provenance()["slurm_job"]]
    assert nodes == ["c[1-2]"]
    assert len(job.attempts()) == 1
    for rank in range(RANKS):
        assert job.attempt(1).log(rank).exists()


def test_an_exception_of_one_rank_ends_all_and_is_on_record(
    slurm: Slurm, bll: Bll, launch: Callable[..., JobFiles], tmp_path: Path
) -> None:
    job = launch(slowly(tmp_path, "FAILING=2"))
    pids(tmp_path)
    sweeps.wait_for(job.attempt(1).failure.exists)
    ended_within(slurm, 30, job)
    failure = read_json(job.attempt(1).failure)
    assert failure["message"] == "rank 2: ValueError: no luck"
    assert "Traceback" in failure["traceback"] and "sitecustomize.py" in failure["traceback"]
    done = bll("logs", job.id, "--rank", "2")
    assert done.returncode == 0
    assert "ValueError: no luck" in done.stdout
    assert "no luck" not in bll("logs", job.id).stdout  # rank 0 has lost a peer
    assert sweeps.ended(bll, slurm).returncode == 1
    states = sweeps.states(sweeps.status(bll))
    assert states.pop(job.id) == "failed"
    assert sorted(states.values()) == ["blocked", "done", "done"]
    assert len(job.attempts()) == 1


def test_a_rank_that_is_killed_ends_all_and_is_named(
    slurm: Slurm, bll: Bll, launch: Callable[..., JobFiles], tmp_path: Path
) -> None:
    job = launch(slowly(tmp_path))
    os.kill(pids(tmp_path)[2], signal.SIGKILL)
    ended_within(slurm, 30, job)
    message = read_json(job.attempt(1).failure)["message"]
    assert message.startswith("rank 2: the job's process was killed by SIGKILL")
    assert sweeps.ended(bll, slurm).returncode == 1
    assert sweeps.states(sweeps.status(bll))[job.id] == "failed"


def test_four_ranks_that_are_told_to_stop_are_requeued_and_end_the_same(
    slurm: Slurm, bll: Bll, launch: Callable[..., JobFiles], reference: Path, tmp_path: Path
) -> None:
    job = launch(slowly(tmp_path))
    pids(tmp_path)
    slurm_job = read_json(job.attempt(1).slurm)["slurm_job"]
    slurm.scancel("--signal=USR2", slurm_job)
    slurm.wait(slurm.start_requeued, 60)
    sweeps.completed(bll, slurm)
    assert len(job.attempts()) == 2
    stopped = read_json(job.attempt(1).interrupted)
    assert 0 == stopped["began_at"] < stopped["reached"] < 20
    again = read_json(job.attempt(2).slurm)
    assert (again["slurm_job"], again["restarts"], again["ranks"]) == (slurm_job, 1, RANKS)
    assert_close(job, sweeps.job_of(reference, "train"))
