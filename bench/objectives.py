"""Time and memory of the heads that turn hidden states into a loss and its gradients, side by side in one run.

    python -m bench.objectives [--device cpu|cuda] [--rounds 5] [--shapes 0,2] [--write]

Each head computes the loss and both gradients for the same rows. Rounds alternate between heads; the median of the
ratios within a round counts. As in a training, operations are deterministic, and beside hidden states in bfloat16 the
output embedding is a float32 master copy, whose gradient is float32 too. Memory is the peak above what inputs take, on
a CPU of a process for each head. kept: a threshold that keeps 40 % of the tokens. A head that fails is named and left
out. --shapes: some of them, by number. --write: JSON and a table in bench/results/, after each shape.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bench.hardware import described
from bll_sweeps.grid.axes import Objective
from bll_sweeps.grid.settings import HEADS
from bll_sweeps.objectives.catalogue import NLL
from bll_sweeps.objectives.chunks import chunks
from bll_sweeps.objectives.family import value
from bll_sweeps.objectives.heads import check_head, head
from bll_sweeps.objectives.token_logp import token_logp
from bll_sweeps.training.model import deterministic

RESULTS = Path(__file__).parent / "results"
KEPT = 0.4


@dataclass(frozen=True)
class Shape:
    """N rows, D of a hidden state, V of the vocabulary."""

    N: int
    D: int
    V: int
    dtype: str = "float32"


SHAPES = {
    "cpu": [Shape(2048, 512, 32768), Shape(1024, 896, 151936)],
    "cuda": [Shape(N, D, V, "bfloat16") for D, V in ((1536, 151936), (3584, 152064), (4096, 128256))
             for N in (4096, 16384)],
}  # fmt: skip

# (hidden states, output embedding, targets, denominator) -> loss
Step = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def with_head(name: str, objective: Objective) -> Step:
    loss = head(name, objective)
    return lambda hidden, weight, target, count: loss(hidden, weight, target, objective, count)[0]


def recomputed(objective: Objective) -> Step:
    """The differentiable log p, whose backward pass makes the logits again."""
    return lambda hidden, weight, target, count: value(objective, token_logp(hidden, weight, target)).sum() / count


def checkpointed(objective: Objective) -> Step:
    """Chunks of the plain loss under torch's checkpointing, as TRL's chunked_nll does it."""

    def of_chunk(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        logp = torch.log_softmax(hidden @ weight.T, -1, dtype=torch.float32).gather(1, target[:, None])[:, 0]
        return value(objective, logp).sum()

    def step(hidden: Tensor, weight: Tensor, target: Tensor, count: float) -> Tensor:
        parts, table = chunks(len(target), len(weight), device=weight.device.type), weight.to(hidden.dtype)
        return sum(checkpoint(of_chunk, hidden[i], table, target[i], use_reentrant=False) for i in parts) / count

    return step


def variants(shape: Shape, device: str) -> Iterator[tuple[str, Step]]:
    """Naive first. Heads that are not installed, or give wrong gradients, are left out with a word on why."""
    for name in ("naive", *(name for name in HEADS if name != "naive")):
        try:
            check_head(name, NLL, torch.device(device), getattr(torch, shape.dtype))
            yield name, with_head(name, NLL)
        except Exception as error:  # noqa: BLE001 - UsageError, or what a foreign kernel raises where it does not compile
            print(f"  {name}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
    yield "recomputed", recomputed(NLL)
    yield "checkpointed", checkpointed(NLL)
    above = Objective(name="kept", family="nll", keep="above", threshold=threshold(shape, device))
    yield "own, kept", with_head("own", above)
    yield "naive, kept", with_head("naive", above)


def threshold(shape: Shape, device: str) -> float:
    with torch.no_grad():
        return torch.quantile(token_logp(*inputs(shape, device)).exp(), 1 - KEPT).item()


def inputs(shape: Shape, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, output embedding and targets: logits of deviation 2, those of the targets 0 to 16 higher, so that
    p is anything between next to 0 and next to 1.
    """
    generator = torch.Generator(device).manual_seed(0)
    dtype = getattr(torch, shape.dtype)
    weight = torch.randn(shape.V, shape.D, generator=generator, device=device).to(dtype)
    target = torch.randint(0, shape.V, (shape.N,), generator=generator, device=device)
    noise = torch.randn(shape.N, shape.D, generator=generator, device=device)
    higher = torch.rand(shape.N, 1, generator=generator, device=device) * 16
    hidden = (noise * (2 / shape.D**0.5) + weight[target].float() * (higher / shape.D)).to(dtype)
    master = weight.float() if dtype == torch.bfloat16 else weight
    return hidden.requires_grad_(), master.requires_grad_(), target


