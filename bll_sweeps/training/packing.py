"""Which rows an optimiser step trains on, and how they become the tensors of its micro-batches.

The rows of a step follow from (seed, rows, batch size, step) alone; micro-batches only decide how much is
computed at once. There are two layouts of one:

padded   a sequence to a line, padded on the right. A causal model never looks to the right, so no attention mask is
         needed for the supervised positions to be exact, and attention keeps its fast path.
packed   as many sequences to a line as fit. Positions start anew with each of them, from which the model's attention
         tells them apart; what is left of a line is one more sequence, which nothing asks for.

`model.check` verifies on the model at hand that neither changes what it computes.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bll_sweeps.grid.axes import Recipe
from bll_sweeps.training.data import Example

# Widths of packed lines that are tried, in sequences of the mean length: a millisecond for a step of 64 sequences.
_LINE_SEQUENCES = tuple(np.geomspace(3, 16, 24).tolist())
_ATTENTION_TOKENS = 2000  # width at which attention costs as much as the rest of a layer, in a model of 256 wide layers


@dataclass(frozen=True)
class MicroBatch:
    """`inputs` [B, L] int64; `positions` [N] of the supervised hidden states in the flattened [B * L];
    `targets` [N]; `position_ids` [B, L] of packed sequences, None for padded ones.

    The shift to the next token is done here and nowhere else: the hidden state at `positions[i]` predicts
    `targets[i]`. Targets come row after row.
    """

    inputs: Tensor
    positions: Tensor
    targets: Tensor
    position_ids: Tensor | None = None


@dataclass(frozen=True)
class Batching:
    """How rows become micro-batches. padded: `rows` of them at a time (0: all). packed: lines of about `tokens` in all,
    or one line of them, as attention kernels with sequence lengths want it.
    """

    packed: bool = False
    rows: int = 0
    tokens: int = 0
    one_line: bool = False


class Sequences:
    """Token sequences in one flat array, from which micro-batches are cut without a loop over tokens."""

    def __init__(self, sequences: Iterable[tuple[Sequence[int], int]]):
        """(token ids, number of leading ids that are not supervised) of each sequence; at least one target
        each.
        """
        pairs = list(sequences)
        lengths = np.array([len(ids) for ids, _ in pairs], dtype=np.int64)
        self._flat = np.concatenate([np.asarray(ids, dtype=np.int32) for ids, _ in pairs])
        self._start = np.cumsum(lengths) - lengths
        self._inputs = lengths - 1  # the last token is only ever a target
        self._first = np.maximum(np.array([prompt for _, prompt in pairs], dtype=np.int64), 1) - 1
        self.supervised = self._inputs - self._first  # target tokens of each sequence
        assert len(pairs) and self.supervised.min() > 0, "every sequence has a supervised token"

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Sequences:
        return cls((example.input_ids, example.prompt_tokens) for example in examples)

    def __len__(self) -> int:
        return len(self._start)

    def input_tokens(self, rows: np.ndarray) -> int:
        """Tokens that the model reads for these rows, padding not counted."""
        return int(self._inputs[rows].sum())

    def squared_inputs(self, rows: np.ndarray) -> int:
        """Sum over these rows of the square of what `input_tokens` counts, to which the work of attention is in
        proportion.
        """
        return int((self._inputs[rows] ** 2).sum())

    def share(self, rows: np.ndarray, rank: int, world_size: int) -> np.ndarray:
        """Those of a step's rows that `rank` computes: each row is one rank's, and all get about as many rows and
        tokens. A rank of a short batch may get none.
        """
        if world_size == 1:
            return rows  # in their own order, on which the bits of a sum depend
        longest_first = rows[np.argsort(-self._inputs[rows], kind="stable")]
        turn = np.arange(len(rows)) % (2 * world_size)  # dealt out there and back
        return longest_first[np.minimum(turn, 2 * world_size - 1 - turn) == rank]

    def micro_batches(
        self, rows: np.ndarray, batching: Batching, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[np.ndarray, MicroBatch]]:
        """With each its rows, in its order."""
        for lines in self.lines(rows, batching):
            part = np.concatenate(lines)
            yield part, self.packed_batch(lines, device) if batching.packed else self.micro_batch(part, device)

    def lines(self, rows: np.ndarray, batching: Batching) -> list[list[np.ndarray]]:
        """Of each micro-batch, the rows of its lines. Padded ones are of rows sorted by length, so that little is
        padded; packed lines are as wide as costs least (_line_width).
        """
        if not len(rows):
            return []
        if not batching.packed:
            size = batching.rows or len(rows)
            if size < len(rows):
                rows = rows[np.argsort(self._inputs[rows], kind="stable")]
            return [list(rows[start : start + size, None]) for start in range(0, len(rows), size)]
        lengths = self._inputs[rows].tolist()
        line = max(max(lengths), batching.tokens) if batching.one_line else _line_width(lengths, batching.tokens)
        packed = [rows[numbers] for numbers in best_fit(lengths, line)]
        at_once = max(1, batching.tokens // line)
        return [packed[start : start + at_once] for start in range(0, len(packed), at_once)]

    def packed_batch(self, lines: Sequence[np.ndarray], device: torch.device | str = "cpu") -> MicroBatch:
        """The rows of each line after one another."""
        rows = np.concatenate(lines)
        lengths = self._inputs[rows]
        ends = [self._inputs[line].cumsum() for line in lines]
        width = max(int(its[-1]) for its in ends)
        starts = np.concatenate([i * width + its for i, its in enumerate(ends)]) - lengths
        within = _ranges(lengths)
        place, source = np.repeat(starts, lengths) + within, np.repeat(self._start[rows], lengths) + within
        inputs, position_ids = np.zeros((2, len(lines), width), dtype=np.int64)
        for line, its in zip(position_ids, ends, strict=True):
            line[its[-1] :] = np.arange(width - its[-1])  # what is left of the line, a sequence of its own
        inputs.flat[place], position_ids.flat[place] = self._flat[source], within
        supervised = within >= np.repeat(self._first[rows], lengths)
        targets = self._flat[source[supervised] + 1].astype(np.int64)
        arrays = inputs, place[supervised], targets, position_ids
        return MicroBatch(*(torch.from_numpy(array).to(device) for array in arrays))

    @staticmethod
    def nothing(device: torch.device | str = "cpu") -> MicroBatch:
        """One without a target, for a rank that has to take part in others' operations."""
        none = torch.empty(0, dtype=torch.int64, device=device)
        return MicroBatch(torch.zeros(1, 1, dtype=torch.int64, device=device), none, none)

    def micro_batch(self, rows: np.ndarray, device: torch.device | str = "cpu") -> MicroBatch:
        column = np.arange(self._inputs[rows].max())
        index = self._start[rows][:, None] + column
        inside = column < self._inputs[rows][:, None]
        supervised = inside & (column >= self._first[rows][:, None])
        inputs = np.where(inside, self._flat[np.minimum(index, len(self._flat) - 1)], 0)
        arrays = inputs, np.flatnonzero(supervised), self._flat[index[supervised] + 1]
        return MicroBatch(*(torch.from_numpy(array.astype(np.int64)).to(device) for array in arrays))


