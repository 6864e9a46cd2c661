"""Child processes that work for the analysis: the same answers and the same files as without them, whatever becomes of
them.
"""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from analysis.figures import save
from analysis.figures.save import FORMATS, Drawing, write_drawings
from analysis.figures.shapes import gradient_shapes
from analysis.theory.shapes import MAIN
from analysis.workers import WorkerEndedError, Workers

SHAPES = partial(gradient_shapes, MAIN, {})


def test_a_worker_answers_and_ends_with_the_block() -> None:
    with Workers(2) as workers:
        answers = [workers.submit(divmod, n, 7) for n in range(20)]
        assert [answer.result() for answer in answers] == [divmod(n, 7) for n in range(20)]
        children = {workers.submit(os.getpid).result() for _ in range(4)}
    assert os.getpid() not in children
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_what_a_worker_prints_is_not_taken_for_an_answer(capfd: pytest.CaptureFixture[str]) -> None:
    with Workers(1) as workers:
        assert workers.submit(print, "something").result() is None
    assert "something" in capfd.readouterr().err


def test_what_the_function_raises_is_raised() -> None:
    with Workers(1) as workers:
        with pytest.raises(ZeroDivisionError):
            workers.submit(divmod, 1, 0).result()
        assert workers.submit(divmod, 1, 1).result() == (1, 0)


def test_a_killed_worker_is_told_and_replaced() -> None:
    with Workers(1) as workers:
        first = workers.submit(os.getpid).result()
        with pytest.raises(WorkerEndedError):
            workers.submit(signal.raise_signal, signal.SIGKILL).result()
        assert workers.submit(os.getpid).result() != first


def _drawings(count: int) -> list[Drawing]:
    return [*(Drawing(f"shapes-{i}", SHAPES) for i in range(count)), Drawing("other", why="no data")]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_figures_by_workers_have_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = write_drawings(_drawings(2), tmp_path / "here")
    monkeypatch.setattr(save, "_WORTH", 2)
    monkeypatch.setattr(save, "cores", lambda: 2)
    there = write_drawings(_drawings(2), tmp_path / "there")
    assert [path.name for path in there.drawn] == [path.name for path in here.drawn] == ["shapes-0.png", "shapes-1.png"]
    assert there.absent == here.absent == {"other": "no data"}
    assert _files(tmp_path / "here") == _files(tmp_path / "there")
    assert len(_files(tmp_path / "there")) == 2 * len(FORMATS) + 1


def _fatal_elsewhere(parent: int) -> Any:
    """A figure that only this process can draw."""
    if os.getpid() != parent:
        signal.raise_signal(signal.SIGKILL)
    return SHAPES()


def test_figures_of_a_killed_worker_are_drawn_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save, "_WORTH", 2)
    monkeypatch.setattr(save, "cores", lambda: 2)
    drawings = [Drawing("fatal", partial(_fatal_elsewhere, os.getpid())), *_drawings(1)]
    written = write_drawings(drawings, tmp_path)
    assert [path.name for path in written.drawn] == ["fatal.png", "shapes-0.png"]
    assert (tmp_path / "fatal.svg").read_bytes() == (tmp_path / "shapes-0.svg").read_bytes()
