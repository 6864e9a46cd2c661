"""A chunk of rows of the vocabulary's distribution: what both heads compute logits into, use and forget."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

log = logging.getLogger(__name__)

# Targets with this value are not supervised.
IGNORE = -100

# Chunks of about 2^23 logits (32 MiB in float32), but never so few rows that the matrix products starve; 512 MiB on a
# GPU, which reads and writes the gradient of the whole output embedding once per chunk, so that there are to be few.
_CHUNK_LOGITS = {"cpu": 2**23, "cuda": 2**27}
_CHUNK_ROWS = 256


def chunks(rows: int, vocabulary: int, chunk: int = 0, device: str = "cpu") -> Iterator[slice]:
    """Slices that cover `rows` rows, `chunk` rows each (0: as many as suit the kind of device)."""
    size = chunk or max(_CHUNK_ROWS, _CHUNK_LOGITS.get(device, 2**23) // vocabulary)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def softmax_dtype(hidden_ND: Tensor) -> torch.dtype:
    """Of everything that follows the logits: in bfloat16 a softmax returns exactly 0 for log p of p < 1."""
    return torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32


@dataclass
class Distribution:
    """softmax = exp_CV / sum_C, not divided, in a buffer that its user may overwrite; log p of each row's target, and
    rest_C, the part of sum_C that is not the target's: 1 - p is rest_C / sum_C, exact however near p is to 1.
    """

    exp_CV: Tensor
    sum_C: Tensor
    rest_C: Tensor
    logp_C: Tensor

    def of(self, rows: Tensor) -> Distribution:
        return Distribution(self.exp_CV[rows], self.sum_C[rows], self.rest_C[rows], self.logp_C[rows])

    def gradient_(self, target_C: Tensor, softmax_C: Tensor, onehot_C: Tensor) -> Tensor:
        """softmax_C times the softmax less onehot_C times the target's one-hot vector [C, V], in the buffer."""
        dz_CV = self.exp_CV.mul_((softmax_C / self.sum_C)[:, None])
        at_target_C = (softmax_C - onehot_C) - softmax_C * (self.rest_C / self.sum_C)
        return dz_CV.scatter_(1, target_C[:, None], at_target_C[:, None])


def distribution(logits_CV: Tensor, target_C: Tensor) -> Distribution:
    """Of logits [C, V] in softmax_dtype, which are overwritten: no second buffer of their size."""
    at = target_C[:, None]
    logits_CV.sub_(logits_CV.amax(dim=1, keepdim=True))
    target_logit_C = logits_CV.gather(1, at)[:, 0]
    exp_CV = logits_CV.exp_()
    own_C1 = exp_CV.gather(1, at)
    rest_C = exp_CV.scatter_(1, at, 0.0).sum(dim=1)
    exp_CV.scatter_(1, at, own_C1)
    own_C = own_C1[:, 0]
    sum_C = rest_C + own_C
    # The logarithm of a p near 1 would be a difference of equal numbers.
    logp_C = torch.where(rest_C < own_C, -torch.log1p(rest_C / own_C), target_logit_C - sum_C.log())
    return Distribution(exp_CV, sum_C, rest_C, logp_C)


def logits(hidden_CD: Tensor, weight_VD: Tensor) -> Tensor:
    """[C, V] in softmax_dtype."""
    return (hidden_CD @ weight_VD.T).to(softmax_dtype(hidden_CD))


def entropy_of(found: Distribution, top: int) -> Tensor:
    """Entropy of each row's `top` most probable tokens among themselves, over the highest that it could be [C]."""
    kept_CK = found.exp_CV.topk(min(top, found.exp_CV.shape[1]), dim=1).values
    kept_CK = kept_CK / kept_CK.sum(dim=1, keepdim=True)
    return torch.special.entr(kept_CK).sum(dim=1) / math.log(kept_CK.shape[1])


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, without a temporary where that is possible; else products of bfloat16 are rounded to it
    before they are added to a float32 total.
    """
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif _adds_in_place(total.device, total.dtype, left.dtype):
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total += left @ right


@cache
def _adds_in_place(device: torch.device, total: torch.dtype, of: torch.dtype) -> bool:
    """Whether torch's product of `of` adds to a `total` of another dtype here: cuBLAS can, CPUs cannot."""
    if device.type != "cuda":
        return False
    left = torch.arange(64, device=device, dtype=torch.float32).reshape(8, 8).to(of)
    out = torch.full((8, 8), 0.5, device=device, dtype=total)
    expected = out + left.T.to(total) @ left.to(total)
    try:
        torch.addmm(out, left.T, left, out_dtype=total, out=out)
        added = bool(torch.equal(out, expected))
    except (RuntimeError, TypeError):  # another version of torch
        added = False
    if not added:
        log.warning(
            "torch %s cannot add products of %s to %s on %s: each chunk's are rounded to %s first, which takes another "
            "[V, D] of memory", torch.__version__, of, total, torch.cuda.get_device_name(device), of,
        )  # fmt: skip
    return added
