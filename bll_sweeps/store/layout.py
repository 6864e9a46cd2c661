"""Every path of a run root. Nobody else joins strings.

<root>/
  jobs/<id>/spec.json             what to run, frozen (written before a job can be claimed)
           DONE -> attempt.<n>/record.json     a link, made last: presence means done
           claims/claim.<n>       who runs it; the highest n rules (claims.py)
           attempt.<n>/           one try: log.txt attempt.json progress.json failure.json
                       record.json and outputs (model/, metrics.jsonl, scores.jsonl ...)
                       checkpoints/step-<k>/, journal.jsonl: what the next attempt goes on from
  sweeps/<name>/launch.<n>.json   a manifest per launch: cells and their jobs
                launch.<n>.specs.jsonl.gz      the specs again, to restore a damaged one
  workers/<stamp>/                one launch's workers: launcher.json, STOP, submitit's files and logs
  reports/<sweep>/                figures, tables, report.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Attempt:
    """One try at a job: a folder of its own, so that a late writer cannot touch another's files."""

    folder: Path

    @property
    def number(self) -> int:
        return int(self.folder.name.rpartition(".")[2])

    def output(self, name: str) -> Path:
        """An output of the job: a file or a folder, named in the record."""
        return self.folder / name

    @property
    def record(self) -> Path:
        return self.folder / "record.json"

    @property
    def provenance(self) -> Path:
        """Times, host, code, versions, execution: what differs between two runs of one job."""
        return self.folder / "attempt.json"

    @property
    def progress(self) -> Path:
        return self.folder / "progress.json"

    @property
    def failure(self) -> Path:
        return self.folder / "failure.json"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    @property
    def wandb(self) -> Path:
        return self.folder / "wandb"


@dataclass(frozen=True)
class JobFiles:
    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def spec(self) -> Path:
        return self.folder / "spec.json"

    @property
    def done(self) -> Path:
        return self.folder / "DONE"

    @property
    def claims(self) -> Path:
        return self.folder / "claims"

    def attempt(self, number: int) -> Attempt:
        return Attempt(self.folder / f"attempt.{number}")

    def attempts(self) -> list[Attempt]:
        """All attempts, oldest first."""
        return [self.attempt(n) for n in numbered(self.folder, "attempt")]


@dataclass(frozen=True)
class SweepFiles:
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    def manifest(self, number: int) -> Path:
        return self.folder / f"launch.{number}.json"

    def specs(self, number: int) -> Path:
        return self.folder / f"launch.{number}.specs.jsonl.gz"

    def launches(self) -> list[int]:
        """Numbers of the launches, oldest first."""
        return numbered(self.folder, "launch", ".json")


@dataclass(frozen=True)
class WorkerFiles:
    """The workers that one launch started on this machine: submitit's folder, private to its owner."""

    folder: Path

    @property
    def launcher(self) -> Path:
        """Which launch it is, and the process that started the workers and ends with them."""
        return self.folder / "launcher.json"

    @property
    def stop(self) -> Path:
        """Its appearance asks the workers to stop."""
        return self.folder / "STOP"

    @property
    def log(self) -> Path:
        """What a detached launcher prints."""
        return self.folder / "launcher.log"


@dataclass(frozen=True)
class Layout:
    root: Path

    def job(self, job_id: str) -> JobFiles:
        return JobFiles(self.root / "jobs" / job_id)

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    def sweep(self, name: str) -> SweepFiles:
        return SweepFiles(self.root / "sweeps" / name)

    def sweeps(self) -> list[str]:
        """Names of the sweeps, the one launched last at the end."""
        folder = self.root / "sweeps"
        if not folder.is_dir():
            return []
        launched = [p for p in folder.iterdir() if SweepFiles(p).launches()]
        return [p.name for p in sorted(launched, key=lambda p: (p.stat().st_mtime, p.name))]

    def worker_pools(self) -> list[WorkerFiles]:
        """Folders of the workers of each launch, oldest first."""
        folder = self.root / "workers"
        return [WorkerFiles(p) for p in sorted(folder.iterdir())] if folder.is_dir() else []

    def worker_pool(self, name: str) -> WorkerFiles:
        return WorkerFiles(self.root / "workers" / name)

    def report(self, sweep: str) -> Path:
        return self.root / "reports" / sweep


def numbered(folder: Path, stem: str, suffix: str = "") -> list[int]:
    """The n of all `<stem>.<n><suffix>` in `folder`, ascending; empty if there is no such folder."""
    pattern = re.compile(rf"{re.escape(stem)}\.(\d+){re.escape(suffix)}")
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(m[1]) for m in map(pattern.fullmatch, names) if m)
