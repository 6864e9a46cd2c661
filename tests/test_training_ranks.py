"""Several ranks end where one process does, can be interrupted and resumed with another number of them, and fail
together with the cause on record.

The ranks are real processes that reach each other by gloo on the loopback. Run as a script this file imports what they
need once, forks the ranks of one group after another, and prints how they ended.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import make_cell
from test_training_fit import (
    CATALOGUE,
    EXECUTION,
    RECIPE,
    adapted,
    assert_same_end,
    examples,
    rows,
    run,
    small_model,
    weights,
)
from transformers import Qwen2ForCausalLM

from bll_sweeps.errors import ConfigError, Interrupted, UsageError
from bll_sweeps.grid.cell import Job
from bll_sweeps.grid.settings import Execution, Tracker
from bll_sweeps.grid.spec import Spec, spec_text, write_spec
from bll_sweeps.objectives import heads
from bll_sweeps.store.claims import acquire
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import read_json, read_record
from bll_sweeps.training import checkpoint, ranks
from bll_sweeps.training.model import load_model
from bll_sweeps.training.packing import Batching, Sequences
from bll_sweeps.training.ranks import SINGLE, PeerLost, Ranks
from bll_sweeps.training.sharding import whole_state
from jobs import attempt as attempts
from jobs.attempt import new_attempt, run_attempt, write_failure

ROOT = Path(__file__).parents[1]
STOPPED, KILLED = 3, -signal.SIGKILL  # exit statuses of ranks
DOUBLE = replace(RECIPE, dtype="float64", batch_size=18)  # 18 rows are no multiple of 4 ranks
SHORT = replace(DOUBLE, batch_size=14, steps=0, epochs=6.7)  # 19 whole batches and one of 2 rows
AUTHORS = {"gradient": "authors", "micro_batch": 4, "ranks": 2}
SHARDED = {"sharding": True}
CASES = {
    "nll": ("nll", DOUBLE, 0),
    "nll, micro-batches": ("nll", DOUBLE, 2),
    "p, short last batch": ("p", SHORT, 0),
    "p, short last batch, micro-batches": ("p", SHORT, 2),
    "survivors": ("survivors", DOUBLE, 0),
    "survivors, short last batch, micro-batches": ("survivors", SHORT, 2),
    "authors, on other ranks than theirs": ("nll", replace(DOUBLE, **AUTHORS), 0),
    "authors, survivors, short last batch": ("survivors", replace(SHORT, **AUTHORS), 2),
    "sharded": ("nll", DOUBLE, 0, SHARDED),
    "sharded, short last batch, micro-batches": ("p", SHORT, 2, SHARDED),
    "sharded, survivors, packed": ("survivors", SHORT, 0, {**SHARDED, "packing": True, "micro_batch_tokens": 24}),
    "sharded, anchored, activations again": ("asft", DOUBLE, 3, {**SHARDED, "activation_checkpointing": True}),
    "sharded, float32": ("nll", RECIPE, 4, SHARDED),
    "sharded, bfloat16": ("p", replace(RECIPE, dtype="bfloat16"), 4, SHARDED),
    "sharded, authors": ("nll", replace(SHORT, **AUTHORS), 0, SHARDED),
    "sharded, head of its own": ("nll", DOUBLE, 0, SHARDED),
    "sharded, uneven": ("p", DOUBLE, 5, SHARDED),
    "sharded, adapters, plain head": ("p", DOUBLE, 4, {**SHARDED, "head": "naive"}),
    "sharded, head of torch": ("nll", DOUBLE, 4, {**SHARDED, "head": "torch"}),
}
EXACT = [case for case, (_, recipe, *_) in CASES.items() if recipe.dtype == "float64"]


# --- what the ranks do ----------------------------------------------------------------------------------------------


def train(folder: str, case: str, earlier: list[str], stop_at: int = 0, stopping_rank: int = 0) -> None:
    """One rank's part of a training; leaves its weights. `stopping_rank` alone is asked to stop, in step `stop_at`."""
    name, recipe, micro_batch, *how = CASES[case]
    mine, asked, seen = Ranks.of_environment(), itertools.count(1), []
    execution = replace(EXECUTION, micro_batch=micro_batch, **(how[0] if how else {}))
    with mine.connected(execution):
        with torch.device("meta" if execution.sharding and not mine.leads else "cpu"):  # rank 0 alone has weights
            model = model_of(case)
        run(
            Path(folder), CATALOGUE[name], recipe, execution, model=model,
            earlier=tuple(map(Path, earlier)), ranks=mine, on_progress=lambda done, _: seen.append(done),
            stop=lambda: mine.rank == stopping_rank and next(asked) == stop_at,
        )  # fmt: skip
        whole = model_of(case).to(next(model.parameters()).dtype)
        whole.load_state_dict(whole_state(model) or model.state_dict())
    torch.save({"weights": weights(whole), "began_at": seen[0]}, Path(folder) / f"rank.{mine.rank}.pt")


