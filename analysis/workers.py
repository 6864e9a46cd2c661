"""Plain child processes that call functions of this package: no fork of a process that has threads, no import of the
caller's __main__.

A child costs a fifth of a second to start, and what the function imports.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_TOP = Path(__file__).resolve().parents[1]


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerEndedError(Exception):
    """A child was killed or failed before it had answered; the call can be made in this process."""


class Workers:
    """At most `number` children, started when there is work for them, each with a thread that waits for its answers."""

    def __init__(self, number: int):
        self._threads = ThreadPoolExecutor(number, "workers")
        self._own = threading.local()
        self._all: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """The function is one that pickle finds by its name. The future raises what it raises, WorkerEndedError if its
        child ended.
        """
        return self._threads.submit(self._call, function, arguments)

    def _call(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        request = pickle.dumps((function, arguments), protocol=pickle.HIGHEST_PROTOCOL)
        try:
            child = self._own.__dict__.get("child") or self._start()
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(request)
            child.stdin.flush()
            answer, error = pickle.load(child.stdout)  # noqa: S301 - our own child's
        except (OSError, EOFError, pickle.UnpicklingError) as ended:
            self._own.child = None
            raise WorkerEndedError(repr(ended)) from ended
        if error is not None:
            raise error
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-c", "from analysis.workers import serve; serve()"]
        path = os.pathsep.join(filter(None, [str(_TOP), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path}
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        if hasattr(fcntl, "F_SETPIPE_SZ") and child.stdout is not None:  # answers have megabytes, a pipe 64 KiB
            with contextlib.suppress(OSError):
                fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, 1 << 20)
        self._own.child = child
        self._all.append(child)
        return child

    @property
    def pids(self) -> list[int]:
        """Of all children that were started."""
        return [child.pid for child in self._all]

    def close(self) -> None:
        """Ends the children, and what they have not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in self._all:
            child.kill()
            with contextlib.suppress(OSError), child:  # closes its pipes and waits for it
                pass
        self._threads.shutdown()


def serve() -> None:
    """Answers each pickled (function, arguments) on stdin with the pickled (result, error) on stdout, until stdin
    ends.
    """
    gc.set_threshold(200_000)  # much is made and soon freed: cycles are looked for less often, a tenth of the time
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end closes stdin
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a function prints does not come among the answers
    with contextlib.suppress(EOFError):
        while True:
            function, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own parent's
            answer: tuple[Any, Exception | None]
            try:
                answer = (function(*arguments), None)
            except Exception as error:  # noqa: BLE001 - the parent raises it
                answer = (None, error)
            pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()
