"""A real SLURM cluster of this machine, as an object: `local-slurm` beside this file does the work.

Only what SLURM itself says is reported; nothing is mocked. Needs root and Debian's SLURM packages.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

LOCAL_SLURM = Path(__file__).parent / "local-slurm"
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "sbatch", "squeue")
NODES = ("g1", "g2", "c1", "c2")  # g*: 4 pretended GPUs each; every node 8 CPUs, 32 GB
REQUEUE_S = 5  # a requeued job waits a second longer; 120 is SLURM's default
GRACE_S = 10  # between the USR2 of a preempted job and its end
FIRST_PORT, PORTS = 17200, 20  # each cluster has a block of its own
COLUMNS = {
    "id": "%i",  # 12 or 12_3
    "job_id": "%A",  # the element's own id
    "array": "%F",
    "task": "%K",
    "state": "%T",
    "reason": "%r",
    "name": "%j",
    "partition": "%P",
    "node": "%N",
    "dependency": "%E",
    "start": "%S",
}
Found = TypeVar("Found")


class SlurmError(RuntimeError):
    """A SLURM command ended with another code than 0; its text is what the command printed."""


def require_slurm() -> None:
    """Skip the test where this machine cannot run a cluster; under BLL_REQUIRE_SLURM=1 fail it."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if not shutil.which(program, path=path)]
    reason = "" if os.geteuid() == 0 else "a SLURM cluster of one's own needs root"
    if missing:
        reason = f"SLURM is not installed (no {', '.join(missing)}): run tests/cluster/local-slurm install as root"
    if reason and os.environ.get("BLL_REQUIRE_SLURM") == "1":
        pytest.fail(f"BLL_REQUIRE_SLURM=1, but {reason}", pytrace=False)
    if reason:
        pytest.skip(reason)


