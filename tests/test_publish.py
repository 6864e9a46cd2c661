"""`bll publish`, against a stand-in server: real jobs, the real client, processes that are really killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
from tracked import SWEEP, assert_complete, call, record_of, records, start, unfinished
from wandb_server import ENTITY, WandbServer

from bll_sweeps.grid.settings import Tracker
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.claims import acquire
from bll_sweeps.store.layout import JobFiles, Layout
from bll_sweeps.store.records import publish as finish
from bll_sweeps.store.records import withdraw, write_record
from bll_sweeps.tracking import names, open_tracker, service
from bll_sweeps.tracking.content import Sweeps, content, identity, rows
from bll_sweeps.tracking.publish import publish
from bll_sweeps.tracking.server import Target

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_account")]


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
            streams["wandb-summary.json"] = streams["wandb-history.jsonl"][-1:]  # which follows from what there is

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


def test_a_job_that_is_run_again_leaves_the_result_that_is_there(store: Path, server: WandbServer) -> None:
    """As after --rerun-stale, and for weights that were pruned."""
    assert call(store, "publish", env=server.environment()).returncode == 0
    record = record_of(store, "train")
    before = server.run(record.job.id).rows()
    withdraw(record.job, "run again")
    metrics = record.attempt.output("metrics.jsonl")
    whole = metrics.read_text()
    metrics.write_text("".join(whole.splitlines(keepends=True)[:5]))
    assert call(store, "publish", "--live", env=server.environment()).returncode == 0
    run = server.run(record.job.id)
    assert (run.rows(), run.state) == (before, "finished") and "superseded" not in run.tags
    metrics.write_text(whole)
    finish(record.job, record.attempt)
    assert call(store, "publish", "--again", env=server.environment()).returncode == 0
    assert_complete(server, store)


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
    monkeypatch.setattr(service, "LOOK_EVERY_S", 0.5)
    monkeypatch.setattr(service, "SILENT_LOOKS", 2)

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
