"""What a job may use: its attempt's files, its parents' outputs, a mirror, and a place to say how far it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bll_sweeps.code import code_digest
from bll_sweeps.errors import Interrupted, StoreError
from bll_sweeps.grid.axes import Backbone, Domain
from bll_sweeps.grid.cell import PretrainJob
from bll_sweeps.grid.digest import directory_digest
from bll_sweeps.grid.hub import model_digest
from bll_sweeps.grid.spec import Spec
from bll_sweeps.store.layout import Attempt, Layout
from bll_sweeps.store.records import read_json, read_record
from bll_sweeps.tracking import Run
from bll_sweeps.training.ranks import SINGLE, Ranks

if TYPE_CHECKING:
    from bll_sweeps.training.data import TrainingSet


@dataclass
class JobContext:
    layout: Layout
    spec: Spec
    attempt: Attempt
    ranks: Ranks = SINGLE
    stop: Callable[[], bool] = lambda: False
    mirror: Run = field(default_factory=Run)
    _told: float = field(default=0.0)
    _began: tuple[float, int] | None = None  # when progress was first told, and how far it was
    _steps: list[int] = field(default_factory=list)

    @property
    def earlier(self) -> list[Attempt]:
        """Earlier attempts of this job, newest first: what a resumed job goes on from. Those of other code are left
        out, since a result must be that of one code.
        """
        attempts = reversed(self.layout.job(self.spec.job.id).attempts())
        return [a for a in attempts if a.number < self.attempt.number and _code_of(a) == code_digest()]

    def parent_output(self, job_id: str, name: str) -> Path:
        """A finished parent's output, digests checked. StoreError if it is not done or damaged."""
        record = read_record(self.layout.job(job_id))
        if record is None:
            raise StoreError(f"the parent {job_id} is not done")
        return record.output(name)

    def parent_result(self, job_id: str) -> dict[str, Any]:
        """What a finished parent's record tells. StoreError if it is not done or damaged."""
        record = read_record(self.layout.job(job_id))
        if record is None:
            raise StoreError(f"the parent {job_id} is not done")
        return record.result

    def training_set(self, domain: Domain, tokenizer: Any) -> TrainingSet:
        """What the domain trains on, as token ids: prepared once in the store for all that need it."""
        from bll_sweeps.training.prepared import training_set

        return training_set(domain, tokenizer, self.layout.prepared)

    def backbone_folder(self, backbone: Backbone) -> Path:
        """The base model's folder: the output of its pretrain job, or where its files lie on this machine."""
        if backbone.made_here:
            return self.parent_output(PretrainJob(backbone=backbone).id, "model")
        folder = Path(backbone.path)
        if not folder.is_dir() and backbone.hub:
            raise StoreError(f"{backbone.hub} is not on this machine ({folder} is missing): `bll fetch` brings it here")
        digest = model_digest if backbone.source == "hub" else directory_digest
        if digest(folder) != backbone.digest:
            raise StoreError(f"{folder} has changed since it was planned; put it back, or launch again for a new job")
        return folder

    def progress(self, done: int, total: int, unit: str) -> None:
        """Tells how far the job is. Raises Interrupted if it was asked to stop before its end: what counts as done has
        been saved, or need not be.
        """
        self._tell(done, total, unit)
        if done < total and self.stop():
            raise Interrupted(f"stopped at {done} of {total} {unit}")

    def progress_of(self, unit: str) -> Callable[[int, int], None]:
        return lambda done, total: self.progress(done, total, unit)

    def step(self, done: int, total: int) -> None:
        """Tells how far a training is, which asks itself whether to stop: it has to save its state first."""
        self._steps = [*self._steps[:1], done]
        self._tell(done, total, "steps")

    def saved(self) -> dict[str, Any]:
        """What an interruption leaves to the next attempt: how much there was when this one began, and now. A training
        counts its steps, an evaluation the batches in its journal, and a prior, which saves nothing, has none.
        """
        if self._steps:
            return {"kind_of_progress": "steps", "began_at": self._steps[0], "reached": self._steps[-1]}
        began_at = sum(_lines(attempt.journal) for attempt in self.earlier)
        reached = began_at + _lines(self.attempt.journal)
        return {"kind_of_progress": "batches", "began_at": began_at, "reached": reached}

    def _tell(self, done: int, total: int, unit: str) -> None:
        """Writes progress.json (for `bll status`); at most twice a second, and not flushed: a lost one does no harm."""
        now = time.monotonic()
        self._began = self._began or (now, done)
        if self.ranks.leads and (now - self._told >= 0.5 or done >= total):
            self._told = now
            since, first = self._began
            left_s = (total - done) * (now - since) / (done - first) if done > first else None
            temporary = self.attempt.progress.with_suffix(".tmp")
            temporary.write_text(json.dumps({"done": done, "total": total, "unit": unit, "left_s": left_s}))
            temporary.replace(self.attempt.progress)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _code_of(attempt: Attempt) -> str | None:
    try:
        return read_json(attempt.provenance).get("code")
    except (FileNotFoundError, StoreError):
        return None  # it died before it had written what it is
