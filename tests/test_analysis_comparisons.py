"""P-values of many comparisons, and how small a difference can be shown."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics.comparisons import (
    adjusted,
    benjamini_hochberg,
    holm,
    minimum_detectable,
    p_value,
    question_sd,
    questions_needed,
)
from analysis.statistics.intervals import Interval
from analysis.statistics.paired import paired_difference, paired_differences
from analysis.statistics.seeds import detectable_over_seeds, over_seeds
from bll_sweeps.errors import UsageError

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_holm_and_benjamini_hochberg_of_a_worked_example() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005])
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])


def test_what_is_missing_is_not_counted() -> None:
    p = np.array([math.nan, 0.02, math.nan, 0.03])
    assert holm(p) == pytest.approx([math.nan, 0.04, math.nan, 0.04], nan_ok=True)
    assert benjamini_hochberg(p) == pytest.approx([math.nan, 0.03, math.nan, 0.03], nan_ok=True)
    assert len(holm(np.array([]))) == 0


@given(p_values)
def test_adjusted_p_values_are_no_smaller_keep_the_order_and_holm_is_the_stricter(values: list[float]) -> None:
    p = np.array(values)
    strict, lenient = holm(p), benjamini_hochberg(p)
    assert (p <= lenient + 1e-15).all() and (lenient <= strict + 1e-15).all() and (strict <= 1).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(strict[order]) >= 0).all() and (np.diff(lenient[order]) >= 0).all()
    assert min(strict) == pytest.approx(min(1, len(p) * min(p)))


def test_holm_keeps_false_discoveries_of_a_family_below_five_percent() -> None:
    rng = np.random.default_rng(0)
    families, size = 400, 10
    scores = rng.binomial(8, rng.beta(2, 2, (families * size, 40)), (2, families * size, 40)) / 8
    p = np.array([one.p_value for one in paired_differences(list(scores[0] - scores[1]))]).reshape(families, size)
    raw = (p < 0.05).any(axis=1).mean()
    kept = np.mean([(holm(row) < 0.05).any() for row in p])
    assert raw > 0.3
    assert kept <= 0.05 + 0.03


def test_a_family_is_the_rows_of_one_decoding_unless_said_otherwise() -> None:
    table = pd.DataFrame({"decoding": ["a", "b", "a"], "p_value": [0.03, 0.03, math.nan], "kept": [1, 2, 3]})
    found = adjusted(table)
    assert found["p_holm"].tolist() == pytest.approx([0.03, 0.03, math.nan], nan_ok=True)
    assert found["significant_holm"].tolist() == [True, True, False]
    together = adjusted(table, family=())
    assert together["p_holm"].tolist() == pytest.approx([0.06, 0.06, math.nan], nan_ok=True)
    assert not together["significant_holm"].any()
    assert together["kept"].tolist() == [1, 2, 3]
    with pytest.raises(UsageError, match="no column 'p_value'"):
        adjusted(table.drop(columns="p_value"))


def test_the_p_value_of_an_interval_is_five_percent_where_it_touches_zero() -> None:
    assert p_value(Interval(0.1, 0.0, 0.3, 10)) == pytest.approx(0.05)
    assert p_value(Interval(-0.1, -0.3, 0.0, 10)) == pytest.approx(0.05)
    assert p_value(Interval(0.1, 0.01, 0.3, 10)) < 0.05 < p_value(Interval(0.1, -0.01, 0.3, 10))
    assert p_value(Interval(0.0, -0.1, 0.1, 10)) == 1
    assert math.isnan(p_value(Interval(math.nan, math.nan, math.nan, 0)))


def test_the_minimum_detectable_difference_is_found_four_times_out_of_five() -> None:
    rng = np.random.default_rng(3)

    def compared(gain: float, times: int) -> list[Interval]:
        """A side of mean .5 + gain against one of mean .5, on 200 questions."""
        shifted = 0.5 + gain
        a, b = rng.beta(4 * shifted, 4 * (1 - shifted), (times, 200)), rng.beta(2, 2, (times, 200))
        return list(paired_differences(list((rng.binomial(8, a) - rng.binomial(8, b)) / 8)))

    gain = float(np.median([minimum_detectable(one) for one in compared(0.0, 50)]))
    shown = np.mean([one.low > 0 for one in compared(gain, 600)])
    assert shown == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("runs", [2, 3, 5, 10])
def test_the_minimum_detectable_difference_over_seeds_is_that_of_students_t(runs: int) -> None:
    """Where questions add nothing: the difference at which the t test over runs has 80 % power."""
    score_SN = np.random.default_rng(runs).normal(0, 0.1, (runs, 1))
    exactly = Interval(float(score_SN.mean()), float(score_SN.mean()), float(score_SN.mean()), 1000)
    found = detectable_over_seeds(exactly, over_seeds(score_SN, exactly), runs)
    shift = found / (score_SN.std(ddof=1) / math.sqrt(runs))
    assert 1 - stats.nct.cdf(stats.t.ppf(0.975, runs - 1), runs - 1, shift) == pytest.approx(0.8, abs=1e-3)


def test_the_minimum_detectable_difference_has_both_parts() -> None:
    """Runs all alike: what questions alone can show."""
    questions = Interval(0.1, 0.05, 0.15, 100)
    same = np.full((3, 100), 0.1)
    assert detectable_over_seeds(questions, over_seeds(same, questions), 3) == pytest.approx(
        minimum_detectable(questions)
    )
    apart = over_seeds(same + np.array([[-0.1], [0.0], [0.1]]), questions)
    assert detectable_over_seeds(questions, apart, 3) > 0.3


def test_the_questions_needed_for_the_detectable_difference_are_those_at_hand() -> None:
    rng = np.random.default_rng(4)
    found = paired_difference(rng.random(300), rng.random(300))
    needed = minimum_detectable(found)
    assert questions_needed(needed, question_sd(found)) == 300
    assert questions_needed(-needed / 2, question_sd(found)) == pytest.approx(1200, abs=1)
    assert questions_needed(needed, question_sd(found), power=0.9) > 300


@pytest.mark.parametrize(
    ("difference", "sd", "power", "level", "said"),
    [
        (0.0, 0.3, 0.8, 0.05, "difference=0.0"),
        (math.nan, 0.3, 0.8, 0.05, "difference=nan"),
        (0.1, 0.0, 0.8, 0.05, "sd=0.0"),
        (0.1, 0.3, 1.0, 0.05, "power=1.0"),
        (0.1, 0.3, 0.8, 5, "level=5"),
    ],
)
def test_impossible_questions_are_refused(difference: float, sd: float, power: float, level: float, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        questions_needed(difference, sd, power, level)
