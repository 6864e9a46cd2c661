"""Whatever stops a job on SLURM, its next attempt goes on from what the last one saved, and ends with the same bytes.

The faults strike different jobs of one run root on one cluster, most of them at the same time, and the tests look at
what became of them. To the jobs the nodes are different machines, each with a boot id: whether a claim's owner still
lives is then not to be seen in /proc, and SLURM has to be asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import NODES, Slurm
from sweeps import (
    SLURM,
    SWEEP,
    jobs_of,
    part_of,
    private_logs,
    queued,
    reference,
    results,
    run,
    slow,
    steps_of,
    wait_for,
)

from bll_sweeps.grid.cell import EvaluateJob
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.claims import STALE_AFTER_S
from bll_sweeps.store.layout import Attempt, JobFiles
from bll_sweeps.store.records import is_done, read_json, read_record

PATIENCE_S = 600
pytestmark = pytest.mark.timeout(1200)  # all faults are part of the first test's time
# Half a minute of training, most of it slept, with a checkpoint every three seconds. The one whose time limit ends
# takes two minutes: SLURM looks at limits every half a minute. The evaluation has a journal of 120 batches.
STEPS, SAMPLES = "recipe.steps=200", "benchmark.decodings.sampled.samples=1500"
OFTEN, NEVER = (f"execution.checkpoint_every_steps={n}" for n in (20, 100000))
LOGGED = "execution.log_every_steps=4"
STEP_S = "0.6 if job.objective.name == 'nll' else 0.15"
# Each job that is struck has a node for itself, from which a higher partition may drive it; the rest have c2.
ALONE = [
    "+execution.resources={train: {kinds: [train], cpus: 8}}",
    "+hydra.launcher.resources.site.partition=preemptible",
]
BESIDE = ["+hydra.launcher.sbatch.nodelist=c2"]
STRUCK = {
    "preempted": "p",
    "requeued": "p10",
    "child killed": "p0.1",
    "tree killed": "p0.5",
    "node down": "p_above",
    "node killed": "logp_above",
}
LIMITED, CANCELLED, STUCK = "nll", "logp_below", "p_below"
SOFTLY, KILLED = ["preempted", "time limit"], ["child killed", "tree killed", "node killed"]  # with and without warning


def not_on(*nodes: str) -> str:
    return f"++hydra.launcher.sbatch.exclude='{','.join(nodes)}'"


LAUNCHES = {
    "struck": [STEPS, OFTEN, LOGGED, *ALONE, not_on("c2"), f"objective={','.join(STRUCK.values())}"],
    "limited": [STEPS, OFTEN, LOGGED, *BESIDE, f"objective={LIMITED}"],
    "asked": [STEPS, LOGGED, SAMPLES, *BESIDE, "objective=base"],
    "cancelled": [STEPS, OFTEN, LOGGED, *ALONE, not_on("c2"), f"objective={CANCELLED}"],
    "stuck": [STEPS, NEVER, LOGGED, *BESIDE, "hydra.launcher.signal_delay_s=30", f"objective={STUCK}"],
}


@dataclass
class World:
    """The cluster and the run root that faults strike."""

    slurm: Slurm
    root: Path
    slowly: str  # the override that makes trainings last
    waited_s: dict[str, float] = field(default_factory=dict)  # from the start of the next SLURM job to its attempt

    def bll(self, *args: str) -> str:
        done = run(self.root, *args, slurm=self.slurm)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def launch(self, name: str, *more: str) -> str:
        return self.bll("launch", *SWEEP, *SLURM, *LAUNCHES[name], self.slowly, f"hydra.sweeper.name={name}", *more)

    def training(self, objective: str) -> JobFiles:
        (found,) = [job for job in jobs_of(self.root, "train") if read_spec(job).labels["objective"] == objective]
        return found

    def asked(self) -> JobFiles:
        (found,) = [job for job in jobs_of(self.root, "evaluate") if answers(job) == 1500]
        return found

    def in_its_middle(self, objective: str) -> tuple[JobFiles, str, str]:
        """Waits until the training has saved something; (its files, its SLURM job, the node)."""
        job = self.training(objective)
        self.wait(lambda: steps_of(job), job)
        slurm_job = self.slurm_job(job.attempt(1))
        return job, slurm_job, self.element(slurm_job)["node"]

    def slurm_job(self, attempt: Attempt) -> str:
        return read_json(attempt.slurm)["slurm_job"]

    def goes_on(self, fault: str, job: JobFiles) -> None:
        """Waits until the job's second attempt has begun."""
        second = job.attempt(2)
        self.wait(second.provenance.exists, job)
        started = datetime.fromisoformat(self.element(self.slurm_job(second))["start"]).timestamp()
        began = datetime.fromisoformat(read_json(second.provenance)["started_at"]).timestamp()
        self.waited_s[fault] = began - started

    def element(self, slurm_job: str) -> dict[str, str]:
        (found,) = [known for known in self.slurm.jobs() if known["job_id"] == slurm_job]
        return found

    def wait_state(self, slurm_job: str, *states: str) -> None:
        def reached() -> bool:
            state = self.element(slurm_job)["state"]
            assert state in states or state not in ("COMPLETED", "TIMEOUT"), f"{slurm_job} is {state}, never {states}"
            return state in states

        wait_for(reached, PATIENCE_S, self.slurm.describe, every_s=1.0)

    def wait(self, condition: Callable[[], Any], job: JobFiles) -> Any:
        return wait_for(condition, PATIENCE_S, lambda: self.describe(job))

    def describe(self, job: JobFiles) -> str:
        logs = [attempt.log() for attempt in job.attempts() if attempt.log().exists()]
        tails = "\n".join(f"== {log}\n{log.read_text()[-1500:]}" for log in logs)
        return f"{job.folder}\n{tails}\n{self.slurm.describe()}\n{private_logs(self.root)[-6000:]}"


