"""Training on padded and on packed micro-batches, side by side in one run.

    python -m bench.training [--data figfont lab] [--rounds 3] [--device cuda] [--attention sdpa] [--write]
                             [--micro-batch-tokens N] [--activation-checkpointing] [--compile]

The same model trains on the same rows: padded to the domain's max_length, as the authors' code pads; padded to the
longest row of a micro-batch, also with TRL's way of the loss; packed, also with the heads of others, as far as they are
installed. What fails, or is too large for a GPU, is named and left out. Tokens are those of sequences, padding not
counted. Rounds alternate, and the median of the ratios within a round counts. Words of figfont are drawn by
reasoning-gym, as the domain draws them, and cut into tokens by a byte-pair encoding learned from them; the lab's are
those of its tasks.

cpu: a model of some millions of weights, in float32. cuda: on figfont one of Qwen2.5-1.5B's shape, with random weights,
and on the lab's data one of ten times a lab backbone's weights; bfloat16 on float32 master weights, as recipes have it.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from bench.hardware import PACKAGES, described
from bench.objectives import checkpointed, with_head
from bll_sweeps.grid.axes import Domain, LabTask, Noise, Recipe
from bll_sweeps.grid.settings import HEADS
from bll_sweeps.lab import tasks, tokenizer
from bll_sweeps.lab.generated import stream
from bll_sweeps.objectives.catalogue import NLL
from bll_sweeps.objectives.heads import check_head
from bll_sweeps.training.data import tokenize
from bll_sweeps.training.fit import autocast
from bll_sweeps.training.log import FlopCount, peak_bf16_flops
from bll_sweeps.training.model import deterministic, head_weight, hidden_states, use_attention
from bll_sweeps.training.packing import Batching, MicroBatch, Sequences

RESULTS = Path(__file__).parent / "results"
ROWS, STEP = 256, 256  # rows that are trained on, and of a step: the batch of the paper (B.2)
PACKED_TOKENS = {"cpu": 4096, "cuda": 16384}
# How rows become micro-batches, and by what head if not ours: `checkpointed` is TRL's way (bench/objectives.py).
WAYS = ("max_length", "longest", "longest, checkpointed", "packed", *(f"packed, {n}" for n in HEADS if n != "own"))
SMALL = {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 768, "num_attention_heads": 4} | {
    "num_key_value_heads": 2
}
LARGE = {  # on a GPU; Qwen2.5-1.5B's shape and vocabulary, and 2.3 million weights
    "figfont": {"vocab_size": 151936, "hidden_size": 1536, "num_hidden_layers": 28, "intermediate_size": 8960}
    | {"num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "lab": {"hidden_size": 288, "num_hidden_layers": 2, "intermediate_size": 864, "num_attention_heads": 6}
    | {"num_key_value_heads": 2, "tie_word_embeddings": True},
}
BOUND = 0.85  # of what padding wastes, max_length / mean length


@dataclass(frozen=True)
class Data:
    """(token ids, leading ids without a target) of each row, the vocabulary, and what the authors' code pads to."""

    rows: list[tuple[list[int], int]]
    vocabulary: int
    max_length: int
    micro_batch: int


def figfont() -> Data:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = stream("figlet_font", {"min_word_len": 2, "max_word_len": 5}, 42, "bench")
    items = [words[i] for i in range(2 * ROWS)]
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.train_from_iterator(
        [item["question"] for item in items], trainers.BpeTrainer(vocab_size=2048, show_progress=False)
    )
    rows = []
    for item in items[:ROWS]:
        prompt, answer = (learned.encode(text).ids for text in (item["question"], item["answer"]))
        rows.append(((prompt + answer)[:800], min(len(prompt), 799)))
    return Data(rows, 2048, 800, 16)


def lab() -> Data:
    task = LabTask(dataset="spell_backward", params={"min_word_len": 3, "max_word_len": 8})
    domain = Domain(name="bench", source="lab", lab=task, task="spell", rows=ROWS, noise=Noise(), prompt="{question}\n")
    words = tokenizer.build({"spell": task}, max_length=128)
    examples = tokenize(tasks.training_rows(domain), domain, words).examples
    return Data([(list(e.input_ids), e.prompt_tokens) for e in examples], len(words), 128, 16)


