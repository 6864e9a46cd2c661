"""`bll gc`: what of a run root may go, and its removal; and the release of weights once they are evaluated.

Records, specs, manifests and reports never go, nor anything of a job with a live claim, nor what an unfinished job may
go on from or need. Whatever belongs to a finished job is looked at again, and removed, under that job's claim.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

from bll_sweeps.cluster import on_disk, words
from bll_sweeps.cluster.status import read_manifest
from bll_sweeps.errors import StoreError
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.claims import acquire, is_alive, live_claim
from bll_sweeps.store.layout import Attempt, JobFiles, Layout
from bll_sweeps.store.pruning import delete, prune, set_aside
from bll_sweeps.store.records import Record, is_done, read_json, read_record

log = logging.getLogger("bll")

DAY_S = 86400.0
WEEK_S = 7 * DAY_S
WEIGHTS = "model"  # the output of a training that evaluations load
_TEMPORARY = re.compile(r"\..+\.\d+(\.[0-9a-f]{8})?\.tmp")  # .<name>.<pid>.<random>.tmp, of files and of folders

Reason = Literal[
    "states", "attempts", "weights", "temporaries", "code", "submissions", "workers", "prepared", "analysis", "trash"
]
REASONS: tuple[Reason, ...] = get_args(Reason)
IN_WORDS: dict[Reason, str] = {
    "states": "checkpoints and journals of finished jobs",
    "attempts": "attempts whose result does not count",
    "weights": "weights of evaluated trainings",
    "temporaries": "temporary files older than a day",
    "code": "code that no submission runs from",
    "submissions": "scripts and logs of submissions that ended over a week ago",
    "workers": "folders of workers that ended over a week ago",
    "prepared": "training sets as token ids that no job read for a week",
    "analysis": "what the analysis keeps of records that it read",
    "trash": "what an interrupted removal left",
}


@dataclass(frozen=True)
class Item:
    """A file or folder that may go. `owner`: the job it belongs to, or whose claim guards it."""

    reason: Reason
    path: Path
    owner: JobFiles | None = None

    @property
    def bytes(self) -> int:
        return on_disk.size(self.path)


@dataclass(frozen=True)
class Collected:
    """What may go, or (unless `dry_run`) has gone, each with its size; `problems` say what could not be removed."""

    layout: Layout
    dry_run: bool
    items: list[tuple[Item, int]]
    problems: list[str]

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.items)

    def of(self, reason: Reason) -> list[tuple[Item, int]]:
        """The items of one class, the largest first."""
        return sorted((x for x in self.items if x[0].reason == reason), key=lambda x: (-x[1], x[0].path))

    def plain(self) -> dict[str, Any]:
        """The shape of `bll gc --json`; sizes in bytes, paths relative to the run root."""
        classes = {reason: self.of(reason) for reason in REASONS}
        return {
            "root": str(self.layout.root),
            "dry_run": self.dry_run,
            "items": len(self.items),
            "bytes": self.bytes,
            "classes": {
                reason: {
                    "bytes": sum(size for _, size in items),
                    "paths": {item.path.relative_to(self.layout.root).as_posix(): size for item, size in items},
                }
                for reason, items in classes.items()
            },
            "problems": self.problems,
        }

    def text(self, largest: int = 3) -> str:
        """A line per class with its sum, below it its largest items, and the total."""
        lines = []
        for reason in REASONS:
            items = self.of(reason)
            if not items:
                continue
            lines.append(f"{words.size(sum(size for _, size in items)):>10}  {len(items):5}  {IN_WORDS[reason]}")
            paths = [(item.path.relative_to(self.layout.root), size) for item, size in items]
            lines += [f"{'':19}{words.size(size):>10}  {path}" for path, size in paths[:largest]]
            if len(paths) > largest:
                lines.append(f"{'':31}... and {len(paths) - largest} more (--json names all)")
        verb = "may go; without --dry-run it does" if self.dry_run else "removed"
        lines.append(f"{words.size(self.bytes):>10}  {len(self.items):5}  {verb} ({self.layout.root})")
        return "\n".join(lines)


def collect(layout: Layout, *, dry_run: bool = False, weights: bool = False, caches: bool = False) -> Collected:
    """Finds what may go and, unless `dry_run`, removes it. `weights`: also those of evaluated trainings that were to
    keep them. `caches`: also what the analysis keeps of sweeps that are there.

    StoreError, before anything is removed, for a manifest that cannot be read: what it needs is then unknown.
    """
    found = [(item, item.bytes) for item in find(layout, weights=weights, caches=caches)]
    if dry_run:
        return Collected(layout, True, found, [])
    gone: list[tuple[Item, int]] = []
    problems: list[str] = []
    for owner, group in groupby(found, key=lambda x: x[0].owner):
        sizes = dict(group)
        try:
            removed = _remove_guarded(layout, owner, set(sizes), weights) if owner else _remove(layout, sizes)
            gone += [(item, sizes[item]) for item in removed]
        except (OSError, StoreError) as error:
            problems.append(str(error))
    return Collected(layout, False, gone, problems)


def release_weights(layout: Layout, ended: Iterable[str]) -> None:
    """Removes the weights of trainings that keep them only until they are evaluated, and now are. `ended`: ids of jobs
    that have just ended, of whatever kind. Never raises: `bll gc` catches up.
    """
    try:
        done = [layout.job(job_id) for job_id in ended if is_done(layout.job(job_id))]
        for parent in sorted({parent for files in done for parent in read_spec(files).job.parents}):
            if item := _weights(layout, layout.job(parent), every=False):
                _remove_guarded(layout, layout.job(parent), {item}, every_weights=False)
    except Exception:
        log.exception("weights that were evaluated could not be removed; `bll gc` tries again")


# --- finding ----------------------------------------------------------------------------------------------------------


def find(layout: Layout, *, weights: bool = False, caches: bool = False) -> list[Item]:
    """All that may go at the moment, what belongs to one job together. Changes nothing."""
    _children(layout)  # complains about an unreadable manifest before anything else
    out: list[Item] = []
    for folder in on_disk.folders(layout.jobs):
        files = layout.job(folder.name)
        items = list(_of_job(layout, files, weights))
        if items and not live_claim(files):
            out += items
    if on_disk.folders(layout.snapshots) and not live_claim(layout.launching):
        out += _code(layout)
    out += [*_submissions(layout), *_pools(layout), *_prepared(layout), *_analysis(layout, caches)]
    for folder in on_disk.folders(layout.root):
        if folder not in (layout.jobs, layout.trash):
            out += _temporaries([folder, *on_disk.folders(folder)])
    out += [Item("trash", path) for path in on_disk.entries(layout.trash)]
    going = {item.path for item in out}
    return [item for item in out if not going.intersection(item.path.parents)]


def _of_job(layout: Layout, files: JobFiles, every_weights: bool) -> Iterator[Item]:
    """What of a job may go, whether or not its claim is live. Nothing of one whose record is damaged, but temporaries:
    `bll retry` needs the rest.
    """
    attempts = [attempt for attempt in files.attempts() if not attempt.folder.is_symlink()]
    record = _record(files)
    if record is not None and _keep(files) != "all":
        yield from _superseded(files, record, attempts)
    if weights := _weights(layout, files, every_weights):
        yield weights
    if not is_done(files):
        yield from (Item("attempts", attempt.folder, files) for attempt in _withdrawn(files, attempts))
    inside = [folder for attempt in attempts for folder in (attempt.folder, attempt.checkpoints)]
    yield from _temporaries([files.folder, *inside], files)


def _superseded(files: JobFiles, record: Record, attempts: list[Attempt]) -> list[Item]:
    """What a done job left on its way: states to resume from, and attempts other than the one that DONE names."""
    out = [Item("attempts", a.folder, files) for a in attempts if a.folder != record.attempt.folder]
    states = [path for path in (record.attempt.checkpoints, record.attempt.journal) if path.exists()]
    return out + [Item("states", path, files) for path in states if not path.is_symlink()]


def _withdrawn(files: JobFiles, attempts: list[Attempt]) -> list[Attempt]:
    """Attempts of an unfinished job whose result was taken back, if nothing can go on from them. Never the newest: its
    number and its log are what the next attempt and `bll logs` look for.
    """
    taken_back = set()
    for path in on_disk.entries(files.folder):
        if re.fullmatch(r"withdrawn\.\w+\.json", path.name):
            with contextlib.suppress(StoreError):
                taken_back.add(Path(read_json(path)["was"] or "").parent.name)
    return [
        attempt
        for attempt in attempts[:-1]
        if attempt.folder.name in taken_back and not attempt.checkpoints.exists() and not attempt.journal.exists()
    ]


def _weights(layout: Layout, files: JobFiles, every: bool) -> Item | None:
    """The weights of a done training, if all evaluations that any launch declares on it are done, and it was to keep
    them only until then, `every` training's are to go, or a removal was interrupted after its mark.
    """
    record = _record(files) if files.id.startswith("train-") else None
    if record is None or not (every or WEIGHTS in record.pruned() or _keep(files) == "until_evaluated"):
        return None
    folder = record.attempt.output(WEIGHTS)
    return Item("weights", folder, files) if on_disk.is_folder(folder) and _evaluated(layout, files) else None


def _evaluated(layout: Layout, files: JobFiles) -> bool:
    children = _children(layout).get(files.id, set())
    return bool(children) and all(is_done(layout.job(child)) for child in children)


def _children(layout: Layout) -> dict[str, set[str]]:
    """Job -> the jobs that need its outputs, over all launches of all sweeps."""
    launches = []
    for sweep in layout.sweeps():
        files = layout.sweep(sweep)
        launches += [(sweep, n, files.manifest(n).stat().st_mtime_ns) for n in files.launches()]
    return _merged(layout, tuple(launches))


@lru_cache(maxsize=1)
def _merged(layout: Layout, launches: tuple[tuple[str, int, int], ...]) -> dict[str, set[str]]:
    out: dict[str, set[str]] = {}
    for launch in launches:
        for child, parents in _parents(layout, *launch).items():
            for parent in parents:
                out.setdefault(parent, set()).add(child)
    return out


@cache
def _parents(layout: Layout, sweep: str, launch: int, mtime_ns: int) -> dict[str, list[str]]:
    """Each job's parents, of a manifest, which never changes: a worker asks after every batch of evaluations."""
    jobs = read_manifest(layout, sweep, launch)["jobs"]
    return {job_id: entry["parents"] for job_id, entry in jobs.items()}


