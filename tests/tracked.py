"""A small sweep that was tracked offline, commands that bring it to W&B and back, and what must hold there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from wandb_server import WandbServer

from bll_sweeps.store.layout import JobFiles
from bll_sweeps.store.records import Record, read_record
from bll_sweeps.tracking import names
from bll_sweeps.tracking.content import rows

SWEEP = ["sweep=smoke", "recipe.steps=600", "execution.checkpoint_every_steps=20", "execution.log_every_steps=5"]
SWEEP += ["hydra.launcher.workers=1"]  # what each imports costs more than its jobs
ROOT = Path(__file__).resolve().parent.parent


def call(root: Path, *args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    process = start(root, *args, env=env)
    out, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(args, process.returncode, out, errors)


def start(root: Path, *args: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    root.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "bll_sweeps.cli", *args],
        env=os.environ | {"BLL_RUNS": str(root), "PYTHONPATH": str(ROOT)} | (env or {}),
        cwd=root.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def records(root: Path) -> list[Record]:
    found = [read_record(JobFiles(folder)) for folder in sorted((root / "jobs").iterdir())]
    return [record for record in found if record is not None]


def record_of(root: Path, kind: str) -> Record:
    return next(record for record in records(root) if record.job.id.startswith(kind))


def assert_complete(server: WandbServer, root: Path) -> None:
    """One run per job, with each row of the job's files once and in order, and its final values."""
    assert {name for _, name in server.runs} == {record.job.id for record in records(root)}
    for record in records(root):
        run = server.run(record.job.id)
        assert run.state == "finished", record.job.id
        expected = [{names.curve(key): value for key, value in row.items()} for row in rows(record.attempt)]
        served = [row for row in run.rows() if names.STEP in row]
        shared = [[{key: row[key] for key in want} for want, row in zip(expected, served, strict=True)]]
        assert shared == [expected]
        assert [row["_step"] for row in run.rows()] == list(range(len(run.rows())))
        steps = [row[names.STEP] for row in served]
        assert steps == sorted(set(steps))
        summary = run.summary()
        if record.job.id.startswith(("train", "pretrain")):
            assert summary["final/nll"] == record.result["final"]["nll"]
            assert summary["train/nll"] == expected[-1]["train/nll"]
        if record.job.id.startswith("evaluate"):
            assert summary[names.SCORE] == record.result["metrics"][record.result["primary"]]["mean"]


def unfinished(store: Path) -> JobFiles:
    """The training, and nothing that was made of it, as if it had never run."""
    training = record_of(store, "train").job
    for record in records(store):
        if record.job.id.startswith(("train", "evaluate")):
            for attempt in record.job.attempts():
                shutil.rmtree(attempt.folder)
            record.job.done.unlink()
            shutil.rmtree(record.job.claims)
    return training
