"""Prior strength: how probable a model finds the training targets before it is trained (paper, Eq. 5).

Measured on the answers as trained and on the clean ones, which differ under label noise. Sums are kept per
row with the question it asks, so that an interval can be had by resampling distinct questions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bll_sweeps.grid.axes import PRIOR_QUANTILES
from bll_sweeps.objectives.token_logp import token_logp
from bll_sweeps.training.data import Example
from bll_sweeps.training.model import check, deterministic, head_weight, hidden_states
from bll_sweeps.training.packing import Batching, Sequences

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STRONG_P = 0.55  # the paper's Table 6 reports the share of tokens above it
HISTOGRAM_BINS = 50  # of equal width over [0, 1]; each holds its lower edge, the last one 1 as well
_CHECKED_TOKENS = 16


@dataclass(frozen=True)
class PriorResult:
    """`as_trained` and `clean`: {"mean_p", "tokens", "sequences", "quantiles", "histogram", "share_above_0.55", "nll"},
    over tokens; `histogram` is how many tokens have their p in each of HISTOGRAM_BINS equal parts of [0, 1].

    `sequences`: per training row {"row", "question", "tokens", "sum_p", "clean_tokens", "clean_sum_p", "noisy"};
    `question` is the question_id of its text, since small tasks repeat their questions.
    """

    as_trained: dict[str, Any]
    clean: dict[str, Any]
    sequences: list[dict[str, Any]]


def measure(
    model: PreTrainedModel,
    examples: list[Example],
    batch: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PriorResult:
    """p of every target token under `model` (in eval mode, on its device), `batch` sequences at a time (0: all).

    on_progress(sequences read, sequences in all); a noisy row is read twice, with each of its answers, and equal
    sequences once.
    """
    training = model.training
    model.eval()
    check(model, list(examples[0].input_ids[:_CHECKED_TOKENS]))
    noisy = [i for i, example in enumerate(examples) if example.noisy]
    both = [(e.input_ids, e.prompt_tokens) for e in examples]
    both += [(examples[i].clean_ids, examples[i].prompt_tokens) for i in noisy]
    distinct = {sequence: i for i, sequence in enumerate(dict.fromkeys(both))}
    with deterministic():
        logps = _token_logps(model, list(distinct), batch, on_progress)
    found = [logps[distinct[sequence]] for sequence in both]
    as_trained, clean = found[: len(examples)], found[: len(examples)]
    for i, logp in zip(noisy, found[len(examples) :], strict=True):
        clean[i] = logp
    model.train(training)
    sequences = [
        {
            "row": example.row,
            "question": example.question,
            "tokens": len(as_trained[i]),
            "sum_p": float(np.exp(as_trained[i]).sum()),
            "clean_tokens": len(clean[i]),
            "clean_sum_p": float(np.exp(clean[i]).sum()),
            "noisy": example.noisy,
        }
        for i, example in enumerate(examples)
    ]
    return PriorResult(_summary(as_trained), _summary(clean), sequences)


@torch.no_grad()
def _token_logps(
    model: PreTrainedModel,
    sequences: list[tuple[tuple[int, ...], int]],
    batch: int,
    on_progress: Callable[[int, int], None],
) -> list[np.ndarray]:
    """log p of the target tokens of each sequence, float64 [its supervised tokens]."""
    packed = Sequences(sequences)
    head = head_weight(model)
    out: list[np.ndarray] = [np.empty(0)] * len(packed)
    done = 0
    for rows, part in packed.micro_batches(np.arange(len(packed)), Batching(rows=batch), head.device):
        hidden = hidden_states(model, part)
        logp = token_logp(hidden, head, part.targets).double().cpu().numpy()
        for row, piece in zip(rows, np.split(logp, np.cumsum(packed.supervised[rows])[:-1]), strict=True):
            out[row] = piece
        done += len(rows)
        on_progress(done, len(packed))
    return out


def _summary(logps: list[np.ndarray]) -> dict[str, Any]:
    logp = np.concatenate(logps)
    p = np.exp(logp)
    return {
        "mean_p": float(p.mean()),
        "tokens": len(p),
        "sequences": len(logps),
        "quantiles": {str(q): float(x) for q, x in zip(PRIOR_QUANTILES, np.quantile(p, PRIOR_QUANTILES), strict=True)},
        # Rounding can leave a p above 1 by a little, which would fall out of the range.
        "histogram": np.histogram(np.minimum(p, 1.0), bins=HISTOGRAM_BINS, range=(0.0, 1.0))[0].tolist(),
        f"share_above_{STRONG_P}": float((p > STRONG_P).mean()),
        "nll": float(-logp.mean()),
    }
