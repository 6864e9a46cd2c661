"""A run of wandb's, begun, fed and ended: what the live tracker and `bll publish` do alike.

A run is one job, and its id is the job's. Row i of the job's metrics is row i of the run (wandb's _step), so that a run
that is resumed is told only what it does not have, whoever resumes it and from wherever.
"""

from __future__ import annotations

import http.client
import json
import logging
import math
import os
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

from bll_sweeps.errors import StoreError
from bll_sweeps.tracking import names
from bll_sweeps.tracking.content import MODEL, Content, Identity

INIT_TIMEOUT_S, FINISH_TIMEOUT_S = 20, 30
LOOK_EVERY_S, SILENT_LOOKS = 15.0, 4  # at the server while a command sends to it
# What an outer run or shell may have set and would leak into this one.
FOREIGN = ("WANDB_SERVICE", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME", "WANDB_NOTES", "WANDB_SWEEP_ID")

log = logging.getLogger(__name__)

ARTIFACTS = threading.Lock()  # held where wandb makes artifacts: its caches of them do not bear several threads


@contextmanager
def environment(folder: Path) -> Iterator[None]:
    """The variables that wandb reads nowhere but from the environment, for runs that keep their files in `folder`."""
    values: dict[str, str | None] = dict.fromkeys(FOREIGN)
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


OTHER_RESULT = "the server has rows of another result of this job; give another --project"


class Session:
    """An open run. Raises whatever wandb raises, and StoreError for a run that holds another result of the job."""

    def __init__(
        self,
        mode: Literal["offline", "online"],
        identity: Identity,
        folder: Path,
        *,
        project: str,
        entity: str = "",
        code: str = "",
        result: str = "",
        ends: bool = True,
        runs_here: bool = True,
        finish_timeout_s: float = FINISH_TIMEOUT_S,
    ):
        """code: digest of what made or makes the rows: attempts of one code go on from each other. result: what
        names.ROWS is to be, once that is known. ends: whether `finish` ends the run for the server too, and not only
        this part of it. runs_here: whether this process is the job, so that its machine and load belong to the run.
        """
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            mode=mode,
            root_dir=str(folder),
            console="off",
            silent=True,
            symlink=False,
            init_timeout=INIT_TIMEOUT_S,
            finish_timeout=finish_timeout_s,
            finish_timeout_raises=True,  # else rows that were not sent would be lost in silence
            disable_git=True,  # a remote's address may hold a token
            disable_code=True,
            x_save_requirements=False,  # versions are in the attempt's provenance
            x_stats_pid=os.getpid(),  # the default is that of the process that imported wandb
            x_update_finish_state=ends,
            x_disable_stats=not runs_here,
            x_disable_machine_info=not runs_here,
            x_disable_meta=not runs_here,
        )
        self._run = wandb.init(
            settings=settings,
            project=project,
            entity=entity or None,
            id=identity.id,
            name=identity.title,
            job_type=identity.kind,
            group=identity.group or None,
            tags=identity.tags,
            config=identity.config,
            reinit="create_new",
            resume="allow" if mode == "online" else None,
        )
        self._run.define_metric(names.STEP)
        self._run.define_metric(names.TOKENS, step_metric=names.STEP)
        for metrics in ("train/*", "perf/*"):
            self._run.define_metric(metrics, step_metric=names.STEP)
        self.count = 0  # rows that the job has told of
        self.had = int(self._run.starting_step) if self._run.resumed else 0  # rows that the run had already
        self.before = dict(self._run.summary) if self._run.resumed else {}  # its summary until now
        self._code, self._refused = code, False
        self._held: list[Any] | None = None  # rows that are to go together
        try:
            self._require(result)
        except StoreError:
            self.finish(ok=False)
            raise
        if self._run.resumed:
            self._run.tags = tuple(sorted({*(self._run.tags or ()), *identity.tags}))  # some came later, some by hand
        if code:
            self.summary({names.CODE: code})

    def _require(self, result: str) -> None:
        """StoreError if the run that is gone on with has another result: by what names.ROWS is to be, or as long as one
        of them is not known, where it has rows, by the code that made them.
        """
        had, code = self.before.get(names.ROWS), self.before.get(names.CODE)
        by_code = bool(self.had and code and self._code) and code != self._code
        if had != result if had and result else by_code:
            self._refused = True
            raise StoreError(OTHER_RESULT)

    @property
    def address(self) -> str:
        """For a browser; '' offline."""
        return str(self._run.url or "")

    def log(self, row: dict[str, Any]) -> None:
        """The job's next row, by the names of its metrics.jsonl."""
        self._log({names.curve(key): value for key, value in names.flat(row).items()})

    @contextmanager
    def together(self) -> Iterator[None]:
        """Rows that are logged within the block go to wandb's helper process at its end, in one go: each by itself
        takes two switches of threads, for which several runs at once have to wait, and is looked at for what it might
        hold besides numbers. By private parts of wandb, whose version is pinned; with others each row goes alone.
        """
        interface: Any = getattr(self._run, "_interface", None)
        if not all(hasattr(interface, name) for name in ("_assign", "_asyncer", "_client")) or not _row_works():
            yield
            return
        self._held = []
        try:
            yield
            held = self._held
        finally:
            self._held = None

        async def send() -> None:
            for request in held:
                interface._assign(request.record_publish)
                await interface._client.publish(request)

        interface._asyncer.run(send)

    def summary(self, values: dict[str, Any]) -> None:
        self._run.summary.update(names.flat(values))

    def add(self, content: Content, *, model: bool = False) -> None:
        """All that the finished job leaves, after its last row; model: the weights too, by reference."""
        self._require(str(content.summary.get(names.ROWS, "")))
        with ARTIFACTS:
            if media := _media(content):
                self._log(media)
            if content.files:
                self._run.log_artifact(_record(self._run.id, content))
            if model and content.model is not None:
                self._run.log_artifact(_weights(self._run.id, content.model, content.digests))
        self.summary(content.summary)
        if region := content.summary.get(names.REGION):  # which was not known when the job began, perhaps
            self._run.tags = tuple(sorted({*(self._run.tags or ()), names.tag("region", region)}))

    def finish(self, ok: bool = True) -> None:
        """A run that was refused stays what it was: finished, if it had a result."""
        ok = ok or (self._refused and names.ROWS in self.before)
        self._run.finish(exit_code=0 if ok else 1)

    def _log(self, values: dict[str, Any]) -> None:
        if self.count >= self.had:
            if self._held is None:
                self._run.log(values, step=self.count, commit=True)
            else:
                self._held.append(_row(values, self.count))
        self.count += 1


