"""Where two objectives trade places under label noise, and what Theorem 6.4 (E.8) asks for (paper, Sections 6, E).

f1 leans on the prior (-p), f2 does not (-log p). D is the initial rate of risk reduction of f1 less that of f2. It is
linear in the noise rate: D = (1 - noise) A + noise B, with A its value where all labels are true and B where all are
wrong. So they trade places at noise = -A / (B - A) = |A| / (B - A), the bound in the theorem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.theory.base_model import MASS_HIGH, MASS_LOW, STRONG_SHARE, BaseModel, tempered
from analysis.theory.flow import rates
from analysis.theory.shapes import weight
from bll_sweeps.errors import ConfigError, one_of
from bll_sweeps.grid.axes import Objective

Array = NDArray[np.float64]
End = Literal["strong", "weak"]

# The constants of Lemma E.7. We find them again as: the largest p(y*) p(wrong) (sum p_k^2 - mass) of any distribution,
# and the smallest mass - sum p_k^2 of one whose mass p(y*) + p(wrong) lies in [.55, .95].
LEMMA_E7_GAIN = (11 * math.sqrt(33) - 59) / 768  # 0.00546
LEMMA_E7_LOSS = 0.045
RATIO = 10.0  # the theorem asks for c < 10 d
_GRID = 20_000


@dataclass(frozen=True)
class Trade:
    """D where all labels are true (`clean`, A) and where all are wrong (`noisy`, B)."""

    clean: float
    noisy: float

    @property
    def noise(self) -> float:
        """The noise rate at which D is zero, |A| / (B - A) where A <= 0 <= B; nan where D has no zero in [0, 1]."""
        gap = self.noisy - self.clean
        at = -self.clean / gap if gap != 0 else math.nan
        return at if 0 <= at <= 1 else math.nan

    @property
    def least_noise(self) -> float:
        """|A| / (B - A), which the noise rate has to exceed; infinite where wrong labels do not favour f1."""
        gap = self.noisy - self.clean
        return abs(self.clean) / gap if gap > 0 else math.inf

    def at(self, noise: float) -> float:
        """D at a noise rate."""
        return (1 - noise) * self.clean + noise * self.noisy


def trade(f1: Objective, f2: Objective, model: BaseModel) -> Trade:
    """A and B of two objectives at a base model, in closed form."""
    (clean1, noisy1), (clean2, noisy2) = rates(f1, model), rates(f2, model)
    return Trade(clean1 - clean2, noisy1 - noisy2)


@dataclass(frozen=True)
class TradeMap:
    """D over noise rates and prior strengths. holds_SE: where all that the theorem asks of prior and noise is given."""

    noise_E: Array
    strength_S: Array
    rate_SE: Array
    line_S: Array  # the noise rate at which D is zero; nan where there is none
    holds_SE: NDArray[np.bool_]
    ratio: float  # c / d


def trade_map(
    f1: Objective, f2: Objective, model: BaseModel, noises: Sequence[float], shares: Sequence[float]
) -> TradeMap:
    """D on a grid noise x prior strength: the base model's logits times each share, from 0 (uniform) to 1 (`model`)."""
    noise_E, models = np.asarray(noises, dtype=float), [tempered(model, share) for share in shares]
    trades = [trade(f1, f2, one) for one in models]
    c, d = slack(f1, f2)
    strong_S = np.array([all(one.holds for one in prior_conditions(m)) for m in models])
    least_S = np.array([one.least_noise for one in trades])
    return TradeMap(
        noise_E=noise_E,
        strength_S=np.array([one.strength for one in models]),
        rate_SE=np.array([[one.at(e) for e in noise_E] for one in trades]),
        line_S=np.array([one.noise for one in trades]),
        holds_SE=strong_S[:, None] & (noise_E > least_S[:, None]),
        ratio=_ratio(c, d),
    )


# --- the theorem's conditions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """One condition: `value` and `bound` are its two sides."""

    name: str
    value: float
    bound: float
    holds: bool


@dataclass(frozen=True)
class Verdict:
    """The theorem's conditions at one end, each with its numbers; `holds` where all do."""

    end: End
    conditions: tuple[Condition, ...]

    @property
    def holds(self) -> bool:
        return all(one.holds for one in self.conditions)


def theorem_holds(f1: Objective, f2: Objective, noise: float, model: BaseModel, end: End = "strong") -> Verdict:
    """What Theorem 6.4 asks for, so that initially f1 reduces the risk at least as fast as f2 (strong end) or at most
    as fast (weak end).

    A and B are taken as the exact means over the model's contexts (`trade`). The weak end has one condition that is
    ours: noise <= 1 - 1/V, above which a label says less than none.

    Raises ConfigError for another end.
    """
    if end not in ("strong", "weak"):
        raise ConfigError("end", end, one_of(("strong", "weak"), end))
    steeper = _steeper(f1, f2)
    if end == "weak":
        vocabulary = model.vocabulary
        spread = float(np.abs(model.probabilities() - 1 / vocabulary).max())
        return Verdict(
            end,
            (
                steeper,
                Condition("max |p - 1/V| = 0", spread, 0.0, spread < 1e-12),
                Condition("2/V < .55", 2 / vocabulary, MASS_LOW, 2 / vocabulary < MASS_LOW),
                Condition("noise <= 1 - 1/V", noise, 1 - 1 / vocabulary, noise <= 1 - 1 / vocabulary),
            ),
        )
    c, d = slack(f1, f2)
    least = trade(f1, f2, model).least_noise
    return Verdict(
        end,
        (
            steeper,
            Condition("c/d < 10", _ratio(c, d), RATIO, _ratio(c, d) < RATIO),
            *prior_conditions(model),
            Condition("noise > |A| / (B - A)", noise, least, noise > least),
        ),
    )


def prior_conditions(model: BaseModel) -> tuple[Condition, Condition]:
    """Assumptions 6.1 and 6.2 at the strong end, with K as large as the model allows: K = Pr[mass >= .55]."""
    known, middle = model.share(MASS_LOW), model.share(MASS_LOW, MASS_HIGH)
    return (
        Condition("Pr[mass >= .55] >= .70", known, STRONG_SHARE, known >= STRONG_SHARE - 1e-12),
        Condition("Pr[.55 <= mass <= .95] >= 1 - K", middle, 1 - known, middle >= 1 - known - 1e-12),
    )


def slack(f1: Objective, f2: Objective) -> tuple[float, float]:
    """c and d of the theorem: the largest -q (f2' - f1')(q) over [0, .55] and the smallest over [.55, .95].

    -q (f2' - f1')(q) is w2(q) - w1(q). As suprema on a grid of 20,000 points, ends included.
    """
    low_G, high_G = np.linspace(0, MASS_LOW, _GRID + 1), np.linspace(MASS_LOW, MASS_HIGH, _GRID + 1)
    c = float((weight(f2, low_G) - weight(f1, low_G)).max())
    d = float((weight(f2, high_G) - weight(f1, high_G)).min())
    return c, d


def _ratio(c: float, d: float) -> float:
    return c / d if d > 0 else math.inf


def _steeper(f1: Objective, f2: Objective) -> Condition:
    """f2' - f1' < 0 on (0, 1): by its largest value."""
    p_G = np.arange(1, _GRID) / _GRID
    largest = float(((weight(f1, p_G) - weight(f2, p_G)) / p_G).max())
    return Condition("max (f2' - f1') < 0", largest, 0.0, largest < 0)
