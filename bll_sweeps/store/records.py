"""Atomic files and the records of jobs: spec, record, DONE. Presence means done; what is damaged is named, never
used.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import secrets
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bll_sweeps.errors import StoreError
from bll_sweeps.store.layout import Attempt, JobFiles

GENERATIONS = "generations.jsonl.gz"  # what a model answered in an evaluation

# --- shared filesystems -----------------------------------------------------------------------------------------------


def look_anew(folder: Path) -> None:
    """What others have written in `folder` can be seen from here on: an NFS client that changes a folder itself forgets
    what it remembered of it, also that a file was not there.
    """
    probe = folder / f".probe.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    probe.touch()
    probe.unlink()


# --- atomic files ---------------------------------------------------------------------------------------------------


def fsync_folder(folder: Path) -> None:
    """Makes names in `folder` durable: a rename is not on disk before its folder is."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; flushed and renamed onto it if the block ends well, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def keep_to_owners(folder: Path) -> None:
    """In a folder that a group may write to, only the owner of an entry can rename or remove it (the sticky bit)."""
    with contextlib.suppress(PermissionError):  # a colleague's: who made it has done this
        folder.chmod(folder.stat().st_mode | stat.S_ISVTX)


def write_json(path: Path, value: Any) -> None:
    """Deterministic bytes: sorted keys, no NaN, a newline at the end."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in rows))


def write_jsonl_gz(path: Path, rows: list[dict[str, Any]]) -> None:
    """Compressed, without a time stamp: the same rows give the same bytes."""
    text = "".join(json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in rows)
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), mtime=0))


def read_jsonl_gz(path: Path) -> list[dict[str, Any]]:
    return list(iter_jsonl_gz(path))


def iter_jsonl_gz(path: Path) -> Iterator[dict[str, Any]]:
    """As iter_jsonl, of a compressed file. Only who reads to the end learns that its check sum is wrong."""
    return _json_lines(path, gzip.open)


def read_json_if(path: Path) -> Any:
    """As read_json; None for a file that is not there, or no more."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return None


def read_json(path: Path) -> Any:
    """Raises StoreError for a file that is not whole JSON, FileNotFoundError for none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is corrupt or truncated ({error}); `bll retry` runs its job again") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return list(iter_jsonl(path))


def iter_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The value of each line, one at a time, blank lines left out; StoreError where the first damaged line comes."""
    return _json_lines(path, open)


