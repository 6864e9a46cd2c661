"""Every path of a run root. Nobody else joins strings.

<root>/
  jobs/<id>/spec.json             what to run, frozen (written before a job can be claimed)
           DONE -> attempt.<n>/record.json     a link, made last: presence means done
           claims/claim.<n>       who runs it; the highest n rules (claims.py)
           attempt.<n>/           one try: log.txt attempt.json progress.json failure.json interrupted.json slurm.json
                       record.json and outputs (model/, metrics.jsonl, scores.<grader>.jsonl ...)
                       checkpoints/step-<k>/, journal.jsonl: what the next attempt goes on from
                       pruned.json: outputs that were removed to save disk (pruning.py)
  sweeps/<name>/launch.<n>.json   a manifest per launch: cells and their jobs
                launch.<n>.specs.jsonl.gz      the specs again, to restore a damaged one
                launch.<n>.unsubmitted         SLURM refused a part of it; workers that end try again
  workers/<stamp>/                one launch's workers: launcher.json, STOP, submitit's files and logs
  submissions/<name>/             one sbatch: intent.json, submitted.json, RELEASED, ended.json, stopped.json,
                     cancelled.json
                     private/     submitit's pickles, scripts and logs; only their owner can read or write them
              claims/             which launch submits at the moment
  prepared/<16 hex>/               a domain's training set as token ids of one tokenizer, for all jobs
  code/<digest>-<uid>/            a snapshot of the code that a user's SLURM jobs run from
  published/<server>/<job>.json   what `bll publish` has brought to a W&B server and project
  published/<server>/claims/      of the publish that is at work
  reports/<sweep>/                figures, tables, report.html
  dashboards/<sweep>/             workspace.json, report.json: W&B dashboards as `bll dashboard --dry-run` writes them
  cache/analysis/<sweep>/<key>/   what the analysis read, as Parquet; may be removed at any time
  trash/                          what is being removed
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bll_sweeps.errors import StoreError

WANDB_PROBLEM = "problem.txt"


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
    def cleared(self) -> Path:
        """What was failure.json, once somebody asked for the job to be tried again."""
        return self.folder / "failure.cleared.json"

    @property
    def interrupted(self) -> Path:
        """The attempt was asked to stop and saved its state: how far it was, and how far when it began."""
        return self.folder / "interrupted.json"

    @property
    def slurm(self) -> Path:
        """The SLURM job that runs the attempt, and where: other ranks find the attempt by it."""
        return self.folder / "slurm.json"

    @property
    def memory(self) -> Path:
        """The highest memory use that was measured so far, written while the job runs."""
        return self.folder / "memory.json"

    def log(self, rank: int = 0) -> Path:
        """What the job printed, by rank of a distributed training."""
        return self.folder / (f"log.rank{rank}.txt" if rank else "log.txt")

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    @property
    def pruned(self) -> Path:
        """Names the outputs that were removed although the record names them: they are not damaged."""
        return self.folder / "pruned.json"

    @property
    def wandb(self) -> Path:
        return self.folder / "wandb"

    @property
    def wandb_problem(self) -> Path:
        """Why the attempt is not on W&B, or not all of it, although it was to be."""
        return self.wandb / WANDB_PROBLEM


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

    def scores(self, grader_id: str) -> Path:
        """Of an evaluation, by a grader that it was not launched with."""
        return self.folder / "scores" / f"{grader_id}.jsonl"

    def scores_answers(self, grader_id: str) -> Path:
        """What that grader took for the answers, and how it found it."""
        return self.folder / "scores" / f"{grader_id}.answers.jsonl.gz"

    def scores_summary(self, grader_id: str) -> Path:
        """Metrics and digest of `scores`; it is written last."""
        return self.folder / "scores" / f"{grader_id}.json"

    def later_scores(self) -> list[Path]:
        """Every scores_summary that is there, sorted."""
        return sorted((self.folder / "scores").glob("*.json"))

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

    def unsubmitted(self, number: int) -> Path:
        """There when SLURM refused some of the launch's jobs: workers that finish try again."""
        return self.folder / f"launch.{number}.unsubmitted"


@dataclass(frozen=True)
class PublishedFiles:
    """The ledger of one W&B server and project."""

    folder: Path

    @property
    def claims(self) -> Path:
        """Of the command that sends to it."""
        return self.folder / "claims"

    def job(self, job_id: str) -> Path:
        return self.folder / f"{job_id}.json"