def _code(layout: Layout) -> list[Item]:
    """Snapshots that no submission which may still run names. None, if one of these does not say what it runs."""
    alive = [s for s in layout.submissions() if s.intent.exists() and not s.ended.exists()]
    used = {read_json(submission.intent).get("code") for submission in alive}
    sweeps = [layout.sweep(name) for name in layout.sweeps()]
    markers = (sweep.unsubmitted(n) for sweep in sweeps for n in sweep.launches())
    used |= {read_json(marker)["code"] for marker in markers if marker.exists()}  # what workers will yet submit
    if None in used:
        return []
    folders = [
        folder for folder in on_disk.folders(layout.snapshots) if on_disk.ours(folder) and folder.name not in used
    ]
    return [Item("code", folder, layout.launching) for folder in folders if not _TEMPORARY.fullmatch(folder.name)]


def _submissions(layout: Layout) -> Iterator[Item]:
    for submission in layout.submissions():
        if on_disk.ours(submission.private) and submission.ended.exists() and on_disk.age_s(submission.ended) > WEEK_S:
            yield Item("submissions", submission.private)


def _pools(layout: Layout) -> Iterator[Item]:
    """Pools of workers that have been silent for a week and whose launcher is certainly dead."""
    for pool in layout.worker_pools():
        if on_disk.ours(pool.folder) and min(map(on_disk.age_s, [pool.folder, *on_disk.entries(pool.folder)])) > WEEK_S:
            try:
                alive = is_alive(read_json(pool.launcher)["owner"])
            except (FileNotFoundError, StoreError, KeyError):
                alive = False  # it died while it started
            if alive is False:
                yield Item("workers", pool.folder)


