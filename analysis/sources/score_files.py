"""Files of scores, parsed ahead of their use: many of them by processes of their own, few of them where they are asked
for.

A process costs a fifth of a second to start and parses some 200 MB in a second. It is a plain child that reads requests
from a pipe (parse.serve): no fork of a process that has threads, no import of the caller's __main__. A child that is
killed or fails is an answer that does not come; its files are then parsed in this process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from analysis.sources.parse import Block, Blocks, Wanted, parse

log = logging.getLogger("bll")

_BATCH_BYTES = 8_000_000
_WORTH = 8  # batches; what is less is parsed sooner than by processes that have to be started
_MOST = 8  # processes
_TOP = Path(__file__).resolve().parents[2]


class ScoreFiles:
    """`want` says which files will be asked for, `get` gives the blocks of one, `close` ends the processes."""

    def __init__(self) -> None:
        self._waiting: dict[Path, Wanted] = {}
        self._batch: list[Wanted] = []
        self._bytes = 0  # of the batch
        self._full: list[list[Wanted]] = []
        self._found: dict[Path, tuple[Future[list[Blocks | None]], int]] = {}
        self._children: _Children | None = None
        self._same: dict[tuple[str, ...], tuple[str, ...]] = {}

    def close(self) -> None:
        if self._children is not None:
            self._children.close()

    def want(self, wanted: Wanted) -> None:
        self._waiting[wanted.path] = wanted
        self._batch.append(wanted)
        self._bytes += wanted.size or 0
        if self._bytes < _BATCH_BYTES:
            return
        self._full.append(self._batch)
        self._batch, self._bytes = [], 0
        if self._children is None and len(self._full) >= _WORTH:
            self._children = _Children()
        while self._children is not None and self._full:
            batch = self._full.pop(0)
            future = self._children.submit(batch)
            self._found |= {one.path: (future, i) for i, one in enumerate(batch)}

    def get(self, path: Path) -> Blocks | None:
        """The blocks of a file by decoding, None where it was not wanted or the quick way does not take it."""
        wanted = self._waiting.pop(path, None)
        if wanted is None:
            return None
        if path in self._found:
            future, i = self._found.pop(path)
            blocks = future.result()[i]
        else:
            (blocks,) = parse([wanted])
        if blocks is None:
            return None
        # One object for the same questions: compared and numbered once.
        return {name: Block(self._same.setdefault(b.question, b.question), *b[1:]) for name, b in blocks.items()}


class _Children:
    """Processes that parse, one for each processor, and a thread for each of them that waits for its answers."""

    def __init__(self) -> None:
        number = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, _MOST)
        self._threads = ThreadPoolExecutor(number, "scores")
        self._own = threading.local()
        self._all: list[subprocess.Popen[bytes]] = []

    def submit(self, batch: Sequence[Wanted]) -> Future[list[Blocks | None]]:
        return self._threads.submit(self._parse, list(batch))

    def _parse(self, batch: list[Wanted]) -> list[Blocks | None]:
        try:
            child = self._own.__dict__.get("child") or self._start()
            assert child.stdin is not None and child.stdout is not None
            pickle.dump(batch, child.stdin)
            child.stdin.flush()
            answer: list[Blocks | None] = pickle.load(child.stdout)  # noqa: S301 - our own child's
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            log.info("a process that parsed scores ended (%r); its files are parsed by this one", error)
            return parse(batch)
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-c", "from analysis.sources.parse import serve; serve()"]
        path = os.pathsep.join(filter(None, [str(_TOP), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path}
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._own.child = child
        self._all.append(child)
        return child

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for child in self._all:
            child.kill()  # it only reads
            with contextlib.suppress(OSError), child:  # closes its pipes and waits for it
                pass
