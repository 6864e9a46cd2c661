"""What a launch reads from outside is looked at before anything is written: is it here, and can it be used?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import make_cell, table

from bll_sweeps.cluster.inputs import check, missing, missing_text, of_the_hub
from bll_sweeps.cluster.launch import declare, prepare
from bll_sweeps.errors import ConfigError, UsageError
from bll_sweeps.grid.axes import Backbone, Table, to_plain
from bll_sweeps.grid.cell import Cell
from bll_sweeps.grid.hub import Hub
from bll_sweeps.grid.plan import Plan, State, plan
from bll_sweeps.grid.schema.resolve import ResolvedCell
from bll_sweeps.grid.settings import Execution, Tracker
from bll_sweeps.store.layout import Layout
from bll_sweeps.training import rows

UNLOCKED = Backbone(name="llama", source="hub", hub="meta-llama/Llama-3.1-8B", parameters=8 * 10**9)
ROWS = [{"question": f"q{i}", "answer": "a"} for i in range(3)]


def jsonl(path: Path, *of: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in of))
    return path


def on_files(training: Table, questions: Table, **changes: Any) -> Cell:
    domain = {"domain.source": "table", "domain.data": to_plain(training), "domain.lab": None, "domain.rows": 0}
    return make_cell(**domain, **{"benchmark.source": "table", "benchmark.data": to_plain(questions)}, **changes)


def planned(*cells: Cell, done: str = "") -> Plan:
    """Nothing is done but the jobs of the kinds in `done`."""

    def state(job: str) -> State:
        return "done" if job.partition("-")[0] in done.split() else "new"

    return plan(cells, state)


def launch(root: Path, *cells: Cell) -> None:
    how = (Execution(name="e"), Tracker(name="off"), root, Hub(root / "no.lock"))
    declare("mine", prepare([ResolvedCell(cell, *how) for cell in cells]), ["bll", "launch"])


def of_hub(name: str, path: Path | None = None) -> Table:
    """A data set of the hub; locked if there is a path."""
    found = {"paths": (str(path),), "digest": table(path).digest} if path else {}
    return Table(hub=name, files="*.jsonl", **found)


# --- what is not here -------------------------------------------------------------------------------------------------


def test_a_model_that_is_not_locked_is_refused_by_name_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        launch(tmp_path / "runs", replace(make_cell(), backbone=UNLOCKED))
    assert str(caught.value) == (
        "1 model or data set of the hub is not here yet (meta-llama/Llama-3.1-8B): "
        "`bll fetch` with the same arguments brings them"
    )
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_locked_model_is_here_with_all_its_weights_and_not_before(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    locked = replace(make_cell(), backbone=replace(UNLOCKED, path=str(folder), digest="1" * 64))
    assert missing(planned(locked)) == [UNLOCKED.hub]
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "1.safetensors"}}))
    assert missing(planned(locked)) == [UNLOCKED.hub]  # a fetch was interrupted
    (folder / "1.safetensors").touch()
    assert missing(planned(locked)) == []


def test_data_sets_that_are_not_locked_or_not_here_are_missing(tmp_path: Path) -> None:
    here, gone = jsonl(tmp_path / "here.jsonl", *ROWS), jsonl(tmp_path / "gone.jsonl", *ROWS)
    cells = [
        on_files(of_hub("a/unlocked"), of_hub("b/here", here)),
        on_files(of_hub("c/gone", gone), of_hub("d/unlocked")),
    ]
    gone.unlink()
    assert set(missing(planned(*cells))) == {"a/unlocked", "c/gone", "d/unlocked"}


def test_only_what_jobs_to_run_read_has_to_be_here() -> None:
    cell = replace(on_files(of_hub("a/train"), of_hub("a/test")), backbone=UNLOCKED)
    assert set(missing(planned(cell))) == {UNLOCKED.hub, "a/train", "a/test"}
    assert set(missing(planned(cell, done="prior train"))) == {UNLOCKED.hub, "a/test"}
    assert missing(planned(cell, done="prior train evaluate")) == []
    assert missing(planned(make_cell())) == []


def test_of_many_missing_some_are_named() -> None:
    assert missing_text([f"org/{i}" for i in range(6)]).startswith(
        "6 models and data sets of the hub are not here yet (org/0, org/1, org/2, org/3 and 2 more): "
    )


def test_what_to_fetch_is_named_once_with_its_revision() -> None:
    cell = replace(on_files(of_hub("a/train"), of_hub("a/test")), backbone=UNLOCKED)
    other = replace(cell, backbone=replace(UNLOCKED, revision="v1"), seed=3)
    models, tables = of_the_hub([cell, cell, other, make_cell()])
    assert models == [(UNLOCKED.hub, "main"), (UNLOCKED.hub, "v1")]
    assert tables == [("a/train", "*.jsonl", "main"), ("a/test", "*.jsonl", "main")]


# --- what cannot be used ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["domain", "benchmark"])
def test_a_file_that_cannot_be_used_is_named_before_anything_is_written(tmp_path: Path, which: str) -> None:
    good, bad = jsonl(tmp_path / "good.jsonl", *ROWS), jsonl(tmp_path / "bad.jsonl", *ROWS, {"question": "q"})
    cell = on_files(*(table(bad if which == key else good) for key in ("domain", "benchmark")))
    with pytest.raises(ConfigError, match=rf"{which}\.data\.columns\.answer='answer' is not there.*bad.jsonl, line 4"):
        launch(tmp_path / "runs", cell)
    assert not (tmp_path / "runs" / "jobs").exists() and not (tmp_path / "runs" / "sweeps").exists()


def test_a_table_is_read_once_in_a_store_and_again_if_it_is_read_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, str]] = []
    real = rows.read_table
    monkeypatch.setattr(rows, "read_table", lambda data, key: read.append((key, data.path)) or real(data, key))
    training, test = (jsonl(tmp_path / f"{name}.jsonl", *ROWS[:count]) for name, count in (("train", 3), ("test", 2)))
    cells = [on_files(table(training), table(test), seed=seed) for seed in (0, 1)]
    layout = Layout(tmp_path / "runs")
    check(planned(*cells), layout)
    assert read == [("domain.data", str(training)), ("benchmark.data", str(test))]
    check(planned(*cells), layout)
    assert len(read) == 2
    columns = {"question": "answer", "answer": "question"}
    check(planned(on_files(table(training, columns=columns), table(test))), layout)
    assert read[2:] == [("domain.data", str(training))]
    check(planned(cells[0]), Layout(tmp_path / "other"))
    assert len(read) == 5


def test_another_size_is_judged_although_the_table_was_found_good(tmp_path: Path) -> None:
    path, layout = jsonl(tmp_path / "d.jsonl", *ROWS), Layout(tmp_path / "runs")
    check(planned(on_files(table(path), table(path))), layout)
    with pytest.raises(ConfigError, match=r"domain\.data\.size=4 is not how many rows there are: 3"):
        check(planned(on_files(table(path, size=4), table(path))), layout)


def test_repeated_questions_and_too_few_rows_are_named_before_anything_is_launched(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", *ROWS)
    twice = jsonl(tmp_path / "twice.jsonl", *ROWS, ROWS[0])
    for change, said in (
        ({"benchmark.data": table(twice)}, r"benchmark\.data\.copies=1 must be how often"),
        ({"benchmark.questions": 4}, r"benchmark\.questions=4 is more than there are: 3"),
        ({"domain.rows": 4}, r"domain\.rows=4 is more than the 3 rows"),
    ):
        cell = on_files(table(path), table(path))
        for key, value in change.items():
            axis, field = key.split(".")
            cell = replace(cell, **{axis: replace(getattr(cell, axis), **{field: value})})
        with pytest.raises(ConfigError, match=said):
            launch(tmp_path / "runs", cell)
