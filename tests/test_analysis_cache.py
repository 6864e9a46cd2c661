"""The cache of the analysis: the same results with it as without, never those of another state of the records."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.sources import cache
from analysis.sources.files import Files
from analysis.sources.scores import Scores
from analysis.sources.table import Results, load
from analysis.statistics.continuum import gains, means
from bll_sweeps.grid.axes import Noise
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import read_record, withdraw
from tests.analysis_store import StoreBuilder, lab_cells, lab_store

POINTS = (("lab-a", "spell"), ("lab-c", "rot"))
OBJECTIVES = ("base", "nll", "p")


def assert_same(one: Results, other: Results) -> None:
    for field in dataclasses.fields(Results):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, pd.DataFrame):
            pd.testing.assert_frame_equal(a, b, check_exact=True, obj=field.name)
        elif field.name != "scores":
            assert a == b, field.name
    assert list(one.scores) == list(other.scores)
    for key in one.scores:
        pd.testing.assert_frame_equal(one.scores[key], other.scores[key], check_exact=True)
    pd.testing.assert_frame_equal(one.questions, other.questions, check_exact=True)


def uncached(root: Path) -> Results:
    """What a load finds that has no cache."""
    aside = root / "cache.aside"
    if (root / "cache").exists():
        (root / "cache").rename(aside)
    try:
        return load(root, every_launch=True)
    finally:
        shutil.rmtree(root / "cache", ignore_errors=True)
        if aside.exists():
            aside.rename(root / "cache")


def snapshots(root: Path) -> list[Path]:
    return sorted(Layout(root).analysis_cache("lab").iterdir())


@pytest.fixture
def store(tmp_path: Path) -> Path:
    lab_store(tmp_path, objectives=OBJECTIVES, points=POINTS, questions=10)
    return tmp_path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs whose records are read from the disk, as the test goes on."""
    found: list[str] = []
    text = Files.text

    def watched(self: Files, job_id: str, name: str) -> str | None:
        if not self.unchanged(job_id):
            found.append(job_id)
        return text(self, job_id, name)

    monkeypatch.setattr(Files, "text", watched)
    return found


# --- the same results -------------------------------------------------------------------------------------------------


def _record(files: Path) -> Path:
    return files / "attempt.1" / "record.json"


def _cut(path: Path) -> None:
    if path.exists():  # an earlier change may have removed it
        path.write_bytes(path.read_bytes()[:-20])


def _tell_otherwise(path: Path) -> None:
    data = json.loads(path.read_text())
    data["result"]["metrics"]["sampled"]["mean"] = 0.123
    path.write_text(json.dumps(data))


CHANGES: dict[str, Callable[[Path], None]] = {
    "cut scores": lambda job: _cut(job / "attempt.1" / "scores.exact-v1.jsonl"),
    "scores gone": lambda job: (job / "attempt.1" / "scores.exact-v1.jsonl").unlink(missing_ok=True),
    "torn record": lambda job: _cut(_record(job)),
    "another mean": lambda job: _tell_otherwise(_record(job)),
    "torn spec": lambda job: _cut(job / "spec.json"),
    "spec gone": lambda job: (job / "spec.json").unlink(missing_ok=True),
    "no provenance": lambda job: (job / "attempt.1" / "attempt.json").unlink(missing_ok=True),
    "withdrawn": lambda job: withdraw(Layout(job.parents[1]).job(job.name), "a test"),
    "job gone": shutil.rmtree,
    "failed": lambda job: (job / "attempt.2").mkdir(exist_ok=True),
}