def answers(job: JobFiles) -> int:
    spec = read_spec(job).job
    assert isinstance(spec, EvaluateJob)
    return dict(spec.benchmark.decodings)["sampled"].samples


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def slurm(slurm_with: Callable[..., Slurm]) -> Slurm:
    cluster = slurm_with()
    for node in NODES:
        as_another_machine(cluster, node)
    return cluster


def as_another_machine(slurm: Slurm, node: str) -> None:
    """The node's jobs see a boot id of its own, in the node's own mount namespace."""
    file = slurm.folder / f"boot_id.{node}"
    file.write_text(f"{uuid.uuid4()}\n")
    pid = (slurm.folder / "run" / f"{node}.pid").read_text().split()[0]
    bind = ["mount", "--bind", str(file), "/proc/sys/kernel/random/boot_id"]
    subprocess.run(["nsenter", "--mount", f"--target={pid}", *bind], check=True)


def lose(slurm: Slurm, node: str, jobs: Sequence[str]) -> None:
    """Declares the node down, until it is resumed. SLURM would take it back at once and, the wait of a requeued job
    being so short here, start the same jobs there again beside their old steps, which it then holds against them.
    """
    slurm.scontrol("update", f"nodename={node}", "state=drain", "reason=test")
    slurm.down(node)
    wait_for(lambda: not any(steps(slurm, job) for job in jobs), 150, slurm.describe, every_s=0.5)


def steps(slurm: Slurm, job: str) -> list[int]:
    """Pids of slurmstepd, which says in its name whose it is, for the job (by its own id): it outlives the step's own
    processes. Other clusters may have jobs of the same number.
    """
    found = []
    for pid, _ in slurm._processes():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(f"slurmstepd: [{job}.".encode()):
                found.append(pid)
    return found


# --- the faults: each waits for its job, strikes, and sees what SLURM makes of it -------------------------------------


def preempted(world: World) -> None:
    _, _, node = world.in_its_middle(STRUCK["preempted"])
    with world.slurm.preempt(node) as filler:
        world.wait_state(filler, "RUNNING")


def requeued(world: World) -> None:
    _, job, _ = world.in_its_middle(STRUCK["requeued"])
    world.slurm.requeue(job)


def child_killed(world: World) -> None:
    files, job, _ = world.in_its_middle(STRUCK["child killed"])
    os.kill(read_json(files.attempt(1).provenance)["pid"], signal.SIGKILL)
    world.wait_state(job, "FAILED")


def tree_killed(world: World) -> None:
    _, job, node = world.in_its_middle(STRUCK["tree killed"])
    world.slurm.scontrol("update", f"nodename={node}", "state=drain", "reason=test")  # the next attempt is elsewhere
    for pid in world.slurm.pids_of(job):
        if b"submitit.core._submit" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    world.wait_state(job, "FAILED")


def node_down(world: World) -> None:
    _, job, node = world.in_its_middle(STRUCK["node down"])
    lose(world.slurm, node, [job])
    world.wait_state(job, "PENDING")
    world.slurm.resume(node)


