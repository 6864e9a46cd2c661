"""Generations -> verdicts -> summary: what an evaluation records, and grading again derives. No torch, no lm_eval."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bll_sweeps.evaluation.grading import GRADERS, Gold, Verdict, grade_all

Row = dict[str, Any]


def gold_of(generation: Mapping[str, Any]) -> Gold:
    """The right answer that a row of generations holds."""
    return Gold(generation["gold"], tuple((letter, text) for letter, text in generation.get("options", ())))


def score_rows(
    generations: Sequence[Mapping[str, Any]],
    decodings: Iterable[str],
    grader_name: str,
    *,
    processes: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """For each {"question", "gold", "options"?, <decoding>: [texts]} a row {"question", <decoding>: [score in [0, 1]
    per generation], "answers": {<decoding>: [what was taken for it]}, "kinds": {<decoding>: [how that was found]}}.
    """
    names = list(decodings)
    pairs = [(text, gold_of(row)) for row in generations for name in names for text in row[name]]
    verdicts = iter(grade_all(grader_name, pairs, processes=processes, on_progress=on_progress))
    found = [{name: [next(verdicts) for _ in row[name]] for name in names} for row in generations]
    return [score_row(row["question"], by_decoding) for row, by_decoding in zip(generations, found, strict=True)]


def score_row(question: str, verdicts: Mapping[str, Sequence[Verdict]]) -> Row:
    """One row of score_rows."""
    return {
        "question": question,
        **{name: [verdict.score for verdict in found] for name, found in verdicts.items()},
        "answers": {name: [verdict.answer for verdict in found] for name, found in verdicts.items()},
        "kinds": {name: [verdict.kind for verdict in found] for name, found in verdicts.items()},
    }


def apart(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Rows of score_rows as they are stored, in two files: the scores, which every analysis reads, and what was taken
    for the answers and how it was found, twice as much, which people read.
    """
    told = ("answers", "kinds")
    scores = [{key: value for key, value in row.items() if key not in told} for row in rows]
    return scores, [{"question": row["question"], **{key: row[key] for key in told}} for row in rows]


def question_means(rows: Iterable[Mapping[str, Any]], decoding: str) -> list[float]:
    """Mean score of each question's generations, in [0, 1]."""
    return [statistics.fmean(row[decoding]) for row in rows]


def metrics(
    rows: Sequence[Mapping[str, Any]], generations: Iterable[Mapping[str, Any]], decodings: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Per decoding, of score_rows and their generations:

    mean: over questions, of the mean over their k samples (avg@k); questions, samples (k).
    stderr: of that mean, over questions, in closed form; None for a single question.
    length_limited, no_answer: shares of the generations, in [0, 1], that ended for want of room and not at a stop, and
    in which no answer was found. kinds: shares by how the answer was found.
    pass_at, {"2": .., "4": .., ..., "k": ..}: the chance that of so many samples one is right; majority (maj@k): the
    mean score of each question's most frequent answer. Both only where k > 1.
    """
    generations = list(generations)
    out: dict[str, dict[str, Any]] = {}
    for name in decodings:
        means = question_means(rows, name)
        stderr = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None
        limited = [flag for generation in generations for flag in generation["length_limited"][name]]
        kinds = Counter(kind for row in rows for kind in row["kinds"][name])
        samples = len(rows[0][name])
        out[name] = {
            "mean": statistics.fmean(means),
            "questions": len(means),
            "samples": samples,
            "stderr": stderr,
            "length_limited": statistics.fmean(limited),
            "no_answer": kinds["none"] / kinds.total(),
            "kinds": {kind: count / kinds.total() for kind, count in sorted(kinds.items())},
        }
        if samples > 1:
            at = sorted({2**i for i in range(1, samples.bit_length()) if 2**i <= samples} | {samples})
            out[name]["pass_at"] = {str(k): statistics.fmean(pass_at(row[name], k) for row in rows) for k in at}
            out[name]["majority"] = statistics.fmean(majority(row["answers"][name], row[name]) for row in rows)
    return out


def pass_at(scores: Sequence[float], k: int) -> float:
    """The chance that one of k of these samples, drawn without replacement, is right: 1 - C(n - c, k) / C(n, k) for c
    right ones of n (Chen et al. 2021, Evaluating Large Language Models Trained on Code, eq. 1).
    """
    right = sum(score >= 1 for score in scores)
    return 1 - math.comb(len(scores) - right, k) / math.comb(len(scores), k)


def majority(answers: Sequence[str], scores: Sequence[float]) -> float:
    """The score of the most frequent answer, of two as frequent ones that which came first; without any answer 0.

    An answer's score is the mean over its occurrences: a grader may have judged two spellings of one alike.
    """
    counts = Counter(answer for answer in answers if answer)
    if not counts:
        return 0.0
    chosen, _ = counts.most_common(1)[0]
    return statistics.fmean(score for answer, score in zip(answers, scores, strict=True) if answer == chosen)


def disagreements(rows: Mapping[str, Sequence[Row]], decodings: Iterable[str]) -> list[Row]:
    """Where two graders (`rows` of each, by ID) gave a generation another score: {"question", "decoding", "sample",
    "scores": {ID: ..}, "answers": {ID: ..}}. Graders that score between 0 and 1 by nature are left out.
    """
    names = list(decodings)
    binary = {known.ID for known in GRADERS.values() if known.BINARY}
    strict = {grader_id: of for grader_id, of in rows.items() if grader_id in binary}
    out = []
    for together in zip(*strict.values(), strict=True) if len(strict) > 1 else ():
        for name in names:
            for i, scores in enumerate(zip(*(row[name] for row in together), strict=True)):
                if len(set(scores)) > 1:
                    answers = [row["answers"][name][i] for row in together]
                    both = {
                        "scores": dict(zip(strict, scores, strict=True)),
                        "answers": dict(zip(strict, answers, strict=True)),
                    }
                    out.append({"question": together[0]["question"], "decoding": name, "sample": i, **both})
    return out


def summarise(
    generations: Sequence[Mapping[str, Any]], decodings: Iterable[str], rows: Mapping[str, Sequence[Row]]
) -> dict[str, Any]:
    """{"grader": ID of the first of `rows`, "metrics": its, "graders": {ID: metrics}, "disagreements": number}."""
    names = list(decodings)
    found = {name: metrics(of, generations, names) for name, of in rows.items()}
    first = next(iter(rows))
    return {
        "grader": first,
        "metrics": found[first],
        "graders": found,
        "disagreements": len(disagreements(rows, names)),
    }