def _prepared(layout: Layout) -> Iterator[Item]:
    """They are made again in no time; a job that has read one needs it no more."""
    for folder in on_disk.folders(layout.prepared_sets):
        if on_disk.ours(folder) and not _TEMPORARY.fullmatch(folder.name) and on_disk.age_s(folder) > WEEK_S:
            yield Item("prepared", folder)


def _analysis(layout: Layout, every: bool) -> Iterator[Item]:
    """Snapshots of sweeps that are gone, or of `every` one, and what a report that was killed was writing. A report
    that is reading one reads the records instead.
    """
    sweeps = set(layout.sweeps())
    for folder in on_disk.folders(layout.analysis_caches):
        if on_disk.ours(folder) and (every or folder.name not in sweeps):
            yield Item("analysis", folder)
        else:
            yield from _temporaries([folder])


def _temporaries(folders: Iterable[Path], owner: JobFiles | None = None) -> Iterator[Item]:
    """What processes that were killed over a day ago were writing in `folders`."""
    for folder in folders:
        for path in on_disk.entries(folder) if os.access(folder, os.R_OK | os.X_OK) else ():
            if _TEMPORARY.fullmatch(path.name) and on_disk.age_s(path) > DAY_S:
                yield Item("temporaries", path, owner)


# --- removing ---------------------------------------------------------------------------------------------------------


