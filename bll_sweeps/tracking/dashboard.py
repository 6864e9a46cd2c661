"""`bll dashboard`: a sweep's W&B workspace and report, as code.

Both are made from the panels of panels.py, with wandb-workspaces. What that package draws at random - the ids of
panels, run sets and views - follows from names here, so that the same sweep gives the same bytes, and a workspace that
was saved is found again on the server and replaced instead of saved a second time.

The runs of the workspace are not grouped, the panels are: a scatter plot of grouped runs would show a point per
objective instead of the continuum.

W&B shows the first MOST_RUNS runs of a run set and no more. In the report each grid has a run set of its own kind of
job; in the workspace all panels share one. A panel that its run set leaves without some of its runs says so in its
title: a mean over part of a sweep is not to pass for one over the sweep.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from bll_sweeps.errors import UsageError
from bll_sweeps.store.layout import DashboardFiles
from bll_sweeps.store.records import write_text
from bll_sweeps.store.regions import REGION_EDGES, REGIONS
from bll_sweeps.tracking import panels
from bll_sweeps.tracking.names import OBJECTIVE, SCORE, tag
from bll_sweeps.tracking.panels import COLUMNS, Bars, Differences, Lines, Panel, Parallel, Rows, Scatter, Sweep
from bll_sweeps.tracking.server import Target, reachable
from bll_sweeps.tracking.wandb import described

if TYPE_CHECKING:
    from wandb import Api
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

# What W&B shows at all, "regardless of its configuration" (docs.wandb.ai, line plots, Max runs/groups); by itself it
# shows 10, and makes groups of 100. Every panel asks for that much, for less would save nothing: a sweep of fewer jobs
# has fewer runs. But how many is not known here, as jobs of earlier launches carry the sweep's tag as well.
MOST_RUNS = 1000


def sweep_of(manifest: Mapping[str, Any], colours: Mapping[str, str]) -> Sweep:
    """A sweep as its dashboards see it. manifest: of a launch; colours: of its objectives."""
    cells = manifest["cells"]
    benchmarks = {cell["labels"]["benchmark"]: cell["primary"] for cell in cells}
    runs = {
        job: cell["labels"]["objective"] if kind in ("train", "evaluate") else ""
        for cell in cells
        for kind, job in cell["jobs"].items()
        if job  # `base` has no training
    }
    return Sweep(manifest["sweep"], benchmarks, runs, colours)


def write(files: DashboardFiles, sweep: Sweep, target: Target, tables: str = "") -> None:
    """Both as JSON, without a server or a key. tables: Markdown for the report."""
    write_text(files.workspace, _json(workspace(sweep, target)))
    write_text(files.report, _json(report(sweep, target, tables)))


def save(sweep: Sweep, target: Target, tables: str = "") -> list[str]:
    """Saves both, in place of those that were saved before; their addresses.

    UsageError without a key, a project or a run of the sweep in it, ConnectionError when W&B refuses or is silent.
    """
    import wandb

    from bll_sweeps.tracking.service import service

    with service(), _errors():
        target, _ = reachable(target)
        api = wandb.Api(timeout=60)
        reports = _reports(api, target)
        if not len(api.runs(target.path, filters={"tags": tag("sweep", sweep.name)}, per_page=1)):
            raise UsageError(f"{target.path} has no run of sweep={sweep.name!r}: `bll publish {sweep.name}` sends them")
        view, text = workspace(sweep, target), report(sweep, target, tables)
        view._internal_id = _view_id(api, target, view._internal_name)
        text.id = reports.get(text.title, "")
        return [view.save().url, text.save().url]


# --- the workspace ----------------------------------------------------------------------------------------------------


def workspace(sweep: Sweep, target: Target) -> Workspace:
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.expr import Config, Metric, Ordering

    runs = ws.RunsetSettings(
        filters=_filter(tag("sweep", sweep.name)),
        # Panels show the first runs of this order: trainings, which have curves, then prior jobs, then evaluations,
        # of which there are most; of a sweep that is too large whole objectives are left out (_shown).
        order=[Ordering(Metric("JobType"), ascending=False), Ordering(Config(_stored(OBJECTIVE)), ascending=True)],
        run_settings={run: ws.RunSettings(color=colour) for run, colour in _coloured(sweep).items()},
        pinned_columns=_columns(),
    )
    made = ws.Workspace(
        entity=target.entity,
        project=target.project,
        name=sweep.name,
        sections=[
            ws.Section(
                name=name,
                panels=[_panel(one, _shown(sweep, one.kind), sweep.name, name) for one in shown],
                is_open=i < 2,
            )
            for i, (name, shown) in enumerate(panels.sections(sweep).items())
        ],
        settings=ws.WorkspaceSettings(max_runs=MOST_RUNS),
        runset_settings=runs,
    )
    # The library draws these when it saves what has none; there is no public way to give them.
    made._internal_name = f"nw-{_id('workspace', sweep.name)[:11]}-v"
    made._internal_runset_id = _id("workspace", sweep.name, "runs")
    return made


# --- the report -------------------------------------------------------------------------------------------------------


def report(sweep: Sweep, target: Target, tables: str = "") -> Report:
    import wandb_workspaces.reports.v2 as wr

    in_numbers: list[Any] = [wr.H2("Gains in numbers"), wr.MarkdownBlock(text=tables)] if tables else []
    return wr.Report(
        entity=target.entity,
        project=target.project,
        title=f"Sweep {sweep.name} on the model-capability continuum"[:128],  # it is part of an address: letters only
        description="Which objective f(p) of supervised fine-tuning, for which model, on which task?",
        blocks=[
            wr.P(
                "Supervised fine-tuning need not minimise -log p of the target tokens. Which objective f(p) is best "
                "depends on how probable the base model finds those tokens to begin with: its prior strength, the "
                "mean p over the training set."
            ),
            wr.H2("How to read it"),
            wr.UnorderedList(items=[*_how_to_read(), *_left_out(sweep)]),
            wr.H2("The continuum"),
            _grid(sweep, "continuum", [panels.continuum()]),
            wr.P(
                [
                    "With intervals, gains over NLL paired by question and the crossover it is drawn by ",
                    wr.InlineCode(f"bll report {sweep.name}"),
                    ": figures/continuum-*.png can be dropped in here.",
                ]
            ),
            *in_numbers,
            wr.H2("Scores by region"),
            *_by_region(sweep),
            wr.H2("Scores by benchmark"),
            _grid(sweep, "benchmarks", panels.scores(sweep)),
            wr.H2("Training dynamics"),
            _grid(sweep, "training", [*panels.training(), *panels.by_tokens()]),
            wr.H2("What the base models know"),
            _grid(sweep, "prior", panels.before_training()),
        ],
        width="fluid",
    )


def _how_to_read() -> list[str]:
    weak, strong = REGION_EDGES
    return [
        f"MS, model-strong: prior strength of {strong:g} or more. There objectives that trust the model, such as -p, "
        "tend to win.",
        f"MW, model-weak: {weak:g} or less. There NLL tends to win. MI, model-intermediate, is between; no objective "
        "wins always.",
        "nll is the baseline that every other objective is compared to, base the model before training. The curves "
        "show NLL whatever the objective is, so that they compare.",
        f"{SCORE} is the mean over questions by the decoding that counts, eval/stderr its standard error and "
        "eval/questions their number. A difference of less than two standard errors is none.",
        "A bar is the mean of its runs, which differ in backbone, benchmark and seed; the range is that of these runs "
        "and no confidence interval.",
    ]


def _left_out(sweep: Sweep) -> Iterator[str]:
    for kind, what in {"train": "trainings", "prior": "prior jobs", "evaluate": "evaluations"}.items():
        shown, there = _shown(sweep, kind, alone=True)
        if shown < there:
            yield (
                f"W&B shows no more than {MOST_RUNS:,} runs in a panel, and this sweep has {there:,} {what}: a panel "
                f"over all of them shows {shown:,}, which its title says, one over those of a region {MOST_RUNS:,} at "
                f"most. bll report {sweep.name} has all."
            )


def _by_region(sweep: Sweep) -> Iterator[Any]:
    import wandb_workspaces.reports.v2 as wr

    for region, name in reversed(REGIONS.items()):
        yield wr.H3(f"{region}: {name}")
        yield _grid(sweep, region, [panels.by_objective()], tags=[tag("region", region)])


def _grid(sweep: Sweep, name: str, shown: list[Panel], *, tags: Iterable[str] = ()) -> Any:
    """A grid of panels over the sweep's runs of their kind, two to a line; one alone has the line.

    tags: only runs with these, whose number is not known here.
    """
    import wandb_workspaces.reports.v2 as wr

    (kind,) = {one.kind for one in shown}
    tags = list(tags)
    there = (0, 0) if tags else _shown(sweep, kind, alone=True)
    runs = wr.Runset(
        name=name,
        filters=_filter(tag("sweep", sweep.name), *tags, kind=kind),
        run_settings={run: wr.RunSettings(color=colour) for run, colour in _coloured(sweep, kind).items()},
        pinned_columns=_columns(),
    )  # without a project it is the report's, and nothing has to be asked of the server
    runs._id = _id("report", sweep.name, name)  # else drawn at random
    width = 24 if len(shown) == 1 else 12
    placed = []
    for i, one in enumerate(shown):
        panel = _panel(one, there, sweep.name, "report", name)
        panel.layout = wr.Layout(x=width * i % 24, y=10 * (width * i // 24), w=width, h=10)
        placed.append(panel)
    return wr.PanelGrid(runsets=[runs], panels=placed)


# --- both -------------------------------------------------------------------------------------------------------------


def _shown(sweep: Sweep, kind: str, *, alone: bool = False) -> tuple[int, int]:
    """How many of the sweep's runs of the kind are among the MOST_RUNS that W&B shows, and how many there are.

    alone: the run set has no other kind; else kinds come in the order of the workspace.
    """
    there = Counter(run.partition("-")[0] for run in sweep.runs)
    mine = there[kind] if kind else there.total()
    before = sum(count for other, count in there.items() if other > kind) if kind and not alone else 0
    return max(0, min(mine, MOST_RUNS - before)), mine


def _panel(panel: Panel, runs: tuple[int, int], *where: str) -> Any:
    """runs: how many it can show, and of how many."""
    shown, there = runs
    told = f" ({shown:,} of {there:,} runs)" if shown < there else ""
    made = _as_wandb(dataclasses.replace(panel, title=panel.title + told))
    made._id = _id(*where, panel.title)  # else drawn at random
    return made


def _as_wandb(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as wr

    match panel:
        case Lines():
            return _of_whole_groups(wr.LinePlot)(
                title=panel.title,
                x=panel.x,
                y=list(panel.metrics),
                range_y=(None, panel.ceiling),
                max_runs_to_show=MOST_RUNS,
                groupby=wr.Config(panel.by) if panel.by else None,
                groupby_aggfunc="mean" if panel.by else None,
                groupby_rangefunc="minmax" if panel.by else None,
            )
        case Bars():
            return _of_whole_groups(wr.BarPlot)(
                title=panel.title,
                metrics=list(panel.metrics),
                range_x=(0.0, panel.ceiling),
                max_runs_to_show=MOST_RUNS,
                groupby=wr.Config(panel.by),
                groupby_aggfunc="mean",
                groupby_rangefunc="minmax",
            )
        case Scatter():
            x, y = (wr.SummaryMetric(name) for name in panel.metrics)
            return wr.ScatterPlot(title=panel.title, x=x, y=y)
        case Parallel():
            axes: list[Any] = [*map(wr.Config, panel.config), *map(wr.SummaryMetric, panel.metrics)]
            columns = [wr.ParallelCoordinatesPlotColumn(metric=axis) for axis in axes]
            return wr.ParallelCoordinatesPlot(title=panel.title, columns=columns)
        case Rows():
            return wr.WeavePanelSummaryTable(table_name=panel.metric)
        case Differences():
            return wr.RunComparer(diff_only="split")


@cache
def _of_whole_groups(plot: Any) -> Any:
    """The class of a plot whose groups are made of up to MOST_RUNS runs: `Sampled Runs` in the app, which the first
    version of the library's panels can tell (group_runs_limit) and this one cannot.
    """
    from wandb_workspaces.reports.v2 import internal

    class Whole(plot):
        def _to_model(self) -> Any:
            made = super()._to_model().model_dump(by_alias=True, exclude_none=True)
            if "groupBy" in made["config"]:
                made["config"]["groupRunsLimit"] = MOST_RUNS
            return internal.UnknownPanel.model_validate(made)  # sent as it is

    return Whole


def _filter(*tags: str, kind: str = "") -> Any:
    """Runs with all of the tags, of one kind of job."""
    from wandb_workspaces.expr import And, Metric, Tags

    kinds = [Metric("JobType") == kind] if kind else []
    return And(*(Tags().isin([name]) for name in tags), *kinds)


def _coloured(sweep: Sweep, kind: str = "") -> dict[str, str]:
    """The colour of each run that has an objective, by its id, which starts with its kind."""
    named = {run: name for run, name in sweep.runs.items() if name and run.startswith(kind)}
    return {run: sweep.colours[name] for run, name in named.items()} if sweep.colours else {}


def _columns() -> list[str]:
    return ["run:displayName", f"config:{_stored(OBJECTIVE)}", *(f"summary:{name}" for name in COLUMNS)]


def _stored(key: str) -> str:
    """A key of the configuration as W&B stores it: labels.objective -> labels.value.objective."""
    first, _, rest = key.partition(".")
    return f"{first}.value.{rest}"


def _id(*names: str) -> str:
    """Like those that the library draws: twelve small letters and digits."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


