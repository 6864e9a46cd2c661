"""A job runs once at a time: numbered claims, without locks, on any shared filesystem.

`claims/claim.<n>` is made by link() of a unique, flushed file; success is a link count of 2, which survives a lost NFS
reply. The highest n rules. A take-over links n+1; nothing is replaced or removed; a release sets the mtime to 0.
Of the schemes that were raced (1,500 races of eight processes for a stale claim) only this one never had two owners.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from bll_sweeps.store.layout import numbered

HEARTBEAT_S = 30.0
# NFS caches attributes for up to a minute or so; a claim is stale only well after that.
STALE_AFTER_S = 300.0


@cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux: then only heartbeats tell
        return ""


@cache
def _pid_namespace() -> str:
    """Pids mean something only within one namespace: containers may share host name and boot."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - the target is no path
    except OSError:
        return ""


def process_start(pid: int) -> str:
    """When the process started, in clock ticks since boot: tells a process from a later one with its pid. '' if it is
    gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # a zombie does nothing any more


@cache
def user() -> str:
    """The name of the account that this process runs under, whatever the environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container without that entry
        return str(os.getuid())


def owner() -> dict[str, Any]:
    """Who this process is, as far as another worker may have to judge whether it still lives."""
    pid = os.getpid()
    return {
        "user": user(),
        "host": socket.gethostname(),
        "boot": _boot_id(),
        "pid_namespace": _pid_namespace(),
        "pid": pid,
        "start": process_start(pid),
        "submission": os.environ.get("BLL_SUBMISSION", ""),
        "slurm_job": os.environ.get("SLURM_JOB_ID", ""),
        "slurm_restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0") or 0),
    }


class Claimable(Protocol):
    """What one process at a time works at: a job, or what is published to one place."""

    @property
    def claims(self) -> Path: ...


@dataclass
class Claim:
    """A claim this process holds. Call `beat()` at least every HEARTBEAT_S while the job runs."""

    job: Claimable
    number: int
    path: Path
    _beaten: float = field(default_factory=time.monotonic)

    def beat(self) -> None:
        """Renews the claim (the file server's clock; at most once per HEARTBEAT_S)."""
        if time.monotonic() - self._beaten >= HEARTBEAT_S:
            os.utime(self.path)
            self._beaten = time.monotonic()

    def held(self) -> bool:
        """Whether nobody has taken the claim over: checked before a result is published."""
        numbers = numbered(self.job.claims, "claim")
        return bool(numbers) and numbers[-1] == self.number

    def release(self) -> None:
        os.utime(self.path, (0, 0))


def acquire(job: Claimable, is_dead: Callable[[dict[str, Any]], bool] | None = None) -> Claim | None:
    """The claim on `job`, or None if another live process holds it (or was faster).

    `is_dead(owner)`: a second opinion on a claim whose heartbeat has not been silent for long enough (a scheduler that
    knows the owner's end).
    """
    job.claims.mkdir(parents=True, exist_ok=True)
    numbers = numbered(job.claims, "claim")
    last = job.claims / f"claim.{numbers[-1]}" if numbers else None
    if last and is_live(last) and not (is_dead and is_dead(_owner_of(last))):
        return None
    number = numbers[-1] + 1 if numbers else 1
    path = job.claims / f"claim.{number}"
    unique = job.claims / f".{os.getpid()}.{secrets.token_hex(6)}"
    try:
        with unique.open("w") as file:
            json.dump(owner(), file)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # perhaps our own link, its reply lost: the link count tells
            os.link(unique, path)
        if unique.stat().st_nlink != 2:
            return None
    finally:
        unique.unlink(missing_ok=True)
    return Claim(job, number, path)


@contextlib.contextmanager
def claimed(claim: Claim) -> Iterator[Claim]:
    """Keeps a claim alive from a thread while this process itself does the work; releases it at the end."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(5):
            claim.beat()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield claim
    finally:
        stop.set()
        thread.join()
        claim.release()


def live_claim(job: Claimable) -> dict[str, Any] | None:
    """The owner of the job's live claim, or None."""
    numbers = numbered(job.claims, "claim")
    if not numbers:
        return None
    path = job.claims / f"claim.{numbers[-1]}"
    return _owner_of(path) if is_live(path) else None


def is_live(path: Path) -> bool:
    """Whether the claim's owner may still be at work. Released, provably dead or long silent ones are not."""
    if path.stat().st_mtime == 0:
        return False
    who = _owner_of(path)
    alive = is_alive(who)
    if alive is not None:
        return alive
    job_id = os.environ.get("SLURM_JOB_ID", "")
    if (
        job_id
        and who.get("slurm_job") == job_id
        and who.get("slurm_restarts", 0) < int(os.environ.get("SLURM_RESTART_COUNT", "0") or 0)
    ):
        return False  # an earlier run of this very SLURM job
    return _server_now(path.parent) - path.stat().st_mtime < STALE_AFTER_S


def is_alive(who: dict[str, Any]) -> bool | None:
    """Whether the process that `owner()` described still runs; None if that cannot be told from here."""
    here = (_boot_id(), _pid_namespace())  # a boot id is one machine's; its host name may differ between namespaces
    if not all(here) or (who.get("boot"), who.get("pid_namespace")) != here:
        return None
    return process_start(who["pid"]) == who["start"]


def _owner_of(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError:
        return {}  # a torn claim (its node died while writing): only its age counts


def _server_now(folder: Path) -> float:
    """Now by the file server's clock: the mtime of a file just touched there; our own clock where we may only read."""
    probe = folder / f".{os.getpid()}.{secrets.token_hex(6)}"
    try:
        probe.touch()
    except OSError:
        return time.time()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()
