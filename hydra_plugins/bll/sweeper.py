"""`hydra/sweeper=grid`: products and unions of products, each choice composed once (bll_sweeps.grid.schema)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    def __init__(self, name: str | None, grids: Sequence[Any]):
        # Read from the configuration by composed_cells(); named here so that a misspelt key is an error.
        self._config: DictConfig | None = None
        self._context: HydraContext | None = None
        self._launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config, self._context = config, hydra_context
        self._launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> Any:
        from bll_sweeps.grid.schema.grids import composed_cells

        assert self._config is not None and self._context is not None and self._launcher is not None
        cells = composed_cells(self._context.config_loader, self._config, arguments)
        returned = self._launcher.launch(cells, initial_job_idx=0)
        for job in returned:
            if job.status == JobStatus.FAILED:
                raise job._return_value  # as .return_value does, less its line on stderr
        return [returned]
