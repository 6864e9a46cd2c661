"""Weights & Biases as a mirror of a job's rows, never in the job's way.

Every call into wandb happens on one daemon thread that is fed through a queue: whatever wandb does - raise,
ask for a key, wait for a server - costs the job one warning, and at most CLOSE_WITHIN_S when it closes.

A run is one job: its id is the job's id, its group the sweep that ran it first, its tags the sweeps that
contain it. Online, a later attempt goes on with the run of the one before (rows that the run has are passed
over). Offline there is no resuming: each attempt writes a run of its own, with the same id, into its own
folder, and only that of the attempt that finished the job is worth uploading. A job therefore logs all rows
of its metrics file, those from before a checkpoint included.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from bll_sweeps.errors import one_of
from bll_sweeps.grid.settings import Tracker

# The x axes; wandb's own _step counts calls and means nothing.
STEP, TOKENS = "trainer/global_step", "trainer/tokens"
AXES = {"step": STEP, "tokens": TOKENS}
PERFORMANCE = ("elapsed_s", "tokens_per_s")

INIT_TIMEOUT_S, FINISH_TIMEOUT_S = 20, 30
CLOSE_WITHIN_S = 50.0  # less than a minute, whatever hangs

MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "off"}
# What an outer run or shell may have set and would leak into this one.
FOREIGN = ("WANDB_SERVICE", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME", "WANDB_NOTES", "WANDB_SWEEP_ID")

log = logging.getLogger(__name__)


class Run:
    """What a job holds; this one mirrors nothing (wandb=off)."""

    def log(self, row: dict[str, Any]) -> None:
        """Mirrors one row: `step` and `tokens` are the axes, times go to perf/, the rest to train/."""

    def summary(self, values: dict[str, Any]) -> None:
        """Sets final values, nested ones joined by /: {"lab-spell": {"mean": 0.4}} -> lab-spell/mean."""

    def close(self, ok: bool) -> None:
        """Ends the run as finished or failed. Returns within a minute, whatever wandb does."""


def open_tracker(
    settings: Tracker,
    *,
    job_id: str,
    kind: str,
    config: dict[str, Any],
    group: str,
    tags: list[str],
    folder: Path,
) -> Run:
    """The mirror of one job attempt; call its close() in a finally block.

    settings: offline by default; $WANDB_MODE (online, offline, disabled) takes precedence.
    config: what the job is, nested plain data. folder: of this attempt alone; the run lies in its wandb/.
    Never raises, never prompts; returns at once, since wandb starts beside the job.
    """
    mode = _mode(settings)
    if mode == "off":
        return Run()
    options = {
        "project": settings.project,
        "entity": settings.entity or None,
        "id": job_id,
        "job_type": kind,
        "group": group or None,
        "tags": sorted({tag[:64] for tag in tags if tag}),  # wandb refuses longer ones
        "config": config,
    }
    return _WandbRun(mode, options, folder)


def preload(settings: Tracker) -> None:
    """Imports wandb (0.7 s) in a worker, for the jobs it forks; starts no thread. Does nothing for off."""
    if _mode(settings) != "off":
        with contextlib.suppress(ImportError):  # open_tracker will say so
            import wandb  # noqa: F401


def _mode(settings: Tracker) -> Literal["off", "offline", "online"]:
    given = os.environ.get("WANDB_MODE", "")
    if given and given not in MODES:
        log.warning("WANDB_MODE=%r %s: tracking stays %s", given, one_of(MODES, given), settings.wandb)
    return MODES.get(given, settings.wandb)  # type: ignore[return-value]


def _title(job_id: str, kind: str, config: Mapping[str, Any]) -> str:
    """What a person calls the job, from its spec: `train p lab-a lab-spell 0`."""
    job = config.get("job", config)
    parts = {**(job.get("train") or {}), **job}
    axes = [parts.get(axis) or {} for axis in ("objective", "backbone", "domain", "benchmark")]
    names = [axis["name"] for axis in axes if axis.get("name")]
    return " ".join([kind, *names, str(parts.get("seed", ""))]).strip() if names else job_id


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{key}/")
        elif value is not None:
            out[f"{prefix}{key}"] = value
    return out


def _wandb_row(row: Mapping[str, Any]) -> dict[str, Any]:
    out = {}
    for key, value in _flat(row).items():
        place = "perf" if key in PERFORMANCE else "train"
        out[AXES.get(key) or (key if "/" in key else f"{place}/{key}")] = value
    return out


class _Environment:
    """The variables wandb reads nowhere but from the environment, set for the life of one run."""

    def __init__(self, folder: Path):
        self.values: dict[str, str | None] = dict.fromkeys(FOREIGN)
        self.values |= {
            "WANDB_DIR": str(folder),
            "WANDB_DATA_DIR": str(folder / "data"),
            "WANDB_CACHE_DIR": str(folder / "cache"),
            "WANDB_SILENT": "true",  # silent also means that it never asks for a key
            "WANDB_ERROR_REPORTING": "false",
        }
        self.before: dict[str, str | None] = {}

    def enter(self) -> None:
        self.before = {key: os.environ.get(key) for key in self.values}
        self._set(self.values)

    def leave(self) -> None:
        self._set(self.before)

    @staticmethod
    def _set(values: dict[str, str | None]) -> None:
        for key, value in values.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


class _WandbRun(Run):
    """Feeds the thread that owns the wandb run."""

    def __init__(self, mode: Literal["offline", "online"], options: dict[str, Any], folder: Path):
        self._mode, self._options, self._folder = mode, options, folder
        self._queue: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._warned = False
        self._broken = False  # rows are dropped from here on
        self._closed = False
        self._environment = _Environment(folder)
        self._environment.enter()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, row: dict[str, Any]) -> None:
        if not self._broken:
            self._queue.put(("log", dict(row)))

    def summary(self, values: dict[str, Any]) -> None:
        if not self._broken:
            self._queue.put(("summary", dict(values)))

    def close(self, ok: bool) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.put(("close", ok))
        self._thread.join(CLOSE_WITHIN_S)
        if self._thread.is_alive():
            self._warn(f"does not answer for {CLOSE_WITHIN_S:.0f} s and is left behind")
            _kill_service()
        self._environment.leave()

    def _warn(self, problem: str) -> None:
        """One warning per run, whatever else goes wrong after it."""
        if not self._warned:
            self._warned = True
            log.warning("W&B %s; the job goes on, its own files are complete (%s)", problem, self._folder.parent)

    def _work(self) -> None:
        """Body of the thread: start, rows as they come, finish. Nothing may escape from it."""
        run = None
        try:
            run, seen = self._start()
            for action, value in iter(self._queue.get, None):
                if action == "close":
                    run.finish(exit_code=0 if value else 1)
                    run = None
                    break
                if action == "summary":
                    run.summary.update(_flat(value))
                elif value.get("step", seen + 1) > seen:
                    run.log(_wandb_row(value))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not the job's
            self._broken = True
            self._warn(f"failed ({_described(error)})")
        finally:
            self._stop(run)

    def _start(self) -> tuple[Any, float]:
        """The wandb run, and the last step it has already (-1: none). Offline if the server is of no use."""
        try:
            return _init(self._mode, self._options, self._folder)
        except Exception as error:
            if self._mode == "offline" or isinstance(error, ImportError):
                raise
            self._warn(f"cannot be used ({_described(error)}): tracking goes on offline")
            _forget_failed_start(self._folder)
            return _init("offline", self._options, self._folder)

    def _stop(self, run: Any) -> None:
        """Ends wandb's helper process: in this process another job may follow, with folders of its own."""
        try:
            import wandb

            if run is not None:
                run.finish(exit_code=1)
            wandb.teardown()
        except Exception as error:  # noqa: BLE001 - as above
            self._warn(f"failed ({_described(error)})")


