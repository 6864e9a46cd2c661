"""`bll dashboard` on a stand-in server, and whether its panels show what jobs have logged there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tracked import SWEEP, call, record_of
from wandb_server import WandbServer

from bll_sweeps.cluster.status import read_manifest
from bll_sweeps.store.layout import Layout
from bll_sweeps.tracking import dashboard, names, panels

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_account")]


def test_a_saved_view_and_report_have_the_panels_and_are_replaced_the_next_time(
    store: Path, server: WandbServer
) -> None:
    missing = call(store, "dashboard", env=server.environment())
    assert missing.returncode == 2 and "bll publish" in missing.stderr
    assert call(store, "publish", env=server.environment()).returncode == 0
    for _ in range(2):
        done = call(store, "dashboard", env=server.environment())
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(done.stdout.splitlines()) == 2
    kinds = {view["type"]: view for view in server.views.values()}
    assert len(server.views) == 2 and set(kinds) == {"project-view", "runs"}
    assert call(store, "dashboard", "--dry-run").returncode == 0
    folder = Layout(store).dashboard("smoke")
    wanted = titles(json.loads(folder.workspace.read_text())["spec"])
    assert titles(json.loads(kinds["project-view"]["spec"])) == wanted
    assert {"NLL (nats)", "mean p", "score against prior strength"} <= wanted
    assert titles(json.loads(kinds["runs"]["spec"])) == titles(json.loads(folder.report.read_text())["spec"]) != set()
    assert call(store, "launch", *SWEEP, "objective=nll", "recipe.steps=10", "hydra.sweeper.name=fresh").returncode == 0
    missing = call(store, "dashboard", "fresh", env=server.environment())
    assert missing.returncode == 2 and "`bll publish fresh`" in missing.stderr


def titles(spec: Any) -> set[str]:
    """All panels' titles in a view."""
    if isinstance(spec, dict):
        own = (
            {spec["config"].get("chartTitle") or spec["config"].get("plotTitle")}
            if "viewType" in spec and isinstance(spec.get("config"), dict)
            else set()
        )
        return own.union(*map(titles, spec.values())) - {None}
    return set().union(*map(titles, spec)) if isinstance(spec, list) else set()


def test_every_panel_shows_a_metric_that_a_job_has_logged(store: Path, server: WandbServer) -> None:
    assert call(store, "publish", env=server.environment()).returncode == 0
    logged = {key for run in server.runs.values() for row in run.rows() for key in row}
    logged |= {key for run in server.runs.values() for key in run.summary()}
    sweep = dashboard.sweep_of(read_manifest(Layout(store), "smoke"), {})
    shown = panels.metrics_of(panel for section in panels.sections(sweep).values() for panel in section)
    ours = {name for name in shown if not name.startswith("system/")}  # what wandb samples: tests/test_dashboard.py
    ours -= {names.curve("mfu")}  # which is of a GPU: tests/test_training_log.py
    assert len(ours) > 15
    assert ours - logged == set()
    assert set(panels.COLUMNS) <= logged
    shown_panels = [panel for section in panels.sections(sweep).values() for panel in section]
    configured = {panel.by for panel in shown_panels if isinstance(panel, (panels.Lines, panels.Bars)) and panel.by}
    configured |= {key for panel in shown_panels if isinstance(panel, panels.Parallel) for key in panel.config}
    assert len(configured) > 1
    evaluation = server.run(record_of(store, "evaluate").job.id).values()
    for key in configured:
        first, _, rest = key.partition(".")
        assert rest in evaluation[first], key