def model_of(case: str) -> Qwen2ForCausalLM:
    if "adapters" in case:
        return adapted()
    return small_model(tied="head of its own" not in case, vocabulary=21 if "uneven" in case else 20)


def attempt_job(root: str, job_id: str, number: int, fault: str = "", faulty_rank: int = 0) -> None:
    """One rank's part of an attempt at a job, in whose fourth micro-batch a fault may strike one rank."""
    layout, mine = Layout(Path(root)), Ranks.of_environment()
    attempts.PEER_GRACE_S = 2.0
    if fault and mine.rank == faulty_rank:
        calls, real = itertools.count(1), heads.objective_loss
        heads.objective_loss = lambda *args, **given: (
            FAULTS[fault]() if next(calls) == 4 else None,
            real(*args, **given),
        )[1]
    claim = acquire(layout.job(job_id)) if mine.leads else None
    run_attempt(layout, job_id, claim, layout.job(job_id).attempt(number), ranks=mine)


def fail() -> None:
    raise ValueError("no luck\nat all")


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30,) * 2)


def exhaust_torch() -> None:
    limit_memory()
    torch.zeros(2**30)


def exhaust_python() -> None:
    limit_memory()
    bytearray(2**32)


FAULTS: dict[str, Callable[[], None]] = {
    "raise": fail,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "torch's memory": exhaust_torch,
    "python's memory": exhaust_python,
}


# --- how they are started -------------------------------------------------------------------------------------------


def group(world: int, function: Callable[..., None], *args: Any) -> list[Any]:
    return [world, function.__name__, args]


