"""Random faults, one after another, strike a sweep that is launched again and again. Nothing is lost, nothing is done
twice, and the results are those of the local launcher, byte for byte.

Each kind of fault strikes once, at random moments and in random order; BLL_CHAOS_ROUNDS=20 (ten minutes) lets more of
them strike. The seed is printed, and what was done in which order, with the moments: BLL_CHAOS_SEED=... repeats the
choices (not SLURM's timing). The run root is a file system of its own, so that its disk can be full.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from slurm_cluster import NODES, Slurm, SlurmError, require_slurm
from sweeps import SLURM, SWEEP, private_logs, queued, reference, results, run, slow, start, wait_for
from test_slurm_faults import as_another_machine, lose

from bll_sweeps.errors import StoreError
from bll_sweeps.store.layout import JobFiles
from bll_sweeps.store.records import is_done, read_json

DISK_MIB = 96
GRID = [*SWEEP, "objective=nll,p", "recipe.steps=300"]
LAUNCH = [*SLURM, *GRID, "execution.checkpoint_every_steps=12", "hydra.sweeper.name=chaos"]
STEP_S = "0.05"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small disk of its own. It is there before the cluster: the nodes see mounts as they were when they started."""
    require_slurm()
    folder = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "chaos", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def slurm(disk: Path, slurm_with: Callable[..., Slurm]) -> Slurm:
    cluster = slurm_with()
    for node in NODES:
        as_another_machine(cluster, node)
    return cluster


