"""The small files of jobs (spec, record, provenance, summaries of later scores), each read once: from the disk, of many
jobs by other processes ahead of their use; or for jobs that have not changed since, from what the cache kept of them.

Neither specs nor records name a version of their format: a job's id holds the version of its kind (grid/cell.py), what
they tell beyond what is asked of them is passed over, and what they lack is named. Where one does name a version, it is
from a later bll-sweeps than this one and not used.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from analysis.sources.stamps import job_stamp
from analysis.workers import WorkerEndedError, Workers
from bll_sweeps.errors import StoreError
from bll_sweeps.store.layout import Attempt, JobFiles, Layout
from bll_sweeps.store.records import Record, as_record, done_attempt, is_done

log = logging.getLogger("bll")

VERSION = 1  # of specs, records and manifests
_ATTEMPT, _JOB = Attempt(Path("attempt.1")), JobFiles(Path("job"))
# Names alone, since paths take longer to make than small files to read.
SPEC, RECORD = _JOB.spec.name, _ATTEMPT.record.name
PROVENANCE, PRUNED = _ATTEMPT.provenance.name, _ATTEMPT.pruned.name
_DONE = "DONE"  # in `texts`: the name of the attempt that it points to
_BATCH = 250  # jobs
Texts = dict[str, dict[str, str]]  # job -> file name within its folder -> text


class _Batch(NamedTuple):
    names: list[str]
    future: Future[list[tuple[str, dict[str, str] | None]]]


def check_version(path: Path, data: Any) -> None:
    """StoreError for what a later version of this program wrote."""
    version = data.get("version", VERSION) if isinstance(data, dict) else VERSION
    if version != VERSION:
        raise StoreError(
            f"{path} has version={version!r}, this bll-sweeps reads version {VERSION} only: it was written by another "
            "one, and is not used"
        )


class Files:
    """texts: all that was read so far, and what was kept of the jobs that were asked for."""

    def __init__(self, layout: Layout, kept: Mapping[str, dict[str, str]]):
        self.layout = layout
        self.texts: Texts = {}
        self._kept = kept
        self._jobs: dict[str, JobFiles] = {}
        self._coming: dict[str, _Batch] = {}  # asked of workers
        self._fetched: set[str] = set()  # jobs of which `texts` has every small file
        self._stamps: dict[str, str] = {}

    def fetch(self, job_ids: Sequence[str], workers: Workers) -> None:
        """Has the small files of these jobs read by workers, and their stamps taken before."""
        top = f"{self.layout.root}/jobs"
        for i in range(0, len(job_ids), _BATCH):
            names = list(job_ids[i : i + _BATCH])
            batch = _Batch(names, workers.submit(read_finished, [f"{top}/{name}" for name in names]))
            self._coming |= dict.fromkeys(names, batch)

    def stamp(self, job_id: str) -> str:
        """The job's stamp (stamps.py), taken before any of its files was read by `fetch`, or now."""
        self._arrived(job_id)
        return self._stamps.get(job_id) or job_stamp(self.job(job_id).folder)

    def _arrived(self, job_id: str) -> None:
        """Takes in the answer that has this job, if one is on its way."""
        batch = self._coming.get(job_id)
        if batch is None:
            return
        for name in batch.names:
            del self._coming[name]
        try:
            answers = batch.future.result()
        except WorkerEndedError as ended:
            log.info("a process that read records ended (%s); they are read by this one", ended)
            return
        for name, (stamp, texts) in zip(batch.names, answers, strict=True):
            self._stamps[name] = stamp
            if texts is not None:
                self.texts[name] = texts
                self._fetched.add(name)

    def job(self, job_id: str) -> JobFiles:
        """As Layout.job; made once, since paths take longer to make than files to open."""
        known = self._jobs.get(job_id)
        if known is None:
            known = self._jobs[job_id] = self.layout.job(job_id)
        return known

    def unchanged(self, job_id: str) -> bool:
        return job_id in self._kept

    def text(self, job_id: str, name: str) -> str | None:
        """The text of a job's file, None if it is not there."""
        if job_id in self._kept:
            self.texts[job_id] = self._kept[job_id]
            return self._kept[job_id].get(name)
        self._arrived(job_id)
        known = self.texts.setdefault(job_id, {})
        if name not in known and job_id not in self._fetched:
            try:
                known[name] = _read(f"{self.job(job_id).folder}/{name}").decode()
            except FileNotFoundError:
                return None
            except UnicodeDecodeError as error:
                path = self.job(job_id).folder / name
                raise StoreError(f"{path} is corrupt ({error}); `bll retry` runs its job again") from None
        return known.get(name)

    def json(self, job_id: str, name: str) -> Any:
        """What the file holds, None if it is not there; StoreError for one that is not whole or of another version."""
        text = self.text(job_id, name)
        if text is None:
            return None
        try:
            data = _decoded(text)
        except json.JSONDecodeError as error:
            path = self.job(job_id).folder / name
            raise StoreError(f"{path} is corrupt or truncated ({error}); `bll retry` runs its job again") from None
        if isinstance(data, dict) and "version" in data:
            check_version(self.job(job_id).folder / name, data)
        return data

    def record(self, job_id: str) -> Record | None:
        """As store.records.read_record."""
        job = self.job(job_id)
        name = self.text(job_id, _DONE) if self._whole(job_id) else None
        if name is None:
            name = self._done(job)
            if not name:
                return None
            self.texts.setdefault(job_id, {})[_DONE] = name
        attempt = job.attempt(int(name.rpartition(".")[2]))
        data = self.json(job_id, f"{name}/{RECORD}")
        if data is None:
            raise StoreError(
                f"{attempt.record} is missing although {job.done} names it; `bll retry` runs its job again"
            )
        return as_record(job, attempt, data)

    def _done(self, job: JobFiles) -> str:
        """The name of the attempt that DONE points to; '' where there is none."""
        try:
            target = os.readlink(f"{job.folder}/{_DONE}")  # noqa: PTH115 - Path makes it five times slower
        except OSError:  # not a link, or not there
            return done_attempt(job).folder.name if is_done(job) else ""
        return target.rpartition("/")[0] or target

    def later_scores(self, job_id: str) -> list[Path]:
        """As JobFiles.later_scores; of a finished job only."""
        job = self.job(job_id)
        if not self._whole(job_id):
            return job.later_scores() if os.path.lexists(f"{job.folder}/scores") else []
        texts = self._kept.get(job_id) or self.texts[job_id]
        return [job.folder / name for name in sorted(texts) if name.startswith("scores/")]

    def _whole(self, job_id: str) -> bool:
        """Whether all small files of the job are known, so that what is not among them is not there."""
        self._arrived(job_id)
        return job_id in self._kept or job_id in self._fetched


