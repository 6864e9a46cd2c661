"""A composed configuration -> Cell, Execution, Tracker and run root, with definitions looked up and data digested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from bll_sweeps.errors import ConfigError, one_of
from bll_sweeps.grid.axes import Backbone, Benchmark, Domain, LabTask, Objective, PlannedTask, Recipe
from bll_sweeps.grid.build import build
from bll_sweeps.grid.cell import Cell
from bll_sweeps.grid.digest import directory_digest, files_digest, weight_count
from bll_sweeps.grid.hub import Hub
from bll_sweeps.grid.schema.config import Lab, Paths
from bll_sweeps.grid.settings import Execution, Tracker
from bll_sweeps.store.records import file_sha256

T = TypeVar("T")
Found = TypeVar("Found", str, int)

# Copies of the hub's data sets that the package brings along: a few rows each, made up, in the format of the real ones.
REHEARSAL = Path(__file__).parents[2] / "lab" / "rehearsal"


@dataclass(frozen=True)
class ResolvedCell:
    cell: Cell
    execution: Execution
    tracker: Tracker
    root: Path
    hub: Hub


class Resolver:
    """Turns composed configurations into cells. Values made from a shared container are shared too.

    `task_digest(name)` is the digest of an lm-eval task file and the code that it names; `plan_task(name, metric)` what
    there is to know of a task of lm-eval's own. ConfigError for what is unknown.
    """

    def __init__(self, task_digest: Callable[[str], str], plan_task: Callable[[str, str], PlannedTask] | None = None):
        self._task_digest, self._plan_task = task_digest, plan_task
        self._made: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def __call__(self, config: dict[str, Any], overrides: Sequence[str]) -> ResolvedCell:
        """Raises ConfigError naming the key of what cannot be used."""
        lab = self._once(Lab, "lab", config["lab"], lambda data: data)
        paths = self._once(Paths, "paths", config["paths"], lambda data: data)
        if not paths.root:
            raise ConfigError("paths.root", paths.root, "must name a folder")
        hub = _hub(paths.lock, paths.mirror)
        backbone = self._once(
            Backbone, "backbone", config["backbone"], lambda data: _backbone(data, lab, hub), lab, hub
        )
        domain = self._once(
            Domain,
            "domain",
            config["domain"],
            lambda data: _domain(data, lab, hub, backbone),
            lab,
            hub,
            backbone.template,
        )
        cell = Cell(
            objective=_checked(self._once(Objective, "objective", config["objective"], lambda data: data)),
            backbone=backbone,
            domain=domain,
            benchmark=self._once(
                Benchmark, "benchmark", config["benchmark"], lambda data: self._benchmark(data, hub), hub
            ),
            recipe=self._once(Recipe, "recipe", config["recipe"], lambda data: data),
            seed=config["seed"],
            overrides=tuple(overrides),
        )
        execution = self._once(Execution, "execution", config["execution"], lambda data: data)
        self._check_engine(execution, cell.benchmark)
        return ResolvedCell(
            cell,
            execution,
            self._once(Tracker, "tracker", config["tracker"], lambda data: data),
            Path(paths.root).expanduser().absolute(),
            hub,
        )

    def _once(
        self,
        cls: type[T],
        key: str,
        data: dict[str, Any],
        complete: Callable[[dict[str, Any]], dict[str, Any]],
        *of: Any,
    ) -> T:
        """The value of `complete(data)`: the data with what is found out of files and of the values `of`."""
        memo = (cls, id(data), *(part if isinstance(part, str) else id(part) for part in of))
        if memo not in self._made:
            value = build(cls, complete(data), key)
            self._made[memo] = ((data, of), value)  # holding the data keeps their ids from being reused
        return self._made[memo][1]

    def _check_engine(self, execution: Execution, benchmark: Benchmark) -> None:
        """vLLM generates, and is not asked for log-likelihoods."""
        if execution.engine != "vllm" or benchmark.source != "lm_eval" or self._plan_task is None:
            return
        if not self._plan_task(benchmark.task, benchmark.metric).generates:
            problem = f"makes no log-likelihoods, which benchmark.task={benchmark.task!r} asks for: hf does"
            raise ConfigError("execution.engine", execution.engine, problem)

    def _benchmark(self, data: dict[str, Any], hub: Hub) -> dict[str, Any]:
        if data["source"] == "lm_eval" and self._plan_task:
            return _stock(data, hub, self._plan_task(data["task"], data["metric"]))
        return _with_files(data, hub, "benchmark") | {"task_digest": self._task_digest(data["task"])}


@cache
def _checked(objective: Objective) -> Objective:
    try:
        objective.check_poles()
    except ConfigError as error:
        raise error.under("objective") from None
    return objective


def _backbone(data: dict[str, Any], lab: Lab, hub: Hub) -> dict[str, Any]:
    """With the lab's tasks, or with what stands for the model's files and where they lie."""
    if data["source"] == "lab":
        return data | {"tasks": _plain_tasks(lab.tasks)}
    if data["source"] == "directory" and data.get("path"):
        path = _absolute(data["path"])
        digest = _found(directory_digest, path, "backbone.path")
        return data | {"path": path, "digest": digest, "parameters": _found(weight_count, path, "backbone.path")}
    if data["source"] == "hub" and data.get("hub"):
        model = hub.model(data["hub"], data["revision"])
        return data | {
            "path": model.path,
            "digest": model.digest,
            "parameters": model.parameters or data["parameters"],
        }
    return data


def _domain(data: dict[str, Any], lab: Lab, hub: Hub, backbone: Backbone) -> dict[str, Any]:
    """With its task of the lab, what stands for its files, and the template of the backbone's family."""
    if data["source"] == "lab":
        known = _plain_tasks(lab.tasks)
        if data["task"] not in known:
            raise ConfigError("domain.task", data["task"], one_of(known, data["task"]))
        data = data | {"lab": known[data["task"]]}
    templates = data.get("templates") or {}
    if templates and not data.get("prompt"):
        if backbone.template not in templates:
            choices = one_of(templates, backbone.template)
            problem = f"(of backbone={backbone.name!r}) has no prompt in domain {data['name']!r}: {choices}"
            raise ConfigError("backbone.template", backbone.template, problem)
        template = templates[backbone.template]
        data = data | {"prompt": template["prompt"], "stop": list(template["stop"])}
    return _with_files(data | {"templates": {}}, hub, "domain")


