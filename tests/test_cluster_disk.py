"""`bll gc`: what may go, goes; what an unfinished job needs, stays; and a kill at any instant leaves a whole store."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from cells import make_cell
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bll_sweeps.cluster.disk import Collected, collect, find, release_weights
from bll_sweeps.cluster.status import damage, job_state
from bll_sweeps.errors import StoreError
from bll_sweeps.grid.cell import Cell, Job
from bll_sweeps.grid.settings import Execution, Tracker
from bll_sweeps.grid.spec import Spec, spec_text, write_spec
from bll_sweeps.store.claims import acquire, owner
from bll_sweeps.store.layout import Attempt, Layout
from bll_sweeps.store.records import is_done, publish, read_record, withdraw, write_json, write_record

WEIGHTS = b"w" * 1000
TEMPERATURES = (0.5, 1.0)
DAY_S = 86400


def make(objective: dict[str, Any], temperature: float) -> Cell:
    decodings = {"sampled": {"temperature": temperature, "samples": 2}}
    return make_cell(**{"objective": objective, "benchmark.decodings": decodings})


NLL = [make({"name": "nll", "family": "nll"}, t) for t in TEMPERATURES]
P = [make({"name": "p", "family": "power", "alpha": 1.0}, t) for t in TEMPERATURES]
BASE = [make({"name": "base", "family": "base"}, t) for t in TEMPERATURES]
CELLS = [*BASE, *NLL, *P]
JOBS: dict[str, Job] = {job.id: job for cell in CELLS for job in cell.jobs()}
assert NLL[0].train and NLL[0].pretrain
TRAIN, PRETRAIN = NLL[0].train.id, NLL[0].pretrain.id
EVALUATE, OTHER = NLL[0].evaluate.id, NLL[1].evaluate.id


class Store:
    """A run root whose jobs end as told, by the store's own functions."""

    def __init__(self, root: Path):
        self.layout = Layout(root)

    def declare(self, cells: Iterable[Cell], sweep: str = "lab", keep: str = "weights") -> None:
        jobs = {job.id: job for cell in cells for job in cell.jobs()}
        execution = Execution(name="cpu", keep=keep)  # type: ignore[arg-type]
        for job in jobs.values():
            files = self.layout.job(job.id)
            if not files.spec.exists():
                write_spec(files, spec_text(Spec(job, execution, Tracker(name="off"), {})))
        files = self.layout.sweep(sweep)
        entries = [{"id": job.id, "kind": job.kind, "parents": list(job.parents)} for job in jobs.values()]
        launch = len(files.launches()) + 1
        write_json(files.manifest(launch), {"sweep": sweep, "launch": launch, "cells": [], "jobs": entries})

    def attempt(self, job_id: str, number: int = 1, states: bool = True) -> Attempt:
        """An attempt that was interrupted, with what the next goes on from."""
        attempt = self.layout.job(job_id).attempt(number)
        attempt.folder.mkdir(parents=True)
        attempt.log().write_text("log\n")
        if states:
            folder = attempt.checkpoints / "step-00000050"
            folder.mkdir(parents=True)
            (folder / "optimizer.safetensors").write_bytes(WEIGHTS * 2)
            attempt.journal.write_text("{}\n")
        return attempt

    def finish(self, *jobs: str, number: int = 1, states: bool = False) -> None:
        for job_id in jobs:
            attempt = self.attempt(job_id, number, states)
            outputs = ["metrics.jsonl"]
            attempt.output("metrics.jsonl").write_text("{}\n")
            if job_id.startswith(("train", "pretrain")):
                outputs.append("model")
                attempt.output("model").mkdir()
                attempt.output("model").joinpath("model.safetensors").write_bytes(WEIGHTS)
            write_json(attempt.provenance, {"code": "x", "seconds": 1.0})
            write_record(attempt, job_id, {}, outputs)
            assert publish(self.layout.job(job_id), attempt)

    def model(self, job_id: str, number: int = 1) -> Path:
        return self.layout.job(job_id).attempt(number).output("model")

    def gone(self, **options: Any) -> set[str]:
        """Runs gc; what it removed, relative to the run root."""
        collected = collect(self.layout, **options)
        assert collected.problems == []
        return paths(collected)


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill is no power cut: these tests need not wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def paths(collected: Collected) -> set[str]:
    return {item.path.relative_to(collected.layout.root).as_posix() for item, _ in collected.items}


