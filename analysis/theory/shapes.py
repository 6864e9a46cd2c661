"""Gradient shapes W_f(p) = -f'(p) p (1 - p) and what convexity says about where they peak (paper, Section 3).

With p = softmax(z)[y], -df(p)/dz_y = W_f(p) (paper, Lemma 3.1): how hard an objective pulls at a token of
probability p. Proposition 3.2: where f is concave, W_f peaks in [1/2, 1]; where it is convex, in [0, 1/2].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bll_sweeps.grid.axes import Objective
from bll_sweeps.objectives import family

Array = NDArray[np.float64]
Curvature = Literal["convex", "concave", "linear", "neither"]

# The nine objectives of the main catalogue, by the names of their configuration files (paper, Sections 4 and 5).
MAIN = {
    objective.name: objective
    for objective in (
        Objective(name="nll", family="nll"),
        Objective(name="p", family="power", alpha=1.0),
        Objective(name="p10", family="power", alpha=10.0),
        Objective(name="p0.1", family="power", alpha=0.1),
        Objective(name="p0.5", family="power", alpha=0.5),
        Objective(name="p_above", family="power", alpha=1.0, keep="above", threshold=0.2),
        Objective(name="logp_above", family="nll", keep="above", threshold=0.2),
        Objective(name="logp_below", family="nll", keep="below", threshold=0.2),
        Objective(name="unlikelihood", family="unlikelihood"),
    )
}
# Where Proposition 3.2 puts the peak of W_f. A linear f is both, which leaves 1/2.
HALVES: dict[Curvature, tuple[float, float]] = {"convex": (0.0, 0.5), "concave": (0.5, 1.0), "linear": (0.5, 0.5)}
_LEAST_LOGP = -690.0
_GRID = 400  # cells of the grid on which curvature is decided
_FINE = 100_000  # cells of the grid on which the peak is looked for
_PEAK_ERROR = 1e-5  # a peak's distance from its grid point is at most one cell


def gradient_shape(objective: Objective, p: ArrayLike) -> Array:
    """W_f(p) of probabilities p in [0, 1] [any shape]; at p = 0 its limit. 0 where a threshold drops the token.

    W_f is the pull on the target's own logit: `family.weight`, which is -p f'(p), times 1 - p (paper, Lemma 3.1).
    """
    p = np.asarray(p, dtype=float)
    return np.asarray(weight(objective, p) * (1 - p))


def weight(objective: Objective, p: ArrayLike) -> Array:
    """w(p) = -p f'(p) of probabilities p in [0, 1] [any shape]; at p = 0 its limit."""
    with np.errstate(divide="ignore"):
        logp = np.log(np.asarray(p, dtype=float))
    if objective.family == "formula":
        logp = np.maximum(logp, _LEAST_LOGP)  # where p times log p is 0, and not undefined
    return np.asarray(family.weight(objective, logp))


def peak(objective: Objective) -> float:
    """The p in [0, 1] at which W_f is largest, to 1e-5; the smallest such p."""
    p_G = np.linspace(0, 1, _FINE + 1)
    return float(p_G[np.argmax(gradient_shape(objective, p_G))])


def curvature(objective: Objective) -> Curvature:
    """Whether f is convex or concave on (0, 1], by definition: f((a + b)/2) against (f(a) + f(b))/2.

    Decided over all pairs of a grid of 400 cells, up to rounding. A threshold makes a jump, so f is usually neither. Of
    an objective that gives its weight, f is what has that weight: f' = -w / p rises or falls.
    """
    if objective.weight:
        p_G = np.arange(1, _GRID + 1) / _GRID
        rise = np.diff(-weight(objective, p_G) / p_G)
        return _curvature(rise, 1e-9)
    f_G = np.asarray(family.value(objective, np.log(np.arange(1, _GRID + 1) / _GRID)))
    first, last = np.triu_indices(_GRID, 1)
    even = (first + last) % 2 == 0
    first, last = first[even], last[even]
    gap = (f_G[first] + f_G[last]) / 2 - f_G[(first + last) // 2]
    return _curvature(gap, 1e-12 * max(float(np.abs(f_G).max()), 1.0))


def _curvature(gap: Array, slack: float) -> Curvature:
    convex, concave = bool((gap >= -slack).all()), bool((gap <= slack).all())
    if convex and concave:
        return "linear"
    return "convex" if convex else "concave" if concave else "neither"


@dataclass(frozen=True)
class Proposition:
    """Proposition 3.2 for one objective. `half` and `holds` are None where f is neither convex nor concave."""

    curvature: Curvature
    peak: float
    half: tuple[float, float] | None
    holds: bool | None


def proposition_3_2(objective: Objective) -> Proposition:
    """What Proposition 3.2 says of the objective, and whether the peak of its W_f lies there."""
    bends, at = curvature(objective), peak(objective)
    half = HALVES.get(bends)
    holds = None if half is None else half[0] - _PEAK_ERROR <= at <= half[1] + _PEAK_ERROR
    return Proposition(bends, at, half, holds)