def _row(values: Mapping[str, Any], step: int) -> Any:
    """The message in which wandb sends a row of plain values to its helper process."""
    from wandb.proto.wandb_server_pb2 import ServerRequest

    request = ServerRequest()
    history = request.record_publish.request.partial_history
    for key, value in (*values.items(), ("_timestamp", time.time())):
        item = history.item.add()
        item.key, item.value_json = key, _as_json(value)
    history.step.num, history.action.flush = step, True
    return request


def _as_json(value: Any) -> str:
    """Of a number at once: json.dumps makes an encoder first."""
    plain = type(value) is int or (type(value) is float and math.isfinite(value))
    return repr(value) if plain else json.dumps(value, allow_nan=False)


@cache
def _row_works() -> bool:
    try:
        return bool(_row({"x": 0.5}, 3).record_publish.request.partial_history.step.num == 3)
    except (ImportError, AttributeError, ValueError, TypeError):
        return False


def _media(content: Content) -> dict[str, Any]:
    import numpy as np
    import wandb

    media: dict[str, Any] = {}
    for name, counts in content.histograms.items():
        edges = np.linspace(0.0, 1.0, len(counts) + 1)
        media[name] = wandb.Histogram(np_histogram=(np.array(counts), edges))
    for name, table in content.tables.items():
        media[name] = wandb.Table(columns=table.columns, data=table.rows)
    return media


def _weights(job_id: str, folder: Path, digests: dict[str, str]) -> Any:
    """An artifact that says where the weights lie, and of what digests they are: those of the record, since wandb would
    read all of them, which takes minutes for large ones.
    """
    import wandb

    artifact = wandb.Artifact(f"{MODEL}-{job_id}", type=MODEL, metadata={"sha256": digests})
    artifact.add_reference(folder.absolute().as_uri(), checksum=False)
    return artifact


def _record(job_id: str, content: Content) -> Any:
    """An artifact of the record: equal files make no new version of it."""
    import wandb

    artifact = wandb.Artifact(f"{names.RECORD}-{job_id}", type=names.RECORD)
    for name, path in content.files.items():
        # Not copied: a finished job's files do not change. Not cached: they are on this disk anyway.
        artifact.add_file(str(path), name=name, policy="immutable", skip_cache=True)
    for name, value in content.told.items():
        with artifact.new_file(name, encoding="utf-8") as file:
            json.dump(value, file, sort_keys=True)
    return artifact


def teardown() -> None:
    """Ends wandb's helper process, once it has sent what it has."""
    import wandb

    wandb.teardown()


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