def tree(root: Path) -> dict[str, bytes | str | None]:
    """Everything below `root`, links as themselves."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(root.rglob("*")):
        kind = str(path.readlink()) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
        found[path.relative_to(root).as_posix()] = kind
    return found


def age(path: Path, days: float) -> None:
    then = time.time() - days * DAY_S
    os.utime(path, (then, then), follow_symlinks=False)


# --- the states and attempts of jobs ----------------------------------------------------------------------------------


def test_states_for_resuming_go_once_their_job_is_done(store: Store) -> None:
    store.declare(NLL)
    store.finish(PRETRAIN, states=True)
    store.attempt(TRAIN)
    assert store.gone() == {f"jobs/{PRETRAIN}/attempt.1/{name}" for name in ("checkpoints", "journal.jsonl")}
    assert job_state(store.layout.job(PRETRAIN)) == "done"
    assert store.layout.job(TRAIN).attempt(1).checkpoints.is_dir()
    assert store.gone() == set()


def test_keep_all_keeps_them(store: Store) -> None:
    store.declare(NLL, keep="all")
    store.attempt(PRETRAIN)
    store.finish(PRETRAIN, number=2, states=True)
    assert store.gone() == set()


def test_of_a_done_job_only_the_attempt_that_counts_stays(store: Store) -> None:
    store.declare(NLL)
    store.attempt(TRAIN, 1)
    store.finish(TRAIN, number=2)
    store.attempt(TRAIN, 3)
    assert store.gone() == {f"jobs/{TRAIN}/attempt.1", f"jobs/{TRAIN}/attempt.3"}
    assert job_state(store.layout.job(TRAIN)) == "done"


def test_an_unfinished_job_keeps_what_it_may_go_on_from(store: Store) -> None:
    store.declare(NLL)
    store.attempt(TRAIN, 1)
    store.attempt(TRAIN, 2, states=False)
    before = tree(store.layout.root)
    assert store.gone(weights=True) == set()
    assert tree(store.layout.root) == before


def test_a_withdrawn_attempt_goes_unless_something_can_go_on_from_it_or_it_is_the_newest(store: Store) -> None:
    store.declare(NLL)
    files = store.layout.job(TRAIN)
    for number, states in ((1, False), (2, True), (3, False)):
        store.finish(TRAIN, number=number, states=states)
        withdraw(files, "made by other code")
    assert store.gone() == {f"jobs/{TRAIN}/attempt.1"}
    assert [attempt.number for attempt in files.attempts()] == [2, 3]


def test_nothing_of_a_job_with_a_live_claim_goes(store: Store) -> None:
    store.declare([NLL[0]], keep="until_evaluated")
    store.finish(PRETRAIN, EVALUATE)
    store.finish(TRAIN, states=True)
    claim = acquire(store.layout.job(TRAIN))
    assert claim
    assert store.gone(weights=True) == set()
    claim.release()
    assert f"jobs/{TRAIN}/attempt.1/model" in store.gone(weights=True)


def test_what_a_worker_takes_up_after_it_was_found_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.declare(NLL)
    store.finish(PRETRAIN, states=True)
    for number in (1, 2):
        store.finish(TRAIN, number=number)
        withdraw(store.layout.job(TRAIN), "made by other code")
    found = find(store.layout)
    assert {item.owner.id for item in found if item.owner} == {PRETRAIN, TRAIN}
    monkeypatch.setattr("bll_sweeps.cluster.disk.find", lambda layout, weights, caches: found)
    assert acquire(store.layout.job(PRETRAIN))
    assert acquire(store.layout.job(TRAIN))
    assert store.gone() == set()


def test_a_job_whose_record_is_damaged_is_left_to_retry(store: Store) -> None:
    store.declare([NLL[0]], keep="until_evaluated")
    store.finish(PRETRAIN, EVALUATE)
    store.attempt(TRAIN, 1)
    store.finish(TRAIN, number=2, states=True)
    store.layout.job(TRAIN).attempt(2).record.write_text("{")
    assert store.gone(weights=True) == set()


# --- weights ----------------------------------------------------------------------------------------------------------


def test_weights_go_when_every_evaluation_that_any_sweep_declares_is_done(store: Store) -> None:
    store.declare([NLL[0]], keep="until_evaluated")
    store.declare([NLL[1]], sweep="other")
    store.finish(PRETRAIN, TRAIN, EVALUATE)
    assert store.gone() == set()
    release_weights(store.layout, [EVALUATE])
    assert store.model(TRAIN).is_dir()
    store.finish(OTHER)
    release_weights(store.layout, [OTHER, EVALUATE])
    assert not store.model(TRAIN).exists()
    assert store.model(PRETRAIN).is_dir()
    assert job_state(store.layout.job(TRAIN)) == "done"
    assert job_state(store.layout.job(TRAIN), this_code=True) == "pruned"
    assert damage(store.layout.job(TRAIN), deep=True) is None
    assert store.gone(weights=True) == set()
    assert list(store.layout.trash.iterdir()) == []


def test_weights_stay_by_default_and_go_when_asked_for(store: Store) -> None:
    store.declare([NLL[0], P[0], P[1]])
    assert P[0].train
    store.finish(PRETRAIN, TRAIN, EVALUATE, P[0].train.id, P[0].evaluate.id)
    release_weights(store.layout, [EVALUATE])
    assert store.gone() == set()
    assert store.gone(weights=True) == {f"jobs/{TRAIN}/attempt.1/model"}  # P[1] is not evaluated yet


def test_weights_that_nothing_evaluates_stay(store: Store) -> None:
    store.declare([NLL[0]], keep="until_evaluated")
    store.finish(PRETRAIN, TRAIN, EVALUATE)
    store.layout.sweep("lab").manifest(1).unlink()
    assert store.gone(weights=True) == set()


def test_weights_stay_if_a_manifest_cannot_be_read(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.declare([NLL[0]], keep="until_evaluated")
    store.declare([NLL[0]], sweep="torn")
    store.finish(PRETRAIN, TRAIN, EVALUATE)
    store.layout.sweep("torn").manifest(1).write_text('{"jobs": [')
    with pytest.raises(StoreError, match=r"torn/launch\.1\.json is corrupt"):
        collect(store.layout)
    with caplog.at_level(logging.ERROR):
        release_weights(store.layout, [EVALUATE])
    assert "could not be removed" in caplog.text
    assert store.model(TRAIN).is_dir()


def test_a_pruning_that_was_killed_after_its_mark_goes_on_unasked(store: Store) -> None:
    store.declare([NLL[0]])
    store.finish(PRETRAIN, TRAIN, EVALUATE)
    write_json(store.layout.job(TRAIN).attempt(1).pruned, {"outputs": ["model"]})
    assert store.gone() == {f"jobs/{TRAIN}/attempt.1/model"}


def test_two_evaluations_that_end_at_once_release_the_weights_once(store: Store) -> None:
    for seed in range(10):
        here = Store(store.layout.root.with_name(f"runs{seed}"))
        here.declare(NLL, keep="until_evaluated")
        here.finish(PRETRAIN, TRAIN)

        def end(evaluation: str, store: Store = here) -> None:
            store.finish(evaluation)
            release_weights(store.layout, [evaluation])

        assert [os.waitpid(pid, 0)[1] for pid in (fork(end, EVALUATE), fork(end, OTHER))] == [0, 0]
        here.gone()  # each may have found the other holding the claim, or not yet done
        assert not here.model(TRAIN).exists()
        assert job_state(here.layout.job(TRAIN), this_code=True) == "pruned"


# --- what belongs to no job -------------------------------------------------------------------------------------------


def test_temporary_files_go_after_a_day(store: Store) -> None:
    store.declare(NLL)
    store.finish(PRETRAIN)
    unfinished = store.attempt(TRAIN)
    old = [
        store.layout.job(TRAIN).folder / ".spec.12.0a1b2c3d.tmp",
        unfinished.checkpoints / ".step-00000100.77.tmp" / "model.safetensors",
        store.layout.job(PRETRAIN).attempt(1).folder / ".record.json.12.0a1b2c3d.tmp",
        store.layout.sweep("lab").folder / ".launch.2.json.12.0a1b2c3d.tmp",
        store.layout.snapshots / ".0123456789abcdef.12.0a1b2c3d.tmp" / "code.py",
    ]
    for path in old:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
        age(path if path.name.endswith(".tmp") else path.parent, 1.1)
    new = store.layout.job(TRAIN).folder / ".spec.13.0a1b2c3d.tmp"
    new.write_text("half")
    assert len(store.gone()) == len(old)
    assert not any(path.exists() for path in old)
    assert new.exists()
    assert unfinished.checkpoints.joinpath("step-00000050").is_dir()


def submission(store: Store, name: str, code: str | None, ended_days: float | None = None) -> None:
    files = store.layout.submission(name)
    files.private.mkdir(parents=True)
    files.private.joinpath("0_submitted.pkl").write_bytes(WEIGHTS)
    write_json(files.intent, {"sweep": "lab", "elements": []} | ({"code": code} if code is not None else {}))
    if ended_days is not None:
        write_json(files.ended, {"why": "", "at": 0})
        age(files.ended, ended_days)


def test_code_goes_when_no_submission_that_may_still_run_uses_it(store: Store) -> None:
    for digest in ("a" * 16, "b" * 16, "c" * 16):
        store.layout.code(digest).mkdir(parents=True)
        (store.layout.code(digest) / "worker.py").write_text("pass\n")
    submission(store, "ended", "a" * 16, ended_days=0)
    submission(store, "queued", "b" * 16)
    claim = acquire(store.layout.launching)
    assert claim
    assert store.gone() == set()  # a launch is submitting: it may be about to use any
    claim.release()
    assert store.gone() == {f"code/{'a' * 16}", f"code/{'c' * 16}"}
    submission(store, "unknown", None)
    store.layout.code("d" * 16).mkdir()
    assert store.gone() == set()


def test_scripts_of_submissions_go_a_week_after_their_end(store: Store) -> None:
    submission(store, "old", "", ended_days=8)
    submission(store, "young", "", ended_days=6)
    submission(store, "queued", "")
    assert store.gone() == {"submissions/old/private"}
    assert store.layout.submission("old").intent.exists()
    assert store.layout.submission("old").ended.exists()


def test_pools_of_workers_go_a_week_after_their_launcher_died(store: Store) -> None:
    dead, elsewhere = owner() | {"start": "1"}, owner() | {"boot": "another"}
    for name, who, days in (("a", dead, 8), ("b", dead, 6), ("c", owner(), 8), ("d", elsewhere, 8), ("e", None, 8)):
        pool = store.layout.worker_pool(name)
        pool.folder.mkdir(parents=True)
        if who:
            write_json(pool.launcher, {"sweep": "lab", "launch": 1, "owner": who})
            age(pool.launcher, days)
        age(pool.folder, days)
    assert store.gone() == {"workers/a", "workers/e"}


def test_what_the_analysis_keeps_goes_with_its_sweep_or_when_asked(store: Store) -> None:
    store.declare(NLL)
    (name,) = store.layout.sweeps()
    for sweep in (name, "gone"):
        (store.layout.analysis_cache(sweep) / "0123").mkdir(parents=True)
        (store.layout.analysis_cache(sweep) / "0123" / "meta.json").write_text("{}")
    left = store.layout.analysis_cache(name) / ".4567.123.0123abcd.tmp"
    left.mkdir()
    assert store.gone() == {"cache/analysis/gone"}
    age(left, 2)
    assert store.gone() == {f"cache/analysis/{name}/{left.name}"}
    assert store.gone(caches=True) == {f"cache/analysis/{name}"}
    assert store.gone(caches=True) == set()


def test_prepared_training_sets_go_a_week_after_they_were_read_last(store: Store) -> None:
    for name, days in (("a" * 16, 8), ("b" * 16, 6)):
        store.layout.prepared(name).mkdir(parents=True)
        age(store.layout.prepared(name), days)
    store.layout.checked("c").touch()
    assert store.gone() == {f"prepared/{'a' * 16}"}


def test_what_a_killed_removal_left_goes(store: Store) -> None:
    store.declare(NLL)
    (store.layout.trash / "model.0a1b2c3d").mkdir(parents=True)
    (store.layout.trash / "model.0a1b2c3d" / "model.safetensors").write_bytes(WEIGHTS)
    assert store.gone() == {"trash/model.0a1b2c3d"}
    assert list(store.layout.trash.iterdir()) == []


# --- safety -----------------------------------------------------------------------------------------------------------


def test_links_are_neither_followed_nor_removed(store: Store, tmp_path: Path) -> None:
    store.declare([NLL[0]], keep="until_evaluated")
    store.finish(PRETRAIN, EVALUATE)
    store.finish(TRAIN, number=2)
    outside = Store(tmp_path / "outside")
    outside.finish(OTHER, states=True)
    outside.attempt(TRAIN)
    store.model(TRAIN, 2).rename(tmp_path / "outside" / "model")
    store.model(TRAIN, 2).symlink_to(tmp_path / "outside" / "model")
    store.layout.job(TRAIN).attempt(1).folder.symlink_to(outside.layout.job(TRAIN).attempt(1).folder)
    store.layout.job(OTHER).folder.symlink_to(outside.layout.job(OTHER).folder)
    store.layout.snapshots.symlink_to(tmp_path / "outside" / "jobs")
    before = tree(tmp_path / "outside"), tree(store.layout.root)
    assert store.gone(weights=True) == set()
    assert (tree(tmp_path / "outside"), tree(store.layout.root)) == before


def test_a_trash_that_is_a_link_is_a_problem_that_is_told(store: Store, tmp_path: Path) -> None:
    store.declare(NLL)
    store.finish(PRETRAIN, states=True)
    (tmp_path / "outside").mkdir()
    store.layout.trash.symlink_to(tmp_path / "outside")
    collected = collect(store.layout)
    assert collected.items == []
    assert "trash is a link" in collected.problems[0]
    assert list((tmp_path / "outside").iterdir()) == []


def busy(store: Store) -> None:
    """A store in which every class of things may go, and much may not."""
    store.declare([*NLL, P[0]], keep="until_evaluated")
    store.declare([*BASE, P[1]], sweep="other")
    store.attempt(PRETRAIN)
    store.finish(PRETRAIN, number=2, states=True)
    assert P[0].train
    store.finish(TRAIN, P[0].train.id, EVALUATE, OTHER, P[0].evaluate.id, states=True)
    store.attempt(P[1].evaluate.id)
    submission(store, "old", "", ended_days=8)
    store.layout.code("a" * 16).mkdir(parents=True)


def test_a_dry_run_tells_what_goes_with_sizes_and_changes_nothing(store: Store) -> None:
    busy(store)
    before = tree(store.layout.root)
    told = collect(store.layout, dry_run=True)
    assert tree(store.layout.root) == before
    plain = json.loads(json.dumps(told.plain()))
    assert plain["classes"]["weights"] == {"bytes": 1000, "paths": {f"jobs/{TRAIN}/attempt.1/model": 1000}}
    assert plain["classes"]["submissions"]["bytes"] == 1000
    assert plain["bytes"] == sum(entry["bytes"] for entry in plain["classes"].values()) == told.bytes
    assert plain["items"] == sum(len(entry["paths"]) for entry in plain["classes"].values())
    text = told.text()
    assert f"1000 bytes  jobs/{TRAIN}/attempt.1/model" in text
    assert "... and 9 more" in text
    assert "may go; without --dry-run it does" in text.splitlines()[-1]
    done = collect(store.layout)
    assert paths(done) == paths(told)
    assert done.bytes == told.bytes
    assert "removed" in done.text().splitlines()[-1]


def test_an_empty_run_root_has_nothing_to_remove(store: Store) -> None:
    store.layout.root.mkdir()
    assert store.gone() == set()
    assert list(store.layout.root.iterdir()) == []


def fork(call: Callable[..., object], *arguments: object) -> int:
    """Runs the call in a process of its own; its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            call(*arguments)
            code = 0
        finally:
            os._exit(code)
    return pid


