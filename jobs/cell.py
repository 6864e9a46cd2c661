"""The Hydra application of one grid cell.

python -m jobs.cell objective=p backbone=lab-a             # runs this cell's missing jobs here, parents first
python -m jobs.cell -m objective=nll,p seed=0,1            # a grid, through hydra/launcher (default: local workers)
python -m jobs.cell -m hydra/launcher=basic sweep=smoke    # Hydra's own launcher: cell by cell in this process
"""

from __future__ import annotations

import sys
import time
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from bll_sweeps.grid.schema.config import conf_dir, register

register()


def run_cell(config: DictConfig) -> None:
    """Runs the cell's missing jobs in this process, parents first. Raises what the first failing job raises."""
    from bll_sweeps.cluster.children import configure_logging, preload
    from bll_sweeps.cluster.launch import declare, prepare, resolve_cells
    from bll_sweeps.cluster.worker import run_here
    from bll_sweeps.grid.schema.grids import ComposedCell, adhoc_name
    from bll_sweeps.store.claims import live_claim
    from bll_sweeps.store.records import is_done

    overrides = tuple(_cell_overrides())
    plain: Any = OmegaConf.to_container(config, resolve=True)
    declared = declare(adhoc_name([overrides]), prepare(resolve_cells([ComposedCell(overrides, plain)])), sys.argv)
    configure_logging()
    if declared.plan.to_run:
        preload(planned.job.id for planned in declared.plan.to_run)
    for planned in declared.plan.to_run:
        print(planned.job.id, flush=True)
        files = declared.layout.job(planned.job.id)
        while live_claim(files) and not is_done(files):
            time.sleep(1)  # a sweep beside us runs this very job: its result is ours
        if not is_done(files):
            run_here(declared.layout, planned.job.id)


def _cell_overrides() -> list[str]:
    from hydra.core.hydra_config import HydraConfig

    return [str(text) for text in HydraConfig.get().overrides.task if not str(text).startswith("sweep=")]


main = hydra.main(config_path=str(conf_dir()), config_name="cell", version_base="1.3")(run_cell)

if __name__ == "__main__":
    main()
