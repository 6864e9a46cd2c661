"""Tracking with the real wandb, offline. A failing mirror costs the job one warning and at most a minute."""

from __future__ import annotations

import json
import logging
import os
import pty
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from analysis_store import lab_cells

from bll_sweeps.errors import UsageError
from bll_sweeps.grid.settings import Execution, Tracker
from bll_sweeps.grid.spec import Spec
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import GENERATIONS, publish, read_record, write_jsonl, write_jsonl_gz, write_record
from bll_sweeps.tracking import Run, names, open_tracker, session
from bll_sweeps.tracking.content import Content, Identity, Sweeps, Table, content
from bll_sweeps.tracking.server import Target, parse_target

pytestmark = pytest.mark.usefixtures("no_account")
ROOT = Path(__file__).resolve().parent.parent
JOB = "train-0123456789abcdef"
ROWS = [{"step": step, "tokens": 40 * step, "nll": 1.0 / step, "tokens_per_s": 9.0} for step in (10, 20, 30)]
KEY = "0123456789abcdef" * 2 + "01234567"


def tracker(mode: str = "offline") -> Tracker:
    return Tracker(name="test", wandb=mode)  # type: ignore[arg-type]


TAGS = ["lab", "smoke"]
FINISHED = Content({"final": {"nll": 0.25}}, {"prior/p": [1, 2, 3]}, {"b/answers": Table(["q", "score"], [["x", 1.0]])})
CONFIG = {
    "objective": {"name": "p", "family": "power", "alpha": 1.0},
    "backbone": {"name": "lab-a"},
    "seed": 3,
}


def start(folder: Path, mode: str = "offline", job_id: str = JOB) -> Run:
    return open_tracker(tracker(mode), Identity(job_id, "train", "train p lab-a 3", CONFIG, "lab", TAGS), folder)


def test_a_table_has_the_first_questions_with_their_scores_and_answers(
    tmp_path: Path,
) -> None:
    layout, job = Layout(tmp_path), lab_cells(("nll",), (("lab-a", "spell"),))[0][0].evaluate
    questions = [f"question {i}" for i in range(60)]
    files = layout.job(job.id)
    attempt = files.attempt(1)
    made = [{"question": q, "prompt": f"{q}?", "gold": "g", "sampled": [f"{q}!", "other"]} for q in questions]
    answers = [
        {"question": q, "answers": {"sampled": [q, "o"]}, "kinds": {"sampled": ["last", "none"]}} for q in questions
    ]
    scores = [{"question": q, "sampled": [i % 2, 0]} for i, q in enumerate(questions)]
    write_jsonl_gz(attempt.output(GENERATIONS), made)
    write_jsonl_gz(attempt.output("answers.exact-v1.jsonl.gz"), answers[::-1])
    write_jsonl(attempt.output("scores.exact-v1.jsonl"), scores[::-1])
    metrics = {"sampled": {"mean": 0.5, "stderr": 0.1, "questions": 60}}
    result = {"grader": "exact-v1", "primary": "sampled", "metrics": metrics}
    outputs = [GENERATIONS, "answers.exact-v1.jsonl.gz", "scores.exact-v1.jsonl"]
    write_record(attempt, job.id, result, outputs)
    assert publish(files, attempt)
    record = read_record(files)
    assert record is not None
    (table,) = content(
        layout, Spec(job, Execution(name="test"), Tracker(name="test"), {}), record, Sweeps()
    ).tables.values()
    assert [row[0] for row in table.rows] == questions[:50]
    assert table.rows[7] == ["question 7", "question 7?", "g", "question 7!", "question 7", "last", 1.0]


def script(body: str) -> list[str]:
    """A process of its own in which `start(folder, mode)` opens a tracker."""
    head = f"""
import logging, os, sys, time
from pathlib import Path
from bll_sweeps.grid.settings import Tracker
from bll_sweeps.tracking import open_tracker, preload, wandb as tracking
from bll_sweeps.tracking.content import Identity

def start(folder, mode="offline"):
    folder = Path(folder).resolve()
    settings = Tracker(name="test", wandb=mode)
    return open_tracker(settings, Identity({JOB!r}, "train", "title", {{}}, "g", []), folder)
"""
    return [sys.executable, "-c", head + body]


def mirror(run: Run, ok: bool = True) -> None:
    for row in ROWS:
        run.log(row)
    if ok:
        run.complete(lambda: FINISHED)
    run.close(ok)


