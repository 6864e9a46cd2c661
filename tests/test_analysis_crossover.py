"""The crossover: where gain over NLL changes its sign along prior strength, or why the data show none."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.statistics.crossover import (
    Line,
    chi2_tail,
    crossover,
    crossover_of,
    crossovers,
    expit,
    fit,
    logit,
    monotone_root,
    settings_of,
    student_cdf,
)
from analysis.statistics.intervals import t_quantile

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


def test_the_crossover_of_a_line_is_its_root_within_its_interval() -> None:
    found = crossover(line(PRIORS, 0.2, 0.7), "p", "sampled")
    assert found.prior == pytest.approx(0.7, abs=1e-6)
    assert found.low < found.prior < found.high
    assert (found.settings, found.points, found.why) == (6, 6, "")
    assert found.range == pytest.approx((0.05, 0.95))


def test_the_interval_is_where_the_line_does_not_differ_from_zero() -> None:
    """Fieller's interval against its definition, by a search over the axis."""
    some = line(PRIORS, 0.2, 0.6)
    found = crossover(some.assign(gain=some["gain"] + 0.05 * ZIGZAG), "p", "sampled")
    assert found.line is not None
    x_N = np.linspace(-4, 4, 80_001)
    d_N = x_N - found.line.centre
    error_N = found.line.error * np.sqrt(1 / 6 + d_N**2 / found.line.spread)
    inside = np.abs(found.line.height + found.line.slope * d_N) <= t_quantile(4) * error_N
    assert found.low == pytest.approx(float(expit(x_N[inside].min())), abs=1e-4)
    assert found.high == pytest.approx(float(expit(x_N[inside].max())), abs=1e-4)


def test_a_crossover_beyond_the_settings_is_not_told() -> None:
    mixed = line([0.05, 0.2, 0.4, 0.6, 0.7], 0.2, 0.72)
    found = crossover(mixed.assign(gain=mixed["gain"] + np.array([0, 0, 0, -0.01, 0.02])), "p", "sampled")
    assert math.isnan(found.prior)
    assert found.why.startswith("outside the range")


def test_without_a_change_of_sign_there_is_none() -> None:
    for zero, word in ((0.01, "above"), (0.99, "below")):
        found = crossover(line(PRIORS, 0.2, zero), "p", "sampled")
        assert math.isnan(found.prior)
        assert found.why == f"no change of sign: the gain is {word} zero at all 6 settings"


def test_an_end_of_the_interval_beyond_the_settings_is_open() -> None:
    some = line(PRIORS, 0.2, 0.9)
    found = crossover(some.assign(gain=some["gain"] + ZIGZAG * 0.1), "p", "sampled")
    assert found.low < found.prior
    assert math.isnan(found.high)


def test_a_gain_that_falls_or_hardly_rises_has_no_crossover() -> None:
    falls = crossover(line(PRIORS, -0.2, 0.5), "p", "sampled")
    assert falls.why.startswith("the gain does not rise with prior strength (slope -0.200")
    noise = table(PRIORS, np.array([0.3, -0.4, 0.2, -0.3, 0.5, 0.1]))
    assert crossover(noise, "p", "sampled").why.startswith("the gain does not rise reliably")


def test_few_settings_or_none_have_no_crossover_and_are_counted() -> None:
    found = crossover(line([0.05, 0.4, 0.9], 0.2, 0.5), "p", "sampled")
    assert (found.settings, found.why) == (3, "too few settings: 3, 4 are needed")
    nothing = crossover(line(PRIORS, 0.2, 0.5), "p10", "sampled")
    assert (nothing.settings, nothing.points) == (0, 0)
    same = crossover(table([0.5] * 5, np.array([-0.1, 0.1, 0.2, -0.2, 0.0])), "p", "sampled")
    assert same.why == "all settings have the same prior strength"


