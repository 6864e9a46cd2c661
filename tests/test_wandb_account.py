"""The round trip with a real server: BLL_TEST_WANDB_PROJECT=ENTITY/PROJECT, and a key."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from tracked import SWEEP, call

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_account")]


@pytest.mark.skipif("BLL_TEST_WANDB_PROJECT" not in os.environ, reason="needs an account: BLL_TEST_WANDB_PROJECT")
def test_the_round_trip_with_a_real_server(finished: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {key: value for key, value in REAL.items() if value}
    entity, _, project = given["BLL_TEST_WANDB_PROJECT"].rpartition("/")
    where = ["--entity", entity, "--project", project]
    done = call(finished, "publish", *where, env=given)
    assert done.returncode == 0, done.stdout + done.stderr
    live = tmp_path / "live" / "runs"
    shutil.copytree(finished, live, symlinks=True)
    steps = f"recipe.steps={600 + int(time.time()) % 100_000 // 10}"  # a training that is not there yet
    online = ["tracker=online", f"tracker.entity={entity}", f"tracker.project={project}"]
    done = call(live, "launch", *SWEEP, "objective=nll", steps, "hydra.sweeper.name=live", *online, env=given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bll publish" not in "".join(path.read_text() for path in live.rglob("log.txt"))  # it had nothing to warn of
    done = call(finished, "dashboard", *where, env=given)
    assert done.returncode == 0 and done.stdout.count("https://") == 2, done.stdout + done.stderr
    done = call(tmp_path / "other", "pull", f"{entity}/{project}", "--sweep", "smoke", env=given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert call(tmp_path / "other", "results", "smoke").stdout == call(finished, "results", "smoke").stdout


# What reaches a real server from here; a test itself sees none of it (no_account).
REAL = {name: os.environ.get(name, "") for name in ("BLL_TEST_WANDB_PROJECT", "WANDB_API_KEY", "WANDB_BASE_URL")}
REAL |= {"HOME": str(Path.home()), "NETRC": os.environ.get("NETRC", str(Path.home() / ".netrc"))}
