"""What the disk says: states, liveness of workers, damage, without any process at hand."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from bll_sweeps.cluster.launch import clear_failure
from bll_sweeps.cluster.status import JobStatus, SweepStatus, failure, job_state, last_sweep, live_pools
from bll_sweeps.errors import StoreError
from bll_sweeps.store.claims import acquire, owner
from bll_sweeps.store.layout import JobFiles, Layout
from bll_sweeps.store.records import is_done, publish, read_record, withdraw, write_json, write_record

JOB = "train-0123456789abcdef"


def finished(root: Path) -> JobFiles:
    files = Layout(root).job(JOB)
    attempt = files.attempt(1)
    attempt.folder.mkdir(parents=True)
    attempt.output("metrics.jsonl").write_text("{}\n")
    write_json(attempt.provenance, {"code": "x", "seconds": 1.0})
    write_record(attempt, files.id, {}, ["metrics.jsonl"])
    assert publish(files, attempt)
    return files


def test_a_job_is_done_stale_or_damaged_by_what_its_record_says(tmp_path: Path) -> None:
    files = finished(tmp_path)
    assert job_state(files) == "done"
    assert job_state(files, this_code=True) == "stale"
    files.attempt(1).provenance.unlink()
    assert job_state(files) == "damaged"


def test_a_failure_shows_while_the_batch_of_its_job_still_holds_the_claim(tmp_path: Path) -> None:
    files = Layout(tmp_path).job(JOB)
    files.attempt(1).folder.mkdir(parents=True)
    assert acquire(files) is not None
    assert job_state(files) == "running"
    write_json(files.attempt(1).failure, {"message": "RuntimeError: no", "traceback": "", "at": ""})
    assert job_state(files) == "failed"
    clear_failure(files)
    clear_failure(files)  # two launches at once: the second finds nothing to clear
    assert failure(files) is None
    assert job_state(files) == "running"


def test_a_copy_that_followed_links_is_still_done(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b", symlinks=False)
    files = Layout(tmp_path / "b").job(JOB)
    assert not files.done.is_symlink()
    assert is_done(files)
    record = read_record(files)
    assert record is not None
    assert record.output("metrics.jsonl").read_text() == "{}\n"
    assert job_state(files) == "done"
    withdraw(files, "test")
    assert not is_done(files)


def test_of_two_that_withdraw_a_result_the_second_finds_it_gone(tmp_path: Path) -> None:
    files = finished(tmp_path)
    withdraw(files, "first")
    withdraw(files, "second")
    assert job_state(files) in ("new", "damaged")
    assert len(list(files.folder.glob("withdrawn.*.json"))) == 1


def test_an_output_that_was_promised_and_is_missing_is_an_error(tmp_path: Path) -> None:
    files = Layout(tmp_path).job(JOB)
    files.attempt(1).folder.mkdir(parents=True)
    with pytest.raises(StoreError, match="model was promised as an output"):
        write_record(files.attempt(1), files.id, {}, ["model"])


def test_a_pool_of_workers_is_live_as_long_as_its_launcher(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert live_pools(layout, "lab") == []
    pool = layout.worker_pool("now")
    write_json(pool.launcher, {"sweep": "lab", "launch": 1, "owner": owner()})
    assert live_pools(layout, "lab") == [pool]
    assert live_pools(layout, "other") == []
    write_json(pool.launcher, {"sweep": "lab", "launch": 1, "owner": owner() | {"start": "1"}})
    assert live_pools(layout, "lab") == []
    write_json(pool.launcher, {"sweep": "lab", "launch": 1, "owner": owner() | {"boot": "elsewhere"}})
    assert live_pools(layout, "lab") is None
    pool.stop.touch()
    assert live_pools(layout, "lab") == []
    assert owner()["pid"] == os.getpid()
    assert owner()["host"] == socket.gethostname()


def test_an_estimate_needs_a_worker_and_a_finished_job_of_each_kind_that_is_left() -> None:
    def status(*jobs: JobStatus) -> SweepStatus:
        return SweepStatus("lab", 1, "", 1, list(jobs), {"train": [10.0, 20.0]})

    done, running = JobStatus("a", "train", "done"), JobStatus("b", "train", "running", done=1, total=3)
    pending, other = JobStatus("c", "train", "pending"), JobStatus("d", "evaluate", "pending")
    assert status(done, running, pending).eta_s(2) == pytest.approx((15 * 2 / 3 + 15) / 2)
    assert status(done, pending, other).eta_s(2) is None
    assert status(pending).eta_s(0) is None
    assert status(done).eta_s(0) is None
    assert status(done).eta_s(2) == 0


def test_a_sweep_whose_launch_died_before_its_manifest_is_not_the_last_one(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_json(layout.sweep("whole").manifest(1), {})
    layout.sweep("half").folder.mkdir(parents=True)
    assert last_sweep(layout) == "whole"
