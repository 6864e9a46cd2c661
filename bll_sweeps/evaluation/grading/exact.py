"""Exact match: the answer is right if it is the gold answer, blanks at its ends aside.

A grader is a module with NAME, VERSION and grade(); scores are kept under `<NAME>-v<VERSION>`. Raise VERSION with any
change of a verdict: stored generations are then graded again, without generating them again.
"""

from __future__ import annotations

NAME = "exact"
VERSION = 1
ID = f"{NAME}-v{VERSION}"


def grade(answer: str, gold: str) -> int:
    """1 if `answer` equals `gold` after strip(), else 0; an empty answer is right only where the gold one is empty."""
    return int(answer.strip() == gold.strip())
