"""Intervals: no certainty from few questions, exact symmetries, and the coverage that they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.statistics.intervals import mean_interval, paired_difference, ratio_interval, region

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


def test_samples_that_differ_narrow_the_interval_but_not_below_all_samples_independent() -> None:
    halves = mean_interval(np.full(100, 0.5), samples=16)
    assert halves.high - halves.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(1600), rel=0.01)


@given(scores, st.integers(1, 16))
def test_a_mean_never_has_an_interval_of_zero_width_and_lies_inside_it(values: list[float], samples: int) -> None:
    interval = mean_interval(np.array(values), samples)
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1
    assert interval.high > interval.low


def test_scores_outside_the_unit_interval_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        mean_interval(np.array([0.5, 44.4]))


@given(pairs)
@settings(max_examples=60, deadline=None)
def test_swapping_the_two_sides_mirrors_the_interval_exactly(values: list[tuple[int, int]]) -> None:
    a, b = (np.array(side) / 8 for side in zip(*values, strict=True))
    one, other = paired_difference(a, b, resamples=400), paired_difference(b, a, resamples=400)
    assert (one.mean, one.low, one.high) == (-other.mean, -other.high, -other.low)


@given(pairs, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_questions_does_not_matter(values: list[tuple[int, int]], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    results = []
    for rows in (values, shuffled):
        a, b = (np.array(side) / 8 for side in zip(*rows, strict=True))
        results.append(paired_difference(a, b, resamples=400))
    assert results[0] == results[1]


def test_a_constant_difference_is_not_certainty() -> None:
    tie = paired_difference(np.ones(200), np.ones(200))
    assert tie.mean == 0
    assert (tie.low, tie.high) == (pytest.approx(-0.0183, abs=1e-4), pytest.approx(0.0183, abs=1e-4))
    sweep = paired_difference(np.ones(200), np.zeros(200))
    assert (sweep.mean, sweep.high) == (1, 1)
    assert sweep.low == pytest.approx(1 - 2 * 0.0183, abs=1e-4)


def test_nothing_in_gives_no_number_and_n_zero() -> None:
    for interval in (mean_interval(np.array([])), paired_difference(np.array([]), np.array([]))):
        assert math.isnan(interval.mean)
        assert interval.n == 0


def test_many_questions_are_resampled_in_chunks_with_the_same_answer_each_time() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(3000), rng.random(3000)
    one, two = paired_difference(a, b, resamples=4000), paired_difference(a, b, resamples=4000)
    assert one == two
    assert one.high - one.low == pytest.approx(2 * 1.96 * np.std(a - b) / math.sqrt(3000), rel=0.05)


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


@pytest.mark.slow
@pytest.mark.parametrize("ability", [0.5, 0.9])
def test_the_paired_interval_covers_about_95_percent(ability: float) -> None:
    """Questions differ in difficulty, both sides answer 8 times: the truth is the mean over all questions."""
    rng = np.random.default_rng(7)
    n, trials, gain, hits = 100, 600, 0.05, 0
    truth = _truth(ability, gain)
    for _ in range(trials):
        rate = rng.beta(6 * ability, 6 * (1 - ability), n)
        better = np.clip(rate + gain * rng.exponential(1, n) * (1 - rate), 0, 1)
        a, b = rng.binomial(8, better) / 8, rng.binomial(8, rate) / 8
        interval = paired_difference(a, b, resamples=1000)
        hits += interval.low <= truth <= interval.high
    assert hits / trials == pytest.approx(0.945, abs=0.025)


def _truth(ability: float, gain: float) -> float:
    rng = np.random.default_rng(11)
    rate = rng.beta(6 * ability, 6 * (1 - ability), 2_000_000)
    return float((np.clip(rate + gain * rng.exponential(1, len(rate)) * (1 - rate), 0, 1) - rate).mean())


@pytest.mark.slow
@pytest.mark.parametrize("ability", [0.02, 0.5, 0.97])
def test_the_interval_of_a_mean_covers_about_95_percent(ability: float) -> None:
    rng = np.random.default_rng(3)
    hits, trials = 0, 2000
    for _ in range(trials):
        rate = rng.beta(6 * ability, 6 * (1 - ability), 200)
        interval = mean_interval(rng.binomial(8, rate) / 8, samples=8)
        hits += interval.low <= ability <= interval.high
    assert 0.92 <= hits / trials <= 0.99