def test_seeds_of_a_setting_are_one_setting() -> None:
    some = line(PRIORS, 0.2, 0.7).assign(gain=lambda t: t["gain"] + 0.05 * ZIGZAG)
    thrice = pd.concat([some.assign(variant=f"seed {seed}") for seed in range(3)])
    once, often = (crossover(t, "p", "sampled") for t in (some, thrice))
    assert (often.settings, often.points) == (6, 18)
    assert (often.prior, often.low, often.high) == pytest.approx((once.prior, once.low, once.high))


def test_settings_on_a_line_by_chance_still_have_their_measurement_error() -> None:
    narrow, wide = (crossover(line(PRIORS, 0.2, 0.7, half), "p", "sampled") for half in (0.02, 0.2))
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low) > 0


def test_scatter_beyond_the_measurement_error_is_told_as_lack_of_fit() -> None:
    some = line(PRIORS, 0.2, 0.7)
    good, bad = (
        fit(settings_of(some, "p", "sampled")),
        fit(settings_of(some.assign(gain=some["gain"] + 0.1 * ZIGZAG), "p", "sampled")),
    )
    assert good is not None and bad is not None
    assert good.lack_of_fit > 0.99 > 0.001 > bad.lack_of_fit
    assert bad.error > 3 * bad.measurement


def test_seeds_and_prior_strength_are_part_of_the_measurement_error() -> None:
    some = line(PRIORS, 0.2, 0.7)
    plain = fit(settings_of(some, "p", "sampled"))
    seeds = fit(settings_of(some.assign(seed_sd=0.1, seeds=4), "p", "sampled"))
    prior = fit(
        settings_of(some.assign(prior_low=some["prior"] - 0.04, prior_high=some["prior"] + 0.04), "p", "sampled")
    )
    assert plain is not None and seeds is not None and prior is not None
    assert seeds.measurement == pytest.approx(math.hypot(plain.measurement, 0.05))
    assert prior.measurement > plain.measurement


def test_crossovers_are_told_by_task_and_pooled() -> None:
    both = pd.concat([line(PRIORS, 0.2, 0.4), line(PRIORS, 0.2, 0.8).assign(task="rotate", domain="rotate")])
    found = crossovers(both, ["p"], "sampled").set_index("task")
    assert found["prior"].to_dict() == pytest.approx({"spell": 0.4, "rotate": 0.8, "pooled": 0.6202}, abs=1e-3)
    assert found["settings"].to_dict() == {"spell": 6, "rotate": 6, "pooled": 12}
    assert found.loc["pooled", "lack_of_fit"] < 0.001 < found.loc["spell", "lack_of_fit"]


def test_the_interval_holds_the_true_crossover_as_often_as_it_says() -> None:
    """Settings that scatter about a line, each measured with error, prior strength too: 1,000 sweeps of 10 settings
    and 1,000 of 5, of which those without a crossover say nothing.
    """
    rng = np.random.default_rng(0)
    for n, truth in ((10, 0.5), (5, 0.6)):
        hit = told = 0
        for _ in range(1000):
            x_N = np.linspace(-2.5, 4.5, n) + rng.normal(0, 0.3, n)
            gain_N = 0.12 * (x_N - logit(np.array(truth))) + rng.normal(0, 0.08, n) + rng.normal(0, 0.02, n)
            found = crossover_of(settings(x_N + rng.normal(0, 0.05, n), gain_N, x_var=0.05**2))
            if not found.why:
                told += 1
                hit += not (found.low > truth or found.high < truth)  # an open end (nan) holds everything
        assert told > 500
        assert 0.90 <= hit / told <= 0.99


def test_a_predicted_gain_is_as_sure_as_its_interval_says() -> None:
    rng = np.random.default_rng(1)
    inside, right, sure, n = 0, 0.0, 0.0, 600
    for _ in range(n):
        x_N = np.linspace(-2.5, 4.5, 9) + rng.normal(0, 0.3, 9)
        gain_N = 0.12 * x_N + rng.normal(0, 0.2, 9)
        found = fit(settings(x_N[:8], gain_N[:8]))
        assert found is not None
        said = found.new(float(expit(x_N[8])))
        inside += said.low <= gain_N[8] <= said.high
        sure += max(said.better, 1 - said.better)
        right += (said.better > 0.5) == (gain_N[8] > 0)
    assert 0.92 <= inside / n <= 0.98
    assert right / n == pytest.approx(sure / n, abs=0.06)


