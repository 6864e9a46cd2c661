"""SLURM's commands, as few calls as possible. What SLURM says is a hint about liveness; what is done is on disk.

Submitting itself is submitit's (slurm.py). A command that does not answer raises SchedulerUnavailable: that is never
taken for a job's failure.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from bll_sweeps.errors import JobsFailed

# States from which a job does not come back by itself.
_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
# What sbatch says when there are too many jobs for now, and when the controller could not be asked.
_FULL = re.compile(r"SubmitJob|temporarily|queue full|too many jobs", re.IGNORECASE)
_OUTAGE = re.compile(
    r"unable to contact|did not answer|timed out|transport|connect|communication|socket|zero bytes|unable to load"
    r"|authentic",
    re.IGNORECASE,
)
_FORMAT = "%F|%K|%A|%j|%T|%r"
_AT_ONCE = 100  # dependencies set by one scontrol: a busy controller answers each in its own time


class SchedulerUnavailable(JobsFailed):
    """SLURM's controller does not answer, or its commands are not here."""


@dataclass(frozen=True)
class QueueEntry:
    """One element of an array (index None: a job that is no array), as squeue shows it."""

    job: str
    index: int | None
    raw_id: str  # $SLURM_JOB_ID in the element itself, once it has started
    name: str
    state: str
    reason: str

    @property
    def id(self) -> str:
        return self.job if self.index is None else f"{self.job}_{self.index}"

    @property
    def live(self) -> bool:
        """Pending, running, or on its way from one to the other."""
        return self.state not in _ENDED and not self.hopeless

    @property
    def held(self) -> bool:
        return self.state == "PENDING" and self.reason == "JobHeldUser"

    @property
    def hopeless(self) -> bool:
        """What it waits for has failed. SLURM is told to cancel such a job itself, and now and then does not."""
        return self.state == "PENDING" and self.reason == "DependencyNeverSatisfied"

    @property
    def stuck(self) -> bool:
        """Held by SLURM itself after failed starts (a prolog, a node): it waits until somebody releases it."""
        failed = self.reason.endswith("requeued held") or self.reason == "JobHoldMaxRequeue"
        return self.state == "PENDING" and failed


def queue(names: Iterable[str]) -> list[QueueEntry]:
    """All elements of the jobs with these names that SLURM still knows, in one call; none for no names."""
    wanted = ",".join(names)
    if not wanted:
        return []
    text = _call(["squeue", "--noheader", "--states=all", "--array", f"--name={wanted}", f"--format={_FORMAT}"])
    entries = []
    for line in text.splitlines():
        job, index, raw_id, name, state, reason = line.split("|")
        entries.append(QueueEntry(job, int(index) if index.isdigit() else None, raw_id, name, state, reason))
    return entries


def state(raw_id: str) -> str | None:
    """State of the job with that $SLURM_JOB_ID, '' if SLURM knows it no more, None if SLURM does not answer."""
    try:
        text = _call(["squeue", "--noheader", f"--jobs={raw_id}", "--states=all", "--format=%T"])
    except SchedulerUnavailable as error:
        return "" if "Invalid job id" in str(error) else None
    return text.partition("\n")[0].strip()


def ended(state: str | None) -> bool:
    """Whether a job in that state is surely not running (see `state`)."""
    return state == "" or state in _ENDED


def refusal(message: str) -> Literal["full", "outage", "mistake"]:
    """What sbatch's complaint means: too many jobs for now, no answer, or something that it will never take.

    It says "job submit limit, user's size and/or time limits" of all limits alike; the name before it tells which.
    """
    unnamed = "accounting/QOS policy" in message and not re.search(r"\b(Assoc|QOS)[A-Z]", message)
    if unnamed or _FULL.search(message):
        return "full"
    return "outage" if _OUTAGE.search(message) else "mistake"


def one_line(complaint: str) -> str:
    """What sbatch printed on stderr, less its own name."""
    lines = (line.removeprefix("sbatch:").strip().removeprefix("error:").strip() for line in complaint.splitlines())
    return "; ".join(filter(None, lines))


def objection(script: str) -> str:
    """What sbatch would say against the script, were it to run at once; '' if nothing.

    --test-only also objects while the nodes are down, so that a job far in the future decides: it is cancelled again.
    """
    done = _sbatch(script, "--test-only")
    if done is None or not done.returncode:
        return ""
    done = _sbatch(script, "--begin=now+30days")
    if done is None:
        return ""
    if done.returncode:
        return one_line(done.stderr)
    cancel([done.stdout.strip().partition(";")[0]])
    return ""


def _sbatch(script: str, option: str) -> subprocess.CompletedProcess[str] | None:
    """None if it does not answer, as where the queue is full: submitting itself will tell."""
    command = ["sbatch", "--parsable", "--job-name=bll-probe", option]  # a name of its own: it is no submission
    try:
        return subprocess.run(command, input=script, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        raise SchedulerUnavailable("there is no sbatch here: SLURM's commands are needed") from None
    except subprocess.TimeoutExpired:
        return None


def max_array_size() -> int:
    """How many elements one array may have."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _call(["scontrol", "show", "config"]))
    return max(1, int(found[1])) if found else 1000  # indices are below MaxArraySize; 0: there are no arrays


def hides_jobs() -> bool:
    """Whether a site shows jobs only to their owners."""
    found = re.search(r"PrivateData\s*=\s*(\S+)", _call(["scontrol", "show", "config"]))
    return found is not None and "jobs" in found[1].split(",")


def release(job: str) -> None:
    _call(["scontrol", "release", job])


def requeue(raw_id: str) -> None:
    """Puts a running job back into the queue; SLURM ends its processes."""
    _call(["scontrol", "requeue", raw_id])


def depend(dependencies: Sequence[tuple[str, str]]) -> None:
    """Sets the dependency of each (element id, dependency), through as few calls of scontrol as are safe."""
    commands = [f"update jobid={element} dependency={dependency}\n" for element, dependency in dependencies]
    for start in range(0, len(commands), _AT_ONCE):
        _call(["scontrol", "--quiet"], "".join(commands[start : start + _AT_ONCE]))


def cancel(ids: Sequence[str], *, pending_only: bool = False) -> None:
    """Cancels jobs or elements. Those that have ended already are no error."""
    for start in range(0, len(ids), 500):  # a command line has an end
        _call(["scancel", "--quiet", *(["--state=PENDING"] if pending_only else []), *ids[start : start + 500]])


def _call(command: list[str], text: str = "") -> str:
    """The command's output. Bounded: a controller that hangs is as good as none."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SQUEUE_")}
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=60, env=environment, check=False
        )
    except FileNotFoundError:
        raise SchedulerUnavailable(f"there is no {command[0]} here: SLURM's commands are needed") from None
    except subprocess.TimeoutExpired:
        raise SchedulerUnavailable(f"{command[0]} did not answer within 60 s") from None
    complaint = " ".join(done.stderr.split())
    if done.returncode or (text and complaint):  # scontrol reports what it reads from stdin only on stderr
        raise SchedulerUnavailable(f"{command[0]} failed: {complaint or f'exit status {done.returncode}'}")
    return done.stdout
