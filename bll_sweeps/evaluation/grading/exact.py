"""Exact match: the answer is right if it is the gold answer, blanks at its ends aside.

A grader is a module with NAME, VERSION and grade(). Scores are kept under `<NAME>-v<VERSION>`: raise VERSION with any
change of a verdict, so that old and new ones are never mixed. Generations are stored too, and scores.score_rows can
grade them again.
"""

from __future__ import annotations

NAME = "exact"
VERSION = 1
ID = f"{NAME}-v{VERSION}"


def grade(answer: str, gold: str) -> int:
    """1 if `answer` equals `gold` after strip(), else 0; an empty answer is right only where the gold one is empty."""
    return int(answer.strip() == gold.strip())
