"""`bll watch`: wandb's own terminal viewer, in a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from tracked import ROOT, call, records

from bll_sweeps.store.layout import Layout
from bll_sweeps.tracking import watch

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_account")]


def test_the_viewer_shows_the_last_run_of_each_job_and_leaves_nothing_behind(finished: Path) -> None:
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "bll_sweeps.cli", "watch"],
        env=os.environ | {"BLL_RUNS": str(finished), "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"},
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    deadline = time.monotonic() + 60
    while b"1-7 of 7" not in shown and b"7 items" not in shown:
        assert process.poll() is None and time.monotonic() < deadline, shown[-2000:]
        if select.select([controller], [], [], 0.2)[0]:
            shown += os.read(controller, 65536)
    os.write(controller, b"q")
    while process.poll() is None and time.monotonic() < deadline:
        if select.select([controller], [], [], 0.2)[0]:
            with contextlib.suppress(OSError):
                os.read(controller, 65536)
    assert process.returncode == 0
    os.close(controller)


def test_the_viewer_needs_a_terminal_and_runs(finished: Path) -> None:
    done = call(finished, "watch")
    assert done.returncode == 2 and "needs a terminal" in done.stderr


def test_runs_that_start_meanwhile_are_linked_too(store: Path, tmp_path: Path) -> None:
    jobs = [record.job.id for record in records(store)]
    folder = tmp_path / "links"
    folder.mkdir()
    watch.link(Layout(store), jobs[:3], folder)
    first = {path.name: path.readlink() for path in folder.iterdir()}
    watch.link(Layout(store), jobs, folder)
    links = {path.name: path.readlink() for path in folder.iterdir()}
    assert len(first) == 3 and len(links) == 7 and first.items() <= links.items()
    assert all(list(target.glob("*.wandb")) for target in links.values())