class Chaos:
    def __init__(self, slurm: Slurm, root: Path, seed: int):
        self.slurm, self.root, self.chance = slurm, root, random.Random(seed)
        self.slowly = slow(root.parent / "site", STEP_S)
        self.seeds = 1  # the grid so far: seeds 0, 1, ... of the trainings
        self.began = time.monotonic()
        self.log: list[str] = []

    def say(self, text: str) -> None:
        self.log.append(f"{time.monotonic() - self.began:6.1f} s  {text}")
        print(self.log[-1], flush=True)

    # --- the sweep ----------------------------------------------------------------------------------------------------

    def grid(self) -> list[str]:
        return [*LAUNCH, self.slowly, f"seed={','.join(map(str, range(self.seeds)))}"]

    def launch(self) -> None:
        """Of a grid that is done, or nearly, a larger one: there is always something to strike."""
        if self.left() < 2:
            self.seeds += 1
        done = run(self.root, "launch", *self.grid(), slurm=self.slurm)
        self.say(f"launch of {self.seeds} seeds: {done.returncode} {last_line(done)}")
        assert done.returncode == 0, done.stdout + done.stderr

    def left(self) -> int:
        """Jobs of the present grid that are not done: each seed has two trainings and their evaluations."""
        done = sum(is_done(job) for job in self.jobs() if job.id.startswith(("train-", "evaluate-")))
        return 4 * self.seeds - done

    def jobs(self) -> list[JobFiles]:
        folder = self.root / "jobs"
        return [JobFiles(path) for path in sorted(folder.iterdir())] if folder.is_dir() else []

    def running(self) -> list[str]:
        """Elements that run, with a worker that has started."""
        found = [job["id"] for job in self.slurm.jobs() if job["state"] == "RUNNING"]
        return [job for job in found if self.workers(job)]

    def dead(self) -> list[str]:
        """Elements that SLURM still takes for running and that have no worker (yet, or any more)."""
        busy = [job["id"] for job in self.slurm.jobs() if job["state"] in ("RUNNING", "COMPLETING")]
        return [job for job in busy if not self.workers(job)]

    def workers(self, job: str) -> list[int]:
        """Pids of the element's worker and its children."""
        pids = []
        for pid in self.slurm.pids_of(job):
            with contextlib.suppress(OSError):
                if b"submitit.core._submit" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    pids.append(pid)
        return sorted(pids)

    def victim(self) -> str:
        """A running element at a random moment of its life; the sweep is launched again if none runs any more."""
        for _ in range(5):
            deadline = time.monotonic() + 25
            while time.monotonic() < deadline:
                if self.running():
                    time.sleep(self.chance.uniform(0.0, 8.0))
                    if alive := self.running():
                        return self.chance.choice(alive)
                time.sleep(0.5)
            self.launch()
        raise AssertionError(f"nothing runs any more; {self.slurm.describe()}\n{private_logs(self.root)[-5000:]}")

    # --- the faults: each says what it has struck ---------------------------------------------------------------------

    def requeue(self) -> str:
        job = self.victim()
        self.slurm.requeue(job)
        return job

    def usr2(self) -> str:
        job = self.victim()
        self.slurm.scancel("--signal=USR2", job)
        return job

    def kill_child(self) -> str:
        """The youngest process of the element: the job itself or, while torch is imported, the worker."""
        job = self.victim()
        pid = self.workers(job)[-1]
        os.kill(pid, signal.SIGKILL)
        return f"{job}, pid {pid}"

    def kill_tree(self) -> str:
        job = self.victim()
        pids = self.workers(job)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return f"{job}, pids {pids}"

    def node_down(self) -> str:
        job = self.victim()
        node = self.slurm.job(job).get("node") or self.chance.choice(NODES)
        there = [job["job_id"] for job in self.slurm.jobs() if job["state"] == "RUNNING" and job["node"] == node]
        lose(self.slurm, node, there)
        time.sleep(self.chance.uniform(0.0, 2.0))
        self.slurm.resume(node)
        return f"{node}, with {job}"

    def controller_killed(self) -> str:
        delay, away = self.chance.uniform(0.0, 12.0), self.chance.uniform(0.0, 4.0)
        time.sleep(delay)
        self.slurm.kill("slurmctld")
        time.sleep(away)
        self.slurm.start("slurmctld")
        return f"{delay:.1f} s after the launch, away for {away:.1f} s"

    def launch_killed(self) -> str:
        """At a random moment of its life, with all that it has started."""
        self.seeds += 1
        process, life = start(self.root, "launch", *self.grid(), slurm=self.slurm), self.chance.uniform(1.5, 7.0)
        time.sleep(life)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"{self.seeds} seeds, after {life:.1f} s: {process.returncode}"

    def two_launches(self) -> str:
        self.seeds += 1
        processes = [start(self.root, "launch", *self.grid(), slurm=self.slurm) for _ in range(2)]
        said = [process.communicate(timeout=120)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], said
        return f"{self.seeds} seeds: {' | '.join(text.splitlines()[0] for text in said)}"

    def disk_full(self) -> str:
        """While jobs run and somebody launches, who is told so in one line."""
        job, file, full = self.victim(), self.root.parent / "fill", 0.0
        process = start(self.root, "launch", *self.grid(), slurm=self.slurm)
        time.sleep(self.chance.uniform(0.0, 4.0))
        seconds = self.chance.uniform(1.0, 5.0)  # that it stays full: how long a busy machine takes to fill it varies
        with file.open("wb", buffering=0) as stream:
            while not full or time.monotonic() < full + seconds:
                try:
                    stream.write(bytes(65536))
                except OSError:
                    full = full or time.monotonic()
                    time.sleep(0.001)  # what is removed in the meantime is filled up as well
        file.unlink()
        said = process.communicate(timeout=120)[0]
        assert "Traceback" not in said, said
        return f"for {seconds:.1f} s, with {job}; launch: {process.returncode} {said.splitlines()[-1:]}"

    # --- the end ------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """One launch, as a user would: it also tries again what has failed. Then everything ends by itself, unless
        SLURM itself holds what it failed to start, which only a launch may release.
        """
        # For a while SLURM takes what was killed for running: a launch in that time rightly leaves it alone, and its
        # failure would then be the sweep's last word. A controller that was killed before it had saved a job's end
        # learns of it from the node's next registration, one ping in some twenty of every 3.3 s.
        wait_for(lambda: not self.dead(), 180, self.slurm.describe, every_s=1.0)
        for _ in range(3):
            done = run(self.root, "launch", *self.grid(), slurm=self.slurm)
            assert done.returncode == 0, done.stdout + done.stderr
            self.say(f"last launch: {last_line(done)}")
            done = run(self.root, "wait", "chaos", "--timeout", "200", slurm=self.slurm)
            self.say(f"wait: {done.returncode} {last_line(done)}")
            if "until chaos is launched again" not in done.stderr:
                break
        assert done.returncode == 0, done.stdout + done.stderr + self.slurm.describe() + private_logs(self.root)[-8000:]

    def processes(self) -> list[str]:
        """Command lines of all processes that have to do with the run root, but for this one."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (process / "cmdline").read_bytes()
                if str(self.root).encode() in line + (process / "environ").read_bytes():
                    found.append(line.replace(b"\0", b" ").decode())
        return found


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return said[-1] if said else ""


