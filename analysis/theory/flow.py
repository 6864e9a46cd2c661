"""Gradient flow on an objective under label noise, and how fast it lowers the population risk (paper, Section 6, E).

The paper's simplified setting: features with singular values 1 and one-hot labels, so that the logits z of each context
follow their own flow, dz/dt = -grad f(p(label)). A share E of the demonstrations, the noise, names the wrong label.

The risk is R = E[-1{y* = y_p}]. We read y_p as drawn from the model's p, hence R = -E[p(y*)]. With y_p = argmax p it
would be a step function of t, without the rate at t = 0 that the theorem compares.

The initial rate of risk reduction in one context, -dR/dt at t = 0, w(p) = -p f'(p):

    p(y*) w(p(label)) (1{y* = label} - p(y*) - p(label) + sum_k p_k^2)

docs/theory.md derives it; `simulated_rate` differentiates the integrated flow instead, and a test holds both together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from analysis.theory.base_model import BaseModel
from analysis.theory.shapes import weight
from bll_sweeps.errors import ConfigError
from bll_sweeps.grid.axes import Objective
from bll_sweeps.objectives import family

Array = NDArray[np.float64]

TRUE, WRONG = 0, 1  # columns of the two labels in BaseModel.probabilities
STEP = 0.1  # of the integration, in units of the flow's time; no logit moves faster than 1
_DIFFERENCE = 0.04  # the widest step of the finite differences
_LEVELS = 3  # of Richardson's extrapolation
_SUBSTEPS = 4  # of the integration within the narrowest of them


# --- the rate in closed form ------------------------------------------------------------------------------------


def rates(objective: Objective, model: BaseModel) -> tuple[float, float]:
    """Initial rate of risk reduction where the label is true, and where it is wrong (means over contexts).

    Written without cancellation: for the true label (1 - p(y*))^2 plus the squares of all others, for the wrong one
    the squares of all others less p(1 - p) of the two.
    """
    true_N, wrong_N, weight_N = model.true_N, model.wrong_N, model.weight_N
    others_N = (1 - model.mass_N) ** 2 / (model.vocabulary - 2)
    clean_N = true_N * weight(objective, true_N) * ((1 - true_N) ** 2 + wrong_N**2 + others_N)
    pull_N = others_N - true_N * (1 - true_N) - wrong_N * (1 - wrong_N)
    noisy_N = true_N * weight(objective, wrong_N) * pull_N
    return float(weight_N @ clean_N), float(weight_N @ noisy_N)


def initial_rate(objective: Objective, model: BaseModel, noise: float) -> float:
    """-dR/dt at t = 0 for label-noise rate `noise` in [0, 1], in closed form."""
    return _mixed(rates(objective, model), noise)


# --- the simulation ---------------------------------------------------------------------------------------------


def simulated_rate(objective: Objective, model: BaseModel, noise: float) -> float:
    """-dR/dt at t = 0 from the integrated flow: central differences in t, Richardson-extrapolated to order 6.

    Where an objective has a threshold, the flow must not cross it within |t| <= 0.04.
    """
    step = _DIFFERENCE / 2**_LEVELS / _SUBSTEPS
    slopes = []
    for h in (_DIFFERENCE / 2**level for level in range(_LEVELS)):
        ahead, behind = (risk_reduction(objective, model, noise, end, step) for end in (h, -h))
        slopes.append((ahead - behind) / (2 * h))
    for order in range(1, _LEVELS):
        slopes = [(4**order * fine - rough) / (4**order - 1) for rough, fine in pairwise(slopes)]
    return slopes[0]


def risk_reduction(objective: Objective, model: BaseModel, noise: float, horizon: float, step: float = STEP) -> float:
    """R(0) - R(horizon) for label-noise rate `noise`; a negative horizon runs the flow backwards."""
    paths = risk_paths(objective, model, np.array([0.0, horizon]), step)
    return _mixed((paths.clean_T[0] - paths.clean_T[1], paths.noisy_T[0] - paths.noisy_T[1]), noise)


@dataclass(frozen=True)
class RiskPaths:
    """The risk over time where the label is true and where it is wrong [T each], each in [-1, 0]."""

    clean_T: Array
    noisy_T: Array

    def mixed(self, noise: float) -> Array:
        """The risk [T] at a label-noise rate."""
        return np.asarray((1 - _rate(noise)) * self.clean_T + noise * self.noisy_T)


def risk_paths(objective: Objective, model: BaseModel, time_T: Array, step: float = STEP) -> RiskPaths:
    """R at each of the times (monotone, the first is where the flow starts), by the classical Runge-Kutta method.

    Its steps are at most `step` long. Halving them changes the risk by less than 1e-6, unless a probability crosses an
    objective's threshold, where the flow has a kink.
    """
    start_NV = np.log(model.probabilities())
    both_MV = np.concatenate([start_NV, start_NV])  # the contexts with the true label, then those with the wrong one
    label_M = np.repeat([TRUE, WRONG], len(start_NV))
    true_TM = [_softmax(both_MV)[:, TRUE]]
    for span in np.diff(time_T):
        both_MV = _integrate(objective, both_MV, label_M, float(span), step)
        true_TM.append(_softmax(both_MV)[:, TRUE])
    clean_TN, noisy_TN = np.split(np.array(true_TM), 2, axis=1)
    return RiskPaths(-clean_TN @ model.weight_N, -noisy_TN @ model.weight_N)


def _integrate(objective: Objective, logits_MV: Array, label_M: NDArray[np.int64], span: float, step: float) -> Array:
    steps = max(1, math.ceil(abs(span) / step - 1e-9))
    h, z = span / steps, logits_MV
    for _ in range(steps):
        k1 = velocity(objective, z, label_M)
        k2 = velocity(objective, z + h / 2 * k1, label_M)
        k3 = velocity(objective, z + h / 2 * k2, label_M)
        k4 = velocity(objective, z + h * k3, label_M)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return z


def velocity(objective: Objective, logits_MV: Array, label_M: NDArray[np.int64]) -> Array:
    """dz/dt [M, V] = w(p(label)) (onehot(label) - p) (paper, Lemma 3.1)."""
    logp_MV = _log_softmax(logits_MV)
    rows_M = np.arange(len(label_M))
    w_M = np.asarray(family.weight(objective, logp_MV[rows_M, label_M]))
    out_MV = -w_M[:, None] * np.exp(logp_MV)
    out_MV[rows_M, label_M] += w_M
    return np.asarray(out_MV)


def _log_softmax(logits_MV: Array) -> Array:
    shifted_MV = logits_MV - logits_MV.max(axis=1, keepdims=True)
    return np.asarray(shifted_MV - np.log(np.exp(shifted_MV).sum(axis=1, keepdims=True)))


def _softmax(logits_MV: Array) -> Array:
    return np.asarray(np.exp(_log_softmax(logits_MV)))


def _mixed(parts: tuple[float, float], noise: float) -> float:
    return float((1 - _rate(noise)) * parts[0] + noise * parts[1])


def _rate(noise: float) -> float:
    if not 0 <= noise <= 1:
        raise ConfigError("noise", noise, "must be in [0, 1]: it is the share of wrong labels")
    return noise
