"""The heads that a training can use, behind one interface: our own, the plain one that is the oracle, and other
projects' fused cross-entropies, from whose per-token loss any f(p) follows by the chain rule.

A head is checked before it is used, where it is used: some versions of some of those that others wrote give wrong
gradients as soon as tokens have different weights, and say nothing.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from bll_sweeps.errors import UsageError
from bll_sweeps.grid.axes import Objective
from bll_sweeps.grid.settings import HEADS
from bll_sweeps.objectives.chunks import IGNORE, distribution, entropy_of, logits, softmax_dtype
from bll_sweeps.objectives.family import kept, value, weight
from bll_sweeps.objectives.objective_loss import Base, objective_loss, require

# Gradients of a check may be off by this share of the largest: float32, and products in bfloat16.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 5e-2}


class Head(Protocol):
    """As objective_loss, less its chunk."""

    def __call__(
        self,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        target_N: Tensor,
        objective: Objective,
        denominator: float,
        *,
        base: Base | None = None,
    ) -> tuple[Tensor, Tensor]: ...


def head(name: str, objective: Objective) -> Head:
    """UsageError for one that is not installed, or that cannot compute the objective."""
    if name == "own":
        return objective_loss
    if name == "naive":
        return naive_loss
    if not objective.is_plain:
        needs = "needs more than log p of the target, which only own and naive compute"
        raise UsageError(f"execution.head={name!r}: objective {objective.name} {needs}")
    per_token = {"torch": _torch, "liger": _liger, "cut_cross_entropy": _cut_cross_entropy}[name]
    try:
        return _from_per_token(per_token())
    except ImportError as error:
        raise UsageError(f"execution.head={name!r} cannot be used ({error}); choose from {', '.join(HEADS)}") from None


def check_head(name: str, objective: Objective, device: torch.device, dtype: torch.dtype) -> None:
    """Compares a small gradient, tokens weighted very differently, with that of the plain one in float64. UsageError if
    they differ. dtype: what is computed in; the output embedding is at least float32, as in a training.
    """
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 32, generator=generator).to(device, dtype)
    table = torch.randn(300, 32, generator=generator).to(device, dtype)  # of `dtype` in value
    target = torch.randint(0, 300, (64,), generator=generator).to(device)
    target[::5] = IGNORE
    probe = Objective(name="probe", family="power", alpha=0.5)  # weights from 1e-8 to 1
    found = []
    tried = partial(objective_loss, chunk=24) if name == "own" else head(name, objective)  # its sums are tried too
    pairs: list[tuple[Head, torch.dtype]] = [(tried, dtype), (naive_loss, torch.float64)]
    for loss, of in pairs:
        master = torch.float32 if of == torch.bfloat16 else of
        inputs = hidden.to(of).requires_grad_(), table.to(master).requires_grad_()
        found.append(torch.autograd.grad(loss(*inputs, target, probe, 50.0)[0], inputs))
    worst = max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(*found, strict=True))
    if not worst <= _TOLERANCE[dtype]:
        raise UsageError(
            f"execution.head={name!r} gives wrong gradients here ({_version(name)}, {device.type}, {dtype}): off by "
            f"{worst:.2g} of the largest where tokens have different weights; choose another one (own)"
        )


def naive_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    objective: Objective,
    denominator: float,
    *,
    base: Base | None = None,
) -> tuple[Tensor, Tensor]:
    """objective_loss as one would write it: all logits at once, for autograd. The oracle of all others."""
    require(objective, denominator, base)
    seen_N = target_N != IGNORE
    logits_NV = hidden_ND @ weight_VD.to(hidden_ND.dtype).T
    all_NV = torch.log_softmax(logits_NV, dim=-1, dtype=softmax_dtype(hidden_ND))[seen_N]
    logp_M = all_NV.gather(1, target_N[seen_N][:, None])[:, 0]
    entropy_M = None
    if objective.needs_entropy:
        with torch.no_grad():
            found = distribution(all_NV.detach().clone(), target_N[seen_N])
            entropy_M = entropy_of(found, objective.entropy_top)
    loss_M = _f(objective, logp_M, entropy_M)
    if objective.smoothing:
        kept_M = kept(objective, logp_M.detach()).to(logp_M.dtype)
        loss_M = (1 - objective.smoothing) * loss_M - objective.smoothing * kept_M * all_NV.mean(dim=1)
    if objective.anchor and base is not None:
        base_MV = torch.log_softmax(logits(base.hidden_ND[seen_N], base.weight_VD), dim=1).to(all_NV.dtype)
        loss_M = loss_M + objective.anchor * (base_MV.exp() * (base_MV - all_NV)).sum(dim=1)
    logp_N = torch.zeros_like(seen_N, dtype=logp_M.dtype).masked_scatter(seen_N, logp_M.detach())
    return loss_M.sum() / denominator if denominator else loss_M.sum() * 0.0, logp_N


def _f(objective: Objective, logp: Tensor, entropy: Tensor | None) -> Tensor:
    """f of log p, whose gradient is the objective's weight also where that is not the derivative of f."""
    if objective.family != "formula":
        return value(objective, logp)
    told, w = value(objective, logp.detach(), entropy), weight(objective, logp.detach(), entropy)
    return told - w * (logp - logp.detach())


def _from_per_token(nll: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Head:
    """The head of a fused cross-entropy that returns a loss per row, 0 for IGNORE."""

    def loss(
        hidden_ND: Tensor,
        weight_VD: Tensor,
        target_N: Tensor,
        objective: Objective,
        denominator: float,
        *,
        base: Base | None = None,
    ) -> tuple[Tensor, Tensor]:
        require(objective, denominator, base)
        logp_N = -nll(hidden_ND, weight_VD.to(hidden_ND.dtype), target_N).to(softmax_dtype(hidden_ND))
        logp_N = logp_N - logp_N.detach().clamp(min=0)  # rounding of theirs may leave it above 0
        seen_N = target_N != IGNORE
        total = _f(objective, logp_N[seen_N], None).sum()
        return total / denominator if denominator else total * 0.0, logp_N.detach()

    return loss


def _torch() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    options = torch.nn.LinearCrossEntropyOptions()
    return lambda hidden, weight, target: torch.nn.functional.linear_cross_entropy(
        hidden, weight, target, reduction="none", ignore_index=IGNORE, options=options
    )


def _liger() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    def nll(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        found: Any = liger_fused_linear_cross_entropy(hidden, weight, target, ignore_index=IGNORE, reduction="none")
        return getattr(found, "loss", found)

    return nll


def _cut_cross_entropy() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    from cut_cross_entropy import linear_cross_entropy

    return lambda hidden, weight, target: linear_cross_entropy(
        hidden, weight, target, ignore_index=IGNORE, reduction="none"
    )


def _version(name: str) -> str:
    package = {"own": "torch", "liger": "liger-kernel", "cut_cross_entropy": "cut-cross-entropy"}.get(name, name)
    return f"{package} {importlib.metadata.version(package)}"
