"""Jobs -> what is submitted together. Pure.

job -> lane      jobs one after another in one process: the evaluations of a checkpoint, or one job
    -> element   lanes side by side in one allocation (`jobs_per_allocation`)
    -> bucket    elements of one kind and shape that wait for the same thing: one sbatch
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bll_sweeps.grid.cell import KINDS
from bll_sweeps.grid.resources import Shape

T = TypeVar("T")
Lane = tuple[str, ...]
Element = tuple[Lane, ...]


@dataclass(frozen=True)
class Waiting:
    """A job to submit: `parents` are those that are not done yet, `checkpoint` is what an evaluation loads."""

    id: str
    kind: str
    shape: Shape
    parents: tuple[str, ...] = ()
    checkpoint: str = ""


@dataclass(frozen=True, order=True)
class Place:
    """Where a job is in the queue: an element of a submission, or of a bucket that is yet to be submitted."""

    submission: str
    element: int


@dataclass(frozen=True)
class Bucket:
    """One array. `after[i]` are the places that element i waits for; `name` is unique among the buckets of a plan."""

    name: str
    kind: str
    shape: Shape  # of one element, all its lanes
    elements: tuple[Element, ...]
    after: tuple[tuple[Place, ...], ...]

    def places(self) -> dict[str, Place]:
        """Where each of its jobs is."""
        return {job: Place(self.name, i) for i, e in enumerate(self.elements) for lane in e for job in lane}

    def part(self, start: int, stop: int) -> Bucket:
        return dataclasses.replace(self, elements=self.elements[start:stop], after=self.after[start:stop])


def plan_buckets(
    waiting: Sequence[Waiting],
    queued: Mapping[str, Place],
    *,
    jobs_per_allocation: int = 1,
    max_elements: int = 1000,
    prefix: str = "",
) -> tuple[list[Bucket], list[str]]:
    """(buckets, parents' before children's; ids of jobs that must wait outside the queue).

    `queued`: places of jobs that are in the queue already. A job whose unfinished parent is neither there nor in a
    bucket cannot be given to SLURM: nothing would tell it when to start.
    """
    places = dict(queued)
    buckets: list[Bucket] = []
    left: list[str] = []
    for kind in KINDS:
        jobs = {job.id: job for job in waiting if job.kind == kind}
        groups: dict[object, list[Lane]] = {}
        for lane in _lanes(jobs.values()):
            first = jobs[lane[0]]
            if all(parent in places for parent in first.parents):
                groups.setdefault((first.shape, _waits_for(first, places)), []).append(lane)
            else:
                left += lane
        for lanes in _joined(groups, buckets):
            shape = jobs[lanes[0][0]].shape
            size = 1 if shape.ranks > 1 else jobs_per_allocation
            for part in _chunks(_elements(lanes, jobs, places, size), max_elements):
                name = f"{prefix}{kind}.{len(buckets)}"
                after = tuple(_after(element, jobs, places) for element in part)
                buckets.append(Bucket(name, kind, _scaled(shape, max(map(len, part))), tuple(part), after))
                places |= buckets[-1].places()
    return buckets, left


@dataclass(frozen=True)
class Dependency:
    """How an array waits. `afterok`: all elements for one; `aftercorr`: element i for element i of that submission;
    `own`: elements whose dependency is to be set one by one (where they have none, cleared).
    """

    afterok: Place | None = None
    aftercorr: str | None = None
    own: tuple[int, ...] = ()


def dependency(after: Sequence[tuple[Place, ...]], sizes: Mapping[str, int], packed: Collection[str]) -> Dependency:
    """How the array waits whose element i waits for `after[i]`. `sizes`: elements of each submission.

    Elements with several lanes (those of `packed` submissions) may fail in part, so what follows them starts whatever
    became of them and looks for itself: neither afterok nor aftercorr says that.
    """
    waiting = tuple(i for i, places in enumerate(after) if places)
    if any(place.submission in packed for places in after for place in places):
        return Dependency(own=waiting)
    first = after[0][0] if after[0] else None
    if first and all(places == (first,) for places in after):
        return Dependency(afterok=first)
    if first and 1 < sizes[first.submission] <= len(after):
        size = sizes[first.submission]
        if all(after[i] == (Place(first.submission, i),) for i in range(size)):
            return Dependency(aftercorr=first.submission, own=tuple(range(size, len(after))))
    return Dependency(own=waiting)


def _lanes(jobs: Iterable[Waiting]) -> list[Lane]:
    """Evaluations of one checkpoint run one after another in one process; other jobs alone."""
    lanes: dict[object, list[str]] = {}
    for job in jobs:
        lanes.setdefault((job.checkpoint, job.shape) if job.checkpoint else job.id, []).append(job.id)
    return [tuple(lane) for lane in lanes.values()]


def _waits_for(job: Waiting, places: Mapping[str, Place]) -> str | tuple[Place, ...]:
    """What the jobs of one array have in common: the array of trainings that they follow element by element, or else
    the one element that all of them wait for.
    """
    found = tuple(places[parent] for parent in job.parents)
    return found[0].submission if _follows_training(job) else found


def _joined(groups: Mapping[Any, list[Lane]], buckets: Sequence[Bucket]) -> list[list[Lane]]:
    """The groups' lanes; evaluations of a base model go with those of the trainings that start from it: one array."""
    starts = {bucket.name: bucket.after[0] for bucket in buckets if len(set(bucket.after)) == 1}
    out = {key: list(lanes) for key, lanes in groups.items() if isinstance(key[1], str)}
    for (shape, waits_for), lanes in groups.items():
        if not isinstance(waits_for, str):
            hosts = (key for key in out if key[0] == shape and starts.get(key[1]) == waits_for)
            out.setdefault(next(hosts, (shape, waits_for)), []).extend(lanes)
    return list(out.values())


def _follows_training(job: Waiting) -> bool:
    return job.kind == "evaluate" and any(parent.startswith("train-") for parent in job.parents)


def _elements(
    lanes: Sequence[Lane], jobs: Mapping[str, Waiting], places: Mapping[str, Place], size: int
) -> list[Element]:
    """Lanes, `size` to an element. Those that follow trainings keep the trainings' elements and their order."""
    following: dict[Place, list[Lane]] = {}
    others: list[Lane] = []
    for lane in lanes:
        job = jobs[lane[0]]
        (following.setdefault(places[job.parents[0]], []) if _follows_training(job) else others).append(lane)
    groups = [*(lanes for _, lanes in sorted(following.items())), others]
    return [tuple(part) for group in groups for part in _chunks(group, size)]


def _after(element: Element, jobs: Mapping[str, Waiting], places: Mapping[str, Place]) -> tuple[Place, ...]:
    return tuple(sorted({places[parent] for lane in element for job in lane for parent in jobs[job].parents}))


def _scaled(shape: Shape, lanes: int) -> Shape:
    """The allocation of `lanes` jobs of this shape side by side."""
    if lanes == 1:
        return shape
    memory = None if shape.memory_gib is None else shape.memory_gib * lanes
    gres = ",".join(_times(part, lanes) for part in shape.gres.split(",")) if shape.gres else ""
    return dataclasses.replace(shape, gpus=shape.gpus * lanes, cpus=shape.cpus * lanes, memory_gib=memory, gres=gres)


def _times(gres: str, number: int) -> str:
    """`gpu:a100:2` -> `gpu:a100:8`; without a count it is one."""
    name, _, count = gres.rpartition(":")
    return f"{name}:{int(count) * number}" if name and count.isdigit() else f"{gres}:{number}"


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
