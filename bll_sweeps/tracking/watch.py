"""wandb's own terminal viewer on a sweep's runs, those on this disk: no account, no network.

The viewer reads one folder of runs; the runs of jobs lie beside each job. It is given a folder of links, to which runs
that start meanwhile are added.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from bll_sweeps.errors import UsageError
from bll_sweeps.store.layout import Layout
from bll_sweeps.tracking.session import environment

EVERY_S = 5.0


def run_folders(layout: Layout, job_ids: Sequence[str]) -> list[Path]:
    """wandb's folder of each job's last attempt that has one."""
    out = []
    for job_id in job_ids:
        for attempt in reversed(layout.job(job_id).attempts()):
            found = sorted(attempt.wandb.glob("wandb/*run-*"))
            if found:
                out.append(found[-1])
                break
    return out


def watch(layout: Layout, job_ids: Sequence[str]) -> int:
    """Opens the viewer and returns its exit status when it is left. UsageError without runs or a terminal."""
    if not sys.stdout.isatty():
        raise UsageError("`bll watch` needs a terminal; `bll status --json` and `bll results --csv` do not")
    if not run_folders(layout, job_ids):
        why = "none has started yet, it was launched with tracker=off, or it was pulled"
        raise UsageError(f"no job of it has a run of wandb's on this disk: {why}")
    with tempfile.TemporaryDirectory(prefix="bll-watch-") as folder, environment(Path(folder)):
        runs = Path(folder) / "wandb"
        runs.mkdir()
        link(layout, job_ids, runs)
        left = threading.Event()

        def refresh() -> None:
            while not left.wait(EVERY_S):
                link(layout, job_ids, runs)

        threading.Thread(target=refresh, name="links", daemon=True).start()
        command = [sys.executable, "-m", "wandb", "leet", str(runs)]
        try:
            return subprocess.run(command, check=False).returncode
        finally:
            left.set()


def link(layout: Layout, job_ids: Sequence[str], folder: Path) -> None:
    """Links to the jobs' runs, those that are not there yet."""
    for run in run_folders(layout, job_ids):
        if not (folder / run.name).is_symlink():
            (folder / run.name).symlink_to(run.absolute())
