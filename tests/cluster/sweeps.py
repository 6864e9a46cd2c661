"""Sweeps on a test cluster: what the tests of launching, status, faults and limits share. Everything goes through the
command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import hooks
import pytest
from slurm_cluster import Slurm

from bll_sweeps.store.layout import JobFiles, Layout
from bll_sweeps.store.records import read_record

Bll = Callable[..., "subprocess.CompletedProcess[str]"]
# 7 jobs: pretrain -> prior, two trainings, and the evaluations of both and of the base model.
SWEEP = ["sweep=smoke", "tracker=off"]
SLURM = ["hydra/launcher=slurm"]
# Long enough to be interrupted, with checkpoints to go on from.
LONG = [*SWEEP, "recipe.steps=400", "execution.checkpoint_every_steps=10"]
# Only to be interrupted: its trainings do not end within a test.
ENDLESS = [*SWEEP, "recipe.steps=1000000", "execution.checkpoint_every_steps=10"]


def hook(folder: Path, body: str) -> str:
    """The override with which `train` of this body runs in the jobs (and not in the launch): hooks.py."""
    hooks.write(folder, body)
    return f"hydra.launcher.setup=['export PYTHONPATH={folder}']"


def slow(folder: Path, seconds: str) -> str:
    """The override with which each step of a training takes so long besides."""
    return hook(folder, hooks.slow(seconds))


_references: dict[tuple[str, ...], Path] = {}


def reference(factory: pytest.TempPathFactory, *args: str) -> Path:
    """The run root of `bll launch *args` (default: SWEEP) by the local launcher, once a session. Only to be read."""
    args = args or tuple(SWEEP)
    if args not in _references:
        root = factory.mktemp("reference") / "runs"
        done = run(root, "launch", *args, "hydra.launcher.workers=1")
        assert done.returncode == 0, done.stdout + done.stderr
        _references[args] = root
    return _references[args]


def part_of(reference: Path, root: Path, *kinds: str) -> Path:
    """A copy of the reference at `root` with only the jobs of these kinds, done, and no sweep."""
    (root / "jobs").mkdir(parents=True)
    for folder in (reference / "jobs").iterdir():
        if folder.name.partition("-")[0] in kinds:
            shutil.copytree(folder, root / "jobs" / folder.name, symlinks=True)
    return root


def results(root: Path) -> dict[str, bytes]:
    """Every record of a run root and every file that a record names, byte for byte. All its jobs must be done."""
    found = {}
    for folder in sorted((root / "jobs").iterdir()):
        record = read_record(JobFiles(folder))
        assert record is not None, folder
        found[folder.name] = record.attempt.record.read_bytes()
        for name in record.outputs:
            found[f"{folder.name}/{name}"] = record.output(name).read_bytes()
    return found


def attempts(root: Path) -> dict[str, int]:
    """job id -> number of its attempts."""
    return {folder.name: len(JobFiles(folder).attempts()) for folder in sorted((root / "jobs").iterdir())}


def jobs_of(root: Path, kind: str) -> list[JobFiles]:
    return [JobFiles(folder) for folder in sorted((root / "jobs").iterdir()) if folder.name.startswith(f"{kind}-")]


def job_of(root: Path, kind: str) -> JobFiles:
    return jobs_of(root, kind)[0]


def environment(root: Path, slurm: Slurm | None = None, env: Mapping[str, str] | None = None) -> dict[str, str]:
    known = os.environ | {"BLL_RUNS": str(root), "COLUMNS": "200"}
    return known | ({"SLURM_CONF": slurm.env["SLURM_CONF"]} if slurm else {}) | dict(env or {})


def site(folder: Path, text: str) -> dict[str, str]:
    """The environment in which hydra/launcher=mine is a site of the user's."""
    file = folder / "conf" / "hydra" / "launcher" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"defaults: [slurm]\n{text}\n")
    return {"BLL_CONF": str(folder / "conf")}


