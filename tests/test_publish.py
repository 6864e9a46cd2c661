"""The way to W&B and back, against a stand-in server: real jobs, the real client, processes that are really killed.

With BLL_TEST_WANDB_PROJECT=ENTITY/PROJECT (and a key) the round trip is made with a real server too.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import hooks
import pytest
from wandb_server import ENTITY, KEY, ServedArtifact, WandbServer

from bll_sweeps.cluster.status import read_manifest
from bll_sweeps.grid.settings import Tracker
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.claims import acquire
from bll_sweeps.store.layout import JobFiles, Layout
from bll_sweeps.store.records import Record, read_json, read_record, withdraw, write_record
from bll_sweeps.store.records import publish as finish
from bll_sweeps.tracking import dashboard, names, open_tracker, panels, session, watch
from bll_sweeps.tracking.content import Sweeps, content, identity, rows
from bll_sweeps.tracking.publish import publish
from bll_sweeps.tracking.server import Target

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_account")]
SWEEP = ["sweep=smoke", "recipe.steps=600", "execution.checkpoint_every_steps=20", "execution.log_every_steps=5"]
SWEEP += ["hydra.launcher.workers=1"]  # what each imports costs more than its jobs
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run root of a small sweep that was tracked offline."""
    root = tmp_path_factory.mktemp("finished") / "runs"
    out = call(root, "launch", *SWEEP)
    assert out.returncode == 0, out.stdout + out.stderr
    logs = [path.read_text() for path in root.rglob("log.txt")]
    assert len(logs) == 7 and not [log for log in logs if "W&B" in log]  # the mirror of none had anything to warn of
    return root


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as running:
        yield running
        assert running.unknown == []


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


# --- publish ----------------------------------------------------------------------------------------------------------


def test_each_finished_job_is_one_run_with_its_rows_scores_and_place(store: Path, server: WandbServer) -> None:
    done = call(store, "publish", env=server.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"7 jobs published, 0 there already, 0 not finished\n{server.url}/{ENTITY}/bll-sweeps\n"
    assert_complete(server, store)
    evaluation, prior = record_of(store, "evaluate"), record_of(store, "prior")
    run = server.run(evaluation.job.id)
    spec = json.loads(evaluation.job.spec.read_text())
    labels = spec["labels"]
    assert (run.group, run.job_type, run.values()["id"]) == ("smoke", "evaluate", evaluation.job.id)
    assert run.values()["labels"] == labels
    assert run.values()["job"]["benchmark"]["decodings"] == spec["job"]["benchmark"]["decodings"]
    axes = {f"{axis}:{labels[axis]}" for axis in ("objective", "backbone", "domain", "benchmark", "recipe")}
    assert {*axes, "sweep:smoke", f"region:{run.summary()[names.REGION]}"} == set(run.tags)
    assert run.summary()[names.PRIOR_STRENGTH] == prior.result["clean"]["mean_p"]
    table = run.summary()[names.table(labels["benchmark"])]
    assert table["nrows"] == min(50, evaluation.result["metrics"]["sampled"]["questions"])
    histogram = server.run(prior.job.id).summary()["prior/p"]
    assert histogram["values"] == prior.result["as_trained"]["histogram"]
    assert all("wandb-events.jsonl" not in run.streams for run in server.runs.values())  # the load of this machine
    kept = {artifact.sequence for artifact in server.artifacts.values() if artifact.type == names.RECORD}
    assert kept == {f"record-{record.job.id}" for record in records(store)}


def test_a_second_publish_asks_the_server_for_nothing_but_who_it_is(store: Path, server: WandbServer) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    before = {name: len(run.rows()) for (_, name), run in server.runs.items()}
    server.asked.clear()
    done = call(store, "publish", env=server.environment())
    assert done.stdout == f"0 jobs published, 7 there already, 0 not finished\n{server.url}/{ENTITY}/bll-sweeps\n"
    assert set(server.asked) <= {"GetDefaultEntity", "Viewer", "ServerFeaturesQuery"}
    assert {name: len(run.rows()) for (_, name), run in server.runs.items()} == before


@pytest.mark.parametrize("posts", [1, 6])
def test_a_publish_that_is_killed_is_completed_by_the_next(posts: int, store: Path, server: WandbServer) -> None:
    enough, lock = threading.Event(), threading.Lock()
    seen = 0

    def count(method: str, path: str, operation: str) -> None:
        nonlocal seen
        with lock:
            seen += operation in ("file_stream", "CommitArtifact")
        if seen >= posts:
            enough.set()

    server.faults = count
    process = start(store, "publish", "--at-once", "2", env=server.environment())
    assert enough.wait(60)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = call(store, "publish", env=server.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert_complete(server, store)


def test_rows_that_the_server_lost_are_named_and_brought_again(store: Path, server: WandbServer) -> None:
    training = record_of(store, "train").job.id
    lost = threading.Event()

    def lose(method: str, path: str, operation: str) -> None:
        if operation == "Runs" and not lost.is_set():  # when the client asks what is there
            lost.set()
            streams = server.run(training).streams
            del streams["wandb-history.jsonl"][3:]
            streams["wandb-summary.json"] = ['{"_step": 2}']

    server.faults = lose
    done = call(store, "publish", env=server.environment())
    assert done.returncode == 1
    assert f"{training}: the server has it as finished with 3 of " in done.stderr
    assert call(store, "publish", env=server.environment()).returncode == 0
    assert_complete(server, store)


def test_rows_of_another_result_are_not_taken_for_the_jobs_own(store: Path, server: WandbServer) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    record = record_of(store, "train")
    metrics = record.attempt.output("metrics.jsonl")
    metrics.write_text(metrics.read_text().replace('"nll": 0', '"nll": 1', 1))
    write_record(record.attempt, record.job.id, record.result, ["metrics.jsonl", "model"])
    done = call(store, "publish", env=server.environment())
    assert done.returncode == 1
    assert f"{record.job.id}: the server has rows of another result" in done.stderr
    assert call(store, "publish", "--project", "fresh", env=server.environment()).returncode == 0
    assert server.run(record.job.id, "fresh").rows()[0]["train/nll"] == rows(record.attempt)[0]["nll"]


def test_an_evaluation_with_another_result_is_not_mixed_with_the_one_there(store: Path, server: WandbServer) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    record = record_of(store, "evaluate")
    before = server.run(record.job.id).summary()
    result = json.loads(json.dumps(record.result))
    result["metrics"][result["primary"]]["mean"] = 0.125
    write_record(record.attempt, record.job.id, result, list(record.outputs))
    done = call(store, "publish", env=server.environment())
    assert done.returncode == 1
    assert f"{record.job.id}: the server has rows of another result" in done.stderr
    assert {**before, "_step": 0} == {**server.run(record.job.id).summary(), "_step": 0}  # wandb's own count of rows


def test_rows_that_the_job_does_not_repeat_are_left_in_a_run_of_their_own(store: Path, server: WandbServer) -> None:
    """A job was brought while it ran, with a row per 20 steps; then it was killed, and begun anew with one per 5."""
    record = record_of(store, "train")
    files, attempt = record.job, record.attempt
    withdraw(files, "as if it still ran")
    metrics = attempt.output("metrics.jsonl")
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[3:40:4]))
    done = call(store, "publish", "--live", env=server.environment())
    assert done.returncode == 0 and "1 not finished, of these 1 as far as they are" in done.stdout
    earlier = [row[names.STEP] for row in server.run(files.id).rows()]
    assert len(earlier) == 10
    metrics.write_text("".join(lines))
    finish(files, attempt)
    done = call(store, "publish", env=server.environment())
    assert done.returncode == 0 and "1 earlier runs superseded" in done.stdout, done.stdout + done.stderr
    old, new = server.run(files.id), server.run(f"{files.id}-2")
    assert [row[names.STEP] for row in old.rows()] == earlier
    assert "superseded" in old.tags and not [tag for tag in old.tags if tag.startswith("sweep:")]
    steps = [row[names.STEP] for row in new.rows()]
    assert steps == [row["step"] for row in rows(attempt)] and "sweep:smoke" in new.tags
    assert call(store, "publish", "--again", env=server.environment()).returncode == 0
    assert f"{files.id}-3" not in {name for _, name in server.runs} and len(new.rows()) == len(steps)