def killed_at(event: int, root: Path) -> bool:
    """Runs gc in a process that SIGKILL ends before its `event`-th change to the disk; whether it came so far."""
    changes = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.utime")

    def run() -> None:
        left = event

        def audit(name: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if name in changes:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(audit)
        collect(Layout(root))

    status = os.waitpid(fork(run), 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


@pytest.mark.slow
def test_a_gc_that_is_killed_at_any_change_leaves_every_job_done_or_plainly_pruned(tmp_path: Path) -> None:
    event = 1
    while True:
        store = Store(tmp_path / str(event))
        busy(store)
        done = [job_id for job_id in JOBS if is_done(store.layout.job(job_id))]
        came = killed_at(event, store.layout.root)
        for job_id in done:
            assert job_state(store.layout.job(job_id)) == "done"
            record = read_record(store.layout.job(job_id))
            assert record is not None
            if record.pruned():
                assert job_id == TRAIN
                with pytest.raises(StoreError, match="was pruned"):
                    record.output("model")
            else:
                assert damage(store.layout.job(job_id), deep=True) is None
        store.gone()
        assert list(store.layout.trash.iterdir()) == []
        assert not store.model(TRAIN).exists()
        assert store.gone() == set()
        if not came:
            break
        event += 1
    assert event > 30


JOB_STATES = ("undone", "begun", "withdrawn", "done", "done with leftovers", "done and claimed", "begun and claimed")


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    states=st.fixed_dictionaries({job_id: st.sampled_from(JOB_STATES) for job_id in JOBS}),
    sweeps=st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc")), min_size=1, max_size=8),  # indices of cells
    keep=st.sampled_from(["weights", "until_evaluated", "all"]),
    weights=st.booleans(),
)
def test_gc_removes_nothing_that_an_unfinished_or_running_job_needs(
    states: dict[str, str], sweeps: list[tuple[int, str]], keep: str, weights: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for name in "abc":
            store.declare([CELLS[i] for i, sweep in sweeps if sweep == name], sweep=name, keep=keep)
        declared = {job.id: job for i, _ in sweeps for job in CELLS[i].jobs()}
        for job_id in declared:
            bring_to(store, job_id, states[job_id])
        before = tree(store.layout.root)
        collect(store.layout, weights=weights)
        after = tree(store.layout.root)
        gone = {path for path in before.keys() - after.keys() if "/claims" not in path}
        for job_id, job in declared.items():
            of_job = {path for path in gone if path.startswith(f"jobs/{job_id}/")}
            if not states[job_id].startswith("done"):
                assert not of_job or (
                    states[job_id] == "withdrawn" and {Path(p).parts[2] for p in of_job} == {"attempt.1"}
                )
                for parent in job.parents:
                    record = read_record(store.layout.job(parent))
                    assert record is None or record.output("model").is_dir()
            else:
                assert damage(store.layout.job(job_id), deep=True) is None
            if "claimed" in states[job_id]:
                assert not of_job
        truth = (".json", "DONE", "metrics.jsonl", "log.txt")
        assert not [path for path in gone if path.endswith(truth) and "/attempt.1/" not in path]
        assert all(before[path] == after[path] for path in before.keys() & after.keys())
        assert collect(store.layout, weights=weights).items == []


def bring_to(store: Store, job_id: str, state: str) -> None:
    """Attempt 1 of what has one is a useless one; what counts is attempt 2."""
    if state == "undone":
        return
    if state == "withdrawn":
        store.finish(job_id, number=1)
        withdraw(store.layout.job(job_id), "made by other code")
    if state in ("withdrawn", "begun", "begun and claimed"):
        store.attempt(job_id, 2)
    elif state == "done with leftovers":
        store.attempt(job_id, 1)
        store.finish(job_id, number=2, states=True)
    else:
        store.finish(job_id, number=2)
    if state.endswith("claimed"):
        assert acquire(store.layout.job(job_id))


def test_importing_it_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'hydra', 'submitit', 'pandas', 'numpy'} & set(sys.modules)"
    code = f"import sys, bll_sweeps.cluster.disk; sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
