"""Log-probability of each target token from hidden states, without ever holding all logits.

Every objective is `family.value` of this, by the chain rule. `objective_loss` is the faster way to it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bll_sweeps.objectives.chunks import (
    IGNORE,
    add_product,
    chunks,
    distribution,
    entropy_of,
    logits,
    softmax_dtype,
)


def token_logp(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, chunk: int = 0) -> Tensor:
    """Log-probability of each target token [N] in nats; float32 (float64 if the inputs are), 0 where target
    is IGNORE.

    The softmax is taken in float32 whatever the dtype of hidden and weight; products are of hidden's, the weight may be
    wider. Differentiable once; the backward pass recomputes the logits chunk by chunk, of rows alone whose gradient is
    not zero. `chunk` rows at a time, 0: automatic.
    """
    return _TokenLogp.apply(hidden_ND, weight_VD, target_N, chunk, 0)[0]


def token_logp_and_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, top: int, chunk: int = 0
) -> tuple[Tensor, Tensor]:
    """token_logp, and beside it how unsure the model is: entropy of the `top` most probable tokens among themselves,
    over log(top) [N], 0 to 1, without gradient, 0 where target is IGNORE.
    """
    return _TokenLogp.apply(hidden_ND, weight_VD, target_N, chunk, top)


class _TokenLogp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, master_VD: Tensor, target_N: Tensor, chunk: int, top: int
    ) -> tuple[Tensor, Tensor]:
        weight_VD = master_VD.to(hidden_ND.dtype)
        logp_N = hidden_ND.new_zeros(len(target_N), dtype=softmax_dtype(hidden_ND))
        entropy_N = torch.zeros_like(logp_N) if top else logp_N.new_empty(0)
        rows = (target_N != IGNORE).nonzero()[:, 0]
        for part in chunks(len(rows), len(weight_VD), chunk, weight_VD.device.type):
            index = rows[part]
            found = distribution(logits(hidden_ND[index], weight_VD), target_N[index])
            logp_N[index] = found.logp_C
            if top:
                entropy_N[index] = entropy_of(found, top)
            del found  # before the next chunk's logits are made
        ctx.save_for_backward(hidden_ND, master_VD, target_N)
        ctx.chunk = chunk
        ctx.mark_non_differentiable(entropy_N)
        return logp_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden_ND, master_VD, target_N = ctx.saved_tensors
        weight_VD = master_VD.to(hidden_ND.dtype)
        wanted = ctx.needs_input_grad
        d_hidden = torch.zeros_like(hidden_ND) if wanted[0] else None
        d_weight = torch.zeros_like(weight_VD, dtype=softmax_dtype(hidden_ND)) if wanted[1] else None
        rows = ((target_N != IGNORE) & (grad_N != 0)).nonzero()[:, 0]
        for part in chunks(len(rows), len(weight_VD), ctx.chunk, weight_VD.device.type):
            index = rows[part]
            hidden_CD, target_C, grad_C = hidden_ND[index], target_N[index], grad_N[index]
            # d logp / dz = onehot - softmax
            dz_CV = distribution(logits(hidden_CD, weight_VD), target_C).gradient_(target_C, -grad_C, -grad_C)
            dz_CV = dz_CV.to(hidden_ND.dtype)
            if d_hidden is not None:
                d_hidden[index] = dz_CV @ weight_VD
            if d_weight is not None:
                add_product(d_weight, dz_CV.T, hidden_CD)
            del dz_CV
        return d_hidden, None if d_weight is None else d_weight.to(master_VD.dtype), None, None, None