def test_another_result_supersedes_where_that_is_asked_for_and_is_the_one_that_is_pulled(
    store: Path, server: WandbServer, tmp_path: Path
) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    training, evaluation = record_of(store, "train"), record_of(store, "evaluate")
    metrics = training.attempt.output("metrics.jsonl")
    metrics.write_text(metrics.read_text().replace('"nll": 0', '"nll": 1', 1))
    write_record(training.attempt, training.job.id, training.result, list(training.outputs))
    result = json.loads(json.dumps(evaluation.result))
    result["metrics"][result["primary"]]["mean"] = 0.125
    write_record(evaluation.attempt, evaluation.job.id, result, list(evaluation.outputs))
    done = call(store, "publish", env=server.environment())
    assert done.returncode == 1 and done.stderr.count("--supersede") == 2
    done = call(store, "publish", "--supersede", env=server.environment())
    assert done.returncode == 0 and "2 jobs published" in done.stdout and "2 earlier runs superseded" in done.stdout
    assert server.run(f"{training.job.id}-2").rows()[0]["train/nll"] == rows(training.attempt)[0]["nll"]
    assert server.run(f"{evaluation.job.id}-2").summary()[names.SCORE] == 0.125
    assert call(store, "publish", env=server.environment()).stdout.startswith("0 jobs published, 7 there already")
    done = call(tmp_path / "other", "pull", "bll-sweeps", env=server.environment())
    assert done.stdout.startswith("7 jobs pulled, 0 here already, 0 not finished there, 2 superseded")
    for mine, theirs in zip(records(store), records(tmp_path / "other"), strict=True):
        assert mine.attempt.record.read_bytes() == theirs.attempt.record.read_bytes()


