"""Intervals: no certainty from few questions, exact symmetries, and the coverage that they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.statistics.intervals import mean_interval, ratio_interval, t_quantile
from analysis.statistics.paired import paired_difference, paired_differences
from analysis.statistics.seeds import over_seeds
from bll_sweeps.store.regions import region, region_paper

scores = st.lists(st.integers(0, 8).map(lambda k: k / 8), min_size=1, max_size=30)
pairs = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=30)


@pytest.mark.parametrize(("right", "low", "high"), [(200, 0.981, 1.0), (0, 0.0, 0.019), (100, 0.431, 0.569)])
def test_one_sample_a_question_gives_the_wilson_interval(right: int, low: float, high: float) -> None:
    interval = mean_interval(np.r_[np.ones(right), np.zeros(200 - right)])
    assert (interval.mean, interval.n) == (right / 200, 200)
    assert interval.low == pytest.approx(low, abs=5e-4)
    assert interval.high == pytest.approx(high, abs=5e-4)


def test_samples_that_agree_within_each_question_count_as_one() -> None:
    agreeing = mean_interval(np.r_[np.ones(50), np.zeros(50)], samples=16)
    single = mean_interval(np.r_[np.ones(50), np.zeros(50)], samples=1)
    assert agreeing == single


def test_samples_that_differ_narrow_the_interval_to_that_of_independent_samples() -> None:
    rng = np.random.default_rng(0)
    alike = mean_interval(rng.binomial(16, 0.5, 400) / 16, samples=16)
    assert alike.high - alike.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(6400), rel=0.1)


def test_continuous_scores_have_their_own_spread_not_that_of_right_or_wrong_ones() -> None:
    scores_N = np.random.default_rng(0).beta(30, 30, 200)
    interval = mean_interval(scores_N)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * scores_N.std() / math.sqrt(200), rel=0.05)


@pytest.mark.parametrize("scores_N", [np.full(20, 0.5), np.array([0.5]), np.full(4, 0.5) + np.arange(4) * 1e-12])
def test_scores_that_are_all_alike_are_not_certainty(scores_N: np.ndarray) -> None:
    n = len(scores_N)
    interval = mean_interval(scores_N)
    wilson = 1.96 * math.sqrt(0.25 / n + 1.96**2 / (4 * n * n)) / (1 + 1.96**2 / n)
    assert interval.high - interval.low == pytest.approx(2 * wilson, rel=1e-3)


@given(scores, st.integers(1, 16))
def test_a_mean_never_has_an_interval_of_zero_width_and_lies_inside_it(values: list[float], samples: int) -> None:
    interval = mean_interval(np.array(values), samples)
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1
    assert interval.high > interval.low


def test_scores_outside_the_unit_interval_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        mean_interval(np.array([0.5, 44.4]))


@given(pairs)
@settings(max_examples=60)
def test_swapping_the_two_sides_mirrors_the_interval_exactly(values: list[tuple[int, int]]) -> None:
    a, b = (np.array(side) / 8 for side in zip(*values, strict=True))
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert (one.mean, one.low, one.high) == (-other.mean, -other.high, -other.low)


@given(pairs, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_the_order_of_the_questions_does_not_matter(values: list[tuple[int, int]], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    results = []
    for rows in (values, shuffled):
        a, b = (np.array(side) / 8 for side in zip(*rows, strict=True))
        results.append(paired_difference(a, b))
    assert results[0] == results[1]


@given(pairs)
@settings(max_examples=200)
def test_a_difference_lies_inside_an_interval_that_agrees_with_its_p_value(values: list[tuple[int, int]]) -> None:
    a, b = (np.array(side) / 8 for side in zip(*values, strict=True))
    found = paired_difference(a, b)
    assert -1 <= found.low <= found.mean <= found.high <= 1
    assert found.high > found.low
    assert 0 <= found.p_value <= 1
    outside = max(found.low, -found.high)
    if abs(outside) > 1e-9:
        assert (found.p_value < 0.05) == (outside > 0)


def test_one_answer_per_question_gives_tangos_interval() -> None:
    """12 and 2 of 44 pairs differ: at either end Tango's score, written out with counts, is 1.96."""
    found = paired_differences([np.r_[np.ones(12), -np.ones(2), np.zeros(30)]])[0]
    for end in (found.low, found.high):
        b, c = 2 * 44, -12 - 2 + (2 * 44 - 12 + 2) * end
        share = (math.sqrt(c * c + 8 * 44 * 2 * end * (1 - end)) - c) / (2 * b)
        score = (12 - 2 - 44 * end) / math.sqrt(44 * (2 * share + end * (1 - end)))
        assert abs(score) == pytest.approx(1.959964, abs=1e-6)
    assert found.p_value == pytest.approx(math.erfc(10 / math.sqrt(14) / math.sqrt(2)))  # McNemar's test


