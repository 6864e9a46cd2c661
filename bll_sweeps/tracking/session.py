"""A run of wandb's, begun, fed and ended: what the live tracker and `bll publish` do alike.

A run is one job, and its id is the job's. Row i of the job's metrics is row i of the run (wandb's _step), so that a run
that is resumed is told only what it does not have, whoever resumes it and from wherever.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from bll_sweeps.tracking import names
from bll_sweeps.tracking.content import MODEL, Content, Identity

INIT_TIMEOUT_S, FINISH_TIMEOUT_S = 20, 30
# What an outer run or shell may have set and would leak into this one.
FOREIGN = ("WANDB_SERVICE", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME", "WANDB_NOTES", "WANDB_SWEEP_ID")

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


class Session:
    """An open run. Raises whatever wandb raises."""

    def __init__(
        self,
        mode: Literal["offline", "online"],
        identity: Identity,
        folder: Path,
        *,
        project: str,
        entity: str = "",
        ends: bool = True,
        runs_here: bool = True,
        finish_timeout_s: float = FINISH_TIMEOUT_S,
    ):
        """ends: whether `finish` ends the run for the server too, and not only this part of it. runs_here: whether this
        process is the job, so that its machine and load belong to the run.
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
        if self._run.resumed:
            self._run.tags = tuple(identity.tags)  # those of a sweep that came later, too

    def log(self, row: dict[str, Any]) -> None:
        """The job's next row, by the names of its metrics.jsonl."""
        self._log({names.curve(key): value for key, value in names.flat(row).items()})

    def summary(self, values: dict[str, Any]) -> None:
        self._run.summary.update(names.flat(values))

    def add(self, content: Content, *, model: bool = False) -> None:
        """All that the finished job leaves, after its last row; model: the weights too, by reference."""
        with ARTIFACTS:
            if media := _media(content):
                self._log(media)
            if content.files:
                self._run.log_artifact(_record(self._run.id, content))
            if model and content.model is not None:
                self._run.log_artifact(_weights(self._run.id, content.model))
        self.summary(content.summary)
        if region := content.summary.get(names.REGION):  # which was not known when the job began, perhaps
            self._run.tags = tuple(sorted({*(self._run.tags or ()), names.tag("region", region)}))

    def finish(self, ok: bool = True) -> None:
        self._run.finish(exit_code=0 if ok else 1)

    def _log(self, values: dict[str, Any]) -> None:
        if self.count >= self.had:
            self._run.log(values, step=self.count, commit=True)
        self.count += 1


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


def _weights(job_id: str, folder: Path) -> Any:
    """An artifact that says where the weights lie, and of what digests they are."""
    import wandb

    artifact = wandb.Artifact(f"{MODEL}-{job_id}", type=MODEL)
    artifact.add_reference(folder.absolute().as_uri(), checksum=True)
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
    """Ends wandb's helper process."""
    import wandb

    wandb.teardown()


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
