"""spec.json: what a worker reads. Frozen at launch, and checked against its own name whenever it is read."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass, field
from typing import Any

from bll_sweeps.errors import ConfigError, StoreError
from bll_sweeps.grid.axes import to_plain
from bll_sweeps.grid.build import build, shared
from bll_sweeps.grid.cell import JOB_TYPES, Job
from bll_sweeps.grid.settings import Execution, Tracker
from bll_sweeps.store.layout import JobFiles
from bll_sweeps.store.records import read_json


@dataclass(frozen=True)
class Spec:
    """A job and how it runs. `labels` (the sweep that first launched it, names of its choices) are for people and
    W&B; `code` says which commit, dirty or not, and which versions of packages it was launched with.
    """

    job: Job
    execution: Execution
    tracker: Tracker
    labels: dict[str, Any]
    code: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return {
            "id": self.job.id,
            "kind": self.job.kind,
            "job": to_plain(self.job),
            "execution": to_plain(self.execution),
            "tracker": to_plain(self.tracker),
            "labels": self.labels,
            "code": self.code,
        }


def parse_spec(data: Any, job_id: str, source: str) -> Spec:
    """The Spec that `data` describes. StoreError, naming `source`, if it is not the spec of `job_id`."""
    remedy = "`bll retry` restores it from its sweep's launch record"
    try:
        job: Job = build(JOB_TYPES[data["kind"]], data["job"])
        spec = Spec(
            job,
            shared(Execution, data["execution"]),
            shared(Tracker, data["tracker"]),
            dict(data["labels"]),
            dict(data.get("code", {})),
        )
    except (KeyError, TypeError, ConfigError) as error:
        raise StoreError(f"{source} is not a job's spec ({type(error).__name__}: {error}); {remedy}") from None
    if job.id != job_id:
        raise StoreError(
            f"{source} describes {job.id}, not {job_id}: it was changed, or another version of the software or of "
            f"reasoning-gym wrote it; {remedy}, a new launch makes a new job"
        )
    return spec


def read_spec(files: JobFiles) -> Spec:
    """Raises StoreError for a spec that is missing, torn, or does not hash to its own id."""
    try:
        data = read_json(files.spec)
    except FileNotFoundError:
        raise StoreError(f"{files.spec} is missing; `bll retry` restores it from its sweep's launch record") from None
    return parse_spec(data, files.id, str(files.spec))


def write_spec(files: JobFiles, text: str) -> None:
    """Atomic but not flushed: ten thousand flushes would take a minute, and a torn spec is found by its own id."""
    files.folder.mkdir(parents=True, exist_ok=True)
    temporary = files.folder / f".spec.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    temporary.write_text(text)
    temporary.replace(files.spec)


def spec_text(spec: Spec) -> str:
    """Deterministic text of spec.json (one line, as the launch's record of specs holds it too)."""
    return json.dumps(spec.plain(), sort_keys=True, allow_nan=False) + "\n"
