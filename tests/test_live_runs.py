"""Trainings that are online, killed, or have a bad server, against a stand-in server."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import hooks
import pytest
from tracked import ROOT, SWEEP, assert_complete, call, record_of, records, start, unfinished
from wandb_server import ENTITY, KEY, WandbServer

from bll_sweeps.grid.settings import Tracker
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import read_json, read_record
from bll_sweeps.tracking import names, open_tracker
from bll_sweeps.tracking.content import identity, rows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_account")]


def slowly(folder: Path, seconds: str = "0.05 if context.attempt.number < 3 else 0") -> dict[str, str]:
    """The environment in which a training's steps, by default of its first two attempts, leave time to strike it."""
    hooks.write(folder, hooks.slow(seconds))
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def test_a_training_that_is_killed_twice_online_is_one_clean_run(
    store: Path, server: WandbServer, tmp_path: Path
) -> None:
    before = {record.job.id for record in records(store)}
    # The client sends what it has every 15 s, or whole seconds.
    environment = server.environment() | {"WANDB_MODE": "online", "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}
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


def test_an_attempt_that_does_not_repeat_its_rows_has_a_run_of_its_own(
    store: Path, server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on other hardware than that of the attempt before, from the checkpoint on."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    record = record_of(store, "train")
    own, told = identity(Layout(store), read_spec(record.job)), rows(record.attempt)
    first = [*told[:30], *({**row, "nll": row["nll"] + 1e-6} for row in told[30:40])]
    for number, mine in enumerate((first, told)):
        run = open_tracker(Tracker(name="test", wandb="online"), own, tmp_path / f"wandb{number}")
        for row in mine:
            run.log(row)
        run.close(ok=bool(number))
    old, new = server.run(record.job.id), server.run(f"{record.job.id}-2")
    assert len(old.rows()) == 40 and old.state == "failed" and "superseded" in old.tags
    assert [row["train/nll"] for row in new.rows()] == [row["nll"] for row in told]
    assert new.state == "finished" and "sweep:smoke" in new.tags
    assert len([one for one in caplog.records if one.levelname == "WARNING" and "superseded" in one.getMessage()]) == 1


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


def test_jobs_that_could_not_be_online_are_told_until_they_are_published(server: WandbServer, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    launched = call(root, "launch", *SWEEP, "recipe.steps=20", "tracker=online", env={"WANDB_BASE_URL": server.url})
    assert launched.returncode == 0 and "bll-sweeps" not in {project for project, _ in server.runs}
    told = "W&B: 7 jobs not there, or not whole (cannot be used (UsageError"
    assert told in launched.stdout and "`bll publish smoke`" in launched.stdout
    assert told in call(root, "status").stdout
    assert call(root, "publish", env=server.environment()).returncode == 0
    assert "W&B" not in call(root, "status").stdout
    assert_complete(server, root)


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
