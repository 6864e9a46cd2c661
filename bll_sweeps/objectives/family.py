"""The objectives f(p) and their gradient weights, as functions of log p.

With p = softmax(z)[y], every objective has the gradient dL/dz = w(p) (softmax(z) - onehot(y)), w(p) = -p
f'(p) (paper, Lemma 3.1). Everything stays in log space: p^a is exp(a log p) and 1 - p is -expm1(log p), which
keep their relative accuracy where p is next to 0 or 1.

    family        f(p)               w(p)
    nll           -log p             1
    power         (1 - p^a) / a      p^a            (a = 0 is nll)
    convexity     -p^a / a           p^a
    unlikelihood  log(1 - p + e)     p / (1 - p + e)
    formula       Objective.formula  Objective.weight, else derived from the formula

A threshold keeps f where p >= q (`above`) or p <= q (`below`), both inclusive, and is 0 elsewhere (paper,
Section 5). Takes numpy arrays or torch tensors and returns the same; torch is not imported here.
"""

from __future__ import annotations

import math
import sys
from functools import lru_cache
from typing import Any

import numpy as np

from bll_sweeps.grid.axes import Objective
from bll_sweeps.grid.axes.formula import Formula

# Below this, power is nll to the last bit of float32, and alpha * logp could underflow.
_ALPHA_IS_ZERO = 1e-12


def value(objective: Objective, logp: Any, entropy: Any = None) -> Any:
    """f(p) of each token [any shape], in nats for nll; 0 where the threshold drops the token. `logp` in nats,
    <= 0. entropy: of the distribution at each token, 0 to 1, for objectives that need it.
    """
    xp, logp = _namespace(logp)
    if objective.family == "formula":
        out = _formula(objective.formula, objective)(xp, logp, entropy)[0] + xp.zeros_like(logp)
        return _where_kept(xp, objective, logp, out)
    family, alpha = objective.family, objective.alpha
    if _is_nll(objective):
        out = -logp
    elif family == "power":
        out = -xp.expm1(alpha * logp) / alpha
    elif family == "convexity":
        out = -xp.exp(alpha * logp) / alpha
    else:
        out = xp.log(-xp.expm1(logp) + objective.epsilon)
    return _where_kept(xp, objective, logp, out)


def weight(objective: Objective, logp: Any, entropy: Any = None) -> Any:
    """w(p) = -p f'(p) of each token [any shape]; 0 where the threshold drops it. As `value` otherwise."""
    xp, logp = _namespace(logp)
    if objective.family == "formula":
        own = _formula(objective.weight or objective.formula, objective)(xp, logp, entropy)
        out = (own[0] if objective.weight else -own[1]) + xp.zeros_like(logp)
        return _where_kept(xp, objective, logp, out)
    if _is_nll(objective):
        out = xp.ones_like(logp)
    elif objective.family in ("power", "convexity"):
        out = xp.exp(objective.alpha * logp)
    else:
        out = xp.exp(logp) / (-xp.expm1(logp) + objective.epsilon)
    return _where_kept(xp, objective, logp, out)


def kept(objective: Objective, logp: Any) -> Any:
    """Which tokens [any shape, bool] the objective's threshold keeps: p >= q or p <= q, compared as log p
    with log q.
    """
    xp, logp = _namespace(logp)
    if objective.keep == "all":
        return xp.ones_like(logp, dtype=xp.bool)
    cut = math.log(objective.threshold) if objective.threshold > 0 else -math.inf
    return logp >= cut if objective.keep == "above" else logp <= cut


def has_survivor_count(objective: Objective) -> bool:
    """Whether the loss is divided by the surviving tokens rather than by all supervised ones."""
    return objective.keep != "all" and objective.normaliser == "survivors"


def _is_nll(objective: Objective) -> bool:
    if objective.is_base:
        raise ValueError("objective.family='base' is the untrained backbone: it has no f(p)")
    return objective.family == "nll" or (objective.family == "power" and objective.alpha < _ALPHA_IS_ZERO)


def _formula(text: str, objective: Objective) -> Formula:
    return _parsed(text, tuple(objective.parameters.items()))


@lru_cache(maxsize=64)
def _parsed(text: str, parameters: tuple[tuple[str, float], ...]) -> Formula:
    return Formula(text, dict(parameters))


def _where_kept(xp: Any, objective: Objective, logp: Any, out: Any) -> Any:
    return out if objective.keep == "all" else xp.where(kept(objective, logp), out, 0.0)


def _namespace(logp: Any) -> tuple[Any, Any]:
    """The module whose functions fit `logp`, and `logp` as its array. A tensor means that torch is loaded
    already.
    """
    if type(logp).__module__.partition(".")[0] == "torch":
        return sys.modules["torch"], logp
    array = np.asarray(logp)
    return np, array if array.dtype.kind == "f" else array.astype(np.float64)
