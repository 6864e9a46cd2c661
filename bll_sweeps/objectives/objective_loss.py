"""The loss of any objective from hidden states, with the gradient formed in the forward pass.

For every objective dL/dz = w(p) (softmax - onehot) / denominator, and w is known as soon as log p is. So each
chunk of logits is used for the value and for the gradient while it exists: three matrix products per row,
where recomputation needs four. Rows whose w is 0, because a threshold drops them or p^alpha underflows, skip
the two of the gradient: exact.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bll_sweeps.grid.axes import Objective
from bll_sweeps.objectives.family import value, weight
from bll_sweeps.objectives.token_logp import IGNORE, add_product, chunks, log_softmax_of, softmax_dtype


def objective_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    objective: Objective,
    denominator: float,
    chunk: int = 0,
) -> tuple[Tensor, Tensor]:
    """(sum over tokens of f(p) / denominator: a scalar, log p of each target token [N], detached, in nats).

    Float32, or float64 if the inputs are. `denominator` is the caller's count of tokens over the whole step
    (all of them, or the survivors); a denominator of 0 gives a loss of 0. Tokens whose target is IGNORE count
    for nothing, and their log p is 0. The loss is differentiable once, in hidden and weight.
    """
    if denominator < 0:
        raise ValueError(f"denominator={denominator!r} must be >= 0")
    wanted = torch.is_grad_enabled() and (hidden_ND.requires_grad, weight_VD.requires_grad)
    return _ObjectiveLoss.apply(
        hidden_ND, weight_VD, target_N, objective, float(denominator), chunk, wanted or (False, False)
    )


class _ObjectiveLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        target_N: Tensor,
        objective: Objective,
        denominator: float,
        chunk: int,
        wanted: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor]:
        dtype = softmax_dtype(hidden_ND)
        scale = 1.0 / denominator if denominator else 0.0
        d_hidden = torch.zeros_like(hidden_ND) if wanted[0] else None
        d_weight = torch.zeros_like(weight_VD, dtype=dtype) if wanted[1] else None
        logp_N = hidden_ND.new_zeros(len(target_N), dtype=dtype)
        total = hidden_ND.new_zeros((), dtype=torch.float64)
        rows = (target_N != IGNORE).nonzero()[:, 0]
        everything = len(rows) == len(target_N)
        for part in chunks(len(rows), len(weight_VD), chunk):
            index: Any = part if everything else rows[part]
            hidden_CD, target_C = hidden_ND[index], target_N[index]
            all_CV = log_softmax_of(hidden_CD, weight_VD)
            logp_C = all_CV.gather(1, target_C[:, None])[:, 0]
            logp_N[index] = logp_C
            total += value(objective, logp_C).sum(dtype=torch.float64)
            if any(wanted):
                w_C = weight(objective, logp_C).mul_(scale)
                _add_gradient(all_CV, hidden_CD, weight_VD, target_C, w_C, index, d_hidden, d_weight)
        # Saved as tensors, so that backward() frees them.
        ctx.save_for_backward(d_hidden, None if d_weight is None else d_weight.to(weight_VD.dtype))
        ctx.mark_non_differentiable(logp_N)
        return (total * scale).to(dtype), logp_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
        d_hidden, d_weight = (None if d is None else d * grad.to(d.dtype) for d in ctx.saved_tensors)
        return d_hidden, d_weight, None, None, None, None, None


def _add_gradient(
    all_CV: Tensor,
    hidden_CD: Tensor,
    weight_VD: Tensor,
    target_C: Tensor,
    w_C: Tensor,
    index: Any,
    d_hidden: Tensor | None,
    d_weight: Tensor | None,
) -> None:
    """Adds the chunk's part of both gradients; `all_CV` holds log-probabilities and is overwritten."""
    active = w_C.nonzero()[:, 0]
    if len(active) == 0:
        return
    if len(active) < len(w_C):
        all_CV, hidden_CD, target_C, w_C = all_CV[active], hidden_CD[active], target_C[active], w_C[active]
        index = active + index.start if isinstance(index, slice) else index[active]
    dz_CV = all_CV.exp_().mul_(w_C[:, None])
    dz_CV.scatter_add_(1, target_C[:, None], -w_C[:, None])
    dz_CV = dz_CV.to(hidden_CD.dtype)
    if d_hidden is not None:
        d_hidden[index] = dz_CV @ weight_VD
    if d_weight is not None:
        add_product(d_weight, dz_CV.T, hidden_CD)