def run(root: Path, *args: str, slurm: Slurm | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command line on any run root, without SLURM unless it is named."""
    return subprocess.run(
        [sys.executable, "-m", "bll_sweeps.cli", *args],
        cwd=root.parent,
        env=environment(root, slurm, options.pop("env", None)),
        capture_output=True,
        text=True,
        timeout=options.pop("timeout", 300),
        **options,
    )


def start(root: Path, *args: str, slurm: Slurm | None = None, **options: Any) -> subprocess.Popen[str]:
    """The same in the background, in a process group of its own, as a terminal would start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "bll_sweeps.cli", *args],
        cwd=root.parent,
        env=environment(root, slurm, options.pop("env", None)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
        **options,
    )


def launched(bll: Bll, *args: str, **options: Any) -> str:
    """What `bll launch` on SLURM prints; it must go well."""
    done = bll("launch", *SLURM, *args, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ended(bll: Bll, slurm: Slurm, *args: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """`bll wait`, however it ends, and then until SLURM has nothing left either: allocations end a moment later."""
    done = bll("wait", *args, "--timeout", str(seconds), timeout=seconds + 60)
    idle(slurm)
    return done


def completed(bll: Bll, slurm: Slurm, *args: str, seconds: float = 300) -> str:
    """Waits until the sweep has ended; it must have ended well."""
    done = ended(bll, slurm, *args, seconds=seconds)
    assert done.returncode == 0, done.stdout + done.stderr + bll("status", *args).stdout
    return done.stdout


def idle(slurm: Slurm, seconds: float = 60) -> None:
    """Until nothing is queued, runs or is just ending."""
    slurm.wait(lambda: not slurm.active(), seconds)


def status(bll: Bll, *args: str, **options: Any) -> dict[str, Any]:
    """`bll status --json`; its jobs by id."""
    done = bll("status", *args, "--json", **options)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    return found | {"jobs": {job["id"]: job for job in found["jobs"]}}


def states(found: Mapping[str, Any]) -> dict[str, str]:
    """job id -> state, of what `status` returned."""
    return {job_id: job["state"] for job_id, job in found["jobs"].items()}


def in_state(found: Mapping[str, Any], *wanted: str) -> list[dict[str, Any]]:
    return [job for job in found["jobs"].values() if job["state"] in wanted]


@contextlib.contextmanager
def paused(slurm: Slurm, partitions: Collection[str] = ("cpu",)) -> Iterator[None]:
    """Nothing of these partitions starts while this lasts; jobs can be submitted and wait (PartitionDown)."""
    for partition in partitions:
        slurm.scontrol("update", f"partitionname={partition}", "state=down")
    try:
        yield
    finally:
        for partition in partitions:
            slurm.scontrol("update", f"partitionname={partition}", "state=up")


def wait_for(
    condition: Callable[[], Any], seconds: float = 180, what: Callable[[], object] = str, every_s: float = 0.1
) -> Any:
    """The condition's value once it holds. `what()` says in the error how things stand. every_s: more where looking
    asks SLURM, which costs the jobs processor time.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited too long; {what()}"
        time.sleep(every_s)
    return found


def steps_of(job: JobFiles, attempt: int = 1) -> list[int]:
    """Steps of the checkpoints that an attempt has at the moment."""
    folder = job.attempt(attempt).checkpoints
    return sorted(int(path.name.rpartition("-")[2]) for path in folder.glob("step-*"))


def submissions(root: Path) -> list[dict[str, Any]]:
    """intent.json of every submission, oldest first."""
    found = [json.loads(s.intent.read_text()) for s in Layout(root).submissions()]
    return sorted(found, key=lambda intent: intent["created_at"])


def elements(slurm: Slurm, root: Path) -> list[dict[str, str]]:
    """What squeue knows of a run root's submissions, ended ones included, element by element."""
    names = {s.name for s in Layout(root).submissions()}
    return [job for job in slurm.jobs() if job["name"] in names]


def queued(slurm: Slurm, root: Path) -> list[str]:
    """Names of the elements of this run root that are queued or run."""
    live = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED")
    return [f"{job['name']} {job['id']} {job['state']}" for job in elements(slurm, root) if job["state"] in live]


def private_logs(root: Path) -> str:
    """What the allocations themselves printed, for the messages of failing tests."""
    files = sorted((root / "submissions").glob("*/private/*.out"))
    return "\n".join(f"== {file}\n{file.read_text(errors='replace')[-2000:]}" for file in files)
