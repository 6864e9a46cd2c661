"""The objective: f(p) of the target token's probability."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from bll_sweeps.errors import ConfigError
from bll_sweeps.grid.axes.formula import Formula
from bll_sweeps.grid.axes.values import check, fraction, label, positive

# Of the target tokens' p under the base model: what a prior job records, and where a threshold can lie.
PRIOR_QUANTILES = (0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95)

# Where a formula must be finite: from log p of 1 to where p itself is 0 in any precision, however sure the model is.
_ENTROPIES = (0.0, 1e-6, 0.5, 1.0)
_LOGP = (-800.0, -92.0, -30.0, -10.0, -3.0, -1.0, -0.1, -1e-3, -1e-6, -1e-12, 0.0)
# Between which poles are looked for: some 200 log p, denser towards p = 1, and at no round p, where a formula may be
# 0 / 0 in a single point.
_LOW, _HIGH = (-92.0, -60.0, -30.0, -20.0), (-1e-4, -1e-6, -1e-9)
_GRID = (*_LOW, *(k / 4.001 for k in range(-60, -20)), *(math.log(k / 149.3) for k in range(1, 150)), *_HIGH)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """f(p) of the target token's probability; formulas in bll_sweeps.objectives.family (paper, Sections 3 and 5).

    family: nll -log p | power (1-p^alpha)/alpha | convexity -p^alpha/alpha | unlikelihood log(1-p+epsilon)
            | formula, a text of one's own (grid.axes.formula) | base, the untrained backbone.
    formula: f in terms of logp, p, entropy and `parameters`. weight: w(p) = -p f'(p) where it is not to be derived from
    f, as for an f that holds a factor constant. entropy: that of the `entropy_top` most probable tokens among
    themselves, over its highest, log(entropy_top): 0 to 1.
    smoothing: share of the loss that every token of the vocabulary gets instead of the target:
    (1 - smoothing) f(p) + smoothing mean_v(-log p_v). anchor: weight of KL(base model || model) beside f, over all
    supervised tokens; needs a second copy of the backbone in memory.
    keep: tokens whose current p lies above or below `threshold` (inclusive), or all of them. threshold_quantile: the
    threshold is that quantile of p under the base model, which the prior job measures.
    normaliser: the loss is divided by all supervised tokens of the step, or by those that survive the threshold.
    """

    name: str = label()
    family: Literal["base", "nll", "power", "convexity", "unlikelihood", "formula"]
    alpha: float = 1.0
    epsilon: float = 1e-3
    formula: str = ""
    weight: str = ""
    parameters: dict[str, float] = field(default_factory=dict, hash=False)
    entropy_top: int = 20
    smoothing: float = 0.0
    anchor: float = 0.0
    keep: Literal["all", "above", "below"] = "all"
    threshold: float = 0.0
    threshold_quantile: float | None = None
    normaliser: Literal["all", "survivors"] = "all"

    def __post_init__(self) -> None:
        check(math.isfinite(self.alpha), "alpha", self.alpha, "must be finite")
        check(self.alpha >= 0, "alpha", self.alpha, "must be >= 0 (a negative alpha has unbounded gradients)")
        if self.family == "convexity":
            check(self.alpha > 0, "alpha", self.alpha, "must be > 0 for family=convexity (it divides by alpha)")
        positive(self, "epsilon")
        fraction(self, "threshold", "smoothing")
        check(math.isfinite(self.anchor) and self.anchor >= 0, "anchor", self.anchor, "must be finite and >= 0")
        check(self.entropy_top > 1, "entropy_top", self.entropy_top, "must be at least 2")
        if self.family == "formula":
            self._check_formulas()
        else:
            for key in ("formula", "weight", "parameters"):
                check(not getattr(self, key), key, getattr(self, key), f"has no meaning for family={self.family}")
        thresholded = self.keep != "all" and self.normaliser == "survivors"
        check(not (self.anchor and thresholded), "anchor", self.anchor, "is over all tokens: it needs normaliser=all")
        quantile, known = self.threshold_quantile, ", ".join(map(str, PRIOR_QUANTILES))
        check(
            quantile is None or quantile in PRIOR_QUANTILES, "threshold_quantile", quantile, f"must be one of {known}"
        )

    def _check_formulas(self) -> None:
        """Both are parsed, name nothing unknown, and are finite at a dozen p from 1e-40 to 1, 1 included."""
        check(bool(self.formula), "formula", self.formula, "must say f(p) for family=formula")
        used: set[str] = set()
        for key in ("formula", "weight"):
            if text := getattr(self, key):
                try:
                    formula = Formula(text, self.parameters)
                except ValueError as error:
                    raise ConfigError(key, text, str(error)) from None
                used |= formula.names
                bad = [logp for logp in _LOGP if not _is_finite(formula, logp, derivative=not self.weight)]
                self._require_finite(key, formula, bad)
        depends = used & {"logp", "p", "q"}
        check(bool(depends), "formula", self.formula, "does not depend on p: it names none of logp, p and q")
        unused = sorted(set(self.parameters) - used)
        check(not unused, "parameters", ", ".join(unused), "are in neither formula nor weight")

    def check_poles(self) -> None:
        """ConfigError for a formula that is not finite, or has a pole, anywhere between p = 0 and 1. Not done for every
        objective that is read, as it takes some milliseconds.
        """
        for key in ("formula", "weight"):
            if text := getattr(self, key):
                formula = Formula(text, self.parameters)
                self._require_finite(key, formula, _poles(formula, derivative=not self.weight))

    def _require_finite(self, key: str, formula: Formula, bad: list[float]) -> None:
        needed = "must be finite for p from 0 to 1" + ("" if self.weight else ", and its derivative too")
        whatever = ", whatever the entropy" if "entropy" in formula.names else ""
        problem = f"{needed}{whatever}; it is not at p={math.exp(bad[-1]) if bad else 0:.3g}"
        check(not bad, key, getattr(self, key), problem)

    @property
    def needs_entropy(self) -> bool:
        """Whether f depends on how sure the model is, besides p."""
        texts = [text for text in (self.formula, self.weight) if text]
        return any("entropy" in Formula(text, self.parameters).names for text in texts)

    @property
    def is_plain(self) -> bool:
        """Whether the loss is f of log p of the target alone, so that any log p can be put in."""
        return not (self.needs_entropy or self.smoothing or self.anchor)

    @property
    def is_base(self) -> bool:
        return self.family == "base"

    @property
    def needs_prior(self) -> bool:
        """Whether the threshold is read from the prior job."""
        return self.keep != "all" and self.threshold_quantile is not None

    def identity(self) -> dict[str, Any]:
        """Only what the family uses, so that two ways of writing one objective are one job."""
        if self.family == "base":
            return {"family": "base"}
        out: dict[str, Any] = {"family": self.family}
        if self.family == "power" and self.alpha == 0:
            out["family"] = "nll"
        elif self.family in ("power", "convexity"):
            out["alpha"] = self.alpha
        elif self.family == "unlikelihood":
            out["epsilon"] = self.epsilon
        elif self.family == "formula":
            out["formula"] = Formula(self.formula, self.parameters).text
            out |= {"weight": Formula(self.weight, self.parameters).text} if self.weight else {}
            out |= {"parameters": self.parameters} if self.parameters else {}
            out |= {"entropy_top": self.entropy_top} if self.needs_entropy else {}
        for key in ("smoothing", "anchor"):
            out |= {key: getattr(self, key)} if getattr(self, key) else {}
        if self.keep != "all":
            at = {"threshold": self.threshold} if not self.needs_prior else {"quantile": self.threshold_quantile}
            out |= {"keep": self.keep, **at, "normaliser": self.normaliser}
        return out


def _poles(formula: Formula, *, derivative: bool) -> list[float]:
    """Log p near which the formula, or its derivative, is not finite or grows beyond bounds."""
    found = []
    for entropy in _entropies(formula):
        size = partial(_size, formula, entropy, derivative)
        found += [logp for logp in _GRID if not math.isfinite(size(logp))]
        for logp in formula.near_zeros(_GRID, entropy):
            # A hundred thousand times nearer to a pole it is that many times higher, or more.
            near, far = (max(size(logp - step), size(logp + step)) for step in (1e-10, 1e-5))
            if not math.isfinite(near) or near > 100 * far:
                found.append(logp)
    return found


def _is_finite(formula: Formula, logp: float, *, derivative: bool) -> bool:
    return all(math.isfinite(_size(formula, entropy, derivative, logp)) for entropy in _entropies(formula))


def _entropies(formula: Formula) -> tuple[float, ...]:
    return _ENTROPIES if "entropy" in formula.names else (0.5,)


def _size(formula: Formula, entropy: float, derivative: bool, logp: float) -> float:
    """Of the formula, or of the larger of it and its derivative; inf where one has no finite value."""
    try:
        value, slope = formula(math, logp, entropy)
        largest = max(abs(value), abs(slope)) if derivative else abs(value)
        # Not of `largest` alone: max() passes over a nan that stands second.
        return largest if math.isfinite(value) and (not derivative or math.isfinite(slope)) else math.inf
    except (ValueError, OverflowError, ZeroDivisionError, TypeError):
        return math.inf
