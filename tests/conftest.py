"""Shared fixtures: the command line as a user calls it, in a process of its own and with a run root of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from wandb_server import WandbServer

sys.path.insert(0, str(Path(__file__).parent))  # helper modules of the tests, under --import-mode=importlib

os.environ.setdefault("OMP_NUM_THREADS", "1")
# How fast a machine is, and what else it does, is no property of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
Bll = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's own W&B reaches the test."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def bll(tmp_path: Path) -> Bll:
    """`bll("plan", "sweep=lab")` -> CompletedProcess with stdout and stderr; run root and working directory in
    tmp_path.
    """

    def call(*args: str, env: dict[str, str] | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"BLL_RUNS": str(tmp_path / "runs"), "COLUMNS": "200"} | (env or {})
        return subprocess.run(
            [sys.executable, "-m", "bll_sweeps.cli", *args],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return call


# --- the way to W&B and back (tracked.py) -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run root of a small sweep that was tracked offline."""
    import tracked

    root = tmp_path_factory.mktemp("finished") / "runs"
    out = tracked.call(root, "launch", *tracked.SWEEP)
    assert out.returncode == 0, out.stdout + out.stderr
    logs = [path.read_text() for path in root.rglob("log.txt")]
    assert len(logs) == 7 and not [log for log in logs if "W&B" in log]  # the mirror of none had anything to warn of
    return root


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    shutil.copytree(finished, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


@pytest.fixture
def server() -> Iterator[WandbServer]:
    """A stand-in for a W&B server."""
    from wandb_server import WandbServer

    with WandbServer() as running:
        yield running
        assert running.unknown == []