def _remove_guarded(layout: Layout, owner: JobFiles, items: set[Item], every_weights: bool) -> list[Item]:
    """Removes those of the owner's `items` that still may go, while nobody can run it; these.

    A finished job is claimed for that. An unfinished one is not: a worker that just comes would leave it.
    """
    guarded = owner == layout.launching or is_done(owner)
    claim = acquire(owner) if guarded else None
    if claim is None and (guarded or live_claim(owner)):
        return []
    try:
        still = set(_code(layout) if owner == layout.launching else _of_job(layout, owner, every_weights))
        aside = {item: _set_aside(layout, item) for item in items & still}
    finally:
        if claim:
            claim.release()
    for path in filter(None, aside.values()):
        delete(path)  # takes its time, and needs no claim
    return [item for item, path in aside.items() if path]


def _set_aside(layout: Layout, item: Item) -> Path | None:
    if item.reason != "weights" or item.owner is None:
        return set_aside(layout, item.path)
    files = item.owner
    return prune(layout, files, WEIGHTS, needed=lambda: not _evaluated(layout, files))


def _remove(layout: Layout, items: Iterable[Item]) -> list[Item]:
    removed = []
    for item in items:
        path = item.path if item.reason == "trash" else set_aside(layout, item.path)
        if path:
            delete(path)
            removed.append(item)
    return removed


# --- the disk ---------------------------------------------------------------------------------------------------------


def _record(files: JobFiles) -> Record | None:
    """None for a job that is not done, or whose record or mark is damaged."""
    try:
        record = read_record(files)
        if record is not None:
            record.pruned()
        return record
    except (StoreError, OSError):
        return None


def _keep(files: JobFiles) -> str:
    """What its spec says is to stay of the job; all, if that cannot be read."""
    try:
        return read_json(files.spec)["execution"].get("keep", "weights")
    except (OSError, StoreError, KeyError, TypeError, AttributeError):
        return "all"
