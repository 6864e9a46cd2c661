"""Scores by question: files of an evaluation's scores -> columns of numbers, many files at a time.

A file is a row per question, {"question": .., <decoding>: [score in [0, 1] per sample], ..}; what else a row tells (the
answers and how they were found) is not read. Files are read, checked against their digests and parsed by threads, in
batches; a file that the quick way does not take is left to `slowly`, whose errors name what is wrong with it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from bll_sweeps.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

# The record holds the same mean as its rows; a greater difference means that one of them is not what was written.
SCORE_TOLERANCE = 1e-4
_BATCH_BYTES = 16_000_000  # a thread holds some three times as much
Told = dict[str, dict[str, Any]]  # what the record tells of each decoding: mean, questions, samples ..


class Block(NamedTuple):
    """The scores of one evaluation in one decoding by one grader."""

    question: pa.Array  # names [N], strings
    score: np.ndarray  # [N], float64: mean over the question's samples, in [0, 1]
    samples: np.ndarray  # [N], int32


class Wanted(NamedTuple):
    """A file of scores. size: None where only its digest is told."""

    path: Path
    size: int | None
    sha256: str
    told: Told


class ScoreFiles:
    """Parses files of scores in the threads of `pool`, from the moment on that they are asked for."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._waiting: dict[tuple[str, ...], list[Wanted]] = {}
        self._bytes: Counter[tuple[str, ...]] = Counter()
        self._found: dict[Path, tuple[Future[list[dict[str, Block] | None]], int]] = {}

    def want(self, wanted: Wanted) -> None:
        """Has the file parsed, together with others of its decodings."""
        names = tuple(sorted(wanted.told))
        batch = self._waiting.setdefault(names, [])
        batch.append(wanted)
        self._bytes[names] += wanted.size or 0
        if self._bytes[names] >= _BATCH_BYTES:
            self._bytes[names] = 0
            self._start(batch)

    def _start(self, batch: list[Wanted]) -> None:
        future = self._pool.submit(_parse, list(batch))
        self._found |= {wanted.path: (future, i) for i, wanted in enumerate(batch)}
        batch.clear()

    def get(self, path: Path) -> dict[str, Block] | None:
        """The blocks of a file by decoding, None where it was not asked for or the quick way does not take it."""
        if path not in self._found:
            for batch in self._waiting.values():
                if batch:
                    self._start(batch)
        if path not in self._found:
            return None
        future, i = self._found[path]
        return future.result()[i]


class _NotPlainError(Exception):
    """The quick way does not take these files."""


def _parse(batch: Sequence[Wanted]) -> list[dict[str, Block] | None]:
    """The blocks of each file; None for one that is not as it should be, which `slowly` then judges."""
    import pyarrow as pa

    try:
        return list(_parse_all(batch))
    except (_NotPlainError, pa.ArrowException, OSError):
        return [None] if len(batch) == 1 else [blocks for one in batch for blocks in _parse([one])]


def _parse_all(batch: Sequence[Wanted]) -> Iterator[dict[str, Block]]:
    import pyarrow as pa
    from pyarrow import json as arrow_json

    texts = [_checked(wanted) for wanted in batch]
    names = sorted(batch[0].told)
    fields = [("question", pa.string()), *((name, pa.list_(pa.float64())) for name in names)]
    data = b"".join(texts)
    table = arrow_json.read_json(
        BytesIO(data),
        read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=arrow_json.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore"),
    ).combine_chunks()
    ends = np.cumsum([text.count(b"\n") for text in texts])
    if table.num_rows != ends[-1]:
        raise _NotPlainError
    columns = {name: _means(table.column(name)) for name in names}
    questions = _whole(table.column("question"))
    for wanted, start, end in zip(batch, [0, *ends[:-1]], ends, strict=True):
        question = questions.slice(start, end - start)
        blocks = {name: Block(question, *(part[start:end] for part in columns[name])) for name in names}
        if any(problem_of(block, wanted.told[name]) for name, block in blocks.items()):
            raise _NotPlainError
        yield blocks


def _checked(wanted: Wanted) -> bytes:
    """The file's bytes: as its digest says, and an object on every line."""
    data = wanted.path.read_bytes()
    good = wanted.size in (None, len(data)) and hashlib.sha256(data).hexdigest() == wanted.sha256
    lines = data.count(b"\n")
    if not good or not lines or not data.endswith(b"\n") or data[:1] != b"{" or data.count(b"\n{") != lines - 1:
        raise _NotPlainError
    return data


def _whole(column: pa.ChunkedArray) -> pa.Array:
    if column.null_count:
        raise _NotPlainError
    return column.chunk(0)  # one block was read


