"""This machine: N workers through submitit's local executor, progress in the foreground; Ctrl-C loses nothing."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bll_sweeps.cluster.launch import Declared, visible_gpus
from bll_sweeps.cluster.progress import Progress, headline
from bll_sweeps.cluster.status import SweepStatus, SweepWatch, job_names, tracking_problem
from bll_sweeps.cluster.words import duration, plural
from bll_sweeps.cluster.worker import Worker
from bll_sweeps.errors import ConfigError, JobsFailed
from bll_sweeps.store.claims import owner, process_start
from bll_sweeps.store.layout import WorkerFiles
from bll_sweeps.store.records import write_json

REFRESH_S = 0.5


@dataclass(frozen=True)
class LocalOptions:
    """workers: processes (0: one per core, or one per GPU if jobs need one; never more than jobs). timeout_min: of a
    worker. detach: leave them running.
    """

    workers: int = 0
    timeout_min: int = 10080
    detach: bool = False

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ConfigError("hydra.launcher.workers", self.workers, "must be >= 0 (0: one per core)")
        if self.timeout_min < 1:
            raise ConfigError("hydra.launcher.timeout_min", self.timeout_min, "must be >= 1 minute")


class WorkersStopped(JobsFailed):
    """The workers ended although jobs were left: they could not start, or ran out of their time."""


def run_declared(declared: Declared, options: LocalOptions) -> SweepStatus:
    """Runs what a launch has to run and returns the sweep's status at the end (or at once, if detached).

    Raises ConfigError if jobs need more GPUs than there are, WorkersStopped if jobs are left although no worker is.
    """
    watch = SweepWatch(declared.layout, declared.sweep, declared.launch)
    status = watch.status()
    left = status.number("pending", "running")
    if not left:
        print(f"{declared.sweep}: nothing to run, {headline(status, 0)}", flush=True)
        return status
    devices = _devices(options.workers, declared.gpus_per_job)[:left]
    pool = declared.layout.worker_pool(f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}")
    pool.folder.mkdir(parents=True, mode=0o700)
    print(
        f"{declared.sweep}: {plural(left, 'job')} on {plural(len(devices), 'worker')} "
        f"(launch {declared.launch}, {declared.layout.root})",
        flush=True,
    )
    if options.detach:
        _leave(lambda: _run_pool(declared, options.timeout_min, watch, devices, pool), pool)
        print(
            f"detached: see `bll status {declared.sweep}`, `bll wait {declared.sweep}`, `bll cancel {declared.sweep}`"
        )
        return status
    return _run_pool(declared, options.timeout_min, watch, devices, pool)


def _run_pool(
    declared: Declared, timeout_min: int, watch: SweepWatch, devices: list[str | None], pool: WorkerFiles
) -> SweepStatus:
    started = time.monotonic()
    write_json(pool.launcher, {"sweep": declared.sweep, "launch": declared.launch, "owner": owner()})
    processes = _start(declared, timeout_min, devices, pool)
    progress = Progress(declared.sweep, job_names(watch.manifest).__getitem__)
    try:
        while not all(process.done() for process in processes):
            time.sleep(REFRESH_S)
            progress.show(watch.status(), len(devices))
    except KeyboardInterrupt:
        pool.stop.touch()
        _wait_for(processes, 10)
        progress.close(watch.status(), len(devices))
        print("interrupted: nothing is lost, the same command goes on from here", flush=True)
        raise
    status = watch.status()
    progress.close(status, len(devices))
    print(f"{declared.sweep}: took {duration(time.monotonic() - started)}", flush=True)
    if problem := tracking_problem(declared.layout, watch.manifest):
        print(problem, flush=True)
    if not status.finished:
        why = "they were cancelled" if pool.stop.exists() else _last_words(pool.folder)
        raise WorkersStopped(f"the workers stopped with {status.number('pending', 'running')} jobs left: {why}")
    return status


def _devices(workers: int, gpus_per_job: int) -> list[str | None]:
    """$CUDA_VISIBLE_DEVICES of each worker: the launcher's own, or GPUs of its own where jobs need some."""
    own = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not gpus_per_job:
        return [own] * (workers or len(os.sched_getaffinity(0)))
    there = visible_gpus()
    places = len(there) // gpus_per_job
    if not places:
        problem = f"is more than this machine shows: {len(there)} GPUs"
        raise ConfigError("execution.resources.*.gpus", gpus_per_job, problem)
    groups = [",".join(there[i * gpus_per_job : (i + 1) * gpus_per_job]) for i in range(places)]
    return [*groups[: workers or places]]


def _start(declared: Declared, timeout_min: int, devices: list[str | None], pool: WorkerFiles) -> list[Any]:
    import submitit

    executor = submitit.LocalExecutor(pool.folder)
    executor.update_parameters(timeout_min=timeout_min)
    # A user's own ./jobs folder must not shadow ours: no working directory on sys.path (as python -P).
    environment = {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    launcher = (os.getpid(), process_start(os.getpid()))
    root, stop = str(declared.layout.root), str(pool.stop)
    workers = [Worker(root, declared.sweep, declared.launch, stop, launcher, cuda) for cuda in devices]
    with _environment(environment), _interrupts_ignored():
        return [executor.submit(worker) for worker in workers]


def _leave(run: Callable[[], object], pool: WorkerFiles) -> None:
    """Calls `run` in a session of its own, which neither the terminal's end nor Ctrl-C reaches; its output goes to the
    pool's log.
    """
    sys.stdout.flush()
    if os.fork():
        return
    os.setsid()
    log = os.open(pool.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 1
    try:
        run()
        code = 0
    except BaseException:  # noqa: BLE001 - this process ends here; the log is where its error can be read
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started inside inherit that SIGINT is ignored: Ctrl-C on the terminal reaches only the launcher."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _wait_for(processes: list[Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all(process.done() for process in processes):
        time.sleep(0.1)


def _last_words(folder: Path) -> str:
    """The last line that a worker wrote to stderr, and where the rest is."""
    for file in sorted(folder.glob("*_log.err"), key=lambda p: -p.stat().st_mtime):
        lines = [line for line in file.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return f"{lines[-1].strip()} (see {file})"
    return f"see {folder}"
