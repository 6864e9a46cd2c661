"""The rows that domains train on and benchmarks ask, before tokenization: from files or from a generator. No torch.

Whatever is wrong with a file is an error that names file, row and column.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bll_sweeps.errors import ConfigError, StoreError, hint, one_of
from bll_sweeps.grid.axes import Table
from bll_sweeps.grid.digest import files_digest
from bll_sweeps.store.records import file_sha256

_SHOWN = 80  # characters of a bad line in its error
_LISTED = 12  # keys
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_INFINITE = (float("inf"), float("-inf"))
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")


class Row(NamedTuple):
    """One demonstration. `answer` is what is trained on; `clean_answer` differs from it under label noise."""

    question: str
    answer: str
    clean_answer: str

    @property
    def noisy(self) -> bool:
        return self.answer != self.clean_answer


class Item(NamedTuple):
    """A row of a table. `options`: (letter, text) of a multiple-choice question; `where`: its file and row."""

    question: str
    answer: str
    options: tuple[tuple[str, str], ...] = ()
    where: str = ""


def question_id(question: str) -> str:
    """16 hex digits that follow from the question's text alone, so that results pair up wherever it is asked."""
    return hashlib.sha256(question.encode()).hexdigest()[:16]


def folded(question: str) -> str:
    """What two questions share that differ in letter case only: who was trained on one has all but seen the other."""
    return question.casefold()


# --- files ------------------------------------------------------------------------------------------------------------


def read_table(table: Table, key: str) -> list[Item]:
    """The table's rows, file after file.

    `key` is where the configuration names the table ("domain.data"): ConfigError under it for a file that is missing or
    of an unknown kind, for a column that is not there, an empty question or answer, an id that occurs twice, and for
    another number of rows than `size`; StoreError if the files are not those of `digest`.
    """
    _check_digest(table, key)
    rows = [row for path in table.paths for row in _records(Path(path), table, key)]
    if table.size and len(rows) != table.size:
        raise ConfigError(f"{key}.size", table.size, f"is not how many rows there are: {len(rows)} in {_files(table)}")
    if not rows:
        raise ConfigError(key, _files(table), "holds no rows")
    items, ids = [], dict[str, str]()
    for where, record in rows:
        values = {ours: _column(record, theirs, ours, where, key) for ours, theirs in table.columns.items()}
        if "id" in values:
            _distinct(str(values["id"]), where, ids, table, key)
        question, answer = (_text(values[name], table, name, where, key) for name in ("question", "answer"))
        options = _options(values["options"], answer, table, where, key) if "options" in values else ()
        items.append(Item(question, answer, options, where))
    return items


def _files(table: Table) -> str:
    return table.path or f"{table.hub}: {table.files}"


def _check_digest(table: Table, key: str) -> None:
    for path in table.paths:
        if not Path(path).is_file():
            remedy = "" if table.path else f"; `bll fetch` brings {table.hub} here"
            raise ConfigError(f"{key}.path" if table.path else f"{key}.hub", path, f"is not a file{remedy}")
    found = files_digest([file_sha256(Path(path)) for path in table.paths])
    if found != table.digest:
        change = f"(digest {found[:16]}, not {table.digest[:16]})"
        raise StoreError(f"{_files(table)} has changed since it was planned {change}; put it back, or launch again")


def _records(path: Path, table: Table, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and row, record) of each row; the kind of file is told by its suffix."""
    readers = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}
    if path.suffix not in readers:
        raise ConfigError(f"{key}.path", str(path), f"has an unknown suffix: {', '.join(readers)} can be read")
    for where, record in readers[path.suffix](path, table, key):
        if not isinstance(record, dict):
            raise ConfigError(key, str(path), f"must hold an object in {where}, not {str(record)[:_SHOWN]!r}")
        yield f"{path}, {where}", record


def _jsonl(path: Path, table: Table, key: str) -> Iterator[tuple[str, Any]]:
    """A line ends at a newline and nowhere else: JSON strings may hold U+2028 and its like. Blank ones do not count."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            yield f"line {number}", _parsed(line, path, f"line {number}", key)


def _json(path: Path, table: Table, key: str) -> Iterator[tuple[str, Any]]:
    """A list of rows, or {key: list of rows}."""
    data = _parsed(path.read_bytes(), path, "it", key)
    if table.key:
        keys = list(data) if isinstance(data, dict) else []
        if table.key not in keys:
            raise ConfigError(f"{key}.key", table.key, f"of {path} {one_of(keys, table.key)}")
        data = data[table.key]
    if not isinstance(data, list):
        choices = f" ({', '.join(list(data)[:_LISTED])})" if isinstance(data, dict) else ""
        problem = f"must be a list of rows, or say by {key}.key where in it they are{choices}"
        raise ConfigError(f"{key}.path", str(path), problem)
    yield from ((f"row {number}", row) for number, row in enumerate(data, 1))


