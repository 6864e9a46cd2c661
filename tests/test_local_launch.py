"""Launching on this machine, with real workers: what is done stays done, and dying at any instant loses nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Bll

from bll_sweeps.cluster.launch import visible_gpus
from bll_sweeps.cluster.status import job_state
from bll_sweeps.code import code_digest
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.layout import JobFiles, Layout
from bll_sweeps.store.records import read_record

pytestmark = pytest.mark.slow
FIXTURES = Path(__file__).parent / "fixtures"
# Long enough to be killed in the middle, and with checkpoints to go on from.
SWEEP = ["sweep=smoke", "tracker=off", "recipe.steps=120", "execution.checkpoint_every_steps=10"]


def results(root: Path) -> dict[str, bytes]:
    """Every record of a run root and every file that a record names, byte for byte."""
    found = {}
    for folder in sorted((root / "jobs").iterdir()):
        record = read_record(JobFiles(folder))
        assert record is not None, folder
        found[folder.name] = record.attempt.record.read_bytes()
        for name in record.outputs:
            found[f"{folder.name}/{name}"] = record.output(name).read_bytes()
    return found


def attempts(root: Path) -> dict[str, int]:
    return {folder.name: len(JobFiles(folder).attempts()) for folder in (root / "jobs").iterdir()}


def job_of(root: Path, kind: str) -> JobFiles:
    return next(JobFiles(folder) for folder in sorted((root / "jobs").iterdir()) if folder.name.startswith(kind))


def start(root: Path, *args: str) -> subprocess.Popen[str]:
    """A launch in a process group of its own, as a terminal would start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "bll_sweeps.cli", "launch", *args],
        env=os.environ | {"BLL_RUNS": str(root)},
        cwd=root.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
        # A test run in the background of a shell ignores Ctrl-C, and its children would, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run root of a sweep that nothing interrupted."""
    root = tmp_path_factory.mktemp("reference") / "runs"
    process = start(root, *SWEEP)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "7/7 jobs done" in out
    return root


