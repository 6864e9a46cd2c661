"""The crossover: where gain over NLL changes its sign along prior strength, or why the data show none."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from analysis.statistics.crossover import (
    Fit,
    crossover,
    crossover_of,
    crossovers,
    expit,
    fit,
    isotonic,
    logit,
    prior_leaning,
    settings_of,
    student_cdf,
)
from analysis.statistics.intervals import Interval
from analysis.theory.shapes import MAIN
from bll_sweeps.grid.axes import Objective, canonical_json

PRIORS = [0.05, 0.2, 0.4, 0.6, 0.8, 0.95]
ZIGZAG = np.array([1, -1, 1, -1, 1, -1])


def table(priors: list[float], gain: np.ndarray, half: float = 0.02, task: str = "spell") -> pd.DataFrame:
    """Rows as of `continuum.gains`, a setting each; `half`: half the interval of the gain."""
    return pd.DataFrame(
        {
            "backbone": [f"b{i}" for i in range(len(priors))],
            "domain": task,
            "task": task,
            "objective": "p",
            "decoding": "sampled",
            "n": 100,
            "prior": priors,
            "gain": gain,
            "gain_low": gain - half,
            "gain_high": gain + half,
        }
    )


def line(priors: list[float], slope: float, zero: float, half: float = 0.02) -> pd.DataFrame:
    return table(priors, slope * (logit(np.array(priors)) - logit(np.array(zero))), half)


def settings(x: np.ndarray, gain: np.ndarray, gain_var: float = 0.02**2, x_var: float = 0.0) -> pd.DataFrame:
    """As of `settings_of`."""
    return pd.DataFrame(
        {"x": x, "prior": expit(x), "gain": gain, "gain_var": gain_var, "x_var": x_var, "points": np.ones(len(x), int)}
    ).assign(low=lambda t: t["gain"] - 1.96 * gain_var**0.5, high=lambda t: t["gain"] + 1.96 * gain_var**0.5)


def exactly(prior: float) -> Interval:
    return Interval(prior, prior, prior, 100)


def test_the_crossover_is_the_root_of_the_fit() -> None:
    found = crossover(line(PRIORS, 0.2, 0.7), "p", "sampled")
    assert found.prior == pytest.approx(0.7, abs=1e-6)
    assert found.low < found.prior < found.high
    assert (found.settings, found.points, found.why) == (6, 6, "")
    assert found.observed == pytest.approx((0.05, 0.95))


def test_the_interval_is_where_a_change_of_sign_is_not_rejected() -> None:
    """Against the test's definition: the best fit of given signs, searched for by a solver of its own."""
    gain = np.array([-0.5, -0.35, 0.1, -0.05, 0.3, 0.5])
    found = crossover(table(PRIORS, gain), "p", "sampled")
    assert found.fit is not None

    def misses(fitted_N: np.ndarray) -> float:
        return float(np.square(gain - fitted_N).sum())

    def best(below: int) -> float:
        signs = [(-1.0, 0.0)] * below + [(0.0, 1.0)] * (6 - below)
        steps = optimize.LinearConstraint(np.diff(np.eye(6), axis=0), 0, np.inf)
        start = np.clip(np.sort(gain), *np.array(signs).T)
        return float(optimize.minimize(misses, start, bounds=signs, constraints=steps, method="SLSQP").fun)

    least = misses(np.array(found.fit.gain_N))
    possible = [k for k in range(7) if best(k) - least <= 2.27 * found.fit.scatter**2]
    assert 0 < possible[0] < possible[-1] < 6  # more than one, and both ends rejected
    assert (found.low, found.high) == pytest.approx((PRIORS[possible[0] - 1], PRIORS[possible[-1]]))


def test_the_interval_of_a_jump_is_from_one_setting_to_the_next() -> None:
    """One setting beside the jump is missed by much when it is left out, and says nothing of the others' scatter."""
    found = crossover(table(PRIORS, np.array([-0.33, -0.3, -0.29, 0.35, 0.4, 0.4])), "p", "sampled")
    assert (found.low, found.high) == pytest.approx((0.4, 0.6))


def test_the_error_of_prior_strength_widens_the_interval() -> None:
    some = table(PRIORS, np.array([-0.33, -0.3, -0.29, 0.35, 0.4, 0.4]))
    sharp = crossover(some, "p", "sampled")
    blurred = crossover(some.assign(prior_low=some["prior"] - 0.04, prior_high=some["prior"] + 0.04), "p", "sampled")
    assert blurred.prior == sharp.prior
    assert (blurred.low, blurred.high) == pytest.approx((sharp.low - 0.04, sharp.high + 0.04), abs=0.002)


def test_without_a_change_of_sign_there_is_none() -> None:
    for zero, word in ((0.01, "above"), (0.99, "below")):
        found = crossover(line(PRIORS, 0.2, zero), "p", "sampled")
        assert math.isnan(found.prior)
        assert found.why == f"no change of sign: the gain is {word} zero at all 6 settings"