def _means(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Lists of scores [N] -> their means and lengths [N]."""
    lists = _whole(column)
    if lists.values.null_count:
        raise _NotPlainError
    return _mean_of(lists.values.to_numpy(), lists.offsets.to_numpy())


def _mean_of(values: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = np.diff(offsets)
    if not len(counts) or counts.min() < 1:
        raise _NotPlainError
    return np.add.reduceat(values, offsets[:-1]) / counts, counts.astype(np.int32)


def problem_of(block: Block, told: dict[str, Any]) -> str:
    """What is wrong with the scores of a decoding, '' if nothing is."""
    from pyarrow import compute

    if compute.count_distinct(block.question).as_py() != len(block.question):
        return "has a question twice; `bll retry` runs its job again"
    if np.isnan(block.score).any():
        n = int(np.isnan(block.score).sum())
        return f"has scores that are no numbers (NaN, in {n} of {len(block.score)} questions): {_GRADER_AT_FAULT}"
    if not ((block.score >= 0) & (block.score <= 1)).all():
        return f"has a score outside [0, 1]: {_GRADER_AT_FAULT}"
    mean = float(block.score.mean())
    if not abs(mean - told["mean"]) <= SCORE_TOLERANCE or len(block.score) != told["questions"]:
        return (
            f"has {len(block.score)} questions with mean {mean:.6f}, its record {told['questions']} with "
            f"{told['mean']}; `bll retry` runs its job again"
        )
    return ""


_GRADER_AT_FAULT = "its grader is at fault; mend it, raise its VERSION and launch again with --rerun-stale"


def slowly(path: Path, told: Told) -> dict[str, Block]:
    """The blocks of a file whose digest was checked; StoreError says what is wrong with it."""
    import pyarrow as pa

    # One call for the whole file: three times faster than a call a line.
    rows = json.loads(f"[{','.join(path.read_text(encoding='utf-8').splitlines())}]")
    question = pa.array([str(row["question"]) for row in rows], pa.string())
    out = {}
    for decoding, metrics in told.items():
        lists = [[float("nan") if score is None else float(score) for score in row[decoding]] for row in rows]
        if not lists or not all(lists):
            raise StoreError(f"{path} has a question without scores ({decoding}); `bll retry` runs its job again")
        offsets = np.cumsum([0, *map(len, lists)])
        out[decoding] = Block(question, *_mean_of(np.array([s for scores in lists for s in scores]), offsets))
        if problem := problem_of(out[decoding], metrics):
            raise StoreError(f"{path} ({decoding}) {problem}")
    return out


Key = tuple[str, str, str]  # evaluate id, decoding, grader


class Scores(Mapping[Key, pd.DataFrame]):
    """Scores by question of a sweep: a mapping (evaluate id, decoding, grader) -> a table indexed by question with
    `score` and `samples`, made when it is asked for; behind it are three columns over all questions [M].

    names: the distinct questions. code: which of them, int32 [M]. score: float64 [M]. samples: int32 [M].
    `rows(key)`: where in the columns the scores of that key lie.
    """

    def __init__(
        self, rows: dict[Key, slice], names: pd.Index, code: np.ndarray, score: np.ndarray, samples: np.ndarray
    ):
        self._rows, self.names, self.code, self.score, self.samples = rows, names, code, score, samples

    @classmethod
    def of(cls, blocks: Mapping[Key, Block]) -> Scores:
        import pyarrow as pa

        parts = [block.question for block in blocks.values()]
        ends = np.cumsum([0, *(len(part) for part in parts)])
        rows = {key: slice(int(a), int(b)) for key, a, b in zip(blocks, ends[:-1], ends[1:], strict=True)}
        # Many blocks are slices of one batch: joined in bounded pieces, so that no copy of all names is held.
        pieces = [pa.concat_arrays(parts[i : i + 256]).dictionary_encode() for i in range(0, len(parts), 256)]
        whole = pa.chunked_array(pieces, pa.dictionary(pa.int32(), pa.string())).unify_dictionaries()
        names = whole.chunk(0).dictionary.to_pylist() if pieces else []
        code = [chunk.indices.to_numpy() for chunk in whole.chunks]
        return cls(
            rows,
            pd.Index(names, dtype="str", name="question"),
            np.concatenate([np.empty(0, np.int32), *code]),
            np.concatenate([np.empty(0), *(block.score for block in blocks.values())]),
            np.concatenate([np.empty(0, np.int32), *(block.samples for block in blocks.values())]),
        )

    def parts(self) -> dict[str, pd.DataFrame]:
        """All of it as plain tables: the keys with their numbers of rows, the columns, and the names."""
        blocks = pd.DataFrame(list(self._rows), columns=["evaluate", "decoding", "grader"], dtype="str")
        blocks["rows"] = np.array([at.stop - at.start for at in self._rows.values()], np.int64)
        return {
            "blocks": blocks,
            "columns": pd.DataFrame({"code": self.code, "score": self.score, "samples": self.samples}),
            "names": self.names.to_frame(index=False),
        }

    @classmethod
    def from_parts(cls, parts: Mapping[str, pd.DataFrame]) -> Scores:
        blocks, columns = parts["blocks"], parts["columns"]
        ends = np.cumsum([0, *blocks["rows"]])
        keys = zip(blocks["evaluate"], blocks["decoding"], blocks["grader"], strict=True)
        rows = {key: slice(int(a), int(b)) for key, a, b in zip(keys, ends[:-1], ends[1:], strict=True)}
        names = pd.Index(parts["names"]["question"], name="question")
        return cls(rows, names, *(columns[name].to_numpy() for name in ("code", "score", "samples")))

    def rows(self, key: Key) -> slice:
        return self._rows[key]

    def block(self, key: Key) -> Block:
        """The scores of a key with their questions' names, as `of` takes them."""
        import pyarrow as pa

        at = self._rows[key]
        return Block(pa.array(self.names.take(self.code[at]), pa.string()), self.score[at], self.samples[at])

    def table(self) -> pd.DataFrame:
        """All scores, a row per key and question; names are categories."""
        lengths = [at.stop - at.start for at in self._rows.values()]
        columns: dict[str, Any] = {}
        for i, column in enumerate(("evaluate", "decoding", "grader")):
            values = pd.Categorical([key[i] for key in self._rows])
            columns[column] = pd.Categorical.from_codes(np.repeat(values.codes, lengths), dtype=values.dtype)
        columns["question"] = pd.Categorical.from_codes(self.code, categories=self.names)
        return pd.DataFrame({**columns, "score": self.score, "samples": self.samples})

    def __getitem__(self, key: Key) -> pd.DataFrame:
        at = self._rows[key]
        index = self.names.take(self.code[at])
        return pd.DataFrame({"score": self.score[at], "samples": self.samples[at]}, index=index)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