def test_a_constant_difference_is_not_certainty() -> None:
    tie = paired_difference(np.ones(200), np.ones(200))
    assert (tie.mean, tie.p_value) == (0, 1)
    assert (tie.low, tie.high) == (pytest.approx(-0.0188, abs=1e-4), pytest.approx(0.0188, abs=1e-4))
    sweep = paired_difference(np.ones(200), np.zeros(200))
    assert (sweep.mean, sweep.high) == (1, 1)
    assert sweep.low == pytest.approx(1 - 2 * 0.0188, abs=1e-4)
    half = paired_difference(np.full(20, 0.75), np.full(20, 0.25))
    assert half.high - half.low > 0.2


def test_many_comparisons_at_once_are_each_as_if_alone() -> None:
    rng = np.random.default_rng(2)
    several = [rng.integers(-8, 9, n) / 8 for n in (5, 40, 0, 40, 5)]
    alone = [paired_differences([one])[0] for one in several]
    for one, other in zip(alone, paired_differences(several), strict=True):
        assert (one.n, repr(one)) == (other.n, repr(other))


def test_differences_of_no_scores_are_refused() -> None:
    for wrong in (1.5, math.nan):
        with pytest.raises(ValueError, match=r"\[-1, 1\]"):
            paired_differences([np.array([0.0, wrong])])


def test_nothing_in_gives_no_number_and_n_zero() -> None:
    for interval in (mean_interval(np.array([])), paired_difference(np.array([]), np.array([]))):
        assert math.isnan(interval.mean)
        assert interval.n == 0


def test_the_width_is_that_of_the_mean_difference_where_questions_are_many() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(3000), rng.random(3000)
    found = paired_difference(a, b)
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.std(a - b) / math.sqrt(3000), rel=0.02)


@pytest.mark.parametrize(
    ("df", "value"), [(1, 12.7062), (2, 4.30265), (9, 2.26216), (10, 2.22814), (29, 2.04523), (499, 1.96473)]
)
def test_students_quantiles_are_those_of_the_tables(df: int, value: float) -> None:
    assert t_quantile(df) == pytest.approx(value, rel=1e-4)