DATA: dict[str, Callable[[], Data]] = {"figfont": figfont, "lab": lab}


def padded_to(batch: MicroBatch, width: int) -> MicroBatch:
    """The same rows, padded to `width` tokens."""
    rows, columns = batch.positions // batch.inputs.shape[1], batch.positions % batch.inputs.shape[1]
    inputs = torch.nn.functional.pad(batch.inputs, (0, width - batch.inputs.shape[1]))
    return MicroBatch(inputs, rows * width + columns, batch.targets)


@dataclass(frozen=True)
class Epoch:
    """One pass over the rows. grad_norm: of its last step; padding: its share of all places; peak_gib: of the tensors
    on the GPU.
    """

    seconds: float
    loss: float
    grad_norm: float
    padding: float
    flops: float
    peak_gib: float


def batches(sequences: Sequences, rows: np.ndarray, data: Data, way: str, place: Place) -> Iterator[MicroBatch]:
    batching = Batching(rows=data.micro_batch)
    if way == "packed":
        tokens = place.micro_batch_tokens or PACKED_TOKENS[place.device.type]
        batching = Batching(packed=True, tokens=tokens, one_line=place.attention != "sdpa")
    for _, batch in sequences.micro_batches(rows, batching, place.device):
        yield padded_to(batch, data.max_length - 1) if way == "max_length" else batch


def epoch(model: Any, data: Data, way: str, place: Place) -> Epoch:
    sequences, count = Sequences(data.rows), FlopCount(model)
    padded, _, name = way.partition(", ")
    step = checkpointed(NLL) if name == "checkpointed" else with_head(name or "own", NLL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    place.begin()
    started, losses, places, flops = time.perf_counter(), torch.zeros((), device=place.device), 0, 0.0
    for start in range(0, ROWS, STEP):
        rows = np.arange(start, min(start + STEP, ROWS))
        targets = int(sequences.supervised[rows].sum())
        flops += count(sequences.input_tokens(rows), targets, sequences.squared_inputs(rows))
        optimizer.zero_grad()
        for batch in batches(sequences, rows, data, padded, place):
            places += batch.inputs.numel()
            with autocast(place.device, place.recipe):
                hidden = hidden_states(model, batch)
            loss = step(hidden.to(place.computed), head_weight(model), batch.targets, targets)
            loss.backward()
            losses += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), place.recipe.clip_norm)
        optimizer.step()
    told = losses.item()  # waits for the GPU
    padding = 1 - sequences.input_tokens(np.arange(ROWS)) / places
    return Epoch(time.perf_counter() - started, told, norm.item(), padding, flops, place.peak_gib())