def _with_files(data: dict[str, Any], hub: Hub, key: str) -> dict[str, Any]:
    """With where the files of its `data` lie and the digest of their contents."""
    if data["source"] != "table":
        return data
    table = data["data"]
    if table.get("path"):
        path = _absolute(table["path"])
        return data | {
            "data": table | {"path": path, "paths": [path], "digest": _found(_file_digest, path, f"{key}.data.path")}
        }
    if table.get("hub") and table.get("files"):
        files = hub.files(table["hub"], table["files"], table["revision"])
        return data | {"data": table | {"paths": list(files.paths), "digest": files.digest}}
    return data


def _stock(data: dict[str, Any], hub: Hub, task: PlannedTask) -> dict[str, Any]:
    """A benchmark that is a task of lm-eval's own, with all files of its data set; its metric stands for graders."""
    for name, decoding in data["decodings"].items():
        if decoding["temperature"] != task.temperature:
            problem = f"is not that of task {data['task']}, {task.temperature:g}"
            raise ConfigError(f"benchmark.decodings.{name}.temperature", decoding["temperature"], problem)
    data = data | {"task_digest": task.digest, "metric": task.metric, "graders": []}
    if not task.data_set:
        return data
    table = data["data"] | {"hub": task.data_set, "files": "[!.]*"}
    files = hub.files(task.data_set, table["files"], table["revision"])
    folder = hub.mirror / task.data_set if hub.mirror else hub.snapshot("dataset", task.data_set, files.revision)
    table |= {"paths": list(files.paths), "digest": files.digest}
    return data | {"data": table, "mirror": str(folder) if files.paths else ""}


def _file_digest(path: Path) -> str:
    return files_digest([file_sha256(path)])


def _absolute(path: str) -> str:
    """Workers and later commands may run elsewhere."""
    return str(Path(path).expanduser().absolute())


@cache
def _hub(lock: str, mirror: str) -> Hub:
    folder = REHEARSAL if mirror == "rehearsal" else Path(_absolute(mirror)) if mirror else None
    return Hub(Path(_absolute(lock)), folder)


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