def test_where_one_sign_is_not_rejected_there_is_none() -> None:
    some = table(PRIORS, np.array([-0.01, 0.1, 0.2, 0.3, 0.4, 0.4]), half=0.1)
    found = crossover(some, "p", "sampled")
    assert math.isnan(found.prior) and math.isnan(found.low)
    assert found.why == "by its scatter of 0.05 the gain may be above zero at all 6 settings"
    nowhere = crossover(table(PRIORS, -0.01 * ZIGZAG), "p", "sampled")
    assert "may be above or below zero at all 6 settings" in nowhere.why


def test_a_gain_that_falls_has_none() -> None:
    falls = crossover(line(PRIORS, -0.2, 0.5), "p", "sampled")
    assert falls.why == "over 6 settings the gain does not rise with prior strength"


def test_few_settings_or_none_have_no_crossover_and_are_counted() -> None:
    found = crossover(line([0.05, 0.4, 0.9], 0.2, 0.5), "p", "sampled")
    assert (found.settings, found.why) == (3, "too few settings: 3, 4 are needed")
    nothing = crossover(line(PRIORS, 0.2, 0.5), "p10", "sampled")
    assert (nothing.settings, nothing.points) == (0, 0)
    same = crossover(table([0.5] * 5, np.array([-0.1, 0.1, 0.2, -0.2, 0.0])), "p", "sampled")
    assert same.why == "all 5 settings have the same prior strength"


def test_seeds_of_a_setting_are_one_setting() -> None:
    some = line(PRIORS, 0.2, 0.7).assign(gain=lambda t: t["gain"] + 0.05 * ZIGZAG)
    thrice = pd.concat([some.assign(variant=f"seed {seed}") for seed in range(3)])
    once, often = (crossover(t, "p", "sampled") for t in (some, thrice))
    assert (often.settings, often.points) == (6, 18)
    assert (often.prior, often.low, often.high) == pytest.approx((once.prior, once.low, once.high))


def test_crossovers_are_told_by_task_and_pooled() -> None:
    both = pd.concat([line(PRIORS, 0.2, 0.5), line(PRIORS, 0.2, 0.55).assign(task="rotate", domain="rotate")])
    found = crossovers(both, ["p"], "sampled").set_index("task")
    assert found["prior"].to_dict() == pytest.approx({"spell": 0.5, "rotate": 0.55, "pooled": 0.525}, abs=2e-3)
    assert found["settings"].to_dict() == {"spell": 6, "rotate": 6, "pooled": 12}
    apart = pd.concat([line(PRIORS, 0.2, 0.3), line(PRIORS, 0.2, 0.7).assign(task="rotate", domain="rotate")])
    unlike = crossovers(apart, ["p"], "sampled").set_index("task")
    assert unlike.loc["pooled", "scatter"] > 3 * unlike.loc["spell", "scatter"]
    assert unlike.loc["pooled", "low"] < 0.3 < 0.7 < unlike.loc["pooled", "high"]


@pytest.mark.parametrize(("steepness", "n"), [(0.3, 10), (1.0, 10), (5.0, 10), (1.0, 5)])
def test_the_interval_holds_the_true_crossover_as_often_as_it_says(steepness: float, n: int) -> None:
    """Gains from nearly a line to a step, each setting measured with error, prior strength too: 600 sweeps each."""
    rng = np.random.default_rng(0)
    truth, hit, told = 0.4, 0, 0
    for _ in range(600):
        x_N = np.linspace(-2.5, 4.5, n) + rng.normal(0, 0.3, n)
        gain_N = 0.4 * np.tanh(steepness * (x_N - logit(np.array(truth)))) + rng.normal(0, 0.05, n)
        found = crossover_of(settings(x_N + rng.normal(0, 0.05, n), gain_N, 0.05**2, 0.05**2))
        if not found.why:
            told += 1
            hit += found.low <= truth <= found.high
    assert told > 400
    assert hit / told >= 0.95


def test_a_predicted_gain_is_as_sure_as_its_interval_says() -> None:
    rng = np.random.default_rng(1)
    inside, right, sure, n = 0, 0.0, 0.0, 600
    for _ in range(n):
        x_N = np.linspace(-2.5, 4.5, 9) + rng.normal(0, 0.3, 9)
        gain_N = 0.3 * np.tanh(x_N) + rng.normal(0, 0.2, 9)
        left = int(rng.integers(9))
        found = fit(settings(np.delete(x_N, left), np.delete(gain_N, left)))
        assert found is not None
        said = found.predict(exactly(float(expit(x_N[left]))))
        inside += said.low <= gain_N[left] <= said.high
        sure += max(said.better, 1 - said.better)
        right += (said.better > 0.5) == (gain_N[left] > 0)
    assert 0.92 <= inside / n <= 0.98
    assert right / n == pytest.approx(sure / n, abs=0.06)