@dataclass(frozen=True)
class Place:
    """Where is trained, and how."""

    device: torch.device
    attention: str = "sdpa"
    micro_batch_tokens: int = 0
    activation_checkpointing: bool = False
    compile: bool = False

    @property
    def recipe(self) -> Recipe:
        dtype: Any = "bfloat16" if self.device.type == "cuda" else "float32"
        return Recipe(name="bench", learning_rate=1e-4, batch_size=STEP, steps=1, dtype=dtype)

    @property
    def computed(self) -> torch.dtype:
        return torch.bfloat16 if self.recipe.dtype == "bfloat16" else torch.float32

    def model(self, name: str, data: Data) -> Any:
        shape = {"vocab_size": data.vocabulary, **(LARGE[name] if self.device.type == "cuda" else SMALL)}
        torch.manual_seed(0)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for `deterministic`
        model = Qwen2ForCausalLM(Qwen2Config(**shape, max_position_embeddings=4096)).to(self.device)
        use_attention(model, self.attention)
        if self.activation_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if self.compile:
            model.base_model.compile(dynamic=True)
        return model.train()

    def begin(self) -> None:
        """What earlier epochs left is gone."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_gib(self) -> float:
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else 0.0


def measured(name: str, rounds: int, place: Place) -> dict[str, Any]:
    data = DATA[name]()
    model = place.model(name, data)
    before = copy.deepcopy({key: tensor.cpu() for key, tensor in model.state_dict().items()})
    lengths = [len(ids) - 1 for ids, _ in data.rows]
    found: dict[str, list[Epoch]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way in list(found):
            model.load_state_dict(before)
            try:
                if number == 0 and (head := way.rpartition(", ")[2]) in HEADS:
                    check_head(head, NLL, place.device, place.computed)
                with deterministic():  # as trainings are
                    outcome = epoch(model, data, way, place)
            except Exception as error:  # noqa: BLE001 - not installed, wrong, too large, or a kernel that does not compile
                print(f"  {name}, {way}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
                del found[way]
                continue
            if number:  # the first round warms up
                found[way].append(outcome)
    for key, tolerance in (("loss", 1e-5), ("grad_norm", 1e-4)):  # else it would be another training
        values = [getattr(epochs[0], key) for epochs in found.values()]
        tolerance = 1e-2 if place.computed == torch.bfloat16 else tolerance
        assert max(values) - min(values) < tolerance * max(values), (key, values)
    peak = peak_bf16_flops(place.device)
    mean = statistics.fmean(lengths)
    out: dict[str, Any] = {"mean_length": mean, "padded_to": data.max_length, "waste": (data.max_length - 1) / mean}
    out["parameters"] = sum(p.numel() for p in model.parameters())
    for way in found:
        seconds = statistics.median(one.seconds for one in found[way])
        out[way] = {
            "tokens_per_s": sum(lengths) / seconds,
            "padding": found[way][0].padding,
            "loss": found[way][0].loss,
            "model_tflops": found[way][0].flops / seconds / 1e12,
        }
        if "max_length" in found:
            pairs = zip(found["max_length"], found[way], strict=True)
            out[way] |= {"times_max_length": statistics.median(first.seconds / mine.seconds for first, mine in pairs)}
        if place.device.type == "cuda":
            out[way] |= {"peak_gib": max(one.peak_gib for one in found[way])}
        if peak:
            out[way] |= {"mfu": out[way]["model_tflops"] * 1e12 / peak}
    return out


COLUMNS = {"tokens_per_s": ".0f", "times_max_length": ".2f", "padding": ".2f", "model_tflops": ".3g", "loss": ".6f"} | {
    "mfu": ".2f",
    "peak_gib": ".2f",
}


def table(told: dict[str, Any]) -> str:
    versions = ", ".join(f"{package} {told[package]}" for package in ("python", *PACKAGES))
    lines = [f"# Padded and packed training on {told['device']}, {told['date']}", ""]
    lines += [f"`python -m bench.training {told['options']}`, {told['threads']} threads, {versions}.", ""]
    for name, found in told["data"].items():
        head = f"## {name}: {ROWS} rows, {found['mean_length']:.0f} tokens on the mean, padded to {found['padded_to']}"
        columns = [key for key in COLUMNS if any(key in found[way] for way in WAYS if way in found)]
        lines += [f"{head}; {found['parameters'] / 1e6:.3g} million weights", ""]
        lines += [f"| padded to | {' | '.join(columns)} |", f"| {' | '.join(['---'] * (1 + len(columns)))} |"]
        rows = {way: [format(found[way][key], COLUMNS[key]) for key in columns] for way in WAYS if way in found}
        lines += [f"| {way} | {' | '.join(cells)} |" for way, cells in rows.items()]
        if times := found.get("packed", {}).get("times_max_length"):
            bound = f"{BOUND * found['waste']:.2f} would be {BOUND} of max_length / mean length"
            lines += ["", f"Packed: {times:.2f} times the speed; {bound}.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--attention", default="sdpa", help="of all ways: flash_attention_2, flex_attention ..")
    parser.add_argument("--micro-batch-tokens", type=int, default=0, metavar="N", help="of packed micro-batches")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--write", action="store_true", help="write bench/results/training-<device>.json and .md")
    args = parser.parse_args()
    if args.write and set(args.data) != set(DATA):
        parser.error("--write records all data: leave --data out")
    place = Place(
        torch.device(args.device),
        args.attention,
        args.micro_batch_tokens,
        args.activation_checkpointing,
        args.compile,
    )
    told = described(args.device) | {"options": " ".join(sys.argv[1:])}
    told |= {"data": {name: measured(name, args.rounds, place) for name in args.data}}
    print(table(told))
    if args.write:
        (RESULTS / f"training-{args.device}.json").write_text(json.dumps(told, indent=1) + "\n")
        (RESULTS / f"training-{args.device}.md").write_text(table(told))


if __name__ == "__main__":
    main()