def finished(job: JobFiles) -> list[int]:
    """Numbers of the attempts that trained, or evaluated, to the end and wrote all that there is to write."""
    found = []
    for attempt in job.attempts():
        with contextlib.suppress(FileNotFoundError, StoreError):
            if read_json(attempt.record)["id"] == job.id and "finished_at" in read_json(attempt.provenance):
                found.append(attempt.number)
    return found


def overlaps(job: JobFiles) -> list[str]:
    """Attempts that still wrote when the next one had begun; a parent's remark on their end does not count."""
    found, until, name = [], 0.0, ""
    for attempt in job.attempts():
        files = [path for path in attempt.folder.rglob("*") if path.is_file() and path != attempt.interrupted]
        with contextlib.suppress(FileNotFoundError, StoreError):
            began = datetime.fromisoformat(read_json(attempt.provenance)["started_at"]).timestamp()
            if began < until - 0.1:
                found.append(f"{job.id}: {name} wrote {until - began:.1f} s into {attempt.folder.name}")
        times = [path.stat().st_mtime for path in files]
        until, name = max([until, *times]), attempt.folder.name
    return found


@pytest.mark.timeout(1200)
def test_random_faults_lose_nothing_and_repeat_nothing(
    slurm: Slurm, disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    seed = int(os.environ.get("BLL_CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    chaos = Chaos(slurm, disk / "runs", seed)
    chaos.say(f"BLL_CHAOS_SEED={seed}, run root {chaos.root}")
    faults: list[Callable[[], str]] = [
        chaos.requeue,
        chaos.usr2,
        chaos.kill_child,
        chaos.kill_tree,
        chaos.node_down,
        chaos.controller_killed,
        chaos.launch_killed,
        chaos.two_launches,
        chaos.disk_full,
    ]
    many = int(os.environ.get("BLL_CHAOS_ROUNDS") or len(faults))
    rounds = [*faults] * (many // len(faults)) + chaos.chance.sample(faults, many % len(faults))
    chaos.chance.shuffle(rounds)
    for number, fault in enumerate(rounds, 1):
        chaos.launch()
        with contextlib.suppress(SlurmError):  # the job ended a moment before it would have been struck
            chaos.say(f"round {number}: {fault.__name__} {fault()}")
    chaos.finish()

    seeds = f"seed={','.join(map(str, range(chaos.seeds)))}"
    assert results(chaos.root) == results(reference(tmp_path_factory, *GRID, seeds))
    assert {job.id: finished(job) for job in chaos.jobs() if len(finished(job)) != 1} == {}
    assert [text for job in chaos.jobs() for text in overlaps(job)] == []
    wait_for(lambda: not queued(slurm, chaos.root), 60, slurm.describe, every_s=1.0)
    wait_for(lambda: not chaos.processes(), 30, lambda: json.dumps(chaos.processes()))