@pytest.mark.slow
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_load_with_the_cache_equals_one_without_it_whatever_happened_to_the_store(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        builder = StoreBuilder(root, questions=5, sequences=8, steps=20, repeats=data.draw(st.sampled_from([0, 2])))
        noises = (Noise(kind="uniform", rate=0.2), Noise()) if data.draw(st.booleans()) else (None,)
        cells = lab_cells(objectives=("base", "nll"), points=POINTS[:1], noises=noises, questions=5)
        for one, _ in cells[: data.draw(st.integers(1, len(cells)))]:
            builder.finish(one)
        builder.launch(cells)
        for _ in range(data.draw(st.integers(1, 3))):
            assert_same(load(root, every_launch=True), uncached(root))  # as a miss
            assert_same(load(root, every_launch=True), uncached(root))  # as a hit
            done = [one.evaluate for one, _ in cells if read_safely(root, one.evaluate.id)]
            if done and data.draw(st.booleans()):
                job = data.draw(st.sampled_from(done))
                grader = data.draw(st.sampled_from(["exact-v2", "other-v1"]))
                score = data.draw(st.sampled_from([0, 1, 0.3]))
                builder.score_later(job, grader, [{"question": "q", "sampled": [score, 1], "greedy": [score]}])
            elif done:
                name = data.draw(st.sampled_from(sorted(CHANGES)))
                CHANGES[name](Layout(root).job(data.draw(st.sampled_from(done)).id).folder)
        assert_same(load(root, every_launch=True), uncached(root))


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A store in which all of CHANGES have happened, each to an evaluation of its own; one cell is not done."""
    cells = lab_cells(objectives=(*OBJECTIVES, "p10", "logp_above"), points=(*POINTS, ("lab-b", "add")), questions=5)
    builder = StoreBuilder(tmp_path, questions=5, sequences=8, steps=20)
    for one, _ in cells[:-1]:
        builder.finish(one)
    builder.launch(cells)
    for (one, _), change in zip(cells[1:], CHANGES.values(), strict=False):
        change(Layout(tmp_path).job(one.evaluate.id).folder)
    assert len(cells) > len(CHANGES) + 2
    return tmp_path


def test_small_files_that_other_processes_read_are_the_same(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = uncached(damaged)
    assert len(here.problems) > 4
    monkeypatch.setattr("analysis.sources.table._MANY", 1)
    assert_same(uncached(damaged), here)
    assert_same(load(damaged, every_launch=True), here)
    assert_same(load(damaged, every_launch=True), here)  # from what the load above kept


def test_where_no_process_can_be_started_small_files_are_read_all_the_same(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = uncached(damaged)
    monkeypatch.setattr("analysis.sources.table._MANY", 1)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert_same(uncached(damaged), here)


def read_safely(root: Path, job_id: str) -> bool:
    try:
        return read_record(Layout(root).job(job_id)) is not None
    except Exception:  # noqa: BLE001 - whatever a change of the test left
        return False


def test_statistics_are_the_same_from_the_cache(store: Path) -> None:
    first, second = load(store), load(store)
    pd.testing.assert_frame_equal(means(first), means(second), check_exact=True)
    pd.testing.assert_frame_equal(gains(first), gains(second), check_exact=True)


# --- what is read again -----------------------------------------------------------------------------------------------


def test_nothing_is_read_a_second_time(store: Path, opened: list[str]) -> None:
    load(store)
    assert opened
    opened.clear()
    load(store)
    assert opened == []


def test_after_a_change_of_one_record_only_that_is_read_again(store: Path, opened: list[str]) -> None:
    before = load(store)
    changed = before.cells["evaluate"].iloc[0]
    record = Layout(store).job(changed).attempt(1).record
    record.write_text(record.read_text())
    opened.clear()
    assert_same(load(store), before)
    assert set(opened) == {changed}


def test_a_new_result_is_seen_and_the_others_are_not_read_again(tmp_path: Path, opened: list[str]) -> None:
    builder, cells = StoreBuilder(tmp_path), lab_cells(objectives=OBJECTIVES, points=POINTS[:1])
    builder.launch(cells)
    for one, _ in cells[:2]:
        builder.finish(one)
    load(tmp_path)
    opened.clear()
    late = cells[2][0]
    builder.finish(late)
    results = load(tmp_path)
    assert (results.cells["state"] == "done").all()
    assert late.train is not None
    assert set(opened) == {late.train.id, late.evaluate.id}


def test_a_regraded_evaluation_is_seen(store: Path) -> None:
    load(store)
    one = lab_cells(objectives=("nll",), points=POINTS[:1], questions=10)[0][0]
    StoreBuilder(store).score_later(one.evaluate, "exact-v2", [{"question": "q", "sampled": [1], "greedy": [1]}])
    cells = load(store).cells
    assert set(cells.loc[cells["evaluate"] == one.evaluate.id, "grader"]) == {"exact-v2"}
    assert_same(load(store), uncached(store))


def test_another_launch_is_another_key(store: Path) -> None:
    first = load(store)
    StoreBuilder(store).launch(lab_cells(objectives=("nll",), points=POINTS[:1], questions=10), number=2)
    assert len(load(store).cells) == 2
    assert_same(load(store, launch=1), first)


def test_other_code_is_another_key(store: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]) -> None:
    load(store)
    opened.clear()
    monkeypatch.setattr(cache, "_made_by", lambda: "other code")
    load(store)
    assert len(snapshots(store)) == 2


def test_only_so_many_snapshots_are_kept(store: Path) -> None:
    for number in range(2, cache.SNAPSHOTS + 4):
        load(store)
        StoreBuilder(store).launch(lab_cells(objectives=("nll",), points=POINTS[:1], questions=10), number=number)
    assert len(snapshots(store)) == cache.SNAPSHOTS


# --- a cache that is damaged, or cannot be ----------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "empty"])
def test_a_damaged_snapshot_is_a_miss(store: Path, damage: str) -> None:
    expected = load(store)
    for name in ("meta.json", "cells.parquet", "columns.parquet"):
        path = snapshots(store)[0] / name
        data = bytearray(path.read_bytes())
        if damage == "gone":
            path.unlink()
        elif damage == "flipped":
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        else:
            path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
        assert_same(load(store), expected)
    assert_same(load(store), expected)


def test_without_write_permission_it_works_and_logs_a_line(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with caplog.at_level("INFO", logger="bll"):
        results = load(store)
    assert results.problems == []
    assert (results.cells["state"] == "done").all()
    assert "is not kept" in caplog.text
    assert not (store / "cache").exists()


def test_several_at_once_are_safe(store: Path) -> None:
    expected, found, errors = uncached(store), [], []

    def work() -> None:
        try:
            for _ in range(3):
                found.append(load(store, every_launch=True))
                shutil.rmtree(store / "cache", ignore_errors=True)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(found) == 12
    for results in found:
        assert_same(results, expected)


def test_nothing_is_left_beside_the_snapshots(store: Path) -> None:
    load(store)
    assert [path.name for path in snapshots(store) if path.name.startswith(".")] == []
    assert sorted({path.suffix for path in snapshots(store)[0].iterdir()}) == [".json", ".parquet"]


def test_a_file_changed_in_place_with_the_same_size_is_seen(store: Path) -> None:
    before = load(store)
    job = before.cells["evaluate"].iloc[0]
    path = Layout(store).job(job).attempt(1).output("scores.exact-v1.jsonl")
    times, text = path.stat(), path.read_text()
    path.write_text(text.replace("[0,", "[1,", 1) if "[0," in text else text.replace("[1,", "[0,", 1))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # also where somebody set the time back
    assert any(str(path) in problem for problem in load(store).problems)


# --- the scores as columns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [False, True])
def test_scores_are_tables_and_columns_of_the_same_numbers(store: Path, again: bool) -> None:
    results = load(store)
    if again:
        results = load(store)
    scores = results.scores
    assert isinstance(scores, Scores)
    assert len(scores) == 3 * 2 * 2
    for key in scores:
        at = scores.rows(key)
        assert scores[key]["score"].tolist() == scores.score[at].tolist()
        assert scores[key].index.tolist() == list(scores.names.take(scores.code[at]))
        record = read_record(Layout(store).job(key[0]))
        assert record is not None
        told = record.result["metrics"][key[1]]
        assert np.isclose(scores[key]["score"].mean(), told["mean"])
        assert set(scores[key]["samples"]) == {told["samples"]}
