"""The rows that a domain trains on, before tokenization, and the files that hold questions and answers. No torch: the
lab generates rows, training consumes them, benchmarks are read from the same kind of file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from bll_sweeps.errors import ConfigError, StoreError
from bll_sweeps.store.records import file_sha256


class Row(NamedTuple):
    """One demonstration. `answer` is what is trained on; `clean_answer` differs from it under label noise."""

    question: str
    answer: str
    clean_answer: str

    @property
    def noisy(self) -> bool:
        return self.answer != self.clean_answer


def question_id(question: str) -> str:
    """16 hex digits that follow from the question's text alone, so that results pair up wherever it is asked."""
    return hashlib.sha256(question.encode()).hexdigest()[:16]


def folded(question: str) -> str:
    """What two questions share that differ in letter case only: who was trained on one has all but seen the other."""
    return question.casefold()


def read_rows(path: Path, digest: str, key: str) -> dict[int, Row]:
    """Line number (from 1) -> row of a jsonl file of {"question", "answer"}, blank lines left out.

    A line ends at a newline and nowhere else: JSON strings may hold U+2028 and its like. `key` is where the
    configuration names the file: ConfigError under it if there is none, or for a bad line; StoreError if the file is
    not the one of `digest` (sha256, hex).
    """
    if not path.is_file():
        raise ConfigError(key, str(path), "is not a file")
    found = file_sha256(path)
    if found != digest:
        change = f"(sha256 {found[:16]}, not {digest[:16]})"
        raise StoreError(f"{path} has changed since it was planned {change}; put it back, or launch again")
    lines = enumerate(path.read_bytes().split(b"\n"), 1)
    return {number: _row(line, number, path, key) for number, line in lines if line.strip()}


def _row(line: bytes, number: int, path: Path, key: str) -> Row:
    shown = line[:80].decode(errors="replace")
    try:
        data: Any = json.loads(line.decode())
    except json.JSONDecodeError as error:
        raise ConfigError(key, str(path), f"is not JSON in line {number} ({error.msg}): {shown!r}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(key, str(path), f"is not UTF-8 in line {number} ({error.reason}): {shown!r}") from None
    if not isinstance(data, dict):
        raise ConfigError(key, str(path), f"must have an object with question and answer in line {number}: {shown!r}")
    for field in ("question", "answer"):
        if not isinstance(data.get(field), str):
            raise ConfigError(
                key, str(path), f"must have a string as {field} in line {number}, not {data.get(field)!r}"
            )
    return Row(data["question"], data["answer"], data["answer"])