def run(step: Step, of: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden, weight, _ = of
    hidden.grad = weight.grad = None
    with deterministic():
        step(*of, len(of[2])).backward()
    if hidden.is_cuda:
        torch.cuda.synchronize()


def seconds(shape: Shape, device: str, rounds: int) -> dict[str, list[float]]:
    """Of each variant, by round; the first round warms up and is left out."""
    of, steps = inputs(shape, device), dict(variants(shape, device))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in list(steps.items()):
            started = time.perf_counter()
            try:
                run(step, of)
            except Exception as error:  # noqa: BLE001 - a foreign kernel that does not compile here
                print(f"  {name} fails: {' '.join(str(error).split())[:300]}", file=sys.stderr)
                del steps[name], times[name]
            else:
                times[name].append(time.perf_counter() - started)
    return {name: found[1:] for name, found in times.items()}


def peaks_mib(shape: Shape, device: str, names: Iterable[str]) -> dict[str, float]:
    """Above what is held before: gradients of both inputs included. On a CPU each in a process of its own, which has
    freed nothing that it could use again; torch counts what a GPU's tensors take.
    """
    if device == "cpu":
        return {name: peak_mib(shape, device, name) for name in names}
    of, steps, found = inputs(shape, device), dict(variants(shape, device)), {}
    for name in names:
        of[0].grad = of[1].grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(steps[name], of)
        found[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
    return found


def peak_mib(shape: Shape, device: str, name: str) -> float:
    """Of one head, by a process of its own."""
    command = [sys.executable, "-m", "bench.objectives", "--device", device, "--peak", name, "--shape"]
    out = subprocess.run([*command, json.dumps(asdict(shape))], capture_output=True, text=True, check=True)
    return float(out.stdout.split()[-1])


def measure_peak(shape: Shape, device: str, name: str) -> float:
    small = Shape(64, 64, 256, shape.dtype)  # what a first call loads is not the step's
    run(dict(variants(small, device))[name], inputs(small, device))
    step, of = dict(variants(shape, device))[name], inputs(shape, device)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _resident_kib("VmRSS")
    run(step, of)
    return (_resident_kib("VmHWM") - before) / 1024


def _resident_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def measured(shape: Shape, device: str, rounds: int) -> list[dict[str, Any]]:
    times = seconds(shape, device, rounds)
    peaks = peaks_mib(shape, device, times)
    rows = []
    for name, own in times.items():
        row: dict[str, Any] = {"head": name, "ms": 1e3 * statistics.median(own), "peak_mib": peaks[name]}
        for other in (one for one in ("naive", "own", "liger") if one in times):
            ratios = [mine / its for mine, its in zip(own, times[other], strict=True)]
            row[f"time/{other}"] = statistics.median(ratios)
        for other in (one for one in ("naive", "liger") if one in times):
            row[f"peak/{other}"] = peaks[name] / peaks[other]
        rows.append(row)
        print("  " + "  ".join(f"{key} {_text(value)}" for key, value in row.items()), flush=True)
    return rows


def others(path: Path, told: dict[str, Any]) -> list[dict[str, Any]]:
    """Shapes that an earlier run on the same day and machine has written, and this one has not measured."""
    before = json.loads(path.read_text()) if path.exists() else {"shapes": []}
    mine = [{key: shape[key] for key in asdict(Shape(0, 0, 0))} for shape in told["shapes"]]
    alike = all(before.get(key) == told[key] for key in told if key != "shapes")
    of = [{key: shape[key] for key in asdict(Shape(0, 0, 0))} for shape in before["shapes"]]
    return [shape for shape, named in zip(before["shapes"], of, strict=True) if alike and named not in mine]


def table(told: dict[str, Any]) -> str:
    head_of = {key: value for key, value in told.items() if key != "shapes"}
    lines = [f"# Heads on {told['device']}, {told['date']}", ""]
    lines += [", ".join(f"{key} {value}" for key, value in head_of.items() if key not in ("date", "device")) + ".", ""]
    lines += ["`python -m bench.objectives`: medians of the ratios within a round; 40 % of the tokens are kept.", ""]
    for shape in told["shapes"]:
        lines += [f"## N={shape['N']} D={shape['D']} V={shape['V']} {shape['dtype']}", ""]
        columns = list(shape["rows"][0])
        lines += [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        lines += [f"| {' | '.join(_text(row[key]) for key in columns)} |" for row in shape["rows"]] + [""]
    return "\n".join(lines)


def _text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) and value < 100 else f"{value:.0f}" if isinstance(
        value, float
    ) else str(value)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", default="", metavar="0,2", help="some, by number (default: all)")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--peak", default="", help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=json.loads, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for `deterministic`; read when cuBLAS starts
    if args.peak:
        print(measure_peak(Shape(**args.shape), args.device, args.peak))
        return
    told: dict[str, Any] = {**described(args.device), "shapes": []}
    known = SHAPES[args.device]
    for shape in [known[int(i)] for i in args.shapes.split(",")] if args.shapes else known:
        print(shape, flush=True)
        told["shapes"].append({**asdict(shape), "rows": measured(shape, args.device, args.rounds)})
        if args.write:  # a lent machine may be gone before the last shape
            told["shapes"] = [*told["shapes"], *others(RESULTS / f"objectives-{args.device}.json", told)]
            (RESULTS / f"objectives-{args.device}.json").write_text(json.dumps(told, indent=1) + "\n")
            (RESULTS / f"objectives-{args.device}.md").write_text(table(told))


if __name__ == "__main__":
    main()
