"""Taking things off the disk. What goes is renamed into trash/ in one step and deleted there, so that a kill at any
instant leaves nothing half removed; what it leaves in trash/ the next `bll gc` deletes.

A done job whose weights were removed is *pruned*: attempt.<n>/pruned.json names them, its record stays and counts. Only
when an unfinished job needs them is its DONE withdrawn, and the job runs again, to the same bytes.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bll_sweeps.errors import StoreError
from bll_sweeps.store.layout import JobFiles, Layout
from bll_sweeps.store.records import is_done, read_record, withdraw, write_json


def set_aside(layout: Layout, path: Path) -> Path | None:
    """Renames a file or folder of the run root into trash/; its path there, or None if it was gone already.

    StoreError if a folder on the way to it is a link: what lies outside the run root is not ours to remove.
    """
    for folder in (layout.trash, *path.parents):
        if layout.root in folder.parents and folder.is_symlink():
            raise StoreError(f"{path} is not removed: {folder} is a link, and may lead out of the run root")
    layout.trash.mkdir(exist_ok=True)
    aside = layout.trash / f"{path.name}.{secrets.token_hex(4)}"
    try:
        path.rename(aside)
    except FileNotFoundError:
        return None
    return aside


def delete(path: Path) -> None:
    """Deletes what was set aside; links are not followed. StoreError if something of it resists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)  # another may be deleting the same
    else:
        path.unlink(missing_ok=True)
    if os.path.lexists(path):
        raise StoreError(f"{path} cannot be deleted (in use elsewhere, or another user's?); `bll gc` tries again")


def prune(layout: Layout, files: JobFiles, name: str, needed: Callable[[], bool]) -> Path | None:
    """Marks the output folder `name` of a done job as pruned and sets it aside; what is then left to `delete`.

    The caller holds the job's claim, so that nobody else prunes or runs it meanwhile. The mark comes before the
    removal: a kill in between leaves a job that is pruned, not damaged. `needed` is asked again after the mark, while a
    launch writes its manifest before it looks for marks (`reopen_pruned`): of the two, the later one sees the other.
    """
    record = read_record(files)
    if record is None or needed():
        return None
    attempt, before = record.attempt, record.pruned()
    if name not in before:
        write_json(attempt.pruned, {"outputs": [*before, name]})
        if needed():
            write_json(attempt.pruned, {"outputs": before})
            return None
    return set_aside(layout, attempt.output(name))


def reopen_pruned(layout: Layout, parents: Mapping[str, Sequence[str]]) -> list[str]:
    """Withdraws the DONE of every pruned job that an unfinished one needs, so that it runs again; the ids of these.

    `parents`: those of each job of a launch, whose manifest is on disk already; parents come before their children.
    """
    reopened = []
    for job_id in reversed(list(parents)):  # a job that is reopened needs its own parents
        if is_done(layout.job(job_id)):
            continue
        for parent in parents[job_id]:
            record = read_record(layout.job(parent))
            if record is not None and record.pruned():
                withdraw(layout.job(parent), f"it was pruned, and {job_id} needs it")
                reopened.append(parent)
    return reopened