def test_the_bracket_holds_the_change_of_sign_of_a_step_that_no_line_follows() -> None:
    rng = np.random.default_rng(2)
    hit = 0
    for _ in range(400):
        x_N = np.sort(rng.uniform(-2.5, 6, 8))
        gain_N = 0.4 * np.tanh(3 * (x_N + 0.5)) + rng.normal(0, 0.05, 8)
        found = crossover_of(settings(x_N, gain_N, 0.05**2))
        low, high = found.bracket
        hit += not (low > expit(np.array(-0.5)) or high < expit(np.array(-0.5)))
    assert hit / 400 >= 0.95


def test_the_bracket_is_of_settings_that_are_significant_over_seeds_and_open_without_them() -> None:
    some = table(PRIORS, np.array([-0.3, -0.2, 0.01, 0.3, 0.4, 0.4]))
    assert crossover(some, "p", "sampled").bracket == pytest.approx((0.2, 0.6))
    unsure = some.assign(gain_seeds_low=some["gain"] - 0.25, gain_seeds_high=some["gain"] + 0.25)
    assert crossover(unsure, "p", "sampled").bracket == pytest.approx((0.05, 0.6))
    above = crossover(some.assign(gain=0.3, gain_low=0.2, gain_high=0.4), "p", "sampled").bracket
    assert math.isnan(above[0]) and above[1] == pytest.approx(0.05)
    contradicting = crossover(table(PRIORS, np.array([0.3, -0.2, 0.2, -0.3, 0.4, 0.4])), "p", "sampled")
    assert all(math.isnan(end) for end in contradicting.bracket)


def test_an_uncertain_prior_makes_a_prediction_less_sure() -> None:
    of = Line(0.0, 0.2, 0.0, 30.0, 0.05, 0.02, 0.5, 8)
    assert of.new(0.8, 0.1).high > of.new(0.8).high
    assert of.new(0.8, 0.1).better < of.new(0.8).better


def test_the_monotone_root_lies_between_the_pooled_blocks() -> None:
    assert monotone_root(np.array([0.0, 1.0, 2.0]), np.array([-1.0, 1.0, 2.0])) == 0.5
    assert monotone_root(np.array([0.0, 1.0, 2.0, 3.0]), np.array([-1.0, 0.5, -1.5, 1.0])) == pytest.approx(
        2 + 1 / 3
    )  # the middle two are one block
    assert math.isnan(monotone_root(np.array([0.0, 1.0]), np.array([0.1, 1.0])))
    assert math.isnan(monotone_root(np.array([]), np.array([])))


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12))
def test_the_monotone_root_does_not_depend_on_the_order_of_the_settings(gains: list[float]) -> None:
    x_N, y_N = np.arange(len(gains), dtype=float), np.array(gains)
    np.testing.assert_equal(monotone_root(x_N, y_N), monotone_root(x_N[::-1], y_N[::-1]))


@pytest.mark.parametrize(
    ("t", "freedom", "expected"), [(12.706205, 1, 0.975), (3.182446, 3, 0.975), (2.306004, 8, 0.975)]
)
def test_student_agrees_with_the_printed_tables(t: float, freedom: int, expected: float) -> None:
    assert student_cdf(t, freedom) == pytest.approx(expected, abs=1e-7)
    assert student_cdf(-t, freedom) == pytest.approx(1 - expected, abs=1e-7)


@pytest.mark.parametrize(("x", "freedom"), [(3.841459, 1), (5.991465, 2), (7.814728, 3), (15.507313, 8)])
def test_chi_squared_agrees_with_the_printed_tables(x: float, freedom: int) -> None:
    assert chi2_tail(x, freedom) == pytest.approx(0.05, abs=1e-6)
    assert chi2_tail(1e6, freedom) == 0.0