def leet(folder: Path, *flags: str) -> list[dict[str, Any]]:
    """What `wandb leet inspect` reads back of the one run under `folder`."""
    (file,) = folder.rglob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *flags, str(file)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(text)] if flags else [json.loads(line) for line in text.splitlines()]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What reaches the job's log; wandb's own loggers write to its own files."""
    own = [record for record in caplog.records if not record.name.startswith("wandb")]
    return [record.getMessage() for record in own if record.levelno >= logging.WARNING]


def test_an_offline_run_is_the_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mirror(start(tmp_path / "wandb"))
    (shown,) = leet(tmp_path, "--summary")
    records = leet(tmp_path)
    described = next(record["run"] for record in records if record["type"] == "run")
    assert (shown["run_id"], shown["name"], shown["state"], shown["project"]) == (
        JOB,
        "train p lab-a 3",
        "finished",
        "bll-sweeps",
    )
    assert (described["run_group"], described["job_type"], described["tags"]) == (
        "lab",
        "train",
        ["lab", "smoke"],
    )
    assert shown["config"] == CONFIG
    assert shown["summary"]["final/nll"] == 0.25
    assert warnings(caplog) == []


def test_curves_are_over_steps_and_tokens(tmp_path: Path) -> None:
    mirror(start(tmp_path / "wandb"))
    records = leet(tmp_path)
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    media = rows.pop()
    assert [row["trainer/global_step"] for row in rows] == [10, 20, 30]
    assert [row["trainer/tokens"] for row in rows] == [400, 800, 1200]
    assert [row["train/nll"] for row in rows] == [0.1, 0.05, pytest.approx(1 / 30)]
    assert names.STEP not in media and {"prior/p", "b/answers"} <= {key.split(".")[0] for key in media}
    assert rows[0]["perf/tokens_per_s"] == 9
    axes = {
        m.get("name") or m["glob_name"]: m.get("step_metric")
        for m in (r["metric"] for r in records if r["type"] == "metric")
    }
    assert axes == {
        "trainer/global_step": None,
        "trainer/tokens": names.STEP,
        "train/*": names.STEP,
        "perf/*": names.STEP,
    }


def test_a_failed_job_is_a_failed_run(tmp_path: Path) -> None:
    mirror(start(tmp_path / "wandb"), ok=False)
    (shown,) = leet(tmp_path, "--summary")
    assert shown["exit_code"] == 1


def test_jobs_of_one_process_keep_apart_and_leave_the_environment_alone(tmp_path: Path) -> None:
    before = dict(os.environ)
    for number in (1, 2):
        mirror(start(tmp_path / str(number), job_id=f"train-{number:016x}"))
    for number in (1, 2):
        (shown,) = leet(tmp_path / str(number), "--summary")
        assert shown["run_id"] == f"train-{number:016x}"
        assert shown["summary"]["trainer/global_step"] == 30
    assert dict(os.environ) == before


def test_a_second_close_does_nothing(tmp_path: Path) -> None:
    run = start(tmp_path / "wandb")
    run.close(True)
    run.close(False)
    (shown,) = leet(tmp_path, "--summary")
    assert shown["exit_code"] == 0


@pytest.mark.parametrize("environment, mode", [({}, "off"), ({"WANDB_MODE": "disabled"}, "online")])
def test_off_imports_no_wandb(environment: dict[str, str], mode: str, tmp_path: Path) -> None:
    code = f"""
preload(Tracker(name="t", wandb={mode!r}))
run = start("wandb", {mode!r})
run.log({{"step": 1}}); run.complete(lambda: 1 / 0); run.close(True)
sys.exit("wandb" in sys.modules)
"""
    subprocess.run(script(code), check=True, cwd=tmp_path, env=child_environment() | environment)
    assert list(tmp_path.iterdir()) == []


def child_environment() -> dict[str, str]:
    return dict(os.environ) | {"PYTHONPATH": str(ROOT)}


def test_wandb_mode_takes_precedence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert type(start(tmp_path, "online")) is Run
    monkeypatch.setenv("WANDB_MODE", "offline")
    mirror(start(tmp_path / "wandb", "online"))
    assert "offline-run" in str(next(tmp_path.rglob("*.wandb")))
    assert warnings(caplog) == []
    monkeypatch.setenv("WANDB_MODE", "ofline")
    assert type(start(tmp_path, "off")) is Run
    assert "did you mean 'offline'" in warnings(caplog)[0]


def test_the_key_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    mirror(start(tmp_path / "wandb"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_no_key_at_a_terminal_asks_for_nothing_and_goes_on_offline(tmp_path: Path) -> None:
    code = """
