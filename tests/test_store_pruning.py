"""Pruning: weights go, the job stays done; it runs again only if something needs them. A kill leaves nothing half."""

from __future__ import annotations

from pathlib import Path

import pytest

from bll_sweeps.errors import StoreError
from bll_sweeps.store.layout import JobFiles, Layout
from bll_sweeps.store.pruning import delete, prune, reopen_pruned, set_aside
from bll_sweeps.store.records import is_done, publish, read_record, write_record

PRETRAIN, TRAIN, EVALUATE = (f"{kind}-0123456789abcdef" for kind in ("pretrain", "train", "evaluate"))
PARENTS = {PRETRAIN: [], TRAIN: [PRETRAIN], EVALUATE: [TRAIN]}


def finish(layout: Layout, job_id: str, number: int = 1) -> JobFiles:
    files = layout.job(job_id)
    attempt = files.attempt(number)
    attempt.output("model").mkdir(parents=True)
    attempt.output("model").joinpath("weights.bin").write_text("weights")
    attempt.output("metrics.jsonl").write_text("{}\n")
    write_record(attempt, files.id, {"steps": 3}, ["model", "metrics.jsonl"])
    assert publish(files, attempt)
    return files


def prune_model(layout: Layout, job_id: str) -> None:
    aside = prune(layout, layout.job(job_id), "model", needed=lambda: False)
    assert aside
    delete(aside)


def test_a_pruned_output_is_said_to_be_pruned_and_the_others_are_still_there(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    files = finish(layout, TRAIN)
    before = files.attempt(1).record.read_bytes()
    prune_model(layout, TRAIN)
    record = read_record(files)
    assert record is not None
    assert record.pruned() == ["model"]
    assert list(record.kept()) == ["metrics.jsonl"]
    assert record.output("metrics.jsonl").read_text() == "{}\n"
    with pytest.raises(StoreError, match=r"was pruned to save disk; a launch that needs it trains train-\w+ anew"):
        record.output("model")
    assert not record.attempt.output("model").exists()
    assert record.attempt.record.read_bytes() == before
    assert list(layout.trash.iterdir()) == []


def test_what_is_needed_is_not_pruned(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    files = finish(layout, TRAIN)
    assert prune(layout, files, "model", needed=lambda: True) is None
    assert not files.attempt(1).pruned.exists()
    assert prune(layout, layout.job("train-unknown"), "model", needed=lambda: False) is None


def test_a_launch_that_declares_while_the_mark_is_written_keeps_its_weights(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    files = finish(layout, TRAIN)
    answers = iter([False, True])
    assert prune(layout, files, "model", needed=lambda: next(answers)) is None
    record = read_record(files)
    assert record is not None
    assert record.pruned() == []
    assert record.output("model").is_dir()
    assert reopen_pruned(layout, PARENTS) == []


def test_a_removal_that_was_killed_after_its_mark_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path)
    files = finish(layout, TRAIN)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bll_sweeps.store.pruning.set_aside", killed)
        prune(layout, files, "model", needed=lambda: False)
    record = read_record(files)
    assert record is not None
    with pytest.raises(StoreError, match="was pruned"):
        record.output("model")
    prune_model(layout, TRAIN)
    assert not record.attempt.output("model").exists()


def test_a_pruned_job_is_reopened_only_if_an_unfinished_one_needs_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for job_id in PARENTS:
        finish(layout, job_id)
    prune_model(layout, TRAIN)
    assert reopen_pruned(layout, PARENTS) == []
    layout.job(EVALUATE).done.unlink()
    assert reopen_pruned(layout, PARENTS) == [TRAIN]
    assert not is_done(layout.job(TRAIN))
    assert is_done(layout.job(PRETRAIN))  # its weights are there
    assert reopen_pruned(layout, PARENTS) == []


def test_a_pruned_parent_of_a_reopened_job_is_reopened_too(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    finish(layout, PRETRAIN)
    finish(layout, TRAIN)
    prune_model(layout, PRETRAIN)
    assert reopen_pruned(layout, {PRETRAIN: [], TRAIN: [PRETRAIN]}) == []
    prune_model(layout, TRAIN)
    assert reopen_pruned(layout, PARENTS) == [TRAIN, PRETRAIN]


def test_a_job_that_ran_again_is_not_pruned(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    finish(layout, PRETRAIN)
    finish(layout, TRAIN)
    prune_model(layout, TRAIN)
    assert reopen_pruned(layout, PARENTS) == [TRAIN]
    record = read_record(finish(layout, TRAIN, number=2))
    assert record is not None
    assert record.output("model").is_dir()
    assert record.attempt.record.read_bytes() == layout.job(TRAIN).attempt(1).record.read_bytes()


def test_nothing_is_removed_through_a_link(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    finish(Layout(tmp_path / "elsewhere"), TRAIN)
    layout.root.mkdir()
    layout.jobs.symlink_to(tmp_path / "elsewhere" / "jobs")
    model = layout.job(TRAIN).attempt(1).output("model")
    with pytest.raises(StoreError, match="is a link"):
        set_aside(layout, model)
    assert model.joinpath("weights.bin").exists()


def test_a_link_is_removed_and_what_it_points_to_stays(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    (tmp_path / "elsewhere").mkdir()
    layout.jobs.mkdir(parents=True)
    link = layout.jobs / "link"
    link.symlink_to(tmp_path / "elsewhere")
    aside = set_aside(layout, link)
    assert aside
    delete(aside)
    assert (tmp_path / "elsewhere").is_dir()
    assert not link.is_symlink()
    assert set_aside(layout, link) is None  # gone already
