"""A chunk of rows of the vocabulary's distribution: what both heads compute logits into, use and forget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Targets with this value are not supervised.
IGNORE = -100

# Chunks of about 2^23 logits (32 MiB in float32), but never so few rows that the matrix products starve.
_CHUNK_LOGITS = 2**23
_CHUNK_ROWS = 256


def chunks(rows: int, vocabulary: int, chunk: int = 0) -> Iterator[slice]:
    """Slices that cover `rows` rows, `chunk` rows each (0: as many as a few tens of MiB of logits allow)."""
    size = chunk or max(_CHUNK_ROWS, _CHUNK_LOGITS // vocabulary)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def softmax_dtype(hidden_ND: Tensor) -> torch.dtype:
    """Of everything that follows the logits: in bfloat16 a softmax returns exactly 0 for log p of p < 1."""
    return torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32


@dataclass
class Distribution:
    """softmax = exp_CV / sum_C, not divided, in a buffer that its user may overwrite; log p of each row's target."""

    exp_CV: Tensor
    sum_C: Tensor
    logp_C: Tensor

    def scaled_(self, factor_C: Tensor) -> Tensor:
        """factor times the softmax [C, V], in place."""
        return self.exp_CV.mul_((factor_C / self.sum_C)[:, None])


def distribution(logits_CV: Tensor, target_C: Tensor) -> Distribution:
    """Of logits [C, V] in softmax_dtype, which are overwritten: no second buffer of their size."""
    logits_CV.sub_(logits_CV.amax(dim=1, keepdim=True))
    target_logit_C = logits_CV.gather(1, target_C[:, None])[:, 0]
    exp_CV = logits_CV.exp_()
    sum_C = exp_CV.sum(dim=1)
    return Distribution(exp_CV, sum_C, target_logit_C - sum_C.log())


def logits(hidden_CD: Tensor, weight_VD: Tensor) -> Tensor:
    """[C, V] in softmax_dtype."""
    return (hidden_CD @ weight_VD.T).to(softmax_dtype(hidden_CD))


def entropy_of(found: Distribution, top: int) -> Tensor:
    """Entropy of each row's `top` most probable tokens among themselves, over the highest that it could be [C]."""
    kept_CK = found.exp_CV.topk(min(top, found.exp_CV.shape[1]), dim=1).values
    kept_CK = kept_CK / kept_CK.sum(dim=1, keepdim=True)
    return torch.special.entr(kept_CK).sum(dim=1) / math.log(kept_CK.shape[1])


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, without a temporary where the dtypes allow it (a float32 total of bfloat16 does not)."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