@pytest.fixture
def copy(reference: Path, tmp_path: Path) -> Path:
    shutil.copytree(reference, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("variable", "seen"),
    [
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0, 2", ["0", "2"]),
        ("0,-1,1", ["0"]),
        ("GPU-5f,MIG-3", ["GPU-5f", "MIG-3"]),
    ],
)
def test_gpus_that_are_hidden_are_not_there(monkeypatch: pytest.MonkeyPatch, variable: str, seen: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus() == seen


def test_a_second_launch_of_the_same_grid_runs_nothing(copy: Path, bll: Bll) -> None:
    before = attempts(copy)
    done = bll("launch", *SWEEP)
    assert done.returncode == 0
    assert "nothing to run" in done.stdout
    assert attempts(copy) == before


def test_retry_runs_nothing_where_nothing_has_failed(copy: Path, bll: Bll) -> None:
    before = attempts(copy)
    done = bll("retry")
    assert done.returncode == 0
    assert "nothing has failed or is damaged" in done.stdout
    assert attempts(copy) == before


def test_a_changed_grid_runs_only_what_is_new(copy: Path, bll: Bll) -> None:
    before = attempts(copy)
    assert bll("launch", *SWEEP, "objective=base,nll,p10").returncode == 0
    after = attempts(copy)
    new = sorted(job_id.partition("-")[0] for job_id in after.keys() - before.keys())
    assert new == ["evaluate", "train"]
    assert all(after[job_id] == n for job_id, n in before.items())


def test_killing_everything_three_times_changes_no_record(reference: Path, tmp_path: Path) -> None:
    root, chance = tmp_path / "runs", random.Random(11)
    for _ in range(3):
        process = start(root, *SWEEP)
        tried = sum(attempts(root).values()) if (root / "jobs").exists() else 0
        # Into the middle of the work: after the next job has begun, at a random moment.
        wait_for(
            lambda tried=tried, p=process: (
                p.poll() is not None or ((root / "jobs").exists() and sum(attempts(root).values()) > tried)
            )
        )
        time.sleep(chance.uniform(0.0, 3.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    process = start(root, *SWEEP)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert results(root) == results(reference)


def test_a_killed_job_is_a_failure_with_a_reason_and_resumes_from_its_checkpoint(
    reference: Path, tmp_path: Path, bll: Bll
) -> None:
    root = tmp_path / "runs"
    process = start(root, *SWEEP, "objective=nll")

    def training() -> list[Path]:
        return list(root.glob("jobs/train-*/attempt.1/checkpoints/step-*"))

    wait_for(training)
    pid = json.loads((training()[0].parents[1] / "attempt.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "killed by SIGKILL" in out
    status = json.loads(bll("status", "--json").stdout)
    assert status["kinds"]["train"]["failed"] == 1
    assert status["kinds"]["evaluate"]["blocked"] == 1
    assert bll("retry").returncode == 0
    train = job_of(root, "train")
    assert len(train.attempts()) == 2
    assert (
        read_record(train).attempt.record.read_bytes()
        == read_record(reference_job(reference, train)).attempt.record.read_bytes()
    )


def reference_job(reference: Path, job: JobFiles) -> JobFiles:
    return Layout(reference).job(job.id)


def test_ctrl_c_leaves_no_process_and_the_same_command_goes_on(reference: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    process = start(root, *SWEEP)
    wait_for(lambda: list(root.glob("jobs/*/attempt.1/attempt.json")))
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: nothing is lost" in out
    assert "Traceback" not in out
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    out, _ = start(root, *SWEEP).communicate(timeout=300)
    assert "7/7 jobs done" in out
    assert results(root) == results(reference)


@pytest.mark.parametrize("damage", ["record", "output", "spec and output"])
def test_what_is_damaged_is_named_never_used_and_recovered_by_retry(
    copy: Path, reference: Path, bll: Bll, damage: str
) -> None:
    train = job_of(copy, "train")
    attempt = read_record(train).attempt
    named = attempt.record
    if "output" in damage:
        named = attempt.output("model") / "model.safetensors"
    named.write_bytes(named.read_bytes()[:-100])
    if "spec" in damage:
        train.spec.write_text('{"id": "train-')
    assert job_state(train) == "damaged"
    status = bll("status")
    assert str(named) in status.stdout
    assert "damaged" in bll("plan", *SWEEP).stdout
    done = bll("retry")
    assert done.returncode == 0, done.stderr
    assert results(copy) == results(reference)


def test_an_output_that_was_changed_without_changing_its_size_stops_the_job_that_needs_it(
    copy: Path, reference: Path, bll: Bll
) -> None:
    train = job_of(copy, "train")
    weights = read_record(train).attempt.output("model") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\1\2\3")
    for folder in (copy / "jobs").iterdir():
        if train.id in read_spec(JobFiles(folder)).job.parents:
            shutil.rmtree(folder)
    done = bll("launch", *SWEEP)
    assert done.returncode == 1
    assert f"{weights} differs from the digest in its record" in done.stderr
    assert bll("retry").returncode == 0
    assert results(copy) == results(reference)


def test_a_failure_has_its_traceback_blocks_its_children_and_does_not_stop_the_rest(tmp_path: Path, bll: Bll) -> None:
    rows = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(16)]
    rows[5]["question"] = "x" * 90  # no room for the answer in max_length, though for one in the model's context
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    env = {"BLL_CONF": str(FIXTURES / "user_conf"), "OWN_JSONL": str(data)}
    args = [
        "objective=base,nll",
        "backbone=lab-tiny",
        "benchmark=own",
        "recipe=lab-tiny",
        "recipe.steps=2",
        "tracker=off",
    ]
    done = bll("launch", *args, env=env)
    assert done.returncode == 1
    status = bll("status", "--json")
    jobs = {job["kind"]: job for job in json.loads(status.stdout)["jobs"] if job["state"] != "done"}
    assert jobs["train"]["state"] == jobs["prior"]["state"] == "failed"
    assert jobs["evaluate"]["state"] == "blocked"
    assert "5" in jobs["train"]["detail"]
    assert "no supervised token" in jobs["train"]["detail"]
    assert "Traceback" in bll("show", jobs["train"]["id"]).stdout
    assert "Traceback" in bll("logs", jobs["train"]["id"]).stdout
    assert bll("run", jobs["evaluate"]["id"]).returncode == 2
    # The changed data file is another job; what failed is left as it is.
    rows[5]["question"] = "short"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert bll("launch", *args, env=env).returncode == 0


def test_results_of_other_code_are_named_by_plan_and_run_again_only_on_request(copy: Path, bll: Bll) -> None:
    train = job_of(copy, "train")
    provenance = read_record(train).attempt.provenance
    provenance.write_text(provenance.read_text().replace(code_digest(), "0123456789abcdef"))
    plan = json.loads(bll("plan", *SWEEP, "--json").stdout)
    assert plan["stale"] == [train.id]
    assert plan["kinds"]["train"] == {
        "total": 2,
        "new": 0,
        "running": 0,
        "done": 1,
        "stale": 1,
        "pruned": 0,
        "failed": 0,
        "damaged": 0,
    }
    assert "nothing to run" in bll("launch", *SWEEP).stdout
    assert bll("launch", *SWEEP, "--rerun-stale").returncode == 0
    assert len(train.attempts()) == 2
    assert json.loads(bll("plan", *SWEEP, "--json").stdout)["stale"] == []


def test_a_job_runs_in_the_foreground_and_only_once(copy: Path, bll: Bll) -> None:
    evaluate = job_of(copy, "evaluate")
    evaluate.done.unlink()
    done = bll("run", evaluate.id)
    assert done.returncode == 0, done.stderr
    assert len(evaluate.attempts()) == 2
    again = bll("run", evaluate.id[:12])
    assert again.returncode == 2
    assert "is done" in again.stderr


def test_detached_workers_outlive_the_launch_and_can_be_waited_for(tmp_path: Path, bll: Bll, reference: Path) -> None:
    started = time.monotonic()
    done = bll("launch", *SWEEP, "--detach")
    assert done.returncode == 0, done.stderr
    assert "detached" in done.stdout
    assert bll("wait", "--timeout", "0").returncode == 1
    assert bll("wait", "--timeout", "300").returncode == 0
    assert time.monotonic() - started < 300
    assert results(tmp_path / "runs") == results(reference)


def test_a_cancelled_launch_leaves_no_worker_and_waiting_for_it_says_so(tmp_path: Path, bll: Bll) -> None:
    root = tmp_path / "runs"
    assert bll("launch", *SWEEP, "--detach").returncode == 0
    wait_for(lambda: list(root.glob("jobs/*/attempt.1/attempt.json")))
    assert "1 pool of workers asked to stop" in bll("cancel").stdout
    done = bll("wait", "--timeout", "60")
    assert done.returncode == 1
    assert "no worker is left" in done.stderr
    assert "no launch is running" in bll("cancel").stdout


def test_a_local_model_directory_is_a_backbone_and_is_checked_when_it_is_used(
    reference: Path, tmp_path: Path, bll: Bll
) -> None:
    model = tmp_path / "own-model"
    shutil.copytree(read_record(job_of(reference, "pretrain")).output("model"), model)
    env = {"BLL_CONF": str(FIXTURES / "user_conf"), "OWN_MODEL": str(model)}
    args = [
        "objective=base,nll",
        "backbone=own",
        "benchmark=lab-tiny",
        "recipe=lab-tiny",
        "recipe.steps=2",
        "tracker=off",
    ]
    assert bll("launch", *args, env=env).returncode == 0
    status = json.loads(bll("status", "--json").stdout)
    assert {kind: counts["done"] for kind, counts in status["kinds"].items()} == {"prior": 1, "train": 1, "evaluate": 2}
    train = job_of(tmp_path / "runs", "train")
    train.done.unlink()
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    done = bll("run", train.id)
    assert done.returncode == 1
    assert f"{model} has changed since it was planned" in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["objective=nll", "backbone=lab-tiny", "benchmark=lab-tiny", "recipe=lab-tiny"],
        ["-m", "hydra/launcher=basic", "sweep=smoke"],
        [
            "-m",
            "hydra/sweeper=basic",
            "objective=base,nll",
            "backbone=lab-tiny",
            "benchmark=lab-tiny",
            "recipe=lab-tiny",
        ],
    ],
    ids=["one cell", "Hydra's own launcher", "Hydra's own sweeper"],
)
def test_the_cell_application_is_plain_hydra(copy: Path, reference: Path, args: list[str]) -> None:
    for job in [f for f in (copy / "jobs").iterdir() if f.name.startswith(("train", "evaluate"))]:
        shutil.rmtree(job)
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cell", *args, *SWEEP[1:]],
        env=os.environ | {"BLL_RUNS": str(copy)},
        cwd=copy.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found, expected = results(copy), results(reference)
    assert {job_id.partition("-")[0] for job_id in found} >= {"pretrain", "prior", "evaluate"}
    assert all(expected[name] == content for name, content in found.items())
    assert sorted(p.name for p in copy.parent.iterdir()) == ["runs"]  # nothing is left in the working directory


def test_a_folder_of_the_users_named_jobs_does_not_shadow_ours(tmp_path: Path, bll: Bll) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__init__.py").write_text("raise RuntimeError('shadowed')")
    done = subprocess.run(
        [Path(sys.executable).with_name("bll"), "launch", *SWEEP, "objective=base", "recipe.steps=2"],
        env=os.environ | {"BLL_RUNS": str(tmp_path / "runs")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
