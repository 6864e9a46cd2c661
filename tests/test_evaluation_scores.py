"""Grading and summaries: verdicts are exact, the question is the unit."""

from __future__ import annotations

import math

import pytest

from bll_sweeps.errors import ConfigError
from bll_sweeps.evaluation.grading import exact, grader
from bll_sweeps.evaluation.scores import metrics, question_means, score_rows

GENERATIONS = [
    {
        "question": "a",
        "gold": "nus",
        "sampled": ["nus", "sun", " nus\n", ""],
        "greedy": ["nus"],
        "length_limited": {"sampled": [False, True, False, False], "greedy": [False]},
    },
    {
        "question": "b",
        "gold": "1 2\n3 4",
        "sampled": ["1 2\n3 4", "1 2 3 4", "12\n34", "1 2\n3 4!"],
        "greedy": ["x"],
        "length_limited": {"sampled": [False, False, True, True], "greedy": [False]},
    },
]


def test_exact_match_forgives_blanks_at_the_ends_only() -> None:
    rows = score_rows(GENERATIONS, ["sampled", "greedy"], "exact")
    assert rows == [
        {"question": "a", "sampled": [1, 0, 1, 0], "greedy": [1]},
        {"question": "b", "sampled": [1, 0, 0, 0], "greedy": [0]},
    ]
    assert exact.ID == "exact-v1" and grader("exact").grade("Nus", "nus") == 0


def test_the_standard_error_is_over_questions_not_over_samples() -> None:
    rows = score_rows(GENERATIONS, ["sampled", "greedy"], "exact")
    assert question_means(rows, "sampled") == [0.5, 0.25]
    found = metrics(rows, GENERATIONS, ["sampled", "greedy"])
    expected = {"mean": 0.375, "questions": 2, "samples": 4, "stderr": pytest.approx(0.125), "length_limited": 3 / 8}
    assert found["sampled"] == expected and found["greedy"]["length_limited"] == 0
    assert found["greedy"]["stderr"] == pytest.approx(math.sqrt(0.5) / math.sqrt(2))
    assert metrics(rows[:1], GENERATIONS[:1], ["greedy"])["greedy"]["stderr"] is None


def test_an_unknown_grader_is_named_with_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"benchmark\.grader='exakt'.*did you mean 'exact'"):
        grader("exakt")
