"""A composed configuration -> Cell, Execution, Tracker and run root, with definitions looked up and data digested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from bll_sweeps.errors import ConfigError, one_of
from bll_sweeps.grid.axes import Backbone, Benchmark, Domain, LabTask, Objective, Recipe
from bll_sweeps.grid.build import build
from bll_sweeps.grid.cell import Cell
from bll_sweeps.grid.digest import directory_digest, weight_count
from bll_sweeps.grid.schema.config import Lab, Paths
from bll_sweeps.grid.settings import Execution, Tracker
from bll_sweeps.store.records import file_sha256

T = TypeVar("T")
Found = TypeVar("Found", str, int)


@dataclass(frozen=True)
class ResolvedCell:
    cell: Cell
    execution: Execution
    tracker: Tracker
    root: Path


class Resolver:
    """Turns composed configurations into cells. Values made from a shared container are shared too.

    `task_digest(name)` is the digest of an lm-eval task file and the code that it names;
    ConfigError for an unknown task.
    """

    def __init__(self, task_digest: Callable[[str], str]):
        self._task_digest = task_digest
        self._made: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def __call__(self, config: dict[str, Any], overrides: Sequence[str]) -> ResolvedCell:
        """Raises ConfigError naming the key of what cannot be used."""
        lab = self._once(Lab, "lab", config["lab"])
        cell = Cell(
            objective=self._once(Objective, "objective", config["objective"]),
            backbone=self._once(Backbone, "backbone", config["backbone"], lab.tasks),
            domain=self._once(Domain, "domain", config["domain"], lab.tasks),
            benchmark=self._once(Benchmark, "benchmark", config["benchmark"]),
            recipe=self._once(Recipe, "recipe", config["recipe"]),
            seed=config["seed"],
            overrides=tuple(overrides),
        )
        root = self._once(Paths, "paths", config["paths"]).root
        if not root:
            raise ConfigError("paths.root", root, "must name a folder")
        return ResolvedCell(
            cell,
            self._once(Execution, "execution", config["execution"]),
            self._once(Tracker, "tracker", config["tracker"]),
            Path(root).expanduser().absolute(),
        )

    def _once(self, cls: type[T], key: str, data: dict[str, Any], tasks: dict[str, LabTask] | None = None) -> T:
        memo = (cls, id(data), id(tasks))
        if memo not in self._made:
            value = build(cls, self._completed(cls, data, tasks), key)
            self._made[memo] = ((data, tasks), value)  # holding the data keeps their ids from being reused
        return self._made[memo][1]

    def _completed(self, cls: type, data: dict[str, Any], tasks: dict[str, LabTask] | None) -> dict[str, Any]:
        """`data` with the computed fields: lab definitions by name, digests of files. Paths become absolute, since
        workers and later commands may run elsewhere.
        """
        if data.get("path"):
            data = data | {"path": str(Path(data["path"]).expanduser().absolute())}
        if cls is Backbone and data["source"] == "lab":
            return data | {"tasks": _plain_tasks(tasks)}
        if cls is Backbone and data.get("path"):
            digest = _found(directory_digest, data["path"], "backbone.path")
            return data | {"digest": digest, "parameters": _found(weight_count, data["path"], "backbone.path")}
        if cls is Domain and data["source"] == "lab":
            known = _plain_tasks(tasks)
            if data["task"] not in known:
                raise ConfigError("domain.task", data["task"], one_of(known, data["task"]))
            return data | {"lab": known[data["task"]]}
        if cls is Domain and data.get("path"):
            return data | {"digest": _found(file_sha256, data["path"], "domain.path")}
        if cls is Benchmark:
            data = data | {"task_digest": self._task_digest(data["task"])}
            return data | {"digest": _found(file_sha256, data["path"], "benchmark.path")} if data.get("path") else data
        return data


def _plain_tasks(tasks: dict[str, LabTask] | None) -> dict[str, Any]:
    from bll_sweeps.grid.axes import to_plain

    return {name: to_plain(task) for name, task in (tasks or {}).items()}


@cache
def _found(find: Callable[[Path], Found], path: str, key: str) -> Found:
    """What `find` tells of a path, once per path of a launch; ConfigError naming `key` for what cannot be read."""
    try:
        return find(Path(path))
    except OSError as error:
        raise ConfigError(key, path, f"cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(key, path, str(error)) from None