def _parquet(path: Path, table: Table, key: str) -> Iterator[tuple[str, Any]]:
    """Only the columns that are asked for are read."""
    import pyarrow.lib
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        known = file.schema_arrow.names
        wanted = {_steps(theirs)[0] for theirs in table.columns.values()}
        for ours, theirs in table.columns.items():
            if _steps(theirs)[0] not in known:
                problem = f"is not there{hint(known, str(_steps(theirs)[0]))} (in {path})"
                raise ConfigError(f"{key}.columns.{ours}", theirs, problem)
        data = file.read(columns=sorted(map(str, wanted)))
        yield from ((f"row {number}", row) for number, row in enumerate(data.to_pylist(), 1))
    except (pyarrow.lib.ArrowException, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{key}.path", str(path), f"cannot be read as parquet: {' '.join(str(error).split())}"
        ) from None


def _parsed(text: bytes, path: Path, where: str, key: str) -> Any:
    try:
        return json.loads(text.decode())
    except json.JSONDecodeError as error:
        shown = text[max(0, error.pos - 40) :][:_SHOWN].decode(errors="replace")
        raise ConfigError(key, str(path), f"is not JSON in {where} ({error.msg}): {shown!r}") from None
    except UnicodeDecodeError as error:
        shown = text[max(0, error.start - 40) :][:_SHOWN].decode(errors="replace")
        raise ConfigError(key, str(path), f"is not UTF-8 in {where} ({error.reason}): {shown!r}") from None


# --- columns ----------------------------------------------------------------------------------------------------------


def _steps(theirs: str) -> list[str | int]:
    """`extra_info.answers[0]` -> ['extra_info', 'answers', 0]."""
    return [int(index) if index else name for name, index in _STEP.findall(theirs.partition("|")[0])]


def _column(record: dict[str, Any], theirs: str, ours: str, where: str, key: str) -> Any:
    value: Any = record
    for step in _steps(theirs):
        if isinstance(value, list):
            inside = isinstance(step, int) and step < len(value)
        else:
            inside = isinstance(value, dict) and step in value
        if inside:
            value = value[step]
        else:
            has = f"is not there{hint(list(value), str(step))}" if isinstance(value, dict) else "is not there"
            raise ConfigError(f"{key}.columns.{ours}", theirs, f"{has} (in {where})")
    if not theirs.endswith("|last_box"):
        return value
    boxed = last_box(str(value))
    if boxed is None:
        raise ConfigError(f"{key}.columns.{ours}", theirs, f"finds no \\boxed{{}} in {where}")
    return boxed


def _text(value: Any, table: Table, ours: str, where: str, key: str) -> str:
    """As text: whole numbers that a file keeps as floats (27.0) without their point, and never an empty one."""
    text = _plain(value)
    if text is None:
        problem = f"must be a string or a number, not {str(value)[:_SHOWN]!r} (in {where})"
        raise ConfigError(f"{key}.columns.{ours}", table.columns[ours], problem)
    if not text.strip():
        raise ConfigError(f"{key}.columns.{ours}", table.columns[ours], f"is empty (in {where})")
    return text


def _plain(value: Any) -> str | None:
    """A string, or a finite number as one; None for anything else, half a surrogate pair included."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value != value or value in _INFINITE:
        return None
    text = str(value)
    return text if text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text) else None


def _options(value: Any, answer: str, table: Table, where: str, key: str) -> tuple[tuple[str, str], ...]:
    """(letter, text) pairs of {letter: text} or a list of texts; of a struct that lists letters for all rows alike,
    those that this row has.
    """
    if isinstance(value, dict):
        pairs = [(str(letter), text) for letter, text in value.items() if text is not None]
    else:
        pairs = list(zip(_LETTERS, value, strict=False)) if isinstance(value, list) and len(value) <= 26 else []
    options = tuple((letter, text) for letter, item in pairs if (text := _plain(item)))
    if not options or len(options) != len(pairs):
        problem = f"must be letters with texts, or at most 26 texts, not {str(value)[:_SHOWN]!r} (in {where})"
        raise ConfigError(f"{key}.columns.options", table.columns["options"], problem)
    if answer not in dict(options):
        problem = f"holds {answer!r}, which is not among the options {', '.join(dict(options))} (in {where})"
        raise ConfigError(f"{key}.columns.answer", table.columns["answer"], problem)
    return options


def _distinct(value: str, where: str, ids: dict[str, str], table: Table, key: str) -> None:
    if value in ids:
        problem = f"has {value!r} twice, in {ids[value]} and {where}"
        raise ConfigError(f"{key}.columns.id", table.columns["id"], problem)
    ids[value] = where


def last_box(text: str) -> str | None:
    """What the last \\boxed{} of a text holds, braces balanced; None without one."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len("\\boxed{")
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[begin:end].strip()
    return None
