"""A file of an evaluation's scores -> arrays. It imports little, since workers start with it.

A file is a row per question, {"question": .., <decoding>: [score in [0, 1] per sample], ..}; what else a row tells (the
answers and how they were found) is not read. A file that the quick way does not take is left to `slowly`, whose errors
name what is wrong with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import fsum
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from bll_sweeps.errors import StoreError

# The record holds the same mean as its rows; a greater difference means that one of them is not what was written.
SCORE_TOLERANCE = 1e-4
Told = dict[str, dict[str, Any]]  # what the record tells of each decoding: mean, questions, samples ..


class Block(NamedTuple):
    """The scores of one evaluation in one decoding by one grader."""

    question: tuple[str, ...]  # names [N]; one object for all blocks of the same questions in the same order
    score: np.ndarray  # [N], float64: mean over the question's samples, in [0, 1]
    samples: np.ndarray  # [N], int32


class Wanted(NamedTuple):
    """A file of scores. size: None where only its digest is told."""

    path: Path
    size: int | None
    sha256: str
    told: Told


Blocks = dict[str, Block]  # by decoding


def parse(wanted: Sequence[Wanted]) -> list[Blocks | None]:
    """The blocks of each file; None for one that is not as it should be, which `slowly` then judges."""
    same: dict[tuple[str, ...], tuple[str, ...]] = {}
    return [_parse(one, same) for one in wanted]


def _parse(wanted: Wanted, same: dict[tuple[str, ...], tuple[str, ...]]) -> Blocks | None:
    try:
        data = wanted.path.read_bytes()
    except OSError:
        return None
    if wanted.size not in (None, len(data)) or hashlib.sha256(data).hexdigest() != wanted.sha256:
        return None
    try:
        rows = _decoder(tuple(wanted.told)).decode_lines(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    names = tuple([row.question for row in rows])
    question = same.setdefault(names, names)
    blocks = {}
    for i, decoding in enumerate(wanted.told):
        means = _means_of(map(attrgetter(f"scores_{i}"), rows))
        if means is None or len(means) != len(rows):
            return None
        blocks[decoding] = Block(question, *_columns(means))
    try:
        wrong = any(problem_of(block, wanted.told[name]) for name, block in blocks.items())
    except (KeyError, TypeError, ValueError):  # the record tells no mean, or none that is a number
        return None
    return None if wrong else blocks


@lru_cache
def _decoder(decodings: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Of rows with `question` and `scores_<i>`, the list of the i-th decoding as it is written."""
    names = {"question": "question"} | {f"scores_{i}": decoding for i, decoding in enumerate(decodings)}
    fields = [("question", str), *((name, msgspec.Raw) for name in list(names)[1:])]
    return msgspec.json.Decoder(msgspec.defstruct("Row", fields, rename=names, gc=False))


def _means_of(written: Iterable[msgspec.Raw]) -> list[tuple[float, int]] | None:
    """`[1, 0, 1]` as mean and length, of each; None where one is something else, or empty.

    All at once, and each different list once, of which right and wrong answers have few: half the time of reading them.
    """
    *lists, rest = b"".join(written).split(b"]")
    try:
        return None if rest else list(map(_mean_of, lists))
    except (msgspec.MsgspecError, UnicodeDecodeError, ZeroDivisionError):
        return None


@lru_cache(1 << 16)
def _mean_of(opened: bytes) -> tuple[float, int]:
    return _mean(_SCORES.decode(opened + b"]"))


_SCORES = msgspec.json.Decoder(list[float])


def _mean(scores: Sequence[float]) -> tuple[float, int]:
    """Of an exact sum; ZeroDivisionError for no scores."""
    return fsum(scores) / len(scores), len(scores)


def _columns(means: Sequence[tuple[float, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Means [N] and the numbers of their samples [N]."""
    values, lengths = zip(*means, strict=True) if means else ((), ())
    return np.array(values, np.float64), np.array(lengths, np.int32)


def problem_of(block: Block, told: dict[str, Any]) -> str:
    """What is wrong with the scores of a decoding, '' if nothing is."""
    if len(set(block.question)) != len(block.question):
        return "has a question twice; `bll retry` runs its job again"
    if not ((block.score >= 0) & (block.score <= 1)).all():
        if n := int(np.isnan(block.score).sum()):
            return f"has scores that are no numbers (NaN, in {n} of {len(block.score)} questions): {_GRADER_AT_FAULT}"
        return f"has a score outside [0, 1]: {_GRADER_AT_FAULT}"
    mean = float(block.score.mean()) if len(block.score) else float("nan")
    if not abs(mean - told["mean"]) <= SCORE_TOLERANCE or len(block.score) != told["questions"]:
        return (
            f"has {len(block.score)} questions with mean {mean:.6f}, its record {told['questions']} with "
            f"{told['mean']}; `bll retry` runs its job again"
        )
    return ""


_GRADER_AT_FAULT = "its grader is at fault; mend it, raise its VERSION and launch again with --rerun-stale"


def slowly(path: Path, told: Told) -> Blocks:
    """The blocks of a file whose digest was checked; StoreError says what is wrong with it."""
    # One call for the whole file: three times faster than a call a line.
    rows = json.loads(f"[{','.join(path.read_text(encoding='utf-8').splitlines())}]")
    question = tuple(str(row["question"]) for row in rows)
    out = {}
    for decoding, metrics in told.items():
        lists = [[float("nan") if score is None else float(score) for score in row[decoding]] for row in rows]
        if not lists or not all(lists):
            raise StoreError(f"{path} has a question without scores ({decoding}); `bll retry` runs its job again")
        out[decoding] = Block(question, *_columns([_mean(scores) for scores in lists]))
        if problem := problem_of(out[decoding], metrics):
            raise StoreError(f"{path} ({decoding}) {problem}")
    return out