def read_finished(folders: Sequence[str]) -> list[tuple[str, dict[str, str] | None]]:
    """The stamp of each job's folder, taken first, and all its small files, of an evaluation's spec what is asked of
    it; None in place of these for a job that is not done or has a file that cannot be read, which its reader is to
    find out.
    """
    return [(job_stamp(Path(folder)), _small_files(folder)) for folder in folders]


def _small_files(folder: str) -> dict[str, str] | None:
    try:
        target = os.readlink(f"{folder}/{_DONE}")  # noqa: PTH115 - as in _done
        attempt = target.rpartition("/")[0] or target
        names = [SPEC, *(f"{attempt}/{name}" for name in (RECORD, PROVENANCE, PRUNED))]
        if os.path.lexists(f"{folder}/scores"):
            names += [f"scores/{name}" for name in sorted(os.listdir(f"{folder}/scores")) if name.endswith(".json")]  # noqa: PTH208
        texts = {_DONE: attempt}
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                texts[name] = _read(f"{folder}/{name}").decode()
        if SPEC in texts and os.path.basename(folder).startswith("evaluate-"):  # noqa: PTH119
            texts[SPEC] = _asked_of(texts[SPEC])
    except (OSError, UnicodeDecodeError):
        return None
    return texts


# What the tables take from the spec of an evaluation. The rest, such as a backbone's tasks and templates, is nine
# tenths of the text that a large sweep would have moved, parsed and kept. Who asks for more makes a Reader of its own.
_ASKED = {
    "benchmark": ("decodings",),
    "domain": ("name", "task", "source", "noise"),
    "backbone": ("source", "pretraining"),
}


def _asked_of(spec: str) -> str:
    """The spec without what nobody asks; as it is where it is not as it should be, for its reader to say so."""
    try:
        data = msgspec.json.decode(spec)
        job = data["job"]
        data["job"] = {part: {key: job[part][key] for key in keys if key in job[part]} for part, keys in _ASKED.items()}
        return msgspec.json.encode(data).decode()
    except (msgspec.MsgspecError, KeyError, TypeError):
        return spec


_READ = 1 << 16  # a buffer of more is mapped anew at each read


def _decoded(text: str) -> Any:
    """As json.loads, at a third of its price; what only that takes, such as NaN, or nobody, is its to judge."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return json.loads(text)


def _read(path: str) -> bytes:
    """As Path.read_bytes, at half its price: there are tens of thousands of small files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        parts = [os.read(descriptor, _READ)]
        while len(parts[-1]) == _READ:
            parts.append(os.read(descriptor, _READ))
        return b"".join(parts) if len(parts) > 1 else parts[0]
    finally:
        os.close(descriptor)
