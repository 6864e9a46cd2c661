"""A run of wandb's, begun, fed and ended: what the live tracker and `bll publish` do alike.

A run is one job, and its id is the job's. Row i of the job's metrics is row i of the run (wandb's _step), so that a run
that is resumed is told only what it does not have, whoever resumes it and from wherever.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

from bll_sweeps.errors import StoreError
from bll_sweeps.store.metrics import TIMING
from bll_sweeps.tracking import names
from bll_sweeps.tracking.content import MODEL, Content, Identity

MOST_RUNS = 20  # of one job, superseded and deleted ones
INIT_TIMEOUT_S, FINISH_TIMEOUT_S = 20, 30

log = logging.getLogger(__name__)

ARTIFACTS = threading.Lock()  # held where wandb makes artifacts: its caches of them do not bear several threads


class OtherResult(StoreError):
    """The run on the server has rows, or a result, that are not those of this job."""

    def __init__(self) -> None:
        super().__init__(
            "the server has rows of another result of this job: --supersede gives this one a run of its own and marks "
            "that one, --project another place"
        )


class Session:
    """An open run. Raises whatever wandb raises, and OtherResult where the run on the server has another one.

    Where that run may be superseded, it is marked instead and this one goes on as the next of the job's runs: id, id-2,
    id-3; W&B can neither overwrite rows nor use the id of a run that was deleted.
    """

    def __init__(
        self,
        mode: Literal["offline", "online"],
        identity: Identity,
        folder: Path,
        *,
        project: str,
        entity: str = "",
        supersede: Literal["unfinished", "any"] = "unfinished",
        ends: bool = True,
        runs_here: bool = True,
        began: float | None = None,
        finish_timeout_s: float = FINISH_TIMEOUT_S,
    ):
        """supersede: which run of another result may be: only one without an end, or any. ends: whether `finish` ends
        the run for the server too, and not only this part of it. runs_here: whether this process is the job, so that
        its machine and load belong to the run. began: when the job did (seconds since 1970), for the times of rows that
        are logged later.
        """
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._identity, self._supersede, self._began = identity, supersede, began
        self._project, self._entity = project, entity or None
        self._settings = wandb.Settings(
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
        self.superseded = 0  # runs that this session marked so
        self._told: list[dict[str, Any]] = []  # the job's rows so far
        self._held: list[Any] | None = None  # rows that are to go together
        self._number = 0  # of the job's runs this is
        self._open_next()

    def _open_next(self) -> None:
        """The job's next run that is not superseded, or a new one; it is told the rows that are known."""
        own = self._identity
        while True:
            self._number += 1
            if self._number > MOST_RUNS:
                raise StoreError(
                    f"{own.id} has {MOST_RUNS} runs there that are superseded or deleted: give another --project"
                )
            try:
                self._begin(own.id if self._number == 1 else f"{own.id}-{self._number}")
            except Exception as error:
                if not _was_deleted(error):
                    raise
                continue
            if names.SUPERSEDED not in (self._run.tags or ()):
                break
            self._leave()
        if self.address:
            log.info("W&B: %s", self.address)
        self._tag(own.tags)
        told, self._told = self._told, []
        for row in told:
            self.log(row)

    def _begin(self, run_id: str) -> None:
        import wandb

        own, online = self._identity, self._settings.mode == "online"
        # Name and tags of a run that is gone on with, given by hand perhaps, would be replaced.
        mine: dict[str, Any] = {} if online else {"name": own.title, "tags": own.tags}
        self._run = wandb.init(
            settings=self._settings,
            project=self._project,
            entity=self._entity,
            id=run_id,
            job_type=own.kind,
            group=own.group or None,
            config=own.config,
            reinit="create_new",
            resume="allow" if online else None,
            **mine,
        )
        if online and not self._run.resumed:
            self._run.name = own.title
        self._run.define_metric(names.STEP)
        self._run.define_metric(names.TOKENS, step_metric=names.STEP)
        for metrics in ("train/*", "perf/*"):
            self._run.define_metric(metrics, step_metric=names.STEP)
        self.count = 0  # rows that the job has told of
        self._had = int(self._run.starting_step) if self._run.resumed else 0  # rows that the run had already
        self._before = dict(self._run.summary) if self._run.resumed else {}  # its summary until now
        self._agreed = str(self._before.get(names.SO_FAR, ""))
        self._chain = hashlib.sha256()

    def _tag(self, tags: Iterable[str]) -> None:
        """Adds tags to those that are there, some by hand; a region that is not true any more goes."""
        kept = [tag for tag in self._run.tags or () if not tag.startswith(names.tag("region", ""))]
        if {*kept, *tags} != {*(self._run.tags or ())}:
            self._run.tags = tuple(sorted({*kept, *tags}))

    @property
    def id(self) -> str:
        """Of the run; the job's, unless that one was superseded."""
        return str(self._run.id)

    def require(self, result: str) -> None:
        """The run must have no result, or this one (names.ROWS)."""
        if self._before.get(names.ROWS, result) != result:
            self._move_on()

    def _move_on(self) -> None:
        """From a run of another result, if that may be superseded."""
        allowed = self._supersede == "any" or not self._has_result
        if allowed:
            kept = [tag for tag in self._run.tags or () if not tag.startswith(names.tag("sweep", ""))]
            self._run.tags = tuple(sorted({*kept, names.SUPERSEDED}))
            log.warning("W&B: %s has rows of another result of this job: it is marked superseded", self.address)
            self.superseded += 1
        self._leave()
        if not allowed:
            raise OtherResult
        if self._held is not None:
            self._held = []
        self._open_next()

    @property
    def _has_result(self) -> bool:
        """Whether the run that is gone on with holds a finished result."""
        return names.ROWS in self._before

    def _leave(self) -> None:
        """What the run was it stays: finished, if it had a result."""
        self._run.finish(exit_code=0 if self._has_result else 1)

    @property
    def address(self) -> str:
        """For a browser; '' offline."""
        return str(self._run.url or "")

    def log(self, row: dict[str, Any]) -> None:
        """The job's next row, by the names of its metrics.jsonl."""
        self._told.append(row)
        result = {key: value for key, value in row.items() if key not in TIMING}
        self._chain.update(json.dumps(result, sort_keys=True).encode())
        so_far = f"{self.count + 1}:{self._chain.hexdigest()[:16]}"
        unknown = self._had and not self._agreed and not self._has_result
        if unknown or (so_far != self._agreed and self._agreed.startswith(f"{self.count + 1}:")):
            return self._move_on()
        values = {names.curve(key): value for key, value in names.flat(row).items()}
        at = None if self._began is None else self._began + float(row.get("elapsed_s", 0.0))
        self._log(values | {names.SO_FAR: so_far}, at)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Rows that are logged within the block go to wandb's helper process at its end, in one go: each by itself
        takes two switches of threads, for which several runs at once have to wait, and is looked at for what it might
        hold besides numbers. By private parts of wandb, whose version is pinned; with others each row goes alone.
        """
        parts = ("_assign", "_asyncer", "_client")
        if not all(hasattr(getattr(self._run, "_interface", None), name) for name in parts) or not _row_works():
            yield
            return
        self._held = []
        try:
            yield
            held = self._held
        finally:
            self._held = None
        interface: Any = self._run._interface

        async def send() -> None:
            for request in held:
                interface._assign(request.record_publish)
                await interface._client.publish(request)

        interface._asyncer.run(send)

    def summary(self, values: dict[str, Any]) -> None:
        self._run.summary.update(names.flat(values))

    def add(self, content: Content, *, model: bool = False) -> None:
        """All that the finished job leaves, after its last row; model: the weights too, by reference."""
        if self.count < int(self._agreed.partition(":")[0] or 0):  # the run there went further
            self._move_on()
        self.require(str(content.summary.get(names.ROWS, "")))
        with ARTIFACTS:
            if media := _media(content):
                self._log(media)
            if content.files:
                self._run.log_artifact(_record(self._run.id, content))
            if model and content.model is not None:
                self._run.log_artifact(_weights(self._run.id, content.model, content.digests))
        self.summary(content.summary)
        if region := content.summary.get(names.REGION):  # which was not known when the job began, perhaps
            self._tag([names.tag("region", region)])

    def finish(self, ok: bool = True) -> None:
        self._run.finish(exit_code=0 if ok else 1)

    def _log(self, values: dict[str, Any], at: float | None = None) -> None:
        if self.count >= self._had:
            if self._held is None:
                time_of_it = {} if at is None else {"_timestamp": at}
                self._run.log(values | time_of_it, step=self.count, commit=True)
            else:
                self._held.append(_row(values, self.count, at))
        self.count += 1


def _was_deleted(error: Exception) -> bool:
    """Whether the server refuses an id because it was that of a run which somebody deleted."""
    return "previously created and deleted" in str(error) or "HTTP 409" in str(error)


def _row(values: Mapping[str, Any], step: int, at: float | None = None) -> Any:
    """The message in which wandb sends a row of plain values to its helper process. at: when it was logged, or now."""
    from wandb.proto.wandb_server_pb2 import ServerRequest

    request = ServerRequest()
    history = request.record_publish.request.partial_history
    for key, value in (*values.items(), ("_timestamp", time.time() if at is None else at)):
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
