"""Files of scores, parsed ahead of their use by workers, few of them where they are asked for. What a worker that was
killed should have parsed is parsed in this process.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from pathlib import Path

from analysis.sources.parse import Block, Blocks, Wanted, parse
from analysis.workers import WorkerEndedError, Workers

log = logging.getLogger("bll")

_BATCH_BYTES = 8_000_000
_WORTH = 8  # batches; what is less is parsed sooner than by processes that have to be started


class ScoreFiles:
    """`want` says which files will be asked for, `get` gives the blocks of one. Without workers all are parsed here."""

    def __init__(self, workers: Workers | None = None) -> None:
        self._workers = workers
        self._waiting: dict[Path, Wanted] = {}
        self._batch: list[Wanted] = []
        self._bytes = 0  # of the batch
        self._full: list[list[Wanted]] = []
        self._found: dict[Path, tuple[Future[list[Blocks | None]], int]] = {}
        self._worth = False
        self._same: dict[tuple[str, ...], tuple[str, ...]] = {}

    def want(self, wanted: Wanted) -> None:
        self._waiting[wanted.path] = wanted
        self._batch.append(wanted)
        self._bytes += wanted.size or 0
        if self._bytes < _BATCH_BYTES:
            return
        self._full.append(self._batch)
        self._batch, self._bytes = [], 0
        self._worth |= len(self._full) >= _WORTH
        while self._worth and self._workers is not None and self._full:
            batch = self._full.pop(0)
            future = self._workers.submit(parse, batch)
            self._found |= {one.path: (future, i) for i, one in enumerate(batch)}

    def get(self, path: Path) -> Blocks | None:
        """The blocks of a file by decoding, None where it was not wanted or the quick way does not take it."""
        wanted = self._waiting.pop(path, None)
        if wanted is None:
            return None
        if path in self._found:
            future, i = self._found.pop(path)
            blocks = self._answer(future, i, wanted)
        else:
            (blocks,) = parse([wanted])
        if blocks is None:
            return None
        # One object for the same questions: compared and numbered once.
        return {name: Block(self._same.setdefault(b.question, b.question), *b[1:]) for name, b in blocks.items()}

    def _answer(self, future: Future[list[Blocks | None]], i: int, wanted: Wanted) -> Blocks | None:
        try:
            return future.result()[i]
        except WorkerEndedError as ended:
            log.info("a process that parsed scores ended (%s); this one parses %s", ended, wanted.path)
            return parse([wanted])[0]
