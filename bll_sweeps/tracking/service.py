"""wandb's surroundings: its variables, its helper process, and whether the server that is sent to still lives."""

from __future__ import annotations

import http.client
import logging
import os
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

LOOK_EVERY_S, SILENT_LOOKS = 15.0, 4  # at the server while a command sends to it
# What an outer run or shell may have set and would leak into this one, which is given all of it.
FOREIGN = ("MODE", "SERVICE", "RUN_ID", "RESUME", "NAME", "NOTES", "TAGS", "PROJECT", "RUN_GROUP", "SWEEP_ID")

log = logging.getLogger(__name__)


@contextmanager
def environment(folder: Path) -> Iterator[None]:
    """The variables that wandb reads nowhere but from the environment, for runs that keep their files in `folder`."""
    values: dict[str, str | None] = dict.fromkeys(f"WANDB_{name}" for name in FOREIGN)
    values |= {
        "WANDB_DIR": str(folder),
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "WANDB_SILENT": "true",  # silent also means that it never asks for a key
        "WANDB_ERROR_REPORTING": "false",
    }
    before = {key: os.environ.get(key) for key in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for key, value in values.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


def teardown() -> None:
    """Ends wandb's helper process, once it has sent what it has."""
    end = getattr(sys.modules.get("wandb"), "teardown", None)  # an import may have been interrupted
    if end is not None:
        end()


class Alive:
    """Watches the server while a command sends to it: one that is silent for long would hold the command up for as long
    as every run's timeout in turn. `gone` is true from then on, and wandb-core is killed, so that nobody waits.
    """

    def __init__(self) -> None:
        import wandb

        self.gone = False
        self._url, self._stopped = wandb.setup().settings.base_url, threading.Event()

    def watch(self) -> None:
        """Until stop()."""
        self._stopped.clear()
        if not self.gone and _answers(self._url):  # else it is only wandb that reaches it, by a way of its own
            threading.Thread(target=self._look, name="alive", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _look(self) -> None:
        silent = 0
        while not self._stopped.wait(LOOK_EVERY_S):
            silent = 0 if _answers(self._url) else silent + 1
            if silent == SILENT_LOOKS:
                self.gone = True
                log.warning("W&B at %s does not answer any more: publishing ends", self._url)
                return kill_service()


def _answers(url: str) -> bool:
    """Whatever it answers."""
    try:
        with urllib.request.urlopen(url, timeout=LOOK_EVERY_S):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, http.client.HTTPException, ValueError):
        return False


def kill_service() -> None:
    """Kills this process's wandb-core: whoever waits for it gets an error, wandb's exit hook does not wait either, and
    the next run starts another one.
    """
    try:
        from wandb.sdk import wandb_setup
        from wandb.sdk.lib.service import service_token

        connection = wandb_setup.singleton()._connection
        if connection is None or connection._proc is None:
            return
        connection._finalizer._queue.put(None)  # else its thread fails, with a traceback, at what is collected later
        connection._proc._process.kill()
        if connection._cleanup is not None:
            connection._cleanup()
        service_token.clear_service_in_env()
        wandb_setup._singleton = None
    except Exception:  # best effort: there is nothing left to do about it
        log.debug("wandb-core could not be killed", exc_info=True)


@contextmanager
def service() -> Iterator[Path]:
    """For a command that talks to a server: wandb's surroundings for as long as it does, with a folder for files that
    need not stay.
    """
    with tempfile.TemporaryDirectory(prefix="bll-wandb-") as folder, environment(Path(folder)):
        try:
            yield Path(folder)
        finally:
            teardown()