def test_an_id_that_was_deleted_on_the_server_is_followed_by_the_next(store: Path, server: WandbServer) -> None:
    training = record_of(store, "train").job.id
    server.deleted.add(training)
    done = call(store, "publish", env=server.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert training not in {name for _, name in server.runs}
    assert server.run(f"{training}-2").state == "finished"


def test_tags_and_names_that_were_given_by_hand_stay(store: Path, server: WandbServer) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    run = server.run(record_of(store, "train").job.id)
    run.tags, run.display = [*run.tags, "by-hand", "region:none"], "my favourite"
    before = set(run.tags)
    assert call(store, "publish", "--again", env=server.environment()).returncode == 0
    assert set(run.tags) == before - {"region:none"} and run.display == "my favourite"


def test_one_publish_at_a_time(store: Path, server: WandbServer) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait(method: str, path: str, operation: str) -> None:
        if operation == "UpsertBucket" and not begun.is_set():
            begun.set()
            go_on.wait(60)

    server.faults = wait
    first = start(store, "publish", env=server.environment())
    assert begun.wait(60)
    second = call(store, "publish", env=server.environment())
    go_on.set()
    first.communicate()
    assert (first.returncode, second.returncode) == (0, 1)
    assert f"process {first.pid}" in second.stderr and "wait for it" in second.stderr
    assert_complete(server, store)


def test_a_job_that_still_closes_its_own_run_is_left_to_it(store: Path, server: WandbServer) -> None:
    record = record_of(store, "train")
    (record.attempt.wandb / "wandb" / "run-20260101_000000-x").mkdir()  # as of one that is online
    claim = acquire(record.job)
    assert claim is not None
    done = call(store, "publish", env=server.environment())
    assert "6 jobs published, 0 there already, 1 not finished, 1 online by themselves" in done.stdout
    claim.release()
    assert call(store, "publish", env=server.environment()).stdout.startswith("1 jobs published, 6 there already")
    assert_complete(server, store)


def test_the_entity_of_the_environment_is_that_of_live_runs_and_of_publish(store: Path, server: WandbServer) -> None:
    environment = server.environment() | {"WANDB_ENTITY": "team"}
    live = ["objective=nll", "recipe.steps=20", "tracker=online"]
    assert call(store, "launch", *SWEEP, *live, env=environment).returncode == 0
    assert call(store, "publish", env=environment).stdout.endswith("/team/bll-sweeps\n")
    assert server.entities == {"team"}


def test_a_sweep_goes_to_the_project_it_was_launched_with(store: Path, server: WandbServer) -> None:
    """Though its backbone was trained by another."""
    mine = [*SWEEP, "hydra.sweeper.name=mine", "tracker.project=mine"]
    assert call(store, "launch", *mine).returncode == 0
    assert call(store, "publish", "mine", env=server.environment()).stdout.endswith("/mine\n")
    assert {project for project, _ in server.runs} == {"mine"}


@pytest.mark.parametrize(
    "given, environment, told",
    [
        (["--project", "a/b/c"], {}, "project='a/b/c'"),
        (["--project", "a?b"], {}, "none of /"),
        ([], {"WANDB_BASE_URL": "127.0.0.1:9"}, "$WANDB_BASE_URL='127.0.0.1:9' is no address"),
    ],
)
def test_a_place_that_cannot_be_is_one_error(
    given: list[str], environment: dict[str, str], told: str, store: Path, server: WandbServer
) -> None:
    done = call(store, "publish", *given, env=server.environment() | environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and told in done.stderr


def test_times_are_those_of_the_job(store: Path, server: WandbServer) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    record = record_of(store, "train")
    run, told = server.run(record.job.id), record.provenance()
    start_s, end_s = (datetime.fromisoformat(told[key]).timestamp() for key in ("started_at", "finished_at"))
    assert all(start_s <= row["_timestamp"] <= end_s for row in run.rows())
    assert run.summary()["attempt/host"] == told["host"]
    shown = call(store, "show", record.job.id).stdout
    assert f"on W&B   {server.url}/{ENTITY}/bll-sweeps/runs/{record.job.id}\n" in shown


def test_a_run_without_rows_is_anybodys(store: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation crashed online, and was made later."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    layout, record = Layout(store), record_of(store, "evaluate")
    own, folder = identity(layout, read_spec(record.job)), store.parent / "crashed"
    run = open_tracker(Tracker(name="test", wandb="online"), own, folder)
    run.close(ok=False)
    assert server.run(record.job.id).state == "failed"
    assert call(store, "publish", env=server.environment()).returncode == 0
    assert_complete(server, store)


def test_a_live_run_of_another_result_says_so_and_leaves_the_one_there(
    store: Path, server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    layout, record = Layout(store), record_of(store, "train")
    before = server.run(record.job.id).summary()
    metrics = record.attempt.output("metrics.jsonl")
    metrics.write_text(metrics.read_text().replace('"nll": 0', '"nll": 1', 1))
    write_record(record.attempt, record.job.id, record.result, ["metrics.jsonl", "model"])
    other = record_of(store, "train")
    spec = read_spec(other.job)
    run = open_tracker(Tracker(name="test", wandb="online"), identity(layout, spec), tmp_path / "wandb")
    for row in rows(other.attempt):
        run.log(row)
    run.complete(lambda: content(layout, spec, other, Sweeps()))
    run.close(ok=True)
    assert [one.message for one in caplog.records if "rows of another result" in one.getMessage()]
    after = server.run(record.job.id).summary()
    assert after[names.ROWS] == before[names.ROWS] and after["train/nll"] == before["train/nll"]


def test_a_server_that_dies_during_a_publish_ends_it_and_the_next_completes_it(
    store: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(session, "LOOK_EVERY_S", 0.5)
    monkeypatch.setattr(session, "SILENT_LOOKS", 2)

    def die(method: str, path: str, operation: str) -> None:
        if operation == "CommitArtifact":
            server.faults = lambda method, path, operation: time.sleep(300)
            time.sleep(300)

    server.faults = die
    layout, jobs, began = Layout(store), [record.job.id for record in records(store)], time.monotonic()
    out = publish(layout, jobs, Target("bll-sweeps"), at_once=2)
    assert time.monotonic() - began < 120  # as the README says; each run alone may wait a quarter of an hour
    assert set(out.problems) == set(jobs) and out.new == 0
    assert any("does not answer any more" in problem for problem in out.problems.values())
    server.faults = lambda method, path, operation: None
    done = call(store, "publish", env=server.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert_complete(server, store)


def test_a_server_that_cannot_tell_what_it_has_confirms_nothing(store: Path, server: WandbServer) -> None:
    server.faults = lambda method, path, operation: 403 if operation == "Runs" else None
    done = call(store, "publish", env=server.environment())
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.count("does not tell what it has") == 7
    server.faults = lambda method, path, operation: None
    assert call(store, "publish", env=server.environment()).stdout.startswith("7 jobs published")
    assert_complete(server, store)


def test_a_busy_server_is_asked_again(store: Path, server: WandbServer, tmp_path: Path) -> None:
    turn = iter(range(10**6))
    server.faults = lambda method, path, operation: 429 if next(turn) % 4 == 3 else None
    done = call(store, "publish", env=server.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert_complete(server, store)
    done = call(tmp_path / "other", "pull", "bll-sweeps", env=server.environment())
    assert done.returncode == 0 and done.stdout.startswith("7 jobs pulled"), done.stdout + done.stderr


def test_a_job_that_another_sweep_takes_in_gets_its_tag_and_no_row_twice(store: Path, server: WandbServer) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    assert call(store, "launch", *SWEEP, "hydra.sweeper.name=again").returncode == 0
    done = call(store, "publish", "again", env=server.environment())
    assert done.stdout == f"7 jobs published, 0 there already, 0 not finished\n{server.url}/{ENTITY}/bll-sweeps\n"
    assert_complete(server, store)
    assert all({"sweep:smoke", "sweep:again"} <= set(run.tags) for run in server.runs.values())
    assert {run.group for run in server.runs.values()} == {"smoke"}


def test_weights_are_referred_to_where_that_is_asked_for(
    store: Path, server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    layout, record = Layout(store), record_of(store, "train")
    spec = read_spec(record.job)
    for asked in (False, True):
        settings = Tracker(name="test", wandb="online", checkpoints=asked)
        run = open_tracker(settings, identity(layout, spec), tmp_path / f"wandb{asked}")
        run.complete(lambda: content(layout, spec, record, Sweeps()))
        run.close(ok=True)
        models = [artifact for artifact in server.artifacts.values() if artifact.type == "model"]
        assert len(models) == asked
    manifest = json.loads(server.storage[models[0].manifest])
    weights = manifest["contents"]["model.safetensors"]
    assert weights["ref"] == (record.attempt.output("model") / "model.safetensors").as_uri()
    assert not [key for key in server.storage if key.endswith(".safetensors")]


def test_only_finished_jobs_are_published_unless_live_ones_are_asked_for(store: Path, server: WandbServer) -> None:
    files = record_of(store, "train").job
    told = len(rows(JobFiles(files.folder).attempts()[-1]))
    withdraw(files, "as if it still ran")
    done = call(store, "publish", env=server.environment())
    assert done.stdout == f"6 jobs published, 0 there already, 1 not finished\n{server.url}/{ENTITY}/bll-sweeps\n"
    assert files.id not in {name for _, name in server.runs}
    assert call(store, "publish", "--live", env=server.environment()).returncode == 0
    run = server.run(files.id)
    assert (run.state, len(run.rows())) == ("running", told)


def test_a_later_attempt_that_is_behind_the_server_is_no_problem(store: Path, server: WandbServer) -> None:
    """A job was brought as far as it was, and then requeued: its next attempt has fewer rows as yet."""
    files = record_of(store, "train").job
    told = rows(files.attempts()[-1])
    withdraw(files, "as if it still ran")
    assert call(store, "publish", "--live", env=server.environment()).returncode == 0
    later = files.attempt(2)
    shutil.copytree(files.attempt(1).folder, later.folder)
    for fewer in (3, 0):
        for name in ("metrics.jsonl", "timing.jsonl"):
            lines = later.output(name).read_text().splitlines(keepends=True)
            later.output(name).write_text("".join(lines[:fewer]))
        done = call(store, "publish", "--live", env=server.environment())
        assert done.returncode == 0, done.stdout + done.stderr
        assert [row["train/nll"] for row in server.run(files.id).rows()] == [row["nll"] for row in told]


def test_a_job_that_runs_is_published_as_far_as_it_is_and_completed_later(store: Path, server: WandbServer) -> None:
    job = unfinished(store)
    process = start(store, "run", job.id)
    deadline = time.monotonic() + 120
    while not job.attempts() or len(rows(job.attempts()[-1])) < 5:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGSTOP)  # a slow training
    try:
        told = len(rows(job.attempts()[-1]))
        done = call(store, "publish", "--live", env=server.environment())
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert done.returncode == 0, done.stdout + done.stderr
    run = server.run(job.id)
    assert (run.state, len(run.rows())) == ("running", told)
    assert process.wait(120) == 0
    assert call(store, "publish", env=server.environment()).returncode == 0
    assert_complete(server, store)


@pytest.mark.parametrize("entity", [[], ["--entity", "group"]])
@pytest.mark.parametrize("environment", [{}, {"WANDB_API_KEY": "f" * 40}])
def test_no_key_or_a_wrong_one_is_a_clear_error(
    environment: dict[str, str], entity: list[str], store: Path, server: WandbServer
) -> None:
    done = call(store, "publish", *entity, env={"WANDB_BASE_URL": server.url, **environment})
    assert done.returncode == 2
    assert "wandb login" in done.stderr and "Traceback" not in done.stderr
    assert "f" * 40 not in done.stdout + done.stderr
    assert server.runs == {}


def test_a_server_that_is_away_is_no_wrong_usage(store: Path, server: WandbServer) -> None:
    done = call(store, "publish", env=server.environment() | {"WANDB_BASE_URL": "http://127.0.0.1:9"})
    assert done.returncode == 1
    assert "W&B at http://127.0.0.1:9 cannot be used" in done.stderr and "it does not answer" in done.stderr


# --- pull -------------------------------------------------------------------------------------------------------------


def test_what_was_published_comes_back_as_the_same_records(store: Path, server: WandbServer, tmp_path: Path) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    other = tmp_path / "other"
    done = call(other, "pull", "bll-sweeps", env=server.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == "7 jobs pulled, 0 here already, 0 not finished there"
    for record in records(store):
        pulled = read_record(Layout(other).job(record.job.id))
        assert pulled is not None
        assert pulled.attempt.record.read_bytes() == record.attempt.record.read_bytes()
        assert pulled.job.spec.read_text() != "" and json.loads(pulled.job.spec.read_text())["id"] == record.job.id
        for name in record.outputs:
            if not name.startswith("model/"):
                assert pulled.output(name).read_bytes() == record.output(name).read_bytes()
    for command in (["results"], ["results", "--csv"], ["status", "--json"]):
        mine, theirs = call(store, *command), call(other, *command)
        assert theirs.returncode == 0, theirs.stderr
        if command[0] == "results":
            assert theirs.stdout == mine.stdout
        else:
            assert {job["state"] for job in json.loads(theirs.stdout)["jobs"]} == {"done"}
    again = call(other, "pull", "bll-sweeps", env=server.environment())
    assert again.stdout.splitlines()[0] == "0 jobs pulled, 7 here already, 0 not finished there"
    assert Layout(other).sweep("smoke").launches() == [1]


def test_what_comes_to_a_job_later_is_published_and_pulled_later(
    store: Path, server: WandbServer, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    assert call(store, "publish", env=server.environment()).returncode == 0
    assert call(other, "pull", "bll-sweeps", env=server.environment()).returncode == 0
    assert call(store, "regrade", "--grader", "jaro_winkler").returncode == 0
    done = call(store, "publish", env=server.environment())
    assert done.stdout == f"3 jobs published, 4 there already, 0 not finished\n{server.url}/{ENTITY}/bll-sweeps\n"
    evaluation = record_of(store, "evaluate")
    later = json.loads(evaluation.job.later_scores()[0].read_text())
    told = server.run(evaluation.job.id).summary()
    assert told[f"graders/{later['grader']}/sampled/mean"] == later["metrics"]["sampled"]["mean"]
    done = call(other, "pull", "bll-sweeps", env=server.environment())
    assert done.stdout.splitlines()[0] == "3 jobs pulled, 4 here already, 0 not finished there"
    mine, theirs = call(store, "results", "--csv").stdout, call(other, "results", "--csv").stdout
    assert later["grader"] in mine and theirs == mine
    assert call(store, "launch", *SWEEP, "hydra.sweeper.name=again").returncode == 0
    assert call(store, "publish", "again", env=server.environment()).returncode == 0
    assert_complete(server, store)
    for expected in ("3 jobs pulled, 4 here already", "0 jobs pulled, 7 here already"):  # cells are with evaluations
        done = call(other, "pull", "bll-sweeps", env=server.environment())
        assert done.stdout.startswith(expected)
        assert set(Layout(other).sweeps()) == {"again", "smoke"}
    assert call(other, "results", "again").stdout == call(store, "results", "again").stdout


def test_scores_that_are_not_of_the_record_are_refused(store: Path, server: WandbServer, tmp_path: Path) -> None:
    assert call(store, "regrade", "--grader", "jaro_winkler").returncode == 0
    record = record_of(store, "evaluate")
    summary = record.job.later_scores()[0]
    assert call(store, "publish", env=server.environment()).returncode == 0
    artifact = next(a for a in server.artifacts.values() if a.sequence == f"record-{record.job.id}")
    key = f"artifact/{artifact.id}/scores/{summary.name}"
    told = json.loads(server.storage[key]) | {"generations": "0" * 64}
    replaced(server, artifact, f"scores/{summary.name}", json.dumps(told).encode())
    done = call(tmp_path / "other", "pull", "bll-sweeps", env=server.environment())
    assert done.returncode == 1
    assert f"{record.job.id}: the scores by {summary.stem} on the server" in done.stderr
    assert not Layout(tmp_path / "other").job(record.job.id).done.exists()


def test_a_damaged_record_on_the_server_is_named_and_the_rest_comes(
    store: Path, server: WandbServer, tmp_path: Path
) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    job = record_of(store, "train").job.id
    artifact = next(a for a in server.artifacts.values() if a.sequence == f"record-{job}")
    key = f"artifact/{artifact.id}/metrics.jsonl"
    server.storage[key] = server.storage[key].replace(b"nll", b"nLl", 1)
    other = tmp_path / "other"
    done = call(other, "pull", "bll-sweeps", env=server.environment())
    assert done.returncode == 1
    assert f"{job}: " in done.stderr and "6 jobs pulled" in done.stdout
    assert not (Layout(other).job(job).done).exists()
    server.storage[key] = server.storage[key].replace(b"nLl", b"nll", 1)
    assert call(other, "pull", "bll-sweeps", env=server.environment()).returncode == 0
    assert call(other, "results").stdout == call(store, "results").stdout


def test_a_pull_leaves_a_sweep_of_the_same_name_alone(store: Path, server: WandbServer, tmp_path: Path) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    other = tmp_path / "other"
    assert call(other, "pull", "bll-sweeps", env=server.environment()).returncode == 0
    manifest = Layout(other).sweep("smoke").manifest(1)
    manifest.write_text(manifest.read_text().replace('"pull"', '"launch"'))  # as if it had been launched here
    for folder in (Layout(other).jobs).glob("evaluate-*"):
        shutil.rmtree(folder)
    done = call(other, "pull", "bll-sweeps", env=server.environment())
    assert done.returncode == 0, done.stderr
    assert Layout(other).sweeps() == ["smoke", "smoke-pulled"]
    assert Layout(other).sweep("smoke").launches() == [1]
    shown = call(other, "results", "smoke-pulled").stdout
    assert shown == call(store, "results").stdout.replace("sweep smoke,", "sweep smoke-pulled,")


def replaced(server: WandbServer, artifact: ServedArtifact, name: str, content: bytes) -> None:
    """A file of an artifact by another one, which the artifact's manifest vouches for."""
    server.storage[f"artifact/{artifact.id}/{name}"] = content
    manifest = json.loads(server.storage[artifact.manifest])
    digest = base64.b64encode(hashlib.md5(content).digest()).decode()
    manifest["contents"][name] |= {"digest": digest, "size": len(content)}
    server.storage[artifact.manifest] = json.dumps(manifest).encode()


@pytest.mark.parametrize("name", ["checkpoints/step-00000010/state.json", "../../escaped.jsonl", "failure.json"])
def test_a_record_with_files_that_no_job_leaves_is_refused(
    name: str, store: Path, server: WandbServer, tmp_path: Path
) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    job = record_of(store, "train").job.id
    artifact = next(a for a in server.artifacts.values() if a.sequence == f"record-{job}")
    key = f"artifact/{artifact.id}/record.json"
    record = json.loads(server.storage[key])
    record["outputs"][name] = record["outputs"]["metrics.jsonl"]
    replaced(server, artifact, "record.json", json.dumps(record).encode())
    done = call(tmp_path / "other", "pull", "bll-sweeps", env=server.environment())
    assert done.returncode == 1
    assert f"{job}: the record names an output {name!r}, which no job leaves" in done.stderr
    assert not list(tmp_path.rglob("escaped.jsonl")) and not list((tmp_path / "other").rglob("checkpoints"))


def test_an_unknown_project_is_named(server: WandbServer, tmp_path: Path) -> None:
    done = call(tmp_path / "other", "pull", "nobodys", env=server.environment())
    assert done.returncode == 2 and "group/nobodys" in done.stderr


def test_a_sweep_that_nobody_published_is_no_empty_success(store: Path, server: WandbServer, tmp_path: Path) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    done = call(tmp_path / "other", "pull", "bll-sweeps", "--sweep", "smok", env=server.environment())
    assert done.returncode == 2 and "--sweep='smok'" in done.stderr and "sweep:smok" in done.stderr


# --- dashboards -------------------------------------------------------------------------------------------------------


def test_a_saved_view_and_report_have_the_panels_and_are_replaced_the_next_time(
    store: Path, server: WandbServer
) -> None:
    missing = call(store, "dashboard", env=server.environment())
    assert missing.returncode == 2 and "bll publish" in missing.stderr
    assert call(store, "publish", env=server.environment()).returncode == 0
    for _ in range(2):
        done = call(store, "dashboard", env=server.environment())
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(done.stdout.splitlines()) == 2
    kinds = {view["type"]: view for view in server.views.values()}
    assert len(server.views) == 2 and set(kinds) == {"project-view", "runs"}
    assert call(store, "dashboard", "--dry-run").returncode == 0
    folder = Layout(store).dashboard("smoke")
    wanted = titles(json.loads(folder.workspace.read_text())["spec"])
    assert titles(json.loads(kinds["project-view"]["spec"])) == wanted
    assert {"NLL (nats)", "mean p", "score against prior strength"} <= wanted
    assert titles(json.loads(kinds["runs"]["spec"])) == titles(json.loads(folder.report.read_text())["spec"]) != set()
    assert call(store, "launch", *SWEEP, "objective=nll", "recipe.steps=10", "hydra.sweeper.name=fresh").returncode == 0
    missing = call(store, "dashboard", "fresh", env=server.environment())
    assert missing.returncode == 2 and "`bll publish fresh`" in missing.stderr


def titles(spec: Any) -> set[str]:
    """All panels' titles in a view."""
    if isinstance(spec, dict):
        own = (
            {spec["config"].get("chartTitle") or spec["config"].get("plotTitle")}
            if "viewType" in spec and isinstance(spec.get("config"), dict)
            else set()
        )
        return own.union(*map(titles, spec.values())) - {None}
    return set().union(*map(titles, spec)) if isinstance(spec, list) else set()


def test_every_panel_shows_a_metric_that_a_job_has_logged(store: Path, server: WandbServer) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    logged = {key for run in server.runs.values() for row in run.rows() for key in row}
    logged |= {key for run in server.runs.values() for key in run.summary()}
    sweep = dashboard.sweep_of(read_manifest(Layout(store), "smoke"), {})
    shown = panels.metrics_of(panel for section in panels.sections(sweep).values() for panel in section)
    ours = {name for name in shown if not name.startswith("system/")}  # what wandb samples: tests/test_dashboard.py
    ours -= {names.curve("mfu")}  # which is of a GPU: tests/test_training_log.py
    assert len(ours) > 15
    assert ours - logged == set()
    assert set(panels.COLUMNS) <= logged
    shown_panels = [panel for section in panels.sections(sweep).values() for panel in section]
    configured = {panel.by for panel in shown_panels if isinstance(panel, (panels.Lines, panels.Bars)) and panel.by}
    configured |= {key for panel in shown_panels if isinstance(panel, panels.Parallel) for key in panel.config}
    assert len(configured) > 1
    evaluation = server.run(record_of(store, "evaluate").job.id).values()
    for key in configured:
        first, _, rest = key.partition(".")
        assert rest in evaluation[first], key


# --- live -------------------------------------------------------------------------------------------------------------


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


def slowly(folder: Path, seconds: str = "0.05 if context.attempt.number < 3 else 0") -> dict[str, str]:
    """The environment in which a training's steps, by default of its first two attempts, leave time to strike it."""
    hooks.write(folder, hooks.slow(seconds))
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def test_a_training_that_is_killed_twice_online_is_one_clean_run(
    store: Path, server: WandbServer, tmp_path: Path
) -> None:
    before = {record.job.id for record in records(store)}
    # The client sends what it has every 15 s.
    environment = server.environment() | {"WANDB_MODE": "online", "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "0.1"}
    environment |= slowly(tmp_path / "site")
    longer = [*SWEEP, "objective=nll", "recipe.steps=700"]
    for attempt in (1, 2):
        process = start(store, "launch", *longer, env=environment)
        deadline = time.monotonic() + 120
        had = max([0, *(len(run.rows()) for run in list(server.runs.values()))])
        while not any(
            server.begun[run.name] == attempt and len(run.rows()) > had for run in list(server.runs.values())
        ):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        ((_, training),) = server.runs
        job = Layout(store).job(training)
        assert training not in before and len(job.attempts()) == attempt and not job.done.exists()
    done = call(store, "launch", *longer, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    run, record = server.run(training), read_record(job)
    assert record is not None and server.begun[training] == 3
    assert f"{server.url}/{ENTITY}/bll-sweeps/runs/{training}" in record.attempt.log().read_text()
    served, told = [row for row in run.rows() if names.STEP in row], rows(record.attempt)
    assert [row[names.STEP] for row in served] == [row["step"] for row in told]
    assert [row["train/nll"] for row in served] == [row["nll"] for row in told]
    assert (run.state, run.summary()["final/nll"]) == ("finished", record.result["final"]["nll"])
    assert call(store, "publish", env=server.environment()).returncode == 0  # it finds that run as it should be
    assert [row for row in server.run(training).rows() if names.STEP in row] == served


def test_a_training_that_is_killed_twice_offline_is_published_as_one_clean_run(
    store: Path, server: WandbServer, tmp_path: Path
) -> None:
    job, environment = unfinished(store), slowly(tmp_path / "site")
    for _ in range(2):
        before = len(job.attempts())
        process = start(store, "run", job.id, env=environment)
        deadline = time.monotonic() + 120
        while not (len(job.attempts()) > before and list(job.attempts()[-1].checkpoints.glob("step-*"))):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert call(store, "run", job.id).returncode == 0
    assert len(job.attempts()) == 3
    assert call(store, "publish", env=server.environment()).returncode == 0
    assert_complete(server, store)


@pytest.mark.parametrize("fault", ["refuses", "hangs", "dies", "shuts down", "wrong key"])
def test_a_bad_server_costs_a_training_less_than_a_minute_and_none_of_its_rows(
    fault: str, finished: Path, untracked_s: float, store: Path, server: WandbServer, tmp_path: Path
) -> None:
    expected = record_of(finished, "train")
    job = unfinished(store)
    environment = server.environment() | {"WANDB_MODE": "online"}
    struck: list[tuple[int, int, bool]] = []  # at that moment: rows on the server, rows of the job, is it done?
    slept_s = 0.0
    if fault == "refuses":
        environment["WANDB_BASE_URL"] = "http://127.0.0.1:9"
    elif fault == "hangs":
        server.faults = lambda method, path, operation: time.sleep(300)
    elif fault == "wrong key":
        environment["WANDB_API_KEY"] = "e" * 40
    else:
        slept_s = 600 * 0.005  # of SWEEP's steps
        # The client sends every 15 s, longer than this training takes; of what it is told it reads whole seconds.
        environment |= slowly(tmp_path / "site", "0.005") | {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}

        def strike(method: str, path: str, operation: str) -> None:
            if operation == "file_stream" and not struck and (served := len(server.run(job.id).rows())):
                struck.append((served, len(rows(job.attempts()[-1])), job.done.exists()))
                if fault == "shuts down":
                    server.shutdown()
                    server.server_close()
            if struck and fault == "shuts down":
                raise ConnectionResetError  # what was connected is cut off
            if struck:
                time.sleep(300)

        server.faults = strike
    began = time.monotonic()
    done = call(store, "run", job.id, env=environment)
    assert time.monotonic() - began < untracked_s + slept_s + 60
    assert done.returncode == 0, done.stdout + done.stderr
    record = read_record(job)
    assert record is not None
    assert record.outputs == expected.outputs and record.result == expected.result
    assert len(struck) == (fault in ("dies", "shuts down"))
    for served, logged, ended in struck:
        assert 0 < served < len(rows(record.attempt)) > logged and not ended
    told = done.stdout + done.stderr + "".join(path.read_text() for path in job.folder.rglob("log*.txt"))
    assert told.count("`bll publish` brings them to the server") == 1
    assert "e" * 40 not in told and KEY not in told
    server.faults = lambda method, path, operation: None
    with successor(server) if fault == "shuts down" else contextlib.nullcontext(server) as back:
        assert call(store, "publish", env=back.environment()).returncode == 0
        assert_complete(back, store)
        assert back.unknown == []


def successor(server: WandbServer) -> WandbServer:
    """One that is started where another was shut down, with what that one had."""
    other = WandbServer(port=server.server_address[1])
    other.runs, other.artifacts, other.storage, other.numbers = (
        server.runs, server.artifacts, server.storage, server.numbers
    )  # fmt: skip
    return other


@pytest.fixture(scope="module")
def untracked_s(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long the training takes without W&B."""
    root = tmp_path_factory.mktemp("untracked") / "runs"
    shutil.copytree(finished, root, symlinks=True)
    job, began = unfinished(root), time.monotonic()
    assert call(root, "run", job.id, env={"WANDB_MODE": "disabled"}).returncode == 0
    return time.monotonic() - began


def test_the_key_is_in_no_file_and_no_message(store: Path, server: WandbServer, tmp_path: Path) -> None:
    job = unfinished(store)
    environment = server.environment() | {"WANDB_MODE": "online"}
    hooks.write(tmp_path / "site", FAILS)
    said = [call(store, "run", job.id, env=environment | {"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}"})]
    assert server.run(job.id).rows() and "at the end" in read_json(job.attempts()[-1].failure)["traceback"]
    said += [call(store, "run", job.id, env=environment)]
    said += [call(store, "launch", *SWEEP, "tracker=online", env=environment)]
    said += [call(store, "publish", env=environment), call(tmp_path / "other", "pull", "bll-sweeps", env=environment)]
    said += [call(store, "dashboard", env=environment)]
    server.faults = lambda method, path, operation: 403
    said += [call(store, "publish", "--again", env=environment), call(tmp_path / "b", "pull", "bll", env=environment)]
    said += [call(store, "dashboard", env=environment)]
    assert [done.returncode for done in said] == [1, 0, 0, 0, 0, 0, 2, 2, 2]
    assert not [done.stderr for done in said[1:] if "Traceback" in done.stderr]
    as_sent = base64.b64encode(f"api:{KEY}".encode()).decode()
    assert all(form not in done.stdout + done.stderr for done in said for form in (KEY, as_sent))
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 50
    assert [path for path in files for form in (KEY, as_sent) if form.encode() in path.read_bytes()] == []


FAILS = """
def train(whole, job, context):
    whole(job, context)
    raise RuntimeError("it fails at the end")
"""


# --- the terminal viewer ----------------------------------------------------------------------------------------------


def test_the_viewer_shows_the_last_run_of_each_job_and_leaves_nothing_behind(finished: Path) -> None:
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "bll_sweeps.cli", "watch"],
        env=os.environ | {"BLL_RUNS": str(finished), "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"},
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    deadline = time.monotonic() + 60
    while b"1-7 of 7" not in shown and b"7 items" not in shown:
        assert process.poll() is None and time.monotonic() < deadline, shown[-2000:]
        if select.select([controller], [], [], 0.2)[0]:
            shown += os.read(controller, 65536)
    os.write(controller, b"q")
    while process.poll() is None and time.monotonic() < deadline:
        if select.select([controller], [], [], 0.2)[0]:
            with contextlib.suppress(OSError):
                os.read(controller, 65536)
    assert process.returncode == 0
    os.close(controller)


def test_the_viewer_needs_a_terminal_and_runs(finished: Path) -> None:
    done = call(finished, "watch")
    assert done.returncode == 2 and "needs a terminal" in done.stderr


def test_runs_that_start_meanwhile_are_linked_too(store: Path, tmp_path: Path) -> None:
    jobs = [record.job.id for record in records(store)]
    folder = tmp_path / "links"
    folder.mkdir()
    watch.link(Layout(store), jobs[:3], folder)
    first = {path.name: path.readlink() for path in folder.iterdir()}
    watch.link(Layout(store), jobs, folder)
    links = {path.name: path.readlink() for path in folder.iterdir()}
    assert len(first) == 3 and len(links) == 7 and first.items() <= links.items()
    assert all(list(target.glob("*.wandb")) for target in links.values())


# --- a real server ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif("BLL_TEST_WANDB_PROJECT" not in os.environ, reason="needs an account: BLL_TEST_WANDB_PROJECT")
def test_the_round_trip_with_a_real_server(finished: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {key: value for key, value in REAL.items() if value}
    entity, _, project = given["BLL_TEST_WANDB_PROJECT"].rpartition("/")
    where = ["--entity", entity, "--project", project]
    done = call(finished, "publish", *where, env=given)
    assert done.returncode == 0, done.stdout + done.stderr
    live = tmp_path / "live" / "runs"
    shutil.copytree(finished, live, symlinks=True)
    steps = f"recipe.steps={600 + int(time.time()) % 100_000 // 10}"  # a training that is not there yet
    online = ["tracker=online", f"tracker.entity={entity}", f"tracker.project={project}"]
    done = call(live, "launch", *SWEEP, "objective=nll", steps, "hydra.sweeper.name=live", *online, env=given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bll publish" not in "".join(path.read_text() for path in live.rglob("log.txt"))  # it had nothing to warn of
    done = call(finished, "dashboard", *where, env=given)
    assert done.returncode == 0 and done.stdout.count("https://") == 2, done.stdout + done.stderr
    done = call(tmp_path / "other", "pull", f"{entity}/{project}", "--sweep", "smoke", env=given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert call(tmp_path / "other", "results", "smoke").stdout == call(finished, "results", "smoke").stdout


# What reaches a real server from here; a test itself sees none of it (no_account).
REAL = {name: os.environ.get(name, "") for name in ("BLL_TEST_WANDB_PROJECT", "WANDB_API_KEY", "WANDB_BASE_URL")}
REAL |= {"HOME": str(Path.home()), "NETRC": os.environ.get("NETRC", str(Path.home() / ".netrc"))}
