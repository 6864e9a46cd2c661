"""wandb's own terminal viewer on a sweep's runs, those on this disk: no account, no network.

The viewer reads one folder of runs; the runs of jobs lie beside each job. It is given a folder of links, to which runs
that start meanwhile are added.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from bll_sweeps.errors import StoreError, UsageError
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.layout import JobFiles, Layout
from bll_sweeps.tracking.content import title
from bll_sweeps.tracking.service import environment

EVERY_S = 5.0


def runs(layout: Layout, job_ids: Sequence[str]) -> dict[str, Path]:
    """wandb's folder of each job's last attempt that has one, by what the viewer is to call it."""
    out = {}
    for job_id in job_ids:
        files = layout.job(job_id)
        for attempt in reversed(files.attempts()):
            found = sorted(attempt.wandb.glob("wandb/*run-*"))
            if found:
                out[f"run-{_called(files)}"] = found[-1]  # the viewer lists what begins with run-
                break
    return out


def _called(files: JobFiles) -> str:
    try:
        return re.sub(r"[^\w.=-]+", "-", f"{title(read_spec(files))} {files.id[-4:]}")
    except StoreError:  # that job's own affair
        return files.id


def watch(layout: Layout, job_ids: Sequence[str]) -> int:
    """Opens the viewer and returns its exit status when it is left. UsageError without runs or a terminal."""
    if not sys.stdout.isatty():
        raise UsageError("`bll watch` needs a terminal; `bll status --json` and `bll results --csv` do not")
    if not runs(layout, job_ids):
        why = "none has started yet, it was launched with tracker=off, or it was pulled"
        raise UsageError(f"no job of it has a run of wandb's on this disk: {why}")
    with tempfile.TemporaryDirectory(prefix="bll-watch-") as folder, environment(Path(folder)):
        links = Path(folder) / "wandb"
        links.mkdir()
        link(layout, job_ids, links)
        left = threading.Event()

        def refresh() -> None:
            while not left.wait(EVERY_S):
                link(layout, job_ids, links)

        threading.Thread(target=refresh, name="links", daemon=True).start()
        command = [sys.executable, "-m", "wandb", "leet", str(links)]
        try:
            return subprocess.run(command, check=False).returncode
        finally:
            left.set()


def link(layout: Layout, job_ids: Sequence[str], folder: Path) -> None:
    """Links to the jobs' runs: those that are not there yet, and those of later attempts."""
    for name, run in runs(layout, job_ids).items():
        known = folder / name
        if known.is_symlink() and known.readlink() != run.absolute():
            known.unlink()
        if not known.is_symlink():
            known.symlink_to(run.absolute())
