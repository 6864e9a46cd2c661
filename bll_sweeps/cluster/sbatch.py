"""One array for SLURM: sbatch called through submitit, and what its complaints mean."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from bll_sweeps.cluster import scheduler
from bll_sweeps.cluster.scheduler import SchedulerUnavailable
from bll_sweeps.cluster.submissions import end
from bll_sweeps.errors import ConfigError, JobsFailed, UsageError
from bll_sweeps.grid.resources import ResourceRule, Shape
from bll_sweeps.store.layout import Submission
from bll_sweeps.store.records import write_json

# A user's own ./jobs folder must not shadow ours (as python -P); threads are the execution's to say.
# srun passes them on even where the site's jobs start without an environment (--export=NONE).
_ENVIRONMENT = ("export PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 SLURM_EXPORT_ENV=ALL",)
_WHERE = ("SLURM_CONF", "SLURM_CLUSTERS")  # which cluster is meant: what squeue and scancel go by, too
_SBATCH_S = 20  # where SLURM's queue is full sbatch tries again for two minutes, which is too long


class Refused(JobsFailed):
    """sbatch did not take it for now: a limit. The message is sbatch's own."""


class Mistaken(UsageError):
    """sbatch will never take it: a mistake in the site or the resources. Nothing was submitted."""


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """A site, and how a launch uses it: the keys of conf/hydra/launcher/slurm.yaml, which says what they mean."""

    resources: dict[str, ResourceRule] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    sbatch: dict[str, Any] = field(default_factory=dict)
    python: str = ""
    array_parallelism: int = 256
    jobs_per_allocation: int = 1
    max_array_size: int = 0
    signal_delay_s: int = 120
    stop_after_failures: int = 3
    snapshot: bool = True
    notify: Literal["none", "mail", "webhook"] = "none"
    mail_user: str = ""

    def __post_init__(self) -> None:
        least = {"array_parallelism": 1, "jobs_per_allocation": 1, "max_array_size": 0, "stop_after_failures": 0}
        for key, low in (least | {"signal_delay_s": 30}).items():
            if getattr(self, key) < low:
                raise ConfigError(key, getattr(self, key), f"must be >= {low}")
        for key, value in self.sbatch.items():
            if not isinstance(value, (str, int, float)):
                raise ConfigError(f"sbatch.{key}", value, "must be a text, a number, or true or false for a flag")
        if self.notify == "webhook" and not os.environ.get("BLL_WEBHOOK"):
            raise ConfigError("notify", "webhook", "needs the address in $BLL_WEBHOOK (it may be a secret)")


