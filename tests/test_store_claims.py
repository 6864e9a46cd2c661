"""Claims: one owner at a time, whatever races for them; a dead owner's claim can be taken over."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bll_sweeps.store.claims import STALE_AFTER_S, acquire, is_live, live_claim, owner, process_start
from bll_sweeps.store.layout import JobFiles


def test_a_second_worker_leaves_a_live_claim_alone(tmp_path: Path) -> None:
    claim = acquire(JobFiles(tmp_path))
    assert claim is not None
    assert acquire(JobFiles(tmp_path)) is None
    assert claim.held()
    found = live_claim(JobFiles(tmp_path))
    assert found is not None
    assert found["pid"] == os.getpid()


def test_a_released_claim_is_free_at_once(tmp_path: Path) -> None:
    first = acquire(JobFiles(tmp_path))
    assert first is not None
    first.release()
    second = acquire(JobFiles(tmp_path))
    assert second is not None
    assert second.number == 2
    assert not first.held()


def test_the_claim_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from bll_sweeps.store.claims import acquire;"
        "from bll_sweeps.store.layout import JobFiles;"
        "assert acquire(JobFiles(pathlib.Path(sys.argv[1]))); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert acquire(JobFiles(tmp_path)) is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    claim = acquire(JobFiles(tmp_path))
    assert claim is not None
    assert claim.number == 2


def test_the_claim_of_another_host_is_stale_only_after_long_silence(tmp_path: Path) -> None:
    files = JobFiles(tmp_path)
    claim = acquire(files)
    assert claim is not None
    claim.path.write_text(json.dumps(owner() | {"host": "elsewhere", "boot": "other"}))
    assert is_live(claim.path)
    old = time.time() - STALE_AFTER_S - 5
    os.utime(claim.path, (old, old))
    assert not is_live(claim.path)


def test_a_process_with_a_reused_pid_is_not_the_owner(tmp_path: Path) -> None:
    claim = acquire(JobFiles(tmp_path))
    assert claim is not None
    claim.path.write_text(json.dumps(owner() | {"start": "1"}))
    assert process_start(os.getpid()) != "1"
    assert not is_live(claim.path)


def _race(folder: str, start: float, found: multiprocessing.Queue, all_tried: Any) -> None:
    time.sleep(max(0.0, start - time.time()))
    claim = acquire(JobFiles(Path(folder)))
    found.put(claim.number if claim else 0)
    all_tried.wait()  # the winner stays alive until then


def test_of_eight_processes_racing_for_a_stale_claim_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for round_ in range(10):
        folder = tmp_path / str(round_)
        stale = acquire(JobFiles(folder))
        assert stale is not None
        stale.release()
        found = context.Queue()
        all_tried = context.Barrier(8)
        start = time.time() + 0.1
        racers = [context.Process(target=_race, args=(str(folder), start, found, all_tried)) for _ in range(8)]
        for racer in racers:
            racer.start()
        won = [found.get(timeout=20) for _ in racers]
        for racer in racers:
            racer.join()
        assert sorted(won) == [0] * 7 + [2]
