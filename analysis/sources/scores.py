"""The scores by question of a whole sweep, as columns of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.sources.parse import Block

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("score", "samples")
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
        ends = np.cumsum([0, *(len(block.question) for block in blocks.values())])
        rows = {key: slice(int(a), int(b)) for key, a, b in zip(blocks, ends[:-1], ends[1:], strict=True)}
        number: dict[str, int] = {}
        codes: dict[tuple[str, ...], np.ndarray] = {}  # most evaluations have their questions in common with others
        for block in blocks.values():
            if block.question not in codes:
                found = [number.setdefault(name, len(number)) for name in block.question]
                codes[block.question] = np.array(found, np.int32)
        return cls(
            rows,
            pd.Index(list(number), dtype="str", name="question"),
            np.concatenate([np.empty(0, np.int32), *(codes[block.question] for block in blocks.values())]),
            np.concatenate([np.empty(0), *(block.score for block in blocks.values())]),
            np.concatenate([np.empty(0, np.int32), *(block.samples for block in blocks.values())]),
        )

    @classmethod
    def of_tables(cls, tables: Mapping[Key, pd.DataFrame]) -> Scores:
        """Of tables as this mapping's own."""
        return cls.of(
            {key: Block(tuple(t.index), *(t[name].to_numpy() for name in _COLUMNS)) for key, t in tables.items()}
        )

    def parts(self) -> dict[str, pa.Table]:
        """All of it as plain tables: the keys with their numbers of rows, the columns, and the names."""
        import pyarrow as pa

        keys = zip(*self._rows, strict=True) if self._rows else ((), (), ())
        blocks = {
            name: pa.array(column, pa.large_string())
            for name, column in zip(("evaluate", "decoding", "grader"), keys, strict=True)
        }
        blocks["rows"] = pa.array([at.stop - at.start for at in self._rows.values()], pa.int64())
        return {
            "blocks": pa.table(blocks),
            "columns": pa.table({"code": self.code, "score": self.score, "samples": self.samples}),
            "names": pa.table({"question": pa.array(self.names.tolist(), pa.large_string())}),
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

    def blocks(self) -> dict[Key, Block]:
        """What `of` made this of."""
        every = self.names.tolist()
        asked: dict[bytes, tuple[str, ...]] = {}
        out = {}
        for key, at in self._rows.items():
            code = self.code[at]
            question = asked.get(code.tobytes())
            if question is None:
                question = asked[code.tobytes()] = tuple([every[i] for i in code.tolist()])
            out[key] = Block(question, self.score[at], self.samples[at])
        return out

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
