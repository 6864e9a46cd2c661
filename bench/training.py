"""Training on padded and on packed micro-batches, side by side in one run.

    python -m bench.training [--data figfont lab] [--rounds 3] [--write]

The same model trains on the same rows: padded to the domain's max_length, as the authors' code pads; padded to the
longest row of a micro-batch; packed. Tokens are those of sequences, padding not counted. Rounds alternate, and the
median of the ratios within a round counts. Words of figfont are drawn by reasoning-gym, as the domain draws them, and
cut into tokens by a byte-pair encoding that is learned from them; the lab's are those of its tasks.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from bll_sweeps.grid.axes import Domain, LabTask, Noise
from bll_sweeps.lab import tasks, tokenizer
from bll_sweeps.lab.generated import stream
from bll_sweeps.objectives.catalogue import NLL
from bll_sweeps.objectives.objective_loss import objective_loss
from bll_sweeps.training.data import tokenize
from bll_sweeps.training.model import head_weight, hidden_states
from bll_sweeps.training.packing import Batching, MicroBatch, Sequences

RESULTS = Path(__file__).parent / "results"
ROWS, STEP = 256, 64  # rows that are trained on, and of a step
PACKED_TOKENS = 4096
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


def batches(sequences: Sequences, rows: np.ndarray, data: Data, way: str) -> Iterator[MicroBatch]:
    batching = Batching(packed=True, tokens=PACKED_TOKENS) if way == "packed" else Batching(rows=data.micro_batch)
    for _, batch in sequences.micro_batches(rows, batching):
        yield padded_to(batch, data.max_length - 1) if way == "max_length" else batch


def epoch(model: Any, data: Data, way: str) -> tuple[float, float, float]:
    """(seconds, sum of the losses, share of padding) of one pass over the rows."""
    sequences = Sequences(data.rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    started, losses, slots = time.perf_counter(), 0.0, 0
    for start in range(0, ROWS, STEP):
        rows = np.arange(start, min(start + STEP, ROWS))
        optimizer.zero_grad()
        for batch in batches(sequences, rows, data, way):
            slots += batch.inputs.numel()
            hidden = hidden_states(model, batch)
            denominator = int(sequences.supervised[rows].sum())
            loss, _ = objective_loss(hidden, head_weight(model), batch.targets, NLL, denominator)
            loss.backward()
            losses += loss.item()
        optimizer.step()
    return time.perf_counter() - started, losses, 1 - sequences.input_tokens(np.arange(ROWS)) / slots


def measured(name: str, rounds: int) -> dict[str, Any]:
    data = DATA[name]()
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=data.vocabulary, hidden_size=256, num_hidden_layers=4, intermediate_size=768,
                    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096)
    )  # fmt: skip
    lengths = [len(ids) - 1 for ids, _ in data.rows]
    tokens, ways = sum(lengths), ("max_length", "longest", "packed")
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way in ways:
            outcome = epoch(copy.deepcopy(model), data, way)
            if number:  # the first round warms up
                found[way].append(outcome)
    waste = (data.max_length - 1) / statistics.fmean(lengths)
    out: dict[str, Any] = {"mean_length": statistics.fmean(lengths), "padded_to": data.max_length, "waste": waste}
    for way in ways:
        out[way] = {
            "tokens_per_s": tokens / statistics.median(seconds for seconds, _, _ in found[way]),
            "padding": found[way][0][2],
            "loss": found[way][0][1],
            "times_max_length": statistics.median(
                first[0] / mine[0] for first, mine in zip(found["max_length"], found[way], strict=True)
            ),
        }
    return out


def table(told: dict[str, Any]) -> str:
    lines = [f"# Padded and packed training, {told['date']}", "", "`python -m bench.training`, "
             f"{told['threads']} threads, torch {told['torch']}.", ""]  # fmt: skip
    for name, found in told["data"].items():
        lines += [
            f"## {name}: {ROWS} rows, {found['mean_length']:.0f} tokens on the mean, padded to {found['max_length']}"
        ]
        lines += ["", "| padded to | tokens/s | times | padding | loss |", "| --- | --- | --- | --- | --- |"]
        for way in ("max_length", "longest", "packed"):
            row = found[way]
            cells = (
                f"{row['tokens_per_s']:.0f} | {row['times_max_length']:.2f} | {row['padding']:.2f} | {row['loss']:.6f}"
            )
            lines += [f"| {way} | {cells} |"]
        bound = BOUND * found["waste"]
        lines += ["", f"Packed: {found['packed']['times_max_length']:.2f} times the speed; {bound:.2f} would be "
                  f"{BOUND} of max_length / mean length.", ""]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    told = {"date": date.today().isoformat(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    told |= {"data": {name: measured(name, args.rounds) for name in args.data}}
    print(table(told))
    if args.write:
        (RESULTS / "training-cpu.json").write_text(json.dumps(told, indent=1) + "\n")
        (RESULTS / "training-cpu.md").write_text(table(told))


if __name__ == "__main__":
    main()