def _json_lines(path: Path, opened: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    try:
        with opened(path, "rt", encoding="utf-8", newline="\n") as lines:  # no other character ends a line
            for line in lines:
                if line.strip():
                    yield json.loads(line)
    except (EOFError, gzip.BadGzipFile, zlib.error, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is corrupt or truncated ({error}); `bll retry` runs its job again") from None


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- records --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """What a finished job left: its result (plain data) and its outputs, whose digests were checked when asked for."""

    job: JobFiles
    attempt: Attempt
    result: dict[str, Any]
    outputs: dict[str, dict[str, Any]]  # relative file name -> {"bytes", "sha256"}

    def pruned(self) -> list[str]:
        """Outputs that were removed to save disk, or are being removed (pruning.py)."""
        try:
            return list(read_json(self.attempt.pruned)["outputs"])
        except FileNotFoundError:
            return []

    def kept(self) -> dict[str, dict[str, Any]]:
        """The files of `outputs` that are to be there: all but those of pruned outputs."""
        pruned = self.pruned()
        return {file: digest for file, digest in self.outputs.items() if not any(_of(file, name) for name in pruned)}

    def output(self, name: str) -> Path:
        """Path of the output file or folder `name`; StoreError if one is missing, pruned or differs from its digest."""
        if name in self.pruned():
            raise StoreError(
                f"{self.attempt.output(name)} was pruned to save disk; a launch that needs it trains {self.job.id} anew"
            )
        files = [file for file in self.outputs if _of(file, name)]
        if not files:
            raise StoreError(
                f"{self.attempt.record} names no output {name!r} (it has {', '.join(sorted(self.outputs))})"
            )
        for file in files:
            check_output(self.attempt.folder / file, self.outputs[file])
        return self.attempt.folder / name

    def provenance(self) -> dict[str, Any]:
        """Times, host, code, versions and execution of the attempt that finished the job."""
        return read_json(self.attempt.provenance)


def _of(file: str, name: str) -> bool:
    """Whether the file belongs to the output file or folder `name`."""
    return file == name or file.startswith(f"{name}/")


def check_output(path: Path, digest: dict[str, Any]) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise StoreError(f"{path} is missing although its record names it; `bll retry` runs its job again") from None
    if size != digest["bytes"] or file_sha256(path) != digest["sha256"]:
        raise StoreError(f"{path} differs from the digest in its record; `bll retry` runs its job again")


def write_record(attempt: Attempt, job_id: str, result: dict[str, Any], outputs: list[str]) -> None:
    """Writes the attempt's record.json: the result, and digests of `outputs` (files, or folders taken whole).

    The record holds nothing that differs between two runs of the job; times and hosts go to attempt.json.
    """
    digests: dict[str, dict[str, Any]] = {}
    for name in outputs:
        path = attempt.output(name)
        if not path.exists():
            raise StoreError(f"{path} was promised as an output of {job_id} but is not there")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digests[file.relative_to(attempt.folder).as_posix()] = {
                    "bytes": file.stat().st_size,
                    "sha256": file_sha256(file),
                }
    write_json(attempt.record, {"id": job_id, "result": result, "outputs": digests})


def publish(job: JobFiles, attempt: Attempt) -> bool:
    """Makes the attempt's record the job's: DONE -> attempt.<n>/record.json. The first wins; True if it is this one.

    os.symlink is atomic and fails if DONE exists. A reply lost on NFS looks like EEXIST: then the link itself tells.
    """
    target = f"{attempt.folder.name}/{attempt.record.name}"
    try:
        job.done.symlink_to(target)
    except FileExistsError:
        return job.done.is_symlink() and str(job.done.readlink()) == target
    fsync_folder(job.folder)
    return True


def is_done(job: JobFiles) -> bool:
    """Whether DONE is there (one lstat; whether it can be used is `read_record`'s to say)."""
    return os.path.lexists(job.done)


def read_record(job: JobFiles) -> Record | None:
    """The job's record, None if it is not done, StoreError if what DONE points to is damaged."""
    if not is_done(job):
        return None
    attempt = done_attempt(job)
    try:
        data = read_json(attempt.record)
    except FileNotFoundError:
        raise StoreError(
            f"{attempt.record} is missing although {job.done} names it; `bll retry` runs its job again"
        ) from None
    return as_record(job, attempt, data)


def as_record(job: JobFiles, attempt: Attempt, data: Any) -> Record:
    """What record.json of the attempt holds, as the job's record; StoreError if it is not that."""
    whole = isinstance(data, dict) and data.get("id") == job.id and isinstance(data.get("result"), dict)
    if not (whole and _are_outputs(data.get("outputs"))):
        raise StoreError(f"{attempt.record} is not the record of {job.id}; `bll retry` runs its job again")
    return Record(job, attempt, data["result"], data["outputs"])


def _are_outputs(told: Any) -> bool:
    """Whether it is names of files with the size and the digest of each."""
    return isinstance(told, dict) and all(
        isinstance(one, dict) and isinstance(one.get("bytes"), int) and isinstance(one.get("sha256"), str)
        for one in told.values()
    )


def later_scores(record: Record) -> dict[str, dict[str, Any]]:
    """Summaries of the whole scores that `bll regrade` made from this record's generations, by the grader's ID."""
    found = {}
    for path in record.job.later_scores():
        with contextlib.suppress(OSError, StoreError, KeyError, TypeError):
            summary = read_json(path)
            of_these = summary["generations"] == record.outputs[GENERATIONS]["sha256"]
            if of_these and summary["sha256"] == file_sha256(record.job.scores(path.stem)):
                found[path.stem] = summary
    return found


def done_attempt(job: JobFiles) -> Attempt:
    """The attempt DONE points to. In a copy that followed links, DONE is a file: the attempt with the same record."""
    if job.done.is_symlink():
        return Attempt(job.folder / job.done.readlink().parent)
    content = job.done.read_bytes()
    for attempt in reversed(job.attempts()):
        if attempt.record.exists() and attempt.record.read_bytes() == content:
            return attempt
    raise StoreError(f"{job.done} is the record of no attempt of {job.id}; `bll retry` runs its job again")


def withdraw(job: JobFiles, reason: str) -> None:
    """Takes DONE back so that the job runs again; attempts stay on disk. Used by retry and --rerun-stale."""
    aside = job.folder / f"withdrawn.{secrets.token_hex(4)}"
    try:
        job.done.rename(aside)  # of two that withdraw at once, one does
    except FileNotFoundError:
        return
    was = str(aside.readlink()) if aside.is_symlink() else None
    write_json(aside.with_name(f"{aside.name}.json"), {"was": was, "reason": reason})
    aside.unlink()
