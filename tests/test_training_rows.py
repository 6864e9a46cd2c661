"""Tables of rows: what each kind of file and each form of column gives, and what is said of a bad one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from cells import table
from hypothesis import given
from hypothesis import strategies as st

from bll_sweeps.errors import ConfigError, StoreError
from bll_sweeps.training.rows import Item, last_box, read_table

ROW = {"question": "q", "answer": "a"}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the format of the path's suffix."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        jsonl(path, *rows)
    return path


def read(path: Path, **changes: Any) -> list[Item]:
    return read_table(table(path, **changes), "domain.data")


def pairs(path: Path, **changes: Any) -> list[tuple[str, str]]:
    return [(item.question, item.answer) for item in read(path, **changes)]


def problem(path: Path, **changes: Any) -> str:
    """What is said of the table, in one line."""
    with pytest.raises(ConfigError) as caught:
        read(path, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- kinds of files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_every_kind_of_file_gives_the_same_rows_and_says_where_they_are(tmp_path: Path, suffix: str) -> None:
    rows = [{"question": f"q{i}", "answer": f"a{i}", "more": i} for i in range(3)]
    path = written(tmp_path / f"d{suffix}", rows)
    items = read(path)
    assert [(item.question, item.answer, item.options) for item in items] == [(f"q{i}", f"a{i}", ()) for i in range(3)]
    unit = "line" if suffix == ".jsonl" else "row"
    assert [item.where for item in items] == [f"{path}, {unit} {i}" for i in (1, 2, 3)]


def test_the_rows_of_several_files_follow_one_another(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "1.jsonl", {"question": "q1", "answer": "a"})
    second = written(tmp_path / "2.parquet", [{"question": "q2", "answer": "b"}])
    items = read_table(table(first, second), "domain.data")
    assert [item.question for item in items] == ["q1", "q2"]


def test_lines_end_at_newlines_only_and_blank_ones_do_not_count(tmp_path: Path) -> None:
    odd = "a\u2028b\u0085c\u2029d"
    text = json.dumps({"question": odd, "answer": "x"}, ensure_ascii=False)
    path = tmp_path / "d.jsonl"
    path.write_bytes(f'\n{text}\r\n \n{{"question": "q",\x20"answer": "y"}}'.encode())
    assert pairs(path) == [(odd, "x"), ("q", "y")]


def test_a_json_file_may_hold_its_rows_under_a_key(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"medqa": [ROW], "medmcqa": [{"question": "r", "answer": "b"}]}))
    assert pairs(path, key="medmcqa") == [("r", "b")]


def test_a_key_that_is_not_in_a_json_file_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"medqa": [ROW], "lancet": [ROW]}))
    said = problem(path, key="medqq")
    assert said.startswith(f"domain.data.key='medqq' of {path} is unknown; did you mean 'medqa'")
    assert "lancet" in said
    assert "must be a list of rows, or say by domain.data.key where in it they are (medqa, lancet)" in problem(path)


@pytest.mark.parametrize(
    ("name", "content", "needle"),
    [
        ("d.jsonl", b"{broken\n", "is not JSON in line 1 (Expecting property name enclosed in double quotes): '{br"),
        ("d.jsonl", b'{"question": "q", "answer": "a"}\n\n{"question": "q", "ans', "is not JSON in line 3 ("),
        ("d.jsonl", b"[1]\n", "must hold an object in line 1, not '[1]'"),
        ("d.jsonl", b'{"question": "\xff", "answer": "a"}\n', "is not UTF-8 in line 1 (invalid start byte)"),
        ("d.json", b'[{"question": "\xff", "answer": "a"}]', "is not UTF-8 in it (invalid start byte)"),
        ("d.json", b"[1", "is not JSON in it ("),
        ("d.json", b"[[1]]", "must hold an object in row 1, not '[1]'"),
        ("d.json", b"3", "must be a list of rows"),
        ("d.parquet", b"PAR1 and nothing more", "cannot be read as parquet: "),
        ("d.csv", b"question,answer\n", "has an unknown suffix: .jsonl, .json, .parquet can be read"),
        ("d.jsonl", b"", "holds no rows"),
        ("d.jsonl", b" \n\n", "holds no rows"),
        ("d.json", b"[]", "holds no rows"),
    ],
)
def test_a_bad_file_is_named_with_the_place_in_it(tmp_path: Path, name: str, content: bytes, needle: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    said = problem(path)
    assert needle in said and said.startswith("domain.data") and str(path) in said


def test_a_long_bad_line_is_shown_where_it_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"question": "' + "x" * 5000 + '", "answer": oops}\n')
    said = problem(path)
    assert "oops" in said and len(said) < 400


# --- whether they are the files that were planned with ----------------------------------------------------------------


def test_a_file_that_changed_or_is_gone_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", ROW)
    planned = table(path)
    jsonl(path, {"question": "q", "answer": "b"})
    with pytest.raises(StoreError, match=r"d\.jsonl has changed since it was planned \(digest \w{16}, not \w{16}\)"):
        read_table(planned, "domain.data")
    path.unlink()
    with pytest.raises(ConfigError, match=r"benchmark\.data\.path=.*d\.jsonl' is not a file$"):
        read_table(planned, "benchmark.data")


def test_a_file_of_the_hub_that_is_gone_is_named_with_what_brings_it(tmp_path: Path) -> None:
    of_the_hub = table(tmp_path / "d.jsonl", path="", hub="org/data", files="*.jsonl")
    with pytest.raises(ConfigError, match=r"domain\.data\.hub=.*' is not a file; `bll fetch` brings org/data here"):
        read_table(of_the_hub, "domain.data")


def test_another_number_of_rows_than_the_declared_one_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", ROW, ROW)
    assert len(read(path, size=2)) == 2
    assert problem(path, size=3) == f"domain.data.size=3 is not how many rows there are: 2 in {path}"


# --- columns ----------------------------------------------------------------------------------------------------------

NESTED = {
    "extra": {"question": "q", "deep": {"text": "d"}},
    "answers": ["first", "second"],
    "solution": "so \\boxed{1} and then \\boxed{\\frac{1}{2}}.",
    "turns": [{"text": "t"}],
}


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("extra.question", "q"),
        ("extra.deep.text", "d"),
        ("answers[1]", "second"),
        ("turns[0].text", "t"),
        ("solution|last_box", "\\frac{1}{2}"),
    ],
)
def test_a_column_reaches_into_structs_lists_and_boxes(tmp_path: Path, suffix: str, column: str, value: str) -> None:
    path = written(tmp_path / f"d{suffix}", [NESTED])
    assert pairs(path, columns={"question": "extra.question", "answer": column}) == [("q", value)]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("column", "needle"),
    [
        ("solutoin", "is not there; did you mean 'solution'"),
        ("extra.questoin", "is not there; did you mean 'question'"),
        ("answers[2]", "is not there"),
        ("answers.first", "is not there"),
        ("extra[0]", "is not there"),
        ("solution.text", "is not there"),
        ("answers[0]|last_box", "finds no \\boxed{} in"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, suffix: str, column: str, needle: str
) -> None:
    path = written(tmp_path / f"d{suffix}", [NESTED])
    said = problem(path, columns={"question": "extra.question", "answer": column})
    assert said.startswith(f"domain.data.columns.answer={column!r} ") and needle in said
    assert str(path) in said


def test_a_column_that_only_some_rows_have_is_named_with_the_first_that_has_not(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", ROW, {"question": "q"}, {"question": "r"})
    assert problem(path).endswith(f"(in {path}, line 2)")


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (27.0, "27"), (-3.0, "-3"), (2.5, "2.5"), (7, "7"), (1e15, "1000000000000000"), (" a ", " a ")],
)
def test_numbers_become_text_and_whole_ones_lose_their_point(tmp_path: Path, value: Any, text: str) -> None:
    for suffix in (".jsonl", ".parquet"):
        path = written(tmp_path / f"d{suffix}", [{"question": "q", "answer": value}])
        assert pairs(path) == [("q", text)]


@pytest.mark.parametrize("value", [None, True, ["a"], {"a": 1}, math.nan, math.inf])
def test_what_is_neither_text_nor_number_is_refused(tmp_path: Path, value: Any) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"question": "q", "answer": value})
    said = problem(path)
    assert said.startswith("domain.data.columns.answer='answer' must be a string or a number, not ")
    assert said.endswith(f"(in {path}, line 1)")


@pytest.mark.parametrize("ours", ["question", "answer"])
@pytest.mark.parametrize("value", ["", " \n"])
def test_an_empty_question_or_answer_is_refused(tmp_path: Path, ours: str, value: str) -> None:
    path = jsonl(tmp_path / "d.jsonl", ROW, ROW | {ours: value})
    assert problem(path) == f"domain.data.columns.{ours}={ours!r} is empty (in {path}, line 2)"


def test_an_id_that_occurs_twice_is_named_with_both_places(tmp_path: Path) -> None:
    columns = {"question": "question", "answer": "answer", "id": "number"}
    rows = [ROW | {"number": number} for number in (1, 2, 1)]
    assert len(read(jsonl(tmp_path / "two.jsonl", *rows[:2]), columns=columns)) == 2
    path = jsonl(tmp_path / "d.jsonl", *rows)
    said = problem(path, columns=columns)
    assert said == f"domain.data.columns.id='number' has '1' twice, in {path}, line 1 and {path}, line 3"


# --- options ----------------------------------------------------------------------------------------------------------

CHOICE = {"question": "question", "answer": "answer", "options": "options"}


@pytest.mark.parametrize("options", [{"A": "heart", "B": "lung"}, ["heart", "lung"]])
def test_options_come_with_their_letters_from_a_struct_or_a_list(tmp_path: Path, options: Any) -> None:
    for suffix in (".jsonl", ".parquet"):
        path = written(tmp_path / f"d{suffix}", [{"question": "q", "answer": "B", "options": options}])
        (item,) = read(path, columns=CHOICE)
        assert (item.answer, item.options) == ("B", (("A", "heart"), ("B", "lung")))


def test_a_parquet_file_gives_each_row_the_options_that_it_has(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "A", "options": {"A": "x", "B": "y", "C": None}}]
    rows += [{"question": "r", "answer": "C", "options": {"A": "x", "B": "y", "C": "z"}}]
    items = read(written(tmp_path / "d.parquet", rows), columns=CHOICE)
    assert [len(item.options) for item in items] == [2, 3]


def test_an_answer_that_is_none_of_the_options_is_refused(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "C", "options": {"A": "x", "B": "y"}}]
    path = jsonl(tmp_path / "d.jsonl", *rows)
    assert problem(path, columns=CHOICE) == (
        f"domain.data.columns.answer='answer' holds 'C', which is not among the options A, B (in {path}, line 1)"
    )


@pytest.mark.parametrize("options", ["A. yes B. no", 3, True])
def test_options_that_are_neither_a_struct_nor_a_list_are_refused(tmp_path: Path, options: Any) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"question": "q", "answer": "A", "options": options})
    assert problem(path, columns=CHOICE).startswith("domain.data.columns.options='options' ")


# --- the last box -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("\\boxed{1}", "1"),
        ("a \\boxed{1} b \\boxed{ 2 } c", "2"),
        ("\\boxed{\\frac{a}{b}}", "\\frac{a}{b}"),
        ("\\boxed{}", ""),
        ("\\boxed{1", None),
        ("boxed{1}", None),
        ("", None),
    ],
)
def test_the_last_box_is_read_with_its_braces_balanced(text: str, inside: str | None) -> None:
    assert last_box(text) == inside


def in_braces(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(inner, max_size=3).map(lambda parts: f"{{{''.join(parts)}}}")


@given(st.recursive(st.text("ab \\", max_size=4), in_braces))
def test_any_balanced_text_comes_back_out_of_its_box(inside: str) -> None:
    assert last_box(f"text {{ \\boxed{{{inside}}} and so on }}") == inside.strip()
