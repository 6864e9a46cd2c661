"""Scores parsed by processes of their own: the same numbers as without, whatever becomes of the processes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.sources import score_files
from analysis.sources.parse import Wanted, parse, slowly
from analysis.sources.score_files import ScoreFiles
from analysis.workers import Workers
from bll_sweeps.errors import StoreError

Rows = list[dict[str, object]]


def wanted(path: Path, rows: Rows, decodings: tuple[str, ...] = ("sampled",)) -> Wanted:
    """The file of these rows, as a record tells of it."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(data)
    told = {}
    for name in decodings:
        means = [np.mean(np.array(row[name], dtype=float)) for row in rows if row[name]]
        told[name] = {"mean": float(np.mean(means)), "questions": len(rows)}
    return Wanted(path, len(data), hashlib.sha256(data).hexdigest(), told)


def plain(n: int = 3) -> Rows:
    return [{"question": f"q{i}", "sampled": [1, 0.25, i % 2], "answers": {"sampled": ["x"]}} for i in range(n)]


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Wanted]:
    """Files that are worth processes."""
    monkeypatch.setattr(score_files, "_BATCH_BYTES", 600)
    monkeypatch.setattr(score_files, "_WORTH", 2)
    return [wanted(tmp_path / f"{i}.jsonl", plain(2 + i % 3)) for i in range(40)]


def asked(files: ScoreFiles, many: list[Wanted]) -> None:
    for one in many:
        files.want(one)


def check(files: ScoreFiles, many: list[Wanted]) -> None:
    for one in many:
        found, (expected,) = files.get(one.path), parse([one])
        assert found is not None and expected is not None
        for name, block in expected.items():
            assert found[name].question == block.question
            assert found[name].score.tolist() == block.score.tolist()
            assert found[name].samples.tolist() == block.samples.tolist()


def test_processes_find_what_this_one_finds_and_end_with_it(many: list[Wanted]) -> None:
    with Workers(2) as workers:
        files = ScoreFiles(workers)
        asked(files, many)
        check(files, many)
        assert len(workers.pids) == 2


def test_a_few_files_start_no_process(tmp_path: Path) -> None:
    with Workers(2) as workers:
        files = ScoreFiles(workers)
        few = [wanted(tmp_path / "a.jsonl", plain())]
        asked(files, few)
        check(files, few)
        assert workers.pids == []


def test_files_of_a_process_that_was_killed_are_parsed_all_the_same(
    many: list[Wanted], caplog: pytest.LogCaptureFixture
) -> None:
    with Workers(2) as workers, caplog.at_level("INFO", logger="bll"):
        files = ScoreFiles(workers)
        asked(files, many[:20])
        check(files, many[:20])
        for pid in workers.pids:
            os.kill(pid, signal.SIGKILL)
        asked(files, many[20:])
        check(files, many[20:])
    assert "; this one parses " in caplog.text


def test_where_no_process_can_be_started_files_are_parsed_all_the_same(
    many: list[Wanted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with Workers(2) as workers:
        files = ScoreFiles(workers)
        asked(files, many)
        check(files, many)


def test_the_same_questions_are_one_object(many: list[Wanted]) -> None:
    with Workers(2) as workers:
        files = ScoreFiles(workers)
        asked(files, many)
        blocks = [files.get(one.path) for one in many]
    assert len({id(found["sampled"].question) for found in blocks if found is not None}) == 3


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q", "sampled": []},
        {"question": "q", "sampled": [None]},
        {"question": "q", "sampled": [float("nan")]},
        {"question": "q", "sampled": [2]},
        {"question": "q0", "sampled": [1]},
    ],
    ids=["none", "null", "nan", "two", "twice"],
)
def test_what_is_not_as_it_should_be_is_judged_slowly_and_named(tmp_path: Path, row: dict[str, object]) -> None:
    one = wanted(tmp_path / "a.jsonl", [*plain(), row])
    assert parse([one]) == [None]
    with pytest.raises(StoreError, match=r"a\.jsonl"):
        slowly(one.path, one.told)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(0, 1), st.sampled_from(["]", "[1]", "x"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["]", "k"]), inner, max_size=2),
    max_leaves=5,
)
SCORES = st.lists(st.floats(0, 1) | st.sampled_from([0, 1]), min_size=1, max_size=4)


@given(st.lists(SCORES, min_size=1, max_size=4), st.lists(VALUES, max_size=2), st.randoms(use_true_random=False))
def test_a_file_of_anything_else_than_lists_of_scores_is_not_parsed(
    scores: list[list[float]], others: list[object], order: random.Random
) -> None:
    values: list[object] = [*scores, *others]
    order.shuffle(values)
    sound = [v for v in values if isinstance(v, list) and v and all(type(x) in (int, float) for x in v)]
    means = [float(np.mean(v)) for v in sound]
    data = "".join(json.dumps({"question": f"q{i}", "sampled": v}) + "\n" for i, v in enumerate(values)).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_bytes(data)
        told = {"sampled": {"mean": float(np.mean(means)), "questions": len(values)}}
        (found,) = parse([Wanted(path, len(data), hashlib.sha256(data).hexdigest(), told)])
    if len(sound) < len(values):
        assert found is None
    else:
        assert found is not None
        assert found["sampled"].score.tolist() == pytest.approx(means, rel=1e-12)
        assert found["sampled"].samples.tolist() == [len(v) for v in sound]


def test_a_digest_that_differs_is_not_parsed(tmp_path: Path) -> None:
    one = wanted(tmp_path / "a.jsonl", plain())
    for bad in (one._replace(sha256="0" * 64), one._replace(size=1), one._replace(path=tmp_path / "none")):
        assert parse([bad]) == [None]


def test_names_of_decodings_need_not_be_identifiers(tmp_path: Path) -> None:
    rows: Rows = [{"question": "q", "greedy-2": [1], "class": [0, 1]}]
    (found,) = parse([wanted(tmp_path / "a.jsonl", rows, ("greedy-2", "class"))])
    assert found is not None
    assert {name: (block.score.tolist(), block.samples.tolist()) for name, block in found.items()} == {
        "greedy-2": ([1.0], [1]),
        "class": ([0.5], [2]),
    }
