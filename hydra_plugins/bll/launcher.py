"""`hydra/launcher=local`: declares the composed cells and runs their jobs with local workers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LocalLauncher(Launcher):
    def __init__(self, workers: int, timeout_min: int, detach: bool, rerun_stale: bool):
        self._options: dict[str, Any] = {"workers": workers, "timeout_min": timeout_min, "detach": detach}
        self._rerun_stale = rerun_stale
        self._config: DictConfig | None = None
        self._context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config, self._context = config, hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """One JobReturn per cell: failed if one of its jobs did not end well. Submitted-only cells count as
        completed.
        """
        from bll_sweeps.cluster.launch import declare, resolve_cells
        from bll_sweeps.cluster.local import LocalOptions, run_declared
        from bll_sweeps.errors import JobsFailed
        from bll_sweeps.grid.schema.grids import as_composed

        assert self._config is not None and self._context is not None
        options = LocalOptions(**self._options)
        composed = as_composed(self._context.config_loader, self._config, job_overrides)
        declared = declare(composed.name, resolve_cells(composed.cells), sys.argv, rerun_stale=self._rerun_stale)
        status = run_declared(declared, options)
        bad = {job.id for job in status.jobs if job.state in ("failed", "blocked", "damaged")}
        jobs_of = {cell.cell.overrides: set(cell.ids().values()) for cell in declared.plan.cells}
        returns = []
        for overrides, cell in zip(job_overrides, composed.cells, strict=True):
            failed = jobs_of.get(cell.overrides, set()) & bad  # none of its own: the same cell as another one
            ret = JobReturn(overrides=list(overrides), status=JobStatus.FAILED if failed else JobStatus.COMPLETED)
            ret.return_value = JobsFailed(status.verdict()) if failed else None
            returns.append(ret)
        return returns