def _json(made: Workspace | Report) -> str:
    """What would be sent. _to_model is private: save(), which needs a server, is the only public way to it."""
    return made._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n"


# --- the server -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """wandb's errors as ours, in one line."""
    import wandb
    from wandb.apis.public.service_api import WandbApiFailedError

    try:
        yield
    except (wandb.errors.Error, WandbApiFailedError) as error:
        raise ConnectionError(f"W&B does not take the dashboards: {described(error)}") from None


def _reports(api: Api, target: Target) -> dict[str, str]:
    """Ids of the project's reports by title: a report is saved under a random name, so only its title tells it."""
    try:
        return {found.display_name: found.id for found in api.reports(target.path)}
    except ValueError as error:
        where = f"project={target.project!r} of entity={target.entity!r} is not on W&B"
        raise UsageError(f"{where}: `bll publish` sends runs there first ({error})") from None


def _view_id(api: Api, target: Target, name: str) -> str:
    """The id of the saved view of that name; '' if there is none. The library reads whole views only, and refuses
    those that a newer version of the app has changed.
    """
    from wandb_workspaces._graphql import execute_graphql

    query = """
        query DashboardView($entity: String, $project: String, $name: String) {
            project(name: $project, entityName: $entity) {
                allViews(viewType: "project-view", viewName: $name) { edges { node { id } } }
            }
        }
    """
    found = execute_graphql(api, query, {"entity": target.entity, "project": target.project, "name": name})
    edges = ((found.get("project") or {}).get("allViews") or {}).get("edges") or []
    return str(edges[0]["node"]["id"]) if edges else ""
