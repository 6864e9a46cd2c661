"""What is submitted together, for random plans: everything once, parents first, and dependencies say what is meant."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bll_sweeps.cluster.buckets import Bucket, Place, Waiting, dependency, plan_buckets
from bll_sweeps.grid.resources import Shape

SMALL, LARGE = Shape(cpus=2, memory_gib=1.5), Shape(gpus=2, cpus=4, gres="gpu:a:2,disk")
RANKS = Shape(nodes=2, tasks=2)


@dataclass
class Case:
    """Jobs to submit, places of jobs that are queued, and what is neither."""

    waiting: list[Waiting] = field(default_factory=list)
    queued: dict[str, Place] = field(default_factory=dict)
    backbones: int = 0

    @property
    def ids(self) -> list[str]:
        return [job.id for job in self.waiting]


@st.composite
def cases(draw: Callable[..., object], interrupted: bool = True) -> Case:
    """Sweeps over lab backbones (to be pretrained) and directories. If `interrupted`, jobs are also done, queued
    somewhere, or nowhere: failed, or run by somebody.
    """
    case = Case()
    states = st.sampled_from(["waiting"] * 5 + ["done", "queued", "nowhere"] if interrupted else ["waiting"])
    shapes = {kind: draw(st.sampled_from([SMALL, LARGE])) for kind in ("pretrain", "prior", "train", "evaluate")}
    if draw(st.booleans()):
        shapes["train"] = RANKS
    done: set[str] = set()

    def add(job_id: str, *parents: str, checkpoint: str = "") -> str:
        state = draw(states)
        kind = job_id.partition("-")[0]
        if state == "done" and all(parent in done for parent in parents):
            done.add(job_id)
        elif state == "queued":
            case.queued[job_id] = Place(draw(st.sampled_from("uvw")), draw(st.integers(0, 5)))
        elif state == "waiting":
            left = tuple(parent for parent in parents if parent not in done)
            shape = draw(st.sampled_from([shapes[kind], shapes[kind], LARGE])) if interrupted else shapes[kind]
            case.waiting.append(Waiting(job_id, kind, shape, left, checkpoint))
        return job_id

    case.backbones = draw(st.integers(1, 3))
    for backbone in range(case.backbones):
        base = [add(f"pretrain-{backbone}")] if draw(st.booleans()) else []
        for domain in range(draw(st.integers(1, 2))):
            add(f"prior-{backbone}.{domain}", *base)
            benchmarks = draw(st.integers(1, 3))
            checkpoints = [(f"train-{backbone}.{domain}.{i}", True) for i in range(draw(st.integers(0, 4)))]
            for name, trained in [*checkpoints, (f"base-{backbone}.{domain}", False)]:
                parents = [add(name, *base)] if trained else base
                for benchmark in range(benchmarks):
                    add(f"evaluate-{name}.{benchmark}", *parents, checkpoint=name)
    case.waiting = draw(st.permutations(case.waiting))
    return case


def places_of(buckets: list[Bucket]) -> dict[str, Place]:
    return {job: place for bucket in buckets for job, place in bucket.places().items()}


@settings(max_examples=300)
@given(cases(), st.integers(1, 4), st.integers(1, 5))
def test_every_job_is_in_one_element_or_left_and_starts_after_its_parents(
    case: Case, lanes: int, max_elements: int
) -> None:
    buckets, left = plan_buckets(case.waiting, case.queued, jobs_per_allocation=lanes, max_elements=max_elements)
    planned = [job for bucket in buckets for element in bucket.elements for lane in element for job in lane]
    assert Counter([*planned, *left]) == Counter(case.ids)
    jobs = {job.id: job for job in case.waiting}
    known: dict[str, Place] = dict(case.queued)
    for bucket in buckets:
        assert 1 <= len(bucket.elements) == len(bucket.after) <= max_elements
        for element, after in zip(bucket.elements, bucket.after, strict=True):
            assert 1 <= len(element) <= lanes and all(element)
            parents = {parent for lane in element for job in lane for parent in jobs[job].parents}
            assert set(after) == {known[parent] for parent in parents}  # in earlier buckets, or queued
            assert len(after) == len(set(after))
        known |= bucket.places()
    assert len({bucket.name for bucket in buckets}) == len(buckets)
    for job in left:
        assert any(parent not in known for parent in jobs[job].parents)
    for job in planned:
        assert all(parent in known for parent in jobs[job].parents)


@settings(max_examples=300)
@given(cases(), st.integers(1, 4), st.integers(1, 5))
def test_a_bucket_is_of_one_kind_and_asks_for_as_much_as_its_jobs_together(
    case: Case, lanes: int, max_elements: int
) -> None:
    jobs = {job.id: job for job in case.waiting}
    for bucket in plan_buckets(case.waiting, case.queued, jobs_per_allocation=lanes, max_elements=max_elements)[0]:
        of = [jobs[job] for element in bucket.elements for lane in element for job in lane]
        (kind,), (shape,) = {job.kind for job in of}, {job.shape for job in of}
        most = max(map(len, bucket.elements))
        assert bucket.kind == kind
        assert (bucket.shape.nodes, bucket.shape.tasks) == (shape.nodes, shape.tasks)
        assert bucket.shape.cpus == shape.cpus * most and bucket.shape.gpus == shape.gpus * most
        assert bucket.shape.memory_gib == (None if shape.memory_gib is None else shape.memory_gib * most)
        assert most == 1 or shape.ranks == 1
        for element in bucket.elements:
            for lane in element:  # several jobs one after another: evaluations of one checkpoint
                assert len(lane) == 1 or len({jobs[job].checkpoint for job in lane} - {""}) == 1


@settings(max_examples=200)
@given(cases(), st.integers(1, 4), st.integers(1, 5))
def test_evaluations_of_a_checkpoint_load_it_once(case: Case, lanes: int, max_elements: int) -> None:
    buckets, left = plan_buckets(case.waiting, case.queued, jobs_per_allocation=lanes, max_elements=max_elements)
    found = [lane for bucket in buckets for element in bucket.elements for lane in element]
    loads = {(job.checkpoint, job.shape) for job in case.waiting if job.checkpoint and job.id not in left}
    assert sum(lane[0].startswith("evaluate") for lane in found) == len(loads)


@settings(max_examples=200)
@given(cases(interrupted=False), st.integers(1, 4))
def test_there_are_no_more_arrays_than_kinds_of_each_backbone(case: Case, lanes: int) -> None:
    buckets, left = plan_buckets(case.waiting, {}, jobs_per_allocation=lanes)
    assert not left
    assert len(buckets) <= 4 * case.backbones
    assert max(Counter(bucket.kind for bucket in buckets).values(), default=0) <= case.backbones


def test_a_whole_sweep_on_one_backbone_is_four_arrays() -> None:
    waiting = [Waiting("pretrain-a", "pretrain", SMALL), Waiting("prior-a", "prior", SMALL, ("pretrain-a",))]
    for i in range(3):
        waiting.append(Waiting(f"train-{i}", "train", SMALL, ("pretrain-a",)))
        waiting += [Waiting(f"evaluate-{i}.{b}", "evaluate", SMALL, (f"train-{i}",), f"train-{i}") for b in range(2)]
    waiting.append(Waiting("evaluate-base", "evaluate", SMALL, ("pretrain-a",), "base-a"))
    buckets, left = plan_buckets(waiting, {})
    assert [(bucket.kind, len(bucket.elements)) for bucket in buckets] == [
        ("pretrain", 1),
        ("prior", 1),
        ("train", 3),
        ("evaluate", 4),
    ]
    assert not left
    sizes = {bucket.name: len(bucket.elements) for bucket in buckets}
    waits = [dependency(bucket.after, sizes, ()) for bucket in buckets]
    assert waits[1].afterok == waits[2].afterok == Place("pretrain.0", 0)
    assert (waits[3].aftercorr, waits[3].own) == ("train.2", (3,))  # the base model's follows on its own


def test_gpus_of_a_gres_are_multiplied_too() -> None:
    waiting = [Waiting(f"train-{i}", "train", LARGE) for i in range(3)]
    (bucket,), _ = plan_buckets(waiting, {}, jobs_per_allocation=4)
    assert bucket.shape == dataclasses.replace(LARGE, gpus=6, cpus=12, gres="gpu:a:6,disk:3")


# --- dependencies -----------------------------------------------------------------------------------------------------

SIZES = {"a": 1, "b": 3, "c": 4, "packed": 3}
PLACES = st.sampled_from([Place(name, i) for name, size in SIZES.items() for i in range(size)])


def said(after: list[tuple[Place, ...]], packed: tuple[str, ...]) -> list[set[Place]]:
    """What SLURM is told that each element waits for."""
    waits = dependency(after, SIZES, packed)
    assert waits.afterok is None or waits.aftercorr is None
    out: list[set[Place]] = []
    for i, places in enumerate(after):
        if i in waits.own:
            out.append(set(places))
        elif waits.aftercorr:
            assert i < SIZES[waits.aftercorr]  # SLURM: element i waits for element i, where there is one
            out.append({Place(waits.aftercorr, i)})
        else:
            out.append({waits.afterok} if waits.afterok else set())
    if waits.aftercorr:
        assert waits.aftercorr not in packed
        assert SIZES[waits.aftercorr] > 1  # a batch of one is no array, so that it has no element 0
        beyond = range(SIZES[waits.aftercorr], len(after))
        assert set(beyond) <= set(waits.own)
    if waits.afterok:
        assert waits.afterok.submission not in packed
    return out


@settings(max_examples=500)
@given(st.lists(st.lists(PLACES, max_size=2, unique=True).map(tuple), min_size=1, max_size=6), st.booleans())
def test_each_element_waits_for_exactly_what_it_has_to(after: list[tuple[Place, ...]], packed: bool) -> None:
    assert said(after, ("packed",) if packed else ()) == [set(places) for places in after]


@settings(max_examples=200)
@given(st.sampled_from(["b", "c"]), st.lists(st.lists(PLACES, max_size=2, unique=True).map(tuple), max_size=3))
def test_what_follows_an_array_element_by_element_needs_one_dependency(
    name: str, more: list[tuple[Place, ...]]
) -> None:
    after = [(Place(name, i),) for i in range(SIZES[name])] + more
    assert said(after, ()) == [set(places) for places in after]
    assert dependency(after, SIZES, ()).aftercorr == name
    shorter = after[: SIZES[name] - 1]
    assert said(shorter, ()) == [set(places) for places in shorter]


@settings(max_examples=200)
@given(cases(), st.integers(1, 4), st.integers(1, 5))
def test_the_dependencies_of_a_plan_are_those_of_its_jobs(case: Case, lanes: int, max_elements: int) -> None:
    buckets, _ = plan_buckets(case.waiting, case.queued, jobs_per_allocation=lanes, max_elements=max_elements)
    sizes: Mapping[str, int] = dict.fromkeys("uvw", 6) | {bucket.name: len(bucket.elements) for bucket in buckets}
    packed = {bucket.name for bucket in buckets if any(len(element) > 1 for element in bucket.elements)}
    for bucket in buckets:
        waits = dependency(bucket.after, sizes, packed)
        for i, places in enumerate(bucket.after):
            if i in waits.own:
                continue
            assert not packed & {place.submission for place in places}
            one = waits.afterok or (Place(waits.aftercorr, i) if waits.aftercorr else None)
            assert places == ((one,) if one else ())


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_part_of_a_bucket_keeps_what_its_elements_wait_for(size: int) -> None:
    waiting = [Waiting(f"evaluate-{i}", "evaluate", SMALL, (f"train-{i}",), f"train-{i}") for i in range(5)]
    (bucket,), _ = plan_buckets(waiting, {f"train-{i}": Place("t", i) for i in range(5)})
    for start in range(0, 5, size):
        part = bucket.part(start, start + size)
        assert part.after == tuple((Place("t", i),) for i in range(start, min(5, start + size)))
        assert part.elements == bucket.elements[start : start + size]
