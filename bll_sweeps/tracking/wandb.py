"""Weights & Biases as a mirror of a job while it runs, never in the job's way.

Every call into wandb happens on one daemon thread that is fed through a queue: whatever wandb does - raise, ask for a
key, wait for a server - costs the job one warning, and at most CLOSE_WITHIN_S when it closes. What a mirror missed is
still on disk, from where `bll publish` completes the server.

Online, a later attempt goes on with the run of the one before (session.py). Offline there is no resuming: each attempt
writes a run of its own, with the same id, into its own folder. Those are for `bll watch`; `bll publish` does not use
them. A job therefore logs all rows of its metrics file, those from before a checkpoint included.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bll_sweeps.errors import StoreError, UsageError, one_of
from bll_sweeps.grid.settings import Tracker
from bll_sweeps.store.layout import WANDB_PROBLEM
from bll_sweeps.store.records import write_text
from bll_sweeps.tracking.content import Content, Identity

if TYPE_CHECKING:
    from bll_sweeps.tracking.session import Session

CLOSE_WITHIN_S = 45.0  # well within a minute, whatever hangs

MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "off"}
_LIKE_A_KEY = re.compile(r"\b(?:[0-9a-f]{40}|wandb_v\d+_\w+)\b")
Finished = Callable[[], Content]  # read by the mirror's own thread

log = logging.getLogger(__name__)


class Run:
    """What a job holds; this one mirrors nothing (wandb=off)."""

    def log(self, row: dict[str, Any]) -> None:
        """Mirrors the next row of the job's metrics (names.curve)."""

    def complete(self, finished: Finished) -> None:
        """Adds what the finished job leaves (content.content)."""

    def close(self, ok: bool) -> None:
        """Ends the run as finished or failed. Returns within a minute, whatever wandb does."""


def open_tracker(settings: Tracker, identity: Identity, folder: Path) -> Run:
    """The mirror of one job attempt; call its close() in a finally block.

    settings: offline by default; $WANDB_MODE (online, offline, disabled) takes precedence. folder: of this attempt
    alone; the run lies in its wandb/. Never raises, never prompts; returns at once, since wandb starts beside the job.
    """
    mode = mode_of(settings)
    return Run() if mode == "off" else _WandbRun(mode, settings, identity, folder)


def is_online(settings: Tracker, folder: Path) -> bool:
    """Whether the mirror in this folder has, had or may yet get a run on a server; where the server could not be used
    it has an offline one.
    """
    online, offline = (any((folder / "wandb").glob(name)) for name in ("run-*", "offline-run-*"))
    return online or (settings.wandb == "online" and not offline)


def preload(settings: Tracker) -> None:
    """Imports wandb (0.7 s) in a worker, for the jobs it forks; starts no thread. Does nothing for off."""
    if mode_of(settings) != "off":
        with contextlib.suppress(ImportError):  # open_tracker will say so
            import wandb  # noqa: F401


def mode_of(settings: Tracker) -> Literal["off", "offline", "online"]:
    """By $WANDB_MODE, or else by the settings."""
    try:
        require_known_mode()
    except UsageError as error:  # of the job's own surroundings: a launch is refused
        log.warning("%s: tracking stays %s", error, settings.wandb)
    return MODES.get(os.environ.get("WANDB_MODE", ""), settings.wandb)  # type: ignore[return-value]


def require_known_mode() -> None:
    """UsageError for a $WANDB_MODE that is none."""
    given = os.environ.get("WANDB_MODE", "")
    if given and given not in MODES:
        raise UsageError(f"$WANDB_MODE={given!r} {one_of(MODES, given)}")


class _WandbRun(Run):
    """Feeds the thread that owns the wandb run."""

    def __init__(self, mode: Literal["offline", "online"], settings: Tracker, identity: Identity, folder: Path):
        from bll_sweeps.tracking.service import environment

        self._mode, self._settings, self._identity, self._folder = mode, settings, identity, folder
        self._queue: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._warned = False
        self._broken = False  # rows are dropped from here on
        self._closed = False
        self._abandoned = False  # what the thread still does is no business of the next job's
        self._environment = environment(folder)
        self._environment.__enter__()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, row: dict[str, Any]) -> None:
        if not self._broken:
            self._queue.put(("log", dict(row)))

    def complete(self, finished: Finished) -> None:
        if not self._broken:
            self._queue.put(("complete", finished))

    def close(self, ok: bool) -> None:
        if self._closed:
            return
        from bll_sweeps.tracking.service import kill_service

        self._closed = True
        self._queue.put(("close", ok))
        self._thread.join(CLOSE_WITHIN_S)
        if self._thread.is_alive():
            self._abandoned = True
            self._warn(f"does not answer for {CLOSE_WITHIN_S:.0f} s and is left behind")
            kill_service()
        self._environment.__exit__(None, None, None)

    def _warn(self, problem: str) -> None:
        """One warning per run, whatever else goes wrong after it."""
        if not self._warned:
            self._warned = True
            with contextlib.suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                write_text(self._folder / WANDB_PROBLEM, f"{problem}\n")  # for `bll status`
            log.warning(
                "W&B %s; the job goes on, its own files are complete (%s), and `bll publish` brings them to the server",
                problem,
                self._folder.parent,
            )

    def _work(self) -> None:
        """Body of the thread: start, rows as they come, finish. Nothing may escape from it."""
        session = None
        try:
            with _yielding():
                session = self._start()
            for action, value in iter(self._queue.get, None):
                if action == "close":
                    session.finish(value)
                    session = None
                    break
                if action == "complete":
                    session.add(value(), model=self._settings.checkpoints)
                else:
                    session.log(value)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not the job's
            self._broken = True
            self._warn(f"failed ({described(error)})")
        finally:
            self._stop(session)

    def _start(self) -> Session:
        """Offline if the server is of no use."""
        try:
            return self._begin(self._mode)
        except Exception as error:
            if self._abandoned or self._mode == "offline" or isinstance(error, ImportError):
                raise
            self._warn(f"cannot be used ({described(error)}): tracking goes on offline")
            _forget_failed_start(self._folder)
            return self._begin("offline")

    def _begin(self, mode: Literal["offline", "online"]) -> Session:
        from bll_sweeps.tracking.session import Session

        settings = self._settings
        return Session(mode, self._identity, self._folder, project=settings.project, entity=settings.entity)

    def _stop(self, session: Session | None) -> None:
        """Ends wandb's helper process: in this process another job may follow, with folders of its own."""
        from bll_sweeps.tracking.service import teardown

        if self._abandoned:
            return
        try:
            if session is not None:
                session.finish(ok=False)
            teardown()
        except Exception as error:  # noqa: BLE001 - as above
            self._warn(f"failed ({described(error)})")


@contextlib.contextmanager
def _yielding() -> Iterator[None]:
    """Does not hold up the job's own thread, which gives up the interpreter at each operation on tensors: it gets it
    back in half a millisecond then, not in five.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def described(error: Exception) -> str:
    """Type, unless it is an error of ours, and first line, without what looks like a key, should a server's answer
    repeat it.
    """
    text = str(error).strip().partition("\n")[0]
    text = text if isinstance(error, StoreError) else f"{type(error).__name__}: {text}"
    return _LIKE_A_KEY.sub("***", text)


def _forget_failed_start(folder: Path) -> None:
    """wandb-core keeps a run whose start failed, and would write the offline one of the same id nowhere."""
    import wandb

    wandb.teardown()
    shutil.rmtree(folder / "wandb", ignore_errors=True)