def in_ranks(*groups: list[Any]) -> list[list[int]]:
    """Runs the groups one after another, each in `world` processes. Returns their exit statuses, by group and rank."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, json.dumps(groups)]
    process = subprocess.run(command, env=environment, timeout=300, stdout=subprocess.PIPE, text=True)
    assert process.returncode == 0
    return json.loads(process.stdout.splitlines()[-1])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _fork_groups() -> None:
    statuses = []
    for world, name, args in json.loads(sys.argv[1]):
        environment = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        pids = [_fork(environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, name, args) for rank in range(world)]
        statuses.append([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])
    print(json.dumps(statuses))


def _fork(environment: dict[str, str], name: str, args: list[Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.environ.update(environment)
    torch.set_num_threads(1)
    status = 0
    try:
        globals()[name](*args)
    except Interrupted:
        status = STOPPED
    except BaseException:  # noqa: BLE001 - the status tells, and the traceback
        traceback.print_exc()
        status = 1
    os._exit(status)


# --- the same result ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per case, trained by four ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    groups = [group(4, train, str(folder / case), case, []) for case in EXACT]
    assert in_ranks(*groups) == [[0] * 4] * len(EXACT)
    return folder


def left(folder: Path, rank: int = 0) -> dict[str, Any]:
    return torch.load(folder / f"rank.{rank}.pt")


def assert_close(folder: Path, found: torch.Tensor, expected_folder: Path, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)
    pairs = list(zip(rows(folder), rows(expected_folder), strict=True))
    assert pairs and all(row == pytest.approx(wanted, rel=1e-8) for row, wanted in pairs)


def single(folder: Path, case: str) -> torch.Tensor:
    name, recipe, micro_batch, *_ = CASES[case]
    execution = replace(EXECUTION, micro_batch=micro_batch)
    model, _ = run(folder, CATALOGUE[name], recipe, execution, model=model_of(case))
    return weights(model)


@pytest.mark.slow
@pytest.mark.parametrize("case", EXACT)
def test_four_ranks_end_where_a_single_process_does(case, four_ranks, tmp_path):
    expected = single(tmp_path, case)
    assert rows(tmp_path)[-1]["step"] == 20
    assert_close(four_ranks / case, left(four_ranks / case)["weights"], tmp_path, expected)
    for rank in range(1, 4):
        assert torch.equal(left(four_ranks / case, rank)["weights"], left(four_ranks / case)["weights"])
    assert tokens_read(four_ranks / case) == pytest.approx(tokens_read(tmp_path), rel=0.05)  # by all ranks
    for row in rows(four_ranks / case, "timing.jsonl"):
        assert 0 <= row["padding"] < 1
        assert row["tokens_per_s_per_device"] == pytest.approx(row["tokens_per_s"] / 4, abs=0.1)


def tokens_read(folder: Path) -> list[float]:
    """Up to each row of the timing, as far as its rounded times tell."""
    timing = rows(folder, "timing.jsonl")
    elapsed = np.diff([0.0] + [row["elapsed_s"] for row in timing])
    return np.cumsum([row["tokens_per_s"] for row in timing] * elapsed).tolist()


@pytest.mark.slow
def test_two_ranks_end_where_a_single_process_does(tmp_path):
    cases = ("sharded, uneven", "sharded, anchored, activations again")
    assert in_ranks(*(group(2, train, str(tmp_path / case), case, []) for case in cases)) == [[0, 0]] * 2
    for case in cases:
        expected = single(tmp_path / f"{case}, alone", case)
        assert_close(tmp_path / case, left(tmp_path / case)["weights"], tmp_path / f"{case}, alone", expected)


@pytest.mark.slow
def test_sharded_ranks_train_in_the_precisions_that_are_used(tmp_path):
    """On gloo a reduction of float32 can be another operation than one of float64."""
    cases = ("sharded, float32", "sharded, bfloat16")
    assert in_ranks(*(group(2, train, str(tmp_path / case), case, []) for case in cases)) == [[0, 0]] * 2
    for case, tolerance in zip(cases, (1e-3, 3e-2), strict=True):
        expected = single(tmp_path / f"{case}, alone", case)
        found = left(tmp_path / case)["weights"]
        assert found.dtype == torch.float32
        assert ((found - expected).norm() / expected.norm()).item() < tolerance
        pairs = zip(rows(tmp_path / case), rows(tmp_path / f"{case}, alone"), strict=True)
        assert all(row["nll"] == pytest.approx(wanted["nll"], rel=tolerance) for row, wanted in pairs)


def test_a_broken_connection_of_a_sharded_model_is_a_lost_peer():
    gloo = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    with pytest.raises(PeerLost, match="Connection closed by peer"), Ranks(0, 2).operations():
        raise gloo
    for own in (
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ):
        with pytest.raises(type(own)), Ranks(0, 2).operations():
            raise own
    with pytest.raises(RuntimeError, match="gloo"), SINGLE.operations():
        raise gloo


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    ["p, short last batch", "survivors, short last batch, micro-batches", "sharded, short last batch, micro-batches"],
)
def test_four_ranks_that_were_stopped_are_resumed_by_one_or_two(case, tmp_path):
    expected = single(tmp_path / "whole", case)
    four, two, one = (tmp_path / name for name in ("4", "2", "1"))
    ended = in_ranks(
        group(4, train, str(four), case, [], 9, 2),  # rank 2 is asked to stop, in the ninth step
        group(2, train, str(two), case, [str(four)]),
        group(1, train, str(one), case, [str(four)]),
    )
    assert ended == [[STOPPED] * 4, [0, 0], [0]]
    assert [p.name for p in (four / "checkpoints").iterdir()] == ["step-00000009"]
    for folder in (two, one):
        assert left(folder)["began_at"] == 9
        assert_close(folder, left(folder)["weights"], tmp_path / "whole", expected)


@pytest.mark.parametrize("stop_at", [1, 8, 12])  # the last one has a checkpoint anyway
def test_a_stopped_process_saves_its_step_once_and_is_resumed_with_the_same_bits(stop_at, tmp_path, monkeypatch):
    expected, whole = run(tmp_path / "whole")
    saved, real = [], checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *args, **given: (saved.append(args[1]), real(*args, **given))[1])
    calls = itertools.count(1)
    with pytest.raises(Interrupted, match=f"stopped at step {stop_at} of 20"):
        run(tmp_path / "1", stop=lambda: next(calls) == stop_at)
    assert saved == sorted({*range(6, stop_at + 1, 6), stop_at})
    model, result = run(tmp_path / "2", model=small_model(99), earlier=(tmp_path / "1",))
    assert result == whole
    assert_same_end(tmp_path / "2", model, tmp_path / "whole", expected)


def test_a_stop_in_the_last_step_lets_the_training_end(tmp_path):
    _, result = run(tmp_path, recipe=replace(RECIPE, steps=1), stop=lambda: True)
    assert result.steps == 1


# --- parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 18, 37])
@pytest.mark.parametrize("world_size", [1, 2, 4, 5])
def test_every_row_is_one_ranks_and_tokens_are_balanced(count, world_size):
    sequences, batch = Sequences.of(examples()), np.random.default_rng(0).permutation(40)[:count]
    parts = [sequences.share(batch, rank, world_size) for rank in range(world_size)]
    assert sorted(np.concatenate(parts)) == sorted(batch)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    tokens = [sequences.input_tokens(part) for part in parts]
    assert max(tokens) - min(tokens) <= 13  # the longest row
    assert world_size > 1 or np.array_equal(parts[0], batch)


def test_a_rank_without_rows_has_no_micro_batches():
    sequences = Sequences.of(examples())
    for batching in (Batching(), Batching(rows=2), Batching(packed=True, tokens=64)):
        assert list(sequences.micro_batches(np.empty(0, dtype=np.int64), batching)) == []


def test_buckets_hold_all_parameters_in_their_order(monkeypatch):
    monkeypatch.setattr(ranks, "BUCKET_ELEMENTS", 10)
    sizes = [4, 6, 1, 30, 9, 1, 2]
    tensors = [torch.zeros(size) for size in sizes] + [torch.zeros(1, dtype=torch.float64)]
    found = [[len(t) for t in bucket] for bucket in ranks._buckets(tensors)]
    assert found == [[4, 6], [1], [30], [9, 1], [2], [1]]
    assert list(ranks._buckets([])) == []


def test_ranks_follow_from_the_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Ranks.of_environment() == SINGLE
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank, local in (("", "0"), ("x", "0"), ("4", "0"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", local)
        with pytest.raises(UsageError, match="which rank this is"):
            Ranks.of_environment()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Ranks.of_environment() == Ranks(rank=1, world_size=4, local_rank=1)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert Ranks.of_environment() == SINGLE


def test_a_rank_takes_the_gpu_of_its_place_on_the_node_unless_it_sees_only_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    execution = Execution(name="e", device="cuda")
    mine = Ranks(rank=6, world_size=8, local_rank=2)
    for visible, device in ((4, "cuda:2"), (1, "cuda:0")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda visible=visible: visible)
        assert mine.device(execution) == torch.device(device)
        assert SINGLE.device(execution) == torch.device("cuda")
        assert mine.device(replace(execution, device="cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="has no GPU for rank 6, number 2 of its node: torch sees 2"):
        mine.device(execution)


# --- attempts -------------------------------------------------------------------------------------------------------


def declared(root: Path, execution: Execution = EXECUTION, kind: str = "pretrain") -> tuple[Layout, Job]:
    """A store with a job, by default one that has no parents, and the folder of a first attempt."""
    layout, job = Layout(root), next(job for job in make_cell().jobs() if job.kind == kind)
    write_spec(layout.job(job.id), spec_text(Spec(job, execution, Tracker(name="off", wandb="off"), {})))
    new_attempt(layout.job(job.id))
    return layout, job


def failure_of(layout: Layout, job: Job) -> dict[str, Any]:
    return read_json(layout.job(job.id).attempt(1).failure)


@pytest.mark.slow
def test_a_job_of_four_ranks_leaves_the_record_of_one(tmp_path):
    (layout, job), (alone, _) = declared(tmp_path / "4"), declared(tmp_path / "1")
    assert in_ranks(
        group(4, attempt_job, str(layout.root), job.id, 1), group(1, attempt_job, str(alone.root), job.id, 1)
    ) == [[0] * 4, [0]]
    found, expected = read_record(layout.job(job.id)), read_record(alone.job(job.id))
    assert found is not None and expected is not None
    assert found.outputs.keys() == expected.outputs.keys()
    assert found.result["final"] == pytest.approx(expected.result["final"], rel=1e-4)
    names = [{path.name for path in record.attempt.folder.iterdir()} for record in (found, expected)]
    assert names[0] == names[1]
    assert found.provenance()["ranks"] == 4 and "ranks" not in expected.provenance()


@pytest.mark.slow
def test_ranks_with_a_part_of_the_model_each_leave_the_record_of_one_though_only_the_first_reads_it(tmp_path):
    stores = [(tmp_path / str(world), world, replace(EXECUTION, sharding=world > 1)) for world in (1, 2)]
    groups, found = [], []
    for root, world, execution in stores:
        _, backbone = declared(root)
        layout, job = declared(root, execution, "train")
        groups += [group(1, attempt_job, str(root), backbone.id, 1), group(world, attempt_job, str(root), job.id, 1)]
        found.append(layout.job(job.id))
    assert in_ranks(*groups) == [[0], [0], [0], [0, 0]]
    alone, sharded = (read_record(files) for files in found)
    assert alone is not None and sharded is not None
    assert sharded.outputs.keys() == alone.outputs.keys()
    assert sharded.result["parameters"] == alone.result["parameters"]
    assert sharded.result["final"] == pytest.approx(alone.result["final"], rel=1e-4)
    models = [load_model(record.output("model")) for record in (alone, sharded)]
    torch.testing.assert_close(weights(models[1]), weights(models[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_first_rank_that_fails_is_on_record_and_the_others_end(tmp_path):
    layout, job = declared(tmp_path)
    started = time.monotonic()
    assert in_ranks(group(4, attempt_job, str(tmp_path), job.id, 1, "raise", 2)) == [[1] * 4]
    assert time.monotonic() - started < 60
    failure = failure_of(layout, job)
    assert failure["message"] == "rank 2: ValueError: no luck"
    assert "in fail" in failure["traceback"] and "at all" in failure["traceback"]
    assert read_record(layout.job(job.id)) is None


@pytest.mark.slow
@pytest.mark.parametrize("sharding", [False, True])
def test_the_ranks_of_one_that_was_killed_end_and_say_whom_they_miss(sharding, tmp_path):
    for killed in (0, 3):  # rank 0 is the one through which the others met
        layout, job = declared(tmp_path / str(killed), replace(EXECUTION, sharding=sharding))
        (statuses,) = in_ranks(group(4, attempt_job, str(layout.root), job.id, 1, "kill", killed))
        assert statuses == [KILLED if rank == killed else 1 for rank in range(4)]
        assert ": PeerLost: no connection to the other ranks (" in failure_of(layout, job)["message"]


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["torch's memory", "python's memory"])
def test_running_out_of_memory_is_called_so_with_its_peak(whose, tmp_path):
    layout, job = declared(tmp_path)
    assert in_ranks(group(1, attempt_job, str(tmp_path), job.id, 1, whose)) == [[1]]
    message = failure_of(layout, job)["message"]
    assert message.startswith("out of memory: ") and "(peak 0." in message and message.endswith(" GiB)")


def test_the_first_failure_stays(tmp_path):
    layout, job = declared(tmp_path)
    mine = layout.job(job.id).attempt(1)
    write_failure(mine, "rank 1: the cause", "here")
    write_failure(mine, "rank 0: its consequence")
    assert failure_of(layout, job)["message"] == "rank 1: the cause"
    assert [path.name for path in mine.folder.iterdir()] == ["failure.json"]


def test_a_rank_that_lost_a_peer_waits_for_the_cause(tmp_path, monkeypatch):
    layout, job = declared(tmp_path)
    mine = layout.job(job.id).attempt(1)
    monkeypatch.setattr(attempts.time, "sleep", lambda seconds: write_failure(mine, "killed by SIGKILL"))
    attempts.record_failure(mine, ranks.PeerLost("gone"), Ranks(rank=1, world_size=2))
    assert failure_of(layout, job)["message"] == "killed by SIGKILL"


if __name__ == "__main__":
    _fork_groups()
