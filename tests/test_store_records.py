"""Records on disk: atomic, first wins, and nothing damaged is ever used."""

from __future__ import annotations

import gzip
import hashlib
import json
from itertools import islice
from pathlib import Path

import pytest

from bll_sweeps.errors import StoreError
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import (
    atomic_path,
    is_done,
    iter_jsonl,
    iter_jsonl_gz,
    publish,
    read_json,
    read_jsonl,
    read_jsonl_gz,
    read_record,
    withdraw,
    write_json,
    write_jsonl,
    write_jsonl_gz,
    write_record,
)


def finish(layout: Layout, number: int = 1, text: str = "weights") -> None:
    files = layout.job("train-0123456789abcdef")
    attempt = files.attempt(number)
    (attempt.folder / "model").mkdir(parents=True)
    attempt.output("model").joinpath("weights.bin").write_text(text)
    write_record(attempt, files.id, {"steps": 3}, ["model"])
    assert publish(files, attempt) == (number == 1)


def test_presence_means_done(tmp_path: Path) -> None:
    files = Layout(tmp_path).job("train-0123456789abcdef")
    assert not is_done(files)
    assert read_record(files) is None
    finish(Layout(tmp_path))
    record = read_record(files)
    assert is_done(files)
    assert record is not None
    assert record.result == {"steps": 3}
    assert (record.output("model") / "weights.bin").read_text() == "weights"


def test_the_first_of_two_attempts_wins(tmp_path: Path) -> None:
    finish(Layout(tmp_path), 1, "first")
    finish(Layout(tmp_path), 2, "second")
    record = read_record(Layout(tmp_path).job("train-0123456789abcdef"))
    assert record is not None
    assert record.attempt.number == 1


def test_two_runs_of_a_job_leave_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        finish(Layout(tmp_path / name))
    one, other = (Layout(tmp_path / n).job("train-0123456789abcdef").attempt(1).record.read_bytes() for n in "ab")
    assert one == other


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_output_is_named_and_not_used(tmp_path: Path, damage: str) -> None:
    finish(Layout(tmp_path))
    files = Layout(tmp_path).job("train-0123456789abcdef")
    weights = files.attempt(1).folder / "model" / "weights.bin"
    {
        "truncate": lambda: weights.write_text("wei"),
        "flip": lambda: weights.write_text("weightz"),
        "remove": weights.unlink,
    }[damage]()
    record = read_record(files)
    assert record is not None
    with pytest.raises(StoreError, match=r"weights\.bin.*bll retry"):
        record.output("model")


@pytest.mark.parametrize("text", ["", '{"id": "train-0123', '{"id": "train-other", "result": {}, "outputs": {}}', "[]"])
def test_a_damaged_record_is_named_and_not_used(tmp_path: Path, text: str) -> None:
    finish(Layout(tmp_path))
    files = Layout(tmp_path).job("train-0123456789abcdef")
    files.attempt(1).record.write_text(text)
    with pytest.raises(StoreError, match=r"record\.json.*bll retry"):
        read_record(files)
    withdraw(files, "damaged")
    assert not is_done(files)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("power cut")
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_compressed_rows_are_deterministic_and_a_torn_file_is_named(tmp_path: Path) -> None:
    rows = [{"question": "q", "texts": ["a", "b"]}] * 50
    for name in ("a.gz", "b.gz"):
        write_jsonl_gz(tmp_path / name, rows)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert read_jsonl_gz(tmp_path / "a.gz") == rows
    (tmp_path / "a.gz").write_bytes((tmp_path / "a.gz").read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"a\.gz"):
        read_jsonl_gz(tmp_path / "a.gz")


def test_rows_end_at_newlines_only_and_blank_lines_are_none(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b\u0085c"}, {"text": "d"}]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    assert read_jsonl(tmp_path / "a.jsonl") == read_jsonl_gz(tmp_path / "a.jsonl.gz") == rows
    (tmp_path / "a.jsonl").write_text(text[:-9])
    with pytest.raises(StoreError, match=r"a\.jsonl is corrupt"):
        read_jsonl(tmp_path / "a.jsonl")


def test_rows_are_read_one_at_a_time(tmp_path: Path) -> None:
    rows = [{"question": i, "text": hashlib.sha256(str(i).encode()).hexdigest()} for i in range(20_000)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    write_jsonl_gz(tmp_path / "a.jsonl.gz", rows)
    for path, one_by_one, all_at_once in (
        (tmp_path / "a.jsonl", iter_jsonl, read_jsonl),
        (tmp_path / "a.jsonl.gz", iter_jsonl_gz, read_jsonl_gz),
    ):
        assert list(one_by_one(path)) == all_at_once(path) == rows
        path.write_bytes(path.read_bytes()[:-100])
        assert list(islice(one_by_one(path), 50)) == rows[:50]  # who stops there has not seen the damage
        for whole in (all_at_once, lambda path, some=one_by_one: list(some(path))):
            with pytest.raises(StoreError, match=f"{path.name} is corrupt"):
                whole(path)


def test_a_number_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()
    assert json.loads("1") == 1