logging.basicConfig(filename="log.txt")
run = start("wandb", "online")
run.log({"step": 7, "nll": 1.0}); run.close(True)
"""
    controller, terminal = pty.openpty()
    environment = child_environment() | {"WANDB_BASE_URL": nobody_listens(), "TERM": "xterm"}
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    process = subprocess.Popen(script(code), cwd=tmp_path, env=environment, **streams)
    assert process.wait(timeout=60) == 0
    os.close(terminal)
    os.set_blocking(controller, False)
    with pytest.raises(OSError):  # nothing was written to the terminal
        os.read(controller, 1000)
    os.close(controller)
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert len(log) == 1 and "No API key" in log[0]
    (shown,) = leet(tmp_path, "--summary")
    assert shown["summary"]["trainer/global_step"] == 7


def nobody_listens() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_refused_server_costs_one_warning_and_loses_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", nobody_listens())
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(session, "INIT_TIMEOUT_S", 2)
    started = time.monotonic()
    run = start(tmp_path / "wandb", "online")
    assert time.monotonic() - started < 1  # the job does not wait for the server
    mirror(run)
    assert time.monotonic() - started < 60
    (shown,) = leet(tmp_path, "--summary")
    assert shown["summary"]["trainer/global_step"] == 30
    assert len(warnings(caplog)) == 1 and "goes on offline" in warnings(caplog)[0]


def test_a_broken_log_call_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    def broken(self: Any, data: Any, **kwargs: Any) -> None:
        raise RuntimeError("the mirror is broken\nand more")

    monkeypatch.setattr(wandb.Run, "log", broken)
    mirror(start(tmp_path / "wandb"))
    (message,) = warnings(caplog)
    assert "RuntimeError: the mirror is broken" in message and "and more" not in message


def test_a_missing_package_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    mirror(start(tmp_path / "wandb", "online"))
    assert len(warnings(caplog)) == 1


@pytest.mark.slow
def test_a_hang_in_finish_is_left_behind_and_does_not_hold_the_exit(tmp_path: Path) -> None:
    code = """
import wandb
logging.basicConfig(stream=sys.stdout)
tracking.CLOSE_WITHIN_S = 3.0
wandb.Run.finish = lambda self, exit_code=None: time.sleep(600)
run = start("wandb")
run.log({"step": 1})
run.close(True)
"""
    shown = subprocess.run(
        script(code),
        check=True,
        cwd=tmp_path,
        env=child_environment(),
        timeout=30,
        capture_output=True,
        text=True,
    )
    assert shown.stdout.count("WARNING") == 1
    assert "left behind" in shown.stdout


def test_the_next_job_of_a_process_is_tracked_after_one_that_was_left_behind(tmp_path: Path) -> None:
    body = f"""
class Hanging(tracking._WandbRun):
    def _begin(self, mode):
        begun = super()._begin(mode)
        begun.finish = lambda ok=True: time.sleep(600)
        return begun

tracking.CLOSE_WITHIN_S, whole = 2.0, tracking._WandbRun
tracking._WandbRun = Hanging
run = start({str(tmp_path / "first")!r})
run.log({{"step": 1, "nll": 1.0}})
run.close(ok=True)
tracking._WandbRun, tracking.CLOSE_WITHIN_S = whole, 50.0
run = start({str(tmp_path / "second")!r})
run.log({{"step": 1, "nll": 0.5}})
run.close(ok=True)
os._exit(0)
"""
    done = subprocess.run(script(body), capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert "is left behind" in done.stderr and done.stderr.count("W&B") == 1
    (shown,) = leet(tmp_path / "second", "--summary")
    assert (shown["state"], shown["summary"]["train/nll"]) == ("finished", 0.5)


def test_a_forked_child_of_a_preloaded_worker_can_track(tmp_path: Path) -> None:
    code = """
preload(Tracker(name="t"))
children = []
for number in (1, 2):
    pid = os.fork()
    if pid == 0:
        run = start(str(number))
        run.log({"step": number, "nll": 1.0})
        run.close(True)
        os._exit(0)
    children.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
"""
    subprocess.run(script(code), check=True, cwd=tmp_path, env=child_environment(), timeout=60)
    for number in (1, 2):
        (shown,) = leet(tmp_path / str(number), "--summary")
        assert (shown["run_id"], shown["state"]) == (JOB, "finished")
        assert shown["summary"]["trainer/global_step"] == number


@pytest.mark.parametrize(
    "text, entity, project",
    [
        ("p", "", "p"),
        ("e/p", "e", "p"),
        ("https://wandb.ai/e/my%20project/runs/train-0", "e", "my project"),
        ("https://wandb.ai/wandb/examples", "wandb", "examples"),
        ("https://forge.coreweave.com/wandb/e/p?nw=1", "e", "p"),
        ("http://127.0.0.1:8080/e/p", "e", "p"),
    ],
)
def test_a_project_is_named_or_given_by_its_address(text: str, entity: str, project: str) -> None:
    assert parse_target(text) == Target(project, entity)


@pytest.mark.parametrize("text", ["", "/", "a/b/c", "a?b", "https://wandb.ai/", "https://wandb.ai/e", "e/" + "p" * 129])
def test_what_names_no_project_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="ENTITY/"):
        parse_target(text)
