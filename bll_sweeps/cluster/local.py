"""This machine: N workers through submitit's local executor, progress in the foreground; Ctrl-C loses nothing."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bll_sweeps.cluster.launch import Declared
from bll_sweeps.cluster.progress import Progress, duration
from bll_sweeps.cluster.status import SweepStatus, SweepWatch
from bll_sweeps.cluster.worker import Worker
from bll_sweeps.errors import ConfigError, JobsFailed
from bll_sweeps.store.claims import process_start

REFRESH_S = 0.5


@dataclass(frozen=True)
class LocalOptions:
    """workers: processes (0: one per core, never more than jobs). timeout_min: of a worker. detach: leave them
    running.
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
    """Runs what a launch has to run and returns the sweep's status at the end (or at once, if detached)."""
    watch = SweepWatch(declared.layout, declared.sweep, declared.launch)
    status = watch.status()
    left = status.number("pending", "running")
    if not left:
        print(
            f"{declared.sweep}: nothing to run, {status.number('done')}/{len(status.jobs)} jobs done",
            flush=True,
        )
        return status
    workers = min(options.workers or len(os.sched_getaffinity(0)), left)
    folder = declared.layout.workers / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    folder.mkdir(parents=True, mode=0o700)
    print(
        f"{declared.sweep}: {left} jobs on {workers} worker{'s' if workers > 1 else ''} "
        f"(launch {declared.launch}, {declared.layout.root})",
        flush=True,
    )
    if options.detach:
        _leave(declared, options, folder)
        print(
            f"detached: `bll status {declared.sweep}` shows how far it is, `bll wait {declared.sweep}` waits",
            flush=True,
        )
        return status
    started = time.monotonic()
    processes = _start(declared, options, workers, folder)
    progress = Progress(declared.sweep, job_names(watch.manifest).__getitem__)
    try:
        while not all(process.done() for process in processes):
            time.sleep(REFRESH_S)
            status = watch.status()
            progress.show(status, workers)
    except KeyboardInterrupt:
        (folder / "STOP").touch()
        _wait_for(processes, 10)
        progress.close(watch.status(), workers)
        print("interrupted: nothing is lost, the same command goes on from here", flush=True)
        raise
    status = watch.status()
    progress.close(status, workers)
    print(f"{declared.sweep}: took {duration(time.monotonic() - started)}", flush=True)
    if not status.finished:
        raise WorkersStopped(
            f"the workers stopped with {status.number('pending', 'running')} jobs left: {_last_words(folder)}"
        )
    return status


def _start(declared: Declared, options: LocalOptions, workers: int, folder: Path) -> list[Any]:
    import submitit

    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(timeout_min=options.timeout_min)
    # A user's own ./jobs folder must not shadow ours: no working directory on sys.path (as python -P).
    environment = {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    launcher = (os.getpid(), process_start(os.getpid()))
    worker = Worker(str(declared.layout.root), declared.sweep, declared.launch, str(folder / "STOP"), launcher)
    with _environment(environment), _interrupts_ignored():
        return [executor.submit(worker) for _ in range(workers)]


def _leave(declared: Declared, options: LocalOptions, folder: Path) -> None:
    """Goes on in a session of its own, which neither the terminal's end nor Ctrl-C reaches; its output goes to a
    file.
    """
    if os.fork():
        return
    os.setsid()
    log = os.open(folder / "launcher.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 1
    try:
        run_declared(declared, replace(options, detach=False))
        code = 0
    finally:
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


def job_names(manifest: dict[str, Any]) -> dict[str, str]:
    """A readable name of each job of a manifest: what distinguishes it, e.g. `train p10 lab-a lab-spell`."""
    axes = {
        "pretrain": ("backbone",),
        "prior": ("backbone", "domain"),
        "train": ("objective", "backbone", "domain"),
        "evaluate": ("objective", "backbone", "benchmark"),
    }
    names: dict[str, str] = {}
    for cell in manifest["cells"]:
        values = [text for text in cell["overrides"] if "." in text.partition("=")[0]]  # axis choices have no dot
        for kind, job_id in cell["jobs"].items():
            if job_id and job_id not in names:
                words = [str(cell["labels"][key]) for key in axes[kind]]
                if kind in ("train", "evaluate") and cell["labels"]["seed"]:
                    words.append(f"seed={cell['labels']['seed']}")
                words += [text for text in values if kind != "pretrain" or text.startswith("backbone.")]
                names[job_id] = " ".join([kind, *words])
    return names
