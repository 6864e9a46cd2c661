"""Generations -> scores -> summary: what an evaluation records, and grading again derives. No torch, no lm_eval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from bll_sweeps.evaluation.grading import grader


def score_rows(
    generations: Iterable[Mapping[str, Any]], decodings: Iterable[str], grader_name: str
) -> list[dict[str, Any]]:
    """{"question": id, <decoding>: [0 or 1 per generation]} for each {"question", "gold", <decoding>: [texts]}."""
    grade, names = grader(grader_name).grade, list(decodings)
    return [
        {"question": row["question"], **{name: [grade(text, row["gold"]) for text in row[name]] for name in names}}
        for row in generations
    ]


def question_means(rows: Iterable[Mapping[str, Any]], decoding: str) -> list[float]:
    """Mean score of each question's generations, in [0, 1]."""
    return [sum(row[decoding]) / len(row[decoding]) for row in rows]


def metrics(
    rows: list[dict[str, Any]], generations: Iterable[Mapping[str, Any]], decodings: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Per decoding {"mean", "questions", "samples", "stderr", "length_limited"} of score_rows and their generations.

    samples: per question. stderr: of the mean over questions, in closed form; None for a single question.
    length_limited: share of the generations, in [0, 1], that ended for want of room and not at a stop.
    """
    generations = list(generations)
    out: dict[str, dict[str, Any]] = {}
    for name in decodings:
        means = question_means(rows, name)
        stderr = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None
        limited = [flag for generation in generations for flag in generation["length_limited"][name]]
        out[name] = {
            "mean": statistics.fmean(means),
            "questions": len(means),
            "samples": len(rows[0][name]),
            "stderr": stderr,
            "length_limited": statistics.fmean(limited),
        }
    return out
