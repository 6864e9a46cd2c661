"""From overrides to a plan: what `launch`, `plan`, `fetch` and `advise` read from the configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bll_sweeps.errors import UsageError


class hydra_on_conf:
    """Hydra initialised on conf/, without any of its output; `with hydra_on_conf() as hydra`."""

    def __enter__(self) -> Any:
        from hydra import initialize_config_dir
        from hydra.core.global_hydra import GlobalHydra

        from bll_sweeps.grid.schema.config import conf_dir, register, user_conf_dir

        user_conf_dir()  # complains early about a wrong $BLL_CONF
        register()
        self._initialized = initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="bll")
        self._initialized.__enter__()
        return GlobalHydra.instance().hydra

    def __exit__(self, *error: Any) -> None:
        self._initialized.__exit__(*error)


def translated(call: Callable[[], Any]) -> Any:
    """Hydra's and OmegaConf's errors as one line."""
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from bll_sweeps.grid.schema.messages import one_line

    try:
        return call()
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(one_line(error)) from None
    except yaml.YAMLError as error:
        raise UsageError(f"a file of the configuration is not YAML: {' '.join(str(error).split())}") from None


def composed_grid(hydra: Any, overrides: Sequence[str]) -> tuple[str, list[Any], dict[str, Any]]:
    """(name of the sweep, its cells, the launcher's options)."""
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from bll_sweeps.grid.schema.grids import composed_cells

    config = hydra.compose_config(
        "cell", [*overrides, "hydra.mode=MULTIRUN"], run_mode=RunMode.MULTIRUN, with_log_configuration=False
    )
    cells = composed_cells(hydra.config_loader, config, list(config.hydra.overrides.task))
    return cells.name, cells.cells, OmegaConf.to_container(config.hydra.launcher, resolve=True)  # type: ignore[return-value]


def prepared_plan(cells: Sequence[Any], launcher: dict[str, Any]) -> Any:
    """The plan as the launcher would make it, its options checked; Hydra's own launchers have none."""
    from hydra.utils import instantiate

    from bll_sweeps.cluster.launch import prepare, resolve_cells

    if launcher["_target_"].startswith("hydra_plugins.bll."):
        return instantiate(launcher).prepare(cells)
    return prepare(resolve_cells(cells))


def slots(launcher: dict[str, Any], shapes: Iterable[Any]) -> int:
    """How many jobs, or GPUs, run at a time: the launcher's workers, or what SLURM may give."""
    most = max((max(1, shape.all_gpus) for shape in shapes), default=1)
    per_job = launcher.get("workers") or launcher.get("array_parallelism") or len(os.sched_getaffinity(0))
    return most * int(per_job)