def test_a_prediction_is_as_unsure_as_each_setting_is_by_the_others() -> None:
    """On a line whose ends the others miss by what it rises from one setting to the next, and no inner one."""
    priors = expit(np.arange(6.0)).tolist()
    found = fit(settings_of(line(priors, 0.1, 0.9), "p", "sampled"))
    assert found is not None
    assert found.error == pytest.approx(math.sqrt(2 * 0.1**2 / 6))
    few = fit(settings_of(line(priors, 0.1, 0.9, half=0.5), "p", "sampled"))
    assert few is not None and few.error == few.measurement == pytest.approx(0.5 / 1.96, rel=1e-4)


def test_seeds_are_part_of_the_measurement_error() -> None:
    some = line(PRIORS, 0.2, 0.7)
    plain, seeds = (fit(settings_of(t, "p", "sampled")) for t in (some, some.assign(seed_sd=0.1, seeds=4)))
    assert plain is not None and seeds is not None
    assert seeds.measurement == pytest.approx(math.hypot(plain.measurement, 0.05))


def test_an_uncertain_prior_makes_a_prediction_less_sure() -> None:
    of = Fit((-2.0, 0.0, 2.0, 4.0), (-0.2, 0.1, 0.3, 0.4), 0.1, 0.1, 0.02)
    sharp, blurred = of.predict(exactly(0.7)), of.predict(Interval(0.7, 0.5, 0.85, 100))
    assert sharp.gain == blurred.gain
    assert blurred.high > sharp.high and blurred.better < sharp.better
    assert of.predict(Interval(0.7, math.nan, math.nan, 0)) == sharp


def test_beyond_the_settings_the_nearest_one_is_what_is_known() -> None:
    of = Fit((-2.0, 0.0, 2.0, 4.0), (-0.2, 0.1, 0.3, 0.4), 0.1, 0.1, 0.02)
    assert (of.at(0.001), of.at(0.9999)) == (-0.2, 0.4)


def test_the_fit_pools_what_falls() -> None:
    x_N = np.arange(4.0)
    assert isotonic(x_N, np.array([-1.0, 0.5, -1.5, 1.0])).tolist() == pytest.approx([-1, -0.5, -0.5, 1])
    assert isotonic(np.array([0.0, 0.0, 1.0]), np.array([1.0, 3.0, 5.0])).tolist() == [2, 2, 5]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12))
def test_the_fit_does_not_fall_and_no_other_that_does_not_is_nearer(values: list[float]) -> None:
    """The nearest point of a cone: what is left over is orthogonal to it, and no direction of the cone leads nearer."""
    y_N = np.array(values)
    fitted_N = isotonic(np.arange(len(values), dtype=float), y_N)
    left_N = y_N - fitted_N
    assert (np.diff(fitted_N) >= -1e-12).all()
    assert left_N @ fitted_N == pytest.approx(0, abs=1e-9) and left_N.sum() == pytest.approx(0, abs=1e-9)
    assert (np.cumsum(left_N[::-1]) <= 1e-9).all()


@pytest.mark.parametrize(
    ("t", "freedom", "expected"), [(12.706205, 1, 0.975), (3.182446, 3, 0.975), (2.306004, 8, 0.975)]
)
def test_student_agrees_with_the_printed_tables(t: float, freedom: int, expected: float) -> None:
    assert student_cdf(t, freedom) == pytest.approx(expected, abs=1e-7)
    assert student_cdf(-t, freedom) == pytest.approx(1 - expected, abs=1e-7)


# --- of which objectives a rising gain is assumed ---------------------------------------------------------------------


def identity(**told: object) -> str:
    return canonical_json(Objective(name="x", **told).identity())  # type: ignore[arg-type]


def test_objectives_whose_weight_nowhere_falls_with_p_lean_to_the_prior() -> None:
    leaning = {name for name, objective in MAIN.items() if prior_leaning(canonical_json(objective.identity()))}
    assert leaning == set(MAIN) - {"logp_below"}
    assert not prior_leaning(identity(family="power", keep="below", threshold=0.2))
    assert prior_leaning(identity(family="nll", keep="above", threshold_quantile=0.1))
    assert not prior_leaning(identity(family="nll", keep="below", threshold_quantile=0.9))
    assert prior_leaning("")  # not known


def test_of_an_objective_that_does_not_lean_to_the_prior_no_crossover_is_told() -> None:
    rows = line(PRIORS, 0.1, 0.5)
    known = crossover(rows.assign(prior_leaning=True), "p", "sampled")
    assert known == crossover(rows, "p", "sampled") and known.fit is not None
    found = crossover(rows.assign(prior_leaning=False), "p", "sampled")
    assert math.isnan(found.prior) and found.fit is None and found.settings == len(PRIORS)
    assert "its weight w(p) falls with p" in found.why
