"""The base model of the theory: how probable it finds the true and the wrong label, context by context.

A context is an input x; the base model's p(. | x) over a vocabulary of V labels gives its true label y* probability
t, the label that a noisy demonstration names instead probability u, and every other label the same share of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bll_sweeps.errors import ConfigError

Array = NDArray[np.float64]

VOCABULARY = 100
# The mass p(y*) + p(wrong label) that Assumptions 6.1 and 6.2 speak of, and how often a strong model reaches it.
MASS_LOW, MASS_HIGH, STRONG_SHARE = 0.55, 0.95, 0.70


@dataclass(frozen=True)
class BaseModel:
    """A population of N kinds of context.

    true_N, wrong_N: p of the true and of the wrong label, above 0 and together below 1. weight_N: how common each kind
    is, summing to 1. Raises ConfigError for anything else.
    """

    true_N: Array
    wrong_N: Array
    weight_N: Array
    vocabulary: int = VOCABULARY

    def __post_init__(self) -> None:
        _check(self.vocabulary >= 3, "vocabulary", self.vocabulary, "must be at least 3: true, wrong and another label")
        shapes = [np.shape(values) for values in (self.true_N, self.wrong_N, self.weight_N)]
        _check(len(set(shapes)) == 1 and len(shapes[0]) == 1, "true_N", shapes, "must be as long as wrong_N, weight_N")
        for key in ("true_N", "wrong_N"):
            values = getattr(self, key)
            _check(bool((values > 0).all()), key, list(values), "must be > 0: a softmax gives no label probability 0")
        mass_N = self.mass_N
        _check(bool((mass_N < 1).all()), "true_N", list(mass_N), "plus wrong_N must be < 1")
        weights = list(self.weight_N)
        sums_to_one = min(weights) >= 0 and abs(sum(weights) - 1) < 1e-9
        _check(sums_to_one, "weight_N", weights, "must be >= 0 and sum to 1")

    @property
    def mass_N(self) -> Array:
        """p(y*) + p(wrong label) of each context."""
        return np.asarray(self.true_N + self.wrong_N)

    @property
    def strength(self) -> float:
        """Prior strength: mean p of the true label (paper, Eq. 5, on clean answers)."""
        return float(self.weight_N @ self.true_N)

    def probabilities(self) -> Array:
        """p(. | x) of each context [N, V]: column 0 the true label, column 1 the wrong one."""
        rest_N = (1 - self.mass_N) / (self.vocabulary - 2)
        others_NV = np.repeat(rest_N[:, None], self.vocabulary - 2, axis=1)
        return np.concatenate([self.true_N[:, None], self.wrong_N[:, None], others_NV], axis=1)

    def share(self, low: float, high: float = 1.0) -> float:
        """Share of contexts whose mass lies in [low, high]."""
        inside_N = (self.mass_N >= low - 1e-12) & (self.mass_N <= high + 1e-12)
        return float(self.weight_N @ inside_N)


def weak(vocabulary: int = VOCABULARY) -> BaseModel:
    """The weak end: uniform over the vocabulary in every context (paper, Assumption 6.1)."""
    one = np.ones(1)
    return BaseModel(one / vocabulary, one / vocabulary, one, vocabulary)


def strong(vocabulary: int = VOCABULARY, known: float = 0.8) -> BaseModel:
    """A strong end (paper, Assumptions 6.1, 6.2): mass >= .55 with probability K = `known`, in [.55, .95] with 1-K.

    Three kinds of context: it is sure of the true label (.96, wrong .01) with probability 2K - 1, leans to it (.70,
    wrong .10) with 1 - K, and knows nothing, uniform, with 1 - K. The assumption leaves these numbers open.

    Raises ConfigError for K outside [.70, 1].
    """
    _check(STRONG_SHARE <= known <= 1, "known", known, f"must be in [{STRONG_SHARE}, 1] (paper, Assumption 6.1)")
    _check(vocabulary > 3, "vocabulary", vocabulary, "must be > 3: 2/V must be below .55 (paper, Assumption 6.1)")
    weight_N = np.array([2 * known - 1, 1 - known, 1 - known])
    return BaseModel(
        np.array([0.96, 0.70, 1 / vocabulary]), np.array([0.01, 0.10, 1 / vocabulary]), weight_N, vocabulary
    )


def tempered(model: BaseModel, share: float) -> BaseModel:
    """The model with its logits times `share`: 0 is the uniform model, 1 the model itself.

    Raises ConfigError for a share outside [0, 1].
    """
    _check(0 <= share <= 1, "share", share, "must be in [0, 1]")
    power_NV = model.probabilities() ** share
    power_NV /= power_NV.sum(axis=1, keepdims=True)
    return BaseModel(power_NV[:, 0], power_NV[:, 1], model.weight_N, model.vocabulary)


def _check(fine: bool, key: str, value: object, problem: str) -> None:
    if not fine:
        raise ConfigError(key, value, problem)
