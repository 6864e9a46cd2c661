"""What keeps the way to W&B and back in bounds: pages, tables, runs at once, the pace of a busy server."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tracked import ROOT, call
from wandb_server import WandbServer

from bench.tracking import PROJECT, write_store
from bll_sweeps.grid.settings import Execution, Tracker
from bll_sweeps.grid.spec import Spec
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import GENERATIONS, read_record, write_jsonl, write_jsonl_gz, write_record
from bll_sweeps.store.records import publish as finish
from bll_sweeps.tracking import names
from bll_sweeps.tracking.content import Sweeps, content, rows
from bll_sweeps.tracking.publish import publish
from bll_sweeps.tracking.pull import pull
from bll_sweeps.tracking.server import Target
from tests.cells import make_cell

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_account")]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Seven finished trainings."""
    write_store(tmp_path / "runs", 7, 20)
    return tmp_path / "runs"


def test_pages_of_three_bring_all_of_seven_runs_there_and_back(
    store: Path, server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    for module in ("publish", "pull"):
        monkeypatch.setattr(f"bll_sweeps.tracking.{module}.PAGE", 3)
    layout, other = Layout(store), Layout(tmp_path / "other")
    jobs = sorted(path.name for path in layout.jobs.iterdir())
    out = publish(layout, jobs, Target(PROJECT))
    assert (out.new, out.problems) == (7, {}) and server.asked["Runs"] >= 3
    for job in jobs:
        assert len(server.run(job).rows()) == len(rows(layout.job(job).attempts()[-1])) == 20
    assert publish(layout, jobs, Target(PROJECT)).known == 7  # by the ledger, which only what is confirmed comes to
    server.asked.clear()
    pulled = pull(other, Target(PROJECT))
    assert (pulled.new, pulled.problems) == (7, {}) and server.asked["Runs"] >= 3
    assert sorted(path.name for path in other.jobs.iterdir() if read_record(other.job(path.name))) == jobs


def test_a_table_has_some_of_the_questions_and_the_beginnings_of_their_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bll_sweeps.tracking.content.TABLE_QUESTIONS", 3)
    monkeypatch.setattr("bll_sweeps.tracking.content.TABLE_CHARACTERS", 10)
    job = make_cell().evaluate
    files = Layout(tmp_path).job(job.id)
    attempt = files.attempt(1)
    answers = [{"question": f"q{i}", "prompt": "x" * (9 + i), "gold": "7", "sampled": ["y" * 50]} for i in range(5)]
    write_jsonl_gz(attempt.output(GENERATIONS), answers)
    write_jsonl(attempt.output("scores.exact.jsonl"), [{"question": f"q{i}", "sampled": [1]} for i in range(5)])
    metrics = {"sampled": {"mean": 1.0, "stderr": 0.0, "questions": 5}}
    result = {"primary": "sampled", "grader": "exact", "metrics": metrics}
    write_record(attempt, job.id, result, [GENERATIONS, "scores.exact.jsonl"])
    assert finish(files, attempt)
    record = read_record(files)
    assert record is not None
    spec = Spec(job, Execution(name="test"), Tracker(name="test"), {})
    table = content(Layout(tmp_path), spec, record, Sweeps()).tables[names.table("spell")]
    by_name = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["question"] for row in by_name] == ["q0", "q1", "q2"]
    assert [row["prompt"] for row in by_name] == ["x" * 9, "x" * 10, "x" * 10 + " [cut]"]
    assert {row["answer"] for row in by_name} == {"y" * 10 + " [cut]"}


def test_a_terminal_is_shown_how_far_it_is_and_a_pipe_is_not(store: Path, server: WandbServer) -> None:
    controller, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "bll_sweeps.cli", "publish"],
        env=os.environ | server.environment() | {"BLL_RUNS": str(store), "PYTHONPATH": str(ROOT)},
        cwd=store.parent, stdout=subprocess.PIPE, stderr=terminal, timeout=100,
    )  # fmt: skip
    os.set_blocking(controller, False)  # nothing to read is an error, no wait
    shown = os.read(controller, 4096).decode()
    os.close(terminal)
    os.close(controller)
    assert (done.returncode, done.stdout.startswith(b"7 jobs published")) == (0, True), shown
    assert shown.split("\r")[1:] == [*(f"published {i}/7" for i in range(1, 8)), "\n"]
    piped = call(store, "publish", "--again", env=server.environment())
    assert piped.stdout.startswith("7 jobs published") and piped.stderr == ""


@pytest.mark.parametrize(("at_once", "most"), [([], range(3, 8)), (["--at-once", "2"], [2])])
def test_no_more_runs_are_open_at_once_than_is_asked_for(
    at_once: list[str], most: range | list[int], store: Path, server: WandbServer
) -> None:
    seen = []

    def look(method: str, path: str, operation: str) -> None:
        seen.append(sum(run.state == "running" for run in list(server.runs.values())))
        time.sleep(0.2 if operation == "file_stream" else 0)  # so that runs that may overlap do

    server.faults = look
    done = call(store, "publish", *at_once, env=server.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(seen) in most


@pytest.mark.parametrize("busy", ["UpsertBucket", "file_stream", "upload", "CommitArtifact", "Runs"])
def test_a_busy_server_is_left_alone_for_as_long_as_it_says(busy: str, tmp_path: Path, server: WandbServer) -> None:
    (job,) = write_store(tmp_path / "runs", 1, 20)
    asked: list[tuple[float, str]] = []  # time and path of the requests that it is too busy for at first

    def refuse_once(method: str, path: str, operation: str) -> int | None:
        if operation != busy or (asked and path != asked[0][1]):
            return None
        asked.append((time.monotonic(), path))
        return 429 if len(asked) == 1 else None

    server.faults, server.retry_after_s = refuse_once, 2
    done = call(tmp_path / "runs", "publish", env=server.environment())
    assert done.stdout.startswith("1 jobs published"), done.stdout + done.stderr
    assert asked[1][0] - asked[0][0] >= server.retry_after_s
    assert len(server.run(job).rows()) == 20


def test_a_second_pull_downloads_nothing(store: Path, server: WandbServer, tmp_path: Path) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    for expected in ("7 jobs pulled, 0 here already", "0 jobs pulled, 7 here already"):
        server.asked.clear()
        done = call(tmp_path / "other", "pull", PROJECT, env=server.environment())
        assert done.stdout.startswith(expected), done.stdout + done.stderr
        of_artifacts = {name for name in server.asked if "Artifact" in name or name == "download"}
        assert bool(of_artifacts) == expected.startswith("7")
