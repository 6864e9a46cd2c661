"""The cost model and the simulation of workers; how many weights a backbone has."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cells import make_cell
from hypothesis import given, settings
from hypothesis import strategies as st

from bll_sweeps.errors import ConfigError
from bll_sweeps.grid import cost
from bll_sweeps.grid.axes import Backbone, LabTask, ModelShape, lab_vocabulary, to_plain
from bll_sweeps.grid.build import build
from bll_sweeps.grid.cell import Cell
from bll_sweeps.grid.cost import Size, Unit, lower_bound_s, simulate
from bll_sweeps.grid.digest import weight_count
from bll_sweeps.grid.hub import Hub
from bll_sweeps.grid.resources import Shape, shape_of
from bll_sweeps.grid.schema.config import Lab
from bll_sweeps.grid.schema.resolve import _backbone
from bll_sweeps.grid.settings import Execution

CONF = Path(__file__).parents[1] / "conf"
CPU, CUDA = Execution(name="cpu"), Execution(name="cuda", device="cuda", micro_batch=8)
SIZE = Size(rows=1000, row_tokens=20.0, questions=100, prompt_tokens=15.0)


# --- how many weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        ModelShape(hidden_size=32, layers=1, intermediate_size=64, heads=2, kv_heads=1),
        ModelShape(hidden_size=96, layers=3, intermediate_size=288, heads=4, kv_heads=2),
        ModelShape(hidden_size=48, layers=2, intermediate_size=100, heads=3, kv_heads=3),
    ],
)
def test_a_lab_backbone_has_as_many_weights_as_the_model_that_is_made_of_it(shape: ModelShape) -> None:
    from bll_sweeps.lab.model import new_model
    from bll_sweeps.lab.tokenizer import build as build_tokenizer

    data = yaml.safe_load((CONF / "lab/standard.yaml").read_text())["tasks"]
    tasks = {name: LabTask(**task) for name, task in data.items()}
    tokenizer = build_tokenizer(tasks)
    assert lab_vocabulary(tasks) == len(tokenizer)
    made = sum(weight.numel() for weight in new_model(shape, tokenizer, seed=0).parameters())
    assert shape.parameters(lab_vocabulary(tasks)) == made
    backbone = make_cell(**{"backbone.pretraining.shape": to_plain(shape), "backbone.tasks": data}).backbone
    assert backbone.parameters == made


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", ["100MB", "20KB"])
def test_the_weights_of_a_directory_are_counted_from_its_headers(tmp_path: Path, tied: bool, shards: str) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 300}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": tied}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads))
    model.save_pretrained(tmp_path, max_shard_size=shards)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shards == "20KB")
    (tmp_path / "consolidated.safetensors").write_bytes(b"a second copy that the index does not name")
    assert weight_count(tmp_path) == sum(weight.numel() for weight in model.parameters())
    data = {"name": "own", "source": "directory", "path": str(tmp_path), "pretraining": None}
    assert resolved(data).parameters == weight_count(tmp_path)


def test_without_safetensors_the_size_of_bin_files_counts_and_without_weights_nothing_is_known(tmp_path: Path) -> None:
    assert weight_count(tmp_path) == 0
    for i in (1, 2):
        (tmp_path / f"pytorch_model-0000{i}-of-00002.bin").write_bytes(bytes(1000))
    assert weight_count(tmp_path) == 1000


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", b"\x02"]
)
def test_weights_that_were_not_downloaded_are_named_before_a_launch(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=r"backbone\.path=.*no readable safetensors file model\.safetensors"):
        resolved({"name": "own", "source": "directory", "path": str(tmp_path), "pretraining": None})


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(ValueError, match=r"model-1\.safetensors"):
        weight_count(tmp_path)


def test_how_large_a_backbone_is_changes_no_id() -> None:
    cell = make_cell()
    larger = replace(cell, backbone=replace(cell.backbone))
    object.__setattr__(larger.backbone, "parameters", 7)
    assert [job.id for job in larger.jobs()] == [job.id for job in cell.jobs()]
    directory = Backbone(name="own", source="directory", path="/nowhere", digest="0" * 64)
    assert directory.parameters == 0
    known = replace(cell, backbone=replace(directory, parameters=7))
    assert known.prior.id == replace(cell, backbone=directory).prior.id


def test_how_large_a_backbone_is_goes_into_its_spec_and_comes_back() -> None:
    backbone = Backbone(name="own", source="directory", path="/nowhere", digest="0" * 64, parameters=7)
    assert build(Backbone, to_plain(backbone)).parameters == 7


def resolved(data: dict[str, Any]) -> Backbone:
    Path(data["path"], "config.json").touch()
    return build(Backbone, _backbone(data, Lab(name="none", tasks={}), Hub(Path("no.lock"))), "backbone")


# --- one job ----------------------------------------------------------------------------------------------------------


def of_size(parameters: int, **changes: Any) -> Cell:
    """A cell on a directory of so many weights."""
    cell = make_cell(**changes)
    backbone = Backbone(name="own", source="directory", path="/nowhere", digest="0" * 64, parameters=parameters)
    return replace(cell, backbone=backbone)


@given(
    parameters=st.integers(10**5, 10**11),
    factor=st.integers(2, 10),
    kind=st.sampled_from(["prior", "train", "evaluate"]),
    execution=st.sampled_from([CPU, CUDA]),
)
def test_more_weights_and_more_data_cost_more(parameters: int, factor: int, kind: str, execution: Execution) -> None:
    def seconds(cell: Cell, size: Size) -> float:
        job = getattr(cell, kind)
        return cost.seconds(job, size, execution, shape_of(kind, parameters, execution.resources))

    more = replace(SIZE, rows=SIZE.rows * factor, questions=SIZE.questions * factor)
    by_epochs = {"recipe.steps": 0}
    least = seconds(of_size(parameters, **by_epochs), SIZE)
    assert 0 < least < seconds(of_size(parameters, **by_epochs), more)
    assert least < seconds(of_size(parameters * factor, **by_epochs), SIZE)
    assert math.isfinite(least)


def test_a_training_of_the_papers_size_is_hours_of_an_h200_and_not_minutes_or_days() -> None:
    """Paper, B.2: 67,600 rows of mathematics, batches of 256, one epoch, on two H200; some 500 tokens a row."""
    changes = {"recipe.steps": 0, "recipe.batch_size": 256, "recipe.dtype": "bfloat16"}
    train = of_size(7_600_000_000, **changes).train
    assert train
    shape = Shape(gpus=2, tasks=2, gpu_type="h200")
    hours = cost.seconds(train, Size(rows=67_600, row_tokens=500.0), CUDA, shape) / 3600
    assert 0.2 < hours < 2


def test_ranks_share_a_training_and_nothing_else() -> None:
    cell = of_size(7_000_000_000, **{"recipe.steps": 0, "recipe.batch_size": 64})
    one, four = Shape(gpus=1), Shape(gpus=4, tasks=4)
    size = replace(SIZE, rows=100_000)
    assert cell.train
    assert cost.seconds(cell.train, size, CUDA, one) > 3 * cost.seconds(cell.train, size, CUDA, four)
    assert cost.seconds(cell.prior, size, CUDA, one) == cost.seconds(cell.prior, size, CUDA, Shape(gpus=4))


def test_an_anchor_costs_a_forward_pass_of_the_base_model() -> None:
    changes: dict[str, Any] = {"recipe.steps": 0, "recipe.dtype": "bfloat16"}
    plain, anchored = (of_size(7_000_000_000, **changes, **{"objective.anchor": by}).train for by in (0.0, 0.1))
    assert plain and anchored
    size = replace(SIZE, rows=10**6, row_tokens=500.0)
    plain_s, anchored_s = (cost.seconds(job, size, CUDA, Shape(gpus=1)) for job in (plain, anchored))
    assert 1.2 < anchored_s / plain_s < 8 / 6 + 0.01


@pytest.mark.parametrize(
    ("execution", "shape", "name"),
    [
        (CPU, Shape(), "a CPU core"),
        (CUDA, Shape(gpus=1), "H100"),
        (CUDA, Shape(gpus=1, gpu_type="a100"), "A100"),
        (CUDA, Shape(gpus=1, constraint="H200"), "H200"),
        (replace(CPU, device="auto"), Shape(gpus=1, partition="a100-long"), "A100"),
        (replace(CPU, device="auto"), Shape(), "a CPU core"),
    ],
)
def test_the_hardware_is_what_the_job_asks_for(execution: Execution, shape: Shape, name: str) -> None:
    assert cost.hardware_of(execution, shape).name == name


def test_weights_are_kept_in_float32_and_checkpoints_hold_the_optimisers_state_too() -> None:
    train = of_size(1_000_000, **{"recipe.steps": 100, "recipe.dtype": "bfloat16"}).train
    assert train
    assert cost.weights_bytes(train) == 4e6
    assert cost.checkpoint_bytes(train, SIZE, CPU) == 12e6
    assert cost.checkpoint_bytes(train, SIZE, replace(CPU, checkpoint_every_steps=100)) == 0  # none is written


# --- many jobs --------------------------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn, most_slots: int = 3) -> list[Unit]:
    """Units in an order that puts parents first."""
    units: list[Unit] = []
    for i in range(draw(st.integers(0, 12))):
        parents = draw(st.sets(st.sampled_from(units), max_size=3)) if units else set()
        seconds = draw(st.floats(0, 100))
        names = tuple(sorted(parent.name for parent in parents))
        units.append(Unit(str(i), seconds, draw(st.integers(1, most_slots)), names))
    return units


def slots_used(units: Sequence[Unit], times: Any, at: float) -> int:
    return sum(unit.slots for unit in units if times[unit.name][0] <= at < times[unit.name][1])


@given(units=graphs(), slots=st.integers(3, 8))
def test_a_schedule_is_one_that_workers_could_follow_and_no_better_than_its_bound(units, slots) -> None:
    schedule = simulate(units, slots)
    ends = {name: end for name, (_, end) in schedule.times.items()}
    assert schedule.makespan_s == max(ends.values(), default=0.0)
    for unit in units:
        start, end = schedule.times[unit.name]
        assert end == start + unit.seconds
        assert all(ends[parent] <= start for parent in unit.parents)
        assert slots_used(units, schedule.times, start) <= slots
    assert schedule.makespan_s >= schedule.lower_bound_s - 1e-9


@given(units=graphs(most_slots=1))
def test_one_slot_takes_the_sum_of_all_work(units) -> None:
    schedule = simulate(units, 1)
    assert schedule.makespan_s == pytest.approx(sum(unit.seconds for unit in units))
    assert schedule.lower_bound_s == pytest.approx(schedule.makespan_s)


@given(rounds=st.integers(1, 5), slots=st.integers(1, 6), seconds=st.floats(0.1, 1e4))
def test_equal_jobs_that_wait_for_nothing_fill_the_slots(rounds: int, slots: int, seconds: float) -> None:
    schedule = simulate([Unit(str(i), seconds) for i in range(rounds * slots)], slots)
    assert schedule.makespan_s == pytest.approx(rounds * seconds)
    assert schedule.lower_bound_s == pytest.approx(schedule.makespan_s)


@given(units=graphs(), slots=st.integers(3, 8))
def test_a_schedule_is_never_twice_as_long_as_its_bound_where_units_take_one_slot(units, slots) -> None:
    """Graham (1966): list scheduling takes at most 2 - 1/slots of the shortest."""
    narrow = [replace(unit, slots=1) for unit in units]
    schedule = simulate(narrow, slots)
    assert schedule.makespan_s <= (2 - 1 / slots) * schedule.lower_bound_s + 1e-9


def test_the_first_that_is_ready_and_fits_starts_first() -> None:
    units = [Unit("a", 4.0), Unit("wide", 1.0, 2), Unit("b", 1.0), Unit("child", 1.0, 1, ("b",)), Unit("c", 1.0)]
    starts = {name: start for name, (start, _) in simulate(units, 2).times.items()}
    assert starts == {"a": 0.0, "b": 0.0, "child": 1.0, "c": 2.0, "wide": 4.0}


def test_a_unit_that_never_fits_is_named() -> None:
    with pytest.raises(ValueError, match="wide needs 4 slots, and there are 2"):
        simulate([Unit("wide", 1.0, 4)], 2)


def test_no_units_take_no_time() -> None:
    assert simulate([], 1).makespan_s == lower_bound_s([], 1) == 0.0


@settings(deadline=2000)
@given(st.just(6000))
def test_thousands_of_units_are_simulated_in_well_under_a_second(count: int) -> None:
    units = [Unit(f"t{i}", 1.0 + i % 7) for i in range(count // 2)]
    units += [Unit(f"e{i}", 1.0 + i % 3, 1, (f"t{i}",)) for i in range(count // 2)]
    assert simulate(units, 64).makespan_s >= lower_bound_s(units, 64)
