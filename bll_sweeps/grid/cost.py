"""What a job costs before it has run - seconds and bytes - and how long jobs that wait for each other take. Pure.

The model is rough by intent: a few documented rates, no architecture beyond the number of parameters. It says how
jobs compare; measured times (cluster/measured.py) say how long they take.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bll_sweeps.grid.axes import Pretraining, Recipe
from bll_sweeps.grid.cell import EvaluateJob, Job, PretrainJob, PriorJob, TrainJob
from bll_sweeps.grid.resources import Shape
from bll_sweeps.grid.settings import Execution

# --- hardware -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hardware:
    """What one core or GPU achieves, not what its data sheet says. `pass_s`: of a forward pass, whatever its size.
    `peak_bf16_flops`: what the data sheet says, for MFU; 0 for a core.
    """

    name: str
    fp32_flops: float
    bf16_flops: float
    bytes_per_s: float
    pass_s: float
    peak_bf16_flops: float = 0.0


def _gpu(name: str, fp32_tflops: float, bf16_tflops: float, tb_per_s: float) -> Hardware:
    """Peaks of NVIDIA's data sheets (SXM, dense). Of them are achieved, we assume: 35 % of the bf16 tensor cores, as
    fine-tuning in plain PyTorch does; 60 % of float32 outside them (torch's default) and of the memory's bandwidth.
    A forward pass of some 28 layers takes 25 ms to launch from Python.
    """
    peak = bf16_tflops * 1e12
    return Hardware(name, 0.6 * fp32_tflops * 1e12, 0.35 * peak, 0.6 * tb_per_s * 1e12, 0.025, peak)


# The core: measured with the lab on a Xeon with AVX-512 (6 x parameters x tokens of a step against its time).
CPU_CORE = Hardware("a CPU core", 60e9, 30e9, 8e9, 0.003)
GPUS = {
    "a100": _gpu("A100", 19.5, 312, 2.0),  # 80 GB: nvidia.com, A100 data sheet
    "h100": _gpu("H100", 67, 989, 3.35),  # H100 data sheet
    "h200": _gpu("H200", 67, 989, 4.8),  # H200 data sheet
}
DEFAULT_GPU = "h100"


def hardware_of(execution: Execution, shape: Shape) -> Hardware:
    """The GPU that the job's gpu_type, constraint or partition names, else DEFAULT_GPU; for device=cpu a core."""
    if execution.device == "cpu" or (execution.device == "auto" and not shape.gpus):
        return CPU_CORE
    asked = f"{shape.gpu_type} {shape.constraint} {shape.partition}".lower()
    return next((gpu for name, gpu in GPUS.items() if name in asked), GPUS[DEFAULT_GPU])


# --- one job --------------------------------------------------------------------------------------------------------

START_S = 0.9  # of a job in a process that has torch imported
HARNESS_S = 0.6  # lm-eval's part of an evaluation's start
ROW_S = 2e-5  # reading or generating a training row, and its tokens
DISK_BYTES_PER_S = 1e9  # loading, digesting and saving weights
KV_BYTES_PER_PARAMETER = 3e-5  # float32, per token: Qwen2.5-1.5B 3.7e-5, Qwen2.5-7B 1.5e-5, Llama-3.1-8B 3.3e-5
OUTPUT_BYTES = 150  # of a prior's row, of a generation, of a metrics row
TOKENIZER_BYTES = {"lab": 2e4, "random": 2e4, "directory": 1e7, "hub": 1e7}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much data a job reads: training rows (prompt and answer) and the benchmark's questions, tokens on average."""

    rows: int = 0
    row_tokens: float = 0.0
    questions: int = 0
    prompt_tokens: float = 0.0


def seconds(job: Job, size: Size, execution: Execution, shape: Shape) -> float:
    """Seconds of one whole attempt, from its first line to its record, on the hardware of its execution and shape."""
    hardware, parameters = hardware_of(execution, shape), job.backbone.parameters
    fixed = START_S + 2 * 4 * parameters / DISK_BYTES_PER_S + ROW_S * size.rows
    if job.backbone.source == "random":
        return fixed  # as little as any
    if isinstance(job, EvaluateJob):
        return fixed + HARNESS_S + _evaluating_s(job, size, execution, hardware)
    if isinstance(job, PriorJob):
        passes = math.ceil(size.rows / execution.eval_batch)
        rate = _flops(job, hardware) * _threads(execution, hardware)
        return fixed + 2 * parameters * size.rows * size.row_tokens / rate + passes * hardware.pass_s
    anchored = isinstance(job, TrainJob) and job.objective.anchor > 0
    per_token = (8 if anchored else 6) * parameters  # an anchor's base model has a forward pass too
    return fixed + _training_s(recipe_of(job), per_token, size, execution, shape, hardware)


def _training_s(
    recipe: Recipe, per_token: int, size: Size, execution: Execution, shape: Shape, hardware: Hardware
) -> float:
    """per_token: 6 FLOP per parameter (Kaplan et al. 2020, 2.1); attention itself is left out. Ranks share a step."""
    steps = recipe.total_steps(size.rows)
    tokens = steps * recipe.batch_size * size.row_tokens
    rows = recipe.batch_size / shape.ranks
    if execution.packing:
        micro_batches = math.ceil(rows * size.row_tokens / execution.micro_batch_tokens)
    else:
        micro_batches = math.ceil(rows / (execution.micro_batch or recipe.batch_size))
    flops = hardware.bf16_flops if recipe.dtype == "bfloat16" else hardware.fp32_flops
    flops *= shape.ranks * _threads(execution, hardware) * (0.5 if recipe.dtype == "float64" else 1.0)
    return per_token * tokens / flops + steps * micro_batches * 2 * hardware.pass_s


def _evaluating_s(job: EvaluateJob, size: Size, execution: Execution, hardware: Hardware) -> float:
    """Prefill, then a step per token for the whole batch, which goes on until its longest answer ends: taken to be
    the limit. A step computes for all rows, and reads all weights and their caches.
    """
    parameters, limit = job.backbone.parameters, job.benchmark.max_new_tokens
    rate, total = _flops(job, hardware) * _threads(execution, hardware), 0.0
    weight_bytes = 2 if job.backbone.dtype == "bfloat16" else 4
    for decoding in job.benchmark.decodings.values():
        rows = size.questions * decoding.samples
        batches = math.ceil(rows / execution.eval_batch)
        cached = size.prompt_tokens + limit / 2
        moved = (
            batches * limit * weight_bytes * parameters + rows * limit * cached * KV_BYTES_PER_PARAMETER * parameters
        )
        decode = max(2 * parameters * rows * limit / rate, moved / hardware.bytes_per_s)
        total += 2 * parameters * rows * size.prompt_tokens / rate + decode + batches * (limit + 1) * hardware.pass_s
    return total


def _flops(job: Job, hardware: Hardware) -> float:
    """In the precision in which a model is read to measure priors and to answer."""
    return hardware.bf16_flops if job.backbone.dtype == "bfloat16" else hardware.fp32_flops


def _threads(execution: Execution, hardware: Hardware) -> int:
    return execution.threads if hardware is CPU_CORE else 1


def recipe_of(job: Job) -> Recipe:
    """Of a pretrain or train job."""
    if isinstance(job, PretrainJob):
        assert isinstance(job.backbone.pretraining, Pretraining)
        return job.backbone.pretraining.recipe
    assert not isinstance(job, PriorJob | EvaluateJob)
    return job.recipe


# --- disk -----------------------------------------------------------------------------------------------------------


def output_bytes(job: Job, size: Size, execution: Execution) -> float:
    """Of the job's outputs, those that its record names: weights are saved in float32 (float64 where trained so)."""
    if isinstance(job, PriorJob):
        return OUTPUT_BYTES * size.rows
    if isinstance(job, EvaluateJob):
        generations = size.questions * sum(decoding.samples for decoding in job.benchmark.decodings.values())
        return generations * min(OUTPUT_BYTES, 2 * job.benchmark.max_new_tokens)
    if isinstance(job, PretrainJob) and job.backbone.pretraining is None:
        return 1e6  # of random weights, and tiny
    rows = recipe_of(job).total_steps(size.rows) / execution.log_every_steps
    return weights_bytes(job) + TOKENIZER_BYTES[job.backbone.source] + 2 * OUTPUT_BYTES * rows


def weights_bytes(job: Job) -> float:
    """Of a pretrain or train job's model."""
    return job.backbone.parameters * (8.0 if recipe_of(job).dtype == "float64" else 4.0)


def checkpoint_bytes(job: Job, size: Size, execution: Execution) -> float:
    """Of one checkpoint of a pretrain or train job: weights and what the optimiser keeps; 0 if none is written."""
    if isinstance(job, PretrainJob) and job.backbone.pretraining is None:
        return 0.0
    recipe = recipe_of(job)
    if recipe.total_steps(size.rows) <= execution.checkpoint_every_steps:
        return 0.0
    return weights_bytes(job) * (3.0 if recipe.optimizer == "adamw" else 1.0)


# --- many jobs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """What one worker or allocation runs in one go: a job, or the evaluations of a checkpoint. `parents` are names of
    other units, `slots` the GPUs (or CPU workers) that it occupies.
    """

    name: str
    seconds: float
    slots: int = 1
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """When each unit starts and ends, in seconds; `lower_bound_s` is what no schedule of these units goes below."""

    times: Mapping[str, tuple[float, float]]
    makespan_s: float
    lower_bound_s: float


def simulate(units: Sequence[Unit], slots: int) -> Schedule:
    """List scheduling: whenever slots are free, the first unit (in the order given) that is ready and fits starts.

    Parents come before their children. Raises ValueError if a unit needs more slots than there are.
    """
    for unit in units:
        if not 0 < unit.slots <= slots:
            raise ValueError(f"{unit.name} needs {unit.slots} slots, and there are {slots}")
    waits = {unit.name: len(unit.parents) for unit in units}
    children: dict[str, list[int]] = {}
    ready: dict[int, list[int]] = {unit.slots: [] for unit in units}  # slots needed -> heap of places in the order
    for i, unit in enumerate(units):
        for parent in unit.parents:
            children.setdefault(parent, []).append(i)
        if not unit.parents:
            heapq.heappush(ready[unit.slots], i)
    running: list[tuple[float, int]] = []  # heap of (end, place)
    times: dict[str, tuple[float, float]] = {}
    now, free = 0.0, slots
    while True:
        while fitting := [heap[0] for need, heap in ready.items() if heap and need <= free]:
            place = min(fitting)
            unit = units[heapq.heappop(ready[units[place].slots])]
            times[unit.name] = (now, now + unit.seconds)
            heapq.heappush(running, (now + unit.seconds, place))
            free -= unit.slots
        if not running:
            break
        now = running[0][0]
        while running and running[0][0] == now:
            ended = units[heapq.heappop(running)[1]]
            free += ended.slots
            for child in children.get(ended.name, ()):
                waits[units[child].name] -= 1
                if not waits[units[child].name]:
                    heapq.heappush(ready[units[child].slots], child)
    assert len(times) == len(units), "a unit waits for one that is not among them"
    return Schedule(times, now, lower_bound_s(units, slots))


def lower_bound_s(units: Sequence[Unit], slots: int) -> float:
    """max(the longest chain of units that wait for each other, all work spread evenly over the slots)."""
    ends: dict[str, float] = {}
    for unit in units:
        ends[unit.name] = unit.seconds + max((ends[parent] for parent in unit.parents), default=0.0)
    return max(max(ends.values(), default=0.0), sum(unit.seconds * unit.slots for unit in units) / slots)