def test_prior_strength_weighs_tokens_and_its_interval_resamples_sequences() -> None:
    tokens = np.array([1.0, 9.0])
    assert ratio_interval(np.array([1.0, 0.0]), tokens).mean == pytest.approx(0.1)
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 9, 1500).astype(float)
    p = rng.beta(3, 2, 1500)
    interval = ratio_interval(p * lengths, lengths)
    residual = (p - interval.mean) * lengths
    error = residual.std() / math.sqrt(1500) / lengths.mean()
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_sequences_of_one_question_are_resampled_together() -> None:
    rng = np.random.default_rng(0)
    p = np.repeat(rng.beta(3, 2, 100), 50)
    tokens = np.full(len(p), 5.0)
    alone = ratio_interval(p * tokens, tokens)
    together = ratio_interval(p * tokens, tokens, units=[i // 50 for i in range(5000)])
    assert (alone.n, together.n) == (5000, 100)
    assert alone.mean == pytest.approx(together.mean)
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(math.sqrt(50), rel=0.15)


def test_one_question_alone_gives_no_interval() -> None:
    interval = ratio_interval(np.array([1.0, 2.0]), np.array([2.0, 2.0]), units=["a", "a"])
    assert (interval.mean, interval.n) == (0.75, 1)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_pooling_many_sequences_keeps_the_width() -> None:
    rng = np.random.default_rng(0)
    lengths, p = rng.integers(3, 9, 12_000).astype(float), rng.beta(3, 2, 12_000)
    interval = ratio_interval(p * lengths, lengths)
    error = ((p - interval.mean) * lengths).std() / math.sqrt(12_000) / lengths.mean()
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.1)


@pytest.mark.parametrize(
    ("prior", "name"),
    [(0.01, "MW"), (0.07, "MW"), (0.5, "MI"), (0.59, "MI"), (0.76, "MS"), (0.81, "MS"), (math.nan, "")],
)
def test_the_papers_prior_strengths_fall_into_its_regions(prior: float, name: str) -> None:
    assert region(prior) == name


def test_the_paper_assigns_its_domains_and_no_other() -> None:
    assert [region_paper(name) for name in ("math", "medical", "figfont", "lab-add")] == ["MS", "MI", "MW", ""]


# --- coverage: a quick version of bench/coverage.py, whose whole table is in bench/results/coverage.md ----------------


def _rates(rng: np.random.Generator, mean: float, shape: float, size: tuple[int, int]) -> np.ndarray:
    """Rates of right answers of questions; shape 0: every question all right or all wrong."""
    if shape == 0:
        return (rng.random(size) < mean).astype(float)
    return rng.beta(mean * shape, (1 - mean) * shape, size)


# 1,000 replications: a coverage of 95 % is seen within 2 points, one of 90 % as at least 87.5 %.
REPLICATIONS = 1000


@pytest.mark.parametrize("shape", [0.0, 1.0, 6.0])
@pytest.mark.parametrize(("n", "mean", "low"), [(30, 0.5, 0.93), (300, 0.96, 0.93), (30, 0.02, 0.9)])
def test_the_interval_of_a_mean_covers_what_it_promises(shape: float, n: int, mean: float, low: float) -> None:
    rng = np.random.default_rng(5)
    score_RN = rng.binomial(16, _rates(rng, mean, shape, (REPLICATIONS, n))) / 16
    found = [mean_interval(score_N, samples=16) for score_N in score_RN]
    hits = np.mean([one.low <= mean <= one.high for one in found])
    assert low - 0.02 <= hits
    if n * min(mean, 1 - mean) >= 10:
        assert hits <= 0.97 + 0.02


@pytest.mark.parametrize("shape", [0.0, 0.3, 1.0, 6.0])
@pytest.mark.parametrize(
    ("n", "mean", "gain", "low"), [(30, 0.5, 0.0, 0.93), (30, 0.02, 0.06, 0.9), (300, 0.04, 0.1, 0.93)]
)
def test_the_interval_of_a_difference_covers_what_it_promises(
    shape: float, n: int, mean: float, gain: float, low: float
) -> None:
    """The second side's rate is the first's, raised by a random share of what lacks, on nine questions of ten."""
    rng = np.random.default_rng(6)
    size = (REPLICATIONS, n)
    first = _rates(rng, mean, shape, size)
    raised = first + (_rates(rng, gain, shape, size) * (1 - first) if gain else 0)
    truth = gain * (1 - mean)
    second = np.where(rng.random(size) < 0.9, raised, _rates(rng, mean + truth, shape, size))
    difference_RN = (rng.binomial(16, second) - rng.binomial(16, first)) / 16
    found = paired_differences(list(difference_RN))
    hits = np.mean([one.low <= truth <= one.high for one in found])
    assert hits >= low - 0.02
    if gain and n == 300:  # without a difference hardly any question differs: the interval is wider than need be
        assert hits <= 0.97 + 0.02


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_over_seeds_covers_where_that_over_questions_does_not(seeds: int) -> None:
    rng = np.random.default_rng(7)
    size = (REPLICATIONS, seeds, 100)
    shifts_RSN = 0.1 * rng.standard_normal((REPLICATIONS, seeds, 1)) + 0.1 * rng.standard_normal((REPLICATIONS, 1, 100))
    score_RSN = (rng.binomial(8, np.clip(0.5 + shifts_RSN, 0, 1)) - rng.binomial(8, 0.5, size)) / 8
    questions = paired_differences(list(score_RSN.mean(axis=1)))
    both = [over_seeds(score_SN, one) for score_SN, one in zip(score_RSN, questions, strict=True)]
    hits = sum(low <= 0 <= high for low, high in both)
    narrow = sum(one.low <= 0 <= one.high for one in questions)
    assert narrow / REPLICATIONS < 0.6
    assert 0.93 <= hits / REPLICATIONS <= 0.99


@given(st.lists(st.lists(st.integers(0, 8), min_size=4, max_size=4), min_size=1, max_size=5))
def test_seeds_can_only_widen_an_interval_and_one_alone_tells_nothing(values: list[list[int]]) -> None:
    score_SN = np.array(values) / 8
    questions = mean_interval(score_SN.mean(axis=0))
    low, high = over_seeds(score_SN, questions)
    if len(score_SN) == 1:
        assert math.isnan(low) and math.isnan(high)
    else:
        assert low <= questions.low + 1e-12 and high >= questions.high - 1e-12
        assert (low, high) == over_seeds(score_SN[::-1], questions)