def _line_width(lengths: Sequence[int], most: int) -> int:
    """The width at which lines of these sequences cost least: wide ones have less space left over, but each of their
    tokens is compared with more others, dense masks knowing no better.
    """
    longest, mean = max(lengths), sum(lengths) / len(lengths)
    widths = {max(longest, min(most, math.ceil(times * mean))) for times in _LINE_SEQUENCES}

    def cost(width: int) -> float:
        return len(best_fit(lengths, width)) * width * (1 + width / _ATTENTION_TOKENS)

    return min(sorted(widths), key=cost)


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Numbers of `lengths` in bins of at most `capacity`: the longest first, each where it leaves least space."""
    free: list[tuple[int, int]] = []  # (space, bin), ordered
    bins: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[number]
        at = bisect.bisect_left(free, (length, -1))
        if at == len(free):
            bins.append([])
            space, own = capacity, len(bins) - 1
        else:
            space, own = free.pop(at)
        bins[own].append(number)
        bisect.insort(free, (space - length, own))
    return bins


def _ranges(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... of each length, after one another."""
    ends = lengths.cumsum()
    return np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)


class DataOrder:
    """One permutation of the rows per epoch, drawn from (seed, epoch); a step takes the next batch of that stream.

    With a count of steps every batch is full; with epochs the stream ends where they do, and the last batch may
    be short.
    """

    def __init__(self, seed: int, rows: int, recipe: Recipe):
        self._seed, self._rows, self._batch = seed, rows, recipe.batch_size
        self._end = None if recipe.steps else max(1, math.ceil(recipe.epochs * rows))  # dropped: no step asks for it
        self._cached: tuple[int, np.ndarray] | None = None

    def rows(self, step: int) -> np.ndarray:
        """Row numbers of the step (counted from 0)."""
        stop = (step + 1) * self._batch
        place = np.arange(step * self._batch, stop if self._end is None else min(stop, self._end))
        epochs = range(place[0] // self._rows, place[-1] // self._rows + 1)
        parts = [self._permutation(e)[place[place // self._rows == e] % self._rows] for e in epochs]
        return np.concatenate(parts)

    def seed(self, step: int, rank: int = 0) -> int:
        """For whatever else is random in the rank's part of the step."""
        entropy = [self._seed, 1, step] + ([rank] if rank else [])
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._cached is None or self._cached[0] != epoch:
            generator = np.random.Generator(np.random.PCG64([self._seed, 0, epoch]))
            self._cached = epoch, generator.permutation(self._rows)
        return self._cached[1]
