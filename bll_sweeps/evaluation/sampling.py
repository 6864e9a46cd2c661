"""Decoding with a random stream per (prompt, repeat), so that a sample does not depend on its neighbours.

Each generated token takes one uniform number from a counter-based generator and inverts the model's distribution there.
The stream does not know the checkpoint: two checkpoints answer a question with the same numbers, which pairs them.
What is left of the batch is rounding: a padded row is computed by other kernels than a lone one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def uniforms(seed: int, prompt: str, repeat: int, count: int) -> np.ndarray:
    """`count` numbers in [0, 1), float64, that follow from (seed, prompt, repeat) alone."""
    digest = hashlib.sha256(f"{seed}\0{repeat}\0{prompt}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16]))).random(count)


def choose(logits_BV: Tensor, temperature: float, uniform_B: Tensor) -> Tensor:
    """Token ids [B]: the most probable ones at temperature 0, else the inverse of the distribution at uniform_B."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    cumulative_BV = torch.softmax(logits_BV.float() / temperature, -1).double().cumsum(-1)
    level_B1 = uniform_B[:, None] * cumulative_BV[:, -1:]
    # right=True passes over tokens of probability 0.
    return torch.searchsorted(cumulative_BV, level_B1, right=True).squeeze(-1).clamp_(max=logits_BV.shape[-1] - 1)


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    streams: Sequence[np.ndarray],
    temperature: float,
    stop_ids: frozenset[int],
    pad_id: int,
) -> list[list[int]]:
    """Continuations of `prompts` (token ids), without the stop token.

    Row i ends at one of `stop_ids`, or after len(streams[i]) tokens. streams: the uniform numbers of each row, one per
    token; at temperature 0 only their count matters.
    """
    device = model.device
    width, longest = max(map(len, prompts)), max(map(len, streams))
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    positions = (mask.cumsum(-1) - 1).clamp_(min=0)
    uniform_BT = torch.tensor(np.stack([np.pad(s, (0, longest - len(s))) for s in streams]), device=device)
    limit_B = torch.tensor([len(s) for s in streams], device=device)
    stop = torch.tensor(sorted(stop_ids), device=device)
    chosen: list[Tensor] = []
    running_B = limit_B > 0
    cache = None
    for step in range(longest):
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        token_B = choose(out.logits[:, -1], temperature, uniform_BT[:, step])
        running_B = running_B & ~torch.isin(token_B, stop)
        chosen.append(torch.where(running_B, token_B, -1))
        running_B = running_B & (limit_B > step + 1)
        if not running_B.any():
            break
        ids = torch.where(running_B, token_B, pad_id)[:, None]
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], -1)
        positions = positions[:, -1:] + 1
    return [[token for token in row if token >= 0] for row in torch.stack(chosen, -1).tolist()]