class Sbatch:
    """Calls sbatch for the jobs of one launch, which run from the code in `code`."""

    def __init__(self, options: SlurmOptions, code: Path):
        self._options = options
        path = f"{shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"
        self._environment = [f"export PYTHONPATH={path}", *_ENVIRONMENT]
        self._possible: set[Shape] = set()
        self.calls = 0

    def submit(self, files: Submission, shape: Shape, waits: str, work: Sequence[Callable[[], None]]) -> None:
        """One array of `work`, held, waiting as `waits` says; the number that SLURM gave it is in the submission then.

        Raises Refused, Mistaken, SchedulerUnavailable.
        """
        import submitit

        self.calls += 1
        with _outside_slurm(), _bounded_sbatch():
            executor = submitit.SlurmExecutor(files.private, max_num_timeout=10**6, python=self._options.python or None)
            executor.update_parameters(**parameters(self._options, shape, files.name, self._environment))
            self._check_possible(executor, files, shape)
            extra = {"hold": True, "kill-on-invalid-dep": "yes", "requeue": True}
            extra |= {"dependency": waits} if waits else {}
            self._add(executor, extra | self._options.sbatch)
            try:
                with contextlib.redirect_stderr(io.StringIO()), executor.batch():
                    jobs = [executor.submit(call) for call in work]
            except submitit.core.utils.FailedJobError as error:
                self._not_taken(files, str(error))
            except submitit.core.utils.FailedSubmissionError as error:
                raise SchedulerUnavailable(" ".join(str(error).split())) from None
        job = str(jobs[0].job_id).partition("_")[0]
        write_json(files.submitted, {"slurm_job": job})

    def _check_possible(self, executor: Any, files: Submission, shape: Shape) -> None:
        """Raises Mistaken for what no node could ever run, once per shape: sbatch takes it as long as it is held."""
        if shape in self._possible:
            return
        self._add(executor, self._options.sbatch)
        message = scheduler.objection(executor._make_submission_file_text("true", ""))
        if message and scheduler.refusal(message) == "mistake":
            shutil.rmtree(files.folder, ignore_errors=True)
            raise Mistaken(f"sbatch refused it: {message}")
        self._possible.add(shape)

    @staticmethod
    def _add(executor: Any, options: Mapping[str, Any]) -> None:
        """Further options of sbatch; true is a flag, and false takes one away."""
        executor.parameters["additional_parameters"] = {k: v for k, v in options.items() if v is not False}

    def _not_taken(self, files: Submission, complaint: str) -> NoReturn:
        """sbatch failed. Perhaps only its answer was lost: an array that was submitted nevertheless is held, and goes;
        one that comes later still is left to the next launch (`settle`).
        """
        message = scheduler.one_line(complaint) or f"sbatch did not answer within {_SBATCH_S} s"
        meaning = scheduler.refusal(message)
        found = scheduler.queue([files.name])
        scheduler.cancel(sorted({entry.job for entry in found if entry.live}))
        if found or meaning == "outage":
            raise SchedulerUnavailable(f"sbatch failed: {message}")
        if "retrying" in message:
            end(files, message)  # the folder is the name by which what comes late would be known
        else:
            shutil.rmtree(files.folder, ignore_errors=True)
        if meaning == "full":
            raise Refused(message)
        raise Mistaken(f"sbatch refused it: {message}")


def parameters(options: SlurmOptions, shape: Shape, name: str, environment: Sequence[str]) -> dict[str, Any]:
    """submitit's parameters for an allocation of `shape`."""
    out: dict[str, Any] = {
        "job_name": name,
        "time": shape.time_min,
        "nodes": shape.nodes,
        "ntasks_per_node": shape.tasks,
        "cpus_per_task": shape.cpus,
        "array_parallelism": options.array_parallelism,
        "signal_delay_s": options.signal_delay_s,
        "stderr_to_stdout": True,
        "setup": [*options.setup, *environment],
        # A rank that fails ends the others; since 22.05 srun no longer inherits the CPUs of the allocation.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={shape.cpus}"],
    }
    if shape.memory_gib is not None:
        out["mem"] = f"{round(shape.memory_gib * 1024)}M"
    model = f":{shape.gpu_type}" if shape.gpu_type else ""
    gpus = [f"gpu{model}:{shape.gpus}"] if shape.gpus else []
    if gres := ",".join([*gpus, *filter(None, [shape.gres])]):  # older clusters know no --gpus-per-node
        out["gres"] = gres
    if options.notify == "mail" and "-notice-" in name:
        out |= {"mail_type": "END,FAIL"} | ({"mail_user": options.mail_user} if options.mail_user else {})
    return out | {key: value for key in ("partition", "account", "qos", "constraint") if (value := getattr(shape, key))}


@contextmanager
def _bounded_sbatch() -> Iterator[None]:
    """submitit calls sbatch under a time limit: it is then killed, and has said before why it was trying again."""
    import submitit

    whole = submitit.SlurmExecutor._make_submission_command

    def bounded(executor: Any, path: Path) -> list[str]:
        return ["timeout", "--foreground", str(_SBATCH_S), *whole(executor, path)]

    submitit.SlurmExecutor._make_submission_command = bounded
    try:
        yield
    finally:
        submitit.SlurmExecutor._make_submission_command = whole


@contextmanager
def _outside_slurm() -> Iterator[None]:
    """Without the variables of an allocation that we may be in: sbatch would take them for options."""
    from submitit.helpers import clean_env

    where = {key: os.environ[key] for key in _WHERE if key in os.environ}
    with clean_env():
        os.environ.update(where)
        try:
            yield
        finally:
            for key in where:
                os.environ.pop(key, None)