def _init(mode: Literal["offline", "online"], options: dict[str, Any], folder: Path) -> tuple[Any, float]:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        mode=mode,
        root_dir=str(folder),
        console="off",
        silent=True,
        symlink=False,
        init_timeout=INIT_TIMEOUT_S,
        finish_timeout=FINISH_TIMEOUT_S,
        finish_timeout_raises=False,
        disable_git=True,  # a remote's address may hold a token
        disable_code=True,
        x_save_requirements=False,  # versions are in the attempt's provenance
        x_stats_pid=os.getpid(),  # the default is that of the process that imported wandb
    )
    resume: Literal["allow"] | None = "allow" if mode == "online" else None
    name = _title(options["id"], options["job_type"], options["config"])
    run = wandb.init(settings=settings, reinit="create_new", resume=resume, name=name, **options)
    run.define_metric(STEP)
    run.define_metric(TOKENS, step_metric=STEP)
    for metrics in ("train/*", "perf/*"):
        run.define_metric(metrics, step_metric=STEP)
    return run, float(run.summary.get(STEP, -1)) if run.resumed else -1.0


def _forget_failed_start(folder: Path) -> None:
    """wandb-core keeps a run whose start failed, and would write the offline one of the same id nowhere."""
    import wandb

    wandb.teardown()
    shutil.rmtree(folder / "wandb", ignore_errors=True)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _kill_service() -> None:
    """Kills this process's wandb-core, so that wandb's exit hook does not wait for it either."""
    try:
        from wandb.sdk import wandb_setup

        connection = wandb_setup.singleton()._connection
        if connection is not None and connection._proc is not None:
            connection._proc._process.kill()
    except Exception:  # best effort: there is nothing left to do about it
        log.debug("wandb-core could not be killed", exc_info=True)
