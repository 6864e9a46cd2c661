"""The loss of any objective from hidden states, with the gradient formed in the forward pass.

For every objective dL/dz = w(p) (softmax - onehot) / denominator, and w is known as soon as log p is. So each
chunk of logits is used for the value and for the gradient while it exists: three matrix products per row,
where recomputation needs four. Rows whose w is 0, because a threshold drops them or p^alpha underflows, skip
the two of the gradient: exact.

Beside f(p) a loss may have two parts of the whole distribution: smoothing, mean_v(-log p_v), whose gradient is
softmax - 1/V, and an anchor, KL(q || softmax) to the base model's q, whose gradient is softmax - q.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bll_sweeps.grid.axes import Objective
from bll_sweeps.objectives.chunks import (
    IGNORE,
    Distribution,
    add_product,
    chunks,
    distribution,
    entropy_of,
    logits,
    softmax_dtype,
)
from bll_sweeps.objectives.family import kept, value, weight


class Base(NamedTuple):
    """Hidden states [N, D'] and output embedding [V, D'] of the base model, alike in dtype: an anchor needs them."""

    hidden_ND: Tensor
    weight_VD: Tensor


def objective_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    objective: Objective,
    denominator: float,
    chunk: int = 0,
    base: Base | None = None,
) -> tuple[Tensor, Tensor]:
    """(sum over tokens of f(p) / denominator: a scalar, log p of each target token [N], detached, in nats).

    Float32, or float64 if the inputs are. The embedding may be wider than the hidden states, as a master copy in
    float32 is: products are of the hidden states' dtype, its gradient is of its own. `denominator` is the caller's
    count of tokens over the whole step (all of them, or the survivors); a denominator of 0 gives a loss of 0. Tokens
    whose target is IGNORE count for nothing, and their log p is 0. The loss is differentiable once, in hidden and
    weight. ValueError for a negative denominator, and for an anchor without a base model.
    """
    require(objective, denominator, base)
    wanted = torch.is_grad_enabled() and (hidden_ND.requires_grad, weight_VD.requires_grad)
    base = base if objective.anchor else None
    return _ObjectiveLoss.apply(
        hidden_ND, weight_VD, target_N, objective, float(denominator), chunk, base, wanted or (False, False)
    )


def require(objective: Objective, denominator: float, base: Base | None) -> None:
    """What every head must be given."""
    if not denominator >= 0:
        raise ValueError(f"denominator={denominator!r} must be >= 0")
    if objective.anchor and base is None:
        raise ValueError(f"objective.anchor={objective.anchor!r} needs the base model's hidden states and head")


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
        base: Base | None,
        wanted: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor]:
        dtype, master = softmax_dtype(hidden_ND), weight_VD.dtype
        weight_VD = weight_VD.to(hidden_ND.dtype)
        scale = 1.0 / denominator if denominator else 0.0
        d_hidden = torch.zeros_like(hidden_ND) if wanted[0] else None
        d_weight = torch.zeros_like(weight_VD, dtype=dtype) if wanted[1] else None
        logp_N = hidden_ND.new_zeros(len(target_N), dtype=dtype)
        total = hidden_ND.new_zeros((), dtype=torch.float64)
        rows = (target_N != IGNORE).nonzero()[:, 0]
        everything = len(rows) == len(target_N)
        for part in chunks(len(rows), len(weight_VD), chunk, weight_VD.device.type):
            index: Any = part if everything else rows[part]
            hidden_CD, target_C = hidden_ND[index], target_N[index]
            rows_of = _Rows(objective, logits(hidden_CD, weight_VD), target_C, base, index)
            logp_N[index] = rows_of.found.logp_C
            total += rows_of.loss_C.sum(dtype=torch.float64)
            if any(wanted):
                active = rows_of.active()
                dz_CV = rows_of.gradient(active, scale).to(hidden_CD.dtype)
                if active is not None:
                    hidden_CD = hidden_CD[active]
                    index = active + index.start if isinstance(index, slice) else index[active]
                if d_hidden is not None:
                    d_hidden[index] = dz_CV @ weight_VD
                if d_weight is not None:
                    add_product(d_weight, dz_CV.T, hidden_CD)
                del dz_CV
            del rows_of  # before the next chunk's logits are made
        # Saved as tensors, so that backward() frees them.
        ctx.save_for_backward(d_hidden, None if d_weight is None else d_weight.to(master))
        ctx.mark_non_differentiable(logp_N)
        return (total * scale).to(dtype), logp_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
        d_hidden, d_weight = ctx.saved_tensors
        factor = grad.item()  # a number, which is not rounded to the gradients' dtype
        if factor != 1:  # else no second [V, D] is made: autograd takes this one over as the gradient
            d_hidden, d_weight = (None if d is None else d * factor for d in (d_hidden, d_weight))
        return d_hidden, d_weight, None, None, None, None, None, None


class _Rows:
    """The loss of a chunk's rows, and its gradient in their logits, which are overwritten."""

    def __init__(self, objective: Objective, logits_CV: Tensor, target_C: Tensor, base: Base | None, index: Any):
        smoothing, self._target_C = objective.smoothing, target_C
        mean_C = logits_CV.mean(dim=1) - logits_CV.amax(dim=1) if smoothing else None
        self._base_CV, self._anchor = None, objective.anchor
        if base is not None:
            self._base_CV = torch.softmax(logits(base.hidden_ND[index], base.weight_VD), dim=1).to(logits_CV.dtype)
            cross_C = (self._base_CV * (logits_CV - logits_CV.amax(dim=1, keepdim=True))).sum(dim=1)
        self.found: Distribution = distribution(logits_CV, target_C)
        logp_C = self.found.logp_C
        entropy_C = entropy_of(self.found, objective.entropy_top) if objective.needs_entropy else None
        self.loss_C = value(objective, logp_C, entropy_C)
        self._w_C, self._uniform_C = weight(objective, logp_C, entropy_C), None
        if mean_C is not None:
            kept_C = kept(objective, logp_C).to(logp_C.dtype)
            self.loss_C = (1 - smoothing) * self.loss_C + smoothing * kept_C * (self.found.sum_C.log() - mean_C)
            self._w_C, self._uniform_C = (1 - smoothing) * self._w_C, smoothing * kept_C
        if self._base_CV is not None:
            kl_C = self.found.sum_C.log() - cross_C - torch.special.entr(self._base_CV).sum(dim=1)
            self.loss_C = self.loss_C + self._anchor * kl_C

    def _softmax_factor(self) -> Tensor:
        factor_C = self._w_C if self._uniform_C is None else self._w_C + self._uniform_C
        return factor_C if self._base_CV is None else factor_C + self._anchor

    def active(self) -> Tensor | None:
        """Numbers of the rows with a gradient; None if all have one."""
        if self._base_CV is not None:
            return None
        has_one = self._w_C != 0 if self._uniform_C is None else (self._w_C != 0) | (self._uniform_C != 0)
        found = has_one.nonzero()[:, 0]
        return None if len(found) == len(self._w_C) else found

    def gradient(self, active: Tensor | None, scale: float) -> Tensor:
        """scale times dL/dz of the active rows [A, V], in the buffer of the logits."""
        found, factor_C, w_C, target_C = self.found, self._softmax_factor(), self._w_C, self._target_C
        uniform_C = self._uniform_C
        if active is not None:
            found, factor_C, w_C, target_C = found.of(active), factor_C[active], w_C[active], target_C[active]
            uniform_C = None if uniform_C is None else uniform_C[active]
        dz_CV = found.gradient_(target_C, factor_C * scale, w_C * scale)
        if uniform_C is not None:
            dz_CV.sub_((uniform_C * (scale / dz_CV.shape[1]))[:, None])
        if self._base_CV is not None:
            dz_CV.sub_(self._base_CV, alpha=self._anchor * scale)
        return dz_CV