class Slurm:
    """One cluster in `folder`: nodes g1 g2 c1 c2, partitions cpu (default), gpu and preemptible.

    `settings` are lines of slurm.conf, such as MaxArraySize=8. Without accounting there is no slurmdbd.
    """

    def __init__(self, folder: Path, port: int, *, settings: dict[str, object] | None = None, accounting: bool = True):
        self.folder = folder
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        self.env |= {
            "SLURM_CONF": str(folder / "etc" / "slurm.conf"),
            "LOCAL_SLURM_DIR": str(folder),
            "LOCAL_SLURM_PORT": str(port),
            "LOCAL_SLURM_ACCOUNTING": "yes" if accounting else "no",
            "LOCAL_SLURM_REQUEUE_S": str(REQUEUE_S),
            "LOCAL_SLURM_GRACE_S": str(GRACE_S),
            "LOCAL_SLURM_SETTINGS": " ".join(f"{key}={value}" for key, value in (settings or {}).items()),
        }

    # --- the cluster -------------------------------------------------------------------------------------------------
    def up(self) -> None:
        """Start whatever of the cluster does not run, and take all nodes back."""
        self._local_slurm("up")

    def destroy(self) -> None:
        """End every process of the cluster, jobs included, and delete its folder."""
        self._local_slurm("destroy")

    def kill(self, daemon: str) -> None:
        """SIGKILL for slurmctld, slurmdbd, mariadbd or munged. What slurmctld accepted in its last two seconds or so
        is lost then; `stop` ends it in order.
        """
        self._local_slurm("kill", daemon)

    def stop(self, daemon: str) -> None:
        self._local_slurm("stop", daemon)

    def start(self, daemon: str) -> None:
        """Start a daemon that was killed or stopped, and wait until it answers."""
        self._local_slurm("start", daemon)

    @contextlib.contextmanager
    def without(self, daemon: str) -> Iterator[None]:
        """An outage: the daemon is stopped in order (no job is lost) and started again afterwards."""
        self.stop(daemon)
        try:
            yield
        finally:
            self.start(daemon)

    # --- nodes -------------------------------------------------------------------------------------------------------
    def kill_node(self, node: str) -> None:
        """SIGKILL for slurmd and all job processes of the node; SLURM notices within some 30 s."""
        self._local_slurm("kill", node)

    def down(self, node: str) -> None:
        """Declare the node down: its jobs end with NODE_FAIL, and are requeued, at once."""
        self.scontrol("update", f"nodename={node}", "state=down", "reason=test")

    def resume(self, node: str) -> None:
        """Take a node back that was killed or down. What ran on a killed one ends with NODE_FAIL, and is requeued."""
        self._local_slurm("start", node)  # of a running slurmd: only the state

    # --- SLURM's commands --------------------------------------------------------------------------------------------
    def run(self, *command: str, timeout: float = 60, text: str | None = None) -> str:
        """The standard output of a command in the cluster's environment; `text` is its standard input."""
        done = subprocess.run(command, env=self.env, input=text, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise SlurmError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}{done.stdout}")
        return done.stdout

    def sbatch(self, *arguments: str) -> str:
        return self.run("sbatch", *arguments)

    def squeue(self, *arguments: str) -> str:
        return self.run("squeue", *arguments)

    def scontrol(self, *arguments: str) -> str:
        return self.run("scontrol", *arguments)

    def scancel(self, *arguments: str) -> str:
        return self.run("scancel", *arguments)

    def sacct(self, *arguments: str) -> str:
        return self.run("sacct", *arguments)

    def sacctmgr(self, *arguments: str) -> str:
        return self.run("sacctmgr", "--immediate", *arguments)

    # --- jobs --------------------------------------------------------------------------------------------------------
    def submit(self, script: str, *options: str, name: str = "") -> str:
        """Submit a line of shell under a name of its own, output to nowhere; the id of the job or array."""
        name = name or f"test-{uuid.uuid4().hex[:12]}"
        options = ("--parsable", f"--job-name={name}", "--output=/dev/null", "--chdir=/", *options)
        return self.sbatch(*options, f"--wrap={script}").strip()

    def jobs(self, *ids: str, name: str = "") -> list[dict[str, str]]:
        """What squeue knows, finished ones of the last 5 minutes included, elements of arrays one by one.

        `ids` are jobs, arrays (all their elements) or elements; the columns are those of COLUMNS.
        """
        columns = "--format=" + "\t".join(COLUMNS.values())
        named = [f"--name={name}"] if name else []
        listing = self.squeue("--noheader", "--states=all", "--array", columns, *named)
        jobs = [dict(zip(COLUMNS, line.split("\t"), strict=True)) for line in listing.splitlines()]
        return [job for job in jobs if not ids or {job["id"], job["array"], job["job_id"]} & set(ids)]

    def job(self, job: str) -> dict[str, str]:
        """One job or element."""
        (found,) = [known for known in self.jobs() if known["id"] == job] or [{}]
        return found

    def states(self, *ids: str) -> dict[str, str]:
        """id -> state."""
        return {job["id"]: job["state"] for job in self.jobs(*ids)}

    def wait(self, condition: Callable[[], Found], seconds: float = 30) -> Found:
        """Until the condition holds; its value."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s; {self.describe()}")
            time.sleep(0.3)  # each look costs the jobs processor time: squeue, scontrol
        return found

    def describe(self) -> str:
        """For the messages of failing tests."""
        try:
            return "squeue says:\n" + self.squeue("--states=all", "--array", "--format=%i %j %T %r %E %N %S")
        except (SlurmError, subprocess.TimeoutExpired) as error:
            return f"and squeue fails: {error}"

    def requeue(self, job: str) -> None:
        """Requeue a running or finished job or element; it starts again REQUEUE_S + 1 seconds later."""
        self.scontrol("requeue", job)

    def start_requeued(self) -> list[str]:
        """Let requeued jobs begin in a second; the ids of those that were waiting for their time.

        In the very second in which they ended their node refuses them ("Job credential revoked"), and they fail.
        """
        listing = self.squeue("--noheader", "--states=PENDING", "--array", "--format=%i\t%r").splitlines()
        waiting = [line.split("\t")[0] for line in listing if line.endswith("\tBeginTime")]
        for job in waiting:
            self.scontrol("update", f"jobid={job}", "starttime=now+1")
        return waiting

    def pids_of(self, job: str) -> list[int]:
        """Processes of a job or element on any node of this cluster, also those that SLURM lost sight of."""
        pids = []
        for pid, environment in self._processes():
            array = f"{environment.get('SLURM_ARRAY_JOB_ID')}_{environment.get('SLURM_ARRAY_TASK_ID')}"
            if job in (environment.get("SLURM_JOB_ID"), array):
                pids.append(pid)
        return pids

    @contextlib.contextmanager
    def preempt(self, node: str = "") -> Iterator[str]:
        """A job that outranks those of the partition `preemptible` takes the node, or all of them, while this lasts.

        Their jobs get the signal that they asked for (--signal) at once, and are requeued GRACE_S later.
        """
        where = [f"--nodelist={node}"] if node else [f"--nodes={len(NODES)}"]
        filler = self.submit("sleep 600", "--partition=cpu", "--exclusive", *where)
        try:
            yield filler
        finally:
            self.scancel(filler)

    @contextlib.contextmanager
    def submit_limit(self, jobs: int, *, of: str = "user") -> Iterator[None]:
        """At most so many jobs in the queue, each element of an array counts. `of` says whose limit it is: the user's
        (AssocMaxSubmitJobLimit) or the qos's (QOSMaxSubmitJobPerUserLimit).
        """
        *target, key = {"user": ("user", "root", "MaxSubmitJobs"), "qos": ("qos", "normal", "MaxSubmitJobsPerUser")}[of]
        self.sacctmgr("modify", *target, "set", f"{key}={jobs}")
        try:
            yield
        finally:
            self.sacctmgr("modify", *target, "set", f"{key}=-1")

    # --- cleaning up -------------------------------------------------------------------------------------------------
    def active(self) -> list[str]:
        """Jobs that are queued, run or are just ending, as text."""
        return self.squeue("--noheader", "--array", "--format=%i %j %T %r").splitlines()

    def cancel_everything(self) -> None:
        """Back to an idle cluster: all daemons run, all nodes are up, no job and no job's process is left."""
        self.up()
        jobs = {line.split()[0].split("_")[0] for line in self.active()}
        if jobs:
            self.scancel(*jobs)
        self.wait(lambda: not self.active())
        for pid, environment in self._processes():
            if "SLURM_JOB_ID" in environment:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _local_slurm(self, *arguments: str) -> None:
        self.run(str(LOCAL_SLURM), *arguments, timeout=180)

    def _processes(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Processes on this cluster's nodes: each node has an /etc/hosts of its own."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                hosts = (process / "root/etc/hosts").stat()
                if not any(os.path.samestat(hosts, (self.folder / f"etc/hosts.{node}").stat()) for node in NODES):
                    continue
                variables = (process / "environ").read_bytes().decode(errors="replace").split("\0")
                yield int(process.name), dict(variable.split("=", 1) for variable in variables if "=" in variable)


@contextlib.contextmanager
def cluster(*, accounting: bool = True, **settings: object) -> Iterator[Slurm]:
    """A cluster of one's own, whoever else runs some on this machine; nothing of it is left afterwards."""
    with _place() as (folder, port):
        slurm = Slurm(folder, port, settings=settings, accounting=accounting)
        try:
            slurm.up()
            yield slurm
        finally:
            slurm.destroy()


@contextlib.contextmanager
def _place() -> Iterator[tuple[Path, int]]:
    """A folder and a block of ports that nobody else uses, for as long as its lock file is locked.

    The lock ends with this process, however it dies; `flock` waits for that and clears away what is then left.
    """
    for port in range(FIRST_PORT, FIRST_PORT + 100 * PORTS, PORTS):
        folder, lock = Path(f"/tmp/bll-slurm.{port}"), Path(f"/tmp/bll-slurm.{port}.lock")
        with lock.open("w") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            clear = [str(LOCAL_SLURM), "destroy"]
            environment = os.environ | {"LOCAL_SLURM_DIR": str(folder)}
            subprocess.run(clear, env=environment, check=True, timeout=180)
            if not all(_free(port + offset) for offset in (0, 1, *range(11, 11 + len(NODES)))):
                continue
            guard = subprocess.Popen(
                ["flock", str(lock), *clear], env=environment, stdin=subprocess.DEVNULL, start_new_session=True
            )
            try:
                yield folder, port
            finally:
                held.close()
                guard.wait(timeout=180)
            return
    raise RuntimeError("no free ports for a SLURM cluster")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