@dataclass(frozen=True)
class DashboardFiles:
    """What W&B would be sent: a workspace and a report."""

    folder: Path

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace.json"

    @property
    def report(self) -> Path:
        return self.folder / "report.json"


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
class Submission:
    """One sbatch. Presence means done, here too: intent.json is written before sbatch, submitted.json after it,
    RELEASED once its pickles and dependencies are in place.
    """

    folder: Path

    @property
    def name(self) -> str:
        """The unique name of the SLURM job."""
        return self.folder.name

    @property
    def intent(self) -> Path:
        """Which jobs its elements run, for which launch, submitted by whom."""
        return self.folder / "intent.json"

    @property
    def submitted(self) -> Path:
        """The number that SLURM gave it."""
        return self.folder / "submitted.json"

    @property
    def released(self) -> Path:
        return self.folder / "RELEASED"

    @property
    def ended(self) -> Path:
        """Nothing of it is in SLURM's queue any more; why, if that is known."""
        return self.folder / "ended.json"

    @property
    def stopped(self) -> Path:
        """Its remaining jobs were cancelled: too many failed alike."""
        return self.folder / "stopped.json"

    @property
    def cancelled(self) -> Path:
        """Which of its elements a user cancelled: workers do not submit their jobs again, a launch or a retry does."""
        return self.folder / "cancelled.json"

    @property
    def private(self) -> Path:
        """submitit's folder: pickles, scripts, logs."""
        return self.folder / "private"


@dataclass(frozen=True)
class Layout:
    root: Path

    def job(self, job_id: str) -> JobFiles:
        """Raises StoreError for an id that would lead out of `jobs/`."""
        if "/" in job_id or job_id.startswith("."):
            raise StoreError(f"{job_id!r} is no id of a job (<kind>-<16 hex>)")
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

    @property
    def launching(self) -> JobFiles:
        """Its claim is held by the launch that submits to SLURM at the moment."""
        return JobFiles(self.root / "submissions")

    def submissions(self) -> list[Submission]:
        """All submissions to SLURM, by name."""
        folder = self.root / "submissions"
        if not folder.is_dir():
            return []
        return [Submission(p) for p in sorted(folder.iterdir()) if p.name not in ("claims",) and p.is_dir()]

    def submission(self, name: str) -> Submission:
        return Submission(self.root / "submissions" / name)

    @property
    def prepared_sets(self) -> Path:
        return self.root / "prepared"

    def prepared(self, key: str) -> Path:
        """Of a training set as token ids."""
        return self.prepared_sets / key

    def checked(self, key: str) -> Path:
        """Says that a table of questions and answers was read whole and is good."""
        return self.prepared_sets / f"checked.{key}.json"

    @property
    def snapshots(self) -> Path:
        return self.root / "code"

    def code(self, digest: str) -> Path:
        return self.snapshots / digest

    def published(self, server: str) -> PublishedFiles:
        """What was brought to a server and project, and is there (tracking/publish.py)."""
        return PublishedFiles(self.root / "published" / server)

    def publications(self) -> list[PublishedFiles]:
        """Of all servers and projects that something was brought to."""
        return [PublishedFiles(path) for path in sorted((self.root / "published").glob("*"))]

    @property
    def trash(self) -> Path:
        """What is being removed: renamed into it in one step, then deleted."""
        return self.root / "trash"

    @property
    def analysis_caches(self) -> Path:
        return self.root / "cache" / "analysis"

    def analysis_cache(self, sweep: str) -> Path:
        """A folder per state of the sweep's records (analysis/sources/cache.py)."""
        return self.analysis_caches / sweep

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    def report(self, sweep: str) -> Path:
        return self.reports / sweep

    def dashboard(self, sweep: str) -> DashboardFiles:
        return DashboardFiles(self.root / "dashboards" / sweep)


def numbered(folder: Path, stem: str, suffix: str = "") -> list[int]:
    """The n of all `<stem>.<n><suffix>` in `folder`, ascending; empty if there is no such folder."""
    pattern = re.compile(rf"{re.escape(stem)}\.(\d+){re.escape(suffix)}")
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(m[1]) for m in map(pattern.fullmatch, names) if m)