def node_killed(world: World) -> None:
    _, _, node = world.in_its_middle(STRUCK["node killed"])
    world.slurm.kill_node(node)
    world.slurm.resume(node)


def time_limit(world: World) -> None:
    """The limit lies one to two minutes ahead: where it has passed already, SLURM warns and kills in the same look."""
    files, job, _ = world.in_its_middle(LIMITED)
    world.wait(lambda: max(steps_of(files), default=0) >= 40, files)
    ran = datetime.now() - datetime.fromisoformat(world.element(job)["start"])
    world.slurm.scontrol("update", f"jobid={job}", f"timelimit={int(ran.total_seconds() // 60) + 2}")
    world.wait(files.attempt(1).interrupted.exists, files)
    world.wait_state(job, "PENDING")
    world.slurm.scontrol("update", f"jobid={job}", "timelimit=60")


def evaluation_stopped(world: World) -> None:
    """Requeued in its middle, without a warning; then asked to stop."""
    evaluation = world.asked()
    first, second = evaluation.attempt(1), evaluation.attempt(2)
    world.wait(lambda: len(lines(first.journal)) >= 3, evaluation)
    job = world.slurm_job(first)
    world.slurm.requeue(job)
    world.wait(lambda: len(lines(second.journal)) >= 3, evaluation)
    world.slurm.scancel("--signal=USR2", job)
    world.wait(second.interrupted.exists, evaluation)


def cancelled(world: World) -> None:
    """Cancelled while it runs and, at once, launched again for another node."""
    files, job, node = world.in_its_middle(CANCELLED)
    world.bll("cancel", "cancelled")
    world.wait_state(job, "CANCELLED")
    world.launch("cancelled", not_on("c2", node))
    world.goes_on("cancelled", files)


def stuck(world: World) -> None:
    """Stopped three times while it hangs in its first steps."""
    training = world.training(STUCK)
    for n in (1, 2, 3):
        attempt = training.attempt(n)
        world.wait(attempt.provenance.exists, training)
        os.kill(read_json(attempt.provenance)["pid"], signal.SIGSTOP)
        world.slurm.scancel("--signal=USR2", world.slurm_job(attempt))
        world.wait(attempt.interrupted.exists, training)
    world.wait_state(world.slurm_job(training.attempt(3)), "FAILED")


def retried(world: World, *kills: Future[None]) -> None:
    """What was killed has failed: `bll retry` runs it again."""
    for kill in kills:
        kill.result()
    world.bll("retry", "struck")
    tree = world.training(STRUCK["tree killed"])
    world.goes_on("tree killed", tree)
    world.slurm.resume(read_json(tree.attempt(1).provenance)["host"])  # from its drain


# --- the story --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same jobs without SLURM and without faults."""
    grids = [
        {"objective": [*STRUCK.values(), LIMITED, CANCELLED, STUCK], "recipe.steps": [200]},
        {"objective": ["base"], "recipe.steps": [200], "benchmark.decodings.sampled.samples": [1500]},
    ]
    common = {"backbone": ["lab-tiny"], "benchmark": ["lab-tiny"], "recipe": ["lab-tiny"]}
    conf = tmp_path_factory.mktemp("conf")
    (conf / "sweep").mkdir()
    sweep = {"hydra": {"mode": "MULTIRUN", "sweeper": {"name": "expected", "grids": [common | grid for grid in grids]}}}
    (conf / "sweep" / "expected.yaml").write_text("# @package _global_\n" + json.dumps(sweep))
    os.environ["BLL_CONF"] = str(conf)
    try:
        return reference(tmp_path_factory, "sweep=expected", "tracker=off", OFTEN, LOGGED)
    finally:
        del os.environ["BLL_CONF"]


@pytest.fixture(scope="module")
def story(slurm: Slurm, expected: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, dict[str, Any]]:
    """The world when everything is over, and what went wrong with which fault."""
    folder = tmp_path_factory.mktemp("faults")
    root = part_of(expected, folder / "runs", "pretrain", "prior")
    world = World(slurm, root, slow(folder / "site", STEP_S))
    begun: dict[str, Future[None]] = {}
    with ThreadPoolExecutor(16) as pool:
        for launch, faults in {
            "limited": {"time limit": time_limit},
            "struck": {
                "preempted": preempted,
                "requeued": requeued,
                "child killed": child_killed,
                "tree killed": tree_killed,
                "node down": node_down,
                "node killed": node_killed,
            },
            "stuck": {"stuck": stuck},
            "cancelled": {"cancelled": cancelled},
            "asked": {"evaluation": evaluation_stopped},
        }.items():
            world.launch(launch)
            begun |= {name: pool.submit(fault, world) for name, fault in faults.items()}
        begun["retried"] = pool.submit(retried, world, begun["child killed"], begun["tree killed"])
    wait_for(lambda: not queued(slurm, world.root), PATIENCE_S, slurm.describe, every_s=1.0)
    return world, {name: future.exception() for name, future in begun.items()}


