"""Log-probability of each target token from hidden states, without ever holding all logits.

The reference head: every objective is `family.value` of this, by the chain rule. `objective_loss` is the fast
one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Targets with this value are not supervised.
IGNORE = -100

# Chunks of about 2^23 logits (32 MiB in float32), but never so few rows that the matrix products starve.
_CHUNK_LOGITS = 2**23
_CHUNK_ROWS = 256


def token_logp(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, chunk: int = 0) -> Tensor:
    """Log-probability of each target token [N] in nats; float32 (float64 if the inputs are), 0 where target
    is IGNORE.

    The softmax is taken in float32 whatever the dtype of hidden and weight: in bfloat16 it returns exactly 0
    for p < 1. Differentiable once; the backward pass recomputes the logits chunk by chunk. `chunk` rows at a
    time, 0: automatic.
    """
    return _TokenLogp.apply(hidden_ND, weight_VD, target_N, chunk)


def chunks(rows: int, vocabulary: int, chunk: int = 0) -> Iterator[slice]:
    """Slices that cover `rows` rows, `chunk` rows each (0: as many as a few tens of MiB of logits allow)."""
    size = chunk or max(_CHUNK_ROWS, _CHUNK_LOGITS // vocabulary)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def softmax_dtype(hidden_ND: Tensor) -> torch.dtype:
    return torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32


def log_softmax_of(hidden_CD: Tensor, weight_VD: Tensor) -> Tensor:
    """Log-probabilities of the whole vocabulary [C, V], float32 or float64."""
    return torch.log_softmax(hidden_CD @ weight_VD.T, dim=-1, dtype=softmax_dtype(hidden_CD))


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, without a temporary where the dtypes allow it (a float32 total of bfloat16 does not)."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


class _TokenLogp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, chunk: int) -> Tensor:
        logp_N = hidden_ND.new_zeros(len(target_N), dtype=softmax_dtype(hidden_ND))
        for part in chunks(len(target_N), len(weight_VD), chunk):
            seen = target_N[part] != IGNORE
            index = target_N[part].where(seen, 0)[:, None]
            logp_C = log_softmax_of(hidden_ND[part], weight_VD).gather(1, index)[:, 0]
            logp_N[part] = logp_C.where(seen, 0.0)
        ctx.save_for_backward(hidden_ND, weight_VD, target_N)
        ctx.chunk = chunk
        return logp_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_ND, weight_VD, target_N = ctx.saved_tensors
        d_hidden = torch.zeros_like(hidden_ND)
        d_weight = torch.zeros_like(weight_VD, dtype=softmax_dtype(hidden_ND))
        for part in chunks(len(target_N), len(weight_VD), ctx.chunk):
            hidden_CD = hidden_ND[part]
            seen = target_N[part] != IGNORE
            grad_C = grad_N[part].where(seen, 0.0)
            # d logp / dz = onehot - softmax
            dz_CV = log_softmax_of(hidden_CD, weight_VD).exp_().mul_(-grad_C[:, None])
            dz_CV.scatter_add_(1, target_N[part].where(seen, 0)[:, None], grad_C[:, None])
            dz_CV = dz_CV.to(hidden_ND.dtype)
            d_hidden[part] = dz_CV @ weight_VD
            add_product(d_weight, dz_CV.T, hidden_CD)
        return d_hidden, d_weight.to(weight_VD.dtype), None, None
