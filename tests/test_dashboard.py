"""W&B dashboards as code: what they show, the same bytes every time, no server and no key for a dry run.

The golden files are written anew by

    BLL_GOLDEN=write python -m pytest tests/test_dashboard.py -k golden

and are to be read in the diff: they are what W&B gets.
"""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from analysis_store import StoreBuilder, lab_cells

from bll_sweeps import cli
from bll_sweeps.cluster.status import read_manifest
from bll_sweeps.store.layout import DashboardFiles, Layout
from bll_sweeps.store.metrics import CURVES, TIMING, TRAINING
from bll_sweeps.store.records import read_record
from bll_sweeps.tracking import dashboard, names, panels
from bll_sweeps.tracking.server import Target

pytestmark = pytest.mark.usefixtures("no_account")
ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).parent / "golden"
OBJECTIVES, POINTS = ("base", "nll", "p"), (("lab-a", "spell"), ("lab-b", "rot"))
COLOURS = {"base": "#8c8c8c", "nll": "#000000", "p": "#0072b2"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    builder = StoreBuilder(tmp_path_factory.mktemp("runs"), distribution="histogram")
    cells = lab_cells(OBJECTIVES, POINTS)
    for one, _ in cells:
        builder.finish(one)
    builder.launch(cells)
    return Layout(builder.root)


@pytest.fixture(scope="module")
def sweep(store: Layout) -> panels.Sweep:
    return dashboard.sweep_of(read_manifest(store, "lab"), COLOURS)


@pytest.fixture(scope="module")
def shown(sweep: panels.Sweep) -> list[panels.Panel]:
    return [panel for section in panels.sections(sweep).values() for panel in section]


def written(folder: Path, sweep: panels.Sweep) -> dict[str, bytes]:
    files = DashboardFiles(folder)
    dashboard.write(files, sweep, Target("project", "group"))
    return {"workspace": files.workspace.read_bytes(), "report": files.report.read_bytes()}


def run_sets(value: Any) -> Iterator[dict[str, Any]]:
    """Of a workspace or a report, wherever they are."""
    if isinstance(value, dict):
        yield from value.get("runSets", [])
        value = list(value.values())
    for inner in value if isinstance(value, list) else []:
        yield from run_sets(inner)


def panel_ids(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from [value["__id__"]] if "__id__" in value else []
        value = list(value.values())
    for inner in value if isinstance(value, list) else []:
        yield from panel_ids(inner)


# --- what is sent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["workspace", "report"])
def test_golden_json(which: str, sweep: panels.Sweep, tmp_path: Path) -> None:
    golden = GOLDEN / f"dashboard_{which}.json"
    made = written(tmp_path, sweep)[which]
    if os.environ.get("BLL_GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_bytes(made)
    assert json.loads(made) == json.loads(golden.read_text())


def test_the_same_sweep_gives_the_same_bytes_in_any_process(sweep: panels.Sweep, tmp_path: Path) -> None:
    code = """
import json, sys
from pathlib import Path
from bll_sweeps.store.layout import DashboardFiles
from bll_sweeps.tracking import dashboard, panels
from bll_sweeps.tracking.server import Target
sweep = panels.Sweep(*json.loads(sys.argv[2]))
dashboard.write(DashboardFiles(Path(sys.argv[1])), sweep, Target("project", "group"))
"""
    there = tmp_path / "there"
    values = json.dumps((sweep.name, dict(sweep.benchmarks), dict(sweep.runs), dict(sweep.colours)))
    subprocess.run(
        [sys.executable, "-c", code, str(there), values], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    here = written(tmp_path / "here", sweep)
    assert {file.stem: file.read_bytes() for file in there.iterdir()} == here


def test_ids_are_told_apart(sweep: panels.Sweep, tmp_path: Path) -> None:
    for made in map(json.loads, written(tmp_path, sweep).values()):
        ids = [*panel_ids(made), *(runs["id"] for runs in run_sets(made))]
        assert len(ids) > 20
        assert len(set(ids)) == len(ids)
        assert all(re.fullmatch("[a-z0-9]{12}", found) for found in ids)


def test_every_run_set_is_of_the_sweep(sweep: panels.Sweep, tmp_path: Path) -> None:
    for made in map(json.loads, written(tmp_path, sweep).values()):
        found = list(run_sets(made))
        assert found
        for runs in found:
            tags = [one["value"] for one in runs["filters"]["filters"] if one["key"]["name"] == "tags"]
            assert ["sweep:lab"] in tags
            assert all(one.get("connector", "AND") == "AND" for one in runs["filters"]["filters"])


def test_the_scatter_of_the_continuum_has_a_point_per_evaluation(sweep: panels.Sweep, tmp_path: Path) -> None:
    """Runs that are grouped would be one point per objective; so the panels are grouped and the runs are coloured."""
    view = json.loads(written(tmp_path, sweep)["workspace"])["spec"]["section"]
    assert view["runSets"][0]["grouping"] == []
    lines = [p for s in view["panelBankConfig"]["sections"] for p in s["panels"] if "train/nll" in str(p["config"])]
    assert {panel["config"]["groupBy"] for panel in lines} == {"labels.value.objective"}
    kinds = {run.partition("-")[0] for run in view["customRunColors"]}
    assert kinds == {"train", "evaluate"}
    assert set(view["customRunColors"].values()) == set(COLOURS.values())


def test_a_long_name_of_a_sweep_is_cut_as_the_tag_of_its_runs_is(sweep: panels.Sweep, tmp_path: Path) -> None:
    long = panels.Sweep("s" * 100, sweep.benchmarks)
    for runs in run_sets(json.loads(written(tmp_path, long)["report"])):
        assert runs["filters"]["filters"][0]["value"] == ["sweep:" + "s" * 58]


def drawn(value: Any) -> Iterator[dict[str, Any]]:
    """All panels, wherever they are."""
    if isinstance(value, dict):
        yield from [value["config"]] if "viewType" in value and "config" in value else []
        value = list(value.values())
    for inner in value if isinstance(value, list) else []:
        yield from drawn(inner)


def sweep_with(**jobs: int) -> panels.Sweep:
    """So many jobs of each kind."""
    runs = {f"{kind}-{i:016x}": "" if kind == "prior" else "nll" for kind, n in jobs.items() for i in range(n)}
    return panels.Sweep("full", {"math500": "sampled", "medqa": "sampled"}, runs, COLOURS)


def test_a_panel_has_room_for_the_runs_of_the_full_grid_and_its_groups_for_all_of_them(tmp_path: Path) -> None:
    made = written(tmp_path, sweep_with(train=189, prior=21, evaluate=700))
    for which in map(json.loads, made.values()):
        limited = [panel for panel in drawn(which) if "limit" in panel]
        assert len(limited) > 10
        assert {panel["limit"] for panel in limited} == {1000}  # what W&B shows at all
        grouped = [panel for panel in drawn(which) if panel.get("groupBy")]
        assert len(grouped) > 10
        assert {panel["groupRunsLimit"] for panel in grouped} == {1000}  # by itself W&B takes 100
    assert b" runs)" not in made["workspace"] + made["report"]
    assert b"no more than" not in made["report"]
    assert json.loads(made["workspace"])["spec"]["section"]["settings"]["maxRuns"] == 1000


def test_a_panel_that_lacks_runs_of_a_large_sweep_says_so(tmp_path: Path) -> None:
    made = {
        which: json.loads(text)
        for which, text in written(tmp_path, sweep_with(train=189, prior=21, evaluate=1008)).items()
    }
    titles = {
        which: {panel["chartTitle"] for panel in drawn(spec) if "chartTitle" in panel} for which, spec in made.items()
    }
    # Of the workspace's one run set the first 1,000 are 189 trainings, 21 prior jobs and then evaluations.
    assert "score by objective (790 of 1,008 runs)" in titles["workspace"]
    assert "math500: mean score (790 of 1,008 runs)" in titles["workspace"]
    assert "CPU of the process (%) (1,000 of 1,218 runs)" in titles["workspace"]
    assert {"NLL (nats)", "p under the base model, clean answers"} <= titles["workspace"]
    # The report's grids have run sets by kind.
    assert "math500: mean score (1,000 of 1,008 runs)" in titles["report"]
    assert {"NLL (nats)", "p under the base model, clean answers", "score by objective"} <= titles["report"]
    assert "this sweep has 1,008 evaluations" in json.dumps(made["report"])


def test_a_panel_keeps_its_id_when_the_sweep_grows(tmp_path: Path) -> None:
    small, large = (written(tmp_path, sweep_with(evaluate=n))["workspace"] for n in (10, 3000))
    assert [*panel_ids(json.loads(small))] == [*panel_ids(json.loads(large))]


# --- what is shown ----------------------------------------------------------------------------------------------------


def logged(store: Layout, sweep: panels.Sweep) -> set[str]:
    """What the jobs of the store log, by the names that the tracker gives it."""
    known = {names.curve(key) for key in (*TRAINING, *TIMING, *names.AXES)}
    known |= {names.SCORE, names.PRIOR_STRENGTH, *names.HISTOGRAMS.values(), *map(names.table, sweep.benchmarks)}
    for folder in store.jobs.iterdir():
        record = read_record(store.job(folder.name))
        assert record is not None
        if folder.name.startswith("prior-"):
            known |= set(names.flat(record.result, "prior/"))
        if folder.name.startswith("evaluate-"):
            known |= set(names.flat(record.result["metrics"], f"{record.result['benchmark']}/"))
    return known


def test_every_panel_shows_what_jobs_log(store: Layout, sweep: panels.Sweep, shown: list[panels.Panel]) -> None:
    found = {metric for metric in panels.metrics_of(shown) if not metric.startswith("system/")}
    assert len(found) > 20
    assert found - logged(store, sweep) == set()


def test_every_curve_is_shown_those_of_the_figures_first(shown: list[panels.Panel]) -> None:
    found = [metric for panel in shown if isinstance(panel, panels.Lines) for metric in panel.metrics]
    assert [metric for metric in found if metric.startswith("train/")][: len(CURVES)] == [*map(names.curve, CURVES)]
    assert {names.curve(key) for key in (*TRAINING, *TIMING)} <= set(found)


def test_system_metrics_are_those_that_wandb_samples(shown: list[panels.Panel], tmp_path: Path) -> None:
    code = """
import time, wandb
run = wandb.init(project="test", settings=wandb.Settings(mode="offline", silent=True, x_stats_sampling_interval=0.1))
time.sleep(1.5)
run.finish()
"""
    environment = os.environ | {"WANDB_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(inspect, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()
    sampled = {f"system/{key}" for line in map(json.loads, lines) for key in line.get("stats", {}).get("item", {})}
    shown_here = {metric for metric in panels.metrics_of(shown) if metric.startswith("system/")}
    assert len(shown_here) > 10
    assert {metric for metric in shown_here if not metric.startswith("system/gpu.")} <= sampled


def test_every_benchmark_has_its_scores_and_answers(sweep: panels.Sweep, tmp_path: Path) -> None:
    assert sweep.benchmarks == {"spell": "sampled", "rot": "sampled"}
    made = written(tmp_path, sweep)
    sections = json.loads(made["workspace"])["spec"]["section"]["panelBankConfig"]["sections"]
    (scores,) = [section for section in sections if section["name"] == "Benchmark scores"]
    bars = [panel["config"]["metrics"] for panel in scores["panels"] if panel["viewType"] == "Bar Chart"]
    assert bars == [["spell/sampled/mean"], ["rot/sampled/mean"]]
    tables = [panel for panel in scores["panels"] if panel["viewType"] == "Weave"]
    assert [name for name in ("spell/answers", "rot/answers") if name in json.dumps(tables)] == [
        "spell/answers",
        "rot/answers",
    ]
    assert b"spell/sampled/mean" in made["report"] and b"rot/sampled/mean" in made["report"]


def test_the_report_says_how_regions_are_told(sweep: panels.Sweep, tmp_path: Path) -> None:
    text = written(tmp_path, sweep)["report"].decode()
    for said in ("prior strength of 0.7 or more", "0.3 or less", "baseline", "standard error", "bll report lab"):
        assert said in text
    named = {runs["name"]: runs["filters"]["filters"] for runs in run_sets(json.loads(text))}
    regions = [named[region][1]["value"] for region in ("MS", "MI", "MW")]
    assert regions == [["region:MS"], ["region:MI"], ["region:MW"]]


# --- the command ------------------------------------------------------------------------------------------------------


def bll(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["dashboard", *arguments])
    return int(ended.value.code or 0)


def test_a_dry_run_needs_no_server_and_no_key(
    store: Layout, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a dry run has nothing to say to anybody")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)  # wandb-core, which does the talking
    assert bll("lab", "--dry-run", "--project", "mine", "--root", str(store.root)) == 0
    files = store.dashboard("lab")
    assert capsys.readouterr().out.split() == [str(files.workspace), str(files.report)]
    made = json.loads(files.workspace.read_text())
    assert (made["project"], made["displayName"]) == ("mine", "lab")
    assert set(made["spec"]["section"]["customRunColors"].values()) == {"#8c8c8c", "#000000", "#0072B2"}
    assert json.loads(files.report.read_text())["project"] == {"name": "mine", "entityName": ""}


def test_the_report_has_the_gains_in_numbers(store: Layout) -> None:
    assert bll("lab", "--dry-run", "--root", str(store.root)) == 0
    blocks = json.loads(store.dashboard("lab").report.read_text())["spec"]["blocks"]
    (told,) = [block["content"] for block in blocks if block["type"] == "markdown-block"]
    assert "| lab-a · spell | spell |  | p | sampled | " in told and "greedy" not in told.partition("Gain over NLL:")[0]
    assert "| p | primary |  | pooled | none: " in told


def test_an_unknown_sweep_is_answered_with_the_choices(store: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    assert bll("labb", "--dry-run", "--root", str(store.root)) == 2
    assert "sweep='labb' is unknown; did you mean 'lab'? (choose from lab)" in capsys.readouterr().err


def test_without_a_key_it_says_how_to_give_one_and_does_not_ask(store: Layout) -> None:
    master, slave = pty.openpty()  # a terminal, where wandb would ask
    command = [sys.executable, "-m", "bll_sweeps.cli", "dashboard", "lab", "--root", str(store.root)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
    try:
        done = subprocess.run(command, stdin=slave, stdout=slave, stderr=slave, timeout=60, env=environment)
        said = os.read(master, 10_000).decode()
    finally:
        os.close(slave)
        os.close(master)
    assert done.returncode == 2
    assert "`wandb login`" in said and "WANDB_API_KEY" in said


def test_a_key_that_cannot_be_used_is_not_printed(store: Layout) -> None:
    command = [sys.executable, "-m", "bll_sweeps.cli", "dashboard", "lab", "--root", str(store.root)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_API_KEY": "tooshort"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 2
    assert "cannot be used" in done.stderr and "`wandb login`" in done.stderr and done.stderr.count("\n") == 1
    assert "tooshort" not in done.stdout + done.stderr