def ended(story: tuple[World, dict[str, Any]], *faults: str) -> World:
    """The world, once these faults have struck as they should and what they struck is done."""
    world, problems = story
    for fault in faults:
        if problems[fault] is not None:
            raise problems[fault]
    return world


def went_on(job: JobFiles) -> bool:
    """Whether the last attempt carried on with the curve of the one before: no two attempts take the same times."""
    before, last = (lines(attempt.output("timing.jsonl")) for attempt in job.attempts()[-2:])
    return len(before) >= 5 and before[:5] == last[:5]


@pytest.mark.parametrize("fault", [*STRUCK, "time limit"])
def test_the_next_attempt_goes_on_from_the_last_checkpoint(story: tuple[World, dict[str, Any]], fault: str) -> None:
    world = ended(story, fault, "retried")
    job = world.training({**STRUCK, "time limit": LIMITED}[fault])
    assert is_done(job), world.describe(job)
    first, *_, last = job.attempts()
    assert len(job.attempts()) == 2, world.describe(job)
    assert read_record(job).attempt == last
    assert went_on(job)
    told = read_json(first.interrupted) if first.interrupted.exists() else {}
    if fault in SOFTLY:
        assert told["reached"] > told["began_at"] == 0
    if fault in KILLED:
        assert "reached" not in told
    if fault == "child killed":
        assert "killed by SIGKILL" in read_json(first.folder / "failure.cleared.json")["message"]


def test_what_was_struck_ends_with_the_bytes_of_what_was_not(
    story: tuple[World, dict[str, Any]], expected: Path
) -> None:
    world = ended(story, *(name for name in story[1] if name != "stuck"))
    world.bll("retry", "stuck")
    for name in LAUNCHES:
        world.bll("wait", name, "--timeout", str(PATIENCE_S))
    assert results(world.root) == results(expected)
    wait_for(lambda: not queued(world.slurm, world.root), 60, world.slurm.describe)


def test_an_interrupted_evaluation_asks_no_question_twice(story: tuple[World, dict[str, Any]]) -> None:
    """Of the first attempt, ended without a warning, there is the journal; of the second also what it says itself."""
    world = ended(story, "evaluation")
    evaluation = world.asked()
    assert is_done(evaluation), world.describe(evaluation)
    _, second, last = evaluation.attempts()
    told = read_json(second.interrupted)
    assert told["began_at"] >= 3
    assert told["reached"] >= told["began_at"] + 3
    assert read_record(evaluation).attempt == last


def test_a_job_that_is_stopped_without_getting_anywhere_fails_and_says_what_to_raise(
    story: tuple[World, dict[str, Any]],
) -> None:
    world = ended(story, "stuck")
    third = world.training(STUCK).attempt(3)
    told = third.failure if third.failure.exists() else third.folder / "failure.cleared.json"  # by an earlier test
    assert "stopped 3 times in a row without reaching a new step" in read_json(told)["message"]
    assert "raise its time_min" in read_json(told)["message"]


@pytest.mark.parametrize("how", ["cancelled", "tree killed"])
def test_another_node_goes_on_at_once(story: tuple[World, dict[str, Any]], how: str) -> None:
    """Nobody waits until a dead claim is stale: a cancelled job gives it back, and of a killed one SLURM knows."""
    world = ended(story, how, "retried")
    job = world.training({**STRUCK, "cancelled": CANCELLED}[how])
    assert is_done(job), world.describe(job)
    first, second = (read_json(attempt.provenance) for attempt in job.attempts())
    assert first["host"] != second["host"]
    assert went_on(job)
    claim = (job.claims / "claim.1").stat()
    owner = read_json(job.claims / "claim.1"), read_json(job.claims / "claim.2")
    assert owner[0]["boot"] != owner[1]["boot"]
    assert (claim.st_mtime == 0) == (how == "cancelled")
    assert world.waited_s[how] < STALE_AFTER_S / 3
